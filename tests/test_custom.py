"""Activations and losses of the user's own: Python callables on whole chunks, and C functions."""

import copy
import ctypes
import ctypes.util
import pickle
import threading

import numpy as np
import pytest
from conftest import distance
from scipy import LowLevelCallable

import bpcore as bp

CHUNK = 16384  # rows that a chunk never exceeds


def silu(z):
    return z / (1 + np.exp(-z))


def dsilu(z):
    s = 1 / (1 + np.exp(-z))
    return s * (1 + z * (1 - s))


OWN = {"tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2), "silu": (silu, dsilu)}
RELU = (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype))
squared_error = (lambda a, y: ((a - y) ** 2).sum(1) / 2, lambda a, y: a - y)


def chain(activation, last="identity", dtype="float64", n_out=2):
    layers = [bp.Dense(n, f, init="glorot_normal") for n, f in ((5, activation), (4, activation), (n_out, last))]
    return bp.Network([bp.Input(3), *layers], dtype=dtype, seed=2)


def data(n=50, n_out=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.uniform(0.1, 0.9, (n, n_out)), rng.integers(0, 3, n).astype(float)


def everything(net, X, y, loss="squared_error", weight=None, **fit):
    """What every call makes of the data, by name."""
    tape = net.forward(X)
    grads = net.backward(tape, y, loss=loss, sample_weight=weight)
    value, gradient = net.value_and_grad(X, y, loss=loss, sample_weight=weight)
    trained = net.copy()
    options = {"batch_size": 8, "epochs": 3, "validation_data": (X, y), "optimizer": bp.Adam(lr=0.01)} | fit
    history = trained.fit(X, y, loss=loss, sample_weight=weight, **options)
    found = {f"{name}{k}": v for name in ("z", "a", "df") for k, v in enumerate(getattr(tape, name)) if v is not None}
    found |= {f"delta{k}": delta for k, delta in enumerate(grads.delta) if delta is not None}
    return found | {
        "predict": net.predict(X), "theta": grads.theta, "x": grads.x, "loss": grads.loss, "value": value,
        "gradient": gradient, "evaluate": net.evaluate(X, y, loss=loss, sample_weight=weight)["loss"],
        "trained": trained.theta, "history": history.loss, "validation": history.val_loss,
    }  # fmt: skip


def check_close(got, want, tolerance):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert distance(got[name], value) <= tolerance, name


ways = pytest.mark.parametrize("phase2", ["", "owners", "shards"])
tolerances = pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 2e-5)])


# ---- activations ----


@ways
@tolerances
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("last", ["identity", "softmax", "same"])
def test_python_activation_is_the_built_in(force, phase2, name, last, dtype, tolerance):
    force(bool(phase2), phase2)
    own = bp.Activation(*OWN[name])
    X, y, weight = data()
    for w in (None, weight):
        got, want = (
            everything(chain(f, f if last == "same" else last, dtype), X, y, weight=w, n_threads=2) for f in (own, name)
        )
        check_close(got, want, tolerance)


def test_python_activation_gives_the_bits_of_the_built_in():
    """relu is exact, so every answer and the tape are."""
    X = data(77)[0]
    for dtype in ("float32", "float64"):
        own, built_in = chain(bp.Activation(*RELU), dtype=dtype), chain("relu", dtype=dtype)
        built_in.theta = own.theta
        np.testing.assert_array_equal(own.predict(X), built_in.predict(X))
        for name in ("z", "a", "df"):
            for got, want in zip(*(getattr(net.forward(X), name) for net in (own, built_in)), strict=True):
                assert (got is None and want is None) or (got == want).all()


def test_own_and_built_in_mix():
    """A Python stage between tiles, with more rows than a chunk, and gradients against central differences."""
    own = bp.Activation(*OWN["tanh"])
    layers = [bp.Input(3), bp.Dense(4, "gelu"), bp.Dense(4, own), bp.Dense(4, own), bp.Dense(2, "softmax")]
    net = bp.Network(layers, dtype="float64", seed=1)
    layers[2:4] = bp.Dense(4, "tanh"), bp.Dense(4, "tanh")
    twin = bp.Network(layers, dtype="float64")
    twin.theta = net.theta
    X, y, weight = data(2 * CHUNK + 9)
    y /= y.sum(axis=1, keepdims=True)
    fit = {"batch_size": None, "epochs": 2, "n_threads": 2}
    for w in (None, weight):
        check_close(*(everything(n, X, y, "cross_entropy", w, **fit) for n in (net, twin)), 1e-12)
    assert max(bp.check_gradients(net, X[:5], y[:5]).values()) <= 1e-7


