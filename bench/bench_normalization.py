"""What layers that normalise or draw add to a training step.

    python bench/bench_normalization.py [--threads 1 2] [--quick]

784-512-512-10 with relu at batch 128, float32, plain SGD: as it is, with BatchNorm before each relu, LayerNorm in the
same places, or Dropout behind each relu; epochs over the same rows in one process, by turns. Prints microseconds a step
and what the layer adds in percent, the median of the rounds and their range. Writes results/normalization.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

import bpcore as bp

SIZES, BATCH = (784, 512, 512, 10), 128
# what stands in place of a hidden layer's relu
WAYS: dict[str, Callable[[], list[Any]]] = {
    "plain": lambda: [bp.Activate("relu")],
    "batch_norm": lambda: [bp.BatchNorm(), bp.Activate("relu")],
    "layer_norm": lambda: [bp.LayerNorm(), bp.Activate("relu")],
    "dropout": lambda: [bp.Activate("relu"), bp.Dropout(0.2)],
}


def network(way: str) -> bp.Network:
    """The net with these layers."""
    hidden = [layer for units in SIZES[1:-1] for layer in (bp.Dense(units), *WAYS[way]())]
    return bp.Network([bp.Input(SIZES[0]), *hidden, bp.Dense(SIZES[-1], "softmax")], seed=0)


def measure(threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds a step, each way, and what is added to the plain one."""
    rng = np.random.default_rng(0)
    X = rng.random((40 * BATCH, SIZES[0]), dtype=np.float32)
    y = rng.integers(0, SIZES[-1], len(X))
    nets = {way: network(way) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(1 + options.rounds):  # the first warms up
        for way, net in nets.items():
            steps, start = 0, time.perf_counter()
            while time.perf_counter() - start < options.seconds:
                net.fit(X, y, optimizer=bp.SGD(lr=0.01), batch_size=BATCH, n_threads=threads, check_finite=False)
                steps += len(X) // BATCH
            times[way].append((time.perf_counter() - start) / steps)
    results = []
    for way, own in times.items():
        added = [100 * (b / a - 1) for a, b in zip(times["plain"][1:], own[1:], strict=True)]
        spread = {"step": harness.spread(own[1:]), "percent": harness.spread(added)}
        results.append({"way": way, "threads": threads, **spread})
    return results


def row(result: dict[str, Any]) -> list[str]:
    """Of the table."""
    added = result["percent"]
    return [result["way"], str(result["threads"]), harness.with_spread(result["step"], harness.microseconds),
            f"{added['median']:.1f} %", f"{added['min']:.1f} .. {added['max']:.1f}"]  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What layers that normalise or draw add to a step.")
    parser.add_argument("--threads", nargs="+", type=harness.positive(int), default=[1, 2], metavar="N")
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = [result for threads in options.threads for result in measure(threads, options)]
    harness.print_table(["layers", "threads", "a step", "added", "range"], map(row, results))
    print("microseconds a step, median +- half the spread in percent")
    harness.write_json("normalization", options, {"machine": machine, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
