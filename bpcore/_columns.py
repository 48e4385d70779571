"""What the values of one column of a data frame become: learnt from a frame, or read from a file.

Each column is a small frozen object; `_core.Encoder` does what it says, for a row or for many, so that a row has the
same bits alone and in a frame.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from bpcore import _core, _errors, _frames, _moments, _validate
from bpcore._frames import BOOLEANS, DATES, INTEGERS, NOTHING, NUMBERS, STRINGS, TYPES

_PERIODS = {"month": 12, "day": 31, "weekday": 7, "hour": 24}  # parts of a date that come again
_FEW = 10  # whole numbers of so many values are categories, where each is there as often
_KNOTS = 256
_LONE = 50  # strings of which hardly one comes twice, from so many on, are said
_NO_DATE = np.iinfo(np.int64).min


class Described:
    """What a file has of a column or a target: its kind and its fields."""

    kind: ClassVar[str]

    def described(self) -> dict[str, Any]:
        """As JSON can keep it."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in _names(self)}}


def _names(column: Any) -> list[str]:
    return [field.name for field in fields(column)]


@dataclass(frozen=True)
class Number(Described):
    """x, or a part of a date, as (x - center) / scale, or by the method's curve; gaps as `fill`, and with indicator a 1
    in a number of its own.  knots, heights: of the quantiles' curve."""

    name: str
    method: str
    center: float
    scale: float
    fill: float
    indicator: bool
    part: str | None = None
    knots: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()
    kind: ClassVar[str] = "number"

    def check(self) -> None:
        """ValueError for what no frame gives."""
        _validate.choice("method", self.method, _core.TABLE_METHODS)
        _flags(self.indicator)
        if self.part not in (None, "days", "year"):
            raise ValueError(f"part: {self.part!r}")
        _real(self.center, self.fill, self.scale, *self.knots, *self.heights)
        if not self.scale > 0 or not math.isfinite(1 / self.scale):
            raise ValueError("expected scales above 0")
        rising = all(a < b for a, b in zip(self.knots, self.knots[1:], strict=False))
        if not rising or len(self.knots) != len(self.heights) or bool(self.knots) != (self.method == "quantile"):
            raise ValueError("expected knots that rise, of a quantile curve")
        if self.knots:
            _real(self.knots[-1] - self.knots[0])

    def read(self, where: str, got: _frames.Values, refuse: bool) -> np.ndarray:
        """Values of a frame, as the encoder takes them; refuse: no gaps."""
        x = _frames.as_dates(where, got) if self.part else _frames.as_numbers(where, got)
        if refuse:
            refuse_gaps(where, x)
        return x

    @property
    def features(self) -> list[str]:
        """What each of its numbers is called."""
        own = f"{self.name}.{self.part}" if self.part else self.name
        return [own, f"{own} is missing"] if self.indicator else [own]

    def encoding(self, place: int, slot: int, first: int) -> _core.Encoding:
        """What C does with a value; place: of its first number; slot, first: of its codes."""
        return _core.Encoding(
            self.name, place, method=_core.TABLE_METHODS[self.method],
            part=_core.TABLE_PARTS[self.part] if self.part else -1, indicator=place + 1 if self.indicator else -1,
            fill=self.fill, center=self.center, scale=self.scale, knots=self.knots, heights=self.heights,
        )  # fmt: skip


@dataclass(frozen=True)
class Cycle(Described):
    """A part of a date that comes again, as sine and cosine; (0, 0) for a gap."""

    name: str
    part: str
    kind: ClassVar[str] = "cycle"

    def check(self) -> None:
        """See Number."""
        _validate.choice("part", self.part, _PERIODS)

    def read(self, where: str, got: _frames.Values, refuse: bool) -> np.ndarray:
        """See Number."""
        us = _frames.as_dates(where, got)
        if refuse:
            refuse_gaps(where, us)
        return us

    @property
    def features(self) -> list[str]:
        """See Number."""
        return [f"sin {self.name}.{self.part}", f"cos {self.name}.{self.part}"]

    def encoding(self, place: int, slot: int, first: int) -> _core.Encoding:
        """See Number."""
        n = _PERIODS[self.part]
        angles = [2 * math.pi * k / n for k in range(n)]
        cycle = np.array([(math.sin(angle), math.cos(angle)) for angle in angles])
        return _core.Encoding(self.name, place, part=_core.TABLE_PARTS[self.part], cycle=cycle)


