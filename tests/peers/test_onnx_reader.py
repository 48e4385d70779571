"""from_onnx against ONNX Runtime, on models of export_onnx and others; what it refuses, by name."""

import struct

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from random_graphs import PAIRS, pair
from torch import nn

import bpcore as bp

RNG = np.random.default_rng(5)
# of their kinds of layers, whole or after others, what from_onnx reads of export_onnx's models
READ = ("dense", "add", "multiply", "concat", "slice", "permute", "reshape", "matmul", "scale", "bias", "embedding",
        "batch_norm", "standardize", "max_pool1d", "average_pool2d", "global_average_pool", "layer_norm")  # fmt: skip


def run(path, *arrays):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {x.name: a for x, a in zip(session.get_inputs(), arrays, strict=True)})


def close(a, b):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 2e-5 * max(np.abs(b).max(), 1e-3)


def model(nodes, inputs, outputs, opset=17, **constants):
    """A model of such nodes; inputs and outputs are shapes by name."""
    infos = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()]
             for ends in (inputs, outputs)]  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "graph", *infos, tensors)
    versions = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def f32(*shape):
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


def there_and_back(path, net, *X):
    bp.export_onnx(net, path)
    back = bp.from_onnx(path)
    got, want = (net.predict(X[0] if len(X) == 1 else list(X)) for net in (back, net))
    several = isinstance(want, (list, tuple))
    for a, b in zip(got if several else [got], want if several else [want], strict=True):
        close(a, b)
    assert back.inputs == net.inputs and back.dtype == net.dtype
    assert list(back.outputs.values()) == list(net.outputs.values())
    return back


@pytest.mark.parametrize("second", READ)
def test_pairs_of_layers(tmp_path, second):
    firsts = [one for one, other in PAIRS if other == second and one in READ]
    for k, first in enumerate(firsts[READ.index(second) % 3 :: 3]):
        case = pair(first, second, k)
        there_and_back(tmp_path / "net.onnx", bp.Network._of(case.net._model.like("float32")), *case.X)


def test_the_weights_are_the_same_bits(tmp_path):
    layers = [bp.Conv2D(4, 3, "relu", padding="same"), bp.MaxPool2D(2),
              bp.Conv2D(6, (2, 3), "gelu", stride=2, groups=2), bp.Reshape(-1), bp.Dense(7, "selu"), bp.LayerNorm(),
              bp.Dense(3, "softmax", name="end")]  # fmt: skip
    net = bp.Network([bp.Input((12, 10, 2), name="image"), *layers], seed=1)
    back = there_and_back(tmp_path / "net.onnx", net, f32(5, 12, 10, 2))
    assert [p.tobytes() for p in back.params.values()] == [p.tobytes() for p in net.params.values()]
    assert list(back.outputs) == ["end"]
    assert [layer.op for layer in back.layers if layer.op != "activate"] == [layer.op for layer in net.layers]
    x, body = bp.Input((9, 3)), bp.Dense(3, "tanh")
    h = bp.GRU(4, sequences=True, reverse=True)(bp.LSTM(5, sequences=True)(body(body(x))))
    net = bp.Network(x, [bp.SimpleRNN(3, activation="relu")(h), bp.LSTM(2, bias=False)(h)], seed=2)
    back = there_and_back(tmp_path / "net.onnx", net, f32(5, 9, 3))
    assert sorted(p.tobytes() for p in back.params.values()) == sorted(p.tobytes() for p in net.params.values())
    net = bp.Network([bp.Input(3), bp.Dense(4, "tanh"), bp.Dense(1, "logistic")], dtype="float64")
    back = there_and_back(tmp_path / "net.onnx", net, f32(5, 3))
    assert back.dtype == "float64" and (back.theta == net.theta).all()


def test_units_of_the_data_are_kept(tmp_path):
    X = 1.6e9 + RNG.uniform(0, 100, (200, 2))
    net = bp.Network([bp.Input(2), bp.Standardize(), bp.Dense(4, "tanh"), bp.Dense(1)], seed=0)
    net.fit(X, 1e3 * (X[:, :1] - 1.6e9), standardize_y=True, epochs=2)
    back = there_and_back(tmp_path / "net.onnx", net, X)
    assert all((back.moments[name] == net.moments[name]).all() for name in back.moments)


