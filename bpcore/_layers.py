"""Layers: what a network is made of.  A layer only describes; its weights live in the network's theta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from bpcore import _activations, _core, _validate
from bpcore._activations import Activation

# Philox purposes: the first word of the counter
INIT, SHUFFLE = 0, 1


def _uniform(limit: Callable[[int, int], float]) -> Callable[..., np.ndarray]:
    def draw(n_in: int, n_out: int, seed: int, layer: int) -> np.ndarray:
        return (2 * _core.uniform(n_in * n_out, seed, INIT, layer) - 1) * limit(n_in, n_out)

    return draw


def _normal(deviation: Callable[[int, int], float]) -> Callable[..., np.ndarray]:
    def draw(n_in: int, n_out: int, seed: int, layer: int) -> np.ndarray:
        # Box and Muller (1958)
        u = _core.uniform(2 * n_in * n_out, seed, INIT, layer).reshape(-1, 2)
        return np.sqrt(-2 * np.log(1 - u[:, 0])) * np.cos(2 * np.pi * u[:, 1]) * deviation(n_in, n_out)

    return draw


_INIT: dict[str, Callable[..., np.ndarray]] = {
    "glorot_uniform": _uniform(lambda n_in, n_out: (6 / (n_in + n_out)) ** 0.5),
    "glorot_normal": _normal(lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5),
    "he_uniform": _uniform(lambda n_in, n_out: (6 / n_in) ** 0.5),
    "he_normal": _normal(lambda n_in, n_out: (2 / n_in) ** 0.5),
    "lecun_uniform": _uniform(lambda n_in, n_out: (3 / n_in) ** 0.5),
    "lecun_normal": _normal(lambda n_in, n_out: (1 / n_in) ** 0.5),
    "zeros": lambda n_in, n_out, seed, layer: np.zeros(n_in * n_out),
    "ones": lambda n_in, n_out, seed, layer: np.ones(n_in * n_out),
}
_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")


@dataclass(frozen=True, eq=False)
class Input:
    """The input: `units` numbers an example."""

    units: int
    op: ClassVar[str] = "input"

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", _validate.integer("units", self.units, 1, _validate.MAX_UNITS))

    def __repr__(self) -> str:
        return f"Input({self.units})"


@dataclass(frozen=True, eq=False)
class Dense:
    """A fully connected layer: z = a W^T + b, a = f(z) (Nielsen 2015, ch. 2).

    activation: a name (see `bp.activations.NAMES`) or `bp.Activation(f, df)`.
    init: how W is drawn: a name, or an array shaped as W[l], (units, n_in).  "auto" is he_uniform for rectifiers (relu
    and its kin), lecun_normal for selu, else glorot_uniform (Glorot and Bengio 2010; He et al. 2015).
    bias_init: "zeros", "ones" or an array (units,).
    Layers compare by identity: one Dense used twice is one set of weights.
    """

    units: int
    activation: str | Activation = "identity"
    bias: bool = field(default=True, kw_only=True)
    init: Any = field(default="auto", kw_only=True)
    bias_init: Any = field(default="zeros", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", _validate.integer("units", self.units, 1, _validate.MAX_UNITS))
        object.__setattr__(self, "activation", _activations.resolve(self.activation))
        object.__setattr__(self, "bias", _validate.flag("bias", self.bias))
        for name, valid in (("init", ("auto", *_INIT)), ("bias_init", ("zeros", "ones"))):
            value = getattr(self, name)
            if isinstance(value, str):
                _validate.choice(name, value, valid)
            else:
                # a copy: the layer does not change when the array does
                object.__setattr__(self, name, _validate.array(name, value).copy())
        if self.name is not None and (not isinstance(self.name, str) or not self.name or set(self.name) & set("./@")):
            raise ValueError(f"name: expected a non-empty string without '.', '/' and '@', got {self.name!r}")

    def __repr__(self) -> str:
        return f"Dense({self.units}, {_activations.label(self.activation)!r}{'' if self.bias else ', bias=False'})"

    def draw_weights(self, n_in: int, dtype: np.dtype[Any], seed: int, layer: int) -> np.ndarray:
        """The first W, as it lies in theta: [n_in, units]."""
        if not isinstance(self.init, str):
            return _validate.parameters("init", self.init, (self.units, n_in), dtype).T
        name = self.init
        if name == "auto":
            kind = self.activation if isinstance(self.activation, str) else ""
            name = "lecun_normal" if kind == "selu" else "he_uniform" if kind in _RECTIFIERS else "glorot_uniform"
        return _INIT[name](n_in, self.units, seed, layer).reshape(n_in, self.units)

    def draw_bias(self, dtype: np.dtype[Any]) -> np.ndarray:
        """The first b: (units,)."""
        if not isinstance(self.bias_init, str):
            return _validate.parameters("bias_init", self.bias_init, (self.units,), dtype)
        return np.full(self.units, float(self.bias_init == "ones"))
