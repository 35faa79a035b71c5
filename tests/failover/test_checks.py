"""Active health checks: when they run, what they say, and that they end."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest

from resilient import asynchronous
from resilient._core.health import Check, CheckRules, Checks, Rounds
from resilient.failover import ActivePassive, HealthCheck, Member

from tests.failover.support import Backends, kinds, pass_time, quick, states

RULES = CheckRules(interval=5.0, timeout=1.0, rise=2, fall=3, jitter=0.0)


def pool_of(*names, probe, **options):
    rules = {"interval": 2, "timeout": 1} | options.pop("rules", {})
    return ActivePassive(
        "db",
        {name: name for name in names},
        on=ConnectionError,
        breaker=quick,
        health_check=HealthCheck(probe, **rules),
        **options,
    )


class Block:
    """Runs `body` while the pool runs, in a mode; `body` yields the seconds to wait."""

    def __init__(self, mode, pool):
        self.mode = mode
        self.pool = pool

    def run(self, body):
        if not self.mode.is_async:
            with self.pool:
                for seconds in body():
                    pass_time(seconds)
            return

        async def main():
            async with self.pool:
                for seconds in body():
                    await anyio.sleep(seconds)

        self.mode.call(main)


def probe_of(mode, seen, down, *, is_async):
    def probe(target):
        seen.append(target)
        if target in down:
            raise ConnectionError(target)

    if not is_async:
        return probe

    async def aprobe(target):
        return probe(target)

    return aprobe


@pytest.fixture(params=[False, True], ids=["plain", "async"])
def is_async(request, mode):
    if request.param and not mode.is_async:
        pytest.skip("an async probe needs an event loop")
    return request.param


def test_probes_run_at_once_and_then_at_intervals(mode, clock, is_async):
    """Jittered by a fifth: five rounds in ten seconds, give or take."""
    seen = []
    db = pool_of("a", "b", probe=probe_of(mode, seen, set(), is_async=is_async))

    def body():
        yield 0.5
        assert sorted(seen) == ["a", "b"]
        yield 9.5
        assert 4 <= seen.count("a") <= 7

    Block(mode, db).run(body)
    count = len(seen)
    pass_time(20)
    assert len(seen) == count


def test_a_member_that_the_checks_find_down_is_left_and_comes_back(mode, clock, events, is_async):
    """`fall` bad probes promote the next without a failed call; failback waits its time."""
    seen, down = [], set()
    db = pool_of("a", "b", probe=probe_of(mode, seen, down, is_async=is_async), failback_after=10)

    def body():
        yield 1
        down.add("a")
        yield 3
        assert db.active == "a"
        yield 6
        assert states(db) == {"a": "down", "b": "healthy"}
        assert db.active == "b"
        down.clear()
        yield 6
        assert states(db)["a"] == "healthy"
        assert db.active == "b"
        yield 12
        assert db.active == "a"

    Block(mode, db).run(body)
    reasons = [one.reason for one in kinds(events, "FailoverSwitched")]
    assert reasons == ["promotion", "failback"]


def test_a_member_that_flips_never_dwells(mode, clock, events, is_async):
    """Each bad probe starts the wait for the failback anew."""
    flips = iter(range(10_000))

    def probe(target):
        return target == "b" or next(flips) % 2 == 0

    async def aprobe(target):
        return probe(target)

    db = pool_of(
        "a",
        "b",
        probe=aprobe if is_async else probe,
        failback_after=1,
        rules={"interval": 0.1, "fall": 1, "rise": 1},
    )

    def body():
        yield 10

    Block(mode, db).run(body)
    assert len(kinds(events, "FailoverSwitched")) <= 2


def test_a_probe_that_hangs_is_bad_and_never_overlaps(mode, clock, is_async):
    """A slow probe is a failed one, and so it stays while it hangs."""
    running, most = [0], [0]
    free = threading.Event()

    def enter(step):
        running[0] += step
        most[0] = max(most[0], running[0])

    def probe(target):
        from resilient._runtime import waits

        if target == "a":
            enter(1)
            waits.sleep(1000)
            enter(-1)

    async def aprobe(target):
        if target == "a":
            enter(1)
            try:
                await anyio.sleep_forever()
            finally:
                enter(-1)

    db = pool_of("a", "b", probe=aprobe if is_async else probe)

    def body():
        yield 12
        assert states(db) == {"a": "down", "b": "healthy"}
        assert most == [1]
        yield 30
        assert states(db)["a"] == "down"
        assert most == [1]

    before = clock.now()
    Block(mode, db).run(body)
    # The block ended although the probe did not.
    assert clock.now() - before < 50
    free.set()
    pass_time(1000)


def test_without_a_runner_the_verdict_is_forgotten(mode, clock):
    """After three intervals nobody knows, and passive health is all there is."""
    down = {"a"}
    db = pool_of("a", "b", probe=lambda target: target not in down)

    def body():
        yield 10
        assert states(db)["a"] == "down"

    Block(mode, db).run(body)
    assert states(db)["a"] == "down"
    pass_time(7)
    assert states(db)["a"] == "healthy"


def test_the_checks_bring_a_member_back_with_a_clean_sheet(mode, clock):
    """When they find it up again, its breaker need not wait for a trial."""
    backends = Backends()
    db = pool_of("a", "b", probe=lambda target: target not in backends.down)

    def body():
        backends.down.add("a")
        yield 10
        backends.down.clear()
        yield 6
        assert states(db)["a"] == "healthy"

    Block(mode, db).run(body)


def test_one_runner_however_often_it_is_entered(clock):
    """Threads, start() and nested blocks share one; the last to leave ends it."""
    seen = []
    db = pool_of("a", probe=seen.append)
    with db, db:
        db.start()
        pass_time(0.5)
        assert len(seen) == 1
        db.stop()
        assert sum(one.name == "resilient-checks-db" for one in threading.enumerate()) == 1
    assert not any(one.name == "resilient-checks-db" for one in threading.enumerate())
    with pytest.raises(RuntimeError, match="not running"):
        db.stop()


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_when_the_leading_block_ends_the_next_takes_over(mode, clock):
    """Two tasks enter; each member is probed once per interval, until both have left."""
    seen = []
    db = pool_of("a", probe=seen.append, rules={"jitter": 0})

    async def block(seconds):
        async with db:
            await anyio.sleep(seconds)

    mode.together(partial(block, 5), partial(block, 11))
    # At 0, 2, 4, again at 5 when the second takes over, then at 7, 9 and 11 at the latest.
    assert 6 <= len(seen) <= 7


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_an_error_leaves_the_block_as_it_is(mode, clock):
    """No exception group is wrapped around it."""
    db = pool_of("a", probe=lambda target: True)

    async def main():
        async with db:
            await anyio.sleep(1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        mode.call(main)


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_a_cancelled_block_ends_the_checks(mode, clock):
    seen = []
    db = pool_of("a", probe=seen.append)

    async def main():
        with anyio.move_on_after(3):
            async with db:
                await anyio.sleep_forever()
        count = len(seen)
        await anyio.sleep(20)
        assert len(seen) == count

    mode.call(main)


def test_an_async_probe_is_refused_by_a_thread():
    async def probe(target):
        return True

    for one in (probe, asynchronous(lambda target: probe(target))):
        db = pool_of("a", probe=one)
        with pytest.raises(TypeError, match="async with"):
            db.start()
        with pytest.raises(TypeError, match="async with"), db:
            pass


def test_a_probe_that_nothing_marks_as_async_is_bad(clock, caplog):
    async def probe(target):
        return True

    db = pool_of("a", probe=lambda target: probe(target))
    with db:
        pass_time(0.5)
    assert "asynchronous(probe)" in caplog.text


def test_members_that_come_and_go_are_probed_and_not(clock):
    seen = []
    db = pool_of("a", probe=seen.append)
    with db:
        pass_time(0.5)
        db.add(Member("b", "b"))
        pass_time(0.5)
        assert seen == ["a", "b"]
        db.remove("a")
        seen.clear()
        pass_time(10)
        assert set(seen) == {"b"}


def test_a_pool_without_checks_can_be_entered_all_the_same(mode):
    db = ActivePassive("db", {"a": "a"}, on=ConnectionError)
    Block(mode, db).run(lambda: iter(()))
    db.start()
    db.stop()


@pytest.mark.parametrize(
    "options",
    [{"interval": 0}, {"timeout": -1}, {"rise": 0}, {"fall": 0}, {"jitter": 1}, {"jitter": -0.1}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        HealthCheck(print, **options)


def test_bad_probes_are_refused():
    def generator(target):
        yield

    for wrong in (None, 3, generator):
        with pytest.raises(TypeError):
            HealthCheck(wrong)
    with pytest.raises(TypeError):
        HealthCheck(print, jitter="much")
    assert "rise 2" in repr(HealthCheck(print))


# The machines, by plain calls.


def test_rise_and_fall_count_in_a_row():
    checks = Checks(RULES)
    row = [True, False, True, True, False, False, True, False, False, False, True, True]
    found = [checks.record(good, now) for now, good in enumerate(row)]
    unknown, up, down = Check.UNKNOWN, Check.UP, Check.DOWN
    assert found == [unknown] * 3 + [up] * 6 + [down] * 2 + [up]


def test_a_verdict_grows_old():
    checks = Checks(RULES)
    for now in range(3):
        checks.record(False, now)
    assert checks.state(17) is Check.DOWN
    assert checks.state(17.1) is Check.UNKNOWN
    assert checks.usable_since(30) == 17
    # One more bad one alone does not bring it down again.
    assert checks.record(False, 31) is Check.UNKNOWN


def test_rounds_never_overlap_and_count_what_hangs():
    rounds = Rounds(RULES)
    rounds.keep(["a"], 0)
    assert rounds.due(0) == [("a", 1)]
    assert rounds.wake_at() == 1
    assert rounds.bad(0.9) == []
    assert rounds.bad(1) == ["a"]
    assert rounds.wake_at() == 5
    assert rounds.due(5) == []
    assert rounds.bad(5) == ["a"]
    assert rounds.ended("a", 1, 7) is None
    assert rounds.due(10) == [("a", 2)]
    assert rounds.ended("a", 1, 10) is None
    assert rounds.ended("a", 2, 10.5) is True
    assert rounds.due(15) == [("a", 3)]
    assert rounds.ended("a", 3, 17) is False
    assert rounds.ended("b", 1, 17) is None
    rounds.keep([], 20)
    assert rounds.wake_at() == float("inf")


def test_a_timeout_longer_than_the_interval_counts_once():
    rounds = Rounds(CheckRules(interval=1.0, timeout=2.5, rise=1, fall=1, jitter=0.0))
    rounds.keep(["a"], 0)
    rounds.due(0)
    assert [rounds.bad(now) for now in (1, 2, 2.5, 3, 3.5)] == [[], [], ["a"], [], ["a"]]
