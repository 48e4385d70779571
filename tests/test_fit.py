"""What `fit`, `predict` and `evaluate` mean: steps, optimiser state, weights, views, words on screen."""

import copy
import pickle
import re
import warnings
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from fitting import LABELS, At, Recorder, X, Y, make, state_of
from scipy.optimize import minimize
from scipy.special import softmax, xlogy

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(1)


# ---- epochs, batches, order ----


def test_no_epochs():
    net, recorder = make(), Recorder()
    before = net.theta.tobytes()
    history = net.fit(X, Y, epochs=0, callbacks=recorder)
    assert history.epoch == history.loss == [] and net.epoch == net.step == 0 and net.theta.tobytes() == before
    assert [name for name, *_ in recorder.log] == ["begin", "end"]


@pytest.mark.parametrize(
    "n, batch, steps", [(10, 4, 3), (10, 5, 2), (10, 10, 1), (10, 1, 10), (10, None, 1), (10, 99, 1), (1, 7, 1)]
)
def test_batches(n, batch, steps):
    net = make()
    net.fit(X[:n], Y[:n], batch_size=batch, epochs=2)
    assert net.step == 2 * steps


def test_full_batches_are_never_shuffled():
    nets = [make() for _ in range(5)]
    settings = [{"batch_size": None}, {"batch_size": 50}, {"batch_size": 10**9}, {"batch_size": None, "seed": 9}]
    for net, setting in zip(nets, [*settings, {"batch_size": None, "shuffle": False}], strict=True):
        net.fit(X, Y, epochs=3, **setting)
    assert len({net.theta.tobytes() for net in nets}) == 1


def test_shuffling_draws_every_row_once_an_epoch_in_the_order_of_seed_and_epoch():
    """The user's loss sees which rows come when."""
    seen = []
    loss = bp.Loss(lambda a, y: (seen.append(y[:, 0].copy()), (a[:, 0] - y[:, 0]) ** 2)[1], lambda a, y: 0 * a)
    net = bp.Network([bp.Input(3), bp.Dense(1)], seed=7)
    for setting, seed in (({}, 7), ({"seed": 12345}, 12345)):
        first = net.epoch
        seen.clear()
        net.fit(X, np.arange(50), loss=loss, batch_size=8, epochs=3, **setting)
        assert [len(y) for y in seen] == [8, 8, 8, 8, 8, 8, 2] * 3
        orders = np.concatenate(seen).reshape(3, 50)
        assert (np.sort(orders) == np.arange(50)).all()
        for i, order in enumerate(orders):
            assert (order == _core.permutation(50, seed, 1, first + i)).all()
        assert not (orders[0] == orders[1]).all() and not (orders[0] == np.arange(50)).all()
    seen.clear()
    net.fit(X, np.arange(50), loss=loss, batch_size=8, shuffle=False)
    assert (np.concatenate(seen) == np.arange(50)).all()


def test_online_learning_is_the_delta_rule():
    """One linear layer, one example at a time: W += eta (t - o) x, exactly as Widrow and Hoff wrote it."""
    net = bp.Network([bp.Input(3), bp.Dense(2)], dtype="float64", seed=2)
    W, b = np.array(net.W[1]), np.array(net.b[1])
    net.fit(X, Y, batch_size=1, shuffle=False, optimizer=bp.SGD(lr=0.1))
    for x, t in zip(X, Y, strict=True):
        error = t - (W @ x + b)
        W += 0.1 * np.outer(error, x)
        b += 0.1 * error
    assert np.abs(net.W[1] - W).max() < 1e-14 and np.abs(net.b[1] - b).max() < 1e-14


# ---- sample weights ----


@pytest.mark.parametrize("optimizer", [bp.SGD(lr=0.1, momentum=0.9), bp.Adam(lr=0.01)])
def test_a_weight_of_k_is_the_row_k_times(optimizer):
    k = RNG.integers(0, 4, 50)
    weighted, repeated = make(), make()
    a = weighted.fit(X, Y, sample_weight=k, batch_size=None, epochs=20, optimizer=optimizer)
    b = repeated.fit(np.repeat(X, k, 0), np.repeat(Y, k, 0), batch_size=None, epochs=20, optimizer=optimizer)
    assert np.abs(weighted.theta - repeated.theta).max() < 1e-13
    assert np.allclose(a.loss, b.loss, rtol=1e-13, atol=0)
    one = weighted.evaluate(X, Y, sample_weight=k)["loss"]
    assert one == pytest.approx(weighted.evaluate(np.repeat(X, k, 0), np.repeat(Y, k, 0))["loss"], rel=1e-13)


