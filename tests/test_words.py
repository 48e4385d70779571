"""A keyword or name of Keras, PyTorch or scikit-learn is answered with bpcore's."""

import copy
import inspect
import pickle
import pydoc
import re

import numpy as np
import pytest

import bpcore as bp
from bpcore import _words

NET = bp.Network([bp.Input(3), bp.Dense(4, "softmax")])
X, LABELS = np.ones((5, 3)), np.zeros(5, int)


def fit(**settings):
    return NET.fit(X, LABELS, **settings)


CASES = [
    (bp.Adam, {"learning_rate": 0.1}, "bpcore calls it lr (Adam takes lr, beta1, beta2, eps, "),
    (bp.SGD, {"clipnorm": 1.0}, "bpcore calls it clip_norm"),
    (bp.LSTM, {"units": 3, "return_sequences": True}, "bpcore calls it sequences"),
    (bp.LSTM, {"hidden_size": 3}, "bpcore calls it units"),
    (bp.Dense, {"units": 3, "kernel_regularizer": "l2"}, "bpcore calls it l1 and l2"),
    (bp.Dense, {"units": 3, "kernel_constraint": 2}, "bpcore calls it max_norm"),
    (bp.Dense, {"units": 3, "input_shape": 3}, "sizes of inputs are those of bp.Input"),
    (bp.Conv2D, {"filters": 3, "kernel_size": 3}, "bpcore calls it size ("),
    (bp.TimeDelay, {"units": 3, "kernel_size": 3}, "bpcore calls it taps ("),
    (bp.Embedding, {"input_dim": 3, "units": 3}, "bpcore calls it n ("),
    (bp.Dropout, {"p": 0.5}, "bpcore calls it rate"),
    (bp.LayerNorm, {"epsilon": 1e-3}, "bpcore calls it eps"),
    (bp.losses.CrossEntropy, {"from_logits": True}, "losses are computed from z"),
    (bp.losses.SquaredError, {"reduction": "mean"}, "the cost is the weighted mean over rows"),
    (bp.schedules.Cosine, {"max_lr": 3}, "bpcore calls it peak"),
    (bp.EarlyStopping, {"restore_best_weights": True}, "bpcore calls it restore_best"),
    (bp.Network, {"layers": [], "random_state": 0}, "bpcore calls it seed"),
    (fit, {"lr": 0.1}, "the optimiser has it, optimizer=bp.Adam(lr=...)"),
    (fit, {"validation_fraction": 0.1}, "bpcore calls it validation_split"),
    (fit, {"n_epochs": 3}, "bpcore calls it epochs"),
    (fit, {"epoch": 3}, "there is no such keyword. Did you mean 'epochs'? (fit takes X, y, loss, "),
    (lambda **o: NET.predict(X, **o), {"batch_size": 32}, "it takes all rows, in batches of its own"),
    (lambda **o: NET.evaluate(X, LABELS, **o), {"sample_weights": X[:, 0]}, "bpcore calls it sample_weight"),
    (lambda **o: NET.predictor(**o), {"num_threads": 1}, "bpcore calls it n_threads"),
    (lambda **o: bp.load("no file", **o), {"custom_objects": {}}, "bpcore calls it custom"),
    (lambda **o: bp.fit_many([NET], X, LABELS, **o), {"random_state": 1}, "bpcore calls it seed"),
    (lambda **o: bp.fit_restarts(NET, X, LABELS, **o), {"max_iter": 1}, "bpcore calls it epochs"),
]


@pytest.mark.parametrize(("call", "settings", "answer"), CASES, ids=[f"{list(s)[-1]}-{a}" for _, s, a in CASES])
def test_a_keyword_of_others_is_answered(call, settings, answer):
    before = NET.theta.copy()
    with pytest.raises(TypeError) as caught:
        call(**settings)
    name = next(name for name in settings if str(caught.value).startswith(f"{name}: "))
    assert str(caught.value).startswith(f"{name}: {answer}") and caught.value.__suppress_context__
    assert (NET.theta == before).all()


@pytest.mark.parametrize(("name", "meant"), [("swish", "silu"), ("sigmoid", "logistic"), ("linear", "identity")])
def test_a_name_of_others_is_answered(name, meant):
    with pytest.raises(ValueError, match=f"^activation: there is no '{name}'. Did you mean '{meant}'?"):
        bp.Dense(3, name)


