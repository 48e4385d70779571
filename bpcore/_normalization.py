"""Layers that keep activations in their place: layer normalisation and dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bpcore import _validate
from bpcore._core import Plan
from bpcore._layers import Layer, Spec, named
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
class Dropout(Layer):
    """In `fit`, each number is 0 with probability `rate` and divided by 1 - rate else; elsewhere nothing happens
    (Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014).

    What is dropped depends on the seed, the step, the place of the layer and the place in the batch alone: `fit`
    has the same bits for any number of threads, and when it is resumed.  `value_and_grad` drops nothing.
    """

    rate: float
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "dropout"
    saved: ClassVar[tuple[str, ...]] = ("rate",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", _validate.real("rate", self.rate, 0.0, 1.0, open_high=True))
        named(self.name)

    @property
    def draws(self) -> bool:
        """Unless it drops nothing."""
        return self.rate > 0

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return plan.op("dropout", inputs, settings=([number], [self.rate]))  # DROPOUT_LAYER, DROPOUT_RATE

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return moves[0]  # nothing is dropped but in fit
