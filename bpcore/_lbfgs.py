"""BFGS of limited memory, by SciPy: it calls back after each step, which is an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _core, _full_batch
from bpcore._arrays import copied
from bpcore._data import Data
from bpcore._model import Model
from bpcore._optimizers import LBFGS

if TYPE_CHECKING:
    from bpcore._training import Loop


class _NotFinite(Exception):
    """A cost, its gradient or where they were asked for; with the status that says which."""


class _Halt(Exception):
    """SciPy is to go no further; with the StopIteration of a callback's, which it would take for its own."""


@contextmanager
def _blas_given_back() -> Iterator[None]:
    """Within OneBlasThread: the user's callbacks have BLAS as it was."""
    held = _core.OneBlasThread()
    held.__exit__()
    try:
        yield
    finally:
        held.__enter__()


class Run(_full_batch.Run):
    """A slice moves the network to the point that SciPy has accepted; costs are computed elsewhere.

    free: which elements of theta are not frozen: SciPy's x.  trial: theta of the last cost.  here, tried: the cost at
    the network's theta and at x, as Data.gradient has it.
    """

    def __init__(self, model: Model, data: Data, n_threads: int, l2: float) -> None:
        super().__init__(model, data, n_threads, LBFGS(), l2)
        free = np.ones(model.theta.size, bool)
        for name in model.frozen_parameters:
            model.graph.parameters[name].of(free)[...] = False
        self.free = np.flatnonzero(free)
        self.trial = copied(model.theta)
        self.here: tuple[float, Any] | None = None
        self.tried: tuple[np.ndarray, float, Any] = (np.empty(0), float("nan"), [])

    def train(self, loop: Loop) -> None:
        """All epochs of a fit."""
        while loop.goes_on():
            if self._goes_no_further(loop):
                loop.stopped_by = "optimizer"
                break

    def slice(self, n_threads: int, seconds: float, max_steps: int = -1, fresh: bool = True) -> int:
        """One step; none where SciPy found none."""
        self.make_whole()
        self.done = 1
        return _core.DONE

    def _goes_no_further(self, loop: Loop) -> bool:
        """Steps from where the network is until the fit is over, or a callback has changed the network or the settings;
        whether nothing is left to gain."""
        from scipy.optimize import minimize  # 120 ms, for those who need it

        from bpcore import _blas  # which loads SciPy

        _blas.connect()
        model, settings, steps, start = self.model, self.settings, self.steps, time.perf_counter()
        self.trial[:], self.here = model.theta, None
        status = _core.DONE

        def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
            loop.slicing = True
            try:
                return self._cost(x)
            finally:
                loop.slicing = False

        def accept(x: np.ndarray) -> None:
            """An epoch, whose loss is the cost before the step."""
            nonlocal start
            if not np.array_equal(x, self.tried[0]):
                cost(x)
            assert self.here is not None
            (self.cost, self.costs), self.here = self.here, self.tried[1:]
            theta = model.theta.copy()
            theta[self.free] = x
            self.accept(theta)
            try:
                with _blas_given_back():
                    loop.epoch(None, start)
            except StopIteration as error:
                raise _Halt(error) from None
            start = time.perf_counter()
            moved = not np.array_equal(model.theta[self.free], x.astype(model.dtype))
            if moved or self.settings is not settings or not loop.goes_on():
                raise _Halt

        options = {"maxcor": settings.history, "gtol": settings.gtol, "ftol": settings.ftol, "maxls": settings.tries,
                   "maxiter": 2**31 - 1, "maxfun": 2**31 - 1}  # fmt: skip
        x = model.theta[self.free].astype(float)
        try:
            with _core.OneBlasThread():  # the same bits on any number of threads
                if len(x):
                    found = minimize(cost, x, jac=True, method="L-BFGS-B", callback=accept, options=options)
                    message = self._why(found)
                else:
                    cost(x)
                    message = "LBFGS: all layers are frozen"
        except _Halt as halt:
            if halt.args:
                raise halt.args[0] from None
            return False
        except _NotFinite as error:
            (status,) = error.args
        if status == _core.DONE:
            if loop.goes_on():
                assert self.here is not None
                self.cost, self.costs = self.here
                loop.state.history.message = message
                loop.epoch(None, start)
            return True
        if self.steps == steps:
            self.done = 0
            loop.check_status(status)  # raises
        return False

    def _why(self, found: Any) -> str:
        """Why SciPy ended."""
        gtol, ftol = self.settings.gtol, self.settings.ftol
        if not found.success:
            return f"LBFGS: no step makes the cost less ({found.message.strip(': ')})"
        if np.abs(found.jac).max() <= gtol:
            return f"LBFGS: no element of the gradient is beyond gtol={gtol}"
        return f"LBFGS: the last step made the cost less by at most ftol={ftol} of it"

    def _cost(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """C and its gradient, by what is free, in float64."""
        with np.errstate(over="ignore"):
            self.trial[self.free] = x
        if not np.isfinite(self.trial).all():
            raise _NotFinite(_core.NONFINITE_PARAM)
        loss, grad, sums = self.data.gradient(self.model, self.n_threads, self.trial, self.l2)
        if not np.isfinite(loss):
            raise _NotFinite(_core.NONFINITE_LOSS)
        if not np.isfinite(grad).all():
            raise _NotFinite(_core.NONFINITE_PARAM)
        self.tried = x.copy(), loss, sums
        self.here = self.here or (loss, sums)
        return loss, grad[self.free].astype(float)
