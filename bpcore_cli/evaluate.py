"""`bpcore evaluate`: how well a network answers the rows of a file, block by block."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import numpy as np

import bpcore as bp
from bpcore_cli._columns import of_network
from bpcore_cli._errors import Wrong, refused
from bpcore_cli._files import open_file
from bpcore_cli._models import Model


def run(options: Namespace) -> None:
    """`bpcore evaluate MODEL DATA --target COL`."""
    if options.threads:
        bp.set_num_threads(options.threads)
    model = Model(options.model)
    with open_file(options.data) as file:
        key = None if options.id is None else file.number(options.id, "--id")
        target = file.number(options.target, "--target")
        columns = of_network(file, model, [key, target])
        if model.n_outputs > 1 and not model.is_classes:
            raise Wrong(f"{options.model}: expected a network of one number or of classes; use net.evaluate in Python")
        sums = Sums()
        for block in file.blocks([*columns, target]):
            X, y = block.numbers[:, :-1], block.numbers[:, -1]
            if model.is_classes:
                check_classes(y, 2 if model.is_binary else model.n_outputs, options.target)
            with refused():
                losses = model.net.evaluate(model.rows(X), as_targets(model, y), loss=options.loss)
            sums.add(
                len(y), losses, None if model.is_classes else (y, model.predictions(model.net.predict(model.rows(X))))
            )
    show(sums.metrics(), options.json)


def as_targets(model: Model, y: np.ndarray) -> np.ndarray:
    """Labels as integers where the network has an output for each class."""
    return y.astype(np.int64) if model.is_classes and not model.is_binary else y


def check_classes(y: np.ndarray, n: int, target: str) -> None:
    """Wrong where a target is none of the classes 0..n-1."""
    bad = (y != np.floor(y)) | (y < 0) | (y >= n)
    if bad.any():
        raise Wrong(
            f"--target: expected the classes of the network, 0 to {n - 1}, in column {target!r}, got {y[bad][0]:g}"
        )


def show(metrics: dict[str, Any], as_json: bool) -> None:
    """A line each."""
    if as_json:
        print(json.dumps(metrics))
        return
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:<{width}}  {value:,}" if isinstance(value, int) else f"{name:<{width}}  {value:.6g}")


class Sums:
    """Metrics of rows that come in blocks: losses as means, and of numbers rmse, mae and r2."""

    def __init__(self) -> None:
        self.rows = 0
        self.losses: dict[str, float] = {}
        self.squares = self.errors = self.mean = self.spread = 0.0
        self.has_numbers = False

    def add(self, n: int, losses: dict[str, float], numbers: tuple[np.ndarray, np.ndarray] | None) -> None:
        """losses: of n rows; numbers: their targets and predictions, (n,), where these are no classes."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + n * value
        if numbers is not None:
            y, a = numbers
            error = a.astype(np.float64) - y
            self.squares += float(error @ error)
            self.errors += float(np.abs(error).sum())
            # the variance of all rows from that of the parts (Chan, Golub and LeVeque 1983)
            apart = float(y.mean()) - self.mean
            self.spread += float(((y - y.mean()) ** 2).sum()) + apart**2 * self.rows * n / (self.rows + n)
            self.mean += apart * n / (self.rows + n)
            self.has_numbers = True
        self.rows += n

    def metrics(self) -> dict[str, Any]:
        """By name."""
        found: dict[str, Any] = {"rows": self.rows}
        found |= {name: value / self.rows for name, value in self.losses.items()}
        if self.has_numbers:
            found |= {"rmse": (self.squares / self.rows) ** 0.5, "mae": self.errors / self.rows}
            if self.spread:
                found["r2"] = 1 - self.squares / self.spread
        return found
