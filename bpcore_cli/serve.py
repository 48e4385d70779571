"""`bpcore serve`: a network that answers over HTTP.

One predictor answers all threads; a connection is a thread, and their number is bounded.  What comes in is taken for
hostile: nothing is unpickled, lengths are bounded, a request must be there within a time, and a browser's requests from
elsewhere are refused (by Host, against DNS rebinding, and by Content-Type, which a foreign page may not send).
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import signal
import socket
import socketserver
import sys
import threading
import time
from argparse import Namespace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

import numpy as np

import bpcore as bp
from bpcore_cli._errors import Wrong, listed, nearest
from bpcore_cli._models import Model
from bpcore_cli.info import describe

JSON, NPY = "application/json", "application/x-npy"


def run(options: Namespace) -> None:
    """`bpcore serve MODEL`, until SIGTERM or Ctrl-C."""
    if options.threads:
        bp.set_num_threads(options.threads)
    app = App(Model(options.model))
    try:
        server = Server(app, options.host, options.port, _Limits.of(options))
    except OSError as error:
        raise Wrong(f"--host, --port: {options.host}:{options.port}: {error.strerror or error}") from None
    with server, _stopping(server):
        host, port = str(server.server_address[0]), server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        print(f"serving {options.model} at http://{shown}:{port}/predict", file=sys.stderr, flush=True)
        server.serve_forever(poll_interval=0.1)
    print("stopped", file=sys.stderr)


@contextlib.contextmanager
def _stopping(server: Server) -> Any:
    """SIGTERM stops the server, after the requests that it has read."""

    def stop(*_: Any) -> None:
        threading.Thread(target=server.shutdown).start()  # it waits for serve_forever, which this thread runs

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- what is answered ----


class Refused(Exception):
    """A request that is answered by a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def _bad(sentence: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, sentence)


class App:
    """What is answered, whoever asks."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.answer = model.net.predictor()
        self.metadata = {"bpcore": bp.__version__, "classes": self._classes(), **describe(model.net)}

    def _classes(self) -> list[int] | None:
        n = 2 if self.model.is_binary else self.model.n_outputs
        return list(range(n)) if self.model.is_classes else None

    def predict(self, rows: np.ndarray, proba: bool) -> dict[str, Any]:
        """Of (n, n_inputs) numbers."""
        model = self.model
        if proba and not model.is_classes:
            raise _bad("proba: expected a network that ends in classes, and this one answers with numbers")
        try:
            answers = self.answer(model.rows(rows))
        except Wrong as error:
            raise _bad(str(error)) from None
        result = {"predictions": model.predictions(answers).tolist()}
        return {**result, "probabilities": model.probabilities(answers).tolist()} if proba else result

    def read_json(self, body: bytes) -> tuple[np.ndarray, bool]:
        """Rows, and whether probabilities are wanted, of {"rows": [...], "proba": false}."""
        try:
            asked = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _bad(f"expected JSON: {error}") from None
        if not isinstance(asked, dict) or "rows" not in asked or not set(asked) <= {"rows", "proba"}:
            raise _bad('expected {"rows": [[...], ...]} or {"rows": [{...}, ...]}, and "proba": true where wanted')
        rows, proba = asked["rows"], asked.get("proba", False)
        if not isinstance(proba, bool):
            raise _bad("proba: expected true or false")
        if not isinstance(rows, list) or not rows:
            raise _bad("rows: expected a list of rows")
        if isinstance(rows[0], dict):
            rows = [self._by_name(k, row) for k, row in enumerate(rows)]
        return self._numbers(rows), proba

    def read_npy(self, body: bytes) -> np.ndarray:
        """Rows, of an NPY file."""
        try:
            return self._shaped(np.load(io.BytesIO(body), allow_pickle=False))
        except Refused:
            raise
        except Exception as error:  # NumPy's reader raises many kinds, also of tokenize
            raise _bad(f"expected an NPY file of numbers: {error}") from None

    def _by_name(self, k: int, row: Any) -> list[Any]:
        """The values of a row {column: number}, in the network's order."""
        names = self.model.names
        if not names:
            raise _bad("rows: expected lists of numbers, since this network does not know names of columns")
        if not isinstance(row, dict):
            raise _bad(f"rows[{k}]: expected an object as in rows[0]")
        if missing := [name for name in names if name not in row]:
            near = nearest(missing[0], [name for name in row if name not in names])
            raise _bad(f"rows[{k}]: {listed(missing)} missing.{near} Columns: {listed(names, 20)}")
        if len(row) > len(names):
            unexpected = [name for name in row if name not in names]
            raise _bad(f"rows[{k}]: {listed(unexpected)} unexpected. Columns: {listed(names, 20)}")
        return [row[name] for name in names]

    def _numbers(self, rows: list[Any]) -> np.ndarray:
        for k, row in enumerate(rows):
            _check_numbers(f"rows[{k}]", row)  # first: of a word NumPy would make words of all
        try:
            a = np.array(rows, np.float64)
        except (ValueError, OverflowError):
            raise _bad("rows: expected rows of one length, of numbers that float64 can hold") from None
        return self._shaped(a)

    def _shaped(self, a: np.ndarray) -> np.ndarray:
        n, shape = self.model.n_inputs, self.model.shape
        if a.dtype.kind not in "fiu":
            raise _bad("rows: expected numbers, finite and without gaps")
        if not len(a.shape) or a.shape[1:] not in ((n,), shape) or not len(a):
            raise _bad(f"rows: expected rows of {n} numbers, got shape {a.shape}")
        return a.reshape(len(a), n)


