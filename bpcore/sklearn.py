"""scikit-learn's MLPClassifier and MLPRegressor, trained and run by bpcore; needs scikit-learn 1.7 or later.

They inherit what scikit-learn's classes say and check (parameters, labels, attributes, scores) and replace what
computes.  From the same `random_state` they draw the same weights, splits and orders of rows, so the numbers are
scikit-learn's up to rounding.  What differs:

- Rows of a sparse X are made dense as they are read, at most a batch at a time: the numbers are those of a dense X.
- A prediction has the dtype of `coefs_`.
- Losses of saturated outputs are exact, where scikit-learn clips probabilities at the machine epsilon.
- `solver="lbfgs"` with several outputs of squared error minimises their sum, whose gradient scikit-learn uses too,
  though it hands L-BFGS their mean with it; `loss_` is the mean, as there.
- Refused by ValueError: `momentum=1`, negative sample weights, negative y with `loss="poisson"`.
- A batch whose sample weights are all zero is passed over, where scikit-learn divides by zero.
- A training that diverges ends there, not after the last epoch: by ValueError, or with `early_stopping` by a
  ConvergenceWarning, a validation score of NaN and the best weights so far.
- With `early_stopping` and `warm_start` a later `fit` does not write to the best weights of an earlier one.
- `partial_fit` heeds what `set_params` has changed since the last call, where scikit-learn keeps the optimiser of the
  first: a new `learning_rate_init` (also under `learning_rate="adaptive"`; under "invscaling" divided by
  (t_ + 1)^power_t), `momentum`, `nesterovs_momentum`, `beta_1`, `beta_2` and `epsilon` hold from the next step, with
  the velocity or moments kept; another `solver`, or a `momentum` that becomes or was 0, begins anew.
- Pickles hold the versions of scikit-learn and of bpcore, and warn when others load them: `InconsistentVersionWarning`,
  `BpcoreVersionWarning`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.sparse
from scipy.special import xlogy

import bpcore as bp
from bpcore import _core, _errors, _validate

try:
    import sklearn
    import sklearn.neural_network as peer
    from sklearn.base import is_classifier
    from sklearn.exceptions import ConvergenceWarning, InconsistentVersionWarning
    from sklearn.model_selection import train_test_split
    from sklearn.utils import shuffle
    from sklearn.utils.optimize import _check_optimize_result
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(
        f"bpcore.sklearn needs scikit-learn 1.7 or later ({error}); pip install -U scikit-learn"
    ) from error

__all__ = ["BpcoreVersionWarning", "MLPClassifier", "MLPRegressor"]

SMALLEST_LR = 1e-6  # where learning_rate="adaptive" ends


def _check_peer() -> None:
    """ImportError unless scikit-learn's classes call, with the arguments that are expected, what is replaced here."""
    for name, first in (
        ("_fit_stochastic", ("self", "X", "y", "sample_weight")),
        ("_fit_lbfgs", ("self", "X", "y", "sample_weight")),
        ("_forward_pass_fast", ("self", "X", "check_input")),
        ("_update_no_improvement_count", ("self", "early_stopping", "X", "y", "sample_weight")),
    ):
        method = getattr(peer.MLPClassifier, name, None)
        if method is None or tuple(inspect.signature(method).parameters)[: len(first)] != first:
            raise ImportError(
                f"bpcore.sklearn: scikit-learn {sklearn.__version__} has another MLPClassifier inside ({name}); "
                "pip install 'scikit-learn>=1.7,<1.10'"
            )


_check_peer()


