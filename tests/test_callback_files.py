"""Callbacks that write files, what happens where they cannot, and the learning rate range test."""

import csv
import errno
import json
import math
import os
import pickle
import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from fitting import LABELS, X, Y, make, state_of

import bpcore as bp

NOT_FINITE = "ignore:overflow|ignore:invalid"


def best_at(epoch):
    """A callback after which that epoch's val_loss is the lowest."""
    return lambda state: state.history.val_loss.__setitem__(-1, abs(state.epoch - epoch))


@contextmanager
def disk_of(n):
    """Files of this process have n bytes at most, as on a disk that is full then."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_best_network_is_in_the_file(tmp_path):
    path, thetas = tmp_path / "best.safetensors", []
    keep = bp.ModelCheckpoint(path)
    net = make()
    net.fit(X, Y, epochs=6, validation_split=0.2, optimizer=bp.Adam(), callbacks=[
        best_at(4), keep, lambda state: thetas.append(state.net.theta.copy())])  # fmt: skip
    saved = bp.load(path)
    assert (saved.theta == thetas[3]).all() and saved.epoch == 4 == keep.best_epoch and keep.best == 0
    assert saved.optimizer == bp.Adam() and os.listdir(tmp_path) == [path.name]
    by_accuracy = bp.ModelCheckpoint(path, "val_accuracy", optimizer=False)
    history = make(n_out=4, output="softmax").fit(X, LABELS, epochs=9, validation_split=0.3, callbacks=by_accuracy)
    assert by_accuracy.best == max(history.val_accuracy) and bp.load(path).optimizer is None
    net.fit(X, Y, epochs=2, callbacks=bp.ModelCheckpoint(path, best_only=False))
    assert state_of(bp.load(path)) == state_of(net)
    with pytest.raises(ValueError, match="callbacks: ModelCheckpoint watches val_loss, and there is only loss"):
        net.fit(X, Y, callbacks=bp.ModelCheckpoint(path))


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_logs_hold_the_history(tmp_path):
    a, b = tmp_path / "a.csv", tmp_path / "b.jsonl"
    callbacks = [lambda state: state.epoch == 2 and state.history.val_loss.__setitem__(-1, math.nan),
                 bp.CSVLogger(a), bp.JSONLines(b)]  # fmt: skip
    net = make()
    for _ in range(2):  # the second begins them anew
        history = net.fit(X, Y, epochs=3, validation_split=0.2, callbacks=callbacks)
        rows, objects = read_csv(a), [json.loads(line) for line in b.read_text().splitlines()]
        assert len(rows) == len(objects) == 3 and list(rows[0]) == list(objects[0]) == list(history)
        for name, values in history.items():
            np.testing.assert_array_equal([float(row[name]) for row in rows], values)  # all digits
            read = [math.nan if line[name] is None else line[name] for line in objects]
            np.testing.assert_array_equal(read, values)


WRITERS = {
    "ModelCheckpoint": lambda path: bp.ModelCheckpoint(path, "loss"), "CSVLogger": bp.CSVLogger,
    "JSONLines": bp.JSONLines,
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_warns_and_training_goes_on(kind, tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    nets = make(), make()
    with disk_of(100), pytest.warns(UserWarning, match=f"callbacks: {kind} could not write, .*File too large") as found:
        nets[0].fit(X, Y, epochs=5, callbacks=WRITERS[kind](path))
    nets[1].fit(X, Y, epochs=5)
    assert len(found) == 1 and found[0].filename == __file__ and state_of(nets[0]) == state_of(nets[1])
    assert os.listdir(tmp_path) == ["file"]
    if kind == "ModelCheckpoint":
        assert path.read_text() == "before"


def test_lines_that_could_not_be_written_come_later(tmp_path, monkeypatch):
    path, failing = tmp_path / "a.csv", [2, 3]
    opened = open

    def no_space(name, *args, **settings):
        if str(name) == str(path) and epoch[0] in failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(name))
        return opened(name, *args, **settings)

    epoch = [0]
    monkeypatch.setattr("builtins.open", no_space)
    with pytest.warns(UserWarning, match="No space left"):
        make().fit(X, Y, epochs=5, callbacks=[lambda state: epoch.__setitem__(0, state.epoch), bp.CSVLogger(path)])
    assert [row["epoch"] for row in read_csv(path)] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_path_of_the_wrong_kind_is_an_error_before_the_first_step(kind, tmp_path):
    net = make()
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "no" / "file", FileNotFoundError)):
        with pytest.raises(error, match=str(path)):
            net.fit(X, Y, callbacks=WRITERS[kind](path))
    with pytest.raises(TypeError, match="path: expected a file name"):
        WRITERS[kind](3)
    assert net.step == 0
    with pytest.raises(ValueError, match=f"callbacks: expected a {kind} with a path of its own for each network"):
        bp.fit_many([net, make()], X, Y, callbacks=WRITERS[kind](tmp_path / "file"))
    bp.fit_many([net, make()], X, Y, callbacks=[[WRITERS[kind](tmp_path / name)] for name in "ab"])
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_files_and_pickles_without_the_optimisers_state(tmp_path):
    net = make()
    net.fit(X, Y, epochs=2, optimizer=bp.Adam(ema=0.9))
    net.save(tmp_path / "all")
    net.save(tmp_path / "less", optimizer=False)
    loaded, copied = bp.load(tmp_path / "less"), pickle.loads(pickle.dumps(net.copy(optimizer=False)))
    for twin in (loaded, copied):
        assert twin.optimizer is None and not twin._model.memory.states
        assert (twin.theta == net.theta).all() and (twin.step, twin.epoch) == (net.step, net.epoch)
        twin.fit(X, Y, optimizer=bp.SGD(momentum=0.9))  # without a warning
    assert net.optimizer == bp.Adam(ema=0.9) and len(net._model.memory.states) == 3
    sizes = [(tmp_path / name).stat().st_size for name in ("all", "less")]
    assert sizes[0] - sizes[1] > 3 * net.theta.nbytes
    for method in (net.copy, lambda **settings: net.save(tmp_path / "less", **settings)):
        with pytest.raises(TypeError, match="optimizer: expected True or False"):
            method(optimizer=bp.Adam())


# ---- learning rates ----


@pytest.mark.parametrize("high", [10.0, 1e30])
def test_the_range_test_finds_a_rate_and_leaves_the_network_as_it_was(high):
    """Also where a rate makes the loss infinite."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((400, 3))
    B, net = A @ rng.standard_normal((3, 2)), make()
    net.fit(A, B, optimizer=bp.SGD(lr=0.001, momentum=0.5))
    before, epoch, optimizer = state_of(net), net.epoch, net.optimizer
    finder = bp.LearningRateFinder(1e-5, high)
    history = net.fit(A, B, epochs=100, batch_size=20, callbacks=finder)
    assert state_of(net) == before and net.epoch == epoch and net.optimizer == optimizer
    assert history.stopped_by == "callback"
    rates = np.array(finder.rates)
    assert len(rates) == len(finder.losses) <= 100 and rates[0] == 1e-5
    np.testing.assert_allclose(rates[1:] / rates[:-1], (high / 1e-5) ** (1 / 99))
    assert 1e-3 < finder.suggestion < 1  # 1e-5 learns nothing; above 1 the loss runs away
    assert finder.losses[-1] > 4 * min(finder.losses) or high > 10


