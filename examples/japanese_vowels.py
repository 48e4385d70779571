"""Who speaks: nine men say two vowels; 12 numbers a step, 7 to 29 steps (Kudo, Toyama and Shimbo 1999).

    python examples/japanese_vowels.py [--folder FOLDER]   # the files that the package sktime brings along
    python examples/japanese_vowels.py --quick             # few epochs

Two recurrent layers, one forwards and one backwards in time, with a mask where a recording has ended.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np

import bpcore as bp

STEPS, FEATURES, SPEAKERS = 29, 12, 9


def folder() -> Path | None:
    """Where sktime keeps the data set; it need not be importable."""
    spec = importlib.util.find_spec("sktime")
    roots = list(spec.submodule_search_locations or []) if spec else []
    places = [Path(root) / "datasets/data/JapaneseVowels" for root in roots]
    return next((place for place in places if place.exists()), None)


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (n, STEPS, FEATURES), mask (n, STEPS), speakers (n,)."""
    lines = path.read_text().split("@data\n")[1].split()
    X, mask = np.zeros((len(lines), STEPS, FEATURES), np.float32), np.zeros((len(lines), STEPS), np.float32)
    y = np.empty(len(lines), int)
    for i, line in enumerate(lines):
        *series, label = line.split(":")
        values = np.array([[float(v) for v in one.split(",")] for one in series]).T
        X[i, : len(values)], mask[i, : len(values)], y[i] = values, 1, int(label) - 1
    return X, mask, y


def network(seed: int) -> bp.Network:
    x, mask = bp.Input((STEPS, FEATURES), name="x"), bp.Input(STEPS, name="mask")
    h = bp.Dropout(0.3)(bp.Dense(64, "tanh")(x))
    both = [bp.GRU(64, reverse=reverse)(h, mask) for reverse in (False, True)]
    return bp.Network([x, mask], bp.Dense(SPEAKERS, "softmax")(bp.Dropout(0.5)(bp.concat(both))), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=folder())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.folder is None:
        print("The data come with sktime (pip install sktime), which is not installed; or give --folder.")
        return
    (X, mask, y), test = (read(options.folder / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    mean = (X * mask[..., None]).sum((0, 1)) / mask.sum()
    scale = np.sqrt((((X - mean) * mask[..., None]) ** 2).sum((0, 1)) / mask.sum())
    net = network(options.seed)
    for epochs, lr in ((20, 3e-3), (5, 3e-4)) if options.quick else ((150, 3e-3), (50, 3e-4)):
        data = {"x": (X - mean) / scale, "mask": mask}
        net.fit(data, y, optimizer=bp.Adam(lr=lr, weight_decay=1e-4), epochs=epochs, batch_size=32)
    accuracy = net.evaluate({"x": (test[0] - mean) / scale, "mask": test[1]}, test[2])["accuracy"]
    print(f"{net.n_params:,} parameters, {accuracy:.2%} of {len(test[2])} test recordings right")
    assert accuracy > (0.9 if options.quick else 0.97)


if __name__ == "__main__":
    main()
