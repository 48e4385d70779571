"""From a network's nodes to a compiled plan, and a few of them kept for the next call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bpcore import _checkpoint, _core
from bpcore._layers import Dense, Input
from bpcore._losses import BuiltIn, Loss, SquaredError

if TYPE_CHECKING:
    from bpcore._network import Network

PREDICT = _core.FORWARD | _core.REUSE
TRACE = _core.FORWARD | _core.CACHE
EVALUATE = _core.FORWARD | _core.LOSS | _core.REUSE
TRAIN = _core.FORWARD | _core.CACHE | _core.LOSS | _core.BACKWARD | _core.REUSE
REVERSE = _core.LOSS | _core.BACKWARD | _core.INPUT_GRAD

# A plan without a backward pass takes any number of rows, in chunks of at most so many.
INFERENCE_ROWS = 16384
WORTHWHILE = 0.9  # of the memory, if a part of it is computed twice
_KEPT = 8


@dataclass(frozen=True)
class Cost:
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
    losses: tuple[Cost, ...] = ()
    weights: int = 0  # of an example: none, one, or one a position
    seeds: int = 0  # ways back, from unit vectors
    stores_all: bool = False  # whatever the network's checkpoint


@dataclass
class Compiled:
    """A plan and the numbers of its buffers: z, a and df by node (of a chain, 0..L)."""

    plan: _core.Plan
    z: list[int]
    a: list[int]
    df: list[int]
    inputs: list[int]
    outputs: list[int]
    targets: list[int]
    weight: int = -1
    ones: list[tuple[int, int]] = field(default_factory=list)  # buffers of ones, and their columns


def compiled(net: Network, key: Key) -> Compiled:
    """A plan of this network's own operations, cut where it is to be; with `True` only if that saves memory."""
    trains = key.flags & _core.BACKWARD and not (key.stores_all or key.seeds or key.flags & _core.EACH)
    cuts = _checkpoint.cuts(net._graph, net.checkpoint) if trains else []
    made = _compiled(net, key, cuts)
    if not cuts or net.checkpoint is not True:
        return made
    plain = _compiled(net, key, [])
    bytes_, most = (one.plan.describe()["arena_bytes"] for one in (made, plain))
    return made if bytes_ < WORTHWHILE * most else plain


def _compiled(net: Network, key: Key, cuts: list[int]) -> Compiled:
    plan, graph = _core.Plan(net.dtype), net._graph
    made = Compiled(plan, [], [], [], [], [], [])
    by_inputs = key.flags & _core.INPUT_GRAD and key.seeds
    frozen = {name for node in graph.nodes if by_inputs or node.base in net._frozen for name in node.parameters}
    slots = {
        name: plan.param(p.offset, p.rows, p.cols, p.decay, name in frozen) for name, p in graph.parameters.items()
    }
    for number, node in enumerate(graph.nodes):
        if isinstance(node.layer, Input):
            a = plan.buffer(node.n_out, integer=node.layer.integer)
        else:
            shapes = [graph.nodes[i].shape for i in node.inputs]
            inputs = [made.a[i] for i in node.inputs]
            a = node.layer.build(plan, inputs, [slots[name] for name in node.parameters], shapes, number)
        layer = node.layer
        made.z.append(-1 if type(layer) is not Dense else a if layer.activation == "identity" else plan.reads(a))
        made.a.append(a)
        made.df.append(-1 if made.z[-1] == a else plan.cache(a))
    made.inputs = [made.a[i] for i in graph.inputs]
    made.outputs = [made.a[i] for i in graph.outputs]
    if key.flags == PREDICT:
        for out in made.outputs:
            plan.keep(out)
    read: list[int] = []  # by losses, each a buffer of its own: a Reshape has that of its input
    for cost in key.losses:
        out = made.outputs[cost.output]
        out = plan.reads(out) if cost.fused_with else out
        read.append(plan.op("add", [out], settings=([], [1.0])) if out in read else out)
    for cost, out in zip(key.losses, read, strict=True):
        target = plan.buffer(cost.target_cols, integer=cost.target_is_integer)
        made.targets.append(target)
        shape = graph.nodes[graph.outputs[cost.output]].shape
        if isinstance(cost.loss, Loss):
            plan.loss(None, out, target, function=(cost.loss.value, cost.loss.gradient, shape), weight=cost.weight)
        else:
            positions = math.prod(shape[:-1])
            plan.loss(cost.loss.name, out, target, cost.loss.attr, positions=positions, weight=cost.weight)
    if key.weights:
        made.weight = plan.buffer(key.weights)
    for number in cuts:
        plan.checkpoint(made.a[number])
    plan.compile(key.flags, key.rows, key.n_threads, key.seeds)
    return made


def memory(net: Network, rows: int) -> tuple[int, int, int]:
    """Bytes of the arena for training steps of `rows` examples; without the network's checkpoint; and if, moreover, no
    buffers shared their memory."""
    outputs = net._ends(net._graph.outputs)
    costs = [Cost(i, SquaredError(), 1.0, node.n_out, False) for i, node in enumerate(outputs)]
    plain, cut = (
        compiled(net, Key(TRAIN, rows, 1, tuple(costs), stores_all=all_)).plan.describe() for all_ in (True, False)
    )
    return cut["arena_bytes"], plain["arena_bytes"], plain["unshared_bytes"]


Make = Callable[["Network", Key], Compiled]


class PlanCache:
    """The plans a network used last, each handed to one call at a time.

    Threads may use it at once: every step is one operation on a dict or list, and a plan that is lost to a race is
    compiled again.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[Make, Key], list[Compiled]] = {}
        self.jacobians: dict[int, _core.Predictor | None] = {}  # by threads; see _derivatives

    def take(self, net: Network, key: Key, make: Make = compiled) -> _Lent:
        """`with` it: a plan that `make` makes for `key`, this call's alone until it is done."""
        place = make, key
        plans = self._free.pop(place, [])
        self._free[place] = plans  # the youngest key is last
        for old in list(self._free)[:-_KEPT]:
            self._free.pop(old, None)
        try:
            return _Lent(plans.pop(), plans)
        except IndexError:
            return _Lent(make(net, key), plans)


class _Lent:
    """A plan until it is given back; where the call fails, it is not.  contextlib's manager takes 1 us more."""

    __slots__ = ("made", "plans")

    def __init__(self, made: Compiled, plans: list[Compiled]) -> None:
        self.made, self.plans = made, plans

    def __enter__(self) -> Compiled:
        return self.made

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.plans.append(self.made)
            del self.plans[:-_KEPT]
