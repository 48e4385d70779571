"""PyTorch: an eager loop, or ("compile") the whole step as one compiled graph; "jit" predicts by a frozen trace.
The eager loop's optimiser is fused where PyTorch has it so, or ("foreach") goes over lists of tensors.

The loss stays a tensor until the end of the epoch. compile's step is written functionally, for a graph that holds
forward, backward and update together, and called from C++.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from adapters import Prediction, Spec, weights

VARIANTS = ("", "compile", "foreach", "jit")
OPTIMIZERS: dict[str, tuple[Any, dict[str, float]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.01}),
    "nadam": (torch.optim.NAdam, {}),
    "adamax": (torch.optim.Adamax, {}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
}
FUSED = ("sgd", "momentum", "adam", "adamw", "adagrad")
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}
Tensor = torch.Tensor
Step = Callable[[Tensor, Tensor], Tensor]
UNROLLED = 8  # small batches in a compiled graph: so many pay for one call
UNROLLED_FLOPS = 1e7  # of a larger batch one a graph is as fast, and compiled in a third of the time
_variant = ""


def load(threads: int, variant: str) -> dict[str, str]:
    global _variant
    _variant = variant
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)
    return {"torch": torch.__version__, "config": torch.__config__.show()}


def parameters(theta: NDArray, spec: Spec) -> list[Tensor]:
    """W as [out, in], b, W, b, ..."""
    pairs = weights(theta, spec.sizes)
    return [torch.tensor(np.ascontiguousarray(array.T)) for pair in pairs for array in pair]


def logits(params: list[Tensor], x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    *hidden, last = zip(params[::2], params[1::2], strict=True)
    for W, b in hidden:
        x = activation(F.linear(x, W, b))
    return F.linear(x, *last)


class Train:
    def __init__(self, spec: Spec, theta: NDArray, X: NDArray, y: NDArray) -> None:
        self.spec = spec
        self.start = self.first(theta)
        self.params = [p.clone() for p in self.start]
        self.activation = ACTIVATIONS[spec.activation]
        self.criterion = F.binary_cross_entropy_with_logits if spec.sizes[-1] == 1 else F.cross_entropy
        compiled = _variant == "compile"
        rows = spec.batch * (UNROLLED if compiled and spec.flops * spec.batch < UNROLLED_FLOPS else 1)
        unrolled = len(X) // rows * rows  # what is left goes one by one: 7 batches would be one more long compilation
        cuts = [*range(0, unrolled, rows), *range(unrolled, len(X), spec.batch), len(X)]
        self.batches = [(torch.from_numpy(X[i:j]), torch.from_numpy(y[i:j])) for i, j in pairwise(cuts)]
        self.step = self.compiled() if compiled else self.eager()

    def first(self, theta: NDArray) -> list[Tensor]:
        """Start weights."""
        return parameters(theta, self.spec)

    def loss(self, params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self.criterion(logits(params, x, self.activation), y)

    def eager(self) -> Step:
        for p in self.params:
            p.requires_grad_()
        kind, settings = OPTIMIZERS[self.spec.optimizer]
        fused = _variant != "foreach" and self.spec.optimizer in FUSED
        settings = {**settings, "lr": self.spec.lr, "fused" if fused else "foreach": True}
        weights_and_biases = [{"params": self.params[::2]}, {"params": self.params[1::2], "weight_decay": 0.0}]
        self.optimizer: Any = kind(weights_and_biases if "weight_decay" in settings else self.params, **settings)

        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = self.loss(self.params, x, y)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.detach()[None]

        return step

    def gradient(self) -> Callable[..., Any]:
        """(gradients, loss) of parameters and a batch."""
        return torch.func.grad_and_value(self.loss)

    def functional(self) -> Step:
        """Steps over the batches that X and Y hold, each a function of the parameters, which it moves."""
        params, lr, gradient = self.params, self.spec.lr, self.gradient()
        self.m, self.v = ([torch.zeros_like(p) for p in params] for _ in "mv")
        self.powers = torch.ones(2, dtype=torch.float64)  # beta1^t, beta2^t
        betas = torch.tensor([0.9, 0.999], dtype=torch.float64)

        def sgd(x: Tensor, y: Tensor) -> Tensor:
            grads, loss = gradient(params, x, y)
            for p, g in zip(params, grads, strict=True):
                p.sub_(lr * g)
            return loss

        def adam(x: Tensor, y: Tensor) -> Tensor:
            grads, loss = gradient(params, x, y)
            self.powers.mul_(betas)
            unbias1, unbias2 = (1 - self.powers).to(x.dtype)
            for p, g, m, v in zip(params, grads, self.m, self.v, strict=True):
                m.lerp_(g, 0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                p.sub_(lr / unbias1 * m / ((v / unbias2).sqrt() + 1e-8))
            return loss

        step = {"sgd": sgd, "adam": adam}[self.spec.optimizer]

        def steps(X: Tensor, Y: Tensor) -> Tensor:
            batches = zip(X.split(self.spec.batch), Y.split(self.spec.batch), strict=True)
            return torch.stack([step(x, y) for x, y in batches])

        return steps

    def compiled(self) -> Step:
        torch._dynamo.reset()
        return torch.compile(self.functional(), fullgraph=True, dynamic=False, options={"cpp_wrapper": True})

    def reset(self) -> None:
        with torch.no_grad():
            for p, start in zip(self.params, self.start, strict=True):
                p.copy_(start)
            if hasattr(self, "optimizer"):
                self.optimizer.state.clear()
                return
            for state in [*self.m, *self.v]:
                state.zero_()
            self.powers.fill_(1)

    def run(self, epochs: int) -> list[Any]:
        return [self.epoch() for _ in range(epochs)]

    def epoch(self) -> Any:
        step = self.step
        return torch.cat([step(x, y) for x, y in self.batches]).mean(0).tolist()


class Many(Train):
    """Networks stacked, the gradient mapped over them (torch.func.vmap)."""

    def first(self, theta: NDArray) -> list[Tensor]:
        each = [parameters(one, self.spec) for one in theta]
        return [torch.stack(parts) for parts in zip(*each, strict=True)]

    def gradient(self) -> Callable[..., Any]:
        return torch.func.vmap(super().gradient(), in_dims=(0, None, None))

    def eager(self) -> Step:
        return self.functional()


class Predict(Prediction):
    """From a tensor to a tensor, in inference mode."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        params, activation = parameters(theta, spec), ACTIVATIONS[spec.activation]
        self.x = torch.from_numpy(X)

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.params = torch.nn.ParameterList(params)

            def forward(self, x: Tensor) -> Tensor:
                z = logits(list(self.params), x, activation)
                return z.sigmoid() if spec.sizes[-1] == 1 else z.softmax(1)

        net: Any = Net().eval().requires_grad_(False)
        if _variant == "jit":
            net = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, self.x)))
        elif _variant == "compile":
            net = torch.compile(net, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
        self.answer = net

    def run(self, count: int) -> NDArray:
        with torch.inference_mode():
            return super().run(count)


class Jacobian(Prediction):
    """torch.func: vmap of jacrev."""

    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        params, activation = [p.detach() for p in parameters(theta, spec)], ACTIVATIONS[spec.activation]
        self.x = torch.from_numpy(X)
        self.answer = torch.func.vmap(torch.func.jacrev(lambda x: logits(params, x, activation)))


class Graph:
    """A case of bench/graphs, with plain SGD: an eager loop, or ("compile") a step as one compiled graph."""

    def __init__(self, case: str, params: dict[str, NDArray], X: Any, y: Any) -> None:
        self.case = importlib.import_module(f"graphs.{case}")
        self.start = {name: torch.tensor(p) for name, p in self.case.torch_params(params).items()}
        self.params = {name: p.clone() for name, p in self.start.items()}
        parts = X if isinstance(X, dict) else {"": X}
        columns = [torch.from_numpy(part).split(self.case.BATCH) for part in (*parts.values(), y)]
        self.batches = [
            (dict(zip(parts, x, strict=True)) if isinstance(X, dict) else x[0], y)
            for *x, y in zip(*columns, strict=True)
        ]
        self.step = self.compiled() if _variant == "compile" else self.eager()

    def eager(self) -> Callable[[Any, Tensor], Tensor]:
        for p in self.params.values():
            p.requires_grad_()
        optimizer = torch.optim.SGD(self.params.values(), lr=self.case.LR, fused=True)

        def step(x: Any, y: Tensor) -> Tensor:
            loss = self.case.torch_loss(self.params, x, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return step

    def compiled(self) -> Callable[[Any, Tensor], Tensor]:
        gradient = torch.func.grad_and_value(self.case.torch_loss)

        def step(x: Any, y: Tensor) -> Tensor:
            grads, loss = gradient(self.params, x, y)
            for name, p in self.params.items():
                p.sub_(self.case.LR * grads[name])
            return loss

        torch._dynamo.reset()
        return torch.compile(step, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})

    def reset(self) -> None:
        with torch.no_grad():
            for name, start in self.start.items():
                self.params[name].copy_(start)

    def run(self, epochs: int) -> list[float]:
        step = self.step
        return [float(torch.stack([step(x, y) for x, y in self.batches]).mean()) for _ in range(epochs)]
