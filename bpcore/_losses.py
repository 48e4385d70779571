"""Losses: averages over examples of E_x(a, y); see each class for its formula."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _validate
from bpcore._words import Settings, Worded

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

__all__ = [
    "NAMES", "BinaryCrossEntropy", "CategoricalFocal", "CosineDistance", "CrossEntropy", "Focal", "Gamma",
    "GaussianCRPS", "GaussianNLL", "Hinge", "Huber", "KLDivergence", "LogCosh", "Loss", "MeanAbsoluteError",
    "MeanSquaredError", "Poisson", "Quantile", "SquaredError", "SquaredHinge", "StudentT", "Tweedie", "Weighted",
]  # fmt: skip


@dataclass(frozen=True)
class BuiltIn(Worded, metaclass=Settings):
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
    y_is_above_0: ClassVar[bool] = False
    y_sums_to_1: ClassVar[bool] = False
    y_is_a_sign: ClassVar[bool] = False  # -1 or 1
    reads: ClassVar[str] = ""  # the outputs for each target, where they are several
    scales: ClassVar[bool] = False  # it is of differences from y: y may be in any units, see in_units

    @property
    def numbers(self) -> tuple[float, ...]:
        """The settings that C gets."""
        return ()

    @property
    def parts(self) -> int:
        """Outputs for each target: (parts, width) of a row of outputs belong to (width,) of y."""
        return 1

    def in_units(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For outputs that belong to (y - mean) / scale: what is added to them, and their factor before that, so that
        they belong to y; (n_L,) each."""
        return np.tile(mean, self.parts), np.tile(scale, self.parts)

    def check(self, dtype: np.dtype[Any]) -> None:
        """ValueError for a setting that vanishes in the network's dtype."""

    def advice(self, activation: str) -> str | None:
        """What to say of outputs that the loss is not made for: 'is for ..., and {} has ... ones; use ...'."""
        return None

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
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
    scales: ClassVar[bool] = True

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """a - y"""
        return t.minus(a, y)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """Rx"""
        return t.scaled(Rx, 1.0)


@dataclass(frozen=True)
class MeanSquaredError(BuiltIn):
    """E = 1/n_L sum_k (a_k - y_k)^2;  dE/da = 2 (a - y) / n_L."""

    name: ClassVar[str] = "mse"
    scales: ClassVar[bool] = True

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """2 (a - y) / n_L"""
        return t.scaled(t.minus(a, y), 2 / width)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """2 Rx / n_L"""
        return t.scaled(Rx, 2 / width)


@dataclass(frozen=True)
class MeanAbsoluteError(BuiltIn):
    """E = 1/n_L sum_k |a_k - y_k|;  dE/da = sign(a - y) / n_L, 0 where a = y.

    Its least value is at the median of y given x.
    """

    name: ClassVar[str] = "mae"
    scales: ClassVar[bool] = True

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """sign(a - y) / n_L"""
        return _steps(t, t.minus(a, y), -1 / width, 1 / width)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """0"""
        return t.scaled(Rx, 0.0)


@dataclass(frozen=True)
class Huber(BuiltIn):
    """E = sum_k r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2), with r = a_k - y_k (Huber 1964)."""

    delta: float = 1.0
    name: ClassVar[str] = "huber"
    scales: ClassVar[bool] = True
    curvature_takes_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", _validate.real("delta", self.delta, open_low=True))

    @property
    def numbers(self) -> tuple[float, ...]:
        """delta"""
        return (self.delta,)

    def check(self, dtype: np.dtype[Any]) -> None:
        """ValueError for a delta that would be 0."""
        _held("delta", self.delta, self.delta, dtype)

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """delta hard_tanh((a - y) / delta)"""
        return t.scaled(t.function("hard_tanh", t.scaled(t.minus(a, y), 1 / self.delta)), self.delta)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """Rx where |a - y| < delta"""
        r = t.combined([(1 / self.delta, x), (-1 / self.delta, y)])
        return t.times(t.function("hard_tanh'", r), Rx)


