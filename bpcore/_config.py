"""What this installation runs on."""

from __future__ import annotations

import os
import platform

import numpy as np

from bpcore import _core, _threads
from bpcore._version import __version__


def show_config() -> None:
    """Prints versions, threads, kernels and the BLAS in use."""
    from importlib.metadata import version  # 15 ms, for those who need it

    blas = "none; BPCORE_BACKEND=blas trains on SciPy's"
    if os.environ.get("BPCORE_BACKEND") == "blas":
        from bpcore import _blas

        blas = _blas.described()
    isa, runs = _core.isa()
    text = "\n".join(
        [
            f"bpcore {__version__}, Python {platform.python_version()}",
            f"NumPy {np.__version__}, SciPy {version('scipy')}",
            f"machine: {platform.machine()}, {platform.system()}",
            f"threads: {_threads.get_num_threads()}",
            f"kernels: {isa} (this machine runs {', '.join(runs)}; BPCORE_ISA chooses)",
            f"BLAS: {blas}",
        ]
    )
    print(text)
