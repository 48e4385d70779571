"""Losses: against NumPy, central differences and closed forms over the whole range; targets and settings refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import reference as ref
from conftest import distance, flat, oracle
from losses import LOSSES
from scipy import special

import bpcore as bp

ACTIVATIONS = {
    "real": ("identity", "tanh", "softmax"),
    "positive": ("exp", "softplus"),
    "unit": ("logistic", "softmax"),
    "rows": ("softmax", "logistic"),
}
PAIRS = [(name, f) for name, example in LOSSES.items() for f in ACTIVATIONS[example.outputs]]
WIDTH = 2  # columns of y
NO_SECOND = {"quantile of levels", "gaussian_nll", "crps_gaussian", "categorical_focal", "cosine"}
pytestmark = pytest.mark.filterwarnings("ignore:loss. [a-z_]* is for")  # any loss after any output
pairs = pytest.mark.parametrize("name, f", PAIRS)
every_loss = pytest.mark.parametrize("name", LOSSES)


def case(name, f, n=9, dtype="float64", hidden=True, seed=3):
    """A network, X, y and weights; some weights are 0."""
    example, rng = LOSSES[name], np.random.default_rng(seed)
    layers = [bp.Dense(6, "tanh")] * hidden + [bp.Dense(WIDTH * example.parts, f)]
    net = bp.Network([bp.Input(4), *layers], dtype=dtype)
    net.theta = rng.normal(0, 0.6, net.n_params)
    y, w = example.y(rng, (n, WIDTH)), rng.uniform(0, 2, n) * (rng.random(n) < 0.7)
    w[-1] = 1
    return net, rng.normal(size=(n, 4)).astype(dtype), y.astype(dtype), w.astype(dtype)


def suited(name):
    """The activation that belongs to the loss."""
    return ACTIVATIONS[LOSSES[name].outputs][0]


@pairs
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-5)])
def test_values_and_gradients(name, f, dtype, tolerance):
    net, X, y, weight = case(name, f, dtype=dtype)
    example, (W, b, names) = LOSSES[name], oracle(net)
    y_, tape = y.astype(float), ref.forward(W, b, names, X)
    for w in (None, weight):
        C, delta, dW, db, dx = ref.backward(W, names, *tape, y_, (example.E, example.dE), w)
        grads = net.backward(net.forward(X), y, loss=example.loss, sample_weight=w)
        value, gradient = net.value_and_grad(X, y, loss=example.loss, sample_weight=w)
        assert distance(grads.delta[2], delta[2]) <= tolerance
        assert distance(grads.x, dx) <= tolerance
        assert distance(gradient, flat(dW, db)) <= tolerance
        np.testing.assert_allclose([value, grads.loss], C, rtol=tolerance)
        assert net.evaluate(X, y, loss=example.loss, sample_weight=w)["loss"] == pytest.approx(C, rel=tolerance)


@pairs
def test_gradients_against_central_differences(name, f):
    net, X, y, _ = case(name, f, n=4)
    assert max(bp.check_gradients(net, X, y, loss=LOSSES[name].loss).values()) <= 1e-7


@every_loss
def test_second_derivatives(name):
    """Along v: against differences of the gradient; where z is linear in theta, Gauss and Newton's are all."""
    loss = LOSSES[name].loss
    for hidden in (True, False):
        net, X, y, w = case(name, suited(name), hidden=hidden)
        v = np.random.default_rng(0).normal(size=net.n_params)
        if name in NO_SECOND:
            with pytest.raises(ValueError, match=f"loss: {loss.name}.* has no second derivative here"):
                net.hvp(X, y, v, loss=loss)
            continue
        theta, ends, h = net.theta.copy(), [], 1e-5
        for step in (h, -h):
            net.theta = theta + step * v
            ends.append(net.value_and_grad(X, y, loss=loss, sample_weight=w)[1])
        net.theta = theta
        want, got = (ends[0] - ends[1]) / (2 * h), net.hvp(X, y, v, loss=loss, sample_weight=w)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)
        if not hidden:
            product = net.gauss_newton_product(X, y, v, loss=loss, sample_weight=w)
            np.testing.assert_allclose(product, got, rtol=1e-10, atol=1e-14)


