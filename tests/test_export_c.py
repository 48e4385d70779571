"""export_c: the file answers as predict does, for every layer; compilers have nothing to say about it."""

import ctypes
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layer_examples import SHAPES, examples
from random_graphs import OPERATIONS, Seeded, graph

import bpcore as bp
from bpcore import _layers
from bpcore.exports import c_layers, c_writer

PAGE = Path(__file__).parent.parent / "docs/export_c.md"
CC = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wdouble-promotion", "-Werror"]
C99 = ["-std=c99", *WARNINGS]
REALS = {"float32": np.float32, "float64": np.float64}
LIBM = {"exp", "tanh", "sqrt", "erf", "log1p"}


def run(*command, seconds=120):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{command}: {done.stderr[:3000]}"
    return done.stdout


def typed(model, X, dtype):
    """Inputs of an example as the function takes them."""
    exact = {node.inputs[0] for node in model.graph.nodes if node.layer.op == "standardize"}
    kinds = [np.intc if model.graph.nodes[i].layer.integer else np.float64 if i in exact else REALS[dtype]
             for i in model.graph.inputs]  # fmt: skip
    return [np.ascontiguousarray(x, kind) for x, kind in zip(X, kinds, strict=True)]


class Compiled:
    """Networks as one library: what export_c writes of each, as source, in one file."""

    def __init__(self, folder, nets, dtype):
        self.nets, self.dtype = nets, dtype
        self.texts = [c_writer.Writer(net._model, f"n{k}", dtype, "source").text() for k, net in enumerate(nets)]
        (folder / "all.c").write_text("".join(self.texts))
        run(*CC, *C99, "-O0", "-shared", "-fPIC", folder / "all.c", "-o", folder / "all.so", "-lm")
        self.library = ctypes.CDLL(str(folder / "all.so"))

    def __call__(self, k, X, canary=7.0):
        """The answers to an example, a list, and what the function returned."""
        net = self.nets[k]
        model, real = net._model, REALS[self.dtype]
        answers = [np.full(math.prod(shape) + 1, canary, real) for shape in net.outputs.values()]
        work = re.search(rf"n{k}_work = (\d+)", self.texts[k])
        arrays = [*typed(model, X, self.dtype), *answers, *([np.empty(int(work[1]), real)] if work else [])]
        function = self.library[f"n{k}_predict"]
        status = function(*(ctypes.c_void_p(a.ctypes.data) for a in arrays))
        assert all(a[-1] == canary for a in answers)  # nothing behind them
        return [a[:-1].reshape(shape) for a, shape in zip(answers, net.outputs.values(), strict=True)], status


def answers_as_predict(folder, cases, dtype, tolerance):
    """Cases are (net, X); to a tolerance of the largest of an output's numbers."""
    compiled = Compiled(folder, [net for net, _ in cases], dtype)
    for k, (net, X) in enumerate(cases):
        want = net.predict(X if len(X) > 1 else X[0])
        for row in range(len(X[0])):
            got, _ = compiled(k, [x[row] for x in X])
            for answer, expected in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
                assert answer.shape == expected[row].shape
                error = np.abs(answer - expected[row]).max()
                assert error <= tolerance * max(np.abs(expected).max(), 1e-2), (error, net._model.graph.nodes)


# ---- every layer, in random networks ----


def test_every_layer_has_its_c():
    """But functions of the user's."""
    assert set(c_layers.EMITTERS) == set(_layers.KINDS) - {"function"}
    assert set(bp.activations.NAMES) - {"identity", "softmax"} <= set(c_writer._FUNCTIONS)


KINDS = [op for op in SHAPES if op != "function"]
WITHOUT = tuple(name for name in OPERATIONS if name != "function")


def test_layers_answer_as_predict_does(tmp_path):
    """Each in all of its ways."""
    cases = [(case.net, [x[:2] for x in case.X]) for op in KINDS for case in examples(op, below=False)]
    answers_as_predict(tmp_path, cases, "float64", 1e-13)


