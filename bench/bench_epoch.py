"""Training samples a second, each library from the same weights over the same batches.

    python bench/bench_epoch.py                                  # nine nets, 1 and 2 threads
    python bench/bench_epoch.py --nets 784-128-10/64 --rounds 15 # results/epoch_part.json
    python bench/bench_epoch.py --set other                      # nine more shapes; results/epoch_other.json
    python bench/bench_epoch.py --optimizer adam --activation tanh --dtype float64
    python bench/bench_epoch.py --quick

A net is its layers and, after the slash, its batch. ReLU (or --activation) inside; softmax with cross-entropy
at the end, or logistic with binary cross-entropy for one output. The subject is the first of --libraries (with
its variants), the others are its peers; a ratio is the subject's best over the best of all peers, each at its
best number of threads. Percent of peak counts the flops of the matrix products over the measured FMA peak of
the most threads asked for. The first three epochs of all must have the same losses to 1e-4 (1e-9 in float64),
and falling ones, or no ratio is given and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

import harness
import numpy as np
import peak
from adapters import Spec, start_weights

NETS = (
    "2-8-1/4",
    "4-16-3/16",
    "64-64-10/32",
    "784-30-10/1",
    "784-30-10/10",
    "784-128-10/64",
    "100-256-256-1/256",
    "784-512-512-10/128",
    "2048-2048-2048-1000/512",
)
OTHER_NETS = (
    "10-50-50-2/200",
    "20-100-100-1/1000",
    "20-50-50-2/4000",
    "300-600-600-10/100",
    "1024-1024-1024-10/32",
    "1024-1024-10/256",
    "256-256-10/8",
    "784-100-10/1",
    "64-128-128-10/2000",
)
SETS = {"usual": NETS, "other": OTHER_NETS}
LIBRARIES = ("bpcore:native", "bpcore:blas", "numpy", "sklearn", "torch", "torch:compile", "jax")
PARITY_EPOCHS = 3
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
RATES = {"sgd": 0.01, "adam": 0.001}  # at 0.01 Adam's curves part in float32: its first steps are signs of gradients
SEED = 1986


def data(spec: Spec) -> dict[str, Any]:
    """A linear teacher's classes of normal rows, of norm 8 at most: lr 0.01 is then stable at batch 1."""
    n_in, n_out = spec.sizes[0], spec.sizes[-1]
    n = max(4 * spec.batch, min(16384, 2_000_000 // n_in) // spec.batch * spec.batch)
    rng = np.random.default_rng(SEED)
    X = (rng.standard_normal((n, n_in)) * min(1.0, 8 / n_in**0.5)).astype(spec.dtype)
    scores = X @ rng.standard_normal((n_in, n_out)).astype(spec.dtype)
    y = (scores > 0).astype(spec.dtype) if n_out == 1 else scores.argmax(axis=1)
    return {"spec": spec, "theta": start_weights(spec, SEED), "X": X, "y": y}


def measure(crew: list[harness.Worker], spec: Spec, options: argparse.Namespace, flops: float) -> dict[str, Any]:
    """Rates of one net by library and threads, and how far the losses differ."""
    arguments = data(spec)
    n = len(arguments["X"])
    for worker in crew:
        worker.make("Train", **arguments)
    curves = [worker.time(PARITY_EPOCHS)[1] for worker in crew]
    timings = harness.alternate(crew, options.rounds, options.seconds)
    runs = []
    for worker, timing, curve in zip(crew, timings, curves, strict=True):
        figures = timing.rate(n)
        runs.append(
            {
                "library": worker.library,
                "threads": worker.threads,
                "samples_per_second": figures,
                "percent_of_peak": 100 * figures["median"] * spec.flops / flops,
                "epochs_per_round": timing.count,
                "losses": curve,
            }
        )
    difference = harness.disagreement(curves)
    ratio, peer = harness.ratio(runs, options.libraries[0], rate)
    return {
        "net": spec.name,
        "spec": asdict(spec),
        "samples": n,
        "runs": runs,
        "loss_disagreement": difference,
        "losses_agree": difference <= TOLERANCE[spec.dtype],
        "ratio": ratio,
        "best_peer": peer,
    }


def rate(run: dict[str, Any]) -> float:
    return run["samples_per_second"]["median"]


def print_results(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    head = ["net/batch", *options.libraries, "ratio", "best peer", "% of peak", "loss differs"]
    harness.print_table(head, [_row(result, options.libraries) for result in results])
    print("samples a second, median +- half the spread in percent, at the best number of threads (xN)")


def _row(result: dict[str, Any], libraries: list[str]) -> list[str]:
    cells = harness.cells(result, libraries, rate, "samples_per_second", harness.number, result["losses_agree"])
    subject = harness.family(libraries[0])
    share = max(run["percent_of_peak"] for run in result["runs"] if harness.family(run["library"]) == subject)
    return [result["net"], *cells, f"{share:.1f}", f"{result['loss_disagreement']:.0e}"]


def net(text: str) -> tuple[tuple[int, ...], int]:
    """argparse type: 784-30-10/10."""
    layers, _, batch = text.partition("/")
    return harness.sizes(layers), harness.positive(int)(batch)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training samples a second, library against library.")
    parser.add_argument("--set", choices=list(SETS), default="usual", help="nine nets (default usual)")
    parser.add_argument("--nets", nargs="+", type=net, default=[], metavar="SIZES/BATCH", help="in place of a set")
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd")
    parser.add_argument("--activation", choices=["relu", "tanh"], default="relu")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--name", help="results/NAME.json (default epoch, epoch_adam, epoch_adam_tanh_float64, ...)")
    harness.add_crew_options(parser, libraries=LIBRARIES)
    options = harness.parse(parser)
    options.nets = options.nets or list(map(net, SETS[options.set]))
    options.part &= not options.name
    unusual = [options.set, options.optimizer, options.activation, options.dtype]
    unusual = [name for name in unusual if name not in ("usual", "sgd", "relu", "float32")]
    options.name = options.name or "_".join(["epoch", *unusual])
    return options


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    peaks = peak.measure(options.threads)
    harness.print_peaks(peaks)
    float32_flops = max(figures["flops"] for figures in peaks.values())
    flops = float32_flops * 4 / np.dtype(options.dtype).itemsize
    results = []
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        for sizes, batch in options.nets:
            lr = RATES[options.optimizer]
            spec = Spec(sizes, batch, options.activation, options.optimizer, lr, options.dtype)
            print(f"measuring {spec.name}", file=sys.stderr)
            results.append(measure(crew, spec, options, flops))
    print_results(results, options)
    tolerance = TOLERANCE[options.dtype]
    content = {
        "machine": machine,
        "peaks": peaks,
        "versions": versions,
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "tolerance": tolerance},
        "results": results,
    }
    harness.write_json(options.name, options, content)
    disagreeing = [result["net"] for result in results if not result["losses_agree"]]
    if disagreeing:
        print(f"losses differ by more than {tolerance}: {', '.join(disagreeing)}", file=sys.stderr)
    return 1 if disagreeing else 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
