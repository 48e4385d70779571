"""Layers without products: sums, concatenation, slices, shapes, activations, and numbers for each unit."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _activations, _core, _validate
from bpcore._activations import Activation
from bpcore._core import Plan
from bpcore._layers import Layer, Spec, apply, named
from bpcore._symbols import Shape, Symbol

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

MAX_AXES = 4


def _named(layer: Any) -> None:
    named(layer.name)


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """x_0 a_0 + x_1 a_1 + ... + constant, elementwise, for inputs of one shape; `a + b` and the like make it.

    factors: x_0, x_1, ...; all 1 where there are none.  It takes up to 8 inputs; of more, add sums.
    """

    factors: Any = None
    constant: float = field(default=0.0, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "add"
    saved: ClassVar[tuple[str, ...]] = ("factors", "constant")
    many: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.factors is not None:
            if not isinstance(self.factors, (list, tuple)):
                raise TypeError(f"factors: expected a list of numbers, got {self.factors!r}")
            factors = tuple(_validate.real("factors", x, -math.inf) for x in self.factors)
            object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "constant", _validate.real("constant", self.constant, -math.inf))
        _named(self)

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.factors is not None and len(self.factors) != len(shapes):
            raise self.wrong(f"{len(self.factors)} inputs", len(shapes))
        if len(set(shapes)) > 1:
            raise self.wrong("inputs of one shape", ", ".join(map(str, shapes)))
        return shapes[0]

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        factors = self.factors or (1.0,) * len(inputs)  # ADD_FACTOR, ADD_CONSTANT of csrc/kernels/settings.h
        padded = [*factors, *(0.0,) * (_core.MAX_OPERANDS - len(factors)), self.constant]
        return plan.op("add", inputs, settings=([], padded))

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        moving = [(f, move) for f, move in zip(self.factors or (1.0,) * len(moves), moves, strict=True) if move >= 0]
        padded = [*(f for f, _ in moving), *(0.0,) * (_core.MAX_OPERANDS + 1 - len(moving))]
        return t.plan.op("add", [move for _, move in moving], settings=([], padded))


@dataclass(frozen=True, eq=False)
class Multiply(Layer):
    """a * b, elementwise, for two inputs of one shape; `a * b` makes it."""

    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "multiply"
    many: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _named(self)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise self.wrong("two inputs of one shape", ", ".join(map(str, shapes)))
        return shapes[0]

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return plan.op("multiply", inputs)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return t.add_up(t.times(inputs[1], moves[0]), t.times(inputs[0], moves[1]))


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """Up to 8 inputs one after the other along an axis of an example; `bp.concat([a, b])` makes it."""

    axis: int = -1
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "concat"
    saved: ClassVar[tuple[str, ...]] = ("axis",)
    many: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", _validate.integer("axis", self.axis, -MAX_AXES, MAX_AXES - 1))
        _named(self)

    def _axis(self, shape: Shape) -> int:
        if not -len(shape) <= self.axis < len(shape):
            raise self.wrong(f"an axis of {shape}", self.axis)
        return self.axis % len(shape)

    def keeps_time(self, axes: int) -> bool:
        return self.axis % axes != 0

    def output_shape(self, *shapes: Shape) -> Shape:
        axis = self._axis(shapes[0])
        rests = {(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}
        if len(rests) > 1:
            raise self.wrong(f"inputs that agree but for axis {axis}", ", ".join(map(str, shapes)))
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        # CONCAT_OUTER of csrc/kernels/settings.h
        return plan.op("concat", inputs, settings=([math.prod(shapes[0][: self._axis(shapes[0])])], []))

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return self.build(t.plan, [t.zero_as(x, Rx) for x, Rx in zip(inputs, moves, strict=True)], slots, shapes, 0)


def concat(inputs: Sequence[Symbol], axis: int = -1) -> Symbol:
    """Inputs one after the other along an axis of an example: up to 8; of more, concatenate what concat gives."""
    if not isinstance(inputs, (list, tuple)):
        raise TypeError(f"concat: expected a list of outputs of layers, got {type(inputs).__name__}")
    return Concat(axis)(*inputs)


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """The same numbers in another shape; one size may be -1, which is what is left.  Reshape(-1) flattens."""

    shape: Any
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "reshape"
    saved: ClassVar[tuple[str, ...]] = ("shape",)

    def __post_init__(self) -> None:
        sizes = tuple(self.shape) if isinstance(self.shape, (tuple, list)) else (self.shape,)
        if not 0 < len(sizes) <= MAX_AXES:
            raise ValueError(f"shape: expected 1 to {MAX_AXES} sizes, got {self.shape!r}")
        sizes = tuple(_validate.integer("shape", size, -1, _validate.MAX_UNITS) for size in sizes)
        if sizes.count(-1) > 1 or 0 in sizes:
            raise ValueError(f"shape: expected sizes above zero, one of them -1 at most, got {self.shape!r}")
        object.__setattr__(self, "shape", sizes)
        _named(self)

    def output_shape(self, *shapes: Shape) -> Shape:
        n, known = math.prod(shapes[0]), math.prod(size for size in self.shape if size > 0)
        if n % known or (-1 not in self.shape and n != known):
            raise self.wrong(f"{known} numbers{' or a multiple' if -1 in self.shape else ''}", f"{n}: {shapes[0]}")
        return tuple(n // known if size == -1 else size for size in self.shape)

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return inputs[0]

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return self.build(t.plan, [t.zero_as(x, Rx) for x, Rx in zip(inputs, moves, strict=True)], slots, shapes, 0)


def permuted(plan: Plan, x: int, sizes: Sequence[int], strides: Sequence[int], start: int) -> int:
    """Adds a permutation; sizes and strides have at most MAX_AXES entries."""
    pad = MAX_AXES - len(sizes)  # PERMUTE_SIZE, PERMUTE_STRIDE, PERMUTE_START of csrc/kernels/settings.h
    return plan.op("permute", [x], settings=([*(1,) * pad, *sizes, *(0,) * pad, *strides, start], []))


def _strides(shape: Shape) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


@dataclass(frozen=True, eq=False)
class Permute(Layer):
    """Axes of an example in another order, as np.transpose: Permute((1, 0)) turns a matrix."""

    axes: Any
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "permute"
    saved: ClassVar[tuple[str, ...]] = ("axes",)

    def __post_init__(self) -> None:
        if not isinstance(self.axes, (tuple, list)):
            raise TypeError(f"axes: expected a tuple such as (1, 0), got {self.axes!r}")
        axes = [_validate.integer("axes", axis, 0, MAX_AXES - 1) for axis in self.axes]
        if sorted(axes) != list(range(len(axes))):
            raise ValueError(f"axes: expected an order of 0, 1, ..., got {self.axes!r}")
        object.__setattr__(self, "axes", tuple(axes))
        _named(self)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) != len(self.axes) or len(self.axes) > MAX_AXES:
            raise self.wrong(f"{min(len(self.axes), MAX_AXES)} axes", shapes[0])
        return tuple(shapes[0][axis] for axis in self.axes)

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        strides = _strides(shapes[0])
        return permuted(plan, inputs[0], self.output_shape(*shapes), [strides[axis] for axis in self.axes], 0)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return self.build(t.plan, [t.zero_as(x, Rx) for x, Rx in zip(inputs, moves, strict=True)], slots, shapes, 0)


def _index(value: Any) -> Any:
    """What a file can keep of an index: an integer, or [start, stop, step]."""
    if value is Ellipsis:
        return "..."
    if isinstance(value, slice):
        return [None if x is None else operator.index(x) for x in (value.start, value.stop, value.step)]
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


@dataclass(frozen=True, eq=False)
class Slice(Layer):
    """Part of an example, as an array is indexed with integers, slices and `...`; `h[...]` makes it."""

    index: Any
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "slice"
    saved: ClassVar[tuple[str, ...]] = ("index",)

    def __post_init__(self) -> None:
        parts = self.index if isinstance(self.index, (tuple, list)) else (self.index,)
        try:
            index = tuple(x if isinstance(x, list) or x == "..." else _index(x) for x in parts)
            for x in index:
                if isinstance(x, list):
                    slice(*x).indices(1)
                    if len(x) != 3:
                        raise TypeError
        except (TypeError, ValueError):
            raise TypeError(f"index: expected integers, slices and '...', got {self.index!r}") from None
        object.__setattr__(self, "index", index)
        _named(self)

    def _cut(self, shape: Shape) -> tuple[list[int], list[int], int, Shape]:
        """Sizes, strides, start, and the shape that is left."""
        parts = list(self.index)
        if parts.count("...") > 1 or len(parts) - parts.count("...") > len(shape) or len(shape) > MAX_AXES:
            raise self.wrong(f"an index of {shape}", self.index)
        at = parts.index("...") if "..." in parts else len(parts)
        parts[at : at + 1] = [[None, None, None]] * (len(shape) - len(parts) + ("..." in parts))
        sizes, strides, start, left = [], [], 0, []
        for part, size, stride in zip(parts, shape, _strides(shape), strict=True):
            if isinstance(part, list):
                first, stop, step = slice(*part).indices(size)
                count = len(range(first, stop, step))
                if count == 0:
                    raise self.wrong(f"an index of {shape} that leaves something", self.index)
                left.append(count)
            else:
                if not -size <= part < size:
                    raise self.wrong(f"an index of {shape}", self.index)
                first, step, count = part % size, 1, 1
            sizes.append(count)
            strides.append(step * stride if count > 1 else 0)  # a step may be any number where it is not taken
            start += first * stride
        return sizes, strides, start, tuple(left) or (1,)

    def keeps_time(self, axes: int) -> bool:
        first = self.index[0]
        return bool(first == [None, None, None] or (first == "..." and len(self.index) <= axes))

    def output_shape(self, *shapes: Shape) -> Shape:
        return self._cut(shapes[0])[3]

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return permuted(plan, inputs[0], *self._cut(shapes[0])[:3])

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return self.build(t.plan, [t.zero_as(x, Rx) for x, Rx in zip(inputs, moves, strict=True)], slots, shapes, 0)


@dataclass(frozen=True, eq=False)
class Activate(Layer):
    """An activation as a layer of its own: a name of `bp.activations.NAMES` or `bp.Activation(f, df)`.

    axis: of softmax, the last unless given.
    Softmax may have a mask, Activate("softmax")(z, mask): what is 0 there does not count and becomes 0; where nothing
    counts, all is 0.  The mask has the size of the axis, (n,), or the last axes of z.
    causal: of the softmax of matrices (..., queries, keys), as attention has it: query i has the keys 0..i alone.
    """

    activation: str | Activation
    axis: int = field(default=-1, kw_only=True)
    causal: bool = field(default=False, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "activate"
    saved: ClassVar[tuple[str, ...]] = ("activation", "axis", "causal")
    optional: ClassVar[dict[str, Any]] = {"causal": False}
    many: ClassVar[bool] = True
    masked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", _activations.resolve(self.activation))
        object.__setattr__(self, "axis", _validate.integer("axis", self.axis, -MAX_AXES, MAX_AXES - 1))
        if self.axis != -1 and self.activation != "softmax":
            raise ValueError(f"axis: only softmax has one, got {self.axis} for {self.activation!r}")
        object.__setattr__(self, "causal", _validate.flag("causal", self.causal))
        if self.causal and (self.activation != "softmax" or self.axis != -1):
            raise ValueError(f"causal: only softmax of the last axis is, got {self.activation!r}, axis {self.axis}")
        _named(self)

    def output_shape(self, *shapes: Shape) -> Shape:
        if not -len(shapes[0]) <= self.axis < len(shapes[0]):
            raise self.wrong(f"an axis of {shapes[0]}", self.axis)
        if self.causal and len(shapes[0]) < 2:
            raise self.wrong("an input (..., queries, keys), since it is causal", shapes[0])
        if len(shapes) > 1:
            self._check_mask(*shapes)
        return shapes[0]

    def _check_mask(self, shape: Shape, *masks: Shape) -> None:
        if self.activation != "softmax" or len(masks) > 1:
            raise self.wrong("an input, and of softmax perhaps a mask", f"{1 + len(masks)} inputs")
        size = shape[self.axis]
        last = shape[-len(masks[0]) :] if self._last(shape) else None
        if masks[0] not in ((size,), last):
            also = f" or the last axes of {shape}" if last else ""
            raise self.wrong(f"a mask of shape {(size,)}{also}", masks[0])

    def keeps_time(self, axes: int) -> bool:
        return self.activation != "softmax" or self.axis % axes != 0

    def takes_mask(self, shape: Shape) -> bool:
        return self.activation == "softmax" and self.axis % len(shape) == 0

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        if self._last(shapes[0]):
            return self._apply(plan, inputs, shapes[0])
        turned, n, back = self._turned(plan, inputs[0], shapes[0])
        return back(self._apply(plan, [turned, *inputs[1:]], (n,)))

    def _apply(self, plan: Plan, inputs: list[int], shape: Shape) -> int:
        if len(inputs) == 1 and not self.causal:
            return apply(plan, self.activation, inputs[0], shape[-1])
        settings = [shape[-1], shape[-2] if self.causal else 0]  # SOFTMAX_... of csrc/kernels/settings.h
        return plan.op("masked_softmax", inputs, settings=(settings, []))

    def _last(self, shape: Shape) -> bool:
        return self.axis % len(shape) == len(shape) - 1

    def _turned(self, plan: Plan, x: int, shape: Shape) -> tuple[int, int, Callable[[int], int]]:
        """x with the axis last, its size, and the way back."""
        axis = self.axis % len(shape)
        outer, n, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        turned = permuted(plan, x, [outer, inner, n], [n * inner, 1, inner], 0)
        return turned, n, lambda y: permuted(plan, y, [outer, n, inner], [n * inner, 1, n], 0)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        if moves[0] < 0:
            return -1
        if self._last(shapes[0]):
            return t.activated(self.activation, a, inputs[0], moves[0], shapes[0][-1])
        (turned, n, back), (Rz, _, _) = (self._turned(t.plan, x, shapes[0]) for x in (a, moves[0]))
        return back(t.plan.op("softmax_product", [turned, Rz], settings=([n], [])))


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """a_k s_k: a number s of each unit (of the last axis), learned; first 1."""

    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "scale"
    first: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _named(self)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        return {"s": Spec(shapes[0][-1:], False)}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        to["s"][...] = self.first

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return plan.op("shift" if self.op == "bias" else "scale", inputs, slots)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """R{x s} = Rx s + x v"""
        of_input = t.plan.op("scale", moves, slots) if moves[0] >= 0 else -1
        return t.add_up(of_input, t.plan.op("scale", inputs, v))


@dataclass(frozen=True, eq=False)
class Bias(Scale):
    """a_k + s_k: a number s of each unit (of the last axis), learned; first 0."""

    op: ClassVar[str] = "bias"
    first: ClassVar[float] = 0.0

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """R{x + s} = Rx + v"""
        return t.plan.op("shift", [t.zero_as(inputs[0], moves[0])], v)
