"""NumPy, as an expert would write it.

Every array is allocated once; W and b are one block and each activation carries a column of ones, so that one
product gives both; the rate and 1/B are folded into delta, so that the update is one subtraction; outputs are
kept for the epoch and the loss is taken from them once at its end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from adapters import Prediction, Spec, blocks, weights

VARIANTS = ("",)
FEW = 4096  # below so many elements a call costs more than a pass over them
ADAM_BLOCK = 16384  # parameters whose Adam state stays in L2 over the passes


def load(threads: int, variant: str) -> dict[str, str]:
    versions = {"numpy": np.__version__}
    try:
        from threadpoolctl import threadpool_info, threadpool_limits
    except ImportError:
        return versions
    threadpool_limits(threads)
    for pool in threadpool_info():
        described = (pool["version"], pool.get("architecture"), f"{pool['num_threads']} threads")
        versions[pool["internal_api"]] = ", ".join(map(str, described))
    return versions


class Train:
    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray) -> None:
        n, batch, dtype = len(X), spec.batch, spec.dtype
        self.start = theta.copy()
        self.theta = theta.copy()
        self.grad = np.empty_like(theta)
        self.Wb = blocks(self.theta, spec.sizes)
        self.dWb = blocks(self.grad, spec.sizes)
        self.optimizer = _Adam(spec, theta) if spec.optimizer == "adam" else None
        scale = (1.0 if self.optimizer else spec.lr) / batch

        self.out: _Logistic | _Softmax
        if spec.sizes[-1] == 1:
            self.out = _Logistic(y, batch, scale)
        else:
            self.out = _Softmax(y, spec.sizes[-1], batch, scale, dtype)
        X1 = np.ones((n, spec.sizes[0] + 1), dtype)
        X1[:, :-1] = X
        rows = [slice(i, i + batch) for i in range(0, n, batch)]
        self.batches = [(X1[r], X1[r].T, *self.out.batch(r)) for r in rows]

        hidden = [_Hidden(batch, units, spec) for units in spec.sizes[1:-1]]
        self.forward = list(zip(self.Wb[:-1], hidden, strict=True))
        # last hidden layer first: W above without its bias, transposed; the layer; a below; gradient
        W_above = [Wb[:-1].T for Wb in self.Wb[1:]]
        a_below = [None] + [h.a.T for h in hidden[:-1]]
        self.backward = list(zip(W_above, hidden, a_below, self.dWb[:-1], strict=True))[::-1]

    def reset(self) -> None:
        self.theta[:] = self.start
        if self.optimizer:
            self.optimizer.reset()

    def run(self, epochs: int) -> list[float]:
        return [self._epoch() for _ in range(epochs)]

    def _epoch(self) -> float:
        dot, multiply, subtract = np.dot, np.multiply, np.subtract
        forward, backward, optimizer = self.forward, self.backward, self.optimizer
        theta, grad, W_last, dW_last = self.theta, self.grad, self.Wb[-1], self.dWb[-1]
        output, delta_last = self.out.step, self.out.delta
        for x, x_T, kept, target in self.batches:
            a = x
            for Wb, h in forward:
                dot(a, Wb, out=h.z)
                h.activate(h.z, h.units, h.df)
                a = h.a
            output(a, W_last, kept, target)
            dot(a.T, delta_last, out=dW_last)
            delta = delta_last
            for W_T, h, a_T, dWb in backward:
                dot(delta, W_T, out=h.delta)
                delta = multiply(h.delta, h.df, out=h.delta)
                dot(x_T if a_T is None else a_T, delta, out=dWb)
            if optimizer:
                optimizer.update(theta, grad)
            else:
                subtract(theta, grad, out=theta)
        return self.out.loss()


class Predict(Prediction):
    """Buffers kept for the rows; the answer is an array of its own."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        self.x = X
        self.layers = [(W, b, np.empty((len(X), len(b)), spec.dtype)) for W, b in weights(theta, spec.sizes)]
        self.activation = np.tanh if spec.activation == "tanh" else _relu
        self.row = np.empty((len(X), 1), spec.dtype)

    def answer(self, a: NDArray) -> NDArray:
        for W, b, z in self.layers[:-1]:
            np.dot(a, W, out=z)
            np.add(z, b, out=z)
            a = self.activation(z, out=z)
        W, b, z = self.layers[-1]
        np.add(np.dot(a, W, out=z), b, out=z)
        if z.shape[1] == 1:
            return 0.5 + 0.5 * np.tanh(0.5 * z)
        np.subtract(z, np.maximum.reduce(z, axis=1, keepdims=True, out=self.row), out=z)
        np.exp(z, out=z)
        return z / np.add.reduce(z, axis=1, keepdims=True, out=self.row)


def _relu(z: NDArray, out: NDArray) -> NDArray:
    return np.maximum(z, 0.0, out=out)


