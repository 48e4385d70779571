"""Mean and scale of columns of the user's numbers, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpcore import _core

_BLOCK = 1 << 16  # numbers of the user's at a time: a signal is heard between blocks


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scale by column, (columns,) float64 each: of an input, or of an output's targets."""

    mean: np.ndarray
    scale: np.ndarray

    def __reduce__(self) -> Any:
        return _settled, (self.mean, self.scale)  # a pickle forgets that arrays are not to be written to

    def of_rows(self, numbers: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale of each number of a row, whose last axis they are."""
        positions = numbers // len(self.mean)
        return np.tile(self.mean, positions), np.tile(self.scale, positions)

    def read(self, array: np.ndarray) -> _core.Scaled:
        """Rows, read as (x - mean) / scale."""
        mean, scale = self.of_rows(math.prod(array.shape[1:]))
        return _core.Scaled(array, mean, 1 / scale)

    def written(self, array: np.ndarray) -> _core.Scaled:
        """Rows, written as mean + scale x."""
        return _core.Scaled(array, *self.of_rows(math.prod(array.shape[1:])))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """(x - mean) / scale, in float64."""
        return (x - self.mean) / self.scale

    def settled(self) -> Moments:
        """The same, never to change; ValueError for numbers that no data give."""
        mean, scale = (np.array(a, np.float64) for a in (self.mean, self.scale))
        with np.errstate(over="ignore", divide="ignore"):
            if not (np.isfinite(mean).all() and (scale > 0).all() and np.isfinite(scale).all()):
                raise ValueError("expected finite means, and finite scales above 0")
            if not np.isfinite(1 / scale).all() or (scale < np.finfo(float).tiny).any():
                raise ValueError("expected scales with an inverse")
        mean.flags.writeable = scale.flags.writeable = False
        return Moments(mean, scale)


def _settled(mean: np.ndarray, scale: np.ndarray) -> Moments:
    return Moments(mean, scale).settled()


def learn(array: Any, width: int, rows: np.ndarray | None, weight: np.ndarray | None, name: str) -> Moments:
    """Of `width` columns, the last axis of an array (n, ...), over these rows (None: all) and all positions.

    weight: (n,), or one for each position.  One pass: mean and sum of squares of a block in float64, joined with those
    so far (Chan, Golub and LeVeque 1983).  ValueError for what is not finite.
    """
    total = 0.0
    mean, squares = np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    n, most = len(array) if rows is None else len(rows), max(1, _BLOCK // math.prod(array.shape[1:]))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, n, most):
            part = slice(first, first + most)
            picked = part if rows is None else rows[part]
            x = np.asarray(array[picked], np.float64)
            w = None if weight is None else _by_position(np.asarray(weight[picked], np.float64), x.size // width)
            x = x.reshape(-1, width)
            if w is not None:
                x, w = x[w > 0], w[w > 0, None]
            if not len(x):
                continue
            share = float(len(x) if w is None else w.sum())
            own = (x if w is None else w * x).sum(0) / share
            d = x - own
            lost = (d if w is None else w * d).sum(0) / share  # to rounding, of a large mean
            around = (d * d if w is None else w * d * d).sum(0) - share * lost * lost
            apart, total = own + lost - mean, total + share
            mean += apart * (share / total)
            squares += around + apart * apart * (share * (total - share) / total)
            low, high = np.minimum(low, x.min(0)), np.maximum(high, x.max(0))
        scale = np.sqrt(np.maximum(squares, 0) / total)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        column = int(np.argmin(np.isfinite(mean) & np.isfinite(scale)))
        raise ValueError(
            f"{name}: expected finite numbers, whose squares float64 can hold, to learn mean and scale from; column "
            f"{column} has others"
        )
    constant = (high <= low) | (scale == 0)
    return Moments(np.where(high <= low, low, mean), np.where(constant, 1.0, scale)).settled()


def _by_position(weight: np.ndarray, n: int) -> np.ndarray:
    """Weights of rows, or of their positions, for n positions of all rows: (n,)."""
    if weight.size == n:
        return weight.reshape(n)
    if weight.ndim > 1:  # of positions of the output, and those of the input are others
        counts = (weight > 0).reshape(len(weight), -1).any(axis=1)
        return np.repeat(counts.astype(np.float64), n // len(weight))
    return np.repeat(weight, n // len(weight))
