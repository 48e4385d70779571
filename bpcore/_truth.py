"""What answers are measured against: y and its weights, as classes, as labels or as numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpcore import _validate
from bpcore._losses import BuiltIn, Quantile

CLASSES, LABELS, NUMBERS = "classes", "labels", "numbers"
_BLOCK = 1 << 15  # numbers that are looked at together
_PROBABILITIES = ("softmax", "logistic", "hard_sigmoid")


@dataclass(frozen=True, eq=False)
class Truth:
    """N examples, each position of an output being one; those of weight 0 are left out.

    kind: CLASSES, y (N,) is one of n classes; LABELS, y (N, n) says yes or no; NUMBERS, y (N, n).
    weight: (N,) float64; None: all 1.  kept: (all,) bool, which have a weight above 0; None: all.
    first: column of an answer where the n that are read begin.  threshold: an answer of one column for two classes, or
    for a label, means yes from here on.  shares: (N, n), or (N, 1) for two classes, where y are shares of classes
    instead of classes.  probabilities: whether answers are probabilities; None: unknown.
    """

    kind: str
    y: np.ndarray
    n: int
    weight: np.ndarray | None
    kept: np.ndarray | None
    first: int = 0
    threshold: float = 0.5
    shares: np.ndarray | None = None
    probabilities: bool | None = None

    @functools.cached_property
    def total(self) -> float:
        """The sum of the weights."""
        return float(len(self.y) if self.weight is None else self.weight.sum())

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs (examples, ...) say of these examples: (N, columns)."""
        a = outputs.reshape(-1, outputs.shape[-1])
        if self.kind == NUMBERS:
            a = a[:, self.first : self.first + self.n]
        return a if self.kept is None else a[self.kept]

    def blocks(
        self, a: np.ndarray, y: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """y, or what else is given of the examples, answers and weights of some at a time."""
        y = self.y if y is None else y
        for part in _parts(a):
            yield y[part], a[part], None if self.weight is None else self.weight[part]

    def mean(self, a: np.ndarray, error: Any) -> np.ndarray:
        """Weighted means over the examples of error(y, answers), both (rows, k) in float64: (k,)."""
        total: Any = 0.0
        for y, answers, w in self.blocks(a):
            e = error(y.astype(np.float64), answers.astype(np.float64))
            total = total + np.ascontiguousarray((e if w is None else e * w[:, None]).T).sum(axis=1)
        return total / self.total


class Truths:
    """y of one output and its weights, read as a metric wants it.

    y: (n, ...).  shape: of an answer, (*positions, columns).  weight: None, (n,) or (n, *positions).
    labelled: y are class labels.  exclusive: the columns of an answer are classes of which one is right.
    shares: y may lie between 0 and 1, as its loss has checked.  signs: y are -1 or 1.  probabilities: see Truth.
    loss: a loss that may read several outputs for each target.
    """

    def __init__(
        self, y: np.ndarray, shape: tuple[int, ...], weight: np.ndarray | None, *, labelled: bool,
        exclusive: bool = False, shares: bool = False, signs: bool = False, probabilities: bool | None = None,
        loss: Any = None,
    ) -> None:  # fmt: skip
        self.y, self.shape, self.weight, self.loss = y, shape, weight, loss
        self.labelled, self.exclusive, self.shares, self.signs = labelled, exclusive, shares, signs
        self.probabilities = probabilities
        self._classes: Truth | None = None  # once a metric has asked

    @functools.cached_property
    def _weights(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Those above 0, by position, and where they are; weights of positions count alike for all examples."""
        if self.weight is None:
            return None, None
        n, positions = len(self.y), math.prod(self.shape[:-1])
        w = np.asarray(self.weight, np.float64)
        if w.ndim == 1:
            w = np.repeat(w, positions)
        else:
            w = w.reshape(n, positions)
            sums = w.sum(axis=1, keepdims=True)
            w = np.divide(w, sums, out=np.zeros_like(w), where=sums > 0).reshape(-1)
        kept = w > 0
        return (w, None) if kept.all() else (w[kept], kept)

    def _of(self, array: np.ndarray) -> np.ndarray:
        kept = self._weights[1]
        return array if kept is None else array[kept]

    def _truth(self, kind: str, y: np.ndarray, n: int, **settings: Any) -> Truth:
        return Truth(kind, y, n, *self._weights, probabilities=self.probabilities, **settings)

    def _rows(self, name: str, parts: int = 1) -> np.ndarray:
        """y as (N, columns of an answer / parts), of weights above 0."""
        columns = self.shape[-1] // parts
        if self.labelled or self.y.size != len(self.y) * math.prod(self.shape[:-1]) * columns:
            what = "class labels" if self.labelled else f"of shape {self.y.shape[1:]} for outputs of {self.shape}"
            raise ValueError(
                f"{name} wants a number for each output, and the targets are {what}; for classes there are "
                "accuracy, log_loss and others"
            )
        return self._of(self.y.reshape(-1, columns))

    def numbers(self, name: str, level: float) -> Truth:
        """As numbers; of several quantiles those of this level, of a mean and a variance the means."""
        loss, parts, part = self.loss, 1, 0
        if isinstance(loss, BuiltIn):
            parts = loss.parts
        if isinstance(loss, Quantile) and parts > 1:
            if level not in loss.numbers:
                known = ", ".join(f"{q:g}" for q in loss.numbers)
                raise ValueError(f"{name} reads the quantile {level:g}, and the outputs are those of {known}")
            part = loss.numbers.index(level)
        y = self._rows(name, parts)
        return self._truth(NUMBERS, y, y.shape[1], first=part * y.shape[1])

    def classes(self, name: str) -> Truth:
        """As classes or labels."""
        if self._classes is None:
            self._classes = self._labelled(name) if self.labelled else self._chosen(name)
        return self._classes

    def _labelled(self, name: str) -> Truth:
        """Which class, as they are."""
        truth = self._truth(CLASSES, self._of(self.y.reshape(-1)).astype(np.intp), self.shape[-1])
        if truth.y.min() < 0 or truth.y.max() >= truth.n:
            got = f"{truth.y.min()} to {truth.y.max()}"
            raise ValueError(f"{name} expects classes from 0 to {truth.n - 1}, and the targets are {got}")
        return truth

    def _chosen(self, name: str) -> Truth:
        """The largest of a row, or what is on the right side of 1/2."""
        if isinstance(self.loss, BuiltIn) and self.loss.parts > 1:
            raise ValueError(f"{name} is for classes, and the loss {self.loss.name} for numbers")
        y = self._rows(name)
        n = y.shape[1]
        certain = True
        exclusive = self.exclusive and n > 1
        chosen = np.empty(len(y) if exclusive else y.shape, np.intp if exclusive else bool)
        for part in _parts(y):
            rows = y[part]
            wrong = (rows != (-1 if self.signs else 0)) & (rows != 1)
            if exclusive:
                wrong |= (rows.sum(axis=1) != 1)[:, None]
            if wrong.any() and not self.shares:
                more = ", for more than two classes outputs (n, classes)" if n == 1 and y.dtype.kind in "iu" else ""
                raise ValueError(
                    f"{name} is for classes, and the targets are numbers such as {rows[wrong][0]}; for "
                    f"numbers there are mae, rmse, mape, r2 and pinball{more}"
                )
            certain = certain and not wrong.any()
            chosen[part] = rows.argmax(axis=1) if exclusive else rows >= (0 if self.signs else 0.5)
        shares = None if certain else y
        threshold = 0.0 if self.signs else 0.5
        if exclusive:
            return self._truth(CLASSES, chosen, n, shares=shares)
        if n == 1:
            return self._truth(CLASSES, chosen[:, 0].astype(np.intp), 2, threshold=threshold, shares=shares)
        return self._truth(LABELS, chosen, n, threshold=threshold, shares=shares)


def _parts(array: np.ndarray) -> Iterator[slice]:
    """Some rows at a time."""
    step = max(1, _BLOCK // max(1, array.shape[1]))
    for first in range(0, len(array), step):
        yield slice(first, first + step)


def of_data(data: Any, number: int) -> Truths:
    """Of an output of a _data.Data."""
    target, loss, node = data.targets[number], data.losses[number].loss, data.outputs[number]
    y, weight, shape = target.array, data.weight, node.shape
    if data.rows is not None:
        y, weight = y[data.rows], None if weight is None else weight[data.rows]
    activation = getattr(node.layer, "activation", None)
    known = loss if isinstance(loss, BuiltIn) else None
    return Truths(
        y.reshape(len(y), *target.shape),
        shape,
        weight,
        labelled=target.is_integer
        and target.shape == shape[:-1]
        and (shape[-1] > 1 or (known is not None and known.takes_classes)),
        exclusive=activation == "softmax" or (known is not None and known.y_sums_to_1),
        shares=known is not None and not known.y_is_a_sign and (known.y_sums_to_1 or known.has_accuracy),
        signs=known is not None and known.y_is_a_sign,
        probabilities=activation in _PROBABILITIES if isinstance(activation, str) else None,
        loss=loss,
    )


def given(y: Any, a: Any, sample_weight: Any, of_numbers: bool) -> tuple[Truths, np.ndarray]:
    """Of arrays, and the answers as (n, ..., columns); of_numbers: whether y are numbers, not classes."""
    a = _validate.array("a", a)
    if a.ndim == 0 or a.size == 0:
        raise ValueError(f"a: expected answers (n, columns) or (n,), got shape {a.shape}")
    a = a.astype(np.float64) if a.dtype.kind != "f" else a
    a = a[:, None] if a.ndim == 1 else a
    shape, f8 = a.shape[1:], np.dtype(np.float64)
    y = _validate.array("y", y)
    if y.ndim == 0 or len(y) != len(a):
        raise ValueError(f"y: expected {len(a)} rows as in a, got shape {y.shape}")
    classes = not of_numbers and shape[-1] > 1
    target = _validate.target(
        y, len(a), shape, f8, classes=classes, low=-math.inf, high=math.inf, sums_to_1="", signs=""
    )
    weight = _validate.weights(sample_weight, len(a), shape[:-1], f8)
    return Truths(target.array, shape, weight, labelled=target.is_integer), a
