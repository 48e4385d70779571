"""Streams: blocks that come one after the other are trained as one array is, whatever their sizes."""

import re
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fitting import RNG, interrupted, state_of

import bpcore as bp

X = RNG.standard_normal((203, 3))
Y = RNG.standard_normal((203, 2))
W = RNG.uniform(0.5, 2, 203)
LABELS = RNG.integers(0, 3, 203)
PAGE = Path(__file__).parent.parent / "docs/streams.md"


def make(output="identity", n_out=2, dtype="float64", **settings):
    layers = [bp.Input(3), bp.Dense(6, "tanh"), bp.Dropout(0.2), bp.Dense(n_out, output)]
    return bp.Network(layers, seed=3, dtype=dtype, **settings)


def cut(sizes, *arrays):
    """Blocks of these sizes, again and again, in memory that is used again for each; the number of blocks begun."""

    def blocks():
        room = [np.empty((max(sizes), *a.shape[1:]), a.dtype) for a in arrays]
        first = k = 0
        while first < len(arrays[0]):
            n = min(sizes[k % len(sizes)], len(arrays[0]) - first)
            for own, array in zip(room, arrays, strict=True):
                own[:n] = array[first : first + n]
            yield tuple(own[:n] for own in room)
            for own in room:
                own[...] = -1
            first, k = first + n, k + 1

    return bp.data.Stream(blocks)


OPTIMIZERS = [
    bp.SGD(lr=0.05, momentum=0.9), bp.Adam(lr=bp.schedules.Step(0.01, every=9)),
    bp.AdamW(lr=bp.schedules.Cosine(0.01, length=30, warmup=2), ema=0.9, clip_norm=0.5), bp.ScheduleFree(bp.AdamW()),
]  # fmt: skip


# ---- the bits of one array ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("sizes", [[100], [5], [203], [16], [3, 70, 40]])
def test_no_batch_depends_on_the_sizes_of_blocks(optimizer, sizes):
    settings = {"optimizer": optimizer, "batch_size": 16, "epochs": 2, "shuffle": False, "l2": 1e-3}
    one, other = make(), make()
    want = one.fit(X, Y, sample_weight=W, **settings)
    got = other.fit(cut(sizes, X, Y, W), **settings)
    assert state_of(one) == state_of(other) and want.loss == got.loss and want.lr == got.lr


def test_several_inputs_and_outputs_and_other_dtypes():
    x, z = bp.Input(3, name="x"), bp.Input(2, name="z")
    h = bp.Dense(4, "tanh")(bp.concat([x, z]))
    nets = [bp.Network([x, z], [bp.Dense(1, name="p")(h), bp.Dense(3, "softmax", name="q")(h)], seed=1)
            for _ in range(2)]  # fmt: skip
    X32, Z, y = X.astype("f4"), RNG.integers(0, 9, (203, 2)), {"p": Y[:, :1], "q": LABELS}

    def blocks():
        for first in range(0, 203, 50):
            some = slice(first, first + 50)
            kind = "i4" if first else "u8"
            yield {"x": X32[some], "z": Z[some].astype(kind)}, {"p": y["p"][some], "q": y["q"][some].astype(kind)}

    settings = {"optimizer": "adam", "batch_size": 16, "shuffle": False}
    nets[0].fit({"x": X32, "z": Z}, y, **settings)
    nets[1].fit(bp.data.Stream(blocks), **settings)
    assert state_of(nets[0]) == state_of(nets[1])
    for one, other in zip(zip(*nets[1].predict(bp.data.Stream(blocks)), strict=True),
                          nets[0].predict({"x": X32, "z": Z}), strict=True):  # fmt: skip
        assert np.array_equal(np.concatenate(one), other)


def test_shuffled_rows_of_one_block_come_as_those_of_an_array():
    nets = make(), make(), make()
    nets[0].fit(X, Y, epochs=2)
    nets[1].fit(cut([203], X, Y), epochs=2)
    nets[2].fit(cut([203], X, Y), epochs=2, seed=4)
    assert state_of(nets[0]) == state_of(nets[1]) != state_of(nets[2])


