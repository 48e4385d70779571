"""One safetensors file a network: tensors named as `params`, the graph as JSON in the metadata; nothing is executed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _checkpoint, _optimizers, _validate
from bpcore._activations import NAMES, Activation
from bpcore._function import Function
from bpcore._graph import Graph, lay_out, symbols
from bpcore._layers import KINDS, Input
from bpcore._symbols import Symbol

if TYPE_CHECKING:
    from bpcore._network import Network

FORMAT = "1"
_STATE = "optimizer."
_KINDS = {"float32": "F32", "float64": "F64"}


# ---- writing ----


def save(net: Network, path: str | os.PathLike[str]) -> None:
    """Writes to a temporary file beside `path`, then renames: a reader sees the old file or the new one.

    Links are followed, and a file that is there keeps its mode.
    """
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
    name = _validate.path(path)
    if name.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    target = os.path.realpath(name)
    temporary = f"{target}.{os.getpid()}-{threading.get_ident()}.tmp"
    mode, made = None, False
    try:
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
        if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"path: expected a regular file or none, and {name!r} is neither")
        with open(temporary, "xb") as file:
            made = True
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno:  # of the user's path, not of one they never saw
            raise OSError(error.errno, error.strerror, name) from None
        raise


def _graph(net: Network) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for node in net._nodes:
        base, _, use = node.name.partition("@")
        layer = node.layer
        attributes = {"shares": base} if use else {name: _plain(getattr(layer, name)) for name in layer.saved}
        if isinstance(layer, Input) and not layer.integer:
            del attributes["integer"]
        inputs = [net._nodes[i].name for i in node.inputs]
        nodes.append({"name": node.name, "op": layer.op, "inputs": inputs, "attributes": attributes})
    graph: dict[str, Any] = {"dtype": str(net.dtype), "nodes": nodes}
    if not net._graph.is_chain:
        graph["outputs"] = list(net.outputs)
    if net.frozen:
        graph["frozen"] = sorted(net.frozen)
    if net.checkpoint is not None:
        graph["checkpoint"] = net.checkpoint
    return graph


def _plain(value: Any) -> Any:
    """What JSON can keep of an attribute."""
    if not isinstance(value, Activation):
        return value
    if value.name is None:
        raise ValueError("save: an activation of your own needs a name: bp.Activation(f, df, name='...')")
    return {"custom": value.name}


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


def load(path: str | os.PathLike[str], *, custom: Mapping[str, Activation | Function] | None = None) -> Network:
    """A network from a file that `save` wrote.

    custom: the user's own activations and functions by the name they were saved under.  Raises ValueError for
    anything that is not such a file, FileNotFoundError and its kin for what the system says.  Never executes what it
    reads.
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
            dtype, layout = _layout(target, graph, dict(custom or {}))
            optimizer = _settings(target, training)
            expected = _expected(layout, optimizer)
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if found != expected:
                name = sorted(set(found.items()) ^ set(expected.items()))[0][0]
                raise _bad(target, f"tensor {name!r}: the graph says {expected.get(name)}, the file {found.get(name)}")
            for name in expected:
                if (kind := file.get_slice(name).get_dtype()) != _KINDS[dtype]:
                    raise _bad(target, f"tensor {name!r} is {kind}, the graph says {dtype}")
            net = Network.__new__(Network)
            net._create(layout, np.dtype(dtype), training["seed"])
            net.frozen = graph.get("frozen", [])
            net.checkpoint = graph.get("checkpoint")
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


