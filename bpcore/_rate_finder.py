"""The learning rate range test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpcore import _history_views, _validate
from bpcore._callbacks import Callback, State
from bpcore._model import Snapshot

_SMOOTHING = 0.9  # of the mean of losses that is compared
_TOO_HIGH = 4.0  # times the lowest: then training has diverged


class LearningRateFinder(Callback):
    """Tries learning rates from `low` to `high`, a larger one in each of `steps` steps, and stops where the loss runs
    away (Smith 2017, section 3.3).

    `fit` then leaves the network as it was before: parameters, optimiser, moments, counters; its epochs are as many as
    it needs, epochs=100 or more.  `rates` and `losses` are those of each step, the losses smoothed; `suggestion` is the
    rate at which the loss fell fastest, `plot()` draws them.  The optimiser's lr must be a number, not a schedule.
    """

    _changes_lr = True
    _takes_divergence = True

    def __init__(self, low: float = 1e-6, high: float = 10.0, *, steps: int = 100) -> None:
        self.low = _validate.real("low", low, open_low=True)
        self.high = _validate.real("high", high, self.low, open_low=True)
        self.steps = _validate.integer("steps", steps, 3, 2**31)
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_fit_begin(self, state: State) -> None:
        """Keeps the network as it is."""
        assert state._loop is not None
        self._memory = state._loop.model.memory.copy()  # the snapshot has that of this fit's optimiser
        self._snapshot: Snapshot | None = state.snapshot()
        self.rates, self.losses, self._mean = [], [], 0.0
        self._try_next(state)

    def to_save(self) -> dict[str, Any]:
        """What it has tried, and the network before."""
        return {"rates": self.rates, "losses": self.losses, "mean": self._mean, "snapshot": self._snapshot}

    def on_resume(self, state: State, saved: dict[str, Any]) -> None:
        """It goes on from there."""
        self.rates, self.losses, self._mean = saved["rates"], saved["losses"], saved["mean"]
        self._snapshot = saved["snapshot"]

    def _try_next(self, state: State) -> None:
        share = len(self.rates) / (self.steps - 1)
        state.optimizer = replace(state.optimizer, lr=self.low * (self.high / self.low) ** share)

    def on_batch_end(self, state: State) -> None:
        """Notes the loss, which is that before this step."""
        self.rates.append(state.lr)
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * state.loss
        self.losses.append(self._mean / (1 - _SMOOTHING ** len(self.rates)))
        if len(self.rates) == self.steps or self.losses[-1] > _TOO_HIGH * min(self.losses):
            state.stop()
        else:
            self._try_next(state)

    def on_fit_close(self, state: State) -> None:
        """Brings the network back."""
        if self._snapshot is not None:
            assert state._loop is not None
            state._loop.take_back(self._snapshot, self._memory)
            self._snapshot = None

    @property
    def suggestion(self) -> float:
        """The rate at which the loss fell fastest by the rate's logarithm; ValueError before `fit`, or where the loss
        never fell."""
        rates, losses = np.array(self.rates), np.array(self.losses)
        lowest = int(losses.argmin()) if len(losses) else 0
        if lowest < 2:
            got = f"{len(losses)} steps" if len(losses) < 3 else f"a loss that never fell from rate {rates[0]:g} on"
            raise ValueError(f"suggestion: expected a fit in which the loss fell at some rate, got {got}")
        slopes = np.gradient(losses[: lowest + 1], np.log(rates[: lowest + 1]))
        return float(rates[slopes.argmin()])

    def plot(self) -> Any:
        """A matplotlib Figure, of pyplot: losses over rates, with the suggestion.  ImportError without matplotlib, an
        extra: bpcore[plot]."""
        pyplot = _history_views.import_pyplot("LearningRateFinder.plot")
        suggestion = self.suggestion
        picture, axes = pyplot.subplots(figsize=(4.5, 3.2), layout="constrained")
        axes.plot(self.rates, self.losses)
        axes.axvline(suggestion, linestyle="--", color="gray", label=f"suggestion: {suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed")
        axes.legend()
        return picture
