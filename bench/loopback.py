"""A uvicorn as a process on loopback, and clients that keep it busy."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resilient as r

from bench.edge_apps import END

REQUEST = b"GET /items/7?q=x HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONNECTIONS = 16
REQUESTS = 400
# Only to end a run that has gone wrong.
GRACE = 30.0


@dataclass(frozen=True)
class Server:
    """A uvicorn that serves."""

    port: int
    pid: int

    def clock(self) -> float:
        """Seconds that it has worked, or that have passed."""
        worked = Path(f"/proc/{self.pid}/schedstat")
        return int(worked.read_text().split()[0]) / 1e9 if worked.exists() else time.perf_counter()


@contextmanager
def serving(app: str) -> Iterator[Server]:
    """Serve an application of `edge_apps`, from when it accepts connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = f"-m uvicorn bench.edge_apps:{app} --port {port} --log-level warning"
    path = os.pathsep.join([str(Path(r.__file__).parents[1]), str(Path(__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, *command.split(), "--no-access-log", "--backlog", "8192"],
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        _listening(process, port)
        yield Server(port, process.pid)
    finally:
        process.kill()
        process.wait()


def _listening(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=GRACE).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("uvicorn does not listen")


class Clients:
    """Connections to one server, each sending its next request when the last is answered."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._server = server
        self._waiting = stack.enter_context(selectors.DefaultSelector())
        address = ("127.0.0.1", server.port)
        self._all = [
            stack.enter_context(socket.create_connection(address)) for _ in range(CONNECTIONS)
        ]
        for connection in self._all:
            self._waiting.register(connection, selectors.EVENT_READ)

    def rate(self) -> float:
        """Send some requests: how many are answered per second."""
        started = self._server.clock()
        for connection in self._all:
            connection.sendall(REQUEST)
        to_send, answers = REQUESTS - CONNECTIONS, REQUESTS
        while answers:
            for connection in self._answered():
                answers -= 1
                if to_send:
                    connection.sendall(REQUEST)
                    to_send -= 1
        return REQUESTS / (self._server.clock() - started)

    def _answered(self) -> Iterator[socket.socket]:
        ready: Any = self._waiting.select(GRACE)
        if not ready:
            raise RuntimeError("uvicorn does not answer")
        for key, _ in ready:
            # The head and the body may come apart.
            if key.fileobj.recv(65_536).endswith(END):
                yield key.fileobj