def test_rows_are_shuffled_within_blocks_anew_for_each_epoch():
    seen = []
    loss = bp.Loss(lambda a, y: (seen.extend(y[:, 0].tolist()), ((a - y) ** 2).sum(1))[1], lambda a, y: 2 * (a - y))
    numbers = np.arange(203.0)[:, None]
    for n_threads in (1, 2):
        net = bp.Network([bp.Input(3), bp.Dense(1)], dtype="float64")
        net.fit(cut([50, 30], X, numbers), loss=loss, epochs=2, batch_size=16, n_threads=n_threads)
    epochs = [np.array(seen[k : k + 203]) for k in range(0, 4 * 203, 203)]
    starts = [0, 50, 80, 130, 160, 203]
    for epoch in epochs:
        for a, b in zip(starts, starts[1:], strict=False):
            assert sorted(epoch[a:b]) == list(range(a, b)) and list(epoch[a:b]) != sorted(epoch[a:b])
    assert (epochs[0][:50] != epochs[0][80:130] - 80).any()
    assert (epochs[0] == epochs[2]).all() and (epochs[1] == epochs[3]).all()
    for a, b in zip(starts, starts[1:], strict=False):
        assert (epochs[0][a:b] != epochs[1][a:b]).any()


@pytest.mark.parametrize("batch_size", [1, 500])
def test_batches_of_one_row_and_of_all(batch_size):
    one, other = make(), make()
    one.fit(X, Y, batch_size=batch_size, shuffle=False, epochs=2)
    other.fit(cut([90], X, Y), batch_size=batch_size, shuffle=False, epochs=2)
    assert state_of(one) == state_of(other)


def test_a_block_in_which_nothing_counts_makes_no_step():
    w = np.where(np.arange(203) < 96, 0.0, W)
    one, other = make(), make()
    one.fit(X, Y, sample_weight=w, batch_size=16, shuffle=False)
    other.fit(cut([48], X, Y, w), batch_size=16, shuffle=False)
    assert state_of(one) == state_of(other) and one.step == 7


# ---- what is learnt from the first block ----


def test_moments_and_class_weights_are_those_of_the_first_block():
    def network():
        return bp.Network([bp.Input(3), bp.Standardize(), bp.Dense(2)], seed=1)

    net, first = network(), network()
    net.fit(cut([50], 5 + 2 * X, 3 * Y), standardize_y=True, loss="mse")
    first.fit(5 + 2 * X[:50], 3 * Y[:50], standardize_y=True, loss="mse")
    assert all(np.array_equal(net.moments[name], own) for name, own in first.moments.items()) and net.moments
    one, other = make("softmax", 3), make("softmax", 3)
    counts = np.bincount(LABELS[:50], minlength=3)
    weights = {k: float(50 / (3 * counts[k])) for k in range(3)}
    want = one.fit(X, LABELS, class_weight=weights, shuffle=False, validation_data=(X, LABELS))
    held = cut([70], X, LABELS)
    history = other.fit(cut([50], X, LABELS), class_weight="balanced", shuffle=False, validation_data=held)
    assert state_of(one) == state_of(other)
    assert history.val_loss == pytest.approx(want.val_loss, rel=1e-12)


def test_names_of_columns_are_kept():
    class Frame:  # what a data frame has
        def __init__(self, rows, columns):
            self.rows, self.columns = rows, columns

        def __array__(self, dtype=None, copy=None):
            return self.rows

    net = make()
    net.fit(bp.data.Stream(lambda: iter([(Frame(X, ["a", "b", "c"]), Y)])))
    assert net.feature_names == {"input": ("a", "b", "c")}
    bad = bp.data.Stream(lambda: iter([(Frame(X, ["a", "b", "c"]), Y), (Frame(X, ["a", "c", "b"]), Y)]))
    with pytest.raises(ValueError, match="X of block 1: expected the columns that fit saw"):
        net.fit(bad)


# ---- predict, evaluate, validation ----


