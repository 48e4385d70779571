"""Training: checks, then epochs of slices; Python decides between them, C runs within."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _callbacks, _core, _errors, _levenberg, _losses, _optimizers, _plans, _threads, _validate
from bpcore._errors import DivergenceError
from bpcore._history import History
from bpcore._layers import SHUFFLE

if TYPE_CHECKING:
    from bpcore._network import Network

SLICE_SECONDS = 0.015  # and a stage more may pass before Ctrl-C is heard


@dataclass
class Settings:
    """The arguments of `fit` after the data."""

    loss: Any
    optimizer: Any
    epochs: Any
    batch_size: Any
    shuffle: Any
    validation_data: Any
    sample_weight: Any
    callbacks: Any
    n_threads: Any
    seed: Any
    check_finite: Any
    verbose: Any


class Data:
    """X, y and weights of one call, checked against a network and a loss."""

    def __init__(
        self, net: Network, X: Any, y: Any, loss: Any, sample_weight: Any, check_finite: bool = True,
        called: tuple[str, str] = ("X", "y"),
    ) -> None:  # fmt: skip
        self.outputs = outputs = net._ends(net._graph.outputs)
        self.losses = _losses.resolve_all(loss, outputs)
        self.arrays = _validate.inputs(X, net._ends(net._graph.inputs), net.dtype, check_finite, called[0])
        self.n = len(self.arrays[0])
        self.names = [node.name for node in outputs]
        self.targets = [
            _losses.target(one.loss, part, self.n, node.shape, net.dtype, check_finite, name)
            for one, node, (name, part) in zip(
                self.losses, outputs, _validate.parts(called[1], y, self.names), strict=True
            )
        ]
        masked = len(outputs) == 1 and not isinstance(self.losses[0].loss, _losses.Loss)
        positions = outputs[0].shape[:-1] if masked else ()
        self.weight = _validate.weights(sample_weight, self.n, positions, net.dtype)

    def advise(self) -> None:
        """A UserWarning for a loss that the outputs are not made for."""
        for i, one in enumerate(self.losses):
            if isinstance(one.loss, _losses.CrossEntropy):
                activation = getattr(self.outputs[i].layer, "activation", None)
                if isinstance(activation, str) and activation != "softmax":
                    _errors.warn(
                        f"loss: cross_entropy is for outputs that sum to 1, and {self.names[i]} has {activation} ones; "
                        "use softmax, or for classes that do not exclude each other logistic and binary_cross_entropy"
                    )

    @property
    def weights(self) -> int:
        """Weights an example: none, one, or one a position."""
        return 0 if self.weight is None else math.prod(self.weight.shape[1:])

    @property
    def has_accuracy(self) -> bool:
        """Whether the only output is classes."""
        return len(self.losses) == 1 and _losses.has_accuracy(self.losses[0].loss)

    @property
    def of_outputs(self) -> list[str]:
        """What a History keeps of each of several outputs."""
        both = zip(self.names, self.losses, strict=True) if len(self.losses) > 1 else ()
        kinds = ("loss", "accuracy")
        return [f"val_{name}_{kind}" for name, one in both for kind in kinds[: 1 + _losses.has_accuracy(one.loss)]]

    @property
    def by_output(self) -> dict[str, int]:
        """What a History keeps of each of several outputs as it is trained: numbers of losses by name."""
        names = [f"{name}_loss" for name in self.names] if len(self.losses) > 1 else ()
        return {name: i for i, name in enumerate(names) if not name.startswith("val_")}  # which is for validation

    def key(self, flags: int, rows: int, n_threads: int) -> _plans.Key:
        """Of the plan for this data."""
        costs = [
            _plans.Cost(i, one.loss, one.weight, t.cols, t.is_integer)
            for i, (one, t) in enumerate(zip(self.losses, self.targets, strict=True))
        ]
        return _plans.Key(flags, rows, n_threads, tuple(costs), self.weights)

    def ports(self, made: _plans.Compiled) -> list[tuple[int, np.ndarray]]:
        """y and the weights, for the plan's buffers."""
        used = [t.array for t in self.targets]
        weight = [] if self.weight is None else [(made.weight, self.weight)]
        return [*zip(made.targets, used, strict=True), *weight]

    def run(self, net: Network, made: _plans.Compiled) -> _core.Run:
        """A run of the plan over this data."""
        run = _core.Run(made.plan, net.theta)
        ins = [*zip(made.inputs, self.arrays, strict=True), *self.ports(made)]
        run.ports(
            ins,
            weight=-1 if self.weight is None else len(ins) - 1,
            target_shapes=[t.shape for t in self.targets],
        )
        return run

    def evaluate(self, net: Network, n_threads: int) -> dict[str, float]:
        """Loss and, where classes make it mean something, accuracy; of several outputs also by name."""
        with net._plans.take(net, self.key(_plans.EVALUATE, _plans.INFERENCE_ROWS, n_threads)) as made:
            run = self.run(net, made)
            whole(run, self.n, n_threads)
            sums = run.losses()
        result = {"loss": 0.0}
        for name, one, (loss, weight, hits) in zip(self.names, self.losses, sums, strict=True):
            result["loss"] += one.weight * (loss / weight)
            prefix = f"{name}." if len(sums) > 1 else ""
            if prefix:
                result[f"{name}.loss"] = loss / weight
            if _losses.has_accuracy(one.loss):
                result[f"{prefix}accuracy"] = hits / weight
        return result