def counted(f, df):
    """An activation, and the calls of f and df with shape, dtype and thread."""
    calls = {"f": [], "df": []}

    def note(name, function):
        def inner(z):
            calls[name].append((z.shape, z.dtype, threading.get_ident()))
            return function(z)

        return inner

    return calls, bp.Activation(note("f", f), note("df", df))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_called_once_a_chunk_on_the_calling_thread(force, dtype):
    force(True, "")
    calls, own = counted(*OWN["tanh"])
    losses = {"value": [], "gradient": []}
    loss = bp.Loss(
        lambda a, y: losses["value"].append((a.shape, a.dtype, threading.get_ident())) or squared_error[0](a, y),
        lambda a, y: losses["gradient"].append((a.shape, a.dtype, threading.get_ident())) or squared_error[1](a, y),
    )
    calls |= losses
    n = 2 * CHUNK + 100
    X, y = np.random.default_rng(0).normal(size=(n, 2)), np.zeros((n, 3))
    net = bp.Network([bp.Input(2), bp.Dense(4, own), bp.Dense(3)], dtype=dtype)

    def check(*expected, n_chunks=3):
        for name, found in calls.items():
            assert len(found) == (n_chunks if name in expected else 0), name
            shapes = [shape for shape, _, _ in found]
            width = 4 if name in ("f", "df") else 3
            assert sum(rows for rows, _ in shapes) in (0, n) and all(r <= CHUNK and c == width for r, c in shapes)
            assert {(kind, thread) for _, kind, thread in found} <= {(np.dtype(dtype), threading.get_ident())}
            found.clear()

    net.predict(X, n_threads=3)
    check("f")
    net.evaluate(X, y, loss=loss, n_threads=3)
    check("f", "value")
    tape = net.forward(X)
    check("f", "df")
    net.backward(tape, y, loss=loss)
    check("value", "gradient")
    net.value_and_grad(X, y, loss=loss, n_threads=3)
    check("f", "df", "value", "gradient")
    net.fit(X, y, loss=loss, batch_size=None, n_threads=3)
    check("f", "df", "value", "gradient")
    net.fit(X, y, loss=loss, batch_size=1000, n_threads=3)
    check("f", "df", "value", "gradient", n_chunks=33)


class Trouble(Exception):
    pass


def failing(function, at, error):
    """`function`, raising at its call number `at`."""
    count = [0]

    def inner(*arguments):
        count[0] += 1
        if count[0] == at:
            raise error
        return function(*arguments)

    return inner


def net_and_loss_failing(where, at, error):
    def part(name, function):
        return failing(function, at, error) if name == where else function

    own = bp.Activation(part("f", OWN["tanh"][0]), part("df", OWN["tanh"][1]))
    loss = bp.Loss(part("value", squared_error[0]), part("gradient", squared_error[1]))
    return bp.Network([bp.Input(3), bp.Dense(4, own), bp.Dense(2)], dtype="float64", seed=1), loss


every_place = pytest.mark.parametrize("where", ["f", "df", "value", "gradient"])
every_error = pytest.mark.parametrize("error", [Trouble("here"), KeyboardInterrupt(), SystemExit(3)], ids=repr)


