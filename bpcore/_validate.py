"""Every check of what comes in: ValueError or TypeError that names the argument, what was expected and what came."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bpcore import _core

MAX_UNITS = 2**31 - 1


# ---- single values ----


def integer(name: str, value: Any, low: int, high: int) -> int:
    """An int (or NumPy integer) in low..high."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r} of type {type(value).__name__}") from None
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
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {value!r}") from None
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


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def switch(name: str, value: Any) -> bool:
    """True or False, or 1 or 0."""
    return flag(name, bool(value) if isinstance(value, (int, np.integer)) and value in (0, 1) else value)


# What other libraries call it.
ELSEWHERE = {
    "sigmoid": "logistic", "linear": "identity", "swish": "silu", "leakyrelu": "leaky_relu",
    "hardsigmoid": "hard_sigmoid", "hardtanh": "hard_tanh",
    "mean_squared_error": "mse", "mseloss": "mse", "l2": "mse", "crossentropyloss": "cross_entropy",
    "categorical_crossentropy": "cross_entropy", "sparse_categorical_crossentropy": "cross_entropy",
    "log_loss": "cross_entropy", "nll": "cross_entropy", "binary_crossentropy": "binary_cross_entropy",
    "bce": "binary_cross_entropy", "bceloss": "binary_cross_entropy",
}  # fmt: skip


def choice(name: str, value: Any, valid: Iterable[str]) -> str:
    """One of the valid names; the error lists them and the nearest."""
    names = list(valid)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(names)}, got {value!r} of type {type(value).__name__}")
    if value not in names:
        import difflib

        lower = value.lower()
        near = [ELSEWHERE[lower]] if ELSEWHERE.get(lower) in names else difflib.get_close_matches(lower, names, 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}: there is no {value!r}.{hint} Valid names: {', '.join(names)}")
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
    except TypeError:
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


def array(name: str, value: Any) -> np.ndarray:
    """Real numbers as an ndarray, not copied where they already are one."""
    if hasattr(value, "tocsr") or hasattr(value, "todense"):
        raise TypeError(f"{name}: expected a dense array, got {type(value).__name__}; use {name}.toarray()")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: masked arrays are not supported; use {name}.filled(...)")
    try:
        a = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: expected an array of numbers, got {type(value).__name__} ({error})") from None
    if a.dtype == object and (kinds := _real_kinds(value)):  # several types of columns, or some with a mask
        try:
            a = np.asarray(value, {"i": "i8", "u": "u8", "b": "?"}.get("".join(kinds), "f8"))
        except (ValueError, TypeError):
            raise ValueError(f"{name}: expected finite numbers, and some are missing; use {name}.fillna(...)") from None
    if a.dtype.kind not in "fiub" or not _core.is_source(a.dtype):
        cure = f"; for labels use np.unique({name}, return_inverse=True)[1]" if name == "y" else ""
        raise TypeError(f"{name}: expected real numbers, got dtype {a.dtype}{_column(value)}{cure}")
    return a


def csr(name: str, X: Any) -> Any:
    """A CSR or CSC matrix of SciPy's, of real numbers, as CSR; ValueError where its indices lead out of it."""
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
        raise ValueError(f"{name}: expected numbers from {low:.15g} to {high:.15g}; {place}")
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
    if isinstance(value, Mapping) and not hasattr(value, "__array__"):
        if set(value) != set(names):
            got = ", ".join(map(str, value)) or "an empty dict"
            raise ValueError(f"{name}: expected the keys {', '.join(names)}, got {got}")
        return [(f"{name}[{key!r}]", value[key]) for key in names]
    if len(names) == 1:
        return [(name, value)]
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        got = f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
        raise ValueError(f"{name}: expected a list of {len(names)} ({', '.join(names)}) or a dict by name, got {got}")
    return [(f"{name}[{i}]", part) for i, part in enumerate(value)]


def inputs(
    value: Any, nodes: Sequence[Any], dtype: np.dtype[Any], check_finite: bool = True, name: str = "X"
) -> list[np.ndarray]:
    """X: an array for each input node, real numbers, finite once rounded to the network's dtype."""
    node = nodes[0]
    plain = len(nodes) == 1 and len(node.shape) == 1 and check_finite and not node.layer.integer
    if plain and _core.ready(value, node.shape[0], dtype):
        return [value]
    arrays = []
    for node, (where, part) in zip(nodes, parts(name, value, [node.name for node in nodes]), strict=True):
        arrays.append(_input(part, node, dtype, check_finite, where))
        if len(arrays[-1]) != len(arrays[0]):
            counts = ", ".join(str(len(a)) for a in arrays)
            raise ValueError(f"{name}: expected as many rows in each input, got {counts}")
    return arrays


