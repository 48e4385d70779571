"""Derivatives beyond the gradient: of outputs by inputs, of each example, and products with second derivatives.

Products with the Hessian are exact: the directional derivative R{C} of the cost along v (Pearlmutter 1994) is a graph
of the same operations, with v as more parameters, and its gradient by theta is H v.  So there is no second engine: a
layer says what its tangent is made of (`Layer.tangent`), and the plan does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _core, _losses, _plans, _threads, _training, _validate
from bpcore._layers import Input
from bpcore._losses import BuiltIn, Huber
from bpcore._tangents import Tangents

if TYPE_CHECKING:
    from bpcore._network import Network

SEED = _plans.TRAIN | _core.INPUT_GRAD


@dataclass(frozen=True)
class _Linear(BuiltIn):
    """E = sum_k a_k y_k: what is propagated back is y."""

    name: ClassVar[str] = "linear"


# ---- of outputs by inputs ----


def _single(net: Network, what: str) -> tuple[Any, Any]:
    (first, *more), (last, *others) = net._ends(net._graph.inputs), net._ends(net._graph.outputs)
    if more or others or first.layer.integer:
        raise ValueError(f"{what}: expected a network of one real input and one output; use net.part(inputs, outputs)")
    return first, last


def _pulled(net: Network, X: np.ndarray, seeds: np.ndarray, repeat: int) -> np.ndarray:
    """dC/dx for each row of X and each of `repeat` rows of seeds (dC/da^L): (n * repeat, n_0)."""
    n, threads = len(X) * repeat, _threads.resolve(None)
    out = np.empty((n, net.n_inputs), net.dtype)
    positions = math.prod(net._ends(net._graph.outputs)[0].shape[:-1])
    cost = _plans.Cost(0, _Linear(), float(positions), seeds.shape[1], False)
    key = _plans.Key(SEED, n, threads, (cost,), fixed=True)
    with net._plans.take(net, key) as made:
        run = _core.Run(made.plan, net.theta)
        run.ports([(made.inputs[0], X), (made.targets[0], seeds)], [(made.plan.grad(made.inputs[0]), out)],
                  repeats=(repeat, 1))  # fmt: skip
        _training.whole(run, n, threads)
    return out


def input_gradient(net: Network, X: Any, output: Any) -> np.ndarray:
    """See Network.input_gradient."""
    first, last = _single(net, "input_gradient")
    (X,) = _validate.inputs(X, [first], net.dtype)
    k = _validate.integer("output", output, -last.n_out, last.n_out - 1) % last.n_out
    seed = np.zeros((1, last.n_out), net.dtype)
    seed[0, k] = 1
    return _pulled(net, X, seed, 1).reshape(X.shape)


def jacobian(net: Network, X: Any) -> np.ndarray:
    """See Network.jacobian."""
    first, last = _single(net, "jacobian")
    (X,) = _validate.inputs(X, [first], net.dtype)
    return _pulled(net, X, np.eye(last.n_out, dtype=net.dtype), last.n_out).reshape(len(X), last.n_out, first.n_out)


# ---- of each example ----


def per_sample_gradients(net: Network, X: Any, y: Any, loss: Any) -> np.ndarray:
    """See Network.per_sample_gradients."""
    data = _training.Data(net, X, y, loss, None)
    grads = np.zeros((data.n, net.n_params), net.dtype)
    threads = _threads.resolve(None)
    with net._plans.take(net, data.key(_plans.TRAIN, 1, threads)) as made:
        run = data.run(net, made)
        run.optimizer("each", (grads,))
        run.begin(data.n, 1)
        while run.slice(threads, _training.SLICE_SECONDS, fresh=False) == _core.PAUSED:
            pass
    return grads


def output_gradients(net: Network, arrays: list[np.ndarray], output: int) -> np.ndarray:
    """Gradients of each number of output number `output` of each example by theta: (n * n_L, n_params)."""
    last = net._ends(net._graph.outputs)[output]
    grads = np.zeros((len(arrays[0]) * last.n_out, net.n_params), net.dtype)
    threads = _threads.resolve(None)
    cost = _plans.Cost(output, _Linear(), float(math.prod(last.shape[:-1])), last.n_out, False)
    with net._plans.take(net, _plans.Key(_plans.TRAIN, 1, threads, (cost,))) as made:
        run = _core.Run(made.plan, net.theta)
        ins = [*zip(made.inputs, arrays, strict=True), (made.targets[0], np.eye(last.n_out, dtype=net.dtype))]
        run.ports(ins, repeats=(*(last.n_out for _ in arrays), 1))
        run.optimizer("each", (grads,))
        run.begin(len(grads), 1)
        while run.slice(threads, _training.SLICE_SECONDS, fresh=False) == _core.PAUSED:
            pass
    return grads


# ---- second derivatives ----


def _one_hot(data: _training.Data, net: Network) -> None:
    """Labels as rows of probabilities: the tangent of cross-entropy subtracts them."""
    for i, (target, node) in enumerate(zip(data.targets, net._ends(net._graph.outputs), strict=True)):
        if target.is_integer:
            rows = np.eye(node.shape[-1], dtype=net.dtype)[np.asarray(target.array, np.int64)]
            data.targets[i] = _validate.Target(rows, node.n_out, False, rows.shape[1:])


def _direction(net: Network, v: Any) -> np.ndarray:
    return _validate.parameters("v", v, (net.n_params,), net.dtype)


def hvp(net: Network, X: Any, y: Any, v: Any, loss: Any, sample_weight: Any) -> np.ndarray:
    """See Network.hvp."""
    data = _training.Data(net, X, y, loss, sample_weight)
    _one_hot(data, net)
    both = np.concatenate([net.theta, _direction(net, v)])
    grad = np.zeros_like(both)
    threads = _threads.resolve(None)
    key = data.key(_plans.TRAIN, data.n, threads)
    with net._plans.take(net, key, _directional) as made:
        run = _core.Run(made.plan, both)
        ones = [(buffer, np.ones((1, cols), net.dtype)) for buffer, cols in made.ones]
        ins = [*ones, *zip(made.inputs, data.arrays, strict=True), *data.ports(made)]
        run.ports(ins, weight=-1 if data.weight is None else len(ins) - 1, repeats=(1,) * len(ones))
        run.optimizer("gradient", (grad,))
        _training.whole(run, data.n, threads)
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


def gauss_newton_product(net: Network, X: Any, y: Any, v: Any, loss: Any, sample_weight: Any) -> np.ndarray:
    """See Network.gauss_newton_product."""
    data = _training.Data(net, X, y, loss, sample_weight)
    both = np.concatenate([net.theta, _direction(net, v)])
    threads = _threads.resolve(None)
    # u = H_L J v, by a forward pass
    forward = _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, threads, data.key(0, 0, 0).losses)
    nodes = net._ends(net._graph.outputs)
    curved = [np.empty((data.n, node.n_out), net.dtype) for node in nodes]
    with net._plans.take(net, forward, _curvature) as made:
        run = _core.Run(made.plan, both)
        ins = [*zip(made.inputs, data.arrays, strict=True)]
        read = [t.array for one, t in zip(data.losses, data.targets, strict=True) if isinstance(one.loss, Huber)]
        ins += zip(made.targets, read, strict=True)
        run.ports(ins, list(zip(made.outputs, curved, strict=True)))
        _training.whole(run, data.n, threads)
    # J^T u, by a backward pass
    grad = np.zeros_like(net.theta)
    costs = [
        _plans.Cost(i, _Linear(), one.weight, node.n_out, False, fused_with=_losses.fused_with(one.loss))
        for i, (one, node) in enumerate(zip(data.losses, nodes, strict=True))
    ]
    key = _plans.Key(_plans.TRAIN, data.n, threads, tuple(costs), data.weights)
    with net._plans.take(net, key) as made:
        run = _core.Run(made.plan, net.theta)
        weight = [] if data.weight is None else [(made.weight, data.weight)]
        ins = [*zip(made.inputs, data.arrays, strict=True), *zip(made.targets, curved, strict=True), *weight]
        run.ports(ins, weight=len(ins) - 1 if weight else -1)
        run.optimizer("gradient", (grad,))
        _training.whole(run, data.n, threads)
    return grad


def _curvature(net: Network, key: _plans.Key) -> _plans.Compiled:
    """The plan of H_L J v: the loss's second derivative by what it reads, times the tangent of that."""
    made, tangents = _with_tangents(net)
    outputs = []
    for cost in key.losses:
        target = -1
        if isinstance(cost.loss, Huber):
            target = made.plan.buffer(net._nodes[net._graph.outputs[cost.output]].n_out)
            made.targets.append(target)
        outputs.append(tangents.curvature(cost.loss, net._graph.outputs[cost.output], target))
    made.outputs = outputs
    for out in outputs:
        made.plan.keep(out)
    made.plan.compile(key.flags, key.rows, key.n_threads)
    return made


__all__: Sequence[str] = ("gauss_newton_product", "hvp", "input_gradient", "jacobian", "per_sample_gradients")
