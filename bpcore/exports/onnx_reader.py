"""ONNX models as networks: a table from the kind of an operation to the layers that compute it.

Nothing is executed, nothing outside the file is read, and every size comes from a tensor whose bytes are in the file.
A value knows how its axes lie in the symbol that computes it, so that the turns which ONNX needs around a convolution
and bpcore does not are only made where something reads the other order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import bpcore as bp
from bpcore import _validate
from bpcore._layers import Layer
from bpcore._moments import Moments
from bpcore._network import Network
from bpcore._symbols import Symbol
from bpcore.exports.chains import padding_for
from bpcore.exports.graphs import imported
from bpcore.exports.onnx_writer import SELU_ALPHA, SELU_SCALE

FIRST_OPSET = 13  # where axes became inputs
MOST_BYTES = 2**31 - 1  # of a file: a protobuf message has at most 2 GiB
BATCH = -(2**62)  # stands for the batch in shapes that a model computes
_MOST_FOLDED = 1024  # numbers of such a shape
_MOST_FILLED = 2**20  # of a constant that it gives

# bpcore's activation, and the attributes that ONNX's must have, with their defaults
ACTIVATIONS: dict[str, tuple[str, dict[str, tuple[Any, Any]]]] = {
    "Sigmoid": ("logistic", {}),
    "Tanh": ("tanh", {}),
    "Relu": ("relu", {}),
    "LeakyRelu": ("leaky_relu", {"alpha": (0.01, 0.01)}),
    "Elu": ("elu", {"alpha": (1.0, 1.0)}),
    "Selu": ("selu", {"alpha": (SELU_ALPHA, SELU_ALPHA), "gamma": (SELU_SCALE, SELU_SCALE)}),
    "Gelu": ("gelu", {"approximate": (b"none", b"none")}),
    "Softplus": ("softplus", {}),
    "Softsign": ("softsign", {}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": (1 / 6, 0.2), "beta": (0.5, 0.5)}),
    "Exp": ("exp", {}),
}


@dataclass(frozen=True)
class Value:
    """An ONNX tensor: its axis i is axis axes[i] of (batch, *symbol.shape), or one of size 1 where that is None."""

    symbol: Symbol
    axes: tuple[int | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor, 0 for the batch."""
        sizes = (0, *self.symbol.shape)
        return tuple(1 if axis is None else sizes[axis] for axis in self.axes)

    @property
    def plain(self) -> bool:
        """Whether it has the symbol's axes in their order."""
        return self.axes == tuple(range(len(self.symbol.shape) + 1))


def plain(symbol: Symbol) -> Value:
    """A value with the symbol's axes in their order."""
    return Value(symbol, tuple(range(len(symbol.shape) + 1)))