def _input(value: Any, node: Any, dtype: np.dtype[Any], check_finite: bool, name: str) -> np.ndarray:
    a: Any = value if isinstance(value, _core.SparseRows) else array(name, value)
    shape = node.shape
    words = ", ".join(map(str, shape))
    if a.ndim != 1 + len(shape):
        cure = ""
        if a.shape in (shape, (math.prod(a.shape),)):
            cure = f"; for one row use {name}.reshape(1, -1)" if len(shape) == 1 else f"; for one use {name}[None]"
        raise ValueError(f"{name}: expected shape (n, {words}), got {a.shape}{cure}")
    if a.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one row, got shape {a.shape}")
    if a.shape[1:] != shape:
        what = f" for a network with {words} inputs" if len(shape) == 1 else ""
        raise ValueError(f"{name}: expected shape (n, {words}){what}, got {a.shape}")
    if node.layer.integer:
        if isinstance(a, _core.SparseRows):
            raise TypeError(
                f"{name}: expected a dense array of whole numbers, got a sparse matrix; use {name}.toarray()"
            )
        if a.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected whole numbers, got dtype {a.dtype}; use {name}.astype(int)")
        _find(name, a, np.dtype(np.float64), 0, node.n_labels - 1)
    elif check_finite and a.dtype.kind == "f":
        _find(name, a, dtype, -math.inf, math.inf)
    return a


def weights(value: Any, n: int, positions: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray | None:
    """sample_weight: (n,), or (n, *positions) where the output has some; finite, not negative, not all zero."""
    if value is None:
        return None
    a = array("sample_weight", value)
    if a.shape not in ((n,), (n, *positions)):
        masks = f" or {(n, *positions)}" if positions else ""
        raise ValueError(f"sample_weight: expected shape ({n},){masks}, got {a.shape}")
    _find("sample_weight", a, dtype, 0.0, math.inf)
    if not a.any():
        raise ValueError("sample_weight: expected at least one weight above zero, got only zeros")
    top = float(a.max())
    if top < np.finfo(dtype).tiny:
        raise ValueError(f"sample_weight: expected a weight that {dtype} can hold, got at most {top}; scale them")
    if top > 1e15:
        raise ValueError(f"sample_weight: expected weights up to 1e15, got {top}; scale them, only ratios count")
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


def _rows(name: str, value: Any, n: int) -> np.ndarray:
    a = array(name, value)
    if a.ndim == 0 or a.shape[0] != n:
        raise ValueError(f"{name}: expected {n} rows as in X, got shape {a.shape}")
    return a


def any_target(
    value: Any, n: int, n_out: int, dtype: np.dtype[Any], check_finite: bool = True, name: str = "y"
) -> Target:
    """y for a loss of the user's: n rows of any shape, (n,) becoming (n, 1) where n_out is 1; whole numbers must fit
    int32."""
    a = _rows(name, value, n)
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


def _distributions(name: str, a: np.ndarray) -> None:
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
                f"{name}: expected rows of probabilities that sum to 1 for cross_entropy; {name}[{place}] sums to "
                f"{sums[tuple(index)]:g}; {cure}; {several}"
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
    check_finite: bool = True,
    name: str = "y",
) -> Target:
    """y for a loss of bpcore's: (n, *shape), without the last axis where that is 1, or class labels without it where
    the loss takes them."""
    a = _rows(name, value, n)
    n_out, short_shape = shape[-1], (n, *shape[:-1])
    if classes and a.ndim == len(shape):
        if a.dtype.kind == "f":
            _find(name, a, np.dtype(np.float64), -math.inf, math.inf)
            whole = (a == np.floor(a)).all()
            cure = f"use {name}.astype(int)" if whole else "for probabilities give (n, n_outputs)"
            raise TypeError(f"{name}: class labels must be integers, got dtype {a.dtype}; {cure}")
        if a.shape != short_shape:
            raise ValueError(f"{name}: expected class labels of shape {short_shape}, got {a.shape}")
        _find(name, a, np.dtype(np.float64), 0, n_out - 1)
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
            cure = f"; for class labels use {name}.ravel()"
        raise ValueError(f"{name}: expected shape ({n}, {words}){short}, got {a.shape}{cure}")
    if check_finite and (a.dtype.kind == "f" or low > -math.inf or high < math.inf):
        _find(name, a, dtype, low, high)
    if check_finite and classes:
        _distributions(name, a)
    return Target(a, math.prod(shape), False, a.shape[1:])


def parameters(name: str, value: Any, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Finite numbers of exactly this shape, in the network's dtype."""
    a = array(name, value)
    if a.shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {a.shape}")
    if a.size:
        _find(name, a if a.ndim <= 2 else a.reshape(a.shape[0], -1), dtype, -math.inf, math.inf)
    return a.astype(dtype)
