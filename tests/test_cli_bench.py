"""`bpcore bench`: a table of who trains and answers how fast, without those that compute something else."""

import json

from bpcore_cli import _contestants, bench, main


def test_a_library_that_computes_something_else_is_left_out():
    results = {
        "bpcore": [(9.0, 1.0), (7.0, 1.0)],
        "a": [(5.0, 1.0), (3.0, 1.0)],
        "b": [(50.0, 1.1)],
        "c": [(0.0, None)],
    }
    assert bench._per_second(results) == {"bpcore": 8.0, "a": 4.0}


def test_a_table_and_json(capsys, monkeypatch):
    monkeypatch.setattr(bench, "CONTESTANTS", {name: _contestants.CONTESTANTS[name] for name in ("bpcore", "NumPy")})
    monkeypatch.setattr(bench, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(bench, "_MEASURES", (bench.Measure(True, (4, 8, 3), 16), bench.Measure(False, (4, 8, 3), 1)))
    assert main(["bench", "--budget", "0.01s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "NumPy" in lines[0] and "-" not in lines[1].split()[-3:]
    assert main(["bench", "--budget", "0.01s", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all(row["per_second"]["bpcore"] > 0 and row["per_second"]["NumPy"] > 0 for row in rows)


class Here:
    """An executor that is this process."""

    def __init__(self, *_, **__): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def submit(self, function, *arguments):
        value = function(*arguments)
        return type("Done", (), {"result": lambda self: value})()
