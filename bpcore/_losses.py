"""Losses: averages over examples of E_x(a, y); see each class for its formula."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _validate

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

__all__ = [
    "NAMES", "BinaryCrossEntropy", "CrossEntropy", "Huber", "Loss", "MeanSquaredError", "SquaredError", "Weighted",
]  # fmt: skip


@dataclass(frozen=True)
class BuiltIn:
    """A loss that C computes.

    `slope` and `curvature` are for second derivatives, as operations of a plan, which `t` adds; x is what the loss
    reads: the output a, or what goes into the output's activation where that is `fused_with`.
    """

    name: ClassVar[str]
    fused_with: ClassVar[str | None] = None
    curvature_takes_target: ClassVar[bool] = False
    takes_classes: ClassVar[bool] = False  # y may be class labels, and accuracy has a meaning
    has_accuracy: ClassVar[bool] = False
    low: ClassVar[float] = -math.inf  # of y
    high: ClassVar[float] = math.inf

    @property
    def attr(self) -> float:
        """The number that C gets with each call."""
        return 0.0

    def check(self, dtype: np.dtype[Any]) -> None:
        """ValueError for a setting that vanishes in the network's dtype."""

    def slope(self, t: Tangents, a: int, y: int, width: int) -> int:
        """The buffer of dE/dx, for positions of `width` numbers."""
        raise self._no_second_derivative()

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """The buffer of (d^2 E / dx^2) Rx; y is -1 unless `curvature_takes_target`."""
        raise self._no_second_derivative()

    def _no_second_derivative(self) -> ValueError:
        return ValueError(f"loss: {self.name} has no second derivative here")


@dataclass(frozen=True)
class SquaredError(BuiltIn):
    """E = 1/2 sum_k (a_k - y_k)^2;  dE/da = a - y."""

    name: ClassVar[str] = "squared_error"

    def slope(self, t: Tangents, a: int, y: int, width: int) -> int:
        """a - y"""
        return t.minus(a, y)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """Rx"""
        return t.scaled(Rx, 1.0)


@dataclass(frozen=True)
class MeanSquaredError(BuiltIn):
    """E = 1/n_L sum_k (a_k - y_k)^2;  dE/da = 2 (a - y) / n_L."""

    name: ClassVar[str] = "mse"

    def slope(self, t: Tangents, a: int, y: int, width: int) -> int:
        """2 (a - y) / n_L"""
        return t.scaled(t.minus(a, y), 2 / width)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """2 Rx / n_L"""
        return t.scaled(Rx, 2 / width)


@dataclass(frozen=True)
class BinaryCrossEntropy(BuiltIn):
    """E = -sum_k y_k log a_k + (1 - y_k) log(1 - a_k), y in [0, 1].

    With a logistic output it is computed from z, without overflow: delta = a - y.
    """

    name: ClassVar[str] = "binary_cross_entropy"
    fused_with: ClassVar[str | None] = "logistic"
    has_accuracy: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    def slope(self, t: Tangents, a: int, y: int, width: int) -> int:
        """a - y"""
        return t.minus(a, y)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """logistic'(z) * Rz"""
        return t.times(t.plan.op("activation", [x], function="logistic'"), Rx)


@dataclass(frozen=True)
class CrossEntropy(BuiltIn):
    """E = -sum_k y_k log a_k, with y class labels (n,) or rows of probabilities (n, n_L) that sum to 1.

    With a softmax output it is computed from z, without overflow: delta = a - y.
    """

    name: ClassVar[str] = "cross_entropy"
    fused_with: ClassVar[str | None] = "softmax"
    takes_classes: ClassVar[bool] = True
    has_accuracy: ClassVar[bool] = True
    low: ClassVar[float] = 0.0

    def slope(self, t: Tangents, a: int, y: int, width: int) -> int:
        """a - y"""
        return t.minus(a, y)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """The derivative of softmax, times Rz"""
        return t.plan.op("softmax_product", [a, Rx], settings=([width], []))


