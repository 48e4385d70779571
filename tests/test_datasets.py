"""The data that comes along: shapes, types, values, and that every call gives arrays of its own."""

from pathlib import Path

import numpy as np
import pytest

from bpcore import datasets

HOME = Path(datasets.__file__).parent


def test_digits_are_the_uci_digits():
    X, y = datasets.load_digits()
    assert X.shape == (1797, 64) and X.dtype == np.float32
    assert y.shape == (1797,) and y.dtype == np.int64
    raw = 16 * X
    assert (raw == raw.round()).all() and raw.min() == 0 and raw.max() == 16
    assert raw.sum(dtype=int) == 561_718
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert y[:10].tolist() == list(range(10))
    assert raw[0, :16].tolist() == [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]


def test_digits_file_is_small_plain_and_named_with_its_licence():
    assert (HOME / "digits.npz").stat().st_size < 100_000
    with np.load(HOME / "digits.npz", allow_pickle=False) as file:
        assert {name: file[name].dtype.kind for name in file} == {"X": "u", "y": "u"}
    for text in (datasets.load_digits.__doc__, (HOME / "LICENSE-digits.txt").read_text()):
        for word in ("Alpaydin", "Kaynak", "UCI", "1998", "CC BY 4.0", "10.24432/C50P49"):
            assert word in text


def test_split_parts_the_rows():
    digits = datasets.load_digits()
    train, test = digits.split(test_fraction=0.25, seed=3)
    assert len(test.y) == 449 and len(train.y) == 1797 - 449
    rows = np.vstack([train.X, test.X])
    assert sorted(map(bytes, rows)) == sorted(map(bytes, digits.X))
    again = digits.split(test_fraction=0.25, seed=3)[1]
    other = digits.split(test_fraction=0.25, seed=4)[1]
    assert (again.X == test.X).all() and (again.y == test.y).all() and not (other.y == test.y).all()
    assert np.bincount(test.y).min() > 25
    for fraction in (0, 1, -0.1, 2, 1e-6):
        with pytest.raises(ValueError, match="test_fraction"):
            digits.split(test_fraction=fraction)


def test_split_leaves_the_random_state_alone():
    before = np.random.get_state()[1].copy()
    datasets.load_digits().split()
    assert (np.random.get_state()[1] == before).all()


def test_xor_and_parity():
    X, y = datasets.xor()
    assert X.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and y.tolist() == [[0], [1], [1], [0]]
    X, y = datasets.parity(4)
    assert X.shape == (16, 4) and y.shape == (16, 1)
    assert len({tuple(x) for x in X}) == 16
    assert all(t == sum(x) % 2 for x, (t,) in zip(X.tolist(), y.tolist(), strict=True))


def test_mirror_symmetry():
    X, y = datasets.mirror_symmetry()
    assert X.shape == (64, 6) and y.shape == (64, 1) and y.sum() == 8
    assert all(t == (x == x[::-1]) for x, (t,) in zip(X.tolist(), y.tolist(), strict=True))
    assert datasets.mirror_symmetry(5)[1].sum() == 8


def test_encoder():
    X, y = datasets.encoder()
    assert (np.eye(8) == X).all() and (y == X).all() and not np.shares_memory(X, y)
    assert datasets.encoder(4)[0].shape == (4, 4)


@pytest.mark.parametrize("name", ["load_digits", "xor", "mirror_symmetry", "encoder"])
def test_arrays_are_fresh_and_writable(name):
    X, y = getattr(datasets, name)()
    for array in (X, y):
        assert array.flags.writeable and array.flags.c_contiguous
        array[...] = 7
    X, y = getattr(datasets, name)()
    assert X.max() <= 1 and (y != 7).any()


def test_generators_are_float64_zeros_and_ones():
    for X, y in (datasets.xor(), datasets.parity(5), datasets.mirror_symmetry(), datasets.encoder()):
        for array in (X, y):
            assert array.dtype == np.float64 and array.ndim == 2
            assert ((array == 0) | (array == 1)).all()


@pytest.mark.parametrize("make", [datasets.parity, datasets.mirror_symmetry, datasets.encoder])
def test_sizes_are_checked(make):
    for size in (0, -1, 10**6):
        with pytest.raises(ValueError, match="expected an integer in 1"):
            make(size)
    for size in (2.0, "3", None, True):
        with pytest.raises(TypeError, match="expected an integer"):
            make(size)


def test_sunspots():
    years, numbers = datasets.load_sunspots()
    assert years.tolist() == list(range(1700, 2009)) and numbers.shape == (309,)
    assert numbers[[0, 78, 257, 308]].tolist() == [5, 154.4, 190.2, 2.9]  # the cycles' peaks of 1778 and 1957
    assert numbers.min() == 0 and numbers.max() == 190.2
    numbers[:] = 0
    assert datasets.load_sunspots()[1].any()
    for word in ("National Geophysical Data Center", "Public domain"):
        assert word in datasets.load_sunspots.__doc__
