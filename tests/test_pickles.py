"""Pickles and copies: every public object comes back as it was, or says in bpcore's words why it does not."""

import copy
import operator
import pickle
import re

import numpy as np
import pytest
from optimizers import OPTIMIZERS

import bpcore as bp

X, Y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
WAYS = {"pickle": lambda a: pickle.loads(pickle.dumps(a)), "copy": copy.copy, "deepcopy": copy.deepcopy}
LAYERS = [
    bp.Input((3, 2)), bp.Dense(2, bp.Activation(np.sin, np.cos, name="sin")), bp.Conv2D(2, 3, "relu"),
    bp.Conv1D(2, 3), bp.TimeDelay(2, 3), bp.MaxPool1D(2), bp.MaxPool2D(2), bp.AveragePool1D(2), bp.AveragePool2D(2),
    bp.GlobalAveragePool(), bp.GlobalMaxPool(), bp.SimpleRNN(2), bp.GRU(2), bp.LSTM(2), bp.Embedding(5, 2),
    bp.LayerNorm(), bp.RMSNorm(), bp.GroupNorm(2), bp.Dropout(0.5), bp.AlphaDropout(0.5), bp.GaussianNoise(0.1),
    bp.Mask(), bp.Bidirectional(bp.LSTM(2)), bp.MultiHeadAttention(2, 3), bp.BatchNorm(), bp.Standardize(),
    bp.Activate("relu"), bp.Scale(), bp.Bias(), bp.Add(), bp.Multiply(), bp.Concat(),
    bp.MatMul(), bp.Permute((1, 0)), bp.Reshape(-1), bp.Slice(0), bp.Function(np.sin, np.cos, name="sin"),
]  # fmt: skip
SCHEDULES = [
    bp.schedules.Constant(0.1), bp.schedules.Step(0.1, every=5), bp.schedules.Exponential(0.1),
    bp.schedules.InverseTime(0.1, every=bp.schedules.Epochs(2)), bp.schedules.Polynomial(0.1), bp.schedules.Epochs(2),
    bp.schedules.Cosine(0.1, warmup=3), bp.schedules.OneCycle(0.1), bp.schedules.Piecewise([0.1, 0.01], [3]),
    bp.schedules.Function(np.sqrt, name="root"),
]  # fmt: skip

LOSSES = [bp.losses.Weighted("mse", 0.3), bp.Loss(np.add, np.subtract, name="l")]
LOSSES += [kind() for kind in vars(bp.losses).values() if isinstance(kind, type) and kind not in map(type, LOSSES)]

METRICS = [bp.metrics.Metric(np.add, better="higher", name="sum")]
METRICS += [kind() for kind in vars(bp.metrics).values() if isinstance(kind, type) and kind is not bp.metrics.Metric]


def small():
    return bp.Network([bp.Input(4), bp.Dense(8, "tanh"), bp.Dense(1)], seed=0)


def objects():
    """All that a user may come to hold, by name; what a callback sees as it is within `fit`."""
    net, series = small(), bp.Network([bp.Input((5, 3)), bp.GRU(4, sequences=True)])
    tape, states = net.forward(X), []
    small().fit(X, Y, callbacks=states.append)
    values = [
        *LAYERS, *SCHEDULES, *OPTIMIZERS.values(), *LOSSES, *METRICS,
        bp.LevenbergMarquardt(), bp.LBFGS(), bp.Rprop(),
        bp.Activation(np.sin, np.cos), bp.EarlyStopping(), bp.ReduceOnPlateau(), bp.Callback(), bp.History(),
        bp.ModelCheckpoint("net"), bp.Checkpoint("run"), bp.CSVLogger("a.csv"), bp.JSONLines("a.jsonl"),
        bp.data.Stream(small), bp.LearningRateFinder(), bp.DivergenceError("loss", 1, 2, "Do."), *states,
        bp.Table({"a": [1.0, 2.0]}),
        bp.Dense(3)(bp.Input(2)), net, net.fit(X, Y, epochs=2), tape, net.backward(tape, Y), net.predictor(),
        series.stepper(), bp.Ensemble([net, small()]), bp.Ensemble([net]).predictor(), bp.datasets.xor(),
        bp.datasets.load_digits(), net.plot(),
        net.inspect(X, Y),
    ]  # fmt: skip
    found = {f"{type(value).__name__} {i}": value for i, value in enumerate(values)}
    for name in ("theta", "params", "W", "b", "layers", "inputs", "outputs", "frozen", "feature_names", "optimizer"):
        found[f"net.{name}"] = getattr(net, name)
    return found


