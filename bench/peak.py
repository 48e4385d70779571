"""What this machine can do: float32 FMA peak and bandwidth by level, for each number of threads.

    python bench/peak.py [--threads 1 2]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).with_name("peak.c")


def measure(threads: Iterable[int]) -> dict[int, dict]:
    """{threads: {"flops": flop/s, "read": {bytes: bytes/s}, "update": {...}}}, summed over the threads."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        compiler = os.environ.get("CC", "cc").split()
        flags = ["-O3", "-march=native", "-pthread"]
        subprocess.run([*compiler, *flags, str(SOURCE), "-o", str(program)], check=True)
        return {n: _parse(subprocess.check_output([program, str(n)], text=True)) for n in threads}


def _parse(lines: str) -> dict:
    figures: dict = {"flops": 0.0, "read": {}, "update": {}}
    for line in lines.splitlines():
        what, size, rate = line.split()
        if what == "fma":
            figures["flops"] = float(rate)
        else:
            figures[what][int(size)] = float(rate)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure float32 FMA peak and memory bandwidth.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    for n, figures in measure(parser.parse_args().threads).items():
        print(f"{n} thread{'s' if n > 1 else ''}: {figures['flops'] / 1e9:.0f} GFLOP/s")
        for what in ("read", "update"):
            rates = (f"{size >> 10} KiB {rate / 1e9:.0f}" for size, rate in figures[what].items())
            print(f"  {what:6} GB/s, working set a thread: {', '.join(rates)}")


if __name__ == "__main__":
    main()
