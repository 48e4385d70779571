"""Training: checks, then epochs of slices; Python decides between them, C runs within."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpcore import (
    _advice,
    _callbacks,
    _class_weights,
    _core,
    _full_batch,
    _lbfgs,
    _levenberg,
    _metrics,
    _mixup,
    _optimizers,
    _plans,
    _progress,
    _resume,
    _split,
    _standardize,
    _stream,
    _threads,
    _validate,
)
from bpcore._arrays import aligned
from bpcore._data import SLICE_SECONDS, Data
from bpcore._errors import DivergenceError
from bpcore._history import History
from bpcore._layers import SHUFFLE
from bpcore._model import Model, Snapshot
from bpcore._plan_cache import Lent

# optimisers that are no rules of C
_METHODS: dict[str, Any] = {"levenberg_marquardt": _levenberg.Run, "lbfgs": _lbfgs.Run}


@dataclass(slots=True)
class Call:
    """What one network is to be trained on and how, checked.

    names: of X's columns, by input.  shuffled: each epoch takes the rows in an order of its own.
    watched: what callbacks may watch in the history, and which way it is better.  label: printed first.
    blocks: the stream that is trained on, of which `data` is the part at hand.
    """

    model: Model
    state: _callbacks.State
    data: Data
    validation: Data | _stream.Held | None
    names: Mapping[str, tuple[str, ...]]
    optimizer: _optimizers.Optimizer
    epochs: int
    batch: int
    shuffled: bool
    callbacks: list[_callbacks.Callback]
    watched: Mapping[str, str]
    seed: int
    verbose: int
    l2: float
    standardize_y: bool
    mixup: float
    max_steps: int | None = None
    max_seconds: float | None = None
    label: str = ""
    learnt: _standardize.Learnt | None = None
    blocks: _stream.Blocks | None = None

    def learn(self, known: _standardize.Known | None = None) -> None:
        """What is to be known of the data before the first step; the model has it when training begins."""
        self.learnt = _standardize.learn(self.model, self.data, self.standardize_y, known)

    def take_back(self) -> None:
        """The model does not know it, unless a step was made with it."""
        if self.learnt is not None:
            self.learnt.take_back()


def check(
    model: Model,
    state: _callbacks.State,
    data: Data,
    validation: Data | _stream.Held | None,
    names: Mapping[str, tuple[str, ...]],
    *,
    optimizer: Any,
    epochs: Any,
    batch_size: Any,
    shuffle: Any,
    callbacks: Any,
    metrics: Any,
    train_metrics: Any,
    seed: Any,
    verbose: Any,
    l2: Any,
    standardize_y: Any,
    mixup: Any,
    max_steps: Any = None,
    max_seconds: Any = None,
    label: str = "",
    in_blocks: bool = False,
) -> Call:
    """The call for this data, a block of more where in_blocks; ValueError or TypeError for what does not fit it."""
    n = data.n
    optimizer = _optimizers.resolve(optimizer, model.memory.optimizer)
    _optimizers.check(optimizer, model.dtype)
    epochs = _validate.integer("epochs", epochs, 0, 2**31)
    l2 = _validate.real("l2", l2)
    if standardize_y := _validate.switch("standardize_y", standardize_y):
        _standardize.check(model, data)
    max_steps = None if max_steps is None else _validate.integer("max_steps", max_steps, 1, 2**62)
    max_seconds = None if max_seconds is None else _validate.real("max_seconds", max_seconds, open_low=True)
    batch = n if batch_size is None else min(n, _validate.integer("batch_size", batch_size, 1, 2**62))
    if mixup := _validate.real("mixup", mixup):
        _mixup.check(model, data, optimizer)
    if optimizer.full_batch:
        _full_batch.check(optimizer, model, data, batch)
    if isinstance(optimizer, _optimizers.LevenbergMarquardt):
        _levenberg.check(model, data)
    alone = batch == 1 and not (in_blocks and batch_size != 1)  # the last block may be a row, as the last batch may
    if alone and (meeting := model.meeting):
        raise ValueError(
            f"batch_size: {meeting[0]} normalises by the batch, and expected at least 2 rows in one, got 1; use "
            f"bp.LayerNorm or bp.GroupNorm, or net.frozen = {{{meeting[0].partition('@')[0]!r}}} to keep its state"
        )
    if optimizer.leads:
        _check_leads(model)
    shuffled = _validate.switch("shuffle", shuffle) and batch < n
    seed = seed_of(model, seed)
    verbose = _validate.integer("verbose", int(verbose) if isinstance(verbose, (bool, np.bool_)) else verbose, 0, 2)
    callbacks = _callbacks.resolve(callbacks)
    _measure(data, validation, metrics, train_metrics)
    watched = _watched(data, validation) if callbacks or validation or data.measures else {}
    _callbacks.check(callbacks, watched, optimizer)
    if not model.theta.flags.writeable:
        raise ValueError("theta: expected it to be writable, and it is read-only; set net.theta.flags.writeable")
    return Call(
        model, state, data, validation, names, optimizer, epochs, batch, shuffled, callbacks, watched, seed, verbose,
        l2, standardize_y, mixup, max_steps, max_seconds, label,
    )  # fmt: skip


def _check_leads(model: Model) -> None:
    """ValueError where a layer wants a bound that parameters which are an average cannot keep."""
    bounded = [name for name, p in model.graph.parameters.items() if p.treatment.max_norm]
    if bounded:
        raise ValueError(
            f"optimizer: ScheduleFree is for networks without max_norm, and {bounded[0]} has one; use bp.AdamW(), or "
            "weight_decay in place of the bound"
        )


def _measure(data: Data, validation: Data | _stream.Held | None, metrics: Any, train_metrics: Any) -> None:
    """The training data are measured, too, where that is asked for; ValueError for metrics of nothing."""
    if _validate.switch("train_metrics", train_metrics):
        data.measure(metrics)
        if not data.measures:
            raise ValueError("train_metrics: expected metrics to record; give fit metrics=[...]")
    elif validation is None and _metrics.given(metrics):
        raise ValueError(
            "metrics: expected data to measure them on; give fit validation_split=0.2, validation_data=(X, y), or "
            "train_metrics=True"
        )


def _watched(data: Data, validation: Data | _stream.Held | None) -> dict[str, str]:
    """See Call."""
    losses, accuracies = ["loss", *data.by_output], []
    if validation:
        accuracies = [name for name in validation.of_outputs if name.endswith("_accuracy")]
        accuracies += ["val_accuracy"] if data.has_accuracy else []
        losses += ["val_loss", *(name for name in validation.of_outputs if name not in accuracies)]
    watched = {**dict.fromkeys(losses, "lower"), **dict.fromkeys(accuracies, "higher")}
    for name, better in _measured(data, validation):
        if name in watched:
            raise ValueError(f"metrics: the history has {name} already; give the metric or the output another name")
        watched[name] = better
    return watched


def _measured(data: Data, validation: Data | _stream.Held | None) -> list[tuple[str, str]]:
    """The metrics by their names in the history, and which way they are better."""
    own = [(data.column(measure.key), measure.metric.better) for measure in data.measures]
    held = validation.measures if validation else []
    return own + [(f"val_{data.column(m.key)}", m.metric.better) for m in held if m.targets is not None]


def names_of(model: Model, X: Any) -> dict[str, tuple[str, ...]]:
    """Names of columns, by input, that the network knows, and those of X."""
    if model.table is not None:  # which knows them
        return dict(model.feature_names)
    return {**_validate.feature_names_of("X", X, model.inputs), **model.feature_names}


def validation_of(
    model: Model, validation_data: Any, loss: Any, check_finite: bool, names: Mapping[str, tuple[str, ...]],
    metrics: Any,
) -> Data | None:  # fmt: skip
    """The validation data, checked, on which the metrics are measured."""
    if validation_data is None:
        return None
    called = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
    if model.table is not None and not isinstance(validation_data, (tuple, list)):  # a frame, whose target is in it
        validation_data, called = (validation_data, None), ("validation_data", *called[1:])
    Xv, yv, wv = _validate.examples("validation_data", validation_data)
    data = Data(model, Xv, yv, loss, wv, check_finite, called, names)
    data.measure(metrics)
    return data


def seed_of(model: Model, seed: Any) -> int:
    """The seed of a call, checked; None: the network's."""
    return model.seed if seed is None else _validate.seed(seed)


