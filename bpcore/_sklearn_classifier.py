"""NetClassifier: any network that tells classes, or labels, apart, for scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target

import bpcore as bp
from bpcore import _losses, _validate
from bpcore._sklearn_net import PARAMETERS, Estimator, Rows, name_of

# losses whose outputs are probabilities; of labels: each output is that of a label of its own
_OF_LABELS = ("binary_cross_entropy", "focal")
_OF_CLASSES = ("cross_entropy", "categorical_focal", "kl_divergence")  # that exclude each other
_OF_PROBABILITIES = (*_OF_CLASSES, "squared_error", "mse", *_OF_LABELS)


class NetClassifier(ClassifierMixin, Estimator):
    __doc__ = (
        """A neural network that tells classes, or labels, apart: any that bpcore can build.

    The last layer is softmax; one logistic unit for two classes; one for each label of a multilabel y.

"""
        + PARAMETERS.format(
            loss="""Cross-entropy unless given. Outputs must be probabilities: "cross_entropy", "categorical_focal",
        "kl_divergence", "binary_cross_entropy", "focal", "squared_error", "mse", `bp.losses` objects of these, or a
        `bp.Loss`. With "binary_cross_entropy" and "focal", each of several classes has a logistic unit, and
        probabilities are its shares.""",
            class_weight="""    class_weight : dict or "balanced", default=None
        Weight of each class, 1 for those that are not there, by which weights of rows are multiplied; "balanced":
        such that all classes count alike.
""",
            standardize="",
            stratified=", with the shares of classes kept",
            attributes="""    classes_ : ndarray of shape (n_classes,)
        Classes, sorted; of a multilabel y the numbers of its columns.
