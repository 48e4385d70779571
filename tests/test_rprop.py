"""Rprop, improved and original: its steps against the oracle, and like any optimiser in all else."""

import pickle

import numpy as np
import pytest
import reference as ref
from conftest import distance, flat, oracle

import bpcore as bp

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((150, 5)), RNG.standard_normal((150, 3))
WEIGHT = RNG.uniform(0.2, 2, 150)
KINDS = {
    "improved": bp.Rprop(lr=0.3, weight_decay=0.01),
    "original": bp.Rprop(lr=0.02, improved=False),
    "bounds": bp.Rprop(lr=0.1, eta_minus=0.3, eta_plus=1.5, min_step=0.005, max_step=0.3, clip_norm=0.2, ema=0.9),
}
every_kind = pytest.mark.parametrize("optimizer", KINDS.values(), ids=KINDS)


def make(dtype="float64"):
    layers = [bp.Dense(9, "tanh"), bp.Dense(7, "softplus"), bp.Dense(3)]
    return bp.Network([bp.Input(5), *layers], dtype=dtype, seed=3)


def facts(net):
    memory = net._model.memory
    return [a.tobytes() for a in (net.theta, *memory.states)], net.step, net.epoch, memory.updates


def steps(optimizer, params, gradients, states, cost):
    settings = {name: vars(optimizer)[name] for name in vars(optimizer).keys() - {"clip_norm", "clip_value", "ema"}}
    decay = settings.pop("weight_decay")
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    factor = min(1.0, optimizer.clip_norm / (norm + 1e-6)) if optimizer.clip_norm else 1.0
    for (p, decays), g, state in zip(params, gradients, states, strict=True):
        ref.rprop(p, g * factor, state, cost, weight_decay=decay if decays else 0.0, **settings)


def on_the_oracle(net, X, Y, optimizer, n, weight=None):
    """theta after n steps, the costs before them, and how often a step was taken back."""
    W, b, names = oracle(net)
    params = [(p, decays) for k in range(1, len(W)) for p, decays in ((W[k], True), (b[k], False))]
    states, costs, before = [{} for _ in params], [], []
    for _ in range(n):
        C, _, dW, db, _ = ref.backward(W, names, *ref.forward(W, b, names, X), Y, "squared_error", weight)
        before.append([p.copy() for p, _ in params])
        steps(optimizer, params, [g for k in range(1, len(W)) for g in (dW[k], db[k])], states, C)
        costs.append(C)
    back = sum(int(np.isclose(p, q, rtol=1e-13).sum()) for now, then in zip(before[2:], before, strict=False)
               for p, q in zip(now, then, strict=True))  # fmt: skip
    return flat(W, b), costs, back


@every_kind
@pytest.mark.parametrize("phase2", ["", "owners", "shards"])
def test_sixty_steps(force, phase2, optimizer):
    force(phase2 != "", phase2)
    for weight in (None, WEIGHT):
        net = make()
        theta, costs, back = on_the_oracle(net, X, Y, optimizer, 60, weight)
        history = net.fit(X, Y, optimizer=optimizer, batch_size=None, epochs=60, sample_weight=weight, n_threads=2)
        assert distance(net.theta, theta) < 1e-9 and back > 0
        np.testing.assert_allclose(history.loss, costs, rtol=1e-9)


def test_a_batch_of_several_chunks():
    many, net = RNG.standard_normal((17_000, 5)), make()
    y = np.sin(many[:, :3])
    theta, costs, _ = on_the_oracle(net, many, y, KINDS["improved"], 3)
    history = net.fit(many, y, optimizer=KINDS["improved"], batch_size=None, epochs=3)
    assert distance(net.theta, theta) < 1e-11
    np.testing.assert_allclose(history.loss, costs, rtol=1e-11)


@pytest.mark.parametrize("improved", [True, False])
def test_ten_thousand_steps_against_the_recursion(improved):
    """Gradients are given, y, and costs: y a."""
    optimizer, y = bp.Rprop(lr=0.1, improved=improved, max_step=2.0), np.zeros((1, 4))
    gradients = RNG.choice([-1.0, 0.0, 0.5, 2.0], (10_000, 4), p=[0.4, 0.1, 0.3, 0.2])
    net = bp.Network([bp.Input(1), bp.Dense(4, bias=False)], dtype="float64")
    theta, state, path = net.theta.copy(), {}, []

    class Turn(bp.Callback):
        def on_epoch_end(self, state):
            y[:] = gradients[state.epoch % 10_000]
            if state.epoch in (10, 100, 1000):
                path.append(net.theta.copy())

    y[:] = gradients[0]
    loss = bp.Loss(lambda a, y: (a * y).sum(1), lambda a, y: y)
    net.fit(np.ones((1, 1)), y, loss=loss, optimizer=optimizer, batch_size=None, epochs=10_000, callbacks=Turn())
    path.append(net.theta.copy())
    for t, g in enumerate(gradients, start=1):
        ref.rprop(theta, g, state, g @ theta, lr=0.1, improved=improved, max_step=2.0)
        if t in (10, 100, 1000, 10_000):
            np.testing.assert_allclose(path.pop(0), theta, rtol=1e-12, atol=1e-12)


