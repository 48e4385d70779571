"""Estimators for scikit-learn, 1.7 or later: NetClassifier and NetRegressor are bpcore's own, any network behind fit
and predict; MLPClassifier and MLPRegressor are scikit-learn's, trained and run by bpcore.

The latter inherit what scikit-learn's classes say and check (parameters, labels, attributes, scores) and replace what
computes.  From the same `random_state` they draw the same weights, splits and orders of rows, so the numbers are
scikit-learn's up to rounding.  What differs:

- Nothing dense is made of a sparse X; CSC is copied to CSR.
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
from bpcore import _core, _data, _errors, _training, _validate
from bpcore._arrays import copied
from bpcore._callbacks import State
from bpcore._data import Data
from bpcore._history import History

try:
    import sklearn
    import sklearn.neural_network as peer
    from sklearn.base import is_classifier
    from sklearn.exceptions import ConvergenceWarning, InconsistentVersionWarning
    from sklearn.metrics import r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.utils.optimize import _check_optimize_result
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(
        f"bpcore.sklearn needs scikit-learn 1.7 or later ({error}); pip install -U scikit-learn"
    ) from error

from bpcore import _searches
from bpcore._searches import GridSearchCV, RandomizedSearchCV
from bpcore._sklearn_classifier import NetClassifier
from bpcore._sklearn_regressor import NetRegressor

__all__ = [
    "BpcoreVersionWarning", "GridSearchCV", "MLPClassifier", "MLPRegressor", "NetClassifier", "NetRegressor",
    "RandomizedSearchCV",
]  # fmt: skip

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


def _csr(X: Any) -> Any:
    """A sparse X by rows, checked; a dense one as it is."""
    return _validate.csr("X", X) if scipy.sparse.issparse(X) else X


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


class _Perceptron(_searches.Trained):
    """What replaces scikit-learn's computations; the classes of scikit-learn follow in the order of bases."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def _network(self, fresh: bool = False) -> bp.Network:
        """The network of which coefs_ and intercepts_ are views, also after they were assigned or unpickled; a `fresh`
        one has no memory of an optimiser."""
        known: Any = getattr(self, "_net", ((None, ()), None))
        (functions, views), net = known
        asked, held = (self.activation, self.out_activation_), (*self.coefs_, *self.intercepts_)
        if not fresh and functions == asked and len(views) == len(held) and all(map(operator.is_, views, held)):
            return net
        dtype, shapes = np.result_type(np.float32, *self.coefs_), [W.shape for W in self.coefs_]
        if fresh or functions != asked or net.dtype != dtype or [W.shape for W in _weights(net)[0]] != shapes:
            activations = [self.activation] * (len(shapes) - 1) + [self.out_activation_]
            layers = [bp.Dense(n, f, init="zeros") for (_, n), f in zip(shapes, activations, strict=True)]
            net = bp.Network([bp.Input(shapes[0][0]), *layers], dtype=dtype)
        for arrays, views in zip((self.coefs_, self.intercepts_), _weights(net), strict=True):
            for i, view in enumerate(views):
                if arrays[i] is not view:
                    view[...] = arrays[i]
                    arrays[i] = view
        self._net = (asked, (*self.coefs_, *self.intercepts_)), net
        return net

    def _data(self, X: Any, y: np.ndarray) -> tuple[Any, np.ndarray, str]:
        """X, y and the loss, as bpcore takes them."""
        if self.out_activation_ == "softmax":
            return X, y.argmax(axis=1), "cross_entropy"
        if self.out_activation_ == "logistic":
            return X, y, "binary_cross_entropy"
        if self.out_activation_ == "identity":
            return X, y, "squared_error"
        if y.min() < 0:
            raise ValueError(f"y: expected numbers from 0 with loss='poisson', got {y.min()}")
        return X, y.astype(np.float64), "poisson"

    def _own_losses(self, y: np.ndarray) -> np.ndarray | float:
        """What scikit-learn adds to each row's loss, whatever the answer: it has half the Poisson deviance."""
        return (xlogy(y, y) - y).sum(axis=1) if self.out_activation_ == "exp" else 0.0

    def _loss_units(self) -> int:
        """By how much scikit-learn divides the loss: it takes the mean of squared errors over outputs, else the sum."""
        return self.n_outputs_ if self.out_activation_ == "identity" else 1

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> np.ndarray:
        """(n, n_outputs_) in the dtype of coefs_."""
        net = self._network()
        if check_input:
            # scikit-learn's checks take longer than the answers for an array of which nothing is left to check
            if not hasattr(self, "feature_names_in_") and _core.ready(X, self.n_features_in_, net.dtype):
                with net._model.reading() as model:
                    return _data.predict(model, [X], bp.get_num_threads())[0]
            X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
        return net.predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """As scikit-learn's."""
        return self._predict(X) if hasattr(self, "coefs_") else super().predict(X)  # type: ignore[misc]

    def _score(self, X: Any, y: np.ndarray, sample_weight: Any = None) -> float:
        """Accuracy or R^2 of an epoch, without the checks of scikit-learn's metrics; NaN where training diverged."""
        answers = self._predict(X, check_input=False)
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            return float("nan")
        if is_classifier(self):
            right = y == answers
            return float(np.average(right if y.ndim == 1 else right.all(axis=1), weights=sample_weight))
        y, answers = y.reshape(len(y), -1), answers.reshape(len(y), -1)
        errors, moments = (
            np.average(np.square(y - other, dtype=np.float64), axis=0, weights=sample_weight)
            for other in (answers, np.average(y, axis=0, weights=sample_weight))
        )
        if not moments.all():  # a constant target: scikit-learn says what that scores
            return float(r2_score(y, answers, sample_weight=sample_weight))
        return float(1 - (errors / moments).mean())

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
        with _named():
            training = _Training(self, net, rule, X, y, sample_weight, validation, incremental)
        if known:
            _keep_velocity(net, known.rule, rule)
        self.n_iter_ = 0
        self._optimizer = _Optimizer(given, rule)
        try:
            _searches.train_loop(training)
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
        (functions, views), net = state.get("_net", ((None, ()), None))
        held = [*state.get("coefs_", ()), *state.get("intercepts_", ())]
        if net is not None and len(views) == len(held) and all(map(operator.is_, views, held)):
            del state["coefs_"], state["intercepts_"]  # the network has them
        if net is not None:
            state["_net"] = (functions, ()), net
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
        if "_net" in state:
            (*_, net) = state["_net"]
            if "coefs_" not in state:
                state["coefs_"], state["intercepts_"] = _weights(net)
            if len(state["_net"][0]) != 2:  # of a version that knew it by other things
                del state["_net"]
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
        own, n_threads, alpha = self._own_losses(y), bp.get_num_threads(), float(self.alpha)
        data = Data(net._model, *self._data(X, y), sample_weight, check_finite=False)
        alpha /= data.n if sample_weight is None else sample_weight.sum()
        own = float(np.average(own, weights=sample_weight)) if np.ndim(own) else 0.0
        units = self._loss_units()
        seen: list[float] = []

        trial = copied(net.theta)

        def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
            trial[:] = theta
            value, gradient, _ = data.gradient(net._model, n_threads, trial, alpha)
            return value + own, gradient

        def show(intermediate_result: Any) -> None:
            net.theta[:] = intermediate_result.x
            seen.append(intermediate_result.fun)
            if self.verbose:
                print(f"Iteration {len(seen)}, loss = {in_units(intermediate_result):.8f}")

        def in_units(result: Any) -> float:
            penalty = 0.5 * alpha * sum(np.square(W).sum() for W in self.coefs_)
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


