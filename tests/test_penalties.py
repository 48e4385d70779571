"""l1, l2, max_norm and lr_scale of layers and l2 of fit, against plain loops in NumPy, for every optimiser and home."""

import copy
import pickle

import numpy as np
import pytest
import reference as ref
from conftest import distance, flat, oracle
from optimizers import OPTIMIZERS, every_plain_optimizer, move

import bpcore as bp
from bpcore import _core, _plans
from bpcore._data import Data

TOLERANCE = 1e-11  # of theta and losses after some dozens of steps in float64
RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(150, 5)), RNG.integers(0, 3, 150), RNG.uniform(0.2, 2, 150)
OPTIONS = [{"l1": 0.01, "max_norm": 0.8}, {"l2": 0.05, "lr_scale": 0.5}, {"l1": 0.003, "l2": 0.02}]
L2 = 0.01  # fit's


def network(options=OPTIONS, width=9, dtype="float64", **settings):
    layers = [bp.Dense(width, "tanh", **options[0]), bp.Dense(7, "relu", **options[1])]
    return bp.Network([bp.Input(5), *layers, bp.Dense(3, "softmax", **options[2])], dtype=dtype, seed=4, **settings)


def penalty(W, l1, l2):
    return l1 * abs(W).sum() + l2 / 2 * (W**2).sum()


def of_layers(net, l2=0.0):
    """The penalties of a chain of dense layers, and their gradient in the order of theta."""
    layers = net.layers[1:]
    total = sum(penalty(W.astype(float), layer.l1, layer.l2 + l2) for W, layer in zip(net.W[1:], layers, strict=True))
    dW = [layer.l1 * np.sign(W) + (layer.l2 + l2) * W for W, layer in zip(net.W[1:], layers, strict=True)]
    return total, flat([None, *dW], [None, *(np.zeros_like(b) for b in net.b[1:])])


def oracle_fit(net, X, y, w, optimizer, epochs, batch, l2=0.0):
    """theta, and the loss of each epoch: of each batch as it was trained, penalties included."""
    W, b, names = oracle(net)
    layers, history = net.layers, []
    keys = [(k, p) for k in range(1, len(W)) for p in "Wb"]
    states = [{} for _ in keys]
    for _ in range(epochs):
        total = 0.0
        for first in range(0, len(X), batch):
            rows = slice(first, first + batch)
            zs = ref.forward(W, b, names, X[rows])
            C, _, dW, db, _ = ref.backward(W, names, *zs, y[rows], "cross_entropy", w[rows])
            C += sum(penalty(W[k], layers[k].l1, layers[k].l2 + l2) for k in range(1, len(W)))
            total += C * w[rows].sum()
            for k in range(1, len(W)):
                dW[k] += layers[k].l1 * np.sign(W[k]) + (layers[k].l2 + l2) * W[k]
            params = [((W if p == "W" else b)[k], p == "W") for k, p in keys]
            rates = [optimizer.lr * layers[k].lr_scale for k, _ in keys]
            move(optimizer, params, [(dW if p == "W" else db)[k] for k, p in keys], states, rates)
            for k in range(1, len(W)):
                most = layers[k].max_norm or np.inf
                norm = np.linalg.norm(W[k], axis=1, keepdims=True)
                W[k] *= np.where(norm > most, most / norm, 1)
        history.append(total / w.sum())
    return flat(W, b), history


def check_fit(net, optimizer, batch, epochs, l2=0.0, data=(X, Y, W), **settings):
    inputs, y, w = data
    theta, losses = oracle_fit(net, inputs, y, w, optimizer, epochs, batch, l2)
    history = net.fit(inputs, y, sample_weight=w, optimizer=optimizer, batch_size=batch, epochs=epochs, shuffle=False,
                      l2=l2, **settings)  # fmt: skip
    assert distance(net.theta, theta) <= TOLERANCE
    np.testing.assert_allclose(history.loss, losses, rtol=TOLERANCE)