def _held_out(
    model: Model, validation_data: Any, loss: Any, check_finite: bool, names: Mapping[str, tuple[str, ...]],
    metrics: Any,
) -> Data | _stream.Held | None:  # fmt: skip
    """The same, or a stream."""
    if not isinstance(validation_data, _stream.Stream):
        return validation_of(model, validation_data, loss, check_finite, names, metrics)
    refuse_metrics("validation_data", metrics)
    called = ("validation X", "validation y", "validation sample_weight")
    return _stream.Held(validation_data, model, loss, check_finite, None, names, called)


def _weighted(validation: Data | _stream.Held | None, table: np.ndarray | None) -> Data | _stream.Held | None:
    """With these weights of classes."""
    if table is None or validation is None:
        return validation
    if isinstance(validation, Data):
        return _class_weights.weighted(validation, table)
    validation.table = table
    return validation


def refuse_metrics(name: str, metrics: Any) -> None:
    """ValueError for metrics over a stream."""
    if _metrics.given(metrics):
        raise ValueError(
            f"metrics: expected none where {name} is a stream, since they need all answers at once, got {metrics!r}; "
            "loss and accuracy come without asking; give arrays"
        )


def split_off(validation_split: Any, data: Data, validation: Any, seed: int, metrics: Any) -> tuple[Data, Any]:
    """What to train on, and what to validate on, which may be some of the data's rows."""
    if validation_split is None:
        return data, validation
    if validation is not None:
        raise ValueError("validation_split: expected it or validation_data, got both")
    data, held_out = _split.split(validation_split, data, seed)
    held_out.measure(metrics)
    return data, held_out


