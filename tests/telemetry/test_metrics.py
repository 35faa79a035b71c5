"""What is counted and measured, and under which names."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from resilient import CircuitBreaker, Fallback, PerKey, Pipeline, Policy, telemetry
from resilient._core import clock as core_clock
from resilient.bulkhead import Bulkhead
from resilient.hedge import Hedge
from resilient.telemetry import _instruments
from resilient.timeout import Timeout

from .conftest import Metrics
from .subjects import Mode, failing, modes, retry


@modes
def test_a_call_is_measured(metrics: Metrics, mode: Mode) -> None:
    """Duration and attempts of a call are recorded under the pipeline's name and the outcome."""
    mode.protect(Pipeline(retry(), name="p"), failing(2))()
    base = {"resilient.policy.name": "p", "resilient.policy.kind": "pipeline"}
    (duration,) = metrics.points("resilient.call.duration")
    assert duration.count == 1
    assert duration.attributes == base | {"resilient.outcome": "success"}
    assert metrics.unit("resilient.call.duration") == "s"
    (attempts,) = metrics.points("resilient.call.attempts")
    assert (attempts.count, attempts.sum) == (1, 3)
    assert attempts.attributes == duration.attributes


@modes
def test_attempts_are_counted(metrics: Metrics, mode: Mode) -> None:
    """Every attempt is counted once, by kind and outcome, and bears no number."""
    mode.protect(Pipeline(retry(), name="p"), failing(2))()
    assert metrics.value("resilient.attempts") == 3
    assert metrics.value("resilient.attempts", attempt_kind="initial", outcome="failure") == 1
    assert metrics.value("resilient.attempts", attempt_kind="retry", outcome="failure") == 1
    assert metrics.value("resilient.attempts", attempt_kind="retry", outcome="success") == 1
    for point in metrics.points("resilient.attempts"):
        assert "resilient.attempt.number" not in point.attributes


@modes
def test_a_lone_guard_is_measured(metrics: Metrics, mode: Mode) -> None:
    """A function protected by a guard alone has the same metrics, if no span."""
    with pytest.raises(ConnectionError):
        mode.protect(CircuitBreaker("b"), failing(1))()
    (duration,) = metrics.points("resilient.call.duration", policy_kind="circuit_breaker")
    assert duration.attributes["resilient.outcome"] == "failure"
    assert duration.attributes["error.type"] == "ConnectionError"
    assert metrics.value("resilient.attempts", outcome="failure", attempt_kind="initial") == 1


