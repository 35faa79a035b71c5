"""httpx transports that send requests through policies, for both kinds of client.

::

    import httpx
    from resilient import CircuitBreaker, Pipeline, Retry, Timeout
    from resilient.httpx import AsyncResilienceTransport

    payments = Pipeline(Timeout(10), Retry(on=httpx.TransportError), CircuitBreaker())
    client = httpx.AsyncClient(transport=AsyncResilienceTransport(payments))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

from resilient._call import Call, entered
from resilient._clients import times
from resilient._clients.holding import Hold
from resilient._clients.origins import Breakers, origin
from resilient._clients.outbound import (
    KEPT_BYTES,
    AsyncOutbound,
    Exchange,
    SyncOutbound,
    too_long,
    why_once,
)
from resilient._clients.requirements import missing
from resilient._clients.resends import async_otel_request_hook, otel_request_hook
from resilient._policy import Policy

try:
    import httpx
except ImportError as error:
    raise missing("httpx", error) from error

__all__ = [
    "AsyncResilienceTransport",
    "ResilienceTransport",
    "async_otel_request_hook",
    "otel_request_hook",
]


class ResilienceTransport(httpx.BaseTransport):
    """A transport for `httpx.Client` that sends each request through policies.

    An answer of 408, 429 or 5xx is a failure for every policy, whatever its `on` says; the
    last one is returned like any other answer. A request is sent again only if its method is
    idempotent (GET, HEAD, PUT, DELETE, OPTIONS, TRACE) or it bears an `Idempotency-Key`, and
    if its body was given whole, not as a stream or a file. `Retry-After` is honoured.

    A `CircuitBreaker` in the policy is a template: there is one after it, in `breakers`, for
    each scheme, host and port. The time that is left until the nearest deadline bounds the
    client's own timeouts. The call ends with the answer's headers; a permit of a bulkhead is
    held until the body has been read, or the answer closed.

    Args:
        policy: A policy or a `Pipeline`; a timeout in it needs `sync="deadline"`, or
            `"thread"`.
        transport: What sends the requests; by default a new `httpx.HTTPTransport()`. Its
            options, such as `verify` and `limits`, are given there: a client with a
            transport of its own ignores them.

    Raises:
        TypeError: `policy` is none, or cannot protect a request.
    """

    def __init__(
        self, policy: Policy[Any, Any], *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._inner = httpx.HTTPTransport() if transport is None else transport
        self._outbound = _Sync(policy, f"{type(self._inner).__name__}.handle_request")

    @property
    def breakers(self) -> Breakers:
        """The circuit breakers, by origin, such as `https://api.example.com`."""
        return self._outbound.breakers

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` through the policies."""
        if self._outbound.bypassed:
            return self._inner.handle_request(request)
        exchange = _exchange(request)
        exchange.send = partial(self._send, request)
        return self._outbound.run(exchange)

    def _send(self, request: httpx.Request, call: Call) -> httpx.Response:
        attempt = _attempt(request)
        entered(call)
        return self._inner.handle_request(attempt)

    def close(self) -> None:
        """Close the transport that sends the requests."""
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncResilienceTransport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient` that sends each request through policies.

    It works on asyncio and on trio; all that is said of `ResilienceTransport` holds here.

    Args:
        policy: A policy or a `Pipeline`.
        transport: What sends the requests; by default a new `httpx.AsyncHTTPTransport()`.

    Raises:
        TypeError: `policy` is none, or cannot protect a request.
    """

    def __init__(
        self, policy: Policy[Any, Any], *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._inner = httpx.AsyncHTTPTransport() if transport is None else transport
        self._outbound = _Async(policy, f"{type(self._inner).__name__}.handle_async_request")

    @property
    def breakers(self) -> Breakers:
        """The circuit breakers, by origin, such as `https://api.example.com`."""
        return self._outbound.breakers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` through the policies."""
        if self._outbound.bypassed:
            return await self._inner.handle_async_request(request)
        exchange = _exchange(request)
        exchange.send = partial(self._send, request)
        return await self._outbound.run(exchange)

    async def _send(self, request: httpx.Request, call: Call) -> httpx.Response:
        attempt = _attempt(request)
        entered(call)
        try:
            return await self._inner.handle_async_request(attempt)
        except httpx.TimeoutException:
            await times.give_way()
            raise

    async def aclose(self) -> None:
        """Close the transport that sends the requests."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)


def _exchange(request: httpx.Request) -> Exchange:
    exchange = Exchange()
    exchange.request = request
    exchange.origin = origin(request.url.scheme, request.url.host, request.url.port)
    exchange.unrepeatable = why_once(
        request.method,
        "Idempotency-Key" in request.headers,
        # Of all streams these bytes alone are certain to be there again, and in parallel.
        isinstance(request.stream, httpx.ByteStream),
    )
    return exchange


def _attempt(request: httpx.Request) -> httpx.Request:
    """The request of one attempt, with the time that is left as its timeouts.

    Each attempt has one of its own: there may be several at once.
    """
    left = times.left()
    extensions = dict(request.extensions)
    if left is not None:
        given = extensions.get("timeout") or {}
        extensions["timeout"] = {
            step: times.least(given.get(step), left)
            for step in ("connect", "read", "write", "pool")
        }
    return httpx.Request(
        request.method,
        request.url,
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )


def _is_too_long(exchange: Exchange, response: httpx.Response) -> bool:
    return too_long(exchange.request.method, response.headers.get("Content-Length"))


class _Sync(SyncOutbound[httpx.Response]):
    def status(self, response: httpx.Response) -> int:
        return response.status_code

    def held(self, response: httpx.Response, hold: Hold) -> None:
        if response.is_closed:
            hold.end()  # it came whole, from no network
        else:
            response.stream = _Held(response.stream, hold)
            hold.watch(response)

    def keep(self, exchange: Exchange, response: httpx.Response) -> bool:
        stream: Any = response.stream
        if response.is_closed:
            return True
        if _is_too_long(exchange, response):
            return False
        chunks: list[bytes] = []
        rest = iter(stream)
        try:
            for chunk in rest:
                chunks.append(chunk)
                if sum(map(len, chunks)) > KEPT_BYTES:
                    response.stream = _Kept(chunks, None, rest, stream)
                    return False
        except httpx.HTTPError as error:
            response.stream = _Kept(chunks, error)
        else:
            response.stream = _Kept(chunks)
        stream.close()
        return True


class _Async(AsyncOutbound[httpx.Response]):
    def status(self, response: httpx.Response) -> int:
        return response.status_code

    def held(self, response: httpx.Response, hold: Hold) -> None:
        if response.is_closed:
            hold.end()  # it came whole, from no network
        else:
            response.stream = _AsyncHeld(response.stream, hold)
            hold.watch(response)

    async def keep(self, exchange: Exchange, response: httpx.Response) -> bool:
        stream: Any = response.stream
        if response.is_closed:
            return True
        if _is_too_long(exchange, response):
            return False
        chunks: list[bytes] = []
        rest = aiter(stream)
        try:
            async for chunk in rest:
                chunks.append(chunk)
                if sum(map(len, chunks)) > KEPT_BYTES:
                    response.stream = _AsyncKept(chunks, None, rest, stream)
                    return False
        except httpx.HTTPError as error:
            await times.give_way()
            response.stream = _AsyncKept(chunks, error)
        else:
            response.stream = _AsyncKept(chunks)
        await stream.aclose()
        return True


class _Held(httpx.SyncByteStream):
    """A body whose end ends a hold."""

    def __init__(self, stream: Any, hold: Hold) -> None:
        self._stream = stream
        self._hold = hold

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._hold.end()


class _AsyncHeld(httpx.AsyncByteStream):
    """A body whose end ends a hold."""

    def __init__(self, stream: Any, hold: Hold) -> None:
        self._stream = stream
        self._hold = hold

    def __aiter__(self) -> AsyncIterator[bytes]:
        # No generator: one that is left half-way would have to be closed in its turn.
        return aiter(self._stream)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._hold.end()


class _Kept(httpx.SyncByteStream):
    """A body that has been read: whole, up to an error, or up to the most that is kept."""

    def __init__(
        self,
        chunks: list[bytes],
        error: httpx.HTTPError | None = None,
        rest: Iterable[bytes] = (),
        stream: httpx.SyncByteStream | None = None,
    ) -> None:
        self._chunks = chunks
        self._error = error
        self._rest = rest
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._error is not None:
            raise self._error
        yield from self._rest

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class _AsyncKept(httpx.AsyncByteStream):
    """As `_Kept`, in coroutines."""

    def __init__(
        self,
        chunks: list[bytes],
        error: httpx.HTTPError | None = None,
        rest: AsyncIterator[bytes] | None = None,
        stream: httpx.AsyncByteStream | None = None,
    ) -> None:
        self._chunks = chunks
        self._error = error
        self._rest = rest
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._error is not None:
            raise self._error
        if self._rest is not None:
            async for chunk in self._rest:
                yield chunk

    async def aclose(self) -> None:
        if isinstance(self._rest, AsyncGenerator):
            await self._rest.aclose()
        if self._stream is not None:
            await self._stream.aclose()
