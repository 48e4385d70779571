"""LBFGS: the steps that SciPy makes on the cost, each an epoch, and like any optimiser in all else."""

import copy

import numpy as np
import pytest
import reference as ref
from conftest import distance, flat, oracle
from fitting import interrupted
from scipy.optimize import minimize

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(0)
X1 = np.linspace(-2, 2, 60)[:, None]
Y1 = np.sin(2 * X1)
WEIGHT = RNG.uniform(0.2, 2, 60)


def curve(dtype="float64", units=6, seed=0):
    return bp.Network([bp.Input(1), bp.Dense(units, "tanh"), bp.Dense(1)], dtype=dtype, seed=seed)


def fit(net, X=X1, y=Y1, epochs=1, **settings):
    return net.fit(X, y, epochs=epochs, **{"optimizer": bp.LBFGS(), "batch_size": None, **settings})


def facts(net):
    return net.theta.tobytes(), net.step, net.epoch, net._model.memory


def on_the_oracle(net, epochs, optimizer):
    """theta after so many iterations of SciPy on the cost of reference.py, and the costs before each and at the end."""
    W, b, names = oracle(net)

    def cost(theta):
        at = 0
        for k in range(1, len(W)):
            for part in (W[k].T, b[k]):
                part[...] = theta[at : at + part.size].reshape(part.shape)
                at += part.size
        C, _, dW, db, _ = ref.backward(W, names, *ref.forward(W, b, names, X1), Y1, "squared_error", WEIGHT)
        costs[theta.tobytes()] = C
        return C, flat(dW, db)

    costs, path = {}, [net.theta.astype(float)]
    options = {"maxcor": optimizer.history, "gtol": optimizer.gtol, "ftol": optimizer.ftol, "maxiter": epochs}
    minimize(cost, path[0], jac=True, method="L-BFGS-B", callback=lambda x: path.append(x.copy()), options=options)
    return path[-1], [costs[x.tobytes()] for x in path]


# ---- its steps ----


@pytest.mark.parametrize("optimizer", [bp.LBFGS(), bp.LBFGS(history=2, ftol=0, gtol=0)], ids=str)
def test_its_steps_are_scipys_on_the_cost(optimizer):
    net = curve()
    theta, costs = on_the_oracle(net, 15, optimizer)
    history = fit(net, epochs=15, optimizer=optimizer, sample_weight=WEIGHT, validation_data=(X1, Y1))
    np.testing.assert_allclose(history.loss, costs[:-1], rtol=1e-10)  # before each step
    assert distance(net.theta, theta) < 1e-8
    assert net.evaluate(X1, Y1, sample_weight=WEIGHT)["loss"] == pytest.approx(costs[-1], rel=1e-10)
    assert history.val_loss[-1] == net.evaluate(X1, Y1)["loss"] and net.step == net.epoch == 15


def test_float32_networks_get_near_to_what_float64_finds():
    single, double = curve("float32"), curve()
    double.theta = single.theta
    assert distance(*(fit(net, epochs=12) and net.theta for net in (single, double))) < 1e-3
    assert single.dtype == np.float32


def test_it_ends_where_nothing_is_left_to_gain():
    """Linear least squares: what lstsq finds; the last epoch has the cost there, and no step."""
    X, y = RNG.standard_normal((50, 4)), RNG.standard_normal((50, 3))
    best = np.linalg.lstsq(np.c_[X, np.ones(50)], y, rcond=None)[0]
    for dtype, tolerance in (("float64", 1e-4), ("float32", 1e-3)):
        net = bp.Network([bp.Input(4), bp.Dense(3)], dtype=dtype)
        history = fit(net, X, y, 1000)
        assert distance(net.params["dense_1.W"], best[:4]) < tolerance
        assert len(history.loss) < 60 and net.step == net.epoch - 1 == len(history.loss) - 1
        assert history.loss[-1] == pytest.approx(net.evaluate(X, y)["loss"], rel=1e-6)
        before = net.theta.tobytes()
        again = fit(net, X, y, 3, optimizer=bp.LBFGS(gtol=1.0))
        assert again.loss == history.loss[-1:] and net.theta.tobytes() == before
    assert len(fit(curve(), epochs=50, optimizer=bp.LBFGS(gtol=0.03)).loss) < 15
    assert len(fit(curve(), epochs=50, optimizer=bp.LBFGS(ftol=0.03)).loss) < 15