def test_durations_are_on_the_librarys_clock(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The duration is in seconds of the clock that the policies go by."""
    now = [0.0]
    monkeypatch.setattr(core_clock, "now", lambda: now[0])
    CircuitBreaker()(lambda: now.__setitem__(0, 2.5))()
    assert metrics.points("resilient.call.duration")[0].sum == 2.5


def test_waits_are_measured(metrics: Metrics) -> None:
    """Each wait before a retry is recorded under the retry's own name."""
    Pipeline(retry(), name="p")(failing(2))()
    (delay,) = metrics.points("resilient.retry.delay", policy_name="p.retry")
    assert (delay.count, delay.sum) == (2, 0)
    assert metrics.unit("resilient.retry.delay") == "s"


def test_the_only_attempt_before_a_fallback_has_failed(metrics: Metrics) -> None:
    """Where a fallback stood in, the call says so, and its attempt is a failure."""
    Fallback("nothing", name="f")(failing(1))()
    assert metrics.points("resilient.call.duration")[0].attributes["resilient.outcome"] == (
        "fallback"
    )
    assert metrics.value("resilient.attempts", outcome="failure") == 1
    assert metrics.value("resilient.fallbacks", policy_name="f", policy_kind="fallback") == 1


def test_an_attempt_that_was_refused_is_no_failure(metrics: Metrics) -> None:
    """A call refused before it was made is a rejected attempt, also under a fallback."""
    breaker = CircuitBreaker("b")
    breaker.isolate()
    Pipeline(Fallback("nothing"), breaker)(failing(1))()
    assert metrics.value("resilient.attempts", outcome="rejected") == 1
    assert metrics.value("resilient.attempts", outcome="failure") is None


def test_rejections_and_transitions_are_counted(metrics: Metrics) -> None:
    """A refusal is counted with its reason, a change of state with both states."""
    breaker = CircuitBreaker("b", consecutive_failures=1)
    protected = breaker(failing(1))
    for error in (ConnectionError, Exception, Exception):
        with pytest.raises(error):
            protected()
    assert metrics.value("resilient.rejections", policy_name="b") == 2
    assert metrics.value("resilient.rejections", rejection_reason="circuit_open") == 2
    name = "resilient.circuit_breaker.transitions"
    found = metrics.value(
        name, circuit_breaker_previous_state="closed", circuit_breaker_state="open"
    )
    assert found == 1


def test_timeouts_are_counted(metrics: Metrics, clock: Any) -> None:
    """A call whose time is up counts as a time-out, and has that outcome."""

    @Timeout(1, name="t")
    async def fetch() -> None:
        await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        asyncio.run(fetch())
    assert metrics.value("resilient.timeouts", policy_name="t") == 1
    assert metrics.points("resilient.call.duration", outcome="timeout")[0].sum == 1
    assert metrics.value("resilient.attempts", outcome="timeout") == 1


@pytest.mark.parametrize(("late", "result"), [("first", "won"), ("second", "superseded")])
def test_hedges_are_counted_by_their_result(
    metrics: Metrics, clock: Any, late: str, result: str
) -> None:
    """A hedge is counted when it ends: it has won, or was overtaken, or failed."""

    async def fetch() -> None:
        calls.append(1)
        await asyncio.sleep(100 if (late == "first") == (len(calls) == 1) else 2)

    calls: list[int] = []
    asyncio.run(Pipeline(Hedge(1, name="h"), name="p")(fetch)())
    assert metrics.value("resilient.hedges", policy_name="h", hedge_result=result) == 1
    assert metrics.value("resilient.attempts", attempt_kind="hedge") == 1
    assert metrics.value("resilient.attempts") == 2


def test_a_retry_in_a_worker_is_counted_right(metrics: Metrics) -> None:
    """Attempts made in a worker thread belong to the call that waits for it."""
    Pipeline(Timeout(30, sync="thread"), retry(), name="p")(failing(1))()
    assert metrics.value("resilient.attempts", attempt_kind="initial", outcome="failure") == 1
    assert metrics.value("resilient.attempts", attempt_kind="retry", outcome="success") == 1
    assert metrics.value("resilient.attempts") == 2


def test_breakers_show_their_state(metrics: Metrics) -> None:
    """Of a breaker's four states one shows 1 and the others 0."""
    breaker = CircuitBreaker("shown")
    name = "resilient.circuit_breaker.state"
    assert metrics.value(name, policy_name="shown") == 1
    assert len(metrics.points(name, policy_name="shown")) == 4
    breaker.isolate()
    assert metrics.value(name, policy_name="shown", circuit_breaker_state="isolated") == 1
    assert metrics.value(name, policy_name="shown", circuit_breaker_state="closed") == 0


def test_policies_of_one_name_add_up(metrics: Metrics) -> None:
    """Breakers made per key share a name: their numbers add up, and no key is an attribute."""
    per_key = PerKey(lambda key: CircuitBreaker("tenants"), key=lambda tenant: tenant)
    fetch = per_key(lambda tenant: None)
    fetch("a"), fetch("b"), fetch("c")
    per_key.get("b").isolate()
    name = "resilient.circuit_breaker.state"
    assert metrics.value(name, policy_name="tenants", circuit_breaker_state="closed") == 2
    assert metrics.value(name, policy_name="tenants", circuit_breaker_state="isolated") == 1
    for point in metrics.points(name, policy_name="tenants"):
        assert set(point.attributes) == {
            "resilient.policy.name",
            "resilient.policy.kind",
            "resilient.circuit_breaker.state",
        }


def test_policies_that_are_gone_are_not_shown(metrics: Metrics) -> None:
    """A breaker that nobody holds any more is not observed."""
    CircuitBreaker("gone")
    gc.collect()
    assert metrics.points("resilient.circuit_breaker.state", policy_name="gone") == []


def test_bulkheads_show_their_permits(metrics: Metrics) -> None:
    """A bulkhead shows its calls, its waiters and its limit."""
    bulkhead = Bulkhead(5, name="shown")
    with bulkhead.guard():
        assert metrics.value("resilient.bulkhead.active", policy_name="shown") == 1
    assert metrics.value("resilient.bulkhead.active", policy_name="shown") == 0
    assert metrics.value("resilient.bulkhead.pending", policy_name="shown") == 0
    assert metrics.value("resilient.bulkhead.limit", policy_name="shown") == 5


class Pool(Policy):
    """What a pool shows of its members."""

    kind = "pool"
    members = ()
    member_states = ("up", "down")

    def snapshot(self) -> Any:
        return SimpleNamespace(members=[SimpleNamespace(name="replica", state="up")])


def test_pools_show_their_members(metrics: Metrics) -> None:
    """A member of a pool shows 1 for the state it is in, and 0 for the others."""
    pool = Pool("db")
    name = "resilient.pool.member.state"
    (up,) = metrics.points(name, pool_member_state="up")
    assert up.value == 1
    assert up.attributes["resilient.pool.name"] == pool.name == "db"
    assert up.attributes["resilient.pool.member.name"] == "replica"
    assert metrics.value(name, pool_member_state="down") == 0


def test_no_attempt_is_counted_for_blocks(metrics: Metrics) -> None:
    """The attempts of a loop belong to no protected function, and are not counted."""
    fail = failing(1)
    for attempt in retry(name="r"):
        with attempt:
            fail()
    assert metrics.value("resilient.attempts") is None
    assert metrics.points("resilient.retry.delay", policy_name="r")[0].count == 1


def test_metrics_need_no_spans(metrics: Metrics) -> None:
    """With spans off, everything is still counted."""
    telemetry.configure(spans="off")
    Pipeline(retry(), name="p")(failing(1))()
    assert metrics.value("resilient.attempts") == 2


def test_an_error_thrown_into_the_signal_comes_out() -> None:
    """The callback that tells of a meter provider behaves as a generator does."""
    with pytest.raises(KeyError):
        _instruments._Signal().throw(KeyError("gone"))
