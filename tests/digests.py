"""Bits of what bpcore computes, as digests: two builds, two numbers of threads or two instruction sets agree or do not.

    python tests/digests.py --all > before     # "case optimiser threads isa digest", then build, again, and diff
    python tests/digests.py --check            # compares this build with the record: small cases, 2 threads
    python tests/digests.py --record           # writes digests.json, which test_digests.py compares with

A training case digests theta and some predictions after its steps (200; fewer where a step is large: 4 of
2048-2048-2048-1000), another case what it names; of losses only evaluate's, of squared and absolute errors.  Data and
first weights are uniform draws of Philox, scaled by operations that round alike everywhere, so no version of NumPy or
the C library shows.  digests.json has what agrees on every processor with fused multiply-add, whatever compiled
bpcore; gradients of convolutions of few filters are recorded by instruction set.
--all walks all instruction sets of the machine, on 1 and 2 threads as they come and on 3 where everything is parallel
(BPCORE_PARALLEL=always); the large cases only with fused multiply-add.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import bpcore as bp
from bpcore import _core

RECORD = Path(__file__).with_suffix(".json")
FUSED = ("avx512", "avx2", "neon")  # these have the same bits
OPTIMIZERS: dict[str, Callable[[float], Any]] = {
    "sgd": lambda lr: bp.SGD(lr=lr),
    "momentum": lambda lr: bp.SGD(lr=lr, momentum=0.9),
    "nesterov": lambda lr: bp.SGD(lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda lr: bp.Adam(lr=lr / 10),
}
USUAL = ("sgd", "momentum")
PREDICTED = 40  # rows
PURPOSE = 1986  # first word of Philox's counter: nothing in bpcore draws with it


# ---- exact numbers ----


def reals(shape: Sequence[int], seed: int, limit: float = 1.0) -> np.ndarray:
    """Between -limit and limit, in float64."""
    return ((2 * _core.uniform(math.prod(shape), seed, PURPOSE) - 1) * limit).reshape(shape)


def numbers(shape: Sequence[int], n: int, seed: int) -> np.ndarray:
    """Whole numbers 0 to n - 1."""
    return np.floor(_core.uniform(math.prod(shape), seed, PURPOSE) * n).astype(np.int64).reshape(shape)


def set_weights(net: Any) -> Any:
    """Every parameter uniform: matrices in Glorot's limits, vectors within 1/8."""
    for i, p in enumerate(net.params.values()):
        limit = math.sqrt(6 / (math.prod(p.shape[:-1]) + p.shape[-1])) if p.ndim > 1 else 0.125
        p[...] = reals(p.shape, 1000 + i, limit)
    return net


def rows_of(net: Any, n: int) -> tuple[Any, Any]:
    """X of norm 5 at most and y, for a network of one input and one output; classes for more than one number."""
    (shape,), (out,) = net.inputs.values(), net.outputs.values()
    X = reals((n, *shape), 1, min(1.0, 8 / math.sqrt(shape[-1])))
    return X, numbers((n,), out[-1], 2) if out[-1] > 1 else numbers((n, 1), 2, 2)


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """A network, and what of it is digested."""

    make: Callable[[], Any]
    data: Callable[[Any, int], tuple[Any, Any]] = rows_of
    batch: int | None = 32  # None: all rows
    steps: int = 200
    an_epoch: int = 8  # steps; the last of them is on three quarters of a batch where there is shuffling
    rows: int = 0  # where batch is None
    lr: float = 0.01
    settings: dict[str, Any] = field(default_factory=dict)  # of fit
    optimizers: Sequence[str] = USUAL  # that are recorded
    answers: Callable[[Any, int], Iterator[Any]] | None = None  # arrays to be digested, in place of training
    slow: bool = False  # with BPCORE_COMPLETE alone
    by_isa: bool = False  # recorded for each instruction set

    @property
    def every(self) -> Sequence[str]:
        """All that there is to digest, recorded or not."""
        return self.optimizers if self.answers else tuple(OPTIMIZERS)

    @functools.cached_property
    def start(self) -> tuple[Any, Any, Any]:
        """The network as it begins, X and y."""
        net = set_weights(self.make())
        short = self.batch // 4 if self.batch and self.settings.get("shuffle", True) else 0
        n = self.batch * self.an_epoch - short if self.batch else self.rows
        return net, *(() if self.answers else self.data(net, n))

    def digest(self, optimizer: str, n_threads: int) -> str:
        """16 hexadecimal digits."""
        net, *data = self.start
        net = net.copy()
        found = self.answers(net, n_threads) if self.answers else self._trained(net, *data, optimizer, n_threads)
        h = hashlib.sha256()
        for array in found:
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()[:16]

    def _trained(self, net: Any, X: Any, y: Any, optimizer: str, n_threads: int) -> Iterator[Any]:
        epochs = self.steps // (self.an_epoch if self.batch else 1)
        rule = OPTIMIZERS[optimizer](self.lr)
        net.fit(X, y, optimizer=rule, epochs=epochs, batch_size=self.batch, n_threads=n_threads, **self.settings)
        assert net.step == self.steps, net.step
        yield net.theta
        few = [x[:PREDICTED] for x in X] if isinstance(X, list) else X[:PREDICTED]
        answers = net.predict(few, n_threads=n_threads)
        yield from answers if isinstance(answers, tuple) else [answers]


