"""Members of pools that are taken down on purpose, and come back."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from resilient import PoolExhaustedError, Retry, chaos, once
from resilient.chaos import MemberDownError
from resilient.failover import ActiveActive, ActivePassive, HealthCheck, Member, NPlusOne
from resilient.testing import passthrough

from tests.failover.support import Backends, kinds, pass_time, quick, states

TARGETS = {"a": "a", "b": "b"}


def active_passive(**options: Any) -> ActivePassive:
    options = {"on": OSError, "breaker": quick, **options}
    return ActivePassive("db", TARGETS, **options)


def test_calls_go_to_another_member(mode, clock, events):
    """The target is not reached; the pool fails over as in a real outage, and back."""
    pool = active_passive(failback_after=10)
    backends = Backends()
    protected = mode.function(pool, backends)
    with chaos.take_down(pool, "a"):
        assert [mode.call(protected) for _ in range(3)] == ["b"] * 3
        assert states(pool) == {"a": "down", "b": "healthy"}
        assert pool.active == "b"
    assert backends.taken() == ["b"] * 3
    (fault,) = kinds(events, "FaultInjected")
    assert (fault.policy, fault.kind, fault.member) == ("db", "active_passive", "a")
    assert (fault.fault, fault.experiment) == ("outage", None)
    clock.advance(6)
    assert states(pool)["a"] == "trial"
    clock.advance(30)
    assert pool.active == "a"
    assert mode.call(protected) == "a"


def test_the_error_says_what_it_is(mode, clock):
    """When no member is left it comes out, and is an error of the connection."""
    pool = ActivePassive("db", {"a": "a"}, on=ConnectionError)
    with chaos.take_down(pool, "a"), pytest.raises(MemberDownError, match="a of db") as info:
        mode.call(mode.function(pool, Backends()))
    assert info.value.__notes__[0] == "chaos: a of db was taken down"


def test_an_error_of_ones_own(mode, clock):
    """Each call gets a new one."""
    pool = ActiveActive("db", {"a": "a"}, on=LookupError)
    protected = mode.function(pool, Backends())
    caught = []
    with chaos.take_down(pool, "a", error=KeyError("down")):
        for _ in range(2):
            with pytest.raises(KeyError) as info:
                mode.call(protected)
            caught.append(info.value)
    assert caught[0] is not caught[1]


def test_an_error_that_the_pool_does_not_act_on_is_refused():
    """It would hit the caller and drill nothing."""
    pool = ActiveActive("db", TARGETS, on=LookupError)
    with pytest.raises(ValueError, match="does not match MemberDownError.*error=... says"):
        chaos.take_down(pool, "a")
    with pytest.raises(ValueError, match="does not match OSError.*another error"):
        chaos.take_down(pool, "a", error=OSError)
    assert pool.call(lambda target: target) in TARGETS


def test_by_hand(mode, clock):
    """Taken down in one place, brought back in another, however often."""
    pool = active_passive()
    protected = mode.function(pool, Backends())
    chaos.take_down(pool, "a")
    chaos.take_down(pool, "a")
    assert mode.call(protected) == "b"
    chaos.bring_back(pool, "a")
    chaos.bring_back(pool, "a")
    clock.advance(60)
    assert mode.call(protected) == "a"


def test_two_outages_of_one_member():
    """It is back when both are over, whichever ends first."""
    pool = ActivePassive("db", TARGETS, on=OSError)
    seat = pool._seats["a"]
    outer, inner = chaos.take_down(pool, "a"), chaos.take_down(pool, "a")
    outer.end()
    outer.end()
    assert seat.is_out()
    inner.end()
    assert not seat.is_out()
    assert not inner.holds()
    first, second = chaos.take_down(pool, "a"), chaos.take_down(pool, "a")
    second.end()
    assert seat.is_out()
    first.end()
    assert not seat.is_out()


def test_it_comes_back_by_itself(mode, clock):
    """After a time, or when a condition holds."""
    pool = active_passive(failback_after=1)
    protected = mode.function(pool, Backends())
    back: list[int] = []
    chaos.take_down(pool, "a", until=lambda: bool(back))
    chaos.take_down(pool, "a", until=10)
    assert mode.call(protected) == "b"
    clock.advance(15)
    assert mode.call(protected) == "b"
    assert pool._seats["a"].is_out()
    back.append(1)
    clock.advance(60)
    assert mode.call(protected) == "a"
    assert pool._seats["a"].outage is None


def test_health_checks_fail(clock):
    """The probe's own answer does not count while the member is down."""
    check = HealthCheck(lambda target: True, interval=1, fall=2, rise=2, jitter=0)
    pool = ActiveActive("db", TARGETS, on=OSError, health_check=check)
    with pool:
        pass_time(2.5)
        assert states(pool) == {"a": "healthy", "b": "healthy"}
        with chaos.take_down(pool, "a"):
            pass_time(3)
            assert states(pool) == {"a": "down", "b": "healthy"}
        pass_time(3)
        assert states(pool) == {"a": "healthy", "b": "healthy"}


