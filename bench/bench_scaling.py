"""What a training sample costs bpcore as width, depth and batch grow, and how near that is to the machine's floor.

    python bench/bench_scaling.py [--sweeps width depth batch] [--threads 1 2] [--quick]

Equal dense layers, ReLU, softmax, plain SGD, float32. The floor is the larger of two times: the flops of the products
over the measured FMA peak, and three passes over the weights a step (read forwards, read and written in the update)
over the bandwidth measured for a working set of a thread's share of them. The slope is that of log time over
log size since the row above. The losses of three epochs must be the same bits for every number of threads, or the exit
status is 1. Writes results/scaling.json.
"""

from __future__ import annotations

import argparse
import math
import sys
from itertools import pairwise
from typing import Any

import harness
import numpy as np
import peak
from adapters import Spec
from bench_epoch import PARITY_EPOCHS, data

BATCH, DEPTH_WIDTH, BATCH_WIDTH = 64, 128, 256
SWEEPS = {
    "width": {n: Spec((n, n, n), BATCH) for n in (8, 16, 32, 64, 128, 256, 512, 1024, 2048)},
    "depth": {n: Spec((DEPTH_WIDTH,) * (n + 1), BATCH) for n in (1, 2, 4, 8, 16, 32)},
    "batch": {n: Spec((BATCH_WIDTH,) * 3, n) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)},
}
QUICK_SIZES = 4


def floor(spec: Spec, threads: int, figures: dict[str, Any]) -> tuple[float, str]:
    """Least seconds a sample, and what sets it: FMA, or the working set in bytes whose bandwidth it is."""
    weights = spec.n_params * np.dtype(spec.dtype).itemsize
    sets = sorted(figures["update"])
    level = next((size for size in sets if size >= weights / threads), sets[-1])
    compute = spec.flops / figures["flops"]
    memory = 3 * weights / spec.batch / figures["update"][level]
    return (compute, "FMA") if compute >= memory else (memory, f"{level >> 10} KiB")


def measure(crew: list[harness.Worker], spec: Spec, peaks: dict[int, Any], options: argparse.Namespace) -> list[dict]:
    """One result a worker."""
    arguments = data(spec)
    n = len(arguments["X"])
    for worker in crew:
        worker.make("Train", **arguments)
    curves = [worker.time(PARITY_EPOCHS)[1] for worker in crew]
    same = all(curve == curves[0] for curve in curves)
    results = []
    for worker, timing in zip(crew, harness.alternate(crew, options.rounds, options.seconds), strict=True):
        seconds = {name: value / n for name, value in timing.unit().items()}
        least, bound = floor(spec, worker.threads, peaks[worker.threads])
        share = 100 * least / seconds["median"]
        one = {"net": spec.name, "threads": worker.threads, "seconds_per_sample": seconds}
        results.append({**one, "floor_seconds": least, "bound": bound, "percent_of_floor": share, "same_losses": same})
    return results


def add_slopes(results: list[dict[str, Any]]) -> None:
    """d log seconds / d log size from the size before, with the same threads."""
    for threads in {result["threads"] for result in results}:
        for one, next_ in pairwise(result for result in results if result["threads"] == threads):
            times = next_["seconds_per_sample"]["median"] / one["seconds_per_sample"]["median"]
            next_["slope"] = math.log(times) / math.log(next_["size"] / one["size"])


def print_results(sweep: str, results: list[dict[str, Any]]) -> None:
    rows = [
        [
            f"{result['size']}",
            f"{result['threads']}",
            f"{1e9 * result['seconds_per_sample']['median']:,.0f}",
            f"{result['slope']:.2f}" if "slope" in result else "",
            f"{result['percent_of_floor']:.0f}",
            result["bound"],
        ]
        for result in sorted(results, key=lambda result: (result["threads"], result["size"]))
    ]
    harness.print_table([sweep, "threads", "ns a sample", "slope", "% of floor", "floor set by"], rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="bpcore's cost of a training sample against size.")
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--threads", nargs="+", type=harness.positive(int), default=[1, 2], metavar="N")
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    peaks = peak.measure(options.threads)
    harness.print_peaks(peaks)
    sweeps: dict[str, list[dict[str, Any]]] = {}
    with harness.workers(["bpcore"], options.threads) as crew:
        for sweep in options.sweeps:
            specs = list(SWEEPS[sweep].items())[: QUICK_SIZES if options.quick else None]
            print(f"measuring {sweep}", file=sys.stderr)
            sweeps[sweep] = [
                {"size": size, **result} for size, spec in specs for result in measure(crew, spec, peaks, options)
            ]
            add_slopes(sweeps[sweep])
            print_results(sweep, sweeps[sweep])
    content = {"machine": machine, "peaks": peaks, "sweeps": sweeps}
    harness.write_json("scaling", options, content)
    apart = {result["net"] for results in sweeps.values() for result in results if not result["same_losses"]}
    if apart:
        print(f"losses differ with the number of threads: {', '.join(sorted(apart))}", file=sys.stderr)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