@dataclass(frozen=True)
class Category(Described):
    """One of the levels: a 1 in a number of its own, or embedded a code.

    missing, unknown: whether the frame had gaps, and levels that were too rare.  One-hot, these have a number of their
    own; a gap or a level that training never saw is zeros.  Embedded, codes are 0 for unknown, 1 for gaps, then levels.
    """

    name: str
    of: str
    levels: tuple[Any, ...]
    missing: bool
    unknown: bool
    embedded: bool
    kind: ClassVar[str] = "category"

    def check(self) -> None:
        """See Number."""
        _levels(self.of, self.levels)
        _flags(self.missing, self.unknown, self.embedded)

    def read(self, where: str, got: _frames.Values, refuse: bool) -> list[Any]:
        """See Number; gaps are a level like others."""
        return _frames.as_levels(where, got, self.of)

    @property
    def features(self) -> list[str]:
        """See Number."""
        more = ["is missing"] * self.missing + ["is another"] * self.unknown
        words = [*(f"= {each}" for each in self.levels), *more]
        return [] if self.embedded else [f"{self.name} {word}" for word in words]

    @property
    def codes(self) -> int:
        """How many codes it has, where it is embedded."""
        return (2 + len(self.levels)) * self.embedded

    def encoding(self, place: int, slot: int, first: int) -> _core.Encoding:
        """See Number."""
        kind = TYPES[self.of]
        if self.embedded:
            levels = {level: first + 2 + i for i, level in enumerate(self.levels)}
            return _core.Encoding(
                self.name, place, levels=levels, type=kind, slot=slot, unknown=first, missing=first + 1
            )
        levels = {level: place + i for i, level in enumerate(self.levels)}
        end = place + len(levels)
        missing, unknown = end if self.missing else -1, end + self.missing if self.unknown else -1
        return _core.Encoding(self.name, place, levels=levels, type=kind, missing=missing, unknown=unknown)


@dataclass(frozen=True)
class Classes(Described):
    """A target that is one of the levels, which are numbered in their order."""

    name: str
    of: str
    levels: tuple[Any, ...]
    kind: ClassVar[str] = "classes"

    def check(self) -> None:
        """See Number."""
        _levels(self.of, self.levels)
        if len(self.levels) < 2:
            raise ValueError(f"expected two classes or more, got {len(self.levels)}")

    def read(self, name: str, got: _frames.Values) -> np.ndarray:
        """The number of each class, (n,) int64; ValueError for others."""
        numbers = {level: number for number, level in enumerate(self.levels)}
        codes = np.empty(len(got.data), np.int64)
        for row, level in enumerate(_frames.as_levels(name, got, self.of)):
            if level is None:
                raise ValueError(f"{name}: expected a class in each row, row {row} has none; leave such rows out")
            if level not in numbers:
                known = _validate._listed(self.levels)
                raise ValueError(f"{name}: expected the classes that the table knows, {known}; row {row} is {level!r}")
            codes[row] = numbers[level]
        return codes


@dataclass(frozen=True)
class Amount(Described):
    """A target that is a number; mean and standard deviation, by which the network standardises it."""

    name: str
    mean: float
    scale: float
    kind: ClassVar[str] = "amount"

    def check(self) -> None:
        """See Number."""
        _real(self.mean, self.scale)
        if not self.scale >= np.finfo(float).tiny or not math.isfinite(1 / self.scale):
            raise ValueError("expected scales above 0")

    def read(self, name: str, got: _frames.Values) -> np.ndarray:
        """(n,) float64; ValueError for gaps."""
        return _whole(name, _frames.as_numbers(name, got))


COLUMNS: dict[str, Any] = {kind.kind: kind for kind in (Number, Cycle, Category)}
TARGETS: dict[str, Any] = {kind.kind: kind for kind in (Classes, Amount)}


