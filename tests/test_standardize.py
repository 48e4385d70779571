"""Standardize and standardize_y: what is learnt and from which rows, values in every call, files, refusals.

test_layers.py and test_random_graphs.py have derivatives, bits and parts of networks with Standardize.
"""

import copy
import pickle

import numpy as np
import pytest
from conftest import distance
from safetensors import safe_open

import bpcore as bp

RNG = np.random.default_rng(0)
N = 300
# a time stamp of seconds, one that is constant, one of 1e-6, one of whole numbers
X = np.stack([1.6e9 + RNG.uniform(0, 1e5, N), np.full(N, 1.6e9), RNG.normal(0, 1e-6, N), RNG.integers(0, 9, N)], 1)
Y = 1e6 + 3e4 * np.sin((X[:, 0] - 1.6e9) / 2e4)[:, None] + RNG.normal(0, 1e3, (N, 1)) + [0.0, 1e7]
W = RNG.uniform(0, 2, N) * (RNG.random(N) < 0.8)
NO_WEIGHT = W == 0


def net_of(dtype="float32", layers=None, seed=1):
    return bp.Network([bp.Input(4), bp.Standardize(), *(layers or [bp.Dense(8, "tanh"), bp.Dense(2)])], dtype=dtype,
                      seed=seed)  # fmt: skip


def scaled(X, w=None):
    """By NumPy in float64, rows of weight 0 left out."""
    w = np.ones(len(X)) if w is None else w
    kept = X[w > 0].reshape(-1, X.shape[-1])
    w = np.repeat(w[w > 0], len(kept) // (w > 0).sum())
    mean = np.average(kept, 0, w)
    scale = np.sqrt(np.average((kept - mean) ** 2, 0, w))
    return mean, np.where(kept.max(0) == kept.min(0), 1, scale)


# ---- the layer ----


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["f8", ">f8", "i8", "strided", "turned", "g", "f4"])
def test_every_call_reads_time_stamps_in_float64(kind, weighted):
    """A network of float32 sees what float64 makes of them, to its own rounding."""
    given = np.round(X * 1e9) / 1e9
    if kind == "f4":
        given = X.astype("f4")
    elif kind == "i8":
        given = np.round(X).astype("i8")
    elif kind == "strided":
        given = np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3]
    elif kind == "turned":
        given = np.asfortranarray(X)
    else:
        given = X.astype(kind)
    exact, w = given.astype("f8"), W if weighted else None
    if weighted:
        exact = exact.copy()
    net = net_of()
    net.adapt(given, sample_weight=w)
    mean, scale = scaled(exact, w)
    assert np.allclose(net.moments["standardize_1.mean"], mean, rtol=1e-15, atol=1e-15)
    assert distance(net.moments["standardize_1.scale"], scale) < 1e-12
    want = (exact - mean) / scale
    inner = net.part("input", "standardize_1")
    assert np.abs(inner.predict(given) - want).max() < 1e-6 * max(1, np.abs(want).max())
    # the rest of the network, on numbers standardised by hand
    rest = bp.Network([bp.Input(4), bp.Dense(8, "tanh"), bp.Dense(2)], seed=1)
    rest.theta = net.theta
    Z = inner.predict(given)
    answers, Q = net.predict(given), RNG.normal(size=(N, 2))
    assert (answers == rest.predict(Z)).all()
    answer = net.predictor()
    assert (answer(given) == answers).all() and all((answer(given[i]) == answers[i]).all() for i in (0, 5))
    assert (net.forward(given).a[2] == answers).all() and (net.forward(given).a[0] == Z).all()
    assert net.evaluate(given, Q) == rest.evaluate(Z, Q)
    for one, other in zip(net.value_and_grad(given, Q), rest.value_and_grad(Z, Q), strict=True):
        assert np.array_equal(one, other)
    assert (net.per_sample_gradients(given, Q) == rest.per_sample_gradients(Z, Q)).all()
    v = RNG.normal(size=net.n_params)
    assert (net.hvp(given, Q, v) == rest.hvp(Z, Q, v)).all()
    assert (net.gauss_newton_product(given, Q, v) == rest.gauss_newton_product(Z, Q, v)).all()
    J = rest.jacobian(Z) / scale
    assert distance(net.jacobian(given), J) < 1e-6 and distance(net.input_gradient(given, output=1), J[:, 1]) < 1e-6
    grads, own = net.backward(net.forward(given), Q), rest.backward(rest.forward(Z), Q)
    assert (grads.theta == own.theta).all() and distance(grads.x, own.x / scale) < 1e-6
    # and training
    other = rest.copy()
    one = net.fit(given, Q, epochs=2, batch_size=7, optimizer="adam", sample_weight=w)
    two = other.fit(Z, Q, epochs=2, batch_size=7, optimizer="adam", sample_weight=w)
    assert one.loss == two.loss and (net.theta == other.theta).all()


