"""The bulkhead as users meet it: in threads, asyncio and trio, decorated and as a block."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import trio
import trio.testing

from resilient import BulkheadFullError, Pipeline
from resilient._core import clock, deadline
from resilient._core.permits import Permit
from resilient._policy import Policy
from resilient._runtime import modes, permit_waits, waits
from resilient.bulkhead import Bulkhead
from resilient.events import CallRejected

ASYNC = {
    "asyncio": lambda main: asyncio.run(main()),
    "trio": lambda main: trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)),
}


@pytest.fixture(params=list(ASYNC))
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs a coroutine function, on each kind of event loop."""
    return ASYNC[request.param]


async def turn() -> None:
    """Let other tasks of this loop go on."""
    await waits.asleep(0)


def until(condition: Callable[[], bool]) -> None:
    """Let other threads go on until `condition` holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0)


async def auntil(condition: Callable[[], bool]) -> None:
    """Let other tasks and threads go on until `condition` holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        await turn()


def counts(bulkhead: Bulkhead) -> tuple[int, int]:
    snapshot = bulkhead.snapshot()
    return snapshot.active, snapshot.pending


def assert_whole(bulkhead: Bulkhead) -> None:
    """Nobody runs or waits, and exactly as many calls as the limit says can start."""
    gc.collect()
    assert counts(bulkhead) == (0, 0)
    limit = bulkhead.snapshot().limit
    permits = bulkhead._permits
    held = [permits.take() for _ in range(limit + 1)]
    assert held[-1] is None
    assert None not in held[:-1]
    for permit in held[:-1]:
        permits.give_back(permit)