def test_spares_step_in(mode, clock):
    """A pool of n + 1 covers the active that is down."""
    pool = NPlusOne(
        "shards",
        actives=TARGETS,
        spares={"s": "s"},
        key=lambda number: number,
        on=OSError,
        breaker=quick,
    )
    protected = mode.function(pool, lambda target, number: target)
    owner = mode.call(protected, 1)
    with chaos.take_down(pool, owner):
        assert mode.call(protected, 1) == "s"


def test_streams_are_cut_off_at_their_first_step(mode, clock):
    """They go on to another member; one that runs is left alone."""
    pool = active_passive()

    def items(target):
        yield target
        yield target

    protected = mode.stream(pool, items)
    if not mode.is_async:
        running = protected()
        assert next(running) == "a"
    with chaos.take_down(pool, "a"):
        assert mode.drain(protected) == ["b", "b"]
        if not mode.is_async:
            assert list(running) == ["a"]


def test_leases_fail(mode, clock):
    """The block is not entered, and the member is judged by it."""
    pool = active_passive()

    def lease():
        with pool.lease() as member:
            return member.name

    async def alease():
        async with pool.lease() as member:
            return member.name

    def call():
        return mode.run(alease) if mode.is_async else lease()

    with chaos.take_down(pool, "a"):
        with pytest.raises(MemberDownError):
            call()
        assert states(pool)["a"] == "down"
        assert call() == "b"
    assert all(member.in_flight == 0 for member in pool.snapshot().members)


def test_all_members_down(mode, clock):
    """Then the pool refuses, as it would."""
    pool = active_passive()
    protected = mode.function(pool, Backends())
    with chaos.take_down(pool, "a"), chaos.take_down(pool, "b"):
        with pytest.raises(MemberDownError):
            mode.call(protected)
        with pytest.raises(PoolExhaustedError):
            mode.call(protected)


def test_a_call_that_may_be_made_once(clock):
    """A member that is down was called, as far as anybody can tell."""
    pool = active_passive()
    with chaos.take_down(pool, "a"), once(), pytest.raises(MemberDownError):
        pool(Backends())()


def test_a_retry_outside_the_pool(mode, clock):
    """It sees the error like any other of its `on`."""
    pool = ActivePassive("db", {"a": "a"}, on=OSError)
    protected = Retry(on=OSError, attempts=5, backoff=[3] * 4)(mode.function(pool, Backends()))
    chaos.take_down(pool, "a", until=5)
    assert mode.call(protected) == "a"


def test_out_of_the_way():
    """Without policies there is no pool to fail."""
    pool = ActivePassive("db", TARGETS, on=OSError)
    with chaos.take_down(pool, "a"), passthrough():
        assert pool.call(lambda target: target) == "a"


def test_the_log_tells_of_it(caplog):
    """As warnings: everybody in the process feels it."""
    pool = ActivePassive("db", [Member("a", 1)], on=OSError)
    with caplog.at_level(logging.WARNING, "resilient"), chaos.take_down(pool, "a", until=30):
        inner = chaos.take_down(pool, "a")
        inner.end()
    assert [record.message for record in caplog.records] == [
        "chaos: member a of db is taken down until 30 s have passed",
        "chaos: member a of db is taken down until it is ended",
        "chaos: member a of db is still taken down elsewhere, by hand",
        "chaos: member a of db is brought back, by hand",
    ]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda pool: chaos.take_down(pool, "c"), LookupError, "no member named 'c'"),
        (lambda pool: chaos.bring_back(pool, "c"), LookupError, "no member named 'c'"),
        (lambda pool: chaos.take_down("db", "a"), TypeError, "taken down in a pool"),
        (lambda pool: chaos.take_down(pool, "a", until=-1), ValueError, "until must be"),
        (lambda pool: chaos.take_down(pool, "a", error=5), TypeError, "error must be"),
    ],
)
def test_bad_values_are_refused(call, error, text):
    """And nothing is taken down."""
    pool = ActivePassive("db", TARGETS, on=OSError)
    with pytest.raises(error, match=text):
        call(pool)
    assert not pool._seats["a"].is_out()
