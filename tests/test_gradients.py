"""Every gradient: against central differences, against the oracle, float32 against float64; and the bits of rows."""

import losses
import numpy as np
import pytest
import reference as ref
from conftest import distance, flat, oracle

import bpcore as bp
from bpcore import _core

CENTRAL, EXACT, SINGLE = 1e-7, 1e-12, 2e-5  # norm-wise tolerances, the first by parameter

HUBER = 0.3
huber = (
    lambda a, y: np.sum(np.where(abs(a - y) <= HUBER, (a - y) ** 2 / 2, HUBER * (abs(a - y) - HUBER / 2)), 1),
    lambda a, y: np.clip(a - y, -HUBER, HUBER),
)
pytestmark = pytest.mark.filterwarnings("ignore:loss. cross_entropy is for")  # any loss after any output
# how it is called here: (bpcore's, the oracle's)
LOSSES = {name: (name, name) for name in ref.LOSSES} | {
    "cross_entropy of labels": ("cross_entropy", "cross_entropy"),
    "huber": (bp.losses.Huber(HUBER), huber),
}
KINKS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])  # of all activations

every_activation = pytest.mark.parametrize("activation", bp.activations.NAMES)
every_loss = pytest.mark.parametrize("loss", LOSSES)


def away_from_kinks(z):
    near = abs(z[..., None] - KINKS).min(-1) < 0.01
    return z + 0.02 * near


def middle(name):
    """A z at which f(z) is near 1/2."""
    z = np.linspace(-2, 2, 401)
    return 0.0 if name == "softmax" else z[np.argmin(abs(ref.ACTIVATIONS[name][0](z) - 0.5))]


def example(activation, depth, loss, *, bias=True, seed=0):
    """A float64 net with `activation` in every layer, X and y: z is drawn, away from kinks and, where the loss is
    defined for outputs within (0, 1) alone, such that they lie there; W then solves a W^T + b = z."""
    rng = np.random.default_rng(seed + depth)
    n, sizes = 5, [8, *[12, 11, 13][: depth - 1], 3]
    net = bp.Network([bp.Input(8), *(bp.Dense(k, activation, bias=bias) for k in sizes[1:])], dtype="float64")
    X = rng.normal(size=(n, 8))
    a, reach = X, {"hard_sigmoid": 4.5, "hard_tanh": 1.3}.get(activation, 1.8)
    for k in range(1, depth + 1):
        z = away_from_kinks(rng.uniform(-reach, reach, (n, sizes[k])))
        if k == depth and "entropy" in loss and activation not in ("logistic", "softmax"):
            z = away_from_kinks(middle(activation) + rng.uniform(-0.3, 0.3, z.shape))
        if bias:
            net.b[k][:] = rng.uniform(-0.3, 0.3, sizes[k])
        net.W[k][:] = np.linalg.lstsq(a, z - (net.b[k] if bias else 0), rcond=None)[0].T
        a = ref.ACTIVATIONS[activation][0](z)
    y = rng.uniform(0, 0.6, (n, 3))
    y += 0.2 * (abs(a - y) < 0.1)  # a difference of equals has no digits
    if loss == "cross_entropy":
        y /= y.sum(axis=1, keepdims=True)
    return net, X, rng.integers(0, 3, n) if loss == "cross_entropy of labels" else y


def check_against_the_oracle(net, X, y, loss, sample_weight=None, tolerance=EXACT, **options):
    """Everything that forward, backward and value_and_grad return."""
    ours, theirs = LOSSES[loss]
    W, b, names = oracle(net)
    z, a, df = ref.forward(W, b, names, X)
    C, delta, dW, db, dx = ref.backward(W, names, z, a, df, y, theirs, sample_weight)
    tape = net.forward(X)
    grads = net.backward(tape, y, loss=ours, sample_weight=sample_weight)
    value, gradient = net.value_and_grad(X, y, loss=ours, sample_weight=sample_weight, **options)
    assert distance(tape.a[0], X) <= tolerance
    for k in range(1, len(W)):
        pairs = [(tape.z[k], z[k]), (tape.a[k], a[k]), (grads.delta[k], delta[k]), (grads.W[k], dW[k])]
        for got, want in [*pairs, (tape.df[k], df[k]), (grads.b[k], db[k])]:
            if want is None or got is None:
                assert got is None and (want is None or b[k] is None)
            else:
                assert got.dtype == net.dtype
                assert distance(got, want) <= tolerance
    db = [None if bias is None else g for bias, g in zip(b, db, strict=True)]
    assert distance(grads.x, dx) <= tolerance
    assert distance(grads.theta, flat(dW, db)) <= tolerance
    assert distance(gradient, flat(dW, db)) <= tolerance
    assert distance(grads.loss, C) <= tolerance
    assert distance(value, C) <= tolerance
    assert distance(net.evaluate(X, y, loss=ours, sample_weight=sample_weight)["loss"], C) <= tolerance


