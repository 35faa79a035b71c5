"""The events on spans."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from resilient import CircuitBreaker, Fallback, Pipeline, events
from resilient._observe import emit
from resilient.hedge import Hedge
from resilient.telemetry import configure
from resilient.timeout import Timeout

from .conftest import Metrics, Spans
from .subjects import Mode, failing, modes, retry


@modes
def test_retries_are_events_of_the_call(spans: Spans, mode: Mode) -> None:
    """What a retry schedules, and that it gave up, is told on the call's span."""
    with pytest.raises(ConnectionError):
        mode.protect(Pipeline(retry(attempts=2), name="p"), failing(9))()
    scheduled, exhausted = spans.one("resilient.call p").events
    assert scheduled.name == "resilient.retry.scheduled"
    assert scheduled.attributes == {
        "resilient.policy.name": "p.retry",
        "resilient.policy.kind": "retry",
        "resilient.attempt.number": 1,
        "resilient.retry.delay": 0,
        "error.type": "ConnectionError",
    }
    assert exhausted.name == "resilient.retry.exhausted"
    assert exhausted.attributes == {
        "resilient.policy.name": "p.retry",
        "resilient.policy.kind": "retry",
        "resilient.call.attempts": 2,
        "error.type": "ConnectionError",
    }


@modes
def test_events_of_guards_go_to_the_current_span(spans: Spans, mode: Mode) -> None:
    """A lone breaker tells of trips and refusals on whatever span is current."""
    breaker = CircuitBreaker("b", consecutive_failures=1)
    protected = mode.protect(breaker, failing(1))
    with spans.tracer.start_as_current_span("caller"):
        for _ in range(2):
            with pytest.raises(Exception, match=r"message|open"):
                protected()
    changed, rejected = (event for event in spans.one("caller").events if "." in event.name)
    base = {"resilient.policy.name": "b", "resilient.policy.kind": "circuit_breaker"}
    assert changed.name == "resilient.circuit_breaker.state_change"
    assert changed.attributes == base | {
        "resilient.circuit_breaker.previous_state": "closed",
        "resilient.circuit_breaker.state": "open",
    }
    assert rejected.name == "resilient.rejected"
    assert dict(rejected.attributes or {}).pop("resilient.rejection.retry_after") > 0
    assert base.items() <= dict(rejected.attributes or {}).items()


def test_nothing_is_set_on_spans_of_others(spans: Spans) -> None:
    """A span that is not ours gets events, but no attributes and no status."""
    breaker = CircuitBreaker(consecutive_failures=1)
    with spans.tracer.start_as_current_span("caller"), pytest.raises(ConnectionError):
        breaker(failing(1))()
    caller = spans.one("caller")
    assert caller.attributes == {}
    assert caller.status.is_unset
    assert len(caller.events) == 1


def test_a_timeout_is_an_event_and_an_outcome(spans: Spans, clock: Any) -> None:
    """A time-out is told where it happens: in the attempt that it ended."""

    async def fetch() -> None:
        await asyncio.sleep(5)

    policy = Pipeline(retry(TimeoutError, attempts=2), Timeout(1, name="t"), name="p")
    with pytest.raises(TimeoutError):
        asyncio.run(policy(fetch)())
    call, second = spans.one("resilient.call p"), spans.one("resilient.attempt p")
    for span in (call, second):
        assert (span.attributes or {})["resilient.outcome"] == "timeout"
        assert (span.attributes or {})["error.type"] == "resilient.errors.CallTimeoutError"
    (event,) = second.events
    assert event.name == "resilient.timeout"
    assert (event.attributes or {})["resilient.policy.name"] == "t"
    assert (event.attributes or {})["resilient.timeout.seconds"] == 1


def test_a_fallback_is_an_event(spans: Spans) -> None:
    """The event says the class of the error that was replaced; a refused result has none."""
    with spans.tracer.start_as_current_span("caller"):
        Fallback("nothing", name="f")(failing(1))()
        Fallback("nothing", name="f", on_result=bool)(failing(0))()
    replaced, refused = spans.events("resilient.fallback.used")
    assert replaced["resilient.policy.name"] == "f"
    assert replaced["error.type"] == "ConnectionError"
    assert "error.type" not in refused


