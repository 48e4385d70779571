"""What each layer is in C: a function here writes the loops that make `out` of in0, in1, ...

All are pointers to numbers of an example, in C order.  Sizes are numbers in the text, so that compilers know them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore._graph import Node
from bpcore._symbols import Shape

if TYPE_CHECKING:
    from bpcore.exports.c_writer import Writer

Emitter = Callable[["Writer", Node, list[Shape]], None]  # shapes of its inputs
EMITTERS: dict[str, Emitter] = {}
ALIASES = ("reshape", "dropout", "alpha_dropout", "gaussian_noise")  # they have the numbers of their input
# numbers that a layer needs beside its output
SCRATCH: dict[str, Callable[[Node], int]] = {
    "simple_rnn": lambda node: 2 * node.layer.units,  # z, h
    "lstm": lambda node: 6 * node.layer.units,  # z of four gates, h, c
    "gru": lambda node: 7 * node.layer.units,  # x W + b and h U of three gates, h
}
_BLOCK = 16  # sums of a product that are kept in registers together

# ---- text ----


class Lines:
    """Lines of code, indented as they are nested."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 1

    def __call__(self, line: str) -> None:
        self.lines.append("    " * self._depth + line)

    @contextlib.contextmanager
    def block(self, head: str = "") -> Iterator[None]:
        """What is nested in { }."""
        self(f"{head} {{" if head else "{")
        self._depth += 1
        yield
        self._depth -= 1
        self("}")

    @contextlib.contextmanager
    def loop(self, variable: str, n: int) -> Iterator[str]:
        """For 0..n-1: the variable, or "0" where there is but one."""
        if n == 1:
            yield "0"
        else:
            with self.block(f"for (int {variable} = 0; {variable} < {n}; {variable}++)"):
                yield variable


def index(*terms: tuple[str, int]) -> str:
    """a n + b m + ..., of variables or numbers, each with its stride."""
    number, parts = 0, []
    for value, stride in terms:
        if value.lstrip("-").isdigit():
            number += int(value) * stride
        elif stride:
            value = f"({value})" if " " in value and stride != 1 else value
            parts.append(value if stride == 1 else f"{value} * {stride}")
    if number or not parts:
        parts.append(str(number))
    return " + ".join(parts).replace("+ -", "- ")


def of(array: str, *terms: tuple[str, int]) -> str:
    """An element of an array."""
    return f"{array}[{index(*terms)}]"


def _product(
    f: Writer, m: int, n: int, x: Callable[[str], str], w: Callable[[str, str], str], b: Callable[[str], str],
    y: Callable[[str], str],
) -> None:  # fmt: skip
    """y_j = b_j + sum over k < m of x_k w_kj, j < n: each one chain of additions; b_j may be y_j itself.

    Sums are variables, which any compiler keeps in registers; those of arrays gcc -O2 does not.
    """
    whole, to = n - n % _BLOCK, f.to

    def columns(js: list[str]) -> None:
        to(f"{f.real} " + ", ".join(f"sum{c} = {b(j)}" for c, j in enumerate(js)) + ";")
        with to.loop("k", m) as k:
            to(f"const {f.real} v = {x(k)};")
            for c, j in enumerate(js):
                to(f"sum{c} += v * {w(k, j)};")
        for c, j in enumerate(js):
            to(f"{y(j)} = sum{c};")

    if whole:
        with to.block(f"for (int j = 0; j < {whole}; j += {_BLOCK})"):
            columns([index(("j", 1), (str(c), 1)) for c in range(_BLOCK)])
    if n > whole:
        with to.block():
            columns([str(j) for j in range(whole, n)])


def _emits(*ops: str) -> Callable[[Emitter], Emitter]:
    def register(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(ops, emitter))
        return emitter

    return register


@_emits("input", *ALIASES)
def _nothing(f: Writer, node: Node, shapes: list[Shape]) -> None:
    """Its numbers lie where they are."""


# ---- layers with products ----