def public_classes():
    modules = bp, bp.data, bp.losses, bp.metrics, bp.schedules, bp.activations
    return {a for module in modules for a in vars(module).values() if isinstance(a, type) and "bpcore" in a.__module__}


def same(a, b):
    """What can be told of an object: arrays, numbers, names."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and not isinstance(a, bp.History):
        return list(a) == list(b) and same(list(a.values()), list(b.values()))
    words = (re.sub("0x[0-9a-f]+", "", str(each)) for each in (a, b))
    return type(a) is type(b) and operator.eq(*words) and (not isinstance(a, bp.Network) or same(a.theta, b.theta))


def check(name, value, way):
    try:
        twin = WAYS[way](value)
    except TypeError as error:
        assert "cannot be pickled" in str(error) and re.search("Predictor|Stepper", type(value).__name__), name
    else:
        assert same(value, twin), name


@pytest.mark.parametrize("way", WAYS)
def test_every_public_object_comes_back_or_says_why_not(way):
    known = objects()
    held = {type(value) for value in known.values()}
    missing = {a.__name__ for a in public_classes() if not any(issubclass(kind, a) for kind in held)}
    assert not missing
    for name, value in known.items():
        check(name, value, way)


@pytest.mark.parametrize("way", WAYS)
def test_within_fit_too(way, tmp_path):
    seen, callbacks = [], [bp.EarlyStopping("loss"), bp.ReduceOnPlateau("loss")]
    callbacks += [bp.CSVLogger(tmp_path / "a.csv"), bp.JSONLines(tmp_path / "a.jsonl"), bp.LearningRateFinder()]
    callbacks += [bp.ModelCheckpoint(tmp_path / "net", "loss"), bp.Checkpoint(tmp_path / "run")]

    def look(state):
        for value in (state.net, state.history, state.optimizer, state.snapshot(), *callbacks):
            WAYS[way](value)
        twin = WAYS[way](state)
        seen.append((twin.step, twin.loss, twin.stopped, twin.history.loss[:], twin.net.theta.tobytes()))
        assert seen[-1] == (state.step, state.loss, False, state.history.loss, state.net.theta.tobytes())
        with pytest.raises(RuntimeError, match="snapshot: this fit has ended"):
            twin.snapshot()

    small().fit(X, Y, epochs=2, callbacks=[look, *callbacks])
    assert len(seen) == 2


def test_params_are_a_dict_that_is_read_only():
    """Pickled or copied they are a dict of arrays."""
    net = small()
    params = net.params
    assert isinstance(params, dict) and list(params) == ["dense_1.W", "dense_1.b", "dense_2.W", "dense_2.b"]
    for change in (
        lambda p: operator.setitem(p, "dense_1.W", 0), lambda p: operator.delitem(p, "dense_1.W"),
        lambda p: p.update(a=1), lambda p: p.pop("dense_1.W"), lambda p: p.popitem(), lambda p: p.setdefault("a"),
        lambda p: operator.ior(p, {}), lambda p: p.clear(),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"params: expected to be read only; net.params\[name\]\[...\] = numbers"):
            change(params)
    for twin in (copy.copy(params), params.copy()):
        assert type(twin) is dict and all(twin[name] is params[name] for name in params)
    for twin in (pickle.loads(pickle.dumps(params)), copy.deepcopy(params)):
        assert type(twin) is dict and same(twin, dict(params))
        twin["dense_1.W"][...] = 7
    assert not (net.theta == 7).any()


def test_pickles_of_older_versions_find_what_has_moved():
    from bpcore import _normalization

    assert _normalization.Dropout is bp.Dropout
