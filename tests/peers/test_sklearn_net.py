"""bpcore.sklearn's own estimators: scikit-learn's checks, what each option does, life among scikit-learn's tools."""

import doctest
import pickle
import re
from inspect import signature
from pathlib import Path

import cloudpickle
import joblib
import matplotlib
import numpy as np
import pandas
import pytest
import scipy.sparse
import sklearn
from matplotlib import pyplot
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification
from sklearn.ensemble import BaggingRegressor, StackingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, LearningCurveDisplay, cross_validate
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bpcore as bp
from bpcore.sklearn import NetClassifier, NetRegressor

matplotlib.use("Agg")
X, Y = (a[:450] for a in load_digits(return_X_y=True))
DX, DY = load_diabetes(return_X_y=True)
NAMES = np.array(["even", "odd"])[Y % 2]


def classifier(**settings):
    return NetClassifier(**{"hidden": (20,), "epochs": 15, "random_state": 0, **settings})


def regressor(**settings):
    return NetRegressor(**{"hidden": (20,), "epochs": 30, "random_state": 0, **settings})


def expected(estimator):
    why = "batches, orders and the rows held out follow the number of rows, not their weights"
    return {"check_sample_weight_equivalence_on_dense_data": why}


@parametrize_with_checks([NetClassifier(epochs=20), NetRegressor(epochs=20)], expected_failed_checks=expected)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_estimators(estimator, check):
    check(estimator)


# ---- what options do ----


@pytest.mark.parametrize("settings", [
    {}, {"activation": ["gelu"]}, {"loss": "cross_entropy"}, {"loss": "focal", "epochs": 60}, {"loss": "squared_error"},
    {"loss": "kl_divergence"}, {"loss": "categorical_focal"}, {"dropout": 0.1}, {"batch_norm": True},
    {"l1": 1e-4, "l2": 1e-3}, {"optimizer": bp.SGD(0.1, 0.9)},
    {"optimizer": bp.Adam(bp.schedules.Cosine(3e-3), ema=0.9)}, {"class_weight": "balanced"}, {"n_members": 2},
    {"standardize": False}, {"scorer": "accuracy"}, {"early_stopping": False}, {"dtype": "float64"}, {"n_threads": 1},
    {"optimizer": bp.LBFGS(), "early_stopping": False}, {"batch_size": 16}, {"hidden": 20},
    {"loss": bp.Loss(lambda a, y: ((a - y) ** 2).sum(1), lambda a, y: 2 * (a - y))},
    {"layers": [bp.Dense(20, "silu"), bp.LayerNorm()]},
    {"layers": lambda n_in, n_out: bp.Network([bp.Input((8, 8, 1)), bp.Conv2D(4, 3, "relu"), bp.Reshape(-1),
                                              bp.Dense(n_out, "softmax")])},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("y", [Y, NAMES], ids=["ten", "two"])
def test_classes(settings, y):
    if callable(settings.get("layers")) and y is NAMES:
        settings = {**settings, "loss": "cross_entropy"}
    model = classifier(**settings).fit(X, y)
    p = model.predict_proba(X)
    assert model.score(X, y) > 0.8
    np.testing.assert_allclose(p.sum(axis=1), 1, 0, 1e-12)
    np.testing.assert_array_equal(model.predict(X), model.classes_[p.argmax(axis=1)])
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), p, 1e-12)
    np.testing.assert_array_equal(clone(model).fit(X, y).predict_proba(X), p)
    assert model.net_.dtype == model.dtype and len(model.loss_curve_) <= model.n_iter_ <= model.epochs


def test_labels():
    A, labels = make_multilabel_classification(300, n_classes=4, random_state=0)
    model = classifier(epochs=60).fit(A, labels)
    assert model.predict_proba(A).shape == (300, 4) and np.mean(model.predict(A) == labels) > 0.8
    np.testing.assert_array_equal(model.predict(A), model.predict_proba(A) > 0.5)


@pytest.mark.parametrize("loss", ["auto", "huber", "mae", "gaussian_nll", bp.losses.Quantile([0.1, 0.5, 0.9])], ids=str)
@pytest.mark.parametrize("targets", [DY, np.stack([DY, 1e4 - 10 * DY], axis=1)], ids=["one", "two"])
def test_numbers(loss, targets):
    model = regressor(loss=loss, epochs=100).fit(DX, targets)
    assert model.predict(DX).shape == targets.shape and model.score(DX, targets) > 0.4
    if loss == "gaussian_nll":
        errors, spread = np.abs(model.predict(DX) - targets), model.predict_spread(DX)
        assert 0.55 < np.mean(errors < spread) < 0.85  # 0.68 of a normal distribution
    if isinstance(loss, bp.losses.Quantile):
        q = model.predict_quantiles(DX)
        np.testing.assert_array_equal(q[:, 1], model.predict(DX))
        assert (np.diff(q, axis=1) >= 0).all()
        for level, k in ((0.1, 0), (0.9, 2)):
            assert np.mean(targets < q[:, k]) == pytest.approx(level, abs=0.1)
    assert hasattr(model, "predict_quantiles") == isinstance(loss, bp.losses.Quantile)
    assert hasattr(model, "predict_spread") == (loss == "gaussian_nll")


