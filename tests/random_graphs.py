"""Random graphs, by Hypothesis, and what they compute, in NumPy or whatever has its functions.

An operation is an entry of OPERATIONS (how it is drawn) and one of VALUES (what it computes).
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.special
from hypothesis import assume
from hypothesis import strategies as st

import bpcore as bp

# differentiable everywhere: what central differences and complex steps may cross
SMOOTH = ("identity", "logistic", "tanh", "elu", "gelu", "silu", "softplus", "softsign", "exp", "softmax")
LARGEST = 10.0  # of the values within: beyond, differences tell nothing

NUMPY = SimpleNamespace(xp=np, erf=scipy.special.erf)


# ---- what is drawn ----

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
NUMBERS = st.sampled_from([-1.5, -0.5, 0.25, 2.0])


def _one(draw, pool, suits=lambda symbol: True):
    found = [symbol for symbol in pool if suits(symbol)]
    assume(found)
    return draw(st.sampled_from(found))


def _dense(draw, pool):
    layer = bp.Dense(draw(st.integers(1, 4)), draw(st.sampled_from(SMOOTH)), bias=draw(st.booleans()))
    return layer(_one(draw, pool))


def _arithmetic(draw, pool):
    a = _one(draw, pool)
    b = _one(draw, pool, lambda symbol: symbol.shape == a.shape)
    number = draw(NUMBERS)
    return draw(st.sampled_from([a + b, a - b, b - a / 2, a * b, -a, number * a, a + number, number - a, a * a]))


def _add(draw, pool):
    a = _one(draw, pool)
    others = draw(st.lists(st.sampled_from([s for s in pool if s.shape == a.shape]), max_size=4))
    factors = draw(st.one_of(st.none(), st.lists(NUMBERS, min_size=len(others) + 1, max_size=len(others) + 1)))
    return bp.Add(factors, constant=draw(NUMBERS))(a, *others)


def _concat(draw, pool):
    a = _one(draw, pool)
    axis = draw(st.integers(0, len(a.shape) - 1))

    def fits(b):
        return len(b.shape) == len(a.shape) and all(
            m == n for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if i != axis
        )

    rest = draw(st.lists(st.sampled_from([b for b in pool if fits(b)]), min_size=1, max_size=3))
    return bp.concat([a, *rest], axis - draw(st.sampled_from([0, len(a.shape)])))


def _slice(draw, pool):
    a = _one(draw, pool)
    index = []
    for size in a.shape[: draw(st.integers(1, len(a.shape)))]:
        if draw(st.booleans()):
            index.append(draw(st.integers(-size, size - 1)))
        else:
            low, high = sorted((draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))))
            step = draw(st.integers(1, 3))
            up, down = slice(low, high + 1, step), slice(high, low - 1 if low else None, -step)
            index.append(draw(st.sampled_from([up, down])))
    if draw(st.booleans()):
        index.append(...)
    return a[tuple(index)]


def _permute(draw, pool):
    a = _one(draw, pool)
    return bp.Permute(tuple(draw(st.permutations(range(len(a.shape))))))(a)


def _reshape(draw, pool):
    a = _one(draw, pool)
    n = math.prod(a.shape)
    divisor = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
    return bp.Reshape(draw(st.sampled_from([-1, (divisor, -1), (n // divisor, 1, divisor)])))(a)


def _activate(draw, pool):
    a = _one(draw, pool)
    if draw(st.booleans()):
        return bp.Activate("softmax", axis=draw(st.integers(-len(a.shape), len(a.shape) - 1)))(a)
    return bp.Activate(draw(st.sampled_from(SMOOTH)))(a)


def _shared(draw, pool):
    """A layer with weights once more, on an input of the shape of its first."""
    with_weights = [symbol for symbol in pool if symbol.inputs and symbol.layer.parameters(symbol.inputs[0].shape)]
    if not with_weights:
        return _dense(draw, pool)
    first = draw(st.sampled_from(with_weights))
    return first.layer(_one(draw, pool, lambda symbol: symbol.shape == first.inputs[0].shape))


def _matmul(draw, pool):
    """a b, a a^T or a^T a"""
    a = _one(draw, pool, lambda symbol: len(symbol.shape) > 1)
    fits = [b for b in pool if len(b.shape) == len(a.shape) and b.shape[:-1] == (*a.shape[:-2], a.shape[-1])]
    if fits and draw(st.booleans()):
        return a @ draw(st.sampled_from(fits))
    turned = draw(st.booleans())
    return bp.MatMul(transpose_a=turned, transpose_b=not turned)(a, a)


# each takes Hypothesis's draw and the symbols made so far, and makes one more
OPERATIONS = {
    "dense": _dense,
    "dense again": _dense,
    "arithmetic": _arithmetic,
    "add": _add,
    "concat": _concat,
    "slice": _slice,
    "permute": _permute,
    "reshape": _reshape,
    "activate": _activate,
    "scale": lambda draw, pool: bp.Scale()(_one(draw, pool)),
    "bias": lambda draw, pool: bp.Bias()(_one(draw, pool)),
    "shared": _shared,
    "shared again": _shared,
    "layer_norm": lambda draw, pool: bp.LayerNorm(eps=0.1)(_one(draw, pool)),
    "matmul": _matmul,
}
# those with a second derivative, for hvp and its kin
TWICE = tuple(name for name in OPERATIONS if name != "layer_norm")


# ---- what it computes ----


def activation(np_, f, z, axis=-1):
    """f(z), for complex z too: kinks are where the real part has them."""
    xp = np_.xp
    if f == "softmax":
        e = xp.exp(z - xp.max(z.real, axis=axis, keepdims=True))
        return e / xp.sum(e, axis=axis, keepdims=True)
    return {
        "identity": lambda: z,
        "logistic": lambda: 1 / (1 + xp.exp(-z)),
        "tanh": lambda: xp.tanh(z),
        "elu": lambda: xp.where(z.real > 0, z, xp.exp(z) - 1),
        "gelu": lambda: z * (1 + np_.erf(z / math.sqrt(2))) / 2,
        "silu": lambda: z / (1 + xp.exp(-z)),
        "softplus": lambda: xp.log(1 + xp.exp(z)),
        "softsign": lambda: z / (1 + z * xp.sign(z.real)),
        "exp": lambda: xp.exp(z),
        "hard_tanh": lambda: xp.where(abs(z.real) < 1, z, xp.sign(z.real)),
        "relu": lambda: xp.where(z.real > 0, z, 0 * z),
    }[f]()


def _dense_value(np_, layer, parameters, inputs):
    (x,), (W, *b) = inputs, parameters
    z = x @ W
    return activation(np_, layer.activation, z + b[0] if b else z)


def _add_value(np_, layer, parameters, inputs):
    factors = layer.factors or (1,) * len(inputs)
    return sum((f * x for f, x in zip(factors, inputs, strict=True)), layer.constant)


def _layer_norm_value(np_, layer, parameters, inputs):
    (x,), (s, b) = inputs, parameters
    x = x - x.mean(-1, keepdims=True)
    return s * x / np_.xp.sqrt((x * x).mean(-1, keepdims=True) + layer.eps) + b


def turned(np_, x, wanted):
    """Matrices, turned where that is wanted."""
    return np_.xp.swapaxes(x, -1, -2) if wanted else x


def index_of(layer):
    """A Slice's index, as an array takes it."""
    return tuple(slice(*part) if isinstance(part, list) else ... if part == "..." else part for part in layer.index)


