"""Training: a hundred steps against a loop over the oracle with the same batches; data of every type and layout."""

import numpy as np
import pytest
import reference as ref
from conftest import distance, flat, oracle
from optimizers import OPTIMIZERS, every_kernel, every_optimizer, every_way, move, settle

import bpcore as bp
from bpcore import _core

TOLERANCE = 1e-11  # of theta and of each epoch's loss, after a hundred steps in float64
SHUFFLE = 1  # the first word of the Philox counter


def oracle_fit(net, X, y, loss, optimizer, epochs, batch_size, weight, shuffle, seed):
    """theta after `epochs`, the loss of each, and the number of updates, by plain loops in NumPy."""
    W, b, names = oracle(net)
    n, w = len(X), np.ones(len(X)) if weight is None else weight
    params = [(p, decays) for k in range(1, len(W)) for p, decays in ((W[k], True), (b[k], False)) if p is not None]
    states, history, updates = [{} for _ in params], [], 0
    for epoch in range(net.epoch, net.epoch + epochs):
        full = batch_size is None or batch_size >= n
        order = np.arange(n) if full or not shuffle else _core.permutation(n, seed, SHUFFLE, epoch)
        total = 0.0
        for i in range(0, n, batch_size or n):
            rows = order[i : i + (batch_size or n)]
            if not w[rows].any():
                continue
            C, _, dW, db, _ = ref.backward(W, names, *ref.forward(W, b, names, X[rows]), y[rows], loss, w[rows])
            total += C * w[rows].sum()
            gradients = [g for k in range(1, len(W)) for p, g in ((W[k], dW[k]), (b[k], db[k])) if p is not None]
            move(optimizer, params, gradients, states)
            updates += 1
        history.append(total / w.sum())
    settle(params, states)
    return flat(W, b), history, updates


backends = pytest.mark.parametrize("backend", ["native", "blas"])
NETS = {
    "squared_error": (("tanh", "softplus", "identity"), True),
    "mse": (("silu", "tanh", "softmax"), True),
    "binary_cross_entropy": (("gelu", "logistic"), False),
    "cross_entropy": (("tanh", "softsign", "softmax"), True),
}


def problem(loss, n, seed=0):
    """A net, X, y and weights, a third of them and a block of 14 rows zero."""
    rng = np.random.default_rng(seed)
    activations, bias = NETS[loss]
    sizes = (9, 7, 4)[: len(activations) - 1] + (3,)
    layers = [bp.Dense(k, f, bias=bias) for k, f in zip(sizes, activations, strict=True)]
    net = bp.Network([bp.Input(5), *layers], dtype="float64", seed=seed + 40)
    y = rng.integers(0, 3, n) if loss == "cross_entropy" else rng.dirichlet(np.ones(3), n)
    weight = rng.uniform(0.2, 2, n) * (rng.uniform(size=n) < 0.67)
    weight[7:21] = 0.0
    return net, rng.normal(size=(n, 5)), y, weight


def check_fit(net, X, y, loss, optimizer, epochs, batch_size, weight, shuffle=True, seed=None, **options):
    drawn = net.seed if seed is None else seed
    theta, losses, updates = oracle_fit(net, X, y, loss, optimizer, epochs, batch_size, weight, shuffle, drawn)
    history = net.fit(
        X, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=batch_size, shuffle=shuffle, seed=seed,
        sample_weight=weight, **options,
    )  # fmt: skip
    assert distance(net.theta, theta) <= TOLERANCE
    np.testing.assert_allclose(history.loss, losses, rtol=TOLERANCE)
    assert net.step == updates and net.epoch == epochs and history.epoch == list(range(1, epochs + 1))
    return updates


@every_kernel
def test_a_hundred_steps_of_other_kernels(force, optimizer):
    test_a_hundred_steps(force, "", "cross_entropy", optimizer)