def test_answers_and_losses_over_a_stream():
    net = make("softmax", 3)
    net.fit(X, LABELS, epochs=3)
    stream = cut([60], X, LABELS, W)
    parts = net.predict(stream)
    assert iter(parts) is parts and [len(part) for part in parts] == [60, 60, 60, 23]
    assert np.array_equal(np.concatenate(list(net.predict(stream))), net.predict(X))
    bare = bp.data.Stream(lambda: iter([X[:50], X[50:]]))
    assert np.array_equal(np.concatenate(list(net.predict(bare))), net.predict(X))
    want, got = net.evaluate(X, LABELS, sample_weight=W), net.evaluate(stream)
    assert got.keys() == want.keys() == {"loss", "accuracy"}
    assert all(got[name] == pytest.approx(value, rel=1e-12) for name, value in want.items())
    net_now = net.predict(X)
    parts = net.predict(stream)
    first = next(parts)
    net.fit(X, LABELS)
    assert np.array_equal(np.concatenate([first, *parts]), net_now)  # by the network as it was


def test_validation_over_a_stream():
    nets = make("softmax", 3), make("softmax", 3)
    settings = {"epochs": 3, "class_weight": {0: 2.0}, "l2": 0.01, "batch_size": 16}
    want = nets[0].fit(X, LABELS, validation_data=(X, LABELS, W), **settings)
    got = nets[1].fit(X, LABELS, validation_data=(X, LABELS, W), **settings)
    assert want.val_loss == got.val_loss
    net = make("softmax", 3)
    got = net.fit(cut([203], X, LABELS), validation_data=cut([60], X, LABELS, W), **settings)
    assert got.loss == want.loss
    assert got.val_loss == pytest.approx(want.val_loss, rel=1e-12) and got.val_accuracy == pytest.approx(
        want.val_accuracy, rel=1e-12
    )


# ---- the run ----


@pytest.mark.parametrize("steps", [1, 3, 6, 7, 13, 14, 20, 26])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_run_that_is_resumed_has_the_bits_of_one_that_never_stopped(steps, shuffle, tmp_path):
    settings = {"epochs": 2, "batch_size": 16, "shuffle": shuffle, "optimizer": OPTIMIZERS[1]}
    settings["validation_data"] = cut([60], X, Y)
    whole, net, stream = make(), make(), cut([50, 30], X, Y)
    want = whole.fit(stream, **settings)
    part = make().fit(stream, callbacks=bp.Checkpoint(tmp_path / "run"), max_steps=steps, **settings)
    assert part.stopped_by == ("max_steps" if steps < 26 else None)
    got = net.fit(stream, resume=tmp_path / "run", **settings)
    assert state_of(net) == state_of(whole) and (got.loss, got.val_loss, got.lr) == (want.loss, want.val_loss, want.lr)
    assert net.epoch == 2


def test_a_file_of_another_stream_is_refused(tmp_path):
    path = tmp_path / "run"
    make().fit(cut([50], X, Y), callbacks=bp.Checkpoint(path), max_steps=2)
    net = make()
    for other, words in ((cut([60], X, Y), "X has shape .50, 3."), (cut([50], X + 1, Y), "X has other numbers")):
        with pytest.raises(ValueError, match=f"resume: .*of another run: {words}"):
            net.fit(other, resume=path)
    with pytest.raises(ValueError, match="resume: .*of another run: .*first block"):
        net.fit(X[:50], Y[:50], resume=path)
    short = bp.data.Stream(lambda: iter([(X[:50], Y[:50])]))
    assert net.step == 0
    with pytest.raises(ValueError, match="resume: expected the blocks of the run .* more than 64 rows in an epoch"):
        net.fit(short, resume=path)


def test_limits_of_a_run_and_early_stopping():
    net = make()
    history = net.fit(cut([48], X, Y), batch_size=16, epochs=5, max_steps=3)  # where a block ends
    assert (net.step, history.stopped_by, net.epoch) == (3, "max_steps", 1)
    history = make().fit(cut([48], X, Y), epochs=10**6, max_seconds=0.05)
    assert history.stopped_by == "max_seconds"
    net = make()
    assert not net.fit(cut([48], X, Y), epochs=0).epoch and net.step == 0

    class Stop(bp.Callback):
        def on_batch_end(self, state):
            if state.step == 5:
                state.stop()

    net = make()
    history = net.fit(cut([48], X, Y), batch_size=16, epochs=5, callbacks=Stop())
    assert (net.step, history.stopped_by) == (5, "callback")


