"""One safetensors file a network: tensors named as `params`, the graph as JSON in the metadata; nothing is executed."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _optimizers, _validate
from bpcore._activations import NAMES, Activation
from bpcore._layers import Dense, Input

if TYPE_CHECKING:
    from bpcore._network import Network

FORMAT = "1"
_STATE = "optimizer."
_KINDS = {"float32": "F32", "float64": "F64"}


# ---- writing ----


def save(net: Network, path: str | os.PathLike[str]) -> None:
    """Writes to a temporary file beside `path`, then renames: a reader sees the old file or the new one."""
    from safetensors.numpy import save as to_bytes

    tensors = {name: np.ascontiguousarray(view) for name, view in net.params.items()}
    if net._memory.optimizer is not None:
        for state, vector in zip(net._memory.optimizer.states, net._memory.states, strict=True):
            for name, p in net._parameters.items():
                part = vector[p.offset : p.offset + p.rows * p.cols].reshape(p.shape)
                tensors[f"{_STATE}{state}.{name}"] = np.ascontiguousarray(part)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"save: {name} has values that are not finite, and load would refuse them")
    content = to_bytes(
        tensors, {"bpcore_format": FORMAT, "graph": json.dumps(_graph(net)), "training": json.dumps(_training(net))}
    )
    target = _validate.path(path)
    temporary = f"{target}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _graph(net: Network) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for node in net._nodes:
        attributes: dict[str, Any] = {"units": node.n_out}
        if isinstance(node.layer, Dense):
            base, _, use = node.name.partition("@")
            attributes = (
                {"shares": base} if use else {**attributes, "activation": _name(node.layer), "bias": node.layer.bias}
            )
        inputs = [nodes[-1]["name"]] if nodes else []
        nodes.append({"name": node.name, "op": node.layer.op, "inputs": inputs, "attributes": attributes})
    return {"dtype": str(net.dtype), "nodes": nodes}


def _name(layer: Dense) -> str | dict[str, str]:
    f = layer.activation
    if isinstance(f, str):
        return f
    if f.name is None:
        raise ValueError("save: an activation of your own needs a name: bp.Activation(f, df, name='...')")
    return {"custom": f.name}


def _training(net: Network) -> dict[str, Any]:
    memory = net._memory
    return {
        "seed": net.seed,
        "step": net.step,
        "epoch": net.epoch,
        "optimizer": None if memory.optimizer is None else _optimizers.to_json(memory.optimizer),
        "updates": memory.updates,
    }


# ---- reading ----


def load(path: str | os.PathLike[str], *, custom: Mapping[str, Activation] | None = None) -> Network:
    """A network from a file that `save` wrote.

    custom: the user's own activations by the name they were saved under.  Raises ValueError for anything that is not
    such a file, FileNotFoundError and its kin for what the system says.  Never executes what it reads.
    """
    from safetensors import SafetensorError, safe_open

    from bpcore._network import Network

    target = _validate.path(path)
    if custom is not None and not isinstance(custom, Mapping):
        raise TypeError(f"custom: expected {{name: bp.Activation(f, df)}}, got {custom!r}")
    with open(target, "rb"):  # the system's own error, if there is one
        pass
    try:
        with safe_open(target, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("bpcore_format") != FORMAT:
                raise _bad(target, f"bpcore_format is {metadata.get('bpcore_format')!r}, and only {FORMAT!r} is known")
            if set(metadata) != {"bpcore_format", "graph", "training"}:
                raise _bad(target, f"unknown metadata {sorted(set(metadata))}")
            graph, training = _parse(target, metadata["graph"]), _parse(target, metadata["training"])
            dtype, layers = _layers(target, graph, dict(custom or {}))
            optimizer = _settings(target, training)
            expected = _expected(target, layers, dtype, optimizer)
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if found != expected:
                name = sorted(set(found.items()) ^ set(expected.items()))[0][0]
                raise _bad(target, f"tensor {name!r}: the graph says {expected.get(name)}, the file {found.get(name)}")
            for name in expected:
                if (kind := file.get_slice(name).get_dtype()) != _KINDS[dtype]:
                    raise _bad(target, f"tensor {name!r} is {kind}, the graph says {dtype}")
            net = Network(layers, dtype=dtype, seed=training["seed"])
            tensors = {name: file.get_tensor(name) for name in expected}
    except SafetensorError as error:
        raise _bad(target, str(error)) from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise _bad(target, f"tensor {name!r} has values that are not finite")
    for name in net.params:
        net.params[name][...] = tensors[name]
    net.step, net.epoch = training["step"], training["epoch"]
    if optimizer is not None:
        states = tuple(np.zeros_like(net.theta) for _ in optimizer.states)
        net._memory = _optimizers.Memory(optimizer, states, training["updates"])
        for state, vector in zip(optimizer.states, states, strict=True):
            for name, p in net._parameters.items():
                vector[p.offset : p.offset + p.rows * p.cols] = tensors[f"{_STATE}{state}.{name}"].ravel()
    return net


def _bad(path: str, why: str) -> ValueError:
    return ValueError(f"load: {path!r} is not a bpcore network: {why}")


def _parse(path: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its metadata is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _bad(path, "its metadata is not a JSON object")
    return value


def _keys(path: str, what: str, value: Any, expected: set[str]) -> None:
    if not isinstance(value, dict) or set(value) != expected:
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise _bad(path, f"{what}: expected the keys {sorted(expected)}, got {got}")


def _layers(path: str, graph: dict[str, Any], custom: dict[str, Activation]) -> tuple[str, list[Input | Dense]]:
    _keys(path, "graph", graph, {"dtype", "nodes"})
    if graph["dtype"] not in ("float32", "float64"):
        raise _bad(path, f"dtype {graph['dtype']!r}")
    if not isinstance(graph["nodes"], list):
        raise _bad(path, "nodes: expected a list")
    layers: list[Input | Dense] = []
    by_name: dict[str, Dense] = {}
    before: str | None = None
    for node in graph["nodes"]:
        _keys(path, "a node", node, {"name", "op", "inputs", "attributes"})
        name, op, attributes = node["name"], node["op"], node["attributes"]
        if not isinstance(name, str) or op not in ("input", "dense"):
            raise _bad(path, f"unknown operation {op!r}, or a name that is not a string: {name!r}")
        if node["inputs"] != ([] if before is None else [before]) or (op == "input") != (before is None):
            raise _bad(path, f"{name!r}: expected a chain that begins with an input")
        before = name
        if op == "input":
            _keys(path, name, attributes, {"units"})
            layers.append(_made(path, name, partial(Input, attributes["units"])))
        elif isinstance(attributes, dict) and set(attributes) == {"shares"}:
            if not isinstance(attributes["shares"], str) or attributes["shares"] not in by_name:
                raise _bad(path, f"{name!r} shares the weights of {attributes['shares']!r}, which is not there")
            layers.append(by_name[attributes["shares"]])
        else:
            _keys(path, name, attributes, {"units", "activation", "bias"})
            f = _activation(path, attributes["activation"], custom)
            make = partial(Dense, attributes["units"], f, bias=attributes["bias"], name=name)
            by_name[name] = _made(path, name, make)
            layers.append(by_name[name])
    return graph["dtype"], layers


def _made(path: str, name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise _bad(path, f"{name!r}: {error}") from None


def _activation(path: str, value: Any, custom: dict[str, Activation]) -> str | Activation:
    if isinstance(value, str):
        if value not in NAMES:
            raise _bad(path, f"unknown activation {value!r}")
        return value
    _keys(path, "an activation", value, {"custom"})
    name = value["custom"]
    if not isinstance(name, str) or not isinstance(custom.get(name), Activation):
        raise ValueError(
            f"load: {path!r} uses the activation {name!r} of your own; give it back by custom={{{name!r}: "
            "bp.Activation(f, df)}"
        )
    return custom[name]


def _settings(path: str, training: dict[str, Any]) -> _optimizers.Optimizer | None:
    _keys(path, "training", training, {"seed", "step", "epoch", "optimizer", "updates"})
    try:
        _validate.seed(training["seed"])
        for name in ("step", "epoch", "updates"):
            _validate.integer(name, training[name], 0, 2**62)
        return None if training["optimizer"] is None else _optimizers.from_json(training["optimizer"])
    except (TypeError, ValueError) as error:
        raise _bad(path, str(error)) from None


def _expected(
    path: str, layers: list[Input | Dense], dtype: str, optimizer: _optimizers.Optimizer | None
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the graph calls for; nothing of their size is allocated."""
    from bpcore._network import lay_out

    try:
        shapes = {name: p.shape for name, p in lay_out(layers)[1].items()}
    except (TypeError, ValueError) as error:
        raise _bad(path, str(error)) from None
    states = () if optimizer is None else optimizer.states
    return {**shapes, **{f"{_STATE}{state}.{name}": shape for state in states for name, shape in shapes.items()}}