def test_sequences_and_images_by_their_last_axis():
    images = RNG.normal([5, -300, 1e8], [1, 20, 3], (40, 6, 5, 3))
    net = bp.Network([bp.Input((6, 5, 3)), bp.Standardize(name="s"), bp.Conv2D(2, 3)])
    net.adapt(images)
    mean, scale = scaled(images)
    for given in (images, np.moveaxis(np.moveaxis(images, 1, 3).copy(), 3, 1)):  # of several runs of memory
        assert np.abs(net.part("input", "s").predict(given) - (images - mean) / scale).max() < 1e-6
    net = bp.Network([bp.Input((6, 15)), bp.Standardize(name="s"), bp.GRU(3, sequences=True), bp.Dense(1)])
    series = images.reshape(40, 6, 15)
    net.adapt(series)
    step, whole = net.stepper(streams=40), net.predict(series)
    assert all((step(series[:, t]) == whole[:, t]).all() for t in range(6))
    # positions that a mask leaves out do not count
    w = np.ones((40, 6))
    w[:, 4:] = 0
    net = bp.Network([bp.Input((6, 15)), bp.Standardize(name="s"), bp.Dense(1)])
    net.fit(series, np.zeros((40, 6, 1)), sample_weight=w)
    assert distance(net.moments["s.mean"], series[:, :4].reshape(-1, 15).mean(0)) < 1e-14


def test_an_input_that_is_read_as_it_is_too():
    x, t = bp.Input(4, name="x"), bp.Input(2, name="t")
    h = bp.concat([bp.Standardize(name="s")(x), x, bp.Standardize(name="u")(t)])
    net = bp.Network([x, t], [bp.Dense(2)(h), x * 2.0], dtype="float64")
    net.adapt([X, Y])
    a, b = net.predict([X, Y])
    z = np.hstack([(X - scaled(X)[0]) / scaled(X)[1], X, (Y - scaled(Y)[0]) / scaled(Y)[1]])
    W = net.params["dense_1.W"]
    assert distance(a, z @ W + net.params["dense_1.b"]) < 1e-12 and (b == 2 * X).all()
    answer = net.predictor()
    assert all((p == q).all() for p, q in zip(answer([X, Y]), (a, b), strict=True))
    assert all((p == q[3]).all() for p, q in zip(answer([X[3], Y[3]]), (a, b), strict=True))
    by_x, by_t = net.jacobian([X[:5], Y[:5]])[0]
    assert distance(by_x, (W[:4] / scaled(X)[1][:, None] + W[4:8]).T[None].repeat(5, 0)) < 1e-12
    assert distance(by_t, (W[8:] / scaled(Y)[1][:, None]).T[None].repeat(5, 0)) < 1e-12


def test_fit_learns_once_from_the_rows_it_trains_on():
    """From those alone: not of validation data, not of weight 0, not twice."""
    net = net_of()
    with pytest.raises(ValueError, match=r"standardize_1: expected to know .* call net.adapt\(X\), or fit"):
        net.predict(X)
    net.fit(X[:200], Y[:200], validation_data=(X[200:], Y[200:]), sample_weight=W[:200], optimizer=bp.SGD(1e-14))
    first = net.moments
    assert distance(first["standardize_1.mean"], scaled(X[:200], W[:200])[0]) < 1e-15
    net.fit(X[200:], Y[200:], optimizer=bp.SGD(1e-14))
    assert all((net.moments[name] == first[name]).all() for name in first)
    net.adapt(X[200:])
    assert (net.moments["standardize_1.mean"] != first["standardize_1.mean"]).any()
    with pytest.raises(ValueError, match="read-only"):
        net.moments["standardize_1.mean"][0] = 1


