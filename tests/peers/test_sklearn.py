"""bpcore.sklearn against scikit-learn: its own checks of estimators, and the same numbers from the same random_state.

Tolerances: losses relative and parameters absolute (they are about 1), in float64 1e-12 after some hundred steps of
sgd and adam and 1e-6 after lbfgs, whose line searches amplify rounding; in float32 1e-4.
"""

import copy
import pickle
import re
import threading
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
import scipy.sparse
import sklearn
import sklearn.neural_network as peer
from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, InconsistentVersionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks

import bpcore as bp
from bpcore import sklearn as ours

SKLEARN, BPCORE = sklearn.__version__, bp.__version__
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, LABELS = (a[:450] for a in load_digits(return_X_y=True))
X = X / 16
RNG = np.random.default_rng(0)
W = RNG.uniform(0.1, 2, len(X))
TARGETS = {
    "classes": LABELS,
    "names": np.array(["even", "odd"])[LABELS % 2],
    "labels": make_multilabel_classification(len(X), n_classes=4, random_state=0)[1],
    "number": X @ RNG.normal(size=64) / 4,
    "numbers": np.tanh(X @ RNG.normal(size=(64, 3)) / 4),
    "counts": RNG.poisson(np.exp(X[:, 20])),
}
SOLVERS = {
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "plain sgd": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.2},
    "adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 1, "learning_rate_init": 0.05,
    },
    "adam": {"solver": "adam", "learning_rate_init": 0.005, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-5},
    "lbfgs": {"solver": "lbfgs"},
}  # fmt: skip
CURVES = ("loss_curve_", "validation_scores_", "best_loss_", "best_validation_score_", "loss_")
EQUAL = ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_")


def pair(target, **settings):
    """scikit-learn's estimator and ours, with the same parameters."""
    name = "MLPClassifier" if target in ("classes", "names", "labels") else "MLPRegressor"
    settings = {"hidden_layer_sizes": (20,), "max_iter": 15, "random_state": 3, "batch_size": 40, **settings}
    if target == "counts":
        settings["loss"] = "poisson"
    return getattr(peer, name)(**settings), getattr(ours, name)(**settings)


def assert_same(theirs, mine, X=X, tolerance=1e-12):
    for name in CURVES:
        want, got = getattr(theirs, name, "none"), getattr(mine, name, "none")
        if want is None or isinstance(want, str):
            assert got is want or got == want, name
        else:
            np.testing.assert_allclose(got, want, tolerance, err_msg=name)
    for name in EQUAL:
        assert getattr(mine, name, None) == getattr(theirs, name, None), name
    for want, got in zip(theirs.coefs_ + theirs.intercepts_, mine.coefs_ + mine.intercepts_, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    methods = ("predict_proba", "predict_log_proba") if hasattr(theirs, "classes_") else ("predict",)
    for method in methods:
        np.testing.assert_allclose(getattr(mine, method)(X), getattr(theirs, method)(X), 0, 100 * tolerance)
    if hasattr(theirs, "classes_"):
        np.testing.assert_array_equal(mine.classes_, theirs.classes_)
        assert mine.classes_.dtype == theirs.classes_.dtype
        np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))


