"""The ASGI middleware: what is admitted, refused, counted, and passed through."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Fallback,
    PerKey,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    attempt_number,
    remaining,
)
from resilient._edge.exchange import FRESH, Exchange
from resilient._edge.steps import enter
from resilient.asgi import ResilienceMiddleware
from resilient.testing import passthrough

from tests.integrations.asgi_server import Connection, answering, get


class Scoped(Policy[Any, Any]):
    """A policy of a user's, which holds a cancel scope around the application."""

    kind = "scoped"

    def __init__(self) -> None:
        super().__init__("scoped")
        self.active = 0

    def awrap(self, inner: Any) -> Any:
        async def scoped(args: Any, kwargs: Any, call: Any) -> Any:
            self.active += 1
            try:
                with anyio.CancelScope():
                    return await inner(args, kwargs, call)
            finally:
                self.active -= 1

        return scoped


class Several(Policy[Any, Any]):
    """A policy that runs the application several times at once."""

    kind = "hedge"
    repeats = True


def active(bulkhead: Bulkhead) -> int:
    return bulkhead.snapshot().active


def test_answers_pass_unchanged(run):
    """What the application answers reaches the server as it is."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    async def test():
        found = await get(ResilienceMiddleware(app, Bulkhead(1)))
        assert (found.status, found.headers, found.body) == (201, {"x": "y"}, b"ab")
        assert found.complete

    run(test)


@pytest.mark.parametrize("policy", [Bulkhead(1), Pipeline(Bulkhead(1), Timeout(5)), Scoped()])
def test_websocket_and_lifespan_pass_with_the_same_objects(run, policy):
    """The application gets the very objects that the server passed."""
    seen = []

    async def app(*args):
        seen.append(args)

    async def receive(): ...

    async def send(message): ...

    async def test():
        middleware = ResilienceMiddleware(app, policy)
        for kind in ("websocket", "lifespan", "unheard-of"):
            scope = {"type": kind}
            await middleware(scope, receive, send)
            given = seen.pop()
            assert given[0] is scope
            assert given[1] is receive
            assert given[2] is send
        # An application without a lifespan has not been shut down.
        assert (await get(ResilienceMiddleware(answering(), policy))).status == 200

    run(test)


def test_full_bulkhead_is_503(run):
    """A refused request gets a problem document that tells nothing of the inside."""
    bulkhead = Bulkhead(1, name="secret-name")
    app = ResilienceMiddleware(answering(), bulkhead)

    async def test():
        async with bulkhead.guard():
            found = await get(app)
        assert found.status == 503
        assert found.headers["retry-after"] == "1"
        assert found.headers["content-type"] == "application/problem+json"
        assert found.headers["content-length"] == str(len(found.body))
        assert json.loads(found.body) == {"title": "Service Unavailable", "status": 503}
        assert b"secret" not in found.body
        assert "connection" not in found.headers
        assert (await get(app)).status == 200

    run(test)


def test_head_is_refused_without_a_body(run):
    """The headers are those that GET would have got."""

    async def test():
        bulkhead = Bulkhead(1)
        app = ResilienceMiddleware(answering(), bulkhead)
        async with bulkhead.guard():
            head, full = await get(app, method="HEAD"), await get(app)
        assert head.headers == full.headers
        assert head.body == b""

    run(test)


def test_expose_tells_policy_and_text(run):
    """Only if asked for, the document says who refused and why."""

    async def test():
        breaker = CircuitBreaker("door", consecutive_failures=1)
        breaker.isolate()
        app = ResilienceMiddleware(answering(), breaker, expose=True)
        found = json.loads((await get(app)).body)
        assert found["policy"] == "door"
        assert "isolated" in found["detail"]

    run(test)


@pytest.mark.parametrize(
    ("refusal", "media_type", "body"),
    [
        (
            {"type": "https://example.com/overload"},
            "application/problem+json",
            b'{"title": "Service Unavailable", "status": 503, "type": "https://example.com/overload"}',
        ),
        (lambda error: ("text/plain", "later"), "text/plain", b"later"),
        (lambda error: ("text/plain", b"later"), "text/plain", b"later"),
        (
            lambda error: {"title": type(error).__name__},
            "application/problem+json",
            b'{"title": "BulkheadFullError", "status": 503}',
        ),
        (
            lambda error: None,
            "application/problem+json",
            b'{"title": "Service Unavailable", "status": 503}',
        ),
    ],
)
def test_the_body_of_a_refusal_can_be_chosen(run, refusal, media_type, body):
    """`refusal` adds members, or makes the whole body."""

    async def test():
        bulkhead = Bulkhead(1)
        app = ResilienceMiddleware(answering(), bulkhead, refusal=refusal)
        async with bulkhead.guard():
            found = await get(app)
        assert found.headers["content-type"] == media_type
        assert found.body == body

    run(test)


def test_open_circuit_asks_to_wait_in_whole_seconds(run):
    """`Retry-After` is what is left of the open time, rounded up."""

    async def test():
        breaker = CircuitBreaker(consecutive_failures=1, open_for=[7.2])
        app = ResilienceMiddleware(answering(500), breaker)
        assert (await get(app)).status == 500
        found = await get(app)
        assert found.status == 503
        assert found.headers["retry-after"] == "8"

    run(test)


def test_too_late_is_504(run):
    """A timeout before the first byte is answered, and the application is cancelled."""
    cancelled = []

    async def app(scope, receive, send):
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)

    async def test():
        found = await get(ResilienceMiddleware(app, Timeout(0.01)))
        assert found.status == 504
        assert json.loads(found.body) == {"title": "Gateway Timeout", "status": 504}
        assert "retry-after" not in found.headers
        assert found.error is None
        assert cancelled == [True]

    run(test)


def test_timeout_after_the_first_byte_aborts(run):
    """The error goes to the server, and no closing chunk is sent."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await anyio.sleep_forever()

    async def test():
        policy = Pipeline(Fallback(value=answering()), Timeout(0.01))
        found = await get(ResilienceMiddleware(app, policy))
        assert isinstance(found.error, CallTimeoutError)
        assert len(found.sent) == 1

    run(test)


