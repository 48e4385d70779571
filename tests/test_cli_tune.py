"""`bpcore tune`: the best of some networks by the loss on held-out rows, which `bpcore train` gives again."""

import json
import shlex

import numpy as np
import pytest

import bpcore as bp
from bpcore_cli import main, tune

N = 120
X = np.random.default_rng(0).normal(0, 1, (N, 2))


@pytest.fixture
def one_round(tmp_path, monkeypatch):
    """A file of data, and a clock by which the time is over after one round of networks."""
    monkeypatch.chdir(tmp_path)
    np.savetxt("my data.csv", np.c_[X, X.sum(axis=1) > 0], delimiter=",", header="a,b,y", comments="", fmt="%g")
    clock, fit_many = [0.0], bp.fit_many

    def last_round(*arguments, **settings):
        histories = fit_many(*arguments, **settings)
        clock[0] = 100.0
        return histories

    monkeypatch.setattr(tune, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bp, "fit_many", last_round)


BASE = ["my data.csv", "--target", "y", "--epochs", "3", "--budget", "60s", "--threads", "2"]


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = bp.get_num_threads()
    yield
    bp.set_num_threads(before)


def test_the_best_is_saved_and_train_gives_it_again(one_round, capsys):
    assert main(["tune", *BASE, "--seed", "5", "--out", "best"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("4 networks; ") and out[-2] == "saved best"
    losses = [float(line.split()[0]) for line in out[1:5]]
    assert losses == sorted(losses)
    command = shlex.split(out[-1].removeprefix("again: "))
    assert command[:3] == ["bpcore", "train", "my data.csv"]
    assert main([*command[1:], "--out", "again", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert (bp.load("best").theta == bp.load("again").theta).all()
    assert losses[0] == pytest.approx(metrics["loss"], rel=1e-4)


def test_as_json(one_round, capsys):
    assert main(["tune", *BASE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tried"] == 4 == len({trial["lr"] for trial in found["trials"]}) and found["saved"] is None
    assert found["trials"][0]["loss"] == pytest.approx(found["metrics"]["loss"], rel=1e-6)


def test_the_time_ends_it(one_round, capsys, monkeypatch):
    monkeypatch.setattr(bp, "fit_many", lambda *a, fit_many=bp.fit_many, **s: fit_many(*a, **s))
    ticks = iter(range(0, 10_000, 20))
    monkeypatch.setattr(tune, "monotonic", lambda: next(ticks))
    assert main(["tune", *BASE, "--epochs", "1000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tried"] == 4 and max(trial["epochs"] for trial in found["trials"]) < 10


def test_wrong_input_is_one_line(one_round, capsys):
    for more, words in [(["--validation", "0"], "expected a share above 0"), (["--out", "no/x"], "no folder 'no'")]:
        assert main(["tune", *BASE, *more]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
