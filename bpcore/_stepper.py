"""Recurrent networks one time step at a time, for streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bpcore import _core, _data, _plans, _threads, _validate
from bpcore._graph import Node
from bpcore._layers import Input
from bpcore._model import Model
from bpcore._recurrent import Recurrent


def _refuse(node: Node, why: str) -> ValueError:
    return ValueError(f"stepper: {node.name} ({node.layer!r}) {why}; use predict on whole sequences")


def _over_time(nodes: tuple[Node, ...]) -> list[bool]:
    """Whether each node's first axis is time; ValueError where a layer has no meaning step by step."""
    timed = [False] * len(nodes)
    recurrent = [isinstance(node.layer, Recurrent) for node in nodes]
    if not any(recurrent):
        raise ValueError("stepper: this network has no recurrent layer, so that nothing is kept from step to step; use "
                         "predict or predictor")  # fmt: skip
    for i in reversed(range(len(nodes))):  # what a recurrent layer reads, and what that is made of
        if recurrent[i] or timed[i]:
            for k in nodes[i].inputs:
                timed[k] = True
    for i, node in enumerate(nodes):
        reads = [timed[k] for k in node.inputs]
        if not any(reads):
            if timed[i] and node.inputs:
                raise _refuse(node, "makes time steps of what has none")
            continue
        if recurrent[i]:
            if node.layer.reverse:
                raise _refuse(node, "begins at the last time step")
            timed[i] = node.layer.sequences
        elif not all(reads) or not node.layer.keeps_time(len(nodes[node.inputs[0]].shape)):
            raise _refuse(node, "mixes time steps")
        else:
            timed[i] = True
    return timed


