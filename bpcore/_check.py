"""Gradients against central differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpcore import _threads
from bpcore._data import Data
from bpcore._network import Network


def check_gradients(
    net: Network, X: Any, y: Any = None, *, loss: Any = "auto", sample_weight: Any = None, n_threads: int | None = None
) -> dict[str, float]:
    """The largest error of backpropagation against central differences, by parameter: {"dense_1.W": 3e-10, ...}.

    (C(theta + h) - C(theta - h)) / 2h for every single parameter, in float64 whatever the network's dtype; the error
    is the largest difference over the largest entry of the parameter's gradient.  About 1e-9 is right; 1e-4 is a
    wrong derivative, or a kink nearby (relu at 0), or truncated backpropagation through time.  Frozen layers are left
    out.  Costs two passes over X a parameter: use few rows.
    """
    if not isinstance(net, Network):
        raise TypeError(f"net: expected a bp.Network, got {net!r} of type {type(net).__name__}")
    with net._model.reading() as read:
        model = read.like("float64")
    theta, threads = model.theta, _threads.resolve(n_threads)
    data = Data(model, X, y, loss, sample_weight)
    grad = data.value_and_grad(model, threads)[1]
    numeric = np.empty_like(theta)
    for i, value in enumerate(theta.tolist()):
        h = 6e-6 * max(1.0, abs(value))  # the cube root of the rounding error
        costs = []
        for shifted in (value + h, value - h):
            theta[i] = shifted
            costs.append((shifted, data.evaluate(model, threads)["loss"]))
        theta[i] = value
        (high, above), (low, below) = costs
        numeric[i] = (above - below) / (high - low)
    errors, frozen = {}, model.frozen_parameters
    for name, p in model.graph.parameters.items():
        if name in frozen:
            continue
        own, wanted = p.of(grad), p.of(numeric)
        size = max(np.abs(own).max(), np.abs(wanted).max(), 1e-6)
        errors[name] = float(np.abs(own - wanted).max() / size)
    return errors
