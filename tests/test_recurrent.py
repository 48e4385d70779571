"""Recurrent layers: values against NumPy, gradients against central differences, bits, masks, truncation, stepping."""


import copy
import pickle

import numpy as np
import pytest
from conftest import check_instruction_sets, distance

import bpcore as bp
from bpcore import _core

KINDS = {"simple_rnn": bp.SimpleRNN, "lstm": bp.LSTM, "gru": bp.GRU}
MODES = [(True, "owners"), (True, "shards"), (False, "")]


def logistic(z):
    return 1 / (1 + np.exp(-z))


def oracle(kind, params, x, mask=None, reverse=False, f=np.tanh, begin=()):
    """h of all steps (n, time, units), the last, and (h, c) before each step; begin: {step: state} put there."""
    W, U = params["W"], params["U"]
    b, units = params.get("b", 0), U.shape[0]
    h = c = np.zeros((len(x), units))
    found, states = np.zeros((*x.shape[:2], units)), {}
    for s in range(x.shape[1]):
        t = x.shape[1] - 1 - s if reverse else s
        h, c = dict(begin).get(s, (h, c))
        states[s] = h, c
        z = x[:, t] @ W + b
        if kind == "gru":
            (r, u, n), (R, V, N) = np.split(z, 3, 1), np.split(h @ U, 3, 1)
            u = logistic(u + V)
            new = (1 - u) * np.tanh(n + logistic(r + R) * (N + params.get("b_n", 0))) + u * h, c
        elif kind == "lstm":
            i, forget, g, o = np.split(z + h @ U, 4, 1)
            cell = logistic(forget) * c + logistic(i) * np.tanh(g)
            new = logistic(o) * np.tanh(cell), cell
        else:
            new = f(z + h @ U), c
        on = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None] != 0
        h, c = np.where(on, new[0], h), np.where(on, new[1], c)
        found[:, t] = h
    return found, h, states


def of_layer(net, name):
    return {full.partition(".")[2]: np.array(p, float) for full, p in net.params.items() if full.startswith(name + ".")}


def recurrent(kind, steps, features, units, masked=False, dtype="float64", seed=1, outputs=2, **options):
    """A recurrent layer named r under a Dense one, with random parameters of ordinary size."""
    x = bp.Input((steps, features))
    inputs = [x, bp.Input(steps, name="mask")] if masked else [x]
    h = KINDS[kind](units, name="r", **options)(*inputs)
    net = bp.Network(inputs, bp.Dense(outputs)(h), dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed)
    net.theta[:] = rng.standard_normal(net.n_params) / np.sqrt(units)
    return net


