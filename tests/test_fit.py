"""What `fit`, `predict` and `evaluate` mean: histories, callbacks, optimiser state, weights, views, words on screen."""

import copy
import json
import pickle
import re
import warnings
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax, xlogy

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 3))
Y = RNG.standard_normal((50, 2))
LABELS = RNG.integers(0, 4, 50)


def make(seed=1, n_out=2, output="identity", dtype="float64", **settings):
    return bp.Network([bp.Input(3), bp.Dense(5, "tanh"), bp.Dense(n_out, output)], seed=seed, dtype=dtype, **settings)


def state_of(net):
    return [a.tobytes() for a in (net.theta, *net._model.memory.states)], net.step, net._model.memory.updates


class Recorder(bp.Callback):
    """Writes down every event."""

    def __init__(self, log=None, tag=""):
        self.log, self.tag = [] if log is None else log, tag

    def on_fit_begin(self, state):
        self.log.append((self.tag + "begin", state.epoch, state.step))

    def on_batch_end(self, state):
        self.log.append((self.tag + "batch", state.epoch, state.step))

    def on_epoch_end(self, state):
        self.log.append((self.tag + "epoch", state.epoch, state.step))

    def on_fit_end(self, state):
        self.log.append((self.tag + "end", state.epoch, state.step))


# ---- history ----


def test_history_has_one_entry_an_epoch():
    net = make()
    history = net.fit(X, Y, epochs=3, batch_size=20)
    assert isinstance(history, bp.History)
    assert history.epoch == [1, 2, 3] and len(history.loss) == 3
    assert history.val_loss == history.val_accuracy == []
    assert len(history.seconds) == len(history.samples_per_second) == 3
    for seconds, speed in zip(history.seconds, history.samples_per_second, strict=True):
        assert seconds > 0 and speed == pytest.approx(50 / seconds, rel=1e-12)
    assert all(type(value) is float for value in history.loss)
    more = net.fit(X, Y, epochs=2, batch_size=20)
    assert more.epoch == [4, 5] and net.epoch == 5 and net.step == 15
    assert repr(more) == f"History(2 epochs, last: loss={more.loss[-1]:.6g})"
    assert repr(make().fit(X, Y, epochs=0)) == "History(no epochs)"


