"""What holds for every optimiser: its rule, its bits, what an overflow undoes, files, changes between steps."""

import dataclasses
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import reference as ref
from conftest import distance, flat, oracle
from optimizers import OPTIMIZERS, changed, every_optimizer, move, settle

import bpcore as bp
from bpcore import _core, _optimizers

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 9)).astype(np.float32)
Y = RNG.integers(0, 4, 150)


def make(dtype="float32", **settings):
    """A small net with Dropout and a frozen layer."""
    layers = [bp.Dense(30, "relu"), bp.Dense(8, "tanh", name="still"), bp.Dropout(0.1), bp.Dense(4, "softmax")]
    net = bp.Network([bp.Input(9), *layers], seed=5, dtype=dtype, **settings)
    net.frozen = {"still"}
    return net


def moved(net):
    """All that training moves, as bytes."""
    memory = net._model.memory
    return [a.tobytes() for a in (net.theta, *memory.states)], net.step, net.epoch, memory.updates


def test_every_rule_that_moves_is_in_the_list():
    """A rule without an optimiser, an oracle or a test would be found by nobody."""
    optimizers = {optimizer.rule: optimizer for optimizer in (*OPTIMIZERS.values(), bp.Rprop())}  # test_rprop.py's
    assert optimizers.keys() == _core.RULES.keys() - {"gradient"}
    kinds = {optimizer.kind for optimizer in optimizers.values()}
    assert kinds == _optimizers._BY_NAME.keys() - {"lbfgs", "levenberg_marquardt"}
    assert all(callable(getattr(ref, rule)) for rule in optimizers)
    for rule, optimizer in optimizers.items():  # what C calls its numbers are the optimiser's settings
        numbers = {"lr", "weight_decay", "clip_norm", "clip_value", "ema", *_core.RULES[rule][0]}
        assert optimizer.settings.keys() == numbers
        assert type(_optimizers.resolve(optimizer.kind)) is type(optimizer) is getattr(bp, type(optimizer).__name__)


@every_optimizer
@pytest.mark.parametrize("phase2", ["", "owners", "shards"])
def test_the_same_bits_for_any_number_of_threads(force, phase2, optimizer):
    results = []
    for n_threads, always in ((1, False), (1, True), (2, True), (3, True), (4, True)):
        force(always, phase2)
        net = make()
        history = net.fit(X, Y, optimizer=optimizer, batch_size=70, epochs=3, n_threads=n_threads)
        results.append((moved(net), history.loss))
        if always:  # blocks are cut smaller, and a norm is the sum of other parts
            assert results[-1] == results[1], n_threads
    assert results[0][0][1:] == results[1][0][1:]
    assert optimizer.settings["clip_norm"] or phase2 != "owners" or results[0] == results[1]


@every_optimizer
@pytest.mark.parametrize("how", ["file", "pickle", "copy"])
def test_five_epochs_twice_are_ten(how, optimizer, tmp_path):
    whole, parts = make(), make()
    settings = {"optimizer": optimizer, "batch_size": 16}
    whole.fit(X, Y, epochs=10, **settings)
    parts.fit(X, Y, epochs=5, **settings)
    if how == "file":
        parts.save(tmp_path / "net.safetensors")
        parts = bp.load(tmp_path / "net.safetensors")
    else:
        parts = pickle.loads(pickle.dumps(parts)) if how == "pickle" else parts.copy()
    parts.fit(X, Y, epochs=5, **settings)
    assert moved(parts) == moved(whole)