# what each layer makes of its parameters and its inputs, (n, *shape) each
VALUES = {
    "dense": _dense_value,
    "add": _add_value,
    "multiply": lambda np_, layer, parameters, inputs: inputs[0] * inputs[1],
    "concat": lambda np_, layer, parameters, inputs: np_.xp.concatenate(
        inputs, axis=layer.axis + (layer.axis >= 0)),
    "slice": lambda np_, layer, parameters, inputs: inputs[0][(slice(None), *index_of(layer))],
    "permute": lambda np_, layer, parameters, inputs: np_.xp.transpose(
        inputs[0], (0, *(axis + 1 for axis in layer.axes))),
    "reshape": lambda np_, layer, parameters, inputs: inputs[0],
    "activate": lambda np_, layer, parameters, inputs: activation(
        np_, layer.activation, inputs[0], layer.axis + (layer.axis >= 0)),
    "scale": lambda np_, layer, parameters, inputs: inputs[0] * parameters[0],
    "bias": lambda np_, layer, parameters, inputs: inputs[0] + parameters[0],
    "layer_norm": _layer_norm_value,
    "matmul": lambda np_, layer, parameters, inputs: turned(np_, inputs[0], layer.transpose_a)
    @ turned(np_, inputs[1], layer.transpose_b),
}  # fmt: skip


