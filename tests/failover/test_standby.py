"""Cold standbys: started once when needed, stopped when not, never while calls run there."""

from __future__ import annotations

import asyncio
import threading

import pytest

from resilient import Pipeline
from resilient._core.standby import Life, Lifecycle
from resilient.errors import PoolExhaustedError
from resilient.failover import ActiveActive, ActivePassive, Member, NPlusOne
from resilient.timeout import Timeout

from tests.failover.support import Backends, pass_time, quick, states


class Cold:
    """A standby's `start` and `stop` in a mode's colour, and what they did."""

    def __init__(self, mode, seconds=0.0):
        self.log = []
        self.fails = False
        self.seconds = seconds
        self.start = mode.colour(self._start)
        self.stop = mode.colour(self._stop)

    def _start(self):
        self.log.append("start")
        yield self.seconds
        if self.fails:
            raise OSError("no room")
        self.log.append("up")

    def _stop(self):
        self.log.append("stop")
        yield self.seconds
        self.log.append("stopped")

    def member(self, name):
        return Member(name, name, start=self.start, stop=self.stop)


@pytest.fixture
def backends():
    return Backends()


def waits_of(mode, seconds):
    """A call that lets time pass in the mode's own way, so that what runs beside it ends."""

    def script():
        yield seconds

    return mode.colour(script)


def pool_of(*members, **options):
    return ActivePassive("db", members, on=ConnectionError, breaker=quick, **options)


def run(mode, *steps):
    """Call `steps` one after the other in one event loop, if there is one."""
    if not mode.is_async:
        return [step() for step in steps]

    async def main():
        return [await step() for step in steps]

    return mode.run(main)


def test_it_is_started_when_it_is_needed_and_stopped_after_failback(mode, clock, backends):
    cold = Cold(mode)
    db = pool_of(Member("a", "a"), cold.member("b"), failback_after=10)
    ask = mode.function(db, backends)
    assert states(db)["b"] == "standby"

    def fail():
        backends.down.add("a")
        return ask()

    def recover():
        assert states(db)["b"] == "healthy"
        assert cold.log == ["start", "up"]
        backends.down.clear()
        clock.advance(20)
        return ask()

    assert run(mode, ask, fail, ask, recover, waits_of(mode, 1)) == ["a", "b", "b", "a", None]
    assert cold.log == ["start", "up", "stop", "stopped"]
    assert states(db)["b"] == "standby"


def test_many_callers_wait_for_one_start(mode, clock, backends):
    cold = Cold(mode, seconds=2)
    db = pool_of(cold.member("a"))
    ask = mode.function(db, backends)
    assert mode.together(*[ask] * 10) == ["a"] * 10
    assert cold.log == ["start", "up"]


def test_a_failed_start_is_a_failed_member(mode, clock, backends, events):
    """The call goes on to the next one; later calls do not start it at once again."""
    cold = Cold(mode)
    cold.fails = True
    db = pool_of(cold.member("a"), Member("b", "b"))
    ask = mode.function(db, backends)
    assert run(mode, ask, ask) == ["b", "b"]
    assert cold.log == ["start"]
    assert db.active == "b"
    assert backends.taken() == ["b", "b"]


def test_when_nothing_starts_the_pool_is_exhausted(mode, clock, backends):
    """No call was made, so the error says that; its cause is the start's."""
    cold = Cold(mode)
    cold.fails = True
    db = pool_of(cold.member("a"))
    with pytest.raises(PoolExhaustedError) as raised:
        run(mode, mode.function(db, backends))
    assert isinstance(raised.value.__cause__, OSError)
    assert states(db)["a"] == "down"


def test_a_start_that_fails_after_a_real_error_leaves_that_error(mode, clock, backends):
    cold = Cold(mode)
    cold.fails = True
    backends.down.add("a")
    db = pool_of(Member("a", "a"), cold.member("b"))
    with pytest.raises(ConnectionError):
        run(mode, mode.function(db, backends))


def test_callers_wait_within_their_deadline(mode, clock, backends):
    """Who runs out of time leaves; the start goes on for the others, and runs once."""
    cold = Cold(mode, seconds=5)
    db = pool_of(cold.member("a"))
    patient = mode.function(db, backends)
    hurried = mode.function(Pipeline(Timeout(1, sync="deadline"), db), backends)
    before = clock.now()
    found = mode.together(hurried, patient)
    assert isinstance(found[0], Exception)
    assert found[1] == "a"
    assert 5 <= clock.now() - before < 6
    assert cold.log == ["start", "up"]
    assert db.snapshot().members[0].in_flight == 0


def test_it_is_not_stopped_while_a_call_runs_there(mode, clock, backends):
    cold = Cold(mode)
    db = pool_of(Member("a", "a"), cold.member("b"))

    def slowly(target):
        yield 5
        assert cold.log[-1] == "up"
        return target

    slow = mode.function(db, slowly)

    def switches():
        yield 1
        db.switch_to("a")
        yield 1
        assert cold.log[-1] == "up"

    db.switch_to("b")
    assert mode.together(slow, mode.colour(switches), waits_of(mode, 7))[0] == "b"
    assert cold.log == ["start", "up", "stop", "stopped"]


