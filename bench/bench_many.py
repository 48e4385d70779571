"""What training many networks at once saves: fit_many against fit of one network after the other.

    python bench/bench_many.py [--nets 2-8-1/4 ...] [--threads 1 2] [--optimizer adam] [--networks 64] [--quick]

Networks of one shape on the same data in float32, each from first weights of its own, both ways alternating in one
run. An epoch of all is timed; the losses of both ways must be the same bits. Prints model-rows (rows times networks) a
second, each way, and the ratio. Writes results/many.json.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import bench_epoch
import harness
from adapters import Spec

NETS = ("2-8-1/4", "4-16-3/16", "20-100-1/200", "64-64-10/32", "784-30-10/10")
WAYS = ("apart", "together")


def measure(net: Any, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Model-rows a second, each way."""
    spec = Spec(*net, optimizer=options.optimizer, lr=bench_epoch.RATES[options.optimizer])
    arguments = bench_epoch.data(spec)
    del arguments["theta"]
    with harness.workers(["bpcore"] * len(WAYS), [threads]) as crew:
        for worker, way in zip(crew, WAYS, strict=True):
            worker.make("Many", **arguments, networks=options.networks, together=way == "together")
        curves = [worker.time(2)[1] for worker in crew]
        if curves[0] != curves[1]:
            raise harness.WorkerError(f"{spec.name}: losses differ")
        timings = harness.alternate(crew, options.rounds, options.seconds)
    rows = len(arguments["X"]) * options.networks
    ratios = [a / b for a, b in zip(*(timing.seconds for timing in timings), strict=True)]
    rates = {way: timing.rate(rows) for way, timing in zip(WAYS, timings, strict=True)}
    return {"net": spec.name, "threads": threads, "ratio": harness.spread(ratios), **rates}


def row(result: dict[str, Any]) -> list[str]:
    """Of the table."""
    rates = [harness.with_spread(result[way], harness.number) for way in WAYS]
    ratio = result["ratio"]
    return [result["net"], str(result["threads"]), *rates, f"{ratio['median']:.2f}",
            f"{ratio['min']:.2f} .. {ratio['max']:.2f}"]  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many networks, one after the other and at once.")
    nets = list(map(bench_epoch.net, NETS))
    parser.add_argument("--nets", nargs="+", type=bench_epoch.net, default=nets, metavar="NET", help="784-30-10/10")
    parser.add_argument("--threads", nargs="+", type=harness.positive(int), default=[1, 2], metavar="N")
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd")
    parser.add_argument("--networks", type=harness.positive(int), default=64, metavar="K")
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = [measure(net, threads, options) for net in options.nets for threads in options.threads]
    print(f"{options.networks} networks, {options.optimizer}")
    harness.print_table(["net", "threads", "one by one", "fit_many", "ratio", "range"], map(row, results))
    print("model-rows a second, median +- half the spread in percent")
    content = {"machine": machine, "networks": options.networks, "optimizer": options.optimizer, "results": results}
    harness.write_json("many", options, content)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