@dataclass(frozen=True)
class LogCosh(BuiltIn):
    """E = sum_k log cosh r, r = a_k - y_k;  dE/da = tanh(r).

    About r^2 / 2 for small r and |r| - log 2 for large ones: as Huber with delta = 1, but smooth.
    """

    name: ClassVar[str] = "log_cosh"
    scales: ClassVar[bool] = True
    curvature_takes_target: ClassVar[bool] = True

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """tanh(a - y)"""
        return t.function("tanh", t.minus(a, y))

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """tanh'(a - y) * Rx"""
        return t.times(t.function("tanh'", t.minus(a, y)), Rx)


@dataclass(frozen=True)
class StudentT(BuiltIn):
    """E = (df + 1)/2 sum_k log(1 + u^2 / df), u = (a_k - y_k) / scale;  dE/du = (df + 1) u / (df + u^2).

    The negative log-likelihood of Student's t with df degrees of freedom about a, less what does not depend on a
    (Lange, Little and Taylor 1989).  The slope falls off as 1/u, so that far outliers lose their pull.
    """

    df: float = 3.0
    scale: float = 1.0
    name: ClassVar[str] = "student_t"
    scales: ClassVar[bool] = True
    curvature_takes_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "df", _validate.real("df", self.df, open_low=True))
        object.__setattr__(self, "scale", _validate.real("scale", self.scale, open_low=True))

    @property
    def numbers(self) -> tuple[float, ...]:
        """p and q: E = q log(1 + (p r)^2)"""
        return 1 / (self.scale * math.sqrt(self.df)), (self.df + 1) / 2

    def check(self, dtype: np.dtype[Any]) -> None:
        """ValueError for settings that would be 0 or infinite."""
        _held("scale", self.scale, self.scale * math.sqrt(self.df), dtype)
        _held("df", self.df, self.df, dtype)

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """2 p q u / (1 + u^2), u = p (a - y)"""
        p, q = self.numbers
        u, squares, shares = self._terms(t, a, y)
        return t.scaled(t.product(u, t.combined([(1.0, squares)], 1.0), shares), 2 * p * q)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """2 p^2 q (1 - u^2) / (1 + u^2)^2 * Rx"""
        p, q = self.numbers
        _, squares, shares = self._terms(t, a, y)
        return t.scaled(t.product(t.combined([(-1.0, squares)], 1.0), shares, Rx), 2 * p * p * q)

    def _terms(self, t: Tangents, a: int, y: int) -> tuple[int, int, int]:
        """u, u^2 and 1 / (1 + u^2)^2"""
        u = t.scaled(t.minus(a, y), self.numbers[0])
        squares = t.product(u, u)
        return u, squares, t.function("softsign'", squares)


