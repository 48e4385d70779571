"""bp.Function: operations of the user's own in C, and the tangents of those in Python and in C."""

import ctypes
import gc
import pickle
import re
import shlex
import subprocess
import threading
from os import environ
from pathlib import Path

import numpy as np
import pytest
from conftest import distance
from scipy import LowLevelCallable

import bpcore as bp

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
SIGNATURE = "int (bp_function_call *)"
MODES = [(False, ""), (True, "owners"), (True, "shards")]


class bp_function_call(ctypes.Structure):  # noqa: N801 (its name is in the signature)
    _fields_ = [
        ("real_size", ctypes.c_int), ("n_in", ctypes.c_int), ("rows", ctypes.c_int64),
        ("cols", ctypes.POINTER(ctypes.c_int64)), ("out_cols", ctypes.c_int64),
        ("in_", ctypes.POINTER(ctypes.c_void_p)), ("out", ctypes.c_void_p), ("out_grad", ctypes.c_void_p),
        ("in_grad", ctypes.POINTER(ctypes.c_void_p)), ("data", ctypes.c_void_p),
    ]  # fmt: skip


Operation = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(bp_function_call))


def view(call, address, cols):
    """An array on the memory of a call, (rows, cols)."""
    kind = ctypes.c_float if call.real_size == 4 else ctypes.c_double
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (call.rows, cols))