@every_plain_optimizer
@pytest.mark.parametrize("mode", ["", "owners", "shards", "threads", "blas"])
def test_training_is_the_oracles(force, mode, optimizer):
    """Small steps that are lists of calls, blocks with owners, shards; clip_norm bounds a norm with penalties."""
    force(mode != "", mode if mode in ("owners", "shards") else "", mode if mode == "blas" else "")
    for batch, epochs in ((7, 1), (150, 8)):
        check_fit(network(), optimizer, batch, epochs, l2=L2, n_threads=2 if mode else 1)


@pytest.mark.parametrize("optimizer", [OPTIMIZERS["sgd"], OPTIMIZERS["clip_norm"], OPTIMIZERS["adam"]], ids=str)
def test_wide_layers_and_batches_of_several_chunks(force, optimizer):
    """Cells of 256 rows by 240 columns, and gradients that are kept; plain SGD moves other layers in registers."""
    force(True, "", "")
    options = [OPTIONS[0], {"max_norm": 0.5}, {}]
    big = RNG.normal(size=(17_000, 5)), RNG.integers(0, 3, 17_000), RNG.uniform(0.2, 2, 17_000)
    check_fit(network(options, width=700), optimizer, 75, 1, n_threads=2)
    check_fit(network(options, width=300), optimizer, 150, 2, l2=L2, n_threads=2)
    check_fit(network(options), optimizer, 17_000, 2, data=big, n_threads=2)


def test_no_bit_depends_on_threads(force):
    force(True, "", "")
    ends = []
    for n_threads in (1, 2, 3, 4, 7):
        net = network([OPTIONS[0], *OPTIONS[1:]], width=300, dtype="float32")
        history = net.fit(X, Y, optimizer=bp.Adam(clip_norm=0.1), batch_size=64, epochs=2, l2=L2, n_threads=n_threads)
        ends.append((net.theta.tobytes(), history.loss))
    assert all(end == ends[0] for end in ends)


def test_what_knows_the_penalties():
    """evaluate, value_and_grad, backward, hvp: of the layers; val_loss: of fit as well; a frozen layer has none."""
    net = network()
    bare = network([{}, {}, {}])
    bare.theta = net.theta
    P, dP = of_layers(net)
    C, grad = bare.value_and_grad(X, Y, sample_weight=W)
    got = net.value_and_grad(X, Y, sample_weight=W)
    assert got[0] == pytest.approx(C + P, rel=1e-14) and distance(got[1], grad + dP) < 1e-14
    grads = net.backward(net.forward(X), Y, sample_weight=W)
    assert grads.loss == pytest.approx(C + P, rel=1e-14) and distance(grads.theta, grad + dP) < 1e-14
    assert net.evaluate(X, Y, sample_weight=W)["loss"] == pytest.approx(C + P, rel=1e-14)
    v, h = RNG.normal(size=net.n_params), 1e-5
    ends = []
    for step in (h, -h):
        moved = net.copy()
        moved.theta += step * v
        ends.append(moved.value_and_grad(X, Y)[1])
    assert distance(net.hvp(X, Y, v), (ends[0] - ends[1]) / (2 * h)) < 1e-8
    more = net.gauss_newton_product(X, Y, v) - bare.gauss_newton_product(X, Y, v)
    assert distance(more, net.hvp(X, Y, v) - bare.hvp(X, Y, v)) < 1e-12
    assert max(bp.check_gradients(net, X, Y).values()) < 1e-7
    np.testing.assert_array_equal(net.per_sample_gradients(X, Y), bare.per_sample_gradients(X, Y))
    history = net.fit(X, Y, epochs=1, l2=L2, validation_data=(X, Y), optimizer=bp.SGD(lr=0.1))
    bare.theta = net.theta
    assert history.val_loss[0] == pytest.approx(bare.evaluate(X, Y)["loss"] + of_layers(net, L2)[0], rel=1e-14)
    net.frozen = {"dense_1", "dense_2", "dense_3"}
    assert net.evaluate(X, Y) == bare.evaluate(X, Y) and net.value_and_grad(X, Y)[0] == bare.value_and_grad(X, Y)[0]
    assert net.fit(X, Y, l2=L2, batch_size=None, epochs=1).loss[0] == pytest.approx(bare.evaluate(X, Y)["loss"], 1e-14)


