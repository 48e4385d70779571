"""scikit-learn's MLPClassifier: the timed region of Train is the loop of fit(), past its checks of the data.

fit() itself would refuse labels that leave out a class, and takes no start weights; its loop takes both.
"""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, _multilayer_perceptron
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

from adapters import Prediction, Spec, numpy_, weights

VARIANTS = ("",)


def load(threads: int, variant: str) -> dict[str, str]:
    warnings.simplefilter("ignore", ConvergenceWarning)
    _multilayer_perceptron.AdamOptimizer = Adam
    return {"sklearn": sklearn.__version__} | numpy_.load(threads, variant)


class Adam(AdamOptimizer):
    """With eps added to the root of the corrected v, as in all other libraries."""

    def _get_updates(self, grads: list[NDArray]) -> list[NDArray]:
        self.epsilon = 1e-8 * (1 - self.beta_2 ** (self.t + 1)) ** 0.5
        return super()._get_updates(grads)


def model(spec: Spec, X: NDArray, y: NDArray) -> MLPClassifier:
    """A classifier with its arrays made, of every class even if y leaves some out."""
    made = MLPClassifier(
        spec.sizes[1:-1],
        activation=spec.activation,
        solver=spec.optimizer,
        alpha=0.0,
        batch_size=spec.batch,
        learning_rate_init=spec.lr,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
        n_iter_no_change=np.inf,
    )
    made.partial_fit(X[: spec.batch], y[: spec.batch], classes=np.arange(max(2, spec.sizes[-1])))
    made.out_activation_ = "logistic" if spec.sizes[-1] == 1 else "softmax"  # softmax of two classes, too
    return made


def set_weights(model: MLPClassifier, theta: NDArray, spec: Spec) -> None:
    model.coefs_, model.intercepts_ = map(list, zip(*weights(theta.copy(), spec.sizes), strict=True))


class Train:
    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray) -> None:
        self.spec, self.theta, self.X = spec, theta, X
        self.model = model(spec, X, y.ravel())
        self.Y = y.astype(bool) if y.ndim == 2 else y[:, None] == np.arange(spec.sizes[-1])

    def reset(self) -> None:
        set_weights(self.model, self.theta, self.spec)
        self.model.loss_curve_, self.model.best_loss_ = [], np.inf
        self.model.t_ = self.model._no_improvement_count = 0

    def run(self, epochs: int) -> list[float]:
        model, sizes = self.model, self.spec.sizes
        model.max_iter = epochs
        model._fit_stochastic(
            self.X,
            self.Y,
            sample_weight=None,
            activations=[self.X] + [None] * (len(sizes) - 1),
            deltas=[None] * (len(sizes) - 1),
            coef_grads=[np.empty(shape, self.spec.dtype) for shape in pairwise(sizes)],
            intercept_grads=[np.empty(n, self.spec.dtype) for n in sizes[1:]],
            layer_units=list(sizes),
            incremental=False,
        )
        return [float(loss) for loss in model.loss_curve_]


class Predict(Prediction):
    """predict_proba, past its checks of the data."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        y = np.zeros(spec.batch, int)
        classifier = model(spec, np.zeros((spec.batch, spec.sizes[0]), spec.dtype), y)
        set_weights(classifier, theta, spec)
        self.answer = partial(classifier._forward_pass_fast, check_input=False)
        self.x = X
