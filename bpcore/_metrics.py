"""Metrics: what answers are worth, in numbers for people; see each class for its formula."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _truth, _validate
from bpcore._losses import has_accuracy
from bpcore._truth import CLASSES, LABELS, Truth, Truths

if TYPE_CHECKING:
    from bpcore._data import Data

__all__ = [
    "NAMES", "F1", "Accuracy", "AveragePrecision", "BalancedAccuracy", "Brier", "LogLoss", "MeanAbsoluteError",
    "MeanAbsolutePercentageError", "Metric", "Pinball", "Precision", "R2", "Recall", "RocAuc",
    "RootMeanSquaredError", "TopK", "accuracy", "average_precision", "balanced_accuracy", "brier", "f1", "log_loss",
    "mae", "mape", "pinball", "precision", "r2", "recall", "rmse", "roc_auc", "top_k",
]  # fmt: skip

HIGHER, LOWER = "higher", "lower"


@dataclass(frozen=True)
class BuiltIn:
    """A metric of bpcore's: metric(y, a, sample_weight=None) gives its value.

    y: (n,) or (n, k) as `fit` takes them.  a: answers (n, k), as `predict` gives them, or (n,).  With one column y are
    0 or 1, and from 1/2 on an answer means 1; with several, y are classes (n,), or 0 or 1 for each column (n, k).
    Examples of weight 0 are left out.  An answer with a NaN is never right; where answers are numbers, or ranked, the
    value is NaN, which is worse than any.  ValueError or TypeError for what does not fit.
    """

    base: ClassVar[str]
    better: ClassVar[str] = HIGHER
    of_numbers: ClassVar[bool] = False
    of_probabilities: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = (CLASSES, LABELS)

    @property
    def name(self) -> str:
        """In a history, after `val_`."""
        return self.base

    def __call__(self, y: Any, a: Any, *, sample_weight: Any = None) -> float:
        """Its value."""
        truths, outputs = _truth.given(y, a, sample_weight, self.of_numbers)
        if self.of_probabilities and ((outputs < 0) | (outputs > 1)).any():
            raise ValueError(f"a: expected probabilities from 0 to 1 for {self.name}")
        return self.of(_prepared("y", self, truths), outputs)

    def prepare(self, truths: Truths) -> Truth:
        """The targets as this metric reads them; ValueError, from its name on, where it does not fit them."""
        if self.of_numbers:
            return truths.numbers(self.name, getattr(self, "level", 0.5))
        truth = truths.classes(self.name)
        if truth.kind not in self.kinds:
            raise ValueError(f"{self.name} is for classes of which one is right, and here each output is yes or no")
        if self.of_probabilities and truth.probabilities is False:
            raise ValueError(f"{self.name} is for probabilities; use softmax or logistic outputs")
        self.check(truth)
        return truth

    def check(self, truth: Truth) -> None:
        """ValueError for settings that do not fit."""

    def of(self, truth: Truth, outputs: np.ndarray) -> float:
        """The value for outputs (n, ..., columns)."""
        with np.errstate(all="ignore"):
            return float(self.value(truth, truth.answers(outputs)))

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """The value for the answers (N, columns) to these examples."""
        raise NotImplementedError


# ---- classes ----


def _counts(truth: Truth, a: np.ndarray) -> np.ndarray:
    """(3, n): by class or label the weights of right answers, of answers, and of what is there."""
    counts = np.zeros((3, truth.n))
    for y, answers, w in truth.blocks(a):
        whole = ~np.isnan(answers).any(axis=1)
        if truth.kind == LABELS:
            chosen = (answers >= truth.threshold) & whole[:, None]
            for i, are in enumerate((chosen & y, chosen, y)):
                counts[i] += are.sum(axis=0) if w is None else (are * w[:, None]).sum(axis=0)
            continue
        if answers.shape[1] < truth.n:  # two classes, one column
            best = (answers[:, 0] >= truth.threshold).astype(np.intp)
        else:
            best = answers.argmax(axis=1)
        right = whole & (best == y)
        for i, (label, some) in enumerate(((y, right), (best, whole), (y, slice(None)))):
            counts[i] += np.bincount(label[some], None if w is None else w[some], truth.n)
    return counts


def _sum(values: np.ndarray, w: np.ndarray | None) -> float:
    """Weighted; not by BLAS, whose threads decide on the bits."""
    return float((values if w is None else values * w).sum())


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)


@dataclass(frozen=True)
class Accuracy(BuiltIn):
    """The share of answers that are right: whose largest output is the class, the first of equals.

    Where each output is 0 or 1, the share of outputs on the right side (scikit-learn's 1 - hamming_loss).
    """

    base: ClassVar[str] = "accuracy"

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        if truth.kind == CLASSES:
            return _counts(truth, a)[0].sum() / truth.total
        right = 0.0
        for y, answers, w in truth.blocks(a):
            hits = ((answers >= truth.threshold) == y) & ~np.isnan(answers).any(axis=1)[:, None]
            shares = hits.mean(axis=1)
            right += _sum(shares, w)
        return right / truth.total


@dataclass(frozen=True)
class TopK(BuiltIn):
    """The share of answers with the class among their k largest outputs, the last of equals first."""

    k: int = 5
    base: ClassVar[str] = "top_k"
    kinds: ClassVar[tuple[str, ...]] = (CLASSES,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", _validate.integer("k", self.k, 1, 2**31 - 1))

    @property
    def name(self) -> str:
        """top_k, and k where that is not 5."""
        return self.base if self.k == 5 else f"{self.base}_{self.k}"

    def check(self, truth: Truth) -> None:
        """At least k classes."""
        if self.k > truth.n:
            raise ValueError(f"{self.name} expects at least {self.k} classes, and there are {truth.n}")

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        if a.shape[1] < truth.n:  # two classes, one column
            a = np.hstack([np.full_like(a, truth.threshold), a])
        total = 0.0
        for y, answers, w in truth.blocks(a):
            own = np.take_along_axis(answers, y[:, None], axis=1)
            before = (answers > own) | ((answers == own) & (np.arange(truth.n) > y[:, None]))
            right = (before.sum(axis=1) < self.k) & ~np.isnan(answers).any(axis=1)
            total += _sum(right, w)
        return total / truth.total


@dataclass(frozen=True)
class BalancedAccuracy(BuiltIn):
    """The mean over the classes that are there of the share of their examples that is right."""

    base: ClassVar[str] = "balanced_accuracy"
    kinds: ClassVar[tuple[str, ...]] = (CLASSES,)

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        right, _, there = _counts(truth, a)
        return (right[there > 0] / there[there > 0]).mean()


@dataclass(frozen=True)
class _Averaged(BuiltIn):
    """A ratio of counts.

    average: "binary", for the class 1 of two; "macro", the mean over classes that are there or answered, or over all
    labels; "micro", of the sums over classes or labels.  0 where nothing is counted.
    """

    average: str = "binary"

    def __post_init__(self) -> None:
        _validate.choice("average", self.average, ("binary", "macro", "micro"))

    @property
    def name(self) -> str:
        """f1, f1_macro, f1_micro"""
        return self.base if self.average == "binary" else f"{self.base}_{self.average}"

    def check(self, truth: Truth) -> None:
        """Two classes where only one of them counts."""
        if self.average == "binary" and (truth.kind == LABELS or truth.n != 2):
            what = "outputs that are each yes or no" if truth.kind == LABELS else "classes"
            raise ValueError(
                f"{self.name} is for two classes, and there are {truth.n} {what}; use {self.base}_macro or "
                f"{self.base}_micro"
            )

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        right, answered, there = counts = _counts(truth, a)
        if self.average == "micro":
            return self.ratio(*counts.sum(axis=1))
        ratios = self.ratio(right, answered, there)
        if self.average == "binary":
            return ratios[1]
        return ratios[(answered > 0) | (there > 0) | (truth.kind == LABELS)].mean()

    def ratio(self, right: Any, answered: Any, there: Any) -> Any:
        """Of the weights of right answers, of answers, and of what is there."""
        raise NotImplementedError


@dataclass(frozen=True)
class Precision(_Averaged):
    """Of the answers that say so, the share that is right; see `average`."""

    base: ClassVar[str] = "precision"

    def ratio(self, right: Any, answered: Any, there: Any) -> Any:
        """right / answered"""
        return _ratio(right, answered)


@dataclass(frozen=True)
class Recall(_Averaged):
    """Of the examples that are so, the share that is found; see `average`."""

    base: ClassVar[str] = "recall"

    def ratio(self, right: Any, answered: Any, there: Any) -> Any:
        """right / there"""
        return _ratio(right, there)


@dataclass(frozen=True)
class F1(_Averaged):
    """2 p r / (p + r), the harmonic mean of precision and recall; see `average`."""

    base: ClassVar[str] = "f1"

    def ratio(self, right: Any, answered: Any, there: Any) -> Any:
        """2 right / (answered + there)"""
        return _ratio(2 * right, answered + there)


# ---- ranks ----


def _curve(yes: np.ndarray, score: np.ndarray, w: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the positive and the negative examples with at least this score, by distinct scores that fall."""
    order = np.argsort(score)[::-1]
    ranked, yes = score[order], yes[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    if w is None:
        positive = np.cumsum(yes)[last].astype(np.float64)
        return positive, last + 1 - positive
    w = w[order]
    return np.cumsum(np.where(yes, w, 0.0))[last], np.cumsum(np.where(yes, 0.0, w))[last]


@dataclass(frozen=True)
class _Ranked(BuiltIn):
    """Of each class against the rest, or of each label: the mean.  Of two classes: of class 1."""

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        if np.isnan(a).any():
            return math.nan
        columns = range(truth.n) if truth.n > 2 or truth.kind == LABELS else (truth.n - 1,)
        values = []
        for c in columns:
            yes = truth.y[:, c] if truth.kind == LABELS else truth.y == c
            if len(columns) > 1 and truth.kind == CLASSES and not yes.any():
                continue
            values.append(self.area(*_curve(yes, a[:, min(c, a.shape[1] - 1)], truth.weight)))
        return np.mean(values)

    def area(self, positive: np.ndarray, negative: np.ndarray) -> float:
        """Under the curve."""
        raise NotImplementedError


@dataclass(frozen=True)
class RocAuc(_Ranked):
    """The area under the curve of true positives against false positives: how often a positive example has a higher
    score than a negative one, ties counting half.

    Of several classes the mean over those that are there of each against the rest.  NaN where all examples are
    positive, or none, or such a label is among several.
    """

    base: ClassVar[str] = "roc_auc"

    def area(self, positive: np.ndarray, negative: np.ndarray) -> float:
        """The trapezoids between the points."""
        steps = np.diff(negative, prepend=0.0)
        twice = (steps * (2 * positive - np.diff(positive, prepend=0.0))).sum()
        return float(twice / (2 * positive[-1] * negative[-1]))


@dataclass(frozen=True)
class AveragePrecision(_Ranked):
    """sum_k (R_k - R_(k-1)) P_k, recall and precision at each distinct score from the highest on: the area under the
    curve of precision against recall, without interpolation.

    Of several classes the mean over those that are there of each against the rest.  0 where no example is positive.
    """

    base: ClassVar[str] = "average_precision"

    def area(self, positive: np.ndarray, negative: np.ndarray) -> float:
        """The sum."""
        if positive[-1] == 0:
            return 0.0
        gains = np.diff(positive, prepend=0.0)
        return float((gains * (positive / (positive + negative))).sum() / positive[-1])


# ---- probabilities ----


@dataclass(frozen=True)
class _OfProbabilities(BuiltIn):
    """The weighted mean of an error between shares of classes and probabilities."""

    better: ClassVar[str] = LOWER
    of_probabilities: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = (CLASSES,)

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        total, eps = 0.0, float(np.finfo(a.dtype).eps)
        for y, p, w in truth.blocks(a, truth.shares):
            if truth.shares is None:
                shares = np.zeros((len(y), truth.n))
                shares[np.arange(len(y)), y] = 1
            else:
                shares = _of_both(y.astype(np.float64), truth.n)
            p = _of_both(np.where((p >= 0) & (p <= 1), p, np.nan).astype(np.float64), truth.n)
            e = self.error(shares, p, eps)
            total += _sum(e, w)
        return total / truth.total

    def error(self, y: np.ndarray, p: np.ndarray, eps: float) -> np.ndarray:
        """Of each example, from shares and probabilities (rows, n); eps: of the answers' dtype."""
        raise NotImplementedError


def _of_both(p: np.ndarray, n: int) -> np.ndarray:
    """Of all n classes, where p may be of class 1 of two."""
    return np.hstack([1 - p, p]) if p.shape[1] < n else p


@dataclass(frozen=True)
class LogLoss(_OfProbabilities):
    """-sum_k y_k log a_k, the mean over examples; a is taken for at least eps and at most 1 - eps of its dtype."""

    base: ClassVar[str] = "log_loss"

    def error(self, y: np.ndarray, p: np.ndarray, eps: float) -> np.ndarray:
        """See the class."""
        return -(y * np.log(np.clip(p, eps, 1 - eps))).sum(axis=1)


@dataclass(frozen=True)
class Brier(_OfProbabilities):
    """sum_k (y_k - a_k)^2, the mean over examples; of two classes half of it, (y - a)^2 (Brier 1950)."""

    base: ClassVar[str] = "brier"

    def error(self, y: np.ndarray, p: np.ndarray, eps: float) -> np.ndarray:
        """See the class."""
        return np.square(y - p).sum(axis=1) * (0.5 if y.shape[1] == 2 else 1.0)


# ---- numbers ----


@dataclass(frozen=True)
class _OfNumbers(BuiltIn):
    """The mean over columns of a metric of each."""

    better: ClassVar[str] = LOWER
    of_numbers: ClassVar[bool] = True

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        return truth.mean(a, self.error).mean()

    def error(self, y: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Of each number."""
        raise NotImplementedError


@dataclass(frozen=True)
class MeanAbsoluteError(_OfNumbers):
    """The mean of |a - y|."""

    base: ClassVar[str] = "mae"

    def error(self, y: np.ndarray, a: np.ndarray) -> np.ndarray:
        """See the class."""
        return np.abs(a - y)


@dataclass(frozen=True)
class RootMeanSquaredError(_OfNumbers):
    """The root of the mean of (a - y)^2, of each column."""

    base: ClassVar[str] = "rmse"

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        return np.sqrt(truth.mean(a, lambda y, a: np.square(a - y))).mean()


@dataclass(frozen=True)
class MeanAbsolutePercentageError(_OfNumbers):
    """The mean of |a - y| / |y|, as a share, not in percent; |y| is taken for at least 2.2e-16."""

    base: ClassVar[str] = "mape"

    def error(self, y: np.ndarray, a: np.ndarray) -> np.ndarray:
        """See the class."""
        return np.abs(a - y) / np.maximum(np.abs(y), np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Pinball(_OfNumbers):
    """The mean of q (y - a) where y > a, else (1 - q) (a - y), with q = `level` from 0 to 1: least at the quantile q.

    Where the loss has a quantile for each of several levels, it reads the outputs of its own level.
    """

    level: float = 0.5
    base: ClassVar[str] = "pinball"

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", _validate.real("level", self.level, 0.0, 1.0))

    @property
    def name(self) -> str:
        """pinball, and the level where it is not 1/2."""
        return self.base if self.level == 0.5 else f"{self.base}_{self.level:g}"

    def error(self, y: np.ndarray, a: np.ndarray) -> np.ndarray:
        """See the class."""
        return np.maximum(self.level * (y - a), (1 - self.level) * (a - y))


@dataclass(frozen=True)
class R2(_OfNumbers):
    """1 - sum (a - y)^2 / sum (y - mean y)^2, the mean over columns: 1 is right, 0 as good as the mean of y.

    Where y are all the same it is 1 if a are right, else 0; NaN for a single example.
    """

    base: ClassVar[str] = "r2"
    better: ClassVar[str] = HIGHER

    def value(self, truth: Truth, a: np.ndarray) -> Any:
        """See the class."""
        if len(truth.y) < 2:
            return math.nan
        first = truth.y[0].astype(np.float64)  # near which the mean is exact, also of time stamps
        center = truth.mean(a, lambda y, a: y - first)
        spread = truth.mean(a, lambda y, a: np.square(y - first - center))
        missed = truth.mean(a, lambda y, a: np.square(a - y))
        constant = np.where(np.isnan(missed), np.nan, missed == 0)
        return np.where(spread > 0, 1 - missed / spread, constant).mean()


# ---- one's own ----


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric of your own: f(y, a) gives a number.

    better: "higher" or "lower", for callbacks that watch it.  name: in a history, after `val_`; f's own unless given.
    y has the rows you gave, a is (n, *shape) in the network's dtype, as `predict` gives it, but (n,) where y is (n,)
    and the network has one output, so that y - a is (n,); both are copies.  Where the
    data have weights, it is f(y, a, sample_weight=w): f takes them, or the call is refused.
    """

    f: Callable[..., Any]
    better: str = field(kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _validate.function("f", self.f)
        _validate.choice("better", self.better, (HIGHER, LOWER))
        _validate.label(self.name)
        name = getattr(self.f, "__name__", "") if self.name is None else self.name
        if not name.isidentifier():
            raise ValueError(f"name: expected one such as 'my_metric' for a function without one, got {name!r}")
        if name.startswith("val_") or name in _TAKEN or _is_name(name):
            raise ValueError(f"name: {name!r} has another meaning in a history; choose another")
        object.__setattr__(self, "name", name)

    def prepare(self, truths: Truths) -> Truths:
        """The targets; ValueError, from its name on, for weights that f does not take."""
        if truths.weight is not None and not _takes(self.f, "sample_weight"):
            raise ValueError(
                f"{self.name} is given no weights by its function; write it as f(y, a, sample_weight=None)"
            )
        return truths

    def of(self, truths: Truths, outputs: np.ndarray) -> float:
        """What f says."""
        settings = {} if truths.weight is None else {"sample_weight": truths.weight.copy()}
        given = outputs[:, 0] if truths.y.ndim == 1 and outputs.shape[1:] == (1,) else outputs
        value = self.f(truths.y.copy(), given.copy(), **settings)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{self.name} returned {value!r}; expected a number") from None


def _takes(f: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(f).parameters
    except (TypeError, ValueError):  # a function in C
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


# ---- by name ----

accuracy, balanced_accuracy, top_k = Accuracy(), BalancedAccuracy(), TopK()
precision, recall, f1 = Precision(), Recall(), F1()
roc_auc, average_precision = RocAuc(), AveragePrecision()
log_loss, brier = LogLoss(), Brier()
mae, rmse, mape, pinball, r2 = (
    MeanAbsoluteError(), RootMeanSquaredError(), MeanAbsolutePercentageError(), Pinball(), R2(),
)  # fmt: skip

_BY_NAME: dict[str, BuiltIn] = {
    metric.name: metric
    for metric in (
        accuracy, top_k, balanced_accuracy,
        *(kind(average) for kind in (Precision, Recall, F1) for average in ("binary", "macro", "micro")),
        roc_auc, average_precision, log_loss, brier, mae, rmse, mape, r2, pinball,
    )
}  # fmt: skip
NAMES = tuple(_BY_NAME)
_TAKEN = ("epoch", "loss", "seconds", "samples_per_second", "lr", "error", "outputs", "metrics")


def _named(name: str) -> BuiltIn | None:
    if found := re.fullmatch(r"top_k_(\d+)", name):
        return TopK(int(found[1]))
    if found := re.fullmatch(r"pinball_(\d*\.?\d+)", name):
        return Pinball(float(found[1]))
    return _BY_NAME.get(name)


def _is_name(name: str) -> bool:
    return name in _BY_NAME or name.startswith(("top_k_", "pinball_"))


def _resolve(value: Any) -> BuiltIn | Metric:
    """One metric."""
    if isinstance(value, (BuiltIn, Metric)):
        return value
    if isinstance(value, str):
        return _named(value) or _BY_NAME[_validate.choice("metrics", value, NAMES)]
    cure = ""
    if isinstance(value, type) and issubclass(value, BuiltIn):
        cure = f"; use bp.metrics.{value.__name__}()"
    elif callable(value):
        cure = "; for a function of your own use bp.metrics.Metric(f, better='higher'), or 'lower'"
    raise TypeError(
        f"metrics: expected a name or an object such as bp.metrics.F1(average='macro'), got {value!r}{cure}"
    )


def given(value: Any) -> bool:
    """Whether any metric is."""
    return not isinstance(value, (tuple, list, Mapping)) or bool(value)


def resolve(value: Any) -> list[BuiltIn | Metric]:
    """Metrics from one or a list of them."""
    metrics = [_resolve(item) for item in (value if isinstance(value, (list, tuple)) else (value,))]
    names = [metric.name for metric in metrics]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"metrics: expected each once, got {twice[0]} {names.count(twice[0])} times")
    return metrics


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric of an output's answers to known data.

    key: in what `evaluate` gives.  output: its number.  targets: what the metric has prepared; None: `evaluate` knows
    the value anyhow.
    """

    key: str
    metric: BuiltIn | Metric
    output: int
    targets: Any


def _prepared(where: str, metric: BuiltIn | Metric, truths: Truths) -> Any:
    """The targets, or an error that says where the metric was given."""
    try:
        return metric.prepare(truths)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def measures(metrics: Any, data: Data) -> list[Measure]:
    """Of one output the metrics, of several a dict of them by name; ValueError for those that do not fit the data."""
    several = len(data.names) > 1
    if several and not isinstance(metrics, Mapping):
        raise ValueError(
            f"metrics: expected a dict by output ({', '.join(data.names)}), such as "
            f"{{{data.names[0]!r}: ['accuracy']}}, got {metrics!r}"
        )
    by_name = metrics if isinstance(metrics, Mapping) else {data.names[0]: metrics}
    found = []
    for name, some in by_name.items():
        number = data.names.index(_validate.choice("metrics", name, data.names))
        where = f"metrics[{name!r}]" if several else "metrics"
        truths = _truth.of_data(data, number)
        for metric in resolve(some):
            known = isinstance(metric, Accuracy) and has_accuracy(data.losses[number].loss)
            targets = None if known else _prepared(where, metric, truths)
            found.append(Measure(f"{name}.{metric.name}" if several else str(metric.name), metric, number, targets))
    return found