class Background:
    """A function that runs in a thread of its own."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._future: Future[Any] = Future()
        self._fn = functools.partial(fn, *args)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._fn())
        except BaseException as error:
            self._future.set_exception(error)

    def result(self) -> Any:
        self._thread.join(30)
        return self._future.result(0)


def scripted(monkeypatch: pytest.MonkeyPatch, acquire: Callable[[Any, Any], bool]) -> None:
    """Put `acquire` in the place where threads wait."""
    monkeypatch.setattr(waits, "acquire", acquire)


# What it takes.


def test_a_bulkhead_without_its_call() -> None:
    with pytest.raises(TypeError, match=r"did you mean @Bulkhead\(10\) above it\?"):
        Bulkhead(lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one(limit: int) -> None:
    with pytest.raises(ValueError, match="max_concurrent must be at least 1"):
        Bulkhead(limit)


@pytest.mark.parametrize("value", [1.5, True, "3", None])
def test_a_limit_that_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match="max_concurrent must be a whole number"):
        Bulkhead(value)


def test_options_out_of_range() -> None:
    with pytest.raises(ValueError, match="max_queue must be at least 0"):
        Bulkhead(1, max_queue=-1)
    with pytest.raises(ValueError, match="max_wait"):
        Bulkhead(1, max_queue=1, max_wait=-1)


def test_a_wait_without_a_queue() -> None:
    """`max_wait` alone would never be used; the error says what to write."""
    with pytest.raises(ValueError, match=r"write Bulkhead\(7, max_queue=\.\.\., max_wait=5\)"):
        Bulkhead(7, max_wait=5)


def test_what_it_shows() -> None:
    bulkhead = Bulkhead(2, name="db")
    with bulkhead.guard():
        shown = bulkhead.snapshot()
    assert (shown.name, shown.kind, shown.active, shown.pending, shown.limit) == (
        "db", "bulkhead", 1, 0, 2,
    )  # fmt: skip
    assert bulkhead.stateful
    assert bulkhead._idle()


# Refusals.


def rejections(bulkhead: Bulkhead) -> list[CallRejected]:
    seen: list[Any] = []
    bulkhead.subscribe(seen.append)
    return seen


def test_what_does_not_fit_is_refused() -> None:
    """Without a queue the call beyond the limit is refused, told and never made."""
    bulkhead = Bulkhead(1, name="db")
    seen = rejections(bulkhead)
    calls: list[int] = []
    protected = bulkhead(calls.append)
    guard = bulkhead.guard()
    with guard, pytest.raises(BulkheadFullError, match="db is full: all calls") as caught:
        protected(1)
    assert caught.value.policy == "db"
    assert caught.value.retry_after is None
    assert caught.value.__context__ is None
    assert calls == []
    [event] = seen
    assert (event.reason, event.retry_after, event.policy) == ("bulkhead_full", None, "db")
    protected(2)
    assert calls == [2]


def test_what_does_not_fit_is_refused_on_a_loop(run: Any) -> None:
    bulkhead = Bulkhead(1, name="db")
    seen = rejections(bulkhead)

    @bulkhead
    async def load() -> int:
        return 1

    async def main() -> None:
        async with bulkhead.guard():
            with pytest.raises(BulkheadFullError) as caught:
                await load()
        assert caught.value.__context__ is None
        assert await load() == 1

    run(main)
    assert [event.reason for event in seen] == ["bulkhead_full"]
    assert_whole(bulkhead)


def test_a_full_queue_refuses_at_once(run: Any) -> None:
    """Who finds the queue full does not wait."""
    bulkhead = Bulkhead(1, max_queue=1)
    seen = rejections(bulkhead)

    async def main() -> None:
        async with Tasks(run) as start, bulkhead.guard():
            start(enter, bulkhead)
            await auntil(lambda: counts(bulkhead) == (1, 1))
            with pytest.raises(BulkheadFullError, match="its queue of 1 is full"):
                await enter(bulkhead)
            # Also a thread that may not wait here: it would not have to.
            with pytest.raises(BulkheadFullError, match="its queue of 1 is full"):
                bulkhead.guard().__enter__()

    run(main)
    assert len(seen) == 2
    assert_whole(bulkhead)


async def enter(bulkhead: Bulkhead) -> None:
    async with bulkhead.guard():
        await turn()


class Tasks:
    """A nursery, or its like on asyncio: `start(fn, *args)`, and all have ended at the end."""

    def __init__(self, run: Any) -> None:
        self._trio = run is ASYNC["trio"]
        self.tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Callable[..., Any]:
        if self._trio:
            self._manager = trio.open_nursery()
            return (await self._manager.__aenter__()).start_soon
        return lambda fn, *args: self.tasks.append(asyncio.create_task(fn(*args)))

    async def __aexit__(self, *exc: object) -> Any:
        if self._trio:
            return await self._manager.__aexit__(*exc)
        await asyncio.gather(*self.tasks)
        return False


# Waiting.


def test_one_queue_over_threads_and_loops() -> None:
    """Threads, two asyncio loops and a trio run are served in the order of arrival."""
    bulkhead = Bulkhead(1, max_queue=10)
    order: list[int] = []

    def thread(number: int) -> None:
        with bulkhead.guard():
            order.append(number)

    async def task(number: int) -> None:
        async with bulkhead.guard():
            order.append(number)

    kinds = [
        thread,
        lambda number: asyncio.run(task(number)),
        lambda number: trio.run(task, number),
    ]
    with bulkhead.guard():
        waiting = []
        for number in range(9):
            waiting.append(Background(kinds[number % 3], number))
            until(lambda: counts(bulkhead) == (1, number + 1))  # noqa: B023
    for one in waiting:
        one.result()
    assert order == list(range(9))
    assert_whole(bulkhead)


def test_a_newcomer_does_not_pass_the_queue() -> None:
    """Between a permit's return and its grant it is the first waiter's already."""
    bulkhead = Bulkhead(1, max_queue=2)
    order: list[str] = []

    @bulkhead
    async def work(who: str) -> None:
        order.append(who)

    async def main() -> None:
        permits = bulkhead._permits
        permit = permits.take()
        assert permit is not None
        waiting = asyncio.create_task(work("waiter"))
        await auntil(lambda: counts(bulkhead) == (1, 1))
        permits.free.append(permit)  # a release, stopped half-way
        with pytest.raises(RuntimeError, match="is full"):
            bulkhead.call(order.append, "sync newcomer")
        await work("newcomer")
        await waiting

    asyncio.run(main())
    assert order == ["waiter", "newcomer"]


def test_an_async_newcomer_does_not_pass_the_queue() -> None:
    bulkhead = Bulkhead(1, max_queue=2)
    order: list[str] = []

    @bulkhead
    async def work(who: str) -> None:
        order.append(who)

    async def main() -> None:
        permits = bulkhead._permits
        permit = permits.take()
        assert permit is not None
        waiting = asyncio.create_task(work("waiter"))
        await auntil(lambda: counts(bulkhead) == (1, 1))
        permits.free.append(permit)  # a release, stopped half-way
        await work("newcomer")
        await waiting

    asyncio.run(main())
    assert order == ["waiter", "newcomer"]


def test_a_wait_that_is_over_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread waits `max_wait` seconds, and then the error says so."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=3)
    asked: list[Any] = []

    def never(lock: Any, timeout: Any) -> bool:
        asked.append(timeout)
        return False

    scripted(monkeypatch, never)
    seen = rejections(bulkhead)
    over = pytest.raises(BulkheadFullError, match=r"in vain for max_wait=3\.0 s")
    with bulkhead.guard(), over:
        bulkhead.call(int)
    assert asked == [3.0]
    assert [event.reason for event in seen] == ["bulkhead_full"]
    assert_whole(bulkhead)


def test_a_wait_that_is_over_refuses_on_a_loop(run: Any) -> None:
    bulkhead = Bulkhead(1, max_queue=1, max_wait=0.001)

    async def main() -> None:
        async with bulkhead.guard():
            with pytest.raises(BulkheadFullError, match=r"in vain for max_wait=0\.001 s"):
                await enter(bulkhead)

    run(main)
    assert_whole(bulkhead)


@pytest.fixture
def within() -> Iterator[Callable[[float], None]]:
    """Sets a deadline so many seconds ahead."""
    token = deadline.current.set(None)

    def set_deadline(seconds: float) -> None:
        deadline.current.set(deadline.Deadline(clock.now() + seconds, None, "total", seconds))

    yield set_deadline
    deadline.current.reset(token)


@pytest.mark.parametrize(
    ("max_wait", "left", "bound", "text"),
    [
        (None, 5, 5, "the deadline of total came before the call's turn"),
        (9, 5, 5, "the deadline of total came before the call's turn"),
        (3, 5, 3, "max_wait=3.0 s"),
        (9, -1, 0, "the deadline of total came before the call's turn"),
    ],
)
def test_the_nearer_of_wait_and_deadline(
    monkeypatch: pytest.MonkeyPatch, within: Any, max_wait: Any, left: Any, bound: Any, text: str
) -> None:
    """A thread waits no longer than the nearest deadline, and the error says which it was."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=max_wait)
    asked: list[float] = []

    def never(lock: Any, timeout: float) -> bool:
        asked.append(timeout)
        return False

    scripted(monkeypatch, never)
    monkeypatch.setattr(clock, "now", lambda: 1000.0)
    within(left)
    with bulkhead.guard(), pytest.raises(BulkheadFullError, match=text):
        bulkhead.call(int)
    assert asked == [bound]