@every_optimizer
@pytest.mark.parametrize("always, phase2, n_threads", [(False, "", 1), (True, "owners", 3), (True, "shards", 2)])
def test_an_overflow_goes_back_to_the_last_finite_step(force, always, phase2, n_threads, optimizer):
    """A parameter that is no longer finite: theta, every state and the counters are those of the step before."""
    force(always, phase2)
    grown = changed(optimizer, lr=1e36, weight_decay=1e3)  # theta grows by decay from step to step
    data, target = np.full((400, 2), 1e-20), np.zeros((400, 1))

    def growing():
        net = bp.Network([bp.Input(2), bp.Dense(1)], seed=5)
        net.theta[:] = 1e-30
        return net

    net, twin = growing(), growing()
    settings = {"optimizer": grown, "batch_size": 10, "shuffle": False, "n_threads": n_threads}
    with pytest.raises(bp.DivergenceError):
        net.fit(data, target, **settings)
    assert net.step < 40 and np.isfinite(net.theta).all()
    if net.step:
        twin.fit(data[: 10 * net.step], target[: 10 * net.step], **settings)
        twin.epoch = net.epoch
        assert moved(net) == moved(twin)


@every_optimizer
def test_rows_of_a_large_table_go_back_too(force, optimizer):
    """Old rows are logged, and all of the rule's states with them."""
    force(True, "")
    words = bp.Input(1, integer=True)

    def embedded():
        return bp.Network(words, bp.Reshape(-1)(bp.Embedding(4000, 3, name="table")(words)), seed=1)

    numbers, target = RNG.integers(0, 4000, (300, 1)), RNG.normal(size=(300, 3))
    target[200] = np.inf
    net, twin = embedded(), embedded()
    settings = {"optimizer": optimizer, "batch_size": 10, "shuffle": False, "check_finite": False}
    with pytest.raises(bp.DivergenceError):
        net.fit(numbers, target, **settings)
    twin.fit(numbers[:200], target[:200], **settings)
    twin.epoch = net.epoch
    assert moved(net) == moved(twin)


@every_optimizer
def test_numbers_may_change_between_steps(optimizer):
    """A callback halves lr after every third step: the oracle does the same."""
    net = bp.Network([bp.Input(9), bp.Dense(6, "tanh"), bp.Dense(4, "softmax")], seed=5, dtype="float64")

    class Halve(bp.Callback):
        def on_batch_end(self, state):
            if state.step % 3 == 0:
                state.optimizer = changed(state.optimizer, lr=state.lr / 2)

    W, b, names = oracle(net)
    params = [(p, decays) for k in (1, 2) for p, decays in ((W[k], True), (b[k], False))]
    states, current = [{} for _ in params], optimizer
    for step in range(1, 11):
        rows = slice(15 * (step - 1), 15 * step)
        dW, db = ref.backward(W, names, *ref.forward(W, b, names, X[rows].astype(float)), Y[rows], "cross_entropy")[2:4]
        move(current, params, [g for k in (1, 2) for g in (dW[k], db[k])], states)
        if step % 3 == 0:
            current = changed(current, lr=current.lr / 2)
    net.fit(X.astype(float), Y, optimizer=optimizer, batch_size=15, shuffle=False, callbacks=Halve())
    settle(params, states)
    assert distance(net.theta, flat(W, b)) < 1e-12


