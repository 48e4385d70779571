"""Every check of what comes in: ValueError or TypeError that names the argument, what was expected and what came."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from bpcore import _core
from bpcore._words import did_you_mean

MAX_UNITS = 2**31 - 1


def _let_through(error: Exception) -> None:
    """Raises it again where it says nothing of an argument: memory is short, or a signal's handler has raised it."""
    import signal  # these two take milliseconds
    import traceback

    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()} - {None}
    frames = traceback.walk_tb(error.__traceback__)
    if isinstance(error, MemoryError) or any(frame.f_code in handlers for frame, _ in frames):
        raise error


# ---- single values ----


def integer(name: str, value: Any, low: int, high: int) -> int:
    """An int (or NumPy integer) in low..high."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)
    except Exception as error:  # whatever an __index__ of others raises
        _let_through(error)
        raise TypeError(f"{name}: expected an integer, got {value!r} of type {type(value).__name__}") from error
    if not low <= number <= high:
        raise ValueError(f"{name}: expected an integer from {low} to {high}, got {number}")
    return number


def threads(name: str, value: Any) -> int:
    """A number of threads."""
    return integer(name, value, 1, _core.MAX_THREADS)


def seed(value: Any) -> int:
    """A seed: 64 bits, not negative."""
    return integer("seed", value, 0, 2**64 - 1)


def real(
    name: str, value: Any, low: float = 0.0, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> float:
    """A finite float in low..high."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name}: expected a number, got {value!r} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except Exception as error:  # whatever a __float__ of others raises
        _let_through(error)
        raise TypeError(f"{name}: expected a number, got {value!r}") from error
    if (
        not math.isfinite(number)
        or not low <= number <= high
        or (open_low and number == low)
        or (open_high and number == high)
    ):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        bounds = f" in {left}{low:g}, {high:g}{right}" if (low, high) != (-math.inf, math.inf) else ""
        raise ValueError(f"{name}: expected a finite number{bounds}, got {value!r}")
    return number


def interval(name: str, value: Any) -> tuple[int | None, float | None]:
    """How often: (k, None) of a whole number k, (None, seconds) of "10 s", "5 min" or "1 h"."""
    if not isinstance(value, str):
        return integer(name, value, 1, 2**62), None
    number, _, unit = value.partition(" ")
    seconds = {"s": 1.0, "min": 60.0, "h": 3600.0}.get(unit)
    with contextlib.suppress(ValueError):
        if seconds and 0 < float(number) < math.inf:
            return None, float(number) * seconds
    raise ValueError(f"{name}: expected a whole number, or a time such as '10 s', '5 min' or '1 h', got {value!r}")


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def switch(name: str, value: Any) -> bool:
    """True or False, or 1 or 0."""
    return flag(name, bool(value) if isinstance(value, (int, np.integer)) and value in (0, 1) else value)


def choice(name: str, value: Any, valid: Iterable[str]) -> str:
    """One of the valid names; the error lists them and the nearest."""
    names = list(valid)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(names)}, got {value!r} of type {type(value).__name__}")
    if value not in names:
        raise ValueError(f"{name}: there is no {value!r}.{did_you_mean(value, names)} Valid names: {', '.join(names)}")
    return value


def key(name: str, value: Any, valid: Iterable[str]) -> str:
    """One of a mapping's keys, as `choice`; KeyError."""
    try:
        return choice(name, value, valid)
    except (TypeError, ValueError) as error:
        raise KeyError(str(error)) from None


def function(name: str, value: Any) -> None:
    """Something that can be called."""
    if not callable(value):
        raise TypeError(f"{name}: expected a function, got {value!r} of type {type(value).__name__}")


def low_level(owner: str, **functions: Any) -> bool:
    """Whether all of them are scipy.LowLevelCallable, or none is."""
    kinds = {type(function).__name__ == "LowLevelCallable" for function in functions.values()}
    if len(kinds) > 1:
        raise TypeError(f"{owner}: {' and '.join(functions)} must both be LowLevelCallable, or both Python functions")
    return kinds.pop()


def examples(name: str, value: Any) -> tuple[Any, Any, Any]:
    """(X, y, sample_weight), of which the last may be left out."""
    words = f"{name}: expected (X, y) or (X, y, sample_weight), got "
    if not isinstance(value, Sequence):
        raise TypeError(f"{words}{type(value).__name__}")
    with foreign(name, value):
        items = tuple(value)
    if len(items) not in (2, 3):
        raise TypeError(f"{words}a {type(value).__name__} of {len(items)}")
    return items[0], items[1], items[2] if len(items) == 3 else None


