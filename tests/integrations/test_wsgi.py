"""The WSGI middleware: what is admitted, refused, run again, and closed."""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import Any
from wsgiref.handlers import SimpleHandler

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
from resilient.testing import passthrough
from resilient.wsgi import ResilienceMiddleware

from tests.integrations.wsgi_server import HEADERS, Exchange, answering, environ_of, get, protect


def active(bulkhead: Bulkhead) -> int:
    return bulkhead.snapshot().active


def counting(fail: int, answer: Any = None, error: Any = ConnectionError) -> Any:
    """An application that raises so many times, and then answers."""
    runs: list[int] = []

    def app(environ: Any, start_response: Any) -> Any:
        runs.append(attempt_number())
        if len(runs) <= fail:
            raise error("down")
        return (answer or answering())(environ, start_response)

    app.runs = runs  # type: ignore[attr-defined]
    return app


def test_answers_pass_unchanged():
    """What the application answers reaches the server as it is."""
    app = answering("201 Created", b"a", b"", b"b")
    found = get(protect(app, Pipeline(Bulkhead(1), CircuitBreaker(), Retry(on=OSError))))
    assert (found.status, found.headers) == (201, {"content-type": "text/plain"})
    assert found.written == [b"a", b"", b"b"]
    assert app.made[0].closed == 1


def test_full_bulkhead_is_503():
    """A refused request gets a problem document that tells nothing of the inside."""
    bulkhead = Bulkhead(1, name="secret-name")
    app = protect(answering(), bulkhead)
    with bulkhead.guard():
        found, head = get(app), get(app, method="HEAD")
    body = b"".join(found.written)
    assert found.status == head.status == 503
    assert found.headers == head.headers
    assert found.headers["retry-after"] == "1"
    assert found.headers["content-type"] == "application/problem+json"
    assert found.headers["content-length"] == str(len(body))
    assert json.loads(body) == {"title": "Service Unavailable", "status": 503}
    assert b"".join(head.written) == b""
    assert "connection" not in found.headers
    assert get(app).status == 200


def test_the_body_of_a_refusal_can_be_chosen():
    """`refusal` adds members or makes the body, `expose` tells of the inside."""
    bulkhead = Bulkhead(1, name="door")
    with bulkhead.guard():
        told = get(protect(answering(), bulkhead, expose=True, refusal={"type": "/busy"}))
        made = get(protect(answering(), bulkhead, refusal=lambda error: ("text/plain", "later")))
    found = json.loads(b"".join(told.written))
    assert found["policy"] == "door"
    assert found["type"] == "/busy"
    assert "calls that it allows at a time" in found["detail"]
    assert (made.headers["content-type"], made.written) == ("text/plain", [b"later"])


def test_the_permit_is_held_until_the_last_chunk():
    """From before the application is called, to the end of its iterable."""
    bulkhead = Bulkhead(1)
    seen: list[int] = []

    def look() -> bytes:
        seen.append(active(bulkhead))
        return b"x"

    exchange = Exchange(protect(answering("200 OK", look, look, b"y"), bulkhead))
    assert active(bulkhead) == 1
    for _ in range(3):
        next(exchange.chunks)
        assert active(bulkhead) == 1
    with pytest.raises(StopIteration):
        next(exchange.chunks)
    assert active(bulkhead) == 0
    assert seen == [1, 1]
    exchange.close()


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_client_that_hangs_up_is_neutral(read):
    """The server closes early: the permit returns, nothing is counted, `close()` is called once."""
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(consecutive_failures=1)
    app = answering("500 Broken", b"a", b"b", b"c")
    exchange = Exchange(protect(app, Pipeline(breaker, bulkhead)))
    for _ in range(read):
        next(exchange.chunks)
    exchange.close()
    assert active(bulkhead) == 0
    assert breaker.state is CircuitState.CLOSED
    assert breaker.snapshot().calls == 0
    assert app.made[0].closed == 1


