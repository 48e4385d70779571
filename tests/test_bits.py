"""The same bits: for any number of threads under every forced mode, across calls, files, copies and processes."""

import copy
import hashlib
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest

import bpcore as bp
from bpcore import _core

THREADS = (1, 2, 3, 4, 7)
MODES = [(True, "owners"), (True, "shards"), (True, ""), (False, "")]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def unforced():
    yield
    _core.force(False, "")


def small(seed=3, dtype="float32"):
    """6-9-8-7-5-4: ten parameters, so that every one of seven threads owns some."""
    layers = [bp.Dense(n, f) for n, f in ((9, "relu"), (8, "tanh"), (7, "logistic"), (5, "gelu"), (4, "softmax"))]
    return bp.Network([bp.Input(6), *layers], seed=seed, dtype=dtype)


def wide(seed=3, dtype="float32"):
    """20-600-500-3: 600 x 500 weights run on the grid of cells."""
    return bp.Network([bp.Input(20), bp.Dense(600, "relu"), bp.Dense(500, "tanh"), bp.Dense(3)], seed=seed, dtype=dtype)


def deep(seed=3, dtype="float32"):
    """A shared layer used six times among others, without bias here and there."""
    shared = bp.Dense(16, "silu")
    layers = [shared if i % 2 else bp.Dense(16, "tanh", bias=i % 3 > 0) for i in range(12)]
    return bp.Network([bp.Input(16), *layers, bp.Dense(1, "logistic")], seed=seed, dtype=dtype)


def data(net, n):
    X = RNG.standard_normal((n, net.n_inputs))
    return X, {4: RNG.integers(0, 4, n), 3: RNG.standard_normal((n, 3)), 1: RNG.random(n)}[net.n_outputs]


OPTIMIZERS = {"sgd": bp.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3), "adam": bp.Adam(lr=0.01)}


def state_of(net):
    """All that training moves, as bytes."""
    return [a.tobytes() for a in (net.theta, *net._model.memory.states)], net.step, net.epoch, net._model.memory.updates


def threads_worked(n):
    """Each of n threads did tasks, and no other."""
    done = _core.pool_tasks(THREADS[-1] + 1)
    return all(done[:n]) and not any(done[n:])


def fit_bits(make, rows, batch, optimizer, n_threads, epochs=2, weighted=False, dtype="float32"):
    net = make(dtype=dtype)
    X, y = rows
    w = np.linspace(0.1, 2, len(X)) if weighted else None
    history = net.fit(X, y, batch_size=batch, optimizer=optimizer, epochs=epochs, n_threads=n_threads, sample_weight=w)
    return state_of(net), history.loss


FITS = [
    (small, 300, 1, "sgd", 1), (small, 300, 10, "adam", 2), (small, 300, 64, "sgd", 3), (small, 700, 300, "adam", 3),
    (small, 40_000, None, "sgd", 2), (wide, 12, 1, "adam", 1), (wide, 50, 10, "sgd", 2), (wide, 200, 64, "adam", 2),
    (wide, 600, 300, "sgd", 2), (wide, 15_000, None, "adam", 1), (deep, 100, 1, "adam", 1), (deep, 300, 10, "sgd", 2),
    (deep, 300, 64, "adam", 3), (deep, 700, 300, "sgd", 3), (deep, 20_000, None, "adam", 2),
]  # fmt: skip


@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("make, n, batch, optimizer, epochs", FITS)
def test_fit_has_the_same_bits_for_any_number_of_threads(make, n, batch, optimizer, epochs, always, phase2):
    rows = data(make(), n)
    _core.force(always, phase2)
    first = None
    for n_threads in THREADS if always else (1, 2, 7):
        _core.pool_tasks_reset()
        found = fit_bits(make, rows, batch, OPTIMIZERS[optimizer], n_threads, epochs)
        assert not always or threads_worked(n_threads), _core.pool_tasks(8)
        assert np.isfinite(found[1]).all()
        first = first or found
        assert found == first, f"{n_threads} threads"


def test_several_chunks_were_several():
    """The full batches above do not fit one chunk."""
    for make, n in ((small, 40_000), (wide, 15_000), (deep, 20_000)):
        net = make()
        X, y = data(net, n)
        net.fit(X, y, batch_size=None)
        (entry,) = net._model.plans.entries.values()
        assert entry.compiled.plan.describe()["chunk_rows"] < n


