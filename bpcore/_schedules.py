"""Schedules: small frozen objects that say what a number of an optimiser is at each step; see docs/schedules.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar, dataclass_transform

import numpy as np

from bpcore import _validate
from bpcore._words import Worded

__all__ = [
    "Constant", "Cosine", "Epochs", "Exponential", "Function", "InverseTime", "OneCycle", "Piecewise", "Polynomial",
    "Schedule", "Step",
]  # fmt: skip

_Kind = TypeVar("_Kind", bound=type)
_Resolve = Callable[[str, Any], int]  # a length, by its name, in steps
_BY_NAME: dict[str, Any] = {}
_MOST_CYCLES = 1000
_MOST_POINTS = 2000  # of a picture


@dataclass(frozen=True)
class Epochs:
    """A length of a schedule in epochs, not always whole: `Cosine(1e-3, length=Epochs(20), warmup=Epochs(0.5))`."""

    n: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _validate.real("Epochs", self.n, 0.0, 1e12, open_low=True))


Length = float | Epochs


def _length(name: str, value: Any, low: int) -> Any:
    """A length as the user gave it: steps as int, a share of the run as float, Epochs; 0 is 0 steps."""
    if isinstance(value, Epochs):
        return value
    if not isinstance(value, (float, np.floating)):
        try:
            return _validate.integer(name, value, low, 2**53)
        except TypeError:
            words = "a number of steps (int), a share of the run (float, at most 1) or bp.schedules.Epochs(n)"
            raise TypeError(f"{name}: expected {words}, got {value!r} of type {type(value).__name__}") from None
    try:
        return _validate.real(name, value, high=1.0, open_low=low > 0) or 0
    except ValueError:
        cure = f"; a number of steps is an int: {name}={int(value)}" if value > 1 and np.isfinite(value) else ""
        raise ValueError(f"{name}: expected a share of the run, a float up to 1, got {value!r}{cure}") from None


@dataclass(frozen=True, eq=False, repr=False)
class Schedule(Worded):
    """Any schedule; `kind` is its name, also in files.

    Steps are the optimiser's, from 0.  A length is a number of steps (int), a share of the run (float, at most 1: the
    steps of one call of `fit`) or `bp.schedules.Epochs(n)`, and is rounded to whole steps.  warmup: how many steps it
    takes from near 0 to the first value, in a line.
    """

    warmup: Length = field(default=0, kw_only=True)
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            if name in ("warmup", "every", "length"):
                value = _length(name, value, int(name != "warmup"))
            elif name in ("value", "peak", "start", "end"):
                value = _validate.real(name, value)
            elif name in ("factor", "power"):
                value = _validate.real(name, value, open_low=True)
            object.__setattr__(self, name, value)

    def __call__(self, steps: Any, *, run: int | None = None, epoch: int | None = None) -> Any:
        """Its values at `steps`, numbers from 0 in any shape: an array of float64 of that shape, or a float.

        run, epoch: how many steps a run and an epoch have, for lengths that are shares or epochs.  ValueError where
        one of them is needed and is not there, or where the warm-up is not shorter than the length.
        """
        t = _validate.array("steps", steps)
        if t.size and not t.min() >= 0:
            raise ValueError(f"steps: expected numbers from 0, got {t.min()}")
        if run is not None:
            run = _validate.integer("run", run, 1, 2**53)
        if epoch is not None:
            epoch = _validate.integer("epoch", epoch, 1, 2**53)

        def in_steps(name: str, length: Any) -> int:
            if isinstance(length, int):
                return length
            n, unit, what = (length.n, epoch, "epoch") if isinstance(length, Epochs) else (length, run, "run")
            if unit is None:
                raise ValueError(
                    f"{name}: {length!r} is a multiple of the {what}'s steps, which are not known: give {what}=, or "
                    f"{name} as a number of steps, an int"
                )
            return max(int(name != "warmup"), round(n * unit))

        flat = t.astype(np.float64).reshape(-1)  # also of one step: NumPy's powers of numbers have other bits
        with np.errstate(all="ignore"):
            return self._values(flat, in_steps("warmup", self.warmup), in_steps).reshape(t.shape)[()]

    def plot(self, steps: int, *, run: int | None = None, epoch: int | None = None, ax: Any = None) -> Any:
        """Draws its values over the first `steps` steps with matplotlib, and returns the Axes.

        run, epoch: as in a call; run is `steps` unless given.  ax: the Axes to draw into, that of a new figure unless
        given.  ImportError where matplotlib is not installed.
        """
        steps = _validate.integer("steps", steps, 1, 2**53)
        t = np.unique(np.linspace(0, steps - 1, min(steps, _MOST_POINTS)).round())
        values = self(t, run=steps if run is None else run, epoch=epoch)
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError(
                    "plot: needs matplotlib, which is not installed: pip install 'bpcore[plot]'; schedule(steps, "
                    "run=n) gives the values without it"
                ) from error
            ax = pyplot.subplots()[1]
        ax.plot(t, values, label=repr(self))
        ax.set_xlabel("step")
        return ax

    def _values(self, t: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        """At steps t: up in a line to the first value after the warm-up, which is that of step `warmup`."""
        after = self._after(np.maximum(t - warmup, 0.0), warmup, in_steps)
        return _warming(after, t, warmup)

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        """u steps after the warm-up."""
        raise NotImplementedError

    def _rest(self, warmup: int, in_steps: _Resolve) -> int:
        """What the warm-up leaves of the length."""
        steps = in_steps("length", self.length)  # type: ignore[attr-defined]
        if warmup >= steps:
            raise ValueError(f"warmup: expected fewer steps than length, got {warmup} and {steps}; {self!r}")
        return steps - warmup

    @property
    def levels(self) -> tuple[float, ...]:
        """Values that it takes or comes near to, as far as they are known: they must be in the number's range."""
        return tuple(float(getattr(self, name)) for name in ("peak", "start", "end") if hasattr(self, name))

    def _lengths(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in ("warmup", "every", "length") if hasattr(self, name))

    @property
    def of_run(self) -> bool:
        """Whether a length is a share: then steps count from the beginning of each call of `fit`."""
        return any(isinstance(length, float) for length in self._lengths())

    @property
    def of_steps(self) -> bool:
        """Whether all of its lengths are steps."""
        return not any(isinstance(length, (float, Epochs)) for length in self._lengths())

    def _key(self) -> tuple[Any, ...]:
        """What makes two equal; one step, 1, is not the whole run, 1.0."""
        values = tuple(getattr(self, setting.name) for setting in fields(self))
        return (type(self), values, *map(type, self._lengths()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._lengths()))

    def __repr__(self) -> str:
        settings = sorted(fields(self), key=lambda setting: bool(setting.kw_only))
        shown = ((setting, getattr(self, setting.name)) for setting in settings)
        words = (f"{s.name}={value!r}" for s, value in shown if s.default is MISSING or value != s.default)
        return f"{type(self).__name__}({', '.join(words)})"


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def _schedule(cls: _Kind) -> _Kind:
    """A frozen dataclass, known by its kind."""
    entered: Any = dataclass(frozen=True, eq=False, repr=False)(cls)
    _BY_NAME[entered.kind] = entered
    return cls


