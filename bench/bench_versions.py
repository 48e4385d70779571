"""Training steps and calls of two versions of bpcore in one run, alternating: what a change gained or cost.

    python bench/bench_versions.py --before HEAD~10             # a git reference, built in a temporary worktree
    python bench/bench_versions.py --before ../tree 2-8-1/4 lstm    # or a built source tree; some of the cases
    python bench/bench_versions.py --before v0.1.0 --optimizers sgd --threads 1 --rounds 15

After is this source tree as it is built. Cases are the nets of bench_epoch, the graphs of bench/graphs, and calls of a
method on 4-16-3, of which a step is a part of a microsecond: what is around it shows (call:fit and the like). A round
times both versions one after the other, so a ratio is the median over the rounds of before / after, and above 1 where
the new version is faster; its range is that of the rounds. Both must have the same losses to 1e-4 over three epochs, or
the exit status is 1; "same" says that they have the same bits. A dash: a version cannot run the case. Writes
results/versions.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench_epoch
import bench_graph
import harness
import numpy as np
from adapters import Spec

TREE = harness.HERE.parent
VERSIONS = ("before", "after")
CALLS = tuple(f"call:{method}" for method in ("fit", "value_and_grad", "evaluate", "predict", "predictor"))


@contextlib.contextmanager
def built(version: str) -> Iterator[Path]:
    """The source tree of a version: its folder, or a worktree of a git reference, built and in the end removed."""
    if Path(version).is_dir():
        yield Path(version).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        command("git", "-C", str(TREE), "worktree", "add", "--detach", str(tree), version)
        try:
            print(f"building {version}", file=sys.stderr)
            command(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tree)
            yield tree
        finally:
            command("git", "-C", str(TREE), "worktree", "remove", "--force", str(tree))


def command(*words: str, cwd: Path | None = None) -> None:
    """Runs it; WorkerError with the end of what it says."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise harness.WorkerError(f"{' '.join(words)}:\n{done.stderr[-2000:]}")


def case(name: str) -> str | tuple[tuple[int, ...], int]:
    """argparse type: a name of bench/graphs, call:fit and the like, or 784-30-10/10."""
    return name if name in (*bench_graph.CASES, *CALLS) else bench_epoch.net(name)


def task(of: Any, optimizer: str) -> tuple[str, int, str, dict[str, Any]]:
    """Title, steps of an epoch, the adapter's class and its arguments."""
    if of in CALLS:
        return of, 1, "Call", {"method": of.partition(":")[2]}
    if isinstance(of, str):
        module = importlib.import_module(f"graphs.{of}")
        arguments = module.data(np.random.default_rng(bench_graph.SEED))
        return of, len(arguments["y"]) // module.BATCH, "Graph", {"case": of, "optimizer": optimizer, **arguments}
    spec = Spec(*of, optimizer=optimizer, lr=bench_epoch.RATES[optimizer])
    arguments = bench_epoch.data(spec)
    return spec.name, len(arguments["X"]) // spec.batch, "Train", arguments


def measure(crew: list[harness.Worker], of: Any, optimizer: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One result for each number of threads; the crew is before, after, before, after, ..."""
    title, steps, kind, arguments = task(of, optimizer)
    shown = {"case": title, "optimizer": optimizer}
    try:
        for worker in crew:
            worker.make(kind, **arguments)
        curves = [worker.time(bench_graph.PARITY_EPOCHS)[1] for worker in crew]
    except harness.WorkerError as error:
        reason = str(error).strip().splitlines()[-1]
        return [{**shown, "threads": n, "failed": reason} for n in options.threads]
    timings = harness.alternate(crew, options.rounds, options.seconds)
    results = []
    for i, n in enumerate(options.threads):
        pair, (one, other) = timings[2 * i : 2 * i + 2], curves[2 * i : 2 * i + 2]
        ratios = [a / b for a, b in zip(*(timing.seconds for timing in pair), strict=True)]
        results.append(
            {
                **shown,
                "threads": n,
                "ratio": harness.spread(ratios),
                "loss_disagreement": 0.0 if one == other else harness.disagreement([one, other]),
                **{
                    version: {key: value / steps for key, value in timing.unit().items()}
                    for version, timing in zip(VERSIONS, pair, strict=True)
                },
            }
        )
    return results


def row(result: dict[str, Any]) -> list[str]:
    """Of the table."""
    first = [result["case"], result["optimizer"], str(result["threads"])]
    if "failed" in result:
        return [*first, *"-----"]
    times = [harness.with_spread(result[version], harness.microseconds) for version in VERSIONS]
    ratio, differ = result["ratio"], result["loss_disagreement"]
    spread = f"{ratio['min']:.2f} .. {ratio['max']:.2f}"
    return [*first, *times, f"{ratio['median']:.3f}", spread, f"{differ:.0e}" if differ else "same"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Microseconds a training step or a call, version against version.")
    parser.add_argument("--before", required=True, metavar="VERSION", help="a git reference, or a built source tree")
    every = [*map(bench_epoch.net, bench_epoch.NETS), *bench_graph.CASES, *CALLS]
    parser.add_argument("cases", nargs="*", type=case, default=every, metavar="CASE", help="784-30-10/10, lstm, ...")
    rules = list(bench_epoch.RATES)
    parser.add_argument("--optimizers", nargs="+", choices=rules, default=rules, metavar="NAME", help="sgd, adam")
    parser.add_argument("--threads", nargs="+", type=harness.positive(int), default=[1, 2], metavar="N")
    return harness.parse(parser)


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = []
    with built(options.before) as before, harness.workers(["bpcore"], options.threads, [before, TREE]) as crew:
        for worker, tree in zip(crew, [before, TREE] * len(options.threads), strict=True):
            if not worker.path.is_relative_to(tree):
                raise harness.WorkerError(f"{tree}: expected bpcore in it, got {worker.path}")
        commits = [harness.commit(tree) for tree in (before, TREE)]
        print("before: {}, after: {}".format(*commits))
        for of in options.cases:
            for optimizer in options.optimizers if of not in CALLS else ["-"]:
                results += measure(crew, of, optimizer, options)
                done = results[-1]
                print(done["case"], optimizer, done.get("failed", "measured"), file=sys.stderr)
    head = ["case", "optimizer", "threads", *VERSIONS, "ratio", "range", "losses differ"]
    harness.print_table(head, map(row, results))
    print("microseconds a step or a call, median +- half the spread in percent; ratio: before / after")
    content = {"machine": machine, **dict(zip(VERSIONS, commits, strict=True)), "results": results}
    harness.write_json("versions", options, content)
    apart = [result for result in results if result.get("loss_disagreement", 0) > bench_graph.TOLERANCE]
    for result in apart:
        print(f"losses differ: {' '.join(row(result)[:3])}", file=sys.stderr)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
