"""MatMul, LayerNorm, Dropout and Function: values against NumPy, gradients, bits, files, errors."""

import numpy as np
import pytest
from conftest import distance

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(0)
MODES = [(False, ""), (True, ""), (True, "owners"), (True, "shards")]
THREADS = (1, 2, 3)
cube = bp.Function(lambda a: a**3, lambda gradient, a: 3 * a**2 * gradient, name="cube")
outer = bp.Function(
    lambda a, b: a[:, :, None] * b[:, None, :],
    lambda g, a, b: ((g * b[:, None, :]).sum(2), (g * a[:, :, None]).sum(1)),
    shape=(6, 4),
    name="outer",
)


def norm(a, s, b, eps=1e-5):
    d = a - a.mean(-1, keepdims=True)
    return s * d / np.sqrt((d**2).mean(-1, keepdims=True) + eps) + b


def block(dtype="float64", seed=0, rate=0.2):
    """Everything here in one network: two heads of attention, and its own product with itself."""
    x = bp.Input((5, 6))
    h = bp.LayerNorm()(x)

    def heads():
        return bp.Permute((1, 0, 2))(bp.Reshape((5, 2, 3))(bp.Dense(6)(h)))

    weights = bp.Activate("softmax")(bp.MatMul(transpose_b=True)(heads(), heads()) * 0.6)
    h = h + bp.Dense(6, "tanh")(bp.Reshape((5, 6))(bp.Permute((1, 0, 2))(weights @ heads())))
    h = bp.Dropout(rate)(bp.LayerNorm(eps=1e-3)(h))
    square = cube(bp.MatMul(transpose_a=True)(h, h))
    return bp.Network(x, bp.Dense(3, "softmax")(bp.Reshape(-1)(square)), dtype=dtype, seed=seed)


def rows(n):
    return RNG.normal(size=(n, 5, 6)), RNG.integers(0, 3, n)


# ---- values ----


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize("turned_a", [False, True])
@pytest.mark.parametrize("turned_b", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (4, 5, 6), (1, 7, 3), (17, 20, 33)])
def test_matmul(m, k, n, lead, turned_a, turned_b, dtype, tolerance):
    a, b = bp.Input((*lead, *((k, m) if turned_a else (m, k)))), bp.Input((*lead, *((n, k) if turned_b else (k, n))))
    net = bp.Network([a, b], bp.MatMul(transpose_a=turned_a, transpose_b=turned_b)(a, b), dtype=dtype)
    A, B = (RNG.normal(size=(70, *x.shape)).astype(dtype) for x in (a, b))
    want = (A.swapaxes(-1, -2) if turned_a else A) @ (B.swapaxes(-1, -2) if turned_b else B)
    answers = net.predict([A, B])
    assert answers.shape == (70, *lead, m, n) and distance(answers, want) < tolerance
    assert (net.predict([A[5:6], B[5:6]]) == answers[5:6]).all()


@pytest.mark.parametrize("turned_a", [False, True])
@pytest.mark.parametrize("turned_b", [False, True])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (2, 3, 4), (1, 4, 5), (5, 1, 2)])
def test_matmul_gradients(m, k, n, turned_a, turned_b):
    x = bp.Input(3)
    shapes = [(2, *((k, m) if turned_a else (m, k))), (2, *((n, k) if turned_b else (k, n)))]
    a, b = (bp.Reshape(shape)(bp.Dense(int(np.prod(shape)))(x)) for shape in shapes)
    product = bp.MatMul(transpose_a=turned_a, transpose_b=turned_b)(a, b)
    net = bp.Network(x, bp.Reshape(-1)(product), dtype="float64")
    y = RNG.normal(size=(3, 2 * m * n))
    assert max(bp.check_gradients(net, RNG.normal(size=(3, 3)), y).values()) < 1e-7


