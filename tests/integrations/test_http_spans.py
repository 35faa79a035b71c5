"""With OpenTelemetry's own instrumentation beside it: call, attempt, client span, nested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from resilient import Hedge, Pipeline, Retry
from resilient._clients import requests_spans

from tests.integrations.http_clients import KINDS, Kind, needed, serve
from tests.integrations.http_server import Answer
from tests.telemetry.conftest import as_shipped, nothing_attached, spans, trace_with

__all__ = ["as_shipped", "nothing_attached", "serve", "spans", "trace_with"]

RESENDS = "http.request.resend_count"


@contextmanager
def instrumented(package: str) -> Iterator[None]:
    """The instrumentation of that package, with the hooks that this library offers."""
    name = f"opentelemetry.instrumentation.{package}"
    module: Any = pytest.importorskip(
        name, reason=f"opentelemetry-instrumentation-{package} is not installed"
    )
    hooks: dict[str, Any]
    if package == "httpx":
        from resilient.httpx import async_otel_request_hook, otel_request_hook

        hooks = {
            "request_hook": otel_request_hook,
            "async_request_hook": async_otel_request_hook,
        }
        instrumentor = module.HTTPXClientInstrumentor()
    else:
        from resilient.requests import otel_request_hook

        hooks = {"request_hook": otel_request_hook}
        instrumentor = module.RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=trace.get_tracer_provider(), **hooks)
    try:
        yield
    finally:
        instrumentor.uninstrument()


@pytest.fixture(params=[name for name in KINDS if name != "aiohttp"])
def http(request: pytest.FixtureRequest, spans: Any) -> Iterator[Kind]:
    kind = needed(request.param)
    with instrumented(kind.package):
        yield kind


def clients(spans):
    """The client spans of attempts, in the order in which they began."""
    found = [s for s in spans.all("GET") if s.kind is SpanKind.CLIENT]
    # That of requests' session is around the whole call.
    return [s for s in found if s.parent is not None]


def parent(spans, span):
    (found,) = (s for s in spans if s.context.span_id == span.parent.span_id)
    return found


def test_the_traces_nest(http, serve, spans):
    """Each attempt has its client span, and what is sent names that one as its parent."""
    server = serve(503, 503, 200)
    policy = Pipeline(Retry(on=OSError, backoff=[0, 0]), name="api")

    async def test():
        async with http.opened(policy) as client:
            assert (await client.get(server.url))[0] == 200

    http.run(test)
    call = spans.one("resilient.call api")
    first, second, third = clients(spans)
    attempts = spans.all("resilient.attempt api")
    assert parent(spans, first) is call
    assert [parent(spans, second), parent(spans, third)] == attempts
    assert [parent(spans, one) for one in attempts] == [call, call]
    assert [span.attributes.get(RESENDS) for span in (first, second, third)] == [None, 1, 2]
    sent = [seen.headers["traceparent"].split("-")[2] for seen in server.seen]
    assert sent == [format(span.context.span_id, "016x") for span in (first, second, third)]


def test_a_hedge_is_a_resend(http, serve, spans):
    """It bears the count, and lies in its own attempt."""
    server = serve(200)
    gate = server.gate()
    server.answer = lambda number, seen: Answer(gate=gate if number == 1 else None)
    policy = Pipeline(Hedge(0.05, sync="thread"), name="api")

    async def test():
        async with http.opened(policy) as client:
            assert (await client.get(server.url))[0] == 200
            gate.set()

    http.run(test)
    (hedge,) = (s for s in clients(spans) if RESENDS in s.attributes)
    assert hedge.attributes[RESENDS] == 1
    assert parent(spans, hedge).name == "resilient.attempt api"


def test_one_attempt_is_no_resend(http, serve, spans):
    """The span of a request that is sent once does not bear the attribute."""
    server = serve(200)

    async def test():
        async with http.opened(Retry(on=OSError)) as client:
            await client.get(server.url)

    http.run(test)
    assert all(RESENDS not in span.attributes for span in spans)


def test_suppressed_instrumentation_stays_so(http, serve, spans):
    """Where somebody has switched the client spans off, no attempt switches them on."""
    from opentelemetry.instrumentation.utils import suppress_http_instrumentation

    server = serve(503, 200)

    async def test():
        async with http.opened(Retry(on=OSError, backoff=[0])) as client:
            with suppress_http_instrumentation():
                await client.get(server.url)

    http.run(test)
    assert not [span for span in spans if span.kind is SpanKind.CLIENT]


def test_a_context_without_the_mark(monkeypatch):
    """Where OpenTelemetry's mark has another name, requests are sent without more ado."""
    monkeypatch.setattr(requests_spans, "_SUPPRESSED", None)
    assert not requests_spans.inside_client_span()


def test_redirects_and_cookies_with_spans(serve, spans):
    """The session that makes the client spans of requests adds nothing of its own."""
    kind = needed("requests")
    server = serve(
        Answer(503), Answer(302, b"", {"Location": "/b", "Set-Cookie": "c=1; Path=/"}), 200
    )
    hooked = []

    async def test():
        async with kind.opened(Retry(on=OSError, backoff=[0])) as client:
            client.client.hooks["response"].append(
                lambda response, **_: hooked.append(response.status_code)
            )
            assert (await client.get(f"{server.url}/a"))[0] == 200
            assert client.client.cookies["c"] == "1"

    with instrumented("requests"):
        kind.run(test)
    assert [seen.path for seen in server.seen] == ["/a", "/a", "/b"]
    assert hooked == [302, 200]


def test_the_hook_takes_what_it_is_given():
    """Without a span, or with one that is not recorded, there is nothing to set."""
    from resilient._clients.resends import otel_request_hook

    otel_request_hook(None)
    otel_request_hook(trace.INVALID_SPAN, object())
