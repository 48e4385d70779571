"""The rules of the C sources: what they may call and where, how they are built, and that compilers find nothing."""

import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from os import environ
from pathlib import Path

import pytest

from bpcore import _core

ROOT = Path(__file__).parent.parent
HEADER = ROOT / "bpcore/include/bpcore.h"
CORE = [HEADER, *sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".c", ".h", ".inc"})]
TESTS = sorted((ROOT / "tests/c").glob("*.[ch]"))
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Icsrc"]
WARNINGS = "all extra pedantic shadow conversion missing-prototypes strict-prototypes undef vla error"
STRICT = [f"-W{warning}" for warning in WARNINGS.split()]
CC = shlex.split(environ.get("CC", "cc"))
COMPILERS = {
    Path(shutil.which(c[0]) or c[0]).resolve().name: c
    for c in (["clang"], ["gcc"], CC)
    if c is CC or shutil.which(c[0])
}


def name(path):
    return path.relative_to(ROOT).as_posix()


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def code(path):
    """The source without comments, with string and character literals emptied; lines stay where they are."""
    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'"
    return re.sub(
        pattern,
        lambda m: "\n" * m[0].count("\n") if m[0][0] == "/" else m[0][0] * 2,
        path.read_text(),
        flags=re.S,
    )


def calls(text, names):
    return sorted(set(re.findall(rf"\b(?:{names})\b(?=\s*\()", text)))


def functions(text):
    """(name, body) of each function defined at the left margin."""
    return re.findall(r"^\w[^;{}=#]*?\b(\w+)\([^;{}]*\)\s*\{\n(.*?)^\}", text, re.M | re.S)


@pytest.mark.parametrize("path", CORE, ids=name)
def test_nothing_prints_exits_asserts_or_draws(path):
    refused = (
        r"\w*printf|f?puts|f?putc|putchar|perror|fwrite|fopen|write|_?_?exit|_Exit|quick_exit|abort|assert|raise|"
        r"s?rand|s?random|[delmnj]rand48|getrandom|getentropy|getenv|system|longjmp|alloca|str(n?cpy|n?cat|n?dup)|gets"
    )
    assert calls(code(path), refused) == []


def test_memory_is_taken_in_set_up_alone():
    allocators = "malloc|calloc|realloc|posix_memalign|aligned_alloc|memalign|mmap|bp_large_alloc"
    compiling = ["plan.c", "compile.c", "checkpoint.c", "stages.c", "blocks.c", "memory.c", "tables.c"]
    found = {path.name for path in CORE if calls(code(path), allocators)}
    assert found == {*compiling, "run.c", "calls.c", "snapshot.c", "many.c", "lanes.c", "members.c", "pool.c", "pool.h",
                     "columns.c"}  # fmt: skip
    takes = {f for file in found for f, body in functions(code(ROOT / "csrc" / file)) if calls(body, allocators)}
    passes = {"declare_gradients", "bp_find_tables", "bp_add_replicas", "bp_cut_stages", "bp_cut_blocks"}
    # the safety copy and the list of a small step's calls are made when the first slice of training begins, groups of
    # networks with each call of bp_many, members of an ensemble side by side with its predictor
    run = {"bp_run_new", "bp_run_ports", "bp_list_calls", "new_snapshot", "bp_many", "bp_lanes_new", "bp_members_new"}
    growing = {"grow"}  # the lists of entries of sparse rows, when a chunk has more than any before
    assert takes == {"bp_plan_new", "bp_grow", "bp_large_alloc", *passes, "place_buffers", *run, *growing}
    compiling.append("losses.c")
    plan = [f for file in compiling for f, _ in functions(code(ROOT / "csrc" / file))]
    makers = "|".join(f for f in plan if re.match("bp_plan_(new|buffer|param|op|loss|compile)$", f))
    assert makers.count("|") == 5
    for path in CORE:
        if path.name not in {*compiling, "ops.c", "bp.h"}:
            kernels = re.sub(r"^#ifdef BP_DECLARE\n.*?^#else\n", "", code(path), flags=re.M | re.S)
            assert calls(kernels, makers) == [], name(path)


def test_the_platform_and_locks_are_the_pools_affair():
    platform = r"#\s*include\s*<(?!float|math|stddef|stdint|stdlib|string|stdatomic|immintrin|arm_neon)[\w/]+\.h>"
    threads = r"pthread_\w+|sched_\w+|sysconf|fork|clock_gettime|nanosleep|usleep|sleep|time|kill|signal"
    for path in CORE:
        if path.stem in {"pool", "dispatch"}:
            continue
        assert re.findall(platform, code(path)) == [], name(path)
        assert calls(code(path), threads) == [], name(path)


def test_no_function_of_libm_rounds_as_it_likes():
    """Bits would be the C library's.  sqrt, fma, floor, fmax and ldexp are exact or rounded to nearest everywhere."""
    inexact = "a?(?:sin|cos|tan)h?|atan2|exp(?:2|10|m1)?|log(?:2|10|1p)?|pow|hypot|cbrt|erfc?|[lt]gamma"
    for path in CORE:
        text = re.sub(r"\bR\((\w+)\)", r"\1f", code(path))
        assert calls(text, f"(?:{inexact})[fl]?") == [], name(path)