def path(value: Any) -> str:
    """A file's name."""
    try:
        return os.fsdecode(value)
    except TypeError:
        raise TypeError(f"path: expected a file name, got {value!r} of type {type(value).__name__}") from None


def label(value: Any) -> None:
    """A string, or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"name: expected a string, got {value!r} of type {type(value).__name__}")


def dtype(value: Any) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        checked = np.dtype(value)
    except Exception as error:  # NumPy asks objects of others for their dtype
        _let_through(error)
        checked = None
    if value is None or checked is None or checked not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {value!r}")
    return np.dtype(checked)


# ---- arrays ----


def _real_kinds(value: Any) -> set[str]:
    """Of which kinds the columns of a data frame are, or a series; empty where some are not real numbers."""
    if hasattr(value, "columns") and hasattr(value, "dtypes"):
        dtypes = list(value.dtypes)
    else:
        dtypes = [getattr(value, "dtype", None)]
    kinds = {getattr(dtype, "kind", "O") for dtype in dtypes}
    return kinds if kinds <= set("fiub") else set()


def _column(table: Any) -> str:
    """What to say of a data frame's first column that is not numbers; nothing of other arrays."""
    if not hasattr(table, "columns") or not hasattr(table, "dtypes"):
        return ""
    for column, dtype in zip(table.columns, table.dtypes, strict=True):
        if np.asarray(table[column]).dtype.kind not in "fiub":
            cure = "make numbers of it (of categories a column of 0 and 1 each), or drop it"
            return f": column {column!r} is {dtype}; {cure}"
    return ""


@contextlib.contextmanager
def foreign(name: str, value: Any) -> Iterator[None]:
    """Whatever the methods of an object of others raise becomes a TypeError that says of which argument, and the cure;
    a ragged list is a ValueError."""
    try:
        yield
    except Exception as error:
        _let_through(error)
        if isinstance(value, (list, tuple)) and isinstance(error, ValueError):
            raise ValueError(f"{name}: expected an array of numbers, got {type(value).__name__} ({error})") from None
        words = f"{type(error).__name__}: {error}"
        raise TypeError(
            f"{name}: expected an array of numbers, got {_kind(value)}, which cannot become one ({words}); "
            f"{_cure(name.rpartition(': ')[2], value)}"
        ) from error


def _kind(value: Any) -> str:
    """A type and the package that it comes from: torch.Tensor."""
    package = type(value).__module__.partition(".")[0]
    return type(value).__name__ if package in ("builtins", "__main__") else f"{package}.{type(value).__name__}"


# What a tensor does before it is an array, by the attribute or method of it that asks for it.
_STEPS = {
    "requires_grad": "detach", "is_sparse": "to_dense", "is_sparse_csr": "to_dense", "is_quantized": "dequantize",
    "is_conj": "resolve_conj", "is_neg": "resolve_neg",
}  # fmt: skip


def _steps(value: Any) -> list[str]:
    """What a tensor does before it is an array."""
    try:
        asked = {name: getattr(value, name, False) for name in (*_STEPS, "is_cpu")}
        said = {name for name, answer in asked.items() if (answer() if callable(answer) else answer)}
        steps = [step for name, step in _STEPS.items() if name in said]
        if hasattr(value, "cpu") and "is_cpu" not in said:
            steps.append("cpu")
        if any(kind in str(getattr(value, "dtype", "")) for kind in ("bfloat16", "float8")):  # which NumPy has not
            steps.append("float")
        return steps
    except Exception as error:  # an object that cannot be asked has no steps
        _let_through(error)
        return []


def _cure(name: str, value: Any) -> str:
    """How an array can be made of what NumPy could make none of."""
    rows = isinstance(value, (list, tuple)) and len(value) > 0
    if not (steps := _steps(value[0] if rows else value)):
        return "make an ndarray of it by its own methods, and give that"
    made = ".".join(["row" if rows else name, *(f"{step}()" for step in steps), "numpy()"])
    return f"use np.stack([{made} for row in {name}])" if rows else f"use {made}"