def _keep_velocity(net: bp.Network, before: bp.SGD | bp.Adam, after: bp.SGD | bp.Adam) -> None:
    """scikit-learn's velocity is lr times that of bpcore, and keeps its size when lr changes."""
    if isinstance(before, bp.SGD) and before.lr != after.lr:
        for velocity in net._model.memory.states:
            velocity *= before.lr / after.lr  # type: ignore[operator]


def _shuffled(order: np.ndarray, random_state: np.random.RandomState) -> np.ndarray:
    """What sklearn.utils.shuffle gives, and draws."""
    picked = np.arange(len(order))
    random_state.shuffle(picked)
    return order[picked]


class _Training(_training.Loop):
    """scikit-learn's epochs, each in C as a whole: what it computes before a batch are numbers by step.

    The loss of a batch has alpha/2 |W|^2 / s, s being its rows or the sum of their weights: l2 is alpha / s.  In Adam,
    epsilon is added to the root of the uncorrected variance: eps is epsilon / sqrt(1 - beta_2^t).
    """

    watches = True

    def __init__(
        self,
        mlp: Any,
        net: bp.Network,
        rule: bp.SGD | bp.Adam,
        X: Any,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        validation: tuple[Any, Any, Any],
        incremental: bool,
    ) -> None:
        self.mlp, self.held_out, self.incremental = mlp, validation, incremental
        self.sample_weight, self.own, self.units = sample_weight, mlp._own_losses(y), mlp._loss_units()
        X, y, loss = mlp._data(X, y)
        data = Data(net._model, X, y, loss, sample_weight, check_finite=False)
        batch = min(200 if mlp.batch_size == "auto" else mlp.batch_size, data.n)
        call = _training.check(
            net._model,
            State(net, History()),
            data,
            None,
            {},
            optimizer=rule,
            epochs=1 if incremental else min(mlp.max_iter, 2**31),
            batch_size=batch,
            shuffle=False,
            callbacks=(),
            metrics=(),
            train_metrics=False,
            seed=None,
            verbose=0,
            l2=float(mlp.alpha),
            standardize_y=False,
            mixup=0.0,
        )
        self.permuted = np.arange(data.n)
        self.firsts = np.arange(0, data.n, batch)
        self.rows = np.diff(self.firsts, append=data.n)
        self.l2 = self._l2()
        super().__init__(call, bp.get_num_threads())
        self.losses = np.empty((len(self.rows), 3))  # by batch, see _core.Run.batch_losses
        self.run.batch_losses(self.losses)

    def _l2(self) -> Any:
        """Of each step of an epoch in this order; a batch without weight makes none."""
        sizes = self.rows
        if self.sample_weight is not None:
            sizes = np.add.reduceat(self.sample_weight[self.permuted], self.firsts, dtype=np.float64)
        l2 = np.zeros(len(sizes))
        l2[: np.count_nonzero(sizes)] = self.mlp.alpha / sizes[sizes > 0]
        return l2

    def _numbers(self, memory: Any, first: int) -> dict[str, Any]:
        numbers = super()._numbers(memory, first)
        if self.call.l2:
            numbers["l2"] = self.l2
        if isinstance(memory.optimizer, bp.Adam):
            t = np.arange(first + 1, first + 1 + len(self.rows))
            numbers["eps"] = numbers["eps"] / np.sqrt(1 - numbers["beta2"] ** t)
        return numbers

    def next_order(self) -> np.ndarray | None:
        """As scikit-learn draws it."""
        if not self.mlp.shuffle:
            return None
        self.permuted = _shuffled(self.permuted, self.mlp._random_state)
        return self.permuted

    def begin_epoch(self, order: np.ndarray | None) -> None:
        """With the numbers of its steps."""
        if self.sample_weight is not None:
            self.l2 = self._l2()
        self._use(self._memory_now(), self.run.updates())
        super().begin_epoch(order)

    def _log_epoch(self, seconds: float) -> None:
        self.model.epoch += 1
        self.epochs_left -= 1

    def _loss(self) -> float:
        """Of the epoch: the mean over rows of the losses of their batches, of which those without weight have none."""
        some = self.losses[:, 1] > 0
        loss, weight, penalty = self.losses[some].T
        batches = (loss / weight - penalty) / self.units + penalty
        if np.ndim(self.own):
            w = np.ones(len(self.permuted)) if self.sample_weight is None else self.sample_weight
            order = self.permuted
            batches += np.add.reduceat((w * self.own)[order], self.firsts)[some] / weight
        return float((batches * self.rows[some]).sum() / self.data.n)

    def end_epoch(self) -> None:
        """The curve, the rate, and whether to stop."""
        mlp = self.mlp
        self.count_epoch(self._loss())
        with np.errstate(over="ignore", invalid="ignore"):  # the score says it
            mlp._update_no_improvement_count(mlp.early_stopping, *self.held_out)
        if mlp.early_stopping and np.isnan(mlp.validation_scores_[-1]):
            self.warn_diverged()
            self.state.stop()
            return
        if mlp.solver == "sgd" and mlp.learning_rate == "invscaling":
            self.set_rate(mlp.learning_rate_init / (mlp.t_ + 1) ** mlp.power_t)
        if mlp._no_improvement_count > mlp.n_iter_no_change:
            self.no_improvement()
        if self.state.stopped or self.incremental:
            return
        if mlp.n_iter_ == mlp.max_iter:
            _errors.warn(
                f"Stochastic Optimizer: Maximum iterations ({mlp.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                ("bpcore", "sklearn"),
            )

    def count_epoch(self, loss: float) -> None:
        """Adds an epoch to the curve."""
        mlp = self.mlp
        mlp.n_iter_ += 1
        mlp.t_ += self.data.n
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

    def no_improvement(self) -> None:
        """Stops, or divides the rate by five."""
        mlp = self.mlp
        what = "Validation score" if mlp.early_stopping else "Training loss"
        message = f"{what} did not improve more than tol={mlp.tol:f} for {mlp.n_iter_no_change} consecutive epochs."
        lr = mlp._optimizer.learning_rate
        if mlp.solver != "sgd" or mlp.learning_rate != "adaptive" or lr <= SMALLEST_LR:
            small = " Learning rate too small." if lr <= SMALLEST_LR else ""
            if mlp.verbose:
                print(f"{message}{small} Stopping.")
            self.state.stop()
            return
        self.set_rate(lr / 5)
        mlp._no_improvement_count = 0
        if mlp.verbose:
            print(f"{message} Setting learning rate to {lr / 5:f}")

    def set_rate(self, lr: float) -> None:
        """Of the next epochs."""
        known = self.mlp._optimizer
        rule = replace(known.rule, lr=lr)
        _keep_velocity(self.state.net, known.rule, rule)
        self.memory = self.memory._replace(optimizer=rule)
        self.mlp._optimizer = replace(known, rule=rule)


