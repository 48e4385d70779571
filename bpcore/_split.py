"""validation_split of `fit`: rows that training leaves out, and on which it is validated."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpcore import _class_weights, _core, _validate
from bpcore._data import Data
from bpcore._layers import SPLIT


def split(value: Any, data: Data, seed: int) -> tuple[Data, Data]:
    """What to train on and what to validate on: rows of `data`, each in the order in which `data` has them.

    value: a share of the rows, drawn from the seed, in which each class has its share; or which rows.
    TypeError or ValueError for anything else, and where one of the two would have no rows, or only weights of 0.
    """
    if np.ndim(value) == 0:
        held = _drawn(_validate.real("validation_split", value, 0.0, 1.0, open_low=True, open_high=True), data, seed)
    else:
        held = _validate.rows("validation_split", value, data.n)
    is_held = np.zeros(data.n, bool)
    is_held[held] = True
    if is_held.sum() < len(held):
        raise ValueError("validation_split: expected each row once, got some several times")
    if not 0 < len(held) < data.n:
        raise ValueError(
            f"validation_split: expected rows to train on and rows to validate on, got {data.n - len(held)} and "
            f"{len(held)} of {data.n}"
        )
    parts = (np.flatnonzero(is_held == which) for which in (False, True))
    train, held_out = (data.at(part if data.rows is None else data.rows[part], "validation_split") for part in parts)
    return train, held_out


def _drawn(share: float, data: Data, seed: int) -> np.ndarray:
    """About n * share of the rows, at random: evenly spaced ones of a permutation that is sorted by class."""
    n = max(1, round(data.n * share))
    order = _core.permutation(data.n, seed, SPLIT, 0)
    classes = _class_weights.classes(data)
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    return order[((np.arange(n) + 0.5) * (data.n / n)).astype(np.int64)]
