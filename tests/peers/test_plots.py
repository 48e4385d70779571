"""bp.plots, and the pictures and frames of inspections: what is drawn is what the data say."""

import io
import math
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas
import pytest
from matplotlib import pyplot
from sklearn.metrics import confusion_matrix

import bpcore as bp

matplotlib.use("Agg")
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def answers(n, k):
    a = rng.random((n, k)) + 0.01
    return a / a.sum(axis=1, keepdims=True)


def drawn(ax):
    ax.figure.savefig(io.BytesIO(), format="png", dpi=30)
    return ax


@pytest.mark.parametrize("k, weighted", [(3, False), (20, True), (90, False), (2, True)])
def test_confusion_is_that_of_scikit_learn(k, weighted):
    y, a = rng.integers(0, k, 500), answers(500, k)
    y[y == 1] = 0  # a class that is absent
    w = rng.random(500) * (rng.random(500) > 0.3) if weighted else None
    ax = bp.plots.confusion(y, a, sample_weight=w)
    counts = confusion_matrix(y, a.argmax(axis=1), sample_weight=w, labels=range(k))
    shares = ax.images[0].get_array()
    assert np.isnan(shares[1]).all() or shares.mask[1].all()  # and has no colours
    others = counts.any(axis=1)
    assert not others[1]
    np.testing.assert_allclose(shares[others], counts[others] / counts[others].sum(axis=1, keepdims=True), 1e-12)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == ({(j, i): f"{counts[i, j]:.4g}" for i, j in np.argwhere(counts)} if k <= 20 else {})
    assert ax.get_title() == f"right: {counts.trace() / counts.sum():.1%}" and len(ax.get_xticks()) <= 45


def test_confusion_of_one_column_names_and_given_axes():
    y, p, names = np.array([0, 1, 1, 0]), np.array([0.2, 0.9, 0.4, np.nan]), ["no", "yes, it is"]
    figure, ax = pyplot.subplots()
    assert drawn(bp.plots.confusion(y, p, names=names, ax=ax)) is ax and pyplot.get_fignums() == [figure.number]
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert {(t.get_position(), t.get_text()) for t in ax.texts} == {((0, 0), "1"), ((0, 1), "1"), ((1, 1), "1")}
    one_hot = bp.plots.confusion(np.eye(2)[y[:3]], np.stack([1 - p, p], axis=1)[:3])
    assert {(t.get_position(), t.get_text()) for t in one_hot.texts} == {((0, 0), "1"), ((0, 1), "1"), ((1, 1), "1")}


@pytest.mark.parametrize("of", [list, pandas.Categorical])
def test_classes_by_name(of):
    names, y, a = ["ant", "bee", "cat"], rng.integers(0, 3, 90), answers(90, 3)
    words, answered = of(np.array(names)[y].tolist()), of(np.array(names)[a.argmax(axis=1)].tolist())
    written = [
        sorted((text.get_position(), text.get_text()) for text in bp.plots.confusion(*pair, names=names).texts)
        for pair in ((y, a), (words, a), (words, answered), (y, answered))
    ]
    assert written[1:] == written[:1] * 3
    lines = [bp.plots.reliability(*pair, names=names).lines[0] for pair in ((y, a), (words, a))]
    assert lines[0].get_xydata().tolist() == lines[1].get_xydata().tolist()
    by_name = bp.plots.reliability(words, a, label="bee", names=names)
    assert by_name.get_xlabel() == "probability of class bee"
    expected = bp.plots.reliability(y, a, label=1).lines[0].get_xydata()
    assert by_name.lines[0].get_xydata().tolist() == expected.tolist()


def test_reliability():
    n = 40_000
    p = rng.random(n)
    y = (rng.random(n) < p**2).astype(int)  # too sure of class 1
    w = rng.random(n)
    ax = drawn(bp.plots.reliability(y, p, sample_weight=w, bins=5))
    line, diagonal = ax.lines
    edges = np.linspace(0, 1, 6)
    for k, (x, share) in enumerate(line.get_xydata()):
        own = (p >= edges[k]) & (p < edges[k + 1])
        assert x == pytest.approx(np.average(p[own], weights=w[own]))
        assert share == pytest.approx(np.average(y[own], weights=w[own]))
        assert ax.patches[k].get_height() == pytest.approx(w[own].sum() / w.sum())
    apart = abs(line.get_ydata() - line.get_xdata())
    shares = [patch.get_height() for patch in ax.patches]
    assert line.get_label() == f"ECE {np.dot(apart, shares):.3f}" and 0.1 < np.dot(apart, shares) < 0.2
    assert "class 1" in ax.get_xlabel()
    both = bp.plots.reliability(y, np.stack([1 - p, p], axis=1), sample_weight=w, bins=5).lines[0]
    np.testing.assert_allclose(both.get_xydata(), line.get_xydata(), 1e-12)


def test_reliability_of_several_classes_is_that_of_the_answer_or_of_one():
    y, a = rng.integers(0, 4, 3000), answers(3000, 4)
    line = drawn(bp.plots.reliability(y, a, bins=20)).lines[0]
    best = a.max(axis=1)
    for x, share in line.get_xydata():
        own = (best * 20).astype(int) == int(x * 20)
        assert (x, share) == pytest.approx((best[own].mean(), (a.argmax(axis=1) == y)[own].mean()))
    line = bp.plots.reliability(y, a, bins=1, label=2).lines[0]
    assert line.get_xydata()[0] == pytest.approx((a[:, 2].mean(), (y == 2).mean()))