def fit(
    model: Model,
    state: _callbacks.State,
    X: Any,
    y: Any,
    *,
    loss: Any,
    validation_data: Any,
    validation_split: Any,
    sample_weight: Any,
    class_weight: Any,
    n_threads: Any,
    check_finite: Any,
    metrics: Any,
    resume: Any,
    **settings: Any,
) -> History:
    """Checks everything, then trains; callbacks see `state`.  settings: those of `check`."""
    model.fitting.check("fit")
    check_finite = _validate.switch("check_finite", check_finite)
    if isinstance(X, _stream.Stream):
        _refuse_arrays(y=y, sample_weight=sample_weight, validation_split=validation_split)
        return _fit_stream(
            model, state, X, loss=loss, validation_data=validation_data, class_weight=class_weight,
            n_threads=n_threads, check_finite=check_finite, metrics=metrics, resume=resume, **settings,
        )  # fmt: skip
    data = Data(model, X, y, loss, sample_weight, check_finite)
    names = names_of(model, X)
    validation = _held_out(model, validation_data, loss, check_finite, names, metrics)
    data, validation = split_off(validation_split, data, validation, seed_of(model, settings["seed"]), metrics)
    if (table := _class_weights.table_of(class_weight, data)) is not None:
        data, validation = _class_weights.weighted(data, table), _weighted(validation, table)
    call = check(model, state, data, validation, names, metrics=metrics, **settings)
    return _train(call, _threads.resolve(n_threads), resume)


def _train(call: Call, n_threads: int, resume: Any) -> History:
    """What is left to check, then the epochs."""
    model = call.model
    call.learn()
    _resume.check(call, resume)
    saved = None if resume is None else _resume.read(resume, call)
    call.data.advise()
    if saved is None:
        _optimizers.advise(model.memory.optimizer, call.optimizer)
    with model.fitting:
        try:
            return (Loop if call.blocks is None else StreamLoop)(call, n_threads, saved).train()
        except BaseException:
            call.take_back()
            raise


def _refuse_arrays(**given: Any) -> None:
    """TypeError for what belongs to arrays."""
    for name, value in given.items():
        if value is not None:
            cure = "a stream's blocks hold it" if name != "validation_split" else "give validation_data"
            raise TypeError(f"{name}: expected None where X is a stream, got {type(value).__name__}; {cure}")


def _fit_stream(
    model: Model, state: _callbacks.State, stream: _stream.Stream, *, loss: Any, validation_data: Any,
    class_weight: Any, n_threads: Any, check_finite: bool, metrics: Any, resume: Any, **settings: Any,
) -> History:  # fmt: skip
    """`fit` over a stream."""
    batch, shuffle = settings["batch_size"], _validate.switch("shuffle", settings["shuffle"])
    if batch is None:
        raise ValueError("batch_size: expected a number of rows, since a stream is not held as a whole, got None")
    batch = _validate.integer("batch_size", batch, 1, 2**62)
    if _validate.real("mixup", settings["mixup"]):
        raise ValueError("mixup: expected 0 over a stream, since partners are drawn among the rows of a whole epoch")
    if _validate.switch("train_metrics", settings["train_metrics"]):
        raise ValueError(
            "train_metrics: expected False over a stream, which is not held as a whole; use validation_data"
        )
    optimizer = _optimizers.resolve(settings["optimizer"], model.memory.optimizer)
    _check_in_blocks(optimizer, "nobody knows how many steps a stream has")
    seed = seed_of(model, settings["seed"])
    names = dict(model.feature_names)
    blocks = _stream.Blocks(
        stream, model, loss, check_finite, class_weight, names, batch=batch, seed=seed if shuffle else None
    )
    try:
        blocks.begin(model.epoch)
        blocks.peek()
        validation = _held_out(model, validation_data, loss, check_finite, blocks.names, metrics)
        validation = _weighted(validation, blocks.table)
        first = blocks.peek().data  # which `call` replaces by the part at hand
        call = check(model, state, first, validation, blocks.names, metrics=metrics, in_blocks=True, **settings)
        del first
        call.shuffled, call.blocks, blocks.batch = shuffle, blocks, call.batch
        history = _train(call, _threads.resolve(n_threads), resume)
    except BaseException as error:
        blocks.close(wait=isinstance(error, Exception))
        raise
    blocks.close()
    return history


