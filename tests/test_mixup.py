"""mixup: what a step is trained on, for inputs, targets and weights of every kind; bits; refusals."""

import numpy as np
import pytest
from conftest import distance
from scipy.special import betaincinv

import bpcore as bp
from bpcore import _core, _layers

RNG = np.random.default_rng(0)
N, BATCH, ALPHA = 23, 6, 0.4
X = RNG.normal([1e9, 2, 3], [1e3, 2, 3], (N, 3))
LABELS = RNG.integers(0, 3, N)
Y = RNG.normal(size=(N, 2))
W = RNG.uniform(0.5, 2, N) * (np.arange(N) % 4 > 0)
SEQUENCES = RNG.normal(size=(N, 4, 3))
TASKS = {
    "numbers": (X, Y, [bp.Standardize(), bp.Dense(4, "tanh"), bp.Dense(2)], {}),
    "labels": (X, LABELS, [bp.Standardize(), bp.Dense(3, "softmax")], {}),
    "probabilities": (X, RNG.dirichlet(np.ones(3), N), [bp.Standardize(), bp.Dense(3, "softmax")], {}),
    "two classes": (X, LABELS % 2, [bp.Standardize(), bp.Dense(1, "logistic")], {}),
    "units": (X, 1e5 * Y, [bp.Standardize(), bp.Dense(2)], {"standardize_y": True}),
    "labels of steps": (SEQUENCES, RNG.integers(0, 3, (N, 4)), [bp.Dense(3, "softmax")], {}),
    "several runs": (np.moveaxis(np.moveaxis(SEQUENCES, 1, 2).copy(), 1, 2), Y, [bp.Reshape(-1), bp.Dense(2)], {}),
    "few numbers": (X[:, :1] / 1e9, Y[:, 0].astype("f4"), [bp.Dense(1)], {}),
    "wide": (RNG.normal(size=(N, 600)), Y, [bp.Dense(2)], {}),
    "whole": (np.round(SEQUENCES[:, 0] * 9).astype("i2"), np.round(Y * 5).astype(int), [bp.Dense(2)], {}),
}


def net_of(task, dtype="float64", seed=5):
    x, _, layers, _ = TASKS[task]
    return bp.Network([bp.Input(x.shape[1:] if x.ndim > 2 else x.shape[1]), *layers], dtype=dtype, seed=seed)


def mixed(task, epoch, w, shuffle=True):
    """X, y and weights of an epoch, by NumPy: lambda of a batch, partners in another order."""
    x, y, layers, _ = TASKS[task]
    if y.dtype.kind == "i" and layers[-1].activation == "softmax":
        y = np.eye(3)[y]
    order = _core.permutation(N, 5, _layers.SHUFFLE, epoch) if shuffle else np.arange(N)
    partner = order[_core.permutation(N, 5, _layers.MIXUP, epoch)]
    share = np.repeat(betaincinv(ALPHA, ALPHA, _core.uniform(4, 5, _layers.MIXUP, 1, epoch)), BATCH)[:N]
    own, other = share * w[order], (1 - share) * w[partner]
    total = own + other
    part = np.where(total > 0, own / np.where(total > 0, total, 1), 1)

    def mean(a):
        p = part.reshape(-1, *[1] * (a.ndim - 1))
        return p * a[order] + (1 - p) * a[partner]

    return mean(x.astype(float)), mean(y.astype(float)), total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_each_step_is_trained_on_means_of_two_rows(task, weighted):
    x, y, _, settings = TASKS[task]
    net, twin = net_of(task), net_of(task)
    w = W if weighted else np.ones(N)
    more = {"sample_weight": W if weighted else None, **settings}
    history = net.fit(x, y, epochs=2, batch_size=BATCH, mixup=ALPHA, optimizer=bp.SGD(lr=0.1), **more)
    twin.fit(x, y, epochs=0, **more)  # which learns mean and scale
    for epoch in range(2):
        loss = 0.0
        a, b, v = mixed(task, epoch, w)
        for first in range(0, N, BATCH):
            rows = slice(first, first + BATCH)
            cost, grad = twin.value_and_grad(a[rows], b[rows], sample_weight=v[rows])
            loss += cost * v[rows].sum()
            twin.theta -= 0.1 * grad
        assert np.isclose(history.loss[epoch], loss / v.sum(), rtol=1e-6)
    assert distance(net.theta, twin.theta) < 1e-6
    assert distance(net.theta, net_of(task).theta) > 1e-3


@pytest.mark.parametrize("task", ["labels", "units", "several runs"])
def test_bits(task):
    """For any number of threads, in a run that goes on, with a checkpoint, in fit_many, in shuffled order or not."""
    x, y, _, settings = TASKS[task]
    more = {"batch_size": BATCH, "mixup": ALPHA, "optimizer": bp.Adam(lr=0.01), "sample_weight": W, **settings}
    for shuffle in (True, False):
        nets = [net_of(task, "float32") for _ in range(6)]
        for net, n in zip(nets, (1, 2, 3), strict=False):
            net.fit(x, y, epochs=4, n_threads=n, shuffle=shuffle, **more)
        for _ in range(2):
            nets[3].fit(x, y, epochs=2, shuffle=shuffle, **more)
        bp.fit_many(nets[4:], x, y, epochs=4, shuffle=shuffle, **more)
        assert all((net.theta == nets[0].theta).all() for net in nets)
    assert (nets[0].theta != net_of(task, "float32").theta).any()
    net = net_of(task, "float32")
    net.fit(x, y, epochs=4, shuffle=False, seed=6, **more)
    assert (net.theta != nets[0].theta).any()
    rows = np.arange(3, N)
    one, two = net_of(task), net_of(task)
    bp.fit_many([one], x, y, rows=rows, epochs=2, **more)
    two.fit(x[rows], y[rows], epochs=2, **{**more, "sample_weight": W[rows]})
    assert (one.theta == two.theta).all()