def test_residuals():
    a = rng.standard_normal((6000, 2))
    y = a + [0.5, 0] + rng.standard_normal((6000, 2))
    w = rng.random(6000) * (rng.random(6000) > 0.5)
    ax = drawn(bp.plots.residuals(y, a, names=["first", "second"], sample_weight=w))
    rmse = [math.sqrt(np.average((y - a)[:, k] ** 2, weights=w)) for k in range(2)]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"first, rmse {rmse[0]:.3g}", f"second, rmse {rmse[1]:.3g}"]
    assert [len(dots.get_offsets()) for dots in ax.collections] == [(w > 0).sum()] * 2
    first, second, zero = ax.lines
    assert len(first.get_xdata()) == 10 and abs(first.get_ydata() - 0.5).max() < 0.3 > abs(second.get_ydata()).max()
    single = bp.plots.residuals(y[:, 0], a[:, 0])
    assert single.get_legend().get_texts()[0].get_text().startswith("rmse ")
    offsets = single.collections[0].get_offsets()
    assert len(offsets) == 5000 and offsets[0].tolist() == [a[0, 0], y[0, 0] - a[0, 0]]
    assert len(bp.plots.residuals([1.0, 2.0], [1.0, 1.0]).lines[0].get_xdata()) == 2


def network():
    net = bp.Network([bp.Input(5), bp.Dense(8, "tanh"), bp.BatchNorm(), bp.Dense(3, "softmax")], seed=0)
    return net, rng.standard_normal((300, 5)), rng.integers(0, 3, 300)


def spans(ax):
    """The five numbers of each line."""
    return [[*line.get_xdata(), *bar.get_xdata(), *dot.get_xdata()] for line, bar, dot in zip(
        ax.lines[:-1:3], ax.lines[1:-1:3], ax.lines[2:-1:3], strict=True)]  # fmt: skip


def test_weights_and_activations_by_layer():
    net, X, _ = network()
    ax = drawn(bp.plots.weights(net))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["dense_1.W", "dense_2.W"]
    for name, numbers in zip(("dense_1.W", "dense_2.W"), spans(ax), strict=True):
        np.testing.assert_allclose(numbers, np.percentile(net.params[name], [1, 99, 25, 75, 50]), 1e-6)
    ax = drawn(bp.plots.activations(net, X))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["input", "dense_1", "batch_norm_1", "dense_2"]
    for a, numbers in zip((X, net.part("input", "dense_1").predict(X)), spans(ax), strict=False):
        np.testing.assert_allclose(numbers, np.percentile(a, [1, 99, 25, 75, 50]), 1e-5, 1e-6)


def test_inspections():
    net, X, y = network()
    found = net.inspect(X, y)
    frame = found.to_frame()
    assert frame.index.tolist() == list(found.layers) and frame.index.name == "layer"
    for name, own in found.layers.items():
        for column in frame:
            assert frame[column][name] == own[column] if column in own else math.isnan(frame[column][name])
    values, shares, ratios = found.plot().axes
    assert spans(values)[0] == pytest.approx(np.percentile(X, [1, 99, 25, 75, 50]), rel=1e-5)
    dead = [patch.get_width() for patch in shares.patches[:4]]
    assert dead == [own["dead"] / own["units"] for own in found.layers.values()]
    gradients, updates, _ = ratios.lines
    assert updates.get_xdata() == pytest.approx([own["update"] for own in found.layers.values() if "update" in own])
    own = found.layers["dense_1"]
    assert gradients.get_xdata()[0] == pytest.approx(own["gradient"] / own["weights"])
    drawn(values)
    assert len(net.inspect(X).plot().axes) == 2
    net.theta[:] = 0  # nothing to divide by
    drawn(net.inspect(X, y).plot().axes[0])
    assert isinstance(frame, pandas.DataFrame)


@pytest.mark.parametrize("call, words", [
    (lambda y, a: bp.plots.confusion(y, a, names=["a"]), "names: expected 3, got 1"),
    (lambda y, a: bp.plots.confusion(y, a, names="abc"), "names: expected a list"),
    (lambda y, a: bp.plots.confusion(["ant"] * 60, a), "y: expected numbers of classes, got 'ant'; with names="),
    (lambda y, a: bp.plots.confusion(["amt"] * 60, a, names=["ant", "bee", "c"]), "got 'amt'. Did you mean 'ant'"),
    (lambda y, a: bp.plots.confusion(y, ["bee", None] * 30, names=["ant", "bee", "c"]), "a: expected one of names"),
    (lambda y, a: bp.plots.reliability(y, a, label="bug", names=["ant", "bee", "c"]), "label: expected one of names"),
    (lambda y, a: bp.plots.confusion(y + 1, a), "y: expected numbers from 0 to 2"),
    (lambda y, a: bp.plots.confusion(y[:5], a), "y: expected 60 rows"),
    (lambda y, a: bp.plots.confusion(np.ones((60, 3)), a), "confusion is for classes"),
    (lambda y, a: bp.plots.reliability(y, a * 3), "a: expected probabilities from 0 to 1 for reliability"),
    (lambda y, a: bp.plots.reliability(y, a, label=3), "label: expected"),
    (lambda y, a: bp.plots.reliability(y, a, bins=0), "bins: expected"),
    (lambda y, a: bp.plots.reliability(y, a * np.nan), "a: expected probabilities"),
    (lambda y, a: bp.plots.residuals(y, a), "y: expected"),
    (lambda y, a: bp.plots.weights(bp.Network([bp.Input(2), bp.Activate("tanh")])), "a network with weights"),
    (lambda y, a: bp.plots.activations(network()[0], a), "X: expected"),
])  # fmt: skip
def test_wrong_input(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call(rng.integers(0, 3, 60), answers(60, 3))
    assert not pyplot.get_fignums()


def test_the_snippets_of_the_page_run(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs/inspect.md"
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```py(?:thon)?\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, "docs/inspect.md", "exec"), names)
    assert len(pyplot.get_fignums()) == 4
