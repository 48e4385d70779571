"""Convolution and pooling of images, (height, width, channels), and of sequences, (time, features)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from bpcore import _activations, _validate
from bpcore._activations import Activation
from bpcore._core import Plan
from bpcore._layers import INITS, Layer, Regularised, Spec, apply, draw, named
from bpcore._symbols import Shape

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

_MOST = 2**31 - 1


class _Axis(NamedTuple):
    """Positions of a window along an axis, and what is added to the axis before its first element."""

    size: int
    before: int


def _along(layer: Layer, n: int, size: int, stride: int, dilation: int, padding: Any) -> _Axis:
    """How a window of `size` moves along an axis of n; ValueError where it does not fit."""
    reach = (size - 1) * dilation + 1
    if padding == "same":
        count = -(-n // stride)
        return _Axis(count, max((count - 1) * stride + reach - n, 0) // 2)
    before, after = {"valid": (0, 0), "causal": (reach - 1, 0)}.get(padding, (padding, padding))
    if n + before + after < reach:
        raise layer.wrong(f"at least {reach - before - after} positions, or padding='same'", n)
    return _Axis((n + before + after - reach) // stride + 1, before)


def _pair(name: str, value: Any, low: int = 1) -> tuple[int, int]:
    """An integer, or one for the rows and one for the columns."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name}: expected an integer or two, of rows and of columns, got {value!r}")
        first, second = (_validate.integer(name, size, low, _MOST) for size in value)
        return first, second
    number = _validate.integer(name, value, low, _MOST)
    return number, number


def _padding(value: Any, names: tuple[str, ...], axes: int) -> Any:
    """A name, or integers."""
    if isinstance(value, str):
        return _validate.choice("padding", value, names)
    return _pair("padding", value, 0) if axes == 2 else _validate.integer("padding", value, 0, _MOST)


def _of_axis(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, tuple) else value