class MLPClassifier(_Perceptron, peer.MLPClassifier):
    """sklearn.neural_network.MLPClassifier computed by bpcore: same parameters, attributes and methods.

    One output with `logistic` for two classes, one for each label of a multilabel y, else `softmax`; the log-loss,
    summed over labels.  See the module for what differs.  Threads: `bp.set_num_threads`, any number, same bits.
    """

    def _predict(self, X: Any, check_input: bool = True) -> np.ndarray:
        answers = self._forward_pass_fast(X, check_input)
        if self.out_activation_ == "softmax":
            return self.classes_.take(answers.argmax(axis=1))
        if self._label_binarizer.y_type_ == "binary" and len(self.classes_) == 2:
            return self.classes_.take(answers[:, 0] > 0.5)
        return self._label_binarizer.inverse_transform(answers if self.n_outputs_ > 1 else answers.ravel())

    def predict_proba(self, X: Any) -> np.ndarray:
        """As scikit-learn's."""
        if not hasattr(self, "coefs_"):
            return super().predict_proba(X)
        answers = self._forward_pass_fast(X)
        return np.concatenate([1 - answers, answers], axis=1) if self.n_outputs_ == 1 else answers


class MLPRegressor(_Perceptron, peer.MLPRegressor):
    """sklearn.neural_network.MLPRegressor computed by bpcore: same parameters, attributes and methods.

    See the module for what differs.  Threads: `bp.set_num_threads`, any number, same bits.
    """
