"""One row of twenty mixed columns to a prediction: bp.Table against scikit-learn's ColumnTransformer.

    python bench/bench_table.py [--rounds 7] [--seconds 0.5] [--quick]

Ten numbers (two with gaps), six categories, two booleans and two dates; both networks have 256 and 128 hidden units,
and the same inputs, but that what bpcore embeds is one-hot in scikit-learn.  `predictor()` gets a dict and a tuple,
scikit-learn's pipeline a data frame of one row, made beforehand.  Both alternate in one process.  Then 10,000 rows at
once.  Prints microseconds a call, and ratios.  Writes results/table.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import harness
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, RobustScaler

import bpcore as bp

ROWS = 10_000
LEVELS = [2, 3, 5, 8, 20, 100]


def frame(n: int) -> pd.DataFrame:
    """Twenty columns and a target."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"number {k}": rng.normal(10 * k, 1 + k, n) for k in range(10)}
    for k in range(2):
        columns[f"number {k}"][rng.random(n) < 0.1] = np.nan
    for k, levels in enumerate(LEVELS):
        columns[f"category {k}"] = [f"level {i}" for i in rng.integers(0, levels, n)]
    for k in range(2):
        columns[f"yes or no {k}"] = rng.random(n) < 0.5
        columns[f"date {k}"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n), unit="min")
    columns["y"] = columns["number 5"] + 3 * columns["yes or no 0"] + rng.normal(size=n)
    return pd.DataFrame(columns)


def parts(dates: pd.DataFrame) -> np.ndarray:
    """Days, and sine and cosine of month and weekday, as the table has them."""
    found = []
    for name in dates.columns:
        date = dates[name].dt
        found.append(dates[name].astype("int64") / 86_400e9 / 365)
        for part, n in ((date.month - 1, 12), (date.weekday, 7)):
            found += [np.sin(2 * np.pi * part / n), np.cos(2 * np.pi * part / n)]
    return np.stack(found, axis=1)


def theirs(data: pd.DataFrame) -> Any:
    """A fitted pipeline."""
    names = {kind: [name for name in data.columns if name.startswith(kind)] for kind in ("number", "date")}
    others = [name for name in data.columns if name.startswith(("category", "yes"))]
    columns = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(strategy="median", add_indicator=True), RobustScaler()),
         names["number"]),
        ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
        ("dates", FunctionTransformer(parts), names["date"]),
    ])  # fmt: skip
    return make_pipeline(columns, MLPRegressor(hidden_layer_sizes=(256, 128), max_iter=1)).fit(
        data.drop(columns="y"), data["y"]
    )


def microseconds(call: Any, x: Any, seconds: float) -> float:
    """Of a call, the mean over so long."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call(x)
        count += 1
    return 1e6 * (time.perf_counter() - start) / count


def main() -> int:
    options = harness.parse(argparse.ArgumentParser(description=__doc__.partition("\n")[0]))
    machine = harness.print_machine()
    warnings.simplefilter("ignore")
    data = frame(1000 if options.quick else ROWS)
    net = bp.Network.from_table(bp.Table(data, "y"), (256, 128))
    net.fit(data, epochs=1)
    pipeline, answer, X = theirs(data), net.predictor(), data.drop(columns="y")
    row = {name: X[name][0].to_pydatetime() if name.startswith("date") else X[name].tolist()[0] for name in X.columns}
    many = f"{len(X):,} rows"
    cases = {
        "a dict": (answer, row),
        "a tuple": (answer, tuple(row[name] for name in net.table.columns)),
        "scikit-learn, a row": (pipeline.predict, X.iloc[:1]),
        many: (net.predict, X),
        f"scikit-learn, {many}": (pipeline.predict, X),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (call, x) in cases.items():
            times[name].append(microseconds(call, x, options.seconds))
    spreads = {name: harness.spread(each) for name, each in times.items()}
    rows = [(name, f"{np.median(each):,.1f}", f"{min(each):,.1f}", f"{max(each):,.1f}") for name, each in times.items()]
    harness.print_table(("of a call", "median, us", "least", "most"), rows)
    ratios = {
        name: float(np.median(times[f"scikit-learn, {them}"]) / np.median(times[name]))
        for name, them in (("a dict", "a row"), ("a tuple", "a row"), (many, many))
    }
    print({name: f"{ratio:,.1f} times as fast" for name, ratio in ratios.items()})
    harness.write_json("table", options, {"machine": machine, "microseconds": spreads, "ratios": ratios})
    return 0


if __name__ == "__main__":
    harness.run(main)