def test_error_after_the_first_byte_aborts(run):
    """Nothing is retried or replaced then; the breaker counts the error."""
    runs = []

    async def app(scope, receive, send):
        runs.append(1)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise ConnectionError("broken")

    async def test():
        breaker = CircuitBreaker(on=ConnectionError, consecutive_failures=1)
        policy = Pipeline(
            Fallback(value=answering()), Retry(on=ConnectionError, backoff=[0]), breaker
        )
        found = await get(ResilienceMiddleware(app, policy))
        assert isinstance(found.error, ConnectionError)
        assert len(found.sent) == 2
        assert runs == [1]
        assert breaker.state is CircuitState.OPEN

    run(test)


@pytest.mark.parametrize("inner", [BulkheadFullError("x"), CallTimeoutError("y")])
def test_a_rejection_of_the_applications_own_calls_is_its_own(run, inner):
    """What the application raises goes to the server, whatever its class."""

    async def app(scope, receive, send):
        raise inner

    async def test():
        found = await get(ResilienceMiddleware(app, Pipeline(Bulkhead(1), Timeout(5))))
        assert found.error is inner
        assert not found.sent

    run(test)


@pytest.mark.parametrize("on", [Exception, ConnectionError])
def test_5xx_is_a_failure_for_the_breaker_and_is_passed_on(run, on):
    """Whatever `on` says; and it is never retried."""

    async def test():
        runs = []

        async def app(scope, receive, send):
            runs.append(1)
            await answering(503)(scope, receive, send)

        breaker = CircuitBreaker(on=on, consecutive_failures=2)
        retry = Retry(on=Exception, backoff=[0, 0, 0])
        middleware = ResilienceMiddleware(app, Pipeline(retry, breaker))
        assert (await get(middleware)).status == 503
        assert breaker.state is CircuitState.CLOSED
        assert (await get(middleware)).status == 503
        assert breaker.state is CircuitState.OPEN
        assert runs == [1, 1]
        with pytest.raises(CircuitOpenError) as refused, breaker.guard():
            pass
        assert refused.value.last_failure == "an answer of 503"

    run(test)