SEQUENCES = {
    "conv2d": ((6, 6, 2), lambda **o: [bp.Conv2D(4, 3, "tanh", **o), bp.Reshape(-1)]),
    "conv1d": ((6, 2), lambda **o: [bp.Conv1D(4, 3, "tanh", **o), bp.Reshape(-1)]),
    "time_delay": ((6, 2), lambda **o: [bp.TimeDelay(4, 3, "tanh", **o), bp.Reshape(-1)]),
    "rnn": ((6, 2), lambda **o: [bp.SimpleRNN(4, **o)]),
    "lstm": ((6, 2), lambda **o: [bp.LSTM(4, **o)]),
    "gru": ((6, 2), lambda **o: [bp.GRU(4, **o)]),
}


@pytest.mark.parametrize("checkpoint", [None, True])
@pytest.mark.parametrize("name", SEQUENCES)
def test_every_layer_with_weights(name, checkpoint):
    """One step is SGD on value_and_grad, times lr_scale, then bounded; biases have no penalty."""
    shape, make = SEQUENCES[name]
    data, y = RNG.normal(size=(20, *shape)), RNG.normal(size=(20, 2))
    options = {"l1": 0.01, "l2": 0.03, "max_norm": 0.5, "lr_scale": 0.5}
    net, bare = (bp.Network([bp.Input(shape), *make(**o), bp.Dense(2)], dtype="float64", seed=1, checkpoint=checkpoint)
                 for o in (options, {}))  # fmt: skip
    C, gradient = bare.value_and_grad(data, y)
    own = {p: view for p, view in net.params.items() if not p.startswith("dense")}
    want = {p: view.copy() for p, view in net.params.items()}
    bare.theta[:] = gradient
    for p, g in bare.params.items():
        is_weight = p in own and not p.rpartition(".")[2].startswith("b")
        rate = 0.1 * (0.5 if p in own else 1)
        if is_weight:
            C += penalty(want[p], 0.01, 0.03)
            g = g + 0.01 * np.sign(want[p]) + 0.03 * want[p]
        want[p] -= rate * g
        if is_weight:
            columns = want[p].reshape(-1, want[p].shape[-1])
            norm = np.linalg.norm(columns, axis=0)
            assert (norm > 0.5).any()
            columns *= np.where(norm > 0.5, 0.5 / norm, 1)
    history = net.fit(data, y, batch_size=None, optimizer=bp.SGD(lr=0.1))
    assert history.loss[0] == pytest.approx(C, rel=1e-12)
    for p in want:
        assert distance(net.params[p], want[p]) < 1e-12, p