def whole(run: _core.Run, n: int, n_threads: int) -> tuple[float, float, float]:
    """One pass over n rows as a single batch, in slices between which Ctrl-C is heard; sums of wE, w and hits."""
    run.begin(n, n)
    while run.slice(n_threads, SLICE_SECONDS, fresh=False) == _core.PAUSED:
        pass
    loss, weight, hits = run.progress()[:3]
    return loss, weight, hits


def fit(net: Network, X: Any, y: Any, s: Settings) -> History:
    """Checks everything, then trains."""
    net._fitting.check("fit")
    check_finite = _validate.switch("check_finite", s.check_finite)
    data = Data(net, X, y, s.loss, s.sample_weight, check_finite)
    n = data.n
    validation = None
    if s.validation_data is not None:
        if not isinstance(s.validation_data, Sequence) or len(s.validation_data) != 2:
            raise TypeError(f"validation_data: expected (X, y), got {type(s.validation_data).__name__}")
        Xv, yv = s.validation_data
        called = ("validation_data[0]", "validation_data[1]")
        validation = Data(net, Xv, yv, s.loss, None, check_finite, called)
    optimizer = _optimizers.resolve(s.optimizer)
    _optimizers.check(optimizer, net.dtype)
    epochs = _validate.integer("epochs", s.epochs, 0, 2**31)
    batch = n if s.batch_size is None else min(n, _validate.integer("batch_size", s.batch_size, 1, 2**62))
    if isinstance(optimizer, _optimizers.LevenbergMarquardt):
        _levenberg.check(net, data, batch)
    shuffled = _validate.switch("shuffle", s.shuffle) and batch < n
    seed = net.seed if s.seed is None else _validate.seed(s.seed)
    n_threads = _threads.resolve(s.n_threads)
    verbose = _validate.switch("verbose", s.verbose)
    callbacks = _callbacks.resolve(s.callbacks)
    accuracy = ("val_accuracy",) if data.has_accuracy else ()
    validated = ("val_loss", *accuracy, *validation.of_outputs) if validation else ()
    _callbacks.check(callbacks, ("loss", *data.by_output, *validated))
    if not net.theta.flags.writeable:
        raise ValueError("theta: expected it to be writable, and it is read-only; set net.theta.flags.writeable")
    data.advise()
    with net._fitting, net._plans.take(net, data.key(_plans.TRAIN, batch, n_threads)) as made:
        loop = _Loop(net, data, made, validation, optimizer, n_threads, callbacks, verbose)
        loop.run.random(seed, net.step)
        return loop.train(epochs, batch, seed if shuffled else None)


def _mean(total: float, weight: float) -> float:
    return total / weight if weight else float("nan")


