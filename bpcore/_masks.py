"""Which positions count: a mask made of what was padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bpcore import _validate
from bpcore._core import Plan
from bpcore._layers import Layer, named
from bpcore._symbols import Shape, Symbol

if TYPE_CHECKING:
    from bpcore._tangents import Tangents


@dataclass(frozen=True, eq=False)
class Mask(Layer):
    """1 where a position holds anything but 0, else 0: the mask of what was padded with zeros.

    (time,) stays (time,), of numbers or of whole numbers, bp.Input(n, integer=True); of more axes, (..., features), the
    last goes, and a position counts where one of its features is not 0.  Recurrent layers, global pooling, softmax and
    MultiHeadAttention take the result as their mask.  It has no gradient.
    """

    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "mask"
    n: ClassVar[int] = _validate.MAX_UNITS  # whole numbers 0..n-1 are what it takes

    def __post_init__(self) -> None:
        named(self.name)

    def check_integer(self, inputs: Sequence[Symbol]) -> None:
        """It takes whole numbers, too."""

    def with_mask(self, inputs: tuple[Symbol, ...]) -> tuple[tuple[Symbol, ...], Symbol | None]:
        return inputs, None

    def keeps_time(self, axes: int) -> bool:
        return axes < 3

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0][:-1] or shapes[0]

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        width = shapes[0][-1] if len(shapes[0]) > 1 else 1
        return plan.op("mask", inputs, settings=([width], []))  # MASK_WIDTH

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return -1  # constant, but at 0
