"""net.predictor(): predict's bits, a snapshot, any number of threads, one row or many."""

import array
import gc
import os
import threading

import numpy as np
import pytest

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(7)


def make(sizes=(5, 40, 3), inner="tanh", last="softmax", dtype="float32", seed=1):
    layers = [bp.Input(sizes[0]), *(bp.Dense(n, inner) for n in sizes[1:-1]), bp.Dense(sizes[-1], last)]
    return bp.Network(layers, dtype=dtype, seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(1, 1), (4, 16, 3), (5, 40, 3), (100, 256, 256, 2), (300, 131, 10), (33, 700, 17)])
@pytest.mark.parametrize("inner", ["relu", "gelu", "logistic"])
def test_a_row_and_a_batch_have_the_bits_of_predict(sizes, inner, dtype):
    net = make(sizes, inner, "logistic" if sizes[-1] == 1 else "softmax", dtype)
    X = RNG.standard_normal((150, sizes[0])).astype(dtype)
    wanted = net.predict(X)
    for n_threads in (1, 2, 3, 4, 7):
        answer = net.predictor(n_threads=n_threads)
        for rows in (1, 2, 31, 32, 33, 150):
            assert answer(X[:rows]).tobytes() == wanted[:rows].tobytes()
    for x, a in zip(X, wanted, strict=True):
        found = answer(x)
        assert found.shape == (sizes[-1],) and found.dtype == dtype and found.tobytes() == a.tobytes()


def test_threads_share_the_rows():
    net, X = make(), RNG.standard_normal((3000, 5))
    _core.force(True, "")
    try:
        assert net.predictor(n_threads=3)(X).tobytes() == net.predict(X).tobytes()
    finally:
        _core.force(False, "")


def test_it_is_a_snapshot():
    net = make()
    x = RNG.standard_normal(5)
    answer = net.predictor()
    before = answer(x)
    net.theta[:] += 1
    net.fit(RNG.standard_normal((20, 5)), np.arange(20) % 3)
    assert answer(x).tobytes() == before.tobytes() != net.predict(x[None])[0].tobytes()
    del net
    gc.collect()
    assert answer(x).tobytes() == before.tobytes()


@pytest.mark.parametrize(
    "x",
    [
        [1, 2, 3, 4, 5],
        (1.0, 2.0, 3.0, 4.0, 5.0),
        array.array("d", [1, 2, 3, 4, 5]),
        memoryview(array.array("f", [1, 2, 3, 4, 5])),
        np.arange(1, 6),
        np.arange(1, 6, dtype="u1"),
        np.arange(1, 6, dtype=">f8"),
        np.arange(1, 6, dtype="f2"),
        np.arange(1, 6, dtype=np.longdouble),
        np.arange(5, 0, -1.0)[::-1],
        np.repeat(np.arange(1, 6), 3)[::3],
        np.broadcast_to(np.arange(1.0, 6), (5,)),
    ],
    ids=str,
)
def test_rows_of_every_kind(x):
    net = make()
    wanted = net.predict([[1, 2, 3, 4, 5]])
    answer = net.predictor()
    assert answer(x).tobytes() == wanted[0].tobytes()
    assert answer(np.array([x, x])).tobytes() == np.vstack([wanted, wanted]).tobytes()
    assert answer(np.asfortranarray(np.array([x, x]))).tobytes() == np.vstack([wanted, wanted]).tobytes()


