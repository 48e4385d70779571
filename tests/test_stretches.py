"""Ctrl-C is heard in time: between two moments at which a slice may end there are 50 ms of a slow core at most.  They
are counted in flops when a plan is compiled, so no machine is too slow for these tests; and a pause changes no bit."""

import signal

import numpy as np
import pytest

import bpcore as bp
from bpcore import _core, _data, _derivatives, _optimizers, _plans, _training
from bpcore._data import Data

LIMIT = 2.5e9  # 50 ms of a core of 50 GFLOP/s
RULES = {
    "gradient": ("gradient", {}),
    "sgd": ("sgd", {"lr": 1e-3}),
    "adam": ("adam", {"lr": 1e-3, "eps": 1e-8}),
    "clipped": ("sgd", {"lr": 1e-3, "clip_norm": 1.0}),
}


def attention(steps, width):
    x = bp.Input((steps, width))
    q, k, v = (bp.Dense(width)(x) for _ in range(3))
    weights = bp.Activate("softmax")(bp.MatMul()(q, bp.Permute((1, 0))(k)))
    h = bp.LayerNorm()(bp.Dense(width, "gelu")(bp.MatMul()(weights, v)) + x)
    return bp.Network(x, bp.Dense(2)(bp.Reshape(-1)(h)), seed=0)


def words(steps):
    x = bp.Input(steps, integer=True)
    return bp.Network(x, bp.Dense(2)(bp.GRU(128)(bp.Embedding(500, 64)(x))))


def wide(*widths):
    return bp.Network([bp.Input(widths[0]), *(bp.Dense(width, "relu") for width in widths[1:])])


def lstm(steps, units):
    return bp.Network([bp.Input((steps, 64)), bp.LSTM(units, recurrent_init="glorot_uniform"), bp.Dense(1)])


LARGE = {
    "wide": (lambda: wide(1500, 1500, 700), 2600),
    "fused": (lambda: wide(2048, 2048, 2048, 1000), 512),
    "wider": (lambda: wide(40_000, 300, 300), 2000),
    "deep": (lambda: wide(*[500] * 31), 16_000),
    "LSTM": (lambda: lstm(2000, 256), 16),
    "LSTM, many rows": (lambda: lstm(3000, 128), 80),
    "SimpleRNN": (lambda: bp.Network([bp.Input((4000, 64)), bp.SimpleRNN(128, sequences=True), bp.GRU(64)]), 16),
    "words": (lambda: words(2000), 16),
    "images": (lambda: bp.Network([bp.Input((300, 300, 3)), bp.Conv2D(32, 3, "relu", padding="same"), bp.Conv2D(32, 3),
                                   bp.MaxPool2D(2), bp.Reshape(-1), bp.Dense(1)]), 16),
    "signals": (lambda: bp.Network([bp.Input((100_000, 8)), bp.Conv1D(64, 9, "tanh"), bp.Conv1D(1, 9)]), 16),
    "attention": (lambda: attention(3000, 64), 16),
}  # fmt: skip


def elements(*shape):
    x = bp.Input(shape)
    y = bp.Dropout(0.5)(bp.Scale()(x) * bp.Bias()(x) + x)
    y = bp.GaussianNoise(0.1)(bp.AlphaDropout(0.1, noise_shape=(None, 1))(bp.Dropout(0.5, noise_shape=(1, None))(y)))
    return bp.Network(x, bp.Dense(1)(bp.concat([y, 2.0 * y, x[::2]], axis=0)), seed=0)


# more bytes than products; some take more than a slice a row
MOVING = {
    "windows": (lambda: bp.Network([bp.Input((3800, 3800, 4)), bp.AveragePool2D(64, stride=1)]), 16),
    "maxima": (lambda: bp.Network([bp.Input((3800, 3800, 4)), bp.MaxPool2D(8, stride=3)]), 16),
    "mean": (lambda: bp.Network([bp.Input((3800, 3800, 4)), bp.GlobalAveragePool()]), 16),
    "softmax": (lambda: bp.Network([bp.Input(1), bp.Dense(10**6, "softmax")]), 16),
    "norm": (lambda: bp.Network([bp.Input((40_000, 512)), bp.LayerNorm(), bp.RMSNorm(), bp.GroupNorm(64)]), 16),
    "batch": (lambda: bp.Network([bp.Input((40_000, 512)), bp.BatchNorm(), bp.Activate("relu")]), 16),
    "turned": (lambda: bp.Network([bp.Input((40_000, 512)), bp.Permute((1, 0)), bp.Reshape(-1)]), 16),
    "table": (lambda: bp.Network([bp.Input(20_000, integer=True), bp.Embedding(10, 512)]), 16),
    "elements": (lambda: elements(40_000, 512), 16),
    "outputs": (lambda: bp.Network([bp.Input((3000, 2500, 2)), bp.Bias()]), 16),
    "weights": (lambda: bp.Network([bp.Input(4000), bp.Dense(8000, init="zeros")]), 16),
    "groups": (lambda: bp.Network([bp.Input((620, 620, 64)), bp.Conv2D(64, 7, groups=64, padding="same")]), 16),
}


