"""`resilient.testing`: time that jumps, and switches that hold for the whole process."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import functools
import os
import queue
import random
import selectors
import socket
import sys
import threading
import time
import types
from datetime import timedelta
from typing import Any

import pytest
import trio

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Pipeline,
    Retry,
    constant,
    exponential,
)
from resilient._core import chance
from resilient._core import clock as core_clock
from resilient._runtime import modes, standstill, virtual, waits, workers
from resilient.events import RetryExhausted, RetryScheduled
from resilient.testing import no_backoff, passthrough, record_events, virtual_time
from resilient.timeout import Timeout

# Real seconds that nothing here may come near to.
LONG = 20.0


def sleep_in_thread(seconds: float, times: int = 1, done: Any = None) -> None:
    for _ in range(times):
        waits.sleep(seconds)
        if done is not None:
            done(seconds)


def sleep_in_asyncio(seconds: float, times: int = 1, done: Any = None) -> None:
    async def main() -> None:
        for _ in range(times):
            await waits.asleep(seconds)
            if done is not None:
                done(seconds)

    asyncio.run(main())


def sleep_in_trio(seconds: float, times: int = 1, done: Any = None) -> None:
    async def main() -> None:
        for _ in range(times):
            await waits.asleep(seconds)
            if done is not None:
                done(seconds)

    trio.run(main, clock=virtual.active.trio)


def run_threads(*functions: Any) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive(), "it hangs"


def no_retry(*args: Any) -> None:
    raise OSError("down")


# One loop or thread.


def test_a_policy_waits_without_time_passing(mode, clock):
    """Two retries with 60 s of backoff take no real time, and 60 s on the clock."""
    started, real = clock.now(), time.monotonic()
    protected = mode.function(Retry(on=OSError, backoff=[20, 40]), no_retry)
    with pytest.raises(OSError, match="down"):
        mode.call(protected)
    assert clock.now() - started == 60
    assert time.monotonic() - real < LONG


def test_a_total_timeout_ends_a_retry_that_waits(mode, clock):
    """A minute of hanging attempts and backoff ends exactly when the total time is up."""
    started = clock.now()
    policy = Pipeline(
        Timeout(60, sync="thread"),
        Retry(on=CallTimeoutError, attempts=None, max_elapsed=3600, backoff=constant(5)),
        Timeout(20, sync="thread"),
    )

    def hang():
        yield 1000

    with pytest.raises(CallTimeoutError) as raised:
        mode.call(mode.function(policy, hang))
    assert raised.value.seconds in (20, 60)
    assert 45 <= clock.now() - started <= 60
    # A worker that was left behind ends when its own wait does.
    waits.sleep(1000)


def test_time_stands_still_while_code_runs(mode, clock):
    """However long a function really takes, no time passes on the clock."""
    read = []

    def work():
        read.append(core_clock.now())
        time.sleep(0.01)
        read.append(core_clock.now())

    mode.call(mode.function(Retry(on=OSError), work))
    assert read[0] == read[1] == clock.now()


def test_a_scripted_wait_takes_exactly_as_long_as_it_says(mode, clock):
    """Waits of whole seconds add up to the whole."""
    started = clock.now()

    def work():
        yield 3600
        yield 0.5
        return core_clock.now() - started

    assert mode.call(mode.function(Retry(on=OSError), work)) == 3600.5


def test_the_time_of_a_machine_that_has_been_up_for_years_is_fine_enough(mode, monkeypatch):
    """Where a float of so many seconds has few digits left behind the point, timers still end."""
    monkeypatch.setattr(virtual.World, "_latest", 1e9)

    def work():
        yield 60
        yield 0.001

    with virtual_time() as clock:
        started = clock.now()
        assert started >= 1e9
        mode.call(mode.function(Retry(on=OSError), work))
        assert clock.now() - started == pytest.approx(60.001)


def test_a_wait_for_the_rest_of_the_time_comes_to_an_end(mode, clock):
    """However a moment is rounded, whoever waits again until it has come gets there."""
    chosen, waited = random.Random(1), []

    def work():
        for _ in range(200):
            until, times = clock.now() + chosen.random() / 7, 0
            while clock.now() < until:
                yield until - clock.now()
                times += 1
            waited.append(times)

    mode.call(mode.function(Retry(on=OSError), work))
    assert max(waited) < 5


def test_every_clock_tells_the_same_time(mode, clock):
    """The policies' clock, the loop's and the one given are one; the wall clock goes along."""
    wall, started = core_clock.wall(), clock.now()

    def work():
        yield 90
        if mode.name == "asyncio":
            assert asyncio.get_running_loop().time() == clock.now()
        if mode.name == "trio":
            assert trio.current_time() == clock.now()

    mode.call(mode.function(Retry(on=OSError), work))
    assert core_clock.now() == clock.now() == started + 90
    assert core_clock.wall() == pytest.approx(wall + 90)


def test_time_begins_where_the_last_clock_and_the_machine_have_stopped():
    """A policy that lives through several virtual times never sees time run backwards."""
    with virtual_time() as first:
        assert first.now() >= time.monotonic()
        waits.sleep(5000)
        ended = first.now()
    assert first.now() == ended
    with virtual_time() as second:
        assert second.now() >= ended


@pytest.mark.parametrize(
    "make",
    [
        asyncio.run,
        lambda main: asyncio.Runner().__enter__().run(main),
        lambda main: asyncio.Runner(loop_factory=asyncio.SelectorEventLoop).run(main),
        lambda main: asyncio.new_event_loop().run_until_complete(main),
    ],
    ids=["run", "runner", "loop_factory", "new_event_loop"],
)
def test_every_asyncio_loop_made_inside_runs_on_the_clock(clock, make):
    """It does not matter which of asyncio's doors a loop comes through."""
    started, loops = clock.now(), []

    async def main():
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(60)

    try:
        make(main())
    finally:
        loops[0].close()
        asyncio.set_event_loop(None)
    assert clock.now() - started == 60


