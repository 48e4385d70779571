"""Many networks trained at once: fit_many against fit of one after the other, jax.vmap and torch.func.vmap.

    python bench/bench_many.py                                       # five nets, 64 networks of each
    python bench/bench_many.py --networks 1 4 16 64 250 1000         # a sweep of K; results/many_part.json
    python bench/bench_many.py --optimizer adam                      # results/many_adam.json
    python bench/bench_many.py --quick

Networks of one shape on the same data in float32, each from first weights of its own; timed is an epoch of all.
"bpcore" is fit_many, "bpcore:apart" one fit after the other. JAX maps an epoch's scan over the networks, "jax:devices"
with a share of them on each thread; torch maps a step's gradient, eagerly or compiled. Prints model-rows (rows times
networks) a second, each at its best number of threads, and fit_many's ratio to one after the other and to the best
peer. The losses of bpcore's two ways must be the same bits, those of all libraries the same to 1e-4, and falling, or no
ratio is given and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import bench_epoch
import harness
import numpy as np
from adapters import Spec, start_weights
from bench_epoch import PARITY_EPOCHS

NETS = ("2-8-1/4", "4-16-3/16", "20-100-1/200", "64-64-10/32", "784-30-10/10")
LIBRARIES = ("bpcore", "bpcore:apart", "jax", "jax:devices", "torch", "torch:compile")
TOLERANCE = 1e-4
STEPS = 512  # of an epoch, at most: torch takes a millisecond for each


def measure(crew: list[harness.Worker], spec: Spec, networks: int, options: argparse.Namespace) -> dict[str, Any]:
    """Rates of one net by library and threads, and how far the losses differ."""
    arguments = bench_epoch.data(spec)
    arguments |= {name: arguments[name][: STEPS * spec.batch] for name in "Xy"}
    arguments["theta"] = np.stack([start_weights(spec, bench_epoch.SEED + k) for k in range(networks)])
    for worker in crew:
        worker.make("Many", **arguments)
    curves = [worker.time(PARITY_EPOCHS)[1] for worker in crew]
    timings = harness.alternate(crew, options.rounds, options.seconds)
    rows = len(arguments["X"]) * networks
    runs = [
        {"library": worker.library, "threads": worker.threads, "rows_per_second": timing.rate(rows)}
        for worker, timing in zip(crew, timings, strict=True)
    ]
    difference = disagreement([worker.library for worker in crew], curves)
    ratio, peer = harness.ratio(runs, options.libraries[0], rate)
    return {
        "net": spec.name,
        "networks": networks,
        "runs": runs,
        "loss_disagreement": difference,
        "losses_agree": difference <= TOLERANCE,
        "over_apart": over_apart(runs),
        "ratio": ratio,
        "best_peer": peer,
    }


def disagreement(libraries: Sequence[str], curves: Sequence[list[list[float]]]) -> float:
    """Largest relative difference of a network's losses from those of the first library; infinite where a network's
    curve does not fall, or bpcore's ways differ at all."""
    ours = [curve for library, curve in zip(libraries, curves, strict=True) if library.startswith("bpcore")]
    if any(curve != ours[0] for curve in ours):
        return float("inf")
    by_network = zip(*(zip(*curve, strict=True) for curve in curves), strict=True)
    return max(map(harness.disagreement, by_network))


def rate(run: dict[str, Any]) -> float:
    return run["rows_per_second"]["median"]


def over_apart(runs: list[dict[str, Any]]) -> float | None:
    """fit_many's best rate over that of one network after the other."""
    best = {run["library"]: rate(run) for run in harness.best(runs, rate)}
    return best["bpcore"] / best["bpcore:apart"] if {"bpcore", "bpcore:apart"} <= set(best) else None


def row(result: dict[str, Any], libraries: list[str]) -> list[str]:
    """Of the table."""
    cells = harness.cells(result, libraries, rate, "rows_per_second", harness.number, result["losses_agree"])
    over = f"{result['over_apart']:.2f}" if result["over_apart"] and result["losses_agree"] else "-"
    return [
        result["net"],
        str(result["networks"]),
        *cells[:-2],
        over,
        *cells[-2:],
        f"{result['loss_disagreement']:.0e}",
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many networks at once, library against library.")
    nets = list(map(bench_epoch.net, NETS))
    parser.add_argument("--nets", nargs="+", type=bench_epoch.net, default=nets, metavar="SIZES/BATCH")
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd")
    parser.add_argument("--networks", nargs="+", type=harness.positive(int), default=[64], metavar="K")
    harness.add_crew_options(parser, libraries=LIBRARIES)
    options = harness.parse(parser)
    options.name = "many_adam" if options.optimizer == "adam" else "many"
    return options


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = []
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        for sizes, batch in options.nets:
            for networks in options.networks:
                spec = Spec(sizes, batch, optimizer=options.optimizer, lr=bench_epoch.RATES[options.optimizer])
                print(f"measuring {networks} x {spec.name}", file=sys.stderr)
                results.append(measure(crew, spec, networks, options))
    head = ["net/batch", "K", *options.libraries, "over apart", "ratio", "best peer", "loss differs"]
    harness.print_table(head, [row(result, options.libraries) for result in results])
    print("model-rows a second, median +- half the spread in percent, at the best number of threads (xN)")
    settings = {"rounds": options.rounds, "seconds": options.seconds, "tolerance": TOLERANCE}
    content = {"machine": machine, "versions": versions, "settings": settings, "results": results}
    harness.write_json(options.name, options, content)
    disagreeing = [result["net"] for result in results if not result["losses_agree"]]
    if disagreeing:
        print(f"losses differ by more than {TOLERANCE}: {', '.join(disagreeing)}", file=sys.stderr)
    return 1 if disagreeing else 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