def data_of(net, rows):
    """Zeros that take no memory."""
    y = np.broadcast_to(np.float32(0), (rows, *net.outputs[next(iter(net.outputs))]))
    kinds = (np.int32 if node.layer.integer else np.float32 for node in net._model.inputs)
    X = [np.broadcast_to(kind(0), (rows, *shape)) for kind, shape in zip(kinds, net.inputs.values(), strict=True)]
    return Data(net._model, X[0], y, "mse", None, check_finite=False)


def keys_of(net, rows, n_threads):
    """Of the plans for all that a network is asked for."""
    model, data = net._model, data_of(net, rows)
    keys = {name: data.key(_plans.TRAIN | _core.optimizer_flags(rule, **numbers), rows, n_threads)
            for name, (rule, numbers) in RULES.items()}  # fmt: skip
    keys["predict"] = _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, n_threads)
    keys["evaluate"] = data.key(_plans.EVALUATE, _plans.INFERENCE_ROWS, n_threads)
    keys["each"] = data.key(_derivatives.EACH, _plans.INFERENCE_ROWS, n_threads)
    n_out = min(32, model.outputs[0].n_out)
    keys["jacobian"] = _derivatives._pulling(_derivatives.PULL, 0, model.outputs[0].n_out, n_out, n_threads)
    return keys


@pytest.mark.parametrize("kind", [*LARGE, *MOVING])
def test_no_stretch_is_longer_than_fifty_milliseconds_of_a_slow_core(kind):
    make, rows = (LARGE | MOVING)[kind]
    net = make()
    for n_threads in (1, 4):
        keys = keys_of(net, rows, n_threads)
        plans = {name: _plans.make_plan(net._model, key).plan.describe() for name, key in keys.items()}
        assert plans["gradient"]["flops"] > 4 * LIMIT or kind in MOVING
        assert not {name: plan["stretch"] for name, plan in plans.items() if plan["stretch"] > LIMIT}


def test_a_wide_layer_of_a_tile_that_goes_back_by_itself_comes_in_parts(force):
    force(False, "", round_flops=3e6)
    net = wide(1000, 1000)
    for name, most in (("each", 10 * 4e6), ("jacobian", 3e6)):  # 4 MB are the gradient of a row by a parameter
        plan = _plans.make_plan(net._model, keys_of(net, 16, 1)[name]).plan.describe()
        assert plan["flops"] > 3e7 and plan["stretch"] <= most


