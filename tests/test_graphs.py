"""Graphs: the functional form, several inputs and outputs, parts, frozen layers, files, and what is refused."""

import copy
import dataclasses
import gc
import json
import pickle
import weakref

import numpy as np
import pytest
from random_graphs import CUSTOM, by_name, pair, values
from safetensors import safe_open
from safetensors.numpy import save_file

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(0)
Weighted = bp.losses.Weighted


def example(dtype="float64", seed=1):
    """Two inputs, a residual block, a shared layer, three outputs."""
    words, image = bp.Input((5, 3), name="words"), bp.Input((4, 2), name="image")
    shared = bp.Dense(4, "tanh", name="shared")
    h = bp.Activate("softmax", axis=0)(shared(words))[1:]
    k = bp.Dense(4, "gelu")(image)
    k = bp.Bias()(bp.Scale()(k + h)) - k * h / 2
    labels = bp.Dense(3, "softmax", name="labels")(bp.Reshape(-1)(k))
    turned = shared(bp.Permute((1, 0))(bp.Reshape((3, 4))(words[:4])))
    values_ = bp.Dense(2, name="values")(bp.concat([k, turned + 1]))
    return bp.Network([words, image], [labels, values_, bp.Activate("logistic")(h)], dtype=dtype, seed=seed)


def rows(n=40, dtype="float64"):
    X = [RNG.standard_normal((n, 5, 3)).astype(dtype), RNG.standard_normal((n, 4, 2)).astype(dtype)]
    y = [RNG.integers(0, 3, n), RNG.standard_normal((n, 4, 2)), RNG.random((n, 4, 4))]
    return X, y


LOSSES = ["auto", Weighted("mse", 0.3), Weighted(bp.losses.Huber(0.5), 2.0)]


def state_of(net):
    return net.theta.tobytes(), [a.tobytes() for a in net._model.memory.states], net.step, net.epoch, net.frozen


def same(a, b):
    a, b = (x if isinstance(x, tuple) else (x,) for x in (a, b))
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ---- values ----


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 2e-6)])
def test_values_are_those_of_numpy(dtype, tolerance):
    net = example(dtype)
    X, _ = rows(70, dtype)
    found = values(net, {name: np.array(view, float) for name, view in net.params.items()}, X)
    answers = net.predict(X)
    assert isinstance(answers, tuple) and net.inputs == {"words": (5, 3), "image": (4, 2)}
    assert net.outputs == {"labels": (3,), "values": (4, 2), "activate_2": (4, 4)}
    for answer, i, shape in zip(answers, net._model.graph.outputs, net.outputs.values(), strict=True):
        assert answer.shape == (70, *shape) and answer.dtype == dtype
        np.testing.assert_allclose(answer, found[i], rtol=tolerance, atol=tolerance)
    assert same(answers, net.predict(dict(zip(net.inputs, X, strict=True))))
    assert same(answers, net.predict(tuple(np.asfortranarray(x) for x in X)))


def test_gradients():
    net = example()
    X, y = rows(4)
    w = np.array([1.0, 0.0, 0.5, 2.0])
    errors = bp.check_gradients(net, X, y, loss=LOSSES, sample_weight=w)
    assert set(errors) == set(net.params) and max(errors.values()) < 1e-7


def test_operators_are_their_layers():
    x, y = bp.Input((2, 3)), bp.Input((2, 3))
    X, Y = RNG.standard_normal((2, 7, 2, 3))
    cases = [
        (x + y, X + Y), (x - y, X - Y), (x * y, X * Y), (-x + 0 * y, -X), (2 - x + 0 * y, 2 - X),
        (x / 4 + y * 0.5, X / 4 + Y * 0.5), (1 + x + y, 1 + X + Y), (np.float64(3) * x - y, 3 * X - Y),
        (bp.Add()(x, y, x), 2 * X + Y), (bp.Multiply()(x, y), X * Y),
        (bp.concat([x, y]), np.concatenate([X, Y], 2)), (bp.concat([x, y], 0), np.concatenate([X, Y], 1)),
        ((x + 0 * y)[0], X[:, 0]), ((x + 0 * y)[..., -1], X[..., -1]), ((x + 0 * y)[:, ::-1], X[:, :, ::-1]),
        ((x + 0 * y)[1, 2], X[:, 1, 2:]), ((x + 0 * y)[1, np.int64(2)], X[:, 1, 2:]),
    ]  # fmt: skip
    for symbol, want in cases:
        net = bp.Network([x, y], symbol, dtype="float64")
        assert symbol.shape == want.shape[1:]
        np.testing.assert_allclose(net.predict([X, Y]), want, rtol=1e-14, atol=1e-15)


def test_the_chain_in_both_forms_has_the_same_bits():
    def layers():
        return [bp.Input(5), bp.Dense(9, "relu"), bp.Dense(7, "tanh", bias=False), bp.Dense(3, "softmax")]

    x, *rest = layers()
    h = x
    for layer in rest:
        h = layer(h)
    nets = [bp.Network(layers(), seed=4), bp.Network(x, h, seed=4), bp.Network([x], [h], seed=4)]
    X, y = RNG.standard_normal((90, 5)), RNG.integers(0, 3, 90)
    found = []
    for net in nets:
        assert net._model.graph.is_chain and repr(net) == repr(nets[0]) and net.summary() == nets[0].summary()
        history = net.fit(X, y, epochs=3, optimizer=bp.Adam(), batch_size=16)
        grads = net.backward(net.forward(X), y)
        found.append((state_of(net), history.loss, net.predict(X).tobytes(), grads.theta.tobytes()))
    assert found[0] == found[1] == found[2]


# ---- losses and outputs ----


def test_losses_are_weighted_sums():
    net = example()
    X, y = rows()
    result = net.evaluate(X, y, loss=LOSSES)
    labels, numbers, probabilities = net.predict(X)
    wanted = {
        "labels": -np.log(labels[np.arange(40), y[0]]).mean(),
        "values": np.mean((numbers - y[1]) ** 2),
        "activate_2": 0,
    }
    r = abs(probabilities - y[2])
    wanted["activate_2"] = np.where(r <= 0.5, r**2 / 2, 0.5 * (r - 0.25)).sum(-1).mean()
    for name, loss in wanted.items():
        assert result[f"{name}.loss"] == pytest.approx(loss, rel=1e-12)
    total = wanted["labels"] + 0.3 * wanted["values"] + 2 * wanted["activate_2"]
    assert result["loss"] == pytest.approx(total, rel=1e-12)
    assert result["labels.accuracy"] == np.mean(labels.argmax(1) == y[0])
    assert set(result) == {"loss", "labels.accuracy", *(f"{name}.loss" for name in wanted)}
    named = dict(zip(net.outputs, LOSSES, strict=True)), dict(zip(net.outputs, y, strict=True))
    assert net.evaluate(X, named[1], loss=named[0]) == result
    assert net.value_and_grad(X, y, loss=LOSSES)[0] == pytest.approx(total, rel=1e-12)
    zero = [Weighted("auto", 0), LOSSES[1], Weighted("mse", 0)]
    assert net.evaluate(X, y, loss=zero)["loss"] == pytest.approx(0.3 * wanted["values"], rel=1e-12)