def _poisson_value(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (xlogy(y, y) - y * z - y + np.exp(z)).sum(axis=1)


def _poisson_gradient(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(z) - y


# half the Poisson deviance of a = exp(z), from z
_POISSON = bp.Loss(_poisson_value, _poisson_gradient, name="poisson")


def _csr(X: Any) -> Any:
    """A sparse X by rows, checked; a dense one as it is."""
    return _validate.csr("X", X) if scipy.sparse.issparse(X) else X


def _rows(X: Any) -> Any:
    """X as bpcore's networks take it."""
    return _core.SparseRows(_csr(X)) if scipy.sparse.issparse(X) else X


def _weights(net: bp.Network) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """coefs_ and intercepts_ as views of a network's theta."""
    views = list(net.params.values())
    return views[::2], views[1::2]


class BpcoreVersionWarning(InconsistentVersionWarning):
    """An estimator was pickled with another version of bpcore.

    original_bpcore_version, current_bpcore_version: those ("unknown" in pickles of before versions were kept); the
    attributes of scikit-learn's warning are its versions.
    """

    def __init__(self, *, original_bpcore_version: str, **of_scikit_learn: str) -> None:
        super().__init__(**of_scikit_learn)
        self.original_bpcore_version, self.current_bpcore_version = original_bpcore_version, bp.__version__

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("estimator_name", "current_sklearn_version", "original_sklearn_version", "original_bpcore_version")
        return functools.partial(type(self), **{name: getattr(self, name) for name in names}), (), self.__dict__

    def __str__(self) -> str:
        return (
            f"Trying to unpickle estimator {self.estimator_name} from bpcore {self.original_bpcore_version} when using "
            f"bpcore {self.current_bpcore_version}: its numbers may be others, or it may not work; train it again, or "
            "load it with the version that saved it"
        )


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """What bpcore says of its optimisers' settings, with the estimators' names for them."""
    try:
        yield
    except (TypeError, ValueError) as error:
        names = {"lr": "learning_rate_init", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon",
                 "weight_decay": "alpha"}  # fmt: skip
        setting, _, words = str(error).partition(":")
        if setting not in names:
            raise
        raise type(error)(f"{names[setting]}:{words}") from None


@dataclass(frozen=True)
class _Optimizer:
    """What scikit-learn keeps as `_optimizer`: as the parameters ask for it, and at its present rate."""

    given: bp.SGD | bp.Adam
    rule: bp.SGD | bp.Adam

    @property
    def learning_rate(self) -> float:
        """The present rate."""
        assert isinstance(self.rule.lr, float)  # no schedule
        return self.rule.lr

    def serves(self, given: bp.SGD | bp.Adam) -> bool:
        """Whether training may go on by other numbers with what this one has kept."""
        return type(self.rule) is type(given) and self.rule.states == given.states


class _Perceptron:
    """What replaces scikit-learn's computations; the classes of scikit-learn follow in the order of bases."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def _network(self, fresh: bool = False) -> bp.Network:
        """The network of which coefs_ and intercepts_ are views, also after they were assigned or unpickled; a `fresh`
        one has no memory of an optimiser."""
        dtype = np.result_type(np.float32, *self.coefs_)
        key = (tuple(W.shape for W in self.coefs_), self.activation, self.out_activation_, dtype)
        known, net = getattr(self, "_net", ((), None))
        if fresh or net is None or known != key:
            last = "identity" if self.out_activation_ == "exp" else self.out_activation_  # see _POISSON
            activations = [self.activation] * (len(self.coefs_) - 1) + [last]
            layers = [bp.Dense(W.shape[1], f, init="zeros") for W, f in zip(self.coefs_, activations, strict=True)]
            net = bp.Network([bp.Input(len(self.coefs_[0])), *layers], dtype=dtype)
            self._net = key, net
        for arrays, letter in ((self.coefs_, "W"), (self.intercepts_, "b")):
            for i in range(len(arrays)):
                view = net.params[f"dense_{i + 1}.{letter}"]
                if arrays[i] is not view:
                    view[...] = arrays[i]
                    arrays[i] = view
        return net

    def _data(self, X: Any, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        """X, y and the loss, as bpcore takes them."""
        if self.out_activation_ == "softmax":
            return _rows(X), y.argmax(axis=1), "cross_entropy"
        if self.out_activation_ == "logistic":
            return _rows(X), y, "binary_cross_entropy"
        if self.out_activation_ == "identity":
            return _rows(X), y, "squared_error"
        if y.min() < 0:
            raise ValueError(f"y: expected numbers from 0 with loss='poisson', got {y.min()}")
        return _rows(X), y.astype(np.float64), _POISSON

    def _loss_units(self) -> int:
        """By how much scikit-learn divides the loss: it takes the mean of squared errors over outputs, else the sum."""
        return self.n_outputs_ if self.out_activation_ == "identity" else 1

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> np.ndarray:
        """(n, n_outputs_) in the dtype of coefs_."""
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
        out = self._network().predict(_rows(X))
        return np.exp(out, out=out) if self.out_activation_ == "exp" else out

    def _fit_stochastic(self, X: Any, y: np.ndarray, sample_weight: Any, *rest: Any) -> None:
        *_, incremental = rest
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        known = getattr(self, "_optimizer", None)
        if incremental and known:
            self._validate_params()  # which scikit-learn does in the first call alone
        with _named():
            given = self._new_optimizer()
        if not incremental or (known and not known.serves(given)):
            known = None
        rule = replace(given, lr=self._rate(known)) if known else given
        X = _csr(X)
        net = self._network(fresh=not known)
        validation = (None, None, None)
        if self.early_stopping:
            X, y, sample_weight, validation = self._split(X, y, sample_weight)
        n = X.shape[0]
        if self.batch_size != "auto" and self.batch_size > n:
            warnings.warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
                          stacklevel=4)  # fmt: skip
        batch = min(200 if self.batch_size == "auto" else self.batch_size, n)
        X, y, loss = self._data(X, y)
        self.n_iter_ = 0
        self._optimizer = known or _Optimizer(given, given)
        training = _Training(self, given, rule, n, batch, sample_weight, validation, incremental)
        try:
            with _named():
                net.fit(
                    X,
                    y,
                    loss=loss,
                    optimizer=net._model.memory.optimizer or rule,
                    epochs=1 if incremental else min(self.max_iter, 2**31),
                    batch_size=batch,
                    shuffle=False,
                    sample_weight=sample_weight,
                    callbacks=training,
                    check_finite=False,
                )
        except bp.DivergenceError as error:
            if not self.early_stopping:
                raise ValueError(
                    "Solver produced non-finite parameter weights. The input data may contain large values and need to "
                    "be preprocessed. Or learning_rate_init is too large: it happened in epoch "
                    f"{error.epoch}, batch {error.batch}."
                ) from error
            training.end_diverged()
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if self.early_stopping:
            self.coefs_ = [W.copy() for W in self._best_coefs]
            self.intercepts_ = [b.copy() for b in self._best_intercepts]
            self._network()

    def __getstate__(self) -> dict[str, Any]:
        of_base: Any = super().__getstate__()
        state = {**of_base, "_sklearn_version": sklearn.__version__, "_bpcore_version": bp.__version__}
        _, net = state.get("_net", ((), None))
        if net is not None:
            held, arrays = sum(_weights(net), []), [*state["coefs_"], *state["intercepts_"]]
            if len(held) == len(arrays) and all(map(operator.is_, held, arrays)):
                del state["coefs_"], state["intercepts_"]  # the network has them
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = state.copy()
        versions = {
            "estimator_name": type(self).__name__,
            "current_sklearn_version": sklearn.__version__,
            "original_sklearn_version": state.pop("_sklearn_version", "unknown"),
        }
        of_bpcore = state.pop("_bpcore_version", "unknown")
        if versions["original_sklearn_version"] != sklearn.__version__:
            _errors.warn(InconsistentVersionWarning(**versions))
        if of_bpcore != bp.__version__:
            _errors.warn(BpcoreVersionWarning(original_bpcore_version=of_bpcore, **versions))
        if not isinstance(state.get("_optimizer"), _Optimizer):  # of a version that kept another
            state.pop("_optimizer", None)
        if "_net" in state and "coefs_" not in state:
            state["coefs_"], state["intercepts_"] = _weights(state["_net"][1])
        super().__setstate__(state)  # type: ignore[misc]

    def _rate(self, known: _Optimizer) -> float:
        """At which partial_fit goes on."""
        schedule = self.learning_rate if self.solver == "sgd" else "constant"
        if schedule == "invscaling":
            return self.learning_rate_init / (self.t_ + 1) ** self.power_t
        if schedule == "adaptive" and known.given.lr == self.learning_rate_init:
            return known.learning_rate
        return self.learning_rate_init

    def _new_optimizer(self) -> bp.SGD | bp.Adam:
        if self.solver == "adam":
            return bp.Adam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)
        return bp.SGD(self.learning_rate_init, self.momentum, bool(self.nesterovs_momentum and self.momentum))

    def _split(self, X: Any, y: np.ndarray, sample_weight: Any) -> tuple[Any, np.ndarray, Any, tuple]:
        """X, y and weights to train on, and those to validate with."""
        arrays = [X, y] if sample_weight is None else [X, y, sample_weight]
        parts = train_test_split(
            *arrays,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if is_classifier(self) and self.n_outputs_ == 1 else None,
        )
        train, held_out = [*parts[::2], None], [*parts[1::2], None]
        if held_out[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        if is_classifier(self):
            held_out[1] = self._label_binarizer.inverse_transform(held_out[1])
        return train[0], train[1], train[2], tuple(held_out[:3])

    def _fit_lbfgs(self, X: Any, y: np.ndarray, sample_weight: Any, *rest: Any) -> None:
        # in float64, whatever X has: as scikit-learn's, and line searches need the digits
        self.coefs_ = [W.astype(np.float64) for W in self.coefs_]
        self.intercepts_ = [b.astype(np.float64) for b in self.intercepts_]
        net = self._network(fresh=True)
        X, y, loss = self._data(X, y)
        alpha = float(self.alpha)
        decay = np.concatenate([np.full(p.size, alpha * name.endswith(".W")) for name, p in net.params.items()])
        decay /= len(X) if sample_weight is None else sample_weight.sum()
        units = self._loss_units()
        seen: list[float] = []

        def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
            net.theta[:] = theta
            value, gradient = net.value_and_grad(X, y, loss=loss, sample_weight=sample_weight)
            penalty = 0.5 * (decay * theta) @ theta
            return value + penalty, gradient + decay * theta

        def show(intermediate_result: Any) -> None:
            seen.append(intermediate_result.fun)
            if self.verbose:
                print(f"Iteration {len(seen)}, loss = {in_units(intermediate_result):.8f}")

        def in_units(result: Any) -> float:
            penalty = 0.5 * (decay * result.x) @ result.x
            return float((result.fun - penalty) / units + penalty)

        result = scipy.optimize.minimize(
            cost,
            net.theta.copy(),
            method="L-BFGS-B",
            jac=True,
            callback=show,
            options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
        )
        self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
        net.theta[:] = result.x
        self.loss_ = in_units(result)


class _Training(bp.Callback):
    """What scikit-learn does between batches and epochs: weight decay by the batch, the rate, the curve, when to stop.

    alpha/2 |W|^2 / s is part of the loss of a batch, s being its rows or the sum of their weights: decay alpha / s.
    """

    def __init__(
        self,
        mlp: Any,
        given: bp.SGD | bp.Adam,
        rule: bp.SGD | bp.Adam,
        n: int,
        batch: int,
        sample_weight: Any,
        validation: tuple[Any, Any, Any],
        incremental: bool,
    ) -> None:
        self.given, self.rule = given, rule
        self.mlp, self.n, self.batch, self.sample_weight, self.incremental = mlp, n, batch, sample_weight, incremental
        self.validation = validation
        self.order = np.arange(n)

    def on_fit_begin(self, state: Any) -> None:
        """The optimiser, which may have other numbers than in the last partial_fit."""
        present, known = _Optimizer(self.given, self.rule), self.mlp._optimizer
        if present.learning_rate != known.learning_rate:
            self.set_rate(state, present.learning_rate)
        self.mlp._optimizer = present
        state.optimizer = self.rule
        self.begin_epoch(state)

    def begin_epoch(self, state: Any) -> None:
        """The order of rows."""
        if self.mlp.shuffle:
            state.order = self.order = shuffle(self.order, random_state=self.mlp._random_state)
        self.done, self.total = 0, 0.0
        self.begin_batch(state)

    def begin_batch(self, state: Any) -> None:
        """The optimiser of the next batch, and the penalty before it."""
        mlp = self.mlp
        rows = self.order[self.done : self.done + self.batch]
        size = len(rows) if self.sample_weight is None else self.sample_weight[rows].sum()
        decay = float(mlp.alpha / size) if size > 0 else 0.0
        self.rows = len(rows)
        with np.errstate(over="ignore"):  # the loss says it
            squares = sum(np.square(W, dtype=np.float64).sum() for W in mlp.coefs_) if decay else 0.0
        self.penalty = 0.5 * decay * squares
        rule = mlp._optimizer.rule
        change = {"lr": rule.lr, "weight_decay": decay}
        if isinstance(rule, bp.Adam):
            # scikit-learn adds epsilon to the root of the uncorrected variance
            change["eps"] = rule.eps / (1 - rule.beta2 ** (state.step + 1)) ** 0.5
        if any(getattr(state.optimizer, name) != value for name, value in change.items()):
            state.optimizer = replace(rule, **change)

    def on_batch_end(self, state: Any) -> None:
        """Adds to the loss of the epoch."""
        if np.isfinite(state.loss):  # else no row had a weight
            self.total += self.rows * (state.loss / self.mlp._loss_units() + float(self.penalty))
        self.done += self.rows
        if self.done < self.n:
            self.begin_batch(state)

    def on_epoch_end(self, state: Any) -> None:
        """The curve, the rate, and whether to stop."""
        mlp = self.mlp
        self.count_epoch(self.total / self.n)
        with np.errstate(over="ignore", invalid="ignore"):  # the score says it
            mlp._update_no_improvement_count(mlp.early_stopping, *self.validation)
        if mlp.early_stopping and np.isnan(mlp.validation_scores_[-1]):
            self.warn_diverged()
            state.stop()
            return
        if mlp.solver == "sgd" and mlp.learning_rate == "invscaling":
            self.set_rate(state, mlp.learning_rate_init / (mlp.t_ + 1) ** mlp.power_t)
        if mlp._no_improvement_count > mlp.n_iter_no_change:
            self.no_improvement(state)
        if state.stopped or self.incremental:
            return
        if mlp.n_iter_ == mlp.max_iter:
            _errors.warn(
                f"Stochastic Optimizer: Maximum iterations ({mlp.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                ("bpcore", "sklearn"),
            )
        else:
            self.begin_epoch(state)

    def count_epoch(self, loss: float) -> None:
        """Adds an epoch to the curve."""
        mlp = self.mlp
        mlp.n_iter_ += 1
        mlp.t_ += self.n
        mlp.loss_ = loss
        mlp.loss_curve_.append(loss)
        if mlp.verbose:
            print(f"Iteration {mlp.n_iter_}, loss = {loss:.8f}")

    def end_diverged(self) -> None:
        """Counts the epoch in which training diverged; its score is NaN, whatever the last finite weights."""
        self.count_epoch(float("nan"))
        self.mlp.validation_scores_.append(float("nan"))
        if self.mlp.verbose:
            print("Validation score: nan")
        self.warn_diverged()

    def warn_diverged(self) -> None:
        """A ConvergenceWarning that says which weights stay."""
        scored = self.mlp.best_validation_score_ > -np.inf
        stay = "those of the best validation score" if scored else "the initial ones: no epoch had a validation score"
        _errors.warn(
            f"Stochastic Optimizer: training diverged in epoch {self.mlp.n_iter_} and ended; the weights are {stay}. "
            "The input data may contain large values and need to be preprocessed, or learning_rate_init is too large.",
            ConvergenceWarning,
            ("bpcore", "sklearn"),
        )

    def no_improvement(self, state: Any) -> None:
        """Stops, or divides the rate by five."""
        mlp = self.mlp
        what = "Validation score" if mlp.early_stopping else "Training loss"
        message = f"{what} did not improve more than tol={mlp.tol:f} for {mlp.n_iter_no_change} consecutive epochs."
        lr = mlp._optimizer.learning_rate
        if mlp.solver != "sgd" or mlp.learning_rate != "adaptive" or lr <= SMALLEST_LR:
            small = " Learning rate too small." if lr <= SMALLEST_LR else ""
            if mlp.verbose:
                print(f"{message}{small} Stopping.")
            state.stop()
            return
        self.set_rate(state, lr / 5)
        mlp._no_improvement_count = 0
        if mlp.verbose:
            print(f"{message} Setting learning rate to {lr / 5:f}")

    def set_rate(self, state: Any, lr: float) -> None:
        """scikit-learn's velocity is lr times that of bpcore, and keeps its size when lr changes."""
        known = self.mlp._optimizer
        if isinstance(known.rule, bp.SGD):
            for velocity in state.net._model.memory.states:
                velocity *= known.learning_rate / lr
        self.mlp._optimizer = replace(known, rule=replace(known.rule, lr=lr))


class MLPClassifier(_Perceptron, peer.MLPClassifier):
    """sklearn.neural_network.MLPClassifier computed by bpcore: same parameters, attributes and methods.

    One output with `logistic` for two classes, one for each label of a multilabel y, else `softmax`; the log-loss,
    summed over labels.  See the module for what differs.  Threads: `bp.set_num_threads`, any number, same bits.
    """


class MLPRegressor(_Perceptron, peer.MLPRegressor):
    """sklearn.neural_network.MLPRegressor computed by bpcore: same parameters, attributes and methods.

    See the module for what differs.  Threads: `bp.set_num_threads`, any number, same bits.
    """
