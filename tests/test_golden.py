"""Files of each format, written when it was new: they are read for ever. golden/make.py made them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import bpcore as bp
from bpcore import _io, _layers

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(path.stem for path in GOLDEN.glob("*.safetensors"))
PAGE = Path(__file__).parent.parent / "docs/files.md"


def read(name):
    return (bp.Ensemble.load if "ensemble" in name else bp.load)(GOLDEN / f"{name}.safetensors")


def test_there_are_files_of_every_format():
    kinds = ["format1_dense", "format1_graph", "format2_ensemble", "format2_run", "format2_units"]
    assert set(FILES) >= set(kinds) and {name[6] for name in FILES} == set(_io.FORMATS)


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_answers_as_it_did(name):
    """Of float32 to 2e-6, of float64 to 1e-14 of the largest: sums have another order where multiply and add are not
    fused."""
    net, expected = read(name), np.load(GOLDEN / f"{name}.npz")
    X = [expected[f"x{i}"] for i in range(len(expected)) if f"x{i}" in expected]
    answers = net.predict(X if len(X) > 1 else X[0])
    for i, answer in enumerate(answers if isinstance(answers, tuple) else (answers,)):
        want = expected[f"y{i}"]
        assert answer.dtype == want.dtype and answer.shape == want.shape
        assert np.abs(answer - want).max() <= (2e-6 if want.dtype == "float32" else 1e-14) * np.abs(want).max()


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_is_written_again_as_it_was(name, tmp_path):
    """Metadata by what they say, tensors to the bit, in the format that it had, but what is a run's alone."""
    read(name).save(tmp_path / "again")
    old, new = GOLDEN / f"{name}.safetensors", tmp_path / "again"
    before, after = load_file(old), load_file(new)
    assert before.keys() == after.keys()
    for tensor in before:
        assert before[tensor].dtype == after[tensor].dtype and before[tensor].tobytes() == after[tensor].tobytes()
    said = []
    for path in (old, new):
        with safe_open(path, "numpy") as file:
            said.append({key: value if key == "checksum" else json.loads(value)
                         for key, value in file.metadata().items()})  # fmt: skip
    for key in ("run", "checksum") if "run" in name else ():
        del said[0][key]
    if "run" in name:
        assert (said[0].pop("bpcore_format"), said[1].pop("bpcore_format")) == (2, 1)
    if name.startswith("format1"):
        for each in said:  # a default that older versions wrote
            each["training"]["optimizer"] = {"nesterov": False, **each["training"]["optimizer"]}
    assert said[0] == said[1]


def test_a_golden_file_of_a_run_is_whole_and_refused_by_what_differs():
    net = bp.Network([bp.Input(2), bp.Dense(3, "relu"), bp.Dense(1)], dtype="float32", seed=6)
    X, y = np.zeros((16, 2), np.float32), np.zeros((16, 1))
    with pytest.raises(ValueError, match="X has other numbers"):
        net.fit(X, y, optimizer=bp.Adam(), epochs=4, batch_size=4, resume=GOLDEN / "format2_run.safetensors")


def test_the_page_runs(tmp_path, monkeypatch):
    """Its reader agrees with bp.load, also on the golden file of format 1."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, "docs/files.md", "exec"), names)
    expected = np.load(GOLDEN / "format1_dense.npz")
    answer = names["predict"](GOLDEN / "format1_dense.safetensors", expected["x0"])
    assert np.allclose(answer, expected["y0"], rtol=1e-5)


def test_the_page_names_all_that_a_file_may_hold():
    text = PAGE.read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    assert set(_layers.KINDS) <= words
    assert set(_io._LATER_SETTINGS) <= words
    keys = {"dtype", "nodes", "outputs", "frozen", "checkpoint", "feature_names", "moments", "begun", "weights"}
    assert keys <= words
    kinds = [bp.SGD(momentum=0.9), bp.Adam(amsgrad=True, ema=0.9), bp.Adamax(), bp.RMSprop(momentum=0.9, centered=True),
             bp.Adagrad(), bp.Adadelta(), bp.Lion(), bp.Rprop(), bp.ScheduleFree(bp.AdamW())]  # fmt: skip
    assert {state for each in kinds for state in each.states} <= words
    assert all(type(each).__name__ in words for each in kinds)
    assert "LevenbergMarquardt" in words