def test_a_hedge_that_wins(spans: Spans, clock: Any) -> None:
    """Launch and win are told on the call, the overtaken attempt too; none is an ERROR."""

    async def fetch() -> None:
        calls.append(1)
        await asyncio.sleep(2 if len(calls) == 2 else 100)

    calls: list[int] = []
    asyncio.run(Pipeline(Hedge(1, name="h"), name="p")(fetch)())
    call, hedge = spans.one("resilient.call p"), spans.one("resilient.attempt p")
    assert hedge.parent is not None
    assert hedge.parent.span_id == call.context.span_id
    assert (hedge.attributes or {})["resilient.attempt.kind"] == "hedge"
    assert (hedge.attributes or {})["resilient.outcome"] == "success"
    assert {event.name for event in call.events} == {
        "resilient.hedge.launched",
        "resilient.hedge.won",
        "resilient.hedge.superseded",
    }
    for name in ("launched", "won"):
        (attributes,) = spans.events(f"resilient.hedge.{name}")
        assert attributes["resilient.policy.name"] == "h"
        assert attributes["resilient.hedge.number"] == 1
    assert call.status.is_unset
    assert hedge.status.is_unset


@pytest.mark.parametrize("wanted", ["auto", "attempts"])
def test_a_hedge_that_is_overtaken(spans: Spans, clock: Any, wanted: Any) -> None:
    """A hedge that comes too late has that outcome and event, and is no ERROR."""
    configure(spans=wanted)

    async def fetch() -> None:
        calls.append(1)
        await asyncio.sleep(2 if len(calls) == 1 else 100)

    calls: list[int] = []
    asyncio.run(Pipeline(Hedge(1), name="p")(fetch)())
    hedge = spans.all("resilient.attempt p")[-1]
    assert (hedge.attributes or {})["resilient.outcome"] == "superseded"
    assert [event.name for event in hedge.events] == ["resilient.hedge.superseded"]
    assert hedge.status.is_unset
    assert hedge.parent is not None
    assert hedge.parent.span_id == spans.one("resilient.call p").context.span_id


@pytest.mark.parametrize("wanted", ["auto", "attempts"])
def test_a_hedge_in_threads(spans: Spans, wanted: Any) -> None:
    """On sync code the attempts run in workers, within the spans they belong to."""
    configure(spans=wanted)
    second = threading.Event()

    def fetch() -> str:
        calls.append(1)
        if len(calls) == 1:
            assert second.wait(10)
            raise ConnectionError
        second.set()
        return "second"

    calls: list[int] = []
    policy = Pipeline(retry(), Hedge(0.001, on=ConnectionError, sync="thread"), name="p")
    assert policy(fetch)() == "second"
    call = spans.one("resilient.call p")
    hedge = spans.all("resilient.attempt p")[-1]
    assert hedge.parent is not None
    assert hedge.parent.span_id == call.context.span_id
    assert (call.attributes or {})["resilient.call.attempts"] == 2


def test_a_switch_of_a_pool(spans: Spans, metrics: Metrics) -> None:
    """A change of the active member is an event, and is counted with its reason."""
    pool = CircuitBreaker("db")  # whatever policy says it
    with spans.tracer.start_as_current_span("caller"):
        emit(pool, events.FailoverSwitched, "", old="primary", new="replica", reason="promotion")
        emit(pool, events.FailoverSwitched, "", old=None, new="primary", reason="manual")
        emit(pool, events.PoolPanicked, "", healthy=1)
    first, second = spans.events("resilient.failover.switched")
    assert first["resilient.pool.name"] == first["resilient.policy.name"] == "db"
    assert first["resilient.pool.member.name"] == "replica"
    assert first["resilient.failover.previous_member"] == "primary"
    assert first["resilient.failover.reason"] == "promotion"
    assert "resilient.failover.previous_member" not in second
    name = "resilient.failover.switches"
    assert metrics.value(name, failover_reason="promotion", policy_name="db") == 1
    assert metrics.value(name) == 2


def test_what_a_worker_left_behind_tells(spans: Spans) -> None:
    """An event of a worker that nobody waits for goes to the span around, if one still lives."""
    ended, told = threading.Event(), threading.Event()
    breaker = CircuitBreaker("b")

    def fetch() -> None:
        assert ended.wait(10)
        breaker.isolate()
        told.set()

    policy = Pipeline(Timeout(0.001, sync="thread"), retry(), name="p")
    with spans.tracer.start_as_current_span("caller"):
        with pytest.raises(TimeoutError):
            policy(fetch)()
        ended.set()
        assert told.wait(10)
    names = [event.name for event in spans.one("caller").events]
    assert names == ["resilient.circuit_breaker.state_change"]