def array(name: str, value: Any) -> np.ndarray:
    """Real numbers as an ndarray, not copied where they already are one."""
    a = value if type(value) is np.ndarray else _converted(name, value)
    if a.dtype.kind not in "fiub" or not _core.is_source(a.dtype):
        cure = ""
        if name == "y" or name.startswith("y["):
            column = ".reshape(-1)" if a.ndim > 1 and a.size == len(a) else ""
            cure = f"; for labels use np.unique({name}, return_inverse=True)[1]{column}"
        with foreign(name, value):
            column = _column(value)
        raise TypeError(f"{name}: expected real numbers, got dtype {a.dtype}{column}{cure}")
    return a


def _converted(name: str, value: Any) -> np.ndarray:
    with foreign(name, value):
        is_sparse = hasattr(value, "tocsr") or hasattr(value, "todense")
        is_masked = isinstance(value, np.ma.MaskedArray)
    if is_sparse:
        raise TypeError(f"{name}: expected a dense array, got {type(value).__name__}; use {name}.toarray()")
    if is_masked:
        raise TypeError(f"{name}: masked arrays are not supported; use {name}.filled(...)")
    with foreign(name, value):
        a = np.asarray(value)
        if a.dtype == object and a.ndim == 0 and hasattr(value, "__dlpack__"):
            a = np.from_dlpack(value)
        kinds = _real_kinds(value) if a.dtype == object else set()
    if a.dtype == object and a.size == 0:  # a data frame without rows has columns of no type
        return np.empty(a.shape)
    if kinds:  # several types of columns, or some with a mask
        with foreign(name, value):
            try:
                return np.asarray(value, {"i": "i8", "u": "u8", "b": "?"}.get("".join(kinds), "f8"))
            except (ValueError, TypeError):
                pass
        raise ValueError(f"{name}: expected finite numbers, and some are missing; use {name}.fillna(...)")
    return a


def is_sparse(name: str, value: Any) -> bool:
    """Whether it is a sparse matrix or array of SciPy's."""
    if type(value) is np.ndarray:
        return False
    with foreign(name, value):
        return hasattr(value, "tocsr") and hasattr(value, "format")


def csr(name: str, X: Any) -> Any:
    """A CSR or CSC matrix of SciPy's, of real numbers, as CSR; ValueError where its indices lead out of it."""
    if len(X.shape) != 2:
        raise ValueError(f"{name}: expected rows, (n, columns), got shape {X.shape}; use {name}.reshape(1, -1).tocsr()")
    if X.format not in ("csr", "csc"):
        raise TypeError(f"{name}: expected a CSR or CSC matrix, got {type(X).__name__}; use {name}.tocsr()")
    if X.format == "csc":
        _check_indices(name, X, X.shape[1], X.shape[0])
        X = X.tocsr()
    _check_indices(name, X, *X.shape)
    array(name, X.data)
    return X


def _check_indices(name: str, X: Any, n: int, width: int) -> None:
    """Of a compressed matrix: n rows of `width` columns, or by columns the other way round."""
    indptr, used = X.indptr, X.indices[: int(X.indptr[-1])]
    right = (
        indptr.dtype.kind in "iu"
        and used.dtype.kind in "iu"
        and indptr.shape == (n + 1,)
        and indptr[0] == 0
        and (indptr[:-1] <= indptr[1:]).all()
    )
    right = right and len(used) == indptr[-1] <= len(X.data) and X.data.ndim == used.ndim == 1
    if not right or (len(used) and not (used.min() >= 0 and used.max() < width)):
        raise ValueError(
            f"{name}: expected a sparse matrix with indices inside its shape {X.shape}, got one with others; "
            f"{name}.check_format() says more"
        )


# ---- shapes ----


def _reshaped(name: str, value: Any, shape: str) -> str:
    """An expression for the same numbers in another shape, in terms of what came."""
    if shape == "-1, 1" and hasattr(type(value), "to_frame"):  # a series
        return f"{name}.to_frame()"
    if hasattr(type(value), "to_numpy"):
        return f"{name}.to_numpy().reshape({shape})"
    return f"{name}.reshape({shape})" if hasattr(type(value), "reshape") else f"np.reshape({name}, ({shape}))"


def _whole(name: str, value: Any) -> str:
    """An expression for the same numbers as integers, in terms of what came."""
    return f"{name}.astype(int)" if hasattr(type(value), "astype") else f"np.asarray({name}).astype(int)"


def _longer(shape: Sequence[int]) -> list[int]:
    """The axes of more than one."""
    return [size for size in shape if size != 1]


