"""Random graphs, by Hypothesis, and what they compute, in NumPy or whatever has its functions.

A layer is an entry of LAYERS (how it is chosen) and one of VALUES (what it computes).
"""

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.special
from hypothesis import assume
from hypothesis import strategies as st

import bpcore as bp

# differentiable everywhere: what central differences and complex steps may cross
SMOOTH = ("identity", "logistic", "tanh", "elu", "gelu", "silu", "softplus", "softsign", "exp", "softmax")
LARGEST = 10.0  # of the values within: beyond, differences tell nothing

# detach: what has no gradient from here on; that of complex steps is the imaginary part
NUMPY = SimpleNamespace(xp=np, erf=scipy.special.erf, detach=np.real)


# ---- what is chosen ----

NUMBERS = (-1.5, -0.5, 0.25, 2.0)
# functions of the user's own: quotients, whose bits do not depend on the rows beside a row
BEND = bp.Function(lambda a: a / (1 + a * a), lambda g, a: g * (1 - a * a) / (1 + a * a) ** 2, name="bend")
RATIO = bp.Function(lambda a, b: a / (1 + b * b),
                    lambda g, a, b: [g / (1 + b * b), -2 * g * a * b / (1 + b * b) ** 2], name="ratio")  # fmt: skip
CUSTOM = {"bend": BEND, "ratio": RATIO}


class Choices:
    """What is chosen, by Hypothesis.

    inputs: operations may have inputs of their own, masks and whole numbers.  truncate: gradients may be cut in time,
    and are then no derivatives.
    """

    def __init__(self, draw, inputs=True, truncate=True):
        self.draw, self.inputs, self.truncate = draw, inputs, truncate

    def of(self, options):
        return self.draw(st.sampled_from(list(options)))

    def integer(self, low, high):
        return self.draw(st.integers(low, high))

    def flag(self):
        return self.draw(st.booleans())

    def some(self, options, least, most):
        return [self.of(options) for _ in range(self.integer(least, most))]

    def shape(self):
        return tuple(self.some(range(1, 5), 1, 3))


class Seeded(Choices):
    """The same by random numbers."""

    def __init__(self, seed, **settings):
        super().__init__(None, **settings)
        self.rng = np.random.default_rng(seed)

    def of(self, options):
        return list(options)[self.rng.integers(len(options))]

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def flag(self):
        return self.of([False, True])


def _in_axes(pick, a, axes):
    """a, or its numbers in so many axes."""
    if len(a.shape) == axes:
        return a
    sizes, n = [], math.prod(a.shape)
    for _ in range(axes - 1):
        sizes.append(pick.of([d for d in range(1, n + 1) if n % d == 0]))
        n //= sizes[-1]
    return bp.Reshape((*sizes, n))(a)


def _matrices(pick, a):
    return a if len(a.shape) > 1 else _in_axes(pick, a, 2)


def _dense(pick, a, pool):
    return bp.Dense(pick.integer(1, 4), pick.of(SMOOTH), bias=pick.flag())(a)


def _like(a, pool):
    return [b for b in pool if b.shape == a.shape] or [a]


def _arithmetic(pick, a, pool):
    b, number = pick.of(_like(a, pool)), pick.of(NUMBERS)
    return pick.of([a + b, a - b, b - a / 2, a * b, -a, number * a, a + number, number - a, a * a])


def _add(pick, a, pool):
    others = pick.some(_like(a, pool), 0, 4)
    factors = [pick.of(NUMBERS) for _ in range(len(others) + 1)] if pick.flag() else None
    return bp.Add(factors, constant=pick.of(NUMBERS))(a, *others)


def _concat(pick, a, pool):
    axis = pick.integer(0, len(a.shape) - 1)

    def fits(b):
        return len(b.shape) == len(a.shape) and all(
            m == n for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if i != axis
        )

    rest = pick.some([b for b in pool if fits(b)] or [a], 1, 3)
    return bp.concat([a, *rest], axis - pick.of([0, len(a.shape)]))


def _slice(pick, a, pool):
    index = []
    for size in a.shape[: pick.integer(1, len(a.shape))]:
        if pick.flag():
            index.append(pick.integer(-size, size - 1))
        else:
            low, high = sorted((pick.integer(0, size - 1), pick.integer(0, size - 1)))
            step = pick.integer(1, 3)
            up, down = slice(low, high + 1, step), slice(high, low - 1 if low else None, -step)
            index.append(pick.of([up, down]))
    if pick.flag():
        index.append(...)
    return a[tuple(index)]