def test_a_real_thread_gives_up() -> None:
    """The wait itself is bounded, however long."""
    lock = threading.Lock()
    assert waits.acquire(lock, 10**12)
    assert not waits.acquire(lock, 0.0)


def test_a_grant_at_the_last_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread whose time is up, but who was granted a permit meanwhile, runs."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=3)
    guard = bulkhead.guard()

    def too_late(lock: Any, timeout: Any) -> bool:
        guard.__exit__(None, None, None)
        return False

    scripted(monkeypatch, too_late)
    with guard:
        assert bulkhead.call(lambda: 5) == 5
    assert_whole(bulkhead)


def test_the_end_of_the_wait_does_not_cancel() -> None:
    """A task whose timer fires in the same turn as its grant runs: it is only woken."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=3600)

    async def main() -> None:
        guard = bulkhead.guard()
        guard.__enter__()
        task = asyncio.create_task(bulkhead.acall(number))
        await auntil(lambda: counts(bulkhead) == (1, 1))
        waiter = next(iter(bulkhead._permits.waiting))
        permit_waits._finish(waiter.future)  # type: ignore[attr-defined]
        guard.__exit__(None, None, None)
        assert await task == 5

    asyncio.run(main())
    assert_whole(bulkhead)


async def number() -> int:
    return 5


def test_a_grant_to_a_cancelled_task_is_passed_on() -> None:
    """Granted and cancelled in the same turn: the cancellation wins, the permit goes on."""
    bulkhead = Bulkhead(1, max_queue=2)

    async def main() -> None:
        guard = bulkhead.guard()
        guard.__enter__()
        cancelled = asyncio.create_task(bulkhead.acall(number))
        served = asyncio.create_task(bulkhead.acall(number))
        await auntil(lambda: counts(bulkhead) == (1, 2))
        guard.__exit__(None, None, None)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await served == 5

    asyncio.run(main())
    assert_whole(bulkhead)


def test_an_interrupt_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while waiting leaves the queue, also when the grant has come already."""
    bulkhead = Bulkhead(1, max_queue=1)
    guard = bulkhead.guard()

    def interrupt(lock: Any, timeout: Any) -> bool:
        raise KeyboardInterrupt

    def grant_and_interrupt(lock: Any, timeout: Any) -> bool:
        guard.__exit__(None, None, None)
        raise KeyboardInterrupt

    with guard:
        for acquire in (interrupt, grant_and_interrupt):
            scripted(monkeypatch, acquire)
            with pytest.raises(KeyboardInterrupt):
                bulkhead.call(int)
    assert_whole(bulkhead)


