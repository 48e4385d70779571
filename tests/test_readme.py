"""Every Python snippet of the README runs, in order, in one namespace."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_every_snippet_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 4
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), names)  # the snippets assert for themselves
    printed = capsys.readouterr().out
    accuracy = float(re.search(r"'accuracy': ([0-9.]+)", printed).group(1))
    assert accuracy >= 0.96


def test_the_readme_names_what_exists():
    text = README.read_text(encoding="utf-8")
    root = README.parent
    for path in re.findall(r"\| `((?:bpcore|csrc|tests|bench|docs)/[\w./-]*)` \|", text):
        assert (root / path).exists(), path
    assert "MEASURED" not in text
