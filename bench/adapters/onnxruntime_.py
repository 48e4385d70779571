"""ONNX Runtime, which predicts only: Gemm, the activation and Softmax or Sigmoid."""

from __future__ import annotations

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from adapters import Prediction, Spec, weights

VARIANTS = ("",)
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh"}
OPSET = 17
_threads = 1


def load(threads: int, variant: str) -> dict[str, str]:
    global _threads
    _threads = threads
    return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}


def graph(spec: Spec, theta: NDArray) -> onnx.ModelProto:
    last = "Sigmoid" if spec.sizes[-1] == 1 else "Softmax"
    activations = [ACTIVATIONS[spec.activation]] * (len(spec.sizes) - 2) + [last]
    nodes, arrays = [], []
    for i, ((W, b), activation) in enumerate(zip(weights(theta, spec.sizes), activations, strict=True)):
        arrays += [numpy_helper.from_array(W, f"W{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [f"a{i}", f"W{i}", f"b{i}"], [f"z{i}"]))
        nodes.append(helper.make_node(activation, [f"z{i}"], [f"a{i + 1}"]))
    kind = helper.np_dtype_to_tensor_dtype(theta.dtype)
    x = helper.make_tensor_value_info("a0", kind, ["n", spec.sizes[0]])
    answer = helper.make_tensor_value_info(f"a{len(activations)}", kind, ["n", spec.sizes[-1]])
    opset = helper.make_opsetid("", OPSET)
    made = helper.make_graph(nodes, "dense", [x], [answer], arrays)
    return helper.make_model(made, opset_imports=[opset], ir_version=8)


class Predict(Prediction):
    def __init__(self, spec: Spec, theta: NDArray, X: NDArray) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads
        options.inter_op_num_threads = 1
        model = graph(spec, theta).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.answer = lambda x: session.run(None, {"a0": x})[0]
        self.x = X