WEIGHTS = np.array([0.0, 1.5, 0.5, 0.0, 2.0])


def test_every_loss_is_in_the_list():
    """What C and Python know has an oracle here, or in losses.py."""
    listed = {ours if isinstance(ours, str) else ours.name for ours, _ in LOSSES.values()}
    listed |= {example.loss.name for example in losses.LOSSES.values()}
    assert listed == {*bp._losses.NAMES} - {"auto"} == {*_core.LOSSES} - {"linear"}


@every_loss
@every_activation
def test_float64_against_central_differences(activation, loss):
    for depth in (1, 2, 3, 4):
        net, X, y = example(activation, depth, loss)
        for name, error in bp.check_gradients(net, X, y, loss=LOSSES[loss][0]).items():
            assert error <= CENTRAL, (depth, name)


@every_loss
@every_activation
def test_float64_against_the_oracle(activation, loss):
    for depth in (1, 2, 3, 4):
        for bias in (True, False):
            net, X, y = example(activation, depth, loss, bias=bias)
            check_against_the_oracle(net, X, y, loss)
            check_against_the_oracle(net, X, y, loss, WEIGHTS)


@every_loss
@every_activation
def test_float32_against_float64(activation, loss):
    for depth in (1, 2, 3, 4):
        for bias in (True, False):
            net, X, y = example(activation, depth, loss, bias=bias)
            single = bp.Network(net.layers, dtype="float32")
            single.theta = net.theta
            net.theta = single.theta
            X, y = X.astype(np.float32), y if y.dtype == int else y.astype(np.float32)
            ours = LOSSES[loss][0]
            tape, tape32 = net.forward(X), single.forward(X)
            for weight in (None, WEIGHTS):
                grads, grads32 = (
                    n.backward(t, y, loss=ours, sample_weight=weight) for n, t in ((net, tape), (single, tape32))
                )
                for k in range(1, depth + 1):
                    pairs = [(tape32.z, tape.z), (tape32.a, tape.a), (tape32.df, tape.df)]
                    for got, want in [*pairs, (grads32.delta, grads.delta), (grads32.W, grads.W), (grads32.b, grads.b)]:
                        if want[k] is not None:
                            assert got[k].dtype == np.float32
                            assert distance(got[k], want[k]) <= SINGLE
                assert distance(grads32.x, grads.x) <= SINGLE
                assert distance(grads32.theta, grads.theta) <= SINGLE
                assert distance(grads32.loss, grads.loss) <= SINGLE
                value, gradient = single.value_and_grad(X, y, loss=ours, sample_weight=weight)
                assert distance(gradient, grads.theta) <= SINGLE
                assert distance(value, grads.loss) <= SINGLE


# ---- shapes and the ways through the plan ----


def random_net(sizes, *activations, dtype="float64", bias=True, seed=1):
    layers = [bp.Dense(n, f, bias=bias, bias_init=np.full(n, 0.1)) for n, f in zip(sizes[1:], activations, strict=True)]
    return bp.Network([bp.Input(sizes[0]), *layers], dtype=dtype, seed=seed)


def data(n, n_in, n_out, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0, 2, n) * (rng.uniform(size=n) < 0.7)
    weight[-1] = 1.0
    y = rng.uniform(0, 0.6, (n, n_out))
    return rng.normal(size=(n, n_in)), y / y.sum(axis=1, keepdims=True) if n_out > 1 else y, weight


