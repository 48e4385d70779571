"""Every layer in small networks of float64, by the name that a file gives it, for tests of what all layers can do."""

from dataclasses import dataclass

import numpy as np

import bpcore as bp


@dataclass(repr=False)
class Example:
    """A network, and data for it."""

    net: bp.Network
    X: list[np.ndarray]
    y: np.ndarray

    @property
    def args(self):
        """X and y of a call."""
        return (self.X if len(self.X) > 1 else self.X[0]), self.y

    def row(self, i):
        """X and y of one row."""
        return Example(self.net, [x[i : i + 1] for x in self.X], self.y[i : i + 1]).args


def _recurrent(kind):
    x, mask = (6, 3), (6,)
    return [
        (kind(4), x), (kind(4, sequences=True), x), (kind(4, reverse=True, bias=False), x), (kind(3), (1, 2)),
        (kind(4), x, mask), (kind(4, sequences=True, reverse=True), x, mask),
        *((kind(4, truncate=k, sequences=k > 2, reverse=k > 3), x, *masks)
          for k in (1, 2, 3, 4) for masks in ((), (mask,))),
    ]  # fmt: skip


RECURRENT = {"simple_rnn": bp.SimpleRNN, "lstm": bp.LSTM, "gru": bp.GRU}
MASKED = {*RECURRENT, "batch_norm", "activate", "global_max_pool", "global_average_pool"}  # the second input masks
PRODUCT = bp.Function(lambda a, b: a**2 * b, lambda g, a, b: [2 * a * b * g, a**2 * g],
                      tangent=lambda a, b, out, Ra, Rb: 2 * a * b * Ra + a * a * Rb)  # fmt: skip
FIRST = ("embedding", "standardize")  # they read inputs alone
# by layer, lists of one and the shapes of its inputs
SHAPES = {
    "input": [(bp.Reshape(-1), (2, 3))],
    "dense": [(bp.Dense(3, "gelu"), (4,)), (bp.Dense(3, "softmax", bias=False), (2, 4)), (bp.Dense(2), (3,))],
    "add": [(bp.Add([2, -1, 0.5], constant=0.3), (3,), (3,), (3,)), (bp.Add(), (2, 2))],
    "multiply": [(bp.Multiply(), (2, 3), (2, 3))],
    "concat": [(bp.Concat(0), (2, 3), (1, 3)), (bp.Concat(), (2, 3), (2, 1))],
    "reshape": [(bp.Reshape((3, -1)), (2, 6))],
    "permute": [(bp.Permute((2, 0, 1)), (2, 3, 4))],
    "slice": [(bp.Slice((slice(None, None, -2), 1)), (5, 2))],
    "activate": [
        (bp.Activate("silu"), (3,)), (bp.Activate("softmax"), (2, 3)), (bp.Activate("softmax", axis=0), (4, 3)),
        (bp.Activate("softmax"), (2, 3), (3,)), (bp.Activate("softmax", axis=0), (4, 3), (4,)),
        (bp.Activate("softmax"), (2, 3), (2, 3)),
        (bp.Activate("softmax", causal=True), (2, 3, 4)), (bp.Activate("softmax", causal=True), (2, 4, 3), (4, 3)),
    ],
    "scale": [(bp.Scale(), (2, 3))],
    "bias": [(bp.Bias(), (2, 3))],
    "conv2d": [
        (bp.Conv2D(3, 2, "tanh"), (4, 5, 2)), (bp.Conv2D(2, 2, dilation=2, padding=1), (4, 4, 1)),
        (bp.Conv2D(4, (3, 2), "tanh", stride=2, padding="same", groups=2, bias=False), (5, 4, 2)),
    ],
    "conv1d": [(bp.Conv1D(3, 3, "tanh", padding="causal", dilation=2), (7, 2))],
    "time_delay": [(bp.TimeDelay(3, 2, "tanh"), (5, 2))],
    "max_pool2d": [
        (bp.MaxPool2D(2), (4, 6, 3)), (bp.MaxPool2D(2), (5, 5, 1)),
        (bp.MaxPool2D((3, 2), stride=1, padding="same"), (4, 3, 2)),
    ],
    "average_pool2d": [
        (bp.AveragePool2D(2), (4, 6, 3)), (bp.AveragePool2D((3, 2), stride=1, padding="same"), (4, 3, 2)),
    ],
    "max_pool1d": [(bp.MaxPool1D(3, stride=2, padding=1), (7, 17))],
    "average_pool1d": [(bp.AveragePool1D(3, stride=2, padding=1), (7, 17))],
    "global_max_pool": [(bp.GlobalMaxPool(), (5, 3)), (bp.GlobalMaxPool(), (2, 3, 4)),
                        (bp.GlobalMaxPool(), (5, 3), (5,))],
    "global_average_pool": [(bp.GlobalAveragePool(), (5, 3)), (bp.GlobalAveragePool(), (2, 3, 4)),
                            (bp.GlobalAveragePool(), (70, 3), (70,))],
    **{op: _recurrent(kind) for op, kind in RECURRENT.items()},
    "embedding": [(bp.Embedding(5, 3), (4,))],
    "layer_norm": [(bp.LayerNorm(), (5,)), (bp.LayerNorm(eps=0.1), (2, 37)), (bp.LayerNorm(eps=1), (1,))],
    "rms_norm": [(bp.RMSNorm(), (5,)), (bp.RMSNorm(eps=0.1), (2, 37)), (bp.RMSNorm(eps=1), (1,))],
    "group_norm": [
        (bp.GroupNorm(2), (3, 2, 6)), (bp.GroupNorm(1, eps=0.1), (4, 3)), (bp.GroupNorm(3, eps=1), (6,)),
        (bp.GroupNorm(5, eps=0.1), (7, 5)),
    ],
    "batch_norm": [(bp.BatchNorm(), (5,)), (bp.BatchNorm(eps=0.1), (2, 70)), (bp.BatchNorm(eps=1), (3, 2, 6)),
                   (bp.BatchNorm(), (4, 3), (4,))],
    "dropout": [(bp.Dropout(0.5), (4,)), (bp.Dropout(0.5, noise_shape=(1, None)), (3, 4))],
    "alpha_dropout": [(bp.AlphaDropout(0.5), (4,)), (bp.AlphaDropout(0.5, noise_shape=(None, 1)), (3, 4))],
    "gaussian_noise": [(bp.GaussianNoise(0.5), (4,))],
    "mask": [(bp.Mask(), (4,)), (bp.Mask(), (2, 3))],
    "matmul": [
        (bp.MatMul(), (2, 2, 3), (2, 3, 1)), (bp.MatMul(transpose_a=True, transpose_b=True), (3, 2), (4, 3)),
    ],
    "function": [(PRODUCT, (3,), (3,))],
    "standardize": [(bp.Standardize(), (3,)), (bp.Standardize(), (2, 4)), (bp.Standardize(), (2, 3, 1))],
}  # fmt: skip


