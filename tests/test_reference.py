"""The oracle itself: its gradients against central differences, its edge values against the definitions."""

import numpy as np
import pytest
import reference as ref

ACTIVATIONS, LOSSES = sorted(ref.ACTIVATIONS), sorted(ref.LOSSES)


def middle(name):
    """A z at which f(z) is near 1/2, so that the output suits every loss."""
    z = np.linspace(-2, 2, 401)
    return 0.0 if name == "softmax" else z[np.argmin(abs(ref.ACTIVATIONS[name][0](z) - 0.5))]


def example(activation, depth, seed=0, n_out=3, n_examples=5):
    """A net with `activation` in every layer (softmax: in the last), |z| <= 2 and outputs inside (0, 1)."""
    rng = np.random.default_rng(seed)
    sizes = [4, 5, 6, 5][:depth] + [n_out]
    names = [None] + ["tanh" if activation == "softmax" else activation] * (depth - 1) + [activation]
    X, y = rng.normal(0, 1, (n_examples, 4)), rng.dirichlet(np.ones(n_out), n_examples)
    W, b = [None], [None]
    for n, m in zip(sizes, sizes[1:], strict=False):
        a = ref.forward(W, b, names, X)[1][-1]
        V = rng.normal(0, 1, (m, n))
        W.append(V * 1.5 / abs(a @ V.T).max())
        b.append(rng.uniform(-0.5, 0.5, m))
    W[-1] *= 0.2
    b[-1] = middle(activation) + 0.1 * b[-1]
    return W, b, names, X, y


def cost(W, b, names, X, y, loss, w):
    return ref.backward(W, names, *ref.forward(W, b, names, X), y, loss, w)[0]


def central_differences(f, p, h=1e-5):
    """df/dp by moving one element of p at a time."""
    g = np.empty(p.shape)
    for i in np.ndindex(p.shape):
        p[i] += h
        above = f()
        p[i] -= 2 * h
        g[i] = (above - f()) / (2 * h)
        p[i] += h
    return g


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_against_central_differences(activation, loss):
    for depth in (1, 2, 3, 4):
        W, b, names, X, y = example(activation, depth, seed=depth)
        w = np.random.default_rng(depth).uniform(0, 2, len(X))
        w[1] = 0.0
        _, _, dW, db, dx = ref.backward(W, names, *ref.forward(W, b, names, X), y, loss, w)
        pairs = [(X, dx), *zip(W[1:], dW[1:], strict=True), *zip(b[1:], db[1:], strict=True)]
        for p, g in pairs:
            numeric = central_differences(lambda: cost(W, b, names, X, y, loss, w), p)  # noqa: B023
            assert np.linalg.norm(g - numeric) <= 1e-8 * np.linalg.norm(numeric) + 1e-10


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "softmax"])
def test_derivatives_at_every_scale(activation):
    f, fprime = ref.ACTIVATIONS[activation]
    z = np.random.default_rng(0).normal(0, 4, 2000)
    kinks = np.array([-3, -1, 0, 1, 3])
    z = z[abs(z[:, None] - kinks).min(1) > 1e-4]
    numeric = (f(z + 1e-5) - f(z - 1e-5)) / 2e-5
    np.testing.assert_allclose(fprime(z), numeric, rtol=1e-8, atol=1e-9)


def test_derivatives_at_the_kinks():
    at = {"relu": {0: 0}, "leaky_relu": {0: 0.01}, "hard_tanh": {-1: 0, 1: 0}, "hard_sigmoid": {-3: 0, 3: 0},
          "elu": {0: 1}, "selu": {0: ref.SELU_SCALE * ref.SELU_ALPHA}}  # fmt: skip
    for name, points in at.items():
        for z, expected in points.items():
            assert ref.ACTIVATIONS[name][1](np.array([float(z)])) == expected


def test_known_values():
    value = {name: f(np.array([[1.0, -2.0]])) for name, (f, _) in ref.ACTIVATIONS.items()}
    np.testing.assert_allclose(value["gelu"], [[0.8413447460685429, -0.04550026389635842]], rtol=1e-14)
    np.testing.assert_allclose(value["selu"], [[1.0507009873554805, -1.520166468595695]], rtol=1e-14)
    np.testing.assert_allclose(value["elu"], [[1, -0.8646647167633873]], rtol=1e-14)
    np.testing.assert_allclose(value["silu"], [[0.7310585786300049, -0.2384058440442351]], rtol=1e-14)
    np.testing.assert_allclose(value["softplus"], [[1.3132616875182228, 0.1269280110429726]], rtol=1e-14)
    np.testing.assert_allclose(value["softsign"], [[1 / 2, -2 / 3]], rtol=1e-14)
    np.testing.assert_allclose(value["hard_sigmoid"], [[2 / 3, 1 / 6]], rtol=1e-14)
    np.testing.assert_allclose(value["softmax"], [[0.9525741268224334, 0.0474258731775668]], rtol=1e-14)
    np.testing.assert_array_equal(value["leaky_relu"], [[1, -0.02]])
    np.testing.assert_array_equal(value["hard_tanh"], [[1, -1]])