def test_rows_of_a_table_are_weights_like_others():
    """As those of a Dense layer that gets one-hot vectors."""
    words, one_hot = bp.Input(1, integer=True), bp.Input(40)
    table = bp.Network(words, bp.Activate("tanh")(bp.Reshape(-1)(bp.Embedding(40, 3)(words))), dtype="float64")
    plain = bp.Network(one_hot, bp.Activate("tanh")(bp.Dense(3, bias=False)(one_hot)), dtype="float64")
    plain.theta = table.theta
    numbers = RNG.integers(0, 40, (200, 1))
    target = np.tanh(RNG.standard_normal((200, 3)))
    for net, inputs in ((table, numbers), (plain, np.eye(40)[numbers[:, 0]])):
        net.fit(inputs, target, optimizer=bp.Rprop(), batch_size=None, epochs=30)
    assert distance(table.theta, plain.theta) < 1e-11


@every_kind
def test_the_same_bits_for_any_number_of_threads(force, optimizer):
    for phase2 in ("owners", "shards"):
        force(True, phase2)
        found = []
        for n_threads in (1, 2, 3, 4, 7):
            net = make("float32")
            loss = net.fit(X, Y, optimizer=optimizer, batch_size=None, epochs=8, n_threads=n_threads).loss
            found.append((facts(net), loss))
        assert all(one == found[0] for one in found)


@every_kind
@pytest.mark.parametrize("how", ["file", "pickle", "copy", "fit_many"])
def test_five_epochs_twice_are_ten(how, optimizer, tmp_path):
    whole, parts = make("float32"), make("float32")
    whole.frozen = parts.frozen = {"dense_2"}
    settings = {"optimizer": optimizer, "batch_size": None}
    whole.fit(X, Y, epochs=10, **settings)
    parts.fit(X, Y, epochs=5, **settings)
    if how == "file":
        parts.save(tmp_path / "net")
        parts = bp.load(tmp_path / "net")
    elif how != "fit_many":
        parts = pickle.loads(pickle.dumps(parts)) if how == "pickle" else parts.copy()
    if how == "fit_many":
        bp.fit_many([parts], X, Y, epochs=5, **settings)
    else:
        parts.fit(X, Y, epochs=5, **settings)
    assert facts(parts) == facts(whole) and parts.optimizer == optimizer


def test_an_overflow_goes_back_to_the_last_finite_step():
    """Its first steps are near the largest float32: the second is too many."""
    net, twin = (bp.Network([bp.Input(1), bp.Dense(1, bias=False)]) for _ in range(2))
    loss = bp.Loss(lambda a, y: np.zeros(len(a)), lambda a, y: y)
    for each in (net, twin):
        each.theta[:] = 0
    optimizer = bp.Rprop(lr=3e38, max_step=3e38, eta_plus=1.0)
    settings = {"loss": loss, "optimizer": optimizer, "batch_size": None}
    with pytest.raises(bp.DivergenceError, match="parameters are no longer finite in epoch 2"):
        net.fit(np.full((3, 1), 1e-3), np.ones((3, 1)), epochs=4, **settings)
    twin.fit(np.full((3, 1), 1e-3), np.ones((3, 1)), **settings)
    assert facts(net) == facts(twin) and net.theta[0] == np.float32(-3e38)


def test_refused():
    drawn = bp.Network([bp.Input(5), bp.Dropout(0.2, name="drop"), bp.Dense(3)])
    for net, settings, words in (
        (make(), {"batch_size": 149}, "batch_size: Rprop takes all examples at once; use batch_size=None"),
        (drawn, {"batch_size": None}, "optimizer: Rprop is for networks that draw nothing, and drop does"),
        (make("float32"), {"batch_size": None, "optimizer": bp.Rprop(min_step=1e-50)}, "min_step: .*float32 can hold"),
    ):
        before = facts(net)
        with pytest.raises(ValueError, match=words):
            net.fit(X, Y, **{"optimizer": bp.Rprop(), **settings})
        assert facts(net) == before
    with pytest.raises(TypeError, match="ReduceOnPlateau expects .*, whose first step alone reads it"):
        make().fit(X, Y, optimizer=bp.Rprop(), batch_size=None, callbacks=bp.ReduceOnPlateau("loss"))
    with pytest.raises(TypeError, match="lr: expected a number, since the first step alone reads it"):
        bp.Rprop(lr=bp.schedules.Constant(0.1))
    for name, value in (("eta_minus", 1.0), ("eta_minus", 0.0), ("eta_plus", 0.9), ("min_step", 0.0), ("max_step", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            bp.Rprop(**{name: value})


def test_bounds_of_steps_that_contradict_each_other():
    for settings, words in (
        ({"lr": 0.0}, "lr: expected the size of the first steps, above 0, got 0.0"),
        ({"min_step": 1.0, "max_step": 0.01}, "max_step: expected at least min_step=1.0, got 0.01"),
        ({"max_step": bp.schedules.Piecewise([1.0, 1e-9], [5])}, "max_step: expected at least min_step=1e-06, got"),
    ):
        with pytest.raises(ValueError, match=words):
            bp.Rprop(**settings)