SMALL = {
    "LSTM": lambda: bp.Network([bp.Input((11, 5)), bp.LSTM(7, sequences=True, truncate=4), bp.LSTM(9, reverse=True)],
                               seed=0),
    "GRU": lambda: bp.Network([bp.Input((11, 5)), bp.GRU(7, sequences=True, reverse=True), bp.GRU(9)], seed=0),
    "SimpleRNN": lambda: bp.Network([bp.Input((11, 5)), bp.SimpleRNN(7, sequences=True), bp.SimpleRNN(3)], seed=0),
    "images": lambda: bp.Network(
        [bp.Input((14, 11, 3)), bp.Conv2D(5, 3, "relu", padding="same"), bp.Conv2D(4, (3, 2), "tanh", stride=2),
         bp.MaxPool2D(2), bp.Reshape(-1), bp.Dense(2)], seed=0),
    "groups": lambda: bp.Network(
        [bp.Input((7, 6, 4)), bp.Conv2D(6, 3, dilation=2, padding="same", groups=2),
         bp.Conv2D(6, 3, groups=6, padding="same"), bp.Conv2D(70, 2, "relu"), bp.Conv2D(1, 2)], seed=0),
    "signals": lambda: bp.Network(
        [bp.Input((40, 3)), bp.Conv1D(4, 5, "relu", padding="same", stride=2), bp.Conv1D(3, 3, dilation=2),
         bp.Conv1D(3, 3, groups=3)], seed=0),
    "attention": lambda: attention(13, 8),
    "pools": lambda: bp.Network(
        [bp.Input((14, 11, 3)), bp.Conv2D(3, 1), bp.AveragePool2D(9, stride=1, padding="same"),
         bp.MaxPool2D(3, stride=2), bp.AveragePool2D((2, 3), stride=(3, 1), padding="same"), bp.MaxPool2D(1, stride=2),
         bp.GlobalAveragePool()], seed=0),
    "pairs": lambda: bp.Network(
        [bp.Input((8, 12, 5)), bp.Conv2D(5, 1), bp.MaxPool2D(2), bp.AveragePool2D(2),
         bp.GlobalMaxPool(), bp.Dense(20, "softmax"), bp.Dense(3)], seed=0),
    "elements": lambda: elements(7, 5),
    "norm": lambda: bp.Network(
        [bp.Input((5, 8)), bp.LayerNorm(), bp.RMSNorm(), bp.GroupNorm(4), bp.BatchNorm(), bp.Permute((1, 0)),
         bp.Dense(3, "softmax"), bp.Dense(2)], seed=0),
    "table": lambda: bp.Network(
        [bp.Input(9, integer=True), bp.Embedding(5, 6), bp.AveragePool1D(4, stride=2), bp.MaxPool1D(2, stride=1)],
        seed=0),
    "wide": lambda: bp.Network([bp.Input(40), bp.Dense(700, "relu"), bp.Dense(600, "tanh"), bp.Dense(3)], seed=0),
}  # fmt: skip


def results(net, n_threads):
    rng = np.random.default_rng(0)
    X, y = (rng.standard_normal((37, *shapes[next(iter(shapes))])) for shapes in (net.inputs, net.outputs))
    v, whole = rng.standard_normal(net.n_params), net._model.inputs[0].layer.integer
    X = np.abs(X).astype(int) if whole else X
    found = [net.predict(X, n_threads=n_threads), net.value_and_grad(X, y, n_threads=n_threads)[1],
             net.hvp(X[:5], y[:5], v, n_threads=n_threads),
             np.zeros(0) if whole else net.jacobian(X[:17], n_threads=n_threads),
             net.per_sample_gradients(X[:17], y[:17], n_threads=n_threads)]  # fmt: skip
    for optimizer in (bp.SGD(lr=1e-3), bp.Adam()):
        net.fit(X, y, optimizer=optimizer, batch_size=33, n_threads=n_threads)
        found.append(net.theta.copy())
    return [a.tobytes() for a in (*found, np.float64(net.evaluate(X, y, n_threads=n_threads)["loss"]))]


@pytest.mark.parametrize("kind", SMALL)
def test_parts_do_not_change_a_bit(kind, force):
    """A slice may end after a few hundred flops, so that operations come in one part a step or a row of an image."""
    force(False, "owners")
    wanted = results(SMALL[kind](), 1)
    for round_flops, n_threads in ((300.0, 1), (1e5, 2)):
        force(False, "owners", round_flops=round_flops)
        assert results(SMALL[kind](), n_threads) == wanted


@pytest.mark.parametrize("weight", [(37,), (37, 7)])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_parts_of_a_weighted_loss_do_not_change_a_bit(loss, weight, force):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((37, 7, 5))
    y = rng.integers(0, 3, (37, 7)) if loss == "cross_entropy" else rng.standard_normal((37, 7, 3))
    weights = rng.integers(0, 3, weight).astype(float)
    found = []
    for round_flops in (0.0, 300.0):
        force(False, "owners", round_flops=round_flops)
        net = bp.Network([bp.Input((7, 5)), bp.Dense(3, "softmax")], seed=0)
        value, gradient = net.value_and_grad(X, y, loss=loss, sample_weight=weights, n_threads=2)
        found.append((value, gradient.tobytes(), net.evaluate(X, y, loss=loss, sample_weight=weights)))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["LSTM", "images", "attention"])
