"""Schedules against torch.optim.lr_scheduler, where both have the same formula: to 1e-12, since torch multiplies from
step to step."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as peer

from bpcore.schedules import Constant, Cosine, Exponential, Function, OneCycle, Piecewise, Polynomial, Step

N = 60  # steps
PAIRS = {
    "constant": (Constant(0.3), lambda o: peer.ConstantLR(o, 1.0)),
    "warm-up": (Constant(0.3, warmup=9), lambda o: peer.LinearLR(o, 1 / 10, total_iters=9)),
    "step": (Step(0.3, every=7, factor=0.7), lambda o: peer.StepLR(o, 7, 0.7)),
    "milestones": (Piecewise([0.3, 0.03, 0.003], [11, 40]), lambda o: peer.MultiStepLR(o, [11, 40], 0.1)),
    "exponential": (Exponential(0.3, factor=0.02, length=N), lambda o: peer.ExponentialLR(o, 0.02 ** (1 / N))),
    "polynomial": (Polynomial(0.3, power=1.7, length=50), lambda o: peer.PolynomialLR(o, 50, 1.7)),
    "line": (Polynomial(0.3, end=0.06, length=50), lambda o: peer.LinearLR(o, 1.0, 0.2, 50)),
    "cosine": (Cosine(0.3, end=0.01, length=N), lambda o: peer.CosineAnnealingLR(o, N, 0.01)),
    "restarts": (Cosine(0.3, end=0.01, length=70, cycles=3, growth=2),
                 lambda o: peer.CosineAnnealingWarmRestarts(o, 10, 2, 0.01)),
    "one cycle": (OneCycle(0.3, length=N, warmup=20),  # torch's last step is N, its peak before 21 of N + 1
                  lambda o: peer.OneCycleLR(o, 0.3, N + 1, pct_start=21 / (N + 1), cycle_momentum=False)),
    "function": (Function(lambda u: 0.3 / (1 + u)), lambda o: peer.LambdaLR(o, lambda u: 1 / (1 + u))),
    "sequence": (Cosine(0.3, length=N, warmup=9),
                 lambda o: peer.SequentialLR(o, [peer.LinearLR(o, 1 / 10, total_iters=9),
                                                 peer.CosineAnnealingLR(o, N - 9)], [9])),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch warns of its own SequentialLR
@pytest.mark.parametrize("schedule, torchs", PAIRS.values(), ids=PAIRS)
def test_a_schedule_is_torchs(schedule, torchs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=0.3)
    scheduler = torchs(optimizer)
    rates = []
    for _ in range(N):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(schedule(np.arange(N)), rates, rtol=1e-12, atol=1e-16)
