"""Tables of vectors for whole numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _validate
from bpcore._core import Plan
from bpcore._layers import INITS, Input, Regularised, Spec, draw, named, normal
from bpcore._masks import Mask
from bpcore._symbols import Shape, Symbol

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

MAX_AXES = 4


@dataclass(frozen=True, eq=False)
class Embedding(Regularised):
    """A learned vector for each whole number 0..n-1: (positions,) becomes (positions, units).

        words = bp.Input(20, integer=True)
        h = bp.Embedding(10_000, 64)(words)             # (20, 64); any input of up to 3 axes gets one more

    Its parameter E is [n, units]; number k gives row k, the product of E with a one-hot vector (Bengio et al. 2003).
    init: how E is drawn: "auto" is normal with deviation 1, since one input alone is active; another name of
    `Dense`'s, with n_in 1; or an array (n, units).

    In `fit` a step reads and moves only the rows that its batch names, whatever the optimiser, so that it costs the
    same for a thousand rows and for a million.  Weight decay, momentum and the means of Adam act on a row in the
    steps that name it, and rest in others (as `torch.optim.SparseAdam` has it); Adam's correction of means counts all
    steps.  So do l1 and l2, also in the `loss` of fit, which has the penalties of the rows that a batch names;
    `val_loss`, `evaluate` and `value_and_grad` have those of all rows.  max_norm is of a row, after the steps that name
    it.  `value_and_grad` gives the whole gradient.  Numbers outside 0..n-1 are a ValueError.

    mask_zero: 0 stands for no word.  Of an input (time,) a mask then flows with the output, h.mask, `Mask` of the
    input, and the layers that work at each time step alone hand it on: recurrent layers, global pooling, softmax over
    time and MultiHeadAttention take it unless they are given another.  Row 0 of E stays a parameter as any other.
    """

    n: int
    units: int
    init: Any = field(default="auto", kw_only=True)
    mask_zero: bool = field(default=False, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "embedding"
    saved: ClassVar[tuple[str, ...]] = ("n", "units", "mask_zero", *Regularised.saved)
    optional: ClassVar[dict[str, Any]] = {"mask_zero": False, **Regularised.optional}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n", "units"):
            object.__setattr__(self, name, _validate.integer(name, getattr(self, name), 1, _validate.MAX_UNITS))
        object.__setattr__(self, "mask_zero", _validate.flag("mask_zero", self.mask_zero))
        if isinstance(self.init, str):
            _validate.choice("init", self.init, INITS)
        else:
            object.__setattr__(self, "init", _validate.array("init", self.init).copy())
        named(self.name)

    def __repr__(self) -> str:
        masks = ", mask_zero=True" if self.mask_zero else ""
        return f"Embedding({self.n}, {self.units}{masks}{self._options()})"

    def with_mask(self, inputs: tuple[Symbol, ...]) -> tuple[tuple[Symbol, ...], Symbol | None]:
        return inputs, Mask()(*inputs) if self.mask_zero else None

    def check_integer(self, inputs: Sequence[Symbol]) -> None:
        for symbol in inputs:
            if not isinstance(symbol, Input) or not symbol.integer:
                raise self.wrong("an input of whole numbers, bp.Input(..., integer=True)", repr(symbol))

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.mask_zero and len(shapes[0]) > 1:
            raise self.wrong("an input (time,), since mask_zero makes a mask of it", shapes[0])
        if len(shapes[0]) >= MAX_AXES:
            raise self.wrong(f"an input of at most {MAX_AXES - 1} axes", shapes[0])
        return (*shapes[0], self.units)

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        return {"E": Spec((self.n, self.units), True)}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        E = to["E"]
        if not isinstance(self.init, str):
            E[...] = _validate.parameters("init", self.init, E.shape, E.dtype)
        elif self.init == "auto":
            normal(E, 1.0, seed, layer)
        else:
            draw(E, self.init, None, 1, self.units, seed, layer)

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return plan.op("embedding", inputs, slots)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return t.plan.op("embedding", inputs, v)
