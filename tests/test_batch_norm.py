"""BatchNorm: training against plain NumPy, state in all that keeps a network, weights, bits, undoing, errors.

Everything but `fit` is of rows: test_layers.py and test_random_graphs.py have it; test_isa.py has all instruction sets.
"""

import copy
import pickle

import numpy as np
import pytest
import reference as ref
from conftest import distance
from optimizers import every_way, move

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(1, 3, (150, 5)), RNG.integers(0, 3, 150), RNG.uniform(0.2, 2, 150)
W[::7] = 0
TOLERANCE = 1e-11  # of theta and state after some dozens of steps in float64


def network(dtype="float64", width=9, seed=4, **settings):
    return bp.Network(
        [bp.Input(5), bp.BatchNorm(momentum=0.8), bp.Activate("tanh"), bp.Dense(width, bias=False),
         bp.BatchNorm(eps=1e-2), bp.Activate("relu"), bp.Dense(7, "tanh"), bp.BatchNorm(), bp.Dense(3, "softmax")],
        dtype=dtype, seed=seed, **settings,
    )  # fmt: skip


class Oracle:
    """The same network in NumPy, of the same parameters and state."""

    def __init__(self, net):
        self.p = {name: np.array(value, float) for name, value in net.params.items()}
        self.state = {name: np.array(value, float) for name, value in net.state.items()}
        self.norms = {layer.name: layer for layer in net.layers if layer.op == "batch_norm"}
        self.states = [{} for _ in self.p]

    def forward(self, name, a, w, counted):
        s, b = self.p[f"{name}.s"], self.p[f"{name}.b"]
        if counted < 2:
            d = np.sqrt(self.state[f"{name}.variance"] + self.norms[name].eps)
            n = (a - self.state[f"{name}.mean"]) / d
            return s * n + b, lambda g: (s / d * g, (g * n).sum(0), g.sum(0))
        out, mean, variance, kept = ref.batch_norm(a, s, b, self.norms[name].eps, w)
        m = self.norms[name].momentum
        for letter, value in (("mean", mean), ("variance", variance)):
            self.state[f"{name}.{letter}"] = m * self.state[f"{name}.{letter}"] + (1 - m) * value
        return out, lambda g: ref.batch_norm_backward(g, kept)

    def step(self, X, y, w, optimizer):
        """One step; w C."""
        p, counted, g = self.p, np.count_nonzero(w), {}
        a0, back0 = self.forward("batch_norm_1", X, w, counted)
        a0 = np.tanh(a0)
        a1, back1 = self.forward("batch_norm_2", a0 @ p["dense_1.W"], w, counted)
        a2 = np.tanh(np.maximum(a1, 0) @ p["dense_2.W"] + p["dense_2.b"])
        a3, back3 = self.forward("batch_norm_3", a2, w, counted)
        z = a3 @ p["dense_3.W"] + p["dense_3.b"]
        E, delta = ref.FUSED["softmax", "cross_entropy"]
        Y = np.eye(3)[y]
        dz = w[:, None] / w.sum() * delta(ref.ACTIVATIONS["softmax"][0](z), Y)
        g["dense_3.W"], g["dense_3.b"] = a3.T @ dz, dz.sum(0)
        da, g["batch_norm_3.s"], g["batch_norm_3.b"] = back3(dz @ p["dense_3.W"].T)
        dz = da * (1 - a2**2)
        g["dense_2.W"], g["dense_2.b"] = np.maximum(a1, 0).T @ dz, dz.sum(0)
        da, g["batch_norm_2.s"], g["batch_norm_2.b"] = back1(dz @ p["dense_2.W"].T * (a1 > 0))
        g["dense_1.W"] = a0.T @ da
        _, g["batch_norm_1.s"], g["batch_norm_1.b"] = back0(da @ p["dense_1.W"].T * (1 - a0**2))
        move(optimizer, [(p[name], name.endswith("W")) for name in p], [g[name] for name in p], self.states)
        return (w * E(z, Y)).sum()

    def fit(self, X, y, w, optimizer, batch, epochs):
        losses = []
        for _ in range(epochs):
            parts = [slice(first, first + batch) for first in range(0, len(X), batch)]
            losses.append(sum(self.step(X[rows], y[rows], w[rows], optimizer) for rows in parts) / w.sum())
        return losses


