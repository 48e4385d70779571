"""`bpcore train`: a network that learns, held-out metrics that net.evaluate gives, runs that go on, and wrong input in
one line with nothing written."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bpcore as bp
from bpcore_cli import main

N = 300
RNG = np.random.default_rng(0)
X = RNG.normal(0, 1, (N, 2))
LABELS = (X > 0).sum(axis=1)
PRICES = 1000 + 100 * X[:, 0] - 50 * X[:, 1]
SMALL = ["--hidden", "16", "--epochs", "30", "--lr", "0.01"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = [("id", [f"r{k}" for k in range(N)]), ("a", X[:, 0]), ("b", X[:, 1]), ("cls", LABELS), ("price", PRICES)]
    write("d.csv", dict(columns))


def write(path, columns):
    rows = zip(*columns.values(), strict=True)
    Path(path).write_text("\n".join(",".join(map(str, row)) for row in [list(columns), *rows]) + "\n")


def refused(capsys, *arguments):
    """The one line that a wrong use is answered with."""
    before = sorted(os.listdir())
    try:
        assert main(["train", *arguments]) == 2
    except SystemExit as end:
        assert end.code == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if "error: " in line]
    assert captured.out == "" and len(errors) == 1 and captured.err.endswith(errors[0] + "\n")
    assert sorted(os.listdir()) == before
    return errors[0].partition("error: ")[2]


def trained(capsys, *arguments):
    assert main(["train", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("loss", ["auto", "cross_entropy", "categorical_focal"])
def test_classes_are_learnt(capsys, loss):
    write("c.csv", {"a": X[:, 0], "b": X[:, 1], "cls": LABELS})
    found = trained(capsys, "c.csv", "--target", "cls", *SMALL, "--loss", loss, "--out", "net")
    assert found["rows"] == N and found["held_out"] == 60 and found["classes"] == 3 and found["saved"] == "net"
    assert found["metrics"]["accuracy"] > 0.9
    net = bp.load("net")
    assert net.feature_names == {"input": ("a", "b")} and net.outputs == {"dense_2": (3,)}
    assert net.evaluate(X, LABELS)["accuracy"] > 0.9


@pytest.mark.parametrize(
    "loss", ["auto", "mse", "mae", "huber", "log_cosh", "student_t", "poisson", "gamma", "tweedie"]
)
def test_numbers_are_learnt_in_their_units_by_each_loss(capsys, loss):
    write("p.csv", {"a": X[:, 0], "b": X[:, 1], "price": PRICES})
    found = trained(capsys, "p.csv", "--target", "price", *SMALL, "--loss", loss, "--out", "net")
    assert found["classes"] is None and found["metrics"]["r2"] > 0.8
    assert bp.load("net").evaluate(X, PRICES, metrics="r2")["r2"] > 0.8


def test_rows_are_held_out_by_class_and_metrics_are_theirs(capsys):
    write("c.csv", {"a": X[:, 0], "b": X[:, 1], "cls": np.repeat([0, 1], [270, 30])})
    found = trained(capsys, "c.csv", "--target", "cls", *SMALL, "--seed", "3", "--validation", "0.1", "--out", "net")
    order = np.random.default_rng(3).permutation(N)
    held = np.sort(np.concatenate([order[order < 270][:27], order[order >= 270][:3]]))
    y = np.repeat([0, 1], [270, 30])[held]
    expected = bp.load("net").evaluate(X[held], y, metrics=["balanced_accuracy", "f1_macro"])
    assert found["held_out"] == 30 and found["metrics"] == pytest.approx(expected, rel=1e-6)


def test_what_people_read(capsys):
    write("c.csv", {"a": X[:, 0], "b": X[:, 1], "cls": LABELS})
    assert main(["train", "c.csv", "--target", "cls", *SMALL, "--validation", "0"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("on the rows that it was trained on\nloss ") and out.endswith("not saved; --out FILE does\n")
    assert "300 rows, 2 columns; 'cls' is 3 classes; 0 rows held out" in err
    assert "dense_1" in err and "epoch 30/30" in err


def test_a_file_of_settings_is_as_options_and_options_win(capsys):
    Path("run.toml").write_text('target = "cls"\nid = "id"\nhidden = [8, 4]\nepochs = 9\nlr = 0.01\nvalidation = 0.5\n')
    write("c.csv", {"id": range(N), "a": X[:, 0], "b": X[:, 1], "cls": LABELS})
    found = trained(capsys, "c.csv", "--config", "run.toml", "--epochs", "2", "--out", "one")
    assert found["epochs"] == 2 and found["held_out"] == 150
    trained(capsys, "c.csv", "--target", "cls", "--id", "id", "--hidden", "8,4", "--epochs", "2", "--lr", "0.01",
            "--validation", "0.5", "--out", "two")  # fmt: skip
    assert (bp.load("one").theta == bp.load("two").theta).all()


def test_a_run_goes_on_with_the_same_bits(capsys):
    write("c.csv", {"a": X[:, 0], "b": X[:, 1], "cls": LABELS})
    base = ["c.csv", "--target", "cls", "--hidden", "8"]
    trained(capsys, *base, "--epochs", "6", "--out", "whole")
    trained(capsys, *base, "--epochs", "3", "--checkpoint", "run")
    assert "has a run; --resume goes on" in refused(capsys, *base, "--checkpoint", "run")
    trained(capsys, *base, "--epochs", "6", "--checkpoint", "run", "--resume", "--out", "again")
    assert (bp.load("whole").theta == bp.load("again").theta).all()


def test_ctrl_c_keeps_the_network_if_asked():
    write("c.csv", {"a": X[:, 0], "b": X[:, 1], "cls": LABELS})
    environment = os.environ | {"PYTHONPATH": str(Path(bp.__file__).parents[1])}
    command = [sys.executable, "-m", "bpcore", "train", "c.csv", "--target", "cls", "--validation", "0", "--epochs"]
    command += ["1000000000", "--out", "net", "--keep-interrupted"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # or the child may ignore it
    try:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            while not process.stderr.readline().startswith("epoch"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    net = bp.load("net")
    assert process.returncode == 130 and net.epoch >= 1 and out == ""
    assert f"saved net, of epoch {net.epoch}, step {net.step}" in err and err.endswith("interrupted\n")


def test_training_that_diverges_is_status_1(capsys):
    write("c.csv", {"a": X[:, 0], "b": X[:, 1], "price": PRICES})
    with np.errstate(all="ignore"):
        status = main(["train", "c.csv", "--target", "price", "--optimizer", "sgd", "--lr", "1e30", "--out", "net"])
    err = capsys.readouterr().err.splitlines()[-1]
    assert status == 1 and "no longer finite" in err and not Path("net").exists()


def test_wrong_input_is_one_line(capsys):
    def said(*arguments, data="d.csv"):
        return refused(capsys, data, *arguments)

    price = ["--target", "price", "--id", "id"]
    assert "No such file" in said(*price, data="none.csv")
    assert "it is a folder" in said(*price, data=".")
    assert "has no column 'prise'. Did you mean 'price'?" in said("--target", "prise")
    assert "column 'id': expected a finite number, got 'r0'; words" in said("--target", "price")
    assert "there is no folder" in said(*price, "--out", "no/net")
    assert "is a folder" in said(*price, "--out", ".")
    assert "'cross_entropy' is no loss of a number" in said(*price, "--loss", "cross_entropy")
    assert "Did you mean 'huber'?" in said(*price, "--loss", "hubert")
    assert "there is no 'adamm'. Did you mean 'adam'?" in said(*price, "--optimizer", "adamm")
    assert "lbfgs has none" in said(*price, "--optimizer", "lbfgs", "--lr", "1")
    assert "relu" in said(*price, "--activation", "reluu")
    assert "leaves rows on both sides" in said(*price, "--validation", "0.0001")
    assert "expected --checkpoint DIR" in said(*price, "--resume")
    assert "there is no folder 'no'" in said(*price, "--checkpoint", "no/run")
    assert "column 'id'" in said("--target", "price", "--checkpoint", "run")
    assert "expected --out" in said(*price, "--keep-interrupted")
    assert "classes numbered from 0" in said(*price, "--task", "classification")
    assert "as in 256,128, got '0'" in said(*price, "--hidden", "0")
    assert "at least 0 and below 1, got 1" in said(*price, "--validation", "1")
    assert "90s, 5min or 1h, got '5m'" in said(*price, "--max-seconds", "5m")
    assert "required: --target" in said()
    write("one.csv", {"price": PRICES})
    assert "there are none" in said("--target", "price", data="one.csv")
    write("same.csv", {"a": X[:, 0], "y": [7] * N})
    assert "'y' is 7 in all 300 rows" in said("--target", "y", data="same.csv")
    write("many.csv", {"a": X[:, 0], "y": range(N)})
    assert "300 classes in 300 rows" in said("--target", "y", "--task", "classification", data="many.csv")
    write("from1.csv", {"a": X[:, 0], "y": LABELS + 1})
    assert "got 1, 2, 3; number them" in said("--target", "y", data="from1.csv")
    write("zero.csv", {"a": [], "y": []})
    assert "there are none" in said("--target", "y", data="zero.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3", "there is no option 'epoch'. Did you mean 'epochs'?"),
        ("epochs = 0", "argument --epochs: expected an integer from 1"),
        ("epochs = {a = 1}", "epochs: expected a number, a string, true, false or a list"),
        ("epochs = ", "Invalid value"),
        ("config = 'other.toml'", "there is no option 'config'"),
    ],
)
def test_settings_that_are_none_are_refused(capsys, text, words):
    Path("run.toml").write_text(text)
    assert words in refused(capsys, "d.csv", "--target", "price", "--config", "run.toml")
    assert "No such file" in refused(capsys, "d.csv", "--target", "price", "--config", "none.toml")
