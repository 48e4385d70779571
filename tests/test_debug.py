"""The teaching twins agree with the engine."""

import numpy as np
import pytest

import bpcore as bp
from bpcore import debug


def chain(activation, last, dtype="float64", bias=True):
    layers = [bp.Input(4), bp.Dense(5, activation), bp.Dense(3, activation, bias=bias), bp.Dense(3, last)]
    net = bp.Network(layers, dtype=dtype)
    rng = np.random.default_rng(1)
    net.theta[...] = rng.normal(0, 0.6, net.n_params)
    return net, rng.normal(size=(6, 4)), rng.dirichlet(np.ones(3), 6)


CASES = [
    ("tanh", "identity", "squared_error"),
    ("relu", "softmax", "cross_entropy"),
    ("gelu", "softmax", "mse"),
    ("softplus", "logistic", "binary_cross_entropy"),
    ("silu", "logistic", "auto"),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation, last, loss", CASES)
def test_twins_agree_with_the_engine(activation, last, loss, bias):
    net, X, y = chain(activation, last, bias=bias)
    _, grad = net.value_and_grad(X, y, loss=loss)
    before = net.theta.copy()
    forwards = debug.naive_forward_accumulation(net, X, y, loss=loss)
    moved = debug.perturbation(net, X, y, loss=loss)
    size = np.linalg.norm(grad)
    assert np.linalg.norm(forwards - grad) <= 1e-13 * size
    assert np.linalg.norm(moved - grad) <= 1e-8 * size
    assert (net.theta == before).all()


def test_twins_in_float32():
    net, X, y = chain("tanh", "softmax", dtype="float32")
    _, grad = net.value_and_grad(X, y)
    size = np.linalg.norm(grad)
    assert np.linalg.norm(debug.naive_forward_accumulation(net, X, y) - grad) <= 2e-6 * size
    assert np.linalg.norm(debug.perturbation(net, X, y) - grad) <= 2e-3 * size


def test_labels_and_one_layer():
    net = bp.Network([bp.Input(4), bp.Dense(3, "softmax")], dtype="float64")
    X = np.random.default_rng(0).normal(size=(5, 4))
    y = np.array([0, 1, 2, 1, 0])
    _, grad = net.value_and_grad(X, y)
    np.testing.assert_allclose(debug.naive_forward_accumulation(net, X, y), grad, rtol=1e-12)
    np.testing.assert_allclose(debug.perturbation(net, X, y), grad, rtol=1e-7, atol=1e-10)


def test_other_networks_are_refused():
    shared = bp.Dense(4, "tanh")
    net = bp.Network([bp.Input(4), shared, shared])
    for twin in (debug.naive_forward_accumulation, debug.perturbation):
        with pytest.raises(ValueError, match="each used once"):
            twin(net, np.zeros((2, 4)), np.zeros((2, 4)))
