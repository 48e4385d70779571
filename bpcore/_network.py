"""The network: layers, one vector of parameters, and every way to use them."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from bpcore import _activations, _core, _io, _plans, _threads, _training, _validate
from bpcore._history import History
from bpcore._layers import Dense, Input
from bpcore._losses import BuiltIn, Loss
from bpcore._optimizers import SGD, Memory, Optimizer
from bpcore._tape import Gradients, Tape

_LossLike = str | BuiltIn | Loss


@dataclass(frozen=True)
class Parameter:
    """Where a parameter lies: theta[offset : offset + rows * cols] as [rows, cols]."""

    offset: int
    rows: int
    cols: int
    decay: bool
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A layer in its place; `parameters` are names in the network's table."""

    name: str
    layer: Any
    n_out: int
    parameters: tuple[str, ...] = ()


def _aligned(n: int, dtype: np.dtype[Any]) -> np.ndarray:
    """(n,) zeros that begin at a multiple of 64 bytes."""
    whole = np.zeros(n * dtype.itemsize + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + n * dtype.itemsize].view(dtype)


class Network:
    """A feed-forward network: an `Input`, then `Dense` layers.

    dtype: "float32" or "float64", of parameters and arithmetic.  seed: of the first weights and of shuffling, 0 to
    2^64 - 1.  All parameters are one vector `theta`; `params`, `W[l]` and `b[l]` are views of it, l = 1..L.
    Raises ValueError or TypeError for layers that do not fit.

    The algorithm is that of Rumelhart, Hinton and Williams (1986) in the notation of Nielsen (2015).
    """

    def __init__(self, layers: Sequence[Input | Dense], *, dtype: Any = "float32", seed: int = 0) -> None:
        self._dtype = _validate.dtype(dtype)
        self._seed = _validate.seed(seed)
        self._nodes, self._parameters = lay_out(layers)
        self._layers = tuple(node.layer for node in self._nodes)
        self.step = 0
        self.epoch = 0
        self._memory = Memory()
        self._bind(_aligned(sum(p.rows * p.cols for p in self._parameters.values()), self._dtype))
        self._draw()

    def _bind(self, theta: np.ndarray) -> None:
        """Makes theta the parameters, and the views of it."""
        self._theta = theta
        self._plans = _plans.PlanCache()
        self._fitting = _core.OneAtATime()
        self._params = MappingProxyType(
            {
                name: theta[p.offset : p.offset + p.rows * p.cols].reshape(p.shape)
                for name, p in self._parameters.items()
            }
        )

    def _draw(self) -> None:
        drawn: set[str] = set()
        for node in self._nodes[1:]:
            if node.parameters[0] in drawn:
                continue
            W = self._params[node.parameters[0]]
            W[...] = node.layer.draw_weights(W.shape[0], self._dtype, self._seed, len(drawn))
            for name in node.parameters[1:]:
                self._params[name][...] = node.layer.draw_bias(self._dtype)
            drawn.add(node.parameters[0])

    # ---- what it is ----

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters and arithmetic."""
        return self._dtype

    @property
    def seed(self) -> int:
        """Of the first weights and of shuffling."""
        return self._seed

    @property
    def layers(self) -> tuple[Input | Dense, ...]:
        """The layers, the input first."""
        return self._layers

    @property
    def n_inputs(self) -> int:
        """n_0"""
        return self._nodes[0].n_out

    @property
    def n_outputs(self) -> int:
        """n_L"""
        return self._nodes[-1].n_out

    @property
    def n_params(self) -> int:
        """Length of theta."""
        return self._theta.size

    @property
    def theta(self) -> np.ndarray:
        """All parameters, (n_params,), writable: a write is seen by the next call.  Assigning checks, then copies."""
        return self._theta

    @theta.setter
    def theta(self, value: Any) -> None:
        self._fitting.check("theta")
        self._theta[:] = _validate.parameters("theta", value, (self.n_params,), self._dtype)

    @property
    def params(self) -> Mapping[str, np.ndarray]:
        """Views of theta by name, as they lie: "dense_1.W" is [n_0, n_1], "dense_1.b" is (n_1,)."""
        return self._params

    @property
    def W(self) -> tuple[Any, ...]:
        """W[l], (n_l, n_{l-1}): row j is unit j of layer l.  Transposed views of theta; W[0] is None."""
        return self._views(self._theta)[0]

    @property
    def b(self) -> tuple[Any, ...]:
        """b[l], (n_l,), views of theta; None for l = 0 and for layers without bias."""
        return self._views(self._theta)[1]

    def _views(self, vector: np.ndarray) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """W and b, by layer, of any vector that is laid out as theta is."""
        W: list[Any] = [None]
        b: list[Any] = [None]
        for node in self._nodes[1:]:
            parts = []
            for name in node.parameters:
                p = self._parameters[name]
                parts.append(vector[p.offset : p.offset + p.rows * p.cols].reshape(p.shape))
            W.append(parts[0].T)
            b.append(parts[1] if len(parts) > 1 else None)
        return tuple(W), tuple(b)

    def __repr__(self) -> str:
        chain = " -> ".join(map(repr, self._layers))
        return f"<Network {chain}, {self._dtype}, {self.n_params:,} parameters>"

    def summary(self) -> str:
        """A table of the layers with their shapes and numbers of parameters."""
        rows = [("layer", "activation", "output", "parameters")]
        seen: set[str] = set()
        for node in self._nodes:
            count = sum(math.prod(self._parameters[name].shape) for name in node.parameters)
            shared = bool(seen & set(node.parameters))
            seen |= set(node.parameters)
            activation = _activations.label(node.layer.activation) if node.layer.op == "dense" else ""
            rows.append((node.name, activation, f"(n, {node.n_out})", "shared" if shared else f"{count:,}"))
        rows.append(("total", "", str(self._dtype), f"{self.n_params:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    # ---- training ----

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        loss: _LossLike = "auto",
        optimizer: Optimizer | str = SGD(),  # noqa: B008 (frozen)
        epochs: int = 1,
        batch_size: int | None = 32,
        shuffle: bool = True,
        validation_data: tuple[Any, Any] | None = None,
        sample_weight: Any = None,
        callbacks: Any = (),
        n_threads: int | None = None,
        seed: int | None = None,
        check_finite: bool = True,
        verbose: int = 0,
    ) -> History:
        """Trains on X (n, n_0) and y for `epochs` epochs, going on from where the network is.

        theta moves by the optimiser's rule along dC/dtheta, with C = sum w E / sum w over each batch (Rumelhart,
        Hinton and Williams 1986).  X and y: any real dtype and strides, read in place, never written.  y: (n, n_L),
        (n,) where n_L is 1, or class labels (n,) for cross_entropy.  batch_size None: the full batch; 1: online
        learning.  loss "auto": softmax -> cross_entropy, logistic -> binary_cross_entropy, else squared_error.
        sample_weight: (n,), w.  seed: of the shuffling, instead of the network's.  check_finite=False skips the scan
        for NaN and infinity.  verbose=1 prints a line an epoch.  Any n_threads gives the same bits.

        Returns the History.  Raises ValueError or TypeError for what does not fit, before anything has changed;
        DivergenceError when the loss or a parameter is no longer finite, with the last finite parameters kept;
        RuntimeError where this network is being fitted already.
        """
        return _training.fit(
            self,
            X,
            y,
            _training.Settings(
                loss, optimizer, epochs, batch_size, shuffle, validation_data, sample_weight, callbacks, n_threads,
                seed, check_finite, verbose,
            ),
        )  # fmt: skip

    # ---- answering ----

    def predict(self, X: Any, *, n_threads: int | None = None) -> np.ndarray:
        """a^L for every row of X (n, n_0): (n, n_L) in the network's dtype.  A row has the same bits in every batch."""
        self._fitting.check("predict")
        return self._predict(_validate.inputs(X, self.n_inputs, self._dtype), _threads.resolve(n_threads))

    def _predict(self, X: np.ndarray, threads: int) -> np.ndarray:
        out = np.empty((len(X), self.n_outputs), self._dtype)
        with self._plans.take(self, _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, threads)) as made:
            run = _core.Run(made.plan, self._theta)
            run.ports([(made.a[0], X)], [(made.a[-1], out)])
            _training.whole(run, len(X), threads)
        return out

    def predictor(self, *, n_threads: int | None = None) -> _core.Predictor:
        """The network as it is now, to be asked from any number of threads: `answer = net.predictor()`.

        `answer(x)` takes a row (n_0,), any array or buffer of real numbers, and gives (n_L,), in about a microsecond;
        or rows (n, n_0), and gives (n, n_L), on up to `n_threads` threads.  `out=` takes the result.  The bits are
        those of `predict`.  Nothing is scanned: NaN and infinity are computed with.  Later training does not change it.
        """
        self._fitting.check("predictor")
        threads = _threads.resolve(n_threads)
        theta = _aligned(self._theta.size, self._dtype)
        theta[:] = self._theta
        made = _plans.compiled(self, _plans.Key(_plans.PREDICT, 1, threads))
        functions = (node.layer.activation for node in self._nodes[1:])
        calls_python = any(isinstance(f, _activations.Activation) and not f.is_low_level for f in functions)
        slow = functools.partial(self.copy()._predict, threads=threads) if calls_python else None
        return _core.Predictor(made.plan, theta, made.a[0], made.a[-1], self.n_inputs, self.n_outputs, threads, slow)

    def evaluate(
        self, X: Any, y: Any, *, loss: _LossLike = "auto", sample_weight: Any = None, n_threads: int | None = None
    ) -> dict[str, float]:
        """{"loss": C over X and y, "accuracy": the weighted share that is right}.

        accuracy: with cross_entropy, of rows whose largest output is the right one; with binary_cross_entropy, of
        outputs on the right side of 1/2; no such entry with other losses.
        """
        self._fitting.check("evaluate")
        data = _training.Data(self, X, y, loss, sample_weight)
        return data.evaluate(self, _threads.resolve(n_threads))

    # ---- gradients ----

    def forward(self, X: Any) -> Tape:
        """The forward pass over X (n, n_0), with everything that it computed: z, a and f' of each layer."""
        self._fitting.check("forward")
        X = _validate.inputs(X, self.n_inputs, self._dtype)
        threads = _threads.resolve(None)
        key = _plans.Key(_plans.TRACE, _plans.INFERENCE_ROWS, threads)
        theta = self._theta.copy()
        with self._plans.take(self, key) as made:
            filled: dict[int, np.ndarray] = {}
            for buffer, cols in self._traced(made):
                filled.setdefault(buffer, np.empty((len(X), cols), self._dtype))
            run = _core.Run(made.plan, theta)
            run.ports([(made.a[0], X)], list(filled.items()))
            _training.whole(run, len(X), threads)
            for array in (*filled.values(), theta):
                array.flags.writeable = False
            df: list[Any] = []
            for node, z, a, cached in zip(self._nodes, made.z, made.a, made.df, strict=True):
                identity = np.broadcast_to(np.ones((), self._dtype), (len(X), node.n_out)) if a == z else None
                df.append(filled[cached] if cached >= 0 else identity)
            zs, as_ = (tuple(map(filled.get, buffers)) for buffers in (made.z, made.a))
            return Tape(zs, as_, tuple(df), theta, self._activations())

    def _activations(self) -> tuple[Any, ...]:
        return tuple(node.layer.activation for node in self._nodes[1:])

    def _traced(self, made: _plans.Compiled) -> Iterator[tuple[int, int]]:
        """(buffer, columns) of all that a tape holds."""
        for node, *buffers in zip(self._nodes, made.z, made.a, made.df, strict=True):
            yield from ((buffer, node.n_out) for buffer in buffers if buffer >= 0)

    def backward(self, tape: Tape, y: Any, *, loss: _LossLike = "auto", sample_weight: Any = None) -> Gradients:
        """Backpropagation along a tape of `forward`: the gradients of C with respect to everything.

        delta^L = f'(z^L) * dE/da^L;  delta^{l-1} = f'(z^{l-1}) * (W^l)^T delta^l;  dC/dW^l = delta^l (a^{l-1})^T,
        dC/db^l = delta^l, summed over examples with their weights (Nielsen 2015, BP1 to BP4).
        """
        self._fitting.check("backward")
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected what net.forward(X) returned, got {type(tape).__name__}")
        widths = tuple(a.shape[1] for a in tape.a)
        same = widths == tuple(node.n_out for node in self._nodes) and tape.activations == self._activations()
        if not same or tape.theta.shape != self._theta.shape:
            raise ValueError("tape: expected a tape of this network, got one of another")
        if tape.theta.dtype != self._dtype:
            raise ValueError(f"tape: expected a tape in {self._dtype}, got {tape.theta.dtype}")
        data = _training.Data(self, tape.a[0], y, loss, sample_weight)
        theta = np.zeros(self.n_params, self._dtype)
        delta, x, total, weight = self._reverse(tape, data, theta)
        if data.weight is not None:
            unweighted = _training.Data(self, tape.a[0], y, loss, None)
            delta = self._reverse(tape, unweighted, np.empty_like(theta))[0]
        W, b = self._views(theta)
        return Gradients(total / weight, (None, *delta), W, b, x / weight, theta)

    def _reverse(
        self, tape: Tape, data: _training.Data, theta: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray, float, float]:
        """w delta by layer, w dE/dx, and the sums of w E and of w; fills theta with dC/dtheta."""
        n, threads = len(tape.a[0]), _threads.resolve(None)
        with self._plans.take(self, data.key(_plans.REVERSE, n, threads)) as made:
            known: dict[int, np.ndarray] = {}
            for arrays, buffers in ((tape.a, made.a), (tape.z, made.z), (tape.df, made.df)):
                for array, buffer in zip(arrays, buffers, strict=True):
                    if buffer >= 0 and array is not None:
                        known[buffer] = array
            delta = [np.empty((n, node.n_out), self._dtype) for node in self._nodes[1:]]
            x = np.empty((n, self.n_inputs), self._dtype)
            grads = [made.plan.grad(buffer) for buffer in (made.a[0], *made.z[1:])]
            run = _core.Run(made.plan, tape.theta)
            run.ports(
                [*known.items(), *data.ports(made)],
                list(zip(grads, [x, *delta], strict=True)),
                weight=len(known) + 1 if data.weight is not None else -1,
                target_shape=data.target.shape,
            )
            run.optimizer("gradient", (theta,))
            loss, weight = _training.whole(run, n, threads)[:2]
        return delta, x, loss, weight

    def value_and_grad(
        self, X: Any, y: Any, *, loss: _LossLike = "auto", sample_weight: Any = None, n_threads: int | None = None
    ) -> tuple[float, np.ndarray]:
        """C over X and y, and dC/dtheta: (n_params,), in the order of theta; what scipy.optimize.minimize wants."""
        self._fitting.check("value_and_grad")
        data = _training.Data(self, X, y, loss, sample_weight)
        threads = _threads.resolve(n_threads)
        grad = np.zeros(self.n_params, self._dtype)
        with self._plans.take(self, data.key(_plans.TRAIN, len(data.X), threads)) as made:
            run = data.run(self, made)
            run.optimizer("gradient", (grad,))
            cost, weight = _training.whole(run, len(data.X), threads)[:2]
        return cost / weight, grad

    # ---- keeping ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the network, its counters and its optimiser's state to one safetensors file, all or nothing."""
        self._fitting.check("save")
        _io.save(self, path)

    def copy(self) -> Network:
        """An independent network: same layers, parameters, counters and optimiser state."""
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        return twin

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        self._fitting.check("copy")
        state = self.__dict__.copy()
        for name in ("_plans", "_fitting", "_params"):
            del state[name]
        state["_theta"] = self._theta.copy()
        copies = tuple(array.copy() for array in self._memory.states)
        state["_memory"] = self._memory._replace(states=copies)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        theta = _aligned(state["_theta"].size, self._dtype)
        theta[:] = state["_theta"]
        self._bind(theta)