@pytest.mark.parametrize("on", [Exception, ConnectionError])
@pytest.mark.parametrize("chunks", [(b"a", b"b"), ()])
def test_5xx_is_a_failure_for_the_breaker_and_is_passed_on(on, chunks):
    """Whatever `on` says, also without a body; and it is never retried."""
    runs = []

    def app(environ, start_response):
        runs.append(1)
        start_response("503 No", HEADERS)
        return list(chunks)

    breaker = CircuitBreaker(on=on, consecutive_failures=2)
    retry = Retry(on=Exception, backoff=[0, 0, 0])
    protected = protect(app, Pipeline(Fallback(value=answering()), retry, breaker))
    for state in (CircuitState.CLOSED, CircuitState.OPEN):
        assert get(protected).status == 503
        assert breaker.state is state
    assert runs == [1, 1]
    with pytest.raises(CircuitOpenError) as refused, breaker.guard():
        pass
    assert refused.value.last_failure == "an answer of 503"


def test_what_counts_as_failure_can_be_chosen():
    """`failure` judges the status."""
    breaker = CircuitBreaker(consecutive_failures=1)
    for status, state in (("500 X", CircuitState.CLOSED), ("429 X", CircuitState.OPEN)):
        get(protect(answering(status), breaker, failure={429}.__contains__))
        assert breaker.state is state


@pytest.mark.parametrize("where", ["call", "first chunk"])
def test_an_exception_before_the_first_chunk_is_retried(where):
    """With the attempt's number; what the failed run has made is closed."""
    made = []

    def app(environ, start_response):
        made.append(answering("200 OK", *([ConnectionError()] if len(made) < 2 else [b"ok"])))
        if where == "call" and len(made) < 3:
            raise ConnectionError
        assert attempt_number() == len(made)
        return made[-1](environ, start_response)

    found = get(protect(app, Pipeline(Retry(on=OSError, backoff=[0, 0]), Bulkhead(1))))
    assert (found.status, found.written) == (200, [b"ok"])
    assert len(made) == 3
    assert [each.closed for one in made for each in one.made] == (
        [1] * (3 if where != "call" else 1)
    )


def test_an_error_after_the_first_chunk_aborts():
    """It goes to the server, nothing is retried or replaced, and the breaker counts it."""
    breaker = CircuitBreaker(consecutive_failures=1)
    app = answering("200 OK", b"a", ConnectionError("broken"))
    policy = Pipeline(Fallback(value=answering()), Retry(on=OSError, backoff=[0]), breaker)
    exchange = Exchange(protect(app, policy))
    with pytest.raises(ConnectionError, match="broken"):
        exchange.read()
    assert exchange.written == [b"a"]
    assert [one.closed for one in app.made] == [1]
    assert breaker.state is CircuitState.OPEN


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT"])
def test_only_idempotent_methods_are_run_again(method):
    """For others the first outcome stands."""
    app = counting(1)
    with pytest.raises(ConnectionError) as raised:
        ResilienceMiddleware(app, Retry(on=OSError, backoff=[0]))(environ_of(method), None)
    assert "not idempotent" in raised.value.__notes__[0]
    assert app.runs == [1]


@pytest.mark.parametrize("how", ["read", "sized", "lines", "readlines", "iterate", "mixed"])
def test_each_run_reads_the_whole_body(how):
    """However it reads it, and however far the run before has come."""
    body = b"one\ntwo\nthree\nfour"
    seen = []

    def read_all(source):
        if how == "read":
            return source.read(-1)
        if how == "sized":
            return b"".join(iter(lambda: source.read(3), b""))
        if how == "lines":
            return b"".join(iter(lambda: source.readline(), b""))
        if how == "readlines":
            return b"".join(source.readlines(4) + source.readlines())
        if how == "iterate":
            return b"".join(source)
        return (
            source.readline(2)
            + source.readline(100)
            + source.read(4)
            + source.read(0)
            + (source.readline(-1) + source.read(-1))
        )

    def app(environ, start_response):
        if len(seen) == 0:
            environ["wsgi.input"].read(6)
        environ.clear() if len(seen) == 1 else None
        seen.append(read_all(environ["wsgi.input"]) if environ else b"")
        if len(seen) < 4:
            raise ConnectionError
        return answering()(environ, start_response)

    middleware = ResilienceMiddleware(app, Retry(on=OSError, attempts=4, backoff=[0] * 3))
    assert get(middleware, method="PUT", body=body).status == 200
    assert seen[2:] == [body, body]


