"""What each optimiser costs a step, and what it gains: against PyTorch and optax, against plain SGD, and by loss.

    python bench/bench_optimizers.py                    # samples a second, library against library
    python bench/bench_optimizers.py --cost             # a step of each over one of plain SGD
    python bench/bench_optimizers.py --curves           # the validation loss by epochs, three tasks; docs/optimizers.md
    python bench/bench_optimizers.py --quick

Libraries are PyTorch with fused optimisers (where it has them) and with foreach, and optax's optimisers under a scan of
JAX; from the same weights over the same batches, alternating in one run, as bench_epoch measures and compares losses.
Where an optimiser's formula is not that of a peer, losses differ and no ratio is given (ScheduleFree and optax's); a
library without it is left out. Results go to results/optimizers.json, optimizers_cost.json and optimizers_curves.json.
Curves: each optimiser has the lr of RATES whose mean validation loss of a few seeds is least after the last epoch; what
an epoch takes is printed alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import bench_epoch
import harness
import numpy as np
import peak
from adapters import Spec

NETS = ("4-16-3/16", "64-64-10/32", "784-128-10/64")
COST_NETS = ("784-128-10/64",)
OPTIMIZERS = (
    "sgd", "momentum", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad", "adadelta", "lion", "schedule_free",
)  # fmt: skip
LR = {"sgd": 0.01, "momentum": 0.01, "lion": 0.0001, "adadelta": 0.1}  # others: 0.001
LIBRARIES = ("bpcore", "torch", "torch:foreach", "jax:optax")
LACKS = {"torch": ("lion", "schedule_free"), "jax": ("nadam",)}  # optax's Nadam is another formula
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
Task = tuple[Any, Any, Any, Any, Any, int]  # make(seed), X, y, Xv, yv, batch


def spec_of(net: Any, optimizer: str) -> Spec:
    return Spec(*net, optimizer=optimizer, lr=LR.get(optimizer, 0.001))


# ---- samples a second ----


def compare(crew: list[harness.Worker], net: Any, optimizer: str, options: Any, flops: float) -> dict[str, Any]:
    """One optimiser of the libraries that have it."""
    those = [worker for worker in crew if optimizer not in LACKS.get(harness.family(worker.library), ())]
    result = bench_epoch.measure(those, spec_of(net, optimizer), options, flops)
    return {"optimizer": optimizer, **result}


def print_comparison(results: list[dict[str, Any]], libraries: list[str]) -> None:
    head = ["net/batch", "optimizer", *libraries, "ratio", "best peer", "% of peak", "loss differs"]
    harness.print_table(head, [_row(result, libraries) for result in results])
    print("samples a second, median +- half the spread in percent, at the best number of threads (xN)")


def _row(result: dict[str, Any], libraries: list[str]) -> list[str]:
    cells = harness.cells(
        result, libraries, bench_epoch.rate, "samples_per_second", harness.number, result["losses_agree"]
    )
    share = max(run["percent_of_peak"] for run in result["runs"] if run["library"] == libraries[0])
    return [result["net"], result["optimizer"], *cells, f"{share:.1f}", f"{result['loss_disagreement']:.0e}"]


def libraries_against(options: argparse.Namespace) -> dict[str, Any]:
    peaks = peak.measure(options.threads)
    harness.print_peaks(peaks)
    flops = max(figures["flops"] for figures in peaks.values())
    results = []
    with harness.workers(options.libraries, options.threads) as crew:
        versions = {str(worker): worker.versions for worker in crew}
        for net in options.nets:
            for optimizer in options.optimizers:
                print(f"measuring {optimizer} on {spec_of(net, optimizer).name}", file=sys.stderr)
                results.append(compare(crew, net, optimizer, options, flops))
    print_comparison(results, options.libraries)
    return {"peaks": peaks, "versions": versions, "results": results}


# ---- the cost over plain SGD ----


def cost(net: Any, threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds a step of each optimiser, and over plain SGD, which takes its turn in each round."""
    names = ["sgd", *(name for name in options.optimizers if name != "sgd")]
    with harness.workers(["bpcore"] * len(names), [threads]) as crew:
        for worker, name in zip(crew, names, strict=True):
            arguments = bench_epoch.data(spec_of(net, name))
            worker.make("Train", **arguments)
        timings = harness.alternate(crew, options.rounds, options.seconds)
    steps, spec = len(arguments["X"]) // arguments["spec"].batch, arguments["spec"]
    results = []
    for name, timing in zip(names, timings, strict=True):
        ratios = [own / plain for own, plain in zip(timing.seconds, timings[0].seconds, strict=True)]
        unit = {key: value / steps for key, value in timing.unit().items()}
        results.append({"net": spec.name, "threads": threads, "optimizer": name, "seconds": unit,
                        "over_sgd": harness.spread(ratios)})  # fmt: skip
    return results


def costs(options: argparse.Namespace) -> dict[str, Any]:
    results = [each for net in options.nets for n in options.threads for each in cost(net, n, options)]
    harness.print_table(
        ["net", "threads", "optimizer", "us a step", "over SGD", "range"],
        ([each["net"], str(each["threads"]), each["optimizer"],
          harness.with_spread(each["seconds"], harness.microseconds), f"{each['over_sgd']['median']:.2f}",
          f"{each['over_sgd']['min']:.2f} .. {each['over_sgd']['max']:.2f}"] for each in results),
    )  # fmt: skip
    return {"results": results}