def test_what_counts_as_failure_can_be_chosen(run):
    """`failure` judges the status."""

    async def test():
        breaker = CircuitBreaker(consecutive_failures=1)
        failure = {429}.__contains__
        for status in (500, 200):
            app = ResilienceMiddleware(answering(status), breaker, failure=failure)
            assert (await get(app)).status == status
            assert breaker.state is CircuitState.CLOSED
        await get(ResilienceMiddleware(answering(429), breaker, failure=failure))
        assert breaker.state is CircuitState.OPEN

    run(test)


def test_on_result_sees_the_status(run):
    """The result of the policies' call is the answer's status; a sent one is not replaced."""

    async def test():
        breaker = CircuitBreaker(consecutive_failures=1, on_result=lambda status: status == 404)
        retry = Retry(on_result=lambda status: status == 404, backoff=[0])
        fallback = Fallback(value=answering(), on_result=lambda status: status == 404)
        app = ResilienceMiddleware(answering(404), Pipeline(fallback, retry, breaker))
        found = await get(app)
        assert found.status == 404
        assert breaker.state is CircuitState.OPEN

    run(test)


def test_4xx_and_success_are_not_failures(run):
    """A client's mistake says nothing against the service."""

    async def test():
        breaker = CircuitBreaker(consecutive_failures=1)
        for status in (200, 204, 304, 404, 429, 499):
            await get(ResilienceMiddleware(answering(status), breaker))
        assert breaker.state is CircuitState.CLOSED

    run(test)


def test_an_incomplete_answer_is_a_failure(run):
    """An application that returns without an answer makes the server send a 500."""

    async def app(scope, receive, send): ...

    async def half(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def test():
        for broken in (app, half):
            breaker = CircuitBreaker(consecutive_failures=1)
            found = await get(ResilienceMiddleware(broken, Pipeline(Bulkhead(1), breaker)))
            assert not found.complete
            assert found.error is None
            assert breaker.state is CircuitState.OPEN

    run(test)


def test_exclude_and_include_compare_whole_paths(run):
    """Only exact paths are exempt, and then the application gets the server's objects."""
    seen = []

    async def app(scope, receive, send):
        seen.append(receive)
        await answering()(scope, receive, send)

    async def test():
        bulkhead = Bulkhead(1)
        exempt = ResilienceMiddleware(app, bulkhead, exclude=["/healthz"])
        only = ResilienceMiddleware(app, bulkhead, include=["/a", "/b"], exclude=["/b"])
        async with bulkhead.guard():
            connection = await Connection(path="/healthz").serve(exempt)
            assert connection.status == 200
            assert seen[-1] == connection.receive
            for path in ("/", "/healthz/", "/healthz/x", "/health", "/HEALTHZ"):
                assert (await get(exempt, path)).status == 503
            found = [(await get(only, path)).status for path in ("/a", "/b", "/c", "/a/")]
        assert found == [503, 200, 200, 200]

    run(test)


@pytest.mark.parametrize("own", [True, False])
def test_a_policy_per_key(run, own):
    """Each key has a policy of its own; `key=` replaces the function of the `PerKey`."""

    def tenant(scope, *rest):
        return dict(scope["headers"])[b"tenant"]

    async def test():
        per_key = PerKey(lambda key: Bulkhead(1), key=tenant if own else lambda *args: None)
        app = ResilienceMiddleware(
            answering(), Pipeline(per_key), **({} if own else {"key": tenant})
        )
        async with per_key.get(b"a").guard():
            assert (await get(app, headers=((b"tenant", b"a"),))).status == 503
            assert (await get(app, headers=((b"tenant", b"b"),))).status == 200

    run(test)


def test_retry_runs_again_before_the_first_byte(run):
    """An exception is retried, with the attempt's number and the whole request body."""
    numbers = []

    async def app(scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
            if attempt_number() == 1:
                numbers.append(1)
                raise ConnectionError
        numbers.append(attempt_number())
        if attempt_number() == 2:
            raise ConnectionError
        await answering(200, body)(scope, receive, send)

    async def test():
        retry = Retry(on=ConnectionError, backoff=[0, 0, 0])
        app_ = ResilienceMiddleware(app, Pipeline(retry, Bulkhead(1)))
        found = await get(app_, method="PUT", chunks=(b"one", b"two", b"three"))
        assert (found.status, found.body) == (200, b"onetwothree")
        assert numbers == [1, 2, 3]

    run(test)


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "get"])
def test_only_idempotent_methods_are_run_again(run, method):
    """For others the first outcome stands."""
    runs = []

    async def app(scope, receive, send):
        runs.append(1)
        raise ConnectionError("once")

    async def test():
        retry = Retry(on=ConnectionError, backoff=[0])
        found = await get(ResilienceMiddleware(app, retry), method=method)
        assert isinstance(found.error, ConnectionError)
        assert "not idempotent" in found.error.__notes__[0]
        assert runs == [1]

    run(test)


