"""Derivatives of outputs by inputs: against central differences and by hand, the same bits, and what is refused."""

import numpy as np
import pytest
from conftest import distance

import bpcore as bp
from bpcore import _derivatives

RNG = np.random.default_rng(3)
HIDDEN = [name for name in bp.activations.NAMES if name not in ("identity", "softmax")]


def hidden(f="tanh", sizes=(3, 64, 5), dtype="float64", **settings):
    net = bp.Network([bp.Input(sizes[0]), bp.Dense(sizes[1], f, **settings), bp.Dense(sizes[2])], dtype=dtype, seed=2)
    net.theta = RNG.standard_normal(net.n_params)
    return net


def deep():
    return [bp.Input(4), bp.Dense(9, "tanh"), bp.Dense(7, "gelu"), bp.Dense(40, "softmax")]


def own_layer():
    square = bp.Function(lambda x: x * x, lambda dy, x: 2 * x * dy, name="square")
    sine = bp.Activation(np.sin, np.cos, name="sine")
    return [bp.Input(4), bp.Dense(6, sine), square, bp.Dense(3, sine), bp.Dense(5)]


def convolution():
    return [bp.Input((6, 5, 2)), bp.Conv2D(3, 3, activation="tanh", padding="same"), bp.MaxPool2D(2), bp.Reshape(-1),
            bp.LayerNorm(), bp.Dense(3)]  # fmt: skip


def recurrent(layer):
    return [bp.Input((5, 3)), layer(4, sequences=True), layer(3), bp.Dense(2, "softmax")]


NETS = {
    "hidden": lambda: [bp.Input(3), bp.Dense(8, "tanh"), bp.Dense(5)],
    "deep": deep,
    "relu": lambda: [bp.Input(4), bp.Dense(9, "relu"), bp.Dense(8, "elu"), bp.Dense(3, "relu"), bp.Dense(40)],
    "own": own_layer,
    "convolution": convolution,
    "dropout": lambda: [bp.Input(4), bp.Dense(6, "silu"), bp.Dropout(0.5), bp.Dense(3, "logistic")],
    **{layer.__name__: lambda layer=layer: recurrent(layer) for layer in (bp.SimpleRNN, bp.LSTM, bp.GRU)},
}


def made(name, dtype="float64"):
    net = bp.Network(NETS[name](), dtype=dtype, seed=5)
    net.theta = 0.5 * RNG.standard_normal(net.n_params)
    return net


def rows(net, n):
    (shape,) = net.inputs.values()
    return RNG.uniform(-1, 1, (n, *shape)).astype(net.dtype)


def differences(net, X, h=1e-5):
    flat = X.reshape(len(X), -1)
    J = np.empty((len(X), net.n_outputs, net.n_inputs))
    for k in range(net.n_inputs):
        low, high = (net.predict((flat + step * np.eye(net.n_inputs)[k]).reshape(X.shape)) for step in (-h, h))
        J[:, :, k] = (high - low).reshape(len(X), -1) / (2 * h)
    return J


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("n", [1, 20, 130])
def test_against_central_differences(name, n):
    """Rows that share a pass with others, fill one, and fill several."""
    net = made(name)
    X = rows(net, n)
    J = net.jacobian(X)
    assert J.shape == (n, net.n_outputs, net.n_inputs) and J.flags.c_contiguous
    assert distance(J, differences(net, X)) < 1e-8
    for k in (0, -1):
        dx = net.input_gradient(X, output=k)
        assert dx.shape == X.shape and distance(dx.reshape(n, -1), J[:, k]) < 1e-14


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_has_the_same_bits_beside_any_others_and_on_any_threads(name, dtype, force):
    net = made(name, dtype)
    X = rows(net, 130)
    before = bp.get_num_threads()
    force(True, "")
    try:
        found = []
        for threads in (1, 2, 3):
            bp.set_num_threads(threads)
            J = net.jacobian(X)
            found.append(J.tobytes())
            for part in (slice(0, 1), slice(5, 12), slice(64, 130)):
                assert np.array_equal(net.jacobian(X[part]), J[part])
                for k in (0, 1):
                    dx = net.input_gradient(X[part], output=k).reshape(-1, net.n_inputs)
                    assert np.array_equal(dx, J[part, k]) or name == "hidden"
        assert found[0] == found[1] == found[2]
    finally:
        bp.set_num_threads(before)


# ---- one hidden layer ----