@pytest.mark.filterwarnings("ignore:optimizer. SGD.* begins anew")
def test_it_leaves_the_optimiser_before_and_nothing_learnt():
    kinds = ({"optimizer": bp.Adam(0.01)}, {"optimizer": bp.SGD(0.02, momentum=0.9)}, {})  # another, the same, none
    for settings in kinds:
        net = bp.Network([bp.Input(3), bp.Standardize(), bp.Dense(5, "tanh"), bp.Dense(2)], dtype="float64", seed=1)
        if settings:
            net.fit(X, Y, standardize_y=True, **settings)
        twin = net.copy()
        net.fit(9 * X + 7, 50 * Y, optimizer=bp.SGD(0.01, momentum=0.9), epochs=50, standardize_y=True,
                callbacks=bp.LearningRateFinder(steps=20))  # fmt: skip
        assert net.step == twin.step and net.optimizer == twin.optimizer and state_of(net) == state_of(twin)
        assert net.moments.keys() == twin.moments.keys()
        for each in (net, twin):
            each.fit(3 * X, Y)
        assert state_of(net) == state_of(twin)


def test_losses_are_smoothed_without_bias_and_the_steepest_is_suggested():
    finder = bp.LearningRateFinder()
    net = make()
    net.fit(X, X[:, :2], batch_size=None, callbacks=finder, epochs=30)
    assert finder.losses[0] == pytest.approx(net.evaluate(X, X[:, :2])["loss"])
    finder.rates, finder.losses = [0.01, 0.1, 1.0, 10.0, 100.0], [1.0, 0.9, 0.1, 0.05, 5.0]
    assert finder.suggestion == 0.1
    finder.losses = [1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(ValueError, match="suggestion: expected a fit in which the loss fell at some rate, got a loss"):
        _ = finder.suggestion
    with pytest.raises(ValueError, match="got 0 steps"):
        _ = bp.LearningRateFinder().suggestion


def test_the_range_test_wants_a_rate_that_is_a_number():
    for optimizer in (bp.SGD(lr=bp.schedules.Step(0.1, every=3)), bp.LBFGS()):
        with pytest.raises(TypeError, match="callbacks: LearningRateFinder expects an optimiser whose lr is a number"):
            make().fit(X, Y, batch_size=None, optimizer=optimizer, callbacks=bp.LearningRateFinder())
    with pytest.raises(ValueError, match="high: expected"):
        bp.LearningRateFinder(1.0, 0.1)