backends = pytest.mark.parametrize("backend", ["native", "blas"])
ways = pytest.mark.parametrize("phase2", ["", "owners", "shards"])
both_types = pytest.mark.parametrize("dtype, tolerance", [("float64", EXACT), ("float32", SINGLE)])


@backends
@ways
@both_types
def test_batch_sizes(force, backend, phase2, dtype, tolerance):
    force(True, phase2, backend)
    for n in (1, 2, 31, 32, 33, 64, 129, 1000):
        X, y, weight = data(n, 5, 3, seed=n)
        X, y, weight = (v.astype(dtype) for v in (X, y, weight))
        for bias, loss in ((True, "cross_entropy"), (False, "squared_error")):
            net = random_net([5, 17, 8, 3], "tanh", "silu", "softmax", dtype=dtype, bias=bias)
            for n_threads in (1, 2, 3):
                check_against_the_oracle(net, X, y, loss, tolerance=tolerance, n_threads=n_threads)
            check_against_the_oracle(net, X, y, loss, weight, tolerance=tolerance)


@backends
@ways
@both_types
def test_more_rows_than_a_chunk(force, backend, phase2, dtype, tolerance):
    force(True, phase2, backend)
    X, y, weight = (v.astype(dtype) for v in data(2 * 16384 + 77, 3, 2))
    weight[:17000] = 0.0  # a whole chunk
    net = random_net([3, 4, 2], "tanh", "logistic", dtype=dtype)
    check_against_the_oracle(net, X, y, "binary_cross_entropy", tolerance=tolerance, n_threads=2)
    check_against_the_oracle(net, X, y, "huber", weight, tolerance=tolerance, n_threads=2)


@backends
@pytest.mark.parametrize("phase2", ["", "shards"])
@both_types
@pytest.mark.parametrize("sizes", [(70, 700, 300, 3), (1100, 129, 700, 1), (1, 1, 1, 1)])
def test_wide_and_narrow_layers(force, backend, phase2, dtype, tolerance, sizes):
    """Weights of 256 kB and more are cut into cells of rows and units."""
    force(True, phase2, backend)
    for n in (1, 40, 300):
        X, y, weight = (v.astype(dtype) for v in data(n, sizes[0], sizes[-1]))
        net = random_net(sizes, "softsign", "gelu", "logistic", dtype=dtype)
        check_against_the_oracle(net, X, y, "binary_cross_entropy", tolerance=tolerance, n_threads=2)
        check_against_the_oracle(net, X, y, "mse", weight, tolerance=tolerance, n_threads=3)


@backends
@ways
def test_a_layer_used_twice_has_one_gradient(force, backend, phase2):
    force(True, phase2, backend)
    for n in (1, 33, 500, 17000):
        X, y, weight = data(n, 4, 4)
        shared, other = bp.Dense(4, "tanh"), bp.Dense(4, "silu", bias=False)
        for layers in ([shared, shared, bp.Dense(4)], [shared, other, shared, shared, other]):
            net = bp.Network([bp.Input(4), *layers], dtype="float64")
            net.theta[:] = np.random.default_rng(n).normal(0, 0.5, net.n_params)
            W, b, names = oracle(net)
            tape = ref.forward(W, b, names, X)
            for w in (None, weight):
                C, delta, dW, db, dx = ref.backward(W, names, *tape, y, "squared_error", w)
                grads = net.backward(net.forward(X), y, loss="squared_error", sample_weight=w)
                for layer in set(layers):
                    uses = [k for k, one in enumerate(net.layers) if one is layer]
                    for k in uses:
                        assert distance(grads.W[k], sum(dW[i] for i in uses)) <= EXACT
                        assert not layer.bias or distance(grads.b[k], sum(db[i] for i in uses)) <= EXACT
                for k in range(1, len(W)):
                    assert distance(grads.delta[k], delta[k]) <= EXACT
                assert distance(grads.x, dx) <= EXACT
                value, gradient = net.value_and_grad(X, y, loss="squared_error", sample_weight=w, n_threads=2)
                assert distance(value, C) <= EXACT
                assert distance(gradient, grads.theta) <= EXACT
    errors = bp.check_gradients(net, X[:5], y[:5])
    assert set(errors) == {"dense_1.W", "dense_1.b", "dense_2.W"} and max(errors.values()) <= CENTRAL


