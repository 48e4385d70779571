"""Files of rows as a stream: Parquet, CSV and Arrow through pyarrow, NPY through NumPy."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bpcore import _validate
from bpcore._model import Model
from bpcore._stream import Permutation, Stream

_FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
    ".npy": "npy",
}  # fmt: skip
_TOGETHER = 1024  # rows whose columns are put side by side


def files(
    paths: Any, *, target: Any = None, columns: Any = None, weight: Any = None, block_rows: int = 65_536
) -> Stream:
    """A stream of the rows of files, `net.fit(bp.data.files("data/*.parquet", target="price"))`.

    paths: a path, a pattern such as "data/*.csv", a folder, or a list of paths; all of one kind: Parquet (.parquet,
    .pq), CSV with a line of names, or Arrow (.arrow, .feather, .ipc), read by pyarrow, an extra: bpcore[files]; or
    NumPy (.npy: rows of numbers, or a structured array; memory-mapped, never unpickled).
    target: the column of y, or a list of columns; None: only for `predict`.  columns: those of X, in this order; of a
    network of several inputs a dict of such lists by input; None: all but target and weight.  weight: the column of
    sample_weight.  Columns are names, in .npy files without names numbers; they hold numbers without gaps.
    block_rows: rows of a block at most.

    With `fit(shuffle=True)` blocks come in an order that is drawn from the seed for each epoch: row groups of Parquet,
    record batches of Arrow, ranges of .npy; a CSV file is read from its beginning, so files come in a drawn order, and
    their blocks in that of the file.  The rows of each block are permuted.
    Raises ValueError or TypeError that names the file and the column, FileNotFoundError, ImportError without pyarrow.
    """
    return Files(paths, target=target, columns=columns, weight=weight, block_rows=block_rows)


class Files(Stream):
    """See `files`."""

    _copies = False  # each block is read into arrays of its own

    def __init__(
        self, paths: Any, *, target: Any = None, columns: Any = None, weight: Any = None, block_rows: int = 65_536
    ) -> None:
        self.paths = _listed(paths)
        kinds = {_format(path) for path in self.paths}
        if len(kinds) > 1:
            raise ValueError(f"paths: expected files of one kind, got {', '.join(sorted(kinds))}")
        (self.format,) = kinds
        self.block_rows = _validate.integer("block_rows", block_rows, 1, 2**31)
        self.target = _columns("target", target)
        self.weight = _columns("weight", weight)
        if isinstance(self.weight, list):
            raise TypeError(f"weight: expected one column, got {self.weight!r}")
        if isinstance(columns, Mapping):
            self.columns: Any = {name: _columns(f"columns[{name!r}]", own, True) for name, own in columns.items()}
        else:
            self.columns = _columns("columns", columns, True)
        self._has_targets = self.target is not None
        self._read: Any = self.columns  # with the names that stand for None, once a file was read
        if self.format != "npy":
            pyarrow()

    def __repr__(self) -> str:
        n = len(self.paths)
        return f"files({n} {self.format} file{'s' * (n != 1)}, target={self.target!r})"

    def _described(self) -> str:
        """How many files, and their names and order, wherever they lie."""
        import hashlib  # for those who resume

        names = "\n".join(map(os.path.basename, self.paths))
        return f"of {len(self.paths)} files, names {hashlib.sha256(names.encode()).hexdigest()[:8]}"

    def _names(self, model: Model) -> Mapping[str, tuple[str, ...]]:
        by_input = self._read if isinstance(self._read, dict) else {model.inputs[0].name: self._read}
        shapes = {node.name: node.shape for node in model.inputs}
        return {
            name: tuple(own)
            for name, own in by_input.items()
            if own and all(isinstance(each, str) for each in own) and shapes.get(name) == (len(own),)
        }

    def _epoch(self, permutation: Permutation | None) -> Iterator[Any]:
        read = {"parquet": _Parquet, "csv": _Csv, "arrow": _Arrow, "npy": _Npy}[self.format]
        units = [(file, unit) for file in map(read, self.paths) for unit in file.units(self.block_rows)]
        order = range(len(units)) if permutation is None else permutation(len(units))
        return self._blocks([units[k] for k in order])

    def _blocks(self, units: list[Any]) -> Iterator[Any]:
        """Of units of files: (X, y, weight), or without what is not there; none is held while the next is read."""
        for file, unit in units:
            for rows in file.blocks(unit, self._chosen(file), self.block_rows):
                block = [self._block(file, rows)]
                del rows
                yield block.pop()

    def _chosen(self, file: Any) -> list[Any]:
        """The columns that are read of a file; those of X are known from now on."""
        others = [file.known("target", each) for each in _several(self.target)]
        others += [file.known("weight", each) for each in _several(self.weight)]
        if self.columns is None:
            self._read = [name for name in file.names if name not in others]
            if not self._read:
                raise ValueError(f"columns: expected a column beside target and weight, and {file.path!r} has none")
        listed = list(self._read.values()) if isinstance(self._read, dict) else [self._read]
        read = [file.known("columns", each) for own in listed for each in own]
        return list(dict.fromkeys([*read, *others]))

    def _block(self, file: Any, rows: Any) -> Any:
        def numbers(own: Any) -> np.ndarray:
            if isinstance(own, list):
                return file.matrix(rows, [file.known("", each) for each in own])
            return np.array(file.column(rows, file.known("", own)))

        read = self._read
        X = {name: numbers(own) for name, own in read.items()} if isinstance(read, dict) else numbers(read)
        if self.target is None:
            return (X,)
        y = numbers(self.target)
        return (X, y) if self.weight is None else (X, y, numbers(self.weight))


def _listed(paths: Any) -> list[str]:
    """Paths of files that are there."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        path = _validate.path(paths)
        if os.path.isdir(path):
            found = [os.path.join(path, name) for name in sorted(os.listdir(path)) if _suffix(name) in _FORMATS]
        elif os.path.exists(path) or not any(c in path for c in "*?["):
            found = [path]
        else:
            import glob

            found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise FileNotFoundError(f"paths: expected files of {', '.join(_FORMATS)}, and {path!r} has none")
    else:
        if not isinstance(paths, Sequence):
            raise TypeError(f"paths: expected a path or a list of paths, got {type(paths).__name__}")
        found = [_validate.path(path) for path in paths]
        if not found:
            raise ValueError("paths: expected at least one file, got an empty list")
    for path in found:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"paths: there is no file {path!r}")
    return found


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _format(path: str) -> str:
    if _suffix(path) not in _FORMATS:
        raise ValueError(f"paths: expected files of {', '.join(_FORMATS)}, got {path!r}")
    return _FORMATS[_suffix(path)]


