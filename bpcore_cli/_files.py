"""Files of rows, whatever their format, in blocks of numbers.

The format is what a file begins with, not what it is called; what begins as none of the others is CSV.  A column is
known by its name, or by its number from 0 where a file has no names.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from bpcore._files import checked_batch, pyarrow
from bpcore_cli._errors import Wrong, listed, nearest

ROWS = 8192  # of a block
_SNIFFED = 20  # lines
_TABLES = "words, dates and gaps are for a bp.Table, in Python"


class Block(NamedTuple):
    """Some rows: numbers (n, columns) float64, and the cells of a column as they stand there, or None."""

    numbers: np.ndarray
    words: list[str] | None


class File:
    """Rows of `width` columns, `names` of them; is_named: whether the file names them itself."""

    is_named = True

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self.names = path, tuple(names)
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise Wrong(f"{path}: expected each column once, and several are called {twice!r}; rename them")

    def number(self, column: str, option: str) -> int:
        """Of a column; Wrong where there is none of that name."""
        if column in self.names:
            return self.names.index(column)
        raise Wrong(
            f"{option}: {self.path} has no column {column!r}.{nearest(column, self.names)} "
            f"Its columns: {listed(self.names, 20)}"
        )

    def blocks(self, numbers: Sequence[int], words: int | None = None) -> Iterator[Block]:
        """All rows, once; Wrong for a cell that is no finite number, or for no row."""
        first = 1
        for block in self._read(numbers, words):
            if not np.isfinite(block.numbers).all():
                row, column = np.argwhere(~np.isfinite(block.numbers))[0]
                raise self._no_number(first + row, numbers[column], repr(float(block.numbers[row, column])))
            yield block
            first += len(block.numbers)
        if first == 1:
            raise Wrong(f"{self.path}: expected rows, and there are none")

    def _read(self, numbers: Sequence[int], words: int | None) -> Iterator[Block]:
        raise NotImplementedError

    def _no_number(self, row: int, column: int, got: str) -> Wrong:
        where = f"{self.path}, row {row}, column {self.names[column]!r}"
        return Wrong(f"{where}: expected a finite number, got {got}; {_TABLES}")


@contextlib.contextmanager
def open_file(path: str) -> Iterator[File]:
    """The rows of a file, until the context ends; Wrong where there are none to read."""
    if path == "-":
        with _decoded(sys.stdin.buffer) as text:
            yield _Csv("standard input", text)
        return
    if os.path.isdir(path):
        raise Wrong(f"{path}: expected a file, and it is a folder")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise Wrong(f"{path}: {error.strerror}") from None
        start = file.peek(8)[:8]
        kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
        if kind is None and path.lower().endswith((".svm", ".libsvm", ".svmlight")):
            raise Wrong(f"{path}: libsvm is not read; make it an .npz of arrays X and y")
        yield kind(path, file) if kind else _Csv(path, stack.enter_context(_decoded(file)))


@contextlib.contextmanager
def _decoded(file: Any) -> Iterator[TextIO]:
    """The text of a file that can be peeked into, zipped or not; the file stays open."""
    zipped = file.peek(2)[:2] == b"\x1f\x8b"
    text = io.TextIOWrapper(gzip.GzipFile(fileobj=file) if zipped else file, encoding="utf-8-sig", newline="")
    try:
        yield text
    finally:
        text.detach()


class _Csv(File):
    """Text: the delimiter is guessed from the first lines, and the first row is names where it is words above numbers,
    or words alone."""

    def __init__(self, path: str, text: TextIO) -> None:
        self.path = path
        with self._decoding():
            start = [line for line in itertools.islice(text, _SNIFFED) if line.strip()]
        if not start:
            raise Wrong(f"{path}: expected rows, and it is empty")
        self._rows = csv.reader(itertools.chain(start, text), delimiter=_delimiter("".join(start)))
        with self._decoding():
            first, second = (next(self._filled(), None) for _ in range(2))
        assert first is not None
        self.is_named = _is_names(first, second)
        read = [] if self.is_named else [first]
        self._rest = itertools.chain(read + ([second] if second else []), self._filled())
        super().__init__(path, [name.strip() for name in first] if self.is_named else _numbered(len(first)))

    def _filled(self) -> Iterator[list[str]]:
        return (row for row in self._rows if row)

    def _decoding(self) -> Any:
        return _refusing(
            self.path, "expected CSV in UTF-8", (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile)
        )

    def _read(self, numbers: Sequence[int], words: int | None) -> Iterator[Block]:
        width, first = len(self.names), 1
        take: Callable[[list[str]], Any] = itemgetter(*numbers)
        if len(numbers) == 1:
            take = _listing(take)
        while True:
            with self._decoding():
                rows = list(itertools.islice(self._rest, ROWS))
            if not rows:
                return
            for k, row in enumerate(rows):
                if len(row) != width:
                    raise Wrong(
                        f"{self.path}, row {first + k}: expected {width} cells as in the first row, got {len(row)}"
                    )
            cells = itertools.chain.from_iterable(map(take, rows))
            try:
                flat = np.fromiter(map(float, cells), np.float64, len(rows) * len(numbers))
            except ValueError:
                raise self._first_word(rows, numbers, first) from None
            yield Block(flat.reshape(len(rows), len(numbers)), None if words is None else [row[words] for row in rows])
            first += len(rows)

    def _first_word(self, rows: list[list[str]], numbers: Sequence[int], first: int) -> Wrong:
        return next(
            self._no_number(first + k, column, repr(row[column]))
            for k, row in enumerate(rows)
            for column in numbers
            if not _is_number(row[column])
        )


class _Arrays(File):
    """NPY, an example a row, of which each number is a column; NPZ, whose X is that, and whose other arrays (n,) are
    columns by their names."""

    is_named = False

    def __init__(self, path: str, X: np.ndarray, more: dict[str, np.ndarray]) -> None:
        if X.dtype.kind not in "fiub" or X.ndim < 2:
            raise Wrong(f"{path}: expected an array of numbers, an example a row, got {X.dtype} of shape {X.shape}")
        self.X, self.more = X, list(more.values())
        self.n_features = int(np.prod(X.shape[1:]))
        super().__init__(path, [*_numbered(self.n_features), *more])

    @classmethod
    def npy(cls, path: str, file: BinaryIO) -> _Arrays:
        """A file that is mapped into memory."""
        with _refusing(path, "expected an NPY file of numbers", (ValueError, EOFError)):
            X = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(path, X, {})

    @classmethod
    def npz(cls, path: str, file: BinaryIO) -> _Arrays:
        """A file whose arrays are read whole."""
        import zipfile

        with _refusing(path, "expected an NPZ file of numbers", (ValueError, EOFError, zipfile.BadZipFile)):
            arrays = dict(np.load(file, allow_pickle=False))
        if "X" not in arrays:
            raise Wrong(f"{path}: expected an array X in it, an example a row; it has {listed(list(arrays))}")
        X = arrays.pop("X")
        return cls(path, X, {name: a for name, a in arrays.items() if a.shape == X.shape[:1]})

    def _read(self, numbers: Sequence[int], words: int | None) -> Iterator[Block]:
        whole = list(numbers) == list(range(self.n_features))
        for first in range(0, len(self.X), ROWS):
            part = slice(first, first + ROWS)
            flat = self.X[part].reshape(-1, self.n_features)
            columns = flat if whole else np.stack([self._column(flat, k, part) for k in numbers], axis=1)
            yield Block(
                np.asarray(columns, np.float64),
                None if words is None else [str(v) for v in self._column(flat, words, part).tolist()],
            )

    def _column(self, flat: np.ndarray, k: int, part: slice) -> np.ndarray:
        if k < self.n_features:
            return flat[:, k]
        a = self.more[k - self.n_features]
        if a.dtype.kind not in "fiubU":
            raise Wrong(f"{self.path}: expected numbers in {self.names[k]!r}, got {a.dtype}")
        return a[part]


class _Columns(File):
    """Parquet and Arrow, through pyarrow."""

    def __init__(self, path: str, schema: Any, batches: Callable[[list[str]], Iterator[Any]]) -> None:
        super().__init__(path, schema.names)
        self._schema, self._batches = schema, batches

    @classmethod
    def parquet(cls, path: str, file: BinaryIO) -> _Columns:
        """A file that begins with PAR1."""
        arrow = _pyarrow(path)
        with _refusing(path, "expected a Parquet file", (arrow.ArrowInvalid,)):
            source = arrow.parquet.ParquetFile(file)
        return cls(path, source.schema_arrow, lambda names: source.iter_batches(ROWS, columns=names))

    @classmethod
    def arrow(cls, path: str, file: BinaryIO) -> _Columns:
        """A file that begins with ARROW1, which is also Feather's second version."""
        arrow = _pyarrow(path)
        with _refusing(path, "expected an Arrow file", (arrow.ArrowInvalid,)):
            source = arrow.ipc.open_file(arrow.memory_map(path))

        def batches(names: list[str]) -> Iterator[Any]:
            for i in range(source.num_record_batches):
                with _refusing(path, "expected an Arrow file that is whole", (arrow.ArrowInvalid,)):
                    batch = checked_batch(source, i).select(names)
                for first in range(0, batch.num_rows, ROWS):
                    yield batch.slice(first, ROWS)

        return cls(path, source.schema, batches)

    def _read(self, numbers: Sequence[int], words: int | None) -> Iterator[Block]:
        t = _pyarrow(self.path).types
        wanted = [self.names[k] for k in numbers]
        for k in numbers:
            kind = self._schema.field(self.names[k]).type
            if not (t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_decimal(kind)):
                raise Wrong(f"{self.path}, column {self.names[k]!r}: expected numbers, got {kind}; {_TABLES}")
        more = [] if words is None or words in numbers else [self.names[words]]
        for batch in self._batches(wanted + more):
            columns = [batch.column(name).cast("float64").to_numpy(zero_copy_only=False) for name in wanted]
            cells = None if words is None else [_text(v) for v in batch.column(self.names[words]).to_pylist()]
            yield Block(np.stack(columns, axis=1), cells)


