"""Where the time of bpcore's steps goes, by perf (Linux; CPU time in user mode, all threads), and how far the floor is.

    python bench/profile_net.py                                  # nine nets, one thread
    python bench/profile_net.py --nets 784-128-10/64 --threads 2

The floor of a step is the flops of its products over the FMA peak of so many threads; "share of time" groups the
symbols of bpcore's extension. Wants `perf` (Debian: linux-perf) and the right to use it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import harness
import peak
from adapters import Spec
from bench_epoch import NETS, data, net

GROUPS = {
    "products": r"bp_(tile|whole_\d|panel|multiply|chains|outer|do_tile|do_product)",
    "packing": r"bp_(pack|turn)",
    "moves": r"bp_(rule|sum|clip|squares|dense_step|move)|^move",
    "gradient of b": r"bp_(dense_param_grad|bias_grad|do_column_sums)",
    "loss": r"bp_(\w*entropy|exponentials|count|squared|mse|huber)|^loss",
    "functions": r"bp_(f_|activation|elementwise|softmax)",
    "reading": r"gather|do_copy|convert|mem(move|cpy|set)",
    "waiting": r"barrier",
}


def group(symbol: str) -> str:
    return next((name for name, pattern in GROUPS.items() if re.search(pattern, symbol)), "executor")


def train(spec: Spec, threads: int, seconds: float) -> float:
    """Seconds a step, training for so long."""
    from adapters import bpcore_

    bpcore_.load(threads, "")
    task = bpcore_.Train(**data(spec))
    task.run(1)
    steps, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        task.run(max(1, steps // 10))
        steps += max(1, steps // 10)
    return (now - begun) / steps / (len(task.X) // spec.batch)


def profile(spec: Spec, options: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Seconds a step, and the shares of time by group."""
    with tempfile.TemporaryDirectory() as folder:
        record = str(Path(folder) / "perf.data")
        child = [sys.executable, __file__, "--child", json.dumps([spec.sizes, spec.batch, options.threads, 3.0])]
        perf = ["perf", "record", "-q", "-e", "cpu-clock:u", "-F", "5000", "-o", record, *child]
        done = subprocess.run(perf, capture_output=True, text=True, check=True)
        report = ["perf", "report", "-i", record, "--no-children", "-F", "overhead,dso,symbol"]
        lines = subprocess.run(report, capture_output=True, text=True, check=True).stdout.splitlines()
    shares: dict[str, float] = defaultdict(float)
    for line in lines:
        found = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[\.\]\s+(\S+)", line)
        if found and (found[2].startswith("_core.") or re.search(r"mem(move|cpy|set)", found[3])):
            shares[group(found[3])] += float(found[1])
    total = sum(shares.values())
    return float(done.stdout), {name: share / total for name, share in shares.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Where the time of bpcore's steps goes.")
    parser.add_argument("--nets", nargs="+", type=net, default=list(map(net, NETS)), metavar="SIZES/BATCH")
    parser.add_argument("--threads", type=harness.positive(int), default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sizes, batch, threads, seconds = json.loads(options.child)
        print(train(Spec(tuple(sizes), batch), threads, seconds))
        return 0
    harness.print_machine()
    peaks = peak.measure([options.threads])
    harness.print_peaks(peaks)
    flops = peaks[options.threads]["flops"]
    names = [*GROUPS, "executor"]
    rows = []
    for sizes, batch in options.nets:
        spec = Spec(sizes, batch)
        step, shares = profile(spec, options)
        floor = spec.flops * batch / flops
        cells = [f"{100 * shares.get(name, 0):.0f}" for name in names]
        rows.append([spec.name, f"{1e6 * step:.2f}", f"{1e6 * floor:.2f}", *cells])
    harness.print_table(["net/batch", "us a step", "floor", *(f"{name} %" for name in names)], rows)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
