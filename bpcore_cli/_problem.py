"""What is to be learnt from a file: rows of numbers, a target, and which rows are held out."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import bpcore as bp
from bpcore._optimizers import resolve
from bpcore_cli._errors import Wrong, nearest, refused
from bpcore_cli._files import open_file

_FEW = 10  # whole numbers of so many values are classes, where each is there as often
_CLASS_LOSSES = ("cross_entropy", "categorical_focal")
_SHIFTED_LOSSES = ("squared_error", "mse", "mae", "huber", "log_cosh", "student_t")  # of differences from y
_POSITIVE_LOSSES = ("poisson", "gamma", "tweedie")  # of targets that are not below 0


class Rows:
    """(n, columns) numbers, with names of columns where the file has them, as a data frame has."""

    def __init__(self, X: np.ndarray, names: Sequence[str]) -> None:
        self.X, self.columns = X, names

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.X

    def __len__(self) -> int:
        return len(self.X)


class Problem(NamedTuple):
    """rows and y as fit takes them; n_classes: 0 where the target is a number; held_out: rows, maybe none."""

    rows: Rows
    y: np.ndarray
    n_classes: int
    held_out: np.ndarray
    loss: str

    @property
    def metrics(self) -> list[str]:
        """That say more than a loss."""
        return ["balanced_accuracy", "f1_macro"] if self.n_classes else ["rmse", "mae", "r2"]

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of fit."""
        split = {"validation_split": self.held_out} if len(self.held_out) else {}
        is_shifted = not self.n_classes and self.loss not in _POSITIVE_LOSSES
        return {"loss": self.loss, "standardize_y": is_shifted, **split}

    def network(self, hidden: Sequence[int], activation: str, dropout: float, seed: int) -> bp.Network:
        """Standardised inputs, dense layers, each with dropout, and the target's output."""
        layers: list[Any] = [bp.Input(self.rows.X.shape[1]), bp.Standardize()]
        for units in hidden:
            layers += [bp.Dense(units, activation), *([bp.Dropout(dropout)] if dropout else [])]
        if self.n_classes:
            layers.append(bp.Dense(self.n_classes, "softmax"))
        elif self.loss not in _POSITIVE_LOSSES:
            layers.append(bp.Dense(1))
        else:
            layers.append(bp.Dense(1, "exp"))
            return self._begun_at_the_mean(bp.Network(layers, seed=seed))
        return bp.Network(layers, seed=seed)

    def _begun_at_the_mean(self, net: bp.Network) -> bp.Network:
        """exp(z) begins at the targets' mean: from 1 it is far to 1,000."""
        (output,) = net.outputs
        mean = float(np.delete(self.y, self.held_out).mean())
        if mean > 0:
            net.params[f"{output}.b"][:] = np.log(mean)
        return net

    def evaluate(self, net: bp.Network) -> dict[str, float]:
        """Loss and metrics on the rows that were held out; where none were, on all."""
        X, y = self.rows.X, self.y
        if len(self.held_out):
            X, y = X[self.held_out], y[self.held_out]
        return net.evaluate(X, y, loss=self.loss, metrics=self.metrics)


def read(options: Namespace) -> Problem:
    """The problem in a file; says on standard error what it made of the target."""
    with open_file(options.data) as file:
        target = file.number(options.target, "--target")
        key = None if options.id is None else file.number(options.id, "--id")
        columns = [k for k in range(len(file.names)) if k not in (target, key)]
        if not columns:
            raise Wrong(f"{file.path}: expected columns beside the target {options.target!r}, and there are none")
        table = np.concatenate([block.numbers for block in file.blocks([*columns, target])])
        names = [file.names[k] for k in columns] if file.is_named else ()
    X, y = table[:, :-1], table[:, -1]
    values = np.unique(y)
    if len(values) == 1:
        raise Wrong(
            f"--target: expected values that differ, and {options.target!r} is {values[0]:g} in all {len(y)} rows"
        )
    n_classes = _classes(options, y, values)
    kind = f"{n_classes} classes" if n_classes else f"a number from {values[0]:g} to {values[-1]:g}"
    held_out = _held_out(y, options.validation, options.seed, n_classes)
    print(
        f"{len(y):,} rows, {X.shape[1]} columns; {options.target!r} is {kind}; {len(held_out):,} rows held out",
        file=sys.stderr,
    )
    loss = _loss(options.loss, n_classes)
    return Problem(Rows(X, names), y.astype(np.int64) if n_classes else y, n_classes, held_out, loss)


def _classes(options: Namespace, y: np.ndarray, values: np.ndarray) -> int:
    """How many; 0 where the target is a number."""
    task, n = options.task, len(values)
    are_whole = bool((values == np.floor(values)).all())
    if task == "auto":
        task = "classification" if are_whole and n <= _FEW and len(y) >= _FEW * n else "regression"
    if task == "regression":
        return 0
    if not are_whole or (values != np.arange(n)).any():
        shown = ", ".join(f"{value:g}" for value in values[:6]) + (", ..." if n > 6 else "")
        raise Wrong(
            f"--target: expected classes numbered from 0, without gaps, in {options.target!r}, got {shown}; number "
            "them, or use --task regression (names of classes are for a bp.Table, in Python)"
        )
    if 2 * n > len(y):
        raise Wrong(
            f"--target: expected at least two rows of each class, got {n} classes in {len(y)} rows; --task regression?"
        )
    return n


def _held_out(y: np.ndarray, share: float, seed: int, n_classes: int) -> np.ndarray:
    """A share of the rows, in order; of classes each its share."""
    if not share:
        return np.empty(0, np.int64)
    order = np.random.default_rng(seed).permutation(len(y))
    groups = [order[y[order] == c] for c in range(n_classes)] if n_classes else [order]
    taken = [group[: round(share * len(group))] for group in groups]
    rows = np.sort(np.concatenate(taken))
    if not 0 < len(rows) < len(y):
        raise Wrong(f"--validation: expected a share that leaves rows on both sides, got {share:g} of {len(y)} rows")
    return rows


def _loss(name: str, n_classes: int) -> str:
    if name == "auto":
        return "cross_entropy" if n_classes else "squared_error"
    known = _CLASS_LOSSES if n_classes else (*_SHIFTED_LOSSES, *_POSITIVE_LOSSES)
    if name not in known:
        of = "classes" if n_classes else "a number"
        raise Wrong(f"--loss: {name!r} is no loss of {of} here.{nearest(name, known)} Valid names: {', '.join(known)}")
    return name


def optimizer(name: str, **settings: float | None) -> Any:
    """An optimiser by name, with other settings where they are not None; Wrong for one that it does not have."""
    with refused():
        found: Any = resolve(name)
        given = {setting: value for setting, value in settings.items() if value is not None}
        for setting in given:
            if not hasattr(found, setting):
                raise Wrong(f"--{setting.replace('_', '-')}: {name} has none")
        return dataclasses.replace(found, **given)