@ways
@every_place
@every_error
def test_an_exception_comes_through_and_leaves_the_last_whole_step(force, phase2, where, error):
    force(bool(phase2), phase2)
    X, y, _ = data(40)
    for at in (1, 4):
        net, loss = net_and_loss_failing(where, at, error)
        twin = net.copy()
        with pytest.raises(type(error)) as caught:
            net.fit(X, y, loss=loss, batch_size=10, epochs=5, shuffle=False, optimizer=bp.Adam(), n_threads=2)
        assert caught.value is error
        assert net.step == at - 1 and net.epoch == 0
        if at > 1:
            twin.fit(X[:30], y[:30], loss=loss, batch_size=10, shuffle=False, optimizer=bp.Adam())
        np.testing.assert_array_equal(net.theta, twin.theta)
        # the network goes on as if nothing had been
        for n in (net, twin):
            n.epoch = 0
            n.fit(X, y, loss=loss, batch_size=10, optimizer=bp.Adam())
        np.testing.assert_array_equal(net.theta, twin.theta)


@every_place
@every_error
def test_an_exception_comes_through_every_call(where, error):
    X, y, _ = data(40)
    calls = {
        "predict": lambda net, loss: net.predict(X),
        "evaluate": lambda net, loss: net.evaluate(X, y, loss=loss),
        "forward": lambda net, loss: net.forward(X),
        "value_and_grad": lambda net, loss: net.value_and_grad(X, y, loss=loss),
        "fit": lambda net, loss: net.fit(X, y, loss=loss, validation_data=(X, y)),
    }
    reached = {"f": list(calls), "df": ["forward", "value_and_grad", "fit"],
               "value": ["evaluate", "value_and_grad", "fit"], "gradient": ["value_and_grad", "fit"]}  # fmt: skip
    for name in reached[where]:
        net, loss = net_and_loss_failing(where, 1, error)
        before = net.theta.copy()
        with pytest.raises(type(error)) as caught:
            calls[name](net, loss)
        assert caught.value is error
        np.testing.assert_array_equal(net.theta, before)
        assert net.step == net.epoch == 0
        calls[name](net, loss)
    if where in ("value", "gradient"):
        net, loss = net_and_loss_failing(where, 1, error)
        tape = net.forward(X)
        with pytest.raises(type(error)) as caught:
            net.backward(tape, y, loss=loss)
        assert caught.value is error


def check_refused(function, error, *words):
    with pytest.raises(error) as caught:
        function()
    for word in words:
        assert word in str(caught.value)


WRONG = [
    (lambda z: z[:, :-1], ValueError, "(6, 3)"),
    (lambda z: z[:-1], ValueError, "(5, 4)"),
    (lambda z: z.ravel(), ValueError, "(24,)"),
    (lambda z: z[None], ValueError, "(1, 6, 4)"),
    (lambda z: z.sum(), ValueError, "()"),
    (lambda z: 0.0, ValueError, "()"),
    (lambda z: [[1.0], [1.0, 2.0]], ValueError, "list"),
    (lambda z: None, TypeError, "object"),
    (lambda z: z + 1j, TypeError, "complex"),
    (lambda z: z.astype(str), TypeError, "<U"),
    (lambda z: z.astype(object), TypeError, "object"),
]


@pytest.mark.parametrize("wrong, error, got", WRONG)
@pytest.mark.parametrize("where, what", [("f", "Activation: f(z)"), ("df", "Activation: df(z)")])
def test_wrong_results_of_an_activation_are_named(where, what, wrong, error, got):
    functions = {"f": np.tanh, "df": np.cos} | {where: wrong}
    net = bp.Network([bp.Input(3), bp.Dense(4, bp.Activation(**functions)), bp.Dense(2)], seed=1)
    X, y, _ = data(6)
    before = net.theta.copy()
    expected = () if error is TypeError else ("(6, 4)",)
    for call in (lambda: net.forward(X), lambda: net.fit(X, y, loss="squared_error", batch_size=None)):
        check_refused(call, error, what, got, *expected)
    if where == "f":
        check_refused(lambda: net.predict(X), error, what, got, *expected)
    np.testing.assert_array_equal(net.theta, before)


