"""The average of the weights that an optimiser keeps: its recursion wherever weights move, and who uses it."""

import dataclasses
import pickle

import numpy as np
import pytest
from conftest import distance
from moving import CASES, LABELS, X, dense

import bpcore as bp

EMA = 0.9
RULES = [bp.SGD(lr=0.1, ema=EMA), bp.Adam(lr=0.01, ema=EMA), bp.SGD(lr=0.5, momentum=0.5, clip_norm=0.05, ema=EMA)]
MODES = [("", 1), ("owners", 3), ("shards", 2)]


class Recursion(bp.Callback):
    """ema average + (1 - ema) theta, as theta is after each step."""

    def on_fit_begin(self, state):
        self.average = state.net.theta.copy()

    def on_batch_end(self, state):
        ema = EMA if state.step > 1 else 0
        self.average = ema * self.average + (1 - ema) * state.net.theta


def moved(net):
    return [a.tobytes() for a in (net.theta, *net._model.memory.states)]


@pytest.mark.parametrize("optimizer", RULES, ids=["plain", "adam", "clipped"])
@pytest.mark.parametrize("case", CASES)
def test_the_average_follows_its_recursion(force, case, optimizer):
    make, inputs, target, batch = CASES[case]
    mode, n_threads = MODES[([*CASES].index(case) + RULES.index(optimizer)) % 3]
    force(mode != "", mode)
    net, twin, plain, recursion = make(), make(), make(), Recursion()
    settings = {"batch_size": batch, "epochs": 2, "n_threads": n_threads}
    net.fit(inputs, target, optimizer=optimizer, callbacks=recursion, **settings)
    assert distance(net._model.memory.average, recursion.average) < 1e-13
    assert distance(net.averaged().theta, recursion.average) < 1e-13
    assert distance(net.theta, recursion.average) > 1e-5
    twin.fit(inputs, target, optimizer=optimizer, **settings)  # in long slices
    assert moved(net) == moved(twin)
    plain.fit(inputs, target, optimizer=dataclasses.replace(optimizer, ema=None), **settings)
    assert distance(plain.theta, net.theta) < 1e-11  # training does not use it


def test_a_batch_without_weight_and_the_first_step():
    """The average begins as theta after the first step; where none is made, it stays."""
    net, weight = dense(), np.zeros(90)
    net.fit(X, LABELS, optimizer=bp.SGD(ema=0.999), batch_size=None, epochs=3, sample_weight=np.eye(90)[0])
    thrice = net.averaged().theta.copy()
    once = dense()
    once.fit(X, LABELS, optimizer=bp.SGD(ema=0.999), batch_size=None, sample_weight=np.eye(90)[0])
    assert (once.averaged().theta == once.theta).all()
    assert 0 < distance(thrice, once.theta) < distance(thrice, net.theta)
    weight[80:] = 1
    late = dense()
    late.fit(X, LABELS, optimizer=bp.SGD(ema=0.999), batch_size=10, shuffle=False, sample_weight=weight)
    assert (late.averaged().theta == late.theta).all() and late.step == 1


def test_a_frozen_layer_has_its_own_weights():
    """Also where it was trained before, and is written to."""
    net = dense()
    net.fit(X, LABELS, optimizer=bp.Adam(ema=EMA), epochs=3)
    net.frozen = {"dense_1"}
    net.params["dense_1.W"][...] = 0.25
    history = net.fit(X, LABELS, optimizer=bp.Adam(ema=EMA), epochs=2, validation_data=(X, LABELS))
    twin = net.averaged()
    assert twin.frozen == net.frozen and (twin.params["dense_1.W"] == 0.25).all()
    assert (twin.params["dense_1.b"] == net.params["dense_1.b"]).all()
    assert (twin.params["dense_2.W"] != net.params["dense_2.W"]).all()
    assert history.val_loss[-1] == twin.evaluate(X, LABELS)["loss"]


def test_validation_uses_it_and_early_stopping_takes_it_back():
    net = dense(30)
    rate = bp.SGD(lr=1.5, ema=0.98)
    noisy = np.where(np.arange(90) % 3, LABELS, 0)
    stopping = bp.EarlyStopping(patience=4)
    history = net.fit(X[:60], noisy[:60], optimizer=rate, epochs=60, batch_size=10,
                      validation_data=(X[60:], LABELS[60:]), callbacks=stopping)  # fmt: skip
    assert len(history.loss) < 60
    best = net.averaged().evaluate(X[60:], LABELS[60:])
    assert best["loss"] == min(history.val_loss) != net.evaluate(X[60:], LABELS[60:])["loss"]
    assert best["accuracy"] == history.val_accuracy[stopping.best_epoch - 1] and net.epoch == stopping.best_epoch
    nets, twin = [dense(30), dense(30, seed=3)], dense(30)
    together = bp.fit_many(nets, X, LABELS, optimizer=rate, epochs=5, validation_data=(X, LABELS))
    alone = twin.fit(X, LABELS, optimizer=rate, epochs=5, validation_data=(X, LABELS))
    assert together[0].val_loss == alone.val_loss and moved(nets[0]) == moved(twin)
    best, histories = bp.fit_restarts(dense(), X, LABELS, 3, optimizer=rate, epochs=3)
    losses = [each.fit(X, LABELS, optimizer=rate, epochs=3) and each.averaged().evaluate(X, LABELS)["loss"]
              for each in (dense(seed=k) for k in range(3))]  # fmt: skip
    assert best.averaged().evaluate(X, LABELS)["loss"] == min(losses)


