"""The random graphs of tests/random_graphs.py, values and gradients against PyTorch in float64: norm-wise to 1e-10."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from random_graphs import PAIRS, RECURRENT, VALUES, average, cases, index_of, pair, values
from test_torch_graph_convolution import convolved, pooled

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


def convolution(_, layer, parameters, inputs):
    W, b = (*parameters, None)[:2]
    return ACTIVATIONS[layer.activation](convolved(layer, inputs[0], W, b), -1)


def step(layer, x, states, W, U, b):
    """The next states, by PyTorch's cells: rows of W are units, and it has a second bias."""
    (h, *_), zeros = states, torch.zeros(W.shape[1], dtype=W.dtype)
    first = b[0] if b else zeros
    if layer.op == "lstm":
        return torch.lstm_cell(x, states, W.T, U.T, first, zeros)
    if layer.op == "gru":
        second = torch.cat([zeros[: 2 * layer.units], b[1]]) if b else zeros
        return (torch.gru_cell(x, h, W.T, U.T, first, second),)
    if layer.activation == "tanh":
        return (torch.rnn_tanh_cell(x, h, W.T, U.T, first, zeros),)
    return (ACTIVATIONS[layer.activation](F.linear(x, W.T, first) + F.linear(h, U.T), -1),)


def recurrent(_, layer, parameters, inputs):
    (x, *mask), (W, U, *b) = inputs, parameters
    states = (torch.zeros(len(x), layer.units, dtype=x.dtype),) * (2 if layer.op == "lstm" else 1)
    every = [None] * x.shape[1]
    order = range(x.shape[1])[:: -1 if layer.reverse else 1]
    for k, t in enumerate(order):
        if layer.truncate and k and k % layer.truncate == 0:
            states = tuple(state.detach() for state in states)
        new = step(layer, x[:, t], states, W, U, b)
        if mask:
            new = tuple(torch.where(mask[0][:, t, None] != 0, *both) for both in zip(new, states, strict=True))
        states, every[t] = new, new[0]
    return torch.stack(every, 1) if layer.sequences else states[0]


FAR = -1e300  # what is masked


def activated(_, layer, parameters, inputs):
    (z, *mask), axis = inputs, layer.axis + (layer.axis >= 0)
    if not mask and not layer.causal:
        return ACTIVATIONS[layer.activation](z, axis)
    on = torch.ones(z.shape[-2:]).tril().bool() if layer.causal else torch.tensor(True)
    if mask:
        m = mask[0] != 0
        between = (1,) * (z.ndim - m.ndim)
        on = on & (m.reshape(len(z), *between, *m.shape[1:]) if layer.axis == -1 else m.reshape(*m.shape, *between))
    return F.softmax(z.masked_fill(~on, FAR), axis) * on


def pooled_over_all(_, layer, parameters, inputs):
    (x, *mask), pool = inputs, {"max_pool": F.adaptive_max_pool1d, "average_pool": F.adaptive_avg_pool1d}[layer.kind]
    x = x.flatten(1, -2)
    if not mask:
        return pool(x.mT, 1).squeeze(-1)
    on = (mask[0] != 0).reshape(len(x), -1, 1)
    if layer.kind == "max_pool":
        return torch.where(on.any(1), x.masked_fill(~on, FAR).amax(1), 0.0)
    return (x * on).sum(1) / on.sum(1).clamp(min=1)


def user(_, layer, parameters, inputs):
    """See BEND and RATIO."""
    a, b = (*inputs, inputs[0])[:2]
    return {"bend": lambda: a / (1 + a * a), "ratio": lambda: a / (1 + b * b)}[layer.name]()


def group_norm(_, layer, parameters, inputs):
    """F's refuses a group of one number; PyTorch 2.13 crashes on strides of axes of one, which contiguous() leaves."""
    x = inputs[0].movedim(-1, 1).clone(memory_format=torch.contiguous_format)
    return torch.group_norm(x, layer.groups, *parameters, eps=layer.eps).movedim(1, -1)


def batch_norm(_, layer, parameters, inputs):
    """But in fit, which test_torch_batch_norm.py has."""
    (x, *_), (s, b, mean, variance) = inputs, parameters
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return F.batch_norm(rows, torch.tensor(mean), torch.tensor(variance), s, b, eps=layer.eps).reshape(x.shape)


