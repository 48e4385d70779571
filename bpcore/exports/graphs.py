"""What all writers read of a network: its nodes in order, with their parameters."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpcore._model import Model
from bpcore._network import Network
from bpcore._symbols import Shape


def imported(module: str, caller: str, extra: str) -> Any:
    """A module of an optional package; ImportError that names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{caller} needs {package}: pip install '{extra}' ({error})") from None


def checked(caller: str, net: Any) -> Network:
    """A network; TypeError for anything else."""
    if not isinstance(net, Network):
        cure = "; export each of its members" if hasattr(net, "members") else ""
        raise TypeError(f"{caller}: net: expected a bp.Network, got {type(net).__name__}{cure}")
    return net


@dataclass(frozen=True)
class Place:
    """A node as a writer sees it.

    name: the node's; base: the layer's, without the number of the use.  inputs: numbers of the nodes that it reads.
    shape and shapes: of its output and of its inputs, an example each.  values: copies of its parameters and states by
    letter ("W", "b", "mean"), and of a Standardize mean and scale.
    """

    name: str
    base: str
    layer: Any
    inputs: tuple[int, ...]
    shape: Shape
    shapes: tuple[Shape, ...]
    values: Mapping[str, np.ndarray]


def places(model: Model) -> list[Place]:
    """All nodes of a model in the order in which they are computed, inputs first."""
    nodes = model.graph.nodes
    found = []
    for node in nodes:
        values = {name.partition(".")[2]: model.params[name].copy() for name in node.parameters}
        values |= {name.partition(".")[2]: model.states[name].copy() for name in node.states}
        if node.layer.op == "standardize":
            moments = model.moments_of(node.base)
            values |= {"mean": moments.mean, "scale": moments.scale}
        shapes = tuple(nodes[i].shape for i in node.inputs)
        found.append(Place(node.name, node.base, node.layer, node.inputs, node.shape, shapes, values))
    return found
