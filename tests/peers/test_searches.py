"""Searches over bpcore's estimators: scikit-learn's results to the bit, whatever happens in between."""

import os
import signal
import threading
import warnings

import numpy as np
import pytest
from sklearn import model_selection as peer
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bpcore as bp
from bpcore.sklearn import GridSearchCV, MLPClassifier, MLPRegressor, NetClassifier, NetRegressor, RandomizedSearchCV

X, y = load_iris(return_X_y=True)
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "error::pytest.PytestUnhandledThreadExceptionWarning"
)
NET = NetClassifier((8,), epochs=4, random_state=0)
MLP = MLPClassifier((8,), max_iter=4, random_state=0)


def assert_same(ours, theirs):
    found, expected = ours.cv_results_, theirs.cv_results_
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        if "time" not in key:
            np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(values), key)
    if theirs.refit:
        assert ours.best_params_ == theirs.best_params_ and ours.best_score_ == theirs.best_score_
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def both(estimator, grid, target=y, search=(GridSearchCV, peer.GridSearchCV), cv=3, **settings):
    ours, theirs = (kind(clone(estimator), grid, cv=cv, **settings).fit(X, target) for kind in search)
    assert_same(ours, theirs)
    return ours


@pytest.mark.parametrize(
    ("estimator", "grid"),
    [
        (NET, {"hidden": [(8,), (5, 3)], "optimizer": [bp.Adam(lr=0.01), "sgd"], "l2": [0, 0.1]}),
        (clone(NET).set_params(early_stopping=False), {"n_members": [1, 3], "standardize": [True, False]}),
        (clone(NET).set_params(early_stopping=True, scorer="accuracy", patience=1), {"hidden": [(4,), (6,)]}),
        (MLP, {"hidden_layer_sizes": [(5,), (9,)], "alpha": [0, 1e-2], "batch_size": [20, 50]}),
        (clone(MLP).set_params(solver="sgd", learning_rate="adaptive", early_stopping=True, max_iter=40),
         {"momentum": [0, 0.9]}),
        (clone(MLP), {"solver": ["lbfgs", "adam", "sgd"]}),
        (make_pipeline(StandardScaler(), MLP),
         {"mlpclassifier__alpha": [1, 0.1], "standardscaler__with_std": [False, True]}),
        (make_pipeline(StandardScaler(), LogisticRegression()),
         {"logisticregression": [NET, MLP, LogisticRegression()]}),
    ],
)  # fmt: skip
def test_results_are_those_of_scikit_learn(estimator, grid):
    both(estimator, grid, return_train_score=True)


def test_regressors_scorers_and_random_candidates():
    target = X[:, 3] + X[:, 0]
    scoring = {"r2": "r2", "mae": "neg_mean_absolute_error"}
    searches = RandomizedSearchCV, peer.RandomizedSearchCV
    net = NetRegressor((6,), epochs=3, random_state=0)
    mlp = MLPRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=0)
    for estimator, name in ((net, "l2"), (mlp, "alpha")):
        found = both(estimator, {name: np.logspace(-6, 0, 9)}, target, searches, scoring=scoring, refit="mae", n_iter=4,
                     random_state=1, n_jobs=2)  # fmt: skip
        assert len(found.cv_results_["params"]) == 4


def test_networks_wait_for_each_other(monkeypatch):
    """All folds of all candidates in one call."""
    from bpcore import _many

    sizes, train = [], _many.train
    monkeypatch.setattr(_many, "train", lambda calls, *rest: [sizes.append(len(calls)), train(calls, *rest)])
    both(NET, {"l2": [0, 0.1, 0.2, 0.3]}, refit=False)
    assert sizes[0] == 12
    sizes.clear()
    GridSearchCV(NET, {"l2": [0, 0.1, 0.2, 0.3]}, cv=3, pre_dispatch=5, refit=False).fit(X, y)
    assert max(sizes) <= 6 and sum(sizes) == 12


class Failing(BaseEstimator):
    """A step that fails for one of its settings."""

    def __init__(self, fails=False):
        self.fails = fails

    def fit(self, X, y=None):
        if self.fails:
            raise ValueError("as asked")
        return self

    def transform(self, X):
        return X


@pytest.mark.filterwarnings("ignore:Scoring failed", "ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.parametrize("where", ["setting", "step", "score", "early"])
def test_candidates_that_fail(where):
    """They have the error score, and the others theirs; "raise" raises, and no thread is left."""

    def refuse(estimator, X, y):
        if estimator.l2 == 0.5:
            raise ValueError("as asked")
        return estimator.score(X, y)

    estimator, scoring, grid = clone(NET), None, {"l2": [0, 0.5, 0.1]}
    if where == "setting":
        grid = {"l2": [0, -1.0, 0.1]}
    elif where == "step":
        estimator, grid = make_pipeline(Failing(), clone(NET)), {"failing__fails": [False, True, False]}
    elif where == "score":
        scoring = refuse
    else:
        estimator.set_params(scorer=refuse, early_stopping=True)
    found = both(estimator, grid, scoring=scoring, error_score=-1.0)
    scores = found.cv_results_["mean_test_score"]
    assert scores[1] == -1 and scores[0] > 0 and scores[2] > 0
    with pytest.raises(ValueError):
        GridSearchCV(estimator, grid, cv=3, scoring=scoring, error_score="raise").fit(X, y)
    assert not [thread for thread in threading.enumerate() if thread.name == "bpcore search"]


def test_a_network_that_diverges_has_the_error_score():
    grid = {"optimizer": [bp.SGD(lr=0.1), bp.SGD(lr=1e30)]}
    with pytest.warns(Warning, match="failed"):
        found = both(clone(NET).set_params(early_stopping=False), grid, error_score=-1.0)
    assert found.cv_results_["mean_test_score"][1] == -1


def test_ctrl_c_ends_all():
    def callback(state):
        if state.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    search = GridSearchCV(
        clone(NET).set_params(epochs=10**6, callbacks=[bp.Callback(), callback]), {"l2": [0, 0.1]}, cv=3
    )
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, y)
    assert not [thread for thread in threading.enumerate() if thread.name == "bpcore search"]
    both(NET, {"l2": [0, 0.1]})


def test_searches_within_searches_and_other_estimators():
    inner = GridSearchCV(NET, {"l2": [0, 0.1]}, cv=2)
    theirs = peer.GridSearchCV(NET, {"l2": [0, 0.1]}, cv=2)
    scores = [peer.cross_val_score(search, X, y, cv=2) for search in (inner, theirs)]
    np.testing.assert_array_equal(*scores)
    outer = [kind(search, {"estimator__hidden": [(4,), (5,)]}, cv=2).fit(X, y)
             for kind, search in ((GridSearchCV, inner), (peer.GridSearchCV, theirs))]  # fmt: skip
    np.testing.assert_array_equal(*(search.cv_results_["mean_test_score"] for search in outer))
    both(Ridge(), {"alpha": [0.1, 1.0]}, X[:, 0], n_jobs=2)
    both(NET, {"l2": [0, 0.1]}, scoring=make_scorer(lambda a, b: (a == b).mean()))


def test_filters_of_warnings_stay():
    before = list(warnings.filters)
    GridSearchCV(NET, {"l2": [0, 0.1]}, cv=3).fit(X, y)
    assert warnings.filters == before
    search = GridSearchCV(NET, {"l2": [0, 0.1]})
    assert clone(search).get_params()["estimator__hidden"] == (8,) and "GridSearchCV" in repr(search)
