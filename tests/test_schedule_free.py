"""ScheduleFree: what the network shows is the average, training is the oracle's, in every kind of network."""

import dataclasses
import pickle

import numpy as np
import pytest
from conftest import distance
from moving import CASES, LABELS, X, dense
from optimizers import move, settle

import bpcore as bp

RULES = {
    "sgd": bp.ScheduleFree(bp.SGD(lr=0.1, momentum=0.8, weight_decay=0.1)),
    "adamw": bp.ScheduleFree(bp.AdamW(lr=0.01, beta1=0.7, weight_decay=0.1, clip_norm=0.5), r=1.0),
    "warm-up": bp.ScheduleFree(bp.AdamW(lr=bp.schedules.Constant(0.02, warmup=3))),
}
every_rule = pytest.mark.parametrize("optimizer", RULES.values(), ids=RULES)
MODES = [("", 1), ("owners", 3), ("shards", 2)]


def oracle_fit(net, inputs, targets, batch, epochs, optimizer):
    """What a network shows in the end; gradients are those of a network whose theta is where they are taken."""
    taken = net.copy()
    free = [(name, p) for name, p in net._model.graph.parameters.items() if name not in net._model.frozen_parameters]
    params = [(taken.params[name], p.decay > 0) for name, p in free]
    states = [{} for _ in free]
    step = 0
    for _ in range(epochs):
        for first in range(0, len(inputs), batch):
            rows = slice(first, first + batch)
            gradient = taken.value_and_grad(inputs[rows], targets[rows])[1]
            base = optimizer.optimizer
            lr = float(base.lr(step)) if isinstance(base.lr, bp.schedules.Constant) else base.lr
            rates = [lr * p.treatment.rate for _, p in free]
            now = dataclasses.replace(optimizer, optimizer=dataclasses.replace(base, lr=lr))
            before = [p.copy() for p, _ in params]
            gradients = [p.of(gradient) for _, p in free]
            old = [{key: np.copy(value) for key, value in state.items()} for state in states]
            move(now, params, gradients, states, rates)
            for (name, _), (p, _), y, state, kept in zip(free, params, before, states, old, strict=True):
                if name.startswith("embedding"):  # z of what the batch does not name stays; the average goes on
                    still = np.setdiff1d(np.arange(len(p)), inputs[rows])
                    keep_rows(p, y, state, kept, still, now)
            step += 1
    settle(params, states)
    return taken.theta


def keep_rows(p, y, state, kept, rows, optimizer):
    """Of these rows u was zero, decay included, and v stays."""
    base = optimizer.optimizer
    beta = base.momentum if isinstance(base, bp.SGD) else base.beta1
    share = state["t"] ** optimizer.r * base.lr**optimizer.weight_lr_power / state["w"]
    x, z = kept.get("x", y), kept.get("z", y)
    state["z"][rows] = z[rows]
    state["x"][rows] = x[rows] + share * (z[rows] - x[rows])
    p[rows] = (1 - beta) * state["z"][rows] + beta * state["x"][rows]
    if "v" in state:
        state["v"][rows] = kept["v"][rows] if "v" in kept else 0


def moved(net):
    memory = net._model.memory
    return [a.tobytes() for a in (net.theta, *memory.states)], net.step, net.epoch, memory.updates, memory.weights


@every_rule
@pytest.mark.parametrize("case", CASES)
def test_training_is_the_oracles(force, case, optimizer):
    make, inputs, targets, batch = CASES[case]
    mode, n_threads = MODES[([*CASES].index(case) + [*RULES.values()].index(optimizer)) % 3]
    force(mode != "", mode)
    net, twin = make(), make()
    want = oracle_fit(net, inputs, targets, batch, 2, optimizer)
    history = net.fit(inputs, targets, optimizer=optimizer, batch_size=batch, epochs=2, shuffle=False,
                      n_threads=n_threads, validation_data=(inputs, targets))  # fmt: skip
    assert distance(net.theta, want) < 1e-12
    assert history.val_loss[-1] == net.evaluate(inputs, targets)["loss"]
    looks = []
    for _ in range(2):  # a callback at each step, which makes theta anew, changes no bit
        twin.fit(inputs, targets, optimizer=optimizer, batch_size=batch, shuffle=False, callbacks=Look(looks))
    assert moved(net) == moved(twin) and len(looks) == net.step and looks[-1] == net.theta.tobytes()