def test_history_is_a_dict_that_is_read_only():
    """As a dict it is what pandas and polars make a frame of its columns of, and json writes."""
    history = make().fit(X, Y, epochs=3, validation_data=(X, Y))
    assert isinstance(history, dict) and json.loads(json.dumps(history)) == dict(history) == {**history}
    before = dict(history)
    for change in (
        lambda h: h.__setitem__("loss", []), lambda h: h.pop("loss"), lambda h: h.update(loss=[]), lambda h: h.clear(),
        lambda h: h.__delitem__("loss"), lambda h: h.popitem(), lambda h: h.setdefault("a", 1), lambda h: h.__ior__({}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="history: expected to be read only"):
            change(history)
    assert dict(history) == before
    old = bp.History.__new__(bp.History)
    old.__setstate__({name: getattr(history, name) for name in ("epoch", "loss", "seconds")})  # of bpcore 0.1
    for twin in (pickle.loads(pickle.dumps(history)), copy.copy(history), copy.deepcopy(history), old):
        assert type(twin) is bp.History and twin.loss == history.loss and twin["loss"] is twin.loss
        assert twin is old or (twin == history and list(twin) == list(history))
    seen = []
    make().fit(X, Y, epochs=2, callbacks=lambda state: seen.append(list(state.history["epoch"])))
    assert seen == [[1], [1, 2]]


def test_a_history_shows_what_is_appended_to_its_lists():
    history = bp.History()
    assert not history and history == {} and "loss" not in history
    history.loss.append(2.0)
    assert history["loss"] is history.loss and dict(history) == {**history} == history == {"loss": [2.0]}
    history.loss.append(1.0)
    history.epoch += [1, 2]
    history.outputs["digit_loss"] = [3.0, 4.0]
    shown = {"epoch": [1, 2], "loss": [2.0, 1.0], "digit_loss": [3.0, 4.0]}
    assert list(history) == list(history.keys()) == [*reversed(history)][::-1] == list(shown) and len(history) == 3
    assert list(history.items()) == list(shown.items()) and list(history.values()) == list(shown.values())
    assert history.get("loss") == [2.0, 1.0] and history | {} == {} | history == history.copy() == shown == history
    assert json.loads(json.dumps(history)) == shown and repr(history) == "History(2 epochs, last: loss=1)"
    for twin in (pickle.loads(pickle.dumps(history)), copy.copy(history), copy.deepcopy(history)):
        assert twin == history and dict(twin) == shown
    history.loss = [5.0, 6.0]
    assert history["loss"] == [5.0, 6.0] and history != shown
    history.loss.clear()
    assert "loss" not in history
    with pytest.raises(KeyError, match="history: there is no 'los'"):
        history["los"]


def test_history_is_a_mapping_of_what_has_values():
    history = make().fit(X, Y, epochs=3)
    names = ["epoch", "loss", "seconds", "samples_per_second", "lr"]
    assert list(history) == names and len(history) == 5 and "loss" in history and "val_loss" not in history
    assert dict(history) == {name: getattr(history, name) for name in names}
    assert history.get("val_loss") is None
    with pytest.raises(KeyError, match="history: there is no 'los'. Did you mean 'loss'"):
        history["los"]
    assert list(make().fit(X, Y, epochs=2, validation_data=(X, Y))) == [*names[:2], "val_loss", *names[2:]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["squared_error", "mse", bp.losses.Huber(0.5)])
def test_loss_of_an_epoch_is_the_weighted_mean_over_its_batches_as_they_were_trained(loss, weighted):
    w = RNG.random(50) if weighted else np.ones(50)
    net, twin = make(), make()
    found = net.fit(X, Y, loss=loss, batch_size=7, shuffle=False, sample_weight=w, epochs=2).loss
    for value in found:
        total = 0.0
        for i in range(0, 50, 7):
            part = slice(i, i + 7)
            total += w[part].sum() * twin.evaluate(X[part], Y[part], loss=loss, sample_weight=w[part])["loss"]
            twin.fit(X[part], Y[part], loss=loss, batch_size=None, sample_weight=w[part])
        assert value == pytest.approx(total / w.sum(), rel=1e-13)
    assert np.abs(net.theta - twin.theta).max() < 1e-14


def test_state_loss_of_a_batch_and_of_an_epoch():
    batches, epochs = [], []

    class Look(bp.Callback):
        def on_batch_end(self, state):
            batches.append(state.loss)

        def on_epoch_end(self, state):
            epochs.append(state.loss)

    history = make().fit(X, Y, batch_size=20, epochs=2, callbacks=Look())
    assert epochs == history.loss and len(batches) == 6
    for i in range(2):
        assert np.average(batches[3 * i : 3 * i + 3], weights=[20, 20, 10]) == pytest.approx(epochs[i], rel=1e-13)


def test_validation_is_evaluate_at_each_epochs_end():
    Xv, yv = RNG.standard_normal((17, 3)), RNG.integers(0, 4, 17)
    seen = []
    net = make(n_out=4, output="softmax")
    history = net.fit(
        X, LABELS, epochs=4, validation_data=(Xv, yv), callbacks=lambda state: seen.append(state.net.evaluate(Xv, yv))
    )
    assert history.val_loss == [each["loss"] for each in seen]
    assert history.val_accuracy == [each["accuracy"] for each in seen]
    assert len(set(history.val_loss)) == 4
    plain = make()
    history = plain.fit(X, Y, epochs=2, validation_data=[X[:5], Y[:5]])
    assert len(history.val_loss) == 2 and history.val_accuracy == []
    assert history.val_loss[-1] == plain.evaluate(X[:5], Y[:5])["loss"]
    alone = make()
    alone.fit(X, Y, epochs=2)
    assert state_of(alone) == state_of(plain)  # looking changes nothing


def test_validation_of_each_output():
    x = bp.Input(3, name="x")
    net = bp.Network(x, [bp.Dense(4, "softmax", name="kind")(x), bp.Dense(2, name="size")(x)])
    rng = np.random.default_rng(0)
    data = rng.standard_normal((50, 3)), [rng.integers(0, 4, 50), rng.standard_normal((50, 2))]
    seen = []
    history = net.fit(*data, epochs=3, validation_data=data,
                      callbacks=lambda state: seen.append(state.net.evaluate(*data)))  # fmt: skip
    names = {"val_kind_loss": "kind.loss", "val_kind_accuracy": "kind.accuracy", "val_size_loss": "size.loss"}
    assert list(history.outputs) == ["kind_loss", "size_loss", *names]
    for name, one in names.items():
        assert history[name] == history.outputs[name] == [each[one] for each in seen] and len(history[name]) == 3
    assert history["loss"] is history.loss and history["val_loss"] == [each["loss"] for each in seen]
    with pytest.raises(KeyError, match="Did you mean 'val_kind_loss'"):
        history["val_kin_loss"]
    assert list(net.fit(*data, epochs=1).outputs) == ["kind_loss", "size_loss"]


@pytest.mark.parametrize("optimizer", [bp.SGD(lr=0.05), bp.LevenbergMarquardt()])
def test_training_losses_of_each_output(optimizer):
    """Those of the batches as they were trained, also of an output of weight 0 and of a sequence; on any threads."""
    x = bp.Input((4, 3), name="x")
    names = "steps", "own", "off", "val"
    last = bp.Reshape(-1)(x)
    outputs = [bp.Dense(2, "tanh", name="steps")(x), *(bp.Dense(2, name=name)(last) for name in names[1:])]
    net = bp.Network(x, outputs, dtype="float64")
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((50, 4, 3)), rng.uniform(0, 2, 50)
    y = [rng.standard_normal((50, *shape)) for shape in net.outputs.values()]
    least = isinstance(optimizer, bp.LevenbergMarquardt)
    own = "mse" if least else bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: 2 * (a - y))
    weighted = bp.losses.Weighted
    settings = {"loss": [weighted("mse", 0.3), own, weighted("squared_error", 0.0), "mse"], "sample_weight": w}
    seen, start = [], net.copy()
    for n_threads in (1, 2, 3):
        net, twin = start.copy(), start.copy()
        history = net.fit(X, y, epochs=2, batch_size=50 if least else 20, shuffle=False, optimizer=optimizer,
                          n_threads=n_threads, validation_data=(X, y), **settings)  # fmt: skip
        assert list(history.outputs) == [f"{name}_loss" for name in names[:3]] + [f"val_{name}_loss" for name in names]
        seen.append({name: history[name] for name in ("loss", *history.outputs)})
        for epoch in range(2):
            total, parts = 0.0, [slice(0, 50)] if least else [slice(0, 20), slice(20, 40), slice(40, 50)]
            sums = dict.fromkeys(("loss", *(f"{name}.loss" for name in names)), 0.0)
            for part in parts:
                one = {**settings, "sample_weight": w[part]}
                for name, value in twin.evaluate(X[part], [a[part] for a in y], **one).items():
                    sums[name] += value * w[part].sum()
                total += w[part].sum()
                twin.fit(X[part], [a[part] for a in y], batch_size=None, optimizer=optimizer, **one)
            for name in ("loss", *(f"{name}_loss" for name in names[:3])):
                assert history[name][epoch] == pytest.approx(sums[name.replace("_", ".")] / total, rel=1e-9)
    assert seen[0] == seen[1] == seen[2] and len(seen[0]["off_loss"]) == len(seen[0]["val_val_loss"]) == 2
    assert history.val_loss[-1] == net.evaluate(X, y, loss=settings["loss"])["loss"]


