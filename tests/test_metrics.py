"""Metrics: values known in closed form, beside networks of every kind of target, and what callbacks make of them.

Tolerances: 1e-12 relative, in float64; tests/peers/test_metrics.py has scikit-learn's values beside them.
"""

import pickle
import re
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import bpcore as bp
from bpcore import _truth

m = bp.metrics
PAGE = Path(__file__).parent.parent / "docs/metrics.md"
NAN = float("nan")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
W = RNG.integers(0, 4, 60) / 2.0

# ---- closed forms ----

SCORES = [0.1, 0.4, 0.4, 0.8]  # of the classes 0, 0, 1, 1: of four pairs three are in order and one is a tie
THREE = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]]
OF_THREE = [0, 0, 1, 2]  # the second is wrong
VALUES = {
    "accuracy": ("accuracy", [0, 0, 1, 1], SCORES, None, Fraction(3, 4)),
    "accuracy, from 1/2 on": ("accuracy", [0, 1], [0.5, 0.5], None, Fraction(1, 2)),
    "accuracy, weighted": ("accuracy", OF_THREE, THREE, [1, 2, 3, 4], Fraction(8, 10)),
    "accuracy, first of equals": ("accuracy", [0, 1], [[0.5, 0.5], [0.5, 0.5]], [1, 3], Fraction(1, 4)),
    "accuracy of labels": ("accuracy", [[0, 1], [1, 1]], [[0.2, 0.9], [0.7, 0.1]], [1, 3], Fraction(5, 8)),
    "top 1": ("top_k_1", OF_THREE, THREE, None, Fraction(3, 4)),
    "top 2": ("top_k_2", [2, 2, 2, 2], THREE, [1, 2, 3, 4], Fraction(9, 10)),  # of equals the last
    "top 3": ("top_k_3", OF_THREE, THREE, None, 1),
    "balanced": ("balanced_accuracy", OF_THREE, THREE, None, Fraction(5, 6)),
    "balanced, no class 2": ("balanced_accuracy", [0, 0, 1, 1], THREE, None, Fraction(1, 2)),
    "precision": ("precision", [0, 1, 1, 1], [0.9, 0.8, 0.1, 0.7], None, Fraction(2, 3)),
    "recall": ("recall", [0, 1, 1, 1], [0.9, 0.8, 0.1, 0.7], [1, 1, 2, 1], Fraction(1, 2)),
    "f1": ("f1", [0, 1, 1, 1], [0.9, 0.8, 0.1, 0.7], [1, 1, 2, 1], Fraction(4, 7)),
    "f1 of nothing": ("f1", [0, 0], [0.1, 0.2], None, 0),
    "f1 of two outputs": ("f1", [1, 1], [[0.3, 0.7], [0.6, 0.4]], None, Fraction(2, 3)),
    "precision, macro": ("precision_macro", OF_THREE, THREE, None, Fraction(5, 6)),
    "recall, micro": ("recall_micro", OF_THREE, THREE, None, Fraction(3, 4)),
    "f1, macro": ("f1_macro", OF_THREE, THREE, None, (Fraction(2, 3) + Fraction(2, 3) + 1) / 3),
    "f1, macro, of those that are there": ("f1_macro", [0, 0], THREE[:2], None, Fraction(1, 3)),
    "f1, macro, of labels": ("f1_macro", [[1, 0], [1, 0]], [[0.9, 0.1], [0.1, 0.1]], None, Fraction(1, 3)),
    "roc": ("roc_auc", [0, 0, 1, 1], SCORES, None, Fraction(7, 8)),
    "roc, weighted": ("roc_auc", [0, 0, 1, 1], SCORES, [1, 3, 1, 1], 1 - Fraction(3, 2) / 8),
    "roc of two outputs": ("roc_auc", [0, 1], [[0.4, 0.6], [0.7, 0.3]], None, 0),
    "roc of three": ("roc_auc", OF_THREE, THREE, None, (1 + 1 + 1) / 3),
    "roc, class 2 missing": ("roc_auc", [0, 1, 1, 0], THREE, None, (Fraction(1, 2) + 1) / 2),
    "roc of labels": ("roc_auc", [[0, 1], [1, 0]], [[0.1, 0.1], [0.9, 0.9]], None, Fraction(1, 2)),
    "roc of one class": ("roc_auc", [1, 1], [0.1, 0.2], None, NAN),
    "roc of one of three": ("roc_auc", [1, 1], THREE[:2], None, NAN),
    "average precision": ("average_precision", [0, 1, 0, 1], [0.1, 0.3, 0.5, 0.8], None, Fraction(5, 6)),
    "average precision, ties": ("average_precision", [0, 1], [0.5, 0.5], [1, 3], Fraction(3, 4)),
    "average precision of none": ("average_precision", [0, 0], [0.5, 0.2], None, 0),
    "log loss": ("log_loss", [0, 1], [0.5, 0.25], None, 1.5 * np.log(2)),
    "log loss of three": ("log_loss", [0, 1], [[0.5, 0.25, 0.25]] * 2, [1, 3], 1.75 * np.log(2)),
    "log loss, certain": ("log_loss", [1], [0.0], None, 52 * np.log(2)),
    "brier": ("brier", [0, 1], [0.5, 0.25], None, (0.25 + 0.5625) / 2),
    "brier of three": ("brier", [0, 1], [[0.5, 0.25, 0.25]] * 2, None, (0.375 + 0.875) / 2),
    "mae": ("mae", [1, 2], [3, 1], [1, 3], Fraction(5, 4)),
    "rmse": ("rmse", [[1, 2], [1, 2]], [[1, 5], [3, 2]], None, (np.sqrt(2) + np.sqrt(4.5)) / 2),
    "mape": ("mape", [-2, 4], [1, 5], None, Fraction(7, 8)),
    "mape of int8": ("mape", np.array([-128], np.int8), [-64], None, Fraction(1, 2)),
    "r2": ("r2", [1, 2, 3], [1, 2, 5], None, -1),
    "r2, weighted": ("r2", [0, 4], [0, 2], [3, 1], 1 - Fraction(4, 12)),
    "r2, constant": ("r2", [0.1, 0.1, 0.1], [0.1, 0.1, 0.2], None, 0),
    "r2, constant and right": ("r2", [0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [1, 2, 3], 1),
    "r2 of one": ("r2", [1], [1], None, NAN),
    "pinball": ("pinball", [1, 1], [0, 3], None, Fraction(3, 4)),
    "pinball, 0.9": ("pinball_0.9", [1, 1], [0, 3], None, (0.9 + 0.2) / 2),
}


def named(name):
    (metric,) = bp._metrics.resolve(name)
    return metric


@pytest.mark.parametrize("case", VALUES)
def test_closed_forms(case, monkeypatch):
    name, y, a, w, wanted = VALUES[case]
    value = named(name)(y, a, sample_weight=w)
    np.testing.assert_allclose(value, float(wanted), rtol=1e-12, atol=1e-15)
    monkeypatch.setattr(_truth, "_BLOCK", 2)
    np.testing.assert_allclose(named(name)(y, a, sample_weight=w), value, rtol=1e-14)


def test_r2_of_time_stamps_is_exact():
    """Near 1.6e9, where sums of squares have no digit left: to 1e-12 of exact arithmetic."""
    y = 1.6e9 + np.arange(1000) % 7
    a = y + RNG.standard_normal(1000)
    ys, missed = [Fraction(v) for v in y], sum((Fraction(u) - Fraction(v)) ** 2 for u, v in zip(a, y, strict=True))
    mean = sum(ys) / 1000
    wanted = 1 - missed / sum((v - mean) ** 2 for v in ys)
    np.testing.assert_allclose(m.r2(y, a), float(wanted), rtol=1e-12)


def test_a_row_with_a_nan_is_never_right():
    """Also where its largest number is that of the class, or its other labels are right."""
    three = np.array(THREE)
    three[0, 2] = NAN
    assert m.accuracy(OF_THREE, three) == 0.5 and m.balanced_accuracy(OF_THREE, three) == 2 / 3
    assert m.TopK(3)(OF_THREE, three) == 0.75
    assert m.F1("micro")(OF_THREE, three) == 2 * 2 / (3 + 4)
    assert m.accuracy([0, 1], [NAN, 1.0]) == 0.5 and m.recall([1, 1], [NAN, 1.0]) == 0.5
    labels = [[0.1, NAN], [0.1, 0.9]]
    assert m.accuracy([[0, 1], [0, 1]], labels) == 0.5 and m.Recall("micro")([[0, 1], [0, 1]], labels) == 0.5
    for metric in (m.roc_auc, m.average_precision, m.log_loss, m.brier, m.mae, m.rmse, m.mape, m.r2, m.pinball):
        assert np.isnan(metric([0, 1], [0.5, NAN])) and np.isfinite(metric([0, 1], [0.5, 0.7]))


@pytest.mark.parametrize("name", m.NAMES)
def test_an_example_of_weight_0_is_not_there(name):
    """Whatever its answer, its class or its number; equal weights are none, and their scale says nothing."""
    numbers = named(name).of_numbers
    y, a = (np.array([0, 1, 1, 0]), np.array([0.2, 0.6, 0.1, 0.3]))
    if name == "top_k":
        y, a = np.array([0, 1, 5, 3]), RNG.random((4, 6))
    metric = named(name)
    more_y, more_a = np.append(y, 10 if numbers else 0), np.append(a, np.full_like(a[:1], NAN), axis=0)
    np.testing.assert_allclose(metric(more_y, more_a, sample_weight=[1, 1, 1, 1, 0]), metric(y, a), rtol=1e-14)
    np.testing.assert_allclose(metric(y, a, sample_weight=np.full(4, 1e-9)), metric(y, a), rtol=1e-14)


# ---- networks ----


def labels(n):
    return RNG.integers(0, n, len(X))


def out(units, activation="identity", dtype="float64", **settings):
    return bp.Network([bp.Input(4), bp.Dense(units, activation)], dtype=dtype, seed=1, **settings)


SOFT = RNG.dirichlet(np.ones(3), len(X))
BITS = RNG.integers(0, 2, (len(X), 3))
REAL = RNG.standard_normal((len(X), 2))
CLASSES = ["top_k_2", "balanced_accuracy", "f1_macro", "recall_micro", "roc_auc", "average_precision"]
NUMBERS = ["mae", "rmse", "mape", "r2", "pinball_0.9"]
# network, loss, y, metrics, and y and the answers as a metric that is called takes them
KINDS = {
    "classes": (lambda: out(3, "softmax"), "auto", labels(3), [*CLASSES, "log_loss", "brier"], None),
    "rows of classes": (
        lambda: out(3, "softmax"), "kl_divergence", np.eye(3)[labels(3)], ["accuracy", *CLASSES, "log_loss", "brier"],
        lambda y, a: (y.argmax(1), a)),
    "classes by mse": (lambda: out(3, "softmax"), "mse", np.eye(3)[labels(3)], ["accuracy", *CLASSES, "brier"],
                       lambda y, a: (y.argmax(1), a)),
    "shares of classes": (lambda: out(3, "softmax"), "auto", SOFT, CLASSES, lambda y, a: (y.argmax(1), a)),
    "two classes": (
        lambda: out(1, "logistic"), "auto", BITS[:, 0], ["f1", "roc_auc", "log_loss", "brier", "mae"], None),
    "two classes of float": (lambda: out(1), "mse", BITS[:, :1] * 1.0, ["accuracy", "f1", "rmse"],
                             lambda y, a: (y[:, 0], a)),
    "focal": (lambda: out(1, "logistic"), "focal", BITS[:, 0], ["precision", "average_precision"], None),
    "labels": (
        lambda: out(3, "logistic"), "auto", BITS, ["f1_macro", "f1_micro", "roc_auc", "average_precision"], None),
    "signs": (lambda: out(1), "hinge", 2 * BITS[:, 0] - 1, ["f1", "roc_auc", "balanced_accuracy"],
              lambda y, a: ((y + 1) // 2, a + 0.5)),
    "numbers": (lambda: out(2), "auto", REAL, NUMBERS, None),
    "counts": (lambda: out(1, "exp"), "poisson", BITS.sum(1), ["mae", "r2"], None),
    "means": (lambda: out(4), "gaussian_nll", REAL, NUMBERS, lambda y, a: (y, a[:, :2])),
    "medians": (lambda: out(6), bp.losses.Quantile([0.1, 0.5, 0.9]), REAL, ["mae", "rmse", "pinball"],
                lambda y, a: (y, a[:, 2:4])),
    "quantiles": (lambda: out(6), bp.losses.Quantile([0.1, 0.5, 0.9]), REAL, ["pinball_0.9"],
                  lambda y, a: (y, a[:, 4:])),
    "a loss of one's own": (
        lambda: out(3, "softmax"),
        bp.Loss(lambda a, y: -np.log(a[np.arange(len(a)), y.ravel()]), lambda a, y: a * 0), labels(3),
        ["accuracy", *CLASSES, "log_loss"], None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [None, W])
def test_evaluate_has_the_values_of_predictions(kind, weight):
    make, loss, y, metrics, as_called = KINDS[kind]
    net = make()
    a = net.predict(X)
    y_called, a_called = as_called(y, a) if as_called else (y, a)
    result = net.evaluate(X, y, loss=loss, sample_weight=weight, metrics=metrics)
    assert set(result) >= {"loss", *metrics}
    assert result["loss"] == net.evaluate(X, y, loss=loss, sample_weight=weight)["loss"]
    for name in metrics:
        wanted = named(name)(y_called, a_called, sample_weight=weight)
        np.testing.assert_allclose(result[name], wanted, rtol=1e-12, err_msg=name)


def test_losses_that_are_metrics():
    """Of shares of classes, too; and accuracy is what it was."""
    net = out(3, "softmax")
    for y in (labels(3), SOFT):
        result = net.evaluate(X, y, sample_weight=W, metrics=["log_loss", "accuracy"])
        np.testing.assert_allclose(result["log_loss"], result["loss"], rtol=1e-12)
        assert result["accuracy"] == net.evaluate(X, y, sample_weight=W)["accuracy"]
    two = out(1, "logistic")
    y = RNG.random(len(X))
    result = two.evaluate(X, y, metrics=["log_loss", "brier"])
    np.testing.assert_allclose(result["log_loss"], result["loss"], rtol=1e-12)
    np.testing.assert_allclose(result["brier"], ((two.predict(X)[:, 0] - y) ** 2).mean(), rtol=1e-12)
    result = two.evaluate(X, np.full(len(X), 0.5), metrics=["recall"])  # from 1/2 on it is 1, as accuracy has it
    np.testing.assert_allclose(result["recall"], result["accuracy"], rtol=1e-12)
    for name, loss, power in (("mae", "mae", 1), ("rmse", "mse", 0.5)):
        result = out(1).evaluate(X, REAL[:, 0], loss=loss, sample_weight=W, metrics=name)
        np.testing.assert_allclose(result[name], result["loss"] ** power, rtol=1e-12)


@pytest.mark.parametrize("activation", ["softmax", "logistic", "exp", "identity", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_metric_sees_what_predict_gives(activation, dtype):
    """Bit for bit, also where the loss itself reads z, over several chunks and on any number of threads; as copies."""
    net, seen = out(3, activation, dtype), []
    many = RNG.standard_normal((40_000, 4))
    y = np.zeros((len(many), 3)) + (1, 0, 0)

    def look(y_, a):
        assert y_.shape == y.shape
        seen.append(a.copy())
        a[:] = y_[:] = 5
        return 1

    loss = {"exp": "poisson"}.get(activation, "auto")
    metrics = [m.Metric(look, better="lower"), m.Metric(lambda y_, a: look(y_, a), better="lower", name="again")]
    for n_threads in (1, 2):
        net.evaluate(many, y, loss=loss, metrics=metrics, n_threads=n_threads)
    assert all((a == net.predict(many)).all() and a.dtype == dtype for a in seen) and len(seen) == 4
    assert (y == (1, 0, 0)).all()


def test_positions_are_examples():
    """Weights (n, time) mask steps, each sequence counting alike; what is masked may be anything."""
    net = bp.Network([bp.Input((5, 2)), bp.Dense(3, "softmax")], dtype="float64", seed=0)
    x, y = RNG.standard_normal((20, 5, 2)), RNG.integers(0, 3, (20, 5))
    a = net.predict(x)
    mask = RNG.random((20, 5)) < 0.6
    mask[:, 0] = True
    metrics = ["f1_macro", "roc_auc", "log_loss", "accuracy"]
    each = (mask / mask.sum(axis=1, keepdims=True)).ravel()
    for weight, flat in ((None, None), (W[:20] + 1, np.repeat(W[:20] + 1, 5)), (mask, each)):
        result = net.evaluate(x, y, sample_weight=weight, metrics=metrics)
        for name in metrics:
            wanted = named(name)(y.ravel(), a.reshape(-1, 3), sample_weight=flat)
            np.testing.assert_allclose(result[name], wanted, rtol=1e-12)
            np.testing.assert_allclose(named(name)(y, a, sample_weight=weight), wanted, rtol=1e-12)
        np.testing.assert_allclose(result["log_loss"], result["loss"], rtol=1e-12)


def test_several_outputs_have_metrics_by_name():
    x = bp.Input(4)
    net = bp.Network(x, [bp.Dense(3, "softmax", name="kind")(x), bp.Dense(2, name="size")(x)], dtype="float64")
    y = {"kind": labels(3), "size": REAL}
    metrics = {"size": ["r2", "pinball_0.9"], "kind": "f1_macro"}
    kind, size = net.predict(X)
    wanted = {
        "kind.f1_macro": m.F1("macro")(y["kind"], kind, sample_weight=W),
        "size.r2": m.r2(REAL, size, sample_weight=W),
        "size.pinball_0.9": m.Pinball(0.9)(REAL, size, sample_weight=W),
    }
    result = net.evaluate(X, y, sample_weight=W, metrics=metrics)
    for name, value in wanted.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-12)
    stop = bp.EarlyStopping("val_kind_f1_macro", patience=50)
    history = net.fit(
        X, y, epochs=3, validation_data=(X, y, W), metrics=metrics, train_metrics=True, callbacks=stop
    )  # fmt: skip
    names = {"kind_f1_macro", "size_r2", "size_pinball_0.9"}
    assert set(history.metrics) == names | {f"val_{name}" for name in names}
    assert stop.best == max(history["val_kind_f1_macro"])
    with pytest.raises(ValueError, match=r"metrics: expected a dict by output \(kind, size\), such as {'kind': \["):
        net.evaluate(X, y, metrics=["r2"])
    with pytest.raises(ValueError, match=r"metrics\['kind'\]: r2 wants a number for each output.*class labels"):
        net.evaluate(X, y, metrics={"kind": "r2"})
    with pytest.raises(ValueError, match="metrics: there is no 'sise'. Did you mean 'size'?"):
        net.evaluate(X, y, metrics={"sise": "r2"})


# ---- fit ----


def make(seed=0):
    return bp.Network([bp.Input(4), bp.Dense(8, "tanh"), bp.Dense(3, "softmax")], dtype="float64", seed=seed)


Y = (X[:, 0] > 0) + (X[:, 1] > 0)
HELD = (RNG.standard_normal((40, 4)), RNG.integers(0, 3, 40))
SETTINGS = {"optimizer": bp.Adam(lr=0.03), "batch_size": 10}


def test_the_history_has_them(capsys):
    """After each epoch what `evaluate` says then; with weights of their own; the training itself is what it was."""
    looked = []

    def look(state):
        looked.append(state.net.evaluate(*HELD, sample_weight=W[:40], metrics=["roc_auc", "top_k_2"]))
        looked[-1] |= {"own": state.net.evaluate(X, Y, metrics="roc_auc")["roc_auc"]}

    net, plain = make(), make()
    held = {"validation_data": (*HELD, W[:40])}
    metrics = ["roc_auc", "top_k_2", "accuracy"]
    history = net.fit(
        X, Y, epochs=4, metrics=metrics, train_metrics=True, callbacks=look, verbose=1, **held, **SETTINGS
    )  # fmt: skip
    plain.fit(X, Y, epochs=4, **SETTINGS)
    assert (net.theta == plain.theta).all()
    for ours, theirs in {
        "val_loss": "loss", "val_accuracy": "accuracy", "val_roc_auc": "roc_auc", "val_top_k_2": "top_k_2",
        "roc_auc": "own",
    }.items():  # fmt: skip
        assert history[ours] == [found[theirs] for found in looked], ours
    assert set(history.metrics) == {"roc_auc", "top_k_2", "accuracy", "val_roc_auc", "val_top_k_2"}
    assert history["accuracy"][-1] == net.evaluate(X, Y)["accuracy"]
    assert len({len(values) for values in history.values()}) == 1  # a column each
    assert f"{history['val_roc_auc'][-1]:.5g}" in repr(history)
    assert f"val_roc_auc {history['val_roc_auc'][-1]:.5g}" in capsys.readouterr().out.splitlines()[-1]
    assert pickle.loads(pickle.dumps(history)) == history
    assert "roc_auc" not in net.fit(X, Y, metrics="roc_auc", **held, **SETTINGS)


def test_a_fit_without_metrics_computes_no_answers():
    net = make()
    net.fit(X, Y, validation_data=HELD)
    assert all(key.kept == () for _, key in net._model.plans.entries)
    net.fit(X, Y, validation_data=HELD, metrics=["accuracy"])  # which the loss gives
    assert all(key.kept == () for _, key in net._model.plans.entries)
    net.fit(X, Y, validation_data=HELD, metrics=["accuracy", "f1_macro"])
    assert any(key.kept == (0,) for _, key in net._model.plans.entries)


def test_x_is_not_held():
    net = bp.Network([bp.Input(256), bp.Dense(2, "softmax")])
    x, y = np.zeros((8192, 256), np.float32), RNG.integers(0, 2, 8192)
    net.evaluate(x[:10], y[:10], metrics=["roc_auc", "f1"])
    tracemalloc.start()
    net.evaluate(x, y, metrics=["roc_auc", "f1", "log_loss"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 4


def test_many_networks_have_what_each_fit_has():
    """Also of the rows that each is trained on, with their weights."""
    rows = [RNG.integers(0, 60, 30) for _ in range(3)]
    settings = {"epochs": 3, "metrics": ["roc_auc", "f1_macro"], "train_metrics": True, **SETTINGS}
    held = (HELD[0], HELD[1], W[:40])
    nets = [make(k) for k in range(3)]
    weight = W + 0.5
    histories = bp.fit_many(nets, X, Y, rows=rows, validation_data=held, sample_weight=weight, **settings)
    for k, history in enumerate(histories):
        own = make(k).fit(X[rows[k]], Y[rows[k]], validation_data=held, sample_weight=weight[rows[k]], **settings)
        assert own.metrics == history.metrics and len(history["val_roc_auc"]) == 3
    assert {*histories[0].metrics} == {"roc_auc", "f1_macro", "val_roc_auc", "val_f1_macro"}
    alone = bp.fit_many(nets[:1], X, Y, metrics="roc_auc", train_metrics=True, epochs=2)[0]
    assert len(alone["roc_auc"]) == 2 and alone["roc_auc"][-1] == nets[0].evaluate(X, Y, metrics="roc_auc")["roc_auc"]
    best, _ = bp.fit_restarts(make(), X, Y, 2, validation_data=held, metrics="roc_auc", epochs=2)
    with pytest.raises(ValueError, match="metrics: mae"):
        bp.fit_many(nets, X, Y, metrics="mae", validation_data=held)


# ---- better ----


@pytest.mark.parametrize("name, better", [("roc_auc", max), ("log_loss", min), ("mine", min), ("other", max)])
@pytest.mark.parametrize("of", ["val_", ""])
def test_callbacks_know_which_way_is_better(name, better, of):
    own = [m.Metric(lambda y, a: -a[:, 1].mean(), better="lower", name="mine"),
           m.Metric(lambda y, a: -a[:, 1].mean(), better="higher", name="other")]  # fmt: skip
    net, stop = make(), bp.EarlyStopping(f"{of}{name}", patience=2)
    history = net.fit(
        X, Y, epochs=40, validation_data=HELD, metrics=["roc_auc", "log_loss", *own], train_metrics=True,
        callbacks=stop, **SETTINGS,
    )  # fmt: skip
    values = history[f"{of}{name}"]
    assert stop.best == better(values) and values.index(stop.best) == stop.best_epoch - 1
    assert net.epoch == stop.best_epoch
    if name != "log_loss":  # which falls for long
        assert len(values) == min(40, stop.best_epoch + 2)


class Given(bp.Callback):
    """What the metric will say after each epoch."""

    def __init__(self, *values):
        self.values = list(values)

    def metric(self, better):
        return m.Metric(lambda y, a: self.values.pop(0), better=better, name="given")


@pytest.mark.parametrize("better, values, best", [
    ("higher", [NAN, 0.1, NAN, 0.3, 0.2, 0.2], 4), ("lower", [NAN, 0.1, NAN, 0.3, 0.2, 0.05], 6),
    ("higher", [-5, -7, NAN, -6, -6, -8], 1), ("lower", [np.inf, 2, -np.inf, NAN, 0, 0], 3),
])  # fmt: skip
def test_nan_is_worst(better, values, best):
    stop = bp.EarlyStopping("val_given", patience=9)
    make().fit(X, Y, epochs=6, validation_data=HELD, metrics=Given(*values).metric(better), callbacks=stop)
    assert stop.best_epoch == best and stop.best == values[best - 1]
    net, stop = make(), bp.EarlyStopping("val_given", patience=2)
    net.fit(X, Y, epochs=6, validation_data=HELD, metrics=Given(*[NAN] * 6).metric(better), callbacks=stop)
    assert net.epoch == 2 and not np.isfinite(stop.best)


def test_reduce_on_plateau_watches_them():
    """0.5 lower than the best is better for one that falls, and worse for one that rises."""
    for better, reduced in (("lower", 0.1), ("higher", 0.025)):
        net = make()
        metrics = Given(3.0, 2.0, 1.0).metric(better)
        plateau = bp.ReduceOnPlateau("val_given", patience=1, factor=0.5, min_delta=0.5)
        net.fit(X, Y, epochs=3, validation_data=HELD, metrics=metrics, callbacks=plateau, optimizer=bp.SGD(lr=0.1))
        assert net.optimizer.lr == reduced


# ---- weights of validation data ----


def test_validation_data_have_weights():
    """`val_loss`, `val_accuracy` and metrics are those of `evaluate` with these weights; None is none."""
    net = make()
    history = net.fit(X, Y, validation_data=(*HELD, W[:40]), metrics="f1_macro")
    result = net.evaluate(*HELD, sample_weight=W[:40], metrics="f1_macro")
    assert [history[f"val_{name}"] for name in result] == [[value] for value in result.values()]
    assert result["loss"] != net.evaluate(*HELD)["loss"]
    assert net.fit(X, Y, validation_data=(*HELD, None)).val_loss == [net.evaluate(*HELD)["loss"]]
    deep = bp.Network([bp.Input((5, 2)), bp.Dense(3, "softmax")])
    x, y, mask = np.ones((4, 5, 2)), RNG.integers(0, 3, (4, 5)), RNG.random((4, 5)) < 0.5
    mask[0, 0] = True
    assert deep.fit(x, y, validation_data=[x, y, mask]).val_loss == [deep.evaluate(x, y, sample_weight=mask)["loss"]]


# ---- wrong input ----


def unweighted(y, a):
    return 0.0


ON = {"validation_data": HELD}
WRONG = {
    "no data": ({"metrics": ["roc_auc"]}, ValueError, "metrics: expected data.*validation_data=.*train_metrics=True"),
    "no metrics": ({"train_metrics": True}, ValueError, "train_metrics: expected metrics to record"),
    "train_metrics": ({"train_metrics": "yes"}, TypeError, "train_metrics: expected True or False, got 'yes'"),
    "a word": ({"metrics": "roc_au", **ON}, ValueError, "metrics: there is no 'roc_au'. Did you mean 'roc_auc'?"),
    "scikit-learn's": ({"metrics": "f1_score", **ON}, ValueError, "no 'f1_score'. Did you mean 'f1'?"),
    "a number": ({"metrics": [5], **ON}, TypeError, "metrics: expected a name or an object such as .*, got 5"),
    "none": ({"metrics": None, **ON}, TypeError, "metrics: expected a name or an object such as .*, got None"),
    "a class": ({"metrics": m.F1, **ON}, TypeError, r"use bp\.metrics\.F1\(\)"),
    "a function": ({"metrics": [unweighted], **ON}, TypeError, r"use bp\.metrics\.Metric\(f, better='higher'\), or"),
    "twice": ({"metrics": ["f1_macro", m.F1("macro")], **ON}, ValueError, "expected each once, got f1_macro 2 times"),
    "numbers": ({"metrics": ["r2"], **ON}, ValueError, "metrics: r2 wants a number for each output.*class labels"),
    "three classes": ({"metrics": ["f1"], **ON}, ValueError, "f1 is for two classes, and there are 3.*f1_macro"),
    "k": ({"metrics": ["top_k"], **ON}, ValueError, "metrics: top_k expects at least 5 classes, and there are 3"),
    "level": ({"metrics": ["pinball_1.5"], **ON}, ValueError, r"level: expected a finite number in \[0, 1\], got 1.5"),
    "weights": ({"metrics": m.Metric(unweighted, better="lower"), "validation_data": (*HELD, W[:40])}, ValueError,
                r"metrics: unweighted is given no weights.*sample_weight=None"),
    "unwatched": ({"callbacks": bp.EarlyStopping("val_roc_auc"), **ON}, ValueError,
                  r"watches val_roc_auc, .*give fit metrics=\['roc_auc'\]$"),
    "untrained": ({"callbacks": bp.EarlyStopping("roc_auc"), "metrics": "roc_auc", **ON}, ValueError,
                  "watches roc_auc, .*watch val_roc_auc, or give fit train_metrics=True"),
    "a word to watch": ({"callbacks": bp.ReduceOnPlateau("val_roc_au"), "metrics": "roc_auc", **ON}, ValueError,
                        "there is no metric of this name. Did you mean 'val_roc_auc'?"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_metrics_change_nothing(case):
    settings, error, words = WRONG[case]
    net = make()
    before = net.theta.copy()
    with pytest.raises(error, match=words):
        net.fit(X, Y, **settings)
    assert (net.theta == before).all() and net.epoch == net.step == 0 and net.optimizer is None


UNFIT = {
    "roc of numbers": (lambda: out(2), "auto", REAL, "roc_auc", "roc_auc is for classes, and the targets are numbers"),
    "f1 of counts": (lambda: out(1, "exp"), "poisson", BITS.sum(1), "f1", "f1 is for classes.*such as"),
    "f1 of means": (lambda: out(2), "gaussian_nll", BITS[:, 0], "f1", "the loss gaussian_nll for numbers"),
    "f1 of labels": (lambda: out(3, "logistic"), "auto", BITS, "f1", "f1 is for two classes, and there are 3 outputs"),
    "log loss of labels": (lambda: out(3, "logistic"), "auto", BITS, "log_loss", "classes of which one is right"),
    "log loss of margins": (lambda: out(1), "hinge", 2 * BITS[:, 0] - 1, "log_loss", "is for probabilities"),
    "another quantile": (lambda: out(2), bp.losses.Quantile([0.1, 0.9]), REAL[:, 0], "mae", "the quantile 0.5, and .*"
                         "are those of 0.1, 0.9"),
    "rows that are no classes": (lambda: out(3, "softmax"), "mse", SOFT, "roc_auc", "is for classes"),
    "y of another shape": (
        lambda: out(3), bp.Loss(lambda a, y: a[:, 0], lambda a, y: a), REAL, "mae", r"of shape \(2,\) for outputs of"),
    "classes of one's own": (
        lambda: out(3), bp.Loss(lambda a, y: a[:, 0], lambda a, y: a), labels(3) + 1, "accuracy", "from 0 to 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_metrics_that_do_not_fit_the_target(case):
    make_, loss, y, name, words = UNFIT[case]
    with pytest.raises(ValueError, match=f"^metrics: {name}.*{words}|^metrics: .*{words}"):
        make_().fit(X, y, loss=loss, metrics=[name], train_metrics=True)


CALLED = {
    "rows": (lambda: m.mae([1, 2, 3], [1, 2]), ValueError, "y: expected 2 rows as in a"),
    "shape": (lambda: m.mae(np.ones((2, 2)), np.ones((2, 3))), ValueError, r"y: expected shape \(2, 3\), got \(2, 2\)"),
    "classes": (lambda: m.accuracy([0, 3], THREE[:2]), ValueError, "y: expected numbers from 0 to 2"),
    "floats": (lambda: m.accuracy([0.5, 1], THREE[:2]), TypeError, "y: class labels must be integers"),
    "answers": (lambda: m.accuracy([0, 7], [0.2, 0.3]), ValueError, "y: accuracy .* such as 7;.*n, classes"),
    "strings": (lambda: m.accuracy(["a"], [0.2]), TypeError, "y: expected real numbers"),
    "none": (lambda: m.mae([], []), ValueError, r"a: expected answers \(n, columns\) or \(n,\), got shape \(0,\)"),
    "probabilities": (lambda: m.log_loss([0, 1], [0.5, 1.5]), ValueError, "a: expected probabilities from 0 to 1"),
    "weights": (lambda: m.mae([1], [1], sample_weight=[-1]), ValueError, "sample_weight: expected numbers from 0"),
    "NaN": (lambda: m.mae([NAN], [1]), ValueError, "y: expected finite numbers"),
    "k": (lambda: m.TopK(0), ValueError, "k: expected an integer from 1"),
    "average": (lambda: m.F1("weighted"), ValueError, "average: there is no 'weighted'. .*binary, macro, micro"),
    "level": (lambda: m.Pinball(-0.1), ValueError, "level: expected a finite number in"),
    "better": (lambda: m.Metric(unweighted, better="more"), ValueError, "better: there is no 'more'"),
    "better is asked for": (lambda: m.Metric(unweighted), TypeError, "better"),
    "no function": (lambda: m.Metric(5, better="lower"), TypeError, "f: expected a function"),
    "no name": (lambda: m.Metric(lambda y, a: 0, better="lower"), ValueError, "name: expected one such as"),
    "taken": (lambda: m.Metric(unweighted, better="lower", name="loss"), ValueError, "'loss' has another meaning"),
    "taken, too": (lambda: m.Metric(unweighted, better="lower", name="f1_macro"), ValueError, "has another meaning"),
}


@pytest.mark.parametrize("case", CALLED)
def test_wrong_arguments(case):
    call, error, words = CALLED[case]
    with pytest.raises(error, match=words):
        call()


def test_what_a_metric_of_ones_own_raises_or_returns():
    """It ends the fit after a whole epoch."""

    def wrong(y, a):
        raise RuntimeError("mine")

    for f, error, words in ((wrong, RuntimeError, "mine"), (lambda y, a: "many", TypeError, "given returned 'many'")):
        net = make()
        with pytest.raises(error, match=words):
            net.fit(X, Y, metrics=m.Metric(f, better="lower", name="given"), train_metrics=True)
        assert net.epoch == 1


# ---- what is public ----


def test_metrics_are_known_by_name_and_setting():
    for name in m.NAMES:
        metric = named(name)
        assert metric.name == name and metric == pickle.loads(pickle.dumps(metric)) and hash(metric)
        falls = name in ("log_loss", "brier", "mae", "rmse", "mape", "pinball")
        assert metric.better == ("lower" if falls else "higher")
        base = getattr(m, metric.base)
        assert base == type(metric)() and base.name == metric.base
    assert named("top_k_3") == m.TopK(3) and m.TopK(3).name == "top_k_3"
    assert named("pinball_0.9") == m.Pinball(0.9) and m.Pinball(0.9).name == "pinball_0.9"
    assert all(getattr(m, name, None) is not None for name in m.__all__)


def test_the_page_names_all_and_runs():
    text = PAGE.read_text(encoding="utf-8")
    for name in m.NAMES:
        assert f"`{named(name).base}`" in text, name
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, str(PAGE), "exec"), names)


def test_a_metric_of_ones_own_gets_answers_shaped_as_y():
    """y (n,) less a (n, 1) would be (n, n)."""
    rng = np.random.default_rng(0)
    A, t = rng.standard_normal((30, 3)), rng.standard_normal(30)
    net = bp.Network([bp.Input(3), bp.Dense(1)], seed=0, dtype="float64")
    mse = bp.metrics.Metric(lambda y, a: np.mean((y - a) ** 2), better="lower", name="own_mse")
    for y in (t, t[:, None]):
        result = net.evaluate(A, y, loss="mse", metrics=mse)
        assert result["own_mse"] == pytest.approx(result["loss"], rel=1e-12)