@every_loss
def test_positions_count_as_rows_do(name):
    """Of a sequence: the mean over its positions, weighted where there are weights."""
    net, X, y, w = case(name, suited(name), n=12)
    loss, layers = LOSSES[name].loss, [bp.Dense(layer.units, layer.activation) for layer in net.layers[1:]]
    sequences = bp.Network([bp.Input((3, 4)), *layers], dtype="float64")
    sequences.theta = net.theta
    Xs, ys = X.reshape(4, 3, 4), y.reshape(4, 3, WIDTH)
    for given, flat_weight in ((None, None), (np.array([0.0, 1, 2, 0.5]), np.repeat([0.0, 1, 2, 0.5], 3))):
        C, grad = sequences.value_and_grad(Xs, ys, loss=loss, sample_weight=given)
        want, gradient = net.value_and_grad(X, y, loss=loss, sample_weight=flat_weight)
        assert pytest.approx(want, rel=1e-13) == C
        assert distance(grad, gradient) <= 1e-13


@every_loss
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_on_any_number_of_threads_and_in_any_batch(force, name, dtype):
    force(True, "")
    net, X, y, w = case(name, suited(name), n=150, dtype=dtype)
    loss, theta = LOSSES[name].loss, net.theta.copy()
    ends = []
    for n_threads in (1, 2, 3):
        net.theta = theta
        net.fit(X, y, loss=loss, sample_weight=w + 0.1, optimizer=bp.SGD(lr=0.01), batch_size=70, n_threads=n_threads,
                shuffle=False)  # fmt: skip
        ends.append(net.theta.tobytes())
    assert ends[0] == ends[1] == ends[2] != theta.tobytes()
    net.theta = theta
    alone = [net.evaluate(X[[i]], y[[i]], loss=loss)["loss"] for i in range(40)]
    assert net.evaluate(X[:40], y[:40], loss=loss)["loss"] == pytest.approx(np.mean(alone), rel=1e-14)
    deltas = net.backward(net.forward(X[:40]), y[:40], loss=loss).delta[2]
    for i in range(0, 40, 7):
        np.testing.assert_array_equal(net.backward(net.forward(X[[i]]), y[[i]], loss=loss).delta[2][0], deltas[i])


# ---- the whole range ----


def of_one(loss, a, y, f="identity", dtype="float64"):
    """E and delta of an output f(a), or of several."""
    a = np.atleast_2d(np.asarray(a, dtype))
    net = bp.Network([bp.Input(a.shape[1]), bp.Dense(a.shape[1], f, init=np.eye(a.shape[1]), bias=False)], dtype=dtype)
    grads = net.backward(net.forward(a), np.atleast_2d(y), loss=loss)
    return grads.loss, grads.delta[1][0]


SIZES = np.concatenate([np.geomspace(1e-12, 1e4, 33), [0.9999, 1.0, 1.0001]])
both_types = pytest.mark.parametrize("dtype, rtol", [("float64", 2e-15), ("float32", 1e-6)])


@both_types
def test_log_cosh_at_every_scale(dtype, rtol):
    for size in SIZES:
        r = np.longdouble(np.dtype(dtype).type(size))
        want = r**2 / 2 - r**4 / 12 + r**6 / 45 if r < 1e-2 else r + np.log1p(np.exp(-2 * r)) - np.log(np.longdouble(2))
        for sign in (1, -1):
            E, delta = of_one(bp.losses.LogCosh(), sign * size, 0.0, dtype=dtype)
            np.testing.assert_allclose(E, float(want), rtol=2 * rtol)
            np.testing.assert_allclose(delta, sign * float(np.tanh(r)), rtol=rtol)


@both_types
def test_student_t_at_every_scale(dtype, rtol):
    for size in [*SIZES, 1e18, 1e30]:
        r = np.longdouble(np.dtype(dtype).type(size))
        E, delta = of_one(bp.losses.StudentT(4.0, 2.0), size, 0.0, dtype=dtype)
        np.testing.assert_allclose(E, float(2.5 * np.log1p((r / 4) ** 2)), rtol=2 * rtol)
        np.testing.assert_allclose(delta, float(5 * r / (16 + r**2)), rtol=2 * rtol)


