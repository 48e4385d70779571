"""What optimisers share that take all examples at once: an epoch is one step of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpcore._data import Data
from bpcore._model import Model
from bpcore._optimizers import Optimizer, Rule


def check(optimizer: Optimizer, model: Model, data: Data, batch: int) -> None:
    """ValueError where a batch is less than all examples, or a layer draws: then no two costs would be comparable; and,
    where a layer wants steps that the method does not make."""
    name = type(optimizer).__name__
    if batch < data.n:
        raise ValueError(f"batch_size: {name} takes all examples at once; use batch_size=None")
    drawing = [node.name for node in model.graph.nodes if node.layer.draws]
    if drawing:
        raise ValueError(
            f"optimizer: {name} is for networks that draw nothing, and {drawing[0]} does; use bp.Adam(), or a network "
            "without this layer"
        )
    alike = not isinstance(optimizer, Rule)
    if alike and (meeting := model.meeting):
        raise ValueError(
            f"optimizer: {name} needs costs in which rows are independent, and {meeting[0]} normalises by the batch; "
            f"use net.frozen = {{{meeting[0].partition('@')[0]!r}}} to keep its state, or bp.Adam()"
        )
    for parameter, p in model.graph.parameters.items():
        rate, l1, max_norm = p.treatment.rate, p.treatment.l1, p.treatment.max_norm
        if max_norm or rate != 1 or (l1 and alike):
            option = "l1" if l1 and alike else "max_norm" if max_norm else "lr_scale"
            known = "knows penalties by l2 alone" if alike else "finds the size of each step itself"
            raise ValueError(f"optimizer: {name} {known}, and {parameter} has {option}")


class Run:
    """What `fit` asks of a run (see _core.Run), for methods that are written in Python.  cost, costs: before the last
    step, of all and of each output.  l2: joins that of every weight.  accepted: theta and the counts of steps as of the
    next step, until the network has them."""

    def __init__(self, model: Model, data: Data, n_threads: int, settings: Any, l2: float) -> None:
        self.model, self.data, self.n_threads, self.settings, self.l2 = model, data, n_threads, settings, l2
        self.steps = self.t = self.done = 0
        self.cost = float("nan")
        self.costs: list[tuple[float, float, float]] = []
        self.accepted: tuple[np.ndarray, int, int] | None = None

    def random(self, seed: int, step: int) -> None:
        """Nothing is drawn."""

    def optimizer(self, rule: str, states: Any, t: int, weights: float, *, l2: float, **settings: Any) -> None:
        """The settings, and the count of steps made so far."""
        self.settings, self.t = type(self.settings)(**settings), t

    def begin(self, n: int, batch: int, order: Any) -> None:
        """The order of examples does not matter."""
        self.done = 0

    def is_whole(self) -> bool:
        """A slice is a step."""
        return True

    def accept(self, theta: np.ndarray) -> None:
        """This is the next step, which `make_whole` makes."""
        self.accepted = theta, self.steps + 1, self.t + 1

    def make_whole(self) -> None:
        """Makes the step that was accepted; again, where a signal came within it."""
        if self.accepted is not None:
            self.model.theta[:], self.steps, self.t = self.accepted
            self.accepted = None

    def updates(self) -> int:
        """Steps made on this network with this optimiser."""
        return self.t

    def weights(self) -> float:
        """They have none."""
        return 0.0

    def progress(self) -> tuple[float, float, float, int, int, int]:
        """As _core.Run.progress: the cost before the step, once it is made."""
        return (self.cost, 1.0, 0.0, self.data.n, 1, self.steps) if self.done else (0.0, 0.0, 0.0, 0, 0, self.steps)

    def losses(self) -> list[tuple[float, float, float]]:
        """As _core.Run.losses: before the step."""
        return self.costs