@pytest.mark.parametrize("optimizer", [bp.SGD(lr=0.1), bp.SGD(lr=0.1, clip_norm=0.05)], ids=["moves", "boundary"])
@pytest.mark.parametrize("batch", [30, None], ids=["small", "chunks"])
def test_a_table_has_penalties_of_the_rows_that_a_batch_names(force, optimizer, batch):
    """A step leaves other rows alone; evaluate and value_and_grad have the whole table."""
    force(True, "", "")
    n = 40_000 if batch is None else 30
    words, y = RNG.integers(0, 60, (n, 3)), RNG.normal(size=(n, 1))

    def make(**options):
        x = bp.Input(3, integer=True)
        h = bp.Reshape(-1)(bp.Embedding(100, 4, **options)(x))
        return bp.Network(x, bp.Dense(1)(h), dtype="float64", seed=2)

    net, bare = make(l1=0.01, l2=0.1, max_norm=1.0), make()
    E = net.params["embedding_1.E"].copy()
    C, gradient = bare.value_and_grad(words, y)
    whole = net.value_and_grad(words, y)
    assert whole[0] == pytest.approx(C + penalty(E, 0.01, 0.1), rel=1e-13)
    assert net.evaluate(words, y)["loss"] == pytest.approx(whole[0], rel=1e-12)
    named = np.zeros(100, bool)
    named[np.unique(words)] = True
    gradient[: E.size].reshape(E.shape)[named] += 0.01 * np.sign(E[named]) + 0.1 * E[named]
    factor = min(1, optimizer.clip_norm / (np.linalg.norm(gradient) + 1e-6)) if optimizer.clip_norm else 1
    want = net.theta - 0.1 * factor * gradient
    rows = want[: E.size].reshape(E.shape)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    rows *= np.where(named[:, None] & (norm > 1), 1 / norm, 1)
    history = net.fit(words, y, batch_size=batch, optimizer=optimizer, n_threads=2)
    assert history.loss[0] == pytest.approx(C + penalty(E[named], 0.01, 0.1), rel=1e-11)
    assert distance(net.theta, want) < 1e-11


def test_two_fits_are_one_and_networks_at_once_are_each_their_own():
    settings = {"optimizer": bp.Adam(lr=0.01), "batch_size": 16, "l2": L2}
    whole, parts, one, two = (network(dtype="float32") for _ in range(4))
    loss = whole.fit(X, Y, epochs=4, **settings).loss
    assert parts.fit(X, Y, epochs=2, **settings).loss + parts.fit(X, Y, epochs=2, **settings).loss == loss
    bare = network([{}, {}, {}], dtype="float32")
    alone = bare.copy()
    histories = bp.fit_many([one, two, bare], X, Y, epochs=4, **settings)
    assert histories[0].loss == histories[1].loss == loss
    assert alone.fit(X, Y, epochs=4, **settings).loss == histories[2].loss
    for net in (parts, one, two):
        np.testing.assert_array_equal(net.theta, whole.theta)


def test_bounds_and_decay_may_come_in_the_midst_of_an_epoch():
    """The run that follows has the penalties as well."""

    def clip(state):
        state.optimizer = bp.SGD(lr=0.1, clip_norm=1e9)

    class Clip(bp.Callback):
        on_batch_end = staticmethod(clip)

    net, twin = network(), network()
    settings = {"epochs": 2, "optimizer": bp.SGD(lr=0.1), "l2": L2}
    np.testing.assert_allclose(
        net.fit(X, Y, callbacks=Clip(), **settings).loss, twin.fit(X, Y, **settings).loss, rtol=1e-13
    )
    assert distance(net.theta, twin.theta) < 1e-13


def test_a_penalty_that_overflows_is_a_divergence():
    net = bp.Network([bp.Input(1), bp.Dense(1, l2=1e200, bias=False)], dtype="float64")
    net.theta[:] = 1e100
    with pytest.raises(bp.DivergenceError):
        net.fit([[0.0]], [0.0], loss="mse")
    assert net.theta[0] == 1e100


def test_levenberg_marquardt_takes_l2():
    """A step of a linear network is the ridge regression, whose bias has no penalty."""
    y = RNG.normal(size=(150, 1))
    net = bp.Network([bp.Input(5), bp.Dense(1, l2=0.3)], dtype="float64")
    settings = {"optimizer": bp.LevenbergMarquardt(damping=1e-12), "batch_size": None, "l2": 0.2}
    loss = net.fit(X, y, epochs=2, **settings).loss
    A = np.c_[X, np.ones(150)]
    want = np.linalg.solve(A.T @ A / 150 + 0.5 * np.diag([1, 1, 1, 1, 1, 0]), A.T @ y / 150)
    assert distance(net.theta, want.ravel()) < 1e-9
    C = ((A @ want - y) ** 2).mean() / 2 + penalty(want[:5], 0, 0.5)
    assert loss[1] == pytest.approx(C, rel=1e-9)
    for options in ({"l1": 0.1}, {"max_norm": 1}, {"lr_scale": 2}):
        net = bp.Network([bp.Input(5), bp.Dense(1, **options)])
        with pytest.raises(ValueError, match=f"by l2 alone, and dense_1.W has {[*options][0]}"):
            net.fit(X, y, **settings)