@pytest.mark.parametrize("pair", ref.FUSED)
def test_fused_pair_is_its_two_parts(pair):
    activation, loss = pair
    W, b, names, X, y = example(activation, 2)
    z, a, df = ref.forward(W, b, names, X)
    fused = ref.backward(W, names, z, a, df, y, loss)
    apart = ref.backward(W, names, z, a, df, y, ref.LOSSES[loss])
    apart_named = ref.backward(W, [*names[:-1], ref.ACTIVATIONS[activation]], z, a, df, y, loss)
    for other in (apart, apart_named):
        np.testing.assert_allclose(fused[0], other[0], rtol=1e-12)
        np.testing.assert_allclose(fused[1][2], other[1][2], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("size", [1.0, 40.0, 1e4])
def test_fused_pairs_stand_any_logit(size):
    """E is log(1 + exp(-d)) for a right answer by a margin d, and d more for a wrong one."""
    z, y = size * np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    for (activation, loss), n_terms, margin in (
        (("logistic", "binary_cross_entropy"), 2, size),
        (("softmax", "cross_entropy"), 1, 2 * size),
    ):
        W, b, names = [None, np.eye(2)], [None, None], [None, activation]
        C, delta, *_ = ref.backward(W, names, *ref.forward(W, b, names, z), y, loss)
        np.testing.assert_allclose(C, n_terms * (np.log1p(np.exp(-margin)) + margin / 2), rtol=1e-14)
        np.testing.assert_allclose(delta[1][1], [-1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(-margin))])


def test_labels_are_one_hot_rows():
    W, b, names, X, _ = example("softmax", 3)
    labels = np.array([0, 2, 1, 2, 0])
    tape = ref.forward(W, b, names, X)
    by_label = ref.backward(W, names, *tape, labels, "cross_entropy")
    by_row = ref.backward(W, names, *tape, np.eye(3)[labels], "cross_entropy")
    assert by_label[0] == by_row[0]
    np.testing.assert_array_equal(by_label[4], by_row[4])


def test_an_integer_weight_is_a_repeated_example():
    W, b, names, X, y = example("logistic", 3)
    times = np.array([1, 3, 0, 2, 1])
    C, delta, dW, db, dx = ref.backward(W, names, *ref.forward(W, b, names, X), y, "mse", times)
    Xr, yr = np.repeat(X, times, 0), np.repeat(y, times, 0)
    Cr, delta_r, dWr, dbr, _ = ref.backward(W, names, *ref.forward(W, b, names, Xr), yr, "mse")
    np.testing.assert_allclose(C, Cr, rtol=1e-14)
    np.testing.assert_allclose(np.repeat(delta[1], times, 0), delta_r[1], rtol=1e-13)
    for g, g_r in zip(dW[1:] + db[1:], dWr[1:] + dbr[1:], strict=True):
        np.testing.assert_allclose(g, g_r, rtol=1e-12, atol=1e-16)
    assert (dx[2] == 0).all()


def test_first_steps_of_the_optimisers():
    """Two steps worked by hand: lr 1/2, momentum 1/2, gradients 1 and 2, weight 1, decay 0."""
    for nesterov, expected in ((False, [0.5, -0.75]), (True, [0.25, -1.375])):
        theta, state = np.array([1.0]), {}
        for g, value in zip((1.0, 2.0), expected, strict=True):
            ref.sgd(theta, g, state, lr=0.5, momentum=0.5, nesterov=nesterov)
            assert theta[0] == value
    theta, state = np.array([1.0, -1.0]), {}
    ref.adam(theta, np.array([1e-3, -1e3]), state, lr=0.1, eps=0.0)
    np.testing.assert_allclose(theta, [0.9, -0.9], rtol=1e-14)
    theta = np.array([2.0])
    ref.sgd(theta, 0.0, {}, lr=0.1, weight_decay=0.5)
    assert theta[0] == 1.9
