"""`bpcore`: its help is quick, the demo learns and shows what it does, and it ends cleanly however it is ended."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bpcore as bp
from bpcore._core import MAX_THREADS
from bpcore_cli import _arguments, main

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(bp.__file__).parents[1])}
LONG = ["demo", "--epochs", "1000000", "--net", "64-16-10"]


@contextlib.contextmanager
def started(*arguments: str, **settings: str):
    environment = ENVIRONMENT | settings
    command = [sys.executable, "-m", "bpcore", *arguments]
    # a shell's background job ignores SIGINT, and so would the child
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        with process:
            yield process
    finally:
        process.kill()


def run(*arguments: str, **settings: str) -> tuple[int, str, str]:
    with started(*arguments, **settings) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def status(arguments: list[str]) -> int:
    """The exit status in this process, however main ends."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = bp.get_num_threads()
    yield
    bp.set_num_threads(before)


@pytest.mark.parametrize("seed", range(21))
def test_demo_reaches_97_percent(seed, capsys):
    assert main(["demo", "--seed", str(seed)]) == 0
    found = re.search(r"^test accuracy (\d+\.\d+)%$", capsys.readouterr().out, re.MULTILINE)
    assert float(found[1]) >= 97.0


def test_demo_shows_epochs_confusion_and_speed():
    status, out, err = run("demo", "--epochs", "3", "--net", "64-32-16-10", "--threads", "2", "--seed", "5")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "2,778 parameters"
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]
    first = lines.index("answers (columns) to each digit (rows)") + 2
    table = [line.split() for line in lines[first : first + 10]]
    assert [row[0] for row in table] == list("0123456789")
    counts = [[int(cell.replace(".", "0")) for cell in row[1:]] for row in table]
    accuracy = sum(counts[k][k] for k in range(10)) / sum(map(sum, counts))
    assert f"test accuracy {accuracy:.2%}" in lines
    assert int(re.search(r"training speed ([\d,]+) samples/s", out)[1].replace(",", "")) > 0
    assert max(map(len, lines)) <= 40
    assert out.isascii()


