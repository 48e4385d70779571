"""What `inspect` tells of a network: values, gradients and updates by layer, and what stands out, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _advice, _data, _history_views, _optimizers, _plans, _threads, _truth
from bpcore._data import Data
from bpcore._errors import DivergenceError
from bpcore._graph import Node
from bpcore._layers import INITS, Input
from bpcore._losses import BuiltIn
from bpcore._model import Model
from bpcore._recurrent import Recurrent
from bpcore._schedules import Schedule

if TYPE_CHECKING:
    from bpcore._network import Network

_BLOCK = 1 << 21  # numbers of all layers that are held at a time
_SAMPLE = 20_000  # numbers of a layer that a picture is made of

# What stands out.  Glorot and Bengio (2010) look at units at the ends of their activation, and at gradients by layer;
# Lu et al. (2020) at rectifiers that are 0 for all inputs; LeCun et al. (1998, section 4.3) at the scale of inputs;
# Karpathy (CS231n, "Babysitting the learning process") at updates, of which about 1e-3 of the weights' norm a step is
# usual, and at the loss of chance.  They name no bounds: these are far enough from the usual to be worth a sentence.
_NEAR = 0.01  # of the range between the ends of an activation: this near to one is at it
_ALWAYS = 0.95  # of the rows
_MANY_DEAD, _MANY_AT_ENDS = 0.25, 0.25  # of a layer's units
_LARGE_INPUT, _SMALL_INPUT = 10.0, 0.01  # root mean square of a column
_VANISHED = 1e-4  # of the gradient of another layer, each by the norm of its weights
_LARGE_STEP, _USUAL_STEP, _SMALL_STEP = 0.1, 1e-3, 1e-6  # of the norm of the weights, a step
_NO_BETTER = 0.99  # of the loss of chance

_ENDS = {"logistic": (0, 1), "hard_sigmoid": (0, 1), "tanh": (-1, 1), "hard_tanh": (-1, 1), "softsign": (-1, 1)}
_MEANINGS = {
    "mean": "mean of the values, over rows and units", "spread": "their standard deviation",
    "dead": "units with the same value for every row", "at_ends": "units at an end of their activation",
    "weights": "norm of the weights", "gradient": "norm of their gradient",
    "update": "norm of the next step, by that of the weights",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Inspection:
    """What `net.inspect` found; it prints as a table with the findings beneath.

    findings: sentences, (layer: what stands out: what to do), empty where nothing does.  loss: C over X and y, None
    without y.  layers: by name the numbers of each, those that it does not have missing:
    units: the last axis of its values; mean, spread: of its values over rows, units and positions; dead: how many units
    have the same value for every row, 0 with relu; at_ends: how many lie within 1 % of an end of logistic, tanh,
    softsign or their like in 95 of 100 rows; weights, gradient: Euclidean norms of W and dC/dW; update: norm of the
    step that `fit` would make next, by the norm of W.
    """

    layers: dict[str, dict[str, float]]
    findings: tuple[str, ...]
    loss: float | None = None
    _samples: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def _cells(self) -> dict[str, list[str]]:
        """The table as words, by column; columns that no layer has are left out."""
        width = max(map(len, self.layers))
        columns = {"layer": [f"{name:<{width}}" for name in self.layers]}
        for name in ("units", *_MEANINGS):
            if any(name in layer for layer in self.layers.values()):
                columns[name.replace("_", " ")] = [_cell(layer.get(name)) for layer in self.layers.values()]
        return columns

    def _title(self) -> str:
        return "Inspection" if self.loss is None else f"Inspection, loss {self.loss:.5g}"

    def _words(self) -> tuple[str, ...]:
        return self.findings or ("Nothing stands out.",)

    def __repr__(self) -> str:
        table = _history_views.text(self._title(), self._cells(), every=True)
        return "\n".join([table, *(f"- {words}" for words in self._words())])

    def _repr_html_(self) -> str:
        import html  # for those who need it

        words = "".join(f"<li>{html.escape(words)}</li>" for words in self._words())
        return f"{_history_views.page(self._title(), self._cells(), every=True)}<ul>{words}</ul>"

    def to_frame(self) -> Any:
        """A pandas.DataFrame of the numbers, by layer, NaN where there is none.  ImportError without pandas, an extra:
        bpcore[pandas]."""
        names = [name for name in ("units", *_MEANINGS) if any(name in layer for layer in self.layers.values())]
        columns: dict[str, Any] = {"layer": list(self.layers)}
        columns |= {name: [layer.get(name, math.nan) for layer in self.layers.values()] for name in names}
        return _history_views.frame(columns, "layer", "inspection.to_frame")

    def plot(self) -> Any:
        """A matplotlib Figure, of pyplot, with a line a layer: its values; shares of units that are dead or at the
        ends; with y, gradients and updates by the norm of the weights.  ImportError without matplotlib, an extra:
        bpcore[plot]."""
        from bpcore import plots

        return plots._of_inspection(self)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value}" if isinstance(value, int) else f"{value:.3g}"


def inspect(
    net: Network, X: Any, y: Any, loss: Any, optimizer: Any, batch_size: int | None, sample_weight: Any,
    n_threads: int | None,
) -> Inspection:  # fmt: skip
    """See Network.inspect."""
    threads, last = _threads.resolve(n_threads), net.optimizer
    if y is None:
        given = {"loss": loss != "auto", "optimizer": optimizer is not None, "batch_size": batch_size != 32}
        for name in [name for name, is_given in given.items() if is_given] + ["sample_weight"] * (
            sample_weight is not None
        ):
            raise ValueError(f"{name}: expected y with it, inspect(X, y, ...), got y=None")
    rule = None if y is None else _optimizers.resolve(optimizer, last)
    twin = net.copy(optimizer=rule is not None and type(rule) is type(last))  # which makes the step
    model = twin._model
    data = None if y is None else Data(model, X, y, loss, sample_weight, takes_sparse=False)
    arrays = data.arrays if data else model.read(X)
    if len(arrays[0]) < 2:
        raise ValueError("X: expected at least 2 rows, to tell units that are the same for all, got 1")
    values, weights = collect(model, arrays, threads), _weights(model)
    layers: dict[str, dict[str, float]] = {name: own.numbers() for name, own in values.items()}
    for name, of in weights.items():
        layers[name]["weights"] = _norm(of(model.theta))
    findings, cost = [*_of_inputs(model, values), *_of_values(model, values)], None
    if data is not None:
        cost, gradient = data.value_and_grad(model, threads)
        for name, of in weights.items():
            layers[name]["gradient"] = _norm(of(gradient))
        findings += [*_advice.on_targets(model, data), *_of_loss(model, data, cost), *_of_gradients(model, layers)]
        before = model.theta.copy()
        failed = _step(twin, X, y, loss, rule, batch_size, sample_weight, n_threads)
        findings += failed
        for name, of in weights.items():
            if layers[name]["weights"] and not failed:
                layers[name]["update"] = _norm(of(model.theta) - of(before)) / layers[name]["weights"]
        findings += _of_updates(model, layers)
    return Inspection(layers, tuple(findings), cost, {name: own.sample() for name, own in values.items()})


# ---- values ----


class Values:
    """Of a layer, over all rows and positions: by unit, the last axis."""

    def __init__(self, node: Node) -> None:
        self.node, self.n = node, 0
        units = node.shape[-1]
        self.mean, self.squares = np.zeros(units), np.zeros(units)
        self.low, self.high = np.full(units, np.inf), np.full(units, -np.inf)
        self.at_end = np.zeros(units)
        self.some: list[np.ndarray] = []
        self.ends = _ENDS.get(activation_of(node))

    def add(self, block: np.ndarray, share: float) -> None:
        """More rows; share: which of the numbers are kept for pictures."""
        rows = block.reshape(-1, len(self.mean))
        x = rows.astype(np.float64)
        with np.errstate(all="ignore"):
            own, total = x.mean(0), self.n + len(x)
            apart = own - self.mean  # joined as Chan, Golub and LeVeque (1983) do
            x -= own
            self.squares += np.einsum("ij,ij->j", x, x) + apart**2 * (self.n * len(x) / total)
            self.mean += apart * (len(x) / total)
            self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
            if self.ends:
                near = _NEAR * (self.ends[1] - self.ends[0])
                self.at_end += ((rows <= self.ends[0] + near) | (rows >= self.ends[1] - near)).sum(0)
        self.n = total
        most = max(1, round(share * rows.size))
        self.some.append(rows.reshape(-1)[:: -(-rows.size // most)].astype(np.float64))

    @property
    def same(self) -> np.ndarray:
        """Which units have one value for all rows."""
        return self.low == self.high

    @property
    def settled(self) -> np.ndarray:
        """Which units are at an end almost always."""
        return self.at_end >= _ALWAYS * self.n

    def numbers(self) -> dict[str, float]:
        """For the table."""
        with np.errstate(all="ignore"):
            mean = float(self.mean.mean())
            spread = math.sqrt(
                (self.squares.sum() + self.n * ((self.mean - mean) ** 2).sum()) / self.n / len(self.mean)
            )
        numbers = {"units": len(self.mean), "mean": mean, "spread": spread, "dead": int(self.same.sum())}
        return numbers | ({"at_ends": int(self.settled.sum())} if self.ends else {})

    def sample(self) -> np.ndarray:
        """Some of the numbers, evenly spaced."""
        return np.concatenate(self.some)


def activation_of(node: Node) -> str:
    """By name; of one of the user's own ''."""
    f = getattr(node.layer, "activation", "tanh" if isinstance(node.layer, Recurrent) else "")
    return f if isinstance(f, str) else ""


