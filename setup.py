"""The extension and its switches: BPCORE_DEBUG=1 (no optimisation, symbols), BPCORE_SANITIZE=address,undefined,
BPCORE_ABI3=1 (one wheel for Python 3.11 and later)."""

import os
import subprocess
import tempfile
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# -O3 makes a wheel of 1.7 MB: what of it is worth its bytes is named. Loops that are peeled save small networks 5 %.
flags = ["-std=c11", "-O2", "-ftree-vectorize", "-fno-asynchronous-unwind-tables", "-g0", "-ffp-contract=off"]
flags += ["-D_GNU_SOURCE", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
gcc = ["-fvect-cost-model=dynamic"]  # where the compiler knows them
peeling = ["-fpeel-loops"]
small = ("_core.c", "portable.c", "v2.c")  # the binding, and the instruction sets of old machines
link = ["-pthread"]
macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
abi3 = bool(os.environ.get("BPCORE_ABI3"))
if abi3:
    macros += [("Py_LIMITED_API", "0x030b0000"), ("CYTHON_LIMITED_API", "1")]
if os.environ.get("BPCORE_DEBUG"):
    flags += ["-O0", "-g3"]
if sanitizers := os.environ.get("BPCORE_SANITIZE"):
    flags += ["-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitizers}"]
    link += [f"-fsanitize={sanitizers}"]


class Build(build_ext):
    """Flags by source, as far as the compiler knows them: clang has others than gcc."""

    def known(self, options):
        """Those of the options that the compiler takes without a word."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "empty.c")
            open(source, "w").close()
            command = [*self.compiler.compiler_so, "-Werror", "-c", source, "-o", os.path.join(folder, "empty.o")]
            return [o for o in options if not subprocess.run([*command, o], capture_output=True).returncode]

    def build_extensions(self):
        compile_ = self.compiler._compile
        every, large = self.known(gcc), self.known(peeling)

        def compile_one(target, source, suffix, arguments, extra, options):
            peel = [] if source.endswith(small) else large
            compile_(target, source, suffix, arguments, every + peel + extra, options)

        self.compiler._compile = compile_one
        super().build_extensions()


core = Extension(
    "bpcore._core",
    ["bpcore/_core.pyx", *sorted(glob("csrc/*.c")), *sorted(glob("csrc/kernels/*.c"))],
    include_dirs=["csrc", numpy.get_include()],
    depends=["bpcore/include/bpcore.h", *glob("csrc/**/*.h", recursive=True), *glob("csrc/**/*.inc", recursive=True)],
    define_macros=macros,
    py_limited_api=abi3,
    extra_compile_args=[*flags, "-pthread"],
    extra_link_args=link,
)
setup(
    ext_modules=cythonize([core]),
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if abi3 else {},
)
