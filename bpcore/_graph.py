"""From symbols to nodes in order, and each parameter's place in theta."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpcore._layers import Dense, Input, Layer, Treatment
from bpcore._symbols import Shape, Symbol

MAX_PARAMS = 2**40


@dataclass(frozen=True)
class Parameter:
    """Where a parameter lies: theta[offset : offset + rows * cols] as [rows, cols]."""

    offset: int
    rows: int
    cols: int
    decay: bool
    shape: Shape
    treatment: Treatment = Treatment()

    def of(self, vector: np.ndarray) -> np.ndarray:
        """The view of a vector that is laid out as theta."""
        return vector[self.offset : self.offset + self.rows * self.cols].reshape(self.shape)


@dataclass(frozen=True)
class State:
    """Where n numbers of a layer's state lie, and what they are at first."""

    offset: int
    n: int
    first: float

    def of(self, vector: np.ndarray) -> np.ndarray:
        """The view of a vector that is laid out as the state."""
        return vector[self.offset : self.offset + self.n]


@dataclass(frozen=True)
class Node:
    """A layer in its place: `inputs` are numbers of earlier nodes, `parameters` and `states` names in the network's
    tables."""

    name: str
    layer: Any
    shape: Shape
    inputs: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    n_labels: int = 0  # an input of whole numbers: they lie in 0..n_labels - 1

    @property
    def n_out(self) -> int:
        """Numbers an example."""
        return math.prod(self.shape)

    @property
    def base(self) -> str:
        """Its name without the number of the use."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order; inputs and outputs are their numbers; parameters and states by name, in the order of
    theta and of the state."""

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: dict[str, Parameter]
    states: dict[str, State]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"states": {}, **state})  # pickles of bpcore 0.1 have none

    def without_origins(self) -> Graph:
        """The same, its layers named as here, without the networks that their first weights came from."""
        bare: dict[int, Layer] = {}
        for node in self.nodes:
            if hasattr(node.layer, "_origin") and id(node.layer) not in bare:
                layer = bare[id(node.layer)] = copy.copy(node.layer)  # leaves the origin behind
                object.__setattr__(layer, "name", node.base if layer.name else None)
        return self.with_layers(bare)

    def with_layers(self, layers: Mapping[int, Layer]) -> Graph:
        """The same with other layers in the place of those of these ids."""
        nodes = tuple(replace(node, layer=layers.get(id(node.layer), node.layer)) for node in self.nodes)
        return replace(self, nodes=nodes)

    def named_layers(self) -> tuple[Any, ...]:
        """The layer of each node, with the name that it has here."""
        named: dict[int, Any] = {}
        for node in self.nodes:
            layer = node.layer
            if id(layer) not in named:
                named[id(layer)] = layer if layer.name == node.base else layer.shown_as(node.base)
        return tuple(named[id(node.layer)] for node in self.nodes)

    @property
    def is_chain(self) -> bool:
        """Whether it is an input of one axis, standardised or not, and Dense layers after one another."""
        return (
            len(self.inputs) == len(self.outputs) == 1
            and self.outputs == (len(self.nodes) - 1,)
            and len(self.nodes[0].shape) == 1
            and all(node.inputs == (i,) for i, node in enumerate(self.nodes[1:]))
            and len(self.chain) > 1
            and all(type(node.layer) is Dense for node in self.chain[1:])
        )

    @property
    def chain(self) -> tuple[Node, ...]:
        """Of a chain the nodes 0..L: what the first Dense layer reads, and the Dense layers."""
        return self.nodes[1:] if self.nodes[1].layer.gathered else self.nodes

    def is_read(self, number: int) -> bool:
        """Whether a layer that computes reads this node, or it is an output."""
        return number in self.outputs or any(number in n.inputs and not n.layer.gathered for n in self.nodes)

    def refuses_sparse(self, number: int) -> str | None:
        """Why the rows of this node, an input, cannot come as sparse ones; None where they can."""
        if self.nodes[number].layer.integer:
            return "the input is of whole numbers"
        for node in self.nodes:
            if number not in node.inputs:
                continue
            if type(node.layer) is not Dense:
                return f"{node.name} ({node.layer!r}) reads it, and only Dense layers take sparse rows"
            if node.layer.lazy and sum(node.base == other.base for other in self.nodes) > 1:
                return f"{node.base} is used more than once, and a layer with lazy=True takes sparse rows once"
        return "the input is an output, too" if number in self.outputs else None


