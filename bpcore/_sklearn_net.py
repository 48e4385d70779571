"""bpcore's own estimators for scikit-learn: any network behind fit and predict; bpcore.sklearn shows them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import bpcore as bp
from bpcore import _callbacks, _losses, _optimizers, _searches, _validate

# losses whose outputs are probabilities; of labels: each output is that of a label of its own
_OF_LABELS = ("binary_cross_entropy", "focal")
_OF_PROBABILITIES = ("cross_entropy", "kl_divergence", "squared_error", "mse", *_OF_LABELS)
_GAUSSIAN = ("gaussian_nll", "crps_gaussian")


class _Rows(NamedTuple):
    """X, an array or a sparse matrix by rows, y and the weights of some rows."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None

    def take(self, rows: np.ndarray) -> _Rows:
        """These rows of it."""
        return _Rows(self.X[rows], self.y[rows], None if self.weight is None else self.weight[rows])


class _Scored(bp.Callback):
    """Early stopping by a scorer, which is asked after each epoch on the rows that are held out."""

    def __init__(self, estimator: Any, scorer: Callable[..., float], held_out: _Rows, patience: int) -> None:
        self.estimator, self.scorer, self.held_out, self.patience = estimator, scorer, held_out, patience
        self.scores: list[float] = []
        self.best, self.best_epoch, self.snapshot = -math.inf, 0, None

    def on_epoch_end(self, state: Any) -> None:
        """Asks, and keeps the best epoch."""
        asked = copy.copy(self.estimator)
        asked._answering = [_answering(state.net)]
        X, y, weight = self.held_out
        score = float(self.scorer(asked, X, y, **({} if weight is None else {"sample_weight": weight})))
        self.scores.append(score)
        if score > self.best:
            self.best, self.best_epoch, self.snapshot = score, len(self.scores), state.snapshot()
        elif len(self.scores) - self.best_epoch >= self.patience:
            state.stop()

    def on_fit_close(self, state: Any) -> None:
        """Goes back to the best epoch."""
        if self.snapshot is not None:
            state.restore(self.snapshot)
            self.snapshot = None


def _answering(net: bp.Network) -> bp.Network:
    """What predicts: where the optimiser keeps an average of the weights, a network of that."""
    return net.averaged() if getattr(net.optimizer, "ema", None) is not None else net