@_emits("dense")
def _dense(f: Writer, node: Node, shapes: list[Shape]) -> None:
    own, m, n = f.own(node), shapes[0][-1], node.shape[-1]
    with f.to.loop("p", node.n_out // n) as p:
        _product(
            f, m, n,
            lambda k: of("in0", (p, m), (k, 1)),
            lambda k, j: of(own["W"], (k, n), (j, 1)),
            lambda j: of(own["b"], (j, 1)) if "b" in own else "0",
            lambda j: of("out", (p, n), (j, 1)),
        )  # fmt: skip
    f.activate(node.layer.activation, node.n_out, n)


@_emits("matmul")
def _matmul(f: Writer, node: Node, shapes: list[Shape]) -> None:
    lead, m, inner, n = node.layer._sizes(*shapes)
    a = (1, m) if node.layer.transpose_a else (inner, 1)
    b = (1, inner) if node.layer.transpose_b else (n, 1)
    with f.to.loop("q", math.prod(lead)) as q, f.to.loop("i", m) as i:
        _product(
            f, inner, n,
            lambda k: of("in0", (q, m * inner), (i, a[0]), (k, a[1])),
            lambda k, j: of("in1", (q, inner * n), (k, b[0]), (j, b[1])),
            lambda j: "0",
            lambda j: of("out", (q, m * n), (i, n), (j, 1)),
        )  # fmt: skip


@contextlib.contextmanager
def _windows(f: Writer, along: Sequence[tuple[int, int, int, int, Any]], places: list[str]) -> Iterator[list[str]]:
    """Loops over the places in a window that lie inside: t0, t1 are where, i0, i1 the place in the window.

    along: length, size, stride, dilation and positions of each axis; places: the window's.
    """
    with contextlib.ExitStack() as stack:
        taps = []
        for a, (length, size, stride, dilation, axis) in enumerate(along):
            tap = stack.enter_context(f.to.loop(f"i{a}", size))
            f.to(f"const int t{a} = {index((places[a], stride), (tap, dilation), (str(-axis.before), 1))};")
            stack.enter_context(f.to.block(f"if (t{a} >= 0 && t{a} < {length})"))
            taps.append(tap)
        yield taps


@_emits("conv2d", "conv1d", "time_delay")
def _conv(f: Writer, node: Node, shapes: list[Shape]) -> None:
    layer, own, to, shape = node.layer, f.own(node), f.to, shapes[0]
    filters, sizes, strides, dilations, _ = layer._windows()
    axes, channels = layer._axes(shape), shape[-1]
    within, of_group = channels // layer.groups, filters // layer.groups
    along = list(zip(shape, sizes, strides, dilations, axes, strict=False))
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(to.loop(f"p{a}", axis.size)) for a, axis in enumerate(axes)]
        at = [(p, math.prod(node.shape[a + 1 :])) for a, p in enumerate(places)]
        bias = of(own["b"], ("j", 1)) if "b" in own else "0"
        to(f"for (int j = 0; j < {filters}; j++) {of('out', *at, ('j', 1))} = {bias};")
        taps = stack.enter_context(_windows(f, along, places))
        ws = [(tap, math.prod(sizes[a + 1 :]) * within * filters) for a, tap in enumerate(taps)]
        xs = [(f"t{a}", math.prod(shape[a + 1 :])) for a in range(len(axes))]
        g = stack.enter_context(to.loop("g", layer.groups))
        _product(
            f, within, of_group,
            lambda k: of("in0", *xs, (g, within), (k, 1)),
            lambda k, j: of(own["W"], *ws, (k, filters), (g, of_group), (j, 1)),
            lambda j: of("out", *at, (g, of_group), (j, 1)),
            lambda j: of("out", *at, (g, of_group), (j, 1)),
        )  # fmt: skip
    f.activate(layer.activation, node.n_out, filters)


