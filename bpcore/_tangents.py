"""Tangents: how each value of a network moves when theta moves along v, as operations of the same plan."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from bpcore import _core
from bpcore._activations import Activation
from bpcore._core import Plan
from bpcore._losses import BuiltIn, Loss
from bpcore._model import Model


class Tangents:
    """A plan with the nodes of a model and the tangents of them, by node: `a`, and `Ra`, -1 where it is zero.

    theta and v are one vector, v behind theta; v is not trained.
    """

    def __init__(self, plan: Plan, model: Model) -> None:
        self.plan, self.graph = plan, model.graph
        self.a: list[int] = []
        self.Ra: list[int] = []
        self.before: dict[int, tuple[int, int]] = {}  # z and Rz of what ends in an activation, by a
        n, table, frozen = model.theta.size, model.graph.parameters, model.frozen_parameters
        self._theta = {name: plan.param(p.offset, p.rows, p.cols, p.decay, name in frozen) for name, p in table.items()}
        self._states = {name: plan.state(s.offset, s.n) for name, s in model.graph.states.items()}
        self._v = {name: plan.param(n + p.offset, p.rows, p.cols, p.decay, True) for name, p in table.items()}

    def add_input(self, buffer: int) -> None:
        """An input does not move."""
        self.a.append(buffer)
        self.Ra.append(-1)

    def add(self, number: int) -> int:
        """A node and its tangent; the buffer of the node."""
        node = self.graph.nodes[number]
        inputs = [self.a[i] for i in node.inputs]
        moves = [self.Ra[i] for i in node.inputs]
        shapes = [self.graph.nodes[i].shape for i in node.inputs]
        states = [self._states[name] for name in node.states]
        slots = [*(self._theta[name] for name in node.parameters), *states]
        a = node.layer.build_moving(self.plan, inputs, slots, shapes, number)
        self.a.append(a)
        v = [*(self._v[name] for name in node.parameters), *states]
        if not v and all(move < 0 for move in moves):
            self.Ra.append(-1)
        else:
            self.Ra.append(node.layer.tangent(self, a, inputs, moves, slots, v, shapes))
        return a

    # ---- what layers' tangents are made of ----

    def add_up(self, *terms: int) -> int:
        """The sum of those that are not zero; -1 where all are."""
        used = [term for term in terms if term >= 0]
        if len(used) < 2:
            return used[0] if used else -1
        return self.plan.op("add", used, settings=([], [1.0] * _core.MAX_OPERANDS))

    def minus(self, a: int, b: int) -> int:
        """a - b"""
        return self.plan.op("add", [a, b], settings=([], [1.0, -1.0]))

    def times(self, a: int, Rb: int) -> int:
        """a * Rb"""
        return -1 if Rb < 0 else self.plan.op("multiply", [a, Rb])

    def scaled(self, a: int, factor: float) -> int:
        """factor a"""
        return self.plan.op("add", [a], settings=([], [factor]))

    def combined(self, terms: Sequence[tuple[float, int]], constant: float = 0.0) -> int:
        """constant + the sum of factor a"""
        factors = [factor for factor, _ in terms]
        rest = [0.0] * (_core.MAX_OPERANDS - len(factors))
        return self.plan.op("add", [a for _, a in terms], settings=([], [*factors, *rest, constant]))

    def product(self, *factors: int) -> int:
        """a * b * ..."""
        return functools.reduce(lambda a, b: self.plan.op("multiply", [a, b]), factors)

    def function(self, name: str, z: int) -> int:
        """f(z), or f'(z): one of bpcore's activations."""
        return self.plan.op("activation", [z], function=name)

    def zero_as(self, a: int, Ra: int) -> int:
        """Ra, or zeros shaped as a."""
        return Ra if Ra >= 0 else self.scaled(a, 0.0)

    def activated(self, f: str | Activation, a: int, z: int, Rz: int, width: int) -> int:
        """R{f(z)} = f'(z) * R{z}"""
        if isinstance(f, Activation):
            raise ValueError("an activation of your own has no second derivative here; use one of bpcore's")
        self.before[a] = (z, Rz)
        if f == "identity" or Rz < 0:
            return Rz
        if f == "softmax":
            return self.plan.op("softmax_product", [a, Rz], settings=([width], []))
        return self.plan.op("multiply", [self.plan.op("activation", [z], function=f + "'"), Rz])

    # ---- losses ----

    def _reads(self, loss: BuiltIn | Loss, number: int) -> tuple[BuiltIn, int, int]:
        """The loss, and what it reads (z where it is fused with the activation) with its tangent."""
        if isinstance(loss, Loss):
            raise ValueError("a loss of your own has no second derivative here; use one of bpcore's")
        node, a = self.graph.nodes[number], self.a[number]
        if loss.fused_with is None or self.Ra[number] < 0:
            return loss, a, self.Ra[number]
        if getattr(node.layer, "activation", None) != loss.fused_with or a not in self.before:
            raise ValueError(f"loss: {loss.name} needs an output of {loss.fused_with}, and {node.name} has another")
        return loss, *self.before[a]

    def loss(self, loss: BuiltIn | Loss, number: int, target: int) -> tuple[int, int]:
        """Buffers of dE/dx and of R{x}, x being what the loss reads."""
        loss, x, Rx = self._reads(loss, number)
        return loss.slope(self, x, self.a[number], target, self.graph.nodes[number].shape[-1]), self.zero_as(x, Rx)

    def curvature(self, loss: BuiltIn | Loss, number: int, target: int) -> int:
        """The buffer of (d^2 E / dx^2) R{x}."""
        loss, x, Rx = self._reads(loss, number)
        Rx = self.zero_as(x, Rx)
        return loss.curvature(self, x, Rx, self.a[number], target, self.graph.nodes[number].shape[-1])