def _checked(layers: Any) -> tuple[Input | Dense, ...]:
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Sequence):
        raise TypeError(f"layers: expected a list of layers, got {type(layers).__name__}")
    found = tuple(layers)
    for i, layer in enumerate(found):
        if not isinstance(layer, (Input, Dense)):
            raise TypeError(f"layers[{i}]: expected bp.Input or bp.Dense, got {layer!r} of type {type(layer).__name__}")
        if isinstance(layer, Input) != (i == 0):
            raise ValueError(f"layers[{i}]: expected bp.Input first and bp.Dense after it, got {layer!r}")
    if len(found) < 2:
        raise ValueError(f"layers: expected bp.Input and at least one bp.Dense, got {len(found)} layers")
    return found


def lay_out(layers: Sequence[Input | Dense]) -> tuple[list[Node], dict[str, Parameter]]:
    """Nodes in order, and each parameter's place in theta, by name, in the order of first use."""
    layers = _checked(layers)
    nodes = [Node("input", layers[0], layers[0].units)]
    table: dict[str, Parameter] = {}
    names: dict[Dense, str] = {}
    given = {getattr(layer, "name", None) for layer in layers}
    taken = {"input"}
    uses: dict[Dense, int] = {}
    offset = 0
    for layer in layers[1:]:
        assert isinstance(layer, Dense)
        n_in, n_out = nodes[-1].n_out, layer.units
        uses[layer] = uses.get(layer, 0) + 1
        if layer not in names:
            number = len(names) + 1
            while f"dense_{number}" in given or f"dense_{number}" in taken:
                number += 1
            names[layer] = layer.name or f"dense_{number}"
            if names[layer] in taken:
                raise ValueError(f"layers: expected names of their own, got {names[layer]!r} twice")
            taken.add(names[layer])
            shapes: list[tuple[str, tuple[int, ...]]] = [("W", (n_in, n_out)), ("b", (n_out,))]
            for letter, shape in shapes[: 1 + layer.bias]:
                rows, cols = (shape[0], shape[1]) if len(shape) == 2 else (shape[0], 1)
                table[f"{names[layer]}.{letter}"] = Parameter(offset, rows, cols, letter == "W", shape)
                offset += rows * cols
        name = names[layer]
        if table[f"{name}.W"].rows != n_in:
            raise ValueError(
                f"layers: {name} is used twice, for {table[f'{name}.W'].rows} and for {n_in} inputs; its weights "
                "fit only one width"
            )
        suffix = "" if uses[layer] == 1 else f"@{uses[layer]}"
        nodes.append(Node(name + suffix, layer, n_out, tuple(f"{name}.{s}" for s in ("W", "b")[: 1 + layer.bias])))
    if offset > 2**40:
        raise ValueError(f"layers: {offset:,} parameters are more than bpcore can hold; make the layers smaller")
    return nodes, table