@dataclass(frozen=True)
class Quantile(BuiltIn):
    """E = sum_k q (y_k - a_k) where y_k > a_k, else (1 - q) (a_k - y_k) (Koenker and Bassett 1978).

    `levels`: q, within 0 to 1, or several.  Its least value is at the quantile q of y given x; q = 1/2 is half of
    |a - y|.  Of several levels each has outputs of its own: y of (n,) belongs to outputs of (n, levels), y of (n, k) to
    (n, levels k), those of the first level first.  Outputs of different levels may cross; sort them (docs/losses.md).
    """

    levels: float | Sequence[float] = 0.5
    name: ClassVar[str] = "quantile"
    scales: ClassVar[bool] = True
    reads: ClassVar[str] = "one for each level"

    def __post_init__(self) -> None:
        given = self.levels if isinstance(self.levels, (list, tuple, np.ndarray)) else (self.levels,)
        levels = tuple(_validate.real("levels", q, 0.0, 1.0, open_low=True, open_high=True) for q in given)
        if not levels or any(b <= a for a, b in zip(levels, levels[1:], strict=False)):
            raise ValueError(f"levels: expected one or more numbers that rise, got {self.levels!r}")
        object.__setattr__(self, "levels", levels)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The levels."""
        return tuple(self.levels)  # type: ignore[arg-type]

    @property
    def parts(self) -> int:
        """As many as levels."""
        return len(self.numbers)

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """-q where y > a, 1 - q where y < a"""
        if self.parts > 1:
            raise ValueError("loss: quantile of several levels has no second derivative here")
        return _steps(t, t.minus(a, y), -self.numbers[0], 1 - self.numbers[0])

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """0"""
        return t.scaled(Rx, 0.0)


class _Positive(BuiltIn):
    """A loss of outputs a > 0, from z behind exp outputs."""

    fused_with: ClassVar[str | None] = "exp"

    def advice(self, activation: str) -> str | None:
        """Outputs must be positive."""
        if activation in ("exp", "softplus", "logistic", "softmax"):
            return None
        return f"is for positive outputs, and {{}} has {activation} ones; use exp, with which it is stable"


@dataclass(frozen=True)
class Poisson(_Positive):
    """E = sum_k a_k - y_k log a_k, y >= 0;  dE/da = 1 - y/a (McCullagh and Nelder 1989).

    The negative log-likelihood of counts y with mean a, less what does not depend on a.  With an exp output it is
    computed from z, the log of the mean: E = e^z - y z, delta = a - y.
    """

    name: ClassVar[str] = "poisson"
    low: ClassVar[float] = 0.0

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """a - y"""
        return t.minus(a, y)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """a * Rz"""
        return t.times(a, Rx)


@dataclass(frozen=True)
class Gamma(_Positive):
    """E = sum_k log a_k + y_k / a_k, y > 0;  dE/da = (a - y) / a^2 (McCullagh and Nelder 1989).

    The negative log-likelihood of a gamma distribution with mean a, by its shape, less what does not depend on a.  With
    an exp output it is computed from z, the log of the mean: E = z + y e^-z, delta = 1 - y e^-z.
    """

    name: ClassVar[str] = "gamma"
    low: ClassVar[float] = 0.0
    y_is_above_0: ClassVar[bool] = True
    curvature_takes_target: ClassVar[bool] = True

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """1 - y e^-z"""
        return t.combined([(-1.0, t.product(y, t.function("exp", t.scaled(x, -1.0))))], 1.0)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """y e^-z * Rz"""
        return t.product(y, t.function("exp", t.scaled(x, -1.0)), Rx)


@dataclass(frozen=True)
class Tweedie(_Positive):
    """E = sum_k a_k^(2-p) / (2-p) - y_k a_k^(1-p) / (1-p), y >= 0, 1 < p < 2;  dE/da = (a - y) a^-p (Joergensen 1987).

    The negative log-likelihood, by its dispersion, of sums of gamma variables whose number is Poisson's: many zeros and
    a long tail, as claims have.  p is `power`: the variance is proportional to a^p; at 1 it is Poisson, at 2 Gamma.
    With an exp output it is computed from z, the log of the mean.
    """

    power: float = 1.5
    name: ClassVar[str] = "tweedie"
    low: ClassVar[float] = 0.0
    curvature_takes_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        power = _validate.real("power", self.power, 1.0, 2.0, open_low=True, open_high=True)
        object.__setattr__(self, "power", power)

    @property
    def numbers(self) -> tuple[float, ...]:
        """1 - p and 2 - p"""
        return 1 - self.power, 2 - self.power

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """e^((2-p) z) - y e^((1-p) z)"""
        p, q = self.numbers
        low, high = (t.function("exp", t.scaled(x, k)) for k in (p, q))
        return t.minus(high, t.product(y, low))

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """((2-p) e^((2-p) z) - (1-p) y e^((1-p) z)) * Rz"""
        p, q = self.numbers
        low, high = (t.function("exp", t.scaled(x, k)) for k in (p, q))
        return t.times(t.combined([(q, high), (-p, t.product(y, low))]), Rx)


@dataclass(frozen=True)
class GaussianNLL(BuiltIn):
    """E = 1/2 sum_k s_k + (y_k - m_k)^2 e^-s_k (Nix and Weigend 1994).

    The negative log-likelihood of a normal distribution, less log(2 pi)/2.  The outputs are the means m and then the
    logs s of the variances: y of (n,) belongs to outputs of (n, 2), y of (n, k) to (n, 2k).
    """

    name: ClassVar[str] = "gaussian_nll"
    scales: ClassVar[bool] = True
    reads: ClassVar[str] = "a mean and the log of a variance"

    @property
    def parts(self) -> int:
        """m and s."""
        return 2

    def in_units(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of m as of y; to s, the log of a variance, the log of scale^2 is added."""
        return _with_log_variance(mean, scale)


