"""A table of a million rows of 16, four of them an example: a step of bpcore touches the rows that its batch names, one
of dense gradients the whole table."""

from __future__ import annotations

from typing import Any

import numpy as np

TITLE = "embedding of 1,000,000 x 16, 4 a row, batch 256"
BATCH = 256
LR = 0.5
ROWS = 16 * BATCH
N, UNITS, POSITIONS, CLASSES = 1_000_000, 16, 4, 10


def data(rng: np.random.Generator) -> dict[str, Any]:
    """The first number of a row says its class."""
    X = rng.integers(0, N, (ROWS, POSITIONS))
    limit = (6 / (POSITIONS * UNITS + CLASSES)) ** 0.5
    params = {
        "embedding_1.E": rng.standard_normal((N, UNITS), np.float32),
        "dense_1.W": rng.uniform(-limit, limit, (POSITIONS * UNITS, CLASSES)).astype(np.float32),
        "dense_1.b": np.zeros(CLASSES, np.float32),
    }
    return {"params": params, "X": X, "y": X[:, 0] % CLASSES}


def bpcore(bp: Any) -> Any:
    words = bp.Input(POSITIONS, integer=True)
    h = bp.Reshape(-1)(bp.Embedding(N, UNITS, init="zeros")(words))
    return bp.Network(words, bp.Dense(CLASSES, "softmax")(h))


def torch_params(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(p.T) if name == "dense_1.W" else p for name, p in params.items()}


def torch_loss(p: Any, x: Any, y: Any) -> Any:
    from torch.nn import functional as F

    h = F.embedding(x, p["embedding_1.E"]).reshape(len(x), -1)
    return F.cross_entropy(F.linear(h, p["dense_1.W"], p["dense_1.b"]), y)


def jax_loss(p: Any, x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    z = p["embedding_1.E"][x].reshape(x.shape[0], -1) @ p["dense_1.W"] + p["dense_1.b"]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()