def test_blocks_are_joined_without_loss():
    """Of many rows, of an outlier first, and of a constant that float64 rounds: (0.1 + 0.1 + 0.1) / 3 > 0.1."""
    big = 1e9 + RNG.normal(0, 1e-3, (70_000, 2))
    big[0, 0], big[:, 1] = 1e9 + 1e4, 0.1
    net = bp.Network([bp.Input(2), bp.Standardize(), bp.Dense(1)])
    net.adapt(big)
    d = big[:, 0] - 1e9
    assert abs(net.moments["standardize_1.mean"][0] - 1e9 - d.mean()) < 2e-7
    assert abs(net.moments["standardize_1.scale"][0] / d.std() - 1) < 1e-9
    assert net.moments["standardize_1.mean"][1] == 0.1 and net.moments["standardize_1.scale"][1] == 1
    assert (net.part("input", "standardize_1").predict(big)[:, 1] == 0).all()


def many_of(nets, **settings):
    rows = [np.arange(k, N, 2) for k in range(len(nets))]
    bp.fit_many(nets, X, Y / 1e6, rows=rows, sample_weight=W, epochs=3, optimizer=bp.Adam(lr=0.01), **settings)
    return rows


@pytest.mark.parametrize("settings", [{}, {"standardize_y": True}], ids=str)
def test_fit_many_learns_from_each_networks_rows(settings):
    nets = [net_of(seed=k) for k in range(2)]
    alone = [net.copy() for net in nets]
    for net, twin, rows in zip(nets, alone, many_of(nets, **settings), strict=True):
        twin.fit(X[rows], Y[rows] / 1e6, sample_weight=W[rows], epochs=3, optimizer=bp.Adam(lr=0.01), **settings)
        assert all((net.moments[name] == value).all() for name, value in twin.moments.items())
        assert (net.theta == twin.theta).all()


def test_many_networks_of_the_same_rows_and_an_ensemble():
    nets = [net_of(seed=k, layers=[bp.Dense(3, "tanh"), bp.Dense(2)]) for k in range(9)]  # some side by side in lanes
    alone = [net.copy() for net in nets]
    bp.fit_many(nets, X, Y, epochs=3, standardize_y=True)
    for net, twin in zip(nets, alone, strict=True):
        twin.fit(X, Y, epochs=3, standardize_y=True)
        assert (net.theta == twin.theta).all() and (net.predict(X) == twin.predict(X)).all()
    ensemble = bp.Ensemble(nets[:2] + [net_of(seed=7)])
    ensemble.members[2].adapt(X)  # whose outputs have no units of their own
    mean, spread = ensemble.predict(X, spread=True)
    answer = ensemble.predictor()
    assert (answer(X) == mean).all() and (answer(X[4], spread=True)[1] == spread[4]).all()
    assert (bp.Ensemble(nets[:1]).predictor()(X) == nets[0].predict(X)).all()
    loss = bp.Ensemble(nets[:2]).evaluate(X, Y, loss="mse")["loss"]
    assert np.isclose(loss, ((bp.Ensemble(nets[:2]).predict(X).astype(float) - Y) ** 2).mean(), rtol=1e-5)
    plain = [bp.Network([bp.Input(4), bp.Dense(3, "tanh"), bp.Dense(2)], seed=k) for k in range(8)]
    bp.fit_many(plain, X - X.mean(0), Y, standardize_y=True)
    ensemble = bp.Ensemble(plain)
    assert (ensemble.predictor()(X) == ensemble.predict(X)).all()
    assert np.allclose(ensemble.predict(X), np.mean([net.predict(X) for net in plain], 0), rtol=1e-6)


def test_a_call_that_makes_no_step_leaves_nothing_learnt():
    for bad in (lambda net: net.fit(X, Y, epochs=1, optimizer=bp.SGD(lr=1e38, clip_norm=1e38)),
                lambda net: net.fit(X, np.full_like(Y, 1e30), loss="squared_error")):  # fmt: skip
        net = net_of()
        theta = net.theta.copy()
        with pytest.raises(bp.DivergenceError):
            bad(net)
        assert net.step == 0 and (net.theta == theta).all() and net.moments == {}
    net = net_of()
    with pytest.raises(ValueError, match="monitor|watches"):
        net.fit(X, Y, callbacks=bp.EarlyStopping())
    assert net.moments == {}
    (history,) = bp.fit_many([net], X, np.full_like(Y, 1e30))
    assert history.error and net.moments == {}

    def stop(state):
        raise KeyboardInterrupt

    callback = bp.Callback()
    callback.on_fit_begin = stop
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, callbacks=[callback])
    assert net.moments == {}
    net.fit(X, Y, epochs=0)
    assert net.moments


