"""A service that sheds load at its door, and protects the calls that it makes itself.

Run it under any ASGI server::

    uvicorn examples.asgi_app:app
    hypercorn examples.asgi_app:app

`/quote` asks another service, at the host and port that `UPSTREAM` names; `/report` streams;
`/order` goes on working after its answer; `/healthz` is always answered.
"""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping
from typing import Any

import anyio
import anyio.lowlevel

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    RejectedError,
    Retry,
    Timeout,
    remaining,
)
from resilient.asgi import ResilienceMiddleware

Message = MutableMapping[str, Any]

# Inbound: at most 50 requests at once and 50 more in the queue, none longer than 5 s. What is
# over that gets 503 at once, instead of an answer that nobody waits for any more.
door = Bulkhead(50, max_queue=50, max_wait=1, name="door")
inbound = Pipeline(Timeout(5), door, name="inbound")

# Outbound: two attempts within what is left of the request's time.
outbound = Pipeline(
    Timeout(2),
    Retry(on=(OSError, anyio.EndOfStream), attempts=2),
    CircuitBreaker(consecutive_failures=5, open_for=10),
    name="quotes",
)


@outbound
async def quote(host: str, port: int) -> bytes:
    """Ask the other service, and tell it how long the answer is waited for."""
    async with await anyio.connect_tcp(host, port) as stream:
        left = remaining(default=2)
        head = f"GET / HTTP/1.0\r\nHost: {host}\r\nX-Time-Left: {left:.3f}\r\n\r\n"
        await stream.send(head.encode())
        answer = b""
        async for part in stream:
            answer += part
    status, _, rest = answer.partition(b"\r\n")
    if b" 200 " not in status:
        raise ConnectionError(f"the other service answered {status.decode('latin-1')}")
    return rest.partition(b"\r\n\r\n")[2]


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def service(scope: Message, receive: Any, send: Any) -> None:
    """The application itself, which knows nothing of the policies at its door."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    match scope["path"]:
        case "/healthz":
            found = door.snapshot()
            await answer(send, 200, json.dumps({"active": found.active}).encode())
        case "/quote":
            await answer_quote(send)
        case "/report":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for number in range(100):
                line = b"line %d\n" % number
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        case "/order":
            await answer(send, 202, b"accepted\n")
            # The answer is out: this holds no permit, and has no deadline.
            await anyio.lowlevel.checkpoint()
        case _:
            await answer(send, 404, b"not found\n")


async def answer_quote(send: Any) -> None:
    host, _, port = os.environ.get("UPSTREAM", "127.0.0.1:9").partition(":")
    try:
        found = await quote(host, int(port))
    except (OSError, RejectedError, anyio.EndOfStream):
        await answer(send, 502, b"no quote to be had now\n")
    else:
        await answer(send, 200, found)


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


app = ResilienceMiddleware(service, inbound, exclude=["/healthz"], deadline_header="X-Time-Left")
