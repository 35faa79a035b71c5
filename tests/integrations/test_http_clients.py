"""What holds for every HTTP client: what is sent again, counted, held, and let go."""

from __future__ import annotations

import time

import pytest

from resilient import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    Retry,
    Timeout,
    attempt_number,
    once,
)
from resilient._runtime import waits
from resilient.failover import ActivePassive
from resilient.testing import passthrough

from tests.integrations.http_clients import http, serve
from tests.integrations.http_server import Answer

__all__ = ["http", "serve"]


class Never(Exception):
    """An exception that nothing raises: what `on` says must not matter to answers."""


def retry(attempts=3, **options):
    return Retry(on=Never, attempts=attempts, backoff=[0] * (attempts - 1), **options)


def active(bulkhead):
    return bulkhead.snapshot().active


@pytest.mark.parametrize("status", [408, 429, 500, 503, 599])
def test_failing_answers_are_sent_again(http, serve, status):
    """An answer of 408, 429 or 5xx is a failure whatever `on` says."""
    server = serve(status, 200)

    async def test():
        async with http.opened(retry()) as client:
            assert await client.get(server.url) == (200, b"answer 200")
        assert len(server.seen) == 2

    http.run(test)


@pytest.mark.parametrize("status", [201, 304, 400, 401, 404, 409, 422])
def test_other_answers_are_not(http, serve, status):
    """A success, a redirect and the caller's own mistake are answers like any other."""
    server = serve(Answer(status, b"" if status == 304 else b"no"), 200)
    breaker = CircuitBreaker(consecutive_failures=1)

    async def test():
        async with http.opened(Pipeline(retry(), breaker)) as client:
            found, _ = await client.get(server.url)
            assert found == status
            assert client.breakers[server.url].snapshot().failures == 0
        assert len(server.seen) == 1

    http.run(test)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_last_answer_is_returned(http, serve, chunked):
    """What still fails in the last attempt comes out as a response, to be read."""
    server = serve(Answer(503, b"x" * 5000, {"X-Why": "tired"}, chunked=chunked))

    async def test():
        async with http.opened(retry()) as client:
            reply = await client.stream("GET", server.url)
            assert reply.status == 503
            assert reply.response.headers["X-Why"] == "tired"
            assert await reply.read() == b"x" * 5000
            await reply.close()
        assert len(server.seen) == 3

    http.run(test)


def test_without_a_retry_a_failing_answer_streams(http, serve):
    """What is not to be sent again is not read ahead."""
    server = serve(Answer(500, b"late"))
    gate = server.gate()
    server.answer = lambda number, seen: Answer(500, b"late", body_gate=gate)

    async def test():
        async with http.opened(CircuitBreaker()) as client:
            reply = await client.stream("GET", server.url)
            gate.set()
            assert (reply.status, await reply.read()) == (500, b"late")
            await reply.close()
            assert client.breakers[server.url].snapshot().failures == 1

    http.run(test)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_idempotent_methods_are_sent_again(http, serve, method):
    """Their body is the same each time."""
    server = serve(503, Answer(200, b""))
    body = b"payload" if method == "PUT" else None

    async def test():
        async with http.opened(retry()) as client:
            status, _ = await client.send(method, server.url, body=body)
            assert status == 200
        assert [seen.body for seen in server.seen] == [body or b""] * 2

    http.run(test)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_other_methods_are_sent_once(http, serve, method):
    """It may have been done: the first answer stands."""
    server = serve(503, 200)

    async def test():
        async with http.opened(retry()) as client:
            assert await client.send(method, server.url, body=b"1") == (503, b"answer 503")
        assert len(server.seen) == 1

    http.run(test)


def test_an_idempotency_key_allows_it(http, serve):
    """The key and the body are the same each time."""
    server = serve(503, 503, 200)

    async def test():
        async with http.opened(retry()) as client:
            headers = {"Idempotency-Key": "k-1"}
            status, _ = await client.send("POST", server.url, body=b"1", headers=headers)
            assert status == 200
        keys = [seen.headers["Idempotency-Key"] for seen in server.seen]
        assert keys == ["k-1"] * 3
        assert [seen.body for seen in server.seen] == [b"1"] * 3

    http.run(test)


def test_a_streamed_body_is_sent_once(http, serve):
    """A body that cannot be replayed goes out whole, and never a second time."""
    server = serve(503, 200)

    async def test():
        async with http.opened(retry()) as client:
            body = http.streaming_body(b"one,", b"two")
            status, _ = await client.send("PUT", server.url, body=body)
            assert status == 503
        assert [seen.body for seen in server.seen] == [b"one,two"]

    http.run(test)