def test_the_table_speaks_of_what_there_is():
    """Every word is a keyword somewhere, and no keyword of bpcore's leads to itself."""
    public = [getattr(bp, name) for name in bp.__all__] + [getattr(bp.losses, n) for n in bp.losses.__all__]
    public += [getattr(bp.schedules, name) for name in bp.schedules.__all__]
    takes = [inspect.signature(each).parameters for each in (*public, bp.Network.fit) if callable(each)]
    known = {name for parameters in takes for name in parameters}
    for name, (words, sentence) in _words.KEYWORDS.items():
        assert set(words.split()) <= known and name not in words.split() and (words or sentence), name


def test_other_errors_stay_as_they_are():
    """A missing argument, a wrong type, a class of the user's with keywords of its own; copies and pickles."""

    class Own(bp.Callback):
        def __init__(self, learning_rate):
            self.learning_rate = learning_rate

    class Any(bp.Callback):
        def __init__(self, **settings):
            self.settings = settings

    assert Own(learning_rate=3).learning_rate == 3 and Any(learning_rate=3).settings == {"learning_rate": 3}
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'units'"):
        bp.Dense(activation="relu")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'X'"):
        NET.fit()
    with pytest.raises(TypeError, match="^epochs: expected an integer"):
        NET.fit(X, LABELS, epochs="3")
    for each in (bp.Adam(lr=0.1), bp.losses.Huber(delta=2.0), bp.schedules.Cosine(0.1, warmup=3), bp.Dense(3, l2=0.1)):
        for twin in (copy.copy(each), pickle.loads(pickle.dumps(each))):
            assert vars(twin) == vars(each)
    assert list(inspect.signature(NET.fit).parameters)[:3] == ["X", "y", "loss"]


def test_help_shows_what_users_call():
    """Of layers and optimisers settings alone, and what callbacks get."""
    text = pydoc.plain(pydoc.render_doc(bp))
    own = {"build", "draw", "tangent", "treatment", "check_integer", "shown_as", "op", "saved", "gathered", "kind"}
    methods = set(re.findall(r"^ +\|  (\w+)(?=\(self| = |$)", text, re.M))
    shown = {"fit", "adapt", "bias", "lr", "activation", "snapshot", "on_epoch_end"}
    assert not methods & own and shown <= methods
    assert "dataclasses.replace(state.optimizer" in pydoc.render_doc(bp.State)
    assert not {"slope", "curvature", "numbers"} & set(dir(bp.losses.Huber)) and "delta" in dir(bp.losses.Huber)
    assert callable(bp.Dense.build)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: NET.fit(X, LABELS, 10), "fit: takes X, y by position, all else by name (loss, optimizer, epochs, "),
    (lambda: NET.evaluate(X, LABELS, "mse"), "evaluate: takes X, y by position, all else by name (loss, "),
    (lambda: NET.predict(X, 2), "predict: takes X by position, all else by name (n_threads); got also 2"),
    (lambda: bp.fit_many([NET], X, LABELS, 3), "fit_many: takes nets, X, y by position, all else by name (loss, "),
    (lambda: bp.EarlyStopping("loss", 3), "EarlyStopping: takes monitor by position, all else by name (patience, "),
    (lambda: bp.Dense(3, "relu", True), "Dense: takes units, activation by position, all else by name (l1, "),
    (lambda: bp.losses.SquaredError(1), "SquaredError: takes nothing by position, and no more; got also 1"),
])  # fmt: skip
def test_what_is_given_by_position_beyond_what_is_taken_so_is_named(call, words):
    before = NET.theta.copy()
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value).startswith(words) and (NET.theta == before).all()


@pytest.mark.parametrize(("metric", "meant"), [("mse", "rmse"), ("acc", "accuracy"), ("mean_squared_error", "rmse")])
def test_a_metric_of_others_is_answered(metric, meant):
    with pytest.raises(ValueError, match=f"metrics: there is no '{metric}'. Did you mean '{meant}'?"):
        fit(metrics=[metric], train_metrics=True)


def test_a_class_in_place_of_an_object_is_answered():
    with pytest.raises(TypeError, match=r"optimizer: expected .* got the class; give an object of it, bp.Adam\(\)$"):
        fit(optimizer=bp.Adam)