@pytest.mark.parametrize(
    "where, what, wrong, error, words",
    [
        ("value", "value(a, y)", lambda a, y: (a - y) ** 2, ValueError, ["(6,)", "(6, 2)"]),
        ("value", "value(a, y)", lambda a, y: ((a - y) ** 2).mean(), ValueError, ["(6,)", "()"]),
        ("value", "value(a, y)", lambda a, y: (a - y).sum(1, keepdims=True), ValueError, ["(6,)", "(6, 1)"]),
        ("value", "value(a, y)", lambda a, y: None, TypeError, ["object"]),
        ("value", "value(a, y)", lambda a, y: a.sum(1) * 1j, TypeError, ["complex"]),
        ("gradient", "gradient(a, y)", lambda a, y: a.sum(1), ValueError, ["(6, 2)", "(6,)"]),
        ("gradient", "gradient(a, y)", lambda a, y: a.T, ValueError, ["(6, 2)", "(2, 6)"]),
        ("gradient", "gradient(a, y)", lambda a, y: "no", TypeError, ["<U2"]),
        ("gradient", "gradient(a, y)", lambda a, y: [[0.0], []], ValueError, ["(6, 2)", "list"]),
    ],
)
def test_wrong_results_of_a_loss_are_named(where, what, wrong, error, words):
    functions = dict(zip(("value", "gradient"), squared_error, strict=True)) | {where: wrong}
    net, loss = chain("tanh"), bp.Loss(**functions)
    X, y, _ = data(6)
    before = net.theta.copy()
    for call in (
        lambda: net.fit(X, y, loss=loss, batch_size=None),
        lambda: net.value_and_grad(X, y, loss=loss),
        lambda: net.backward(net.forward(X), y, loss=loss),
    ):
        check_refused(call, error, "Loss: " + what, *words)
    np.testing.assert_array_equal(net.theta, before)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: bp.Activation(3, np.cos), TypeError, ["f:", "3"]),
        (lambda: bp.Activation(np.sin, "cos"), TypeError, ["df:", "'cos'"]),
        (lambda: bp.Activation(np.sin, np.cos, name=3), TypeError, ["name", "3"]),
        (lambda: bp.Loss(None, np.cos), TypeError, ["value", "None"]),
        (lambda: bp.Loss(np.cos, 1.5), TypeError, ["gradient", "1.5"]),
        (lambda: bp.Dense(3, np.tanh), TypeError, ["activation", "bp.Activation"]),
        (lambda: bp.Network([bp.Input(1), bp.Dense(1)]).evaluate([[1]], [[1]], loss=np.cos), TypeError, ["loss"]),
    ],
)
def test_what_is_no_function_is_refused(make, error, words):
    check_refused(make, error, *words)


@pytest.mark.parametrize("harm", ["keep", "mutate", "return the argument", "return a view", "return one array"])
def test_a_callable_may_keep_or_change_its_argument(harm):
    kept, one = [], np.empty((100, 8))

    def careless(function, width):
        def inner(*arguments):
            result = function(*arguments)
            kept.extend((a, a.copy()) for a in arguments)
            if harm == "mutate":
                for a in arguments:
                    a[...] = -77
            elif harm == "return the argument" and result.shape == arguments[0].shape:
                arguments[0][...] = result
                return arguments[0]
            elif harm == "return a view":
                wide = np.full((2 * len(result), *(2 * k for k in result.shape[1:])), np.inf)
                view = wide[(slice(None, None, 2),) * result.ndim]
                view[...] = result
                view.flags.writeable = False
                return view
            elif harm == "return one array" and result.ndim == 2:
                one[: len(result), : result.shape[1]] = result
                return one[: len(result), : result.shape[1]]
            return result

        return inner

    X, y, weight = data(40)
    calm = chain(bp.Activation(*OWN["tanh"])), bp.Loss(*squared_error)
    wild = (
        chain(bp.Activation(*(careless(function, 5) for function in OWN["tanh"]))),
        bp.Loss(*(careless(function, 2) for function in squared_error)),
    )
    before = X.tobytes(), y.tobytes()
    for w in (None, weight):
        got, want = (everything(net, X, y, loss, w) for net, loss in (wild, calm))
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert before == (X.tobytes(), y.tobytes())
    if harm == "keep":
        assert len(kept) > 100
        for argument, copy in kept:
            np.testing.assert_array_equal(argument, copy)


