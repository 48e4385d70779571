"""What numbers too small to be normal cost: a deep logistic net whose gradients vanish against a healthy one.

    python bench/bench_subnormal.py [--quick]

Both have twenty layers of 64 logistic units in float32 and train on the same batches on one thread. The weights of
one are so small that the gradients leave float32's normal numbers halfway down; the other's keep their size.
Prints the ratio of the seconds an epoch; more than 1.5 is exit status 1. Writes results/subnormal.json.
"""

from __future__ import annotations

import argparse
import sys

import harness
import numpy as np
from adapters import Spec, start_weights

SPEC = Spec((64,) * 21 + (10,), 32, activation="logistic")
ROWS = 1024
SCALES = {"vanishing": 1e-2, "healthy": 4.0}  # of Glorot's weights
LIMIT = 1.5
SEED = 1986


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of vanishing gradients.")
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    rng = np.random.default_rng(SEED)
    X = rng.standard_normal((ROWS, SPEC.sizes[0])).astype(SPEC.dtype)
    y = rng.integers(SPEC.sizes[-1], size=ROWS)
    theta = start_weights(SPEC, SEED)
    with harness.workers(["bpcore"] * len(SCALES), [1]) as crew:
        for worker, scale in zip(crew, SCALES.values(), strict=True):
            worker.make("Train", spec=SPEC, theta=(scale * theta).astype(SPEC.dtype), X=X, y=y)
        timings = harness.alternate(crew, options.rounds, options.seconds)
    seconds = {name: timing.unit() for name, timing in zip(SCALES, timings, strict=True)}
    ratio = seconds["vanishing"]["median"] / seconds["healthy"]["median"]
    harness.print_table(
        ["gradients", "us an epoch", "least", "most"],
        [[name, *(f"{1e6 * unit[key]:,.0f}" for key in ("median", "min", "max"))] for name, unit in seconds.items()],
    )
    print(f"ratio {ratio:.2f} (at most {LIMIT})")
    content = {"machine": machine, "rows": ROWS, "scales": SCALES, "seconds": seconds, "ratio": ratio}
    harness.write_json("subnormal", options, content)
    return int(not ratio <= LIMIT)


if __name__ == "__main__":
    sys.exit(harness.run(main))
