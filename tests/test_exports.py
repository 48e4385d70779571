"""Exports without the libraries that they need; with them, see tests/peers."""

import sys

import pytest

import bpcore as bp

NET = bp.Network([bp.Input(2), bp.Dense(1)])


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("onnx", "bpcore[onnx]", lambda path: bp.export_onnx(NET, path)),
        ("onnx", "bpcore[onnx]", lambda path: bp.from_onnx(path)),
        ("keras", "keras", lambda path: bp.to_keras(NET)),
        ("keras", "keras", lambda path: bp.from_keras(None)),
        ("sklearn", "bpcore[sklearn]", lambda path: bp.to_sklearn(NET)),
        ("sklearn", "bpcore[sklearn]", lambda path: bp.from_sklearn(None)),
        ("torch", "torch", lambda path: bp.to_torch(NET)),
        ("torch", "torch", lambda path: bp.from_torch(None, 2)),
    ],
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, module, extra, call):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "sklearn.neural_network", raising=False)
    with pytest.raises(ImportError) as error:
        call(tmp_path / "net")
    assert f"needs {module}: pip install '{extra}'" in str(error.value)
    assert not list(tmp_path.iterdir())
