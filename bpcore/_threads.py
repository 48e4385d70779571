"""How many threads a call uses."""

from __future__ import annotations

import os

from bpcore import _core, _validate

_setting: int | None = None


def _read(name: str) -> str:
    with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
        return file.read()


def _cgroup_quota() -> float:
    """CPUs that the control group allows (v2, then v1); infinity where there is no limit."""
    for quota_file, period_file in (
        ("cpu.max", None),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
    ):
        try:
            words = _read(quota_file).split() + (_read(period_file).split() if period_file else [])
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return float("inf")


def _default() -> int:
    """The smallest of CPU affinity, cgroup quota, BPCORE_NUM_THREADS and OMP_NUM_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [allowed, max(1, int(min(_cgroup_quota(), allowed)))]
    for name in ("BPCORE_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            limits.append(int(first))
    return min(*limits, _core.MAX_THREADS)


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
    phase2 = os.environ.get("BPCORE_PHASE2", "")
    if phase2 not in ("", "owners", "shards"):
        raise ValueError(f"BPCORE_PHASE2: expected 'owners' or 'shards', got {phase2!r}")
    backend = os.environ.get("BPCORE_BACKEND", "")
    if backend not in ("", "auto", "blas", "native"):
        raise ValueError(f"BPCORE_BACKEND: expected 'auto', 'blas' or 'native', got {backend!r}")
    _core.use_isa(os.environ.get("BPCORE_ISA", ""))
    _core.force(os.environ.get("BPCORE_PARALLEL") == "always", phase2, "" if backend == "auto" else backend)
