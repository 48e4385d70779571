"""export_onnx against ONNX Runtime, on random graphs of the whole catalogue."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from random_graphs import BEND, OPERATIONS, PAIRS, VALUES, cases, pair

import bpcore as bp
from bpcore.exports.onnx_writer import TABLE

# of the largest output
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
KNOWN = tuple(name for name in OPERATIONS if name != "function")


def feed(net, X):
    """Rows by input, as the model declares them."""
    standard = {node.inputs[0] for node in net._model.graph.nodes if node.layer.op == "standardize"}
    dtypes = [np.int64 if net._model.graph.nodes[i].layer.integer else np.float64 if i in standard else net.dtype
              for i in net._model.graph.inputs]  # fmt: skip
    return {name: np.asarray(x, dtype) for name, x, dtype in zip(net.inputs, X, dtypes, strict=True)}


def answers(path, net, X):
    """What ONNX Runtime makes of the file, by output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        if net.dtype == np.float32 or not re.search(r"for (Conv|AveragePool|Erf|Gelu)\(", str(error)):
            raise
        return None  # it has no float64 kernel for these
    assert [i.name for i in session.get_inputs()] == list(net.inputs)
    assert [o.name for o in session.get_outputs()] == list(net.outputs)
    return session.run(list(net.outputs), feed(net, X))


def check(path, net, X, **options):
    bp.export_onnx(net, path, **options)
    got, want = answers(path, net, X), net.predict(X if len(X) > 1 else X[0])
    if got is None:
        return
    for a, b in zip(got, want if len(got) > 1 else [want], strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.abs(a - b).max() <= TOLERANCE[net.dtype.name] * max(np.abs(b).max(), 1e-3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx") / "net.onnx"


def test_every_layer_is_here():
    assert set(TABLE) == set(VALUES)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_graphs(path, dtype):
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    few = settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=checks)
    few(given(case=cases(operations=KNOWN, dtype=dtype, rows=(1, 40)))(lambda case: check(path, case.net, case.X)))()


@pytest.mark.parametrize("second", sorted({second for _, second in PAIRS} - {"function"}))
def test_every_pair(path, second):
    for k, first in enumerate(one for one, other in PAIRS if other == second and one != "function"):
        case, dtype = pair(first, second, k), ("float32", "float64")[k % 2]
        net = bp.Network._of(case.net._model.like(dtype))
        check(path, net, case.X, opset=(17, 18, 21, 22)[k % 4])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("f", bp.activations.NAMES)
def test_activations(path, dtype, f):
    X = np.linspace(-4, 4, 9 * 6).reshape(9, 3, 2)
    net = bp.Network([bp.Input((3, 2)), bp.Activate(f)], dtype=dtype)
    for opset in (17, 20):
        check(path, net, [X], opset=opset)
    if f != "softmax":
        layer = bp.SimpleRNN(4, activation=f, sequences=True, reverse=True)
        check(path, bp.Network([bp.Input((3, 2)), layer], dtype=dtype, seed=1), [X / 4])


def test_units_of_the_data_are_kept(path):
    """Time stamps keep their digits, and answers are in y's units."""
    rng = np.random.default_rng(0)
    X = 1.6e9 + rng.uniform(0, 100, (200, 2))
    y = 1e6 + 1e3 * (X[:, :1] - 1.6e9)
    net = bp.Network(
        [bp.Input(2, name="times"), bp.Standardize(), bp.Dense(8, "tanh"), bp.Dense(1, name="price")], seed=0
    )
    net.fit(X, y, standardize_y=True, epochs=5)
    check(path, net, [X])
    got = onnxruntime.InferenceSession(path).run(None, {"times": X})[0]
    assert np.abs(got - net.predict(X)).max() < 1  # of 1e6; rounded times are 128 apart


def test_an_output_that_others_read_is_in_the_networks_units_for_them(path):
    x = bp.Input(3)
    h = bp.Dense(2, name="h")(x)
    net = bp.Network(x, [h, bp.Dense(1, name="y")(h)], seed=0)
    X = np.random.default_rng(1).standard_normal((50, 3))
    net.fit(X, [1e3 * X[:, :2], X[:, 2:]], standardize_y=True, epochs=2)
    check(path, net, [X])


def test_attention_words_and_shared_layers(path):
    words, body = bp.Input(7, integer=True, name="words"), bp.Dense(8, "relu")
    h = bp.Embedding(11, 8, mask_zero=True)(words)
    h = body(body(h)) + bp.MultiHeadAttention(2, 4, causal=True)(h)
    net = bp.Network(words, [bp.Bidirectional(bp.LSTM(3))(h), bp.Dense(3, "softmax")(bp.GlobalMaxPool()(h))], seed=3)
    X = np.random.default_rng(2).integers(0, 11, (20, 7))
    X[0] = 0
    check(path, net, [X])
    initializers = onnx.load(path).graph.initializer
    assert sum(np.prod(i.dims, dtype=int) for i in initializers if "constant" not in i.name) == net.n_params


def test_convolutions_and_recurrent_layers_are_onnxs_own(path):
    layers = [bp.Conv1D(4, 3, "relu", padding="causal"), bp.MaxPool1D(2), bp.LSTM(5, sequences=True),
              bp.GRU(4, sequences=True, reverse=True), bp.SimpleRNN(3)]  # fmt: skip
    net = bp.Network([bp.Input((60, 2)), *layers], seed=0)
    check(path, net, [np.random.default_rng(0).standard_normal((5, 60, 2))])
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"Conv", "MaxPool", "LSTM", "GRU", "RNN"} <= kinds and "Scan" not in kinds