@every_way
@pytest.mark.parametrize("loss", NETS)
@pytest.mark.parametrize("mode", ["", "owners", "shards", "threads", "blas"])
def test_a_hundred_steps(force, mode, loss, optimizer):
    """150 rows: 64 + 64 + 22 as full batch, a last batch of 3 or 22 else."""
    force(mode != "", mode if mode in ("owners", "shards") else "", mode if mode == "blas" else "")
    for batch_size, epochs in ((1, 1), (7, 5), (32, 20), (None, 100)):
        for weighted in (False, True):
            net, X, y, weight = problem(loss, 150)
            w, n_threads = weight if weighted else None, 2 if mode else 1
            done = check_fit(net, X, y, loss, optimizer, epochs, batch_size, w, n_threads=n_threads)
            assert done >= 100 or (weighted and batch_size == 1)


@every_optimizer
def test_a_batch_without_weight_makes_no_step(optimizer):
    """Neither theta nor velocity nor the count of updates moves."""
    net, X, y, weight = problem("cross_entropy", 150)
    weight[22:] = 1.0
    updates = check_fit(net, X, y, "cross_entropy", optimizer, 5, 7, weight, shuffle=False)
    assert updates == 5 * (22 - 2)
    net, X, y, weight = problem("cross_entropy", 150)
    weight[:] = np.arange(150) >= 144
    assert check_fit(net, X, y, "cross_entropy", optimizer, 100, 1, weight) == 600


@every_optimizer
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_fit_goes_on_where_the_last_ended(loss, optimizer):
    net, X, y, weight = problem(loss, 60)
    twin = net.copy()
    check_fit(net, X, y, loss, optimizer, 30, 16, weight)
    history = [
        value
        for epochs in (1, 4, 25)
        for value in twin.fit(
            X, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=16, sample_weight=weight
        ).loss
    ]
    np.testing.assert_array_equal(twin.theta, net.theta)
    assert twin.step == net.step and twin.epoch == net.epoch and len(history) == 30


@every_way
@pytest.mark.parametrize("width", [64, 101])
@pytest.mark.parametrize("mode", ["", "owners", "shards", "threads"])
def test_layers_whose_step_is_made_with_the_gradient(force, mode, width, optimizer):
    """Weights of more than a block: one row, a few, up to 256, and more than that; ReLU before and after products."""
    force(mode != "", mode if mode in ("owners", "shards") else "", "")
    rng = np.random.default_rng(width)
    X, y, weight = rng.normal(0, 0.1, (300, 70)), rng.integers(0, 4, 300), rng.uniform(0.2, 2, 300)
    for batch_size, epochs in ((1, 1), (10, 2), (140, 5), (256, 5), (None, 5)):
        layers = [bp.Dense(width, "relu"), bp.Dense(width, "tanh"), bp.Dense(4, "softmax")]
        net = bp.Network([bp.Input(70), *layers], dtype="float64", seed=3)
        check_fit(net, X, y, "cross_entropy", optimizer, epochs, batch_size, weight, n_threads=2)


def test_seed_of_the_order():
    """`fit(seed=...)` replaces the network's; another seed is another order."""
    thetas = []
    for seed in (None, 0, 2**64 - 1):
        net, X, y, weight = problem("mse", 50)
        check_fit(net, X, y, "mse", bp.SGD(lr=0.2), 10, 8, weight, seed=seed)
        thetas.append(net.theta)
    assert distance(thetas[0], thetas[1]) > 1e-6 and distance(thetas[1], thetas[2]) > 1e-6


def test_shared_layer_trains_as_its_one_gradient():
    shared = bp.Dense(5, "tanh")
    net = bp.Network([bp.Input(5), shared, shared, bp.Dense(3, "softmax"), bp.Dense(3)], dtype="float64", seed=3)
    X, y = np.random.default_rng(0).normal(size=(40, 5)), np.random.default_rng(1).normal(size=(40, 3))
    W, b, names = oracle(net)
    W[2], b[2] = W[1], b[1]
    for _ in range(100):
        _, _, dW, db, _ = ref.backward(W, names, *ref.forward(W, b, names, X), y, "squared_error")
        for k, (gW, gb) in {1: (dW[1] + dW[2], db[1] + db[2]), 3: (dW[3], db[3]), 4: (dW[4], db[4])}.items():
            W[k] -= 0.1 * gW
            b[k] -= 0.1 * gb
    net.fit(X, y, loss="squared_error", optimizer=bp.SGD(lr=0.1), batch_size=None, epochs=100)
    for k in range(1, 5):
        assert distance(net.W[k], W[k]) <= TOLERANCE and distance(net.b[k], b[k]) <= TOLERANCE