def _warming(values: np.ndarray, t: np.ndarray, warmup: int) -> np.ndarray:
    """What is less before step `warmup`, in a line from near 0."""
    return values * np.minimum((t + 1) / (warmup + 1), 1.0) if warmup else values


@_schedule
class Constant(Schedule):
    """`value`, after the warm-up."""

    value: float
    kind: ClassVar[str] = "constant"

    @property
    def levels(self) -> tuple[float, ...]:
        """The value."""
        return (self.value,)

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        return np.full(u.shape, self.value)


@_schedule
class Step(Schedule):
    """peak * factor^floor(u / every), u steps after the warm-up: `factor` times as much every so many steps."""

    peak: float
    every: Length = field(default=1 / 3, kw_only=True)
    factor: float = field(default=0.1, kw_only=True)
    kind: ClassVar[str] = "step"

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        return self.peak * self.factor ** np.floor(u / in_steps("every", self.every))


@_schedule
class Exponential(Schedule):
    """peak * factor^(u / m), u steps after the warm-up, m = length - warmup: `factor` times the peak at the end."""

    peak: float
    factor: float = field(default=0.01, kw_only=True)
    length: Length = field(default=1.0, kw_only=True)
    kind: ClassVar[str] = "exponential"

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        m = self._rest(warmup, in_steps)
        return self.peak * self.factor ** (np.minimum(u, m) / m)