def test_files_copies_and_pickles_keep_them(tmp_path):
    net = network(OPTIONS)
    net.save(tmp_path / "net")
    for twin in (bp.load(tmp_path / "net"), net.copy(), pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        for layer, other in zip(net.layers[1:], twin.layers[1:], strict=True):
            assert all(getattr(layer, name) == getattr(other, name) for name in layer.optional)
        assert twin.evaluate(X, Y) == net.evaluate(X, Y)
    assert b'"bpcore_format": "2"' in (tmp_path / "net").read_bytes()
    part = net.part("input", "dense_2")
    assert [layer.l2 for layer in part.layers[1:]] == [0, 0.05]
    network([{}, {}, {"l1": 0}]).save(tmp_path / "bare")
    text = (tmp_path / "bare").read_bytes()
    assert b'"bpcore_format": "1"' in text and b"l1" not in text
    assert repr(bp.Dense(3, l2=0.1, max_norm=2)) == "Dense(3, 'identity', l2=0.1, max_norm=2.0)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l1": -1.0}, r"^l1: expected a finite number in \[0"), ({"l2": np.inf}, "^l2: "), ({"l2": "1"}, "^l2: "),
        ({"max_norm": 0.0}, r"^max_norm: expected a finite number in \(0"), ({"lr_scale": np.nan}, "^lr_scale: "),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(options, words):
    for make in (bp.Dense, bp.LSTM, lambda n, **o: bp.Conv1D(n, 3, **o), lambda n, **o: bp.Embedding(9, n, **o)):
        with pytest.raises((ValueError, TypeError), match=words):
            make(4, **options)
    net = network()
    for value in (-1.0, np.nan, "1", None):
        with pytest.raises((ValueError, TypeError), match="^l2: "):
            net.fit(X, Y, l2=value)
    plan = _core.Plan("float32")
    with pytest.raises(ValueError):
        plan.regularise(plan.param(0, 1, 1, True), -1.0, 0.0, 0.0)


def test_an_average_is_of_bounded_weights():
    """theta has been scaled to max_norm before it joins the average."""
    def make():
        layers = [bp.Input(4), bp.Dense(8, "tanh", max_norm=0.5), bp.Dense(2)]
        return bp.Network(layers, seed=0, dtype="float64")

    rng = np.random.default_rng(0)
    A, t = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    net, twin, average = make(), make(), None
    net.fit(A, t, epochs=4, batch_size=None, optimizer=bp.SGD(lr=0.5, ema=0.9))
    for _ in range(4):
        twin.fit(A, t, batch_size=None, optimizer=bp.SGD(lr=0.5))
        average = twin.theta.copy() if average is None else 0.9 * average + 0.1 * twin.theta
    assert np.abs(net.averaged().theta - average).max() < 1e-14 and np.abs(twin.theta - average).max() > 1e-3


def test_lbfgs_has_the_l2_of_fit_and_refuses_what_treats_parameters_apart():
    rng = np.random.default_rng(0)
    A, t = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    nets = [bp.Network([bp.Input(4), bp.Dense(2, l2=l2)], seed=0, dtype="float64") for l2 in (0.0, 0.1)]
    nets[0].fit(A, t, epochs=100, batch_size=None, optimizer=bp.LBFGS(), l2=0.1)
    nets[1].fit(A, t, epochs=100, batch_size=None, optimizer=bp.LBFGS())
    assert nets[0].theta.tobytes() == nets[1].theta.tobytes()
    W = nets[0].W[1]
    assert np.linalg.norm(W) > 1e-3 and np.abs(nets[1].value_and_grad(A, t)[1]).max() < 1e-5
    for option in ({"l1": 0.1}, {"max_norm": 1.0}, {"lr_scale": 0.5}):
        net = bp.Network([bp.Input(4), bp.Dense(2, **option)], seed=0)
        with pytest.raises(ValueError, match=f"LBFGS knows penalties by l2 alone, .* has {next(iter(option))}"):
            net.fit(A, t, batch_size=None, optimizer=bp.LBFGS())


