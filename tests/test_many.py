"""fit_many and fit_restarts: each network ends with the bits of its own `fit`, whatever happens to the others."""

import ctypes
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fitting import interrupted
from random_graphs import Seeded, graph
from scipy import LowLevelCallable

import bpcore as bp
from bpcore import _core, _many

PAGE = Path(__file__).parent.parent / "docs/many.md"
rng = np.random.default_rng(0)
X = rng.standard_normal((90, 5))
LABELS = rng.integers(0, 3, 90)
Y = rng.standard_normal((90, 2))
OPTIMIZERS = [
    bp.SGD(lr=0.1), bp.Adam(lr=0.01, clip_norm=0.5), bp.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    bp.RMSprop(momentum=0.5),
]  # fmt: skip
KINDS = {
    "softmax": ([bp.Dense(8, "relu"), bp.Dense(3, "softmax")], LABELS, "float32"),
    "deep": ([bp.Dense(16, "tanh"), bp.Dense(7, "gelu"), bp.Dense(2)], Y, "float64"),
    "dropout": ([bp.Dense(8, "relu"), bp.Dropout(0.3), bp.LayerNorm(), bp.Dense(2)], Y, "float32"),
    "recurrent": ([bp.Reshape((5, 1)), bp.LSTM(4), bp.Dense(3, "softmax")], LABELS, "float64"),
    "huber": ([bp.Dense(4, "silu"), bp.Dense(2)], Y, "float32"),
}
LOSSES = {"huber": bp.losses.Huber(delta=0.5)}


ACTIVATIONS = ["relu", "tanh", "logistic", "identity", "gelu", "elu"]


def make(kind="softmax", seed=0):
    layers, _, dtype = KINDS[kind]
    return bp.Network([bp.Input(5), *layers], dtype=dtype, seed=seed)


def state(net):
    """All that training changes."""
    memory = net._model.memory
    return (net.theta.tobytes(), net.step, net.epoch, memory.optimizer, memory.updates,
            [array.tobytes() for array in memory.states])  # fmt: skip


def columns(history):
    """What does not depend on time."""
    return {k: v for k, v in history._columns().items() if k not in ("seconds", "samples_per_second")}


def check_alike(nets, twins, histories, wanted):
    for net, twin, history, other in zip(nets, twins, histories, wanted, strict=True):
        assert state(net) == state(twin)
        assert columns(history) == columns(other)
        assert len(history.seconds) == len(history.samples_per_second) == len(history.epoch)