class Stepper:
    """A recurrent network as it is now, fed one time step after the other: `step = net.stepper()`.

    `step(x)` takes a time step (features,), or (streams, features), of each input (as `predict` takes several), and
    gives the output for it: of a layer with sequences=True that of this step, else what `predict` would give for the
    sequence so far.  The bits are those of `predict`.  Later training of the network does not change it.
    """

    def __init__(self, model: Model, streams: int | None, n_threads: int | None) -> None:
        graph = model.graph
        timed = _over_time(graph.nodes)
        self._one, self._n, self._asked = streams is None, streams or 1, n_threads
        self._n_threads = _threads.resolve(n_threads)
        self._dtype, self._busy = model.dtype, _core.OneAtATime()
        self._inputs = [dataclasses.replace(node, shape=node.shape[timed[i] :])
                        for i, node in ((i, graph.nodes[i]) for i in graph.inputs)]  # fmt: skip
        self._state: dict[str, np.ndarray] = {}
        self._moves: list[tuple[np.ndarray, np.ndarray]] = []  # a state, and what it will be: unless the call fails
        self._feed: list[np.ndarray] = []
        plan = _core.Plan(model.dtype)
        slots = {name: plan.param(p.offset, p.rows, p.cols, p.decay) for name, p in graph.parameters.items()}
        slots |= {name: plan.state(s.offset, s.n) for name, s in graph.states.items()}
        buffers: list[int] = []
        ins: list[tuple[int, Any]] = []
        outs: list[tuple[int, Any]] = []
        standardized: list[tuple[int, int, str]] = []
        for number, node in enumerate(graph.nodes):
            layer, shape = node.layer, (1, *node.shape[1:]) if timed[number] else node.shape
            node = dataclasses.replace(node, shape=shape)
            inputs, own = [buffers[i] for i in node.inputs], [slots[name] for name in (*node.parameters, *node.states)]
            if isinstance(layer, Input):
                buffers.append(plan.buffer(node.n_out, integer=layer.integer) if graph.is_read(number) else -1)
            elif layer.gathered:
                buffers.append(plan.buffer(node.n_out))
                standardized.append((buffers[-1], graph.inputs.index(node.inputs[0]), node.base))
            elif isinstance(layer, Recurrent):
                arrays = [np.zeros((self._n, layer.units), model.dtype) for _ in layer.states]
                before = [plan.buffer(layer.units) for _ in arrays]
                buffers.append(layer.add(plan, inputs, own, 1, before))
                ins += zip(before, arrays, strict=True)
                first = plan.cache(buffers[-1])
                after = [np.zeros_like(array) for array in arrays]
                outs += [(first + at, array) for at, array in zip(layer.states.values(), after, strict=True)]
                self._moves += zip(arrays, after, strict=True)
                self._state |= {f"{node.name}.{name}": a for name, a in zip(layer.states, arrays, strict=True)}
            else:
                shapes = [(1, *graph.nodes[i].shape[1:]) if timed[i] else graph.nodes[i].shape for i in node.inputs]
                buffers.append(layer.build(plan, inputs, own, shapes, number))
        exact = {number for _, number, _ in standardized}  # which are not to be rounded before
        for number, i in enumerate(graph.inputs):
            node = graph.nodes[i]
            wide = node.n_out // node.shape[0] if timed[i] else node.n_out
            kind = np.int64 if node.layer.integer else np.float64 if number in exact else model.dtype
            self._feed.append(np.zeros((self._n, wide), kind))
            if buffers[i] >= 0:
                ins.append((buffers[i], self._feed[-1]))
        ins += [(buffer, model.moments_of(name).read(self._feed[number])) for buffer, number, name in standardized]
        self._outs = []
        for number, i in enumerate(graph.outputs):
            self._outs.append(np.empty((self._n, *graph.nodes[i].shape[timed[i] :]), model.dtype))
            outs.append((buffers[i], model.in_units(number, self._outs[-1])))
        for buffer, _ in outs:
            plan.keep(buffer)
        plan.compile(_plans.PREDICT, min(self._n, _plans.INFERENCE_ROWS), self._n_threads)
        self._run = _core.Run(plan, model.theta, model.state)
        self._run.ports(ins, outs)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a stepper cannot be pickled or copied; pickle the network and step.state, call stepper() there, and give "
            "it that state"
        )

    def __call__(self, x: Any) -> Any:
        """The output for the next time step."""
        with self._busy:
            if self._one:
                x = self._as_rows(x)
            arrays = _validate.inputs(x, self._inputs, self._dtype, name="x")
            if len(arrays[0]) != self._n:
                raise ValueError(f"x: expected {self._n} streams, as net.stepper was told, got {len(arrays[0])}")
            for feed, array in zip(self._feed, arrays, strict=True):
                feed[...] = array.reshape(feed.shape)
            _data.whole(self._run, self._n, min(self._n_threads, _threads.resolve(self._asked)))
            for state, after in self._moves:
                state[...] = after
            answers = [out[0].copy() if self._one else out.copy() for out in self._outs]
        return answers[0] if len(answers) == 1 else tuple(answers)

    def _as_rows(self, x: Any) -> Any:
        """A step of one stream as rows."""
        rows = []
        for node, (name, part) in zip(
            self._inputs, _validate.parts("x", x, [node.name for node in self._inputs]), strict=True
        ):
            array = _validate.array(name, part)
            if array.shape != node.shape:
                cure = "; net.stepper(streams=n) takes many" if array.shape[1:] == node.shape and array.ndim else ""
                cure += _validate.as_shape(name, part, array.shape, node.shape)
                raise ValueError(f"{name}: expected one time step of shape {node.shape}, got {array.shape}{cure}")
            rows.append(array[None])
        return rows if len(rows) > 1 else rows[0]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The states by layer, {"lstm_1.h": (units,), "lstm_1.c": (units,)}, or (streams, units): live and writable.

        Assigning takes such a dict, of all of them, and copies.
        """
        return {name: array[0] if self._one else array for name, array in self._state.items()}

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        if not isinstance(value, Mapping) or set(value) != set(self._state):
            got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"state: expected a dict of {sorted(self._state)}, got {got}")
        own = self.state
        checked = [_validate.parameters(f"state[{name!r}]", value[name], own[name].shape, self._dtype) for name in own]
        for array, new in zip(own.values(), checked, strict=True):
            array[...] = new

    def reset(self) -> None:
        """Begins anew: all states are zero."""
        for array in self._state.values():
            array[...] = 0
