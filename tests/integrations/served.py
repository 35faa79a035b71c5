"""Applications for real servers to serve, that tests can hold, watch and let go."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Iterator
from typing import Any

import anyio

from resilient import Bulkhead, Pipeline, Retry, Timeout
from resilient.asgi import ResilienceMiddleware as AsgiMiddleware
from resilient.wsgi import ResilienceMiddleware as WsgiMiddleware

LIMIT = 3
BLOCK = b"\0" * 65_536
BLOCKS = 4_096  # 256 MB in all

door = Bulkhead(LIMIT)
EXEMPT = ["/state", "/release"]


def state(**more: Any) -> bytes:
    """How it stands: permits that are taken, and the most memory used so far, in kB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return json.dumps({"active": door.snapshot().active, "peak": peak} | more).encode()


class Gate:
    """Holds requests until one to `/release` lets all of them go."""

    def __init__(self) -> None:
        self._open: anyio.Event | None = None

    async def wait(self) -> None:
        self._open = self._open or anyio.Event()
        await self._open.wait()

    def release(self) -> None:
        if self._open is not None:
            self._open.set()
            self._open = None


gate = Gate()
in_background: list[int] = []


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        await ROUTES.get(scope["path"], answer)(scope, receive, send)


async def answer(
    scope: Any, receive: Any, send: Any, body: bytes = b"ok", status: int = 200
) -> None:
    headers = [] if status == 304 else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def show_state(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send, state(background=len(in_background)))


async def hold(scope: Any, receive: Any, send: Any) -> None:
    await gate.wait()
    await answer(scope, receive, send)


async def release(scope: Any, receive: Any, send: Any) -> None:
    gate.release()
    await answer(scope, receive, send)


async def big(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(BLOCKS):
        await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def endless(scope: Any, receive: Any, send: Any) -> None:
    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    await send({"type": "http.response.start", "status": 200, "headers": []})
    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await anyio.sleep(0.01)


async def upload(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(scope, receive, send, b"%d" % size)


async def not_modified(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send, b"", 304)


async def background(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send)
    await gate.wait()
    in_background.append(1)


ROUTES: dict[str, Any] = {
    "/state": show_state,
    "/hold": hold,
    "/release": release,
    "/big": big,
    "/endless": endless,
    "/upload": upload,
    "/304": not_modified,
    "/background": background,
}


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup" and "FAIL_STARTUP" in os.environ:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


asgi = AsgiMiddleware(asgi_app, Pipeline(Timeout(120), door), exclude=EXEMPT)

held = threading.Event()


def wsgi_app(environ: Any, start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    body = b"ok"
    if path == "/state":
        body = state()
    elif path == "/hold":
        held.wait(60)
    elif path == "/release":
        held.set()
    elif path == "/upload":
        body = b"%d" % len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    elif path == "/304":
        start_response("304 Not Modified", [])
        return []
    elif path in ("/big", "/endless"):
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return blocks(BLOCKS if path == "/big" else None)
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def blocks(count: int | None) -> Iterator[bytes]:
    while count is None or count > 0:
        yield BLOCK
        count = None if count is None else count - 1


wsgi = WsgiMiddleware(wsgi_app, Pipeline(Retry(on=ConnectionError), door), exclude=EXEMPT)
