"""Operations of the user's own: forward and backward in Python or in C, and their tangents as symbols."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bpcore import _core, _validate
from bpcore._core import Plan
from bpcore._layers import Input, Layer, named, shape_of
from bpcore._symbols import Shape, Symbol

if TYPE_CHECKING:
    from bpcore._tangents import Tangents


def get_include() -> str:
    """The folder of bpcore.h, for functions in C that `bp.Function` calls."""
    return os.path.join(os.path.dirname(__file__), "include")


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Function(Layer):
    """A layer of your own: any function of one or several inputs, without parameters, with its gradient.

        cube = bp.Function(lambda a: a**3, lambda gradient, a: 3 * a**2 * gradient, name="cube",
                           tangent=lambda a, out, move: 3 * a * a * move)
        h = cube(Dense(8)(x))

    forward(*arrays): from inputs (n, *shape), arrays of their own in the network's dtype, to (n, *shape) of the output.
    backward(gradient, *arrays): from dE/d output to dE/d input, one an input: an array, or a list of them; it has the
    shape of the input.  Both are called on a chunk of rows at once, on the calling thread, and must treat each row
    alike, whatever rows come with it: how a call is cut into chunks is bpcore's affair.

    For speed both may be `scipy.LowLevelCallable` of signature "int (bp_function_call *)", the struct of bpcore.h in
    `bp.get_include()`, which says what they read and write: then they are called on some rows at a time, from any
    thread, without the GIL.  They take float and double; `bp.check_gradients` calls them with double.

    tangent(*inputs, output, *moves): how the output moves when the inputs move, sum_i (d output / d input_i) move_i, a
    symbol made of these symbols by layers without parameters, other Functions among them; `hvp` and
    `gauss_newton_product` need it.
    shape: of the output, an example's; that of the first input unless given.
    name: what `summary` and a file call it; `bp.load` takes it back by `custom={name: function}`.  Functions in C are
    not pickled.
    Exceptions of Python come through; ValueError where a result has another shape, TypeError where it is not real
    numbers, RuntimeError where a function in C returns other than 0.  The network is then that of the last whole step.
    """

    forward: Any
    backward: Any
    rule: Callable[..., Symbol] | None  # tangent
    shape: Any
    name: str | None
    op: ClassVar[str] = "function"
    saved: ClassVar[tuple[str, ...]] = ("function",)
    many: ClassVar[bool] = True

    def __init__(
        self, forward: Any, backward: Any, *, tangent: Callable[..., Symbol] | None = None, shape: Any = None,
        name: str | None = None,
    ) -> None:  # fmt: skip
        if _validate.low_level("Function", forward=forward, backward=backward):
            _core.check_c_function(forward, backward, "Function")
        else:
            _validate.function("forward", forward)
            _validate.function("backward", backward)
        if tangent is not None:
            _validate.function("tangent", tangent)
        named(name)
        size = None if shape is None else shape_of("shape", shape)
        self.__setstate__({"forward": forward, "backward": backward, "rule": tangent, "shape": size, "name": name})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getstate__(self) -> dict[str, Any]:
        if self.low_level:
            raise TypeError(
                f"{self!r}: functions in C cannot be pickled; use net.save(path) and bp.load(path, custom=...)"
            )
        return super().__getstate__()

    def __copy__(self) -> Function:
        return self.called(self.itself.name)

    def called(self, name: str | None) -> Function:
        """The same function as a layer of its own, by another name."""
        return Function(self.forward, self.backward, tangent=self.rule, shape=self.shape, name=name)

    def __repr__(self) -> str:
        return f"Function({self.name or getattr(self.forward, '__name__', '...')})"

    @property
    def function(self) -> dict[str, str]:
        """What a file keeps of it: its name."""
        if self.name is None:
            raise ValueError("save: a function of your own needs a name: bp.Function(forward, backward, name='...')")
        return {"custom": self.name}

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0] if self.shape is None else tuple(self.shape)

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        out = self.output_shape(*shapes)
        if self.low_level:
            own = (self.forward, self.backward, math.prod(out), repr(self))
            return plan.op("c_function", inputs, function=own)
        called = (self.forward, self.backward, tuple(map(tuple, shapes)), out, repr(self))
        return plan.op("function", inputs, function=called, settings=([math.prod(out)], []))  # FUNCTION_COLS

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """The user's graph, on the inputs, the output and how the inputs move."""
        if self.rule is None:
            raise ValueError(
                f"{self!r} has no tangent, which hvp and gauss_newton_product need: give it one, "
                "bp.Function(forward, backward, tangent=...)"
            )
        out = self.output_shape(*shapes)
        given = [Input(tuple(shape)) for shape in (*shapes, out, *shapes)]
        moved = self.rule(*given)
        if not isinstance(moved, Symbol) or moved.shape != out:
            got = f"shape {moved.shape}" if isinstance(moved, Symbol) else type(moved).__name__
            raise ValueError(f"{self!r}: tangent: expected a symbol of shape {out}, got {got}")
        buffers = [*inputs, a, *(t.zero_as(x, Rx) for x, Rx in zip(inputs, moves, strict=True))]
        return self._built(t.plan, moved, dict(zip(map(id, given), buffers, strict=True)))

    def _built(self, plan: Plan, symbol: Symbol, buffers: dict[int, int]) -> int:
        """Adds a symbol's operations to a plan, which has those in `buffers`, by id; the buffer of it."""
        if id(symbol) not in buffers:
            shapes = [read.shape for read in symbol.inputs]
            if isinstance(symbol, Input) or symbol.layer.parameters(*shapes):
                raise ValueError(
                    f"{self!r}: tangent: expected layers without parameters on the symbols given, got {symbol.layer!r}"
                )
            inputs = [self._built(plan, read, buffers) for read in symbol.inputs]
            buffers[id(symbol)] = symbol.layer.build(plan, inputs, [], shapes, 0)
        return buffers[id(symbol)]

    @property
    def low_level(self) -> bool:
        return _validate.low_level("Function", forward=self.forward, backward=self.backward)