def _flags(*values: Any) -> None:
    if not all(type(value) is bool for value in values):
        raise ValueError("expected true or false")


def _real(*values: Any) -> None:
    if not all(type(value) is float and math.isfinite(value) for value in values):
        raise ValueError("expected finite numbers")


def _levels(of: Any, levels: tuple[Any, ...]) -> None:
    kind = TYPES[_validate.choice("of", of, TYPES)]
    if not all(type(level) is kind for level in levels) or len(set(levels)) < len(levels):
        raise ValueError(f"levels: expected {of}, each once")
    if kind is float:
        _real(*levels)


def _gap(where: str, row: int) -> ValueError:
    return ValueError(
        f"{where}: expected no gaps, as missing='refuse' says, and row {row} is one; give bp.Table missing='indicator'"
    )


def refuse_gaps(where: str, values: np.ndarray) -> None:
    gaps = np.isnan(values) if values.dtype.kind == "f" else values == _NO_DATE
    if gaps.any():
        raise _gap(where, int(gaps.argmax()))


def _whole(name: str, numbers: np.ndarray) -> np.ndarray:
    """Targets without gaps."""
    if np.isnan(numbers).any():
        row = int(np.isnan(numbers).argmax())
        raise ValueError(f"{name}: expected a number in each row, row {row} has none; leave such rows out")
    return numbers


# ---- learning ----


def learn(
    where: str, name: str, got: _frames.Values, kind: str, *, numbers: str, dates: Sequence[str], one_hot: int,
    min_count: int, refuse: bool,
) -> list[Any]:  # fmt: skip
    """What a frame's column, taken for this kind, becomes: a date as many as it has parts."""
    if kind == "category":
        return [_category(where, name, got, one_hot, min_count)]
    if kind == "date":
        return _date(where, name, _frames.as_dates(where, got), dates, numbers, refuse)
    return [_number(where, name, _frames.as_numbers(where, got), numbers, refuse)]


def learn_target(where: str, name: str, got: _frames.Values, kind: str) -> Classes | Amount:
    """The same for what is to be predicted."""
    return _classes(where, name, got) if kind == "category" else _amount(where, name, got)


def _are_dates(items: Sequence[str | None]) -> bool:
    """Whether all of the first strings begin with a date of ISO 8601."""
    first = [item for item in items[:1000] if item is not None][:50]
    return bool(first) and all(re.match(r"\d{4}-\d\d-\d\d(?!\d)", item) for item in first)