def _example(layer, shapes, below, rows, seed):
    rng = np.random.default_rng(seed)
    integer = layer.op == "embedding"
    inputs = [bp.Input(shape if len(shape) > 1 else shape[0], integer=integer) for shape in shapes]
    masked = layer.op in MASKED and len(shapes) > 1
    read = list(inputs)
    if below:
        read = [x if masked and i else bp.Dense(shape[-1], "tanh", name=f"below_{i}")(x)
                for i, (x, shape) in enumerate(zip(inputs, shapes, strict=True))]  # fmt: skip
    net = bp.Network(inputs, bp.Dense(2, "tanh", name="above")(layer(*read)), dtype="float64")
    net.theta[:] = 0.7 * rng.standard_normal(net.n_params)
    for array in net.state.values():
        array[...] = rng.uniform(0.5, 2, array.shape)
    sizes = [(rows, *shape) for shape in shapes]
    X = [rng.integers(0, layer.n, size) if integer else rng.standard_normal(size) for size in sizes]
    if masked:
        X[1] = (rng.random(sizes[1]) < 0.6) * 1.0
        X[1][0] = 0
    if layer.op == "standardize":
        net.adapt(X[0])
    return Example(net, X, rng.standard_normal((rows, *next(iter(net.outputs.values())))))


def examples(op, rows=5, below=True):
    """Of a layer, in each of its ways, first in its network and, with `below`, behind others."""
    return [
        _example(layer, shapes, below, rows, seed)
        for below in ((False, True) if below and op not in FIRST else (False,))
        for seed, (layer, *shapes) in enumerate(SHAPES[op])
    ]


def is_truncated(net):
    return any(getattr(layer, "truncate", None) for layer in net.layers)
