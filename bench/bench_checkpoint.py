"""What recomputing instead of storing saves and costs: memory and time of a training step with `checkpoint=True`.

    python bench/bench_checkpoint.py [--quick]

Deep networks in float32, plain SGD, on one thread, each trained with and without in turn from the same start on the
same batches; the parameters must end with the same bits, or the exit status is 1. Memory is the arena; "stored" is
that without a checkpoint. Prints the least CPU time a step. Writes results/checkpoint.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

import bpcore as bp
from bpcore import _plans

STEPS = 4  # in a call of fit
LR = 1e-6  # the weights hardly move


def chain(depth: int = 64, width: int = 256) -> Any:
    """Dense layers, one after the other."""
    return bp.Network([bp.Input(width), *(bp.Dense(width, "relu") for _ in range(depth)), bp.Dense(10, "softmax")])


def residual(blocks: int = 16, channels: int = 16) -> Any:
    """Two convolutions and a sum a block, on images of 32x32."""
    x = bp.Input((32, 32, 3))
    h = bp.Conv2D(channels, 3, "relu", padding="same")(x)
    for _ in range(blocks):
        inner = bp.Conv2D(channels, 3, "relu", padding="same")(h)
        h = h + bp.Conv2D(channels, 3, padding="same")(inner)
    return bp.Network(x, bp.Dense(10, "softmax")(bp.Reshape(-1)(bp.AveragePool2D(8)(h))))


def attention(blocks: int = 8, steps: int = 128, width: int = 64) -> Any:
    """Self-attention and two dense layers a block."""
    x = bp.Input((steps, width))
    h = x
    for _ in range(blocks):
        n = bp.LayerNorm()(h)
        q, k, v = (bp.Dense(width)(n) for _ in range(3))
        scores = bp.MatMul(transpose_b=True)(q, k) * width**-0.5
        h = h + bp.Dense(width)(bp.Activate("softmax")(scores) @ v)
        h = h + bp.Dense(width)(bp.Dense(4 * width, "gelu")(bp.LayerNorm()(h)))
    return bp.Network(x, bp.Dense(10, "softmax")(bp.Reshape(-1)(h)))


def recurrent(layers: int = 8, steps: int = 100, units: int = 64) -> Any:
    """LSTMs, one above the other."""
    x = bp.Input((steps, units))
    h = x
    for _ in range(layers):
        h = bp.LSTM(units, sequences=True)(h)
    return bp.Network(x, bp.Dense(10, "softmax")(bp.Reshape(-1)(h)))


CASES: dict[str, tuple[Callable[[], Any], int]] = {
    "64 dense layers of 256, batch 1024": (chain, 1024),
    "64 dense layers of 256, batch 64": (chain, 64),
    "16 residual blocks of 3x3x16 on 32x32, batch 32": (residual, 32),
    "8 attention blocks, 128 steps of 64, batch 32": (attention, 32),
    "8 LSTMs of 64, 100 steps, batch 64": (recurrent, 64),
}


def megabytes(net: Any, batch: int) -> dict[str, float]:
    cut, stored, _ = _plans.memory(net._model, batch)
    return {"checkpoint": cut / 2**20, "stored": stored / 2**20}


def measure(make: Callable[[], Any], batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Memory, the least seconds a step, and whether the bits agree."""
    nets = {"stored": make(), "checkpoint": make()}
    nets["checkpoint"].checkpoint = True
    rng = np.random.default_rng(0)
    (shape,) = nets["stored"].inputs.values()
    X = rng.standard_normal((batch * STEPS, *shape)).astype(np.float32)
    y = rng.integers(10, size=len(X))
    seconds = dict.fromkeys(nets, float("inf"))
    for _ in range(options.rounds):
        for name, net in nets.items():
            begin = time.process_time()
            net.fit(X, y, optimizer=bp.SGD(lr=LR), batch_size=batch, shuffle=False, n_threads=1)
            seconds[name] = min(seconds[name], (time.process_time() - begin) / STEPS)
    same = nets["stored"].theta.tobytes() == nets["checkpoint"].theta.tobytes()
    return {"batch": batch, "mebibytes": megabytes(nets["checkpoint"], batch), "seconds": seconds, "same_bits": same}


def arguments() -> argparse.Namespace:
    return harness.parse(argparse.ArgumentParser(description="What recomputing instead of storing saves and costs."))


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    results = {name: measure(make, batch, options) for name, (make, batch) in CASES.items()}
    rows = []
    for name, one in results.items():
        memory, seconds = one["mebibytes"], one["seconds"]
        rows.append(
            [
                name,
                *(f"{memory[key]:.1f}" for key in ("stored", "checkpoint")),
                f"{memory['checkpoint'] / memory['stored']:.2f}",
                *(f"{1e3 * seconds[key]:.1f}" for key in ("stored", "checkpoint")),
                f"{seconds['checkpoint'] / seconds['stored']:.2f}",
            ]
        )
    harness.print_table(["network", "MiB stored", "checkpoint", "ratio", "ms stored", "checkpoint", "ratio"], rows)
    content = {"machine": machine, "results": results}
    harness.write_json("checkpoint", options, content)
    return int(not all(one["same_bits"] for one in results.values()))


if __name__ == "__main__":
    sys.exit(harness.run(main))
