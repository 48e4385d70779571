"""Files: what `save` writes comes back bit for bit; what is not such a file is refused, quickly and whole."""

import copy
import json
import os
import pickle
import struct
import threading
import time
import traceback
import tracemalloc

import joblib
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import bpcore as bp

RNG = np.random.default_rng(0)


def trained(layers, optimizer=None, dtype="float32", seed=5):
    net = bp.Network(layers, dtype=dtype, seed=seed)
    if optimizer is not None:
        X = RNG.standard_normal((30, net.n_inputs))
        net.fit(
            X, abs(RNG.standard_normal((30, net.n_outputs))), loss="mse", optimizer=optimizer, epochs=3, batch_size=8
        )
    return net


SHARED = bp.Dense(6, "tanh")
OWN = bp.Activation(np.sin, np.cos, name="sine")
NETWORKS = {
    "fresh": lambda dtype: trained([bp.Input(3), bp.Dense(2)], None, dtype),
    "no optimiser state": lambda dtype: trained([bp.Input(3), bp.Dense(4, "relu"), bp.Dense(2)], bp.SGD(), dtype),
    "momentum": lambda dtype: trained(
        [bp.Input(3), bp.Dense(4, "gelu"), bp.Dense(2, "softmax")],
        bp.SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3), dtype,
    ),
    "adam": lambda dtype: trained([bp.Input(1), bp.Dense(1)], bp.Adam(lr=0.003, eps=1e-7, weight_decay=0.1), dtype),
    "every activation": lambda dtype: trained(
        [bp.Input(3), *(bp.Dense(3, f) for f in bp.activations.NAMES)], bp.Adam(), dtype
    ),
    "without biases": lambda dtype: trained(
        [bp.Input(3), bp.Dense(4, "relu", bias=False), bp.Dense(2, bias=False)], bp.Adam(), dtype
    ),
    "names": lambda dtype: trained(
        [bp.Input(3), bp.Dense(4, name="eins \N{GREEK SMALL LETTER DELTA}"), bp.Dense(5), bp.Dense(2, name="Aus\n\"")],
        bp.SGD(momentum=0.5), dtype,
    ),
    "shared": lambda dtype: trained(
        [bp.Input(6), SHARED, bp.Dense(6, name="mid"), SHARED, SHARED, bp.Dense(2)], bp.Adam(), dtype
    ),
    "own activation": lambda dtype: trained([bp.Input(3), bp.Dense(4, OWN), bp.Dense(2, OWN)], bp.Adam(), dtype),
    "initial arrays": lambda dtype: trained(
        [bp.Input(2), bp.Dense(2, init=np.eye(2), bias_init=[1.0, 2.0]), bp.Dense(1, init="ones")], None, dtype
    ),
    "deep": lambda dtype: trained([bp.Input(2), *(bp.Dense(2) for _ in range(300))], bp.SGD(momentum=0.1), dtype),
    "top seed": lambda dtype: trained([bp.Input(2), bp.Dense(2)], bp.SGD(), dtype, seed=2**64 - 1),
}  # fmt: skip


