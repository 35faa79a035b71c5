"""The middlewares: what they add to a request, and what they do for an overloaded service.

The servers are processes of their own on loopback; with and without the middleware take
turns, a fifth of a second each. Where the system tells it, a server's second is one of its
CPU time: that is what bounds it, and other work on the machine counts less.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import uvicorn

import resilient as r
from resilient.asgi import ResilienceMiddleware
from resilient.wsgi import ResilienceMiddleware as WsgiMiddleware

from bench import edge_apps
from bench.edge_apps import END, ByHand
from bench.harness import Async, Bar, Row, Sync, Table, added_async, added_sync
from bench.overload import Outcome, offered

REQUEST = b"GET /items/7?q=x HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONNECTIONS = 16
ROUNDS = 30
SLICE = 0.2
# Only to end a run that has gone wrong.
GRACE = 30.0


def tables() -> list[Table]:
    """All of them."""
    return [asgi(), wsgi(), served(), shed()]


# Around an empty application, without a server.


def _asked(app: Any) -> Async:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        return None

    async def request(x: int) -> None:
        await app(scope, receive, send)

    return request


def asgi() -> Table:
    """Nanoseconds that the ASGI middleware adds to a request."""
    app = edge_apps.empty
    apps: dict[str, Any] = {
        "by hand: sees the status": ByHand(app),
        "Bulkhead": ResilienceMiddleware(app, r.Bulkhead(100)),
        "Bulkhead, CircuitBreaker": ResilienceMiddleware(
            app, r.Pipeline(r.CircuitBreaker(), r.Bulkhead(100))
        ),
        "Bulkhead, Timeout": ResilienceMiddleware(app, r.Pipeline(r.Bulkhead(100), r.Timeout(5))),
    }
    found = added_async({name: _asked(one) for name, one in apps.items()}, _asked(app))
    hand = found["by hand: sees the status"]
    return Table(
        "ASGI: a request to an empty application, no server",
        [Row(name, ns, f"{ns / hand:.1f}x") for name, ns in found.items()],
        [Bar("Bulkhead, of the wrapper by hand", found["Bulkhead"] / hand, 3)],
    )


def _wsgi_empty(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"ok"]


def _wsgi_by_hand(environ: Any, start_response: Any) -> list[bytes]:
    def seeing(status: str, headers: Any, exc_info: Any = None) -> Any:
        return start_response(status, headers, exc_info)

    return _wsgi_empty(environ, seeing)


def _wsgi_asked(app: Any) -> Sync:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        return None

    def request(x: int) -> None:
        answer = app(environ, start_response)
        for _ in answer:
            pass
        if hasattr(answer, "close"):
            answer.close()

    return request


def wsgi() -> Table:
    """Nanoseconds that the WSGI middleware adds to a request."""
    apps: dict[str, Any] = {
        "by hand: sees the status": _wsgi_by_hand,
        "Bulkhead": WsgiMiddleware(_wsgi_empty, r.Bulkhead(100)),
        "Bulkhead, CircuitBreaker": WsgiMiddleware(
            _wsgi_empty, r.Pipeline(r.CircuitBreaker(), r.Bulkhead(100))
        ),
    }
    found = added_sync(
        {name: _wsgi_asked(one) for name, one in apps.items()}, _wsgi_asked(_wsgi_empty)
    )
    return Table(
        "WSGI: a request to an empty application, no server",
        [Row(name, ns) for name, ns in found.items()],
    )


# Behind uvicorn.


@dataclass(frozen=True)
class _Server:
    port: int
    pid: int

    def clock(self) -> float:
        """Seconds that it has worked, or that have passed."""
        worked = Path(f"/proc/{self.pid}/schedstat")
        return int(worked.read_text().split()[0]) / 1e9 if worked.exists() else time.perf_counter()


@contextmanager
def _uvicorn(app: str) -> Iterator[_Server]:
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
        yield _Server(port, process.pid)
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


def _rate(server: _Server) -> float:
    """Requests per second, each connection sending its next one when the last is answered."""
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            waiting.register(connection, selectors.EVENT_READ)
            connection.sendall(REQUEST)
        answered = 0
        started, end = server.clock(), time.perf_counter() + SLICE
        while time.perf_counter() < end:
            for key, _ in waiting.select(GRACE):
                connection = key.fileobj  # type: ignore[assignment]
                # The head and the body may come apart.
                if connection.recv(65_536).endswith(END):
                    connection.sendall(REQUEST)
                    answered += 1
        return answered / (server.clock() - started)


def _rates(*apps: str) -> dict[str, tuple[float, float]]:
    """Each application's requests per second, and what that is of the first one's."""
    with ExitStack() as stack:
        servers = {app: stack.enter_context(_uvicorn(app)) for app in apps}
        found: dict[str, list[float]] = {app: [] for app in apps}
        for app in [*apps, *apps[::-1]] * (ROUNDS // 2):
            found[app].append(_rate(servers[app]))
    first = found[apps[0]]
    return {
        app: (
            statistics.median(rates),
            statistics.median(own / plain for own, plain in zip(rates, first, strict=True)),
        )
        for app, rates in found.items()
    }


def served() -> Table:
    """Requests per second of uvicorn, with the middleware and without."""
    routed = _rates("routed", "routed_guarded")
    empty = _rates("empty", "empty_by_hand", "empty_guarded")
    parts = [f"{name} {version(name)}" for name in ("httptools", "uvloop") if find_spec(name)]
    labels = {
        "routed": "a route of Starlette, JSON",
        "routed_guarded": "the same, with Bulkhead",
        "empty": "an empty application",
        "empty_by_hand": "the same, with the wrapper by hand",
        "empty_guarded": "the same, with Bulkhead",
    }
    return Table(
        f"uvicorn {uvicorn.__version__}, {', '.join(parts) or 'h11'}, one process",
        [
            Row(labels[app], rate, f"{ratio:.3f}x")
            for app, (rate, ratio) in (routed | empty).items()
        ],
        [Bar("the route without, of with it", 1 / routed["routed_guarded"][1], 1 / 0.95)],
        column="requests/s",
    )


# At twice what the application can do.


def _overloaded(app: str, rate: float) -> Outcome:
    with _uvicorn(app) as server:
        return asyncio.run(offered(server.port, rate))


def shed() -> Table:
    """Twice the capacity: what is answered in time, with shedding and without."""
    capacity = edge_apps.POOL / edge_apps.HELD
    without = _overloaded("pooled", 2 * capacity)
    shedding = _overloaded("pooled_guarded", 2 * capacity)
    return Table(
        f"an application that can do {capacity:.0f}/s, asked {2 * capacity:.0f}/s by clients "
        "that wait for 1 s",
        [
            Row("without the middleware", without.per_second, without.note),
            Row("with Bulkhead", shedding.per_second, shedding.note),
        ],
        [Bar("answered without, of with it", without.per_second / shedding.per_second, 0.5)],
        column="answered/s",
    )