@pytest.mark.parametrize(("size", "runs"), [(10, 2), (11, 1)])
def test_a_long_body_is_not_kept(run, size, runs):
    """Beyond `max_body` the first outcome stands, though the request itself is served."""
    seen = []

    async def app(scope, receive, send):
        body = (await receive())["body"]
        seen.append(body)
        raise ConnectionError

    async def test():
        retry = Retry(on=ConnectionError, attempts=2, backoff=[0])
        middleware = ResilienceMiddleware(app, retry, max_body=10)
        found = await get(middleware, method="PUT", chunks=(b"x" * size,))
        assert isinstance(found.error, ConnectionError)
        assert seen == [b"x" * size] * runs

    run(test)


def test_a_run_that_is_over_cannot_speak(run):
    """What an earlier run has left behind neither sends nor takes the next one's messages."""

    async def test():
        async with anyio.create_task_group() as group:
            left: list[Any] = []
            go_on = anyio.Event()

            async def behind(receive, send):
                await go_on.wait()
                await send({"type": "http.response.start", "status": 500})
                left.append(await receive())

            async def app(scope, receive, send):
                if attempt_number() == 1:
                    group.start_soon(behind, receive, send)
                    raise ConnectionError
                go_on.set()
                await anyio.lowlevel.checkpoint()
                assert (await receive())["body"] == b"x"
                await answering()(scope, receive, send)

            retry = Retry(on=ConnectionError, backoff=[0])
            found = await get(ResilienceMiddleware(app, retry), chunks=(b"x",))
        assert found.status == 200
        assert left == [{"type": "http.disconnect"}]

    run(test)


def test_retry_that_gives_up_raises_the_applications_error(run):
    """The real error reaches the server."""

    async def app(scope, receive, send):
        raise ConnectionError("down")

    async def test():
        found = await get(ResilienceMiddleware(app, Retry(on=OSError, backoff=[0])))
        assert isinstance(found.error, ConnectionError)

    run(test)


def test_an_earlier_error_stands_when_the_next_run_is_refused(run):
    """A breaker that opened during this request does not make it a 503."""

    async def app(scope, receive, send):
        raise ConnectionError("down")

    async def test():
        policy = Pipeline(Retry(on=OSError, backoff=[0]), CircuitBreaker(consecutive_failures=1))
        found = await get(ResilienceMiddleware(app, policy))
        assert isinstance(found.error, ConnectionError)

    run(test)


