"""X, y and weights of one call, and passes over them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from bpcore import _core, _errors, _losses, _metrics, _plans, _standardize, _validate
from bpcore._model import Model
from bpcore._moments import Moments
from bpcore._plan_cache import Lent

SLICE_SECONDS = 0.015  # and a stage more may pass before Ctrl-C is heard
Sums = list[tuple[float, float, float]]


class Data:
    """X, y and weights of one call, checked against a model and a loss.

    n: examples.  rows: (n,) int64, which rows of the arrays they are; None: all, as they lie.  called: what messages
    call X and y.  judged: the same with the weights that accuracy has, where the loss has others.
    measures: what `evaluate` computes beyond the losses, see `measure`.  takes_sparse: whether X may be sparse where
    Dense layers alone read it.  in_blocks: they are a block of more, and its weights may all be 0.  classes: what a
    table calls them, by number.
    """

    def __init__(
        self, model: Model, X: Any, y: Any, loss: Any, sample_weight: Any, check_finite: bool = True,
        called: tuple[str, str, str] = ("X", "y", "sample_weight"),
        known: Mapping[str, tuple[str, ...]] | None = None, takes_sparse: bool = True, in_blocks: bool = False,
    ) -> None:  # fmt: skip
        self.in_blocks = in_blocks
        self.dtype, self.called = model.dtype, called
        self.judged: Data | None = None
        self.classes = None if model.table is None else model.table.classes
        self.outputs = outputs = model.outputs
        self.losses = _losses.resolve_all(loss, outputs)
        self.arrays = model.read(X, called[0], known=known, check_finite=check_finite, takes_sparse=takes_sparse)
        y = model.targets(X, y, called)
        self.n = len(self.arrays[0])
        self.inputs = [node.name for node in model.inputs]
        self.names = [node.name for node in outputs]
        self.targets = [
            _losses.target(weighted.loss, part, self.n, node.shape, model.dtype, check_finite, name)
            for weighted, node, (name, part) in zip(
                self.losses, outputs, _validate.parts(called[1], y, self.names), strict=True
            )
        ]
        self.check_units(model)
        self.rows: np.ndarray | None = None
        self.measures: list[_metrics.Measure] = []
        self._weigh(sample_weight, called[2])

    def _weigh(self, sample_weight: Any, name: str = "sample_weight") -> None:
        masked = len(self.outputs) == 1 and not isinstance(self.losses[0].loss, _losses.Loss)
        positions = self.outputs[0].shape[:-1] if masked else ()
        n = len(self.arrays[0])
        self.weight = _validate.weights(sample_weight, n, positions, self.dtype, name, zeros=self.in_blocks)

    def check_units(self, model: Model) -> None:
        """Targets of the model's outputs that have units of their own are real numbers; ValueError for another loss."""
        if not model.target_moments:
            return
        for i, (weighted, node) in enumerate(zip(self.losses, self.outputs, strict=True)):
            if own := model.target_moments.get(node.name):
                _standardize.of_targets(weighted, node, own)
                self.targets[i] = self.targets[i]._replace(is_integer=False)

    def part(self, rows: np.ndarray | None, sample_weight: Any) -> Data:
        """The same arrays, with weights of their own rows, and of these rows alone; nothing is copied."""
        part = copy.copy(self)
        part._weigh(sample_weight)
        return part if rows is None else part.at(rows)

    def at(self, rows: np.ndarray, name: str = "sample_weight") -> Data:
        """The same, of these rows of the arrays alone; name: what a message calls the rows."""
        part = copy.copy(self)
        part.rows, part.n = rows, len(rows)
        if part.weight is not None and not part.weight[rows].any():
            raise ValueError(f"{name}: expected a weight above zero among the rows, got only zeros")
        return part

    def measure(self, metrics: Any) -> None:
        """`evaluate` computes these, too: see _metrics.measures."""
        self.measures = _metrics.measures(metrics, self.judged or self) if _metrics.given(metrics) else []

    def column(self, name: str) -> str:
        """What a History calls an item of `evaluate`, after val_."""
        return name.replace(".", "_", 1) if len(self.names) > 1 else name

    def weighted(self, weight: np.ndarray) -> Data:
        """The same with other weights (rows,) for the loss; accuracy and metrics keep their own."""
        other, judged = copy.copy(self), copy.copy(self)
        judged.measures = []
        other.weight, other.judged = weight, judged
        return other

    def advise(self) -> None:
        """A UserWarning for a loss that the outputs are not made for."""
        for i, weighted in enumerate(self.losses):
            activation = getattr(self.outputs[i].layer, "activation", None)
            known = isinstance(weighted.loss, _losses.BuiltIn) and isinstance(activation, str)
            advice = weighted.loss.advice(activation) if known else None
            if advice:
                _errors.warn(f"loss: {weighted.loss.name} {advice.format(self.names[i])}")

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
        return [f"val_{name}_{kind}" for name, own in both for kind in kinds[: 1 + _losses.has_accuracy(own.loss)]]

    @property
    def by_output(self) -> dict[str, int]:
        """What a History keeps of each of several outputs as it is trained: numbers of losses by name."""
        if len(self.losses) == 1:
            return {}
        names = [f"{name}_loss" for name in self.names]
        return {name: i for i, name in enumerate(names) if not name.startswith("val_")}  # which is for validation

    def key(self, flags: int, rows: int, n_threads: int) -> _plans.Key:
        """Of the plan for this data."""
        losses = tuple(
            _plans.PlanLoss(i, weighted.loss, weighted.weight, t.cols, t.is_integer)
            for i, (weighted, t) in enumerate(zip(self.losses, self.targets, strict=True))
        )
        return _plans.Key(flags, rows, n_threads, losses, self.weights, sparse=_plans.sparse_of(self.arrays))

    def target_moments(self, model: Model) -> list[Moments | None]:
        """Of y of each output, where the losses do not read it as it is."""
        of = [model.target_moments.get(name) for name in self.names]
        return [
            None if own is None else _standardize.of_targets(weighted, node, own)
            for own, weighted, node in zip(of, self.losses, self.outputs, strict=True)
        ]

    def in_network_units(self, model: Model) -> list[Any]:
        """y of each output, as the losses read it."""
        if not model.target_moments:
            return [target.array for target in self.targets]
        both = zip(self.targets, self.target_moments(model), strict=True)
        return [t.array if own is None else own.read(t.array) for t, own in both]

    def ports(self, model: Model, compiled: _plans.Compiled) -> list[tuple[int, Any]]:
        """y and the weights, for the plan's buffers."""
        used = self.in_network_units(model)
        weight = [] if self.weight is None else [(compiled.weight, self.weight)]
        return [*zip(compiled.targets, used, strict=True), *weight]

    def feed(
        self, model: Model, lent: Lent, outs: Mapping[int, np.ndarray] = MappingProxyType({})
    ) -> _core.Run:  # fmt: skip
        """The run, with this data at its ports; outs: where the answers of some outputs go, by number."""
        ins = [*_plans.gathered(model, lent.compiled, self.arrays), *self.ports(model, lent.compiled)]
        lent.run.ports(
            ins,
            [(lent.compiled.outputs[i], model.in_units(i, out)) for i, out in outs.items()],
            weight=-1 if self.weight is None else len(ins) - 1,
            target_shapes=[t.shape for t in self.targets],
        )
        return lent.run

    def evaluate(self, model: Model, n_threads: int, l2: float = 0.0) -> dict[str, float]:
        """Loss, with penalties of weights, and, where classes make it mean something, accuracy, and the `measures`; of
        several outputs also by name, without penalties."""
        measures = [measure for measure in self.measures if measure.targets is not None]
        numbers = dict.fromkeys(measure.output for measure in measures)
        outs = {i: np.empty((self.n, *self.outputs[i].shape), self.dtype) for i in numbers}
        sums = self.sums(model, n_threads, outs)
        judged = self.judged.sums(model, n_threads) if self.judged and self.has_accuracy else None
        result = self.means(model, sums, judged, l2)
        for measure in measures:
            result[measure.key] = measure.metric.of(measure.targets, outs[measure.output])
        return result

    def sums(self, model: Model, n_threads: int, outs: Mapping[int, np.ndarray] = MappingProxyType({})) -> Sums:
        """Of wE, w and hits, by loss; outs: where the answers of some outputs go, by number."""
        key = self.key(_plans.EVALUATE, _plans.INFERENCE_ROWS, n_threads)
        with _plans.take(model, replace(key, kept=tuple(outs)) if outs else key) as lent:
            run = self.feed(model, lent, outs)
            whole(run, self.n, n_threads, self.rows)
            return run.losses()

    def means(self, model: Model, sums: Sums, judged: Sums | None, l2: float) -> dict[str, float]:
        """What `evaluate` says of such sums; judged: those with the weights that accuracy has, where these are
        others."""
        result = {"loss": model.penalty(l2)}
        for name, weighted, (loss, weight, hits) in zip(self.names, self.losses, sums, strict=True):
            result["loss"] += weighted.weight * (loss / weight)
            prefix = f"{name}." if len(sums) > 1 else ""
            if prefix:
                result[f"{name}.loss"] = loss / weight
            if _losses.has_accuracy(weighted.loss):
                result[f"{prefix}accuracy"] = hits / weight
        if judged:
            result["accuracy"] = judged[0][2] / judged[0][1]
        return result

    def value_and_grad(self, model: Model, n_threads: int) -> tuple[float, np.ndarray]:
        """C and dC/dtheta."""
        return self.gradient(model, n_threads)[:2]

    def gradient(
        self, model: Model, n_threads: int, theta: np.ndarray | None = None, l2: float = 0.0
    ) -> tuple[float, np.ndarray, list[tuple[float, float, float]]]:
        """C, dC/dtheta and the sums of each loss (see _core.Run.losses), at theta (None: the model's); l2 joins
        that of every weight."""
        grad = np.zeros_like(model.theta)
        key = self.key(_plans.TRAIN | (_core.PENALTY if l2 else model.penalties), self.n, n_threads)
        with _plans.take(model, key, theta=theta) as lent:
            run = self.feed(model, lent)
            run.optimizer("gradient", (grad,), l2=l2)
            loss, weight = whole(run, self.n, n_threads, self.rows)[:2]
            return loss / weight, grad, run.losses()


