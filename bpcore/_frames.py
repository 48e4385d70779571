"""Columns of data frames, whoever made them, as arrays and lists of Python's own values."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bpcore import _validate

NUMBERS, INTEGERS, BOOLEANS, STRINGS = "numbers", "integers", "booleans", "strings"
DATES, NOTHING = "dates", "only gaps"
TYPES: dict[str, type] = {NUMBERS: float, INTEGERS: int, BOOLEANS: bool, STRINGS: str}  # of levels
_GAP = "a gap"
_FINER = ("us", "ns", "ps", "fs", "as")  # units of dates that microseconds reach
_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((bool, np.bool_), BOOLEANS),
    ((int, np.integer), INTEGERS),
    ((float, np.floating), NUMBERS),
    ((str,), STRINGS),
    ((datetime.date, np.datetime64), DATES),  # a datetime is a date
    ((type(None),), _GAP),
)


class Values(NamedTuple):
    """A column: numbers float64 with NaN for gaps, dates int64 microseconds since 1970 (UTC) with the lowest for gaps,
    whole numbers an array or a list, else lists, with None for gaps.  is_category: whether its dtype says so."""

    kind: str
    data: Any
    is_category: bool = False


def columns(name: str, frame: Any) -> Mapping[str, Any]:
    """The columns by name of a pandas, polars or pyarrow table, a structured array, a dict of columns, or a list of
    rows that are dicts; TypeError for what is none, ValueError for two columns of one name."""
    pairs: list[tuple[Any, Any]] | None = None
    with _validate.foreign(name, frame):
        if isinstance(frame, (list, tuple)) and frame and all(isinstance(row, Mapping) for row in frame):
            keys = dict.fromkeys(key for row in frame for key in row)
            pairs = [(key, [row.get(key) for row in frame]) for key in keys]
        elif isinstance(frame, Mapping):
            pairs = list(frame.items())
        elif getattr(getattr(frame, "dtype", None), "names", None):
            pairs = [(each, frame[each]) for each in frame.dtype.names]
        elif hasattr(frame, "column_names") and hasattr(frame, "column"):
            pairs = [(each, frame.column(i)) for i, each in enumerate(frame.column_names)]
        elif hasattr(frame, "columns") and hasattr(frame, "__getitem__") and not isinstance(frame, np.ndarray):
            names = list(frame.columns)
            pairs = [(each, frame[each] if names.count(each) == 1 else None) for each in names]
    if pairs is None:
        raise TypeError(
            f"{name}: expected a data frame (pandas, polars, pyarrow), a dict of columns by name or a list of "
            f"dicts, got {type(frame).__name__}"
        )
    for each, count in Counter(key for key, _ in pairs).items():
        if not isinstance(each, str):
            raise TypeError(f"{name}: expected names of columns to be strings, got {each!r}; rename them")
        if count > 1:
            raise ValueError(f"{name}: expected each column once, and {count} are called {each!r}; rename them")
    return dict(pairs)


def values(where: str, column: Any) -> Values:
    """A column's values; TypeError or ValueError for what is no column, or has values of several kinds."""
    got = _values(where, column)
    if got.kind == NUMBERS and (not len(got.data) or got.data[0] != got.data[0]) and np.isnan(got.data).all():
        return Values(NOTHING, [None] * len(got.data))
    return Values(NOTHING, []) if not len(got.data) else got


def _values(where: str, column: Any) -> Values:
    """The same, of a column of gaps alone whatever its dtype says."""
    with _validate.foreign(where, column):
        kind = str(getattr(column, "dtype", getattr(column, "type", ""))).lower()
        is_category = kind.startswith(("category", "categorical", "enum", "dictionary"))
        if kind.startswith("dictionary") and hasattr(column, "to_pylist"):  # whose to_numpy() has no gaps
            column = column.to_pylist()
        a = column if type(column) is np.ndarray else _array(column)
    if a.ndim != 1:
        raise ValueError(f"{where}: expected a column (n,), got shape {a.shape}")
    if a.dtype.kind == "f":
        return Values(NUMBERS, a.astype(np.float64), is_category)
    if a.dtype.kind in "iu":
        return Values(INTEGERS, a, is_category)
    if a.dtype.kind in "bU":
        return Values(BOOLEANS if a.dtype.kind == "b" else STRINGS, a.tolist(), is_category)
    if a.dtype.kind == "M":
        moments = a.astype("M8[us]")
        if (moments.astype(a.dtype) != a)[~np.isnat(a)].any() and np.datetime_data(a.dtype)[0] not in _FINER:
            raise ValueError(f"{where}: expected dates within 290,000 years of 1970")
        return Values(DATES, moments.astype(np.int64))
    if a.dtype.kind not in "OT":
        cure = "; use seconds, .dt.total_seconds()" if a.dtype.kind == "m" else ""
        raise TypeError(f"{where}: expected numbers, strings, booleans or dates, got dtype {a.dtype}{cure}")
    return _of_objects(where, a.tolist())._replace(is_category=is_category)


def _array(column: Any) -> np.ndarray:
    """What NumPy makes of a column, nothing of it converted."""
    if isinstance(column, (list, tuple)):
        a = np.empty(len(column), object)
        a[:] = column
        return a
    a = column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)
    return np.asarray(a)


