"""The extension and its switches: BPCORE_DEBUG=1 (no optimisation, symbols), BPCORE_SANITIZE=address,undefined."""

import os
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

flags = ["-std=c11", "-O3", "-g0", "-D_GNU_SOURCE", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
link = ["-pthread"]
if os.environ.get("BPCORE_DEBUG"):
    flags += ["-O0", "-g3"]
if sanitizers := os.environ.get("BPCORE_SANITIZE"):
    flags += ["-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitizers}"]
    link += [f"-fsanitize={sanitizers}"]

core = Extension(
    "bpcore._core",
    ["bpcore/_core.pyx", *sorted(glob("csrc/*.c")), *sorted(glob("csrc/kernels/*.c"))],
    include_dirs=["csrc", numpy.get_include()],
    depends=["bpcore/include/bpcore.h", *glob("csrc/**/*.h", recursive=True), *glob("csrc/**/*.inc", recursive=True)],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=[*flags, "-pthread"],
    extra_link_args=link,
)
setup(ext_modules=cythonize([core]))
