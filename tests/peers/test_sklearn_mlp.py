"""to_sklearn and from_sklearn: predictions to 1e-6, weights to the bit."""

import pickle
import warnings

import numpy as np
import pandas
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.neural_network import MLPClassifier, MLPRegressor

import bpcore as bp
import bpcore.sklearn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 3))
LABELS = np.array(["high", "low", "middle"])[(X[:, 0] > 0) + 0 + (X[:, 1] > 0)]


def same_bits(mlp, net):
    arrays = [array for pair in zip(mlp.coefs_, mlp.intercepts_, strict=True) for array in pair]
    assert [a.tobytes() for a in arrays] == [a.tobytes() for a in net.params.values()]


def fitted(mlp, y, X=X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mlp.fit(X, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("mlp", "y"),
    [
        (MLPClassifier((5, 4), "tanh"), LABELS),
        (MLPClassifier((5,), "logistic"), X[:, 0] > 0),
        (MLPClassifier((5,), "relu"), np.int64(X > 0)),
        (MLPRegressor(hidden_layer_sizes=(5,), activation="identity"), X[:, 0]),
        (MLPRegressor(hidden_layer_sizes=(), activation="relu"), X[:, :2]),
        (MLPRegressor(hidden_layer_sizes=(6, 6), activation="relu", loss="poisson"), np.exp(X[:, 0])),
        (bpcore.sklearn.MLPClassifier((5,), "relu"), LABELS),
    ],
)
def test_there_and_back(mlp, y, dtype):
    mlp = fitted(mlp.set_params(max_iter=5, random_state=0), y, X.astype(dtype))
    net = bp.from_sklearn(mlp)
    same_bits(mlp, net)
    assert net.dtype == dtype
    classifies = hasattr(mlp, "classes_")
    want = mlp.predict_proba(X.astype(dtype)) if classifies else mlp.predict(X.astype(dtype))
    got = net.predict(X)
    if classifies and got.shape[1] == 1:
        want = want[:, 1]
    np.testing.assert_allclose(got, want.reshape(got.shape), rtol=0, atol=1e-6)
    named = {"classes": mlp.classes_} if classifies and y.ndim == 1 else {}
    back = bp.to_sklearn(net, **named)
    assert type(back) in (MLPClassifier, MLPRegressor)
    same_bits(back, net)
    answers = back.predict(X)
    if classifies:
        assert np.array_equal(answers, mlp.predict(X))
    else:
        np.testing.assert_allclose(answers, got.reshape(answers.shape), rtol=0, atol=1e-6)
    assert back.get_params()["hidden_layer_sizes"] == tuple(mlp.hidden_layer_sizes)
    back = pickle.loads(pickle.dumps(back))
    back.partial_fit(X.astype(dtype), y)  # goes on training
    assert not np.array_equal(back.coefs_[0], net.params["dense_1.W"])


def test_softmax_of_two_classes_and_layers_without_bias():
    net = bp.Network([bp.Input(3), bp.Dense(4, "tanh", bias=False), bp.Dense(2, "softmax")], seed=0)
    mlp = bp.to_sklearn(net, classes=["no", "yes"])
    np.testing.assert_allclose(mlp.predict_proba(X.astype(np.float32)), net.predict(X), atol=1e-6)
    assert np.array_equal(mlp.predict(X.astype(np.float32)), np.array(["no", "yes"])[net.predict(X).argmax(axis=1)])
    assert bp.from_sklearn(mlp).n_params == net.n_params + 4


def test_names_of_columns_are_kept():
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    mlp = fitted(MLPRegressor(hidden_layer_sizes=(2,), max_iter=2), X[:, 0], frame)
    net = bp.from_sklearn(mlp)
    assert net.feature_names == {"input": ("a", "b", "c")}
    with pytest.raises(ValueError, match="'c', 'b', 'a'|columns"):
        net.predict(frame[["c", "b", "a"]])
    assert list(bp.to_sklearn(net).feature_names_in_) == ["a", "b", "c"]


def test_what_fits_neither():
    with pytest.raises(TypeError, match="expected an MLPClassifier or MLPRegressor, got Network"):
        bp.from_sklearn(bp.Network([bp.Input(2), bp.Dense(1)]))
    with pytest.raises(NotFittedError):
        bp.from_sklearn(MLPRegressor())
    for layers, why in (
        ([bp.Input(3), bp.LayerNorm(), bp.Dense(1)], r"Dense layers, got layer_norm_1 \(LayerNorm"),
        ([bp.Input((3, 2)), bp.Dense(1)], r"an input of shape \(3, 2\)"),
        ([bp.Input(3), bp.Dense(2, "tanh"), bp.Dense(2, "relu"), bp.Dense(1)], "got tanh, relu, identity"),
        ([bp.Input(3), bp.Dense(2, "gelu"), bp.Dense(1)], "got gelu, identity"),
        ([bp.Input(3), bp.Dense(1, "softmax")], "two outputs or more"),
    ):
        with pytest.raises(ValueError, match="to_sklearn: .*" + why):
            bp.to_sklearn(bp.Network(layers))
    net = bp.Network([bp.Input(3), bp.Dense(3, "softmax")])
    for classes in (["a", "b"], ["b", "a", "c"], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="classes: expected 3 labels in ascending order"):
            bp.to_sklearn(net, classes=classes)
    with pytest.raises(ValueError, match="classes: expected none"):
        bp.to_sklearn(bp.Network([bp.Input(3), bp.Dense(3)]), classes=[1, 2, 3])