@pytest.mark.parametrize("monitor, sign", [("val_kind_loss", 1), ("val_kind_accuracy", -1), ("val_size_loss", 1)])
def test_early_stopping_by_one_output(monitor, sign):
    x = bp.Input(3)
    net = bp.Network(x, [bp.Dense(4, "softmax", name="kind")(x), bp.Dense(2, name="size")(x)])
    rng = np.random.default_rng(1)
    train, held = (
        (rng.standard_normal((n, 3)), [rng.integers(0, 4, n), rng.standard_normal((n, 2))]) for n in (40, 30)
    )
    stop = bp.EarlyStopping(monitor, patience=3)
    history = net.fit(*train, epochs=500, validation_data=held, callbacks=stop, optimizer=bp.SGD(lr=0.1))
    values = sign * np.array(history[monitor])
    assert len(values) < 500 and sign * stop.best == values.min()
    assert stop.best_epoch == 1 + values.argmin() == len(values) - 3
    name = f"{monitor.split('_')[1]}.{monitor.split('_')[2]}"
    assert net.evaluate(*held)[name] == history[monitor][stop.best_epoch - 1]
    net.fit(*train, callbacks=(stop := bp.EarlyStopping("kind_loss")))
    assert np.isfinite(stop.best)
    with pytest.raises(ValueError, match="give fit validation_data"):
        net.fit(*train, callbacks=bp.EarlyStopping("val_kind_loss"))
    for wrong, cure in (
        ("val_other_loss", "no output of this name"), ("val_size_accuracy", "no accuracy"), ("other_loss", "no output"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=cure):
            net.fit(*train, validation_data=held, callbacks=bp.EarlyStopping(wrong))


def test_validation_uses_the_loss_of_the_call():
    net = make()
    loss = bp.losses.Huber(0.5)
    history = net.fit(X, Y, loss=loss, epochs=1, validation_data=(X, Y))
    assert history.val_loss == [net.evaluate(X, Y, loss=loss)["loss"]]
    assert history.val_loss != [net.evaluate(X, Y)["loss"]]


@pytest.mark.parametrize("validation", [None, "loss", "accuracy"])
def test_a_plain_line_an_epoch(validation, capsys):
    net = make(n_out=4, output="softmax") if validation == "accuracy" else make()
    y = LABELS if validation == "accuracy" else Y
    history = net.fit(X, y, epochs=3, verbose=1, validation_data=(X, y) if validation else None)
    lines = capsys.readouterr().out.splitlines()
    number = r"[\d.e+-]+"
    words = [rf"epoch (\d)/3  loss ({number})"]
    words += [rf"val_loss ({number})"] if validation else []
    words += [r"val_accuracy (0\.\d{4})"] if validation == "accuracy" else []
    pattern = "  ".join([*words, r"[\d,]+ samples/s"])
    assert len(lines) == 3
    for i, line in enumerate(lines):
        match = re.fullmatch(pattern, line)
        assert match, line
        shown = [history.epoch, history.loss, history.val_loss, history.val_accuracy]
        for text, values in zip(match.groups(), shown, strict=False):
            assert float(text) == pytest.approx(values[i], rel=1e-3, abs=1e-4)
    net.fit(X, y, epochs=2)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_second_fit_counts_on(capsys):
    """The same numbers in what is printed, the history and what callbacks see."""
    net = make()
    net.fit(X, Y, epochs=3, verbose=1)
    seen = []
    history = net.fit(X, Y, epochs=2, verbose=1, callbacks=[lambda state: seen.append(state.epoch)])
    printed = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["epoch 1/3", "epoch 2/3", "epoch 3/3", "epoch 4/5", "epoch 5/5"]
    assert history.epoch == seen == [4, 5]


# ---- callbacks ----


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


class At(bp.Callback):
    """Calls `change(state)` at an event."""

    def __init__(self, event, change, step=None):
        def told(state):
            if step is None or state.step == step:
                change(state)

        setattr(self, event, told)

    def on_batch_end(self, state):
        """One step a slice."""


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


# ---- epochs, batches, order ----


def test_no_epochs():
    net, recorder = make(), Recorder()
    before = net.theta.tobytes()
    history = net.fit(X, Y, epochs=0, callbacks=recorder)
    assert history.epoch == history.loss == [] and net.epoch == net.step == 0 and net.theta.tobytes() == before
    assert [name for name, *_ in recorder.log] == ["begin", "end"]


@pytest.mark.parametrize(
    "n, batch, steps", [(10, 4, 3), (10, 5, 2), (10, 10, 1), (10, 1, 10), (10, None, 1), (10, 99, 1), (1, 7, 1)]
)
def test_batches(n, batch, steps):
    net = make()
    net.fit(X[:n], Y[:n], batch_size=batch, epochs=2)
    assert net.step == 2 * steps


def test_full_batches_are_never_shuffled():
    nets = [make() for _ in range(5)]
    settings = [{"batch_size": None}, {"batch_size": 50}, {"batch_size": 10**9}, {"batch_size": None, "seed": 9}]
    for net, setting in zip(nets, [*settings, {"batch_size": None, "shuffle": False}], strict=True):
        net.fit(X, Y, epochs=3, **setting)
    assert len({net.theta.tobytes() for net in nets}) == 1


def test_shuffling_draws_every_row_once_an_epoch_in_the_order_of_seed_and_epoch():
    """The user's loss sees which rows come when."""
    seen = []
    loss = bp.Loss(lambda a, y: (seen.append(y[:, 0].copy()), (a[:, 0] - y[:, 0]) ** 2)[1], lambda a, y: 0 * a)
    net = bp.Network([bp.Input(3), bp.Dense(1)], seed=7)
    for setting, seed in (({}, 7), ({"seed": 12345}, 12345)):
        first = net.epoch
        seen.clear()
        net.fit(X, np.arange(50), loss=loss, batch_size=8, epochs=3, **setting)
        assert [len(y) for y in seen] == [8, 8, 8, 8, 8, 8, 2] * 3
        orders = np.concatenate(seen).reshape(3, 50)
        assert (np.sort(orders) == np.arange(50)).all()
        for i, order in enumerate(orders):
            assert (order == _core.permutation(50, seed, 1, first + i)).all()
        assert not (orders[0] == orders[1]).all() and not (orders[0] == np.arange(50)).all()
    seen.clear()
    net.fit(X, np.arange(50), loss=loss, batch_size=8, shuffle=False)
    assert (np.concatenate(seen) == np.arange(50)).all()


def test_online_learning_is_the_delta_rule():
    """One linear layer, one example at a time: W += eta (t - o) x, exactly as Widrow and Hoff wrote it."""
    net = bp.Network([bp.Input(3), bp.Dense(2)], dtype="float64", seed=2)
    W, b = np.array(net.W[1]), np.array(net.b[1])
    net.fit(X, Y, batch_size=1, shuffle=False, optimizer=bp.SGD(lr=0.1))
    for x, t in zip(X, Y, strict=True):
        error = t - (W @ x + b)
        W += 0.1 * np.outer(error, x)
        b += 0.1 * error
    assert np.abs(net.W[1] - W).max() < 1e-14 and np.abs(net.b[1] - b).max() < 1e-14


# ---- sample weights ----


@pytest.mark.parametrize("optimizer", [bp.SGD(lr=0.1, momentum=0.9), bp.Adam(lr=0.01)])
def test_a_weight_of_k_is_the_row_k_times(optimizer):
    k = RNG.integers(0, 4, 50)
    weighted, repeated = make(), make()
    a = weighted.fit(X, Y, sample_weight=k, batch_size=None, epochs=20, optimizer=optimizer)
    b = repeated.fit(np.repeat(X, k, 0), np.repeat(Y, k, 0), batch_size=None, epochs=20, optimizer=optimizer)
    assert np.abs(weighted.theta - repeated.theta).max() < 1e-13
    assert np.allclose(a.loss, b.loss, rtol=1e-13, atol=0)
    one = weighted.evaluate(X, Y, sample_weight=k)["loss"]
    assert one == pytest.approx(weighted.evaluate(np.repeat(X, k, 0), np.repeat(Y, k, 0))["loss"], rel=1e-13)


@pytest.mark.parametrize("phase2", ["owners", "shards"])
def test_a_batch_of_many_chunks_has_the_gradient_of_all_its_rows(phase2):
    """The same rows 800 times, in another order in each chunk, are the same cost."""
    order = np.random.default_rng(5).permutation(800 * 50) % 50
    _core.force(False, phase2)
    try:
        many, few = make(), make()
        a = many.fit(X[order], Y[order], batch_size=None, epochs=5, optimizer=bp.SGD(lr=0.1, momentum=0.9))
        (entry,) = many._model.plans.entries.values()
        assert entry.compiled.plan.describe()["chunk_rows"] < 800 * 50
    finally:
        _core.force(False, "")
    b = few.fit(X, Y, batch_size=None, epochs=5, optimizer=bp.SGD(lr=0.1, momentum=0.9))
    assert np.abs(many.theta - few.theta).max() < 1e-12
    assert np.allclose(a.loss, b.loss, rtol=1e-12, atol=0)
    cost, grad = many.value_and_grad(X[order], Y[order])
    same, gradient = many.value_and_grad(X, Y)
    assert cost == pytest.approx(same, rel=1e-12) and np.abs(grad - gradient).max() < 1e-12


def test_only_ratios_of_weights_matter():
    nets = [make() for _ in range(3)]
    for net, scale in zip(nets, (1, 1024, 2.0**-20), strict=True):
        net.fit(X, Y, sample_weight=scale * np.linspace(0, 1, 50), batch_size=None, epochs=5)
    assert nets[0].theta.tobytes() == nets[1].theta.tobytes() == nets[2].theta.tobytes()


def test_a_batch_of_no_weight_makes_no_step():
    w = np.ones(50)
    w[10:20] = 0
    optimizer = bp.SGD(lr=0.1, momentum=0.9)
    net, twin, recorder = make(), make(), Recorder()
    history = net.fit(
        X, Y, sample_weight=w, batch_size=10, shuffle=False, epochs=2, optimizer=optimizer, callbacks=recorder
    )
    keep = np.flatnonzero(w)
    same = twin.fit(X[keep], Y[keep], batch_size=10, shuffle=False, epochs=2, optimizer=optimizer)
    assert state_of(net) == state_of(twin) and net.step == 8
    assert np.allclose(history.loss, same.loss, rtol=1e-15)
    assert [step for name, _, step in recorder.log if name == "batch"] == [1, 1, 2, 3, 4, 5, 5, 6, 7, 8]


# ---- evaluate ----


def test_evaluate_of_classes():
    net = make(n_out=4, output="softmax")
    a = net.predict(X)
    w = RNG.random(50)
    right = a.argmax(1) == LABELS
    picked = -np.log(a[np.arange(50), LABELS])
    found = net.evaluate(X, LABELS)
    assert set(found) == {"loss", "accuracy"}
    assert found["loss"] == pytest.approx(picked.mean(), rel=1e-13) and found["accuracy"] == right.mean()
    found = net.evaluate(X, LABELS, sample_weight=w)
    assert found["loss"] == pytest.approx(picked @ w / w.sum(), rel=1e-13)
    assert found["accuracy"] == pytest.approx(right @ w / w.sum(), rel=1e-13)
    rows = softmax(RNG.standard_normal((50, 4)), axis=1)
    found = net.evaluate(X, rows)
    assert found["loss"] == pytest.approx(-np.mean(np.sum(xlogy(rows, a), 1)), rel=1e-13)
    assert found["accuracy"] == np.mean(a.argmax(1) == rows.argmax(1))


def test_evaluate_of_ties_takes_the_first():
    net = bp.Network([bp.Input(2), bp.Dense(3, "softmax", init="zeros")])
    x = np.ones((4, 2))
    assert net.evaluate(x, [0, 1, 2, 0])["accuracy"] == 0.5
    assert net.evaluate(x, np.full((4, 3), 1 / 3))["accuracy"] == 1.0


def test_evaluate_of_odds():
    net = make(n_out=2, output="logistic")
    y = RNG.integers(0, 2, (50, 2))
    a, w = net.predict(X), RNG.random(50)
    right = ((a >= 0.5) == (y >= 0.5)).mean(1)
    E = -(xlogy(y, a) + xlogy(1 - y, 1 - a)).sum(1)
    found = net.evaluate(X, y, sample_weight=w)
    assert found["loss"] == pytest.approx(E @ w / w.sum(), rel=1e-12)
    assert found["accuracy"] == pytest.approx(right @ w / w.sum(), rel=1e-13)
    half = bp.Network([bp.Input(2), bp.Dense(1, "logistic", init="zeros")])
    assert half.evaluate(np.ones((4, 2)), [1, 1, 0, 1])["accuracy"] == 0.75  # an output of 1/2 says 1
    assert half.evaluate(np.ones((2, 2)), [0.5, 0.4])["accuracy"] == 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 20])  # losses of few classes have kernels of their own
