"""Gradients and a hundred training steps of random networks, against PyTorch.

Tolerances are norm-wise and relative: gradients 1e-10 and steps 1e-9 in float64, both 1e-4 in float32.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import bpcore as bp

torch.set_num_threads(1)

ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    # F.hardsigmoid's derivative is 1/6 rounded to float32 in float64 too; this is the same function
    "hard_sigmoid": lambda z: F.relu6(z + 3) / 6,
    "hard_tanh": F.hardtanh,
    "exp": torch.exp,
    "softmax": lambda z: F.softmax(z, dim=1),
}
pytestmark = pytest.mark.filterwarnings("ignore:loss. cross_entropy is for")  # any loss after any output
LOSSES = ("squared_error", "mse", "binary_cross_entropy", "cross_entropy", "huber")
GRADIENT, STEPS, SINGLE = 1e-10, 1e-9, 1e-4
SEEDS = range(75)
N_STEPS = 100


def losses_of_rows(loss, f, z, y):
    """E of each row from the last layer's z, in PyTorch's own stable form where there is one."""
    a = ACTIVATIONS[f](z)
    if loss == "squared_error":
        return 0.5 * (a - y).square().sum(1)
    if loss == "mse":
        return F.mse_loss(a, y, reduction="none").mean(1)
    if loss == "huber":
        return F.huber_loss(a, y, reduction="none", delta=0.7).sum(1)
    if loss == "binary_cross_entropy":
        if f == "logistic":
            return F.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1)
        return F.binary_cross_entropy(a, y, reduction="none").sum(1)
    if f == "softmax":
        return F.cross_entropy(z, y, reduction="none")
    if y.ndim == 1:
        return F.nll_loss(torch.log(a), y, reduction="none")
    return -(y * torch.log(a)).sum(1)


class Case:
    """A network of 1 to 5 layers of 1 to 40 units, with a loss that fits it, its data, and its twin in PyTorch.

    Seed by seed the first layer goes through all activations and the loss through all losses.
    """

    def __init__(self, seed, dtype):
        rng = np.random.default_rng(seed)
        depth = int(rng.integers(1, 6))
        widths = rng.integers(1, 41, depth + 1).tolist()
        names = list(ACTIVATIONS)
        f = rng.choice([name for name in names if name != "exp"], depth).tolist()
        f[0] = names[seed % len(names)]
        self.loss = LOSSES[seed // len(names)]
        if self.loss == "binary_cross_entropy":
            f[-1] = ("logistic", "softmax", "logistic")[seed % 3]
        elif self.loss == "cross_entropy":
            f[-1] = ("softmax", "softplus", "softmax", "logistic")[seed % 4]
        if f[-1] == "softmax":
            widths[-1] = max(widths[-1], 2)
        self.f = f
        layers = [bp.Dense(n, name, bias=bool(rng.integers(4))) for n, name in zip(widths[1:], f, strict=True)]
        self.net = bp.Network([bp.Input(widths[0]), *layers], dtype=dtype, seed=seed)
        self.net.theta = rng.normal(0, 0.1, self.net.n_params) + 0.7 * self.net.theta

        self.n = int(rng.integers(1, 90))
        self.X = rng.normal(size=(self.n, widths[0])).astype(dtype)
        self.w = rng.integers(0, 4, self.n).astype(dtype) if seed % 3 == 1 else None
        if self.w is not None:
            self.w[0] = 1
        if self.loss == "cross_entropy" and seed % 2:
            self.y = rng.integers(0, widths[-1], self.n)
        elif self.loss == "cross_entropy":
            self.y = rng.dirichlet(np.ones(widths[-1]), self.n).astype(dtype)
        elif self.loss == "binary_cross_entropy":
            self.y = rng.uniform(0, 1, (self.n, widths[-1])).round(seed % 4).astype(dtype)
        else:
            self.y = rng.normal(size=(self.n, widths[-1])).astype(dtype)

        self.W = [torch.tensor(W.copy(), requires_grad=True) for W in self.net.W[1:]]
        self.b = [None if b is None else torch.tensor(b.copy(), requires_grad=True) for b in self.net.b[1:]]

    @property
    def bp_loss(self):
        return bp.losses.Huber(delta=0.7) if self.loss == "huber" else self.loss

    def cost(self, X, rows=slice(None)):
        """sum w E / sum w over the rows, in PyTorch."""
        for W, b, name in zip(self.W, self.b, self.f, strict=True):
            z = F.linear(X, W, b)
            X = ACTIVATIONS[name](z)
        E = losses_of_rows(self.loss, self.f[-1], z, torch.tensor(self.y[rows]))
        w = torch.ones_like(E) if self.w is None else torch.tensor(self.w[rows])
        return (w * E).sum() / w.sum()

    def flat(self, tensors_W, tensors_b):
        """One vector in the order of theta."""
        parts = [
            part.detach().numpy().ravel()
            for W, b in zip(tensors_W, tensors_b, strict=True)
            for part in (W.T, b)
            if part is not None
        ]
        return np.concatenate(parts)


def close(got, want, tolerance):
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert got.shape == want.shape and np.isfinite(want).all()
    assert np.linalg.norm(got - want) <= tolerance * max(np.linalg.norm(want), 1e-3)


def check_gradients(case, tolerance):
    X = torch.tensor(case.X, requires_grad=True)
    cost = case.cost(X)
    cost.backward()
    want = case.flat([W.grad for W in case.W], [None if b is None else b.grad for b in case.b])
    options = {"loss": case.bp_loss, "sample_weight": case.w}
    grads = case.net.backward(case.net.forward(case.X), case.y, **options)
    value, grad = case.net.value_and_grad(case.X, case.y, **options)
    for theta in (grads.theta, grad):
        close(theta, want, tolerance)
    close(grads.x, X.grad.numpy(), tolerance)
    for loss in (grads.loss, value, case.net.evaluate(case.X, case.y, **options)["loss"]):
        close(loss, cost.item(), tolerance)


OPTIMIZERS = [
    lambda: (bp.SGD(lr=0.02), torch.optim.SGD, {"lr": 0.02}, 0.0),
    lambda: (bp.SGD(lr=0.01, momentum=0.9), torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}, 0.0),
    lambda: (
        bp.SGD(lr=0.01, momentum=0.8, nesterov=True, weight_decay=0.02),
        torch.optim.SGD,
        {"lr": 0.01, "momentum": 0.8, "nesterov": True},
        0.02,
    ),
    lambda: (bp.Adam(lr=0.002), torch.optim.Adam, {"lr": 0.002}, 0.0),
    lambda: (
        bp.Adam(lr=0.005, beta1=0.8, beta2=0.99, eps=1e-6, weight_decay=0.05),
        torch.optim.Adam,
        {"lr": 0.005, "betas": (0.8, 0.99), "eps": 1e-6},
        0.05,
    ),
]


OTHERS = {
    "amsgrad": lambda: (bp.Adam(lr=0.005, beta2=0.9, amsgrad=True), torch.optim.Adam,
                        {"lr": 0.005, "betas": (0.9, 0.9), "amsgrad": True}, 0.0),
    "adamw": lambda: (bp.AdamW(lr=0.005, weight_decay=0.1), torch.optim.AdamW,
                      {"lr": 0.005, "weight_decay": 0.0}, 0.1),
    "nadam": lambda: (bp.Nadam(lr=0.003, momentum_decay=0.01, weight_decay=0.02), torch.optim.NAdam,
                      {"lr": 0.003, "momentum_decay": 0.01}, 0.02),
    "adamax": lambda: (bp.Adamax(lr=0.005, beta2=0.99, weight_decay=0.02), torch.optim.Adamax,
                       {"lr": 0.005, "betas": (0.9, 0.99)}, 0.02),
    "rmsprop": lambda: (bp.RMSprop(lr=0.001, eps=1e-4, momentum=0.5, centered=True, weight_decay=0.02),
                        torch.optim.RMSprop,
                        {"lr": 0.001, "alpha": 0.9, "eps": 1e-4, "momentum": 0.5, "centered": True}, 0.02),
    "adagrad": lambda: (bp.Adagrad(lr=0.02, weight_decay=0.02), torch.optim.Adagrad, {"lr": 0.02}, 0.02),
    "adadelta": lambda: (bp.Adadelta(weight_decay=0.02), torch.optim.Adadelta, {}, 0.02),
    "ema": lambda: (bp.Adam(lr=0.005, ema=0.95), torch.optim.Adam, {"lr": 0.005}, 0.0),
}  # fmt: skip


def check_training(case, settings, tolerance, n_steps=N_STEPS):
    optimizer, torch_optimizer, settings, decay = settings
    if case.w is not None:
        case.w += 1  # every batch makes a step
    batch = -(-case.n // 5) if case.n % 2 else case.n
    batches = -(-case.n // batch)
    epochs = -(-n_steps // batches)
    history = case.net.fit(
        case.X, case.y, loss=case.bp_loss, sample_weight=case.w, optimizer=optimizer,
        epochs=epochs, batch_size=batch, shuffle=False,
    )  # fmt: skip
    assert case.net.step == epochs * batches >= n_steps

    biases = [b for b in case.b if b is not None]
    groups = [{"params": case.W, "weight_decay": decay}, *([{"params": biases}] if biases else [])]
    twin = torch_optimizer(groups, **settings)
    X, losses = torch.tensor(case.X), []
    weights = torch.nn.ParameterList([*case.W, *biases])  # the same memory
    average = AveragedModel(weights, multi_avg_fn=get_ema_multi_avg_fn(optimizer.ema or 0.0))
    for _ in range(epochs):
        total = weight = 0.0
        for start in range(0, case.n, batch):
            rows = slice(start, start + batch)
            twin.zero_grad()
            cost = case.cost(X[rows], rows)
            cost.backward()
            twin.step()
            average.update_parameters(weights)
            w = len(X[rows]) if case.w is None else float(case.w[rows].sum())
            total, weight = total + w * cost.item(), weight + w
        losses.append(total / weight)
    close(case.net.theta, case.flat(case.W, case.b), tolerance)
    close(history.loss, losses, tolerance)
    if optimizer.ema is not None:
        rest = iter([*average.module][len(case.W) :])
        b = [None if b is None else next(rest) for b in case.b]
        close(case.net.averaged().theta, case.flat([*average.module][: len(case.W)], b), tolerance)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_in_float64(seed):
    check_gradients(Case(seed, "float64"), GRADIENT)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_in_float32(seed):
    check_gradients(Case(seed, "float32"), SINGLE)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hundred_steps_in_float64(seed):
    check_training(Case(seed, "float64"), OPTIMIZERS[seed * 7 % 5](), STEPS)


@pytest.mark.parametrize("seed", SEEDS[::3])
def test_a_hundred_steps_in_float32(seed):
    check_training(Case(seed, "float32"), OPTIMIZERS[seed // 3 % 5](), SINGLE)


@pytest.fixture
def doubles():
    """PyTorch keeps Nadam's product of momenta in its default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("seed", [19, 52, 61])  # nothing in them amplifies rounding