def evaluate_stream(
    model: Model, stream: _stream.Stream, y: Any, loss: Any, sample_weight: Any, metrics: Any, n_threads: Any
) -> dict[str, float]:
    """`evaluate` over a stream."""
    _refuse_arrays(y=y, sample_weight=sample_weight)
    refuse_metrics("X", metrics)
    threads = _threads.resolve(n_threads)
    held = _stream.Held(stream, model, loss, True, None, model.feature_names)
    held.advise()
    with model.reading() as read:
        return held.evaluate(read, threads)


def _check_in_blocks(optimizer: _optimizers.Optimizer, because: str) -> None:
    """ValueError for an optimiser that needs all examples at once, or to know how many steps there are."""
    if optimizer.full_batch:
        raise ValueError(f"optimizer: {type(optimizer).__name__} takes all examples at once; use net.fit on arrays")
    for name, schedule in _optimizers.schedules(optimizer).items():
        if not schedule.of_steps:
            raise ValueError(
                f"{name}: expected a schedule whose lengths are steps, whole numbers, since {because}, got {schedule!r}"
            )


def partial_fit(
    model: Model, state: _callbacks.State, X: Any, y: Any, *, loss: Any, sample_weight: Any, n_threads: Any,
    check_finite: Any, **settings: Any,
) -> float:  # fmt: skip
    """See Network.partial_fit."""
    model.fitting.check("partial_fit")
    data = Data(model, X, y, loss, sample_weight, _validate.switch("check_finite", check_finite))
    call = check(
        model, state, data, None, names_of(model, X), epochs=1, shuffle=False, callbacks=(), metrics=(),
        train_metrics=False, verbose=0, standardize_y=False, mixup=0.0, in_blocks=True,
        **settings,
    )  # fmt: skip
    _check_in_blocks(call.optimizer, "blocks make no epochs")
    n_threads = _threads.resolve(n_threads)
    call.learn()
    data.advise()
    _optimizers.advise(model.memory.optimizer, call.optimizer)
    with model.fitting:
        try:
            return Loop(call, n_threads).one_pass()
        except BaseException:
            call.take_back()
            raise


def _mean(total: float, weight: float) -> float:
    return total / weight if weight else float("nan")


