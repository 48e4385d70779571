"""Training with BatchNorm against PyTorch, in float64; norm-wise."""

import numpy as np
import pytest
import torch
from torch import nn

import bpcore as bp

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
TOLERANCE = 1e-9  # of what some dozens of steps leave
MOMENTUM, EPS, BATCH = 0.8, 1e-3, 50


class Images(nn.Module):
    """(n, height, width, channels), as bpcore has them, to PyTorch's, or back to rows."""

    def __init__(self, back):
        super().__init__()
        self.back = back

    def forward(self, x):
        return x.movedim(1, -1).flatten(1) if self.back else x.movedim(-1, 1)


def norm(kind, units):
    return kind(units, eps=EPS, momentum=1 - MOMENTUM)  # of what is new


def dense():
    own = [bp.Input(5), bp.Dense(12), bp.BatchNorm(momentum=MOMENTUM, eps=EPS), bp.Activate("tanh"), bp.Dense(3)]
    theirs = [nn.Linear(5, 12), norm(nn.BatchNorm1d, 12), nn.Tanh(), nn.Linear(12, 3)]
    return own, theirs, RNG.normal(3, 2, (150, 5))


def convolutional():
    own = [bp.Input((6, 7, 2)), bp.BatchNorm(momentum=MOMENTUM, eps=EPS), bp.Conv2D(4, 3),
           bp.BatchNorm(momentum=MOMENTUM, eps=EPS), bp.Activate("relu"), bp.Reshape(-1), bp.Dense(3)]  # fmt: skip
    theirs = [Images(False), norm(nn.BatchNorm2d, 2), nn.Conv2d(2, 4, 3), norm(nn.BatchNorm2d, 4), nn.ReLU(),
              Images(True), nn.Linear(80, 3)]  # fmt: skip
    return own, theirs, RNG.normal(3, 2, (150, 6, 7, 2))


def from_torch(tensors):
    """In the order of theta, as it lies there."""
    order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return np.concatenate([t.detach().numpy().transpose(order[t.ndim]).ravel() for t in tensors])


@pytest.mark.parametrize("make", [dense, convolutional])
def test_training(make):
    """theta, the loss and the answers; PyTorch's running variance is n / (n - 1) times the batch's."""
    layers, modules, X = make()
    y = RNG.normal(size=(150, 3))
    net, twin = bp.Network(layers, dtype="float64", seed=3), nn.Sequential(*modules).double()
    net.theta = from_torch(twin.parameters())
    history = net.fit(X, y, loss="mse", optimizer=bp.SGD(lr=0.05, momentum=0.9), batch_size=BATCH, epochs=8,
                      shuffle=False)  # fmt: skip
    optimizer, losses = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9), []
    for _ in range(8):
        for first in range(0, 150, BATCH):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(twin(torch.tensor(X[first : first + BATCH])),
                                          torch.tensor(y[first : first + BATCH]))  # fmt: skip
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    def close(got, want):
        assert np.linalg.norm(got - want) <= TOLERANCE * np.linalg.norm(want)

    close(net.theta, from_torch(twin.parameters()))
    close(np.array(history.loss), np.reshape(losses, (8, -1)).mean(1))
    norms = [module for module in twin if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    first = MOMENTUM ** (8 * 150 // BATCH)  # what is left of 1
    for number, module in enumerate(norms, 1):
        n = BATCH * (1 if make is dense else 42 if number == 1 else 20)
        close(net.state[f"batch_norm_{number}.mean"], module.running_mean.numpy())
        unbiased = first + (net.state[f"batch_norm_{number}.variance"] - first) * n / (n - 1)
        close(unbiased, module.running_var.numpy())
        module.running_var.copy_(torch.tensor(net.state[f"batch_norm_{number}.variance"]))
    close(net.predict(X), twin.eval()(torch.tensor(X)).detach().numpy())
