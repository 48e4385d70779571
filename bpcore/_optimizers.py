"""Optimisers: small frozen objects that say how a gradient moves a weight.  The update itself is in C."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bpcore import _validate


@dataclass(frozen=True)
class SGD:
    """Gradient descent, stochastic or not, with momentum.

    g = grad + weight_decay * theta;  v = momentum * v + g;  theta -= lr * (g + momentum * v if nesterov else v)

    `lr` is eta; decay touches weights, not biases.  Rumelhart, Hinton and Williams (1986), as PyTorch writes it.
    """

    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    kind: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        _set(self, "lr", _validate.real("lr", self.lr))
        _set(self, "momentum", _validate.real("momentum", self.momentum, high=1.0, open_high=True))
        _set(self, "weight_decay", _validate.real("weight_decay", self.weight_decay))
        _set(self, "nesterov", _validate.flag("nesterov", self.nesterov))
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum above 0 with it, got momentum=0.0")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the arrays it keeps, each shaped as theta."""
        return ("velocity",) if self.momentum else ()


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015).

    g = grad + weight_decay * theta;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    theta -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Decay touches weights, not biases.
    """

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    kind: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        _set(self, "lr", _validate.real("lr", self.lr))
        _set(self, "beta1", _validate.real("beta1", self.beta1, high=1.0, open_high=True))
        _set(self, "beta2", _validate.real("beta2", self.beta2, high=1.0, open_high=True))
        _set(self, "eps", _validate.real("eps", self.eps, open_low=True))
        _set(self, "weight_decay", _validate.real("weight_decay", self.weight_decay))

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the arrays it keeps, each shaped as theta."""
        return ("mean", "variance")


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Levenberg (1944) and Marquardt (1963) for squared errors and small networks; an epoch is a step on all examples.

    theta -= (J^T W J + mu m I)^-1 J^T W r,  r = a - y;  m is the mean of J^T W J's diagonal, mu = damping min(1, C) at
    first (Yamashita and Fukushima 2001), times `factor` until the cost falls, or divided by it while it falls further,
    `tries` times at most; then theta stays.  Each weight's own diagonal (Marquardt) would let saturated units run away.
    W has the weights of examples, and of the losses of several outputs.  Needs batch_size=None, squared_error or mse of
    each output, and at most 10,000 parameters: it solves n_params equations a step, during which Ctrl-C is not heard.
    """

    damping: float = 1e-3
    factor: float = 10.0
    tries: int = 20
    kind: ClassVar[str] = "levenberg_marquardt"
    states: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        _set(self, "damping", _validate.real("damping", self.damping, open_low=True))
        _set(self, "factor", _validate.real("factor", self.factor, 1.0, open_low=True))
        _set(self, "tries", _validate.integer("tries", self.tries, 1, 1000))


def _refuse(optimizer: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(
        f"{name}: an optimiser does not change; dataclasses.replace(optimizer, {name}={value!r}) makes another, which "
        "a callback may assign to state.optimizer"
    )


for _kind in (SGD, Adam, LevenbergMarquardt):
    _kind.__setattr__ = _refuse  # type: ignore[method-assign]

Optimizer = SGD | Adam | LevenbergMarquardt
_BY_NAME: dict[str, Any] = {kind.kind: kind for kind in (SGD, Adam, LevenbergMarquardt)}


class Memory(NamedTuple):
    """What an optimiser keeps of a network between calls; one object, so that it is replaced whole or not at all."""

    optimizer: Optimizer | None = None
    states: tuple[np.ndarray, ...] = ()  # each shaped as theta
    updates: int = 0


def _set(optimizer: Optimizer, name: str, value: Any) -> None:
    object.__setattr__(optimizer, name, value)


def resolve(value: Any) -> Optimizer:
    """An optimiser object, or the defaults of the one with this name."""
    if isinstance(value, Optimizer):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"optimizer: expected bp.SGD(...) or bp.Adam(...), got {value!r} of type {type(value).__name__}"
        )
    found: Optimizer = _BY_NAME[_validate.choice("optimizer", value, _BY_NAME)]()
    return found


def check(optimizer: Optimizer, dtype: np.dtype[Any]) -> None:
    """ValueError for a setting that vanishes in the network's dtype."""
    if isinstance(optimizer, Adam) and optimizer.eps < np.finfo(dtype).tiny:
        raise ValueError(f"eps: expected a number that {dtype} can hold, got {optimizer.eps}")


def check_successor(old: Any, new: Any, dtype: np.dtype[Any]) -> None:
    """TypeError or ValueError where `new` cannot go on with what `old` keeps."""
    if type(new) is not type(old) or new.states != old.states:
        raise TypeError(f"state.optimizer: expected {old} with other numbers, momentum as before 0 or not, got {new!r}")
    check(new, dtype)


def to_json(optimizer: Optimizer) -> dict[str, Any]:
    """Its kind and settings."""
    return {"kind": optimizer.kind, **asdict(optimizer)}


def from_json(settings: Any) -> Optimizer:
    """The inverse of to_json; ValueError for anything else."""
    if not isinstance(settings, dict) or settings.get("kind") not in _BY_NAME:
        raise ValueError(f"optimizer: expected the settings of one of {', '.join(_BY_NAME)}, got {settings!r}")
    rest = {key: value for key, value in settings.items() if key != "kind"}
    try:
        found: Optimizer = _BY_NAME[settings["kind"]](**rest)
        return found
    except TypeError as error:
        raise ValueError(f"optimizer: {error}") from None
