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
from typing import Any, ClassVar

import numpy as np

from bpcore import _core, _plans, _threads, _validate
from bpcore._data import Data, whole
from bpcore._losses import BuiltIn
from bpcore._model import Model
from bpcore._tangents import Tangents

PULL = _plans.TRAIN | _core.INPUT_GRAD
EACH = _plans.TRAIN | _core.EACH
_COTANGENTS = 32  # backward passes for one forward pass: a signal is heard in between


@dataclass(frozen=True)
class _Linear(BuiltIn):
    """E = sum_k a_k y_k: what is propagated back is y."""

    name: ClassVar[str] = "linear"


# ---- of outputs by inputs ----


def _pulled(
    model: Model, arrays: Sequence[np.ndarray], output: int, first: int, count: int, threads: int
) -> list[np.ndarray | None]:
    """da^L_k/dx at each row, for `count` numbers k of an output from `first` on: by input (n, count, its numbers), None
    for whole numbers."""
    n = len(arrays[0])
    n_out = model.outputs[output].n_out
    outs = [None if node.layer.integer else np.zeros((n, count, node.n_out), model.dtype) for node in model.inputs]
    for done in range(0, count, _COTANGENTS):
        key = _pulling(PULL, output, n_out, min(_COTANGENTS, count - done), threads)
        with _plans.take(model, key) as lent:
            compiled, run = lent.compiled, lent.run
            by = [(out, buffer) for out, buffer in zip(outs, compiled.inputs, strict=True) if out is not None]
            if done == 0:
                scaled = [np.zeros_like(outs[i]) for _, i, _ in compiled.standardized]
            by += zip(scaled, (buffer for buffer, _, _ in compiled.standardized), strict=True)
            grads = [(compiled.plan.grad(buffer), out[:, done:]) for out, buffer in by]
            run.ports(_plans.gathered(model, compiled, arrays), [pair for pair in grads if pair[0] >= 0])
            run.cotangents(first + done, count)
            whole(run, n, threads)
    for d, (_, i, name) in zip(scaled, compiled.standardized, strict=True):
        outs[i] += d / model.moments_of(name).of_rows(d.shape[-1])[1]
    for d in outs:
        _in_units(model, d, output, first)
    return outs


def _in_units(model: Model, d: np.ndarray | None, output: int, first: int = 0) -> None:
    """Derivatives (n, some numbers of the output from `first` on, ...) become those of what goes to the user."""
    own = model.target_moments.get(model.outputs[output].name)
    if own is not None and d is not None:
        d *= own.of_rows(model.outputs[output].n_out)[1][first : first + d.shape[1], None]


@functools.lru_cache(maxsize=256)
def _pulling(flags: int, output: int, n_out: int, cotangents: int, threads: int) -> _plans.Key:
    linear = _plans.PlanLoss(output, _Linear(), 1.0, n_out, False)
    return _plans.Key(flags, _plans.INFERENCE_ROWS, threads, (linear,), cotangents=cotangents)


def _real_inputs(model: Model, what: str, X: Any) -> list[np.ndarray]:
    if all(node.layer.integer for node in model.inputs):
        raise ValueError(f"{what}: expected a network with an input of real numbers, got whole numbers alone; use "
                         "net.part(inputs, outputs) to begin behind the Embedding")  # fmt: skip
    return model.read(X)


def _one_or_all(results: list[Any]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)


def input_gradient(model: Model, X: Any, output: Any, n_threads: int | None) -> Any:
    """See Network.input_gradient."""
    threads = _threads.resolve(n_threads)
    arrays = _real_inputs(model, "input_gradient", X)
    outputs = model.outputs
    number, k = 0, output
    if len(outputs) > 1:
        if not isinstance(output, tuple) or len(output) != 2:
            raise TypeError(f"output: expected a pair (name, k) for a network of several outputs, got {output!r}")
        names = [node.name for node in outputs]
        number, k = names.index(_validate.choice("output", output[0], names)), output[1]
    n_out = outputs[number].n_out
    k = _validate.integer("output", k, -n_out, n_out - 1) % n_out
    quick = _quick(model, threads) if n_out == 1 else None
    if quick is not None:
        J = quick(arrays[0])[:, None]
        _in_units(model, J, 0)
        return J[:, 0]
    pulled = _pulled(model, arrays, number, k, 1, threads)
    return _one_or_all([None if d is None else d.reshape(x.shape) for d, x in zip(pulled, arrays, strict=True)])


def jacobian(model: Model, X: Any, n_threads: int | None) -> Any:
    """See Network.jacobian."""
    threads = _threads.resolve(n_threads)
    arrays = _real_inputs(model, "jacobian", X)
    quick = _quick(model, threads)
    if quick is not None:
        (first,), (last,) = model.inputs, model.outputs
        J = quick(arrays[0]).reshape(-1, last.shape[0], first.shape[0])
        _in_units(model, J, 0)
        return J
    jacobians = [_pulled(model, arrays, i, 0, node.n_out, threads) for i, node in enumerate(model.outputs)]
    return _one_or_all([_one_or_all(by_input) for by_input in jacobians])


