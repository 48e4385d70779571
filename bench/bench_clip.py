"""What clipping by the norm of the whole gradient costs: steps with `clip_norm=` against steps without.

    python bench/bench_clip.py [--nets 784-128-10/64 ...] [--quick]

Momentum in float32, both from the same start on the same batches, alternating. A step with it keeps the gradient of
each block until the norm is known, where one without moves a block while its gradient is in a cache. Prints
microseconds a step and the ratio with / without. Writes results/clip.json.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import bench_epoch
import harness
from adapters import Spec

NETS = ("4-16-3/16", "64-64-10/32", "784-128-10/64", "100-256-256-1/256", "784-512-512-10/128")
WAYS = ("momentum", "clipped")


def measure(net: Any, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds a step, each way."""
    with harness.workers(["bpcore"] * len(WAYS), [threads]) as crew:
        for worker, way in zip(crew, WAYS, strict=True):
            spec = Spec(*net, optimizer=way, lr=bench_epoch.RATES["sgd"])
            arguments = bench_epoch.data(spec)
            worker.make("Train", **arguments)
        timings = harness.alternate(crew, options.rounds, options.seconds)
    steps = len(arguments["X"]) // spec.batch
    ratios = [b / a for a, b in zip(*(timing.seconds for timing in timings), strict=True)]
    units = [{key: value / steps for key, value in timing.unit().items()} for timing in timings]
    shown = {"net": spec.name, "threads": threads, "ratio": harness.spread(ratios)}
    return {**shown, **dict(zip(WAYS, units, strict=True))}


def row(result: dict[str, Any]) -> list[str]:
    """Of the table."""
    times = [harness.with_spread(result[way], harness.microseconds) for way in WAYS]
    ratio = result["ratio"]
    return [result["net"], str(result["threads"]), *times, f"{ratio['median']:.2f}",
            f"{ratio['min']:.2f} .. {ratio['max']:.2f}"]  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of clipping by the norm.")
    nets = list(map(bench_epoch.net, NETS))
    parser.add_argument("--nets", nargs="+", type=bench_epoch.net, default=nets, metavar="NET", help="784-30-10/10")
    parser.add_argument("--threads", nargs="+", type=harness.positive(int), default=[1, 2], metavar="N")
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = [measure(net, threads, options) for net in options.nets for threads in options.threads]
    harness.print_table(["net", "threads", "without", "with", "ratio", "range"], map(row, results))
    print("microseconds a step, median +- half the spread in percent")
    harness.write_json("clip", options, {"machine": machine, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
