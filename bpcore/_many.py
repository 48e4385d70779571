"""Many networks at once: each is trained with the bits of its own `fit`, and C goes on with one on each thread."""

from __future__ import annotations

import copy
import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from bpcore import _callbacks, _class_weights, _core, _optimizers, _standardize, _threads, _training, _validate
from bpcore._callback_files import Writing
from bpcore._callbacks import Callback, EarlyStopping, State
from bpcore._data import SLICE_SECONDS, Data
from bpcore._errors import DivergenceError
from bpcore._history import History
from bpcore._layers import SHUFFLE
from bpcore._model import Model
from bpcore._network import Network
from bpcore._optimizers import Optimizer
from bpcore._resume import Checkpoint
from bpcore._words import refuse, worded

_PER_THREAD = 16  # networks in training at a time: threads that are done with one find another
_ARENA_BYTES = 64 << 20  # theirs together, unless each thread's one network takes more
_EPOCHS = 256  # of a network, in one call of C
_SHUFFLED_IN_C = 1 << 18  # rows; Ctrl-C is heard while more are shuffled


@worded
def fit_many(
    nets: Iterable[Network],
    X: Any,
    y: Any = None,
    *,
    loss: Any = "auto",
    optimizer: Optimizer | str | Sequence[Optimizer | str | None] | None = None,
    epochs: int = 1,
    batch_size: int | None = 32,
    shuffle: bool = True,
    rows: Any = None,
    validation_data: tuple[Any, ...] | None = None,
    validation_split: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    metrics: Any = (),
    train_metrics: bool = False,
    mixup: float = 0.0,
    callbacks: Any = (),
    l2: float = 0.0,
    standardize_y: bool = False,
    n_threads: int | None = None,
    seed: Any = None,
    check_finite: bool = True,
    verbose: int = 0,
) -> list[History]:
    """Trains K networks on the same X and y, as `net.fit` trains each; returns their histories, in their order.

    Each network ends with the bits that `net.fit(X[rows], y[rows], sample_weight=sample_weight[rows], ...)` would have
    given it alone.  They are trained side by side, one on each thread; X and y are checked once, never copied, and all
    networks read them.  Networks may be of any shapes that X and y fit.

    optimizer, seed, rows, sample_weight, callbacks: one for all networks, or a list of K.
    rows: (m,) integers, which rows of X and y a network is trained on, in any order and any number of times: those of a
    fold, or of a bootstrap sample; a list of K such arrays, or an array (K, m); None: all.
    sample_weight: (n,), the weight of each row of X, or what else `fit` takes; or a list of K such arrays.
    validation_split: as in `Network.fit`, for each network among the rows that are its own, drawn from its own seed.
    callbacks: those given once are copied (deepcopy) for each network; a list of K lists is taken as it is.  They are
    called on the calling thread; in which order the networks take turns is not promised.
    All else is as in `Network.fit`; verbose=1 or 2 prints a line for each epoch of each network.  Networks that call
    Python in each step (functions of your own, `on_batch_end`), LevenbergMarquardt and LBFGS, are trained one after the
    other.

    A network that diverges has its DivergenceError in `history.error`, and the others go on.  Ctrl-C leaves each
    network as of its last whole step (or of its best epoch, where a callback restores it), and whatever else a callback
    raises does.  Raises ValueError or TypeError for what does not fit, before anything has changed; RuntimeError where
    a network is being fitted already.
    """
    each = listed(nets)
    calls, threads = _calls(
        each, X, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=batch_size, shuffle=shuffle, rows=rows,
        validation_data=validation_data, validation_split=validation_split, sample_weight=sample_weight,
        class_weight=class_weight, metrics=metrics, train_metrics=train_metrics, callbacks=callbacks,
        n_threads=n_threads, seed=seed, check_finite=check_finite, verbose=verbose, l2=l2, standardize_y=standardize_y,
        mixup=mixup,
    )  # fmt: skip
    train(calls, threads)
    return [call.state.history for call in calls]


_KEYWORDS = inspect.signature(fit_many).parameters.values()
_DEFAULTS = {p.name: p.default for p in _KEYWORDS if p.kind is p.KEYWORD_ONLY}


