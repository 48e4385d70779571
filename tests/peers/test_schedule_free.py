"""ScheduleFree against its authors' code, the package schedulefree: two hundred steps in float64."""

import numpy as np
import pytest
import schedulefree
import torch
from conftest import distance

import bpcore as bp

N_STEPS, BATCH, LR = 200, 8, {"sgd": 0.1, "adamw": 0.01}


def theirs(kind, params, decay, warmup, settings):
    groups = [{"params": params[::2], "weight_decay": decay}, {"params": params[1::2], "weight_decay": 0.0}]
    settings = {"lr": LR[kind], "warmup_steps": warmup, **settings}
    if kind == "sgd":
        return schedulefree.SGDScheduleFree(groups, momentum=0.85, **settings)
    return schedulefree.AdamWScheduleFree(groups, betas=(0.85, 0.99), **settings)


def ours(kind, decay, warmup, settings):
    lr = bp.schedules.Constant(LR[kind], warmup=warmup - 1) if warmup else LR[kind]  # whose first step is 1 / warmup
    if kind == "sgd":
        return bp.ScheduleFree(bp.SGD(lr, momentum=0.85, weight_decay=decay), **settings)
    return bp.ScheduleFree(bp.AdamW(lr, beta1=0.85, beta2=0.99, weight_decay=decay), **settings)


@pytest.mark.parametrize("kind", LR)
@pytest.mark.parametrize(
    "decay, warmup, settings", [(0.0, 0, {}), (0.1, 50, {}), (0.05, 20, {"r": 1.0, "weight_lr_power": 1.0})]
)
def test_two_hundred_steps(kind, decay, warmup, settings):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((N_STEPS * BATCH, 5)), rng.standard_normal((N_STEPS * BATCH, 2))
    net = bp.Network([bp.Input(5), bp.Dense(7, "tanh"), bp.Dense(2)], dtype="float64", seed=1)
    params = [torch.tensor(p.copy(), requires_grad=True) for p in net.params.values()]
    optimizer = theirs(kind, params, decay, warmup, settings)
    optimizer.train()
    for first in range(0, len(X), BATCH):
        x, y = (torch.tensor(a[first : first + BATCH]) for a in (X, Y))
        a = torch.tanh(x @ params[0] + params[1]) @ params[2] + params[3]
        optimizer.zero_grad()
        ((a - y) ** 2 / 2).sum(1).mean().backward()
        optimizer.step()
    optimizer.eval()
    net.fit(X, Y, loss="squared_error", optimizer=ours(kind, decay, warmup, settings), batch_size=BATCH, shuffle=False)
    assert distance(net.theta, np.concatenate([p.detach().numpy().ravel() for p in params])) < 1e-9