@pytest.mark.parametrize(("size", "runs"), [(10, 2), (11, 1)])
def test_a_long_body_is_not_kept(size, runs):
    """Beyond `max_body` the first outcome stands, though the request itself is served."""
    seen = []

    def app(environ, start_response):
        seen.append(environ["wsgi.input"].read(4) + environ["wsgi.input"].read(size))
        assert environ["wsgi.input"].read(1) == b""
        raise ConnectionError

    retry = Retry(on=OSError, attempts=2, backoff=[0])
    with pytest.raises(ConnectionError):
        get(protect(app, retry, max_body=10), method="PUT", body=b"x" * size)
    assert seen == [b"x" * size] * runs


def test_write_sends_at_once_and_ends_the_retries():
    """What is written is the first byte: the head is out, and the run stands."""
    runs = []

    def app(environ, start_response):
        runs.append(1)
        write = start_response("200 OK", HEADERS)
        write(b"a")
        write(b"b")
        if environ["PATH_INFO"] == "/broken":
            raise ConnectionError
        return [b"c"]

    policy = Pipeline(Fallback(value=answering()), Retry(on=OSError, backoff=[0]))
    assert get(protect(app, policy)).written == [b"a", b"b", b"c"]
    written = []
    with pytest.raises(ConnectionError):
        protect(app, policy)(environ_of(path="/broken"), lambda *args: written.append)
    assert written == [b"a", b"b"]
    assert runs == [1, 1]


def test_exc_info_replaces_a_head_that_is_not_out():
    """And raises the error once it is, as PEP 3333 wants."""

    def app(environ, start_response):
        write = start_response("200 OK", HEADERS)
        try:
            if environ["PATH_INFO"] == "/late":
                write(b"x")
            raise KeyError("broken")
        except KeyError:
            start_response("500 Broken", HEADERS, sys.exc_info())
        return [b"sorry"]

    def twice(environ, start_response):
        start_response("200 OK", HEADERS)
        start_response("200 OK", HEADERS)
        return [b""]

    found = get(protect(app, Bulkhead(1)))
    assert (found.status, found.written) == (500, [b"sorry"])
    with pytest.raises(KeyError):
        get(protect(app, Bulkhead(1)), "/late")
    with pytest.raises(AssertionError, match="exc_info"):
        get(ResilienceMiddleware(twice, Bulkhead(1)))


def test_start_response_may_be_called_late():
    """A generator calls it in its first step; one that never does is told."""

    def app(environ, start_response):
        start_response("202 Accepted", HEADERS)
        yield b"x"

    def never(environ, start_response):
        return [b"x"]

    def empty(environ, start_response):
        return []

    assert get(ResilienceMiddleware(app, Bulkhead(1))).status == 202
    for broken in (never, empty):
        bulkhead = Bulkhead(1)
        with pytest.raises(AssertionError, match="start_response"):
            get(ResilienceMiddleware(broken, bulkhead))
        assert active(bulkhead) == 0


def test_a_server_that_refuses_the_head_gets_no_answer():
    """Its error comes out, and everything is closed and given back."""
    bulkhead = Bulkhead(1)
    app = answering()
    middleware = ResilienceMiddleware(app, bulkhead)

    def start_response(*args):
        raise ValueError("bad header")

    with pytest.raises(ValueError, match="bad header"):
        middleware(environ_of(), start_response)
    assert active(bulkhead) == 0
    assert app.made[0].closed == 1
    assert middleware.drain(0) is True


def test_a_close_that_fails_is_heard_once():
    """The application's error in `close()` comes out, and all the rest is done."""

    class Broken(list):
        def close(self):
            raise ValueError("in close")

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return Broken([b"x"])

    bulkhead = Bulkhead(1)
    middleware = ResilienceMiddleware(app, bulkhead)
    exchange = Exchange(middleware)
    with pytest.raises(ValueError, match="in close"):
        exchange.read()
    exchange.close()
    assert active(bulkhead) == 0
    assert middleware.drain(0) is True


def test_timeout_needs_its_choice():
    """Nothing can interrupt a plain function, so the user must say what is to be done."""
    with pytest.raises(TypeError, match="sync="):
        ResilienceMiddleware(answering(), Timeout(1))


