"""From a network's nodes to a compiled plan, and to a run of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpcore import _checkpoint, _core
from bpcore._graph import Graph
from bpcore._layers import Dense, Input
from bpcore._losses import BuiltIn, Loss, SquaredError
from bpcore._model import Model
from bpcore._plan_cache import Lent

PREDICT = _core.FORWARD | _core.REUSE
TRACE = _core.FORWARD | _core.CACHE
EVALUATE = _core.FORWARD | _core.LOSS | _core.REUSE
TRAIN = _core.FORWARD | _core.CACHE | _core.LOSS | _core.BACKWARD | _core.REUSE
REVERSE = _core.LOSS | _core.BACKWARD | _core.INPUT_GRAD

# A plan without a backward pass takes any number of rows, in chunks of at most so many.
INFERENCE_ROWS = 16384
WORTHWHILE = 0.9  # of the memory, if a part of it is computed twice


@dataclass(frozen=True)
class PlanLoss:
    """A loss on output number `output`, and how its targets come."""

    output: int
    loss: BuiltIn | Loss
    weight: float
    target_cols: int
    target_is_integer: bool
    fused_with: str | None = None  # it reads what this activation, the output's own, reads


@dataclass(frozen=True)
class Key:
    """What a plan was compiled for."""

    flags: int
    rows: int
    n_threads: int
    losses: tuple[PlanLoss, ...] = ()
    weights: int = 0  # of an example: none, one, or one a position
    cotangents: int = 0  # backward passes, each from a unit vector
    stores_all: bool = False  # whatever the network's checkpoint
    kept: tuple[int, ...] = ()  # numbers of outputs that are read beside the losses
    sparse: tuple[int, ...] = ()  # numbers of inputs that come as sparse rows


@dataclass
class Compiled:
    """A plan and the numbers of its buffers: z, a and df by node (of a chain, 0..L)."""

    plan: _core.Plan
    z: list[int]
    a: list[int]
    df: list[int]
    inputs: list[int]  # -1: only Standardize layers read it
    outputs: list[int]
    targets: list[int]
    weight: int = -1
    standardized: list[tuple[int, int, str]] = field(default_factory=list)  # buffer, number of its input, layer
    ones: list[tuple[int, int]] = field(default_factory=list)  # buffers of ones, and their columns


def add_gathered(graph: Graph, number: int, compiled: Compiled, sparse: bool = False) -> int:
    """The buffer of a node whose rows, sparse or not, are read from the user's arrays; -1 of an input that none reads
    as it is."""
    node, plan = graph.nodes[number], compiled.plan
    if not isinstance(node.layer, Input):
        buffer = plan.buffer(node.n_out)
        compiled.standardized.append((buffer, graph.inputs.index(node.inputs[0]), node.base))
        return buffer
    return plan.buffer(node.n_out, integer=node.layer.integer, sparse=sparse) if graph.is_read(number) else -1


def sparse_of(arrays: Sequence[Any]) -> tuple[int, ...]:
    """Numbers of the inputs whose arrays are sparse."""
    return tuple(i for i, array in enumerate(arrays) if isinstance(array, _core.SparseRows))


def gathered(model: Model, compiled: Compiled, arrays: Sequence[Any]) -> list[tuple[int, Any]]:
    """Checked inputs, for the plan's buffers."""
    read = [pair for pair in zip(compiled.inputs, arrays, strict=True) if pair[0] >= 0]
    if not compiled.standardized:
        return read
    return read + [(buffer, model.moments_of(name).read(arrays[i])) for buffer, i, name in compiled.standardized]


def ends(model: Model, compiled: Compiled) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs, as a _core.Predictor has them."""
    inputs: dict[str, Any] = {}
    for i, (node, buffer) in enumerate(zip(model.inputs, compiled.inputs, strict=True)):
        readers: list[tuple[int, Any, Any]] = [(buffer, None, None)] if buffer >= 0 else []
        for own, number, name in compiled.standardized:
            if number == i:
                mean, scale = model.moments_of(name).of_rows(node.n_out)
                readers.append((own, mean, 1 / scale))
        inputs[node.name] = node.shape, readers
    outputs: dict[str, Any] = {}
    for node, buffer in zip(model.outputs, compiled.outputs, strict=True):
        moments = model.target_moments.get(node.name)
        outputs[node.name] = node.shape, buffer, *((None, None) if moments is None else moments.of_rows(node.n_out))
    return inputs, outputs


def make_plan(model: Model, key: Key) -> Compiled:
    """A plan of this model's own operations, cut where it is to be; with `True` only if that saves memory."""
    trains = key.flags & _core.BACKWARD and not (key.stores_all or key.cotangents or key.flags & _core.EACH)
    cuts = _checkpoint.cuts(model.graph, model.checkpoint) if trains else []
    cut = _make_plan(model, key, cuts)
    if not cuts or model.checkpoint is not True:
        return cut
    whole = _make_plan(model, key, [])
    bytes_, most = (compiled.plan.describe()["arena_bytes"] for compiled in (cut, whole))
    return cut if bytes_ < WORTHWHILE * most else whole


