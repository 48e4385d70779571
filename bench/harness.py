"""Compare libraries on one machine, each in processes of its own.

A worker process holds one library with one number of threads, fixed by the environment and the CPU affinity
before it imports anything and by the library's own call after. Rounds alternate between the workers: while
one runs, the others wait on a pipe. `adapters/__init__.py` says what a library's file holds. In a benchmark:

    with workers(["numpy", "bpcore"], [1, 2]) as crew:
        for worker in crew:
            worker.make("Train", spec=..., ...)
        timings = alternate(crew, rounds=7, seconds=0.5)

A worker answers requests (method, arguments) with (error, result), pickled, on its standard input and output.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import itertools
import json
import math
import os
import pickle
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# options that say what is measured
PARTS = ("nets", "networks", "members", "spread", "rows", "sweeps", "widths", "libraries", "threads", "problems")
SETTLE = 0.15  # seconds between two runs, for the threads of the last one to stop spinning: OpenBLAS takes 0.1
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BPCORE_NUM_THREADS",
)


class WorkerError(RuntimeError):
    """A library failed; the message carries its traceback."""


class Worker:
    """A process holding one library, or that of a source tree, with one number of threads."""

    def __init__(self, library: str, threads: int, tree: Path | None = None) -> None:
        self.library, self.threads = library, threads
        with affinity(threads):
            self._process = subprocess.Popen(
                [sys.executable, __file__, library, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(threads) | ({"PYTHONPATH": str(tree)} if tree else {}),
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        try:
            hello = self._ask("load")
        except BaseException:
            self.close()
            raise
        self.versions: dict[str, str] = hello["versions"]
        self.import_seconds: float = hello["import_seconds"]
        self.path = Path(hello["path"])

    def __str__(self) -> str:
        return f"{self.library}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def make(self, task: str, **arguments: Any) -> None:
        """Build the adapter's class of this name; it takes the place of the last one."""
        self._ask("make", task, arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the task, untimed."""
        return self._ask("call", method, arguments)

    def time(self, count: int) -> tuple[float, Any]:
        """Reset the task; then the seconds of run(count), and its result."""
        return self._ask("time", count)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, *request: Any) -> Any:
        try:
            pickle.dump(request, self._process.stdin, protocol=5)
            self._process.stdin.flush()
            error, result = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise WorkerError(f"{self}: the process ended (status {self._process.wait()})") from None
        if error:
            raise WorkerError(f"{self}: {error}")
        return result


def environment(threads: int) -> dict[str, str]:
    """Of a process for so many threads; a BLAS tuned down by its own variables would flatter who does without it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "MKL_"))}
    return kept | dict.fromkeys(THREAD_VARIABLES, str(threads))


@contextlib.contextmanager
def workers(
    libraries: Iterable[str], threads: Iterable[int], trees: Iterable[Path | None] = (None,)
) -> Iterator[list[Worker]]:
    """One worker for each library, number of threads and tree, in this order."""
    crew: list[Worker] = []
    with contextlib.ExitStack() as stack:
        for library, n, tree in itertools.product(libraries, threads, trees):
            crew.append(Worker(library, n, tree))
            stack.callback(crew[-1].close)
        yield crew


@dataclass
class Timing:
    """Seconds of a single unit (an epoch, a call) in each round."""

    count: int
    seconds: list[float] = field(default_factory=list)

    def unit(self) -> dict[str, float]:
        """Median, least and greatest of the seconds of a unit."""
        return spread(self.seconds)

    def rate(self, work: float = 1.0) -> dict[str, float]:
        """Median, least and greatest of work a second, for so much work in a unit."""
        return spread([work / s for s in self.seconds])


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def alternate(crew: Sequence[Worker], rounds: int, seconds: float) -> list[Timing]:
    """Time run(count) of every worker's task once a round, count chosen to last about `seconds`."""
    timings = [Timing(_count(worker, seconds)) for worker in crew]
    turns = list(zip(crew, timings, strict=True))
    for r in range(rounds):
        first = r % len(turns)
        for worker, timing in turns[first:] + turns[:first]:
            time.sleep(SETTLE)
            timing.seconds.append(worker.time(timing.count)[0] / timing.count)
    return timings