def check_is_oracles(net, oracle, tolerance=TOLERANCE):
    for kind, own in ((net.params, oracle.p), (net.state, oracle.state)):
        assert kind.keys() == own.keys()
        got, want = (np.concatenate([a.ravel() for a in arrays.values()]) for arrays in (kind, own))
        assert distance(got, want) < tolerance


def assert_same(a, b):
    assert (a.theta == b.theta).all() and all((a.state[name] == b.state[name]).all() for name in a.state)
    assert (a.predict(X) == b.predict(X)).all()


@every_way
@pytest.mark.parametrize("mode", ["", "owners", "threads", "blas"])
def test_training_is_the_oracles(force, mode, optimizer):
    """Tiles of a batch, and a remainder of one row, which uses the running mean and variance."""
    force(mode != "", mode if mode == "owners" else "", mode if mode == "blas" else "")
    for batch, epochs in ((149, 6), (30, 3)):
        net = network()
        oracle = Oracle(net)
        losses = oracle.fit(X, Y, W, optimizer, batch, epochs)
        history = net.fit(X, Y, sample_weight=W, optimizer=optimizer, batch_size=batch, epochs=epochs, shuffle=False,
                          n_threads=2)  # fmt: skip
        check_is_oracles(net, oracle)
        np.testing.assert_allclose(history.loss, losses, rtol=TOLERANCE)


@pytest.mark.parametrize("rows, tolerance", [(150, 2e-5), (1500, 2e-5)])
def test_training_in_float32(rows, tolerance):
    X, y, w = RNG.normal(30, 3, (rows, 5)), RNG.integers(0, 3, rows), np.ones(rows)
    net = network("float32")
    oracle = Oracle(net)
    oracle.fit(X, y, w, bp.SGD(lr=0.1), rows, 5)
    net.fit(X, y, optimizer=bp.SGD(lr=0.1), batch_size=None, epochs=5)
    check_is_oracles(net, oracle, tolerance)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (3, 4, 37)])
@pytest.mark.parametrize("weights", ["none", "rows", "positions", "mask", "rows and mask", "positions and mask"])
def test_one_step_over_positions(shape, weights):
    """Over rows and positions; with weights of positions, each has its own, and 0 masks it, as a mask does."""
    n, positions = 40, shape[:-1]
    x, masked = bp.Input(shape), weights.endswith("mask") and len(shape) > 1
    mask = [bp.Input(positions if len(positions) > 1 else positions[0])] if masked else []
    net = bp.Network([x, *mask], bp.BatchNorm(momentum=0.0)(x, *mask), dtype="float64")
    net.theta = RNG.normal(size=net.n_params)
    X, y = RNG.normal(3, 2, (n, *shape)), RNG.normal(size=(n, *shape))
    on = RNG.choice([0, 1, 2.5], (n, *positions)) if masked else 1.0
    w = np.ones(n) if weights in ("none", "mask") else RNG.integers(0, 3, n).astype(float)
    if weights.startswith("positions") and positions:
        w = RNG.integers(0, 3, (n, *positions)).astype(float)
    s, b = net.params["batch_norm_1.s"].copy(), net.params["batch_norm_1.b"].copy()
    each = np.broadcast_to(w.reshape(w.shape + (1,) * (1 + len(positions) - w.ndim)), (n, *positions))
    out, mean, variance, kept = ref.batch_norm(X, s, b, w=each * (np.asarray(on) != 0))
    net.fit([X, on] if masked else X, y, loss="squared_error", sample_weight=None if weights == "none" else w,
            optimizer=bp.SGD(lr=1.0), batch_size=None, shuffle=False)  # fmt: skip
    assert distance(net.state["batch_norm_1.mean"], mean) < 1e-14
    assert distance(net.state["batch_norm_1.variance"], variance) < 1e-14
    if w.ndim == 1:  # else a row's loss is the weighted mean over its positions
        g = each[..., None] / each.sum() * (out - y)
        _, ds, db = ref.batch_norm_backward(g, kept)
        assert distance(net.params["batch_norm_1.s"], s - ds) < 1e-13
        assert distance(net.params["batch_norm_1.b"], b - db) < 1e-13


