"""Real HTTP servers on loopback, in processes of their own: what both sides need.

A server's process is a module of this package, run by itself. It prints one line of JSON, its
ports, then one for each word on its standard input. When that closes, it ends: also when
whoever started it is gone.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

# Below the ports that the system gives to clients: nobody takes one while its server is down.
_PORTS: Final = range(20_000, 32_000)
# Seconds for a process to end by itself.
_GRACE: Final = 10


class ServerProcess:
    """The process, started and ended as a block; `ports` are those its servers listen on."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._command = [sys.executable, "-m", module, *map(str, arguments)]
        self._process: subprocess.Popen[str] | None = None
        self.ports: list[int] = []

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with _no_interrupts():
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self.ports = self._read()

    def ask(self, word: str) -> Any:
        """Say a word to it, and return what it answers."""
        stdin = self._running().stdin
        assert stdin is not None
        stdin.write(f"{word}\n")
        stdin.flush()
        return self._read()

    def kill(self) -> None:
        """End it as a crash would, with its answers half-way."""
        process, self._process = self._running(), None
        process.kill()
        process.communicate()

    def stop(self) -> None:
        """End it, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            # Closes its standard input, which it takes as a wish to end.
            process.communicate(timeout=_GRACE)
        finally:
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def _read(self) -> Any:
        stdout = self._running().stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise RuntimeError("the demo's server has ended by itself")
        return json.loads(line)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Have what is started here never see Ctrl-C, which a terminal sends to the whole group.

    It inherits the mask. Here, where any thread may be sent the signal, and a process half
    started would be left behind, it comes when the block ends.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    _mask(signal.SIG_BLOCK)
    try:
        yield
    finally:
        _mask(signal.SIG_UNBLOCK)
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _mask(how: int) -> None:
    if sys.platform != "win32":  # pragma: no branch - it has no masks
        signal.pthread_sigmask(how, {signal.SIGINT})


class Listener(ThreadingHTTPServer):
    """A server that many may connect to at once."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the show."""


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open, and says nothing: the demo's own tables tell."""

    protocol_version = "HTTP/1.1"
    # Else the body waits for the acknowledgement of the headers: 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing."""

    def answer(self, status: int, body: bytes, *, sent: int | None = None) -> None:
        """Send an answer, or so many bytes of its body."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])


def any_port(make: Callable[[int], Listener]) -> Listener:
    """Make a server on a port that nobody has."""
    while True:
        try:
            return make(random.choice(_PORTS))
        except OSError:
            continue


def serve(servers: Sequence[Listener], answer: Callable[[str], object] | None = None) -> None:
    """Run servers in this process until its standard input is closed."""
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    _say([server.server_port for server in servers])
    for line in sys.stdin:
        _say(answer(line.strip()) if answer is not None else None)


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
