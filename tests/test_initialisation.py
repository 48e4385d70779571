"""Randomness: Philox against published answers, first weights by name and by array, the order of shuffling."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import chdtrc, ndtri

import bpcore as bp
from bpcore import _core

INIT, SHUFFLE = 0, 1  # the first word of the counter

# ---- Philox4x32 ----

ONES = 0xFFFFFFFF
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]


# Random123 1.14.0, tests/kat_vectors; Salmon et al. (2011)
@pytest.mark.parametrize(
    "rounds, counter, key, words",
    [
        (10, [0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (10, [ONES] * 4, [ONES] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (10, *PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
        (7, [0] * 4, [0] * 2, "5f6fb709 0d893f64 4f121f81 4f730a48"),
        (7, [ONES] * 4, [ONES] * 2, "5207ddc2 45165e59 4d8ee751 8c52f662"),
        (7, *PI, "4dfccaba 190a87f0 c47362ba b6b5242a"),
    ],
)
def test_philox_known_answers(rounds, counter, key, words):
    assert _core.philox(counter, key, rounds) == tuple(int(word, 16) for word in words.split())


def words_of(seed, purpose, layer, step, n):
    """n words of 64 bits of a stream, two of each block."""
    blocks = [_core.philox((purpose, layer, step, i), (seed & ONES, seed >> 32)) for i in range((n + 1) // 2)]
    return [low | high << 32 for block in blocks for low, high in (block[:2], block[2:])][:n]


STREAMS = [(0, 0, 0, 0), (7, 1, 2, 3), (2**64 - 1, 5, 2**32 - 1, 2**32 - 1), (2**32, 0, 1, 0)]


@pytest.mark.parametrize("stream", STREAMS)
def test_uniforms_are_the_high_53_bits_of_the_stream(stream):
    expected = [(word >> 11) / 2**53 for word in words_of(*stream, 11)]
    assert _core.uniform(11, *stream).tolist() == expected
    assert _core.uniform(4, *stream).tolist() == expected[:4]


@pytest.mark.parametrize("stream", STREAMS)
def test_permutation_is_fisher_and_yates_on_the_stream(stream):
    seed, purpose, _, step = stream
    for n in (1, 2, 9, 10):
        order = []
        for i, word in enumerate(words_of(seed, purpose, 0, step, n)):
            j = word * (i + 1) >> 64
            order.append(i)
            order[i], order[j] = order[j], i
        assert _core.permutation(n, seed, purpose, step).tolist() == order


# ---- first weights ----


def auto(activation):
    rectifiers = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
    return "lecun" if activation == "selu" else "he" if activation in rectifiers else "glorot"


VARIANCE = {"glorot": lambda n, m: 2 / (n + m), "he": lambda n, m: 2 / n, "lecun": lambda n, m: 1 / n}


def weights(n, m, seed=3, **options):
    return bp.Network([bp.Input(n), bp.Dense(m, **options)], dtype="float64", seed=seed).W[1]


def check_moments(W, variance, normal):
    """Mean, variance and fourth moment within five standard errors; the largest; the distribution."""
    n, z = W.size, np.sort(W.ravel()) / variance**0.5
    m4, m8 = (3, 105) if normal else (9 / 5, 9)
    assert abs(z.mean()) <= 5 / n**0.5
    assert abs((z**2).mean() - 1) <= 5 * ((m4 - 1) / n) ** 0.5
    assert abs((z**4).mean() - m4) <= 5 * ((m8 - m4**2) / n) ** 0.5
    top = abs(z).max()
    low, high = (3.5, 5.5) if normal else ((1 - 20 / n) * 3**0.5, 3**0.5)
    assert low < top <= high
    share = np.linspace(0.1, 0.9, 9)
    below = np.searchsorted(z, ndtri(share) if normal else 3**0.5 * (2 * share - 1)) / n
    assert abs(below - share).max() <= 1.95 / n**0.5  # Kolmogorov and Smirnov, one in a thousand


@pytest.mark.parametrize("shape", [(90, 300), (300, 90), (1, 9001), (9001, 1)])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("scale", VARIANCE)
def test_bounds_and_variances_by_name(scale, kind, shape):
    W = weights(*shape, init=f"{scale}_{kind}")
    check_moments(W, VARIANCE[scale](*shape), kind == "normal")
    assert len(np.unique(W)) == W.size


@pytest.mark.parametrize("activation", bp.activations.NAMES)
def test_auto_goes_by_the_activation(activation):
    name = auto(activation)
    kind = "normal" if name == "lecun" else "uniform"
    W = weights(20, 30, activation=activation)
    np.testing.assert_array_equal(W, weights(20, 30, init=f"{name}_{kind}"))
    own = bp.Activation(np.sin, np.cos)
    np.testing.assert_array_equal(weights(20, 30, activation=own), weights(20, 30, init="glorot_uniform"))


def test_uniform_weights_are_the_stream_in_the_order_of_theta():
    net = bp.Network([bp.Input(3), bp.Dense(5), bp.Dense(4)], dtype="float64", seed=11)
    for layer, (n, m) in enumerate(((3, 5), (5, 4))):
        u = [(word >> 11) / 2**53 for word in words_of(11, INIT, layer, 0, n * m)]
        expected = (2 * np.reshape(u, (n, m)) - 1) * (6 / (n + m)) ** 0.5
        np.testing.assert_allclose(net.params[f"dense_{layer + 1}.W"], expected, rtol=1e-15)
        np.testing.assert_allclose(net.W[layer + 1], expected.T, rtol=1e-15)


def test_zeros_and_ones():
    for name, value in (("zeros", 0), ("ones", 1)):
        net = bp.Network([bp.Input(3), bp.Dense(2, init=name, bias_init=name)])
        assert (net.theta == value).all() and net.theta.dtype == np.float32
    assert (bp.Network([bp.Input(3), bp.Dense(2)]).b[1] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_and_biases_from_arrays(dtype):
    W, b = np.random.default_rng(0).normal(size=(2, 3)), np.array([1 / 3, -2.0])
    variants = [W, W.tolist(), np.asfortranarray(W), W.astype(W.dtype.newbyteorder()), W.astype(np.longdouble)]
    for given in variants:
        net = bp.Network([bp.Input(3), bp.Dense(2, init=given, bias_init=b)], dtype=dtype)
        np.testing.assert_array_equal(net.W[1], W.astype(dtype))
        np.testing.assert_array_equal(net.b[1], b.astype(dtype))
        np.testing.assert_allclose(net.predict(np.eye(3)), W.T + b, rtol=1e-6)
    net = bp.Network([bp.Input(3), bp.Dense(2, init=np.arange(6).reshape(2, 3), bias_init=[True, False])], dtype=dtype)
    assert net.W[1].tolist() == [[0, 1, 2], [3, 4, 5]] and net.b[1].tolist() == [1, 0]


def test_arrays_are_copied():
    W, b = np.ones((2, 3)), np.ones(2)
    layer = bp.Dense(2, init=W, bias_init=b)
    W[...] = b[...] = 7
    net = bp.Network([bp.Input(3), layer], dtype="float64")
    assert (net.theta == 1).all()
    net.theta[...] = 9
    assert (bp.Network([bp.Input(3), layer]).theta == 1).all()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"init": np.ones((3, 2))}, ["init", "(2, 3)", "(3, 2)"]),
        ({"init": np.ones(6)}, ["init", "(2, 3)", "(6,)"]),
        ({"init": 0.5}, ["init", "(2, 3)", "()"]),
        ({"bias_init": np.ones(3)}, ["bias_init", "(2,)", "(3,)"]),
        ({"bias_init": np.ones((2, 1))}, ["bias_init", "(2,)", "(2, 1)"]),
        ({"init": np.full((2, 3), np.nan)}, ["init", "nan"]),
        ({"init": np.full((2, 3), 1e300)}, ["init", "1e+300", "float32"]),
        ({"bias_init": [1.0, np.inf]}, ["bias_init", "inf"]),
        ({"init": "glorot_unifrom"}, ["init", "Did you mean 'glorot_uniform'?"]),
        ({"bias_init": "glorot_uniform"}, ["bias_init", "zeros, ones"]),
    ],
)
def test_wrong_inits_are_refused(options, words):
    with pytest.raises(ValueError) as caught:
        bp.Network([bp.Input(3), bp.Dense(2, **options)])
    for word in words:
        assert word in str(caught.value)


# ---- seeds ----


def layers():
    return [bp.Input(8), bp.Dense(16, "relu"), bp.Dense(16, "selu"), bp.Dense(16, init="he_normal"), bp.Dense(3)]


def test_a_seed_is_one_network():
    for seed in (0, 1, 2**32, 2**64 - 1):
        first = bp.Network(layers(), dtype="float64", seed=seed)
        np.testing.assert_array_equal(first.theta, bp.Network(layers(), dtype="float64", seed=seed).theta)
        single = bp.Network(layers(), dtype="float32", seed=seed)
        np.testing.assert_array_equal(single.theta, first.theta.astype(np.float32))


def test_seeds_and_layers_are_independent():
    """Correlations of 40 seeds, among them those that differ in one bit, and of four equal layers of each."""
    draws = []
    for seed in [*range(20), *(2**k for k in range(30, 50))]:
        net = bp.Network([bp.Input(16), *(bp.Dense(16) for _ in range(4))], dtype="float64", seed=seed)
        draws += [W.ravel() for W in net.W[1:]]
    correlation = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    assert abs(correlation).max() <= 5 / 256**0.5
    assert 0.9 <= correlation.std() * 256**0.5 <= 1.1


def test_a_shared_layer_draws_once():
    shared = bp.Dense(4)
    net = bp.Network([bp.Input(4), shared, shared, bp.Dense(2)], dtype="float64", seed=1)
    plain = bp.Network([bp.Input(4), bp.Dense(4), bp.Dense(2)], dtype="float64", seed=1)
    np.testing.assert_array_equal(net.theta, plain.theta)


def test_randomness_of_numpy_plays_no_part():
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    theta = bp.Network(layers()).theta
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(6)
    np.testing.assert_array_equal(bp.Network(layers()).theta, theta)


def test_seeds_are_the_same_in_every_process():
    code = (
        "import bpcore as bp, hashlib, numpy as np; from bpcore import _core\n"
        "net = bp.Network([bp.Input(8), bp.Dense(16, 'relu'), bp.Dense(3, init='he_normal')], seed=2**40 + 3)\n"
        "X = np.linspace(-1, 1, 400).reshape(50, 8)\n"
        "order = _core.permutation(1000, 2**40 + 3, 1, 9)\n"
        "parts = [net.theta.tobytes(), order.tobytes()]\n"
        "net.fit(X, X[:, :3], batch_size=7, epochs=3)\n"
        "print(hashlib.sha256(b''.join([*parts, net.theta.tobytes()])).hexdigest())\n"
    )
    path = os.pathsep.join([str(Path(bp.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = set()
    for hashing, threads in (("0", "1"), ("1", "2"), ("2", "2")):
        env = os.environ | {"PYTHONHASHSEED": hashing, "BPCORE_NUM_THREADS": threads, "PYTHONPATH": path}
        found.add(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout)
    assert len(found) == 1 and len(found.pop()) > 60


def test_weights_that_are_drawn_in_blocks_have_the_bits_of_all_at_once():
    """Also those of a recurrent layer, whose gates lie beside each other."""
    n, m = 130, 300  # more than one block
    u = _core.uniform(2 * n * m, 3, INIT).reshape(-1, 2)
    normal = np.sqrt(-2 * np.log(1 - u[:, 0])) * np.cos(2 * np.pi * u[:, 1]) * (1 / n) ** 0.5
    assert weights(n, m, init="lecun_normal").T.ravel().tobytes() == normal.tobytes()
    uniform = (2 * _core.uniform(n * m, 3, INIT) - 1) * (3 / n) ** 0.5
    assert weights(n, m, init="lecun_uniform").T.ravel().tobytes() == uniform.tobytes()
    W = bp.Network(
        [bp.Input((2, n)), bp.GRU(m, init="lecun_uniform", recurrent_init="zeros")], dtype="float64", seed=3
    ).params["gru_1.W"]
    assert W[:, :m].tobytes() == uniform.tobytes()
    second = (2 * _core.uniform(n * m, 3, INIT, 0, 2) - 1) * (3 / n) ** 0.5
    assert W[:, m : 2 * m].tobytes() == second.tobytes()


# ---- the order ----


def test_orders_are_permutations():
    for n in (0, 1, 2, 31, 1000, 2**17 + 1):
        order = _core.permutation(n, 3, SHUFFLE, 5)
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_orders_differ_by_seed_and_epoch():
    orders = {_core.permutation(30, seed, SHUFFLE, epoch).tobytes() for seed in range(30) for epoch in range(30)}
    assert len(orders) == 900


def chi_square(counts):
    """The chance of counts as uneven as these, or more, where all are as likely."""
    expected = counts.mean()
    return chdtrc(counts.size - 1, ((counts - expected) ** 2).sum() / expected)


def test_all_orders_are_as_likely():
    draws = np.array([_core.permutation(5, 2024, SHUFFLE, epoch) for epoch in range(24_000)])
    counts = np.bincount(draws @ 5 ** np.arange(5), minlength=5**5)
    assert np.count_nonzero(counts) == 120
    assert 1e-3 < chi_square(counts[counts > 0]) < 1 - 1e-3


def test_every_row_comes_as_likely_at_every_place():
    """By epoch and by seed; of two rows, each is as often the first."""
    n = 24
    for draws in (
        [_core.permutation(n, 7, SHUFFLE, epoch) for epoch in range(12_000)],
        [_core.permutation(n, seed, SHUFFLE, 0) for seed in range(12_000)],
    ):
        counts = np.array([np.bincount(place, minlength=n) for place in np.transpose(draws)])
        statistic = ((counts - 500) ** 2).sum() / 500 * (n - 1) / n  # of a matrix whose margins are fixed
        assert 1e-3 < chdtrc((n - 1) ** 2, statistic) < 1 - 1e-3
        first = np.array([np.argsort(order) for order in draws])
        before = (first[:, 0] < first[:, -1]).mean()
        assert abs(before - 0.5) <= 4 * 0.5 / 12_000**0.5


def test_fit_takes_every_row_once_an_epoch_in_a_new_order():
    seen = []
    loss = bp.Loss(lambda a, y: seen.append(y[:, 0]) or np.zeros(len(a)), lambda a, y: np.zeros_like(a))
    rows = np.arange(50)
    for shuffle, batch_size in ((True, 7), (False, 7), (True, None), (True, 50), (True, 1)):
        seen.clear()
        net = bp.Network([bp.Input(1), bp.Dense(1)], seed=9)
        net.fit(rows[:, None], rows[:, None], loss=loss, epochs=4, batch_size=batch_size, shuffle=shuffle)
        epochs = np.concatenate(seen).reshape(4, 50)
        assert (np.sort(epochs) == rows).all()
        moved = shuffle and batch_size in (1, 7)
        expected = [_core.permutation(50, 9, SHUFFLE, epoch) if moved else rows for epoch in range(4)]
        np.testing.assert_array_equal(epochs, expected)