@pytest.mark.parametrize("n_members", [1, 2])
def test_quantiles_that_cross_are_sorted(n_members):
    loss = bp.losses.Quantile(np.linspace(0.05, 0.95, 19))
    model = regressor(loss=loss, epochs=2, n_members=n_members, dtype="float64").fit(DX, DY)
    answers = np.stack([net.predict(model._scaled(DX)) for net in model.ensemble_.members])
    assert (np.diff(answers) < 0).any()
    expected = np.sort(answers).mean(axis=0) * model.y_scale_ + model.y_offset_
    np.testing.assert_allclose(model.predict_quantiles(DX), expected, 1e-9)
    np.testing.assert_array_equal(model.predict_quantiles(DX)[:, 9], model.predict(DX))


def test_counts_are_not_scaled():
    counts = np.random.default_rng(0).poisson(np.exp(3 * DX[:, 2] * 10))
    model = regressor(loss="poisson", epochs=60).fit(DX, counts)
    assert model.y_offset_ is None and (model.predict(DX) > 0).all() and model.score(DX, counts) > 0.5


def test_scales_are_those_of_the_rows_that_are_trained_on():
    rng = np.random.default_rng(0)
    A = rng.normal(1e7, 1.0, (200, 3))  # float32 would round it away
    A[:, 2] = 5.0
    y = 1e6 + 100 * (A[:, 0] - 1e7)
    model = regressor(epochs=200, optimizer=bp.Adam(0.01)).fit(A, y, X_val=A[:9] + 1e9, y_val=y[:9])
    np.testing.assert_allclose(model.X_offset_, A.mean(axis=0), 1e-12)
    np.testing.assert_allclose(model.X_scale_, [*A.std(axis=0)[:2], 1.0], 1e-9)
    np.testing.assert_allclose([model.y_offset_[0], model.y_scale_[0]], [y.mean(), y.std()], 1e-9)
    model = regressor(epochs=200, optimizer=bp.Adam(0.01), early_stopping=False).fit(A, y)
    assert model.score(A, y) > 0.95
    np.testing.assert_array_equal(model.predict(A[:5]), model.predict(A)[:5])
    raw = model.net_.predict(((A - model.X_offset_) / model.X_scale_).astype("float32"))
    np.testing.assert_allclose(model.predict(A), raw[:, 0] * model.y_scale_ + model.y_offset_, 1e-12)


def test_rows_of_weight_0_are_not_there():
    weight = (np.arange(len(DX)) % 3 > 0).astype(float)
    some = weight > 0
    a = regressor().fit(DX, DY, sample_weight=weight)
    b = regressor().fit(DX[some], DY[some], sample_weight=weight[some])
    np.testing.assert_array_equal(a.predict(DX), b.predict(DX))


def test_class_weight_is_weights_of_rows():
    weight = np.where(NAMES == "odd", 3.0, 1.0)
    plain = classifier(standardize=False)  # scales of columns know weights of rows alone
    a = clone(plain).set_params(class_weight={"odd": 3.0}).fit(X, NAMES)
    b = clone(plain).fit(X, NAMES, sample_weight=weight)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


def test_early_stopping_leaves_the_best_epoch():
    model = regressor(epochs=200, patience=3, optimizer=bp.Adam(0.05)).fit(DX[:300], DY[:300], X_val=DX[300:],
                                                                           y_val=DY[300:])  # fmt: skip
    best = int(np.argmin(model.history_.val_loss))
    assert model.n_iter_ == best + 1 + 3 < 200 and model.net_.epoch == best + 1
    model = classifier(epochs=100, patience=2, scorer="accuracy").fit(X[:300], Y[:300], X_val=X[300:], y_val=Y[300:])
    scores = model.validation_scores_
    assert model.n_iter_ == int(np.argmax(scores)) + 1 + 2 < 100
    assert model.score(X[300:], Y[300:]) == max(scores)


