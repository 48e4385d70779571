"""What the user may have called while `fit` runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from bpcore import _metrics, _validate
from bpcore._history import History
from bpcore._model import Snapshot
from bpcore._optimizers import Rprop, ScheduleFree
from bpcore._schedules import Schedule
from bpcore._words import Worded, keywords

if TYPE_CHECKING:
    from bpcore._network import Network
    from bpcore._training import Loop


@dataclass(slots=True)
class State:
    """Where training stands: what `fit` gives to callbacks, the same object from `on_fit_begin` to `on_fit_close`.

        def slower(state):                       # a callback: a function, called after each epoch
            if state.epoch == 20:
                state.optimizer = dataclasses.replace(state.optimizer, lr=state.lr / 10)
            if state.history.val_loss[-1] < 0.01:
                state.stop()

    net: the network; its parameters may be read and written between steps.
    history: the History that `fit` will return; it has the epochs done so far.
    epoch, step: how many the network has done, counted from its first `fit`.
    loss: of the epoch just done, or in `on_batch_end` of the batch; NaN before the first.
    stopped: whether training ends after this step or epoch: see `stop`.
    optimizer: may be replaced by one with other numbers; it makes the next steps with what the last one has kept, and a
    later `fit` goes on with it.
    order: None; once set, (n,) integers, the order of rows from the next epoch on, in place of a shuffled one.
    lr: the optimiser's learning rate, read only.

    It is made by `fit` alone.  A copy, or one that is kept, of a fit that has ended can be read.
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
    _higher: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # what is better so in the history

    def __getstate__(self) -> dict[str, Any]:
        # not what trains: a copy is of a fit that has ended
        return {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.name != "_loop"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_loop": None}.items():
            setattr(self, name, value)

    @property
    def lr(self) -> float:
        """Of the optimiser; where that is a schedule, of the last step, and before the first of that."""
        lr = self.optimizer.lr
        return float(self._lr if isinstance(lr, Schedule) else lr)

    @lr.setter
    def lr(self, value: Any) -> None:
        new = f"dataclasses.replace(state.optimizer, lr={value!r})"
        if isinstance(self.optimizer, ScheduleFree):
            new = f"bp.ScheduleFree(dataclasses.replace(state.optimizer.optimizer, lr={value!r}))"
        raise AttributeError(f"state.lr cannot be set: state.optimizer = {new} changes it")

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


class Callback(Worded):
    """Override what is needed.  Parameters may be read and written; an exception ends `fit` at the last whole step.

    `state.snapshot()` and `state.restore(snapshot)` keep and bring back all that training changes.
    every: how often `on_batch_end` is called, of the class or of the object: after so many batches, counted over the
    epochs of a fit, or after a time, "10 s", "5 min" or "1 h".
    """

    every: int | str = 1
    _changes_lr = False
    _takes_divergence = False  # a DivergenceError ends the fit as `state.stop()` does

    def __repr__(self) -> str:
        names = keywords(type(self).__init__) or ()
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in names if hasattr(self, n))})"

    @property
    def _watches(self) -> str | None:
        """A name that the history must have, or None."""
        return None

    def to_save(self) -> dict[str, Any]:
        """What a `bp.Checkpoint` keeps of this callback besides its settings: numbers, strings, arrays, snapshots,
        lists and dicts of such."""
        return {}

    def on_resume(self, state: State, saved: dict[str, Any]) -> None:
        """Called after `on_fit_begin` in a fit that goes on from a file, with what `to_save` returned there."""

    def on_fit_begin(self, state: State) -> None:
        """Called once, before the first step."""

    def on_batch_end(self, state: State) -> None:
        """Called after every step, or as seldom as `every` says; `state.loss` is the mean over the batches since it was
        called last.  Where it is overridden, C goes on by itself for so many steps at most."""

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

    def __repr__(self) -> str:
        return repr(self.on_epoch_end)