def fit_restarts(
    net: Network, X: Any, y: Any = None, n: int = 16, *, seed: int | None = None, **settings: Any
) -> tuple[Network, list[History]]:
    """Trains n networks like `net` from other first weights; returns the best of them, and the history of each.

    Network i = 0..n-1 is a new one of seed `seed` + i (net's own seed unless given): first weights, shuffling and all
    that layers draw come from it, as in `bp.Network(..., seed=...)`; only frozen layers begin with net's weights,
    and all keep the moments that net has learnt already.  `net` stays as it is.  settings: keywords of `fit_many`.

    The best has the lowest loss once trained: on what it was validated on, where there is such, else on the rows of X
    that it was trained on; with `ema=` it is that of each network's average, `best.averaged()`.  Networks that diverged
    (`history.error`) are out; DivergenceError where all have.
    """
    if not isinstance(net, Network):
        raise TypeError(f"net: expected a bp.Network, got {net!r} of type {type(net).__name__}")
    n = _validate.integer("n", n, 1, 2**31)
    first = net.seed if seed is None else _validate.seed(seed)
    nets = [net._anew((first + i) % 2**64) for i in range(n)]
    refuse("fit_restarts", settings, ("n", *_DEFAULTS))
    calls, threads = checked(nets, X, y, **settings)
    train(calls, threads)
    histories = [call.state.history for call in calls]
    losses = [np.inf if call.state.history.error else _loss(call, threads) for call in calls]
    if all(history.error for history in histories):
        raise histories[0].error  # type: ignore[misc]
    return nets[int(np.nanargmin(losses))], histories


def _loss(call: _training.Call, n_threads: int) -> float:
    """Of the network now, or of its average."""
    return (call.validation or call.data).evaluate(call.model.averaged(), n_threads, call.l2)["loss"]


# ---- arguments ----


def listed(nets: Any) -> list[Network]:
    """Networks, each once; ValueError or TypeError for others."""
    if isinstance(nets, Network) or not isinstance(nets, Iterable):
        raise TypeError(f"nets: expected a list of networks, got {nets!r} of type {type(nets).__name__}")
    networks = list(nets)
    places: dict[int, int] = {}
    for k, net in enumerate(networks):
        if not isinstance(net, Network):
            raise TypeError(f"nets[{k}]: expected a bp.Network, got {net!r} of type {type(net).__name__}")
        first = places.setdefault(id(net._model), k)
        if first != k:
            raise ValueError(f"nets[{k}]: expected each network once, got that of nets[{first}] again; use net.copy()")
    return networks


def _each(name: str, value: Any, n: int, several: bool) -> list[Any]:
    """value for each of n networks; several: whether it is a list of one for each."""
    if not several:
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name}: expected one for all, or a list of {n}, one for each network, got {len(value)}")
    return list(value)


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    """Whether it is a list or tuple, not empty, whose items are all as `of` says."""
    return isinstance(value, (list, tuple)) and bool(value) and all(map(of, value))


def _is_array(value: Any) -> bool:
    return value is None or isinstance(value, (list, tuple)) or np.ndim(value) > 0


def _copies(callbacks: Any, n: int) -> list[list[Callback]]:
    """Those of each network."""
    if _is_list(callbacks, lambda item: isinstance(item, (list, tuple))):
        own = [_callbacks.resolve(each) for each in _each("callbacks", callbacks, n, True)]
        stops = [callback for each in own for callback in each if isinstance(callback, EarlyStopping)]
        if len({id(stop) for stop in stops}) < len(stops):
            raise ValueError(
                "callbacks: expected an EarlyStopping of its own for each network, got one in several lists; "
                "callbacks=[...], one list for all networks, is copied for each"
            )
        return own
    resolved = _callbacks.resolve(callbacks)
    writing = next((callback for callback in resolved if isinstance(callback, Writing)), None)
    if writing and n > 1:
        raise ValueError(
            f"callbacks: expected a {type(writing).__name__} with a path of its own for each network, got one for all; "
            f"give a list of {n} lists"
        )
    try:
        return [copy.deepcopy(resolved) for _ in range(n)]
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(
            f"callbacks: expected what copy.deepcopy copies for each network, or a list of {n} lists: {error}"
        ) from error


def _kind(activation: Any) -> Any:
    return activation if isinstance(activation, str) else id(activation)


def _ends(model: Model) -> Any:
    """What X and y are checked for: equal where they may be checked once."""
    inputs = tuple((node.name, node.shape, node.layer.integer, node.n_labels) for node in model.inputs)
    outputs = tuple(
        (node.name, node.shape, _kind(getattr(node.layer, "activation", None))) for node in model.outputs
    )  # fmt: skip
    units = tuple(sorted((name, id(moments)) for name, moments in model.target_moments.items()))
    return model.dtype, inputs, outputs, tuple(sorted(model.feature_names.items())), units, id(model.table)


