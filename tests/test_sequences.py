"""Sequences: windows and padding, masks of pooling and softmax, masks that flow, Bidirectional, MultiHeadAttention.

test_layers.py and test_random_graphs.py have gradients, bits and files of the layers.
"""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import distance
from safetensors import safe_open

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(0)


# ---- arrays ----


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", ">f4"])
@pytest.mark.parametrize("length, horizon, stride", [(3, 1, 1), (4, 2, 3), (1, 1, 2), (5, 7, 1), (2, 0, 1), (12, 0, 5)])
def test_windows_are_those_of_a_loop(length, horizon, stride, dtype):
    series = RNG.integers(0, 100, (12, 2)).astype(dtype)
    first = range(0, 12 - length - horizon + 1, stride)
    for a, targets in ((series, None), (series[:, 0], None), (series[::-1], series[:, 1]), (series, series)):
        found = bp.windows(a, length, horizon, stride=stride, targets=targets)
        X, y = found if horizon else (found, None)
        assert X.dtype == dtype and not X.flags.writeable and np.shares_memory(X, a)
        assert np.array_equal(X, [a.reshape(12, -1)[i : i + length] for i in first])
        if horizon:
            b = a if targets is None else targets
            assert not y.flags.writeable and np.shares_memory(y, b)
            assert np.array_equal(y, [b[i + length : i + length + horizon] for i in first])


def test_windows_are_fitted_and_predicted_in_place():
    series = np.sin(np.arange(200) / 5)
    X, y = bp.windows(series, 20, 2)
    assert X.base is not None and X.shape == (179, 20, 1) and y.shape == (179, 2)
    nets = [bp.Network([bp.Input((20, 1)), bp.GRU(6), bp.Dense(2)], dtype="float64", seed=3) for _ in range(2)]
    losses = [net.fit(*data, epochs=2).loss for net, data in zip(nets, ((X, y), (X.copy(), y.copy())), strict=True)]
    assert losses[0] == losses[1] and nets[0].predict(X).tobytes() == nets[1].predict(X.copy()).tobytes()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype, rest", [("float32", (2,)), ("int8", ()), ("float64", (2, 3)), ("bool", ())])
