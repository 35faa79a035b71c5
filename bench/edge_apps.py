"""Applications for a real uvicorn to serve, each with and without the middleware."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resilient import Bulkhead
from resilient.asgi import ResilienceMiddleware

# The end of every answer, by which a client knows that it has all of it.
END = b'"ok"}'
BODY = b'{"state":"ok"}'

# A pool of connections, say: what bounds the last application.
POOL = 2
HELD = 0.010
# As many run as the pool has, and as many again wait for it; the rest is refused.
SHED_ABOVE = 2 * POOL

HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"14")]}


async def empty(scope: Any, receive: Any, send: Any) -> None:
    """The least that is an answer."""
    if scope["type"] == "http":
        await send(HEAD)
        await send({"type": "http.response.body", "body": BODY})


class ByHand:
    """What an engineer writes to see each answer's status."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def seeing(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(scope, receive, seeing)


async def _item(request: Request) -> JSONResponse:
    request.path_params["number"], request.query_params.get("q")
    return JSONResponse({"state": "ok"})


routed = Starlette(routes=[Route("/items/{number:int}", _item)])

_pool = asyncio.Semaphore(POOL)


async def pooled(scope: Any, receive: Any, send: Any) -> None:
    """An answer for which something scarce is held for a while."""
    if scope["type"] == "http":
        async with _pool:
            await asyncio.sleep(HELD)
        await empty(scope, receive, send)


empty_by_hand = ByHand(empty)
empty_guarded = ResilienceMiddleware(empty, Bulkhead(1000))
routed_by_hand = ByHand(routed)
routed_guarded = ResilienceMiddleware(routed, Bulkhead(1000))
pooled_guarded = ResilienceMiddleware(pooled, Bulkhead(SHED_ABOVE))