@pytest.mark.parametrize("how", ["value", "returns", "sends"])
def test_a_fallback_answers(run, how):
    """By an ASGI application as its value, or by sending itself."""

    async def page(outcome, scope, receive, send):
        assert isinstance(outcome, BulkheadFullError)
        if how == "returns":
            return answering(200, b"busy")
        return await answering(200, b"busy")(scope, receive, send)

    async def test():
        bulkhead = Bulkhead(1)
        fallback = (
            Fallback(value=answering(200, b"busy")) if how == "value" else Fallback(using=page)
        )
        app = ResilienceMiddleware(answering(), Pipeline(fallback, bulkhead))
        async with bulkhead.guard():
            found = await get(app)
        assert (found.status, found.body) == (200, b"busy")
        assert (await get(app)).body == b"ok"

    run(test)


def test_a_fallback_that_is_no_answer_is_refused(run):
    """A value that is no ASGI application says what it should be."""

    async def test():
        bulkhead = Bulkhead(1)
        app = ResilienceMiddleware(answering(), Pipeline(Fallback("busy"), bulkhead))
        async with bulkhead.guard():
            found = await get(app)
        assert isinstance(found.error, TypeError)
        assert "ASGI application" in str(found.error)

    run(test)


def test_waiting_in_the_queue(run):
    """A request that waits for its turn is served when the permit comes."""

    async def test():
        bulkhead = Bulkhead(1, max_queue=1)
        app = ResilienceMiddleware(answering(), bulkhead)
        waiting, refused = Connection(), Connection()
        async with anyio.create_task_group() as group, bulkhead.guard():
            group.start_soon(waiting.serve, app)
            while not bulkhead.snapshot().pending:
                await anyio.lowlevel.checkpoint()
            await refused.serve(app)
        assert (waiting.status, refused.status) == (200, 503)

    run(test)


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("5", 5), ("0.25", 0.25), (" 2.5\t", 2.5), ("1" * 19, 86_400), ("100000", 86_400),
        ("", None), ("abc", None), ("-1", None), ("0", None), ("nan", None), ("inf", None),
        ("1e3", None), ("1,5", None), ("²", None), ("1_0", None), ("0x10", None), ("+5", None),
        ("9" * 400, None),
    ],
)  # fmt: skip
def test_the_deadline_header(run, value, left):
    """Its seconds bound the request; what is no positive number is ignored."""
    seen = []

    async def app(scope, receive, send):
        seen.append(remaining())
        await answering()(scope, receive, send)

    async def test():
        middleware = ResilienceMiddleware(app, Bulkhead(1), deadline_header="X-Time-Left")
        found = await get(middleware, headers=((b"x-time-left", value.encode("latin-1")),))
        assert found.status == 200
        assert seen[-1] is None if left is None else left - 1 < seen[-1] <= left

    run(test)


def test_the_deadline_header_is_kept(run):
    """A request that does not end in its caller's time is answered by 504."""

    async def app(scope, receive, send):
        await anyio.sleep_forever()

    async def test():
        middleware = ResilienceMiddleware(app, Bulkhead(1), deadline_header="x-left")
        assert (await get(middleware, headers=((b"x-left", b"0.01"),))).status == 504
        doubled = ((b"x-left", b"0.01"), (b"x-left", b"0.02"))
        served = ResilienceMiddleware(answering(), Bulkhead(1), deadline_header="x-left")
        assert (await get(served, headers=doubled)).status == 200

    run(test)


def test_no_header_is_read_by_default(run):
    """Unless it is named, a client cannot set a deadline."""

    async def app(scope, receive, send):
        assert remaining() is None
        await answering()(scope, receive, send)

    async def test():
        headers = ((b"deadline", b"1"), (b"x-request-timeout", b"1"))
        assert (await get(ResilienceMiddleware(app, Bulkhead(1)), headers=headers)).status == 200

    run(test)


def test_passthrough_takes_the_policies_away(run):
    """In that mode the application is called as it is."""

    async def test():
        bulkhead = Bulkhead(1)
        app = ResilienceMiddleware(answering(), bulkhead)
        async with bulkhead.guard():
            with passthrough():
                assert (await get(app)).status == 200

    run(test)