@pytest.fixture(scope="module")
def networks():
    """Of several inputs and outputs, with shared layers, masks and words; and what they read."""
    drawn = (graph(Seeded((seed, 7)), operations=WITHOUT, most=8, rows=(1, 3)) for seed in range(50))
    cases = [(case.net, case.X) for case in drawn if case is not None]
    assert {node.layer.op for net, _ in cases for node in net._model.graph.nodes} == set(c_layers.EMITTERS)
    assert max(len(net.inputs) for net, _ in cases) > 2 and max(len(net.outputs) for net, _ in cases) > 2
    return cases


def test_random_networks_answer_as_predict_does(networks, tmp_path):
    answers_as_predict(tmp_path, networks, "float64", 1e-12)


def test_float32_answers_as_a_network_that_rounds_nothing(networks, tmp_path):
    answers_as_predict(tmp_path, networks[::3], "float32", 5e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 4e-7), ("float64", 1e-15)])
def test_activations_answer_as_predict_does(dtype, tolerance, tmp_path):
    """Elementwise, from far below to far above; of gelu's tail, erf gives less."""
    z = np.concatenate([np.linspace(-12, 12, 61), [-1e30, -200, -60, 60, 80]])
    names = [f for f in bp.activations.NAMES if f != "softmax"]
    cases = [bp.Network([bp.Input(len(z)), bp.Activate(f)], dtype=dtype) for f in names]
    compiled = Compiled(tmp_path, cases, dtype)
    for k, (f, net) in enumerate(zip(names, cases, strict=True)):
        x = z.astype(dtype)
        x = x[:-1] if f == "exp" else x
        if f == "exp":
            x = np.append(x, 1).astype(dtype)
        want = net.predict(x[None])[0].astype(float)
        error = np.abs(compiled(k, [x])[0][0] - want)
        assert (error <= tolerance * (np.abs(want) + (abs(x) if f == "gelu" else 0) + 1e-30)).all(), f
        assert math.isnan(compiled(k, [np.full(len(z), np.nan)])[0][0][0])


@pytest.mark.parametrize("dtype", REALS)
def test_products_are_within_n_in_ulp_of_the_sum_of_their_magnitudes(dtype, tmp_path):
    rng, cases = np.random.default_rng(3), []
    for n_in, n_out in ((1, 1), (2, 3), (7, 16), (40, 37), (1000, 5)):
        net = bp.Network([bp.Input(n_in), bp.Dense(n_out)], dtype=dtype)
        net.theta[:] = rng.standard_normal(net.n_params) * 10.0 ** rng.integers(-3, 4, net.n_params)
        cases.append((net, rng.standard_normal(n_in).astype(dtype)))
    compiled = Compiled(tmp_path, [net for net, _ in cases], dtype)
    for k, (net, x) in enumerate(cases):
        (got,), _ = compiled(k, [x])
        W, b = net.W[1].astype(np.longdouble), net.b[1].astype(np.longdouble)
        exact, magnitudes = W @ x + b, abs(W) @ abs(x.astype(np.longdouble)) + abs(b)
        assert (abs(got - exact) <= len(x) * np.spacing(magnitudes.astype(dtype))).all()


# ---- units, whole numbers, memory ----


def test_units_of_inputs_and_targets(tmp_path):
    """A time stamp of 1.6e9 keeps its digits; y comes in its own units, also where layers follow that output; and x is
    read as it is, too."""
    rng = np.random.default_rng(0)
    x = bp.Input(2)
    first = bp.Dense(2)(bp.concat([bp.Dense(5, "tanh")(bp.Standardize()(x)), bp.Mask()(bp.Slice([0])(x))]))
    net = bp.Network(x, [first, bp.Dense(1)(bp.Dense(9, "tanh")(bp.Dense(9, "tanh")(bp.Standardize()(x))))], seed=1)
    X = np.stack([1.6e9 + rng.uniform(0, 1e3, 40), rng.uniform(-1, 1, 40)], 1)
    net.fit(X, [1e4 + 300 * rng.standard_normal((40, n)) for n in (2, 1)], epochs=2, standardize_y=True)
    compiled = Compiled(tmp_path, [net], "float32")
    assert "const double *x" in compiled.texts[0]
    for row, *want in zip(X, *net.predict(X), strict=True):
        for answer, expected in zip(compiled(0, [row])[0], want, strict=True):
            np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_whole_numbers_out_of_range_are_refused(tmp_path):
    words = bp.Input(3, integer=True)
    net = bp.Network(words, bp.Dense(2)(bp.Reshape(-1)(bp.Embedding(5, 2)(words))))
    compiled = Compiled(tmp_path, [net], "float32")
    for bad in ([0, 5, 1], [-1, 0, 0], [0, 0, 2**31 - 1]):
        (answer,), status = compiled(0, [np.array(bad)])
        assert ctypes.c_int(status).value == -1 and (answer == 7).all()
    assert compiled(0, [np.array([4, 0, 2])])[1] == 0


