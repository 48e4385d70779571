"""Operations of the user's own, forward and backward in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bpcore import _validate
from bpcore._layers import Layer, named, shape_of
from bpcore._symbols import Shape


@dataclass(frozen=True, eq=False)
class Function(Layer):
    """A layer of your own: any function of one or several inputs, without parameters, with its gradient.

        cube = bp.Function(lambda a: a**3, lambda gradient, a: 3 * a**2 * gradient, name="cube")
        h = cube(Dense(8)(x))

    forward(*arrays): from inputs (n, *shape), arrays of their own in the network's dtype, to (n, *shape) of the output.
    backward(gradient, *arrays): from dE/d output to dE/d input, one an input: an array, or a list of them; it has the
    shape of the input.  Both are called on a chunk of rows at once, on the calling thread, and must treat each row
    alike, whatever rows come with it: how a call is cut into chunks is bpcore's affair.
    shape: of the output, an example's; that of the first input unless given.
    name: what `summary` and a file call it; `bp.load` takes it back by `custom={name: function}`.
    Their exceptions come through; ValueError where a result has another shape, TypeError where it is not real numbers.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    shape: Any = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "function"
    saved: ClassVar[tuple[str, ...]] = ("function",)
    many: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _validate.function("forward", self.forward)
        _validate.function("backward", self.backward)
        if self.shape is not None:
            object.__setattr__(self, "shape", shape_of("shape", self.shape))
        named(self.name)

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

    def build(self, plan: Any, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        out = self.output_shape(*shapes)
        called = (self.forward, self.backward, tuple(map(tuple, shapes)), out, repr(self))
        return int(plan.op("function", inputs, function=called, settings=([math.prod(out)], [])))

    @property
    def low_level(self) -> bool:
        return False
