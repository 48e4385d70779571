"""Made the files here, each by the version that its format was new in; what is here is never made again.

    PYTHONPATH=<a build of 6b743c7, bpcore 0.1.0> python tests/golden/make.py 1
    PYTHONPATH=. python tests/golden/make.py 2

NAME.safetensors is a file, NAME.npz what its network answers: inputs x0, x1, ... and outputs y0, y1, ... in order.
"""

import sys
from pathlib import Path

import numpy as np

import bpcore as bp

HERE = Path(__file__).parent
RNG = np.random.default_rng(1986)


def dense():
    """A chain of format 1, with Adam's memory."""
    net = bp.Network([bp.Input(4), bp.Dense(5, "tanh"), bp.Dense(3, "softmax")], dtype="float32", seed=1)
    X, y = RNG.standard_normal((20, 4)).astype(np.float32), RNG.integers(0, 3, 20)
    net.fit(X, y, optimizer=bp.Adam(lr=0.01), epochs=2, batch_size=5)
    return net, [X[:3]]


def graph():
    """Two inputs and two outputs, a shared layer, a frozen one, a checkpoint; float64, with momentum."""
    words, image = bp.Input(4, integer=True, name="words"), bp.Input((4, 4, 1), name="image")
    both = bp.Dense(3, "gelu", name="both")
    h = both(bp.LSTM(3)(bp.Embedding(5, 2)(words)))
    c = both(bp.Reshape(-1)(bp.MaxPool2D(2)(bp.Conv2D(2, 3, "relu", padding="same")(image)))[:3])
    ends = [bp.Dense(2, "softmax", name="kind")(h * c), bp.Dense(1, bias=False, name="size")(bp.concat([h - c, c]))]
    net = bp.Network([words, image], ends, dtype="float64", seed=2, checkpoint=["both"])
    net.frozen = {"embedding_1"}
    X = [RNG.integers(0, 5, (12, 4)), RNG.standard_normal((12, 4, 4, 1))]
    y = [RNG.integers(0, 2, 12), RNG.standard_normal((12, 1))]
    net.fit(X, y, optimizer=bp.SGD(lr=0.05, momentum=0.9), epochs=2, batch_size=4)
    return net, [x[:3] for x in X]


def units():
    """What format 2 added to a network: moments of inputs and targets, a state, settings of layers, a schedule."""
    hidden = bp.Dense(6, "silu", l2=1e-3, max_norm=2.0)
    layers = [bp.Input(3), bp.Standardize(), hidden, bp.BatchNorm(), bp.Dropout(0.1), bp.Dense(2)]
    net = bp.Network(layers, dtype="float32", seed=3)
    X, y = 1e6 + 50 * RNG.standard_normal((24, 3)), 100 + 7 * RNG.standard_normal((24, 2))
    net.fit(X, y, optimizer=bp.AdamW(lr=bp.schedules.Cosine(0.01, length=40), ema=0.9), epochs=2, batch_size=6,
            standardize_y=True)  # fmt: skip
    return net, [X[:3]]


def ensemble():
    """Two members."""
    nets = [bp.Network([bp.Input(2), bp.Dense(3, "tanh"), bp.Dense(1)], dtype="float32", seed=s) for s in (4, 5)]
    X, y = RNG.standard_normal((16, 2)).astype(np.float32), RNG.standard_normal((16, 1))
    group = bp.Ensemble(nets)
    group.fit(X, y, optimizer=bp.SGD(lr=0.1), epochs=2, batch_size=4, bootstrap=True)
    return group, [X[:3]]


def run():
    """What bp.Checkpoint keeps of a run."""
    net = bp.Network([bp.Input(2), bp.Dense(3, "relu"), bp.Dense(1)], dtype="float32", seed=6)
    X, y = RNG.standard_normal((16, 2)).astype(np.float32), RNG.standard_normal((16, 1))
    path = HERE / "format2_run.safetensors"
    net.fit(X, y, optimizer=bp.Adam(), epochs=3, batch_size=4, callbacks=bp.Checkpoint(path, keep=1))
    return net, [X[:3]]


def write(name, made):
    net, X = made()
    path = HERE / f"{name}.safetensors"
    if not path.exists():
        net.save(path)
    answers = net.predict(X if len(X) > 1 else X[0])
    answers = answers if isinstance(answers, tuple) else (answers,)
    inputs, outputs = ({f"{of}{i}": a for i, a in enumerate(arrays)} for of, arrays in (("x", X), ("y", answers)))
    np.savez(HERE / f"{name}.npz", **inputs, **outputs)


if __name__ == "__main__":
    made = {"1": (dense, graph), "2": (units, ensemble, run)}[sys.argv[1]]
    if any((HERE / f"format{sys.argv[1]}_{each.__name__}.npz").exists() for each in made):
        sys.exit(f"the files of format {sys.argv[1]} are there, and stay as they are")
    for each in made:
        write(f"format{sys.argv[1]}_{each.__name__}", each)