def test_working_memory_is_bounded_and_reused(tmp_path):
    """64 KiB lie on the stack, more is the caller's; a deep network needs that of two layers."""
    deep = bp.Network([bp.Input(8), *(bp.Dense(100, "relu", init="zeros") for _ in range(6)), bp.Dense(2)])
    wide, edge = (bp.Network([bp.Input(1), bp.Dense(n, "tanh"), bp.Dense(1)], seed=0) for n in (16385, 16384))
    compiled = Compiled(tmp_path, [wide, edge], "float32")
    bp.export_c(deep, tmp_path / "deep.h")
    assert "Working memory on the stack: 800 bytes" in (tmp_path / "deep.h").read_text()
    assert "float *work);" in compiled.texts[0] and "n0_work = 16385" in compiled.texts[0]
    assert "work)" not in compiled.texts[1] and "on the stack: 65536 bytes" in compiled.texts[1]
    x = np.ones(1, np.float32)
    for k, net in enumerate((wide, edge)):
        np.testing.assert_allclose(compiled(k, [x])[0][0], net.predict(x[None])[0], rtol=1e-4, atol=1e-5)


# ---- what compilers and linkers say ----


def some(folder, dtype, style):
    """A file of many layers: convolution, attention, a recurrent layer with a mask, words, all activations."""
    image, words, mask = bp.Input((6, 6, 2)), bp.Input(4, integer=True), bp.Input(4)
    h = bp.Reshape(-1)(bp.MaxPool2D(2, padding="same")(bp.Conv2D(3, 3, "gelu", padding="same")(image)))
    for f in bp.activations.NAMES:
        h = bp.Dense(5, f)(h)
    e = bp.Embedding(7, 4)(words)
    a = bp.MultiHeadAttention(2, 3, causal=True)(e, mask=mask)
    r = bp.LSTM(3)(bp.LayerNorm()(bp.GRU(3, sequences=True, reverse=True)(a, mask)))
    net = bp.Network([image, words, mask], [bp.Dense(2, "softmax")(bp.concat([h, r])), bp.SimpleRNN(2)(a)], seed=3)
    net.theta[:] = 0.3 * np.random.default_rng(1).standard_normal(net.n_params)
    path = folder / f"{style}.{'h' if style == 'header' else 'c'}"
    bp.export_c(net, path, name="some", dtype=dtype, style=style)
    rng = np.random.default_rng(2)
    return net, [rng.standard_normal((1, 6, 6, 2)), np.array([[1, 6, 0, 2]]), np.array([[1.0, 0, 1, 1]])], path


COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]


@pytest.mark.parametrize("style, dtype", [("header", "float32"), ("source", "float64")])
def test_compilers_have_nothing_to_say(style, dtype, tmp_path):
    """C99, C11 with GNU's extensions, C++17; two files may include the header."""
    *_, path = some(tmp_path, dtype, style)
    unit = tmp_path / "unit.c"
    unit.write_text(f'#include "{path.name}"\n' * (2 if style == "header" else 1))
    for cc in COMPILERS or [CC[0]]:
        for options in (["-std=c99"], ["-std=gnu11"], ["-x", "c++", "-std=c++17"]):
            run(cc, *WARNINGS, "-fsyntax-only", *options, unit)


