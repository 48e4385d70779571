"""All gradients of one batch: backpropagation against the two naive ways, as the network grows.

    python bench/bench_backward.py [--quick]

The ways are `value_and_grad`, `bpcore.debug.naive_forward_accumulation` (Jacobians multiplied forwards) and
`bpcore.debug.perturbation` (one perturbation a weight), on tanh nets of three equal layers in float64, one
thread, four rows. Each way runs up to the width where a call is expected to last longer than --limit. All
must give the same gradient to 1e-6, relative to its norm. Prints a table and the slope of log time over log
parameters at the last three widths; writes results/backward.json and results/backward.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import harness
import numpy as np
from adapters import Spec, start_weights

WAYS = ("backpropagation", "jacobians forwards", "one perturbation a weight")
WIDTHS = (4, 8, 16, 32, 64, 128, 256, 512)
ROWS = 4
TOLERANCE = 1e-6
SEED = 1986


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds a gradient, by width and way."""
    results: list[dict[str, Any]] = []
    with harness.workers(["bpcore"] * len(WAYS), [1]) as crew:
        running = dict(zip(WAYS, crew, strict=True))
        for width in options.widths:
            spec = Spec((width,) * 4, ROWS, activation="tanh", dtype="float64")
            running = {
                way: worker for way, worker in running.items() if expected(results, spec, way) < options.limit
            }
            print(f"measuring width {width}: {', '.join(running)}", file=sys.stderr)
            results.append(measure_width(running, spec, options))
    return results


def expected(results: list[dict[str, Any]], spec: Spec, way: str) -> float:
    """Seconds at this size if the time went with the square of the parameters."""
    if not results:
        return 0.0
    last = results[-1]
    return last["seconds"][way]["median"] * (spec.n_params / last["parameters"]) ** 2


def measure_width(
    running: dict[str, harness.Worker], spec: Spec, options: argparse.Namespace
) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    X, y = rng.standard_normal((ROWS, spec.sizes[0])), rng.integers(spec.sizes[-1], size=ROWS)
    for way, worker in running.items():
        worker.make("Gradient", spec=spec, theta=start_weights(spec, SEED), X=X, y=y, method=way)
    gradients = [worker.time(1)[1] for worker in running.values()]
    timings = harness.alternate(list(running.values()), options.rounds, options.seconds)
    norm = np.linalg.norm(gradients[0])
    return {
        "width": spec.sizes[0],
        "parameters": spec.n_params,
        "seconds": {way: timing.unit() for way, timing in zip(running, timings, strict=True)},
        "gradients_differ": max(float(np.linalg.norm(g - gradients[0]) / norm) for g in gradients),
    }


def slopes(results: list[dict[str, Any]]) -> dict[str, float]:
    """d log seconds / d log parameters of each way, fitted to its last three widths."""
    return {way: float(np.polyfit(*np.log(points(results, way)[:, -3:]), 1)[0]) for way in WAYS}


def points(results: list[dict[str, Any]], way: str) -> np.ndarray:
    """(2, widths measured): parameters and median seconds."""
    measured = [result for result in results if way in result["seconds"]]
    return np.array([(r["parameters"], r["seconds"][way]["median"]) for r in measured]).T


def print_results(results: list[dict[str, Any]], fitted: dict[str, float]) -> None:
    rows = [
        [str(result["width"]), f"{result['parameters']:,}", *(_cell(result["seconds"], way) for way in WAYS)]
        for result in results
    ]
    slope = ["slope", "", *(f"{fitted[way]:.2f}" for way in WAYS)]
    harness.print_table(["width", "parameters", *WAYS], [*rows, slope])
    print("microseconds a gradient: median, and how many times backpropagation")


def _cell(seconds: dict[str, dict[str, float]], way: str) -> str:
    if way not in seconds:
        return "-"
    median = seconds[way]["median"]
    times = "" if way == WAYS[0] else f"  ({median / seconds[WAYS[0]]['median']:,.0f}x)"
    return f"{1e6 * median:,.0f}{times}"


def plot(results: list[dict[str, Any]], fitted: dict[str, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for way, marker in zip(WAYS, "os^", strict=True):
        axes.loglog(*points(results, way), marker=marker, label=f"{way}, slope {fitted[way]:.2f}")
    axes.set_xlabel("parameters")
    axes.set_ylabel("seconds for all gradients")
    axes.set_title(f"Three dense layers, {ROWS} rows, float64, one thread")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Backpropagation against the naive ways.")
    positive = harness.positive
    parser.add_argument("--widths", nargs="+", type=positive(int), default=list(WIDTHS), metavar="N")
    parser.add_argument("--limit", type=positive(float), default=5.0, help="seconds a call (default 5)")
    options = harness.parse(parser)
    if options.quick:
        options.limit = 0.5
    return options


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = measure(options)
    fitted = slopes(results)
    print_results(results, fitted)
    content = {"machine": machine, "rows": ROWS, "results": results, "slopes": fitted}
    plot(results, fitted, harness.write_json("backward", options, content).with_suffix(".png"))
    worst = max(result["gradients_differ"] for result in results)
    if not worst <= TOLERANCE:
        print(f"the gradients differ by {worst:.1e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
