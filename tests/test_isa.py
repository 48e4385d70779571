"""Every instruction set that this machine runs: the same algorithm, and the same bits where that is promised."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bpcore as bp
from bpcore import _core

CPU = Path("/proc/cpuinfo")
PROGRAM = """
import sys, numpy as np, bpcore as bp
from bpcore import _core
assert _core.isa()[0] == sys.argv[1]
found = {}
for dtype in ("float32", "float64"):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 37)), rng.integers(0, 5, 300)
    layers = [bp.Dense(53, "relu"), bp.Dense(17, "tanh"), bp.Dense(29, "logistic"), bp.Dense(5, "softmax")]
    net = bp.Network([bp.Input(37), *layers], dtype=dtype, seed=1)
    net.fit(X, y, optimizer=bp.Adam(lr=0.01), batch_size=33, epochs=3)
    one = bp.Network([bp.Input(37), bp.Dense(70, "silu"), bp.Dense(3, "softplus")], dtype=dtype, seed=2)
    one.fit(X[:40], X[:40, :3], optimizer=bp.SGD(lr=0.01, momentum=0.9), batch_size=1)
    wide = bp.Network([bp.Input(37), bp.Dense(400, "relu"), bp.Dense(700), bp.Dense(5, "softmax")], dtype=dtype)
    found |= {f"{dtype}.theta": net.theta, f"{dtype}.predict": net.predict(X), f"{dtype}.one": one.theta,
              f"{dtype}.wide": wide.value_and_grad(X, y)[1]}
    norm = bp.Network([bp.Input(37), bp.BatchNorm(), bp.Dense(70), bp.BatchNorm(), bp.Activate("tanh"), bp.Dense(2)],
                      dtype=dtype, seed=0)
    norm.fit(X + 3, X[:, :2], sample_weight=y % 3, batch_size=100, epochs=2)
    found[f"{dtype}.norm"] = np.concatenate([norm.theta, *norm.state.values(), norm.predict(X).ravel()])
    for inner in ("relu", "gelu"):
        odd = bp.Network([bp.Input(37), bp.Dense(403, inner), bp.Dense(709, inner), bp.Dense(577)], dtype=dtype)
        answer, wanted = odd.predictor(), odd.predict(X)  # weights of one lie in strips, of the other as they were made
        assert all(answer(X[:n]).tobytes() == wanted[:n].tobytes() for n in (1, 2, 5, 300))
        assert all(answer(X[i]).tobytes() == wanted[i].tobytes() for i in range(20))
    rows, signs = rng.dirichlet(np.ones(6), 300), rng.choice([-1.0, 1.0], (300, 6))
    read_z = {"poisson": "exp", "gamma": "exp", "tweedie": "exp", "focal": "logistic"}
    for loss in bp.losses.NAMES[1:]:
        out = bp.Network([bp.Input(37), bp.Dense(6, read_z.get(loss, "softmax"))], dtype=dtype, seed=3)
        y = signs if "hinge" in loss else rows[:, :3] if "gaussian" in loss else rows
        C, grad = out.value_and_grad(X, y, loss=loss)
        found[f"{dtype}.{loss}"] = np.append(grad, C)
    for n_in in (*range(1, 100), *range(4097, 4400, 2)):  # NaN behind X is not read, or steps would not be finite
        behind = np.full((17, n_in), np.nan, dtype)
        behind[:16] = rng.normal(size=(16, n_in))
        last = bp.Network([bp.Input(n_in), bp.Dense(1)], dtype=dtype)
        last.fit(behind[:16], behind[:16, 0], batch_size=16, shuffle=False, optimizer=bp.SGD(lr=1e-3))
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("isa"), {}
    for isa in _core.isa()[1]:
        path = folder / f"{isa}.npz"
        environment = {**os.environ, "BPCORE_ISA": isa, "BPCORE_BACKEND": "native"}
        subprocess.run([sys.executable, "-c", PROGRAM, isa, path], env=environment, check=True, timeout=120)
        found[isa] = dict(np.load(path))
    return found


def test_all_instruction_sets_agree(results):
    reference = results["portable"]
    for isa, found in results.items():
        for name, value in found.items():
            tolerance = 2e-4 if name.startswith("float32") else 1e-10
            error = np.abs(value - reference[name]).max() / np.abs(reference[name]).max()
            assert error <= tolerance, (isa, name, error)


def test_the_same_bits_wherever_multiply_and_add_are_fused(results):
    fused = [isa for isa in ("avx2", "avx512", "neon") if isa in results]
    for isa in fused[1:]:
        for name, value in results[isa].items():
            assert np.array_equal(value, results[fused[0]][name]), (isa, name)


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPU.exists(), reason="reads the flags of an x86 in /proc")
def test_what_the_processor_has_is_found_by_any_build():
    flags = set(re.search(r"^flags\s*:(.*)", CPU.read_text(), re.M)[1].split())
    expected = ["portable"]
    for isa, needs in (
        ("v2", {"sse4_2", "popcnt"}),
        ("avx2", {"avx2", "fma"}),
        ("avx512", {"avx512f", "avx512dq", "avx512bw", "avx512vl"}),
    ):
        if not needs <= flags:
            break
        expected.insert(0, isa)
    assert list(_core.isa()[1]) == expected


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="BPCORE_ISA: expected one of .*portable.*got 'mmx'"):
        _core.use_isa("mmx")


def _ulps(got, wanted):
    """Largest distance in units of the last place, where the result is normal."""
    normal = np.abs(wanted) >= np.finfo(got.dtype).tiny
    spacing = np.spacing(np.abs(wanted).astype(got.dtype)).astype(np.longdouble)
    return (np.abs(got.astype(np.longdouble) - wanted) / spacing)[normal].max()


@pytest.mark.parametrize(
    ("name", "wanted", "low", "high"),
    [
        ("exp", np.exp, -87.0, 88.0),
        ("tanh", np.tanh, -20.0, 20.0),
        ("logistic", lambda x: 1 / (1 + np.exp(-x)), -87.0, 30.0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp_tanh_and_logistic_are_within_2_5_ulp(name, wanted, low, high, dtype):
    net = bp.Network([bp.Input(1), bp.Dense(1, name, init="ones")], dtype=dtype)
    rng = np.random.default_rng(0)
    for scale in (1.0, 0.1, 1e-3, 1e-6):
        x = (rng.uniform(low, high, 400_000) * scale).astype(dtype)
        exact = wanted(x.astype(np.longdouble))
        assert _ulps(net.predict(x[:, None])[:, 0], exact) <= 2.5


def test_exp_tanh_and_logistic_at_the_ends():
    for dtype in ("float32", "float64"):
        for name, ends in (("exp", (0.0, np.inf)), ("tanh", (-1.0, 1.0)), ("logistic", (0.0, 1.0))):
            net = bp.Network([bp.Input(1), bp.Dense(1, name, init="ones")], dtype=dtype)
            assert net.predict([[-1e30], [1e30]]).ravel().tolist() == list(ends)
            net.params["dense_1.b"][:] = np.nan
            assert np.isnan(net.predict([[0.0]])).all()