def test_any_number_of_threads_has_the_same_bits(force):
    X, y = RNG.standard_normal((300, 4)), RNG.standard_normal((300, 3))
    for phase2 in ("owners", "shards"):
        force(True, phase2)
        found = []
        for n_threads in (1, 2, 3):
            net = bp.Network([bp.Input(4), bp.Dense(5, "tanh"), bp.Dense(3)])
            found.append((fit(net, X, y, 5, n_threads=n_threads).loss, facts(net)))
        assert found[0] == found[1] == found[2]


def test_frozen_layers_stay_and_the_others_find_their_best():
    net = curve()
    net.frozen = {"dense_1"}
    before = net.params["dense_1.W"].tobytes(), net.params["dense_1.b"].tobytes()
    fit(net, epochs=500, optimizer=bp.LBFGS(gtol=1e-10, ftol=0))
    assert before == (net.params["dense_1.W"].tobytes(), net.params["dense_1.b"].tobytes())
    features = np.c_[np.tanh(X1 @ net.params["dense_1.W"] + net.params["dense_1.b"]), np.ones(60)]
    best = np.linalg.lstsq(features, Y1, rcond=None)[0]
    assert net.evaluate(X1, Y1)["loss"] == pytest.approx(((features @ best - Y1) ** 2).mean() / 2, abs=1e-7)
    net.frozen = {"dense_1", "dense_2"}
    assert len(fit(net, epochs=5).loss) == 1 and net.epoch > net.step


def test_rows_of_fit_many_are_those_of_a_fit_on_them():
    rows = np.arange(0, 60, 2)
    net, twin = curve(), curve()
    bp.fit_many([net], X1, Y1, rows=[rows], optimizer=bp.LBFGS(), batch_size=None, epochs=5)
    fit(twin, X1[rows], Y1[rows], 5)
    assert distance(net.theta, twin.theta) < 1e-10


# ---- as any optimiser ----


@pytest.mark.parametrize("how", ["again", "file"])
def test_the_next_fit_goes_on_from_there(how, tmp_path):
    net = curve()
    fit(net, epochs=3)
    twin = net.copy()
    if how == "file":
        net.save(tmp_path / "net")
        twin = bp.load(tmp_path / "net")
    assert twin.optimizer == bp.LBFGS()
    losses = [fit(each, epochs=3, optimizer=None).loss for each in (net, twin)]
    assert losses[0] == losses[1] and facts(net) == facts(twin)
    assert net.step == net.epoch == net._model.memory.updates == 6


def test_callbacks_stop_restore_write_and_change_settings():
    """Each begins anew from there, as another fit would."""
    fewer, theta, by_batch, steps = bp.LBFGS(history=3), curve(seed=7).theta.copy(), [], []

    class Look(bp.Callback):
        start = None

        def on_batch_end(self, state):
            by_batch.append(state.loss)

        def on_epoch_end(self, state):
            steps.append((state.epoch, state.step))
            if state.epoch == 3 and not self.start:
                self.start = state.snapshot()
            elif state.epoch == 5 and state.optimizer != fewer:
                state.restore(self.start)
                state.optimizer = fewer
            elif state.step == 6:
                state.net.theta[:] = theta
            elif state.step == 8:
                state.stop()

    net, twin = curve(), curve()
    history = fit(net, epochs=30, callbacks=Look())
    assert steps == [(k, k) for k in (1, 2, 3, 4, 5, 4, 5, 6, 7, 8)]
    want = fit(twin, epochs=5).loss
    twin = curve()
    fit(twin, epochs=3)
    want += fit(twin, epochs=3, optimizer=fewer).loss
    twin.theta = theta
    want += fit(twin, epochs=2, optimizer=fewer).loss
    assert history.loss == by_batch == want and facts(net) == facts(twin)


