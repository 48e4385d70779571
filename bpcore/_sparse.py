"""What predictors answer to sparse rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpcore import _core, _plans, _validate
from bpcore._model import Model


class Answers:
    """Of a predictor: plans for its theta and the inputs that come as sparse rows, made when they first do."""

    def __init__(
        self, model: Model, theta: np.ndarray, state: np.ndarray, threads: int, limit: Callable[[], int] | None,
        slow: Any,
    ) -> None:  # fmt: skip
        self._model = model.answering(theta)
        self._theta, self._state, self._threads, self._limit, self._slow = theta, state, threads, limit, slow
        self._predictors: dict[tuple[int, ...], _core.Predictor] = {}

    def __call__(self, x: Any, out: Any) -> Any:
        """The outputs for rows of all inputs, some of them sparse; see Network.predictor."""
        model = self._model
        arrays = _validate.inputs(
            x, model.inputs, model.dtype, False, "x", known=model.feature_names, empty=True, sparse=model.refuses_sparse
        )
        sparse = _plans.sparse_of(arrays)
        predictor = self._predictors.get(sparse)
        if predictor is None:
            predictor = self._predictors[sparse] = self._made(sparse)
        return predictor.rows(arrays, out, (len(arrays[0]),))

    def _made(self, sparse: tuple[int, ...]) -> _core.Predictor:
        key = _plans.Key(_plans.PREDICT | _core.STRIPS, 1, self._threads, sparse=sparse)
        compiled = _plans.make_plan(self._model, key)
        inputs, outputs = _plans.ends(self._model, compiled)
        return _core.Predictor(
            compiled.plan, self._theta, self._state, inputs, outputs, self._threads, self._limit, self._slow
        )