def kind_of(where: str, name: str, got: _frames.Values) -> str:
    """What a column is taken for."""
    if got.kind == NOTHING:
        raise ValueError(f"{where}: expected values, and it has only gaps; leave it out, kinds={{{name!r}: 'skip'}}")
    if got.is_category or got.kind in (STRINGS, BOOLEANS):
        if got.kind == STRINGS and not got.is_category and _are_dates(got.data):
            _errors.warn(
                f"{where} has strings that are dates, taken as levels of a category; "
                f"kinds={{{name!r}: 'date'}} makes numbers of them"
            )
        return "category"
    if got.kind == DATES:
        return "date"
    if got.kind == INTEGERS:
        distinct = set(_frames.as_levels(where, got, INTEGERS)) - {None}
        return "category" if len(distinct) <= min(_FEW, len(got.data) // _FEW) else "number"
    return "number"


def _number(where: str, name: str, x: np.ndarray, method: str, refuse: bool, part: str | None = None) -> Number:
    """Of numbers that a frame has."""
    if refuse:
        refuse_gaps(where, x)
    known = x[~np.isnan(x)]
    if not len(known):
        raise ValueError(f"{where}: expected values, and it has only gaps; leave it out, kinds={{{name!r}: 'skip'}}")
    center, scale = 0.0, 1.0
    knots: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()
    with np.errstate(over="ignore", invalid="ignore"):
        low, q25, median, q75, high = map(float, np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
        if method == "standard":
            center, scale = float(known.mean()), float(known.std()) if high > low else 1.0
        elif method == "robust":
            center, scale = median, q75 - q25 if q75 > q25 else (high - low) / 2 if high > low else 1.0
        elif method == "quantile":
            knots, heights = _curve(known)
    number = Number(name, method, center, scale, median, len(known) < len(x), part, knots, heights)
    try:
        number.check()
        _real(high - low)
    except ValueError:
        words = f"expected numbers whose range and scale float64 can hold, got {low} to {high}"
        raise ValueError(f"{where}: {words}") from None
    return number


def _curve(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Quantiles, each once, and the normally distributed number at each."""
    from scipy.special import ndtri

    n = min(_KNOTS, len(x))
    levels = (np.arange(n) + 0.5) / n
    knots, where = np.unique(np.quantile(x, np.arange(n) / max(1, n - 1)), return_inverse=True)
    means = np.bincount(where, levels) / np.bincount(where)
    return tuple(knots.tolist()), tuple(np.asarray(ndtri(means), np.float64).tolist())


def _date(where: str, name: str, us: np.ndarray, parts: Sequence[str], method: str, refuse: bool) -> list[Any]:
    """Each part that counts."""
    if refuse:
        refuse_gaps(where, us)
    known, years = us != _NO_DATE, us.astype("M8[us]").astype("M8[Y]").astype(np.int64) + 1970
    of = {"days": us / 86_400_000_000, "year": years.astype(np.float64)}
    learnt: list[Any] = []
    for part in parts:
        if part in _PERIODS:
            learnt.append(Cycle(name, part))
        else:
            learnt.append(_number(where, name, np.where(known, of[part], np.nan), method, refuse, part))
    return learnt


def _found(where: str, got: _frames.Values) -> tuple[str, Counter[Any]]:
    """The kind of the levels of a column, and how often each comes, None for gaps."""
    of = got.kind
    if of == NUMBERS and (np.isnan(got.data) | (got.data == np.floor(got.data))).all():
        of = INTEGERS  # with gaps they come as floats
    if of not in TYPES:
        raise TypeError(
            f"{where}: expected categories to be strings, numbers or booleans, got {of}; make strings of it"
        )
    return of, Counter(_frames.as_levels(where, got, of))


def _category(where: str, name: str, got: _frames.Values, one_hot: int, min_count: int) -> Category:
    of, counts = _found(where, got)
    gaps = counts.pop(None, 0)
    levels = sorted(level for level, count in counts.items() if count >= min_count)
    if of == STRINGS and len(got.data) >= _LONE and len(levels) > 0.5 * len(got.data):
        _errors.warn(
            f"{where} has {len(levels)} different strings in {len(got.data)} rows, which the network's file will have; "
            f"leave it out, kinds={{{name!r}: 'skip'}}, or fold the rare ones, min_count=5"
        )
    return Category(name, of, tuple(levels), gaps > 0, len(levels) < len(counts), len(levels) > one_hot)


def _classes(where: str, name: str, got: _frames.Values) -> Classes:
    of, counts = _found(where, got)
    if counts.pop(None, 0):
        raise ValueError(f"{where}: expected a class in each row, and some have none; leave such rows out")
    target = Classes(name, of, tuple(sorted(counts)))
    if len(target.levels) < 2:
        raise ValueError(f"{where}: expected two classes or more, got {_validate._listed(target.levels)}")
    return target


def _amount(where: str, name: str, got: _frames.Values) -> Amount:
    y = _whole(where, _frames.as_numbers(where, got))
    own = _moments.learn(y[:, None], 1, None, None, where)
    return Amount(name, float(own.mean[0]), float(own.scale[0]))


def made(value: Any, kinds: Mapping[str, Any]) -> Any:
    """One column, checked."""
    if not isinstance(value, dict) or value.get("kind") not in list(kinds):
        raise ValueError(f"expected one of {', '.join(kinds)}")
    kind = kinds[value["kind"]]
    given = {name: tuple(each) if isinstance(each, list) else each for name, each in value.items() if name != "kind"}
    if set(given) != set(_names(kind)) or not isinstance(given["name"], str):
        raise ValueError(f"expected the keys {', '.join(_names(kind))}")
    for name in {"levels", "knots", "heights"} & set(given):
        if not isinstance(given[name], tuple):
            raise ValueError(f"{name}: expected a list")
    column = kind(**given)
    column.check()
    return column