def test_a_breaker_opens_and_closes_again_by_the_clock(mode, clock):
    """An open breaker admits a probe when the time has been moved far enough."""
    breaker = CircuitBreaker("b", consecutive_failures=1, open_for=[30])
    fail = mode.function(breaker, no_retry)
    with pytest.raises(OSError, match="down"):
        mode.call(fail)
    assert breaker.state is CircuitState.OPEN
    with pytest.raises(CircuitOpenError):
        mode.call(fail)
    clock.advance(31)
    assert mode.call(mode.function(breaker, lambda: "up")) == "up"
    assert breaker.state is CircuitState.CLOSED


# Several at once.


@pytest.mark.parametrize("second", [sleep_in_thread, sleep_in_asyncio, sleep_in_trio])
@pytest.mark.parametrize("first", [sleep_in_thread, sleep_in_asyncio, sleep_in_trio])
def test_two_that_wait_side_by_side_share_one_time(clock, first, second):
    """Loops and threads with different waits wake in the order of time, each at its own."""
    started, woken = clock.now(), []

    def done(seconds):
        woken.append((clock.now() - started, seconds))

    run_threads(functools.partial(first, 2, 6, done), functools.partial(second, 3, 4, done))
    assert clock.now() - started == 12
    assert [at for at, _ in woken] == sorted(at for at, _ in woken)
    assert [at for at, seconds in woken if seconds == 2] == [2, 4, 6, 8, 10, 12]
    assert [at for at, seconds in woken if seconds == 3] == [3, 6, 9, 12]


def test_a_thread_that_has_just_been_started_holds_the_clock(clock):
    """A thread's wait counts from when it was started, not from after another's wait."""
    started, woken = clock.now(), []

    def slow_to_begin():
        time.sleep(0.02)
        waits.sleep(5)
        woken.append(clock.now() - started)

    run_threads(functools.partial(sleep_in_thread, 60), slow_to_begin)
    assert woken == [5]


def test_the_thread_that_entered_holds_the_clock_until_it_blocks(clock):
    """While the test itself runs, no time passes for a thread that waits."""
    started = clock.now()
    thread = threading.Thread(target=sleep_in_thread, args=(60,))
    thread.start()
    time.sleep(0.02)
    assert clock.now() == started
    thread.join(LONG)
    assert clock.now() - started == 60


@pytest.mark.parametrize(
    "block",
    [
        lambda future: future.result(LONG),
        lambda future: concurrent.futures.wait([future], LONG),
        lambda future: _by_event(future),
        lambda future: _by_queue(future),
    ],
    ids=["result", "wait", "event", "queue"],
)
def test_a_thread_blocked_for_another_does_not_hold_the_clock(clock, block):
    """Whoever waits for the end of a thread by the standard library lets time jump."""
    real = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        block(pool.submit(sleep_in_thread, 60))
        # The pool's idle thread does not hold it either.
        waits.sleep(60)
    assert time.monotonic() - real < standstill.PATIENCE