def chain(sizes: str, inside: str = "relu", dtype: str = "float32", **settings: Any) -> Callable[[], Any]:
    """784-30-10: softmax at the end, logistic for one output."""

    def make() -> Any:
        n_in, *hidden, n_out = map(int, sizes.split("-"))
        last = bp.Dense(n_out, "softmax" if n_out > 1 else "logistic")
        return bp.Network([bp.Input(n_in), *(bp.Dense(n, inside) for n in hidden), last], dtype=dtype, **settings)

    return make


def residual() -> Any:
    x = h = bp.Input(64)
    for _ in range(4):
        h = h + bp.Dense(64, "relu")(h)
    return bp.Network(x, bp.Dense(10, "softmax")(h))


def lenet() -> Any:
    layers = [
        bp.Conv2D(6, 5, "tanh", padding="same"), bp.MaxPool2D(2), bp.Conv2D(16, 5, "tanh"), bp.MaxPool2D(2),
        bp.Reshape(-1), bp.Dense(120, "tanh"), bp.Dense(84, "tanh"), bp.Dense(10, "softmax"),
    ]  # fmt: skip
    return bp.Network([bp.Input((28, 28, 1)), *layers])


def recurrent(layer: Any, dtype: str = "float32") -> Callable[[], Any]:
    return lambda: bp.Network([bp.Input((12, 10)), layer(24), bp.Dense(1)], dtype=dtype)


def deep_recurrent() -> Any:
    layers = [bp.GRU(12, sequences=True), *(bp.LSTM(12, sequences=True) for _ in range(5)), bp.SimpleRNN(12)]
    return bp.Network([bp.Input((12, 10)), *layers, bp.Dense(1)], checkpoint=True)


def sequences(net: Any, n: int) -> tuple[Any, Any]:
    return reals((n, *net.inputs["input"]), 1), reals((n, 1), 2)


def embedding(n: int) -> Callable[[], Any]:
    def make() -> Any:
        words = bp.Input(4, integer=True)
        h = bp.Reshape(-1)(bp.Embedding(n, 16, init="zeros")(words))
        return bp.Network(words, bp.Dense(10, "softmax")(h))

    return make


def words(n: int) -> Callable[[Any, int], tuple[Any, Any]]:
    return lambda net, rows: (numbers((rows, 4), n, 1), numbers((rows,), 10, 2))


def attention() -> Any:
    x = h = bp.Input((6, 8))
    for _ in range(2):
        n = bp.LayerNorm()(h)
        q, k, v = (bp.Dense(8)(n) for _ in range(3))
        weights = bp.Dropout(0.25)(bp.Activate("softmax")(bp.MatMul(transpose_b=True)(q, k) / 4))
        h = h + bp.Dense(8)(weights @ v)
        h = h + bp.Dense(8)(bp.Dense(16, "gelu")(bp.LayerNorm()(h)))
    return bp.Network(x, bp.Dense(4, "softmax")(bp.Reshape(-1)(h)))


