"""The C core under sanitizers: tests/c drives the whole C API with a naive BLAS and counts its checks."""

import os
import platform
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bpcore import _core

ROOT = Path(__file__).parent.parent
PARTS = sorted(p for p in (ROOT / "tests/c").glob("*.c") if not p.name.endswith("_op.c"))
SOURCES = [*PARTS, *sorted((ROOT / "csrc").glob("*.c")), *sorted((ROOT / "csrc/kernels").glob("*.c"))]
FLAGS = (
    "-std=c11 -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -fno-trapping-math -O1 -g -fno-omit-frame-pointer "
    "-Wall -Wextra"
)
SANITIZE = "-fno-sanitize-recover=all -fsanitize="
FUSED = {"avx2", "avx512", "neon"}  # multiply and add: these have the same bits
CC = os.environ.get("CC", "cc")
COMPILER = Path(shutil.which(CC) or CC).resolve()
LINK = ["-pthread", "-lm", *(f"-Wl,--wrap={f}" for f in ("malloc", "calloc", "realloc", "posix_memalign"))]


def run(command, seconds, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "BPCORE_COMPLETE"}
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=kept | environment, cwd=ROOT)


def build(folder, options, cc=CC):
    """The harness as a program, two files compiled at a time."""
    cc = shlex.split(cc)
    hint = (
        f"the harness does not build with {options}; where the linker finds no lib*san, install the "
        "compiler's sanitizer runtimes:\n"
    )

    def compiled(path):
        out = str(folder / f"{path.stem}.o")
        done = run([*cc, *FLAGS.split(), *options.split(), "-Icsrc", "-c", str(path), "-o", out], 300)
        assert done.returncode == 0, hint + done.stderr
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, SOURCES))
    program = str(folder / "harness")
    done = run([*cc, *options.split(), *objects, "-o", program, *LINK], 120)
    assert done.returncode == 0, hint + done.stderr
    return program


def passes(program, parts, least, **environment):
    """Asserts that the harness finds nothing, in the parts that are named (none: all) and `least` checks or more."""
    command = [*program, *parts]
    done = run(command, 300, **environment)
    if "unexpected memory mapping" in done.stderr:  # older runtimes know fewer address layouts
        done = run(["setarch", "-R", *command], 120, **environment)
    said = f"{done.stdout}\n{done.stderr[-6000:]}"
    assert done.returncode == 0, said
    closing = re.fullmatch(r"harness: (\d+) checks passed, 0 failed", done.stdout.splitlines()[-1])
    assert closing and int(closing[1]) >= least, said
    for part in parts:
        assert re.search(rf"^{part}: [1-9]\d* checks$", done.stdout, re.M), said
    return done.stdout


def digests(program, isa):
    """Of the bits of each activation, each loss, products and training."""
    found = re.findall(r"^digest (\S+ float\d\d) (\w{16})$", passes(program, ["digests"], 100, BPCORE_ISA=isa), re.M)
    assert len({what for what, _ in found}) == len(found) >= 60
    return dict(found)


def test_no_address_leak_or_undefined_behaviour_on_any_instruction_set(tmp_path):
    program = build(tmp_path, f"{SANITIZE}address,undefined")
    options = {
        # gcc aligns the frames of detect_stack_use_after_return to 32 bytes, and AVX-512 spills want 64 (PR 110027)
        "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    best, *others = _core.isa()[1]
    passes([program], [], 100_000, BPCORE_ISA=best, **options)
    for isa in others:
        passes([program], ["gradients"], 20_000, BPCORE_ISA=isa, **options)


@pytest.fixture(scope="module")
def optimised(tmp_path_factory):
    return [build(tmp_path_factory.mktemp("optimised"), "-O3")]


def test_vector_functions(optimised):
    """BPCORE_COMPLETE=1 (.ci/run) makes it all of float32."""
    complete = {"BPCORE_COMPLETE": "1"} if os.environ.get("BPCORE_COMPLETE") else {}
    passes(optimised, ["functions"], 50, **complete)


def test_digests_tell_bits_apart(optimised):
    """Fused or not changes most; what has no sum of products keeps its bits."""
    found = {isa: digests(optimised, isa) for isa in _core.isa()[1]}
    for isa in FUSED & found.keys():
        unlike = {what for what, bits in found[isa].items() if bits != found["portable"][what]}
        assert {"exp float32", "products float64", "sgd_owners float32"} <= unlike and "relu float32" not in unlike
        assert found[isa] == found[min(FUSED & found.keys())], isa


OTHERS = [c for c in ("clang", "gcc") if shutil.which(c) and Path(shutil.which(c)).resolve() != COMPILER]
if os.environ.get("BPCORE_COMPLETE"):

    @pytest.mark.parametrize("cc", OTHERS)
    def test_other_compilers_give_the_same_bits(cc, optimised, tmp_path):
        """At another level of optimisation, too."""
        program = [build(tmp_path, "", cc)]
        for isa in _core.isa()[1]:
            assert digests(program, isa) == digests(optimised, isa), isa


def test_no_data_race(tmp_path):
    program = build(tmp_path, f"{SANITIZE}thread")
    parts = ["data", "graphs", "runs", "members", "rules", "status", "memory", "threads"]
    passes([program], parts, 50_000, TSAN_OPTIONS="halt_on_error=1")


CROSS = "aarch64-linux-gnu-gcc"
if platform.machine() == "x86_64" and shutil.which(CROSS) and shutil.which("qemu-aarch64"):  # .ci/run installs them

    @pytest.fixture(scope="module")
    def emulated(tmp_path_factory):
        # QEMU 7.2 does not survive threads in the child of a fork
        return ["qemu-aarch64", build(tmp_path_factory.mktemp("neon"), "-O3 -static -DNO_FORK", CROSS)]

    def test_neon_under_emulation(emulated):
        passes(emulated, [], 100_000, BPCORE_ISA="neon")

    def test_neon_has_the_bits_of_avx2(emulated, optimised):
        if "avx2" in _core.isa()[1]:
            assert digests(emulated, "neon") == digests(optimised, "avx2")


def test_harness_calls_every_function_of_the_header():
    header = re.sub(r"/\*.*?\*/", "", (ROOT / "csrc/bp.h").read_text(), flags=re.S)
    declared = set(re.findall(r"^(?!typedef|static)\w[\w ]*?[ *](bp_\w+)\(", header, re.M))
    assert len(declared) >= 30
    called = set(re.findall(r"\b(bp_\w+)\(", "".join(p.read_text() for p in PARTS)))
    assert declared <= called, sorted(declared - called)
