"""Injected faults on spans."""

from __future__ import annotations

import pytest

from resilient import Pipeline, Retry, chaos
from resilient.failover import ActivePassive

from .conftest import Spans
from .subjects import failing


def test_a_fault_is_an_event_on_the_current_span(spans: Spans) -> None:
    """It says the experiment and what was injected."""
    policy = Pipeline(Retry(on=OSError, attempts=2, backoff=[0]), chaos.InjectFault(1, OSError))
    with chaos.experiment("game day"), pytest.raises(OSError):
        Pipeline(policy, name="p")(failing(0))()
    found = spans.events("resilient.chaos.injected")
    assert found[0] == {
        "resilient.policy.name": "p.inject_fault",
        "resilient.policy.kind": "inject_fault",
        "resilient.chaos.fault": "error",
        "resilient.chaos.experiment": "game day",
    }
    assert len(found) == 2


def test_a_latency_says_how_long(spans: Spans) -> None:
    """In seconds."""
    protected = chaos.InjectLatency(1, 0.001)(failing(0))
    with spans.tracer.start_as_current_span("caller"), chaos.experiment("x"):
        protected()
    (found,) = spans.events("resilient.chaos.injected")
    assert found["resilient.chaos.fault"] == "latency"
    assert found["resilient.chaos.delay"] == 0.001


def test_an_outage_says_which_member(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    """It belongs to no experiment."""
    pool = ActivePassive("db", {"a": 1, "b": 2}, on=OSError)
    with chaos.take_down(pool, "a"):
        assert pool(lambda target: target)() == 2
    (found,) = spans.events("resilient.chaos.injected")
    assert found == {
        "resilient.policy.name": "db",
        "resilient.policy.kind": "active_passive",
        "resilient.chaos.fault": "outage",
        "resilient.pool.member.name": "a",
    }
    # The outage itself is announced there; nothing else may be.
    assert {record.getMessage().partition(":")[0] for record in caplog.records} == {"chaos"}
    caplog.clear()