@pytest.mark.parametrize("f", HIDDEN)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-15)])
@pytest.mark.parametrize("sizes", [(3, 64, 5), (1, 1, 1), (2, 9, 1), (7, 11, 17), (64, 64, 1)])
def test_one_hidden_layer_is_one_product(f, sizes, dtype, tolerance):
    """J = V^T diag(f'(z)) W^T, and what the way back finds."""
    net = hidden(f, sizes, dtype, bias=f != "relu")
    X = rows(net, 133)
    assert _derivatives._quick(net._model, 1)
    J = net.jacobian(X)
    tape = net.forward(X)
    want = np.einsum("jk,nj,ij->nki", net.params["dense_2.W"].astype(float), tape.df[1].astype(float),
                     net.params["dense_1.W"].astype(float))  # fmt: skip
    assert J.dtype == dtype and distance(J, want) <= 4 * tolerance
    back = _derivatives._pulled(net._model, [X], 0, 0, sizes[2], 1)[0]
    assert distance(back, want) <= 4 * tolerance
    if sizes[2] == 1:
        assert np.array_equal(net.input_gradient(X, output=0), J[:, 0])


def test_it_follows_theta_and_takes_any_array():
    net = hidden(dtype="float32")
    X = rows(net, 50)
    J = net.jacobian(X)
    for same in (X.astype(float), np.asfortranarray(X), X.astype(">f4"), np.repeat(X, 2, 0)[::2], X.tolist()):
        assert np.array_equal(net.jacobian(same), J)
    twin = net.copy()
    net.theta[:] *= 2
    assert not np.array_equal(net.jacobian(X), J) and np.array_equal(twin.jacobian(X), J)
    net.fit(X, np.zeros((50, 5)), epochs=2)
    assert distance(net.jacobian(X), _derivatives._pulled(net._model, [X], 0, 0, 5, 1)[0]) < 1e-5
    net.frozen = {"dense_1"}
    assert net.jacobian(X).any()


def test_what_is_not_one_small_hidden_layer_goes_the_whole_way():
    for layers in (
        [bp.Input(3), bp.Dense(5)], [bp.Input(3), bp.Dense(5), bp.Dense(2)],
        [bp.Input(3), bp.Dense(5, "softmax"), bp.Dense(2)], [bp.Input(3), bp.Dense(5, "tanh"), bp.Dense(2, "tanh")],
        [bp.Input((4, 3)), bp.Dense(5, "tanh"), bp.Dense(2)], [bp.Input(17), bp.Dense(241, "tanh"), bp.Dense(1)],
        [bp.Input(3), bp.Dense(4, bp.Activation(np.sin, np.cos)), bp.Dense(2)],
    ):  # fmt: skip
        net = bp.Network(layers, dtype="float64", seed=1)
        assert _derivatives._quick(net._model, 1) is None
        X = rows(net, 3)
        assert distance(net.jacobian(X), differences(net, X)) < 1e-9


# ---- several inputs and outputs ----


def several():
    words, image, more = bp.Input(2, integer=True), bp.Input((2, 3)), bp.Input(4)
    h = bp.Reshape(-1)(bp.Embedding(7, 3)(words))
    first = bp.Dense(3, "tanh", name="first")(bp.concat([h, more]))
    second = bp.Dense(2, "logistic", name="second")(bp.Reshape(-1)(image)) * 2
    return bp.Network([words, image, more], [first, second, bp.Activate("tanh")(image)], dtype="float64", seed=3)


def test_over_outputs_over_inputs():
    net, n = several(), 9
    X = [RNG.integers(0, 7, (n, 2)), RNG.standard_normal((n, 2, 3)), RNG.standard_normal((n, 4))]
    J = net.jacobian(X)
    assert [[None if part is None else part.shape for part in row] for row in J] == [
        [None, (n, 3, 6), (n, 3, 4)], [None, (n, 2, 6), (n, 2, 4)], [None, (n, 6, 6), (n, 6, 4)]]  # fmt: skip
    first, second, _ = net.predict(X)
    W = net.params["first.W"][6:]
    np.testing.assert_allclose(J[0][2], (1 - first**2)[:, :, None] * W.T, rtol=1e-13)
    np.testing.assert_allclose(J[1][1], 2 * (second / 2 * (1 - second / 2))[:, :, None] * net.params["second.W"].T,
                               rtol=1e-12)  # fmt: skip
    diagonal = (1 - np.tanh(X[1].reshape(n, 6)) ** 2)[:, :, None] * np.eye(6)
    np.testing.assert_allclose(J[2][1], diagonal, atol=1e-14)
    for row, i in ((0, 1), (1, 2), (2, 2)):
        assert not J[row][i].any()
    found = net.input_gradient(X, output=("add_1", -1))
    assert found[0] is None and found[1].shape == (n, 2, 3) and found[2].shape == (n, 4)
    np.testing.assert_array_equal(found[1].reshape(n, 6), J[1][1][:, 1])
    again = net.jacobian(dict(zip(net.inputs, X, strict=True)))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(J, again, strict=True))


def test_one_input_or_one_output():
    x, y = bp.Input(2), bp.Input(3)
    one = bp.Network([x, y], bp.Dense(4, "tanh")(bp.concat([x, y])))
    X, Y = RNG.standard_normal((5, 2)), RNG.standard_normal((5, 3))
    assert [J.shape for J in one.jacobian([X, Y])] == [(5, 4, 2), (5, 4, 3)]
    assert [d.shape for d in one.input_gradient([X, Y], output=1)] == [(5, 2), (5, 3)]
    two = bp.Network(x, [bp.Dense(4, "tanh")(x), x])
    assert [J.shape for J in two.jacobian(X)] == [(5, 4, 2), (5, 2, 2)]
    assert (two.jacobian(X)[1] == np.eye(2)).all()