def test_a_network_of_its_own(tmp_path):
    net = dense()
    net.fit(X, LABELS, optimizer=bp.Adam(ema=EMA), epochs=2)
    twin = net.averaged()
    assert twin.optimizer is None and (twin.step, twin.epoch) == (net.step, net.epoch)
    before = moved(net)
    twin.fit(X, LABELS)
    assert moved(net) == before and not np.shares_memory(net.averaged().theta, net._model.memory.average)
    net.save(tmp_path / "net")
    average = net.averaged().theta
    for each in (bp.load(tmp_path / "net"), pickle.loads(pickle.dumps(net)), net.copy()):
        assert (each.averaged().theta == average).all() and moved(each) == before


def test_it_is_seen_from_callbacks_and_goes_with_snapshots():
    seen = []

    class Look(bp.Callback):
        def on_epoch_end(self, state):
            seen.append(state.net.averaged().theta)
            if state.epoch == 1:
                self.first = state.snapshot()
            if state.epoch == 3:
                state.restore(self.first)
                seen.append(state.net.averaged().theta)
                state.stop()

    net = dense()
    net.fit(X, LABELS, optimizer=bp.Adam(ema=EMA), epochs=3, callbacks=Look())
    assert (seen[0] == seen[3]).all() and (seen[0] != seen[2]).any() and (net.averaged().theta == seen[0]).all()


def test_another_ema_goes_on_and_none_begins_anew():
    net = dense()
    net.fit(X, LABELS, optimizer=bp.Adam(ema=EMA), epochs=2)
    average = net.averaged().theta
    net.fit(X, LABELS, optimizer=bp.Adam(ema=0.5), batch_size=None)
    assert distance(net.averaged().theta, 0.5 * average + 0.5 * net.theta) < 1e-14
    with pytest.warns(UserWarning, match="begins anew, and mean, variance, average of Adam"):
        net.fit(X, LABELS, optimizer=bp.Adam())
    with pytest.raises(ValueError, match=r"averaged: .*bp.Adam\(ema=0.999\).* its optimizer is Adam\(lr=0.001"):
        net.averaged()
    with pytest.raises(ValueError, match="averaged: .* its optimizer is None"):
        dense().averaged()
    for ema in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="ema: expected"):
            bp.SGD(ema=ema)
    with pytest.raises(TypeError, match="ema: expected a number or None, it cannot be a schedule"):
        bp.SGD(ema=bp.schedules.Constant(0.9))


def test_where_none_is_kept_it_takes_no_memory():
    rule, kept = bp.Adam(), bp.Adam(ema=EMA)
    assert rule.states == ("mean", "variance") and kept.states == ("mean", "variance", "average")
    assert "ema" not in repr(rule) and repr(kept).endswith("ema=0.9)")


def test_the_average_of_what_does_not_move_stays():
    """ema and 1 - ema, each rounded to float32, would not add to 1."""
    net = bp.Network([bp.Input(1), bp.Dense(1)], seed=1)
    theta = net.theta.copy()
    net.fit(np.ones((20_000, 1), "f4"), np.ones(20_000, "f4"), optimizer=bp.SGD(lr=0.0, ema=0.999999), batch_size=1)
    assert net.averaged().theta.tobytes() == theta.tobytes()


def test_a_layer_that_thaws_has_the_average_that_it_had_while_frozen():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((64, 3)), rng.standard_normal((64, 1))
    net = bp.Network([bp.Input(3), bp.Dense(6, "tanh"), bp.Dense(1)], dtype="float64", seed=1)
    net.fit(X, y, optimizer=bp.SGD(lr=0.2, ema=0.999), epochs=50)
    net.frozen = {"dense_1"}
    net.fit(X, y, epochs=50)
    net.frozen = set()
    net.fit(X, y, optimizer=bp.SGD(lr=0.0, ema=0.999))
    assert np.abs(net.averaged().params["dense_1.W"] - net.params["dense_1.W"]).max() < 1e-14
