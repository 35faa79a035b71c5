"""Which spans a call has, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from resilient import CircuitBreaker, CircuitOpenError, Fallback, Pipeline, Retry, telemetry

from .conftest import Spans
from .subjects import Mode, failing, modes, retry


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent and span.parent.span_id


@modes
def test_one_call_span_for_all_layers(spans: Spans, mode: Mode) -> None:
    """A pipeline has one INTERNAL span for a call, whatever number of layers it has."""
    policy = Pipeline(retry(), CircuitBreaker(), name="payments")
    mode.protect(policy, failing(0))()
    (span,) = spans
    assert span.name == "resilient.call payments"
    assert span.kind is SpanKind.INTERNAL
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes == {
        "resilient.policy.name": "payments",
        "resilient.policy.kind": "pipeline",
        "resilient.outcome": "success",
        "resilient.call.attempts": 1,
    }


@modes
def test_attempts_from_the_second_on_have_spans(spans: Spans, mode: Mode) -> None:
    """Attempts from the second on are spans within the call's; a failed one is an ERROR."""
    mode.protect(Pipeline(retry(), name="payments"), failing(2))()
    call = spans.one("resilient.call payments")
    second, third = spans.all("resilient.attempt payments")
    assert {parent_of(second), parent_of(third)} == {call.context.span_id}
    assert second.attributes == {
        "resilient.policy.name": "payments",
        "resilient.policy.kind": "pipeline",
        "resilient.attempt.number": 2,
        "resilient.attempt.kind": "retry",
        "resilient.outcome": "failure",
        "error.type": "ConnectionError",
    }
    assert second.status.status_code is StatusCode.ERROR
    assert third.attributes is not None
    assert third.attributes["resilient.attempt.number"] == 3
    assert third.attributes["resilient.outcome"] == "success"
    assert third.status.status_code is StatusCode.UNSET
    assert call.status.status_code is StatusCode.UNSET
    assert call.attributes is not None
    assert call.attributes["resilient.call.attempts"] == 3


@modes
def test_an_error_that_escapes_is_the_calls(spans: Spans, mode: Mode) -> None:
    """The call's span is an ERROR, with the error's class alone, when the error escapes."""
    with pytest.raises(ConnectionError):
        mode.protect(Pipeline(retry(), name="payments"), failing(9))()
    span = spans.one("resilient.call payments")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.attributes is not None
    assert span.attributes["resilient.outcome"] == "failure"
    assert span.attributes["error.type"] == "ConnectionError"


def test_the_error_type_is_the_qualified_name(spans: Spans) -> None:
    """A builtin goes by its name, any other class with its module; a refusal is `rejected`."""
    breaker = CircuitBreaker("b")
    breaker.isolate()
    with pytest.raises(CircuitOpenError):
        Pipeline(retry(), breaker, name="p")(failing(0))()
    attributes = spans.one("resilient.call p").attributes or {}
    assert attributes["error.type"] == "resilient.errors.CircuitOpenError"
    assert attributes["resilient.outcome"] == "rejected"


def test_a_fallback_is_an_outcome_of_its_own(spans: Spans) -> None:
    """Where a fallback stood in, the outcome says so, and the call is no error."""
    Pipeline(Fallback("nothing"), retry(), name="p")(failing(9))()
    span = spans.one("resilient.call p")
    assert (span.attributes or {})["resilient.outcome"] == "fallback"
    assert span.status.status_code is StatusCode.UNSET


@modes
def test_a_lone_guard_makes_no_span(spans: Spans, mode: Mode) -> None:
    """A function protected by guards alone has no span."""
    assert mode.protect(CircuitBreaker(), failing(0))()
    assert spans.names() == []


def test_a_lone_retry_is_named_after_its_function(spans: Spans) -> None:
    """Without a pipeline, the kind is the policy's and the name the function's."""

    @retry()
    def fetch() -> None: ...

    fetch()
    (span,) = spans
    assert span.name == f"resilient.call {fetch.__qualname__}"
    assert (span.attributes or {})["resilient.policy.kind"] == "retry"