@pytest.mark.parametrize("f", ["softmax", "logistic", "exp"])  # fused with the loss, or not
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_a_row_with_a_nan_is_never_right(f, loss, classes, dtype):
    """Outputs that overflow to NaN once counted as class 0, so that EarlyStopping would have kept a broken network."""
    net = bp.Network([bp.Input(2), bp.Dense(2, "relu"), bp.Dense(classes, f)], dtype=dtype)
    net.params["dense_1.W"][...] = 10
    net.params["dense_2.W"][...] = [[1] * classes, [-1] * classes]
    X = np.full((37, 2), 0.9 * np.finfo(dtype).max)
    X[30:] = 0  # these are right: all classes are as likely, and the first is taken
    y = np.zeros(37, int) if loss == "cross_entropy" else np.zeros((37, classes)) + (f == "logistic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # exp is for neither loss
        assert np.isnan(net.predict(X)[:30]).all()
        right = net.evaluate(X, y, loss=loss)["accuracy"]
        weighted = net.evaluate(X, y, loss=loss, sample_weight=np.arange(37) < 30)["accuracy"]
    assert weighted == 0 and right in (0, pytest.approx(7 / 37))
    assert right or f == "exp"


def test_evaluate_without_classes_has_no_accuracy():
    net = make()
    assert net.evaluate(X, Y) == {"loss": pytest.approx(((net.predict(X) - Y) ** 2).sum(1).mean() / 2, rel=1e-13)}
    assert net.evaluate(X, Y, loss="mse") == {"loss": pytest.approx(((net.predict(X) - Y) ** 2).mean(), rel=1e-13)}
    assert set(net.evaluate(X, Y, loss=bp.Loss(lambda a, y: a[:, 0], lambda a, y: a))) == {"loss"}


@pytest.mark.parametrize(
    "output, y, name",
    [
        ("softmax", LABELS, "cross_entropy"), ("logistic", np.eye(4)[LABELS], "binary_cross_entropy"),
        ("identity", np.eye(4)[LABELS], "squared_error"), ("tanh", np.eye(4)[LABELS], "squared_error"),
        (bp.Activation(np.sin, np.cos), np.eye(4)[LABELS], "squared_error"),
    ],
)  # fmt: skip
def test_loss_auto(output, y, name):
    nets = [make(n_out=4, output=output) for _ in range(3)]
    named = {"cross_entropy": bp.losses.CrossEntropy, "binary_cross_entropy": bp.losses.BinaryCrossEntropy}
    given = [{}, {"loss": name}, {"loss": named.get(name, bp.losses.SquaredError)()}]
    losses = [net.fit(X, y, epochs=2, **setting).loss for net, setting in zip(nets, given, strict=True)]
    assert losses[0] == losses[1] == losses[2]
    assert len({net.theta.tobytes() for net in nets}) == 1
    assert nets[0].evaluate(X, y) == nets[0].evaluate(X, y, loss=name)
    assert nets[0].value_and_grad(X, y)[0] == pytest.approx(nets[0].evaluate(X, y)["loss"], rel=1e-13)


def test_one_output_takes_a_vector_or_a_column():
    nets = [make(n_out=1, output="logistic") for _ in range(3)]
    y = RNG.integers(0, 2, 50)
    for net, form in zip(nets, (y, y[:, None], (y > 0).tolist()), strict=True):
        net.fit(X, form, epochs=2)
    assert len({net.theta.tobytes() for net in nets}) == 1
    assert nets[0].predict(X).shape == (50, 1)


# ---- optimisers ----


def fresh_copy(net):
    """Parameters and counters of a network, without its optimiser's memory."""
    twin = make()
    twin.theta = net.theta
    twin.step, twin.epoch = net.step, net.epoch
    return twin


NUMBERS_ALONE = [
    (bp.SGD(lr=0.1, momentum=0.9), bp.SGD(lr=0.05, momentum=0.5, nesterov=True)),
    (bp.Adam(), bp.Adam(lr=0.01, beta1=0.8)),
    (bp.Adam(), bp.Adam(weight_decay=0.1, clip_norm=0.1)),
    (bp.AdamW(amsgrad=True), bp.AdamW(lr=0.01, amsgrad=True)),
]


@pytest.mark.parametrize("first, second", NUMBERS_ALONE)
@pytest.mark.parametrize("how", ["same", "copy", "pickle", "file"])
def test_a_fit_with_other_numbers_goes_on_with_the_memory(how, first, second, tmp_path):
    """As a callback's change does; and one without an optimiser goes on with the last."""
    net, whole = make(), make()
    change = At("on_epoch_end", lambda state: setattr(state, "optimizer", second), 15)
    whole.fit(X, Y, optimizer=first, epochs=7, batch_size=10, callbacks=change)
    net.fit(X, Y, optimizer=first, epochs=3, batch_size=10)
    if how == "file":
        net.save(tmp_path / "net")
        net = bp.load(tmp_path / "net")
    else:
        net = {"same": lambda n: n, "copy": copy.deepcopy, "pickle": lambda n: pickle.loads(pickle.dumps(n))}[how](net)
    assert net.optimizer == first
    net.fit(X, Y, optimizer=second, epochs=2, batch_size=10)
    assert net.optimizer == second
    net.fit(X, Y, epochs=2, batch_size=10)
    assert net.optimizer == second and net._model.memory.updates == 35
    assert state_of(net) == state_of(whole)


@pytest.mark.parametrize("first, second, dropped", [
    (bp.SGD(lr=0.1, momentum=0.9), bp.Adam(), "velocity"), (bp.Adam(), bp.SGD(), "mean, variance"),
    (bp.SGD(lr=0.1, momentum=0.9), bp.SGD(), "velocity"), (bp.Adam(), bp.AdamW(), "mean, variance"),
    (bp.Adam(), bp.Adam(amsgrad=True), "mean, variance"), (bp.SGD(), bp.SGD(momentum=0.9), None),
    (bp.SGD(), bp.Adam(), None),
])  # fmt: skip
def test_an_optimizer_of_another_kind_begins_anew_and_says_so(first, second, dropped):
    net = make()
    net.fit(X, Y, optimizer=first, epochs=3)
    begun = fresh_copy(net)
    if dropped:
        words = re.escape(f"optimizer: {second} begins anew, and {dropped} of {first} are dropped")
        before = state_of(net)
        with pytest.raises(UserWarning, match=words):  # as an error, it changes nothing
            net.fit(X, Y, optimizer=second)
        assert state_of(net) == before and net.optimizer == first
        with pytest.warns(UserWarning, match="begins anew"):
            net.fit(X, Y, optimizer=second, epochs=2)
    else:
        net.fit(X, Y, optimizer=second, epochs=2)
    begun.fit(X, Y, optimizer=second, epochs=2)
    assert state_of(net) == state_of(begun) and net._model.memory.updates == 4


def test_a_new_network_has_no_optimizer_and_takes_gradient_descent():
    net = make()
    assert net.optimizer is None
    net.fit(X, Y, epochs=0, optimizer=bp.Adam())
    assert net.optimizer is None  # it made no step
    net.fit(X, Y)
    assert net.optimizer == bp.SGD(lr=0.01)


def test_optimizers_by_name_are_their_defaults():
    for name, optimizer in (("sgd", bp.SGD()), ("adam", bp.Adam())):
        nets = [make(), make()]
        for net, given in zip(nets, (name, optimizer), strict=True):
            net.fit(X, Y, optimizer=given)
        assert state_of(nets[0]) == state_of(nets[1])
    default = make()
    default.fit(X, Y)
    assert default._model.memory.optimizer == bp.SGD(lr=0.01)


def test_optimizers_are_frozen_and_compare_by_value():
    assert bp.SGD(lr=1) == bp.SGD(lr=1.0) != bp.SGD(lr=2) and hash(bp.Adam()) == hash(bp.Adam())
    for optimizer in (bp.SGD(), bp.Adam()):
        with pytest.raises(FrozenInstanceError, match=r"replace\(optimizer, lr=3\).*state.optimizer"):
            optimizer.lr = 3


def test_weight_decay_touches_weights_not_biases():
    """With no gradient, W shrinks by lr * decay a step and b stays."""
    loss = bp.Loss(lambda a, y: 0 * a[:, 0], lambda a, y: 0 * a)
    net = bp.Network([bp.Input(3), bp.Dense(4, bias_init="ones"), bp.Dense(2, bias_init="ones")], dtype="float64")
    before = net.copy()
    net.fit(X, Y, loss=loss, batch_size=10, epochs=2, optimizer=bp.SGD(lr=0.5, weight_decay=0.1))
    for k in (1, 2):
        assert np.allclose(net.W[k], before.W[k] * 0.95**10, rtol=1e-14, atol=0) and (net.b[k] == 1).all()


# ---- parameters and views ----


def test_views_alias_theta_in_its_order():
    net = bp.Network([bp.Input(3), bp.Dense(4, name="first"), bp.Dense(2, bias=False), bp.Dense(2)])
    assert list(net.params) == ["first.W", "first.b", "dense_2.W", "dense_3.W", "dense_3.b"]
    assert [view.shape for view in net.params.values()] == [(3, 4), (4,), (4, 2), (2, 2), (2,)]
    assert net.n_params == net.theta.size == 12 + 4 + 8 + 4 + 2 and net.theta.dtype == np.float32
    net.theta[:] = np.arange(net.n_params)
    assert (np.concatenate([view.ravel() for view in net.params.values()]) == np.arange(net.n_params)).all()
    assert net.W[0] is net.b[0] is net.b[2] is None and len(net.W) == len(net.b) == 4
    for k, name in enumerate(("first", "dense_2", "dense_3"), 1):
        assert (net.W[k] == net.params[f"{name}.W"].T).all() and np.shares_memory(net.W[k], net.theta)
        assert net.b[k] is None or np.shares_memory(net.b[k], net.theta)
    net.W[1][3, 0] = 77
    net.b[3][1] = 88
    net.params["dense_2.W"][0, 1] = 99
    assert (net.theta[3], net.theta[-1], net.theta[17]) == (77, 88, 99)
    with pytest.raises(TypeError):
        net.params["first.W"] = np.zeros((3, 4))
    theta, given = net.theta, np.zeros(net.n_params)
    net.theta = given
    assert net.theta is theta and not np.shares_memory(theta, given) and not theta.any()


def test_a_shared_layer_is_one_set_of_weights():
    shared = bp.Dense(3, "tanh")
    net = bp.Network([bp.Input(3), shared, shared, bp.Dense(3, "tanh"), bp.Dense(3, "tanh")])
    assert list(net.params) == [f"dense_{i}.{s}" for i in (1, 2, 3) for s in "Wb"]
    assert np.shares_memory(net.W[1], net.W[2]) and not np.shares_memory(net.W[3], net.W[4])
    assert not (net.W[3] == net.W[4]).all()


WRITES = {
    "theta": lambda net: net.theta.__imul__(0.5),
    "assignment": lambda net: setattr(net, "theta", net.theta * 0.5),
    "params": lambda net: net.params["dense_1.W"].__imul__(-1),
    "W": lambda net: net.W[2].__setitem__((0, 3), 0.25),
    "b": lambda net: net.b[1].__iadd__(1),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_writes_between_calls_are_seen(how, dtype):
    net = make(dtype=dtype)
    net.fit(X, Y)
    calls = {
        "predict": lambda net: net.predict(X).tobytes(),
        "forward": lambda net: net.forward(X).a[-1].tobytes(),
        "evaluate": lambda net: net.evaluate(X, Y),
        "gradient": lambda net: net.value_and_grad(X, Y)[1].tobytes(),
        "fit": lambda net: net.fit(X, Y).loss,
        "fitted": lambda net: net.theta.tobytes(),
    }
    before = {name: call(net.copy()) for name, call in calls.items()}
    for call in calls.values():
        call(net)  # plans are warm
    WRITES[how](net)
    told = make(dtype=dtype)
    told.theta[:] = net.theta
    told.epoch, told.step = net.epoch, net.step
    after = {name: call(net) for name, call in calls.items()}
    assert after == {name: call(told) for name, call in calls.items()}
    assert all(after[name] != before[name] for name in calls)


@pytest.mark.parametrize("how", WRITES)
def test_writes_in_callbacks_are_seen(how):
    answers = []

    def write(state):
        if state.epoch == 2:
            WRITES[how](state.net)
            answers.append(state.net.predict(X).tobytes())

    net, twin = make(), make()
    optimizer = bp.SGD(lr=0.05, momentum=0.9)
    net.fit(X, Y, epochs=4, callbacks=write, optimizer=optimizer)
    twin.fit(X, Y, epochs=2, optimizer=optimizer)
    WRITES[how](twin)
    assert answers == [twin.predict(X).tobytes()]
    twin.fit(X, Y, epochs=2, optimizer=optimizer)
    assert state_of(net) == state_of(twin)


@pytest.mark.parametrize("how", WRITES)
def test_writes_after_a_batch_are_seen(how):
    class Write(bp.Callback):
        def on_batch_end(self, state):
            if state.step == 3:
                WRITES[how](state.net)

    net, twin = make(), make()
    settings = {"batch_size": 10, "shuffle": False, "optimizer": bp.Adam()}
    net.fit(X, Y, callbacks=Write(), **settings)
    twin.fit(X[:30], Y[:30], **settings)
    WRITES[how](twin)
    twin.fit(X[30:], Y[30:], **settings)
    assert state_of(net) == state_of(twin)


def test_writes_into_the_data_in_a_callback_are_seen():
    a, b = X.copy(), Y.copy()

    def write(state):
        a[:] = -X

    net, twin = make(), make()
    net.fit(a, b, epochs=2, callbacks=write)
    twin.fit(X, Y)
    twin.fit(-X, Y)
    assert state_of(net) == state_of(twin)


def test_copies_are_independent():
    net = make()
    net.fit(X, Y, optimizer=bp.Adam())
    twin = net.copy()
    assert state_of(twin) == state_of(net) and not np.shares_memory(twin.theta, net.theta)
    before = state_of(net)
    twin.fit(X, Y, optimizer=bp.Adam())
    twin.theta[:] = 0
    assert state_of(net) == before


# ---- minimising by others ----


def test_value_and_grad_feeds_scipy():
    net = make()

    def cost(theta):
        net.theta = theta
        return net.value_and_grad(X, Y, loss="mse")

    start = net.evaluate(X, Y, loss="mse")["loss"]
    best = minimize(cost, net.theta.copy(), jac=True, method="L-BFGS-B", options={"maxiter": 50})
    assert best.fun < 0.8 * start
    net.theta = best.x
    assert net.evaluate(X, Y, loss="mse")["loss"] == pytest.approx(best.fun, rel=1e-12)


# ---- check_gradients ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_check_gradients(dtype):
    net = make(dtype=dtype, n_out=4, output="softmax")
    before = state_of(net)
    w = RNG.random(8)
    for settings in ({}, {"sample_weight": w}, {"loss": "cross_entropy"}):
        errors = bp.check_gradients(net, X[:8], LABELS[:8], **settings)
        assert list(errors) == list(net.params)
        assert all(type(error) is float and error < 1e-7 for error in errors.values()), errors
    assert bp.check_gradients(net, X[:8], np.eye(4)[LABELS[:8]], loss="mse")["dense_1.W"] < 1e-7
    assert state_of(net) == before


def test_check_gradients_finds_a_wrong_derivative():
    right = bp.Activation(np.sin, np.cos)
    wrong = bp.Activation(np.sin, lambda z: 1.01 * np.cos(z))
    nets = [bp.Network([bp.Input(3), bp.Dense(4, f), bp.Dense(2)], seed=1) for f in (right, wrong)]
    good, bad = (bp.check_gradients(net, X[:6], Y[:6]) for net in nets)
    assert max(good.values()) < 1e-7
    assert bad["dense_1.W"] == pytest.approx(0.01, rel=0.02) and bad["dense_1.b"] == pytest.approx(0.01, rel=0.02)
    assert bad["dense_2.W"] < 1e-7
    loss = bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: a - y)
    assert min(bp.check_gradients(nets[0], X[:6], Y[:6], loss=loss).values()) > 0.3


# ---- words ----


def test_repr_and_summary():
    shared = bp.Dense(5, bp.Activation(np.sin, np.cos, name="sine"))
    net = bp.Network([bp.Input(1000), bp.Dense(5, "relu", name="in"), shared, shared, bp.Dense(2, bias=False)])
    text = repr(net)
    for word in ("Network", "Input(1000)", "Dense(5, 'relu')", "'sine'", "Dense(2, 'identity', bias=False)", "float32"):
        assert word in text
    assert "5,045 parameters" in text and "\n" not in text
    lines = net.summary().splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines]
    assert rows[0] == ["layer", "activation", "output", "parameters"]
    assert rows[2:7] == [
        ["input", "(n, 1000)", "0"], ["in", "relu", "(n, 5)", "5,005"], ["dense_2", "sine", "(n, 5)", "30"],
        ["dense_2@2", "sine", "(n, 5)", "shared"], ["dense_3", "identity", "(n, 2)", "10"],
    ]  # fmt: skip
    assert rows[-2] == ["total", "float32", "5,045"] and len(lines) == 10
    assert re.fullmatch(r"a step on 32 examples: [0-9.]+ MiB, without reuse [0-9.]+ MiB", lines[-1])
    assert len({line for line in (lines[1], lines[-3])}) == 1 and set(lines[1]) == {"-"}
    assert all(line == line.rstrip() for line in lines)


