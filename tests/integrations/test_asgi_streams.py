"""Answers in parts: permits, clients that hang up, background tasks, and shutting down."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Fallback,
    PerKey,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    remaining,
)
from resilient.asgi import ResilienceMiddleware

from tests.integrations.asgi_server import Connection, answering, get


class Twice(Policy[Any, Any]):
    """A policy of a user's that asks for another run, whatever came of the first."""

    kind = "twice"

    def awrap(self, inner: Any) -> Any:
        async def twice(args: Any, kwargs: Any, call: Any) -> Any:
            with suppress(Exception):
                await inner(args, kwargs, call)
            return await inner(args, kwargs, call)

        return twice


# The application runs beside the policies in the server's task, or in a task of its own.
@pytest.fixture(params=["beside", "own task"])
def around(request):
    """Puts a bulkhead in a pipeline of each sort."""

    def made(*policies):
        if request.param == "beside":
            return Pipeline(*policies)
        return PerKey(lambda key: Pipeline(*policies), key=lambda *args: None)

    return made


def test_the_permit_is_held_until_the_last_chunk(run, around):
    """And no longer: what the application does then is outside, and has no deadline."""
    bulkhead = Bulkhead(1)
    seen = []

    def look():
        seen.append((bulkhead.snapshot().active, remaining() is None))

    async def app(scope, receive, send):
        look()
        await send({"type": "http.response.start", "status": 200})
        look()
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        look()
        await send({"type": "http.response.body", "body": b""})
        look()
        await anyio.lowlevel.checkpoint()
        look()

    async def test():
        app_ = ResilienceMiddleware(app, around(bulkhead, Timeout(60)))
        assert (await get(app_)).complete
        assert seen == [(1, False)] * 3 + [(0, True)] * 2

    run(test)


def test_background_tasks_are_outside(run, around):
    """They run after the answer, hold no permit, and are not timed; their errors are theirs."""
    bulkhead = Bulkhead(1)
    done = []

    async def app(scope, receive, send):
        await answering()(scope, receive, send)
        await anyio.sleep(0.05)
        done.append(bulkhead.snapshot().active)
        raise ValueError("in the background")

    async def test():
        breaker = CircuitBreaker(consecutive_failures=1)
        policy = around(Retry(on=(ValueError, TimeoutError)), breaker, bulkhead, Timeout(0.01))
        found = await get(ResilienceMiddleware(app, policy))
        assert found.status == 200
        assert isinstance(found.error, ValueError)
        assert done == [0]
        assert breaker.state is CircuitState.CLOSED

    run(test)


def test_another_task_may_send_the_answer(run, around):
    """The call ends when the last chunk is out, also if the application's own task goes on."""
    bulkhead = Bulkhead(1)

    async def app(scope, receive, send):
        async with anyio.create_task_group() as group:
            group.start_soon(answering(200, b"a", b"b"), scope, receive, send)
            await released.wait()

    async def test():
        nonlocal released
        released = anyio.Event()
        connection = Connection()
        app_ = ResilienceMiddleware(app, around(bulkhead, Timeout(60), Retry(on=OSError)))
        async with anyio.create_task_group() as group:
            group.start_soon(connection.serve, app_)
            await connection.finished.wait()
            await anyio.wait_all_tasks_blocked()
            assert bulkhead.snapshot().active == 0
            released.set()
        assert connection.body == b"ab"
        assert connection.error is None

    released: Any = None
    run(test)


def test_an_application_may_hold_a_scope_while_it_answers(run, around):
    """Its cancel scopes and the policies' do not get into each other's way."""

    async def app(scope, receive, send):
        with anyio.fail_after(60):
            await answering()(scope, receive, send)

    async def test():
        found = await get(ResilienceMiddleware(app, around(Timeout(60), Bulkhead(1))))
        assert (found.status, found.error) == (200, None)

    run(test)


def test_a_client_that_hangs_up_is_neutral(run, around):
    """The application sees it, is not cancelled, sends into nothing, and runs to its end."""
    bulkhead = Bulkhead(1)
    steps = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 500})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        steps.append(bulkhead.snapshot().active)
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"b"})
        await send({"type": "http.response.start", "status": 200})
        await anyio.sleep(0.35)
        steps.append("background")

    async def test():
        breaker = CircuitBreaker(consecutive_failures=1)
        policy = around(Fallback(value=answering()), breaker, bulkhead, Timeout(0.3))
        connection = Connection()
        async with anyio.create_task_group() as group:
            group.start_soon(connection.serve, ResilienceMiddleware(app, policy))
            await connection.first_byte.wait()
            connection.gone.set()
        assert steps == [0, "background"]
        assert len(connection.sent) <= 2
        assert not connection.illegal
        assert connection.error is None
        assert breaker.state is CircuitState.CLOSED
        assert breaker.snapshot().calls == 0

    run(test)


