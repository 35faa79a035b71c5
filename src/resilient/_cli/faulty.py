"""A real HTTP server on loopback, in a process of its own, whose faults are real.

Every client gets the same faults in the same order, drawn from one seed: answers of 503,
stalls, answers cut off half-way; and an outage in which no connection is answered.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Any, Final

from resilient._cli.servers import Handler, Listener, ServerProcess, any_port, serve

BODY: Final = b'{"answer": 42}'
# Seconds that a stalled answer takes.
STALL: Final = 2.5


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong, and when nothing works at all; in seconds from the start."""

    unavailable: float = 0.08
    stalled: float = 0.03
    cut_off: float = 0.04
    outage_from: float = 6.0
    outage_to: float = 9.0


class FaultyServer:
    """The server, started and stopped as a block."""

    def __init__(self, faults: Faults, *, port: int = 0, seed: int = 0) -> None:
        self._process = ServerProcess(__name__, port, seed, *astuple(faults))

    def __enter__(self) -> FaultyServer:
        self._process.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._process.ports[0]}"

    def start_clock(self) -> None:
        """Start the timeline of faults."""
        self._process.ask("start")

    def counts(self) -> dict[str, int]:
        """How many requests of each client have arrived."""
        found: dict[str, int] = self._process.ask("counts")
        return found


class _Server(Listener):
    """Draws the faults and counts the requests, in the server's process."""

    def __init__(self, port: int, seed: int, faults: Faults) -> None:
        self._faults = faults
        self._seed = seed
        self._started = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._draws: dict[str, random.Random] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Answers)

    def fault(self, client: str) -> str:
        """Count a request of `client` and draw what goes wrong with it."""
        at = time.monotonic() - self._started
        with self._lock:
            self._counts[client] += 1
            draw = self._draws.setdefault(client, random.Random(self._seed)).random()
        if self._faults.outage_from <= at < self._faults.outage_to:
            return "outage"
        for name in ("unavailable", "stalled", "cut_off"):
            draw -= getattr(self._faults, name)
            if draw < 0:
                return name
        return "none"

    def told(self, word: str) -> dict[str, int]:
        """Do what the demo's process says."""
        if word == "start":
            self._started = time.monotonic()
        with self._lock:
            return dict(self._counts)


class _Answers(Handler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:  # noqa: N802 - the base's name
        """Answer, or do not."""
        fault = self.server.fault(self.path.strip("/"))
        if fault == "outage":
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "stalled":
            time.sleep(STALL)
        if fault == "cut_off":
            self.close_connection = True
        self.answer(
            503 if fault == "unavailable" else 200,
            BODY,
            sent=len(BODY) // 2 if fault == "cut_off" else None,
        )


def _main(port: str, seed: str, *faults: str) -> None:
    def make(port: int) -> _Server:
        return _Server(port, int(seed), Faults(*map(float, faults)))

    server: Any
    try:
        server = make(int(port))
    except OSError:
        # The port is taken: any other one does as well.
        server = any_port(make)
    serve([server], server.told)


if __name__ == "__main__":
    _main(*sys.argv[1:])
