"""How much faster bpcore's MLPClassifier is than scikit-learn's: fit and predict_proba, with equal settings.

    python bench/bench_sklearn.py [--rounds 5] [--problems 1000x20 ...] [--quick]

Both sides alternate in one process, on the same data from the same random_state, each with all threads. Parameters are
those by default, but for the number of epochs, which is fixed; a timed run is one fit, or predictions for --seconds.
Prints milliseconds, the ratio scikit-learn / bpcore, what bpcore's fit is of the FMA peak of its dtype (that of float64
taken as half that of float32), and the difference of the training scores, 0 up to rounding. Writes
results/sklearn.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import harness
import numpy as np
import peak
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as Theirs

import bpcore as bp
from bpcore.sklearn import MLPClassifier as Ours

CASES = {"1000x20": 40, "10000x50": 8, "60000x100": 3, "digits": 10}  # and epochs
WAYS = {
    "adam": {},
    "adam, early stopping": {"early_stopping": True},
    "sgd": {"solver": "sgd"},
    "sgd, early stopping": {"solver": "sgd", "early_stopping": True},
    "lbfgs": {"solver": "lbfgs"},
}
HIDDEN, FEATURES, CLASSES = 100, 64, 10  # the last two of predict_proba


def data(case: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """X, y and what is not by default."""
    if case == "digits":
        X, y = load_digits(return_X_y=True)
        return X / 16, y, {"batch_size": 32}
    n, width = map(int, case.split("x"))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, width))
    return X, (X @ rng.normal(size=(width, 3))).argmax(axis=1), {}


def alternate(calls: Sequence[Callable[[], Any]], rounds: int, count: int = 1) -> list[list[float]]:
    """Seconds of a call, of each in turn."""
    seconds: list[list[float]] = [[] for _ in calls]
    for r in range(-1, rounds):  # the first is a warm-up
        for call, own in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            own += [(time.perf_counter() - start) / count] * (r >= 0)
    return seconds


def compare(what: str, calls: Sequence[Callable[[], Any]], rounds: int, count: int = 1) -> dict[str, Any]:
    """Theirs against ours."""
    theirs, ours = alternate(calls, rounds, count)
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    spreads = {"theirs": theirs, "ours": ours, "ratio": ratios}
    return {"what": what, **{name: harness.spread(values) for name, values in spreads.items()}}


def fit(case: str, dtype: str, way: str, flops: float, options: argparse.Namespace) -> dict[str, Any]:
    """Training."""
    X, y, settings = data(case)
    X, epochs = X.astype(dtype), 1 if options.quick else CASES[case]
    both = [
        kind(max_iter=epochs, tol=0.0, n_iter_no_change=10**6, random_state=0, **settings, **WAYS[way])
        for kind in (Theirs, Ours)
    ]
    result = compare(f"{case} {dtype} {way}", [lambda model=model: model.fit(X, y) for model in both], options.rounds)
    scores = [model.score(X, y) for model in both]
    result["score"], result["apart"] = scores[1], abs(scores[1] - scores[0])
    if way != "lbfgs":
        rows, (inner, outer) = both[1].t_, (W.size for W in both[1].coefs_)
        work = rows * (4 * inner + 6 * outer)  # no derivative by X
        result["percent_of_peak"] = 100 * work / result["ours"]["median"] / (flops if dtype == "float32" else flops / 2)
    return result


def predict(rows: int, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """predict_proba of 64-100-10."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1000, FEATURES)).astype(dtype), np.arange(1000) % CLASSES
    both = [kind((HIDDEN,), max_iter=1, random_state=0).fit(X, y) for kind in (Theirs, Ours)]
    calls = [lambda model=model: model.predict_proba(X[:rows]) for model in both]
    (once,) = alternate(calls[:1], 1)[0]
    return compare(f"predict_proba {rows} {dtype}", calls, options.rounds, max(1, int(options.seconds / once)))


def row(result: dict[str, Any]) -> list[str]:
    """Of the table."""
    times = [harness.with_spread(result[side], lambda seconds: f"{1e3 * seconds:.3g}") for side in ("theirs", "ours")]
    percent, apart = (f"{result[key]:.2g}" if key in result else "-" for key in ("percent_of_peak", "apart"))
    return [result["what"], *times, f"{result['ratio']['median']:.2f}", percent, apart]


def main() -> int:
    parser = argparse.ArgumentParser(description="MLPClassifier of bpcore and of scikit-learn.")
    names = list(CASES)
    parser.add_argument("--problems", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    options = harness.parse(parser)
    warnings.simplefilter("ignore", ConvergenceWarning)
    machine, threads = harness.print_machine(), bp.get_num_threads()
    peaks = peak.measure([threads])
    harness.print_peaks(peaks)
    results = [
        fit(case, dtype, way, peaks[threads]["flops"], options)
        for case in options.problems
        for dtype in ("float64", "float32")
        for way in WAYS
    ]
    results += [predict(rows, dtype, options) for rows in (1, 1000) for dtype in ("float64", "float32")]
    head = ["case", "scikit-learn, ms", "bpcore, ms", "ratio", "% of peak", "scores apart"]
    harness.print_table(head, map(row, results))
    harness.write_json("sklearn", options, {"machine": machine, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.run(main))
