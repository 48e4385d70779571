"""`bpcore predict` reads Parquet and Arrow, in blocks, and names a column of words."""

import csv
import io

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

import bpcore as bp
from bpcore_cli import _files, main

X = np.random.default_rng(0).normal(size=(25, 2))
TABLE = pyarrow.table({"word": [f"w{k}" for k in range(25)], "b": X[:, 1], "a": X[:, 0]})


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_go_by_name(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(_files, "ROWS", 10)
    data, model = str(tmp_path / "data"), str(tmp_path / "model")
    if kind == "parquet":
        pyarrow.parquet.write_table(TABLE, data, row_group_size=7)
    else:
        pyarrow.feather.write_feather(TABLE, data, compression="uncompressed", chunksize=15)
    net = bp.Network([bp.Input(2), bp.Dense(1)], seed=0)
    net.fit(TABLE.select(["a", "b"]).to_pandas(), X[:, 0])
    net.save(model)
    assert main(["predict", model, data, "--id", "word"]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["word"] for row in found] == [f"w{k}" for k in range(25)]
    assert [float(row["prediction"]) for row in found] == net.predict(X)[:, 0].tolist()
    assert main(["evaluate", model, data, "--target", "word"]) == 2
    assert "column 'word': expected numbers, got string" in capsys.readouterr().err
