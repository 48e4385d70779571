"""The command line: `python -m bpcore demo` trains on the digits, `python -m bpcore info` shows the build."""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import bpcore as bp
from bpcore._core import MAX_THREADS
from bpcore.datasets import Digits, load_digits

PIXELS, CLASSES = 64, 10
MOST_PARAMETERS = 100_000_000  # 2 GB in training
TEST, VALIDATION = 0.2, 0.1  # of all digits; of those left for training
LR, MOMENTUM, BATCH = 0.1, 0.9, 32


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in argv and return its exit status."""
    try:
        try:
            return _run(argv)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except KeyboardInterrupt:
        after_echo = "\n" if sys.stderr.isatty() else ""  # a terminal has shown ^C
        print(f"{after_echo}interrupted", file=sys.stderr)
        return 130


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "info":
        bp.show_config()
        return 0
    try:
        bp.set_num_threads(options.threads or bp.get_num_threads())
        net = _network(options.net, options.seed)
    except ValueError as error:
        parser.error(str(error))
    try:
        _demo(net, options.epochs, options.seed)
    except bp.DivergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bpcore", description="Backpropagation on the CPU.")
    parser.add_argument("--version", action="version", version=f"bpcore {bp.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="train a network on handwritten digits")
    default = "default %(default)s"
    demo.add_argument("--net", type=_sizes, default="64-128-10", metavar="SIZES", help=default)
    demo.add_argument("--epochs", type=_integer(1, 2**31), default=30, metavar="N", help=default)
    demo.add_argument("--seed", type=_integer(0, 2**64 - 1), default=0, metavar="N", help=default)
    demo.add_argument("--threads", type=_integer(1, MAX_THREADS), metavar="N", help="default: as many as may be used")
    commands.add_parser("info", help="show the version and how it was built")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    """64-128-10 as (64, 128, 10)."""
    parts = text.split("-")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected positive sizes as in 64-128-10, got {text!r}")
    sizes = tuple(map(int, parts))
    if len(sizes) < 2 or sizes[0] != PIXELS or sizes[-1] != CLASSES:
        raise argparse.ArgumentTypeError(f"expected {PIXELS} first (pixels) and {CLASSES} last, got {text!r}")
    if sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes)) > MOST_PARAMETERS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_PARAMETERS:,} parameters, got {text!r}")
    return sizes


def _integer(low: int, high: int) -> Any:
    """argparse type: an integer in low..high."""

    def integer(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {high}, got {text}")
        return value

    return integer


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


if __name__ == "__main__":
    sys.exit(main())