def _center(a: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of columns in float64; 1 for a column that is constant."""
    mean = np.average(a.astype(np.float64), axis=0, weights=weight)
    scale = np.sqrt(np.average((a - mean) ** 2, axis=0, weights=weight))
    return mean, np.where(scale > 10 * np.finfo(np.float64).eps * np.abs(mean), scale, 1.0)


def _name(loss: Any) -> str | None:
    """Of a loss of bpcore's."""
    return loss.name if isinstance(loss, _losses.BuiltIn) else None


class _Estimator(_searches.Trained, BaseEstimator):
    """What both have in common; a subclass says what its targets are."""

    _y_numeric = False

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
        l1: float = 0.0,
        l2: float = 0.0,
        standardize: bool = True,
        validation_fraction: float = 0.1,
        early_stopping: bool = True,
        patience: int = 10,
        scorer: Any = None,
        callbacks: Any = (),
        n_members: int = 1,
        dtype: Any = "float32",
        n_threads: int | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.layers = layers
        self.loss = loss
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.l1 = l1
        self.l2 = l2
        self.standardize = standardize
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.patience = patience
        self.scorer = scorer
        self.callbacks = callbacks
        self.n_members = n_members
        self.dtype = dtype
        self.n_threads = n_threads
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    # ---- what a subclass says ----

    def _learn_targets(self, y: np.ndarray) -> None:
        """What is to be known of the targets of a first fit."""
        raise NotImplementedError

    def _known_targets(self, y: np.ndarray) -> np.ndarray:
        """y as `fit` works with it; ValueError for targets of another kind than those of the first fit."""
        raise NotImplementedError

    def _given_targets(self, y: np.ndarray) -> np.ndarray:
        """The inverse of _known_targets."""
        return y

    def _scale_targets(self, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Learns from the rows that are trained on."""

    def _coded(self, y: np.ndarray) -> np.ndarray:
        """y as the loss takes it."""
        raise NotImplementedError

    def _loss_object(self) -> Any:
        """The loss, which `loss` may name."""
        raise NotImplementedError

    def _output(self) -> tuple[int, str]:
        """Units and activation of the output layer."""
        raise NotImplementedError

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        """Classes whose shares stay where rows are held out."""
        return None

    def _weigh(self, rows: _Rows, held_out: _Rows | None) -> tuple[_Rows, _Rows | None]:
        """Both with what class_weight makes of their weights."""
        return rows, held_out

    # ---- networks ----

    def _hidden_layers(self, dropout: float, l1: float) -> list[Any]:
        """New layers between input and output."""
        several = isinstance(self.hidden, (list, tuple, np.ndarray))
        given = list(self.hidden) if several else [self.hidden]  # type: ignore[arg-type]
        sizes = [_validate.integer(f"hidden[{i}]", n, 1, _validate.MAX_UNITS) for i, n in enumerate(given)]
        activations = list(self.activation) if isinstance(self.activation, (list, tuple)) else None
        if activations is not None and len(activations) != len(sizes):
            raise ValueError(
                f"activation: expected one, or one for each of {len(sizes)} hidden layers, got {self.activation!r}"
            )
        layers: list[Any] = []
        for i, n in enumerate(sizes):
            layers.append(bp.Dense(n, activations[i] if activations else self.activation, l1=l1))
            layers += [bp.Dropout(dropout)] if dropout else []
        return layers

    def _network(self, n_in: int, seed: int) -> bp.Network:
        """A new one."""
        n_out, f = self._output()
        dropout, l1 = _validate.real("dropout", self.dropout, high=1.0, open_high=True), _validate.real("l1", self.l1)
        if self.layers is not None and (dropout or l1):
            name = "dropout" if dropout else "l1"
            raise ValueError(f"{name}: expected 0.0 beside layers, which have their own, got {getattr(self, name)}")
        if not callable(self.layers):
            layers = self._hidden_layers(dropout, l1) if self.layers is None else list(self.layers)
            return bp.Network([bp.Input(n_in), *layers, bp.Dense(n_out, f, l1=l1)], dtype=self.dtype, seed=seed)
        net = self.layers(n_in, n_out)
        if not isinstance(net, bp.Network):
            raise TypeError(f"layers: expected a function that returns a bp.Network, it returned {net!r}")
        inputs, outputs = tuple(net.inputs.values()), tuple(net.outputs.values())
        if len(inputs) != 1 or np.prod(inputs[0]) != n_in or outputs != ((n_out,),):
            raise ValueError(
                f"layers: expected a network of one input of {n_in} numbers and one output ({n_out},), the function "
                f"returned one of inputs {net.inputs} and outputs {net.outputs}"
            )
        if net.dtype != _validate.dtype(self.dtype):
            raise ValueError(f"layers: expected a network of dtype={self.dtype!r}, the function returned {net.dtype}")
        return net._anew(seed)

    @property
    def net_(self) -> bp.Network:
        """The network; of several members the first.  It is trained on X and y as they are scaled."""
        if not hasattr(self, "ensemble_"):
            raise AttributeError("net_: this estimator is not fitted yet; call fit")
        return self.ensemble_.members[0]

    def _scaled(self, X: Any) -> Any:
        """X as the networks take it."""
        shape = next(iter(self.net_.inputs.values()))
        if scipy.sparse.issparse(X):
            if self.X_offset_ is not None:
                raise ValueError(
                    "X: expected a dense array, since fit, with standardize=True, learnt means to subtract, got a "
                    "sparse matrix; use X.toarray(), or fit with standardize=False"
                )
            return X
        if self.X_offset_ is not None:
            X = ((X - self.X_offset_) / self.X_scale_).astype(self.net_.dtype)
        return X if len(shape) == 1 else X.reshape(-1, *shape)

    def _answers(self, X: Any) -> np.ndarray:
        """Of each member for a user's X: (n_members, n_samples, n_out)."""
        check_is_fitted(self)
        X = self._scaled(validate_data(self, X, accept_sparse="csr", reset=False))
        return np.stack([net.predict(X, n_threads=self.n_threads) for net in self._answering])

    # ---- training ----

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:  # fmt: skip
        """Train on X and y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of rows, of which ratios count; rows of weight 0 are left out.
        X_val : array-like of shape (n_val, n_features), default=None
            Rows to validate on; without them `early_stopping` holds out some of X.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Their targets.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError, TypeError
            For what does not fit, before anything has changed.
        bpcore.DivergenceError
            Where the loss or a weight is no longer finite.
        """
        goes_on = _validate.switch("warm_start", self.warm_start) and hasattr(self, "ensemble_")
        stops = _validate.switch("early_stopping", self.early_stopping)
        if (X_val is None) != (y_val is None) or (X_val is None and sample_weight_val is not None):
            raise ValueError("X_val, y_val: expected both, or neither, and sample_weight_val with them alone")
        if self.scorer is not None and not stops:
            raise ValueError(f"scorer: expected None with early_stopping=False, got {self.scorer!r}")
        rng = check_random_state(self.random_state)
        split, seed = rng.randint(2**31 - 1, size=2)
        twin = copy.copy(self)  # it changes first, and self once all is well
        rows = twin._checked(X, y, sample_weight, first=not goes_on)
        held_out = None
        if X_val is not None:
            held_out = twin._checked(X_val, y_val, sample_weight_val, called="_val")
        elif stops:
            rows, held_out = twin._split(rows, split)
        if goes_on and len(twin.ensemble_.members) != self.n_members:
            raise ValueError(
                f"n_members: expected {len(twin.ensemble_.members)} with warm_start, as in the last fit, got "
                f"{self.n_members}"
            )
        if not goes_on:
            twin._begin(rows, int(seed))
        twin._train(rows, held_out, stops, self.epochs)
        self.__dict__.update(vars(twin))
        return self

    def _checked(self, X: Any, y: Any, weight: Any, first: bool = False, called: str = "") -> _Rows:
        """X, y and weights, without rows of weight 0."""
        X, y = validate_data(self, X, y, accept_sparse="csr", multi_output=True, y_numeric=self._y_numeric, reset=first)
        if scipy.sparse.issparse(y):
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1 and not self._y_numeric:
            y = column_or_1d(y, warn=True)
        if first:
            self._learn_targets(y)
        y = self._known_targets(y)
        if weight is None:
            return _Rows(X, y, None)
        weight = _check_sample_weight(weight, X, ensure_non_negative=True)
        some = np.flatnonzero(weight)
        if not len(some):
            raise ValueError(f"sample_weight{called}: expected at least one weight above zero, got only zeros")
        return _Rows(X, y, weight) if len(some) == len(weight) else _Rows(X[some], y[some], weight[some])

    def _split(self, rows: _Rows, seed: int) -> tuple[_Rows, _Rows]:
        """Rows to train on, and those that are held out."""
        share = _validate.real("validation_fraction", self.validation_fraction, 0.0, 1.0, open_low=True, open_high=True)
        n = rows.X.shape[0]
        if n < 2:
            raise ValueError(
                f"X: n_samples={n} is too few to hold out rows for early stopping; give fit X_val and y_val, or "
                "early_stopping=False"
            )
        held_out = min(max(1, math.ceil(share * n)), n - 1)
        strata = self._strata(rows.y)
        if strata is not None:
            counts = np.unique(strata, return_counts=True)[1]
            strata = strata if counts.min() > 1 and len(counts) <= min(held_out, n - held_out) else None
        parts = train_test_split(np.arange(n), test_size=held_out, random_state=seed, stratify=strata)
        first, second = (rows.take(part) for part in parts)
        return first, second

    def _begin(self, rows: _Rows, seed: int) -> None:
        """New networks, and the scales of these rows."""
        self.X_offset_ = self.X_scale_ = None
        n_members = _validate.integer("n_members", self.n_members, 1, 2**31)
        nets = [self._network(self.n_features_in_, seed + k) for k in range(n_members)]
        self.ensemble_ = bp.Ensemble(nets)
        if _validate.switch("standardize", self.standardize):
            if scipy.sparse.issparse(rows.X):
                raise ValueError(
                    "standardize: expected False for a sparse X, whose zeros a mean subtracted would fill, got True; "
                    "scale columns by sklearn.preprocessing.MaxAbsScaler, and use standardize=False"
                )
            self.X_offset_, self.X_scale_ = _center(rows.X, rows.weight)
        self._scale_targets(rows.y, rows.weight)

    def _train(self, rows: _Rows, held_out: _Rows | None, stops: bool, epochs: Any, shuffle: bool = True) -> None:
        """Fits the networks."""
        nets, optimizer = (
            self.ensemble_.members,
            _optimizers.resolve(bp.Adam() if self.optimizer is None else self.optimizer),
        )
        batch = self.batch_size
        if isinstance(batch, str):
            _validate.choice("batch_size", batch, ["auto"])
            batch = None if optimizer.full_batch else min(max(32, rows.X.shape[0] // 50), 256)
        rows, held_out = self._weigh(rows, held_out)
        callbacks = [copy.deepcopy(_callbacks.resolve(self.callbacks)) for _ in nets]
        scored: list[_Scored] = []
        if stops and held_out is not None:
            patience = _validate.integer("patience", self.patience, 0, 2**31)
            if self.scorer is None:
                own: list[Any] = [bp.EarlyStopping("val_loss", patience=patience) for _ in nets]
            else:
                scorer, y = check_scoring(self, self.scorer), self._given_targets(held_out.y)
                own = scored = [_Scored(self, scorer, held_out._replace(y=y), patience) for _ in nets]
            for each, callback in zip(callbacks, own, strict=True):
                each.append(callback)
        settings: dict[str, Any] = {
            "loss": self._loss_object(), "optimizer": optimizer, "epochs": epochs, "batch_size": batch,
            "shuffle": shuffle, "sample_weight": rows.weight, "l2": self.l2,
            "n_threads": self.n_threads, "verbose": self.verbose,
            "validation_data": None if held_out is None else self._for_networks(held_out),
        }  # fmt: skip
        X, y = self._for_networks(rows)[:2]
        try:
            if len(nets) == 1 and not _searches.in_search():
                histories = [nets[0].fit(X, y, callbacks=callbacks[0], **settings)]
            else:
                histories = _searches.fit_many(nets, X, y, callbacks=callbacks, **settings)
        finally:
            self._answering = [_answering(net) for net in nets]
        for history in histories:
            if history.error is not None:
                raise history.error
        self.histories_, self.history_ = histories, histories[0]
        self.loss_curve_, self.n_iter_ = list(histories[0].loss), max(len(history.loss) for history in histories)
        if scored:
            self.validation_scores_ = scored[0].scores

    def _for_networks(self, rows: _Rows) -> tuple[Any, ...]:
        """X, y and, where there are some, weights as the networks' fit takes them."""
        weight = () if rows.weight is None else (rows.weight,)
        return (self._scaled(rows.X), self._coded(rows.y), *weight)

    def _fit_more(self, X: Any, y: Any, sample_weight: Any, first: bool) -> Any:
        """partial_fit, by a copy that changes first; first: there are no networks yet."""
        rows = self._checked(X, y, sample_weight, first=first)
        if first:
            self._begin(rows, int(check_random_state(self.random_state).randint(2**31 - 1)))
        self._train(rows, None, False, 1, shuffle=False)
        return self


_PARAMETERS = """    Parameters
    ----------
    hidden : int or sequence of int, default=(100,)
        Units of each hidden layer; () for none. Not used with `layers`.
    activation : str or bpcore.Activation, or a list of one for each hidden layer, default="relu"
        Of the hidden layers; names are those of `bpcore.activations`. Not used with `layers`.
    layers : list of layers, or callable, default=None
        Layers of bpcore between the input and the output layer, `[bp.Dense(64), bp.LayerNorm(), bp.Activate("gelu")]`;
        or a function `f(n_in, n_out)` that returns the whole `bp.Network`, of which each member is drawn anew. Its
        input may have any shape of n_in numbers.
    loss : str or loss object, default="auto"
        {loss}
    optimizer : str or optimiser object, default=None
        `bp.Adam()` unless given. Its numbers may be schedules, and it may bound gradients (`clip_norm=`), decay weights
        and keep an average of them (`ema=`), which then predicts.
    epochs : int, default=100
        Most passes over the rows in a call of `fit`.
    batch_size : int, "auto" or None, default="auto"
        Rows of a step. "auto": n_samples // 50, but from 32 to 256, or all rows for an optimiser that needs them
        (`bp.LBFGS`, `bp.Rprop`, `bp.LevenbergMarquardt`). None: all rows.
    dropout : float, default=0.0
        Share of each hidden layer's outputs that is dropped in training. With `layers` it must be 0.
    l1, l2 : float, default=0.0
        Penalties l1 |W| + l2/2 |W|^2 over weights, not biases; part of the loss. With `layers`, l1 must be 0.
{class_weight}    standardize : bool, default=True
        Whether columns of X have mean 0 and standard deviation 1 as the network sees them, in float64, by what the rows
        that are trained on say (of `partial_fit`, those of the first call). A sparse X wants False.{standardize}
    validation_fraction : float, default=0.1
        Share of the rows that is held out for `early_stopping` where `fit` is given no X_val{stratified}.
    early_stopping : bool, default=True
        Whether `fit` ends once the loss of the rows that are held out, or `scorer`, has not been better for `patience`
        epochs, and leaves the network of the best epoch. `partial_fit` holds out nothing.
    patience : int, default=10
        See `early_stopping`.
    scorer : str or callable, default=None
        What early stopping asks in place of the loss: a scorer of scikit-learn, by name or `f(estimator, X, y)`.
    callbacks : callback, function or list of them, default=()
        Callbacks of bpcore, which each fit copies; `state.net` is the network.
    n_members : int, default=1
        Networks of an ensemble, trained side by side from other first weights and in other orders; predictions are
        means.
    dtype : str or dtype, default="float32"
        Of the networks: float32 or float64.
    n_threads : int, default=None
        Most threads; None: `bp.get_num_threads()`. The results do not depend on it.
    warm_start : bool, default=False
        Whether `fit` goes on with the networks, scales and optimiser's memory of the last fit.
    random_state : int, RandomState or None, default=None
        Of first weights, orders and rows that are held out.
    verbose : int, default=0
        1 prints a line an epoch.

    Attributes
    ----------
{attributes}    net_ : bpcore.Network
        The network; of several members the first. Its X and y are those that `standardize` makes.
    ensemble_ : bpcore.Ensemble
        All members.
    history_ : bpcore.History
        Losses by epoch, and what callbacks recorded, of `net_`'s last fit; `histories_` has all members'.
    loss_curve_ : list of float
        Training loss of each epoch of the last fit.
    n_iter_ : int
        Epochs of the last fit, of the member that had most.
    validation_scores_ : list of float
        What `scorer` said after each epoch, of `net_`; with a scorer alone.
    X_offset_, X_scale_ : ndarray of shape (n_features,) or None
        `net_` takes (X - X_offset_) / X_scale_.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had some.
"""


class NetClassifier(ClassifierMixin, _Estimator):
    __doc__ = (
        """A neural network that tells classes, or labels, apart: any that bpcore can build.

    The last layer is softmax; one logistic unit for two classes; one for each label of a multilabel y.

"""
        + _PARAMETERS.format(
            loss="""Cross-entropy unless given. Outputs must be probabilities: "cross_entropy", "kl_divergence",
        "binary_cross_entropy", "focal", "squared_error", "mse", `bp.losses` objects of these, or a `bp.Loss`. With
        "binary_cross_entropy" and "focal", each of several classes has a logistic unit, and probabilities are its
        shares.""",
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
        l1: float = 0.0,
        l2: float = 0.0,
        class_weight: Mapping[Any, float] | str | None = None,
        standardize: bool = True,
        validation_fraction: float = 0.1,
        early_stopping: bool = True,
        patience: int = 10,
        scorer: Any = None,
        callbacks: Any = (),
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
            l1=l1,
            l2=l2,
            standardize=standardize,
            validation_fraction=validation_fraction,
            early_stopping=early_stopping,
            patience=patience,
            scorer=scorer,
            callbacks=callbacks,
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

    def _weigh(self, rows: _Rows, held_out: _Rows | None) -> tuple[_Rows, _Rows | None]:
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

        def weighed(part: _Rows) -> _Rows:
            return part._replace(weight=factors[part.y] * (1.0 if part.weight is None else part.weight))

        return weighed(rows), held_out and weighed(held_out)

    def _loss_object(self) -> Any:
        if isinstance(self.loss, str) and self.loss == "auto":
            labels = self._multilabel or len(self.classes_) == 2
            return _losses.resolve("binary_cross_entropy" if labels else "cross_entropy", None)
        loss = _losses.resolve(self.loss, None)
        if _name(loss) in ("cross_entropy", "kl_divergence") and self._multilabel:
            raise ValueError(
                f"loss: {_name(loss)} is for one class a row, and y is multilabel; use binary_cross_entropy"
            )
        if not isinstance(loss, bp.Loss) and _name(loss) not in _OF_PROBABILITIES:
            raise ValueError(
                f"loss: expected one of probabilities, {', '.join(_OF_PROBABILITIES)} or a bp.Loss, got {self.loss!r}"
            )
        return loss

    def _output(self) -> tuple[int, str]:
        k, of_labels = len(self.classes_), _name(self._loss_object()) in _OF_LABELS
        if of_labels or self._multilabel:
            return (1 if k == 2 and not self._multilabel else k), "logistic"
        return k, "softmax"

    def _coded(self, y: np.ndarray) -> np.ndarray:
        if self._multilabel or self._output()[0] == 1 or _name(self._loss_object()) == "cross_entropy":
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
        self.__dict__.update(vars(twin))
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


def _loss_of(estimator: Any) -> Any:
    """The loss of a regressor."""
    return _losses.resolve(estimator.loss, None)


class NetRegressor(RegressorMixin, _Estimator):
    __doc__ = (
        """A neural network that predicts one number or several: any that bpcore can build.

    The last layer is exp for losses of positive targets, what the loss is made for with others, else the identity.

"""
        + _PARAMETERS.format(
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
            self.y_offset_, self.y_scale_ = _center(y.reshape(len(y), -1), weight)

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
        self.__dict__.update(vars(twin))
        return self

    def _parts(self, X: Any) -> np.ndarray:
        """Of each member, in the units of y: (n_members, n_samples, parts of the loss, n_outputs_)."""
        answers = self._answers(X)
        parts = answers.reshape(*answers.shape[:2], -1, self.n_outputs_)
        if self.y_offset_ is None:
            return parts
        gaussian, logs = _name(_loss_of(self)) in _GAUSSIAN, parts[:, :, 1:]
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
        part = int(np.abs(np.array(loss.numbers) - 0.5).argmin()) if _name(loss) == "quantile" else 0
        return self._shaped(parts[:, :, part].mean(axis=0))

    @available_if(lambda self: _name(_loss_of(self)) == "quantile")
    def predict_quantiles(self, X: Any) -> np.ndarray:
        """Quantiles at the levels of `loss=bp.losses.Quantile(levels)`, with which alone this method is there.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Real numbers.

        Returns
        -------
        q : ndarray of shape (n_samples, n_levels) or (n_samples, n_levels, n_outputs)
            In the units of y, in the order of the levels.
        """
        return self._shaped(self._parts(X).mean(axis=0))

    @available_if(lambda self: self.n_members > 1 or _name(_loss_of(self)) in _GAUSSIAN)
    def predict_spread(self, X: Any) -> np.ndarray:
        """Standard deviation of the predicted targets, in the units of y, shaped as `predict(X)`.

        Of members: how far their predictions are apart. With a Gaussian loss each member says a variance, too, and it
        is the standard deviation of the members' mixture (Lakshminarayanan, Pritzel and Blundell 2017). There with
        n_members above 1, or a Gaussian loss.
        """
        parts, loss = self._parts(X).astype(np.float64), _loss_of(self)
        if _name(loss) in _GAUSSIAN:
            variance = parts[:, :, 0].var(axis=0) + np.exp(parts[:, :, 1]).mean(axis=0)
            return self._shaped(np.sqrt(variance))
        part = int(np.abs(np.array(loss.numbers) - 0.5).argmin()) if _name(loss) == "quantile" else 0
        return self._shaped(parts[:, :, part].std(axis=0))
