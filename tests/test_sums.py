"""Sums of many numbers: float32 against float64, and the same bits on any number of threads.

Of equal signs: a sum is right to 1e-6, the gradient of a parameter to 1e-5.  One chain of additions is off by 1e-2 at a
million numbers, and by 7.6e-6 at the 512 that a gradient may have (3,000 draws, `cumsum` of one number).
"""

import math

import numpy as np
import pytest
from conftest import distance

import bpcore as bp

SUM, GRADIENT = 1e-6, 1e-5
THREADS = (1, 2, 3)
MILLION = 1_000_000


def positive(*shape):
    """Draws between 0.05 and 0.15, in float32."""
    return np.random.default_rng(shape).uniform(0.05, 0.15, shape).astype("f4")


def equal(*shape):
    """Draws along the last axis, the same everywhere else: the errors of a chain do not cancel."""
    return np.broadcast_to(positive(shape[-1]), shape)


def worst(got, want):
    """The largest relative error."""
    got, want = np.asarray(got, float), np.asarray(want, float)
    return np.max(np.abs(got - want) / np.abs(want))


def on_all_threads(function):
    """What a function of n_threads gives, which must have the same bits each time."""
    found = [function(n) for n in THREADS]
    for other in found[1:]:
        assert np.array_equal(found[0], other)
    return found[0]


def gradient(layers, X, y, dtype="float32", loss="squared_error"):
    """The gradient of a network whose weights are positive, and whose targets are negative: its sums have one sign."""
    net = bp.Network(layers(), dtype=dtype, seed=0)
    net.theta = np.abs(net.theta) + 0.01
    if dtype == "float64":
        return net.value_and_grad(X, y, loss=loss)[1]
    return on_all_threads(lambda n: net.value_and_grad(X, y, loss=loss, n_threads=n)[1])


def check_gradient(layers, X, y, **settings):
    assert worst(gradient(layers, X, y, **settings), gradient(layers, X, y, dtype="float64", **settings)) < GRADIENT


def test_the_mean_of_a_large_image():
    net = bp.Network([bp.Input((1024, 1024, 1)), bp.GlobalAveragePool()])
    assert worst(net.predict(np.full((1, 1024, 1024, 1), 0.1, "f4")), 0.1) < SUM


@pytest.mark.parametrize(("window", "stride", "padding"), [(64, 64, "valid"), ((3, 90), 7, "same"), (40, 5, "valid")])
def test_means_of_windows(window, stride, padding):
    X = positive(2, 128, 128, 3)
    net, exact = (
        bp.Network([bp.Input((128, 128, 3)), bp.AveragePool2D(window, stride=stride, padding=padding)], dtype=dtype)
        for dtype in ("float32", "float64")
    )
    assert worst(on_all_threads(lambda n: net.predict(X, n_threads=n)), exact.predict(X)) < SUM


def pooled(pool, window, shape, dtype, **settings):
    """Windows of b = a + bias, and b: a gradient has a part from either."""
    a = bp.Input(math.prod(shape))
    b = bp.Bias()(a)
    windows = pool(window, **settings)(bp.Reshape((*shape, 1))(b))
    return bp.Network(a, bp.concat([bp.Reshape(-1)(windows), b]), dtype=dtype)


@pytest.mark.parametrize("pool", [bp.AveragePool2D, bp.MaxPool2D])
@pytest.mark.parametrize(("window", "stride", "padding"), [(9, 1, "same"), ((4, 17), 1, "valid"), (12, (1, 2), "same")])
def test_gradients_of_elements_in_many_windows(pool, window, stride, padding):
    net = pooled(pool, window, (12, 30), "float64", stride=stride, padding=padding)
    X = np.random.default_rng(0).permutation(360)[None] / 360.0  # maxima lie apart
    X[0, 170] = 2  # the maximum of many windows
    assert max(bp.check_gradients(net, X, -np.ones(net.predict(X).shape)).values()) < 1e-7


@pytest.mark.parametrize("pool", [bp.AveragePool2D, bp.MaxPool2D])
def test_sums_over_the_windows_of_an_element(pool):
    X = np.zeros((1, 1600))
    X[0, 810] = 1
    found = []
    for dtype in ("float32", "float64"):
        net = pooled(pool, 32, (40, 40), dtype, stride=1, padding="same")
        y = np.full(net.predict(X).shape, -0.1)
        found.append(on_all_threads(lambda n, net=net, y=y: net.value_and_grad(X, y, n_threads=n)[1]))
    assert worst(*found) < SUM


