"""`bpcore bench`: this machine's speed, beside NumPy's, and that of libraries which are installed.

A first look, each library on as many threads as it takes by itself.  bench/bench_epoch.py tries all numbers of threads.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import statistics
import sys
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import numpy as np

import bpcore as bp
from bpcore_cli._contestants import CONTESTANTS, BpcoreNet, Task


class Measure(NamedTuple):
    """What is timed; rows: of a batch, or of a question."""

    trains: bool
    sizes: tuple[int, ...]
    rows: int

    def __str__(self) -> str:
        verb, unit = ("train", "batch ") if self.trains else ("predict", "rows ")
        return f"{verb} {'-'.join(map(str, self.sizes))}, {unit}{self.rows}"


_MEASURES = (
    Measure(True, (4, 16, 3), 16), Measure(True, (64, 64, 10), 32), Measure(True, (784, 128, 10), 64),
    Measure(False, (64, 128, 10), 1), Measure(False, (784, 128, 10), 256),
)  # fmt: skip
_ROWS = 960  # of an epoch
_ROUNDS = 3  # in which libraries take turns; fewer where the time is over
_LIKE = 1e-3  # between losses after an epoch, or answers: those that part further do something else
_STARTING = 0.4  # of the time, for imports and first calls


def run(options: Namespace) -> None:
    """`bpcore bench`."""
    threads, end = options.threads or bp.get_num_threads(), time.perf_counter() + options.budget
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:  # a process a library: their threads do not disturb each other
        alone: dict[str, Any] = {
            "mp_context": context,
            "initializer": signal.signal,
            "initargs": (signal.SIGINT, signal.SIG_IGN),
        }
        workers = {name: stack.enter_context(ProcessPoolExecutor(1, **alone)) for name in CONTESTANTS}
        names = [name for name, worker in workers.items() if worker.submit(is_there, name, threads).result()]
        share = options.budget * (1 - _STARTING) / (_ROUNDS * len(_MEASURES) * len(names))
        found: dict[tuple[Measure, str], list[tuple[float, Any]]] = {}
        for k, measure in product(range(_ROUNDS), _MEASURES):
            if k and time.perf_counter() > end:
                break
            print(f"round {k + 1} of {_ROUNDS}: {measure}", file=sys.stderr, flush=True)
            for name in names:
                found.setdefault((measure, name), []).append(workers[name].submit(clock, name, measure, share).result())
    table = [
        {"measure": str(measure), "per_second": _per_second({name: found[measure, name] for name in names})}
        for measure in _MEASURES
    ]
    if options.json:
        print(json.dumps({"threads": threads, "rows": table}))
    else:
        _show(table, names)


def is_there(name: str, threads: int) -> bool:
    """In a worker: whether the library is installed; it is made ready."""
    bp.set_num_threads(threads)
    try:
        CONTESTANTS[name](Task.made((3, 3, 3), 3, 9))
    except ImportError:
        return False
    return True


def clock(name: str, measure: Measure, seconds: float) -> tuple[float, Any]:
    """In a worker: rows a second, and what shows that they were computed, a loss or answers; 0 where it cannot."""
    batch = measure.rows if measure.trains else _ROWS
    task = Task.made(measure.sizes, batch, _ROWS)
    net = CONTESTANTS[name](task)
    if measure.trains:
        if net.epoch is None:
            return 0.0, None
        net.epoch()
        judge = BpcoreNet(task)
        judge.set(net.weights())
        proof: Any = judge.net.evaluate(task.X, task.y)["loss"]
        call, rows = net.epoch, _ROWS
    else:
        x = task.X[: measure.rows] if measure.rows > 1 else task.X[0]
        proof = np.atleast_2d(net.predict(x))
        call, rows = lambda: net.predict(x), measure.rows
    n, begun = 0, time.perf_counter()
    while n == 0 or time.perf_counter() - begun < seconds:
        call()
        n += 1
    return n * rows / (time.perf_counter() - begun), proof


def _per_second(results: dict[str, list[tuple[float, Any]]]) -> dict[str, float]:
    """The median of each library's rounds, where it has computed what bpcore has."""
    right = results["bpcore"][0][1]
    return {
        name: statistics.median(rate for rate, _ in each)
        for name, each in results.items()
        if each[0][0] and np.abs(each[0][1] - right).max() < _LIKE
    }


def _show(table: list[dict[str, Any]], names: list[str]) -> None:
    lines = [["rows a second", *names, "ratio to the best other"]]
    for row in table:
        rates = row["per_second"]
        ratio = rates["bpcore"] / max(rate for name, rate in rates.items() if name != "bpcore")
        lines.append([row["measure"], *(_short(rates.get(name)) for name in names), f"{ratio:.2g}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *cells in lines:
        print("  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))]))


def _short(rate: float | None) -> str:
    """Three digits."""
    if rate is None:
        return "-"
    for factor, unit in ((1e6, " M"), (1e3, " k")):
        if rate >= factor:
            return f"{rate / factor:.3g}{unit}"
    return f"{rate:.3g}"
