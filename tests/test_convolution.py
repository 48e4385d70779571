"""Convolutions and poolings: values by loops of NumPy, gradients by central differences, bits, files, errors."""

import itertools
import math

import numpy as np
import pytest
from conftest import distance

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(7)
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


def padded(a, layer, sizes, dilations, fill):
    """a (rows, *lengths, channels) with what is around it, long enough for every window, and the result's lengths."""
    strides = np.broadcast_to(layer.stride, len(sizes)) if hasattr(layer, "stride") else (1,) * len(sizes)
    given = getattr(layer, "padding", "valid")
    widths, counts = [(0, 0)], []
    for axis, (size, stride, dilation) in enumerate(zip(sizes, strides, dilations, strict=True)):
        n, reach = a.shape[1 + axis], (size - 1) * dilation + 1
        if given == "same":
            counts.append(math.ceil(n / stride))
            both = max((counts[-1] - 1) * stride + reach - n, 0)
            widths.append((both // 2, both - both // 2))
            continue
        own = given[axis] if isinstance(given, tuple) else given
        widths.append({"valid": (0, 0), "causal": (reach - 1, 0)}.get(own, (own, own)))
        counts.append((n + sum(widths[-1]) - reach) // stride + 1)
    return np.pad(a, [*widths, (0, 0)], constant_values=fill), counts, strides


def windows(a, layer, sizes, dilations, fill):
    """(position in the result, window (rows, *sizes, channels)) of each."""
    around, counts, strides = padded(a, layer, sizes, dilations, fill)
    for at in itertools.product(*map(range, counts)):
        cuts = [
            slice(i * s, i * s + (n - 1) * d + 1, d) for i, s, n, d in zip(at, strides, sizes, dilations, strict=True)
        ]
        yield at, counts, around[(slice(None), *cuts)]


def convolved(layer, a, W, b):
    """z by its definition."""
    sizes, groups = W.shape[:-2], layer.groups
    dilations = np.broadcast_to(layer.dilation, len(sizes))
    z, each, filters = None, W.shape[-2], W.shape[-1] // groups
    for at, counts, window in windows(a, layer, sizes, dilations, 0.0):
        if z is None:
            z = np.zeros((len(a), *counts, W.shape[-1]))
        for g in range(groups):
            part = window[..., g * each : (g + 1) * each].reshape(len(a), -1)
            own = slice(g * filters, (g + 1) * filters)
            z[(slice(None), *at, own)] = part @ W[..., own].reshape(part.shape[1], -1)
    return z if b is None else z + b


def pooled(layer, a):
    sizes = layer.size if isinstance(layer.size, tuple) else (layer.size,)
    reduce = np.nanmax if layer.kind == "max_pool" else np.nanmean
    axes, out = tuple(range(1, 1 + len(sizes))), None
    for at, counts, window in windows(a, layer, sizes, (1,) * len(sizes), np.nan):
        if out is None:
            out = np.zeros((len(a), *counts, a.shape[-1]))
        out[(slice(None), *at)] = reduce(window, axis=axes)
    return out


CONVOLUTIONS = [
    ((9, 8, 3), bp.Conv2D(5, 3)),
    ((28, 28, 1), bp.Conv2D(6, 5, padding="same")),
    ((7, 9, 1), bp.Conv2D(1, 3)),
    ((6, 23, 2), bp.Conv2D(3, (2, 4))),
    ((14, 14, 6), bp.Conv2D(16, 5)),
    ((5, 6, 4), bp.Conv2D(7, (2, 3), stride=(2, 1), padding="same")),
    ((9, 9, 2), bp.Conv2D(4, 3, stride=2, padding=1)),
    ((9, 10, 2), bp.Conv2D(4, 2, stride=3)),
    ((8, 11, 3), bp.Conv2D(4, 3, padding=(2, 0), dilation=(1, 2))),
    ((8, 11, 3), bp.Conv2D(4, (3, 1), dilation=3, bias=False)),
    ((6, 5, 6), bp.Conv2D(9, 3, groups=3, padding="same")),
    ((6, 5, 4), bp.Conv2D(4, 3, groups=4, stride=2, dilation=2, padding=3)),
    ((5, 4, 21), bp.Conv2D(21, (3, 2), groups=21, padding=1, stride=(1, 2))),
    ((3, 3, 20), bp.Conv2D(70, 3, padding=2)),
    ((2, 3, 300), bp.Conv2D(3, (2, 1))),
    ((4, 4, 2), bp.Conv2D(300, 2)),
    ((12, 4), bp.Conv1D(5, 3)),
    ((12, 4), bp.Conv1D(5, 3, padding="causal", dilation=2)),
    ((12, 4), bp.Conv1D(6, 4, padding="same", stride=2, groups=2)),
    ((300, 1), bp.Conv1D(2, 7)),
    ((15, 3), bp.TimeDelay(4, 5)),
    ((15, 3), bp.TimeDelay(4, 5, dilation=2, bias=False)),
]
POOLS = [
    ((8, 8, 6), bp.MaxPool2D(2)),
    ((9, 7, 17), bp.MaxPool2D((3, 2), stride=(2, 1), padding=(1, 1))),
    ((9, 7, 3), bp.MaxPool2D(3, stride=2, padding="same")),
    ((8, 8, 6), bp.AveragePool2D(2)),
    ((9, 7, 17), bp.AveragePool2D((3, 2), stride=(2, 1), padding=(1, 1))),
    ((10, 4), bp.MaxPool1D(3)),
    ((10, 4), bp.MaxPool1D(3, stride=1, padding=2)),
    ((10, 20), bp.AveragePool1D(4, stride=3, padding="same")),
]


def ids(case):
    shape, layer = case
    given = [f"{name}={getattr(layer, name)}" for name in layer.saved if not isinstance(getattr(layer, name), str)]
    return f"{type(layer).__name__}-{'x'.join(map(str, shape))}-{','.join(given)}".replace(" ", "")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=ids)
def test_a_convolution_is_its_definition(case, dtype):
    shape, layer = case
    net = bp.Network([bp.Input(shape), layer], dtype=dtype, seed=1)
    name = net._model.graph.nodes[1].name
    if layer.bias:
        net.params[f"{name}.b"][:] = RNG.standard_normal(net.params[f"{name}.b"].shape)
    W, b = (net.params.get(f"{name}.{letter}") for letter in "Wb")
    for rows in (1, 19, 67):
        a = RNG.standard_normal((rows, *shape)).astype(dtype)
        got = net.predict(a)
        want = convolved(layer, a.astype(float), W.astype(float), None if b is None else b.astype(float))
        assert got.shape[1:] == layer(bp.Input(shape)).shape
        assert distance(got, want) < TOLERANCE[dtype]
        assert (got[-1] == net.predict(a[-1:])[0]).all()
        assert (net.predictor()(a) == got).all()


@pytest.mark.parametrize("case", POOLS, ids=ids)
def test_a_pool_is_its_definition(case, dtype):
    shape, layer = case
    net = bp.Network([bp.Input(shape), layer], dtype=dtype)
    a = RNG.standard_normal((35, *shape)).astype(dtype) - 5  # nothing outside wins by being 0
    want = pooled(layer, a.astype(float))
    assert distance(net.predict(a), want) < TOLERANCE[dtype]
    if layer.kind == "max_pool":
        assert (net.predict(a) == want.astype(dtype)).all()


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 18), (2, 3, 2, 5)])
def test_global_pools_go_over_all_but_the_last_axis(shape):
    x = bp.Input(shape)
    net = bp.Network(x, [bp.GlobalMaxPool()(x), bp.GlobalAveragePool()(x)], dtype="float64")
    a = RNG.standard_normal((33, *shape))
    positions = tuple(range(1, len(shape)))
    greatest, mean = net.predict(a)
    assert (greatest == a.max(axis=positions)).all()
    assert distance(mean, a.mean(axis=positions)) < 1e-14