def test_fit_of_several_outputs():
    X, y = rows()
    found = []
    for data in ((X, y), (dict(zip(example().inputs, X, strict=True)), dict(zip(example().outputs, y, strict=True)))):
        net = example()
        history = net.fit(*data, loss=LOSSES, optimizer=bp.Adam(lr=0.01), epochs=20, batch_size=10,
                          validation_data=data, callbacks=[bp.EarlyStopping(patience=30)])  # fmt: skip
        assert history.loss[-1] < history.loss[0] and history.val_loss[-1] < history.val_loss[0]
        assert history.val_loss[-1] == net.evaluate(*data, loss=LOSSES)["loss"]
        found.append((state_of(net), history.loss, history.val_loss))
    assert found[0] == found[1]


@pytest.mark.parametrize("cols", [1, 2, 3, 8])
@pytest.mark.parametrize("phase2", ["owners", "shards"])
def test_weights_of_sequences_are_of_rows(cols, phase2, force):
    """Each of a row's positions has the row's weight, whatever lies beside it in memory."""
    x = bp.Input((3, 2))
    X, y, w = RNG.standard_normal((67, 3, 2)), RNG.standard_normal((67, 3, cols)), RNG.random(67).round(1)
    force(True, phase2)
    net = bp.Network(x, bp.Dense(cols)(x), dtype="float64")
    a = net.predict(X)
    E = ((a - y) ** 2).sum(-1).mean(-1) / 2
    delta = w[:, None, None] * (a - y) / 3 / w.sum()
    for n_threads in (1, 2, 3):
        C, grad = net.value_and_grad(X, y, sample_weight=w, n_threads=n_threads)
        assert pytest.approx((w * E).sum() / w.sum(), rel=1e-12) == C
        assert pytest.approx(net.evaluate(X, y, sample_weight=w, n_threads=n_threads)["loss"], rel=1e-14) == C
        np.testing.assert_allclose(by_name(net, grad)["dense_1.W"], np.einsum("nti,ntj->ij", X, delta), atol=1e-14)
        np.testing.assert_allclose(by_name(net, grad)["dense_1.b"], delta.sum((0, 1)), atol=1e-14)


def test_a_row_of_weight_zero_may_be_infinite():
    x = bp.Input((2, 2))
    net = bp.Network(x, bp.Activate("exp")(bp.Dense(2)(x)))
    X, y = np.full((3, 2, 2), 0.1), np.ones((3, 2, 2))
    y[1] = 1e30
    C, grad = net.value_and_grad(X, y, sample_weight=[1, 0, 1])
    assert np.isfinite(C) and np.isfinite(grad).all()


def test_sequences_with_labels():
    x = bp.Input((6, 3))
    net = bp.Network(x, bp.Dense(4, "softmax")(bp.Dense(8, "tanh")(x)), dtype="float64")
    X = RNG.standard_normal((50, 6, 3))
    y = (X[..., 0] > 0) + 2 * (X[..., 1] > 0)
    as_rows = bp.Network([bp.Input(3), bp.Dense(8, "tanh"), bp.Dense(4, "softmax")], dtype="float64")
    as_rows.theta = net.theta
    assert net.evaluate(X, y) == pytest.approx(as_rows.evaluate(X.reshape(-1, 3), y.ravel()), rel=1e-13)
    one_hot = net.value_and_grad(X, np.eye(4)[y])
    labels = net.value_and_grad(X, y)
    assert labels[0] == pytest.approx(one_hot[0], rel=1e-14)
    np.testing.assert_allclose(labels[1], as_rows.value_and_grad(X.reshape(-1, 3), y.ravel())[1], atol=1e-13)
    np.testing.assert_allclose(labels[1], one_hot[1], atol=1e-14)
    net.fit(X, y, optimizer=bp.Adam(lr=0.05), epochs=40)
    assert net.evaluate(X, y)["accuracy"] > 0.9
    with pytest.raises(ValueError, match=r"y: expected class labels of shape \(50, 6\), got \(50, 5\)"):
        net.fit(X, y[:, :5])
    with pytest.raises(ValueError, match=r"y: expected numbers from 0 to 3; y\[7, 2\] is 4"):
        net.fit(X, np.where(np.arange(300).reshape(50, 6) == 44, 4, y))


def test_outputs_that_are_one_buffer_or_read_by_others():
    """A Reshape has the memory of its input, an activation's gradient may lie where its own output's was."""
    x = bp.Input(4)
    z = bp.Dense(6, name="z")(x)
    a = bp.Activate("tanh", name="a")(z)
    outputs = [z, bp.Reshape((2, 3))(z), a, bp.Reshape(-1)(bp.Reshape((3, 2))(a)), bp.Dense(2, "logistic")(a), x]
    X = RNG.standard_normal((5, 4))
    for chosen in ([0, 1], [0, 2], [2, 0], [2, 3], [0, 4], [4, 2, 0], range(6)):
        some = [outputs[i] for i in chosen]
        net = bp.Network(x, some, dtype="float64", seed=2)
        y = [RNG.random((5, *symbol.shape)) for symbol in some]
        assert max(bp.check_gradients(net, X, y, loss="mse").values()) < 1e-7, chosen
        answers = net.predict(X)
        for symbol, answer in zip(some, answers, strict=True):
            assert answer.shape == (5, *symbol.shape)


# ---- sharing, networks as layers, parts ----


def test_a_shared_layer_is_one_set_of_weights():
    x, shared = bp.Input(3), bp.Dense(3, "tanh", name="loop")
    h = x
    for _ in range(4):
        h = shared(h) + x
    net = bp.Network(x, h, dtype="float64", seed=3)
    assert list(net.params) == ["loop.W", "loop.b"] and net.n_params == 12
    assert [n.name for n in net._model.graph.nodes if n.layer is shared] == ["loop", "loop@2", "loop@3", "loop@4"]
    X = RNG.standard_normal((6, 3))
    want = X
    for _ in range(4):
        want = np.tanh(want @ net.params["loop.W"] + net.params["loop.b"]) + X
    np.testing.assert_allclose(net.predict(X), want, atol=1e-14)
    assert max(bp.check_gradients(net, X, want + 1).values()) < 1e-7
    assert net.summary().count("shared") == 3


def test_a_network_as_a_layer():
    inner = bp.Network([bp.Input(3), bp.Dense(4, "tanh", name="a"), bp.Dense(2)], dtype="float64", seed=5)
    before = state_of(inner)
    x, y = bp.Input(3), bp.Input(3)
    first, second = inner(x), inner(y)
    net = bp.Network([x, y], bp.Dense(1)(bp.concat([first, second])), dtype="float64", seed=6)
    X, Y = RNG.standard_normal((2, 8, 3))
    assert len(net.params) == 6 and net.params["a.W"].tobytes() == inner.params["a.W"].tobytes()
    both = np.concatenate([inner.predict(X), inner.predict(Y)], 1)
    last = [name for name in net.params if not any(name.startswith(n.base + ".") for n in inner._model.graph.nodes)]
    assert len(last) >= 2
    dense = net._model.graph.nodes[-1].base
    np.testing.assert_allclose(net.predict([X, Y]), both @ net.params[f"{dense}.W"] + net.params[f"{dense}.b"])
    net.fit([X, Y], RNG.standard_normal(8), epochs=3)
    assert state_of(inner) == before  # a copy of its weights
    several = bp.Network([x, y], [x + y, x - y])
    answers = several(bp.Dense(3)(x), y)
    assert isinstance(answers, list) and [symbol.shape for symbol in answers] == [(3,), (3,)]
    for wrong, error in (((x,), ValueError), ((x, bp.Input(2)), ValueError), ((x, np.ones(3)), TypeError)):
        with pytest.raises(error, match="inputs"):
            several(*wrong)
    assert pickle.loads(pickle.dumps(net)).predict([X, Y]).tobytes() == net.predict([X, Y]).tobytes()