def whole(run: _core.Run, n: int, n_threads: int, order: np.ndarray | None = None) -> tuple[float, float, float]:
    """One pass over n rows, in `order` or as they lie, as a single batch, in slices between which Ctrl-C is heard; sums
    of wE, w and hits."""
    run.begin(n, n, order)
    while run.slice(n_threads, SLICE_SECONDS, fresh=False) == _core.PAUSED:
        pass
    loss, weight, hits = run.progress()[:3]
    return loss, weight, hits


def predict(model: Model, arrays: list[np.ndarray], n_threads: int, in_units: bool = True) -> list[np.ndarray]:
    """The outputs for checked inputs; in_units: of the user, or as losses read them."""
    n = len(arrays[0])
    outs = [np.empty((n, *node.shape), model.dtype) for node in model.outputs]
    if n == 0:
        return outs
    key = _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, n_threads, sparse=_plans.sparse_of(arrays))
    with _plans.take(model, key) as lent:
        scaled = in_units and model.target_moments
        written = [model.in_units(i, out) for i, out in enumerate(outs)] if scaled else outs
        lent.run.ports(
            _plans.gathered(model, lent.compiled, arrays), list(zip(lent.compiled.outputs, written, strict=True))
        )
        whole(lent.run, n, n_threads)
    return outs