class Reader:
    """Symbols and constants, as operations are read.

    node: that which is read; attributes: its own, by name; given: its inputs, "" for what is left out.
    """

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx, self.nodes = onnx, list(graph.node)
        self.values: dict[str, Value] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.outputs = {output.name for output in graph.output}
        self.batch = {0, -1, BATCH}  # how a shape may name the batch
        self.layers: dict[Any, Layer] = {}  # with weights, by these and their settings
        self.parameters: list[tuple[Layer, Mapping[str, np.ndarray]]] = []
        self.moments: list[tuple[Layer, Moments]] = []
        self.taken = {"input"}
        self.done: set[int] = set()  # nodes that were read with one before
        self.node: Any = None
        self.attributes: dict[str, Any] = {}

    def refused(self, why: str) -> ValueError:
        return ValueError(
            f"from_onnx: expected operations that bpcore has layers for, and {self.node.op_type} "
            f"{self.node.name or self.node.output[0]!r} is none: {why}"
        )

    # ---- what a node reads ----

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def must(self, **expected: Any) -> None:
        """ValueError where an attribute is there and another."""
        for name, value in expected.items():
            if self.attributes.get(name, value) != value:
                raise self.refused(f"bpcore has it with {name}={value!r}, got {self.attributes[name]!r}")

    def input(self, i: int) -> Value:
        """Input i, computed."""
        name = self.node.input[i] if i < len(self.node.input) else ""
        if name not in self.values:
            raise self.refused(f"expected its input {i} to be computed from the model's inputs")
        return self.values[name]

    def constant(self, i: int) -> np.ndarray | None:
        """Input i, constant; None where it is left out."""
        name = self.node.input[i] if i < len(self.node.input) else ""
        if name and name not in self.constants:
            raise self.refused(f"expected its input {i} to be constant")
        return self.constants[name] if name else None

    def needed(self, i: int) -> np.ndarray:
        """Input i, constant and there."""
        value = self.constant(i)
        if value is None:
            raise self.refused(f"expected an input {i}")
        return value

    def integers(self, i: int, attribute: str = "") -> list[int] | None:
        """Whole numbers that are an input, or in older opsets an attribute."""
        if attribute in self.attributes:
            return [int(n) for n in self.attributes[attribute]]
        value = self.constant(i)
        return None if value is None else [int(n) for n in value.reshape(-1)]

    def rows(self, value: Value) -> Symbol:
        """A symbol with the value's axes behind the batch."""
        if value.plain:
            return value.symbol
        kept = [axis for axis in value.axes if axis is not None]
        if value.axes[0] != 0:
            raise self.refused("its input has other axes before the batch")
        symbol = value.symbol
        if kept != sorted(kept):
            symbol = self.call(bp.Permute(tuple(axis - 1 for axis in kept[1:])), symbol)
        if None in value.axes:
            symbol = self.call(bp.Reshape(value.shape[1:] or (1,)), symbol)
        return symbol

    def channels_last(self, value: Value) -> Symbol:
        """A symbol (batch, positions..., channels) of a value (batch, channels, positions...)."""
        order = (0, len(value.axes) - 1, *range(1, len(value.axes) - 1))
        if value.axes == order:
            return value.symbol
        symbol = self.rows(value)
        n = len(symbol.shape)
        return symbol if n == 1 else self.call(bp.Permute((*range(1, n), 0)), symbol)

    # ---- what it makes ----

    def call(self, layer: Layer, *symbols: Symbol) -> Symbol:
        """The layer on symbols; what does not fit is an error that names the node."""
        try:
            return layer(*symbols)
        except (TypeError, ValueError) as error:
            raise self.refused(str(error)) from None

    def make(self, kind: Callable[..., Layer], *settings: Any, name: str | None = None, **options: Any) -> Layer:
        """A layer, called as the value that it makes where bpcore may."""
        wanted = self.node.output[0] if name is None else name
        own = None if set(wanted) & set("./@") or wanted in self.taken or not wanted else wanted
        try:
            layer = kind(*settings, name=own, **options)
        except (TypeError, ValueError) as error:
            raise self.refused(str(error)) from None
        self.taken |= {own} if own else set()
        return layer

    def weighted(
        self, kind: Callable[..., Layer], values: Mapping[str, np.ndarray], names: Sequence[str], *settings: Any,
        name: str | None = None, **options: Any,
    ) -> Layer:  # fmt: skip
        """A layer with values of parameters and states by letter, which come from these tensors; one of the same
        tensors and settings is the same layer."""
        key = (kind, tuple(names), settings, tuple(options.items()))
        if key not in self.layers:
            self.layers[key] = layer = self.make(kind, *settings, name=name, **options)
            self.parameters.append((layer, values))
        return self.layers[key]

    def put(self, value: Value, output: int = 0) -> None:
        """The node's output."""
        self.values[self.node.output[output]] = value

    def next(self, *kinds: str) -> Any:
        """The only node that reads this one's output, if it is of these kinds; None otherwise."""
        name = self.node.output[0]
        users = self.users.get(name, [])
        if len(users) != 1 or name in self.outputs or users[0].op_type not in kinds or id(users[0]) in self.done:
            return None
        return users[0]

    def goes_on(self, node: Any) -> None:
        """The layer that is made computes this node, too."""
        self.done.add(id(node))
        self.begin(node)

    def begin(self, node: Any) -> None:
        self.node = node
        self.attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}

    def activation(self) -> str:
        """What the node is, by bpcore's name."""
        name, attributes = ACTIVATIONS[self.node.op_type]
        for attribute, (own, default) in attributes.items():
            given = self.attribute(attribute, default)
            if given != own and not (isinstance(own, float) and math.isclose(given, own, rel_tol=1e-6)):
                raise self.refused(f"bpcore's {name} has {attribute}={own}, got {given}")
        return name

    def fused(self, *axes: int) -> str:
        """The activation that follows, a softmax over one of these axes; the node is then read, too."""
        node = self.next(*ACTIVATIONS, "Softmax")
        if node is None:
            return "identity"
        before = self.node, self.attributes
        self.begin(node)
        if node.op_type == "Softmax" and self.attribute("axis", -1) not in axes:
            self.node, self.attributes = before
            return "identity"
        self.done.add(id(node))
        return "softmax" if node.op_type == "Softmax" else self.activation()


# ---- products ----


def _gemm(r: Reader) -> None:
    r.must(alpha=1.0, beta=1.0, transA=0)
    W = r.needed(1)
    if W.ndim != 2:
        raise r.refused("expected a matrix")
    x = r.rows(r.input(0))
    if len(x.shape) > 1:
        raise r.refused(f"expected a row, got {x.shape}")
    turned = bool(r.attribute("transB", 0))
    _dense(r, x, W.T if turned else W, r.constant(2), [*r.node.input[1:], str(turned)])


def _matmul(r: Reader) -> None:
    if r.node.input[1] not in r.constants:
        r.put(plain(r.call(r.make(bp.MatMul), r.rows(r.input(0)), r.rows(r.input(1)))))
        return
    W, x, names, b = r.needed(1), r.rows(r.input(0)), [r.node.input[1]], None
    if W.ndim != 2:
        raise r.refused("expected a matrix as the constant factor")
    node = r.next("Add")
    for name in node.input if node is not None else ():
        if r.constants.get(name, W).shape == W.shape[1:]:
            b = r.constants[name]
            names.append(name)
    if b is not None:
        r.goes_on(node)
    _dense(r, x, W, b, names)


def _dense(r: Reader, x: Symbol, W: np.ndarray, b: np.ndarray | None, names: list[str]) -> None:
    if W.shape[0] != x.shape[-1] or (b is not None and b.size != W.shape[1]):
        raise r.refused(f"its weights {W.shape} do not fit an input {x.shape}")
    values = {"W": W} if b is None else {"W": W, "b": b.reshape(-1)}
    f = r.fused(-1, len(x.shape))
    r.put(plain(r.call(r.weighted(bp.Dense, values, names, W.shape[1], f, bias=b is not None), x)))


