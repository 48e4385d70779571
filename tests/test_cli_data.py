"""`bpcore predict` and `evaluate`: the numbers of net.predict and net.evaluate, from files of any format, and wrong
input in one line."""

import csv
import gzip
import io
import json

import numpy as np
import pytest

import bpcore as bp
from bpcore_cli import _files, main

NAMES = ("age", "height", "weight")
N = 25
RNG = np.random.default_rng(0)
X = RNG.normal(0, 3, (N, 3))
LABELS = RNG.integers(0, 3, N)
PRICES = X @ [1.0, -2.0, 3.0] + 5


class Frame:
    """Numbers with names of columns."""

    columns = NAMES

    def __array__(self, dtype=None, copy=None):
        return X

    def __len__(self):
        return N


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of three networks by what they answer with, and the networks."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for name, last, y in [
        ("classes", bp.Dense(3, "softmax"), LABELS),
        ("binary", bp.Dense(1, "logistic"), LABELS > 0),
        ("price", bp.Dense(1), PRICES),
    ]:
        net = bp.Network([bp.Input(3), bp.Standardize(), bp.Dense(4, "tanh"), last], seed=1)
        net.fit(Frame(), y, epochs=3, optimizer=bp.Adam(lr=0.1))
        net.save(folder / name)
        made[name] = (str(folder / name), net)
    return made


