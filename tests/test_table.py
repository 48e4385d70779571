"""bp.Table: how the columns of a frame become numbers, and networks of one; tests/peers has the data frames."""

import copy
import datetime
import json
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from fitting import state_of as everything

import bpcore as bp
from bpcore import _table

PAGE = Path(__file__).parent.parent / "docs/tables.md"
N = 300


def frame(n=N, seed=0):
    """Columns of all kinds, with gaps, and two targets."""
    rng = np.random.default_rng(seed)
    columns = {
        "area": rng.normal(100, 20, n),
        "age": np.where(rng.random(n) < 0.1, np.nan, rng.exponential(20, n)),
        "floor": rng.integers(0, 40, n),
        "color": [[None, "red", "green", "blue"][k] for k in rng.integers(0, 4, n)],
        "zip": [f"z{k}" for k in rng.integers(0, 30, n)],
        "garden": rng.random(n) < 0.5,
        "rooms": rng.integers(1, 6, n),
        "sold": np.datetime64("2019-12-30T23:30", "us") + rng.integers(0, 10**6, n).astype("m8[m]"),
    }
    columns["price"] = 1e5 + 1e3 * columns["area"] + 2e4 * columns["garden"] + 5e3 * columns["rooms"]
    columns["class"] = np.where(columns["garden"], "with", "without")
    return columns


def row_of(columns, i, names):
    """Python's own values of a row."""
    row = {name: columns[name][i] for name in names}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


FRAME = frame()


def net_of(**settings):
    table = bp.Table(FRAME, "price", kinds={"class": "skip"})
    return bp.Network.from_table(table, (8,), seed=0, **settings)


# ---- what columns become ----


def test_numbers_are_centred_scaled_and_clipped_smoothly():
    x = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    z = (x - 2) / 2  # median 2, quartiles 1 and 3
    table = bp.Table({"x": x})
    np.testing.assert_allclose(table.transform({"x": x})["numbers"][:, 0], z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-15)
    far = table.transform({"x": [1e300, -1e300, 1e200]})["numbers"][:, 0]
    np.testing.assert_allclose(far, [3, -3, 3])


def test_equal_quartiles_take_the_range():
    table = bp.Table({"x": [0.0, 0.0, 0.0, 0.0, 8.0], "y": [7.0] * 5})
    x, y = table.transform({"x": [4.0], "y": [7.0]})["numbers"][0]
    assert x == pytest.approx(1 / np.sqrt(1 + 1 / 9)) and y == 0


def test_other_scalings():
    x = np.random.default_rng(0).exponential(1, 5000)
    one = {method: bp.Table({"x": x}, numbers=method).transform({"x": x})["numbers"][:, 0] for method in
           ("standard", "quantile", "none")}  # fmt: skip
    np.testing.assert_allclose(one["standard"], (x - x.mean()) / x.std(), rtol=1e-12)
    assert (one["none"] == x).all()
    normal = one["quantile"]
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.02 and abs(np.median(normal)) < 0.01
    assert (np.diff(normal[np.argsort(x)]) >= 0).all()
    tied = bp.Table({"x": [1.0] * 90 + [2.0] * 10}, numbers="quantile").transform({"x": [0.0, 1.0, 1.5, 2.0, 9.0]})
    assert np.unique(tied["numbers"]).size == 3  # outside it is as at the ends


def test_gaps_are_the_median_and_said():
    table = bp.Table({"x": [1.0, 3.0, np.nan, 5.0], "y": [1.0, 2.0, 3.0, 4.0]})
    assert table.features == ("x", "x is missing", "y")
    numbers = table.transform({"x": [None, 3.0], "y": [np.nan, 2.5]})["numbers"]
    np.testing.assert_array_equal(numbers, [[0, 1, 0], [0, 0, 0]])