def _set(layer: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(layer, name, value)


def _set_lengths(layer: Any, *names: str) -> None:
    """Checks them: a pair for an image, an integer for a sequence."""
    for name in names:
        value = getattr(layer, name)
        _set(layer, **{name: _pair(name, value) if layer.axes == 2 else _validate.integer(name, value, 1, _MOST)})


class _Convolution(Regularised):
    """What convolutions share; the window as (height, width), the input as (height, width, channels)."""

    activation: Any
    bias: bool
    init: Any
    groups: int

    def _check(self, units: str) -> None:
        Regularised.__post_init__(self)
        _set(
            self,
            activation=_activations.resolve(self.activation),
            bias=_validate.flag("bias", self.bias),
            **{units: _validate.integer(units, getattr(self, units), 1, _MOST)},
        )
        if isinstance(self.init, str):
            _validate.choice("init", self.init, INITS)
        else:
            _set(self, init=_validate.array("init", self.init).copy())
        named(self.name)

    def _windows(self) -> tuple[int, list[int], list[int], list[int], list[Any]]:
        """Filters; sizes, strides, dilations and paddings of the axes."""
        raise NotImplementedError

    def _axes(self, shape: Shape) -> list[_Axis]:
        filters, sizes, strides, dilations, paddings = self._windows()
        if len(shape) != len(sizes) + 1:
            axes = "(height, width, channels)" if len(sizes) == 2 else "(time, features)"
            raise self.wrong(f"an input of shape {axes}", f"{shape}; bp.Reshape gives it that shape")
        if shape[-1] % self.groups or filters % self.groups:
            raise self.wrong(f"channels and filters in {self.groups} equal groups", f"{shape[-1]} and {filters}")
        return [
            _along(self, *settings) for settings in zip(shape[:-1], sizes, strides, dilations, paddings, strict=True)
        ]

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*(axis.size for axis in self._axes(shapes[0])), self._windows()[0])

    def _weights(self, shape: Shape) -> Shape:
        filters, sizes = self._windows()[:2]
        return (*sizes, shape[-1] // self.groups, filters)

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        W = Spec(self._weights(shapes[0]), True)
        return {"W": W, "b": Spec(W.shape[-1:], False)} if self.bias else {"W": W}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        shape = self._weights(shapes[0])
        if isinstance(self.init, str):
            window = math.prod(shape[:-2])
            n_in, n_out = window * shape[-2], window * shape[-1] // self.groups
            draw(to["W"], self.init, self.activation, n_in, n_out, seed, layer)
        else:
            to["W"][...] = _validate.parameters("init", self.init, shape, to["W"].dtype)

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return apply(plan, self.activation, self._convolved(plan, inputs[0], slots, shapes[0]), self._windows()[0])

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """Rz = W * Ra + V * a + v_b;  R{f(z)} = f'(z) * Rz"""
        of_input = self._convolved(t.plan, moves[0], slots[:1], shapes[0]) if moves[0] >= 0 else -1
        Rz = t.add_up(of_input, self._convolved(t.plan, inputs[0], v, shapes[0]))
        z = a if self.activation == "identity" else t.plan.reads(a)
        return t.activated(self.activation, a, z, Rz, self._windows()[0])

    def _convolved(self, plan: Plan, x: int, slots: list[int], shape: Shape) -> int:
        """The buffer of z, for parameters W and perhaps b."""
        _, sizes, strides, dilations, _ = self._windows()
        axes, (*lengths, channels) = self._axes(shape), shape
        if len(axes) == 1:  # a sequence is an image of height 1
            axes, lengths = [_Axis(1, 0), *axes], [1, *lengths]
            sizes, strides, dilations = ([1, *each] for each in (sizes, strides, dilations))
        before, after = [axis.before for axis in axes], [axis.size for axis in axes]
        # CONV_... of csrc/kernels/settings.h
        settings = [*lengths, channels, *sizes, *strides, *before, *after, *dilations, self.groups]
        return plan.op("conv", [x], slots, settings=(settings, []))


@dataclass(frozen=True, eq=False)
class Conv2D(_Convolution):
    """A convolution of images, (height, width, channels) to (height', width', filters), a = f(z):

        z[y, x, f] = b[f] + sum over i, j, c of W[i, j, c, f] a[y s + i d - p, x s + j d - p, c]

    with stride s, dilation d and padding p, a being 0 outside the image (LeCun et al. 1989; Fukushima 1980).
    size: of the window, an integer or (height, width); so are stride and dilation.
    padding: "valid", none; "same", so that z is as large as a (divided by the stride), one more after than before where
    it is odd; or rows above and below, and columns to the left and to the right, as an integer or a pair.
    groups: channels and filters in so many groups, each filter seeing the channels of its own alone.
    W is (height, width, channels / groups, filters), b is (filters,).
    init: how W is drawn, as in `Dense`, or an array of W's shape.
    l1, l2, max_norm (of a filter's weights), lr_scale: as in `Dense`.
    Raises ValueError for an input of another number of axes, or smaller than the window.
    """

    filters: int
    size: Any
    activation: str | Activation = "identity"
    stride: Any = field(default=1, kw_only=True)
    padding: Any = field(default="valid", kw_only=True)
    dilation: Any = field(default=1, kw_only=True)
    groups: int = field(default=1, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    init: Any = field(default="auto", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "conv2d"
    saved: ClassVar[tuple[str, ...]] = (
        "filters", "size", "activation", "stride", "padding", "dilation", "groups", "bias",
        *Regularised.saved,
    )  # fmt: skip
    axes: ClassVar[int] = 2
    paddings: ClassVar[tuple[str, ...]] = ("valid", "same")

    def __post_init__(self) -> None:
        _set_lengths(self, "size", "stride", "dilation")
        _set(self, padding=_padding(self.padding, self.paddings, self.axes))
        _set(self, groups=_validate.integer("groups", self.groups, 1, _MOST))
        self._check("filters")

    def __repr__(self) -> str:
        f = _activations.label(self.activation)
        return f"{type(self).__name__}({self.filters}, {self.size}, {f!r}{self._options()})"

    def _windows(self) -> tuple[int, list[int], list[int], list[int], list[Any]]:
        size, stride, dilation, padding = (
            [_of_axis(value, axis) for axis in range(self.axes)]
            for value in (self.size, self.stride, self.dilation, self.padding)
        )
        return self.filters, size, stride, dilation, padding


@dataclass(frozen=True, eq=False, repr=False)
class Conv1D(Conv2D):
    """A convolution of sequences, (time, features) to (time', filters), a = f(z):

        z[t, f] = b[f] + sum over i, c of W[i, c, f] a[t s + i d - p, c]

    as `Conv2D`, of which it is the case of height 1.
    padding: also "causal": all of it before the first element, so that z[t] depends on nothing later than a[t].
    size, stride and dilation are integers.  W is (size, features / groups, filters), b is (filters,).
    """

    op: ClassVar[str] = "conv1d"
    axes: ClassVar[int] = 1
    paddings: ClassVar[tuple[str, ...]] = ("valid", "same", "causal")


@dataclass(frozen=True, eq=False)
class TimeDelay(_Convolution):
    """A time-delay layer: each connection is a finite impulse response filter of `taps` weights (Wan 1993),

        z[t, j] = b[j] + sum over k and i of W[i, k, j] a[t + i, k],   a = f(z),

    from (time, features) to (time - taps + 1, units); the last tap weighs the newest value.  Its backpropagation in
    time is Wan's temporal backpropagation; networks of it over phonemes are those of Waibel et al. (1989).  It is the
    valid `Conv1D` of stride 1.  W is (taps, features, units), b is (units,).
    l1, l2, max_norm, lr_scale: as in `Dense`.
    """

    units: int
    taps: int
    activation: str | Activation = "identity"
    dilation: int = field(default=1, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    init: Any = field(default="auto", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "time_delay"
    saved: ClassVar[tuple[str, ...]] = ("units", "taps", "activation", "dilation", "bias", *Regularised.saved)
    groups: ClassVar[int] = 1  # type: ignore[misc]

    def __post_init__(self) -> None:
        for name in ("taps", "dilation"):
            _set(self, **{name: _validate.integer(name, getattr(self, name), 1, _MOST)})
        self._check("units")

    def __repr__(self) -> str:
        return f"TimeDelay({self.units}, {self.taps}, {_activations.label(self.activation)!r}{self._options()})"

    def _windows(self) -> tuple[int, list[int], list[int], list[int], list[Any]]:
        return self.units, [self.taps], [1], [self.dilation], ["valid"]


class _Pooling(Layer):
    """What poolings share."""

    kind: ClassVar[str]

    def _along(self, shape: Shape) -> list[tuple[int, int, int, _Axis]]:
        """Length, size, stride and positions of each axis."""
        raise NotImplementedError

    def _add(self, plan: Plan, kind: str, inputs: list[int], shape: Shape) -> int:
        """Adds operation `kind` over the windows of an input of that shape."""
        along = self._along(shape)
        if len(along) == 1:  # a sequence is an image of height 1
            along = [(1, 1, 1, _Axis(1, 0)), *along]
        lengths, sizes, strides, axes = zip(*along, strict=True)
        before, after = [axis.before for axis in axes], [axis.size for axis in axes]
        # POOL_... of csrc/kernels/settings.h
        return plan.op(kind, inputs, settings=([*lengths, shape[-1], *sizes, *strides, *before, *after], []))

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        kind = "masked_average" if len(inputs) > 1 and self.kind == "average_pool" else self.kind
        return self._add(plan, kind, inputs, shapes[0])

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """The average of Ra, or Ra where a is greatest."""
        if moves[0] < 0:
            return -1
        if self.kind == "average_pool":
            return self.build(t.plan, [moves[0], *inputs[1:]], slots, shapes, 0)
        return self._add(t.plan, "max_pool_at", [t.plan.cache(a), moves[0]], shapes[0])


class _Pool(_Pooling):
    """Pooling over windows of a size."""

    axes: ClassVar[int]
    size: Any
    stride: Any
    padding: Any

    def __post_init__(self) -> None:
        if self.stride is None:
            _set(self, stride=self.size)
        _set_lengths(self, "size", "stride")
        _set(self, padding=_padding(self.padding, ("valid", "same"), self.axes))
        for axis in range(self.axes):
            padding, width = _of_axis(self.padding, axis), _of_axis(self.size, axis)
            if isinstance(padding, int) and padding >= width:
                raise ValueError(f"padding: expected less than the size of the window, {width}, got {padding}")
        named(self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size})"

    def _along(self, shape: Shape) -> list[tuple[int, int, int, _Axis]]:
        """Length, size, stride and positions of each axis."""
        if len(shape) != self.axes + 1:
            axes = "(height, width, channels)" if self.axes == 2 else "(time, features)"
            raise self.wrong(f"an input of shape {axes}", f"{shape}; bp.Reshape gives it that shape")
        windows = []
        for axis, n in enumerate(shape[:-1]):
            size, stride, padding = (_of_axis(value, axis) for value in (self.size, self.stride, self.padding))
            windows.append((n, size, stride, _along(self, n, size, stride, 1, padding)))
        return windows

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*(axis.size for *_, axis in self._along(shapes[0])), shapes[0][-1])


@dataclass(frozen=True, eq=False, repr=False)
class MaxPool2D(_Pool):
    """The greatest of each channel over windows of an image, (height, width, channels) to (height', width', channels).

    size: of the window, an integer or (height, width); stride: the window's size unless given.
    padding: "valid", none; "same"; or an integer or a pair, as in `Conv2D`.  What lies outside never wins.
    Of several equal values the first wins, and gets all of the gradient.
    """

    size: Any
    stride: Any = field(default=None, kw_only=True)
    padding: Any = field(default="valid", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "max_pool2d"
    saved: ClassVar[tuple[str, ...]] = ("size", "stride", "padding")
    kind: ClassVar[str] = "max_pool"
    axes: ClassVar[int] = 2


@dataclass(frozen=True, eq=False, repr=False)
class AveragePool2D(MaxPool2D):
    """The mean of each channel over windows of an image, as `MaxPool2D`; what lies outside is not counted."""

    op: ClassVar[str] = "average_pool2d"
    kind: ClassVar[str] = "average_pool"


@dataclass(frozen=True, eq=False, repr=False)
class MaxPool1D(MaxPool2D):
    """The greatest of each feature over windows of a sequence: `MaxPool2D` for (time, features)."""

    op: ClassVar[str] = "max_pool1d"
    axes: ClassVar[int] = 1


@dataclass(frozen=True, eq=False, repr=False)
class AveragePool1D(MaxPool1D):
    """The mean of each feature over windows of a sequence, as `MaxPool1D`; what lies outside is not counted."""

    op: ClassVar[str] = "average_pool1d"
    kind: ClassVar[str] = "average_pool"


@dataclass(frozen=True, eq=False)
class GlobalMaxPool(_Pooling):
    """The greatest of each channel over all positions: (time, features) to (features,), an image to (channels,).

    Called with a second symbol, GlobalMaxPool()(h, mask), mask (time,) or (height, width): where it is 0, a position
    does not count; an example of which none counts gives 0.
    """

    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "global_max_pool"
    kind: ClassVar[str] = "max_pool"
    many: ClassVar[bool] = True
    masked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        named(self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) < 2:
            raise self.wrong("positions and a last axis of channels", shapes[0])
        if len(shapes) > 2:
            raise self.wrong("an input and perhaps a mask", f"{len(shapes)} inputs")
        if len(shapes) == 2 and shapes[1] != shapes[0][:-1]:
            raise self.wrong(f"a mask of shape {shapes[0][:-1]} for an input of shape {shapes[0]}", shapes[1])
        return shapes[0][-1:]

    def takes_mask(self, shape: Shape) -> bool:
        return len(shape) == 2

    def _along(self, shape: Shape) -> list[tuple[int, int, int, _Axis]]:
        n = math.prod(shape[:-1])
        return [(n, n, n, _Axis(1, 0))]


@dataclass(frozen=True, eq=False, repr=False)
class GlobalAveragePool(GlobalMaxPool):
    """The mean of each channel over all positions: (time, features) to (features,), an image to (channels,).

    It takes a mask as GlobalMaxPool: GlobalAveragePool()(h, mask) is the mean over the positions that count, or 0.
    """

    op: ClassVar[str] = "global_average_pool"
    kind: ClassVar[str] = "average_pool"
