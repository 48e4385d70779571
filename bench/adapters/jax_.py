"""JAX: an epoch is one compiled program, a scan over the batches, and takes the place of the weights it was given.

The variant "devices" makes of each thread a device, which trains its share of many networks; the variant "optax" takes
its optimisers.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters import Prediction, Spec, weights

VARIANTS = ("", "devices", "optax")
FEW = 1000  # parameters below which a loop's turn costs as much as a step
jax: Any  # imported by load, after the flags
jnp: Any
_variant = ""


def load(threads: int, variant: str) -> dict[str, str]:
    global jax, jnp, _variant
    _variant = variant
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    elif variant == "devices":
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={threads}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp
    import jaxlib

    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def from_optax(spec: Spec) -> Any:
    """The transformation of a name; eps and first values as PyTorch has them, and decay of weights alone."""
    import optax

    weights_alone = [(True, False)] * (len(spec.sizes) - 1)
    ways = {
        "sgd": optax.sgd,
        "momentum": lambda lr: optax.sgd(lr, momentum=0.9),
        "adam": optax.adam,
        "adamw": lambda lr: optax.adamw(lr, weight_decay=0.01, mask=weights_alone),
        "adamax": optax.adamax,
        "rmsprop": lambda lr: optax.rmsprop(lr, decay=0.9, eps_in_sqrt=False),
        "adagrad": lambda lr: optax.adagrad(lr, initial_accumulator_value=0.0, eps=1e-20),
        "adadelta": optax.adadelta,
        "lion": lambda lr: optax.lion(lr, weight_decay=0.0),
        "schedule_free": lambda lr: optax.contrib.schedule_free_adamw(lr, weight_decay=0.01),
    }
    return ways[spec.optimizer](spec.lr)


def logits(params: Any, x: Any, activation: str) -> Any:
    f = {"relu": jax.nn.relu, "tanh": jnp.tanh}[activation]
    *hidden, (W, b) = params
    for W_hidden, b_hidden in hidden:
        x = f(x @ W_hidden + b_hidden)
    return x @ W + b


class Train:
    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray) -> None:
        jax.config.update("jax_enable_x64", spec.dtype == "float64")
        self.theta, self.spec = theta, spec
        Y = y if y.ndim == 2 else np.eye(spec.sizes[-1], dtype=spec.dtype)[y]
        self.batches = tuple(jnp.asarray(A.reshape(-1, spec.batch, A.shape[1])) for A in (X, Y))
        unroll = 8 if spec.n_params < FEW else 1
        self.optimizer = from_optax(spec) if _variant == "optax" else None
        update = self.optax if self.optimizer else {"sgd": self.sgd, "adam": self.adam}[spec.optimizer]

        def step(state: Any, batch: Any) -> Any:
            loss, grads = jax.value_and_grad(self.loss)(state[0], *batch)
            return update(state, grads), loss

        def epoch(state: Any, batches: Any) -> Any:
            state, losses = jax.lax.scan(step, state, batches, unroll=unroll)
            return state, losses.mean()

        self.epoch = jax.jit(self.mapped(epoch), donate_argnums=0)

    def mapped(self, epoch: Any) -> Any:
        """The function of (state, batches) that is compiled."""
        return epoch

    def loss(self, params: Any, x: Any, y: Any) -> Any:
        z = logits(params, x, self.spec.activation)
        if z.shape[1] == 1:
            return (jnp.logaddexp(0, z) - y * z).mean()
        return -(y * jax.nn.log_softmax(z)).sum(axis=1).mean()

    def optax(self, state: Any, grads: Any) -> Any:
        updates, kept = self.optimizer.update(grads, state[1], state[0])
        return jax.tree.map(jnp.add, state[0], updates), kept

    def sgd(self, state: Any, grads: Any) -> Any:
        return (jax.tree.map(lambda p, g: p - self.spec.lr * g, state[0], grads),)

    def adam(self, state: Any, grads: Any) -> Any:
        params, m, v, t = state
        t = t + 1
        m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), m, grads)
        v = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), v, grads)
        rate, root = self.spec.lr / (1 - 0.9**t), (1 - 0.999**t) ** -0.5
        params = jax.tree.map(lambda p, m, v: p - rate * m / (root * jnp.sqrt(v) + 1e-8), params, m, v)
        return params, m, v, t

    def reset(self) -> None:
        self.state = self.first(self.theta)
        jax.block_until_ready(self.state)

    def first(self, theta: NDArray) -> Any:
        """Start weights and optimiser state."""
        params = jax.tree.map(jnp.array, weights(theta, self.spec.sizes))
        if self.optimizer:
            return params, self.optimizer.init(params)
        if self.spec.optimizer != "adam":
            return (params,)
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in "mv")
        return params, m, v, jnp.zeros((), self.spec.dtype)

    def run(self, epochs: int) -> list[Any]:
        losses = []
        for _ in range(epochs):
            self.state, loss = self.epoch(self.state, self.batches)
            losses.append(loss)
        jax.block_until_ready(self.state)
        return [np.asarray(loss).tolist() for loss in losses]


class Many(Train):
    """The same, mapped over the networks (vmap); those of a device are together."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray) -> None:
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("networks",))
        parts = "networks" if len(theta) % mesh.size == 0 else None  # else each device trains all of them
        self.each, self.all = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(p)) for p in (parts, None))
        super().__init__(spec, theta, X, y)
        self.batches = jax.device_put(self.batches, self.all)

    def mapped(self, epoch: Any) -> Any:
        return jax.vmap(epoch, in_axes=(0, None))

    def first(self, theta: NDArray) -> Any:
        states = [super(Many, self).first(each) for each in theta]
        return jax.device_put(jax.tree.map(lambda *parts: jnp.stack(parts), *states), self.each)