@_schedule
class InverseTime(Schedule):
    """peak / (1 + u / every)^power, u steps after the warm-up: with power 1 half the peak after `every` steps.

    power=0.5 and every=warmup is the inverse square root of Vaswani et al. (2017), peak * sqrt(warmup / t).
    """

    peak: float
    every: Length = field(default=0.1, kw_only=True)
    power: float = field(default=1.0, kw_only=True)
    kind: ClassVar[str] = "inverse_time"

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        return self.peak / (1 + u / in_steps("every", self.every)) ** self.power


@_schedule
class Polynomial(Schedule):
    """end + (peak - end) * (1 - u / m)^power, u steps after the warm-up, m = length - warmup; power 1 is a line."""

    peak: float
    end: float = field(default=0.0, kw_only=True)
    power: float = field(default=1.0, kw_only=True)
    length: Length = field(default=1.0, kw_only=True)
    kind: ClassVar[str] = "polynomial"

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        m = self._rest(warmup, in_steps)
        return self.end + (self.peak - self.end) * ((m - np.minimum(u, m)) / m) ** self.power


def _half_wave(a: float, b: float, u: np.ndarray, m: Any) -> np.ndarray:
    """b + (a - b) * (1 + cos(pi u / m)) / 2; as a square it does not cancel where it ends."""
    return b + (a - b) * np.sin(np.pi / 2 * ((m - np.minimum(u, m)) / m)) ** 2


@_schedule
class Cosine(Schedule):
    """end + (peak - end) * (1 + cos(pi v / c)) / 2, v steps into a cycle of c steps (Loshchilov and Hutter 2017).

    cycles: after each but the last it restarts from the peak; each is `growth` times as long as the one before, and
    all of them together take what the warm-up leaves of `length`.  Cycles begin at whole steps.
    """

    peak: float
    end: float = field(default=0.0, kw_only=True)
    length: Length = field(default=1.0, kw_only=True)
    cycles: int = field(default=1, kw_only=True)
    growth: float = field(default=1.0, kw_only=True)
    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "cycles", _validate.integer("cycles", self.cycles, 1, _MOST_CYCLES))
        object.__setattr__(self, "growth", _validate.real("growth", self.growth, 1.0, 10.0))

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        m = self._rest(warmup, in_steps)
        if m < self.cycles:
            raise ValueError(f"cycles: expected at most as many as steps, {m}, got {self.cycles}")
        if self.cycles == 1:
            return _half_wave(self.peak, self.end, u, m)
        ends = np.cumsum(self.growth ** -np.arange(self.cycles, 0.0, -1))
        starts = np.concatenate([[0.0], np.rint(ends * m / ends[-1])])
        k = np.searchsorted(starts[1:-1], u, side="right")
        return _half_wave(self.peak, self.end, u - starts[k], starts[k + 1] - starts[k])


