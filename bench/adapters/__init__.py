"""One file a library, and what such a file must hold.

An adapter is a module `NAME_.py` in this folder (the underscore keeps it apart from the library). It is
imported in a worker process of its own, after the environment and the CPU affinity have fixed the number of
threads; the harness times that and `load` together as the import time. The library is imported at the top, or
in `load` where a variant must set something first. It holds:

    VARIANTS = ("", ...)            what may follow the name: "torch" is "", "torch:compile" is "compile"

    def load(threads, variant):     set the library's threads by its own call; return {name: version}

    class Train:                    one class a task; bench_epoch asks for Train
        def __init__(self, spec, theta, X, y): ...
        def reset(self): ...        start weights and optimiser state again
        def run(self, epochs): ...  train so many epochs; return the list of their losses

The harness calls `reset`, then times `run(count)` alone; another benchmark adds a class with the same `reset`
and `run(count)` under another name (Predict, Gradient, ...), and the harness stays as it is.

`Train` is given float arrays of `spec.dtype`: X (n, sizes[0]), theta (n_params,) and y, integer labels (n,)
for two or more outputs (softmax, cross-entropy), zeros and ones (n, 1) for one output (logistic, binary
cross-entropy). theta holds, layer by layer, W in C order as [in, out], then b. The hidden units have
`spec.activation`. Batch k is rows k*batch to (k+1)*batch of X, the same in every epoch; n is a multiple of
batch. The loss of an epoch is the mean over its batches as they were trained.

`spec.optimizer` is "sgd", "adam", or for bench_optimizers one of its list, with PyTorch's settings but for lr, and
decay of weights alone. A library that does not have it raises KeyError.

`Many` (bench_many) is given what `Train` is, with theta (K, n_params), the start weights of K networks; `run` returns
for each epoch the list of their losses.

`Predict` (bench_predict), a `Prediction`, is given spec, theta and X (rows, sizes[0]); `run(count)` answers X so
many times and returns the last answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Spec:
    """A network and how it is trained."""

    sizes: tuple[int, ...]
    batch: int
    activation: str = "relu"
    optimizer: str = "sgd"
    lr: float = 0.01
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return "-".join(map(str, self.sizes)) + f"/{self.batch}"

    @property
    def n_params(self) -> int:
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.sizes))

    @property
    def flops(self) -> int:
        """Multiplications and additions in the matrix products of one training sample.

        2 n_in n_out in a layer's forward, its gradient, and, but for the first, backward to the input.
        """
        products = [2 * n_in * n_out for n_in, n_out in pairwise(self.sizes)]
        return 3 * sum(products) - products[0]


def blocks(theta: NDArray, sizes: tuple[int, ...]) -> list[NDArray]:
    """Views of theta, one a layer: (n_in + 1, n_out), W as [in, out] above b."""
    views, start = [], 0
    for n_in, n_out in pairwise(sizes):
        stop = start + (n_in + 1) * n_out
        views.append(theta[start:stop].reshape(n_in + 1, n_out))
        start = stop
    return views


def weights(theta: NDArray, sizes: tuple[int, ...]) -> list[tuple[NDArray, NDArray]]:
    """Views of theta: (W as [in, out], b) of each layer."""
    return [(Wb[:-1], Wb[-1]) for Wb in blocks(theta, sizes)]


class Prediction:
    """What every Predict shares; its __init__ sets x, in the library's own kind of array, and answer."""

    x: Any
    answer: Callable[[Any], Any]

    def reset(self) -> None:
        """A prediction leaves the network as it was."""

    def run(self, count: int) -> NDArray:
        answer, x = self.answer, self.x
        for _ in range(count):
            predicted = answer(x)
        return np.asarray(predicted)


def start_weights(spec: Spec, seed: int) -> NDArray:
    """He's weights for ReLU, Glorot's else; zero biases."""
    rng = np.random.default_rng(seed)
    theta = np.zeros(spec.n_params, spec.dtype)
    for Wb in blocks(theta, spec.sizes):
        n_in, n_out = Wb.shape[0] - 1, Wb.shape[1]
        deviation = np.sqrt(2 / n_in if spec.activation == "relu" else 2 / (n_in + n_out))
        Wb[:-1] = deviation * rng.standard_normal((n_in, n_out))
    return theta
