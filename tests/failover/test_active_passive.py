"""Active-passive: who is active, when that changes, and what a failing call does."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from resilient import CircuitBreaker
from resilient.errors import PoolExhaustedError
from resilient.failover import ActivePassive, Member

from tests.failover.support import Backends, kinds, pass_time, quick, states


@pytest.fixture
def backends():
    return Backends()


def pool_of(*names, **options):
    options.setdefault("breaker", quick)
    return ActivePassive("db", {name: name for name in names}, on=ConnectionError, **options)


def test_all_calls_go_to_the_active_member(mode, clock, backends):
    """Nothing goes to a standby while the active member is well."""
    db = pool_of("a", "b")
    ask = mode.function(db, backends)
    assert [mode.call(ask) for _ in range(5)] == ["a"] * 5
    assert db.active == "a"


def test_a_failing_call_goes_on_without_promoting(mode, clock, backends, events):
    """One failure is no failover: the same call is served by the next, the next call is not."""
    db = pool_of("a", "b", breaker=lambda name: CircuitBreaker(name, consecutive_failures=3))
    ask = mode.function(db, backends)
    backends.down.add("a")
    assert mode.call(ask) == "b"
    assert db.active == "a"
    backends.down.clear()
    assert mode.call(ask) == "a"
    assert kinds(events, "FailoverSwitched") == []


def test_one_attempt_never_runs_a_call_twice(mode, clock, backends):
    """With attempts=1 the error is raised, and only the member's breaker fails over."""
    db = pool_of("a", "b", attempts=1)
    ask = mode.function(db, backends)
    backends.down.add("a")
    with pytest.raises(ConnectionError):
        mode.call(ask)
    assert mode.call(ask) == "b"
    assert backends.taken() == ["a", "b"]


def test_the_failure_of_the_active_member_promotes_the_next(mode, clock, backends, events):
    """When its breaker opens, the next member is active, with one event."""
    db = pool_of("a", "b", "c")
    ask = mode.function(db, backends)
    backends.down |= {"a", "b"}
    assert mode.call(ask) == "c"
    (first, second) = kinds(events, "FailoverSwitched")
    assert (first.old, first.new, first.reason) == ("a", "b", "promotion")
    assert (second.old, second.new, second.reason) == ("b", "c", "promotion")
    assert states(db) == {"a": "down", "b": "down", "c": "healthy"}


def test_a_hundred_callers_that_fail_at_once_are_one_switch(mode, clock, backends, events):
    """However many calls fail together, one member is promoted, once."""
    db = pool_of("a", "b")
    backends.down.add("a")

    def slowly(target):
        yield 0.1
        return backends(target)

    ask = mode.function(db, slowly)
    count = 20 if mode.name == "sync" else 100
    assert mode.together(*[ask] * count) == ["b"] * count
    assert len(kinds(events, "FailoverSwitched")) == 1
    assert len(kinds(events, "MemberStateChanged")) == 1


def test_threads_that_fail_at_the_same_instant_are_one_switch(backends, events):
    """The promotion is compare-and-set: a race of real threads is decided once."""
    db = pool_of("a", "b")
    backends.down.add("a")
    barrier = threading.Barrier(100)

    def ask():
        barrier.wait()
        db.call(backends)

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kinds(events, "FailoverSwitched")) == 1
    assert db.active == "b"


def test_failback_waits_until_the_preferred_member_has_been_usable(mode, clock, backends, events):
    """It is counted from when the breaker would let a trial through."""
    db = pool_of("a", "b", failback_after=30)
    ask = mode.function(db, backends)
    backends.down.add("a")
    mode.call(ask)
    backends.down.clear()
    clock.advance(5.5 + 29)
    assert mode.call(ask) == "b"
    clock.advance(1.1)
    assert mode.call(ask) == "a"
    assert db.active == "a"
    assert [one.reason for one in kinds(events, "FailoverSwitched")] == ["promotion", "failback"]
    assert states(db) == {"a": "healthy", "b": "healthy"}


def test_a_failback_that_fails_costs_no_call(mode, clock, backends):
    """The trial's call goes on to the standby, which is promoted again."""
    db = pool_of("a", "b", failback_after=1)
    ask = mode.function(db, backends)
    backends.down.add("a")
    mode.call(ask)
    clock.advance(10)
    assert mode.call(ask) == "b"
    assert db.active == "b"
    assert backends.taken() == ["a", "b", "a", "b"]


def test_without_failback_only_a_hand_switches_back(mode, clock, backends):
    db = pool_of("a", "b", failback=False)
    ask = mode.function(db, backends)
    backends.down.add("a")
    mode.call(ask)
    backends.down.clear()
    clock.advance(1000)
    assert mode.call(ask) == "b"
    db.switch_to("a")
    assert mode.call(ask) == "a"


def test_a_primary_that_flips_causes_two_switches_at_most(mode, clock, backends, events):
    """It flips every 100 ms for 10 s, under load, and dwells nowhere long enough."""
    db = pool_of("a", "b")
    ask = mode.function(db, backends)
    for step in range(100):
        backends.down = {"a"} if step % 2 else set()
        assert mode.call(ask) in ("a", "b")
        clock.advance(0.1)
    assert len(kinds(events, "FailoverSwitched")) <= 2