def _calls(
    nets: list[Network],
    X: Any,
    y: Any,
    *,
    loss: Any,
    rows: Any,
    validation_data: Any,
    validation_split: Any,
    sample_weight: Any,
    class_weight: Any,
    n_threads: Any,
    check_finite: Any,
    optimizer: Any,
    seed: Any,
    callbacks: Any,
    metrics: Any,
    **settings: Any,
) -> tuple[list[_training.Call], int]:
    """A call of `fit` for each network, checked, and the number of threads."""
    n_threads, check_finite = _threads.resolve(n_threads), _validate.switch("check_finite", check_finite)
    n = len(nets)
    optimizers = _each("optimizer", optimizer, n, isinstance(optimizer, (list, tuple)))
    seeds = _each("seed", seed, n, isinstance(seed, (list, tuple)) or np.ndim(seed) > 0)
    several = _is_list(rows, _is_array) or getattr(rows, "ndim", 1) == 2
    each_rows = _each("rows", rows, n, several)
    each_weight = _each("sample_weight", sample_weight, n, _is_list(sample_weight, _is_array))
    each_callbacks = _copies(callbacks, n)
    if any(isinstance(callback, Checkpoint) for own in each_callbacks for callback in own):
        raise ValueError("callbacks: bp.Checkpoint keeps the fit of one network; use net.fit")
    known_data: dict[Any, tuple[Data, Data | None, dict[str, tuple[str, ...]]]] = {}
    parts: dict[int, np.ndarray | None] = {}
    weighed: dict[Any, tuple[Data, Data | None]] = {}
    known: _standardize.Known = {}
    calls = []
    for k, net in enumerate(nets):
        model = net._model
        model.fitting.check(f"nets[{k}]")
        ends = _ends(model)
        if ends not in known_data:
            data = Data(model, X, y, loss, None, check_finite)
            names = _training.names_of(model, X)
            validation = _training.validation_of(model, validation_data, loss, check_finite, names, metrics)
            known_data[ends] = data, validation, names
        data, validation, names = known_data[ends]
        if id(each_rows[k]) not in parts:
            name = f"rows[{k}]" if several else "rows"
            parts[id(each_rows[k])] = None if each_rows[k] is None else _validate.rows(name, each_rows[k], data.n)
        own = None if validation_split is None else _training.seed_of(model, seeds[k])
        place = ends, id(each_rows[k]), id(each_weight[k]), own
        if place not in weighed:
            part = data.part(parts[id(each_rows[k])], each_weight[k])
            part, validation = _training.split_off(validation_split, part, validation, own or 0, metrics)
            weighed[place] = _class_weights.weigh(class_weight, part, validation)
        part, validation = weighed[place]
        chosen = _optimizers.resolve(optimizers[k], model.memory.optimizer)
        call = _training.check(
            model, State(net, History()), part, validation, names, optimizer=chosen, seed=seeds[k],
            callbacks=each_callbacks[k], metrics=metrics, label=f"nets[{k}]  ", **settings,
        )  # fmt: skip
        call.learn(known)
        calls.append(call)
    for data, _, _ in known_data.values():
        data.advise()
    return calls, n_threads


def checked(nets: list[Network], X: Any, y: Any, **settings: Any) -> tuple[list[_training.Call], int]:
    """A call of `fit` for each network, checked, and the number of threads; settings: keywords of `fit_many`."""
    return _calls(nets, X, y, **{**_DEFAULTS, **settings})


# ---- training ----