def in_c(forward, backward, note=lambda call: None):
    """C pointers to an elementwise function of one input and its gradient, with Python behind them."""

    def run(pointer):
        call = pointer[0]
        note(call)
        a, out = view(call, call.in_[0], call.cols[0]), view(call, call.out, call.out_cols)
        if not call.out_grad:
            out[...] = forward(a)
        elif call.in_grad[0]:
            gradient = view(call, call.in_grad[0], call.cols[0])
            gradient += backward(view(call, call.out_grad, call.out_cols), a)
        return 0

    return [LowLevelCallable(Operation(run)) for _ in range(2)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """tests/c/own_op.c, compiled with bpcore.h and nothing else of bpcore."""
    path = str(tmp_path_factory.mktemp("own") / "own_op.so")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    cc = shlex.split(environ.get("CC", "cc"))
    built = subprocess.run(
        [*cc, *flags, "tests/c/own_op.c", "-o", path, "-lm"], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(path)


def compiled(library, name, data=(None, None), **settings):
    pair = (
        LowLevelCallable(getattr(library, f"own_{name}{way}"), where, signature=SIGNATURE)
        for way, where in zip(("_forward", "_backward"), data, strict=True)
    )
    return bp.Function(*pair, name=name, **settings)


blend = bp.Function(
    lambda a, b: a * b * b,
    lambda g, a, b: (b * b * g, 2 * a * b * g),
    tangent=lambda a, b, out, va, vb: va * b * b + 2 * a * b * vb,
    name="blend",
)


def graph(own, last, dtype="float64"):
    """Inputs read by others too, one that does not move, one given twice."""
    x = bp.Input(4)
    h = bp.Dense(4, "tanh")(x)
    h = own(h, x) + own(x, h) + h
    h = own(h, h) * 0.3 + own(bp.Dense(4)(h), h)
    return bp.Network(x, last(bp.Dense(4)(h)), dtype=dtype, seed=3)


def facts(net, X, y, n_threads=1, batch=50):
    net.fit(X, y, loss="squared_error", optimizer=bp.Adam(lr=0.01), batch_size=batch, epochs=2, n_threads=n_threads)
    value, gradient = net.value_and_grad(X, y, loss="squared_error", n_threads=n_threads)
    return net.theta.tobytes(), value, gradient.tobytes(), net.predict(X, n_threads=n_threads).tobytes()


# ---- in C ----


@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-4)])
def test_in_c_it_is_what_layers_make(library, force, always, phase2, dtype, tolerance):
    """blend as products, softmax as the activation; gradients against differences; the same bits on any threads."""
    force(always, phase2)
    own, softmax = compiled(library, "blend"), compiled(library, "softmax")
    X, y = RNG.uniform(-1, 1, (333, 4)), RNG.uniform(size=(333, 4))
    net = graph(own, softmax, dtype)
    twin = graph(lambda a, b: a * b * b, bp.Activate("softmax"), dtype)
    assert distance(net.predict(X), twin.predict(X)) < tolerance
    for weight in (None, RNG.uniform(size=333)):
        got, want = (n.value_and_grad(X, y, loss="mse", sample_weight=weight)[1] for n in (net, twin))
        assert distance(got, want) < tolerance
    assert max(bp.check_gradients(net, X[:5], y[:5], loss="mse").values()) < 1e-7
    found = [facts(graph(own, softmax, dtype), X, y, n_threads) for n_threads in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert distance(np.frombuffer(found[0][0], dtype), (facts(twin, X, y), twin.theta)[1]) < 30 * tolerance


def test_a_row_has_the_same_bits_in_every_batch(library):
    net = graph(compiled(library, "blend"), compiled(library, "softmax"), "float32")
    X = RNG.uniform(-1, 1, (3000, 4)).astype("f4")
    wanted = net.predict(X)
    for n_threads in (1, 2, 3):
        answer = net.predictor(n_threads=n_threads)
        for rows in (1, 31, 33, 3000):
            assert answer(X[:rows]).tobytes() == wanted[:rows].tobytes()
            assert net.predict(X[:rows], n_threads=n_threads).tobytes() == wanted[:rows].tobytes()
        assert answer(X[7]).tobytes() == wanted[7].tobytes()


def test_the_users_data_are_each_functions_own(library):
    """A factor of 2 forward, of 3 backward."""
    two, three = ctypes.c_double(2), ctypes.c_double(3)
    where = [ctypes.cast(ctypes.pointer(one), ctypes.c_void_p) for one in (two, three)]
    own = compiled(library, "blend", where)
    x = bp.Input(4)
    net = bp.Network(x, own(bp.Dense(4)(x), x), dtype="float64")
    plain = bp.Network(x, blend(bp.Dense(4)(x), x), dtype="float64")
    X = RNG.normal(size=(9, 4))
    assert distance(net.predict(X), 2 * plain.predict(X)) < 1e-14
    grads = [n.value_and_grad(X, n.predict(X) - 1, loss="squared_error")[1] for n in (net, plain)]
    assert distance(grads[0], 3 * grads[1]) < 1e-13
    two.value = 5.0
    assert distance(net.predict(X), 5 * plain.predict(X)) < 1e-14


def test_called_on_tiles_from_any_thread(force):
    force(True, "")
    seen = []
    pair = in_c(np.sin, lambda g, a: g * np.cos(a),
                lambda call: seen.append((call.rows, call.out_grad is None, threading.get_ident())))  # fmt: skip
    net = bp.Network([bp.Input(3), bp.Dense(5), bp.Function(*pair), bp.Dense(2)], dtype="float64")
    twin = bp.Network([bp.Input(3), bp.Dense(5), bp.Function(np.sin, lambda g, a: g * np.cos(a)), bp.Dense(2)],
                      dtype="float64")  # fmt: skip
    X, y = RNG.normal(size=(4000, 3)), RNG.normal(size=(4000, 2))
    for _ in range(20):
        seen.clear()
        value, gradient = net.value_and_grad(X, y, n_threads=3)
        for forward in (True, False):
            assert sum(rows for rows, way, _ in seen if way == forward) == 4000
        assert max(rows for rows, _, _ in seen) < 4000
        if len({thread for _, _, thread in seen}) > 1:
            break
    else:
        pytest.fail("one thread did it all, twenty times")
    other = twin.value_and_grad(X, y)
    assert abs(value - other[0]) < 1e-13 * value and distance(gradient, other[1]) < 1e-13


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_callers_floating_point_environment(force, n_threads):
    """Subnormals are numbers within the user's function, and C flushes them again after it."""
    force(True, "")
    seen = []
    pair = in_c(np.sin, lambda g, a: g * np.cos(a), lambda call: seen.append(5e-324 * float(call.n_in) != 0))
    net = bp.Network([bp.Input(3), bp.Dense(5), bp.Function(*pair), bp.Dense(2)], dtype="float64")
    X, y = RNG.normal(size=(500, 3)), RNG.normal(size=(500, 2))
    net.fit(X, y, n_threads=n_threads)
    net.predict(X, n_threads=n_threads)
    net.predictor(n_threads=n_threads)(X)
    assert len(seen) > 20 and all(seen)
    tiny = in_c(lambda a: np.full_like(a, 1e-310), lambda g, a: 0 * g)
    net = bp.Network([bp.Input(1), bp.Function(*tiny), bp.Dense(1, init=np.full((1, 1), 1e300))], dtype="float64")
    assert net.predict([[1.0]]) == 0


def test_it_is_kept_alive():
    """The network and the predictor keep what the pointers point to."""

    def make():
        pair = in_c(np.tanh, lambda g, a: g * (1 - np.tanh(a) ** 2))
        return bp.Network([bp.Input(3), bp.Dense(4), bp.Function(*pair)], dtype="float64", seed=1)

    net = make()
    answer = net.predictor()
    X = RNG.normal(size=(50, 3))
    wanted = np.tanh(X @ net.params["dense_1.W"])
    gc.collect()
    assert distance(net.predict(X), wanted) < 1e-14
    twin = net.copy()
    del net
    gc.collect()
    assert distance(answer(X), wanted) < 1e-14 and distance(twin.predict(X), wanted) < 1e-14


def test_files_copies_and_networks_as_layers(library, tmp_path):
    net = graph(compiled(library, "blend"), compiled(library, "softmax"))
    net.save(tmp_path / "net")
    custom = {name: compiled(library, name) for name in ("blend", "softmax")}
    X = RNG.uniform(-1, 1, (30, 4))
    other = bp.load(tmp_path / "net", custom=custom)
    assert other.predict(X).tobytes() == net.predict(X).tobytes() == net.copy().predict(X).tobytes()
    other.save(tmp_path / "again")  # named as the file named it
    with pytest.raises(ValueError, match="custom={'blend'"):
        bp.load(tmp_path / "net", custom={"softmax": custom["softmax"]})
    mixed = bp.load(tmp_path / "net", custom=custom | {"blend": blend})  # one in Python will do as well
    assert distance(mixed.predict(X), net.predict(X)) < 1e-14
    x = bp.Input(4)
    assert bp.Network(x, net(x), dtype="float64").predict(X).tobytes() == net.predict(X).tobytes()
    with pytest.raises(TypeError, match="Function.blend.: functions in C cannot be pickled; use net.save"):
        pickle.dumps(net)
    python = bp.Network([bp.Input(2), bp.Function(np.sin, np.cos, name="sin", shape=2)])
    twin = pickle.loads(pickle.dumps(python)).layers[1]
    assert (twin.forward, twin.name, twin.shape) == (np.sin, "sin", (2,))


def refusing(library, forward=np.inf, backward=np.inf):
    """The identity that fails beyond a limit, and what its rules lie in."""
    rules = [(ctypes.c_double * 2)(code, limit) for code, limit in ((7, forward), (-3, backward))]
    pair = (
        LowLevelCallable(library.own_refuse, ctypes.cast(rule, ctypes.c_void_p), signature=SIGNATURE) for rule in rules
    )
    own = bp.Function(*pair, name="wary")
    return bp.Network([bp.Input(1), own, bp.Dense(2, "tanh"), bp.Dense(1)], dtype="float64"), rules


@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_failure_ends_the_call_and_leaves_the_last_whole_step(library, force, way, always, phase2):
    force(always, phase2)
    net, rules = refusing(library, **{way: 100.0})
    x = bp.Input(1)
    own = net.layers[1]
    net = bp.Network(x, bp.Dense(1)(own(bp.Dense(1, init=np.ones((1, 1)))(x))), dtype="float64")
    twin = net.copy()
    X, y = np.linspace(0, 1, 200)[:, None], np.zeros(200)
    X[150] = 1000
    code = 7 if way == "forward" else -3
    words = rf"^Function\(wary\): {way} returned {code}, and 0"
    for n_threads in (1, 3):
        with pytest.raises(RuntimeError, match=words):
            net.fit(X, y, batch_size=20, shuffle=False, epochs=3, optimizer=bp.SGD(lr=1e-3), n_threads=n_threads)
        assert net.step == (7 if n_threads == 1 else 14) and net.epoch == 0
        twin.fit(X[:140], y[:140], batch_size=20, shuffle=False, optimizer=bp.SGD(lr=1e-3))
        twin.epoch = 0
        assert net.theta.tobytes() == twin.theta.tobytes()
    calls = [lambda: net.value_and_grad(X, y)]
    if way == "forward":
        calls += [lambda: net.predict(X, n_threads=2), lambda: net.evaluate(X, y)]
        calls += [lambda: net.predictor(n_threads=2)(X), lambda: net.predictor()(X[150])]
    for call in calls:
        with pytest.raises(RuntimeError, match=words):
            call()
    for rule in rules:
        rule[1] = np.inf
    net.fit(X, y, optimizer=bp.SGD(lr=1e-9))  # and goes on
    assert net.step > 14


def test_of_several_failures_none_is_left_to_the_next_call(library, force):
    """In one stage, `a` fails on the last rows and `b` on the first; then `c` alone."""
    force(True, "")
    rules = {name: (ctypes.c_double * 2)(7, limit) for name, limit in (("a", 100.0), ("b", 10.0), ("c", np.inf))}
    layers = [bp.Input(1)]
    for name, rule in rules.items():
        where = ctypes.cast(rule, ctypes.c_void_p)
        layers.append(bp.Function(*(LowLevelCallable(library.own_refuse, where, signature=SIGNATURE),) * 2, name=name))
    answer = bp.Network(layers, dtype="float64").predictor(n_threads=2)
    X = np.where(np.arange(8000) < 4000, 50.0, 1000.0)[:, None]
    with pytest.raises(RuntimeError, match=r"^Function\(a\): forward"):
        answer(X)
    rules["a"][1] = rules["b"][1] = np.inf
    rules["c"][1] = 10.0
    with pytest.raises(RuntimeError, match=r"^Function\(c\): forward"):
        answer(X)


def test_a_dtype_may_be_refused(library):
    net, _ = refusing(library)
    with pytest.raises(RuntimeError, match="forward returned 7"):
        bp.Network._of(net._model.like("float32")).predict([[1.0]])


@pytest.mark.parametrize(
    "result, arguments, signature",
    [
        (ctypes.c_double, [ctypes.c_double], "double (double)"),
        (ctypes.c_int, [ctypes.c_void_p], "int (void *)"),
        (None, [ctypes.POINTER(bp_function_call)], "void (bp_function_call *)"),
        (ctypes.c_int, [ctypes.POINTER(bp_function_call), ctypes.c_void_p], "int (bp_function_call *, void *)"),
    ],
)
def test_other_signatures_are_refused(result, arguments, signature):
    wrong = LowLevelCallable(ctypes.CFUNCTYPE(result, *arguments)(lambda *a: 0))
    right = LowLevelCallable(Operation(lambda call: 0))
    assert right.signature == SIGNATURE
    for pair, way in (((wrong, right), "forward"), ((right, wrong), "backward")):
        with pytest.raises(ValueError) as caught:
            bp.Function(*pair)
        assert str(caught.value) == (
            f"Function: {way}: expected a LowLevelCallable of signature '{SIGNATURE}', got '{signature}'"
        )
    for pair in ((right, np.cos), (np.cos, right)):
        with pytest.raises(TypeError, match="^Function: forward and backward must both be LowLevelCallable"):
            bp.Function(*pair)


def test_the_documentation_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/functions.md").read_text()
    (source,) = re.findall(r"```c\n(.*?)```", text, re.DOTALL)
    Path("cube.c").write_text(source)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, "docs/functions.md", "exec"), names)  # they assert for themselves
    assert "in_c" in names


