"""A search over small networks: bpcore's GridSearchCV, scikit-learn's over the same estimators, and over its own MLP.

    python bench/bench_search.py
    python bench/bench_search.py --quick

24 candidates x 5 folds of (32,) and (64,) networks on the digits, in turn in one run; scikit-learn's searches with
n_jobs of 1 and 2, the better of which counts.  All over bpcore's estimators must have the same scores to the bit, or
the exit status is 1.  Writes results/search.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from typing import Any

import harness

GRID = {
    "hidden_layer_sizes": [(32,), (64,)], "alpha": [1e-4, 1e-3, 1e-2], "learning_rate_init": [1e-3, 3e-3],
    "batch_size": [32, 64],
}  # fmt: skip


def searches(epochs: int) -> dict[str, Any]:
    """By name, each not yet fitted."""
    import sklearn.neural_network
    from sklearn.model_selection import GridSearchCV

    import bpcore.sklearn

    settings = {"max_iter": epochs, "random_state": 0}
    ours, theirs = bpcore.sklearn.MLPClassifier(**settings), sklearn.neural_network.MLPClassifier(**settings)
    rest = {"cv": 5, "refit": False}
    return {
        "bpcore": bpcore.sklearn.GridSearchCV(ours, GRID, **rest),
        "estimators n_jobs=1": GridSearchCV(ours, GRID, n_jobs=1, **rest),
        "estimators n_jobs=2": GridSearchCV(ours, GRID, n_jobs=2, **rest),
        "scikit-learn n_jobs=1": GridSearchCV(theirs, GRID, n_jobs=1, **rest),
        "scikit-learn n_jobs=2": GridSearchCV(theirs, GRID, n_jobs=2, **rest),
    }


def main() -> int:
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description="A search over small networks.")
    parser.add_argument("--epochs", type=harness.positive(int), default=30, help="of each network (default 30)")
    options = harness.parse(parser)
    options.epochs = 3 if options.quick else options.epochs
    options.rounds = 1 if options.quick else min(options.rounds, 3)
    os.environ["PYTHONWARNINGS"] = "ignore"  # of processes that joblib starts
    warnings.simplefilter("ignore")
    description = harness.print_machine()
    X, y = load_digits(return_X_y=True)
    seconds: dict[str, list[float]] = {}
    scores: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, search in searches(options.epochs).items():
            start = time.perf_counter()
            search.fit(X / 16, y)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            scores[name] = search.cv_results_["mean_test_score"].tolist()
    figures = {name: harness.spread(values) for name, values in seconds.items()}
    ours = figures["bpcore"]["median"]
    harness.print_table(
        ["search", "seconds", "over bpcore's"],
        ([name, harness.with_spread(each, "{:.2f}".format), f"{each['median'] / ours:.2f}"]
         for name, each in figures.items()),
    )  # fmt: skip
    same = scores["bpcore"] == scores["estimators n_jobs=1"] == scores["estimators n_jobs=2"]
    print("the same scores" if same else "SCORES DIFFER")
    harness.write_json("search", options, {"machine": description, "epochs": options.epochs, "seconds": figures})
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(harness.run(main))
