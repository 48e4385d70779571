"""Files as streams: Parquet, CSV and Arrow through pyarrow."""

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

import bpcore as bp

RNG = np.random.default_rng(0)
N = 500
COLUMNS = {"a": RNG.standard_normal(N), "b": RNG.integers(-5, 5, N), "c": RNG.random(N) > 0.5,
           "w": RNG.uniform(0.5, 2, N), "y": RNG.integers(0, 3, N), "word": np.array(["x"] * N)}  # fmt: skip
X = np.stack([COLUMNS["a"], COLUMNS["b"], COLUMNS["c"]], axis=1)
PAGE = Path(__file__).parent.parent.parent / "docs/streams.md"


def write(folder, kind, columns=COLUMNS, parts=2):
    """Files of these columns."""
    table = pa.table(columns)
    for k in range(parts):
        part = table.slice(k * N // parts, N // parts)
        path = str(folder / f"part_{k}.{kind}")
        if kind == "parquet":
            pyarrow.parquet.write_table(part, path, row_group_size=50)
        elif kind == "csv":
            pyarrow.csv.write_csv(part, path)
        else:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, part.schema) as writer:
                writer.write_table(part, max_chunksize=50)
    return folder


def make(n=3):
    return bp.Network([bp.Input(n), bp.Dense(5, "tanh"), bp.Dense(3, "softmax")], dtype="float64", seed=1)


@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow"])
def test_files_are_trained_as_one_array(kind, tmp_path):
    stream = bp.data.files(write(tmp_path, kind), target="y", weight="w", columns=["a", "b", "c"], block_rows=50)
    one, other = make(), make()
    one.fit(X, COLUMNS["y"], sample_weight=COLUMNS["w"], shuffle=False, batch_size=16, epochs=2)
    other.fit(stream, shuffle=False, batch_size=16, epochs=2)
    assert np.array_equal(one.theta, other.theta) and other.feature_names == {"input": ("a", "b", "c")}
    assert np.array_equal(np.concatenate(list(other.predict(stream))), one.predict(X))
    want = one.evaluate(X, COLUMNS["y"], sample_weight=COLUMNS["w"])
    assert other.evaluate(stream) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow"])