def as_shape(name: str, value: Any, got: Sequence[int], wanted: Sequence[int]) -> str:
    """The cure where only axes of one are more or fewer than wanted; else nothing."""
    if _longer(got) != _longer(wanted):
        return ""
    return f"; use {_reshaped(name, value, ', '.join(map(str, wanted)))}"


def as_rows(name: str, value: Any, got: Sequence[int], shape: Sequence[int]) -> str:
    """The cure where the numbers are rows of `shape`, flattened or with axes of one more or fewer; else nothing."""
    n, rest = divmod(math.prod(got), math.prod(shape))
    if n == 0 or rest or (_longer(got) != _longer((n, *shape)) and tuple(got) != (n, math.prod(shape))):
        return ""
    to = "1, -1" if n == len(shape) == 1 else ", ".join(map(str, (-1, *shape)))
    return f"; for {'one row' if n == 1 else f'{n} rows'} use {_reshaped(name, value, to)}"


def _find(name: str, a: np.ndarray | _core.SparseRows, dtype: np.dtype[Any], low: float, high: float) -> None:
    values = a.data if isinstance(a, _core.SparseRows) else a
    where = _scan(values, dtype, low, high)
    if where is None:
        return
    value = values[where]
    index = a.place(*where) if isinstance(a, _core.SparseRows) else where
    place = f"{name}[{', '.join(map(str, index))}] is {value!s}"
    if not np.isfinite(value):
        raise ValueError(f"{name}: expected finite numbers; {place}")
    if not low <= value <= high:
        span = "above 0" if value <= 0 < low else f"from {low:.15g} to {high:.15g}"
        raise ValueError(f"{name}: expected numbers {span}; {place}")
    cure = ", or use dtype='float64'" if dtype == np.float32 else ""
    raise ValueError(f"{name}: {place}, which overflows {dtype}; scale it{cure}")