def test_single_calls_that_go_on_there_do_not_stop_it_at_once(mode, clock, backends):
    """Without a promotion it is kept for as long as a failback would take."""
    from resilient import CircuitBreaker

    cold = Cold(mode)
    db = ActivePassive(
        "db",
        [Member("a", "a"), cold.member("b")],
        on=ConnectionError,
        breaker=lambda name: CircuitBreaker(name, consecutive_failures=100),
    )
    ask = mode.function(db, backends)

    def fail():
        backends.down.add("a")
        return ask()

    def later():
        backends.down.clear()
        clock.advance(31)
        return ask()

    assert run(mode, fail, fail, later, waits_of(mode, 1)) == ["b", "b", "a", None]
    assert cold.log == ["start", "up", "stop", "stopped"]


def test_a_cold_spare_is_started_for_its_active(mode, clock, backends):
    cold = Cold(mode)
    pool = NPlusOne(
        "n", {"a": "a"}, [cold.member("s")], on=ConnectionError, breaker=quick, key=lambda key: key
    )
    ask = mode.function(pool, backends)

    def step():
        return ask("a")

    def fail():
        backends.down.add("a")
        return ask("a")

    def recover():
        backends.down.clear()
        clock.advance(6)
        return ask("a")

    found = run(mode, step, fail, step, recover, waits_of(mode, 1))
    assert found == ["a", "s", "s", "a", None]
    assert cold.log == ["start", "up", "stop", "stopped"]


def test_in_an_event_loop_sync_code_does_not_wait_for_a_start(backends):
    """It would stop the loop that the start may need."""
    db = pool_of(Member("a", "a", start=lambda: None))

    async def main():
        db.call(backends)

    with pytest.raises(RuntimeError, match="acall"):
        asyncio.run(main())
    assert db.snapshot().members[0].in_flight == 0


def test_plain_functions_cannot_await_a_start(backends):
    async def start():
        pass

    db = pool_of(Member("a", "a", start=start))
    with pytest.raises(TypeError, match="async start"):
        db(backends)
    with pytest.raises(TypeError, match="async start"), db.lease():
        pass
    assert db.snapshot().members[0].in_flight == 0


def test_one_start_serves_threads_and_event_loops(backends):
    """Single-flight holds across all of them, and each waits in its own way."""
    import trio

    starts = []
    release = threading.Event()

    def start():
        starts.append(1)
        assert release.wait(10)

    db = pool_of(Member("a", "a", start=start))
    found = []

    async def ask():
        async def fn(target):
            return target

        found.append(await db.acall(fn))

    threads = [
        threading.Thread(target=lambda: found.append(db.call(backends))),
        threading.Thread(target=lambda: asyncio.run(ask())),
        threading.Thread(target=lambda: trio.run(ask)),
    ]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert found == ["a"] * 3
    assert starts == [1]


def test_a_cancelled_caller_leaves_nothing_behind(clock):
    """Cancelled while it waits for the start: not in flight, and the start goes on."""
    log = []

    async def start():
        log.append("start")
        await asyncio.sleep(2)
        log.append("up")

    db = pool_of(Member("a", "a", start=start))

    async def fn(target):
        return target

    async def main():
        task = asyncio.create_task(db.acall(fn))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert db.snapshot().members[0].in_flight == 0
        assert await db.acall(fn) == "a"

    asyncio.run(main())
    assert log == ["start", "up"]


def test_a_loop_that_ends_during_a_start_does_not_block_the_next(clock):
    """The start is lost with its loop, and made anew in the next one."""
    log = []

    async def start():
        log.append("start")
        await asyncio.sleep(2)

    db = pool_of(Member("a", "a", start=start))

    async def fn(target):
        return target

    async def hurried():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(db.acall(fn), 1)

    asyncio.run(hurried())
    assert asyncio.run(db.acall(fn)) == "a"
    assert log == ["start", "start"]


def test_a_stop_that_fails_is_logged(clock, backends, caplog):
    def stop():
        raise OSError("stuck")

    db = pool_of(Member("a", "a"), Member("b", "b", start=lambda: None, stop=stop))
    db.switch_to("b")
    assert db.call(backends) == "b"
    db.switch_to("a")
    pass_time(1)
    assert "the stop of a standby failed" in caplog.text
    assert states(db)["b"] == "standby"


def test_a_removed_standby_is_stopped(clock, backends):
    log = []
    db = pool_of(
        Member("a", "a"),
        Member("b", "b", start=lambda: log.append("up"), stop=lambda: log.append("stopped")),
    )
    db.switch_to("b")
    db.call(backends)
    db.remove("b")
    pass_time(1)
    assert log == ["up", "stopped"]


def test_only_standbys_are_cold():
    cold = Member("c", "c", start=print)
    with pytest.raises(ValueError, match="all members"):
        ActiveActive("aa", [cold], on=OSError)
    with pytest.raises(ValueError, match="spare"):
        NPlusOne("n", [cold], {}, on=OSError)


def test_a_stop_sees_a_call_that_comes_in_between():
    """The life's machine: whoever is second sees the first."""
    life = Lifecycle()
    assert life.need(object)[1] is True
    assert life.need(object)[1] is False
    life.started(True)
    assert life.need(object) == (None, False)
    assert life.retire(lambda: False, object) is None
    assert life.state is Life.WARM
    assert life.retire(lambda: True, object) is not None
    assert life.state is Life.STOPPING
    assert life.need(object)[1] is False
    life.stopped()
    assert life.need(object)[1] is True
    life.after_fork()
    assert life.state is Life.COLD