def test_softmax_over_a_million_classes():
    z = positive(1, MILLION)
    net = bp.Network([bp.Input(MILLION), bp.Activate("softmax")])
    e = np.exp(z.astype(float))
    assert worst(net.predict(z), e / e.sum()) < SUM
    assert worst(net.predict(np.zeros((1, MILLION), "f4")), 1 / MILLION) < SUM


@pytest.mark.parametrize("layer", [lambda: bp.Activate("softmax"), bp.LayerNorm], ids=["softmax", "layer_norm"])
def test_gradients_of_functions_of_many_elements(layer):
    """Differences from means, so errors are relative to the norm."""
    n = 200_000
    X = positive(1, n)
    y = -20 * X[:, ::-1]
    layers = lambda: [bp.Input(n), bp.Bias(), layer()]  # noqa: E731
    found = [gradient(layers, X, y, dtype)[:n] for dtype in ("float32", "float64")]
    assert distance(*found) < SUM


def test_layer_norm_over_a_million_features():
    X = positive(1, MILLION)
    net, exact = (bp.Network([bp.Input(MILLION), bp.LayerNorm()], dtype=dtype) for dtype in ("float32", "float64"))
    assert distance(net.predict(X), exact.predict(X)) < SUM


def test_cross_entropy_of_probabilities_of_a_million_classes():
    """dz = softmax(z) sum y - y"""
    X, y = np.zeros((1, MILLION), "f4"), np.full((1, MILLION), 1 / MILLION, "f4")
    net = bp.Network([bp.Input(MILLION), bp.Bias(), bp.Activate("softmax")])
    loss, dz = net.value_and_grad(X, y, loss="cross_entropy")
    mass = y.sum(dtype=float)
    assert worst(loss, mass * np.log(MILLION)) < SUM
    assert np.abs(dz - (mass / MILLION - y[0])).max() < SUM / MILLION


def test_attention_over_many_positions():
    """a b with a sum over 20,000 positions, and its gradient."""
    n = 20_000

    def net(dtype):
        a, b = bp.Input((2, n)), bp.Input((n, 3))
        return bp.Network([a, b], a @ b, dtype=dtype)

    A, B = positive(1, 2, n), positive(1, n, 3)
    single, double = net("float32"), net("float64")
    assert worst(on_all_threads(lambda t: single.predict([A, B], n_threads=t)), double.predict([A, B])) < SUM


def test_weights_over_a_million_rows():
    net = bp.Network([bp.Input(1), bp.Dense(1, init="zeros")])
    A, t = np.ones((MILLION, 1), "f4"), np.full((MILLION, 1), -0.1, "f4")
    W, b = on_all_threads(lambda n: net.value_and_grad(A, t, n_threads=n)[1])
    assert b == W and worst(W, 0.1) < SUM


@pytest.mark.parametrize("phase2", ["owners", "shards"])
@pytest.mark.parametrize("always", [False, True])
def test_weights_over_many_chunks_of_rows(phase2, always, force):
    force(always, phase2)
    layers = lambda: [bp.Input(5), bp.Dense(7, "relu"), bp.Scale(), bp.Bias(), bp.Dense(3)]  # noqa: E731
    check_gradient(layers, equal(200_000, 5), -equal(200_000, 3))


def test_layer_norm_over_many_rows():
    """Signs differ, so errors are relative to the norm."""
    X, y = equal(200_000, 5), -equal(200_000, 5)
    layers = lambda: [bp.Input(5), bp.LayerNorm()]  # noqa: E731
    assert distance(gradient(layers, X, y), gradient(layers, X, y, dtype="float64")) < SUM


@pytest.mark.parametrize("bound", [{}, {"clip_norm": 0.01}], ids=str)
def test_a_step_over_many_rows_moves_by_the_gradient(bound):
    X, y = equal(20_000, 3), -equal(20_000, 2)
    moved = {}
    for dtype in ("float32", "float64"):
        net = bp.Network([bp.Input(3), bp.Dense(2)], dtype=dtype, seed=0)
        net.theta[:] = 0
        net.fit(X, y, loss="squared_error", optimizer=bp.SGD(lr=1.0, **bound), epochs=1, batch_size=None)
        moved[dtype] = net.theta.copy()
    assert worst(moved["float32"], moved["float64"]) < GRADIENT