""",
        )
        + """
    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from bpcore.sklearn import NetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = NetClassifier((64,), epochs=20, random_state=0).fit(X[:1500], y[:1500])
    >>> bool(clf.score(X[1500:], y[1500:]) > 0.85)
    True
    """
    )

    def __init__(
        self,
        hidden: int | Sequence[int] = (100,),
        activation: Any = "relu",
        *,
        layers: Any = None,
        loss: Any = "auto",
        optimizer: Any = None,
        epochs: int = 100,
        batch_size: int | str | None = "auto",
        dropout: float = 0.0,
        batch_norm: bool = False,
        l1: float = 0.0,
        l2: float = 0.0,
        class_weight: Mapping[Any, float] | str | None = None,
        standardize: bool = True,
        validation_fraction: float = 0.1,
        early_stopping: bool = True,
        patience: int = 10,
        scorer: Any = None,
        callbacks: Any = (),
        max_seconds: float | None = None,
        n_members: int = 1,
        dtype: Any = "float32",
        n_threads: int | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            hidden,
            activation,
            layers=layers,
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            dropout=dropout,
            batch_norm=batch_norm,
            l1=l1,
            l2=l2,
            standardize=standardize,
            validation_fraction=validation_fraction,
            early_stopping=early_stopping,
            patience=patience,
            scorer=scorer,
            callbacks=callbacks,
            max_seconds=max_seconds,
            n_members=n_members,
            dtype=dtype,
            n_threads=n_threads,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = not self.standardize
        tags.classifier_tags.multi_label = True
        return tags

    # ---- targets ----

    def _learn_targets(self, y: np.ndarray) -> None:
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind not in ("binary", "multiclass", "multilabel-indicator"):
            raise ValueError(f"y: expected classes (n,), or labels (n, k) of 0 and 1, got {kind} targets")
        self._multilabel = kind == "multilabel-indicator"
        self._learn_classes(np.arange(y.shape[1]) if self._multilabel else np.unique(y))

    def _learn_classes(self, classes: np.ndarray) -> None:
        if len(classes) < 2 and not self._multilabel:
            raise ValueError(f"y: expected at least two classes, got one class, {classes[0]!r}")
        self.classes_ = classes

    def _known_targets(self, y: np.ndarray) -> np.ndarray:
        if self._multilabel:
            if y.ndim != 2 or y.shape[1] != len(self.classes_) or not np.isin(y, (0, 1)).all():
                raise ValueError(f"y: expected labels (n, {len(self.classes_)}) of 0 and 1, got shape {y.shape}")
            return y
        if y.ndim != 1:
            raise ValueError(f"y: expected classes (n,), as in the first fit, got shape {y.shape}")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y: expected classes of the first fit, {self.classes_.tolist()}, got {unknown.tolist()} beside; name "
                "all classes in the first call: partial_fit(X, y, classes=...)"
            )
        return np.searchsorted(self.classes_, y)

    def _given_targets(self, y: np.ndarray) -> np.ndarray:
        return y if self._multilabel else self.classes_[y]

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        return None if self._multilabel else y

    def _weigh(self, rows: Rows, held_out: Rows | None) -> tuple[Rows, Rows | None]:
        if self.class_weight is None:
            return rows, held_out
        if self._multilabel:
            raise ValueError("class_weight: expected None for a multilabel y, whose rows are of several classes")
        factors = np.ones(len(self.classes_))
        if isinstance(self.class_weight, str):
            _validate.choice("class_weight", self.class_weight, ["balanced"])
            counts = np.bincount(rows.y, rows.weight, len(factors))
            factors = counts.sum() / (np.count_nonzero(counts) * np.where(counts > 0, counts, 1.0))
        else:
            known = {label: i for i, label in enumerate(self.classes_.tolist())}
            unknown = [label for label in self.class_weight if label not in known]
            if unknown:
                raise ValueError(f"class_weight: expected some of the classes {list(known)}, got {unknown} beside")
            for label, weight in self.class_weight.items():
                factors[known[label]] = _validate.real(f"class_weight[{label!r}]", weight)

        def weighed(part: Rows) -> Rows:
            return part._replace(weight=factors[part.y] * (1.0 if part.weight is None else part.weight))

        return weighed(rows), held_out and weighed(held_out)

    def _loss_object(self) -> Any:
        if isinstance(self.loss, str) and self.loss == "auto":
            labels = self._multilabel or len(self.classes_) == 2
            return _losses.resolve("binary_cross_entropy" if labels else "cross_entropy", None)
        loss = _losses.resolve(self.loss, None)
        if name_of(loss) in _OF_CLASSES and self._multilabel:
            raise ValueError(
                f"loss: {name_of(loss)} is for one class a row, and y is multilabel; use binary_cross_entropy"
            )
        if not isinstance(loss, bp.Loss) and name_of(loss) not in _OF_PROBABILITIES:
            raise ValueError(
                f"loss: expected one of probabilities, {', '.join(_OF_PROBABILITIES)} or a bp.Loss, got {self.loss!r}"
            )
        return loss

    def _output(self) -> tuple[int, str]:
        k, of_labels = len(self.classes_), name_of(self._loss_object()) in _OF_LABELS
        if of_labels or self._multilabel:
            return (1 if k == 2 and not self._multilabel else k), "logistic"
        return k, "softmax"

    def _coded(self, y: np.ndarray) -> np.ndarray:
        if self._multilabel or self._output()[0] == 1 or getattr(self._loss_object(), "takes_classes", False):
            return y
        return np.eye(len(self.classes_))[y]

    # ---- fit and predict ----

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> NetClassifier:
        """Train by one pass over some rows, in their order, without validation.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Classes, or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of rows.
        classes : array-like, default=None
            All classes that will come; the first call needs them, but for a multilabel y.

        Returns
        -------
        self : object
            The estimator.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight: expected a dict for partial_fit, which sees some rows alone, got 'balanced'"
            )
        twin = copy.copy(self)
        first = not hasattr(self, "ensemble_")
        multilabel = type_of_target(y) == "multilabel-indicator"
        begun = (not (first and multilabel)) and _check_partial_fit_first_call(twin, classes)
        if first and begun:
            twin._multilabel = False
            twin._learn_classes(twin.classes_)
        twin._fit_more(X, y, sample_weight, first)
        self.__dict__ = twin.__dict__
        return self

    def _probabilities(self, answers: np.ndarray) -> np.ndarray:
        """Of answers (..., n_out), in float64: (..., n_classes)."""
        p = answers.astype(np.float64)
        if self._multilabel:
            return p
        if p.shape[-1] == 1:
            return np.concatenate([1 - p, p], axis=-1)
        return p / np.maximum(p.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            In float64, in the order of `classes_`; of a multilabel y that of each label.
        """
        return self._probabilities(self._answers(X)).mean(axis=0)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of `predict_proba(X)`, -inf of 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable classes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            Classes; of a multilabel y 1 for each label whose probability is above 1/2.
        """
        p = self.predict_proba(X)
        return (p > 0.5).astype(int) if self._multilabel else self.classes_[p.argmax(axis=1)]

    @available_if(lambda self: self.n_members > 1)
    def predict_spread(self, X: Any) -> np.ndarray:
        """How far members disagree: the standard deviation of their probabilities, shaped as `predict_proba(X)`.

        There with n_members above 1.
        """
        return self._probabilities(self._answers(X)).std(axis=0)
