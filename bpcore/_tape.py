"""What a forward pass leaves behind, and the gradients that a backward pass makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Tape:
    """A forward pass over n rows, by layer l = 1..L (index 0: `a[0]` is X, the others None).

    z[l], a[l]: (n, n_l).  df[l]: f'(z[l]), (n, n_l), or None where f is not elementwise (softmax).
    theta: a copy of the parameters that made it; activations: of the layers, for the check that it is not another
    network's.  All arrays are the tape's own, in the network's dtype, read-only.
    """

    z: tuple[Any, ...]
    a: tuple[Any, ...]
    df: tuple[Any, ...]
    theta: np.ndarray
    activations: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"Tape({len(self.a[0])} rows, {len(self.a) - 1} layers)"


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of the cost C = sum w E / sum w at a tape.

    loss: C.  W[l]: (n_l, n_{l-1}) and b[l]: (n_l,) (None without bias), views of theta: (n_params,), in the order of
    `net.theta`.  x: dC/dX, (n, n_0).  delta[l]: dE/dz[l] per example, (n, n_l), unweighted and divided by nothing.
    A layer used twice has one gradient, summed over its uses.
    """

    loss: float
    delta: tuple[Any, ...]
    W: tuple[Any, ...]
    b: tuple[Any, ...]
    x: np.ndarray
    theta: np.ndarray

    def __repr__(self) -> str:
        return f"Gradients(loss={self.loss:.6g}, {self.theta.size} parameters)"