def test_the_wide_net_runs_on_the_grid_and_the_modes_force_what_they_say():
    stages = {}
    for make in (small, wide):
        for phase2 in ("owners", "shards"):
            _core.force(True, phase2)
            net = make()
            net.fit(*data(net, 300), batch_size=300)
            (entry,) = net._model.plans.entries.values()
            described = entry.compiled.plan.describe()
            assert (described["shards"] > 0) == (phase2 == "shards")
            stages[make, phase2] = described["n_stages"]
    assert stages[small, "owners"] == stages[small, "shards"] == stages[wide, "shards"] == 1
    assert stages[wide, "owners"] > 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("make, n", [(small, 250), (small, 40_000), (wide, 250), (wide, 3000), (deep, 20_000)])
def test_answers_have_the_same_bits_for_any_number_of_threads(make, n, always, phase2, dtype):
    X, y = data(make(), n)
    w = RNG.random(n)
    _core.force(always, phase2)
    net = make(dtype=dtype)
    first = None
    for n_threads in THREADS:
        calls = {
            "predict": lambda k=n_threads: net.predict(X, n_threads=k).tobytes(),
            "evaluate": lambda k=n_threads: net.evaluate(X, y, n_threads=k),
            "weighted": lambda k=n_threads: net.evaluate(X, y, sample_weight=w, n_threads=k),
            "gradient": lambda k=n_threads: [
                np.array(part).tobytes() for part in net.value_and_grad(X, y, n_threads=k)
            ],
        }
        found = {}
        for name, call in calls.items():
            _core.pool_tasks_reset()
            found[name] = call()
            assert not always or threads_worked(n_threads), (name, n_threads, _core.pool_tasks(8))
        first = first or found
        assert found == first, f"{n_threads} threads"


@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("weighted", [False, True])
def test_float64_and_weights_have_the_same_bits(always, phase2, weighted):
    rows = data(small(), 500)
    _core.force(always, phase2)
    fits = [
        fit_bits(small, rows, batch, OPTIMIZERS["adam"], n, weighted=weighted, dtype="float64")
        for batch in (64, None)
        for n in (1, 3, 7)
    ]
    assert fits[0] == fits[1] == fits[2] and fits[3] == fits[4] == fits[5] and fits[0] != fits[3]


def test_python_functions_have_the_same_bits_for_any_number_of_threads():
    f = bp.Activation(np.sin, np.cos)
    loss = bp.Loss(lambda a, y: ((a - y) ** 4).sum(1), lambda a, y: 4 * (a - y) ** 3)
    X, y = RNG.standard_normal((200, 5)), RNG.standard_normal((200, 3))
    _core.force(True, "")
    found = []
    for n_threads in THREADS:
        net = bp.Network([bp.Input(5), bp.Dense(40, f), bp.Dense(30, "tanh"), bp.Dense(3, f)], seed=1)
        _core.pool_tasks_reset()
        history = net.fit(X, y, loss=loss, batch_size=70, epochs=3, n_threads=n_threads)
        assert all(_core.pool_tasks(min(n_threads, 6))), _core.pool_tasks(8)  # six parameters
        found.append((state_of(net), history.loss, net.predict(X, n_threads=n_threads).tobytes()))
    assert all(each == found[0] for each in found)


def test_modes_agree_but_for_rounding():
    """Owners and shards add in another order: the bits may differ, the numbers hardly."""
    X, y = data(small(), 300)
    theta = []
    for phase2 in ("owners", "shards"):
        _core.force(False, phase2)
        net = small(dtype="float64")
        net.fit(X, y, batch_size=150, epochs=3)
        theta.append(net.theta)
    assert np.abs(theta[0] - theta[1]).max() < 1e-14


# ---- going on ----

INTERRUPTIONS = {
    "nothing": lambda net, path: net,
    "save and load": lambda net, path: (net.save(path), bp.load(path))[1],
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "copy": lambda net, path: net.copy(),
    "copy.copy": lambda net, path: copy.copy(net),
    "deepcopy": lambda net, path: copy.deepcopy(net),
}


