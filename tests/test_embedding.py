"""Embedding: values, gradients, the rows that training moves, its bits, and what divergence undoes."""

import numpy as np
import pytest
from conftest import distance
from optimizers import every_optimizer, every_plain_optimizer, every_unbounded_optimizer, move

import bpcore as bp
from bpcore import _plans

RNG = np.random.default_rng(0)
MODES = [(False, ""), (True, ""), (True, "owners"), (True, "shards")]


def linear(n=30, units=3, positions=4, dtype="float64", seed=1):
    """squared_error, a mean over positions, on the embedded numbers themselves: dC/dE is what a row says."""
    words = bp.Input(positions, integer=True)
    return bp.Network(words, bp.Embedding(n, units, name="table")(words), dtype=dtype, seed=seed)


def mixed(n=60, dtype="float64", seed=1):
    """Two inputs; one table is read twice, another once; dense layers after them."""
    words, numbers, other = bp.Input((2, 3), integer=True), bp.Input(2), bp.Input(1, integer=True)
    table, second = bp.Embedding(n, 4, name="words"), bp.Embedding(9, 2, name="other")
    again = bp.Input(2, integer=True, name="again")
    parts = [bp.Reshape(-1)(table(words)), numbers, bp.Reshape(-1)(second(other)), bp.Reshape(-1)(table(again))]
    h = bp.Dense(8, "tanh")(bp.concat(parts))
    return bp.Network([words, numbers, other, again], bp.Dense(3, "softmax")(h), dtype=dtype, seed=seed)


def rows(net, n, high=60):
    X = [RNG.integers(0, high, (n, 2, 3)), RNG.normal(size=(n, 2)), RNG.integers(0, 9, (n, 1)),
         RNG.integers(0, high, (n, 2))]  # fmt: skip
    return X, RNG.integers(0, 3, n)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values(shape, dtype):
    words = bp.Input(shape, integer=True)
    net = bp.Network(words, bp.Embedding(7, 3)(words), dtype=dtype, seed=2)
    for kind in (np.int64, np.uint8, ">i2"):
        X = RNG.integers(0, 7, (70, *shape)).astype(kind)
        answers = net.predict(X)
        assert answers.shape == (70, *shape, 3)
        assert (answers == net.params["embedding_1.E"][X]).all()
        assert (net.predictor()(X) == answers).all()
    assert abs(net.params["embedding_1.E"].std() - 1) < 0.4


def test_gradients():
    net = mixed(12)
    for weight in (None, RNG.random(5)):
        X, y = rows(net, 5, 12)
        assert max(bp.check_gradients(net, X, y, sample_weight=weight).values()) < 1e-7
    net.frozen = {"words"}
    gradient = net.value_and_grad(X, y)[1]
    p = net._model.graph.parameters["words.E"]
    assert (gradient[p.offset : p.offset + p.rows * p.cols] == 0).all() and gradient.any()


@pytest.mark.parametrize("n", [70, 3000])
def test_the_gradient_is_that_of_one_hot_vectors(force, n):
    force(True, "")
    net = linear(n, 5)
    X, y = RNG.integers(0, n, (700, 4)), RNG.normal(size=(700, 4, 5))
    weight = RNG.random(700)
    gradient = net.value_and_grad(X, y, sample_weight=weight)[1].reshape(n, 5)
    want = np.zeros((n, 5))
    np.add.at(want, X, (net.params["table.E"][X] - y) / 4 * (weight / weight.sum())[:, None, None])
    assert distance(gradient, want) < 1e-13


class Oracle:
    """The optimisers of tests/optimizers.py on the rows of a batch alone."""

    def __init__(self, optimizer, E):
        self.optimizer, self.E = optimizer, E.copy()
        self.t, self.states = None, {}  # arrays shaped as E, by name

    def step(self, X, y, weight):
        gradient = np.zeros_like(self.E)
        np.add.at(gradient, X, (self.E[X] - y) / 4 * (weight / weight.sum())[:, None, None])
        k = np.unique(X)
        rows, state = self.E[k], {name: array[k] for name, array in self.states.items()}
        if self.t is not None:
            state["t"] = self.t
        move(self.optimizer, [(rows, True)], [gradient[k]], [state])
        self.E[k], self.t = rows, state.pop("t", None)
        for name, array in state.items():
            self.states.setdefault(name, np.zeros_like(self.E))[k] = array


