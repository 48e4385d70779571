"""A network as a picture: its graph in rows, drawn as SVG.

Layers stand in rows by their depth; an edge over several rows has a place of its own in each between, a joint.  Rows
are ordered by the mean place of what they are joined to, which leaves few crossings (Sugiyama, Tagawa and Toda 1981),
and then spread so that edges are steep: a chain is a column.
"""

from __future__ import annotations

import bisect
import math
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpcore import _activations, _validate
from bpcore._graph import Node
from bpcore._layers import Input
from bpcore._model import Model

_CHARACTER = 7.25  # px of one in 12 px, of any monospaced font
_HEIGHT, _GAP, _BETWEEN, _PAD, _MARGIN = 48.0, 34.0, 22.0, 14.0, 12.0  # px: of a box, between rows, between boxes, ...
_NARROWEST, _JOINT = 132.0, 6.0  # px
_LONGEST = 32  # characters of a name that are shown
_SWEEPS = 12
_STRAIGHT = (2.0, 1.0, 8.0)  # how much edges of no, one and two joints want to be so
_CENTRED = 0.3  # and layers to stand in the middle of several
_STYLE = """
.bpcore-net text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1f2937}
.bpcore-net .name{font-weight:600}
.bpcore-net .quiet{fill:#5b6472;font-size:11px}
.bpcore-net .note{fill:#7d8590}
.bpcore-net .end{text-anchor:end}
.bpcore-net .box{fill:#ffffff;stroke:#c3c9d2}
.bpcore-net .output{stroke-width:2;stroke:#5b6472}
.bpcore-net .shared{stroke-dasharray:5 3}
.bpcore-net .edge{fill:none;stroke:#8b949e;stroke-width:1.4}
.bpcore-net .tip{fill:#8b949e}
.bpcore-net .input-kind{fill:#2da44e}.bpcore-net .weights-kind{fill:#2f6fdf}.bpcore-net .plain-kind{fill:#aab1bb}
@media (prefers-color-scheme:dark){
.bpcore-net text{fill:#e6edf3}.bpcore-net .quiet{fill:#a3adb8}.bpcore-net .note{fill:#8b949e}
.bpcore-net .box{fill:#1c2128;stroke:#444c56}.bpcore-net .output{stroke:#a3adb8}
.bpcore-net .plain-kind{fill:#6e7681}}
"""


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG: notebooks show it, `svg` is its text, `save(path)` writes it to a file."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Picture, {len(self.svg):,} characters of SVG; save(path) keeps it>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the SVG to a file.  OSError where that fails, TypeError for what is no path, ValueError for a name of
        another format."""
        file = Path(_validate.path(path))
        if file.suffix.lower() not in (".svg", ""):
            raise ValueError(f"path: expected a name that ends in .svg, the picture's one format, got {file.name!r}")
        file.write_text(self.svg, encoding="utf-8")


def of(model: Model) -> Picture:
    """The graph of a model."""
    nodes = model.graph.nodes
    boxes = [_box(model, i) for i in range(len(nodes))]
    widths = [max(_NARROWEST, *(_length(begin + end) + 2 * _PAD + 12 for begin, end in box)) for box in boxes]
    rows, edges = _rows(nodes)
    _order(rows, edges)
    places = _places(rows, edges, {i: w for i, w in enumerate(widths)})
    left = min(places[i] - w / 2 for i, w in enumerate(widths)) - _MARGIN
    left = min(left, min(places.values()) - _MARGIN)
    right = max(*places.values(), *(places[i] + w / 2 for i, w in enumerate(widths))) + _MARGIN
    title = f"{model.theta.size:,} parameters, {model.dtype}"
    right = max(right, left + _length(title) + 2 * _MARGIN)
    depth = {item: r for r, row in enumerate(rows) for item in row}
    parts = [_edge(route, places, depth, left) for route in _routes(nodes, edges)]
    parts += [_drawn(model, i, boxes[i], widths[i], places[i] - left, depth[i]) for i in range(len(nodes))]
    width, height = right - left, _top(len(rows)) - _GAP + 30
    parts.append(_text(width / 2, height - 10, title, "quiet note", anchor="middle"))
    return Picture(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="bpcore-net" role="img" aria-label="a network of {len(nodes)} '
        f'layers" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


# ---- what a box says ----


def _box(model: Model, number: int) -> list[tuple[str, str]]:
    """Two lines, each with a left and a right end: the name and the activation, the shape and the parameters."""
    node = model.graph.nodes[number]
    kind = type(node.layer).__name__
    name = node.name if len(node.name) <= _LONGEST else node.name[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
    f = getattr(node.layer, "activation", None)
    activation = _activations.label(f) if f and f != "identity" else ""
    first = activation if node.name.startswith(node.layer.op) else f"{kind} {activation}".rstrip()
    count = sum(math.prod(model.graph.parameters[p].shape) for p in node.parameters)
    notes = [f"{count:,}"] if count else []
    if _is_shared(model, number):
        notes = ["shared"]
    if count and node.base in model.frozen:
        notes.append("frozen")
    return [(name, first), (" \N{MULTIPLICATION SIGN} ".join(map(str, node.shape)), " ".join(notes))]


def _is_shared(model: Model, number: int) -> bool:
    """Whether its weights are those of a node before."""
    nodes = model.graph.nodes
    own = set(nodes[number].parameters)
    return any(own & set(node.parameters) for node in nodes[:number])


def _length(text: str) -> float:
    """In px; letters of East Asian scripts are twice as wide."""
    return _CHARACTER * sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


# ---- where it stands ----

Item = Any  # the number of a node, or (reader, node, row): the joint of an edge between them in that row


def _rows(nodes: Sequence[Node]) -> tuple[list[list[Item]], list[tuple[Item, Item]]]:
    """Items by row, and the edges between items of neighbouring rows."""
    depth = [0] * len(nodes)
    for i, node in enumerate(nodes):
        depth[i] = 1 + max((depth[k] for k in node.inputs), default=-1)
    for i, node in enumerate(nodes):
        if isinstance(node.layer, Input):  # as low as those who read it
            depth[i] = min((depth[k] for k, reader in enumerate(nodes) if i in reader.inputs), default=1) - 1
    rows: list[list[Item]] = [[] for _ in range(max(depth) + 1)]
    edges: list[tuple[Item, Item]] = []
    for i, node in enumerate(nodes):
        rows[depth[i]].append(i)
        for k in dict.fromkeys(node.inputs):
            last: Item = k
            for row in range(depth[k] + 1, depth[i]):
                joint = (i, k, row)
                rows[row].append(joint)
                edges.append((last, joint))
                last = joint
            edges.append((last, i))
    return rows, edges


def _neighbours(edges: Iterable[tuple[Item, Item]]) -> tuple[dict[Item, list[Item]], dict[Item, list[Item]]]:
    """Above and below each item."""
    above: dict[Item, list[Item]] = defaultdict(list)
    below: dict[Item, list[Item]] = defaultdict(list)
    for upper, lower in edges:
        above[lower].append(upper)
        below[upper].append(lower)
    return above, below


def _order(rows: list[list[Item]], edges: Sequence[tuple[Item, Item]]) -> None:
    """Sorts each row by the mean place of the items joined to it above, then below, and keeps the order with the fewest
    crossings."""
    above, below = _neighbours(edges)
    best, fewest = [row[:] for row in rows], _crossings(rows, below)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for r in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            place = {item: k for k, item in enumerate(rows[r - 1 if down else r + 1])}
            joined = above if down else below
            own = {item: float(k) for k, item in enumerate(rows[r])}
            for item in rows[r]:
                if joined[item]:
                    own[item] = sum(place[other] for other in joined[item]) / len(joined[item])
            rows[r].sort(key=own.__getitem__)
        if (crossings := _crossings(rows, below)) < fewest:
            best, fewest = [row[:] for row in rows], crossings
    rows[:] = best


def _crossings(rows: Sequence[Sequence[Item]], below: Mapping[Item, Sequence[Item]]) -> int:
    """Pairs of edges that cross."""
    total = 0
    for upper, lower in zip(rows, rows[1:], strict=False):
        place = {item: k for k, item in enumerate(lower)}
        seen: list[int] = []  # where edges further to the left end, in order
        for item in upper:
            ends = sorted(place[other] for other in below[item])
            total += sum(len(seen) - bisect.bisect_right(seen, end) for end in ends)
            for end in ends:
                bisect.insort(seen, end)
    return total


def _places(
    rows: Sequence[Sequence[Item]], edges: Sequence[tuple[Item, Item]], widths: Mapping[Item, float]
) -> dict[Item, float]:
    """The middle of each item, px, so that edges are as steep as the widths allow: a linear program (Gansner et al.
    1993, section 4), the sum of |x - x'| over edges, and of |x - mean| for those that are joined to several."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    number = {item: k for k, item in enumerate(item for row in rows for item in row)}
    terms: list[tuple[float, dict[int, float]]] = []  # a weight, and whose |sum of factor * x| it multiplies
    for edge in edges:
        upper, lower = map(number.__getitem__, edge)
        terms.append((_STRAIGHT[sum(item not in widths for item in edge)], {upper: 1.0, lower: -1.0}))
    for joined in _neighbours(edges):
        for item, others in joined.items():
            if len(others) > 1:
                mean = dict.fromkeys(map(number.__getitem__, others), -1.0 / len(others))
                terms.append((_CENTRED, {number[item]: 1.0, **mean}))
    n = len(number)
    entries: list[tuple[int, int, float]] = []  # of the matrix: row, column, value
    bounds: list[float] = []

    def bound(factors: Mapping[int, float], most: float) -> None:
        entries.extend((len(bounds), column, value) for column, value in factors.items())
        bounds.append(most)

    for k, (_, factors) in enumerate(terms):
        for sign in (1.0, -1.0):
            bound({**{column: sign * value for column, value in factors.items()}, n + k: -1.0}, 0.0)
    for row in rows:
        for left, right in zip(row, row[1:], strict=False):
            apart = (widths.get(left, _JOINT) + widths.get(right, _JOINT)) / 2 + _BETWEEN
            bound({number[left]: 1.0, number[right]: -1.0}, -apart)
    row_of, column_of, values = zip(*entries, strict=True)
    matrix = coo_array((values, (row_of, column_of)), shape=(len(bounds), n + len(terms)))
    cost = [0.0] * n + [weight for weight, _ in terms]
    free = [(None, None)] * n + [(0.0, None)] * len(terms)
    x = linprog(cost, A_ub=matrix.tocsr(), b_ub=bounds, bounds=free, method="highs").x
    return {item: float(x[k]) for item, k in number.items()}