def collect(model: Model, arrays: Sequence[Any], threads: int) -> dict[str, Values]:
    """What every layer gives for checked inputs, and the inputs, but for whole numbers and sparse rows; in the
    network's own units."""
    graph, twin = model.graph, model.copied(memory=False)
    dense = {i for i, array in zip(graph.inputs, arrays, strict=True) if isinstance(array, np.ndarray)}
    shown = tuple(
        i for i, node in enumerate(graph.nodes)
        if not isinstance(node.layer, Input) or (i in dense and not node.layer.integer)
    )  # fmt: skip
    twin.graph = replace(graph, outputs=shown)
    twin.forget_plans()
    values = [Values(node) for node in twin.outputs]
    n = len(arrays[0])
    rows = max(1, min(n, _BLOCK // sum(node.n_out for node in twin.outputs)))
    buffers = [np.empty((rows, *node.shape), model.dtype) for node in twin.outputs]
    for first in range(0, n, rows):
        order = np.arange(first, min(n, first + rows), dtype=np.int64)
        outs = [buffer[: len(order)] for buffer in buffers]
        with _plans.take(twin, _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, threads)) as lent:
            ports = list(zip(lent.compiled.outputs, outs, strict=True))
            lent.run.ports(_plans.gathered(twin, lent.compiled, list(arrays)), ports)
            _data.whole(lent.run, len(order), threads, order)
        for own, out in zip(values, outs, strict=True):
            own.add(out, min(1.0, _SAMPLE / (n * own.node.n_out)))
    return {own.node.name: own for own in values}


# ---- parameters ----


class Part:
    """The weights of a layer, in any vector that is laid out as theta: those that decay, or where there are none, all
    of its parameters."""

    def __init__(self, model: Model, node: Node) -> None:
        own = [model.graph.parameters[name] for name in node.parameters]
        self.parameters = [p for p in own if p.decay] or own

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        return np.concatenate([p.of(vector).reshape(-1) for p in self.parameters])


def _weights(model: Model) -> dict[str, Part]:
    """By the name of the first node that has them."""
    parts: dict[str, Part] = {}
    for node in model.graph.nodes:
        if node.parameters:
            parts.setdefault(node.base, Part(model, node))
    return parts


def _norm(w: np.ndarray) -> float:
    """Euclidean, also of numbers whose squares overflow."""
    top = float(abs(w).max(initial=0.0))
    return top * float(np.linalg.norm(w.astype(np.float64) / top)) if 0 < top < math.inf else top


def _step(
    twin: Network, X: Any, y: Any, loss: Any, rule: Any, batch_size: int | None, sample_weight: Any,
    n_threads: int | None,
) -> list[str]:  # fmt: skip
    """A copy makes its next step; or the finding that it cannot."""
    shares = {s.name: getattr(rule, s.name) for s in fields(rule) if _of_run(getattr(rule, s.name))}
    if shares:  # of a run whose length is unknown: the highest number
        rule = replace(rule, **{name: max(schedule.levels) for name, schedule in shares.items()})
    size = None if rule.full_batch else batch_size
    try:
        twin.fit(
            X, y, loss=loss, optimizer=rule, batch_size=size, max_steps=1, sample_weight=sample_weight,
            n_threads=n_threads,
        )  # fmt: skip
    except DivergenceError as error:
        return [f"the next step diverges, {error.what} is not finite: {error.advice}"]
    return []


def _of_run(setting: Any) -> bool:
    return isinstance(setting, Schedule) and setting.of_run and bool(setting.levels)


def _chance(model: Model, data: Data) -> float | None:
    """The loss of the best answer that does not depend on X, where it is known: the entropy of the classes, the
    variance of the targets."""
    loss = data.losses[0].loss
    name = loss.name if isinstance(loss, BuiltIn) and len(data.losses) == 1 else ""
    if name in ("mse", "squared_error"):
        truth = _truth.of_data(data, 0).numbers(name, 0.5)
        mean = truth.mean(truth.y, lambda _, a: a)
        variance = truth.mean(truth.y, lambda _, a: (a - mean) ** 2)
        own = model.target_moments.get(data.names[0])
        variance = variance / own.scale**2 if own is not None else variance
        return float(data.losses[0].weight * (variance.mean() if name == "mse" else variance.sum() / 2))
    if name in ("cross_entropy", "binary_cross_entropy") and not getattr(loss, "label_smoothing", 0.0):
        truth = _truth.of_data(data, 0).classes(name)
        if truth.shares is not None:
            return None
        of = truth.y if truth.kind == _truth.LABELS else truth.y[:, None] == np.arange(truth.n)
        p = truth.mean(of, lambda _, a: a)
        p = np.stack([p, 1 - p]) if truth.kind == _truth.LABELS else p
        return float(-data.losses[0].weight * (p * np.log(np.where(p > 0, p, 1.0))).sum())
    return None


# ---- findings ----


def _of_inputs(model: Model, values: Mapping[str, Values]) -> Iterator[str]:
    """Whose columns are too large or too small to learn from."""
    for number, node in zip(model.graph.inputs, model.inputs, strict=True):
        if node.name not in values or not model.graph.is_read(number):
            continue
        own = values[node.name]
        if own.same.all():
            yield f"{node.name}: all columns are the same in every row"
            continue
        size = np.sqrt(own.mean**2 + own.squares / own.n)
        if size.max() > _LARGE_INPUT or size.max() < _SMALL_INPUT:
            size_of = (
                f"columns are as large as {size.max():.3g}"
                if size.max() > 1
                else f"no column is larger than {size.max():.3g}"
            )
            yield f"{node.name}: {size_of}: put bp.Standardize() behind its bp.Input"


def _of_values(model: Model, values: Mapping[str, Values]) -> Iterator[str]:
    """Layers whose units have little to say."""
    finite = True
    for i, node in enumerate(model.graph.nodes):
        own = values.get(node.name)
        if own is None or isinstance(node.layer, Input):
            continue
        name, n, f = node.name, len(own.mean), activation_of(node)
        if not np.isfinite(own.mean).all():
            if finite:  # where it begins
                yield f"{name}: it gives numbers that are not finite: scale what it reads, or begin with a new network"
            finite = False
            continue
        dead, settled, ends = int(own.same.sum()), int(own.settled.sum()), i in model.graph.outputs
        if ends:
            if dead == n:
                yield f"{name}: it answers the same for every row"
            continue
        zero = int(((own.low == 0) & (own.high == 0)).sum()) if f == "relu" else 0
        if zero >= max(1, _MANY_DEAD * n):
            if zero == n:
                cure = "begin with a new network and a lower lr"
                yield f"{name}: all {n} units are 0 for every row, so nothing passes: {cure}"
            else:
                cure = "lower lr, or " * (model.step > 0) + _cure(node)
                yield f"{name}: {zero} of {n} units are 0 for every row: {cure}"
        elif f and n > 1 and dead == n:
            yield f"{name}: all {n} units give the same for every row: {_draw(node)}"
        elif node.parameters and f and n > 1 and _equal(own):
            yield f"{name}: all {n} units give the same value, and will learn the same: {_draw(node)}"
        elif settled >= max(1, _MANY_AT_ENDS * n):
            yield (
                f"{name}: {settled} of {n} units are at an end of {f} for nearly every row, where its slope is near 0: "
                "standardise the inputs, or lower lr"
            )


def _equal(own: Values) -> bool:
    """Whether all units are one."""
    return bool((own.mean == own.mean[0]).all() and (own.squares == own.squares[0]).all() and own.squares[0] > 0)


def _draw(node: Node) -> str:
    init = getattr(node.layer, "init", "auto")
    drawn = isinstance(init, str) and init in INITS and init not in ("zeros", "ones")
    return "begin with a new network" if drawn else "draw its weights, init='auto'"


def _cure(node: Node) -> str:
    init = getattr(node.layer, "init", "auto")
    drawn = isinstance(init, str) and (init.startswith("he_") or init == "auto")
    return "take 'leaky_relu'" if drawn else "init='he_uniform'"


def _of_loss(model: Model, data: Data, cost: float) -> Iterator[str]:
    """Where training has not got beyond chance."""
    chance = _chance(model, data) if model.step else None
    if chance is not None and cost - model.penalty() > _NO_BETTER * chance:
        yield f"loss: {cost:.4g} is no better than {chance:.4g}, that of the best answer that is one for all rows"


def _of_gradients(model: Model, layers: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Layers that get none, or next to none."""
    sizes = {
        name: own["gradient"] / own["weights"]
        for name, own in layers.items()
        if "gradient" in own and own["weights"] and name not in model.frozen
    }
    if not sizes:
        return
    top = max(sizes, key=sizes.__getitem__)
    if sizes[top] == 0:
        yield "no weight has a gradient: nothing is left to learn, or nothing passes"
        return
    none = [name for name, size in sizes.items() if size == 0]
    small = [name for name, size in sizes.items() if 0 < size < _VANISHED * sizes[top]]
    if none:
        yield f"{', '.join(none)}: no gradient comes here: look at what reads it"
    if small:
        first = min(small, key=sizes.__getitem__)
        yield (
            f"{', '.join(small)}: gradients vanish, that of {first} is {sizes[first]:.1g} of its weights, that of "
            f"{top} {sizes[top]:.1g}: take 'relu', BatchNorm or LayerNorm, or paths around layers, h + layer(h)"
        )


def _of_updates(model: Model, layers: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Layers that move too far in a step, or hardly."""
    moves = {name: own["update"] for name, own in layers.items() if "update" in own and name not in model.frozen}
    far = [name for name, move in moves.items() if move > _LARGE_STEP]
    if far:
        yield (
            f"{', '.join(far)}: a step moves the weights by {max(moves[name] for name in far):.2g} of their norm: "
            f"lower lr (about {_USUAL_STEP:g} is usual)"
        )
    if moves and 0 < max(moves.values()) < _SMALL_STEP:
        yield (
            f"a step moves no layer's weights by more than {max(moves.values()):.1g} of their norm: raise lr (about "
            f"{_USUAL_STEP:g} is usual), unless it has learnt all there is"
        )
