"""What happens at the edges: forks, loops that end, workers that are given up, odd ends."""

from __future__ import annotations

import asyncio
import os
import threading

import anyio
import pytest
import trio

from resilient import CircuitBreaker, Pipeline, once, testing
from resilient._runtime import loops
from resilient._runtime.signals import Signal
from resilient.errors import CallTimeoutError, PoolExhaustedError
from resilient.failover import ActiveActive, ActivePassive, HealthCheck, Member, NPlusOne
from resilient.timeout import Timeout

from tests.failover.support import Backends, pass_time, quick, states


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_no_calls_and_no_runner():
    """The calls and threads of the parent do not exist there, and it can call at once."""
    db = ActivePassive(
        "db",
        [Member("a", "a"), Member("b", "b", start=lambda: None)],
        on=ConnectionError,
        health_check=HealthCheck(lambda target: True),
    )
    with db, db.lease():
        child = os.fork()
        if child == 0:
            good = db.snapshot().members[0].in_flight == 0 and not db._runners
            good = good and db.call(Backends()) == "a"
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_what_a_fork_leaves_is_whole():
    """The same, seen from one process: no count, no lock and no flight is kept."""
    db = ActivePassive("db", [Member("a", "a"), Member("b", "b", start=print)], on=ConnectionError)
    lease = db.lease()
    lease.__enter__()
    db._lock.acquire()
    db.after_fork()
    assert db.snapshot().members[0].in_flight == 0


def test_a_stream_waits_for_a_standby(mode, clock):
    """And a start that fails sends it on."""
    for fails in (False, True):

        def start(fails=fails):
            yield 1
            if fails:
                raise OSError

        members = [Member("a", "a", start=mode.colour(start)), Member("b", "b")]
        db = ActivePassive("db", members, on=ConnectionError)

        def items(target):
            yield target

        assert mode.drain(mode.stream(db, items)) == ["b" if fails else "a"]
        assert all(one.in_flight == 0 for one in db.snapshot().members)


def test_a_lease_waits_for_a_standby(mode, clock):
    """And raises when there is nobody to lease."""

    def start():
        yield 1
        raise OSError

    db = ActivePassive("db", [Member("a", "a", start=mode.colour(start))], on=ConnectionError)

    if mode.is_async:

        async def block():
            async with db.lease() as member:
                return member.name
    else:

        def block():
            with db.lease() as member:
                return member.name

    with pytest.raises(PoolExhaustedError):
        mode.call(block)
    assert db.snapshot().members[0].in_flight == 0
    db.add(Member("b", "b"))
    assert mode.call(block) == "b"


def test_a_stream_that_no_member_begins(mode, clock):
    """Every member's error was real: the last one is raised."""
    db = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError)

    def items(target):
        raise ConnectionError(target)
        yield

    with pytest.raises(ConnectionError, match="b"):
        mode.drain(mode.stream(db, items))


def test_with_passthrough_a_standby_is_not_started(mode):
    """The first member that runs is taken, or the first at all."""
    cold = Member("a", "a", start=print)
    if mode.is_async:

        async def block(db):
            async with db.lease() as member:
                return member.name
    else:

        def block(db):
            with db.lease() as member:
                return member.name

    with testing.passthrough():
        both = ActivePassive("db", [cold, Member("b", "b")], on=OSError)
        assert mode.call(block, both) == "b"
        assert mode.call(block, ActivePassive("db", [cold], on=OSError)) == "a"
        with pytest.raises(LookupError):
            mode.call(block, ActivePassive("db", {}, on=OSError))


def test_a_part_that_was_delivered_is_not_replaced(mode, clock):
    """Integrations say so on the call, and that it must not be repeated."""
    from resilient import Policy

    class Says(Policy):
        kind = "says"

        def __init__(self, **facts):
            super().__init__()
            self.facts = facts

        def tell(self, call):
            for name, fact in self.facts.items():
                setattr(call.root, name, fact)

        def wrap(self, inner):
            def says(args, kwargs, call):
                self.tell(call)
                return inner(args, kwargs, call)

            return says

        def awrap(self, inner):
            async def says(args, kwargs, call):
                self.tell(call)
                return await inner(args, kwargs, call)

            return says

    for facts in ({"delivered": True}, {"unrepeatable": "it is no GET"}):
        backends = Backends()
        backends.down.add("a")
        db = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError)
        with pytest.raises(ConnectionError) as raised:
            mode.call(mode.function(Pipeline(db, Says(**facts)), backends))
        assert "gave up after 1 member" in raised.value.__notes__[0]
        assert backends.taken() == ["a"]


def test_a_call_that_its_caller_gave_up_goes_to_nobody_else(clock):
    """The worker's late failure is not taken to another member, though it may go on."""
    seen = []

    def ask(target):
        from resilient._runtime import waits

        seen.append(target)
        waits.sleep(5)
        raise ConnectionError(target)

    db = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError, breaker=quick)
    with pytest.raises(CallTimeoutError):
        Pipeline(Timeout(1, sync="thread"), db).call(ask)
    assert states(db)["a"] == "down"
    pass_time(10)
    assert seen == ["a"]
    assert db.snapshot().members[0].in_flight == 0