def values(net, params, X, np_=NUMPY, table=VALUES):
    """The value of every node, (n, *shape) each; params by name, X by input."""
    graph = net._graph
    found = [None] * len(graph.nodes)
    for i, x in zip(graph.inputs, X, strict=True):
        found[i] = x
    for i, node in enumerate(graph.nodes):
        if node.inputs:
            value = table[node.layer.op](
                np_, node.layer, [params[name] for name in node.parameters], [found[k] for k in node.inputs]
            )
            found[i] = value.reshape(len(value), *node.shape)
    return found


def by_name(net, theta):
    """Views of a vector that is laid out as theta."""
    return {name: theta[p.offset : p.offset + p.rows * p.cols].reshape(p.shape) for name, p in net._parameters.items()}


def loss_of(np_, loss, a, y):
    """E of each row and position."""
    xp, r = np_.xp, a - y
    if isinstance(loss, bp.losses.Huber):
        d = loss.delta
        return xp.sum(xp.where(abs(r.real) <= d, r * r / 2, d * (r * xp.sign(r.real) - d / 2)), -1)
    return {
        "squared_error": lambda: xp.sum(r * r, -1) / 2,
        "mse": lambda: xp.mean(r * r, -1),
        "cross_entropy": lambda: -xp.sum(y * xp.log(a), -1),
        "binary_cross_entropy": lambda: -xp.sum(y * xp.log(a) + (1 - y) * xp.log(1 - a), -1),
    }[loss]()


# ---- a graph with losses and data ----


@dataclass(repr=False)
class Case:
    """A network, and what it may be trained on; lists have an entry an input or an output."""

    net: bp.Network
    X: list[np.ndarray]
    y: list[np.ndarray]
    loss: list[Any]
    weight: list[float]
    w: np.ndarray | None

    def __repr__(self):
        nodes = [f"{n.name} = {n.layer!r}{[self.net._nodes[i].name for i in n.inputs]}" for n in self.net._nodes]
        outputs = list(zip(self.net.outputs.items(), self.loss, self.weight, strict=True))
        return "\n".join([*nodes, f"{outputs}, {len(self.X[0])} rows, {'un' if self.w is None else ''}weighted"])

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))

    @property
    def args(self):
        """X and y of a call."""
        return (self.X if len(self.X) > 1 else self.X[0]), (self.y if len(self.y) > 1 else self.y[0])

    @property
    def options(self):
        """The rest."""
        losses = [bp.losses.Weighted(*pair) for pair in zip(self.loss, self.weight, strict=True)]
        return {"loss": losses if len(losses) > 1 else losses[0], "sample_weight": self.w}

    def predicted(self, X):
        """A list of the network's answers."""
        answers = self.net.predict(X if len(X) > 1 else X[0])
        return list(answers) if isinstance(answers, tuple) else [answers]

    def cost(self, params, X=None, np_=NUMPY, table=VALUES):
        """C, as bp.h defines it: sum w E / sum w, E the weighted sum of the means over positions."""
        found = values(self.net, params, self.X if X is None else X, np_, table)
        E = 0
        for i, y, loss, weight in zip(self.net._graph.outputs, self.y, self.loss, self.weight, strict=True):
            a = found[i]
            if y.ndim < a.ndim:
                y = np.eye(a.shape[-1])[y]
            e = loss_of(np_, loss, a, y)
            E = E + weight * e.reshape(len(e), -1).mean(-1)
        w = np.ones(len(self.X[0])) if self.w is None else self.w
        return (w * E).sum() / w.sum()

    def gradient(self):
        """dC/dtheta by complex steps: no difference is taken, so all digits are right."""
        theta = np.array(self.net.theta, complex)
        grad = np.empty(len(theta))
        for i in range(len(theta)):
            theta[i] += 1e-30j
            grad[i] = self.cost(by_name(self.net, theta)).imag / 1e-30
            theta[i] = theta[i].real
        return grad