def test_pad(dtype, rest, side):
    arrays = [RNG.integers(0, 2, (n, *rest)).astype(dtype) for n in (3, 0, 5, 1)]
    for length in (None, 7):
        X, mask = bp.pad(arrays, length, side=side, value=1)
        assert X.dtype == dtype and mask.dtype == bool and X.shape == (4, length or 5, *rest)
        assert mask.sum(1).tolist() == [3, 0, 5, 1] and (X[~mask] == 1).all()
        for a, x, m in zip(arrays, X, mask, strict=True):
            assert np.array_equal(x[m], a) and (np.diff(m.astype(int)) * (1 if side == "right" else -1) <= 0).all()
    X, mask = bp.pad([[3, 1], [4, 1, 5]])
    assert X.tolist() == [[3, 1, 0], [4, 1, 5]] and X.dtype == np.int64 and mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert bp.pad([[], [1, 2]])[0].dtype == np.int64 and bp.pad([[], []])[0].shape == (2, 1)
    assert bp.pad([np.ones(2, "f4"), np.ones(3)])[0].dtype == np.float64


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: bp.windows(np.ones(5), 3, 3), ValueError, r"series: expected at least length \+ horizon = 6 .* got 5"),
        (lambda: bp.windows(np.ones((2, 2, 2)), 1), ValueError, r"series: expected shape \(time,\) or"),
        (lambda: bp.windows(np.ones((5, 0)), 1), ValueError, "series: expected shape"),
        (lambda: bp.windows(["a"], 1), TypeError, "series"),
        (lambda: bp.windows(np.ones(5), 0), ValueError, "length"),
        (lambda: bp.windows(np.ones(5), 1, -1), ValueError, "horizon"),
        (lambda: bp.windows(np.ones(5), 1, stride=1.5), TypeError, "stride"),
        (lambda: bp.windows(np.ones(5), 1, targets=np.ones(4)), ValueError, "targets: expected 5 time steps .* got 4"),
        (lambda: bp.windows(np.ones(5), sequence_length=1), TypeError, "bpcore calls it length"),
        (lambda: bp.pad(np.ones((2, 3))), TypeError, "arrays: expected a list of arrays, got ndarray"),
        (lambda: bp.pad([]), ValueError, "arrays: expected at least one"),
        (lambda: bp.pad([[1], 2]), ValueError, r"arrays\[1\]: expected shape \(time,\), got \(\)"),
        (lambda: bp.pad([np.ones((2, 3)), np.ones((2, 4))]), ValueError, r"arrays\[1\]: expected shape \(time, 3\)"),
        (lambda: bp.pad([["a"]]), TypeError, r"arrays\[0\]"),
        (lambda: bp.pad([[1, 2]], 1), ValueError, r"length: expected at least 2.*got 1; cut them .*\[a\[-1:\] for a"),
        (lambda: bp.pad([[1]], side="pre"), ValueError, "side"),
        (lambda: bp.pad([[1]], value=0.5), ValueError, "value: expected a number that int64"),
        (lambda: bp.pad([[1]], maxlen=3), TypeError, "bpcore calls it length"),
    ],
)
def test_wrong_arrays(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---- masks of pooling and softmax ----


def masked_rows(n, *shape, steps):
    """Numbers, and masks of which one is all 0 and one all 1."""
    mask = RNG.random((n, *steps)) < 0.5
    mask[0], mask[1] = False, True
    return RNG.normal(size=(n, *shape)), mask


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (300, 17), (4, 5, 9)])
def test_pooling_heeds_masks(shape, dtype, tolerance):
    x, mask = bp.Input(shape), bp.Input(shape[:-1] if len(shape) > 2 else shape[0])
    X, M = masked_rows(9, *shape, steps=shape[:-1])
    X = X.astype(dtype)
    flat, on = X.reshape(9, -1, shape[-1]), M.reshape(9, -1, 1)
    means = np.where(on, flat, 0).sum(1) / np.maximum(on.sum(1), 1)
    most = np.where(on, flat, -np.inf).max(1, where=on | ~on.any(1, keepdims=True), initial=-np.inf)
    for layer, want in ((bp.GlobalAveragePool(), means), (bp.GlobalMaxPool(), np.where(on.any(1), most, 0))):
        net = bp.Network([x, mask], layer(x, mask), dtype=dtype)
        found = net.predict([X, M])
        assert distance(found, want) < tolerance and (found[0] == 0).all()
        spoilt = np.where(M[..., None], X, 1e30).astype(dtype)  # what is masked is not looked at
        assert (net.predict([spoilt, 3.0 * M]) == found).all()
        bare = bp.Network(x, layer(x), dtype=dtype)
        assert distance(net.predict([X, np.ones(M.shape)]), bare.predict(X)) < tolerance


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("queries, keys", [(1, 1), (4, 7), (7, 4), (20, 70)])
def test_softmax_heeds_masks(queries, keys, lead, causal, dtype, tolerance):
    shape = (*lead, queries, keys)
    z = bp.Input(shape)
    allowed = np.tri(queries, keys, dtype=bool) if causal else np.ones((queries, keys), bool)
    for masks in {(keys,), (queries, keys), shape}:
        m = bp.Input(masks if len(masks) > 1 else keys)
        X, M = masked_rows(6, *shape, steps=masks)
        X = (5 * X).astype(dtype)
        on = np.broadcast_to(M.reshape(6, *(1,) * (len(shape) - len(masks)), *masks), X.shape) & allowed
        e = np.where(on, np.exp(X.astype(float)), 0)
        want = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
        net = bp.Network([z, m], bp.Activate("softmax", causal=causal)(z, m), dtype=dtype)
        found = net.predict([X, M])
        assert distance(found, want) < tolerance and (found[~on] == 0).all() and np.isfinite(found).all()
        assert (net.predictor()([X[2], M[2]]) == found[2]).all()


def test_softmax_over_time():
    z, m = bp.Input((5, 2)), bp.Input(5)
    net = bp.Network([z, m], bp.Activate("softmax", axis=0)(z, m), dtype="float64")
    X, M = masked_rows(6, 5, 2, steps=(5,))
    e = np.exp(X) * M[..., None]
    assert distance(net.predict([X, M]), e / np.maximum(e.sum(1, keepdims=True), 1e-300)) < 1e-14


