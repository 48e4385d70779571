"""Finds SciPy's BLAS without importing scipy.linalg, checks what it says of itself, and hands it to C.

Only `BPCORE_BACKEND=blas` calls it, so only that loads SciPy: it takes longer than the rest of bpcore's import.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import importlib.util
import os
import re
import sys
from types import ModuleType

import scipy

from bpcore import _core

_GEMM = "char*,char*,int*,int*,int*,T*,T*,int*,T*,int*,T*,T*,int*"
_GEMV = "char*,int*,int*,T*,T*,int*,T*,int*,T*,T*,int*"
_GER = "int*,int*,T*,T*,int*,T*,int*,T*,int*"
_EXPECTED = {
    "sgemm": _GEMM, "dgemm": _GEMM, "sgemv": _GEMV, "dgemv": _GEMV, "sger": _GER, "dger": _GER,
}  # fmt: skip
_POOLS = (
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)


def load_cython_blas() -> ModuleType:
    """scipy.linalg.cython_blas alone: the whole of scipy.linalg takes a hundred times as long."""
    name = "scipy.linalg.cython_blas"
    if name in sys.modules:
        return sys.modules[name]
    folder = os.path.join(os.path.dirname(scipy.__file__), "linalg")
    spec = importlib.machinery.PathFinder.find_spec("cython_blas", [folder])
    if spec is None or spec.loader is None:
        raise ImportError(f"bpcore needs SciPy's BLAS, and there is no cython_blas in {folder}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # a later `import scipy.linalg.cython_blas` finds it by the ordinary way
    sys.modules.pop(name, None)
    sys.modules.pop("cython_blas", None)
    return module


def check_signature(name: str, signature: str) -> None:
    """ImportError unless BLAS function `name` takes 32-bit integers and the operands that C will pass."""
    real = {"s": "float", "d": "double"}[name[0]]
    plain = re.sub(rf"__pyx_t_\w*cython_blas_{name[0]}\b|\b{real}\b", "T", signature).replace(" ", "")
    if plain != f"void({_EXPECTED[name]})":
        raise ImportError(
            f"bpcore: this SciPy ({scipy.__version__}) has a BLAS of another kind: {name} is {signature!r}. "
            "A SciPy with 32-bit BLAS integers is needed, as on PyPI: pip install --force-reinstall scipy"
        )


@functools.cache
def connect() -> None:
    """Once: hands SciPy's BLAS, and the switch of its thread pool, to C."""
    module = load_cython_blas()
    table = getattr(module, "__pyx_capi__", {})
    for name in _EXPECTED:
        if name not in table:
            raise ImportError(f"bpcore: this SciPy ({scipy.__version__}) exports no {name} from cython_blas")
        check_signature(name, _capsule_name(table[name]))
    _core.set_blas([table[name] for name in _EXPECTED])
    library = ctypes.CDLL(module.__file__)
    for get, set_ in _POOLS:
        if hasattr(library, get) and hasattr(library, set_):
            address = [ctypes.cast(getattr(library, f), ctypes.c_void_p).value or 0 for f in (get, set_)]
            _core.set_blas_threads(*address)
            break


def described() -> str:
    """What the library says of its version, or "unknown"."""
    library = ctypes.CDLL(load_cython_blas().__file__)
    for name in ("scipy_openblas_get_config", "openblas_get_config"):
        if hasattr(library, name):
            get = getattr(library, name)
            get.restype = ctypes.c_char_p
            return str(get().decode())
    return "unknown"


def _capsule_name(capsule: object) -> str:
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return (get_name(capsule) or b"").decode()
