"""The random graphs of tests/random_graphs.py, values and gradients against PyTorch in float64: norm-wise to 1e-10."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from random_graphs import cases, index_of, values

import bpcore as bp

torch.set_num_threads(1)
TOLERANCE = 1e-10

ACTIVATIONS = {
    "identity": lambda z, axis: z,
    "logistic": lambda z, axis: torch.sigmoid(z),
    "tanh": lambda z, axis: torch.tanh(z),
    "elu": lambda z, axis: F.elu(z),
    "gelu": lambda z, axis: F.gelu(z),
    "silu": lambda z, axis: F.silu(z),
    "softplus": lambda z, axis: F.softplus(z),
    "softsign": lambda z, axis: F.softsign(z),
    "exp": lambda z, axis: torch.exp(z),
    "softmax": lambda z, axis: F.softmax(z, dim=axis),
}


def sliced(x, layer):
    """torch has no steps backwards: each is taken by number."""
    for axis, part in enumerate(index_of(layer), 1):
        if part is ...:
            break
        chosen = range(x.shape[axis])[part]
        x = x.index_select(axis, torch.tensor([chosen] if isinstance(chosen, int) else list(chosen)))
    return x


def dense(_, layer, parameters, inputs):
    W, b = (*parameters, None)[:2]
    return ACTIVATIONS[layer.activation](F.linear(inputs[0], W.T, b), -1)


def add(_, layer, parameters, inputs):
    return sum(f * x for f, x in zip(layer.factors or (1,) * len(inputs), inputs, strict=True)) + layer.constant


TABLE = {
    "dense": dense,
    "add": add,
    "multiply": lambda _, layer, parameters, inputs: torch.mul(*inputs),
    "concat": lambda _, layer, parameters, inputs: torch.cat(inputs, layer.axis + (layer.axis >= 0)),
    "slice": lambda _, layer, parameters, inputs: sliced(inputs[0], layer),
    "permute": lambda _, layer, parameters, inputs: inputs[0].permute(0, *(axis + 1 for axis in layer.axes)),
    "reshape": lambda _, layer, parameters, inputs: inputs[0],
    "activate": lambda _, layer, parameters, inputs: ACTIVATIONS[layer.activation](
        inputs[0], layer.axis + (layer.axis >= 0)
    ),
    "scale": lambda _, layer, parameters, inputs: inputs[0] * parameters[0],
    "bias": lambda _, layer, parameters, inputs: inputs[0] + parameters[0],
    "layer_norm": lambda _, layer, parameters, inputs: F.layer_norm(
        inputs[0], inputs[0].shape[-1:], *parameters, eps=layer.eps
    ),
    "matmul": lambda _, layer, parameters, inputs: (
        (inputs[0].mT if layer.transpose_a else inputs[0]) @ (inputs[1].mT if layer.transpose_b else inputs[1])
    ),
}


def loss_of(loss, a, y):
    """E of each row and position."""
    if isinstance(loss, bp.losses.Huber):
        return F.huber_loss(a, y, reduction="none", delta=loss.delta).sum(-1)
    if loss == "cross_entropy" and y.ndim < a.ndim:
        return F.nll_loss(torch.log(a).reshape(-1, a.shape[-1]), y.reshape(-1), reduction="none").reshape(y.shape)
    return {
        "squared_error": lambda: (a - y).square().sum(-1) / 2,
        "mse": lambda: (a - y).square().mean(-1),
        "cross_entropy": lambda: -(y * torch.log(a)).sum(-1),
        "binary_cross_entropy": lambda: F.binary_cross_entropy(a, y, reduction="none").sum(-1),
    }[loss]()


def close(got, want):
    got, want = np.asarray(got), want.detach().numpy()
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= TOLERANCE * max(np.linalg.norm(want), 1e-3)


@settings(max_examples=300, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])  # fmt: skip
@given(case=cases(rows=(1, 40)))
def test_values_and_gradients(case):
    net = case.net
    params = {name: torch.tensor(view, requires_grad=True) for name, view in net.params.items()}
    found = values(net, params, [torch.tensor(x) for x in case.X], None, TABLE)
    E = 0
    for i, answer, y, loss, weight in zip(
        net._graph.outputs, case.predicted(case.X), case.y, case.loss, case.weight, strict=True
    ):
        close(answer, found[i])
        e = loss_of(loss, found[i], torch.tensor(y))
        E = E + weight * e.reshape(len(e), -1).mean(-1)
    w = torch.ones_like(E) if case.w is None else torch.tensor(case.w)
    cost = (w * E).sum() / w.sum()
    value, grad = net.value_and_grad(*case.args, **case.options)
    close(value, cost)
    if params:
        want = torch.autograd.grad(cost, list(params.values()), allow_unused=True, materialize_grads=True)
        close(grad, torch.cat([g.reshape(-1) for g in want]))
