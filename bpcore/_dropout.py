"""Layers that draw in training: dropout and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bpcore import _validate
from bpcore._core import Plan
from bpcore._layers import Layer, named
from bpcore._symbols import Shape

if TYPE_CHECKING:
    from bpcore._tangents import Tangents


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """In `fit`, each number is 0 with probability `rate` and divided by 1 - rate else; elsewhere nothing happens
    (Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014).

    noise_shape: what is dropped together, as in Keras, but without the batch: for each axis of an example 1, where its
    numbers share one draw, or None (or its size).  Of (time, features), (1, None) drops whole features as Keras's
    SpatialDropout1D, and (None, 1) whole time steps; of (height, width, channels), (1, 1, None) drops whole channels,
    and (1, 1, 1) whole examples.  Axes of 1 must lie side by side.

    What is dropped depends on the seed, the step, the place of the layer and the place in the batch alone: `fit`
    has the same bits for any number of threads, and when it is resumed.  `value_and_grad` drops nothing.
    """

    rate: float
    noise_shape: Any = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "dropout"
    saved: ClassVar[tuple[str, ...]] = ("rate", "noise_shape")
    optional: ClassVar[dict[str, Any]] = {"noise_shape": None}
    alpha: ClassVar[int] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", _validate.real("rate", self.rate, 0.0, 1.0, open_high=True))
        if self.noise_shape is not None:
            if not isinstance(self.noise_shape, (list, tuple)):
                raise TypeError(f"noise_shape: expected None or a tuple such as (1, None), got {self.noise_shape!r}")
            sizes = (n if n is None else _validate.integer("noise_shape", n, 1, _validate.MAX_UNITS)
                     for n in self.noise_shape)  # fmt: skip
            object.__setattr__(self, "noise_shape", tuple(sizes))
        named(self.name)

    @property
    def draws(self) -> bool:
        """Unless it drops nothing."""
        return self.rate > 0

    def output_shape(self, *shapes: Shape) -> Shape:
        self._shared(shapes[0])
        return shapes[0]

    def _shared(self, shape: Shape) -> tuple[int, int]:
        """How many neighbouring runs of an example's numbers are dropped together, and how many numbers a run has."""
        if self.noise_shape is None:
            return 1, 1
        noise = self.noise_shape
        if len(noise) != len(shape) or any(n not in (None, 1, size) for n, size in zip(noise, shape, strict=True)):
            raise self.wrong("for each axis of the input (without the batch) 1, None or its size", shape)
        longer = [i for i, size in enumerate(shape) if size > 1]  # an axis of 1 is shared or not, as one likes
        shared = [i for i in longer if noise[i] == 1]
        if not shared:
            return 1, 1
        if any(noise[i] != 1 for i in longer if shared[0] < i < shared[-1]):
            raise self.wrong("axes of 1 side by side; bp.Permute brings them together", shape)
        return math.prod(shape[i] for i in shared), math.prod(shape[shared[-1] + 1 :])

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        # DRAW_LAYER, DROPOUT_ALPHA, DROPOUT_SHARED, DROPOUT_INNER, DROPOUT_RATE of csrc/kernels/settings.h
        return plan.op("dropout", inputs, settings=([number, self.alpha, *self._shared(shapes[0])], [self.rate]))

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return moves[0]  # nothing is dropped but in fit


@dataclass(frozen=True, eq=False)
class AlphaDropout(Dropout):
    """Dropout for selu (Klambauer, Unterthiner, Mayr and Hochreiter 2017): it keeps a mean of 0 and a variance of 1.

    In `fit`, with s = 1.7581, each number x becomes b - a s with probability `rate` and a x + b else,
    a = ((1 - rate) (1 + rate s^2))^(-1/2), b = a rate s; elsewhere nothing happens.  noise_shape, and what the draws
    depend on: see Dropout.
    """

    op: ClassVar[str] = "alpha_dropout"
    optional: ClassVar[dict[str, Any]] = {}
    alpha: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class GaussianNoise(Layer):
    """In `fit`, a draw from N(0, std^2) is added to each number; elsewhere nothing happens.

    The draws depend on the seed, the step, the place of the layer and the place in the batch alone, as Dropout's.
    std is in the units of the layer's input; 0 adds nothing.
    """

    std: float
    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "gaussian_noise"
    saved: ClassVar[tuple[str, ...]] = ("std",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", _validate.real("std", self.std))
        named(self.name)

    @property
    def draws(self) -> bool:
        """Unless it adds nothing."""
        return self.std > 0

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return plan.op("noise", inputs, settings=([number], [self.std]))  # DRAW_LAYER, NOISE_STD

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        return moves[0]  # nothing is added but in fit