def _count(worker: Worker, seconds: float) -> int:
    """The warm-up: double the count until it can be told how many units last so long."""
    count = 1
    while (elapsed := worker.time(count)[0]) < seconds / 8:
        count *= 2
    return max(1, round(count * seconds / elapsed))


def run(main: Callable[[], int]) -> int:
    """The exit status of a benchmark's main, with Ctrl-C and a failed library said in a few lines."""
    try:
        return main()
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def disagreement(curves: Sequence[Sequence[float]]) -> float:
    """Largest relative difference of a loss curve from the first one; infinite if a curve does not fall."""
    if any(not all(map(math.isfinite, curve)) or curve[-1] >= curve[0] for curve in curves):
        return math.inf
    apart = (abs(b - a) / abs(a) for curve in curves[1:] for a, b in zip(curves[0], curve, strict=True))
    return max(apart, default=0.0)


def libraries() -> list[str]:
    """Names of the adapters in adapters/."""
    return sorted(path.stem[:-1] for path in (HERE / "adapters").glob("*_.py") if path.stem != "__init__")


def installed(names: Sequence[str]) -> list[str]:
    """Those of the libraries that are here, with a line about the others; an adapter has its library's name."""
    present = [name for name in names if importlib.util.find_spec(family(name))]
    absent = [name for name in names if name not in present]
    if names[0] in absent:
        raise WorkerError(f"{names[0]}, the subject, is not installed")
    if absent:
        print(f"not installed, left out: {', '.join(absent)}", file=sys.stderr)
    return present


def family(library: str) -> str:
    """The library without its variant."""
    return library.partition(":")[0]


def library_name(text: str) -> str:
    """argparse type: NAME or NAME:VARIANT."""
    name = family(text)
    if name not in libraries():
        raise argparse.ArgumentTypeError(f"{text!r} has no adapter; there are: {', '.join(libraries())}")
    return text


def sizes(text: str) -> tuple[int, ...]:
    """argparse type: 784-30-10."""
    layers = tuple(map(int, text.split("-")))
    if len(layers) < 2 or min(layers) < 1:
        raise ValueError
    return layers


def positive(kind: type) -> Any:
    """argparse type: an int or float above zero."""

    def number(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"
    return number


def add_crew_options(parser: argparse.ArgumentParser, libraries: Sequence[str]) -> None:
    """--libraries, the first being the subject, and --threads."""
    parser.add_argument("--libraries", nargs="+", type=library_name, default=list(libraries), metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=positive(int), default=[1, 2], metavar="N")


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line; part: whether it asks for another selection than the default."""
    names = [f"--{name}" for name in PARTS if parser.get_default(name) is not None]
    if names:
        parser.epilog = f"With other {', '.join(names)} than by default, results go to results/NAME_part.json."
    options = parser.parse_args()
    options.part = any(getattr(options, name, None) != parser.get_default(name) for name in PARTS)
    return options


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, --rounds, --seconds and --quick added, without the libraries that are not installed."""
    parser.add_argument("--rounds", type=positive(int), default=7, help="timed runs of each (default 7)")
    parser.add_argument("--seconds", type=positive(float), default=0.5, help="length of a run (default 0.5)")
    parser.add_argument("--quick", action="store_true", help="a minute in all: 3 rounds of 0.1 s")
    options = parse_args(parser)
    if options.quick:
        options.rounds, options.seconds = 3, 0.1
    if hasattr(options, "libraries"):
        options.libraries = installed(options.libraries)
    return options


def machine() -> dict[str, Any]:
    """CPU, cores, system, Python and the versions that NumPy was built with."""
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": len(_allowed_cpus()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numpy_blas": f"{blas['name']} {blas['version']}",
        "load_before": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
    }


def print_machine() -> dict[str, Any]:
    """Prints, and returns, what `machine` says."""
    description = machine()
    print("{cpu}, {cores_allowed} of {cores} cores, {system}".format(**description))
    print("Python {python}, NumPy {numpy} ({numpy_blas}), {date}".format(**description))
    if description["load_before"] > 0.5:
        print(f"warning: the machine is busy (load {description['load_before']:.1f})")
    return description


def print_peaks(peaks: dict[int, dict[str, Any]]) -> None:
    for n, figures in peaks.items():
        print(f"float32 FMA peak, {n} thread{'s' if n > 1 else ''}: {figures['flops'] / 1e9:.0f} GFLOP/s")


