"""Plans that are no chain, trained by the executor that `fit` uses: sums, weights used many times, and operations
that a library of the tests' own registers; how a plan cuts its work; what it refuses."""

import ctypes
import shlex
import subprocess
from os import environ
from pathlib import Path

import numpy as np
import pytest
import reference as ref
from conftest import distance

from bpcore import _core

ROOT = Path(__file__).parent.parent
TRAIN = _core.FORWARD | _core.CACHE | _core.LOSS | _core.BACKWARD
EVALUATE = _core.FORWARD | _core.LOSS
N_OUT = 3


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory):
    """The operations of tests/c/square_op.c, compiled, loaded beside the core and registered."""
    path = str(tmp_path_factory.mktemp("op") / "square_op.so")
    cc = shlex.split(environ.get("CC", "cc"))
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    built = subprocess.run(
        [*cc, *flags, "-Icsrc", "tests/c/square_op.c", "-o", path], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    ctypes.CDLL(_core.__file__, mode=ctypes.RTLD_GLOBAL)  # what the library calls
    loaded = ctypes.CDLL(path)
    for name in ("test_square", "test_column_scale"):
        _core.register_operation(ctypes.addressof(ctypes.c_char.in_dll(loaded, name)))
    return loaded


# ---- graphs: what the plan is told, and the same by hand ----
# p holds A [n, n], a (n,), B [n, 3], b (3,), s (n,); add_operations gets the numbers of these parameters


class Residual:
    """h = tanh(x A + a); out = (h + x) B + b"""

    uses = "AaBb"

    @staticmethod
    def add_operations(plan, x, p):
        h = plan.op("activation", [plan.op("dense", [x], [p["A"], p["a"]])], function="tanh")
        return plan.op("dense", [plan.op("add", [h, x])], [p["B"], p["b"]])

    @staticmethod
    def forward(p, x):
        h = np.tanh(x @ p["A"] + p["a"])
        return (h, h + x), (h + x) @ p["B"] + p["b"]

    @staticmethod
    def backward(p, x, kept, d):
        h, total = kept
        dh = d @ p["B"].T
        dz = (1 - h**2) * dh
        return {"A": x.T @ dz, "a": dz.sum(0), "B": total.T @ d, "b": d.sum(0)}, dh + dz @ p["A"].T


class Shared:
    """h = tanh(h A + a), `times` over, from h = x; out = h B + b"""

    uses, times = "AaBb", 2

    @classmethod
    def add_operations(cls, plan, x, p):
        for _ in range(cls.times):
            x = plan.op("activation", [plan.op("dense", [x], [p["A"], p["a"]])], function="tanh")
        return plan.op("dense", [x], [p["B"], p["b"]])

    @classmethod
    def forward(cls, p, x):
        h = [x]
        for _ in range(cls.times):
            h.append(np.tanh(h[-1] @ p["A"] + p["a"]))
        return h, h[-1] @ p["B"] + p["b"]

    @classmethod
    def backward(cls, p, x, h, d):
        g = {"A": 0, "a": 0, "B": h[-1].T @ d, "b": d.sum(0)}
        dh = d @ p["B"].T
        for t in range(cls.times, 0, -1):
            dz = (1 - h[t] ** 2) * dh
            g["A"], g["a"], dh = g["A"] + h[t - 1].T @ dz, g["a"] + dz.sum(0), dz @ p["A"].T
        return g, dh


class SharedTwelve(Shared):
    """More uses than an operation has operands."""

    times = 12


class Square:
    """q = (x A + a)^2; out = q B + b"""

    uses = "AaBb"

    @staticmethod
    def add_operations(plan, x, p):
        z = plan.op("dense", [x], [p["A"], p["a"]])
        return plan.op("dense", [plan.op("test_square", [z])], [p["B"], p["b"]])

    @staticmethod
    def forward(p, x):
        z = x @ p["A"] + p["a"]
        return z, z**2 @ p["B"] + p["b"]

    @staticmethod
    def backward(p, x, z, d):
        dz = 2 * z * (d @ p["B"].T)
        return {"A": x.T @ dz, "a": dz.sum(0), "B": (z**2).T @ d, "b": d.sum(0)}, dz @ p["A"].T


class Scale:
    """h = tanh(x s); out = h B + b"""

    uses = "sBb"

    @staticmethod
    def add_operations(plan, x, p):
        h = plan.op("activation", [plan.op("test_column_scale", [x], [p["s"]])], function="tanh")
        return plan.op("dense", [h], [p["B"], p["b"]])

    @staticmethod
    def forward(p, x):
        h = np.tanh(x * p["s"])
        return h, h @ p["B"] + p["b"]

    @staticmethod
    def backward(p, x, h, d):
        dv = (1 - h**2) * (d @ p["B"].T)
        return {"s": (x * dv).sum(0), "B": h.T @ d, "b": d.sum(0)}, dv * p["s"]


class Everything:
    """h = x; twice: h = h + ((h A + a) s)^2; out = (h + h + x) B + b"""

    uses = "AaBbs"

    @staticmethod
    def add_operations(plan, x, p):
        h = x
        for _ in range(2):
            v = plan.op("test_column_scale", [plan.op("dense", [h], [p["A"], p["a"]])], [p["s"]])
            h = plan.op("add", [h, plan.op("test_square", [v])])
        return plan.op("dense", [plan.op("add", [h, h, x])], [p["B"], p["b"]])

    @staticmethod
    def forward(p, x):
        h, z = [x], []
        for _ in range(2):
            z.append(h[-1] @ p["A"] + p["a"])
            h.append(h[-1] + (z[-1] * p["s"]) ** 2)
        return (h, z), (2 * h[2] + x) @ p["B"] + p["b"]

    @staticmethod
    def backward(p, x, kept, d):
        h, z = kept
        g = {"A": 0, "a": 0, "B": (2 * h[2] + x).T @ d, "b": d.sum(0), "s": 0}
        dx = d @ p["B"].T
        dh = 2 * dx
        for t in (1, 0):
            dv = 2 * z[t] * p["s"] * dh
            dz = dv * p["s"]
            g["A"], g["a"], g["s"] = g["A"] + h[t].T @ dz, g["a"] + dz.sum(0), g["s"] + (dv * z[t]).sum(0)
            dh = dh + dz @ p["A"].T
        return g, dx + dh


GRAPHS = [Residual, Shared, SharedTwelve, Square, Scale, Everything]
OPTIMIZERS = {
    "sgd": {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
}


class Problem:
    """A graph on `rows` rows with n inputs, its data, and its first theta."""

    def __init__(self, graph, n, rows, dtype="float64"):
        rng = np.random.default_rng(n)
        self.graph, self.n, self.rows, self.dtype = graph, n, rows, dtype
        self.shapes = {"A": (n, n), "a": (n,), "B": (n, N_OUT), "b": (N_OUT,), "s": (n,)}
        self.offsets = dict(
            zip(self.shapes, np.cumsum([0, *map(np.prod, self.shapes.values())]).tolist(), strict=False)
        )
        self.n_theta = sum(map(np.prod, self.shapes.values()))
        self.X = rng.uniform(-1, 1, (rows, n))
        self.y = np.sin(self.X @ rng.uniform(-1, 1, (n, N_OUT)))
        self.w = rng.integers(0, 4, rows).astype(float)  # some are 0
        self.order = rng.permutation(rows)
        self.theta = rng.uniform(-1, 1, self.n_theta) / np.sqrt(n)
        self.views(self.theta)["s"][...] *= 0.7 * np.sqrt(n)
        decayed = np.zeros(self.n_theta)
        self.views(decayed)["A"][...] = self.views(decayed)["B"][...] = 1
        self.decayed = decayed
        self.moved = np.zeros(self.n_theta, bool)
        for name in graph.uses:
            self.views(self.moved)[name][...] = True

    def views(self, vector):
        return {
            name: vector[self.offsets[name] :][: np.prod(shape)].reshape(shape) for name, shape in self.shapes.items()
        }

    def plan(self, flags, rows, threads):
        """The compiled plan, and the numbers of its input, target and weight."""
        plan = _core.Plan(self.dtype)
        x, y, w = plan.buffer(self.n), plan.buffer(N_OUT), plan.buffer(1)
        p = {}
        for name in self.graph.uses:
            shape = (*self.shapes[name], 1)[:2]
            p[name] = plan.param(self.offsets[name], *shape, decay=name in "AB")
        plan.loss("squared_error", self.graph.add_operations(plan, x, p), y)
        plan.compile(flags, rows, threads)
        return plan, x, y, w

    def start(self, flags, theta, rows, threads, outs=lambda plan, x: ()):
        plan, x, y, w = self.plan(flags, rows, threads)
        run = _core.Run(plan, theta)
        run.ports([(x, self.X), (y, self.y), (w, self.w)], outs(plan, x), weight=2)
        return run

    def cost(self, theta):
        run = self.start(EVALUATE, theta, self.rows, 1)
        run.begin(self.rows, self.rows)
        assert run.slice(1, 1e9) == _core.DONE
        loss, weight = run.progress()[:2]
        return loss / weight

    def gradient(self, theta, threads):
        """(dC/dtheta, w dE/dx) from the engine; NaN where nothing was written."""
        grad, dx = np.full(self.n_theta, np.nan, self.dtype), np.full(self.X.shape, np.nan, self.dtype)
        run = self.start(TRAIN | _core.INPUT_GRAD, theta, self.rows, threads, lambda plan, x: [(plan.grad(x), dx)])
        run.optimizer("gradient", (grad,))
        run.begin(self.rows, self.rows)
        while run.slice(threads, 1e9) == _core.PAUSED:
            pass
        return grad, dx

    def by_hand(self, theta, rows):
        """C, dC/dtheta and w dE/dx over `rows`, in NumPy."""
        p, x, w = self.views(theta), self.X[rows], self.w[rows, None]
        kept, out = self.graph.forward(p, x)
        grads, dx = self.graph.backward(p, x, kept, w * (out - self.y[rows]))
        g = np.zeros(self.n_theta)
        for name, value in grads.items():
            self.views(g)[name][...] = value / w.sum()
        return (w * (out - self.y[rows]) ** 2).sum() / 2 / w.sum(), g, dx

    def train(self, kind, batch, steps, threads):
        """theta and the states after `steps` steps, and the sum of w E, from the engine."""
        theta = self.theta.astype(self.dtype)
        states = tuple(np.zeros_like(theta) for _ in range(2 if kind == "adam" else 1))
        run = self.start(TRAIN | _core.optimizer_flags(kind, **OPTIMIZERS[kind]), theta, batch, threads)
        run.optimizer(kind, states, **OPTIMIZERS[kind])
        losses = []
        while run.progress()[5] < steps:
            run.begin(self.rows, batch, self.order)
            assert run.slice(threads, 1e9, steps - run.progress()[5]) in (_core.PAUSED, _core.DONE)
            losses.append(run.progress()[0])
        assert run.progress()[5] == steps == run.updates()
        return theta, states, losses

    def train_by_hand(self, kind, batch, steps):
        theta, state, options = self.theta.copy(), {}, dict(OPTIMIZERS[kind])
        options["weight_decay"] = options["weight_decay"] * self.decayed
        update = getattr(ref, kind)
        for step in range(steps):
            at = step * batch % (-(-self.rows // batch) * batch)
            g = self.by_hand(theta, self.order[at : at + batch])[1]
            update(theta, g, state, **options)
        theta[~self.moved] = self.theta[~self.moved]
        return theta


# ---- training ----


@pytest.mark.parametrize("mode", ["owners", "shards"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_gradient_is_that_of_central_differences_and_of_the_hand(graph, mode, force):
    problem, h = Problem(graph, 5, 130), 1e-5
    theta = problem.theta
    force(True, mode)
    grad, dx = problem.gradient(theta, 3)
    force(False, "")
    _, by_hand, dx_by_hand = problem.by_hand(theta, slice(None))
    np.testing.assert_array_equal(np.isnan(grad), ~problem.moved)
    used = problem.moved.nonzero()[0]
    assert distance(grad[used], by_hand[used]) <= 1e-14
    assert distance(dx, dx_by_hand) <= 1e-14
    differences = [
        (problem.cost(theta + h * unit) - problem.cost(theta - h * unit)) / (2 * h)
        for unit in np.eye(problem.n_theta)[used]
    ]
    assert distance(grad[used], differences) <= 1e-8


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("mode", ["owners", "shards"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_fifty_steps_are_those_of_the_hand_on_any_threads(graph, mode, kind, force):
    problem = Problem(graph, 5, 640)  # five batches, the last of 120 rows
    force(True, mode)
    assert bool(problem.plan(TRAIN, 130, 1)[0].describe()["shards"]) == (mode == "shards")
    trained = {}
    for threads in (1, 2, 3, 4):
        _core.pool_tasks_reset()
        trained[threads] = problem.train(kind, 130, 50, threads)
        worked = [count > 0 for count in _core.pool_tasks(8)]
        assert sum(worked) >= min(threads, 3) and not any(worked[threads:])  # three tiles, three parameters or more
    theta, states, losses = trained[1]
    assert np.abs(theta - problem.train_by_hand(kind, 130, 50)).max() <= 1e-13
    assert losses[-1] < 0.9 * losses[0]
    for theta_n, states_n, losses_n in trained.values():
        assert theta_n.tobytes() == theta.tobytes() and losses_n == losses
        assert [s.tobytes() for s in states_n] == [s.tobytes() for s in states]


@pytest.mark.parametrize("graph", GRAPHS)
def test_wide_graphs_run_on_grids_to_the_same_steps(graph, force):
    problem = Problem(graph, 200, 700)  # 200 x 200 float64 weights are a grid; the batch is two tiles of rows
    force(True, "owners")
    stages = problem.plan(TRAIN, 300, 1)[0].describe()["n_stages"]
    assert stages == 1 if graph is Scale else stages >= 3
    one = problem.train("sgd", 300, 6, 1)
    assert np.abs(one[0] - problem.train_by_hand("sgd", 300, 6)).max() <= 1e-13
    for threads in (2, 3, 4):
        more = problem.train("sgd", 300, 6, threads)
        assert more[0].tobytes() == one[0].tobytes() and more[2] == one[2]


def test_a_registered_operation_with_many_weights_is_a_grid(force):
    rng = np.random.default_rng(0)
    n, rows = 33_000, 7
    x, s = rng.uniform(-1, 1, (rows, n)), rng.uniform(-1, 1, n)
    force(True, "owners")
    found = []
    for threads in (1, 2, 3, 4):
        plan = _core.Plan("float64")
        a, y = plan.buffer(n), plan.buffer(n)
        out = plan.op("test_square", [plan.op("test_column_scale", [a], [plan.param(0, n, 1, False)])])
        plan.loss("squared_error", out, y)
        plan.compile(TRAIN, rows, threads)
        assert plan.describe()["n_stages"] >= 2
        grad = np.zeros(n)
        run = _core.Run(plan, s)
        run.ports([(a, x), (y, x)])
        run.optimizer("gradient", (grad,))
        run.begin(rows, rows)
        assert run.slice(threads, 1e9) == _core.DONE
        found.append((grad, run.progress()[0]))
    v = s * x
    by_hand = (2 * v * (v**2 - x) * x).mean(0)
    assert distance(found[0][0], by_hand) <= 1e-14
    assert all(grad.tobytes() == found[0][0].tobytes() and c == found[0][1] for grad, c in found)


@pytest.mark.parametrize("mode", ["owners", "shards"])
@pytest.mark.parametrize("rows", [1, 7, 70])
def test_one_parameter_may_be_several_blocks(rows, mode, force):
    n = 33_000  # of W [n, 3], and of B [3, n] with its bias
    rng = np.random.default_rng(0)
    x, W, B, b = (rng.uniform(-1, 1, shape) for shape in ((rows, n), (n, 3), (3, n), (n,)))
    theta = np.concatenate([W.ravel(), B.ravel(), b])
    force(True, mode)
    found = []
    for threads in (1, 3, 4):
        plan = _core.Plan("float64")
        a, y = plan.buffer(n), plan.buffer(n)
        h = plan.op("dense", [a], [plan.param(0, n, 3, True)])
        out = plan.op("dense", [h], [plan.param(3 * n, 3, n, True), plan.param(6 * n, n, 1, False)])
        plan.loss("squared_error", out, y)
        plan.compile(TRAIN, rows, threads)
        found.append(np.zeros_like(theta))
        run = _core.Run(plan, theta)
        run.ports([(a, x), (y, x)])
        run.optimizer("gradient", (found[-1],))
        run.begin(rows, rows)
        assert run.slice(threads, 1e9) == _core.DONE
    d = (x @ W @ B + b - x) / rows
    by_hand = np.concatenate([(x.T @ (d @ B.T)).ravel(), ((x @ W).T @ d).ravel(), d.sum(0)])
    assert distance(found[0], by_hand) <= 2e-14
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


@pytest.mark.parametrize("mode", ["owners", "shards"])
@pytest.mark.parametrize("graph", [Residual, SharedTwelve, Everything])
def test_batches_of_several_chunks_are_one_batch(graph, mode, force):
    problem = Problem(graph, 5, 40_000)
    force(True, mode)
    assert problem.plan(TRAIN, 40_000, 1)[0].describe()["chunk_rows"] < 20_000
    one, four = (problem.gradient(problem.theta, threads) for threads in (1, 4))
    assert one[0].tobytes() == four[0].tobytes() and one[1].tobytes() == four[1].tobytes()
    _, by_hand, dx = problem.by_hand(problem.theta, slice(None))
    assert distance(one[0][problem.moved], by_hand[problem.moved]) <= 1e-12
    assert distance(one[1], dx) <= 1e-14


@pytest.mark.parametrize("graph", GRAPHS)
def test_float32_is_float64_rounded(graph, force):
    problem = Problem(graph, 5, 130, "float32")
    force(True, "shards")
    grad, dx = problem.gradient(problem.theta.astype("float32"), 2)
    _, by_hand, dx_by_hand = problem.by_hand(problem.theta, slice(None))
    assert distance(grad[problem.moved], by_hand[problem.moved]) <= 2e-6
    assert distance(dx, dx_by_hand) <= 2e-6


# ---- how the work is cut ----


def chain(widths, rows, threads, flags=TRAIN, dtype="float32", function=None):
    """A compiled chain of dense layers with tanh, or a function of the user's, after the first."""
    plan = _core.Plan(dtype)
    a, at = plan.buffer(widths[0]), 0
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        a = plan.op("dense", [a], [plan.param(at, n_in, n_out, True)])
        at += n_in * n_out
        if n_in == widths[0]:
            a = plan.op("python_function", [a], function=function) if function else a
            a = a if function else plan.op("activation", [a], function="tanh")
    plan.loss("squared_error", a, plan.buffer(widths[-1]))
    plan.compile(flags, rows, threads)
    return plan.describe()


SHAPES = [
    ((2, 8, 1), 4),
    ((4, 16, 3), 16),
    ((64, 64, 10), 32),
    ((64, 64, 10), 4096),
    ((784, 128, 10), 64),
    ((784, 512, 512, 10), 128),
    ((2, 3, 1), 40_000),
    ((300, 2000, 7), 20_000),
]


@pytest.mark.parametrize("widths, rows", SHAPES)
def test_cuts_are_functions_of_shapes_alone(widths, rows, force):
    for dtype in ("float32", "float64"):
        for flags in (TRAIN, EVALUATE):
            for parallel in (False, True):
                force(parallel, "")
                cuts = [chain(widths, rows, threads, flags, dtype) for threads in (1, 2, 3, 4, 7, 64)]
                for cut in cuts:
                    del cut["arena_bytes"], cut["unshared_bytes"]  # scratch for each thread
                assert all(cut == cuts[0] for cut in cuts)


def test_shards_are_for_small_nets_on_large_batches(force):
    force(False, "")
    shards = {(widths, rows): chain(widths, rows, 2)["shards"] for widths, rows in SHAPES}
    assert [rows for (_, rows), n in shards.items() if n] == [4096, 40_000]
    assert max(shards.values()) <= 16
    force(False, "owners")
    assert not any(chain(widths, rows, 2)["shards"] for widths, rows in SHAPES)
    force(False, "shards")
    assert all(chain(widths, rows, 2)["shards"] for widths, rows in SHAPES)
    f = (np.tanh, np.cosh)  # a user's function sees the whole chunk at once
    assert not any(chain(widths, rows, 2, function=f)["shards"] for widths, rows in SHAPES)


def test_chunks_are_even_and_bounded(force):
    force(False, "")
    for rows in (1, 2, 63, 64, 65, 16_384, 16_385, 50_000, 1_000_000):
        chunk = chain((2, 3, 1), rows, 2)["chunk_rows"]
        n = -(-rows // chunk)
        assert chunk <= 16_384 and n == -(-rows // 16_384)
        assert chunk < rows / n + 64
    assert chain((2000, 2000, 10), 16_384, 2)["chunk_rows"] < 4000  # about 50 ms of one core a stage
    assert chain((2000, 2000, 10), 100, 2)["chunk_rows"] >= 100


def test_memory_for_inference_does_not_grow_with_rows(force):
    force(False, "")
    few, many = (chain((784, 512, 10), rows, 2, _core.FORWARD)["arena_bytes"] for rows in (1000, 10**9))
    assert many <= few + 16_384 * 8
    assert chain((784, 512, 10), 10, 2)["arena_bytes"] < 4e6


def test_flops_are_counted():
    dense = 2 * (784 * 100 + 100 * 10)
    forward, training = (chain((784, 100, 10), 50, 1, flags)["flops"] for flags in (EVALUATE, TRAIN))
    assert dense < forward / 50 < 2 * dense  # and something for tanh
    assert training == pytest.approx(3 * forward)


# ---- what is refused ----


def refused(make):
    plan = _core.Plan("float64")
    x, wide, labels = plan.buffer(4), plan.buffer(5), plan.buffer(1, integer=True)
    W, b, b4 = plan.param(0, 4, 3, True), plan.param(12, 3, 1, False), plan.param(15, 4, 1, False)
    out = plan.op("dense", [x], [W, b])
    with pytest.raises(ValueError):
        make(plan, {"x": x, "wide": wide, "labels": labels, "W": W, "b": b, "b4": b4, "out": out})


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda p, k: p.op("no such", [k["x"]]), id="name of an operation"),
        pytest.param(lambda p, k: p.op("dense", [k["wide"]], [k["W"]]), id="input of another width"),
        pytest.param(lambda p, k: p.op("dense", [k["x"]], [k["W"], k["b4"]]), id="bias of another width"),
        pytest.param(lambda p, k: p.op("dense", [k["x"]], []), id="dense without weights"),
        pytest.param(lambda p, k: p.op("dense", [k["labels"]], [k["W"]]), id="dense of integers"),
        pytest.param(lambda p, k: p.op("dense", [99], [k["W"]]), id="buffer that is not there"),
        pytest.param(lambda p, k: p.op("dense", [k["x"]], [99]), id="parameter that is not there"),
        pytest.param(lambda p, k: p.op("add", [k["x"], k["wide"]]), id="sum of two widths"),
        pytest.param(lambda p, k: p.op("add", []), id="sum of nothing"),
        pytest.param(lambda p, k: p.op("add", [k["x"]] * 9), id="sum of nine"),
        pytest.param(lambda p, k: p.op("activation", [k["x"]], function="no such"), id="name of an activation"),
        pytest.param(lambda p, k: p.op("test_column_scale", [k["x"]], [k["b"]]), id="scale of another width"),
        pytest.param(lambda p, k: p.op("test_square", [k["x"]], [k["b"]]), id="square with a weight"),
        pytest.param(lambda p, k: p.loss("no such", k["out"], k["out"]), id="name of a loss"),
        pytest.param(lambda p, k: p.loss("mse", k["out"], k["wide"]), id="target of another width"),
        pytest.param(lambda p, k: p.loss("mse", k["out"], k["labels"]), id="labels for a loss of reals"),
        pytest.param(lambda p, k: p.loss("mse", 99, k["out"]), id="loss of no buffer"),
        pytest.param(lambda p, k: p.loss("huber", k["out"], k["out"]), id="loss without its setting"),
        pytest.param(lambda p, k: p.loss("gaussian_nll", k["out"], k["out"]), id="a target as wide as its two parts"),
        pytest.param(lambda p, k: p.loss("quantile", k["out"], k["out"], (0.1, 0.9)), id="outputs of one level"),
        pytest.param(lambda p, k: p.compile(_core.FORWARD, 0, 1), id="no rows"),
        pytest.param(lambda p, k: p.compile(_core.FORWARD, 8, 0), id="no threads"),
        pytest.param(lambda p, k: p.compile(_core.FORWARD, 8, 257), id="too many threads"),
        pytest.param(lambda p, k: p.compile(TRAIN, 8, 1), id="training without a loss"),
        pytest.param(lambda p, k: [p.compile(_core.FORWARD, 8, 1) for _ in range(2)], id="compiled twice"),
        pytest.param(lambda p, k: (p.buffer(2**58), p.compile(_core.FORWARD, 4096, 1)), id="beyond the address space"),
    ],
)
def test_what_does_not_fit_is_refused(make):
    refused(make)


def test_a_name_is_registered_once(library):
    with pytest.raises(ValueError, match="name is taken"):
        _core.register_operation(ctypes.addressof(ctypes.c_char.in_dll(library, "test_square")))