def activations() -> Any:
    kinds = ("elu", "gelu", "leaky_relu", "logistic", "selu", "silu", "softplus", "tanh")
    return bp.Network([bp.Input(19), *(bp.Dense(21, f) for f in kinds), bp.Dense(5, "softmax")])


def outputs() -> Any:
    """Two inputs, a shared layer, three outputs, each of its own loss."""
    x, z = bp.Input(7), bp.Input(5)
    shared = bp.Dense(13, "tanh")
    h = shared(shared(bp.Dense(13, "tanh")(bp.concat([x, z]))))
    return bp.Network([x, z], [bp.Dense(3, "softmax")(h), bp.Dense(2, "logistic")(h), bp.Dense(4)(h)])


def outputs_data(net: Any, n: int) -> tuple[Any, Any]:
    return [reals((n, 7), 1), reals((n, 5), 2)], [numbers((n,), 3, 3), numbers((n, 2), 2, 4), reals((n, 4), 5, 3.0)]


OUTPUTS = {"loss": ["cross_entropy", "binary_cross_entropy", bp.losses.Weighted("huber", 0.25)]}


def in_place(net: Any, n: int) -> tuple[Any, Any]:
    X, y = rows_of(net, n)
    return np.ascontiguousarray(X, np.float32), y


# ---- what is no training ----


def regression(sizes: str = "30-40-33-5", dtype: str = "float32") -> Callable[[], Any]:
    n_in, *hidden, n_out = map(int, sizes.split("-"))
    return lambda: bp.Network([bp.Input(n_in), *(bp.Dense(n, "tanh") for n in hidden), bp.Dense(n_out)], dtype=dtype)


def _xy(net: Any, n: int) -> tuple[Any, Any]:
    return reals((n, net.n_inputs), 1), reals((n, net.n_outputs), 2)


def gradients(net: Any, t: int) -> Iterator[Any]:
    """Of single rows, of a batch, of a weighted batch."""
    X, y = _xy(net, 300)
    for i in range(20):
        yield net.value_and_grad(X[i : i + 1], y[i : i + 1], n_threads=t)[1]
    yield net.value_and_grad(X, y, n_threads=t)[1]
    yield net.value_and_grad(X, y, loss="mse", sample_weight=1 + numbers((300,), 8, 3) / 8, n_threads=t)[1]


def evaluations(net: Any, t: int) -> Iterator[Any]:
    X, y = _xy(net, 300)
    for loss in ("squared_error", "mse", "huber"):
        yield np.array([*net.evaluate(X, y, loss=loss, n_threads=t).values()])


def second(net: Any, t: int) -> Iterator[Any]:
    X, y = _xy(net, 100)
    v = reals((net.n_params,), 3)
    yield net.hvp(X, y, v, n_threads=t)
    yield net.gauss_newton_product(X, y, v, n_threads=t)


def predictions(net: Any, t: int) -> Iterator[Any]:
    X = rows_of(net, 200)[0]
    answer = net.predictor(n_threads=t)
    yield from (answer(x) for x in X[:20])
    yield from (answer(X[:n]) for n in (2, 5, 33, 200))


def tape(net: Any, t: int) -> Iterator[Any]:
    X, y = _xy(net, 70)
    gone = net.forward(X, n_threads=t)
    back = net.backward(gone, y, n_threads=t)
    yield from (*gone.a, *gone.z[1:], *gone.df[1:], *back.delta[1:], back.theta)


def steps(net: Any, t: int) -> Iterator[Any]:
    step = net.stepper(n_threads=t)
    yield from (step(x) for x in reals((12, 10), 1))


def overflowing(table: int = 0) -> Callable[[], Any]:
    """A number beside others, or beside a table."""

    def make() -> Any:
        x = bp.Input(1, name="x")
        rest = bp.Input(4, integer=True, name="rest") if table else bp.Input(64, name="rest")
        h = bp.Reshape(-1)(bp.Embedding(table, 16, init="zeros")(rest)) if table else rest
        return bp.Network([x, rest], bp.Dense(10, "softmax", name="last")(bp.concat([x, h])))

    return make


