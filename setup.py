"""The extension and its switches: BPCORE_DEBUG=1 (no optimisation, symbols), BPCORE_SANITIZE=address,undefined.

Each file of csrc/kernels is the same code for one instruction set, compiled with that set's flags; csrc/dispatch.c
chooses between them at load.
"""

import os
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = ["-std=c11", "-O3", "-g0", "-D_GNU_SOURCE", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
LINK = ["-pthread"]
if os.environ.get("BPCORE_DEBUG"):
    FLAGS += ["-O0", "-g3"]
if sanitizers := os.environ.get("BPCORE_SANITIZE"):
    FLAGS += ["-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitizers}"]
    LINK += [f"-fsanitize={sanitizers}"]

ISA_FLAGS = {
    "v2": ["-march=x86-64-v2"],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
KERNELS = sorted(glob("csrc/kernels/*.c"))


class BuildKernels(build_ext):
    """Compiles the kernels with their own flags, then the extension with them."""

    def build_extension(self, ext):
        x86 = self.plat_name.endswith(("x86_64", "amd64"))
        for source in KERNELS:
            isa = ISA_FLAGS.get(os.path.basename(source)[:-2], []) if x86 else []
            ext.extra_objects += self.compiler.compile(
                [source], self.build_temp, include_dirs=ext.include_dirs, extra_postargs=[*FLAGS, *isa], depends=ext.depends
            )
        super().build_extension(ext)


core = Extension(
    "bpcore._core",
    ["bpcore/_core.pyx", *sorted(glob("csrc/*.c"))],
    include_dirs=["csrc", numpy.get_include()],
    depends=glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.inc", recursive=True) + KERNELS,
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=FLAGS,
    extra_link_args=LINK,
)
setup(ext_modules=cythonize([core]), cmdclass={"build_ext": BuildKernels})
