"""RMSNorm and GroupNorm: values against NumPy, accuracy, gradients, files, errors.

test_layers.py and test_random_graphs.py have their derivatives, bits and pairs; peers/ compares with PyTorch.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import distance
from safetensors import safe_open

import bpcore as bp

RNG = np.random.default_rng(0)
DTYPES = pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 1e-6)])


def net_of(layer, shape, dtype="float64"):
    net = bp.Network([bp.Input(shape), layer], dtype=dtype)
    assert all((p == 1).all() if name.endswith(".s") else (p == 0).all() for name, p in net.params.items())
    net.theta = RNG.normal(size=net.n_params)
    return net


def check(net, X, want, tolerance):
    got = net.predict(X)
    assert got.dtype == X.dtype and distance(got, want) < tolerance
    assert (net.predictor()(X[3]) == got[3]).all() and (net.predict(X[3:5]) == got[3:5]).all()


@DTYPES
@pytest.mark.parametrize("units", [1, 2, 7, 16, 17, 100])
def test_rms_norm(units, dtype, tolerance):
    net = net_of(bp.RMSNorm(eps=1e-3, name="n"), (3, units), dtype)
    X = RNG.normal(5, 2, (70, 3, units)).astype(dtype)
    a = X.astype(float)
    check(net, X, net.params["n.s"] * a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-3), tolerance)


@DTYPES
@pytest.mark.parametrize("shape, groups", [((12,), 3), ((5, 6), 1), ((5, 6), 2), ((4, 3, 8), 4), ((4, 3, 8), 8)])
def test_group_norm(shape, groups, dtype, tolerance):
    """Over all positions and the neighbouring channels of a group."""
    net = net_of(bp.GroupNorm(groups, eps=1e-3, name="n"), shape, dtype)
    X = RNG.normal(5, 2, (70, *shape)).astype(dtype)
    n = X.astype(float).reshape(70, -1, groups, shape[-1] // groups)
    n = (n - n.mean((1, 3), keepdims=True)) / np.sqrt(n.var((1, 3), keepdims=True) + 1e-3)
    check(net, X, net.params["n.s"] * n.reshape(X.shape) + net.params["n.b"], 10 * tolerance)


def test_one_group_of_units_is_layer_norm():
    one, other = (bp.Network([bp.Input(37), layer], dtype="float32") for layer in (bp.GroupNorm(1), bp.LayerNorm()))
    one.theta = other.theta = RNG.normal(size=74)
    X = RNG.normal(size=(50, 37))
    assert (one.predict(X) == other.predict(X)).all()


@pytest.mark.parametrize("layer", [bp.RMSNorm(), bp.GroupNorm(1), bp.GroupNorm(3), bp.GroupNorm(30)], ids=repr)
def test_gradients(layer):
    layers = [bp.Input(2), bp.Dense(120), bp.Reshape((2, 2, 30)), layer, bp.Reshape(-1), bp.Dense(2)]
    net = bp.Network(layers, dtype="float64", seed=1)
    net.theta = 0.5 * RNG.normal(size=net.n_params)
    errors = bp.check_gradients(net, RNG.normal(size=(5, 2)), RNG.normal(size=(5, 2)), sample_weight=RNG.random(5))
    assert max(errors.values()) < 1e-7


@pytest.mark.parametrize("layer", [bp.RMSNorm(), bp.GroupNorm(4)], ids=repr)
def test_a_million_features(layer):
    """In float32 to 1e-6 (one chain of additions is off by a percent), also of gradients."""
    X = RNG.random((1, 250_000, 4), dtype=np.float32)
    single, double = (bp.Network([bp.Input(X.shape[1:]), bp.Reshape((1000, 1000)), layer], dtype=dtype)
                      for dtype in ("float32", "float64"))  # fmt: skip
    assert distance(single.predict(X), double.predict(X)) < 1e-6
    y = -double.predict(X)
    assert distance(single.value_and_grad(X, y)[1], double.value_and_grad(X, y)[1]) < 1e-6


def test_streams():
    """RMSNorm works step by step; GroupNorm mixes time steps."""
    x = bp.Input((6, 3))
    net = bp.Network(x, bp.GRU(4)(bp.RMSNorm()(x)))
    X = RNG.normal(size=(6, 3))
    step = net.stepper()
    assert [step(x) for x in X][-1].tobytes() == net.predict(X[None])[0].tobytes()
    with pytest.raises(ValueError, match="mixes time steps"):
        bp.Network(x, bp.GRU(4)(bp.GroupNorm(3)(x))).stepper()


@pytest.mark.parametrize("layer", [bp.RMSNorm(eps=1e-3), bp.GroupNorm(3, eps=1e-3)], ids=repr)
def test_files_say_that_they_are_of_format_2(layer, tmp_path):
    net = net_of(layer, (4, 6))
    net.save(tmp_path / "net")
    with safe_open(tmp_path / "net", framework="numpy") as file:
        assert file.metadata()["bpcore_format"] == "2"
        assert json.loads(file.metadata()["graph"])["nodes"][1]["attributes"]["eps"] == 1e-3
    X = RNG.normal(size=(5, 4, 6))
    assert (bp.load(tmp_path / "net").predict(X) == net.predict(X)).all()


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: bp.RMSNorm(eps=0), ValueError, "eps"),
        (lambda: bp.RMSNorm(eps=None), TypeError, "eps"),
        (lambda: bp.GroupNorm(2, eps=2), ValueError, "eps"),
        (lambda: bp.GroupNorm(0), ValueError, "groups"),
        (lambda: bp.GroupNorm(1.5), TypeError, "groups"),
        (lambda: bp.GroupNorm(4)(bp.Input((3, 6))), ValueError, r"multiple of groups=4, got \(3, 6\)"),
    ],
)
def test_wrong_settings_and_shapes(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_the_page_runs():
    text = (Path(__file__).parent.parent / "docs/normalization.md").read_text(encoding="utf-8")
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, "docs/normalization.md", "exec"), {})  # it asserts for itself
