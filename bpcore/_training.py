"""Training: checks, then epochs of slices; Python decides between them, C runs within."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bpcore import _advice, _callbacks, _core, _levenberg, _optimizers, _plans, _threads, _validate
from bpcore._data import SLICE_SECONDS, Data
from bpcore._errors import DivergenceError
from bpcore._history import History
from bpcore._layers import SHUFFLE
from bpcore._model import Model, Snapshot
from bpcore._plan_cache import Lent


def fit(
    model: Model,
    state: _callbacks.State,
    X: Any,
    y: Any,
    *,
    loss: Any,
    optimizer: Any,
    epochs: Any,
    batch_size: Any,
    shuffle: Any,
    validation_data: Any,
    sample_weight: Any,
    callbacks: Any,
    n_threads: Any,
    seed: Any,
    check_finite: Any,
    verbose: Any,
) -> History:
    """Checks everything, then trains; callbacks see `state`."""
    model.fitting.check("fit")
    check_finite = _validate.switch("check_finite", check_finite)
    data = Data(model, X, y, loss, sample_weight, check_finite)
    n = data.n
    names = {**_validate.feature_names_of("X", X, model.inputs), **model.feature_names}
    validation = None
    if validation_data is not None:
        Xv, yv = _validate.pair("validation_data", validation_data)
        called = ("validation_data[0]", "validation_data[1]")
        validation = Data(model, Xv, yv, loss, None, check_finite, called, names)
    optimizer = _optimizers.resolve(optimizer, model.memory.optimizer)
    _optimizers.check(optimizer, model.dtype)
    epochs = _validate.integer("epochs", epochs, 0, 2**31)
    batch = n if batch_size is None else min(n, _validate.integer("batch_size", batch_size, 1, 2**62))
    if isinstance(optimizer, _optimizers.LevenbergMarquardt):
        _levenberg.check(model, data, batch)
    shuffled = _validate.switch("shuffle", shuffle) and batch < n
    seed = model.seed if seed is None else _validate.seed(seed)
    n_threads = _threads.resolve(n_threads)
    verbose = _validate.switch("verbose", verbose)
    callbacks = _callbacks.resolve(callbacks)
    accuracy = ("val_accuracy",) if data.has_accuracy else ()
    validated = ("val_loss", *accuracy, *validation.of_outputs) if validation else ()
    _callbacks.check(callbacks, ("loss", *data.by_output, *validated), optimizer)
    if not model.theta.flags.writeable:
        raise ValueError("theta: expected it to be writable, and it is read-only; set net.theta.flags.writeable")
    data.advise()
    _optimizers.advise(model.memory.optimizer, optimizer)
    with model.fitting:
        loop = Loop(model, state, data, batch, validation, optimizer, epochs, n_threads, callbacks, verbose, seed)
        model.feature_names = names
        history = loop.train(epochs, shuffled)
        for lent in loop.lent.values():
            lent.give_back()
        return history


def _mean(total: float, weight: float) -> float:
    return total / weight if weight else float("nan")


class _Outside:
    """Within a slice, while the user's Python is called: nothing moves, and other threads may read the network."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __enter__(self) -> None:
        self.loop._count()
        self.loop.model.fitting.open()

    def __exit__(self, *error: object) -> None:
        self.loop.model.fitting.close(self.loop.run)


