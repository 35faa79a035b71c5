"""Any application, any client: the server sees legal messages, and the permits are whole."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import Bulkhead, CircuitBreaker, Fallback, PerKey, Pipeline, Retry, Timeout
from resilient.asgi import ResilienceMiddleware

from tests.integrations.asgi_server import Connection, answering, on_loop

Script = list[tuple[str, Any]]

STEPS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from([200, 204, 404, 500, 503])),
    st.tuples(st.just("body"), st.booleans()),
    st.tuples(st.just("trailers"), st.booleans()),
    st.tuples(st.just("receive"), st.none()),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("child"), st.booleans()),
    st.tuples(st.just("raise"), st.sampled_from([ConnectionError, ValueError, OSError])),
)
# What happens at the server, and at which of its messages.
EVENTS = st.tuples(
    st.sampled_from(["nothing", "disconnect", "cancel"]), st.integers(min_value=0, max_value=6)
)
ANSWER: Script = [("start", 200), ("body", True), ("body", False)]


def play(script: Script) -> Any:
    """An application that does what the script says, swallowing what it is told is illegal."""

    async def step(kind: str, value: Any, receive: Any, send: Any) -> None:
        if kind == "start":
            await send({"type": "http.response.start", "status": value, "headers": []})
        elif kind == "body":
            await send({"type": "http.response.body", "body": b"x", "more_body": value})
        elif kind == "trailers":
            await send({"type": "http.response.trailers", "more_trailers": value})
        elif kind == "receive":
            with anyio.move_on_after(0.001):
                await receive()
        elif kind == "child":
            async with anyio.create_task_group() as group:
                group.start_soon(quietly, "body", value, receive, send)
        elif kind == "raise":
            raise value
        await anyio.lowlevel.checkpoint()

    async def quietly(kind: str, value: Any, receive: Any, send: Any) -> None:
        try:
            await step(kind, value, receive, send)
        except RuntimeError as error:
            assert "http.response" in str(error)  # noqa: PT017

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for kind, value in script:
            await quietly(kind, value, receive, send)

    return app


def policies(name: str, bulkhead: Bulkhead) -> Any:
    match name:
        case "plain":
            return bulkhead
        case "guards":
            return Pipeline(CircuitBreaker(minimum_calls=1), bulkhead)
        case "retry":
            return Pipeline(Retry(on=ConnectionError, backoff=[0]), bulkhead)
        case "all":
            return Pipeline(
                Fallback(value=answering()),
                Timeout(60),
                Retry(on=(ConnectionError, TimeoutError), backoff=[0]),
                CircuitBreaker(minimum_calls=1),
                bulkhead,
                Timeout(30),
            )
    return PerKey(lambda key: Pipeline(Retry(on=OSError, backoff=[0]), bulkhead), key=lambda *a: 0)


class Interrupted(Connection):
    """A connection at which something happens at one of the server's messages."""

    def __init__(self, event: tuple[str, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._event, self._at = event
        self._messages = 0
        self.scope_of_task = anyio.CancelScope()

    def _happen(self) -> None:
        if self._messages == self._at:
            if self._event == "disconnect":
                self.gone.set()
            elif self._event == "cancel":
                self.scope_of_task.cancel()
        self._messages += 1

    async def receive(self) -> dict[str, Any]:
        self._happen()
        return await super().receive()

    async def send(self, message: Any) -> None:
        self._happen()
        await super().send(message)


async def serve(script: Script, event: tuple[str, int], name: str, raising: bool) -> None:
    bulkhead = Bulkhead(2)
    app = ResilienceMiddleware(play(script), policies(name, bulkhead))
    connection = Interrupted(event, chunks=(b"a", b"b"), closed_error=raising)
    with connection.scope_of_task:
        await connection.serve(app)
    assert connection.illegal == []
    assert bulkhead.snapshot().active == 0
    assert await app.drain(0) is True


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", ["plain", "guards", "retry", "all", "per key"])
@settings(max_examples=60, deadline=None)
@given(
    script=st.one_of(st.lists(STEPS, max_size=6), st.builds(lambda s: ANSWER + s, st.lists(STEPS))),
    event=EVENTS,
    raising=st.booleans(),
)
def test_any_order_of_messages(backend, name, script, event, raising):
    """Whatever is sent, raised, cancelled or cut off, and wherever it is."""
    on_loop(backend, serve, script, event, name, raising)