class Due:
    """When the `on_batch_end` of a callback is due, and the loss since it was called last.

    batches, seconds: how often, one of them None.  left: batches until then; at: the time.
    """

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.batches, self.seconds = _validate.interval(f"callbacks: {type(callback).__name__}.every", callback.every)
        self.begin()

    def begin(self) -> None:
        """It has been called."""
        self.left = self.batches or 0
        self.at = time.monotonic() + (self.seconds or 0.0)
        self.loss = self.weight = 0.0

    def most(self) -> int | None:
        """Batches until it is to be called; None: as many as there are."""
        return self.left if self.seconds is None else 1 if time.monotonic() >= self.at else None

    def add(self, batches: int, loss: float, weight: float) -> bool:
        """So many batches are done, with these sums; whether it is to be called."""
        self.left -= batches
        self.loss += loss
        self.weight += weight
        return self.left <= 0 if self.seconds is None else time.monotonic() >= self.at


class Watching(Callback):
    """A callback that compares a number of the history with the best so far."""

    best: float
    min_delta = 0.0

    def __init__(self, monitor: str) -> None:
        if not isinstance(monitor, str):  # what the history will hold is known when `fit` is called
            got = f"{monitor!r} of type {type(monitor).__name__}"
            raise TypeError(f"monitor: expected a name such as 'val_loss', got {got}")
        self.monitor = monitor

    @property
    def _watches(self) -> str | None:
        return self.monitor


def worst(callback: Watching, state: State) -> float:
    """What every value is better than."""
    return float("-inf" if callback.monitor in state._higher else "inf")


def is_better(callback: Watching, value: float, state: State) -> bool:
    """Than its best, by more than min_delta; NaN never is."""
    if callback.monitor in state._higher:
        return value > callback.best + callback.min_delta
    return value < callback.best - callback.min_delta


