"""Derivatives beyond the gradient: of outputs by inputs, of each example, and products with second derivatives.

Products with the Hessian are exact: the directional derivative R{C} of the cost along v (Pearlmutter 1994) is a graph
of the same operations, with v as more parameters, and its gradient by theta is H v.  So there is no second engine: a
layer says what its tangent is made of (`Layer.tangent`), and the plan does the rest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _core, _data, _plans, _threads, _validate
from bpcore._layers import Input
from bpcore._losses import BuiltIn
from bpcore._tangents import Tangents

if TYPE_CHECKING:
    from bpcore._network import Network

PULL = _plans.TRAIN | _core.INPUT_GRAD
EACH = _plans.TRAIN | _core.EACH
_SEEDS = 32  # ways back for one way forward: a signal is heard in between
_HIDDEN_ROOM = 4096  # as in hidden_jacobian.inc


@dataclass(frozen=True)
class _Linear(BuiltIn):
    """E = sum_k a_k y_k: what is propagated back is y."""

    name: ClassVar[str] = "linear"


# ---- of outputs by inputs ----


def _pulled(
    net: Network, arrays: Sequence[np.ndarray], output: int, first: int, count: int, threads: int
) -> list[np.ndarray | None]:
    """da^L_k/dx at each row, for `count` numbers k of an output from `first` on: by input (n, count, its numbers), None
    for whole numbers."""
    n = len(arrays[0])
    ins, last = net._ends(net._graph.inputs), net._nodes[net._graph.outputs[output]]
    outs = [None if node.layer.integer else np.zeros((n, count, node.n_out), net.dtype) for node in ins]
    for done in range(0, count, _SEEDS):
        with net._plans.take(net, _seeded(PULL, output, last.n_out, min(_SEEDS, count - done), threads)) as made:
            run = _core.Run(made.plan, net.theta)
            grads = [made.plan.grad(buffer) for buffer in made.inputs]
            wanted = [(g, out[:, done:]) for g, out in zip(grads, outs, strict=True) if out is not None and g >= 0]
            run.ports(list(zip(made.inputs, arrays, strict=True)), wanted)
            run.seeds(first + done, count)
            _data.whole(run, n, threads)
    return outs


@functools.lru_cache(maxsize=256)
def _seeded(flags: int, output: int, n_out: int, seeds: int, threads: int) -> _plans.Key:
    cost = _plans.Cost(output, _Linear(), 1.0, n_out, False)
    return _plans.Key(flags, _plans.INFERENCE_ROWS, threads, (cost,), seeds=seeds)


def _real_inputs(net: Network, what: str, X: Any) -> list[np.ndarray]:
    nodes = net._ends(net._graph.inputs)
    if all(node.layer.integer for node in nodes):
        raise ValueError(f"{what}: expected a network with an input of real numbers, got whole numbers alone; use "
                         "net.part(inputs, outputs) to begin behind the Embedding")  # fmt: skip
    return _validate.inputs(X, nodes, net.dtype)


def _one_or_all(found: list[Any]) -> Any:
    return found[0] if len(found) == 1 else tuple(found)


def input_gradient(net: Network, X: Any, output: Any, n_threads: int | None) -> Any:
    """See Network.input_gradient."""
    threads = _threads.resolve(n_threads)
    arrays = _real_inputs(net, "input_gradient", X)
    outputs = net._ends(net._graph.outputs)
    number, k = 0, output
    if len(outputs) > 1:
        if not isinstance(output, tuple) or len(output) != 2:
            raise TypeError(f"output: expected a pair (name, k) for a network of several outputs, got {output!r}")
        names = [node.name for node in outputs]
        number, k = names.index(_validate.choice("output", output[0], names)), output[1]
    n_out = outputs[number].n_out
    k = _validate.integer("output", k, -n_out, n_out - 1) % n_out
    quick = _quick(net, threads) if n_out == 1 else None
    if quick is not None:
        return quick(arrays[0])
    found = _pulled(net, arrays, number, k, 1, threads)
    return _one_or_all([None if d is None else d.reshape(x.shape) for d, x in zip(found, arrays, strict=True)])


def jacobian(net: Network, X: Any, n_threads: int | None) -> Any:
    """See Network.jacobian."""
    threads = _threads.resolve(n_threads)
    quick = _quick(net, threads)
    if quick is not None:
        first, _, last = nodes = net._nodes
        (X,) = _validate.inputs(X, nodes[:1], net.dtype)
        return quick(X).reshape(-1, last.shape[0], first.shape[0])
    arrays = _real_inputs(net, "jacobian", X)
    outputs = net._ends(net._graph.outputs)
    return _one_or_all([_one_or_all(_pulled(net, arrays, i, 0, node.n_out, threads)) for i, node in enumerate(outputs)])


def _quick(net: Network, threads: int) -> _core.Predictor | None:
    """What answers rows with their Jacobians, where those of one hidden layer are an operation; see
    csrc/kernels/hidden_jacobian.inc."""
    if threads not in net._plans.jacobians:
        net._plans.jacobians[threads] = _hidden_jacobian(net, threads)
    return net._plans.jacobians[threads]


def _hidden_jacobian(net: Network, threads: int) -> _core.Predictor | None:
    nodes = net._nodes
    if not net._graph.is_chain or len(nodes) != 3 or nodes[2].layer.activation != "identity":
        return None
    n_in, n, n_out = (node.n_out for node in nodes)
    f = nodes[1].layer.activation
    if not isinstance(f, str) or f in ("identity", "softmax") or n_in * n * n_out > _HIDDEN_ROOM:
        return None
    plan = _core.Plan(net.dtype)
    slots = [[plan.param(p.offset, p.rows, p.cols, p.decay) for p in map(net._parameters.get, node.parameters)]
             for node in nodes[1:]]  # fmt: skip
    x = plan.buffer(n_in)
    d = plan.op("activation", [plan.op("dense", [x], slots[0])], function=f + "'")
    J = plan.op("hidden_jacobian", [d], [slots[0][0], slots[1][0]])
    plan.keep(J)
    plan.compile(_plans.PREDICT, 1, threads)
    return _core.Predictor(plan, net.theta, {"input": (x, (n_in,))}, {"jacobian": (J, (n_out * n_in,))}, threads)


# ---- of each example ----


def per_sample_gradients(net: Network, X: Any, y: Any, loss: Any, n_threads: int | None) -> np.ndarray:
    """See Network.per_sample_gradients."""
    data = _data.Data(net, X, y, loss, None)
    grads = np.zeros((data.n, net.n_params), net.dtype)
    threads = _threads.resolve(n_threads)
    with net._plans.take(net, data.key(EACH, _plans.INFERENCE_ROWS, threads)) as made:
        run = data.run(net, made)
        run.optimizer("each", (grads,))
        _data.whole(run, data.n, threads)
    return grads


def output_gradients(net: Network, arrays: list[np.ndarray], output: int, threads: int) -> np.ndarray:
    """Gradients of each number of output number `output` of each example by theta: (n * n_L, n_params)."""
    n, n_out = len(arrays[0]), net._nodes[net._graph.outputs[output]].n_out
    grads = np.zeros((n, n_out, net.n_params), net.dtype)
    for first in range(0, n_out, _SEEDS):
        key = _seeded(EACH, output, n_out, min(_SEEDS, n_out - first), threads)
        with net._plans.take(net, key) as made:
            run = _core.Run(made.plan, net.theta)
            run.ports(list(zip(made.inputs, arrays, strict=True)))
            run.optimizer("each", (grads[:, first:],))
            run.seeds(first, n_out)
            _data.whole(run, n, threads)
    return grads.reshape(-1, net.n_params)


# ---- second derivatives ----


def _one_hot(data: _data.Data, net: Network) -> None:
    """Labels as rows of probabilities: the tangent of cross-entropy subtracts them."""
    for i, (target, node) in enumerate(zip(data.targets, net._ends(net._graph.outputs), strict=True)):
        if target.is_integer:
            rows = np.eye(node.shape[-1], dtype=net.dtype)[np.asarray(target.array, np.int64)]
            data.targets[i] = _validate.Target(rows, node.n_out, False, rows.shape[1:])


def _direction(net: Network, v: Any) -> np.ndarray:
    return _validate.parameters("v", v, (net.n_params,), net.dtype)


def hvp(net: Network, X: Any, y: Any, v: Any, loss: Any, sample_weight: Any, n_threads: int | None) -> np.ndarray:
    """See Network.hvp."""
    data = _data.Data(net, X, y, loss, sample_weight)
    _one_hot(data, net)
    both = np.concatenate([net.theta, _direction(net, v)])
    grad = np.zeros_like(both)
    threads = _threads.resolve(n_threads)
    key = data.key(_plans.TRAIN, data.n, threads)
    with net._plans.take(net, key, _directional) as made:
        run = _core.Run(made.plan, both)
        ones = [(buffer, np.ones((1, cols), net.dtype)) for buffer, cols in made.ones]
        ins = [*ones, *zip(made.inputs, data.arrays, strict=True), *data.ports(made)]
        run.ports(ins, weight=-1 if data.weight is None else len(ins) - 1, repeats=(1,) * len(ones))
        run.optimizer("gradient", (grad,))
        _data.whole(run, data.n, threads)
    return grad[: net.n_params]


def _directional(net: Network, key: _plans.Key) -> _plans.Compiled:
    """The plan of R{C}, the derivative of the cost along v."""
    made, tangents = _with_tangents(net)
    plan = made.plan
    for cost in key.losses:
        node = net._graph.outputs[cost.output]
        target = plan.buffer(cost.target_cols)
        made.targets.append(target)
        slope, along = tangents.loss(cost.loss, node, target)
        width = net._nodes[node].n_out
        ones = plan.buffer(width)
        made.ones.append((ones, width))
        positions = math.prod(net._nodes[node].shape[:-1])
        plan.loss("linear", plan.op("multiply", [slope, along]), ones, positions=positions, weight=cost.weight)
    if key.weights:
        made.weight = plan.buffer(key.weights)
    plan.compile(key.flags, key.rows, key.n_threads)
    return made


def _with_tangents(net: Network) -> tuple[_plans.Compiled, Tangents]:
    """All nodes of the network and their tangents along v, which lies behind theta."""
    plan, graph = _core.Plan(net.dtype), net._graph
    made = _plans.Compiled(plan, [], [], [], [], [], [])
    tangents = Tangents(plan, net)
    for number, node in enumerate(graph.nodes):
        if isinstance(node.layer, Input):
            made.a.append(plan.buffer(node.n_out, integer=node.layer.integer))
            tangents.add_input(made.a[-1])
        else:
            made.a.append(tangents.add(number))
    made.inputs = [made.a[i] for i in graph.inputs]
    made.outputs = [made.a[i] for i in graph.outputs]
    return made, tangents


def gauss_newton_product(
    net: Network, X: Any, y: Any, v: Any, loss: Any, sample_weight: Any, n_threads: int | None
) -> np.ndarray:
    """See Network.gauss_newton_product."""
    data = _data.Data(net, X, y, loss, sample_weight)
    both = np.concatenate([net.theta, _direction(net, v)])
    threads = _threads.resolve(n_threads)
    # u = H_L J v, by a forward pass
    forward = _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, threads, data.key(0, 0, 0).losses)
    nodes = net._ends(net._graph.outputs)
    curved = [np.empty((data.n, node.n_out), net.dtype) for node in nodes]
    with net._plans.take(net, forward, _curvature) as made:
        run = _core.Run(made.plan, both)
        ins = [*zip(made.inputs, data.arrays, strict=True)]
        read = [t.array for one, t in zip(data.losses, data.targets, strict=True) if one.loss.curvature_takes_target]
        ins += zip(made.targets, read, strict=True)
        run.ports(ins, list(zip(made.outputs, curved, strict=True)))
        _data.whole(run, data.n, threads)
    # J^T u, by a backward pass
    grad = np.zeros_like(net.theta)
    costs = [
        _plans.Cost(i, _Linear(), one.weight, node.n_out, False, fused_with=one.loss.fused_with)
        for i, (one, node) in enumerate(zip(data.losses, nodes, strict=True))
    ]
    key = _plans.Key(_plans.TRAIN, data.n, threads, tuple(costs), data.weights)
    with net._plans.take(net, key) as made:
        run = _core.Run(made.plan, net.theta)
        weight = [] if data.weight is None else [(made.weight, data.weight)]
        ins = [*zip(made.inputs, data.arrays, strict=True), *zip(made.targets, curved, strict=True), *weight]
        run.ports(ins, weight=len(ins) - 1 if weight else -1)
        run.optimizer("gradient", (grad,))
        _data.whole(run, data.n, threads)
    return grad


def _curvature(net: Network, key: _plans.Key) -> _plans.Compiled:
    """The plan of H_L J v: the loss's second derivative by what it reads, times the tangent of that."""
    made, tangents = _with_tangents(net)
    outputs = []
    for cost in key.losses:
        target = -1
        if isinstance(cost.loss, BuiltIn) and cost.loss.curvature_takes_target:
            target = made.plan.buffer(net._nodes[net._graph.outputs[cost.output]].n_out)
            made.targets.append(target)
        outputs.append(tangents.curvature(cost.loss, net._graph.outputs[cost.output], target))
    made.outputs = outputs
    for out in outputs:
        made.plan.keep(out)
    made.plan.compile(key.flags, key.rows, key.n_threads)
    return made


__all__: Sequence[str] = ("gauss_newton_product", "hvp", "input_gradient", "jacobian", "per_sample_gradients")