class Predict(Prediction):
    """From an array to an array, both JAX's."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        jax.config.update("jax_enable_x64", spec.dtype == "float64")
        params = jax.tree.map(jnp.asarray, weights(theta, spec.sizes))
        self.x = jnp.asarray(X)

        @jax.jit
        def predict(x: Any) -> Any:
            z = logits(params, x, spec.activation)
            return jax.nn.sigmoid(z) if z.shape[1] == 1 else jax.nn.softmax(z)

        self.answer = lambda x: predict(x).block_until_ready()


class Jacobian(Prediction):
    """A jitted vmap of jacrev."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        jax.config.update("jax_enable_x64", spec.dtype == "float64")
        params = jax.tree.map(jnp.asarray, weights(theta, spec.sizes))
        self.x = jnp.asarray(X)
        jacobian = jax.jit(jax.vmap(jax.jacrev(lambda x: logits(params, x, spec.activation))))
        self.answer = lambda x: jacobian(x).block_until_ready()


class Graph:
    """A case of bench/graphs, with plain SGD: an epoch is a scan over its batches."""

    def __init__(self, case: str, params: dict[str, NDArray], X: Any, y: Any) -> None:
        self.case = importlib.import_module(f"graphs.{case}")
        self.start = getattr(self.case, "jax_params", dict)(params)
        batch = self.case.BATCH
        self.batches = jax.tree.map(lambda part: jnp.asarray(part.reshape(-1, batch, *part.shape[1:])), (X, y))

        def step(params: Any, batch: Any) -> Any:
            loss, grads = jax.value_and_grad(self.case.jax_loss)(params, *batch)
            return jax.tree.map(lambda p, g: p - self.case.LR * g, params, grads), loss

        def epoch(params: Any, batches: Any) -> Any:
            params, losses = jax.lax.scan(step, params, batches)
            return params, losses.mean()

        self.epoch = jax.jit(epoch, donate_argnums=0)

    def reset(self) -> None:
        self.params = jax.block_until_ready(jax.tree.map(jnp.array, self.start))

    def run(self, epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            self.params, loss = self.epoch(self.params, self.batches)
            losses.append(loss)
        jax.block_until_ready(self.params)
        return [float(loss) for loss in losses]
