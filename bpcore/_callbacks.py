"""What the user may have called while `fit` runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bpcore import _validate
from bpcore._history import History
from bpcore._model import Snapshot

if TYPE_CHECKING:
    from bpcore._network import Network
    from bpcore._training import Loop


@dataclass(slots=True)
class State:
    """Where training stands, as callbacks see it: `epoch` and `step` count from the network's first, `loss` is that
    of the batch or epoch just done.

    `optimizer` may be replaced by one with other numbers, `dataclasses.replace(state.optimizer, lr=...)`: it makes the
    next steps with what the last one has kept, and a later `fit` goes on so only with an equal one.  `order`, (n,)
    integers, once set, is the order of rows from the next epoch on, instead of a shuffled one.
    """

    net: Network
    history: History
    epoch: int = 0
    step: int = 0
    loss: float = float("nan")
    stopped: bool = False
    optimizer: Any = None
    order: Any = None
    _loop: Loop | None = field(default=None, repr=False, compare=False)

    @property
    def lr(self) -> float:
        """Of the optimiser; a new one has another."""
        return float(self.optimizer.lr)

    @lr.setter
    def lr(self, value: Any) -> None:
        raise AttributeError(
            f"state.lr cannot be set: state.optimizer = dataclasses.replace(state.optimizer, lr={value!r}) changes it"
        )

    def stop(self) -> None:
        """Ends training after this step or epoch."""
        self.stopped = True

    def snapshot(self) -> Snapshot:
        """A copy of all that training changes: parameters, the optimiser and its memory, `net.step` and `net.epoch`.

        It takes the memory of theta, and of each of the optimiser's arrays as much again.
        """
        return self._now("snapshot").snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot that was taken during this fit; from there it, or the next one, goes on with the same
        bits as if training had stopped there.  `history` and `stopped` stay as they are."""
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"snapshot: expected what state.snapshot() returned, got {snapshot!r}")
        self._now("restore").restore(snapshot)

    def _now(self, what: str) -> Loop:
        if self._loop is None:
            raise RuntimeError(f"{what}: this fit has ended; use net.copy() between fits")
        self.net._model.fitting.check(what)
        if self._loop.slicing:
            raise RuntimeError(f"{what}: a step is being made; call it from a callback, not from within a function")
        return self._loop


class Callback:
    """Override what is needed.  Parameters may be read and written; an exception ends `fit` at the last whole step.

    `state.snapshot()` and `state.restore(snapshot)` keep and bring back all that training changes.
    """

    def on_fit_begin(self, state: State) -> None:
        """Called once, before the first step."""

    def on_batch_end(self, state: State) -> None:
        """Called after every step; where it is overridden, each step is a slice of its own."""

    def on_epoch_end(self, state: State) -> None:
        """Called after every epoch, the history already holding it."""

    def on_fit_end(self, state: State) -> None:
        """Called once, after the last step; not after an exception."""

    def on_fit_close(self, state: State) -> None:
        """Called once, whatever ended `fit`: after `on_fit_end`, or after Ctrl-C, a DivergenceError or any other
        exception, which goes on afterwards.  Called of every callback whose `on_fit_begin` was."""


class _Function(Callback):
    def __init__(self, function: Callable[[State], Any]) -> None:
        self.on_epoch_end = function  # type: ignore[assignment, method-assign]


class EarlyStopping(Callback):
    """Stops once `monitor` has not improved by more than `min_delta` for `patience` epochs.

    restore_best: `fit` leaves the network as it was at the end of the best epoch, whatever ends it, Ctrl-C and
    DivergenceError included: parameters, the optimiser and its memory, `net.step` and `net.epoch`.  A later `fit` goes
    on from there with the same bits as if training had stopped there.

    monitor: "loss", "val_loss" or "val_accuracy"; of several outputs also "digit_loss" and the like, see `History`.
    """

    def __init__(
        self, monitor: str = "val_loss", *, patience: int = 10, min_delta: float = 0.0, restore_best: bool = True
    ) -> None:
        of_output = isinstance(monitor, str) and re.fullmatch(".+_loss|val_.+_accuracy", monitor)
        valid = ("loss", "val_loss", "val_accuracy")
        self.monitor = monitor if of_output else _validate.choice("monitor", monitor, valid)
        self.patience = _validate.integer("patience", patience, 0, 2**31)
        self.min_delta = _validate.real("min_delta", min_delta)
        self.restore_best = _validate.flag("restore_best", restore_best)

    def on_fit_begin(self, state: State) -> None:
        """Forgets the last fit."""
        self.best = float("inf")
        self.best_epoch = state.epoch
        self._snapshot: Snapshot | None = None

    def on_epoch_end(self, state: State) -> None:
        """Compares."""
        last = state.history[self.monitor][-1]
        value = -last if self.monitor.endswith("accuracy") else last
        if value < self.best - self.min_delta:
            self.best, self.best_epoch = value, state.epoch
            if self.restore_best:
                self._snapshot = state.snapshot()
        elif state.epoch - self.best_epoch >= self.patience:
            state.stop()

    def on_fit_end(self, state: State) -> None:
        """Restores, for callbacks that come after this one."""
        self.on_fit_close(state)

    def on_fit_close(self, state: State) -> None:
        """Restores the best epoch."""
        if self._snapshot is not None:
            state.restore(self._snapshot)
            self._snapshot = None


def resolve(callbacks: Any) -> list[Callback]:
    """Callback objects; a plain function is called at each epoch's end."""
    if isinstance(callbacks, Callback) or callable(callbacks):
        callbacks = (callbacks,)
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: expected functions or bp.Callback objects, got {callbacks!r}")
    resolved: list[Callback] = []
    for callback in callbacks:
        if isinstance(callback, Callback):
            resolved.append(callback)
        elif callable(callback) and not isinstance(callback, type):
            resolved.append(_Function(callback))
        else:
            raise TypeError(f"callbacks: expected a function or a bp.Callback object, got {callback!r}")
    return resolved


def check(callbacks: list[Callback], kept: tuple[str, ...]) -> None:
    """ValueError where a callback watches what the history will not hold."""
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.monitor not in kept:
            missing = "accuracy" if callback.monitor.endswith("accuracy") else "output of this name"
            lacking = callback.monitor.startswith("val_") and "val_loss" not in kept
            near = _validate.did_you_mean(callback.monitor, kept)
            cure = "give fit validation_data=(X, y)" if lacking else f"there is no {missing}.{near}"
            raise ValueError(
                f"callbacks: EarlyStopping watches {callback.monitor}, and there is only {', '.join(kept)}; {cure}"
            )


def wants_batches(callbacks: list[Callback]) -> bool:
    """Whether any of them looks at single steps."""
    return any(getattr(c.on_batch_end, "__func__", None) is not Callback.on_batch_end for c in callbacks)
