"""Searches of scikit-learn over bpcore's estimators: what they fit is trained together, as `fit_many` trains.

A search calls fit and score of each candidate on each fold.  Here each such call is made on a thread of its own; where
it comes to training a network, it waits, and the next call is begun.  Once all wait, the calling thread trains all of
their networks at once, and they go on, one after the other: with scores, or with another fit.  So all that is around
the training, pipelines, scorers, errors, is scikit-learn's own, and the networks have the bits that they have alone.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import joblib
import numpy as np
from joblib.parallel import ParallelBackendBase
from sklearn import model_selection as peer

import bpcore as bp
from bpcore import _many, _training

_AT_ONCE = 512  # threads, at most
_PATIENCE = 1.0  # seconds, for what others compute when a search is over: then it ends by itself
_COPIES_BYTES = 256 << 20  # of X, which each of them has a part of
_here = threading.local()  # .task: whose thread it is


class Trained:
    """An estimator whose networks are trained by what follows."""


def in_search() -> bool:
    """Whether a search makes the call."""
    return getattr(_here, "task", None) is not None


def fit_many(nets: Sequence[bp.Network], X: Any, y: Any, **settings: Any) -> list[bp.History]:
    """As bp.fit_many; together with others where a search makes the call."""
    calls, n_threads = _many.checked(list(nets), X, y, **settings)
    if in_search():
        _here.task.train(calls, [_training.Loop] * len(calls))
    else:
        _many.train(calls, n_threads)
    return [call.state.history for call in calls]


def train_loop(loop: _training.Loop) -> None:
    """As loop.train; together with others where a search makes the call."""
    if not in_search():
        with loop.model.fitting:
            loop.train()
        return
    _here.task.train([loop.call], [lambda *_: loop])
    if loop.state.history.error is not None:
        raise loop.state.history.error


class _Cancelled(BaseException):
    """The search is over: an error, or Ctrl-C, has ended it."""


class _Task:
    """A call that joblib wants to have made, on a thread of its own, and in the end its result.

    calls, loops: what it waits for to be trained.  goes_on: set once it may go on.
    """

    def __init__(self, group: _Group, call: Callable[[], Any], callback: Callable[[Any], None] | None) -> None:
        self.group, self.call, self.callback = group, call, callback
        self.thread = threading.Thread(target=self.run, name="bpcore search", daemon=True)
        self.goes_on = threading.Event()
        self.calls: list[_training.Call] = []
        self.loops: Sequence[Callable[..., _training.Loop]] = []
        self.failure: Exception | None = None  # of the training
        self.done, self.result = False, None
        self.error: BaseException | None = None

    def run(self) -> None:
        """On its thread."""
        _here.task = self
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            self.group.stopped.set()

    def train(self, calls: list[_training.Call], loops: Sequence[Callable[..., _training.Loop]]) -> None:
        """On its thread: waits until the networks are trained."""
        self.calls, self.loops, self.failure = calls, loops, None
        self.goes_on.clear()
        if not self.group.is_over:
            self.group.waiting.append(self)
            self.group.stopped.set()
            self.goes_on.wait()
        if self.group.is_over:
            raise _Cancelled
        if self.failure is not None:
            raise self.failure

    def get(self, timeout: float | None = None) -> Any:
        """On the thread that searches."""
        self.group.complete(self)
        if self.callback is not None:
            self.callback(self)
        if self.error is not None:
            raise self.error
        return self.result


class _Group:
    """Tasks, at most `at_once` of them begun, of which one runs at a time; the thread that completes them trains."""

    def __init__(self, at_once: int, n_threads: int) -> None:
        self.at_once, self.n_threads = at_once, n_threads
        self.queue: deque[_Task] = deque()  # not begun
        self.begun: list[_Task] = []  # and not done
        self.waiting: list[_Task] = []  # for their training
        self.trained: deque[_Task] = deque()
        self.stopped = threading.Event()  # the task that ran is done, or waits
        self.is_over = False

    def complete(self, task: _Task) -> None:
        """Until the task is done."""
        while not task.done:
            if self.trained:
                self._run(self.trained[0], self.trained[0].goes_on.set)
            elif self.queue and len(self.begun) < self.at_once:
                self._run(self.queue[0], self.queue[0].thread.start)
            else:
                self._train()

    def _run(self, task: _Task, begin: Callable[[], None]) -> None:
        """Until it is done, or waits."""
        self.stopped.clear()
        if self.trained and task is self.trained[0]:
            self.trained.popleft()
        else:
            self.begun.append(self.queue.popleft())
        begin()
        self.stopped.wait()
        if task.done:
            self.begun.remove(task)

    def _train(self) -> None:
        """All that is asked for."""
        calls = [call for task in self.waiting for call in task.calls]
        loops = [loop for task in self.waiting for loop in task.loops]
        owners = [task for task in self.waiting for _ in task.calls]
        failed: list[Exception | None] = [None] * len(calls)
        try:
            _many.train(calls, self.n_threads, loops, failed)
        except Exception as error:
            failed = [error] * len(calls)
        for task, failure in zip(owners, failed, strict=True):
            task.failure = task.failure or failure
        self.trained.extend(self.waiting)
        self.waiting = []

    def cancel(self) -> None:
        """No task is begun any more; those that are end before they train."""
        self.is_over = True
        self.queue.clear()
        last = time.perf_counter() + _PATIENCE
        for task in self.begun:
            while task.thread.is_alive() and time.perf_counter() < last:  # it may be about to wait
                task.goes_on.set()
                task.thread.join(0.05)


class _Together(ParallelBackendBase):
    """joblib's way to the group: all calls are submitted at once, and made as their results are asked for."""

    supports_sharedmem = True
    uses_threads = True

    def __init__(self, at_once: int, n_threads: int) -> None:
        super().__init__()
        self.at_once, self.n_threads = at_once, n_threads
        self.group = _Group(at_once, n_threads)

    def effective_n_jobs(self, n_jobs: int) -> int:
        """What joblib submits by: more than one, and all that there are."""
        return 100_000

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> _Task:
        """For later."""
        task = _Task(self.group, func, callback)
        self.group.queue.append(task)
        return task

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result(self, out: _Task, timeout: float | None = None) -> Any:
        """The call is made."""
        return out.get()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """After an error, or Ctrl-C."""
        self.group.cancel()
        self.group = _Group(self.at_once, self.n_threads)