@both_types
def test_softmax_has_its_full_jacobian(dtype, tolerance):
    """delta = J dE/da with J = diag(a) - a a^T, in a hidden layer and at the end."""
    X, y, _ = (v.astype(dtype) for v in data(20, 5, 4))
    net = random_net([5, 6, 4], "softmax", "softmax", dtype=dtype)
    tape = net.forward(X)
    assert tape.df[1] is None and tape.df[2] is None
    jacobian = [None] + [np.array([np.diag(r) - np.outer(r, r) for r in a.astype(float)]) for a in tape.a[1:]]
    for loss in ("squared_error", "mse", "binary_cross_entropy", "huber", "cross_entropy"):
        ours, theirs = LOSSES[loss]
        delta = net.backward(tape, y, loss=ours).delta
        da = ref.LOSSES.get(theirs, theirs)[1](tape.a[2].astype(float), y)
        assert distance(delta[2], np.einsum("nij,nj->ni", jacobian[2], da)) <= tolerance
        da = delta[2].astype(float) @ net.W[2]
        assert distance(delta[1], np.einsum("nij,nj->ni", jacobian[1], da)) <= tolerance


# ---- the whole range ----


@pytest.mark.parametrize("dtype, rounding", [("float64", 1e-15), ("float32", 3e-7)])
@pytest.mark.parametrize("delta", [1e-30, 1e-12, 1e-3, 1.0, 1e6, 1e18, 1e30])
def test_huber_at_every_scale(delta, dtype, rounding):
    """Losses below or above what the type holds may be 0 or infinite; no other is, and no gradient."""
    r = np.concatenate([np.geomspace(1e-37, 1e37, 75), delta * np.array([0.5, 1 - 1e-6, 1, 1 + 1e-6, 2])])
    r = np.concatenate([-r, [0], r]).astype(dtype)
    net = bp.Network([bp.Input(1), bp.Dense(1, init="ones", bias=False)], dtype=dtype)
    size, held = abs(r.astype("g")), np.dtype(dtype).type(delta)
    E = np.where(size <= held, size**2 / 2, held * (size - np.longdouble(held) / 2))
    limits = np.finfo(dtype)
    for residual, wanted in zip(r, E, strict=True):
        grads = net.backward(net.forward([[residual]]), [[0.0]], loss=bp.losses.Huber(delta))
        np.testing.assert_allclose(grads.delta[1], np.clip([[residual]], -held, held), rtol=rounding)
        if 4 * limits.tiny < wanted < limits.max / 4:
            np.testing.assert_allclose(grads.loss, float(wanted), rtol=rounding)
        else:
            assert grads.loss <= 4 * limits.tiny or grads.loss >= limits.max / 4


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 2e-5)])
@pytest.mark.parametrize("activation", [name for name in bp.activations.NAMES if name != "softmax"])
def test_activations_at_every_scale(activation, dtype, tolerance):
    """Of each value, near 0 and in both tails; f' may lose what 1 - a^2 loses."""
    z = np.geomspace(1e-6, 1e3, 997)
    z = np.concatenate([-z[::-1], KINKS, z]).astype(dtype)
    net = bp.Network([bp.Input(1), bp.Dense(1, activation, init="ones", bias=False)], dtype=dtype)
    tape = net.forward(z[:, None])
    with np.errstate(over="ignore", under="ignore"):
        a, df = (function(z.astype(float)).astype(dtype) for function in ref.ACTIVATIONS[activation])
    if activation == "gelu":
        tolerance = max(tolerance, 1e-12)  # the reference rounds erfc's argument, which tells in the tail
    least, eps = 1e3 * np.finfo(dtype).tiny, np.finfo(dtype).eps  # z = 1e3 times what was flushed to 0
    np.testing.assert_array_equal(tape.z[1][:, 0], z)
    np.testing.assert_allclose(tape.a[1][:, 0], a, rtol=tolerance, atol=least)
    np.testing.assert_allclose(tape.df[1][:, 0], df, rtol=tolerance, atol=4 * eps)


# ---- stability ----