def test_call_and_acall_have_spans_too(spans: Spans) -> None:
    """A function given to `call` or `acall` is observed as a decorated one is."""

    async def fetch() -> str:
        return fail()

    policy = Pipeline(retry(), name="p")
    policy.call(failing(1))
    fail = failing(1)
    asyncio.run(policy.acall(fetch))
    assert spans.names() == ["resilient.call p", "resilient.attempt p"] * 2


def test_a_misuse_is_told_as_what_the_caller_sees(spans: Spans) -> None:
    """`call` with something that returns an awaitable is a TypeError, in the span too."""
    with pytest.raises(TypeError):
        Pipeline(retry(), name="p").call(lambda: asyncio.sleep(0))
    attributes = spans.one("resilient.call p").attributes or {}
    assert attributes["error.type"] == "TypeError"
    assert attributes["resilient.outcome"] == "failure"


def test_a_cancellation_is_no_error(spans: Spans) -> None:
    """A call, or an attempt, that is cancelled has that outcome, and is no ERROR."""

    @Pipeline(retry(), name="p")
    async def fetch() -> None:
        fail()
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(fetch())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    fail = failing(1)
    asyncio.run(main())
    assert spans.names() == ["resilient.call p", "resilient.attempt p"]
    for span in spans:
        assert span.status.status_code is StatusCode.UNSET
        assert (span.attributes or {})["resilient.outcome"] == "cancelled"
        assert "error.type" not in (span.attributes or {})