def test_the_operator():
    a, b = bp.Input((2, 3)), bp.Input((3, 4))
    assert (a @ b).shape == (2, 4)
    with pytest.raises(TypeError):
        a @ np.ones((3, 4))


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("units", [1, 2, 7, 16, 17, 48, 100])
def test_layer_norm(units, dtype, tolerance):
    net = bp.Network([bp.Input((3, units)), bp.LayerNorm(name="n", eps=1e-3)], dtype=dtype)
    assert (net.params["n.s"] == 1).all() and (net.params["n.b"] == 0).all()
    net.theta = RNG.normal(size=2 * units)
    X = RNG.normal(5, 2, (70, 3, units)).astype(dtype)
    assert distance(net.predict(X), norm(X.astype(float), net.params["n.s"], net.params["n.b"], 1e-3)) < tolerance
    assert (net.predictor()(X[3]) == net.predict(X)[3]).all()


@pytest.mark.parametrize("units", [2, 7, 16, 35])
def test_layer_norm_gradients(units):
    layers = [bp.Input(2), bp.Dense(2 * units), bp.Reshape((2, units)), bp.LayerNorm(), bp.Reshape(-1), bp.Dense(2)]
    net = bp.Network(layers, dtype="float64", seed=1)
    net.params["layer_norm_1.s"][:] = RNG.normal(size=units)
    errors = bp.check_gradients(net, RNG.normal(size=(5, 2)), RNG.normal(size=(5, 2)), sample_weight=RNG.random(5))
    assert max(errors.values()) < 1e-7


def test_gradients_of_the_block():
    errors = bp.check_gradients(block(rate=0.5), *rows(4))  # nothing is dropped but in fit
    assert max(error for name, error in errors.items() if name != "dense_2.b") < 1e-7


def test_products_with_the_hessian():
    words = bp.Input(5, integer=True)
    h = bp.Dropout(0.3)(bp.Embedding(20, 6)(words))
    h = h + bp.Dense(6, "tanh")(bp.MatMul(transpose_b=True)(h, h) @ h)
    net = bp.Network(words, bp.Dense(3, "softmax")(bp.Reshape(-1)(h)), dtype="float64")
    net.theta = 0.3 * net.theta
    X, y, v = RNG.integers(0, 20, (30, 5)), RNG.integers(0, 3, 30), RNG.normal(size=net.n_params)
    product, theta, gradients = net.hvp(X, y, v), net.theta.copy(), []
    for step in (1e-5, -1e-5):
        net.theta = theta + step * v
        gradients.append(net.value_and_grad(X, y)[1])
    assert distance(product, (gradients[0] - gradients[1]) / 2e-5) < 1e-7


# ---- dropout ----


def masks(net, X, **fit):
    """The gradient of a bias behind dropout of ones is minus the mask, where the loss is linear."""
    net = net.copy()
    n = X.shape[1]
    loss = bp.Loss(lambda a, y: a.sum(1), lambda a, y: np.ones_like(a))
    before = net.params["bias_1.s"].copy()
    net.fit(X, np.zeros((len(X), n)), loss=loss, optimizer=bp.SGD(lr=1.0), shuffle=False, **fit)
    return before - net.params["bias_1.s"]