def test_early_stopping_takes_back_the_best_epoch():
    net = curve(units=12)
    far = X1 + 1.5, np.sin(2 * X1 + 3)
    stopping = bp.EarlyStopping(patience=3)
    history = fit(net, epochs=200, validation_data=far, callbacks=stopping)
    assert min(history.val_loss) == net.evaluate(*far)["loss"] and net.epoch == stopping.best_epoch


@pytest.mark.parametrize("error", [StopIteration("mine"), ZeroDivisionError("mine"), KeyboardInterrupt()])
def test_what_a_callback_raises_comes_through(error):
    def fail(state):
        if state.epoch == 2:
            raise error

    net, twin = curve(), curve()
    with pytest.raises(type(error)):
        fit(net, epochs=9, callbacks=fail)
    fit(twin, epochs=2)
    assert facts(net) == facts(twin) and _core.blas_threads()[1] == 0


def test_callbacks_have_blas_as_it_was():
    held = []
    fit(curve(), epochs=2, callbacks=lambda state: held.append(_core.blas_threads()[1]))
    assert held == [0, 0]


def test_a_function_of_the_users_may_not_go_back_within_a_step():
    class Once(bp.Callback):
        def on_fit_begin(self, state):
            self.state, self.start = state, state.snapshot()

    once = Once()

    def value(a, y):
        once.state.restore(once.start)
        return ((a - y) ** 2).sum(1)

    net = curve()
    with pytest.raises(RuntimeError, match="a step is being made"):
        fit(net, loss=bp.Loss(value, lambda a, y: 2 * (a - y)), callbacks=once)
    assert net.step == 0


def test_ctrl_c_leaves_the_last_point_that_was_accepted():
    net = bp.Network([bp.Input(8), bp.Dense(40, "tanh"), bp.Dense(2)])
    X, y = RNG.standard_normal((4000, 8)), RNG.standard_normal((4000, 2))
    start, points, never = copy.deepcopy(net), [], bp.LBFGS(gtol=0, ftol=0)
    with interrupted(lambda: points):
        fit(net, X, y, 10**6, optimizer=never, callbacks=lambda state: points.append(state.net.theta.tobytes()))
    assert net.step - len(points) in (0, 1)  # the signal may come between a step and its callback
    fit(start, X, y, net.step, optimizer=never)
    assert net.theta.tobytes() == start.theta.tobytes()


# ---- what it refuses ----


