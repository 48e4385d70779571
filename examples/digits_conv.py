"""A convolutional network on the handwritten digits that come along, 8x8 pixels.

    python examples/digits_conv.py
    python examples/digits_conv.py --quick       # a few seconds, for a first look
"""

import argparse

import numpy as np

import bpcore as bp


def network(seed: int) -> bp.Network:
    return bp.Network(
        [
            bp.Input((8, 8, 1)),
            bp.Conv2D(32, 3, "relu", padding="same"),
            bp.Conv2D(32, 3, "relu", padding="same"),
            bp.MaxPool2D(2),
            bp.Conv2D(64, 3, "relu", padding="same"),
            bp.GlobalAveragePool(),
            bp.Dense(10, "softmax"),
        ],
        seed=seed,
    )


def shifted(X: np.ndarray) -> np.ndarray:
    """Each image as it is, and moved by a pixel up, down, left and right: (5 n, 8, 8, 1)."""
    moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    around = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate([around[:, 1 + i : 9 + i, 1 + j : 9 + j] for i, j in moves])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs, and images only as they are")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train, test = bp.datasets.load_digits().split(seed=0)
    X, y = train.X.reshape(-1, 8, 8, 1), train.y
    if not options.quick:
        X, y = shifted(X), np.tile(y, 5)
    net = network(options.seed)
    for epochs, lr in ((4, 3e-3), (2, 3e-4)) if options.quick else ((12, 3e-3), (6, 3e-4)):
        net.fit(X, y, optimizer=bp.Adam(lr=lr), epochs=epochs, batch_size=32, verbose=0)
    accuracy = net.evaluate(test.X.reshape(-1, 8, 8, 1), test.y)["accuracy"]
    print(f"{net.n_params:,} parameters, {accuracy:.2%} of {len(test.y)} test digits right")
    assert accuracy > (0.95 if options.quick else 0.985)


if __name__ == "__main__":
    main()
