"""What tests of networks that go to another library and come back share."""

import numpy as np


def filled(net, seed=0):
    """With parameters and state drawn at random."""
    rng = np.random.default_rng(seed)
    net.theta = rng.uniform(-0.5, 0.5, net.n_params)
    for array in net.state.values():
        array[...] = rng.uniform(0.5, 2, array.shape)
    return net


def close(a, b):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 1e-6 * max(np.abs(b).max(), 1)
