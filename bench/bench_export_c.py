"""Nanoseconds an answer of the C code that bp.export_c writes, beside net.predictor() called from Python.

    python bench/bench_export_c.py [--nets 4-16-3 ...] [--quick]

ReLU inside, softmax at the end, float32, one row. The C code is compiled with -O2, as for any machine, and with
-O3 -march=native -ffp-contract=fast, as for this one; export_c.c calls it in a loop. All take turns. Prints medians and
the ratio predictor / the faster C. Writes results/export_c.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

import bpcore as bp

NETS = ("4-16-3", "64-32-10", "784-30-10", "100-256-256-2")
FLAGS = {"C, -O2": ["-O2"], "C, -O3 native": ["-O3", "-march=native", "-ffp-contract=fast"]}
WAYS = [*FLAGS, "predictor"]
COMPILER = os.environ.get("CC", "cc").split()


def build(net: bp.Network, flags: list[str], folder: Path) -> Path:
    """The program that measures a network's C code."""
    bp.export_c(net, folder / "net.h")
    program = folder / "".join(flags)
    sizes = [f"-DN_IN={net.n_inputs}", f"-DN_OUT={net.n_outputs}", '-DNETWORK="net.h"']
    source = harness.HERE / "export_c.c"
    command = [*COMPILER, "-std=c99", "-D_GNU_SOURCE", *flags, *sizes, f"-I{folder}", source, "-o", program, "-lm"]
    subprocess.run(command, check=True)
    return program


def in_python(net: bp.Network, seconds: float) -> float:
    """Seconds a call of the predictor."""
    answer, x, out = net.predictor(), np.zeros(net.n_inputs, np.float32), np.empty(net.n_outputs, np.float32)
    begin = end = time.perf_counter()
    calls = 0
    while end - begin < seconds:
        for _ in range(100):
            answer(x, out=out)
        calls += 100
        end = time.perf_counter()
    return (end - begin) / calls


def measure(sizes: tuple[int, ...], options: argparse.Namespace) -> dict[str, Any]:
    """Of one network, each way in turn."""
    n_in, *hidden, n_out = sizes
    net = bp.Network([bp.Input(n_in), *(bp.Dense(n, "relu") for n in hidden), bp.Dense(n_out, "softmax")], seed=1986)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        programs = {way: build(net, flags, Path(folder)) for way, flags in FLAGS.items()}
        for _ in range(options.rounds):
            for way, program in programs.items():
                times[way].append(float(subprocess.check_output([program, str(options.seconds)], text=True)))
            times["predictor"].append(in_python(net, options.seconds))
    ratios = [python / min(c) for *c, python in zip(*times.values(), strict=True)]
    spreads = {way: harness.spread(values) for way, values in times.items()}
    return {"net": "-".join(map(str, sizes)), **spreads, "ratio": harness.spread(ratios)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Exported C code against predictor().")
    nets = list(map(harness.sizes, NETS))
    parser.add_argument("--nets", nargs="+", type=harness.sizes, default=nets, metavar="SIZES")
    options = harness.parse(parser)
    machine = harness.print_machine()
    results = [measure(sizes, options) for sizes in options.nets]
    rows = [[r["net"], *(harness.with_spread(r[way], lambda s: f"{1e9 * s:.3g}") for way in WAYS),
             f"{r['ratio']['median']:.1f}"] for r in results]  # fmt: skip
    harness.print_table(["net", *WAYS, "ratio"], rows)
    print("nanoseconds a call, median +- half the spread in percent")
    harness.write_json("export_c", options, {"machine": machine, "compiler": COMPILER, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