@dataclass(frozen=True)
class Huber(BuiltIn):
    """E = sum_k r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2), with r = a_k - y_k (Huber 1964)."""

    delta: float = 1.0
    name: ClassVar[str] = "huber"
    curvature_takes_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", _validate.real("delta", self.delta, open_low=True))

    @property
    def attr(self) -> float:
        """delta"""
        return self.delta

    def check(self, dtype: np.dtype[Any]) -> None:
        """ValueError for a delta that would be 0."""
        if self.delta < np.finfo(dtype).tiny:
            raise ValueError(f"delta: expected a number that {dtype} can hold, got {self.delta}; use dtype='float64'")

    def slope(self, t: Tangents, a: int, y: int, width: int) -> int:
        """delta hard_tanh((a - y) / delta)"""
        r = t.scaled(t.minus(a, y), 1 / self.delta)
        return t.scaled(t.plan.op("activation", [r], function="hard_tanh"), self.delta)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """Rx where |a - y| < delta"""
        r = t.plan.op("add", [x, y], settings=([], [1 / self.delta, -1 / self.delta]))
        return t.times(t.plan.op("activation", [r], function="hard_tanh'"), Rx)


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss of your own, with its derivative.

    `value(a, y)` gives (n,) and `gradient(a, y)` gives (n, n_L): E and dE/da per example, unweighted, divided by
    nothing.  a is (n, n_L) in the network's dtype; y has the rows you gave to the call, whole numbers kept as int32;
    (n,) becomes (n, 1) where n_L is 1.
    Both are called on a whole chunk of rows, on the calling thread.
    """

    value: Callable[[Any, Any], Any]
    gradient: Callable[[Any, Any], Any]
    name: str | None = None

    def __post_init__(self) -> None:
        _validate.function("value", self.value)
        _validate.function("gradient", self.gradient)
        _validate.label(self.name)


@dataclass(frozen=True)
class Weighted:
    """A loss times a number, for a network of several outputs: loss=["cross_entropy", Weighted("mse", 0.3)]."""

    loss: Any
    weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _validate.real("weight", self.weight))
        resolve(self.loss, None)  # the error for what is no loss


_BY_NAME: dict[str, type[BuiltIn]] = {
    loss.name: loss for loss in (SquaredError, MeanSquaredError, BinaryCrossEntropy, CrossEntropy, Huber)
}
NAMES = ("auto", *_BY_NAME)


def resolve(value: Any, output: Any) -> BuiltIn | Loss:
    """The loss for a network whose last activation is `output`."""
    if isinstance(value, (BuiltIn, Loss)):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"loss: expected a name or an object such as bp.losses.Huber(), got {value!r} of type "
            f"{type(value).__name__}"
        )
    name = _validate.choice("loss", value, NAMES)
    if name == "auto":
        name = {"softmax": "cross_entropy", "logistic": "binary_cross_entropy"}.get(
            output if isinstance(output, str) else "", "squared_error"
        )
    return _BY_NAME[name]()


def resolve_all(value: Any, outputs: Sequence[Any]) -> list[Weighted]:
    """A loss for each output node: one for all of them, a list, or a dict by name."""
    names = [node.name for node in outputs]
    if isinstance(value, (list, tuple)) and len(value) == len(outputs) == 1:
        given = list(value)
    elif isinstance(value, (list, tuple, dict)):
        given = [part for _, part in _validate.parts("loss", value, names)]
    else:
        given = [value] * len(outputs)
    losses = []
    for loss, node in zip(given, outputs, strict=True):
        activation = getattr(node.layer, "activation", None)
        if isinstance(loss, str):
            losses.append(_by_name(loss, activation if isinstance(activation, str) else None))
        else:
            weighted = loss if isinstance(loss, Weighted) else Weighted(loss)
            losses.append(Weighted(resolve(weighted.loss, activation), weighted.weight))
    return losses


@functools.lru_cache(maxsize=64)
def _by_name(name: str, activation: str | None) -> Weighted:
    return Weighted(resolve(name, activation))


def has_accuracy(loss: BuiltIn | Loss) -> bool:
    """Whether outputs are classes."""
    return isinstance(loss, BuiltIn) and loss.has_accuracy


def target(
    loss: BuiltIn | Loss,
    y: Any,
    n: int,
    shape: tuple[int, ...],
    dtype: Any,
    check_finite: bool = True,
    name: str = "y",
) -> _validate.Target:
    """y, checked against what the loss takes."""
    if isinstance(loss, Loss):
        return _validate.any_target(y, n, math.prod(shape), dtype, check_finite, name)
    loss.check(dtype)
    return _validate.target(
        y,
        n,
        shape,
        dtype,
        classes=loss.takes_classes,
        low=loss.low,
        high=loss.high,
        check_finite=check_finite,
        name=name,
    )