def test_hanging_up_before_the_first_byte(run, around):
    """Nothing is answered, retried or counted, whatever the application raises then."""
    runs = []

    async def app(scope, receive, send):
        runs.append(1)
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ConnectionError("the client has gone")

    async def test():
        breaker = CircuitBreaker(consecutive_failures=1)
        policy = around(Retry(on=OSError, backoff=[0]), breaker)
        connection = Connection()
        connection.gone.set()
        await connection.serve(ResilienceMiddleware(app, policy))
        assert isinstance(connection.error, ConnectionError)
        assert runs == [1]
        assert not connection.sent
        assert breaker.state is CircuitState.CLOSED

    run(test)


def test_a_server_that_raises_for_a_client_that_left(run, around):
    """Its `OSError` tells the application, and is neutral too."""
    bulkhead = Bulkhead(1)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        connection.gone.set()
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            seen.append(bulkhead.snapshot().active)

    async def test():
        nonlocal connection
        connection = Connection(closed_error=True)
        breaker = CircuitBreaker(consecutive_failures=1)
        await connection.serve(ResilienceMiddleware(app, around(breaker, bulkhead)))
        assert isinstance(connection.error, OSError)
        assert breaker.state is CircuitState.CLOSED
        assert bulkhead.snapshot().active == 0

    seen: list[int] = []
    connection: Any = None
    run(test)