def test_a_callable_may_use_bpcore():
    """It predicts with the very network that is being fitted, from within its activation."""
    X, y, _ = data(30)
    inner = chain("tanh")
    depth, seen = [0], []

    def f(z):
        if not depth[0]:
            depth[0] += 1
            seen.append((net.predict(X).shape, inner.predict(X).shape))
            depth[0] -= 1
        return np.tanh(z)

    net = chain(bp.Activation(f, OWN["tanh"][1]))
    twin = chain(bp.Activation(*OWN["tanh"]))
    for n in (net, twin):
        n.fit(X, y, loss="squared_error", epochs=2, n_threads=2)
    np.testing.assert_array_equal(net.theta, twin.theta)
    assert set(seen) == {((30, 2), (30, 2))}


# ---- losses ----


@ways
@tolerances
@pytest.mark.parametrize("last", ["identity", "softmax"])
def test_python_loss_is_the_built_in(force, phase2, last, dtype, tolerance):
    force(bool(phase2), phase2)
    X, y, weight = data()
    own, net = bp.Loss(*squared_error), chain("tanh", last, dtype)
    for w in (None, weight):
        check_close(*(everything(net, X, y, loss, w, n_threads=2) for loss in (own, "squared_error")), tolerance)
    assert max(bp.check_gradients(net, X[:5], y[:5], loss=own).values()) <= 1e-7


def test_y_comes_as_it_was_given():
    """Its shape is kept, whole numbers come as int32, others in the network's dtype, in the order of the rows."""
    n = 50
    rng = np.random.default_rng(0)
    whole = rng.integers(-(2**31), 2**31, n)
    for dtype in ("float32", "float64"):
        net = bp.Network([bp.Input(1), bp.Dense(2)], dtype=dtype)
        for y, kind in (
            (np.arange(n), np.int32), (whole, np.int32), (whole[:, None], np.int32), (whole > 0, np.int32),
            (rng.integers(0, 9, (n, 4, 3)).astype(np.uint8), np.int32), (rng.normal(size=n), dtype),
            (rng.normal(size=(n, 5)).astype(np.float16), dtype), (rng.normal(size=(n, 2, 3, 2)), dtype),
            (np.asfortranarray(rng.normal(size=(n, 3, 4))), dtype),
        ):  # fmt: skip
            seen = []

            def value(a, t, seen=seen):
                seen.append((a[:, 0], t))
                return np.zeros(len(a))

            loss = bp.Loss(value, lambda a, t: np.zeros_like(a))
            net.theta[:] = [1, 1, 0, 0]
            X = np.arange(n)[:, None]
            for call in (
                lambda: net.evaluate(X, y, loss=loss),  # noqa: B023
                lambda: net.value_and_grad(X, y, loss=loss),  # noqa: B023
                lambda: net.backward(net.forward(X), y, loss=loss),  # noqa: B023
                lambda: net.fit(X, y, loss=loss, batch_size=7),  # noqa: B023
            ):
                seen.clear()
                call()
                rows, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
                assert targets.dtype == kind and targets.shape == y.shape
                assert sorted(rows) == list(range(n))
                np.testing.assert_array_equal(targets, y[rows.astype(int)].astype(kind))


def test_a_loss_of_several_outputs_and_one_target():
    """A pinball loss of three quantiles: y is (n,), the output (n, 3)."""
    q = np.array([0.1, 0.5, 0.9])
    loss = bp.Loss(
        lambda a, y: np.maximum(q * (y[:, None] - a), (q - 1) * (y[:, None] - a)).sum(1),
        lambda a, y: np.where(y[:, None] > a, -q, 1 - q),
    )
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (4000, 1))
    y = X[:, 0] + rng.normal(0, 1, 4000)
    net = bp.Network([bp.Input(1), bp.Dense(3)], dtype="float64")
    net.fit(X, y, loss=loss, epochs=60, batch_size=50, optimizer=bp.Adam(lr=0.01))
    below = (y[:, None] < net.predict(X)).mean(0)
    np.testing.assert_allclose(below, q, atol=0.02)