class _Loop:
    """One call of `fit`."""

    def __init__(
        self,
        net: Network,
        data: Data,
        made: _plans.Compiled,
        validation: Data | None,
        optimizer: _optimizers.Optimizer,
        n_threads: int,
        callbacks: list[_callbacks.Callback],
        verbose: bool,
    ) -> None:
        self.net, self.data, self.validation, self.n_threads = net, data, validation, n_threads
        self.callbacks, self.verbose = callbacks, verbose
        validated = validation.of_outputs if validation else ()
        outputs: dict[str, list[float]] = {name: [] for name in (*data.by_output, *validated)}
        self.state = _callbacks.State(net, History(outputs=outputs), net.epoch, net.step)
        newton = isinstance(optimizer, _optimizers.LevenbergMarquardt)
        self.run: Any = _levenberg.Run(net, data, n_threads) if newton else data.run(net, made)
        memory = net._memory
        if memory.optimizer != optimizer:
            memory = _optimizers.Memory(optimizer, tuple(np.zeros_like(net.theta) for _ in optimizer.states), 0)
        self._use(memory)

    def _use(self, memory: _optimizers.Memory) -> None:
        optimizer = memory.optimizer
        assert optimizer is not None
        self.memory, self.state.optimizer = memory, optimizer
        self.run.optimizer(optimizer.kind, memory.states, memory.updates, **vars(optimizer))

    def train(self, epochs: int, batch: int, seed: int | None) -> History:
        """Runs the epochs; shuffled where there is a seed."""
        net, state = self.net, self.state
        first_step, last_epoch = net.step, net.epoch + epochs
        try:
            self._tell("on_fit_begin")
            for _ in range(epochs):
                if state.stopped:
                    break
                order = None if seed is None else _core.permutation(self.data.n, seed, SHUFFLE, net.epoch & 0xFFFFFFFF)
                if state.order is not None:
                    order = _validate.order(state.order, self.data.n)
                start = time.perf_counter()
                self.run.begin(self.data.n, batch, order)
                self._epoch(first_step)
                self._close_epoch(time.perf_counter() - start)
                self._count(first_step)
                if self.verbose:
                    self._print(last_epoch)
                self._tell("on_epoch_end")
            self._tell("on_fit_end")
        finally:
            self._count(first_step)
        return state.history

    def _count(self, first_step: int) -> None:
        steps = self.run.progress()[5]
        if steps:
            self.net._memory = self.memory._replace(updates=self.run.updates())
            self.net.step = first_step + steps

    def _epoch(self, first_step: int) -> None:
        """Slices until the epoch is done or a callback stops it."""
        by_batch = _callbacks.wants_batches(self.callbacks)
        max_steps = 1 if by_batch else -1
        before = (0.0, 0.0, 0)
        fresh = True
        while True:
            status = self.run.slice(self.n_threads, SLICE_SECONDS, max_steps, fresh)
            fresh = False
            loss, weight, _, _, batches, _ = self.run.progress()
            if status in (_core.NONFINITE_LOSS, _core.NONFINITE_PARAM):
                what = "loss" if status == _core.NONFINITE_LOSS else "parameters"
                if not np.isfinite(self.net.theta).all():  # a step that diverges leaves the last finite ones
                    what = "theta"
                raise DivergenceError(what, self.net.epoch + 1, batches + 1)
            if by_batch and batches > before[2]:
                self._count(first_step)
                self.state.loss = _mean(loss - before[0], weight - before[1])
                before = (loss, weight, batches)
                self._tell("on_batch_end")
                fresh = True
            if status == _core.DONE or self.state.stopped:
                return

    def _close_epoch(self, seconds: float) -> None:
        loss, weight, _, rows, _, _ = self.run.progress()
        self.net.epoch += 1
        history, state = self.state.history, self.state
        history.epoch.append(self.net.epoch)
        history.loss.append(_mean(loss, weight))
        for name, i in self.data.by_output.items():
            history.outputs[name].append(_mean(*self.run.losses()[i][:2]))
        history.seconds.append(seconds)
        history.samples_per_second.append(rows / seconds if seconds else float("inf"))
        state.epoch, state.loss = self.net.epoch, history.loss[-1]
        if self.validation is not None:
            result = self.validation.evaluate(self.net, self.n_threads)
            columns = history._columns()
            for name, value in result.items():
                columns[f"val_{name.replace('.', '_')}"].append(value)

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
        self.state.step = self.net.step
        for callback in self.callbacks:
            getattr(callback, event)(self.state)
        optimizer = self.state.optimizer
        if optimizer is not self.memory.optimizer:
            _optimizers.check_successor(self.memory.optimizer, optimizer, self.net.dtype)
            self._use(_optimizers.Memory(optimizer, self.memory.states, self.run.updates()))
