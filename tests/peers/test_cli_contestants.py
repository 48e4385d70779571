"""The libraries that `bpcore bench` measures compute what bpcore computes."""

import numpy as np
import pytest

from bpcore_cli import _contestants

TASK = _contestants.Task.made((5, 7, 4, 3), 4, 24)


@pytest.mark.parametrize("name", _contestants.CONTESTANTS)
def test_all_train_and_answer_alike(name):
    net, ours = _contestants.CONTESTANTS[name](TASK), _contestants.BpcoreNet(TASK)
    for x in (TASK.X[0], TASK.X):
        assert np.abs(np.atleast_2d(net.predict(x)) - np.atleast_2d(ours.predict(x))).max() < 1e-6
    if net.epoch is None:
        return
    for _ in range(3):
        net.epoch()
        ours.epoch()
    for (W, b), (V, c) in zip(net.weights(), ours.weights(), strict=True):
        assert np.abs(W - V).max() < 1e-5 and np.abs(b - c).max() < 1e-5
    assert np.abs(ours.weights()[0][0] - TASK.weights[0][0]).max() > 1e-3
