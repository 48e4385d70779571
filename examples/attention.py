"""Sorting by attention: one block of multi-head self-attention puts eight digits in order.

    python examples/attention.py
    python examples/attention.py --quick

Multi-head attention (Vaswani et al. 2017) is written with Dense, Reshape, Permute, MatMul and softmax; each position
then says which digit stands there once all are sorted.
"""

import argparse

import numpy as np

import bpcore as bp

POSITIONS, DIGITS, UNITS, HEADS = 8, 10, 32, 4


def attention(x: bp.Symbol, heads: int) -> bp.Symbol:
    """softmax(Q K^T / sqrt(d)) V in each head, from (positions, units) to the same."""
    positions, units = x.shape

    def split() -> bp.Symbol:  # (heads, positions, units / heads)
        return bp.Permute((1, 0, 2))(bp.Reshape((positions, heads, units // heads))(bp.Dense(units)(x)))

    q, k, v = split(), split(), split()
    weights = bp.Activate("softmax")(bp.MatMul(transpose_b=True)(q, k) / (units / heads) ** 0.5)
    return bp.Dense(units)(bp.Reshape((positions, units))(bp.Permute((1, 0, 2))(weights @ v)))


def network(seed: int) -> bp.Network:
    digits = bp.Input(POSITIONS, integer=True, name="digits")
    places = bp.Input(POSITIONS, integer=True, name="places")
    h = bp.Embedding(DIGITS, UNITS)(digits) + bp.Embedding(POSITIONS, UNITS)(places)
    h = bp.LayerNorm()(h + attention(h, HEADS))
    h = bp.LayerNorm()(h + bp.Dense(UNITS)(bp.Dense(4 * UNITS, "relu")(h)))
    return bp.Network([digits, places], bp.Dense(DIGITS, "softmax")(h), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples")
    quick = parser.parse_args().quick
    rng = np.random.default_rng(0)
    n = 10_000 if quick else 50_000
    X = rng.integers(0, DIGITS, (n + 1000, POSITIONS))
    inputs, y = [X, np.broadcast_to(np.arange(POSITIONS), X.shape)], np.sort(X)
    train, test = ([a[:n] for a in inputs], y[:n]), ([a[n:] for a in inputs], y[n:])
    net = network(0)
    for epochs, lr in ((2, 0.005), (1, 0.001)) if quick else ((4, 0.005), (2, 0.0005)):
        net.fit(*train, optimizer=bp.Adam(lr=lr), epochs=epochs, batch_size=64, verbose=int(not quick))
    answers = net.predict(test[0]).argmax(-1)
    right = answers == test[1]
    print(f"{right.mean():.1%} of the places right, {right.all(1).mean():.1%} of the rows")
    for row, answer in zip(test[0][0][:3], answers, strict=False):
        print(f"{row} -> {answer}")
    assert right.mean() > (0.7 if quick else 0.97)


if __name__ == "__main__":
    main()
