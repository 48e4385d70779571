"""Microseconds an answer of an ensemble, against one member's and all members' one after the other.

    python bench/bench_ensemble.py [--nets 4-16-3 ...] [--members 16] [--rows 1 1000] [--spread] [--quick]

"bpcore" is `Ensemble.predictor()`, "bpcore:apart" each member's `predictor()` in turn and NumPy's mean of the answers,
"bpcore:one" the first member alone; float32, ReLU inside, softmax or logistic at the end, alternating in one run. The
first two must answer the same to 1e-6, or no ratio is given and the exit status is 1. Writes results/ensemble.json.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import harness
import numpy as np
from adapters import Spec, start_weights
from bench_predict import SEED, UNIT, rate

LIBRARIES = ("bpcore", "bpcore:apart", "bpcore:one")
TOLERANCE = 1e-6  # NumPy's standard deviation sums otherwise; the mean has its bits
NETS = ("4-16-3", "20-100-1", "64-64-10", "784-30-10")


def measure(
    crew: list[harness.Worker], spec: Spec, members: int, rows: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One net, number of members and number of rows."""
    X = np.random.default_rng(SEED).standard_normal((rows, spec.sizes[0])).astype(spec.dtype)
    theta = np.stack([start_weights(spec, SEED + k) for k in range(members)])
    for worker in crew:
        worker.make("Ensemble", spec=spec, theta=theta, X=X, spread=options.spread)
    answers = [worker.time(1)[1] for worker in crew if not worker.library.endswith(":one")]
    timings = harness.alternate(crew, options.rounds, options.seconds)
    runs = [
        {"library": worker.library, "threads": worker.threads, "seconds": timing.unit()}
        for worker, timing in zip(crew, timings, strict=True)
    ]
    return {
        "net": "-".join(map(str, spec.sizes)),
        "members": members,
        "rows": rows,
        "spread": options.spread,
        "runs": runs,
        "answers_agree": all(np.allclose(answer, answers[0], rtol=TOLERANCE, atol=TOLERANCE) for answer in answers),
    }


def row(result: dict[str, Any], libraries: list[str]) -> list[str]:
    """Of the table: times, then how many times as long as one member, and as all of them in turn."""
    best = {run["library"]: run for run in harness.best(result["runs"], rate)}
    times = [harness.with_spread(best[library]["seconds"], harness.microseconds) for library in libraries]
    ratios = [
        f"{rate(best[other]) / rate(best['bpcore']):.2f}"
        if result["answers_agree"] and {"bpcore", other} <= set(best)
        else "-"
        for other in ("bpcore:one", "bpcore:apart")
    ]
    return [result["net"], str(result["members"]), str(result["rows"]), *times, *ratios]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Microseconds an answer of an ensemble.")
    parser.add_argument(
        "--nets", nargs="+", type=harness.sizes, default=list(map(harness.sizes, NETS)), metavar="SIZES"
    )
    parser.add_argument("--members", nargs="+", type=harness.positive(int), default=[16], metavar="K")
    parser.add_argument("--rows", nargs="+", type=harness.positive(int), default=[1, 1000], metavar="N")
    parser.add_argument("--spread", action="store_true", help="ask for the spread, too")
    harness.add_crew_options(parser, libraries=LIBRARIES)
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = []
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        for sizes in options.nets:
            for members in options.members:
                for rows in options.rows:
                    print(f"measuring {members} x {'-'.join(map(str, sizes))}, rows: {rows}", file=sys.stderr)
                    results.append(measure(crew, Spec(sizes, batch=rows), members, rows, options))
    head = ["net", "members", "rows", *options.libraries, "over one", "over apart"]
    harness.print_table(head, [row(result, options.libraries) for result in results])
    print(UNIT)
    harness.write_json("ensemble", options, {"machine": machine, "versions": versions, "results": results})
    return 0 if all(result["answers_agree"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(harness.run(main))
