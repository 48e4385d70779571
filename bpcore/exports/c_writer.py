"""A network as one file of C99: its weights, and a function that computes what `predict` does for one example."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpcore import _io, _validate
from bpcore._activations import Activation
from bpcore._graph import Graph, Node
from bpcore._model import Model
from bpcore._symbols import Shape
from bpcore._version import __version__
from bpcore.exports.c_layers import ALIASES, EMITTERS, SCRATCH, Lines, index

STACK_BYTES = 1 << 16  # most working memory that the function takes from the stack; more is the caller's
_TYPES: dict[str, tuple[str, str, np.dtype[Any]]] = {
    "float32": ("float", "f", np.dtype(np.float32)),
    "float64": ("double", "", np.dtype(np.float64)),
}
_MOST = 2**31 - 1  # numbers of an array: an int counts them

# activations in C, by name; REAL, PREFIX, the suffix of the C library's functions, and constants are put in
_FUNCTIONS = {
    "exp": "return expf(z);",
    "tanh": "return tanhf(z);",
    "logistic": "const REAL e = expf(z < 0 ? z : -z);\nreturn (z >= 0 ? 1 : e) / (1 + e);",
    "expm1_below_0": "const REAL t = tanhf(z / 2); /* e^z - 1 = 2 t / (1 - t) */\nreturn 2 * t / (1 - t);",
    "relu": "return z <= 0 ? 0 : z;",
    "leaky_relu": "return z > 0 ? z : LEAK * z;",
    "elu": "return z > 0 ? z : PREFIX_expm1_below_0(z);",
    "selu": "return SELU_SCALE * (z > 0 ? z : SELU_ALPHA * PREFIX_expm1_below_0(z));",
    "gelu": "const REAL u = z < -50 ? -50 : z;\nreturn u * (1 + erff(u * SQRT_HALF)) / 2;",
    "silu": "return (z < -1000 ? -1000 : z) * PREFIX_logistic(z);",
    "softplus": "return (z <= 0 ? 0 : z) + log1pf(expf(z < 0 ? z : -z));",
    "softsign": "const REAL u = z < -LARGE ? -LARGE : z > LARGE ? LARGE : z;\nreturn u / (1 + (u < 0 ? -u : u));",
    "hard_sigmoid": "return z <= -3 ? 0 : z >= 3 ? 1 : z / 6 + HALF;",
    "hard_tanh": "return z <= -1 ? -1 : z >= 1 ? 1 : z;",
}
_CONSTANTS = {
    "LEAK": 0.01, "SELU_SCALE": 1.0507009873554805, "SELU_ALPHA": 1.6732632423543772, "SQRT_HALF": math.sqrt(0.5),
    "LARGE": 1e30, "HALF": 0.5,
}  # fmt: skip
_LIBM = ("exp", "tanh", "sqrt", "erf", "log1p")
_SOFTMAX = """\
/* a = softmax(z), of n numbers that lie step apart; a may be z */
static inline void PREFIX_softmax(const REAL *z, REAL *a, int n, int step) {
    REAL top = z[0];
    double sum = 0;
    for (int c = 1; c < n; c++) top = z[c * step] > top ? z[c * step] : top;
    for (int c = 0; c < n; c++) {
        a[c * step] = expf(z[c * step] - top);
        sum += (double)a[c * step];
    }
    for (int c = 0; c < n; c++) a[c * step] /= (REAL)sum;
}
"""
_MASKED_SOFTMAX = """\
/* the same of the first `end` that the mask, where there is one, does not have as 0; others become 0 */
static inline void PREFIX_masked_softmax(const REAL *z, REAL *a, int n, int step, const REAL *mask, int end) {
    REAL top = 0;
    double sum = 0;
    int any = 0;
    for (int c = 0; c < n && c < end; c++) {
        if (mask && mask[c] == 0) continue;
        top = !any || z[c * step] > top ? z[c * step] : top;
        any = 1;
    }
    for (int c = 0; c < n; c++) {
        a[c * step] = c < end && (!mask || mask[c] != 0) ? expf(z[c * step] - top) : 0;
        sum += (double)a[c * step];
    }
    for (int c = 0; any && c < n; c++) a[c * step] /= (REAL)sum;
}
"""


def export(net: Any, path: str | os.PathLike[str], name: str, dtype: str, style: str) -> None:
    """See bpcore.export_c."""
    if not isinstance(getattr(net, "_model", None), Model):
        cure = "; export each of its members" if hasattr(net, "members") else ""
        raise TypeError(f"export_c: net: expected a bp.Network, got {type(net).__name__}{cure}")
    _validate.choice("dtype", dtype, tuple(_TYPES))
    _validate.choice("style", style, ("header", "source"))
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", name):
        raise ValueError(
            f"name: expected at most 40 letters, digits and underscores that begin with a letter, got {name!r}"
        )
    with net._model.reading() as model:
        text = Writer(model, name, dtype, style).text()
    _io.write_whole(path, [text.encode("ascii")])


def _escaped(text: str) -> str:
    """What data or users call something, so that it can end neither a comment nor a line."""
    plain = "".join(c if " " <= c <= "~" and c not in "*/\\?" else f"<U+{ord(c):04X}>" for c in text)
    return plain if len(plain) <= 80 else f"{plain[:77]}..."


def _said(node: Node) -> str:
    shape = ", ".join(map(str, node.shape))
    return f"{node.n_out} numbers, ({shape}{',' * (len(node.shape) == 1)})"


class Writer:
    """What is written of a network.

    to: the function's lines; model: as it is now; inputs: the caller's arrays, by number of the node.
    """

    def __init__(self, model: Model, name: str, dtype: str, style: str) -> None:
        self.model, self.name, self.style = model, name, style
        self.graph: Graph = model.graph
        self.real, self._suffix, self._dtype = _TYPES[dtype]
        self.to = Lines()
        self._arrays: list[str] = []
        self._array_of: dict[str, str] = {}
        self._n_weights = self._weight_bytes = 0
        self._helpers: dict[str, str] = {}
        for node in self.graph.nodes:
            self._check(node)
        many = len(self.graph.inputs) > 1, len(self.graph.outputs) > 1
        self.inputs = {node: f"x{k + 1}" if many[0] else "x" for k, node in enumerate(self.graph.inputs)}
        self._outputs = [f"y{k + 1}" if many[1] else "y" for k in range(len(self.graph.outputs))]
        # inputs that are of double: they must not be rounded before mean and scale
        self._exact = {node.inputs[0] for node in self.graph.nodes if node.layer.op == "standardize"}
        self._types = {i: self._type_of(i) for i in self.inputs}
        self._work = _Work(self)

    def _type_of(self, number: int) -> str:
        integer = self.graph.nodes[number].layer.integer
        return "int" if integer else "double" if number in self._exact else self.real

    def _check(self, node: Node) -> None:
        own = isinstance(getattr(node.layer, "activation", None), Activation)
        if own or node.layer.op not in EMITTERS:
            raise ValueError(
                f"export_c: {node.name} ({node.layer!r}) computes by {'an activation' if own else 'functions'} of your "
                "own, which the file cannot hold; export a part of the network, net.part(...), or use bpcore's layers"
            )
        if node.n_out > _MOST:
            raise ValueError(f"export_c: {node.name} has {node.n_out} numbers, more than a C int counts")

    # ---- what layers ask for ----

    def number(self, value: float) -> str:
        """A constant of the file's type."""
        with np.errstate(over="ignore"):
            rounded = float(self._dtype.type(value))
        if not math.isfinite(rounded):
            raise ValueError(f"export_c: {value!r} is not finite in {self._dtype}; dtype='float64' reaches further")
        return _hexadecimal(rounded, self._suffix)

    def array(self, called: str, values: np.ndarray, shape: Shape, exact: bool = False) -> str:
        """The name of a constant array, which the file then has; exact: of double."""
        if called in self._array_of:
            return self._array_of[called]
        real, suffix, dtype = _TYPES["float64"] if exact else (self.real, self._suffix, self._dtype)
        with np.errstate(over="ignore"):
            flat = np.asarray(values, dtype).reshape(-1)
        if not np.isfinite(flat).all():
            raise ValueError(f"export_c: {called} has values that are not finite in {dtype}")
        if flat.size > _MOST:
            raise ValueError(f"export_c: {called} has {flat.size} numbers, more than a C int counts")
        name = f"{self.name}_w{len(self._array_of)}"
        words = [_hexadecimal(value, suffix) for value in flat.tolist()]
        lines = [f"/* {_escaped(called)} [{', '.join(map(str, shape))}] */",
                 f"static const {real} {name}[{flat.size}] = {{"]  # fmt: skip
        few = 4 if real == "double" else 6
        lines += [f"    {', '.join(words[i : i + few])}," for i in range(0, len(words), few)]
        self._arrays.append("\n".join([*lines, "};\n"]))
        self._array_of[called] = name
        self._n_weights += flat.size
        self._weight_bytes += flat.nbytes
        return name

    def own(self, node: Node) -> dict[str, str]:
        """The arrays of a node's parameters, by letter."""
        params = self.model.params
        return {name.rpartition(".")[2]: self.array(name, params[name], params[name].shape) for name in node.parameters}

    def libm(self, f: str) -> str:
        """What the C library calls a function of this type."""
        return f"{f}{self._suffix}"

    def applied(self, f: str, z: str) -> str:
        """f(z) of a number."""
        if f == "identity":
            return z
        if f == "tanh":
            return f"{self.libm('tanh')}({z})"
        return f"{self._function(f)}({z})"

    def softmax(self, masked: bool) -> str:
        """A function over some numbers."""
        if masked:
            return self._helper("masked_softmax", _MASKED_SOFTMAX)
        return self._helper("softmax", _SOFTMAX)

    def activate(self, f: str, n: int, width: int) -> None:
        """Writes out = f(out), of n numbers; softmax goes over `width` each."""
        if f == "softmax":
            with self.to.loop("p", n // width) as p:
                place = f"out + {index((p, width))}" if p != "0" else "out"
                self.to(f"{self.softmax(False)}({place}, {place}, {width}, 1);")
        elif f != "identity":
            with self.to.loop("j", n) as j:
                self.to(f"out[{j}] = {self.applied(f, f'out[{j}]')};")

    def _function(self, f: str) -> str:
        body = _FUNCTIONS[f]
        for other in _FUNCTIONS:
            if f"PREFIX_{other}(" in body:
                self._function(other)
        lines = "".join(f"    {line}\n" for line in body.split("\n"))
        return self._helper(f, f"static inline REAL PREFIX_{f}(REAL z) {{\n{lines}}}\n")

    def _helper(self, name: str, text: str) -> str:
        for word, value in _CONSTANTS.items():
            text = re.sub(rf"\b{word}\b", self.number(value), text)
        for f in _LIBM:
            text = re.sub(rf"\b{f}f\(", f"{self.libm(f)}(", text)
        self._helpers[name] = re.sub(r"\bREAL\b", self.real, text).replace("PREFIX", self.name)
        return f"{self.name}_{name}"

    # ---- the file ----

    def text(self) -> str:
        """All of it."""
        self._body()
        code = "\n".join([*self._helpers.values(), *self.to.lines])
        called = [self.libm(f) for f in _LIBM if re.search(rf"\b{self.libm(f)}\(", code)]
        name, guard, restrict = self.name, f"{self.name.upper()}_H", f"{self.name}_restrict"
        header = self.style == "header"
        lines = [self._head(called)]
        lines += [f"#ifndef {guard}\n#define {guard}\n"] if header else []
        lines += ["#include <math.h>\n"] if called else []
        lines += [f"#ifdef __GNUC__\n#define {restrict} __restrict\n#else\n#define {restrict}\n#endif\n"]
        lines += [f"enum {{ {name}_work = {self._work.size} }};\n"] if self._work.given else []
        lines += [*self._arrays, *self._helpers.values()]
        if not header:
            lines += ['#ifdef __cplusplus\nextern "C"\n#endif', f"{self._prototype(restrict)};\n"]
        lines += [f"{'static inline ' if header else ''}{self._prototype(restrict)} {{", *self.to.lines, "}\n"]
        lines += [f"#undef {restrict}", *(["#endif"] if header else [])]
        return "\n".join(lines) + "\n"

    @property
    def _labels(self) -> list[tuple[str, int, int]]:
        """Inputs of whole numbers: the array, how many, and the first number that is too large."""
        nodes = [(x, self.graph.nodes[i]) for i, x in self.inputs.items()]
        return [(x, node.n_out, node.n_labels) for x, node in nodes if node.layer.integer]

    def _prototype(self, restrict: str = "") -> str:
        restrict = f"{restrict} " if restrict else ""
        given = [f"const {self._types[i]} *{restrict}{x}" for i, x in self.inputs.items()]
        given += [f"{self.real} *{restrict}{y}" for y in [*self._outputs, *(["work"] if self._work.given else [])]]
        return f"{'int' if self._labels else 'void'} {self.name}_predict({', '.join(given)})"

    def _head(self, called: list[str]) -> str:
        """The comment that says what this is."""
        lines = [f"{self.name}: a neural network in C99, also for C++17; bpcore {__version__} wrote it (bp.export_c).",
                 "", f"    {self._prototype()};", ""]  # fmt: skip
        for i, x in self.inputs.items():
            node = self.graph.nodes[i]
            whole = f", whole numbers from 0 to {node.n_labels - 1}" if node.layer.integer else ""
            lines.append(f"{x}: input {_escaped(node.name)}, {_said(node)}{whole}")
            names = self.model.column_names.get(node.name, ())
            lines += [f"    {x}[{k}]: {_escaped(column)}" for k, column in enumerate(names)]
        for y, i in zip(self._outputs, self.graph.outputs, strict=True):
            lines.append(f"{y}: output {_escaped(self.graph.nodes[i].name)}, {_said(self.graph.nodes[i])}")
            classes = self.model.table.classes if self.model.table is not None else None
            first = 1 if self.graph.nodes[i].n_out == 1 else 0  # a single output is the second class's
            lines += [f"    {y}[{k}]: class {_escaped(str(each))}" for k, each in enumerate((classes or ())[first:])]
        if self._work.given:
            lines.append(f"work: room for {self.name}_work numbers; what it holds before and after does not matter")
        lines += ["", "It answers one example a call.  Arrays are in C order and must not overlap."]
        if self._labels:
            lines.append("It returns 0; or -1 where a whole number is out of range, and then writes nothing.")
        lines.append("Any number of threads may call it: it writes to these arrays and its stack alone.")
        stack = 0 if self._work.given else self._work.size * self._dtype.itemsize
        lines.append(f"Weights: {self._n_weights} numbers, {self._weight_bytes} bytes.  "
                     f"Working memory on the stack: {stack} bytes.")  # fmt: skip
        lines.append(f"From the C library: {', '.join(called)}." if called else "It needs no C library.")
        return ("/* " + "\n * ".join(lines) + " */").replace(" \n", "\n")

    def _body(self) -> None:
        to, work = self.to, self._work
        for x, n, end in self._labels:
            with to.loop("i", n) as i:
                to(f"if ({x}[{i}] < 0 || {x}[{i}] >= {end}) return -1;")
        if work.size and not work.given:
            to(f"{self.real} work[{work.size}];")
        for number, node in enumerate(self.graph.nodes):
            if number in self._exact and number in work.at:
                with to.loop("i", node.n_out) as i:
                    to(f"({work.at[number]})[{i}] = ({self.real}){self.inputs[number]}[{i}];")
            if node.inputs and work.root[number] == number:
                to(f"/* {_escaped(node.name)}: {_escaped(repr(node.layer))}, {_said(node)} */")
                with to.block():
                    self._layer(number, node)
        for y, number in zip(self._outputs, self.graph.outputs, strict=True):
            self._give(y, number)
        for x in self.inputs.values():
            if not re.search(rf"\b{x}\b", "\n".join(to.lines)):  # a mask, of a layer that heeds it in training
                to(f"(void){x};")
        if self._labels:
            to("return 0;")

    def _layer(self, number: int, node: Node) -> None:
        """A node's own lines, after pointers to what they read and write."""
        begin, indent = len(self.to.lines), "    " * 2
        EMITTERS[node.layer.op](self, node, [self.graph.nodes[i].shape for i in node.inputs])
        written = "\n".join(self.to.lines[begin:])
        pointers = []
        for k, i in enumerate(node.inputs):
            if re.search(rf"\bin{k}\b", written):
                root = self._work.root[i]
                real = self.real if root in self._work.at else self._types[root]
                pointers.append(f"{indent}const {real} *const in{k} = {self._work.place(i)};")
        pointers.append(f"{indent}{self.real} *const out = {self._work.place(number)};")
        if number in self._work.scratch:
            pointers.append(f"{indent}{self.real} *const scratch = {self._work.scratch[number]};")
        self.to.lines[begin:begin] = pointers

    def _give(self, y: str, number: int) -> None:
        """Writes an output where it does not lie there yet; in the user's units."""
        node, at = self.graph.nodes[number], self._work.place(number)
        moments = self.model.target_moments.get(node.name)
        if moments is not None:
            width = node.shape[-1]
            mean = self.array(f"{node.name}.y_mean", moments.mean, (width,), exact=True)
            scale = self.array(f"{node.name}.y_scale", moments.scale, (width,), exact=True)
            with self.to.loop("p", node.n_out // width) as p, self.to.loop("j", width) as j:
                i = index((p, width), (j, 1))
                self.to(f"{y}[{i}] = ({self.real})({mean}[{j}] + {scale}[{j}] * (double)({at})[{i}]);")
        elif at != y:
            with self.to.loop("j", node.n_out) as j:
                self.to(f"{y}[{j}] = ({at})[{j}];")


def _hexadecimal(value: float, suffix: str) -> str:
    """A literal with all bits: a whole number, or hexadecimal."""
    if value == int(value) and abs(value) < 1000 and math.copysign(1, value) == (1 if value >= 0 else -1):
        return str(int(value))
    mantissa, _, exponent = value.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}{suffix}"


class _Work:
    """Where the numbers of nodes lie: in the caller's arrays, or in `work`, where what is not needed any more is
    overwritten.

    root: of each node, the one whose numbers it has.  at: pointers, by root; of an input of double, to a copy that is
    rounded, where a layer reads that.  scratch: pointers to further memory, by node.  size: numbers that `work` has.
    given: the caller gives it.
    """

    def __init__(self, writer: Writer) -> None:
        self._inputs, graph = writer.inputs, writer.graph
        self.root = list(range(len(graph.nodes)))
        for k, node in enumerate(graph.nodes):
            if node.layer.op in ALIASES:
                self.root[k] = self.root[node.inputs[0]]
        last: dict[int, int] = {}  # the last node that reads it
        for k, node in enumerate(graph.nodes):
            if node.layer.op != "standardize":
                last |= {self.root[i]: k for i in node.inputs}
        self.at: dict[int, str] = {}
        in_units = writer.model.target_moments
        for y, i in zip(writer._outputs, graph.outputs, strict=True):
            root = self.root[i]
            if graph.nodes[root].inputs and root not in self.at and graph.nodes[i].name not in in_units:
                self.at[root] = y
            last[root] = len(graph.nodes)
        self.size, held = 0, list[tuple[int, int, int]]()  # first, end, the last node that reads it
        self.scratch: dict[int, str] = {}
        for k, node in enumerate(graph.nodes):
            rounded = k in writer._exact and k in last and writer.real != "double"
            if self.root[k] != k or not (node.inputs or rounded):
                continue
            held = [each for each in held if each[2] >= k]
            if k not in self.at:
                first = self._fit(held, node.n_out)
                held.append((first, first + node.n_out, last.get(k, k)))
                self.at[k] = f"work + {first}"
            if node.layer.op in SCRATCH:
                self.scratch[k] = f"work + {self._fit(held, SCRATCH[node.layer.op](node))}"
        self.given = self.size * writer._dtype.itemsize > STACK_BYTES

    def _fit(self, held: Sequence[tuple[int, int, int]], n: int) -> int:
        """The first place for n numbers."""
        at = 0
        for first, end, _ in sorted(held):
            if at + n <= first:
                break
            at = max(at, end)
        self.size = max(self.size, at + n)
        return at

    def place(self, number: int) -> str:
        """A pointer to a node's numbers."""
        root = self.root[number]
        return self.at.get(root) or self._inputs[root]