@both_types
def test_losses_of_positive_outputs_from_z(dtype, rtol):
    """Finite wherever their value is; a product y e^x may be where e^x is not."""
    top = 80.0 if dtype == "float32" else 700.0
    tiny = 1e-30 if dtype == "float32" else 1e-300
    for z in (-2 * top + 100, -top, -1.0, 0.0, 1e-3, 3.0, top):
        for y in (0.0, tiny, 0.5, 7.0):
            y = float(np.dtype(dtype).type(y))
            e = np.exp(np.longdouble(z))
            E, delta = of_one(bp.losses.Poisson(), z, y, "exp", dtype)
            np.testing.assert_allclose([E, *delta], np.array([e - y * z, e - y], float), rtol=rtol, atol=rtol * y)
            if y * np.exp(-np.longdouble(z)) < np.finfo(dtype).max / 100 and y > 0:
                E, delta = of_one(bp.losses.Gamma(), z, y, "exp", dtype)
                want = np.array([z + y / e, 1 - y / e], float)
                np.testing.assert_allclose([E, *delta], want, rtol=5 * rtol, atol=rtol)
            E, delta = of_one(bp.losses.Tweedie(1.5), z, y, "exp", dtype)
            low, high = np.exp(-np.longdouble(z) / 2), np.exp(np.longdouble(z) / 2)
            want = np.array([2 * high + 2 * y * low, high - y * low], float)
            np.testing.assert_allclose([E, *delta], want, rtol=5 * rtol, atol=rtol * float(y * low + high))


@both_types
def test_gaussian_losses_at_every_scale(dtype, rtol):
    for r in (0.0, 1e-3, 1.0, 50.0, 1e4):
        for s in (-15.0, -1.0, 0.0, 12.0):
            u = np.longdouble(r) * np.exp(-np.longdouble(s) / 2)
            E, delta = of_one(bp.losses.GaussianNLL(), [r, s], 0.0, dtype=dtype)
            np.testing.assert_allclose(E, float((s + u**2) / 2), rtol=8 * rtol, atol=rtol)
            want = np.array([u * np.exp(-np.longdouble(s) / 2), (1 - u**2) / 2], float)
            np.testing.assert_allclose(delta, want, rtol=8 * rtol, atol=rtol)
            E, delta = of_one(bp.losses.GaussianCRPS(), [r, s], 0.0, dtype=dtype)
            u, sigma = float(u), np.exp(s / 2)
            phi = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
            slope = special.erf(u / np.sqrt(2))
            np.testing.assert_allclose(E, r * slope + sigma * (2 * phi - 1 / np.sqrt(np.pi)), rtol=8 * rtol)
            np.testing.assert_allclose(delta[0], slope, rtol=8 * rtol, atol=4 * rtol)
            np.testing.assert_allclose(delta[1], sigma / 2 * (2 * phi - 1 / np.sqrt(np.pi)), rtol=30 * rtol)


@both_types
def test_focal_and_smoothed_losses_stand_any_logit(dtype, rtol):
    for z in (-1e4, -90.0, -5.0, -1e-3, 0.0, 2.0, 40.0, 1e4):
        z = float(np.dtype(dtype).type(z))
        less, more = np.logaddexp(0, -np.longdouble(z)), np.logaddexp(0, np.longdouble(z))
        q, p = np.exp(-more), np.exp(-less)
        tiny = float(np.finfo(dtype).tiny)
        E, delta = of_one(bp.losses.Focal(2.0), z, 1.0, "logistic", dtype)
        np.testing.assert_allclose(E, float(q**2 * less), rtol=20 * rtol, atol=tiny)
        np.testing.assert_allclose(delta, float(-(q**2) * (2 * p * less + q)), rtol=20 * rtol, atol=tiny)
        mirrored, turned = of_one(bp.losses.Focal(2.0), -z, 0.0, "logistic", dtype)
        np.testing.assert_allclose([mirrored, *turned], [E, *-delta], rtol=rtol, atol=tiny)
        E, delta = of_one(bp.losses.CategoricalFocal(2.0), [z, 0.0], [[1.0, 0.0]], "softmax", dtype)
        np.testing.assert_allclose(E, float(q**2 * less), rtol=20 * rtol, atol=tiny)
        slope = float(-(q**2) * (2 * p * less + q))
        np.testing.assert_allclose(delta, [slope, -slope], rtol=20 * rtol, atol=tiny)
        y = float(np.dtype(dtype).type(0.9))
        E, delta = of_one(bp.losses.BinaryCrossEntropy(0.2), z, 1.0, "logistic", dtype)
        np.testing.assert_allclose(E, float(0.9 * less + 0.1 * more), rtol=4 * rtol)
        np.testing.assert_allclose(delta, float(p - y), rtol=4 * rtol, atol=rtol)
        E, delta = of_one(bp.losses.CrossEntropy(0.2), [z, 0.0], [[1.0, 0.0]], "softmax", dtype)
        np.testing.assert_allclose(E, float(0.9 * less + 0.1 * more), rtol=4 * rtol)
        np.testing.assert_allclose(delta, np.array([p - y, y - p], float), rtol=4 * rtol, atol=rtol)