def test_an_interrupt_while_waiting_ends_the_spans(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt between attempts ends the call as cancelled; the attempt has failed."""

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resilient._runtime.waits.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(Retry(on=ConnectionError, backoff=[0, 1]), name="p")(failing(9))()
    outcome = "resilient.outcome"
    assert (spans.one("resilient.call p").attributes or {})[outcome] == "cancelled"
    assert (spans.one("resilient.attempt p").attributes or {})[outcome] == "failure"


@modes
def test_spans_made_inside_are_children(spans: Spans, mode: Mode) -> None:
    """What the function traces is within its attempt; the first attempt's within the call."""

    def fetch() -> None:
        with spans.tracer.start_as_current_span("inner"):
            fail()

    fail = failing(1)
    mode.protect(Pipeline(retry(), name="p"), fetch)()
    first, second = spans.all("inner")
    assert parent_of(first) == spans.one("resilient.call p").context.span_id
    assert parent_of(second) == spans.one("resilient.attempt p").context.span_id


@modes
def test_a_call_inside_a_call_has_its_own_span(spans: Spans, mode: Mode) -> None:
    """A protected function called inside another has a call span, within the outer one's."""
    inner = Pipeline(retry(OSError), name="inner")(failing(0))
    mode.protect(Pipeline(retry(), name="outer"), lambda: inner())()
    outer = spans.one("resilient.call outer")
    assert parent_of(spans.one("resilient.call inner")) == outer.context.span_id


@modes
def test_the_context_is_as_before_afterwards(spans: Spans, mode: Mode) -> None:
    """After a call, failed or not, the caller's context is what it was."""
    with spans.tracer.start_as_current_span("caller") as caller:
        before = otel.get_current()
        mode.protect(retry(), failing(2))()
        with pytest.raises(ConnectionError):
            mode.protect(retry(), failing(9))()
        assert otel.get_current() is before
        assert trace.get_current_span() is caller


def test_calls_are_attached_when_not_sampled(trace_with: Callable[..., Spans]) -> None:
    """A call's span that is not sampled takes its children with it: none is an orphan."""
    spans = trace_with(sampler=TraceIdRatioBased(0.5))

    @retry()
    def fetch() -> None:
        with spans.tracer.start_as_current_span("child"):
            pass

    for _ in range(200):
        fetch()
    children = spans.all("child")
    calls = {span.context.span_id for span in spans if span.name != "child"}
    assert 0 < len(children) < 200
    assert {parent_of(child) for child in children} == calls


def test_a_provider_that_does_nothing_gets_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `start_span` gives an invalid context, the call is made without a span."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())
    before = otel.get_current()
    seen = []

    def fetch() -> None:
        seen.append(otel.get_current())
        fail()

    fail = failing(1)
    retry()(fetch)()
    assert seen == [before, before]


@pytest.mark.parametrize(
    "key", ["suppress_instrumentation", otel._SUPPRESS_INSTRUMENTATION_KEY]
)  # fmt: skip
@modes
def test_suppressed_instrumentation_is_respected(spans: Spans, mode: Mode, key: str) -> None:
    """In a context in which instrumentation is suppressed there are no spans and no events."""
    with spans.tracer.start_as_current_span("caller"):
        token = otel.attach(otel.set_value(key, True))
        mode.protect(retry(), failing(1))()
        otel.detach(token)
    assert spans.names() == ["caller"]
    assert spans.one("caller").events == ()


def test_suppression_that_begins_later_stops_further_attempts(spans: Spans) -> None:
    """An attempt that starts where instrumentation is suppressed has no span."""

    @Pipeline(retry(), name="p")
    def fetch() -> None:
        tokens.append(otel.attach(otel.set_value("suppress_instrumentation", True)))
        fail()

    fail, tokens = failing(1), []
    fetch()
    assert spans.names() == ["resilient.call p"]
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_attempts_in_a_loop_have_spans(spans: Spans) -> None:
    """The blocks of a retry make attempt spans from the second on, within the current one."""
    fail = failing(2)
    with spans.tracer.start_as_current_span("caller"):
        for attempt in retry(name="r"):
            with attempt, spans.tracer.start_as_current_span("inner"):
                fail()
    caller = spans.one("caller")
    second, third = spans.all("resilient.attempt r")
    inner = spans.all("inner")
    assert {parent_of(second), parent_of(third), parent_of(inner[0])} == {caller.context.span_id}
    assert parent_of(inner[1]) == second.context.span_id
    assert parent_of(inner[2]) == third.context.span_id
    assert [s.status.status_code.name for s in (second, third)] == ["ERROR", "UNSET"]


def test_no_value_is_in_a_span(spans: Spans) -> None:
    """No argument, result or message appears in a span, its events or its status."""
    for times in (1, 9):
        protected = Pipeline(retry(), CircuitBreaker(), name="p")(failing(times))
        with contextlib.suppress(ConnectionError):
            protected("secret-argument")
    text = "".join(span.to_json() for span in spans)
    assert "resilient.retry.scheduled" in text
    assert "secret" not in text


def test_all_attempts_on_demand(spans: Spans) -> None:
    """With `attempts`, the first attempt has a span too, beside the others."""
    telemetry.configure(spans="attempts")

    def fetch() -> None:
        with spans.tracer.start_as_current_span("inner"):
            fail()

    fail = failing(1)
    Pipeline(retry(), name="p")(fetch)()
    call = spans.one("resilient.call p")
    first, second = spans.all("resilient.attempt p")
    assert parent_of(first) == parent_of(second) == call.context.span_id
    assert (first.attributes or {})["resilient.attempt.kind"] == "initial"
    assert (first.attributes or {})["resilient.attempt.number"] == 1
    assert first.status.status_code is StatusCode.ERROR
    assert [parent_of(s) for s in spans.all("inner")] == [
        first.context.span_id,
        second.context.span_id,
    ]
    assert [event.name for event in call.events] == ["resilient.retry.scheduled"]


@modes
def test_guards_on_demand(spans: Spans, mode: Mode) -> None:
    """With `attempts`, a lone guard has a call span, and a first attempt that succeeds one."""
    telemetry.configure(spans="attempts")
    mode.protect(CircuitBreaker("b"), failing(0))()
    assert len(spans.names()) == 1
    mode.protect(Pipeline(retry(), name="p"), failing(0))()
    assert spans.names()[1:] == ["resilient.call p", "resilient.attempt p"]