def _top(row: int) -> float:
    return _MARGIN + row * (_HEIGHT + _GAP)


# ---- drawing ----


def _routes(nodes: Sequence[Node], edges: Sequence[tuple[Item, Item]]) -> list[list[Item]]:
    """Each edge of the graph: a node, joints, the node that reads it."""
    above, _ = _neighbours(edges)
    routes = []
    for i in range(len(nodes)):
        for item in above[i]:
            route = [i, item]
            while not isinstance(route[-1], int):
                route += above[route[-1]]
            routes.append(route[::-1])
    return routes


def _edge(route: Sequence[Item], places: Mapping[Item, float], depth: Mapping[Item, int], left: float) -> str:
    """A line from box to box, straight beside the boxes of the rows between, with a tip."""
    x = places[route[0]] - left
    y = _top(depth[route[0]]) + _HEIGHT
    path = f"M{x:.1f} {y:.1f}"
    for item in route[1:]:
        to, end = places[item] - left, _top(depth[item])
        end -= 5 * isinstance(item, int)
        bend = (end - y) / 2
        if abs(to - x) < 0.05:
            path += f"V{end:.1f}"
        else:
            path += f"C{x:.1f} {y + bend:.1f} {to:.1f} {end - bend:.1f} {to:.1f} {end:.1f}"
        x, y = to, end
        if not isinstance(item, int):
            y += _HEIGHT
            path += f"V{y:.1f}"
    return f'<path class="edge" d="{path}"/><path class="tip" d="M{x - 4:.1f} {y - 2:.1f}h8l-4 7z"/>'


