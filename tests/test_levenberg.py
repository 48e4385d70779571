"""Levenberg and Marquardt: exact where the model is linear, further than SGD where it is not, like any optimiser."""

import numpy as np
import pytest
from fitting import interrupted

import bpcore as bp
from bpcore import _levenberg

RNG = np.random.default_rng(0)


def line(dtype="float64", **settings):
    return bp.Network([bp.Input(4), bp.Dense(3, **settings)], dtype=dtype)


def curve(dtype="float64", units=6, seed=0):
    return bp.Network([bp.Input(1), bp.Dense(units, "tanh"), bp.Dense(1)], dtype=dtype, seed=seed)


X1 = np.linspace(-2, 2, 60)[:, None]
Y1 = np.sin(2 * X1)


def fit(net, X=X1, y=Y1, epochs=1, **settings):
    settings = {"optimizer": bp.LevenbergMarquardt(), "batch_size": None, **settings}
    return net.fit(X, y, epochs=epochs, **settings)


def facts(net):
    return net.theta.tobytes(), net.step, net.epoch, net._model.memory


# ---- what it finds ----


@pytest.mark.parametrize("loss", ["squared_error", "mse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_least_squares(loss, weighted):
    """Two steps reach what lstsq finds: what the damping of the first leaves, the second takes."""
    X, y = RNG.standard_normal((50, 4)), RNG.standard_normal((50, 3))
    w = RNG.uniform(0.1, 2, 50) if weighted else np.ones(50)
    root = np.sqrt(w)[:, None]
    best = np.linalg.lstsq(root * np.c_[X, np.ones(50)], root * y, rcond=None)[0]
    net = line()
    settings = {"loss": loss, "sample_weight": w if weighted else None}
    fit(net, X, y, 2, optimizer=bp.LevenbergMarquardt(damping=1e-7), **settings)
    np.testing.assert_allclose(net.params["dense_1.W"], best[:4], atol=1e-9)
    np.testing.assert_allclose(net.params["dense_1.b"], best[4], atol=1e-9)
    theta = net.theta.copy()
    history = fit(net, X, y, 3, **settings)
    np.testing.assert_allclose(net.theta, theta, atol=1e-9)  # and stays there
    assert len(history.loss) == 3


def test_an_exact_fit_in_one_step():
    X = RNG.standard_normal((30, 4))
    y = X @ RNG.standard_normal((4, 3)) + 1
    net = line()
    fit(net, X, y, 1, optimizer=bp.LevenbergMarquardt(damping=1e-12))
    assert net.evaluate(X, y)["loss"] < 1e-16


def test_sequences_have_the_steps_of_their_positions():
    """Of (n, 5, 4) as of (5 n, 4): the cost is the mean over positions."""
    X, y = RNG.standard_normal((12, 5, 4)), RNG.standard_normal((12, 5, 3))
    x = bp.Input((5, 4))
    whole, rows = bp.Network(x, bp.Dense(3)(x), dtype="float64"), line()
    rows.theta = whole.theta
    fit(whole, X, y, 2)
    fit(rows, X.reshape(-1, 4), y.reshape(-1, 3), 2)
    np.testing.assert_allclose(whole.theta, rows.theta, atol=1e-6)
    assert whole.evaluate(X, y)["loss"] == pytest.approx(rows.evaluate(X.reshape(-1, 4), y.reshape(-1, 3))["loss"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_falls_below_what_sgd_reaches(dtype):
    for units in (6, 10):
        for seed in range(4):
            net, other = curve(dtype, units, seed), curve(dtype, units, seed)
            history = fit(net, epochs=60)
            other.fit(X1, Y1, optimizer=bp.SGD(lr=0.1, momentum=0.9), epochs=600, batch_size=None)
            assert net.evaluate(X1, Y1)["loss"] < min(4e-4, 0.3 * other.evaluate(X1, Y1)["loss"]), (units, seed)
            assert all(b <= a for a, b in zip(history.loss, history.loss[1:], strict=False))
            assert np.isfinite(net.theta).all() and net.dtype == dtype


def test_a_step_is_that_of_numpy():
    """(J^T J / n + mu mean(diag) I) step = J^T r / n, J by central differences."""
    net, damping = curve(units=3), 1e-3
    theta, n = net.theta.copy(), len(X1)
    J = np.empty((n, len(theta)))
    for i in range(len(theta)):
        moved = []
        for h in (-1e-6, 1e-6):
            net.theta = theta
            net.theta[i] += h
            moved.append(net.predict(X1)[:, 0])
        J[:, i] = (moved[1] - moved[0]) / 2e-6
    net.theta = theta
    r, C = (net.predict(X1) - Y1)[:, 0], net.evaluate(X1, Y1)["loss"]
    A = J.T @ J / n
    candidates = [
        theta - np.linalg.solve(A + damping * min(1, C) * 10.0**k * np.diag(A).mean() * np.eye(len(A)), J.T @ r / n)
        for k in range(-20, 20)
    ]
    fit(net)
    assert min(np.abs(net.theta - one).max() for one in candidates) < 1e-6
    assert net.evaluate(X1, Y1)["loss"] < C


@pytest.mark.parametrize("weighted", [False, True])
def test_several_inputs_and_outputs(weighted):
    """Linear least squares over three outputs together, two of a shared layer: what lstsq finds, by weights and shares.

    E = |l - y_0|^2 / 2 + 3 (m - y_1)^2 + the mean over positions and units of (s - y_2)^2
    """
    a, b = bp.Input(3, name="a"), bp.Input((5, 2), name="b")
    shared = bp.Dense(2, bias=False, name="shared")
    outputs = [shared(a), shared(a[::-1])[:1], bp.Dense(2, name="own")(b)]
    net = bp.Network([a, b], outputs, dtype="float64")
    A, B = RNG.standard_normal((40, 3)), RNG.standard_normal((40, 5, 2))
    Y = [RNG.standard_normal((40, *shape)) for shape in ((2,), (1,), (5, 2))]
    w = RNG.uniform(0.1, 2, 40) if weighted else np.ones(40)
    settings = {"optimizer": bp.LevenbergMarquardt(damping=1e-8), "sample_weight": w if weighted else None}
    fit(net, [A, B], Y, 2, loss=["squared_error", bp.losses.Weighted("mse", 3.0), "mse"], **settings)
    half, three = np.sqrt(w / 2)[:, None], np.sqrt(3 * w)[:, None]
    first = np.linalg.lstsq(np.r_[half * A, three * A[:, ::-1]], np.r_[half * Y[0][:, :1], three * Y[1]], rcond=None)[0]
    second = np.linalg.lstsq(half * A, half * Y[0][:, 1:], rcond=None)[0]
    np.testing.assert_allclose(net.params["shared.W"], np.c_[first, second], atol=1e-9)
    root = np.sqrt(np.repeat(w, 5))[:, None]
    best = np.linalg.lstsq(root * np.c_[B.reshape(-1, 2), np.ones(200)], root * Y[2].reshape(-1, 2), rcond=None)[0]
    np.testing.assert_allclose(net.params["own.W"], best[:2], atol=1e-9)
    np.testing.assert_allclose(net.params["own.b"], best[2], atol=1e-9)


def test_several_inputs_of_whole_numbers_on_any_threads():
    x, words = bp.Input(2, name="x"), bp.Input(3, integer=True, name="words")
    h = bp.Dense(4, "tanh")(bp.concat([x, bp.Reshape(-1)(bp.Embedding(5, 2)(words))]))
    X = {"x": RNG.standard_normal((60, 2)), "words": RNG.integers(0, 5, (60, 3))}
    Y = {"u": np.sin(X["x"][:, :1] + X["words"][:, :1]), "v": np.cos(X["x"])}
    found = []
    for n_threads in (1, 2, 3):
        net = bp.Network([x, words], [bp.Dense(1, name="u")(h), bp.Dense(2, name="v")(h)], dtype="float64", seed=1)
        start = net.evaluate(X, Y)["loss"]
        history = fit(net, X, Y, 15, n_threads=n_threads)
        found.append((history.loss, facts(net)))
        assert net.evaluate(X, Y)["loss"] < 0.1 * start
    assert found[0] == found[1] == found[2]


# ---- as any optimiser ----


@pytest.mark.parametrize("how", ["at once", "again", "file"])
def test_three_steps_twice_are_six(how, tmp_path):
    whole, parts = curve(), curve()
    six = fit(whole, epochs=6).loss
    three = fit(parts, epochs=3).loss
    if how == "file":
        parts.save(tmp_path / "net")
        parts = bp.load(tmp_path / "net")
    three += fit(parts, epochs=3).loss
    assert three == six and facts(parts) == facts(whole)
    assert whole.epoch == 6 and whole.step == whole._model.memory.updates == 6


def test_any_number_of_threads_has_the_same_bits(force):
    X, y = RNG.standard_normal((300, 4)), RNG.standard_normal((300, 3))
    for phase2 in ("owners", "shards"):
        force(True, phase2)
        found = []
        for n_threads in (1, 2, 3):
            net = bp.Network([bp.Input(4), bp.Dense(5, "tanh"), bp.Dense(3)], dtype="float64")
            found.append((fit(net, X, y, 3, n_threads=n_threads).loss, facts(net)))
        assert found[0] == found[1] == found[2]


def test_frozen_layers_stay():
    net = curve()
    fit(net, epochs=2)
    net.frozen = ["dense_1"]
    before = {name: view.copy() for name, view in net.params.items()}
    fit(net, epochs=2, optimizer=bp.LevenbergMarquardt(damping=1e-12))
    for name, view in net.params.items():
        assert (view.tobytes() == before[name].tobytes()) == name.startswith("dense_1."), name
    features = np.c_[np.tanh(X1 @ net.params["dense_1.W"] + net.params["dense_1.b"]), np.ones(60)]
    best = np.linalg.lstsq(features, Y1, rcond=None)[0]
    cost = ((features @ best - Y1) ** 2).mean() / 2
    assert net.evaluate(X1, Y1)["loss"] == pytest.approx(cost, rel=1e-6)


def test_a_unit_without_influence_stays():
    net = bp.Network([bp.Input(1), bp.Dense(3, "relu"), bp.Dense(1)], dtype="float64")
    net.params["dense_1.W"][:, 1], net.params["dense_1.b"][1] = 0, -1  # never above zero
    dead = net.params["dense_1.W"][:, 1].copy(), net.params["dense_1.b"][1]
    fit(net, epochs=4)
    assert (net.params["dense_1.W"][:, 1] == dead[0]).all() and net.params["dense_1.b"][1] == dead[1]
    assert np.isfinite(net.theta).all()


def test_graphs_and_blocks_of_rows(monkeypatch):
    """A graph with a residual; J in one block or in many."""
    x = bp.Input(2)
    h = bp.Dense(2, "tanh")(x) + x
    X = RNG.standard_normal((40, 2))
    y = np.sin(X[:, :1]) * X[:, 1:]
    found = []
    for block in (1 << 22, 1):
        monkeypatch.setattr(_levenberg, "_BLOCK", block)
        net = bp.Network(x, bp.Dense(1)(bp.Dense(6, "tanh")(h)), dtype="float64")
        start = net.evaluate(X, y)["loss"]
        fit(net, X, y, 20)
        found.append(net.theta.copy())
        assert net.evaluate(X, y)["loss"] < 0.05 * start
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_history_callbacks_and_what_it_prints(capsys):
    net, seen = curve(), []

    class Look(bp.Callback):
        def on_epoch_end(self, state):
            seen.append((state.epoch, state.loss, state.step))
            if state.epoch == 4:
                state.stop()

    start = net.evaluate(X1, Y1)["loss"]
    history = fit(net, epochs=9, callbacks=[Look()], verbose=1, validation_data=(X1, Y1))
    assert history.epoch == [1, 2, 3, 4] and len(history.seconds) == 4
    assert history.loss[0] == start  # the cost before the step
    assert history.val_loss[:-1] == history.loss[1:] and seen == list(
        zip(history.epoch, history.loss, [1, 2, 3, 4], strict=True)
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("epoch 1/9  loss ") and "val_loss" in lines[0]
    by_batch = []

    class Each(bp.Callback):
        def on_batch_end(self, state):
            by_batch.append(state.loss)

    assert fit(net, epochs=2, callbacks=[Each()]).loss == by_batch


def test_names_and_settings():
    net, other = curve(), curve()
    fit(net, optimizer="levenberg_marquardt")
    fit(other)
    assert net.theta.tobytes() == other.theta.tobytes()
    for settings, error in (
        ({"damping": 0}, ValueError), ({"damping": -1}, ValueError), ({"damping": "1"}, TypeError),
        ({"factor": 1}, ValueError), ({"factor": 0.5}, ValueError), ({"factor": float("inf")}, ValueError),
        ({"tries": 0}, ValueError), ({"tries": 1.5}, TypeError), ({"tries": True}, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match=next(iter(settings))):
            bp.LevenbergMarquardt(**settings)


def test_where_nothing_makes_the_cost_fall_nothing_moves():
    X = RNG.standard_normal((20, 4))
    net = line(dtype="float32")
    y = net.predict(X)
    before = net.theta.tobytes()
    history = fit(net, X, y, 3)
    assert history.loss == [0, 0, 0] and net.theta.tobytes() == before and net.step == 0 and net.epoch == 3
    net = curve()
    start = net.evaluate(X1, Y1)["loss"]
    fit(net, optimizer=bp.LevenbergMarquardt(damping=1e-30, tries=1))
    assert net.evaluate(X1, Y1)["loss"] <= start


# ---- what it refuses ----


def test_refused():
    net, X, y = line(), RNG.standard_normal((9, 4)), RNG.standard_normal((9, 3))
    x = bp.Input(4)
    two = bp.Network(x, [bp.Dense(1)(x), bp.Dense(1)(x)])
    large = bp.Network([bp.Input(4), bp.Dense(2500), bp.Dense(3)])
    classes = bp.Network([bp.Input(4), bp.Dense(3, "softmax")])
    own = bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: 2 * (a - y))
    for net_, X_, y_, settings, words in (
        (net, X, y, {"batch_size": 8}, "batch_size: .*batch_size=None"),
        (net, X, y, {"loss": bp.losses.Huber()}, "loss: .*squared_error or mse.*huber"),
        (net, X, y, {"loss": own}, "loss: .*squared_error or mse"),
        (classes, X, np.arange(9) % 3, {}, "loss: .*cross_entropy"),
        (two, X, [y[:, :1]] * 2, {"loss": ["mse", bp.losses.Huber()]}, "loss: .*of each output, got .'mse', 'huber'"),
        (large, X, y, {}, r"optimizer: .*10,000 parameters, got 20,003"),
        (bp.Network(x, x + 1), X, X, {}, r"optimizer: .*1 to 10,000 parameters, got 0"),
    ):  # fmt: skip
        before = facts(net_)
        with pytest.raises(ValueError, match=words):
            fit(net_, X_, y_, **settings)
        assert facts(net_) == before
    fit(net, X, y, batch_size=9)


def test_a_cost_that_is_not_finite():
    """Overflow at the start raises, and leaves the parameters as they are; in a step it is not taken."""
    net = curve("float32")
    net.theta[:] = 3e38
    before = net.theta.copy()
    with pytest.raises(bp.DivergenceError, match="loss"):
        fit(net, X=X1.astype(np.float32), y=np.full_like(Y1, 3e38))
    assert (net.theta == before).all()
    far = bp.Network([bp.Input(1), bp.Dense(1, "exp"), bp.Dense(1, "exp")], dtype="float32")
    start = far.evaluate(X1, Y1 + 5)["loss"]
    fit(far, X1, Y1 + 5, 20, optimizer=bp.LevenbergMarquardt(damping=1e-12))
    assert np.isfinite(far.theta).all() and far.evaluate(X1, Y1 + 5)["loss"] <= start


def test_a_parameter_that_is_not_finite():
    """Also where tanh makes a finite cost of it: the error is that of SGD."""
    for value in (np.inf, -np.inf, np.nan):
        for optimizer in (bp.SGD(), bp.LevenbergMarquardt()):
            net = curve("float32")
            net.params["dense_1.W"][0, 0] = value
            with pytest.raises(bp.DivergenceError, match="^theta .* epoch 1, batch 1"):
                fit(net, optimizer=optimizer)
            assert net.step == net.epoch == 0


def test_ctrl_c_leaves_what_is_finite():
    """Wherever it comes, theta is that of a whole step, no worse than the one before."""
    net = bp.Network([bp.Input(8), bp.Dense(20, "tanh"), bp.Dense(10, "tanh"), bp.Dense(2)], dtype="float64")
    X, y = RNG.standard_normal((500, 8)), RNG.standard_normal((500, 2))
    cost = net.evaluate(X, y)["loss"]
    for seconds in (0.05, 0.11, 0.23):
        with interrupted(lambda: True, seconds):
            fit(net, X, y, 1_000_000)
        after = net.evaluate(X, y)["loss"]
        assert np.isfinite(net.theta).all() and after <= cost
        cost = after
    fit(net, X, y)
    assert net.evaluate(X, y)["loss"] <= cost
