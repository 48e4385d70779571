"""How many requests of one row `bpcore serve` answers in a second, whether all are right, and whether memory grows.

    python bench/bench_serve.py [--clients 8] [--requests 100000] [--net 64-128-10]

The server is a process of its own, and so are the clients, four threads each over connections that are kept; all share
this machine's cores.  Each client knows the right answers and counts wrong ones.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROWS = 64
THREADS = 4  # of a client process


def main() -> int:
    """Prints a table; status 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--net", default="64-128-10")
    parser.add_argument("--quick", action="store_true", help="see that it works")
    options = parser.parse_args()
    requests = 2000 if options.quick else options.requests
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        bodies, answers = prepare(path, [int(n) for n in options.net.split("-")])
        with serving(path) as (pid, port):
            clock(port, bodies, answers, options.clients, requests // 10)  # all that is made once is made
            before = memory(pid)
            seconds, wrong = clock(port, bodies, answers, options.clients, requests)
            grown = memory(pid) - before
    done = requests // options.clients * options.clients
    print(
        f"{options.net}, {options.clients} clients, {os.cpu_count()} cores: {done / seconds:,.0f} requests a second, ",
        end="",
    )
    print(f"{wrong} of {done:,} answers wrong, memory grown by {grown:,} KiB")
    return int(wrong > 0)


def prepare(path: Path, sizes: list[int]) -> tuple[list[bytes], list[list[float]]]:
    """A network in a file; requests of one row, and the probabilities that are right."""
    import bpcore as bp

    hidden = [bp.Dense(units, "relu") for units in sizes[1:-1]]
    net = bp.Network([bp.Input(sizes[0]), *hidden, bp.Dense(sizes[-1], "softmax")], seed=0)
    net.save(path)
    X = np.random.default_rng(0).normal(size=(ROWS, sizes[0])).round(4)
    bodies = [json.dumps({"rows": [row], "proba": True}).encode() for row in X.tolist()]
    return bodies, net.predict(X).tolist()


@contextlib.contextmanager
def serving(path: Path):
    """Process and port of a server."""
    command = [sys.executable, "-m", "bpcore", "serve", str(path), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r":(\d+)/predict", process.stderr.readline())
            yield process.pid, int(found[1])
        finally:
            process.terminate()


def memory(pid: int) -> int:
    """KiB that a process has in memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def clock(port: int, bodies: list[bytes], answers: list[list[float]], clients: int, requests: int) -> tuple[float, int]:
    """Seconds, and wrong answers."""
    counts = [THREADS] * (clients // THREADS) + ([clients % THREADS] if clients % THREADS else [])
    barrier = multiprocessing.Barrier(len(counts) + 1)
    wrong = multiprocessing.Value("l", 0)
    share = (port, bodies, answers, requests // clients, barrier, wrong)
    processes = [multiprocessing.Process(target=many, args=(count, *share)) for count in counts]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.perf_counter()
    for process in processes:
        process.join()
    return time.perf_counter() - start, wrong.value


def many(count: int, port: int, bodies: list[bytes], answers: list[list[float]], n: int, barrier, wrong) -> None:
    """Clients of one process."""
    barrier.wait()
    threads = [threading.Thread(target=one, args=(k, port, bodies, answers, n, wrong)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def one(k: int, port: int, bodies: list[bytes], answers: list[list[float]], n: int, wrong) -> None:
    """Asks n times over one connection, as cheaply as Python can, and compares."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [head + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as file:
        for i in range(k, k + n):
            connection.sendall(requests[i % ROWS])
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.startswith(b"Content-Length:"):
                    length = int(line[15:])
            found = json.loads(file.read(length))
            if found["probabilities"] != [answers[i % ROWS]]:
                with wrong.get_lock():
                    wrong.value += 1


if __name__ == "__main__":
    sys.exit(main())
