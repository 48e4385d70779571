"""Networks whose weights move in all the ways that there are: name: make, X, y, batch_size."""

import numpy as np

import bpcore as bp

RNG = np.random.default_rng(0)


def dense(width=6, **settings):
    return bp.Network([bp.Input(5), bp.Dense(width, "relu"), bp.Dense(3, "softmax")], dtype="float64", **settings)


def table(n):
    words = bp.Input(4, integer=True)
    return bp.Network(words, bp.Dense(2)(bp.Reshape(-1)(bp.Embedding(n, 3)(words))), dtype="float64", seed=1)


def checkpointed():
    layers = [bp.Dense(7, "tanh") for _ in range(6)]
    return bp.Network([bp.Input(5), *layers, bp.Dense(3, "softmax")], dtype="float64", checkpoint=True)


def recurrent():
    layers = [bp.Reshape((5, 1)), bp.LSTM(4), bp.LayerNorm()]
    return bp.Network([bp.Input(5), *layers, bp.Dense(3, "softmax")], dtype="float64")


def frozen():
    net = dense()
    net.frozen = {"dense_1"}
    return net


def convolution():
    layers = [bp.Reshape((5, 1)), bp.Conv1D(4, 3, "tanh", l2=0.01, lr_scale=0.5), bp.Reshape(-1)]
    return bp.Network([bp.Input(5), *layers, bp.Dense(3, "softmax")], dtype="float64")


X, LABELS = RNG.standard_normal((90, 5)), RNG.integers(0, 3, 90)
WORDS, Y = RNG.integers(0, 60, (90, 4)), RNG.standard_normal((90, 2))
LONG, MANY = RNG.standard_normal((36_000, 5)), RNG.integers(0, 3, 36_000)
CASES = {
    "dense": (dense, X, LABELS, 20),
    "one at a time": (dense, X[:20], LABELS[:20], 1),
    "wide": (lambda: dense(300), X, LABELS, 40),
    "recurrent": (recurrent, X, LABELS, 40),
    "convolution": (convolution, X, LABELS, 20),
    "frozen": (frozen, X, LABELS, 20),
    "checkpoint": (checkpointed, X, LABELS, 40),
    "chunks": (dense, LONG, MANY, 18_000),
    "small table": (lambda: table(60), WORDS, Y, 20),
    "large table": (lambda: table(4000), WORDS, Y, 20),
    "table in chunks": (lambda: table(60), RNG.integers(0, 60, (36_000, 4)), RNG.standard_normal((36_000, 2)), 18_000),
}
