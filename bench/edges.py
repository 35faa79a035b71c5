"""The middlewares: what they add to a request, and what they do for an overloaded service.

The servers are processes of their own on loopback; with and without the middleware take
turns, a few hundred requests each. Where the system tells it, a server's second is one of its
CPU time: that is what bounds it, and other work on the machine counts less.
"""

from __future__ import annotations

import asyncio
import statistics
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import uvicorn

import resilient as r
from resilient.asgi import ResilienceMiddleware
from resilient.wsgi import ResilienceMiddleware as WsgiMiddleware

from bench import edge_apps
from bench.edge_apps import ByHand
from bench.harness import Async, Bar, Row, Sync, Table, added_async, added_sync
from bench.loopback import Clients, serving
from bench.overload import Outcome, offered

ROUNDS = 120


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


def _rates(*apps: str) -> dict[str, tuple[float, float]]:
    """Each application's requests per second, and what that is of the first one's.

    That is the upper quartile of many short runs: what else the machine does only slows them.
    """
    with ExitStack() as stack:
        clients = {app: Clients(stack.enter_context(serving(app)), stack) for app in apps}
        found: dict[str, list[float]] = {app: [] for app in apps}
        for app in [*apps, *apps[::-1]] * (ROUNDS // 2):
            found[app].append(clients[app].rate())
    rates = {app: statistics.quantiles(found[app], n=4)[2] for app in apps}
    return {app: (rate, rate / rates[apps[0]]) for app, rate in rates.items()}


def served() -> Table:
    """Requests per second of uvicorn, with the middleware and without."""
    routed = _rates("routed", "routed_by_hand", "routed_guarded")
    empty = _rates("empty", "empty_by_hand", "empty_guarded")
    parts = [f"{name} {version(name)}" for name in ("httptools", "uvloop") if find_spec(name)]
    labels = {
        "routed": "a route of Starlette, JSON",
        "routed_by_hand": "the same, with the wrapper by hand",
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
    with serving(app) as server:
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
