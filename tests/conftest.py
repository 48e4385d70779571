"""What several test files share."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from bpcore import _core, _threads

# A shell starts what runs in the background with Ctrl-C ignored, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def force():
    """`_core.force`, undone after the test; a network keeps the plans it has, so make it after forcing."""
    yield _core.force
    _threads.read_forced()


def distance(got, want):
    """|got - want| / |want|, norm-wise."""
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert got.shape == want.shape
    size = np.linalg.norm(want)
    return np.linalg.norm(got - want) / size if size else np.linalg.norm(got)


def oracle(net):
    """W, b and activations of a network as tests/reference.py takes them: copies in float64."""
    W = [None, *(np.array(W, float) for W in net.W[1:])]
    b = [None, *(None if b is None else np.array(b, float) for b in net.b[1:])]
    return W, b, [None, *(layer.activation for layer in net.layers[1:])]


def flat(dW, db):
    """Gradients of layers 1..L as one vector in the order of theta."""
    parts = (part for W, b in zip(dW[1:], db[1:], strict=True) for part in (W.T.ravel(), b))
    return np.concatenate([part for part in parts if part is not None])


def check_instruction_sets(program, folder, float32, float64):
    """Arrays that a program saves to the file it is given: within a tolerance of portable C's on every instruction set,
    and the same bits with AVX2 and AVX-512."""
    found = {}
    for isa in _core.isa()[1]:
        environment = {**os.environ, "BPCORE_ISA": isa, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
        path = folder / f"{isa}.npz"
        subprocess.run([sys.executable, "-c", program, path], env=environment, check=True, timeout=120)
        found[isa] = dict(np.load(path))
    for isa in found:
        for name, value in found[isa].items():
            assert distance(value, found["portable"][name]) < (float32 if "float32" in name else float64), (isa, name)
            if {isa, "avx512"} == {"avx2", "avx512"} <= set(found):
                assert np.array_equal(value, found["avx512"][name]), (isa, name)
