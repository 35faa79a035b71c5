"""A server's side of WSGI, with `wsgiref.validate` between it, the middleware and the app."""

from __future__ import annotations

import io
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from resilient.wsgi import ResilienceMiddleware


def environ_of(
    method: str = "GET", path: str = "/", body: bytes = b"", **more: Any
) -> dict[str, Any]:
    """What a server passes for such a request."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path}
    environ["QUERY_STRING"] = ""
    setup_testing_defaults(environ)
    environ["wsgi.input"] = io.BytesIO(body)
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ | more


def protect(app: Any, policy: Any, **options: Any) -> Any:
    """The middleware with a validator on both of its sides; `.drain` is the middleware's."""
    middleware = ResilienceMiddleware(validator(app), policy, **options)
    protected: Any = validator(middleware)
    protected.drain = middleware.drain
    return protected


class Exchange:
    """One request as its server sees it. `close()` is the server's, at the end."""

    def __init__(self, app: Any, method: str = "GET", path: str = "/", **more: Any) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.written: list[bytes] = []
        self.environ = environ_of(method, path, **more)
        self.iterable = app(self.environ, self._start_response)
        self.chunks = iter(self.iterable)

    def _start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info and self.written:
            raise exc_info[1].with_traceback(exc_info[2])
        assert self.status is None or exc_info, "a second start_response"
        self.status = int(status[:3])
        self.headers = {name.lower(): value for name, value in headers}
        return self.written.append

    def read(self) -> bytes:
        """All of the answer, to the server's close."""
        try:
            for chunk in self.chunks:
                self.written.append(chunk)
        finally:
            self.close()
        return b"".join(self.written)

    def close(self) -> None:
        close = getattr(self.iterable, "close", None)
        if close is not None:
            close()


def get(app: Any, path: str = "/", method: str = "GET", **more: Any) -> Exchange:
    """One request, from its beginning to its end."""
    exchange = Exchange(app, method, path, **more)
    exchange.read()
    return exchange


class Chunks:
    """An application's iterable that counts how often it is closed."""

    def __init__(self, *chunks: Any) -> None:
        self._chunks = iter(chunks)
        self.closed = 0

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk() if callable(chunk) else chunk

    def close(self) -> None:
        self.closed += 1


HEADERS = [("Content-Type", "text/plain")]


def answering(status: str = "200 OK", *chunks: Any) -> Any:
    """An application that answers so; a chunk may be an exception, or called for a chunk."""
    made: list[Chunks] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, HEADERS)
        made.append(Chunks(*(chunks or (b"ok",))))
        return made[-1]

    app.made = made  # type: ignore[attr-defined]
    return app