def loss_of_logits(activation, z, y):
    """E_x with nothing lost beside 1, which log_softmax does: (rows,)."""
    if activation == "logistic":
        return np.sum(y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z), 1)
    y = np.eye(z.shape[1])[y] if y.ndim == 1 else y
    others = [np.logaddexp.reduce(np.delete(z, k, 1) - z[:, [k]], axis=1) for k in range(z.shape[1])]
    return np.sum(y * np.logaddexp(0, np.transpose(others)), 1)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 2e-7)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 40.0, 90.0, 750.0, 1e4])
@pytest.mark.parametrize("activation, loss", ref.FUSED)
def test_fused_pairs_stand_any_logit(activation, loss, size, dtype, tolerance):
    """z = X, up to 1e4: nothing overflows, and nothing is lost where the answer is right."""
    z = size * np.array([[1, -1, 0.5, 0], [-1, 1, -0.5, 0], [1, 1, 1, 1], [-1, -1, -1, 1], [0, 1, 1, -1]])
    z = z.astype(dtype)
    net = bp.Network([bp.Input(4), bp.Dense(4, activation, init=np.eye(4))], dtype=dtype)
    rows = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25], [0, 0.5, 0, 0.5]])
    targets = [rows, rows[[1, 0, 3, 2, 4]]] + ([np.array([0, 0, 2, 3, 3])] if loss == "cross_entropy" else [])
    for y in targets:
        W, b, names = oracle(net)
        C, delta, dW, db, dx = ref.backward(W, names, *ref.forward(W, b, names, z), y, loss)
        for name in (loss, "auto"):
            grads = net.backward(net.forward(z), y, loss=name)
            value, gradient = net.value_and_grad(z, y, loss=name)
            np.testing.assert_allclose([grads.loss, value, net.evaluate(z, y, loss=name)["loss"]], C, rtol=tolerance)
            assert np.isfinite(grads.theta).all() and np.isfinite(gradient).all()
            assert distance(grads.delta[1], delta[1]) <= tolerance
            assert distance(grads.x, dx) <= tolerance
            assert distance(gradient, flat(dW, db)) <= 2 * tolerance
        alone = [net.evaluate(z[i : i + 1], y[i : i + 1], loss=loss)["loss"] for i in range(len(z))]
        E = loss_of_logits(activation, z.astype(float), y)
        np.testing.assert_allclose(alone, E, rtol=tolerance, atol=np.finfo(dtype).tiny)
    net.fit(z, rows, loss=loss, epochs=3, batch_size=2)
    assert np.isfinite(net.theta).all() and np.isfinite(net.predict(z)).all()


def test_a_row_of_weight_zero_is_not_looked_at():
    """Its loss may be infinite: log 0 where relu is at rest."""
    net = bp.Network([bp.Input(2), bp.Dense(2, "relu", init=np.eye(2))], dtype="float64")
    X, w = np.array([[0.5, 0.25], [-1.0, -1.0]]), np.array([1.0, 0.0])
    for loss, y in (("cross_entropy", np.array([0, 1])), ("binary_cross_entropy", np.array([[0.0, 1.0], [1.0, 1.0]]))):
        value, gradient = net.value_and_grad(X, y, loss=loss, sample_weight=w)
        alone, gradient_alone = net.value_and_grad(X[:1], y[:1], loss=loss)
        assert value == alone
        np.testing.assert_array_equal(gradient, gradient_alone)
        assert net.evaluate(X, y, loss=loss, sample_weight=w)["loss"] == alone


# ---- a row has the same bits in every batch, and in predict, forward and evaluate ----


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


def spy():
    """A loss that keeps the outputs it is shown."""
    seen = []

    def value(a, y):
        seen.append(a)
        return np.zeros(len(a))

    return seen, bp.Loss(value, lambda a, y: np.zeros_like(a))


