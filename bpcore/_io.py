"""One safetensors file a network, or an ensemble: tensors named as `params`, graphs as JSON in the metadata; nothing is
executed.

The metadata of a network are bpcore_format, graph and training; those of an ensemble bpcore_format and ensemble, with
the graph and the training of each member, in order, and the names of member k's tensors begin with "k.".  Those of a
run that a bp.Checkpoint keeps are a network's, run (see _resume.py) and a checksum, and it has other tensors, too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from bpcore import _checkpoint, _optimizers, _table_network, _validate
from bpcore._activations import NAMES, Activation
from bpcore._function import Function
from bpcore._graph import Graph, lay_out, symbols
from bpcore._layers import KINDS, Input, Regularised
from bpcore._model import Model
from bpcore._moments import Moments
from bpcore._schedules import Schedule
from bpcore._standardize import Standardize
from bpcore._symbols import Symbol

# a file has the oldest that can hold it; 2: layers, optimisers and settings of them that 1 does not know, schedules,
# names of columns, moments, tables, ensembles
FORMATS = ("1", "2")
_LATER_LAYERS = {"standardize", "batch_norm", "rms_norm", "group_norm", "alpha_dropout", "gaussian_noise", "mask"}
_LATER_SETTINGS = {"noise_shape", "causal", "mask_zero", "lazy", *Regularised.saved}
_LATER_MASKED = {"activate", "global_max_pool", "global_average_pool"}  # with a second input, a mask
_FIRST_OPTIMIZERS = {
    "sgd": {"lr", "momentum", "nesterov", "weight_decay"},
    "adam": {"lr", "beta1", "beta2", "eps", "weight_decay"},
    "levenberg_marquardt": {"damping", "factor", "tries"},
}
_STATE = "optimizer."
STORED = {
    "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL",
}  # as safetensors calls them; networks are of the first two  # fmt: skip
_DTYPES = {kind: np.dtype(name) for name, kind in STORED.items()}
OF_RUN = "checkpoint/"  # begins the names of tensors that are no network's
_RUN_KEYS = {"run", "checksum"}
_MOST_HEADER = 100_000_000  # bytes; as safetensors has it
_BLOCK = 1 << 20  # bytes of a tensor that are read and looked at together


# ---- writing ----


def save(model: Model, path: str | os.PathLike[str], optimizer: bool = True) -> None:
    """See Network.save."""
    model = model if optimizer else model.without_memory()
    graph, training = graph_json(model), _training(model)
    metadata = {
        "bpcore_format": _format(graph, training), "graph": json.dumps(graph), "training": json.dumps(training)
    }  # fmt: skip
    _write(metadata, tensors_of(model), path)


def save_ensemble(models: Sequence[Model], path: str | os.PathLike[str]) -> None:
    """See Ensemble.save."""
    members = [{"graph": graph_json(model), "training": _training(model)} for model in models]
    tensors = {
        _of_member(k, name): tensor for k, model in enumerate(models) for name, tensor in tensors_of(model).items()
    }
    _write({"bpcore_format": FORMATS[1], "ensemble": json.dumps({"members": members})}, tensors, path)


def save_run(
    model: Model, run: dict[str, Any], arrays: dict[str, np.ndarray], path: str, make_room: Callable[[str], None]
) -> None:
    """Writes a network, and what else belongs to its run; see _write."""
    metadata = {
        "bpcore_format": FORMATS[1], "graph": json.dumps(graph_json(model)), "training": json.dumps(_training(model)),
        "run": json.dumps(run),
    }  # fmt: skip
    tensors = {**tensors_of(model), **{f"{OF_RUN}{name}": array for name, array in arrays.items()}}
    digest = _digest(metadata, _entries(tensors), (tensor.data for tensor in tensors.values()))
    _write({**metadata, "checksum": digest}, tensors, path, make_room)


def _digest(metadata: dict[str, str], entries: dict[str, Any], blocks: Iterable[Any]) -> str:
    """SHA-256 of all that a file holds, but of itself."""
    import hashlib  # 5 ms

    digest = hashlib.sha256(json.dumps([metadata, entries]).encode())
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _of_member(k: int | None, name: str) -> str:
    """What a tensor of member k is called; None: of a network by itself."""
    return name if k is None else f"{k}.{name}"


def _write(
    metadata: dict[str, str], tensors: dict[str, np.ndarray], path: str | os.PathLike[str],
    make_room: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Writes a safetensors file; see write_whole."""
    for name, tensor in tensors.items():
        if not name.startswith(OF_RUN) and not all(np.isfinite(block).all() for block in _blocks(tensor)):
            raise ValueError(f"save: {name} has values that are not finite, and load would refuse them")
    write_whole(path, [_header(metadata, tensors), *(tensor.data for tensor in tensors.values())], make_room)