def _by_event(future):
    event = threading.Event()
    future.add_done_callback(lambda _: event.set())
    assert event.wait(LONG)


def _by_queue(future):
    done = queue.Queue()
    future.add_done_callback(done.put)
    done.get(timeout=LONG)


def test_a_thread_stuck_where_nobody_sees_it_holds_the_clock_only_for_a_while(clock, monkeypatch):
    """A bare lock held over a wait does not stop the clock for good."""
    monkeypatch.setattr(standstill, "PATIENCE", 0.05)
    lock, started = threading.Lock(), clock.now()

    def holder():
        with lock:
            waits.sleep(60)

    def other():
        with lock:
            waits.sleep(1)

    run_threads(holder, other)
    assert clock.now() - started == 61


def test_a_thread_that_cannot_be_judged_holds_the_clock_only_for_a_while(clock, monkeypatch):
    """Where the standard library waits in a way not known here, patience decides."""

    def unknown(names, alive):
        raise KeyError("waiter")

    monkeypatch.setattr(standstill, "PATIENCE", 0.02)
    monkeypatch.setitem(standstill._RULES, ("threading", "wait"), unknown)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        real = time.monotonic()
        pool.submit(sleep_in_thread, 60).result(LONG)
        assert time.monotonic() - real >= 0.02


def test_a_foreign_thread_that_has_ended_does_not_hold_the_clock(clock):
    """What `threading` remembers of threads that it has not started is no thread."""
    ended = threading.Event()

    def foreign():
        threading.current_thread()  # enters it in the list, for good before 3.13
        ended.set()

    _thread.start_new_thread(foreign, ())
    assert ended.wait(LONG)
    real = time.monotonic()
    waits.sleep(60)
    assert time.monotonic() - real < standstill.PATIENCE


def test_a_pool_from_before_does_not_hold_the_clock():
    """Its idle thread is not waited for; a job that it runs inside is, once it waits."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(threading.get_ident).result(LONG)
        with virtual_time() as clock:
            started, real = clock.now(), time.monotonic()
            pool.submit(sleep_in_thread, 60).result(LONG)
            waits.sleep(60)
            assert clock.now() - started == 120
            assert time.monotonic() - real < standstill.PATIENCE


def test_threads_from_before_hold_the_clock_only_once_they_wait_on_it():
    """A thread of the test's surroundings is not waited for, until it takes part."""
    go, end = threading.Event(), threading.Lock()
    end.acquire()
    woken = []

    def busy():
        with end:  # nothing shows that it is blocked
            pass
        waits.sleep(5)
        woken.append(clock.now() - started)
        time.sleep(0.02)
        waits.sleep(5)
        woken.append(clock.now() - started)
        go.set()

    thread = threading.Thread(target=busy)
    thread.start()
    with virtual_time() as clock:
        started, real = clock.now(), time.monotonic()
        waits.sleep(1)
        assert time.monotonic() - real < standstill.PATIENCE
        end.release()
        assert go.wait(LONG)
        thread.join(LONG)
    assert woken == [6, 11]


def test_what_another_thread_sends_is_not_overtaken(clock):
    """A job in an executor ends before the loop's timer, however short that is."""

    async def main():
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(0.001):
            await loop.run_in_executor(None, time.sleep, 0.005)
            for _ in range(20):
                assert await asyncio.to_thread(lambda: 5) == 5

    started = clock.now()
    for _ in range(5):
        # Neither is the end of the executor by the time that asyncio gives it.
        asyncio.run(main())
    assert clock.now() == started


def test_what_another_thread_sends_to_trio_is_not_overtaken(clock):
    """A job in one of trio's threads ends before a deadline, however short that is."""

    async def main():
        with trio.fail_after(0.001):
            await trio.to_thread.run_sync(time.sleep, 0.02)
        await trio.sleep(60)  # with an idle thread of trio's around

    started, real = clock.now(), time.monotonic()
    trio.run(main, clock=clock.trio)
    assert clock.now() - started == 60
    assert time.monotonic() - real < standstill.PATIENCE