def _drawn(model: Model, number: int, lines: Sequence[tuple[str, str]], width: float, middle: float, row: int) -> str:
    """The box of a node."""
    import html  # for those who need it

    node = model.graph.nodes[number]
    left, top, high = middle - width / 2, _top(row), _HEIGHT
    kind = "input" if isinstance(node.layer, Input) else "weights" if node.parameters else "plain"
    classes = "box" + " output" * (number in model.graph.outputs) + " shared" * _is_shared(model, number)
    parts = [
        f"<g><title>{html.escape(_printable(f'{node.name}: {node.layer!r}'))}</title>",
        f'<rect class="{classes}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{high:.0f}" rx="7"/>',
        f'<rect class="{kind}-kind" x="{left + 6:.1f}" y="{top + 9:.1f}" width="4" height="{high - 18:.0f}" rx="2"/>',
    ]
    for k, (begin, end) in enumerate(lines):
        y = top + 20 + 18 * k
        parts.append(_text(left + _PAD + 4, y, begin, "quiet" if k else "name"))
        if end:
            parts.append(_text(left + width - _PAD + 2, y, end, "quiet end"))
    return "".join([*parts, "</g>"])


def _text(x: float, y: float, text: str, classes: str, anchor: str = "") -> str:
    import html  # for those who need it

    anchored = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}"{anchored}>{html.escape(_printable(text))}</text>'


def _printable(text: str) -> str:
    """Without characters that XML has not."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
