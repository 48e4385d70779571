"""Chains of layers, which PyTorch, Keras and scikit-learn have, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bpcore._layers import Input, Layer
from bpcore._network import Network
from bpcore._symbols import Shape, Symbol
from bpcore.exports.graphs import Place, checked, places


def chain(caller: str, net: Any) -> list[Place]:
    """The places of a network whose layers come one after another; ValueError for others."""
    with checked(caller, net)._model.reading() as model:
        found = places(model)
        named = [at.name for i, at in enumerate(found[1:]) if at.inputs != (i,)]
        if named or model.graph.outputs != (len(found) - 1,):
            at = named[0] if named else ", ".join(node.name for node in model.outputs)
            raise ValueError(
                f"{caller}: expected a list of layers, one after another, and {at} is of a graph; "
                "bp.export_onnx writes any"
            )
        if model.target_moments:
            raise ValueError(
                f"{caller}: expected a network without units of y, and this one was fitted with standardize_y=True; "
                "bp.export_onnx writes them"
            )
    return found


def refused(caller: str, what: str, why: str) -> ValueError:
    """The error for a layer that one of the two does not have."""
    return ValueError(f"{caller}: expected layers that both libraries have, and {what} is none: {why}")


class Builder:
    """A network that is made layer by layer, with parameters that are given.

    names: of layers, taken where they are good and free.
    """

    def __init__(self, caller: str, x: Input) -> None:
        self.caller, self.input = caller, x
        self.symbol: Symbol = x
        self._values: list[tuple[Layer, Mapping[str, np.ndarray]]] = []
        self._frozen: list[Layer] = []
        self._taken: set[str] = {"input"}

    @property
    def shape(self) -> Shape:
        """Of an example, so far."""
        return self.symbol.shape

    def name(self, wanted: str | None) -> str | None:
        """A name for a layer, or None."""
        if not wanted or wanted in self._taken or set(wanted) & set("./@"):
            return None
        self._taken.add(wanted)
        return wanted

    def add(
        self, what: str, make: Callable[[], Layer], values: Mapping[str, np.ndarray] | None = None, frozen: bool = False
    ) -> Layer:
        """The next layer, with values of its parameters and states by letter; ValueError by name where it does not
        fit."""
        try:
            layer = make()
            self.symbol = layer(self.symbol)
        except (TypeError, ValueError) as error:
            raise refused(self.caller, what, str(error)) from None
        self._values.append((layer, values or {}))
        self._frozen += [layer] * frozen
        return layer

    def again(self, what: str, layer: Layer) -> None:
        """A layer that is there already, once more."""
        self.add(what, lambda: layer)

    def network(self, dtype: Any) -> Network:
        """The network, with its parameters."""
        if self.symbol is self.input:
            raise ValueError(f"{self.caller}: expected at least one layer, got none")
        net = Network(self.input, self.symbol, dtype=dtype)
        bases = {id(node.layer): node.base for node in net._model.graph.nodes}
        for layer, values in self._values:
            for letter, value in values.items():
                name = f"{bases[id(layer)]}.{letter}"
                to = net.params[name] if name in net.params else net.state[name]
                if to.shape != value.shape:
                    raise ValueError(f"{self.caller}: {name}: expected shape {to.shape}, got {value.shape}")
                to[...] = value
        net.frozen = {bases[id(layer)] for layer in self._frozen}
        return net


def padding_for(pads: Sequence[tuple[int, int]], options: Mapping[Any, Sequence[tuple[int, int]]]) -> Any:
    """The first of bpcore's paddings that puts so much before and after each axis; None where none does."""
    for padding, own in options.items():
        if list(own) == list(pads):
            return padding
    return None