def _scan(a: np.ndarray, dtype: np.dtype[Any], low: float, high: float) -> tuple[int, ...] | None:
    """Index of the first number that is not finite in dtype, or outside low..high."""
    if a.ndim <= 2:
        where = _core.scan(a, dtype, low, high)
        return where if where is None or a.ndim == 2 else where[:1]
    if not a.size:
        return None
    cols = math.prod(a.shape[1:])
    for first in range(0, len(a), block := max(1, 2**20 // cols)):  # reshaped, some arrays are copied: a block of them
        where = _core.scan(a[first : first + block].reshape(-1, cols), dtype, low, high)
        if where is not None:
            return first + where[0], *map(int, np.unravel_index(where[1], a.shape[1:]))
    return None


def parts(name: str, value: Any, names: Sequence[str]) -> list[tuple[str, Any]]:
    """What belongs to each name: the value itself where there is one, else from a list or a dict by name."""
    table = None
    if type(value) is not np.ndarray:
        with foreign(name, value):
            table = dict(value) if isinstance(value, Mapping) and not hasattr(value, "__array__") else None
    if table is not None:
        if set(table) != set(names):
            got = ", ".join(map(str, table)) or "an empty dict"
            raise ValueError(f"{name}: expected the keys {', '.join(names)}, got {got}")
        return [(f"{name}[{key!r}]", table[key]) for key in names]
    if len(names) == 1:
        return [(name, value)]
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        got = f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
        raise ValueError(f"{name}: expected a list of {len(names)} ({', '.join(names)}) or a dict by name, got {got}")
    return [(f"{name}[{i}]", part) for i, part in enumerate(value)]


def feature_names(name: str, value: Any) -> tuple[str, ...]:
    """Names of a data frame's columns; none where they are not all strings, or one is there twice."""
    if isinstance(value, (np.ndarray, list, tuple)):
        return ()
    with foreign(name, value):
        columns = getattr(value, "columns", ())
        names = tuple(columns) if isinstance(columns, Iterable) else ()
    strings = all(isinstance(each, str) for each in names)
    return tuple(map(str, names)) if strings and len(set(names)) == len(names) else ()


def feature_names_of(name: str, value: Any, nodes: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    """The same by input, of those that have one for each number of an example."""
    if type(value) is np.ndarray:
        return {}
    given = parts(name, value, [node.name for node in nodes])
    names = {node.name: feature_names(*part) for node, part in zip(nodes, given, strict=True)}
    return {node.name: each for node in nodes if (each := names[node.name]) and node.shape == (len(each),)}


def _listed(names: Iterable[str]) -> str:
    """Names for a message, and how many more there are."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def columns(name: str, value: Any, known: Mapping[str, tuple[str, ...]], key: str) -> None:
    """ValueError for a data frame of other columns, or in another order, than those `known` of the input `key`."""
    if key not in known or not (got := feature_names(name, value)) or got == known[key]:
        return
    missing = [each for each in known[key] if each not in got]
    unexpected = [each for each in got if each not in known[key]]
    right = str(list(known[key]))
    if len(known[key]) > 8:
        right = "list(X.columns)" if name == "validation_data[0]" else f"list(net.feature_names[{key!r}])"
    cure = f"use {name}[{right}]"
    if missing:
        cure = f"rename them, or give {name}.to_numpy(), which has no names"
    what = f"missing: {_listed(missing)}; " if missing else ""
    what += f"unexpected: {_listed(unexpected)}; " if unexpected else ""
    if not what:
        what = f"they are in another order, {_listed(got)}; "
    raise ValueError(f"{name}: expected the columns that fit saw, {_listed(known[key])}; {what}{cure}")


def inputs(
    value: Any, nodes: Sequence[Any], dtype: np.dtype[Any], check_finite: bool = True, name: str = "X", *,
    known: Mapping[str, tuple[str, ...]] = MappingProxyType({}), empty: bool = False,
    sparse: Callable[[int], str | None] | None = None,
) -> list[Any]:  # fmt: skip
    """X: an array, or SparseRows, for each input node, real numbers, finite once rounded to the network's dtype.

    known: names of columns by input, which data frames must have.  empty: whether no rows will do.
    sparse: why input i cannot be sparse, or None; without it the call takes no sparse ones.
    """
    node = nodes[0]
    plain = len(nodes) == 1 and len(node.shape) == 1 and check_finite and not node.layer.integer
    if plain and _core.ready(value, node.shape[0], dtype):
        return [value]
    arrays = []
    for i, (node, (where, part)) in enumerate(
        zip(nodes, parts(name, value, [node.name for node in nodes]), strict=True)
    ):
        columns(where, part, known, node.name)
        rows = sparse_rows(where, part, sparse(i)) if sparse and is_sparse(where, part) else part
        arrays.append(_input(rows, node, dtype, check_finite, where, empty))
        if len(arrays[-1]) != len(arrays[0]):
            counts = ", ".join(str(len(a)) for a in arrays)
            raise ValueError(f"{name}: expected as many rows in each input, got {counts}")
    return arrays


def sparse_rows(name: str, value: Any, why_not: str | None) -> _core.SparseRows:
    """A CSR or CSC matrix of SciPy's, checked; TypeError where an input cannot be one."""
    if why_not is not None:
        raise TypeError(
            f"{name}: expected a dense array, since {why_not}, got {type(value).__name__}; use {name}.toarray()"
        )
    return _core.SparseRows(csr(name, value))


def _input(value: Any, node: Any, dtype: np.dtype[Any], check_finite: bool, name: str, empty: bool) -> np.ndarray:
    a: Any = value if isinstance(value, _core.SparseRows) else array(name, value)
    shape = node.shape
    words = ", ".join(map(str, shape))
    if a.ndim != 1 + len(shape):
        raise ValueError(f"{name}: expected shape (n, {words}), got {a.shape}{as_rows(name, value, a.shape, shape)}")
    if a.shape[0] == 0 and not empty:
        raise ValueError(f"{name}: expected at least one row, got shape {a.shape}")
    if a.shape[1:] != shape:
        what = f" for a network with {words} input{'s' * (shape[0] > 1)}" if len(shape) == 1 else ""
        raise ValueError(
            f"{name}: expected shape (n, {words}){what}, got {a.shape}{as_rows(name, value, a.shape, shape)}"
        )
    if node.layer.integer:
        if a.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected whole numbers, got dtype {a.dtype}; use {_whole(name, value)}")
        _find(name, a, np.dtype(np.float64), 0, node.n_labels - 1)
    elif check_finite and a.dtype.kind == "f":
        _find(name, a, dtype, -math.inf, math.inf)
    return a


def weights(
    value: Any, n: int, positions: tuple[int, ...], dtype: np.dtype[Any], name: str = "sample_weight", *,
    zeros: bool = False,
) -> np.ndarray | None:  # fmt: skip
    """Of examples: (n,), or (n, *positions) where the output has some; finite, not negative, and unless `zeros` will do
    not all zero."""
    if value is None:
        return None
    a = array(name, value)
    if a.shape not in ((n,), (n, *positions)):
        masks = f" or {(n, *positions)}" if positions else ""
        cure = as_shape(name, value, a.shape, (n,))
        raise ValueError(f"{name}: expected shape ({n},){masks}, got {a.shape}{cure}")
    _find(name, a, dtype, 0.0, math.inf)
    top = float(a.max())
    if not top and not zeros:
        raise ValueError(f"{name}: expected at least one weight above zero, got only zeros")
    if 0 < top < np.finfo(dtype).tiny:
        raise ValueError(f"{name}: expected a weight that {dtype} can hold, got at most {top}; scale them")
    if top > 1e15:
        raise ValueError(f"{name}: expected weights up to 1e15, got {top}; scale them, only ratios count")
    if a.ndim > 1 and math.prod(positions) == 1:
        return (a > 0).reshape(n)  # where it counts, its weight is all of its sequence's
    return a


def order(value: Any, n: int) -> np.ndarray:
    """state.order: (n,) integers from 0 to n - 1, as int64."""
    a = array("state.order", value)
    if a.shape != (n,) or a.dtype.kind not in "iu":
        raise ValueError(f"state.order: expected {n} integers, got dtype {a.dtype} and shape {a.shape}")
    if a.min() < 0 or a.max() >= n:
        raise ValueError(f"state.order: expected row numbers from 0 to {n - 1}, got {a.min()} to {a.max()}")
    return np.array(a, np.int64)


class Target(NamedTuple):
    """y as a plan reads it: `cols` numbers a row, whole numbers kept as such, `shape` of a row as the user gave it."""

    array: np.ndarray
    cols: int
    is_integer: bool
    shape: tuple[int, ...]


def _rows(name: str, value: Any, n: int, flat: bool) -> np.ndarray:
    """y as an array of n rows; flat: whether (n,) will do."""
    a = array(name, value)
    if a.ndim == 0 or a.shape[0] != n:
        cure = as_shape(name, value, a.shape, (n,)) if flat else ""
        raise ValueError(f"{name}: expected {n} rows as in X, got shape {a.shape}{cure}")
    return a


def any_target(
    value: Any, n: int, n_out: int, dtype: np.dtype[Any], check_finite: bool = True, name: str = "y"
) -> Target:
    """y for a loss of the user's: n rows of any shape, (n,) becoming (n, 1) where n_out is 1; whole numbers must fit
    int32."""
    a = _rows(name, value, n, n_out == 1)
    if a.ndim == 1 and n_out == 1:
        a = a[:, None]  # else a - y would be (n, n)
    shape, cols = a.shape[1:], math.prod(a.shape[1:])
    if cols == 0:
        raise ValueError(f"{name}: expected at least one number a row, got shape {a.shape}")
    flat = a if a.ndim <= 2 else a.reshape(n, cols)
    if a.dtype.kind != "f":
        _find(name, flat, np.dtype(np.float64), -(2.0**31), 2.0**31 - 1)
    elif check_finite:
        _find(name, flat, dtype, -math.inf, math.inf)
    return Target(flat, cols, a.dtype.kind != "f", shape)


def _distributions(name: str, a: np.ndarray, loss: str) -> None:
    """Along the last axis probabilities that sum to 1, up to the rounding of float16 or to three digits."""
    step = max(1, 2**16 // math.prod(a.shape[1:]))
    for first in range(0, len(a), step):
        sums = np.einsum("...j->...", a[first : first + step], dtype=np.float64, casting="same_kind")
        wrong = np.abs(sums - 1) > 2e-3
        if wrong.any():
            index = np.argwhere(wrong)[0]
            place = ", ".join(map(str, index + [first, *[0] * (index.size - 1)]))
            cure = "divide each row by its sum, and give what a row is to count for as sample_weight"
            several = "for classes that do not exclude each other use logistic outputs and binary_cross_entropy"
            raise ValueError(
                f"{name}: expected rows of probabilities that sum to 1 for {loss}; {name}[{place}] sums to "
                f"{sums[tuple(index)]:g}; {cure}; {several}"
            )


def _signs(name: str, a: np.ndarray, loss: str) -> None:
    """Numbers that are -1 or 1."""
    step = max(1, 2**16 // math.prod(a.shape[1:]))
    for first in range(0, len(a), step):
        wrong = np.abs(a[first : first + step]) != 1
        if wrong.any():
            index = np.argwhere(wrong)[0] + [first, *[0] * (a.ndim - 1)]
            place = ", ".join(map(str, index))
            raise ValueError(
                f"{name}: expected -1 or 1 for {loss}; {name}[{place}] is {a[tuple(index)]!s}; for 0 and 1 give "
                f"2 * {name} - 1"
            )


def target(
    value: Any,
    n: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    classes: bool,
    low: float,
    high: float,
    sums_to_1: str,
    signs: str,
    check_finite: bool = True,
    name: str = "y",
) -> Target:
    """y for a loss of bpcore's: (n, *shape), without the last axis where that is 1, or class labels without it where
    the loss takes them.  sums_to_1, signs: the loss for which rows sum to 1, or numbers are -1 or 1; else empty."""
    a = _rows(name, value, n, len(shape) == 1 and (classes or shape[-1] == 1))
    n_out, short_shape = shape[-1], (n, *shape[:-1])
    if classes and a.ndim == len(shape):
        if a.dtype.kind == "f":
            _find(name, a, np.dtype(np.float64), -math.inf, math.inf)
            whole = (a == np.floor(a)).all()
            cure = f"use {_whole(name, value)}" if whole else "for probabilities give (n, n_outputs)"
            raise TypeError(f"{name}: class labels must be integers, got dtype {a.dtype}; {cure}")
        if a.shape != short_shape:
            raise ValueError(f"{name}: expected class labels of shape {short_shape}, got {a.shape}")
        try:
            _find(name, a, np.dtype(np.float64), 0, n_out - 1)
        except ValueError as error:
            cure = f"class labels count from 0, and the network has {n_out} outputs"
            if n_out == 1:
                cure = "the network has one output; use bp.Dense(2, 'softmax'), or for 0 and 1 bp.Dense(1, 'logistic')"
            raise ValueError(f"{error}; {cure}") from None
        return Target(a, math.prod(shape[:-1]), True, shape[:-1])
    if a.shape != (n, *shape) and not (n_out == 1 and a.shape == short_shape):
        words = ", ".join(map(str, shape))
        short = f" or ({', '.join(map(str, short_shape))}{',' * (len(shape) == 1)})" if n_out == 1 or classes else ""
        cure = ""
        if a.ndim < len(shape):
            cure = "; the output has positions: bp.Reshape(-1), pooling or a last state before it leaves one"
        elif a.shape == (n,):
            cure = "; class labels are for softmax and cross_entropy, other losses want a column an output"
        elif classes and a.shape == (n, 1):
            cure = f"; for class labels use {_reshaped(name, value, '-1')}"
        else:
            cure = as_shape(name, value, a.shape, (n, *shape))
        raise ValueError(f"{name}: expected shape ({n}, {words}){short}, got {a.shape}{cure}")
    if check_finite and (a.dtype.kind == "f" or low > -math.inf or high < math.inf):
        _find(name, a, dtype, low, high)
    if check_finite and sums_to_1:
        _distributions(name, a, sums_to_1)
    if check_finite and signs:
        _signs(name, a, signs)
    return Target(a, math.prod(shape), False, a.shape[1:])


def rows(name: str, value: Any, n: int) -> np.ndarray:
    """Which of n rows, (m,) int64, a copy: what C reads must not change."""
    a = array(name, value)
    cure = "; for a mask use np.flatnonzero(mask)" if a.dtype.kind == "b" else ""
    if a.ndim != 1 or a.dtype.kind not in "iu" or not a.size:
        raise ValueError(f"{name}: expected (m,) integers, m > 0, got dtype {a.dtype} and shape {a.shape}{cure}")
    if a.min() < 0 or a.max() >= n:
        raise ValueError(f"{name}: expected row numbers from 0 to {n - 1}, got {a.min()} to {a.max()}")
    return np.array(a, np.int64)


def parameters(name: str, value: Any, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Finite numbers of exactly this shape, in the network's dtype."""
    a = array(name, value)
    if a.shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {a.shape}{as_shape(name, value, a.shape, shape)}")
    if a.size:
        _find(name, a if a.ndim <= 2 else a.reshape(a.shape[0], -1), dtype, -math.inf, math.inf)
    return a.astype(dtype)