def test_an_idle_thread_of_trio_from_before_is_not_overtaken_either():
    """Trio keeps its threads for a while, and the next job may come from inside."""

    async def main():
        with trio.fail_after(0.001):
            await trio.to_thread.run_sync(time.sleep, 0.02)

    trio.run(trio.to_thread.run_sync, time.sleep, 0)
    with virtual_time() as clock:
        started = clock.now()
        trio.run(main, clock=clock.trio)
        assert clock.now() == started


def test_a_loop_without_timers_waits_for_real(clock):
    """Nothing jumps, and nothing spins, for a loop that waits for a socket."""
    here, there = socket.socketpair()
    here.setblocking(False)

    def send():
        time.sleep(0.02)
        there.send(b"x")

    async def main():
        return await asyncio.get_running_loop().sock_recv(here, 1)

    started = clock.now()
    with here, there:
        thread = threading.Thread(target=send)
        thread.start()
        assert asyncio.run(main()) == b"x"
        thread.join(LONG)
    assert clock.now() == started


def test_a_server_in_a_thread_does_not_hold_the_clock(clock):
    """A thread that waits for connections, or in a selector, lets time jump."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            server.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        real = time.monotonic()
        waits.sleep(60)
        assert time.monotonic() - real < standstill.PATIENCE
        socket.create_connection(server.getsockname()).close()
        thread.join(LONG)


def test_a_selector_in_a_thread_holds_the_clock_only_when_it_has_found_something(clock):
    """What waits for a client lets time jump; what a client has sent is not overtaken."""
    here, there = socket.socketpair()
    started, found = clock.now(), []

    def serve():
        with selectors.DefaultSelector() as selector:
            selector.register(here, selectors.EVENT_READ)
            found.extend(selector.select(LONG))
        found.append(clock.now() - started)

    with here, there:
        thread = threading.Thread(target=serve)
        thread.start()
        real = time.monotonic()
        waits.sleep(60)
        assert time.monotonic() - real < standstill.PATIENCE
        there.send(b"x")
        waits.sleep(60)
        thread.join(LONG)
    assert found[1] == 60


def test_a_lock_is_handed_over_without_time_passing(clock):
    """A wait for a lock with a time limit ends when another thread releases it."""
    lock, started, got = threading.Lock(), clock.now(), []
    lock.acquire()

    def wait():
        got.append((waits.acquire(lock, 10), clock.now() - started))
        got.append((waits.acquire(lock, 10), clock.now() - started))
        got.append((waits.acquire(lock, None), clock.now() - started))

    def release():
        waits.sleep(5)
        lock.release()
        waits.sleep(15)
        lock.release()

    run_threads(wait, release)
    assert got == [(True, 5), (False, 15), (True, 20)]
    lock.release()
    assert waits.acquire(lock, 10)
    assert not waits.acquire(lock, -1)


def test_a_busy_worker_of_the_library_holds_the_clock(clock, monkeypatch):
    """What runs in a worker is never overtaken, wherever it is blocked."""
    monkeypatch.setattr(standstill, "PATIENCE", 0.0)
    pool, started = workers.Workers(2), clock.now()
    event = threading.Event()
    run = pool.start(event.wait, LONG)
    waiter = threading.Thread(target=sleep_in_thread, args=(60,))
    waiter.start()
    waiter.join(0.05)
    assert clock.now() == started
    event.set()
    waiter.join(LONG)
    assert clock.now() - started == 60
    assert run.outcome() is True


def test_a_worker_that_waits_on_the_clock_does_not_hold_it(clock):
    """A caller's time limit passes while its worker waits in a retry."""
    pool, started = workers.Workers(1), clock.now()
    run = pool.start(waits.sleep, 60)
    assert not run.wait(5)
    assert clock.now() - started == 5
    assert run.wait(None)
    assert clock.now() - started == 60


# By hand.


@pytest.mark.parametrize("sleeper", [sleep_in_thread, sleep_in_asyncio, sleep_in_trio])
def test_advance_wakes_what_is_due(clock, sleeper):
    """Time that is moved by hand ends the waits that it passes."""
    woken, started = threading.Event(), clock.now()
    thread = threading.Thread(target=sleeper, args=(60, 1, lambda seconds: woken.set()))
    thread.start()
    while not virtual.active._world._waits:
        time.sleep(0.001)
    clock.advance(timedelta(minutes=2))
    thread.join(LONG)
    assert woken.is_set()
    assert clock.now() - started == 120


def test_advance_inside_a_loop_makes_its_timers_due(clock):
    """A coroutine may move the time, too."""

    async def main():
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        clock.advance(60)
        await asyncio.wait_for(task, 1)

    started = clock.now()
    asyncio.run(main())
    assert clock.now() - started == 60