def test_restarts_keep_the_units_that_frozen_layers_were_trained_in():
    net = net_of()
    net.fit(X, Y, standardize_y=True)
    net.frozen = {"dense_1"}
    best, _ = bp.fit_restarts(net, 10 * X + 5, Y, 2)
    for name, own in net.moments.items():
        np.testing.assert_array_equal(best.moments[name], own)


def test_files_pickles_copies_parts_and_networks_within_others(tmp_path):
    net = net_of()
    net.save(tmp_path / "new")
    assert bp.load(tmp_path / "new").moments == {}
    net.fit(X, Y, standardize_y=True)
    assert set(net.moments) == {"standardize_1.mean", "standardize_1.scale", "dense_2.y_mean", "dense_2.y_scale"}
    net.save(tmp_path / "net")
    with safe_open(tmp_path / "net", "np") as file:
        assert file.metadata()["bpcore_format"] == "2"
        assert file.get_tensor("standardize_1.mean").dtype == np.float64
    x = bp.Input(4)
    twins = [bp.load(tmp_path / "net"), pickle.loads(pickle.dumps(net)), net.copy(), copy.deepcopy(net),
             bp.Network(x, net(x)), net.part("input", "dense_2")]  # fmt: skip
    for twin in twins:
        assert (twin.predict(X) == net.predict(X)).all()
        assert [(a == b).all() for a, b in zip(twin.moments.values(), net.moments.values(), strict=True)] == [True] * 4
        with pytest.raises(ValueError, match="read-only"):
            next(iter(twin.moments.values()))[0] = 1
    bp.Ensemble([net, twins[0]]).save(tmp_path / "both")
    assert (bp.Ensemble.load(tmp_path / "both").predict(X) == net.predict(X)).all()
    assert "dense_2.y_mean" not in net.part("input", "dense_1").moments
    with pytest.raises(ValueError, match="dense_2 of a network that was fitted with standardize_y=True gives"):
        bp.Network(x, bp.Dense(1)(net(x)))


@pytest.mark.parametrize("what, value", [("scale", 0.0), ("scale", -1.0), ("scale", 1e-320), ("scale", np.inf),
                                         ("mean", np.nan)])  # fmt: skip
def test_files_with_other_numbers_are_refused(tmp_path, what, value):
    net = net_of()
    net.adapt(X)
    moments = net._model.moments["standardize_1"]
    a = getattr(moments, what)
    a.flags.writeable = True
    net.save(tmp_path / "net")
    data = (tmp_path / "net").read_bytes()
    bad = data.replace(a.tobytes(), np.array([*a[:3], value]).tobytes())
    assert bad != data
    (tmp_path / "net").write_bytes(bad)
    with pytest.raises(ValueError, match="load: .* is not a bpcore network: .*(expected|not finite)"):
        bp.load(tmp_path / "net")


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"Standardize\(\): expected a bp.Input before it, got Dense\(3"):
        bp.Network([bp.Input(4), bp.Dense(3), bp.Standardize()])
    with pytest.raises(ValueError, match="whole numbers go through bp.Embedding"):
        bp.Standardize()(bp.Input(3, integer=True))
    layer, a, b = bp.Standardize(), bp.Input(2), bp.Input(2)
    with pytest.raises(ValueError, match=r"Standardize\(\) stands behind two inputs; give each"):
        bp.Network([a, b], layer(a) + layer(b))
    with pytest.raises(ValueError, match="adapt: expected a network with a bp.Standardize layer"):
        bp.Network([a, bp.Dense(1)]).adapt(X)
    net = net_of("float64")
    wrong = X.copy()
    wrong[3, 2] = np.nan
    with pytest.raises(ValueError, match="column 2 has others"):
        net.fit(wrong, Y, check_finite=False)
    with pytest.raises(ValueError, match="column 1 has others"):
        net.adapt(np.where(np.arange(4) == 1, 1e300 * RNG.normal(size=(N, 4)), 1.0))
    with pytest.raises(ValueError, match="sample_weight: expected shape"):
        net.adapt(X, sample_weight=W[:5])
    assert net.moments == {}
    seen = []
    net.fit(X, Y / 1e6, callbacks=lambda state: seen.append(pytest.raises(RuntimeError, state.net.adapt, X)))
    assert seen


# ---- targets ----

LOSSES = {
    "mse": (2, Y), "squared_error": (2, Y), "mae": (1, Y[:, 0]), "huber": (1, Y[:, :1]), "log_cosh": (2, Y),
    "student_t": (2, Y), "gaussian_nll": (4, Y), "crps_gaussian": (2, Y[:, 0]), "levels": (6, Y), "own": (2, Y),
    "whole": (2, Y.astype(int)),
}  # fmt: skip