def facts(net):
    """All that must survive."""
    return {
        "theta": net.theta.tobytes(),
        "params": {name: view.shape for name, view in net.params.items()},
        "counters": (net.step, net.epoch, net._model.memory.updates, net.seed, net.dtype),
        "optimizer": net._model.memory.optimizer,
        "states": [a.tobytes() for a in net._model.memory.states],
        "layers": [(type(x), x.units, getattr(x, "activation", 0), getattr(x, "bias", 0)) for x in net.layers],
        "sharing": [net.layers.index(layer) for layer in net.layers],
        "names": [node.name for node in net._model.graph.nodes],
        "answer": net.predict(np.linspace(-1, 1, 5 * net.n_inputs).reshape(5, -1)).tobytes(),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_round_trip(kind, dtype, tmp_path):
    net = NETWORKS[kind](dtype)
    before = facts(net)
    path = tmp_path / "net.safetensors"
    assert net.save(path) is None and facts(net) == before
    back = bp.load(str(path), custom={"sine": OWN} if kind == "own activation" else None)
    assert facts(back) == before
    assert back.theta.flags.writeable and not np.shares_memory(back.theta, net.theta)
    assert all(np.shares_memory(view, back.theta) for view in back.params.values())
    back.save(tmp_path / "again")
    assert facts(bp.load(tmp_path / "again", custom={"sine": OWN})) == before
    X, y = RNG.standard_normal((20, net.n_inputs)), abs(RNG.standard_normal((20, net.n_outputs)))
    for each in (net, back):  # and both go on alike
        each.fit(X, y, loss="mse", optimizer=net._model.memory.optimizer or bp.SGD(), epochs=2)
    assert facts(back) == facts(net)


def test_the_file_is_plain_safetensors(tmp_path):
    net = NETWORKS["shared"]("float64")
    net.save(tmp_path / "net")
    tensors = load_file(tmp_path / "net")
    expected = dict(net.params)
    for state, vector in zip(("mean", "variance"), net._model.memory.states, strict=True):
        for name, p in net._model.graph.parameters.items():
            expected[f"optimizer.{state}.{name}"] = vector[p.offset : p.offset + p.rows * p.cols].reshape(p.shape)
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float64 and tensor.shape == expected[name].shape and (tensor == expected[name]).all()
    with safe_open(tmp_path / "net", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["bpcore_format"] == "1" and set(metadata) == {"bpcore_format", "graph", "training"}
    graph, training = json.loads(metadata["graph"]), json.loads(metadata["training"])
    assert graph["dtype"] == "float64"
    assert [set(node) for node in graph["nodes"]] == [{"name", "op", "inputs", "attributes"}] * 6
    assert [node["op"] for node in graph["nodes"]] == ["input"] + ["dense"] * 5
    names = [node["name"] for node in graph["nodes"]]
    assert [node["inputs"] for node in graph["nodes"]] == [[], *([name] for name in names[:-1])]
    assert graph["nodes"][3]["attributes"] == {"shares": names[1]}
    assert training["seed"] == 5 and training["step"] == net.step == 12 and training["epoch"] == 3


def test_a_network_of_ones_own_activation(tmp_path):
    net = NETWORKS["own activation"]("float32")
    net.save(tmp_path / "net")
    for custom in (None, {}, {"cosine": OWN}, {"sine": "tanh"}, {"sine": np.sin}):
        with pytest.raises(ValueError, match=r"the activation 'sine' of your own; give it back by custom=\{'sine'"):
            bp.load(tmp_path / "net", custom=custom)
    other = bp.Activation(np.cos, lambda z: -np.sin(z))
    assert bp.load(tmp_path / "net", custom={"sine": other}).layers[1].activation is other
    nameless = bp.Network([bp.Input(2), bp.Dense(2, bp.Activation(np.sin, np.cos))])
    with pytest.raises(ValueError, match="save: an activation of your own needs a name"):
        nameless.save(tmp_path / "nameless")
    assert sorted(os.listdir(tmp_path)) == ["net"]


# ---- writing ----


def test_save_takes_any_path_and_respects_the_umask(tmp_path):
    net = NETWORKS["fresh"]("float32")
    before = os.umask(0o027)
    try:
        for i, path in enumerate((tmp_path / "0", str(tmp_path / "1"), os.fsencode(tmp_path / "2"))):
            net.save(path)
            assert facts(bp.load(path)) == facts(net)
            assert (tmp_path / str(i)).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        net.save("bare")
        assert facts(bp.load("bare")) == facts(net)
    finally:
        os.chdir(here)
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "bare"]


def test_save_to_where_nothing_can_be_written_leaves_nothing(tmp_path):
    net = NETWORKS["adam"]("float32")
    before = facts(net)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").touch()
    for where, error in (
        (tmp_path / "folder", OSError),
        (tmp_path / "missing" / "net", FileNotFoundError),
        (tmp_path / "folder" / "full" / "net", NotADirectoryError),
    ):
        with pytest.raises(error) as caught:
            net.save(where)
        assert caught.value.filename == str(where) and caught.value.filename2 is None
        assert ".tmp" not in "".join(traceback.format_exception(caught.value)).splitlines()[-1]
    with pytest.raises((OSError, ValueError)):
        net.save(tmp_path / "null\0")
    assert sorted(os.listdir(tmp_path)) == ["folder"] and os.listdir(tmp_path / "folder") == ["full"]
    assert facts(net) == before


def test_save_writes_through_links_and_keeps_the_mode(tmp_path):
    net, real, link = NETWORKS["adam"]("float32"), tmp_path / "real", tmp_path / "link"
    link.symlink_to("real")
    net.save(link)
    assert link.is_symlink() and facts(bp.load(real)) == facts(net)
    for mode in (0o600, 0o664):
        real.chmod(mode)
        net.save(link)
        assert link.is_symlink() and real.stat().st_mode & 0o7777 == mode
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_save_replaces_only_files(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="path: expected a regular file or none, and '.*pipe' is neither"):
        NETWORKS["adam"]("float32").save(path)
    assert path.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_save_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "net"
    old, new = NETWORKS["adam"]("float32"), NETWORKS["momentum"]("float32")
    old.save(path)
    content = path.read_bytes()
    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:

            def fail(*arguments, **settings):
                raise OSError("disk full")

            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                new.save(path)
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["net"], name
    nets = [NETWORKS["adam"]("float32"), NETWORKS["deep"]("float32")]
    wanted = {facts(net)["theta"] for net in (old, *nets)}
    halt = threading.Event()
    problems = []

    def read():
        while not halt.is_set():
            try:
                assert bp.load(path).theta.tobytes() in wanted
            except Exception as error:
                problems.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        nets[i % 2].save(path)
    halt.set()
    reader.join(30)
    assert not problems and not reader.is_alive() and os.listdir(tmp_path) == ["net"]


# ---- hostile files ----


def refused(path, *words, errors=ValueError, seconds=1.0, custom=None):
    """bp.load raises, and neither dwells on the file nor takes memory beyond a few times its size."""
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(errors) as caught:
            bp.load(path, custom=custom)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < seconds
    assert peak < 40 * size + 2e6, peak
    if isinstance(caught.value, ValueError):
        assert str(caught.value).startswith("load: ") and os.path.basename(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    return caught.value


@pytest.fixture
def good(tmp_path):
    """A good file, its tensors and its metadata."""
    path = tmp_path / "good"
    net = trained([bp.Input(3), bp.Dense(4, "relu"), bp.Dense(2)], bp.Adam())
    net.save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return path, tensors, metadata


def rewritten(tmp_path, tensors, metadata, graph=None, training=None):
    """A file with some of its description changed: graph and training are functions that change a dict in place."""
    metadata = dict(metadata)
    for name, change in (("graph", graph), ("training", training)):
        if change is not None:
            value = json.loads(metadata[name])
            change(value)
            metadata[name] = json.dumps(value)
    path = tmp_path / "bad"
    save_file(tensors, path, metadata)
    return path


def test_what_is_no_file_of_ours(tmp_path, good):
    content = good[0].read_bytes()
    cases = {
        "empty": b"",
        "zeros": b"\0" * 1000,
        "ones": b"\xff" * 1000,
        "text": b"hello world, this is a text file\n" * 10,
        "pickle": pickle.dumps({"theta": np.ones(3)}),
        "numpy": b"\x93NUMPY\x01\0" + bytes(120),
        "zip": b"PK\x03\x04" + bytes(200),
        "header of 2^63": struct.pack("<Q", 2**63) + content[8:],
        "header of 2^40": struct.pack("<Q", 2**40) + content[8:],
        "header of 90 MB": struct.pack("<Q", 90_000_000) + content[8:],
        "header of 0": struct.pack("<Q", 0) + content[8:],
        "no header": struct.pack("<Q", 2) + b"{}",
        "a list": struct.pack("<Q", 2) + b"[]",
        "null": struct.pack("<Q", 4) + b"null",
        "not UTF-8": struct.pack("<Q", 8) + b'{"\xff\xfe":1',
        "twice": content + content,
        "a byte more": content + b"\0",
        "a byte less": content[:-1],
        "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        refused(path)
    refused(tmp_path, errors=OSError)
    refused(tmp_path / "not there", errors=FileNotFoundError)
    refused(tmp_path / "good" / "within", errors=OSError)


class Bomb:
    def __reduce__(self):
        return os.abort, ()


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "bomb"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Bomb(), protocol))
        refused(path)


def test_truncated_anywhere(good, tmp_path):
    content = good[0].read_bytes()
    path = tmp_path / "short"
    for end in sorted({*range(0, len(content), 7), *range(len(content) - 20, len(content))}):
        path.write_bytes(content[:end])
        refused(path)


def test_flipped_bytes(good, tmp_path):
    """Damage is refused, or it hit a number or a name and the file still means a whole network."""
    content = good[0].read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    path = tmp_path / "damaged"
    rng = np.random.default_rng(7)
    loaded = 0
    for i in range(600):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(0, header if i % 3 else len(content))
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            net = bp.load(path)
        except ValueError as error:
            assert str(error).startswith("load: ") and "damaged" in str(error)
            continue
        loaded += 1
        assert net.n_params < 100 and np.isfinite(net.theta).all() and net.predict(np.ones((2, 3))).shape[0] == 2
    assert 5 < loaded < 300


def test_tensors_that_lie_elsewhere(good, tmp_path):
    """Each has the place that the ones before it leave, in whole numbers, and nothing lies between or behind them."""
    content = good[0].read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    W, b = "dense_1.W", "dense_1.b"

    def moved(name, by):
        return lambda header: header[name].update(data_offsets=[n + by for n in header[name]["data_offsets"]])

    def swapped(header):
        header[W]["data_offsets"], header[b]["data_offsets"] = header[b]["data_offsets"], header[W]["data_offsets"]

    cases = {
        "beyond the end": (moved(W, 10**6), "expected it at"),
        "before the beginning": (moved(W, -8), "expected it at"),
        "over another": (moved(b, -4), "expected it at"),
        "swapped": (swapped, "expected it at"),
        "reversed": (lambda header: header[W]["data_offsets"].reverse(), "expected it at"),
        "of 2^63 bytes": (lambda header: header[W].update(data_offsets=[0, 2**63]), "expected it at"),
        "one number": (lambda header: header[W].update(data_offsets=[0]), "expected it at"),
        "fractions": (moved(W, 0.0), "expected data_offsets to be whole numbers"),
        "words": (lambda header: header[W].update(data_offsets="0, 48"), "expected data_offsets to be whole numbers"),
        "true": (lambda header: header[b].update(shape=[True]), "expected shape to be whole numbers"),
        "no place": (lambda header: header[W].pop("data_offsets"), "expected the keys"),
        "no object": (lambda header: header.update({W: 5}), "expected the keys"),
        "a tensor more": (lambda header: header.update(more=header[W]), "tensor 'more': the graph says None"),
        "a tensor less": (lambda header: header.pop(W), "the file None"),
        "metadata of numbers": (lambda header: header["__metadata__"].update(graph=5), "an object of strings"),
    }
    for change, *words in cases.values():
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        (tmp_path / "bad").write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        refused(tmp_path / "bad", *words)


def test_metadata_of_another_kind(good, tmp_path):
    _, tensors, metadata = good
    for change, *words in (
        ({"bpcore_format": "3"}, "bpcore_format is '3'", "only 1, 2 are known"),
        ({"bpcore_format": ""}, "bpcore_format is ''"),
        ({"bpcore_format": None}, "bpcore_format is None"),
        ({"graph": None}, "unknown metadata"),
        ({"training": None}, "unknown metadata"),
        ({"more": "x"}, "unknown metadata", "more"),
        ({"graph": ""}, "not JSON"),
        ({"graph": "[]"}, "not a JSON object"),
        ({"graph": "{"}, "not JSON"),
        ({"graph": "__import__('os').abort()"}, "not JSON"),
        ({"training": "nan"}, "not JSON"),
        ({"training": "5"}, "not a JSON object"),
    ):
        changed = {**metadata, **change}
        save_file(tensors, tmp_path / "bad", {k: v for k, v in changed.items() if v is not None})
        refused(tmp_path / "bad", *words)
    save_file(tensors, tmp_path / "bad", None)
    refused(tmp_path / "bad", "bpcore_format is None")


@pytest.mark.parametrize("where", ["graph", "training", "within"])
def test_json_bombs(where, good, tmp_path):
    _, tensors, metadata = good
    for bomb in (
        "[" * 100_000,
        "[" * 50_000 + "]" * 50_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        "9" * 100_000,
        '"' * 9,
    ):
        if where == "within":
            changed = {**metadata, "graph": metadata["graph"].replace('"units": 4', f'"units": {bomb}')}
            assert changed != metadata
        else:
            changed = {**metadata, where: bomb}
        save_file(tensors, tmp_path / "bad", changed)
        refused(tmp_path / "bad")


@pytest.mark.parametrize("optimizer", [bp.SGD(clip_norm=1.0), bp.Lion(), bp.SGD(bp.schedules.Cosine(0.1)), "names"])
def test_format_1_has_no_keys_of_format_2(optimizer, tmp_path):
    net = bp.Network([bp.Input(3), bp.Dense(1)])
    net.fit(np.zeros((8, 3)), np.zeros(8), optimizer=bp.SGD() if optimizer == "names" else optimizer)
    if optimizer == "names":
        net._model.feature_names = {"input": ("a", "b", "c")}
    net.save(tmp_path / "good")
    with safe_open(tmp_path / "good", "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata["bpcore_format"] == "2" and bp.load(tmp_path / "good").theta.tobytes() == net.theta.tobytes()
    save_file(tensors, tmp_path / "bad", {**metadata, "bpcore_format": "1"})
    refused(tmp_path / "bad", "bpcore_format is '1', and only 2 has all of its keys")
    training = {**json.loads(metadata["training"]), "optimizer": None, "begun": {}}
    save_file({name: tensors[name] for name in net.params}, tmp_path / "bad",
              {"bpcore_format": "1", "graph": metadata["graph"], "training": json.dumps(training)})  # fmt: skip
    refused(tmp_path / "bad", "bpcore_format is '1', and only 2 has all of its keys")


def test_many_layers_are_refused_in_linear_time(good, tmp_path):
    """Four times the layers, about four times the seconds."""
    _, tensors, metadata = good
    seconds = []
    for n in (5_000, 20_000):
        nodes = [{"name": "input", "op": "input", "inputs": [], "attributes": {"units": 1}}]
        for i in range(n):
            attributes = {"units": 1, "activation": "relu", "bias": True}
            nodes.append({"name": f"d{i}", "op": "dense", "inputs": [nodes[-1]["name"]], "attributes": attributes})
        save_file(tensors, tmp_path / "bad", {**metadata, "graph": json.dumps({"dtype": "float32", "nodes": nodes})})
        begin = time.process_time()
        with pytest.raises(ValueError, match="tensor"):
            bp.load(tmp_path / "bad")
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 10 * seconds[0], seconds


def dense(graph):
    return graph["nodes"][1]["attributes"]


HUGE = [2**31 - 1, 2**31, 2**40, 2**63, 2**64, 10**400, 0, -1, 1.5, 1e400, True, None, "4", [4], {"n": 4}]


@pytest.mark.parametrize("value", HUGE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("place", ["input", "hidden", "output", "all"])
def test_units_of_every_kind(place, value, good, tmp_path):
    def change(graph):
        for i, node in enumerate(graph["nodes"]):
            if place == "all" or i == ("input", "hidden", "output").index(place):
                node["attributes"]["units"] = value

    refused(rewritten(tmp_path, *good[1:], graph=change))


def setting(node, key, value):
    def change(graph):
        target = graph if node is None else graph["nodes"][node]
        target[key] = value

    return change


def attribute(node, key, value):
    return lambda graph: graph["nodes"][node]["attributes"].update({key: value})


BAD_GRAPHS = {
    "dtype": (setting(None, "dtype", "float16"), "dtype 'float16'"),
    "dtype list": (setting(None, "dtype", ["float32"]), "dtype"),
    "other dtype": (setting(None, "dtype", "float64"), "F32, the graph says float64"),
    "nodes": (setting(None, "nodes", {}), "nodes: expected a list"),
    "no nodes": (setting(None, "nodes", []), "at least one"),
    "numbers for nodes": (setting(None, "nodes", [1, 2]), "a node", "int"),
    "key": (setting(None, "code", "x"), "graph", "'code'"),
    "no key": (lambda graph: graph.pop("dtype"), "graph", "'nodes'"),
    "node key": (setting(1, "code", "x"), "a node", "'code'"),
    "no node key": (lambda graph: graph["nodes"][1].pop("op"), "a node"),
    "op": (setting(1, "op", "conv"), "unknown operation 'conv'"),
    "feature names": (setting(None, "feature_names", ["a", "b", "c"]), "feature_names", "got list"),
    "feature names of others": (setting(None, "feature_names", {"output": ["a", "b", "c"]}), "feature_names", "output"),
    "feature names no list": (setting(None, "feature_names", {"input": "abc"}), "feature_names: expected a list"),
    "feature names no words": (setting(None, "feature_names", {"input": [1, 2, 3]}), "feature_names: expected a list"),
    "feature names too few": (setting(None, "feature_names", {"input": ["a", "b"]}), "expected 3 names of columns"),
    "feature names twice": (setting(None, "feature_names", {"input": ["a", "b", "a"]}), "for 'input', each once"),
    "op eval": (setting(1, "op", "__import__('os').abort()"), "unknown operation"),
    "op list": (setting(1, "op", ["dense"]), "unknown operation"),
    "op null": (setting(1, "op", None), "unknown operation"),
    "op custom": (setting(1, "op", "python_function"), "unknown operation"),
    "input late": (setting(2, "op", "input"), "inputs among the nodes before it"),
    "no input": (setting(0, "op", "dense"), "inputs among the nodes before it"),
    "name": (setting(1, "name", 5), "name that is not a string: 5"),
    "name list": (setting(1, "name", ["a"]), "name that is not a string"),
    "name empty": (setting(1, "name", ""), "non-empty", "got ''"),
    "name with a dot": (
        lambda graph: (graph["nodes"][2].update(name="a.b")), "'a.b'",
    ),
    "name twice": (lambda graph: (graph["nodes"][2].update(name=graph["nodes"][1]["name"])), "twice"),
    "inputs": (setting(2, "inputs", ["input"]), "in the order in which they are computed"),
    "inputs two": (setting(2, "inputs", ["dense_1", "dense_1"]), "expected one input, got 2"),
    "inputs none": (setting(2, "inputs", []), "inputs among the nodes before it"),
    "inputs itself": (setting(1, "inputs", ["dense_1"]), "inputs among the nodes before it"),
    "inputs null": (setting(1, "inputs", None), "expected a list of names"),
    "attributes": (setting(1, "attributes", []), "dense_1", "list"),
    "attributes null": (setting(1, "attributes", None), "dense_1", "NoneType"),
    "attribute key": (attribute(1, "init", "os.abort()"), "'init'"),
    "no attribute": (lambda graph: dense(graph).pop("bias"), "dense_1"),
    "input attribute": (attribute(0, "activation", "relu"), "input", "'activation'"),
    "activation": (attribute(1, "activation", "sigmoid"), "unknown activation 'sigmoid'"),
    "activation null": (attribute(1, "activation", None), "an activation", "NoneType"),
    "activation list": (attribute(1, "activation", ["relu"]), "an activation", "list"),
    "activation keys": (attribute(1, "activation", {"custom": "a", "code": "b"}), "an activation", "'code'"),
    "activation custom": (attribute(1, "activation", {"custom": "relu"}), "'relu' of your own"),
    "activation custom list": (attribute(1, "activation", {"custom": ["relu"]}), "of your own"),
    "bias": (attribute(1, "bias", 1), "dense_1", "bias"),
    "bias word": (attribute(1, "bias", "yes"), "dense_1", "bias"),
    "no bias": (attribute(1, "bias", False), "tensor 'dense_1.b'", "the graph says None"),
    "wider": (attribute(1, "units", 5), "tensor 'dense_1.W'", "the graph says (3, 5), the file (3, 4)"),
    "shares nothing": (setting(2, "attributes", {"shares": "dense_9"}), "shares the weights of 'dense_9'"),
    "shares itself": (setting(1, "attributes", {"shares": "dense_1"}), "shares the weights of 'dense_1'"),
    "shares the input": (setting(1, "attributes", {"shares": "input"}), "shares the weights of 'input'"),
    "shares a list": (setting(1, "attributes", {"shares": ["dense_1"]}), "shares the weights"),
    "shares another width": (setting(2, "attributes", {"shares": "dense_1"}), "W of shape (3, 4) and (4, 4)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_GRAPHS)
def test_wrong_graph(kind, good, tmp_path):
    change, *words = BAD_GRAPHS[kind]
    refused(rewritten(tmp_path, *good[1:], graph=change), *words)


def optimizer_(key, value):
    return lambda training: training["optimizer"].update({key: value})


def training_(key, value):
    return lambda training: training.update({key: value})


BAD_TRAINING = {
    "key": (training_("code", 1), "training", "'code'"),
    "no key": (lambda training: training.pop("seed"), "training"),
    "seed": (training_("seed", -1), "seed", "-1"),
    "seed 2^64": (training_("seed", 2**64), "seed"),
    "seed float": (training_("seed", 1.0), "seed", "1.0"),
    "seed null": (training_("seed", None), "seed"),
    "step": (training_("step", -1), "step", "-1"),
    "step huge": (training_("step", 10**30), "step"),
    "step bool": (training_("step", True), "step", "True"),
    "epoch": (training_("epoch", "3"), "epoch", "'3'"),
    "updates": (training_("updates", [1]), "updates"),
    "optimizer": (training_("optimizer", 5), "optimizer", "5"),
    "optimizer list": (training_("optimizer", []), "optimizer"),
    "optimizer none": (training_("optimizer", None), "tensor 'optimizer.", "the graph says None"),
    "kind": (optimizer_("kind", "sgdw"), "optimizer", "'sgdw'"),
    "kind list": (optimizer_("kind", ["adam"]), "load"),
    "kind of another": (optimizer_("kind", "sgd"), "optimizer", "beta1"),
    "setting": (optimizer_("code", "x"), "optimizer", "code"),
    "lr": (optimizer_("lr", -1), "lr", "-1"),
    "lr word": (optimizer_("lr", "1"), "lr", "'1'"),
    "lr infinite": (optimizer_("lr", float("inf")), "lr", "inf"),
    "lr NaN": (optimizer_("lr", float("nan")), "lr", "nan"),
    "lr huge": (optimizer_("lr", 10**400), "lr"),
    "beta1": (optimizer_("beta1", 1), "beta1"),
    "eps": (optimizer_("eps", 0), "eps"),
}


@pytest.mark.parametrize("kind", BAD_TRAINING)
def test_wrong_training(kind, good, tmp_path):
    change, *words = BAD_TRAINING[kind]
    refused(rewritten(tmp_path, *good[1:], training=change), *words)


def test_wrong_tensors(good, tmp_path):
    _, tensors, metadata = good
    name = "dense_1.W"
    state = "optimizer.mean.dense_1.W"
    W = tensors[name]
    nan, inf = W.copy(), tensors[state].copy()
    nan[1, 2], inf[0, 0] = np.nan, np.inf
    cases = {
        "missing": ({k: v for k, v in tensors.items() if k != name}, name, "(3, 4)", "None"),
        "state missing": ({k: v for k, v in tensors.items() if k != state}, state, "None"),
        "extra": ({**tensors, "x": W}, "tensor 'x'", "the graph says None"),
        "none": ({}, "tensor"),
        "turned": ({**tensors, name: W.T.copy()}, name, "(3, 4)", "(4, 3)"),
        "flat": ({**tensors, name: W.ravel()}, name, "(12,)"),
        "larger": ({**tensors, name: np.zeros((3, 4000), np.float32)}, name, "(3, 4000)"),
        "empty": ({**tensors, name: np.zeros((3, 0), np.float32)}, name, "(3, 0)"),
        "float64": ({**tensors, name: W.astype(np.float64)}, name, "F64", "float32"),
        "float16": ({**tensors, name: W.astype(np.float16)}, name, "F16"),
        "int32": ({**tensors, name: W.astype(np.int32)}, name, "I32"),
        "bool": ({**tensors, name: W > 0}, name, "BOOL"),
        "all in float64": ({k: v.astype(np.float64) for k, v in tensors.items()}, "F64", "float32"),
        "NaN": ({**tensors, name: nan}, name, "not finite"),
        "infinite state": ({**tensors, state: inf}, state, "not finite"),
    }
    for changed, *words in cases.values():
        save_file(changed, tmp_path / "bad", metadata)
        refused(tmp_path / "bad", *words)


@pytest.mark.parametrize(
    "dtype, size", [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("U8", 1), ("I64", 8), ("C64", 8), ("X9", 4)]
)
def test_tensors_of_a_type_numpy_may_not_know(dtype, size, tmp_path):
    net = bp.Network([bp.Input(3), bp.Dense(2, bias=False)])
    net.save(tmp_path / "good")
    with safe_open(tmp_path / "good", framework="numpy") as file:
        metadata = file.metadata()
    tensor = {"dtype": dtype, "shape": [3, 2], "data_offsets": [0, 6 * size]}
    header = json.dumps({"__metadata__": metadata, "dense_1.W": tensor}).encode()
    path = tmp_path / "bad"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(6 * size))
    refused(path)


def test_shapes_that_only_the_header_has(tmp_path):
    """Tensors of 2^40 numbers that no byte stands for."""
    net = bp.Network([bp.Input(3), bp.Dense(2)])
    net.save(tmp_path / "good")
    with safe_open(tmp_path / "good", framework="numpy") as file:
        metadata = file.metadata()
    graph = json.loads(metadata["graph"])
    graph["nodes"][0]["attributes"]["units"] = graph["nodes"][1]["attributes"]["units"] = 2**20
    metadata["graph"] = json.dumps(graph)
    for shape, offsets in (([2**20, 2**20], [0, 2**42]), ([2**20, 2**20], [0, 0]), ([2**62, 4], [0, 0])):
        header = {
            "__metadata__": metadata,
            "dense_1.W": {"dtype": "F32", "shape": shape, "data_offsets": offsets},
            "dense_1.b": {"dtype": "F32", "shape": [2**20], "data_offsets": [offsets[1], offsets[1] + 2**22]},
        }
        text = json.dumps(header).encode()
        path = tmp_path / "bad"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(2**22))
        refused(path)


def test_a_refused_file_leaves_no_handle_open(good, tmp_path):
    path = rewritten(tmp_path, *good[1:], graph=setting(1, "op", "conv"))
    for _ in range(5):
        refused(path)
    bp.load(good[0])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        refused(path)
        bp.load(good[0])
    assert len(os.listdir("/proc/self/fd")) == before


# ---- whose memory it is ----


def test_fit_writes_to_no_memory_but_its_own(tmp_path):
    """Not to a file or a buffer that a network came from, nor to what it has given away."""
    X, y = RNG.standard_normal((20, 3)), RNG.standard_normal((20, 2))
    net = trained([bp.Input(3), bp.Dense(4, "relu"), bp.Dense(2)], bp.Adam())
    net.save(tmp_path / "net")
    joblib.dump(net, tmp_path / "joblib")
    buffers = []
    data = pickle.dumps(net, protocol=5, buffer_callback=buffers.append)
    foreign = [bytearray(buffer.raw()) for buffer in buffers]
    files = [(tmp_path / name).read_bytes() for name in ("net", "joblib")]
    kept = [bytes(buffer) for buffer in foreign]
    nets = [bp.load(tmp_path / "net"), bp.load(tmp_path / "net"), net.copy(), copy.deepcopy(net)]
    nets += [joblib.load(tmp_path / "joblib", mmap_mode=mode) for mode in ("r", "r+", "c")]
    nets += [pickle.loads(data, buffers=foreign), pickle.loads(data, buffers=foreign)]
    tape = net.forward(X)
    given = [*tape.a, *tape.z[1:], tape.theta, net.backward(tape, y).theta, net.value_and_grad(X, y)[1]]
    given += [net.jacobian(X), net.hvp(X, y, np.ones(net.n_params)), net.predict(X)]
    before = [a.tobytes() for a in given]
    for each in nets:
        assert facts(each) == facts(net)
    for each in (nets[0], net, *nets[1:]):
        each.fit(X, y, optimizer=bp.Adam(), epochs=2)
        assert facts(each) == facts(nets[0])
    assert files == [(tmp_path / name).read_bytes() for name in ("net", "joblib")]
    assert kept == [bytes(buffer) for buffer in foreign] and before == [a.tobytes() for a in given]


def test_a_theta_that_may_not_be_written_is_read_alone():
    net = trained([bp.Input(3), bp.Dense(4, "tanh"), bp.Dense(2)], bp.SGD(), "float64")
    X, y, before = RNG.standard_normal((20, 3)), RNG.standard_normal((20, 2)), net.theta.copy()
    net.theta.setflags(write=False)
    for call in (
        lambda: net.fit(X, y),
        lambda: net.fit(X, y, optimizer=bp.LevenbergMarquardt(), batch_size=None),
        lambda: setattr(net, "theta", before + 1),
    ):
        with pytest.raises(ValueError, match="read-only"):
            call()
    answer = net.predict(X)
    assert (net.predictor()(X) == answer).all() and (net.copy().predict(X) == answer).all()
    assert net.evaluate(X, y)["loss"] == pytest.approx(net.value_and_grad(X, y)[0], rel=1e-12)
    assert net.jacobian(X).shape == (20, 2, 3) and (net.theta == before).all()
    net.copy().fit(X, y)  # its theta is its own
