"""What this installation runs on."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import scipy

from bpcore import _blas, _core, _threads
from bpcore._version import __version__


def show_config() -> None:
    """Prints versions, threads and the BLAS in use."""
    library = ctypes.CDLL(_blas.load_cython_blas().__file__)
    described = "unknown"
    for name in ("scipy_openblas_get_config", "openblas_get_config"):
        if hasattr(library, name):
            get = getattr(library, name)
            get.restype = ctypes.c_char_p
            described = get().decode()
            break
    isa, runs = _core.isa()
    text = "\n".join(
        [
            f"bpcore {__version__}, Python {platform.python_version()}",
            f"NumPy {np.__version__}, SciPy {scipy.__version__}",
            f"machine: {platform.machine()}, {platform.system()}",
            f"threads: {_threads.get_num_threads()}",
            f"kernels: {isa} (this machine runs {', '.join(runs)}; BPCORE_ISA chooses)",
            f"BLAS: {described}",
        ]
    )
    print(text)