def _quick(model: Model, threads: int) -> _core.Predictor | None:
    """What answers rows with their Jacobians, where those of one hidden layer are an operation; see
    csrc/kernels/hidden_jacobian.inc."""
    known = model.jacobians
    if threads not in known:
        known[threads] = _hidden_jacobian(model, threads)
    return known[threads]


def _hidden_jacobian(model: Model, threads: int) -> _core.Predictor | None:
    nodes = model.graph.nodes
    if (
        not model.graph.is_chain
        or len(nodes) != 3
        or model.graph.chain is not nodes
        or nodes[2].layer.activation != "identity"
    ):
        return None
    n_in, n, n_out = (node.n_out for node in nodes)
    f = nodes[1].layer.activation
    if not isinstance(f, str) or f in ("identity", "softmax") or n_in * n * n_out > _core.HIDDEN_ROOM:
        return None
    plan, table = _core.Plan(model.dtype), model.graph.parameters
    slots = [[plan.param(p.offset, p.rows, p.cols, p.decay) for p in (table[name] for name in node.parameters)]
             for node in nodes[1:]]  # fmt: skip
    x = plan.buffer(n_in)
    d = plan.op("activation", [plan.op("dense", [x], slots[0])], function=f + "'")
    J = plan.op("hidden_jacobian", [d], [slots[0][0], slots[1][0]])
    plan.keep(J)
    plan.compile(_plans.PREDICT, 1, threads)
    ins, outs = {"input": ((n_in,), [(x, None, None)])}, {"jacobian": ((n_out * n_in,), J, None, None)}
    return _core.Predictor(plan, model.theta, model.state, ins, outs, threads)


# ---- of each example ----


def per_sample_gradients(model: Model, X: Any, y: Any, loss: Any, n_threads: int | None) -> np.ndarray:
    """See Network.per_sample_gradients."""
    data = Data(model, X, y, loss, None, takes_sparse=False)
    grads = np.zeros((data.n, model.theta.size), model.dtype)
    threads = _threads.resolve(n_threads)
    with _plans.take(model, data.key(EACH, _plans.INFERENCE_ROWS, threads)) as lent:
        run = data.feed(model, lent)
        run.each(grads)
        whole(run, data.n, threads)
    return grads


def output_gradients(model: Model, arrays: list[np.ndarray], output: int, threads: int) -> np.ndarray:
    """Gradients of each number of output number `output` of each example by theta: (n * n_L, n_params)."""
    n, n_out = len(arrays[0]), model.outputs[output].n_out
    grads = np.zeros((n, n_out, model.theta.size), model.dtype)
    for first in range(0, n_out, _COTANGENTS):
        key = _pulling(EACH, output, n_out, min(_COTANGENTS, n_out - first), threads)
        with _plans.take(model, key) as lent:
            run = lent.run
            run.ports(_plans.gathered(model, lent.compiled, arrays))
            run.each(grads[:, first:])
            run.cotangents(first, n_out)
            whole(run, n, threads)
    return grads.reshape(-1, model.theta.size)


# ---- second derivatives ----


def _one_hot(data: Data) -> None:
    """Labels as rows of probabilities: the tangent of cross-entropy subtracts them."""
    for i, (target, node) in enumerate(zip(data.targets, data.outputs, strict=True)):
        if target.is_integer:
            rows = np.eye(node.shape[-1], dtype=data.dtype)[np.asarray(target.array, np.int64)]
            data.targets[i] = _validate.Target(rows, node.n_out, False, rows.shape[1:])


def _theta_and(model: Model, v: Any) -> np.ndarray:
    """theta, and v behind it."""
    return np.concatenate([model.theta, _validate.parameters("v", v, model.theta.shape, model.dtype)])


def hvp(model: Model, X: Any, y: Any, v: Any, loss: Any, sample_weight: Any, n_threads: int | None) -> np.ndarray:
    """See Network.hvp."""
    data = Data(model, X, y, loss, sample_weight, takes_sparse=False)
    _one_hot(data)
    both = _theta_and(model, v)
    grad = np.zeros_like(both)
    threads = _threads.resolve(n_threads)
    key = data.key(_plans.TRAIN, data.n, threads)
    with _plans.take(model, key, _directional, both) as lent:
        compiled, run = lent.compiled, lent.run
        ones = [(buffer, np.ones((1, cols), model.dtype)) for buffer, cols in compiled.ones]
        ins = [*ones, *_plans.gathered(model, compiled, data.arrays), *data.ports(model, compiled)]
        run.ports(ins, weight=-1 if data.weight is None else len(ins) - 1, repeats=(1,) * len(ones))
        run.optimizer("gradient", (grad,))
        whole(run, data.n, threads)
    return _with_penalties(model, grad[: model.theta.size], both)