def _permute(pick, a, pool):
    return bp.Permute(pick.of(list(itertools.permutations(range(len(a.shape))))))(a)


def _reshape(pick, a, pool):
    n = math.prod(a.shape)
    divisor = pick.of([d for d in range(1, n + 1) if n % d == 0])
    return bp.Reshape(pick.of([-1, (divisor, -1), (n // divisor, 1, divisor)]))(a)


def _activate(pick, a, pool):
    if pick.flag():
        return bp.Activate("softmax", axis=pick.integer(-len(a.shape), len(a.shape) - 1))(a)
    return bp.Activate(pick.of(SMOOTH))(a)


def _matmul(pick, a, pool):
    """a b, a a^T or a^T a"""
    a = _matrices(pick, a)
    fits = [b for b in pool if len(b.shape) == len(a.shape) and b.shape[:-1] == (*a.shape[:-2], a.shape[-1])]
    if fits and pick.flag():
        return a @ pick.of(fits)
    turned = pick.flag()
    return bp.MatMul(transpose_a=turned, transpose_b=not turned)(a, a)


def _window(pick, n, dilations=(1,), names=("same",)):
    """A window that fits n positions: size, stride, dilation and padding."""
    size, stride, dilation = pick.integer(1, 3), pick.integer(1, 2), pick.of(dilations)
    reach = (size - 1) * dilation + 1
    whole = [p for p in range(size) if n + 2 * p >= reach]
    return size, stride, dilation, pick.of([*names, *whole, *["valid"] * (reach <= n)])


def _convolution(kind):
    def make(pick, a, pool):
        a = _in_axes(pick, a, 3 if kind is bp.Conv2D else 2)
        windows = [_window(pick, n, (1, 2), ("same",) if kind is bp.Conv2D else ("same", "causal"))
                   for n in a.shape[:-1]]  # fmt: skip
        groups = pick.of([g for g in range(1, a.shape[-1] + 1) if a.shape[-1] % g == 0])
        size, stride, dilation, padding = zip(*windows, strict=True) if kind is bp.Conv2D else windows[0]
        if kind is bp.Conv2D and not all(isinstance(p, int) for p in padding):
            padding = "same"
        return kind(groups * pick.integer(1, 2), size, pick.of(SMOOTH), stride=stride, dilation=dilation,
                    padding=padding, groups=groups, bias=pick.flag())(a)  # fmt: skip

    return make


def _time_delay(pick, a, pool):
    a = _in_axes(pick, a, 2)
    taps = pick.integer(1, min(3, a.shape[0]))
    dilation = pick.of([d for d in (1, 2) if (taps - 1) * d < a.shape[0]])
    return bp.TimeDelay(pick.integer(1, 4), taps, pick.of(SMOOTH), dilation=dilation, bias=pick.flag())(a)


def _pool(kind):
    def make(pick, a, pool):
        a = _in_axes(pick, a, kind.axes + 1)
        windows = [_window(pick, n) for n in a.shape[:-1]]
        size, stride, _, padding = zip(*windows, strict=True) if kind.axes == 2 else windows[0]
        if kind.axes == 2 and not all(isinstance(p, int) for p in padding):
            padding = "same"
        return kind(size, stride=stride, padding=padding)(a)

    return make


def _recurrent(kind):
    def make(pick, a, pool):
        a = _in_axes(pick, a, 2)
        options = {name: pick.flag() for name in ("sequences", "reverse", "bias")}
        if pick.truncate and pick.flag():
            options["truncate"] = pick.integer(1, 3)
        if kind is bp.SimpleRNN:
            options["activation"] = pick.of(["tanh", "logistic", "identity", "softsign"])
        mask = [bp.Input(a.shape[0])] if pick.inputs and pick.flag() else []
        return kind(pick.integer(1, 3), **options)(a, *mask)

    return make


def _embedding(pick, a, pool):
    """Of whole numbers: the only operation that does not read a."""
    return bp.Embedding(pick.integer(2, 5), pick.integer(1, 3))(bp.Input(pick.shape()[:2], integer=True))


def _function(pick, a, pool):
    return BEND(a) if pick.flag() else RATIO(a, pick.of(_like(a, pool)))


def _standardize(pick, a, pool):
    """Of an input: an operation that reads no other."""
    return bp.Standardize()(pick.of([x for x in pool if isinstance(x, bp.Input) and not x.integer]))


def _group_norm(pick, a, pool):
    return bp.GroupNorm(pick.of([g for g in range(1, a.shape[-1] + 1) if a.shape[-1] % g == 0]), eps=0.1)(a)


def _alpha_dropout(pick, a, pool):
    first, end = sorted((pick.integer(0, len(a.shape)), pick.integer(0, len(a.shape))))
    noise_shape = [1 if first <= axis < end else None for axis in range(len(a.shape))]
    return bp.AlphaDropout(0.3, noise_shape=pick.of([None, noise_shape]))(a)


def _again(pick, a, pool):
    """A layer with weights once more: on a, where it has the shape of its first input, or on that."""
    with_weights = [symbol for symbol in pool if symbol.inputs and symbol.layer.parameters(symbol.inputs[0].shape)]
    if not with_weights:
        return _dense(pick, a, pool)
    first = pick.of(with_weights)
    x, *mask = first.inputs
    return first.layer(a if a.shape == x.shape and first.layer.op != "embedding" else x, *mask)


def _masked(pick, a, pool):
    """Softmax, pooling and attention with a mask."""
    a = _in_axes(pick, a, 2)
    mask = bp.Input(a.shape[0]) if pick.inputs else bp.Mask()(a)
    if pick.flag():
        layers = [bp.GlobalMaxPool(), bp.GlobalAveragePool(), bp.Activate("softmax", axis=0), bp.BatchNorm(eps=0.1)]
        return pick.of(layers)(a, mask)
    scores = bp.MatMul(transpose_b=True)(a, a)
    weights = bp.Activate("softmax", causal=pick.flag())(scores, *([mask] if pick.flag() else []))
    return weights @ a


def _words(pick, a, pool):
    """Layers on words of which 0 is none."""
    words = bp.Embedding(3, pick.integer(1, 3), mask_zero=True)(bp.Input(pick.integer(1, 4), integer=True))
    return pick.of([bp.GRU(2), bp.GlobalMaxPool(), bp.GlobalAveragePool(), bp.Activate("softmax", axis=0)])(words)


# by the name of the layer: each takes what chooses, the symbol it reads and all symbols made so far, and makes one more
LAYERS = {
    "dense": _dense,
    "add": _add,
    "multiply": lambda pick, a, pool: a * pick.of(_like(a, pool)),
    "concat": _concat,
    "slice": _slice,
    "permute": _permute,
    "reshape": _reshape,
    "activate": _activate,
    "scale": lambda pick, a, pool: bp.Scale()(a),
    "bias": lambda pick, a, pool: bp.Bias()(a),
    "layer_norm": lambda pick, a, pool: bp.LayerNorm(eps=0.1)(a),
    "dropout": lambda pick, a, pool: bp.Dropout(0.3)(a),
    "matmul": _matmul,
    "conv2d": _convolution(bp.Conv2D),
    "conv1d": _convolution(bp.Conv1D),
    "time_delay": _time_delay,
    "max_pool2d": _pool(bp.MaxPool2D),
    "average_pool2d": _pool(bp.AveragePool2D),
    "max_pool1d": _pool(bp.MaxPool1D),
    "average_pool1d": _pool(bp.AveragePool1D),
    "global_max_pool": lambda pick, a, pool: bp.GlobalMaxPool()(_matrices(pick, a)),
    "global_average_pool": lambda pick, a, pool: bp.GlobalAveragePool()(_matrices(pick, a)),
    "simple_rnn": _recurrent(bp.SimpleRNN),
    "lstm": _recurrent(bp.LSTM),
    "gru": _recurrent(bp.GRU),
    "embedding": _embedding,
    "function": _function,
    "rms_norm": lambda pick, a, pool: bp.RMSNorm(eps=0.1)(a),
    "group_norm": _group_norm,
    "alpha_dropout": _alpha_dropout,
    "gaussian_noise": lambda pick, a, pool: bp.GaussianNoise(0.3)(a),
    "batch_norm": lambda pick, a, pool: bp.BatchNorm(eps=0.1)(a),
    "standardize": _standardize,
    "mask": lambda pick, a, pool: bp.Mask()(a),
}
OPERATIONS = {**LAYERS, "arithmetic": _arithmetic, "again": _again, "masked": _masked, "words": _words}
WHOLE = ("embedding", "words")
REAL = tuple(name for name in OPERATIONS if name not in WHOLE)  # of real inputs, which Jacobians are by
RECURRENT = ("simple_rnn", "lstm", "gru")
MASKED = (*RECURRENT, "batch_norm", "activate", "global_max_pool", "global_average_pool")  # their second input masks
FIRST = ("embedding", "standardize")  # they read inputs alone
# those without a second derivative, for hvp and its kin
ONCE = {"function"}
TWICE = tuple(name for name in OPERATIONS if name not in ONCE)


# ---- what it computes ----


def activation(np_, f, z, axis=-1):
    """f(z), for complex z too: kinks are where the real part has them."""
    xp = np_.xp
    if f == "softmax":
        e = xp.exp(z - xp.max(z.real, axis=axis, keepdims=True))
        return e / xp.sum(e, axis=axis, keepdims=True)
    return {
        "identity": lambda: z,
        "logistic": lambda: 1 / (1 + xp.exp(-z)),
        "tanh": lambda: xp.tanh(z),
        "elu": lambda: xp.where(z.real > 0, z, xp.exp(z) - 1),
        "gelu": lambda: z * (1 + np_.erf(z / math.sqrt(2))) / 2,
        "silu": lambda: z / (1 + xp.exp(-z)),
        "softplus": lambda: xp.log(1 + xp.exp(z)),
        "softsign": lambda: z / (1 + z * xp.sign(z.real)),
        "exp": lambda: xp.exp(z),
        "hard_tanh": lambda: xp.where(abs(z.real) < 1, z, xp.sign(z.real)),
        "relu": lambda: xp.where(z.real > 0, z, 0 * z),
    }[f]()


def _dense_value(np_, layer, parameters, inputs):
    (x,), (W, *b) = inputs, parameters
    z = x @ W
    return activation(np_, layer.activation, z + b[0] if b else z)


def _add_value(np_, layer, parameters, inputs):
    factors = layer.factors or (1,) * len(inputs)
    return sum((f * x for f, x in zip(factors, inputs, strict=True)), layer.constant)


def _layer_norm_value(np_, layer, parameters, inputs):
    (x,), (s, b) = inputs, parameters
    x = x - x.mean(-1, keepdims=True)
    return s * x / np_.xp.sqrt((x * x).mean(-1, keepdims=True) + layer.eps) + b


def _rms_norm_value(np_, layer, parameters, inputs):
    (x,), (s,) = inputs, parameters
    return s * x / np_.xp.sqrt((x * x).mean(-1, keepdims=True) + layer.eps)


def _group_norm_value(np_, layer, parameters, inputs):
    """Statistics over all positions and the channels of a group."""
    (x,), (s, b) = inputs, parameters
    grouped = x.reshape(len(x), -1, layer.groups, x.shape[-1] // layer.groups)
    d = grouped - grouped.mean((1, 3), keepdims=True)
    n = d / np_.xp.sqrt((d * d).mean((1, 3), keepdims=True) + layer.eps)
    return s * n.reshape(x.shape) + b


def _batch_norm_value(np_, layer, parameters, inputs):
    """But in fit."""
    (x, *_), (s, b, mean, variance) = inputs, parameters
    return s * (x - mean) / (variance + layer.eps) ** 0.5 + b


def padding(layer, axis, n, size, dilation):
    """Positions before and after an axis of n, and those that a window of `size` may take."""
    own, stride = (value[axis] if isinstance(value, tuple) else value for value in (layer.padding, layer.stride))
    reach = (size - 1) * dilation + 1
    if own == "same":
        both = max((-(-n // stride) - 1) * stride + reach - n, 0)
        before, after = both // 2, both - both // 2
    else:
        before, after = {"valid": (0, 0), "causal": (reach - 1, 0)}.get(own, (own, own))
    return before, after, np.arange(0, n + before + after - reach + 1, stride)


def windows(np_, layer, x, sizes, fill):
    """(n, *positions, *sizes, channels) of x (n, *lengths, channels)."""
    dilations = np.broadcast_to(getattr(layer, "dilation", 1), len(sizes))
    for axis, (size, d) in enumerate(zip(sizes, dilations, strict=True)):
        at = 1 + 2 * axis
        if layer.op == "time_delay":
            before, after, first = 0, 0, np.arange(x.shape[at] - (size - 1) * d)
        else:
            before, after, first = padding(layer, axis, x.shape[at], size, d)
        shape = [(*x.shape[:at], n, *x.shape[at + 1 :]) for n in (before, after)]
        x = np_.xp.concatenate([np.full(shape[0], fill), x, np.full(shape[1], fill)], axis=at)
        x = x[(slice(None),) * at + (first[:, None] + d * np.arange(size),)]
    n = len(sizes)  # position and place in the window come by turns
    return np_.xp.transpose(x, (0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1))


def _convolution_value(np_, layer, parameters, inputs):
    (x,), (W, *b), g = inputs, parameters, layer.groups
    *sizes, channels, filters = W.shape
    x = windows(np_, layer, x, sizes, 0.0)
    x = x.reshape(*x.shape[: 1 + len(sizes)], math.prod(sizes), g, channels)
    z = np_.xp.einsum("...igc,icgf->...gf", x, W.reshape(math.prod(sizes), channels, g, filters // g))
    z = z.reshape(*z.shape[:-2], filters)
    return activation(np_, layer.activation, z + b[0] if b else z)


def _greatest(np_, x):
    """The first of the greatest real parts over the last axis but one."""
    at = np_.xp.expand_dims(np_.xp.argmax(x.real, -2), -2)
    return np_.xp.take_along_axis(x, at, -2)[..., 0, :]


def _pool_value(np_, layer, parameters, inputs):
    (x,), sizes = inputs, layer.size if isinstance(layer.size, tuple) else (layer.size,)

    def flat(x, fill):
        x = windows(np_, layer, x, sizes, fill)
        return x.reshape(*x.shape[: 1 + len(sizes)], math.prod(sizes), x.shape[-1])

    if layer.kind == "max_pool":
        return _greatest(np_, flat(x, -math.inf))
    return flat(x, 0.0).sum(-2) / flat(np.ones(x.shape), 0.0).sum(-2)


def _global_value(np_, layer, parameters, inputs):
    x = inputs[0].reshape(len(inputs[0]), -1, inputs[0].shape[-1])
    on = inputs[1].reshape(len(x), -1, 1) != 0 if len(inputs) > 1 else np.ones((1, x.shape[1], 1), bool)
    if layer.kind == "max_pool":
        return np_.xp.where(on.any(1), _greatest(np_, np_.xp.where(on, x, -1e300)), 0)
    return np_.xp.where(on, x, 0).sum(1) / np_.xp.maximum((on & (x.real == x.real)).sum(1), 1)


def _activate_value(np_, layer, parameters, inputs):
    (z, *mask), axis = inputs, layer.axis + (layer.axis >= 0)
    if not mask and not layer.causal:
        return activation(np_, layer.activation, z, axis)
    on = np.tri(*z.shape[-2:], dtype=bool) if layer.causal else np.ones((1, 1), bool)
    if mask and layer.axis == -1:
        on = on & (mask[0].reshape(len(z), *(1,) * (z.ndim - mask[0].ndim), *mask[0].shape[1:]) != 0)
    elif mask:
        on = mask[0].reshape(len(z), *(n if i == axis % z.ndim else 1 for i, n in enumerate(z.shape) if i)) != 0
    top = np_.xp.max(np_.xp.where(on, z.real, -1e300), axis=axis, keepdims=True)
    e = np_.xp.where(on, np_.xp.exp(np_.xp.where(on, z - top, 0)), 0)
    total = np_.xp.sum(e, axis=axis, keepdims=True)
    return e / np_.xp.where(total.real == 0, 1, total)


def _rnn_step(np_, layer, z, h, U, b):
    return (activation(np_, layer.activation, z + h[0] @ U),)


def _lstm_step(np_, layer, z, state, U, b):
    i, f, g, o = np_.xp.split(z + state[0] @ U, 4, -1)
    c = activation(np_, "logistic", f) * state[1] + activation(np_, "logistic", i) * np_.xp.tanh(g)
    return activation(np_, "logistic", o) * np_.xp.tanh(c), c


def _gru_step(np_, layer, z, h, U, b):
    (r, u, n), (R, V, N) = np_.xp.split(z, 3, -1), np_.xp.split(h[0] @ U, 3, -1)
    u = activation(np_, "logistic", u + V)
    n = np_.xp.tanh(n + activation(np_, "logistic", r + R) * (N + b[1] if b else N))
    return ((1 - u) * n + u * h[0],)


def recurrent(step):
    """The value of a recurrent layer whose states move by step(np_, layer, x W + b, states, U, biases)."""

    def value(np_, layer, parameters, inputs):
        (x, *mask), (W, U, *b) = inputs, parameters
        z = x @ W + b[0] if b else x @ W
        states = (0 * z[:, 0, : layer.units],) * (2 if layer.op == "lstm" else 1)
        every = [None] * x.shape[1]
        for k, t in enumerate(reversed(range(len(every))) if layer.reverse else range(len(every))):
            if layer.truncate and k and k % layer.truncate == 0:
                states = tuple(map(np_.detach, states))
            new = step(np_, layer, z[:, t], states, U, b)
            if mask:
                on = mask[0][:, t, None] != 0
                new = tuple(np_.xp.where(on, *pair) for pair in zip(new, states, strict=True))
            states, every[t] = new, new[0]
        return np_.xp.stack(every, 1) if layer.sequences else states[0]

    return value


def turned(np_, x, wanted):
    """Matrices, turned where that is wanted."""
    return np_.xp.swapaxes(x, -1, -2) if wanted else x


def index_of(layer):
    """A Slice's index, as an array takes it."""
    return tuple(slice(*part) if isinstance(part, list) else ... if part == "..." else part for part in layer.index)


# what each layer makes of its parameters and state and its inputs, (n, *shape) each
VALUES = {
    "dense": _dense_value,
    "add": _add_value,
    "multiply": lambda np_, layer, parameters, inputs: inputs[0] * inputs[1],
    "concat": lambda np_, layer, parameters, inputs: np_.xp.concatenate(
        inputs, axis=layer.axis + (layer.axis >= 0)),
    "slice": lambda np_, layer, parameters, inputs: inputs[0][(slice(None), *index_of(layer))],
    "permute": lambda np_, layer, parameters, inputs: np_.xp.transpose(
        inputs[0], (0, *(axis + 1 for axis in layer.axes))),
    "reshape": lambda np_, layer, parameters, inputs: inputs[0],
    "activate": _activate_value,
    "mask": lambda np_, layer, parameters, inputs: np_.xp.where(
        np_.xp.any(inputs[0].real != 0, -1) if inputs[0].ndim > 2 else inputs[0].real != 0, 1.0, 0.0),
    "scale": lambda np_, layer, parameters, inputs: inputs[0] * parameters[0],
    "bias": lambda np_, layer, parameters, inputs: inputs[0] + parameters[0],
    "layer_norm": _layer_norm_value,
    "rms_norm": _rms_norm_value,
    "group_norm": _group_norm_value,
    "batch_norm": _batch_norm_value,
    "matmul": lambda np_, layer, parameters, inputs: turned(np_, inputs[0], layer.transpose_a)
    @ turned(np_, inputs[1], layer.transpose_b),
    **dict.fromkeys(  # but in fit
        ("dropout", "alpha_dropout", "gaussian_noise"), lambda np_, layer, parameters, inputs: inputs[0]),
    **dict.fromkeys(("conv2d", "conv1d", "time_delay"), _convolution_value),
    **dict.fromkeys(("max_pool2d", "average_pool2d", "max_pool1d", "average_pool1d"), _pool_value),
    **dict.fromkeys(("global_max_pool", "global_average_pool"), _global_value),
    "simple_rnn": recurrent(_rnn_step),
    "lstm": recurrent(_lstm_step),
    "gru": recurrent(_gru_step),
    "embedding": lambda np_, layer, parameters, inputs: parameters[0][inputs[0]],
    "function": lambda np_, layer, parameters, inputs: layer.forward(*inputs),
    "standardize": lambda np_, layer, moments, inputs: (
        (inputs[0] - np_.xp.asarray(moments[0])) / np_.xp.asarray(moments[1])
    ),
}  # fmt: skip


def values(net, params, X, np_=NUMPY, table=VALUES):
    """The value of every node, (n, *shape) each; params by name, X by input."""
    graph = net._model.graph
    found = [None] * len(graph.nodes)
    for i, x in zip(graph.inputs, X, strict=True):
        found[i] = x
    for i, node in enumerate(graph.nodes):
        if node.inputs:
            own = [*(params[name] for name in node.parameters), *(net.state[name] for name in node.states)]
            if node.layer.op == "standardize":
                own = [net.moments[f"{node.base}.{of}"] for of in ("mean", "scale")]
            value = table[node.layer.op](np_, node.layer, own, [found[k] for k in node.inputs])
            found[i] = value.reshape(len(value), *node.shape)
    return found


def by_name(net, theta):
    """Views of a vector that is laid out as theta."""
    return {name: p.of(theta) for name, p in net._model.graph.parameters.items()}


def loss_of(np_, loss, a, y):
    """E of each row and position."""
    xp, r = np_.xp, a - y
    if isinstance(loss, bp.losses.Huber):
        d = loss.delta
        return xp.sum(xp.where(abs(r.real) <= d, r * r / 2, d * (r * xp.sign(r.real) - d / 2)), -1)
    return {
        "squared_error": lambda: xp.sum(r * r, -1) / 2,
        "mse": lambda: xp.mean(r * r, -1),
        "cross_entropy": lambda: -xp.sum(y * xp.log(a), -1),
        "binary_cross_entropy": lambda: -xp.sum(y * xp.log(a) + (1 - y) * xp.log(1 - a), -1),
    }[loss]()


def average(E, w):
    """C = sum w E / sum w, E the sum of the means over positions of each output, (n, positions); where w has positions,
    the mean weighted by them, over the rows where one counts."""
    if w is None:
        return sum(e.mean(-1) for e in E).mean()
    if w.ndim == 1:
        return (w * sum(e.mean(-1) for e in E)).sum() / w.sum()
    w = w.reshape(len(w), -1)
    (e,), total = E, w.sum(-1)
    return ((w * e).sum(-1) / (total + (total == 0))).sum() / (total > 0).sum()


# ---- a graph with losses and data ----


@dataclass(repr=False)
class Case:
    """A network, and what it may be trained on; lists have an entry an input or an output."""

    net: bp.Network
    X: list[np.ndarray]
    y: list[np.ndarray]
    loss: list[Any]
    weight: list[float]
    w: np.ndarray | None

    def __repr__(self):
        nodes = self.net._model.graph.nodes
        nodes = [f"{n.name} = {n.layer!r}{[nodes[i].name for i in n.inputs]}" for n in nodes]
        outputs = list(zip(self.net.outputs.items(), self.loss, self.weight, strict=True))
        return "\n".join([*nodes, f"{outputs}, {len(self.X[0])} rows, {'un' if self.w is None else ''}weighted"])

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))

    @property
    def args(self):
        """X and y of a call."""
        return (self.X if len(self.X) > 1 else self.X[0]), (self.y if len(self.y) > 1 else self.y[0])

    @property
    def options(self):
        """The rest."""
        losses = [bp.losses.Weighted(*pair) for pair in zip(self.loss, self.weight, strict=True)]
        return {"loss": losses if len(losses) > 1 else losses[0], "sample_weight": self.w}

    def predicted(self, X):
        """A list of the network's answers."""
        answers = self.net.predict(X if len(X) > 1 else X[0])
        return list(answers) if isinstance(answers, tuple) else [answers]

    def cost(self, params, X=None, np_=NUMPY, table=VALUES):
        """C, as bp.h defines it."""
        found = values(self.net, params, self.X if X is None else X, np_, table)
        E = []
        for i, y, loss, weight in zip(self.net._model.graph.outputs, self.y, self.loss, self.weight, strict=True):
            a = found[i]
            if y.ndim < a.ndim:
                y = np.eye(a.shape[-1])[y]
            e = loss_of(np_, loss, a, y)
            E.append(weight * e.reshape(len(e), -1))
        return average(E, self.w)

    def gradient(self):
        """dC/dtheta by complex steps: no difference is taken, so all digits are right."""
        theta = np.array(self.net.theta, complex)
        grad = np.empty(len(theta))
        for i in range(len(theta)):
            theta[i] += 1e-30j
            grad[i] = self.cost(by_name(self.net, theta)).imag / 1e-30
            theta[i] = theta[i].real
        return grad


def _loss_of_output(pick, rng, symbol, n):
    """A loss that suits an output, and targets."""
    f = "" if symbol.layer.op in RECURRENT else getattr(symbol.layer, "activation", "")
    last = getattr(symbol.layer, "axis", -1) in (-1, len(symbol.shape) - 1)
    kinds = {"logistic": ["binary_cross_entropy"], "softmax": ["cross_entropy", "labels"] * last}.get(f, [])
    kind = pick.of([*kinds, *kinds, "squared_error", "mse", "huber"])
    if kind == "labels":
        return "cross_entropy", rng.integers(0, symbol.shape[-1], (n, *symbol.shape[:-1]))
    if kind == "cross_entropy":
        return kind, rng.dirichlet(np.ones(symbol.shape[-1]), (n, *symbol.shape[:-1]))
    if kind == "binary_cross_entropy":
        return kind, rng.random((n, *symbol.shape))
    return bp.losses.Huber(delta=0.7) if kind == "huber" else kind, rng.standard_normal((n, *symbol.shape))


def _walk(symbols, found=None):
    """All that these are made of, each once, after what it is made of."""
    found = {} if found is None else found
    for symbol in symbols:
        if id(symbol) not in found:
            _walk(symbol.inputs, found)
            found[id(symbol)] = symbol
    return list(found.values())


def _case(pick, ends, rng, n, dtype="float64"):
    """A case of these outputs, with parameters and data drawn at random; None where its numbers are too large."""
    made = _walk(ends)
    inputs = [x for x in made if isinstance(x, bp.Input)]
    masks = {id(x) for symbol in made if symbol.layer.op in MASKED for x in symbol.inputs[1:]}
    net = bp.Network(inputs, ends, dtype=dtype)
    net.theta = 0.6 * rng.standard_normal(net.n_params)
    for array in net.state.values():
        array[...] = rng.uniform(0.5, 2, array.shape)
    X = []
    for x, node in zip(inputs, net._model.inputs, strict=True):
        shape = (n, *x.shape)
        drawn = rng.integers(0, node.n_labels, shape) if x.integer else rng.uniform(-1, 1, shape)
        X.append(np.round((drawn + 1) / 2) if id(x) in masks else drawn)
    if any(symbol.layer.op == "standardize" for symbol in made):
        net.adapt(X if len(X) > 1 else X[0])
    with np.errstate(over="ignore", invalid="ignore"):
        if not all(np.abs(value).max() < LARGEST for value in values(net, net.params, X)):
            return None
    losses, y = zip(*(_loss_of_output(pick, rng, symbol, n) for symbol in ends), strict=True)
    weight = [pick.of([1.0, 0.3]) for _ in ends]
    w = rng.uniform(0.1, 2, n) if pick.flag() else None
    positions = ends[0].shape[:-1]
    if w is not None and len(ends) == 1 and positions and pick.flag():
        w = rng.uniform(0, 2, (n, *positions)) * (rng.random((n, *positions)) < 0.7)
        w.flat[0] = 1.0
    return Case(net, X, list(y), list(losses), weight, w)


def graph(pick, operations=tuple(OPERATIONS), most=8, dtype="float64", rows=(1, 6), steps=0):
    """A case of up to `most` operations, of one input and one output where none may be added; steps: of sequences of up
    to so many.  None where its numbers are too large."""
    single = not pick.inputs
    if single:
        operations = [name for name in operations if name not in WHOLE]
    inputs = [bp.Input((pick.integer(1, steps), pick.integer(1, 2)) if steps else pick.shape())
              for _ in range(1 if single else pick.integer(1, 2))]  # fmt: skip
    pool = list(inputs)
    for _ in range(pick.integer(1, most)):
        pool.append(OPERATIONS[pick.of(operations)](pick, pick.of(pool), pool))
    made = _walk(pool)
    pool += [bp.Dense(2, "tanh")(x) for x in inputs if not any(x in s.inputs for s in made)]
    read = {id(x) for symbol in _walk(pool) for x in symbol.inputs}
    ends = [symbol for symbol in pool if id(symbol) not in read]
    if len(ends) > (1 if single else 3):
        while len(ends) > 1:  # a layer has at most 8 inputs
            ends = [*ends[8:], bp.concat([bp.Reshape(-1)(end) for end in ends[:8]])]
        ends = [bp.Dense(3, pick.of(SMOOTH))(ends[0])]
    elif not single and pick.flag():  # what others read may be an output as well
        within = [s for s in pool if s.inputs and all(s is not end for end in ends)]
        ends += within[: pick.integer(0, 1)]
    rng = np.random.default_rng(pick.integer(0, 2**32 - 1))
    return _case(pick, ends, rng, pick.integer(*rows), dtype)


@st.composite
def cases(draw, single=False, truncate=True, **settings):
    """Cases by Hypothesis; single: of one input and one output."""
    case = graph(Choices(draw, not single, truncate), **settings)
    assume(case is not None)
    return case


PAIRS = [(first, second) for first in LAYERS for second in LAYERS if second not in FIRST]


def pair(first, second, turn=0, rows=3, **settings):
    """A case in which layer `second` reads what layer `first` makes, of an image, through a Reshape where it must."""
    names = list(LAYERS)
    for attempt in range(100):
        pick = Seeded((names.index(first), names.index(second), turn, attempt), **settings)
        x = bp.Input((2, 3, 4))
        a = LAYERS[first](pick, bp.Activate("tanh")(bp.Scale()(x)), [x])
        b = LAYERS[second](pick, a, [a])
        end = b.inputs[0].inputs[0] if b.inputs[0] is not a else a
        assert (a.layer.op, b.layer.op) == (first, second) and end is a
        if (case := _case(pick, [b], pick.rng, rows)) is not None:
            return case
    raise AssertionError(f"{first}, {second}: all numbers were too large")
