"""What to change where training diverged, by what the data, the loss and the optimiser are."""

from __future__ import annotations

import math

import numpy as np

from bpcore import _core, _standardize
from bpcore._data import Data
from bpcore._losses import BuiltIn
from bpcore._model import Model

LARGE = 20.0  # |x|; of standardised data it is rare
_RUNAWAY = 1e4  # a parameter
_BLOCK = 1 << 20  # elements: a signal is heard between blocks


def on_divergence(model: Model, data: Data, lr: float | None) -> str:
    """Sentences: what of X and y is large, whether the loss is stable with the output, and the learning rate."""
    sentences = [_to_scale(name, top, cure) for name, top, cure in _numbers(model, data) if top > LARGE]
    for weighted, node in zip(data.losses, data.outputs, strict=True):
        loss, activation = weighted.loss, getattr(node.layer, "activation", None)
        if isinstance(loss, BuiltIn) and loss.fused_with not in (None, activation):
            sentences.append(f"Use {loss.name} with {loss.fused_with} outputs, with which it is stable.")
    if lr is not None:
        sentences.append(f"Lower lr, which is {lr:g}.")
    if (top := _largest(model.theta)) > _RUNAWAY:
        sentences.append(f"Parameters reach {top:.3g} by now: begin with a new network.")
    return " ".join(sentences)


def on_targets(model: Model, data: Data) -> list[str]:
    """A sentence for each y that is large, of a loss for which its units do not matter."""
    suited = {node.name for node, own in zip(data.outputs, data.losses, strict=True) if _standardize.suits(own, node)}
    called = {f"y[{name!r}]" for name in suited} | ({"y"} if suited else set())  # y: of the only output
    return [
        _to_scale(name, top, cure)[:-1] for name, top, cure in _numbers(model, data) if name in called and top > LARGE
    ]


def _to_scale(name: str, top: float, cure: str) -> str:
    if not math.isfinite(top):
        return f"{name} has numbers that are not finite: without check_finite=False the error says where."
    return f"{name} reaches {top:.3g}: scale it, ({name} - {name}.mean(axis=0)) / {name}.std(axis=0){cure}."


def _numbers(model: Model, data: Data) -> list[tuple[str, float, str]]:
    """The largest |x| of each array of real numbers that the network reads as it is, by what the caller calls it, and
    what else would scale it; those of y that are no classes."""
    graph, cure = model.graph, ", or by bp.Standardize() behind its bp.Input"
    several = len(model.inputs) > 1
    named = [(f"X[{node.name!r}]" if several else "X", array, cure)
             for number, node, array in zip(graph.inputs, model.inputs, data.arrays, strict=True)
             if not node.layer.integer and graph.is_read(number)]  # fmt: skip
    several = len(data.outputs) > 1
    for node, weighted, target in zip(data.outputs, data.losses, data.targets, strict=True):
        if not getattr(weighted.loss, "takes_classes", False) and node.name not in model.target_moments:
            cure = ", or by fit(standardize_y=True) of a new network" if _standardize.suits(weighted, node) else ""
            named.append((f"y[{node.name!r}]" if several else "y", target.array, cure))
    return [(name, _largest(array, data.rows), cure) for name, array, cure in named]


def _largest(array: np.ndarray | _core.SparseRows, rows: np.ndarray | None = None) -> float:
    """max |x|, of these rows or of all; infinity where one is NaN, 0 of nothing."""
    if isinstance(array, _core.SparseRows):
        array, rows = array.data, None
    most = max(1, _BLOCK // max(1, math.prod(array.shape[1:])))
    top = 0.0
    for first in range(0, len(array) if rows is None else len(rows), most):
        part = slice(first, first + most)
        block = array[part if rows is None else rows[part]]
        top = max(top, *(abs(float(end)) if end == end else math.inf for end in (block.min(), block.max())))
    return top