@every_plain_optimizer
@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("n, batch", [(30, 8), (30, 100), (3000, 8), (3000, 150)])
def test_only_named_rows_move(force, always, phase2, n, batch, optimizer):
    force(always, phase2)
    net = linear(n)
    X, y, weight = RNG.integers(0, n, (150, 4)), RNG.normal(size=(150, 4, 3)), RNG.random(150)
    X[:, 1] = X[:, 0]  # each number twice in its row
    oracle = Oracle(optimizer, net.params["table.E"])
    net.fit(X, y, optimizer=optimizer, batch_size=batch, epochs=2, shuffle=False, sample_weight=weight)
    for _ in range(2):
        for at in range(0, 150, batch):
            oracle.step(*(a[at : at + batch] for a in (X, y, weight)))
    assert distance(net.params["table.E"], oracle.E) < 1e-12
    own = net._model.memory.states[: len(optimizer.states) - (optimizer.ema is not None)]  # the average: test_ema.py
    for state, want in zip(own, oracle.states.values(), strict=False):
        assert distance(state.reshape(n, 3), want) < 1e-12
    untouched = np.setdiff1d(np.arange(n), X)
    assert n == 30 or len(untouched) > 1000
    assert (net.params["table.E"][untouched] == linear(n).params["table.E"][untouched]).all()


@pytest.mark.parametrize("n", [40, 50_000])
def test_a_batch_of_several_chunks(n):
    """The gradient of a row adds up over chunks, and the row moves once."""
    X, y = RNG.integers(0, n, (40_000, 4)), RNG.normal(size=(40_000, 4, 3))
    net = linear(n)
    oracle = Oracle(bp.SGD(lr=0.5), net.params["table.E"])
    net.fit(X, y, optimizer=bp.SGD(lr=0.5), batch_size=None, epochs=2)
    (entry,) = net._model.plans.entries.values()
    assert entry.compiled.plan.describe()["chunk_rows"] < 40_000
    for _ in range(2):
        oracle.step(X, y, np.ones(40_000))
    assert distance(net.params["table.E"], oracle.E) < 1e-12


@pytest.mark.parametrize("always, phase2", MODES)
def test_what_was_looked_up_is_not_kept(force, always, phase2):
    """Its way back reads the numbers alone: another buffer takes the place of the rows of E, of both tables."""
    force(always, phase2)

    def make(dtype="float32"):
        x = bp.Input(10, integer=True)
        h = bp.Activate("tanh")(bp.Embedding(50, 16)(x)) + bp.Activate("logistic")(bp.Embedding(50, 16)(x))
        return bp.Network(x, bp.Dense(2)(bp.Reshape(-1)(bp.Dense(16, "relu")(h))), dtype=dtype)

    _, reused, apart = _plans.memory(make()._model, 64)
    assert always or apart - reused >= 4 * 64 * 10 * 16 * 4
    X, y = RNG.integers(0, 50, (64, 10)), RNG.normal(size=(64, 2))
    assert max(bp.check_gradients(make(), X[:5], y[:5]).values()) < 1e-6
    found = []
    for n_threads in (1, 2, 3):
        net = make()
        net.fit(X, y, batch_size=25, epochs=2, optimizer=bp.Adam(lr=0.01), n_threads=n_threads)
        found.append((net.theta.tobytes(), net.value_and_grad(X, y, n_threads=n_threads)[1].tobytes()))
    assert found[0] == found[1] == found[2]


