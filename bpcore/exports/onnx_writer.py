"""Networks as ONNX models: a table from the kind of a layer to the operations that compute it.

Values are named after the nodes of the network, weights after its parameters; what is added has a "/" in its name,
which no layer's has.  Where ONNX has an operation with float32 attributes, or ONNX Runtime lacks it in float64, a
float64 network gets the formula instead.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bpcore import _io, _validate
from bpcore._activations import Activation
from bpcore._convolution import _along, _of_axis
from bpcore._model import Model
from bpcore._moments import Moments
from bpcore._version import __version__
from bpcore.exports.graphs import Place, checked, imported, places

FIRST_OPSET = 17  # the first with LayerNormalization
MOST_BYTES = 2**31 - 2**20  # of weights: a protobuf message has at most 2 GiB
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848  # Klambauer et al. (2017), eq. 14


class Writer:
    """Operations of a graph, as they are added.

    A subgraph is a writer with a parent: it shares constants and the numbers in names.
    """

    def __init__(self, onnx: Any, dtype: np.dtype[Any], opset: int, parent: Writer | None = None) -> None:
        self.onnx, self.dtype, self.opset = onnx, dtype, opset
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = parent.constants if parent else {}
        self._known: dict[Any, str] = parent._known if parent else {}
        self._count: dict[str, int] = parent._count if parent else {}
        self.place: Place | None = parent.place if parent else None

    @property
    def type(self) -> int:
        """ONNX's number for the network's dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype))

    @property
    def double(self) -> bool:
        """Whether the network is of float64."""
        return self.dtype == np.float64

    def fresh(self, what: str) -> str:
        """A name that no other value has."""
        prefix = f"{self.place.name if self.place else ''}/{what}"
        self._count[prefix] = number = self._count.get(prefix, 0) + 1
        return prefix if number == 1 else f"{prefix}_{number}"

    def several(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Adds an operation whose outputs have these names."""
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), list(outputs), name=outputs[-1], **attributes))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation; the name of its output."""
        name = self.fresh(kind.lower())
        self.several(kind, inputs, [name], **attributes)
        return name

    def rename(self, value: str, name: str) -> None:
        """The value is called `name` from now on; nothing reads it yet, or it is another layer's."""
        last = self.nodes[-1] if self.nodes else None
        if last is not None and value in last.output and value.startswith(f"{self.place.name if self.place else ''}/"):
            last.output[list(last.output).index(value)] = last.name = name
        else:
            self.several("Identity", [value], [name])

    def constant(self, value: Any, dtype: Any = None) -> str:
        """An array or a number of the network's dtype, or of another; equal ones are one."""
        array = np.asarray(value, self.dtype if dtype is None else dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"/constant_{len(self._known) + 1}"
            self.constants[self._known[key]] = array
        return self._known[key]

    def integers(self, *values: int) -> str:
        """Whole numbers, as axes and shapes are given."""
        return self.constant(values, np.int64)

    def weight(self, letter: str, array: np.ndarray) -> str:
        """An array that is made of the layer's parameters; one for all uses of the layer."""
        assert self.place is not None
        name = f"{self.place.base}.{letter}"
        self.constants.setdefault(name, np.ascontiguousarray(array, self.dtype))
        return name

    def cast(self, value: str, type_: int) -> str:
        """As another type."""
        return self.op("Cast", value, to=type_)

    def counts(self, value: str) -> str:
        """Whether each number is not 0, as booleans."""
        return self.cast(value, self.onnx.TensorProto.BOOL)

    def real(self, value: str) -> str:
        """In the network's dtype."""
        return self.cast(value, self.type)

    def reduce(self, kind: str, value: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """Over axes, which opset 18 made an input."""
        if self.opset >= 18 or kind == "ReduceSum":
            return self.op(kind, value, self.integers(*axes), keepdims=int(keepdims))
        return self.op(kind, value, axes=list(axes), keepdims=int(keepdims))

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """To (batch, *shape)."""
        return self.op("Reshape", value, self.integers(0, *shape))

    def unsqueeze(self, value: str, *axes: int) -> str:
        return self.op("Unsqueeze", value, self.integers(*axes))

    def turn(self, value: str, *axes: int) -> str:
        return self.op("Transpose", value, perm=list(axes))

    def channels_first(self, value: str, axes: int) -> str:
        """(batch, positions..., channels) as (batch, channels, positions...)."""
        return self.turn(value, 0, axes + 1, *range(1, axes + 1))

    def channels_last(self, value: str, axes: int) -> str:
        """The opposite."""
        return self.turn(value, 0, *range(2, axes + 2), 1)

    # ---- activations ----

    def activated(self, f: Any, z: str, axis: int = -1) -> str:
        """f(z); axis: of softmax."""
        if isinstance(f, Activation):
            raise self.refused(f"the activation {f.name or f!r} is a function of your own")
        if f == "identity":
            return z
        if f == "softmax":
            return self.op("Softmax", z, axis=axis)
        if f in _SAME:
            return self.op(_SAME[f], z)
        if f in _SINGLE and not self.double:
            kind, attributes = _SINGLE[f]
            return self.op(kind, z, **attributes)
        return _FORMULAS[f](self, z)

    def refused(self, why: str) -> ValueError:
        """The error for what ONNX cannot hold."""
        name = self.place.name if self.place else ""
        return ValueError(
            f"export_onnx: expected layers that ONNX has operations for, and {name} is none: {why}; "
            "net.part(inputs, outputs) gives the network before it, or behind it"
        )


# one operation of ONNX, in any dtype
_SAME = {"logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "exp": "Exp"}
# one operation, whose numbers are float32, or which ONNX Runtime has in float32 alone
_SINGLE: dict[str, tuple[str, dict[str, float]]] = {
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {}),
    "selu": ("Selu", {"alpha": SELU_ALPHA, "gamma": SELU_SCALE}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}


def _elu(w: Writer, z: str, alpha: float = 1.0) -> str:
    """max(z, 0) + alpha (e^min(z, 0) - 1)"""
    zero = w.constant(0)
    below = w.op("Sub", w.op("Exp", w.op("Min", z, zero)), w.constant(1))
    return w.op("Add", w.op("Max", z, zero), below if alpha == 1 else w.op("Mul", below, w.constant(alpha)))


def _gelu(w: Writer, z: str) -> str:
    """z (1 + erf(z / sqrt 2)) / 2"""
    if w.opset >= 20:
        return w.op("Gelu", z)
    erf = w.op("Erf", w.op("Mul", z, w.constant(math.sqrt(0.5))))
    return w.op("Mul", w.op("Mul", z, w.constant(0.5)), w.op("Add", erf, w.constant(1)))


def _softplus(w: Writer, z: str) -> str:
    """max(z, 0) + log(1 + e^-|z|)"""
    e = w.op("Exp", w.op("Neg", w.op("Abs", z)))
    return w.op("Add", w.op("Max", z, w.constant(0)), w.op("Log", w.op("Add", e, w.constant(1))))


def _hard_sigmoid(w: Writer, z: str) -> str:
    line = w.op("Add", w.op("Div", z, w.constant(6)), w.constant(0.5))
    return w.op("Clip", line, w.constant(0), w.constant(1))


_FORMULAS: dict[str, Callable[[Writer, str], str]] = {
    "leaky_relu": lambda w, z: w.op("Max", z, w.op("Mul", z, w.constant(0.01))),
    "elu": _elu,
    "selu": lambda w, z: w.op("Mul", _elu(w, z, SELU_ALPHA), w.constant(SELU_SCALE)),
    "gelu": _gelu,
    "silu": lambda w, z: w.op("Mul", z, w.op("Sigmoid", z)),
    "softplus": _softplus,
    "softsign": lambda w, z: w.op("Div", z, w.op("Add", w.op("Abs", z), w.constant(1))),
    "hard_sigmoid": _hard_sigmoid,
    "hard_tanh": lambda w, z: w.op("Clip", z, w.constant(-1), w.constant(1)),
}


# ---- layers: each takes the writer, the place, and the names of its inputs; the name of what it makes ----


def _dense(w: Writer, at: Place, x: str) -> str:
    W = w.weight("W", at.values["W"])
    b = [w.weight("b", at.values["b"])] if "b" in at.values else []
    if len(at.shape) == 1:
        z = w.op("Gemm", x, W, *b)
    else:
        z = w.op("MatMul", x, W)
        z = w.op("Add", z, *b) if b else z
    return w.activated(at.layer.activation, z)


def _add(w: Writer, at: Place, *inputs: str) -> str:
    factors = at.layer.factors or (1.0,) * len(inputs)
    terms = [x if f == 1 else w.op("Mul", x, w.constant(f)) for f, x in zip(factors, inputs, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = w.op("Add", total, term)
    return w.op("Add", total, w.constant(at.layer.constant)) if at.layer.constant else total


def _concat(w: Writer, at: Place, *inputs: str) -> str:
    return w.op("Concat", *inputs, axis=1 + at.layer.axis % len(at.shape))


def _slice(w: Writer, at: Place, x: str) -> str:
    shape, parts = at.shapes[0], list(at.layer.index)
    where = parts.index("...") if "..." in parts else len(parts)
    parts[where : where + 1] = [[None, None, None]] * (len(shape) - len(parts) + ("..." in parts))
    cuts = []
    for axis, (part, size) in enumerate(zip(parts, shape, strict=True), 1):
        first, stop, step = slice(*part).indices(size) if isinstance(part, list) else (part % size, part % size + 1, 1)
        stop = -size - 1 if stop < 0 else stop  # before the first
        if (first, stop, step) != (0, size, 1):
            cuts.append((first, stop, axis, step))
    if cuts:
        x = w.op("Slice", x, *(w.integers(*numbers) for numbers in zip(*cuts, strict=True)))
    return x if all(isinstance(part, list) for part in parts) else w.reshape(x, at.shape)


def _matmul(w: Writer, at: Place, a: str, b: str) -> str:
    n = len(at.shape) + 1
    last = [*range(n - 2), n - 1, n - 2]
    a = w.turn(a, *last) if at.layer.transpose_a else a
    return w.op("MatMul", a, w.turn(b, *last) if at.layer.transpose_b else b)


def _activate(w: Writer, at: Place, z: str, *mask: str) -> str:
    layer, rank = at.layer, len(at.shape)
    axis = layer.axis % rank
    on = []
    if mask:
        first = rank - len(at.shapes[1]) if axis == rank - 1 else axis  # the axis of an example that the mask begins at
        missing = [1 + i for i in range(rank) if not first <= i < first + len(at.shapes[1])]
        on.append(w.unsqueeze(w.counts(mask[0]), *missing) if missing else w.counts(mask[0]))
    if layer.causal:
        on.append(w.constant(np.tri(*at.shape[-2:], dtype=bool), bool))
    if not on:
        return w.activated(layer.activation, z, axis + 1)
    both = w.op("And", *on) if len(on) > 1 else on[0]
    far = w.op("Where", both, z, w.constant(np.finfo(w.dtype).min / 2))
    return w.op("Mul", w.op("Softmax", far, axis=axis + 1), w.real(both))


def _normalised(w: Writer, x: str, axes: Sequence[int], eps: float, centred: bool = True) -> str:
    """(x - mean) / sqrt(variance + eps) over axes; or with mean 0."""
    d = w.op("Sub", x, w.reduce("ReduceMean", x, axes)) if centred else x
    squares = w.reduce("ReduceMean", w.op("Mul", d, d), axes)
    return w.op("Div", d, w.op("Sqrt", w.op("Add", squares, w.constant(eps))))


def _gained(w: Writer, at: Place, x: str) -> str:
    """s x + b, or s x."""
    x = w.op("Mul", x, w.weight("s", at.values["s"]))
    return w.op("Add", x, w.weight("b", at.values["b"])) if "b" in at.values else x


def _layer_norm(w: Writer, at: Place, x: str) -> str:
    if w.double:
        return _gained(w, at, _normalised(w, x, [-1], at.layer.eps))
    s, b = (w.weight(letter, at.values[letter]) for letter in "sb")
    return w.op("LayerNormalization", x, s, b, axis=-1, epsilon=at.layer.eps)


def _rms_norm(w: Writer, at: Place, x: str) -> str:
    return _gained(w, at, _normalised(w, x, [-1], at.layer.eps, centred=False))


def _group_norm(w: Writer, at: Place, x: str) -> str:
    groups = at.layer.groups
    grouped = w.reshape(x, [math.prod(at.shape[:-1]), groups, at.shape[-1] // groups])
    return _gained(w, at, w.reshape(_normalised(w, grouped, [1, 3], at.layer.eps), at.shape))


def _batch_norm(w: Writer, at: Place, x: str, *mask: str) -> str:
    """As a factor and a sum, which runtimes fuse into the product before."""
    s, b, mean, variance = (at.values[name].astype(np.float64) for name in ("s", "b", "mean", "variance"))
    factor = s / np.sqrt(variance + at.layer.eps)
    x = w.op("Mul", x, w.weight("factor", factor))
    return w.op("Add", x, w.weight("shift", b - mean * factor))


def _standardize(w: Writer, at: Place, x: str) -> str:
    """In float64, which its input has."""
    mean, scale = (w.constant(at.values[name], np.float64) for name in ("mean", "scale"))
    standard = w.op("Div", w.op("Sub", x, mean), scale)
    return standard if w.double else w.real(standard)


def _windows(at: Place, sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int], paddings: Any) -> Any:
    """strides and pads, as Conv and pooling take them."""
    before, after = [], []
    for n, size, stride, dilation, padding in zip(at.shapes[0], sizes, strides, dilations, paddings, strict=False):
        axis = _along(at.layer, n, size, stride, dilation, padding)
        before.append(axis.before)
        after.append(max(0, (axis.size - 1) * stride + (size - 1) * dilation + 1 - n - axis.before))
    return {"kernel_shape": list(sizes), "strides": list(strides), "pads": before + after}


def _convolution(w: Writer, at: Place, x: str) -> str:
    _, sizes, strides, dilations, paddings = at.layer._windows()
    axes, W = len(sizes), at.values["W"]
    parameters = [w.weight("W", np.moveaxis(W, (-1, -2), (0, 1)))]
    parameters += [w.weight("b", at.values["b"])] if "b" in at.values else []
    windows = _windows(at, sizes, strides, dilations, paddings)
    z = w.op("Conv", w.channels_first(x, axes), *parameters, **windows, dilations=dilations, group=at.layer.groups)
    return w.activated(at.layer.activation, w.channels_last(z, axes))


def _pool(w: Writer, at: Place, x: str) -> str:
    axes = at.layer.axes
    sizes, strides, paddings = (
        [_of_axis(value, axis) for axis in range(axes)] for value in (at.layer.size, at.layer.stride, at.layer.padding)
    )
    kind = {"max_pool": "MaxPool", "average_pool": "AveragePool"}[at.layer.kind]
    pooled = w.op(kind, w.channels_first(x, axes), **_windows(at, sizes, strides, [1] * axes, paddings))
    return w.channels_last(pooled, axes)


def _global_pool(w: Writer, at: Place, x: str, *mask: str) -> str:
    axes = range(1, len(at.shapes[0]))
    greatest = at.layer.kind == "max_pool"
    if not mask:
        return w.reduce("ReduceMax" if greatest else "ReduceMean", x, axes, keepdims=False)
    on = w.unsqueeze(w.counts(mask[0]), -1)
    count = w.reduce("ReduceSum", w.real(on), axes, keepdims=False)
    far = w.op("Where", on, x, w.constant(np.finfo(w.dtype).min if greatest else 0))
    if greatest:
        most = w.reduce("ReduceMax", far, axes, keepdims=False)
        return w.op("Where", w.counts(count), most, w.constant(0))
    return w.op("Div", w.reduce("ReduceSum", far, axes, keepdims=False), w.op("Max", count, w.constant(1)))


def _embedding(w: Writer, at: Place, x: str) -> str:
    return w.op("Gather", w.weight("E", at.values["E"]), x, axis=0)


def _mask(w: Writer, at: Place, x: str) -> str:
    on = w.real(w.counts(x))
    return on if len(at.shapes[0]) == 1 else w.reduce("ReduceMax", on, [-1], keepdims=False)


# ---- recurrent layers ----

# ONNX's name, its order of the gates as numbers of ours, the activations that it takes
_CELLS: dict[str, tuple[str, list[int]]] = {"simple_rnn": ("RNN", [0]), "lstm": ("LSTM", [0, 3, 1, 2]),
                                            "gru": ("GRU", [1, 0, 2])}  # fmt: skip
_RNN = {"tanh": "Tanh", "relu": "Relu", "logistic": "Sigmoid"}


def _recurrent(w: Writer, at: Place, x: str, *mask: str) -> str:
    """ONNX's own operation, or a Scan of the cell where there is a mask, which it does not have, another activation, or
    float64, which ONNX Runtime does not have."""
    layer, n = at.layer, at.layer.units
    if mask or w.double or getattr(layer, "activation", "tanh") not in _RNN:
        return _scanned(w, at, x, *mask)
    kind, order = _CELLS[layer.op]

    def rows(array: np.ndarray) -> np.ndarray:
        """The gates in ONNX's order, beside each other on the last axis, as rows."""
        return np.concatenate([array[..., i * n : (i + 1) * n] for i in order], axis=-1).T

    weights = [w.weight(letter, rows(at.values[letter])[None]) for letter in "WU"]
    if "b" in at.values:
        b, second = at.values["b"], np.zeros(n * layer.gates)
        if "b_n" in at.values:
            second[2 * n :] = at.values["b_n"]
        weights.append(w.weight("b", np.concatenate([rows(b), rows(second)])[None]))
    settings: dict[str, Any] = {"hidden_size": n, "direction": "reverse" if layer.reverse else "forward"}
    if layer.op == "simple_rnn":
        settings["activations"] = [_RNN[layer.activation]]
    if layer.op == "gru":
        settings["linear_before_reset"] = 1
    every, last = w.fresh("every"), w.fresh("last")
    w.several(kind, [w.turn(x, 1, 0, 2), *weights], [every] if layer.sequences else ["", last], **settings)
    if layer.sequences:  # (time, 1, batch, units)
        return w.turn(w.op("Squeeze", every, w.integers(1)), 1, 0, 2)
    return w.op("Squeeze", last, w.integers(0))


def _scanned(w: Writer, at: Place, x: str, *mask: str) -> str:
    helper, layer = w.onnx.helper, at.layer
    W, U = (w.weight(letter, at.values[letter]) for letter in "WU")
    z = w.op("MatMul", x, W)
    z = w.op("Add", z, w.weight("b", at.values["b"])) if "b" in at.values else z
    names = ["h", "c"] if layer.op == "lstm" else ["h"]
    size = w.op("Concat", w.op("Shape", x, start=0, end=1), w.integers(layer.units), axis=0)
    zeros = w.op("ConstantOfShape", size, value=w.onnx.numpy_helper.from_array(np.zeros(1, w.dtype)))

    body = Writer(w.onnx, w.dtype, w.opset, w)
    before, z_t = [body.fresh(name) for name in names], body.fresh("z")
    after = _STEPS[layer.op](body, at, z_t, before, U)
    given = [helper.make_tensor_value_info(name, w.type, [None, layer.units]) for name in before]
    given.append(helper.make_tensor_value_info(z_t, w.type, [None, layer.gates * layer.units]))
    if mask:
        m = body.fresh("mask")
        given.append(helper.make_tensor_value_info(m, w.type, [None]))
        on = body.unsqueeze(body.counts(m), 1)
        after = [body.op("Where", on, *both) for both in zip(after, before, strict=True)]
    # each output of a body has a name of its own
    after = [body.op("Identity", value) for value in after]
    every = body.op("Identity", after[0])
    made = [helper.make_tensor_value_info(name, w.type, [None, layer.units]) for name in (*after, every)]
    graph = helper.make_graph(body.nodes, w.fresh("step"), given, made)

    outputs = [w.fresh(f"last_{name}") for name in names] + [w.fresh("every")]
    inputs, backwards = [z, *mask], int(layer.reverse)
    w.several(
        "Scan", [zeros] * len(names) + inputs, outputs, body=graph, num_scan_inputs=len(inputs),
        scan_input_axes=[1] * len(inputs), scan_input_directions=[backwards] * len(inputs),
        scan_output_axes=[1], scan_output_directions=[backwards],
    )  # fmt: skip
    return outputs[-1] if layer.sequences else outputs[0]


def _gates(w: Writer, z: str, n: int) -> list[str]:
    """The gates beside each other, apart."""
    parts = [w.fresh(f"gate_{i}") for i in range(n)]
    more = {"num_outputs": n} if w.opset >= 18 else {}
    w.several("Split", [z], parts, axis=-1, **more)
    return parts


def _simple_step(w: Writer, at: Place, z: str, states: list[str], U: str) -> list[str]:
    return [w.activated(at.layer.activation, w.op("Add", z, w.op("MatMul", states[0], U)))]


def _lstm_step(w: Writer, at: Place, z: str, states: list[str], U: str) -> list[str]:
    """c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c')"""
    i, f, g, o = _gates(w, w.op("Add", z, w.op("MatMul", states[0], U)), 4)
    kept = w.op("Mul", w.op("Sigmoid", f), states[1])
    c = w.op("Add", kept, w.op("Mul", w.op("Sigmoid", i), w.op("Tanh", g)))
    return [w.op("Mul", w.op("Sigmoid", o), w.op("Tanh", c)), c]


def _gru_step(w: Writer, at: Place, z: str, states: list[str], U: str) -> list[str]:
    """h' = (1 - u) tanh(n + r (N + b_n)) + u h"""
    (r, u, n), (R, V, N) = _gates(w, z, 3), _gates(w, w.op("MatMul", states[0], U), 3)
    r, u = w.op("Sigmoid", w.op("Add", r, R)), w.op("Sigmoid", w.op("Add", u, V))
    N = w.op("Add", N, w.weight("b_n", at.values["b_n"])) if "b_n" in at.values else N
    n = w.op("Tanh", w.op("Add", n, w.op("Mul", r, N)))
    return [w.op("Add", w.op("Mul", w.op("Sub", w.constant(1), u), n), w.op("Mul", u, states[0]))]


_STEPS = {"simple_rnn": _simple_step, "lstm": _lstm_step, "gru": _gru_step}


def _same(w: Writer, at: Place, x: str) -> str:
    return x


def _function(w: Writer, at: Place, *inputs: str) -> str:
    raise w.refused(f"{at.layer!r} is a function of your own")


TABLE: dict[str, Callable[..., str]] = {
    "dense": _dense,
    "add": _add,
    "multiply": lambda w, at, a, b: w.op("Mul", a, b),
    "concat": _concat,
    "slice": _slice,
    "permute": lambda w, at, x: w.turn(x, 0, *(axis + 1 for axis in at.layer.axes)),
    "reshape": lambda w, at, x: w.reshape(x, at.shape),
    "activate": _activate,
    "mask": _mask,
    "scale": lambda w, at, x: w.op("Mul", x, w.weight("s", at.values["s"])),
    "bias": lambda w, at, x: w.op("Add", x, w.weight("s", at.values["s"])),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "standardize": _standardize,
    "matmul": _matmul,
    **dict.fromkeys(("dropout", "alpha_dropout", "gaussian_noise"), _same),
    **dict.fromkeys(("conv2d", "conv1d", "time_delay"), _convolution),
    **dict.fromkeys(("max_pool2d", "average_pool2d", "max_pool1d", "average_pool1d"), _pool),
    **dict.fromkeys(("global_max_pool", "global_average_pool"), _global_pool),
    **dict.fromkeys(_STEPS, _recurrent),
    "embedding": _embedding,
    "function": _function,
}


# ---- the model ----


def export(net: Any, path: str | os.PathLike[str], opset: int, dynamic_batch: bool) -> None:
    """See bpcore.export_onnx."""
    onnx = imported("onnx", "export_onnx", "bpcore[onnx]")
    name = _validate.path(path)
    opset = _validate.integer("opset", opset, FIRST_OPSET, onnx.defs.onnx_opset_version())
    batch: str | int = "batch" if _validate.flag("dynamic_batch", dynamic_batch) else 1
    with checked("export_onnx", net)._model.reading() as model:
        data = _proto(onnx, model, opset, batch).SerializeToString()
    onnx.checker.check_model(data, full_check=True)
    _io.write_whole(name, [data])


def _proto(onnx: Any, model: Model, opset: int, batch: str | int) -> Any:
    """The model, not yet checked."""
    helper, graph, nodes = onnx.helper, model.graph, places(model)
    w = Writer(onnx, model.dtype, opset)
    unrounded = {at.inputs[0] for at in nodes if at.layer.op == "standardize"}
    inputs, values = [], {}
    for i in graph.inputs:
        w.place = at = nodes[i]
        type_ = onnx.TensorProto.INT64 if at.layer.integer else w.type
        values[i] = at.name
        if i in unrounded and not w.double:
            type_ = onnx.TensorProto.DOUBLE
            if i in graph.outputs:
                raise w.refused("it is an input that Standardize reads in float64, and an output in float32")
            if graph.is_read(i):
                values[i] = w.real(at.name)
        inputs.append(helper.make_tensor_value_info(at.name, type_, [batch, *at.shape]))
    for i, at in enumerate(nodes):
        if i not in graph.inputs:
            w.place = at
            values[i] = _added(w, at, values, nodes, model.target_moments.get(at.name) if i in graph.outputs else None)
    n_bytes = sum(array.nbytes for array in w.constants.values())
    if n_bytes > MOST_BYTES:
        raise ValueError(f"export_onnx: expected less than 2 GiB of weights, which an ONNX file holds, got {n_bytes:,}")
    outputs = [helper.make_tensor_value_info(nodes[i].name, w.type, [batch, *nodes[i].shape]) for i in graph.outputs]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in w.constants.items()]
    return _described(onnx, helper.make_graph(w.nodes, "bpcore", inputs, outputs, constants), model, opset)


def _added(w: Writer, at: Place, values: Mapping[int, str], nodes: Sequence[Place], moments: Moments | None) -> str:
    """Adds a layer; the name of what the layers behind it read.  moments: of an output that has units of its own."""
    if at.layer.op not in TABLE:
        raise w.refused(f"{at.layer!r} has no counterpart")
    reads = [nodes[i].name if at.layer.op == "standardize" else values[i] for i in at.inputs]
    value = TABLE[at.layer.op](w, at, *reads)
    if moments is None:
        w.rename(value, at.name)
        return at.name
    inner = f"{at.name}/standard"
    w.rename(value, inner)
    wide = inner if w.double else w.cast(inner, w.onnx.TensorProto.DOUBLE)
    mean, scale = (w.constant(array, np.float64) for array in (moments.mean, moments.scale))
    wide = w.op("Add", w.op("Mul", wide, scale), mean)
    w.rename(wide if w.double else w.real(wide), at.name)
    return inner


def _described(onnx: Any, graph: Any, model: Model, opset: int) -> Any:
    """The model, with what made it."""
    versions = [onnx.helper.make_opsetid("", opset)]
    proto = onnx.helper.make_model(
        graph, opset_imports=versions, ir_version=onnx.helper.find_min_ir_version_for(versions),
        producer_name="bpcore", producer_version=__version__,
    )  # fmt: skip
    props = {"bpcore_version": __version__}
    if names := {name: list(own) for name, own in model.column_names.items() if own}:
        props["feature_names"] = json.dumps(names)
    if model.table is not None and model.table.classes is not None:
        props["classes"] = json.dumps([str(each) for each in model.table.classes])
    onnx.helper.set_model_props(proto, props)
    return proto