_KINDS: dict[bytes, Callable[[str, BinaryIO], File]] = {
    b"\x93NUMPY": _Arrays.npy, b"PK\x03\x04": _Arrays.npz, b"PAR1": _Columns.parquet, b"ARROW1": _Columns.arrow,
}  # fmt: skip


def _pyarrow(path: str) -> Any:
    try:
        return pyarrow()
    except ImportError as error:
        raise Wrong(f"{path}: {error}") from None


class _refusing:
    """Some errors within are Wrong."""

    def __init__(self, path: str, expected: str, errors: tuple[type[Exception], ...]) -> None:
        self.path, self.expected, self.errors = path, expected, errors

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, self.errors):
            raise Wrong(f"{self.path}: {self.expected}: {error}") from None


def _delimiter(start: str) -> str:
    try:
        return csv.Sniffer().sniff(start, delimiters=",;\t|").delimiter
    except csv.Error:  # one column
        return ","


def _is_names(first: list[str], second: list[str] | None) -> bool:
    """Whether the first row of a file is names: no number in it, or a word above a number."""
    if not any(map(_is_number, first)):
        return True
    above = zip(first, second or [], strict=False)
    return any(word.strip() and not _is_number(word) and _is_number(cell) for word, cell in above)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _listing(take: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    return lambda row: (take(row),)


def _numbered(n: int) -> list[str]:
    return [str(k) for k in range(n)]


def _text(value: Any) -> str:
    return "" if value is None else str(value)
