"""Convolutions and poolings against PyTorch, in float64: values and all gradients to 1e-10."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bpcore as bp

torch.set_num_threads(1)
RNG = np.random.default_rng(11)


def padding(layer, sizes, lengths, dilations):
    """For F.pad, the last axis first."""
    found = []
    for axis in reversed(range(len(sizes))):
        given = getattr(layer, "padding", "valid")
        own = given[axis] if isinstance(given, tuple) else given
        stride = axes_of(getattr(layer, "stride", 1), len(sizes))[axis]
        reach = (sizes[axis] - 1) * dilations[axis] + 1
        if own == "same":
            both = max((-(-lengths[axis] // stride) - 1) * stride + reach - lengths[axis], 0)
            found += [both // 2, both - both // 2]
        else:
            found += {"valid": [0, 0], "causal": [reach - 1, 0]}.get(own, [own, own])
    return found


def axes_of(value, n):
    return list(value) if isinstance(value, tuple) else [value] * n


def convolved(layer, a, W, b):
    n = a.ndim - 2
    sizes, dilations = list(W.shape[:n]), axes_of(layer.dilation, n)
    a = F.pad(a.movedim(-1, 1), padding(layer, sizes, a.shape[1:-1], dilations))
    W = W.movedim((-1, -2), (0, 1)).contiguous()
    conv = {1: F.conv1d, 2: F.conv2d}[n]
    return conv(a, W, b, axes_of(getattr(layer, "stride", 1), n), 0, dilations, layer.groups).movedim(1, -1)


def pooled(layer, a):
    n = a.ndim - 2
    sizes, strides = axes_of(layer.size, n), axes_of(layer.stride, n)
    at, a = padding(layer, sizes, a.shape[1:-1], [1] * n), a.movedim(-1, 1)
    if layer.kind == "max_pool":
        pool = {1: F.max_pool1d, 2: F.max_pool2d}[n]
        return pool(F.pad(a, at, value=-torch.inf), sizes, strides).movedim(1, -1)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d}[n]
    count = pool(F.pad(torch.ones_like(a), at), sizes, strides)
    return (pool(F.pad(a, at), sizes, strides) / count).movedim(1, -1)


def convolutions(seed):
    """A random convolution, and the shape of what goes in."""
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    channels, filters = groups * int(rng.integers(1, 25 // groups)), groups * int(rng.integers(1, 80 // groups))
    size = tuple(int(n) for n in rng.integers(1, 6, 2))
    dilation = tuple(int(n) for n in rng.choice([1, 1, 2, 3], 2))
    lengths = [int((n - 1) * d + rng.integers(1, 20)) for n, d in zip(size, dilation, strict=True)]
    pad = [str(rng.choice(["valid", "same"])), tuple(int(n) for n in rng.integers(0, 7, 2))][int(rng.integers(0, 2))]
    settings = {"groups": groups, "bias": bool(rng.integers(0, 4))}
    if rng.integers(0, 3):
        stride = tuple(int(n) for n in rng.integers(1, 4, 2))
        return (*lengths, channels), bp.Conv2D(filters, size, stride=stride, padding=pad, dilation=dilation, **settings)
    pad = ["valid", "same", "causal", 3][int(rng.integers(0, 4))]
    stride = int(rng.integers(1, 4))
    return (lengths[0], channels), bp.Conv1D(
        filters, size[0], stride=stride, padding=pad, dilation=dilation[0], **settings
    )


POOLS = [
    ((8, 8, 6), bp.MaxPool2D(2)),
    ((9, 7, 17), bp.MaxPool2D(2)),
    ((9, 7, 17), bp.MaxPool2D((3, 2), stride=(2, 1), padding=(1, 1))),
    ((9, 7, 40), bp.MaxPool2D(3, stride=2, padding="same")),
    ((8, 8, 16), bp.AveragePool2D(2)),
    ((9, 7, 3), bp.AveragePool2D((3, 2), stride=(2, 1), padding=(1, 1))),
    ((10, 4), bp.MaxPool1D(3, stride=1, padding=2)),
    ((10, 20), bp.AveragePool1D(4, stride=3, padding="same")),
]


def compare(shape, layer, values, rows):
    """Scale, the layer twice (of a and of a squared), a dense layer; squared error with weights."""
    x = bp.Input(shape)
    h = bp.Scale()(x)
    net = bp.Network(x, bp.Dense(2)(bp.Reshape(-1)(layer(h) + layer(h * h))), dtype="float64", seed=2)
    net.theta = net.theta + 0.1 * RNG.standard_normal(net.n_params)
    X, y, w = RNG.standard_normal((rows, *shape)), RNG.standard_normal((rows, 2)), RNG.random(rows)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in net.params.items()}
    s, a = p["scale_1.s"], torch.tensor(X)
    own = [p.get(f"{layer.op}_1.{letter}") for letter in "Wb"]
    z = (values(layer, a * s, *own) + values(layer, (a * s) ** 2, *own)).flatten(1)
    out = z @ p["dense_1.W"] + p["dense_1.b"]
    loss = (torch.tensor(w) * 0.5 * (out - torch.tensor(y)).square().sum(1)).sum() / w.sum()
    loss.backward()
    got, grad = net.value_and_grad(X, y, sample_weight=w)
    assert abs(got - loss.item()) <= 1e-10 * abs(loss.item())
    at = 0
    for name, value in p.items():
        mine, at = grad[at : at + value.numel()], at + value.numel()
        theirs = value.grad.numpy().ravel()
        assert np.linalg.norm(mine - theirs) <= 1e-10 * np.linalg.norm(theirs), name
    want = out.detach().numpy()
    assert np.linalg.norm(net.predict(X) - want) <= 1e-10 * np.linalg.norm(want)


@pytest.mark.parametrize("seed", range(60))
def test_convolutions_are_pytorchs(seed):
    shape, layer = convolutions(seed)
    try:
        layer(bp.Input(shape))
    except ValueError:
        pytest.fail("the shapes fit")
    compare(shape, layer, convolved, rows=(3, 21, 70)[seed % 3])


COMMON = [
    ((15, 3), bp.Conv1D(4, 5)),
    ((28, 28, 1), bp.Conv2D(6, 5, padding="same")),
    ((14, 14, 6), bp.Conv2D(16, 5)),
    ((9, 9, 37), bp.Conv2D(37, 3, groups=37, padding="same")),
    ((9, 8, 16), bp.Conv2D(16, (3, 4), groups=16, stride=2, dilation=2, padding=3)),
    ((5, 5, 130), bp.Conv2D(120, 3, padding=1)),
]


@pytest.mark.parametrize("case", COMMON)
def test_common_ones_are_pytorchs(case):
    compare(*case, convolved, rows=70)


@pytest.mark.parametrize("shape, layer", POOLS)
def test_pools_are_pytorchs(shape, layer):
    compare(shape, layer, lambda layer, a, *none: pooled(layer, a), rows=37)
