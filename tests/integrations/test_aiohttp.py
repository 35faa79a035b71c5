"""The client middleware of aiohttp: bodies, redirects, and the reader of a kept answer."""

from __future__ import annotations

import pytest

from resilient import CallTimeoutError, Hedge, Retry, Timeout

from tests.integrations.asgi_server import on_loop
from tests.integrations.http_clients import serve
from tests.integrations.http_server import Answer

aiohttp = pytest.importorskip(
    "aiohttp", reason="aiohttp is not installed: pip install 'resilient-patterns[aiohttp]'"
)

from resilient.aiohttp import resilience_middleware  # noqa: E402

__all__ = ["serve"]


def again(attempts=3):
    return Retry(on=OSError, attempts=attempts, backoff=[0] * (attempts - 1))


def run(test, policy):
    """Run `test(session, middleware)` with a session behind `policy`."""

    async def main():
        middleware = resilience_middleware(policy)
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:
            await test(session, middleware)

    on_loop("asyncio", main)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"data": b"bytes"}, b"bytes"),
        ({"data": "text"}, b"text"),
        ({"json": {"a": 1}}, b'{"a": 1}'),
        ({"data": {"a": "1"}}, b"a=1"),
    ],
)
def test_bodies_in_memory_are_sent_again(serve, body, sent):
    """Each attempt has the same."""
    server = serve(503, 200)

    async def test(session, middleware):
        async with session.put(server.url, **body) as response:
            assert response.status == 200

    run(test, again())
    assert [seen.body for seen in server.seen] == [sent, sent]


def test_a_kept_answer_reads_in_every_way(serve):
    """Whole, as a stream, and after an error for its status."""
    server = serve(Answer(503, b"a" * 40_000, {"Content-Type": "text/plain"}))

    async def test(session, middleware):
        async with session.get(server.url) as response:
            assert await response.text() == "a" * 40_000
        async with session.get(server.url) as response:
            parts = [part async for part in response.content.iter_chunked(1000)]
            assert b"".join(parts) == b"a" * 40_000
        async with session.get(server.url) as response:
            assert await response.content.read() == b"a" * 40_000
        with pytest.raises(aiohttp.ClientResponseError):
            await session.get(server.url, raise_for_status=True)

    run(test, again(2))


def test_each_redirect_is_a_request_of_its_own(serve):
    """So it has attempts, and a breaker's verdict, of its own."""
    server = serve(Answer(503), Answer(302, headers={"Location": "/b"}), Answer(503), 200)

    async def test(session, middleware):
        async with session.get(f"{server.url}/a") as response:
            assert response.status == 200

    run(test, again())
    assert [seen.path for seen in server.seen] == ["/a", "/a", "/b", "/b"]


def test_a_hedge_has_a_request_of_its_own(serve):
    """Two are under way at a time, with the same headers."""
    server = serve(200)
    gate = server.gate()
    server.answer = lambda number, seen: Answer(gate=gate if number == 1 else None)

    async def test(session, middleware):
        async with session.put(server.url, data=b"body", headers={"X-A": "b"}) as response:
            assert response.status == 200

    run(test, Hedge(0.05))
    assert [(seen.body, seen.headers["X-A"]) for seen in server.seen] == [(b"body", "b")] * 2


def test_a_failed_answer_that_breaks_off(serve):
    """It is a failed answer still; reading it raises what broke it."""
    server = serve(Answer(503, b"half", length=10))

    async def test(session, middleware):
        async with session.get(server.url) as response:
            assert response.status == 503
            with pytest.raises(aiohttp.ClientError):
                await response.read()

    run(test, again(2))


def test_a_deadline_that_has_passed_is_an_error_of_ours(serve):
    """What aiohttp makes of the errors of sockets does not touch it."""
    server = serve(200)
    gate = server.gate()
    server.answer = lambda number, seen: Answer(gate=gate)

    async def test(session, middleware):
        with pytest.raises(CallTimeoutError):
            await session.get(server.url)

    run(test, Timeout(0.05))
