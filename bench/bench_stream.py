"""What a step costs over a stream whose blocks are ready, beside one over an array.

    python bench/bench_stream.py [--quick]

Networks in float32, plain SGD, on one thread, each trained on the same rows as an array and as a stream of blocks of it
in turn, shuffled or not (a stream within its blocks); unshuffled, the parameters must end with the same bits, or the
exit status is 1. Prints the least wall time a step, and the median of the ratios of the rounds, which is to be at most
1.05; and that of the calling thread's CPU time, which says the same where no other core is free to copy the blocks
meanwhile. Writes results/stream.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import harness
import numpy as np

import bpcore as bp

CASES = {
    "2-8-1, batch 4": ((2, 8, 1), 4, 65_536, 4),
    "64-64-10, batch 32": ((64, 64, 10), 32, 16_384, 8),
    "784-30-10, batch 10": ((784, 30, 10), 10, 8192, 4),
    "784-128-10, batch 64": ((784, 128, 10), 64, 8192, 4),
    "784-512-512-10, batch 128": ((784, 512, 512, 10), 128, 2048, 4),
}  # sizes, rows of a batch, of a block, blocks


def network(sizes: tuple[int, ...]) -> Any:
    """tanh layers, no activation at the end."""
    hidden = [bp.Dense(n, "tanh") for n in sizes[1:-1]]
    return bp.Network([bp.Input(sizes[0]), *hidden, bp.Dense(sizes[-1])], seed=0)


def measure(
    sizes: tuple[int, ...], batch: int, rows: int, n_blocks: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds a step by whether rows are shuffled, and whether the bits agree."""
    rng = np.random.default_rng(0)
    n_blocks = 1 if options.quick else n_blocks
    X = rng.standard_normal((rows * n_blocks, sizes[0]), np.float32)
    y = rng.standard_normal((len(X), sizes[-1]), np.float32)
    blocks = [(X[k : k + rows], y[k : k + rows]) for k in range(0, len(X), rows)]

    def ready() -> Iterator[Any]:
        return iter(blocks)

    given = {"array": (X, y), "stream": (bp.data.Stream(ready),)}
    result: dict[str, Any] = {}
    for shuffle in (False, True):
        nets = {name: network(sizes) for name in given}
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in given}
        for _ in range(options.rounds):
            for name, net in nets.items():
                wall, own, step = time.perf_counter(), time.thread_time(), net.step
                net.fit(*given[name], optimizer=bp.SGD(lr=1e-3), batch_size=batch, shuffle=shuffle, n_threads=1)
                steps = net.step - step
                rounds[name].append(((time.perf_counter() - wall) / steps, (time.thread_time() - own) / steps))
        ratio, own_ratio = np.median(np.divide(rounds["stream"], rounds["array"]), axis=0).tolist()
        key = "shuffled" if shuffle else "as they lie"
        result[key] = {name: min(values)[0] for name, values in rounds.items()}
        result[key] |= {"ratio": ratio, "ratio of the thread": own_ratio}
        if not shuffle:
            result["same_bits"] = nets["array"].theta.tobytes() == nets["stream"].theta.tobytes()
    return result


def main() -> int:
    options = harness.parse(argparse.ArgumentParser(description="What a step costs over a stream."))
    machine = harness.print_machine()
    results = {name: measure(*case, options) for name, case in CASES.items()}
    rows = [
        [
            name, key, *(f"{1e6 * one[key][how]:.2f}" for how in ("array", "stream")),
            *(f"{one[key][ratio]:.2f}" for ratio in ("ratio", "ratio of the thread")),
        ]  # fmt: skip
        for name, one in results.items()
        for key in ("as they lie", "shuffled")
    ]
    harness.print_table(["network", "rows", "us a step: array", "stream", "ratio", "of the thread"], rows)
    harness.write_json("stream", options, {"machine": machine, "results": results})
    return int(not all(one["same_bits"] for one in results.values()))


if __name__ == "__main__":
    sys.exit(harness.run(main))
