"""`bpcore export` in formats of other libraries."""

import numpy as np
import onnxruntime
import torch

import bpcore as bp
from bpcore_cli import main

X = np.random.default_rng(0).normal(size=(5, 3)).astype("f4")


def test_onnx_and_torch_answer_as_the_network(tmp_path, capsys):
    net = bp.Network([bp.Input(3, name="x"), bp.Dense(4, "tanh"), bp.Dense(2, "softmax")], seed=0)
    model = str(tmp_path / "net.safetensors")
    net.save(model)
    for to in ("onnx", "torch"):
        out = str(tmp_path / to)
        assert main(["export", model, "--to", to, "--out", out]) == 0
        assert capsys.readouterr().out == f"saved {out}\n"
    (found,) = onnxruntime.InferenceSession(tmp_path / "onnx").run(None, {"x": X})
    np.testing.assert_allclose(found, net.predict(X), atol=1e-6)
    module = torch.load(tmp_path / "torch", weights_only=False).eval()
    np.testing.assert_allclose(module(torch.tensor(X)).detach().numpy(), net.predict(X), atol=1e-6)


def test_what_a_format_cannot_hold_is_one_line(tmp_path, capsys):
    x = bp.Input(3)
    bp.Network(x, bp.Dense(3)(x) + x).save(tmp_path / "net.safetensors")
    assert main(["export", str(tmp_path / "net.safetensors"), "--to", "torch", "--out", str(tmp_path / "net.pt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "net.pt").exists()