@pytest.mark.parametrize("phase2", ["owners", "shards"])
def test_a_batch_of_many_chunks_has_the_gradient_of_all_its_rows(phase2):
    """The same rows 800 times, in another order in each chunk, are the same cost."""
    order = np.random.default_rng(5).permutation(800 * 50) % 50
    _core.force(False, phase2)
    try:
        many, few = make(), make()
        a = many.fit(X[order], Y[order], batch_size=None, epochs=5, optimizer=bp.SGD(lr=0.1, momentum=0.9))
        (entry,) = many._model.plans.entries.values()
        assert entry.compiled.plan.describe()["chunk_rows"] < 800 * 50
    finally:
        _core.force(False, "")
    b = few.fit(X, Y, batch_size=None, epochs=5, optimizer=bp.SGD(lr=0.1, momentum=0.9))
    assert np.abs(many.theta - few.theta).max() < 1e-12
    assert np.allclose(a.loss, b.loss, rtol=1e-12, atol=0)
    cost, grad = many.value_and_grad(X[order], Y[order])
    same, gradient = many.value_and_grad(X, Y)
    assert cost == pytest.approx(same, rel=1e-12) and np.abs(grad - gradient).max() < 1e-12


def test_only_ratios_of_weights_matter():
    nets = [make() for _ in range(3)]
    for net, scale in zip(nets, (1, 1024, 2.0**-20), strict=True):
        net.fit(X, Y, sample_weight=scale * np.linspace(0, 1, 50), batch_size=None, epochs=5)
    assert nets[0].theta.tobytes() == nets[1].theta.tobytes() == nets[2].theta.tobytes()


def test_a_batch_of_no_weight_makes_no_step():
    w = np.ones(50)
    w[10:20] = 0
    optimizer = bp.SGD(lr=0.1, momentum=0.9)
    net, twin, recorder = make(), make(), Recorder()
    history = net.fit(
        X, Y, sample_weight=w, batch_size=10, shuffle=False, epochs=2, optimizer=optimizer, callbacks=recorder
    )
    keep = np.flatnonzero(w)
    same = twin.fit(X[keep], Y[keep], batch_size=10, shuffle=False, epochs=2, optimizer=optimizer)
    assert state_of(net) == state_of(twin) and net.step == 8
    assert np.allclose(history.loss, same.loss, rtol=1e-15)
    assert [step for name, _, step in recorder.log if name == "batch"] == [1, 1, 2, 3, 4, 5, 5, 6, 7, 8]


# ---- evaluate ----


def test_evaluate_of_classes():
    net = make(n_out=4, output="softmax")
    a = net.predict(X)
    w = RNG.random(50)
    right = a.argmax(1) == LABELS
    picked = -np.log(a[np.arange(50), LABELS])
    found = net.evaluate(X, LABELS)
    assert set(found) == {"loss", "accuracy"}
    assert found["loss"] == pytest.approx(picked.mean(), rel=1e-13) and found["accuracy"] == right.mean()
    found = net.evaluate(X, LABELS, sample_weight=w)
    assert found["loss"] == pytest.approx(picked @ w / w.sum(), rel=1e-13)
    assert found["accuracy"] == pytest.approx(right @ w / w.sum(), rel=1e-13)
    rows = softmax(RNG.standard_normal((50, 4)), axis=1)
    found = net.evaluate(X, rows)
    assert found["loss"] == pytest.approx(-np.mean(np.sum(xlogy(rows, a), 1)), rel=1e-13)
    assert found["accuracy"] == np.mean(a.argmax(1) == rows.argmax(1))


def test_evaluate_of_ties_takes_the_first():
    net = bp.Network([bp.Input(2), bp.Dense(3, "softmax", init="zeros")])
    x = np.ones((4, 2))
    assert net.evaluate(x, [0, 1, 2, 0])["accuracy"] == 0.5
    assert net.evaluate(x, np.full((4, 3), 1 / 3))["accuracy"] == 1.0