def write_whole(
    path: str | os.PathLike[str], parts: Iterable[Any], make_room: Callable[[str], None] | None = None
) -> None:
    """Writes parts to a temporary file beside `path`, then renames: a reader sees the old file or the new one.

    Links are followed, and a file that is there keeps its mode.  make_room: called with the path just before the new
    file is renamed to it; then the temporary file is path.tmp, and one that a process has left behind goes.
    """
    name = _validate.path(path)
    if name.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    target = os.path.realpath(name)
    temporary = f"{target}.tmp" if make_room else f"{target}.{os.getpid()}-{threading.get_ident()}.tmp"
    mode, written = None, False
    if make_room:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    try:
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
        if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"path: expected a regular file or none, and {name!r} is neither")
        with open(temporary, "xb") as file:
            written = True
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if make_room:
            make_room(target)
        os.replace(temporary, target)
        written = False
        _sync_folder(target)
    except BaseException as error:
        if written:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno:  # of the user's path, not of one they never saw
            raise OSError(error.errno, error.strerror, name) from None
        raise


def _sync_folder(path: str) -> None:
    """What was renamed to `path` is there after a loss of power, too, where the system can promise it."""
    with contextlib.suppress(OSError):  # not of all file systems
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def tensors_of(model: Model) -> dict[str, np.ndarray]:
    """All that a file holds, contiguous views by name, in the order in which it holds them."""
    tensors = {**model.params, **model.states, **moments_of(model)}
    if model.table is not None:
        tensors["table"] = model.table.stored
    if model.memory.optimizer is not None:
        for state, vector in zip(model.memory.optimizer.states, model.memory.states, strict=True):
            tensors |= {f"{_STATE}{state}.{name}": p.of(vector) for name, p in model.graph.parameters.items()}
    return tensors


def moments_of(model: Model) -> dict[str, np.ndarray]:
    """See Network.moments."""
    found: dict[str, np.ndarray] = {}
    for of, known in (("", model.moments), ("y_", model.target_moments)):
        for name, own in known.items():
            found |= {f"{name}.{of}mean": own.mean, f"{name}.{of}scale": own.scale}
    return found


def _blocks(tensor: np.ndarray) -> Iterator[np.ndarray]:
    """A contiguous array in parts of at most _BLOCK bytes."""
    flat, n = tensor.reshape(-1), _BLOCK // tensor.itemsize
    return (flat[first : first + n] for first in range(0, flat.size, n))