def test_two_hundred_steps_of_other_optimisers(seed, name, doubles):
    check_training(Case(seed, "float64"), OTHERS[name](), STEPS, 200)


def test_the_cases_cover_every_activation_loss_and_optimiser():
    cases = [Case(seed, "float64") for seed in SEEDS]
    assert {f for case in cases for f in case.f} == set(ACTIVATIONS) == set(bp.activations.NAMES)
    assert {case.loss for case in cases} == set(LOSSES) < set(bp.losses.NAMES)  # test_losses.py has others
    assert {len(case.f) for case in cases} == {1, 2, 3, 4, 5}
    assert {(case.loss, case.f[-1]) for case in cases} >= {
        ("binary_cross_entropy", "softmax"),
        ("cross_entropy", "logistic"),
        ("cross_entropy", "softplus"),
    }
    assert {seed * 7 % 5 for seed in SEEDS} == set(range(len(OPTIMIZERS)))


def test_hard_sigmoid_is_pytorchs():
    net = bp.Network([bp.Input(1), bp.Dense(1, "hard_sigmoid", init="ones")], dtype="float64")
    z = torch.linspace(-4, 4, 101, dtype=torch.float64, requires_grad=True)
    a = F.hardsigmoid(z)
    a.sum().backward()
    tape = net.forward(z.detach().numpy()[:, None])
    close(tape.a[1][:, 0], a.detach().numpy(), 1e-15)
    np.testing.assert_allclose(tape.df[1][:, 0], z.grad.numpy(), rtol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("f, loss", [("softmax", "cross_entropy"), ("logistic", "binary_cross_entropy")])
def test_logits_of_ten_thousand(f, loss, dtype):
    net = bp.Network([bp.Input(3), bp.Dense(4, f)], dtype=dtype)
    net.W[1][...] = np.eye(4, 3)
    X = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [9999, 1e4, -1e4], [0, 0, 1e-3]], dtype)
    y = np.array([1, 0, 3, 2])
    target = y if f == "softmax" else np.eye(4, dtype=dtype)[y]
    W, x = (torch.tensor(a.copy(), requires_grad=True) for a in (net.W[1], X))
    b = torch.tensor(net.b[1].copy(), requires_grad=True)
    cost = losses_of_rows(loss, f, F.linear(x, W, b), torch.tensor(target)).mean()
    cost.backward()
    grads = net.backward(net.forward(X), target, loss=loss)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    close(grads.loss, cost.item(), tolerance)
    close(grads.W[1], W.grad.numpy(), tolerance)
    close(grads.b[1], b.grad.numpy(), tolerance)
    close(grads.x, x.grad.numpy(), tolerance)
