"""How a call goes over the members: its target, its further attempts, and their bounds."""

from __future__ import annotations

import asyncio
import inspect
import pickle

import pytest
import trio

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    Pipeline,
    Retry,
    RetryBudget,
    attempt_number,
    once,
    policies,
    testing,
)
from resilient.bulkhead import Bulkhead
from resilient.errors import BulkheadFullError, RejectedError
from resilient.failover import ActiveActive, ActivePassive, Member, NPlusOne
from resilient.hedge import Hedge
from resilient.timeout import Timeout

from tests.failover.support import Backends, pass_time, quick, states

db = ActivePassive("module-db", {"a": "a", "b": "b"}, on=ConnectionError)


@db
def count(conn: str, customer: str, *, limit: int = 3) -> tuple[str, str, int]:
    """Count something."""
    return conn, customer, limit


class Store:
    @db
    def plain(self, conn: str, key: str) -> tuple[type, str, str]:
        return type(self), conn, key

    @db
    @classmethod
    def above(cls, conn: str, key: str) -> tuple[type, str, str]:
        return cls, conn, key

    @classmethod
    @db
    def below(cls, conn: str, key: str) -> tuple[type, str, str]:
        return cls, conn, key

    @db
    @staticmethod
    def static_above(conn: str, key: str) -> tuple[str, str]:
        return conn, key

    @staticmethod
    @db
    def static_below(conn: str, key: str) -> tuple[str, str]:
        return conn, key

    @db
    async def later(self, conn: str, key: str) -> tuple[type, str, str]:
        return type(self), conn, key

    @db
    def unusual(this, conn: str, key: str) -> tuple[type, str, str]:
        return type(this), conn, key


def test_the_target_comes_first_and_is_hidden():
    """The caller gives what is left, and sees no more."""
    assert count("acme") == ("a", "acme", 3)
    assert count(customer="acme", limit=1) == ("a", "acme", 1)
    assert str(inspect.signature(count)) == (
        "(customer: 'str', *, limit: 'int' = 3) -> 'tuple[str, str, int]'"
    )
    assert set(count.__annotations__) == {"customer", "limit", "return"}
    assert count.__doc__ == "Count something."
    assert pickle.loads(pickle.dumps(count)) is count
    with pytest.raises(TypeError):
        count()


def test_on_a_method_the_target_comes_after_self():
    store = Store()
    for name in ("plain", "above", "below", "unusual"):
        assert getattr(store, name)("k") == (Store, "a", "k")
        assert str(inspect.signature(getattr(store, name))).startswith("(key: 'str')")
    for name in ("static_above", "static_below"):
        assert getattr(store, name)("k") == ("a", "k")
        assert getattr(Store, name)("k") == ("a", "k")
    assert Store.plain(store, "k") == (Store, "a", "k")
    assert asyncio.run(store.later("k")) == (Store, "a", "k")
    assert trio.run(store.later, "k") == (Store, "a", "k")


def test_a_function_put_into_a_class_later_stays_a_function():
    def fetch(self, conn, key):
        return self, conn, key

    def alone(conn, key):
        return conn, key

    shared = db(alone)
    Holder = type("Holder", (), {"fetch": db(fetch)})
    holder = Holder()
    assert holder.fetch("k") == (holder, "a", "k")
    assert Holder.fetch(holder, "k") == (holder, "a", "k")
    assert shared("k") == ("a", "k")


def test_decorators_above_and_below_a_pool():
    """Stacked, they are one pipeline; the method keeps its place for the target."""

    class Service:
        @Retry(on=OSError)
        @db
        @CircuitBreaker()
        def get(self, conn, key):
            return conn, key

    assert Service().get("k") == ("a", "k")
    assert str(inspect.signature(Service.get)) == "(self, key)"


def test_call_and_acall(mode):
    """`call(fn, *args)` is `fn(target, *args)`."""
    if mode.is_async:

        async def fn(target, *args):
            return target, args

        assert mode.call(db.acall, fn, 1, 2) == ("a", (1, 2))
    else:
        assert db.call(lambda *args: args, 1, 2) == ("a", 1, 2)


def test_passthrough_still_needs_a_target(mode):
    """With all policies out of the way the first member's target is used."""
    Probe = type("Probe", (), {"get": mode.function(db, lambda self, *args: args)})
    ask = mode.function(db, lambda *args: args)
    items = mode.stream(db, lambda *args: iter(args)) if mode.is_async else db(_items)
    with testing.passthrough():
        assert mode.call(ask, 1) == ("a", 1)
        assert mode.call(Probe().get, 1) == ("a", 1)
        assert mode.drain(items, 1) == ["a", 1]
        with db.lease() as member:
            assert member.name == "a"


def _items(*args):
    yield from args


@pytest.fixture
def backends():
    return Backends()


def pools(**options):
    for kind in (ActivePassive, ActiveActive):
        yield kind("db", {name: name for name in "abcd"}, on=ConnectionError, **options)