def test_a_file_is_sent_once(http, serve, tmp_path):
    """An attempt that was given up might still be reading it."""
    if http.is_async and http.package == "httpx":
        pytest.skip("httpx sends no plain file from a coroutine")
    server = serve(503, 200)
    path = tmp_path / "body"
    path.write_bytes(b"content")

    async def test():
        async with http.opened(retry()) as client:
            with path.open("rb") as body:
                status, _ = await client.send("PUT", server.url, body=body)
            assert status == 503
        assert [seen.body for seen in server.seen] == [b"content"]

    http.run(test)


def test_once_sends_once(http, serve):
    """Inside `once()` even a GET is not sent again."""
    server = serve(503, 200)

    async def test():
        async with http.opened(retry()) as client:
            with once():
                assert (await client.get(server.url))[0] == 503

    http.run(test)


def test_retry_after_is_honoured(http, serve, monkeypatch):
    """The wait is no shorter than the server asks for."""
    server = serve(Answer(429, headers={"Retry-After": "7"}), 200)
    slept = []

    async def asleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(waits, "sleep", slept.append)
    monkeypatch.setattr(waits, "asleep", asleep)

    async def test():
        async with http.opened(Retry(on=Never)) as client:
            assert (await client.get(server.url))[0] == 200

    http.run(test)
    assert len(slept) == 1
    assert 7 <= slept[0] <= 7.7


def test_too_long_a_wait_gives_up(http, serve):
    """A server that asks for more than `max_retry_after` gets no second request."""
    server = serve(Answer(503, b"later", {"Retry-After": "3600"}), 200)

    async def test():
        async with http.opened(Retry(on=Never)) as client:
            assert await client.get(server.url) == (503, b"later")

    http.run(test)
    assert len(server.seen) == 1


