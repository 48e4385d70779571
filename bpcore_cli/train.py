"""`bpcore train`: a network of dense layers for the target of a file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from argparse import Namespace
from typing import Any

import bpcore as bp
from bpcore_cli import _problem
from bpcore_cli._errors import Wrong, refused
from bpcore_cli._output import check_writable
from bpcore_cli.evaluate import show


def run(options: Namespace) -> None:
    """`bpcore train DATA --target COL`."""
    if options.threads:
        bp.set_num_threads(options.threads)
    check_writable(options.out, inputs=[options.data])
    if options.keep_interrupted and not options.out:
        raise Wrong("--keep-interrupted: expected --out, where to keep it")
    optimizer = _problem.optimizer(options.optimizer, lr=options.lr, weight_decay=options.weight_decay)
    run_file = _run_file(options)
    problem = _problem.read(options)
    with refused():
        net = problem.network(options.hidden, options.activation, options.dropout, options.seed)
    print(net.summary(), file=sys.stderr)
    if run_file:
        os.makedirs(options.checkpoint, exist_ok=True)
    try:
        history = _fit(net, problem, optimizer, run_file, options)
    except KeyboardInterrupt:
        if options.keep_interrupted:
            net.save(options.out)
            print(f"\nsaved {options.out}, of epoch {net.epoch}, step {net.step}", file=sys.stderr)
        raise
    metrics = problem.evaluate(net)
    if options.out:
        net.save(options.out)
    if options.json:
        print(json.dumps(_result(problem, net, history, metrics, options)))
        return
    print("on held-out rows" if len(problem.held_out) else "on the rows that it was trained on")
    show(metrics, False)
    print(f"saved {options.out}" if options.out else "not saved; --out FILE does")


def _run_file(options: Namespace) -> str | None:
    """Where the run is kept; Wrong where one is there that is not to be resumed."""
    if options.checkpoint is None:
        if options.resume:
            raise Wrong("--resume: expected --checkpoint DIR, where the run is kept")
        return None
    path = os.path.join(options.checkpoint, "run.safetensors")
    if os.path.exists(path) and not options.resume:
        raise Wrong(f"--checkpoint: {options.checkpoint!r} has a run; --resume goes on with it, or take another folder")
    check_writable(options.checkpoint if not os.path.isdir(options.checkpoint) else path, "--checkpoint")
    return path


def _fit(
    net: bp.Network, problem: _problem.Problem, optimizer: Any, run_file: str | None, options: Namespace
) -> bp.History:
    callbacks: list[Any] = [bp.Checkpoint(run_file, every="10 s")] if run_file else []
    if len(problem.held_out):
        callbacks.insert(0, bp.EarlyStopping(patience=options.patience))
    with refused(), contextlib.redirect_stdout(sys.stderr):  # fit shows its progress on standard output
        return net.fit(
            problem.rows, problem.y, optimizer=optimizer, epochs=options.epochs, batch_size=options.batch_size,
            max_seconds=options.max_seconds, callbacks=callbacks,
            resume=run_file if options.resume else None, verbose=1, **problem.settings,
        )  # fmt: skip


def _result(
    problem: _problem.Problem, net: bp.Network, history: bp.History, metrics: dict[str, float], options: Namespace
) -> dict[str, Any]:
    return {
        "rows": len(problem.y),
        "held_out": len(problem.held_out),
        "classes": problem.n_classes or None,
        "epochs": len(history.epoch),
        "epoch": net.epoch,
        "stopped_by": history.stopped_by,
        "metrics": metrics,
        "saved": options.out,
    }