def test_parts():
    net = example()
    X, y = rows(6)
    net.fit(X, y, loss=LOSSES)
    before = state_of(net)
    found = values(net, net.params, X)
    numbers = {node.name: i for i, node in enumerate(net._model.graph.nodes)}
    hidden = net.part("words", "activate_2")
    np.testing.assert_allclose(hidden.predict(X[0]), found[numbers["activate_2"]], atol=1e-14)
    within = net.part("shared", "activate_2")
    np.testing.assert_allclose(within.predict(found[numbers["shared"]]), found[numbers["activate_2"]], atol=1e-15)
    assert within.inputs == {"shared": (5, 4)} and within.n_params == 0
    whole = net.part(list(net.inputs), list(net.outputs))
    assert whole.params.keys() == net.params.keys() and same(whole.predict(X), net.predict(X))
    whole.fit(X, y, loss=LOSSES)
    assert state_of(net) == before and whole.theta.tobytes() != net.theta.tobytes()
    names = ", ".join(numbers)
    for arguments, error, words in (
        (("wordz", "labels"), ValueError, f"inputs: there is no 'wordz'. Did you mean 'words'? Valid names: {names}"),
        (("words", 3), TypeError, "outputs: expected one of"),
        (("words", "labels"), ValueError, "outputs: labels depends on more than the inputs given"),
        (("labels", "labels"), ValueError, "no output depends on Input"),
        ((["words", "image"], "activate_2"), ValueError, "no output depends on Input"),
        ((["words"], ["activate_2", "activate_2"]), ValueError, "outputs: expected each once"),
    ):
        with pytest.raises(error) as caught:
            net.part(*arguments)
        assert words in str(caught.value)
    assert state_of(net) == before


def test_parts_within_shared_layers():
    x, shared = bp.Input(3), bp.Dense(3, "tanh", name="loop")
    net = bp.Network(x, shared(shared(shared(x))), dtype="float64")
    X = RNG.standard_normal((4, 3))
    for begin, end in (("input", "loop"), ("loop", "loop@2"), ("loop", "loop@3"), ("loop@2", "loop@3")):
        part = net.part(begin, end)
        want, steps = X, {"input": 0, "loop": 1, "loop@2": 2, "loop@3": 3}
        for _ in range(steps[end] - steps[begin]):
            want = np.tanh(want @ net.params["loop.W"] + net.params["loop.b"])
        np.testing.assert_allclose(part.predict(X), want, atol=1e-14)


# ---- frozen ----


@pytest.mark.parametrize("optimizer", [bp.SGD(0.1), bp.SGD(0.1, momentum=0.9, weight_decay=0.1), bp.Adam(0.01)])
@pytest.mark.parametrize("phase2", ["owners", "shards"])
def test_frozen_layers_stay_bit_for_bit(optimizer, phase2, force):
    force(True, phase2)
    net = example("float32")
    X, y = rows()
    net.frozen = {"shared", "values"}
    assert net.frozen == frozenset({"shared", "values"}) and net.summary().count("frozen") == 2
    before = {name: view.copy() for name, view in net.params.items()}
    net.fit(X, y, loss=LOSSES, optimizer=optimizer, epochs=3)
    for name, view in net.params.items():
        assert np.array_equal(view, before[name]) == (name.partition(".")[0] in net.frozen), name
    grad = by_name(net, net.value_and_grad(X, y, loss=LOSSES)[1])
    each = net.per_sample_gradients(X, y, loss=LOSSES)
    for name, g in grad.items():
        assert g.any() == (name.partition(".")[0] not in net.frozen)
        p = net._model.graph.parameters[name]
        assert each[:, p.offset : p.offset + p.rows * p.cols].any() == g.any()
    twin = net.copy()
    assert twin.frozen == net.frozen
    net.frozen = []
    assert not net.frozen and twin.frozen and net.value_and_grad(X, y, loss=LOSSES)[1].all()


def test_gradients_of_the_rest_are_those_without_frozen_layers():
    net = example()
    X, y = rows(9)
    free = by_name(net, net.value_and_grad(X, y, loss=LOSSES)[1])
    for layer in {name.partition(".")[0] for name in net.params}:
        net.frozen = [layer]
        for name, g in by_name(net, net.value_and_grad(X, y, loss=LOSSES)[1]).items():
            np.testing.assert_allclose(g, 0 if name.startswith(f"{layer}.") else free[name], atol=1e-15)
    net.frozen = {name.partition(".")[0] for name in net.params}
    assert not net.value_and_grad(X, y, loss=LOSSES)[1].any()
    before = net.theta.copy()
    net.fit(X, y, loss=LOSSES)
    assert np.array_equal(net.theta, before)


