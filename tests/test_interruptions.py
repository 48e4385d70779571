"""What may come in between: exceptions at any point of fit's setting up, threads, forks within a user's function."""

import ctypes
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import scipy

import bpcore as bp
from bpcore import _plans

X = np.random.default_rng(0).normal(size=(60, 4))
Y = X[:, :2]


def make(**settings):
    return bp.Network([bp.Input(4), bp.Dense(5, "tanh"), bp.Dense(2)], **settings)


class Stop(Exception):
    pass


@pytest.mark.filterwarnings("ignore:optimizer. .* begins anew")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised within a destructor
def test_signals_at_any_moment_of_fit_leave_a_network_that_trains():
    """A timer raises at random moments while fits begin and end, each with another optimiser than the last."""
    net = make()
    rng = np.random.default_rng(0)
    armed, hits = False, 0

    def handler(number, frame):
        nonlocal armed
        if armed:
            armed = False
            raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    end = time.monotonic() + 3
    try:
        while time.monotonic() < end:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-4))
            try:
                armed = True
                for _ in range(20):
                    for optimizer in (bp.Adam(), bp.SGD(momentum=0.5)):
                        net.fit(X[:4], Y[:4], optimizer=optimizer)
            except Stop:
                hits += 1
            armed = False
            memory = net._model.memory
            assert memory.optimizer is None or len(memory.states) == len(memory.optimizer.states)
            with net._model.fitting:
                pass  # the fit that was interrupted does not hold it
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits > 50
    net.fit(X, Y, optimizer=bp.Adam())


def test_threads_share_the_plans_of_one_network():
    net = make()
    wanted = net.predict(X).tobytes()
    problems = []
    interval = sys.getswitchinterval()

    def work(seed):
        try:
            for n in np.random.default_rng(seed).integers(1, 40, 150):
                net.value_and_grad(X[:n], Y[:n])
                assert net.predict(X).tobytes() == wanted
        except Exception as error:
            problems.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert not problems
    entries = net._model.plans.entries.values()
    assert len(entries) <= 8 and all(len(entry.idle) <= 8 for entry in entries)


def test_threads_that_ask_at_once_compile_once(monkeypatch):
    """The first call of each of many threads finds no plan: one makes it, all have its answer."""
    compiled, net = [], make()
    wanted = make().predict(X).tobytes()
    compile_ = _plans._make_plan

    def slowly(*args):
        compiled.append(args)
        time.sleep(0.05)
        return compile_(*args)

    monkeypatch.setattr(_plans, "_make_plan", slowly)
    start, answers = threading.Barrier(6), []

    def ask():
        start.wait()
        answers.append(net.predict(X).tobytes())

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [wanted] * 6 and len(compiled) == 1


def test_a_fork_while_another_thread_compiles_leaves_the_child_free():
    net = make()
    holding, go = threading.Event(), threading.Event()

    def hold():
        holding.set()
        go.wait(30)

    thread = threading.Thread(target=lambda: net._model.plans.entry("held", hold))
    thread.start()
    holding.wait(30)
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(net.predict(X).shape != (len(X), net.n_outputs))
    assert os.waitpid(child, 0)[1] == 0
    go.set()
    thread.join(30)


def test_another_thread_may_copy_a_network_that_is_being_fitted_but_not_write_to_it():
    net, copies = make(), []

    def from_outside():
        copies.append(net.copy())
        with pytest.raises(RuntimeError, match="theta: this network is being fitted in another thread"):
            net.theta = net.theta
        copies.append(net.copy())

    def callback(state):
        thread = threading.Thread(target=from_outside)
        thread.start()
        thread.join(30)
        assert [(copy.theta == net.theta).all() for copy in copies] == [True, True]

    net.fit(X, Y, callbacks=callback)
    copies[0].fit(X, Y)  # which nobody fits, and which shares nothing
    assert (copies[1].theta == net.theta).all() and (copies[0].theta != net.theta).any()


def test_a_second_moment_that_overflows_is_divergence():
    net = bp.Network([bp.Input(4), bp.Dense(2)])
    before = net.theta.copy()
    with pytest.raises(bp.DivergenceError, match="parameters"):
        net.fit(X * 1e4, Y * 1e17, loss="mse", optimizer=bp.Adam(), batch_size=None)
    assert np.array_equal(net.theta, before)


def test_what_load_would_refuse_is_not_saved(tmp_path):
    net = make()
    net.theta[3] = np.nan
    with pytest.raises(ValueError, match="save: dense_1.W has values that are not finite"):
        net.save(tmp_path / "net")
    assert not os.listdir(tmp_path)


@pytest.mark.filterwarnings("ignore:optimizer. .* begins anew")
def test_a_refused_beginning_keeps_what_the_optimiser_has_learnt():
    net = make()
    net.fit(X, Y, optimizer=bp.Adam())
    kept = net._model.memory

    class Refuses(bp.Callback):
        def on_fit_begin(self, state):
            raise Stop

    with pytest.raises(Stop):
        net.fit(X, Y, optimizer=bp.SGD(momentum=0.9), callbacks=Refuses())
    net.fit(X, Y, optimizer=bp.SGD(), epochs=0)
    assert net._model.memory is kept


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_child_of_a_fork_within_a_function_hears_an_error(n_threads):
    children = []

    def f(z):
        if not children:
            children.append(os.fork())
        return np.tanh(z)

    net = bp.Network([bp.Input(4), bp.Dense(600, bp.Activation(f, lambda z: 1 - np.tanh(z) ** 2)), bp.Dense(2)])
    wide = np.tile(X, (20, 1))
    try:
        net.fit(wide, wide[:, :2], batch_size=None, n_threads=n_threads, optimizer=bp.SGD(lr=1e-4))
    except RuntimeError as error:
        os._exit(0 if children == [0] and "child of a fork" in str(error) else 3)
    assert children[0] > 0
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pid, status = os.waitpid(children[0], os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)
    pytest.fail("the child hangs")


def test_a_capsule_without_a_name_is_refused():
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    nameless = scipy.LowLevelCallable(new(ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p), None, None))
    with pytest.raises(ValueError, match="expected a LowLevelCallable of signature .*, got one without"):
        bp.Activation(nameless, nameless)


def test_a_tiny_network_hears_signals_over_much_data():
    net = bp.Network([bp.Input(4), bp.Dense(8, "relu"), bp.Dense(1)])
    many = np.broadcast_to(np.arange(4.0), (20_000_000, 4))
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(time.thread_time()))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        net.predict(many, n_threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert max(np.diff(heard)) < 0.1


def test_automatic_names_pass_those_that_are_given():
    net = bp.Network([bp.Input(2), bp.Dense(2, name="dense_2"), bp.Dense(2), bp.Dense(1)])
    assert list(net.params)[::2] == ["dense_2.W", "dense_3.W", "dense_4.W"]
