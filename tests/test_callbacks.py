"""Callbacks: events, stopping, other optimisers and orders, going back to the best epoch."""

from dataclasses import replace

import numpy as np
import pytest
from fitting import LABELS, At, Recorder, X, Y, make, state_of

import bpcore as bp
from bpcore import _core


def test_order_of_events():
    log = []
    net = make()
    calls = [Recorder(log, "a."), lambda state: log.append(("f", state.epoch, state.step)), Recorder(log, "b.")]
    history = net.fit(X, Y, epochs=2, batch_size=25, callbacks=calls)
    assert log == [
        ("a.begin", 0, 0), ("b.begin", 0, 0),
        ("a.batch", 0, 1), ("b.batch", 0, 1), ("a.batch", 0, 2), ("b.batch", 0, 2),
        ("a.epoch", 1, 2), ("f", 1, 2), ("b.epoch", 1, 2),
        ("a.batch", 1, 3), ("b.batch", 1, 3), ("a.batch", 1, 4), ("b.batch", 1, 4),
        ("a.epoch", 2, 4), ("f", 2, 4), ("b.epoch", 2, 4),
        ("a.end", 2, 4), ("b.end", 2, 4),
    ]  # fmt: skip
    assert len(history.loss) == 2


@pytest.mark.parametrize("form", ["one", "list", "tuple", "generator", "class", "method", "object"])
def test_forms_of_callbacks(form):
    seen = []

    def look(state):
        seen.append((state.epoch, state.net, state.history.loss[-1], state.step))

    class Own(bp.Callback):
        def on_epoch_end(self, state):
            look(state)

    class Callable:
        def __call__(self, state):
            look(state)

        method = __call__

    callbacks = {
        "one": look, "list": [look], "tuple": (look,), "generator": (f for f in [look]), "class": Own(),
        "method": Callable().method, "object": [Callable()],
    }[form]  # fmt: skip
    net = make()
    history = net.fit(X, Y, epochs=2, callbacks=callbacks)
    assert seen == [(1, net, history.loss[0], 2), (2, net, history.loss[1], 4)]


def test_stop_at_an_epoch():
    net, twin, recorder = make(), make(), Recorder()
    history = net.fit(X, Y, epochs=10, callbacks=[lambda state: state.stop() if state.epoch == 3 else None, recorder])
    assert history.epoch == [1, 2, 3] and net.epoch == 3
    assert [name for name, *_ in recorder.log if name != "batch"] == ["begin", "epoch", "epoch", "epoch", "end"]
    twin.fit(X, Y, epochs=3)
    assert state_of(net) == state_of(twin)
    net.fit(X, Y)
    twin.fit(X, Y)
    assert state_of(net) == state_of(twin)


def test_stop_at_a_batch():
    class Stop(bp.Callback):
        def on_batch_end(self, state):
            if state.step == 4:
                state.stop()

    net, recorder = make(), Recorder()
    history = net.fit(X, Y, epochs=10, batch_size=10, callbacks=[Stop(), recorder])
    assert net.step == 4 and net._model.memory.updates == 4
    assert [name for name, *_ in recorder.log] == ["begin"] + ["batch"] * 4 + ["epoch", "end"]
    assert len(history.loss) == 1 and np.isfinite(history.loss[0])
    order = _core.permutation(50, 1, 1, 0)[:40]
    twin = make()
    twin.fit(X[order], Y[order], batch_size=10, shuffle=False)
    assert net.theta.tobytes() == twin.theta.tobytes()


def test_stop_before_the_first_step():
    class Stop(bp.Callback):
        def on_fit_begin(self, state):
            state.stop()

    net = make()
    before = net.theta.tobytes()
    assert net.fit(X, Y, epochs=5, callbacks=Stop()).epoch == [] and net.step == net.epoch == 0
    assert net.theta.tobytes() == before


@pytest.mark.parametrize("event, step", [
    ("on_fit_begin", 0), ("on_batch_end", 3), ("on_batch_end", 5), ("on_epoch_end", 5),
])  # fmt: skip
@pytest.mark.parametrize("old, numbers", [
    (bp.SGD(lr=0.05), {"lr": 0.01, "weight_decay": 0.1}),
    (bp.SGD(lr=0.05, momentum=0.9, nesterov=True), {"lr": 0.01, "momentum": 0.5}),
    (bp.Adam(lr=0.01), {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.1, "beta1": 0.5}),
])  # fmt: skip
def test_an_optimizer_replaced_in_a_callback(event, step, old, numbers):
    new = replace(old, **numbers)
    net, twin = make(), make()
    settings = {"batch_size": 10, "shuffle": False}
    change = At(event, lambda state: setattr(state, "optimizer", new), step)
    net.fit(X, Y, optimizer=old, epochs=2, callbacks=change, **settings)
    if step:
        twin.fit(X[: 10 * step], Y[: 10 * step], optimizer=old, **settings)
    rest = np.r_[10 * step : 50, 0:50]
    twin.fit(X[rest], Y[rest], optimizer=new, **settings)
    assert state_of(net) == state_of(twin) and net._model.memory.optimizer == new
    for each in (net, twin):
        each.fit(X, Y, optimizer=new, **settings)
    assert state_of(net) == state_of(twin)


