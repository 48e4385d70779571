"""Runs that survive: what a Checkpoint keeps of a fit, in which file, and how another fit goes on from there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bpcore import _core, _errors, _io, _losses, _optimizers, _standardize, _stream, _validate
from bpcore._callback_files import Writing
from bpcore._callbacks import Callback, State, by_batch
from bpcore._data import Data
from bpcore._model import Model, Snapshot
from bpcore._version import __version__

if TYPE_CHECKING:
    from bpcore._training import Call, Loop

_ROWS = 1000  # of each array that are compared


class Checkpoint(Writing):
    """Keeps a fit in a file, from which `net.fit(..., resume=path)` goes on after a crash, with the bits of a run that
    was never stopped.

    every: after so many epochs, or after a time, "60 s", "5 min" or "1 h", also within an epoch.  keep: how many files:
    `path`, the one before as `path.1`, and so on.  At the end of `fit`, and where max_steps or max_seconds end it, the
    last state is kept.  A thread writes while training goes on, from a copy of the parameters and of the optimiser's
    state, as large as these.  Each file is whole: it is written beside, synced and renamed.  `bp.load(path)` is the
    network as of then.

    A full disk or a read-only folder is a UserWarning, and training goes on; OSError, before the first step, where the
    folder is not there.  Not for LBFGS and LevenbergMarquardt, nor for `fit_many`.
    """

    def __init__(self, path: Any, *, every: int | str = 1, keep: int = 2) -> None:
        self.path = _validate.path(path)
        _validate.interval("every", every)
        self.every = every
        self.keep = _validate.integer("keep", keep, 1, 1000)
        self._writer: _Writer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_writer": None}

    def on_fit_begin(self, state: State) -> None:
        """Forgets the last fit.  ValueError for what no file can hold."""
        super().on_fit_begin(state)
        self._epochs, self._seconds = _validate.interval("every", self.every)
        self._writer, self._step, self._is_own, self._is_resumed = None, -1, False, False
        self._begin_interval()
        assert state._loop is not None
        _ = state._loop.described

    def on_resume(self, state: State, saved: dict[str, Any]) -> None:
        """The file that was read is kept as the one before."""
        assert state._loop is not None and state._loop.saved is not None
        read = os.path.realpath(state._loop.saved.path)
        self._is_own, self._is_resumed = os.path.realpath(self.path) == read, True
        self._step = state.step if self._is_own else -1

    def to_save(self) -> dict[str, Any]:
        """Nothing; `on_resume` is called."""
        return {}

    def _begin_interval(self) -> None:
        self._passed = 0
        self._at = time.monotonic() + (self._seconds or 0.0)

    def look(self, loop: Loop, epoch_ended: bool) -> None:
        """After a slice or an epoch, of which all callbacks were told: keeps the run where that is due."""
        self._passed += epoch_ended
        due = self._passed >= self._epochs if self._epochs else time.monotonic() >= self._at
        if due and loop.run.is_whole() and not self._is_writing():
            self.take(loop)
            self._begin_interval()

    def take(self, loop: Loop) -> None:
        """Keeps the run as it is now."""
        self.finish()
        self._step = loop.model.step
        self._writer = _Writer(self, *capture(loop))

    def take_last(self, loop: Loop) -> None:
        """Keeps the end, unless the last file does."""
        self.finish()
        if self._passed or self._seconds or self._step != loop.model.step or self._warned:
            self.take(loop)
            self.finish()

    def _is_writing(self) -> bool:
        if self._writer is None:
            return False
        if self._writer.is_alive():
            return True
        self.finish()
        return False

    def finish(self) -> None:
        """Waits for the thread, and warns of what it met."""
        writer = self._writer
        if writer is not None:
            writer.join()
            self._writer = None
            if isinstance(writer.error, OSError):
                self._warn(writer.error)
            elif writer.error is not None:
                raise writer.error
            else:
                self._warned = ""

    def write(self, model: Model, run: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Called by the thread."""

        def make_room(path: str) -> None:
            """The files before are renamed; those of another run go."""
            for k in range(self.keep - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    if self._is_own:
                        os.replace(_numbered(path, k - 1), _numbered(path, k))
                    elif not self._is_resumed:
                        os.unlink(_numbered(path, k))

        _io.save_run(model, run, arrays, self.path, make_room)
        self._is_own = True


class _Writer(threading.Thread):
    """Writes one file."""

    def __init__(self, checkpoint: Checkpoint, *moment: Any) -> None:
        super().__init__(name="bpcore checkpoint", daemon=True)
        self.checkpoint, self.moment = checkpoint, moment
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.checkpoint.write(*self.moment)
        except BaseException as error:
            self.error = error
        del self.moment


def _numbered(path: str, k: int) -> str:
    return f"{path}.{k}" if k else path


# ---- what a file holds ----


def capture(loop: Loop) -> tuple[Model, dict[str, Any], dict[str, np.ndarray]]:
    """A copy of the model, and all else that the next step depends on, as JSON and arrays; after a whole step."""
    loop.count()  # callbacks may have put another optimiser in place
    state, call, arrays = loop.state, loop.call, dict[str, np.ndarray]()
    history = {name: list(values) for name, values in state.history._columns().items()}
    within = None
    if loop.within_epoch:
        *progress, steps = loop.run.progress()
        within = {
            "progress": progress, "losses": loop.run.losses(), "steps": 0 if call.blocks else steps - loop.steps_before,
            "seconds": time.perf_counter() - loop.epoch_start,
        }  # fmt: skip
        if loop.order_is_own and loop.order is not None:
            arrays["order of epoch"] = loop.order
    if state.order is not None:
        arrays["order"] = _validate.order(state.order, call.data.n)
    run = {
        "of": loop.described,
        "epochs": call.epochs - loop.epochs_left,
        "first_epoch": loop.last_epoch - call.epochs,
        "first_update": loop.lengths.first,
        "steps": loop.steps_made(),
        "stopped": state.stopped,
        "loss": state.loss,
        "history": history,
        "within": within,
        "due": [[each.left, each.loss, each.weight] for each in loop.due],
        "callbacks": [
            [type(callback).__name__, _pack(callback.to_save(), arrays, f"callbacks/{i}")]
            for i, callback in enumerate(keeping(call.callbacks))
        ],
    }
    return loop.model.copied(memory=True), run, arrays


def keeping(callbacks: list[Callback]) -> list[Callback]:
    """Those that have something to save."""
    return [c for c in callbacks if type(c).to_save is not Callback.to_save and not isinstance(c, Checkpoint)]


def _pack(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """What JSON holds of a value, its arrays aside."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray) and str(value.dtype) in _io.STORED:
        arrays[name] = np.array(value, order="C")
        return {"array": name}
    if isinstance(value, Snapshot):
        memory = value.memory
        assert memory.optimizer is not None
        kept = {
            "theta": value.theta, "state": value.state, "states": list(memory.states),
            "optimizer": _optimizers.to_json(memory.optimizer), "updates": memory.updates, "begun": dict(memory.begun),
            "weights": memory.weights, "step": value.step, "epoch": value.epoch,
        }  # fmt: skip
        return {"snapshot": _pack(kept, arrays, name)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _pack(each, arrays, f"{name}/{key}") for key, each in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_pack(each, arrays, f"{name}/{i}") for i, each in enumerate(value)]
    raise TypeError(
        "callbacks: expected to_save to return numbers, strings, arrays, snapshots, lists and dicts by strings, got "
        f"{value!r} of type {type(value).__name__}"
    )


def _unpack(value: Any, arrays: dict[str, np.ndarray], custom: _io.Custom) -> Any:
    """The inverse of _pack."""
    if isinstance(value, list):
        return [_unpack(each, arrays, custom) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "array":
        return arrays[held]
    if kind == "dict":
        return {key: _unpack(each, arrays, custom) for key, each in held.items()}
    kept = _unpack(held, arrays, custom)
    optimizer = _optimizers.from_json(kept["optimizer"], custom)
    begun, weights = tuple(kept["begun"].items()), kept.get("weights", 0.0)
    memory = _optimizers.Memory(optimizer, tuple(kept["states"]), kept["updates"], begun, weights)
    return Snapshot(kept["theta"], kept["state"], memory, kept["step"], kept["epoch"])


def describe(call: Call) -> dict[str, Any]:
    """What the bits of a run depend on, by what `fit` calls it."""
    graph, apart = _io.graph_json(call.model), ("checkpoint", "feature_names", "moments", "table")
    of = {
        "bpcore": __version__,
        "layers": {key: value for key, value in graph.items() if key not in apart},
        "loss": [[_loss(weighted.loss), weighted.weight] for weighted in call.data.losses],
        "optimizer": _optimizers.to_json(call.optimizer),
        "batch_size": call.batch,
        "shuffle": call.shuffled,
        "seed": call.seed,
        "l2": call.l2,
        "mixup": call.mixup,
        "moments": _moments(call.learnt),
        **({} if call.model.table is None else {"table": _hash(call.model.table.stored.tobytes())}),
        "metrics": [f"{of}{measure.key}" for of, measure in _measures(call)],
        "callbacks that keep something": [type(c).__name__ for c in keeping(call.callbacks)],
        "callbacks that look at batches": [type(each.callback).__name__ for each in by_batch(call.callbacks)],
        **dict(_arrays("", call.data if call.blocks is None else call.blocks.first())),
    }
    if call.blocks is not None:
        of["first block"] = call.blocks.stream._described()
    if call.validation is not None:
        held = call.validation.first() if isinstance(call.validation, _stream.Held) else call.validation
        of |= dict(_arrays("validation: ", held))
    if any(schedule.of_run for schedule in _optimizers.schedules(call.optimizer).values()):
        of["epochs"] = call.epochs  # of which a schedule is a share
    return of


def _measures(call: Call) -> Iterator[tuple[str, Any]]:
    """What the history has, of which data."""
    yield from (("", measure) for measure in call.data.measures)
    if call.validation is not None:
        yield from (("val_", measure) for measure in call.validation.measures)


def _moments(learnt: _standardize.Learnt | None) -> dict[str, str]:
    """A hash of what brings each input and each target to units of its own."""
    known = {} if learnt is None else {**learnt.inputs, **{f"y of {name}": own for name, own in learnt.targets.items()}}
    return {name: _hash(own.mean.tobytes() + own.scale.tobytes()) for name, own in known.items()}


def _loss(loss: Any) -> str:
    return (loss.name or "a loss of your own") if isinstance(loss, _losses.Loss) else repr(loss)


def _arrays(prefix: str, data: Data) -> Iterator[tuple[str, Any]]:
    """Names of arrays, and what tells them from others."""
    for node, array in zip(data.inputs, data.arrays, strict=True):
        yield f"{prefix}X[{node!r}]" if len(data.arrays) > 1 else f"{prefix}X", _fingerprint(array)
    for name, target in zip(data.names, data.targets, strict=True):
        yield f"{prefix}y[{name!r}]" if len(data.names) > 1 else f"{prefix}y", _fingerprint(target.array)
    if data.weight is not None:
        yield f"{prefix}weights", _fingerprint(data.weight)
    if data.rows is not None:
        yield f"{prefix}rows", _fingerprint(data.rows)


def _fingerprint(array: np.ndarray | _core.SparseRows) -> dict[str, Any]:
    """Shape, dtype, and a hash of some rows, always the same ones; of sparse ones, of their elements."""
    values = array.data if isinstance(array, _core.SparseRows) else array
    picked = np.unique(np.linspace(0, len(values) - 1, min(len(values), _ROWS)).astype(np.int64))
    bytes_ = np.ascontiguousarray(values[picked]).tobytes()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": _hash(bytes_)}


def _hash(bytes_: bytes) -> str:
    import hashlib  # 5 ms

    return hashlib.sha256(bytes_).hexdigest()


# ---- reading ----


class Saved(NamedTuple):
    """A run that a file holds, which fits a call of `fit`: its snapshot, and what `capture` says."""

    path: str
    snapshot: Snapshot
    run: dict[str, Any]
    arrays: dict[str, np.ndarray]
    callbacks: list[Any]


def read(resume: Any, call: Call) -> Saved | None:
    """The newest whole file's; None where there is none, and the run begins.

    ValueError where all that are there are damaged, and where one is of another run; a UserWarning where the newest is
    damaged and the one before is read.
    """
    path = os.path.realpath(_validate.path(resume))
    damage: list[str] = []
    for name in _candidates(path):
        try:
            file = _io.load_run(name)
        except _io.Damaged as error:
            damage.append(str(error))
            continue
        if damage:
            _errors.warn(f"resume: {'; '.join(damage)}; the run goes on from {name!r}")
        return _fitting(name, file, call)
    if damage:
        raise ValueError(f"resume: {'; '.join(damage)}; move it away to begin anew")
    return None


def _candidates(path: str) -> list[str]:
    """`path`, `path.1` and so on, those that are there."""
    folder, base = os.path.split(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    try:
        names = os.listdir(folder or ".")
    except FileNotFoundError:
        return []
    numbers = (re.fullmatch(re.escape(base) + r"\.([0-9]+)", name) for name in names)
    older = sorted(int(match[1]) for match in numbers if match)
    return [path] * (base in names) + [_numbered(path, k) for k in older if k]


def _fitting(path: str, file: _io.RunFile, call: Call) -> Saved:
    """What a file holds, for this call; ValueError that says what differs."""
    run, model = file.run, call.model
    ours = json.loads(json.dumps(describe(call)))
    for name in {**run["of"], **ours}:
        there, here = run["of"].get(name), ours.get(name)
        if there != here:
            raise ValueError(
                f"resume: {path!r} is of another run: {_difference(name, there, here)}; call fit as that run did, or "
                "begin another with another path"
            )
    if run["epochs"] > call.epochs:
        raise ValueError(
            f"epochs: expected at least the {run['epochs']} that the run of {path!r} has made, got {call.epochs}"
        )
    schedules: Any = _optimizers.schedules(call.optimizer).values()
    custom = {schedule.name: schedule for schedule in schedules if getattr(schedule, "name", None)}
    twin = model.copied(memory=False)
    twin.moments, twin.target_moments, twin.table = {}, {}, None  # they are the run's, or `describe` would differ
    optimizer = _io.optimizer_of(path, file.training, custom)
    assert optimizer is not None
    begun = tuple(file.training.get("begun", {}).items())
    states, weights = model.state_arrays(len(optimizer.states)), file.training.get("weights", 0.0)
    twin.memory = _optimizers.Memory(optimizer, states, file.training["updates"], begun, weights)
    for name, tensor in _io.tensors_of(twin).items():
        tensor[...] = file.tensors[name]
    snapshot = Snapshot(twin.theta, twin.state, twin.memory, file.training["step"], file.training["epoch"])
    arrays = {
        name.removeprefix(_io.OF_RUN): tensor for name, tensor in file.tensors.items() if name.startswith(_io.OF_RUN)
    }
    return Saved(path, snapshot, run, arrays, [_unpack(held, arrays, custom) for _, held in run["callbacks"]])


def _difference(name: str, there: Any, here: Any) -> str:
    """In words."""
    if there is None or here is None:
        return f"there is no {name} {'there' if there is None else 'here'}"
    if name == "layers":
        nodes = ({node["name"]: node for node in graph["nodes"]} for graph in (there, here))
        theirs, own = nodes
        for node in {**theirs, **own}:
            if theirs.get(node) != own.get(node):
                there, here, name = theirs.get(node), own.get(node), f"layer {node}"
                break
    elif isinstance(there, dict) and "sha256" in there:
        if there | {"sha256": 0} == here | {"sha256": 0}:
            return f"{name} has other numbers, in the same shape {tuple(here['shape'])}"
        shape, own_shape = tuple(there["shape"]), tuple(here["shape"])
        return f"{name} has shape {shape} and dtype {there['dtype']} there, {own_shape} and {here['dtype']} here"
    verb = "are" if name.startswith(("callbacks", "metrics", "moments")) else "is"
    return f"{name} {verb} {there} there, and {here} here"


# ---- going on ----


def go_on(loop: Loop, saved: Saved) -> None:
    """Puts a run that has just begun where a file has it; afterwards its epoch, where one was begun, goes on."""
    run, state, call = saved.run, loop.state, loop.call
    within = run["within"]
    loop.lengths = loop.lengths._replace(first=run["first_update"])
    loop.epochs_left = call.epochs - run["epochs"]
    loop.last_epoch = run["first_epoch"] + call.epochs
    loop.steps_before_resume = run["steps"]
    if within:
        loop.steps_before = -within["steps"]
    loop.restore(saved.snapshot)
    state.order = None
    state.optimizer, state.stopped, state.loss = loop.memory.optimizer, run["stopped"], run["loss"]
    columns = state.history._columns()
    for name, values in run["history"].items():
        columns[name][:] = values
    state.history._show()
    for each, (left, loss, weight) in zip(loop.due, run["due"], strict=True):
        each.left, each.loss, each.weight = left, loss, weight
    for callback, held in zip(keeping(call.callbacks), saved.callbacks, strict=True):
        callback.on_resume(state, held)
    for checkpoint in loop.checkpoints:
        checkpoint.on_resume(state, {})
    if within:
        loop.take_up(within, saved.arrays.get("order of epoch"))
        loop.epoch_start = time.perf_counter() - within["seconds"]
    state.order = saved.arrays.get("order")  # from the next epoch on


def check(call: Call, resume: Any) -> None:
    """ValueError for an optimiser that keeps more between steps than a file has."""
    wanted = "resume" if resume is not None else None
    wanted = wanted or next((type(c).__name__ for c in call.callbacks if isinstance(c, Checkpoint)), None)
    if wanted and call.optimizer.kind in ("lbfgs", "levenberg_marquardt"):
        raise ValueError(
            f"optimizer: {type(call.optimizer).__name__} keeps more than a file has between its steps, and cannot be "
            f"used with {wanted}; net.save() keeps the network"
        )