@pytest.mark.parametrize("layout", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("settings", [{}, {"n_members": 2}, {"early_stopping": False, "class_weight": "balanced"}])
def test_sparse_and_dense_give_the_same_numbers(layout, settings):
    weight = np.arange(len(X)) % 3
    models = [classifier(standardize=False, epochs=5, dtype="float64", **settings) for _ in range(2)]
    for model, x in zip(models, (layout(X), X), strict=True):
        model.fit(x, NAMES, sample_weight=weight)
    np.testing.assert_allclose(models[0].predict_proba(layout(X)), models[1].predict_proba(X), 1e-8, 1e-10)
    assert models[0].score(layout(X), NAMES) == models[1].score(X, NAMES)
    a, b = (regressor(standardize=False, epochs=3, dtype="float64").partial_fit(x, X[:, 3]) for x in (layout(X), X))
    np.testing.assert_allclose(a.predict(layout(X)), b.predict(X), 1e-8, 1e-10)


def test_sparse_rows_are_not_standardized():
    with pytest.raises(ValueError, match="^standardize: expected False for a sparse X"):
        classifier().fit(scipy.sparse.csr_array(X), NAMES)
    model = classifier(epochs=1).fit(X, NAMES)
    with pytest.raises(ValueError, match="^X: expected a dense array, since fit, with standardize=True"):
        model.predict(scipy.sparse.csr_array(X))


def test_an_ensemble():
    model = regressor(n_members=3).fit(DX, DY)
    answers = np.stack([net.predict(model._scaled(DX))[:, 0] for net in model.ensemble_.members])
    np.testing.assert_allclose(model.predict(DX), answers.mean(0) * model.y_scale_ + model.y_offset_, 1e-5)
    np.testing.assert_allclose(model.predict_spread(DX), answers.std(0) * model.y_scale_, 1e-3)
    assert len(model.histories_) == 3 and model.history_ is model.histories_[0]
    assert not hasattr(regressor(), "predict_spread")
    assert classifier(n_members=2, epochs=2).fit(X, Y).predict_spread(X).shape == (450, 10)


def test_batch_norm_stands_before_the_activation():
    model = classifier(hidden=(20, 10), batch_norm=True, dropout=0.1, epochs=1).fit(X, Y)
    kinds = [type(layer).__name__ for layer in model.net_.layers]
    assert kinds == ["Input", *["Dense", "BatchNorm", "Activate", "Dropout"] * 2, "Dense"]
    inner, A = {name: model.net_.part("input", name) for name in ("dense_1", "activate_1")}, model._scaled(X)
    moments = {name: model.net_.state[f"batch_norm_1.{name}"] for name in ("mean", "variance")}
    a = (inner["dense_1"].predict(A) - moments["mean"]) / np.sqrt(moments["variance"] + 1e-5)
    a = a * model.net_.params["batch_norm_1.s"] + model.net_.params["batch_norm_1.b"]
    np.testing.assert_allclose(inner["activate_1"].predict(A), np.maximum(a, 0), 0, 1e-5)


@pytest.mark.parametrize("n_members", [1, 2])
def test_time_ends_training(n_members):
    model = regressor(epochs=10**9, max_seconds=1e-9, n_members=n_members, early_stopping=False).fit(DX, DY)
    assert model.n_iter_ == 1 and all(history.stopped_by for history in model.histories_)
    assert clone(model).partial_fit(DX, DY).n_iter_ == 1


def test_plot():
    model = classifier(epochs=3, scorer="accuracy")
    with pytest.raises(NotFittedError):
        model.plot()
    panels = model.fit(X, Y).plot().axes
    lines = {line.get_label(): line.get_ydata() for panel in panels for line in panel.get_lines()}
    np.testing.assert_array_equal(lines["loss"], model.loss_curve_)
    np.testing.assert_array_equal(lines["score of held-out rows"], model.validation_scores_)
    panels = model.set_params(scorer=None).fit(X, Y).plot().axes  # nothing of the last fit is left
    assert "score of held-out rows" not in {line.get_label() for panel in panels for line in panel.get_lines()}
    pyplot.close("all")


def test_fit_goes_on():
    once = regressor(early_stopping=False, epochs=6).fit(DX, DY)
    twice = regressor(early_stopping=False, epochs=3, warm_start=True)
    twice.fit(DX, DY).fit(DX, DY)
    np.testing.assert_array_equal(once.predict(DX), twice.predict(DX))
    with pytest.raises(ValueError, match="^n_members: expected 1 with warm_start"):
        twice.set_params(n_members=2).fit(DX, DY)


def test_partial_fit():
    model = classifier()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, Y)
    for _ in range(30):
        model.partial_fit(X[:200], Y[:200], classes=range(10)).partial_fit(X[200:], Y[200:])
    assert model.score(X, Y) > 0.9 and model.net_.epoch == 60
    theta = model.net_.theta.copy()
    with pytest.raises(ValueError, match=r"^y: expected classes of the first fit, .* got \[10\] beside"):
        model.partial_fit(X, Y + 1)
    np.testing.assert_array_equal(model.net_.theta, theta)