SHAPES = [(1, 1), (3, 1), (7, 5, 1), (20, 16, 3), (64, 33, 10), (100, 256, 256, 2), (50, 700, 700, 1), (700, 31, 9)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SHAPES, ids=lambda sizes: "-".join(map(str, sizes)))
def test_bits_of_a_row_do_not_depend_on_its_batch(force, sizes, dtype):
    force(True, "")
    n = 133
    rng = np.random.default_rng(5)
    X = rng.normal(size=(n, sizes[0]))
    nets = [random_net(sizes, *["tanh"] * (len(sizes) - 2), last, dtype=dtype) for last in ("identity", "softmax")]
    nets.append(random_net(sizes, *[bp.Activation(np.tanh, np.cos)] * (len(sizes) - 1), dtype=dtype))
    order = rng.permutation(n)
    parts = [order, order[:64], order[:1], np.arange(n)[::-1], np.repeat(order[:40], 3), np.full(100, order[7])]
    parts += [np.arange(start, min(start + size, n)) for size in (2, 31, 32, 33, 65) for start in range(0, n, size)]
    parts += [np.array([i]) for i in range(n)]
    for net in nets:
        whole, tape = net.predict(X), net.forward(X)
        for n_threads, part in zip([1, 2, 3] * len(parts), parts, strict=False):
            answer = net.predict(X[part], n_threads=n_threads)
            np.testing.assert_array_equal(bits(answer), bits(whole[part]))
        for part in parts[:12]:
            again = net.forward(X[part])
            for name in ("z", "a", "df"):
                for got, want in zip(getattr(again, name), getattr(tape, name), strict=True):
                    assert (got is None) == (want is None)
                    if got is not None:
                        np.testing.assert_array_equal(bits(got), bits(want[part]))
            np.testing.assert_array_equal(bits(again.a[-1]), bits(whole[part]))
            for n_threads in (1, 2):
                seen, loss = spy()
                net.evaluate(X[part], np.zeros(len(part)), loss=loss, n_threads=n_threads)
                np.testing.assert_array_equal(bits(np.concatenate(seen)), bits(whole[part]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_a_row_across_chunks(dtype):
    X = np.random.default_rng(6).normal(size=(40_000, 3))
    for f in ("tanh", bp.Activation(np.tanh, np.cos)):
        net = random_net([3, 5, 2], f, "softmax", dtype=dtype)
        whole = net.predict(X)
        for start, stop in ((0, 1), (16_380, 16_390), (13_300, 13_500), (32_767, 32_769), (39_999, 40_000)):
            np.testing.assert_array_equal(bits(net.predict(X[start:stop])), bits(whole[start:stop]))
            np.testing.assert_array_equal(bits(net.forward(X[start:stop]).a[-1]), bits(whole[start:stop]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_of_a_row_does_not_depend_on_its_batch(force, dtype):
    """By each built-in loss; the loss of a batch is the weighted mean of those of its rows."""
    force(True, "")
    X, y, weight = data(97, 20, 3)
    labels = np.random.default_rng(0).integers(0, 3, 97)
    for last, loss in [("softmax", loss) for loss in LOSSES] + [("logistic", "binary_cross_entropy")]:
        net = random_net([20, 31, 3], "silu", last, dtype=dtype)
        target, ours = labels if loss == "cross_entropy of labels" else y, LOSSES[loss][0]
        E = []
        for i in range(len(X)):
            x, t = X[i : i + 1], target[i : i + 1]
            E.append(net.evaluate(x, t, loss=ours, n_threads=1 + i % 3)["loss"])
            assert net.backward(net.forward(x), t, loss=ours).loss == E[-1]
        for n_threads in (1, 2, 3):
            result = net.evaluate(X, target, loss=ours, n_threads=n_threads)
            np.testing.assert_allclose(result["loss"], np.mean(E), rtol=1e-14)
            weighted = net.evaluate(X, target, loss=ours, sample_weight=weight, n_threads=n_threads)
            w = weight.astype(dtype).astype(float)
            np.testing.assert_allclose(weighted["loss"], np.average(E, weights=w), rtol=1e-14)
            a, known = net.predict(X, n_threads=n_threads), "accuracy" in result
            assert known == ("entropy" in loss)
            if "cross_entropy" in loss and "binary" not in loss:
                right = a.argmax(1) == (labels if target is labels else y.argmax(1))
                assert result["accuracy"] == right.mean()
                np.testing.assert_allclose(weighted["accuracy"], np.average(right, weights=w), rtol=1e-14)
            elif known:
                right = ((a >= 0.5) == (y.astype(dtype) >= 0.5)).mean(1)
                np.testing.assert_allclose(result["accuracy"], right.mean(), rtol=1e-14)
                np.testing.assert_allclose(weighted["accuracy"], np.average(right, weights=w), rtol=1e-14)