def chained(layers: Any) -> tuple[list[Symbol], list[Symbol]]:
    """Inputs and outputs of a list of layers: an Input, then layers of one input."""
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Sequence):
        raise TypeError(f"layers: expected a list of layers, or inputs and outputs, got {type(layers).__name__}")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            cure = "; give the layer itself, or inputs and outputs: Network(x, y)" if isinstance(layer, Symbol) else ""
            if hasattr(layer, "params"):  # a Network
                cure = "; a network is called on symbols: x = bp.Input(n), bp.Network(x, bp.Dense(m)(net(x)))"
            raise TypeError(
                f"layers[{i}]: expected a layer such as bp.Input or bp.Dense, got {layer!r} of type "
                f"{type(layer).__name__}{cure}"
            )
        if isinstance(layer, Input) != (i == 0):
            raise ValueError(f"layers[{i}]: expected bp.Input first and other layers after it, got {layer!r}")
    if len(layers) < 2:
        raise ValueError(f"layers: expected bp.Input and at least one layer after it, got {len(layers)} layers")
    first: Symbol = layers[0].itself
    symbol = first
    for layer in layers[1:]:
        symbol = layer(symbol)
    return [first], [symbol]


def symbols(name: str, value: Any, *, distinct: bool = True) -> list[Symbol]:
    """One symbol or several."""
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    for symbol in given:
        if not isinstance(symbol, Symbol):
            cure = "; for numbers use net.predict(X)" if hasattr(symbol, "__array__") else ""
            raise TypeError(f"{name}: expected outputs of layers or bp.Input, got {type(symbol).__name__}{cure}")
    if not given:
        raise ValueError(f"{name}: expected at least one")
    given = [symbol.itself if isinstance(symbol, Input) else symbol for symbol in given]
    if distinct and len({id(symbol) for symbol in given}) < len(given):
        raise ValueError(f"{name}: expected each once, got one twice")
    return given


def ordered(inputs: list[Symbol], outputs: list[Symbol]) -> list[Symbol]:
    """All symbols that the outputs depend on, inputs first, each after what it is made of."""
    for symbol in inputs:
        if not isinstance(symbol, Input):
            raise TypeError(f"inputs: expected bp.Input, got {symbol!r}; net.part(...) begins in the midst of one")
    order: dict[int, Symbol] = {id(symbol): symbol for symbol in inputs}
    used: set[int] = set()
    stack = [(symbol, False) for symbol in reversed(outputs)]
    while stack:
        symbol, ready = stack.pop()
        used.update(id(read) for read in symbol.inputs)
        if id(symbol) in order:
            continue
        if isinstance(symbol, Input):
            raise ValueError(f"outputs: they depend on {symbol!r}, which is not among the inputs")
        if ready:
            order[id(symbol)] = symbol
        else:
            stack.append((symbol, True))
            stack.extend((read, False) for read in reversed(symbol.inputs))
    for symbol in inputs:
        if id(symbol) not in used:
            raise ValueError(f"inputs: no output depends on {symbol!r}")
    return list(order.values())


def _own_names(order: list[Symbol]) -> dict[int, str]:
    """The names that layers have of their own, by id; one of another network gets a number where its name is taken."""
    own: dict[int, str] = {}
    taken: set[str] = set()
    for of_network in (False, True):
        for symbol in order:
            layer, name = symbol.layer, symbol.layer.name
            if name is None or id(layer) in own or hasattr(layer, "_origin") != of_network:
                continue
            if name == "input" and not isinstance(symbol, Input):
                raise ValueError("layers: expected names of their own, got 'input' twice; an Input is called so")
            number = 1
            while name in taken:
                if not of_network:
                    raise ValueError(f"layers: expected names of their own, got {name!r} twice")
                number += 1
                name = f"{layer.name}_{number}"
            own[id(layer)] = name
            taken.add(name)
    return own