class _Training:
    """One network's: epochs in C, and between them what its `fit` would do.

    watched: Python looks at each epoch.  alone: its steps call Python.  arena: bytes that they need.
    """

    def __init__(self, loop: _training.Loop) -> None:
        self.loop, call = loop, loop.call
        by_epoch = call.validation or call.verbose or call.data.measures or _optimizers.schedules(call.optimizer)
        self.watched = bool(loop.watches or call.callbacks or by_epoch or call.mixup or call.data.n > _SHUFFLED_IN_C)
        self.job: _core.Job | None = None
        self.failure: Callable[[Exception], None] | None = None  # where what its Python raises goes
        run, newton = self.loop.run, not isinstance(self.loop.run, _core.Run)
        self.alone = newton or run.plan.calls_python or bool(self.loop.due)
        self.arena = 0 if self.alone else run.plan.describe()["arena_bytes"]

    def train(self) -> bool:
        """All of it, alone; nothing is left to do."""
        self.loop.train()
        return False

    def begin(self) -> bool:
        """Before the first epoch; whether there is one."""
        self.loop.begin()
        return self._begin_epochs()

    def _begin_epochs(self) -> bool:
        loop = self.loop
        if not loop.goes_on():
            loop.end()
            return False
        call, data = loop.call, loop.data
        if self.job is None or self.job.run is not loop.run:
            most = 1 if self.watched else min(_EPOCHS, call.epochs)
            self.job = _core.Job(loop.run, data.n, call.batch, data.rows, call.shuffled, call.seed, SHUFFLE, most)
        loop.begin_epoch(loop.next_order())
        self.job.begin(loop.model.epoch, loop.epochs_left)
        return True

    def go_on(self) -> bool:
        """After a turn in C; whether there is more to do.  DivergenceError where that is why not."""
        assert self.job is not None
        status = self.job.status
        self.loop.check_status(status)
        if status != _core.DONE:
            return True
        self.loop.end_epoch()
        return self._begin_epochs()

    def log(self) -> None:
        """The history has the epochs that C has done, the network their steps."""
        if self.job is None:
            return
        lines = self.job.take_log(self.loop.model)
        if len(lines):
            loss, weight, rows, seconds = lines[:, :4].T
            own = [(lines[:, 4 + 2 * i], lines[:, 5 + 2 * i]) for i in self.loop.data.by_output.values()]
            with np.errstate(divide="ignore", invalid="ignore"):
                means, *outputs = [np.where(w != 0, e / w, np.nan).tolist() for e, w in ((loss, weight), *own)]
                rates = np.where(seconds != 0, rows / seconds, np.inf).tolist()
            self.loop.log(means, seconds.tolist(), rates, outputs)
            self.loop.state.history._show()
        self.loop.count()

    def close(self) -> None:
        """Whatever ended it."""
        try:
            self.log()
        finally:
            self.loop.close()


def train(
    calls: list[_training.Call], n_threads: int,
    loops: Sequence[Callable[[_training.Call, int], _training.Loop]] | None = None,
    failed: list[Exception | None] | None = None,
) -> None:  # fmt: skip
    """Trains all of them, some at a time, so that few need memory for their steps.

    loops: what goes through each call's epochs, unless `fit` does.  failed: what the Python of one raises is left here,
    at its place, and the others go on; else it ends all.
    """
    first: dict[Any, Model] = {}
    active: deque[_Training] = deque()
    with _core.AllTogether([call.model.fitting for call in calls]), ExitStack() as stack:
        stack.push(lambda kind, *_: _take_back(calls) if kind else None)
        stack.callback(_close, active)
        for k, call in enumerate(calls):
            call.model.plans = first.setdefault(call.model.signature(), call.model).plans  # equal networks share them
            training = _Training((loops[k] if loops else _training.Loop)(call, n_threads))
            training.failure = None if failed is None else functools.partial(failed.__setitem__, k)
            if training.alone:
                _is_going_on(training, training.train)
                continue
            active.append(training)
            if not _is_going_on(training, training.begin):
                active.pop()
            while len(active) >= n_threads and (
                len(active) >= _PER_THREAD * n_threads or sum(other.arena for other in active) >= _ARENA_BYTES
            ):
                _take_turns(active, n_threads)
        while active:
            _take_turns(active, n_threads)


def _take_turns(active: deque[_Training], n_threads: int) -> None:
    """C goes on with them for a while; those that had their turn and are not done go to the end of the queue."""
    turns = list(active)
    try:
        for training in turns:
            training.loop.model.fitting.close(training.loop.run)
        _core.run_jobs([training.job for training in turns if training.job], n_threads, SLICE_SECONDS)
    finally:
        for training in turns:
            training.log()  # before others read it: its count of steps is that of theta
            if training.loop.run.is_whole():
                training.loop.model.fitting.open()
    for training in turns:
        if training.job and training.job.had_turn:
            goes_on = _is_going_on(training, training.go_on)
            active.remove(training)
            active.extend([training] * goes_on)


def _is_going_on(training: _Training, step: Callable[[], bool]) -> bool:
    """Makes the step; a network that is done, or has diverged, is left as `fit` leaves it."""
    history, failed = training.loop.state.history, False
    try:
        if step():
            return True
    except DivergenceError as error:
        history.error = error
    except Exception as error:
        if training.failure is None:
            raise
        training.failure(error)
        failed = True
    training.close()
    if history.error or failed:
        training.loop.call.take_back()
    else:
        training.loop.give_back()
    return False


def _take_back(calls: list[_training.Call]) -> None:
    """What networks have learnt that made no step."""
    for call in calls:
        call.take_back()


def _close(active: Iterable[_Training]) -> None:
    """Whatever one of them raises."""
    with ExitStack() as stack:
        for training in active:
            stack.callback(training.close)
