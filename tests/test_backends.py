"""The readable reference, BLAS, beside bpcore's own products: the same numbers, and each keeps its promises of bits."""

import numpy as np
import pytest

import bpcore as bp
from bpcore import _core


@pytest.fixture
def backend():
    yield lambda name, parallel=False: _core.force(parallel, "", name)
    _core.force(False, "", "")


def make(dtype, widths=(37, 53, 300, 5)):
    hidden = [bp.Dense(n, "tanh") for n in widths[1:-1]]
    return bp.Network([bp.Input(widths[0]), *hidden, bp.Dense(widths[-1], "softmax")], dtype=dtype, seed=3)


def data(rows, widths=(37, 5)):
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, widths[0])), rng.integers(0, widths[1], rows)


@pytest.mark.parametrize("rows", [1, 2, 31, 65, 700])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 3e-6)])
def test_backends_agree(backend, rows, dtype, tolerance):
    X, y = data(rows)
    found = []
    for name in ("blas", "native"):
        backend(name)
        net = make(dtype)
        tape = net.forward(X)
        grads = net.backward(tape, y)
        net.fit(X, y, optimizer=bp.SGD(lr=0.1, momentum=0.9), batch_size=min(rows, 32), epochs=2)
        found.append([tape.z[2], grads.x, grads.theta, net.theta])
    for blas, native in zip(*found, strict=True):
        assert np.abs(blas - native).max() <= 20 * tolerance * np.abs(blas).max()


@pytest.mark.parametrize("name", ["blas", "native"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads_or_batch(backend, name, dtype):
    backend(name, parallel=True)
    X, y = data(700)
    outcomes = []
    for n_threads in (1, 2, 3, 4, 7):
        net = make(dtype)
        net.fit(X, y, batch_size=100, epochs=2, n_threads=n_threads)
        outcomes.append((net.theta.tobytes(), net.predict(X, n_threads=n_threads).tobytes()))
    assert len(set(outcomes)) == 1
    whole = net.predict(X)
    for rows in (slice(5, 6), slice(3, 40), slice(None, None, -3)):
        assert np.array_equal(net.predict(X[rows]), whole[rows])


@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 17, 2), (129, 1, 130), (700, 65, 700, 3), (260, 49, 16)])
def test_products_of_any_width(backend, widths):
    X, y = data(67, (widths[0], widths[-1]))
    grads = []
    for name in ("blas", "native"):
        backend(name)
        net = make("float64", widths)
        grads.append(net.backward(net.forward(X), y))
    for part in ("theta", "x"):
        blas, native = (getattr(g, part) for g in grads)
        assert np.abs(blas - native).max() <= 1e-12 * max(np.abs(blas).max(), 1e-9)