@pytest.mark.parametrize("shape, want", [((6,), (6,)), ((4, 3), (4,)), ((2, 3, 4), (2, 3))])
def test_mask(shape, want):
    X = RNG.integers(-1, 2, (50, *shape)) * (RNG.random((50, *shape)) < 0.5)
    for integer in (False, True):
        x = bp.Input(shape if len(shape) > 1 else shape[0], integer=integer)
        net = bp.Network(x, bp.Mask()(x))
        on = (X != 0).any(-1) if len(shape) > 1 else X != 0
        assert net.predict(abs(X)).tolist() == on.tolist() and net.outputs == {"mask_1": want}


# ---- masks that flow ----


WORDS, Y = RNG.integers(0, 6, (40, 8)) * (RNG.random((40, 8)) < 0.7), RNG.integers(0, 2, 40)


def reader(layers, explicit=False, dtype="float64", **settings):
    """Layers over an embedding, of which word 0 is none; explicit: its mask is given by hand."""
    words = bp.Input(8, integer=True)
    embedding = bp.Embedding(6, 5, mask_zero=not explicit)
    h = embedding(words)
    mask = bp.Mask()(words) if explicit else None
    for layer in layers:
        takes = explicit and isinstance(layer, (bp.LSTM, bp.GRU, bp.GlobalAveragePool, bp.Bidirectional))
        h = layer(h, mask) if takes else layer(h)
    return bp.Network(words, bp.Dense(2, "softmax")(h), dtype=dtype, seed=2, **settings)


