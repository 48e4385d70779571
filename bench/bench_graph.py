"""Training steps of networks that are no chains of dense layers: bench/graphs has a file for each.

    python bench/bench_graph.py                    # all cases, 1 and 2 threads
    python bench/bench_graph.py --cases lenet
    python bench/bench_graph.py --quick

Each library trains from the same weights over the same batches with plain SGD. The subject is the first of
--libraries, a ratio is its best over the best of all peers, each at its best number of threads. The first three
epochs of all must have the same losses to 1e-4, and falling ones, or no ratio is given and the exit status is 1.
Results of cases that were not run stay in results/graph.json as they were.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import harness
import numpy as np

CASES = sorted(path.stem for path in (Path(__file__).parent / "graphs").glob("*.py") if path.stem != "__init__")
LIBRARIES = ("bpcore", "torch", "torch:compile", "jax")
PARITY_EPOCHS = 3
TOLERANCE = 1e-4
SEED = 1986


def takes_part(case: Any, library: str) -> bool:
    """Whether the case is written for this library."""
    name = harness.family(library)
    if library in getattr(case, "WITHOUT", ()):
        return False
    return hasattr(case, name) or hasattr(case, f"{name}_loss")


def measure(crew: list[harness.Worker], name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step by library and threads, and how far the losses differ."""
    case = importlib.import_module(f"graphs.{name}")
    arguments = case.data(np.random.default_rng(SEED))
    steps = len(arguments["y"]) // case.BATCH
    crew = [worker for worker in crew if takes_part(case, worker.library)]
    for worker in crew:
        worker.make("Graph", case=name, **arguments)
    curves = [worker.time(PARITY_EPOCHS)[1] for worker in crew]
    timings = harness.alternate(crew, options.rounds, options.seconds)
    runs = []
    for worker, timing, curve in zip(crew, timings, curves, strict=True):
        milliseconds = {key: 1e3 * seconds / steps for key, seconds in timing.unit().items()}
        runs.append(
            {
                "library": worker.library,
                "threads": worker.threads,
                "step_ms": milliseconds,
                "samples_per_second": timing.rate(steps * case.BATCH),
                "epochs_per_round": timing.count,
                "losses": curve,
            }
        )
    difference = harness.disagreement(curves)
    ratio, peer = harness.ratio(runs, options.libraries[0], rate)
    return {
        "case": name,
        "title": case.TITLE,
        "batch": case.BATCH,
        "runs": runs,
        "loss_disagreement": difference,
        "losses_agree": difference <= TOLERANCE,
        "ratio": ratio,
        "best_peer": peer,
    }


def rate(run: dict[str, Any]) -> float:
    return run["samples_per_second"]["median"]


def print_results(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    head = ["case", *options.libraries, "ratio", "best peer", "loss differs"]
    rows = []
    for result in results:
        cells = harness.cells(result, options.libraries, rate, "step_ms", "{:.3g}".format, result["losses_agree"])
        rows.append([result["title"], *cells, f"{result['loss_disagreement']:.0e}"])
    harness.print_table(head, rows)
    print("milliseconds a step, median +- half the spread in percent, at the best number of threads (xN)")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Milliseconds a training step of graphs, library against library.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, metavar="NAME", help=", ".join(CASES))
    harness.add_crew_options(parser, libraries=LIBRARIES)
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = []
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        for name in options.cases:
            print(f"measuring {name}", file=sys.stderr)
            results.append(measure(crew, name, options) | {"date": machine["date"], "commit": machine["commit"]})
    print_results(results, options)
    before = harness.results_file("graph", options)
    kept = json.loads(before.read_text())["results"] if before.exists() else []
    kept = [result for result in kept if result["case"] in CASES and result["case"] not in options.cases]
    content = {
        "machine": machine,
        "versions": versions,
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "tolerance": TOLERANCE},
        "results": sorted([*kept, *results], key=lambda result: result["case"]),
    }
    harness.write_json("graph", options, content)
    disagreeing = [result["case"] for result in results if not result["losses_agree"]]
    if disagreeing:
        print(f"losses differ by more than {TOLERANCE}: {', '.join(disagreeing)}", file=sys.stderr)
    return 1 if disagreeing else 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
