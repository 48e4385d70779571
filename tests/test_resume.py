"""Runs that survive: what a Checkpoint keeps is enough for the bits of a run that was never stopped."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fitting import state_of
from test_callback_files import disk_of
from test_validation_split import columns

import bpcore as bp
from bpcore import _io, _resume

PAGE = Path(__file__).parent.parent / "docs/run.md"
RNG = np.random.default_rng(7)
X = RNG.standard_normal((46, 3))
Y = RNG.standard_normal((46, 2))
KILLS = 200 if os.environ.get("BPCORE_COMPLETE") else 3  # where CI runs, 200


def make(**settings):
    layers = [bp.Input(3), bp.Dense(6, "tanh"), bp.Dropout(0.3), bp.Dense(2)]
    return bp.Network(layers, **{"seed": 3, "dtype": "float64", **settings})


class Halve(bp.Callback):
    """Halves lr every so many batches, and takes the rows in another order from then on."""

    every = 3

    def on_batch_end(self, state):
        state.optimizer = replace(state.optimizer, lr=state.optimizer.lr / 2)
        state.order = np.random.default_rng(state.step).permutation(46)


class Counts(bp.Callback):
    """Keeps arrays of its own, which decide when it stops."""

    def on_fit_begin(self, state):
        self.losses, self.seen = np.zeros(0), {"batches": 0}

    def on_batch_end(self, state):
        self.seen["batches"] += 1
        self.losses = np.append(self.losses, state.loss)

    def to_save(self):
        return {"losses": self.losses, "seen": self.seen, "more": [None, 1.5, "words", (np.float64(2.0), np.arange(3))]}

    def on_resume(self, state, saved):
        self.losses, self.seen = saved["losses"], saved["seen"]
        assert saved["more"][:3] == [None, 1.5, "words"] and saved["more"][3][1].tolist() == [0, 1, 2]


CASES = {
    "plain": lambda: {"optimizer": bp.SGD(lr=0.05)},
    "memory": lambda: {"optimizer": bp.Adam(lr=0.01, ema=0.9, clip_norm=1.0), "l2": 1e-3},
    "schedules": lambda: {"optimizer": bp.AdamW(lr=bp.schedules.OneCycle(0.02, warmup=0.3),
                                                weight_decay=bp.schedules.Step(0.1, every=4))},
    "callbacks": lambda: {
        "optimizer": bp.SGD(lr=0.05, momentum=0.9), "validation_split": 0.2, "metrics": "r2",
        "callbacks": [bp.EarlyStopping(patience=1), bp.ReduceOnPlateau(patience=0, factor=0.5)],
    },
    "batches": lambda: {"optimizer": bp.SGD(lr=0.05, momentum=0.9), "callbacks": [Halve(), Counts()]},
    "weights": lambda: {"sample_weight": np.r_[np.zeros(16), np.linspace(0.5, 2, 30)], "shuffle": False},
    "order": lambda: {"callbacks": [lambda state: setattr(state, "order", np.arange(46)[::-1])]},
    "batch norm": lambda: {
        "validation_split": 0.2, "optimizer": bp.SGD(lr=0.5, momentum=0.9), "callbacks": [bp.EarlyStopping(patience=1)],
    },
    "full batch": lambda: {"optimizer": bp.Rprop(), "batch_size": None},
    "mixup": lambda: {"mixup": 0.4, "sample_weight": np.linspace(0.5, 2, 46)},
    "moments": lambda: {"standardize_y": True, "validation_split": 0.2},
    "schedule free": lambda: {
        "validation_split": 0.2, "callbacks": [bp.EarlyStopping(patience=1)],
        "optimizer": bp.ScheduleFree(bp.AdamW(lr=bp.schedules.Constant(0.05, warmup=5))),
    },
}  # fmt: skip
SETTINGS = {"epochs": 4, "batch_size": 8, "loss": "mse"}
HIDDEN = {"full batch": [], "batch norm": [bp.BatchNorm()]}  # what is behind the hidden layer, instead of Dropout


def network(case):
    first = [bp.Standardize()] if case == "moments" else []
    layers = [bp.Input(3), *first, bp.Dense(6, "tanh"), *HIDDEN.get(case, [bp.Dropout(0.3)]), bp.Dense(2)]
    return bp.Network(layers, dtype="float64", seed=3)


def fit(net, case, *more, **settings):
    own = {**SETTINGS, **CASES[case](), **settings}
    return net.fit(X, Y, **{**own, "callbacks": [*own.get("callbacks", []), *more]}), own


def facts(net, history):
    memory = net._model.memory
    moments = [(a.mean.tobytes(), a.scale.tobytes()) for a in net._model.moments.values()]
    kept = state_of(net), net._model.state.tobytes(), net.epoch, moments
    return *kept, memory.optimizer, memory.begun, columns(history), history.stopped_by


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_cut_at_any_step_has_the_bits_of_one_that_was_not(case, tmp_path):
    whole = network(case)
    want = facts(whole, fit(whole, case)[0])
    for k in range(1, whole.step + 6, 5 if case == "weights" else 4):
        path = tmp_path / f"{k}.safetensors"
        fit(network(case), case, bp.Checkpoint(path), max_steps=k)
        net = network(case)
        net.theta[:] = net._model.state[:] = 9.0  # all of it comes from the file
        history, _ = fit(net, case, bp.Checkpoint(path), resume=path)
        assert facts(net, history) == want, k
        again = network(case)  # of a run that is over
        assert facts(again, fit(again, case, bp.Checkpoint(path), resume=path)[0])[:-1] == want[:-1]
        loaded = bp.load(path)
        assert loaded.step >= min(k, whole.step) and loaded.n_params == net.n_params


def test_what_callbacks_keep_comes_back(tmp_path):
    path, whole, part = tmp_path / "run", Counts(), Counts()
    make().fit(X, Y, callbacks=whole, **SETTINGS)
    make().fit(X, Y, callbacks=[Counts(), bp.Checkpoint(path)], max_steps=11, **SETTINGS)
    make().fit(X, Y, callbacks=[part], resume=path, **SETTINGS)
    assert part.seen == whole.seen == {"batches": 24} and (part.losses == whole.losses).all()

    class Wrong(bp.Callback):
        def to_save(self):
            return {"a": {1, 2}}

    with pytest.raises(TypeError, match="callbacks: expected to_save to return numbers, .*got {1, 2} of type set"):
        make().fit(X, Y, callbacks=[Wrong(), bp.Checkpoint(path)])


def test_logs_and_the_best_network_of_a_resumed_run(tmp_path):
    def callbacks(folder):
        folder.mkdir(exist_ok=True)
        return [bp.CSVLogger(folder / "log.csv"), bp.ModelCheckpoint(folder / "best")]

    settings = {**SETTINGS, "epochs": 9, "validation_split": 0.3}
    make().fit(X, Y, callbacks=callbacks(tmp_path / "a"), **settings)
    keep = bp.Checkpoint(tmp_path / "run")
    make().fit(X, Y, callbacks=[*callbacks(tmp_path / "b"), keep], max_steps=22, **settings)
    make().fit(X, Y, callbacks=callbacks(tmp_path / "b"), resume=tmp_path / "run", **settings)
    (a, b) = (bp.load(tmp_path / name / "best") for name in "ab")
    assert state_of(a) == state_of(b) and a.epoch == b.epoch
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in "ab"]
    assert len(logs[0]) == 10 and [line.split(",")[:3] for line in logs[0]] == [line.split(",")[:3] for line in logs[1]]


def test_a_second_fit_of_a_network_is_a_run_too(tmp_path):
    def begun():
        net = make()
        net.fit(X, Y, epochs=2, optimizer=bp.Adam())
        return net

    nets = begun(), begun(), make()
    want = nets[0].fit(X, Y, epochs=3, optimizer=bp.Adam())
    nets[1].fit(X, Y, epochs=3, optimizer=bp.Adam(), callbacks=bp.Checkpoint(tmp_path / "run"), max_steps=3)
    got = nets[2].fit(X, Y, epochs=3, optimizer=bp.Adam(), resume=tmp_path / "run")
    assert facts(nets[2], got) == facts(nets[0], want) and got.epoch == [3, 4, 5]


def test_what_is_printed_goes_on_too(tmp_path, capsys):
    settings = {**SETTINGS, "callbacks": bp.Checkpoint(tmp_path / "run")}
    make().fit(X, Y, max_steps=9, **settings)
    make().fit(X, Y, resume=tmp_path / "run", verbose=2, **settings)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 2/4", "epoch 3/4", "epoch 4/4"]


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    path, nets = tmp_path / "run", (make(), make())
    want = nets[0].fit(X, Y, **{**SETTINGS, "epochs": 6})
    make().fit(X, Y, callbacks=bp.Checkpoint(path), **SETTINGS)
    got = nets[1].fit(X, Y, resume=path, **{**SETTINGS, "epochs": 6})
    assert facts(nets[1], got) == facts(nets[0], want)
    with pytest.raises(ValueError, match="epochs: expected at least the 4 that the run of .* has made, got 3"):
        make().fit(X, Y, resume=path, **{**SETTINGS, "epochs": 3})


# ---- files ----


def test_how_often_and_how_many(tmp_path, monkeypatch):
    written = []
    saved = _io.save_run
    monkeypatch.setattr(_io, "save_run", lambda model, *rest: (written.append(model.step), saved(model, *rest)))
    path = tmp_path / "run"
    wait = bp.Checkpoint(path, every=2, keep=3)
    make().fit(X, Y, callbacks=[lambda state: wait.finish(), wait], **{**SETTINGS, "epochs": 7})
    assert written == [12, 24, 36, 42] and sorted(os.listdir(tmp_path)) == ["run", "run.1", "run.2"]
    assert [bp.load(tmp_path / name).epoch for name in ("run", "run.1", "run.2")] == [7, 6, 4]
    now, steps = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Clock(bp.Callback):
        def on_batch_end(self, state):
            now[0] += 1.0
            wait.finish()
            steps.append(state.step)

    written.clear()
    wait = bp.Checkpoint(tmp_path / "other", every="4 s", keep=1)
    make().fit(X, Y, callbacks=[Clock(), wait], **SETTINGS)
    assert written[0] == 4 and len(written) >= 6 and written[-1] == 24 and not os.path.exists(tmp_path / "other.1")
    assert set(written) - {4, 8, 12, 16, 20, 24} == set()


def test_the_files_of_another_run_are_not_the_one_before(tmp_path):
    path = tmp_path / "run"
    make().fit(X, Y, callbacks=bp.Checkpoint(path), **SETTINGS)
    assert sorted(os.listdir(tmp_path)) == ["run", "run.1"]
    make(seed=9).fit(X, Y, callbacks=bp.Checkpoint(path), **{**SETTINGS, "epochs": 1})
    assert os.listdir(tmp_path) == ["run"]


DAMAGE = {
    "torn": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit": lambda content: content[:-20] + bytes([content[-20] ^ 4]) + content[-19:],
    "a number": lambda content: content.replace(b'\\"updates\\"', b'\\"upDates\\"', 1),
    "zeros": lambda content: bytes(len(content)),
    "header": lambda content: content[:40] + b"\xff" + content[41:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_of_a_damaged_file_the_one_before_is_used_and_that_is_said(kind, tmp_path):
    path, whole = tmp_path / "run", make()
    want = facts(whole, whole.fit(X, Y, **SETTINGS))
    make().fit(X, Y, callbacks=bp.Checkpoint(path), max_steps=18, **SETTINGS)
    assert bp.load(path).step == 18 and bp.load(f"{path}.1").step < 18
    good, content = path.read_bytes(), DAMAGE[kind](path.read_bytes())
    assert content != good
    path.write_bytes(content)
    net = make()
    with pytest.warns(UserWarning, match=rf"resume: load: '{path}' is not .*; the run goes on from '{path}.1'"):
        history = net.fit(X, Y, callbacks=bp.Checkpoint(path), resume=path, **SETTINGS)
    assert facts(net, history) == want
    _io.load_run(f"{path}.1")  # what was damaged is not kept
    for name in (path, tmp_path / "run.1"):
        name.write_bytes(content)
    with pytest.raises(ValueError, match=rf"resume: .*'{path}.1' is not .*; move it away to begin anew"):
        make().fit(X, Y, resume=path, **SETTINGS)
    with pytest.raises(ValueError):
        bp.load(path)


def test_a_kill_between_two_renames_leaves_the_file_before(tmp_path):
    path, net, whole = tmp_path / "run", make(), make()
    make().fit(X, Y, callbacks=bp.Checkpoint(path), max_steps=18, **SETTINGS)
    os.unlink(path)
    net.fit(X, Y, callbacks=bp.Checkpoint(path), resume=path, **SETTINGS)
    whole.fit(X, Y, **SETTINGS)
    assert state_of(net) == state_of(whole)


def test_a_file_that_is_not_there_begins_the_run(tmp_path):
    nets = make(), make()
    for path in (tmp_path / "run", tmp_path / "no" / "folder"):
        net = make()
        assert net.fit(X, Y, resume=path, **SETTINGS).epoch == [1, 2, 3, 4]
    nets[0].fit(X, Y, **SETTINGS)
    assert state_of(net) == state_of(nets[0])


OTHER = {
    "X has other numbers": {"X": X + 1e-9 * (np.arange(3) == 1)},
    "y has shape .46, 2. and dtype float64 there, .46, 2. and float32 here": {"y": Y.astype("f4")},
    "X has shape .46, 3. and dtype float64 there, .45, 3. and float64 here": {"X": X[:45], "y": Y[:45]},
    "there is no weights there": {"sample_weight": np.ones(46)},
    "loss is .*MeanSquaredError.* there, and .*Huber": {"loss": "huber"},
    "optimizer is .*'lr': 0.01.* there, and .*'lr': 0.02": {"optimizer": bp.SGD(lr=0.02)},
    "batch_size is 8 there, and 9 here": {"batch_size": 9},
    "shuffle is True there, and False here": {"shuffle": False},
    "seed is 3 there, and 4 here": {"seed": 4},
    "l2 is 0.0 there, and 0.1 here": {"l2": 0.1},
    "layer dense_1 is .*'units': 6.* there, and .*'units': 7": {"layers": [bp.Dense(7, "tanh"), bp.Dense(2)]},
    "layer dense_2 is .*'dense_1'.* there, and .*'dropout_1'": {
        "layers": [bp.Dense(6, "tanh"), bp.Dropout(0.3), bp.Dense(2)]},
    "callbacks that keep something are .. there, and .'EarlyStopping'. here; call fit as": {
        "callbacks": bp.EarlyStopping("loss")},
    "callbacks that look at batches are .. there, and .'Halve'. here; call fit as": {"callbacks": Halve()},
    "metrics are .. there, and .'mae'. here": {"metrics": "mae", "train_metrics": True},
}  # fmt: skip


@pytest.mark.parametrize("words", OTHER)
def test_a_file_of_another_run_is_refused_by_what_differs(words, tmp_path):
    def plain(layers=None):
        return bp.Network([bp.Input(3), *(layers or [bp.Dense(6, "tanh"), bp.Dense(2)])], seed=3)

    path, changed = tmp_path / "run", dict(OTHER[words])
    plain().fit(X, Y, callbacks=bp.Checkpoint(path), **SETTINGS)
    net = plain(changed.pop("layers", None))
    before = state_of(net)
    with pytest.raises(ValueError, match=f"resume: '.*' is of another run: {words}"):
        net.fit(changed.pop("X", X), changed.pop("y", Y), resume=path, **{**SETTINGS, **changed})
    assert state_of(net) == before and net.epoch == 0


def test_other_versions_schedules_and_files(tmp_path, monkeypatch):
    path, optimizer = tmp_path / "run", bp.SGD(lr=bp.schedules.Cosine(0.1))
    make().fit(X, Y, optimizer=optimizer, callbacks=bp.Checkpoint(path), max_steps=7, **SETTINGS)
    with pytest.raises(ValueError, match="epochs is 4 there, and 5 here"):  # the schedule's length is a share of them
        make().fit(X, Y, optimizer=optimizer, resume=path, **{**SETTINGS, "epochs": 5})
    monkeypatch.setattr(_resume, "__version__", "99.0")
    with pytest.raises(ValueError, match="bpcore is .* there, and 99.0 here"):
        make().fit(X, Y, optimizer=optimizer, resume=path, **SETTINGS)
    make().save(path)
    with pytest.raises(ValueError, match="resume: expected a file that bp.Checkpoint wrote, and .* is none"):
        make().fit(X, Y, resume=path, **SETTINGS)
    with pytest.raises(IsADirectoryError):
        make().fit(X, Y, resume=tmp_path)
    with pytest.raises(TypeError, match="path: expected a file name"):
        make().fit(X, Y, resume=3)


def test_networks_that_no_file_can_hold_and_methods_that_keep_more(tmp_path):
    own = bp.Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2)
    net = bp.Network([bp.Input(3), bp.Dense(2, own)])
    with pytest.raises(ValueError, match="an activation of your own needs a name"):
        net.fit(X, Y, callbacks=bp.Checkpoint(tmp_path / "run"))
    assert net.step == 0
    plain = bp.Network([bp.Input(3), bp.Dense(2)])
    for settings in ({"callbacks": bp.Checkpoint(tmp_path / "run")}, {"resume": tmp_path / "run"}):
        with pytest.raises(ValueError, match="optimizer: LBFGS keeps more than a file has"):
            plain.fit(X, Y, optimizer=bp.LBFGS(), batch_size=None, **settings)
    with pytest.raises(ValueError, match="callbacks: bp.Checkpoint keeps the fit of one network"):
        bp.fit_many([plain], X, Y, callbacks=bp.Checkpoint(tmp_path / "run"))
    with pytest.raises(TypeError, match="resume: net.fit has it"):
        bp.fit_many([plain], X, Y, resume=tmp_path / "run")
    for settings, error in (({"every": 0}, "every: "), ({"every": "soon"}, "every: "), ({"keep": 0}, "keep: ")):
        with pytest.raises(ValueError, match=error):
            bp.Checkpoint(tmp_path / "run", **settings)
    assert not os.listdir(tmp_path)


def test_functions_of_ones_own_come_back_by_name(tmp_path):
    def make():
        own = bp.Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2, name="mine")
        return bp.Network([bp.Input(3), bp.Dense(4, own), bp.Dense(2)], seed=1)

    optimizer = bp.SGD(lr=bp.schedules.Function(lambda u: 0.1 / (1 + u), name="mine"))
    settings = {"optimizer": optimizer, "epochs": 3, "loss": bp.Loss(
        lambda a, y: ((a - y) ** 2).sum(axis=1), lambda a, y: 2 * (a - y), name="own")}  # fmt: skip
    whole, net, path = make(), make(), tmp_path / "run"
    want = whole.fit(X, Y, **settings)
    make().fit(X, Y, callbacks=bp.Checkpoint(path), max_steps=3, **settings)
    assert facts(net, net.fit(X, Y, resume=path, **settings)) == facts(whole, want)


def test_a_full_disk_warns_and_training_goes_on(tmp_path, monkeypatch):
    path, nets = tmp_path / "run", (make(), make())
    with disk_of(2000), pytest.warns(UserWarning, match="callbacks: Checkpoint could not write, .*File too large") as w:
        nets[0].fit(X, Y, callbacks=bp.Checkpoint(path), **SETTINGS)
    nets[1].fit(X, Y, **SETTINGS)
    assert len(w) == 1 and state_of(nets[0]) == state_of(nets[1]) and not os.listdir(tmp_path)
    make().fit(X, Y, callbacks=bp.Checkpoint(path), max_steps=7, **SETTINGS)
    before = path.read_bytes()

    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.warns(UserWarning, match="Checkpoint could not write, .*No space left"):
        make().fit(X, Y, callbacks=bp.Checkpoint(path), resume=path, **SETTINGS)
    assert path.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["run", "run.1"]
    for wrong, error in ((tmp_path, IsADirectoryError), (tmp_path / "no" / "run", FileNotFoundError)):
        with pytest.raises(error):
            make().fit(X, Y, callbacks=bp.Checkpoint(wrong))


def test_an_exception_leaves_the_file_before_and_no_thread(tmp_path):
    path, net, whole = tmp_path / "run", make(), make()

    def interrupt(state):
        if state.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, callbacks=[interrupt, bp.Checkpoint(path)], **SETTINGS)
    assert bp.load(path).epoch in (1, 2)  # the thread may be writing the first when the second is due
    net.fit(X, Y, resume=path, **SETTINGS)
    whole.fit(X, Y, **SETTINGS)
    assert state_of(net) == state_of(whole)


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import bpcore as bp

X = np.random.default_rng(0).standard_normal((4000, 8))
net = bp.Network([bp.Input(8), bp.Dense(16, "tanh"), bp.Dropout(0.2), bp.Dense(1)], seed=5)
path = sys.argv[1]
net.fit(X, X[:, :1] * X[:, 1:2], optimizer=bp.Adam(lr=bp.schedules.Cosine(0.01), ema=0.99), epochs={epochs},
        batch_size=16, validation_split=0.1, resume=path,
        callbacks=[bp.EarlyStopping(patience=1000), bp.Checkpoint(path, every="0.002 s")])
net.save(path + ".done")
"""