def _has_networks(search: Any) -> bool:
    """Whether any estimator of the search, or of what it tries, trains networks."""
    tried = getattr(search, "param_grid", None) or getattr(search, "param_distributions", None)
    stack, seen = [search.estimator, tried], 0
    while stack and seen < 100_000:
        value, seen = stack.pop(), seen + 1
        if isinstance(value, Trained):
            return True
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, (list, tuple)):
            stack += value
        elif hasattr(value, "get_params") and not isinstance(value, type):
            stack += value.get_params(deep=False).values()
    return False


class _Search:
    """What both have in place of joblib's processes."""

    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """As scikit-learn's."""
        search: Any = super()
        if not _has_networks(self):
            return search.fit(X, y, **params)
        n_jobs = self.n_jobs  # type: ignore[attr-defined]
        n_threads = bp.get_num_threads() if n_jobs is None else joblib.effective_n_jobs(n_jobs)
        size = max(1, getattr(X, "nbytes", 0) or np.size(X) * 8)
        at_once = int(np.clip(_COPIES_BYTES // size, 4 * n_threads, _AT_ONCE))
        backend = _Together(at_once, n_threads)
        try:
            with warnings.catch_warnings(), joblib.parallel_config(backend=backend, n_jobs=2):
                return search.fit(X, y, **params)
        finally:
            backend.group.cancel()


class GridSearchCV(_Search, peer.GridSearchCV):
    """sklearn.model_selection.GridSearchCV, which trains the networks of all candidates and folds together.

    Parameters, attributes and scores are those of scikit-learn's, to the bit.  All that is fitted in a search over
    bpcore's estimators, pipelines that end in one included, is fitted in threads of this process; networks that wait
    for their training are trained at once, as by `bp.fit_many`.  n_jobs: threads that train; None: as many as
    `bp.get_num_threads()` says.  `mean_fit_time` includes the wait.  A search over other estimators alone is
    scikit-learn's.

    Examples
    --------
    >>> from bpcore.sklearn import GridSearchCV, MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> grid = {"hidden_layer_sizes": [(8,), (16,)], "alpha": [1e-4, 1e-2]}
    >>> search = GridSearchCV(MLPClassifier(max_iter=50, random_state=0), grid, cv=3)
    >>> len(search.fit(*load_iris(return_X_y=True)).cv_results_["params"])
    4
    """


class RandomizedSearchCV(_Search, peer.RandomizedSearchCV):
    """sklearn.model_selection.RandomizedSearchCV, which trains the networks of all candidates and folds together.

    See `GridSearchCV`.
    """
