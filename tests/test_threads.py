"""How many threads a call uses, and how SciPy's BLAS is found, checked and handed over."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import bpcore as bp
from bpcore import _blas, _core, _threads

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
LIMITS = ("BPCORE_NUM_THREADS", "OMP_NUM_THREADS")


def run(script, code=0, **env):
    """What a fresh interpreter prints as JSON; with a code other than 0, its standard error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BPCORE") and name not in LIMITS}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else json.loads(done.stdout)


DEFAULT = "import json, bpcore as bp; print(json.dumps(bp.get_num_threads()))"


@pytest.mark.parametrize(
    "env, limit",
    [
        ({}, CPUS),
        ({"BPCORE_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4,2"}, 1),
        ({"OMP_NUM_THREADS": " 1 "}, 1),
        ({"BPCORE_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, 1),
        ({"BPCORE_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}, 1),
        ({"BPCORE_NUM_THREADS": "100000"}, CPUS),
        ({"BPCORE_NUM_THREADS": ""}, CPUS),
        ({"BPCORE_NUM_THREADS": " "}, CPUS),
        ({"OMP_NUM_THREADS": "many"}, CPUS),
        ({"OMP_NUM_THREADS": "\N{SUPERSCRIPT ONE}"}, CPUS),
    ],
)
def test_default_is_the_smallest_limit(env, limit):
    quota = max(1, int(min(_threads._cgroup_quota(), CPUS)))
    assert run(DEFAULT, **env) == min(limit, quota, _core.MAX_THREADS)


@pytest.mark.parametrize("value", ["abc", "0", "-3", "2.5", ",4", "9" * 5000])
def test_a_limit_that_is_none_is_warned_of(value):
    script = '''
    import json, warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import bpcore as bp
    print(json.dumps([bp.get_num_threads(), [[str(w.message), w.category.__name__, w.filename] for w in caught]]))
    '''
    expected = run(DEFAULT, OMP_NUM_THREADS="1")
    limit, caught = run(script, BPCORE_NUM_THREADS=value, OMP_NUM_THREADS="1")
    assert limit == expected == 1
    [[message, category, filename]] = caught
    assert message.startswith(f"BPCORE_NUM_THREADS: expected a number of threads from 1 on, got {value!r}; ")
    assert message.endswith("bpcore uses 1") and category == "RuntimeWarning"
    assert filename == "<string>"  # the line that imports bpcore
    assert "RuntimeWarning" in run(DEFAULT, 1, BPCORE_NUM_THREADS=value)  # an error by -W error


if hasattr(os, "sched_setaffinity"):  # Linux

    def test_default_respects_affinity():
        script = """
        import json, os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import bpcore as bp
        print(json.dumps(bp.get_num_threads()))
        """
        assert run(script) == 1


V1 = "4:memory:/a\n3:cpu,cpuacct:/a/b\n"


@pytest.mark.parametrize(
    "groups, files, cpus",
    [
        (None, {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, float("inf")),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/\n", {"cpu.max": ""}, float("inf")),
        ("0::/\n", {"cpu.max": "a b"}, float("inf")),
        ("0::/\n", {"cpu.max": "100000 0"}, float("inf")),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "max 100000\n"}, 1.0),
        ("0::/a\n", {"a/b/cpu.max": "100000 100000\n", "c/cpu.max": "100000 100000\n"}, float("inf")),
        ("0::/not/mounted\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../..\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "200000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 2.0),
        (V1, {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "50000\n"}, 1.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        (V1, {"memory/a/cpu.cfs_quota_us": "1\n", "a/cpu.max": "1 1\n"}, float("inf")),
        ("nonsense\n\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (None, {}, float("inf")),
    ],
)
def test_control_groups(groups, files, cpus, monkeypatch, tmp_path):
    tree = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    if groups is not None:
        tree["proc/self/cgroup"] = groups
    for name, text in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(_threads, "_ROOT", tmp_path)
    assert _threads._cgroup_quota() == cpus
    assert 1 <= _threads._default() <= max(1, int(min(cpus, CPUS)))


@pytest.mark.parametrize("first", ["bpcore", "threadpoolctl"])
def test_threadpoolctl_lists_and_limits(first):
    script = f"""
    import json, {first}
    import bpcore as bp, threadpoolctl
    def mine():
        return [x for x in threadpoolctl.threadpool_info() if x["internal_api"] == "bpcore"]
    bp.set_num_threads(3)
    seen = [bp.get_num_threads()]
    with threadpoolctl.threadpool_limits(1):
        seen += [bp.get_num_threads(), mine()[0]["num_threads"]]
    with threadpoolctl.threadpool_limits(2, user_api="bpcore"):
        seen.append(bp.get_num_threads())
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        seen.append(bp.get_num_threads())
    with threadpoolctl.threadpool_limits(100_000):
        seen.append(bp.get_num_threads())
    seen.append(bp.get_num_threads())
    print(json.dumps([seen, len(mine()), mine()[0]]))
    """
    seen, found, info = run(script)
    assert seen == [3, 1, 1, 2, 3, _core.MAX_THREADS, 3] and found == 1
    assert (info["user_api"], info["version"], info["num_threads"]) == ("bpcore", bp.__version__, 3)
    assert info["filepath"] == _core.__file__


def test_workers_of_joblib_share_the_cpus():
    script = """
    import json, bpcore as bp, joblib
    threads = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(bp.get_num_threads)() for _ in range(4))
    print(json.dumps([threads, joblib.cpu_count()]))
    """
    threads, cpus = run(script)
    assert set(threads) == {max(1, cpus // 2)}


def test_set_and_get():
    before = bp.get_num_threads()
    try:
        for n in (1, 3, 256):
            assert bp.set_num_threads(n) is None
            assert bp.get_num_threads() == n
    finally:
        bp.set_num_threads(before)


def test_the_setting_is_what_calls_use_and_n_threads_overrides_it():
    before = bp.get_num_threads()
    X, y = np.array([[i / 400, 1.0] for i in range(400)]), np.ones(400)
    bits = {}
    _core.force(True, "")
    try:
        for setting, n_threads, expected in ((3, None, 3), (1, None, 1), (1, 4, 4), (4, 2, 2)):
            bp.set_num_threads(setting)
            net = bp.Network([bp.Input(2), bp.Dense(4, "tanh"), bp.Dense(1), bp.Dense(1)])
            v, tape = np.ones(net.n_params, np.float32), net.forward(X)
            calls = {
                "predict": lambda net=net, n=n_threads: net.predict(X, n_threads=n),
                "evaluate": lambda net=net, n=n_threads: net.evaluate(X, y, n_threads=n)["loss"],
                "gradient": lambda net=net, n=n_threads: net.value_and_grad(X, y, n_threads=n)[1],
                "forward": lambda net=net, n=n_threads: net.forward(X, n_threads=n).a[3],
                "backward": lambda net=net, n=n_threads, tape=tape: net.backward(tape, y, n_threads=n).theta,
                "input": lambda net=net, n=n_threads: net.input_gradient(X, output=0, n_threads=n),
                "jacobian": lambda net=net, n=n_threads: net.jacobian(X, n_threads=n),
                "each": lambda net=net, n=n_threads: net.per_sample_gradients(X, y, n_threads=n),
                "hvp": lambda net=net, n=n_threads, v=v: net.hvp(X, y, v, n_threads=n),
                "gnp": lambda net=net, n=n_threads, v=v: net.gauss_newton_product(X, y, v, n_threads=n),
                "check": lambda net=net, n=n_threads: max(bp.check_gradients(net, X, y, n_threads=n).values()),
                "fit": lambda net=net, n=n_threads: net.fit(X, y, batch_size=None, n_threads=n).loss,
            }
            for name, call in calls.items():
                _core.pool_tasks_reset()
                found = np.array(call()).tobytes()
                assert bits.setdefault(name, found) == found, (name, setting, n_threads)
                assert [k > 0 for k in _core.pool_tasks(6)] == [i < expected for i in range(6)], (
                    name,
                    setting,
                    n_threads,
                )
    finally:
        _core.force(False, "")
        bp.set_num_threads(before)


def test_a_small_step_runs_on_the_calling_thread():
    net = bp.Network([bp.Input(2), bp.Dense(1)])
    _core.pool_tasks_reset()
    net.fit([[1.0, 2.0]] * 8, [1.0] * 8, n_threads=4)
    assert _core.pool_tasks(4)[0] > 0 and not any(_core.pool_tasks(4)[1:])


def test_forcing_by_environment():
    script = """
    import json, bpcore as bp
    from bpcore import _core
    net = bp.Network([bp.Input(2), bp.Dense(4, "relu"), bp.Dense(4, "relu"), bp.Dense(1)])
    net.fit([[1.0, 2.0]] * 300, [1.0] * 300, batch_size=300, n_threads=3)
    (entry,) = net._model.plans.entries.values()
    print(json.dumps([sum(k > 0 for k in _core.pool_tasks(5)), entry.compiled.plan.describe()["shards"] > 0]))
    """
    assert run(script) == [1, True]
    assert run(script, BPCORE_PARALLEL="always") == [3, True]
    assert run(script, BPCORE_PARALLEL="always", BPCORE_PHASE2="owners") == [3, False]
    assert run(script, BPCORE_PHASE2="shards") == [1, True]
    message = run(script, code=1, BPCORE_PARALLEL="alway")
    assert "ValueError: BPCORE_PARALLEL: expected 'always', got 'alway'" in message
    message = run(script, code=1, BPCORE_PHASE2="owner")
    assert "ValueError: BPCORE_PHASE2: expected 'owners' or 'shards', got 'owner'" in message


if Path("/proc/self/task").exists():  # Linux

    @pytest.mark.parametrize("kind", ["row", "image", "Python", "streams"])
    def test_what_was_made_before_a_limit_keeps_to_it(kind):
        script = f"""
        import json, os
        import numpy as np, bpcore as bp, threadpoolctl
        sine = bp.Activation(np.sin, np.cos)
        shape, layers = dict(
            row=((300,), [bp.Dense(300, "tanh")]),
            image=((20, 15), [bp.Dense(64, "tanh")]),
            Python=((300,), [bp.Dense(300, sine)]),
            streams=((3, 100), [bp.LSTM(200, sequences=True)]),
        )["{kind}"]
        net = bp.Network([bp.Input(shape), *layers])
        streams = "{kind}" == "streams"
        X = np.ones((3000, *shape[streams:]), "f4")
        def made(n):
            return net.stepper(streams=len(X), n_threads=n) if streams else net.predictor(n_threads=n)
        def workers(call):
            call(X)
            return len(os.listdir("/proc/self/task")) - 1
        bp.set_num_threads(3)
        answer, three = made(None), made(3)
        with threadpoolctl.threadpool_limits(1):
            seen = [workers(answer)]
        bp.set_num_threads(2)
        seen.append(workers(answer))
        bp.set_num_threads(5)
        seen.append(workers(answer))
        bp.set_num_threads(1)
        print(json.dumps([*seen, workers(three)]))
        """
        assert run(script, BPCORE_PARALLEL="always", OPENBLAS_NUM_THREADS="1") == [0, 1, 2, 2]

    def test_idle_threads_use_no_cpu():
        """After a call its threads sleep: the process has used next to nothing, where one that spins uses it all."""
        script = """
        import json, os, time
        import numpy as np, bpcore as bp
        net = bp.Network([bp.Input(20), bp.Dense(50, "tanh"), bp.Dense(1)])
        X, y = np.ones((2000, 20), "f4"), np.ones(2000)
        net.fit(X, y, epochs=20, n_threads=2)
        net.predictor(n_threads=2)(X)
        workers = len(os.listdir("/proc/self/task")) - 1
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(0.3)
        print(json.dumps([workers, time.process_time() - before]))
        """
        workers, used = run(script, BPCORE_PARALLEL="always", OPENBLAS_NUM_THREADS="1")
        assert workers == 1 and used < 0.05


# ---- BLAS ----

F = "__pyx_t_5scipy_6linalg_11cython_blas_"
GOOD = {
    "sgemm": f"void (char *, char *, int *, int *, int *, {F}s *, {F}s *, int *, {F}s *, int *, {F}s *, {F}s *, int *)",
    "dgemm": f"void (char *, char *, int *, int *, int *, {F}d *, {F}d *, int *, {F}d *, int *, {F}d *, {F}d *, int *)",
    "sgemv": f"void (char *, int *, int *, {F}s *, {F}s *, int *, {F}s *, int *, {F}s *, {F}s *, int *)",
    "dger": f"void (int *, int *, {F}d *, {F}d *, int *, {F}d *, int *, {F}d *, int *)",
}


@pytest.mark.parametrize("name", GOOD)
def test_signatures_of_32_bit_integers_are_taken(name):
    _blas.check_signature(name, GOOD[name])
    _blas.check_signature(name, GOOD[name].replace(F + name[0], {"s": "float", "d": "double"}[name[0]]))


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.replace("int *", "int64_t *"),
        lambda s: s.replace("int *", "long *"),
        lambda s: s.replace("int *", "npy_int64 *"),
        lambda s: s.replace("int *", "__pyx_t_5scipy_6linalg_11cython_blas_blas_int *"),
        lambda s: s.replace("int *)", "int)"),
        lambda s: s.replace("void (", "int ("),
        lambda s: s.replace(F + "s", F + "c").replace(F + "d", F + "z"),
        lambda s: s.replace(F + "s", F + "x").replace(F + "d", F + "s").replace(F + "x", F + "d"),
        lambda s: s.replace(", int *)", ")"),
        lambda s: "",
    ],
)
def test_a_blas_of_another_kind_is_an_import_error_with_advice(name, change):
    with pytest.raises(ImportError) as caught:
        _blas.check_signature(name, change(GOOD[name]))
    for word in ("bpcore", "SciPy", name, "32-bit BLAS integers", "pip install --force-reinstall scipy"):
        assert word in str(caught.value)


def test_this_scipys_own_signatures_are_taken_and_what_lacks_is_named():
    module = _blas.load_cython_blas()
    for name in _blas._EXPECTED:
        _blas.check_signature(name, _blas._capsule_name(module.__pyx_capi__[name]))
    script = """
    import sys, types, json
    import numpy, scipy
    fake = types.ModuleType("scipy.linalg.cython_blas")
    fake.__pyx_capi__ = {}
    sys.modules["scipy.linalg.cython_blas"] = fake
    import bpcore
    """
    message = run(script, code=1, BPCORE_BACKEND="blas")
    assert "ImportError: bpcore: this SciPy" in message and "exports no sgemm" in message


@pytest.mark.parametrize("order", ["before", "after"])
def test_scipy_linalg_and_bpcore_live_together(order):
    """bpcore on BLAS takes one module of SciPy's, not the whole of scipy.linalg, and hides none."""
    script = """
    import json, sys
    if {first}:
        import scipy.linalg.cython_blas, scipy.linalg.blas
    import bpcore as bp
    found = [name in sys.modules for name in ("scipy.linalg", "scipy.linalg.cython_blas", "cython_blas")]
    import numpy as np
    import scipy.linalg.cython_blas
    import scipy.linalg.blas
    import scipy.linalg
    assert scipy.linalg.cython_blas is sys.modules["scipy.linalg.cython_blas"]
    assert "dgemm" in scipy.linalg.cython_blas.__pyx_capi__ and scipy.linalg.cython_blas.__spec__.origin
    a = np.arange(6.0).reshape(2, 3)
    assert (scipy.linalg.blas.dgemm(1.0, a, a.T) == a @ a.T).all()
    assert np.allclose(scipy.linalg.inv(a @ a.T) @ (a @ a.T), np.eye(2))
    from scipy.linalg.cython_blas import __pyx_capi__
    net = bp.Network([bp.Input(3), bp.Dense(1)])
    net.fit(np.repeat(a, 50, 0), np.ones(100))
    print(json.dumps(found))
    """
    found = run(script.format(first=order == "before"), BPCORE_BACKEND="blas")
    assert found == ([True, True, False] if order == "before" else [False, False, False])


def test_import_is_light():
    """Modules that cost much are not among those that the import brings."""
    script = """
    import json, sys
    import numpy
    before = set(sys.modules)
    import bpcore
    print(json.dumps(sorted(set(sys.modules) - before)))
    """
    brought = run(script)
    assert "bpcore._core" in brought
    for heavy in (
        "scipy",
        "safetensors",
        "importlib.metadata",
        "difflib",
        "tempfile",
    ):
        assert heavy not in brought, heavy
