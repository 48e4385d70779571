"""Second derivatives and Jacobians against JAX in float64, each to 1e-10 of its largest entry.

H v is jax.jvp of jax.grad; G v is J^T H_L J v, with J and H_L of what the loss reads.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from layer_examples import examples, is_truncated
from random_graphs import REAL, TWICE, VALUES, average, by_name, cases, loss_of, values

import bpcore as bp
from bpcore._layers import KINDS

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
JAX = SimpleNamespace(xp=jnp, erf=jax.scipy.special.erf, detach=jax.lax.stop_gradient)
TOLERANCE = 1e-10

ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jnp.where(z > 0, z, 0.01 * z),
    "elu": jax.nn.elu,
    "selu": lambda z: 1.0507009873554805 * jnp.where(z > 0, z, 1.6732632423543772 * jnp.expm1(jnp.minimum(z, 0))),
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "hard_sigmoid": lambda z: jnp.clip(z / 6 + 0.5, 0, 1),
    "hard_tanh": lambda z: jnp.clip(z, -1, 1),
    "exp": jnp.exp,
    "softmax": jax.nn.softmax,
}


def close(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= TOLERANCE * max(np.abs(want).max(initial=0), 1e-3)


# ---- activations and losses ----

LOSSES = [("squared_error", None), ("mse", None), ("huber", None), ("binary_cross_entropy", "logistic"),
          ("cross_entropy", "softmax"), ("labels", "softmax")]  # fmt: skip


def test_every_activation_is_here():
    assert set(ACTIVATIONS) == set(bp.activations.NAMES)


@pytest.mark.parametrize("loss, last", LOSSES)
@pytest.mark.parametrize("f", ACTIVATIONS)
def test_activations_and_losses(f, loss, last):
    """A network of two layers of f, the second where the loss has no activation of its own."""
    rng = np.random.default_rng(list(ACTIVATIONS).index(f))
    last = last or f
    net = bp.Network([bp.Input(4), bp.Dense(5, f), bp.Dense(3, last)], dtype="float64")
    net.theta = 0.7 * rng.standard_normal(net.n_params)
    X, w, v = rng.standard_normal((6, 4)), rng.uniform(0.1, 2, 6), rng.standard_normal(net.n_params)
    y = {"binary_cross_entropy": rng.random((6, 3)), "cross_entropy": rng.dirichlet(np.ones(3), 6),
         "labels": np.eye(3)[[0, 1, 2, 0, 0, 2]]}.get(loss, rng.standard_normal((6, 3)))  # fmt: skip

    def outputs(theta):
        p = by_name(net, theta)
        z = ACTIVATIONS[f](X @ p["dense_1.W"] + p["dense_1.b"]) @ p["dense_2.W"] + p["dense_2.b"]
        return z if loss in ("binary_cross_entropy", "cross_entropy", "labels") else ACTIVATIONS[last](z)

    def cost(a):
        if loss == "binary_cross_entropy":
            E = jnp.sum(jax.nn.softplus(a) - y * a, 1)
        elif loss in ("cross_entropy", "labels"):
            E = -jnp.sum(y * jax.nn.log_softmax(a), 1)
        else:
            E = loss_of(JAX, bp.losses.Huber(0.7) if loss == "huber" else loss, a, y)
        return jnp.sum(w * E) / w.sum()

    options = {"loss": {"huber": bp.losses.Huber(0.7), "labels": "cross_entropy"}.get(loss, loss), "sample_weight": w}
    targets = y.argmax(1) if loss == "labels" else y
    theta = jnp.array(net.theta)
    grad, Hv = jax.jvp(jax.grad(lambda theta: cost(outputs(theta))), (theta,), (v,))
    close(net.value_and_grad(X, targets, **options)[1], grad)
    close(net.hvp(X, targets, v, **options), Hv)
    close(net.gauss_newton_product(X, targets, v, **options), gauss_newton(outputs, cost, theta, v))


def gauss_newton(outputs, cost, theta, v):
    """J^T H_L J v"""
    a, Jv = jax.jvp(outputs, (theta,), (v,))
    HJv = jax.jvp(jax.grad(cost), (a,), (Jv,))[1]
    return jax.vjp(outputs, theta)[1](HJv)[0]


# ---- layers ----


def convolution(np_, layer, parameters, inputs):
    (x,), (W, *b) = inputs, parameters
    _, sizes, strides, dilations, _ = layer._windows()
    axes, axis = layer._axes(x.shape[1:]), "HW"[2 - len(sizes) :]
    padding = [
        (each.before, (each.size - 1) * stride + (size - 1) * dilation + 1 - n - each.before)
        for each, n, size, stride, dilation in zip(axes, x.shape[1:], sizes, strides, dilations, strict=False)
    ]
    z = jax.lax.conv_general_dilated(
        x, W, strides, padding, rhs_dilation=dilations, feature_group_count=layer.groups,
        dimension_numbers=(f"N{axis}C", f"{axis}IO", f"N{axis}C"),
    )  # fmt: skip
    return ACTIVATIONS[layer.activation](z + (b[0] if b else 0))


def recurrent(np_, layer, parameters, inputs):
    (x, *mask), (W, U, *b) = inputs, parameters
    n, steps, s = layer.units, x.shape[1], jax.nn.sigmoid
    h = c = jnp.zeros((len(x), n))
    every = {}
    for t in range(steps)[:: -1 if layer.reverse else 1]:
        zx, zh = x[:, t] @ W + (b[0] if b else 0), h @ U
        z = [(zx + zh)[:, g * n : (g + 1) * n] for g in range(layer.gates)]
        now, cell = jnp.tanh(z[0]), c
        if layer.op == "gru":
            new = jnp.tanh(zx[:, 2 * n :] + s(z[0]) * (zh[:, 2 * n :] + (b[1] if b else 0)))
            now = (1 - s(z[1])) * new + s(z[1]) * h
        elif layer.op == "lstm":
            cell = s(z[1]) * c + s(z[0]) * jnp.tanh(z[2])
            now = s(z[3]) * jnp.tanh(cell)
        on = mask[0][:, t, None] != 0 if mask else True
        h, c = jnp.where(on, now, h), jnp.where(on, cell, c)
        every[t] = h
    return jnp.stack([every[t] for t in range(steps)], 1) if layer.sequences else h


def pooled(np_, layer, parameters, inputs):
    (x,), found = inputs, []
    if layer.op.startswith("global"):
        x = x.reshape(len(x), -1, x.shape[-1])
    along = layer._along(x.shape[1:])
    for spot in np.ndindex(*(axis.size for *_, axis in along)):
        window = [slice(None)]
        for at, (_, size, stride, axis) in zip(spot, along, strict=True):
            first = at * stride - axis.before
            window.append(slice(max(first, 0), first + size))
        part = x[tuple(window)].reshape(len(x), -1, x.shape[-1])
        found.append(part.mean(1) if layer.kind == "average_pool" else part.max(1))
    return jnp.stack(found, 1)


TABLE = {
    **VALUES,
    **dict.fromkeys(["conv2d", "conv1d", "time_delay"], convolution),
    **dict.fromkeys(["simple_rnn", "lstm", "gru"], recurrent),
    **dict.fromkeys([f"{kind}_pool{axes}d" for kind in ("max", "average") for axes in (1, 2)], pooled),
    **dict.fromkeys(["global_max_pool", "global_average_pool"], lambda np_, layer, parameters, inputs: (
        pooled if len(inputs) == 1 else VALUES[layer.op])(np_, layer, parameters, inputs)),
    "embedding": lambda np_, layer, parameters, inputs: parameters[0][inputs[0]],
    "dropout": lambda np_, layer, parameters, inputs: inputs[0],
    "function": lambda np_, layer, parameters, inputs: layer.forward(*inputs),
}  # fmt: skip


@pytest.mark.parametrize("op", KINDS)
def test_products_of_layers(op):
    """Behind other layers; truncated ones are no derivatives of a cost."""
    found = examples(op)
    for each in found[len(found) // 2 :]:
        if is_truncated(each.net):
            continue
        net, v = each.net, np.random.default_rng(6).standard_normal(each.net.n_params)

        def outputs(theta, net=net, X=each.X):
            return values(net, by_name(net, theta), X, JAX, TABLE)[net._model.graph.outputs[0]]

        def cost(a, y=each.y):
            return loss_of(JAX, "squared_error", a, y).mean()

        @jax.jit
        def products(theta, v, outputs=outputs, cost=cost):
            Hv = jax.jvp(jax.grad(lambda theta: cost(outputs(theta))), (theta,), (v,))[1]
            return Hv, gauss_newton(outputs, cost, theta, v)

        Hv, Gv = products(jnp.array(net.theta), v)
        close(net.hvp(*each.args, v, loss="squared_error"), Hv)
        close(net.gauss_newton_product(*each.args, v, loss="squared_error"), Gv)


# ---- graphs ----


def many(n, **drawn):
    def decorate(test):
        checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
        set_ = settings(max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=checks)
        return set_(given(case=cases(**drawn))(test))

    return decorate


@many(12, most=4, rows=(1, 4), operations=TWICE, truncate=False)
def test_products_of_graphs(case):
    net = case.net
    if not net.n_params:
        return
    theta, v = jnp.array(net.theta), np.random.default_rng(4).standard_normal(net.n_params)

    def cost(theta):
        return case.cost(by_name(net, theta), np_=JAX)

    Hv = jax.jvp(jax.grad(cost), (theta,), (v,))[1]
    close(net.hvp(*case.args, v, **case.options), Hv)

    def outputs(theta):
        """What the losses read: of softmax log a, which is z but for a number a row that H_L does not see."""
        found = values(net, by_name(net, theta), case.X, JAX)
        read = {"binary_cross_entropy": lambda a: jnp.log(a) - jnp.log(1 - a), "cross_entropy": jnp.log}
        return [
            read.get(loss if isinstance(loss, str) else "", lambda a: a)(found[i])
            for i, loss in zip(net._model.graph.outputs, case.loss, strict=True)
        ]

    def cost_of(zs):
        E = []
        for z, y, loss, weight in zip(zs, case.y, case.loss, case.weight, strict=True):
            f = {"binary_cross_entropy": jax.nn.sigmoid, "cross_entropy": jax.nn.softmax}.get(
                loss if isinstance(loss, str) else "", lambda a: a
            )
            y = np.eye(z.shape[-1])[y] if y.ndim < z.ndim else y
            e = loss_of(JAX, loss, f(z), y)
            E.append(weight * e.reshape(len(e), -1))
        return average(E, case.w)

    close(net.gauss_newton_product(*case.args, v, **case.options), gauss_newton(outputs, cost_of, theta, v))


@many(12, most=4, rows=(1, 4), operations=REAL)
def test_jacobians_of_graphs(case):
    net = case.net

    def answers(xs):
        found = values(net, net.params, [x[None] for x in xs], JAX)
        return [found[i].ravel() for i in net._model.graph.outputs]

    got = net.jacobian(case.args[0])
    got = [got] if len(net.outputs) == 1 else got
    got = [[one] if len(net.inputs) == 1 else one for one in got]
    for r in range(len(case.X[0])):
        want = jax.jacobian(answers)([jnp.array(X[r]) for X in case.X])
        for row, J in zip(got, want, strict=True):
            for one, dx in zip(row, J, strict=True):
                close(one[r], dx.reshape(one[r].shape))