CHANGES = [{"weight_decay": 0.1}, {"clip_norm": 0.05}, {"clip_value": 0.01}, {"weight_decay": 0.1, "clip_norm": 0.05}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("start", [bp.SGD(lr=0.1), bp.SGD(lr=0.1, momentum=0.9), bp.Adam(lr=0.01)], ids=str)
def test_a_callback_may_ask_for_what_needs_another_plan(start, change):
    """Decay and bounds that come and go in the midst of an epoch: the steps are those of fits of one batch each."""

    class Turn(bp.Callback):
        def on_batch_end(self, state):
            state.optimizer = self.of(state.step)

        @staticmethod
        def of(step):
            return dataclasses.replace(start, **change) if 2 <= step < 5 or step == 7 else start

    whole, parts = make(), make()
    history = whole.fit(X, Y, optimizer=start, batch_size=15, shuffle=False, callbacks=Turn(), epochs=2)
    losses = []
    for step in range(20):
        rows = slice(15 * (step % 10), 15 * (step % 10) + 15)
        losses += parts.fit(X[rows], Y[rows], optimizer=Turn.of(step), batch_size=15, shuffle=False).loss
    assert moved(whole)[:2] == moved(parts)[:2]
    np.testing.assert_allclose(history.loss, [np.mean(losses[:10]), np.mean(losses[10:])], rtol=1e-12)


def test_plans_that_a_callback_turns_between_are_taken_once():
    """Not a new arena at each turn: there are two runs, however often they take turns."""

    class Turn(bp.Callback):
        def on_batch_end(self, state):
            state.optimizer = bp.SGD(lr=0.01, clip_norm=1.0 if state.step % 2 else None)

    net = make()
    net.fit(X, Y, optimizer=bp.SGD(lr=0.01), batch_size=10, epochs=4, callbacks=Turn())
    entries = net._model.plans.entries.values()
    assert len(entries) == 2 and all(len(entry.idle) == 1 for entry in entries)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_that_dwarfs_its_bound_is_clipped_all_the_same(dtype):
    """clip_norm over the norm is less than any normal float32."""
    net = bp.Network([bp.Input(1), bp.Dense(1, bias=False, init="zeros")], dtype=dtype)
    data = np.full((4, 1), 1e18), np.full((4, 1), 1e19)
    net.fit(*data, loss="squared_error", optimizer=bp.SGD(lr=1.0, clip_norm=1e-2), batch_size=None)
    assert net.theta[0] == pytest.approx(1e-2, rel=1e-6)
    with pytest.raises(ValueError, match="clip_value: expected a number that float32 can hold"):
        make().fit(X, Y, optimizer=bp.SGD(clip_value=1e-50))


def test_optimizers_show_what_they_are_given():
    assert repr(bp.SGD(lr=0.1)) == "SGD(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)"
    assert repr(bp.Adam(clip_norm=1)).endswith("weight_decay=0.0, amsgrad=False, clip_norm=1.0)")
    assert repr(bp.LevenbergMarquardt()) == "LevenbergMarquardt(damping=0.001, factor=10.0, tries=20)"
    assert repr(bp.LBFGS(5)) == "LBFGS(history=5, gtol=1e-07, ftol=1e-09, tries=20)"

    @dataclasses.dataclass(frozen=True)
    class Named(bp.SGD):
        extra: str = "mine"

    assert Named(lr=0.5).extra == "mine"


@pytest.mark.parametrize("array", ["state", "theta"])
def test_c_is_never_given_memory_that_it_may_not_write_to(array):
    """Whatever Python hands down: an array that is read-only, short, or of another type is refused before C sees it."""
    from bpcore import _plans
    from bpcore._data import Data

    model = make()._model
    data = Data(model, X, Y, "cross_entropy", None)
    flags = _core.optimizer_flags("sgd", lr=0.1, momentum=0.9)
    theta, state = model.theta.copy(), np.zeros_like(model.theta)
    wrong = state if array == "state" else theta
    with _plans.take(model, data.key(_plans.TRAIN | flags, 15, 1), theta=theta) as lent:
        run = data.feed(model, lent)
        run.optimizer("sgd", (state,), lr=0.1, momentum=0.9)
        wrong.flags.writeable = False
        with pytest.raises(ValueError, match=f"{array}: expected a writeable, C-contiguous array of float32"):
            run.optimizer("sgd", (state,), lr=0.1, momentum=0.9)
        wrong.flags.writeable = True
        for bad in (np.zeros(len(state)), np.zeros(2 * len(state), np.float32)[::2], state[:-1].copy()):
            with pytest.raises(ValueError, match="state: expected"):
                run.optimizer("sgd", (bad,), lr=0.1, momentum=0.9)
        with pytest.raises(ValueError, match="2 arrays of state do not fit sgd"):
            run.optimizer("sgd", (state, state), lr=0.1, momentum=0.9)


def test_an_array_has_a_number_for_each_step():
    """C takes one number for all steps, or one for each, as schedules give them."""
    falling = 0.1 / np.arange(1, 11)
    plain, stepped = make("float64"), make("float64")

    class Fall(bp.Callback):
        def on_batch_end(self, state):
            if state.step < 10:
                state.optimizer = bp.SGD(lr=falling[state.step], momentum=0.9)

    plain.fit(X, Y, optimizer=bp.SGD(lr=0.1, momentum=0.9), batch_size=15, shuffle=False, callbacks=Fall())
    from bpcore import _plans
    from bpcore._data import Data

    model = stepped._model
    data = Data(model, X, Y, "cross_entropy", None)
    velocity = np.zeros_like(model.theta)
    flags = _core.optimizer_flags("sgd", lr=falling, momentum=0.9)
    with _plans.take(model, data.key(_plans.TRAIN | flags, 15, 2)) as lent:
        run = data.feed(model, lent)
        run.optimizer("sgd", (velocity,), lr=falling, momentum=0.9)
        run.random(model.seed, 0)
        with pytest.raises(ValueError, match="10 numbers do not reach for the 11 steps"):
            run.begin(165, 15)
        run.begin(150, 15)
        while run.slice(2) == _core.PAUSED:
            pass
    assert np.array_equal(stepped.theta, plain.theta)
    with pytest.raises(ValueError, match=r"lr: expected a contiguous array \(steps,\) of float64"):
        _core.optimizer_flags("sgd", lr=falling.astype("float32"))


def test_clipping_reports_the_loss_before_it_and_leaves_small_gradients():
    """A bound that is never reached changes no bit."""
    far, free = make(), make()
    free.fit(X, Y, optimizer=bp.Adam(lr=0.01), epochs=2)
    far.fit(X, Y, optimizer=bp.Adam(lr=0.01, clip_norm=1e6, clip_value=1e6), epochs=2)
    assert far.theta.tobytes() == free.theta.tobytes()


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "1", True])
def test_a_bound_is_a_number_above_zero(name, value):
    for kind in (bp.SGD, bp.Adam):
        with pytest.raises((ValueError, TypeError), match=name):
            kind(**{name: value})
        assert getattr(kind(**{name: 2}), name) == 2.0 and getattr(kind(), name) is None