def test_the_order_of_blocks_and_rows_comes_from_the_seed(kind, tmp_path):
    number = {"x": np.arange(float(N)), "y": np.arange(float(N))}
    stream = bp.data.files(str(write(tmp_path, kind, number) / f"*.{kind}"), target="y", block_rows=50)
    seen = []
    loss = bp.Loss(lambda a, y: (seen.extend(y[:, 0].tolist()), ((a - y) ** 2).sum(1))[1], lambda a, y: 0 * a)
    for seed in (0, 0, 1):
        bp.Network([bp.Input(1), bp.Dense(1)], dtype="float64").fit(stream, loss=loss, epochs=2, seed=seed)
    a, b, again, _, other, _ = (seen[k : k + N] for k in range(0, 6 * N, N))
    assert sorted(a) == sorted(b) == list(range(N)) and a == again and a != b and a != other
    assert a[:50] != sorted(a[:50]) and max(a[:50]) - min(a[:50]) < 50
    firsts = {min(order[:50]) // 50 for order in (a, b, other)}
    assert kind == "csv" or len(firsts) > 1


def test_a_run_over_files_is_resumed_within_an_epoch(tmp_path):
    (tmp_path / "files").mkdir()
    stream = bp.data.files(write(tmp_path / "files", "parquet"), target="y", columns=["a", "b", "c"])
    whole, net = make(), make()
    whole.fit(stream, epochs=3, batch_size=16)
    make().fit(stream, epochs=3, batch_size=16, max_steps=50, callbacks=bp.Checkpoint(tmp_path / "run"))
    net.fit(stream, epochs=3, batch_size=16, resume=tmp_path / "run")
    assert np.array_equal(net.theta, whole.theta) and net.step == whole.step
    fewer = bp.data.files(sorted(map(str, (tmp_path / "files").iterdir()))[:-1], target="y", columns=["a", "b", "c"])
    with pytest.raises(ValueError, match="first block is of 2 files, .* there, and of 1 files, .* here"):
        net.fit(fewer, epochs=3, batch_size=16, resume=tmp_path / "run")


def test_columns_by_input(tmp_path):
    a, b = bp.Input(2, name="numbers"), bp.Input((1,), name="more")
    net = bp.Network([a, b], bp.Dense(3, "softmax")(bp.concat([a, b])), seed=1)
    columns = {"numbers": ["c", "a"], "more": ["b"]}
    net.fit(bp.data.files(write(tmp_path, "parquet"), target="y", columns=columns))
    assert net.feature_names == {"numbers": ("c", "a"), "more": ("b",)}


@pytest.mark.parametrize("settings, kind, words", [
    ({"target": "Y"}, ValueError, "target: there is no column 'Y' in .*part_0.*'. Did you mean 'y'.? Its columns: a"),
    ({"target": "y", "weight": "v"}, ValueError, "weight: there is no column 'v'"),
    ({"target": "y", "columns": ["a", "z"]}, ValueError, "columns: there is no column 'z'"),
    ({"target": "y"}, TypeError, "columns: expected numbers, and 'word' in .* is string; leave it out"),
    ({"columns": ["a", "b", "c"]}, ValueError, "target: expected bp.data.files.paths, target=...."),
])  # fmt: skip
def test_columns_that_are_not_there_or_no_numbers(settings, kind, words, tmp_path):
    net = make()
    with pytest.raises(kind, match=words):
        net.fit(bp.data.files(write(tmp_path, "parquet"), **settings))
    assert net.step == 0


@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow"])
def test_gaps_and_files_that_are_cut_off(kind, tmp_path):
    gaps = {"a": pa.array([None if k == 400 else 1.0 for k in range(N)]), "y": COLUMNS["y"]}
    net = make(1)
    with pytest.raises(ValueError, match=f"columns: expected no gaps, and 'a' in .*part_1.{kind}' has 1"):
        net.fit(bp.data.files(write(tmp_path, kind, gaps), target="y"), shuffle=False)
    if kind != "csv":  # which ends anywhere
        path = tmp_path / f"part_1.{kind}"
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match=f"paths: '.*part_1.{kind}' cannot be read: "):
            net.fit(bp.data.files(tmp_path, target="y"))


def test_files_of_two_kinds(tmp_path):
    write(write(tmp_path, "csv"), "parquet")
    with pytest.raises(ValueError, match="paths: expected files of one kind, got csv, parquet"):
        bp.data.files(tmp_path, target="y")
    shutil.copy(tmp_path / "part_0.csv", tmp_path / "part.txt")
    with pytest.raises(ValueError, match="paths: expected files of .parquet, .* got '.*part.txt'"):
        bp.data.files(tmp_path / "part.txt", target="y")


def test_every_snippet_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, str(PAGE), "exec"), names)


def test_lengths_that_buffers_do_not_have_are_refused(tmp_path, capsys):
    """pyarrow takes those of an Arrow file as they stand."""
    from bpcore_cli import main

    path, rows = tmp_path / "a.arrow", 12_345
    table = pa.table({"a": np.zeros(rows), "y": np.ones(rows)})
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    crafted = path.read_bytes().replace(rows.to_bytes(8, "little"), (13_000).to_bytes(8, "little"))
    path.write_bytes(crafted)
    with pytest.raises(ValueError, match="cannot be read"):
        bp.Network([bp.Input(1), bp.Dense(1)]).fit(bp.data.files(str(path), target="y"))
    bp.Network([bp.Input(2), bp.Dense(1)]).save(tmp_path / "net")
    assert main(["predict", str(tmp_path / "net"), str(path)]) == 2
    assert "expected an Arrow file that is whole" in capsys.readouterr().err