def _make_plan(model: Model, key: Key, cuts: list[int]) -> Compiled:
    plan, graph = _core.Plan(model.dtype), model.graph
    compiled = Compiled(plan, [], [], [], [], [], [])
    by_inputs = key.flags & _core.INPUT_GRAD and key.cotangents
    frozen = set(graph.parameters) if by_inputs else model.frozen_parameters
    slots = {
        name: plan.param(p.offset, p.rows, p.cols, p.decay, name in frozen, p.treatment.rate, p.treatment.lazy)
        for name, p in graph.parameters.items()
    }
    for name, p in graph.parameters.items():
        plan.regularise(slots[name], p.treatment.l1, p.treatment.l2, p.treatment.max_norm)
    sparse = {graph.inputs[i] for i in key.sparse}
    slots |= {name: plan.state(state.offset, state.n) for name, state in graph.states.items()}
    for number, node in enumerate(graph.nodes):
        if node.layer.gathered:
            a = add_gathered(graph, number, compiled, number in sparse)
        else:
            shapes = [graph.nodes[i].shape for i in node.inputs]
            inputs = [compiled.a[i] for i in node.inputs]
            own = [slots[name] for name in (*node.parameters, *node.states)]
            a = node.layer.build(plan, inputs, own, shapes, number)
        layer = node.layer
        compiled.z.append(-1 if type(layer) is not Dense else a if layer.activation == "identity" else plan.reads(a))
        compiled.a.append(a)
        compiled.df.append(-1 if compiled.z[-1] == a else plan.cache(a))
    compiled.inputs = [compiled.a[i] for i in graph.inputs]
    compiled.outputs = [compiled.a[i] for i in graph.outputs]
    if key.flags & ~_core.STRIPS == PREDICT:
        for out in compiled.outputs:
            plan.keep(out)
    for number in key.kept:
        plan.keep(compiled.outputs[number])
    read: list[int] = []  # by losses, each a buffer of its own: a Reshape has that of its input
    for term in key.losses:
        out = compiled.outputs[term.output]
        out = plan.reads(out) if term.fused_with else out
        read.append(plan.op("add", [out], settings=([], [1.0])) if out in read else out)
    for term, out in zip(key.losses, read, strict=True):
        target = plan.buffer(term.target_cols, integer=term.target_is_integer)
        compiled.targets.append(target)
        shape = graph.nodes[graph.outputs[term.output]].shape
        if isinstance(term.loss, Loss):
            plan.loss(None, out, target, function=(term.loss.value, term.loss.gradient, shape), weight=term.weight)
        else:
            positions = math.prod(shape[:-1])
            plan.loss(term.loss.name, out, target, term.loss.numbers, positions=positions, weight=term.weight)
    if key.weights:
        compiled.weight = plan.buffer(key.weights)
    for number in cuts:
        plan.checkpoint(compiled.a[number])
    plan.compile(key.flags, key.rows, key.n_threads, key.cotangents)
    return compiled


def memory(model: Model, rows: int) -> tuple[int, int, int]:
    """Bytes of the arena for training steps of `rows` examples; without the network's checkpoint; and if, moreover, no
    buffers shared their memory."""
    losses = tuple(PlanLoss(i, SquaredError(), 1.0, node.n_out, False) for i, node in enumerate(model.outputs))
    plain, cut = (
        make_plan(model, Key(TRAIN, rows, 1, losses, stores_all=all_)).plan.describe() for all_ in (True, False)
    )
    return cut["arena_bytes"], plain["arena_bytes"], plain["unshared_bytes"]


Make = Callable[[Model, Key], Compiled]


def take(model: Model, key: Key, make: Make = make_plan, theta: np.ndarray | None = None) -> Lent:
    """`with` it: a run of the plan that `make` makes for `key`, this call's alone, with theta (None: the model's) and
    the model's state."""
    entry = model.plans.entry((make, key), lambda: make(model, key))
    return Lent(entry, model.theta if theta is None else theta, model.state)