def test_classes_for_a_loss_of_ones_own():
    """Cross-entropy of softmax by hand: labels come as int32, and all is as with the built-in."""
    own = bp.Loss(
        lambda a, y: -np.log(a[np.arange(len(a)), y]),
        lambda a, y: -np.eye(a.shape[1])[y] / a,
    )
    X, _, weight = data(60)
    labels = np.random.default_rng(1).integers(0, 4, 60)
    net = chain("tanh", "softmax", n_out=4)
    for w in (None, weight):
        check_close(*(everything(net, X, labels, loss, w) for loss in (own, "cross_entropy")), 1e-12)
    assert net.evaluate(X, labels, loss=own).keys() == {"loss"}


def test_a_row_of_weight_zero_may_have_any_loss():
    loss = bp.Loss(
        lambda a, y: np.where(y[:, 0] < 0, np.inf, squared_error[0](a, y)),
        lambda a, y: np.where(y < 0, np.nan, a - y),
    )
    X, y, _ = data(20)
    weight = np.ones(20)
    y[3:6], weight[3:6] = -1.0, 0.0
    net = chain("tanh")
    got, want = (everything(net, X, y, E, weight) for E in (loss, "squared_error"))
    for name in set(got) - {"delta1", "delta2", "delta3", "validation"}:
        assert distance(got[name], want[name]) <= 1e-13, name


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_loss_that_is_not_finite_diverges(bad):
    calls = []

    def value(a, y):
        calls.append(1)
        return np.full(len(a), bad if len(calls) == 3 else 0.5)

    X, y, _ = data(40)
    net, twin = chain("tanh"), chain("tanh")
    with pytest.raises(bp.DivergenceError) as caught:
        net.fit(X, y, loss=bp.Loss(value, squared_error[1]), batch_size=10, shuffle=False)
    assert (caught.value.epoch, caught.value.batch) == (1, 3)
    twin.fit(X[:20], y[:20], loss="squared_error", batch_size=10, shuffle=False)
    assert distance(net.theta, twin.theta) <= 1e-14 and net.step == 2


# ---- C functions ----

libm = ctypes.CDLL(ctypes.util.find_library("m"))
Plain = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
WithData = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_void_p)


def from_libm(name):
    function = getattr(libm, name)
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    return function


@ways
@tolerances
def test_c_activation_is_the_built_in(force, phase2, dtype, tolerance):
    """libm's tanh, and a derivative in Python behind a C pointer; called from any thread."""
    force(bool(phase2), phase2)
    derivative = Plain(lambda z: 1 - np.tanh(z) ** 2)
    own = bp.Activation(LowLevelCallable(from_libm("tanh")), LowLevelCallable(derivative))
    with pytest.raises(TypeError, match="^Activation: functions in C cannot be pickled; use net.save"):
        pickle.dumps(bp.Network([bp.Input(2), bp.Dense(3, own)]))
    assert copy.copy(own) is copy.deepcopy(own) is own
    X, y, weight = data()
    for w in (None, weight):
        check_close(*(everything(chain(f, f, dtype), X, y, weight=w, n_threads=2) for f in (own, "tanh")), tolerance)


def test_c_activation_with_user_data():
    """leaky relu, its slope behind the pointer and read at each call."""
    slope = ctypes.c_double(0.01)
    pointer = ctypes.cast(ctypes.pointer(slope), ctypes.c_void_p)

    def at(address):
        return ctypes.cast(address, ctypes.POINTER(ctypes.c_double))[0]

    f = WithData(lambda z, address: z if z > 0 else at(address) * z)
    df = WithData(lambda z, address: 1.0 if z > 0 else at(address))
    own = bp.Activation(LowLevelCallable(f, pointer), LowLevelCallable(df, pointer))
    X, y, _ = data()
    net, built_in, linear = chain(own), chain("leaky_relu"), chain("identity")
    built_in.theta = linear.theta = net.theta
    check_close(*(everything(n, X, y) for n in (net, built_in)), 1e-13)
    slope.value = 1.0
    assert distance(net.predict(X), linear.predict(X)) <= 1e-14