def test_the_members_breaker_counts_the_time_of_a_streams_steps(clock):
    """The consumer's own time is not the member's."""

    def slow(name):
        return CircuitBreaker(name, slow_call=1, slow_rate=0.5, minimum_calls=1)

    db = ActivePassive("db", {"a": "a"}, on=ConnectionError, breaker=slow)

    @db
    def items(target, seconds):
        yield 1
        pass_time(seconds)
        yield 2

    for _ in items(0):
        pass_time(3)
    assert states(db)["a"] == "healthy"
    list(items(2))
    assert states(db)["a"] == "down"


def test_a_predicate_that_fails_leaves_no_call_in_flight(mode, clock):
    """Its error goes to the caller."""

    def on(error):
        raise KeyError("predicate")

    db = ActivePassive("db", {"a": "a"}, on=on)

    def ask(target):
        raise ConnectionError

    with pytest.raises(KeyError):
        mode.call(mode.function(db, ask))
    assert db.snapshot().members[0].in_flight == 0


def test_a_stop_whose_loop_has_ended_is_logged(caplog):
    """An async stop belongs to the loop that ran the start."""

    async def nothing():
        pass

    db = ActivePassive(
        "db",
        [Member("a", "a"), Member("b", "b", start=nothing, stop=nothing)],
        on=ConnectionError,
    )

    async def fn(target):
        return target

    db.switch_to("b")
    for run in (lambda: asyncio.run(db.acall(fn)), lambda: trio.run(db.acall, fn)):
        assert run() == "b"
        db.switch_to("a")
        assert states(db)["b"] == "standby"
        db.switch_to("b")
    assert "has ended" in caplog.text


def test_a_standby_without_a_stop_is_cold_again(clock):
    starts = []
    db = ActivePassive(
        "db", [Member("a", "a"), Member("b", "b", start=lambda: starts.append(1))], on=OSError
    )
    for name in ("b", "a", "b"):
        db.switch_to(name)
        assert db.call(Backends()) == name
    assert starts == [1, 1]


def test_a_listener_may_look_at_the_pool(clock):
    """Events are told without the lock, in order, also when a listener changes something."""
    db = ActivePassive("db", {"a": "a", "b": "b", "c": "c"}, on=ConnectionError, breaker=quick)
    told = []

    def listener(event):
        told.append(type(event).__name__)
        if type(event).__name__ == "FailoverSwitched" and event.new == "b":
            db.switch_to("c")

    db.subscribe(listener)
    backends = Backends()
    backends.down.add("a")
    assert db.call(backends) in ("b", "c")
    assert db.active == "c"
    assert told == ["MemberStateChanged", "FailoverSwitched", "FailoverSwitched"]


def test_a_signal_wakes_threads_and_tasks_of_every_loop():
    signal = Signal()
    found = []

    async def main():
        found.append(await signal.await_(10))
        found.append(await signal.await_(10))

    threads = [
        threading.Thread(target=lambda: found.append(signal.wait(10))),
        threading.Thread(target=lambda: asyncio.run(main())),
        threading.Thread(target=lambda: trio.run(main)),
    ]
    for thread in threads:
        thread.start()
    assert not signal.given
    signal.give()
    for thread in threads:
        thread.join()
    assert found == [True] * 5
    assert signal.wait(0)


def test_a_signal_that_does_not_come(mode, clock):
    signal = Signal()
    if mode.is_async:
        assert mode.call(signal.await_, 3) is False
    else:
        assert signal.wait(3) is False


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_a_loop_that_has_ended_takes_nothing(mode):
    kept = []

    async def main():
        kept.append(loops.running())
        await anyio.sleep(0)

    mode.call(main)
    assert kept[0].soon(print) is False
    with pytest.raises(RuntimeError, match="no event loop"):
        loops.here()


def test_pools_are_idle_when_nothing_is_known_or_held(clock):
    """What `PerKey` asks before it drops a key."""
    backends = Backends()
    for pool in (
        ActivePassive("db", {"a": "a"}, on=ConnectionError, breaker=quick),
        ActiveActive("db", {"a": "a"}, on=ConnectionError, breaker=quick),
        NPlusOne("db", {"a": "a"}, {}, on=ConnectionError, breaker=quick),
    ):
        assert pool._idle()
        with pool.lease():
            assert not pool._idle()
        backends.down.add("a")
        with pytest.raises(ConnectionError):
            pool.call(backends)
        assert not pool._idle()
        backends.down.clear()


def test_once_lets_a_call_that_was_never_made_go_on(mode, clock):
    """A standby that does not start has seen nothing."""

    def start():
        raise OSError

    db = ActivePassive(
        "db",
        [Member("a", "a", start=mode.colour(start)), Member("b", "b")],
        on=ConnectionError,
        attempts=1,
    )
    ask = mode.function(db, Backends())
    with once():
        assert mode.call(ask) == "b"