def csv_file(path, names=("weight", "id", "age", "y", "height"), header=True, delimiter=",", y=LABELS):
    """Columns in another order than the network's, an id and a target among them."""
    columns = {"age": X[:, 0], "height": X[:, 1], "weight": X[:, 2], "id": [f"a,{k}" for k in range(N)], "y": y}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        if header:
            writer.writerow(names)
        writer.writerows(zip(*(columns[name] for name in names), strict=True))
    return str(path)


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def refused(capsys, *arguments):
    """The one line that a wrong use is answered with."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err.partition("error: ")[2].strip()


@pytest.mark.parametrize("block", [7, 8192])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_go_by_name(models, tmp_path, capsys, monkeypatch, delimiter, block):
    monkeypatch.setattr(_files, "ROWS", block)
    path, net = models["classes"]
    data = csv_file(tmp_path / "d.csv", delimiter=delimiter)
    assert main(["predict", path, data, "--id", "id", "--proba"]) == 0
    found, expected = rows(capsys.readouterr().out), net.predict(X)
    assert [row["id"] for row in found] == [f"a,{k}" for k in range(N)]
    assert [int(row["prediction"]) for row in found] == expected.argmax(axis=1).tolist()
    probabilities = np.array([[float(row[f"probability_{k}"]) for k in range(3)] for row in found], np.float32)
    assert (probabilities == expected).all()


def test_every_format_gives_the_same(models, tmp_path, capsys, monkeypatch):
    path, net = models["price"]
    plain = csv_file(tmp_path / "a.csv", NAMES, header=False)
    named = csv_file(tmp_path / "b.csv", NAMES)
    (tmp_path / "c.gz").write_bytes(gzip.compress((tmp_path / "b.csv").read_bytes()))
    np.save(tmp_path / "d.npy", X)
    np.savez(tmp_path / "e.npz", X=X, y=PRICES)
    np.save(tmp_path / "f.npy", np.asfortranarray(X.astype(">f8")))
    monkeypatch.setattr(_files, "ROWS", 10)
    expected = net.predict(X)[:, 0].tolist()
    for data in (plain, named, "c.gz", "d.npy", "e.npz", "f.npy"):
        more = ["--id", "y"] if data == "e.npz" else []
        assert main(["predict", path, str(tmp_path / data), "--json", *more]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["prediction"] for row in found] == expected


def test_standard_input(models, tmp_path, capsys, monkeypatch):
    path, net = models["binary"]
    csv_file(tmp_path / "d.csv")
    with open(tmp_path / "d.csv") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["predict", path, "-", "--proba"]) == 0
    found, expected = rows(capsys.readouterr().out), net.predict(X)[:, 0]
    assert [float(row["probability_1"]) for row in found] == expected.tolist()
    assert [row["prediction"] for row in found] == [str(int(p > 0.5)) for p in expected]


@pytest.mark.parametrize(("kind", "y"), [("classes", LABELS), ("binary", (LABELS > 0).astype(int)), ("price", PRICES)])
def test_evaluate_says_what_the_network_says(models, tmp_path, capsys, monkeypatch, kind, y):
    monkeypatch.setattr(_files, "ROWS", 9)
    path, net = models[kind]
    data = csv_file(tmp_path / "d.csv", y=y)
    assert main(["evaluate", path, data, "--target", "y", "--id", "id", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    metrics = ["rmse", "mae", "r2"] if kind == "price" else []
    assert found == pytest.approx({"rows": N, **net.evaluate(X, y, metrics=metrics)}, rel=1e-6)
    assert main(["evaluate", path, data, "--target", "y"]) == 0
    assert "rows" in capsys.readouterr().out


def test_out_is_whole_or_as_it_was(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_files, "ROWS", 10)
    path, _ = models["price"]
    data, out = csv_file(tmp_path / "d.csv"), tmp_path / "out.csv"
    assert main(["predict", path, data, "--out", str(out)]) == 0
    before = out.read_bytes()
    assert len(before.splitlines()) == N + 1 and capsys.readouterr().out == ""
    with open(data, "a") as file:
        file.write("1,x,2,0,many\n")
    said = refused(capsys, "predict", path, data, "--out", str(out))
    assert f"row {N + 1}, column 'height': expected a finite number, got 'many'" in said
    csv_file(data)
    with open(data, "a") as file:
        file.write("1,x,inf,0,2\n")
    assert f"row {N + 1}, column 'age': expected a finite number, got inf" in refused(
        capsys, "predict", path, data, "--out", str(out)
    )
    assert out.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["d.csv", "out.csv"]


def test_wrong_input_is_one_line(models, tmp_path, capsys):
    path, _ = models["classes"]
    data = csv_file(tmp_path / "d.csv")

    def written(text):
        (tmp_path / "w.csv").write_bytes(text)
        return str(tmp_path / "w.csv")

    def said(data, *more, command="predict", model=path):
        return refused(capsys, command, model, data, *more)

    assert "No such file" in said(str(tmp_path / "none.csv"))
    assert "it is a folder" in said(str(tmp_path))
    assert "it is empty" in said(written(b""))
    assert "there are none" in said(written(b"age,height,weight\n"))
    assert "row 2: expected 3 cells" in said(written(b"age,height,weight\n1,2,3\n1,2\n"))
    assert "row 1, column 'height': expected a finite number, got nan" in said(written(b"age,height,weight\n1,nan,3\n"))
    assert "row 1, column '1': expected a finite number, got ''" in said(written(b"1,,3\n4,5,6\n"))
    assert "several are called 'age'" in said(written(b"age,age,weight\n1,2,3\n"))
    assert "'height' is missing. Did you mean 'heigth'?" in said(written(b"age,heigth,weight\n1,2,3\n"))
    assert "expected 3 columns" in said(written(b"1,2\n3,4\n"))
    assert "expected CSV in UTF-8" in said(written(b"age,height,weight\n1,2,\xff\n"))
    assert "expected CSV in UTF-8" in said(written(gzip.compress(b"age,height,weight\n1,2,3\n" * 99)[:-20]))
    assert "float32 can hold" in said(written(b"age,height,weight\n1,2,1e39\n"))
    assert "has no column 'idd'. Did you mean 'id'?" in said(data, "--id", "idd")
    assert "answers with numbers" in said(data, "--proba", model=models["price"][0])
    assert "there is no folder" in said(data, "--out", str(tmp_path / "no" / "out.csv"))
    assert "is a folder" in said(data, "--out", str(tmp_path))
    assert "has no column 'z'" in said(data, "--target", "z", command="evaluate")
    bad = csv_file(tmp_path / "b.csv", y=LABELS + 1)
    assert "0 to 2, in column 'y', got 3" in said(bad, "--target", "y", command="evaluate")
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    assert "expected an NPY file of numbers" in said(str(tmp_path / "o.npy"))
    np.savez(tmp_path / "x.npz", features=X)
    assert "expected an array X in it" in said(str(tmp_path / "x.npz"))
    (tmp_path / "d.libsvm").write_text("1 1:2\n")
    assert "libsvm is not read" in said(str(tmp_path / "d.libsvm"))
    a, b = bp.Input(2), bp.Input(1)
    bp.Network([a, b], bp.Dense(1)(bp.concat([a, b]))).save(tmp_path / "two")
    assert "one input and one output" in said(data, model=str(tmp_path / "two"))
