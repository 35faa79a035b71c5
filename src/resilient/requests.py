"""An adapter that sends the requests of a `requests.Session` through policies.

::

    import requests
    from resilient import Pipeline, Retry, Timeout
    from resilient.requests import ResilienceAdapter

    adapter = ResilienceAdapter(Pipeline(Timeout(10, sync="deadline"), Retry(on=OSError)))
    session = requests.Session()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
"""

from __future__ import annotations

import io
import weakref
from functools import partial
from typing import Any

from resilient._call import Call, entered
from resilient._clients import times
from resilient._clients.holding import Hold
from resilient._clients.origins import Breakers, origin_of
from resilient._clients.outbound import (
    KEPT_BYTES,
    Exchange,
    SyncOutbound,
    too_long,
    why_once,
)
from resilient._clients.requirements import missing
from resilient._clients.resends import otel_request_hook
from resilient._policy import Policy

try:
    import requests
except ImportError as error:
    raise missing("requests", error) from error

import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from resilient._clients.requests_spans import Spans, inside_client_span

__all__ = ["ResilienceAdapter", "otel_request_hook"]


class ResilienceAdapter(BaseAdapter):
    """A transport adapter for `requests.Session` that sends each request through policies.

    An answer of 408, 429 or 5xx is a failure for every policy, whatever its `on` says; the
    last one is returned like any other answer. A request is sent again only if its method is
    idempotent (GET, HEAD, PUT, DELETE, OPTIONS, TRACE) or it bears an `Idempotency-Key`, and
    if its body is `bytes` or `str`: files, also those that could be rewound, and generators
    are sent once, since an attempt that was given up may still be reading them. `Retry-After`
    is honoured.

    A `CircuitBreaker` in the policy is a template: there is one after it, in `breakers`, for
    each scheme, host and port. The time that is left until the nearest deadline bounds the
    timeouts for connecting and reading. The call ends with the answer's headers; a permit of
    a bulkhead is held until the body has been read, or the answer closed.

    Args:
        policy: A policy or a `Pipeline`; a timeout in it needs `sync="deadline"`, or
            `"thread"`.
        adapter: What sends the requests; by default a new `requests.adapters.HTTPAdapter()`.

    Raises:
        TypeError: `policy` is none, or cannot protect a request.
    """

    def __init__(self, policy: Policy[Any, Any], *, adapter: BaseAdapter | None = None) -> None:
        super().__init__()
        self._inner = HTTPAdapter() if adapter is None else adapter
        self._spans = Spans(self._inner)
        self._outbound = _Outbound(policy, f"{type(self._inner).__name__}.send")

    @property
    def breakers(self) -> Breakers:
        """The circuit breakers, by origin, such as `https://api.example.com`."""
        return self._outbound.breakers

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send `request` through the policies."""
        options = {"stream": stream, "verify": verify, "cert": cert, "proxies": proxies}
        if self._outbound.bypassed:
            return self._inner.send(request, timeout=timeout, **options)
        exchange = _exchange(request)
        exchange.send = partial(self._send, request, timeout, options, inside_client_span())
        response = self._outbound.run(exchange)
        if isinstance(response, requests.Response):
            # As the session has it; an attempt had a copy of its own.
            response.request = request
        return response

    def _send(
        self,
        request: requests.PreparedRequest,
        timeout: Any,
        options: dict[str, Any],
        spans: bool,
        call: Call,
    ) -> requests.Response:
        within = shortened(timeout, times.left())
        send = self._spans.send if spans else self._inner.send
        entered(call)
        return send(request.copy(), timeout=within, **options)

    def close(self) -> None:
        """Close the adapter that sends the requests."""
        self._inner.close()


def _exchange(request: requests.PreparedRequest) -> Exchange:
    exchange = Exchange()
    exchange.request = request
    exchange.origin = origin_of(request.url or "")
    exchange.unrepeatable = why_once(
        request.method or "",
        "Idempotency-Key" in request.headers,
        request.body is None or isinstance(request.body, (bytes, str)),
    )
    return exchange


def shortened(timeout: Any, left: float | None) -> Any:
    """The timeout of `requests`, in any of its forms, within the time that is left."""
    if left is None:
        return timeout
    if isinstance(timeout, urllib3.Timeout):
        found = timeout.clone()
        total = found.total
        # What stands for none, or for the socket's default, is no number.
        found.total = min(total, left) if isinstance(total, (int, float)) else left
        return found
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    return times.least(connect, left), times.least(read, left)


class _Outbound(SyncOutbound[requests.Response]):
    def status(self, response: requests.Response) -> int:
        return response.status_code

    def held(self, response: requests.Response, hold: Hold) -> None:
        # Of an answer that was read in part, the rest is what holds the connection.
        raw: Any = getattr(response.raw, "rest", None) or response.raw
        if getattr(raw, "connection", None) is None:
            # Nothing is left to come over the wire.
            hold.end()
            return
        # By a weak reference: in a cycle the socket would wait for the collector.
        here = weakref.ref(raw)
        raw.release_conn = partial(_ended, here, "release_conn", hold)
        raw.close = partial(_ended, here, "close", hold)
        hold.watch(raw)

    def keep(self, exchange: Exchange, response: requests.Response) -> bool:
        raw: Any = response.raw
        method = exchange.request.method or ""
        if not isinstance(raw, urllib3.HTTPResponse):
            return False
        if too_long(method, response.headers.get("Content-Length")):
            return False
        body, error = b"", None
        try:
            while len(body) <= KEPT_BYTES:
                # What is read so is neither decoded nor counted as content.
                part = raw.read(KEPT_BYTES + 1 - len(body), decode_content=False)
                if not part:
                    break
                body += part
        except (urllib3.exceptions.HTTPError, OSError) as failure:
            error = failure
        whole = len(body) <= KEPT_BYTES
        if error:
            raw.close()
        if whole:
            raw.release_conn()
        response.raw = _Kept(raw, body, error, None if whole else raw, method)
        return whole


def _ended(here: Any, method: str, hold: Hold) -> None:
    raw = here()
    try:
        if raw is not None:
            getattr(type(raw), method)(raw)
    finally:
        hold.end()


class _Kept(urllib3.HTTPResponse):
    """The same answer, whose body is read from the start."""

    def __init__(
        self,
        raw: urllib3.HTTPResponse,
        body: bytes,
        error: Exception | None,
        rest: urllib3.HTTPResponse | None,
        method: str,
    ) -> None:
        self.rest = rest
        reader: Any = _Body(body, error, rest)
        super().__init__(
            body=reader,
            headers=raw.headers,
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            decode_content=False,
            original_response=raw._original_response,
            enforce_content_length=False,
            request_method=method,
        )


class _Body(io.RawIOBase):
    """A body that has been read: whole, up to an error, or up to the most that is kept."""

    def __init__(self, body: bytes, error: Exception | None, rest: Any) -> None:
        super().__init__()
        self._read = io.BytesIO(body)
        self._error = error
        self._rest = rest

    def read(self, size: int | None = -1) -> bytes:
        whole = size is None or size < 0
        found = self._read.read(None if whole else size)
        if found and not whole:
            return found
        if self._error is not None:
            raise self._error
        if self._rest is None:
            return found
        return found + bytes(self._rest.read(None if whole else size, decode_content=False))

    def close(self) -> None:
        if self._rest is not None:
            self._rest.close()
            self._rest.release_conn()
        super().close()
