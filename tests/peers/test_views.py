"""Histories as frames of pandas and pictures of matplotlib, progress through tqdm."""

import io
import sys

import matplotlib
import numpy as np
import pandas
import pytest

import bpcore as bp

matplotlib.use("Agg")
rng = np.random.default_rng(0)
X, LABELS = rng.standard_normal((60, 3)), rng.integers(0, 3, 60)


def fitted(**settings):
    net = bp.Network([bp.Input(3), bp.Dense(4, "tanh"), bp.Dense(3, "softmax")], seed=0)
    return net.fit(X, LABELS, **{"epochs": 4, "validation_split": 0.25, "metrics": "f1_macro", **settings})


def test_frames():
    history = fitted()
    frame = history.to_frame()
    assert frame.index.tolist() == [1, 2, 3, 4] and frame.index.name == "epoch"
    assert pandas.DataFrame(history).set_index("epoch").equals(frame)
    assert list(frame) == [name for name in history if name != "epoch"]
    for name, values in frame.items():
        assert values.dtype == float and values.tolist() == history[name]
    assert bp.History().to_frame().empty


def test_pictures():
    history = fitted()
    picture = history.plot()
    titles = [axes.get_title() for axes in picture.axes]
    assert titles == ["loss", "metrics", "lr"]
    curves = {line.get_label(): line for axes in picture.axes for line in axes.lines}
    assert set(curves) == {"loss", "val_loss", "val_accuracy", "val_f1_macro", "lr"}
    for name, line in curves.items():
        assert line.get_xdata().tolist() == history.epoch and line.get_ydata().tolist() == history[name]
    picture.savefig(io.BytesIO(), format="png")
    assert [axes.get_title() for axes in fitted(validation_split=None, metrics=()).plot().axes] == ["loss", "lr"]
    with pytest.raises(ValueError, match="a history with epochs"):
        bp.History().plot()
    matplotlib.pyplot.close("all")


def test_the_picture_of_a_range_test():
    finder = bp.LearningRateFinder(steps=40)
    fitted(callbacks=finder, epochs=99, validation_split=None, metrics=())
    (axes,) = finder.plot().axes
    curve, mark = axes.lines
    assert curve.get_xdata().tolist() == finder.rates and curve.get_ydata().tolist() == finder.losses
    assert set(mark.get_xdata()) == {finder.suggestion} and axes.get_xscale() == "log"
    matplotlib.pyplot.close("all")


def test_a_bar_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    fitted(verbose=1)
    last = out.getvalue().split("\r")[-1]
    assert last.startswith("epoch 4/4: 100%|") and "loss " in last and "samples/s]" in last and last.endswith("\n")