def test_models_of_others(tmp_path):
    """Channels first, as PyTorch writes them; a Transformer's parts; Constant nodes, several outputs."""
    path = tmp_path / "net.onnx"
    cnn = model(
        [
            helper.make_node("Conv", ["x", "K", "k"], ["/c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("BatchNormalization", ["/c", "s", "b", "m", "v"], ["/b"], epsilon=1e-3),
            helper.make_node("Clip", ["/b", "low", "high"], ["/r"]),
            helper.make_node("MaxPool", ["/r"], ["/p"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Mul", ["/p", "channels"], ["/q"]),
            helper.make_node("GlobalAveragePool", ["/q"], ["/g"]),
            helper.make_node("Flatten", ["/g"], ["/f"]),
            helper.make_node("Flatten", ["/q"], ["/all"]),
            helper.make_node("Gemm", ["/all", "W", "w"], ["score"], transB=1),
            helper.make_node("Softmax", ["/f"], ["chance"]),
            helper.make_node("Softmax", ["/c"], ["by channel"], axis=1),
        ],
        {"x": ["n", 3, 9, 8]}, {"score": ["n", 5], "chance": ["n", 4], "by channel": ["n", 4, 5, 4]},
        K=f32(4, 3, 3, 3), k=f32(4), s=f32(4), b=f32(4), m=f32(4), v=f32(4) + 1, W=f32(5, 16), w=f32(5),
        low=np.float32(-1), high=np.float32(1), channels=f32(1, 4, 1, 1),
    )  # fmt: skip
    onnx.save(cnn, path)
    x, net = f32(6, 3, 9, 8), bp.from_onnx(path)
    for a, b in zip(net.predict(x), run(path, x), strict=True):
        close(a, b)
    assert list(net.inputs) == ["x"] and {"score", "chance"} <= set(net.outputs)

    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("MatMul", ["x", "W"], ["p"]), helper.make_node("Add", ["w", "p"], ["q"]),
        helper.make_node("Div", ["q", "root"], ["r"]), helper.make_node("Erf", ["r"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["f"]), helper.make_node("Mul", ["q", "f"], ["g"]),
        helper.make_node("Mul", ["g", "half"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["h", "t"], ["a"]),
        helper.make_node("Softmax", ["a"], ["s"]), helper.make_node("MatMul", ["s", "h"], ["o"]),
        helper.make_node("Sub", ["o", "h"], ["d"]), helper.make_node("Sub", ["one", "d"], ["u"]),
        helper.make_node("Gather", ["u", "index"], ["y"], axis=1),
        helper.make_node("ReduceMean", ["u"], ["mean"], axes=[1], keepdims=0),
    ]  # fmt: skip
    ends = {"y": ["n", 4], "mean": ["n", 4]}
    one, root, index = np.float32(1), np.float32(np.sqrt(2)), np.int64(-1)
    onnx.save(model(nodes, {"x": [1, 5, 3]}, ends, W=f32(3, 4), w=f32(4), root=root, one=one, index=index), path)
    x, net = f32(1, 5, 3), bp.from_onnx(path)
    for a, b in zip(net.predict(x), run(path, x), strict=True):
        close(a, b)
    assert sum(getattr(layer, "activation", "") == "gelu" for layer in net.layers) == 1


class Last(nn.Module):
    """A recurrent layer, and a Linear on its last step."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.end = kind(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.end(self.kind(x)[0][:, -1])


class View(nn.Module):
    """A convolution that is flattened by a shape that the model computes."""

    def __init__(self):
        super().__init__()
        self.first, self.end = nn.Conv1d(3, 4, 3), nn.Linear(16, 2)

    def forward(self, x):
        return self.end(torch.relu(self.first(x)).view(x.size(0), -1))


MODULES = [
    nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.GELU(), nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(1),
                  nn.Flatten(), nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.Dropout(), nn.SiLU(), nn.Softmax(1)),
    Last(nn.LSTM), Last(nn.GRU), Last(nn.RNN), View(),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # PyTorch has another exporter, which wants a package more
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_models_of_pytorch(tmp_path, module, fixed):
    x = torch.tensor(f32(4, 6, 3) if isinstance(module, Last) else f32(4, 3, 6))
    options = {} if fixed else {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(module.eval(), (x,), path, dynamo=False, input_names=["x"], output_names=["y"], **options)
    close(bp.from_onnx(path).predict(x.numpy()), module(x).detach().numpy())


RELU = helper.make_node("Relu", ["x"], ["y"])


def of(node, opset=17, shape=("n", 3), **constants):
    return model([node], {"x": list(shape)}, {node.output[0]: ["n", "k"]}, opset, **constants)


def external():
    proto = of(helper.make_node("Add", ["x", "b"], ["y"]), b=f32(3))
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return proto


def sized(dims):
    proto = of(helper.make_node("Add", ["x", "b"], ["y"]), b=f32(3))
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    return proto


def subgraph():
    inner = helper.make_graph([RELU], "inner", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return of(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner), c=np.array(True))


REFUSED = {
    "external data": (external, "in the file itself"),
    "a size that is not there": (lambda: sized([2**40, 2**20]), "expected 1,152,921,504,606,846,976 numbers .* got 3"),
    "a size below zero": (lambda: sized([-3]), "expected a shape"),
    "a subgraph": (subgraph, "no graphs within the graph, and If 'z' has one"),
    "another domain": (lambda: of(helper.make_node("Relu", ["x"], ["y"], domain="com.microsoft")), "com.microsoft"),
    "an old opset": (lambda: of(RELU, 12), "opset 13 to"),
    "NaN": (lambda: of(helper.make_node("Add", ["x", "b"], ["y"]), b=np.float32([1, np.nan, 2])), "finite"),
    "an operation": (lambda: of(helper.make_node("Sin", ["x"], ["y"])), "Sin 'y' is none: bpcore has no layer for it"),
    "a constant of computed shape": (
        lambda: of(helper.make_node("ConstantOfShape", ["s"], ["y"]), s=np.int64([2**31, 2**31])), "no constant of such"
    ),
    "an attribute": (lambda: of(helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.2)), "alpha=0.01, got 0.2"),
    "unknown sizes": (lambda: of(RELU, shape=("n", "m")), "known sizes behind the batch"),
    "no batch": (lambda: of(RELU, shape=()), "known sizes behind the batch"),
    "weights": (lambda: of(helper.make_node("Gemm", ["x", "W"], ["y"]), W=f32(4, 2)), "do not fit an input"),
    "a shape": (lambda: of(helper.make_node("Reshape", ["x", "s"], ["y"]), s=np.int64([0, 7])), "expected 7 numbers"),
    "the batch": (lambda: of(helper.make_node("Reshape", ["x", "s"], ["y"]), s=np.int64([6])), "the first axis"),
    "nothing computed": (lambda: of(helper.make_node("Add", ["b", "b"], ["y"]), b=f32(3)), "Add 'y'"),
    "float16": (lambda: of(helper.make_node("Add", ["x", "b"], ["y"]), b=np.float16([1])), "got type 10"),
    "a huge window": (
        lambda: of(helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2**40]), shape=("n", 2, 5)), "does not fit"
    ),
    "no model": (lambda: b"not a model, and long enough to be read as one", "is not an ONNX model"),
    "nothing": (lambda: b"", "expected opset"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_refuses(tmp_path, name):
    make, why = REFUSED[name]
    made = make()
    path = tmp_path / "net.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    with pytest.raises(ValueError, match="(?s)from_onnx: .*" + why):
        bp.from_onnx(path)


def test_damaged_files_are_refused_or_read(tmp_path):
    """Whatever byte is changed: a network or a ValueError."""
    path = tmp_path / "net.onnx"
    layers = [bp.Input((5, 4)), bp.Conv1D(3, 2, "relu"), bp.LSTM(3), bp.Dense(2)]
    bp.export_onnx(bp.Network(layers), path)
    data, read = path.read_bytes(), 0
    for at in RNG.integers(0, len(data), 120):
        path.write_bytes(data[:at] + struct.pack("B", RNG.integers(256)) + data[at + 1 :])
        try:
            read += bool(bp.from_onnx(path))
        except ValueError as error:
            assert str(error).startswith("from_onnx: ")
    for at in RNG.integers(0, len(data), 20):
        path.write_bytes(data[:at])
        with pytest.raises(ValueError, match="from_onnx: "):
            bp.from_onnx(path)
    assert read


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        bp.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(IsADirectoryError):
        bp.from_onnx(tmp_path)
    with pytest.raises(TypeError, match="path"):
        bp.from_onnx(None)
