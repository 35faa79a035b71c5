"""Any application, any server: one head before the chunks, one `close()`, and whole permits."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import Bulkhead, CircuitBreaker, Fallback, PerKey, Pipeline, Retry, Timeout
from resilient.wsgi import ResilienceMiddleware

from tests.integrations.wsgi_server import HEADERS, answering, environ_of

ERRORS = st.sampled_from([ConnectionError, ValueError])
# What the application does before it returns.
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(["200 OK", "404 No", "500 Broken"])),
        st.tuples(st.just("restart"), st.just("503 Broken")),
        st.tuples(st.just("write"), st.just(b"w")),
        st.tuples(st.just("raise"), ERRORS),
    ),
    max_size=4,
)
CHUNKS = st.lists(st.one_of(st.sampled_from([b"x", b""]), ERRORS), max_size=4)


class Iterable:
    """An application's iterable; it may have no `close`, or one that raises."""

    def __init__(self, chunks: Any, late: Any) -> None:
        self._chunks = iter(chunks)
        self._late = late
        self.closed = 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> bytes:
        late, self._late = self._late, None
        if late is not None:
            late()
        chunk = next(self._chunks)
        if isinstance(chunk, type):
            raise chunk
        return chunk

    def close(self) -> None:
        self.closed += 1


class Illegal(BaseException):
    """The middleware has broken the protocol."""


class Server:
    """Checks what it is given, as PEP 3333 says."""

    def __init__(self) -> None:
        self.heads = 0
        self.bytes = 0

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info and self.bytes:
            raise exc_info[1]
        if self.heads and not exc_info:
            raise Illegal("a second head")
        self.heads += 1
        return self.send

    def send(self, data: bytes) -> None:
        if not self.heads:
            raise Illegal("a chunk before the head")
        self.bytes += len(data)

    def serve(self, app: Any, stop_after: int) -> None:
        iterable = app(environ_of(), self.start_response)
        try:
            for number, chunk in enumerate(iterable):
                if number == stop_after:
                    break
                self.send(chunk)
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()


def play(calls: Any, chunks: Any, lazily: bool, made: list[Iterable]) -> Any:
    """An application that does so, in its call or in its iterable's first step."""

    def app(environ: Any, start_response: Any) -> Any:
        def act() -> None:
            write: Any = None
            for kind, value in calls:
                if kind == "start":
                    write = start_response(value, HEADERS)
                elif kind == "restart":
                    try:
                        raise KeyError(kind)
                    except KeyError:
                        write = start_response(value, HEADERS, sys.exc_info())
                elif kind == "write" and write is not None:
                    write(value)
                elif kind == "raise":
                    raise value

        if not lazily:
            act()
        made.append(Iterable(chunks, act if lazily else None))
        return made[-1]

    return app


def policies(name: str, bulkhead: Bulkhead) -> Any:
    match name:
        case "plain":
            return bulkhead
        case "all":
            return Pipeline(
                Fallback(value=answering()),
                Retry(on=(ConnectionError, TimeoutError), backoff=[0]),
                CircuitBreaker(minimum_calls=1),
                bulkhead,
                Timeout(60, sync="deadline"),
            )
        case "thread":
            return Pipeline(bulkhead, Timeout(60, sync="thread"))
    return PerKey(lambda key: Pipeline(Retry(on=OSError, backoff=[0]), bulkhead), key=lambda *a: 0)


@pytest.mark.parametrize("name", ["plain", "all", "thread", "per key"])
@settings(max_examples=150, deadline=None)
@given(calls=CALLS, chunks=CHUNKS, lazily=st.booleans(), stop_after=st.integers(-1, 4))
def test_any_application(name, calls, chunks, lazily, stop_after):
    """Whatever it starts, writes, yields and raises, and wherever the server stops."""
    bulkhead = Bulkhead(2)
    made: list[Iterable] = []
    middleware = ResilienceMiddleware(play(calls, chunks, lazily, made), policies(name, bulkhead))
    with suppress(ConnectionError, ValueError, KeyError, AssertionError):
        Server().serve(middleware, stop_after)
    assert [one.closed for one in made] == [1] * len(made)
    assert bulkhead.snapshot().active == 0
    assert middleware.drain(0) is True
