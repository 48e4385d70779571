"""partial_fit: blocks that come one after the other are trained as one array is."""

import numpy as np
import pytest
from fitting import RNG, state_of

import bpcore as bp

X = RNG.standard_normal((96, 3))
Y = RNG.standard_normal((96, 2))
OPTIMIZERS = [
    bp.SGD(lr=0.05, momentum=0.9), bp.Adam(lr=bp.schedules.Step(0.01, every=3)),
    bp.AdamW(lr=bp.schedules.Cosine(0.01, length=8, warmup=2), ema=0.9),
]  # fmt: skip


def make():
    return bp.Network([bp.Input(3), bp.Dense(6, "tanh"), bp.Dropout(0.3), bp.Dense(2)], seed=3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_make_the_steps_of_one_array(optimizer, weighted):
    w = np.random.default_rng(1).uniform(0.5, 2, 96) if weighted else None
    nets = make(), make()
    losses = [
        nets[0].partial_fit(X[a:b], Y[a:b], optimizer=optimizer, batch_size=8, l2=1e-3,
                            sample_weight=None if w is None else w[a:b])
        for a, b in ((0, 16), (16, 24), (24, 96))
    ]  # fmt: skip
    history = nets[1].fit(X, Y, optimizer=optimizer, batch_size=8, sample_weight=w, l2=1e-3, shuffle=False)
    assert state_of(nets[0]) == state_of(nets[1])
    assert nets[0].epoch == 0 and nets[0].step == 12 and nets[0].optimizer == optimizer
    parts = [1.0 * (b - a) if w is None else w[a:b].sum() for a, b in ((0, 16), (16, 24), (24, 96))]
    assert np.average(losses, weights=parts) == pytest.approx(history.loss[0], rel=1e-7)


def test_a_block_may_be_one_step():
    net = make()
    loss = net.partial_fit(X, Y, batch_size=None)
    assert net.step == 1 and type(loss) is float
    assert loss == pytest.approx(make().fit(X, Y, batch_size=None).loss[0], rel=1e-12)


@pytest.mark.parametrize("settings, words", [
    ({"optimizer": bp.Rprop(), "batch_size": None}, "optimizer: Rprop takes all examples at once"),
    ({"optimizer": bp.LBFGS(), "batch_size": None}, "optimizer: LBFGS "),
    ({"optimizer": bp.SGD(lr=bp.schedules.Cosine(0.1))}, "lr: expected a schedule whose lengths are steps"),
    ({"optimizer": bp.SGD(lr=bp.schedules.Step(0.1, every=bp.schedules.Epochs(1)))}, "lr: expected a schedule"),
    ({"batch_size": 0}, "batch_size: "),
])  # fmt: skip
def test_what_a_block_does_not_do(settings, words):
    net = bp.Network([bp.Input(3), bp.Dense(2)])
    with pytest.raises(ValueError, match=words):
        net.partial_fit(X, Y, **settings)
    with pytest.raises(TypeError, match="epochs: "):
        net.partial_fit(X, Y, epochs=3)
    assert net.step == 0 and net.optimizer is None


def test_a_step_that_diverges_leaves_the_last_finite_one():
    net = bp.Network([bp.Input(3), bp.Dense(2)])
    with pytest.raises(bp.DivergenceError):
        net.partial_fit(X * 1e10, Y, optimizer=bp.SGD(lr=1e30), batch_size=8)
    assert np.isfinite(net.theta).all()
    net.partial_fit(X, Y)