@pytest.mark.parametrize("how", INTERRUPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("make", [small, deep])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_five_epochs_twice_are_ten(make, optimizer, how, dtype, tmp_path):
    X, y = data(make(), 150)
    whole, parts = make(dtype=dtype), make(dtype=dtype)
    ten = whole.fit(X, y, optimizer=optimizer, epochs=10, batch_size=16).loss
    five = parts.fit(X, y, optimizer=optimizer, epochs=5, batch_size=16).loss
    left, parts = parts, INTERRUPTIONS[how](parts, tmp_path / "net")
    before = state_of(left)
    five += parts.fit(X, y, optimizer=copy.copy(optimizer), epochs=5, batch_size=16).loss
    assert five == ten and state_of(parts) == state_of(whole)
    assert parts.step == 100 and parts.epoch == 10
    assert how == "nothing" or state_of(left) == before  # the two are independent


def test_networks_pickled_by_the_first_version_go_on():
    """0.1 kept in the network itself what its model keeps now."""
    X, y = data(small(), 90)
    net = small()
    net.fit(X, y, optimizer=OPTIMIZERS["adam"], epochs=2, batch_size=16)
    model = net._model
    old = {"_dtype": model.dtype, "_seed": model.seed, "_graph": model.graph, "_checkpoint": None,
           "_frozen": frozenset(), "step": model.step, "epoch": model.epoch, "_memory": model.memory,
           "_theta": model.theta.copy()}  # fmt: skip
    twin = bp.Network.__new__(bp.Network)
    twin.__setstate__(old)
    for each in (net, twin):
        each.fit(X, y, optimizer=OPTIMIZERS["adam"], epochs=2, batch_size=16)
    assert state_of(twin) == state_of(net)


def test_resume_from_the_middle_of_ten_short_fits(tmp_path):
    X, y = data(small(), 90)
    whole, parts = small(), small()
    whole.fit(X, y, optimizer=OPTIMIZERS["adam"], epochs=10, batch_size=7)
    for i in range(10):
        parts.fit(X, y, optimizer=OPTIMIZERS["adam"], epochs=1, batch_size=7)
        parts = INTERRUPTIONS[list(INTERRUPTIONS)[i % 6]](parts, tmp_path / "net")
    assert state_of(parts) == state_of(whole)


def test_callbacks_by_batch_do_not_change_bits():
    """Every step then is a slice of its own."""

    class Look(bp.Callback):
        def on_batch_end(self, state):
            pass

    rows = data(small(), 300)
    nets = [small() for _ in range(2)]
    for net, callbacks in zip(nets, ((), [Look()]), strict=True):
        net.fit(*rows, epochs=3, batch_size=17, callbacks=callbacks, optimizer=OPTIMIZERS["adam"])
    assert state_of(nets[0]) == state_of(nets[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [bp.SGD(lr=0.05), *OPTIMIZERS.values()], ids=["plain", *OPTIMIZERS])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [small, deep])
def test_a_short_last_batch_has_the_bits_of_a_batch_of_that_size(make, optimizer, weighted, dtype):
    """Whole batches are walked call by call, the rest of an epoch task by task (csrc/calls.c)."""
    whole, parts = make(dtype=dtype), make(dtype=dtype)
    X, y = data(whole, 70)
    weight = RNG.integers(1, 9, 70) / 8 if weighted else None  # their sums are exact in any order
    kw = {"optimizer": optimizer, "epochs": 1, "shuffle": False}
    whole.fit(X, y, sample_weight=weight, batch_size=40, **kw)
    for rows in (slice(40), slice(40, 70)):
        some = None if weight is None else weight[rows]
        parts.fit(X[rows], y[rows], sample_weight=some, batch_size=40, **kw)
    assert parts.theta.tobytes() == whole.theta.tobytes()


def medium(seed=3, dtype="float32"):
    """30-200-1: a block of parameters whose plain step is made with the gradient, beside one whose is not."""
    return bp.Network([bp.Input(30), bp.Dense(200, "relu"), bp.Dense(1, "logistic")], seed=seed, dtype=dtype)


def reordered(state):
    """An order that comes and goes."""
    state.order = np.random.default_rng(state.epoch).permutation(96) if state.epoch % 2 else None


def decaying(state):
    """An optimizer that learns of weight decay."""
    state.optimizer = bp.SGD(lr=0.05, weight_decay=0.01 * (state.epoch > 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("changing", [None, reordered, decaying])
@pytest.mark.parametrize("make", [small, medium, deep])
def test_rows_read_where_they_lie_have_the_bits_of_copies(make, changing, dtype):
    """Several whole batches in one fit of several epochs, contiguous, and in fits of one epoch, not contiguous."""
    one, apart = make(dtype=dtype), make(dtype=dtype)
    X, y = data(one, 96)
    kw = {"batch_size": 16, "shuffle": False}
    state = types.SimpleNamespace(epoch=0, order=None, optimizer=bp.SGD(lr=0.05))
    one.fit(X.astype(dtype), y, epochs=5, optimizer=state.optimizer, callbacks=[changing] if changing else (), **kw)
    for state.epoch in range(1, 6):
        order = np.arange(96) if state.order is None else state.order
        apart.fit(np.array(X[order], dtype, order="F"), y[order], epochs=1, optimizer=state.optimizer, **kw)
        if changing:
            changing(state)
    assert one.theta.tobytes() == apart.theta.tobytes()


def test_an_input_that_is_an_output_has_the_loss_of_its_own_rows():
    x = bp.Input(6)
    X, y = RNG.standard_normal((64, 6)).astype(np.float32), [RNG.standard_normal((64, n)) for n in (3, 6)]
    for outputs in ([bp.Dense(3)(x), x], [bp.Dense(3)(x), bp.Reshape(-1)(x)]):
        net = bp.Network(x, outputs, seed=0)
        before = net.evaluate(X, y)["loss"]
        history = net.fit(X, y, batch_size=8, epochs=1, shuffle=False, optimizer=bp.SGD(lr=1e-9))
        assert history.loss[0] == pytest.approx(before, rel=1e-6)


def test_a_loss_of_the_users_that_writes_X_finds_a_copy():
    nets = [bp.Network([bp.Input(6), bp.Dense(2)], seed=0) for _ in range(2)]
    data, y = RNG.standard_normal((32, 6)).astype(np.float32), RNG.standard_normal((32, 2))
    for net, order in zip(nets, "CF", strict=True):
        X = np.array(data, order=order)

        def gradient(a, t, X=X):
            X[:] = 0
            return a - t

        loss = bp.Loss(lambda a, t: ((a - t) ** 2).sum(1) / 2, gradient)
        net.fit(X, y, loss=loss, batch_size=32, epochs=1, shuffle=False)
    assert nets[0].theta.tobytes() == nets[1].theta.tobytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_wide_layers_at_few_positions_have_the_same_bits(optimizer):
    """Blocks whose gradients are made in parts: a list of calls would write beyond a thread's scratch."""
    thetas = set()
    for n_threads in (1, 2):
        net = bp.Network([bp.Input((2, 1300)), bp.Dense(1300, "relu"), bp.Reshape(-1), bp.Dense(2)], seed=0)
        X, y = np.random.default_rng(2).standard_normal((8, 2, 1300)), np.ones((8, 2))
        net.fit(X, y, batch_size=8, epochs=2, optimizer=optimizer, n_threads=n_threads)
        thetas.add(net.theta.tobytes())
    assert len(thetas) == 1


def test_data_that_is_theta_is_read_before_the_step_changes_it():
    """Contiguous rows are read where they lie, but for these."""
    nets = [bp.Network([bp.Input(8), bp.Dense(8)], seed=0) for _ in range(2)]
    y = RNG.standard_normal((8, 8))
    X = nets[0].theta[:64].reshape(8, 8)
    nets[0].fit(X, y, epochs=1, batch_size=8, shuffle=False)
    nets[1].fit(nets[1].theta[:64].reshape(8, 8).copy(), y, epochs=1, batch_size=8, shuffle=False)
    assert nets[0].theta.tobytes() == nets[1].theta.tobytes()


def test_layout_and_type_of_the_data_do_not_change_bits():
    X, y = RNG.integers(-5, 5, (100, 6)), RNG.integers(0, 4, 100)
    forms = [
        X, X.astype(np.float64), np.asfortranarray(X), X.astype(">i2"), np.repeat(X, 2, 1)[:, ::2], X.tolist(),
        X[::-1].copy()[::-1], X.astype(np.float16), X.astype(np.longdouble),
    ]  # fmt: skip
    found = []
    for form in forms:
        net = small()
        net.fit(form, y, epochs=2, batch_size=9)
        found.append((state_of(net), net.predict(form).tobytes(), net.evaluate(form, y)))
    assert all(each == found[0] for each in found)


def test_a_row_has_the_same_bits_in_every_batch():
    for make in (small, wide, deep):
        for dtype in ("float32", "float64"):
            net = make(dtype=dtype)
            X = data(net, 300)[0]
            whole = net.predict(X)
            tape = net.forward(X)
            assert tape.a[-1].tobytes() == whole.tobytes()
            for first, end in ((0, 1), (299, 300), (5, 36), (31, 33), (100, 300)):
                assert net.predict(X[first:end]).tobytes() == whole[first:end].tobytes()
                assert net.forward(X[first:end]).a[-1].tobytes() == whole[first:end].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_in", [1, 5, 8, 17, 100, 500])
def test_a_row_has_the_same_bits_at_every_place_of_a_batch(n_in, dtype):
    """One row 70 times: the order of additions depends on n_in, not on where a row lies."""
    for n_out in (1, 3, 8, 9, 16, 31, 32, 100, 500):
        net = bp.Network([bp.Input(n_in), bp.Dense(n_out)], dtype=dtype)
        answers = net.predict(np.repeat(RNG.standard_normal((1, n_in)), 70, 0))
        assert (answers == answers[0]).all(), n_out


# ---- seeds and processes ----


@pytest.mark.parametrize("n", [1, 5, 262_144, 262_149])
def test_a_permutation_drawn_in_parts_is_that_of_fisher_and_yates(n):
    """Drawing it pauses for signals every 2^18 elements; each element i swaps with j <= i, from two words a counter."""
    seed, purpose, step = 2**40 + 17, 1, 6
    expected = list(range(n))
    for i in range(n):
        if i % 2 == 0:
            w = _core.philox((purpose, 0, step, i // 2), (seed & 0xFFFFFFFF, seed >> 32))
        word = w[2 * (i % 2)] | w[2 * (i % 2) + 1] << 32
        j = word * (i + 1) >> 64
        expected[i], expected[j] = expected[j], i
    assert _core.permutation(n, seed, purpose, step).tolist() == expected


def test_seeds():
    X, y = data(small(), 100)
    assert small(3).theta.tobytes() == small(3).theta.tobytes() != small(4).theta.tobytes()
    assert small(2**40).theta.tobytes() != small(0).theta.tobytes()  # the high word counts

    def trained(seed=None, shuffle=True, own=3):
        net = small(3)
        net._model.seed = own
        net.fit(X, y, seed=seed, shuffle=shuffle, batch_size=10)
        return net.theta.tobytes()

    assert trained() == trained(3) == trained(3, own=9) != trained(4)
    assert trained(4) == trained(own=4)
    assert trained(shuffle=False) == trained(5, shuffle=False) != trained()


SCRIPT = """
import hashlib, sys
import numpy as np, bpcore as bp
rng = np.random.default_rng(5)
X, y = rng.standard_normal((3000, 20)), rng.integers(0, 10, 3000)
net = bp.Network([bp.Input(20), bp.Dense(300, "relu"), bp.Dense(300, "tanh"), bp.Dense(10, "softmax")], seed=11)
history = net.fit(X, y, optimizer=bp.Adam(), epochs=2, batch_size=100)
print(bp.get_num_threads(), hashlib.sha256(net.theta.tobytes() + net.predict(X).tobytes()
      + np.array(history.loss).tobytes()).hexdigest())
"""


def test_processes_agree():
    def run(**env):
        ours = ("BPCORE_NUM", "BPCORE_P", "OMP_NUM", "OPENBLAS_NUM")
        settings = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        out = subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**settings, **env}, capture_output=True, text=True, timeout=120
        )
        assert out.returncode == 0, out.stderr
        return out.stdout.split()

    runs = [
        run(), run(BPCORE_NUM_THREADS="1"), run(OMP_NUM_THREADS="1"), run(OPENBLAS_NUM_THREADS="1"),
        run(BPCORE_PARALLEL="always", PYTHONHASHSEED="1"),
    ]  # fmt: skip
    assert len({digest for _, digest in runs}) == 1 and {runs[1][0], runs[2][0]} == {"1"}
    owners, shards = (run(BPCORE_PHASE2=mode)[1] for mode in ("owners", "shards"))
    assert owners == runs[0][1] != shards
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((3000, 20)), rng.integers(0, 10, 3000)
    net = bp.Network([bp.Input(20), bp.Dense(300, "relu"), bp.Dense(300, "tanh"), bp.Dense(10, "softmax")], seed=11)
    loss = net.fit(X, y, optimizer=bp.Adam(), epochs=2, batch_size=100).loss
    here = hashlib.sha256(net.theta.tobytes() + net.predict(X).tobytes() + np.array(loss).tobytes()).hexdigest()
    assert here == runs[0][1]


def test_a_row_left_over_has_the_bits_of_any_cut():
    """129 rows: the last is alone in its tile of 64, and not in a cell of 256."""
    bits = set()
    for always in (False, True):
        _core.force(always, "owners")
        try:
            net = bp.Network([bp.Input(300), bp.Dense(300, "tanh"), bp.Dense(8, "softmax")], seed=0)
            X = np.random.default_rng(0).standard_normal((129, 300))
            net.fit(X, np.arange(129) % 8, batch_size=129, epochs=2, n_threads=2)
            bits.add(net.theta.tobytes())
        finally:
            _core.force(False, "")
    assert len(bits) == 1
