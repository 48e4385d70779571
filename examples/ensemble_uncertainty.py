"""What an ensemble does not know: a regression in one dimension, with gaps in the data.

    python examples/ensemble_uncertainty.py
    python examples/ensemble_uncertainty.py --quick                          # fewer networks and epochs
    python examples/ensemble_uncertainty.py --plot docs/img/ensemble.svg     # draws it; needs matplotlib

Each network is trained on a bootstrap sample of the data, from first weights of its own.  Where there are data, they
agree; in the gap and beyond the ends nothing tells them what to do, and each goes its own way (Lakshminarayanan,
Pritzel and Blundell 2017).
"""

import argparse

import numpy as np

import bpcore as bp

NOISE = 0.1


def data() -> tuple[np.ndarray, np.ndarray]:
    """x (120, 1) in [-3, -1] and [1, 2.5], and noisy values of the curve, (120, 1)."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-3, -1, 60), rng.uniform(1, 2.5, 60)])[:, None]
    return x, curve(x) + NOISE * rng.standard_normal(x.shape)


def curve(x: np.ndarray) -> np.ndarray:
    return np.sin(2 * x) + 0.3 * x


def plot(ensemble: bp.Ensemble, x: np.ndarray, y: np.ndarray, path: str) -> None:
    """The data, each member, their mean and twice the spread about it."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ensemble"  # the same figures give the same file
    from matplotlib import pyplot

    at = np.linspace(-4, 4, 101)[:, None]
    mean, spread = (part[:, 0] for part in ensemble.predict(at, spread=True))
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for net in ensemble.members:
        axes.plot(at, net.predict(at), color="tab:blue", alpha=0.25, linewidth=0.6)
    axes.fill_between(at[:, 0], mean - 2 * spread, mean + 2 * spread, alpha=0.2, label="mean, plus and minus 2 spreads")
    axes.plot(at, mean, color="tab:blue", linewidth=2, label=f"mean of {len(ensemble.members)} networks")
    axes.plot(at, curve(at), color="black", linestyle="--", linewidth=1, label="what the data were made of")
    axes.plot(x, y, ".", color="tab:orange", markersize=4, label="data")
    axes.set_ylim(-4, 4)
    axes.legend(fontsize="small", loc="upper left")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer networks and epochs")
    parser.add_argument("--plot", metavar="FILE", help="draw it")
    options = parser.parse_args()
    members, epochs = (8, 300) if options.quick else (32, 1500)
    x, y = data()
    layers = [bp.Input(1), bp.Dense(32, "tanh"), bp.Dense(32, "tanh"), bp.Dense(1)]
    ensemble = bp.Ensemble([bp.Network(layers, seed=seed) for seed in range(members)])
    ensemble.fit(x, y, bootstrap=True, optimizer=bp.Adam(lr=0.005), epochs=epochs)

    at = np.linspace(-4, 4, 17)[:, None]
    mean, spread = ensemble.predict(at, spread=True)
    print("   x   curve    mean  spread")
    for row in zip(at[:, 0], curve(at)[:, 0], mean[:, 0], spread[:, 0], strict=True):
        print("{:4.1f} {:7.2f} {:7.2f} {:7.2f}  {}".format(*row, "#" * round(20 * row[3])))
    unknown = (abs(at[:, 0]) < 0.75) | (abs(at[:, 0]) > 3.25)
    known = spread[~unknown & (at[:, 0] < 2.75)]
    print(f"spread where there are data {np.median(known):.3f}, elsewhere {np.median(spread[unknown]):.3f}")
    assert np.median(spread[unknown]) > 2 * np.median(known)

    answer = ensemble.predictor()  # for single rows, from any thread
    one, apart = answer(at[3], spread=True)
    assert one == mean[3] and apart == spread[3]
    if options.plot:
        plot(ensemble, x, y, options.plot)


if __name__ == "__main__":
    main()