def check_fit(target, X=X, tolerance=1e-12, **settings):
    weight = settings.pop("sample_weight", None)
    both = pair(target, **settings)
    for model in both:
        model.fit(X, TARGETS[target], sample_weight=weight)
    assert_same(*both, X, tolerance)
    net = both[1]._network()
    assert settings.get("solver") == "lbfgs" or net.step == both[1].n_iter_ * -(-both[1].t_ // both[1].n_iter_ // 40)
    return both


# ---- scikit-learn's own checks; it expects none of them to fail, and none does ----


@parametrize_with_checks([ours.MLPClassifier(max_iter=100), ours.MLPRegressor(max_iter=100)])
@pytest.mark.filterwarnings("ignore")
def test_checks_of_estimators(estimator, check):
    check(estimator)


# ---- the same numbers ----


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_same_training_by_each_solver(solver, alpha, weighted):
    # 450 rows in batches of 40: the last batch is shorter, and has a decay of its own
    tolerance = 1e-6 if solver == "lbfgs" else 1e-12
    weight = W if weighted else None
    check_fit("classes", alpha=alpha, sample_weight=weight, tolerance=tolerance, **SOLVERS[solver])


# to several numbers scikit-learn hands L-BFGS a value that is not that of its gradient: there is a test of its own
PAIRS = [(t, s) for t in TARGETS for s in ("sgd", "adam", "lbfgs") if (t, s) != ("numbers", "lbfgs")]


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("target, solver", PAIRS)
def test_same_training_to_each_target(target, activation, solver):
    # steps that do not amplify rounding: the rate is low for counts
    settings = {"solver": solver, "learning_rate_init": 0.002, "max_iter": 8, "hidden_layer_sizes": (20, 10)}
    check_fit(target, activation=activation, tolerance=1e-6 if solver == "lbfgs" else 1e-12, **settings)


@pytest.mark.parametrize("sizes", [(), 5, [7, 6, 5]])
def test_same_training_of_each_depth(sizes):
    check_fit("classes", hidden_layer_sizes=sizes, activation="tanh")


@pytest.mark.filterwarnings("ignore:Got `batch_size`:UserWarning")
@pytest.mark.parametrize("batch_size", ["auto", 1, 1000])
def test_same_training_by_each_batch_size(batch_size):
    both = pair("classes", batch_size=batch_size, max_iter=4)
    for model in both:
        model.fit(X, LABELS)
    assert_same(*both)


def test_lbfgs_with_several_outputs_minimises_what_its_gradient_is_of():
    theirs, mine = pair("numbers", solver="lbfgs", max_iter=200, alpha=0.1)
    scores = [model.fit(X, TARGETS["numbers"]).score(X, TARGETS["numbers"]) for model in (theirs, mine)]
    assert scores[1] >= scores[0] - 0.01 and scores[1] > 0.95
    error = 0.5 * np.mean((mine.predict(X) - TARGETS["numbers"]) ** 2)
    penalty = 0.05 * sum((c**2).sum() for c in mine.coefs_) / len(X)
    assert mine.loss_ == pytest.approx(error + penalty, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_same_training_from_weights_written_in(solver, alpha):
    both = pair("classes", solver=solver, alpha=alpha, shuffle=False, warm_start=True, max_iter=1)
    start = np.random.default_rng(1)
    weights = [start.normal(0, 0.2, shape) for shape in ((64, 20), (20, 10), (20,), (10,))]
    for model in both:
        model.fit(X, LABELS).set_params(max_iter=10)
        model.coefs_, model.intercepts_ = ([a.copy() for a in part] for part in (weights[:2], weights[2:]))
    np.testing.assert_allclose(both[1].predict_proba(X), both[0].predict_proba(X), 0, 1e-14)
    for model in both:
        model.fit(X, LABELS)
    assert_same(*both, tolerance=1e-6 if solver == "lbfgs" else 1e-12)


@pytest.mark.parametrize("target", ["classes", "names", "labels", "number"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_same_early_stopping(solver, weighted, target):
    settings = {"early_stopping": True, "max_iter": 60, "n_iter_no_change": 3, "tol": 1e-2, "validation_fraction": 0.2}
    rate = 0.02 if target == "number" else 0.1
    weight = W if weighted else None
    both = check_fit(target, solver=solver, learning_rate_init=rate if solver == "sgd" else 0.01, sample_weight=weight,
                     tolerance=1e-11, **settings)  # fmt: skip
    assert 3 < both[1].n_iter_ < 60 and len(both[1].validation_scores_) == both[1].n_iter_
    assert both[1].best_loss_ is None


def test_same_stop_by_tol():
    mine = check_fit("classes", solver="sgd", learning_rate_init=0.1, tol=0.05, n_iter_no_change=2, max_iter=100)[1]
    assert mine.n_iter_ < 50


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("target", TARGETS)
def test_same_partial_fit(target, solver):
    both = pair(target, solver=solver, alpha=0.1)
    for model in both:
        first = {"classes": np.unique(LABELS)} if target == "classes" else {}
        if target == "names":
            first = {"classes": ["even", "odd"]}
        if target == "labels":
            first = {"classes": np.arange(4)}
        for rows in (slice(0, 130), slice(130, 300), slice(300, 450), slice(0, 450)):
            model.partial_fit(X[rows], TARGETS[target][rows], **first)
            first = {}
            model = copy.copy(model) if rows.start == 130 else model
    assert_same(*both)
    assert len(both[1].loss_curve_) == 4


def test_same_warm_start():
    both = pair("classes", warm_start=True, solver="adam", max_iter=4)
    for model in both:
        model.fit(X, LABELS).fit(X, LABELS)
    assert_same(*both)
    assert len(both[1].loss_curve_) == 8


def test_same_in_float32():
    mine = check_fit("classes", X=X.astype(np.float32), solver="adam", tolerance=1e-4)[1]
    assert mine.predict_proba(X.astype(np.float32)).dtype == np.float32


def test_lbfgs_is_float64_whatever_X_is():
    both = pair("classes", solver="lbfgs", max_iter=6)
    for model in both:
        model.fit(X.astype(np.float32), LABELS)
    assert both[1].coefs_[0].dtype == np.float64
    assert_same(*both, tolerance=1e-4)


@pytest.mark.parametrize("layout", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("target, solver", [
    ("classes", "adam"), ("names", "sgd"), ("labels", "lbfgs"), ("number", "adam"), ("counts", "lbfgs"),
])  # fmt: skip
def test_sparse_and_dense_give_the_same_numbers(target, solver, layout):
    settings = {"solver": solver, "learning_rate_init": 0.002, "max_iter": 3}
    for dtype, early_stopping in ((np.float64, True), (np.float32, False)):
        dense, sparse = (pair(target, early_stopping=early_stopping, **settings)[1] for _ in range(2))
        a, b = X.astype(dtype), layout(X.astype(dtype))
        for model, x in ((dense, a), (sparse, b)):
            model.fit(x, TARGETS[target], sample_weight=W)
            if solver != "lbfgs" and not early_stopping:
                model.partial_fit(x, TARGETS[target])
        tolerance = {np.float64: 1e-9, np.float32: 1e-4}[dtype]  # sums in another order, then steps of Adam and L-BFGS
        np.testing.assert_allclose(sparse._network().theta, dense._network().theta, tolerance, tolerance)
        np.testing.assert_allclose(sparse._forward_pass_fast(b), dense._forward_pass_fast(a), tolerance, tolerance)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is asked of Linux")
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_nothing_dense_is_made(layout, solver):
    def highest():
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    rows = scipy.sparse.random_array((1200, 50000), density=1e-4, format=layout, rng=np.random.default_rng(0))
    settings = {"solver": solver, "max_iter": 1, "max_fun": 1, "random_state": 0, "early_stopping": True}
    model = ours.MLPClassifier((1,), batch_size=50, **settings)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = highest()
    model.fit(rows, np.arange(1200) % 3 > 1).predict(rows)
    assert highest() - before < 50 * 2**20  # dense, it has 458 MiB


def test_a_sparse_matrix_whose_indices_lead_out_is_refused():
    rows = scipy.sparse.csr_array(X)
    model = pair("classes")[1].fit(rows, LABELS)
    rows.indices[7] = 64
    before = model._network().theta.copy()
    for call in (model.predict, lambda X: model.partial_fit(X, LABELS)):
        with pytest.raises(ValueError, match="^X: expected a sparse matrix with indices inside its shape"):
            call(rows)
    np.testing.assert_array_equal(model._network().theta, before)


def test_any_number_of_threads_gives_the_same_bits():
    threads, thetas = bp.get_num_threads(), []
    try:
        for n in (1, 2):
            bp.set_num_threads(n)
            thetas.append(pair("classes", batch_size=200)[1].fit(X, LABELS)._network().theta.tobytes())
    finally:
        bp.set_num_threads(threads)
    assert thetas[0] == thetas[1]


# ---- an estimator among others ----


def test_parameters_are_scikit_learns():
    for target in ("classes", "number"):
        theirs, mine = pair(target)
        assert mine.get_params() == theirs.get_params()
        assert clone(mine).set_params(alpha=2.0).get_params() == {**theirs.get_params(), "alpha": 2.0}
        assert isinstance(mine, type(theirs)) and type(mine)().get_params() == type(theirs)().get_params()


# ---- partial_fit heeds set_params ----


def test_a_new_learning_rate_is_heard_by_partial_fit():
    """Plain steps on one batch: what weights move by is the rate times what they moved by before."""
    y = TARGETS["number"]
    settings = {"solver": "sgd", "momentum": 0.0, "batch_size": 450, "alpha": 0.0, "shuffle": False}
    moved = []
    for rate in (0.01, 0.04):
        model = pair("number", learning_rate_init=0.01, **settings)[1].partial_fit(X, y)
        before = model._network().theta.copy()
        model.set_params(learning_rate_init=rate).partial_fit(X, y)
        moved.append(model._network().theta - before)
        assert model._optimizer.learning_rate == rate
    np.testing.assert_allclose(moved[1], 4 * moved[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("solver, name, value", [
    ("sgd", "learning_rate_init", -1.0), ("adam", "learning_rate_init", "a"), ("adam", "learning_rate_init", np.nan),
    ("sgd", "momentum", 1.0), ("sgd", "momentum", 2.0), ("adam", "beta_1", 1.5), ("adam", "beta_2", -1.0),
    ("adam", "epsilon", 0.0), ("adam", "epsilon", 1e-60), ("sgd", "alpha", -1.0), ("adam", "alpha", np.inf),
    ("adam", "batch_size", 0), ("sgd", "shuffle", 3), ("sgd", "power_t", -1.0),
])  # fmt: skip
def test_a_wrong_parameter_is_called_by_its_name(solver, name, value, first):
    x, y = X.astype(np.float32), TARGETS["number"]
    model = pair("number", solver=solver)[1]
    if not first:
        model.partial_fit(x, y)
        before = model._network().theta.copy()
    with pytest.raises(ValueError, match=f"^{name}: expected|The '{name}' parameter of MLPRegressor must be"):
        model.set_params(**{name: value}).partial_fit(x, y)
    assert first or model._network().theta.tobytes() == before.tobytes()


@pytest.mark.parametrize("solver, change", [
    ("sgd", {"learning_rate_init": 0.02}),
    ("sgd", {"momentum": 0.5}),
    ("sgd", {"nesterovs_momentum": False}),
    ("adam", {"learning_rate_init": 0.02}),
    ("adam", {"beta_1": 0.5}),
    ("adam", {"epsilon": 0.1}),
])  # fmt: skip
def test_numbers_of_the_optimiser_change_and_its_memory_stays(solver, change):
    """scikit-learn does the same once its optimiser is told."""
    names = {"learning_rate_init": ("learning_rate_init", "learning_rate"), "nesterovs_momentum": ("nesterov",)}
    both = pair("number", solver=solver, learning_rate_init=0.01, alpha=0.0)
    for model in both:
        model.partial_fit(X, TARGETS["number"]).set_params(**change)
    ((name, value),) = change.items()
    for theirs in names.get(name, (name,)):
        setattr(both[0]._optimizer, theirs, value)
    for model in both:
        model.partial_fit(X, TARGETS["number"])
    assert_same(*both)


@pytest.mark.parametrize("change", [{"solver": "adam"}, {"momentum": 0.0}])
def test_another_kind_of_optimiser_begins_anew(change):
    both = pair("number", solver="sgd", learning_rate_init=0.01)
    for model in both:
        model.partial_fit(X, TARGETS["number"]).set_params(**change)
    del both[0]._optimizer
    for model in both:
        model.partial_fit(X, TARGETS["number"]).partial_fit(X, TARGETS["number"])
    assert_same(*both)


def test_rates_that_a_schedule_has_changed():
    y = TARGETS["number"]
    model = pair("number", solver="sgd", learning_rate="invscaling", power_t=0.5, learning_rate_init=0.01)[1]
    model.partial_fit(X, y).partial_fit(X, y)
    assert model._optimizer.learning_rate == 0.01 / 901**0.5
    model.set_params(learning_rate_init=0.001, power_t=0.25)
    rates = []
    model._update_no_improvement_count = lambda *rest: rates.append(model._optimizer.learning_rate)
    model.partial_fit(X, y)
    assert rates == [0.001 / 901**0.25] and model._optimizer.learning_rate == 0.001 / 1351**0.25

    model = pair("number", solver="sgd", learning_rate="adaptive", learning_rate_init=0.01, tol=1e9, n_iter_no_change=1)
    model = model[1]
    for _ in range(3):
        model.partial_fit(X, y)
    assert model._optimizer.learning_rate == 0.01 / 5
    model.set_params(momentum=0.5).partial_fit(X, y)
    assert model._optimizer.learning_rate == 0.01 / 5
    model.set_params(learning_rate_init=0.02).partial_fit(X, y)
    assert model._optimizer.learning_rate in (0.02, 0.02 / 5)


# ---- training that diverges ----


@pytest.mark.parametrize("target, settings, epochs", [
    ("number", {"solver": "sgd", "activation": "identity", "learning_rate_init": 0.3}, 7),
    ("numbers", {"solver": "sgd", "activation": "identity", "learning_rate_init": 0.3, "learning_rate": "adaptive"}, 6),
    ("counts", {"solver": "sgd", "activation": "identity", "learning_rate_init": 0.1}, 2),
    ("number", {"solver": "adam", "learning_rate_init": 1e60}, 2),
    ("number", {"solver": "adam", "learning_rate_init": 1e306}, 1),
    ("classes", {"solver": "sgd", "learning_rate_init": 1e10, "batch_size": 40}, 2),
    ("classes", {"solver": "sgd", "learning_rate_init": 1e60, "batch_size": 40}, 1),
])  # fmt: skip
def test_divergence_with_early_stopping_keeps_the_best_weights(target, settings, epochs):
    settings = {"early_stopping": True, "max_iter": 30, "hidden_layer_sizes": (100,), "batch_size": 405, **settings}
    model = pair(target, **settings)[1]
    with pytest.warns(ConvergenceWarning, match=rf"training diverged in epoch {epochs} and ended; the weights") as seen:
        model.fit(X, TARGETS[target])
    assert [one.filename for one in seen] == [__file__]
    scores = model.validation_scores_
    assert isinstance(scores[-1], float) and np.isnan(scores[-1]) and not np.isnan(scores[:-1]).any()
    assert len(scores) == len(model.loss_curve_) == model.n_iter_ == epochs and model.t_ == 405 * epochs
    assert model.best_validation_score_ == max([-np.inf, *scores[:-1]])
    # the weights of the epoch with the best score, or the initial ones
    change = {"max_iter": 1 + int(np.argmax(scores[:-1]))} if epochs > 1 else {"learning_rate_init": 1e-300}
    best = pair(target, **{**settings, "max_iter": 1, **change})[1].fit(X, TARGETS[target])
    np.testing.assert_array_equal(model._network().theta, best._network().theta)
    assert np.isfinite(model.predict(X)).all()


def test_best_weights_stay_while_a_later_fit_trains():
    settings = {"solver": "sgd", "learning_rate_init": 0.05, "early_stopping": True, "warm_start": True}
    model = pair("number", max_iter=20, **settings)[1].fit(X, TARGETS["number"])
    theta, best = model._network().theta.copy(), model.best_validation_score_
    model.set_params(learning_rate_init=1e3)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model.fit(X, TARGETS["number"])
    assert model.best_validation_score_ == best
    np.testing.assert_array_equal(model._network().theta, theta)


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize("rows", [X, scipy.sparse.csr_array(X)], ids=["dense", "sparse"])
def test_divergence_without_early_stopping_is_an_error(rows, call):
    with pytest.raises(ValueError, match="^Solver produced non-finite parameter weights. The input data may contain"):
        getattr(pair("number", solver="sgd", learning_rate_init=1e300)[1], call)(rows, TARGETS["number"])


# ---- copies and pickles ----


def test_pickles_hold_versions(monkeypatch):
    model = pair("classes", early_stopping=True)[1].fit(X, LABELS)
    saved = pickle.dumps(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twins = [pickle.loads(saved), copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(clone(model)))]
    assert twins[0].get_params() == model.get_params()
    monkeypatch.setattr("sklearn.__version__", "1.99")
    monkeypatch.setattr(bp, "__version__", "9.9")
    with pytest.warns(InconsistentVersionWarning) as seen:
        pickle.loads(saved)
    assert [one.category for one in seen] == [InconsistentVersionWarning, ours.BpcoreVersionWarning]
    assert [one.filename for one in seen] == [__file__] * 2
    of_sklearn, of_bpcore = (one.message for one in seen)
    assert of_sklearn.estimator_name == of_bpcore.estimator_name == "MLPClassifier"
    assert of_sklearn.current_sklearn_version == of_bpcore.current_sklearn_version == "1.99"
    assert of_sklearn.original_sklearn_version == SKLEARN and of_bpcore.original_bpcore_version == BPCORE
    assert f"from bpcore {BPCORE} when using bpcore 9.9" in str(of_bpcore)
    monkeypatch.undo()
    for twin in (pickle.loads(pickle.dumps(of_bpcore)), copy.copy(of_bpcore), copy.deepcopy(of_bpcore)):
        assert type(twin) is ours.BpcoreVersionWarning and vars(twin) == vars(of_bpcore) and str(twin) == str(of_bpcore)


def test_pickles_of_before_versions_were_kept_warn():
    model = pair("classes")[1].fit(X, LABELS)
    state = {name: value for name, value in model.__getstate__().items() if not name.endswith("_version")}
    old = ours.MLPClassifier.__new__(ours.MLPClassifier)
    with pytest.warns(InconsistentVersionWarning) as seen:
        old.__setstate__({**state, "_optimizer": bp.Adam()})
    assert [one.message.original_sklearn_version for one in seen] == ["unknown"] * 2
    np.testing.assert_array_equal(old.predict_proba(X), model.predict_proba(X))
    old.partial_fit(X, LABELS)


@pytest.mark.parametrize("assigned", [False, True])
def test_weights_are_pickled_once(assigned):
    settings = {"solver": "sgd", "momentum": 0.0, "hidden_layer_sizes": (90, 90, 90), "max_iter": 1}
    model = pair("number", **settings)[1].fit(X, TARGETS["number"])
    if assigned:  # and no longer the network's
        model.coefs_ = [2 * c for c in model.coefs_]
    del model._best_coefs
    saved = pickle.dumps(model)
    assert assigned or len(saved) < 1.2 * model._network().theta.nbytes
    twin = pickle.loads(saved)
    for a, b in zip(twin.coefs_ + twin.intercepts_, model.coefs_ + model.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)
        assert assigned or np.shares_memory(a, twin._network().theta)
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_predicts_and_goes_on_alike(how):
    model = pair("classes")[1].fit(X[:300], LABELS[:300])
    twin = how(model)
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    for each in (model, twin):
        each.partial_fit(X[300:], LABELS[300:])
    for a, b in zip(twin.coefs_, model.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, b)


@pytest.mark.parametrize("how", ["whole", "entry", "list"])
def test_coefs_written_are_seen(how):
    model = pair("number")[1].fit(X, TARGETS["number"])
    before = model.predict(X)
    if how == "whole":
        model.coefs_ = [2 * c for c in model.coefs_]
    elif how == "list":
        model.coefs_[1] = 2 * model.coefs_[1]
    else:
        model.coefs_[1][...] *= 2
    after = model.predict(X)
    twin = clone(pair("number")[0]).fit(X, TARGETS["number"])
    twin.coefs_, twin.intercepts_ = model.coefs_, model.intercepts_
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, twin.predict(X), 0, 1e-12)


def test_pipeline_and_grid_search():
    grid = {"mlp__alpha": [1e-4, 10.0], "mlp__solver": ["adam", "lbfgs"]}
    found = []
    for model in pair("classes", max_iter=10):
        steps = make_pipeline(StandardScaler(), model)
        steps.steps[1] = ("mlp", model)
        found.append(GridSearchCV(steps, grid, cv=3).fit(X, LABELS))
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(found[1].cv_results_[key], found[0].cv_results_[key], 0, 1e-12)
    assert found[1].best_params_ == found[0].best_params_
    assert found[1].score(X, LABELS) == found[0].score(X, LABELS) > 0.9


def test_feature_names():
    frame = pandas.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    model = pair("classes", early_stopping=True)[1].fit(frame, LABELS)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert (model.predict(frame) == pair("classes", early_stopping=True)[0].fit(frame, LABELS).predict(frame)).all()


def test_the_column_that_is_not_numbers_is_named():
    frame = pandas.DataFrame({"age": [1.0, 2.0], "city": ["Basel", "Chur"], "kind": pandas.Categorical(["a", "b"])})
    net = bp.Network([bp.Input(3), bp.Dense(1)])
    with pytest.raises(TypeError, match=r"^X: expected real numbers, got dtype object: column 'city' is str; "):
        net.predict(frame)
    with pytest.raises(TypeError, match=r"^X: .*: column 'kind' is category; "):
        net.predict(frame.assign(city=0))
    mixed = frame.assign(city=pandas.array([1, 2], "Int64"), kind=True)  # to NumPy these are objects
    assert (net.predict(mixed) == net.predict(mixed.astype(float))).all()


def test_nullable_columns():
    frame, labels = pandas.DataFrame(X).convert_dtypes(), pandas.Series(LABELS, dtype="Int64")
    nets = [bp.Network([bp.Input(64), bp.Dense(10, "softmax")]) for _ in range(2)]
    assert nets[0].fit(frame, labels).loss == nets[1].fit(X, LABELS).loss
    holes = frame.astype("Float64")
    holes.iloc[3, 1] = labels.iloc[4] = pandas.NA
    with pytest.raises(ValueError, match=r"^X: expected finite numbers(, and some are missing|; X\[3, 1\] is nan)"):
        nets[0].predict(holes)
    with pytest.raises(ValueError, match=r"^y: expected finite numbers(, and some are missing|; y\[4\] is nan)"):
        nets[0].fit(X, labels)


# ---- words ----


@pytest.mark.parametrize("target", ["classes", "number"])
@pytest.mark.parametrize("settings", [
    {"solver": "sgd"},
    {"solver": "adam", "early_stopping": True, "tol": 0.5, "n_iter_no_change": 1},
    {**SOLVERS["adaptive"], "max_iter": 100, "tol": 0.5},
    {"batch_size": 1000},
])  # fmt: skip
@pytest.mark.parametrize("verbose", [False, True])
def test_same_words(verbose, settings, target, capsys):
    said = []
    for model in pair(target, verbose=verbose, **settings):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X, TARGETS[target])
        said.append((capsys.readouterr().out, [(w.category, str(w.message)) for w in caught]))
    assert said[0] == said[1] and ("Iteration 2, loss = " in said[1][0]) == verbose


def test_warnings_are_of_the_line_that_called():
    with pytest.warns(ConvergenceWarning, match="Maximum iterations") as seen:
        pair("classes", max_iter=2)[1].fit(X, LABELS)
    assert [one.filename for one in seen] == [__file__]


def test_words_of_lbfgs(capsys):
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 3"):
        model = pair("classes", solver="lbfgs", max_iter=3, verbose=True)[1].fit(X, LABELS)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"Iteration {i}" for i in (1, 2, 3)]
    assert lines[-1] == f"Iteration 3, loss = {model.loss_:.8f}"


@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_keeps_what_is_trained(early_stopping):
    class Interrupted(ours.MLPClassifier):
        def _update_no_improvement_count(self, *arguments):
            if self.n_iter_ == 3:
                raise KeyboardInterrupt
            super()._update_no_improvement_count(*arguments)

    with pytest.warns(UserWarning, match="interrupted by user"):
        model = Interrupted(random_state=0, early_stopping=early_stopping).fit(X, LABELS)
    assert model.n_iter_ == 3 and model.predict(X).shape == (450,)
    if early_stopping:  # the best weights
        assert max(model.validation_scores_) == model.best_validation_score_ and len(model.validation_scores_) == 2
        for a, b in zip(model.coefs_, model._best_coefs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("settings, y, weight, words", [
    ({"solver": "sgd", "momentum": 1.0}, "classes", None, "momentum"),
    ({}, "classes", -W, "sample_weight"),
    ({"learning_rate_init": 1e300, "solver": "sgd"}, "number", None, "Solver produced non-finite"),
    ({"activation": "gelu"}, "classes", None, "activation"),
    ({"hidden_layer_sizes": (0,)}, "classes", None, "hidden_layer_sizes"),
])  # fmt: skip
def test_refused(settings, y, weight, words):
    model = pair(y, **settings)[1]
    with pytest.raises(ValueError, match=words):
        model.fit(X, TARGETS[y], sample_weight=weight)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match=r"y: .*poisson.*-1"):
        pair("counts")[1].fit(X, TARGETS["counts"] - 1)


def test_partial_fit_of_what_cannot():
    with pytest.raises(ValueError, match="early_stopping"):
        pair("number", early_stopping=True)[1].partial_fit(X, TARGETS["number"])
    assert not hasattr(pair("classes", solver="lbfgs")[1], "partial_fit")


def test_a_batch_without_weight_is_passed_over():
    weight = W.copy()
    weight[40:80] = 0
    model = pair("classes", shuffle=False, max_iter=3)[1].fit(X, LABELS, sample_weight=weight)
    assert model._network().step == 3 * 11 and np.isfinite(model.loss_curve_).all()


def test_another_scikit_learn_is_refused(monkeypatch):
    monkeypatch.delattr("sklearn.neural_network._multilayer_perceptron.BaseMultilayerPerceptron._fit_lbfgs")
    with pytest.raises(ImportError, match="_fit_lbfgs.*pip install"):
        ours._check_peer()


def test_the_snippet_of_the_readme_runs():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})  # it asserts for itself


def test_predictions_while_another_thread_fits_are_of_whole_steps():
    """A call of partial_fit is one step here: what is answered meanwhile is what is answered before it or after."""
    X, y = RNG.random((64, 20)), RNG.random(64)
    settings = {"learning_rate_init": 0.1, "solver": "sgd", "batch_size": 64, "random_state": 0}
    model, first = (ours.MLPRegressor(hidden_layer_sizes=(500, 500), **settings).partial_fit(X, y) for _ in range(2))
    row, done, answers = X[:1], threading.Event(), []

    def ask():
        while not done.is_set():
            answers.append(model.predict(row)[0])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        whole = {model.partial_fit(X, y).predict(row)[0] for _ in range(10)}
    finally:
        done.set()
        thread.join(60)
    assert answers and set(answers) <= {first.predict(row)[0], *whole}


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_file_that_joblib_maps_is_never_written(mode, tmp_path):
    X, y = RNG.random((60, 4)), RNG.integers(0, 3, 60)
    model = ours.MLPClassifier((8,), random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    joblib.dump(model, tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    same = joblib.load(tmp_path / "model", mmap_mode=mode)
    np.testing.assert_array_equal(same.predict_proba(X), model.predict_proba(X))
    for each in (same, model):
        each.partial_fit(X, y)
    np.testing.assert_array_equal(same.predict_proba(X), model.predict_proba(X))
    assert (tmp_path / "model").read_bytes() == before


def test_balanced_weights_of_classes_are_its_own():
    labels = RNG.choice([0, 1, 3], 60, p=[0.7, 0.2, 0.1])
    nets = [bp.Network([bp.Input(4), bp.Dense(4, "softmax")], dtype="float64") for _ in range(2)]
    data, w = RNG.normal(size=(60, 4)), compute_sample_weight("balanced", labels)
    nets[0].fit(data, labels, class_weight="balanced", epochs=3)
    nets[1].fit(data, labels, sample_weight=w, epochs=3)
    np.testing.assert_allclose(nets[0].theta, nets[1].theta, rtol=1e-12)


@pytest.mark.parametrize("wrong", [
    np.where(X[0] == X, np.nan, X), X[:, :5], X[0], X[:0], X[:3].tolist(), X.astype(np.int64),
    X[:, ::-1], X.astype(np.float32), np.where(X > 0.5, np.inf, X), X.astype(">f8"), X.astype(complex),
], ids=lambda x: f"{getattr(x, 'dtype', 'list')}{np.shape(x)}")  # fmt: skip
def test_same_answers_or_errors_for_any_X(wrong):
    both = [model.fit(X, LABELS) for model in pair("classes", max_iter=2)]
    said = []
    for model in both:
        try:
            said.append((model.predict_proba(wrong), None))
        except Exception as error:
            said.append((type(error), str(error)))
    if said[0][1] is None:
        np.testing.assert_allclose(said[1][0], said[0][0], 0, 1e-6)
    else:
        assert said[1] == said[0]


def test_an_estimator_that_is_not_fitted_says_so():
    for model in (pair("classes")[1], pair("number")[1]):
        for method in ("predict", "predict_proba"):
            with pytest.raises(NotFittedError, match="is not fitted yet"):
                getattr(model, method, model.predict)(X)