def test_attempts_bound_the_members_tried(mode, clock, backends):
    backends.down |= set("abcd")
    for pool in pools(attempts=2):
        with pytest.raises(ConnectionError) as raised:
            mode.call(mode.function(pool, backends))
        assert len(backends.taken()) == 2
        assert "attempts=2" in raised.value.__notes__[0]


def test_the_attempt_number_counts_members(mode, clock):
    """The code that runs can tell, and nothing is left behind."""
    seen = []

    def ask(target):
        seen.append(attempt_number())
        raise ConnectionError(target)

    for pool in pools():
        with pytest.raises(ConnectionError):
            mode.call(mode.function(pool, ask))
        assert seen == [1, 2, 3, 4]
        assert attempt_number() == 1
        seen.clear()


def test_a_shared_budget_bounds_failover_and_retry_together(mode, clock, backends):
    """Each further member and each retry draws on it; a success fills it once."""
    budget = RetryBudget(ratio=0.5, capacity=3)
    pool = ActivePassive(
        "db",
        {name: name for name in "abcd"},
        on=ConnectionError,
        budget=budget,
        breaker=lambda name: CircuitBreaker(name, consecutive_failures=1000),
    )
    both = Pipeline(Retry(on=ConnectionError, attempts=3, backoff=[0, 0], budget=budget), pool)
    ask = mode.function(both, backends)
    backends.down |= set("abcd")
    with pytest.raises(ConnectionError):
        mode.call(ask)
    assert len(backends.taken()) == 4
    assert budget.tokens == 0
    backends.down.clear()
    mode.call(ask)
    assert budget.tokens == 0.5


def test_once_makes_no_call_twice(mode, clock, backends):
    """Inside it a call that was made does not fail over; later calls go elsewhere."""
    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError, breaker=quick)
    ask = mode.function(pool, backends)
    backends.down.add("a")

    with once(), pytest.raises(ConnectionError) as raised:
        mode.call(ask)
    assert "once()" in raised.value.__notes__[0]
    with once():
        assert mode.call(ask) == "b"
    assert backends.taken() == ["a", "b"]


def test_a_retry_takes_members_not_yet_tried_and_then_starts_over(mode, clock, backends):
    backends.down |= set("abcd")
    for pool in pools(attempts=1, breaker=lambda name: CircuitBreaker(name)):
        retry = Retry(on=ConnectionError, attempts=6, backoff=[0] * 5)
        with pytest.raises(ConnectionError):
            mode.call(mode.function(Pipeline(retry, pool), backends))
        tried = backends.taken()
        assert set(tried[:4]) == set("abcd")
        assert len(tried) == 6


def test_a_hedge_goes_to_a_member_not_yet_tried(mode, clock):
    """The overtaken attempt is neutral for its member, and nothing is left in flight."""
    for pool in pools():
        seen = []

        def ask(target, seen=seen):
            seen.append(target)
            yield 10 if len(seen) == 1 else 0.1
            return target

        hedge = Hedge(1, on=ConnectionError, sync=None if mode.is_async else "thread")
        protected = mode.function(Pipeline(hedge, pool), ask)
        before = clock.now()
        assert mode.call(protected) == seen[1]
        assert 1 <= clock.now() - before < 2
        assert len(set(seen)) == 2
        pass_time(20)
        assert set(states(pool).values()) == {"healthy"}
        assert all(one.in_flight == 0 for one in pool.snapshot().members)


def test_each_member_tried_is_under_the_timeout_further_in(mode, clock, backends):
    """Its error counts against the member whatever `on`, and is re-run only if `on` matches."""
    for matched in (True, False):
        on = (ConnectionError, CallTimeoutError) if matched else ConnectionError
        pool = ActivePassive("db", {"a": "a", "b": "b"}, on=on, breaker=quick)

        def ask(target):
            yield 5 if target == "a" else 0.1
            return target

        inner = Timeout(1, sync="thread")
        protected = mode.function(Pipeline(pool, inner), ask)
        if matched:
            assert mode.call(protected) == "b"
        else:
            with pytest.raises(CallTimeoutError):
                mode.call(protected)
        assert states(pool)["a"] == "down"
        pass_time(10)


def test_nothing_is_begun_after_the_deadline(mode, clock, backends):
    """A failure that comes after the time is up is not taken to another member."""
    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError)

    def ask(target):
        yield 2
        return backends(target)

    backends.down.add("a")
    outer = Timeout(1, sync="deadline")
    with pytest.raises((ConnectionError, CallTimeoutError)):
        mode.call(mode.function(Pipeline(outer, pool), ask))
    assert "b" not in backends.taken()


def test_a_hang_that_an_outer_deadline_ends_is_the_members(mode, clock):
    """Else an outer timeout would hide every hang from the pool."""
    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError, breaker=quick)

    def ask(target):
        yield 5 if target == "a" else 0.1
        return target

    protected = mode.function(Pipeline(Timeout(1, sync="thread"), pool), ask)
    with pytest.raises(CallTimeoutError):
        mode.call(protected)
    assert states(pool)["a"] == "down"
    assert mode.call(protected) == "b"
    pass_time(10)