def test_repr_of_tape_and_gradients():
    net = make()
    tape = net.forward(X)
    assert repr(tape) == "Tape(50 rows, 2 layers)"
    grads = net.backward(tape, Y)
    assert repr(grads) == f"Gradients(loss={grads.loss:.6g}, {net.n_params} parameters)"


def test_show_config(capsys):
    import platform

    import scipy

    bp.show_config()
    text = capsys.readouterr().out
    for word in (
        f"bpcore {bp.__version__}", platform.python_version(), np.__version__, scipy.__version__,
        f"threads: {bp.get_num_threads()}", platform.machine(), "BLAS: ",
    ):  # fmt: skip
        assert word in text


# ---- learning ----


def test_digits_are_learnt():
    train, test = bp.datasets.load_digits().split()
    net = bp.Network([bp.Input(64), bp.Dense(128, "relu"), bp.Dense(10, "softmax")], seed=0)
    history = net.fit(train.X, train.y, optimizer=bp.Adam(lr=0.003), epochs=25, validation_data=test)
    assert net.evaluate(*test)["accuracy"] >= 0.97
    assert history.val_accuracy[-1] == net.evaluate(*test)["accuracy"]
    assert history.loss[-1] < 0.02 < history.loss[0]
    assert (net.predict(test.X).argmax(1) == test.y).mean() == history.val_accuracy[-1]


def test_exclusive_or_is_learnt():
    solved = 0
    for seed in range(10):
        net = bp.Network([bp.Input(2), bp.Dense(4, "tanh"), bp.Dense(1, "logistic")], seed=seed)
        net.fit(*bp.datasets.xor(), batch_size=None, epochs=500, optimizer=bp.Adam(lr=0.05))
        solved += net.evaluate(*bp.datasets.xor())["accuracy"] == 1.0
    assert solved >= 8


@pytest.mark.parametrize("sizes", [(100, 100, 3), (4, 8, 3)])
def test_a_tiny_weight_and_a_large_rate_do_not_overflow(sizes):
    """lr / w itself is beyond float32; lr times the gradient is not."""
    net = bp.Network([bp.Input(sizes[0]), bp.Dense(sizes[1], "relu"), bp.Dense(sizes[2], "softmax")], seed=0)
    X = np.random.default_rng(0).standard_normal((4, sizes[0]))
    net.fit(X, [0, 1, 2, 0], batch_size=1, optimizer=bp.SGD(lr=8), sample_weight=np.full(4, 2e-38))
    assert np.isfinite(net.theta).all()
