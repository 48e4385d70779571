"""What the tests of `fit` share: data, a small network, what it has become, and callbacks."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest

import bpcore as bp

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 3))
Y = RNG.standard_normal((50, 2))
LABELS = RNG.integers(0, 4, 50)


def make(seed=1, n_out=2, output="identity", dtype="float64", **settings):
    return bp.Network([bp.Input(3), bp.Dense(5, "tanh"), bp.Dense(n_out, output)], seed=seed, dtype=dtype, **settings)


def state_of(net):
    return [a.tobytes() for a in (net.theta, *net._model.memory.states)], net.step, net._model.memory.updates


@contextlib.contextmanager
def interrupted(begun, seconds=0.05):
    """Ctrl-C so long after `begun()` is first true; it must come out of the block."""
    over = threading.Event()

    def send():
        while not begun():
            if over.wait(0.001):
                return
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    with pytest.raises(KeyboardInterrupt):
        sender.start()
        try:
            yield
        finally:
            over.set()
            sender.join()


class Recorder(bp.Callback):
    """Writes down every event."""

    def __init__(self, log=None, tag=""):
        self.log, self.tag = [] if log is None else log, tag

    def on_fit_begin(self, state):
        self.log.append((self.tag + "begin", state.epoch, state.step))

    def on_batch_end(self, state):
        self.log.append((self.tag + "batch", state.epoch, state.step))

    def on_epoch_end(self, state):
        self.log.append((self.tag + "epoch", state.epoch, state.step))

    def on_fit_end(self, state):
        self.log.append((self.tag + "end", state.epoch, state.step))


class At(bp.Callback):
    """Calls `change(state)` at an event."""

    def __init__(self, event, change, step=None):
        def told(state):
            if step is None or state.step == step:
                change(state)

        setattr(self, event, told)

    def on_batch_end(self, state):
        """One step a slice."""
