"""Checkpoints: after which layers a network is cut; training stores what crosses a cut and recomputes the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from bpcore import _validate
from bpcore._graph import Graph
from bpcore._layers import Layer
from bpcore._symbols import Symbol

Checkpoint = Literal[True] | tuple[str, ...] | None


def resolve(graph: Graph, value: Any) -> Checkpoint:
    """None, True, or the names of nodes in their order; value may name them or be their layers or symbols."""
    if value is None:
        return None
    if value is True:
        return True
    if isinstance(value, (str, Symbol, Layer)) or not isinstance(value, Iterable):
        raise TypeError(f"checkpoint: expected None, True or a list of layers (names or outputs), got {value!r}")
    chosen = {_name(graph, layer) for layer in value}
    if not chosen:
        raise ValueError("checkpoint: expected at least one layer, got an empty list; None stores everything")
    ends = chosen.difference(places := _places(graph))
    if ends:
        raise ValueError(
            f"checkpoint: expected layers between the inputs and the last, got {min(ends)!r}, behind which nothing is "
            f"cut; leave it out. Valid names: {', '.join(places) or 'none'}"
        )
    return tuple(name for name in places if name in chosen)


def _places(graph: Graph) -> list[str]:
    """Names of the nodes behind which a cut has layers on both sides."""
    return [node.name for node in graph.nodes[:-1] if not node.layer.gathered]


def _name(graph: Graph, value: Any) -> str:
    if not isinstance(value, (Symbol, Layer)):
        return _validate.choice("checkpoint", value, [node.name for node in graph.nodes])
    layer = value.layer if isinstance(value, Symbol) else value
    names = [node.name for node in graph.nodes if node.layer == layer]
    if not names:
        raise ValueError(f"checkpoint: expected layers of this network, got {value!r}")
    if len(names) > 1:
        uses = ", ".join(names)
        raise ValueError(f"checkpoint: expected a layer that is used once, got {value!r}; name the use: {uses}")
    return names[0]


def within(graph: Graph, checkpoint: Checkpoint) -> Checkpoint:
    """What is left of it in a part of the network."""
    if not isinstance(checkpoint, tuple):
        return checkpoint
    return tuple(name for name in _places(graph) if name in checkpoint) or None


def cuts(graph: Graph, checkpoint: Checkpoint) -> list[int]:
    """Numbers of the nodes behind which the network is cut."""
    if checkpoint is None:
        return []
    if checkpoint is True:
        return _automatic(graph)
    return [i for i, node in enumerate(graph.nodes) if node.name in checkpoint]


def _automatic(graph: Graph) -> list[int]:
    """sqrt(2 n) parts of n layers, alike in size: of the places near the end of each, where least crosses the cut."""
    last = list(range(len(graph.nodes)))  # reader of each node
    for i, node in enumerate(graph.nodes):
        for k in node.inputs:
            last[k] = i
    sizes = [0 if node.layer.gathered else node.n_out for node in graph.nodes]
    parts, total = round(math.sqrt(2 * (len(sizes) - len(graph.inputs)))), sum(sizes)
    ending: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        ending.setdefault(last[i], []).append(size)
    best: dict[int, tuple[int, float, int]] = {}  # by part
    before = crossing = 0
    for i, size in enumerate(sizes):
        before += size
        crossing += size - sum(ending.get(i, ()))
        at = before * parts / total
        if 0 < round(at) < parts and last[i] > i and not graph.nodes[i].layer.gathered:
            here = (crossing, abs(at - round(at)), i)
            best[round(at)] = min(here, best.get(round(at), here))
    return [i for _, _, i in best.values()]
