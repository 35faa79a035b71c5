"""A client middleware that sends the requests of aiohttp through policies.

::

    import aiohttp
    from resilient import CircuitBreaker, Pipeline, Retry, Timeout
    from resilient.aiohttp import resilience_middleware

    payments = Pipeline(Timeout(10), Retry(on=aiohttp.ClientError), CircuitBreaker())
    session = aiohttp.ClientSession(middlewares=[resilience_middleware(payments)])
"""

from __future__ import annotations

import asyncio
import copy
from functools import partial
from typing import Any

from resilient._call import Call, entered
from resilient._clients import times
from resilient._clients.holding import Hold
from resilient._clients.origins import Breakers, origin
from resilient._clients.outbound import AsyncOutbound, Exchange, too_long, why_once
from resilient._clients.requirements import missing
from resilient._clients.resends import otel_request_hook
from resilient._policy import Policy

try:
    import aiohttp
except ImportError as error:
    raise missing("aiohttp", error) from error

from aiohttp.base_protocol import BaseProtocol

__all__ = ["ResilienceMiddleware", "otel_request_hook", "resilience_middleware"]


class ResilienceMiddleware:
    """What `resilience_middleware` makes: a client middleware of aiohttp."""

    def __init__(self, policy: Policy[Any, Any]) -> None:
        self._outbound = _Outbound(policy, "ClientSession.request")

    @property
    def breakers(self) -> Breakers:
        """The circuit breakers, by origin, such as `https://api.example.com`."""
        return self._outbound.breakers

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send `request` through the policies; aiohttp calls this."""
        if self._outbound.bypassed:
            return await handler(request)
        exchange = Exchange()
        exchange.request = request
        url = request.url
        exchange.origin = origin(url.scheme, url.host or "", url.port)
        exchange.unrepeatable = why_once(
            request.method, "Idempotency-Key" in request.headers, _is_replayable(request)
        )
        exchange.send = partial(self._send, request, handler)
        return await self._outbound.run(exchange)

    async def _send(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, call: Call
    ) -> aiohttp.ClientResponse:
        times.left()
        attempt = request
        if call.kind == "hedge":
            # The first one is under way, and a request knows of one connection.
            attempt = copy.copy(request)
            attempt.headers = request.headers.copy()
        entered(call)
        return await handler(attempt)


def resilience_middleware(policy: Policy[Any, Any]) -> ResilienceMiddleware:
    """Return a client middleware that sends each request through policies.

    An answer of 408, 429 or 5xx is a failure for every policy, whatever its `on` says; the
    last one is returned like any other answer. A request is sent again only if its method is
    idempotent (GET, HEAD, PUT, DELETE, OPTIONS, TRACE) or it bears an `Idempotency-Key`, and
    if its body was given as bytes, text, JSON or a plain form, not as a stream or a file.
    `Retry-After` is honoured. Each redirect is a request of its own.

    A `CircuitBreaker` in the policy is a template: there is one after it, in `breakers`, for
    each scheme, host and port. A deadline cancels the request, whose own timeouts a
    middleware cannot reach. The call ends with the answer's headers; a permit of a bulkhead
    is held until the body has come in, or the answer is closed.

    Args:
        policy: A policy or a `Pipeline`.

    Raises:
        TypeError: `policy` is none, or cannot protect a request.
    """
    return ResilienceMiddleware(policy)


def _is_replayable(request: aiohttp.ClientRequest) -> bool:
    body: Any = request.body
    return not body or isinstance(body, (bytes, aiohttp.BytesPayload))


class _Outbound(AsyncOutbound[aiohttp.ClientResponse]):
    def status(self, response: aiohttp.ClientResponse) -> int:
        return response.status

    def held(self, response: aiohttp.ClientResponse, hold: Hold) -> None:
        connection = response.connection
        if connection is None:
            # All of it has come in with the headers.
            hold.end()
        else:
            connection.add_callback(hold.end)

    async def keep(self, exchange: Exchange, response: aiohttp.ClientResponse) -> bool:
        if too_long(response.method, response.headers.get("Content-Length")):
            return False
        try:
            body = await response.read()
        except aiohttp.ClientError:
            # Its reader raises the same again for whoever reads the answer.
            return True
        loop = asyncio.get_running_loop()
        again = aiohttp.StreamReader(BaseProtocol(loop), max(1, len(body)), loop=loop)
        again.feed_data(body)
        again.feed_eof()
        response.content = again
        return True