class _Outside:
    """Within a slice, while the user's Python is called: nothing moves, and other threads may read the network."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __enter__(self) -> None:
        self.loop.count()
        self.loop.model.fitting.open()

    def __exit__(self, *error: object) -> None:
        self.loop.model.fitting.close(self.loop.run)


class Loop:
    """One call of `fit`."""

    watches = False  # whether `end_epoch` does what no callback asks for

    def __init__(self, call: Call, n_threads: int, saved: _resume.Saved | None = None) -> None:
        self.call, self.model, self.state = call, call.model, call.state
        self.saved, self.steps_before_resume = saved, 0
        self.data, self.validation, self.n_threads = call.data, call.validation, n_threads
        model, state, data, optimizer = call.model, call.state, call.data, call.optimizer
        if call.learnt is not None:
            call.learnt.put()
            for known in (data, call.validation):
                if known is not None:
                    known.check_units(model)
        self.trained = _mixup.mixable(data) if call.mixup else data  # the data as steps read them
        self.lent: dict[int, Lent] = {}  # by what their plans were compiled for
        self.callbacks = call.callbacks
        self.begun: list[_callbacks.Callback] = []
        self.due = _callbacks.by_batch(self.callbacks)
        self.checkpoints = [c for c in self.callbacks if isinstance(c, _resume.Checkpoint)]
        self.is_kept = False  # as of a step within the last epoch
        self.order: np.ndarray | None = None  # of the epoch
        self.order_is_own = False  # a callback has set it
        self.deadline = math.inf
        self.progress: _progress.Lines | None = None
        self.within_epoch, self.epoch_start = False, 0.0
        self.stopped_by: str | None = None  # see History
        self.slicing = False
        self.uncounted: tuple[_optimizers.Memory, int] | None = None  # memory and step before the first steps
        self.fresh: list[Snapshot] = []  # settled ones, until all callbacks are told
        self.epochs_left, self.last_epoch = call.epochs, model.epoch + call.epochs
        validated = call.validation.of_outputs if call.validation else ()
        state.history.outputs = {name: [] for name in (*data.by_output, *validated)}
        if call.watched:
            state.history.metrics = {name: [] for name, _ in _measured(data, call.validation)}
            state._higher = frozenset(name for name, better in call.watched.items() if better == "higher")
        state.epoch, state.step = model.epoch, model.step
        last = model.memory.optimizer
        if last is optimizer or last is not None and _optimizers.kept(last) == _optimizers.kept(optimizer):
            memory = _optimizers.succeeded(model.memory, optimizer)
        else:
            memory = model.new_memory(optimizer)
        model.settle(memory)
        # what the plan reads and moves: of a rule that leads it is ahead of what the network shows
        place = 1 + len(memory.states)
        self.theta = aligned(model.theta.size, model.dtype, place) if optimizer.leads else model.theta
        self.flags, self.flagged = self._flags(optimizer), optimizer
        steps = -(-data.n // call.batch)
        self.lengths = _optimizers.Call(memory.updates, max(1, call.epochs) * steps, steps)
        method = _METHODS.get(optimizer.kind)
        self.run: Any = method(model, data, n_threads, call.l2) if method else self._new_run()
        self._use(memory, memory.updates)
        self._draw_from(model.step)
        self.steps_before = self.run.progress()[5]  # the epoch
        state._lr = self._lr()
        model.feature_names = call.names

    @functools.cached_property
    def described(self) -> dict[str, Any]:
        """What tells this run from others; ValueError where it has what no file can hold."""
        return _resume.describe(self.call)

    def _new_run(self) -> Any:
        key = self.trained.key(_plans.TRAIN | self.flags, self.call.batch, self.n_threads)
        if self.flags in self.lent:
            self.lent[self.flags].run.bind(self.theta, self.model.state)
        else:
            self.lent[self.flags] = _plans.take(self.model, key, theta=self.theta)
        run = self.trained.feed(self.model, self.lent[self.flags])
        run.outside = _Outside(self)
        return run

    def _flags(self, optimizer: _optimizers.Optimizer) -> int:
        """What the plan must be compiled with; with an l2 for all weights, moves are not fused with sums."""
        if self.call.l2:
            return optimizer.flags & ~_core.FUSE | _core.PENALTY
        return optimizer.flags | self.model.penalties

    def _use(self, memory: _optimizers.Memory, first: int) -> None:
        """Goes on with this memory, in another run where its numbers need another plan; first: updates when the epoch
        began, or would have begun if all of it had been trained so."""
        before, optimizer = self.run, memory.optimizer
        assert optimizer is not None
        numbers = self._numbers(memory, first)  # which may refuse, with nothing changed
        if optimizer is not self.flagged:
            if (flags := self._flags(optimizer)) != self.flags:
                self.flags = flags
                self.run = self._new_run()
            self.flagged = optimizer
        self.memory, self.state.optimizer, self.numbers, self.first = memory, optimizer, numbers, first
        shown = (self.model.theta,) if optimizer.leads else ()
        states = (*memory.states, *shown)
        self.run.optimizer(optimizer.rule, states, memory.updates, memory.weights, **numbers)
        if self.run is not before:
            self.run.follow(before)

    def _numbers(self, memory: _optimizers.Memory, first: int) -> dict[str, Any]:
        """Of the optimiser, and l2, for C: from update `first` on, the first of an epoch."""
        return {"l2": self.call.l2, **_optimizers.numbers(memory, first, self.lengths)}

    def _draw_from(self, step: int) -> None:
        """What is drawn in the next step is drawn for this one."""
        self.first_step = step - self.run.progress()[5]
        self.run.random(self.call.seed, self.first_step)

    def _succeed(self, memory: _optimizers.Memory) -> None:
        """Goes on with another memory of the same kind."""
        self._use(memory, memory.updates - (self.run.progress()[5] - self.steps_before))

    def _memory_now(self) -> _optimizers.Memory:
        """As of the run's last step."""
        optimizer, states, _, begun, _ = self.memory
        return _optimizers.Memory(optimizer, states, self.run.updates(), begun, self.run.weights())

    def snapshot(self, settled: bool = False) -> Snapshot:
        """See State.snapshot; settled: with the optimiser that all callbacks leave."""
        memory, model = self._memory_now().copy(), self.model
        snapshot = Snapshot(model.theta.copy(), model.state.copy(), memory, model.step, model.epoch)
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

    def take_back(self, snapshot: Snapshot, memory: _optimizers.Memory) -> None:
        """The network has what it had before the fit, of which it was told as it began."""
        self.restore(snapshot)
        self.model.memory = memory
        self.call.take_back()

    def train(self) -> History:
        """Runs the epochs."""
        try:
            self.begin()
            try:
                self._train()
            except DivergenceError:
                if not any(callback._takes_divergence for callback in self.callbacks):
                    raise
                self.stopped_by = "callback"
            self.end()
        finally:
            self.close()
        self.give_back()
        return self.state.history

    def _train(self) -> None:
        if self.saved and self.saved.run["within"]:
            self._rest_of_epoch()
        if isinstance(self.run, _lbfgs.Run):
            self.run.train(self)
        else:
            while self.goes_on():
                self.epoch(self.next_order(), time.perf_counter())

    def one_pass(self) -> float:
        """The rows as they lie, once, which is no epoch; the mean loss of the batches as they were trained."""
        try:
            self.begin()
            self.begin_epoch(None)
            self._epoch()
        finally:
            self.close()
        loss, weight = self.run.progress()[:2]
        self.give_back()
        return _mean(loss, weight)

    def epoch(self, order: np.ndarray | None, start: float) -> None:
        """One epoch over the rows in this order, which is timed from `start` on."""
        self.epoch_start = start
        self.begin_epoch(order)
        self._rest_of_epoch()

    def _rest_of_epoch(self) -> None:
        """From where the run stands in the epoch that is begun."""
        self.within_epoch = True
        self.stopped_by = self._reason()
        if not self.stopped_by:
            self._epoch()
        self.within_epoch = False
        self._log_epoch(time.perf_counter() - self.epoch_start)
        self.end_epoch()

    def begin(self) -> None:
        """Tells the callbacks; whatever comes after it ends with `close`."""
        self.state._loop = self
        if self.call.max_seconds is not None:
            self.deadline = time.perf_counter() + self.call.max_seconds
        self._tell("on_fit_begin")
        if self.saved:
            _resume.go_on(self, self.saved)
        self.progress = _progress.begin(self)

    def goes_on(self) -> bool:
        """Whether another epoch comes."""
        if self.epochs_left > 0:
            self.stopped_by = self._reason()
        return self.epochs_left > 0 and not self.stopped_by

    def _reason(self) -> str | None:
        """Why no step is to come, for History.stopped_by; an epoch that is begun has one step at least."""
        if self.state.stopped:
            return "callback"
        if self._steps_left() == 0:
            return "max_steps"
        late = time.perf_counter() >= self.deadline and self.run.is_whole() and self.run.progress()[4]
        return "max_seconds" if late else None

    def _steps_left(self) -> int | None:
        """Until there are max_steps."""
        most = self.call.max_steps
        return None if most is None else max(0, most - self.steps_made())

    def steps_made(self) -> int:
        """In this call, and before in the run that it goes on with."""
        steps: int = self.steps_before_resume + self.run.progress()[5]
        return steps

    def next_order(self) -> np.ndarray | None:
        """In which the next epoch takes the rows of the arrays; None: as they lie."""
        data, picked = self.data, None
        self.order_is_own = self.state.order is not None
        if self.order_is_own:
            picked = _validate.order(self.state.order, data.n)
        elif self.call.shuffled:
            picked = _core.permutation(data.n, self.call.seed, SHUFFLE, self.model.epoch % 2**32)
        return picked if data.rows is None else data.rows if picked is None else data.rows[picked]

    def begin_epoch(self, order: np.ndarray | None) -> None:
        """The run begins an epoch, for which schedules give other numbers."""
        self.steps_before, updates = self.run.progress()[5], self.run.updates()
        if updates != self.first and _optimizers.schedules(self.memory.optimizer):
            self._use(self._memory_now(), updates)
        self.first = updates
        self.take_rows(order)

    @property
    def rows_of_epoch(self) -> int:
        """0: not known."""
        return self.data.n

    def take_up(self, within: dict[str, Any], order: np.ndarray | None) -> None:
        """An epoch that a file has begun, in the order that a callback has given."""
        self.take_rows(self.next_order() if order is None else order)
        self.order_is_own = order is not None
        self.run.resume(within["progress"], within["losses"], within["steps"])

    def next_part(self) -> bool:
        """Whether the epoch goes on with other rows, which the run has by now."""
        return False

    def take_rows(self, order: np.ndarray | None) -> None:
        """The run begins an epoch over the rows in this order."""
        self.order, call = order, self.call
        self.run.begin(self.data.n, call.batch, order)
        if call.mixup:
            self.run.mix(*_mixup.draw(call.mixup, self.data, order, call.batch, call.seed, self.model.epoch))

    def _lr(self, ahead: int = 0) -> Any:
        """Of the last step, or of the one that is so far ahead; before the first, of that."""
        lr = self.numbers.get("lr")
        return float(lr[max(0, self.run.updates() - self.first - 1 + ahead)]) if isinstance(lr, np.ndarray) else lr

    def log(self, loss: list[float], seconds: list[float], rates: list[float], outputs: list[list[float]]) -> None:
        """Of the last epochs that the network counts: the loss of each, its seconds, its samples a second, and the loss
        of each output."""
        model, state = self.model, self.state
        by_output = dict(zip(self.data.by_output, outputs, strict=True)) if outputs else {}
        state._lr = self._lr()
        lr = [] if state._lr is None else [float(state._lr)] * len(loss)  # by step in one epoch at a time
        state.history._add(model.epoch - len(loss), loss, seconds, rates, by_output, lr)
        self.epochs_left -= len(loss)
        state.epoch, state.loss = model.epoch, loss[-1]

    def end_epoch(self) -> None:
        """Validates, prints, calls back."""
        if self.data.measures:
            result = self.data.evaluate(self.model, self.n_threads)
            self._record({self.data.column(measure.key): result[measure.key] for measure in self.data.measures})
        if self.validation is not None:
            result = self.validation.evaluate(self.model.averaged(), self.n_threads, self.call.l2)
            self._record({f"val_{self.validation.column(name)}": value for name, value in result.items()})
        self.state.history._show()
        if self.progress:
            self.progress.epoch()
        self._tell("on_epoch_end")
        if not self.is_kept:
            self._keep(epoch_ended=True)

    def _keep(self, epoch_ended: bool) -> None:
        """Checkpoints keep the run, where they are due."""
        for checkpoint in self.checkpoints:
            checkpoint.look(self, epoch_ended)

    def _record(self, values: Mapping[str, float]) -> None:
        """The history has them."""
        columns = self.state.history._columns()
        for name, value in values.items():
            columns[name].append(value)

    def end(self) -> None:
        """Tells the callbacks that all is done."""
        self.state.history.stopped_by = self.stopped_by
        for checkpoint in [] if self.is_kept else self.checkpoints:
            checkpoint.take_last(self)
        self._tell("on_fit_end")

    def close(self) -> None:
        """Leaves the network as of a whole step, whatever ended training, and tells the callbacks, once."""
        self.run.make_whole()
        self.model.fitting.open()
        begun, self.begun = self.begun, []
        self.state.history._level()
        if self.progress:
            self.progress.close()
        try:
            self.count()
            self.state.step = self.model.step
            self._close(begun)
        finally:
            self.state._loop = None
            for checkpoint in self.checkpoints:
                checkpoint.finish()

    def give_back(self) -> None:
        """The runs wait for the next call."""
        for lent in self.lent.values():
            lent.give_back()
        self.lent = {}

    def _close(self, callbacks: list[_callbacks.Callback]) -> None:
        """Tells all of them that the fit is over, whatever one of them raises."""
        if callbacks:
            try:
                callbacks[0].on_fit_close(self.state)
            finally:
                self._close(callbacks[1:])

    def count(self) -> None:
        """The network has the steps and the optimiser's memory of the run."""
        steps, model = self.run.progress()[5], self.model
        if steps:
            if self.uncounted is None:
                self.uncounted = model.memory, model.step
            model.memory = self._memory_now()
            model.step = self.first_step + steps
        elif self.uncounted is not None:  # the first steps were undone
            (model.memory, model.step), self.uncounted = self.uncounted, None

    def _epoch(self) -> None:
        """Slices until the epoch is done, or there is a reason to stop after a whole step."""
        before, fresh = self.run.progress(), True
        while True:
            most = self._most()
            status = self._slice(most, fresh)
            done = self.run.progress()
            self.check_status(status)
            loss, weight, batches = (done[i] - before[i] for i in (0, 1, 4))
            due = [each for each in self.due if each.add(batches, loss, weight)]
            before, fresh = done, bool(due) and (status == _core.DONE or batches == most)
            if fresh:  # no step is half made
                self._tell_of_batches(due)
            if self.progress:
                self.progress.within()
            if status == _core.DONE and not self.next_part():
                return
            if reason := self._reason():
                self.stopped_by = reason
                if reason != "callback":  # a run that goes on from there has not been cut
                    for checkpoint in self.checkpoints:
                        checkpoint.take(self)
                    self.is_kept = True
                return
            self._keep(epoch_ended=False)

    def _most(self) -> int:
        """Batches until a callback is due or there are max_steps; -1: as many as there are."""
        limits = [self._steps_left(), *(each.most() for each in self.due)]
        return min((limit for limit in limits if limit is not None), default=-1)

    def _tell_of_batches(self, due: list[_callbacks.Due]) -> None:
        self.state.step = self.model.step
        for each in due:
            self.state.loss = _mean(each.loss, each.weight)
            each.begin()
            each.callback.on_batch_end(self.state)
        self._succeed_if_replaced()

    def check_status(self, status: int) -> None:
        """DivergenceError where a slice ended with numbers that are not finite."""
        if status not in (_core.NONFINITE_LOSS, _core.NONFINITE_PARAM):
            return
        what = "loss" if status == _core.NONFINITE_LOSS else "parameters"
        if not np.isfinite(self.model.theta).all():  # a step that diverges leaves the last finite ones
            what = "theta"
        advice = _advice.on_divergence(self.model, self.data, self._lr(ahead=1))
        raise DivergenceError(what, self.model.epoch + 1, self.run.progress()[4] + 1, advice)

    def _slice(self, max_steps: int, fresh: bool) -> int:
        """Runs a slice, and opens the network to readers if this left it after a whole step."""
        fitting = self.model.fitting
        fitting.close(self.run)
        self.slicing = True
        try:
            seconds = min(SLICE_SECONDS, max(0.0, self.deadline - time.perf_counter()))
            status: int = self.run.slice(self.n_threads, seconds, max_steps, fresh)
            self.state._lr = self._lr()
            self.count()
        finally:
            self.slicing = False
            if self.run.is_whole():
                fitting.open()
        return status

    def _log_epoch(self, seconds: float) -> None:
        loss, weight, _, rows, _, _ = self.run.progress()
        by_output = self.data.by_output
        outputs = [[_mean(*self.run.losses()[i][:2])] for i in by_output.values()] if by_output else []
        self.model.epoch += 1
        self.log([_mean(loss, weight)], [seconds], [rows / seconds if seconds else float("inf")], outputs)

    def _tell(self, event: str) -> None:
        if not self.callbacks:
            return
        self.state.step = self.model.step
        for callback in self.callbacks:
            if event == "on_fit_begin":
                self.begun.append(callback)
            getattr(callback, event)(self.state)
        self._succeed_if_replaced()

    def _succeed_if_replaced(self) -> None:
        """Goes on with the optimiser that callbacks have put in place of the last."""
        optimizer, fresh = self.state.optimizer, self.fresh
        self.fresh = []
        if optimizer is not self.memory.optimizer:
            _optimizers.check_successor(self.memory.optimizer, optimizer, self.model.dtype)
            self._succeed(_optimizers.succeeded(self._memory_now(), optimizer))
            for snapshot in fresh:
                snapshot.memory = _optimizers.succeeded(snapshot.memory, optimizer)