def _window(r: Reader, n: int) -> tuple[list[int], list[int], list[int], Any]:
    """Sizes, strides, dilations, and what is added before and after, or "same"."""
    sizes = [int(k) for k in r.attribute("kernel_shape", ())]
    strides, dilations = ([int(k) for k in r.attribute(name, [1] * n)] for name in ("strides", "dilations"))
    pads, auto = [int(k) for k in r.attribute("pads", [0] * 2 * n)], r.attribute("auto_pad", b"NOTSET")
    if not len(sizes) == len(strides) == len(dilations) == len(pads) // 2 == n or n not in (1, 2):
        raise r.refused("bpcore has it over one axis or two")
    if auto not in (b"NOTSET", b"VALID", b"SAME_UPPER"):
        raise r.refused(f"bpcore has no auto_pad={auto.decode()}")
    if auto == b"SAME_UPPER":
        return sizes, strides, dilations, "same"
    return sizes, strides, dilations, list(zip(pads[:n], pads[n:], strict=True))


def _own(values: Sequence[Any]) -> Any:
    """A setting of an image's axes, or of a sequence's."""
    return values[0] if len(values) == 1 else tuple(values)


def _padding(
    r: Reader, shape: Sequence[int], sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Any,
    causal: bool,
) -> Any:  # fmt: skip
    """bpcore's padding.  What is added behind the last window is nothing."""
    if pads == "same":
        return "same"
    n, reaches = len(sizes), [(size - 1) * d + 1 for size, d in zip(sizes, dilations, strict=True)]
    whole = []
    for length, reach, stride, (before, after) in zip(shape, reaches, strides, pads, strict=False):
        if length + before + after < reach:
            raise r.refused(f"its window does not fit {tuple(shape)}")
        count = (length + before + after - reach) // stride
        whole.append((before, max(0, count * stride + reach - length - before)))

    def counted(options: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The same of what bpcore would add."""
        found = []
        for length, reach, stride, (before, after) in zip(shape, reaches, strides, options, strict=False):
            count = (length + before + after - reach) // stride
            found.append((before, max(0, count * stride + reach - length - before)))
        return found

    same = []
    for length, reach, stride in zip(shape, reaches, strides, strict=False):
        both = max((-(-length // stride) - 1) * stride + reach - length, 0)
        same.append((both // 2, both - both // 2))
    equal = [(before, before) for before, _ in pads]
    options = {"valid": counted([(0, 0)] * n), _own([a for a, _ in pads]): counted(equal), "same": counted(same)}
    if causal:
        options["causal"] = counted([(reaches[0] - 1, 0)])
    padding = padding_for(whole, options)
    if padding is None:
        raise r.refused(f"bpcore does not pad by {pads} before and after each axis")
    return padding


def _conv(r: Reader) -> None:
    W, b = r.needed(1), r.constant(2)
    n = W.ndim - 2
    if "kernel_shape" not in r.attributes:
        r.attributes["kernel_shape"] = list(W.shape[2:])
    sizes, strides, dilations, pads = _window(r, n)
    if sizes != list(W.shape[2:]):
        raise r.refused("its kernel_shape is not that of its weights")
    x = r.channels_last(r.input(0))
    group = int(r.attribute("group", 1))
    if len(x.shape) != n + 1 or group < 1 or x.shape[-1] != W.shape[1] * group or (b is not None and b.size != len(W)):
        raise r.refused(f"its weights {W.shape} do not fit an input {x.shape}, channels last")
    padding = _padding(r, x.shape[:-1], sizes, strides, dilations, pads, n == 1)
    values = {"W": np.moveaxis(W, (0, 1), (-1, -2)), **({} if b is None else {"b": b.reshape(-1)})}
    names, kind = list(r.node.input[1:]), bp.Conv1D if n == 1 else bp.Conv2D
    f = r.fused(1, -1 - n)
    layer = r.weighted(
        kind, values, names, len(W), _own(sizes), f, stride=_own(strides), dilation=_own(dilations), padding=padding,
        groups=group, bias=b is not None,
    )  # fmt: skip
    r.put(Value(r.call(layer, x), (0, n + 1, *range(1, n + 1))))


def _pool(r: Reader) -> None:
    value = r.input(0)
    n, greatest = len(value.axes) - 2, r.node.op_type == "MaxPool"
    sizes, strides, dilations, pads = _window(r, n)
    r.must(ceil_mode=0, storage_order=0)
    if set(dilations) != {1} or len(r.node.output) > 1:
        raise r.refused("bpcore's pooling has no dilation, and gives no indices")
    padded = pads == "same" or any(before or after for before, after in pads)
    if not greatest and padded and r.attribute("count_include_pad", 0):
        raise r.refused("bpcore does not count what is padded")
    x = r.channels_last(value)
    padding = _padding(r, x.shape[:-1], sizes, strides, dilations, pads, False)
    kinds = {1: (bp.AveragePool1D, bp.MaxPool1D), 2: (bp.AveragePool2D, bp.MaxPool2D)}
    layer = r.make(kinds[n][greatest], _own(sizes), stride=_own(strides), padding=padding)
    r.put(Value(r.call(layer, x), (0, n + 1, *range(1, n + 1))))


def _global(r: Reader) -> None:
    value = r.input(0)
    _over_all(r, r.channels_last(value), r.node.op_type == "GlobalMaxPool", (0, 1, *(None,) * (len(value.axes) - 2)))


def _over_all(r: Reader, x: Symbol, greatest: bool, axes: tuple[int | None, ...]) -> None:
    layer = r.make(bp.GlobalMaxPool if greatest else bp.GlobalAveragePool)
    r.put(Value(r.call(layer, x), axes))


def _reduce(r: Reader) -> None:
    """Over all positions: what is left is the batch and one axis."""
    value, axes = r.input(0), r.integers(1, "axes")
    n = len(value.axes)
    over = {axis % n for axis in axes or ()}
    left = [axis for axis in range(n) if axis not in over]
    if n < 3 or len(left) != 2 or left[0] != 0 or value.axes[0] != 0:
        raise r.refused("bpcore has it over all axes but the batch and one")
    if value.axes[left[1]] == len(value.symbol.shape) and None not in value.axes:
        x = value.symbol
    else:
        x = r.rows(value)
        order = [axis - 1 for axis in range(1, n) if axis != left[1]] + [left[1] - 1]
        x = x if order == sorted(order) else r.call(bp.Permute(tuple(order)), x)
    kept = tuple(left.index(axis) if axis in left else None for axis in range(n))
    _over_all(r, x, r.node.op_type == "ReduceMax", kept if r.attribute("keepdims", 1) else (0, 1))


# ---- recurrent layers ----

_GATES = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}  # where bpcore's gates are among ONNX's
_RNN = {b"Tanh": "tanh", b"Relu": "relu", b"Sigmoid": "logistic"}


def _recurrent(r: Reader) -> None:
    kind, value = r.node.op_type, r.input(0)
    W, U, B = r.needed(1), r.needed(2), r.constant(3)
    if r.constant(4) is not None or any(r.node.input[7:]):
        raise r.refused("bpcore has it without sequence_lens and peepholes")
    if any(np.any(state) for state in (r.constant(5), r.constant(6)) if state is not None):
        raise r.refused("bpcore's states begin with 0")
    units = int(r.attribute("hidden_size", U.shape[-1]))
    if W.shape[0] != 1 or r.attribute("direction", b"forward") not in (b"forward", b"reverse"):
        raise r.refused("bpcore has each direction as a layer by itself")
    r.must(layout=0, input_forget=0)
    if "clip" in r.attributes:
        raise r.refused("bpcore has no clip")
    gates = len(_GATES[kind])
    x = value.symbol if value.axes == (1, 0, 2) else None
    if x is None:
        raise r.refused("expected its input to be turned to (time, batch, features)")
    wanted = (W.shape == (1, gates * units, x.shape[-1]), U.shape == (1, gates * units, units))
    if not all(wanted) or (B is not None and B.shape != (1, 2 * gates * units)):
        raise r.refused(f"its weights {W.shape} and {U.shape} do not fit {units} units and an input {x.shape}")
    f = r.attribute("activations", [b"Tanh"]) if kind == "RNN" else [b"Tanh"]
    usual = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"], "RNN": f}[kind]
    if r.attribute("activations", usual) != usual or f[0] not in _RNN or (
        kind == "GRU" and not r.attribute("linear_before_reset", 0)
    ):
        raise r.refused("bpcore has it with sigmoid and tanh, a GRU with linear_before_reset=1")

    def columns(rows: np.ndarray) -> np.ndarray:
        """The gates in bpcore's order, side by side."""
        return np.concatenate([rows[i * units : (i + 1) * units] for i in _GATES[kind]]).T

    values = {"W": columns(W[0]), "U": columns(U[0])}
    if B is not None:
        first, second = (columns(half) for half in np.split(B[0], 2))
        if kind == "GRU":
            values["b_n"] = second[2 * units :]
            second = np.concatenate([second[: 2 * units], np.zeros(units, second.dtype)])
        values["b"] = first + second
    names = [name for name in r.node.input[1:4] if name]
    own: dict[str, Any] = {"activation": _RNN[f[0]]} if kind == "RNN" else {}
    layers = {"LSTM": bp.LSTM, "GRU": bp.GRU, "RNN": bp.SimpleRNN}
    for output, (every, axes) in enumerate(((True, (1, None, 0, 2)), (False, (None, 0, 1)))):
        name = r.node.output[output] if output < len(r.node.output) else ""
        if name and (name in r.users or name in r.outputs):
            backwards = r.attribute("direction", b"forward") == b"reverse"
            layer = r.weighted(
                layers[kind], values, names, units, name=name, sequences=every, reverse=backwards, bias=B is not None,
                **own,
            )  # fmt: skip
            r.put(Value(r.call(layer, x), axes), output)
    if any(name in r.users or name in r.outputs for name in r.node.output[2:]):
        raise r.refused("bpcore does not give the last c")


# ---- shapes ----


def _reshape(r: Reader) -> None:
    value, sizes = r.input(0), r.integers(1)
    shape, sizes = value.shape, list(sizes or [])
    r.must(allowzero=0)
    if not sizes or sizes[0] not in r.batch or BATCH in sizes[1:] or value.axes[0] != 0:
        raise r.refused("expected the batch to stay the first axis")
    if any(size == 0 and i >= len(shape) for i, size in enumerate(sizes)):
        raise r.refused("its shape has a 0 where its input has no axis")
    rest = tuple(shape[i] if size == 0 else size for i, size in enumerate(sizes) if i > 0)
    if -1 in rest and sizes[0] == -1:
        raise r.refused("its shape has two sizes of -1")
    _to_shape(r, value, rest or (1,))


def _to_shape(r: Reader, value: Value, shape: tuple[int, ...]) -> None:
    """The value as (batch, *shape)."""
    x = r.rows(value)
    r.put(plain(x if x.shape == shape else r.call(r.make(bp.Reshape, shape), x)))


def _flatten(r: Reader) -> None:
    value = r.input(0)
    r.must(axis=1)
    sizes = [axis for axis in value.axes if axis is not None]
    if value.axes[0] == 0 and len(sizes) == 2:  # one axis, and some of size 1
        r.put(plain(value.symbol))
        return
    _to_shape(r, value, (math.prod(value.shape[1:]),))


def _squeeze(r: Reader) -> None:
    value, axes = r.input(0), r.integers(1, "axes")
    n = len(value.axes)
    if axes is None:
        raise r.refused("expected axes")
    over = {axis % n for axis in axes}
    if all(value.axes[axis] is None for axis in over):
        r.put(Value(value.symbol, tuple(a for i, a in enumerate(value.axes) if i not in over)))
        return
    if 0 in over or any(value.shape[axis] != 1 for axis in over):
        raise r.refused("expected axes of size 1 behind the batch")
    _to_shape(r, value, tuple(size for i, size in enumerate(value.shape) if i and i not in over) or (1,))


def _unsqueeze(r: Reader) -> None:
    value, axes = r.input(0), list(r.integers(1, "axes") or [])
    n = len(value.axes) + len(axes)
    at, rest = {axis % n for axis in axes}, iter(value.axes)
    r.put(Value(value.symbol, tuple(None if i in at else next(rest) for i in range(n))))


def _transpose(r: Reader) -> None:
    value = r.input(0)
    order = r.attribute("perm", list(range(len(value.axes)))[::-1])
    if sorted(order) != list(range(len(value.axes))):
        raise r.refused(f"its perm {list(order)} does not fit {len(value.axes)} axes")
    r.put(Value(value.symbol, tuple(value.axes[axis] for axis in order)))


def _concat(r: Reader) -> None:
    symbols = [r.rows(r.input(i)) for i in range(len(r.node.input))]
    axis = int(r.attribute("axis", 0)) % (len(symbols[0].shape) + 1)
    if axis == 0:
        raise r.refused("expected an axis behind the batch")
    r.put(plain(r.call(r.make(bp.Concat, axis - 1), *symbols)))


def _slice(r: Reader) -> None:
    x = r.rows(r.input(0))
    starts, ends = r.integers(1) or [], r.integers(2) or []
    axes, steps = r.integers(3), r.integers(4)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * len(x.shape)
    for first, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(x.shape) + 1
        if axis == 0 or step == 0:
            raise r.refused("expected axes behind the batch, and steps other than 0")
        n = x.shape[axis - 1]
        stop = None if step < 0 and end < -n else min(max(end, -n), n)
        index[axis - 1] = slice(min(max(first, -n), n), stop, step)
    r.put(plain(r.call(r.make(bp.Slice, tuple(index)), x)))


def _gather(r: Reader) -> None:
    if r.node.input[0] in r.constants:
        E, value = r.needed(0), r.input(1)
        if E.ndim != 2 or r.attribute("axis", 0):
            raise r.refused("expected a matrix, of which it takes rows")
        layer = r.weighted(bp.Embedding, {"E": E}, [r.node.input[0]], *E.shape)
        r.put(plain(r.call(layer, r.rows(value))))
        return
    value, index = r.input(0), r.needed(1)
    x = r.rows(value)
    axis = int(r.attribute("axis", 0)) % (len(x.shape) + 1)
    if index.ndim or axis == 0 or len(x.shape) == 1:
        raise r.refused("expected one index, of an axis behind the batch")
    r.put(plain(r.call(r.make(bp.Slice, (*(slice(None),) * (axis - 1), int(index))), x)))


# ---- arithmetic ----


def _binary(r: Reader) -> None:
    """A sum or product of two values, or of one and a number, or one for each unit of its last axis."""
    kind = r.node.op_type
    fixed = [name in r.constants for name in r.node.input]
    if not any(fixed):
        if kind == "Div":
            raise r.refused("bpcore divides by numbers alone")
        a, b = r.input(0), r.input(1)
        if a.axes != b.axes:
            a, b = plain(r.rows(a)), plain(r.rows(b))
        layer = r.make(bp.Multiply) if kind == "Mul" else r.make(bp.Add, [1, -1] if kind == "Sub" else None)
        r.put(Value(r.call(layer, a.symbol, b.symbol), a.axes))
        return
    if (kind == "Sub" and fixed[1] and _standardize(r)) or (kind in ("Mul", "Div") and _gelu(r)):
        return
    value, number = r.input(int(fixed[0])), r.needed(int(fixed[1]))
    if number.dtype.kind != "f" or (kind == "Div" and (fixed[0] or not number.all())):
        raise r.refused("expected a real number other than 0 behind it")
    if number.size == 1:
        c = float(number.reshape(-1)[0])
        factor, constant = {"Add": (1.0, c), "Mul": (c, 0.0), "Div": (1 / c if c else 0.0, 0.0),
                            "Sub": (-1.0, c) if fixed[0] else (1.0, -c)}[kind]  # fmt: skip
        layer = r.make(bp.Add, [factor], constant=constant)
        r.put(Value(r.call(layer, value.symbol), value.axes))
        return
    # the axis that it is of
    sizes = (1,) * (len(value.axes) - number.ndim) + number.shape
    (axis,) = [i for i, size in enumerate(sizes) if size > 1] if max(sizes) == number.size else (0,)
    if len(sizes) > len(value.axes) or axis == 0 or value.shape[axis] != number.size:
        got = f"{number.shape} beside {value.shape[1:]}"
        raise r.refused(f"expected one number, or one for each unit of an axis, got {got}")
    if value.axes[axis] != len(value.symbol.shape):
        value = plain(r.rows(value))
    if value.axes[axis] != len(value.symbol.shape):
        raise r.refused("bpcore has numbers for the units of the last axis, and of a convolution's channels")
    if kind == "Sub" and fixed[0]:
        raise r.refused("bpcore takes nothing from units' numbers")
    if kind == "Div":
        with np.errstate(over="ignore"):
            number = 1 / number
        if not np.isfinite(number).all():
            raise r.refused("expected numbers with an inverse behind it")
    own = (-number if kind == "Sub" else number).reshape(-1)
    names = [kind, r.node.input[int(fixed[1])]]
    layer = r.weighted(bp.Scale if kind in ("Mul", "Div") else bp.Bias, {"s": own}, names)
    r.put(Value(r.call(layer, value.symbol), value.axes))


def _standardize(r: Reader) -> bool:
    """(x - mean) / scale of an input: whether it is that."""
    value, mean, node = r.input(0), r.needed(1), r.next("Div")
    scale = r.constants.get(node.input[1]) if node is not None else None
    width = value.symbol.shape[-1:]
    if not isinstance(value.symbol, bp.Input) or scale is None or not value.plain:
        return False
    if mean.shape != width or scale.shape != width or mean.dtype.kind != "f" or not (scale > 0).all():
        return False
    r.goes_on(node)
    layer = r.make(bp.Standardize)
    r.put(plain(r.call(layer, value.symbol)))
    r.moments.append((layer, Moments(mean.astype(np.float64), scale.astype(np.float64)).settled()))
    return True


def _number(r: Reader, node: Any, expected: float) -> str:
    """The other input of an operation with one constant number, which is that; "" where it is none."""
    inputs = list(node.input)
    for name, other in [inputs] if node.op_type == "Div" else [inputs, inputs[::-1]]:
        number = r.constants.get(other)
        if name in r.constants or number is None or number.size != 1:
            continue
        if math.isclose(float(number.reshape(-1)[0]), expected, rel_tol=1e-6):
            return str(name)
    return ""


def _gelu(r: Reader) -> bool:
    """z (1 + erf(z / sqrt 2)) / 2, the half at the end or at z: whether it is that."""
    first = r.node
    z = _number(r, first, math.sqrt(0.5) if first.op_type == "Mul" else math.sqrt(2))
    chain = [first]
    for kind in ("Erf", "Add", "Mul"):
        users = r.users.get(chain[-1].output[0], [])
        if not z or len(users) != 1 or users[0].op_type != kind or chain[-1].output[0] in r.outputs:
            return False
        chain.append(users[0])
    _, _, add, product = chain
    if not _number(r, add, 1.0):
        return False
    (other,) = [name for name in product.input if name != add.output[0]] or ("",)
    halves = [node for node in r.nodes if node.op_type == "Mul" and _number(r, node, 0.5)]
    if other == z:  # (z (1 + erf)) / 2
        chain += [node for node in r.users.get(product.output[0], []) if node in halves]
        ends = len(chain) == 5 and len(r.users[product.output[0]]) == 1 and product.output[0] not in r.outputs
    else:  # (z / 2) (1 + erf)
        half = [node for node in halves if node.output[0] == other and _number(r, node, 0.5) == z]
        ends = bool(half) and len(r.users[other]) == 1 and other not in r.outputs
        chain = [*half, *chain]
    if not ends:
        return False
    value = r.input(list(first.input).index(z))
    for node in chain:
        r.goes_on(node)
    r.put(Value(r.call(r.make(bp.Activate, "gelu"), value.symbol), value.axes))
    return True


def _same(r: Reader) -> None:
    r.put(r.input(0))


def _dropout(r: Reader) -> None:
    training = r.constant(2)
    if training is not None and training.any():
        raise r.refused("expected a model that is not in training")
    r.put(r.input(0))


def _cast(r: Reader) -> None:
    """Between real numbers: all are of the network's dtype."""
    value, types = r.input(0), r.onnx.TensorProto
    if r.attribute("to") not in (types.FLOAT, types.DOUBLE) or (
        isinstance(value.symbol, bp.Input) and value.symbol.integer
    ):
        raise r.refused("bpcore has it between float32 and float64")
    r.put(value)


def _activate(r: Reader) -> None:
    value, f = r.input(0), r.activation()
    r.put(Value(r.call(r.make(bp.Activate, f), value.symbol), value.axes))


def _clip(r: Reader) -> None:
    low, high, value = r.constant(1), r.constant(2), r.input(0)
    if low is None or high is None or (float(low), float(high)) != (-1.0, 1.0):
        raise r.refused("bpcore has it from -1 to 1, as hard_tanh")
    r.put(Value(r.call(r.make(bp.Activate, "hard_tanh"), value.symbol), value.axes))


def _softmax(r: Reader) -> None:
    value = r.input(0)
    axis = value.axes[int(r.attribute("axis", -1)) % len(value.axes)]
    if not axis:
        raise r.refused("expected an axis of an example")
    own = -1 if axis == len(value.symbol.shape) else axis - 1
    r.put(Value(r.call(r.make(bp.Activate, "softmax", axis=own), value.symbol), value.axes))


# ---- normalisations ----


def _layer_norm(r: Reader) -> None:
    x, s, b = r.rows(r.input(0)), r.needed(1), r.constant(2)
    if int(r.attribute("axis", -1)) not in (-1, len(x.shape)) or len(r.node.output) > 1 or s.shape != x.shape[-1:]:
        raise r.refused("bpcore has it over the last axis, without mean and deviation as outputs")
    values = {"s": s, "b": np.zeros_like(s) if b is None else b}
    layer = r.weighted(bp.LayerNorm, values, list(r.node.input[1:]), eps=float(r.attribute("epsilon", 1e-5)))
    r.put(plain(r.call(layer, x)))


def _batch_norm(r: Reader) -> None:
    r.must(training_mode=0)
    value = r.input(0)
    values = {letter: r.needed(i) for i, letter in enumerate(("s", "b", "mean", "variance"), 1)}
    x = r.channels_last(value)
    if any(array.shape != x.shape[-1:] for array in values.values()):
        raise r.refused(f"its numbers do not fit {x.shape[-1]} channels")
    eps, momentum = float(r.attribute("epsilon", 1e-5)), float(r.attribute("momentum", 0.9))
    layer = r.weighted(bp.BatchNorm, values, list(r.node.input[1:]), eps=eps, momentum=momentum)
    n = len(x.shape)
    r.put(Value(r.call(layer, x), (0, n, *range(1, n))))


def _group_norm(r: Reader) -> None:
    x, s, b = r.channels_last(r.input(0)), r.needed(1), r.needed(2)
    groups = int(r.attribute("num_groups", x.shape[-1]))
    if s.shape != x.shape[-1:] or b.shape != s.shape:
        raise r.refused(f"expected numbers for {x.shape[-1]} channels")
    layer = r.weighted(
        bp.GroupNorm, {"s": s, "b": b}, list(r.node.input[1:]), groups, eps=float(r.attribute("epsilon", 1e-5))
    )
    n = len(x.shape)
    r.put(Value(r.call(layer, x), (0, n, *range(1, n))))


# ---- shapes that a model computes ----


def _cut(a: np.ndarray, first: np.ndarray, end: np.ndarray, axes: Any = None, steps: Any = None) -> np.ndarray:
    """Slice, of one axis."""
    (start,), (stop,), (step,) = first, end, [1] if steps is None else steps
    if a.ndim != 1 or (axes is not None and list(axes) not in ([0], [-1])):
        raise LookupError("of one axis")
    return a[int(start) : int(stop) : int(step)]


_FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "Gather": lambda attributes, a, i: np.take(a, i, axis=attributes.get("axis", 0)),
    "Concat": lambda attributes, *arrays: np.concatenate(arrays, axis=attributes["axis"]),
    "Unsqueeze": lambda attributes, a, axes: np.expand_dims(a, tuple(axes)),
    "Squeeze": lambda attributes, a, *axes: np.squeeze(a, *map(tuple, axes)),
    "Slice": lambda attributes, *arrays: _cut(*arrays),
}


