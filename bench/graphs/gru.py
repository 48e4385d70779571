"""A GRU of 64 units over 50 steps of 16 features, and a regression from its last state: 15,681 weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphs.lstm import BATCH, FEATURES, LR, STEPS, UNITS, drawn, torch_params  # noqa: F401

TITLE = "GRU 64, 50 steps, batch 32"


def data(rng: np.random.Generator) -> dict[str, Any]:
    shapes = {"gru_1.W": (FEATURES, 3 * UNITS), "gru_1.U": (UNITS, 3 * UNITS), "gru_1.b": (3 * UNITS,)}
    return drawn(rng, {**shapes, "gru_1.b_n": (UNITS,), "dense_1.W": (UNITS, 1), "dense_1.b": (1,)})


def bpcore(bp: Any) -> Any:
    return bp.Network([bp.Input((STEPS, FEATURES)), bp.GRU(UNITS), bp.Dense(1)])


def torch_loss(p: Any, x: Any, y: Any) -> Any:
    import torch

    begin = torch.zeros(1, len(x), UNITS)
    recurrent = torch.cat([torch.zeros(2 * UNITS), p["gru_1.b_n"]])
    weights = [p["gru_1.W"], p["gru_1.U"], p["gru_1.b"], recurrent]
    h = torch.gru(x, begin, weights, True, 1, 0.0, True, False, True)[1]  # what nn.GRU calls
    out = torch.nn.functional.linear(h[0], p["dense_1.W"], p["dense_1.b"])
    return ((out - y) ** 2).sum() / (2 * len(x))


def jax_loss(p: Any, x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def step(h: Any, z: Any) -> Any:
        r, u, n = jnp.split(z, 3, axis=1)
        R, V, N = jnp.split(h @ p["gru_1.U"], 3, axis=1)
        u = jax.nn.sigmoid(u + V)
        new = jnp.tanh(n + jax.nn.sigmoid(r + R) * (N + p["gru_1.b_n"]))
        return (1 - u) * new + u * h, None

    begin = jnp.zeros((x.shape[0], UNITS), x.dtype)
    z = x.swapaxes(0, 1) @ p["gru_1.W"] + p["gru_1.b"]  # of all steps at once
    h = jax.lax.scan(step, begin, z)[0]
    out = h @ p["dense_1.W"] + p["dense_1.b"]
    return ((out - y) ** 2).sum() / (2 * x.shape[0])