@dataclass(frozen=True)
class GaussianCRPS(BuiltIn):
    """E = sum_k sigma_k (u (2 Phi(u) - 1) + 2 phi(u) - 1/sqrt(pi)), u = (y_k - m_k) / sigma_k, sigma_k = e^(s_k/2).

    The continuous ranked probability score of a normal distribution (Gneiting et al. 2005), in the units of y: less
    ruled by outliers than the likelihood.  Outputs as GaussianNLL has them.
    """

    name: ClassVar[str] = "crps_gaussian"
    scales: ClassVar[bool] = True
    reads: ClassVar[str] = "a mean and the log of a variance"

    @property
    def parts(self) -> int:
        """m and s."""
        return 2

    def in_units(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of m as of y; to s, the log of a variance, the log of scale^2 is added."""
        return _with_log_variance(mean, scale)


@dataclass(frozen=True)
class BinaryCrossEntropy(BuiltIn):
    """E = -sum_k y_k log a_k + (1 - y_k) log(1 - a_k), y in [0, 1].

    With a logistic output it is computed from z, without overflow: delta = a - y.  `label_smoothing` s puts
    (1 - s) y + s/2 in place of y (Szegedy et al. 2016).
    """

    label_smoothing: float = 0.0
    name: ClassVar[str] = "binary_cross_entropy"
    fused_with: ClassVar[str | None] = "logistic"
    has_accuracy: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "label_smoothing", _validate.real("label_smoothing", self.label_smoothing, 0.0, 1.0, open_high=True)
        )

    @property
    def numbers(self) -> tuple[float, ...]:
        """label_smoothing, if any."""
        return (self.label_smoothing,) if self.label_smoothing else ()

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """a - y, y smoothed"""
        return _less_smoothed(t, a, y, self.label_smoothing, 1 / 2)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """logistic'(z) * Rz"""
        return t.times(t.function("logistic'", x), Rx)


@dataclass(frozen=True)
class CrossEntropy(BuiltIn):
    """E = -sum_k y_k log a_k, with y class labels (n,) or rows of probabilities (n, n_L) that sum to 1.

    With a softmax output it is computed from z, without overflow: delta = a - y.  `label_smoothing` s puts
    (1 - s) y + s/n_L in place of y (Szegedy et al. 2016).
    """

    label_smoothing: float = 0.0
    name: ClassVar[str] = "cross_entropy"
    fused_with: ClassVar[str | None] = "softmax"
    takes_classes: ClassVar[bool] = True
    has_accuracy: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    y_sums_to_1: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "label_smoothing", _validate.real("label_smoothing", self.label_smoothing, 0.0, 1.0, open_high=True)
        )

    @property
    def numbers(self) -> tuple[float, ...]:
        """label_smoothing, if any."""
        return (self.label_smoothing,) if self.label_smoothing else ()

    def advice(self, activation: str) -> str | None:
        """Outputs must sum to 1."""
        return _of_softmax(activation)

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """a - y, y smoothed"""
        return _less_smoothed(t, a, y, self.label_smoothing, 1 / width)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """The derivative of softmax, times Rz"""
        return t.plan.op("softmax_product", [a, Rx], settings=([width], []))


@dataclass(frozen=True)
class KLDivergence(BuiltIn):
    """E = sum_k y_k log(y_k / a_k), with y rows of probabilities (n, n_L) that sum to 1 (Kullback and Leibler 1951).

    The cross-entropy less the entropy of y: 0 where a = y.  With a softmax output it is computed from z: delta = a - y.
    """

    name: ClassVar[str] = "kl_divergence"
    fused_with: ClassVar[str | None] = "softmax"
    low: ClassVar[float] = 0.0
    y_sums_to_1: ClassVar[bool] = True

    def advice(self, activation: str) -> str | None:
        """Outputs must sum to 1."""
        return _of_softmax(activation)

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """a - y"""
        return t.minus(a, y)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """The derivative of softmax, times Rz"""
        return t.plan.op("softmax_product", [a, Rx], settings=([width], []))