def _loss_of_output(draw, rng, symbol, n):
    """A loss that suits an output, and targets."""
    f = getattr(symbol.layer, "activation", "")
    last = getattr(symbol.layer, "axis", -1) in (-1, len(symbol.shape) - 1)
    kinds = {"logistic": ["binary_cross_entropy"], "softmax": ["cross_entropy", "labels"] * last}.get(f, [])
    kind = draw(st.sampled_from([*kinds, *kinds, "squared_error", "mse", "huber"]))
    if kind == "labels":
        return "cross_entropy", rng.integers(0, symbol.shape[-1], (n, *symbol.shape[:-1]))
    if kind == "cross_entropy":
        return kind, rng.dirichlet(np.ones(symbol.shape[-1]), (n, *symbol.shape[:-1]))
    if kind == "binary_cross_entropy":
        return kind, rng.random((n, *symbol.shape))
    return bp.losses.Huber(delta=0.7) if kind == "huber" else kind, rng.standard_normal((n, *symbol.shape))


@st.composite
def cases(draw, operations=tuple(OPERATIONS), most=8, single=False, dtype="float64", rows=(1, 6)):
    """Cases of up to `most` operations; single: of one input and one output."""
    inputs = [bp.Input(draw(SHAPES)) for _ in range(1 if single else draw(st.integers(1, 2)))]
    pool = list(inputs)
    for _ in range(draw(st.integers(1, most))):
        pool.append(OPERATIONS[draw(st.sampled_from(operations))](draw, pool))
    pool += [bp.Dense(2, "tanh")(x) for x in inputs if not any(x in s.inputs for s in pool)]
    read = {id(x) for symbol in pool for x in symbol.inputs}
    ends = [symbol for symbol in pool if id(symbol) not in read]
    if len(ends) > (1 if single else 3):
        ends = [bp.Dense(3, draw(st.sampled_from(SMOOTH)))(bp.concat([bp.Reshape(-1)(end) for end in ends]))]
    elif not single and draw(st.booleans()):  # what others read may be an output as well
        within = [s for s in pool if s.inputs and all(s is not end for end in ends)]
        ends += within[: draw(st.integers(0, 1))]
    net = bp.Network(inputs[0], ends[0], dtype=dtype) if single else bp.Network(inputs, ends, dtype=dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    net.theta = 0.6 * rng.standard_normal(net.n_params)
    n = draw(st.integers(*rows))
    X = [rng.uniform(-1, 1, (n, *x.shape)) for x in inputs]
    with np.errstate(over="ignore", invalid="ignore"):
        assume(all(np.abs(value).max() < LARGEST for value in values(net, net.params, X)))
    losses, y = zip(*(_loss_of_output(draw, rng, symbol, n) for symbol in ends), strict=True)
    weight = [draw(st.sampled_from([1.0, 0.3])) for _ in ends]
    w = rng.uniform(0.1, 2, n) if draw(st.booleans()) else None
    return Case(net, X, list(y), list(losses), weight, w)