def loss_of(name):
    if name == "levels":
        return bp.losses.Quantile([0.1, 0.5, 0.9])
    if name in ("own", "whole"):
        return bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: 2 * (a - y))
    return name


@pytest.mark.parametrize("name", LOSSES)
def test_the_network_learns_scaled_targets_and_answers_in_units_of_y(name):
    """As a network that was given (y - mean) / scale, whose answers a are mean + scale a."""
    n_out, y = LOSSES[name]
    loss, layers = loss_of(name), [bp.Dense(5, "tanh"), bp.Dense(n_out)]
    mean, scale = scaled(y.reshape(N, -1).astype(float), W)
    Z = ((y.reshape(N, -1) - mean) / scale).reshape(y.shape)
    ends, more = (slice(200), slice(200, N)), {"optimizer": "adam", "epochs": 3, "loss": loss}
    net, plain = (net_of("float64", layers) for _ in range(2))
    mean, scale = scaled(y[:200].reshape(200, -1).astype(float), W[:200])
    Z = ((y.reshape(N, -1) - mean) / scale).reshape(y.shape)
    (first, second), histories = ends, []
    for one, targets, settings in ((net, y, {"standardize_y": True}), (plain, Z, {})):
        histories.append(one.fit(X[first], targets[first], sample_weight=W[first], **settings,
                                 validation_data=(X[second], targets[second]), **more))  # fmt: skip
        histories.append(one.fit(X[first], targets[first], sample_weight=W[first], **more))  # which keeps them
    for one, other in zip(histories[:2], histories[2:], strict=True):
        assert np.allclose(one.loss, other.loss, rtol=1e-9) and np.allclose(one.val_loss, other.val_loss, rtol=1e-9)
    assert distance(net.theta, plain.theta) < 1e-9
    a, width = plain.predict(X), mean.size
    units, shift = np.ones(n_out), np.zeros(n_out)
    for part in range(n_out // width if name == "levels" else 1):
        units[part * width : (part + 1) * width], shift[part * width : (part + 1) * width] = scale, mean
    if name in ("gaussian_nll", "crps_gaussian"):
        shift[width:] = 2 * np.log(scale)
    want = shift + units * a
    answers, tape = net.predict(X), net.forward(X)
    assert distance(answers, want) < 1e-9
    assert (net.predictor()(X) == answers).all() and (net.predictor()(X[7]) == answers[7]).all()
    assert (
        (tape.a[2] == answers).all() and distance(tape.z[2], a) < 1e-9 and np.allclose(tape.df[2][0], units, rtol=1e-12)
    )
    assert np.isclose(net.evaluate(X, y, loss=loss)["loss"], plain.evaluate(X, Z, loss=loss)["loss"], rtol=1e-9)
    one, other = (o.value_and_grad(X, t, loss=loss)[1] for o, t in ((net, y), (plain, Z)))
    assert distance(one, other) < 1e-7
    grads = net.backward(tape, y, loss=loss)
    assert distance(grads.theta, other) < 1e-7 and distance(grads.delta[2].T @ tape.a[1] / N, grads.W[2]) < 1e-12
    assert distance(net.jacobian(X), plain.jacobian(X) * units[:, None]) < 1e-9
    assert distance(net.input_gradient(X, output=0), plain.input_gradient(X, output=0) * units[0]) < 1e-9


def test_metrics_are_in_units_of_y():
    net = net_of("float64")
    history = net.fit(X[:200], Y[:200], standardize_y=True, metrics=["mae", "r2"], train_metrics=True, epochs=2,
                      validation_data=(X[200:], Y[200:]))  # fmt: skip
    error = np.abs(net.predict(X[200:]) - Y[200:]).mean()
    assert error > 1000 and np.isclose(history["val_mae"][-1], error)
    assert np.isclose(history["mae"][-1], np.abs(net.predict(X[:200]) - Y[:200]).mean())
    assert history.val_loss[-1] == net.evaluate(X[200:], Y[200:])["loss"] < 100


def test_large_targets_are_learnt():
    """Which diverge without it; and float32 answers near 1e7 are right to its rounding."""
    net = net_of(layers=[bp.Dense(16, "tanh"), bp.Dense(2)])
    with pytest.raises(
        bp.DivergenceError, match=r"y reaches .*: scale it, .* or by fit\(standardize_y=True\) of a new"
    ):
        net.copy().fit(X, Y, optimizer=bp.SGD(lr=10.0), epochs=50)
    net.fit(X, Y, optimizer=bp.Adam(lr=0.02), epochs=200, batch_size=50, standardize_y=True)
    assert net.evaluate(X, Y, metrics="rmse")["rmse"] < 3000


@pytest.mark.parametrize("layer", [bp.Dense(1), bp.Conv1D(1, 1)], ids=repr)
def test_targets_of_sequences(layer):
    """By column, over all steps that count; y without the last axis is one column."""
    series, y = RNG.normal(size=(40, 6, 2)), 1e5 + 10 * RNG.normal(size=(40, 6))
    mask = (RNG.random((40, 6)) < 0.7) * 1.0
    net = bp.Network([bp.Input((6, 2)), layer], dtype="float64")
    net.fit(series, y, sample_weight=mask, standardize_y=True)
    (name,) = net.outputs
    assert np.isclose(net.moments[f"{name}.y_mean"], y[mask > 0].mean(), rtol=1e-14)
    assert np.isclose(net.moments[f"{name}.y_scale"], y[mask > 0].std(), rtol=1e-9)
    assert np.abs(net.predict(series) - 1e5).max() < 1000


@pytest.mark.parametrize("optimizer", [bp.LevenbergMarquardt(), bp.LBFGS(), bp.Rprop()], ids=repr)
def test_methods_that_take_all_rows(optimizer):
    net = net_of("float64", [bp.Dense(3, "tanh"), bp.Dense(1)])
    history = net.fit(X, Y[:, 0], optimizer=optimizer, epochs=30, batch_size=None, standardize_y=True)
    assert history.loss[-1] < 0.5 * history.loss[0] < 2
    assert np.isclose(net.evaluate(X, Y[:, 0])["loss"], ((net.predict(X)[:, 0] - Y[:, 0]) ** 2).mean() / 2
                      / net.moments["dense_2.y_scale"] ** 2)  # fmt: skip


REFUSED = {
    "softmax": ([bp.Dense(2, "softmax")], "auto", Y[:, 0].astype(int) % 2, "an output without activation, and dense_1"),
    "relu": ([bp.Dense(2, "relu")], "mse", Y, "has relu; end with bp.Dense"),
    "gru": ([bp.Reshape((2, 2)), bp.GRU(2)], "mse", Y, "an output without activation, and gru_1"),
    "hinge": ([bp.Dense(1)], "hinge", np.sign(Y[:, 0]), "a loss of differences from y .*, and dense_1 has hinge"),
    "counts": ([bp.Dense(2)], "poisson", Y, "and dense_1 has poisson"),
    "own": ([bp.Dense(1)], loss_of("own"), Y, "a column for each of the 1 outputs of dense_1, got 2"),
    "a number": ([bp.Dense(2)], "mse", Y, "standardize_y: expected True or False, got 3"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_standardize_y_refuses(case):
    layers, loss, y, words = REFUSED[case]
    net = bp.Network([bp.Input(4), *layers])
    with pytest.raises((ValueError, TypeError), match=words):
        net.fit(X / 1e9, y, loss=loss, standardize_y=3 if case == "a number" else True)
    assert net.step == 0 and net.moments == {}


def test_a_network_that_was_fitted_without_it():
    net = net_of()
    net.fit(X, Y / 1e6)
    with pytest.raises(ValueError, match="standardize_y: expected a network that was not fitted without it"):
        net.fit(X, Y, standardize_y=True)


def test_another_loss_than_that_of_the_fit():
    net = net_of("float64")
    net.fit(X, Y, standardize_y=True)
    for loss in ("gaussian_nll", "hinge"):
        with pytest.raises(
            ValueError, match=f"dense_2 was fitted with standardize_y=True, and {loss} does not read it"
        ):
            net.evaluate(X, np.ones(N) if loss == "gaussian_nll" else np.ones((N, 2)), loss=loss)
    assert net.evaluate(X, Y, loss="mae")["loss"] < 10


def test_threads_change_no_bits():
    nets = [net_of(seed=3) for _ in range(3)]
    for net, n in zip(nets, (1, 2, 3), strict=True):
        net.fit(X, Y, standardize_y=True, sample_weight=W, epochs=2, n_threads=n)
        assert all((net.moments[name] == nets[0].moments[name]).all() for name in net.moments)
        assert (net.theta == nets[0].theta).all() and (net.predict(X, n_threads=n) == nets[0].predict(X)).all()