class Struck(deque[Permit]):
    """Free permits, where a signal strikes as soon as one has come back."""

    def append(self, permit: Permit) -> None:  # type: ignore[override]
        super().append(permit)
        raise KeyboardInterrupt


@pytest.mark.parametrize("struck", [False, True])
def test_the_end_of_a_call_serves_the_queue(struck: bool) -> None:
    """Whose call ends lets the first waiter run, also if Ctrl-C comes in between."""
    bulkhead = Bulkhead(1, max_queue=1)
    waiting: list[Background] = []

    @bulkhead
    def hold() -> None:
        waiting.append(Background(bulkhead.guard().__enter__))
        until(lambda: counts(bulkhead) == (1, 1))
        if struck:
            bulkhead._permits.free = Struck()

    with pytest.raises(KeyboardInterrupt) if struck else nullcontext():
        hold()
    bulkhead._permits.free = deque(bulkhead._permits.free)
    guard = waiting.pop().result()
    assert counts(bulkhead) == (1, 0)
    guard.__exit__(None, None, None)
    assert_whole(bulkhead)


@pytest.mark.parametrize("struck", [False, True])
def test_the_end_of_a_coroutine_serves_the_queue(struck: bool) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    waiting: list[Background] = []

    @bulkhead
    async def hold() -> None:
        waiting.append(Background(bulkhead.guard().__enter__))
        until(lambda: counts(bulkhead) == (1, 1))
        if struck:
            bulkhead._permits.free = Struck()

    coroutine = hold()
    with pytest.raises(KeyboardInterrupt if struck else StopIteration):
        coroutine.send(None)
    bulkhead._permits.free = deque(bulkhead._permits.free)
    guard = waiting.pop().result()
    assert counts(bulkhead) == (1, 0)
    guard.__exit__(None, None, None)
    assert_whole(bulkhead)