def test_a_slice_ends_after_each_stretch(kind, force):
    """As often as the plan says: a slice of no time is one stretch."""
    most = 3e5
    force(False, "", round_flops=most)
    net = SMALL[kind]()
    data = data_of(net, 16)
    with _plans.take(net._model, data.key(_plans.TRAIN, 16, 1)) as lent:
        plan, run = lent.compiled.plan.describe(), data.feed(net._model, lent)
        run.optimizer("gradient", (np.zeros_like(net.theta),))
        run.begin(16, 16)
        slices = 1
        while run.slice(1, 0.0, fresh=False) == _core.PAUSED:
            slices += 1
    assert plan["stretch"] <= most < plan["flops"] / 4
    assert plan["flops"] * 2 / 3 / slices <= most  # of functions there is no third pass, by parameters


class Stop(Exception):
    pass


class Until(bp.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_batch_end(self, state):
        if state.step == self.steps:
            state.stop()


def test_a_signal_between_time_steps_leaves_the_last_whole_step(force):
    force(False, "", round_flops=2e4)
    net, rng = SMALL["LSTM"](), np.random.default_rng(0)
    X, y = rng.standard_normal((64, 11, 5)), rng.standard_normal((64, 9))
    settings = {"batch_size": 32, "shuffle": False, "optimizer": bp.SGD(lr=1e-3, momentum=0.5)}

    def handler(number, frame):
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            net.fit(X, y, epochs=10**6, **settings)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    twin, steps = SMALL["LSTM"](), net.step
    if steps:
        twin.fit(X, y, epochs=steps // 2 + 1, callbacks=Until(steps), **settings)
    assert twin.theta.tobytes() == net.theta.tobytes()


def wide_data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((96, 40)), rng.standard_normal((96, 3))


def named():
    x, word = bp.Input(40), bp.Input(3, integer=True)
    h = bp.concat([bp.Dense(700, "relu")(x), bp.Reshape(-1)(bp.Embedding(60, 64)(word))])
    return bp.Network([x, word], bp.Dense(3)(bp.Dense(600, "tanh")(h)), seed=0)


def named_data():
    X, y = wide_data()
    return [X, np.random.default_rng(1).integers(0, 60, (96, 3))], y


HALVES = {
    "sums": (SMALL["wide"], wide_data, bp.SGD(lr=1e-3)),
    "moves": (SMALL["wide"], wide_data, bp.Adam()),
    "behind a boundary": (SMALL["wide"], wide_data, bp.RMSprop(clip_norm=0.1)),
    "rows of tables": (named, named_data, bp.Adam()),
    "sums, then rows of tables": (named, named_data, bp.SGD(lr=1e-3)),
}


@pytest.mark.parametrize("kind", HALVES)
def test_a_half_made_update_is_made_whole(kind, force):
    """Between its rounds theta is between two steps; made whole, it is as before the step or after it, and the next
    steps have the same bits."""
    make, data_of_it, optimizer = HALVES[kind]
    X, y = data_of_it()
    thetas = []

    class Record(bp.Callback):
        def on_fit_begin(self, state):
            thetas.append(state.net.theta.copy())

        def on_batch_end(self, state):
            thetas.append(state.net.theta.copy())

    force(False, "owners")
    make().fit(X, y, optimizer=optimizer, batch_size=32, shuffle=False, n_threads=2, callbacks=Record())
    force(False, "owners", round_flops=4e6)
    net = make()
    data = Data(net._model, X, y, "squared_error", None)
    with _plans.take(net._model, data.key(_plans.TRAIN | optimizer.flags, 32, 2)) as lent:
        run = data.feed(net._model, lent)
        numbers = _optimizers.numbers(_optimizers.Memory(optimizer, (), 0), 0, _optimizers.Call(0, 3, 3))
        run.optimizer(optimizer.kind, [np.zeros_like(net.theta) for _ in optimizer.states], **numbers)
        run.begin(96, 32)
        steps, halves, ended = 0, [0, 0, 0], 0
        while run.slice(2, 0.0, fresh=False) == _core.PAUSED:
            steps = run.progress()[5]
            halves[steps] += not run.is_whole()
            if run.is_whole() or halves[steps] != 2 + 2 * steps:
                continue
            assert net.theta.tobytes() != thetas[steps].tobytes()
            run.make_whole()
            ended += run.progress()[5] - steps
            assert run.is_whole() and net.theta.tobytes() == thetas[run.progress()[5]].tobytes()
            if run.progress()[5] == 3:
                break
    assert ended == (0 if kind.startswith("sums") else 3)
    assert net.theta.tobytes() == thetas[3].tobytes()


def test_a_safety_copy_that_is_half_made_begins_anew_where_theta_was_written(force):
    force(False, "owners", round_flops=4e6)
    net = SMALL["wide"]()
    data = Data(net._model, *wide_data(), "squared_error", None)
    with _plans.take(net._model, data.key(_plans.TRAIN | bp.Adam().flags, 32, 2)) as lent:
        run = data.feed(net._model, lent)
        run.optimizer("adam", [np.zeros_like(net.theta) for _ in range(2)], lr=1e308, beta1=0.9, beta2=0.999, eps=1e-8)
        run.begin(96, 32)
        for _ in range(3):
            assert run.slice(2, 0.0, fresh=False) == _core.PAUSED
        assert run.progress()[4] == 0
        net.theta *= 0.5
        whole = net.theta.copy()
        status, slices = run.slice(2, 0.0, fresh=True), 0
        while status == _core.PAUSED:
            status, slices = run.slice(2, 0.0, fresh=False), slices + 1
        assert status == _core.NONFINITE_PARAM and slices > 10 and net.theta.tobytes() == whole.tobytes()


@pytest.mark.parametrize("interrupted", [False, True])
def test_going_back_to_the_safety_copy_comes_in_slices(interrupted):
    """The third step overflows: 3 M weights and their means go back in four parts, and two steps are made again."""
    net, X, rates = bp.Network([bp.Input(1800), bp.Dense(1800)], seed=0), np.ones((3, 1800), "f4"), [1e-3, 1e-3, 1e308]
    data, thetas = Data(net._model, X, X, "squared_error", None), [net.theta.copy()]
    with _plans.take(net._model, data.key(_plans.TRAIN | bp.Adam().flags, 1, 1)) as lent:
        run = data.feed(net._model, lent)
        states = [np.zeros_like(net.theta) for _ in range(2)]
        run.optimizer("adam", states, lr=np.array(rates), beta1=0.9, beta2=0.999, eps=1e-8)
        run.begin(3, 1)
        halves = 0
        while (status := run.slice(1, 0.0, fresh=False)) == _core.PAUSED:
            if run.is_whole() and run.progress()[5] == len(thetas):
                thetas.append(net.theta.copy())
            halves += not run.is_whole()
            if interrupted and halves == 2:
                run.make_whole()
                break
    assert halves >= 2 and len(thetas) == 3 and run.is_whole()
    assert status == (_core.PAUSED if interrupted else _core.NONFINITE_PARAM)
    assert net.theta.tobytes() == thetas[run.progress()[5]].tobytes()
    assert interrupted or run.progress()[5] == 2


@pytest.mark.parametrize("optimizer", [bp.SGD(lr=1e-3), bp.Adam()], ids=["undone", "ended"])
def test_an_interrupted_update_leaves_a_whole_step(optimizer, force, monkeypatch):
    X, y = wide_data()
    settings = {"optimizer": optimizer, "batch_size": 32, "shuffle": False, "epochs": 2}
    force(False, "owners", round_flops=5e6)
    make_slice, net, twin = _training.Loop._slice, SMALL["wide"](), SMALL["wide"]()

    def interrupted(loop, *args):
        status = make_slice(loop, *args)
        if net.step == 3 and not loop.run.is_whole():
            raise Stop
        return status

    monkeypatch.setattr(_training, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(_training.Loop, "_slice", interrupted)
    with pytest.raises(Stop):
        net.fit(X, y, **settings)
    monkeypatch.undo()
    assert net.step == (3 if optimizer.kind == "sgd" else 4)
    twin.fit(X, y, **settings, callbacks=Until(net.step))
    assert net.theta.tobytes() == twin.theta.tobytes()
    net.fit(X, y, **{**settings, "epochs": 1})
    twin.fit(X, y, **{**settings, "epochs": 1})
    assert net.theta.tobytes() == twin.theta.tobytes()


def test_a_row_that_takes_long_is_answered_in_parts(monkeypatch):
    net = SMALL["LSTM"]()
    X = np.random.default_rng(0).standard_normal((3, 11, 5))
    wanted = net.predict(X).tobytes()
    monkeypatch.setattr(_core, "UNHEARD_FLOPS", 1e3)
    calls = []
    predict = _data.predict
    monkeypatch.setattr(_data, "predict", lambda *args: calls.append(args) or predict(*args))
    answer = net.predictor()
    assert answer(X).tobytes() == wanted and answer(X[0]).tobytes() == wanted[: len(wanted) // 3] and len(calls) == 2
