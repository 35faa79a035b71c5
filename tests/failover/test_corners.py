"""What happens seldom in a pool: nothing left to pay with, nobody to ask, and odd ends."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from resilient import Pipeline, RetryBudget, Timeout
from resilient._runtime import waits
from resilient.errors import CallTimeoutError, PoolExhaustedError
from resilient.failover import ActiveActive, ActivePassive, HealthCheck, Member, NPlusOne
from resilient.failover.standby import Flight, Standby, _run
from resilient.failover.way import PAST

from tests.failover.support import Backends, pass_time, quick, states


def pool_of(*names, **options):
    members = {name: name for name in names}
    return ActivePassive("db", members, on=ConnectionError, breaker=quick, **options)


def test_a_pool_fills_its_own_budget(mode, clock):
    """Calls and streams that went well pay for the failovers to come."""
    budget = RetryBudget(ratio=0.5, capacity=3)
    db = pool_of("a", "b", budget=budget)
    while budget.withdraw():
        pass
    mode.call(mode.function(db, Backends()))
    assert budget.tokens == 0.5

    def items(target):
        yield target

    assert mode.drain(mode.stream(db, items)) == ["a"]
    assert budget.tokens == 1


def test_an_empty_budget_ends_a_call_at_its_first_member(mode, clock):
    """And the error says why it went no further."""
    budget = RetryBudget(ratio=0.5, capacity=1)
    while budget.withdraw():
        pass
    backends = Backends()
    backends.down = {"a", "b"}
    with pytest.raises(ConnectionError) as caught:
        mode.call(mode.function(pool_of("a", "b", budget=budget), backends))
    assert backends.taken() == ["a"]
    assert "the retry budget is empty" in caught.value.__notes__[0]


def test_a_listener_may_stop_the_checks_that_it_hears(clock):
    """It runs in the thread that it stops, which cannot wait for itself."""
    heard = []
    db = pool_of("a", health_check=HealthCheck(lambda target: waits.sleep(50), fall=1))
    db.start()

    def listener(event):
        db.stop()
        heard.append(event.new)

    unsubscribe = db.subscribe(listener)
    pass_time(100)
    unsubscribe()
    assert heard == ["down"]


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_a_pool_can_be_entered_twice_in_one_task(mode, clock):
    """The checks end with the outer block."""
    seen = []
    db = pool_of("a", health_check=HealthCheck(seen.append, interval=1, jitter=0))

    async def main():
        async with db:
            async with db:
                await anyio.sleep(1.5)
            inside = len(seen)
            await anyio.sleep(2)
            assert len(seen) > inside
        outside = len(seen)
        await anyio.sleep(5)
        assert len(seen) == outside

    mode.call(main)


def test_checks_that_a_fork_has_ended_are_stopped_without_a_word(clock):
    """Their thread is not there in the child, which leaves the block all the same."""
    db = pool_of("a", health_check=HealthCheck(lambda target: True))
    db.start()
    runner, db._thread = db._thread, None
    db.stop()
    runner.stop()
    db._gone(runner)
    with pytest.raises(RuntimeError, match="start\\(\\) comes before stop"):
        db.stop()


def test_a_probe_that_finds_no_thread_is_a_bad_one(clock, monkeypatch):
    """All of them hang: nothing is known to be well."""
    db = pool_of("a", health_check=HealthCheck(lambda target: True, fall=1))
    monkeypatch.setattr(db._prober._workers, "start", lambda *args: None)
    with db:
        pass_time(6)
        assert states(db) == {"a": "down"}


def test_an_awaitable_answer_is_a_bad_one_whatever_it_is(clock, caplog):
    """Also one that is no coroutine."""

    class Later:
        def __await__(self):
            yield

    db = pool_of("a", health_check=HealthCheck(lambda target: Later(), fall=1))
    with db:
        pass_time(6)
        assert states(db) == {"a": "down"}
    assert "asynchronous(probe)" in caplog.text


def test_a_probe_of_a_member_that_has_gone_says_nothing(clock):
    """It was removed while the probe ran."""
    db = pool_of("a")
    db._checked("b", False, clock.now())
    assert states(db) == {"a": "healthy"}


def test_what_is_always_up_needs_no_start():
    """Nor does a pool whose members are all up spare one."""
    db = pool_of("a")
    assert db._start(db._seats["a"]) is None
    both = ActiveActive("s", {"a": "a"}, on=ConnectionError)
    assert not both._spared(both._seats["a"], 0.0)


def test_a_standby_whose_earlier_starts_hang_is_not_started_again(monkeypatch):
    """That is an error of the start, as any."""
    life, errors = Standby(Member("a", "a", start=print)), []
    monkeypatch.setattr(life._workers, "start", lambda *args: None)
    flight = life.warm(errors.append)
    assert flight.wait(0)
    assert [str(error) for error in errors] == ["the standby's earlier start or stop still hangs"]


def test_an_interrupted_start_is_lost():
    """It has neither failed nor succeeded, and the interrupt goes on."""
    flight, done = Flight(), []

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(interrupted, flight, lambda: done.append(1))
    assert flight.lost
    assert done == [1]


def test_a_call_past_an_open_breaker_has_no_place_to_give_back():
    """So nothing happens when it ends without a verdict."""
    assert PAST.neutral() is None


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_a_deadline_ends_the_wait_for_a_cold_standby(mode, clock):
    """The start goes on without the caller, for the next one."""

    async def start():
        await anyio.sleep(30)

    db = ActivePassive("db", [Member("a", "a", start=start)], on=ConnectionError, breaker=quick)
    call = mode.function(Pipeline(Timeout(2), db), Backends())
    with pytest.raises(CallTimeoutError):
        mode.call(call)


def test_a_deadline_of_the_plain_kind_ends_that_wait_too(clock):
    """It cancels nothing: the pool asks it how long to wait."""

    async def start():
        await anyio.sleep(30)

    async def answer(target):
        return target

    db = ActivePassive("db", [Member("a", "a", start=start)], on=ConnectionError, breaker=quick)

    async def main():
        with Timeout(2, sync="deadline").guard():
            await db.acall(answer)

    before = clock.now()
    with pytest.raises(PoolExhaustedError):
        asyncio.run(main())
    assert clock.now() - before == 2


def test_a_function_without_a_signature_gets_its_target_all_the_same():
    """Some written in C say nothing of their parameters."""
    db = pool_of("a")
    assert db(max)("b") == "b"
    assert Pipeline(db)(max)("b") == "b"


def test_what_is_settled_twice_counts_once():
    """A stream is settled at its end, and its block may say so again."""
    db = pool_of("a")
    lease = db.lease()
    with lease:
        journey = lease._journey
        journey.settle()
        journey.settle()
        journey.keep()
    assert db.snapshot().members[0].in_flight == 0


def test_a_call_that_nobody_can_cover_is_spread_over_nobody():
    """When all are down there is nobody left."""
    backends = Backends()
    backends.down = {"a", "b", "s"}
    pool = NPlusOne(
        "n", {"a": "a", "b": "b"}, {"s": "s"}, on=ConnectionError, breaker=quick,
        key=lambda key: key, when_exhausted="spread",
    )  # fmt: skip
    for key in "a", "b", "a", "b":
        with pytest.raises((ConnectionError, PoolExhaustedError)):
            pool.call(lambda target, key: backends(target), key)
    with pytest.raises(PoolExhaustedError):
        pool.call(lambda target, key: backends(target), "a")