def test_trio_s_own_jump_is_advance(clock):
    """The clock that trio has is the same in this, too."""
    started = clock.now()
    clock.trio.jump(5)
    assert clock.now() - started == 5
    assert clock.trio is clock.trio


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_is_only_moved_forwards(clock, seconds):
    """Nonsense is refused."""
    with pytest.raises(ValueError, match="seconds"):
        clock.advance(seconds)
    with pytest.raises(ValueError, match="non-negative"):
        waits.sleep(-1)


def test_a_clock_that_was_given_back_cannot_be_moved():
    """`advance` after the end is a mistake that is told."""
    with virtual_time() as clock:
        pass
    with pytest.raises(RuntimeError, match="given back"):
        clock.advance(1)


# Chance.


def test_a_seed_makes_policies_repeatable_also_those_built_before(mode):
    """The same seed, the same waits; without one they differ."""
    retry = Retry(on=OSError, attempts=6, budget=None, backoff=exponential(1, maximum=60))
    protected = mode.function(retry, no_retry)

    def waited(seed):
        with virtual_time(seed=seed) as clock:
            started = clock.now()
            with pytest.raises(OSError, match="down"):
                mode.call(protected)
            return round(clock.now() - started, 6)

    assert waited(1) == waited(1)
    assert len({waited(1), waited(2), waited(None), waited(None)}) == 4


# What is put back.


def switches() -> list[Any]:
    return [
        asyncio.selector_events.BaseSelectorEventLoop.__init__,
        chance.source,
        concurrent.futures.ThreadPoolExecutor.submit,
        core_clock.now,
        core_clock.wall,
        virtual.active,
        waits.acquire,
        waits.sleep,
    ]


def test_an_error_inside_puts_everything_back():
    """Also an error in a loop, with waits still pending, leaves real time behind."""
    before = switches()

    async def main():
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(1)
        task.cancel()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), virtual_time(seed=1), record_events():  # noqa: PT012
        assert all(one is not old for one, old in zip(switches(), before, strict=True))
        asyncio.run(main())
    assert switches() == before
    with virtual_time():
        waits.sleep(60)


def test_it_cannot_be_nested(clock):
    """A second one, in whatever thread, is refused, and the first goes on."""
    before = switches()
    with pytest.raises(RuntimeError, match="nested"), virtual_time():
        pytest.fail("entered")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        error = pool.submit(virtual_time().__enter__).exception()
    assert isinstance(error, RuntimeError)
    assert switches() == before
    waits.sleep(60)


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_it_is_entered_outside_the_loop(mode):
    """A running loop does not change its clock: that is told, not ignored."""

    async def main():
        with virtual_time():
            pytest.fail("entered")

    with pytest.raises(RuntimeError, match="outside the event loop"):
        mode.run(main)


def test_threads_that_still_wait_at_the_end_go_on():
    """No thread is left hanging in a wait that nobody will end."""
    ended = []
    with virtual_time():
        lock = threading.Lock()
        lock.acquire()
        threads = [
            threading.Thread(target=lambda: ended.append(waits.sleep(1000))),
            threading.Thread(target=lambda: ended.append(waits.acquire(lock, 1000))),
        ]
        for thread in threads:
            thread.start()
        while len(virtual.active._world._waits) < 2:
            time.sleep(0.001)
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert sorted(ended, key=str) == [False, None]