def test_the_header_is_where_it_says():
    text = (Path(bp.get_include()) / "bpcore.h").read_text()
    for name, _ in bp_function_call._fields_:
        assert name.rstrip("_") in text


# ---- tangents ----


def products(net, X, y, **options):
    """H v and G v, and what central differences of the gradient make of H v."""
    v = np.random.default_rng(5).standard_normal(net.n_params)
    theta, gradients = net.theta.copy(), []
    for h in (1e-5, -1e-5):
        net.theta = theta + h * v
        gradients.append(net.value_and_grad(X, y, **options)[1])
    net.theta = theta
    differences = (gradients[0] - gradients[1]) / 2e-5
    return net.hvp(X, y, v, **options), net.gauss_newton_product(X, y, v, **options), differences


@pytest.mark.parametrize("where", ["python", "c"])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_second_derivatives_through_it(library, where, loss):
    """Exactly those of the same made of layers, with weights, of one input twice and of one that does not move."""
    own = blend if where == "python" else compiled(library, "blend", tangent=blend.rule)
    X, weight = RNG.uniform(-1, 1, (20, 4)), RNG.uniform(size=20)
    y = RNG.integers(0, 4, 20) if loss == "cross_entropy" else RNG.normal(size=(20, 4))
    last = bp.Activate("softmax" if loss == "cross_entropy" else "identity")
    options = {"loss": loss, "sample_weight": weight}
    found = products(graph(own, last), X, y, **options)
    wanted = products(graph(lambda a, b: a * b * b, last), X, y, **options)
    assert distance(found[0], wanted[0]) < 1e-12 and distance(found[1], wanted[1]) < 1e-12
    assert distance(found[0], found[2]) < 1e-7


