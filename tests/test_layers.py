"""Every layer, in the networks of layer_examples.py: derivatives of all kinds, by examples, inputs, and twice."""


import numpy as np
import pytest
from conftest import check_instruction_sets, distance
from layer_examples import examples, is_truncated

import bpcore as bp
from bpcore import _core
from bpcore._derivatives import output_gradients
from bpcore._layers import KINDS

SQUARED = {"loss": "squared_error"}

every_layer = pytest.mark.parametrize("op", KINDS)


def close(got, want, tolerance, least=1e-3):
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= tolerance * max(np.abs(want).max(initial=0), least)


def direction(net, seed=1):
    return np.random.default_rng(seed).standard_normal(net.n_params)


def along(net, v, value, h=1e-5):
    """The derivative of value() when theta moves along v, by central differences."""
    theta, h, found = net.theta.copy(), h / np.linalg.norm(v), []
    for sign in (-1, 1):
        net.theta = theta + sign * h * v
        found.append(value())
    net.theta = theta
    return (found[1] - found[0]) / (2 * h)


def test_each_layer_has_the_name_of_its_examples():
    for op in KINDS:
        assert any(layer.op == op for each in examples(op) for layer in each.net.layers)


@every_layer
def test_per_sample_gradients(op):
    for each in examples(op):
        X, y = each.args
        got = each.net.per_sample_gradients(X, y, **SQUARED)
        close(got.mean(0), each.net.value_and_grad(X, y, **SQUARED)[1], 1e-12)
        for i in range(len(y)):
            close(got[i], each.net.value_and_grad(*each.row(i), **SQUARED)[1], 1e-12)


@every_layer
def test_jacobians(op):
    """To 1e-8 of the largest: central differences by each input, but where a truncated layer cuts them."""
    for each in examples(op):
        net, X = each.net, each.X[0]
        if op == "embedding":
            with pytest.raises(ValueError, match="real"):
                net.jacobian(each.args[0])
            continue
        if len(each.X) > 1:  # test_random_graphs.py has several
            assert [J.shape for J in net.jacobian(each.args[0])] == [(len(X), net.n_outputs, x[0].size) for x in each.X]
            continue
        got = net.jacobian(X)
        for k in range(net.n_outputs):
            assert np.array_equal(net.input_gradient(X, output=k).reshape(len(X), -1), got[:, k])
        if is_truncated(net):
            continue
        for k in range(net.n_inputs):
            moved = np.zeros((2, *X.shape))
            moved.reshape(2, len(X), -1)[:, :, k] = np.array([[-1e-5], [1e-5]])
            before, after = (net.predict(X + each) for each in moved)
            close(got[:, :, k], ((after - before) / 2e-5).reshape(len(X), -1), 1e-8, least=0.1)


@every_layer
def test_hessian_products(op):
    """To 1e-7 of the largest: central differences of gradients, cut ones too.  Elsewhere H is symmetric, to 1e-12."""
    for each in examples(op):
        net, w = each.net, np.linspace(0, 2, len(each.y))
        v, u = direction(net), direction(net, 2)
        for options in (SQUARED, {"loss": "mse", "sample_weight": w}):
            Hv = net.hvp(*each.args, v, **options)
            want = along(net, v, lambda net=net, each=each, o=options: net.value_and_grad(*each.args, **o)[1])
            close(Hv, want, 1e-7, least=0.1)
        if not is_truncated(net):
            Hu = net.hvp(*each.args, u, **options)
            assert abs(u @ Hv - v @ Hu) <= 1e-12 * max(1, np.linalg.norm(Hv) * np.linalg.norm(u))


@every_layer
def test_hessian_products_with_frozen_layers(op):
    for each in examples(op):
        for frozen in {node.base for node in each.net._model.graph.nodes if node.parameters}:
            net = each.net.copy()
            net.frozen = {frozen}
            v = direction(net)
            want = along(net, v, lambda net=net, each=each: net.value_and_grad(*each.args, **SQUARED)[1])
            close(net.hvp(*each.args, v, **SQUARED), want, 1e-7, least=0.1)


@every_layer
def test_gauss_newton_products(op):
    """J^T H_L J v, J from gradients of outputs, to 1e-12; and H v, where nothing is left to learn."""
    for each in examples(op):
        net, v = each.net, direction(each.net)
        X, y = each.args
        got = net.gauss_newton_product(X, y, v, **SQUARED)
        if len(each.X) == 1 and not is_truncated(net):
            J = output_gradients(net._model, [X], 0, 1)
            positions = y[0].size / y.shape[-1]
            close(got, J.T @ (J @ v) / (len(y) * positions), 1e-12)
        learned = net.predict(X)
        close(net.hvp(X, learned, v, **SQUARED), net.gauss_newton_product(X, learned, v, **SQUARED), 1e-11)


@pytest.mark.parametrize("kind", [bp.SimpleRNN, bp.LSTM, bp.GRU])
def test_200_steps(kind):
    rng = np.random.default_rng(0)
    net = bp.Network([bp.Input((200, 2)), kind(5, sequences=True), kind(4, truncate=70), bp.Dense(1)], dtype="float64")
    X, y, v = rng.standard_normal((20, 200, 2)), rng.standard_normal(20), direction(net)
    want = along(net, v, lambda: net.value_and_grad(X, y)[1], h=1e-4)
    close(net.hvp(X, y, v), want, 1e-7)