def test_a_loop_that_outlives_the_clock_goes_on_in_real_time():
    """Its timers neither jump any more nor run backwards."""
    with virtual_time() as clock:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(60))
        virtual_end = clock.now()
    real = time.monotonic()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert loop.time() >= virtual_end + 0.01
    assert time.monotonic() - real >= 0.009
    loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_waits_alone(clock):
    """The waits of the parent's other threads do not hold the child's clock."""
    thread = threading.Thread(target=sleep_in_thread, args=(60,))
    thread.start()
    while not virtual.active._world._waits:
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        started = clock.now()
        waits.sleep(100)
        os._exit(0 if clock.now() - started == 100 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join(LONG)
    # What the child does on its way, seen in this process.
    world = virtual.active._world
    world.stand(virtual.Wait(clock.now() + 5), lambda quiet: None, ran=True)
    world.after_fork()
    assert not world._waits


# Who else has a clock.


def test_a_loop_from_before_is_told_that_its_clock_goes_on():
    """A policy used on a loop with another clock raises, instead of waiting for real."""
    loop = asyncio.new_event_loop()

    @Retry(on=OSError, backoff=constant(60))
    async def fail():
        raise OSError

    with virtual_time(), pytest.raises(RuntimeError, match="loops that are made inside it"):
        loop.run_until_complete(fail())
    loop.close()


def test_trio_without_the_clock_is_told_so(clock):
    """Without `clock.trio` trio would wait for real while the policies' time stands still."""

    @Retry(on=OSError, backoff=constant(60))
    async def fail():
        raise OSError

    with pytest.raises(RuntimeError, match=r"clock=clock\.trio"):
        trio.run(fail)


@pytest.fixture
def uvloop(monkeypatch):
    """A module that looks like uvloop: its loops are not built on asyncio's."""
    module = types.ModuleType("uvloop")

    class Base:
        def __init__(self) -> None:
            self.closed = False

    class Loop(Base, asyncio.AbstractEventLoop):
        __module__ = "uvloop"

    class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
        __module__ = "uvloop"

    module.Loop, module.EventLoopPolicy = Loop, EventLoopPolicy
    monkeypatch.setitem(sys.modules, "uvloop", module)
    return module


def test_uvloop_as_the_policy_is_refused(uvloop):
    """The clock of uvloop cannot be stopped: that is told when time would become virtual."""
    policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    before = switches()
    try:
        with pytest.raises(RuntimeError, match="uvloop"), virtual_time():
            pytest.fail("entered")
    finally:
        asyncio.set_event_loop_policy(policy)
    assert switches() == before


def test_a_uvloop_made_inside_is_refused(uvloop):
    """So is a loop of its kind, until the end."""
    with virtual_time(), pytest.raises(RuntimeError, match="uvloop"):
        uvloop.Loop()
    assert "__init__" not in uvloop.Loop.__dict__
    uvloop.Loop()


def test_a_uvloop_that_was_there_before_is_refused_by_the_policies(uvloop):
    """A policy used on it says why it cannot be."""
    loop = uvloop.Loop()
    with virtual_time():
        asyncio._set_running_loop(loop)
        try:
            with pytest.raises(RuntimeError, match="uvloop"):
                core_clock.now()
        finally:
            asyncio._set_running_loop(None)


# The other switches.


def test_passthrough_takes_policies_out_of_the_way(mode):
    """Inside, a protected function is called once, and its breaker sees nothing."""
    breaker = CircuitBreaker("b", consecutive_failures=1)
    calls = []

    def fail():
        calls.append(1)
        raise OSError("down")

    protected = mode.function(Pipeline(Retry(on=OSError, attempts=3), breaker), fail)
    with passthrough(), pytest.raises(OSError, match="down"):
        mode.call(protected)
    assert len(calls) == 1
    assert breaker.state is CircuitState.CLOSED


def test_no_backoff_leaves_everything_but_the_waits(mode, clock, events):
    """All attempts are made, at once."""
    started = clock.now()
    protected = mode.function(Retry(on=OSError, attempts=3, backoff=constant(60)), no_retry)
    with no_backoff(), pytest.raises(OSError, match="down"):
        mode.call(protected)
    assert clock.now() == started
    assert [event.delay for event in events if isinstance(event, RetryScheduled)] == [0, 0]


@pytest.mark.parametrize(
    ("switch", "name"), [(passthrough, "passthrough"), (no_backoff, "no_backoff")]
)
def test_switches_nest_and_are_put_back(switch, name):
    """A flag holds until the last one who wanted it has left, in whatever order and thread."""
    first, second = switch(), switch()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert getattr(modes, name) is True
    with pytest.raises(ZeroDivisionError), switch():
        raise ZeroDivisionError
    assert getattr(modes, name) is True
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(second.__exit__, None, None, None).result()
    assert getattr(modes, name) is False


def test_events_are_recorded_while_it_lasts(mode):
    """The list has what happened inside, in order, and gets nothing more."""
    protected = mode.function(Retry(on=OSError, attempts=2, backoff=constant(0)), no_retry)
    with record_events() as events, pytest.raises(OSError, match="down"):
        mode.call(protected)
    assert [type(event) for event in events] == [RetryScheduled, RetryExhausted]
    with pytest.raises(OSError, match="down"):
        mode.call(protected)
    assert len(events) == 2