def results_file(name: str, options: argparse.Namespace) -> Path:
    """results/NAME.json, NAME_part.json, NAME_quick.json or NAME_part_quick.json."""
    return RESULTS / f"{name}{'_part' * options.part}{'_quick' * options.quick}.json"


def write_json(name: str, options: argparse.Namespace, content: dict[str, Any]) -> Path:
    path = results_file(name, options)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}")
    return path


def best(runs: Iterable[dict[str, Any]], figure: Callable[[dict[str, Any]], float]) -> list[dict[str, Any]]:
    """The run of the greatest figure of each library, in the order they come."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run["library"] not in found or figure(run) > figure(found[run["library"]]):
            found[run["library"]] = run
    return list(found.values())


def ratio(
    runs: Sequence[dict[str, Any]], subject: str, figure: Callable[[dict[str, Any]], float]
) -> tuple[float, str] | tuple[None, None]:
    """The subject's best figure over the best of all peers, and which peer; variants of the subject are no peers."""
    ours = [run for run in runs if family(run["library"]) == family(subject)]
    peers = [run for run in runs if family(run["library"]) != family(subject)]
    if not ours or not peers:
        return None, None
    peer = max(peers, key=figure)
    return max(map(figure, ours)) / figure(peer), peer["library"]


def cells(
    result: dict[str, Any], libraries: Sequence[str], rate: Callable[[dict[str, Any]], float],
    figures: str, shown: Callable[[float], str], agree: bool,
) -> list[str]:  # fmt: skip
    """Of a row: each library's best run with its spread and threads; the ratio, if results agree; the best peer."""
    row = dict.fromkeys(libraries, "-")
    for run in best(result["runs"], rate):
        row[run["library"]] = f"{with_spread(run[figures], shown)} x{run['threads']}"
    return [*row.values(), f"{result['ratio']:.2f}" if result["ratio"] and agree else "-", result["best_peer"] or "-"]


def with_spread(figures: dict[str, float], shown: Callable[[float], str]) -> str:
    """The median +- half the spread in percent."""
    spread = 50 * (figures["max"] - figures["min"]) / figures["median"]
    return f"{shown(figures['median'])} +-{spread:2.0f}"


def microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.3g}"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need; the first to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())


def number(value: float) -> str:
    """Three digits and a unit: 17.2 M, 504 k."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cpus(threads: int) -> list[int]:
    """So many of the allowed CPUs, each on a core of its own as long as there are such."""
    first_of_core: dict[str, int] = {}
    for cpu in _allowed_cpus():
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first_of_core.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    apart = list(first_of_core.values())
    return (apart + [cpu for cpu in _allowed_cpus() if cpu not in apart])[:threads]


@contextlib.contextmanager
def affinity(threads: int) -> Iterator[None]:
    """A process started inside runs on so many CPUs."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _cpus(threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def commit(tree: Path = HERE) -> str | None:
    """What git calls the state of a tree."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class _Session:
    """The worker's side: one method a request."""

    def __init__(self, library: str, threads: int) -> None:
        self.name, self.variant = family(library), library.partition(":")[2]
        self.threads = threads
        self.adapter: Any = None
        self.task: Any = None

    def load(self) -> dict[str, Any]:
        import numpy  # noqa: F401  its import time is nobody's here

        start = time.perf_counter()
        self.adapter = importlib.import_module(f"adapters.{self.name}_")
        if self.variant not in self.adapter.VARIANTS:
            raise ValueError(f"variant {self.variant!r} of {self.name}: there are {self.adapter.VARIANTS}")
        versions = self.adapter.load(self.threads, self.variant)
        seconds = time.perf_counter() - start
        return {"versions": versions, "import_seconds": seconds, "path": sys.modules[self.name].__file__}

    def make(self, task: str, arguments: dict[str, Any]) -> None:
        self.task = None  # frees the last one before the next is built
        self.task = getattr(self.adapter, task)(**arguments)

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        return getattr(self.task, method)(*arguments)

    def time(self, count: int) -> tuple[float, Any]:
        self.task.reset()
        gc.collect()
        start = time.perf_counter()
        result = self.task.run(count)
        return time.perf_counter() - start, result


def _serve(library: str, threads: int) -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the replies
    session = _Session(library, threads)
    while True:
        try:
            method, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = (None, getattr(session, method)(*arguments))
        except Exception:
            reply = (traceback.format_exc(), None)
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
