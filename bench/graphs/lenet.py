"""LeNet-5 on 28x28 images (LeCun et al. 1998, with max pooling and softmax): 61,706 weights."""

from __future__ import annotations

from typing import Any

import numpy as np

TITLE = "LeNet-5, batch 64"
BATCH = 64
LR = 0.05
ROWS = 16 * BATCH
SHAPES = {
    "conv2d_1": (5, 5, 1, 6),
    "conv2d_2": (5, 5, 6, 16),
    "dense_1": (400, 120),
    "dense_2": (120, 84),
    "dense_3": (84, 10),
}


def data(rng: np.random.Generator) -> dict[str, Any]:
    """Ten blurred patterns in noise; Glorot's weights."""
    params = {}
    for name, shape in SHAPES.items():
        window = int(np.prod(shape[:-2]))
        limit = (6 / (window * (shape[-2] + shape[-1]))) ** 0.5
        params[f"{name}.W"] = rng.uniform(-limit, limit, shape).astype(np.float32)
        params[f"{name}.b"] = np.zeros(shape[-1], np.float32)
    patterns = np.kron(rng.standard_normal((10, 7, 7)), np.ones((4, 4)))
    y = rng.integers(0, 10, ROWS)
    X = patterns[y] + rng.standard_normal((ROWS, 28, 28))
    return {"params": params, "X": X[..., None].astype(np.float32), "y": y}


def bpcore(bp: Any) -> Any:
    return bp.Network(
        [
            bp.Input((28, 28, 1)),
            bp.Conv2D(6, 5, "tanh", padding="same"),
            bp.MaxPool2D(2),
            bp.Conv2D(16, 5, "tanh"),
            bp.MaxPool2D(2),
            bp.Reshape(-1),
            bp.Dense(120, "tanh"),
            bp.Dense(84, "tanh"),
            bp.Dense(10, "softmax"),
        ]
    )


def torch_params(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels as (filters, channels, height, width), matrices as (out, in) with channels first among the inputs."""
    found = {}
    for name, p in params.items():
        if p.ndim == 4:
            p = p.transpose(3, 2, 0, 1)
        elif name == "dense_1.W":
            p = p.reshape(5, 5, 16, 120).transpose(3, 2, 0, 1).reshape(120, 400)
        elif p.ndim == 2:
            p = p.T
        found[name] = np.ascontiguousarray(p)
    return found


def torch_loss(p: Any, x: Any, y: Any) -> Any:
    import torch
    from torch.nn import functional as F

    x = x.reshape(-1, 1, 28, 28)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, p["conv2d_1.W"], p["conv2d_1.b"], padding=2)), 2)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, p["conv2d_2.W"], p["conv2d_2.b"])), 2).flatten(1)
    x = torch.tanh(F.linear(x, p["dense_1.W"], p["dense_1.b"]))
    x = torch.tanh(F.linear(x, p["dense_2.W"], p["dense_2.b"]))
    return F.cross_entropy(F.linear(x, p["dense_3.W"], p["dense_3.b"]), y)


def jax_loss(p: Any, x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp
    from jax import lax

    def conv(x: Any, name: str, padding: str) -> Any:
        z = lax.conv_general_dilated(x, p[f"{name}.W"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        a = jnp.tanh(z + p[f"{name}.b"])
        return lax.reduce_window(a, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    x = conv(conv(x, "conv2d_1", "SAME"), "conv2d_2", "VALID").reshape(x.shape[0], -1)
    x = jnp.tanh(x @ p["dense_1.W"] + p["dense_1.b"])
    x = jnp.tanh(x @ p["dense_2.W"] + p["dense_2.b"])
    z = x @ p["dense_3.W"] + p["dense_3.b"]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()
