"""The transports of httpx: what they are given, and what they pass on."""

from __future__ import annotations

import gc
import importlib
import sys
import time
from functools import partial

import anyio
import pytest

from resilient import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    Hedge,
    Pipeline,
    Policy,
    Retry,
    Timeout,
)

from tests.integrations.http_clients import http, needed, serve
from tests.integrations.http_server import Answer

httpx = pytest.importorskip(
    "httpx", reason="httpx is not installed: pip install 'resilient-patterns[httpx]'"
)

from resilient.httpx import AsyncResilienceTransport, ResilienceTransport  # noqa: E402

__all__ = ["http", "serve"]

URL = "http://api.test/"


class Inner(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Sends nothing, and keeps what it was given."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes) or [200]
        self.requests = []
        self.events = []

    def handle_request(self, request):
        self.requests.append(request)
        outcome = self.outcomes[min(len(self.requests), len(self.outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome, content=b"body")

    async def handle_async_request(self, request):
        await anyio.lowlevel.checkpoint()
        return self.handle_request(request)

    def close(self):
        self.events.append("close")

    async def aclose(self):
        self.events.append("aclose")

    def __enter__(self):
        self.events.append("enter")
        return self

    async def __aenter__(self):
        return self.__enter__()

    def __exit__(self, *exc):
        self.events.append("exit")

    async def __aexit__(self, *exc):
        self.__exit__()


def timeouts(request):
    return request.extensions["timeout"]


def test_the_time_left_sets_the_timeouts():
    """All four, where the client's own are longer or missing."""
    inner = Inner()
    policy = Timeout(5, sync="deadline")
    given = httpx.Timeout(60, connect=1, read=None)
    with httpx.Client(transport=ResilienceTransport(policy, transport=inner)) as client:
        client.get(URL, timeout=given)
    found = timeouts(inner.requests[0])
    assert found["connect"] == 1
    assert all(4 < found[step] <= 5 for step in ("read", "write", "pool"))


def test_without_a_deadline_they_stay():
    """So they do for a request that names none."""
    inner = Inner()
    transport = ResilienceTransport(Bulkhead(1), transport=inner)
    with httpx.Client(transport=transport, timeout=7) as client:
        client.get(URL)
    assert set(timeouts(inner.requests[0]).values()) == {7}
    transport.handle_request(httpx.Request("GET", URL)).close()
    assert "timeout" not in inner.requests[1].extensions


def test_an_async_deadline_sets_them_too(run):
    """Each attempt gets the time that is left then."""
    inner = Inner(503, 200)
    policy = Pipeline(Timeout(5), Retry(on=OSError, backoff=[0.01]))

    async def test():
        transport = AsyncResilienceTransport(policy, transport=inner)
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(URL, timeout=None)).status_code == 200
        first, second = map(timeouts, inner.requests)
        assert second["read"] < first["read"] <= 5

    run(test)


def test_the_request_stays_as_it_was():
    """An attempt has a request of its own; the answer has the caller's."""
    inner = Inner(503, 200)
    policy = Pipeline(Timeout(5, sync="deadline"), Retry(on=OSError, backoff=[0]))
    with httpx.Client(transport=ResilienceTransport(policy, transport=inner)) as client:
        request = client.build_request("PUT", URL, json={"a": 1}, headers={"X-A": "b"})
        before = dict(request.extensions)
        response = client.send(request)
    assert response.request is request
    assert request.extensions == before
    assert len({id(one) for one in (request, *inner.requests)}) == 3
    for one in inner.requests:
        assert one.headers == request.headers
        assert one.read() == request.read()


def test_the_clients_timer_gives_way_to_the_deadlines(run):
    """Both are set to the same moment, and the policy's is the one that is told."""

    class Ready(Inner):
        async def handle_async_request(self, request):
            # As a client would that is a moment early.
            raise httpx.ReadTimeout("too late", request=request)

    async def test():
        transport = AsyncResilienceTransport(Timeout(0.005), transport=Ready())
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(CallTimeoutError):
                await client.get(URL)

    run(test)


def test_a_timeout_of_the_client_is_its_own(run):
    """Without a deadline, or long before it, what it raises comes out."""

    async def test(policy):
        inner = Inner(httpx.ReadTimeout("too late"))
        transport = AsyncResilienceTransport(policy, transport=inner)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(URL)

    run(partial(test, Timeout(60)))
    run(partial(test, Bulkhead(1)))


def test_opening_and_closing_reach_the_inner_transport(run):
    """In every way that httpx does it."""
    inner = Inner()
    with httpx.Client(transport=ResilienceTransport(Bulkhead(1), transport=inner)):
        pass
    ResilienceTransport(Bulkhead(1), transport=inner).close()
    assert inner.events == ["enter", "exit", "close"]
    inner.events.clear()

    async def test():
        async with httpx.AsyncClient(
            transport=AsyncResilienceTransport(Bulkhead(1), transport=inner)
        ):
            pass
        await AsyncResilienceTransport(Bulkhead(1), transport=inner).aclose()

    run(test)
    assert inner.events == ["enter", "exit", "aclose"]


def test_by_default_it_sends_by_itself(run, serve):
    """`transport=None` makes the transport that a client would have."""
    server = serve(200)
    with httpx.Client(transport=ResilienceTransport(Bulkhead(1), transport=None)) as client:
        assert client.get(server.url).text == "answer 200"

    async def test():
        async with httpx.AsyncClient(transport=AsyncResilienceTransport(Bulkhead(1))) as client:
            assert (await client.get(server.url)).text == "answer 200"

    run(test)


def test_an_answer_that_nobody_closes(serve):
    """Its permit comes back when it is collected."""
    kind = needed("httpx")
    server = serve(200)
    bulkhead = Bulkhead(1)

    async def test():
        async with kind.opened(bulkhead) as client:
            reply = await client.stream("GET", server.url)
            assert bulkhead.snapshot().active == 1
            del reply
            gc.collect()
            assert bulkhead.snapshot().active == 0

    kind.run(test)


def test_a_cancelled_request_holds_nothing(serve):
    """A caller that is cancelled gives back its permit and its connection."""
    kind = needed("httpx-asyncio")
    server = serve(200)
    gate = server.gate()
    server.answer = lambda number, seen: Answer(gate=gate if number == 1 else None)
    bulkhead = Bulkhead(1)

    async def test():
        async with kind.opened(bulkhead, connections=1) as client:
            with anyio.move_on_after(0.05):
                await client.get(server.url)
            assert bulkhead.snapshot().active == 0
            assert (await client.get(server.url))[0] == 200

    kind.run(test)


def test_a_loser_that_still_answers_is_closed(serve):
    """In a thread it runs on: what it comes to, good or bad, is closed when it comes."""
    kind = needed("httpx")
    server = serve(200)
    gate = server.gate()
    for status in (200, 503):
        slow = Answer(status, b"x" * 100_000, gate=gate)
        server.seen.clear()
        server.answer = lambda number, seen, slow=slow: slow if number == 1 else Answer()
        bulkhead = Bulkhead(2)

        async def test(bulkhead=bulkhead):
            policy = Pipeline(Hedge(0.02, sync="thread"), bulkhead)
            async with kind.opened(policy, connections=2) as client:
                assert await client.get(server.url) == (200, b"ok")
                gate.set()
                while bulkhead.snapshot().active:
                    time.sleep(0.001)

        kind.run(test)


@pytest.mark.parametrize("error", [None, httpx.ReadError("broken")])
def test_a_failed_answer_that_breaks_off(run, error):
    """It is kept as far as it came, and reading it raises what broke it."""

    class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
        closed = 0

        def __iter__(self):
            yield b"half"
            if error is not None:
                raise error

        async def __aiter__(self):
            for chunk in self:
                yield chunk

        def close(self):
            Broken.closed += 1

        async def aclose(self):
            Broken.closed += 1

    class Failing(Inner):
        def handle_request(self, request):
            return httpx.Response(503, stream=Broken())

    policy = Retry(on=OSError, attempts=2, backoff=[0])
    with httpx.Client(transport=ResilienceTransport(policy, transport=Failing())) as client:
        check = partial(client.get, URL)
        if error is None:
            assert check().content == b"half"
        else:
            with pytest.raises(httpx.ReadError):
                check()
    assert Broken.closed == 2

    async def test():
        transport = AsyncResilienceTransport(policy, transport=Failing())
        async with httpx.AsyncClient(transport=transport) as client:
            if error is None:
                assert (await client.get(URL)).content == b"half"
            else:
                with pytest.raises(httpx.ReadError):
                    await client.get(URL)

    run(test)
    assert Broken.closed == 4


def test_requests_at_once_share_nothing(run):
    """Each call's attempts are its own."""
    inner = Inner(503, 503, 200)
    policy = Retry(on=OSError, attempts=5, backoff=[0] * 4, budget=None)

    async def test():
        transport = AsyncResilienceTransport(policy, transport=inner)
        async with httpx.AsyncClient(transport=transport) as client:
            statuses = []

            async def one():
                statuses.append((await client.get(URL)).status_code)

            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(one)
            assert statuses == [200] * 20

    run(test)


def test_origins_are_told_apart():
    """By scheme, host and port; the usual port goes without saying."""
    breaker = CircuitBreaker()
    transport = ResilienceTransport(breaker, transport=Inner())
    with httpx.Client(transport=transport) as client:
        for url in ("https://A.test/1", "https://a.test:443/2", "http://a.test", "http://a.test:81",
                    "http://[::1]:80/"):  # fmt: skip
            client.get(url)
    found = {"https://a.test", "http://a.test", "http://a.test:81", "http://[::1]"}
    assert set(transport.breakers) == found
    assert transport.breakers["https://a.test:443/x"] is transport.breakers["https://a.test"]
    assert all(one.name == breaker.name for one in transport.breakers.values())
    assert "https://a.test" in repr(transport.breakers)


def test_old_origins_are_dropped(monkeypatch):
    """A client that meets many hosts keeps those whose circuit is not closed."""
    monkeypatch.setattr("resilient._clients.origins.MAX_ORIGINS", 2)
    inner = Inner(500, 200)
    transport = ResilienceTransport(CircuitBreaker(consecutive_failures=1), transport=inner)
    with httpx.Client(transport=transport) as client:
        for host in "abcd":
            client.get(f"http://{host}.test")
    assert list(transport.breakers) == ["http://a.test", "http://d.test"]
    # With no circuit closed there is nobody to drop.
    inner.outcomes[:] = [500]
    with httpx.Client(transport=transport) as client:
        for host in "efg":
            client.get(f"http://{host}.test")
    assert len(transport.breakers) == 4


def test_a_forked_child_has_a_lock_of_its_own(monkeypatch):
    """One that a lost thread held would stop every new origin."""
    transport = ResilienceTransport(CircuitBreaker(), transport=Inner())
    (origins,) = transport._outbound._origins
    origins._lock.acquire()
    origins.after_fork()
    with httpx.Client(transport=transport) as client:
        assert client.get(URL).status_code == 200


# On trio, see `test_no_connection_leaks`.
@pytest.mark.filterwarnings("ignore:Async generator 'httpc:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
def test_a_long_answer_on_a_loop_is_whole(run, serve):
    """What was read ahead comes first, then the rest."""
    server = serve(Answer(503, b"a" * 65_536 + b"b" * 100_000, chunked=True))

    async def test():
        policy = Retry(on=OSError, attempts=2, backoff=[0])
        async with httpx.AsyncClient(transport=AsyncResilienceTransport(policy)) as client:
            assert (await client.get(server.url)).content == b"a" * 65_536 + b"b" * 100_000

    run(test)


def test_a_users_policy_may_stand_among_them():
    """Its arguments are those of a call: the request alone."""
    seen = []

    class Seen(Policy):
        kind = "seen"

        def wrap(self, inner):
            def watch(args, kwargs, call):
                seen.append((args[0].url.host, kwargs, call.function))
                return inner(args, kwargs, call)

            return watch

    with httpx.Client(transport=ResilienceTransport(Seen(), transport=Inner())) as client:
        client.get(URL)
    assert seen == [("api.test", {}, "Inner.handle_request")]


def test_a_sync_timeout_needs_its_choice():
    """The client is refused when it is built, not at its first request."""
    with pytest.raises(TypeError, match="sync="):
        ResilienceTransport(Timeout(1), transport=Inner())
    with pytest.raises(TypeError, match="sync="):
        ResilienceTransport(Hedge(1), transport=Inner())


@pytest.mark.parametrize("package", ["httpx", "requests", "aiohttp"])
def test_a_missing_package_is_named(monkeypatch, package):
    """The error says what to install; what is broken by itself says so itself."""
    monkeypatch.delitem(sys.modules, f"resilient.{package}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"resilient-patterns\[{package}\]"):
        importlib.import_module(f"resilient.{package}")


def test_a_broken_package_speaks_for_itself(monkeypatch, tmp_path):
    """A package that is there, and cannot be imported, is not said to be missing."""
    (tmp_path / "aiohttp.py").write_text("import no_such_thing_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "resilient.aiohttp", raising=False)
    monkeypatch.delitem(sys.modules, "aiohttp", raising=False)
    with pytest.raises(ImportError, match="no_such_thing_at_all"):
        importlib.import_module("resilient.aiohttp")
