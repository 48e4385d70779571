"""Arrays of sequences: windows of a long one, and several of any length in one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bpcore import _validate
from bpcore._words import worded

_MOST = 2**62


@worded
def windows(series: Any, length: int, horizon: int = 1, *, stride: int = 1, targets: Any = None) -> Any:
    """Windows of a series, and what follows each: X (n, length, features), y (n, horizon) or (n, horizon, features).

        X, y = bp.windows(temperature, 24, 3)     # X[i, :, 0] is temperature[i : i + 24], y[i] the 3 numbers after it

    Nothing is copied: both are read-only views of the series.
    series: (time,), which is one feature, or (time, features).
    horizon: how many steps y has; 0: X alone, the last window included, to predict what comes after the end.
    stride: from the beginning of a window to that of the next.
    targets: what y is taken from, (time,) or (time, features), at the same steps; the series unless given.
    y is (n, horizon) of targets (time,), else (n, horizon, features).
    Raises ValueError for a series that is shorter than length + horizon, or targets of another length.
    """
    checked = {"series": _series("series", series)}
    if targets is not None:
        checked["targets"] = _series("targets", targets)
        if len(checked["targets"]) != len(checked["series"]):
            counts = len(checked["series"]), len(checked["targets"])
            raise ValueError(f"targets: expected {counts[0]} time steps as in series, got {counts[1]}")
    length = _validate.integer("length", length, 1, _MOST)
    horizon = _validate.integer("horizon", horizon, 0, _MOST)
    stride = _validate.integer("stride", stride, 1, _MOST)
    n = len(checked["series"])
    if n < length + horizon:
        raise ValueError(f"series: expected at least length + horizon = {length + horizon} time steps, got {n}")
    last = n - length - horizon  # where the last window may begin
    x = checked["series"]
    X = _windows(x if x.ndim > 1 else x[:, None], length)[: last + 1 : stride]
    if horizon == 0:
        return X
    return X, _windows(checked.get("targets", x)[length:], horizon)[: last + 1 : stride]


def _series(name: str, value: Any) -> np.ndarray:
    a = _validate.array(name, value)
    if a.ndim not in (1, 2) or 0 in a.shape[1:]:
        raise ValueError(f"{name}: expected shape (time,) or (time, features), got {a.shape}")
    return a


def _windows(a: np.ndarray, length: int) -> np.ndarray:
    """(n, length, ...) of (time, ...), a read-only view."""
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(a, length, axis=0), -1, 1)


@worded
def pad(
    arrays: Sequence[Any], length: int | None = None, *, side: str = "right", value: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of any length in one array, and which of its steps are theirs: (n, length, ...) and mask (n, length).

        X, mask = bp.pad([[3, 1], [4, 1, 5]])     # [[3, 1, 0], [4, 1, 5]], [[True, True, False], [True, True, True]]

    The dtype is that of the arrays.  The mask is of bool; its sums, mask.sum(1), are the lengths.
    arrays: a list of (time, ...), which agree in all axes but the first.  length: that of the longest unless given.
    side: "right", padding follows the sequence, or "left", it comes before it.  value: what padding is filled with.
    Raises ValueError for a sequence longer than length, or arrays that do not agree.
    """
    if isinstance(arrays, (str, bytes)) or not isinstance(arrays, Sequence):
        raise TypeError(f"arrays: expected a list of arrays, got {type(arrays).__name__}")
    parts = [_validate.array(f"arrays[{i}]", a) for i, a in enumerate(arrays)]
    if not parts:
        raise ValueError("arrays: expected at least one")
    for i, a in enumerate(parts):
        if a.ndim == 0 or a.shape[1:] != parts[0].shape[1:]:
            wanted = ", ".join(map(str, ("time", *parts[0].shape[1:])))
            raise ValueError(f"arrays[{i}]: expected shape ({wanted}{',' * (parts[0].ndim < 2)}), got {a.shape}")
    longest = max(map(len, parts))
    length = max(longest, 1) if length is None else _validate.integer("length", length, 1, _MOST)
    if longest > length:
        raise ValueError(f"length: expected at least {longest}, the longest of arrays, got {length}; cut them first, "
                         f"[a[-{length}:] for a in arrays]")  # fmt: skip
    _validate.choice("side", side, ("right", "left"))
    dtype = np.result_type(*{a.dtype for a in parts if len(a)} or {parts[0].dtype})
    filling = _validate.real("value", value, -np.inf)
    if dtype.kind in "iub" and np.asarray(filling).astype(dtype) != filling:
        raise ValueError(f"value: expected a number that {dtype}, the dtype of arrays, can hold, got {value!r}")
    X = np.full((len(parts), length, *parts[0].shape[1:]), filling, dtype)
    mask = np.zeros(X.shape[:2], bool)
    for i, a in enumerate(parts):
        at = slice(0, len(a)) if side == "right" else slice(length - len(a), length)
        X[i, at], mask[i, at] = a, True
    return X, mask