def _directional(model: Model, key: _plans.Key) -> _plans.Compiled:
    """The plan of R{C}, the derivative of the cost along v."""
    compiled, tangents = _with_tangents(model)
    plan = compiled.plan
    for term in key.losses:
        number = model.graph.outputs[term.output]
        node = model.graph.nodes[number]
        target = plan.buffer(term.target_cols)
        compiled.targets.append(target)
        slope, along = tangents.loss(term.loss, number, target)
        ones = plan.buffer(node.n_out)
        compiled.ones.append((ones, node.n_out))
        positions = math.prod(node.shape[:-1])
        plan.loss("linear", plan.op("multiply", [slope, along]), ones, positions=positions, weight=term.weight)
    if key.weights:
        compiled.weight = plan.buffer(key.weights)
    plan.compile(key.flags, key.rows, key.n_threads)
    return compiled


def _with_tangents(model: Model) -> tuple[_plans.Compiled, Tangents]:
    """All nodes of the model and their tangents along v, which lies behind theta."""
    plan, graph = _core.Plan(model.dtype), model.graph
    compiled = _plans.Compiled(plan, [], [], [], [], [], [])
    tangents = Tangents(plan, model)
    for number, node in enumerate(graph.nodes):
        if node.layer.gathered:
            compiled.a.append(_plans.add_gathered(graph, number, compiled))
            tangents.add_input(compiled.a[-1])
        else:
            compiled.a.append(tangents.add(number))
    compiled.inputs = [compiled.a[i] for i in graph.inputs]
    compiled.outputs = [compiled.a[i] for i in graph.outputs]
    return compiled, tangents


def gauss_newton_product(
    model: Model, X: Any, y: Any, v: Any, loss: Any, sample_weight: Any, n_threads: int | None
) -> np.ndarray:
    """See Network.gauss_newton_product."""
    data = Data(model, X, y, loss, sample_weight, takes_sparse=False)
    both = _theta_and(model, v)
    threads = _threads.resolve(n_threads)
    # u = H_L J v, by a forward pass
    forward = _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, threads, data.key(0, 0, 0).losses)
    curved = [np.empty((data.n, node.n_out), model.dtype) for node in data.outputs]
    with _plans.take(model, forward, _curvature, both) as lent:
        compiled, run = lent.compiled, lent.run
        ins = _plans.gathered(model, compiled, data.arrays)
        read = [y for weighted, y in zip(data.losses, data.in_network_units(model), strict=True)
                if weighted.loss.curvature_takes_target]  # fmt: skip
        ins += zip(compiled.targets, read, strict=True)
        run.ports(ins, list(zip(compiled.outputs, curved, strict=True)))
        whole(run, data.n, threads)
    # J^T u, by a backward pass
    grad = np.zeros_like(model.theta)
    losses = tuple(
        _plans.PlanLoss(i, _Linear(), weighted.weight, node.n_out, False, fused_with=weighted.loss.fused_with)
        for i, (weighted, node) in enumerate(zip(data.losses, data.outputs, strict=True))
    )
    key = _plans.Key(_plans.TRAIN, data.n, threads, losses, data.weights)
    with _plans.take(model, key) as lent:
        compiled, run = lent.compiled, lent.run
        weight = [] if data.weight is None else [(compiled.weight, data.weight)]
        ins = _plans.gathered(model, compiled, data.arrays) + [*zip(compiled.targets, curved, strict=True), *weight]
        run.ports(ins, weight=len(ins) - 1 if weight else -1)
        run.optimizer("gradient", (grad,))
        whole(run, data.n, threads)
    return _with_penalties(model, grad, both)


def _with_penalties(model: Model, product: np.ndarray, both: np.ndarray) -> np.ndarray:
    """What the layers' l2 adds to a product with v."""
    if model.penalties:
        product += (model.l2_of_each() * both[model.theta.size :]).astype(model.dtype)
    return product


def _curvature(model: Model, key: _plans.Key) -> _plans.Compiled:
    """The plan of H_L J v: the loss's second derivative by what it reads, times the tangent of that."""
    compiled, tangents = _with_tangents(model)
    outputs = []
    for term in key.losses:
        number, target = model.graph.outputs[term.output], -1
        if isinstance(term.loss, BuiltIn) and term.loss.curvature_takes_target:
            target = compiled.plan.buffer(model.graph.nodes[number].n_out)
            compiled.targets.append(target)
        outputs.append(tangents.curvature(term.loss, number, target))
    compiled.outputs = outputs
    for out in outputs:
        compiled.plan.keep(out)
    compiled.plan.compile(key.flags, key.rows, key.n_threads)
    return compiled


__all__: Sequence[str] = ("gauss_newton_product", "hvp", "input_gradient", "jacobian", "per_sample_gradients")