def data(net, n, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, *net.inputs["input"]))
    y = rng.standard_normal((n, *next(iter(net.outputs.values()))))
    if "mask" not in net.inputs:
        return X, y
    mask = np.arange(X.shape[1]) < rng.integers(0, X.shape[1] + 1, (n, 1))  # of length 0, too
    mask[: n // 2] = rng.random((n // 2, X.shape[1])) < 0.6  # and with holes
    return [X, mask.astype(float)], y


SHAPES = [(1, 1, 1, 1), (1, 4, 3, 40), (2, 3, 5, 17), (7, 2, 16, 33), (13, 5, 33, 70), (50, 1, 8, 5), (200, 2, 4, 3)]


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("steps, features, units, n", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_values(kind, steps, features, units, n, dtype, tolerance):
    for options in ({}, {"sequences": True}, {"reverse": True, "bias": False}, {"reverse": True, "sequences": True}):
        for masked in (False, True):
            net = recurrent(kind, steps, features, units, masked, dtype, **options)
            X, _ = data(net, n)
            x, mask = X if masked else (X, None)
            every, last, _ = oracle(kind, of_layer(net, "r"), x, mask, options.get("reverse", False))
            h = every if options.get("sequences") else last
            dense = of_layer(net, "dense_1")
            assert distance(net.predict(X), h @ dense["W"] + dense["b"]) < tolerance


@pytest.mark.parametrize("name", bp.activations.NAMES[:-1])
def test_every_function_of_the_simple_layer(name):
    net = recurrent("simple_rnn", 5, 3, 9, activation=name)
    net.theta[:] *= 0.3
    X, y = data(net, 20)
    one = bp.Network([bp.Input(9), bp.Dense(9, name)], dtype="float64")
    one.W[1][...], one.b[1][...] = np.eye(9), 0
    f = one.predict
    last = oracle("simple_rnn", of_layer(net, "r"), X, f=f)[1]
    dense = of_layer(net, "dense_1")
    assert distance(net.predict(X), last @ dense["W"] + dense["b"]) < 1e-13
    if name not in ("relu", "leaky_relu", "hard_sigmoid", "hard_tanh"):
        assert max(bp.check_gradients(net, X[:4], y[:4]).values()) < 1e-7


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, reverse, sequences, masked):
    for steps, features, units, n in ((1, 2, 3, 4), (2, 2, 2, 17), (9, 3, 5, 19), (20, 2, 3, 4)):
        net = recurrent(kind, steps, features, units, masked, reverse=reverse, sequences=sequences)
        assert max(bp.check_gradients(net, *data(net, n)).values()) < 1e-7
    w = np.linspace(0, 2, 19)
    net = recurrent(kind, 9, 3, 5, masked, reverse=reverse, sequences=sequences, bias=False)
    assert max(bp.check_gradients(net, *data(net, 19), sample_weight=w).values()) < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_over_200_steps(kind):
    net = recurrent(kind, 200, 1, 2, sequences=True)
    net.theta[:] *= 0.7
    assert max(bp.check_gradients(net, *data(net, 3)).values()) < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_graphs(kind):
    """Stacked, both ways, under another layer, shared, and with a mask that the network computes."""
    layer, x = KINDS[kind], bp.Input((6, 3))
    below = bp.Dense(4, "tanh")(x)
    forth, back = layer(3, sequences=True)(below), layer(2, sequences=True, reverse=True)(below)
    shared = layer(5)
    both = bp.concat([forth, back])
    out = bp.Dense(2)(shared(both) + shared(both * 0.5) + layer(5)(below, bp.Activate("relu")(x[..., 0])))
    net = bp.Network(x, out, dtype="float64", seed=2)
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((21, 6, 3)), rng.standard_normal((21, 2))
    assert max(bp.check_gradients(net, X, y).values()) < 1e-7
    net.frozen = {"dense_1"}
    assert np.abs(net.value_and_grad(X, y)[1][:16]).max() == 0


def test_gradients_reach_what_lies_below_frozen_layers():
    x = bp.Input((6, 3))
    net = bp.Network(x, bp.LSTM(4)(bp.Dense(2)(x)), dtype="float64", seed=2)
    X, y = np.random.default_rng(0).standard_normal((5, 6, 3)), np.zeros((5, 4))
    whole = net.value_and_grad(X, y)[1]
    net.frozen = {"lstm_1"}
    part = net.value_and_grad(X, y)[1]
    assert np.array_equal(part[:8], whole[:8]) and not part[8:].any()


@pytest.mark.parametrize("truncate", [1, 2, 3, 5, 11, 12])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_gradients(kind, reverse, truncate):
    """Central differences with the states at the boundaries held where they are."""
    for masked in (False, True):
        net = recurrent(kind, 11, 2, 3, masked, reverse=reverse, truncate=truncate, sequences=True)
        X, y = data(net, 5)
        x, mask = X if masked else (X, None)
        states = oracle(kind, of_layer(net, "r"), x, mask, reverse)[2]
        held = {s: state for s, state in states.items() if s and s % truncate == 0}
        dense = of_layer(net, "dense_1")

        def cost(net=net, x=x, mask=mask, y=y, held=held, dense=dense):
            every = oracle(kind, of_layer(net, "r"), x, mask, reverse, begin=held)[0]
            return ((every @ dense["W"] + dense["b"] - y) ** 2).sum() / 2 / len(x) / 11

        value, gradient = net.value_and_grad(X, y)
        assert abs(value - cost()) < 1e-12
        for i in range(net.n_params - dense["W"].size - dense["b"].size):
            kept = net.theta[i]
            net.theta[i] = kept + 1e-5
            above = cost()
            net.theta[i] = kept - 1e-5
            below = cost()
            net.theta[i] = kept
            assert abs((above - below) / 2e-5 - gradient[i]) < 1e-8 * max(1, np.abs(gradient).max())


def test_no_truncation_is_one_beyond_the_end():
    whole, cut = (recurrent("lstm", 6, 2, 3, truncate=k) for k in (None, 6))
    for net in (whole, cut):
        assert np.array_equal(net.value_and_grad(*data(net, 9))[1], whole.value_and_grad(*data(whole, 9))[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_a_shorter_sequence(kind):
    net = recurrent(kind, 9, 2, 5, masked=True)
    short = recurrent(kind, 4, 2, 5)
    short.theta[:] = net.theta
    (X, _), y = data(net, 20)
    mask = np.repeat([[1.0] * 4 + [0.0] * 5], 20, 0)
    assert np.array_equal(net.predict([X, mask]), short.predict(X[:, :4]))
    whole, part = net.value_and_grad([X, mask], y), short.value_and_grad(X[:, :4], y)
    assert whole[0] == part[0] and distance(whole[1], part[1]) < 1e-14
    spoilt = X.copy()
    spoilt[:, 4:] = 1e30  # what is masked is not looked at
    assert np.array_equal(net.predict([spoilt, mask]), net.predict([X, mask]))


# ---- bits ----


@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads(kind, dtype, always, phase2, force):
    force(always, phase2)
    found = []
    for n_threads in (1, 2, 3):
        net = recurrent(kind, 12, 5, 19, True, dtype, sequences=True)
        X, y = data(net, 230)
        w = np.linspace(0.5, 1, 230)
        _core.pool_tasks_reset()
        net.fit(X, y, batch_size=90, epochs=2, optimizer=bp.Adam(lr=0.01), n_threads=n_threads, sample_weight=w)
        assert not always or all(_core.pool_tasks(n_threads))
        answers, gradient = net.predict(X, n_threads=n_threads), net.value_and_grad(X, y, n_threads=n_threads)[1]
        found.append((net.theta.tobytes(), answers.tobytes(), gradient.tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("phase2", ["owners", "shards"])
@pytest.mark.parametrize("kind", KINDS)
def test_owners_and_shards_agree(kind, phase2, force):
    plain = recurrent(kind, 8, 3, 6)
    X, y = data(plain, 150)
    force(True, phase2)
    net = recurrent(kind, 8, 3, 6)
    net.fit(X, y, batch_size=100, epochs=2)
    force(False, "")
    plain.fit(X, y, batch_size=100, epochs=2)
    assert distance(net.theta, plain.theta) < 1e-13


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_every_batch(kind, dtype):
    net = recurrent(kind, 9, 3, 21, dtype=dtype)
    X, _ = data(net, 100)
    whole = net.predict(X)
    answer = net.predictor()
    for first, end in ((0, 1), (99, 100), (3, 20), (31, 64), (15, 100)):
        assert np.array_equal(net.predict(X[first:end]), whole[first:end])
        assert np.array_equal(answer(X[first:end].astype(dtype)), whole[first:end])
    assert np.array_equal(answer(X[7].astype(dtype)), whole[7])
    many = net.predict(np.repeat(X[:1], 70, 0))
    assert (many == many[0]).all()


@pytest.mark.parametrize("phase2", ["owners", "shards"])
def test_weights_of_sequences_do_not_reach_beyond_a_tile(phase2, force):
    """A row's loss is of 18 numbers, no whole vectors: written row by row, the last would reach into the next tile."""
    force(True, phase2)
    net = bp.Network([bp.Input((9, 5)), bp.Dense(2)], dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    X, y, w = rng.standard_normal((70, 9, 5)), rng.standard_normal((70, 9, 2)), np.linspace(0, 2, 70)
    delta = (net.predict(X) - y) * (w / w.sum() / 9)[:, None, None]
    want = np.concatenate([np.einsum("nti,ntj->ij", X, delta).ravel(), delta.sum((0, 1))])
    for _ in range(20):
        assert distance(net.value_and_grad(X, y, sample_weight=w, n_threads=3)[1], want) < 1e-13


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_only_ratios_of_weights_of_steps_matter(dtype):
    """Also where their sum's inverse is beyond the dtype."""
    net = bp.Network([bp.Input((100, 3)), bp.Dense(2)], dtype=dtype)
    rng = np.random.default_rng(0)
    X, y, w = rng.standard_normal((4, 100, 3)), rng.standard_normal((4, 100, 2)), np.zeros((4, 100))
    w[:, 7], w[2:, 30] = 1, 2
    cost, gradient = net.value_and_grad(X, y, sample_weight=w)
    for power in (10, -60, -126 if dtype == "float32" else -1022):
        other, same = net.value_and_grad(X, y, sample_weight=np.ldexp(w, power))
        assert other == cost and same.tobytes() == gradient.tobytes()


def test_one_example_at_a_time_and_many_chunks():
    net = recurrent("gru", 5, 3, 7)
    X, y = data(net, 40)
    assert net.fit(X, y, batch_size=1, epochs=20).loss[-1] < 0.9 * net.copy().fit(X, y).loss[0] + 1
    total = sum(net.value_and_grad(X[i : i + 1], y[i : i + 1])[1] for i in range(40)) / 40
    assert distance(net.value_and_grad(X, y)[1], total) < 1e-12


PROGRAM = """
import sys, numpy as np, bpcore as bp
found = {}
for dtype in ("float32", "float64"):
    for kind in (bp.SimpleRNN, bp.LSTM, bp.GRU):
        for units in (5, 16, 37):
            net = bp.Network([bp.Input((9, 3)), kind(units), bp.Dense(2)], dtype=dtype, seed=1)
            rng = np.random.default_rng(0)
            X, y = rng.standard_normal((37, 9, 3)), rng.standard_normal((37, 2))
            name = f"{dtype}.{kind.__name__}.{units}"
            found |= {name: net.predict(X), name + ".gradient": net.value_and_grad(X, y)[1]}
np.savez(sys.argv[1], **found)
"""


def test_all_instruction_sets_agree(tmp_path):
    check_instruction_sets(PROGRAM, tmp_path, float32=1e-4, float64=1e-12)


# ---- use ----


@pytest.mark.parametrize("kind", KINDS)
def test_fit_save_load(kind, tmp_path):
    """The sum of the first and last numbers of a sequence is learned, and goes on after load as without it."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (400, 6, 1))
    y = X[:, 0] + X[:, -1]
    nets = [bp.Network([bp.Input((6, 1)), KINDS[kind](16, truncate=50), bp.Dense(1)], seed=3) for _ in range(2)]
    for net in nets:
        net.fit(X, y, loss="mse", optimizer=bp.Adam(lr=0.01), epochs=40)
    assert nets[0].evaluate(X, y, loss="mse")["loss"] < 0.02
    nets[0].save(tmp_path / "net")
    loaded = bp.load(tmp_path / "net")
    assert repr(loaded) == repr(nets[0]) and np.array_equal(loaded.predict(X), nets[1].predict(X))
    for net in (loaded, nets[1]):
        net.fit(X, y, loss="mse", optimizer=bp.Adam(lr=0.01), epochs=2)
    assert np.array_equal(loaded.theta, nets[1].theta)


def test_every_option_is_kept_by_a_file(tmp_path):
    x, mask = bp.Input((6, 2)), bp.Input(6)
    h = bp.SimpleRNN(3, "relu", sequences=True, reverse=True, truncate=2, bias=False)(x, mask)
    net = bp.Network([x, mask], bp.GRU(3)(bp.LSTM(4, sequences=True)(h), mask), seed=1)
    net.save(tmp_path / "net")
    loaded = bp.load(tmp_path / "net")
    X = [np.random.default_rng(0).standard_normal((5, 6, 2)), np.ones((5, 6))]
    assert np.array_equal(loaded.predict(X), net.predict(X))
    for old, new in zip(net.layers, loaded.layers, strict=True):
        assert [getattr(old, name) for name in old.saved] == [getattr(new, name) for name in new.saved]


def test_parameters():
    net = bp.Network([bp.Input((6, 2)), bp.LSTM(3, sequences=True), bp.GRU(4, sequences=True), bp.SimpleRNN(5)], seed=1)
    shapes = {name: p.shape for name, p in net.params.items()}
    assert shapes == {
        "lstm_1.W": (2, 12), "lstm_1.U": (3, 12), "lstm_1.b": (12,), "gru_1.W": (3, 12), "gru_1.U": (4, 12),
        "gru_1.b": (12,), "gru_1.b_n": (4,), "simple_rnn_1.W": (4, 5), "simple_rnn_1.U": (5, 5), "simple_rnn_1.b": (5,),
    }  # fmt: skip
    assert net.params["lstm_1.b"].tolist() == [0] * 3 + [1] * 3 + [0] * 6
    assert not net.params["gru_1.b"].any() and not net.params["gru_1.b_n"].any()
    for name, units in (("lstm_1", 3), ("gru_1", 4), ("simple_rnn_1", 5)):
        for gate in np.split(net.params[f"{name}.U"], net.params[f"{name}.U"].shape[1] // units, 1):
            assert np.abs(gate @ gate.T - np.eye(units)).max() < 1e-6
    drawn = bp.Network([bp.Input((6, 2)), bp.LSTM(3, init="ones", recurrent_init="zeros", forget_bias=0)])
    assert (drawn.params["lstm_1.W"] == 1).all() and not drawn.params["lstm_1.U"].any()
    assert not drawn.params["lstm_1.b"].any()


ERRORS = [
    (lambda: bp.LSTM(4)(bp.Input(3)), r"LSTM\(4\): expected a sequence \(time, features\), got \(3,\); bp.Reshape"),
    (lambda: bp.GRU(4)(bp.Input((3, 4, 5))), r"GRU\(4\): expected a sequence .* got \(3, 4, 5\)"),
    (lambda: bp.LSTM(4)(bp.Input((3, 2)), bp.Input(4)), r"expected a mask of shape \(3,\) .* got \(4,\)"),
    (lambda: bp.LSTM(4)(*[bp.Input((3, 2))] * 3), "expected an input and perhaps a mask, got 3 inputs"),
    (lambda: bp.LSTM(0), "units: expected an integer from 1"),
    (lambda: bp.GRU(4, truncate=0), "truncate: expected an integer from 1"),
    (lambda: bp.GRU(4, sequences=1), "sequences: expected True or False"),
    (lambda: bp.SimpleRNN(4, "softmax"), "activation: there is no 'softmax'"),
    (lambda: bp.SimpleRNN(4, bp.Activation(np.sin, np.cos)), "activation: .* functions of your own cannot be called"),
    (lambda: bp.LSTM(4, init="eye"), "init: there is no 'eye'"),
    (lambda: bp.LSTM(4, recurrent_init="auto"), "recurrent_init: there is no 'auto'"),
    (lambda: bp.LSTM(4, forget_bias=np.inf), "forget_bias: expected a finite number"),
]


@pytest.mark.parametrize("make, words", ERRORS)
def test_errors(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_c_refuses_what_does_not_fit():
    def op(settings, inputs=(6,), params=((2, 12), (3, 12), (12, 1))):
        plan, at, slots = _core.Plan(np.float32), 0, []
        for rows, cols in params:
            slots.append(plan.param(at, rows, cols, False))
            at += rows * cols
        return plan.op("recurrent", [plan.buffer(cols) for cols in inputs], slots, settings=(settings, []))

    good = [1, 3, 3, 0, 0, 0, 0, 0, 0]
    assert op(good) > 0
    for wrong in (
        {"settings": [3, *good[1:]]}, {"settings": [1, 0, *good[2:]]}, {"settings": [1, 3, 4, *good[3:]]},
        {"inputs": (5,)}, {"inputs": (6, 3)}, {"settings": [*good[:6], 1, 0, 0]},
        {"settings": [*good[:6], 1, 0, 0], "inputs": (6, 4)}, {"settings": [*good[:7], 1, 0], "inputs": (6, 3)},
        {"params": ((2, 12), (3, 12), (11, 1))}, {"params": ((2, 12),)}, {"params": ((2, 12), (3, 9), (12, 1))},
        {"params": ((2, 12), (3, 12), (12, 1), (3, 1))}, {"settings": [1, 2**40, 2**40, *good[3:]]},
    ):  # fmt: skip
        with pytest.raises((ValueError, MemoryError)):
            op(**{"settings": good, **wrong})


# ---- step by step ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_have_the_bits_of_predict(kind, dtype):
    x, mask = bp.Input((20, 3)), bp.Input(20, name="mask")
    layer = KINDS[kind]
    h = layer(7, sequences=True)(bp.Dense(4, "relu")(x), bp.Activate("relu")(mask))
    shared = layer(6, sequences=True)
    h = shared(shared(h[:, 1:]))
    out = bp.Dense(2, "softmax")(bp.concat([h, h * 2]))
    last = bp.Reshape((2, 2))(layer(4)(bp.Scale()(bp.Bias()(out)), x[..., 0]))
    net = bp.Network([x, mask], [out, last], dtype=dtype, seed=3)
    rng = np.random.default_rng(0)
    X, M = rng.standard_normal((33, 20, 3)), (rng.random((33, 20)) < 0.7).astype(float)
    whole, final = net.predict([X, M])
    step = net.stepper(streams=33, n_threads=2)
    for _ in range(2):
        for t in range(20):
            now, so_far = step([X[:, t], M[:, t]])
            assert np.array_equal(now, whole[:, t]), t
        assert np.array_equal(so_far, final)
        step.reset()
        assert not any(state.any() for state in step.state.values())
    one = net.stepper()
    for t in range(20):
        now, so_far = one({"input": X[5, t], "mask": M[5, t]})
        assert np.array_equal(now, whole[5, t])
    assert np.array_equal(so_far, final[5])


def test_steps_of_inner_outputs():
    """What a step gives has memory of its own: an output that others read, and the states behind it."""
    x = bp.Input((6, 8))
    inner = bp.Dense(8, "tanh")(bp.LSTM(8, sequences=True)(x))
    net = bp.Network(x, [inner, bp.Dense(8)(bp.Dense(8, "tanh")(bp.Dense(8, "tanh")(inner)))])
    X = np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
    step = net.stepper()
    answers = [step(X[0, t]) for t in range(6)]
    for got, want in zip(zip(*answers, strict=True), net.predict(X), strict=True):
        assert np.array_equal(np.array(got), want[0])


def test_steps_of_words():
    words = bp.Input(9, integer=True)
    h = bp.LayerNorm()(bp.GRU(5, sequences=True)(bp.Dropout(0.5)(bp.Embedding(11, 4)(words))))
    net = bp.Network(words, bp.Dense(11, "softmax")(h), seed=1)
    text = np.random.default_rng(0).integers(0, 11, (3, 9))
    whole = net.predict(text)
    step, many = net.stepper(), net.stepper(streams=3)
    for t in range(9):
        assert np.array_equal(step(text[1, t]), whole[1, t])
        assert np.array_equal(many(text[:, t]), whole[:, t])
    kept = step.state["gru_1.h"].copy()
    for wrong in (11, -1, 0.5, [1]):
        with pytest.raises((ValueError, TypeError)):
            step(wrong)
    assert np.array_equal(step.state["gru_1.h"], kept)
    crowd = net.stepper(streams=100)
    with pytest.raises(ValueError):
        crowd([*[3] * 99, 11])
    assert not crowd.state["gru_1.h"].any()


def test_state_of_a_stepper():
    net = bp.Network([bp.Input((5, 2)), bp.LSTM(3, sequences=True), bp.GRU(4)], dtype="float64", seed=1)
    X = np.random.default_rng(0).standard_normal((9, 2))
    step = net.stepper()
    answers = [step(x) for x in X]  # beyond the network's own length
    long = bp.Network([bp.Input((9, 2)), bp.LSTM(3, sequences=True), bp.GRU(4)], dtype="float64", seed=1)
    assert np.array_equal(answers[-1], long.predict(X[None])[0])
    assert {name: state.shape for name, state in step.state.items()} == {
        "lstm_1.h": (3,), "lstm_1.c": (3,), "gru_1.h": (4,)}  # fmt: skip
    step.reset()
    for x in X[:4]:
        step(x)
    kept = {name: state.copy() for name, state in step.state.items()}
    other = net.stepper()
    other.state = kept
    assert np.array_equal(other(X[4]), step(X[4])) and np.array_equal(other(X[5]), answers[5])
    for name, state in other.state.items():
        state[:] = kept[name]  # live
    assert np.array_equal(other(X[4]), answers[4])
    trained = net.stepper()
    net.theta[:] = 0  # a snapshot is not moved
    assert np.array_equal(trained(X[0]), answers[0])
    for wrong in ({}, None, {**kept, "gru_1.h": np.zeros(5)}, {**kept, "gru_1.h": np.full(4, np.nan)}):
        before = {name: state.copy() for name, state in other.state.items()}
        with pytest.raises(ValueError, match="state"):
            other.state = wrong
        assert all(np.array_equal(before[name], state) for name, state in other.state.items())


def test_a_stepper_refuses_what_needs_more_than_a_step():
    x = bp.Input((6, 2))
    h = bp.LSTM(3, sequences=True)(x)
    for out, words in (
        (bp.Dense(1)(bp.Reshape(-1)(h)), r"reshape_1 \(.*\) mixes time steps"),
        (bp.GRU(3)(bp.Permute((1, 0))(h)), "permute_1 .* mixes time steps"),
        (h[2:], "slice_1 .* mixes time steps"),
        (h[0], "slice_1 .* mixes time steps"),
        (bp.concat([h, h], axis=0), "concat_1 .* mixes time steps"),
        (bp.Activate("softmax", axis=0)(h), "activate_1 .* mixes time steps"),
        (bp.LSTM(3)(x, bp.Dense(6)(x[..., 0])), "dense_1 .* mixes time steps"),
        (bp.LSTM(3)(x, bp.Bias()(x[..., 0])), "bias_1 .* mixes time steps"),
        (bp.LSTM(3, reverse=True)(x), r"lstm_1 \(LSTM\(3, reverse=True\)\) begins at the last time step"),
        (bp.LSTM(3)(bp.Reshape((3, 1))(bp.LSTM(3)(x))), "reshape_1 .* makes time steps of what has none"),
    ):
        with pytest.raises(ValueError, match="stepper: " + words):
            bp.Network(x, out).stepper()
    with pytest.raises(ValueError, match="no recurrent layer"):
        bp.Network([bp.Input(3), bp.Dense(2)]).stepper()
    step, many = (bp.Network(x, h).stepper(streams=n) for n in (None, 3))
    for stepper, wrong, words in (
        (step, np.zeros((1, 2)), r"expected one time step of shape \(2,\), got \(1, 2\); net.stepper\(streams=n\)"),
        (step, np.zeros(3), r"x: expected one time step of shape \(2,\)"),
        (step, [np.nan, 0], "x"),
        (many, np.zeros((2, 2)), "x: expected 3 streams, as net.stepper was told, got 2"),
        (many, np.zeros((3, 3)), r"x: expected shape \(n, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            stepper(wrong)
        assert not any(state.any() for state in stepper.state.values())
    with pytest.raises(ValueError, match="streams"):
        bp.Network(x, h).stepper(streams=0)


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_stepper_is_not_pickled(how):
    """The network and the state are, and make one that goes on."""
    net = bp.Network([bp.Input((4, 2)), bp.LSTM(3)])
    step, x = net.stepper(), np.ones(2)
    step(x)
    with pytest.raises(TypeError, match="a stepper cannot be pickled or copied; pickle the network and step.state"):
        how(step)
    net, state = pickle.loads(pickle.dumps((net, step.state)))
    twin = net.stepper()
    twin.state = state
    assert twin(x).tobytes() == step(x).tobytes()