def test_evaluate_of_odds():
    net = make(n_out=2, output="logistic")
    y = RNG.integers(0, 2, (50, 2))
    a, w = net.predict(X), RNG.random(50)
    right = ((a >= 0.5) == (y >= 0.5)).mean(1)
    E = -(xlogy(y, a) + xlogy(1 - y, 1 - a)).sum(1)
    found = net.evaluate(X, y, sample_weight=w)
    assert found["loss"] == pytest.approx(E @ w / w.sum(), rel=1e-12)
    assert found["accuracy"] == pytest.approx(right @ w / w.sum(), rel=1e-13)
    half = bp.Network([bp.Input(2), bp.Dense(1, "logistic", init="zeros")])
    assert half.evaluate(np.ones((4, 2)), [1, 1, 0, 1])["accuracy"] == 0.75  # an output of 1/2 says 1
    assert half.evaluate(np.ones((2, 2)), [0.5, 0.4])["accuracy"] == 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 20])  # losses of few classes have kernels of their own
@pytest.mark.parametrize("f", ["softmax", "logistic", "exp"])  # fused with the loss, or not
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_a_row_with_a_nan_is_never_right(f, loss, classes, dtype):
    """Outputs that overflow to NaN once counted as class 0, so that EarlyStopping would have kept a broken network."""
    net = bp.Network([bp.Input(2), bp.Dense(2, "relu"), bp.Dense(classes, f)], dtype=dtype)
    net.params["dense_1.W"][...] = 10
    net.params["dense_2.W"][...] = [[1] * classes, [-1] * classes]
    X = np.full((37, 2), 0.9 * np.finfo(dtype).max)
    X[30:] = 0  # these are right: all classes are as likely, and the first is taken
    y = np.zeros(37, int) if loss == "cross_entropy" else np.zeros((37, classes)) + (f == "logistic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # exp is for neither loss
        assert np.isnan(net.predict(X)[:30]).all()
        right = net.evaluate(X, y, loss=loss)["accuracy"]
        weighted = net.evaluate(X, y, loss=loss, sample_weight=np.arange(37) < 30)["accuracy"]
    assert weighted == 0 and right in (0, pytest.approx(7 / 37))
    assert right or f == "exp"


def test_evaluate_without_classes_has_no_accuracy():
    net = make()
    assert net.evaluate(X, Y) == {"loss": pytest.approx(((net.predict(X) - Y) ** 2).sum(1).mean() / 2, rel=1e-13)}
    assert net.evaluate(X, Y, loss="mse") == {"loss": pytest.approx(((net.predict(X) - Y) ** 2).mean(), rel=1e-13)}
    assert set(net.evaluate(X, Y, loss=bp.Loss(lambda a, y: a[:, 0], lambda a, y: a))) == {"loss"}


@pytest.mark.parametrize(
    "output, y, name",
    [
        ("softmax", LABELS, "cross_entropy"), ("logistic", np.eye(4)[LABELS], "binary_cross_entropy"),
        ("identity", np.eye(4)[LABELS], "squared_error"), ("tanh", np.eye(4)[LABELS], "squared_error"),
        (bp.Activation(np.sin, np.cos), np.eye(4)[LABELS], "squared_error"),
    ],
)  # fmt: skip
def test_loss_auto(output, y, name):
    nets = [make(n_out=4, output=output) for _ in range(3)]
    named = {"cross_entropy": bp.losses.CrossEntropy, "binary_cross_entropy": bp.losses.BinaryCrossEntropy}
    given = [{}, {"loss": name}, {"loss": named.get(name, bp.losses.SquaredError)()}]
    losses = [net.fit(X, y, epochs=2, **setting).loss for net, setting in zip(nets, given, strict=True)]
    assert losses[0] == losses[1] == losses[2]
    assert len({net.theta.tobytes() for net in nets}) == 1
    assert nets[0].evaluate(X, y) == nets[0].evaluate(X, y, loss=name)
    assert nets[0].value_and_grad(X, y)[0] == pytest.approx(nets[0].evaluate(X, y)["loss"], rel=1e-13)


def test_one_output_takes_a_vector_or_a_column():
    nets = [make(n_out=1, output="logistic") for _ in range(3)]
    y = RNG.integers(0, 2, 50)
    for net, form in zip(nets, (y, y[:, None], (y > 0).tolist()), strict=True):
        net.fit(X, form, epochs=2)
    assert len({net.theta.tobytes() for net in nets}) == 1
    assert nets[0].predict(X).shape == (50, 1)


# ---- optimisers ----


def fresh_copy(net):
    """Parameters and counters of a network, without its optimiser's memory."""
    twin = make()
    twin.theta = net.theta
    twin.step, twin.epoch = net.step, net.epoch
    return twin


NUMBERS_ALONE = [
    (bp.SGD(lr=0.1, momentum=0.9), bp.SGD(lr=0.05, momentum=0.5, nesterov=True)),
    (bp.Adam(), bp.Adam(lr=0.01, beta1=0.8)),
    (bp.Adam(), bp.Adam(weight_decay=0.1, clip_norm=0.1)),
    (bp.AdamW(amsgrad=True), bp.AdamW(lr=0.01, amsgrad=True)),
]


@pytest.mark.parametrize("first, second", NUMBERS_ALONE)
@pytest.mark.parametrize("how", ["same", "copy", "pickle", "file"])
def test_a_fit_with_other_numbers_goes_on_with_the_memory(how, first, second, tmp_path):
    """As a callback's change does; and one without an optimiser goes on with the last."""
    net, whole = make(), make()
    change = At("on_epoch_end", lambda state: setattr(state, "optimizer", second), 15)
    whole.fit(X, Y, optimizer=first, epochs=7, batch_size=10, callbacks=change)
    net.fit(X, Y, optimizer=first, epochs=3, batch_size=10)
    if how == "file":
        net.save(tmp_path / "net")
        net = bp.load(tmp_path / "net")
    else:
        net = {"same": lambda n: n, "copy": copy.deepcopy, "pickle": lambda n: pickle.loads(pickle.dumps(n))}[how](net)
    assert net.optimizer == first
    net.fit(X, Y, optimizer=second, epochs=2, batch_size=10)
    assert net.optimizer == second
    net.fit(X, Y, epochs=2, batch_size=10)
    assert net.optimizer == second and net._model.memory.updates == 35
    assert state_of(net) == state_of(whole)


@pytest.mark.parametrize("first, second, dropped", [
    (bp.SGD(lr=0.1, momentum=0.9), bp.Adam(), "velocity"), (bp.Adam(), bp.SGD(), "mean, variance"),
    (bp.SGD(lr=0.1, momentum=0.9), bp.SGD(), "velocity"), (bp.Adam(), bp.AdamW(), "mean, variance"),
    (bp.Adam(), bp.Adam(amsgrad=True), "mean, variance"), (bp.SGD(), bp.SGD(momentum=0.9), None),
    (bp.SGD(), bp.Adam(), None),
])  # fmt: skip
def test_an_optimizer_of_another_kind_begins_anew_and_says_so(first, second, dropped):
    net = make()
    net.fit(X, Y, optimizer=first, epochs=3)
    begun = fresh_copy(net)
    if dropped:
        words = re.escape(f"optimizer: {second} begins anew, and {dropped} of {first} are dropped")
        before = state_of(net)
        with pytest.raises(UserWarning, match=words):  # as an error, it changes nothing
            net.fit(X, Y, optimizer=second)
        assert state_of(net) == before and net.optimizer == first
        with pytest.warns(UserWarning, match="begins anew"):
            net.fit(X, Y, optimizer=second, epochs=2)
    else:
        net.fit(X, Y, optimizer=second, epochs=2)
    begun.fit(X, Y, optimizer=second, epochs=2)
    assert state_of(net) == state_of(begun) and net._model.memory.updates == 4


def test_a_new_network_has_no_optimizer_and_takes_gradient_descent():
    net = make()
    assert net.optimizer is None
    net.fit(X, Y, epochs=0, optimizer=bp.Adam())
    assert net.optimizer is None  # it made no step
    net.fit(X, Y)
    assert net.optimizer == bp.SGD(lr=0.01)


def test_optimizers_by_name_are_their_defaults():
    for name, optimizer in (("sgd", bp.SGD()), ("adam", bp.Adam())):
        nets = [make(), make()]
        for net, given in zip(nets, (name, optimizer), strict=True):
            net.fit(X, Y, optimizer=given)
        assert state_of(nets[0]) == state_of(nets[1])
    default = make()
    default.fit(X, Y)
    assert default._model.memory.optimizer == bp.SGD(lr=0.01)


def test_optimizers_are_frozen_and_compare_by_value():
    assert bp.SGD(lr=1) == bp.SGD(lr=1.0) != bp.SGD(lr=2) and hash(bp.Adam()) == hash(bp.Adam())
    for optimizer in (bp.SGD(), bp.Adam()):
        with pytest.raises(FrozenInstanceError, match=r"replace\(optimizer, lr=3\).*state.optimizer"):
            optimizer.lr = 3


def test_weight_decay_touches_weights_not_biases():
    """With no gradient, W shrinks by lr * decay a step and b stays."""
    loss = bp.Loss(lambda a, y: 0 * a[:, 0], lambda a, y: 0 * a)
    net = bp.Network([bp.Input(3), bp.Dense(4, bias_init="ones"), bp.Dense(2, bias_init="ones")], dtype="float64")
    before = net.copy()
    net.fit(X, Y, loss=loss, batch_size=10, epochs=2, optimizer=bp.SGD(lr=0.5, weight_decay=0.1))
    for k in (1, 2):
        assert np.allclose(net.W[k], before.W[k] * 0.95**10, rtol=1e-14, atol=0) and (net.b[k] == 1).all()


# ---- parameters and views ----


def test_views_alias_theta_in_its_order():
    net = bp.Network([bp.Input(3), bp.Dense(4, name="first"), bp.Dense(2, bias=False), bp.Dense(2)])
    assert list(net.params) == ["first.W", "first.b", "dense_2.W", "dense_3.W", "dense_3.b"]
    assert [view.shape for view in net.params.values()] == [(3, 4), (4,), (4, 2), (2, 2), (2,)]
    assert net.n_params == net.theta.size == 12 + 4 + 8 + 4 + 2 and net.theta.dtype == np.float32
    net.theta[:] = np.arange(net.n_params)
    assert (np.concatenate([view.ravel() for view in net.params.values()]) == np.arange(net.n_params)).all()
    assert net.W[0] is net.b[0] is net.b[2] is None and len(net.W) == len(net.b) == 4
    for k, name in enumerate(("first", "dense_2", "dense_3"), 1):
        assert (net.W[k] == net.params[f"{name}.W"].T).all() and np.shares_memory(net.W[k], net.theta)
        assert net.b[k] is None or np.shares_memory(net.b[k], net.theta)
    net.W[1][3, 0] = 77
    net.b[3][1] = 88
    net.params["dense_2.W"][0, 1] = 99
    assert (net.theta[3], net.theta[-1], net.theta[17]) == (77, 88, 99)
    with pytest.raises(TypeError):
        net.params["first.W"] = np.zeros((3, 4))
    theta, given = net.theta, np.zeros(net.n_params)
    net.theta = given
    assert net.theta is theta and not np.shares_memory(theta, given) and not theta.any()


def test_a_shared_layer_is_one_set_of_weights():
    shared = bp.Dense(3, "tanh")
    net = bp.Network([bp.Input(3), shared, shared, bp.Dense(3, "tanh"), bp.Dense(3, "tanh")])
    assert list(net.params) == [f"dense_{i}.{s}" for i in (1, 2, 3) for s in "Wb"]
    assert np.shares_memory(net.W[1], net.W[2]) and not np.shares_memory(net.W[3], net.W[4])
    assert not (net.W[3] == net.W[4]).all()


WRITES = {
    "theta": lambda net: net.theta.__imul__(0.5),
    "assignment": lambda net: setattr(net, "theta", net.theta * 0.5),
    "params": lambda net: net.params["dense_1.W"].__imul__(-1),
    "W": lambda net: net.W[2].__setitem__((0, 3), 0.25),
    "b": lambda net: net.b[1].__iadd__(1),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_writes_between_calls_are_seen(how, dtype):
    net = make(dtype=dtype)
    net.fit(X, Y)
    calls = {
        "predict": lambda net: net.predict(X).tobytes(),
        "forward": lambda net: net.forward(X).a[-1].tobytes(),
        "evaluate": lambda net: net.evaluate(X, Y),
        "gradient": lambda net: net.value_and_grad(X, Y)[1].tobytes(),
        "fit": lambda net: net.fit(X, Y).loss,
        "fitted": lambda net: net.theta.tobytes(),
    }
    before = {name: call(net.copy()) for name, call in calls.items()}
    for call in calls.values():
        call(net)  # plans are warm
    WRITES[how](net)
    told = make(dtype=dtype)
    told.theta[:] = net.theta
    told.epoch, told.step = net.epoch, net.step
    after = {name: call(net) for name, call in calls.items()}
    assert after == {name: call(told) for name, call in calls.items()}
    assert all(after[name] != before[name] for name in calls)


@pytest.mark.parametrize("how", WRITES)
def test_writes_in_callbacks_are_seen(how):
    answers = []

    def write(state):
        if state.epoch == 2:
            WRITES[how](state.net)
            answers.append(state.net.predict(X).tobytes())

    net, twin = make(), make()
    optimizer = bp.SGD(lr=0.05, momentum=0.9)
    net.fit(X, Y, epochs=4, callbacks=write, optimizer=optimizer)
    twin.fit(X, Y, epochs=2, optimizer=optimizer)
    WRITES[how](twin)
    assert answers == [twin.predict(X).tobytes()]
    twin.fit(X, Y, epochs=2, optimizer=optimizer)
    assert state_of(net) == state_of(twin)


@pytest.mark.parametrize("how", WRITES)
def test_writes_after_a_batch_are_seen(how):
    class Write(bp.Callback):
        def on_batch_end(self, state):
            if state.step == 3:
                WRITES[how](state.net)

    net, twin = make(), make()
    settings = {"batch_size": 10, "shuffle": False, "optimizer": bp.Adam()}
    net.fit(X, Y, callbacks=Write(), **settings)
    twin.fit(X[:30], Y[:30], **settings)
    WRITES[how](twin)
    twin.fit(X[30:], Y[30:], **settings)
    assert state_of(net) == state_of(twin)


def test_writes_into_the_data_in_a_callback_are_seen():
    a, b = X.copy(), Y.copy()

    def write(state):
        a[:] = -X

    net, twin = make(), make()
    net.fit(a, b, epochs=2, callbacks=write)
    twin.fit(X, Y)
    twin.fit(-X, Y)
    assert state_of(net) == state_of(twin)


def test_copies_are_independent():
    net = make()
    net.fit(X, Y, optimizer=bp.Adam())
    twin = net.copy()
    assert state_of(twin) == state_of(net) and not np.shares_memory(twin.theta, net.theta)
    before = state_of(net)
    twin.fit(X, Y, optimizer=bp.Adam())
    twin.theta[:] = 0
    assert state_of(net) == before


# ---- minimising by others ----


def test_value_and_grad_feeds_scipy():
    net = make()

    def cost(theta):
        net.theta = theta
        return net.value_and_grad(X, Y, loss="mse")

    start = net.evaluate(X, Y, loss="mse")["loss"]
    best = minimize(cost, net.theta.copy(), jac=True, method="L-BFGS-B", options={"maxiter": 50})
    assert best.fun < 0.8 * start
    net.theta = best.x
    assert net.evaluate(X, Y, loss="mse")["loss"] == pytest.approx(best.fun, rel=1e-12)


# ---- check_gradients ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_check_gradients(dtype):
    net = make(dtype=dtype, n_out=4, output="softmax")
    before = state_of(net)
    w = RNG.random(8)
    for settings in ({}, {"sample_weight": w}, {"loss": "cross_entropy"}):
        errors = bp.check_gradients(net, X[:8], LABELS[:8], **settings)
        assert list(errors) == list(net.params)
        assert all(type(error) is float and error < 1e-7 for error in errors.values()), errors
    assert bp.check_gradients(net, X[:8], np.eye(4)[LABELS[:8]], loss="mse")["dense_1.W"] < 1e-7
    assert state_of(net) == before


def test_check_gradients_finds_a_wrong_derivative():
    right = bp.Activation(np.sin, np.cos)
    wrong = bp.Activation(np.sin, lambda z: 1.01 * np.cos(z))
    nets = [bp.Network([bp.Input(3), bp.Dense(4, f), bp.Dense(2)], seed=1) for f in (right, wrong)]
    good, bad = (bp.check_gradients(net, X[:6], Y[:6]) for net in nets)
    assert max(good.values()) < 1e-7
    assert bad["dense_1.W"] == pytest.approx(0.01, rel=0.02) and bad["dense_1.b"] == pytest.approx(0.01, rel=0.02)
    assert bad["dense_2.W"] < 1e-7
    loss = bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: a - y)
    assert min(bp.check_gradients(nets[0], X[:6], Y[:6], loss=loss).values()) > 0.3


# ---- words ----


def test_repr_and_summary():
    shared = bp.Dense(5, bp.Activation(np.sin, np.cos, name="sine"))
    net = bp.Network([bp.Input(1000), bp.Dense(5, "relu", name="in"), shared, shared, bp.Dense(2, bias=False)])
    text = repr(net)
    for word in ("Network", "Input(1000)", "Dense(5, 'relu')", "'sine'", "Dense(2, 'identity', bias=False)", "float32"):
        assert word in text
    assert "5,045 parameters" in text and "\n" not in text
    lines = net.summary().splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines]
    assert rows[0] == ["layer", "activation", "output", "parameters"]
    assert rows[2:7] == [
        ["input", "(n, 1000)", "0"], ["in", "relu", "(n, 5)", "5,005"], ["dense_2", "sine", "(n, 5)", "30"],
        ["dense_2@2", "sine", "(n, 5)", "shared"], ["dense_3", "identity", "(n, 2)", "10"],
    ]  # fmt: skip
    assert rows[-2] == ["total", "float32", "5,045"] and len(lines) == 10
    assert re.fullmatch(r"a step on 32 examples: [0-9.]+ MiB, without reuse [0-9.]+ MiB", lines[-1])
    assert len({line for line in (lines[1], lines[-3])}) == 1 and set(lines[1]) == {"-"}
    assert all(line == line.rstrip() for line in lines)