@_emits("simple_rnn", "lstm", "gru")
def _recurrent(f: Writer, node: Node, shapes: list[Shape]) -> None:
    (steps, features), layer, own, to = shapes[0], node.layer, f.own(node), f.to
    units, wide, is_gru = layer.units, layer.units * layer.gates, layer.op == "gru"
    h = 2 * wide if is_gru else wide  # where it lies in scratch
    states = SCRATCH[layer.op](node) - h
    to(f"for (int j = 0; j < {states}; j++) {of('scratch', (str(h), 1), ('j', 1))} = 0;")
    give = f"for (int j = 0; j < {units}; j++) out[{{}}] = {of('scratch', (str(h), 1), ('j', 1))};"
    with to.loop("step", steps) as step:
        t = step if not layer.reverse else str(steps - 1) if step == "0" else f"{steps - 1} - step"
        with to.block(f"if ({of('in1', (t, 1))} != 0)" if len(shapes) > 1 else ""):
            _product(
                f, features, wide,
                lambda k: of("in0", (t, features), (k, 1)),
                lambda k, j: of(own["W"], (k, wide), (j, 1)),
                lambda j: of(own["b"], (j, 1)) if "b" in own else "0",
                lambda j: of("scratch", (j, 1)),
            )  # fmt: skip
            _product(
                f, units, wide,
                lambda k: of("scratch", (str(h), 1), (k, 1)),
                lambda k, j: of(own["U"], (k, wide), (j, 1)),
                lambda j: "0" if is_gru else of("scratch", (j, 1)),
                lambda j: of("scratch", (str(wide * is_gru), 1), (j, 1)),
            )  # fmt: skip
            with to.block(f"for (int j = 0; j < {units}; j++)"):
                z = [of("scratch", (str(k * units), 1), ("j", 1)) for k in range(h // units + 2)]
                _CELLS[layer.op](f, node, own, z)
        if layer.sequences:
            to(give.format(index((t, units), ("j", 1))))
    if not layer.sequences:
        to(give.format("j"))


# z: what lies in scratch, in runs of `units` numbers; see SCRATCH


def _simple_cell(f: Writer, node: Node, own: dict[str, str], z: list[str]) -> None:
    f.to(f"{z[1]} = {f.applied(node.layer.activation, z[0])};")


def _lstm_cell(f: Writer, node: Node, own: dict[str, str], z: list[str]) -> None:
    i, forget, o = (f.applied("logistic", z[k]) for k in (0, 1, 3))
    g, h, c = f.applied("tanh", z[2]), z[4], z[5]
    f.to(f"{c} = {forget} * {c} + {i} * {g};")
    f.to(f"{h} = {o} * {f.applied('tanh', c)};")


def _gru_cell(f: Writer, node: Node, own: dict[str, str], z: list[str]) -> None:
    r, u, n, R, U, N, h = z[:7]
    f.to(f"const {f.real} r = {f.applied('logistic', f'{r} + {R}')};")
    f.to(f"const {f.real} u = {f.applied('logistic', f'{u} + {U}')};")
    N = f"({N} + {own['b_n']}[j])" if "b_n" in own else N
    f.to(f"const {f.real} n = {f.applied('tanh', f'{n} + r * {N}')};")
    f.to(f"{h} = (1 - u) * n + u * {h};")


_CELLS: dict[str, Callable[..., None]] = {"simple_rnn": _simple_cell, "lstm": _lstm_cell, "gru": _gru_cell}

# ---- numbers that move ----


@_emits("embedding")
def _embedding(f: Writer, node: Node, shapes: list[Shape]) -> None:
    units, E = node.layer.units, f.own(node)["E"]
    with f.to.loop("p", node.n_out // units) as p, f.to.loop("j", units) as j:
        f.to(f"{of('out', (p, units), (j, 1))} = {of(E, (f'in0[{p}]', units), (j, 1))};")


@_emits("concat")
def _concat(f: Writer, node: Node, shapes: list[Shape]) -> None:
    outer = math.prod(shapes[0][: node.layer._axis(shapes[0])])
    widths = [math.prod(shape) // outer for shape in shapes]
    with f.to.loop("p", outer) as p:
        for k, width in enumerate(widths):
            with f.to.loop("j", width) as j:
                to = of("out", (p, sum(widths)), (str(sum(widths[:k])), 1), (j, 1))
                f.to(f"{to} = {of(f'in{k}', (p, width), (j, 1))};")


def _permuted(f: Writer, sizes: Sequence[int], strides: Sequence[int], start: int) -> None:
    """Numbers in the order of nested loops of these sizes, read with these strides."""
    with contextlib.ExitStack() as stack:
        at = [stack.enter_context(f.to.loop(f"i{a}", size)) for a, size in enumerate(sizes)]
        to = of("out", *((i, math.prod(sizes[a + 1 :])) for a, i in enumerate(at)))
        f.to(f"{to} = {of('in0', *zip(at, strides, strict=True), (str(start), 1))};")


@_emits("slice")
def _slice(f: Writer, node: Node, shapes: list[Shape]) -> None:
    _permuted(f, *node.layer._cut(shapes[0])[:3])


@_emits("permute")
def _permute(f: Writer, node: Node, shapes: list[Shape]) -> None:
    _permuted(f, node.shape, [math.prod(shapes[0][axis + 1 :]) for axis in node.layer.axes], 0)


# ---- elementwise ----


@_emits("add")
def _add(f: Writer, node: Node, shapes: list[Shape]) -> None:
    factors = node.layer.factors or (1.0,) * len(shapes)
    with f.to.loop("j", node.n_out) as j:
        terms = [f"in{k}[{j}]" if x == 1 else f"{f.number(x)} * in{k}[{j}]" for k, x in enumerate(factors)]
        terms += [f.number(node.layer.constant)] if node.layer.constant else []
        f.to(f"out[{j}] = {' + '.join(terms)};")


@_emits("multiply")
def _multiply(f: Writer, node: Node, shapes: list[Shape]) -> None:
    with f.to.loop("j", node.n_out) as j:
        f.to(f"out[{j}] = in0[{j}] * in1[{j}];")


@_emits("scale", "bias")
def _scale(f: Writer, node: Node, shapes: list[Shape]) -> None:
    width, sign, s = node.shape[-1], "*" if node.layer.op == "scale" else "+", f.own(node)["s"]
    with f.to.loop("p", node.n_out // width) as p, f.to.loop("j", width) as j:
        i = index((p, width), (j, 1))
        f.to(f"out[{i}] = in0[{i}] {sign} {s}[{j}];")


@_emits("mask")
def _mask(f: Writer, node: Node, shapes: list[Shape]) -> None:
    width = shapes[0][-1] if len(shapes[0]) > 1 else 1
    with f.to.loop("p", node.n_out) as p:
        f.to(f"out[{p}] = 0;")
        with f.to.loop("j", width) as j:
            f.to(f"if ({of('in0', (p, width), (j, 1))} != 0) out[{p}] = 1;")


@_emits("activate")
def _activate(f: Writer, node: Node, shapes: list[Shape]) -> None:
    layer, shape, to = node.layer, node.shape, f.to
    if layer.activation != "softmax":
        with to.loop("j", node.n_out) as j:
            to(f"out[{j}] = {f.applied(layer.activation, f'in0[{j}]')};")
        return
    axis = layer.axis % len(shape)
    outer, n, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    masks = math.prod(shapes[1]) // n if len(shapes) > 1 else 0  # lines of the mask, which is repeated
    queries = shape[-2] if layer.causal else 0
    with to.loop("p", outer) as p, to.loop("i", inner) as i:
        options = ""
        if masks or queries:
            line = "0" if masks == 1 else p if masks == outer else f"{p} % {masks}"
            mask = f"in1 + {index((line, n))}" if masks else "0"
            query = p if queries == outer else f"{p} % {queries}"
            options = f", {mask}, {f'{query} < {n} ? {query} + 1 : {n}' if queries else n}"
        at = index((p, n * inner), (i, 1))
        to(f"{f.softmax(bool(options))}(in0 + {at}, out + {at}, {n}, {inner}{options});")


# ---- pooling and normalisation ----


@_emits("max_pool2d", "max_pool1d", "average_pool2d", "average_pool1d", "global_max_pool", "global_average_pool")
def _pool(f: Writer, node: Node, shapes: list[Shape]) -> None:
    to, channels, greatest = f.to, shapes[0][-1], node.layer.kind == "max_pool"
    along = [(length, size, stride, 1, axis) for length, size, stride, axis in node.layer._along(shapes[0])]
    lengths, sizes = ([each[k] for each in along] for k in (0, 1))
    counts = [axis.size for *_, axis in along]
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(to.loop(f"p{a}", count)) for a, count in enumerate(counts)]
        j = stack.enter_context(to.loop("j", channels))
        to(f"{f.real} best = 0;" if greatest else "double sum = 0;")
        to("int n = 0;")
        with _windows(f, along, places), to.block(_position_counts(shapes, lengths)):
            xs = [(f"t{a}", math.prod(lengths[a + 1 :]) * channels) for a in range(len(sizes))]
            to(f"const {f.real} v = {of('in0', *xs, (j, 1))};")
            to("if (!n || v > best || v != v) best = v;" if greatest else "sum += (double)v;")
            to("n++;")
        at = of("out", *((p, math.prod(counts[a + 1 :]) * channels) for a, p in enumerate(places)), (j, 1))
        to(f"{at} = best;" if greatest else f"{at} = n ? ({f.real})(sum / n) : 0;")


def _position_counts(shapes: list[Shape], lengths: list[int]) -> str:
    """Whether the mask, where there is one, has a position."""
    if len(shapes) == 1:
        return ""
    return f"if ({of('in1', *((f't{a}', math.prod(lengths[a + 1 :])) for a in range(len(lengths))))} != 0)"


@_emits("layer_norm", "rms_norm", "group_norm")
def _norm(f: Writer, node: Node, shapes: list[Shape]) -> None:
    """Over the channels at a position, or over a group of them at all positions."""
    layer, own, width, to = node.layer, f.own(node), node.shape[-1], f.to
    positions, groups = node.n_out // width, getattr(layer, "groups", 1)
    outer, inner = (1, positions) if layer.op == "group_norm" else (positions, 1)
    few = width // groups
    with to.loop("o", outer) as o, to.loop("g", groups) as g:

        @contextlib.contextmanager
        def each() -> Iterator[tuple[str, str]]:
            with to.loop("p", inner) as p, to.loop("j", few) as j, to.block():
                yield index((o, width), (p, width), (g, few), (j, 1)), index((g, few), (j, 1))

        to("double squares = 0;")
        if layer.op == "rms_norm":
            to(f"const {f.real} mean = 0;")
        else:
            to("double sum = 0;")
            with each() as (at, _):
                to(f"sum += (double)in0[{at}];")
            to(f"const {f.real} mean = ({f.real})(sum / {inner * few});")
        with each() as (at, _):
            to(f"const {f.real} d = in0[{at}] - mean;")
            to("squares += (double)(d * d);")
        root = f"{f.libm('sqrt')}(({f.real})(squares / {inner * few}) + {f.number(layer.eps)})"
        to(f"const {f.real} factor = 1 / {root};")
        with each() as (at, unit):
            bias = f" + {own['b']}[{unit}]" if "b" in own else ""
            to(f"out[{at}] = (in0[{at}] - mean) * factor * {own['s']}[{unit}]{bias};")


@_emits("batch_norm")
def _batch_norm(f: Writer, node: Node, shapes: list[Shape]) -> None:
    """By the running mean and variance."""
    width, params, states = node.shape[-1], f.model.params, f.model.states
    s, b = (np.asarray(params[name], float) for name in node.parameters)
    mean, variance = (np.asarray(states[name], float) for name in node.states)
    centre = f.array(f"{node.base}.mean", mean, (width,))
    factor = f.array(f"{node.base}.s / sqrt(variance + eps)", s / np.sqrt(variance + node.layer.eps), (width,))
    shift = f.array(f"{node.base}.b", b, (width,))
    with f.to.loop("p", node.n_out // width) as p, f.to.loop("j", width) as j:
        i = index((p, width), (j, 1))
        f.to(f"out[{i}] = (in0[{i}] - {centre}[{j}]) * {factor}[{j}] + {shift}[{j}];")


@_emits("standardize")
def _standardize(f: Writer, node: Node, shapes: list[Shape]) -> None:
    """In double: x is the caller's array."""
    moments, width, x = f.model.moments_of(node.base), node.shape[-1], f.inputs[node.inputs[0]]
    mean = f.array(f"{node.base}.mean", moments.mean, (width,), exact=True)
    factor = f.array(f"{node.base}: 1 / scale", 1 / moments.scale, (width,), exact=True)
    with f.to.loop("p", node.n_out // width) as p, f.to.loop("j", width) as j:
        i = index((p, width), (j, 1))
        f.to(f"out[{i}] = ({f.real})(({x}[{i}] - {mean}[{j}]) * {factor}[{j}]);")
