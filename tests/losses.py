"""Losses beside those of reference.py: in NumPy, with the outputs and targets that they take."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log1p, ndtr, rel_entr, xlog1py, xlogy

import bpcore as bp


@dataclass
class Example:
    """A loss; E(a, y) of rows and dE/da; what its outputs are, how many for each target, and its targets, drawn."""

    loss: bp._losses.BuiltIn
    E: Callable
    dE: Callable
    outputs: str = "real"  # or positive, unit (0 to 1), rows that sum to 1
    parts: int = 1
    y: Callable = lambda rng, shape: rng.normal(size=shape)


def halves(f, a):
    """f of the first half of the columns and the second."""
    return f(*np.split(a, 2, axis=1))


def crps(u):
    """The score of a standard normal distribution."""
    return u * (2 * ndtr(u) - 1) + two_phi(u)


def two_phi(u):
    return 2 * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi)


def cosine(a, y):
    return np.sum(a * y, 1, keepdims=True) / (length(a) * length(y))


def length(v):
    return np.linalg.norm(v, axis=1, keepdims=True)


def by_level(f, a, y):
    """f(a, y, q) of the part of each level."""
    return np.hstack([f(part, y, q) for part, q in zip(np.split(a, len(LEVELS), axis=1), LEVELS, strict=True)])


LEVELS = (0.1, 0.4, 0.8)
DF, SCALE, POWER, FOCUS, SMOOTH = 4.0, 0.5, 1.3, 1.5, 0.2


def count(rng, shape):
    return rng.poisson(1.0, shape).astype(float)


def above_0(rng, shape):
    return rng.gamma(2.0, 0.5, shape) + 0.01


def unit(rng, shape):
    return rng.uniform(0, 1, shape)


def sign(rng, shape):
    return rng.choice([-1.0, 1.0], shape)


def distribution(rng, shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def smooth(y, mean):
    return (1 - SMOOTH) * y + SMOOTH * mean


LOSSES = {
    "mae": Example(bp.losses.MeanAbsoluteError(), lambda a, y: np.mean(abs(a - y), 1),
                   lambda a, y: np.sign(a - y) / a.shape[1]),
    "log_cosh": Example(bp.losses.LogCosh(), lambda a, y: np.sum(np.log(np.cosh(a - y)), 1),
                        lambda a, y: np.tanh(a - y)),
    "student_t": Example(bp.losses.StudentT(DF, SCALE),
                         lambda a, y: np.sum((DF + 1) / 2 * log1p((a - y) ** 2 / SCALE**2 / DF), 1),
                         lambda a, y: (DF + 1) * (a - y) / (DF * SCALE**2 + (a - y) ** 2)),
    "quantile": Example(bp.losses.Quantile(0.3), lambda a, y: np.sum(np.where(y > a, 0.3, -0.7) * (y - a), 1),
                        lambda a, y: np.where(y > a, -0.3, 0.7)),
    "quantile of levels": Example(
        bp.losses.Quantile(LEVELS),
        lambda a, y: by_level(lambda a, y, q: np.where(y > a, q, q - 1) * (y - a), a, y).sum(1),
        lambda a, y: by_level(lambda a, y, q: np.where(y > a, -q, 1 - q), a, y), parts=3),
    "poisson": Example(bp.losses.Poisson(), lambda a, y: np.sum(a - xlogy(y, a), 1), lambda a, y: 1 - y / a,
                       "positive", y=count),
    "gamma": Example(bp.losses.Gamma(), lambda a, y: np.sum(np.log(a) + y / a, 1), lambda a, y: (a - y) / a**2,
                     "positive", y=above_0),
    "tweedie": Example(bp.losses.Tweedie(POWER),
                       lambda a, y: np.sum(a ** (2 - POWER) / (2 - POWER) - y * a ** (1 - POWER) / (1 - POWER), 1),
                       lambda a, y: (a - y) * a**-POWER, "positive", y=count),
    "gaussian_nll": Example(
        bp.losses.GaussianNLL(), lambda a, y: halves(lambda m, s: (s + (y - m) ** 2 * np.exp(-s)) / 2, a).sum(1),
        lambda a, y: np.hstack([halves(lambda m, s: (m - y) * np.exp(-s), a),
                                halves(lambda m, s: (1 - (y - m) ** 2 * np.exp(-s)) / 2, a)]), parts=2),
    "crps_gaussian": Example(
        bp.losses.GaussianCRPS(),
        lambda a, y: halves(lambda m, s: np.exp(s / 2) * crps((y - m) / np.exp(s / 2)), a).sum(1),
        lambda a, y: np.hstack([
            halves(lambda m, s: 2 * ndtr((m - y) / np.exp(s / 2)) - 1, a),
            halves(lambda m, s: np.exp(s / 2) / 2 * two_phi((y - m) / np.exp(s / 2)), a)]), parts=2),
    "binary_cross_entropy smoothed": Example(
        bp.losses.BinaryCrossEntropy(SMOOTH),
        lambda a, y: -np.sum(xlogy(smooth(y, 0.5), a) + xlog1py(1 - smooth(y, 0.5), -a), 1),
        lambda a, y: (a - smooth(y, 0.5)) / (a * (1 - a)), "unit", y=unit),
    "cross_entropy smoothed": Example(
        bp.losses.CrossEntropy(SMOOTH), lambda a, y: -np.sum(xlogy(smooth(y, 1 / y.shape[1]), a), 1),
        lambda a, y: -smooth(y, 1 / y.shape[1]) / a, "rows", y=distribution),
    "kl_divergence": Example(bp.losses.KLDivergence(), lambda a, y: np.sum(rel_entr(y, a), 1),
                             lambda a, y: -y / a, "rows", y=distribution),
    "focal": Example(
        bp.losses.Focal(FOCUS),
        lambda a, y: -np.sum(y * (1 - a) ** FOCUS * np.log(a) + (1 - y) * a**FOCUS * np.log(1 - a), 1),
        lambda a, y: -y * ((1 - a) ** FOCUS / a - FOCUS * (1 - a) ** (FOCUS - 1) * np.log(a))
        + (1 - y) * (a**FOCUS / (1 - a) - FOCUS * a ** (FOCUS - 1) * np.log(1 - a)), "unit", y=unit),
    "categorical_focal": Example(
        bp.losses.CategoricalFocal(FOCUS), lambda a, y: -np.sum(y * (1 - a) ** FOCUS * np.log(a), 1),
        lambda a, y: y * (FOCUS * (1 - a) ** (FOCUS - 1) * np.log(a) - (1 - a) ** FOCUS / a), "rows", y=distribution),
    "hinge": Example(bp.losses.Hinge(), lambda a, y: np.sum(np.maximum(0, 1 - y * a), 1),
                     lambda a, y: -y * (y * a < 1), y=sign),
    "squared_hinge": Example(bp.losses.SquaredHinge(), lambda a, y: np.sum(np.maximum(0, 1 - y * a) ** 2, 1),
                             lambda a, y: -2 * y * np.maximum(0, 1 - y * a), y=sign),
    "cosine": Example(bp.losses.CosineDistance(), lambda a, y: 1 - cosine(a, y)[:, 0],
                      lambda a, y: (a / length(a) * cosine(a, y) - y / length(y)) / length(a)),
}  # fmt: skip
