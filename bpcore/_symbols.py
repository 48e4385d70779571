"""Symbols: what the functional form of a network is written with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpcore import _validate

Shape = tuple[int, ...]


class Symbol:
    """What a layer will compute, of known shape (an example's): `h = Dense(64, "relu")(x)`.

    Symbols are combined with `+`, `-` and `*` (with one another, of the same shape, or with a number), `/` (by a
    number), `**` (a whole number from 1) and `@` (`MatMul`); `h[...]` is a part, as of an array of that shape, by
    integers, slices and `...`: but where every axis has an integer it is (1,), for an example has an axis at least.
    TypeError for other operands: `bp.Function` takes any function of your own.
    """

    layer: Any
    inputs: tuple[Symbol, ...]
    shape: Shape
    mask: Symbol | None = None  # of its time steps, where one flows: see _masks.py

    def __init__(self, layer: Any, inputs: tuple[Symbol, ...], shape: Shape) -> None:
        self.layer, self.inputs, self.shape = layer, inputs, shape

    def __repr__(self) -> str:
        return f"<Symbol {self.shape} of {self.layer!r}>"

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no value yet: it is what a network will compute")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self!r} cannot be iterated over; index it, or use net.predict for numbers")

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError(f"{self!r} has no numbers yet; make a bp.Network of it and use predict")

    __array_ufunc__ = None  # number * symbol is ours

    def __add__(self, other: Any) -> Symbol:
        return _sum(self, 1.0, other, 1.0)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Symbol:
        return _sum(self, 1.0, other, -1.0)

    def __rsub__(self, other: Any) -> Symbol:
        return _sum(self, -1.0, other, 1.0)

    def __neg__(self) -> Symbol:
        return _scaled(self, -1.0)

    def __mul__(self, other: Any) -> Symbol:
        from bpcore._operations import Multiply

        return Multiply()(self, other) if isinstance(other, Symbol) else _scaled(self, _number(other))

    __rmul__ = __mul__

    def __pow__(self, exponent: Any) -> Symbol:
        n = _validate.integer(f"the exponent of {self!r} (bp.Function takes other powers)", exponent, 1, 64)
        half = self ** (n // 2) if n > 1 else self
        return self if n == 1 else half * half * self if n % 2 else half * half

    def __truediv__(self, other: Any) -> Symbol:
        if isinstance(other, Symbol):
            raise _undefined(f"{self!r} / {other!r}")
        number = _number(other)
        if number == 0:
            raise ZeroDivisionError(f"{self!r} / 0")
        return _scaled(self, 1 / number)

    def __rtruediv__(self, other: Any) -> Symbol:
        raise _undefined(f"{other!r} / {self!r}")

    def __rpow__(self, other: Any) -> Symbol:
        raise _undefined(f"{other!r} ** {self!r}")

    def __matmul__(self, other: Any) -> Symbol:
        from bpcore._matmul import MatMul

        return MatMul()(self, other) if isinstance(other, Symbol) else NotImplemented

    def __getitem__(self, index: Any) -> Symbol:
        from bpcore._operations import Slice

        if any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,))):
            raise TypeError(f"{self!r}: a list is no index here; use slices, and bp.concat to put them together")
        return Slice(index)(self)


def _undefined(what: str) -> TypeError:
    return TypeError(f"{what}: no layer computes this; bp.Function(forward, backward) takes a function of your own")


def _number(value: Any) -> float:
    return _validate.real("the number beside a layer's output", value, -np.inf)


def _sum(a: Symbol, factor: float, b: Any, other: float) -> Symbol:
    from bpcore._operations import Add

    if isinstance(b, Symbol):
        return Add([factor, other])(a, b)
    return Add([factor], constant=other * _number(b))(a)


def _scaled(a: Symbol, factor: float) -> Symbol:
    from bpcore._operations import Add

    return Add([factor])(a)