class Look(bp.Callback):
    def __init__(self, looks):
        self.looks = looks

    def on_batch_end(self, state):
        self.looks.append(state.net.theta.tobytes())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_rule
def test_fits_in_parts_files_and_many_at_once_have_the_bits_of_one(dtype, optimizer, tmp_path):
    def make(seed=0):
        layers = [bp.Dense(6, "relu"), bp.Dropout(0.2), bp.Dense(3, "softmax")]
        return bp.Network([bp.Input(5), *layers], dtype=dtype, seed=seed)

    settings = {"optimizer": optimizer, "batch_size": 16}
    whole, parts, many = make(), make(), [make(), make(seed=1)]
    whole.fit(X, LABELS, epochs=4, **settings)
    parts.fit(X, LABELS, epochs=1, **settings)
    parts.save(tmp_path / "net")
    parts = pickle.loads(pickle.dumps(bp.load(tmp_path / "net"))).copy()
    assert parts.optimizer == optimizer and parts._model.memory.weights > 0
    parts.fit(X, LABELS, epochs=3, batch_size=16)
    bp.fit_many(many, X, LABELS, epochs=4, n_threads=2, **settings)
    assert moved(parts) == moved(whole) == moved(many[0]) != moved(many[1])


def test_what_is_written_to_theta_moves_all_three_points():
    """Between calls, in a callback, and in a layer that is frozen, which then leads nowhere."""
    net, twin = dense(), dense()
    optimizer = bp.ScheduleFree(bp.SGD(lr=0.3, momentum=0.9))
    net.fit(X, LABELS, optimizer=optimizer, epochs=2)
    lead = net._model.memory.states[0].copy()
    theta = net.theta.copy()
    net.theta[:] += 1.0
    assert (net._model.memory.states[0] == lead).all()
    loss = net.fit(X, LABELS, batch_size=None).loss[0]  # of y
    twin.theta[:] = theta + 1 + (1 - 0.9) * lead
    assert loss == pytest.approx(twin.evaluate(X, LABELS)["loss"], rel=1e-14)
    net.frozen = {"dense_1"}
    net.params["dense_1.W"][...] = 0.25
    twin.theta[:] = net.theta + (1 - 0.9) * np.where(np.arange(net.n_params) < 36, 0, net._model.memory.states[0])
    loss = net.fit(X, LABELS, batch_size=None).loss[0]
    assert loss == pytest.approx(twin.evaluate(X, LABELS)["loss"], rel=1e-14)
    assert (net.params["dense_1.W"] == 0.25).all() and not net._model.memory.states[0][:36].any()

    def write(state):
        state.net.theta[:] = theta if state.epoch == state.net.epoch else 0

    net, twin = dense(), dense()
    net.fit(X, LABELS, optimizer=optimizer, epochs=3, callbacks=write)
    for _ in range(3):
        twin.fit(X, LABELS, optimizer=optimizer)
        twin.theta[:] = theta
    assert moved(net) == moved(twin)


def test_snapshots_stops_and_divergence_leave_the_average():
    net, twin = dense(30), dense(30)
    optimizer = bp.ScheduleFree(bp.SGD(lr=2.0, momentum=0.9))
    noisy = np.where(np.arange(90) % 3, LABELS, 0)
    stopping = bp.EarlyStopping(patience=3)
    history = net.fit(X[:60], noisy[:60], optimizer=optimizer, epochs=60, batch_size=10, callbacks=stopping,
                      validation_data=(X[60:], LABELS[60:]))  # fmt: skip
    assert len(history.loss) < 60
    twin.fit(X[:60], noisy[:60], optimizer=optimizer, epochs=stopping.best_epoch, batch_size=10)
    assert moved(net) == moved(twin)
    assert net.evaluate(X[60:], LABELS[60:])["loss"] == min(history.val_loss)
    twin = net.copy()
    bad = X[:60].copy()
    bad[35] = np.inf
    with pytest.raises(bp.DivergenceError):
        net.fit(bad, noisy[:60], batch_size=10, shuffle=False, check_finite=False)
    twin.fit(bad[:30], noisy[:30], batch_size=10, shuffle=False)
    assert (net.theta == twin.theta).all() and net._model.memory.weights == twin._model.memory.weights


