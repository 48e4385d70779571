"""Recurrent layers, trained by backpropagation through time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _activations, _core, _validate
from bpcore._core import Plan
from bpcore._layers import INITS, Regularised, Spec, draw, named, normal
from bpcore._operations import permuted
from bpcore._symbols import Shape

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

RECURRENT_INITS = ("orthogonal", *INITS[1:])
_LSTM, _H, _C = 1, 0, 5  # RECURRENT_LSTM, _H, _C of csrc/kernels/settings.h


def orthogonal(units: int, *at: int) -> np.ndarray:
    """A random orthogonal matrix (units, units), from the QR decomposition of normal draws (Saxe et al. 2014)."""
    drawn = np.empty((units, units))
    normal(drawn, 1.0, *at)
    Q, R = np.linalg.qr(drawn)
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


class _Steps:
    """What a tangent is made of: operations on (steps, n units) of a row, all steps at once."""

    def __init__(self, t: Tangents, layer: Recurrent, steps: int, mask: list[int]) -> None:
        self.t, self.plan, self.steps, self.units, self.mask = t, t.plan, steps, layer.units, mask
        # LINEAR_... of csrc/kernels/settings.h, up to LINEAR_REVERSE
        self.settings = [steps, layer.units, layer.truncate or 0, int(layer.reverse)]
        self.plus, self.times = t.add_up, t.times

    def dense(self, x: int, *slots: int) -> int:
        """x W + b at each step"""
        return self.plan.op("dense", [x], slots)

    def f(self, name: str, z: int) -> int:
        """An activation, or its derivative, "tanh'"."""
        return self.plan.op("activation", [z], function=name)

    def line(self, a: int, factor: float, constant: float) -> int:
        """factor a + constant"""
        return self.plan.op("add", [a], settings=([], [factor, *(0.0,) * (_core.MAX_OPERANDS - 1), constant]))

    def gates(self, z: int, n: int) -> list[int]:
        """(steps, n units) as n of (steps, units)."""
        sizes, strides = [self.steps, self.units], [n * self.units, 1]
        return [permuted(self.plan, z, sizes, strides, i * self.units) for i in range(n)]

    def beside(self, parts: list[int]) -> int:
        """The opposite."""
        return self.plan.op("concat", parts, settings=([self.steps], []))

    def shift(self, a: int, b: list[int]) -> int:
        """a + b, where there is a b."""
        return self.plan.op("shift", [a], b) if b else a

    def delayed(self, h: int) -> int:
        """h of the step before."""
        return self.plan.op("delay", [h], settings=(self.settings, []))

    def recurrence(self, U: list[int], s: int, A: list[int], K: int, O: Sequence[int] = ()) -> int:  # noqa: E741
        """h of all steps; see linear_recurrence.inc."""
        settings = [*self.settings, len(self.mask), len(O)]  # ..., LINEAR_MASKED, LINEAR_READ
        inputs = [s, self.beside(A), K, *O, *self.mask]
        return self.plan.op("linear_recurrence", inputs, U, settings=(settings, []))


@dataclass(frozen=True, eq=False, repr=False)
class Recurrent(Regularised):
    """What recurrent layers share.

    Parameters, the gates beside each other: W [features, gates units], U [units, gates units], b (gates units,).
    """

    units: int
    sequences: bool = field(default=False, kw_only=True)
    reverse: bool = field(default=False, kw_only=True)
    truncate: int | None = field(default=None, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    init: str = field(default="auto", kw_only=True)
    recurrent_init: str = field(default="orthogonal", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    cell: ClassVar[int]  # RECURRENT_SIMPLE, ... of csrc/kernels/settings.h
    gates: ClassVar[int]
    many: ClassVar[bool] = True
    masked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "units", _validate.integer("units", self.units, 1, _validate.MAX_UNITS))
        for name in ("sequences", "reverse", "bias"):
            object.__setattr__(self, name, _validate.flag(name, getattr(self, name)))
        if self.truncate is not None:
            object.__setattr__(self, "truncate", _validate.integer("truncate", self.truncate, 1, _validate.MAX_UNITS))
        _validate.choice("init", self.init, INITS)
        _validate.choice("recurrent_init", self.recurrent_init, RECURRENT_INITS)
        named(self.name)

    def __repr__(self) -> str:
        shown = [str(self.units)]
        shown += [f"{name}=True" for name in ("sequences", "reverse") if getattr(self, name)]
        shown += [f"truncate={self.truncate}"] if self.truncate else []
        return f"{type(self).__name__}({', '.join(shown)}{self._options()})"

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) > 2:
            raise self.wrong("an input and perhaps a mask", f"{len(shapes)} inputs")
        if len(shapes[0]) != 2:
            cure = "; bp.Reshape((time, features)) makes one" if len(shapes[0]) == 1 else ""
            raise self.wrong("a sequence (time, features)", f"{shapes[0]}{cure}")
        if len(shapes) == 2 and shapes[1] != shapes[0][:1]:
            raise self.wrong(f"a mask of shape {shapes[0][:1]} for an input of shape {shapes[0]}", shapes[1])
        return (shapes[0][0], self.units) if self.sequences else (self.units,)

    def keeps_time(self, axes: int) -> bool:
        return self.sequences

    def takes_mask(self, shape: Shape) -> bool:
        return True

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        wide = self.gates * self.units
        specs = {"W": Spec((shapes[0][-1], wide), True), "U": Spec((self.units, wide), True)}
        return {**specs, "b": Spec((wide,), False)} if self.bias else specs

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        n_in, units = shapes[0][-1], self.units
        for gate in range(self.gates):
            W, U = (to[letter][:, gate * units : (gate + 1) * units] for letter in "WU")
            draw(W, self.init, "tanh", n_in, units, seed, layer, 2 * gate)
            at = (seed, layer, 2 * gate + 1)
            if self.recurrent_init == "orthogonal":
                U[...] = orthogonal(units, *at)
            else:
                draw(U, self.recurrent_init, "tanh", units, units, *at)

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        return self.add(plan, inputs, slots, shapes[0][0])

    def add(
        self, plan: Plan, inputs: list[int], slots: list[int], steps: int, states: Sequence[int] = (),
        sequences: bool | None = None,
    ) -> int:  # fmt: skip
        """Adds the operation over so many steps; states: buffers of h (and c) before the first, else zero;
        sequences: whether all h come out, if not as the layer has it."""
        f = getattr(self, "activation", "identity")
        function = -1 if f == "identity" else _core.ACTIVATIONS.index(f)
        every = self.sequences if sequences is None else sequences
        # RECURRENT_... of csrc/kernels/settings.h
        settings = [self.cell, steps, self.units, int(every), self.truncate or 0, int(self.reverse)]
        settings += [int(len(inputs) == 2), int(bool(states)), function]
        return plan.op("recurrent", [*inputs, *states], slots, settings=(settings, []))

    def build_moving(
        self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int
    ) -> int:
        """Of h at all steps."""
        steps = shapes[0][0]
        return self._answer(plan, self.add(plan, inputs, slots, steps, sequences=True), steps)

    def _answer(self, plan: Plan, h: int, steps: int) -> int:
        """h of all steps, or the last."""
        last = 0 if self.reverse else (steps - 1) * self.units
        return h if self.sequences else permuted(plan, h, [self.units], [1], last)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """Rh obeys a linear recurrence whose coefficients are functions of z at all steps: see linear_recurrence.inc.

        Rz = Rx W + x V_W + v_b + h V_U + Rh U, with h of the step before; the last term is the recurrence's.
        """
        steps, (x, *mask), (W, U, *b), (V_W, V_U, *v_b) = shapes[0][0], inputs, slots, v
        q = _Steps(t, self, steps, mask)
        h = a if self.sequences else t.plan.reads(a)
        before = q.delayed(h)
        z = q.dense(x, W, *b[:1]), q.dense(before, U)
        of_input = q.dense(moves[0], W) if moves[0] >= 0 else -1
        Rz = t.add_up(of_input, q.dense(x, V_W, *v_b[:1])), q.dense(before, V_U)
        Rh = q.recurrence([U], *self.linear(q, z, Rz, before, b[1:], v_b[1:]))
        return self._answer(t.plan, Rh, steps)

    def linear(
        self, q: _Steps, z: tuple[int, int], Rz: tuple[int, int], before: int, b_n: list[int], v_n: list[int]
    ) -> tuple[Any, ...]:
        """s, the list of A, K and perhaps O of the recurrence of Rh, with z and Rz by x and by h, h of the step before,
        and the parameters behind b."""
        raise NotImplementedError

    @property
    def states(self) -> dict[str, int]:
        """What it carries from step to step, and which of its operation's buffers holds it."""
        return {"h": _H, "c": _C} if self.cell == _LSTM else {"h": _H}