def _folded(r: Reader) -> np.ndarray | None:
    """What a node makes of constants and shapes alone; None for what belongs to a layer."""
    kind, names = r.node.op_type, [name for name in r.node.input if name]
    if kind == "Shape" and names[0] in r.values:
        shape = [BATCH if axis == 0 else size for axis, size in zip(r.input(0).axes, r.input(0).shape, strict=True)]
        return np.array(shape[slice(r.attribute("start", 0), r.attribute("end", len(shape)))], np.int64)
    if not names or any(name not in r.constants for name in names):
        return None
    if kind == "Identity":
        return r.constants[names[0]]
    if kind == "Cast" and r.attribute("to") == r.onnx.TensorProto.INT64 and r.needed(0).dtype.kind in "iu":
        return r.needed(0).astype(np.int64)
    if kind == "ConstantOfShape":
        value = r.attribute("value")
        return _filled(r, np.zeros(1, np.float32) if value is None else _array(r.onnx, "", value), r.needed(0))
    if kind == "Expand":
        return _filled(r, r.needed(0), r.needed(1))
    if kind not in _FOLDS or any(r.constants[name].size > _MOST_FOLDED for name in names):
        return None
    try:
        return _FOLDS[kind](r.attributes, *(r.constants[name] for name in names))
    except ValueError as error:  # NumPy's
        raise LookupError(str(error)) from None