def test_a_run_that_is_killed_again_and_again_has_the_bits_of_one_that_was_not(tmp_path, monkeypatch):
    """SIGKILL at random moments, most of them in the midst of an epoch and of writing; the run goes on each time."""
    program = PROGRAM.format(epochs=150 if KILLS < 10 else 1500, folder=os.path.dirname(os.path.dirname(bp.__file__)))
    run, whole = (str(tmp_path / name) for name in ("run", "whole"))
    rng, kills = np.random.default_rng(), 0
    monkeypatch.setattr(sys, "argv", ["program", whole])
    exec(program, {})
    while not os.path.exists(run + ".done"):
        process = subprocess.Popen([sys.executable, "-c", program, run])
        end, before = time.monotonic() + 600, os.path.exists(run) and os.stat(run).st_mtime_ns
        while kills < KILLS and process.poll() is None and time.monotonic() < end:
            if os.path.exists(run) and os.stat(run).st_mtime_ns != before:  # it has begun to write
                time.sleep(rng.uniform(0, 0.05 if KILLS < 10 else 0.005))
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.wait(600)
    a, b = (bp.load(path + ".done") for path in (run, whole))
    assert state_of(a) == state_of(b) and a.epoch == b.epoch and kills > 0
    assert not os.path.exists(run + ".2")


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, PAGE, "exec"), names)  # they assert for themselves
    assert capsys.readouterr().out.startswith("History of 3 epochs\nepoch ")
