"""A real HTTP/1.1 server in threads, on loopback, that answers as it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Real seconds after which nothing here waits any longer.
BOUND = 20


@dataclass
class Answer:
    """What to answer. `gate` is waited for before the head, `body_gate` before the body."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False
    gate: threading.Event | None = None
    body_gate: threading.Event | None = None
    hang_up: bool = False
    # What the head says of the body, if that is not true.
    length: int | None = None


@dataclass
class Seen:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Server(ThreadingHTTPServer):
    """Answers by `answer`, a function of the number of the request, from 1, and of it."""

    block_on_close = True
    daemon_threads = False

    def __init__(self, answer: Callable[[int, Seen], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.seen: list[Seen] = []
        self.connections = 0
        self.gates: list[threading.Event] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gate(self) -> threading.Event:
        """A gate that the end of the test opens, if nobody else does."""
        self.gates.append(threading.Event())
        return self.gates[-1]

    def get_request(self) -> tuple[socket.socket, Any]:
        found = super().get_request()
        self.connections += 1
        self._sockets.append(found[0])
        return found

    def note(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            number = len(self.seen)
        return self.answer(number, seen)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what some tests are about."""

    def stop(self) -> None:
        for gate in self.gates:
            gate.set()
        self.shutdown()
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already
        self.server_close()
        self._thread.join(BOUND)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = BOUND
    disable_nagle_algorithm = True
    server: Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _serve(self) -> None:
        seen = Seen(self.command, self.path, dict(self.headers.items()), self._body())
        answer = self.server.note(seen)
        if answer.gate is not None:
            answer.gate.wait(BOUND)
        if answer.hang_up:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            length = len(answer.body) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
            self.close_connection = self.close_connection or length > len(answer.body)
        self.end_headers()
        self.wfile.flush()
        if answer.body_gate is not None:
            answer.body_gate.wait(BOUND)
        if self.command != "HEAD":
            self._write(answer)

    def _write(self, answer: Answer) -> None:
        if not answer.chunked:
            self.wfile.write(answer.body)
            return
        for start in range(0, len(answer.body), 16_384):
            part = answer.body[start : start + 16_384]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def answers(*given: Answer | int) -> Callable[[int, Seen], Answer]:
    """Give these answers in turn, a number being a status; the last one stays."""
    found = [Answer(one, f"answer {one}".encode()) if isinstance(one, int) else one
             for one in given]  # fmt: skip

    def answer(number: int, seen: Seen) -> Answer:
        return found[min(number, len(found)) - 1]

    return answer
