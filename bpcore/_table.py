"""How the columns of a data frame become numbers: learnt from a frame, and kept in a network's file."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _core, _validate
from bpcore._words import Worded, did_you_mean

if TYPE_CHECKING:
    from bpcore._columns import Amount, Category, Classes

# _columns and _frames are imported where a table is at work: `import bpcore` does without

_KINDS = ("number", "category", "date", "skip")
_BLOCK = 4096  # rows that are converted together
_EPOCH, _MICROSECOND = datetime.datetime(1970, 1, 1), datetime.timedelta(microseconds=1)


class Converted(dict[str, np.ndarray]):
    """What Table.transform gives: a network of the table takes it as it is."""


class Table(Worded):
    """How the columns of a data frame become numbers: it learns that from `frame`, and belongs to a network from
    `bp.Network.from_table(table)` on, whose `fit`, `predict` and the rest then take such frames, and whose file has it.

    frame: a pandas or polars DataFrame, a pyarrow Table, a structured array, or a dict of columns.  target: the column
    that is to be predicted; None: `fit` is given y.
    kinds: {column: "number", "category", "date" or "skip"} where the table is not to choose.  It takes strings,
    categoricals, booleans, and whole numbers of at most 10 values that each come 10 times on average, as categories;
    dates and times as dates; all other numbers as numbers.  A target likewise: a category is classes.
    numbers: "robust", z = (x - median) / (75 % - 25 % quantile), clipped smoothly to -3..3 by z / sqrt(1 + (z/3)^2)
    (Holzmueller, Grinsztajn and Steinwart 2024); "standard", mean 0 and standard deviation 1; "quantile", the place
    among the frame's values as a normally distributed number; "none", as they are.
    missing: "indicator", gaps (None, NaN, NA, NaT) in numbers are the median, and a column that has gaps in `frame`
    gets a number that says where; "refuse": they are a ValueError, now and later.
    dates: the parts of dates that count: "days" (since 1970, with their fraction) and "year" as numbers, "month",
    "day", "weekday" and "hour" as sine and cosine.  Times with a zone are in UTC.
    one_hot: categories of at most so many levels become a 0 or 1 for each level, those of more a row of an Embedding.
    min_count: levels that come less often become one, unknown, as do levels that only later frames have.

    It keeps names of columns and the levels of categories, and files of its networks have them: see docs/tables.md.
    Raises TypeError or ValueError that names the column, for what is not understood.
    """

    def __init__(
        self, frame: Any, target: str | None = None, *, kinds: Mapping[str, str] | None = None, numbers: str = "robust",
        missing: str = "indicator", dates: Sequence[str] = ("days", "month", "weekday"), one_hot: int = 8,
        min_count: int = 1,
    ) -> None:  # fmt: skip
        from bpcore import _columns, _frames

        _validate.choice("numbers", numbers, _core.TABLE_METHODS)
        refuse = _validate.choice("missing", missing, ("indicator", "refuse")) == "refuse"
        one_hot = _validate.integer("one_hot", one_hot, 0, 2**31)
        min_count = _validate.integer("min_count", min_count, 1, 2**62)
        parts = _parts(dates)
        if kinds is not None and not isinstance(kinds, Mapping):
            raise TypeError(f"kinds: expected {{column: kind}}, got {kinds!r}")
        settings: dict[str, Any] = {
            "numbers": numbers, "dates": parts, "one_hot": one_hot, "min_count": min_count, "refuse": refuse
        }  # fmt: skip
        columns = _frames.columns("frame", frame)
        chosen = dict(kinds or {})
        if target is not None:
            _validate.choice("target", target, columns)
        for name, kind in chosen.items():
            _validate.choice("kinds", name, columns)
            _validate.choice(f"kinds[{name!r}]", kind, ("number", "category") if name == target else _KINDS)
        learnt: list[Any] = []
        lengths: dict[str, int] = {}
        goal: Classes | Amount | None = None
        for name, column in columns.items():
            if chosen.get(name) == "skip":
                continue
            where = f"frame[{name!r}]"
            got = _frames.values(where, column)
            lengths[name] = len(got.data)
            if not lengths[name]:
                raise ValueError(f"{where}: expected at least one row, got none")
            kind = chosen.get(name) or _columns.kind_of(where, name, got)
            if name == target:
                goal = _columns.learn_target(where, name, got, kind)
            else:
                learnt += _columns.learn(where, name, got, kind, **settings)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"frame: expected columns of one length, got {lengths}")
        if not learnt:
            raise ValueError("frame: expected a column beside the target, got none")
        self._own(tuple(learnt), goal, refuse)

    def _own(self, columns: tuple[Any, ...], target: Classes | Amount | None, refuse: bool) -> None:
        self._columns, self._target, self._refuse = columns, target, refuse

    # ---- what it is ----

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, in the order of a row given as a tuple."""
        return tuple(dict.fromkeys(column.name for column in self._columns))

    @property
    def target(self) -> str | None:
        """The column that is to be predicted."""
        return None if self._target is None else self._target.name

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The classes of the target, in the order of the network's outputs; None where it is a number, or not there."""
        return getattr(self._target, "levels", None)

    @property
    def features(self) -> tuple[str, ...]:
        """What each of the numbers that `transform` gives is called."""
        return tuple(name for column in self._columns for name in column.features)

    @property
    def embedded(self) -> tuple[str, ...]:
        """The columns that become codes of an Embedding, in the order of the codes."""
        return tuple(column.name for column in self._embedded)

    def summary(self) -> str:
        """A line for each column: what it becomes."""
        lines = []
        for name in self.columns:
            own = [column for column in self._columns if column.name == name]
            gaps = " and where it is missing" if any(getattr(column, "indicator", False) for column in own) else ""
            if hasattr(own[0], "levels"):
                rare = ", the rare ones together" if own[0].unknown else ""
                how = "an Embedding" if own[0].embedded else "one-hot"
                words = f"a category of {len(own[0].levels)} {own[0].of}{rare}: {how}"
            elif own[0].part:
                words = f"a date: {', '.join(column.part for column in own)}{gaps}"
            else:
                words = f"a number: {own[0].method}{gaps}"
            lines.append((name, words))
        if self._target is not None:
            many = f"one of {len(self.classes)} classes" if self.classes is not None else "a number, standardised"
            lines.append((self._target.name, f"the target, {many}"))
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {words}" for name, words in lines)

    def __repr__(self) -> str:
        target = "" if self._target is None else f", target {self._target.name!r}"
        return f"<Table of {len(self.columns)} columns{target}>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._json == other._json

    def __hash__(self) -> int:
        return hash(self._json)

    def __reduce__(self) -> Any:
        return from_json, (self._json,)

    def __copy__(self) -> Table:
        return self  # nothing of it changes

    def __deepcopy__(self, memo: Any) -> Table:
        return self

    # ---- what it does ----

    def transform(self, frame: Any) -> Mapping[str, np.ndarray]:
        """{"numbers": (n, len(features)) float64, "codes": (n, len(embedded)) int32}, those that there are: what the
        network reads of a frame.  A network of the table takes them in place of the frame, which spares it the
        conversion, and then wants y, too."""
        return self._converted(frame, "frame", np.dtype(np.float64))

    def read(self, X: Any, name: str, dtype: np.dtype[Any]) -> Converted:
        """X of a call, as arrays by the network's inputs."""
        if isinstance(X, Converted):
            return X
        if self._is_row(X):
            return Converted(zip(self.inputs, self._row(X), strict=True))
        return self._converted(X, name, dtype)

    def read_rows(self, x: Any) -> tuple[list[np.ndarray], bool]:
        """x of a predictor, as arrays; whether it is a row by itself."""
        if self._is_row(x):
            return self._row(x), True
        return list(self.read(x, "X", np.dtype(np.float64)).values()), False

    def _row(self, x: Any) -> list[np.ndarray]:
        """A row by itself, as arrays."""
        try:
            return self._encoder.row(x)
        except OverflowError as error:
            raise ValueError(
                f"x: {self.features[error.args[0]]!r} overflows float64; make the table with numbers='robust'"
            ) from None

    def targets(self, X: Any, y: Any, called: tuple[str, ...]) -> Any:
        """y as a loss takes it: of X's own column where it is None; of classes their numbers."""
        name = called[1]
        from bpcore import _frames

        if self._target is None:
            if y is None:
                raise TypeError(f"{name}: expected targets, got None; the table was made without target=")
            return y
        if y is None:
            name = f"{called[0]}[{self._target.name!r}]"
            if isinstance(X, Converted):
                raise TypeError(f"{called[1]}: expected targets beside what table.transform gives; give y")
            columns = _frames.columns(called[0], X)
            if self._target.name not in columns:
                raise ValueError(
                    f"{called[0]}: expected the target {self._target.name!r} among its columns."
                    f"{did_you_mean(self._target.name, list(columns))} Or give {called[1]}"
                )
            y = columns[self._target.name]
        with _validate.foreign(name, y):
            if np.ndim(y) > 1:
                return y  # a row of numbers for each example, as the loss takes it
        return self._target.read(name, _frames.values(name, y))

    def labels(self, answers: np.ndarray) -> np.ndarray:
        """The class of each row of outputs: the largest; of one output the second from 1/2 on."""
        classes = np.array(self.classes)
        return classes[answers.argmax(1) if answers.shape[1] > 1 else (answers[:, 0] >= 0.5).astype(int)]

    # ---- within ----

    @property
    def inputs(self) -> list[str]:
        """Names of the network's inputs."""
        return ["numbers"] * bool(self.features) + ["codes"] * bool(self._embedded)

    @property
    def _embedded(self) -> list[Category]:
        return [column for column in self._columns if getattr(column, "embedded", False)]

    @property
    def n_codes(self) -> int:
        """Rows of the Embedding."""
        return self._layout[1]

    @property
    def unseen(self) -> list[int]:
        """Codes that no row of the frame had."""
        return self._layout[2]

    def without_target(self) -> Table:
        """The same columns."""
        return _of(self._columns, None, self._refuse)

    @functools.cached_property
    def _json(self) -> str:
        columns = [column.described() for column in self._columns]
        target = None if self._target is None else self._target.described()
        return json.dumps({"columns": columns, "target": target, "refuse": self._refuse})

    @functools.cached_property
    def stored(self) -> np.ndarray:
        """As a file has it: the bytes of JSON."""
        return np.frombuffer(self._json.encode(), np.uint8)

    @functools.cached_property
    def _layout(self) -> tuple[_core.Encoder, int, list[int]]:
        """The encoder of all columns, the size of the embedding, and codes that training never saw."""
        encodings, unseen, place, slot, first = [], [], 0, 0, 0
        for column in self._columns:
            encodings.append(column.encoding(place, slot, first))
            place += len(column.features)
            if getattr(column, "embedded", False):
                unseen += [first] * (not column.unknown) + [first + 1] * (not column.missing)
                slot, first = slot + 1, first + column.codes
        encoder = _core.Encoder(encodings, self.columns, place, slot, self._value, self._refuse)
        return encoder, first, unseen

    @property
    def _encoder(self) -> _core.Encoder:
        return self._layout[0]

    def _is_row(self, X: Any) -> bool:
        """Whether X is a row by itself: a tuple or list of values, or a dict of them."""
        if type(X) is dict:
            value = next((X[name] for name in self.columns if name in X), None)
        elif type(X) is tuple or type(X) is list:
            value = X[0] if X else None
        else:
            return False
        if value is None or isinstance(value, (float, str, int, datetime.date)):
            return True
        return not isinstance(value, Mapping) and np.ndim(value) == 0

    def _value(self, name: str | None, value: Any, of: Any) -> Any:
        """What the encoder takes of a value of a row, of another type than those it knows; ValueError for a row that is
        none."""
        if name is None:
            if isinstance(value, dict):
                raise self._missing("X", value)
            names = _validate._listed(self.columns)
            raise ValueError(f"X: expected a row of {len(self.columns)} values ({names}), got {len(value)}")
        where = f"X[{name!r}]"
        if of == "date" and type(value) is datetime.date:
            return (value.toordinal() - _EPOCH.toordinal()) * 86_400_000_000
        if of == "date" and type(value) is datetime.datetime and value.tzinfo is None:
            return (value - _EPOCH) // _MICROSECOND
        from bpcore import _columns, _frames

        got = _frames.values(where, [value])
        if of in (None, "date"):
            read = _frames.as_numbers(where, got) if of is None else _frames.as_dates(where, got)
            if self._refuse:
                _columns.refuse_gaps(where, read)
            return read.tolist()[0]
        kind = next(kind for kind, each in _frames.TYPES.items() if each is of)
        return _frames.as_levels(where, got, kind)[0]

    def _missing(self, name: str, columns: Mapping[str, Any]) -> ValueError:
        """For columns that are not there, and the nearest that are."""
        others = [each for each in columns if each not in self.columns and isinstance(each, str)]
        missing = [each for each in self.columns if each not in columns]
        words = [f"{each!r} is missing.{did_you_mean(each, others)}" for each in missing[:4]]
        more = f" And {len(missing) - 4} more are." if len(missing) > 4 else ""
        return ValueError(f"{name}: expected the columns that the table knows; {' '.join(words)}{more}")

    def _converted(self, frame: Any, name: str, dtype: np.dtype[Any]) -> Converted:
        from bpcore import _frames

        columns = _frames.columns(name, frame)
        if not set(self.columns) <= set(columns):
            raise self._missing(name, columns)
        known: dict[str, Any] = {}
        read: list[Any] = []
        for column in self._columns:
            where = f"{name}[{column.name!r}]"
            if column.name not in known:
                known[column.name] = _frames.values(where, columns[column.name])
            read.append(column.read(where, known[column.name], self._refuse))
        n = len(read[0])
        for column, own in zip(self._columns, read, strict=True):
            if len(own) != n:
                raise ValueError(
                    f"{name}: expected columns of one length, {self._columns[0].name!r} has {n} rows and "
                    f"{column.name!r} {len(own)}"
                )
        encoder = self._encoder
        numbers, codes = np.empty((n, encoder.n_numbers), dtype), np.empty((n, encoder.n_codes), np.int32)
        for first in range(0, n, _BLOCK):
            block = slice(first, min(first + _BLOCK, n))
            some = np.zeros((block.stop - first, encoder.n_numbers))
            for number, own in enumerate(read):
                encoder.fill(number, own[block], some, codes[block])
            with np.errstate(over="ignore"):
                numbers[block] = some
            if not np.isfinite(numbers[block]).all():
                row, place = np.argwhere(~np.isfinite(numbers[block]))[0]
                raise ValueError(
                    f"{name}: {self.features[place]!r} of row {first + row} overflows {dtype}; make the table with "
                    "numbers='robust', or the network with dtype='float64'"
                )
        both = {"numbers": numbers, "codes": codes}
        return Converted({each: both[each] for each in self.inputs})


