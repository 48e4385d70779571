"""Dropout of whole axes, AlphaDropout, GaussianNoise: what is drawn, bits, files, errors.

test_attention.py has Dropout of single numbers, test_layers.py and test_random_graphs.py bits of all of them.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import distance
from safetensors import safe_open

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(0)
SEED = 2**40 + 5
S = 1.0507009873554805 * 1.6732632423543772  # the limit of selu


def words_of(step, n, layer):
    """n words of Philox, as layers draw them."""
    blocks = [_core.philox((2, layer, step, i), (SEED & 0xFFFFFFFF, SEED >> 32)) for i in range((n + 3) // 4)]
    return np.concatenate(blocks)[:n]


def outputs(layers, X, dtype="float64", step=0, **fit):
    """What a network makes of X in a step of training: its loss looks on."""
    net, seen = bp.Network([bp.Input(X.shape[1:]), *layers, bp.Bias()], dtype=dtype, seed=SEED), []

    def value(a, y):
        seen.append(a.copy())
        return a.reshape(len(a), -1).sum(1)

    net.step = step
    net.fit(X, np.zeros_like(X), loss=bp.Loss(value, lambda a, y: np.ones_like(a)), batch_size=len(X), shuffle=False,
            optimizer=bp.SGD(lr=1e-3), **fit)  # fmt: skip
    return np.concatenate(seen)


# the shape of an example, noise_shape, and in which shape numbers are drawn
SHARED = [
    ((7, 5), (1, None), (1, 5)), ((7, 5), (None, 1), (7, 1)), ((3, 4, 6), (1, 1, None), (1, 1, 6)),
    ((3, 4, 6), (None, 1, 1), (3, 1, 1)), ((3, 4, 6), (3, 1, None), (3, 1, 6)), ((3, 4), (1, 1), (1, 1)),
    ((2, 3, 100), (1, None, None), (1, 3, 100)), ((2, 3, 64), (None, 1, 64), (2, 1, 64)),
    ((5, 1, 4), (1, None, 1), (1, 1, 1)), ((6,), (1,), (1,)), ((4, 3), (None, None), (4, 3)),
]  # fmt: skip


@pytest.mark.parametrize("kind", [bp.Dropout, bp.AlphaDropout])
@pytest.mark.parametrize("shape, noise_shape, drawn", SHARED)
def test_what_is_dropped_is_what_philox_says(shape, noise_shape, drawn, kind):
    """One word for each number of noise_shape, row after row; to rounding."""
    rows, rate = 9, 0.4
    X = RNG.normal(size=(rows, *shape))
    for step in range(2):
        words = words_of(step, rows * int(np.prod(drawn)), 1)
        kept = np.broadcast_to((words >= rate * 2**32).reshape(rows, *drawn), X.shape)
        a = 1 / np.sqrt((1 - rate) * (1 + rate * S**2))
        want = np.where(kept, X / (1 - rate), 0)
        if kind is bp.AlphaDropout:
            want = a * np.where(kept, X, -S) + a * rate * S
        assert distance(outputs([kind(rate, noise_shape=noise_shape)], X, step=step), want) < 1e-15


@pytest.mark.parametrize("shape, noise_shape, drawn", SHARED)
def test_gradients_of_what_is_dropped(shape, noise_shape, drawn):
    """The gradient of a bias before it is the mean of the mask, where the loss is linear."""
    rows, rate, X = 9, 0.4, np.zeros((9, *shape))
    net = bp.Network([bp.Input(shape), bp.Reshape(-1), bp.Bias(), bp.Reshape(shape),
                      bp.Dropout(rate, noise_shape=noise_shape)], dtype="float64", seed=SEED)  # fmt: skip
    loss = bp.Loss(lambda a, y: a.reshape(len(a), -1).sum(1), lambda a, y: np.ones_like(a))
    net.fit(X, X, loss=loss, optimizer=bp.SGD(lr=1.0), batch_size=rows)
    words = words_of(0, rows * int(np.prod(drawn)), 4).reshape(rows, *drawn)
    mask = np.broadcast_to(words >= rate * 2**32, X.shape) / (1 - rate)
    assert distance(-net.theta, mask.mean(0).ravel()) < 1e-14


def test_alpha_dropout_keeps_mean_and_variance():
    """Of 160,000 numbers, to five standard errors."""
    X = RNG.normal(size=(400, 400))
    for rate in (0.1, 0.5):
        found = outputs([bp.AlphaDropout(rate)], X)
        assert abs(found.mean()) < 5 / 400 and abs(found.var() - 1) < 10 / 400
    assert distance(outputs([bp.AlphaDropout(0)], X), X) < 1e-15


@pytest.mark.parametrize("dtype, tolerance", [("float64", 4e-15), ("float32", 1.5e-6)])
def test_noise_is_what_philox_says(dtype, tolerance):
    """Box and Muller of words 0 and 1, and of 2 and 3; lengths are up to 4 here."""
    rows, n = 9, 11
    X = np.zeros((rows, n))
    for step in range(2):
        words = words_of(step, 4 * ((rows * n + 3) // 4), 1).reshape(-1, 2)
        length = np.sqrt(-2 * np.log((words[:, 0] // 2 + 0.5) / 2**31))
        angle = 2 * np.pi * words[:, 1] / 2**32
        g = np.stack([length * np.cos(angle), length * np.sin(angle)], 1).ravel()[: rows * n].reshape(rows, n)
        found = outputs([bp.GaussianNoise(0.5)], X, dtype, step) / 0.5
        assert np.abs(found - g).max() < tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_is_normal(dtype):
    """Moments of 160,000 draws to five standard errors; neighbours do not depend on each other."""
    g = outputs([bp.GaussianNoise(2.0)], np.zeros((400, 400), dtype), dtype).astype(float).ravel() / 2
    for power, moment, error in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((g**power).mean() - moment) < 5 * error / 400
    for lag in (1, 2, 3, 4, 400):
        assert abs((g[:-lag] * g[lag:]).mean()) < 5 / 400
    assert 4 < np.abs(g).max() < 6.7


LAYERS = {
    "channels": lambda: bp.Dropout(0.3, noise_shape=(1, None)),
    "steps": lambda: bp.Dropout(0.3, noise_shape=(None, 1)),
    "alpha": lambda: bp.AlphaDropout(0.3),
    "noise": lambda: bp.GaussianNoise(0.3),
}


def net_with(kind, dtype="float64", **settings):
    layer, h = LAYERS[kind], bp.Input((6, 10))
    x = h
    for _ in range(3):
        h = layer()(bp.Dense(10, "tanh")(h))
    return bp.Network(x, bp.Dense(3, "softmax")(bp.Reshape(-1)(h)), dtype=dtype, seed=1, **settings)


X, Y = RNG.normal(size=(300, 6, 10)), RNG.integers(0, 3, 300)


@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_is_drawn_elsewhere(kind):
    """predict, evaluate, value_and_grad and hvp are those of a network without the layer."""
    net, layer = net_with(kind), bp.Input((6, 10))
    h = layer
    for _ in range(3):
        h = bp.Dense(10, "tanh")(h)
    bare = bp.Network(layer, bp.Dense(3, "softmax")(bp.Reshape(-1)(h)), dtype="float64", seed=1)
    bare.theta = net.theta
    assert (net.predict(X) == bare.predict(X)).all() and (net.predictor()(X) == bare.predict(X)).all()
    assert net.evaluate(X, Y) == bare.evaluate(X, Y)
    assert distance(net.value_and_grad(X, Y)[1], bare.value_and_grad(X, Y)[1]) < 1e-14
    v = RNG.normal(size=net.n_params)
    assert distance(net.hvp(X, Y, v), bare.hvp(X, Y, v)) < 1e-13


@pytest.mark.parametrize("phase2", ["owners", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_bits_do_not_depend_on_threads_parts_and_checkpoints(kind, dtype, phase2, force):
    ways = [(1, 0.0, None), (2, 0.0, True), (3, 3e4, None)] if phase2 == "owners" else [(1, 0.0, None), (3, 0.0, True)]
    found = []
    for n_threads, round_flops, checkpoint in ways:
        force(True, phase2, **({"round_flops": round_flops} if round_flops else {}))
        net = net_with(kind, dtype, checkpoint=checkpoint)
        loss = net.fit(X, Y, optimizer=bp.Adam(lr=0.01), batch_size=70, epochs=2, n_threads=n_threads).loss
        found.append((net.theta.tobytes(), loss))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("kind", LAYERS)
def test_training_goes_on_from_a_file(kind, tmp_path):
    whole, parts = net_with(kind), net_with(kind)
    whole.fit(X, Y, optimizer=bp.Adam(lr=0.01), epochs=2, batch_size=64)
    parts.fit(X, Y, optimizer=bp.Adam(lr=0.01), epochs=1, batch_size=64)
    parts.save(tmp_path / "net")
    parts = bp.load(tmp_path / "net")
    assert repr(parts.layers) == repr(whole.layers)
    parts.fit(X, Y, optimizer=bp.Adam(lr=0.01), epochs=1, batch_size=64)
    assert parts.theta.tobytes() == whole.theta.tobytes()


def test_files_of_plain_dropout_are_of_format_1(tmp_path):
    """Those of a noise_shape, and of new layers, of 2."""
    for layer, version in ((bp.Dropout(0.2), "1"), (LAYERS["steps"](), "2"), (LAYERS["alpha"](), "2"),
                           (LAYERS["noise"](), "2")):  # fmt: skip
        bp.Network([bp.Input((6, 10)), layer]).save(tmp_path / "net")
        with safe_open(tmp_path / "net", framework="numpy") as file:
            metadata = file.metadata()
        attributes = json.loads(metadata["graph"])["nodes"][1]["attributes"]
        assert metadata["bpcore_format"] == version and ("noise_shape" in attributes) == ("noise" in repr(attributes))
        if version == "1":
            assert attributes == {"rate": 0.2}
        assert repr(bp.load(tmp_path / "net").layers[1]) == repr(layer)


def test_streams():
    net = bp.Network([bp.Input((6, 3)), bp.GaussianNoise(0.1), bp.Dropout(0.5, noise_shape=(1, None)),
                      bp.AlphaDropout(0.1), bp.GRU(4)])  # fmt: skip
    x, step = RNG.normal(size=(6, 3)), net.stepper()
    assert [step(a) for a in x][-1].tobytes() == net.predict(x[None])[0].tobytes()


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: bp.Dropout(0.2, noise_shape=1), TypeError, r"expected None or a tuple such as \(1, None\), got 1"),
        (lambda: bp.Dropout(0.2, noise_shape=(0, None)), ValueError, "noise_shape"),
        (lambda: bp.Dropout(0.2, noise_shape=(1.5,)), TypeError, "noise_shape"),
        (lambda: bp.Dropout(0.2, noise_shape=(None, 1, 8))(bp.Input((6, 8))), ValueError, "without the batch.*, 8"),
        (lambda: bp.Dropout(0.2, noise_shape=(2, None))(bp.Input((6, 8))), ValueError, "1, None or its size"),
        (lambda: bp.Dropout(0.2, noise_shape=(1, None, 1))(bp.Input((6, 8, 2))), ValueError, "side by side"),
        (lambda: bp.AlphaDropout(1), ValueError, "rate"),
        (lambda: bp.GaussianNoise(-1), ValueError, "std"),
        (lambda: bp.GaussianNoise(float("inf")), ValueError, "std"),
        (lambda: bp.GaussianNoise("small"), TypeError, "std"),
    ],
)
def test_wrong_settings_and_shapes(make, error, words):
    with pytest.raises(error, match=words):
        make()


# an operation's inputs, integers and reals that fit, and what does not in place of one of them
WRONG = [
    ("dropout", 2, [0.5], [1, 0, 2, 3], [1, 0, 2, 5]), ("dropout", 2, [0.5], [1, 0, 2, 3], [1, 0, 2, 0]),
    ("dropout", 2, [0.5], [1, 0, 2, 3], [1, 0, 2**40, 2**40]), ("dropout", 2, [1.0], None, [1]),
    ("noise", 1, [-1.0], None, [1]), ("noise", 1, [float("nan")], None, [1]),
]  # fmt: skip


@pytest.mark.parametrize("name, _, reals, good, wrong", WRONG)
def test_c_refuses_what_does_not_fit(name, _, reals, good, wrong):
    plan = _core.Plan(np.float32)
    x = plan.buffer(12)
    if good:
        assert plan.op(name, [x], settings=(good, reals)) > 0
    with pytest.raises(ValueError, match="."):
        plan.op(name, [x], settings=(wrong, reals))


def test_the_page_runs():
    text = (Path(__file__).parent.parent / "docs/regularization.md").read_text(encoding="utf-8")
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, "docs/regularization.md", "exec"), {})  # it asserts for itself