def test_one_layer_twice():
    rng = np.random.default_rng(0)
    for kind in (bp.SimpleRNN, bp.LSTM, bp.GRU):
        x, layer, norm = bp.Input((4, 3)), kind(3, sequences=True), bp.LayerNorm()
        net = bp.Network(x, bp.MaxPool1D(2)(norm(layer(norm(layer(x)))) + layer(x)), dtype="float64")
        net.theta[:] = rng.standard_normal(net.n_params)
        X, y, v = rng.standard_normal((5, 4, 3)), rng.standard_normal((5, 2, 3)), direction(net)
        close(net.hvp(X, y, v), along(net, v, lambda net=net, X=X, y=y: net.value_and_grad(X, y)[1]), 1e-7)


# ---- bits, types, machines ----

WAYS = [(True, "owners", ""), (True, "shards", ""), (False, "", ""), (False, "", "blas")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_layer
def test_bits_do_not_depend_on_threads(op, dtype, way, force):
    """And all ways agree with float64, to 1e-12 (1e-3 in float32: sums cancel)."""
    before, wanted = bp.get_num_threads(), examples(op, rows=70)[-1]
    v = direction(wanted.net)
    want = [call(*wanted.args, v, **SQUARED) for call in (wanted.net.hvp, wanted.net.gauss_newton_product)]
    force(*way)
    net, found = bp.Network._of(wanted.net._model.like(dtype)), []
    try:
        for n_threads in (1, 2, 3):
            bp.set_num_threads(n_threads)
            found.append([call(*wanted.args, v, **SQUARED) for call in (net.hvp, net.gauss_newton_product)])
    finally:
        bp.set_num_threads(before)
    for each in found:
        assert [a.tobytes() for a in each] == [a.tobytes() for a in found[0]]
    for got, exact in zip(found[0], want, strict=True):
        assert got.dtype == dtype and distance(got, exact) < (1e-3 if dtype == "float32" else 1e-12)


PROGRAM = """
import sys
import bpcore as bp
import numpy as np
from layer_examples import examples
found = {}
for op in ("simple_rnn", "lstm", "gru", "layer_norm", "rms_norm", "group_norm", "batch_norm", "max_pool2d"):
    for dtype in ("float32", "float64"):
        for i, each in enumerate(examples(op, rows=40)):
            net = bp.Network._of(each.net._model.like(dtype))
            found[f"{op} {i} {dtype}"] = net.hvp(*each.args, np.ones(net.n_params), loss="squared_error")
np.savez(sys.argv[1], **found)
"""


def test_all_instruction_sets_agree(tmp_path):
    check_instruction_sets(PROGRAM, tmp_path, float32=1e-3, float64=1e-11)


# ---- what C refuses ----

# an operation, columns of its inputs, its parameters, its settings; and what does not fit in place of one of them
RECURRENCE = ("linear_recurrence", (24, 24, 12, 12, 3), ((4, 8),), [3, 4, 0, 0, 1, 1])
DELAY = ("delay", (12,), (), [3, 4, 0, 0])
NORM, PRODUCT = ("normalise", (12,), (), [4, 1]), ("layer_norm_product", (12, 12), (), [4])
AT = ("max_pool_at", (2, 8), (), [2, 2, 2, 2, 2, 2, 2, 0, 0, 1, 1])
WRONG = [
    (RECURRENCE, 1, (24, 24, 12, 12)), (RECURRENCE, 1, (24, 12, 12, 12, 3)), (RECURRENCE, 1, (24, 24, 24, 12, 3)),
    (RECURRENCE, 1, (24, 24, 12, 24, 3)), (RECURRENCE, 1, (24, 24, 12, 12, 4)), (RECURRENCE, 1, (25, 25, 12, 12, 3)),
    (RECURRENCE, 2, ((4, 12),)), (RECURRENCE, 2, ((3, 8),)), (RECURRENCE, 2, ((4, 7),)),
    (RECURRENCE, 2, ((4, 8), (4, 8))), (RECURRENCE, 3, [0, 4, 0, 0, 1, 1]), (RECURRENCE, 3, [3, 0, 0, 0, 1, 1]),
    (RECURRENCE, 3, [3, 4, -1, 0, 1, 1]), (RECURRENCE, 3, [3, 4, 0, 0, 0, 1]),
    (RECURRENCE, 3, [2**40, 2**40, 0, 0, 1, 1]),
    (DELAY, 1, (13,)), (DELAY, 1, (12, 12)), (DELAY, 2, ((3, 4),)), (DELAY, 3, [0, 4, 0, 0]), (DELAY, 3, [3, 5, 0, 0]),
    (NORM, 1, (13,)), (NORM, 1, (12, 12)), (NORM, 2, ((4, 1),)), (NORM, 3, [0]), (NORM, 3, [5]), (NORM, 3, [4, 2]),
    (NORM, 3, [4, -1]),
    (PRODUCT, 1, (12,)), (PRODUCT, 1, (12, 8)), (PRODUCT, 1, (13, 13)), (PRODUCT, 2, ((4, 1),)), (PRODUCT, 3, [0]),
    (AT, 1, (8,)), (AT, 1, (3, 8)), (AT, 1, (2, 9)), (AT, 3, [2, 2, 2, 2, 2, 2, 2, 2, 0, 1, 1]),
]  # fmt: skip


@pytest.mark.parametrize("good, place, wrong", WRONG)
def test_c_refuses_what_does_not_fit(good, place, wrong):
    def op(name, columns, params, settings):
        plan, at, slots = _core.Plan(np.float32), 0, []
        for rows, cols in params:
            slots.append(plan.param(at, rows, cols, False))
            at += rows * cols
        return plan.op(name, [plan.buffer(cols) for cols in columns], slots, settings=(settings, []))

    assert op(*good) > 0
    with pytest.raises((ValueError, MemoryError)):
        op(*good[:place], wrong, *good[place + 1 :])