@pytest.mark.parametrize("K, n_threads", [(1, 2), (2, 1), (3, 2), (5, 3), (20, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_has_the_bits_of_its_own_fit(kind, K, n_threads):
    y, pick = KINDS[kind][1], np.random.default_rng(K)
    rows = [pick.integers(0, 90, pick.integers(20, 120)) if k % 3 else None for k in range(K)]
    weights = [pick.uniform(0, 2, 90) if k % 2 else None for k in range(K)]
    optimizers = [OPTIMIZERS[k % 4] for k in range(K)]
    settings = {"epochs": 4, "batch_size": (7, None)[K == 3], "shuffle": K != 5, "loss": LOSSES.get(kind, "auto")}
    nets, twins = ([make(kind, seed=k // 2) for k in range(K)] for _ in range(2))
    for turn in range(2):  # the second goes on with memory, steps and epochs
        seeds = [9 * turn + k for k in range(K)]
        histories = bp.fit_many(
            nets, X, y, optimizer=optimizers, rows=rows, sample_weight=weights, seed=seeds, n_threads=n_threads,
            **settings,
        )  # fmt: skip
        wanted = [
            twin.fit(*((X, y) if r is None else (X[r], y[r])), seed=seed, optimizer=optimizer,
                     sample_weight=w if w is None or r is None else w[r], **settings)
            for twin, r, w, seed, optimizer in zip(twins, rows, weights, seeds, optimizers, strict=True)
        ]  # fmt: skip
        check_alike(nets, twins, histories, wanted)


def test_any_graph_may_be_among_them():
    """Several inputs and outputs, every layer and loss, weights of positions, functions in Python."""
    for seed in range(40):
        case = graph(Seeded(seed), dtype=("float32", "float64")[seed % 2], rows=(3, 6))
        if case is None:
            continue
        settings = {"optimizer": OPTIMIZERS[seed % 4], "epochs": 2, "batch_size": 2, **case.options}
        nets, twins = ([case.net.copy() for _ in range(3)] for _ in range(2))
        X, y = case.args
        histories = bp.fit_many(nets, X, y, seed=[0, 1, 2], n_threads=2, **settings)
        if any(history.error for history in histories):
            continue
        check_alike(nets, twins, histories, [t.fit(X, y, seed=k, **settings) for k, t in enumerate(twins)])


def test_networks_of_other_shapes_and_dtypes_share_x():
    def mixed(n):
        return bp.Network([bp.Input(5), bp.Dense(n, "tanh"), bp.Dense(2)], dtype=f"float{32 << n % 2}", seed=n)

    nets, twins = ([mixed(n) for n in range(1, 9)] for _ in range(2))
    histories = bp.fit_many(nets, X, Y, epochs=3, n_threads=2)
    check_alike(nets, twins, histories, [twin.fit(X, Y, epochs=3) for twin in twins])


def test_equal_networks_share_plans_and_others_do_not():
    zeros = [bp.Network([bp.Input(5), bp.Bias(), bp.Add(constant=c), bp.Dense(2)]) for c in (0.0, 0.0, -0.0, 1.0)]
    bp.fit_many(zeros, X, Y)
    first, same, *others = (net._model.plans for net in zeros)
    assert first is same and all(other is not first for other in others)
    zeros[1].frozen = {"dense_1"}
    assert zeros[1]._model.plans is not first


@pytest.mark.parametrize("n_threads", [1, 2])
def test_many_epochs_are_made_in_one_call(n_threads, monkeypatch):
    """Longer than a log of epochs, of a few rows each, and left in the midst of an epoch."""
    monkeypatch.setattr(_many, "SLICE_SECONDS", 1e-4)
    nets, twins = ([make(seed=k) for k in range(4)] for _ in range(2))
    settings = {"epochs": 3 * _many._EPOCHS + 5, "batch_size": 2}
    histories = bp.fit_many(nets, X[:5], LABELS[:5], n_threads=n_threads, **settings)
    check_alike(nets, twins, histories, [twin.fit(X[:5], LABELS[:5], **settings) for twin in twins])


def test_all_threads_take_networks():
    nets = [make(seed=k) for k in range(20)]
    for _ in range(20):  # a busy machine may leave the first epochs to one
        _core.pool_tasks_reset()
        bp.fit_many(nets, X, LABELS, epochs=200, n_threads=2)
        if _core.pool_tasks(2)[1] > 0:
            return
    pytest.fail("one thread did all")


# ---- side by side ----

RULES = [
    [bp.SGD(lr=0.1)], [bp.Adam(lr=0.01)], [bp.SGD(lr=r, momentum=0.9, weight_decay=0.01) for r in (0.1, 0.01, 0.001)],
    [bp.Adam(lr=r, clip_value=0.1) for r in (0.01, 0.02)], [bp.AdamW(lr=0.01)], [bp.RMSprop(lr=0.01, momentum=0.5)],
    [bp.SGD(lr=bp.schedules.Cosine(0.1)), bp.SGD(lr=bp.schedules.Cosine(0.2))], [bp.Lion()], [bp.Nadam()],
]  # fmt: skip


def check_mixture(seed):
    """Networks of one shape, some of them with other rules, weights and rows: those that are alike go in lanes."""
    pick = np.random.default_rng(seed)
    K, n = int(pick.choice([2, 7, 16, 17, 40, 130])), int(pick.integers(5, 90))
    n_in, n_out, batch = int(pick.integers(1, 9)), int(pick.integers(1, 5)), int(pick.choice([1, 4, 16, 33, 80, 200]))
    if batch == 200:  # shards of 64 rows, the last of one
        K, n = 17, 193
    inside = [bp.Dense(int(pick.integers(1, 20)), str(pick.choice(ACTIVATIONS))) for _ in range(pick.integers(0, 3))]
    last, loss = [("softmax", "auto"), ("logistic", "auto"), ("identity", "auto"), ("tanh", "mse"),
                  ("softplus", "huber"), ("softmax", "cross_entropy")][seed % 6]  # fmt: skip
    n_out += last == "softmax" and n_out == 1
    net = bp.Network([bp.Input(n_in), *inside, bp.Dense(n_out, last)], dtype=f"float{32 << seed % 2}")
    if seed % 5 == 1 and inside:
        net.frozen = {"dense_2"}
    X = pick.standard_normal((n, n_in)).astype(str(pick.choice(["float32", "float64"])))
    y = pick.uniform(0, 1, (n, n_out))
    if last == "softmax":
        y = pick.integers(0, n_out, n) if loss == "auto" else pick.dirichlet(np.ones(n_out), n)
    rules = RULES[seed % len(RULES)]
    optimizers = [rules[k % len(rules)] for k in range(K)]
    rows = [pick.integers(0, n, n if k % 5 else n // 2 + 1) for k in range(K)] if seed % 4 == 1 else [None] * K
    weights = [pick.uniform(0, 2, n) * (pick.uniform(0, 1, n) < 0.5) for _ in range(K)] if seed % 3 == 1 else [None] * K
    nets, twins = ([net._anew(k) for k in range(K)] for _ in range(2))
    settings = {"loss": loss, "batch_size": batch, "epochs": 2, "shuffle": bool(seed % 2)}
    histories = bp.fit_many(nets, X, y, optimizer=optimizers, rows=rows, sample_weight=weights,
                            n_threads=int(pick.choice([1, 1, 1, 2, 7])), **settings)  # fmt: skip
    wanted = [
        twin.fit(*((X, y) if r is None else (X[r], y[r])), sample_weight=w if w is None or r is None else w[r],
                 optimizer=optimizer, **settings)
        for twin, r, w, optimizer in zip(twins, rows, weights, optimizers, strict=True)
    ]  # fmt: skip
    check_alike(nets, twins, histories, wanted)


@pytest.mark.parametrize("seed", range(30))
def test_lanes_have_the_bits_of_fit_alone(seed):
    check_mixture(seed)


def test_lanes_have_these_bits_on_every_instruction_set():
    program = "import test_many; [test_many.check_mixture(seed) for seed in range(5)]"
    for isa in _core.isa()[1][1:]:
        environment = {**os.environ, "BPCORE_ISA": isa, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)


def test_equal_small_networks_go_side_by_side():
    """A group counts as one task; a step alone as several."""
    for kind, together in (("softmax", True), ("deep", True), ("recurrent", False), ("dropout", False)):
        width = 64 // np.dtype(KINDS[kind][2]).itemsize
        _core.pool_tasks_reset()
        bp.fit_many([make(kind, seed=k) for k in range(width)], X, KINDS[kind][1], n_threads=1)
        assert (_core.pool_tasks(1)[0] < width) == together, kind


# ---- what ends some of them ----


def test_one_that_diverges_leaves_the_others_alone():
    optimizers = [bp.SGD(lr=1e30 if k in (1, 4) else 0.1) for k in range(6)]
    nets, twins = ([make("deep", seed=k) for k in range(6)] for _ in range(2))
    histories = bp.fit_many(nets, X, Y, optimizer=optimizers, epochs=5, n_threads=2)
    for k, (net, twin, history) in enumerate(zip(nets, twins, histories, strict=True)):
        if k not in (1, 4):
            assert history.error is None and columns(history) == columns(
                twin.fit(X, Y, optimizer=optimizers[k], epochs=5)
            )
        else:
            with pytest.raises(bp.DivergenceError) as raised:
                twin.fit(X, Y, optimizer=optimizers[k], epochs=5)
            assert str(history.error) == str(raised.value) and "not finite" in repr(history)
            assert str(pickle.loads(pickle.dumps(history)).error) == str(history.error)
        assert state(net) == state(twin)


def test_advice_is_for_the_rows_that_it_was_trained_on():
    large = X.copy()
    large[0] = 100
    nets = [make("deep", seed=k) for k in range(2)]
    rows = [np.arange(1, 90), np.arange(90)]
    first, second = bp.fit_many(nets, large, Y, rows=rows, optimizer=bp.SGD(lr=1e30))
    assert "X reaches" not in first.error.advice and "X reaches 100" in second.error.advice


def test_each_stops_for_itself():
    stop = bp.EarlyStopping(patience=2)
    settings = {"validation_data": (X[60:], LABELS[60:]), "optimizer": bp.Adam(lr=0.05), "epochs": 60}
    nets, twins = ([make(seed=k) for k in range(7)] for _ in range(2))
    histories = bp.fit_many(nets, X[:60], LABELS[:60], callbacks=stop, n_threads=2, **settings)
    wanted = [twin.fit(X[:60], LABELS[:60], callbacks=stop, **settings) for twin in twins]
    check_alike(nets, twins, histories, wanted)
    assert len({len(history.epoch) for history in histories}) > 1 and nets[0].epoch < len(histories[0].epoch)


def test_callbacks_of_its_own_are_called_as_in_fit():
    """Lists of K, one of them empty; on each batch; replaced optimisers and orders; what is given once is copied."""

    class Look(bp.Callback):
        def __init__(self):
            self.seen = []

        def on_batch_end(self, state):
            self.seen.append((state.step, state.loss))

    def turn(state):
        state.optimizer = bp.SGD(lr=0.1 / state.epoch, weight_decay=0.01 * (state.epoch > 1))
        state.order = np.arange(len(X))[::-1]

    looks = [Look(), Look()]
    nets, twins = ([make(seed=k) for k in range(4)] for _ in range(2))
    histories = bp.fit_many(nets, X, LABELS, callbacks=[[looks[0]], [turn], [], [turn]], epochs=3, n_threads=2)
    each = [[looks[1]], [turn], [], [turn]]
    check_alike(
        nets, twins, histories, [t.fit(X, LABELS, callbacks=c, epochs=3) for t, c in zip(twins, each, strict=True)]
    )
    assert looks[0].seen == looks[1].seen and len(looks[0].seen) == 9
    bp.fit_many(nets, X, LABELS, callbacks=looks[0])
    assert len(looks[0].seen) == 9


def test_an_order_is_one_of_the_networks_own_rows():
    rows, order = np.array([3, 3, 80, 7]), np.array([2, 0, 3, 1])
    net, twin = make(), make()

    def reorder(state):
        state.order = order

    settings = {"callbacks": reorder, "epochs": 3, "batch_size": 2}
    bp.fit_many([net], X, LABELS, rows=rows, **settings)
    twin.fit(X[rows], LABELS[rows], **settings)
    assert state(net) == state(twin)


def test_what_a_callback_raises_leaves_all_at_a_whole_step():
    class Stop(Exception):
        pass

    closed = []

    class Raise(bp.Callback):
        def __init__(self, at):
            self.at = at

        def on_epoch_end(self, state):
            if state.epoch == self.at:
                raise Stop

        def on_fit_close(self, state):
            closed.append(state.net)

    nets = [make(seed=k) for k in range(5)]
    with pytest.raises(Stop):
        bp.fit_many(nets, X, LABELS, callbacks=[[Raise(2 if k == 2 else 9)] for k in range(5)], epochs=5, n_threads=2)
    assert set(closed) == set(nets) and len(closed) == 5
    for k, net in enumerate(nets):
        twin = make(seed=k)
        twin.fit(X, LABELS, epochs=net.epoch)
        assert state(net) == state(twin)
    bp.fit_many(nets, X, LABELS)


@pytest.mark.parametrize("watched", [False, True])
def test_ctrl_c_leaves_all_at_their_last_whole_step(watched):
    nets = [make("deep", seed=k) for k in range(5)]
    with interrupted(lambda: nets[0].step):
        bp.fit_many(nets, X, Y, epochs=10**8, batch_size=4, n_threads=2, callbacks=[lambda state: None] * watched)
    assert nets[0].step > 0
    for k, net in enumerate(nets):
        twin, steps = make("deep", seed=k), net.step
        twin.fit(X, Y, epochs=net.epoch, batch_size=4)

        class Stop(bp.Callback):
            def on_batch_end(self, state, steps=steps):
                if state.step == steps:
                    raise KeyboardInterrupt

        if twin.step < steps:
            with pytest.raises(KeyboardInterrupt):
                twin.fit(X, Y, batch_size=4, callbacks=Stop())
        assert state(net) == state(twin)
        net.fit(X, Y)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised within a destructor
def test_signals_at_any_moment_leave_epochs_and_steps_that_belong_together():
    """A timer raises at random moments, between the calls of C as well; theta is that of the steps that are counted."""

    class Stop(BaseException):
        pass

    def handler(number, frame):
        nonlocal armed
        if armed:
            armed = False
            raise Stop

    pick, armed, hits = np.random.default_rng(0), False, 0
    thetas = {k: {0: make(seed=k).theta.tobytes()} for k in range(4)}
    settings = {"epochs": 40, "batch_size": 8}  # an epoch of 40 rows is 5 steps
    for k, known in thetas.items():

        class Keep(bp.Callback):
            def on_batch_end(self, state, known=known):
                known[state.step] = state.net.theta.tobytes()

        make(seed=k).fit(X[:40], LABELS[:40], callbacks=Keep(), **settings)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(60):
            nets = [make(seed=k) for k in range(4)]
            signal.setitimer(signal.ITIMER_REAL, pick.uniform(1e-5, 6e-3))
            try:
                armed = True
                watch = [lambda state: None] * int(pick.integers(2))
                bp.fit_many(nets, X[:40], LABELS[:40], callbacks=watch, n_threads=2, **settings)
            except Stop:
                hits += 1
            armed = False
            for k, net in enumerate(nets):
                assert net.theta.tobytes() == thetas[k][net.step] and 5 * net.epoch <= net.step <= 5 * net.epoch + 5
                with net._model.fitting:
                    pass  # nobody holds it
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits > 5


# ---- data ----


def test_rows_name_rows_of_the_same_x_which_is_not_copied():
    wide = np.random.default_rng(0).standard_normal((4000, 500))
    wide.flags.writeable = False
    y = wide[:, :1].copy()
    nets = [bp.Network([bp.Input(500), bp.Dense(1)], dtype="float64", seed=k) for k in range(4)]
    rows = np.random.default_rng(1).integers(0, 4000, (4, 4000))
    tracemalloc.start()
    bp.fit_many(nets, wide, y, rows=rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 < wide.nbytes // 8


def test_one_list_of_rows_serves_all():
    nets, twins = ([make(seed=k) for k in range(3)] for _ in range(2))
    rows = [5, 1, 1, 88]
    histories = bp.fit_many(nets, X.tolist(), LABELS.tolist(), rows=rows, sample_weight=np.arange(90))
    wanted = [twin.fit(X[rows], LABELS[rows], sample_weight=np.arange(90)[rows]) for twin in twins]
    check_alike(nets, twins, histories, wanted)


def test_rows_of_columns_that_lie_apart():
    """Gathered by number where they lie."""
    rows = np.arange(90)[::-2]
    for given in (np.asfortranarray(X), X.astype(">f4")[:, ::-1]):
        nets, twins = ([make(seed=k) for k in range(2)] for _ in range(2))
        histories = bp.fit_many(nets, given, LABELS, rows=rows)
        check_alike(nets, twins, histories, [twin.fit(given[rows], LABELS[rows]) for twin in twins])


def test_functions_in_c_find_subnormals_on_every_thread():
    """As in fit: bpcore flushes them, the user's functions do not; and they are called by several threads."""
    function = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    seen = []

    def look(f):
        def call(z):
            seen.append((threading.get_ident(), np.float64(5e-324) * 1 != 0))
            return f(z)

        return LowLevelCallable(function(call))

    own = bp.Activation(look(lambda z: z / 2), look(lambda z: 0.5))
    nets = [bp.Network([bp.Input(5), bp.Dense(2, own)], seed=k) for k in range(4)]
    for _ in range(20):
        bp.fit_many(nets, X[:20], Y[:20], n_threads=2)
        if len({thread for thread, _ in seen}) > 1:
            break
    assert all(live for _, live in seen) and np.float64(5e-324) * 1 != 0


def test_each_line_names_its_network(capsys):
    bp.fit_many([make(), make(seed=1)], X, LABELS, epochs=2, verbose=1)
    lines = sorted(line.split("  ")[:2] for line in capsys.readouterr().out.splitlines())
    assert lines == [[f"nets[{k}]", f"epoch {e}/2"] for k in range(2) for e in (1, 2)]


# ---- refused ----


def test_wrong_input_is_refused_and_changes_nothing():
    nets = [make(seed=k) for k in range(3)]
    before = [state(net) for net in nets]
    refused = [
        ({"nets": nets[0]}, TypeError, "nets: expected a list of networks"),
        ({"nets": [nets[0], "net"]}, TypeError, r"nets\[1\]: expected a bp.Network"),
        ({"nets": [nets[0], nets[1], nets[0]]}, ValueError, r"nets\[2\]: .*nets\[0\] again; use net.copy"),
        ({"nets": [nets[0], bp.Network([bp.Input(4), bp.Dense(3, "softmax")])]}, ValueError, "X: expected"),
        ({"X": np.full((90, 5), np.nan)}, ValueError, "X"),
        ({"optimizer": [bp.SGD()] * 2}, ValueError, "optimizer: expected one for all, or a list of 3"),
        ({"optimizer": [bp.SGD(), "adam", 3]}, TypeError, "optimizer: expected"),
        ({"seed": [1, 2]}, ValueError, "seed: expected one for all, or a list of 3"),
        ({"seed": [1, 2, -1]}, ValueError, "seed: expected an integer"),
        ({"rows": [[0], [1]]}, ValueError, "rows: expected one for all, or a list of 3"),
        ({"rows": np.zeros((2, 4), int)}, ValueError, "rows: expected one for all, or a list of 3"),
        ({"rows": [[0], [1], [90]]}, ValueError, r"rows\[2\]: expected row numbers from 0 to 89, got 90"),
        ({"rows": [0, -1]}, ValueError, "rows: expected row numbers from 0 to 89, got -1"),
        ({"rows": []}, ValueError, "rows: expected"),
        ({"rows": LABELS == 1}, ValueError, "np.flatnonzero"),
        ({"rows": [0.5]}, ValueError, "rows: expected"),
        ({"sample_weight": [np.ones(90)] * 2}, ValueError, "sample_weight: expected one for all, or a list of 3"),
        ({"sample_weight": np.ones(89)}, ValueError, "sample_weight"),
        ({"sample_weight": np.arange(90), "rows": [0]}, ValueError, "sample_weight: .* among the rows"),
        ({"callbacks": [[], []]}, ValueError, "callbacks: expected one for all, or a list of 3"),
        ({"callbacks": [[bp.EarlyStopping("loss")]] * 3}, ValueError, "an EarlyStopping of its own"),
        ({"callbacks": [bp.EarlyStopping()]}, ValueError, "EarlyStopping watches val_loss"),
        ({"epochs": -1}, ValueError, "epochs"),
        ({"n_threads": 0}, ValueError, "n_threads"),
    ]  # fmt: skip
    for wrong, error, match in refused:
        arguments = {"nets": nets, "X": X, "y": LABELS, **wrong}
        with pytest.raises(error, match=match):
            bp.fit_many(arguments.pop("nets"), arguments.pop("X"), arguments.pop("y"), **arguments)
        assert [state(net) for net in nets] == before
    assert bp.fit_many([], X, LABELS) == []
    (history,) = bp.fit_many(nets[:1], X, LABELS, epochs=0)
    assert history.epoch == []


def test_a_network_in_another_fit_is_refused_and_may_be_read_meanwhile():
    nets, others = [make(seed=k) for k in range(3)], [make(seed=9), None]
    others[1] = nets[2]
    found = []

    def work():
        try:
            with pytest.raises(RuntimeError, match=r"nets\[1\]: this network is being fitted in another thread"):
                bp.fit_many(others, X, LABELS)
            while nets[0].step < 50:
                time.sleep(1e-3)
            copy = nets[0].copy()
            found.append((state(copy), copy.step))
        finally:
            done.set()

    done = threading.Event()
    thread = threading.Thread(target=work)
    bp.fit_many(nets, X, LABELS, callbacks=lambda s: s.stop() if done.is_set() else thread.ident or thread.start(),
                epochs=10**7)  # fmt: skip
    thread.join()
    assert others[0].step == 0
    twin, (copied, steps) = make(seed=0), found[0]
    twin.fit(X, LABELS, epochs=steps // 3)
    assert copied == state(twin)
    bp.fit_many(others, X, LABELS)


# ---- fit_restarts ----


def test_restarts_are_networks_of_their_own_seeds_and_the_best_is_returned():
    net = make(seed=3)
    before = state(net)
    best, histories = bp.fit_restarts(net, X, LABELS, 5, epochs=4, n_threads=2, sample_weight=np.arange(90))
    twins = [make(seed=3 + k) for k in range(5)]
    for twin, history in zip(twins, histories, strict=True):
        assert columns(history) == columns(twin.fit(X, LABELS, epochs=4, sample_weight=np.arange(90)))
    losses = [twin.evaluate(X, LABELS, sample_weight=np.arange(90))["loss"] for twin in twins]
    assert state(best) == state(twins[int(np.argmin(losses))]) and state(net) == before
    held = (X[:20], LABELS[:20])
    best, _ = bp.fit_restarts(net, X, LABELS, 5, seed=11, validation_data=held, rows=[*range(20, 90)], epochs=2)
    twins = [make(seed=11 + k) for k in range(5)]
    for twin in twins:
        twin.fit(X[20:], LABELS[20:], epochs=2)
    assert best.theta.tobytes() == min(twins, key=lambda twin: twin.evaluate(*held)["loss"]).theta.tobytes()


def test_restarts_keep_frozen_layers_and_leave_out_what_diverged():
    net = make("deep")
    net.frozen = {"dense_1"}
    optimizers = [bp.SGD(lr=1e30), bp.SGD(lr=0.01)]
    best, histories = bp.fit_restarts(net, X, Y, 2, optimizer=optimizers)
    assert histories[0].error and not histories[1].error and best.seed == 1 and best.frozen == net.frozen
    assert (best.params["dense_1.W"] == net.params["dense_1.W"]).all()
    assert (best.params["dense_2.W"] != net.params["dense_2.W"]).any()
    with pytest.raises(bp.DivergenceError):
        bp.fit_restarts(net, X, Y, 2, optimizer=bp.SGD(lr=1e30))
    with pytest.raises(TypeError, match="net: expected a bp.Network, got 'net'"):
        bp.fit_restarts("net", X, Y, 2)
    with pytest.raises(TypeError, match="^epoch: .*Did you mean 'epochs'.*fit_restarts takes n, loss"):
        bp.fit_restarts(net, X, Y, 2, epoch=3)


# ---- docs/many.md ----


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, PAGE, "exec"), names)  # they assert for themselves
