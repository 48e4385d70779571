"""What `fit` returns and prints: histories, validation, words on screen."""

import copy
import json
import pickle
import re

import numpy as np
import pytest
from fitting import LABELS, X, Y, make, state_of

import bpcore as bp

RNG = np.random.default_rng(1)


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
    assert repr(make().fit(X, Y, epochs=0)) == "History of 0 epochs"


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
    assert json.loads(json.dumps(history)) == shown and repr(history).splitlines()[-1].split() == ["2", "1", "4"]
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


@pytest.mark.parametrize("optimizer", [bp.SGD(lr=0.05), bp.LevenbergMarquardt(), bp.LBFGS()])
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
    full = optimizer.full_batch
    own = bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: 2 * (a - y))
    own = "mse" if isinstance(optimizer, bp.LevenbergMarquardt) else own
    weighted = bp.losses.Weighted
    settings = {"loss": [weighted("mse", 0.3), own, weighted("squared_error", 0.0), "mse"], "sample_weight": w}
    seen, start = [], net.copy()
    for n_threads in (1, 2, 3):
        net, twin = start.copy(), start.copy()
        history = net.fit(X, y, epochs=2, batch_size=50 if full else 20, shuffle=False, optimizer=optimizer,
                          n_threads=n_threads, validation_data=(X, y), **settings)  # fmt: skip
        assert list(history.outputs) == [f"{name}_loss" for name in names[:3]] + [f"val_{name}_loss" for name in names]
        seen.append({name: history[name] for name in ("loss", *history.outputs)})
        for epoch in range(2):
            total, parts = 0.0, [slice(0, 50)] if full else [slice(0, 20), slice(20, 40), slice(40, 50)]
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
    with pytest.raises(ValueError, match="give fit validation_split=0.2, or validation_data"):
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
    pattern = "  ".join([*words, r"[\d,]+ samples/s"]) + r"(?:  \d:\d\d left)?"
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