def test_out():
    net = make()
    answer, X = net.predictor(), RNG.standard_normal((70, 5)).astype("f4")
    wanted = net.predict(X)
    one, many = np.empty(3, "f4"), np.empty((70, 3), "f4")
    assert answer(X[0], one) is one and one.tobytes() == wanted[0].tobytes()
    assert answer(X, out=many) is many and many.tobytes() == wanted.tobytes()
    square = make((4, 4), last="identity")
    a = RNG.standard_normal(4).astype("f4")
    b = square.predictor()(a)
    assert square.predictor()(a, a) is a and a.tobytes() == b.tobytes()  # a row is read before it is written
    both = np.zeros((9, 5), "f4")
    locked = np.empty(3, "f4")
    locked.flags.writeable = False
    bad = [np.empty(3), np.empty((1, 3), "f4"), np.empty(4, "f4"), np.empty(6, "f4")[::2], np.empty(3, ">f4"), [0]]
    for out in (*bad, locked, np.ma.masked_array(np.empty(3, "f4"))):
        with pytest.raises(ValueError, match="^out: expected a writeable, C-contiguous array of float32"):
            answer(X[0], out=out)
    for out in (np.empty((70, 3)), np.empty((69, 3), "f4"), both[:, :3]):
        with pytest.raises(ValueError, match=r"^out: .*\(70, 3\)"):
            answer(X, out=out)
    with pytest.raises(ValueError, match="shares no memory with x"):
        square.predictor()(both[:, :4], out=both[:, :4])
    overlapping = np.zeros(40, "f4")
    with pytest.raises(ValueError, match="shares no memory with x"):
        square.predictor()(overlapping[:20].reshape(5, 4), out=overlapping[8:28].reshape(5, 4))


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.zeros(4), ValueError, r"x: expected shape \(5,\) or \(n, 5\) with n > 0, got \(4,\)"),
        (np.zeros((2, 4)), ValueError, r"got \(2, 4\)"),
        (np.zeros((0, 5)), ValueError, r"got \(0, 5\)"),
        (np.zeros((1, 1, 5)), ValueError, r"got \(1, 1, 5\)"),
        (np.float64(3), ValueError, r"got \(\)"),
        (np.zeros(5, complex), TypeError, "x: expected real numbers, got dtype complex128"),
        (np.zeros(5, object), TypeError, "got dtype object"),
        (["a"] * 5, TypeError, "got dtype <U1"),
        ([[1, 2], [3]], ValueError, "x: expected an array of numbers, got list"),
        (None, TypeError, "got dtype object"),
        (np.ma.masked_array(np.zeros(5)), TypeError, "x: masked arrays are not supported"),
    ],
)
def test_refusals(x, error, message):
    with pytest.raises(error, match=message):
        make().predictor()(x)


def test_nothing_is_scanned():
    answer = make(last="identity").predictor()
    assert np.isnan(answer([np.nan, 0, 0, 0, 0])).all()
    assert np.isfinite(answer([np.inf, 0, 0, 0, 0])).all()  # tanh(inf) = 1


@pytest.mark.parametrize("rows", [1, 2000])
def test_many_threads_at_once(rows):
    net = make((50, 300, 10))
    X = RNG.standard_normal((rows, 50)).astype("f4")
    answer, wanted, wrong = net.predictor(n_threads=2), net.predict(X).tobytes(), []

    def ask():
        for _ in range(300 // rows + 20):
            if answer(X).tobytes() != wanted:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_functions_of_the_users():
    f = bp.Activation(lambda z: np.sin(z), lambda z: np.cos(z))
    net = bp.Network([bp.Input(5), bp.Dense(7, f), bp.Dense(2)], seed=3)
    X = RNG.standard_normal((40, 5)).astype("f4")
    answer, wanted = net.predictor(), net.predict(X)
    net.theta[:] = 0
    assert answer(X).tobytes() == wanted.tobytes() and answer(X[3]).tobytes() == wanted[3].tobytes()
    out = np.empty(2, "f4")
    assert answer(X[0], out) is out and out.tobytes() == wanted[0].tobytes()

    def fail(z):
        raise KeyError("mine")

    assert np.isnan(bp.Network([bp.Input(1), bp.Dense(1, f)]).predictor()([np.nan])).all()  # not scanned, as others
    broken = bp.Network([bp.Input(5), bp.Dense(7, bp.Activation(fail, fail)), bp.Dense(2)]).predictor()
    with pytest.raises(KeyError, match="mine"):
        broken(X[0])


def test_while_fitting():
    net, said = make(), []

    def ask(state):
        thread = threading.Thread(target=lambda: said.append(pytest.raises(RuntimeError, net.predictor)))
        thread.start()
        thread.join()

    net.fit(RNG.standard_normal((20, 5)), np.arange(20) % 3, callbacks=[ask])
    assert "being fitted in another thread" in str(said[0].value)


def test_after_a_fork():
    answer = make().predictor(n_threads=2)
    X = RNG.standard_normal((5000, 5))
    wanted = answer(X).tobytes()
    child = os.fork()
    if not child:
        os._exit(answer(X).tobytes() != wanted)
    assert os.waitpid(child, 0)[1] == 0


def test_it_says_what_it_is():
    answer = make().predictor()
    assert repr(answer) == "<Predictor of 5 inputs and 3 outputs, float32>"
    assert (answer.n_inputs, answer.n_outputs) == (5, 3)
    with pytest.raises(AttributeError):
        answer.n_inputs = 6
