"""What a library costs besides time: memory while it trains, seconds to import, bytes installed.

    python bench/bench_memory.py [--libraries NAME ...] [--quick]

Memory is the most that a fresh process holds resident while it trains 784-128-10, batch 64, on 20,000 float32 rows for
two epochs on one thread, beyond what it held with NumPy imported and the data made (Linux only). Their losses must
agree to 1e-4, or the exit status is 1. Import time is beyond NumPy's, from bytecode. Both are medians over fresh
processes, the first left out. Installed are the library's own files, not those of what it depends on; bpcore's are
counted in a wheel built for the purpose, and the size of that wheel is given. Writes results/memory.json.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
from adapters import Spec, start_weights

LIBRARIES = ("bpcore", "numpy", "sklearn", "torch", "jax")
MODULES = {"sklearn": "sklearn.neural_network", "jax": "jax.numpy"}  # else the library's name
DISTRIBUTIONS = {"sklearn": ("scikit-learn",), "jax": ("jax", "jaxlib")}  # else the library's name
SPEC = Spec((784, 128, 10), batch=64)
SAMPLES, EPOCHS, SEED = 20_000, 2, 1986
TOLERANCE = 1e-4
MIB = 1 << 20


def child(library: str) -> dict[str, Any]:
    """In a fresh process: bytes held at most beyond the data, seconds of the import, and the loss of each epoch."""
    rng = np.random.default_rng(SEED)
    n = SAMPLES // SPEC.batch * SPEC.batch
    X = rng.standard_normal((n, SPEC.sizes[0]), np.float32)
    y = rng.integers(SPEC.sizes[-1], size=n)
    theta = start_weights(SPEC, SEED)
    name, _, variant = library.partition(":")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    start = time.perf_counter()
    importlib.import_module(MODULES.get(name, name))
    seconds = time.perf_counter() - start
    adapter = importlib.import_module(f"adapters.{name}_")
    adapter.load(1, variant)
    task = adapter.Train(SPEC, theta, X, y)
    task.reset()
    losses = task.run(EPOCHS)
    return {"peak_bytes": resident("VmHWM") - before, "import_seconds": seconds, "losses": losses}


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


def measure(library: str, processes: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", library]
    env = harness.environment(1)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # a library is installed with its bytecode: the first process writes it
    with harness.affinity(1):
        lines = [
            subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
            for _ in range(1 + processes)
        ]
    answers = [json.loads(line) for line in lines[1:]]
    medians = {key: statistics.median(one[key] for one in answers) for key in ("peak_bytes", "import_seconds")}
    return {**medians, "losses": answers[0]["losses"]}


def installed(library: str) -> dict[str, int]:
    """Bytes of the library's own files, and of its wheel where it is built here."""
    name = harness.family(library)
    if name == "bpcore":
        return built()
    distributions = DISTRIBUTIONS.get(name, (name,))
    files = [file.locate() for one in distributions for file in importlib.metadata.files(one) or ()]
    return {"installed_bytes": sum(Path(file).stat().st_size for file in files if Path(file).is_file())}


def built() -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--wheel-dir", folder, str(harness.HERE.parent)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return {
                "wheel_bytes": wheel.stat().st_size,
                "installed_bytes": sum(entry.file_size for entry in archive.infolist()),
            }


def print_results(results: list[dict[str, Any]]) -> None:
    rows = [
        [
            result["library"],
            f"{result['peak_bytes'] / MIB:.1f}",
            f"{1e3 * result['import_seconds']:.0f}",
            f"{result['installed_bytes'] / MIB:.1f}",
            f"{result['wheel_bytes'] / MIB:.1f}" if "wheel_bytes" in result else "-",
        ]
        for result in results
    ]
    harness.print_table(["library", "training MiB", "import ms", "installed MiB", "wheel MiB"], rows)
    print("training and import beyond NumPy and the data; installed without dependencies")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory, import time and size, library against library.")
    parser.add_argument("--child", type=harness.library_name, help=argparse.SUPPRESS)
    libraries = {"type": harness.library_name, "default": list(LIBRARIES), "metavar": "NAME"}
    parser.add_argument("--libraries", nargs="+", **libraries)
    parser.add_argument("--processes", type=harness.positive(int), default=7, help="of each (default 7)")
    parser.add_argument("--quick", action="store_true", help="one process of each")
    return harness.parse_args(parser)


def main() -> int:
    options = arguments()
    if options.child:
        print(json.dumps(child(options.child)))
        return 0
    machine = harness.print_machine()
    results = []
    for library in harness.installed(options.libraries):
        print(f"measuring {library}", file=sys.stderr)
        figures = measure(library, 1 if options.quick else options.processes)
        results.append({"library": library, **figures, **installed(library)})
    print_results(results)
    difference = harness.disagreement([result["losses"] for result in results])
    content = {"machine": machine, "net": SPEC.name, "samples": SAMPLES, "epochs": EPOCHS}
    harness.write_json("memory", options, {**content, "loss_disagreement": difference, "results": results})
    if difference > TOLERANCE:
        print(f"losses differ by {difference:.0e}", file=sys.stderr)
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(harness.run(main))