def behind(shape, layer):
    """A network that needs the layer's gradient to its input, twice, and to its parameters."""
    x = bp.Input(shape)
    h = bp.Scale()(x)
    return bp.Network(x, bp.Dense(2)(bp.Reshape(-1)(layer(h) + layer(h * h))), dtype="float64", seed=2)


SMALL = [case for case in CONVOLUTIONS if math.prod(case[0]) < 500 and case[1]._windows()[0] < 50] + POOLS
SMALL += [((3, 4, 5), bp.GlobalMaxPool()), ((7, 2), bp.GlobalAveragePool())]


def name_of(case):
    return ids(case) if hasattr(case[1], "saved") else type(case[1]).__name__


@pytest.mark.parametrize("case", SMALL, ids=name_of)
def test_gradients_are_central_differences(case):
    net = behind(*case)
    X, y = RNG.standard_normal((3, *case[0])), RNG.standard_normal((3, 2))
    errors = bp.check_gradients(net, X, y, sample_weight=[0.5, 2.0, 1.0])
    assert max(errors.values()) < 1e-7, errors


def lenet(dtype="float32", seed=3):
    return bp.Network(
        [
            bp.Input((12, 12, 1)), bp.Conv2D(6, 5, "tanh", padding="same"), bp.MaxPool2D(2),
            bp.Conv2D(9, 3, "relu"), bp.AveragePool2D(2), bp.Reshape(-1), bp.Dense(5, "softmax"),
        ],
        dtype=dtype,
        seed=seed,
    )  # fmt: skip