def _check_numbers(place: str, value: Any) -> None:
    """Refuses what holds anything but numbers."""
    if isinstance(value, list):
        for k, item in enumerate(value):
            if type(item) not in (float, int):
                _check_numbers(f"{place}[{k}]", item)
    elif type(value) not in (float, int):
        shown = "null" if value is None else f"{type(value).__name__} {str(value)[:20]!r}"
        raise _bad(f"{place}: expected numbers, finite and without gaps, got {shown}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


# ---- HTTP ----


class _Limits(NamedTuple):
    """See the options of `bpcore serve`."""

    connections: int
    body: int
    timeout: float
    names: frozenset[str]

    @classmethod
    def of(cls, options: Namespace) -> _Limits:
        """The names: of hosts that may be asked for, in lower case."""
        names = {"localhost", options.host.lower(), *(name.lower() for name in options.allow_host or ())}
        return cls(options.max_connections, options.max_bytes, options.timeout, frozenset(names))


class Server(socketserver.ThreadingTCPServer):
    """A thread a connection, up to a number; closing waits for requests that were read."""

    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = False

    def __init__(self, app: App, host: str, port: int, limits: _Limits) -> None:
        self.app, self.limits = app, limits
        self.stopping = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__(address[:2], Handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, unless there are as many as may be."""
        with self._lock:
            is_full = len(self._open) >= self.limits.connections
            if not is_full:
                self._open.add(request)
        if is_full:
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(_response(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "too many connections"}, close=True))
            super().shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Connections that wait for a request end; those that have one answer it first."""
        with self._lock:
            self.stopping = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What the network does to a connection is no news; all else is said."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Timed(io.RawIOBase):
    """What a socket receives until a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.deadline = connection, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """The connection's files."""
        super().setup()
        self.rfile.close()
        self._timed = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._timed, 65536)

    def handle_one_request(self) -> None:
        """A request must be there, whole, within the time; the time of waiting for its first byte counts."""
        self._timed.deadline = time.monotonic() + self.server.limits.timeout
        super().handle_one_request()
        if self.server.stopping:
            self.close_connection = True

    def do_GET(self) -> None:
        """/health and /metadata."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """/predict."""
        self._answer(self._predict)

    def _answer(self, method: Any) -> None:
        try:
            self._check_host()
            status, result = HTTPStatus.OK, method()
        except Refused as error:
            status, result = error.status, {"error": str(error)}
        except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            status, result = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}
        if status != HTTPStatus.OK:
            self.close_connection = True  # what was not read of it is no next request
        self._send(status, result)

    def _send(self, status: HTTPStatus, result: dict[str, Any]) -> None:
        self.connection.settimeout(self.server.limits.timeout)
        self.wfile.write(_response(status, result, self.close_connection or self.server.stopping))

    def _check_host(self) -> None:
        """Refuses a name that is not this server's: a page whose name was made to lead here (DNS rebinding)."""
        hosts = self.headers.get_all("Host") or []
        name = _without_port(hosts[0]) if len(hosts) == 1 else ""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return
        if name not in self.server.limits.names:
            raise Refused(
                HTTPStatus.MISDIRECTED_REQUEST, "Host: expected this server's name or address; --allow-host NAME"
            )

    def _get(self) -> dict[str, Any]:
        if self.path == "/health":
            return {"status": "ok"}
        if self.path == "/metadata":
            return self.server.app.metadata
        raise self._no_path()

    def _no_path(self) -> Refused:
        if self.path in ("/health", "/metadata", "/predict"):
            return Refused(
                HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command}: expected GET /health, GET /metadata or POST /predict"
            )
        return Refused(HTTPStatus.NOT_FOUND, "expected GET /health, GET /metadata or POST /predict")

    def _predict(self) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        if path != "/predict" or query not in ("", "proba=true"):
            raise self._no_path()
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in (JSON, NPY):
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type: expected {JSON} or {NPY}")
        body = self._body()
        app = self.server.app
        rows, proba = app.read_json(body) if kind == JSON else (app.read_npy(body), False)
        return app.predict(rows, proba or bool(query))

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length") or []
        if (
            len(lengths) != 1
            or not (lengths[0].isascii() and lengths[0].isdigit())
            or "Transfer-Encoding" in self.headers
        ):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected one Content-Length, and no Transfer-Encoding")
        digits = lengths[0].lstrip("0") or "0"
        if len(digits) > 18 or (n := int(digits)) > self.server.limits.body:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {self.server.limits.body:,} bytes")
        try:
            body = self.rfile.read(n)
        except TimeoutError:
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT, f"expected {n} bytes within {self.server.limits.timeout:g} s"
            ) from None
        if len(body) < n:
            raise ConnectionResetError
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself: a request that is none, another method, headers that are too long."""
        self.close_connection = True
        self._send(HTTPStatus(code), {"error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: one line a request is for whoever stands in front."""


def _without_port(host: str) -> str:
    """A Host header's name or address, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _response(status: HTTPStatus, result: dict[str, Any], close: bool) -> bytes:
    """One piece, so that the system sends one packet."""
    try:
        body = json.dumps(result, allow_nan=False).encode()
    except ValueError:
        status, body = HTTPStatus.INTERNAL_SERVER_ERROR, b'{"error": "the answer is not finite"}'
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
    head += "Connection: close\r\n\r\n" if close else "\r\n"
    return head.encode("ascii") + body
