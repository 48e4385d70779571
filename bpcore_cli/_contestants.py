"""Libraries that train and run the same network: dense layers, relu, softmax, cross-entropy, plain SGD, float32.

Each begins with the same weights (W [n_in, n_out], b) and takes the same batches in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import bpcore as bp

LR = 0.05
Weights = list[tuple[np.ndarray, np.ndarray]]


class Task(NamedTuple):
    """A network's sizes and first weights; rows, labels and the size of a batch, which divides their number."""

    sizes: Sequence[int]
    weights: Weights
    X: np.ndarray
    y: np.ndarray
    batch: int

    @classmethod
    def made(cls, sizes: Sequence[int], batch: int, rows: int, seed: int = 0) -> Task:
        """Labels are the largest of some random sums."""
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((rows, sizes[0]), np.float32)
        y = (X @ rng.standard_normal((sizes[0], sizes[-1]), np.float32)).argmax(axis=1)
        weights = []
        for n_in, n_out in pairwise(sizes):
            W = rng.standard_normal((n_in, n_out), np.float32) * np.float32((2 / n_in) ** 0.5)
            weights.append((W, np.zeros(n_out, np.float32)))
        return cls(sizes, weights, X, y, batch)


class Contestant:
    """What a library does; a method that is None it cannot do."""

    epoch: Callable[[], None] | None = None
    predict: Callable[[np.ndarray], Any] | None = None

    def weights(self) -> Weights:
        """As they are now."""
        raise NotImplementedError


class BpcoreNet(Contestant):
    """net.fit and a predictor."""

    def __init__(self, task: Task) -> None:
        hidden = [bp.Dense(units, "relu") for units in task.sizes[1:-1]]
        self.net = bp.Network([bp.Input(task.sizes[0]), *hidden, bp.Dense(task.sizes[-1], "softmax")])
        self.task = task
        self.set(task.weights)
        self.predict = self.net.predictor()

    def set(self, weights: Weights) -> None:
        """Copies them in."""
        for layer, (W, b) in enumerate(weights, 1):
            self.net.W[layer][...], self.net.b[layer][...] = W.T, b

    def epoch(self) -> None:
        task = self.task
        self.net.fit(task.X, task.y, optimizer=bp.SGD(lr=LR), batch_size=task.batch, shuffle=False)

    def weights(self) -> Weights:
        pairs = zip(self.net.W[1:], self.net.b[1:], strict=True)
        return [(W.T.copy(), b.copy()) for W, b in pairs]


class NumPyNet(Contestant):
    """Written out, with arrays that are made once."""

    def __init__(self, task: Task) -> None:
        self.layers = [(W.copy(), b.copy()) for W, b in task.weights]
        self.grads = [(np.empty_like(W), np.empty_like(b)) for W, b in task.weights]
        self.a = [np.empty((task.batch, n), np.float32) for n in task.sizes]
        self.delta = [np.empty((task.batch, n), np.float32) for n in task.sizes]
        self.rows = np.arange(task.batch)
        self.batches = [
            (task.X[i : i + task.batch], task.y[i : i + task.batch]) for i in range(0, len(task.X), task.batch)
        ]

    def epoch(self) -> None:
        last = len(self.layers)
        a, delta = self.a, self.delta
        for x, y in self.batches:
            a[0] = x
            for k, (W, b) in enumerate(self.layers):
                np.dot(a[k], W, out=a[k + 1])
                a[k + 1] += b
                if k + 1 < last:
                    np.maximum(a[k + 1], 0, out=a[k + 1])
            softmax(a[last])
            np.copyto(delta[last], a[last])
            delta[last][self.rows, y] -= 1
            delta[last] *= np.float32(1 / len(y))
            for k in range(last, 0, -1):
                dW, db = self.grads[k - 1]
                np.dot(a[k - 1].T, delta[k], out=dW)
                np.sum(delta[k], axis=0, out=db)
                if k > 1:
                    np.dot(delta[k], self.layers[k - 1][0].T, out=delta[k - 1])
                    delta[k - 1] *= a[k - 1] > 0
            for (W, b), (dW, db) in zip(self.layers, self.grads, strict=True):
                dW *= np.float32(LR)
                db *= np.float32(LR)
                W -= dW
                b -= db

    def predict(self, x: np.ndarray) -> np.ndarray:
        a = np.atleast_2d(x)
        for W, b in self.layers[:-1]:
            a = np.maximum(a @ W + b, 0)
        W, b = self.layers[-1]
        return softmax(a @ W + b)

    def weights(self) -> Weights:
        return self.layers


