"""What a barrier of bpcore's pool costs, and the smallest step that gains from a second thread.

    python bench/bench_barrier.py [--threads 2] [--quick]

A step of training meets at two barriers at least: after phase 1 and after the update. barrier.c, built with
csrc/pool.c, lets threads meet with nothing done between; then it runs steps of work that splits evenly, from 0.1 to
20 us, on one thread and on all, each in turn. Prints medians and the smallest step from which on all threads are
faster at every size. Writes results/barrier.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness

SOURCES = (harness.HERE / "barrier.c", harness.HERE.parent / "csrc" / "pool.c")
RUN_SHARE = 1 / 25  # of --seconds: there are many sizes


def build(folder: Path) -> Path:
    program = folder / "barrier"
    compiler = os.environ.get("CC", "cc").split()
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread", f"-I{SOURCES[1].parent}"]
    subprocess.run([*compiler, *flags, *SOURCES, "-o", program], check=True)
    return program


def parse(lines: str) -> dict[str, Any]:
    """Medians over the trials, in seconds."""
    barriers: list[float] = []
    steps: dict[float, list[list[float]]] = {}
    for line in lines.splitlines():
        what, *numbers = line.split()
        if what == "barrier":
            barriers.append(float(numbers[0]))
        else:
            work, *times = map(float, numbers)
            steps.setdefault(work, []).append(times)
    medians = {work: map(statistics.median, zip(*times, strict=True)) for work, times in steps.items()}
    sizes = [{"work": work, "alone": alone, "together": together} for work, (alone, together) in medians.items()]
    return {"barrier": statistics.median(barriers), "steps": sizes, "smallest_step": smallest(sizes)}


def smallest(steps: list[dict[str, float]]) -> float | None:
    """The work from which on all threads are faster at every size; None where the largest is not."""
    found = None
    for step in reversed(steps):
        if step["together"] >= step["alone"]:
            break
        found = step["work"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of a barrier.")
    parser.add_argument("--threads", type=harness.positive(int), default=2, metavar="N")
    options = harness.parse(parser)
    machine = harness.print_machine()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(options.threads), str(options.rounds), str(options.seconds * RUN_SHARE)]
        found = parse(subprocess.check_output([build(Path(folder)), *arguments], text=True))
    rows = [[f"{1e6 * step[key]:.2f}" for key in ("work", "alone", "together")] for step in found["steps"]]
    harness.print_table(["us of work", "on 1 thread", f"on {options.threads}"], rows)
    print(f"a barrier of {options.threads} threads: {1e9 * found['barrier']:.0f} ns")
    least = found["smallest_step"]
    print(f"smallest step that gains: {f'{1e6 * least:.2f} us' if least else 'none up to the largest'}")
    content = {"machine": machine, "threads": options.threads, **found}
    harness.write_json("barrier", options, content)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
