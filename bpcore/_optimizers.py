"""Optimisers: small frozen objects that say how a gradient moves a weight.  The move itself is a rule in C."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import numpy as np

from bpcore import _core, _errors, _schedules, _validate
from bpcore._arrays import copied
from bpcore._schedules import Schedule
from bpcore._words import Settings, Worded

Number = float | Schedule
_Kind = TypeVar("_Kind", bound=type)
_BY_NAME: dict[str, Any] = {}


class Optimizer(Worded, metaclass=Settings):
    """Any optimiser; `kind` is its name, also in files."""

    kind: ClassVar[str]
    full_batch: ClassVar[bool] = False  # it takes all examples at once
    leads: ClassVar[bool] = False  # it takes gradients ahead of the network's parameters, which are an average

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the arrays it keeps, each shaped as theta."""
        return ()

    def __repr__(self) -> str:
        settings = sorted(fields(self), key=lambda setting: bool(setting.kw_only))  # type: ignore[arg-type]
        shown = ((setting.name, getattr(self, setting.name)) for setting in settings)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown if value is not None)})"

    @property
    def flags(self) -> int:
        """What the plan that trains with it must be compiled with; see csrc/bp.h."""
        return 0

    @property
    def rule(self) -> str:
        """Its name in C."""
        return self.kind

    @property
    def settings(self) -> dict[str, Any]:
        """What its run is given, by name."""
        return vars(self)