def test_a_tangent_of_other_functions_and_layers():
    """sin, whose tangent has a cos of the user's; outer, by matrix products; exp, by its output; Softmax by Reshape."""
    cos = bp.Function(np.cos, lambda g, a: -g * np.sin(a))
    sin = bp.Function(np.sin, lambda g, a: g * np.cos(a), tangent=lambda a, out, v: cos(a) * v)
    exp = bp.Function(np.exp, lambda g, a: g * np.exp(a), tangent=lambda a, out, v: out * v)

    def moved(a, b, out, va, vb):
        def product(a, b):
            return bp.Reshape((4, 1))(a) @ bp.Reshape((1, 3))(b)

        return product(va, b) + product(a, vb)

    outer = bp.Function(
        lambda a, b: a[:, :, None] * b[:, None, :],
        lambda g, a, b: ((g * b[:, None, :]).sum(2), (g * a[:, :, None]).sum(1)),
        shape=(4, 3),
        tangent=moved,
    )
    x = bp.Input(3)
    h = bp.Reshape(-1)(outer(sin(bp.Dense(4)(x)), exp(bp.Dense(3, "tanh")(x))))
    net = bp.Network(x, bp.Dense(2)(h), dtype="float64", seed=1)
    X, y = RNG.normal(size=(30, 3)), RNG.normal(size=(30, 2))
    Hv, Gv, differences = products(net, X, y, loss="mse")
    assert distance(Hv, differences) < 1e-8
    v = np.random.default_rng(5).standard_normal(net.n_params)
    theta, moved_by = net.theta.copy(), []
    for h in (1e-5, -1e-5):
        net.theta = theta + h * v
        moved_by.append(net.predict(X))
    net.theta = theta
    u = (moved_by[0] - moved_by[1]) / 2e-5
    want = net.value_and_grad(X, net.predict(X) - u, loss="mse")[1]  # J^T H_L (J v)
    assert distance(Gv, want) < 1e-8


