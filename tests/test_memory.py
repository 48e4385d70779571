"""Buffers share memory where their lives do not meet, and no bit depends on it; what networks take, and files."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import bpcore as bp
from bpcore import _core, _plans
from bpcore._layers import INITS


def deep(width=8, depth=12):
    x = bp.Input(width)
    h = x
    for _ in range(depth):
        h = h + bp.Activate("tanh")(bp.Scale()(h)) * bp.Dense(width, "silu")(h)
    return bp.Network(x, [bp.Dense(3, "softmax")(h), bp.Dense(2)(bp.concat([h, x])[2:9])], dtype="float64")


def sequences():
    x = bp.Input((6, 4))
    h = bp.Dense(5, "gelu")(x)
    h = bp.Activate("softmax", axis=0)(bp.Permute((1, 0))(h)) - 0.5
    return bp.Network(x, bp.Dense(3, "softmax")(bp.Reshape(-1)(h[1:] * h[:-1])))


def wide():
    return bp.Network([bp.Input(40), *(bp.Dense(600, "tanh") for _ in range(3)), bp.Dense(600), bp.Dense(3)])


CASES = {"deep": deep, "sequences": sequences, "wide": wide}


def trained(make, n, threads):
    net = make()
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((n, *shape)) for shape in net.inputs.values()]
    y = [rng.random((n, *shape)) for shape in net.outputs.values()]
    net.fit(X if len(X) > 1 else X[0], y if len(y) > 1 else y[0], loss="squared_error", epochs=2, batch_size=n,
            optimizer=bp.Adam(0.01), n_threads=threads)  # fmt: skip
    answers = net.predict(X[0], n_threads=threads)
    return net.theta.tobytes(), [a.tobytes() for a in (answers if isinstance(answers, tuple) else [answers])]


@pytest.mark.parametrize("phase2", ["owners", "shards"])
@pytest.mark.parametrize("case", CASES)
def test_reuse_changes_no_bit(case, phase2, monkeypatch):
    _core.force(True, phase2)
    try:
        shared = [trained(CASES[case], n, threads) for n in (150, 7) for threads in (1, 3)]
        for name in ("TRAIN", "PREDICT"):
            monkeypatch.setattr(_plans, name, getattr(_plans, name) & ~_core.REUSE)
        apart = [trained(CASES[case], n, threads) for n in (150, 7) for threads in (1, 3)]
    finally:
        _core.force(False, "")
    assert shared == apart


def test_memory_is_saved_and_shown():
    net = deep()
    cut, shared, apart = _plans.memory(net._model, 32)
    assert cut == shared < 0.8 * apart
    assert "a step on 32 examples: " in net.summary() and "without reuse" in net.summary()
    few, many = (_plans.memory(deep(depth=depth)._model, 32) for depth in (6, 24))
    assert (many[1] - few[1]) < 0.8 * (many[2] - few[2])


def test_many_layers_are_placed_in_linear_time():
    import time

    def seconds(depth):  # of the processor
        layers = [bp.Input(1)]
        for _ in range(depth):
            layers += [bp.Scale(), bp.Activate("tanh")]
        net = bp.Network(layers)
        begin = time.process_time()
        _plans.memory(net._model, 1)
        return time.process_time() - begin

    seconds(100)
    assert min(seconds(4000) for _ in range(3)) < 12 * max(min(seconds(1000) for _ in range(3)), 0.01)


def test_states_lie_on_whole_lines_at_places_of_their_own(tmp_path):
    net = bp.Network([bp.Input(3), bp.Dense(5)], seed=0)
    net.fit(np.ones((4, 3)), np.ones((4, 5)), optimizer=bp.RMSprop(momentum=0.9, centered=True))
    net.save(tmp_path / "net.safetensors")
    for each in (net, net.copy(), bp.load(tmp_path / "net.safetensors")):
        arrays = [each.theta, *each._model.memory.states]
        places = [array.ctypes.data % 4096 for array in arrays]
        assert len(arrays) == 4 and len(set(places)) == 4 and not any(place % 64 for place in places)


# ---- networks ----


def table(init="zeros", n=100_000):
    """A network of 6.4 MB."""
    words = bp.Input(2, integer=True)
    return bp.Network(words, bp.Dense(1)(bp.Reshape(-1)(bp.Embedding(n, 16, init=init)(words))))


def taken(call):
    """Bytes that a call takes at most, of Python's memory and NumPy's."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("init", INITS)
def test_first_weights_take_no_memory_beside_themselves(init):
    assert taken(lambda: table(init)) < 1.1 * 6.4e6


def test_a_copy_takes_its_own_size_and_draws_nothing(monkeypatch, tmp_path):
    net = table()

    def drawn(*arguments):
        raise AssertionError("drawn")

    monkeypatch.setattr(_core, "uniform", drawn)
    (words,) = net.inputs
    for call in (net.copy, lambda: net.part(words, "dense_1"), lambda: net._model.like("float32")):
        assert taken(call) < 1.1 * 6.4e6
    assert taken(lambda: net.save(tmp_path / "net")) < 0.1 * 6.4e6
    assert taken(lambda: bp.load(tmp_path / "net")) < 1.1 * 6.4e6


def test_load_takes_little_more_than_the_file(tmp_path):
    """Of the whole process: pages that are mapped would count."""
    net = table(n=200_000)
    net.fit(np.zeros((2, 2), int), np.zeros((2, 1)), optimizer=bp.SGD(momentum=0.9))
    net.save(tmp_path / "large")
    bp.Network([bp.Input(1), bp.Dense(1)]).save(tmp_path / "small")
    script = f"""if True:
        import resource, sys
        import bpcore as bp
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        bp.load({str(tmp_path / "small")!r})
        before = peak()
        bp.load({str(tmp_path / "large")!r})
        print(peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    size = (tmp_path / "large").stat().st_size
    assert size > 25e6 and json.loads(done.stdout) < 1.2 * size