def test_a_switch_by_hand_holds_until_that_member_fails(mode, clock, backends, events):
    db = pool_of("a", "b", failback_after=1)
    ask = mode.function(db, backends)
    db.switch_to("b")
    clock.advance(100)
    assert mode.call(ask) == "b"
    backends.down.add("b")
    assert mode.call(ask) == "a"
    assert db.active == "a"
    reasons = [one.reason for one in kinds(events, "FailoverSwitched")]
    assert reasons == ["manual", "promotion"]


def test_switching_to_nobody():
    db = pool_of("a", "b")
    with pytest.raises(LookupError, match="zebra"):
        db.switch_to("zebra")
    assert db.drain("b", 0)
    with pytest.raises(ValueError, match="drained"):
        db.switch_to("b")


def test_all_down_is_exhausted_and_comes_back(mode, clock, backends, events):
    """Two failures at once raise the last real error, then reject, then recover."""
    db = pool_of("a", "b")
    ask = mode.function(db, backends)
    backends.down |= {"a", "b"}
    with pytest.raises(ConnectionError) as raised:
        mode.call(ask)
    assert raised.value.args == ("b",)
    assert "gave up after 2 members" in raised.value.__notes__[0]
    with pytest.raises(PoolExhaustedError) as refused:
        mode.call(ask)
    assert refused.value.members == ("a", "b")
    assert refused.value.policy == "db"
    assert 4 < refused.value.retry_after <= 5.5
    (rejected,) = kinds(events, "CallRejected")
    assert rejected.reason == "pool_exhausted"
    assert backends.taken() == ["a", "b"]
    backends.down.clear()
    clock.advance(6)
    assert mode.call(ask) in ("a", "b")


def test_priority_goes_before_the_order_given(backends):
    """Zones and regions are priorities."""
    db = ActivePassive(
        "db",
        [
            Member("far", "far", priority=2),
            Member("near", "near"),
            Member("zone", "zone", priority=1),
        ],
        on=ConnectionError,
        breaker=quick,
    )
    assert db.active == "near"
    backends.down.add("near")
    assert db.call(backends) == "zone"


def test_members_added_and_removed(backends, events):
    """A removed active member is replaced at once; a more preferred one has to dwell."""
    db = pool_of("a", "b")
    db.remove("a")
    assert db.active == "b"
    db.add(Member("z", "z", priority=0))
    assert [member.name for member in db.members] == ["b", "z"]
    with pytest.raises(ValueError, match="already"):
        db.add(Member("z", "z"))
    with pytest.raises(LookupError):
        db.remove("a")
    db.remove("b")
    db.remove("z")
    assert db.active is None
    with pytest.raises(PoolExhaustedError) as raised:
        db.call(backends)
    assert raised.value.members == ()
    db.add(Member("n", "n"))
    assert db.call(backends) == "n"
    assert db.active == "n"


def test_draining_the_active_member_promotes_the_next(mode, clock, backends):
    """No new call goes there, those in flight are waited for."""
    db = pool_of("a", "b")

    def slowly(target):
        yield 2
        return backends(target)

    ask = mode.function(db, slowly)

    if mode.is_async:

        async def drain():
            return await db.adrain("a", 10)
    else:

        def drain():
            pass_time(1)
            return db.drain("a", 10)

    assert mode.together(ask, drain)[1] is True
    assert mode.call(ask) == "b"
    assert states(db)["a"] == "draining"


def test_draining_gives_up_in_time(backends):
    db = pool_of("a")
    with db.lease():
        assert db.drain("a", 0) is False
    assert db.drain("a", 0) is True


def test_draining_in_an_event_loop_names_the_other_form():
    import asyncio

    async def main():
        pool_of("a").drain("a", 1)

    with pytest.raises(RuntimeError, match="adrain"):
        asyncio.run(main())


def test_the_callers_mistakes_do_not_fail_a_member(mode, clock):
    """An error that `on` does not match says nothing of the member, and is not re-run."""
    db = pool_of("a", "b")
    seen = []

    def ask(target):
        seen.append(target)
        raise KeyError(target)

    protected = mode.function(db, ask)
    for _ in range(10):
        with pytest.raises(KeyError):
            mode.call(protected)
    assert seen == ["a"] * 10
    assert states(db)["a"] == "healthy"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"failback": 1}, TypeError),
        ({"failback_after": -1}, ValueError),
        ({"attempts": 0}, ValueError),
        ({"budget": 3}, TypeError),
        ({"breaker": 3}, TypeError),
        ({"breaker": lambda name: None}, TypeError),
        ({"health_check": print}, TypeError),
        ({"unless": 3}, TypeError),
    ],
)
def test_bad_options_are_refused_when_the_pool_is_built(options, error):
    with pytest.raises(error):
        pool_of("a", **options)


def test_bad_members_are_refused_when_the_pool_is_built():
    build = partial(ActivePassive, "db", on=OSError)
    for wrong in ("ab", 3, ["a"]):
        with pytest.raises(TypeError):
            build(wrong)
    with pytest.raises(ValueError, match="already"):
        build([Member("a", 1), Member("a", 2)])
    one = CircuitBreaker("one")
    with pytest.raises(ValueError, match="one breaker twice"):
        build({"a": 1, "b": 2}, breaker=lambda name: one)
    with pytest.raises(TypeError, match="needs a name"):
        ActivePassive({"a": 1}, {"a": 1}, on=OSError)