def test_padding_that_is_masked_changes_nothing():
    """A mask flows to the layer, and behind it to the LSTM; how long sequences are padded does not matter."""
    kept = []
    for steps in (7, 31):
        x = bp.Input((steps, 4))
        mask = bp.Mask()(x)
        h = bp.LSTM(5)(bp.BatchNorm(momentum=0.5)(x, mask), mask)
        net = bp.Network(x, bp.Dense(3, "softmax")(h), dtype="float64", seed=2)
        X = np.zeros((30, steps, 4))
        for row, length in enumerate(np.random.default_rng(1).integers(1, 8, 30)):
            X[row, :length] = np.random.default_rng(row).normal(3, 2, (length, 4))
        net.fit(X, Y[:30], optimizer=bp.Adam(lr=0.01), batch_size=13, epochs=3)
        kept.append((net.theta, *net.state.values(), net.predict(X)))
    assert all(distance(a, b) < 1e-12 for a, b in zip(*kept, strict=True))
    words = bp.Embedding(9, 4, mask_zero=True)(bp.Input(6, integer=True))
    assert bp.BatchNorm()(words).inputs[1] is words.mask and bp.BatchNorm()(words).mask is words.mask


@pytest.mark.parametrize("checkpoint", [None, True])
def test_masks_and_threads(force, checkpoint):
    """The same bits; a batch whose steps are all masked takes the running mean and variance."""
    found = []
    for n_threads in (1, 2, 3, 4, 7):
        force(True, "")
        x, mask = bp.Input((5, 6)), bp.Input(5)
        h = bp.GlobalAveragePool()(bp.BatchNorm()(bp.Conv1D(4, 3, "relu", padding="same")(x), mask), mask)
        net = bp.Network([x, mask], bp.Dense(3, "softmax")(h), seed=1, checkpoint=checkpoint)
        on = np.random.default_rng(0).integers(0, 2, (200, 5))
        on[:100] = 0
        series = np.random.default_rng(1).normal(size=(200, 5, 6))
        net.fit([series[:100], on[:100]], LABELS[:100], batch_size=50, shuffle=False)
        assert net.state["batch_norm_1.mean"].tolist() == [0] * 4
        net.fit([series, on], LABELS, optimizer=bp.Adam(lr=0.01), batch_size=110, n_threads=n_threads)
        found.append((net.theta, *net.state.values()))
    assert all((a == b).all() for other in found for a, b in zip(found[0], other, strict=True))
    assert found[0][1].any()


def test_rows_of_weight_0_take_no_part():
    one, other, kept = network(), network(), np.flatnonzero(W)
    one.fit(X, Y, sample_weight=W, batch_size=None, epochs=3, shuffle=False)
    other.fit(X[kept], Y[kept], sample_weight=W[kept], batch_size=None, epochs=3, shuffle=False)
    assert distance(one.theta, other.theta) < 1e-12
    assert distance(one.state["batch_norm_2.variance"], other.state["batch_norm_2.variance"]) < 1e-12


def test_a_weight_of_2_is_a_row_twice():
    w, one, other = RNG.integers(1, 3, 150), network(), network()
    one.fit(X, Y, sample_weight=w, batch_size=None, epochs=3, shuffle=False)
    other.fit(np.repeat(X, w, 0), np.repeat(Y, w), batch_size=None, epochs=3, shuffle=False)
    assert distance(one.theta, other.theta) < 1e-12
    assert distance(one.state["batch_norm_3.mean"], other.state["batch_norm_3.mean"]) < 1e-12


# ---- bits ----


def image_net(dtype="float32", **settings):
    h = x = bp.Input((6, 6, 2))
    norm = bp.BatchNorm()
    h = bp.Activate("relu")(norm(bp.Conv2D(4, 3, padding="same")(h)))
    h = h + bp.Activate("relu")(norm(bp.Conv2D(4, 3, padding="same")(h)))  # one set of statistics, used twice
    return bp.Network(x, bp.Dense(3, "softmax")(bp.Dropout(0.2)(bp.BatchNorm()(bp.Reshape(-1)(h)))), dtype=dtype,
                      seed=1, **settings)  # fmt: skip


