"""A residual network: four times h + relu(W h + b), 64 wide, and a softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

TITLE = "residual MLP, four blocks of 64, batch 32"
BATCH = 32
LR = 0.01
ROWS = 64 * BATCH
WIDTH, BLOCKS, CLASSES = 64, 4, 10
NAMES = [f"dense_{i + 1}" for i in range(BLOCKS + 1)]


def data(rng: np.random.Generator) -> dict[str, Any]:
    """The largest of the first numbers is the class."""
    params: dict[str, Any] = {}
    for name, n_out in zip(NAMES, [WIDTH] * BLOCKS + [CLASSES], strict=True):
        params[f"{name}.W"] = (rng.standard_normal((WIDTH, n_out)) * 0.5 / WIDTH**0.5).astype(np.float32)
        params[f"{name}.b"] = np.zeros(n_out, np.float32)
    X = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    return {"params": params, "X": X, "y": X[:, :CLASSES].argmax(1)}


def bpcore(bp: Any) -> Any:
    x = h = bp.Input(WIDTH)
    for _ in range(BLOCKS):
        h = h + bp.Dense(WIDTH, "relu")(h)
    return bp.Network(x, bp.Dense(CLASSES, "softmax")(h))


def torch_params(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices as (out, in)."""
    return {name: np.ascontiguousarray(p.T) for name, p in params.items()}


def torch_loss(p: Any, x: Any, y: Any) -> Any:
    from torch.nn import functional as F

    for name in NAMES[:-1]:
        x = x + F.linear(x, p[f"{name}.W"], p[f"{name}.b"]).relu()
    return F.cross_entropy(F.linear(x, p[f"{NAMES[-1]}.W"], p[f"{NAMES[-1]}.b"]), y)


def jax_loss(p: Any, x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    for name in NAMES[:-1]:
        x = x + jax.nn.relu(x @ p[f"{name}.W"] + p[f"{name}.b"])
    z = x @ p[f"{NAMES[-1]}.W"] + p[f"{NAMES[-1]}.b"]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()