@pytest.mark.parametrize("rows", [600, 20_000])
def test_weights_with_blas(rows, force):
    force(False, "owners", "blas")
    check_gradient(lambda: [bp.Input(40), bp.Dense(30), bp.Dense(2)], equal(rows, 40), -equal(rows, 2) - 9)


CONVOLUTIONS = {  # rows, their shape, a layer
    "few filters": (20_000, (6, 6, 1), bp.Conv2D(2, 3)),
    "padded": (20_000, (4, 4, 3), bp.Conv2D(20, 3, padding="same")),
    "depthwise": (20_000, (4, 4, 4), bp.Conv2D(4, 3, groups=4)),
    "depthwise, large": (3, (100, 100, 4), bp.Conv2D(4, 3, groups=4)),
    "sequence": (1, (400_000, 1), bp.Conv1D(5, 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_over_many_positions(name):
    rows, shape, layer = CONVOLUTIONS[name]
    (out,) = bp.Network([bp.Input(shape), layer]).outputs.values()
    check_gradient(lambda: [bp.Input(shape), layer], equal(rows, *shape), -equal(rows, *out) - 3)


@pytest.mark.parametrize("layer", [bp.SimpleRNN, bp.GRU, bp.LSTM])
def test_recurrent_layers_over_many_steps(layer):
    """Signs differ in the gates, so errors are relative to the norm."""
    X, y = equal(3, 4096, 2), -equal(3, 4096, 4)
    layers = lambda: [bp.Input((4096, 2)), layer(4, sequences=True)]  # noqa: E731
    assert distance(gradient(layers, X, y), gradient(layers, X, y, dtype="float64")) < GRADIENT


def test_dense_layers_at_many_positions():
    check_gradient(lambda: [bp.Input((50_000, 2)), bp.Dense(3)], equal(2, 50_000, 2), -equal(2, 50_000, 3))


def test_gradients_of_each_row_over_many_positions():
    X, y = equal(3, 50_000, 2), -equal(3, 50_000, 3)
    found = []
    for dtype in ("float32", "float64"):
        net = bp.Network([bp.Input((50_000, 2)), bp.Dense(3)], dtype=dtype, seed=0)
        net.theta = np.abs(net.theta)
        found.append(on_all_threads(lambda n, net=net: net.per_sample_gradients(X, y, n_threads=n)))
    assert worst(*found) < GRADIENT


def test_the_derivative_of_a_linear_recurrence():
    """The Hessian of a recurrent layer passes linear_recurrence."""
    X, y, v = equal(3, 2000, 2), -equal(3, 2000, 4), positive(28)
    found = []
    for dtype in ("float32", "float64"):
        net = bp.Network([bp.Input((2000, 2)), bp.SimpleRNN(4, sequences=True)], dtype=dtype, seed=0)
        found.append(net.hvp(X, y, v))
    assert distance(*found) < GRADIENT


@pytest.mark.parametrize("rows", [8, 20_000])
@pytest.mark.parametrize("positions", [1, 7])
def test_a_row_of_a_table_named_many_times(rows, positions):
    """Moved by its sum: rows of tables that training moves, in one chunk or in several."""
    n = 4000 if rows == 8 else positions
    X, y = np.zeros((rows, n), int), -equal(rows, n, 3)
    X[0, 0] = 1
    found = []
    for dtype in ("float32", "float64"):
        net = bp.Network([bp.Input(n, integer=True), bp.Embedding(5, 3)], dtype=dtype, seed=0)
        net.theta[:] = 0
        whole = on_all_threads(lambda t, net=net: net.value_and_grad(X, y, n_threads=t)[1])
        net.fit(X, y, optimizer=bp.SGD(lr=1.0), epochs=1, batch_size=None)
        found.append((whole[:6], net.theta[:6].copy()))
    for single, double in zip(*found, strict=True):
        assert worst(single, double) < GRADIENT


def test_losses_and_metrics_over_a_million_rows():
    net = bp.Network([bp.Input(1), bp.Dense(1, "logistic", init="zeros")])
    X, y = np.ones((MILLION, 1), "f4"), (np.arange(MILLION) % 3 == 0).astype("f4")[:, None]
    weight = positive(MILLION)
    for w in (None, weight):
        found = on_all_threads(lambda n, w=w: list(net.evaluate(X, y, sample_weight=w, n_threads=n).values()))
        share = np.average(y[:, 0], weights=w if w is None else w.astype(float))
        assert worst(found, [np.log(2), share]) < SUM
