"""How many threads a call uses."""

from __future__ import annotations

import contextlib
import os
import warnings

from bpcore import _core, _validate
from bpcore._version import __version__

_setting: int | None = None
_ROOT = "/"


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _quota(group: str, names: tuple[str, ...]) -> float:
    """CPUs that one control group allows; infinity where it says nothing."""
    try:
        words = " ".join(_read(os.path.join(group, name)) for name in names).split()
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):
        return float("inf")
    return quota / period if quota > 0 and period > 0 else float("inf")


def _cgroup_quota() -> float:
    """CPUs that this process's control groups (v2 or v1) and those above them allow; infinity without a limit."""
    try:
        lines = _read(os.path.join(_ROOT, "proc/self/cgroup")).splitlines()
    except (OSError, ValueError):
        lines = []
    # a container may see the host's path and yet have its own group mounted at the root
    groups = {("", "/"), ("cpu", "/")}
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers or "cpu" in controllers.split(","):
            groups.add(("cpu" if controllers else "", path))
    lowest = float("inf")
    for mount, path in groups:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if mount else ("cpu.max",)
        top = os.path.join(_ROOT, "sys/fs/cgroup", mount).rstrip("/")
        level = os.path.join(top, path.strip("/")).rstrip("/")
        while len(level) >= len(top):
            lowest = min(lowest, _quota(level, names))
            level = os.path.dirname(level)
    return lowest


def _default() -> int:
    """The smallest of CPU affinity, cgroup quota, BPCORE_NUM_THREADS and OMP_NUM_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [allowed, max(1, int(min(_cgroup_quota(), allowed)))]
    limits += filter(None, map(_limit, ("BPCORE_NUM_THREADS", "OMP_NUM_THREADS")))
    return min(*limits, _core.MAX_THREADS)


def _limit(variable: str) -> int:
    """What a variable of the environment allows, of a list as OpenMP has it the first; 0 where it says nothing."""
    try:
        return max(0, int(os.environ.get(variable, "").split(",")[0]))
    except ValueError:
        return 0


def read_limit() -> None:
    """Warns of a BPCORE_NUM_THREADS that is not a number of threads."""
    value = os.environ.get("BPCORE_NUM_THREADS", "")
    if value.strip() and not _limit("BPCORE_NUM_THREADS"):
        warnings.warn(
            f"BPCORE_NUM_THREADS: expected a number of threads from 1 on, got {value!r}; it is ignored, and bpcore "
            f"uses {_default()}",
            RuntimeWarning,
            stacklevel=3,  # the import of bpcore
        )


def set_num_threads(n: int) -> None:
    """Sets the number of threads for calls that do not say `n_threads`; 1 to 256.

    Threads change the time of a result, never its bits.
    """
    global _setting
    _setting = _validate.threads("n", n)


def get_num_threads() -> int:
    """The number of threads a call uses unless told otherwise."""
    global _setting
    if _setting is None:
        _setting = _default()
    return _setting


def resolve(n_threads: int | None) -> int:
    """`n_threads` of a call, checked, or the default."""
    return get_num_threads() if n_threads is None else _validate.threads("n_threads", n_threads)


def read_forced() -> None:
    """What tests ask for by BPCORE_PARALLEL=always and BPCORE_PHASE2=owners|shards."""
    parallel = os.environ.get("BPCORE_PARALLEL", "")
    if parallel not in ("", "always"):
        raise ValueError(f"BPCORE_PARALLEL: expected 'always', got {parallel!r}")
    phase2 = os.environ.get("BPCORE_PHASE2", "")
    if phase2 not in ("", "owners", "shards"):
        raise ValueError(f"BPCORE_PHASE2: expected 'owners' or 'shards', got {phase2!r}")
    backend = os.environ.get("BPCORE_BACKEND", "")
    if backend not in ("", "auto", "blas", "native"):
        raise ValueError(f"BPCORE_BACKEND: expected 'auto', 'blas' or 'native', got {backend!r}")
    _core.use_isa(os.environ.get("BPCORE_ISA", ""))
    _core.force(parallel == "always", phase2, "" if backend == "auto" else backend)


# Importing threadpoolctl takes a millisecond or two; registered later, its limits would not hold from the start.
with contextlib.suppress(ImportError):  # not installed, or before 3.2
    from threadpoolctl import LibController, register

    class _Controller(LibController):  # type: ignore[misc, unused-ignore]
        user_api = internal_api = "bpcore"
        filename_prefixes = ("_core.",)
        check_symbols = ("bp_epoch",)

        def get_version(self) -> str:
            return __version__

        def get_num_threads(self) -> int:
            return get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            set_num_threads(min(num_threads, _core.MAX_THREADS))

    register(_Controller)