def _kind_of(kind: type) -> str | None:
    """Of values of a type."""
    if kind.__name__ in ("NAType", "NaTType"):  # pandas's gaps
        return _GAP
    if kind.__name__ == "Decimal":
        return NUMBERS
    return next((name for types, name in _KINDS if issubclass(kind, types)), None)


def _of_objects(where: str, items: list[Any]) -> Values:
    """Of any values."""
    of = {kind: _kind_of(kind) for kind in {type(None), *map(type, items)}}
    if None in of.values():
        row = next(i for i, item in enumerate(items) if of[type(item)] is None)
        raise TypeError(
            f"{where}: expected numbers, strings, booleans or dates, got {type(items[row]).__name__} in row {row}"
        )
    gaps = {kind for kind, name in of.items() if name == _GAP}
    kinds = set(of.values()) - {_GAP}
    if NUMBERS in kinds and kinds - {NUMBERS, INTEGERS}:  # as gaps between others
        items = [None if of[type(item)] == NUMBERS and item != item else item for item in items]
        if not any(of[type(item)] == NUMBERS for item in items):
            kinds.discard(NUMBERS)
    if kinds == {NUMBERS, INTEGERS}:
        kinds = {NUMBERS}
    if len(kinds) > 1:
        several = " and ".join(sorted(str(kind) for kind in kinds))
        raise TypeError(f"{where}: expected values of one kind, got {several}; make strings of them")
    if not kinds:
        return Values(NOTHING, [None] * len(items))
    kind = kinds.pop()
    if gaps:
        items = [None if type(item) in gaps else item for item in items]
    try:
        if kind == NUMBERS:
            return Values(kind, np.array([np.nan if item is None else float(item) for item in items]))
        if kind == DATES:
            return Values(kind, np.array([_naive(item) for item in items], "M8[us]").astype(np.int64))
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{where}: expected {kind} that can be held: {error}") from None
    make = TYPES[str(kind)]
    return Values(str(kind), [None if item is None else make(item) for item in items])


def _naive(moment: Any) -> Any:
    """A date or time in UTC, which NumPy has it in."""
    if getattr(moment, "tzinfo", None) is not None:
        return moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return moment


# ---- what a table learnt of a column, and what comes ----


def as_numbers(where: str, got: Values) -> np.ndarray:
    """(n,) float64, NaN for gaps; TypeError where they are no numbers, ValueError for infinity."""
    if got.kind == NUMBERS:
        numbers: np.ndarray = got.data
    elif isinstance(got.data, np.ndarray) and got.kind == INTEGERS:
        numbers = got.data.astype(np.float64)
    elif got.kind in (INTEGERS, BOOLEANS, NOTHING):
        try:
            numbers = np.array([np.nan if item is None else item for item in got.data], np.float64)
        except OverflowError:
            raise ValueError(f"{where}: expected finite numbers, got one beyond float64") from None
    else:
        raise _other(where, "numbers", got.kind, ".astype(float)")
    if np.isinf(numbers).any():
        row = int(np.isinf(numbers).argmax())
        raise ValueError(f"{where}: expected finite numbers, or NaN for a gap; row {row} is infinite")
    return numbers


def as_dates(where: str, got: Values) -> np.ndarray:
    """(n,) int64, microseconds since 1970; strings are read as ISO 8601."""
    if got.kind == NOTHING:
        return np.full(len(got.data), np.iinfo(np.int64).min)
    if got.kind == STRINGS:
        try:
            moments = [None if item is None else _naive(datetime.datetime.fromisoformat(item)) for item in got.data]
        except (OverflowError, ValueError) as error:
            raise ValueError(f"{where}: expected dates, or strings as in ISO 8601, '2026-01-31': {error}") from None
        return np.array(moments, "M8[us]").astype(np.int64)
    if got.kind != DATES:
        raise _other(where, "dates", got.kind, "")
    return np.asarray(got.data)


def as_levels(where: str, got: Values, of: str) -> list[Any]:
    """Values of the kind `of`, None for gaps; whole numbers are as good with a point, and 0 and 1 as booleans."""
    data = got.data
    if isinstance(data, np.ndarray) and got.kind == INTEGERS:
        data = data.tolist()
    if got.kind == NOTHING:
        return list(data)
    if of in (INTEGERS, BOOLEANS) and got.kind == NUMBERS:
        whole = np.isnan(data) | (data == np.floor(data))
        if whole.all():
            return [None if item != item else int(item) for item in data.tolist()]
    if of == NUMBERS and got.kind in (NUMBERS, INTEGERS):
        data = data.tolist() if got.kind == NUMBERS else data
        return [None if item is None or item != item else float(item) for item in data]
    if got.kind != of and not (of == BOOLEANS and got.kind == INTEGERS):
        raise _other(where, of, got.kind, {STRINGS: ".astype(str)"}.get(of, ""))
    return list(data)


def _other(where: str, expected: str, got: str, cure: str) -> TypeError:
    words = f"; use {cure}" if cure else ""
    return TypeError(f"{where}: expected {expected}, as the table learnt them, got {got}{words}")
