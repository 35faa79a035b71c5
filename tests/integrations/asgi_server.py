"""A server's side of ASGI, that checks each message, and runs one request at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel


def on_loop(backend: str, test: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run `test(*args)` in a fresh event loop, for at most a while."""

    async def bounded() -> Any:
        with anyio.fail_after(30):
            return await test(*args)

    return anyio.run(bounded, backend=backend)


class Illegal(AssertionError):
    """A message that no server may be sent at this point."""


class Connection:
    """One HTTP request as its server sees it."""

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        chunks: tuple[bytes, ...] = (b"",),
        headers: tuple[tuple[bytes, bytes], ...] = (),
        http_version: str = "1.1",
        trailers: bool = False,
        closed_error: bool = False,
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": http_version,
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {"http.response.trailers": {}} if trailers else {},
        }
        self._requests = [
            {"type": "http.request", "body": body, "more_body": number + 1 < len(chunks)}
            for number, body in enumerate(chunks)
        ]
        self._closed_error = closed_error
        self.gone = anyio.Event()
        self.first_byte = anyio.Event()
        self.finished = anyio.Event()
        self.asked = 0
        self.sent: list[dict[str, Any]] = []
        self.illegal: list[str] = []
        self.error: BaseException | None = None
        self._trailers = False

    async def receive(self) -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        self.asked += 1
        if self._requests and not self.gone.is_set():
            return self._requests.pop(0)
        if not self.finished.is_set():
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self._check(message)
        if self.gone.is_set() and self._closed_error:
            raise OSError("the client has gone")
        if message["type"] == "http.response.debug":
            return
        self.sent.append(dict(message))
        self.first_byte.set()
        if self.complete:
            self.finished.set()

    def _check(self, message: Any) -> None:
        wrong = self._wrong(message)
        if wrong:
            self.illegal.append(wrong)
            raise Illegal(wrong)

    def _wrong(self, message: Any) -> str:
        kind = message["type"]
        if kind == "http.response.start":
            assert isinstance(message["status"], int)
            for name, value in message.get("headers", ()):
                assert type(name) is type(value) is bytes
            return "a second start" if self.sent else ""
        if kind == "http.response.debug":
            return ""
        if kind not in ("http.response.body", "http.response.trailers"):
            return f"unknown: {kind}"
        if not self.sent:
            return f"{kind} before the start"
        return f"{kind} after the end" if self.complete else ""

    @property
    def complete(self) -> bool:
        if not self.sent:
            return False
        last = self.sent[-1]
        if self.sent[0].get("trailers"):
            return last["type"] == "http.response.trailers" and not last.get("more_trailers")
        return last["type"] == "http.response.body" and not last.get("more_body")

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0].get("headers", ())}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    async def serve(self, app: Any) -> Connection:
        """Run the application, as a server does, and keep what it raises."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:
            self.error = error
        return self


async def get(app: Any, path: str = "/", method: str = "GET", **kwargs: Any) -> Connection:
    """One request, from its beginning to the application's end."""
    connection = await Connection(method, path, **kwargs).serve(app)
    assert not connection.illegal
    return connection


def answering(status: int = 200, *chunks: bytes) -> Any:
    """An application that answers so, in chunks."""
    parts = chunks or (b"ok",)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for number, part in enumerate(parts):
            more = number + 1 < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})

    return app