def _filled(r: Reader, value: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """A constant of this shape; where the batch is in it, zeros, of which one is enough."""
    if BATCH in shape and not value.any():
        return np.zeros(1, value.dtype)
    sizes = [int(size) for size in shape.reshape(-1)]
    if min(sizes, default=1) < 0 or math.prod(sizes) * value.size > _MOST_FILLED:
        raise r.refused("bpcore has no constant of such a shape")
    try:
        return np.broadcast_to(value, np.broadcast_shapes(value.shape, sizes))
    except ValueError as error:
        raise LookupError(str(error)) from None


TABLE: dict[str, Callable[[Reader], None]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), _global),
    **dict.fromkeys(("ReduceMax", "ReduceMean"), _reduce),
    **dict.fromkeys(_GATES, _recurrent),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _binary),
    "Identity": _same,
    "Dropout": _dropout,
    "Cast": _cast,
    **dict.fromkeys(ACTIVATIONS, _activate),
    "Clip": _clip,
    "Softmax": _softmax,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), _group_norm),
}


# ---- the model ----


def from_onnx(path: str | os.PathLike[str]) -> Network:
    """See bpcore.from_onnx."""
    onnx = imported("onnx", "from_onnx", "bpcore[onnx]")
    name = _validate.path(path)
    with open(name, "rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise ValueError(f"from_onnx: {name!r} is larger than 2 GiB, which an ONNX file never is")
        data = file.read()
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # DecodeError of whichever protobuf there is
        raise ValueError(f"from_onnx: {name!r} is not an ONNX model: {error}") from None
    tensors = _checked(onnx, name, model)
    try:
        onnx.checker.check_model(data)
    except Exception as error:  # a ValidationError, or what a string that is none makes of it
        raise ValueError(f"from_onnx: {name!r} is not an ONNX model: {str(error).splitlines()[0]}") from None
    r = Reader(onnx, model.graph)
    r.constants = {tensor: array for tensor, array in tensors.items() if tensor}
    inputs = [_input(onnx, r, info) for info in model.graph.input if info.name not in r.constants]
    for node in r.nodes:
        if node.op_type == "Constant":
            r.begin(node)
            r.constants[node.output[0]] = _constant(onnx, r, name)
            r.done.add(id(node))
    for node in r.nodes:
        if id(node) not in r.done:
            r.begin(node)
            _read(r)
    return _network(onnx, r, model.graph, inputs)


def _read(r: Reader) -> None:
    """Reads a node."""
    try:
        constant = _folded(r)
        if constant is not None:
            r.constants[r.node.output[0]] = constant
        elif r.node.op_type not in TABLE:
            raise r.refused("bpcore has no layer for it")
        else:
            TABLE[r.node.op_type](r)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise r.refused(f"its inputs or attributes are not those that ONNX has ({error})") from None


def _checked(onnx: Any, path: str, model: Any) -> dict[str, np.ndarray]:
    """The initializers; ValueError for what is read from elsewhere, or has other operations than ONNX's."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    own = versions.get("", versions.get("ai.onnx", 0))
    others = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if others or model.functions:
        raise ValueError(f"from_onnx: {path!r}: expected operations of ONNX alone, got {others or 'functions'}")
    if not FIRST_OPSET <= own <= onnx.defs.onnx_opset_version():
        newest = onnx.defs.onnx_opset_version()
        raise ValueError(f"from_onnx: {path!r}: expected opset {FIRST_OPSET} to {newest}, got {own}")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                what = f"{node.op_type} {node.name or (node.output or [''])[0]!r}"
                raise ValueError(f"from_onnx: {path!r}: expected no graphs within the graph, and {what} has one")
    if model.graph.sparse_initializer:
        raise ValueError(f"from_onnx: {path!r}: expected no sparse initializers")
    return {tensor.name: _array(onnx, path, tensor) for tensor in model.graph.initializer}


def _array(onnx: Any, path: str, tensor: Any) -> np.ndarray:
    """A tensor's numbers, which are as many as its shape says, and in the file."""
    types = onnx.TensorProto
    fields = {types.FLOAT: "float_data", types.DOUBLE: "double_data", types.INT64: "int64_data",
              types.INT32: "int32_data", types.BOOL: "int32_data"}  # fmt: skip
    what = f"from_onnx: {path!r}: tensor {tensor.name!r}"
    if tensor.data_location != types.DEFAULT or tensor.external_data:
        raise ValueError(f"{what}: expected its numbers in the file itself, and they are in another")
    if tensor.data_type not in fields:
        raise ValueError(f"{what}: expected float32, float64, int32, int64 or bool, got type {tensor.data_type}")
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"{what}: expected a shape, got {list(tensor.dims)}")
    n, itemsize = math.prod(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    raw = tensor.HasField("raw_data")
    got = len(tensor.raw_data) / itemsize if raw else len(getattr(tensor, fields[tensor.data_type]))
    if got != n:
        raise ValueError(f"{what}: expected {n:,} numbers for its shape {list(tensor.dims)}, got {got:,}")
    array: np.ndarray = onnx.numpy_helper.to_array(tensor)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{what}: expected finite numbers")
    return array


def _constant(onnx: Any, r: Reader, path: str) -> np.ndarray:
    """What a Constant gives."""
    (name, value), *others = r.attributes.items()
    if name == "value":
        return _array(onnx, path, value)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if others or name not in kinds:
        raise r.refused(f"bpcore reads no {name}")
    return np.asarray(value, kinds[name])


def _input(onnx: Any, r: Reader, info: Any) -> bp.Input:
    """An input of the model, (batch, *shape)."""
    types, tensor = onnx.TensorProto, info.type.tensor_type
    dims = list(tensor.shape.dim)
    sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in dims[1:]]
    if tensor.elem_type not in (types.FLOAT, types.DOUBLE, types.INT64, types.INT32) or not sizes or min(sizes) < 1:
        raise ValueError(
            f"from_onnx: input {info.name!r}: expected (batch, ...) of real or whole numbers, with known sizes behind "
            f"the batch, got {[dim.dim_param or dim.dim_value for dim in dims]} of type {tensor.elem_type}"
        )
    name = None if set(info.name) & set("./@") else info.name
    integer = tensor.elem_type in (types.INT64, types.INT32)
    try:
        x = bp.Input(sizes[0] if len(sizes) == 1 else tuple(sizes), integer=integer, name=name)
    except ValueError as error:
        raise ValueError(f"from_onnx: input {info.name!r}: {error}") from None
    r.taken |= {name} if name else set()
    r.values[info.name] = plain(x)
    r.batch |= {dims[0].dim_value} if dims[0].HasField("dim_value") else set()
    return x


def _network(onnx: Any, r: Reader, graph: Any, inputs: list[bp.Input]) -> Network:
    """The network, with its parameters."""
    types, outputs = {output.type.tensor_type.elem_type for output in graph.output}, []
    for output in graph.output:
        if output.name not in r.values:
            raise ValueError(f"from_onnx: output {output.name!r}: expected it to depend on the model's inputs")
        outputs.append(r.rows(r.values[output.name]))
    dtype = "float64" if types == {onnx.TensorProto.DOUBLE} else "float32"
    try:
        net = Network(inputs, outputs, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"from_onnx: {error}") from None
    bases = {id(node.layer): node.base for node in net._model.graph.nodes}
    for layer, values in r.parameters:
        if id(layer) in bases:  # and not of what no output depends on
            for letter, value in values.items():
                name = f"{bases[id(layer)]}.{letter}"
                (net.params if name in net.params else net.state)[name][...] = value
    net._model.moments = {bases[id(layer)]: own for layer, own in r.moments if id(layer) in bases}
    return net
