"""Normalisation over an example, or over the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bpcore import _validate
from bpcore._core import Plan
from bpcore._dropout import Dropout as Dropout  # where pickles of bpcore 0.1 look for it
from bpcore._layers import Layer, Spec, named
from bpcore._operations import permuted
from bpcore._symbols import Shape

if TYPE_CHECKING:
    from bpcore._tangents import Tangents


@dataclass(frozen=True, eq=False)
class LayerNorm(Layer):
    """s (a - mean) / sqrt(variance + eps) + b over the last axis, at each position (Ba, Kiros and Hinton 2016).

    mean and variance are of one example's units (the variance is their mean square distance from the mean); the gain s
    and the bias b, (units,), are learned, first 1 and 0.
    """

    eps: float = field(default=1e-5, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "layer_norm"
    saved: ClassVar[tuple[str, ...]] = ("eps",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", _validate.real("eps", self.eps, 1e-30, 1.0))
        named(self.name)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        return {"s": Spec(shapes[0][-1:], False), "b": Spec(shapes[0][-1:], False)}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        to["s"][...] = 1

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return plan.op("layer_norm", inputs, slots, settings=([], [self.eps]))  # LAYER_NORM_EPS

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """With n = (a - mean) / sqrt(variance + eps): R{s n + b} = s Rn + v_s n + v_b"""
        of_parameters = self.build(t.plan, inputs, v, shapes, 0)
        if moves[0] < 0:
            return of_parameters
        Rn = t.plan.op("layer_norm_product", [*inputs, *moves], settings=([shapes[0][-1]], [self.eps]))
        return t.add_up(t.plan.op("scale", [Rn], slots[:1]), of_parameters)


@dataclass(frozen=True, eq=False)
class RMSNorm(Layer):
    """s a / sqrt(mean(a^2) + eps) over the last axis, at each position (Zhang and Sennrich 2019).

    mean is over one example's units; the gain s, (units,), is learned, first 1.  It costs less than LayerNorm: the mean
    is not taken off, and there is no bias.
    """

    eps: float = field(default=1e-5, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "rms_norm"
    saved: ClassVar[tuple[str, ...]] = ("eps",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", _validate.real("eps", self.eps, 1e-30, 1.0))
        named(self.name)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        return {"s": Spec(shapes[0][-1:], False)}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        to["s"][...] = 1

    def _settings(self, shape: Shape) -> tuple[list[int], list[float]]:
        return [shape[-1], 1], [self.eps]  # LAYER_NORM_UNITS, LAYER_NORM_KEEPS_MEAN, LAYER_NORM_EPS

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return plan.op("scale", [plan.op("normalise", inputs, settings=self._settings(shapes[0]))], slots)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """With n = a / sqrt(mean(a^2) + eps): R{s n} = s Rn + v n"""
        of_gain = t.plan.op("scale", [t.plan.reads(a)], v)
        if moves[0] < 0:
            return of_gain
        Rn = t.plan.op("layer_norm_product", [*inputs, *moves], settings=self._settings(shapes[0]))
        return t.add_up(t.plan.op("scale", [Rn], slots), of_gain)


@dataclass(frozen=True, eq=False)
class GroupNorm(Layer):
    """s (a - mean) / sqrt(variance + eps) + b over groups of channels, the last axis (Wu and He 2018).

    mean and variance are of one example's numbers in a group: units / groups neighbouring channels at all positions, as
    PyTorch has it.  groups divides the channels: 1 takes an example as a whole, and as many groups as channels are
    instance normalisation.  The gain s and the bias b, (units,), are learned, first 1 and 0.
    """

    groups: int
    eps: float = field(default=1e-5, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "group_norm"
    saved: ClassVar[tuple[str, ...]] = ("groups", "eps")

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", _validate.integer("groups", self.groups, 1, _validate.MAX_UNITS))
        object.__setattr__(self, "eps", _validate.real("eps", self.eps, 1e-30, 1.0))
        named(self.name)

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0][-1] % self.groups:
            raise self.wrong(f"channels (the last axis) that are a multiple of groups={self.groups}", shapes[0])
        return shapes[0]

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        return {"s": Spec(shapes[0][-1:], False), "b": Spec(shapes[0][-1:], False)}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        to["s"][...] = 1

    def _turned(self, plan: Plan, x: int, shape: Shape, back: bool = False) -> int:
        """x, (positions, groups, channels of a group), with the groups first; or from there back."""
        sizes = [math.prod(shape[:-1]), self.groups, shape[-1] // self.groups]
        if 1 in sizes[:2]:
            return x
        a, b, c = [sizes[1], sizes[0], sizes[2]] if back else sizes
        return permuted(plan, x, [b, a, c], [c, b * c, 1], 0)

    def _settings(self, shape: Shape) -> tuple[list[int], list[float]]:
        return [math.prod(shape) // self.groups, 0], [self.eps]  # as in RMSNorm

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        x = self._turned(plan, inputs[0], shapes[0])
        normal = self._turned(plan, plan.op("normalise", [x], settings=self._settings(shapes[0])), shapes[0], True)
        return plan.op("shift", [plan.op("scale", [normal], slots[:1])], slots[1:])

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """With n = (a - mean) / sqrt(variance + eps): R{s n + b} = s Rn + v_s n + v_b"""
        normal = t.plan.reads(t.plan.reads(a))
        of_parameters = t.plan.op("shift", [t.plan.op("scale", [normal], v[:1])], v[1:])
        if moves[0] < 0:
            return of_parameters
        turned = [self._turned(t.plan, x, shapes[0]) for x in (*inputs, *moves)]
        Rn = t.plan.op("layer_norm_product", turned, settings=self._settings(shapes[0]))
        return t.add_up(t.plan.op("scale", [self._turned(t.plan, Rn, shapes[0], True)], slots[:1]), of_parameters)


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """s (a - mean) / sqrt(variance + eps) + b in each unit, the last axis, over the batch (Ioffe and Szegedy 2015).

    In `fit`, mean and variance are those of the whole batch, at all positions (the variance is the mean square distance
    from the mean): sample weights weigh them, and rows and time steps of weight 0 take no part.  After each step
    running = momentum * running + (1 - momentum) * batch; `net.state` has the running mean and variance, (units,),
    first 0 and 1.  Everything but `fit` computes with these (`predict`, `evaluate`, `value_and_grad`, `hvp`, ...); so
    does `fit` where the layer is frozen, and for a batch in which one row alone has weight.  The gain s and the bias b,
    (units,), are learned, first 1 and 0.

    Called with a second symbol, BatchNorm()(h, mask), mask (time,) or (height, width), or where a mask flows to it:
    positions where it is 0 take no part either.

    A batch is not cut into chunks: the memory of a step grows with it.  `fit` raises ValueError for batch_size=1, and
    for LBFGS and LevenbergMarquardt, unless the layer is frozen.
    """

    momentum: float = field(default=0.9, kw_only=True)
    eps: float = field(default=1e-5, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "batch_norm"
    many: ClassVar[bool] = True
    masked: ClassVar[bool] = True
    saved: ClassVar[tuple[str, ...]] = ("momentum", "eps")

    def __post_init__(self) -> None:
        object.__setattr__(self, "momentum", _validate.real("momentum", self.momentum, 0.0, 1.0, open_high=True))
        object.__setattr__(self, "eps", _validate.real("eps", self.eps, 1e-30, 1.0))
        named(self.name)

    @property
    def meets(self) -> bool:
        return True

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) > 2:
            raise self.wrong("an input and perhaps a mask", f"{len(shapes)} inputs")
        if len(shapes) == 2 and shapes[1] != shapes[0][:-1]:
            raise self.wrong(f"a mask of shape {shapes[0][:-1]} for an input of shape {shapes[0]}", shapes[1])
        return shapes[0]

    def takes_mask(self, shape: Shape) -> bool:
        return len(shape) == 2

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        return {"s": Spec(shapes[0][-1:], False), "b": Spec(shapes[0][-1:], False)}

    def keeps(self, *shapes: Shape) -> dict[str, tuple[int, float]]:
        return {"mean": (shapes[0][-1], 0.0), "variance": (shapes[0][-1], 1.0)}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        to["s"][...] = 1

    @property
    def _settings(self) -> tuple[list[int], list[float]]:
        return [], [self.eps, self.momentum]  # BATCH_NORM_EPS, BATCH_NORM_MOMENTUM

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        s, b, mean, variance = slots
        return plan.op("batch_norm", inputs, [mean, variance, s, b], settings=self._settings)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """With n = (a - mean) / d of the running mean and variance: R{s n + b} = s Ra / d + v_s n + v_b"""
        of_parameters = self.build(t.plan, inputs, v, shapes, 0)
        if moves[0] < 0:
            return of_parameters
        s, _, mean, variance = slots
        of_input = t.plan.op("batch_norm", moves[:1], [mean, variance, s], settings=self._settings)
        return t.add_up(of_input, of_parameters)