def test_rprop_takes_steps_back_by_the_cost_with_its_penalties():
    rng = np.random.default_rng(0)
    A, t = rng.standard_normal((64, 3)), rng.standard_normal((64, 1))
    for bound in ({}, {"clip_norm": 1e3}):
        net = bp.Network([bp.Input(3), bp.Dense(6, "tanh", l2=0.3), bp.Dense(1)], dtype="float64", seed=1)
        cost = net.evaluate(A, t)["loss"]
        net.fit(A, t, optimizer=bp.Rprop(lr=0.1, **bound), batch_size=None)
        assert net._model.memory.states[2] == pytest.approx(cost, rel=1e-12)  # the state "cost", in every element
    for option in ({"max_norm": 1.0}, {"lr_scale": 0.5}):
        net = bp.Network([bp.Input(3), bp.Dense(1, **option)], seed=0)
        with pytest.raises(ValueError, match=f"Rprop finds the size of each step itself, .* has {next(iter(option))}"):
            net.fit(A, t, batch_size=None, optimizer=bp.Rprop())


def test_l2_by_step_and_the_losses_of_batches():
    """A run over an epoch whose steps have an l2 each makes the steps of runs over a batch each."""
    numbers = np.array([0.5, 0.0, 2.0, 0.1])
    whole, apart = (bp.Network([bp.Input(5), bp.Dense(7, "tanh"), bp.Dense(3, "softmax")], seed=0) for _ in range(2))
    rows, seen, wanted = np.empty((5, 3)), None, []
    w = np.where(np.arange(150) // 40 == 1, 0.0, W)  # a batch without weight makes no step, and takes no number
    data = Data(whole._model, X, Y, "cross_entropy", w)
    steps = np.array([numbers[0], numbers[2], numbers[3], 9.0])
    with _plans.take(whole._model, data.key(_plans.TRAIN | _core.PENALTY | _core.MOVE, 40, 1)) as lent:
        run = data.feed(whole._model, lent)
        run.optimizer("sgd", lr=0.1, l2=steps)
        run.batch_losses(rows)
        run.begin(150, 40)
        while run.slice(1) == _core.PAUSED:
            pass
        seen = run.progress()
        with pytest.raises(ValueError, match=r"batch_losses: 5 rows do not reach for the 15 batches"):
            run.optimizer("sgd", lr=0.1, l2=np.zeros(15)), run.begin(150, 10)
        with pytest.raises(ValueError, match=r"batch_losses: expected shape \(batches, 3\), got \(4, 2\)"):
            run.batch_losses(np.empty((4, 2)))
    for first, l2 in zip(range(0, 150, 40), numbers, strict=True):
        part = slice(first, first + 40)
        weight = w[part].sum()
        penalty = sum(l2 / 2 * np.square(W, dtype=float).sum() for W in apart.W[1:])
        if weight:
            cost = apart.evaluate(X[part], Y[part], sample_weight=w[part])["loss"] + penalty
            apart.fit(X[part], Y[part], optimizer=bp.SGD(lr=0.1), batch_size=40, shuffle=False, l2=l2,
                      sample_weight=w[part])  # fmt: skip
        wanted.append((cost * weight, weight, penalty) if weight else (rows[1, 0], 0.0, 0.0))
    np.testing.assert_allclose(rows[:4], wanted, rtol=1e-6)
    np.testing.assert_allclose(seen[:2], rows[:4, :2].sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.theta, apart.theta, rtol=0, atol=1e-6)
