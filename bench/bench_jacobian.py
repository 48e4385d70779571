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
from bench_predict import SEED, TOLERANCE, UNIT, compare, head, row

LIBRARIES = ("bpcore", "torch", "jax")
SIZES = (3, 64, 5)
ROWS = 128


def measure(crew: list[harness.Worker], options: argparse.Namespace) -> dict[str, Any]:
    spec = Spec(SIZES, batch=ROWS, activation="tanh")
    X = np.random.default_rng(SEED).standard_normal((ROWS, SIZES[0])).astype(spec.dtype)
    theta = start_weights(spec, SEED)
    for worker in crew:
        worker.make("Jacobian", spec=spec, theta=theta, X=X)
    return compare(crew, (ROWS, SIZES[-1], SIZES[0]), options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Microseconds a Jacobian, library against library.")
    harness.add_crew_options(parser, libraries=LIBRARIES)
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        result = measure(crew, options)
    harness.print_table(head(options.libraries), [row(result, options.libraries)])
    print(UNIT)
    content = {"machine": machine, "versions": versions, "tolerance": TOLERANCE, "results": [result]}
    harness.write_json("jacobian", options, content)
    return 0 if result["answers_agree"] else 1


if __name__ == "__main__":
    sys.exit(harness.run(main))