@every_optimizer
@pytest.mark.parametrize("always, phase2", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads(force, always, phase2, dtype, optimizer):
    force(always, phase2)
    X, y = rows(mixed(), 333, 600)
    found = []
    for n_threads in (1, 2, 3):
        net = mixed(600, dtype)
        loss = net.fit(X, y, optimizer=optimizer, batch_size=100, epochs=3, n_threads=n_threads).loss
        states = [state.tobytes() for state in net._model.memory.states]
        found.append((net.theta.tobytes(), states, loss, net.value_and_grad(X, y, n_threads=n_threads)[1].tobytes()))
    assert found[0] == found[1] == found[2]


@every_optimizer
def test_resumed_from_a_file(optimizer, tmp_path):
    X, y = rows(mixed(), 90)
    whole, parts = mixed(), mixed()
    whole.fit(X, y, optimizer=optimizer, epochs=4, batch_size=20)
    parts.fit(X, y, optimizer=optimizer, epochs=2, batch_size=20)
    parts.save(tmp_path / "net")
    parts = bp.load(tmp_path / "net")
    parts.fit(X, y, optimizer=optimizer, epochs=2, batch_size=20)
    assert parts.theta.tobytes() == whole.theta.tobytes()
    with pytest.raises(ValueError, match="from 0 to 59"):
        parts.predict([X[0] + 60, *X[1:]])


@every_unbounded_optimizer
@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("n", [60, 40_000, 1_000_000])
@pytest.mark.parametrize("at", [0, 1, 7, 29])
def test_divergence_goes_back_to_the_last_finite_step(force, at, n, always, optimizer):
    """Row 17 overflows in step `at`; the safety copy and the log of old rows bring all others back."""
    force(always, "")
    top = np.finfo(np.float32).max
    loss = bp.Loss(lambda a, y: np.zeros(len(a)), lambda a, y: y)

    def make():
        words = bp.Input(4, integer=True)
        net = bp.Network(words, bp.Bias()(bp.Embedding(n, 3, init="ones")(words)), seed=0)
        net.params["embedding_1.E"][17] = top
        return net

    def fit(net, rows):
        settings = {"batch_size": 10, "shuffle": False, "check_finite": False}
        net.fit(X[:rows], y[:rows], optimizer=optimizer, loss=loss, **settings)

    X, y = RNG.integers(18, n, (300, 4)), RNG.normal(size=(300, 4, 3))
    X[:, 3] %= 17
    X[10 * at, 0], y[10 * at, 0] = 17, -np.inf  # some rules make a small step of any finite gradient
    net, whole = make(), make()
    with pytest.raises(bp.DivergenceError):
        fit(net, 300)
    if at:
        fit(whole, 10 * at)
    assert net.theta.tobytes() == whole.theta.tobytes() and net.step == at
    X[10 * at, 0], y[10 * at, 0] = 16, 1
    for one in (net, whole):  # and all goes on from there
        one._model.memory = bp._optimizers.Memory()
        fit(one, 300)
    assert net.theta.tobytes() == whole.theta.tobytes()


def test_wrong_numbers():
    net = linear(5)
    y = np.zeros((3, 4, 3))
    good = np.array([[0, 1, 2, 3], [4, 4, 4, 4], [0, 0, 0, 0]])
    for bad in (-1, 5, 2**40):
        X = good.copy()
        X[1, 2] = bad
        for call in (lambda X=X: net.predict(X), lambda X=X: net.fit(X, y), lambda X=X: net.value_and_grad(X, y),
                     lambda X=X: net.fit(X, y, check_finite=False), lambda X=X: net.evaluate(X, y)):  # fmt: skip
            with pytest.raises(ValueError, match=r"X: expected numbers from 0 to 4; X\[1, 2\] is"):
                call()
        with pytest.raises(ValueError, match="x: expected whole numbers from 0 to n - 1 .* net.predict"):
            net.predictor()(X)
        with pytest.raises(ValueError, match="x: expected whole numbers from 0 to n - 1 .* net.predict"):
            net.predictor()(X[1])
    with pytest.raises(ValueError, match="x: expected whole numbers from 0 to n - 1 .* net.predict"):
        net.predictor()(good + 0.5)
    with pytest.raises(TypeError, match="whole numbers"):
        net.predict(good.astype(float))
    for layer, error, words in [
        (lambda: bp.Embedding(0, 3), ValueError, "n: expected an integer from 1"),
        (lambda: bp.Embedding(3, 0), ValueError, "units: expected"),
        (lambda: bp.Embedding(3, 2.5), TypeError, "units: expected an integer"),
        (lambda: bp.Embedding(3, 2, init="uniform"), ValueError, "init: there is no"),
        (lambda: bp.Embedding(3, 2)(bp.Input(4)), ValueError, "integer=True"),
        (lambda: bp.Dense(3)(bp.Input(4, integer=True)), ValueError, "Embedding first"),
        (lambda: bp.Embedding(3, 2)(bp.Input((1, 2, 3, 4), integer=True)), ValueError, "at most 3 axes"),
        (lambda: bp.Network([bp.Input(2, integer=True), bp.Embedding(3, 2, init=np.ones((2, 3)))]), ValueError, "init"),
    ]:
        with pytest.raises(error, match=words):
            layer()


def test_the_least_table_says_what_numbers_are_right():
    words = bp.Input(2, integer=True)
    net = bp.Network(words, [bp.Embedding(9, 2)(words), bp.Embedding(4, 3)(words)])
    with pytest.raises(ValueError, match="from 0 to 3"):
        net.predict([[4, 0]])


def test_a_number_that_turns_bad_while_fit_runs():
    net = linear(5)
    X, y = RNG.integers(0, 5, (40, 4)), np.zeros((40, 4, 3))
    kept = {}

    def spoil(state):
        X[30, 2] = 1000
        kept["theta"] = state.net.theta.copy()

    with pytest.raises(ValueError, match="a number of X for an Embedding"):
        net.fit(X, y, epochs=3, batch_size=None, callbacks=spoil)
    assert net.theta.tobytes() == kept["theta"].tobytes()


def test_init():
    E = RNG.normal(size=(6, 2))
    words = bp.Input(1, integer=True)
    for init, want in (("zeros", 0), ("ones", 1), (E, E)):
        net = bp.Network(words, bp.Embedding(6, 2, init=init)(words), dtype="float64")
        assert (net.params["embedding_1.E"] == want).all()
    big = bp.Network(words, bp.Embedding(5000, 4)(words), seed=3).params["embedding_1.E"]
    assert abs(big.mean()) < 0.03 and abs(big.std() - 1) < 0.02
