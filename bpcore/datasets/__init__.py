"""Small data that comes along: the UCI digits, yearly sunspots, and problems of Rumelhart, Hinton and Williams (1986).

Every call returns fresh, writable arrays. Nothing is downloaded.
"""

import os
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Digits", "encoder", "load_digits", "load_sunspots", "mirror_symmetry", "parity", "xor"]

_FOLDER = os.path.dirname(__file__)
Pair = tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]


class Digits(NamedTuple):
    """Images X, (n, 64) float32 in 0..1, row by row of 8x8 pixels, and their labels y, (n,) int64 in 0..9."""

    X: np.ndarray[Any, np.dtype[np.float32]]
    y: np.ndarray[Any, np.dtype[np.int64]]

    def split(self, test_fraction: float = 0.2, seed: int = 0) -> tuple["Digits", "Digits"]:
        """Return (train, test): a random test_fraction of the rows, rounded, is the test set.

        Raises ValueError where either part would be empty.
        """
        n, n_test = len(self.y), round(test_fraction * len(self.y))
        if not 0 < n_test < n:
            raise ValueError(f"test_fraction: expected to leave rows to both parts, got {test_fraction!r}")
        # RandomState and not default_rng: its stream is frozen (NEP 19), so a split is the same for ever
        order = np.random.RandomState(seed % 2**32).permutation(n)
        train, test = np.sort(order[n_test:]), np.sort(order[:n_test])
        return Digits(self.X[train], self.y[train]), Digits(self.X[test], self.y[test])


def load_digits() -> Digits:
    """Return the 1,797 handwritten digits, 8x8 pixels, as X (1797, 64) float32 in 0..1 and y (1797,) int64.

    A pixel is k/16, where k of the 4x4 points it stands for were black. The order is the source's.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), UCI Machine Learning
    Repository, https://doi.org/10.24432/C50P49, the test part. Licence: CC BY 4.0.
    """
    with np.load(os.path.join(_FOLDER, "digits.npz"), allow_pickle=False) as file:
        return Digits(file["X"] / np.float32(16), file["y"].astype(np.int64))


def load_sunspots() -> Pair:
    """Return the years 1700 to 2008, (309,), and the yearly mean of the sunspot number, (309,).

    It is the relative number of Wolf, as it was before its revision of 2015.  Source: National Geophysical Data Center
    (NOAA), https://www.ngdc.noaa.gov/stp/solar/solarda3.html, as statsmodels has it.  Public domain.
    """
    table = np.loadtxt(os.path.join(_FOLDER, "sunspots.csv"), delimiter=",", skiprows=1)
    return table[:, 0].copy(), table[:, 1].copy()


def xor() -> Pair:
    """Return the exclusive or: X (4, 2), y (4, 1), both of 0 and 1."""
    return parity(2)


def parity(n_bits: int) -> Pair:
    """Return all binary vectors, X (2^n_bits, n_bits), and y (2^n_bits, 1): 1 where their ones are odd.

    Source: Rumelhart, Hinton and Williams, Parallel Distributed Processing vol. 1 (1986), ch. 8.
    """
    X = _binary_vectors(n_bits)
    return X, X.sum(axis=1, keepdims=True) % 2


def mirror_symmetry(n_bits: int = 6) -> Pair:
    """Return all binary vectors, X (2^n_bits, n_bits), and y (2^n_bits, 1): 1 where a row is symmetric.

    Source: Rumelhart, Hinton and Williams, Nature 323 (1986) 533, fig. 1.
    """
    X = _binary_vectors(n_bits)
    return X, (X[:, ::-1] == X).all(axis=1, keepdims=True).astype(np.float64)


def encoder(n: int = 8) -> Pair:
    """Return the n unit vectors, each its own target: X (n, n), y (n, n). A net n-log2(n)-n must find a code.

    Source: Rumelhart, Hinton and Williams, Parallel Distributed Processing vol. 1 (1986), ch. 8.
    """
    _check_size("n", n, 1, 10_000)
    return np.eye(n), np.eye(n)


def _binary_vectors(n_bits: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """0, 1, ..., 2^n_bits - 1 in binary, the highest bit first, (2^n_bits, n_bits)."""
    _check_size("n_bits", n_bits, 1, 20)
    return (np.arange(2**n_bits)[:, None] >> np.arange(n_bits)[::-1] & 1).astype(np.float64)


def _check_size(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected an integer in {low}..{high}, got {value}")