@dataclass(frozen=True)
class Focal(BuiltIn):
    """E = -sum_k y_k (1 - a_k)^gamma log a_k + (1 - y_k) a_k^gamma log(1 - a_k), y in [0, 1] (Lin et al. 2017).

    Binary cross-entropy in which examples that are right already count less.  With a logistic output it is computed
    from z, without overflow.  For classes that exclude each other there is CategoricalFocal.
    """

    gamma: float = 2.0
    name: ClassVar[str] = "focal"
    fused_with: ClassVar[str | None] = "logistic"
    curvature_takes_target: ClassVar[bool] = True
    has_accuracy: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", _validate.real("gamma", self.gamma, open_low=True))

    @property
    def numbers(self) -> tuple[float, ...]:
        """gamma"""
        return (self.gamma,)

    def check(self, dtype: np.dtype[Any]) -> None:
        """ValueError for a gamma that would be 0 or infinite."""
        _held("gamma", self.gamma, self.gamma, dtype)

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """y g(z) - (1 - y) g(-z), g(z) = -(1-p)^gamma (gamma p less + 1 - p)"""
        p, q, less, more = self._terms(t, x)
        return t.minus(
            t.product(y, self._slope(t, p, q, less, more)),
            t.product(t.combined([(-1.0, y)], 1.0), self._slope(t, q, p, more, less)),
        )

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """(y h(z) + (1 - y) h(-z)) Rz, h(z) = (1-p)^gamma (gamma^2 p^2 less + p (1-p) (2 gamma - gamma less + 1))"""
        p, q, less, more = self._terms(t, x)
        of_1 = t.product(y, self._curvature(t, p, q, less, more))
        of_0 = t.product(t.combined([(-1.0, y)], 1.0), self._curvature(t, q, p, more, less))
        return t.times(t.add_up(of_1, of_0), Rx)

    def _terms(self, t: Tangents, z: int) -> tuple[int, int, int, int]:
        """p, 1 - p, less = -log p and more = -log(1 - p)"""
        back = t.scaled(z, -1.0)
        return (t.function("logistic", z), t.function("logistic", back),
                t.function("softplus", back), t.function("softplus", z))  # fmt: skip

    def _slope(self, t: Tangents, p: int, q: int, less: int, more: int) -> int:
        inner = t.combined([(-self.gamma, t.product(p, less)), (-1.0, q)])
        return t.product(t.function("exp", t.scaled(more, -self.gamma)), inner)

    def _curvature(self, t: Tangents, p: int, q: int, less: int, more: int) -> int:
        g = self.gamma
        mixed = t.product(p, q, t.combined([(-g, less)], 2 * g + 1))
        inner = t.combined([(g * g, t.product(p, p, less)), (1.0, mixed)])
        return t.product(t.function("exp", t.scaled(more, -g)), inner)


@dataclass(frozen=True)
class CategoricalFocal(BuiltIn):
    """E = -sum_k y_k (1 - a_k)^gamma log a_k, with y class labels (n,) or rows of probabilities that sum to 1.

    Cross-entropy in which examples that are right already count less (Lin et al. 2017, for several classes).  With a
    softmax output it is computed from z, without overflow.
    """

    gamma: float = 2.0
    name: ClassVar[str] = "categorical_focal"
    fused_with: ClassVar[str | None] = "softmax"
    takes_classes: ClassVar[bool] = True
    has_accuracy: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    y_sums_to_1: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", _validate.real("gamma", self.gamma, open_low=True))

    @property
    def numbers(self) -> tuple[float, ...]:
        """gamma"""
        return (self.gamma,)

    def check(self, dtype: np.dtype[Any]) -> None:
        """ValueError for a gamma that would be 0 or infinite."""
        _held("gamma", self.gamma, self.gamma, dtype)

    def advice(self, activation: str) -> str | None:
        """Outputs must sum to 1."""
        return _of_softmax(activation)