@pytest.mark.parametrize(
    "tangent, words",
    [
        (None, r"Function\(f\) has no tangent, which hvp and gauss_newton_product need: give it one"),
        (lambda a, out, v: 3.0, r"tangent: expected a symbol of shape \(3,\), got float"),
        (lambda a, out, v: v[:2], r"tangent: expected a symbol of shape \(3,\), got shape \(2,\)"),
        (lambda a, out, v: bp.Dense(3)(v), "tangent: expected layers without parameters .*, got Dense"),
        (lambda a, out, v: v * bp.Input(3), "tangent: .* on the symbols given, got Input"),
    ],
)
def test_tangents_that_do_not_fit(tangent, words):
    net = bp.Network([bp.Input(2), bp.Dense(3), bp.Function(np.sin, lambda g, a: g, name="f", tangent=tangent)])
    X, y, v = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 3)), np.ones(net.n_params)
    for product in (net.hvp, net.gauss_newton_product):
        with pytest.raises(ValueError, match=words):
            product(X, y, v)
    with pytest.raises(TypeError, match="tangent: expected a function, got 3"):
        bp.Function(np.sin, np.cos, tangent=3)


def test_a_tangent_comes_back_with_its_function(tmp_path):
    net = graph(blend, bp.Activate("tanh"))
    net.save(tmp_path / "net")
    net2 = bp.load(tmp_path / "net", custom={"blend": blend})
    X, y, v = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4)), np.ones(net.n_params)
    assert net2.hvp(X, y, v).tobytes() == net.hvp(X, y, v).tobytes()
