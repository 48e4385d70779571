"""Gradients against central differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _threads

if TYPE_CHECKING:
    from bpcore._network import Network


def check_gradients(
    net: Network, X: Any, y: Any, *, loss: Any = "auto", sample_weight: Any = None, n_threads: int | None = None
) -> dict[str, float]:
    """The largest error of backpropagation against central differences, by parameter: {"dense_1.W": 3e-10, ...}.

    (C(theta + h) - C(theta - h)) / 2h for every single parameter, in float64 whatever the network's dtype; the error
    is the largest difference over the largest entry of the parameter's gradient.  About 1e-9 is right; 1e-4 is a
    wrong derivative, or a kink nearby (relu at 0), or truncated backpropagation through time.  Frozen layers are left
    out.  Costs two passes over X a parameter: use few rows.
    """
    from bpcore._data import Data
    from bpcore._network import Network

    if not isinstance(net, Network):
        raise TypeError(f"net: expected a bp.Network, got {net!r} of type {type(net).__name__}")
    twin = net._like("float64")
    theta = twin.theta
    threads = _threads.resolve(n_threads)
    grad = twin.value_and_grad(X, y, loss=loss, sample_weight=sample_weight, n_threads=threads)[1]
    data = Data(twin, X, y, loss, sample_weight)
    numeric = np.empty_like(theta)
    for i, value in enumerate(theta.tolist()):
        h = 6e-6 * max(1.0, abs(value))  # the cube root of the rounding error
        cost = []
        for shifted in (value + h, value - h):
            theta[i] = shifted
            cost.append((shifted, data.evaluate(twin, threads)["loss"]))
        theta[i] = value
        (high, above), (low, below) = cost
        numeric[i] = (above - below) / (high - low)
    errors = {}
    frozen = {name for node in net._nodes if node.base in net.frozen for name in node.parameters}
    for name, p in twin._parameters.items():
        if name in frozen:
            continue
        part = slice(p.offset, p.offset + p.rows * p.cols)
        size = max(np.abs(grad[part]).max(), np.abs(numeric[part]).max(), 1e-6)
        errors[name] = float(np.abs(grad[part] - numeric[part]).max() / size)
    return errors