def test_validation_and_metrics_are_of_rows_as_they_are():
    net = net_of("labels")
    history = net.fit(X, LABELS, validation_data=(X, LABELS), metrics="accuracy", train_metrics=True, mixup=1.0)
    own = net.evaluate(X, LABELS)
    assert history.val_loss[-1] == own["loss"] != history.loss[-1]
    assert history["accuracy"][-1] == own["accuracy"]


def test_a_small_alpha_changes_little_and_0_nothing():
    nets = [net_of("labels") for _ in range(3)]
    for net, alpha in zip(nets, (0.0, 1e-9, 0.4), strict=True):
        net.fit(X, LABELS, mixup=alpha, batch_size=BATCH, shuffle=False)
    plain = net_of("labels")
    plain.fit(X, LABELS, batch_size=BATCH, shuffle=False)
    assert (plain.theta == nets[0].theta).all() and (plain.theta != nets[2].theta).any()


def test_steps_that_are_not_finite_are_replayed_with_the_same_means():
    net, twin = net_of("wide", "float32"), net_of("wide", "float32")
    with pytest.raises(bp.DivergenceError) as error:
        net.fit(TASKS["wide"][0], 1e18 * Y, optimizer=bp.SGD(lr=1.0), mixup=ALPHA, batch_size=BATCH, epochs=99)
    steps = (error.value.epoch - 1) * 4 + error.value.batch - 1
    assert net.step == steps and np.isfinite(net.theta).all()

    class Stop(bp.Callback):
        def on_batch_end(self, state):
            if state.step + 1 == steps:
                state.stop()

    if steps > 1:
        twin.fit(TASKS["wide"][0], 1e18 * Y, optimizer=bp.SGD(lr=1.0), mixup=ALPHA, batch_size=BATCH, epochs=99,
                 callbacks=Stop())  # fmt: skip
        assert twin.step in (steps - 1, steps)


def mask():
    x, m = bp.Input((4, 3)), bp.Input(4)
    return bp.Network([x, m], bp.Dense(2)(bp.GRU(2)(x, m)))


def pooled():
    x, m = bp.Input((4, 3)), bp.Input(4)
    return bp.Network([x, m], bp.Dense(2)(bp.GlobalAveragePool()(x, m)))


def attending():
    x, m = bp.Input((4, 3)), bp.Input(4)
    return bp.Network([x, m], bp.Dense(2)(bp.Reshape(-1)(bp.MultiHeadAttention(1, 2)(x, mask=m))))


def padded():
    x = bp.Input((4, 3))
    return bp.Network(x, bp.Dense(2)(bp.Concat()(bp.Reshape(-1)(x), bp.Mask()(x))))


def words():
    return bp.Network([bp.Input(4, integer=True), bp.Embedding(9, 2), bp.Reshape(-1), bp.Dense(2)])


OWN = bp.Loss(lambda a, y: (a - y)[:, 0], lambda a, y: a)
REFUSED = {
    "whole numbers": (words, np.ones((N, 4), int), Y, {}, "expected inputs of real numbers, and input is of whole"),
    "a mask": (mask, [SEQUENCES, np.ones((N, 4))], Y, {}, "masks have none; gru_1 has one"),
    "of a pool": (pooled, [SEQUENCES, np.ones((N, 4))], Y, {}, "global_average_pool_1 has one"),
    "of attention": (attending, [SEQUENCES, np.ones((N, 4))], Y, {}, "activate_1 has one"),
    "made of zeros": (padded, SEQUENCES, Y, {}, "mask_1 has one"),
    "steps": (lambda: net_of("labels of steps"), SEQUENCES, TASKS["labels of steps"][1],
              {"sample_weight": np.ones((N, 4))}, "one weight an example"),
    "all rows": (lambda: net_of("numbers"), X, Y, {"optimizer": bp.LBFGS(), "batch_size": None}, "LBFGS compares"),
    "own": (lambda: net_of("few numbers"), X[:, :1], LABELS, {"loss": OWN}, "whole numbers for a loss of your own"),
    "signs": (lambda: net_of("few numbers"), X[:, :1], np.sign(Y[:, 0]), {"loss": "hinge"}, "hinge takes -1 or 1"),
    "negative": (lambda: net_of("numbers"), X, Y, {"mixup": -0.1}, r"mixup: expected a finite number in \[0, inf\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_refuses(case):
    make, x, y, settings, words = REFUSED[case]
    net = make()
    with pytest.raises(ValueError, match=words):
        net.fit(x, y, **{"mixup": 0.2, **settings})
    assert net.step == 0