def test_a_thread_that_runs_a_loop_does_not_wait(run: Any) -> None:
    """A sync call in a loop takes a free permit, but raises where it would stop the loop."""
    bulkhead = Bulkhead(1, max_queue=1, name="db")

    async def main() -> None:
        assert bulkhead.call(lambda: 5) == 5
        async with bulkhead.guard():
            with pytest.raises(RuntimeError, match="`async def`, write `async with`"):
                bulkhead.call(int)

    run(main)
    assert_whole(bulkhead)


# Nothing is lost.


def test_cancelled_tasks_lose_no_permit(run: Any) -> None:
    """1,000 waiters and 1,000 holders, cancelled at random points, leave the limit whole."""
    bulkhead = Bulkhead(5, max_queue=2000)
    dice = random.Random(3)
    inside: list[None] = []
    most = 0

    async def work(steps: int) -> None:
        nonlocal most
        async with bulkhead.guard():
            inside.append(None)
            most = max(most, len(inside))
            try:
                for _ in range(steps):
                    await turn()
            finally:
                inside.pop()

    async def main() -> None:
        for _ in range(40):
            doomed: list[Callable[[], Any]] = []
            async with Tasks(run) as start:
                for _ in range(50):
                    start(cancellable, run, doomed, functools.partial(work, dice.randrange(4)))
                await turn()
                while doomed:
                    doomed.pop(dice.randrange(len(doomed)))()
                    if dice.random() < 0.5:
                        await turn()

    run(main)
    assert 1 <= most <= 5
    assert_whole(bulkhead)