def test_refused():
    x = bp.Input(1)
    drawn = bp.Network([bp.Input(1), bp.Dense(4, "relu"), bp.Dropout(0.2, name="drop"), bp.Dense(1)])
    for net, settings, words in (
        (curve(), {"batch_size": 8}, "batch_size: LBFGS takes all examples at once; use batch_size=None"),
        (drawn, {}, "optimizer: LBFGS is for networks that draw nothing, and drop does"),
        (drawn, {"optimizer": bp.LevenbergMarquardt()}, "LevenbergMarquardt is for networks that draw nothing, and"),
        (curve(), {"callbacks": bp.ReduceOnPlateau("loss")}, "ReduceOnPlateau expects .* which has none"),
    ):
        before = facts(net)
        with pytest.raises((ValueError, TypeError), match=words):
            fit(net, **settings)
        assert facts(net) == before
    fit(bp.Network(x, bp.Dense(1)(bp.Dropout(0.0)(x))), batch_size=60)
    for settings, error in (
        ({"history": 0}, ValueError), ({"history": 2.5}, TypeError), ({"tries": 0}, ValueError),
        ({"gtol": -1}, ValueError), ({"ftol": "1"}, TypeError), ({"gtol": float("nan")}, ValueError),
        ({"clip_norm": 1.0}, TypeError), ({"ema": 0.9}, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match=next(iter(settings))):
            bp.LBFGS(**settings)


def test_a_cost_that_is_not_finite():
    """At the start it raises; a step to such begins anew, and raises where its first step leads there, too."""
    net = curve("float32")
    net.theta[:] = 3e38
    before = net.theta.tobytes()
    with pytest.raises(bp.DivergenceError, match="^the loss .* epoch 1, batch 1"):
        fit(net, X1.astype(np.float32), np.full_like(Y1, 3e38))
    assert net.theta.tobytes() == before and net.step == net.epoch == 0
    for value in (np.inf, np.nan):
        net = curve("float32")
        net.params["dense_1.W"][0, 0] = value
        with pytest.raises(bp.DivergenceError, match="^theta .* epoch 1, batch 1"):
            fit(net)
    tops = []

    def walled(within):
        """(a - y)^2, and infinite in these calls."""

        def value(a, y):
            tops.append(len(tops))
            return np.where(tops[-1] in within, np.inf, ((a - y) ** 2).sum(1))

        tops.clear()
        return bp.Loss(value, lambda a, y: 2 * (a - y))

    net, twin = curve(), curve()
    fit(net, epochs=6, loss=walled({7}))
    assert net.step == 6
    with pytest.raises(bp.DivergenceError, match="^the loss .* batch 1; the network keeps"):
        fit(twin, epochs=6, loss=walled(set(range(7, 99))))
    assert 0 < twin.step < 6 and np.isfinite(twin.theta).all()
    other = curve()
    fit(other, epochs=twin.step, loss=walled(set()))
    assert facts(other) == facts(twin)


def test_a_cost_that_falls_off_a_cliff_is_passed():
    """exp outputs overflow on far steps: the pairs are forgotten, and it goes on."""
    far = bp.Network([bp.Input(1), bp.Dense(1, "exp"), bp.Dense(1, "exp")])
    start = far.evaluate(X1, Y1 + 5)["loss"]
    fit(far, X1, Y1 + 5, 30)
    assert np.isfinite(far.theta).all() and far.evaluate(X1, Y1 + 5)["loss"] < start


def test_the_history_says_why_it_ended():
    """A gradient that is small, a step that gains little, none that gains: else no message."""
    for optimizer, message in (
        (bp.LBFGS(gtol=0.03), "LBFGS: no element of the gradient is beyond gtol=0.03"),
        (bp.LBFGS(ftol=0.03), "LBFGS: the last step made the cost less by at most ftol=0.03 of it"),
        (bp.LBFGS(gtol=0, ftol=0, tries=1), "LBFGS: no step makes the cost less (ABNORMAL"),
    ):
        history = fit(curve("float32"), epochs=5000, optimizer=optimizer)
        assert len(history.loss) < 5000 and history.message.startswith(message)
        assert f"; {history.message}" in repr(history)
    assert fit(curve(), epochs=3).message is None
    still = curve()
    still.frozen = {"dense_1", "dense_2"}
    assert fit(still, epochs=3).message == "LBFGS: all layers are frozen"
    (history,) = bp.fit_many([curve()], X1, Y1, optimizer=bp.LBFGS(gtol=0.03), batch_size=None, epochs=50)
    assert history.message.endswith("gtol=0.03")


def test_after_adam_it_drops_nothing_worth_a_warning():
    """Warnings are errors here."""
    net = curve()
    net.fit(X1, Y1, optimizer=bp.Adam(), epochs=2)
    fit(net, epochs=2)
    net.fit(X1, Y1, optimizer=bp.Adam())
    assert net.step == 2 * 2 + 2 + 2
