"""bpcore: the timed region of Train is fit() itself. A variant is the backend of products; or "apart": many networks
one after the other instead of by fit_many, or by Ensemble; or "one": the first of them alone."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters import Prediction, Spec

VARIANTS = ("", "blas", "native", "apart", "one")
bp: Any  # imported by load, after the environment
_variant = ""


def load(threads: int, variant: str) -> dict[str, str]:
    global bp, _variant
    _variant = variant
    if variant in ("blas", "native"):
        os.environ["BPCORE_BACKEND"] = variant
    import bpcore as bp

    bp.set_num_threads(threads)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        bp.show_config()
    return {"bpcore": bp.__version__, "scipy": importlib.metadata.version("scipy"), "config": shown.getvalue()}


def network(spec: Spec) -> Any:
    last = "logistic" if spec.sizes[-1] == 1 else "softmax"
    hidden = [bp.Dense(units, spec.activation) for units in spec.sizes[1:-1]]
    return bp.Network([bp.Input(spec.sizes[0]), *hidden, bp.Dense(spec.sizes[-1], last)], dtype=spec.dtype)


def optimizer(spec: Spec) -> Any:
    if spec.optimizer == "schedule_free":
        return bp.ScheduleFree(bp.AdamW(lr=spec.lr))
    sgd = {"sgd": {}, "momentum": {"momentum": 0.9}, "clipped": {"momentum": 0.9, "clip_norm": 1.0}}
    if spec.optimizer in sgd:
        return bp.SGD(lr=spec.lr, **sgd[spec.optimizer])
    kinds = {kind.__name__.lower(): kind for kind in (bp.Adam, bp.AdamW, bp.Nadam, bp.Adamax, bp.RMSprop, bp.Adagrad,
                                                      bp.Adadelta, bp.Lion)}  # fmt: skip
    return kinds[spec.optimizer](lr=spec.lr)


class Train:
    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray) -> None:
        self.spec, self.start, self.X, self.y = spec, theta, X, y
        self.optimizer = optimizer(spec)
        self.reset()

    def reset(self) -> None:
        self.net = network(self.spec)
        self.net.theta = self.start

    def run(self, epochs: int) -> list[float]:
        history = self.net.fit(
            self.X,
            self.y,
            optimizer=self.optimizer,
            epochs=epochs,
            batch_size=self.spec.batch,
            shuffle=False,
            n_threads=bp.get_num_threads(),
        )
        return history.loss


class Many:
    """By fit_many, or one after the other by fit."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray) -> None:
        self.spec, self.theta, self.X, self.y = spec, theta, X, y
        self.reset()

    def reset(self) -> None:
        first = network(self.spec)
        self.nets = [first.copy() for _ in self.theta]
        for net, theta in zip(self.nets, self.theta, strict=True):
            net.theta = theta

    def run(self, epochs: int) -> list[list[float]]:
        settings = {"optimizer": optimizer(self.spec), "epochs": epochs, "batch_size": self.spec.batch}
        settings |= {"shuffle": False, "n_threads": bp.get_num_threads()}
        if _variant == "apart":
            histories = [net.fit(self.X, self.y, **settings) for net in self.nets]
        else:
            histories = bp.fit_many(self.nets, self.X, self.y, **settings)
        return [list(losses) for losses in zip(*(history.loss for history in histories), strict=True)]


class Predict(Prediction):
    """A predictor; a single row is given as a vector."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        net = network(spec)
        net.theta = theta
        self.answer = net.predictor()
        self.x = X[0] if len(X) == 1 else X


class Ensemble(Prediction):
    """A predictor of many members, theta (K, n_params): their mean, or with `spread` (mean, standard deviation)."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, spread: bool) -> None:
        first = network(spec)
        nets = [first.copy() for _ in theta]
        for net, own in zip(nets, theta, strict=True):
            net.theta = own
        self.x = X[0] if len(X) == 1 else X
        together = bp.Ensemble(nets).predictor()
        answers = [net.predictor() for net in nets]

        def apart(x: NDArray) -> Any:
            each = [answer(x) for answer in answers]
            mean = np.mean(each, axis=0, dtype=np.float64).astype(spec.dtype)
            return (mean, np.std(each, axis=0, dtype=np.float64).astype(spec.dtype)) if spread else mean

        ways: dict[str, Any] = {
            "": (lambda x: together(x, spread=True)) if spread else together,
            "apart": apart,
            "one": answers[0],
        }
        self.answer = ways[_variant]


class Jacobian(Prediction):
    """Of the outputs by the inputs."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        *inside, n_out = spec.sizes[1:]
        layers = [bp.Input(spec.sizes[0]), *(bp.Dense(n, spec.activation) for n in inside), bp.Dense(n_out)]
        net = bp.Network(layers, dtype=spec.dtype)
        net.theta = theta
        self.answer, self.x = net.jacobian, X


class Gradient:
    """All gradients of one batch, by backpropagation or by one of the naive ways of bpcore.debug."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray, method: str) -> None:
        self.net = network(spec)
        self.net.theta = theta
        self.X, self.y = X, y
        ways: dict[str, Any] = {
            "backpropagation": lambda net, X, y: net.value_and_grad(X, y)[1],
            "jacobians forwards": bp.debug.naive_forward_accumulation,
            "one perturbation a weight": bp.debug.perturbation,
        }
        self.way = ways[method]

    def reset(self) -> None:
        """A gradient leaves the network as it was."""

    def run(self, count: int) -> NDArray:
        for _ in range(count):
            gradient = self.way(self.net, self.X, self.y)
        return np.array(gradient)


class Call:
    """A method of 4-16-3, called again and again on 16 rows, `predict` and `predictor` on one."""

    def __init__(self, method: str) -> None:
        net = network(Spec((4, 16, 3), 16))
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((16, 4)).astype(np.float32), rng.integers(3, size=16)
        answer, row = net.predictor(), X[0]
        ways: dict[str, Any] = {
            "fit": lambda: net.fit(X, y, batch_size=16).loss[0],
            "value_and_grad": lambda: net.value_and_grad(X, y)[0],
            "evaluate": lambda: net.evaluate(X, y)["loss"],
            "predict": lambda: net.predict(X[:1])[0, 0],
            "predictor": lambda: answer(row)[0],
        }
        self.way = ways[method]

    def reset(self) -> None:
        """Calls go on with the network as it is."""

    def run(self, count: int) -> list[float]:
        return [float(self.way()) for _ in range(count)]


class Graph:
    """A case of bench/graphs: its network, trained by fit."""

    def __init__(self, case: str, params: dict[str, NDArray], X: Any, y: Any, optimizer: str = "sgd") -> None:
        self.case, self.params, self.X, self.y = importlib.import_module(f"graphs.{case}"), params, X, y
        self.optimizer = bp.SGD(lr=self.case.LR) if optimizer == "sgd" else bp.Adam()
        self.reset()

    def reset(self) -> None:
        self.net = self.case.bpcore(bp)
        for name, p in self.params.items():
            self.net.params[name][...] = p

    def run(self, epochs: int) -> list[float]:
        history = self.net.fit(
            self.X,
            self.y,
            loss=getattr(self.case, "LOSS", "auto"),
            optimizer=self.optimizer,
            epochs=epochs,
            batch_size=self.case.BATCH,
            shuffle=False,
            n_threads=bp.get_num_threads(),
        )
        return history.loss