@pytest.mark.parametrize("name, words", [
    ("lr", r"state.lr cannot be set: state.optimizer = dataclasses.replace\(state.optimizer, lr=0.5\)"),
    ("stop", "read-only"),
    ("rate", "'rate'"),
])  # fmt: skip
def test_what_a_state_does_not_have_cannot_be_set(name, words):
    with pytest.raises(AttributeError, match=words):
        make().fit(X, Y, callbacks=lambda state: setattr(state, name, 0.5))
    seen = []
    make().fit(X, Y, optimizer=bp.Adam(lr=0.125), callbacks=lambda state: seen.append(state.lr))
    assert seen == [0.125]


@pytest.mark.parametrize("old, new, error", [
    (bp.SGD(), bp.Adam(), TypeError),
    (bp.SGD(), bp.SGD(momentum=0.9), TypeError),
    (bp.SGD(momentum=0.9), bp.SGD(), TypeError),
    (bp.Adam(), 0.1, TypeError),
    (bp.Adam(), None, TypeError),
    (bp.Adam(), bp.Adam(eps=1e-45), ValueError),
])  # fmt: skip
def test_a_replaced_optimizer_that_does_not_fit(old, new, error):
    net, twin = make(dtype="float32"), make(dtype="float32")
    settings = {"optimizer": old, "batch_size": 10, "shuffle": False}
    with pytest.raises(error, match="eps:" if error is ValueError else "state.optimizer: expected .*got"):
        net.fit(X, Y, callbacks=At("on_batch_end", lambda state: setattr(state, "optimizer", new), 3), **settings)
    twin.fit(X[:30], Y[:30], **settings)
    assert state_of(net) == state_of(twin) and net._model.memory.optimizer == old


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_order_of_ones_own(shuffle):
    orders = [np.arange(50)[::-1], np.zeros(50, np.uint8), np.arange(0, 100, 2) % 50]
    queue = list(orders)
    callback = At("on_fit_begin", lambda state: setattr(state, "order", queue.pop(0)))
    callback.on_epoch_end = lambda state: setattr(state, "order", queue.pop(0) if queue else state.order)
    net, twin = make(), make()
    net.fit(X, Y, epochs=4, batch_size=20, shuffle=shuffle, callbacks=callback)
    for order in (*orders, orders[-1]):
        twin.fit(X[order], Y[order], batch_size=20, shuffle=False)
    assert state_of(net) == state_of(twin)


@pytest.mark.parametrize("order, words", [
    (np.arange(49), "50 integers.*(49,)"), (np.arange(50.0), "float64"), (np.arange(1, 51), "0 to 49.*1 to 50"),
    (np.arange(-1, 49), "0 to 49.*-1 to 48"), (np.zeros((50, 1), int), r"\(50, 1\)"),
])  # fmt: skip
def test_an_order_that_does_not_fit(order, words):
    net = make()
    before = state_of(net)
    with pytest.raises(ValueError, match=f"state.order: expected .*{words}"):
        net.fit(X, Y, callbacks=At("on_fit_begin", lambda state: setattr(state, "order", order)))
    assert state_of(net) == before


def worse(patience, restore_best, monitor="val_loss", min_delta=0.0, sign=-1):
    """A fit whose validation data ask for the opposite; parameters after each epoch."""
    net = make()
    thetas = []
    stop = bp.EarlyStopping(monitor, patience=patience, restore_best=restore_best, min_delta=min_delta)
    history = net.fit(
        X, X[:, :2], epochs=30, validation_data=(X, sign * X[:, :2]), optimizer=bp.SGD(lr=0.005),
        callbacks=[stop, lambda state: thetas.append(state.net.theta.copy())],
    )  # fmt: skip
    return net, history, thetas, stop


@pytest.mark.parametrize("restore_best", [True, False])
@pytest.mark.parametrize("patience", [0, 1, 4])
def test_early_stopping_waits_and_restores(patience, restore_best):
    net, history, thetas, stop = worse(patience, restore_best)
    assert (np.diff(history.val_loss) > 0).all()
    assert len(history.epoch) == 1 + max(patience, 1) and net.epoch == (1 if restore_best else len(history.epoch))
    assert (net.theta == thetas[0 if restore_best else -1]).all()
    assert stop.best_epoch == 1 and stop.best == history.val_loss[0]