def test_callbacks_are_copied():
    seen = []
    callback = bp.ReduceOnPlateau("val_loss", patience=1)
    model = regressor(epochs=3, callbacks=[callback, lambda state: seen.append(state.net.epoch)]).fit(DX, DY)
    assert seen == [1, 2, 3] and not hasattr(callback, "best") and model.callbacks[0] is callback


@pytest.mark.parametrize("settings, error, words", [
    ({"hidden": (0,)}, ValueError, r"^hidden\[0\]: "), ({"hidden": "a"}, TypeError, r"^hidden\[0\]: "),
    ({"activation": ["relu", "tanh"]}, ValueError, "^activation: expected one, or one for each of 1 hidden layers"),
    ({"activation": "rely"}, ValueError, "activation"), ({"loss": "hinge"}, ValueError, "^loss: expected one of prob"),
    ({"layers": [bp.Dense(3)], "dropout": 0.5}, ValueError, "^dropout: expected 0.0 beside layers"),
    ({"layers": [bp.Dense(3)], "batch_norm": True}, ValueError, "^batch_norm: expected False beside layers"),
    ({"batch_norm": "yes"}, TypeError, "^batch_norm: "),
    ({"batch_norm": True, "batch_size": 1}, ValueError, "^batch_size: "),
    ({"max_seconds": 0.0}, ValueError, "^max_seconds: "), ({"max_seconds": "1"}, TypeError, "^max_seconds: "),
    ({"max_seconds": 0.0, "n_members": 2}, ValueError, "^max_seconds: "),
    ({"layers": [bp.Dense(3)], "l1": 0.5}, ValueError, "^l1: expected 0.0 beside layers"),
    ({"layers": lambda i, o: bp.Network([bp.Input(3), bp.Dense(o)])}, ValueError, "^layers: expected a network of one"),
    ({"layers": lambda i, o: 3}, TypeError, "^layers: expected a function that returns a bp.Network"),
    ({"layers": lambda i, o: bp.Network([bp.Input(i), bp.Dense(o)], dtype="float64")}, ValueError, "^layers: .*dtype"),
    ({"epochs": -1}, ValueError, "^epochs: "), ({"batch_size": "all"}, ValueError, "^batch_size: "),
    ({"dropout": 1.0}, ValueError, "^dropout: "), ({"n_members": 0}, ValueError, "^n_members: "),
    ({"validation_fraction": 1.0}, ValueError, "^validation_fraction: "), ({"patience": -1}, ValueError, "^patience: "),
    ({"scorer": "accuracy", "early_stopping": False}, ValueError, "^scorer: expected None with early_stopping=False"),
    ({"class_weight": {77: 1.0}}, ValueError, r"^class_weight: expected some of the classes .* got \[77\] beside"),
    ({"class_weight": "even"}, ValueError, "^class_weight: "), ({"optimizer": 3}, TypeError, "^optimizer: "),
])  # fmt: skip
def test_refused(settings, error, words):
    model = classifier(**settings)
    with pytest.raises(error, match=words):
        model.fit(X, Y)
    assert not hasattr(model, "ensemble_") and not hasattr(model, "classes_") and not hasattr(model, "n_features_in_")


# ---- among scikit-learn's tools ----


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search_in_a_pipeline(backend):
    frame = pandas.DataFrame({"kind": Y % 3, **{f"pixel {i}": X[:, i] for i in range(20, 44)}}).astype({"kind": str})
    encoder = ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough")
    steps = make_pipeline(encoder, classifier(epochs=5))
    with joblib.parallel_backend(backend):
        search = GridSearchCV(steps, {"netclassifier__hidden": [(2,), (40,)]}, cv=2, n_jobs=2).fit(frame, Y)
    assert search.best_params_ == {"netclassifier__hidden": (40,)} and search.score(frame, Y) > 0.5
    assert "NetClassifier" in steps._repr_html_()