@both_types
def test_cosine_at_every_scale(dtype, rtol):
    rng = np.random.default_rng(0)
    top = 1e30 if dtype == "float32" else 1e300
    for scale in (1 / top, 1.0, top):
        a, y = rng.normal(size=5), rng.normal(size=5)
        E, delta = of_one(bp.losses.CosineDistance(), scale * a, y / scale, dtype=dtype)
        u, v = a / np.linalg.norm(a), y / np.linalg.norm(y)
        np.testing.assert_allclose(E, 1 - u @ v, rtol=10 * rtol)
        np.testing.assert_allclose(delta * scale, (u * (u @ v) - v) / np.linalg.norm(a), rtol=50 * rtol, atol=4 * rtol)
    for a, y in ((np.zeros(3), np.ones(3)), (np.ones(3), np.zeros(3))):
        E, delta = of_one(bp.losses.CosineDistance(), a, y, dtype=dtype)
        assert E == 1 and not delta.any()


def test_divergence_of_like_distributions_is_0():
    p = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    net = bp.Network([bp.Input(5), bp.Dense(5, "softmax", init=np.eye(5), bias=False)], dtype="float64")
    X = np.log(p)
    assert abs(net.evaluate(X, p, loss="kl_divergence")["loss"]) <= 1e-15
    y = p[::-1].copy()
    y[0] = [0, 0, 1, 0, 0]  # 0 log 0 = 0
    E = net.evaluate(X, y, loss="kl_divergence")["loss"]
    assert pytest.approx(special.rel_entr(y, p).sum(1).mean(), rel=1e-13) == E


def test_smoothed_labels_are_smoothed_probabilities():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 21, 40)
    for width, f in ((21, "softmax"), (3, "softmax"), (3, "logistic")):
        net, X = bp.Network([bp.Input(4), bp.Dense(width, f)], dtype="float64", seed=1), rng.normal(size=(40, 4))
        y, w = labels % width, rng.uniform(0, 2, 40)
        hot = np.eye(width)[y]
        for target in (y, hot):
            value, grad = net.value_and_grad(X, target, loss=bp.losses.CrossEntropy(0.3), sample_weight=w)
            want, gradient = net.value_and_grad(X, 0.7 * hot + 0.3 / width, loss="cross_entropy", sample_weight=w)
            assert pytest.approx(want, rel=1e-13) == value
            assert distance(grad, gradient) <= 1e-13
        assert net.evaluate(X, y, loss=bp.losses.CrossEntropy(0.3))["accuracy"] == np.mean(
            net.predict(X).argmax(1) == y
        )


def test_focal_labels_are_focal_rows():
    """Of few and many classes, in parts of a vector; with gamma almost 0 it is cross_entropy."""
    rng = np.random.default_rng(0)
    for width, f in ((3, "softmax"), (70, "softmax"), (3, "logistic")):
        net, X = bp.Network([bp.Input(4), bp.Dense(width, f)], dtype="float64", seed=1), rng.normal(size=(41, 4))
        y, w = rng.integers(0, width, 41), rng.uniform(0, 2, 41)
        results = [
            net.value_and_grad(X, target, loss=loss, sample_weight=w)
            for loss, target in (("categorical_focal", y), ("categorical_focal", np.eye(width)[y]),
                                 (bp.losses.CategoricalFocal(1e-12), y), ("cross_entropy", y))
        ]  # fmt: skip
        for (value, grad), (want, gradient) in (results[:2], results[2:]):
            assert pytest.approx(want, rel=1e-10) == value
            assert distance(grad, gradient) <= 1e-10
        accuracy = net.evaluate(X, y, loss="categorical_focal")["accuracy"]
        assert accuracy == np.mean(net.predict(X).argmax(1) == y)


