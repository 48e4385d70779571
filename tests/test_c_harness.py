"""The C core under sanitizers: tests/c drives the whole C API with a naive BLAS and counts its checks."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = sorted(p for p in (ROOT / "tests/c").glob("*.c") if not p.name.endswith("_op.c"))
SOURCES = [*PARTS, *sorted((ROOT / "csrc").glob("*.c")), *sorted((ROOT / "csrc/kernels").glob("*.c"))]
FLAGS = "-std=c11 -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -Wall -Wextra -fno-sanitize-recover=all"
LINK = ["-pthread", "-lm", *(f"-Wl,--wrap={f}" for f in ("malloc", "calloc", "realloc", "posix_memalign"))]


def run(command, seconds, **environment):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=os.environ | environment, cwd=ROOT
    )


@pytest.mark.parametrize(
    "sanitizers, parts, least",
    [
        pytest.param("address,undefined", (), 50_000, id="address, leaks and undefined behaviour"),
        pytest.param("thread", ("data", "graphs", "status", "memory", "threads"), 30_000, id="data races"),
    ],
)
def test_harness_is_clean_under_sanitizers(tmp_path, sanitizers, parts, least):
    program = str(tmp_path / "harness")
    cc = shlex.split(os.environ.get("CC", "cc"))
    built = run(
        [*cc, *FLAGS.split(), f"-fsanitize={sanitizers}", "-Icsrc", *map(str, SOURCES), "-o", program, *LINK], 120
    )
    assert built.returncode == 0, (
        f"the harness does not build with -fsanitize={sanitizers}; where the linker finds no lib*san, install the "
        f"compiler's sanitizer runtimes:\n{built.stderr}"
    )
    options = {
        # gcc aligns the frames of detect_stack_use_after_return to 32 bytes, and AVX-512 spills want 64 (PR 110027)
        "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    done = run([program, *parts], 120, **options)
    if "unexpected memory mapping" in done.stderr:  # older runtimes know fewer address layouts
        done = run(["setarch", "-R", program, *parts], 120, **options)
    said = f"{done.stdout}\n{done.stderr[-6000:]}"
    assert done.returncode == 0, said
    closing = re.fullmatch(r"harness: (\d+) checks passed, 0 failed", done.stdout.splitlines()[-1])
    assert closing and int(closing[1]) >= least, said
    for part in parts:
        assert re.search(rf"^{part}: [1-9]\d* checks$", done.stdout, re.M), said


def test_harness_calls_every_function_of_the_header():
    header = re.sub(r"/\*.*?\*/", "", (ROOT / "csrc/bp.h").read_text(), flags=re.S)
    declared = set(re.findall(r"^(?!typedef|static)\w[\w ]*?[ *](bp_\w+)\(", header, re.M))
    assert len(declared) >= 30
    called = set(re.findall(r"\b(bp_\w+)\(", "".join(p.read_text() for p in PARTS)))
    assert declared <= called, sorted(declared - called)
