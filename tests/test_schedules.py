"""Schedules: their formulas, what lengths mean, the steps of `fit`, files; ReduceOnPlateau."""

import dataclasses
import json
import pickle
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import bpcore as bp
from bpcore.schedules import (
    Constant,
    Cosine,
    Epochs,
    Exponential,
    Function,
    InverseTime,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    Step,
)  # fmt: skip

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 9)).astype(np.float32)
Y = RNG.integers(0, 4, 150)
real = np.longdouble
PI = real("3.14159265358979323846264338327950288")


def halved(u):
    return 0.01 * 0.5 ** (u // 7)


def make(dtype="float32"):
    """A small net with Dropout and a frozen layer."""
    layers = [bp.Dense(30, "relu"), bp.Dense(8, "tanh", name="still"), bp.Dropout(0.1), bp.Dense(4, "softmax")]
    net = bp.Network([bp.Input(9), *layers], seed=5, dtype=dtype)
    net.frozen = {"still"}
    return net


def moved(net):
    """All that training moves."""
    memory = net._model.memory
    return [a.tobytes() for a in (net.theta, *memory.states)], net.step, net.epoch, memory.updates


def wave(a, b, u, m):
    """b + (a - b) * (1 + cos(pi u / m)) / 2, right to the last places also where long double is double."""
    return b + (a - b) * np.sin(PI / 2 * (m - min(u, m)) / m) ** 2


def cycles(u):
    """A cycle of 10 steps, one of 20, one of 40."""
    for first, steps in ((0, 10), (10, 20), (30, 40)):
        if u < first + steps:
            return wave(3.0, 0.5, u - first, real(steps))
    return real(0.5)


# Every schedule, with all of its settings and without, and its value u steps after the warm-up, one number at a time.
FORMULAS = {
    "constant": (Constant(0.3), lambda u: real(0.3)),
    "step": (Step(0.3, every=7, factor=0.7), lambda u: real(0.3) * real(0.7) ** (u // 7)),
    "exponential": (Exponential(0.3, length=50, factor=0.02),
                    lambda u: real(0.3) * real(0.02) ** (min(u, 50) / real(50))),
    "inverse time": (InverseTime(0.3, every=8), lambda u: real(0.3) / (1 + u / real(8))),
    "inverse root": (InverseTime(0.3, every=8, power=0.5), lambda u: real(0.3) / np.sqrt(1 + u / real(8))),
    "line": (Polynomial(0.3, length=50), lambda u: real(0.3) * (1 - min(u, 50) / real(50))),
    "cubic": (Polynomial(0.3, end=0.1, power=3, length=50),
              lambda u: real(0.1) + (real(0.3) - real(0.1)) * (1 - min(u, 50) / real(50)) ** 3),
    "cosine": (Cosine(0.3, length=50), lambda u: wave(real(0.3), real(0), u, real(50))),
    "restarts": (Cosine(3, end=0.5, length=70, cycles=3, growth=2), cycles),
    "one cycle": (OneCycle(0.3, length=50, warmup=0), lambda u: wave(real(0.3), real(0.3 / 250_000), u, real(50))),
    "piecewise": (Piecewise([0.3, 0.2, 0.5], [7, 20]), lambda u: real(0.3 if u < 7 else 0.2 if u < 20 else 0.5)),
    "function": (Function(halved), lambda u: real(0.01) * real(0.5) ** (u // 7)),
}  # fmt: skip
every_formula = pytest.mark.parametrize("schedule, formula", FORMULAS.values(), ids=FORMULAS)


@every_formula
def test_a_schedule_is_its_formula(schedule, formula):
    steps = np.arange(100)
    expected = np.array([formula(real(u)) for u in steps])
    values = schedule(steps)
    assert values.dtype == np.float64 and values.shape == (100,)
    np.testing.assert_allclose(values.astype(real), expected, rtol=1e-15, atol=0)
    assert schedule(steps.reshape(4, 25)).tobytes() == values.tobytes()
    assert schedule(33) == values[33] and isinstance(schedule(33), float)
    for first in range(1, 20):  # whatever lies beside a step
        assert np.array_equal(schedule(steps[first:]), values[first:])


@every_formula
def test_a_warm_up_is_a_line_to_the_first_value(schedule, formula):
    if hasattr(schedule, "length"):
        schedule = dataclasses.replace(schedule, length=schedule.length + 4)
    if isinstance(schedule, Piecewise):
        schedule = dataclasses.replace(schedule, boundaries=[b + 4 for b in schedule.boundaries])
    values = dataclasses.replace(schedule, warmup=4)(np.arange(100))
    if isinstance(schedule, OneCycle):
        start = schedule.start
        expected = [wave(real(start), real(0.3), u, real(4)) for u in range(4)]
    else:
        expected = [formula(real(0)) * (k + 1) / 5 for k in range(4)]
    expected += [formula(real(u)) for u in range(96)]
    np.testing.assert_allclose(values.astype(real), np.array(expected), rtol=1e-15, atol=0)


def test_every_schedule_is_in_the_list():
    kinds = {type(schedule) for schedule, _ in FORMULAS.values()}
    assert kinds == {getattr(bp.schedules, name) for name in bp.schedules.__all__} - {Schedule, Epochs}


def test_the_page_on_schedules_runs_and_has_them_all():
    text = (Path(__file__).parent.parent / "docs/schedules.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(snippet, "docs/schedules.md", "exec"), {})
    assert all(f"| `{type(schedule).__name__}(" in text for schedule, _ in FORMULAS.values())


def test_lengths_are_steps_shares_or_epochs():
    steps = np.arange(400)
    expected = Cosine(0.1, length=300, warmup=30)(steps)
    for length, warmup in ((1.0, 0.1), (Epochs(6), Epochs(0.6)), (300, 0.1), (1.0, 30)):
        schedule = Cosine(0.1, length=length, warmup=warmup)
        assert np.array_equal(schedule(steps, run=300, epoch=50), expected), schedule
    assert Step(1.0, every=1 / 3)(np.arange(7), run=6).tolist() == Step(1.0, every=2)(np.arange(7)).tolist()
    in_epochs = Piecewise([1, 2, 3], [Epochs(1), Epochs(2)])(np.arange(7), epoch=2)
    assert in_epochs.tolist() == [1, 1, 2, 2, 3, 3, 3] == Piecewise([1, 2, 3], [2, 4])(np.arange(7)).tolist()
    assert Cosine(1.0, length=1) != Cosine(1.0, length=1.0) and Cosine(1.0, warmup=0.0) == Cosine(1.0)
    assert Cosine(1e-3, warmup=5) == Cosine(0.001, warmup=5) and hash(Cosine(1)) == hash(Cosine(1.0))
    assert repr(Cosine(1e-3, warmup=Epochs(2))) == "Cosine(peak=0.001, warmup=Epochs(n=2.0))"


class Frame:
    """Like pandas.DataFrame: `fit` would keep the names of its columns."""

    columns = list("abcdefghi")

    def __array__(self, dtype=None, copy=None):
        return X


REFUSED = [
    (lambda: Cosine(0.1, length=100.0), "length: expected a share.*got 100.0; a number of steps is an int: length=100"),
    (lambda: Cosine(0.1, length=0), "length: expected an integer from 1"),
    (lambda: Cosine(0.1, warmup=-1), "warmup: expected an integer from 0"),
    (lambda: Cosine(0.1, warmup="5"), r"warmup: expected a number of steps \(int\), a share"),
    (lambda: Cosine(0.1, warmup=True), r"warmup: expected a number of steps \(int\), a share"),
    (lambda: Cosine("0.1"), "peak: expected a number"),
    (lambda: Cosine(0.1, cycles=0), "cycles: expected an integer from 1"),
    (lambda: Cosine(0.1, growth=0.5), "growth: expected a finite number"),
    (lambda: Epochs(0), "Epochs: expected a finite number"),
    (lambda: Step(0.1, factor=0), "factor: expected a finite number"),
    (lambda: Constant(float("nan")), "value: expected a finite number"),
    (lambda: Piecewise([1, 2], [3, 4]), "boundaries: expected one fewer than 2 values, got 2"),
    (lambda: Piecewise([1, 2, 3], [0.5, 0.5]), "boundaries: expected them to ascend"),
    (lambda: Piecewise([1, 2, 3], [5, 0.5])(1, run=6), r"boundaries: expected them to ascend, got \[5, 3\]"),
    (lambda: Piecewise(3, []), "values: expected a list"),
    (lambda: Function(3), "f: expected a function"),
    (lambda: Function(halved, name=3), "name: expected a string"),
    (lambda: Function(lambda u: u[:2])(np.arange(3)), r"Function: f\(u\): expected 3 real numbers"),
    (lambda: Cosine(0.1)(3), "length: 1.0 is a multiple of the run's steps, which are not known: give run="),
    (lambda: Step(0.1, every=Epochs(2))(3, run=9), "every: .* of the epoch's steps, which are not known: give epoch="),
    (lambda: Cosine(0.1, warmup=9)(3, run=9), "warmup: expected fewer steps than length, got 9 and 9"),
    (lambda: Cosine(0.1, cycles=10)(3, run=9), "cycles: expected at most as many as steps, 9, got 10"),
    (lambda: Constant(0.1)(-1), "steps: expected numbers from 0, got -1"),
    (lambda: Constant(0.1)("a"), "steps: expected real numbers"),
    (lambda: bp.SGD(momentum=Constant(1)), r"momentum: .*got 1.0, of Constant\(value=1.0\)"),
    (lambda: bp.Adam(eps=Polynomial(1e-8)), r"eps: expected a finite number in \(0, inf\), got 0.0, of Polynomial"),
    (lambda: bp.Adam(clip_norm=Constant(1)), "clip_norm: expected a number or None, it cannot be a schedule"),
    (lambda: bp.SGD(nesterov=Constant(1)), "nesterov: expected True or False"),
    (lambda: bp.LevenbergMarquardt(damping=Constant(1)), "damping: expected a number"),
]  # fmt: skip


@pytest.mark.parametrize("wrong, words", REFUSED, ids=[words for _, words in REFUSED])
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises((ValueError, TypeError), match=words):
        wrong()


@pytest.mark.parametrize(
    "lr, words",
    [
        (Cosine(0.1, warmup=10), "lr: warmup: expected fewer steps than length, got 10 and 10"),
        (Function(lambda u: 5 - u), r"lr: expected a finite number in \[0, inf\), got -4.0 at step 9, of Function"),
        (Function(lambda u: 1 / (u - u)), "lr: expected a finite number .* got (inf|nan) at step 0"),
    ],
)
def test_fit_refuses_before_anything_changes(lr, words):
    net = make()
    before = pickle.dumps(net)
    with pytest.raises(ValueError, match=words):
        net.fit(Frame(), Y, optimizer=bp.SGD(lr=lr), batch_size=15)
    assert pickle.dumps(net) == before


OPTIMIZERS = {
    "sgd": bp.SGD(lr=Cosine(0.1, length=25, warmup=3)),
    "sgd shares": bp.SGD(lr=Cosine(0.1, warmup=0.2, cycles=2)),
    "decay": bp.SGD(lr=0.1, weight_decay=Polynomial(0.1, length=20)),
    "momentum": bp.SGD(lr=OneCycle(0.1), momentum=OneCycle(0.5, start=0.9, end=0.9), nesterov=True),
    "momentum from 0": bp.SGD(lr=0.1, momentum=Piecewise([0.0, 0.9], [12])),
    "adam": bp.Adam(lr=Exponential(0.01, length=Epochs(2)), beta1=InverseTime(0.9, every=30), clip_norm=0.5),
    "rmsprop": bp.RMSprop(lr=Function(halved), eps=Step(1e-2, every=5), momentum=Constant(0.5, warmup=4)),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def at(optimizer, step, run=30, epoch=10):
    """It with plain numbers, those of one step."""
    numbers = {
        name: float(value(np.array([step]), run=run, epoch=epoch)[0])
        for name, value in vars(optimizer).items()
        if isinstance(value, Schedule)
    }
    return dataclasses.replace(optimizer, **numbers)


class Loop(bp.Callback):
    """What a schedule does, in Python: before each step its numbers."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def on_batch_end(self, state):
        following = at(self.optimizer, state.step)
        if len(following.states) == len(self.optimizer.states):  # momentum 0 would be an optimiser without velocity
            state.optimizer = following


@every_optimizer
@pytest.mark.parametrize("phase2", ["", "owners", "shards"])
def test_a_schedule_is_a_loop_that_sets_numbers(force, phase2, optimizer):
    """The same bits as a callback at each step, on any number of threads."""
    force(True, phase2)
    settings = {"batch_size": 15, "epochs": 3}
    looped = make()
    start = at(optimizer, 0)
    if optimizer is OPTIMIZERS["momentum from 0"]:  # a momentum so small that it vanishes
        start = dataclasses.replace(start, momentum=1e-300)
    history = looped.fit(X, Y, optimizer=start, callbacks=Loop(optimizer), n_threads=1, **settings)
    for n_threads in (1, 2, 3):
        net = make()
        scheduled = net.fit(X, Y, optimizer=optimizer, n_threads=n_threads, **settings)
        assert moved(net) == moved(looped) and scheduled.loss == history.loss
        assert scheduled.lr == [at(optimizer, step).lr for step in (9, 19, 29)]
        assert net._model.memory.optimizer is optimizer


@pytest.mark.parametrize("how", ["file", "pickle", "copy"])
@pytest.mark.parametrize("name", FORMULAS)
def test_five_epochs_twice_are_ten(how, name, tmp_path):
    """Every schedule whose lengths are steps or epochs."""
    schedule = FORMULAS[name][0]
    if hasattr(schedule, "length"):
        schedule = dataclasses.replace(schedule, length=Epochs(7.5), warmup=Epochs(1.5))
    if isinstance(schedule, Function):
        schedule = Function(halved, name="halved", warmup=2)
    whole, parts = make(), make()
    settings = {"optimizer": bp.Adam(lr=schedule, weight_decay=Constant(0.1, warmup=70)), "batch_size": 16}
    history = whole.fit(X, Y, epochs=10, **settings)
    losses = parts.fit(X, Y, epochs=5, **settings).loss
    if how == "file":
        parts.save(tmp_path / "net.safetensors")
        parts = bp.load(tmp_path / "net.safetensors", custom={"halved": Function(halved, warmup=2)})
    else:
        parts = pickle.loads(pickle.dumps(parts)) if how == "pickle" else parts.copy()
    again = parts.fit(X, Y, epochs=5, **settings)
    assert moved(parts) == moved(whole)
    assert [*losses, *again.loss] == history.loss and again.lr == history.lr[5:]


def test_shares_begin_with_each_fit_and_a_new_schedule_with_its_first():
    net = make()
    share, steps = bp.SGD(lr=Cosine(0.1)), bp.SGD(lr=Cosine(0.1, length=40))
    first, second = (net.fit(X, Y, optimizer=share, batch_size=15, epochs=2) for _ in range(2))
    assert first.lr == second.lr == Cosine(0.1, length=20)(np.array([9, 19])).tolist()
    assert net.fit(X, Y, optimizer=steps, batch_size=15, epochs=2).lr == steps.lr(np.array([9, 19])).tolist()
    assert net.fit(X, Y, optimizer=steps, batch_size=15, epochs=2).lr == steps.lr(np.array([29, 39])).tolist()
    assert net.fit(X, Y, optimizer=steps, batch_size=15).lr == [0.0]  # past its end
    other = bp.SGD(lr=Cosine(0.1, length=41))
    assert net.fit(X, Y, optimizer=other, batch_size=15).lr == [other.lr(np.arange(10))[9]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_the_midst_of_an_epoch_one_schedule_goes_on_and_another_begins(dtype, tmp_path):
    """At step 13 decay comes, which needs another plan, at 17 another lr; files and later fits remember both."""
    lr, other, decay = Cosine(0.1, length=60), Polynomial(0.2, length=50), Cosine(0.05, length=33, warmup=2)

    class Turn(bp.Callback):
        def on_batch_end(self, state):
            if state.step == 13:
                state.optimizer = dataclasses.replace(state.optimizer, weight_decay=decay)
            if state.step == 17:
                state.optimizer = dataclasses.replace(state.optimizer, lr=other)
                assert state.lr == lr(np.arange(20))[16]  # of the last step

    class Python(bp.Callback):
        def on_batch_end(self, state):
            k = state.step
            state.optimizer = bp.SGD(
                lr=float(lr(np.arange(50))[k] if k < 17 else other(np.arange(50))[k - 17]),
                weight_decay=float(decay(np.arange(50))[k - 13]) if k >= 13 else 0.0,
            )

    net, looped = make(dtype), make(dtype)
    net.fit(X, Y, optimizer=bp.SGD(lr=lr), batch_size=15, epochs=2, callbacks=Turn())
    net.save(tmp_path / "net")
    net = bp.load(tmp_path / "net")
    assert dict(net._model.memory.begun) == {"lr": 17, "weight_decay": 13}
    net.fit(X, Y, optimizer=bp.SGD(lr=other, weight_decay=decay), batch_size=15, epochs=2)
    looped.fit(X, Y, optimizer=bp.SGD(lr=0.1), batch_size=15, epochs=4, callbacks=Python())
    assert moved(net) == moved(looped)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": Cosine(0.1, length=5, cycles=6)}, "lr: cycles: expected at most as many as steps"),
        ({"weight_decay": Cosine(0.1, length=4, warmup=4)}, "weight_decay: warmup: expected fewer steps than length"),
    ],
)
def test_what_a_callback_puts_in_is_refused_with_nothing_changed(change, words):
    """Also where it would need another plan."""
    optimizer = bp.SGD(lr=Cosine(0.1, length=60))

    def turn(state):
        if state.epoch == 2:
            state.optimizer = dataclasses.replace(optimizer, **change)

    net, twin = make(), make()
    with pytest.raises(ValueError, match=words):
        net.fit(X, Y, optimizer=optimizer, batch_size=15, epochs=4, callbacks=turn)
    twin.fit(X, Y, optimizer=optimizer, batch_size=15, epochs=2)
    assert moved(net) == moved(twin) and net._model.memory.optimizer == optimizer
    for each in (net, twin):
        each.fit(X, Y, optimizer=optimizer, batch_size=15)
    assert moved(net) == moved(twin)


def test_values_out_of_range_are_refused_before_their_epoch_begins():
    net, twin = make(), make()
    with pytest.raises(ValueError, match=r"lr: expected a finite number .* got -0.004 at step 29, of Function"):
        net.fit(X, Y, optimizer=bp.SGD(lr=Function(lambda u: (25 - u) / 1000)), batch_size=15, epochs=4)
    twin.fit(X, Y, optimizer=bp.SGD(lr=Function(lambda u: (25 - u) / 1000)), batch_size=15, epochs=2)
    assert moved(net) == moved(twin)


@pytest.mark.parametrize("lr", [Cosine(0.05, length=45), Cosine(0.05), Step(0.05, every=Epochs(1))], ids=str)
def test_a_schedule_goes_back_with_what_is_restored(lr):
    """From a snapshot of step 4 at step 13, in the midst of the next epoch: the next steps are those after step 4."""

    class Back(bp.Callback):
        def __init__(self):
            self.rates, self.kept = [], None

        def on_batch_end(self, state):
            self.rates.append(state.lr)
            if len(self.rates) == 4:
                self.kept = state.snapshot()
            if len(self.rates) == 13:
                state.restore(self.kept)

    back = Back()
    net = make()
    net.fit(X, Y, optimizer=bp.SGD(lr=lr, momentum=0.9), batch_size=15, epochs=3, callbacks=back)
    expected = lr(np.arange(30), run=30, epoch=10).tolist()
    assert back.rates == [*expected[:13], *expected[4:21]] and net._model.memory.updates == 21


def test_the_best_epoch_comes_back_with_its_place_in_the_schedule():
    optimizer = bp.Adam(lr=Cosine(0.1, length=120, warmup=5))
    stopped, twin = make(), make()
    held_out = {"validation_data": (X[:50], RNG.permutation(Y[:50])), "batch_size": 15}
    history = stopped.fit(X, Y, optimizer=optimizer, epochs=12, callbacks=bp.EarlyStopping(patience=2), **held_out)
    best = 1 + int(np.argmin(history.val_loss))
    assert best < len(history.epoch) < 12
    twin.fit(X, Y, optimizer=optimizer, epochs=best, batch_size=15)
    for net in (stopped, twin):
        net.fit(X, Y, optimizer=optimizer, epochs=2, batch_size=15)
    assert moved(stopped) == moved(twin)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_steps_after_an_overflow_are_replayed_with_their_numbers(force, n_threads):
    force(n_threads > 1, "")
    optimizer = bp.SGD(lr=Piecewise([0.1, 1e-3, 1e45], [20, 137]), momentum=Cosine(0.9, length=200))
    net, twin = make(), make()
    data = np.tile(X, (20, 1)), np.tile(Y, 20)
    settings = {"optimizer": optimizer, "batch_size": 15, "shuffle": False, "n_threads": n_threads}
    with pytest.raises(bp.DivergenceError, match=r"Lower lr, which is 1e\+45"):
        net.fit(*data, **settings)
    assert 137 <= net.step < 200
    twin.fit(*(a[: 15 * net.step] for a in data), **settings)
    twin.epoch = net.epoch
    assert moved(net) == moved(twin)


def test_a_batch_without_weight_is_no_step():
    weight = np.ones(150)
    weight[30:75] = 0
    net, twin = make(), make()
    net.frozen = twin.frozen = set()
    optimizer = bp.SGD(lr=Exponential(0.1, length=30))
    settings = {"batch_size": 15, "shuffle": False}
    history = net.fit(X, Y, optimizer=optimizer, sample_weight=weight, epochs=2, **settings)
    assert net.step == 14 and history.lr == optimizer.lr(np.arange(20))[[6, 13]].tolist()
    twin.fit(X[weight > 0], Y[weight > 0], optimizer=optimizer, epochs=2, **settings)
    np.testing.assert_allclose(net.theta, twin.theta, rtol=1e-5, atol=1e-7)


def test_the_rate_of_the_last_step_is_what_state_and_history_say():
    seen = []

    class Rates(bp.Callback):
        def on_fit_begin(self, state):
            seen.append(state.lr)

        def on_batch_end(self, state):
            seen.append(state.lr)

        def on_epoch_end(self, state):
            assert state.lr == seen[-1]

    lr = OneCycle(0.1)
    history = make().fit(X, Y, optimizer=bp.SGD(lr=lr), batch_size=15, epochs=2, callbacks=Rates())
    rates = lr(np.arange(20), run=20).tolist()
    assert seen == [rates[0], *rates] and history["lr"] == [rates[9], rates[19]]
    assert make().fit(X, Y, optimizer=bp.Adam(lr=0.25), epochs=2).lr == [0.25, 0.25]


# ---- files ----


def saved(net, path):
    """A file's format, and what it says of training."""
    from safetensors import safe_open

    net.save(path)
    with safe_open(path, framework="numpy") as file:
        return file.metadata()["bpcore_format"], json.loads(file.metadata()["training"])


def test_files_say_schedules_by_kind_and_numbers(tmp_path):
    kinds = [schedule for schedule, _ in FORMULAS.values() if not isinstance(schedule, Function)]
    kinds += [Cosine(1e-3, length=Epochs(20), warmup=0.1), Piecewise([0.1, 0.2], [Epochs(3)]), Cosine(0.1, length=1)]
    for schedule in kinds:
        net = make()
        net.fit(X, Y, optimizer=bp.SGD(lr=dataclasses.replace(schedule, warmup=0) if schedule.warmup else schedule))
        net._model.memory = net._model.memory._replace(optimizer=bp.SGD(lr=schedule))
        version, training = saved(net, tmp_path / "net")
        assert version == "2" and "begun" not in training
        assert bp.load(tmp_path / "net")._model.memory.optimizer == bp.SGD(lr=schedule)
    assert training["optimizer"]["lr"] == {
        "kind": "cosine", "warmup": 0, "peak": 0.1, "end": 0.0, "length": 1, "cycles": 1, "growth": 1.0,
    }  # fmt: skip


def test_a_function_is_given_back_by_name(tmp_path):
    net = make()
    net.fit(X, Y, optimizer=bp.SGD(lr=Function(halved)))
    with pytest.raises(ValueError, match=r"a schedule of your own needs a name: bp.schedules.Function\(f, name="):
        net.save(tmp_path / "net")
    net.fit(X, Y, optimizer=bp.SGD(lr=Function(halved, name="halved")))
    net.save(tmp_path / "net")
    for custom in (None, {"halved": halved}):
        with pytest.raises(ValueError, match=r"uses the schedule 'halved' of your own; give it back by custom="):
            bp.load(tmp_path / "net", custom=custom)
    loaded = bp.load(tmp_path / "net", custom={"halved": Function(halved)})
    assert loaded._model.memory.optimizer == bp.SGD(lr=Function(halved, name="halved"))


HOSTILE = [
    {"lr": {"kind": "sine"}}, {"lr": {"kind": ["cosine"]}}, {"lr": {}}, {"lr": []}, {"lr": {"kind": "cosine"}},
    {"lr": {"kind": "cosine", "peak": "1"}}, {"lr": {"kind": "cosine", "peak": 1, "extra": 1}},
    {"lr": {"kind": "cosine", "peak": 1, "length": {"epochs": "x"}}}, {"lr": {"kind": "cosine", "peak": 10**400}},
    {"lr": {"kind": "cosine", "peak": 1, "cycles": 10**9}},
    {"lr": {"kind": "piecewise", "values": 3, "boundaries": []}},
    {"lr": {"kind": "piecewise", "values": [1, 2], "boundaries": [{"epochs": 1, "more": 1}]}},
    {"lr": {"kind": "function", "f": "os.system"}}, {"lr": {"kind": "function", "custom": 3}},
    {"momentum": {"kind": "constant", "value": 2.0}}, {"nesterov": {"kind": "constant", "value": 1.0}},
    {"clip_norm": {"kind": "constant", "value": 1.0}},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_damaged_settings_are_refused(change):
    from bpcore import _optimizers

    settings = {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, **change}
    with pytest.raises(ValueError, match=r"optimizer:|schedule:|expected"):
        try:
            _optimizers.from_json(settings, {})
        except TypeError as error:
            raise ValueError(f"optimizer: {error}") from None  # as _io does


@pytest.mark.parametrize("begun", [{"lr": -1}, {"lr": 6}, {"lr": 1.0}, {"lr": True}, {"momentum": 1}, {"x": 1}, [1]])
def test_damaged_counts_are_refused(begun):
    from bpcore import _io, _optimizers

    settings = _optimizers.to_json(bp.SGD(lr=Constant(0.1)))
    training = {"seed": 0, "step": 5, "epoch": 1, "updates": 5, "optimizer": settings}
    _io.optimizer_of("net", {**training, "begun": {"lr": 5}}, {})
    with pytest.raises(ValueError, match="begun: expected"):
        _io.optimizer_of("net", {**training, "begun": begun}, {})


# ---- ReduceOnPlateau ----


def keras(losses, lr, factor, patience, min_delta, cooldown, min_lr):
    """Keras 3's ReduceLROnPlateau.on_epoch_end, line by line: lr after each epoch."""
    best, wait, counter, rates = np.inf, 0, 0, []
    for current in losses:
        if counter > 0:
            counter -= 1
            wait = 0
        if current < best - min_delta:
            best = current
            wait = 0
        elif not counter > 0:
            wait += 1
            if wait >= patience and lr > min_lr:
                lr = max(lr * factor, min_lr)
                counter = cooldown
                wait = 0
        rates.append(lr)
    return rates


@pytest.mark.parametrize("settings", [
    {}, {"patience": 2}, {"patience": 1, "factor": 0.5, "cooldown": 3}, {"patience": 0, "min_delta": 0.5},
    {"patience": 3, "min_delta": 0.0, "min_lr": 3e-3, "factor": 0.3}, {"patience": 1, "cooldown": 1, "min_lr": 1.0},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("seed", range(5))
def test_reduce_on_plateau_does_as_keras_does(settings, seed):
    losses = np.random.default_rng(seed).integers(0, 20, 60) / 10 + np.linspace(1, 0, 60)
    losses[7] = np.nan
    callback = bp.ReduceOnPlateau(**settings)
    history = bp.History()
    state = bp._callbacks.State(None, history, optimizer=bp.Adam(lr=0.1))
    callback.on_fit_begin(state)
    rates = []
    for loss in losses:
        history.val_loss.append(loss)
        history._show()
        callback.on_epoch_end(state)
        rates.append(state.lr)
    default = {"factor": 0.1, "patience": 10, "min_delta": 1e-4, "cooldown": 0, "min_lr": 0.0}
    assert rates == keras(losses, 0.1, **{**default, **settings})


def test_reduce_on_plateau_keeps_the_memory_and_watches_accuracy():
    net = make()
    settings = {"batch_size": 15, "epochs": 8, "validation_data": (X, Y)}
    callback = bp.ReduceOnPlateau("val_accuracy", patience=2, factor=0.5)
    history = net.fit(X, Y, optimizer=bp.Adam(lr=1e-9), callbacks=callback, **settings)
    assert history.lr == [1e-9, 1e-9, 1e-9, 5e-10, 5e-10, 2.5e-10, 2.5e-10, 1.25e-10]
    assert net._model.memory.updates == 80 and net._model.memory.optimizer.lr == 1.25e-10


def test_reduce_on_plateau_refuses_what_it_cannot_change():
    net = bp.Network([bp.Input(9), bp.Dense(1)])
    for optimizer, got in ((bp.Adam(lr=Cosine(0.1)), "lr=Cosine"), (bp.LevenbergMarquardt(), ".*, which has none")):
        with pytest.raises(TypeError, match=f"ReduceOnPlateau expects an optimiser whose lr is a number, got {got}"):
            net.fit(X, X[:, :1], optimizer=optimizer, batch_size=None, callbacks=bp.ReduceOnPlateau("loss"))
    with pytest.raises(ValueError, match="ReduceOnPlateau watches val_loss, and there is only loss; give fit"):
        make().fit(X, Y, callbacks=bp.ReduceOnPlateau())
    for wrong in ({"factor": 1.0}, {"factor": 0}, {"patience": -1}, {"monitor": 1}, {"min_lr": -1}):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            bp.ReduceOnPlateau(**wrong)


# ---- pictures ----


class Axes:
    """What `plot` uses of matplotlib's."""

    def plot(self, t, values, label):
        self.t, self.values, self.label = t, values, label

    def set_xlabel(self, label):
        self.xlabel = label


@pytest.mark.parametrize("steps, points", [(1, 1), (300, 300), (1_000_001, 2000)])
def test_a_picture_has_the_values(steps, points):
    ax, schedule = Axes(), Cosine(3e-3, warmup=Epochs(0.5)) if steps > 1 else Constant(3e-3)
    assert schedule.plot(steps, epoch=20, ax=ax) is ax and ax.label == repr(schedule) and ax.xlabel == "step"
    assert ax.t[0] == 0 and ax.t[-1] == steps - 1 and len(ax.t) == points
    np.testing.assert_array_equal(ax.values, schedule(ax.t, run=steps, epoch=20))
    assert Cosine(1.0).plot(50, run=100, ax=Axes()).values[-1] == Cosine(1.0)(49, run=100)


def test_a_picture_needs_matplotlib(monkeypatch):
    """That it is there is no matter of bpcore's: what is missing is said with the cure."""
    made = types.SimpleNamespace(subplots=lambda: (None, Axes()))
    monkeypatch.setitem(sys.modules, "matplotlib", types.SimpleNamespace(pyplot=made))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", made)
    assert isinstance(Constant(1.0).plot(3), Axes)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'bpcore\[plot\]'"):
        Constant(1.0).plot(3)
    for steps in (0, 1.5):
        with pytest.raises((ValueError, TypeError), match="steps: expected"):
            Constant(1.0).plot(steps, ax=Axes())
    with pytest.raises(ValueError, match="epoch"):
        Step(1.0, every=Epochs(1)).plot(3, ax=Axes())
