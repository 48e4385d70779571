"""Callbacks that write to files, after each epoch.  Where that fails, they warn, and training goes on."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from typing import Any

from bpcore import _errors, _validate
from bpcore._callbacks import Callback, State, Watching, is_better, worst


class Writing(Callback):
    """A callback with a path, in a folder that is there."""

    path: str
    _warned = ""

    def _check_path(self) -> None:
        """FileNotFoundError for a folder that is not there, IsADirectoryError for a path that is one."""
        folder = os.path.dirname(self.path)
        code = errno.EISDIR if os.path.isdir(self.path) else errno.ENOENT if not os.path.isdir(folder or ".") else 0
        if code:
            raise OSError(code, os.strerror(code), self.path)

    def _attempt(self, write: Callable[[], None]) -> bool:
        """Whether it was written; a UserWarning where it was not: once for each reason, until it is again."""
        try:
            write()
        except OSError as error:
            self._warn(error)
            return False
        self._warned = ""
        return True

    def _warn(self, error: OSError) -> None:
        words = f"callbacks: {type(self).__name__} could not write, and training goes on: {error}"
        if words != self._warned:
            self._warned = words
            _errors.warn(words)

    def on_fit_begin(self, state: State) -> None:
        """Checks the path."""
        self._check_path()


class ModelCheckpoint(Writing, Watching):
    """Saves the network to `path`, as `net.save`, after each epoch in which `monitor` is better than ever in this fit.

    best_only=False: after each epoch, whatever `monitor` says.  optimizer: see `Network.save`.  A reader of the file
    sees the network before or the new one, whole.  `best` and `best_epoch` are those of the file.  monitor: see
    EarlyStopping; with an optimiser that keeps an average (`ema=`), what is validated is `bp.load(path).averaged()`.
    A full disk or a read-only folder is a UserWarning, and training goes on; OSError, before the first step, where the
    folder is not there.
    """

    def __init__(
        self, path: Any, monitor: str = "val_loss", *, best_only: bool = True, optimizer: bool = True
    ) -> None:
        self.path = _validate.path(path)
        super().__init__(monitor)
        self.best_only = _validate.flag("best_only", best_only)
        self.optimizer = _validate.flag("optimizer", optimizer)

    @property
    def _watches(self) -> str | None:
        return self.monitor if self.best_only else None

    def on_fit_begin(self, state: State) -> None:
        """Forgets the last fit."""
        super().on_fit_begin(state)
        self.best, self.best_epoch = worst(self, state), state.epoch

    def to_save(self) -> dict[str, Any]:
        """The best so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def on_resume(self, state: State, saved: dict[str, Any]) -> None:
        """It goes on from there."""
        self.best, self.best_epoch = saved["best"], saved["best_epoch"]

    def on_epoch_end(self, state: State) -> None:
        """Compares and saves."""
        value = state.history[self.monitor][-1] if self.best_only else math.nan
        if self.best_only and not is_better(self, value, state):
            return
        if self._attempt(lambda: state.net.save(self.path, optimizer=self.optimizer)):
            self.best, self.best_epoch = value, state.epoch


class _Table(Writing):
    """A line for each epoch of a fit: the file always holds those of its history."""

    def __init__(self, path: Any) -> None:
        self.path = _validate.path(path)

    def on_fit_begin(self, state: State) -> None:
        """The file begins anew with the first epoch."""
        super().on_fit_begin(state)
        self._is_begun = False

    def on_epoch_end(self, state: State) -> None:
        """Writes a line; all of them where the file is new, or one before could not be written."""
        columns = dict(state.history)
        first = len(columns["epoch"]) - 1 if self._is_begun else 0

        def write() -> None:
            with open(self.path, "a" if self._is_begun else "w", encoding="utf-8", newline="") as file:
                self._write(file, columns, first)

        self._is_begun = self._attempt(write)

    def _write(self, file: Any, columns: dict[str, list[float]], first: int) -> None:
        raise NotImplementedError


class CSVLogger(_Table):
    """Writes the history to `path` as CSV: names of columns, then a line after each epoch.  Each fit begins it anew.

    A full disk or a read-only folder is a UserWarning, and training goes on; OSError, before the first step, where the
    folder is not there.
    """

    def _write(self, file: Any, columns: dict[str, list[float]], first: int) -> None:
        import csv  # for those who need it

        writer = csv.writer(file, lineterminator="\n")
        if not self._is_begun:
            writer.writerow(columns)
        writer.writerows(list(zip(*columns.values(), strict=True))[first:])


class JSONLines(_Table):
    """Writes the history to `path`, a JSON object after each epoch: {"epoch": 1, "loss": 0.5, ...}; numbers that are
    not finite are null.  Each fit begins it anew.

    A full disk or a read-only folder is a UserWarning, and training goes on; OSError, before the first step, where the
    folder is not there.
    """

    def _write(self, file: Any, columns: dict[str, list[float]], first: int) -> None:
        for row in list(zip(*columns.values(), strict=True))[first:]:
            values = (value if math.isfinite(value) else None for value in row)
            file.write(json.dumps(dict(zip(columns, values, strict=True))) + "\n")