# On trio, generators of httpx are left half-way, as by every `aclose()` before the body's end.
@pytest.mark.filterwarnings("ignore:Async generator 'httpc:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
@pytest.mark.parametrize("size", [0, 10, 65_536, 200_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_connection_leaks(http, serve, size, chunked):
    """With one connection, a failed answer in its way would stop everything."""
    server = serve(*[Answer(503, b"x" * size, chunked=chunked)] * 2, 200, 503)

    async def test():
        async with http.opened(retry(), connections=1) as client:
            assert await client.get(server.url) == (200, b"answer 200")
            for _ in range(3):
                assert (await client.get(server.url))[0] == 503
        if size <= 65_536:
            assert server.connections == 1

    http.run(test)


def test_a_long_answer_is_whole_if_it_is_the_last(http, serve):
    """Too long to be kept, it is left to the caller."""
    server = serve(Answer(503, b"x" * 200_000))

    async def test():
        async with http.opened(retry(2), connections=1) as client:
            assert await client.get(server.url) == (503, b"x" * 200_000)

    http.run(test)


def test_errors_are_sent_again_as_on_says(http, serve):
    """A connection that breaks is what `on` is for."""
    server = serve(Answer(hang_up=True), 200)

    async def test():
        again = Retry(on=Exception, backoff=[0, 0])
        async with http.opened(again) as client:
            assert (await client.get(server.url))[0] == 200

    http.run(test)


def test_one_breaker_for_each_origin(http, serve):
    """A host that is down says nothing of another one; the policy's own breaker stays unused."""
    bad, good = serve(500), serve(200)
    template = CircuitBreaker("api", consecutive_failures=2, on=Never)

    async def test():
        async with http.opened(template) as client:
            assert len(client.breakers) == 0
            for _ in range(2):
                assert (await client.get(bad.url))[0] == 500
            with pytest.raises(CircuitOpenError) as refused:
                await client.get(bad.url)
            assert refused.value.policy == "api"
            assert "an answer of 500" in refused.value.last_failure
            assert (await client.get(f"{good.url}/a?b"))[0] == 200
            assert set(client.breakers) == {bad.url, good.url}
            assert client.breakers[bad.url].state is CircuitState.OPEN
            assert client.breakers[f"{good.url}/other"].state is CircuitState.CLOSED
            with pytest.raises(KeyError):
                client.breakers["http://elsewhere"]
        assert template.snapshot().calls == 0
        assert template.state is CircuitState.CLOSED

    http.run(test)
    assert len(bad.seen) == 2


def test_the_template_has_the_listeners(http, serve):
    """Who subscribes to the policy's breaker hears of all that were made after it."""
    server = serve(500)
    template = CircuitBreaker(consecutive_failures=1)
    heard = []
    template.subscribe(heard.append)

    async def test():
        async with http.opened(Pipeline(template, name="api")) as client:
            await client.get(server.url)

    http.run(test)
    assert [(event.policy, event.new) for event in heard] == [
        ("api.circuit_breaker", CircuitState.OPEN)
    ]


def test_a_breaker_that_opens_half_way(http, serve):
    """When the retry is refused, the answer that opened the circuit is returned, readable."""
    server = serve(503)
    breaker = CircuitBreaker(consecutive_failures=1)

    async def test():
        async with http.opened(Pipeline(retry(), breaker)) as client:
            assert await client.get(server.url) == (503, b"answer 503")
            with pytest.raises(CircuitOpenError):
                await client.get(server.url)

    http.run(test)
    assert len(server.seen) == 1


def test_the_verdict_is_at_the_headers(http, serve):
    """The breaker counts a streamed answer when it begins, not when it has been read."""
    server = serve(200)

    async def test():
        async with http.opened(CircuitBreaker()) as client:
            reply = await client.stream("GET", server.url)
            assert client.breakers[server.url].snapshot().calls == 1
            await reply.close()

    http.run(test)


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("end", ["read", "close"])
def test_a_permit_is_held_until_the_answer_ends(http, serve, status, end):
    """A streamed answer is part of the call that the bulkhead bounds."""
    server = serve(200)
    gate = server.gate()
    server.answer = lambda number, seen: Answer(status, b"x" * 100_000, body_gate=gate)
    bulkhead = Bulkhead(1)

    async def test():
        async with http.opened(bulkhead) as client:
            reply = await client.stream("GET", server.url)
            assert active(bulkhead) == 1
            with pytest.raises(BulkheadFullError):
                await client.get(server.url)
            gate.set()
            if end == "read":
                assert len(await reply.read()) == 100_000
            else:
                await reply.close()
            assert active(bulkhead) == 0
            assert (await client.get(server.url))[0] == status
            assert active(bulkhead) == 0
            await reply.close()

    http.run(test)
    assert active(bulkhead) == 0


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_failed_attempts_hold_no_permit(http, serve, inner, size):
    """An answer that is not the last gives its permit back before the next attempt."""
    server = serve(Answer(503, b"x" * size), Answer(503, b"x" * size), 200)
    bulkhead = Bulkhead(1)
    policy = Pipeline(retry(), bulkhead) if inner else Pipeline(bulkhead, retry())

    async def test():
        async with http.opened(policy, connections=1) as client:
            found = await client.get(server.url)
            # One too long to be kept stays open, and is the answer if nothing else is let in.
            assert found[0] == (503 if inner and size > 65_536 else 200)
            assert active(bulkhead) == 0

    http.run(test)


def test_a_permit_of_a_policy_per_key(http, serve):
    """The key is taken from the request, and its bulkhead holds until the answer ends."""
    server = serve(200)
    bulkhead = Bulkhead(1)
    policy = PerKey(lambda key: bulkhead, key=lambda request: request.method)

    async def test():
        async with http.opened(policy) as client:
            reply = await client.stream("GET", server.url)
            assert policy.get("GET") is bulkhead
            await reply.read()
            await reply.close()
            assert active(bulkhead) == 0

    http.run(test)


def test_results_may_be_refused(http, serve):
    """What `on_result` refuses is put away before the next attempt."""
    server = serve(202, 202, 200)
    bulkhead = Bulkhead(1)
    pending = Retry(
        on_result=lambda r: (
            getattr(r, "status_code", None) == 202 or r.__dict__.get("status") == 202
        ),
        backoff=[0, 0],
    )

    async def test():
        async with http.opened(Pipeline(pending, bulkhead), connections=1) as client:
            assert await client.get(server.url) == (200, b"answer 200")
        assert active(bulkhead) == 0

    http.run(test)
    assert len(server.seen) == 3


def test_a_fallback_stands_in(http, serve):
    """It is told of the answer, which is closed, and its value is what the caller gets."""
    server, other = serve(503), serve(200)
    outcomes = []

    async def test():
        async with http.opened(retry(1)) as plain:
            good = (await plain.stream("GET", other.url)).response

            def using(outcome, request):
                outcomes.append(outcome.response)
                return good

            policy = Fallback(using=using, on=Never)
            async with http.opened(policy, connections=1) as client:
                reply = await client.stream("GET", server.url)
                assert reply.response is good
                assert await reply.read() == b"answer 200"
                await reply.close()

    http.run(test)
    assert len(outcomes) == 1


def test_attempts_know_their_number(http, serve):
    """The code of the attempt, such as a hook, reads it as anywhere."""
    server = serve(503, 200)
    numbers = []

    class Watch(CircuitBreaker):
        def wrap(self, inner):
            def watch(args, kwargs, call):
                numbers.append(attempt_number())
                return inner(args, kwargs, call)

            return watch

        awrap = wrap

    async def test():
        async with http.opened(Pipeline(retry(), Watch())) as client:
            await client.get(server.url)

    http.run(test)
    assert numbers == [1, 2]


def test_passthrough_takes_all_out_of_the_way(http, serve):
    """In `passthrough()` a client sends as if there were no policies."""
    server = serve(503)
    breaker = CircuitBreaker(consecutive_failures=1)

    async def test():
        async with http.opened(Pipeline(retry(), breaker)) as client:
            with passthrough():
                assert (await client.get(server.url))[0] == 503
                assert (await client.get(server.url))[0] == 503
            assert not client.breakers

    http.run(test)


def test_a_deadline_ends_a_request(http, serve):
    """The time of a timeout bounds the client's own, which are longer."""
    server = serve(200)
    gate = server.gate()
    server.answer = lambda number, seen: Answer(gate=gate)
    bulkhead = Bulkhead(1)
    policy = Pipeline(bulkhead, Timeout(0.2, sync="deadline"))

    async def test():
        async with http.opened(policy) as client:
            started = time.monotonic()
            with pytest.raises(Exception, match=r".") as caught:
                await client.get(server.url)
            assert time.monotonic() - started < 5
            # A sync client's own timeout is what ends it there.
            assert isinstance(caught.value, CallTimeoutError) == http.is_async
            assert "Timeout" in type(caught.value).__name__
            assert active(bulkhead) == 0

    http.run(test)


def test_nothing_is_sent_when_the_time_is_up(http, serve):
    """What cannot end in time is not begun."""
    server = serve(200)

    class Late(CircuitBreaker):
        def wrap(self, inner):
            def late(args, kwargs, call):
                time.sleep(0.02)
                return inner(args, kwargs, call)

            return late

        awrap = wrap

    async def test():
        policy = Pipeline(Timeout(0.01, sync="deadline"), Late())
        async with http.opened(policy) as client:
            with pytest.raises(CallTimeoutError):
                await client.get(server.url)

    http.run(test)
    assert not server.seen


def test_a_hedge_closes_the_loser(http, serve):
    """The answer of an overtaken request is closed, and its connection is free."""
    server = serve(200)
    gate = server.gate()

    def answer(number, seen):
        return Answer(body=b"slow", gate=gate) if number == 1 else Answer(body=b"fast")

    server.answer = answer
    bulkhead = Bulkhead(2)
    policy = Pipeline(Hedge(0.05, on=Never, sync="thread"), bulkhead)

    async def test():
        async with http.opened(policy, connections=2) as client:
            assert await client.get(server.url) == (200, b"fast")
            gate.set()
            if http.is_async:
                assert active(bulkhead) == 0
            for _ in range(3):
                assert await client.get(server.url) == (200, b"fast")

    http.run(test)
    deadline = time.monotonic() + 5
    while active(bulkhead):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_hedge_follows_a_failing_answer(http, serve):
    """The next request starts at once; if all fail, the first one's answer is returned."""
    server = serve(503, 200, Answer(500, b"first"), Answer(502, b"second"))
    policy = Hedge(10, on=Never, sync="thread")

    async def test():
        async with http.opened(policy) as client:
            assert await client.get(server.url) == (200, b"answer 200")
            assert await client.get(server.url) == (500, b"first")

    http.run(test)


def test_a_hedge_leaves_a_post_alone(http, serve):
    """What must not be sent again is not sent twice at a time either."""
    server = serve(503, 200)

    async def test():
        async with http.opened(Hedge(10, on=Never, sync="thread")) as client:
            assert (await client.send("POST", server.url, body=b"1"))[0] == 503

    http.run(test)
    assert len(server.seen) == 1


def test_what_is_no_policy_is_refused(http):
    """So is a pool, whose members' targets have no place in a request."""

    async def test():
        for wrong in (None, CircuitBreaker, lambda: None):
            with pytest.raises(TypeError, match="needs a policy"):
                async with http.opened(wrong):
                    pass
        pool = ActivePassive("hosts", {"a": 1, "b": 2}, on=OSError)
        with pytest.raises(TypeError, match="is a pool"):
            async with http.opened(pool):
                pass

    http.run(test)