def test_disconnect_after_the_answer_changes_nothing(run, around):
    """Servers say so once an answer is complete."""

    async def app(scope, receive, send):
        await receive()
        await answering(200)(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    async def test():
        bulkhead = Bulkhead(1)
        found = await get(ResilienceMiddleware(app, around(bulkhead)))
        assert (found.status, found.error) == (200, None)

    run(test)


def test_nothing_is_received_ahead(run, around):
    """What the application does not read, the middleware does not read either."""

    async def test():
        policy = around(Retry(on=OSError), Bulkhead(1))
        found = await get(ResilienceMiddleware(answering(), policy), chunks=(b"a", b"b"))
        assert found.asked == 0

    run(test)


def test_a_cancelled_request_gives_its_permit_back(run, around):
    """A server that cancels its task is neutral, and the application is cancelled with it."""
    bulkhead = Bulkhead(1)

    async def app(scope, receive, send):
        started.set()
        await anyio.sleep_forever()

    async def test():
        nonlocal started
        started = anyio.Event()
        breaker = CircuitBreaker(consecutive_failures=1)
        policy = around(breaker, bulkhead, Timeout(60))
        async with anyio.create_task_group() as group:
            group.start_soon(Connection().serve, ResilienceMiddleware(app, policy))
            await started.wait()
            assert bulkhead.snapshot().active == 1
            group.cancel_scope.cancel()
        assert bulkhead.snapshot().active == 0
        assert breaker.state is CircuitState.CLOSED

    started: Any = None
    run(test)


def test_a_timeout_of_each_run_can_be_retried(run, around):
    """The first run is cancelled, the second one answers."""
    runs = []

    async def app(scope, receive, send):
        runs.append(1)
        if len(runs) == 1:
            await anyio.sleep_forever()
        await answering()(scope, receive, send)

    async def test():
        policy = around(Retry(on=TimeoutError, backoff=[0]), Timeout(0.02))
        assert (await get(ResilienceMiddleware(app, policy))).status == 200
        assert len(runs) == 2

    run(test)


def test_a_policy_cannot_run_an_answered_request_again(run):
    """Whoever asks for another run gets the outcome of the first."""
    runs = []

    async def app(scope, receive, send):
        runs.append(1)
        await answering(500 if scope["path"] == "/5" else 200)(scope, receive, send)

    async def test():
        for path, status in (("/", 200), ("/5", 500)):
            assert (await get(ResilienceMiddleware(app, Twice()), path)).status == status
        assert runs == [1, 1]

    run(test)


def test_drain_refuses_new_requests_and_waits_for_the_others(run, around):
    """With `Connection: close` on HTTP/1, and health checks still answered."""

    async def app(scope, receive, send):
        if scope["path"] == "/slow":
            await go_on.wait()
        await answering()(scope, receive, send)

    async def test():
        nonlocal go_on
        go_on = anyio.Event()
        middleware = ResilienceMiddleware(app, around(Bulkhead(9)), exclude=["/healthz"])
        slow = Connection(path="/slow")
        drained = []

        async def drain():
            drained.append(await middleware.drain(20))

        async with anyio.create_task_group() as group:
            group.start_soon(slow.serve, middleware)
            await anyio.wait_all_tasks_blocked()
            assert await middleware.drain(0) is False
            group.start_soon(drain)
            await anyio.wait_all_tasks_blocked()
            refused = await get(middleware)
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert refused.headers["retry-after"] == "1"
            assert (await get(middleware, http_version="1.0")).headers["connection"] == "close"
            assert "connection" not in (await get(middleware, http_version="2")).headers
            assert (await get(middleware, "/healthz")).status == 200
            assert not drained
            go_on.set()
        assert drained == [True]
        assert slow.status == 200
        assert await middleware.drain() is True

    go_on: Any = None
    run(test)


async def lifespan(app: Any, steps: dict[str, anyio.Event] | None = None) -> list[str]:
    """A server's lifespan: start up, then shut down."""
    sent: list[str] = []
    started = anyio.Event()
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 1:
            return {"type": "lifespan.startup"}
        await anyio.lowlevel.checkpoint()
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        started.set()

    await app({"type": "lifespan", "asgi": {}}, receive, send)
    return sent


def test_the_end_of_the_lifespan_begins_the_drain(run):
    """An application that has seen the shutdown gets no more requests."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await answering()(scope, receive, send)
            return
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def test():
        middleware = ResilienceMiddleware(app, Bulkhead(1))
        assert (await get(middleware)).status == 200
        sent = await lifespan(middleware)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        found = await get(middleware)
        assert (found.status, found.headers["connection"]) == (503, "close")

    run(test)


def test_a_lifespan_that_fails_or_is_not_there_begins_no_drain(run):
    """Errors pass to the server, and requests are served as before."""

    async def fails(scope, receive, send):
        if scope["type"] == "http":
            await answering()(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.failed"})
        await receive()
        raise ConnectionError("no database")

    async def has_none(scope, receive, send):
        await anyio.lowlevel.checkpoint()
        if scope["type"] == "http":
            await answering()(scope, receive, send)

    async def test():
        failing = ResilienceMiddleware(fails, Bulkhead(1))
        with pytest.raises(ConnectionError):
            await lifespan(failing)
        assert (await get(failing)).status == 200
        without = ResilienceMiddleware(has_none, Bulkhead(1))
        assert await lifespan(without) == []
        assert (await get(without)).status == 200

    run(test)


def test_a_lifespan_can_be_cancelled(run):
    """What is thrown into the server's task reaches the application."""
    left = []

    async def app(scope, receive, send):
        try:
            await receive()
            await anyio.sleep_forever()
        finally:
            left.append(True)

    async def test():
        async with anyio.create_task_group() as group:
            group.start_soon(lifespan, ResilienceMiddleware(app, Bulkhead(1)))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert left == [True]

    run(test)


def test_what_is_in_flight_when_the_lifespan_ends_is_finished(run):
    """Only what comes later is refused."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await receive()
            return
        await go_on.wait()
        await answering()(scope, receive, send)

    async def test():
        nonlocal go_on
        go_on = anyio.Event()
        middleware, slow = ResilienceMiddleware(app, Bulkhead(1)), Connection()
        async with anyio.create_task_group() as group:
            group.start_soon(slow.serve, middleware)
            await anyio.wait_all_tasks_blocked()
            await lifespan(middleware)
            assert (await get(middleware)).status == 503
            go_on.set()
        assert slow.status == 200

    go_on: Any = None
    run(test)


def test_a_request_that_is_cancelled_in_the_queue(run, around):
    """It leaves the queue, and takes no permit with it."""
    bulkhead = Bulkhead(1, max_queue=1)

    async def test():
        app = ResilienceMiddleware(answering(), around(bulkhead))
        async with bulkhead.guard(), anyio.create_task_group() as group:
            group.start_soon(Connection().serve, app)
            while not bulkhead.snapshot().pending:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert (bulkhead.snapshot().active, bulkhead.snapshot().pending) == (0, 0)
        assert (await get(app)).status == 200

    run(test)