def test_no_build_trades_exactness_for_speed():
    unsafe = re.compile(
        r"-ffast-math|-Ofast|-march=native|-mtune=native|-mcpu=native|-funsafe-math-optimizations|-ffinite-math-only|"
        r"-fassociative-math|-freciprocal-math|-ffp-contract=fast|-fno-signed-zeros|GCC optimize|optimize\s*\(|"
        r"float_control|FP_CONTRACT ON|fp reassociate"
    )
    for path in [*CORE, *(ROOT / file for file in ("setup.py", "pyproject.toml", "Makefile", ".ci/run"))]:
        if path.exists():
            assert unsafe.findall(path.read_text()) == [], name(path)


@pytest.mark.parametrize("path", CORE + TESTS, ids=name)
def test_text_is_tidy(path):
    text = path.read_text(encoding="ascii")
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert "\t" not in text and "\r" not in text
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= 120, f"line {number} has {len(line)} characters"
        assert line == line.rstrip(), f"line {number} ends in blanks"
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b|#\s*if 0", line), f"line {number}: {line}"


@pytest.fixture(scope="module", params=COMPILERS)
def objects(request, tmp_path_factory):
    """What one compiler says of each source, and the object it makes of it."""
    folder = tmp_path_factory.mktemp(request.param)
    sources = [path for path in CORE + TESTS if path.suffix == ".c"]

    def build(path):
        out = str(folder / f"{path.stem}.o")
        return run(*COMPILERS[request.param], *FLAGS, *STRICT, "-O2", "-c", name(path), "-o", out), out

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(sources, pool.map(build, sources), strict=True))


def test_compilers_find_nothing(objects):
    assert len(objects) >= 14
    for done, _ in objects.values():
        assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize("path", [p for p in CORE if p.suffix == ".h"], ids=name)
def test_a_header_stands_alone(path, tmp_path):
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{path}"\n#include "{path}"\n')
    done = run(*CC, *FLAGS, *STRICT, "-fsyntax-only", str(source))
    assert done.returncode == 0, done.stderr


def declared(headers, tmp_path):
    """Names that the headers declare, macros expanded."""
    source = tmp_path / "headers.c"
    source.write_text("".join(f'#include "{path}"\n' for path in headers))
    done = run(*CC, *FLAGS, "-E", "-P", str(source))
    assert done.returncode == 0, done.stderr
    tables = r"\bbp_active\b|\bbp_forced\b|\bbp_kernels_(?:portable|v2|avx2|avx512|neon)\b"
    return set(re.findall(rf"\bbp_\w+(?=\(|\[\];)|{tables}", done.stdout))


def defined(binary, *options):
    done = run("nm", "--defined-only", *options, str(binary))
    assert done.returncode == 0, done.stderr
    return {line.split()[-1] for line in done.stdout.splitlines() if len(line.split()) == 3}


def test_only_what_a_header_declares_is_seen_by_other_files(objects, tmp_path):
    known = declared([p for p in CORE if p.suffix == ".h"], tmp_path)
    for path, (_, out) in objects.items():
        if path in CORE:
            found = defined(out, "-g")
            assert found <= known, (name(path), sorted(found - known))


def test_the_extension_exports_the_c_api_alone(tmp_path):
    exported = {symbol for symbol in defined(_core.__file__, "-D", "-g") if symbol not in {"_init", "_fini"}}
    api = declared([ROOT / "csrc/bp.h"], tmp_path) - {"bp_at", "bp_grad_of"}  # inline
    assert exported - {"PyInit__core"} == {f for f in api if not f.endswith("_fn")}


# ---- the order of the files ----

API = {"bp.h", "op.h", "bpcore.h"}  # declared for others: the binding, authors of operations


def test_a_header_bears_the_name_of_the_file_that_defines_what_it_declares(objects):
    """So that a reader who looks for a function knows where to look.  Of kernels, each instruction set has its file."""
    where = {}
    for path, (_, out) in objects.items():
        if path in CORE:
            for symbol in defined(out, "-g"):
                where[symbol] = path.stem
    for path in CORE:
        if path.suffix != ".h" or path.name in API:
            continue
        text = code(path)
        inline = {f for f, _ in functions(text)}
        declared_here = set(re.findall(r"^[\w *]*?\b(bp_\w+)\([^;{}]*\);", text, re.M)) - inline
        for symbol in declared_here & where.keys():
            assert where[symbol] == path.stem, f"{name(path)} declares {symbol}, which {where[symbol]}.c defines"


def test_files_know_each_other_in_one_direction(objects):
    """A file knows those whose functions it calls and whose headers it includes; nobody is known by what they know."""
    owner, knows = {}, {}

    def room(path):  # a header and its source are one; so are the kernels
        return "kernels" if path.parent.name == "kernels" else path.stem

    for path, (_, out) in objects.items():
        if path in CORE:
            owner |= dict.fromkeys(defined(out, "-g"), room(path))
    for path in CORE:
        if path.name in API:
            continue
        knows.setdefault(room(path), set())
        included = re.findall(r'#\s*include\s*"([^"]*)"', path.read_text())
        knows[room(path)] |= {room((path.parent / file).resolve()) for file in included if Path(file).name not in API}
    for path, (_, out) in objects.items():
        if path in CORE:
            used = run("nm", "--undefined-only", out).stdout.split()
            knows[room(path)] |= {owner[symbol] for symbol in used if symbol in owner}
    done = set()

    def walk(room_, above):
        assert room_ not in above, " -> ".join([*above[above.index(room_) :], room_])
        if room_ not in done:
            for other in sorted(knows[room_] - {room_}):
                walk(other, [*above, room_])
            done.add(room_)

    for room_ in sorted(knows):
        walk(room_, [])
