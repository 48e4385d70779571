"""What the user may have called while `fit` runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bpcore import _validate
from bpcore._history import History
from bpcore._model import Snapshot
from bpcore._schedules import Schedule

if TYPE_CHECKING:
    from bpcore._network import Network
    from bpcore._training import Loop


@dataclass(slots=True)
class State:
    """Where training stands, as callbacks see it: `epoch` and `step` count from the network's first, `loss` is that
    of the batch or epoch just done.

    `optimizer` may be replaced by one with other numbers, `dataclasses.replace(state.optimizer, lr=...)`: it makes the
    next steps with what the last one has kept, and a later `fit` goes on with it.  `order`, (n,) integers, once set, is
    the order of rows from the next epoch on, instead of a shuffled one.
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
    _lr: Any = field(default=None, repr=False, compare=False)

    @property
    def lr(self) -> float:
        """Of the optimiser; where that is a schedule, of the last step, and before the first of that."""
        lr = self.optimizer.lr
        return float(self._lr if isinstance(lr, Schedule) else lr)

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
        self.monitor = _monitor(monitor)
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
        value = _falling(self.monitor, state)
        if value < self.best - self.min_delta:
            self.best, self.best_epoch = value, state.epoch
            if self.restore_best:
                self._snapshot = state._now("snapshot").snapshot(settled=True)
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


class ReduceOnPlateau(Callback):
    """Multiplies lr by `factor`, down to `min_lr`, once `monitor` has not improved by more than `min_delta` for
    `patience` epochs, as Keras does it; then it waits `cooldown` epochs before it counts again.

    It replaces `state.optimizer`, whose memory stays; lr must be a number, not a schedule.  monitor: see EarlyStopping.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.monitor = _monitor(monitor)
        self.factor = _validate.real("factor", factor, 0.0, 1.0, open_low=True, open_high=True)
        self.patience = _validate.integer("patience", patience, 0, 2**31)
        self.min_delta = _validate.real("min_delta", min_delta)
        self.cooldown = _validate.integer("cooldown", cooldown, 0, 2**31)
        self.min_lr = _validate.real("min_lr", min_lr)

    def on_fit_begin(self, state: State) -> None:
        """Forgets the last fit."""
        self.best = float("inf")
        self.waited = self.cooling = 0

    def on_epoch_end(self, state: State) -> None:
        """Compares."""
        value = _falling(self.monitor, state)
        if self.cooling:
            self.cooling -= 1
            self.waited = 0
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        elif not self.cooling:
            self.waited += 1
            lr = _number_of(state.optimizer)
            if self.waited >= self.patience and lr > self.min_lr:
                state.optimizer = replace(state.optimizer, lr=max(lr * self.factor, self.min_lr))
                self.waited, self.cooling = 0, self.cooldown


def _monitor(value: Any) -> str:
    """What a history may hold, by its name."""
    if isinstance(value, str) and re.fullmatch(".+_loss|val_.+_accuracy", value):
        return value
    return _validate.choice("monitor", value, ("loss", "val_loss", "val_accuracy"))


def _falling(monitor: str, state: State) -> float:
    """Its last value, so that less is better."""
    last: float = state.history[monitor][-1]
    return -last if monitor.endswith("accuracy") else last


def _number_of(optimizer: Any) -> float:
    """Its lr; TypeError where that is no number."""
    lr = getattr(optimizer, "lr", None)
    if not isinstance(lr, float):
        got = f"lr={lr!r}" if lr is not None else f"{optimizer!r}, which has none"
        raise TypeError(f"callbacks: ReduceOnPlateau expects an optimiser whose lr is a number, got {got}")
    return lr


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


def check(callbacks: list[Callback], kept: tuple[str, ...], optimizer: Any) -> None:
    """ValueError where a callback watches what the history will not hold, TypeError for an lr that it cannot change."""
    for callback in callbacks:
        if isinstance(callback, ReduceOnPlateau):
            _number_of(optimizer)
        if isinstance(callback, (EarlyStopping, ReduceOnPlateau)) and callback.monitor not in kept:
            missing = "accuracy" if callback.monitor.endswith("accuracy") else "output of this name"
            lacking = callback.monitor.startswith("val_") and "val_loss" not in kept
            near = _validate.did_you_mean(callback.monitor, kept)
            cure = "give fit validation_data=(X, y)" if lacking else f"there is no {missing}.{near}"
            name = type(callback).__name__
            raise ValueError(
                f"callbacks: {name} watches {callback.monitor}, and there is only {', '.join(kept)}; {cure}"
            )


def wants_batches(callbacks: list[Callback]) -> bool:
    """Whether any of them looks at single steps."""
    return any(getattr(c.on_batch_end, "__func__", None) is not Callback.on_batch_end for c in callbacks)
