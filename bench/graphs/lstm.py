"""An LSTM of 64 units over 50 steps of 16 features, and a regression from its last state: 20,801 weights."""

from __future__ import annotations

from typing import Any

import numpy as np

TITLE = "LSTM 64, 50 steps, batch 32"
WITHOUT = ("torch:compile",)  # its compiler does not differentiate torch.lstm
BATCH = 32
LR = 0.01
ROWS = 16 * BATCH
STEPS, FEATURES, UNITS = 50, 16, 64


def drawn(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """A weighted sum over one feature of a sequence; PyTorch's initial weights."""
    limit = UNITS**-0.5
    params = {name: rng.uniform(-limit, limit, shape).astype(np.float32) for name, shape in shapes.items()}
    X = rng.standard_normal((ROWS, STEPS, FEATURES)).astype(np.float32)
    y = (X[:, :, 0] @ np.linspace(0, 0.2, STEPS))[:, None].astype(np.float32)
    return {"params": params, "X": X, "y": y}


def data(rng: np.random.Generator) -> dict[str, Any]:
    shapes = {"lstm_1.W": (FEATURES, 4 * UNITS), "lstm_1.U": (UNITS, 4 * UNITS), "lstm_1.b": (4 * UNITS,)}
    return drawn(rng, {**shapes, "dense_1.W": (UNITS, 1), "dense_1.b": (1,)})


def bpcore(bp: Any) -> Any:
    return bp.Network([bp.Input((STEPS, FEATURES)), bp.LSTM(UNITS), bp.Dense(1)])


def torch_params(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices as (out, in)."""
    return {name: np.ascontiguousarray(p.T) for name, p in params.items()}


def torch_loss(p: Any, x: Any, y: Any) -> Any:
    import torch

    begin = torch.zeros(1, len(x), UNITS)
    weights = [p["lstm_1.W"], p["lstm_1.U"], p["lstm_1.b"], torch.zeros(4 * UNITS)]
    h = torch.lstm(x, (begin, begin), weights, True, 1, 0.0, True, False, True)[1]  # what nn.LSTM calls
    out = torch.nn.functional.linear(h[0], p["dense_1.W"], p["dense_1.b"])
    return ((out - y) ** 2).sum() / (2 * len(x))


def jax_loss(p: Any, x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def step(state: Any, z: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(z + h @ p["lstm_1.U"], 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    begin = jnp.zeros((x.shape[0], UNITS), x.dtype)
    z = x.swapaxes(0, 1) @ p["lstm_1.W"] + p["lstm_1.b"]  # of all steps at once
    h = jax.lax.scan(step, (begin, begin), z)[0][0]
    out = h @ p["dense_1.W"] + p["dense_1.b"]
    return ((out - y) ** 2).sum() / (2 * x.shape[0])