@pytest.mark.skipif(sys.platform != "linux", reason="nm writes names and kinds in another way")
@pytest.mark.parametrize("dtype", REALS)
def test_it_calls_functions_of_libm_alone_and_has_no_data_that_are_written(dtype, tmp_path):
    """But what compilers make of loops that copy or clear."""
    *_, path = some(tmp_path, dtype, "source")
    run(*CC, *C99, "-O2", "-c", path, "-o", tmp_path / "some.o")
    symbols = [line.split()[-2:] for line in run("nm", tmp_path / "some.o").splitlines()]
    suffix = "f" if dtype == "float32" else ""
    allowed = {f"{f}{suffix}" for f in LIBM}
    assert {name for kind, name in symbols if kind == "U"} <= allowed | {"memcpy", "memset", "memmove"}
    assert {kind for kind, _ in symbols} <= set("UTtrR") and ["T", "some_predict"] in symbols
    said = re.search(r"From the C library: (.*)\. \*/", path.read_text())[1].split(", ")
    assert set(said) == allowed


def program(folder, net, X, path):
    """A program that prints what the file answers, as hexadecimal numbers."""
    text = [f'#include <stdio.h>\n#include "{path.name}"\nint main(void) {{']
    for k, x in enumerate(X):
        real, suffix = ("int", "") if x.dtype.kind == "i" else ("float", "f")
        text.append(f"static const {real} x{k}[] = {{{', '.join(f'{v}{suffix}' for v in x.ravel().tolist())}}};")
    sizes = [math.prod(shape) for shape in net.outputs.values()]
    text += [f"float y{k}[{n}];" for k, n in enumerate(sizes)]
    arrays = [*(f"x{k}" for k in range(len(X))), *(f"y{k}" for k in range(len(sizes)))]
    text.append(f"if (some_predict({', '.join(arrays)})) return 1;")
    text += [f'for (int i = 0; i < {n}; i++) printf("%a\\n", (double)y{k}[i]);' for k, n in enumerate(sizes)]
    unit = folder / "main.c"
    unit.write_text("\n".join([*text, "return 0;\n}\n"]))
    return unit


def machines():
    """Compilers for other machines, what runs their programs, and whether they link."""
    found = [("here", [*CC], [])]
    if shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64"):
        found.append(("arm", ["aarch64-linux-gnu-gcc", "-static"], ["qemu-aarch64"]))
    if shutil.which("gcc") and platform.machine() == "x86_64" and sys.platform == "linux":
        found.append(("m32", ["gcc", "-m32"], []))
    return {name: rest for name, *rest in found}


@pytest.mark.parametrize("machine", machines())
def test_machines(machine, tmp_path):
    """64-bit Arm under QEMU; x86 of 32 bits, where its libraries are there, else as far as the compiler."""
    net, X, path = some(tmp_path, "float32", "header")
    cc, emulator = machines()[machine]
    unit = program(tmp_path, net, X, path)
    if machine == "m32":
        (tmp_path / "hello.c").write_text("#include <math.h>\nint main(void) { return 0; }\n")
        links = [*cc, tmp_path / "hello.c", "-o", tmp_path / "hello", "-lm"]
        if subprocess.run([*map(str, links)], capture_output=True).returncode:
            bare = path.read_text().replace("#include <math.h>", "\n".join(f"float {f}f(float);" for f in LIBM))
            (tmp_path / "bare.c").write_text(bare)
            run(*cc, *C99, "-fsyntax-only", tmp_path / "bare.c")
            return
    run(*cc, *C99, "-O2", unit, "-o", tmp_path / "main", "-lm")
    got = [float.fromhex(line) for line in run(*emulator, tmp_path / "main").split()]
    want = np.concatenate([a[0] for a in net.predict([x.astype("f4") if x.dtype.kind == "f" else x for x in X])])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# ---- names, errors ----


def test_names_from_data_stay_in_their_comment(tmp_path):
    """What could end a comment, or a line, or be a trigraph."""

    class Frame(dict):
        columns = ("a */ int x;", "b\n#error", "c??/", "d\\", "\N{GREEK SMALL LETTER DELTA} \u202e", "e /* f")

        def __array__(self, dtype=None, copy=None):
            return np.ones((4, 6))

        shape = (4, 6)

    net = bp.Network([bp.Input(6), bp.Dense(2, name='w" * #error \\'), bp.Dense(1, name="x\n??" * 40)])
    net.fit(Frame(), np.ones(4), epochs=1)
    assert net.feature_names
    bp.export_c(net, tmp_path / "net.c", style="source")
    text = (tmp_path / "net.c").read_text()
    assert text.isascii() and "x[0]: a <U+002A><U+002F> int x;" in text
    for cc in COMPILERS or [CC[0]]:
        run(cc, *C99, "-trigraphs", "-fsyntax-only", tmp_path / "net.c")