READERS = {
    "one": lambda: [bp.LSTM(4)],
    "several": lambda: [bp.Dense(6, "tanh"), bp.LayerNorm(), bp.Dropout(0.2), bp.GRU(4, sequences=True),
                        bp.Activate("silu"), bp.GRU(3, sequences=True, reverse=True), bp.GlobalAveragePool()],
    "both ways": lambda: [bp.Bidirectional(bp.GRU(3, sequences=True)), bp.Bidirectional(bp.LSTM(3), merge="average")],
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_a_mask_flows_from_the_embedding(kind, tmp_path):
    """With the bits of one that is given by hand, and what is masked does not matter."""
    net, by_hand = reader(READERS[kind]()), reader(READERS[kind](), explicit=True)
    for each in (net, by_hand):
        each.fit(WORDS, Y, epochs=2, batch_size=16, optimizer=bp.Adam(lr=0.01))
    assert net.theta.tobytes() == by_hand.theta.tobytes()
    answers = net.predict(WORDS)
    assert answers.tobytes() == by_hand.predict(WORDS).tobytes()
    net.params["embedding_1.E"][0] = 7.0
    assert net.predict(WORDS).tobytes() == answers.tobytes()
    net.save(tmp_path / "net")
    again = bp.load(tmp_path / "net")
    assert again.predict(WORDS).tobytes() == net.predict(WORDS).tobytes() and again.summary() == net.summary()
    with safe_open(tmp_path / "net", framework="numpy") as file:
        assert file.metadata()["bpcore_format"] == "2"
        nodes = json.loads(file.metadata()["graph"])["nodes"]
    assert [node["name"] for node in nodes if "mask_1" in node["inputs"]] and nodes[1]["attributes"]["mask_zero"]


def test_padding_on_the_right_changes_nothing():
    net = reader([bp.Bidirectional(bp.LSTM(4, sequences=True)), bp.GlobalMaxPool()])
    short = bp.Input(5, integer=True)
    h = bp.GlobalMaxPool()(bp.Bidirectional(bp.LSTM(4, sequences=True))(bp.Embedding(6, 5)(short)))
    bare = bp.Network(short, bp.Dense(2, "softmax")(h), dtype="float64")
    bare.theta = net.theta
    X = RNG.integers(1, 6, (30, 5))
    assert distance(net.predict(bp.pad(list(X), 8)[0]), bare.predict(X)) < 1e-15


def test_where_masks_flow_and_end():
    words = bp.Input(8, integer=True)
    h = bp.Embedding(6, 4, mask_zero=True)(words)
    assert h.mask.shape == (8,) and h.mask.layer.op == "mask" and bp.Embedding(6, 4)(words).mask is None
    for on in (bp.Dense(3)(h), h + h, 2 * h, h * h, bp.concat([h, h]), h[:, 1:], bp.GRU(2, sequences=True)(h),
               bp.Bidirectional(bp.LSTM(2, sequences=True))(h), bp.MultiHeadAttention(2, 3)(h)):  # fmt: skip
        assert on.mask is h.mask
    for end in (bp.GRU(2)(h), bp.Reshape(-1)(h), h[2:], bp.Conv1D(3, 3, padding="same")(h), bp.GlobalMaxPool()(h),
                bp.Permute((1, 0))(h), bp.concat([h, h], 0), bp.Bidirectional(bp.GRU(2))(h)):  # fmt: skip
        assert end.mask is None
    other = bp.Embedding(6, 4, mask_zero=True)(bp.Input(8, integer=True))
    assert (h + other).mask.layer.op == "multiply"
    assert bp.LSTM(3)(h, bp.Mask()(words)).inputs[1] is not h.mask  # one that is given by hand is the one that counts
    assert bp.LSTM(3)(bp.Dense(3)(bp.Input((8, 4)))).inputs[1:] == ()
    assert bp.Activate("softmax", axis=0)(bp.Dense(1)(h)).inputs[1] is h.mask
    assert len(bp.Activate("softmax")(h).inputs) == 1


def test_streams_of_words():
    net = reader([bp.LSTM(4)])
    step = net.stepper()
    assert [step(word) for word in WORDS[3]][-1].tobytes() == net.predict(WORDS[3:4])[0].tobytes()


# ---- Bidirectional ----


@pytest.mark.parametrize("kind", [bp.SimpleRNN, bp.GRU, bp.LSTM])
@pytest.mark.parametrize("merge", ["concat", "sum", "average", "multiply"])
@pytest.mark.parametrize("sequences", [False, True])
def test_bidirectional_is_both_ways(kind, merge, sequences):
    x = bp.Input((6, 3))
    net = bp.Network(x, bp.Bidirectional(kind(4, sequences=sequences), merge=merge, name="b")(x), dtype="float64")
    net.theta = RNG.normal(size=net.n_params)
    X = RNG.normal(size=(5, 6, 3))
    parts = []
    for use, there in (("forward", X), ("backward", X[:, ::-1])):
        one = bp.Network([bp.Input((6, 3)), kind(4, sequences=sequences, name=f"b_{use}")], dtype="float64")
        for name in one.params:
            one.params[name][...] = net.params[name]
        parts.append(one.predict(there)[:, ::-1] if sequences and there is not X else one.predict(there))
    a, b = parts
    want = {"concat": np.concatenate([a, b], -1), "sum": a + b, "average": (a + b) / 2, "multiply": a * b}[merge]
    assert distance(net.predict(X), want) < 1e-15


def test_bidirectional_in_a_list_twice_and_copied():
    both = bp.Bidirectional(bp.GRU(3, sequences=True))
    net = bp.Network([bp.Input((6, 6)), both, both, bp.Reshape(-1), bp.Dense(2)])
    assert [node.name for node in net._model.graph.nodes if node.parameters] == [
        "gru_1", "gru_2", "gru_1@2", "gru_2@2", "dense_1"]  # fmt: skip
    for twin in (copy.copy(both), copy.deepcopy(both)):
        x = bp.Input((6, 6))
        assert bp.Network(x, twin(both(x))).n_params == 2 * bp.Network(x, both(both(x))).n_params
    assert repr(both) == "Bidirectional(GRU(3, sequences=True))"


# ---- MultiHeadAttention ----


def attention(params, q, k, v, heads, on):
    """Of (n, time, features), in NumPy; on: (n, heads, queries, keys)."""

    def split(x, use):
        h = x @ params[f"at_{use}.W"] + params.get(f"at_{use}.b", 0)
        return h.reshape(*h.shape[:2], heads, -1).swapaxes(1, 2)

    q, k, v = split(q, "query"), split(k, "key"), split(v, "value")
    e = np.where(on, np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])), 0)
    h = (e / np.maximum(e.sum(-1, keepdims=True), 1e-300)) @ v
    return h.swapaxes(1, 2).reshape(len(h), h.shape[2], -1) @ params["at_output.W"] + params.get("at_output.b", 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, "keys", "queries"])
