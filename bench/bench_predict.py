"""Microseconds a prediction, of a single row and of a thousand, each library from the same weights.

    python bench/bench_predict.py [--nets 784-128-10 ...] [--rows 1 1000] [--quick]

ReLU inside, softmax or logistic at the end, float32. From an array to an array, each of the library's own kind; made
ready once, then called. The subject is the first of --libraries, the others are its peers; a ratio is the best
peer's time over the subject's, each at its best number of threads. All must answer the same to 1e-4, or no ratio is
given and the exit status is 1. Writes results/predict.json.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import harness
import numpy as np
from adapters import Spec, start_weights

LIBRARIES = ("bpcore", "numpy", "sklearn", "torch", "torch:jit", "jax", "onnxruntime")
NETS = ("4-16-3", "784-128-10", "100-256-256-2", "1024-1024-10")
ROWS = (1, 1000)
TOLERANCE = 1e-4
SEED = 1986
UNIT = "microseconds a call, median +- half the spread in percent, at the best number of threads (xN)"


def measure(crew: list[harness.Worker], spec: Spec, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One net and number of rows."""
    X = np.random.default_rng(SEED).standard_normal((rows, spec.sizes[0])).astype(spec.dtype)
    theta = start_weights(spec, SEED)
    for worker in crew:
        worker.make("Predict", spec=spec, theta=theta, X=X)
    compared = compare(crew, (rows, -1), options)
    return {"net": "-".join(map(str, spec.sizes)), "rows": rows, **compared}


def compare(crew: list[harness.Worker], shape: tuple[int, ...], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a call by library and threads, and how far the answers differ once they are given this shape."""
    answers = [np.reshape(worker.time(1)[1], shape) for worker in crew]
    timings = harness.alternate(crew, options.rounds, options.seconds)
    runs = [
        {"library": worker.library, "threads": worker.threads, "seconds": timing.unit()}
        for worker, timing in zip(crew, timings, strict=True)
    ]
    difference = max(float(np.abs(answer - answers[0]).max()) for answer in answers)
    ratio, peer = harness.ratio(runs, options.libraries[0], rate)
    return {
        "runs": runs,
        "answers_differ": difference,
        "answers_agree": difference <= TOLERANCE,
        "ratio": ratio,
        "best_peer": peer,
    }


def rate(run: dict[str, Any]) -> float:
    return 1 / run["seconds"]["median"]


def print_results(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    rows = [[result["net"], str(result["rows"]), *row(result, options.libraries)] for result in results]
    harness.print_table(["net", "rows", *head(options.libraries)], rows)
    print(UNIT)


def head(libraries: list[str]) -> list[str]:
    return [*libraries, "ratio", "best peer", "answers differ"]


def row(result: dict[str, Any], libraries: list[str]) -> list[str]:
    cells = harness.cells(result, libraries, rate, "seconds", harness.microseconds, result["answers_agree"])
    return [*cells, f"{result['answers_differ']:.0e}"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Microseconds a prediction, library against library.")
    parser.add_argument(
        "--nets", nargs="+", type=harness.sizes, default=list(map(harness.sizes, NETS)), metavar="SIZES"
    )
    parser.add_argument("--rows", nargs="+", type=harness.positive(int), default=list(ROWS), metavar="N")
    harness.add_crew_options(parser, libraries=LIBRARIES)
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = []
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        for sizes in options.nets:
            for rows in options.rows:
                print(f"measuring {'-'.join(map(str, sizes))}, rows: {rows}", file=sys.stderr)
                results.append(measure(crew, Spec(sizes, batch=rows), rows, options))
    print_results(results, options)
    content = {"machine": machine, "versions": versions, "tolerance": TOLERANCE, "results": results}
    harness.write_json("predict", options, content)
    return 0 if all(result["answers_agree"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(harness.run(main))