def test_too_late_is_504():
    """In a worker the application is left behind; what it makes then is closed there."""
    go_on, closed = threading.Event(), threading.Event()
    app = answering()

    def slow(environ, start_response):
        go_on.wait(10)
        found = app(environ, start_response)
        start_response("500 Late", HEADERS, (None, None, None))(b"late")
        found.close = closed.set
        return found

    breaker, bulkhead = CircuitBreaker(consecutive_failures=1), Bulkhead(1)
    policy = Pipeline(breaker, bulkhead, Timeout(0.01, sync="thread"))
    try:
        found = get(ResilienceMiddleware(slow, policy))
        held = active(bulkhead)
    finally:
        go_on.set()
    assert held == 1  # the worker holds it until it has really ended
    assert found.status == 504
    body = b"".join(found.written)
    assert json.loads(body) == {"title": "Gateway Timeout", "status": 504}
    assert "retry-after" not in found.headers
    assert breaker.state is CircuitState.OPEN
    assert closed.wait(10)


def test_in_a_worker_the_answer_passes():
    """The application runs in a worker up to its first chunk, the rest in the server's thread."""
    threads = []

    def look():
        threads.append(threading.current_thread())
        return b"x"

    found = get(protect(answering("200 OK", look, look), Timeout(10, sync="thread")))
    assert found.written == [b"x", b"x"]
    assert threads[0] is not threading.current_thread()
    assert threads[1] is threading.current_thread()


def test_in_place_a_late_answer_is_kept(clock):
    """The application reads the time left; an answer that came late is whole all the same."""

    def app(environ, start_response):
        assert remaining() == 1
        clock.advance(5)
        start_response("200 OK", [*HEADERS, ("Content-Length", "4")])
        return iter([b"late"]) if environ["PATH_INFO"] == "/sized" else [b"la", b"te"]

    policy = Pipeline(Bulkhead(1), Timeout(1, sync="deadline"))
    assert b"".join(get(ResilienceMiddleware(app, policy), "/sized").written) == b"late"


def test_in_place_a_stream_that_goes_on_too_long_aborts(clock):
    """A step after the deadline is not begun: the error goes to the server."""

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        yield b"a"
        clock.advance(5)
        yield b"b"
        yield b"c"

    exchange = Exchange(ResilienceMiddleware(app, Timeout(1, sync="deadline")))
    with pytest.raises(CallTimeoutError):
        exchange.read()
    assert exchange.written == [b"a", b"b"]


@pytest.mark.parametrize("inner", [BulkheadFullError("x"), CallTimeoutError("y")])
def test_a_rejection_of_the_applications_own_calls_is_its_own(inner):
    """What the application raises goes to the server, whatever its class."""
    policy = Pipeline(Bulkhead(1), Timeout(5, sync="deadline"))
    with pytest.raises(type(inner)) as raised:
        get(protect(answering("200 OK", inner), policy))
    assert raised.value is inner


@pytest.mark.parametrize("how", ["value", "returns", "starts", "generator"])
def test_a_fallback_answers(how):
    """By a WSGI application, or by starting an answer and returning its chunks."""

    def page(outcome, environ, start_response):
        assert isinstance(outcome, (BulkheadFullError, ConnectionError))
        if how == "returns":
            return answering("200 OK", b"busy")
        start_response("500 Broken", HEADERS)
        start_response("200 OK", HEADERS, (None, None, None))
        return [b"busy"] if how == "starts" else (chunk for chunk in [b"busy"])

    def broken(environ, start_response):
        start_response("201 Created", HEADERS)
        raise ConnectionError

    fallback = (
        Fallback(value=answering("200 OK", b"busy")) if how == "value" else Fallback(using=page)
    )
    bulkhead = Bulkhead(1)
    with bulkhead.guard():
        found = get(protect(answering(), Pipeline(fallback, bulkhead)))
    assert (found.status, found.written) == (200, [b"busy"])
    found = get(protect(broken, fallback))
    assert (found.status, found.written) == (200, [b"busy"])
    assert get(protect(answering(), Pipeline(fallback, bulkhead))).written == [b"ok"]


def test_a_fallback_that_is_no_answer_is_refused():
    """A value that is no WSGI application says what it should be."""
    with pytest.raises(TypeError, match="WSGI application"):
        get(ResilienceMiddleware(counting(1), Fallback("busy")))


def test_exclude_and_include_compare_whole_paths():
    """Also in other letters than ASCII; an empty path is the root."""
    bulkhead = Bulkhead(1)
    exempt = protect(answering(), bulkhead, exclude=["/healthz", "/grün"])
    only = protect(answering(), bulkhead, include=["/", "/a"], exclude=["/b"])
    with bulkhead.guard():
        for path, status in (
            ("/healthz", 200),
            ("/gr\u00c3\u00bcn", 200),
            ("/healthz/", 503),
            ("/health", 503),
            ("/", 503),
        ):
            assert get(exempt, path).status == status
        found = [get(only, path).status for path in ("/a", "/b", "/c")]
        root = get(ResilienceMiddleware(answering(), bulkhead, include=["/"]), "")
    assert found == [503, 200, 200]
    assert root.status == 503


