"""Files of NumPy as streams."""

import pickle

import numpy as np
import pytest
from fitting import RNG, state_of

import bpcore as bp

ROWS = RNG.standard_normal((300, 4))
KIND = [("a", "f4"), ("b", "i2"), ("w", "f8"), ("y", "i8")]
FIELDS = np.zeros(300, KIND)
for _name in "abwy":
    FIELDS[_name] = RNG.integers(0, 3, 300) + (_name == "w")


def make(n=3, outputs=1):
    return bp.Network([bp.Input(n), bp.Dense(5, "tanh"), bp.Dense(outputs)], dtype="float64", seed=1)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "a.npy", ROWS[:130])
    np.save(tmp_path / "b.npy", np.asfortranarray(ROWS[130:]))
    return tmp_path


@pytest.mark.parametrize("target, columns, X, y", [
    (-1, None, ROWS[:, :3], ROWS[:, 3]), (1, None, ROWS[:, [0, 2, 3]], ROWS[:, 1]),
    ([3, 0], [2, 1], ROWS[:, [2, 1]], ROWS[:, [3, 0]]), (0, [1, -2], ROWS[:, [1, 2]], ROWS[:, 0]),
])  # fmt: skip
def test_columns_by_number(folder, target, columns, X, y):
    nets = [make(X.shape[1], 1 if y.ndim == 1 else y.shape[1]) for _ in range(2)]
    nets[0].fit(X, y, shuffle=False)
    stream = bp.data.files(folder, target=target, columns=columns, block_rows=50)
    nets[1].fit(pickle.loads(pickle.dumps(stream)), shuffle=False)
    assert state_of(nets[0]) == state_of(nets[1]) and nets[1].feature_names == {}


def test_columns_by_name_and_weights(tmp_path):
    np.save(tmp_path / "a.npy", FIELDS)
    nets = make(2), make(2)
    X = np.stack([FIELDS["a"], FIELDS["b"]], axis=1)
    nets[0].fit(X, FIELDS["y"], sample_weight=FIELDS["w"], shuffle=False)
    nets[1].fit(bp.data.files([tmp_path / "a.npy"], target="y", weight="w", block_rows=70), shuffle=False)
    assert state_of(nets[0]) == state_of(nets[1]) and nets[1].feature_names == {"input": ("a", "b")}


def test_ranges_come_in_an_order_from_the_seed(folder):
    seen = []
    numbers = np.arange(300.0)[:, None].repeat(2, 1)
    np.save(folder / "a.npy", numbers[:130])
    np.save(folder / "b.npy", numbers[130:])
    loss = bp.Loss(lambda a, y: (seen.extend(y[:, 0].tolist()), ((a - y) ** 2).sum(1))[1], lambda a, y: 0 * a)
    stream = bp.data.files(str(folder / "*.npy"), target=1, block_rows=50)
    for seed in (0, 0, 1):
        make(1).fit(stream, loss=loss, epochs=2, seed=seed)
    a, b, again, _, other, _ = (seen[k : k + 300] for k in range(0, 6 * 300, 300))
    assert sorted(a) == sorted(b) == numbers[:, 0].tolist() and a == again and a != b and a != other
    assert len({tuple(sorted(set(int(x) // 50 for x in order[:30]))) for order in (a, b, other)}) > 1


@pytest.mark.parametrize("settings, kind, words", [
    ({"target": 4}, ValueError, "target: there is no column 4 in '.*a.npy'. Its columns: 0, 1, 2, 3"),
    ({"target": "y"}, ValueError, "target: there is no column 'y'"),
    ({"target": 0, "columns": [9]}, ValueError, "columns: there is no column 9"),
    ({"target": 0, "weight": 7}, ValueError, "weight: there is no column 7"),
    ({"target": [0, 1, 2, 3]}, ValueError, "columns: expected a column beside target and weight"),
    ({"target": 1.5}, TypeError, "target: expected a column, or a list of columns, got 1.5"),
    ({"target": 0, "columns": 1}, TypeError, "columns: expected a list of columns, got 1"),
    ({"target": 0, "weight": [1]}, TypeError, "weight: expected one column"),
    ({"target": 0, "block_rows": 0}, ValueError, "block_rows: expected an integer from 1"),
    ({}, ValueError, "target: expected bp.data.files"),
])  # fmt: skip
def test_columns_that_are_not_there(folder, settings, kind, words):
    net = make()
    with pytest.raises(kind, match=words):
        net.fit(bp.data.files(folder, **settings))
    assert net.step == 0


def test_paths_that_are_none(folder):
    for paths, error in (
        (folder / "c.npy", FileNotFoundError), (str(folder / "*.csv"), FileNotFoundError), (3, TypeError),
        ([], ValueError), ([folder / "a.npy", 3], TypeError), (folder.parent / "no", FileNotFoundError),
    ):  # fmt: skip
        with pytest.raises(error, match="path"):
            bp.data.files(paths, target=0)


def test_files_that_are_cut_off_or_hold_objects(folder):
    content = (folder / "b.npy").read_bytes()
    (folder / "b.npy").write_bytes(content[:-100])
    with pytest.raises(ValueError, match="paths: '.*b.npy' cannot be read: "):
        make().fit(bp.data.files(folder, target=0))
    for array in (np.array([{}, 3]), np.zeros((2, 3, 4)), np.zeros((3, 2), object)):
        np.save(folder / "b.npy", array, allow_pickle=True)
        with pytest.raises(ValueError, match="paths: ('.*b.npy' cannot be read: .*Python objects|expected rows of)"):
            make().fit(bp.data.files(folder, target=0))
