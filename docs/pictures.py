"""Draws the pictures of docs/inspect.md into docs/img; needs matplotlib.

python docs/pictures.py
"""

import io
from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image

import bpcore as bp

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

IMAGES = Path(__file__).parent / "img"


def keep(name: str) -> None:
    """The figure that was drawn last, as docs/img/NAME.png: of its points and cells a tenth of an SVG."""
    pixels = io.BytesIO()
    pyplot.gcf().savefig(pixels, dpi=90)
    PIL.Image.open(pixels).convert("RGB").quantize(64).save(IMAGES / f"{name}.png", optimize=True)
    pyplot.close("all")


def graph() -> None:
    """A network with two outputs and a path around a layer."""
    image, age = bp.Input(36, name="image"), bp.Input(1, name="age")
    h = bp.Dense(64, "relu")(image)
    h = bp.concat([h + bp.Dense(64, "relu")(h), age])
    outputs = [bp.Dense(10, "softmax", name="digit")(h), bp.Dense(1, name="size")(h)]
    bp.Network([image, age], outputs).plot(IMAGES / "graph.svg")


def vanishing() -> None:
    """Eight layers of logistic units."""
    train, _ = bp.datasets.load_digits().split(seed=0)
    deep = [bp.Dense(32, "logistic") for _ in range(8)]
    net = bp.Network([bp.Input(64), *deep, bp.Dense(10, "softmax")], seed=0)
    net.fit(train.X, train.y, epochs=3)
    net.inspect(train.X, train.y).plot()
    keep("vanishing")


def answers() -> None:
    """Classes and numbers, and what a network made of them."""
    train, test = bp.datasets.load_digits().split(seed=0)
    net = bp.Network([bp.Input(64), bp.Dense(64, "relu"), bp.Dense(10, "softmax")], seed=0)
    net.fit(train.X, train.y, optimizer=bp.Adam(), epochs=4)
    a = net.predict(test.X)
    _, panels = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    bp.plots.confusion(test.y, a, ax=panels[0])
    bp.plots.reliability(test.y, a, ax=panels[1])
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (300, 1))
    y = np.sin(x) + 0.1 * rng.standard_normal((300, 1))
    net = bp.Network([bp.Input(1), bp.Dense(8, "tanh"), bp.Dense(1)], seed=0)
    net.fit(x, y, optimizer=bp.Adam(lr=0.01), epochs=30)
    bp.plots.residuals(y, net.predict(x), ax=panels[2])
    keep("answers")


if __name__ == "__main__":
    graph()
    vanishing()
    answers()
