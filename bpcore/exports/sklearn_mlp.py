"""Networks as scikit-learn's MLPClassifier and MLPRegressor, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

import bpcore as bp
from bpcore._network import Network
from bpcore.exports.chains import chain
from bpcore.exports.graphs import imported

HIDDEN = ("identity", "logistic", "tanh", "relu")
OUTPUT = ("identity", "logistic", "softmax", "exp")


def to_sklearn(net: Any, classes: Any) -> Any:
    """See bpcore.to_sklearn."""
    peer = imported("sklearn.neural_network", "to_sklearn", "bpcore[sklearn]")
    source, *layers = chain("to_sklearn", net)
    other = [at for at in layers if at.layer.op != "dense"]
    if other or len(source.shape) > 1:
        what = f"{other[0].name} ({other[0].layer!r})" if other else f"an input of shape {source.shape}"
        raise ValueError(f"to_sklearn: expected an input of one axis and Dense layers, got {what}")
    *within, end = (at.layer.activation for at in layers)
    if len(set(within)) > 1 or not {*within} <= {*HIDDEN} or end not in OUTPUT:
        got = ", ".join(str(getattr(f, "name", f)) for f in (*within, end))
        raise ValueError(
            f"to_sklearn: expected hidden layers of one activation, {', '.join(HIDDEN)}, and an output of "
            f"{', '.join(OUTPUT)}, got {got}"
        )
    n_outputs = layers[-1].shape[0]
    if end == "softmax" and n_outputs == 1:
        raise ValueError("to_sklearn: expected a softmax of two outputs or more, got one")
    settings: dict[str, Any] = {"hidden_layer_sizes": tuple(at.shape[0] for at in layers[:-1])}
    settings |= {"activation": within[0]} if within else {}
    if end in ("softmax", "logistic"):
        mlp = peer.MLPClassifier(**settings)
        _name_classes(mlp, end, n_outputs, classes)
    elif classes is not None:
        raise ValueError(f"classes: expected none for an output of {end}, which is a regression's, got {classes!r}")
    else:
        mlp = peer.MLPRegressor(**settings, loss="poisson" if end == "exp" else "squared_error")
    names = net.feature_names.get(source.name)
    if names is not None:
        mlp.feature_names_in_ = np.array(names, object)
    # what its fit leaves behind
    mlp.coefs_ = [at.values["W"] for at in layers]
    mlp.intercepts_ = [at.values.get("b", np.zeros(at.shape, net.dtype)) for at in layers]
    mlp.n_features_in_, mlp.n_outputs_, mlp.n_layers_ = source.shape[0], n_outputs, len(layers) + 1
    mlp.out_activation_, mlp.n_iter_, mlp.t_ = end, net.epoch, 0
    mlp.loss_curve_, mlp.best_loss_, mlp._no_improvement_count = [], np.inf, 0
    mlp.validation_scores_ = mlp.best_validation_score_ = None
    return mlp


def _name_classes(mlp: Any, end: str, n_outputs: int, classes: Any) -> None:
    """classes_, and what makes labels of probabilities."""
    from sklearn.preprocessing import LabelBinarizer

    several = end == "logistic" and n_outputs > 1
    n = n_outputs if end == "softmax" or several else 2
    labels = np.arange(n) if classes is None else np.asarray(classes)
    if several and classes is not None:
        raise ValueError("classes: expected none for several logistic outputs, each of which is 0 or 1")
    if labels.shape != (n,) or len(np.unique(labels)) < n or (np.sort(labels) != labels).any():
        raise ValueError(f"classes: expected {n} labels in ascending order, one for each output, got {classes!r}")
    binarizer = LabelBinarizer().fit(np.eye(n, dtype=int) if several else labels)
    if end == "softmax":
        binarizer.y_type_ = "multiclass"  # also of two classes: a column each
    mlp._label_binarizer, mlp.classes_ = binarizer, binarizer.classes_


def from_sklearn(mlp: Any) -> Network:
    """See bpcore.from_sklearn."""
    peer = imported("sklearn.neural_network", "from_sklearn", "bpcore[sklearn]")
    if not isinstance(mlp, (peer.MLPClassifier, peer.MLPRegressor)):
        raise TypeError(f"from_sklearn: mlp: expected an MLPClassifier or MLPRegressor, got {type(mlp).__name__}")
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(mlp, "coefs_")
    shapes = [W.shape for W in mlp.coefs_]
    activations = [mlp.activation] * (len(shapes) - 1) + [mlp.out_activation_]
    layers = [bp.Dense(n, f, init="zeros") for (_, n), f in zip(shapes, activations, strict=True)]
    net = bp.Network([bp.Input(shapes[0][0]), *layers], dtype=np.result_type(np.float32, *mlp.coefs_))
    arrays = [array for pair in zip(mlp.coefs_, mlp.intercepts_, strict=True) for array in pair]
    for view, array in zip(net.params.values(), arrays, strict=True):
        view[...] = array
    names = getattr(mlp, "feature_names_in_", None)
    if names is not None:
        net._model.feature_names = {"input": tuple(str(name) for name in names)}
    return net