_SAVED = ("units", "sequences", "reverse", "truncate", "bias", *Regularised.saved)


@dataclass(frozen=True, eq=False, repr=False)
class SimpleRNN(Recurrent):
    """The simple recurrent layer of Elman (1990): (time, features) becomes (units,), the last state.

        h_t = f(x_t W + b + h_{t-1} U),  h_{-1} = 0

    W is (features, units), U is (units, units), b is (units,).
    It is trained by backpropagation through time (Werbos 1990).  activation: f, a name of `bp.activations.NAMES` that
    works on each element alone.  sequences: all states, (time, units), instead of the last.
    reverse: from the last step to the first; h_t then stands at t, and the last state is that of step 0.
    truncate: no gradient flows from step k, 2k, ... to the step before it (Williams and Peng 1990), where steps are
    counted in the order in which they are taken; the states themselves go on.
    l1, l2, max_norm, lr_scale: as in `Dense`; of W and of U, a unit's weights in each being bounded by themselves.
    bias: whether there is b.  init, recurrent_init: how W and U are drawn, "auto" is glorot_uniform; first b is 0.
    Called with a second symbol, SimpleRNN(8)(x, mask), mask (time,): where it is 0, the state is carried over
    unchanged, so that the last state is that of the last step that counts.

    Raises ValueError for an input that is no sequence, or a mask of another length.
    """

    activation: str = "tanh"
    op: ClassVar[str] = "simple_rnn"
    saved: ClassVar[tuple[str, ...]] = ("units", "activation", *_SAVED[1:])
    cell: ClassVar[int] = 0
    gates: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = _activations.NAMES[:-1]  # softmax is the last
        if isinstance(self.activation, _activations.Activation):
            raise TypeError(f"activation: expected one of {', '.join(valid)}, got {self.activation!r}: functions of "
                            "your own cannot be called at each step")  # fmt: skip
        _validate.choice("activation", self.activation, valid)

    def linear(
        self, q: _Steps, z: tuple[int, int], Rz: tuple[int, int], before: int, b_n: list[int], v_n: list[int]
    ) -> tuple[Any, ...]:
        """Rh' = f'(z) Rz"""
        both = q.plus(*z)
        df = q.line(both, 0, 1) if self.activation == "identity" else q.f(self.activation + "'", both)
        return q.plus(*Rz), [df], q.line(both, 0, 0)