IMAGES, LABELS = RNG.normal(size=(200, 6, 6, 2)), RNG.integers(0, 3, 200)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_threads_gives_the_same_bits(force, dtype):
    """And so do parts of steps, and checkpoints."""
    found = []
    ways = [(n, 0, None) for n in (1, 2, 3, 4, 7)] + [(2, 2e4, None), (1, 0, True), (3, 0, ["conv2d_2"])]
    for n_threads, round_flops, checkpoint in ways:
        force(True, "", **({"round_flops": round_flops} if round_flops else {}))
        net = image_net(dtype, checkpoint=checkpoint)
        net.fit(IMAGES, LABELS, optimizer=bp.Adam(lr=0.01), batch_size=110, epochs=1, n_threads=n_threads)
        found.append((net.theta, *net.state.values()))
    for way, other in zip(ways, found, strict=True):
        assert all((a == b).all() for a, b in zip(found[0], other, strict=True)), way


def test_a_large_batch_is_one_chunk():
    """Of more rows than a chunk would have: mean and variance are of all of them."""
    net = bp.Network([bp.Input(1), bp.BatchNorm(momentum=0.0), bp.Dense(1)], dtype="float64")
    x = np.arange(40_000.0)[:, None]
    net.fit(x, 0 * x, optimizer=bp.SGD(lr=1e-3), batch_size=None, shuffle=False)
    assert net.state["batch_norm_1.mean"][0] == pytest.approx(19999.5, rel=1e-14)
    assert net.state["batch_norm_1.variance"][0] == pytest.approx((40_000**2 - 1) / 12, rel=1e-14)


def test_inference_calls_agree():
    net = image_net()
    net.fit(IMAGES, LABELS, batch_size=50, epochs=2)
    all_, answer = net.predict(IMAGES), net.predictor()
    assert (net.predict(IMAGES[7:9]) == all_[7:9]).all() and (answer(IMAGES[3]) == all_[3]).all()
    assert (answer(IMAGES) == all_).all()
    loss = -np.log(all_[np.arange(200), LABELS].astype(float)).mean()
    assert net.evaluate(IMAGES, LABELS)["loss"] == pytest.approx(loss, rel=1e-5)
    assert net.value_and_grad(IMAGES, LABELS)[0] == pytest.approx(loss, rel=1e-5)


# ---- what keeps the state ----


def test_state_begins_standard_and_is_no_parameter():
    net = network()
    assert list(net.state) == [f"batch_norm_{k}.{letter}" for k in (1, 2, 3) for letter in ("mean", "variance")]
    assert not net.state["batch_norm_2.mean"].any() and (net.state["batch_norm_2.variance"] == 1).all()
    assert net.n_params == net.theta.size == 5 * 2 + 5 * 9 + 9 * 2 + 9 * 7 + 7 + 7 * 2 + 7 * 3 + 3
    net.state["batch_norm_1.mean"][...] = X.mean(0)
    assert not (network().predict(X) == net.predict(X)).any()
    with pytest.raises(TypeError, match=r"state: expected to be read only; net.state\[name\]"):
        net.state["batch_norm_1.mean"] = X.mean(0)
    with pytest.raises(KeyError, match="state"):
        net.state["batch_norm_1.W"]


def test_copies_pickles_and_files_go_on_with_the_same_bits(tmp_path):
    settings = {"optimizer": bp.Adam(), "batch_size": 40}
    net, whole = network(), network()
    net.fit(X, Y, epochs=2, **settings)
    net.save(tmp_path / "net.safetensors")
    twins = [net.copy(), copy.deepcopy(net), pickle.loads(pickle.dumps(net)), bp.load(tmp_path / "net.safetensors")]
    whole.fit(X, Y, epochs=5, **settings)
    for twin in (*twins, net):
        assert all((twin.state[name] == net.state[name]).all() for name in net.state)
        twin.fit(X, Y, epochs=3, **settings)
        assert_same(twin, whole)
    assert not np.shares_memory(twins[0].state["batch_norm_1.mean"], net.state["batch_norm_1.mean"])


