"""NetRegressor: any network that predicts numbers, for scikit-learn."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if

from bpcore import _losses
from bpcore._sklearn_net import PARAMETERS, Estimator, center, name_of

_GAUSSIAN = ("gaussian_nll", "crps_gaussian")


def _loss_of(estimator: Any) -> Any:
    """The loss of a regressor."""
    return _losses.resolve(estimator.loss, None)


class NetRegressor(RegressorMixin, Estimator):
    __doc__ = (
        """A neural network that predicts one number or several: any that bpcore can build.

    The last layer is exp for losses of positive targets, what the loss is made for with others, else the identity.

"""
        + PARAMETERS.format(
            loss="""Squared error unless given; any of `bp.losses`, such as "huber", "poisson" or
        `bp.losses.Quantile([0.1, 0.5, 0.9])`, or a `bp.Loss`.""",
            class_weight="",
            standardize=""" Targets likewise where the
        last layer is the identity: losses, and settings such as `Huber(delta=)`, are then in standard deviations of y,
        predictions in the units of y.""",
            stratified="",
            attributes="""    n_outputs_ : int
        Numbers of a target.
    y_offset_, y_scale_ : ndarray of shape (n_outputs_,) or None
        The network learns (y - y_offset_) / y_scale_.
""",
        )
        + """
    Examples
    --------
    >>> import bpcore as bp
    >>> from sklearn.datasets import load_diabetes
    >>> from bpcore.sklearn import NetRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = NetRegressor((32,), loss=bp.losses.Quantile([0.1, 0.5, 0.9]), random_state=0).fit(X[:400], y[:400])
    >>> reg.predict_quantiles(X[400:]).shape
    (42, 3)
    """
    )

    _y_numeric = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = not self.standardize
        tags.target_tags.multi_output = True
        return tags

    # ---- targets ----

    def _learn_targets(self, y: np.ndarray) -> None:
        self._y_shape = y.shape[1:]
        self.n_outputs_ = y.shape[1] if y.ndim == 2 else 1

    def _known_targets(self, y: np.ndarray) -> np.ndarray:
        if y.shape[1:] != self._y_shape:
            wanted = ", ".join(["n", *map(str, self._y_shape)])
            raise ValueError(f"y: expected shape ({wanted}), as in the first fit, got {y.shape}")
        return y

    def _scale_targets(self, y: np.ndarray, weight: np.ndarray | None) -> None:
        self.y_offset_ = self.y_scale_ = None
        last = self.net_.layers[-1]
        if self.standardize and getattr(last, "activation", "identity") == "identity":
            self.y_offset_, self.y_scale_ = center(y.reshape(len(y), -1), weight)

    def _coded(self, y: np.ndarray) -> np.ndarray:
        y = y.reshape(len(y), -1)
        return y if self.y_offset_ is None else (y - self.y_offset_) / self.y_scale_

    def _loss_object(self) -> Any:
        return _loss_of(self)

    def _output(self) -> tuple[int, str]:
        loss = _loss_of(self)
        return getattr(loss, "parts", 1) * self.n_outputs_, getattr(loss, "fused_with", None) or "identity"

    # ---- fit and predict ----

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> NetRegressor:
        """Train by one pass over some rows, in their order, without validation.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of rows.

        Returns
        -------
        self : object
            The estimator.
        """
        twin = copy.copy(self)
        twin._fit_more(X, y, sample_weight, not hasattr(self, "ensemble_"))
        self.__dict__ = twin.__dict__
        return self

    def _parts(self, X: Any) -> np.ndarray:
        """Of each member, in the units of y: (n_members, n_samples, parts of the loss, n_outputs_)."""
        answers = self._answers(X)
        parts = answers.reshape(*answers.shape[:2], -1, self.n_outputs_)
        if name_of(_loss_of(self)) == "quantile":  # which may cross; sorted ones are no worse
            parts = np.sort(parts, axis=2)
        if self.y_offset_ is None:
            return parts
        gaussian, logs = name_of(_loss_of(self)) in _GAUSSIAN, parts[:, :, 1:]
        parts = parts * self.y_scale_ + self.y_offset_
        if gaussian:
            assert self.y_scale_ is not None
            parts[:, :, 1:] = logs + 2 * np.log(self.y_scale_)
        return parts

    def _shaped(self, a: np.ndarray) -> np.ndarray:
        """(..., n_outputs_) as y is."""
        return a.reshape(*a.shape[:-1], *self._y_shape)

    def predict(self, X: Any) -> np.ndarray:
        """Predictions: means with Gaussian losses, with quantiles that of the level nearest to 1/2.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            As the targets of `fit`; in float64 where targets are standardised.
        """
        parts, loss = self._parts(X), _loss_of(self)
        part = int(np.abs(np.array(loss.numbers) - 0.5).argmin()) if name_of(loss) == "quantile" else 0
        return self._shaped(parts[:, :, part].mean(axis=0))

    @available_if(lambda self: name_of(_loss_of(self)) == "quantile")
    def predict_quantiles(self, X: Any) -> np.ndarray:
        """Quantiles at the levels of `loss=bp.losses.Quantile(levels)`, with which alone this method is there.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.

        Returns
        -------
        q : ndarray of shape (n_samples, n_levels) or (n_samples, n_levels, n_outputs)
            In the units of y, in the order of the levels. Each member's are sorted, so that they never fall from level
            to level (Chernozhukov, Fernandez-Val and Galichon 2010).
        """
        return self._shaped(self._parts(X).mean(axis=0))

    @available_if(lambda self: self.n_members > 1 or name_of(_loss_of(self)) in _GAUSSIAN)
    def predict_spread(self, X: Any) -> np.ndarray:
        """Standard deviation of the predicted targets, in the units of y, shaped as `predict(X)`.

        Of members: how far their predictions are apart. With a Gaussian loss each member says a variance, too, and it
        is the standard deviation of the members' mixture (Lakshminarayanan, Pritzel and Blundell 2017). There with
        n_members above 1, or a Gaussian loss.
        """
        parts, loss = self._parts(X).astype(np.float64), _loss_of(self)
        if name_of(loss) in _GAUSSIAN:
            variance = parts[:, :, 0].var(axis=0) + np.exp(parts[:, :, 1]).mean(axis=0)
            return self._shaped(np.sqrt(variance))
        part = int(np.abs(np.array(loss.numbers) - 0.5).argmin()) if name_of(loss) == "quantile" else 0
        return self._shaped(parts[:, :, part].std(axis=0))