def _keys(path: str, what: str, value: Any, expected: set[str], optional: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    if not isinstance(value, dict) or not expected <= set(value) <= expected | optional:
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise _bad(path, f"{what}: expected the keys {sorted(expected)}, got {got}")


def _strings(path: str, what: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _bad(path, f"{what}: expected a list of names")
    return value


def _layout(path: str, graph: dict[str, Any], custom: Mapping[str, Any]) -> tuple[str, Graph]:
    """The graph that the file describes: every node is made of earlier ones."""
    _keys(path, "graph", graph, {"dtype", "nodes"}, {"outputs", "frozen", "checkpoint"})
    if graph["dtype"] not in ("float32", "float64"):
        raise _bad(path, f"dtype {graph['dtype']!r}")
    if not isinstance(graph["nodes"], list):
        raise _bad(path, "nodes: expected a list")
    made: dict[str, Symbol] = {}
    for node in graph["nodes"]:
        _keys(path, "a node", node, {"name", "op", "inputs", "attributes"})
        name, op, attributes = node["name"], node["op"], node["attributes"]
        kind = KINDS.get(op) if isinstance(op, str) else None
        if not isinstance(name, str) or kind is None:
            raise _bad(path, f"unknown operation {op!r}, or a name that is not a string: {name!r}")
        inputs = _strings(path, name, node["inputs"])
        if name in made or not all(one in made for one in inputs) or (not inputs) != (kind is Input):
            raise _bad(path, f"{name!r}: expected a name of its own, and inputs among the nodes before it")
        if isinstance(attributes, dict) and set(attributes) == {"shares"}:
            shared = attributes["shares"]
            if not isinstance(shared, str) or shared not in made or type(made[shared].layer) is not kind:
                raise _bad(path, f"{name!r} shares the weights of {shared!r}, which is not there")
            layer = made[shared].layer
        else:
            _keys(path, name, attributes, set(kind.saved) - {"integer"}, set(kind.saved))
            given = dict(attributes)
            if "activation" in given:
                given["activation"] = _activation(path, given["activation"], custom)
            if kind is Function:
                layer = _function(path, given["function"], custom)
            else:
                layer = _made(path, name, kind, **given, name=name)
        made[name] = layer if kind is Input else _made(path, name, layer, *(made[one] for one in inputs))
    outputs = _strings(path, "outputs", graph.get("outputs", list(made)[-1:]))
    if not set(outputs) <= set(made):
        raise _bad(path, f"outputs: there is no {sorted(set(outputs) - set(made))[0]!r}")
    first = [symbol for symbol in made.values() if isinstance(symbol, Input)]
    last = [made[name] for name in outputs]
    layout = _made(path, "graph", lambda: lay_out(symbols("inputs", first), symbols("outputs", last)))
    if [node.name for node in layout.nodes] != list(made):
        raise _bad(path, "nodes: expected them in the order in which they are computed")
    bases = {node.base for node in layout.nodes if node.parameters}
    if not set(_strings(path, "frozen", graph.get("frozen", []))) <= bases:
        raise _bad(path, f"frozen: expected names of layers with parameters, got {graph['frozen']}")
    checkpoint = graph.get("checkpoint", True)
    if checkpoint is not True:
        _made(path, "checkpoint", _checkpoint.resolve, layout, _strings(path, "checkpoint", checkpoint))
    return graph["dtype"], layout


def _made(path: str, what: str, make: Callable[..., Any], /, *arguments: Any, **settings: Any) -> Any:
    try:
        return make(*arguments, **settings)
    except (TypeError, ValueError) as error:
        raise _bad(path, f"{what!r}: {error}") from None


def _activation(path: str, value: Any, custom: Mapping[str, Any]) -> str | Activation:
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


def _function(path: str, value: Any, custom: Mapping[str, Any]) -> Function:
    _keys(path, "a function", value, {"custom"})
    name = value["custom"]
    if not isinstance(name, str) or not isinstance(custom.get(name), Function):
        raise ValueError(
            f"load: {path!r} uses the function {name!r} of your own; give it back by custom={{{name!r}: "
            "bp.Function(forward, backward)}"
        )
    function: Function = custom[name]
    return function.called(name)


def _settings(path: str, training: dict[str, Any]) -> _optimizers.Optimizer | None:
    _keys(path, "training", training, {"seed", "step", "epoch", "optimizer", "updates"})
    try:
        _validate.seed(training["seed"])
        for name in ("step", "epoch", "updates"):
            _validate.integer(name, training[name], 0, 2**62)
        return None if training["optimizer"] is None else _optimizers.from_json(training["optimizer"])
    except (TypeError, ValueError) as error:
        raise _bad(path, str(error)) from None


def _expected(layout: Graph, optimizer: _optimizers.Optimizer | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the graph calls for; nothing of their size is allocated."""
    shapes = {name: p.shape for name, p in layout.parameters.items()}
    states = () if optimizer is None else optimizer.states
    return {**shapes, **{f"{_STATE}{state}.{name}": shape for state in states for name, shape in shapes.items()}}
