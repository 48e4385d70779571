"""Products of two layers' outputs as matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bpcore import _validate
from bpcore._core import Plan
from bpcore._layers import Layer, named
from bpcore._symbols import Shape

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

MAX_AXES = 4


@dataclass(frozen=True, eq=False)
class MatMul(Layer):
    """A B for two inputs (..., m, k) and (..., k, n), a product for each index of the leading axes, which are equal.

    transpose_a, transpose_b: the input comes as (..., k, m), or (..., n, k).  `a @ b` makes one without them.
    """

    transpose_a: bool = field(default=False, kw_only=True)
    transpose_b: bool = field(default=False, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "matmul"
    saved: ClassVar[tuple[str, ...]] = ("transpose_a", "transpose_b")
    many: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("transpose_a", "transpose_b"):
            object.__setattr__(self, name, _validate.flag(name, getattr(self, name)))
        named(self.name)

    def _sizes(self, *shapes: Shape) -> tuple[Shape, int, int, int]:
        """Leading axes, m, k, n."""
        got = " and ".join(map(str, shapes))
        if len(shapes) != 2 or not all(2 <= len(shape) <= MAX_AXES for shape in shapes):
            raise self.wrong(f"two inputs of 2 to {MAX_AXES} axes", got)
        (*lead, m, k), (*other, p, n) = shapes
        m, k = (k, m) if self.transpose_a else (m, k)
        p, n = (n, p) if self.transpose_b else (p, n)
        if lead != other or k != p:
            first = "k, m" if self.transpose_a else "m, k"
            second = "n, k" if self.transpose_b else "k, n"
            raise self.wrong(f"(..., {first}) and (..., {second}) of equal leading axes and k", got)
        return tuple(lead), m, k, n

    def output_shape(self, *shapes: Shape) -> Shape:
        lead, m, _, n = self._sizes(*shapes)
        return (*lead, m, n)

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        lead, *sizes = self._sizes(*shapes)
        # MATMUL_... of csrc/kernels/settings.h
        integers = [math.prod(lead), *sizes, int(self.transpose_a), int(self.transpose_b)]
        return plan.op("matmul", inputs, settings=(integers, []))

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        (A, B), (RA, RB) = inputs, moves
        pairs = [[RA, B]] * (RA >= 0) + [[A, RB]] * (RB >= 0)
        return t.add_up(*(self.build(t.plan, pair, [], shapes, 0) for pair in pairs))
