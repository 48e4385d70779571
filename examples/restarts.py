"""How often a small network gets stuck: XOR and parity, each from a thousand first weights.

    python examples/restarts.py
    python examples/restarts.py --quick                          # from 20
    python examples/restarts.py --plot docs/img/restarts.svg     # draws the losses; needs matplotlib

A network that is stuck gives one answer to several patterns, the share of ones among them, and learns no more.  With
two of XOR's four patterns the loss is then ln(2) / 2 = 0.347 (Rumelhart, Hinton and Williams 1986 show such a minimum).
More hidden units than the fewest that can do it make that rare; the best of some starts is hardly ever stuck.
"""

import argparse
import itertools
import time
from collections import Counter

import numpy as np

import bpcore as bp

EPOCHS = 1000
STUCK = 0.05  # a loss above it: in 4 bits two patterns of one answer give 0.087
NETS = [(2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (3, 6), (4, 4), (4, 6), (4, 8)]  # bits, hidden units


def parity(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """All 2^bits patterns, and whether an odd number of their bits is set; of 2 bits it is XOR."""
    X = np.array(list(itertools.product([0.0, 1.0], repeat=bits)))
    return X, X.sum(axis=1, keepdims=True) % 2


def train(bits: int, hidden: int, starts: int) -> tuple[bp.Network, np.ndarray]:
    """The best network, and the loss at the end from each start, (starts,), sorted."""
    X, y = parity(bits)
    net = bp.Network([bp.Input(bits), bp.Dense(hidden, "tanh"), bp.Dense(1, "logistic")], seed=0)
    optimizer = bp.SGD(lr=0.5, momentum=0.9)
    best, histories = bp.fit_restarts(net, X, y, starts, optimizer=optimizer, epochs=EPOCHS, batch_size=None)
    return best, np.sort([history.loss[-1] for history in histories])


def plot(losses: dict[tuple[int, int], np.ndarray], path: str) -> None:
    """The losses at the end, from the least to the greatest, a panel for each number of bits."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "restarts"  # the same figures give the same file
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
    for (bits, hidden), sorted_losses in losses.items():
        share = 100 * np.arange(1, len(sorted_losses) + 1) / len(sorted_losses)
        panels[bits - 2].plot(share, sorted_losses, label=f"{hidden} hidden units")
    for bits, axes in enumerate(panels, 2):
        axes.set_title("XOR" if bits == 2 else f"parity of {bits} bits")
        axes.set_xlabel("starts, percent")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left")
    panels[0].set_ylabel(f"loss after {EPOCHS:,} epochs")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 first weights each")
    parser.add_argument("--plot", metavar="FILE", help="draw the losses")
    options = parser.parse_args()
    starts, losses, begin = 20 if options.quick else 1000, {}, time.perf_counter()
    print("| net | stuck | losses where they are stuck, and how many |")
    print("| --- | --- | --- |")
    for bits, hidden in NETS:
        best, ended = train(bits, hidden, starts)
        losses[bits, hidden] = ended
        stuck = ended[ended > STUCK]
        levels = Counter(stuck.round(2).tolist()).most_common(3)
        words = ", ".join(f"{loss:.2f}: {count}" for loss, count in levels)
        print(f"| {bits}-{hidden}-1 | {len(stuck) / starts:.1%} | {words} |", flush=True)
        assert best.evaluate(*parity(bits))["accuracy"] == 1  # the best of them is not stuck
    seconds = time.perf_counter() - begin
    print(f"{len(NETS) * starts:,} networks, {EPOCHS:,} epochs each, in {seconds:.1f} s")
    if options.plot:
        plot(losses, options.plot)


if __name__ == "__main__":
    main()