async def cancellable(run: Any, doomed: list[Callable[[], Any]], work: Callable[[], Any]) -> None:
    """Run `work`, and put what cancels it into `doomed`."""
    if run is ASYNC["trio"]:
        with trio.CancelScope() as scope:
            doomed.append(scope.cancel)
            await work()
        return
    task = asyncio.ensure_future(work())
    doomed.append(task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def test_interrupted_threads_lose_no_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads interrupted at random, while they wait or while they run, leave it whole."""
    bulkhead = Bulkhead(3, max_queue=100)
    dice = random.Random(5)
    real = waits.acquire

    def acquire(lock: Any, timeout: Any) -> bool:
        before, after = dice.random() < 0.2, dice.random() < 0.2
        if before or not real(lock, timeout) or after:
            raise KeyboardInterrupt
        return True

    @bulkhead
    def work() -> None:
        if dice.random() < 0.3:
            raise KeyboardInterrupt

    def many() -> None:
        barrier.wait()
        for _ in range(125):
            with suppress(KeyboardInterrupt):
                work()

    scripted(monkeypatch, acquire)
    barrier = threading.Barrier(8)
    with Switching():
        for one in [Background(many) for _ in range(8)]:
            one.result()
    assert_whole(bulkhead)


class Switching:
    """Threads take turns as often as they can."""

    def __enter__(self) -> None:
        self._before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)

    def __exit__(self, *exc: object) -> None:
        sys.setswitchinterval(self._before)


def test_a_loop_that_dies_with_waiters() -> None:
    """Waiters of a closed loop are passed over, and the next one alive is served."""
    bulkhead = Bulkhead(1, max_queue=20)
    guard = bulkhead.guard()
    guard.__enter__()
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(bulkhead.acall(number)) for _ in range(10)]
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(auntil(lambda: counts(bulkhead) == (1, 10)))
    loop.close()
    alive = Background(bulkhead(lambda: 7))
    until(lambda: counts(bulkhead) == (1, 11))
    guard.__exit__(None, None, None)
    assert alive.result() == 7
    del tasks, task
    assert_whole(bulkhead)


def test_a_grant_to_a_loop_that_is_never_run_again() -> None:
    """A loop that only stopped can be granted a permit; it comes back when it is collected."""
    bulkhead = Bulkhead(1, max_queue=1)
    guard = bulkhead.guard()
    guard.__enter__()
    loop = asyncio.new_event_loop()
    task = loop.create_task(bulkhead.acall(number))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(auntil(lambda: counts(bulkhead) == (1, 1)))
    guard.__exit__(None, None, None)
    assert counts(bulkhead) == (1, 0)
    loop.close()
    del loop, task
    assert_whole(bulkhead)


def test_a_trio_run_that_is_over() -> None:
    """A waiter whose trio run has ended says so when it is to be woken."""

    async def main() -> permit_waits.TrioWaiter:
        return permit_waits.TrioWaiter(trio)

    assert trio.run(main).wake() is False


def test_waking_twice_does_no_harm() -> None:
    """Two threads may deliver one grant."""
    waiter = permit_waits.ThreadWaiter()
    assert waiter.wake()
    assert waiter.wake()

    async def main() -> None:
        task = permit_waits.TaskWaiter()
        assert task.wake()
        assert task.wake()
        await task.future
        await turn()

    asyncio.run(main())


def test_a_queue_that_fills_up_meanwhile(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the queue and joining it another call may take the last place."""
    bulkhead = Bulkhead(1, max_queue=1)
    monkeypatch.setattr(type(bulkhead._permits), "join", lambda *_: False)
    with bulkhead.guard(), pytest.raises(BulkheadFullError, match="its queue of 1 is full"):
        bulkhead.call(int)

    async def main() -> None:
        async with bulkhead.guard():
            with pytest.raises(BulkheadFullError, match="its queue of 1 is full"):
                await enter(bulkhead)

    run(main)


def test_one_count_over_threads_and_loops() -> None:
    """Threads, asyncio loops and a trio run together never pass the limit, and all finish."""
    bulkhead = Bulkhead(3, max_queue=1000)
    inside: list[None] = []
    peaks: list[int] = []
    done: list[None] = []

    def step_in() -> None:
        inside.append(None)
        peaks.append(len(inside))

    @bulkhead
    def work() -> None:
        step_in()
        inside.pop()
        done.append(None)

    @bulkhead
    async def awork() -> None:
        step_in()
        await turn()
        inside.pop()
        done.append(None)

    def thread() -> None:
        for _ in range(100):
            work()

    async def tasks() -> None:
        await asyncio.gather(*(awork() for _ in range(100)))

    async def nursery() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(awork)

    kinds = [thread, thread, lambda: asyncio.run(tasks()), lambda: asyncio.run(tasks()),
             lambda: trio.run(nursery)]  # fmt: skip
    with Switching():
        for one in [Background(kind) for kind in kinds]:
            one.result()
    assert len(done) == 500
    assert 1 <= max(peaks) <= 3
    assert_whole(bulkhead)


def test_a_block_that_is_never_left() -> None:
    """A guard that is collected without an exit gives its permit back."""
    bulkhead = Bulkhead(1)
    guard = bulkhead.guard()
    guard.__enter__()
    with pytest.raises(BulkheadFullError):
        bulkhead.call(int)
    del guard
    assert_whole(bulkhead)


def test_a_collected_bulkhead_goes_for_good() -> None:
    """Its permits do not revive a bulkhead, not even those in use."""
    bulkhead = Bulkhead(2)
    guard = bulkhead.guard()
    guard.__enter__()
    permit = guard._permit
    del bulkhead, guard
    gc.collect()
    assert permit is not None
    assert permit() is None


# Blocks and streams.


def test_a_block_left_in_another_thread() -> None:
    bulkhead = Bulkhead(1)
    guard = bulkhead.guard()
    guard.__enter__()
    Background(guard.__exit__, None, None, None).result()
    guard.__exit__(None, None, None)  # the second exit has nothing to give back
    assert_whole(bulkhead)


def test_a_guard_serves_one_block(run: Any) -> None:
    bulkhead = Bulkhead(2)
    guard = bulkhead.guard()
    with guard, pytest.raises(RuntimeError, match="call guard"):
        guard.__enter__()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="call guard"):
            await guard.__aenter__()

    run(main)
    assert_whole(bulkhead)