def test_files_without_bounds_are_of_the_first_format(tmp_path):
    """A file has the oldest format that can hold it, so that older versions of bpcore read what they can."""
    from safetensors import safe_open

    for optimizer, wanted in ((bp.SGD(momentum=0.9), "1"), (bp.Adam(), "1"), (bp.Adam(clip_norm=1.0), "2")):
        net = make()
        net.fit(X, Y, optimizer=optimizer)
        net.save(tmp_path / "net")
        with safe_open(tmp_path / "net", framework="numpy") as file:
            assert file.metadata()["bpcore_format"] == wanted
        assert bp.load(tmp_path / "net")._model.memory.optimizer == optimizer


@pytest.mark.parametrize("rule", _core.RULES)
def test_a_rule_takes_its_own_numbers_and_no_others(rule):
    own = {"lr": 0.1, "weight_decay": 0.0, **dict.fromkeys(_core.RULES[rule][0], 0.5)}
    assert _core.optimizer_flags(rule, **own, clip_norm=1.0) == _core.optimizer_flags(rule, **own, clip_norm=0.5)
    with pytest.raises(ValueError, match=f"optimizer: {rule} has no number 'learning_rate', but lr, weight_decay"):
        _core.optimizer_flags(rule, **own, learning_rate=0.1)


def test_the_page():
    """Its snippets run, and it names every optimiser."""
    text = (Path(__file__).parent.parent / "docs/optimizers.md").read_text(encoding="utf-8")
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, "docs/optimizers.md", "exec"), {})  # it asserts for itself
    assert not [kind.__name__ for kind in _optimizers._BY_NAME.values() if f"`{kind.__name__}" not in text]
