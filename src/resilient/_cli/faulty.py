"""A real HTTP server on loopback, in a process of its own, whose faults are real.

Every client gets the same faults in the same order, drawn from one seed: answers of 503,
stalls, answers cut off half-way; and an outage in which no connection is answered.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

BODY = b'{"answer": 42}'
STALL = 2.5


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong, and when nothing works at all; in seconds from the start."""

    unavailable: float = 0.08
    stalled: float = 0.03
    cut_off: float = 0.04
    outage_from: float = 6.0
    outage_to: float = 9.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, faults: Faults, seed: int) -> None:
        self.faults = faults
        self.seed = seed
        self.started = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.draws: dict[str, random.Random] = {}
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the show."""

    def fault(self, client: str) -> str:
        """Count a request of `client` and draw what goes wrong with it."""
        at = time.monotonic() - self.started
        with self.lock:
            self.counts[client] += 1
            draw = self.draws.setdefault(client, random.Random(self.seed)).random()
        faults = self.faults
        if faults.outage_from <= at < faults.outage_to:
            return "outage"
        for name in ("unavailable", "stalled", "cut_off"):
            draw -= getattr(faults, name)
            if draw < 0:
                return name
        return "none"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer, or do not."""
        fault = self.server.fault(self.path.strip("/"))
        if fault == "outage":
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "stalled":
            time.sleep(STALL)
        self.send_response(503 if fault == "unavailable" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if fault == "cut_off":
            self.close_connection = True
            self.wfile.write(BODY[: len(BODY) // 2])
        else:
            self.wfile.write(BODY)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing: the demo's own table tells."""


def _serve(pipe: Connection, port: int, faults: Faults, seed: int) -> None:
    # Ctrl-C goes to the whole group; the parent decides when the server ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = _Server(port, faults, seed)
    except OSError:
        # The port is taken: any free one does as well.
        server = _Server(0, faults, seed)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    pipe.send(server.server_address[1])
    while True:
        try:
            word = pipe.recv()
        except EOFError:
            return
        if word == "start":
            server.started = time.monotonic()
            pipe.send(None)
        elif word == "counts":
            pipe.send(dict(server.counts))


class FaultyServer:
    """The server, started and stopped as a block."""

    def __init__(self, faults: Faults, *, port: int = 0, seed: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, port, faults, seed), daemon=True
        )
        self.url = ""

    def __enter__(self) -> FaultyServer:
        self._process.start()
        try:
            if not self._pipe.poll(30):
                raise RuntimeError("the demo's server did not start within 30 s")
            self.url = f"http://127.0.0.1:{self._pipe.recv()}"
        except BaseException:
            self._process.terminate()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join(10)

    def start_clock(self) -> None:
        """Start the timeline of faults."""
        self._ask("start")

    def counts(self) -> dict[str, int]:
        """How many requests of each client have arrived."""
        found: dict[str, int] = self._ask("counts")
        return found

    def _ask(self, word: str) -> Any:
        self._pipe.send(word)
        return self._pipe.recv()
