"""Activations: names that C knows, or the user's own function with its derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bpcore import _core, _validate
from bpcore._words import Worded

# C also knows the derivatives as functions: tanh' and the like
NAMES = ("identity", *(name for name in _core.ACTIVATIONS if not name.endswith("'")), "softmax")


@dataclass(frozen=True, eq=False)
class Activation(Worded):
    """An elementwise activation of your own, with its derivative.

    a = f(z), df = f'(z).  `f` and `df` take an array (rows, units) in the network's dtype and return one of the same
    shape; they are called once on a whole chunk of rows, on the calling thread.  For speed both may be
    `scipy.LowLevelCallable` of signature "double (double)" or "double (double, void *)": then they are called once
    an element, from any thread, without the GIL.  `name` is what a saved file calls it; `bp.load` takes it back
    by `custom={name: activation}`.
    """

    f: Callable[[Any], Any]
    df: Callable[[Any], Any]
    name: str | None = None

    def __post_init__(self) -> None:
        _validate.label(self.name)
        if self.is_low_level:
            _core.check_low_level(self.f, self.df)
            return
        _validate.function("f", self.f)
        _validate.function("df", self.df)

    def __getstate__(self) -> dict[str, Any]:
        if self.is_low_level:
            raise TypeError(
                "Activation: functions in C cannot be pickled; use net.save(path) and bp.load(path, custom=...)"
            )
        return self.__dict__

    def __copy__(self) -> Activation:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Activation:
        return self

    @property
    def is_low_level(self) -> bool:
        """Whether both functions are scipy.LowLevelCallable."""
        return _validate.low_level("Activation", f=self.f, df=self.df)


def resolve(value: Any) -> str | Activation:
    """A valid name or an Activation."""
    if isinstance(value, Activation):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"activation: expected a name or bp.Activation(f, df), got {value!r} of type {type(value).__name__}"
        )
    return _validate.choice("activation", value, NAMES)


def label(value: str | Activation) -> str:
    """How summaries call it."""
    return value if isinstance(value, str) else value.name or "Activation"