def test_demo_is_the_same_for_a_seed_and_any_threads(capsys):
    def lines(seed: int, threads: int) -> list[str]:
        arguments = ["--seed", str(seed), "--threads", str(threads), "--epochs", "2"]
        assert main(["demo", *arguments]) == 0
        return capsys.readouterr().out.splitlines()[:-1]  # the last line is the speed

    assert lines(3, 1) == lines(3, 2) != lines(4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--net", "64-x-10"], "64-x-10"),
        (["--net", "64--10"], "64--10"),
        (["--net", "64-0-10"], "64-0-10"),
        (["--net", "64-²-10"], "64-²-10"),
        (["--net", "63-128-10"], "expected 64 first"),
        (["--net", "64-128-11"], "10 last"),
        (["--net", "64"], "10 last"),
        (["--net", "64-99999999999999999999-10"], "at most 100,000,000 parameters"),
        (["--net", "64-10000-10000-10"], "at most 100,000,000 parameters"),
        (["--net", ""], "expected positive sizes"),
        (["--epochs", "-1"], "argument --epochs: expected an integer from 1 to "),
        (["--epochs", "0"], "argument --epochs: expected an integer from 1 to "),
        (["--epochs", str(2**40)], "argument --epochs: expected an integer from 1 to "),
        (["--epochs", "many"], "many"),
        (["--seed", "-1"], "argument --seed: expected an integer from 0 to "),
        (["--seed", str(2**200)], "argument --seed: expected an integer from 0 to "),
        (["--threads", "0"], "argument --threads: expected an integer from 1 to 256, got 0"),
        (["--threads", "100000"], "argument --threads: expected an integer from 1 to 256, got 100000"),
        (["--colour"], "--colour"),
        (["--epoch", "3"], "there is no '--epoch' here. Did you mean '--epochs'? (see bpcore demo --help)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    assert status(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("bpcore demo: error: ") and message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["trian"]])
def test_a_command_is_needed(arguments, capsys):
    assert status(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.endswith("(see bpcore --help)\n") and "COMMAND" in err


def test_help_imports_neither_numpy_nor_bpcore():
    code = "import sys, bpcore_cli\ntry: bpcore_cli.main(['demo', '--help'])\n"
    code += "finally: print(sorted({'numpy', 'bpcore', 'http.server', 'csv'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_bounds_are_those_of_bpcore():
    assert _arguments.MAX_THREADS == MAX_THREADS


@pytest.mark.parametrize("columns", ["1", "20", "200"])
def test_help_on_any_terminal(columns):
    status, out, err = run("demo", "--help", COLUMNS=columns)
    assert (status, err) == (0, "")
    assert all(option in out for option in ("--net", "--epochs", "--seed", "--threads"))


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"bpcore {bp.__version__}\n"


def test_info_shows_the_configuration(capsys):
    assert main(["info"]) == 0
    assert bp.__version__ in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bpcore"] == bp.__version__


def test_info_shows_what_is_in_a_file(tmp_path, capsys):
    path = str(tmp_path / "net.safetensors")
    net = bp.Network([bp.Input(3), bp.Standardize(), bp.Dense(4, "relu"), bp.Dense(2, "softmax")], seed=7)
    net.fit([[1, 2, 3], [3, 1, 2]], [0, 1], optimizer=bp.Adam())
    net.save(path)
    assert main(["info", path]) == 0
    out = capsys.readouterr().out
    assert net.summary() in out and "Adam" in out and "seed 7" in out
    assert main(["info", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_params"] == net.n_params and found["parameters"]["dense_1.W"] == [3, 4]


def test_export_writes_what_bpcore_writes(tmp_path, capsys):
    net = bp.Network([bp.Input(3), bp.Dense(2, "softmax")], seed=7)
    net.save(tmp_path / "net.safetensors")
    model, out = str(tmp_path / "net.safetensors"), str(tmp_path / "net.h")
    assert main(["export", model, "--to", "c", "--out", out]) == 0
    bp.export_c(net, tmp_path / "right.h")
    assert (tmp_path / "net.h").read_text() == (tmp_path / "right.h").read_text()
    assert main(["export", model, "--to", "c", "--out", str(tmp_path / "none" / "net.h")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_no_network_is_one_line(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("words")
    for path, words in [("none", "there is no such file"), ("", "it is a folder"), ("words.txt", "not a bpcore net")]:
        assert main(["info", str(tmp_path / path)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("bpcore info: error: ") and words in err and err.count("\n") == 1


def test_nobody_reads_on():
    with started(*LONG) as process:
        assert process.stdout.readline().endswith("parameters\n")
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""


def test_interrupted():
    with started(*LONG) as process:
        while not process.stdout.readline().startswith("epoch"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_no_input_is_written_over(tmp_path, capsys):
    data, model = tmp_path / "d.csv", tmp_path / "net"
    data.write_text("a,y\n" + "".join(f"{k},{k / 7}\n" for k in range(20)))
    bp.Network([bp.Input(2), bp.Dense(1)], seed=0).save(model)
    before = data.read_bytes(), model.read_bytes()
    for arguments in (
        ["train", str(data), "--target", "y", "--out", str(data)],
        ["tune", str(data), "--target", "y", "--out", str(data)],
        ["predict", str(model), str(data), "--out", str(data)],
        ["predict", str(model), str(data), "--out", str(model)],
        ["export", str(model), "--to", "c", "--out", str(model)],
    ):
        assert main(arguments) == 2
        assert "--out: expected another file than those that are read" in capsys.readouterr().err
    assert before == (data.read_bytes(), model.read_bytes())


def test_networks_of_a_table_are_refused(tmp_path, capsys):
    frame = {"a": [1.0, 2.0, 4.0], "y": [1.5, 2.5, 3.0]}
    bp.Network.from_table(bp.Table(frame, target="y"), hidden=(2,), seed=0).save(tmp_path / "net")
    (tmp_path / "d.csv").write_text("a\n1\n")
    for command in ("predict", "serve"):
        assert main([command, str(tmp_path / "net"), *([str(tmp_path / "d.csv")] if command == "predict" else [])]) == 2
        assert "takes data frames" in capsys.readouterr().err