def test_dropout_draws_what_philox_says():
    """Word e % 4 of block e / 4 of counter (2, layer, step), for element e of the batch."""
    n, rows, rate, seed = 11, 9, 0.4, 2**40 + 5
    net = bp.Network([bp.Input(n), bp.Bias(), bp.Dropout(rate)], dtype="float64", seed=seed)
    for step in range(3):
        words = np.concatenate(
            [_core.philox((2, 2, step, i), (seed & 0xFFFFFFFF, seed >> 32)) for i in range((n * rows + 3) // 4)]
        )
        mask = (words[: n * rows] >= rate * 2**32).reshape(rows, n) / (1 - rate)
        net.step = step
        assert distance(masks(net, np.zeros((rows, n)), epochs=1, batch_size=rows), mask.mean(0)) < 1e-14


def test_dropout_keeps_the_mean_and_rests_elsewhere():
    net = bp.Network([bp.Input(1000), bp.Bias(), bp.Dropout(0.3)], dtype="float64")
    mask = masks(net, np.zeros((50, 1000)), batch_size=None)
    assert abs(mask.mean() - 1) < 0.02 and mask.std() > 0.01
    X = RNG.normal(size=(40, 1000))
    assert (net.predict(X) == X).all() and (net.predictor()(X) == X).all()
    y = np.zeros_like(X)
    assert np.isclose(net.evaluate(X, y)["loss"], (X**2).sum() / 80)
    gradient = net.value_and_grad(X, y)[1]
    assert np.allclose(gradient, X.mean(0))
    none = bp.Network([bp.Input(10), bp.Bias(), bp.Dropout(0)], dtype="float64")
    assert np.allclose(masks(none, np.zeros((5, 10)), batch_size=None), 1)


def test_layers_steps_and_seeds_drop_differently():
    x = bp.Input(50)
    shared = bp.Dropout(0.5)
    h = shared(bp.Bias()(x))
    net = bp.Network(x, shared(h), dtype="float64")
    two = masks(net, np.zeros((1, 50)), batch_size=1)
    assert set(np.unique(two)) == {0, 4} and 5 < (two > 0).sum() < 22
    one = bp.Network([bp.Input(50), bp.Bias(), bp.Dropout(0.5)], dtype="float64")
    found = [masks(one, np.zeros((1, 50)), batch_size=1, seed=seed).tobytes() for seed in (1, 2, 1)]
    assert found[0] == found[2] != found[1]
    later = one.copy()
    later.step = 1
    assert masks(later, np.zeros((1, 50)), batch_size=1, seed=1).tobytes() != found[0]


# ---- bits, files ----


@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [30, 333])
def test_bits_do_not_depend_on_threads(force, always, phase2, dtype, batch):
    force(always, phase2)
    X, y = rows(333)
    found = []
    for n_threads in THREADS:
        net = block(dtype)
        loss = net.fit(X, y, optimizer=bp.Adam(lr=0.01), batch_size=batch, epochs=2, n_threads=n_threads).loss
        gradient = net.value_and_grad(X, y, n_threads=n_threads)[1]
        found.append((net.theta.tobytes(), loss, gradient.tobytes(), net.predict(X, n_threads=n_threads).tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("phase2", ["owners", "shards"])
def test_dropout_does_not_depend_on_the_cut(force, phase2):
    """Without Function, whose chunk is whole: shards and owners drop the same."""

    def make():
        layers = [bp.Input(30), bp.Dense(40, "tanh"), bp.Dropout(0.3), bp.Dense(3, "softmax")]
        return bp.Network(layers, dtype="float64", seed=2)

    X, y = RNG.normal(size=(500, 30)), RNG.integers(0, 3, 500)
    whole = make()
    whole.fit(X, y, batch_size=250, epochs=3)
    force(True, phase2)
    other = make()
    other.fit(X, y, batch_size=250, epochs=3, n_threads=2)
    assert np.abs(other.theta - whole.theta).max() < 1e-13


def test_resumed_from_a_file(tmp_path):
    X, y = rows(90)
    whole, parts = block(), block()
    whole.fit(X, y, optimizer=bp.Adam(lr=0.01), epochs=4, batch_size=20)
    parts.fit(X, y, optimizer=bp.Adam(lr=0.01), epochs=2, batch_size=20)
    parts.save(tmp_path / "net")
    with pytest.raises(ValueError, match="custom={'cube'"):
        bp.load(tmp_path / "net")
    parts = bp.load(tmp_path / "net", custom={"cube": bp.Function(cube.forward, cube.backward)})
    parts.fit(X, y, optimizer=bp.Adam(lr=0.01), epochs=2, batch_size=20)
    assert parts.theta.tobytes() == whole.theta.tobytes()
    assert (parts.predict(X) == whole.predict(X)).all()


# ---- functions ----


def test_function_of_two_inputs():
    x = bp.Input(3)
    a, b = bp.Dense(6, "tanh")(x), bp.Dense(4)(x)
    net = bp.Network(x, bp.Dense(2)(bp.Reshape(-1)(outer(a, b)) + bp.Reshape(-1)(outer(a, b))), dtype="float64")
    X, y = RNG.normal(size=(40, 3)), RNG.normal(size=(40, 2))
    assert max(bp.check_gradients(net, X[:4], y[:4]).values()) < 1e-7
    A, B = np.tanh(X @ net.params["dense_1.W"]), X @ net.params["dense_2.W"]
    want = 2 * (A[:, :, None] * B[:, None]).reshape(40, -1) @ net.params["dense_3.W"]
    assert distance(net.predict(X), want) < 1e-13
    assert distance(net.predictor()(X[0]), want[0]) < 1e-13
    net.frozen = {"dense_1"}
    net.fit(X, y, batch_size=7)


def test_functions_get_arrays_of_their_own():
    kept = []

    def forward(a):
        kept.append(a)
        a *= 2
        return a

    net = bp.Network([bp.Input(3), bp.Function(forward, lambda g, a: 2 * g)], dtype="float64")
    X = np.ones((4, 3))
    assert (net.predict(X) == 2).all() and (X == 1).all() and kept[0].shape == (4, 3)


@pytest.mark.parametrize(
    "forward, backward, error, words",
    [
        (lambda a: 1 / 0, lambda g, a: g, ZeroDivisionError, "division"),
        (lambda a: a, lambda g, a: {}["x"], KeyError, "x"),
        (lambda a: a[:1], lambda g, a: g, ValueError, r"f\): forward: expected an array of shape \(4, 3\), got"),
        (lambda a: a * 1j, lambda g, a: g, TypeError, "forward: expected real numbers"),
        (lambda a: a, lambda g, a: g[:, :2], ValueError, r"backward: gradient 0: expected an array of shape \(4, 3\)"),
        (lambda a: a, lambda g, a: (g, g), ValueError, "backward: expected 1 gradients, one an input, got 2"),
        (lambda a: a, lambda g, a: None, (TypeError, ValueError), "backward: gradient 0"),
    ],
)
def test_what_a_function_may_do_wrong(forward, backward, error, words):
    net = bp.Network([bp.Input(3), bp.Dense(3), bp.Function(forward, backward, name="f"), bp.Dense(3)])
    before = net.theta.copy()
    with pytest.raises(error, match=words):
        net.fit(np.ones((4, 3)), np.ones((4, 3)))
    assert (net.theta == before).all() and net.step == 0


def test_a_function_without_a_name_is_not_saved(tmp_path):
    net = bp.Network([bp.Input(3), bp.Function(np.sin, lambda g, a: g * np.cos(a))])
    with pytest.raises(ValueError, match="needs a name"):
        net.save(tmp_path / "net")


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: bp.LayerNorm(eps=0), ValueError, "eps"),
        (lambda: bp.LayerNorm(eps="small"), TypeError, "eps"),
        (lambda: bp.Dropout(1), ValueError, "rate: expected a finite number in"),
        (lambda: bp.Dropout(-0.1), ValueError, "rate"),
        (lambda: bp.Dropout(None), TypeError, "rate"),
        (lambda: bp.MatMul(transpose_a=1), TypeError, "transpose_a"),
        (lambda: bp.MatMul()(bp.Input((2, 3))), ValueError, "two inputs"),
        (lambda: bp.Input((2, 3)) @ bp.Input((2, 3)), ValueError, r"\(\.\.\., m, k\) and \(\.\.\., k, n\)"),
        (lambda: bp.Input((2, 3)) @ bp.Input(3), ValueError, "2 to 4 axes"),
        (lambda: bp.Input((2, 3, 4)) @ bp.Input((3, 4, 2)), ValueError, "equal leading axes"),
        (lambda: bp.Function(3, lambda g, a: g), TypeError, "forward: expected a function"),
        (lambda: bp.Function(np.sin, None), TypeError, "backward: expected a function"),
        (lambda: bp.Function(np.sin, np.cos, shape=0), ValueError, "shape"),
    ],
)
def test_wrong_settings_and_shapes(make, error, words):
    with pytest.raises(error, match=words):
        make()