class EarlyStopping(Watching):
    """Stops once `monitor` has not improved by more than `min_delta` for `patience` epochs and this fit has made
    `min_epochs`.

    restore_best: `fit` leaves the network as it was at the end of the best epoch, whatever ends it, Ctrl-C and
    DivergenceError included: parameters, the optimiser and its memory, `net.step` and `net.epoch`.  A later `fit` goes
    on from there with the same bits as if training had stopped there.

    monitor: what the history holds: "loss", "val_loss", "val_accuracy"; of several outputs also "val_digit_loss" and
    the like; and what fit(metrics=...) adds, "val_roc_auc", of which it knows which way is better.  NaN is worst.
    `best` is the best value, and `best_epoch` its epoch, counted as `net.epoch` is.  With an optimiser that keeps an
    average (`ema=`), what is validated, and so what is best, is `net.averaged()`.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 10,
        min_delta: float = 0.0,
        min_epochs: int = 0,
        restore_best: bool = True,
    ) -> None:
        super().__init__(monitor)
        self.patience = _validate.integer("patience", patience, 0, 2**31)
        self.min_delta = _validate.real("min_delta", min_delta)
        self.min_epochs = _validate.integer("min_epochs", min_epochs, 0, 2**31)
        self.restore_best = _validate.flag("restore_best", restore_best)

    def on_fit_begin(self, state: State) -> None:
        """Forgets the last fit."""
        self.best = worst(self, state)
        self.best_epoch = self._first_epoch = state.epoch
        self._snapshot: Snapshot | None = None

    def to_save(self) -> dict[str, Any]:
        """The best so far, with its snapshot."""
        return {"best": self.best, "epochs": [self._first_epoch, self.best_epoch], "snapshot": self._snapshot}

    def on_resume(self, state: State, saved: dict[str, Any]) -> None:
        """It goes on from there."""
        self.best, self._snapshot = saved["best"], saved["snapshot"] if self.restore_best else None
        self._first_epoch, self.best_epoch = saved["epochs"]

    def on_epoch_end(self, state: State) -> None:
        """Compares."""
        value: float = state.history[self.monitor][-1]
        if is_better(self, value, state):
            self.best, self.best_epoch = value, state.epoch
            if self.restore_best:
                self._snapshot = state._now("snapshot").snapshot(settled=True)
        elif state.epoch - self.best_epoch >= self.patience and state.epoch - self._first_epoch >= self.min_epochs:
            state.stop()

    def on_fit_end(self, state: State) -> None:
        """Restores, for callbacks that come after this one."""
        self.on_fit_close(state)

    def on_fit_close(self, state: State) -> None:
        """Restores the best epoch."""
        if self._snapshot is not None:
            state.restore(self._snapshot)
            self._snapshot = None


class ReduceOnPlateau(Watching):
    """Multiplies lr by `factor`, down to `min_lr`, once `monitor` has not improved by more than `min_delta` for
    `patience` epochs, as Keras does it; then it waits `cooldown` epochs before it counts again.

    It replaces `state.optimizer`, whose memory stays; lr must be a number, not a schedule.  monitor: see EarlyStopping.
    """

    _changes_lr = True

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
        super().__init__(monitor)
        self.factor = _validate.real("factor", factor, 0.0, 1.0, open_low=True, open_high=True)
        self.patience = _validate.integer("patience", patience, 0, 2**31)
        self.min_delta = _validate.real("min_delta", min_delta)
        self.cooldown = _validate.integer("cooldown", cooldown, 0, 2**31)
        self.min_lr = _validate.real("min_lr", min_lr)

    def on_fit_begin(self, state: State) -> None:
        """Forgets the last fit."""
        self.best = worst(self, state)
        self.waited = self.cooling = 0

    def to_save(self) -> dict[str, Any]:
        """The best so far, and the epochs since."""
        return {"best": self.best, "waited": self.waited, "cooling": self.cooling}

    def on_resume(self, state: State, saved: dict[str, Any]) -> None:
        """It goes on from there."""
        self.best, self.waited, self.cooling = saved["best"], saved["waited"], saved["cooling"]

    def on_epoch_end(self, state: State) -> None:
        """Compares."""
        value: float = state.history[self.monitor][-1]
        if self.cooling:
            self.cooling -= 1
            self.waited = 0
        if is_better(self, value, state):
            self.best, self.waited = value, 0
        elif not self.cooling:
            self.waited += 1
            lr = _number_of(state.optimizer)
            if self.waited >= self.patience and lr > self.min_lr:
                state.optimizer = replace(state.optimizer, lr=max(lr * self.factor, self.min_lr))
                self.waited, self.cooling = 0, self.cooldown


def _number_of(optimizer: Any, name: str = "ReduceOnPlateau") -> float:
    """Its lr; TypeError where that is no number.  name: of the callback that changes it."""
    lr = getattr(optimizer, "lr", None)
    if not isinstance(lr, float) or isinstance(optimizer, (Rprop, ScheduleFree)):
        got = f"lr={lr!r}" if lr is not None else f"{optimizer!r}, which has none"
        got = f"{optimizer!r}, whose first step alone reads it" if isinstance(optimizer, Rprop) else got
        got = f"{optimizer!r}, whose average stands for a falling lr" if isinstance(optimizer, ScheduleFree) else got
        raise TypeError(f"callbacks: {name} expects an optimiser whose lr is a number, got {got}")
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


def check(callbacks: list[Callback], watched: Mapping[str, str], optimizer: Any) -> None:
    """ValueError where a callback watches what the history will not hold, TypeError for an lr that it cannot change.

    watched: what it will hold, and which way it is better.
    """
    by_batch(callbacks)
    for callback in callbacks:
        name, monitor = type(callback).__name__, callback._watches
        if callback._changes_lr:
            _number_of(optimizer, name)
        if monitor is not None and monitor not in watched:
            raise ValueError(
                f"callbacks: {name} watches {monitor}, and there is only {', '.join(watched)}; "
                f"{_cure(monitor, watched)}"
            )


def _cure(monitor: str, watched: Mapping[str, str]) -> str:
    """What to do where a history does not hold what is watched."""
    held_out = monitor.startswith("val_")
    if held_out and "val_loss" not in watched:
        return "give fit validation_split=0.2, or validation_data=(X, y)"
    metric = monitor.removeprefix("val_")
    if metric in _metrics.NAMES and (held_out or f"val_{metric}" not in watched):
        return f"give fit metrics=[{metric!r}]{'' if held_out else ' and train_metrics=True'}"
    if f"val_{metric}" in watched and not held_out:
        return f"watch val_{metric}, or give fit train_metrics=True"
    missing = "output" if metric.endswith("_loss") else "accuracy" if metric.endswith("_accuracy") else "metric"
    return f"there is no {missing} of this name.{_validate.did_you_mean(monitor, list(watched))}"


def by_batch(callbacks: list[Callback]) -> list[Due]:
    """Those that look at batches; ValueError or TypeError for an `every` that is none."""
    return [Due(c) for c in callbacks if getattr(c.on_batch_end, "__func__", None) is not Callback.on_batch_end]
