"""Metrics beside scikit-learn's: the same values to 1e-12, with ties, weights, some of them 0, and missing classes."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk

import bpcore as bp

m = bp.metrics
SEEDS = range(12)
CLOSE = {"rtol": 1e-12, "atol": 1e-13, "equal_nan": True}


def case(seed, columns):
    """Answers with ties, and weights: none, of all sizes, or some of them 0."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 300))
    a = rng.random((n, columns))
    a = a.round(1) if seed % 2 else a
    w = (None, rng.gamma(0.5, 10.0, n) + 1e-9, rng.integers(0, 3, n).astype(float))[seed % 3]
    if w is not None:
        w[0] = 1.0
    return rng, n, a, w


def agrees(metric, y, a, w, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not defined
        np.testing.assert_allclose(metric(y, a, sample_weight=w), wanted(), **CLOSE, err_msg=metric.name)


def of_counts(y, chosen, w, averages):
    """precision, recall and f1; scikit-learn counts classes whose examples all have weight 0 as there."""
    some = slice(None) if w is None else w > 0
    y, chosen, w = y[some], chosen[some], None if w is None else w[some]
    for ours, peer in ((m.Precision, sk.precision_score), (m.Recall, sk.recall_score), (m.F1, sk.f1_score)):
        for average in averages:
            yield (
                ours(average),
                lambda peer=peer, average=average: peer(y, chosen, average=average, sample_weight=w, zero_division=0),
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_two_classes(seed):
    rng, n, a, w = case(seed, 1)
    p, y = a[:, 0], rng.integers(0, 2, n)
    y[:2] = 0, 1  # both are there
    chosen = (p >= 0.5).astype(int)
    wanted = {
        m.accuracy: lambda: sk.accuracy_score(y, chosen, sample_weight=w),
        m.balanced_accuracy: lambda: sk.balanced_accuracy_score(y, chosen, sample_weight=w),
        m.roc_auc: lambda: sk.roc_auc_score(y, p, sample_weight=w),
        m.average_precision: lambda: sk.average_precision_score(y, p, sample_weight=w),
        m.log_loss: lambda: sk.log_loss(y, p, sample_weight=w, labels=[0, 1]),
        m.brier: lambda: sk.brier_score_loss(y, p, sample_weight=w),
        **dict(of_counts(y, chosen, w, ("binary", "macro", "micro"))),
    }
    for metric, value in wanted.items():
        agrees(metric, y, a, w, value)
        less = 1 if metric in (m.log_loss, m.brier) else 1 - 1e-9  # of equals the first class is chosen
        agrees(metric, y, np.hstack([less * (1 - a), a]), w, value)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lacking", [0, 2])
def test_several_classes(seed, lacking):
    """lacking: how many classes y does not have."""
    rng, n, a, w = case(seed, 5)
    p = (a + 0.1) / (a + 0.1).sum(axis=1, keepdims=True)
    y = rng.integers(0, 5 - lacking, n)
    y[: min(n, 5)] = np.arange(5 - lacking).repeat(3)[: min(n, 5)]
    every = range(5)
    chosen = a.argmax(axis=1)
    wanted = {
        m.accuracy: lambda: sk.accuracy_score(y, chosen, sample_weight=w),
        m.balanced_accuracy: lambda: sk.balanced_accuracy_score(y, chosen, sample_weight=w),
        m.log_loss: lambda: sk.log_loss(y, p, sample_weight=w, labels=every),
        m.brier: lambda: sk.brier_score_loss(y, p, sample_weight=w, labels=every),
        **dict(of_counts(y, chosen, w, ("macro", "micro"))),
        **{
            m.TopK(k): lambda k=k: sk.top_k_accuracy_score(y, a, k=k, sample_weight=w, labels=every)
            for k in range(1, 6)
        },
    }
    for metric, value in wanted.items():
        agrees(metric, y, p if metric in (m.log_loss, m.brier) else a, w, value)
    there = [c for c in every if ((y == c) if w is None else (y == c) & (w > 0)).any()]
    for metric, peer in ((m.roc_auc, sk.roc_auc_score), (m.average_precision, sk.average_precision_score)):
        agrees(metric, y, a, w, lambda peer=peer: np.mean([peer(y == c, a[:, c], sample_weight=w) for c in there]))
        if len(there) == 5:
            settings = {"multi_class": "ovr"} if metric is m.roc_auc else {}
            agrees(metric, y, p, w, lambda peer=peer, s=settings: peer(y, p, average="macro", sample_weight=w, **s))


@pytest.mark.parametrize("seed", SEEDS)
def test_labels(seed):
    rng, n, a, w = case(seed, 4)
    y = rng.random((n, 4)) < (0.0 if seed == 4 else 0.5, 0.3, 0.5, 0.9)
    chosen = a >= 0.5
    wanted = {
        m.accuracy: lambda: 1 - sk.hamming_loss(y, chosen, sample_weight=w),
        m.roc_auc: lambda: sk.roc_auc_score(y, a, average="macro", sample_weight=w),
        m.average_precision: lambda: sk.average_precision_score(y, a, average="macro", sample_weight=w),
        **dict(of_counts(y, chosen, w, ("macro", "micro"))),
    }
    for metric, value in wanted.items():
        agrees(metric, y.astype(int), a, w, value)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("columns", [1, 3])
def test_numbers(seed, columns):
    rng, n, a, w = case(seed, columns)
    y = a + rng.normal(size=a.shape)
    y[0] = 0
    wanted = {
        m.mae: sk.mean_absolute_error,
        m.rmse: sk.root_mean_squared_error,
        m.mape: sk.mean_absolute_percentage_error,
        m.r2: sk.r2_score,
        m.pinball: sk.mean_pinball_loss,
    }
    for metric, peer in wanted.items():
        agrees(metric, y, a, w, lambda peer=peer: peer(y, a, sample_weight=w))
    for level in (0.0, 0.1, 0.9, 1.0):
        wanted = sk.mean_pinball_loss(y, a, sample_weight=w, alpha=level)
        agrees(m.Pinball(level), y, a, w, lambda wanted=wanted: wanted)
    if columns == 1:
        agrees(m.mae, y[:, 0], a[:, 0], w, lambda: sk.mean_absolute_error(y, a, sample_weight=w))


def test_what_is_not_defined():
    """Of one class, of a constant, of probabilities 0 and 1, of float32."""
    ones, p = np.ones(4, int), np.array([0.0, 1.0, 0.3, 1.0])
    for metric, peer in ((m.roc_auc, sk.roc_auc_score), (m.average_precision, sk.average_precision_score)):
        agrees(metric, ones, p, None, lambda peer=peer: peer(ones, p))
        agrees(metric, 0 * ones, p, None, lambda peer=peer: peer(0 * ones, p))
    for dtype in (np.float32, np.float64):
        a = p.astype(dtype)
        wanted = sk.log_loss(ones, a, labels=[0, 1])
        np.testing.assert_allclose(m.log_loss(ones, a), wanted, rtol=1e-6 if dtype == np.float32 else 1e-12)
    agrees(m.r2, np.full(4, 2.0), p, None, lambda: sk.r2_score(np.full(4, 2.0), p))
    agrees(m.r2, np.full(4, 2.0), np.full(4, 2.0), None, lambda: sk.r2_score(np.full(4, 2.0), np.full(4, 2.0)))
    agrees(m.r2, [1.0], [2.0], None, lambda: sk.r2_score([1.0], [2.0]))
    for metric, peer in ((m.precision, sk.precision_score), (m.recall, sk.recall_score), (m.f1, sk.f1_score)):
        agrees(metric, 0 * ones, np.zeros(4), None, lambda peer=peer: peer(0 * ones, 0 * ones, zero_division=0))


def test_a_network_has_their_values():
    """`evaluate` of float64 outputs; a metric of your own may be one of scikit-learn's."""
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(200, 4)), rng.integers(0, 3, 200), rng.random(200)
    net = bp.Network([bp.Input(4), bp.Dense(3, "softmax")], dtype="float64", seed=0)
    p = net.predict(X)

    def kappa(y, a, sample_weight=None):
        return sk.cohen_kappa_score(y, a.argmax(axis=1), sample_weight=sample_weight)

    own = m.Metric(kappa, better="higher")
    result = net.evaluate(X, y, sample_weight=w, metrics=["roc_auc", "f1_macro", "log_loss", own])
    wanted = {
        "roc_auc": sk.roc_auc_score(y, p, multi_class="ovr", sample_weight=w),
        "f1_macro": sk.f1_score(y, p.argmax(1), average="macro", sample_weight=w),
        "log_loss": sk.log_loss(y, p, sample_weight=w),
        "kappa": kappa(y, p, w),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-12)