# ---- refused ----


@pytest.mark.parametrize("name", ["hidden", "deep"])
def test_refused(name):
    net = made(name)
    X = rows(net, 4)
    for wrong, error, words in (
        (X[:, :2], ValueError, "X: expected shape"), (X[0], ValueError, r"use X.reshape\(1, -1\)"),
        (X[:0], ValueError, "at least one row"), (np.where(X[2, 1] == X, np.nan, X), ValueError, r"X\[2, 1\] is nan"),
        (np.where(X[3, 0] == X, np.inf, X), ValueError, r"X\[3, 0\] is inf"), (X + 0j, TypeError, "real numbers"),
        (np.ma.masked_array(X), TypeError, "masked arrays"), (X.astype(str), TypeError, "real numbers"),
    ):  # fmt: skip
        for call in (net.jacobian, lambda X: net.input_gradient(X, output=0)):
            with pytest.raises(error, match=words):
                call(wrong)
    single = made(name, "float32")
    with pytest.raises(ValueError, match="overflows float32"):
        single.jacobian(np.where(X[2, 1] == X, 1e39, X))


def test_whole_numbers_have_no_derivative():
    net = bp.Network([bp.Input(3, integer=True), bp.Embedding(5, 2), bp.Reshape(-1), bp.Dense(2)])
    for call in (net.jacobian, lambda X: net.input_gradient(X, output=0)):
        with pytest.raises(ValueError, match="an input of real numbers, got whole numbers alone; use net.part"):
            call(np.ones((2, 3), int))


def test_what_the_users_function_raises_comes_out():
    def broken(dy, x):
        raise KeyError("broken")

    net = bp.Network([bp.Input(3), bp.Dense(4, "tanh"), bp.Function(lambda x: x, broken), bp.Dense(2)])
    with pytest.raises(KeyError, match="broken"):
        net.jacobian(np.ones((5, 3)))
    assert net.predict(np.ones((5, 3))).shape == (5, 2)


def numbers(net, X, step=1e-6):
    """Central differences of each output by the only real input, (n, n_L, n_0) each."""
    def answers(Z):
        found = net.predict(Z)
        return [a.reshape(len(X), -1) for a in (found if isinstance(found, tuple) else (found,))]

    columns = []
    for k in range(X[0].size):
        move = np.zeros((1, X[0].size))
        move[0, k] = step
        move = move.reshape(1, *X.shape[1:])
        after, before = answers(X + move), answers(X - move)
        columns.append([(a - b) / (2 * step) for a, b in zip(after, before, strict=True)])
    return [np.stack(column, 2) for column in zip(*columns, strict=True)]


@pytest.mark.parametrize("f", ["tanh", "relu", "logistic"])
def test_an_output_whose_only_reader_leads_elsewhere(f):
    """f' of the first output is not taken along by a product that this output does not depend on."""
    x = bp.Input(5)
    h = bp.Dense(6, f)(x)
    net = bp.Network(x, [h, bp.Dense(3)(h)], dtype="float64", seed=1)
    X = np.random.default_rng(0).normal(size=(7, 5))
    for got, want in zip(net.jacobian(X), numbers(net, X), strict=True):
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-7)


@pytest.mark.parametrize("rows", [3, 40, 70])
def test_a_recurrent_branch_beside_the_way_back(rows):
    """What has no gradient is not computed again for further seeds: its memory is others' by then."""
    x = bp.Input((4, 3))
    y = bp.Dense(8, "tanh")(bp.Dense(8, "tanh")(bp.Reshape(-1)(x)))
    net = bp.Network(x, [bp.LSTM(8)(x), bp.Dense(5)(y)], dtype="float64", seed=2)
    X = np.random.default_rng(1).normal(size=(rows, 4, 3))
    for got, want in zip(net.jacobian(X), numbers(net, X), strict=True):
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-7)


def test_gradients_behind_a_frozen_recurrent_layer():
    x = bp.Input((4, 3))
    h = bp.Dense(12, "tanh")(bp.Dense(12, "tanh")(bp.LSTM(6, name="l")(x)))
    net = bp.Network(x, bp.Dense(5)(h), dtype="float64", seed=3)
    net.frozen = {"l"}
    X = np.random.default_rng(2).normal(size=(70, 4, 3))
    whole = _derivatives.output_gradients(net._model, [X], 0, 1)
    for i in (0, 33, 69):
        alone = _derivatives.output_gradients(net._model, [X[i : i + 1]], 0, 1)
        np.testing.assert_allclose(whole[5 * i : 5 * i + 5], alone, atol=1e-12)
