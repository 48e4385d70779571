"""A convolutional network on Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), 28x28 pixels, ten kinds of clothes.

    apt install dataset-fashion-mnist               # Debian and its kin; or give --folder
    python examples/fashion_mnist.py                # some minutes
    python examples/fashion_mnist.py --quick        # a part of the images, one epoch
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

import bpcore as bp

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def read(path: Path) -> np.ndarray:
    """An array in the IDX format: two zero bytes, the type (8: bytes), the axes, their sizes, the numbers."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, -1, 4 + 4 * content[3]).reshape(shape)


def network(seed: int) -> bp.Network:
    return bp.Network(
        [
            bp.Input((28, 28, 1)),
            bp.Conv2D(32, 3, "relu", padding="same"),
            bp.MaxPool2D(2),
            bp.Conv2D(64, 3, "relu", padding="same"),
            bp.MaxPool2D(2),
            bp.Reshape(-1),
            bp.Dropout(0.3),
            bp.Dense(128, "relu"),
            bp.Dropout(0.3),
            bp.Dense(10, "softmax"),
        ],
        seed=seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.folder.exists():
        print(f"There is no {options.folder}: install Debian's dataset-fashion-mnist, or give --folder.")
        return
    parts = [
        (read(options.folder / f"{part}-images-idx3-ubyte.gz"), read(options.folder / f"{part}-labels-idx1-ubyte.gz"))
        for part in ("train", "t10k")
    ]
    (X, y), (X_test, y_test) = [((images / np.float32(255))[..., None], labels) for images, labels in parts]
    if options.quick:
        X, y = X[:6000], y[:6000]
    net = network(options.seed)
    for epochs, lr in ((1, 1e-3),) if options.quick else ((8, 1e-3), (4, 2e-4)):
        net.fit(X, y, optimizer=bp.Adam(lr=lr), epochs=epochs, batch_size=64, verbose=1)
    accuracy = net.evaluate(X_test, y_test)["accuracy"]
    print(f"{net.n_params:,} parameters, {accuracy:.2%} of {len(y_test)} test images right")
    assert accuracy > (0.7 if options.quick else 0.91)


if __name__ == "__main__":
    main()