def test_a_request_has_its_names():
    """Policies without a name go by the pipeline's, or by the application's function."""
    bulkhead, breaker = Bulkhead(1), CircuitBreaker()
    ResilienceMiddleware(answering(), Pipeline(bulkhead, name="door"))
    ResilienceMiddleware(answering(), breaker)
    assert bulkhead.name == "door.bulkhead"
    assert breaker.name.endswith("app")


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"policy": Bulkhead}, TypeError),
        ({"policy": None}, TypeError),
        ({"policy": Several()}, TypeError),
        ({"exclude": "/healthz"}, TypeError),
        ({"exclude": [1]}, TypeError),
        ({"exclude": ["healthz"]}, ValueError),
        ({"include": b"/x"}, TypeError),
        ({"key": str}, ValueError),
        ({"key": "tenant"}, TypeError),
        ({"failure": 500}, TypeError),
        ({"refusal": "busy"}, TypeError),
        ({"max_body": -1}, ValueError),
        ({"max_body": 1.5}, TypeError),
        ({"max_body": True}, TypeError),
        ({"deadline_header": 5}, TypeError),
        ({"deadline_header": ""}, ValueError),
        ({"deadline_header": "x y"}, ValueError),
        ({"deadline_header": "x:"}, ValueError),
    ],
)
def test_bad_options_are_refused(kwargs, error):
    """When the middleware is built, in a sentence."""
    options = {"policy": Bulkhead(1)} | kwargs
    with pytest.raises(error):
        ResilienceMiddleware(answering(), **options)