def test_columns_and_classes_of_a_table_are_named(tmp_path):
    frame = {"a": [1.0, 2.0, 3.0, 4.0], "w": ["x", "*/", "x", "*/"], "y": ["no", "yes", "*/ maybe", "no"]}
    net = bp.Network.from_table(bp.Table(frame, target="y"), hidden=(2,), seed=0)
    bp.export_c(net, tmp_path / "net.h")
    lines = [line.lstrip("* ") for line in (tmp_path / "net.h").read_text().splitlines()]
    assert {"x[0]: a", "x[1]: w = <U+002A><U+002F>", "x[2]: w = x"} <= set(lines)
    assert {"y[0]: class <U+002A><U+002F> maybe", "y[1]: class no", "y[2]: class yes"} <= set(lines)
    run(CC[0], *C99, "-fsyntax-only", "-x", "c", tmp_path / "net.h")


OWN = bp.Function(lambda a: a, lambda g, a: g, name="own")
NAN = bp.Network([bp.Input(2), bp.Dense(2)], dtype="float64")
NAN.theta[3] = np.nan
HUGE = bp.Network([bp.Input(2), bp.Dense(2)], dtype="float64")
HUGE.theta[0] = 1e200
PLAIN = bp.Network([bp.Input(2), bp.Dense(2)])
WRONG = {
    "own .*functions of your own.*net.part": (bp.Network([bp.Input(2), OWN, bp.Dense(1)]), {}, ValueError),
    "dense_1 .*an activation of your own": (
        bp.Network([bp.Input(2), bp.Dense(2, bp.Activation(np.sin, np.cos))]), {}, ValueError),
    "standardize_1: expected to know mean and scale": (
        bp.Network([bp.Input(2), bp.Standardize(), bp.Dense(2)]), {}, ValueError),
    "dense_1.W has values that are not finite in float64": (NAN, {"dtype": "float64"}, ValueError),
    "dense_1.W has values that are not finite in float32": (HUGE, {}, ValueError),
    "1e.200 is not finite in float32; dtype='float64' reaches": (
        bp.Network([bp.Input(2), bp.Add([1e200])]), {}, ValueError),
    "name: expected at most 40 letters": (PLAIN, {"name": "2x"}, ValueError),
    "name: expected at most 40 letters, .* got 'a b'": (PLAIN, {"name": "a b"}, ValueError),
    "dtype: there is no 'float16'": (PLAIN, {"dtype": "float16"}, ValueError),
    "style: there is no 'object'": (PLAIN, {"style": "object"}, ValueError),
    "expected a bp.Network, got Ensemble; export each of its members": (bp.Ensemble([PLAIN]), {}, TypeError),
    "expected a bp.Network, got dict": ({}, {}, TypeError),
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_what_it_cannot_hold_is_refused_before_a_file_is_written(words, tmp_path):
    net, settings, error = WRONG[words]
    (tmp_path / "net.h").write_text("as it was")
    with pytest.raises(error, match=words):
        bp.export_c(net, tmp_path / "net.h", **settings)
    assert os.listdir(tmp_path) == ["net.h"] and (tmp_path / "net.h").read_text() == "as it was"


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        bp.export_c(PLAIN, tmp_path / "missing" / "net.h")
    with pytest.raises(OSError):
        bp.export_c(PLAIN, tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, names = PAGE.read_text(encoding="utf-8"), {}
    program, make, use = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("c", "python", "sh"))
    for snippet in make:
        exec(compile(snippet, "docs/export_c.md", "exec"), names)
    (tmp_path / "main.c").write_text(program[0])
    run("sh", "-ec", use[0].replace("cc ", f"{shlex.join(CC)} ", 1))