@_schedule
class OneCycle(Schedule):
    """Half a cosine wave from `start` to `peak` over the warm-up, another one from there to `end` at `length`.

    start: peak / 25 unless given; end: peak / 250,000 (Smith and Topin 2018, as PyTorch has it).  For a momentum that
    falls while lr rises: OneCycle(0.85, start=0.95, end=0.95).
    """

    peak: float
    start: float | None = field(default=None, kw_only=True)
    end: float | None = field(default=None, kw_only=True)
    length: Length = field(default=1.0, kw_only=True)
    warmup: Length = field(default=0.3, kw_only=True)
    kind: ClassVar[str] = "one_cycle"

    def __post_init__(self) -> None:
        peak = _validate.real("peak", self.peak)
        for name, value in (("start", peak / 25), ("end", peak / 250_000)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()

    def _values(self, t: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        assert self.start is not None and self.end is not None
        m = self._rest(warmup, in_steps)
        rise = _half_wave(self.start, self.peak, t, max(1, warmup))
        return np.where(t < warmup, rise, _half_wave(self.peak, self.end, np.maximum(t - warmup, 0.0), m))


@_schedule
class Piecewise(Schedule):
    """values[k] from step boundaries[k - 1] on, values[0] at first; they count from the first step, the warm-up's.

    One boundary fewer than values, ascending: Piecewise([0.1, 0.01, 0.001], [Epochs(30), Epochs(60)]).
    """

    values: Sequence[float]
    boundaries: Sequence[Length]
    kind: ClassVar[str] = "piecewise"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("values", "boundaries"):
            given = getattr(self, name)
            if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray)):
                raise TypeError(f"{name}: expected a list, got {given!r} of type {type(given).__name__}")
        values = tuple(_validate.real(f"values[{i}]", value) for i, value in enumerate(self.values))
        boundaries = tuple(_length(f"boundaries[{i}]", value, 1) for i, value in enumerate(self.boundaries))
        if len(values) != len(boundaries) + 1:
            raise ValueError(f"boundaries: expected one fewer than {len(values)} values, got {len(boundaries)}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "boundaries", boundaries)
        for unit in (int, float, Epochs):
            same = [getattr(b, "n", b) for b in boundaries if type(b) is unit]
            _ascending(same, strictly=True)

    @property
    def levels(self) -> tuple[float, ...]:
        """The values."""
        return tuple(self.values)

    def _lengths(self) -> tuple[Any, ...]:
        return (self.warmup, *self.boundaries)

    def _values(self, t: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        boundaries = [in_steps(f"boundaries[{i}]", boundary) for i, boundary in enumerate(self.boundaries)]
        _ascending(boundaries, strictly=False)
        level = np.asarray(self.values)[np.searchsorted(np.asarray(boundaries, float), t, side="right")]
        return _warming(level, t, warmup)


def _ascending(boundaries: list[Any], *, strictly: bool) -> None:
    if any(a > b or (strictly and a == b) for a, b in zip(boundaries, boundaries[1:], strict=False)):
        raise ValueError(f"boundaries: expected them to ascend, got {boundaries}")


@_schedule
class Function(Schedule):
    """f(u), your own: u, float64 (k,), steps after the warm-up; it returns k numbers, or one for all.

    `fit` calls it once an epoch, for all of the epoch's steps.  `name` is what a saved file calls it; `bp.load` takes
    it back by `custom={name: bp.schedules.Function(f)}`.
    """

    f: Callable[[Any], Any]
    name: str | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.function("f", self.f)
        _validate.label(self.name)

    @property
    def levels(self) -> tuple[float, ...]:
        """Nobody knows."""
        return ()

    def _after(self, u: np.ndarray, warmup: int, in_steps: _Resolve) -> np.ndarray:
        values = _validate.array("Function: f(u)", self.f(u.copy()))
        if values.dtype.kind not in "iuf" or values.shape not in ((), u.shape):
            raise ValueError(
                f"Function: f(u): expected {u.size} real numbers, shape {u.shape}, got dtype {values.dtype} and shape "
                f"{values.shape}"
            )
        return np.broadcast_to(values, u.shape).astype(np.float64)


# ---- files ----


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return {"epochs": value.n} if isinstance(value, Epochs) else value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return [_made(part) for part in value]
    return Epochs(value["epochs"]) if isinstance(value, dict) and set(value) == {"epochs"} else value


def to_json(schedule: Schedule) -> dict[str, Any]:
    """Its kind and settings; a function of the user's by its name."""
    if isinstance(schedule, Function):
        if schedule.name is None:
            raise ValueError("save: a schedule of your own needs a name: bp.schedules.Function(f, name='...')")
        return {"kind": schedule.kind, "custom": schedule.name}
    return {"kind": schedule.kind, **{s.name: _plain(getattr(schedule, s.name)) for s in fields(schedule)}}


def from_json(settings: Any, custom: Mapping[str, Any]) -> Schedule:
    """The inverse of to_json; ValueError or TypeError for anything else, KeyError for a function that is not there."""
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if not isinstance(kind, str) or kind not in _BY_NAME:
        raise ValueError(f"schedule: expected the settings of one of {', '.join(_BY_NAME)}, got {settings!r}")
    rest = {key: _made(value) for key, value in settings.items() if key != "kind"}
    if kind != Function.kind:
        schedule: Schedule = _BY_NAME[kind](**rest)
        return schedule
    if set(rest) != {"custom"} or not isinstance(rest["custom"], str):
        raise ValueError(f"schedule: expected the name of a function, got {settings!r}")
    name = rest["custom"]
    known = custom.get(name)
    if not isinstance(known, Function):
        raise KeyError(
            f"uses the schedule {name!r} of your own; give it back by custom={{{name!r}: bp.schedules.Function(f)}}"
        )
    return replace(known, name=name)
