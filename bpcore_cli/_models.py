"""A network from a file, and what its answers are called."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import bpcore as bp
from bpcore_cli._errors import Wrong, refused


class Model:
    """A network of one input and one output, which answers with classes or numbers."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.net = load(path)
        if self.net.table is not None:
            raise Wrong(f"{path}: a network of a bp.Table takes data frames; use bp.load({path!r}).predict(frame)")
        if len(self.net.inputs) != 1 or len(self.net.outputs) != 1:
            raise Wrong(f"{path}: expected a network of one input and one output; use bp.load({path!r}).predict(...)")
        (self.input,), (self.output,) = self.net.inputs, self.net.outputs
        self.shape = self.net.inputs[self.input]
        self.names = self.net.feature_names.get(self.input, ())
        self.n_inputs, self.n_outputs = self.net.n_inputs, self.net.n_outputs
        activation = _output_activation(self.net)
        self.is_binary = activation == "logistic" and self.n_outputs == 1
        self.is_classes = self.is_binary or (activation == "softmax" and len(self.net.outputs[self.output]) == 1)

    def rows(self, X: np.ndarray) -> np.ndarray:
        """(n, n_inputs) numbers as the network takes them; Wrong where its dtype cannot hold them."""
        x = X.reshape(len(X), *self.shape)
        with np.errstate(over="ignore"):
            held = x.astype(self.net.dtype)
        if not np.isfinite(held).all():
            row = int(np.argwhere(~np.isfinite(held))[0][0]) + 1
            raise Wrong(f"row {row}: expected finite numbers that {self.net.dtype} can hold")
        return x

    def probabilities(self, answers: np.ndarray) -> np.ndarray:
        """Of each class, (n, classes), from what the network answers."""
        return np.column_stack([1 - answers, answers]) if self.is_binary else answers

    def labels(self, answers: np.ndarray) -> np.ndarray:
        """The class of each row, (n,) integers."""
        return (answers[:, 0] > 0.5).astype(np.int64) if self.is_binary else answers.argmax(axis=1)

    def predictions(self, answers: np.ndarray) -> np.ndarray:
        """What a user wants to read: the class of each row, or its numbers, (n, m), (n,) where m is 1."""
        if self.is_classes:
            return self.labels(answers)
        flat = answers.reshape(len(answers), self.n_outputs)
        return flat[:, 0] if self.n_outputs == 1 else flat


def load(path: str) -> bp.Network:
    """A network; Wrong where there is none."""
    if os.path.isdir(path):
        raise Wrong(f"{path}: expected a file of a network, and it is a folder")
    if not os.path.exists(path):
        raise Wrong(f"{path}: there is no such file; expected one that net.save or bpcore train wrote")
    with refused():
        return bp.load(path)


def _output_activation(net: bp.Network) -> str:
    (output,) = net.outputs
    layer: Any = next(layer for layer in net.layers if layer.name == output)
    return str(getattr(layer, "activation", ""))