def _names(order: list[Symbol], names: dict[int, str]) -> list[str]:
    """A name a node: the layer's own, or op and number; `@2` for its second use."""
    own = _own_names(order)
    given, names = {*own.values(), *names.values()}, dict(names)
    count: dict[str, int] = {}
    uses: dict[int, int] = {}
    names_of_nodes = []
    for symbol in order:
        layer = symbol.layer
        if id(layer) not in names:
            op = layer.op
            while True:
                count[op] = count.get(op, 0) + 1
                name = op if op == "input" and count[op] == 1 else f"{op}_{count[op]}"
                if layer.name is not None or name not in given:
                    break
            if layer.name is not None:
                count[op] -= op == "input"
            names[id(layer)] = own.get(id(layer), name)
        uses[id(layer)] = use = uses.get(id(layer), 0) + 1
        names_of_nodes.append(names[id(layer)] + (f"@{use}" if use > 1 else ""))
    return names_of_nodes


def lay_out(inputs: list[Symbol], outputs: list[Symbol], names: dict[int, str] | None = None) -> Graph:
    """Nodes in order, and each parameter's place in theta, by name, in the order of first use.

    names: of layers, by id, where they are settled.
    """
    for symbol in outputs:
        if isinstance(symbol, Input) and symbol.integer:
            raise ValueError(f"outputs: expected real numbers, got {symbol!r}")
    order = ordered(inputs, outputs)
    number = {id(symbol): i for i, symbol in enumerate(order)}
    table: dict[str, Parameter] = {}
    states: dict[str, State] = {}
    n_labels: dict[int, int] = {}
    standardized: dict[int, Symbol] = {}
    for symbol in order:
        if symbol.inputs and symbol.layer.gathered:
            read = standardized.setdefault(id(symbol.layer), symbol.inputs[0])
            if read is not symbol.inputs[0]:
                raise ValueError(
                    f"layers: {symbol.layer!r} stands behind two inputs; give each a bp.Standardize() of its own"
                )
        for read in symbol.inputs:
            if isinstance(read, Input) and read.integer:  # read by Embedding and Mask alone
                n_labels[id(read)] = min(symbol.layer.n, n_labels.get(id(read), symbol.layer.n))
    nodes: list[Node] = []
    offset = 0
    for symbol, name in zip(order, _names(order, names or {}), strict=True):
        base = name.partition("@")[0]
        specs = symbol.layer.parameters(*(read.shape for read in symbol.inputs)) if symbol.inputs else {}
        for letter, spec in specs.items():
            rows, cols = math.prod(spec.shape[:-1]), spec.shape[-1]
            if len(spec.shape) == 1:
                rows, cols = cols, 1
            full = f"{base}.{letter}"
            if full not in table:
                treatment = symbol.layer.treatment(spec)
                table[full] = Parameter(offset, rows, cols, spec.decay, spec.shape, treatment)
                offset += rows * cols
            elif table[full].shape != spec.shape:
                raise ValueError(
                    f"layers: {base} is used twice, with {letter} of shape {table[full].shape} and {spec.shape}; its "
                    "weights fit only one width"
                )
        kept = symbol.layer.keeps(*(read.shape for read in symbol.inputs)) if symbol.inputs else {}
        for letter, (n, first) in kept.items():
            states.setdefault(f"{base}.{letter}", State(sum(state.n for state in states.values()), n, first))
        numbers = tuple(number[id(read)] for read in symbol.inputs)
        names_of = tuple(f"{base}.{letter}" for letter in specs)
        own = tuple(f"{base}.{letter}" for letter in kept)
        nodes.append(Node(name, symbol.layer, symbol.shape, numbers, names_of, own, n_labels.get(id(symbol), 0)))
    if offset > MAX_PARAMS:
        raise ValueError(f"layers: {offset:,} parameters are more than bpcore can hold; make the layers smaller")
    at = [tuple(number[id(symbol)] for symbol in ends) for ends in (inputs, outputs)]
    return Graph(tuple(nodes), at[0], at[1], table, states)
