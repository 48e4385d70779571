"""Training steps on sparse rows: bpcore against scikit-learn's MLPClassifier and PyTorch.

    python bench/bench_sparse.py [--rounds 5] [--skew] [--quick]

A matrix (20,000, 100,000) with 100 numbers a row, float32, a network of 64 hidden units, batches of 128, all threads.
Each side trains on the same few batches from the same weights; sides take turns in one process, with a pause in which
threads of the one before go to sleep. PyTorch has two ways: torch.sparse.mm of CSR batches, and EmbeddingBag with
weights of entries; both find their batches cut and converted. "lazy" steps move only the columns of their batch:
bpcore's Dense(lazy=True), EmbeddingBag's sparse gradients with SGD or SparseAdam; a side that has no such step makes a
whole one. --skew: columns are named as words are, few of them often. Prints milliseconds a step, the ratio of each peer
to bpcore, and the mean loss of the last pass, which is alike where the rule is. Writes results/sparse.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import scipy.sparse
import torch
from sklearn.neural_network import MLPClassifier

import bpcore as bp

ROWS, COLUMNS, ENTRIES, HIDDEN, CLASSES, BATCH = 20_000, 100_000, 100, 64, 3, 128
WAYS = {"sgd": 0.1, "adam": 0.001, "lazy adam": 0.001}  # and lr
Pass = Callable[[], float]  # trains on all batches once, and gives the mean loss


def data(skew: bool, quick: bool) -> tuple[Any, np.ndarray]:
    """The rows of the batches that are trained on, and their classes."""
    rng = np.random.default_rng(0)
    shape = (ROWS, ENTRIES)
    columns = (COLUMNS * rng.random(shape) ** 4).astype(np.int32) if skew else rng.integers(0, COLUMNS, shape, np.int32)
    values, indptr = rng.random(ROWS * ENTRIES, np.float32), np.arange(0, ROWS * ENTRIES + 1, ENTRIES)
    X = scipy.sparse.csr_array((values, columns.ravel(), indptr), (ROWS, COLUMNS))
    y = (X @ rng.normal(size=(COLUMNS, CLASSES))).argmax(axis=1)
    n = BATCH * (2 if quick else 8)
    return X[:n], y[:n]


def network(way: str) -> bp.Network:
    layers = [bp.Dense(HIDDEN, "relu", lazy=way.startswith("lazy")), bp.Dense(CLASSES, "softmax")]
    return bp.Network([bp.Input(COLUMNS), *layers], seed=0)


def bpcore(way: str, X: Any, y: np.ndarray) -> Pass:
    net, optimizer = network(way), bp.SGD(WAYS[way]) if way == "sgd" else bp.Adam(WAYS[way])
    return lambda: net.fit(X, y, optimizer=optimizer, epochs=1, batch_size=BATCH, shuffle=False).loss[-1]


def sklearn(way: str, X: Any, y: np.ndarray) -> Pass:
    """Its steps are whole; weights are those of the others once it has made its own."""
    model = MLPClassifier(
        (HIDDEN,), solver="sgd" if way == "sgd" else "adam", learning_rate_init=WAYS[way], batch_size=BATCH, alpha=0,
        momentum=0, shuffle=False, random_state=0,
    )  # fmt: skip
    X = scipy.sparse.csr_matrix(X)
    model.partial_fit(X[:2], y[:2], classes=range(CLASSES))
    net = network(way)
    for layer in (1, 2):
        model.coefs_[layer - 1][...], model.intercepts_[layer - 1][...] = net.W[layer].T, net.b[layer]

    def once() -> float:
        model.partial_fit(X, y)
        return float(model.loss_)

    return once


def pytorch(way: str, X: Any, y: np.ndarray, bag: bool) -> Pass:
    """First layer by EmbeddingBag, or by the product of a CSR batch and a matrix."""
    net, lazy = network(way), bag and way in ("sgd", "lazy adam")
    table = torch.nn.EmbeddingBag(COLUMNS, HIDDEN, mode="sum", sparse=lazy)
    table.weight.data = torch.tensor(net.W[1].T.copy())
    bias, last = torch.nn.Parameter(torch.tensor(net.b[1])), torch.nn.Linear(HIDDEN, CLASSES)
    last.weight.data, last.bias.data = torch.tensor(net.W[2]), torch.tensor(net.b[2])
    first, rest = [table.weight], [bias, *last.parameters()]
    if way == "sgd":
        optimizers: list[Any] = [torch.optim.SGD([*first, *rest], WAYS[way])]
    elif lazy:
        optimizers = [torch.optim.SparseAdam(first, WAYS[way]), torch.optim.Adam(rest, WAYS[way])]
    else:
        optimizers = [torch.optim.Adam([*first, *rest], WAYS[way], fused=True)]
    labels, batches = torch.tensor(y), []
    for at in range(0, X.shape[0], BATCH):
        part = X[at : at + BATCH]
        indptr, columns, values = (torch.tensor(a) for a in (part.indptr.astype(np.int64), part.indices, part.data))
        rows = torch.sparse_csr_tensor(indptr, columns.long(), values, part.shape)
        batches.append((rows, columns.long(), indptr[:-1], values, labels[at : at + BATCH]))

    def once() -> float:
        total = 0.0
        for rows, columns, offsets, values, target in batches:
            h = table(columns, offsets, per_sample_weights=values) if bag else torch.sparse.mm(rows, table.weight)
            loss = torch.nn.functional.cross_entropy(last(torch.relu(h + bias)), target)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += float(loss.detach())
        return total / len(batches)

    return once


def compare(way: str, X: Any, y: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step of each side, in turns; the first turn is a warm-up."""
    sides = {
        "bpcore": bpcore(way, X, y),
        "scikit-learn": sklearn(way, X, y),
        "torch.sparse": pytorch(way, X, y, bag=False),
        "EmbeddingBag": pytorch(way, X, y, bag=True),
    }
    steps, times, losses = -(-X.shape[0] // BATCH), {side: [] for side in sides}, {}
    for turn in range(-1, options.rounds):
        for side, once in sides.items():
            time.sleep(harness.SETTLE)
            start = time.perf_counter()
            losses[side] = once()
            times[side] += [1e3 * (time.perf_counter() - start) / steps] * (turn >= 0)
    ratios = {side: [a / b for a, b in zip(times[side], times["bpcore"], strict=True)] for side in sides}
    return {"way": way, "losses": losses, "milliseconds": {side: harness.spread(t) for side, t in times.items()},
            "ratio": {side: harness.spread(r) for side, r in ratios.items()}}  # fmt: skip


def row(result: dict[str, Any]) -> list[str]:
    """Of the table."""
    times, ratios, losses = result["milliseconds"], result["ratio"], result["losses"]
    cells = [
        f"{times[side]['median']:.3g}" + (f" ({ratios[side]['median']:.1f}x)" if side != "bpcore" else "")
        for side in times
    ]
    least = min(ratios[side]["median"] for side in ratios if side != "bpcore")
    return [result["way"], *cells, f"{least:.1f}", " ".join(f"{losses[side]:.3f}" for side in times)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Steps on sparse rows, of bpcore, scikit-learn and PyTorch.")
    parser.add_argument("--skew", action="store_true", help="columns are named as words are")
    options = harness.parse(parser)
    warnings.simplefilter("ignore")
    machine = harness.print_machine()
    torch.set_num_threads(bp.get_num_threads())
    X, y = data(options.skew, options.quick)
    results = [compare(way, X, y, options) for way in WAYS]
    harness.print_table(
        ["steps", "bpcore, ms", "scikit-learn", "torch.sparse", "EmbeddingBag", "least ratio", "losses"],
        map(row, results),
    )
    harness.write_json("sparse", options, {"machine": machine, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.run(main))