@dataclass(frozen=True, eq=False, repr=False)
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al. 2000).

        [i, f, g, o] = x_t W + b + h_{t-1} U
        c_t = s(f) c_{t-1} + s(i) tanh(g),  h_t = s(o) tanh(c_t),  s(z) = 1 / (1 + e^-z),  h_{-1} = c_{-1} = 0

    (time, features) becomes (units,), the last h, or (time, units) with sequences=True.  W is (features, 4 units), U is
    (units, 4 units), b is (4 units,), the gates in PyTorch's order; b is the sum of its two biases.
    forget_bias: what b begins with at f; 1 keeps the memory open at first (Jozefowicz et al. 2015), else b is 0.
    The other arguments, and masks, are those of `SimpleRNN`.
    """

    forget_bias: float = field(default=1.0, kw_only=True)
    op: ClassVar[str] = "lstm"
    saved: ClassVar[tuple[str, ...]] = _SAVED
    cell: ClassVar[int] = _LSTM
    gates: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "forget_bias", _validate.real("forget_bias", self.forget_bias, -np.inf))

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        super().draw(to, shapes, seed, layer)
        if self.bias:
            to["b"][self.units : 2 * self.units] = self.forget_bias

    def linear(
        self, q: _Steps, z: tuple[int, int], Rz: tuple[int, int], before: int, b_n: list[int], v_n: list[int]
    ) -> tuple[Any, ...]:
        """Rc' = s(f) Rc + tanh(g) s'(i) Ri + c s'(f) Rf + s(i) tanh'(g) Rg
        Rh' = s(o) tanh'(c') Rc' + tanh(c') s'(o) Ro

        c' = s(f) c + s(i) tanh(g) is such a recurrence, too.
        """
        named = list(zip(("logistic", "logistic", "tanh", "logistic"), q.gates(q.plus(*z), 4), strict=True))
        i, f, g, o = (q.f(name, z_g) for name, z_g in named)
        di, df, dg, do = (q.f(name + "'", z_g) for name, z_g in named)
        c = q.recurrence([], g, [i], f)
        A = [q.times(g, di), q.times(q.delayed(c), df), q.times(i, dg), q.times(q.f("tanh", c), do)]
        return q.plus(*Rz), A, f, [q.times(o, q.f("tanh'", c))]


@dataclass(frozen=True, eq=False, repr=False)
class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014), its reset gate applied after the product, as PyTorch and cuDNN do.

        [r, u, n] = x_t W + b,  [R, V, N] = h_{t-1} U
        r = s(r + R),  u = s(u + V),  h_t = (1 - u) tanh(n + r (N + b_n)) + u h_{t-1},  h_{-1} = 0

    (time, features) becomes (units,), the last h, or (time, units) with sequences=True.  (In the paper r stands before
    the product: U acts on r h.)  W is (features, 3 units), U is (units, 3 units), b is (3 units,), the sum of PyTorch's
    two biases but for n, where b_n (units,) is the recurrent one; both begin with 0.
    The other arguments, and masks, are those of `SimpleRNN`.
    """

    op: ClassVar[str] = "gru"
    saved: ClassVar[tuple[str, ...]] = _SAVED
    cell: ClassVar[int] = 2
    gates: ClassVar[int] = 3

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        specs = super().parameters(*shapes)
        return {**specs, "b_n": Spec((self.units,), False)} if self.bias else specs

    def linear(
        self, q: _Steps, z: tuple[int, int], Rz: tuple[int, int], before: int, b_n: list[int], v_n: list[int]
    ) -> tuple[Any, ...]:
        """With d = (1 - u) tanh'(n + r N) and N = h U_n + b_n, of which RN has the recurrent term, Rn has none:
        Rh' = u Rh + d N s'(r) Rr + (h - tanh(n + r N)) s'(u) Ru + d r RN + d Rn
        """
        (xr, xu, xn), (hr, hu, hn) = (q.gates(each, 3) for each in z)
        (Rxr, Rxu, Rxn), (Rhr, Rhu, Rhn) = (q.gates(each, 3) for each in Rz)
        zr, zu, N = q.plus(xr, hr), q.plus(xu, hu), q.shift(hn, b_n)
        r, u = q.f("logistic", zr), q.f("logistic", zu)
        zn = q.plus(xn, q.times(r, N))
        d = q.times(q.line(u, -1, 1), q.f("tanh'", zn))
        change = q.plus(before, q.line(q.f("tanh", zn), -1, 0))
        A = [q.times(q.times(d, N), q.f("logistic'", zr)), q.times(change, q.f("logistic'", zu)), q.times(d, r), d]
        s = q.beside([q.plus(Rxr, Rhr), q.plus(Rxu, Rhu), q.shift(Rhn, v_n), Rxn])
        return s, A, u
