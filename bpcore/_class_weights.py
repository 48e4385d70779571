"""class_weight of `fit`: a weight for each class becomes a weight for each row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bpcore import _losses, _validate
from bpcore._data import Data

_BLOCK = 1 << 16  # rows at a time


def weigh(class_weight: Any, data: Data, validation: Data | None) -> tuple[Data, Data | None]:
    """Both, each row's loss times the weight of its class, which "balanced" learns from `data` alone.

    TypeError or ValueError for what is no weight of classes, and for targets that are no classes.
    """
    table = table_of(class_weight, data)
    if table is None:
        return data, validation
    return weighted(data, table), None if validation is None else weighted(validation, table)


def table_of(class_weight: Any, data: Data) -> np.ndarray | None:
    """The weight of each class, which "balanced" learns from the data; None where classes have none."""
    if class_weight is None:
        return None
    is_balanced = isinstance(class_weight, str) and class_weight == "balanced"
    if not is_balanced and not isinstance(class_weight, Mapping):
        words = f"class_weight: expected 'balanced' or {{label: weight}}, got {class_weight!r}"
        if isinstance(class_weight, str):
            raise ValueError(words)
        cure = "; use dict(enumerate(class_weight))" if isinstance(class_weight, (list, tuple, np.ndarray)) else ""
        raise TypeError(f"{words} of type {type(class_weight).__name__}{cure}")
    labels, counts = _labels(data), _counts(data)
    if isinstance(class_weight, Mapping):
        return _named(class_weight, data.classes or labels, counts)
    occurring = counts > 0
    table = np.ones(len(labels))
    table[occurring] = counts.sum() / (occurring.sum() * counts[occurring])
    return table


def classes(data: Data) -> np.ndarray | None:
    """The number of each row's class, (n,); None where targets are no classes, or there are several outputs."""
    try:
        _labels(data)
        rows = (block if data.rows is None else data.rows[block] for block in _blocks(data.n))
        return np.concatenate([_classes(data, block) for block in rows])
    except ValueError:
        return None


def _labels(data: Data) -> range | tuple[int, int]:
    """The classes of the only output; ValueError where an example has none, or several."""
    loss, output = data.losses[0].loss, data.outputs[0]
    cure = "weights of rows are sample_weight"
    if len(data.losses) > 1:
        raise ValueError(f"class_weight: expected a network of one output, got {len(data.losses)}; {cure}")
    if not _losses.has_accuracy(loss):
        raise ValueError(
            "class_weight: expected a loss of classes (cross_entropy, categorical_focal, binary_cross_entropy, "
            f"focal, hinge, squared_hinge), got {loss.name or loss!r}; {cure}"
        )
    if len(output.shape) > 1:
        raise ValueError(f"class_weight: expected one class an example, got outputs of shape {output.shape}; {cure}")
    if loss.takes_classes:
        return range(output.n_out)
    if output.n_out > 1:
        raise ValueError(
            f"class_weight: expected one class an example, and {loss.name} of {output.n_out} outputs has as many; "
            f"softmax outputs and cross_entropy have one, else {cure}"
        )
    return int(loss.low), int(loss.high)


def _classes(data: Data, rows: np.ndarray | slice) -> np.ndarray:
    """The numbers of these rows' classes, (m,)."""
    loss, target = data.losses[0].loss, data.targets[0]
    y = target.array[rows]
    if target.is_integer and loss.takes_classes:
        return y.astype(np.intp, copy=False)
    if loss.takes_classes:
        numbers, wrong = y.argmax(axis=1), (y != 0).sum(axis=1) + (y == 1).sum(axis=1) != 2
        expected = "rows of one 1 and else 0"
    else:
        y = y.reshape(len(y))
        numbers, wrong = (y == loss.high).astype(np.intp), (y != loss.low) & (y != loss.high)
        expected = f"{loss.low:g} or {loss.high:g}"
    if wrong.any():
        k = int(wrong.argmax())
        row = range(len(target.array))[rows][k] if isinstance(rows, slice) else rows[k]
        raise ValueError(
            f"class_weight: expected targets that are classes, {expected}; {data.called[1]}[{row}] is "
            f"{y[k].tolist()}; weights of rows are sample_weight"
        )
    return numbers


def _blocks(n: int) -> Iterator[slice]:
    return (slice(first, min(first + _BLOCK, n)) for first in range(0, n, _BLOCK))


def _counts(data: Data) -> np.ndarray:
    """The sum of the weights of each class's rows, among those that the data is."""
    counts = np.zeros(len(_labels(data)))
    for block in _blocks(data.n):
        rows = block if data.rows is None else data.rows[block]
        weight = None if data.weight is None else np.asarray(data.weight[rows], float)
        counts += np.bincount(_classes(data, rows), weight, len(counts))
    return counts


def _named(given: Mapping[Any, Any], labels: range | tuple[Any, ...], counts: np.ndarray) -> np.ndarray:
    """The weight of each class, 1 of those that are not named."""
    table, named = np.ones(len(labels)), np.zeros(len(labels), bool)
    for label, weight in given.items():
        if label not in labels:
            is_range = isinstance(labels, range)
            shown = f"{labels[0]} to {labels[-1]}" if is_range else ", ".join(map(repr, labels[:8]))
            raise ValueError(f"class_weight: expected the labels {shown}, got {label!r}")
        table[labels.index(label)] = _validate.real(f"class_weight[{label!r}]", weight)
        named[labels.index(label)] = True
    occurring = ", ".join(str(labels[k]) for k in np.flatnonzero(counts)[:8])
    if not (named & (counts > 0)).any():
        raise ValueError(f"class_weight: expected a class that occurs among the rows ({occurring}, ...), got {given!r}")
    if not (table * counts).any():
        raise ValueError(f"class_weight: expected a weight above zero for a class that occurs ({occurring}, ...)")
    return table


def weighted(data: Data, table: np.ndarray) -> Data:
    """The data, each row's loss times the weight of its class, in the network's dtype."""
    n, dtype = len(data.arrays[0]), data.dtype
    weight = np.empty(n, dtype)
    for rows in _blocks(n):
        own = 1.0 if data.weight is None else np.asarray(data.weight[rows], float)
        with np.errstate(over="ignore"):
            weight[rows] = table[_classes(data, rows)] * own
    of_rows = weight if data.rows is None else weight[data.rows]
    top = float(of_rows.max())
    least = 0.0 if data.in_blocks and top == 0 else np.finfo(dtype).tiny
    if not least <= top <= 1e15 or not math.isfinite(top):
        raise ValueError(
            f"class_weight: expected weights of the rows of {data.called[0]} up to 1e15, one above zero, got at most "
            f"{top:g}; only ratios count"
        )
    return data.weighted(weight)
