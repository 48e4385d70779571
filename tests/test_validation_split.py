"""validation_split: the bits of a fit on the rows that are left, and what is drawn."""

import numpy as np
import pytest
from fitting import LABELS, X, Y, make, state_of

import bpcore as bp


def columns(history):
    """What does not depend on time."""
    return {k: v for k, v in history.items() if k not in ("seconds", "samples_per_second")}


def held_out(net, X, y, **settings):
    """The rows that `fit` validates on: each has its number in column 0, and a metric sees them."""
    seen = []
    metric = bp.metrics.Metric(lambda y, a: seen.append(y.copy()) or 0.0, better="higher", name="seen")
    net.fit(X, y, loss="mse", metrics=metric, **settings)
    return seen[0][:, 0].astype(int)


def apart(held, n=50):
    return np.setdiff1d(np.arange(n), held), np.asarray(held)


@pytest.mark.parametrize("settings", [
    {}, {"shuffle": False}, {"batch_size": None}, {"optimizer": bp.LBFGS(), "batch_size": None},
    {"optimizer": bp.LevenbergMarquardt(), "batch_size": None},
])  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bits_are_those_of_a_fit_on_the_other_rows(settings, weighted):
    train, held = apart([40, 3, 17, 8])
    held = np.sort(held)
    w = np.random.default_rng(2).uniform(0.5, 2, 50) if weighted else None
    nets = make(), make()
    got = nets[0].fit(X, Y, loss="mse", epochs=3, validation_split=[40, 3, 17, 8], sample_weight=w, **settings)
    data = (X[held], Y[held], None if w is None else w[held])
    want = nets[1].fit(
        X[train], Y[train], loss="mse", epochs=3, validation_data=data, sample_weight=None if w is None else w[train],
        **settings,
    )  # fmt: skip
    assert state_of(nets[0]) == state_of(nets[1]) and columns(got) == columns(want) and "val_loss" in got


def test_a_share_is_drawn_from_the_seed():
    numbers = np.c_[np.arange(50.0), np.zeros(50)]
    first = held_out(make(), X, numbers, validation_split=0.3)
    assert len(set(first)) == 15 and (np.diff(first) > 0).all()
    assert (held_out(make(), X, numbers, validation_split=0.3, epochs=2, batch_size=7) == first).all()
    assert (held_out(make(seed=2), X, numbers, validation_split=0.3, seed=1) == first).all()
    assert set(held_out(make(), X, numbers, validation_split=0.3, seed=5)) != set(first)
    counts = np.zeros(50)
    for seed in range(200):
        counts[held_out(make(), X, numbers, validation_split=0.3, seed=seed)] += 1
    assert abs(counts - 60).max() < 5 * np.sqrt(200 * 0.3 * 0.7)  # each row is as likely as the next


@pytest.mark.parametrize("kind", ["labels", "one-hot", "two"])
def test_each_class_has_its_share(kind):
    rng = np.random.default_rng(0)
    labels = rng.choice(2 if kind == "two" else 4, 200, p=[0.9, 0.1] if kind == "two" else [0.7, 0.2, 0.07, 0.03])
    rows = np.zeros((200, 3))
    net = make(n_out=1, output="logistic") if kind == "two" else make(n_out=4, output="softmax")
    y = np.eye(4)[labels] if kind == "one-hot" else labels
    seen = []
    metric = bp.metrics.Metric(lambda y, a: seen.append(y.copy()) or 0.0, better="higher", name="seen")
    net.fit(rows, y, validation_split=0.25, metrics=metric)
    found = seen[0].argmax(axis=1) if kind == "one-hot" else seen[0].reshape(-1).astype(int)
    assert len(found) == 50
    want = np.bincount(labels) / 4
    assert (abs(np.bincount(found, minlength=len(want)) - want) < 1).all()


def test_balanced_weights_are_learnt_from_the_rows_that_are_trained_on():
    train, held = apart(range(0, 50, 5))
    nets = make(n_out=4, output="softmax"), make(n_out=4, output="softmax")
    got = nets[0].fit(X, LABELS, validation_split=held, class_weight="balanced")
    data = X[held], LABELS[held]
    want = nets[1].fit(X[train], LABELS[train], validation_data=data, class_weight="balanced")
    assert state_of(nets[0]) == state_of(nets[1]) and columns(got) == columns(want)


def test_fit_many_splits_for_each_network_by_its_seed():
    rows = [None, np.arange(5, 45)]
    nets, twins = ([make(seed=k) for k in range(2)] for _ in range(2))
    got = bp.fit_many(nets, X, Y, rows=rows, validation_split=0.2, epochs=2, n_threads=2)
    for net, twin, picked, history in zip(nets, twins, rows, got, strict=True):
        part = slice(None) if picked is None else picked
        want = twin.fit(X[part], Y[part], validation_split=0.2, epochs=2)
        assert state_of(net) == state_of(twin) and columns(history) == columns(want)
    best, histories = bp.fit_restarts(make(), X, Y, n=3, validation_split=0.2)
    assert all(len(history.val_loss) == 1 for history in histories)


@pytest.mark.parametrize("value, error, words", [
    (0, ValueError, r"finite number in \(0, 1\)"), (1.0, ValueError, r"finite number in \(0, 1\)"),
    ("a", TypeError, "expected a number"), (True, TypeError, "expected a number"),
    ([3, 3], ValueError, "each row once"), ([50], ValueError, "from 0 to 49"), ([], ValueError, "m > 0"),
    (np.arange(50), ValueError, "rows to train on and rows to validate on, got 0 and 50"),
    (np.zeros(50, bool), ValueError, r"np.flatnonzero\(mask\)"), ([0.5], ValueError, "expected .m,. integers"),
])  # fmt: skip
def test_what_is_no_split(value, error, words):
    net = make()
    before = state_of(net)
    with pytest.raises(error, match=f"validation_split: .*{words}"):
        net.fit(X, Y, validation_split=value)
    assert state_of(net) == before


def test_a_split_beside_validation_data_and_rows_without_weight():
    with pytest.raises(ValueError, match="validation_split: expected it or validation_data, got both"):
        make().fit(X, Y, validation_split=0.2, validation_data=(X, Y))
    with pytest.raises(ValueError, match="validation_split: expected a weight above zero"):
        make().fit(X, Y, validation_split=[0, 1], sample_weight=np.r_[0.0, 0.0, np.ones(48)])
    with pytest.raises(ValueError, match="give fit validation_split=0.2"):
        make().fit(X, Y, callbacks=bp.EarlyStopping())
