"""What NetClassifier and NetRegressor have in common: their networks, their training, and the words on parameters."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import bpcore as bp
from bpcore import _callbacks, _history_views, _losses, _optimizers, _searches, _validate


class Rows(NamedTuple):
    """X, an array or a sparse matrix by rows, y and the weights of some rows."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None

    def take(self, rows: np.ndarray) -> Rows:
        """These rows of it."""
        return Rows(self.X[rows], self.y[rows], None if self.weight is None else self.weight[rows])


class _Deadline(bp.Callback):
    """Ends training once the time is over: of several networks, which have no max_seconds, each after an epoch."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.begun = seconds, math.inf

    def on_fit_begin(self, state: Any) -> None:
        """Looks at the clock, for the first of the networks."""
        self.begun = min(self.begun, time.perf_counter())

    def on_epoch_end(self, state: Any) -> None:
        """Looks at it again."""
        if time.perf_counter() - self.begun >= self.seconds:
            state.stop()


class _Scored(bp.Callback):
    """Early stopping by a scorer, which is asked after each epoch on the rows that are held out."""

    def __init__(self, estimator: Any, scorer: Callable[..., float], held_out: Rows, patience: int) -> None:
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


def center(a: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of columns in float64; 1 for a column that is constant."""
    mean = np.average(a.astype(np.float64), axis=0, weights=weight)
    scale = np.sqrt(np.average((a - mean) ** 2, axis=0, weights=weight))
    return mean, np.where(scale > 10 * np.finfo(np.float64).eps * np.abs(mean), scale, 1.0)


def name_of(loss: Any) -> str | None:
    """Of a loss of bpcore's."""
    return loss.name if isinstance(loss, _losses.BuiltIn) else None


class Estimator(_searches.Trained, BaseEstimator):
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
        batch_norm: bool = False,
        l1: float = 0.0,
        l2: float = 0.0,
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
        self.hidden = hidden
        self.activation = activation
        self.layers = layers
        self.loss = loss
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.l1 = l1
        self.l2 = l2
        self.standardize = standardize
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.patience = patience
        self.scorer = scorer
        self.callbacks = callbacks
        self.max_seconds = max_seconds
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

    def _weigh(self, rows: Rows, held_out: Rows | None) -> tuple[Rows, Rows | None]:
        """Both with what class_weight makes of their weights."""
        return rows, held_out

    # ---- networks ----

    def _hidden_layers(self, dropout: float, batch_norm: bool, l1: float) -> list[Any]:
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
            f = activations[i] if activations else self.activation
            if batch_norm:  # which has a bias of its own
                layers += [bp.Dense(n, bias=False, l1=l1), bp.BatchNorm(), bp.Activate(f)]
            else:
                layers.append(bp.Dense(n, f, l1=l1))
            layers += [bp.Dropout(dropout)] if dropout else []
        return layers

    def _network(self, n_in: int, seed: int) -> bp.Network:
        """A new one."""
        n_out, f = self._output()
        dropout, l1 = _validate.real("dropout", self.dropout, high=1.0, open_high=True), _validate.real("l1", self.l1)
        batch_norm = _validate.switch("batch_norm", self.batch_norm)
        for name, off in (("dropout", 0.0), ("batch_norm", False), ("l1", 0.0)):
            if self.layers is not None and getattr(self, name) != off:
                raise ValueError(
                    f"{name}: expected {off} beside layers, which have their own, got {getattr(self, name)}"
                )
        if not callable(self.layers):
            layers = self._hidden_layers(dropout, batch_norm, l1) if self.layers is None else list(self.layers)
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
        self.__dict__ = twin.__dict__
        return self

    def _checked(self, X: Any, y: Any, weight: Any, first: bool = False, called: str = "") -> Rows:
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
            return Rows(X, y, None)
        weight = _check_sample_weight(weight, X, ensure_non_negative=True)
        some = np.flatnonzero(weight)
        if not len(some):
            raise ValueError(f"sample_weight{called}: expected at least one weight above zero, got only zeros")
        return Rows(X, y, weight) if len(some) == len(weight) else Rows(X[some], y[some], weight[some])

    def _split(self, rows: Rows, seed: int) -> tuple[Rows, Rows]:
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

    def _begin(self, rows: Rows, seed: int) -> None:
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
            self.X_offset_, self.X_scale_ = center(rows.X, rows.weight)
        self._scale_targets(rows.y, rows.weight)

    def _train(self, rows: Rows, held_out: Rows | None, stops: bool, epochs: Any, shuffle: bool = True) -> None:
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
        most = self.max_seconds
        try:
            if len(nets) == 1 and not _searches.in_search():
                histories = [nets[0].fit(X, y, callbacks=callbacks[0], max_seconds=most, **settings)]
            else:
                if most is not None:
                    deadline = _Deadline(_validate.real("max_seconds", most, open_low=True))
                    callbacks = [[*each, deadline] for each in callbacks]
                histories = _searches.fit_many(nets, X, y, callbacks=callbacks, **settings)
        finally:
            self._answering = [_answering(net) for net in nets]
        for history in histories:
            if history.error is not None:
                raise history.error
        self.histories_, self.history_ = histories, histories[0]
        self.loss_curve_, self.n_iter_ = list(histories[0].loss), max(len(history.loss) for history in histories)
        self.__dict__.pop("validation_scores_", None)
        if scored:
            self.validation_scores_ = scored[0].scores

    def plot(self) -> Any:
        """Draw losses, metrics and the learning rate over the epochs of the last fit.

        Returns
        -------
        figure : matplotlib.figure.Figure
            What `history_` holds, that of `net_`, and what `scorer` said. It is pyplot's: notebooks show it, scripts by
            `pyplot.show()`.

        Raises
        ------
        ImportError
            Without matplotlib, an extra: `pip install 'bpcore[plot]'`.
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        scores = {"score of held-out rows": self.validation_scores_} if hasattr(self, "validation_scores_") else {}
        return _history_views.figure({**self.history_, **scores}, "plot")

    def _for_networks(self, rows: Rows) -> tuple[Any, ...]:
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


PARAMETERS = """    Parameters
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
    batch_norm : bool, default=False
        Whether a `bp.BatchNorm` stands between the products and the activation of each hidden layer (Ioffe and Szegedy
        2015). With `layers` it must be False.
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
    max_seconds : float, default=None
        Most seconds that a call of `fit` or `partial_fit` trains; None: no bound. A network ends at a whole step,
        within an epoch as well; the members of an ensemble after the epoch that they are in.
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
