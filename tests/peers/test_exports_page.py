"""Every snippet of docs/exports.md runs, in order, in one namespace."""

import os
import re
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras and torch
def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/exports.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, "docs/exports.md", "exec"), names)  # they assert for themselves
    assert "session" in names