def test_c_activation_is_called_once_an_element(force):
    force(True, "")
    count = []
    f = Plain(lambda z: count.append(threading.get_ident()) or z * z)
    df = Plain(lambda z: 2 * z)
    net = bp.Network([bp.Input(2), bp.Dense(3, bp.Activation(LowLevelCallable(f), LowLevelCallable(df)))])
    X = np.random.default_rng(0).normal(size=(256, 2))
    net.fit(X, np.zeros((256, 3)), loss="squared_error", batch_size=None, n_threads=2)
    assert len(count) == 256 * 3


@pytest.mark.parametrize(
    "result, arguments, signature",
    [
        (ctypes.c_double, [ctypes.c_int], "double (int)"),
        (ctypes.c_double, [ctypes.c_double, ctypes.c_double], "double (double, double)"),
        (ctypes.c_float, [ctypes.c_float], "float (float)"),
        (ctypes.c_int, [ctypes.c_double], "int (double)"),
    ],
)
def test_c_functions_of_another_signature_are_refused(result, arguments, signature):
    wrong = LowLevelCallable(ctypes.CFUNCTYPE(result, *arguments)(lambda *a: 0))
    right = LowLevelCallable(from_libm("sin"))
    for pair in ((wrong, right), (right, wrong)):
        check_refused(lambda: bp.Activation(*pair), ValueError, "double (double)", signature)  # noqa: B023
    for pair in ((right, np.cos), (np.cos, right)):
        check_refused(lambda: bp.Activation(*pair), TypeError, "LowLevelCallable")  # noqa: B023


# ---- the floating-point environment ----


def is_ieee():
    return np.float64(5e-324) * 1 != 0 and np.float32(1e-45) * np.float32(1) != 0 and 5e-324 * 1.0 != 0


@pytest.mark.parametrize("n_threads", [1, 2])
def test_subnormals_are_seen_by_the_users_functions_alone(force, n_threads):
    """C flushes subnormals; callables, and the caller after every call, do not."""
    force(True, "")
    seen = []

    def look(function):
        return lambda *arguments: seen.append(is_ieee()) or function(*arguments)

    python = bp.Activation(*map(look, OWN["tanh"]))
    c = bp.Activation(*(LowLevelCallable(Plain(look(f))) for f in (lambda z: z * z / 9, lambda z: z / 9 * 2)))
    loss = bp.Loss(*map(look, squared_error))
    X, y, _ = data(150)
    for activation in (python, c):
        net = chain(activation, activation)
        for call in (
            lambda: net.fit(X, y, loss=loss, n_threads=n_threads),  # noqa: B023
            lambda: net.predict(X, n_threads=n_threads),  # noqa: B023
            lambda: net.backward(net.forward(X), y, loss=loss),  # noqa: B023
            lambda: net.evaluate(X, y, loss=loss, n_threads=n_threads),  # noqa: B023
        ):
            seen.clear()
            call()
            assert seen and all(seen)
            assert is_ieee()


def test_what_a_function_makes_of_subnormals_arrives():
    """z is 1e-310 before C flushes it, and f tells it from 0."""
    own = bp.Activation(lambda z: np.where(z == 0, 0.0, 1.0), np.zeros_like)
    net = bp.Network([bp.Input(1), bp.Dense(1, own, init=np.ones((1, 1)))], dtype="float64")
    assert net.predict([[1e-300]]) == 1 and net.predict([[0.0]]) == 0
    tiny = bp.Activation(lambda z: np.full_like(z, 5e-324), np.zeros_like)
    net = bp.Network([bp.Input(1), bp.Dense(1, tiny)], dtype="float64")
    assert net.predict([[1.0]]) == 5e-324


def test_a_vector_y_is_a_column_for_one_output():
    """Else a - y would be (n, n), and its sum a wrong loss."""
    shapes = set()

    def value(a, y):
        shapes.add(y.shape[1:])
        return ((a - y) ** 2).sum(axis=1) / 2

    mine = bp.Loss(value, lambda a, y: a - y)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    net = bp.Network([bp.Input(3), bp.Dense(1)], dtype="float64", seed=0)
    assert net.evaluate(X, y, loss=mine)["loss"] == pytest.approx(net.evaluate(X, y, loss="squared_error")["loss"])
    net.fit(X, y, loss=mine, validation_data=(X, y))
    assert shapes == {(1,)}