# ---- losses ----


def tasks() -> dict[str, Task]:
    """Digits in classes, next year's sunspots, and a table of ten columns of which five matter (friedman1)."""
    from sklearn.datasets import make_friedman1

    import bpcore as bp

    digits, held_out = bp.datasets.load_digits().split(seed=0)
    years, numbers = bp.datasets.load_sunspots()
    numbers = (numbers - numbers[years < 1930].mean()) / numbers[years < 1930].std()
    past = np.lib.stride_tricks.sliding_window_view(numbers[:-1], 24)
    late = years[24:] >= 1930
    X, y = make_friedman1(2000, noise=1.0, random_state=0)
    y = (y - y[:1500].mean()) / y[:1500].std()

    def net(*layers: Any) -> Any:
        return lambda seed: bp.Network(layers, seed=seed)

    return {
        "digits": (net(bp.Input(64), bp.Dense(64, "relu"), bp.Dense(10, "softmax")),
                   digits.X, digits.y, held_out.X, held_out.y, 32),
        "sunspots": (net(bp.Input(24), bp.Dense(32, "tanh"), bp.Dense(1)),
                     past[~late], numbers[24:][~late, None], past[late], numbers[24:][late, None], 16),
        "friedman1": (net(bp.Input(10), bp.Dense(64, "relu"), bp.Dense(64, "relu"), bp.Dense(1)),
                      X[:1500], y[:1500, None], X[1500:], y[1500:, None], 32),
    }  # fmt: skip


def optimizer_of(name: str, lr: float) -> Any:
    import bpcore as bp

    if name == "schedule_free":
        return bp.ScheduleFree(bp.AdamW(lr=lr))
    kinds = {kind.__name__.lower(): kind for kind in (bp.SGD, bp.Adam, bp.AdamW, bp.Nadam, bp.Adamax, bp.RMSprop,
                                                      bp.Adagrad, bp.Adadelta, bp.Lion)}  # fmt: skip
    return bp.SGD(lr=lr, momentum=0.9) if name == "momentum" else kinds[name](lr=lr)


def curve(task: Task, optimizer: Any, epochs: int, seeds: int) -> tuple[np.ndarray, float]:
    """The mean validation loss after each epoch, infinite where a network diverged, and the seconds of an epoch."""
    import bpcore as bp

    make, X, y, Xv, yv, batch = task
    nets = [make(seed) for seed in range(seeds)]
    start = time.perf_counter()
    histories = bp.fit_many(nets, X, y, optimizer=optimizer, epochs=epochs, batch_size=batch, validation_data=(Xv, yv))
    seconds = (time.perf_counter() - start) / (epochs * seeds)
    if any(history.error for history in histories):
        return np.full(epochs, np.inf), seconds
    return np.mean([history.val_loss for history in histories], axis=0), seconds


def curves(options: argparse.Namespace) -> dict[str, Any]:
    epochs, seeds = (5, 2) if options.quick else (options.epochs, options.seeds)
    results, rows = [], []
    for title, task in tasks().items():
        for name in options.optimizers:
            found = {lr: curve(task, optimizer_of(name, lr), epochs, seeds) for lr in RATES}
            lr = min(found, key=lambda lr: found[lr][0][-1])
            losses, seconds = found[lr]
            rounded = [float(f"{loss:.5g}") for loss in losses]
            results.append({"task": title, "optimizer": name, "lr": lr, "val_loss": rounded})
            best = int(losses.argmin())
            rows.append([title, name, f"{lr:g}", f"{losses[0]:.4f}", f"{losses[-1]:.4f}", f"{losses[best]:.4f}",
                         str(best + 1), f"{1e3 * seconds:.2f}"])  # fmt: skip
    harness.print_table(["task", "optimizer", "lr", "first", "last", "best", "epoch", "ms an epoch"], rows)
    print(f"validation loss after the first, the last and the best of {epochs} epochs, the mean of {seeds} seeds")
    return {"epochs": epochs, "seeds": seeds, "results": results}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What an optimiser costs and gains.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--cost", action="store_true", help="a step of each over one of plain SGD")
    mode.add_argument("--curves", action="store_true", help="validation losses by epochs")
    parser.add_argument("--nets", nargs="+", type=bench_epoch.net, default=[], metavar="NET", help="784-30-10/10")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS), metavar="NAME")
    parser.add_argument("--epochs", type=harness.positive(int), default=30, help="of --curves (default 30)")
    parser.add_argument("--seeds", type=harness.positive(int), default=4, help="of --curves (default 4)")
    harness.add_crew_options(parser, LIBRARIES)
    options = harness.parse(parser)
    options.part |= options.optimizers != list(OPTIMIZERS) or (options.epochs, options.seeds) != (30, 4)
    options.nets = options.nets or list(map(bench_epoch.net, COST_NETS if options.cost else NETS))
    return options


def main() -> int:
    options = arguments()
    machine = harness.print_machine()
    way = costs if options.cost else curves if options.curves else libraries_against
    name = f"optimizers{'_cost' * options.cost}{'_curves' * options.curves}"
    harness.write_json(name, options, {"machine": machine, **way(options)})
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
