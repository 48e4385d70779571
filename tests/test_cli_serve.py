"""`bpcore serve`: the answers of net.predict over HTTP from many threads, clear 4xx, bounds, and a clean stop."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bpcore as bp
from bpcore_cli import main
from bpcore_cli._models import Model
from bpcore_cli.serve import App, Server, _Limits

NAMES = ("a", "b", "c")
X = np.random.default_rng(0).normal(size=(40, 3))


class Frame:
    columns = NAMES

    def __array__(self, dtype=None, copy=None):
        return X

    def __len__(self):
        return len(X)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    net = bp.Network([bp.Input(3), bp.Standardize(), bp.Dense(8, "tanh"), bp.Dense(3, "softmax")], seed=2)
    net.fit(Frame(), (X[:, :2] > 0).sum(axis=1), epochs=5, optimizer=bp.Adam(lr=0.1))
    path = str(tmp_path_factory.mktemp("model") / "net")
    net.save(path)
    return path


@contextlib.contextmanager
def serving(path, **settings):
    """The port of a server in a thread."""
    options = {
        "max_connections": 16,
        "max_bytes": 2000,
        "timeout": 30.0,
        "host": "127.0.0.1",
        "allow_host": ["Our.Name"],
    }
    limits = _Limits.of(SimpleNamespace(**(options | settings)))
    server = Server(App(Model(path)), "127.0.0.1", 0, limits)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def port(model):
    with serving(model) as port:
        yield port


def connected(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def ask(port, path="/predict", body=None, kind="application/json", method=None, headers=()):
    """Status and answer."""
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    connection = connected(port)
    with contextlib.closing(connection):
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, body, {"Content-Type": kind, **dict(headers)})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


def raw(port, text):
    """What comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(text)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_lists_dicts_and_npy_get_the_bits_of_predict(model, port):
    expected = bp.load(model).predict(X[:5])
    lists = {"rows": X[:5].tolist(), "proba": True}
    dicts = {"rows": [dict(zip(NAMES[::-1], row[::-1].tolist(), strict=True)) for row in X[:5]], "proba": True}
    for body, kind, path in [
        (lists, "application/json", "/predict"),
        (dicts, "application/json; charset=utf-8", "/predict"),
        (npy(X[:5]), "application/x-npy", "/predict?proba=true"),
    ]:
        status, found = ask(port, path, body, kind)
        assert status == 200
        assert found["predictions"] == expected.argmax(axis=1).tolist()
        assert (np.array(found["probabilities"], np.float32) == expected).all()
    assert set(ask(port, body={"rows": [[1, 2, 3]]})[1]) == {"predictions"}


def test_health_and_metadata(port):
    assert ask(port, "/health") == (200, {"status": "ok"})
    status, found = ask(port, "/metadata")
    assert status == 200 and found["feature_names"] == {"input": list(NAMES)} and found["classes"] == [0, 1, 2]


def test_connections_are_kept_and_answers_are_not_mixed_up(model, port):
    expected, wrong = bp.load(model).predict(X), []

    def client(first):
        with contextlib.closing(connected(port)) as connection:
            for k in range(first, first + 20):
                body = json.dumps({"rows": [X[k % 40].tolist()], "proba": True})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                found = np.array(json.loads(connection.getresponse().read())["probabilities"][0], np.float32)
                if not (found == expected[k % 40]).all():
                    wrong.append(k)

    threads = [threading.Thread(target=client, args=(7 * k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "expected JSON"),
        (b"[" * 1900, "expected JSON"),
        (b'{"rows": [[1, 2, NaN]]}', "NaN is no number"),
        (b'{"rows": [[1, 2, -Infinity]]}', "-Infinity is no number"),
        (b'{"rows": [[1, 2, 1e999]]}', "expected finite numbers"),
        (b'{"rows": [[1, 2, 3], [1, 2, 1e39]]}', "row 2: expected finite numbers that float32 can hold"),
        (b'{"rows": []}', "expected a list of rows"),
        (b'{"rows": 3}', "expected a list of rows"),
        (b'{"rows": [3]}', "expected rows of 3 numbers, got shape (1,)"),
        (b'{"rows": [[1, 2]]}', "expected rows of 3 numbers, got shape (1, 2)"),
        (b'{"rows": [[1, 2, 3], [1, 2]]}', "rows of one length"),
        (b'{"rows": [[1, 2, 3], [1, 2, null]]}', "rows[1][2]: expected numbers, finite and without gaps, got null"),
        (b'{"rows": [[1, 2, "3"]]}', "rows[0][2]: expected numbers, finite and without gaps, got str '3'"),
        (b'{"rows": [[1, 2, true]]}', "rows[0][2]: expected numbers"),
        (b'{"rows": [[1, 2, ' + b"9" * 300 + b"]]}", "row 1: expected finite numbers"),
        (b'{"rows": [[1, 2, ' + b"9" * 400 + b"]]}", "numbers that float64 can hold"),
        (b'{"rows": [{"a": 1, "b": 2, "C": 3}]}', "rows[0]: 'c' missing. Did you mean 'C'?"),
        (b'{"rows": [{"a": 1, "b": 2, "c": 3, "d": 4}]}', "rows[0]: 'd' unexpected"),
        (b'{"rows": [{"a": 1, "b": 2, "c": 3}, [1, 2, 3]]}', "rows[1]: expected an object"),
        (b'{"row": [[1, 2, 3]]}', 'expected {"rows"'),
        (b"[[1, 2, 3]]", 'expected {"rows"'),
        (b'{"rows": [[1, 2, 3]], "proba": 1}', "proba: expected true or false"),
    ],
)
def test_what_is_no_row_is_refused(port, body, words):
    status, found = ask(port, body=body)
    assert status == 400 and words in found["error"]


