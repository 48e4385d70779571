"""What this installation runs on."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np

from bpcore import _core, _threads
from bpcore._version import __version__


def config() -> dict[str, Any]:
    """Versions, threads, kernels and the BLAS in use."""
    from importlib.metadata import version  # 15 ms, for those who need it

    blas = "none; BPCORE_BACKEND=blas trains on SciPy's"
    if os.environ.get("BPCORE_BACKEND") == "blas":
        from bpcore import _blas

        blas = _blas.described()
    isa, runs = _core.isa()
    return {
        "bpcore": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": version("scipy"),
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": _threads.get_num_threads(),
        "kernels": isa,
        "kernels_that_run_here": list(runs),
        "blas": blas,
    }


def show_config() -> None:
    """Prints versions, threads, kernels and the BLAS in use."""
    c = config()
    text = "\n".join(
        [
            f"bpcore {c['bpcore']}, Python {c['python']}",
            f"NumPy {c['numpy']}, SciPy {c['scipy']}",
            f"machine: {c['machine']}, {c['system']}",
            f"threads: {c['threads']}",
            f"kernels: {c['kernels']} (this machine runs {', '.join(c['kernels_that_run_here'])}; BPCORE_ISA chooses)",
            f"BLAS: {c['blas']}",
        ]
    )
    print(text)