@pytest.mark.parametrize("tool", [
    lambda: CalibratedClassifierCV(classifier(), cv=2),
    lambda: StackingClassifier([("net", classifier()), ("line", LogisticRegression())], cv=2),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_classifiers_of_others_around_it(tool):
    assert tool().fit(X, NAMES).score(X, NAMES) > 0.9


def test_regressors_of_others_around_it():
    bag = BaggingRegressor(regressor(), n_estimators=3, random_state=0).fit(DX, DY)
    assert bag.score(DX, DY) > 0.4
    importance = permutation_importance(bag.estimators_[0], DX, DY, n_repeats=2, random_state=0).importances_mean
    assert importance.argmax() in (2, 8)  # body mass and a blood value, which other regressors find, too
    folds = cross_validate(regressor(epochs=150), DX, DY, cv=3, return_estimator=True)
    assert len({id(each.net_) for each in folds["estimator"]}) == 3 and min(folds["test_score"]) > 0.3


@pytest.mark.parametrize("model", [classifier(n_members=2, epochs=3), classifier(optimizer=bp.Adam(ema=0.9), epochs=3)])
def test_copies_and_files_answer_alike(model, tmp_path):
    model.fit(X, Y)
    joblib.dump(model, tmp_path / "model")
    written = (tmp_path / "model").read_bytes()
    twins = [pickle.loads(pickle.dumps(model)), cloudpickle.loads(cloudpickle.dumps(model))]
    twins.append(joblib.load(tmp_path / "model", mmap_mode="r"))
    for twin in twins:
        np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    twins[-1].partial_fit(X, Y)
    assert (tmp_path / "model").read_bytes() == written


def test_halving():
    search = HalvingGridSearchCV(classifier(epochs=5), {"hidden": [(2,), (40,)]}, cv=2, random_state=0).fit(X, Y)
    assert search.best_params_ == {"hidden": (40,)} and search.score(X, Y) > 0.5


def test_a_regressor_for_each_target():
    targets = np.stack([DY, 1e4 - 10 * DY], axis=1)
    model = MultiOutputRegressor(regressor()).fit(DX, targets)
    for y, answers in zip(targets.T, model.predict(DX).T, strict=True):
        np.testing.assert_array_equal(regressor().fit(DX, y).predict(DX), answers)


def test_displays_of_others():
    model = regressor().fit(DX, DY)
    shown = PartialDependenceDisplay.from_estimator(model, DX, [2], grid_resolution=3).pd_results[0]
    moved = [model.predict(np.column_stack([DX[:, :2], np.full(len(DX), value), DX[:, 3:]])).mean()
             for value in shown["grid_values"][0]]  # fmt: skip
    np.testing.assert_allclose(shown["average"][0], moved, 1e-6)
    shown = LearningCurveDisplay.from_estimator(regressor(), DX, DY, train_sizes=[0.2, 1.0], cv=2)
    assert shown.test_scores.shape == (2, 2) and np.isfinite(shown.test_scores).all()
    pyplot.close("all")


def test_routed_weights_reach_fit_and_score():
    weight = (np.arange(len(DX)) % 3 > 0).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        model = regressor().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        folds = cross_validate(model, DX, DY, cv=2, params={"sample_weight": weight}, return_indices=True)
    for train, test, score in zip(*folds["indices"].values(), folds["test_score"], strict=True):
        by_hand = regressor().fit(DX[train], DY[train], weight[train]).score(DX[test], DY[test], weight[test])
        assert by_hand == score


def test_columns_keep_their_names():
    frame = pandas.DataFrame(DX, columns=[f"x{i}" for i in range(10)])
    model = make_pipeline(StandardScaler(), regressor(epochs=2)).set_output(transform="pandas").fit(frame, DY)
    assert list(model[-1].feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        model[-1].predict(frame[frame.columns[::-1]])


def test_other_processes_answer_alike():
    model = classifier(epochs=3).fit(X, Y)
    for answers in joblib.Parallel(2)(joblib.delayed(model.predict_proba)(X) for _ in range(2)):
        np.testing.assert_array_equal(answers, model.predict_proba(X))


def test_printed_as_scikit_learn_prints():
    assert repr(NetClassifier()) == "NetClassifier()" and repr(NetRegressor(l2=0.1)) == "NetRegressor(l2=0.1)"


@pytest.mark.parametrize("page, kind", [("docs/sklearn.md", "py"), ("docs/sparse.md", "python")])
def test_the_snippets_of_the_documentation_run(page, kind, capsys):
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    names = {}
    for snippet in re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, page, "exec"), names)  # they assert for themselves


@pytest.mark.parametrize("estimator", [NetClassifier, NetRegressor])
def test_docstrings(estimator):
    described = re.findall(r"^    (\w+(?:, \w+)*) : ", estimator.__doc__.partition("    Attributes\n")[0], re.MULTILINE)
    assert [name for names in described for name in names.split(", ")] == list(signature(estimator).parameters)
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(estimator):
        runner.run(example)
    assert runner.summarize(verbose=False) == (0, runner.tries) and runner.tries > 3
