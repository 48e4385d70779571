"""Losses beside PyTorch's and scikit-learn's, where these have the same formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from sklearn._loss import loss as sk
from sklearn.metrics import mean_pinball_loss

import bpcore as bp

rng = np.random.default_rng(0)
N = 60
Z = rng.normal(0, 2, (N, 3))
COUNT, POSITIVE = rng.poisson(1.5, (N, 3)).astype(float), rng.gamma(2.0, 1.0, (N, 3)) + 0.01
UNIT, SIGN, REAL = rng.uniform(size=(N, 3)), rng.choice([-1.0, 1.0], (N, 3)), rng.normal(size=(N, 3))
ROWS, LABELS = rng.dirichlet(np.ones(3), N), rng.integers(0, 3, N)


def focal(z, y, gamma=1.7):
    """torchvision.ops.sigmoid_focal_loss without alpha, for y 0 or 1."""
    p = torch.sigmoid(z)
    p_t = p * y + (1 - p) * (1 - y)
    return F.binary_cross_entropy_with_logits(z, y, reduction="none") * (1 - p_t) ** gamma


# loss, the activation of the output, y, E of each row from z
TORCH = {
    "mae": ("mae", "identity", REAL, lambda z, y: F.l1_loss(z, y, reduction="none").mean(1)),
    "poisson": ("poisson", "exp", COUNT, lambda z, y: F.poisson_nll_loss(z, y, reduction="none").sum(1)),
    "poisson of the mean": (
        "poisson", "softplus", COUNT,
        lambda z, y: F.poisson_nll_loss(F.softplus(z), y, log_input=False, eps=0, reduction="none").sum(1)),
    "kl_divergence": ("kl_divergence", "softmax", ROWS,
                      lambda z, y: F.kl_div(F.log_softmax(z, 1), y, reduction="none").sum(1)),
    "squared_hinge": ("squared_hinge", "identity", SIGN, lambda z, y: torch.clamp(1 - z * y, min=0).square().sum(1)),
    "hinge": ("hinge", "identity", SIGN, lambda z, y: torch.clamp(1 - z * y, min=0).sum(1)),
    "focal": (bp.losses.Focal(1.7), "logistic", (SIGN + 1) / 2, lambda z, y: focal(z, y).sum(1)),
    "categorical_focal": (
        bp.losses.CategoricalFocal(1.7), "softmax", ROWS,
        lambda z, y: -(y * (1 - torch.softmax(z, 1)) ** 1.7 * F.log_softmax(z, 1)).sum(1)),
    "cosine": ("cosine", "identity", REAL, lambda z, y: 1 - F.cosine_similarity(z, y)),
    "smoothed labels": (bp.losses.CrossEntropy(0.15), "softmax", LABELS,
                        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.15, reduction="none")),
    "smoothed rows": (bp.losses.CrossEntropy(0.15), "softmax", ROWS,
                      lambda z, y: F.cross_entropy(z, y, label_smoothing=0.15, reduction="none")),
    "student_t": (bp.losses.StudentT(4.0, 0.5), "identity", REAL,
                  lambda z, y: (torch.distributions.StudentT(4.0, z, 0.5).log_prob(z)
                                - torch.distributions.StudentT(4.0, z, 0.5).log_prob(y)).sum(1)),
}  # fmt: skip


def check(loss, f, y, E):
    """Values and gradients by z, at 1e-12."""
    width = Z.shape[1]
    net = bp.Network([bp.Input(width), bp.Dense(width, f, init=np.eye(width), bias=False)], dtype="float64")
    z = torch.tensor(Z, requires_grad=True)
    rows = E(z, torch.tensor(y))
    rows.sum().backward()
    grads = net.backward(net.forward(Z), y, loss=loss)
    np.testing.assert_allclose(grads.loss, rows.mean().item(), rtol=1e-12)
    np.testing.assert_allclose(grads.delta[1], z.grad.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore:loss. [a-z_]* is for")
def test_torch(name):
    check(*TORCH[name])


@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-12), ("float32", 2e-6)])
def test_gaussian_likelihood_of_torch(dtype, rtol):
    net = bp.Network([bp.Input(2), bp.Dense(2, init=np.eye(2), bias=False)], dtype=dtype)
    a, y = Z[:, :2].astype(dtype), REAL[:, 0].astype(dtype)
    z = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    rows = F.gaussian_nll_loss(z[:, 0], torch.tensor(y, dtype=torch.float64), z[:, 1].exp(), eps=0, reduction="none")
    rows.sum().backward()
    grads = net.backward(net.forward(a), y, loss="gaussian_nll")
    np.testing.assert_allclose(grads.loss, rows.mean().item(), rtol=rtol)
    np.testing.assert_allclose(grads.delta[1], z.grad.numpy(), rtol=rtol, atol=rtol)


SKLEARN = {
    "poisson": ("poisson", "exp", COUNT, sk.HalfPoissonLoss()),
    "gamma": ("gamma", "exp", POSITIVE, sk.HalfGammaLoss()),
    "tweedie": (bp.losses.Tweedie(1.3), "exp", COUNT, sk.HalfTweedieLoss(power=1.3)),
    "quantile": (bp.losses.Quantile(0.2), "identity", REAL, sk.PinballLoss(quantile=0.2)),
    "huber": (bp.losses.Huber(0.7), "identity", REAL, sk.HuberLoss(quantile=0.5, delta=0.7)),
}


@pytest.mark.parametrize("name", SKLEARN)
def test_sklearn(name):
    """Theirs may differ by what does not depend on z."""
    loss, f, y, theirs = SKLEARN[name]
    net = bp.Network([bp.Input(3), bp.Dense(3, f, init=np.eye(3), bias=False)], dtype="float64")
    E, gradient = theirs.loss_gradient(y.ravel(), Z.ravel())
    at_0, _ = theirs.loss_gradient(y.ravel(), np.zeros(y.size))
    grads = net.backward(net.forward(Z), y, loss=loss)
    zero = net.evaluate(0 * Z, y, loss=loss)["loss"]
    np.testing.assert_allclose(grads.loss - zero, (E - at_0).reshape(y.shape).sum(1).mean(), rtol=1e-11)
    np.testing.assert_allclose(grads.delta[1].ravel(), gradient, rtol=1e-12, atol=1e-14)


def test_pinball_loss_of_sklearn():
    net = bp.Network([bp.Input(3), bp.Dense(3, init=np.eye(3), bias=False)], dtype="float64")
    levels = (0.1, 0.5, 0.7)
    want = sum(mean_pinball_loss(REAL[:, 0], Z[:, k], alpha=q) for k, q in enumerate(levels))
    assert net.evaluate(Z, REAL[:, 0], loss=bp.losses.Quantile(levels))["loss"] == pytest.approx(want, rel=1e-13)


def test_divergence_of_scipy():
    from scipy.special import rel_entr

    net = bp.Network([bp.Input(3), bp.Dense(3, "softmax", init=np.eye(3), bias=False)], dtype="float64")
    want = rel_entr(ROWS, np.exp(log_softmax(Z, axis=1))).sum(1).mean()
    assert net.evaluate(Z, ROWS, loss="kl_divergence")["loss"] == pytest.approx(want, rel=1e-13)