def test_what_is_printed_knows_the_rows_from_the_second_epoch_on(capsys):
    make().fit(cut([48], X, Y), epochs=3, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


# ---- memory and threads ----


def test_one_block_is_read_ahead_and_no_more():
    """Of blocks that a call has begun, those that are not yet trained on: the next one."""
    begun, most = [0], []

    def blocks():
        for first in range(0, 192, 16):
            begun[0] += 1
            yield X[first : first + 16], Y[first : first + 16]

    class Look(bp.Callback):
        def on_batch_end(self, state):
            time.sleep(0.002)
            most.append(begun[0] - state.step)

    make().fit(bp.data.Stream(blocks), batch_size=16, callbacks=Look())
    assert max(most) <= 1 and len(most) == 12


def test_two_blocks_are_held():
    big, y = np.zeros((4096, 64), "f4"), np.zeros((4096, 1), "f4")
    stream = bp.data.Stream(lambda: ((big, y) for _ in range(8)))
    net = bp.Network([bp.Input(64), bp.Dense(1)], seed=0)
    net.fit(stream, batch_size=100)
    tracemalloc.start()
    net.fit(stream, batch_size=100)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2.6 * big.nbytes  # with orders of rows, and up to a batch in front of a block


def test_threads_end_and_iterators_are_closed():
    closed = []

    def blocks():
        try:
            for first in range(0, 192, 16):
                yield X[first : first + 16], Y[first : first + 16]
        finally:
            closed.append(threading.current_thread().name)

    for settings in ({"epochs": 2}, {"max_steps": 1}):
        closed.clear()
        make().fit(bp.data.Stream(blocks), batch_size=16, **settings)
        assert closed == ["bpcore stream"] * settings.get("epochs", 1)
    assert not [thread for thread in threading.enumerate() if thread.name == "bpcore stream"]


def test_ctrl_c_is_heard_while_a_block_is_waited_for():
    waits, go_on = threading.Event(), threading.Event()

    def blocks():
        yield X[:32], Y[:32]
        waits.set()
        go_on.wait()
        yield X[32:64], Y[32:64]

    net = make()
    with interrupted(waits.is_set):
        net.fit(bp.data.Stream(blocks), batch_size=16)
    assert net.step == 2 and not go_on.is_set()
    go_on.set()
    assert net.predict(X).shape == (203, 2)


def test_a_run_of_so_many_seconds_does_not_wait_for_a_producer_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("bpcore._stream._PATIENCE", 0.01)
    go_on, hangs = threading.Event(), [True]

    def blocks():
        yield X[:32], Y[:32]
        if hangs.pop():
            go_on.wait()
        hangs.append(False)
        yield X[32:64], Y[32:64]

    settings = {"batch_size": 16, "epochs": 2}
    history = make().fit(
        bp.data.Stream(blocks), max_seconds=0.05, callbacks=bp.Checkpoint(tmp_path / "run"), **settings
    )
    assert history.stopped_by == "max_seconds"
    go_on.set()
    hangs[:] = [False]
    net, whole = make(), make()
    net.fit(bp.data.Stream(blocks), resume=tmp_path / "run", **settings)
    whole.fit(bp.data.Stream(blocks), **settings)
    assert state_of(net) == state_of(whole)


LIMITED = """
    import resource, sys
    import numpy as np, bpcore as bp
    net = bp.Network([bp.Input(512), bp.Dense(4, "relu"), bp.Dense(1)], seed=0)
    net.fit(np.zeros((64, 512), "f4"), np.zeros((64, 1), "f4"))         # threads and libraries are there
    used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + (32 << 20),) * 2)  # what file pages take does not count
    X = np.load(sys.argv[1], mmap_mode="r")
    assert X.nbytes >= 3 * (32 << 20)
    y = np.broadcast_to(np.float32(0.5), (len(X), 1))
    def blocks():
        for k in range(0, len(X), 1024):
            yield X[k : k + 1024], y[k : k + 1024]
    for how in ("array", "stream", "file"):
        net = bp.Network([bp.Input(511 if how == "file" else 512), bp.Dense(4, "relu"), bp.Dense(1)], seed=0)
        given = {"array": (X, y), "stream": (bp.data.Stream(blocks),),
                 "file": (bp.data.files(sys.argv[1], target=-1, block_rows=1024),)}[how]
        history = net.fit(*given, batch_size=512)
        assert net.step == len(X) // 512, net.step
    try:
        np.array(X)
    except MemoryError:
        print("trained")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_a_file_of_three_times_the_memory_that_there_is(tmp_path):
    path = tmp_path / "X.npy"
    np.lib.format.open_memmap(path, "w+", "f4", (48 * 1024, 512)).flush()  # of zeros that take no disk
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "trained\n", done.stderr


# ---- what goes wrong ----


class Own(Exception):
    pass


def after(n, what):
    """Blocks of 20 rows, then what is no block."""

    def blocks():
        for first in range(0, 20 * n, 20):
            yield X[first : first + 20], Y[first : first + 20]
        if isinstance(what, BaseException):
            raise what
        yield what

    return bp.data.Stream(blocks)


NAN = np.where(np.arange(60).reshape(20, 3) == 17, np.nan, 1.0)
FAULTS = [
    (Own("the disk"), Own, "^the disk$"),
    ((X[:20, :2], Y[:20]), ValueError, r"X of block 3: expected shape \(n, 3\).*, got \(20, 2\)"),
    ((X[:20], Y[:20, :1]), ValueError, r"y of block 3: expected shape \(20, 2\), got \(20, 1\)"),
    ((X[:20], Y[:20], W[:20]), ValueError, "block 3: expected no sample_weight as in the first block, got sample_w"),
    ((NAN, Y[:20]), ValueError, r"X of block 3: expected finite numbers; X of block 3\[5, 2\] is nan"),
    ((X[:20], Y[:19]), ValueError, r"y of block 3: expected 20 rows as in X"),
    ((X[:0], Y[:0]), ValueError, r"X of block 3: expected at least one row"),
    (X[:20], TypeError, r"block 3: expected \(X, y\) or \(X, y, sample_weight\), got ndarray"),
    ((X,), TypeError, r"block 3: expected \(X, y\) or \(X, y, sample_weight\), got a tuple of 1"),
]  # fmt: skip


@pytest.mark.parametrize("what, kind, words", FAULTS)
def test_a_stream_that_fails_leaves_the_last_whole_step(what, kind, words):
    net, want = make(), make()
    with pytest.raises(kind, match=words):
        net.fit(after(3, what), batch_size=16, shuffle=False)
    want.fit(X[:48], Y[:48], batch_size=16, shuffle=False)
    assert state_of(net) == state_of(want) and net.epoch == 0
    net.fit(X, Y)


@pytest.mark.parametrize("what, kind, words", FAULTS)
def test_a_first_block_that_is_none_changes_nothing(what, kind, words):
    if "as in the first" in words:
        return
    net, words = make(), re.sub(r"block 3", "block 0", words)
    with pytest.raises(kind, match=words):
        net.fit(after(0, what), batch_size=16)
    assert net.step == 0 and net.optimizer is None


def test_streams_without_rows():
    net = make()
    with pytest.raises(ValueError, match="blocks: expected at least one block in an epoch, got none"):
        net.fit(bp.data.Stream(lambda: iter(())))
    with pytest.raises(ValueError, match="blocks: expected at least one block"):
        net.evaluate(bp.data.Stream(lambda: iter(())))
    assert list(net.predict(bp.data.Stream(lambda: iter(())))) == [] and net.step == 0
    used_up = iter([(X, Y)])
    with pytest.raises(ValueError, match="got none; where a generator was used up by the epoch before"):
        net.fit(bp.data.Stream(lambda: used_up), epochs=2)
    assert net.epoch == 1


@pytest.mark.parametrize("given, words", [
    (iter([(X, Y)]), "blocks: expected a function that begins an epoch's iterator, got list_iterator; an iterator is"),
    ([(X, Y)], r"blocks: expected a function .*, got list; bp.data.Stream\(lambda: iter\(blocks\)\)"),
    (None, "blocks: expected a function"),
])  # fmt: skip
def test_what_is_no_stream(given, words):
    with pytest.raises(TypeError, match=words):
        bp.data.Stream(given)
    with pytest.raises(TypeError, match="blocks: expected a function that returns an iterator of .X, y., got .* int"):
        make().fit(bp.data.Stream(lambda: 3))


@pytest.mark.parametrize("settings, kind, words", [
    ({"y": Y}, TypeError, "y: expected None where X is a stream"),
    ({"sample_weight": W}, TypeError, "sample_weight: expected None where X is a stream"),
    ({"validation_split": 0.2}, TypeError, "validation_split: expected None .*; give validation_data"),
    ({"batch_size": None}, ValueError, "batch_size: expected a number of rows"),
    ({"mixup": 0.2}, ValueError, "mixup: expected 0 over a stream"),
    ({"train_metrics": True, "metrics": "mae"}, ValueError, "train_metrics: expected False over a stream"),
    ({"metrics": "mae", "validation_data": cut([9], X, Y)}, ValueError, "metrics: expected none where valid"),
    ({"optimizer": bp.Rprop()}, ValueError, "optimizer: Rprop takes all examples at once"),
    ({"optimizer": bp.LBFGS()}, ValueError, "optimizer: LBFGS "),
    ({"optimizer": bp.SGD(lr=bp.schedules.Cosine(0.1))}, ValueError, "lr: expected a schedule whose lengths are steps"),
    ({"optimizer": bp.SGD(lr=bp.schedules.Step(0.1, every=bp.schedules.Epochs(1)))}, ValueError, "lr: expected a"),
    ({"validation_data": cut([9], X[:, :2], Y)}, ValueError, "validation X of block 0: expected shape"),
    ({"callbacks": lambda state: setattr(state, "order", np.arange(203)), "epochs": 2}, ValueError, "state.order: "),
])  # fmt: skip
def test_what_a_stream_does_not_do(settings, kind, words):
    net = make()
    with pytest.raises(kind, match=words):
        net.fit(cut([50], X, Y), **settings)
    assert net.step == 0 or "callbacks" in settings
    assert not [thread for thread in threading.enumerate() if thread.name == "bpcore stream"]


def test_where_arrays_are_needed():
    net, stream = make(), cut([50], X, Y)
    for call in (net.partial_fit, net.value_and_grad):
        with pytest.raises(TypeError, match="X: .*a stream is no array: net.fit, predict and evaluate take it as X"):
            call(stream, Y)
    with pytest.raises(ValueError, match="metrics: expected none where X is a stream"):
        net.evaluate(stream, metrics="mae")
    with pytest.raises(TypeError, match="y: expected real numbers, got None, .* only a bp.data.Stream as X holds its"):
        net.fit(X)
    with pytest.raises(TypeError, match="y: expected real numbers, got None"):
        net.evaluate(X)
    assert repr(bp.data.Stream(cut)) == "Stream(cut)"


def test_a_step_that_diverges_says_where():
    net = make(dtype="float32")
    bad = np.where(np.arange(203)[:, None] == 150, 1e30, Y)
    with pytest.raises(bp.DivergenceError, match="epoch 1, batch 10") as caught:
        net.fit(cut([50], X, bad), optimizer=bp.SGD(lr=0.1), batch_size=16, shuffle=False)
    want = make(dtype="float32")
    want.fit(X[:144], Y[:144], optimizer=bp.SGD(lr=0.1), batch_size=16, shuffle=False)
    assert caught.value.batch == 10 and np.array_equal(net.theta, want.theta)


# ---- docs/streams.md ----


def test_every_snippet_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for snippet in snippets:
        if "parquet" not in snippet:  # those are in tests/peers
            exec(compile(snippet, str(PAGE), "exec"), names)
    assert len(snippets) >= 4


def test_what_an_iterator_raises_as_it_is_closed_is_a_warning():
    def blocks():
        try:
            while True:
                yield X[:40], Y[:40]
        finally:
            raise RuntimeError("late")

    with pytest.warns(UserWarning, match=r"raised RuntimeError\('late'\) as it was closed"):
        make().fit(bp.data.Stream(blocks), max_steps=3, max_seconds=1e11)
        for thread in threading.enumerate():
            if thread.name.startswith("bpcore stream"):
                thread.join(10)