def _parts(dates: Any) -> list[str]:
    """Parts of dates, each once."""
    if not isinstance(dates, (list, tuple)):
        raise TypeError(f"dates: expected a list of names, got {dates!r}")
    parts = [_validate.choice("dates", part, _core.TABLE_PARTS) for part in dates]
    if len(set(parts)) < len(parts):
        raise ValueError(f"dates: expected each part once, got {dates!r}")
    return parts


# ---- files ----


def _of(columns: tuple[Any, ...], target: Classes | Amount | None, refuse: bool) -> Table:
    table = Table.__new__(Table)
    table._own(columns, target, refuse)
    return table


def from_json(text: str) -> Table:
    """The table that `stored` describes; TypeError or ValueError for anything else."""
    from bpcore import _columns

    value = json.loads(text)
    if not isinstance(value, dict) or set(value) != {"columns", "target", "refuse"}:
        raise ValueError("expected columns, target and refuse")
    if type(value["refuse"]) is not bool:
        raise ValueError("refuse: expected true or false")
    if not isinstance(value["columns"], list) or not value["columns"]:
        raise ValueError("columns: expected a list of one or more")
    columns = tuple(_columns.made(each, _columns.COLUMNS) for each in value["columns"])
    target = None if value["target"] is None else _columns.made(value["target"], _columns.TARGETS)
    table = _of(columns, target, value["refuse"])
    seen: set[Any] = set()
    for column in columns:
        key = column.name, getattr(column, "part", None)
        if key in seen or (key[1] is not None and (column.name, None) in seen):
            raise ValueError(f"expected each column once, and {column.name!r} is there twice")
        seen.add(key)
    if target is not None and target.name in table.columns:
        raise ValueError(f"expected the target {target.name!r} beside the columns")
    return table
