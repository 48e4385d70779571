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
from random_graphs import TWICE, by_name, cases, loss_of, values

import bpcore as bp

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
JAX = SimpleNamespace(xp=jnp, erf=jax.scipy.special.erf)
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


# ---- graphs ----


def many(n, **drawn):
    def decorate(test):
        checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
        set_ = settings(max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=checks)
        return set_(given(case=cases(**drawn))(test))

    return decorate


@many(15, most=6, rows=(1, 4), operations=TWICE)
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
            for i, loss in zip(net._graph.outputs, case.loss, strict=True)
        ]

    def cost_of(zs):
        E = 0
        for z, y, loss, weight in zip(zs, case.y, case.loss, case.weight, strict=True):
            f = {"binary_cross_entropy": jax.nn.sigmoid, "cross_entropy": jax.nn.softmax}.get(
                loss if isinstance(loss, str) else "", lambda a: a
            )
            y = np.eye(z.shape[-1])[y] if y.ndim < z.ndim else y
            e = loss_of(JAX, loss, f(z), y)
            E = E + weight * e.reshape(len(e), -1).mean(-1)
        w = np.ones(len(case.X[0])) if case.w is None else case.w
        return (w * E).sum() / w.sum()

    close(net.gauss_newton_product(*case.args, v, **case.options), gauss_newton(outputs, cost_of, theta, v))


@many(15, most=6, rows=(1, 4))
def test_jacobians_of_graphs(case):
    net = case.net

    def answers(xs):
        found = values(net, net.params, [x[None] for x in xs], JAX)
        return [found[i].ravel() for i in net._graph.outputs]

    got = net.jacobian(case.args[0])
    got = [got] if len(net.outputs) == 1 else got
    got = [[one] if len(net.inputs) == 1 else one for one in got]
    for r in range(len(case.X[0])):
        want = jax.jacobian(answers)([jnp.array(X[r]) for X in case.X])
        for row, J in zip(got, want, strict=True):
            for one, dx in zip(row, J, strict=True):
                close(one[r], dx.reshape(one[r].shape))