def divergence(net: Any, t: int) -> Iterator[Any]:
    """An update overflows after some steps: the safety copy comes back, and the steps but the last go again."""
    table, n = "embedding_1.E" in net.params, 800
    x, y = np.zeros((n, 1)), numbers((n,), 10, 2)
    x[500] = 3e38
    rest = numbers((n, 4), net.params["embedding_1.E"].shape[0], 1) if table else reals((n, 64), 1)
    net.params["last.W"][0] = 0
    start = net.theta.copy()
    for momentum in (0.0, 0.9):
        net.theta = start
        try:
            net.fit([x, rest], y, batch_size=8, optimizer=bp.SGD(lr=16, momentum=momentum), n_threads=t)
        except bp.DivergenceError:
            yield net.theta.copy()
            yield np.array(net.step)
        else:
            raise AssertionError("expected an overflow")


def answering(make: Callable[[], Any], answers: Callable[[Any, int], Iterator[Any]], **more: Any) -> Case:
    return Case(make, answers=answers, optimizers=("none",), **more)


def each_gradient(net: Any, t: int) -> Iterator[Any]:
    yield net.per_sample_gradients(*_xy(net, 70), n_threads=t)


def jacobian(net: Any, t: int) -> Iterator[Any]:
    yield net.jacobian(_xy(net, 150)[0], n_threads=t)
    yield net.input_gradient(_xy(net, 70)[0], output=1, n_threads=t)


ALL = tuple(OPTIMIZERS)
CASES: dict[str, Case] = {
    # bench_epoch.py
    "2-8-1/4": Case(chain("2-8-1"), batch=4),
    "4-16-3/16": Case(chain("4-16-3"), batch=16),
    "64-64-10/32": Case(chain("64-64-10"), optimizers=ALL),
    "784-30-10/1": Case(chain("784-30-10"), batch=1),
    "784-30-10/10": Case(chain("784-30-10"), batch=10),
    "784-128-10/64": Case(chain("784-128-10"), batch=64),
    "100-256-256-1/256": Case(chain("100-256-256-1"), batch=256, slow=True),
    "784-512-512-10/128": Case(chain("784-512-512-10"), batch=128, slow=True),
    "2048-2048-2048-1000/512": Case(chain("2048-2048-2048-1000"), batch=512, steps=4, an_epoch=2, slow=True),
    # graphs
    "residual": Case(residual, optimizers=ALL),
    "lenet": Case(lenet, batch=16, lr=0.05, by_isa=True),
    "lstm": Case(recurrent(bp.LSTM), sequences, batch=16),
    "gru": Case(recurrent(bp.GRU), sequences, batch=16),
    "embedding": Case(embedding(2000), words(2000), batch=64, lr=0.5, optimizers=ALL),
    "attention": Case(attention, batch=16, steps=80),
    "activations": Case(activations, batch=24),
    "outputs": Case(outputs, outputs_data, batch=20, settings=OUTPUTS),
    # ways through the core
    "odd widths": Case(chain("37-53-17-29-5", "tanh"), batch=33),
    "checkpoint": Case(chain("16" + 12 * "-16" + "-4", checkpoint=True), batch=256, steps=40),
    "checkpoint, owners": Case(deep_recurrent, sequences, batch=16, steps=40),
    "logged table": Case(embedding(20_000), words(20_000), batch=64, lr=0.5, optimizers=ALL),  # 1.2 MiB
    "chunks": Case(chain("6-9-4", "tanh"), batch=None, rows=20_000, steps=10, lr=0.5),  # of 10,048 rows
    "chunks, owners": Case(embedding(2000), words(2000), batch=None, rows=20_000, steps=5, lr=0.5),
    "shards": Case(chain("64-64-10"), batch=256, steps=80),
    "grid": Case(chain("20-500-600-3"), batch=200, steps=8, optimizers=ALL),
    "in place": Case(chain("64-64-10"), in_place, settings={"shuffle": False}),
    "4-16-3/16 float64": Case(chain("4-16-3", dtype="float64"), batch=16),
    "64-64-10/32 float64": Case(chain("64-64-10", dtype="float64"), optimizers=ALL),
    "lstm float64": Case(recurrent(bp.LSTM, "float64"), sequences, batch=16, steps=80),
    # no training
    "gradients": answering(regression(), gradients),
    "gradients float64": answering(regression(dtype="float64"), gradients),
    "gradients of examples": answering(regression(), each_gradient),
    "jacobian": answering(regression(), jacobian),
    "jacobian, one hidden layer": answering(regression("10-64-3"), jacobian),
    "second derivatives": answering(regression(), second),
    "second derivatives float64": answering(regression(dtype="float64"), second),
    "evaluate": answering(regression(), evaluations),
    "predictor": answering(chain("64-64-10"), predictions),
    "predictor, wide": answering(chain("100-300-300-10"), predictions),
    "forward and backward": answering(regression(), tape),
    "divergence": answering(overflowing(), divergence),
    "divergence of a logged table": answering(overflowing(20_000), divergence),
    "stepper": answering(recurrent(bp.GRU), steps),
}
CASES = {name.replace(", ", ",").replace(" ", "-"): case for name, case in CASES.items()}