def test_repr_of_tape_and_gradients():
    net = make()
    tape = net.forward(X)
    assert repr(tape) == "Tape(50 rows, 2 layers)"
    grads = net.backward(tape, Y)
    assert repr(grads) == f"Gradients(loss={grads.loss:.6g}, {net.n_params} parameters)"


def test_show_config(capsys):
    import platform

    import scipy

    bp.show_config()
    text = capsys.readouterr().out
    for word in (
        f"bpcore {bp.__version__}", platform.python_version(), np.__version__, scipy.__version__,
        f"threads: {bp.get_num_threads()}", platform.machine(), "BLAS: ",
    ):  # fmt: skip
        assert word in text


# ---- learning ----


def test_digits_are_learnt():
    train, test = bp.datasets.load_digits().split()
    net = bp.Network([bp.Input(64), bp.Dense(128, "relu"), bp.Dense(10, "softmax")], seed=0)
    history = net.fit(train.X, train.y, optimizer=bp.Adam(lr=0.003), epochs=25, validation_data=test)
    assert net.evaluate(*test)["accuracy"] >= 0.97
    assert history.val_accuracy[-1] == net.evaluate(*test)["accuracy"]
    assert history.loss[-1] < 0.02 < history.loss[0]
    assert (net.predict(test.X).argmax(1) == test.y).mean() == history.val_accuracy[-1]


def test_exclusive_or_is_learnt():
    solved = 0
    for seed in range(10):
        net = bp.Network([bp.Input(2), bp.Dense(4, "tanh"), bp.Dense(1, "logistic")], seed=seed)
        net.fit(*bp.datasets.xor(), batch_size=None, epochs=500, optimizer=bp.Adam(lr=0.05))
        solved += net.evaluate(*bp.datasets.xor())["accuracy"] == 1.0
    assert solved >= 8


@pytest.mark.parametrize("sizes", [(100, 100, 3), (4, 8, 3)])
def test_a_tiny_weight_and_a_large_rate_do_not_overflow(sizes):
    """lr / w itself is beyond float32; lr times the gradient is not."""
    net = bp.Network([bp.Input(sizes[0]), bp.Dense(sizes[1], "relu"), bp.Dense(sizes[2], "softmax")], seed=0)
    X = np.random.default_rng(0).standard_normal((4, sizes[0]))
    net.fit(X, [0, 1, 2, 0], batch_size=1, optimizer=bp.SGD(lr=8), sample_weight=np.full(4, 2e-38))
    assert np.isfinite(net.theta).all()
