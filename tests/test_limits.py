"""How far a fit goes: max_steps, max_seconds, min_epochs; and how often callbacks look at batches."""

import time
from dataclasses import replace

import numpy as np
import pytest
from fitting import X, Y, make, state_of

import bpcore as bp
from bpcore import _callbacks


@pytest.mark.parametrize("max_steps", [1, 3, 5, 8, 10, 99])
@pytest.mark.parametrize("optimizer", [bp.Adam(lr=0.01), bp.SGD(lr=bp.schedules.Step(0.1, every=3))])
def test_max_steps_ends_at_a_whole_step(max_steps, optimizer):
    """With the bits of as many steps of an endless run, and the history of what was trained."""
    net, twin, thetas = make(), make(), []

    class Look(bp.Callback):
        def on_batch_end(self, state):
            thetas.append(state_of(state.net)[0][0])

    settings = {"epochs": 2, "batch_size": 10, "optimizer": optimizer}
    history = net.fit(X, Y, max_steps=max_steps, **settings)
    twin.fit(X, Y, callbacks=Look(), **settings)
    steps = min(max_steps, 10)
    assert net.step == steps and state_of(net)[0][0] == thetas[steps - 1]
    assert history.stopped_by == ("max_steps" if max_steps < 10 else None)
    assert history.epoch == list(range(1, net.epoch + 1)) and net.epoch == -(-steps // 5)
    assert np.isfinite(history.loss).all() and len(history.loss) == net.epoch


def test_steps_are_counted_in_one_call_and_go_over_epochs():
    net = make()
    for _ in range(3):
        net.fit(X, Y, epochs=9, batch_size=25, max_steps=5)
    assert net.step == 15 and net.epoch == 9  # each call: two epochs and a half


@pytest.mark.parametrize("optimizer", [bp.LBFGS(), bp.LevenbergMarquardt(), bp.Rprop()])
def test_methods_of_whole_batches_count_their_steps(optimizer):
    net = make()
    history = net.fit(X, Y, epochs=9, batch_size=None, optimizer=optimizer, max_steps=2)
    assert net.step == 2 and len(history.loss) == 2 and history.stopped_by == "max_steps"


def test_max_seconds_ends_an_endless_fit(monkeypatch):
    """The clock stands still until a callback turns it, in the midst of an epoch."""
    now, net, twin = [0.0], make(), make()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Turn(bp.Callback):
        def on_batch_end(self, state):
            now[0] += 1.0

    history = net.fit(X, Y, epochs=10**6, batch_size=10, max_seconds=6.5, callbacks=Turn())
    twin.fit(X, Y, epochs=10**6, batch_size=10, max_steps=7)
    assert net.step == 7 and history.stopped_by == "max_seconds" and len(history.loss) == 2
    assert state_of(net) == state_of(twin)
    history = make().fit(X, Y, epochs=3, max_seconds=1e-9)
    assert history.stopped_by is None


def test_at_least_one_step_is_made():
    net = make()
    history = net.fit(X, Y, epochs=1000, batch_size=5, max_seconds=1e-9)
    assert net.step >= 1 and np.isfinite(history.loss).all() and history.stopped_by == "max_seconds"


def test_who_stopped_training():
    stop = _callbacks._Function(lambda state: state.stop())
    assert make().fit(X, Y, epochs=3, callbacks=stop).stopped_by == "callback"
    assert make().fit(X, Y, epochs=3).stopped_by is None
    history = make().fit(X, Y * 0, epochs=500, batch_size=None, optimizer=bp.LBFGS(gtol=1e-2))
    assert history.stopped_by == "optimizer" and len(history.loss) < 500
    assert bp.fit_many([make()], X, Y, epochs=3, callbacks=stop)[0].stopped_by == "callback"


@pytest.mark.parametrize("settings, error, words", [
    ({"max_steps": 0}, ValueError, "max_steps: expected an integer from 1"),
    ({"max_steps": 1.5}, TypeError, "max_steps: expected an integer"),
    ({"max_seconds": 0}, ValueError, r"max_seconds: expected a finite number in \(0, inf\)"),
    ({"max_seconds": "1 h"}, TypeError, "max_seconds: expected a number"),
])  # fmt: skip
def test_what_is_no_limit(settings, error, words):
    net = make()
    with pytest.raises(error, match=words):
        net.fit(X, Y, **settings)
    assert net.step == 0
    with pytest.raises(TypeError, match=f"{next(iter(settings))}: net.fit has it"):
        bp.fit_many([net], X, Y, **settings)


def test_min_epochs():
    lengths = {
        n: len(make().fit(X, Y, epochs=20, callbacks=[
            lambda state: state.history.loss.__setitem__(-1, state.epoch),
            bp.EarlyStopping("loss", patience=2, min_epochs=n)]).loss)
        for n in (0, 3, 7, 99)
    }  # fmt: skip
    assert lengths == {0: 3, 3: 3, 7: 7, 99: 20}
    net = make()
    net.fit(X, Y, epochs=10)
    stop = bp.EarlyStopping("loss", patience=1, min_epochs=4, min_delta=1e9)
    assert len(net.fit(X, Y, epochs=9, callbacks=stop).loss) == 4  # of this fit


# ---- every k batches, every k seconds ----


class Every(bp.Callback):
    def __init__(self, every, change=None):
        self.every, self.change, self.seen = every, change, []

    def on_batch_end(self, state):
        self.seen.append((state.step, state.loss))
        if self.change:
            self.change(state)


def test_batches_are_counted_over_epochs_and_the_loss_is_their_mean():
    each, third, seventh, net = Every(1), Every(3), Every(7), make()
    net.fit(X, Y, epochs=4, batch_size=10, callbacks=[third, each, seventh])
    assert [step for step, _ in each.seen] == list(range(1, 21))
    losses = np.array([loss for _, loss in each.seen])
    for callback, k in ((third, 3), (seventh, 7)):
        steps = list(range(k, 21, k))
        assert [step for step, _ in callback.seen] == steps
        means = [losses[s - k : s].mean() for s in steps]
        np.testing.assert_allclose([loss for _, loss in callback.seen], means, 1e-12)


@pytest.mark.parametrize("every", [1, 4, "1 s"])
def test_a_look_changes_no_bits_and_changes_are_seen(every, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now.__setitem__(0, now[0] + 0.25) or now[0])
    nets = make(), make()
    settings = {"epochs": 5, "batch_size": 7, "optimizer": bp.Adam(lr=0.01)}
    looks = Every(every)
    nets[0].fit(X, Y, callbacks=looks, **settings)
    nets[1].fit(X, Y, **settings)
    assert state_of(nets[0]) == state_of(nets[1]) and looks.seen

    def halve(state):
        state.optimizer = replace(state.optimizer, lr=state.optimizer.lr / 2)

    nets = make(), make()
    nets[0].fit(X, Y, callbacks=Every(4, halve), epochs=2, batch_size=10, shuffle=False)
    for k, steps in enumerate((range(4), (4, 0, 1, 2), (3, 4))):
        rows = np.concatenate([np.arange(10 * s, 10 * s + 10) for s in steps])
        nets[1].fit(X[rows], Y[rows], batch_size=10, shuffle=False, optimizer=bp.SGD(lr=0.01 / 2**k))
    assert nets[0].theta.tobytes() == nets[1].theta.tobytes()


def test_seconds(monkeypatch):
    """The clock goes on by a second at each batch, which another callback sees."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock, seldom = Every(1, lambda state: now.__setitem__(0, now[0] + 1.0)), Every("3 s")
    make().fit(X, Y, epochs=4, batch_size=10, callbacks=[clock, seldom])
    assert [step for step, _ in seldom.seen] == [4, 8, 12, 16, 20]  # three seconds, then a whole step
    assert _callbacks.Due(Every("0.5 min")).seconds == 30 and _callbacks.Due(Every("2 h")).seconds == 7200


@pytest.mark.parametrize("every, error", [
    (0, ValueError), ("10", ValueError), ("-1 s", ValueError), ("nan s", ValueError), ("inf s", ValueError),
    ("1 day", ValueError), (1.5, TypeError), (None, TypeError), ("", ValueError),
])  # fmt: skip
def test_what_is_no_interval(every, error):
    net = make()
    with pytest.raises(error, match="callbacks: Every.every: expected "):
        net.fit(X, Y, callbacks=Every(every))
    assert net.step == 0


def test_callbacks_print_their_settings():
    assert repr(bp.EarlyStopping("loss", patience=3)) == (
        "EarlyStopping(monitor='loss', patience=3, min_delta=0.0, min_epochs=0, restore_best=True)")  # fmt: skip
    assert repr(bp.ReduceOnPlateau()).startswith("ReduceOnPlateau(monitor='val_loss', factor=0.1, patience=10, ")
    assert repr(Every("3 s")) == "Every(every='3 s', change=None)" and repr(bp.Callback()) == "Callback()"
    assert "print" in repr(_callbacks._Function(print))