def test_early_stopping_does_not_stop_what_improves():
    net, history, thetas, stop = worse(1, True, sign=1)
    assert len(history.epoch) == 30 and (np.diff(history.val_loss) < 0).all() and stop.best_epoch == 30
    assert (net.theta == thetas[-1]).all()
    net, history, thetas, stop = worse(3, True, sign=1, min_delta=1e6)
    assert len(history.epoch) == 4 and (net.theta == thetas[0]).all()
    net, history, thetas, stop = worse(2, True, monitor="loss")
    assert len(history.epoch) == 30


def test_early_stopping_by_accuracy_keeps_the_highest():
    net = make(n_out=4, output="softmax")
    thetas, stop = [], bp.EarlyStopping("val_accuracy", patience=5)
    history = net.fit(
        X, LABELS, epochs=200, validation_data=(X[:20], LABELS[:20]), optimizer=bp.Adam(lr=0.05),
        callbacks=[lambda state: thetas.append(state.net.theta.copy()), stop],
    )  # fmt: skip
    best = int(np.argmax(history.val_accuracy))
    assert len(history.epoch) == best + 6 < 200 and best > 0
    assert (net.theta == thetas[best]).all()
    assert net.evaluate(X[:20], LABELS[:20])["accuracy"] == max(history.val_accuracy)


def test_early_stopping_can_be_used_again():
    stop = bp.EarlyStopping("loss", patience=2)
    net = make()
    net.fit(X, Y, epochs=3, callbacks=stop)
    best = stop.best
    other = make(seed=8)
    history = other.fit(X, 100 * Y, epochs=3, callbacks=stop, optimizer=bp.SGD(lr=1e-3))
    assert stop.best == min(history.loss) > best and len(history.loss) == 3


# ---- going back ----

SETTINGS = {"optimizer": bp.Adam(lr=0.01), "batch_size": 16}


def dropping():
    """A net whose steps depend on all that training counts and keeps."""
    return bp.Network([bp.Input(3), bp.Dense(5, "tanh"), bp.Dropout(0.3), bp.Dense(2)], seed=1)


def best_at(epoch):
    """A callback after which that epoch's val_loss is the lowest."""
    return lambda state: state.history.val_loss.__setitem__(-1, abs(state.epoch - epoch))


def same(net, other):
    return state_of(net) == state_of(other) and net.epoch == other.epoch


def raising(error):
    def change(state):
        raise error

    return change


@pytest.mark.parametrize("end, settings, error", [
    ("patience", {"patience": 2}, None),
    ("the last epoch", {}, None),
    ("Ctrl-C", At("on_batch_end", raising(KeyboardInterrupt()), step=18), KeyboardInterrupt),
    ("a callback's own error", At("on_epoch_end", raising(OSError("full")), step=20), OSError),
    ("divergence", At("on_batch_end", lambda state: state.net.theta.fill(3e38), step=18), bp.DivergenceError),
])  # fmt: skip
def test_the_best_epoch_is_restored_whatever_ends_fit(end, settings, error):
    """And the next fit goes on with the same bits as if training had stopped there."""
    net, twin, data = dropping(), dropping(), {"validation_data": (X, Y)}
    stop = bp.EarlyStopping(**(settings if error is None else {}))
    callbacks = [best_at(3), stop, *([settings] if error else [])]
    if error is None:
        net.fit(X, Y, epochs=5, callbacks=callbacks, **data, **SETTINGS)
    else:
        with pytest.raises(error):
            net.fit(X, Y, epochs=9, callbacks=callbacks, **data, **SETTINGS)
    twin.fit(X, Y, epochs=3, **SETTINGS)
    assert stop.best_epoch == 3 == net.epoch and net.step == 12 and same(net, twin)
    for each in (net, twin):
        each.fit(X, Y, epochs=2, **SETTINGS)
    assert same(net, twin)


@pytest.mark.parametrize("first", [0, 1])
def test_what_callbacks_made_of_the_optimiser_is_restored_too(first):
    """Whichever of them comes first."""

    def halve(state):
        state.optimizer = replace(state.optimizer, lr=state.optimizer.lr / 2)

    nets, settings = (dropping(), dropping()), {**SETTINGS, "optimizer": bp.SGD(lr=0.05, momentum=0.9)}
    callbacks = [bp.EarlyStopping(), At("on_epoch_end", halve)]
    callbacks = [best_at(3), *(callbacks[::-1] if first else callbacks)]
    nets[0].fit(X, Y, epochs=5, validation_data=(X, Y), callbacks=callbacks, **settings)
    nets[1].fit(X, Y, epochs=3, callbacks=At("on_epoch_end", halve), **settings)
    settings["optimizer"] = bp.SGD(lr=0.05 / 8, momentum=0.9)
    for net in nets:
        net.fit(X, Y, epochs=2, **settings)
    assert same(*nets)


