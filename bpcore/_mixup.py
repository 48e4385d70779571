"""mixup: what a step is trained on are means of two rows each, drawn anew for each epoch (Zhang et al. 2018)."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np

from bpcore import _core, _validate
from bpcore._data import Data
from bpcore._layers import MIXUP
from bpcore._losses import Loss
from bpcore._model import Model
from bpcore._optimizers import Optimizer


def check(model: Model, data: Data, optimizer: Optimizer) -> None:
    """ValueError where rows have no mean."""
    for node in model.inputs:
        if node.layer.integer:
            raise ValueError(
                f"mixup: expected inputs of real numbers, and {node.name} is of whole numbers, which have no mean"
            )
    for node in model.graph.nodes:
        if node.layer.op == "mask" or (node.layer.masked and len(node.inputs) > 1):
            raise ValueError(f"mixup: expected inputs that have a mean, and masks have none; {node.name} has one")
    if data.weights > 1:
        raise ValueError("mixup: expected one weight an example, (n,), got sample_weight of positions")
    if optimizer.full_batch:
        name = type(optimizer).__name__
        raise ValueError(f"mixup: {name} compares costs of the same rows, and mixup draws others; use bp.Adam()")
    for weighted, target, name in zip(data.losses, data.targets, data.names, strict=True):
        if isinstance(weighted.loss, Loss) and target.is_integer:
            raise ValueError(
                f"mixup: expected y of {name} that has a mean, got whole numbers for a loss of your own; give rows of "
                "probabilities, or y.astype(float)"
            )
        if getattr(weighted.loss, "y_is_a_sign", False):
            raise ValueError(f"mixup: {weighted.loss.name} takes -1 or 1 alone; use bp.losses.BinaryCrossEntropy()")


def mixable(data: Data) -> Data:
    """The same, with rows of probabilities in place of class labels."""
    data, targets = copy.copy(data), data.targets
    data.targets = [
        _one_hot(target, node) if target.is_integer else target
        for target, node in zip(targets, data.outputs, strict=True)
    ]
    return data


def _one_hot(target: _validate.Target, node: Any) -> _validate.Target:
    """A sparse matrix with a 1 for each label, which C makes dense where it reads it."""
    n, positions, classes = len(target.array), target.cols, node.shape[-1]
    labels = np.asarray(target.array).reshape(n, positions)
    indices = (labels + np.arange(positions) * classes).reshape(-1).astype(np.int64)
    ones = np.broadcast_to(np.float32(1), len(indices))  # one number in memory
    indptr = np.arange(n + 1, dtype=np.int64) * positions
    rows: Any = _core.SparseRows(
        SimpleNamespace(shape=(n, positions * classes), data=ones, indices=indices, indptr=indptr)
    )  # fmt: skip
    return _validate.Target(rows, node.n_out, False, node.shape)


def draw(
    alpha: float, data: Data, order: np.ndarray | None, batch: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the rows of an epoch in this order: the number of each one's partner in the arrays, the share of itself, and
    that of its weight.

    lambda is one for a batch, from Beta(alpha, alpha); partners are the rows of the epoch in another order.  Where rows
    have weights, x, y and weight are those of the cost lambda w E + (1 - lambda) w' E', so that a row of weight 0 adds
    nothing.
    """
    from scipy.special import betaincinv  # 50 ms, for those who need it

    n, step = data.n, epoch % 2**32
    u = _core.uniform(-(-n // batch), seed, MIXUP, 1, step)
    share = np.repeat(betaincinv(alpha, alpha, u), batch)[:n]
    rows = np.arange(n) if order is None else order
    partner = rows[_core.permutation(n, seed, MIXUP, step)]
    if data.weight is None:
        return partner, share, share
    own = share * np.asarray(data.weight[rows], np.float64)
    both = own + (1 - share) * np.asarray(data.weight[partner], np.float64)
    return partner, np.divide(own, both, out=np.ones(n), where=both > 0), share