def test_a_row_of_weight_0_is_not_looked_at():
    """Its loss may be infinite: log 0."""
    net = bp.Network([bp.Input(1), bp.Dense(1, "relu", init="ones")], dtype="float64")
    X, w = np.array([[0.5], [-1.0]]), np.array([1.0, 0.0])
    for loss in ("poisson", "gamma", "tweedie", bp.losses.BinaryCrossEntropy(0.1), "focal"):
        y = np.array([0.5, 1.0])
        value, gradient = net.value_and_grad(X, y, loss=loss, sample_weight=w)
        assert np.isfinite(value) and value == net.value_and_grad(X[:1], y[:1], loss=loss)[0]
        assert np.isfinite(gradient).all()


def test_levels_and_pairs_read_outputs_by_parts():
    """y of (n,) for one output a level; the first half of pairs are means."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(6, 2)), rng.normal(size=6)
    net = bp.Network([bp.Input(2), bp.Dense(3)], dtype="float64", seed=0)
    r = y[:, None] - net.predict(X)
    q = np.array([0.1, 0.5, 0.9])
    want = np.where(r > 0, q * r, (q - 1) * r).sum(1).mean()
    for target in (y, y[:, None]):
        loss = bp.losses.Quantile([0.1, 0.5, 0.9])
        assert net.evaluate(X, target, loss=loss)["loss"] == pytest.approx(want, rel=1e-14)
    assert loss == bp.losses.Quantile((0.1, 0.5, 0.9)) and hash(loss) == hash(bp.losses.Quantile((0.1, 0.5, 0.9)))


def test_accuracy_of_signs():
    net = bp.Network([bp.Input(1), bp.Dense(1, init="ones")], dtype="float64")
    X, y = np.array([[2.0], [-3.0], [0.5], [-0.1]]), np.array([1, 1, -1, -1])
    for loss in ("hinge", "squared_hinge"):
        assert net.evaluate(X, y, loss=loss)["accuracy"] == 0.5
    logistic = bp.Network([bp.Input(1), bp.Dense(1, "logistic", init="ones")], dtype="float64")
    assert logistic.evaluate(X, (y + 1) / 2, loss="focal")["accuracy"] == 0.5


def test_a_negative_mean_is_no_number():
    """Poisson of an identity output: log a says so for y > 0, and for y = 0 the loss would fall without end."""
    net = bp.Network([bp.Input(1), bp.Dense(1, init="ones")], dtype="float64")
    for y in (0.0, 1.0):
        with pytest.raises(bp.DivergenceError, match="Use poisson with exp outputs"):
            net.fit([[-1.0]], [[y]], loss="poisson")


def test_outputs_that_may_be_negative_are_warned_of():
    net = bp.Network([bp.Input(1), bp.Dense(1)])
    for loss in ("poisson", "gamma", "tweedie"):
        with pytest.warns(
            UserWarning, match=f"loss: {loss} is for positive outputs, and dense_1 has identity ones; use"
        ):
            net.evaluate([[1.0]], [1.0], loss=loss)


# ---- what is refused ----

BAD_TARGETS = [
    ("poisson", [1.0, -1.0], "y: expected numbers from 0 to inf; y[1] is -1"),
    ("tweedie", [-1e-9, 1.0], "y: expected numbers from 0 to inf; y[0] is -1e-09"),
    ("gamma", [1.0, 0.0], "y: expected numbers above 0; y[1] is 0"),
    ("focal", [1.0, 2.0], "y: expected numbers from 0 to 1; y[1] is 2"),
    ("hinge", [1.0, 0.0], "y: expected -1 or 1 for hinge; y[1] is 0.0; for 0 and 1 give 2 * y - 1"),
    ("squared_hinge", [1.0, 0.5], "y: expected -1 or 1 for squared_hinge; y[1] is 0.5"),
    ("hinge", [1.0, 3.0], "y: expected numbers from -1 to 1; y[1] is 3"),
]


@pytest.mark.parametrize("loss, y, words", BAD_TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_that_a_loss_cannot_read(loss, y, words, dtype):
    net = bp.Network([bp.Input(1), bp.Dense(1)], dtype=dtype)
    theta = net.theta.copy()
    for call in (net.fit, net.evaluate, net.value_and_grad):
        with pytest.raises(ValueError) as error:
            call([[1.0], [2.0]], np.array(y, dtype), loss=loss)
        assert words in str(error.value)
    np.testing.assert_array_equal(net.theta, theta)
    with pytest.raises(ValueError, match=r"sum to 1 for kl_divergence; y\[0\] sums to 3"):
        bp.Network([bp.Input(1), bp.Dense(2, "softmax")]).evaluate([[1.0]], [[1.0, 2.0]], loss="kl_divergence")


def test_outputs_that_a_loss_cannot_read():
    net = bp.Network([bp.Input(1), bp.Dense(3)])
    words = "gaussian_nll reads 2 outputs for each target .a mean and the log of a variance., and the network has 3"
    with pytest.raises(ValueError, match=f"loss: {words}; use bp.Dense.2."):
        net.fit([[1.0]], [1.0], loss="gaussian_nll")
    with pytest.raises(ValueError, match="loss: quantile reads 2 outputs for each target .one for each level."):
        net.fit([[1.0]], [1.0], loss=bp.losses.Quantile([0.1, 0.9]))
    with pytest.raises(ValueError, match=r"y: expected shape \(1, 1\) or \(1,\), got \(1, 3\)"):
        net.fit([[1.0]], [[1.0, 2.0, 3.0]], loss=bp.losses.Quantile([0.1, 0.5, 0.9]))


BAD_SETTINGS = [
    (lambda: bp.losses.Quantile(0), r"levels: expected a finite number in \(0, 1\), got 0"),
    (lambda: bp.losses.Quantile([0.5, 1.0]), r"levels: expected a finite number in \(0, 1\), got 1.0"),
    (lambda: bp.losses.Quantile([0.5, 0.1]), r"levels: expected one or more numbers that rise, got \[0.5, 0.1\]"),
    (lambda: bp.losses.Quantile([]), r"levels: expected one or more numbers that rise, got \[\]"),
    (lambda: bp.losses.Tweedie(1), r"power: expected a finite number in \(1, 2\), got 1"),
    (lambda: bp.losses.Tweedie(2.5), r"power: expected a finite number in \(1, 2\), got 2.5"),
    (lambda: bp.losses.StudentT(0), r"df: expected a finite number in \(0, inf\), got 0"),
    (lambda: bp.losses.StudentT(scale=-1), r"scale: expected a finite number in \(0, inf\), got -1"),
    (lambda: bp.losses.Focal(-1), r"gamma: expected a finite number in \(0, inf\), got -1"),
    (lambda: bp.losses.CategoricalFocal(0), r"gamma: expected a finite number in \(0, inf\), got 0"),
    (lambda: bp.losses.CrossEntropy(1), r"label_smoothing: expected a finite number in \[0, 1\), got 1"),
    (lambda: bp.losses.BinaryCrossEntropy(-0.1), r"label_smoothing: expected a finite number in \[0, 1\), got -0.1"),
]


@pytest.mark.parametrize("make, words", BAD_SETTINGS)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_settings_that_the_network_cannot_hold():
    net = bp.Network([bp.Input(1), bp.Dense(1)])
    for loss, setting in ((bp.losses.StudentT(scale=1e-40), "scale"), (bp.losses.StudentT(df=1e-40), "df|scale"),
                          (bp.losses.Focal(1e-40), "gamma"), (bp.losses.CategoricalFocal(1e-40), "gamma")):  # fmt: skip
        with pytest.raises(
            ValueError, match=f"({setting}): expected a number that float32 can hold, got .*; use dtype="
        ):
            net.fit([[1.0]], [1.0], loss=loss)


def test_the_page_runs():
    text, names = (Path(__file__).parent.parent / "docs/losses.md").read_text(encoding="utf-8"), {}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, "docs/losses.md", "exec"), names)  # they assert for themselves
