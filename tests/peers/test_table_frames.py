"""bp.Table takes the frames of pandas, polars and pyarrow, and makes the same numbers of them."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import bpcore as bp

N = 120
RNG = np.random.default_rng(0)
COLUMNS = {
    "area": [None if k % 7 == 0 else float(x) for k, x in enumerate(RNG.normal(100, 20, N))],
    "floor": [None if k % 11 == 0 else int(x) for k, x in enumerate(RNG.integers(0, 60, N))],
    "big": [int(x) for x in RNG.integers(0, 4, N) + 2**60],
    "color": [None if k % 5 == 0 else ["red", "green", "blue"][k % 3] for k in range(N)],
    "zip": [f"z{k}" for k in RNG.integers(0, 20, N)],
    "garden": [None if k % 13 == 0 else bool(x) for k, x in enumerate(RNG.integers(0, 2, N))],
    "built": [None if k % 17 == 0 else datetime.date(2000, 1, 1) + datetime.timedelta(days=k * 40) for k in range(N)],
    "sold": [datetime.datetime(2026, 3, 1, 23, 30) + datetime.timedelta(hours=7 * k) for k in range(N)],
    "price": [float(x) for x in RNG.normal(size=N)],
}
UTC = datetime.UTC

MAKE = {
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "pandas, its own types": lambda: pd.DataFrame(COLUMNS).astype(
        {"floor": "Int32", "color": "category", "zip": "string", "garden": "boolean", "area": "Float64",
         "built": "datetime64[ns]"}
    ),
    "pandas, of pyarrow": lambda: pd.DataFrame(COLUMNS).convert_dtypes(dtype_backend="pyarrow"),
    "pandas, an index": lambda: pd.DataFrame(COLUMNS, index=list(range(N))[::-1]),
    "pandas, columns in another order": lambda: pd.DataFrame(COLUMNS)[list(COLUMNS)[::-1]],
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars, categories": lambda: pl.DataFrame(COLUMNS).with_columns(pl.col("color", "zip").cast(pl.Categorical)),
    "pyarrow": lambda: pa.table(COLUMNS),
    "pyarrow, dictionaries": lambda: pa.table(COLUMNS).set_column(
        3, "color", pa.array(COLUMNS["color"]).dictionary_encode()
    ),
    "pyarrow, chunks": lambda: pa.concat_tables([pa.table(COLUMNS)[:50], pa.table(COLUMNS)[50:]]),
    "times with a zone": lambda: pd.DataFrame(COLUMNS).assign(
        sold=lambda d: d.sold.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return bp.Table(COLUMNS, "price", kinds={"big": "category"})


@pytest.mark.parametrize("kind", MAKE)
def test_every_frame_is_the_same(kind, table):
    frame = MAKE[kind]()
    wanted, got = table.transform(COLUMNS), table.transform(frame)
    assert all((wanted[name] == got[name]).all() for name in wanted)
    learnt = bp.Table(frame, "price", kinds={"big": "category"})
    assert sorted(learnt.summary().splitlines()) == sorted(table.summary().splitlines())
    net = bp.Network.from_table(table, (4,), seed=0)
    net.fit(frame, epochs=1, validation_data=frame)
    twin = bp.Network.from_table(table, (4,), seed=0)
    twin.fit(COLUMNS, epochs=1)
    assert (net.theta == twin.theta).all()


def test_levels_beyond_the_whole_numbers_of_floats_stay_apart(table):
    rows = {name: column[:4] for name, column in COLUMNS.items()} | {"big": [2**60 + k for k in range(4)]}
    big = [name.startswith("big") for name in table.features]
    np.testing.assert_array_equal(table.transform(pd.DataFrame(rows))["numbers"][:, big], np.eye(4))


def test_rows_of_frames_answer_as_the_frame(table):
    net, frame = bp.Network.from_table(table, (4,), seed=0), pd.DataFrame(COLUMNS)
    answer, answers = net.predictor(), net.predict(frame)
    for row in range(20):
        series = frame.iloc[row]
        assert (answer(dict(series)) == answers[row]).all()  # of NumPy's numbers, NaT and Timestamps
        assert (answer({name: column[row] for name, column in COLUMNS.items()}) == answers[row]).all()


def test_two_columns_of_one_name_are_refused():
    frame = pd.DataFrame(np.ones((3, 2)), columns=["a", "a"])
    with pytest.raises(ValueError, match="frame: expected each column once, and 2 are called 'a'"):
        bp.Table(frame)
    with pytest.raises(TypeError, match="names of columns to be strings, got 0"):
        bp.Table(pd.DataFrame(np.ones((3, 2))))


def test_labels_come_back_from_a_frame(table):
    frame = pd.DataFrame(COLUMNS).dropna(subset="color")
    classes = bp.Table(frame, "color")
    net = bp.Network.from_table(classes, (4,), seed=0)
    net.fit(frame, epochs=1)
    assert set(net.predict_labels(frame)) <= {"red", "green", "blue"}
    assert (net.predict(frame).argmax(1) == [classes.classes.index(each) for each in net.predict_labels(frame)]).all()