@backends
@pytest.mark.parametrize("mode", ["", "owners", "shards"])
@pytest.mark.parametrize("optimizer", [OPTIMIZERS["momentum"], OPTIMIZERS["adam decay"]], ids=["sgd", "adam"])
def test_batches_of_several_chunks(force, backend, mode, optimizer):
    """Gradients of the chunks are added, and nothing is updated before the last."""
    force(bool(mode), mode, backend)
    for batch_size, epochs in ((None, 4), (17_000, 2)):
        net, X, y, weight = problem("squared_error", 36_000)
        check_fit(net, X, y, "squared_error", optimizer, epochs, batch_size, weight, n_threads=2)


@backends
@pytest.mark.parametrize("mode", ["", "owners", "shards"])
def test_wide_layers(force, backend, mode):
    """Weights that are cut into cells and blocks; online, too."""
    force(bool(mode), mode, backend)
    X, y = np.random.default_rng(0).normal(size=(70, 150)), np.random.default_rng(1).integers(0, 10, 70)
    for batch_size, epochs in ((1, 1), (33, 3), (None, 5)):
        layers = [bp.Input(150), bp.Dense(400, "tanh"), bp.Dense(170, "silu"), bp.Dense(10, "softmax")]
        net = bp.Network(layers, dtype="float64")
        optimizer = bp.SGD(lr=0.002, momentum=0.5, weight_decay=0.1)
        check_fit(net, X, y, "cross_entropy", optimizer, epochs, batch_size, None, n_threads=2)


# ---- data of every type and layout ----

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
TYPES = ["bool", *INTEGERS, "float16", "float32", "float64", "longdouble"]


def swapped(a, tmp_path):
    return a.astype(a.dtype.newbyteorder())


def strided(a, tmp_path):
    whole = np.full((3 * len(a), *(2 * k + 1 for k in a.shape[1:])), 1, a.dtype)
    view = whole[1::3, 1::2] if a.ndim == 2 else whole[1::3]
    view[...] = a
    return view


def negative(a, tmp_path):
    turned = tuple(slice(None, None, -1) for _ in a.shape)
    return a[turned].copy()[turned]


def fortran(a, tmp_path):
    return np.asfortranarray(a)


def read_only(a, tmp_path):
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def mapped(a, tmp_path):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    path.write_bytes(b"header." + a.tobytes())
    return np.memmap(path, a.dtype, "r", 7, a.shape)


def unaligned(a, tmp_path):
    table = np.zeros(len(a), [("pad", "u1"), ("row", a.dtype, a.shape[1:])])
    table["row"] = a
    return table["row"]


def wrapped(a, tmp_path):
    """A subclass and a view of a view of it."""
    return np.asfortranarray(np.repeat(a, 2, axis=0)).view(np.recarray)[::2]


LAYOUTS = [swapped, strided, negative, fortran, read_only, mapped, unaligned, wrapped]


def values(kind, shape, seed=0):
    """Numbers of a type, those among them that the network's type must round."""
    rng, kind = np.random.default_rng(seed), np.dtype(kind)
    if kind.kind == "f":
        return (rng.normal(size=shape).astype(np.longdouble) / 3).astype(kind)
    a = rng.integers(0, 2 if kind.kind == "b" else 9, shape).astype(kind)
    if kind.kind != "b":
        a.flat[[0, 6, 7]] = np.iinfo(kind).max, np.iinfo(kind).max // 3, np.iinfo(kind).min
    if kind.itemsize == 8:
        a.flat[9] = 2**54 + 2**30 + 1  # another float32 by way of float64
    return a