def _columns(name: str, value: Any, several: bool = False) -> Any:
    """A name or a number, or a list of such; None stays."""
    if isinstance(value, (str, int)) and not isinstance(value, bool) and not several:
        return value
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, (str, int)) for each in value):
        return list(value)
    wanted = "a list of columns" if several else "a column, or a list of columns"
    raise TypeError(f"{name}: expected {wanted}, got {value!r} of type {type(value).__name__}")


def _several(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def checked_batch(file: Any, number: int) -> Any:
    """A record batch of an Arrow file, whose lengths pyarrow takes as they stand in the file: pyarrow.ArrowInvalid
    where its buffers do not have them."""
    batch = file.get_batch(number)
    batch.validate(full=True)
    return batch


def pyarrow() -> Any:
    """pyarrow, with its modules; ImportError that names the extra."""
    try:
        import pyarrow
        import pyarrow.dataset
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "files: Parquet, CSV and Arrow files are read by pyarrow; pip install 'bpcore[files]'"
        ) from error
    if tuple(map(int, re.findall(r"\d+", pyarrow.__version__)[:3])) < (14, 0, 1):
        raise ImportError(
            f"files: expected pyarrow 14.0.1 or later, which finds crafted files, got {pyarrow.__version__}; "
            "pip install 'bpcore[files]'"
        )
    return pyarrow