def test_files_are_checked(tmp_path):
    net, path = network(), tmp_path / "net.safetensors"
    net.state["batch_norm_2.variance"][3] = -1e-3
    net.save(path)
    with pytest.raises(ValueError, match="'batch_norm_2.variance' has values below 0"):
        bp.load(path)


def test_parts_layers_members_and_averages_have_the_state():
    net = network()
    net.fit(X, Y, batch_size=50, epochs=2, optimizer=bp.SGD(lr=0.1, ema=0.9))
    part = net.part("input", "batch_norm_2")
    assert (part.state["batch_norm_2.mean"] == net.state["batch_norm_2.mean"]).all()
    x = bp.Input(5)
    assert (bp.Network(x, net(x), dtype="float64").predict(X) == net.predict(X)).all()
    averaged = net.averaged()
    assert (averaged.state["batch_norm_1.variance"] == net.state["batch_norm_1.variance"]).all()
    other = network(seed=5)
    answers = [net.predict(X), other.predict(X)]
    assert (bp.Ensemble([net, other]).predictor()(X) == np.mean(answers, axis=0)).all()
    net.frozen = {"batch_norm_1"}
    again = net._anew(7)
    assert (again.state["batch_norm_1.mean"] == net.state["batch_norm_1.mean"]).all()
    assert not again.state["batch_norm_2.mean"].any()


def test_fit_many_trains_as_fit_does():
    nets, alone = ([network(seed=k) for k in range(5)] for _ in range(2))
    settings = {"optimizer": bp.Adam(lr=0.01), "epochs": 3, "batch_size": 32}
    bp.fit_many(nets, X, Y, **settings)
    for net, own in zip(nets, alone, strict=True):
        own.fit(X, Y, **settings)
        assert_same(net, own)


def test_best_epoch_is_restored_with_its_state():
    net, best = network(), network()
    states = []
    stop = bp.EarlyStopping("val_loss", patience=2, restore_best=True)
    history = net.fit(X, Y, validation_data=(X[:40], (Y[:40] + 1) % 3), batch_size=50, epochs=12,
                      optimizer=bp.SGD(lr=0.5), callbacks=[stop, lambda state: states.append(state.epoch)])  # fmt: skip
    epoch = int(np.argmin(history.val_loss)) + 1
    assert epoch < len(states)
    best.fit(X, Y, batch_size=50, epochs=epoch, optimizer=bp.SGD(lr=0.5))
    assert_same(net, best)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_divergence_takes_the_state_back(n_threads):
    """Where the loss overflows nothing has moved; where theta does, the steps before are made again."""
    for what, optimizer, huge in (("loss", bp.SGD(lr=0.1), 1e200), ("parameters", bp.SGD(lr=1e308), 1.0)):
        layers = [bp.Input(5), bp.Dense(8), bp.BatchNorm(), bp.Activate("tanh"), bp.Dense(1)]
        net, best = (bp.Network(layers, dtype="float64", seed=2) for _ in range(2))
        inputs, y = X[:120].copy(), np.zeros(120)
        net.params["dense_2.W"][...] = best.params["dense_2.W"][...] = 0 if what == "parameters" else 0.1
        y[90:] = 1e5 if what == "parameters" else 0  # without an error before, nothing moves but the state
        inputs[90:] *= huge
        with pytest.raises(bp.DivergenceError, match=what):
            net.fit(inputs, y, optimizer=optimizer, batch_size=30, epochs=1, shuffle=False, n_threads=n_threads)
        best.fit(inputs[:90], y[:90], optimizer=optimizer, batch_size=30, epochs=1, shuffle=False)
        assert best.step == net.step == 3
        assert_same(net, best)