class Loop:
    """One call of `fit`."""

    def __init__(
        self,
        model: Model,
        state: _callbacks.State,
        data: Data,
        batch: int,
        validation: Data | None,
        optimizer: _optimizers.Optimizer,
        epochs: int,
        n_threads: int,
        callbacks: list[_callbacks.Callback],
        verbose: bool,
        seed: int,
    ) -> None:
        self.model, self.state, self.data, self.batch = model, state, data, batch
        self.validation, self.n_threads = validation, n_threads
        self.lent: dict[int, Lent] = {}  # by what their plans were compiled for
        self.callbacks, self.verbose, self.seed = callbacks, verbose, seed
        self.begun: list[_callbacks.Callback] = []
        self.slicing = False
        self.fresh: list[Snapshot] = []  # settled ones, until all callbacks are told
        validated = validation.of_outputs if validation else ()
        state.history.outputs = {name: [] for name in (*data.by_output, *validated)}
        state.epoch, state.step = model.epoch, model.step
        last = model.memory.optimizer
        if last is not None and _optimizers.kept(last) == _optimizers.kept(optimizer):
            memory = _optimizers.succeeded(model.memory, optimizer)
        else:
            memory = _optimizers.Memory(optimizer, model.state_arrays(len(optimizer.states)), 0)
        self.flags = optimizer.flags
        steps = -(-data.n // batch)
        self.call = _optimizers.Call(memory.updates, max(1, epochs) * steps, steps)
        newton = isinstance(optimizer, _optimizers.LevenbergMarquardt)
        self.run: Any = _levenberg.Run(model, data, n_threads) if newton else self._new_run()
        self._use(memory, memory.updates)
        self._draw_from(model.step)
        self.steps_before = self.run.progress()[5]  # the epoch
        state._lr = self._lr()

    def _new_run(self) -> Any:
        key = self.data.key(_plans.TRAIN | self.flags, self.batch, self.n_threads)
        if self.flags in self.lent:
            self.lent[self.flags].run.bind(self.model.theta)
        else:
            self.lent[self.flags] = _plans.take(self.model, key)
        run = self.data.feed(self.lent[self.flags])
        run.outside = _Outside(self)
        return run

    def _use(self, memory: _optimizers.Memory, first: int) -> None:
        """Goes on with this memory, in another run where its numbers need another plan; first: updates when the epoch
        began, or would have begun if all of it had been trained so."""
        before, optimizer = self.run, memory.optimizer
        assert optimizer is not None
        numbers = _optimizers.numbers(memory, first, self.call)  # which may refuse, with nothing changed
        if optimizer.flags != self.flags:
            self.flags = optimizer.flags
            self.run = self._new_run()
        self.memory, self.state.optimizer, self.numbers, self.first = memory, optimizer, numbers, first
        self.run.optimizer(optimizer.kind, memory.states, memory.updates, **numbers)
        if self.run is not before:
            self.run.follow(before)

    def _draw_from(self, step: int) -> None:
        """What is drawn in the next step is drawn for this one."""
        self.first_step = step - self.run.progress()[5]
        self.run.random(self.seed, self.first_step)

    def _succeed(self, memory: _optimizers.Memory) -> None:
        """Goes on with another memory of the same kind."""
        self._use(memory, memory.updates - (self.run.progress()[5] - self.steps_before))

    def snapshot(self, settled: bool = False) -> Snapshot:
        """See State.snapshot; settled: with the optimiser that all callbacks leave."""
        memory = self.memory._replace(updates=self.run.updates()).copy()
        snapshot = Snapshot(self.model.theta.copy(), memory, self.model.step, self.model.epoch)
        if settled:
            self.fresh.append(snapshot)
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """See State.restore."""
        theta, optimizer = self.model.theta, self.memory.optimizer
        assert optimizer is not None and snapshot.memory.optimizer is not None
        same = (theta.shape, theta.dtype) == (snapshot.theta.shape, snapshot.theta.dtype)
        if not same or _optimizers.kept(snapshot.memory.optimizer) != _optimizers.kept(optimizer):
            raise ValueError("snapshot: expected one that was taken during this fit, got one of another")
        self.model.fitting.close(self.run)
        try:
            self.model.restore(snapshot)
        finally:
            self.model.fitting.open()
        self._succeed(self.model.memory)
        self._draw_from(snapshot.step)
        self.state.epoch, self.state.step = snapshot.epoch, snapshot.step

    def train(self, epochs: int, shuffled: bool) -> History:
        """Runs the epochs."""
        model, state = self.model, self.state
        last_epoch = model.epoch + epochs
        state._loop = self
        try:
            self._tell("on_fit_begin")
            for _ in range(epochs):
                if state.stopped:
                    break
                order = None
                if shuffled:
                    order = _core.permutation(self.data.n, self.seed, SHUFFLE, model.epoch % 2**32)
                if state.order is not None:
                    order = _validate.order(state.order, self.data.n)
                start = time.perf_counter()
                self._begin(order)
                self._epoch()
                self._close_epoch(time.perf_counter() - start)
                self._count()
                if self.verbose:
                    self._print(last_epoch)
                self._tell("on_epoch_end")
            self._tell("on_fit_end")
        finally:
            self.run.undo()
            model.fitting.open()
            try:
                self._count()
                state.step = model.step
                self._close(self.begun)
            finally:
                state._loop = None
        return state.history

    def _begin(self, order: Any) -> None:
        """Begins an epoch, for which schedules give other numbers."""
        self.steps_before, updates = self.run.progress()[5], self.run.updates()
        if updates != self.first and _optimizers.schedules(self.memory.optimizer):
            self._use(self.memory._replace(updates=updates), updates)
        self.first = updates
        self.run.begin(self.data.n, self.batch, order)

    def _lr(self, ahead: int = 0) -> Any:
        """Of the last step, or of the one that is so far ahead; before the first, of that."""
        lr = self.numbers.get("lr")
        return float(lr[max(0, self.run.updates() - self.first - 1 + ahead)]) if isinstance(lr, np.ndarray) else lr

    def _close(self, callbacks: list[_callbacks.Callback]) -> None:
        """Tells all of them that the fit is over, whatever one of them raises."""
        if callbacks:
            try:
                callbacks[0].on_fit_close(self.state)
            finally:
                self._close(callbacks[1:])

    def _count(self) -> None:
        steps = self.run.progress()[5]
        if steps:
            self.model.memory = self.memory._replace(updates=self.run.updates())
            self.model.step = self.first_step + steps

    def _epoch(self) -> None:
        """Slices until the epoch is done or a callback stops it."""
        by_batch = _callbacks.wants_batches(self.callbacks)
        max_steps = 1 if by_batch else -1
        before = (0.0, 0.0, 0)
        fresh = True
        while True:
            status = self._slice(max_steps, fresh)
            fresh = False
            loss, weight, _, _, batches, _ = self.run.progress()
            if status in (_core.NONFINITE_LOSS, _core.NONFINITE_PARAM):
                what = "loss" if status == _core.NONFINITE_LOSS else "parameters"
                if not np.isfinite(self.model.theta).all():  # a step that diverges leaves the last finite ones
                    what = "theta"
                advice = _advice.on_divergence(self.model, self.data, self._lr(ahead=1))
                raise DivergenceError(what, self.model.epoch + 1, batches + 1, advice)
            if by_batch and batches > before[2]:
                self.state.loss = _mean(loss - before[0], weight - before[1])
                before = (loss, weight, batches)
                self._tell("on_batch_end")
                fresh = True
            if status == _core.DONE or self.state.stopped:
                return

    def _slice(self, max_steps: int, fresh: bool) -> int:
        """Runs a slice, and opens the network to readers if this left it after a whole step."""
        fitting = self.model.fitting
        fitting.close(self.run)
        self.slicing = True
        try:
            status: int = self.run.slice(self.n_threads, SLICE_SECONDS, max_steps, fresh)
            self.state._lr = self._lr()
            self._count()
        finally:
            self.slicing = False
            if self.run.is_whole():
                fitting.open()
        return status

    def _close_epoch(self, seconds: float) -> None:
        loss, weight, _, rows, _, _ = self.run.progress()
        self.model.epoch += 1
        history, state = self.state.history, self.state
        history.epoch.append(self.model.epoch)
        history.loss.append(_mean(loss, weight))
        for name, i in self.data.by_output.items():
            history.outputs[name].append(_mean(*self.run.losses()[i][:2]))
        history.seconds.append(seconds)
        history.samples_per_second.append(rows / seconds if seconds else float("inf"))
        if state._lr is not None:
            history.lr.append(float(state._lr))
        state.epoch, state.loss = self.model.epoch, history.loss[-1]
        if self.validation is not None:
            result = self.validation.evaluate(self.model, self.n_threads)
            columns = history._columns()
            for name, value in result.items():
                columns[f"val_{name.replace('.', '_')}"].append(value)
        history._show()

    def _print(self, last_epoch: int) -> None:
        history = self.state.history
        words = [f"epoch {history.epoch[-1]}/{last_epoch}", f"loss {history.loss[-1]:.5g}"]
        if history.val_loss:
            words.append(f"val_loss {history.val_loss[-1]:.5g}")
        if history.val_accuracy:
            words.append(f"val_accuracy {history.val_accuracy[-1]:.4f}")
        words.append(f"{history.samples_per_second[-1]:,.0f} samples/s")
        print("  ".join(words), flush=True)

    def _tell(self, event: str) -> None:
        if not self.callbacks:
            return
        self.state.step = self.model.step
        for callback in self.callbacks:
            if event == "on_fit_begin":
                self.begun.append(callback)
            getattr(callback, event)(self.state)
        optimizer, fresh = self.state.optimizer, self.fresh
        self.fresh = []
        if optimizer is not self.memory.optimizer:
            _optimizers.check_successor(self.memory.optimizer, optimizer, self.model.dtype)
            memory = self.memory._replace(updates=self.run.updates())
            self._succeed(_optimizers.succeeded(memory, optimizer))
            for snapshot in fresh:
                snapshot.memory = _optimizers.succeeded(snapshot.memory, optimizer)
