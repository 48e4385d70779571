"""class_weight of `fit` is sample_weight by classes, in training and val_loss, and in no metric."""

import numpy as np
import pytest

import bpcore as bp

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(60, 4)), RNG.choice([0, 1, 3], 60, p=[0.7, 0.2, 0.1])
W = RNG.uniform(0.5, 2, 60)
TABLE = {0: 0.25, 3: 4.0}
BY_ROW = np.array([0.25, 1.0, 1.0, 4.0])[LABELS]  # of classes that are not named: 1


def classifier(dtype="float64", units=4, activation="softmax", seed=3):
    return bp.Network([bp.Input(4), bp.Dense(6, "tanh"), bp.Dense(units, activation)], dtype=dtype, seed=seed)


def balanced(y, w=None):
    """scikit-learn's compute_sample_weight("balanced", y), of rows that have weights already."""
    w = np.ones(len(y)) if w is None else w
    classes = np.unique(y)
    share = {k: w.sum() / (len(classes) * w[y == k].sum()) for k in classes}
    return np.array([share[k] for k in y])


def trained(net, y, **settings):
    history = net.fit(X, y, **{"epochs": 3, "batch_size": 16, "optimizer": bp.Adam(lr=0.01), **settings})
    return net.theta, history


def same(got, want, tolerance=0.0):
    """Of weights that are summed in another order, up to rounding."""
    np.testing.assert_allclose(got[0], want[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got[1].loss, want[1].loss, rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight", [None, W], ids=["plain", "weighted"])
def test_weights_of_classes_are_weights_of_their_rows(dtype, weight):
    own = np.ones(60) if weight is None else weight
    for given, by_row in ((TABLE, BY_ROW), ("balanced", balanced(LABELS, weight))):
        for y in (LABELS, LABELS.astype(np.uint8), np.eye(4)[LABELS], np.eye(4, dtype=bool)[LABELS]):
            want = trained(classifier(dtype), y, sample_weight=own * by_row)
            got = trained(classifier(dtype), y, sample_weight=weight, class_weight=given)
            same(got, want, 0.0 if given is TABLE else 1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize(
    ("activation", "loss", "values"),
    [
        ("logistic", "binary_cross_entropy", (0, 1)), ("logistic", "focal", (0, 1)), ("identity", "hinge", (-1, 1)),
        ("identity", "squared_hinge", (-1.0, 1.0)),
    ],
)  # fmt: skip
def test_the_two_values_of_a_single_output_are_classes(activation, loss, values):
    y = np.array(values)[(LABELS > 0).astype(int)]
    for given, by_row in ({values[1]: 3}, np.where(y > 0, 3.0, 1.0)), ("balanced", balanced(y)):
        want = trained(classifier(units=1, activation=activation), y, loss=loss, sample_weight=by_row)
        for target in (y, y[:, None].astype(np.float32)):
            net = classifier(units=1, activation=activation)
            same(trained(net, target, loss=loss, class_weight=given), want)


def test_val_loss_has_the_weights_and_accuracy_has_not():
    """Learnt from the training rows; a class that is not among them has weight 1."""
    labels = RNG.integers(0, 4, 30)
    Xv, by_row = RNG.normal(size=(30, 4)), {k: w for k, w in zip(LABELS, balanced(LABELS), strict=True)}
    net, twin = classifier(), classifier()
    _, history = trained(net, LABELS, class_weight="balanced", validation_data=(Xv, labels), epochs=1)
    trained(twin, LABELS, sample_weight=balanced(LABELS), epochs=1)
    w = np.array([by_row.get(k, 1.0) for k in labels])
    assert history.val_loss[0] == pytest.approx(twin.evaluate(Xv, labels, sample_weight=w)["loss"], rel=1e-14)
    assert history.val_accuracy[0] == twin.evaluate(Xv, labels)["accuracy"]
    assert twin.evaluate(Xv, labels, sample_weight=w)["accuracy"] != history.val_accuracy[0]


def test_networks_of_other_rows_have_weights_of_their_own():
    """fit_many and fit_restarts; a bootstrap sample counts a row as often as it is there."""
    rows = [np.arange(40), RNG.integers(0, 60, 50), np.arange(40)]
    nets = [classifier(seed=k) for k in range(3)]
    settings = {"class_weight": "balanced", "epochs": 3, "batch_size": 16, "optimizer": bp.Adam(lr=0.01)}
    histories = bp.fit_many(nets, X, LABELS, rows=rows, sample_weight=W, **settings)
    for k, each in enumerate(rows):
        twin = classifier(seed=k)
        history = twin.fit(X[each], LABELS[each], sample_weight=W[each], **settings)
        same((nets[k].theta, histories[k]), (twin.theta, history))
    best, histories = bp.fit_restarts(classifier(), X, LABELS, 3, validation_data=(X[:20], LABELS[:20]), **settings)
    assert best.seed == 3 + int(np.argmin([history.val_loss[-1] for history in histories]))


def test_what_has_no_classes_is_refused():
    """One error that says so, before anything changes."""
    sequence = bp.Network([bp.Input((5, 2)), bp.Dense(3, "softmax")])
    several = bp.Network(x := bp.Input(4), [bp.Dense(4, "softmax")(x), bp.Dense(4, "softmax")(x)])
    soft = np.full((60, 4), 0.25)
    cases = [
        (classifier(), X, LABELS, {5: 1.0}, ValueError, r"labels 0 to 3, got 5"),
        (classifier(), X, LABELS, {"cat": 1.0}, ValueError, r"labels 0 to 3, got 'cat'"),
        (classifier(), X, LABELS, {2: 1.0}, ValueError, r"a class that occurs among the rows \(0, 1, 3"),
        (classifier(), X, LABELS, {}, ValueError, "a class that occurs"),
        (classifier(), X, LABELS, dict.fromkeys(range(4), 0), ValueError, "a weight above zero"),
        (classifier(), X, LABELS, {0: -1.0}, ValueError, r"\[0\]: expected a finite number in \[0"),
        (classifier(), X, LABELS, {0: np.nan}, ValueError, r"\[0\]: expected a"),
        (classifier(), X, LABELS, {0: "2"}, TypeError, r"\[0\]: expected a"),
        (classifier(), X, LABELS, {0: 1e300}, ValueError, "up to 1e15"),
        (classifier(), X, LABELS, [1, 2, 1, 1], TypeError, r"use dict\(enumerate\(class_weight\)\)"),
        (classifier(), X, LABELS, np.ones(4), TypeError, r"use dict\(enumerate\(class_weight\)\)"),
        (classifier(), X, LABELS, "even", ValueError, "'balanced'"),
        (classifier(), X, soft, "balanced", ValueError, r"rows of one 1 and else 0; y\[0\] is"),
        (classifier(units=1, activation="logistic"), X, W / 2, "balanced", ValueError, r"0 or 1; y\[0\] is"),
        (classifier(activation="logistic"), X, soft, "balanced", ValueError, "has as many"),
        (classifier(activation="identity"), X, soft, "balanced", ValueError, "a loss of classes"),
        (sequence, np.ones((9, 5, 2)), np.zeros((9, 5), int), "balanced", ValueError, r"outputs of shape \(5, 3\)"),
        (several, X, [LABELS, LABELS], "balanced", ValueError, "one output"),
    ]
    for net, inputs, y, given, error, words in cases:
        before = net.theta.copy()
        with pytest.raises(error, match=f"^class_weight.*{words}"):
            net.fit(inputs, y, class_weight=given)
        assert (net.theta == before).all() and net.epoch == 0


def test_validation_data_must_be_classes_as_well():
    with pytest.raises(ValueError, match=r"validation_data\[1\]\[1\] is"):
        y = np.eye(4)[LABELS[:3]]
        y[1] = 0.25
        classifier().fit(X, LABELS, class_weight="balanced", validation_data=(X[:3], y))
    with pytest.raises(ValueError, match=r"rows of validation_data\[0\]"):
        classifier().fit(X, LABELS, class_weight={0: 0}, validation_data=(X[:2], [0, 0]))
