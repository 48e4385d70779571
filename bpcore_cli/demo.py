"""`bpcore demo`: a network learns handwritten digits."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import bpcore as bp
from bpcore.datasets import Digits, load_digits
from bpcore_cli._errors import Wrong, refused

PIXELS, CLASSES = 64, 10
MOST_PARAMETERS = 100_000_000  # 2 GB in training
TEST, VALIDATION = 0.2, 0.1  # of all digits; of those left for training
LR, MOMENTUM, BATCH = 0.1, 0.9, 32


def run(options: Namespace) -> None:
    """`bpcore demo`."""
    if options.threads:
        bp.set_num_threads(options.threads)
    sizes = _sizes(options.net)
    with refused():
        net = _network(sizes, options.seed)
    _demo(net, options.epochs, options.seed)


def _sizes(text: str) -> tuple[int, ...]:
    """64-128-10 as (64, 128, 10)."""
    parts = text.split("-")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise Wrong(f"--net: expected positive sizes as in 64-128-10, got {text!r}")
    sizes = tuple(map(int, parts))
    if len(sizes) < 2 or sizes[0] != PIXELS or sizes[-1] != CLASSES:
        raise Wrong(f"--net: expected {PIXELS} first (pixels) and {CLASSES} last, got {text!r}")
    if sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes)) > MOST_PARAMETERS:
        raise Wrong(f"--net: expected at most {MOST_PARAMETERS:,} parameters, got {text!r}")
    return sizes


def _network(sizes: Sequence[int], seed: int) -> bp.Network:
    hidden = [bp.Dense(units, "relu") for units in sizes[1:-1]]
    return bp.Network([bp.Input(sizes[0]), *hidden, bp.Dense(sizes[-1], "softmax")], seed=seed)


def _demo(net: bp.Network, epochs: int, seed: int) -> None:
    rest, test = load_digits().split(TEST, seed)
    train, validation = rest.split(VALIDATION, seed)
    both = _with_shifted(train)
    print(f"{net.n_params:,} parameters")
    print(f"{len(train.y):,} digits and {len(both.y) - len(train.y):,} shifted copies")
    print(f"{len(validation.y)} to validate, {len(test.y)} to test", flush=True)
    speed = _train(net, both, validation, epochs)
    answers = net.predict(test.X).argmax(axis=1)
    print(_confusion(test.y, answers))
    print(f"test accuracy {np.mean(answers == test.y):.2%}")
    print(f"training speed {speed:,.0f} samples/s")


def _with_shifted(digits: Digits) -> Digits:
    """The digits and their copies moved by half a pixel in the four directions."""
    images = digits.X.reshape(-1, 8, 8)
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    whole = (wide[:, :-2, 1:-1], wide[:, 2:, 1:-1], wide[:, 1:-1, :-2], wide[:, 1:-1, 2:])
    half = [(images + moved) / 2 for moved in whole]
    return Digits(np.concatenate([images, *half]).reshape(-1, PIXELS), np.tile(digits.y, 1 + len(half)))


def _train(net: bp.Network, train: Digits, validation: Digits, epochs: int) -> float:
    """Fit, showing each epoch; return the median of samples a second."""

    def show(state: Any) -> None:
        epoch = f"{state.epoch:{len(str(epochs))}}/{epochs}"
        accuracy = state.history.val_accuracy[-1]
        print(f"epoch {epoch}  loss {state.loss:.4f}  valid {accuracy:6.1%}", flush=True)

    history = net.fit(
        train.X,
        train.y,
        optimizer=bp.SGD(lr=LR, momentum=MOMENTUM),
        epochs=epochs,
        batch_size=BATCH,
        validation_data=(validation.X, validation.y),
        callbacks=[show],
    )
    return statistics.median(history.samples_per_second)


def _confusion(truth: np.ndarray[Any, Any], answers: np.ndarray[Any, Any]) -> str:
    """A table of counts."""
    counts = np.zeros((CLASSES, CLASSES), int)
    np.add.at(counts, (truth, answers), 1)
    title = "answers (columns) to each digit (rows)"
    head = "   " + "".join(f"{digit:3}" for digit in range(CLASSES))
    rows = [f"{digit:3}" + "".join(f"{count or '.':>3}" for count in row) for digit, row in enumerate(counts)]
    return "\n".join([title, head, *rows])