@pytest.mark.parametrize("heads, settings", [(1, {}), (3, {"value_dim": 5}), (2, {"units": 7, "bias": False})])
def test_attention(heads, settings, masked, causal):
    x, memory, names = bp.Input((5, 6)), bp.Input((4, 8)), bp.Input((4, 3))
    layer = bp.MultiHeadAttention(heads, 4, causal=causal, name="at", **settings)
    inputs = [x, memory, names, *([] if masked is None else [bp.Input(4 if masked == "keys" else (5, 4))])]
    out = layer(x, memory, names, mask=None if masked is None else inputs[3])
    net = bp.Network(inputs, out, dtype="float64")
    net.theta = RNG.normal(size=net.n_params)
    X = [RNG.normal(size=(6, *each.shape)) for each in inputs]
    on = np.ones((6, 1, 5, 4), bool)
    if masked:
        X[3] = (X[3] > 0) * 1.0
        X[3][0] = 0
        on = on & (X[3][:, None, None] if masked == "keys" else X[3][:, None]).astype(bool)
    want = attention(net.params, X[0], X[2], X[1], heads, on & np.tri(5, 4, dtype=bool) if causal else on)
    assert out.shape == (5, settings.get("units", 6)) and distance(net.predict(X), want) < 1e-14
    y = RNG.normal(size=(6, *out.shape))
    errors = bp.check_gradients(net, X, y)
    assert max(error for name, error in errors.items() if name != "at_key.b") < 1e-6  # whose gradient is 0


def test_self_attention_sees_what_counts_and_comes_before():
    words = bp.Input(8, integer=True)
    h = bp.Embedding(6, 4, mask_zero=True)(words)
    net = bp.Network(words, bp.MultiHeadAttention(2, 3, causal=True)(h), dtype="float64")
    X = RNG.integers(1, 6, (9, 8))
    X[:, 5:] = 0
    other = X.copy()
    other[:, 4] = 1 + other[:, 4] % 5
    before, after = net.predict(X), net.predict(other)
    assert (before[:, :4] == after[:, :4]).all() and (before[:, 4] != after[:, 4]).any(-1).all()
    net.params["embedding_1.E"][0] = 3.0
    assert (net.predict(X)[:, :5] == before[:, :5]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads(dtype, force, tmp_path):
    def make():
        words = bp.Input(8, integer=True)
        h = bp.Embedding(6, 6, mask_zero=True)(words)
        h = h + bp.MultiHeadAttention(2, 3, causal=True, dropout=0.2)(h)
        h = bp.Bidirectional(bp.LSTM(5, sequences=True))(h)
        ends = [bp.GlobalMaxPool()(h), bp.GlobalAveragePool()(h)]
        weights = bp.Activate("softmax", axis=0)(bp.Dense(1)(h))
        ends.append(bp.Reshape(-1)(bp.MatMul(transpose_a=True)(weights, h)))
        return bp.Network(words, bp.Dense(2, "softmax")(bp.concat(ends)), dtype=dtype, seed=1)

    X, y = np.tile(WORDS, (5, 1)), np.tile(Y, 5)
    found = []
    for n_threads in (1, 2, 3, 4, 7):
        force(True, "")
        net = make()
        loss = net.fit(X, y, optimizer=bp.Adam(lr=0.01), batch_size=70, epochs=2, n_threads=n_threads).loss
        found.append((net.theta.tobytes(), loss, net.predict(X, n_threads=n_threads).tobytes()))
    assert all(one == found[0] for one in found)
    parts = make()
    parts.fit(X, y, optimizer=bp.Adam(lr=0.01), batch_size=70, epochs=1)
    parts.save(tmp_path / "net")
    parts = bp.load(tmp_path / "net")
    parts.fit(X, y, optimizer=bp.Adam(lr=0.01), batch_size=70, epochs=1)
    assert parts.theta.tobytes() == found[0][0]


# ---- wrong settings ----


x5 = bp.Input((5, 4))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: bp.GlobalMaxPool()(x5, bp.Input(4)), ValueError, r"a mask of shape \(5,\) for an input of shape"),
        (lambda: bp.GlobalMaxPool()(x5, bp.Input(5), bp.Input(5)), ValueError, "an input and perhaps a mask, got 3"),
        (lambda: bp.Activate("softmax")(x5, bp.Input(5)), ValueError, r"mask of shape \(4,\) or the last axes"),
        (lambda: bp.Activate("softmax", axis=0)(x5, bp.Input(4)), ValueError, r"a mask of shape \(5,\), got \(4,\)"),
        (lambda: bp.Activate("relu")(x5, bp.Input(5)), ValueError, "of softmax perhaps a mask, got 2 inputs"),
        (lambda: bp.Activate("relu", causal=True), ValueError, "causal: only softmax"),
        (lambda: bp.Activate("softmax", axis=0, causal=True), ValueError, "causal: only softmax of the last axis"),
        (lambda: bp.Activate("softmax", causal=True)(bp.Input(4)), ValueError, r"\(\.\.\., queries, keys\)"),
        (lambda: bp.Activate("softmax", causal=1), TypeError, "causal"),
        (lambda: bp.Embedding(5, 2, mask_zero=1), TypeError, "mask_zero"),
        (lambda: bp.Embedding(5, 2, mask_zero=True)(bp.Input((2, 3), integer=True)), ValueError, r"an input \(time,\)"),
        (lambda: bp.Bidirectional(bp.Dense(3)), TypeError, r"layer: expected a recurrent layer such as bp.LSTM\(32\)"),
        (lambda: bp.Bidirectional(bp.LSTM(3, reverse=True)), ValueError, "drop reverse=True"),
        (lambda: bp.Bidirectional(bp.LSTM(3), merge="mean"), ValueError, "merge: there is no 'mean'"),
        (lambda: bp.Bidirectional(bp.LSTM(3), merge_mode="sum"), TypeError, "bpcore calls it merge"),
        (lambda: bp.Bidirectional(bp.LSTM(3))(bp.Input(4)), ValueError, "a sequence"),
        (lambda: bp.MultiHeadAttention(0, 4), ValueError, "heads"),
        (lambda: bp.MultiHeadAttention(2, None), TypeError, "key_dim"),
        (lambda: bp.MultiHeadAttention(2, 4, units=0), ValueError, "units"),
        (lambda: bp.MultiHeadAttention(2, 4, dropout=1), ValueError, "dropout"),
        (lambda: bp.MultiHeadAttention(num_heads=2, key_dim=4), TypeError, "bpcore calls it heads"),
        (lambda: bp.MultiHeadAttention(2, 4)(bp.Input(4)), ValueError, r"query to be a sequence \(time, features\)"),
        (lambda: bp.MultiHeadAttention(2, 4)(np.ones(4)), TypeError, "query: expected an output of a layer"),
        (lambda: bp.MultiHeadAttention(2, 4)(x5, x5, bp.Input((4, 4))), ValueError, "as many keys as values, got 4"),
        (lambda: bp.MultiHeadAttention(2, 4)(x5, mask=bp.Input(4)), ValueError, r"a mask of shape \(5,\)"),
    ],
)  # fmt: skip
def test_wrong_settings_and_shapes(make, error, words):
    with pytest.raises(error, match=words):
        make()