@pytest.mark.parametrize("own", [True, False])
def test_a_policy_per_key(own):
    """Each key has a policy of its own; `key=` replaces the function of the `PerKey`."""

    def tenant(environ, *rest):
        return environ["HTTP_TENANT"]

    per_key = PerKey(lambda key: Bulkhead(1), key=tenant if own else lambda *args: None)
    app = protect(answering(), per_key, **({} if own else {"key": tenant}))
    with per_key.get("a").guard():
        assert get(app, HTTP_TENANT="a").status == 503
        assert get(app, HTTP_TENANT="b").status == 200


@pytest.mark.parametrize(
    ("value", "left"),
    [("5", 5), ("100000", 86_400), ("-1", None), ("abc", None), ("0", None), ("1e9", None)],
)
def test_the_deadline_header(value, left):
    """Its seconds bound what `remaining()` tells; what is no positive number is ignored."""
    seen = []

    def app(environ, start_response):
        seen.append(remaining())
        return answering()(environ, start_response)

    protected = protect(app, Bulkhead(1), deadline_header="X-Time-Left")
    assert get(protected, HTTP_X_TIME_LEFT=value).status == 200
    assert seen[-1] is None if left is None else left - 1 < seen[-1] <= left
    get(protected)
    get(protect(app, Bulkhead(1)), HTTP_X_TIME_LEFT="5")
    assert seen[-2:] == [None, None]


def test_drain_refuses_new_requests_and_waits_for_the_others():
    """With `Connection: close` on HTTP/1, and health checks still answered."""
    app = protect(answering(), Bulkhead(9), exclude=["/healthz"])
    exchange = Exchange(app)
    assert app.drain(0) is False
    drained = []
    waiting = threading.Thread(target=lambda: drained.append(app.drain(20)))
    waiting.start()
    refused = get(app)
    assert (refused.status, refused.headers["connection"]) == (503, "close")
    assert "connection" not in get(app, SERVER_PROTOCOL="HTTP/2").headers
    assert get(app, "/healthz").status == 200
    assert not drained
    assert exchange.read() == b"ok"
    waiting.join(10)
    assert drained == [True]
    assert app.drain() is True


def test_a_server_that_keeps_the_connection_header_to_itself():
    """Some raise at a hop-by-hop header: then the answer goes without it."""
    middleware = ResilienceMiddleware(answering(), Bulkhead(1))
    middleware.drain()

    class Handler(SimpleHandler):
        def __init__(self):
            super().__init__(io.BytesIO(), io.BytesIO(), io.StringIO(), environ_of())

    handler = Handler()
    handler.run(middleware)
    found = handler.stdout.getvalue()
    assert b"503 Service Unavailable" in found
    assert b"onnection" not in found

    def broken(*args):
        raise AssertionError("whatever it is")

    full = Bulkhead(1)
    refusing = ResilienceMiddleware(answering(), full)
    with full.guard(), pytest.raises(AssertionError, match="whatever"):
        refusing(environ_of(), broken)
    assert refusing.drain(0) is True


def test_passthrough_takes_the_policies_away():
    """In that mode the application is called as it is."""
    bulkhead = Bulkhead(1)
    app = protect(answering(), bulkhead)
    with bulkhead.guard(), passthrough():
        assert get(app).status == 200


class Several(Policy[Any, Any]):
    """A policy that runs the application several times at once."""

    kind = "pool"
    repeats = True


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"policy": Bulkhead}, TypeError),
        ({"policy": Several()}, TypeError),
        ({"exclude": "/healthz"}, TypeError),
        ({"key": str}, ValueError),
        ({"failure": 500}, TypeError),
        ({"refusal": "busy"}, TypeError),
        ({"max_body": -1}, ValueError),
        ({"deadline_header": "x y"}, ValueError),
    ],
)
def test_bad_options_are_refused(kwargs, error):
    """When the middleware is built, in a sentence."""
    with pytest.raises(error):
        ResilienceMiddleware(answering(), **({"policy": Bulkhead(1)} | kwargs))