class _File:
    """Columns of a file, by name or number.  names: of all of them."""

    names: list[Any]
    units: Callable[[int], list[Any]]  # what may come in any order, for blocks of at most so many rows

    def __init__(self, path: str) -> None:
        self.path = path

    def column(self, rows: Any, name: Any) -> np.ndarray:
        """Of some rows, which `blocks` has given."""
        return rows[name]

    def matrix(self, rows: Any, names: list[Any]) -> np.ndarray:
        """Several columns, (n, columns), a copy."""
        columns = [self.column(rows, name) for name in names]
        made = np.empty((len(columns[0]), len(columns)), np.result_type(*columns))
        for first in range(0, len(made), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            for k, column in enumerate(columns):
                made[some, k] = column[some]
        return made

    def known(self, what: str, name: Any) -> Any:
        """A column that is there; ValueError offers the nearest."""
        names = self.names
        if name in names:
            return name
        shown = ", ".join(map(str, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        near = _validate.did_you_mean(name, [str(each) for each in names]) if isinstance(name, str) else ""
        raise ValueError(f"{what}: there is no column {name!r} in {self.path!r}.{near} Its columns: {shown}")


class _Table(_File):
    """A file that pyarrow reads."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        with self.reading():
            self.open()
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise ValueError(f"columns: expected each name once in {path!r}, got {', '.join(sorted(twice))} twice")

    def open(self) -> None:
        """Reads the names."""
        arrow = pyarrow()
        self.fragment = next(arrow.dataset.dataset(self.path, format=self.kind).get_fragments())
        self.names = self.fragment.physical_schema.names

    kind = "parquet"

    def reading(self) -> Any:
        """`with` it: what pyarrow cannot read is a ValueError that names the file."""
        return _Reading(self.path)

    def batches(self, unit: Any, chosen: list[Any], block_rows: int) -> Iterator[Any]:
        """Record batches of a unit."""
        return iter(unit.to_batches(columns=chosen, batch_size=block_rows, use_threads=False))

    def blocks(self, unit: Any, chosen: list[Any], block_rows: int) -> Iterator[dict[Any, np.ndarray]]:
        """Columns by name, of at most so many rows."""
        with self.reading():
            batches = self.batches(unit, chosen, block_rows)
        while True:
            with self.reading():
                batch = next(batches, None)
            if batch is None:
                return
            slices = [batch.slice(first, block_rows) for first in range(0, batch.num_rows, block_rows)]
            del batch
            while slices:
                yield self.columns(slices.pop(0), chosen)

    def columns(self, batch: Any, chosen: list[Any]) -> dict[Any, np.ndarray]:
        """By name."""
        return {name: self.numbers(name, batch.column(batch.schema.get_field_index(name))) for name in chosen}

    def numbers(self, name: Any, column: Any) -> np.ndarray:
        """A column as an array; ValueError or TypeError where it has gaps, or is no numbers."""
        types = pyarrow().types
        kind = column.type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(
                f"columns: expected numbers, and {name!r} in {self.path!r} is {kind}; leave it out by columns=[...], "
                "or write numbers in its place"
            )
        if column.null_count:
            raise ValueError(
                f"columns: expected no gaps, and {name!r} in {self.path!r} has {column.null_count} in a block; leave "
                "it out by columns=[...], or fill them"
            )
        return np.asarray(column.to_numpy(zero_copy_only=False))


class _Parquet(_Table):
    def units(self, block_rows: int) -> list[Any]:
        """Its row groups."""
        with self.reading():
            return list(self.fragment.split_by_row_group())


class _Csv(_Table):
    kind = "csv"

    def units(self, block_rows: int) -> list[Any]:
        """The file."""
        return [self.fragment]


class _Arrow(_Table):
    def open(self) -> None:
        arrow = pyarrow()
        self.file = arrow.ipc.open_file(arrow.memory_map(self.path))
        self.names = self.file.schema.names

    def units(self, block_rows: int) -> list[Any]:
        """Numbers of its record batches."""
        return list(range(self.file.num_record_batches))

    def batches(self, unit: Any, chosen: list[Any], block_rows: int) -> Iterator[Any]:
        return iter([checked_batch(self.file, unit)])


class _Reading:
    """See _Table.reading."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        arrow = pyarrow()
        if isinstance(error, (arrow.ArrowException, OSError)) and not isinstance(error, MemoryError):
            raise ValueError(f"paths: {self.path!r} cannot be read: {error}") from error


class _Npy(_File):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self.rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"paths: {path!r} cannot be read: {error}") from error
        if self.rows.dtype.names is not None and self.rows.ndim == 1:
            self.names = list(self.rows.dtype.names)
        elif self.rows.ndim == 2 and self.rows.dtype.names is None:
            self.names = list(range(self.rows.shape[1]))
        else:
            raise ValueError(
                f"paths: expected rows of numbers (n, columns), or a structured array (n,), in {path!r}, got shape "
                f"{self.rows.shape}; other arrays go to fit as they are, np.load(path, mmap_mode='r')"
            )

    def known(self, what: str, name: Any) -> Any:
        counted = name + len(self.names) if isinstance(name, int) and name < 0 else name
        return super().known(what, counted if counted in self.names else name)

    def units(self, block_rows: int) -> list[slice]:
        """Ranges of rows."""
        return [slice(first, first + block_rows) for first in range(0, len(self.rows), block_rows)]

    def blocks(self, unit: slice, chosen: list[Any], block_rows: int) -> Iterator[np.ndarray]:
        """The rows."""
        yield self.rows[unit]

    def column(self, rows: np.ndarray, name: Any) -> np.ndarray:
        return rows[name] if isinstance(name, str) else rows[:, name]

    def matrix(self, rows: np.ndarray, names: list[Any]) -> np.ndarray:
        if isinstance(names[0], str):
            return super().matrix(rows, names)
        first, end = names[0], names[-1] + 1
        return np.array(rows[:, first:end] if names == list(range(first, end)) else rows[:, names], order="C")