def test_an_output_may_be_an_input(path):
    x = bp.Input(2)
    check(path, bp.Network(x, [bp.Dense(2)(x), x]), [np.ones((4, 2))])
    net = bp.Network(x, [bp.Dense(2)(bp.Standardize()(x)), x])
    net.adapt(np.eye(2))
    with pytest.raises(ValueError, match="input is none: it is an input that Standardize reads in float64"):
        bp.export_onnx(net, path)


def test_columns_and_classes_of_a_table_are_named(path):
    frame = {"a": [1.0, 2.0, 3.0, 4.0], "w": ["x", "z", "x", "z"], "y": [True, False, True, False]}
    bp.export_onnx(bp.Network.from_table(bp.Table(frame, target="y"), hidden=(2,), seed=0), path)
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(properties["feature_names"]) == {"numbers": ["a", "w = x", "w = z"]}
    assert json.loads(properties["classes"]) == ["False", "True"]


def test_what_the_model_says_of_itself(path):
    net = bp.Network([bp.Input(2, name="columns"), bp.Dense(1, name="price")])
    net._model.feature_names = {"columns": ("age", "height")}
    bp.export_onnx(net, path, opset=18, dynamic_batch=False)
    model = onnx.load(path)
    assert (model.producer_name, model.producer_version) == ("bpcore", bp.__version__)
    assert [version.version for version in model.opset_import] == [18]
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["bpcore_version"] == bp.__version__
    assert json.loads(properties["feature_names"]) == {"columns": ["age", "height"]}
    dims = [
        d.dim_value for value in (*model.graph.input, *model.graph.output) for d in value.type.tensor_type.shape.dim
    ]
    assert dims == [1, 2, 1, 1]
    bp.export_onnx(net, path)
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param == "batch"


def test_nothing_is_written_for_what_onnx_cannot_hold(tmp_path):
    path, x = tmp_path / "net.onnx", bp.Input(2)
    path.write_text("old")
    swish = bp.Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2, name="swish")
    ends = {"bend": BEND(bp.Dense(2)(x)), "swish": bp.Dense(2, swish)(x)}
    for name, end in ends.items():
        with pytest.raises(ValueError, match=f"{name}.* is a function of your own"):
            bp.export_onnx(bp.Network(x, end), path)
    net = bp.Network([bp.Input(2), bp.Standardize(), bp.Dense(1)])
    with pytest.raises(ValueError, match="adapt"):
        bp.export_onnx(net, path)
    net.adapt(np.eye(2))
    for error, options in (
        (ValueError, {"opset": 16}),
        (TypeError, {"opset": "17"}),
        (TypeError, {"dynamic_batch": 2}),
    ):
        with pytest.raises(error, match=next(iter(options))):
            bp.export_onnx(net, path, **options)
    with pytest.raises(TypeError, match="expected a bp.Network, got Ensemble; export each"):
        bp.export_onnx(bp.Ensemble([net, net.copy()]), path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError):
        bp.export_onnx(net, tmp_path / "none" / "net.onnx")