# ---- the record ----


def recorded() -> dict[str, dict[str, Any]]:
    return json.loads(RECORD.read_text())


def expected(record: dict[str, dict[str, Any]], name: str, optimizer: str, isa: str) -> str | None:
    """What is recorded; None where nothing is promised."""
    if isa not in FUSED:
        return None
    found = record[name][optimizer]
    return found.get(isa) if CASES[name].by_isa else found


def lines(isa: str, threads: Sequence[int], always: bool, what: str) -> list[list[str]]:
    """[case, optimiser, threads, isa, digest] of a process of its own; what: "all" or "recorded"."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("BPCORE_")}
    settings |= {"BPCORE_ISA": isa, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    if always:
        settings["BPCORE_PARALLEL"] = "always"
    command = [sys.executable, __file__, "--this", what, *map(str, threads)]
    done = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=True, timeout=1800)
    return [line.split() for line in done.stdout.splitlines()]


def say_this(what: str, threads: Sequence[int]) -> None:
    """The lines of this process."""
    isa = _core.isa()[0]
    for name, case in CASES.items():
        if case.slow and isa not in FUSED:
            continue
        for optimizer in case.every if what == "all" else case.optimizers:
            for n in threads:
                print(name, optimizer, n, isa, case.digest(optimizer, n), flush=True)
        case.__dict__.pop("start", None)


def say_all() -> None:
    for isa in _core.isa()[1]:
        for threads, always in (((1, 2), False), ((3,), True)):
            for line in lines(isa, threads, always, "all"):
                print(*line, flush=True)


def record() -> None:
    if not {"avx2", "avx512"} <= set(_core.isa()[1]):
        sys.exit("--record: expected a machine with AVX2 and AVX-512, whose digests of convolutions differ")
    found: dict[str, dict[str, Any]] = {}
    for isa in ("avx2", "avx512"):
        for name, optimizer, _, _, digest in lines(isa, (1,), False, "recorded"):
            kept = found.setdefault(name, {})
            if CASES[name].by_isa:
                kept.setdefault(optimizer, {})[isa] = digest
            elif kept.setdefault(optimizer, digest) != digest:
                sys.exit(f"--record: {name} {optimizer} has other bits with {isa}")
    RECORD.write_text(json.dumps(found, indent=1) + "\n")


def check() -> None:
    isa, record = _core.isa()[0], recorded()
    if isa not in FUSED:
        print(f"{isa}: no bits are recorded")
        return
    small = [(name, optimizer) for name, case in CASES.items() if not case.slow for optimizer in case.optimizers]
    unlike = [what for what in small if CASES[what[0]].digest(what[1], 2) != expected(record, *what, isa)]
    if unlike:
        sys.exit(f"--check: {isa}, other bits than recorded in {unlike}")
    print(f"{len(small)} digests are those recorded ({isa})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group(required=True)
    modes.add_argument("--all", action="store_true", help="print all digests")
    modes.add_argument("--check", action="store_true", help=f"compare this build with {RECORD.name}")
    modes.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    modes.add_argument("--this", nargs="+", metavar=("all|recorded", "THREADS"), help="print those of this process")
    options = parser.parse_args()
    if options.all:
        say_all()
    elif options.check:
        check()
    elif options.record:
        record()
    else:
        say_this(options.this[0], [*map(int, options.this[1:])])


if __name__ == "__main__":
    main()