def test_passthrough(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all policies out of the way a block takes no permit."""
    monkeypatch.setattr(modes, "passthrough", True)
    bulkhead = Bulkhead(1)

    async def main() -> None:
        with bulkhead.guard(), bulkhead.guard():
            async with bulkhead.guard():
                assert counts(bulkhead) == (0, 0)

    run(main)


def test_a_generator_holds_its_permit() -> None:
    """From the first step until it is exhausted or closed; unstarted it holds nothing."""
    bulkhead = Bulkhead(1)

    @bulkhead
    def items() -> Iterator[int]:
        yield 1
        yield 2

    unstarted, first, second = items(), items(), items()
    assert next(first) == 1
    assert counts(bulkhead) == (1, 0)
    with pytest.raises(BulkheadFullError):
        next(second)
    assert list(first) == [2]
    assert counts(bulkhead) == (0, 0)
    closed = items()
    next(closed)
    closed.close()
    unstarted.close()
    assert_whole(bulkhead)


def test_an_async_generator_holds_its_permit(run: Any) -> None:
    bulkhead = Bulkhead(1)

    @bulkhead
    async def items() -> Any:
        yield 1
        yield 2

    async def main() -> None:
        first, second = items(), items()
        assert await anext(first) == 1
        assert counts(bulkhead) == (1, 0)
        with pytest.raises(BulkheadFullError):
            await anext(second)
        assert [item async for item in first] == [2]
        assert counts(bulkhead) == (0, 0)
        closed = items()
        await anext(closed)
        await closed.aclose()

    run(main)
    assert_whole(bulkhead)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_call_that_fails_gives_its_permit_back(run: Any, error: type[BaseException]) -> None:
    bulkhead = Bulkhead(1)

    @bulkhead
    def fail() -> None:
        raise error

    @bulkhead
    async def afail() -> None:
        raise ValueError

    async def main() -> None:
        with pytest.raises(ValueError):
            await afail()

    with pytest.raises(error):
        fail()
    run(main)
    assert_whole(bulkhead)


# Workers and forks.


class Worker:
    """A worker thread's run, as far as a permit is concerned."""

    def __init__(self) -> None:
        self.done = False
        self._callback: Any = None

    def add_done_callback(self, fn: Any) -> None:
        self._callback = fn

    def end(self) -> None:
        self.done = True
        self._callback(self)


class GivesUp(Policy[Any, Any]):
    """A timeout that gives up on its worker at once."""

    def __init__(self, worker: Worker) -> None:
        super().__init__("timeout")
        self._worker = worker

    def wrap(self, inner: Any) -> Any:
        def give_up(args: Any, kwargs: Any, call: Any) -> Any:
            call.abandoned = [self._worker]
            raise TimeoutError

        return give_up


def test_a_permit_is_held_for_an_abandoned_worker() -> None:
    """Around a timeout by thread the call is over when its worker is."""
    bulkhead, worker = Bulkhead(1), Worker()
    protected = Pipeline(bulkhead, GivesUp(worker))(lambda: None)
    with pytest.raises(TimeoutError):
        protected()
    with pytest.raises(BulkheadFullError):
        protected()
    worker.end()
    assert_whole(bulkhead)


def test_a_fork_starts_afresh() -> None:
    """What was held or waiting at the fork is not the child's, and does not come back to it."""
    bulkhead = Bulkhead(2, max_queue=1)
    held = bulkhead._permits.take()
    assert held is not None

    @bulkhead
    def fork_inside() -> tuple[int, int]:
        bulkhead.after_fork()
        return counts(bulkhead)

    assert fork_inside() == (0, 0)
    assert_whole(bulkhead)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_full_permits() -> None:
    bulkhead = Bulkhead(1)
    with bulkhead._permits._lock:  # as if another thread held it
        permits = bulkhead._permits
        child = os.fork()
        if child == 0:
            fresh = bulkhead._permits is not permits and bulkhead.call(lambda: 7) == 7
            os._exit(0 if fresh else 1)
    assert os.waitpid(child, 0)[1] == 0