def test_a_second_start_is_refused(run):
    """An application that breaks the protocol is told so, and the client sees nothing of it."""

    async def twice(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.start", "status": 200})

    async def early(scope, receive, send):
        await send({"type": "http.response.body", "body": b""})

    async def late(scope, receive, send):
        await answering()(scope, receive, send)
        await send({"type": "http.response.body", "body": b""})

    async def test():
        for app in (twice, early, late):
            found = await get(ResilienceMiddleware(app, Bulkhead(1)))
            assert isinstance(found.error, RuntimeError)

    run(test)


def test_trailers_end_the_answer(run):
    """With trailers announced, the permit is held until the last of them."""
    bulkhead = Bulkhead(1)
    seen = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        seen.append(active(bulkhead))
        headers = {"type": "http.response.trailers", "headers": []}
        await send(headers | {"more_trailers": True})
        seen.append(active(bulkhead))
        await send(headers)
        seen.append(active(bulkhead))

    async def test():
        found = await get(ResilienceMiddleware(app, bulkhead), trailers=True)
        assert found.complete
        assert seen == [1, 1, 0]

    run(test)


def test_other_messages_pass(run):
    """What is no part of the answer is the server's business."""

    async def app(scope, receive, send):
        await send({"type": "http.response.debug", "info": {}})
        await answering()(scope, receive, send)

    async def test():
        assert (await get(ResilienceMiddleware(app, Bulkhead(1)))).body == b"ok"

    run(test)


@pytest.mark.parametrize("extension", ["pathsend", "zerocopysend"])
def test_the_servers_extensions_end_an_answer_too(run, extension):
    """A file that the server sends itself is the last chunk."""
    bulkhead = Bulkhead(1)
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": f"http.response.{extension}", "path": "/x"})
        sent.append(active(bulkhead))

    async def send(message):
        sent.append(message["type"])

    async def test():
        connection = Connection()
        await ResilienceMiddleware(app, bulkhead)(connection.scope, connection.receive, send)
        assert sent == ["http.response.start", f"http.response.{extension}", 0]

    run(test)


@pytest.mark.parametrize(
    "options", [{"failure": bool}, {"deadline_header": "x"}, {"exclude": ["/healthz"]}]
)
def test_refusals_with_other_options(run, options):
    """They are answered alike, however the request goes through the policies."""

    async def test():
        bulkhead = Bulkhead(1)
        app = ResilienceMiddleware(answering(), bulkhead, **options)
        async with bulkhead.guard():
            assert (await get(app)).status == 503

    run(test)


def test_a_fallback_that_answers_by_half(run):
    """What it has sent stands, as an application's would."""

    async def page(outcome, scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def test():
        bulkhead = Bulkhead(1)
        app = ResilienceMiddleware(answering(), Pipeline(Fallback(using=page), bulkhead))
        async with bulkhead.guard():
            found = await get(app)
        assert len(found.sent) == 1
        assert found.error is None

    run(test)


def test_an_answer_that_was_complete_is_kept():
    """An application that swallows the cancellation, its last message being on its way."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        with pytest.raises(asyncio.CancelledError):
            await send({"type": "http.response.body", "body": b"x"})

    async def test():
        connection = Connection()

        async def send(message):
            await connection.send(message)
            if connection.complete:
                await anyio.sleep_forever()

        breaker = CircuitBreaker(consecutive_failures=1)
        middleware = ResilienceMiddleware(app, Pipeline(breaker, Timeout(0.01)))
        await middleware(connection.scope, connection.receive, send)
        assert breaker.snapshot().calls == 1
        assert breaker.state is CircuitState.CLOSED

    asyncio.run(test())


def test_what_arrives_late_is_the_present_runs(run):
    """A run that is over may still wait for a message, which is not its own any more."""

    async def test():
        arrives, taken = anyio.Event(), anyio.Event()
        stale = []
        messages = [{"type": "http.request", "body": b"x", "more_body": False}]

        async def receive():
            await arrives.wait()
            return messages.pop()

        async with anyio.create_task_group() as group:

            async def wait(receive):
                stale.append(await receive())
                taken.set()

            async def app(scope, receive, send):
                if attempt_number() == 1:
                    group.start_soon(wait, receive)
                    await anyio.wait_all_tasks_blocked()
                    raise ConnectionError
                arrives.set()
                await taken.wait()
                message = await receive()
                await answering(200, message["body"])(scope, receive, send)

            connection = Connection()
            retry = ResilienceMiddleware(app, Retry(on=ConnectionError, backoff=[0]))
            await retry(connection.scope, receive, connection.send)
        assert connection.body == b"x"
        assert stale == [{"type": "http.disconnect"}]

    run(test)


@pytest.mark.parametrize("own_task", [False, True])
def test_nobody_to_run_again_for(run, own_task):
    """A client that hangs up between two runs ends the retries, and says nothing."""

    async def test():
        runs = []

        async with anyio.create_task_group() as group:

            async def app(scope, receive, send):
                runs.append(1)
                group.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                raise ConnectionError

            async def leave():
                while not runs:
                    await anyio.lowlevel.checkpoint()
                await anyio.sleep(0.01)
                connection.gone.set()

            breaker = CircuitBreaker(consecutive_failures=2)
            policies = [Retry(on=ConnectionError, backoff=[0.05]), breaker]
            connection = Connection(chunks=())
            group.start_soon(leave)
            policy = Pipeline(*policies, *([Scoped()] if own_task else []))
            await connection.serve(ResilienceMiddleware(app, policy))
        assert connection.sent == []
        assert runs == [1]
        assert breaker.state is CircuitState.CLOSED

    run(test)


def test_a_policy_that_waits_after_the_answer_is_told_so():
    """Of this library's own, none does; the others get a task for the application."""

    async def chain():
        await enter((), {}, exchange)
        await asyncio.sleep(0)

    async def test():
        exchange._send = Connection().send
        exchange.chain = chain().__await__()
        exchange.chain.send(None)
        await exchange.send({"type": "http.response.start", "status": 200})
        with pytest.raises(RuntimeError, match="waits on its way out"):
            await exchange.send({"type": "http.response.body"})
        exchange.chain.close()

    exchange: Any = Exchange()
    exchange.state, exchange.open, exchange.delivered = FRESH, True, False
    asyncio.run(test())