# an operation's inputs (columns, whether whole numbers), its integers, and what does not fit in place of these
WRONG = [
    ("masked_softmax", [12, 3], [3, 4], [[3, 5], [0, 0], [5, 0], [3, -1], [4, 0]]),
    ("masked_softmax", [12, 6], [3, 0], [[4, 0], [12, 0]]),
    ("mask", [12], [3], [[0], [5], [-3]]),
    ("masked_average", [12, 4], [1, 4, 3, 1, 4, 1, 4, 0, 0, 1, 1],
     [[1, 4, 3, 1, 4, 1, 1, 0, 0, 1, 1], [1, 3, 4, 1, 3, 1, 3, 0, 0, 1, 1]]),
    ("max_pool", [12, 4], [1, 4, 3, 1, 4, 1, 4, 0, 0, 1, 1], [[1, 4, 3, 1, 4, 1, 1, 0, 0, 1, 1]]),
]  # fmt: skip


@pytest.mark.parametrize("name, columns, good, bad", WRONG)
def test_c_refuses_what_does_not_fit(name, columns, good, bad):
    plan = _core.Plan(np.float32)
    inputs = [plan.buffer(n) for n in columns]
    assert plan.op(name, inputs, settings=(good, [])) > 0
    for wrong in bad:
        with pytest.raises(ValueError, match="."):
            plan.op(name, inputs, settings=(wrong, []))


def test_the_page_runs():
    text = (Path(__file__).parent.parent / "docs/sequences.md").read_text(encoding="utf-8")
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, "docs/sequences.md", "exec"), {})  # it asserts for itself