def everything(net, X, y, loss, weight):
    """What every call that takes data makes of it."""
    tape = net.forward(X)
    grads = net.backward(tape, y, loss=loss, sample_weight=weight)
    results = [
        net.predict(X), *tape.a, grads.theta, grads.x, np.float64(grads.loss),
        net.value_and_grad(X, y, loss=loss, sample_weight=weight)[1],
        np.array(list(net.evaluate(X, y, loss=loss, sample_weight=weight).values())),
    ]  # fmt: skip
    trained = net.copy()
    history = trained.fit(
        X, y, loss=loss, batch_size=5, epochs=2, sample_weight=weight, validation_data=(X, y), optimizer=bp.SGD(lr=1e-3)
    )
    return [*results, trained.theta, np.array(history.loss + history.val_loss)]


def check_same(net, X, y, weight, loss, X0, y0, weight0):
    inputs = [a for a in (X, y, weight) if a is not None]
    before = [(a.tobytes(), a.strides, a.dtype, a.flags.writeable) for a in inputs]
    for got, want in zip(everything(net, X, y, loss, weight), everything(net, X0, y0, loss, weight0), strict=True):
        assert got.tobytes() == want.tobytes()
    assert before == [(a.tobytes(), a.strides, a.dtype, a.flags.writeable) for a in inputs]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", TYPES)
def test_data_of_every_type_and_layout(kind, dtype, tmp_path):
    """The same bits as from a plain copy in the network's type, and inputs as they were."""
    n, rng = 23, np.random.default_rng(1)
    X, y, weight = values(kind, (n, 4)), rng.integers(0, 2, (n, 3)).astype(kind), rng.integers(0, 2, n).astype(kind)
    if X.dtype.kind == "f":
        y, weight = values(kind, (n, 3), 1), abs(values(kind, n, 2))
    net = bp.Network([bp.Input(4), bp.Dense(6, "tanh"), bp.Dense(3)], dtype=dtype)
    net.theta /= max(1, X.max())
    X0, y0, weight0 = (np.ascontiguousarray(a).astype(dtype) for a in (X, y, weight))
    for layout in [lambda a, path: a, *LAYOUTS]:
        given = (layout(a, tmp_path) for a in (X, y, weight))
        check_same(net, *given, "squared_error", X0, y0, weight0)


@pytest.mark.parametrize("kind", ["bool", *INTEGERS])
def test_labels_of_every_type_and_layout(kind, tmp_path):
    rng = np.random.default_rng(3)
    n_out = {"bool": 2, "int8": 128, "uint8": 256}.get(kind, 300)
    X, y = rng.normal(size=(29, 4)), rng.integers(0, n_out, 29)
    y[3] = n_out - 1
    net = bp.Network([bp.Input(4), bp.Dense(n_out, "softmax")])
    for layout in [lambda a, path: a, *LAYOUTS]:
        check_same(net, X, layout(y.astype(kind), tmp_path), None, "cross_entropy", X, y, None)


def test_targets_in_one_column():
    """(n,) and (n, 1) are the same where the network has one output."""
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    for last, loss in (("logistic", "auto"), ("identity", "mse")):
        net = bp.Network([bp.Input(2), bp.Dense(1, last)], dtype="float64")
        for target in (y.tolist(), y[:, None], y.astype(bool), y[::-1].copy()[::-1, None].astype(np.float16)):
            target = np.array(target)
            check_same(net, X, target, None, loss, X, y.astype(float), None)


def test_rows_and_columns_that_repeat():
    """Strides of zero."""
    row, net = np.random.default_rng(0).normal(size=(1, 4)), bp.Network([bp.Input(4), bp.Dense(2)])
    X, y = np.broadcast_to(row, (12, 4)), np.broadcast_to(np.float32(0.5), (12, 2))
    check_same(net, X, y, None, "mse", X.copy(), y.copy(), None)
    X = np.broadcast_to(row.T[:1], (12, 4))
    check_same(net, X, y, None, "mse", X.copy(), y.copy(), None)


def test_lists_are_data():
    net = bp.Network([bp.Input(2), bp.Dense(2, "softmax")], dtype="float64")
    X, y, weight = [[1, 2.5], (3, -4)], [1, 0], (1, 2)
    lists = everything(net, X, y, "cross_entropy", weight)
    arrays = everything(net, np.array(X), np.array(y), "cross_entropy", np.array(weight))
    assert [a.tobytes() for a in lists] == [a.tobytes() for a in arrays]
