"""Levenberg and Marquardt's method: each step solves the linearised least squares, damped until the cost falls."""

from __future__ import annotations

import math

import numpy as np

from bpcore import _core, _data, _full_batch, _plans
from bpcore._data import Data
from bpcore._derivatives import output_gradients
from bpcore._losses import Weighted
from bpcore._model import Model
from bpcore._optimizers import LevenbergMarquardt
from bpcore._symbols import Shape

MAX_PARAMS = 10_000
_BLOCK = 1 << 18  # elements of J at a time: a signal is heard between blocks


def check(model: Model, data: Data) -> None:
    """ValueError where the method does not apply."""
    losses = [getattr(weighted.loss, "name", None) for weighted in data.losses]
    if not {*losses} <= {"squared_error", "mse"}:
        raise ValueError(f"loss: LevenbergMarquardt needs squared_error or mse of each output, got {losses}")
    if data.weights > 1:
        raise ValueError("sample_weight: LevenbergMarquardt takes one weight an example, (n,)")
    if _plans.sparse_of(data.arrays):
        raise TypeError("X: LevenbergMarquardt takes dense arrays; use X.toarray(), or bp.LBFGS()")
    n_params = model.theta.size
    if not 0 < n_params <= MAX_PARAMS:
        raise ValueError(f"optimizer: LevenbergMarquardt is for 1 to {MAX_PARAMS:,} parameters, got {n_params:,}")


def _share(weighted: Weighted, shape: Shape) -> float:
    """s, where the loss of an output of this shape is s |a - y|^2 / 2."""
    return weighted.weight * (2 / shape[-1] if weighted.loss.name == "mse" else 1.0) / math.prod(shape[:-1])


class Run(_full_batch.Run):
    """A slice is a step."""

    def __init__(self, model: Model, data: Data, n_threads: int, l2: float) -> None:
        super().__init__(model, data, n_threads, LevenbergMarquardt(), l2)

    def _normal_equations(self) -> tuple[np.ndarray, np.ndarray]:
        """J^T W J / sum w + l2, its upper triangle, and J^T W r / sum w + l2 theta, with r = a - y, in float64, a block
        of rows after the other; W: an example's weight times its output's share."""
        from scipy.linalg.blas import dgemv, dsyrk

        model, data = self.model, self.data
        n_params, l2 = model.theta.size, model.l2_of_each(self.l2)
        A, g = np.zeros((n_params, n_params), order="F"), np.zeros(n_params)
        weight = np.ones(data.n) if data.weight is None else np.asarray(data.weight, float)
        if data.weight is not None and data.rows is not None:
            weight = weight[data.rows]
        shares = [_share(weighted, node.shape) for weighted, node in zip(data.losses, model.outputs, strict=True)]
        rows = max(1, _BLOCK // (sum(node.n_out for node in model.outputs) * n_params))
        moments = data.target_moments(model)
        for first in range(0, data.n, rows):
            block = slice(first, first + rows)
            part = block if data.rows is None else data.rows[block]
            inputs = [X[part] for X in data.arrays]
            answers = _data.predict(model, inputs, self.n_threads, in_units=False)
            for k, (a, target, own, share) in enumerate(zip(answers, data.targets, moments, shares, strict=True)):
                J = output_gradients(model, inputs, k, self.n_threads).astype(float, copy=False)
                y = np.reshape(target.array[part], a.shape)
                r = (a - (y if own is None else own.apply(y))).ravel()
                w = np.repeat(weight[block] * share, a[0].size)
                g = dgemv(1.0, J.T, w * r, beta=1.0, y=g, overwrite_y=True)
                if not (w == 1).all():
                    J *= np.sqrt(w)[:, None]
                A = dsyrk(1.0, J.T, beta=1.0, c=A, overwrite_c=True)
        A, g = A / weight.sum(), g / weight.sum()
        if l2.any():
            A[np.diag_indices(n_params)] += l2
            g += l2 * model.theta
        return A, g

    def slice(self, n_threads: int, seconds: float, max_steps: int = -1, fresh: bool = True) -> int:
        """One step; none where no damping makes the cost fall."""
        from bpcore import _blas  # which loads SciPy

        _blas.connect()
        with _core.OneBlasThread():  # the same bits on any number of threads
            return self._step(n_threads)

    def _step(self, n_threads: int) -> int:
        from scipy.linalg import LinAlgError, cho_factor, cho_solve  # 120 ms, for those who need it

        model, settings = self.model, self.settings
        losses = self.data.evaluate(model, n_threads, self.l2)
        self.cost = losses["loss"]
        if not np.isfinite(self.cost):
            return _core.NONFINITE_LOSS
        if not np.isfinite(model.theta).all():  # where a layer saturates, the cost does not tell
            return _core.NONFINITE_PARAM
        self.costs = [(losses.get(f"{name}.loss", self.cost), 1.0, 0.0) for name in self.data.names]
        A, g = self._normal_equations()
        before = model.theta.copy()
        curvature = np.diag(A)[np.diag(A) > 0]
        scale = curvature.mean() if curvature.size else 1.0

        def tried(damping: float) -> tuple[float, np.ndarray]:
            """The cost after a step of this damping, and where it leads."""
            try:
                theta = before - cho_solve(cho_factor(A + damping * scale * np.eye(len(g))), g)
            except (LinAlgError, ValueError):
                return np.inf, before
            model.theta[:] = theta
            cost = self.data.evaluate(model, n_threads, self.l2)["loss"] if np.isfinite(model.theta).all() else np.inf
            return (cost if np.isfinite(cost) else np.inf), model.theta.copy()

        best = self.cost, before
        try:
            damping = settings.damping * min(1.0, max(self.cost, 1e-12))
            trial = tried(damping)
            factor = settings.factor if trial[0] >= self.cost else 1 / settings.factor
            for _ in range(settings.tries - 1):  # upwards until the cost falls, or downwards while it falls further
                if trial[0] < best[0]:
                    best = trial
                    if factor > 1:
                        break
                elif factor < 1:
                    break
                damping *= factor
                trial = tried(damping)
            if trial[0] < best[0]:
                best = trial
        finally:
            model.theta[:] = before
            if best[1] is not before:
                self.accept(best[1])
                self.make_whole()
        self.done = 1
        return _core.DONE