def _refuse(optimizer: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(
        f"{name}: an optimiser does not change; dataclasses.replace(optimizer, {name}={value!r}) makes another, which "
        "a callback may assign to state.optimizer"
    )


@dataclass_transform(frozen_default=True)
def _optimizer(cls: _Kind) -> _Kind:
    """A frozen dataclass, known by its kind."""
    entered: Any = dataclass(frozen=True, repr=False)(cls)
    entered.__setattr__ = _refuse
    _BY_NAME[entered.kind] = entered
    return cls


# what a number of a rule may be
_SHARE = {"high": 1.0, "open_high": True}
_RANGES: dict[str, dict[str, Any]] = {
    "lr": {}, "weight_decay": {}, "momentum": _SHARE, "beta1": _SHARE, "beta2": _SHARE, "rho": _SHARE,
    "momentum_decay": {}, "eps": {"open_low": True}, "clip_norm": {"open_low": True}, "clip_value": {"open_low": True},
    "ema": {**_SHARE, "open_low": True}, "eta_minus": {**_SHARE, "open_low": True}, "eta_plus": {"low": 1.0},
    "min_step": {"open_low": True}, "max_step": {"open_low": True}, "r": {}, "weight_lr_power": {},
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Rule(Optimizer):
    """An optimiser that C knows as the rule of its kind (csrc/rules.h); its fields are the rule's numbers.

    clip_norm: the gradient of all parameters is scaled down where its norm is larger, by clip_norm / (norm + 1e-6).
    clip_value: each element of the gradient is brought into -clip_value..clip_value, after clip_norm.  Both come before
    decay and momentum (as PyTorch's clip_grad_norm_ and clip_grad_value_); None: no bound.
    ema: an average of theta is kept, ema * average + (1 - ema) * theta after each step, theta itself after the first
    (as PyTorch's AveragedModel; it is not corrected at the start, so that ema=0.999 has forgotten the first steps after
    some thousand).  Validation uses it, and with it EarlyStopping; training does not, and `net.averaged()` is a network
    of it.  It takes the memory and time of one more array; of an Embedding each step averages all rows.  None: no
    average, at no cost.
    All other numbers may be schedules, `lr=bp.schedules.Cosine(1e-3, warmup=100)`: see bp.schedules.
    """

    clip_norm: float | None = field(default=None, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)
    ema: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name, default in _defaults(type(self)):
            value = getattr(self, name)
            if isinstance(default, bool):
                value = _validate.flag(name, value)
            elif isinstance(value, Schedule) and name in _RANGES:
                if default is None:
                    raise TypeError(f"{name}: expected a number or None, it cannot be a schedule; got {value!r}")
                for level in value.levels:
                    _check_level(name, level, value)
            elif name in _RANGES and (value is not None or default is not None):
                value = _validate.real(name, value, **_RANGES[name])
            object.__setattr__(self, name, value)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the arrays it keeps: the rule's, then the average."""
        own = (name for name, needs in _core.RULES[self.kind][1] if needs is None or getattr(self, needs))
        return (*own, *(("average",) if self.ema is not None else ()))

    @property
    def flags(self) -> int:
        """What its rule and its bounds need."""
        return _flags(self)


@functools.cache
def _defaults(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """Its settings and their defaults."""
    return tuple((setting.name, setting.default) for setting in fields(kind))


@functools.lru_cache(maxsize=256)
def _flags(optimizer: Optimizer) -> int:
    settings = {**optimizer.settings, **dict.fromkeys(schedules(optimizer), np.ones(1))}
    return _core.optimizer_flags(optimizer.rule, **settings)


def _levels(value: Number | None) -> tuple[float, ...]:
    """Numbers between which it stays."""
    return value.levels if isinstance(value, Schedule) else () if value is None else (value,)


def _check_level(name: str, level: float, schedule: Schedule, when: str = "") -> None:
    try:
        _validate.real(name, level, **_RANGES[name])
    except ValueError as error:
        raise ValueError(f"{error}{when}, of {schedule!r}") from None


@_optimizer
class SGD(Rule):
    """Gradient descent, stochastic or not, with momentum.

    g = grad + weight_decay * theta;  v = momentum * v + g;  theta -= lr * (g + momentum * v if nesterov else v)

    `lr` is eta; decay touches weights, not biases.  clip_norm, clip_value, ema: see `Adam`.  Rumelhart,
    Hinton and Williams (1986), as PyTorch writes it.  lr, momentum and weight_decay may be schedules: see bp.schedules.
    """

    lr: Number = 0.01
    momentum: Number = 0.0
    nesterov: bool = False
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum above 0 with it, got momentum=0.0")


@_optimizer
class Adam(Rule):
    """Adam (Kingma and Ba 2015).

    g = grad + weight_decay * theta;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    theta -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    amsgrad: the largest v so far stands for v in the root (Reddi, Kale and Kumar 2018), as PyTorch writes it.  Decay
    touches weights, not biases.  clip_norm: where the norm of grad, over all parameters, is larger, grad is scaled by
    clip_norm / (norm + 1e-6).  clip_value: each element of grad is brought into -clip_value..clip_value, after
    clip_norm.  None: no bound.
    ema: theta after the first step, then ema * average + (1 - ema) * theta after each; validation, and what watches it,
    is of this average, and `net.averaged()` is a network of it.  None: no average.
    """

    lr: Number = 0.001
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    amsgrad: bool = False
    kind: ClassVar[str] = "adam"


@_optimizer
class AdamW(Rule):
    """Adam with decoupled decay (Loshchilov and Hutter 2019), as PyTorch writes it.

    m = beta1 m + (1 - beta1) grad;  v = beta2 v + (1 - beta2) grad^2;
    theta = (1 - lr * weight_decay) theta - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    amsgrad: as in `Adam`.  Decay touches weights, not biases.  clip_norm, clip_value, ema: see `Adam`.
    """

    lr: Number = 0.001
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.01
    amsgrad: bool = False
    kind: ClassVar[str] = "adamw"


@_optimizer
class Nadam(Rule):
    """Adam with Nesterov's momentum (Dozat 2016), as PyTorch writes it.

    g = grad + weight_decay * theta;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    mu_t = beta1 (1 - 0.96^(t * momentum_decay) / 2);  c_t = 1 - mu_1 mu_2 ... mu_t;
    theta -= lr * ((1 - mu_t) / c_t * g + mu_(t+1) / c_(t+1) * m) / (sqrt(v / (1 - beta2^t)) + eps)

    Decay touches weights, not biases.  clip_norm, clip_value, ema: see `Adam`.
    """

    lr: Number = 0.002
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    momentum_decay: Number = 0.004
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "nadam"


@_optimizer
class Adamax(Rule):
    """Adam by the largest gradient in place of the mean square (Kingma and Ba 2015, section 7.1), as PyTorch writes it.

    g = grad + weight_decay * theta;  m = beta1 m + (1 - beta1) g;  u = max(beta2 u, |g| + eps);
    theta -= lr * (m / (1 - beta1^t)) / u

    Decay touches weights, not biases.  clip_norm, clip_value, ema: see `Adam`.
    """

    lr: Number = 0.002
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "adamax"


@_optimizer
class RMSprop(Rule):
    """RMSprop (Tieleman and Hinton 2012, lecture 6.5), as PyTorch writes it.

    g = grad + weight_decay * theta;  s = rho s + (1 - rho) g^2;  u = g / (sqrt(s) + eps);
    v = momentum * v + u;  theta -= lr * v

    centered: m = rho m + (1 - rho) g, and s - m^2 stands for s in the root (Graves 2013).  Decay touches weights, not
    biases.  clip_norm, clip_value, ema: see `Adam`.
    """

    lr: Number = 0.001
    rho: Number = 0.9
    eps: Number = 1e-8
    momentum: Number = 0.0
    centered: bool = False
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "rmsprop"


@_optimizer
class Adagrad(Rule):
    """Adagrad (Duchi, Hazan and Singer 2011), as PyTorch writes it.

    g = grad + weight_decay * theta;  s = s + g^2;  theta -= lr * g / (sqrt(s) + eps)

    Decay touches weights, not biases.  clip_norm, clip_value, ema: see `Adam`.
    """

    lr: Number = 0.01
    eps: Number = 1e-10
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "adagrad"


@_optimizer
class Adadelta(Rule):
    """Adadelta (Zeiler 2012), as PyTorch writes it.

    g = grad + weight_decay * theta;  s = rho s + (1 - rho) g^2;  u = g * sqrt(r + eps) / sqrt(s + eps);
    r = rho r + (1 - rho) u^2;  theta -= lr * u

    Decay touches weights, not biases.  clip_norm, clip_value, ema: see `Adam`.
    """

    lr: Number = 1.0
    rho: Number = 0.9
    eps: Number = 1e-6
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "adadelta"


@_optimizer
class Lion(Rule):
    """Lion (Chen et al. 2023): each parameter moves by lr, whatever the gradient's size.

    c = beta1 m + (1 - beta1) grad;  m = beta2 m + (1 - beta2) grad;
    theta = (1 - lr * weight_decay) theta - lr * sign(c)

    The paper advises a third to a tenth of Adam's lr, and as many times AdamW's weight_decay.  Decay touches weights,
    not biases.  clip_norm, clip_value, ema: see `Adam`.
    """

    lr: Number = 0.0001
    beta1: Number = 0.9
    beta2: Number = 0.99
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "lion"


@_optimizer
class Rprop(Rule):
    """iRprop+ (Igel and Huesken 2003), or Rprop (Riedmiller and Braun 1993): steps by the gradient's signs, on all
    examples; an epoch is a step.

    g = grad + weight_decay * theta; each parameter has a step s of its own, lr at first, and h, its g of the step
    before.  g h > 0: s = min(eta_plus * s, max_step);  g h < 0: s = max(eta_minus * s, min_step);
    theta -= s * sign(g);  h = g

    But where g h < 0, theta takes back its last step, and h = 0: with improved=True only where the cost, C of the
    batch, has grown since, else it stays.  Needs batch_size=None, and a network without layers that draw (Dropout,
    noise), whose gradients would turn by chance; lr is a number, which the first step alone reads.
    PyTorch's Rprop never takes a step back.  Decay touches weights, not biases, and is no part of the cost.
    clip_norm, clip_value, ema: see `Adam`.
    """

    lr: float = 0.01
    eta_minus: Number = 0.5
    eta_plus: Number = 1.2
    min_step: Number = 1e-6
    max_step: Number = 50.0
    improved: bool = True
    weight_decay: Number = 0.0
    kind: ClassVar[str] = "rprop"
    full_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.lr, Schedule):
            raise TypeError(f"lr: expected a number, since the first step alone reads it, got {self.lr!r}")
        super().__post_init__()
        if self.lr == 0:
            raise ValueError("lr: expected the size of the first steps, above 0, got 0.0")
        if max(_levels(self.min_step)) > min(_levels(self.max_step)):
            raise ValueError(f"max_step: expected at least min_step={self.min_step}, got {self.max_step}")


@_optimizer
class ScheduleFree(Optimizer):
    """SGD or AdamW without a schedule of lr (Defazio et al. 2024, "The Road Less Scheduled").

    x is `net.theta`, an average of z; gradients are taken between them, at y, beta being SGD's momentum or AdamW's
    beta1:
    y = (1 - beta) z + beta x;  z -= lr * (u + weight_decay * y);  x = (1 - c_t) x + c_t z;
    c_t = w_t / (w_1 + ... + w_t), w_t = t^r * lr^weight_lr_power;
    u = grad (SGD), or v = beta2 v + (1 - beta2) grad^2, u = grad / (sqrt(v / (1 - beta2^t)) + eps) (AdamW)

    lr stays where it is, one to ten times that of a schedule's peak, after a warm-up:
    ScheduleFree(AdamW(lr=bp.schedules.Constant(0.003, warmup=500))).  Callbacks, validation, `predict` and files have
    x, at any time; `history.loss` is of y, as it was trained.  z - x is kept, so that what is written to theta moves z
    along.  weight_lr_power: steps count by that power of their lr, with 2 those of the warm-up hardly; r:
    later ones more.  The authors' code takes the largest lr so far in place of lr, which differs where lr falls.
    Decay touches weights, not biases.  clip_norm and clip_value are SGD's or AdamW's, see `Adam`; ema, nesterov and
    amsgrad are refused, as are layers with a max_norm.  Of an Embedding each step averages all rows.
    """

    optimizer: SGD | AdamW = AdamW()  # noqa: RUF009  # frozen
    r: float = 0.0
    weight_lr_power: float = 2.0
    kind: ClassVar[str] = "schedule_free"
    leads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        base, name = self.optimizer, self._beta
        if not isinstance(base, (SGD, AdamW)):
            raise TypeError(
                f"optimizer: expected bp.SGD(...) or bp.AdamW(...), got {base!r} of type {type(base).__name__}"
            )
        beta = getattr(base, name)
        if isinstance(beta, Schedule):
            raise TypeError(f"{name}: expected a number: under ScheduleFree it is the average's share, got {beta!r}")
        if not beta:
            raise ValueError(
                f"{name}: expected the average's share under ScheduleFree, above 0, such as 0.9; got {beta}"
            )
        for unused in ("ema", "nesterov", "amsgrad"):
            if getattr(base, unused, None):
                raise ValueError(
                    f"{unused}: ScheduleFree has none, its parameters are an average; leave it out of {base}"
                )
        for number in ("r", "weight_lr_power"):
            object.__setattr__(self, number, _validate.real(number, getattr(self, number), **_RANGES[number]))

    @property
    def _beta(self) -> str:
        return "momentum" if isinstance(self.optimizer, SGD) else "beta1"

    @property
    def lr(self) -> Number:
        """That of `optimizer`."""
        return self.optimizer.lr

    @property
    def rule(self) -> str:
        """By what it is around."""
        return f"{self.kind}_{self.optimizer.kind}"

    @property
    def settings(self) -> dict[str, Any]:
        """Those of `optimizer`, and its own."""
        base = {name: value for name, value in vars(self.optimizer).items() if name not in ("nesterov", "amsgrad")}
        return {**base, "r": self.r, "weight_lr_power": self.weight_lr_power}

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the arrays it keeps; `lead` is z - x."""
        return tuple(name for name, _ in _core.RULES[self.rule][1])

    @property
    def flags(self) -> int:
        """What its rule and its bounds need."""
        return _flags(self)


@_optimizer
class LevenbergMarquardt(Optimizer):
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
    full_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "damping", _validate.real("damping", self.damping, open_low=True))
        object.__setattr__(self, "factor", _validate.real("factor", self.factor, 1.0, open_low=True))
        object.__setattr__(self, "tries", _validate.integer("tries", self.tries, 1, 1000))


@_optimizer
class LBFGS(Optimizer):
    """BFGS of limited memory (Liu and Nocedal 1989), by SciPy's L-BFGS-B; an epoch is a step on all examples.

    theta += a p, p = -H dC/dtheta;  H is made of the last `history` moves and changes of the gradient, and a is what a
    line search for the strong Wolfe conditions (More and Thuente 1994) finds, with `tries` costs at most.  theta is in
    float64 between the network's own costs and gradients, and only a step that is accepted moves the network.

    `fit` ends before `epochs` where no element of the gradient is beyond `gtol`, where a step made C less by at most
    `ftol` times the larger of both and 1, or where no step makes it less; `history.message` says which, and the last
    epoch has the cost that was reached, and no step.  The next `fit` begins with the gradient alone, as does a step
    after which a callback wrote to theta.  A step into numbers that are not finite begins anew from the point before;
    DivergenceError where the first step from there leads to such, too.  Needs batch_size=None and layers that draw
    nothing (no Dropout).  The loss of an epoch is that before its step.
    """

    history: int = 10
    gtol: float = 1e-7
    ftol: float = 1e-9
    tries: int = 20
    kind: ClassVar[str] = "lbfgs"
    full_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("history", "tries"):
            object.__setattr__(self, name, _validate.integer(name, getattr(self, name), 1, 1000))
        for name in ("gtol", "ftol"):
            object.__setattr__(self, name, _validate.real(name, getattr(self, name)))


class Memory(NamedTuple):
    """What an optimiser keeps of a network between calls; one object, so that it is replaced whole or not at all."""

    optimizer: Optimizer | None = None
    states: tuple[np.ndarray, ...] = ()  # each shaped as theta
    updates: int = 0
    begun: tuple[tuple[str, int], ...] = ()  # (number, updates when its schedule began), where not 0
    weights: float = 0.0  # sum of the updates', where it leads

    @property
    def average(self) -> np.ndarray | None:
        """Of theta, where the optimiser keeps one; what is frozen has none, and its elements mean nothing."""
        return self.states[-1] if getattr(self.optimizer, "ema", None) is not None else None

    def copy(self) -> Memory:
        """The same with arrays of its own."""
        return self._replace(states=tuple(copied(state, 1 + i) for i, state in enumerate(self.states)))


def resolve(value: Any, last: Optimizer | None = None) -> Optimizer:
    """An optimiser object, or the defaults of the one with this name; of None the last one, at first SGD().  The last
    one itself where it is equal."""
    if value is None:
        return SGD() if last is None else last
    if isinstance(value, Optimizer) and hasattr(value, "kind"):
        return last if value == last else value
    if not isinstance(value, str):
        got = f"{value!r} of type {type(value).__name__}"
        if isinstance(value, type) and issubclass(value, Optimizer):
            got = f"the class; give an object of it, bp.{value.__name__}()"
        wanted = f"an optimiser such as bp.Adam(...), or its name, one of {', '.join(_BY_NAME)}"
        raise TypeError(f"optimizer: expected {wanted}, got {got}")
    optimizer: Optimizer = _BY_NAME[_validate.choice("optimizer", value, _BY_NAME)]()
    return optimizer


def check(optimizer: Optimizer, dtype: np.dtype[Any]) -> None:
    """ValueError for a setting that vanishes in the network's dtype."""
    for name in ("eps", "clip_norm", "clip_value", "min_step"):
        value = optimizer.settings.get(name)
        for level in _levels(value):
            if level < np.finfo(dtype).tiny:
                raise ValueError(f"{name}: expected a number that {dtype} can hold, got {value}")


def kept(optimizer: Optimizer) -> tuple[type, tuple[str, ...]]:
    """What must be the same for one optimiser to go on with the arrays of another."""
    return type(optimizer), optimizer.states


def advise(last: Optimizer | None, optimizer: Optimizer) -> None:
    """A UserWarning where arrays that the last one keeps will be dropped, unless a method is asked for that no rule is:
    LBFGS, say, where Adam has come as far as it can."""
    if last is None or last is optimizer or optimizer.rule not in _core.RULES:
        return
    if last.states and kept(last) != kept(optimizer):
        _errors.warn(f"optimizer: {optimizer} begins anew, and {', '.join(last.states)} of {last} are dropped")


def check_successor(old: Any, new: Any, dtype: np.dtype[Any]) -> None:
    """TypeError or ValueError where `new` cannot go on with what `old` keeps."""
    if not isinstance(new, Optimizer) or kept(new) != kept(old):
        raise TypeError(f"state.optimizer: expected {old} with other numbers, momentum as before 0 or not, got {new!r}")
    check(new, dtype)


@functools.lru_cache(maxsize=256)
def schedules(optimizer: Any) -> Mapping[str, Schedule]:
    """Those of its numbers that are schedules, by name."""
    return {name: value for name, value in optimizer.settings.items() if isinstance(value, Schedule)}


def succeeded(memory: Memory, optimizer: Optimizer) -> Memory:
    """How another optimiser of its kind goes on with a memory: schedules that are new begin now."""
    if optimizer is memory.optimizer:
        return memory
    known, begun = schedules(memory.optimizer), dict(memory.begun)
    begun = {
        name: begun.get(name, 0) if known.get(name) == schedule else memory.updates
        for name, schedule in schedules(optimizer).items()
    }
    return memory._replace(optimizer=optimizer, begun=tuple(item for item in begun.items() if item[1]))


class Call(NamedTuple):
    """What lengths of schedules refer to: a call of `fit`."""

    first: int  # updates when it began
    steps: int
    steps_of_epoch: int


def numbers(memory: Memory, first: int, call: Call) -> dict[str, Any]:
    """The optimiser's settings for C: a schedule as float64 (steps_of_epoch,), from update `first` on.

    ValueError for values out of range, and for lengths that do not fit.
    """
    optimizer: Any = memory.optimizer
    settings = dict(optimizer.settings)
    for name, schedule in schedules(optimizer).items():
        begun = call.first if schedule.of_run else dict(memory.begun).get(name, 0)
        steps = np.maximum(np.arange(first - begun, first - begun + call.steps_of_epoch), 0)
        try:
            values = schedule(steps, run=call.steps, epoch=call.steps_of_epoch)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        for k in {int(values.argmin()), int(values.argmax())}:
            _check_level(name, float(values[k]), schedule, f" at step {steps[k]}")
        settings[name] = values
    return settings


def to_json(optimizer: Optimizer) -> dict[str, Any]:
    """Its kind and settings; without bounds that are not there and flags that are off, as they are by default."""
    defaults = {setting.name: setting.default for setting in fields(optimizer)}  # type: ignore[arg-type]
    settings = {name: _plain(getattr(optimizer, name)) for name in defaults}
    off = {name for name, value in settings.items() if (value is None or value is False) and value is defaults[name]}
    return {"kind": optimizer.kind, **{name: value for name, value in settings.items() if name not in off}}


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, Optimizer):
        return to_json(value)
    return _schedules.to_json(value) if isinstance(value, Schedule) else value


def from_json(settings: Any, custom: Mapping[str, Any]) -> Optimizer:
    """The inverse of to_json; ValueError for anything else."""
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if not isinstance(kind, str) or kind not in _BY_NAME:
        raise ValueError(f"optimizer: expected the settings of one of {', '.join(_BY_NAME)}, got {settings!r}")
    rest = {key: value for key, value in settings.items() if key != "kind"}
    try:
        base = rest.get("optimizer")
        if isinstance(base, dict) and base.get("kind") != kind:
            rest["optimizer"] = from_json(base, custom)
        rest |= {k: _schedules.from_json(v, custom) for k, v in rest.items() if isinstance(v, dict) and v is not base}
        optimizer: Optimizer = _BY_NAME[kind](**rest)
        return optimizer
    except TypeError as error:
        raise ValueError(f"optimizer: {error}") from None
