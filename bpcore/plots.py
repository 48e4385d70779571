"""Pictures of what a network answers and of what is in it, by matplotlib, an extra: pip install 'bpcore[plot]'.

Each draws into the axes `ax`, those of a new figure of pyplot unless given, and returns them.  ImportError without
matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _history_views, _threads, _truth, _validate
from bpcore._words import did_you_mean

if TYPE_CHECKING:
    from bpcore._inspect import Inspection
    from bpcore._network import Network

__all__ = ["activations", "confusion", "reliability", "residuals", "weights"]

_MOST_WRITTEN = 20  # classes whose numbers are written into the cells
_MOST_NAMED = 40  # classes that all have their name at the edge
_MOST_POINTS = 5_000  # of a cloud
_SAMPLE = 100_000  # numbers of a layer's weights
_LEVELS = (1, 25, 50, 75, 99)  # percentiles


def confusion(
    y: Any, a: Any, *, names: Sequence[Any] | None = None, sample_weight: Any = None, ax: Any = None
) -> Any:  # fmt: skip
    """How often each class (a row) is answered by each (a column): shares of the row as colours, weights of examples as
    numbers, where there are at most 20 classes.

    y: (n,) classes, or (n, k) with one 1 in each row.  a: answers (n, k), as `predict` gives them; of two classes also
    (n,) or (n, 1), the probability of class 1.  names: of the classes, in the order of the columns of a; then y, and a,
    may be names, too.  sample_weight: (n,).
    A class that no example has is a row without colours.  An answer with a NaN is left out.
    Raises ValueError or TypeError for what does not fit.
    """
    if _are_words(a):
        a = np.eye(len(_named(names, None)))[_coded("a", a, names)]
    truth, answers = _classes("confusion", _coded("y", y, names), a, sample_weight)
    names = _named(names, truth.n)
    counts = np.zeros((truth.n, truth.n))
    for own, p, w in truth.blocks(answers):
        whole = ~np.isnan(p).any(axis=1)
        np.add.at(counts, (own[whole], _answered(p[whole], truth.threshold)), 1.0 if w is None else w[whole])
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    side = min(12.0, 2.2 + 0.42 * truth.n)
    ax = _axes(ax, "plots.confusion", (side + 0.8, side))
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.figure.colorbar(image, ax=ax, label="share of the class", fraction=0.046, pad=0.04)
    every = -(-truth.n // _MOST_NAMED)
    shown = range(0, truth.n, every)
    long = max(len(names[k]) for k in shown) > 3
    ax.set_xticks(shown, [names[k] for k in shown], rotation=90 if long else 0)
    ax.set_yticks(shown, [names[k] for k in shown])
    ax.set(xlabel="answered", ylabel="class", title=f"right: {counts.trace() / counts.sum():.1%}")
    if truth.n <= _MOST_WRITTEN:
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.5 else "black"
            ax.text(j, i, f"{counts[i, j]:.4g}", ha="center", va="center", color=color, fontsize="small")
    return ax


def reliability(
    y: Any, a: Any, *, label: Any = None, names: Sequence[Any] | None = None, bins: int = 10, sample_weight: Any = None,
    ax: Any = None,
) -> Any:  # fmt: skip
    """Whether probabilities are what they say: how often the answer is right, over its probability, in bins of equal
    width; well calibrated ones lie on the diagonal.  Bars: the share of the examples in each bin.

    ECE, in the legend, is the mean over examples of |share right - mean probability| of their bin (Naeini et al. 2015).
    y, a, names, sample_weight: as of `confusion`.  Of two classes the probability of class 1 is meant; of several that
    of the answer, the largest (Guo et al. 2017), or with `label` that of this class, a number or one of the names.
    Raises ValueError or TypeError for what does not fit, or answers that are no probabilities.
    """
    truth, answers = _classes("reliability", _coded("y", y, names), a, sample_weight)
    named = _named(names, truth.n)
    bins = _validate.integer("bins", bins, 1, 1000)
    if label is not None:
        label = _coded("label", [label], names)[0] if _are_words(label) else label
        label = _validate.integer("label", label, 0, truth.n - 1)
    elif truth.n == 2:
        label = 1
    if not ((answers >= 0) & (answers <= 1)).all():
        raise ValueError("a: expected probabilities from 0 to 1 for reliability; use softmax or logistic outputs")
    weight, right, sure = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for own, given, w in truth.blocks(answers):
        p = given.astype(np.float64)
        if p.shape[1] < truth.n:
            p = np.hstack([1 - p, p])
        best = p.argmax(axis=1) if label is None else np.full(len(p), label)
        chosen = p[np.arange(len(p)), best]
        which = np.minimum((chosen * bins).astype(int), bins - 1)
        w = np.ones(len(p)) if w is None else w
        for into, values in ((weight, w), (right, w * (own == best)), (sure, w * chosen)):
            into += np.bincount(which, values, bins)
    some = weight > 0
    p, share = sure[some] / weight[some], right[some] / weight[some]
    error = float((weight[some] * abs(share - p)).sum() / weight.sum())
    ax = _axes(ax, "plots.reliability", (4.4, 4.0))
    color = ax.plot(p, share, "o-", label=f"ECE {error:.3f}", zorder=3, clip_on=False)[0].get_color()
    ax.bar((np.arange(bins) + 0.5) / bins, weight / weight.sum(), 0.9 / bins, color=color, alpha=0.25)
    ax.plot([0, 1], [0, 1], "--", color="gray", linewidth=1, zorder=1)
    what = "of the answer" if label is None else f"of class {named[label]}"
    ax.set(xlabel=f"probability {what}", ylabel="how often it is right", xlim=(0, 1), ylim=(0, 1))
    ax.legend(loc="upper left")
    return ax


def residuals(
    y: Any, a: Any, *, names: Sequence[Any] | None = None, sample_weight: Any = None, ax: Any = None
) -> Any:  # fmt: skip
    """y - a over a, and the mean of y - a in ten groups of equally many examples, by a: a line that leaves 0 is what
    the network has not learnt.

    y: (n,) or (n, k) numbers.  a: answers, shaped alike.  names: of the k columns.  sample_weight: (n,); examples of
    weight 0 are left out.  Of more than 5,000 examples so many are shown, evenly spaced; the lines are of all.
    The legend has each column's root mean square error.
    """
    truths, outputs = _truth.given(y, a, sample_weight, True)
    truth = truths.numbers("residuals", 0.5)
    answers = truth.answers(outputs).astype(np.float64)
    names = _named(names, truth.n)
    ax = _axes(ax, "plots.residuals", (5.0, 3.6))
    apart = truth.y.astype(np.float64) - answers
    shown = np.unique(np.linspace(0, len(apart) - 1, _MOST_POINTS).round().astype(int))
    w = np.ones(len(apart)) if truth.weight is None else truth.weight
    for k in range(truth.n):
        x, d = answers[:, k], apart[:, k]
        rmse = math.sqrt((w * d * d).sum() / w.sum())
        prefix = f"{names[k]}, " if truth.n > 1 or names != ["0"] else ""
        size = 12 * np.clip(w[shown] / w.mean(), 0.2, 4)
        dots = ax.scatter(x[shown], d[shown], size, alpha=0.35, linewidths=0, label=f"{prefix}rmse {rmse:.3g}")
        groups = [group for group in np.array_split(np.argsort(x, kind="stable"), 10) if len(group)]
        means = [[np.average(values[group], weights=w[group]) for group in groups] for values in (x, d)]
        color = dots.get_facecolor()[0][:3]
        ax.plot(*means, "o-", color=color, markeredgecolor="white", linewidth=2, zorder=3)
    ax.axhline(0, linestyle="--", color="gray", linewidth=1, zorder=1)
    ax.set(xlabel="answer", ylabel="y - answer")
    ax.legend()
    return ax


def weights(net: Network, *, ax: Any = None) -> Any:
    """The weights of each layer, biases and scales left out: a line from the 1st to the 99th percentile, a bar from the
    25th to the 75th, a dot at the median."""
    with net._model.reading() as model:
        table = model.graph.parameters
        arrays = {name: np.array(model.params[name]).reshape(-1) for name, p in table.items() if p.decay}
    if not arrays:
        raise ValueError("net: expected a network with weights, and this one has none")
    some = {name: array[:: -(-array.size // _SAMPLE)] for name, array in arrays.items()}
    return _spans(some, "weight", "plots.weights", ax)


def activations(net: Network, X: Any, *, n_threads: int | None = None, ax: Any = None) -> Any:
    """What each layer gives for the rows of X, as `predict` takes them: a line from the 1st to the 99th percentile over
    rows and units, a bar from the 25th to the 75th, a dot at the median.

    In the network's own units, and nothing is drawn, as in `predict`; inputs of whole numbers are left out.
    """
    from bpcore import _inspect  # for those who need it

    threads = _threads.resolve(n_threads)
    with net._model.reading() as model:
        arrays = model.read(X)
        values = _inspect.collect(model, arrays, threads)
    return _spans({name: own.sample() for name, own in values.items()}, "value", "plots.activations", ax)


# ---- what they share ----


def _axes(ax: Any, caller: str, size: tuple[float, float]) -> Any:
    pyplot = _history_views.import_pyplot(caller)
    return pyplot.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _classes(caller: str, y: Any, a: Any, sample_weight: Any) -> tuple[_truth.Truth, np.ndarray]:
    truths, outputs = _truth.given(y, a, sample_weight, False)
    truths.exclusive = True  # rows of several columns have one 1 each
    truth = truths.classes(caller)
    return truth, truth.answers(outputs)


def _answered(a: np.ndarray, threshold: float) -> np.ndarray:
    """The class of each answer."""
    return (a[:, 0] >= threshold).astype(np.intp) if a.shape[1] == 1 else a.argmax(axis=1)


def _are_words(values: Any) -> bool:
    """Whether they are names of classes."""
    return np.asarray(values).dtype.kind in "USOT"


def _coded(what: str, values: Any, names: Sequence[Any] | None) -> Any:
    """Classes by number, where they are given by name."""
    if not _are_words(values):
        return values
    words = [str(value) for value in np.asarray(values).reshape(-1).tolist()]
    if names is None:
        raise TypeError(
            f"{what}: expected numbers of classes, got {words[0]!r}; with names=[...], in order, names will do"
        )
    number = {name: k for k, name in enumerate(_named(names, None))}
    for word in words:
        if word not in number:
            raise ValueError(f"{what}: expected one of names, got {word!r}.{did_you_mean(word, list(number))}")
    return np.array([number[word] for word in words])


def _named(names: Sequence[Any] | None, n: int | None) -> list[str]:
    """Names as strings, of n classes or columns; numbers unless given."""
    if names is None:
        return [str(k) for k in range(n or 0)]
    if isinstance(names, (str, bytes)) or not isinstance(names, (Sequence, np.ndarray)):
        raise TypeError(f"names: expected a list, got {names!r} of type {type(names).__name__}")
    if n is not None and len(names) != n:
        raise ValueError(f"names: expected {n}, got {len(names)}")
    return [str(name) for name in names]


def _spans(samples: Mapping[str, np.ndarray], xlabel: str, caller: str, ax: Any) -> Any:
    """A line, a bar and a dot for each, from the top down."""
    ax = _axes(ax, caller, (5.2, 0.9 + 0.3 * len(samples)))
    for k, sample in enumerate(samples.values()):
        known = sample[np.isfinite(sample)]
        if not len(known):
            continue
        low, left, middle, right, high = np.percentile(known, _LEVELS)
        color = ax.plot([low, high], [k, k], linewidth=1.2, color="C0")[0].get_color()
        ax.plot([left, right], [k, k], linewidth=7, color=color, alpha=0.55, solid_capstyle="butt")
        ax.plot([middle], [k], "o", color=color, markersize=4)
    ax.axvline(0, color="gray", linewidth=0.8, linestyle=":", zorder=1)
    ax.set_yticks(range(len(samples)), list(samples))
    ax.set(xlabel=xlabel, ylim=(len(samples) - 0.4, -0.6))
    return ax


def _of_inspection(found: Inspection) -> Any:
    """See Inspection.plot."""
    pyplot = _history_views.import_pyplot("inspection.plot")
    layers = found.layers
    moving = any("gradient" in own for own in layers.values())
    height = 1.3 + 0.3 * len(layers)
    figure, panels = pyplot.subplots(
        1, 2 + moving, squeeze=False, sharey=True, figsize=(4.2 * (2 + moving), height), layout="constrained"
    )
    values, shares = panels[0][:2]
    _spans(found._samples, "value", "inspection.plot", values)
    values.set(title="values")
    rows = range(len(layers))
    for name, color in (("dead", "C3"), ("at_ends", "C1")):
        of = [own.get(name, 0) / own["units"] for own in layers.values()]
        if name == "dead" or any(of):
            offset = 0.18 if name == "dead" else -0.18
            shares.barh([k - offset for k in rows], of, 0.34, color=color, label=name.replace("_", " "))
    shares.set(title="units", xlabel="share", xlim=(0, 1))
    shares.legend(loc="lower right")
    if moving:
        ratios = panels[0][2]
        for name, marker in (("gradient", "s"), ("update", "o")):
            points = []
            for k, own in enumerate(layers.values()):
                size = own.get(name, 0.0)
                if name == "gradient" and size:
                    size = size / own["weights"] if own["weights"] else 0.0
                points += [(size, k)] if size > 0 and math.isfinite(size) else []
            if points:
                ratios.plot(*zip(*points, strict=True), marker + "-", label=name)
        ratios.axvline(1e-3, color="gray", linestyle="--", linewidth=1, label="usual update")
        ratios.set(title="by the norm of the weights", xscale="log", xlabel="ratio")
        low, high = ratios.get_xlim()
        ratios.set_xlim(min(low, 1e-4), max(high, 1e-2))
        ratios.legend()
    return figure