class _Hidden:
    """The buffers of a hidden layer: z, a with its column of ones, df, delta."""

    def __init__(self, batch: int, units: int, spec: Spec) -> None:
        few = batch * units <= FEW
        self.z = np.empty((batch, units), spec.dtype)
        self.a = np.ones((batch, units + 1), spec.dtype)
        self.units = self.a[:, :-1]
        self.delta = np.empty((batch, units), spec.dtype)
        self.df = np.empty((batch, units), spec.dtype if few or spec.activation != "relu" else bool)
        self.activate: Callable[[NDArray, NDArray, NDArray], None]
        self.activate = _tanh if spec.activation == "tanh" else _relu_few if few else _relu_many


def _relu_few(z: NDArray, a: NDArray, df: NDArray) -> None:
    np.maximum(z, 0.0, out=a)
    np.sign(a, out=df)


def _relu_many(z: NDArray, a: NDArray, df: NDArray) -> None:
    np.greater(z, 0.0, out=df)
    np.multiply(z, df, out=a)


def _tanh(z: NDArray, a: NDArray, df: NDArray) -> None:
    np.tanh(z, out=z)
    a[:] = z
    np.multiply(z, z, out=df)
    np.subtract(1.0, df, out=df)


class _Softmax:
    """softmax and cross-entropy: delta = scale (p - one_hot(y))."""

    def __init__(self, y: NDArray, units: int, batch: int, scale: float, dtype: str) -> None:
        n = len(y)
        self.scale = scale
        self.P = np.empty((n, units), dtype)  # scale * p of the epoch
        self.Y = np.zeros((n, units), dtype)
        self.Y[np.arange(n), y] = scale
        self.truth = np.arange(n) * units + y
        self.z = np.empty((batch, units), dtype)
        self.delta = np.empty((batch, units), dtype)
        self.row = np.empty((batch, 1), dtype)
        self.inverse_scale = np.full((units, 1), 1 / scale, dtype)

    def batch(self, rows: slice) -> tuple[NDArray, NDArray]:
        return self.P[rows], self.Y[rows]

    def step(self, a: NDArray, Wb: NDArray, P: NDArray, Y: NDArray) -> None:
        z, row = self.z, self.row
        np.dot(a, Wb, out=z)
        np.maximum.reduce(z, axis=1, keepdims=True, out=row)
        np.subtract(z, row, out=z)
        np.exp(z, out=z)
        np.dot(z, self.inverse_scale, out=row)  # sum(exp z) / scale
        np.divide(z, row, out=P)
        np.subtract(P, Y, out=self.delta)

    def loss(self) -> float:
        p = np.take(self.P, self.truth) / self.scale
        return -float(np.log(np.maximum(p, np.finfo(p.dtype).tiny)).mean(dtype=np.float64))


class _Logistic:
    """logistic and binary cross-entropy: delta = scale (p - y), p = 1/2 + tanh(z/2) / 2."""

    def __init__(self, y: NDArray, batch: int, scale: float) -> None:
        self.y = y
        self.half_scale = scale / 2
        self.Z = np.empty_like(y)  # z of the epoch
        self.shift = (scale * (0.5 - y)).astype(y.dtype)
        self.delta = np.empty((batch, 1), y.dtype)

    def batch(self, rows: slice) -> tuple[NDArray, NDArray]:
        return self.Z[rows], self.shift[rows]

    def step(self, a: NDArray, Wb: NDArray, z: NDArray, shift: NDArray) -> None:
        delta = self.delta
        np.dot(a, Wb, out=z)
        np.multiply(z, 0.5, out=delta)
        np.tanh(delta, out=delta)
        np.multiply(delta, self.half_scale, out=delta)
        np.add(delta, shift, out=delta)

    def loss(self) -> float:
        return float((np.logaddexp(0, self.Z) - self.y * self.Z).mean(dtype=np.float64))


class _Adam:
    """theta -= lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps), block by block."""

    beta1, beta2, eps = 0.9, 0.999, 1e-8

    def __init__(self, spec: Spec, theta: NDArray) -> None:
        self.lr, self.t = spec.lr, 0
        self.m, self.v = np.zeros_like(theta), np.zeros_like(theta)
        self.tmp = np.empty(min(len(theta), ADAM_BLOCK), theta.dtype)

    def reset(self) -> None:
        self.t = 0
        self.m.fill(0)
        self.v.fill(0)

    def update(self, theta: NDArray, grad: NDArray) -> None:
        self.t += 1
        root = (1 - self.beta2**self.t) ** 0.5
        rate = self.lr * root / (1 - self.beta1**self.t)
        for i in range(0, len(theta), ADAM_BLOCK):
            part = slice(i, i + ADAM_BLOCK)
            g, m, v, tmp = grad[part], self.m[part], self.v[part], self.tmp[: len(theta) - i]
            np.subtract(g, m, out=tmp)
            np.multiply(tmp, 1 - self.beta1, out=tmp)
            np.add(m, tmp, out=m)  # m + (1 - beta1) (g - m)
            np.multiply(g, g, out=g)
            np.subtract(g, v, out=g)
            np.multiply(g, 1 - self.beta2, out=g)
            np.add(v, g, out=v)
            np.sqrt(v, out=tmp)
            np.add(tmp, self.eps * root, out=tmp)
            np.divide(m, tmp, out=tmp)
            np.multiply(tmp, rate, out=tmp)
            np.subtract(theta[part], tmp, out=theta[part])
