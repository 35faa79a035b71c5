"""Real servers, as processes on loopback, and raw clients for them."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import resilient

ROOT = Path(__file__).parents[2]
# Real seconds for what must happen, only to end a test that has gone wrong.
GRACE = 30.0

# How to start each, with its port and the application's name to fill in.
COMMANDS = {
    "uvicorn": "uvicorn --port {port} --log-level warning {app}",
    "hypercorn": "hypercorn --bind 127.0.0.1:{port} {app}",
    "hypercorn-trio": "hypercorn --worker-class trio --bind 127.0.0.1:{port} {app}",
    "gunicorn": "gunicorn --threads 8 --bind 127.0.0.1:{port} --log-level warning {app}",
    "waitress": "waitress --threads 8 --listen 127.0.0.1:{port} {app}",
}
ASGI = ["uvicorn", "hypercorn", "hypercorn-trio"]
WSGI = ["gunicorn", "waitress"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(server: str, app: str, port: int, **environ: str) -> subprocess.Popen[bytes]:
    """Start a server process, or skip the test where the server is not installed."""
    module = server.partition("-")[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    command = COMMANDS[server].format(port=port, app=app).split()
    path = os.pathsep.join([str(Path(resilient.__file__).parents[1]), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Served:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=GRACE)

    @contextmanager
    def sending(self, path: str, method: str = "GET", **headers: str) -> Iterator[Any]:
        """A connection on which a request has been sent."""
        with self.connect() as connection:
            connection.sendall(request(path, method, **headers))
            yield connection

    def get(self, path: str, method: str = "GET") -> Answer:
        with self.sending(path, method, Connection="close") as connection:
            return Answer(connection, head_only=method == "HEAD")

    def state(self) -> Any:
        return json.loads(self.get("/state").body)

    def until(self, **wanted: int) -> None:
        """Wait until the server's state is so."""
        end = time.monotonic() + GRACE
        while (found := self.state()) | wanted != found:
            assert time.monotonic() < end, f"{found} instead of {wanted}"
            time.sleep(0.01)


@contextmanager
def serving(server: str, app: str, **environ: str) -> Iterator[Served]:
    """Run a server as a process, from when it accepts connections."""
    served = Served(free_port())
    process = start(server, app, served.port, **environ)
    try:
        end = time.monotonic() + GRACE
        while True:
            assert process.poll() is None, f"{server} has ended"
            try:
                served.connect().close()
                break
            except OSError:
                assert time.monotonic() < end, f"{server} does not listen"
                time.sleep(0.02)
        yield served
    finally:
        stop(process)


def request(path: str, method: str = "GET", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


class Answer:
    """An HTTP/1.1 answer, read from a connection."""

    def __init__(
        self, connection: socket.socket, *, head_only: bool = False, keep: bool = True
    ) -> None:
        self.headers: dict[str, str] = {}
        self.size = 0
        self._parts: list[bytes] = []
        self._keep = keep
        # The server sends nothing ahead that this could swallow: each request waits for it.
        with connection.makefile("rb") as self._file:
            self.status = int(self._file.readline().split()[1])
            while line := self._file.readline().strip():
                name, _, value = line.partition(b":")
                self.headers[name.decode().lower()] = value.decode().strip()
            if not head_only and self.status not in (100, 204, 304):
                self._read()

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    def _read(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self._file.readline(), 16):
                self._take(size)
                self._file.readline()
            self._file.readline()
        elif "content-length" in self.headers:
            self._take(int(self.headers["content-length"]))
        else:
            while part := self._file.read(65_536):
                self._add(part)

    def _take(self, size: int) -> None:
        while size:
            part = self._file.read(min(size, 65_536))
            assert part, "the server has closed in the middle"
            self._add(part)
            size -= len(part)

    def _add(self, part: bytes) -> None:
        self.size += len(part)
        if self._keep:
            self._parts.append(part)