TABLE = {
    "dense": dense,
    "add": add,
    "multiply": lambda _, layer, parameters, inputs: torch.mul(*inputs),
    "concat": lambda _, layer, parameters, inputs: torch.cat(inputs, layer.axis + (layer.axis >= 0)),
    "slice": lambda _, layer, parameters, inputs: sliced(inputs[0], layer),
    "permute": lambda _, layer, parameters, inputs: inputs[0].permute(0, *(axis + 1 for axis in layer.axes)),
    "reshape": lambda _, layer, parameters, inputs: inputs[0],
    "activate": activated,
    "mask": lambda _, layer, parameters, inputs: (
        (inputs[0] != 0).any(-1) if inputs[0].ndim > 2 else inputs[0] != 0
    ).double(),
    "scale": lambda _, layer, parameters, inputs: inputs[0] * parameters[0],
    "bias": lambda _, layer, parameters, inputs: inputs[0] + parameters[0],
    "layer_norm": lambda _, layer, parameters, inputs: F.layer_norm(
        inputs[0], inputs[0].shape[-1:], *parameters, eps=layer.eps
    ),
    "rms_norm": lambda _, layer, parameters, inputs: F.rms_norm(
        inputs[0], inputs[0].shape[-1:], *parameters, eps=layer.eps
    ),
    "group_norm": group_norm,
    "batch_norm": batch_norm,
    "standardize": lambda _, layer, moments, inputs: (inputs[0] - torch.tensor(moments[0])) / torch.tensor(moments[1]),
    "matmul": lambda _, layer, parameters, inputs: (
        (inputs[0].mT if layer.transpose_a else inputs[0]) @ (inputs[1].mT if layer.transpose_b else inputs[1])
    ),
    "dropout": lambda _, layer, parameters, inputs: F.dropout(inputs[0], layer.rate, training=False),
    "alpha_dropout": lambda _, layer, parameters, inputs: F.alpha_dropout(inputs[0], layer.rate, training=False),
    "gaussian_noise": lambda _, layer, parameters, inputs: inputs[0],
    **dict.fromkeys(("conv2d", "conv1d", "time_delay"), convolution),
    **dict.fromkeys(
        ("max_pool2d", "average_pool2d", "max_pool1d", "average_pool1d"),
        lambda _, layer, parameters, inputs: pooled(layer, inputs[0]),
    ),
    **dict.fromkeys(("global_max_pool", "global_average_pool"), pooled_over_all),
    **dict.fromkeys(RECURRENT, recurrent),
    "embedding": lambda _, layer, parameters, inputs: F.embedding(inputs[0], parameters[0]),
    "function": user,
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


def test_every_layer_is_here():
    assert set(TABLE) == set(VALUES)


def check(case):
    net = case.net
    params = {name: torch.tensor(view, requires_grad=True) for name, view in net.params.items()}
    found = values(net, params, [torch.tensor(x) for x in case.X], None, TABLE)
    E = []
    for i, answer, y, loss, weight in zip(
        net._model.graph.outputs, case.predicted(case.X), case.y, case.loss, case.weight, strict=True
    ):
        close(answer, found[i])
        e = loss_of(loss, found[i], torch.tensor(y))
        E.append(weight * e.reshape(len(e), -1))
    cost = average(E, None if case.w is None else torch.tensor(case.w))
    value, grad = net.value_and_grad(*case.args, **case.options)
    close(value, cost)
    if params:
        want = [torch.zeros_like(p) for p in params.values()]
        if cost.requires_grad:  # an output may be a mask, which has no gradient
            want = torch.autograd.grad(cost, list(params.values()), allow_unused=True, materialize_grads=True)
        close(grad, torch.cat([g.reshape(-1) for g in want]))


def many(n, **drawn):
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    set_ = settings(max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=checks)
    return set_(given(case=cases(**drawn))(check))


test_values_and_gradients = many(300, rows=(1, 40))


@pytest.mark.parametrize("second", sorted({second for _, second in PAIRS}))
def test_every_pair(second):
    for first in (one for one, other in PAIRS if other == second):
        for turn in range(3):
            check(pair(first, second, turn, rows=(1, 3, 37)[turn]))


@pytest.mark.parametrize("layer", RECURRENT)
def test_long_sequences(layer):
    """Of 1 to 200 steps."""
    many(40, operations=(layer, layer, "dense", "add"), most=4, steps=200, rows=(1, 20))()