class SklearnNet(Contestant):
    """MLPClassifier."""

    def __init__(self, task: Task) -> None:
        from sklearn.neural_network import MLPClassifier

        self.task = task
        self.net = MLPClassifier(
            task.sizes[1:-1], solver="sgd", learning_rate_init=LR, momentum=0.0, alpha=0.0, batch_size=task.batch,
            shuffle=False, random_state=0,
        )  # fmt: skip
        self.classes = np.arange(task.sizes[-1])
        self.net.partial_fit(task.X[: task.batch], task.y[: task.batch], classes=self.classes)  # makes the arrays
        for k, (W, b) in enumerate(task.weights):
            self.net.coefs_[k][...], self.net.intercepts_[k][...] = W, b

    def epoch(self) -> None:
        self.net.partial_fit(self.task.X, self.task.y)

    def predict(self, x: np.ndarray) -> Any:
        return self.net.predict_proba(np.atleast_2d(x))

    def weights(self) -> Weights:
        return list(zip(self.net.coefs_, self.net.intercepts_, strict=True))


class TorchNet(Contestant):
    """torch.nn, eager."""

    def __init__(self, task: Task) -> None:
        import torch

        self.torch = torch
        layers: list[Any] = []
        for W, b in task.weights:
            linear = torch.nn.Linear(*W.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W.T.copy()))
                linear.bias.copy_(torch.from_numpy(b))
            layers += [linear, torch.nn.ReLU()]
        self.net: Any = torch.nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=LR)
        self.loss = torch.nn.CrossEntropyLoss()
        self.batches = list(
            zip(torch.from_numpy(task.X).split(task.batch), torch.from_numpy(task.y).split(task.batch), strict=True)
        )

    def epoch(self) -> None:
        for x, y in self.batches:
            self.optimizer.zero_grad()
            self.loss(self.net(x), y).backward()
            self.optimizer.step()

    def predict(self, x: np.ndarray) -> Any:
        with self.torch.inference_mode():
            return self.net(self.torch.from_numpy(np.atleast_2d(x))).softmax(1).numpy()

    def weights(self) -> Weights:
        linear: list[Any] = [layer for layer in self.net if hasattr(layer, "weight")]
        return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linear]


class OnnxNet(Contestant):
    """ONNX Runtime, which only answers."""

    def __init__(self, task: Task) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        nodes, tensors, last = [], [], len(task.weights) - 1
        for k, (W, b) in enumerate(task.weights):
            tensors += [numpy_helper.from_array(W, f"W{k}"), numpy_helper.from_array(b, f"b{k}")]
            nodes.append(helper.make_node("Gemm", [f"a{k}", f"W{k}", f"b{k}"], [f"z{k}"]))
            nodes.append(helper.make_node("Relu" if k < last else "Softmax", [f"z{k}"], [f"a{k + 1}"]))
        ends = [
            helper.make_tensor_value_info(f"a{k}", TensorProto.FLOAT, ["n", n])
            for k, n in ((0, task.sizes[0]), (last + 1, task.sizes[-1]))
        ]
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def predict(self, x: np.ndarray) -> Any:
        return self.session.run(None, {"a0": np.atleast_2d(x)})[0]


CONTESTANTS: dict[str, type[Any]] = {
    "bpcore": BpcoreNet, "NumPy": NumPyNet, "scikit-learn": SklearnNet, "PyTorch": TorchNet, "ONNX Runtime": OnnxNet,
}  # fmt: skip


def softmax(z: np.ndarray) -> np.ndarray:
    """Of each row, in place."""
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z