@dataclass(frozen=True)
class Hinge(BuiltIn):
    """E = sum_k max(0, 1 - y_k a_k), y -1 or 1 (Cortes and Vapnik 1995);  dE/da = -y where y a < 1, else 0.

    For identity outputs: their sign is the class.
    """

    name: ClassVar[str] = "hinge"
    has_accuracy: ClassVar[bool] = True
    y_is_a_sign: ClassVar[bool] = True
    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """-y [y a < 1]"""
        inside = t.function("relu'", t.combined([(-1.0, t.product(y, a))], 1.0))
        return t.scaled(t.product(y, inside), -1.0)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """0"""
        return t.scaled(Rx, 0.0)


@dataclass(frozen=True)
class SquaredHinge(BuiltIn):
    """E = sum_k max(0, 1 - y_k a_k)^2, y -1 or 1 (Lee and Mangasarian 2001);  dE/da = -2 y max(0, 1 - y a)."""

    name: ClassVar[str] = "squared_hinge"
    curvature_takes_target: ClassVar[bool] = True
    has_accuracy: ClassVar[bool] = True
    y_is_a_sign: ClassVar[bool] = True
    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0

    def slope(self, t: Tangents, x: int, a: int, y: int, width: int) -> int:
        """-2 y max(0, 1 - y a)"""
        return t.scaled(t.product(y, t.function("relu", t.combined([(-1.0, t.product(y, a))], 1.0))), -2.0)

    def curvature(self, t: Tangents, x: int, Rx: int, a: int, y: int, width: int) -> int:
        """2 [y a < 1] Rx"""
        inside = t.function("relu'", t.combined([(-1.0, t.product(y, a))], 1.0))
        return t.scaled(t.times(inside, Rx), 2.0)


@dataclass(frozen=True)
class CosineDistance(BuiltIn):
    """E = 1 - a y / (|a| |y|), from 0 (the same direction) to 2;  1, with derivative 0, where a or y is 0."""

    name: ClassVar[str] = "cosine"


def _held(setting: str, value: float, number: float, dtype: np.dtype[Any]) -> None:
    """ValueError for a setting whose number the dtype cannot hold."""
    limits = np.finfo(dtype)
    if not limits.tiny <= number <= limits.max:
        raise ValueError(f"{setting}: expected a number that {dtype} can hold, got {value}; use dtype='float64'")


def _of_softmax(activation: str) -> str | None:
    if activation == "softmax":
        return None
    return (
        f"is for outputs that sum to 1, and {{}} has {activation} ones; use softmax, or for classes that do not "
        "exclude each other logistic and binary_cross_entropy"
    )


def _with_log_variance(mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([mean, 2 * np.log(scale)]), np.concatenate([scale, np.ones_like(scale)])


def _steps(t: Tangents, r: int, below: float, above: float) -> int:
    """`below` where r < 0, `above` where r > 0."""
    return t.combined([(above, t.function("relu'", r)), (below, t.function("relu'", t.scaled(r, -1.0)))])


def _less_smoothed(t: Tangents, a: int, y: int, smoothing: float, mean: float) -> int:
    """a - (1 - s) y - s mean"""
    return t.combined([(1.0, a), (smoothing - 1, y)], -smoothing * mean)


@dataclass(frozen=True, eq=False)
class Loss(Worded):
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
    loss.name: loss
    for loss in (
        SquaredError, MeanSquaredError, MeanAbsoluteError, Huber, LogCosh, StudentT, Quantile, Poisson, Gamma, Tweedie,
        GaussianNLL, GaussianCRPS, BinaryCrossEntropy, CrossEntropy, KLDivergence, Focal, CategoricalFocal, Hinge,
        SquaredHinge, CosineDistance,
    )
}  # fmt: skip
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
    if loss.parts > 1:
        if shape[-1] % loss.parts:
            raise ValueError(
                f"loss: {loss.name} reads {loss.parts} outputs for each target ({loss.reads}), and the network has "
                f"{shape[-1]}; use bp.Dense({loss.parts}), or that times the columns of y"
            )
        shape = (*shape[:-1], shape[-1] // loss.parts)
    return _validate.target(
        y,
        n,
        shape,
        dtype,
        classes=loss.takes_classes,
        low=float(np.finfo(dtype).tiny) if loss.y_is_above_0 else loss.low,
        high=loss.high,
        sums_to_1=loss.name if loss.y_sums_to_1 else "",
        signs=loss.name if loss.y_is_a_sign else "",
        check_finite=check_finite,
        name=name,
    )