def test_parameters_that_are_the_data():
    """X is a view of theta, which the steps change: each is read as it is then."""
    net, twin = (bp.Network([bp.Input(2), bp.Dense(2, bias=False)], dtype="float64", seed=3) for _ in range(2))
    optimizer = bp.ScheduleFree(bp.SGD(lr=0.1, momentum=0.9))
    net.fit(net.theta.reshape(2, 2), np.ones((2, 2)), optimizer=optimizer, shuffle=False, epochs=3)
    twin.fit(twin.theta.copy().reshape(2, 2), np.ones((2, 2)), optimizer=optimizer, shuffle=False)
    assert (net.theta != twin.theta).any() and np.isfinite(net.theta).all()


def test_refused():
    for optimizer in (bp.Adam(), "adamw", bp.ScheduleFree(), None):
        with pytest.raises(TypeError, match=r"optimizer: expected bp.SGD\(...\) or bp.AdamW\(...\), got "):
            bp.ScheduleFree(optimizer)
    for match, kind, settings in (
        ("momentum: expected the average's share .* above 0, such as 0.9; got 0.0", bp.SGD, {}),
        ("beta1: expected the average's share", bp.AdamW, {"beta1": 0.0}),
        ("nesterov: ScheduleFree has none", bp.SGD, {"momentum": 0.9, "nesterov": True}),
        ("amsgrad: ScheduleFree has none", bp.AdamW, {"amsgrad": True}),
        ("ema: ScheduleFree has none, its parameters are an average", bp.AdamW, {"ema": 0.9}),
    ):
        with pytest.raises(ValueError, match=match):
            bp.ScheduleFree(kind(**settings))
    with pytest.raises(TypeError, match="beta1: expected a number: under ScheduleFree"):
        bp.ScheduleFree(bp.AdamW(beta1=bp.schedules.Constant(0.9)))
    for name in ("r", "weight_lr_power"):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number"):
            bp.ScheduleFree(**{name: -1.0})
    bounded = bp.Network([bp.Input(5), bp.Dense(3, "softmax", max_norm=1.0)])
    before = bounded.theta.copy()
    with pytest.raises(ValueError, match=r"ScheduleFree is for networks without max_norm, and dense_1.W has one"):
        bounded.fit(X, LABELS, optimizer="schedule_free")
    with pytest.raises(TypeError, match=r"ReduceOnPlateau expects .*, got ScheduleFree\(.* whose average stands for"):
        dense().fit(X, LABELS, optimizer="schedule_free", callbacks=bp.ReduceOnPlateau("loss"))
    assert (bounded.theta == before).all() and bounded.optimizer is None

    def set_lr(state):
        assert state.lr == 0.001
        state.lr = 1.0

    with pytest.raises(AttributeError, match=r"bp.ScheduleFree\(dataclasses.replace\(state.optimizer.optimizer, lr"):
        dense().fit(X, LABELS, optimizer=bp.ScheduleFree(), callbacks=set_lr)
    assert repr(bp.ScheduleFree(bp.SGD(0.1, 0.9))).startswith("ScheduleFree(optimizer=SGD(lr=0.1, momentum=0.9,")


def test_what_a_damaged_file_may_say(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    net = dense()
    net.fit(X, LABELS, optimizer=bp.ScheduleFree())
    net.save(tmp_path / "net")
    with safe_open(tmp_path / "net", framework="numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata["bpcore_format"] == "2"
    inner = '"optimizer": {"kind": "adamw"'
    assert inner in metadata["training"]
    for old, new in (
        (inner, '"optimizer": {"kind": "schedule_free"'), (inner, '"optimizer": {"kind": "lbfgs"'),
        ('"weights": ', '"weights": -'), ('"weights": ', '"weights": 1e999, "more": '), ('"r": 0.0', '"r": "0"'),
    ):  # fmt: skip
        assert old in metadata["training"]
        damaged = {**metadata, "training": metadata["training"].replace(old, new)}
        save_file(tensors, tmp_path / "bad", damaged)
        with pytest.raises(ValueError, match="load: "):
            bp.load(tmp_path / "bad")
