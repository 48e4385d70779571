"""Jacobians of the outputs by the inputs, a batch of rows at a time: microseconds a call.

    python bench/bench_jacobian.py                 # 3-64-5, tanh inside, 128 rows
    python bench/bench_jacobian.py --quick

bpcore's `net.jacobian`, PyTorch's vmap of jacrev (torch.func) and JAX's jitted vmap of jacrev, each from and to its own
kind of array, alternating in one run. The Jacobians must agree to 1e-4, or no ratio is given.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import harness
import numpy as np
from adapters import Spec, start_weights

LIBRARIES = ("bpcore", "torch", "jax")
SIZES = (3, 64, 5)
ROWS = 128
TOLERANCE = 1e-4
SEED = 1986


def measure(crew: list[harness.Worker], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a call, by library and threads."""
    spec = Spec(SIZES, batch=ROWS, activation="tanh")
    X = np.random.default_rng(SEED).standard_normal((ROWS, SIZES[0])).astype(spec.dtype)
    theta = start_weights(spec, SEED)
    for worker in crew:
        worker.make("Jacobian", spec=spec, theta=theta, X=X)
    answers = [np.reshape(worker.time(1)[1], (ROWS, SIZES[-1], SIZES[0])) for worker in crew]
    timings = harness.alternate(crew, options.rounds, options.seconds)
    runs = [
        {"library": worker.library, "threads": worker.threads, "seconds": timing.unit()}
        for worker, timing in zip(crew, timings, strict=True)
    ]
    difference = max(float(np.abs(answer - answers[0]).max()) for answer in answers)
    ratio, peer = harness.ratio(runs, options.libraries[0], rate)
    return {"runs": runs, "answers_differ": difference, "ratio": ratio, "best_peer": peer}


def rate(run: dict[str, Any]) -> float:
    return 1 / run["seconds"]["median"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Microseconds a Jacobian, library against library.")
    harness.add_crew_options(parser, libraries=LIBRARIES)
    options = harness.parse(parser)
    options.libraries = harness.installed(options.libraries)
    return options


def main() -> int:
    options = arguments()
    machine = harness.machine()
    harness.print_machine(machine)
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        crew.sort(key=lambda worker: options.libraries.index(worker.library))
        result = measure(crew, options)
    best = harness.best(result["runs"], rate)
    cells = {run["library"]: f"{1e6 * run['seconds']['median']:.3g} x{run['threads']}" for run in best}
    agree = result["answers_differ"] <= TOLERANCE
    shown = f"{result['ratio']:.2f}" if result["ratio"] and agree else "-"
    harness.print_table([*options.libraries, "ratio", "best peer"],
                        [[*(cells[name] for name in options.libraries), shown, result["best_peer"] or "-"]])
    print("microseconds a call at the best number of threads (xN), median")
    content = {"machine": machine, "versions": versions, "tolerance": TOLERANCE, "results": [result]}
    print(f"written to {harness.write_json('jacobian' + '_quick' * options.quick, content)}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(harness.run(main))