def test_a_rejection_further_in_is_neutral(mode, clock):
    """A full bulkhead says nothing of the member, and the pool does not act on it."""
    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=Exception, breaker=quick)
    bulkhead = Bulkhead(1)

    def slowly(target):
        yield 1
        return target

    ask = mode.function(Pipeline(pool, bulkhead), slowly)
    found = mode.together(ask, ask)
    assert sorted(map(str, map(type, found))) == sorted(map(str, [str, BulkheadFullError]))
    assert states(pool)["a"] == "healthy"


def test_a_rejection_that_on_names_is_acted_on(mode, clock):
    seen = []

    def ask(target):
        seen.append(target)
        raise BulkheadFullError(policy=target)

    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=RejectedError)
    with pytest.raises(BulkheadFullError):
        mode.call(mode.function(pool, ask))
    assert seen == ["a", "b"]


def test_a_refusal_does_not_hide_the_real_error(mode, clock):
    """The second member's rejection is not what the caller gets."""

    def ask(target):
        if target == "a":
            raise ConnectionError(target)
        raise BulkheadFullError(policy=target)

    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError)
    with pytest.raises(ConnectionError) as raised:
        mode.call(mode.function(pool, ask))
    assert raised.value.__context__ is None


def test_a_stream_fails_over_until_its_first_item(mode, clock):
    """After that the error is the consumer's, and nothing comes twice."""
    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError, breaker=quick)
    seen = []

    def items(target):
        seen.append(target)
        if target == "a":
            raise ConnectionError(target)
        yield 1
        yield 2

    assert mode.drain(mode.stream(pool, items)) == [1, 2]
    assert seen == ["a", "b"]
    assert states(pool) == {"a": "down", "b": "healthy"}

    def breaks(target):
        yield target
        raise ConnectionError(target)

    with pytest.raises(ConnectionError):
        mode.drain(mode.stream(pool, breaks))
    assert states(pool)["b"] == "down"
    assert all(one.in_flight == 0 for one in pool.snapshot().members)


def test_a_stream_holds_its_member_until_it_is_closed():
    pool = ActivePassive("db", {"a": "a"}, on=ConnectionError, breaker=quick)
    items = pool(_items)(1, 2)
    assert pool.snapshot().members[0].in_flight == 0
    assert next(items) == "a"
    assert pool.snapshot().members[0].in_flight == 1
    items.close()
    assert pool.snapshot().members[0].in_flight == 0
    assert states(pool)["a"] == "healthy"


def test_a_lease_holds_a_member_and_judges_it(mode, clock):
    """A block that fails is the member's failure; the next lease goes elsewhere."""
    pool = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError, breaker=quick)

    if mode.is_async:

        async def block(fail):
            async with pool.lease() as member:
                assert pool.snapshot().members[0].in_flight + (member.name == "b") == 1
                if fail:
                    raise ConnectionError
                return member.target
    else:

        def block(fail):
            with pool.lease() as member:
                if fail:
                    raise ConnectionError
                return member.target

    assert mode.call(block, False) == "a"
    with pytest.raises(ConnectionError):
        mode.call(block, True)
    assert mode.call(block, False) == "b"
    assert all(one.in_flight == 0 for one in pool.snapshot().members)


def test_a_lease_serves_one_block():
    lease = db.lease()
    with lease:
        pass
    with pytest.raises(RuntimeError, match="one block"):
        lease.__enter__()


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_a_cancelled_call_leaves_its_member_and_says_nothing(mode, clock):
    """Cancelled at every moment of a call that fails over: no count is left standing."""
    import anyio

    for moment in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5):
        pool = ActivePassive("db", {"a": "a", "b": "b"}, on=ConnectionError, breaker=quick)

        @pool
        async def ask(target):
            await anyio.sleep(1)
            if target == "a":
                raise ConnectionError
            await anyio.sleep(1)
            return target

        async def main(moment=moment, ask=ask):
            with anyio.move_on_after(moment):
                await ask()

        mode.call(main)
        assert all(one.in_flight == 0 for one in pool.snapshot().members)
        assert states(pool)["b"] == "healthy"
        assert attempt_number() == 1


def test_members_come_and_go_under_load(backends):
    """Calls in flight are left to finish, and every call is served."""
    import sys
    import threading

    pool = ActiveActive("db", {"a": "a", "b": "b"}, on=ConnectionError)
    stop = threading.Event()
    wrong = []

    def load():
        while not stop.is_set():
            try:
                pool.call(lambda target: target)
            except Exception as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=load) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for number in range(100):
            pool.add(Member(f"m{number}", number))
            pool.remove(f"m{number}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not wrong
    assert all(one.in_flight == 0 for one in pool.snapshot().members)


def test_pools_are_among_the_policies():
    pool = NPlusOne("known", {"a": 1}, {"s": 2}, on=OSError)
    assert pool in policies()
    assert [one.name for one in pool.snapshot().members] == ["a", "s"]
    assert set(type(pool).member_states) >= set(states(pool).values())