def test_few_levels_are_one_hot_and_others_zeros():
    table = bp.Table({"color": ["red", "blue", None, "blue"]})
    assert table.features == ("color = blue", "color = red", "color is missing")
    numbers = table.transform({"color": ["blue", "red", None, "pink"]})["numbers"]
    np.testing.assert_array_equal(numbers, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_rare_levels_are_folded():
    table = bp.Table({"color": ["red", "red", "blue", "pink"]}, min_count=2)
    assert table.features == ("color = red", "color is another") and b"pink" not in table.stored.tobytes()
    np.testing.assert_array_equal(table.transform({"color": ["pink", "new"]})["numbers"], [[0, 1], [0, 1]])


def test_many_levels_are_codes_of_one_embedding():
    table = bp.Table({"a": list("abc"), "b": [10, 20, 30]}, kinds={"b": "category"}, one_hot=2)
    assert bp.Table({"a": list("abc")}, one_hot=3).embedded == ()
    assert table.embedded == ("a", "b") and table.features == () and table.n_codes == 10
    codes = table.transform({"a": ["a", "c", None, "?"], "b": [30, 10, 99, None]})["codes"]
    np.testing.assert_array_equal(codes, [[2, 9], [4, 7], [1, 5], [0, 6]])
    net = bp.Network.from_table(table, (4,), output=bp.Dense(1))
    assert net.inputs == {"codes": (2,)} and net.params["levels.E"].shape == (10, 8)
    assert not net.params["levels.E"][[0, 1, 5, 6]].any()  # what training never sees is neutral


@pytest.mark.parametrize(
    "moment", ["2000-02-29", "1969-12-31T23:59:59.5", "2024-12-31T12:00", "1900-03-01", "0400-01-01"]
)
def test_parts_of_dates_are_those_of_the_calendar(moment):
    us, date = np.datetime64(moment, "us"), datetime.datetime.fromisoformat(moment)
    parts = ("days", "year", "month", "day", "weekday", "hour")
    table = bp.Table({"t": np.array([us])}, dates=parts, numbers="none")
    days, year, *pairs = table.transform({"t": np.array([us])})["numbers"][0]
    assert year == date.year and days == pytest.approx(us.astype(int) / 86_400e6)
    wanted = [(date.month - 1, 12), (date.day - 1, 31), (date.weekday(), 7), (date.hour, 24)]
    angles = np.ravel([(np.sin(2 * np.pi * k / n), np.cos(2 * np.pi * k / n)) for k, n in wanted])
    np.testing.assert_allclose(pairs, angles, atol=1e-15)


def test_dates_come_as_text_with_zones_and_with_gaps():
    moments = np.array(["2026-01-31T12:00", "NaT"], "M8[us]")
    table = bp.Table({"t": moments}, dates=["days", "hour"])
    assert table.features == ("t.days", "t.days is missing", "sin t.hour", "cos t.hour")
    plain = table.transform({"t": moments})["numbers"]
    zoned = table.transform({"t": ["2026-01-31T13:00+01:00", None]})["numbers"]
    np.testing.assert_array_equal(plain, zoned)
    np.testing.assert_array_equal(plain[1], [0, 1, 0, 0])


def test_kinds_are_found():
    table = bp.Table(FRAME, "price")
    text = table.summary()
    for words in (
        "area    a number: robust", "age     a number: robust and where it is missing", "floor   a number: robust",
        "color   a category of 3 strings: one-hot", "zip     a category of 30 strings: an Embedding",
        "garden  a category of 2 booleans", "rooms   a category of 5 integers", "sold    a date: days, month, weekday",
        "price   the target, a number",
    ):  # fmt: skip
        assert words in text, text
    assert repr(table) == "<Table of 9 columns, target 'price'>"
    assert bp.Table({"x": [1, 2, 3]}).features == ("x",)  # few rows say little of how many values there are
    assert bp.Table({"x": [1, 2, 3]}, kinds={"x": "category"}).features == ("x = 1", "x = 2", "x = 3")


# ---- networks ----


def test_a_network_of_a_table_learns_numbers_in_their_own_units():
    net = net_of()
    history = net.fit(FRAME, epochs=60, optimizer=bp.Adam(lr=0.01), validation_split=0.2)
    assert history.loss[0] > 0.1 and history.loss[-1] < 0.01  # of standardised targets
    scores = net.evaluate(frame(seed=1), metrics=["r2", "mae"])
    assert scores["r2"] > 0.95 and 100 < scores["mae"] < 6000
    assert net.table.target == "price" and net.table.classes is None
    twin = net_of()
    twin.fit(FRAME, FRAME["price"], epochs=1)
    other = net_of()
    other.fit(FRAME, epochs=1)
    assert (twin.theta == other.theta).all()


@pytest.mark.parametrize("levels", [("no", "yes"), (3, 7), (False, True), (0.5, 1.5)])
def test_classes_of_any_type_come_back(levels):
    x = np.random.default_rng(0).normal(size=200)
    table_frame = {"x": x, "y": [levels[int(k > 0)] for k in x]}
    table = bp.Table(table_frame, "y", kinds={"y": "category"})
    net = bp.Network.from_table(table, (8,), seed=0)
    assert table.classes == levels and net.outputs == {"dense_2": (2,)}
    net.fit(table_frame, epochs=20, optimizer=bp.Adam(lr=0.01), class_weight="balanced")
    labels = net.predict_labels({"x": [-2.0, 2.0]})
    assert labels.tolist() == list(levels)
    assert net.evaluate(table_frame)["accuracy"] > 0.95
    weighed, alike = (bp.Network.from_table(table, (8,), seed=0) for _ in range(2))
    weighed.fit(table_frame, class_weight={levels[1]: 3.0})
    alike.fit(table_frame, sample_weight=[3.0 if y == levels[1] else 1.0 for y in table_frame["y"]])
    assert (weighed.theta == alike.theta).all()
    with pytest.raises(ValueError, match="class_weight: expected the labels .*, got 'none'"):
        weighed.fit(table_frame, class_weight={"none": 3.0})
    one = bp.Network.from_table(table, (8,), output=bp.Dense(1, "logistic"), seed=0)
    one.fit(table_frame, epochs=20, optimizer=bp.Adam(lr=0.02))
    assert one.predict_labels({"x": [-2.0, 2.0]}).tolist() == list(levels)


def test_a_row_has_the_bits_of_the_frame():
    net = net_of()
    net.fit(FRAME, epochs=1)
    new = frame(seed=2)
    new["zip"][0], new["color"][1], new["age"][2] = "elsewhere", "pink", np.nan
    answers, answer = net.predict(new), net.predictor()
    assert (answer(new) == answers).all()
    names = net.table.columns
    for i in range(20):
        row = row_of(new, i, names)
        for one in (row, {**dict(reversed(row.items())), "more": 1}, tuple(row.values()), list(row.values())):
            assert (answer(one) == answers[i]).all() and (net.predict(one) == answers[i]).all()
    out = np.empty(1, np.float32)
    assert answer(row, out=out) is out and (out == answers[19]).all()
    rows = [row_of(new, i, names) for i in range(20)]
    assert (net.predict(rows) == answers[:20]).all() and (answer(rows) == answers[:20]).all()
    assert (net.predict({**new, "price": None, "other": ["?"]}) == answers).all()  # what it does not know
    assert net.predict({name: [] for name in names}).shape == (0, 1)


def test_a_file_holds_all_of_it(tmp_path):
    net = net_of()
    net.fit(FRAME, epochs=1)
    path = tmp_path / "net.safetensors"
    net.save(path)
    assert b"z17" in path.read_bytes() and b"z17" not in header(path)[0]
    code = f"""
import bpcore as bp, numpy as np, sys
net = bp.load({str(path)!r})
print(net.predict({{"area": [90.0], "age": [None], "floor": [3], "color": ["red"], "zip": ["z1"], "garden": [True],
                    "rooms": [4], "sold": ["2026-01-31"]}})[0, 0].item())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    row = (90.0, None, 3, "red", "z1", True, 4, datetime.date(2026, 1, 31))
    assert float(done.stdout) == net.predictor()(row)[0]
    for twin in (bp.load(path), pickle.loads(pickle.dumps(net)), copy.copy(net), copy.deepcopy(net)):
        assert twin.table == net.table and hash(twin.table) == hash(net.table)
        assert (twin.predict(FRAME) == net.predict(FRAME)).all()
        twin.fit(FRAME, epochs=1)
    assert net.part(["numbers", "codes"], "dense_1").table == net.table.without_target()
    assert net.part(["numbers", "codes"], "dense_1").predict(FRAME).shape == (N, 8)
    assert net.part("dense_1", "dense_2").table is None


def header(path):
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return raw[:end], raw[end:]


def rewritten(path, change):
    """The file with another table."""
    head, tensors = header(path)
    entries = json.loads(head[8:])
    begin, end = entries["table"]["data_offsets"]
    value = json.loads(tensors[begin:end])
    new = change(value)
    new = new if isinstance(new, bytes) else json.dumps(value if new is None else new).encode()
    for entry in entries.values():
        if entry is not entries["table"] and "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset + len(new) - (end - begin) for offset in entry["data_offsets"]]
    entries["table"] |= {"shape": [len(new)], "data_offsets": [begin, begin + len(new)]}
    graph = json.loads(entries["__metadata__"]["graph"])
    entries["__metadata__"]["graph"] = json.dumps({**graph, "table": len(new)})
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors[:begin] + new + tensors[end:])


def put(column, **settings):
    return lambda value: value["columns"][column].update(settings)


CRAFTED = {
    "nothing": lambda value: {},
    "no JSON": lambda value: b"\xff\xfe",
    "a list": lambda value: [],
    "deep": lambda value: b"[" * 100_000,
    "no columns": lambda value: {**value, "columns": []},
    "another kind": put(0, kind="eval"),
    "NaN": put(0, center=float("nan")),
    "infinite": put(0, fill=float("inf")),
    "scale 0": put(0, scale=0.0),
    "an integer": put(0, scale=1),
    "another key": put(0, code="x"),
    "method": put(0, method="pickle"),
    "knots": put(0, knots=[1.0, 1.0], heights=[0.0, 1.0]),
    "quantile without knots": put(0, method="quantile"),
    "levels twice": put(3, levels=["a", "a"]),
    "levels of another type": put(3, levels=["a", 1, None]),
    "a level more": put(4, levels=[f"z{k}" for k in range(31)]),
    "one-hot of more": put(3, levels=["a", "b", "c", "d"]),
    "not embedded": put(4, embedded=False),
    "flag": put(1, indicator=1),
    "part": put(-1, part="hour or so"),
    "a name twice": put(0, name="age"),
    "a target among the columns": lambda value: value["target"].update(name="age"),
    "target": lambda value: value["target"].update(scale=0.0),
    "classes": lambda v: v.update(target={"kind": "classes", "name": "y", "of": "strings", "levels": [*"abc"]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_files_are_refused(kind, tmp_path):
    path = tmp_path / "net.safetensors"
    net_of().save(path)
    rewritten(path, lambda value: None)
    bp.load(path)  # the same table, written anew
    rewritten(path, CRAFTED[kind])
    with pytest.raises(ValueError, match="load: .*not a bpcore network"):
        bp.load(path)


def test_many_networks_and_ensembles(tmp_path):
    table = bp.Table(FRAME, "class", kinds={"garden": "skip", "price": "skip"})
    nets = [bp.Network.from_table(table, (8,), seed=k) for k in range(3)]
    histories = bp.fit_many(nets, FRAME, epochs=2, validation_data=frame(seed=1))
    own = bp.Network.from_table(table, (8,), seed=1)
    own.fit(FRAME, epochs=2)
    assert (own.theta == nets[1].theta).all() and len(histories[0].val_accuracy) == 2
    ensemble = bp.Ensemble(nets)
    mean = ensemble.predict(FRAME)
    assert (ensemble.predict_labels(FRAME) == np.array(table.classes)[mean.argmax(1)]).all()
    assert (ensemble.predictor()(row_of(FRAME, 0, table.columns)) == mean[0]).all()
    assert (ensemble.predictor()(FRAME) == mean).all() and "accuracy" in ensemble.evaluate(FRAME)
    ensemble.fit(FRAME, folds=3, epochs=1)
    ensemble.save(tmp_path / "ensemble")
    twin = bp.Ensemble.load(tmp_path / "ensemble")
    assert (twin.predict(FRAME) == ensemble.predict(FRAME)).all()
    best, _ = bp.fit_restarts(own, FRAME, n=2)
    assert best.table is table
    with pytest.raises(ValueError, match="nets\\[1\\]: expected .*Table of"):
        bp.Ensemble(
            [own, bp.Network.from_table(bp.Table(frame(60), "class", kinds={"garden": "skip", "price": "skip"}))]
        )


def test_all_ways_of_training_take_frames(tmp_path):
    net = net_of(dtype="float64")
    loss, grad = net.value_and_grad(FRAME)
    assert loss == pytest.approx(net.evaluate(FRAME)["loss"]) and grad.shape == net.theta.shape
    some = {name: column[:20] for name, column in FRAME.items()}
    assert max(bp.check_gradients(net, some).values()) < 1e-6
    assert net.per_sample_gradients(some).shape == (20, net.n_params)
    inspected = net.inspect(FRAME, FRAME["price"])
    assert inspected.findings == net.inspect(net.table.transform(FRAME), FRAME["price"]).findings
    assert inspected.layers.keys() == net.inspect(FRAME).layers.keys()
    assert net.partial_fit(some) > 0 and net.step == 1
    run = {"callbacks": bp.Checkpoint(tmp_path / "run"), "resume": tmp_path / "run", "epochs": 3}
    done = net_of().fit(FRAME, **run, max_steps=15)
    again = net_of()
    history = again.fit(FRAME, **run)
    whole = net_of()
    whole.fit(FRAME, epochs=3)
    assert done.stopped_by == "max_steps" and len(history.loss) == 3 and (again.theta == whole.theta).all()
    other = bp.Network.from_table(bp.Table(frame(seed=3), "price", kinds={"class": "skip"}), (8,), seed=0)
    with pytest.raises(ValueError, match="another run"):
        other.fit(FRAME, **run)


def test_a_run_goes_on_with_its_own_table_alone(tmp_path):
    """Other names of classes, whose numbers and X are the same."""
    own = {"x": [1.0, 2.0, 3.0], "y": ["a", "b", "b"]}
    other = own | {"y": ["a", "c", "c"]}
    run = {"callbacks": bp.Checkpoint(tmp_path / "run"), "resume": tmp_path / "run"}
    bp.Network.from_table(bp.Table(own, "y"), (4,), seed=0).fit(own, **run)
    with pytest.raises(ValueError, match="another run: table"):
        bp.Network.from_table(bp.Table(other, "y"), (4,), seed=0).fit(other, **run)


def test_chains_show_the_algorithm():
    table = bp.Table({"x": np.arange(9.0), "y": np.arange(9.0)}, "y")
    net = bp.Network.from_table(table, (3,), activation="tanh", dtype="float64")
    rows = {"x": [1.0, 4.0], "y": [2.0, 1.0]}
    tape = net.forward(rows)
    assert (tape.a[0] == table.transform(rows)["numbers"]).all()
    grads = net.backward(tape, [2.0, 1.0], sample_weight=[1, 3])
    np.testing.assert_allclose(grads.theta, net.value_and_grad(rows, sample_weight=[1, 3])[1], rtol=1e-12)


def test_what_transform_gives_is_taken_as_it_is():
    net = net_of()
    arrays = net.table.transform(FRAME)
    assert (net.predict(arrays) == net.predict(FRAME)).all()
    twin = net_of()
    net.fit(FRAME, epochs=1)
    twin.fit(arrays, FRAME["price"], epochs=1)
    assert (twin.theta == net.theta).all()


def test_layers_of_ones_own():
    table = bp.Table(FRAME, "price", kinds={"class": "skip"})
    hidden = [16, bp.LayerNorm(), bp.Dense(8, "gelu")]
    net = bp.Network.from_table(table, hidden, dropout=0.1, embedding=3, output=bp.Dense(3))
    assert [type(layer).__name__ for layer in net.layers[-5:]] == ["Dense", "Dropout", "LayerNorm", "Dense", "Dense"]
    net.fit(FRAME, loss=bp.losses.Quantile([0.1, 0.5, 0.9]), standardize_y=True, epochs=1)
    assert net.predict(FRAME).shape == (N, 3) and net.params["levels.E"].shape[1] == 3
    without = bp.Network.from_table(bp.Table({"x": FRAME["area"]}), (4,), output=bp.Dense(1))
    without.fit({"x": FRAME["area"]}, FRAME["price"] / 1e5, epochs=1)


# ---- wrong input ----


def _without(name):
    return {key: column for key, column in FRAME.items() if key != name}


OF_TABLE = {
    "no frame": (lambda: bp.Table(np.zeros((3, 2))), TypeError, "frame: expected a data frame", "ndarray"),
    "a target that is not there": (lambda: bp.Table(FRAME, "prize"), ValueError, "target", "Did you mean 'price'?"),
    "no rows": (lambda: bp.Table({"x": []}), ValueError, "frame['x']", "at least one row"),
    "no columns": (lambda: bp.Table({"y": [1.0, 2.0]}, "y"), ValueError, "a column beside the target"),
    "lengths": (lambda: bp.Table({"a": [1.0], "b": [1.0, 2.0]}), ValueError, "one length", "'b': 2"),
    "only gaps": (lambda: bp.Table({"a": [None, None]}), ValueError, "frame['a']", "'skip'"),
    "mixed": (lambda: bp.Table({"a": ["x", 1]}), TypeError, "frame['a']", "integers and strings", "make strings"),
    "objects": (lambda: bp.Table({"a": [1.0, object()]}), TypeError, "frame['a']", "got object in row 1"),
    "complex": (lambda: bp.Table({"a": np.ones(2, complex)}), TypeError, "frame['a']", "complex128"),
    "spans of time": (lambda: bp.Table({"a": np.ones(2, "m8[s]")}), TypeError, "frame['a']", "total_seconds"),
    "infinite": (lambda: bp.Table({"a": [1.0, np.inf]}), ValueError, "frame['a']", "row 1 is infinite"),
    "wide": (lambda: bp.Table({"a": [-1e308, 1e308]}), ValueError, "frame['a']", "float64 can hold"),
    "gaps refused": (lambda: bp.Table({"a": [1.0, np.nan]}, missing="refuse"), ValueError, "frame['a']", "row 1"),
    "a name that is none": (lambda: bp.Table({1: [1.0]}), TypeError, "names of columns to be strings, got 1"),
    "kinds": (lambda: bp.Table(FRAME, kinds={"are": "number"}), ValueError, "kinds", "'area'"),
    "a kind": (lambda: bp.Table(FRAME, kinds={"area": "numeric"}), ValueError, "kinds['area']", "category"),
    "kinds as a list": (lambda: bp.Table(FRAME, kinds=["area"]), TypeError, "kinds: expected {column: kind}"),
    "a part twice": (lambda: bp.Table(FRAME, dates=["day", "day"]), ValueError, "dates: expected each part once"),
    "numbers": (lambda: bp.Table(FRAME, numbers="minmax"), ValueError, "numbers", "robust"),
    "dates": (lambda: bp.Table(FRAME, dates="days"), TypeError, "dates: expected a list"),
    "a part": (lambda: bp.Table(FRAME, dates=["week"]), ValueError, "dates", "weekday"),
    "words as numbers": (lambda: bp.Table(FRAME, kinds={"zip": "number"}), TypeError, "frame['zip']", "got strings"),
    "words as dates": (lambda: bp.Table(FRAME, kinds={"zip": "date"}), ValueError, "frame['zip']", "ISO 8601"),
    "dates as classes": (lambda: bp.Table(FRAME, "sold", kinds={"sold": "category"}), TypeError, "['sold']", "dates"),
    "one class": (lambda: bp.Table({"x": [1.0, 2.0], "y": ["a", "a"]}, "y"), ValueError, "two classes", "'a'"),
    "a gap in the target": (lambda: bp.Table({"x": [1.0] * 2, "y": ["a", None]}, "y"), ValueError, "leave such rows"),
    "keyword": (lambda: bp.Table(FRAME, min_counts=2), TypeError, "min_counts", "min_count"),
    "output of other classes": (
        lambda: bp.Network.from_table(bp.Table(FRAME, "class"), output=bp.Dense(3)), ValueError, "output", "2 classes",
    ),
    "no output": (lambda: bp.Network.from_table(bp.Table(FRAME)), ValueError, "output: expected a layer", "no target"),
    "no table": (lambda: bp.Network.from_table(FRAME), TypeError, "table: expected a bp.Table"),
    "hidden": (lambda: bp.Network.from_table(bp.Table(FRAME, "price"), 8), TypeError, "hidden: expected a list"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_TABLE)
def test_wrong_tables(kind):
    call, error, *words = OF_TABLE[kind]
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


OF_FRAME = {
    "an array": (np.zeros((3, 8)), TypeError, "X: expected a data frame", "ndarray"),
    "missing": (_without("age"), ValueError, "'age' is missing"),
    "renamed": (_without("area") | {"Area": FRAME["area"]}, ValueError, "'area' is missing. Did you mean 'Area'?"),
    "numbers that are strings": (FRAME | {"area": ["1"] * N}, TypeError, "X['area']", "numbers", "strings", "astype"),
    "strings that are numbers": (FRAME | {"zip": [1] * N}, TypeError, "X['zip']", "expected strings", "integers"),
    "whole numbers that are not": (FRAME | {"rooms": [0.5] * N}, TypeError, "X['rooms']", "expected integers"),
    "booleans that are strings": (FRAME | {"garden": ["yes"] * N}, TypeError, "X['garden']", "expected booleans"),
    "dates that are numbers": (FRAME | {"sold": [1.0] * N}, TypeError, "X['sold']", "expected dates", "numbers"),
    "dates that are none": (FRAME | {"sold": ["31.1.2026"] * N}, ValueError, "X['sold']", "ISO 8601"),
    "infinite": (FRAME | {"area": [np.inf] * N}, ValueError, "X['area']", "row 0 is infinite"),
    "lengths": (FRAME | {"area": [1.0]}, ValueError, "one length", "1 row"),
    "two axes": (FRAME | {"area": np.ones((N, 2))}, ValueError, "X['area']", "(300, 2)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_FRAME)
@pytest.mark.parametrize("call", ["fit", "predict", "evaluate", "predictor"])
def test_wrong_frames_change_nothing(kind, call):
    bad, error, *words = OF_FRAME[kind]
    net = net_of()
    before = everything(net)
    with pytest.raises(error) as caught:
        net.predictor()(bad) if call == "predictor" else getattr(net, call)(bad)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert everything(net) == before


ROWS = {
    "missing": ({"area": 1.0, "ages": 2}, ValueError, "'age' is missing. Did you mean 'ages'?", "And 3 more are."),
    "few": ((1.0, 2.0), ValueError, "a row of 8 values ('area', 'age'", "got 2"),
    "a word": ({**row_of(FRAME, 0, FRAME), "area": "1"}, TypeError, "X['area']", "numbers", "strings"),
    "a number": ({**row_of(FRAME, 0, FRAME), "zip": 1}, TypeError, "X['zip']", "strings", "integers"),
    "infinite": ({**row_of(FRAME, 0, FRAME), "area": float("inf")}, ValueError, "X['area']", "infinite"),
    "huge": ({**row_of(FRAME, 0, FRAME), "area": 10**400}, ValueError, "X['area']", "beyond float64"),
    "a date": ({**row_of(FRAME, 0, FRAME), "sold": 3}, TypeError, "X['sold']", "dates", "integers"),
    "a list within": ({**row_of(FRAME, 0, FRAME), "age": [1.0]}, (TypeError, ValueError), "X['age']"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_wrong_rows(kind):
    bad, error, *words = ROWS[kind]
    net = net_of()
    for call in (net.predict, net.predictor()):
        with pytest.raises(error) as caught:
            call(bad)
        for word in words:
            assert word in str(caught.value), str(caught.value)


def test_wrong_targets():
    net = bp.Network.from_table(bp.Table(FRAME, "class"), (4,))
    with pytest.raises(ValueError, match="X: expected the target 'class' among its columns.*give y"):
        net.fit(_without("class"))
    with pytest.raises(
        ValueError, match=r"y: expected the classes that the table knows, 'with', 'without'; row 1 is 'x'"
    ):
        net.fit(FRAME, ["with", "x"] + ["with"] * (N - 2))
    with pytest.raises(ValueError, match=r"validation_data\['class'\]: expected a class in each row, row 0 has none"):
        net.fit(FRAME, validation_data=FRAME | {"class": [None] + ["with"] * (N - 1)})
    with pytest.raises(ValueError, match="predict_labels: expected a network of a bp.Table whose target is classes"):
        net_of().predict_labels(FRAME)
    with pytest.raises(TypeError, match="y: expected targets, got None; the table was made without target="):
        bp.Network.from_table(bp.Table({"x": [1.0, 2.0]}), output=bp.Dense(1)).fit({"x": [1.0]})
    with pytest.raises(ValueError, match=r"'x' of row 1 overflows float32"):
        bp.Network.from_table(bp.Table({"x": [0.0, 1.0]}, numbers="none"), output=bp.Dense(1)).predict(
            {"x": [1, 1e300]}
        )


def test_gaps_that_are_refused_are_refused_later_too():
    table = bp.Table({"x": [1.0, 2.0, 4.0], "t": np.array(["2026-01-01"] * 3, "M8[D]")}, missing="refuse")
    net = bp.Network.from_table(table, output=bp.Dense(1))
    day = datetime.date(2026, 1, 1)
    for bad in ({"x": [1.0, None], "t": [day] * 2}, {"x": [1.0] * 2, "t": [day, None]}):
        with pytest.raises(ValueError, match="row 1 is one; give bp.Table missing='indicator'"):
            net.predict(bad)
    for row in ((None, day), (float("nan"), day), (1.0, None)):
        with pytest.raises(ValueError, match="expected no gaps"):
            net.predictor()(row)


def test_names_for_each_row_are_warned_of():
    with pytest.warns(UserWarning, match=r"frame\['who'\] has 60 different strings in 60 rows.*'skip'.*min_count"):
        bp.Table({"who": [f"name {k}" for k in range(60)]})


def test_dates_that_are_strings_are_hinted_at():
    dates = [f"2026-0{k % 9 + 1}-11" for k in range(30)]
    with pytest.warns(UserWarning, match=r"frame\['d'\] has strings that are dates.*kinds=\{'d': 'date'\}"):
        bp.Table({"d": dates})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bp.Table({"d": dates}, kinds={"d": "category"})
        bp.Table({"d": [f"2026-0{k}-119" for k in range(3)]})


def test_nothing_of_a_frame_is_changed():
    before = copy.deepcopy(FRAME)
    net_of().fit(FRAME, epochs=1)
    assert all(np.array_equal(before[name], FRAME[name], equal_nan=name == "age") for name in FRAME)


def test_a_table_is_what_its_json_says():
    table = bp.Table(FRAME, "class", numbers="quantile")
    assert _table.from_json(table.stored.tobytes().decode()) == table
    assert table != bp.Table(FRAME, "class") and table != 1


# ---- docs/tables.md ----


def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)  # the snippets assert for themselves
    assert len(snippets) >= 4


def test_gaps_and_numbers_of_a_row_are_those_of_a_frame():
    frame = {"c": [0.5, 1.5, np.nan, 0.5], "x": [1e-10, 2e-10, 0.0, 3e-10]}
    net = bp.Network.from_table(bp.Table(frame, kinds={"c": "category"}, numbers="standard"), hidden=(3,), seed=0,
                                output=bp.Dense(1))  # fmt: skip
    answers = [net.predict({"c": [c], "x": [1e-10]}) for c in (np.nan, None)]
    answers += [net.predict((c, 1e-10)) for c in (np.nan, None)] + [net.predictor()((np.nan, 1e-10))]
    assert len({np.ravel(answer)[0] for answer in answers}) == 1
    for ask in (net.predictor(), net.predict):
        with pytest.raises(ValueError, match="'x'.*overflows|overflows.*'x'"):
            ask((0.5, 1e300))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([0, 2**60, 3 * 2**59], "M8[s]"), "expected dates within"),
        (["0001-01-01T00:00:00+14:00", "2020-01-01"], "expected dates"),
        ([1.5, 10**400], "expected numbers that can be held"),
    ],
)
def test_what_cannot_be_held_names_the_column(values, words):
    with pytest.raises(ValueError, match=f"frame\\['d'\\]: {words}"):
        bp.Table({"d": values, "x": np.arange(len(values))}, kinds={"d": "date"} if "date" in words else None)