def _header(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> bytes:
    """What a safetensors file begins with: the length of a JSON object (8 bytes, little-endian), and that: metadata,
    then dtype, shape and place of each tensor.  Padded, so that the tensors are aligned."""
    text = json.dumps({"__metadata__": metadata, **_entries(tensors)}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _entries(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Dtype, shape and place of each, one after the other."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        place, end = [end, end + tensor.nbytes], end + tensor.nbytes
        entries[name] = {"dtype": STORED[str(tensor.dtype)], "shape": tensor.shape, "data_offsets": place}
    return entries


def graph_json(model: Model) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for node in model.graph.nodes:
        base, _, use = node.name.partition("@")
        layer = node.layer
        values = {name: getattr(layer, name) for name in layer.saved}
        left_out = {name for name, value in layer.optional.items() if values[name] == value}
        given = {name: _plain(value) for name, value in values.items() if name not in left_out}
        attributes = {"shares": base} if use else given
        inputs = [model.graph.nodes[i].name for i in node.inputs]
        nodes.append({"name": node.name, "op": layer.op, "inputs": inputs, "attributes": attributes})
    graph: dict[str, Any] = {"dtype": str(model.dtype), "nodes": nodes}
    if not model.graph.is_chain:
        graph["outputs"] = [node.name for node in model.outputs]
    if model.frozen:
        graph["frozen"] = sorted(model.frozen)
    if model.checkpoint is not None:
        graph["checkpoint"] = model.checkpoint
    if model.feature_names:
        graph["feature_names"] = dict(model.feature_names)
    if model.moments or model.target_moments:
        graph["moments"] = {"inputs": list(model.moments), "targets": list(model.target_moments)}
    if model.table is not None:
        graph["table"] = model.table.stored.size
    return graph


def _format(graph: dict[str, Any], training: dict[str, Any]) -> str:
    """The oldest format that knows what the file says."""
    later = any(
        node["op"] in _LATER_LAYERS
        or _LATER_SETTINGS & set(node["attributes"])
        or (node["op"] in _LATER_MASKED and len(node["inputs"]) > 1)
        for node in graph["nodes"]
    )
    if later or {"feature_names", "moments", "table"} & set(graph) or "begun" in training:
        return FORMATS[1]
    optimizer = training["optimizer"] or {"kind": "sgd"}
    known = set(optimizer) - {"kind"} <= _FIRST_OPTIMIZERS.get(optimizer["kind"], set())
    return FORMATS[not known or any(isinstance(value, dict) for value in optimizer.values())]


def _plain(value: Any) -> Any:
    """What JSON can keep of an attribute."""
    if not isinstance(value, Activation):
        return value
    if value.name is None:
        raise ValueError("save: an activation of your own needs a name: bp.Activation(f, df, name='...')")
    return {"custom": value.name}


def _training(model: Model) -> dict[str, Any]:
    memory = model.memory
    return {
        "seed": model.seed,
        "step": model.step,
        "epoch": model.epoch,
        "optimizer": None if memory.optimizer is None else _optimizers.to_json(memory.optimizer),
        "updates": memory.updates,
        **({"begun": dict(memory.begun)} if memory.begun else {}),
        **({"weights": memory.weights} if memory.weights else {}),
    }


# ---- reading ----


Custom = Mapping[str, Activation | Function | Schedule]


def load(path: str | os.PathLike[str], custom: Custom | None) -> Model:
    """See bp.load."""
    return _read(path, custom, ensemble=False)[0]


def load_ensemble(path: str | os.PathLike[str], custom: Custom | None) -> list[Model]:
    """See Ensemble.load."""
    return _read(path, custom, ensemble=True)


def _read(path: str | os.PathLike[str], custom: Custom | None, ensemble: bool) -> list[Model]:
    """The network's model, or those of an ensemble's members."""
    target = _validate.path(path)
    if custom is not None and not isinstance(custom, Mapping):
        raise TypeError(f"custom: expected {{name: bp.Activation(f, df)}}, got {custom!r}")
    functions = dict(custom or {})
    with open(target, "rb") as file:
        metadata, entries = _open(target, file)
        if set(metadata) >= _RUN_KEYS:
            _take_run(target, file, metadata, entries)
        members = _members(target, metadata, ensemble)
        layouts = [_layout(target, graph, functions) for graph, _ in members]
        optimizers = [optimizer_of(target, training, functions) for _, training in members]
        if (version := metadata["bpcore_format"]) < (least := max(_format(*member) for member in members)):
            raise _bad(target, f"bpcore_format is {version!r}, and only {least} has all of its keys")
        numbers: list[int | None] = [*range(len(members))] if ensemble else [None]
        expected = {
            _of_member(k, name): each
            for k, (graph, _), (dtype, layout), optimizer in zip(numbers, members, layouts, optimizers, strict=True)
            for name, each in _expected(layout, dtype, optimizer, graph).items()
        }
        begin, (dtype, _) = file.tell(), layouts[0]
        if any(other != dtype for other, _ in layouts):
            raise _bad(target, "its members have several dtypes")
        places = _places(target, entries, expected, os.fstat(file.fileno()).st_size - begin)
        models = []
        for k, (graph, training), (_, layout), optimizer in zip(numbers, members, layouts, optimizers, strict=True):
            models.append(_model(layout, dtype, graph, training, optimizer))
            for name, tensor in tensors_of(models[-1]).items():
                file.seek(begin + places[_of_member(k, name)])
                for block in _blocks(tensor):
                    if file.readinto(block.data.cast("B")) != block.nbytes:
                        raise _bad(target, f"it ends within tensor {_of_member(k, name)!r}")
                    if name in layout.states and name.endswith(".variance") and (block < 0).any():
                        raise _bad(target, f"tensor {_of_member(k, name)!r} has values below 0")
                    if not np.isfinite(block).all():
                        raise _bad(target, f"tensor {_of_member(k, name)!r} has values that are not finite")
            _settle(target, models[-1])
    return models


def _take_run(path: str, file: BinaryIO, metadata: dict[str, str], entries: dict[str, Any]) -> dict[str, Any]:
    """Takes what is a run's out of the metadata, leaving a network's; ValueError where the checksum is another."""
    checksum, begin = metadata.pop("checksum"), file.tell()
    if _digest(metadata, entries, iter(lambda: file.read(_BLOCK), b"")) != checksum:
        raise _bad(path, "it is damaged: its checksum is another")
    file.seek(begin)
    return _parse(path, metadata.pop("run"))


class Damaged(ValueError):
    """A file that is torn, or was altered."""


class RunFile(NamedTuple):
    """What the file of a run holds, nothing of it checked but that it is what was written."""

    graph: dict[str, Any]
    training: dict[str, Any]
    run: dict[str, Any]
    tensors: dict[str, np.ndarray]


def load_run(path: str) -> RunFile:
    """What save_run wrote; Damaged, or ValueError for a file that is of no run."""
    with open(path, "rb") as file:
        try:
            metadata, entries = _open(path, file)
            if set(metadata) & _RUN_KEYS:
                return _run_file(path, file, metadata, entries)
        except (KeyError, ValueError) as error:
            raise Damaged(str(error)) from None
    raise ValueError(f"resume: expected a file that bp.Checkpoint wrote, and {path!r} is none; bp.load reads networks")


def _run_file(path: str, file: BufferedReader, metadata: dict[str, str], entries: dict[str, Any]) -> RunFile:
    run = _take_run(path, file, metadata, entries)
    begin = file.tell()
    places, tensors = _places(path, entries, None, os.fstat(file.fileno()).st_size - begin), {}
    for name, entry in entries.items():
        tensors[name] = np.empty(entry["shape"], _DTYPES[entry["dtype"]])
        file.seek(begin + places[name])
        if tensors[name].size:
            file.readinto(tensors[name].data.cast("B"))
    return RunFile(_parse(path, metadata["graph"]), _parse(path, metadata["training"]), run, tensors)


def _members(path: str, metadata: dict[str, str], ensemble: bool) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Graph and training of the network, or of each member of an ensemble."""
    if (version := metadata.get("bpcore_format")) not in FORMATS:
        raise _bad(path, f"bpcore_format is {version!r}, and only {', '.join(FORMATS)} are known")
    is_ensemble = set(metadata) == {"bpcore_format", "ensemble"} and version != FORMATS[0]
    if not is_ensemble and set(metadata) != {"bpcore_format", "graph", "training"}:
        raise _bad(path, f"unknown metadata {sorted(set(metadata))}")
    if is_ensemble != ensemble:
        what, cure = ("an ensemble", "bp.Ensemble.load") if is_ensemble else ("a network by itself", "bp.load")
        raise ValueError(f"load: {path!r} is {what}; use {cure}(path)")
    if not ensemble:
        return [(_parse(path, metadata["graph"]), _parse(path, metadata["training"]))]
    members = _parse(path, metadata["ensemble"])
    _keys(path, "ensemble", members, {"members"})
    if not isinstance(members["members"], list) or not members["members"]:
        raise _bad(path, "members: expected a list of one or more")
    for member in members["members"]:
        _keys(path, "a member", member, {"graph", "training"})
    return [(member["graph"], member["training"]) for member in members["members"]]


def _model(
    layout: Graph, dtype: str, graph: dict[str, Any], training: dict[str, Any],
    optimizer: _optimizers.Optimizer | None,
) -> Model:  # fmt: skip
    """What a file describes, its parameters and its optimiser's arrays not yet read."""
    cut = _checkpoint.resolve(layout, graph.get("checkpoint"))
    model = Model(layout, np.dtype(dtype), training["seed"], cut, frozenset(graph.get("frozen", [])))
    model.feature_names = {name: tuple(names) for name, names in graph.get("feature_names", {}).items()}
    model.step, model.epoch = training["step"], training["epoch"]
    if optimizer is not None:
        states = model.state_arrays(len(optimizer.states))
        begun = tuple(training.get("begun", {}).items())
        weights = training.get("weights", 0.0)
        model.memory = _optimizers.Memory(optimizer, states, training["updates"], begun, weights)
    if "table" in graph:
        model.table = _table_network.Stored(np.empty(graph["table"], np.uint8))  # type: ignore[assignment]
    widths = _moments(layout, graph.get("moments"))
    model.moments, model.target_moments = (
        {name: Moments(np.empty(width), np.empty(width)) for name, width in known.items()} for known in widths
    )
    return model


def _settle(path: str, model: Model) -> None:
    """The moments that were read are numbers that data give, and do not change from now on; the table is one of the
    network's inputs and output."""
    if model.table is not None:
        model.table = _attempt(path, "table", _table_network.restored, model)
    model.moments, model.target_moments = (
        {name: _attempt(path, name, own.settled) for name, own in known.items()}
        for known in (model.moments, model.target_moments)
    )


def _open(path: str, file: BinaryIO) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata and entries of the tensors, of a safetensors file; afterwards it stands where the tensors begin."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _MOST_HEADER):
        raise _bad(path, "it does not begin as a safetensors file")
    entries = _parse(path, file.read(length))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "its metadata is not an object of strings")
    return metadata, entries


_Tensor = tuple[tuple[int, ...], str]  # shape and dtype


def _places(path: str, entries: dict[str, Any], expected: dict[str, _Tensor] | None, size: int) -> dict[str, int]:
    """Where each tensor begins: they have the shapes and dtypes expected, where these are known (those of a run may
    have any), and lie one after the other in `size` bytes."""
    for name, entry in entries.items():
        _keys(path, f"tensor {name!r}", entry, {"dtype", "shape", "data_offsets"})
        for key in ("shape", "data_offsets"):
            if not isinstance(entry[key], list) or not all(type(n) is int for n in entry[key]):
                raise _bad(path, f"tensor {name!r}: expected {key} to be whole numbers")
    shapes = {name: tuple(entry["shape"]) for name, entry in entries.items() if not name.startswith(OF_RUN)}
    said = shapes if expected is None else {name: shape for name, (shape, _) in expected.items()}
    if shapes != said:
        name = sorted(set(shapes.items()) ^ set(said.items()))[0][0]
        raise _bad(path, f"tensor {name!r}: the graph says {said.get(name)}, the file {shapes.get(name)}")
    places, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        kind = entry["dtype"]
        if min(entry["shape"], default=0) < 0:
            raise _bad(path, f"tensor {name!r}: expected a shape, got {entry['shape']}")
        dtype = expected[name][1] if expected is not None and name in expected else None
        if kind not in _DTYPES or (dtype is not None and kind != STORED[dtype]):
            raise _bad(path, f"tensor {name!r} is {kind}, the graph says {dtype}")
        places[name], end = end, end + math.prod(entry["shape"]) * _DTYPES[kind].itemsize
        if entry["data_offsets"] != [places[name], end]:
            raise _bad(path, f"tensor {name!r}: expected it at {[places[name], end]}, got {entry['data_offsets']}")
    if end != size:
        raise _bad(path, f"expected {end:,} bytes of tensors, got {size:,}")
    return places


def _bad(path: str, why: str) -> ValueError:
    return ValueError(f"load: {path!r} is not a bpcore network: {why}")


def _parse(path: str, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text if isinstance(text, str) else text.decode())
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
    later = {"outputs", "frozen", "checkpoint", "feature_names", "moments", "table"}
    _keys(path, "graph", graph, {"dtype", "nodes"}, later)
    if graph["dtype"] not in ("float32", "float64"):
        raise _bad(path, f"dtype {graph['dtype']!r}")
    if not isinstance(graph["nodes"], list):
        raise _bad(path, "nodes: expected a list")
    known: dict[str, Symbol] = {}
    for node in graph["nodes"]:
        _keys(path, "a node", node, {"name", "op", "inputs", "attributes"})
        name, op, attributes = node["name"], node["op"], node["attributes"]
        kind = KINDS.get(op) if isinstance(op, str) else None
        if not isinstance(name, str) or kind is None:
            raise _bad(path, f"unknown operation {op!r}, or a name that is not a string: {name!r}")
        inputs = _strings(path, name, node["inputs"])
        if name in known or not known.keys() >= set(inputs) or (not inputs) != (kind is Input):
            raise _bad(path, f"{name!r}: expected a name of its own, and inputs among the nodes before it")
        if isinstance(attributes, dict) and set(attributes) == {"shares"}:
            shared = attributes["shares"]
            if not isinstance(shared, str) or shared not in known or type(known[shared].layer) is not kind:
                raise _bad(path, f"{name!r} shares the weights of {shared!r}, which is not there")
            layer = known[shared].layer
        else:
            _keys(path, name, attributes, set(kind.saved) - set(kind.optional), set(kind.saved))
            given = dict(attributes)
            if "activation" in given:
                given["activation"] = _activation(path, given["activation"], custom)
            if kind is Function:
                layer = _function(path, given["function"], custom)
            else:
                layer = _attempt(path, name, kind, **given, name=name)
        known[name] = layer if kind is Input else _attempt(path, name, layer, *(known[k] for k in inputs))
    outputs = _strings(path, "outputs", graph.get("outputs", list(known)[-1:]))
    if not set(outputs) <= set(known):
        raise _bad(path, f"outputs: there is no {sorted(set(outputs) - set(known))[0]!r}")
    first = [symbol for symbol in known.values() if isinstance(symbol, Input)]
    last = [known[name] for name in outputs]
    layout = _attempt(path, "graph", lambda: lay_out(symbols("inputs", first), symbols("outputs", last)))
    if [node.name for node in layout.nodes] != list(known):
        raise _bad(path, "nodes: expected them in the order in which they are computed")
    bases = {node.base for node in layout.nodes if node.parameters}
    if not set(_strings(path, "frozen", graph.get("frozen", []))) <= bases:
        raise _bad(path, f"frozen: expected names of layers with parameters, got {graph['frozen']}")
    _feature_names(path, layout, graph.get("feature_names", {}))
    _check_moments(path, layout, graph.get("moments"))
    _attempt(path, "table", _validate.integer, "table", graph.get("table", 0), 0, 2**62)
    checkpoint = graph.get("checkpoint", True)
    if checkpoint is not True:
        _attempt(path, "checkpoint", _checkpoint.resolve, layout, _strings(path, "checkpoint", checkpoint))
    return graph["dtype"], layout


def _feature_names(path: str, layout: Graph, value: Any) -> None:
    """Names of columns by input, as many as it has numbers, each once."""
    sizes = {node.name: node.n_out for node in (layout.nodes[i] for i in layout.inputs) if len(node.shape) == 1}
    _keys(path, "feature_names", value, set(), set(sizes))
    for name, names in value.items():
        if len(set(_strings(path, "feature_names", names))) != sizes[name] or len(names) != sizes[name]:
            raise _bad(path, f"feature_names: expected {sizes[name]} names of columns for {name!r}, each once")


def _moments(layout: Graph, value: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Columns of what is said to be learnt, of inputs and of targets, by name."""
    nodes = {node.name: node.shape[-1] for node in layout.nodes}
    both = ([], []) if value is None else (value["inputs"], value["targets"])
    inputs, targets = ({name: nodes[name] for name in known} for known in both)
    return inputs, targets


def _check_moments(path: str, layout: Graph, value: Any) -> None:
    """Names of Standardize layers, and of outputs."""
    if value is None:
        return
    _keys(path, "moments", value, {"inputs", "targets"})
    standardized = {node.base for node in layout.nodes if isinstance(node.layer, Standardize)}
    outputs = {layout.nodes[i].name for i in layout.outputs}
    for kind, names in (("inputs", standardized), ("targets", outputs)):
        given = _strings(path, f"moments: {kind}", value[kind])
        if not set(given) <= names or len(set(given)) < len(given):
            raise _bad(path, f"moments: {kind}: expected some of {sorted(names)}, each once, got {given}")


def _attempt(path: str, what: str, make: Callable[..., Any], /, *arguments: Any, **settings: Any) -> Any:
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


def optimizer_of(path: str, training: dict[str, Any], custom: Mapping[str, Any]) -> _optimizers.Optimizer | None:
    _keys(path, "training", training, {"seed", "step", "epoch", "optimizer", "updates"}, {"begun", "weights"})
    try:
        _validate.seed(training["seed"])
        for name in ("step", "epoch", "updates"):
            _validate.integer(name, training[name], 0, 2**62)
        if training["optimizer"] is None:
            optimizer, scheduled = None, set[str]()
        else:
            optimizer = _optimizers.from_json(training["optimizer"], custom)
            scheduled = set(_optimizers.schedules(optimizer))
        if "weights" in training and not (optimizer and optimizer.leads):
            raise ValueError(f"weights: expected of ScheduleFree alone, got that of {optimizer}")
        _validate.real("weights", training.get("weights", 0.0))
    except KeyError as error:
        raise ValueError(f"load: {path!r} {error.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise _bad(path, str(error)) from None
    begun = training.get("begun", {})
    _keys(path, "begun", begun, set(), scheduled)
    if not all(type(updates) is int and 0 <= updates <= training["updates"] for updates in begun.values()):
        raise _bad(path, f"begun: expected counts of updates, at most {training['updates']}, got {begun}")
    return optimizer


def _expected(
    layout: Graph, dtype: str, optimizer: _optimizers.Optimizer | None, graph: dict[str, Any]
) -> dict[str, _Tensor]:  # fmt: skip
    """Shape and dtype of the tensors that the graph calls for, by name; nothing of their size is allocated."""
    shapes = {name: p.shape for name, p in layout.parameters.items()}
    tensors = {name: (shape, dtype) for name, shape in shapes.items()}
    tensors |= {name: ((state.n,), dtype) for name, state in layout.states.items()}
    if "table" in graph:
        tensors["table"] = ((graph["table"],), "uint8")
    for of, known in zip(("", "y_"), _moments(layout, graph.get("moments")), strict=True):
        for name, width in known.items():
            tensors |= {f"{name}.{of}{what}": ((width,), "float64") for what in ("mean", "scale")}
    states = () if optimizer is None else optimizer.states
    return tensors | {f"{_STATE}{state}.{name}": (shape, dtype) for state in states for name, shape in shapes.items()}
