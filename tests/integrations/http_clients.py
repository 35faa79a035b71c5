"""The five clients that are tested, behind one face: httpx three times, requests, aiohttp.

A test is a coroutine function. For the sync clients nothing in it ever waits, so that it runs
without an event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from resilient import Policy

from tests.integrations.asgi_server import on_loop
from tests.integrations.http_server import Answer, Server, answers


class Reply:
    """An answer whose body may still be to come."""

    def __init__(self, response: Any) -> None:
        self.response = response

    @property
    def status(self) -> int:
        return self.response.status_code

    async def read(self) -> bytes:
        return self.response.read()

    async def close(self) -> None:
        self.response.close()


class Client:
    """An open client, whose requests go through a policy."""

    def __init__(self, client: Any, guarded: Any) -> None:
        self.client = client
        self.guarded = guarded

    @property
    def breakers(self) -> Any:
        return self.guarded.breakers

    async def stream(self, method: str, url: str, **options: Any) -> Reply:
        raise NotImplementedError

    async def send(self, method: str, url: str, **options: Any) -> tuple[int, bytes]:
        """Send a request, and read the answer."""
        reply = await self.stream(method, url, **options)
        try:
            return reply.status, await reply.read()
        finally:
            await reply.close()

    async def get(self, url: str, **options: Any) -> tuple[int, bytes]:
        return await self.send("GET", url, **options)


class Kind:
    """One of the five; `package` must be installed."""

    name = ""
    package = ""
    is_async = False

    def run(self, test: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a coroutine that never waits."""
        coroutine: Any = test(*args)
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        return stop.value.value

    def opened(self, policy: Policy[Any, Any], *, connections: int = 10) -> Any:
        raise NotImplementedError

    def streaming_body(self, *parts: bytes) -> Any:
        """A body that can be sent once."""
        return (part for part in parts)


class HttpxClient(Client):
    async def stream(self, method: str, url: str, *, body: Any = None, **options: Any) -> Reply:
        request = self.client.build_request(method, url, content=body, **options)
        return Reply(self.client.send(request, stream=True))


class Httpx(Kind):
    name = "httpx"
    package = "httpx"

    @asynccontextmanager
    async def opened(
        self, policy: Policy[Any, Any], *, connections: int = 10
    ) -> AsyncIterator[Client]:
        import httpx

        from resilient.httpx import ResilienceTransport

        limits = httpx.Limits(max_connections=connections)
        guarded = ResilienceTransport(
            policy, transport=httpx.HTTPTransport(limits=limits, verify=False)
        )
        with httpx.Client(transport=guarded, timeout=10) as client:
            yield HttpxClient(client, guarded)


class AsyncReply(Reply):
    async def read(self) -> bytes:
        return await self.response.aread()

    async def close(self) -> None:
        await self.response.aclose()


class AsyncHttpxClient(Client):
    async def stream(self, method: str, url: str, *, body: Any = None, **options: Any) -> Reply:
        request = self.client.build_request(method, url, content=body, **options)
        return AsyncReply(await self.client.send(request, stream=True))


class AsyncHttpx(Kind):
    package = "httpx"
    is_async = True

    def __init__(self, backend: str) -> None:
        self.name = f"httpx-{backend}"
        self._backend = backend

    def run(self, test: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return on_loop(self._backend, test, *args)

    def streaming_body(self, *parts: bytes) -> Any:
        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return body()

    @asynccontextmanager
    async def opened(
        self, policy: Policy[Any, Any], *, connections: int = 10
    ) -> AsyncIterator[Client]:
        import httpx

        from resilient.httpx import AsyncResilienceTransport

        limits = httpx.Limits(max_connections=connections)
        inner = httpx.AsyncHTTPTransport(limits=limits, verify=False)
        guarded = AsyncResilienceTransport(policy, transport=inner)
        async with httpx.AsyncClient(transport=guarded, timeout=10) as client:
            yield AsyncHttpxClient(client, guarded)


class RequestsReply(Reply):
    async def read(self) -> bytes:
        return self.response.content


class RequestsClient(Client):
    async def stream(self, method: str, url: str, *, body: Any = None, **options: Any) -> Reply:
        return RequestsReply(
            self.client.request(method, url, data=body, stream=True, timeout=10, **options)
        )


class Requests(Kind):
    name = "requests"
    package = "requests"

    @asynccontextmanager
    async def opened(
        self, policy: Policy[Any, Any], *, connections: int = 10
    ) -> AsyncIterator[Client]:
        import requests
        from requests.adapters import HTTPAdapter

        from resilient.requests import ResilienceAdapter

        inner = HTTPAdapter(pool_maxsize=connections, pool_block=True)
        guarded = ResilienceAdapter(policy, adapter=inner)
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", guarded)
            yield RequestsClient(session, guarded)


class AiohttpReply(Reply):
    @property
    def status(self) -> int:
        return self.response.status

    async def read(self) -> bytes:
        return await self.response.read()


class AiohttpClient(Client):
    async def stream(self, method: str, url: str, *, body: Any = None, **options: Any) -> Reply:
        return AiohttpReply(await self.client.request(method, url, data=body, **options))


class Aiohttp(AsyncHttpx):
    package = "aiohttp"

    def __init__(self) -> None:
        super().__init__("asyncio")
        self.name = "aiohttp"

    @asynccontextmanager
    async def opened(
        self, policy: Policy[Any, Any], *, connections: int = 10
    ) -> AsyncIterator[Client]:
        import aiohttp

        from resilient.aiohttp import resilience_middleware

        guarded = resilience_middleware(policy)
        connector = aiohttp.TCPConnector(limit=connections)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, middlewares=[guarded]
        ) as session:
            yield AiohttpClient(session, guarded)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (Httpx(), AsyncHttpx("asyncio"), AsyncHttpx("trio"), Requests(), Aiohttp())
}


def needed(name: str) -> Kind:
    """The kind of that name; skips the test where its package is missing."""
    found = KINDS[name]
    reason = f"{found.package} is not installed: pip install 'resilient-patterns[{found.package}]'"
    pytest.importorskip(found.package, reason=reason)
    return found


@pytest.fixture(params=list(KINDS))
def http(request: pytest.FixtureRequest) -> Kind:
    """Each of the five clients."""
    return needed(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers that answer in turn as given; see `answers`."""
    servers: list[Server] = []

    def start(*given: Answer | int) -> Server:
        servers.append(Server(answers(*given)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
