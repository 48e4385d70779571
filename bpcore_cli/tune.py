"""`bpcore tune`: random search over widths, rates and penalties (Bergstra and Bengio 2012), networks side by side."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import Namespace
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

import bpcore as bp
from bpcore_cli import _problem
from bpcore_cli._errors import Wrong, refused
from bpcore_cli._output import check_writable

_WIDTHS = ((32,), (64,), (128,), (256,), (64, 32), (128, 64), (256, 128), (128, 128, 64))
_LR = (3e-4, 1e-2)
_WEIGHT_DECAY = (1e-3, 1.0)  # of AdamW: unlike l2 it is no part of the loss, by which networks are compared
_DROPOUT = (0.0, 0.0, 0.1, 0.3)
_BATCH = 32  # as `bpcore train` has it
_SHOWN = 10


class Trial(NamedTuple):
    """Settings of `bpcore train`, by their options."""

    hidden: tuple[int, ...]
    lr: float
    weight_decay: float
    dropout: float
    seed: int

    @classmethod
    def drawn(cls, rng: np.random.Generator, seed: int) -> Trial:
        """Rates and penalties uniform in their logarithms, half of the penalties 0; two digits of each."""
        lr, decay = (float(f"{np.exp(rng.uniform(*np.log(span))):.2g}") for span in (_LR, _WEIGHT_DECAY))
        hidden = _WIDTHS[rng.integers(len(_WIDTHS))]
        return cls(hidden, lr, decay * int(rng.integers(2)), _DROPOUT[rng.integers(len(_DROPOUT))], seed)

    @property
    def options(self) -> str:
        """As they are typed."""
        words = f"--hidden {','.join(map(str, self.hidden))} --optimizer adamw --lr {self.lr:g} "
        return f"{words}--weight-decay {self.weight_decay:g} --dropout {self.dropout:g}"


class Result(NamedTuple):
    """A network that was trained, and the loss on the rows that were held out; infinite where it diverged."""

    loss: float
    trial: Trial
    epochs: int
    net: bp.Network | None  # of the best alone: there may be thousands


def run(options: Namespace) -> None:
    """`bpcore tune DATA --target COL --budget 60s`."""
    if options.threads:
        bp.set_num_threads(options.threads)
    check_writable(options.out, inputs=[options.data])
    if not options.validation:
        raise Wrong("--validation: expected a share above 0, since the loss on held-out rows chooses")
    end = monotonic() + options.budget
    problem = _problem.read(options)
    results = sorted(_search(problem, options, end), key=lambda result: result.loss)
    best = results[0]
    if best.net is None or not np.isfinite(best.loss):
        raise ArithmeticError("all networks diverged; are there values far from the others in the data?")
    if options.out:
        best.net.save(options.out)
    metrics = problem.evaluate(best.net)
    if options.json:
        found = [{"loss": r.loss, "epochs": r.epochs, **r.trial._asdict()} for r in results if np.isfinite(r.loss)]
        print(json.dumps({"tried": len(results), "trials": found, "metrics": metrics, "saved": options.out}))
        return
    print(f"{len(results)} networks; the best, by the loss on held-out rows:")
    for result in results[:_SHOWN]:
        print(f"{result.loss:<10.5g} {result.epochs:>4} epochs  {result.trial.options}")
    print("metrics of the first: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
    print(f"saved {options.out}" if options.out else "not saved; --out FILE does")
    print(f"again: {_again(options)} {best.trial.options}")


def _again(options: Namespace) -> str:
    """What `bpcore train` needs to do the same, but for a trial's settings."""
    defaults = {"id": None, "task": "auto", "loss": "auto", "validation": 0.2, "seed": 0, "epochs": 200, "patience": 20}
    words = ["bpcore", "train", options.data, "--target", options.target]
    for name, default in defaults.items():
        if (value := getattr(options, name)) != default:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def _search(problem: _problem.Problem, options: Namespace, end: float) -> list[Result]:
    """Rounds of networks, two a thread, until the time is over; Ctrl-C ends it."""
    rng, n = np.random.default_rng(options.seed), 2 * bp.get_num_threads()
    results: list[Result] = []

    def in_time(state: Any) -> None:
        if monotonic() > end:
            state.stop()

    while not results or monotonic() < end:
        trials = [Trial.drawn(rng, options.seed) for _ in range(n)]
        with refused():
            nets = [problem.network(trial.hidden, "relu", trial.dropout, trial.seed) for trial in trials]
            histories = bp.fit_many(
                nets, problem.rows, problem.y, epochs=options.epochs, batch_size=_BATCH,
                optimizer=[bp.AdamW(lr=trial.lr, weight_decay=trial.weight_decay) for trial in trials],
                callbacks=[bp.EarlyStopping(patience=options.patience), in_time], **problem.settings,
            )  # fmt: skip
        for net, trial, history in zip(nets, trials, histories, strict=True):
            loss = np.inf if history.error or not history.val_loss else float(np.nanmin(history.val_loss))
            results.append(Result(loss, trial, len(history.epoch), net))
        best = min(results, key=lambda result: result.loss)
        results = [result if result is best else result._replace(net=None) for result in results]
        left = max(0.0, end - monotonic())
        print(f"{len(results)} networks, lowest loss {best.loss:.5g}, {left:.0f} s left", file=sys.stderr)
    return results