class StreamLoop(Loop):
    """One call of `fit` over a stream: an epoch is one part after the other."""

    @property
    def rows_of_epoch(self) -> int:
        """Of the last epoch; 0: not known."""
        return self._blocks.rows_of_epoch

    @property
    def _blocks(self) -> _stream.Blocks:
        assert self.call.blocks is not None
        return self.call.blocks

    def next_order(self) -> None:
        """The stream's own."""
        if self.state.order is not None:
            raise ValueError("state.order: expected None over a stream, whose rows come in the order of its blocks")

    def begin_epoch(self, order: np.ndarray | None) -> None:
        """The stream begins an epoch, too."""
        self._blocks.begin(self.model.epoch)
        part = self._blocks.take()
        assert part is not None  # an epoch without rows is an error
        self._train_on(part, goes_on=False)

    def next_part(self) -> bool:
        """Waits for it, but not longer than the run may take."""
        try:
            part = self._blocks.take(self.deadline)
        except _stream.Late:
            return True  # the epoch would have gone on
        if part is not None:
            self._train_on(part, goes_on=True)
        return part is not None

    def take_up(self, within: dict[str, Any], order: np.ndarray | None) -> None:
        """Passes over the parts that are done."""
        done, skipped = within["progress"][3], 0
        self._blocks.begin(self.model.epoch)
        while (part := self._blocks.take()) is not None and skipped + part.n <= done:
            skipped += part.n
        if part is None:
            raise ValueError(
                f"resume: expected the blocks of the run that was stopped, with more than {done} rows in an epoch, got "
                f"{skipped}"
            )
        self._train_on(part, goes_on=False)
        self.run.resume(within["progress"], within["losses"], 0, skipped // self.call.batch)

    def _train_on(self, part: _stream.Part, goes_on: bool) -> None:
        """The run has these rows, and the numbers of as many steps."""
        self.data = self.trained = self.call.data = part.data
        part.data.check_units(self.model)
        part.data.feed(self.model, self.lent[self.flags])
        self.lengths = self.lengths._replace(steps_of_epoch=-(-part.n // self.call.batch))
        self.steps_before, self.order = self.run.progress()[5], part.order
        self._use(self._memory_now(), self.run.updates())
        self.run.begin(part.n, self.call.batch, part.order, goes_on)