def test_wrong_frozen():
    net = example()
    net.frozen = ["values"]
    for value, error in (
        ("values", TypeError), (["value"], ValueError), (["words"], ValueError), (["shared.W"], ValueError),
        (["shared@2"], ValueError), ([3], TypeError), (None, TypeError), (7, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match="frozen: "):
            net.frozen = value
        assert net.frozen == {"values"}


# ---- what is refused ----

X2, Y2, W3 = bp.Input(2), bp.Input(2), bp.Input((2, 3))
SHARED3 = bp.Dense(3)
REFUSED = {
    "dangling input": (lambda: bp.Network(X2, bp.Dense(1)(X2 + Y2)), ValueError, "outputs: .*Input.2.*not among"),
    "unused input": (lambda: bp.Network([X2, W3], bp.Dense(1)(X2)), ValueError, r"inputs: .*Input\(\(2, 3\)\)"),
    "input alone": (lambda: bp.Network(X2, X2), ValueError, "inputs: no output depends on"),
    "input twice": (lambda: bp.Network([X2, X2], bp.Dense(1)(X2)), ValueError, "inputs: .*once.*twice"),
    "no input": (lambda: bp.Network([], bp.Dense(1)(X2)), ValueError, "inputs: expected at least one"),
    "no output": (lambda: bp.Network(X2, []), ValueError, "outputs: expected at least one"),
    "layer for output": (lambda: bp.Network(X2, bp.Dense(1)), TypeError, "outputs: .*Dense"),
    "layer for input": (lambda: bp.Network(bp.Dense(1), bp.Dense(1)(X2)), TypeError, "inputs: .*Dense"),
    "symbol in a list": (lambda: bp.Network([X2, bp.Dense(1)(X2)]), TypeError, r"layers\[1\]: .*Network\(x, y\)"),
    "within": (lambda: bp.Network(X2 * 2, bp.Dense(1)(X2 * 2)), TypeError, r"inputs: .*net.part"),
    "array": (lambda: bp.Network(np.ones(2), bp.Dense(1)(X2)), TypeError, "inputs: .*ndarray"),
    "two widths": (lambda: bp.Network([X2, W3], [SHARED3(X2), SHARED3(W3)]), ValueError,
                   r"dense_1 is used twice, with W of shape \(2, 3\) and \(3, 3\)"),
    "a name twice": (lambda: bp.Network(X2, [bp.Dense(1, name="a")(X2), bp.Dense(1, name="a")(X2)]), ValueError,
                     "'a' twice"),
    "the input's name": (lambda: bp.Network(X2, bp.Dense(1, name="input")(X2)), ValueError, "'input' twice"),
    "sum": (lambda: X2 + W3, ValueError, r"Add.*\(2,\), \(2, 3\)"),
    "product": (lambda: X2 * W3, ValueError, r"Multiply.*\(2,\), \(2, 3\)"),
    "product of three": (lambda: bp.Multiply()(X2, Y2, X2), ValueError, "Multiply.*two inputs"),
    "quotient": (lambda: X2 / Y2, TypeError, "bp.Function"),
    "by zero": (lambda: X2 / 0, ZeroDivisionError, "Input"),
    "word": (lambda: X2 + "1", TypeError, "number beside"),
    "NaN": (lambda: X2 * float("nan"), ValueError, "number beside"),
    "numbers": (lambda: np.ones(2) * X2, TypeError, "number beside"),
    "factors": (lambda: bp.Add([1, 2, 3])(X2, Y2), ValueError, "Add.*expected 3 inputs, got 2"),
    "factors word": (lambda: bp.Add("12"), TypeError, "factors"),
    "factors infinite": (lambda: bp.Add([1e400]), ValueError, "factors"),
    "constant": (lambda: bp.Add(constant=None), TypeError, "constant"),
    "truth": (lambda: bool(X2), TypeError, "no value yet"),
    "iteration": (lambda: list(X2), TypeError, "cannot be iterated"),
    "numpy": (lambda: np.asarray(X2), TypeError, "no numbers yet"),
    "call with a list": (lambda: SHARED3([X2]), TypeError, "Dense.*several arguments"),
    "call with two": (lambda: SHARED3(X2, Y2), TypeError, "Dense.*one input, got 2"),
    "call with none": (lambda: SHARED3(), TypeError, "Dense.*one input, got 0"),
    "call with numbers": (lambda: SHARED3(np.ones(2)), TypeError, "Dense.*ndarray"),
    "call of an input": (lambda: X2(Y2), TypeError, r"Input\(2\) takes no input"),
    "concat": (lambda: bp.concat([X2, W3]), ValueError, r"Concat.*\(2,\), \(2, 3\)"),
    "concat axis": (lambda: bp.concat([X2, Y2], 1), ValueError, "Concat.*axis of"),
    "concat one": (lambda: bp.concat(X2), TypeError, "concat: expected a list"),
    "concat nothing": (lambda: bp.concat([]), TypeError, "Concat.*got 0"),
    "concat nine": (lambda: bp.concat([X2] * 9), ValueError, "at most 8 inputs, got 9; nest them"),
    "reshape": (lambda: bp.Reshape(4)(W3), ValueError, r"Reshape.*expected 4 numbers, got 6"),
    "reshape rest": (lambda: bp.Reshape((-1, 4))(W3), ValueError, "4 numbers or a multiple, got 6"),
    "reshape 0": (lambda: bp.Reshape(0), ValueError, "shape: .*above zero"),
    "reshape two rests": (lambda: bp.Reshape((-1, -1)), ValueError, "shape: .*one of them"),
    "reshape five": (lambda: bp.Reshape((1,) * 5), ValueError, "shape: expected 1 to 4"),
    "reshape real": (lambda: bp.Reshape(6.0), TypeError, "shape: expected an integer"),
    "permute": (lambda: bp.Permute((1, 0))(X2), ValueError, "Permute.*2 axes"),
    "permute twice": (lambda: bp.Permute((1, 1)), ValueError, "axes: expected an order"),
    "slice": (lambda: X2[2], ValueError, r"Slice.*an index of \(2,\)"),
    "slice nothing": (lambda: X2[2:], ValueError, "Slice.*leaves something"),
    "slice axes": (lambda: X2[0, 0], ValueError, "Slice.*an index of"),
    "slice dots": (lambda: W3[..., ...], ValueError, "Slice"),
    "slice mask": (lambda: X2[[True, False]], TypeError, "a list is no index"),
    "slice none": (lambda: X2[None], TypeError, "index: "),
    "slice real": (lambda: X2[0.5], TypeError, "index: "),
    "slice step": (lambda: X2[::0], TypeError, "index: "),
    "activation": (lambda: bp.Activate("sigmoid"), ValueError, "activation: .*Did you mean 'logistic'"),
    "axis of tanh": (lambda: bp.Activate("tanh", axis=0), ValueError, "axis: only softmax"),
    "axis": (lambda: bp.Activate("softmax", axis=2)(W3), ValueError, "Activate.*axis of"),
    "name": (lambda: bp.Scale(name="a.b"), ValueError, "name: "),
    "weight": (lambda: Weighted("mse", -1), ValueError, "weight: "),
    "weight word": (lambda: Weighted("mse", "1"), TypeError, "weight: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_graphs(kind):
    call, error, words = REFUSED[kind]
    with pytest.raises(error, match=words):
        call()


def test_refused_calls_change_nothing():
    net = example()
    X, y = rows(8)
    net.fit(X, y, loss=LOSSES, optimizer=bp.Adam())
    before = state_of(net)
    w, name = X[0], list(net.inputs)
    data = [
        (X[0], y, {}, "X: expected a list of 2"), ([*X, X[0]], y, {}, "X: expected a list of 2 .*got 3"),
        ({"words": w}, y, {}, "X: expected the keys words, image, got words"),
        ({**dict(zip(name, X, strict=True)), "more": w}, y, {}, "X: expected the keys"),
        ([X[0], X[1][:3]], y, {}, "X: expected as many rows"), ([X[1], X[0]], y, {}, r"X\[0\]: expected shape"),
        ([X[0], X[1] * np.nan], y, {}, r"X\[1\]: expected finite numbers"),
        (X, y[0], {}, "y: expected a list of 3"), (X, y[:2], {}, "y: expected a list of 3 .*got 2"),
        (X, {"labels": y[0]}, {}, "y: expected the keys labels, values, activate_2, got labels"),
        (X, [y[0][:4], *y[1:]], {}, r"y\[0\]: expected 8 rows"), (X, [y[0] + 3, *y[1:]], {}, r"y\[0\]: .*from 0 to 2"),
        (X, [y[0], y[1][:, 0], y[2]], {}, r"y\[1\]: expected shape \(8, 4, 2\)"),
        (X, y, {"loss": ["mse"] * 2}, "loss: expected a list of 3"),
        (X, y, {"loss": {"labels": "mse"}}, "loss: expected the keys"),
        (X, y, {"loss": ["mse", "mse", "mze"]}, "loss: there is no 'mze'"),
        (X, y, {"loss": "mse"}, r"y\[0\]: expected shape \(8, 3\)"),
        (X, y, {"sample_weight": np.ones(7)}, "sample_weight"),
    ]  # fmt: skip
    for X_, y_, settings, words in data:
        for call in (net.fit, net.evaluate, net.value_and_grad):
            with pytest.raises(ValueError, match=words):
                call(X_, y_, **{"loss": LOSSES, **settings})
    for output, error, words in (
        (0, TypeError, r"output: expected a pair \(name, k\)"), (("label", 0), ValueError, "Did you mean 'labels'"),
        (("labels", 3), ValueError, "output: expected an integer from -3 to 2"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            net.input_gradient(X, output=output)
    for call in (lambda: net.W, lambda: net.b, lambda: net.forward(X)):
        with pytest.raises(AttributeError, match="only chains of Dense layers"):
            call()
    assert state_of(net) == before


def test_derivatives_refuse_and_change_nothing():
    net = bp.Network([bp.Input(3), bp.Dense(2, "softmax")])
    own = bp.Network([bp.Input(3), bp.Dense(2, bp.Activation(np.sin, np.cos, name="sine"))])
    X, y, v = RNG.random((4, 3)), RNG.integers(0, 2, 4), np.ones(8)
    loss = bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: 2 * (a - y))
    before = state_of(net)
    for call, error, words in (
        (lambda: net.input_gradient(X, output=2), ValueError, "output: expected an integer from -2 to 1"),
        (lambda: net.input_gradient(X, output=1.0), TypeError, "output"),
        (lambda: net.input_gradient(X[0], output=0), ValueError, "X: expected shape"),
        (lambda: net.jacobian(X[:, :2]), ValueError, "X: expected shape"),
        (lambda: net.hvp(X, y, v[:3]), ValueError, r"v: expected shape \(8,\)"),
        (lambda: net.hvp(X, y, v * np.nan), ValueError, "v: expected finite"),
        (lambda: net.gauss_newton_product(X, y, v[:3]), ValueError, "v: expected shape"),
        (lambda: net.gauss_newton_product(X, y[:3], v), ValueError, "y: expected 4 rows"),
        (lambda: net.hvp(X, np.eye(2)[y], v, loss=loss), ValueError, "a loss of your own has no second derivative"),
        (lambda: net.gauss_newton_product(X, np.eye(2)[y], v, loss=loss), ValueError, "a loss of your own"),
        (lambda: own.hvp(X, X[:, :2], v), ValueError, "an activation of your own has no second derivative"),
        (lambda: net.hvp(X, np.eye(2)[y], v, loss="binary_cross_entropy"), ValueError,
         "binary_cross_entropy needs an output of logistic, and dense_1 has another"),
        (lambda: net.per_sample_gradients(X, y[:2]), ValueError, "y: expected 4 rows"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            call()
    assert state_of(net) == before


def test_a_loss_without_a_second_derivative_says_so():
    class Absolute(bp._losses.BuiltIn):
        name = "absolute"

    net = bp.Network([bp.Input(2), bp.Dense(3)])
    X, Y, v = np.ones((5, 2)), np.ones((5, 3)), np.ones(net.n_params)
    for product in (net.hvp, net.gauss_newton_product):
        with pytest.raises(ValueError, match="loss: absolute has no second derivative here"):
            product(X, Y, v, loss=Absolute())


# ---- descriptions, copies, files ----


def test_summary_and_repr():
    net = example()
    net.frozen = ["values"]
    lines = net.summary().splitlines()
    assert lines[0].split() == ["layer", "activation", "of", "output", "parameters"]
    table = {line.split()[0]: line for line in lines}
    assert set(table) >= {node.name for node in net._model.graph.nodes} | {"total"}
    assert "words" in table["shared"] and "(n, 5, 4)" in table["shared"] and table["shared"].endswith("16")
    assert table["shared@2"].endswith("shared") and table["values"].endswith("frozen")
    assert table["total"].split() == ["total", "float64", f"{net.n_params:,}"]
    assert repr(net).startswith(
        f"<Network {len(net._model.graph.nodes)} layers -> labels (3,) -> values (4, 2) -> activate_2 (4, 4)"
    )
    assert net.n_inputs == 23 and net.n_outputs == 27 and len(net.layers) == len(net._model.graph.nodes)


def test_layers_have_the_names_that_the_summary_shows():
    net = example()
    lines = [line.split()[0].partition("@")[0] for line in net.summary().splitlines()[2:-3]]
    assert [layer.name for layer in net.layers] == lines
    shared, x = bp.Dense(3), bp.Input(3)
    first = bp.Network([x, bp.Dense(3), shared, shared])
    other = bp.Network([bp.Input(3), shared, bp.Dense(1, name="last")])
    assert [layer.name for layer in first.layers] == ["input", "dense_1", "dense_2", "dense_2"]
    assert [layer.name for layer in other.layers] == ["input", "dense_1", "last"] and shared.name is None
    assert first.layers[2] is first.layers[3] == shared == other.layers[1] != first.layers[1]
    assert len({shared, *first.layers, *other.layers}) == 5 and first.layers.index(shared) == 2
    for twin in (copy.copy(first), pickle.loads(pickle.dumps(first)), bp.Network(first.layers)):
        assert [layer.name for layer in twin.layers] == [layer.name for layer in first.layers]


def test_a_layer_pickled_beside_its_network_is_that_networks():
    net = bp.Network([bp.Input(2), bp.Dense(3, "tanh"), bp.Dense(1, name="last")])
    twin, layers = pickle.loads(pickle.dumps((net, net.layers)))
    assert list(layers) == list(twin.layers) and not set(layers) & set(net.layers)
    assert copy.copy(net.layers[1]) != net.layers[1]


def test_a_layer_deeply_copied_beside_its_network_is_the_copys():
    net = bp.Network([bp.Input(2), bp.Dense(3, "tanh"), bp.Dense(1, name="last")], seed=0)
    for i in range(3):
        layer, twin = copy.deepcopy((net.layers[i], net))
        assert layer == twin.layers[i] != net.layers[i] and twin.theta.tobytes() == net.theta.tobytes()
        twin, layer = copy.deepcopy((net, net.layers[i]))
        assert layer == twin.layers[i] != net.layers[i] and twin.theta.tobytes() == net.theta.tobytes()
    x, y = copy.deepcopy((a := bp.Input(2), bp.Dense(2)(a)))
    assert bp.Network(x, y).layers[0] == x != a


def test_what_replaces_a_layer_is_named_by_its_own_network():
    layer = bp.Network([bp.Input(2), bp.Dense(3), bp.Dense(3), bp.Dense(1, name="last")]).layers[2]
    other = dataclasses.replace(layer, units=5)
    assert layer.name == "dense_2" and other.name is None and dataclasses.replace(layer, name="b").name == "b"
    assert bp.Network([bp.Input(2), other]).layers[1].name == "dense_1"
    assert dataclasses.replace(bp.Dense(3, name="last"), units=5).name == "last"


def test_networks_made_of_the_layers_of_others():
    """What `layers` shows stands for the layer itself: of any name, used twice, beside itself, in lists and graphs."""
    dense, x = bp.Dense(3, "tanh"), bp.Input(3)
    net = bp.Network([x, bp.Dense(3), dense], dtype="float64")
    shown = net.layers
    assert list(bp.Network([*shown, dense]).params) == ["dense_1.W", "dense_1.b", "dense_2.W", "dense_2.b"]
    assert list(bp.Network([bp.Input(3), shown[2]]).params) == ["dense_1.W", "dense_1.b"]
    joined = bp.Network([*net.layers, *bp.Network([bp.Input(3), bp.Dense(2)]).layers[1:]])
    assert [layer.name for layer in joined.layers] == ["input", "dense_1", "dense_2", "dense_3"]
    graph = bp.Network(shown[0], shown[1](x) + dense(shown[2](shown[0])))
    assert list(graph.inputs) == ["input"] and len(graph.params) == 4
    net.checkpoint = [shown[1]]
    assert net.checkpoint == ("dense_1",)
    net.checkpoint = [net.copy().layers[1]]
    assert net.checkpoint == ("dense_1",) and copy.copy(shown[2]).name is None
    assert bp.Network(shown, dtype="float64", seed=net.seed).theta.tobytes() == net.theta.tobytes()


COPIES = {
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "copy": lambda net, path: copy.copy(net),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "file": lambda net, path: (net.save(path), bp.load(path))[1],
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies_go_on_alike(how, dtype, tmp_path):
    net = example(dtype)
    X, y = rows()
    net.frozen = ["values"]
    net.fit(X, y, loss=LOSSES, optimizer=bp.Adam(), epochs=2)
    before = state_of(net)
    twin = COPIES[how](net, tmp_path / "net")
    assert state_of(twin) == before and twin.summary() == net.summary() and repr(twin) == repr(net)
    assert same(twin.predict(X), net.predict(X))
    twin.fit(X, y, loss=LOSSES, optimizer=bp.Adam(), epochs=2)
    assert state_of(net) == before and state_of(twin) != before
    net.fit(X, y, loss=LOSSES, optimizer=bp.Adam(), epochs=2)
    assert state_of(net) == state_of(twin)


@pytest.fixture
def saved(tmp_path):
    """A file of a graph: its tensors and its metadata."""
    net = example("float32")
    net.frozen = ["values"]
    return tensors_of(net, tmp_path)


def tensors_of(net, tmp_path):
    net.save(tmp_path / "good")
    with safe_open(tmp_path / "good", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def refused(tmp_path, saved, change, seconds_of_hundreds=None):
    """A file whose graph `change` changed in place is a ValueError of load's."""
    tensors, metadata = saved
    graph = json.loads(metadata["graph"])
    change(graph)
    save_file(tensors, tmp_path / "bad", {**metadata, "graph": json.dumps(graph)})
    with pytest.raises(ValueError, match="^load: ") as caught:
        bp.load(tmp_path / "bad")
    return str(caught.value)


def node_of(graph, name):
    return next(node for node in graph["nodes"] if node["name"] == name)


HOSTILE = [
    2**31, 2**63, 10**400, -1, -(2**63), 1.5, 1e400, float("nan"), True, None, "1", "", [], {}, [[]], [None], ["1"],
    [1.5], [2**31 - 1] * 4, [2**62, 4], [0, 0], [10**400], [-1, -1], [[0, 1]], [[0, 1, 0]], [[None, None, 10**30]],
    ["..."] * 3, [["a", "b", "c"]], [{}], [1] * 100, {"a": 1}, "os.abort()", [True], [float("nan")] * 2,
]  # fmt: skip
ATTRIBUTES = [(kind.op, name) for kind in bp._layers.KINDS.values() for name in kind.saved if name != "integer"]
FINE = {
    ("add", "factors"): [None, [1.5], [2**62, 4], [0, 0], [-1, -1]], ("reshape", "shape"): [-1],
    ("add", "constant"): [-1, 1.5, 2**31, 2**63, -(2**63)], ("activate", "axis"): [-1],
    ("concat", "axis"): [-1],
    **{(op, name): [True] for op, name in ATTRIBUTES if name in ("sequences", "reverse", "transpose_a", "bias")},
    **{(op, name): [True] for op, name in ATTRIBUTES if name in ("causal", "mask_zero")},
    **{(op, name): [None] for op, name in ATTRIBUTES if name in ("stride", "truncate")},
    **{(op, name): [None, [None]] for op, name in ATTRIBUTES if name == "noise_shape"},
    ("gaussian_noise", "std"): [1.5, 2**31, 2**63],
    **{(op, "padding"): [[0, 0]] for op, name in ATTRIBUTES if op.endswith("pool2d")},
}  # fmt: skip


@pytest.mark.parametrize("kind", bp._layers.KINDS.values(), ids=list(bp._layers.KINDS))
def test_every_kind_of_layer_is_public_and_its_errors_name_it(kind):
    assert getattr(bp, kind.__name__) is kind and kind.__doc__ and kind.__name__ in bp.__all__
    with pytest.raises(TypeError, match=rf"^nothing: there is no such keyword\..*\({kind.__name__} takes"):
        kind(nothing=1)


@pytest.mark.parametrize("op, attribute", ATTRIBUTES)
def test_attributes_of_every_wrong_kind(op, attribute, saved, tmp_path):
    """Also where shapes still fit by chance, what comes is a network or a ValueError, and nothing is allocated."""
    names = [node["name"] for node in json.loads(saved[1]["graph"])["nodes"] if node["op"] == op]
    if not names:
        saved = tensors_of(pair(*(("embedding", "scale") if op == "embedding" else ("scale", op))).net, tmp_path)
        names = [node["name"] for node in json.loads(saved[1]["graph"])["nodes"] if node["op"] == op]
    assert names
    for value in HOSTILE:
        for name in names:
            tensors, metadata = saved
            graph = json.loads(metadata["graph"])
            node = node_of(graph, name)
            if "shares" in node["attributes"]:
                continue
            node["attributes"][attribute] = value
            save_file(tensors, tmp_path / "bad", {**metadata, "graph": json.dumps(graph)})
            try:
                net = bp.load(tmp_path / "bad", custom=CUSTOM)
            except ValueError as error:
                assert str(error).startswith("load: ")
            else:
                assert any(value is fine or value == fine for fine in FINE.get((op, attribute), [])), (name, value)
                net.predict({name: np.ones((2, *shape), int) for name, shape in net.inputs.items()})


def swap(graph, a, b):
    graph["nodes"][a], graph["nodes"][b] = graph["nodes"][b], graph["nodes"][a]


BAD = {
    "unknown key": (lambda g: g.update(code=1), "graph: expected the keys"),
    "unknown attribute": (lambda g: node_of(g, "scale_1")["attributes"].update(first=3), "scale_1: expected the keys"),
    "key of a node": (lambda g: node_of(g, "scale_1").update(code=1), "a node: expected the keys"),
    "a cycle": (lambda g: node_of(g, "scale_1").update(inputs=["bias_1"]), "inputs among the nodes before it"),
    "itself": (lambda g: node_of(g, "scale_1").update(inputs=["scale_1"]), "inputs among the nodes before it"),
    "forward": (lambda g: swap(g, -1, 3), "inputs among the nodes before it"),
    "another order": (lambda g: swap(g, 2, 3), "in the order in which"),
    "no inputs": (lambda g: node_of(g, "scale_1").update(inputs=[]), "inputs among the nodes before it"),
    "two inputs": (lambda g: node_of(g, "scale_1").update(inputs=["words", "image"]), "expected one input, got 2"),
    "nine inputs": (lambda g: node_of(g, "concat_1").update(inputs=["image"] * 9), "at most 8 inputs"),
    "inputs that differ": (lambda g: node_of(g, "concat_1").update(inputs=["image", "words"]), "concat_1"),
    "inputs of numbers": (lambda g: node_of(g, "concat_1").update(inputs=[0, 1]), "expected a list of names"),
    "an input of an input": (lambda g: node_of(g, "image").update(inputs=["words"]), "inputs among the nodes before"),
    "outputs": (lambda g: g.update(outputs="labels"), "expected a list of names"),
    "outputs of none": (lambda g: g.update(outputs=[]), "at least one"),
    "outputs twice": (lambda g: g.update(outputs=["labels", "labels"]), "once"),
    "outputs unknown": (lambda g: g.update(outputs=["labels", "x"]), "there is no 'x'"),
    "outputs of numbers": (lambda g: g.update(outputs=[1]), "expected a list of names"),
    "outputs lists": (lambda g: g.update(outputs=[["labels"]]), "expected a list of names"),
    "fewer outputs": (lambda g: g.update(outputs=["labels"]), "in the order in which they are computed"),
    "frozen": (lambda g: g.update(frozen="values"), "expected a list of names"),
    "frozen unknown": (lambda g: g.update(frozen=["x"]), "frozen: expected names of layers"),
    "frozen input": (lambda g: g.update(frozen=["words"]), "frozen: expected names of layers"),
    "frozen numbers": (lambda g: g.update(frozen=[1]), "expected a list of names"),
    "shares another kind": (
        lambda g: node_of(g, "scale_1").update(attributes={"shares": "bias_1"}), "shares the weights"),
    "shares later": (lambda g: node_of(g, "scale_1").update(attributes={"shares": "values"}), "shares the weights"),
    "integer input": (lambda g: node_of(g, "image")["attributes"].update(integer=True), "whole numbers"),
    "integer word": (lambda g: node_of(g, "image")["attributes"].update(integer=1), "integer: expected True"),
    "custom": (lambda g: node_of(g, "activate_2")["attributes"].update(activation={"custom": "x"}), "of your own"),
    "derivative": (lambda g: node_of(g, "activate_2")["attributes"].update(activation="tanh'"), "unknown activation"),
    "a use for a name": (lambda g: node_of(g, "scale_1").update(name="scale_1@2"), ""),
    "name of another": (lambda g: node_of(g, "scale_1").update(name="bias_1"), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_hostile_graphs(kind, saved, tmp_path):
    change, words = BAD[kind]
    assert words in refused(tmp_path, saved, change)


def test_every_key_that_a_node_may_lack(saved, tmp_path):
    graph = json.loads(saved[1]["graph"])
    for i, node in enumerate(graph["nodes"]):
        for key in node:
            refused(tmp_path, saved, lambda g, i=i, key=key: g["nodes"][i].pop(key))
        for key in node["attributes"]:
            if key != "integer":
                refused(tmp_path, saved, lambda g, i=i, key=key: g["nodes"][i]["attributes"].pop(key))
        refused(tmp_path, saved, lambda g, i=i: g["nodes"].pop(i))


def test_settings_that_do_not_fit_are_refused_by_c():
    """What Python would not send."""
    for name, inputs, settings in (
        ("concat", 2, ([0], [])), ("concat", 2, ([3], [])), ("permute", 1, ([1, 1, 1, 9, 0, 0, 0, 1, 0], [])),
        ("permute", 1, ([1, 1, 1, 2, 0, 0, 0, 1, 3], [])), ("permute", 1, ([0, 1, 1, 2, 0, 0, 0, 1, 0], [])),
        ("permute", 1, ([1, 1, 1, 2, 0, 0, 0, -1, 0], [])), ("softmax", 1, ([3], [])),
    ):  # fmt: skip
        plan = _core.Plan("float64")
        buffers = [plan.buffer(4) for _ in range(inputs)]
        with pytest.raises(ValueError, match="do not fit"):
            plan.op(name, buffers, settings=settings)


@pytest.mark.parametrize("f, loss", [("softmax", "cross_entropy"), ("logistic", "binary_cross_entropy")])
@pytest.mark.parametrize("turned", [False, True])
def test_an_activation_and_what_it_reads_are_both_outputs(f, loss, turned):
    x = bp.Input(4)
    h = bp.Dense(3)(x)
    outputs, losses = [bp.Activate(f)(h), h], [loss, "squared_error"]
    y = [np.full((7, 3), 1 / 3), RNG.random((7, 3))]
    if turned:
        outputs, losses, y = outputs[::-1], losses[::-1], y[::-1]
    net = bp.Network(x, outputs, dtype="float64")
    errors = bp.check_gradients(net, RNG.random((7, 4)), y, loss=losses)
    assert max(errors.values()) < 1e-7


def test_whole_numbers_are_no_output():
    words = bp.Input(3, integer=True)
    with pytest.raises(ValueError, match="outputs: expected real numbers"):
        bp.Network(words, [words, bp.Embedding(5, 2)(words)])


def test_a_network_of_a_network_is_pickled_alone():
    net = bp.Network([bp.Input(50), bp.Dense(50)])
    alone = len(pickle.dumps(net))
    for _ in range(5):
        x = bp.Input(50)
        net = bp.Network(x, net(x))
    assert len(pickle.dumps(net)) < 1.2 * alone


def test_a_pickle_with_buffers_out_of_band_shares_no_memory():
    X, y = RNG.random((30, 3)), RNG.integers(0, 2, 30)
    net = bp.Network([bp.Input(3), bp.Dense(4, "tanh"), bp.Dense(2, "softmax")], dtype="float64")
    net.fit(X, y, optimizer=bp.Adam())
    buffers = []
    data = pickle.dumps(net, protocol=5, buffer_callback=buffers.append)
    foreign = [bytes(buffer.raw()) for buffer in buffers]
    same = pickle.loads(data, buffers=foreign)  # which cannot be written
    before = list(map(bytes, foreign))
    for each in (net, same):
        each.fit(X, y, optimizer=bp.Adam(), epochs=2)
    assert state_of(same) == state_of(net) and len(buffers) == 3
    assert before == foreign == [bytes(buffer.raw()) for buffer in buffers]
    own = (same.theta, *same._model.memory.states)
    assert not any(np.shares_memory(array, np.frombuffer(each, np.uint8)) for array in own for each in foreign)


def test_what_is_frozen_stays_so_in_parts_and_in_larger_networks():
    body = bp.Network([bp.Input(4), bp.Dense(3, "tanh"), bp.Dense(2, "tanh", name="last")])
    body.frozen = {"dense_1"}
    x = bp.Input(4)
    net = bp.Network(x, bp.Dense(1)(body(x)))
    assert net.frozen == {"dense_1"} and body.part("input", "dense_1").frozen == {"dense_1"}
    assert body.part("dense_1", "last").frozen == frozenset()
    checked = bp.check_gradients(net, RNG.random((5, 4)), RNG.random(5))
    assert set(checked) == {"last.W", "last.b", "dense_3.W", "dense_3.b"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_masked_positions_do_not_count(dtype):
    net = bp.Network([bp.Input((5, 3)), bp.Dense(4, "tanh"), bp.Dense(3, "softmax")], dtype=dtype)
    X, y = RNG.random((40, 5, 3)), RNG.integers(0, 3, (40, 5))
    mask = (RNG.random((40, 5)) < 0.6).astype(float)
    mask[3] = 0  # a sequence of nothing
    p = np.take_along_axis(net.predict(X).astype(float), y[:, :, None], 2)[:, :, 0]
    seen = mask.any(1)
    wanted = (-np.log(p) * mask).sum(1)[seen] / mask.sum(1)[seen]
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    for n_threads in (1, 2, 3):
        C, grad = net.value_and_grad(X, y, sample_weight=mask, n_threads=n_threads)
        assert pytest.approx(wanted.mean(), rel=tolerance) == C
        assert net.evaluate(X, y, sample_weight=mask)["loss"] == pytest.approx(C, rel=tolerance)
        other = np.where(mask, y, (y + 1) % 3)
        assert (net.value_and_grad(X, other, sample_weight=mask, n_threads=n_threads)[1] == grad).all()
    if dtype == "float64":
        assert max(bp.check_gradients(net, X, y, sample_weight=mask).values()) < 1e-8
        v = RNG.standard_normal(net.n_params)
        assert v @ net.gauss_newton_product(X, y, v, sample_weight=mask) > 0
    with pytest.raises(ValueError, match=r"sample_weight: expected shape \(40,\) or \(40, 5\)"):
        net.fit(X, y, sample_weight=np.ones((40, 4)))


def test_errors_that_come_at_once():
    with pytest.raises(ValueError, match="there is no 'msee'. Did you mean 'mse'"):
        bp.losses.Weighted("msee", 1)
    with pytest.raises(TypeError, match="axes: expected an integer, got '0'"):
        bp.Permute(("0", "1"))
    with pytest.raises(ValueError, match="axes: expected an order"):
        bp.Permute((0, 0))
    net = bp.Network([bp.Input(2), bp.Dense(1)])
    X, y = RNG.random((4, 2)), RNG.random(4)
    assert net.evaluate(X, y, loss=["mse"]) == net.evaluate(X, y, loss="mse")
    with pytest.raises(TypeError, match="loss: expected a name"):
        net.evaluate(X, y, loss=["mse", "mse"])


# ---- layers that come of other networks ----


def named(seed, name="out"):
    return bp.Network([bp.Input(3), bp.Dense(2, "tanh", name=name)], seed=seed)


def test_a_layer_used_by_itself_and_through_a_network_is_two():
    x, layer = bp.Input(3), bp.Dense(2, name="out")
    first = bp.Input(3)
    base = bp.Network(first, layer(first), seed=1)
    net = bp.Network(x, [base(x), layer(x), base(x)], seed=2)
    assert list(net.outputs) == ["out_2", "out", "out_2@2"]
    assert np.array_equal(net.params["out_2.W"], base.params["out.W"])
    assert not np.array_equal(net.params["out.W"], base.params["out.W"])
    assert net.n_params == 2 * base.n_params


def test_names_of_networks_give_way(tmp_path):
    """Networks of the same names may be joined, loaded ones too; the weights stay with their layers."""
    nets = [named(1), named(2), named(3)]
    for i, net in enumerate(nets):
        net.save(tmp_path / str(i))
    for joined in (nets, [bp.load(tmp_path / str(i)) for i in range(3)]):
        x, own = bp.Input(3), bp.Dense(2, name="out_2")
        net = bp.Network(x, bp.Add()(*(each(x) for each in joined), own(x)))
        assert [node.name for node in net._model.graph.nodes[1:-1]] == ["out", "out_3", "out_4", "out_2"]
        for name, each in zip(("out", "out_3", "out_4"), joined, strict=True):
            assert np.array_equal(net.params[f"{name}.W"], each.params["out.W"])
        net.frozen = ["out_3"]
        for twin in (net.part("input", "add_1"), net.copy(), pickle.loads(pickle.dumps(net))):
            assert [node.name for node in twin._model.graph.nodes] == [node.name for node in net._model.graph.nodes]
            assert twin.frozen == {"out_3"} and np.array_equal(twin.theta, net.theta)
        net.save(tmp_path / "joined")
        assert bp.load(tmp_path / "joined").summary() == net.summary()
        outer = bp.Network(x, net(x))
        assert outer.frozen == {"out_3"} and np.array_equal(outer.theta, net.theta)
    with pytest.raises(ValueError, match="'out' twice"):
        bp.Network(x, bp.Dense(2, name="out")(x) + bp.Dense(2, name="out")(x))


def test_a_network_of_a_network_does_not_keep_it_alive():
    base, x = named(1), bp.Input(3)
    net = bp.Network(x, bp.Dense(2)(base(x)))
    old = weakref.ref(base)
    del base
    gc.collect()
    assert old() is None
    again = bp.Network(x, net(x))
    assert np.array_equal(again.theta, net.theta)


def test_symbols_of_a_network_that_is_gone_begin_with_its_weights():
    x = bp.Input(3)
    h = named(1)(x)
    gc.collect()
    for net in (bp.Network(x, h), bp.Network(x, bp.Dense(1)(h))):
        assert np.array_equal(net.params["out.W"], named(1).params["out.W"])


def test_inputs_of_a_part_keep_their_names():
    x, y, z = (bp.Input(n) for n in (2, 3, 4))
    h = bp.Dense(5)(y)
    net = bp.Network([x, y, z], bp.Dense(2)(bp.concat([h, bp.Dense(2)(x), z])))
    assert net.part("input_2", "dense_1").inputs == {"input_2": (3,)}
    assert net.part(["input_3", "dense_1", "input"], "dense_3").inputs == {
        "input_3": (4,),
        "dense_1": (5,),
        "input": (2,),
    }


@pytest.mark.parametrize("steps", [1, 3])
def test_weights_of_positions_count_within_a_sequence(steps):
    """Also where it has one step: a weight of 0 masks it, and others are alike."""
    net = bp.Network([bp.Input((steps, 2)), bp.Dense(2)], dtype="float64", seed=1)
    X, y, w = RNG.random((4, steps, 2)), RNG.random((4, steps, 2)), RNG.uniform(0.1, 2, (4, steps))
    w[1] = 0
    E = ((net.predict(X) - y) ** 2).sum(-1) / 2
    want = ((E * w).sum(1) / np.where(w.any(1), w.sum(1), 1)).sum() / 3
    assert net.value_and_grad(X, y, sample_weight=w)[0] == pytest.approx(want, rel=1e-12)
    assert max(bp.check_gradients(net, X, y, sample_weight=w).values()) < 1e-7


def test_a_callback_cannot_freeze():
    """It would be heard by the next fit alone."""
    net = named(1)
    X, y = RNG.random((8, 3)), RNG.random((8, 2))

    def freeze(state):
        state.net.frozen = {"out"}

    with pytest.raises(RuntimeError, match="frozen: a fit goes on with what was frozen when it began"):
        net.fit(X, y, callbacks=freeze)
    assert not net.frozen
    net.frozen = {"out"}
    before = net.theta.copy()
    net.fit(X, y)
    assert np.array_equal(net.theta, before)