def test_npy_is_never_unpickled(port):
    class Evil:
        def __reduce__(self):
            return os.abort, ()

    for body in (npy(np.array([Evil()], object)), b"\x80\x04.", b"", npy(X)[:-1], npy(np.array(["a"]))):
        status, found = ask(port, body=body, kind="application/x-npy")
        assert status == 400 and "expected" in found["error"]
    huge = npy(X).replace(b"(40, 3), }    ", b"(99999999, 3)}")
    assert ask(port, body=huge, kind="application/x-npy")[0] == 400


def test_a_status_for_each_mistake(port):
    row = {"rows": [[1, 2, 3]]}
    assert ask(port, "/predikt", row)[0] == 404
    assert ask(port, "/predict")[0] == 405
    assert ask(port, "/predict", row, method="PUT")[0] == 501
    assert ask(port, "/predict", row, "text/plain")[0] == 415
    assert ask(port, "/predict", b" " * 2001)[0] == 413
    assert ask(port, "/health", headers={"Host": "evil.example"})[0] == 421
    for name in ("localhost", "our.name", "OUR.NAME:80", "127.0.0.1", "[::1]:80"):
        assert ask(port, "/health", headers={"Host": name})[0] == 200
    start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    lengths = [b"", b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2", b"Content-Length: 0x1"]
    for more in (*lengths, b"Content-Length: 1\r\nTransfer-Encoding: chunked"):
        assert raw(port, start + more + b"\r\n" * (2 if more else 1)).startswith(b"HTTP/1.1 411 ")
    smuggled = b'{"rows": [[1, 2, 3]]}' + b"GET /metadata HTTP/1.1\r\nHost: localhost\r\n\r\n"
    length = str(len(smuggled)).zfill(21).encode()
    assert raw(port, start + b"Content-Length: " + length + b"\r\n\r\n" + smuggled).count(b"HTTP/1.1 ") == 1
    assert raw(port, start + b"Content-Length: " + b"9" * 21 + b"\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert raw(port, b"GET /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 421 ")
    assert raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(port, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 414 ")


def test_a_slow_request_ends(model):
    with serving(model, timeout=0.05) as port:
        start = (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
        assert raw(port, start + b"{").startswith(b"HTTP/1.1 408 ")
        assert raw(port, b"GET /hea") == b""


def test_connections_are_bounded(model):
    with serving(model, max_connections=1) as port, contextlib.closing(connected(port)) as first:
        first.request("GET", "/health")
        assert first.getresponse().read() == b'{"status": "ok"}'
        assert raw(port, b"").startswith(b"HTTP/1.1 503 ")
        first.request("GET", "/health")
        assert first.getresponse().status == 200


def test_sigterm_is_a_clean_stop(model):
    environment = os.environ | {"PYTHONPATH": str(Path(bp.__file__).parents[1])}
    command = [sys.executable, "-m", "bpcore", "serve", model, "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            port = int(line.rpartition(":")[2].partition("/")[0])
            with contextlib.closing(connected(port)) as idle:
                idle.request("GET", "/health")
                idle.getresponse().read()
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=60) == 0  # though a connection is open
            assert process.stderr.read() == "stopped\n"
        finally:
            process.kill()


def test_a_port_in_use_is_one_line(model, port, capsys):
    assert main(["serve", model, "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"127.0.0.1:{port}: Address already in use" in err and err.count("\n") == 1