def test_a_fit_that_fails_before_it_begins_restores_nothing():
    """Not what the fit before has kept, which may have been of another network."""
    stop, other = bp.EarlyStopping("loss"), dropping()
    other.fit(X, Y, epochs=3, callbacks=stop, **SETTINGS)
    before = state_of(other)
    with pytest.raises(OSError, match="full"):
        other.fit(X, -Y, callbacks=[At("on_fit_begin", raising(OSError("full"))), stop], **SETTINGS)
    assert state_of(other) == before


def test_on_fit_close_is_told_to_every_callback_that_began():
    told = []

    class Closes(bp.Callback):
        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def on_fit_end(self, state):
            told.append(self.name + " end")

        def on_fit_close(self, state):
            told.append(self.name)
            if self.error:
                raise self.error

    make().fit(X, Y, callbacks=[Closes("a"), Closes("b")])
    assert told == ["a end", "b end", "a", "b"]
    told.clear()
    with pytest.raises(OSError, match="full") as caught:
        make().fit(X, Y, callbacks=[
            Closes("a", OSError("full")), At("on_fit_begin", raising(KeyError("late"))), Closes("b")
        ])  # fmt: skip
    assert told == ["a"] and isinstance(caught.value.__context__, KeyError)


def test_a_callback_goes_back_within_fit():
    """At an epoch's end, then in the midst of an epoch, where the optimiser has changed to one of another plan."""
    net, twin, kept = dropping(), dropping(), []

    def back(state):
        if state.epoch == 2 and not kept:
            kept.append(state.snapshot())
            state.optimizer = replace(state.optimizer, clip_norm=0.01)
        elif state.epoch == 4:
            state.restore(kept[0])
            assert (state.epoch, state.step, state.optimizer) == (2, 8, SETTINGS["optimizer"])

    history = net.fit(X, Y, epochs=7, callbacks=back, **SETTINGS)
    assert history.epoch == [1, 2, 3, 4, 3, 4, 3] and net.epoch == 3 and net.step == 12
    twin.fit(X, Y, epochs=3, **SETTINGS)
    assert same(net, twin)

    seen = []

    def again(state):
        if len(seen) == 1:
            kept[0] = state.snapshot()
            state.optimizer = replace(state.optimizer, weight_decay=0.1)
        elif len(seen) == 3:
            state.restore(kept[0])
            assert state.step == 14
        seen.append(state.net.theta.tobytes())

    net.fit(X[:16], Y[:16], epochs=2, batch_size=4, optimizer=SETTINGS["optimizer"], shuffle=False, callbacks=[
        At("on_batch_end", again)])  # fmt: skip
    assert len(seen) == 8 and seen[3] == seen[1] != seen[2] and net.step == 12 + 8 - 2


def test_what_cannot_be_restored():
    net, kept = make(), []
    net.fit(X, Y, callbacks=lambda state: kept.extend((state, state.snapshot())), optimizer="adam")
    state, snapshot = kept
    for call in (state.snapshot, lambda: state.restore(snapshot)):
        with pytest.raises(RuntimeError, match=r"(snapshot|restore): this fit has ended; use net.copy\(\)"):
            call()
    for other, optimizer in ((make(), bp.SGD()), (make(n_out=3), "adam"), (make(dtype="float32"), "adam")):
        before = other.theta.copy()
        with pytest.raises(ValueError, match="snapshot: expected one that was taken during this fit"):
            other.fit(X, Y[:, :1] + np.zeros(other.n_outputs), optimizer=optimizer,
                      callbacks=At("on_fit_begin", lambda state: state.restore(snapshot)))  # fmt: skip
        assert (other.theta == before).all() and other.step == 0
    with pytest.raises(TypeError, match=r"snapshot: expected what state.snapshot\(\) returned, got 5"):
        make().fit(X, Y, callbacks=lambda state: state.restore(5))
    states = []
    own = bp.Activation(lambda z: states and states[0].snapshot() or np.tanh(z), lambda z: 1 - np.tanh(z) ** 2)
    net = bp.Network([bp.Input(3), bp.Dense(2, own)])
    with pytest.raises(RuntimeError, match="snapshot: a step is being made; call it from a callback"):
        net.fit(X, Y, callbacks=At("on_fit_begin", states.append))