def sequence(dtype="float32", seed=3):
    shared = bp.Conv1D(6, 3, "tanh", padding="causal")
    x = bp.Input((11, 6))
    h = bp.MaxPool1D(2)(shared(shared(x)))
    return bp.Network(x, bp.Dense(5, "softmax")(bp.GlobalAveragePool()(bp.TimeDelay(20, 2, "silu")(h))), dtype=dtype,
                      seed=seed)  # fmt: skip


def wide(dtype="float32", seed=3):
    """W of the second convolution is cut into several blocks."""
    return bp.Network(
        [
            bp.Input((6, 6, 3)), bp.Conv2D(40, 3, "relu", padding=1), bp.Conv2D(96, 3, "relu", groups=2),
            bp.GlobalMaxPool(), bp.Dense(5, "softmax"),
        ],
        dtype=dtype,
        seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("phase2", ["owners", "shards", ""])
@pytest.mark.parametrize("make", [lenet, sequence, wide])
def test_the_same_bits_for_any_number_of_threads(make, phase2, dtype, force):
    force(True, phase2)
    X, y = RNG.standard_normal((150, *make()._model.graph.nodes[0].shape)), RNG.integers(0, 5, 150)
    found = []
    for n_threads in (1, 2, 3):
        net = make(dtype)
        _core.pool_tasks_reset()
        history = net.fit(X, y, batch_size=70, epochs=2, n_threads=n_threads, sample_weight=np.linspace(0.1, 1, 150))
        assert all(_core.pool_tasks(3)[:n_threads])
        assert np.isfinite(history.loss).all()
        found.append((net.theta.tobytes(), net.predict(X, n_threads=n_threads).tobytes(), history.loss))
    assert found[0] == found[1] == found[2]
    assert (net.predict(X[77:78]) == net.predict(X)[77]).all()
    assert (net.predictor()(X[:5]) == net.predict(X)[:5]).all()


@pytest.mark.parametrize("make", [lenet, sequence, wide])
def test_owners_and_shards_agree(make, force):
    X, y = RNG.standard_normal((150, *make()._model.graph.nodes[0].shape)), RNG.integers(0, 5, 150)
    gradients = []
    for phase2 in ("owners", "shards"):
        force(True, phase2)
        gradients.append(make("float64").value_and_grad(X, y)[1])
    assert distance(*gradients) < 1e-13
    assert distance(make("float32").value_and_grad(X, y)[1], gradients[0]) < 1e-5


@pytest.mark.parametrize("make", [lenet, sequence, wide])
def test_a_file_gives_the_network_back(make, tmp_path):
    net = make()
    X, y = RNG.standard_normal((40, *net._model.graph.nodes[0].shape)), RNG.integers(0, 5, 40)
    first = net.fit(X, y, optimizer=bp.Adam(lr=0.003), epochs=10).loss
    assert first[-1] < first[0]
    net.save(tmp_path / "net.safetensors")
    same = bp.load(tmp_path / "net.safetensors")
    assert (same.predict(X) == net.predict(X)).all()
    assert [type(layer) for layer in same.layers] == [type(layer) for layer in net.layers]
    one, two = (n.fit(X, y, optimizer=bp.Adam(lr=0.01), epochs=1).loss for n in (net, same))
    assert one == two


@pytest.mark.parametrize("case", CONVOLUTIONS + POOLS, ids=ids)
def test_a_file_keeps_every_setting(case, tmp_path):
    net = bp.Network([bp.Input(case[0]), case[1]])
    net.save(tmp_path / "net.safetensors")
    same, own = bp.load(tmp_path / "net.safetensors")._model.graph.nodes[1].layer, case[1]
    assert type(same) is type(own)
    assert [getattr(same, name) for name in own.saved] == [getattr(own, name) for name in own.saved]


def test_a_causal_convolution_does_not_look_ahead():
    net = bp.Network([bp.Input((9, 2)), bp.Conv1D(3, 4, padding="causal")])
    X = RNG.standard_normal((1, 9, 2))
    later = X.copy()
    later[0, 5:] += 1
    same = (net.predict(X) == net.predict(later)).all(axis=2)[0]
    assert same[:5].all() and not same[5:].any()


def test_nan_in_a_window_is_its_greatest():
    x = bp.Input((4, 4, 1))
    net = bp.Network(x, bp.MaxPool2D(2)(x + 0.0 * (x * x)))  # NaN where x * x is infinite
    X = RNG.standard_normal((4, 4, 4, 1))
    for i, at in enumerate(itertools.product((0, 1), (0, 1))):
        X[(i, *at)] = 1e30
    found = net.predict(X)[..., 0]
    assert np.isnan(found[:, 0, 0]).all() and np.isnan(found).sum() == 4


def test_he_and_glorot_count_the_window():
    net = bp.Network([bp.Input((30, 30, 8)), bp.Conv2D(400, 3, "relu", groups=2), bp.Conv2D(8, 3, "tanh")], seed=0)
    W = net.params["conv2d_1.W"]
    assert np.abs(W).max() <= math.sqrt(6 / (9 * 4)) and np.abs(W).max() > 0.99 * math.sqrt(6 / (9 * 4))
    W = net.params["conv2d_2.W"]
    assert np.abs(W).max() <= math.sqrt(6 / (9 * 408)) and np.abs(W).max() > 0.99 * math.sqrt(6 / (9 * 408))


def test_weights_of_ones_own():
    W = RNG.standard_normal((2, 3, 4, 5))
    net = bp.Network([bp.Input((6, 6, 4)), bp.Conv2D(5, (2, 3), init=W)], dtype="float64")
    assert (net.params["conv2d_1.W"] == W).all()
    with pytest.raises(ValueError, match=r"init: expected .*\(2, 3, 3, 5\)"):
        bp.Network([bp.Input((6, 6, 3)), bp.Conv2D(5, (2, 3), init=W)])


ERRORS = [
    (lambda: bp.Conv2D(0, 3), ValueError, "filters: expected an integer from 1"),
    (lambda: bp.Conv2D(3, (1, 2, 3)), ValueError, "size: expected an integer or two"),
    (lambda: bp.Conv2D(3, 2.5), TypeError, "size: expected an integer"),
    (lambda: bp.Conv2D(3, 3, stride=0), ValueError, "stride: expected an integer from 1"),
    (lambda: bp.Conv2D(3, 3, padding="causal"), ValueError, "padding"),
    (lambda: bp.Conv2D(3, 3, padding=-1), ValueError, "padding: expected an integer from 0"),
    (lambda: bp.Conv2D(3, 3, "rely"), ValueError, "rely"),
    (lambda: bp.Conv1D(3, (3, 3)), TypeError, "size: expected an integer"),
    (lambda: bp.Conv2D(3, 3)(bp.Input(64)), ValueError, r"Conv2D.*\(height, width, channels\), got \(64,\); bp.Resh"),
    (lambda: bp.Conv1D(3, 3)(bp.Input((4, 4, 1))), ValueError, r"Conv1D.*\(time, features\)"),
    (lambda: bp.Conv2D(3, 5)(bp.Input((4, 8, 1))), ValueError, "Conv2D.*least 5 positions, or padding='same', got 4"),
    (lambda: bp.Conv2D(3, 3, groups=2)(bp.Input((4, 8, 4))), ValueError, "2 equal groups, got 4 and 3"),
    (lambda: bp.TimeDelay(3, 9)(bp.Input((8, 1))), ValueError, "TimeDelay.*at least 9 positions"),
    (lambda: bp.MaxPool2D(2, padding=2), ValueError, "padding: expected less than the size of the window, 2, got 2"),
    (lambda: bp.MaxPool2D(5)(bp.Input((4, 4, 1))), ValueError, "MaxPool2D.*at least 5 positions"),
    (lambda: bp.MaxPool1D(2)(bp.Input(4)), ValueError, r"MaxPool1D.*\(time, features\)"),
    (lambda: bp.GlobalMaxPool()(bp.Input(4)), ValueError, "GlobalMaxPool.*positions"),
]


@pytest.mark.parametrize("make, kind, message", ERRORS, ids=[message for *_, message in ERRORS])
def test_what_does_not_fit_is_said(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("act", ["identity", "tanh", "gelu"])
def test_second_derivatives_against_central_differences(act):
    rng = np.random.default_rng(5)
    net = bp.Network([bp.Input((6, 5, 2)), bp.Conv2D(3, 2, act, padding="same"), bp.AveragePool2D(2),
                      bp.Conv2D(4, 2, act, bias=False), bp.GlobalAveragePool(), bp.Dense(3, "softmax")],
                     dtype="float64")  # fmt: skip
    X, y, v = rng.random((9, 6, 5, 2)), rng.integers(0, 3, 9), rng.standard_normal(net.n_params)
    theta, h, grads = net.theta.copy(), 1e-5, []
    for sign in (1, -1):
        net.theta = theta + sign * h * v
        grads.append(net.value_and_grad(X, y)[1])
    net.theta = theta
    Hv = net.hvp(X, y, v)
    np.testing.assert_allclose(Hv, (grads[0] - grads[1]) / (2 * h), atol=1e-8)
    assert net.gauss_newton_product(X, y, v) @ v >= 0