def test_frozen_layers_keep_their_state():
    net = network()
    net.fit(X, Y, batch_size=50, epochs=1)
    net.frozen = {"batch_norm_1", "batch_norm_2", "batch_norm_3"}
    before, loss = {name: a.copy() for name, a in net.state.items()}, net.evaluate(X, Y)["loss"]
    history = net.fit(X, Y, batch_size=None, epochs=1)
    assert all((net.state[name] == before[name]).all() for name in before)
    assert history.loss[0] == pytest.approx(loss, rel=1e-13)
    net.fit(X, Y, batch_size=1, epochs=1)
    net.fit(X, Y, batch_size=None, optimizer=bp.LBFGS(), epochs=2)
    net.frozen = set()
    net.fit(X, Y, batch_size=50, epochs=1, optimizer=bp.SGD())
    assert not any((net.state[name] == before[name]).all() for name in before)


# ---- errors ----


def test_a_block_of_one_row_is_a_batch_of_one_row():
    blocks, whole = network(), network()
    for rows in (slice(0, 32), slice(32, 33)):
        blocks.partial_fit(X[rows], Y[rows])
    whole.fit(X[:33], Y[:33], shuffle=False)
    assert_same(blocks, whole)
    with pytest.raises(ValueError, match="batch_size: batch_norm_1 normalises by the batch"):
        blocks.partial_fit(X, Y, batch_size=1)


def test_refused_calls_change_nothing():
    net = network()
    before = pickle.dumps(net)
    for settings, message in (
        ({"batch_size": 1}, r"batch_size: batch_norm_1 normalises by the batch, .* net.frozen = {'batch_norm_1'}"),
        ({"batch_size": None, "optimizer": bp.LBFGS()}, "optimizer: LBFGS needs costs in which rows are independent"),
    ):
        with pytest.raises(ValueError, match=message):
            net.fit(X, Y, **settings)
    with pytest.raises(ValueError, match="batch_size"):
        net.fit(X[:1], Y[:1], batch_size=None)
    with pytest.raises(ValueError, match="batch_size"):
        bp.fit_many([net], X, Y, batch_size=1)
    assert pickle.dumps(net) == before
    single = bp.Network([bp.Input(5), bp.BatchNorm(), bp.Dense(1)], dtype="float64")
    with pytest.raises(ValueError, match="optimizer: LevenbergMarquardt needs costs"):
        single.fit(X, X[:, :1], batch_size=None, optimizer=bp.LevenbergMarquardt())


@pytest.mark.parametrize(
    "settings, error",
    [({"momentum": 1.0}, ValueError), ({"momentum": -0.1}, ValueError), ({"eps": 0}, ValueError),
     ({"momentum": "high"}, TypeError), ({"eps": None}, TypeError), ({"axis": 1}, TypeError)],
)  # fmt: skip
def test_settings_are_checked(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        bp.BatchNorm(**settings)


def test_c_checks_what_it_is_given():
    plan = _core.Plan("float32")
    x, s = plan.buffer(6), plan.param(0, 3, 1, 0.0)
    mean, other = plan.state(0, 3), plan.state(3, 2)
    for params in ([mean, mean, mean], [s, s, s], [mean, other, s], [mean, mean]):
        with pytest.raises(ValueError, match="operands"):
            plan.op("batch_norm", [x], params, settings=([], [1e-5, 0.9]))
    for mask in (plan.buffer(3), plan.buffer(2, integer=True)):
        with pytest.raises(ValueError, match="operands"):
            plan.op("batch_norm", [x, mask], [mean, mean, s], settings=([], [1e-5, 0.9]))
    plan.keep(plan.op("batch_norm", [x], [mean, mean, s], settings=([], [1e-5, 0.9])))
    plan.compile(_core.FORWARD, 4, 1)
    with pytest.raises(ValueError, match="state is shorter"):
        _core.Run(plan, np.zeros(3, np.float32), np.zeros(2, np.float32))


def test_masks_of_another_shape_are_refused():
    x = bp.Input((4, 6))
    cases = (
        ([bp.Input(5)], r"expected a mask of shape \(4,\)"),
        ([bp.Input(4), bp.Input(4)], "got 3 inputs"),
        ([bp.Input((4, 6))], r"got \(4, 6\)"),
    )
    for masks, words in cases:
        with pytest.raises(ValueError, match=words):
            bp.BatchNorm()(x, *masks)
