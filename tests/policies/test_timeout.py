"""A call gets no more time than its timeout gives, and nothing of it is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import pickle
import threading
import traceback
import weakref
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Any

import pytest
import trio

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    CircuitState,
    Pipeline,
    Retry,
    WorkersExhaustedError,
    remaining,
)
from resilient._core import clock as core_clock
from resilient._core import deadline
from resilient._runtime import modes, timers, waits, workers
from resilient.events import CallOverran, CallRejected, CallTimedOut
from resilient.timeout import Timeout

from tests.policies import timeout_trees

BOTH_LOOPS = pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)


def timeout(mode: Any, seconds: float, **options: Any) -> Timeout:
    """A timeout that interrupts, in whatever way the mode has for it."""
    return Timeout(seconds, sync=None if mode.is_async else "thread", **options)


# What it is built from.


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), timedelta(0)])
def test_refuses_times_that_make_no_sense(bad: Any) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Timeout(bad)


def test_takes_a_timedelta_and_shows_seconds() -> None:
    assert Timeout(timedelta(milliseconds=1500)).seconds == 1.5


def test_refuses_wrong_options() -> None:
    with pytest.raises(ValueError, match='"thread", "deadline" or None'):
        Timeout(1, sync="process")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r'max_workers.*needs sync="thread"'):
        Timeout(1, sync="deadline", max_workers=3)
    with pytest.raises(ValueError, match="max_workers"):
        Timeout(1, sync="thread", max_workers=0)
    with pytest.raises(TypeError, match="must be a number of seconds"):
        Timeout("1")  # type: ignore[arg-type]


def test_without_its_call_says_how_to_write_it() -> None:
    with pytest.raises(TypeError, match=r"did you mean @Timeout\(10\)"):

        @Timeout  # type: ignore[arg-type]
        def load() -> None: ...


def test_plain_functions_need_a_choice() -> None:
    """The text says what to write, what each choice means, and why it is needed."""
    for use in (Timeout(1), Timeout(1).call):
        with pytest.raises(TypeError) as caught:
            use(lambda: None)
        text = str(caught.value)
        for part in ('sync="thread"', 'sync="deadline"', "remaining()", "interrupt", "safely"):
            assert part in text


def test_generator_functions_need_a_deadline() -> None:
    def items() -> Any:
        yield 1

    with pytest.raises(TypeError, match='sync="deadline"'):
        Timeout(1, sync="thread")(items)
    with pytest.raises(TypeError, match='sync="deadline"'):
        Timeout(1)(items)


def test_plain_with_needs_a_deadline() -> None:
    for policy in (Timeout(1), Timeout(1, sync="thread")):
        with pytest.raises(TypeError, match=r"async with timeout\.guard\(\)"):
            policy.guard().__enter__()


# In every mode.


def test_returns_what_comes_in_time(mode: Any, clock: Any) -> None:
    def load(value: int) -> Any:
        yield 0.5
        return value

    assert mode.call(mode.function(timeout(mode, 1), load), 7) == 7


def test_raises_when_the_time_is_up(mode: Any, clock: Any, events: list[Any]) -> None:
    """The error names the policy and the time, and the event is told once."""

    def hang() -> Any:
        yield 5

    policy = timeout(mode, 2, name="short")
    start = clock.now()
    with pytest.raises(CallTimeoutError) as caught:
        mode.call(mode.function(policy, hang))
    assert clock.now() - start == pytest.approx(2)
    error = caught.value
    assert (error.policy, error.seconds) == ("short", 2.0)
    assert isinstance(error, TimeoutError)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.policy, copy.seconds, str(copy)) == ("short", 2.0, str(error))
    [event] = events
    assert type(event) is CallTimedOut
    assert (event.policy, event.function, event.seconds) == ("short", hang.__qualname__, 2.0)


def test_a_users_own_timeout_error_is_not_ours(mode: Any, clock: Any, events: list[Any]) -> None:
    mine = TimeoutError("mine")

    def load() -> Any:
        yield 0.1
        raise mine

    with pytest.raises(TimeoutError) as caught:
        mode.call(mode.function(timeout(mode, 1), load))
    assert caught.value is mine
    assert events == []


def test_remaining_is_told_inside_and_forgotten_outside(mode: Any, clock: Any) -> None:
    def look() -> Any:
        before = remaining()
        yield 0.5
        return before, remaining()

    before, after = mode.call(mode.function(timeout(mode, 2), look))
    assert (before, after) == (pytest.approx(2), pytest.approx(1.5))
    assert remaining() is None


@BOTH_LOOPS
def test_calls_in_a_row_leave_no_deadline_between_them(mode: Any, clock: Any) -> None:
    """Neither alone nor inside a longer one, which is in force again after each."""

    async def main() -> list[Any]:
        seen = []

        async def several() -> None:
            for _ in range(3):
                await Timeout(1).acall(waits.asleep, 0.5)
                seen.append(remaining())

        await several()
        await Timeout(9).acall(several)
        seen.append(remaining())
        return seen

    assert mode.run(main) == [None] * 3 + [pytest.approx(left) for left in (8.5, 8, 7.5)] + [None]


def test_the_inner_of_two_that_is_shorter_ends_the_call(mode: Any, clock: Any) -> None:
    def hang() -> Any:
        yield 9

    policy = Pipeline(timeout(mode, 3, name="outer"), timeout(mode, 1, name="inner"))
    with pytest.raises(CallTimeoutError) as caught:
        mode.call(mode.function(policy, hang))
    assert caught.value.policy == "inner"


def test_an_outer_timeout_ends_the_attempts_of_a_retry(mode: Any, clock: Any) -> None:
    made = []

    def hang() -> Any:
        made.append(remaining())
        yield 9

    policy = Pipeline(
        timeout(mode, 5, name="total"),
        Retry(on=CallTimeoutError, attempts=9, backoff=[0] * 8, budget=None),
        timeout(mode, 2, name="each"),
    )
    with pytest.raises(CallTimeoutError) as caught:
        mode.call(mode.function(policy, hang))
    assert caught.value.policy == "total"
    assert made == [pytest.approx(2), pytest.approx(2), pytest.approx(1)]


def test_nothing_begins_after_an_enclosing_deadline(mode: Any, clock: Any) -> None:
    """The error bears the name of the timeout that ran out, and the function is not called."""
    ran = []
    inner = mode.function(timeout(mode, 5, name="inner"), lambda: ran.append(1))
    record = deadline.Deadline(core_clock.now() - 1, None, "outer", 3.0)
    token = deadline.current.set(record)
    try:
        with pytest.raises(CallTimeoutError) as caught:
            mode.call(inner)
    finally:
        deadline.current.reset(token)
    assert (caught.value.policy, caught.value.seconds) == ("outer", 3.0)
    assert ran == []


def test_a_dead_deadline_stops_nobody(mode: Any, clock: Any) -> None:
    """A record whose call has ended says nothing, wherever it was inherited."""
    record = deadline.Deadline(core_clock.now() - 1, None, "outer", 3.0)
    record.ended = True
    token = deadline.current.set(record)
    try:
        assert mode.call(mode.function(timeout(mode, 5), lambda: 7)) == 7
    finally:
        deadline.current.reset(token)


def test_a_breaker_inside_counts_a_hang(mode: Any, clock: Any) -> None:
    """And one outside does too, although its `on` does not match."""

    def hang() -> Any:
        yield 9

    outside = CircuitBreaker(on=KeyError, consecutive_failures=1)
    inside = CircuitBreaker(on=KeyError, consecutive_failures=1)
    policy = Pipeline(outside, timeout(mode, 1), inside)
    with pytest.raises(CallTimeoutError):
        mode.call(mode.function(policy, hang))
    assert (outside.state, inside.state) == (CircuitState.OPEN, CircuitState.OPEN)


def test_passthrough_takes_the_guard_out_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "passthrough", True)

    async def block() -> float | None:
        async with Timeout(1).guard():
            return remaining()

    assert asyncio.run(block()) is None
    with Timeout(1, sync="deadline").guard():
        assert remaining() is None


# Coroutines.


@BOTH_LOOPS
def test_a_body_that_swallows_the_cancellation_keeps_its_result(mode: Any, clock: Any) -> None:
    async def stubborn() -> str:
        try:
            await waits.asleep(9)
        except BaseException as error:
            if not waits.is_cancellation(error):
                raise
        return "kept"

    async def main() -> str:
        result: str = await Timeout(1).acall(stubborn)
        await waits.asleep(1)  # and no cancellation is left over
        return result

    assert mode.run(main) == "kept"


@BOTH_LOOPS
def test_the_error_says_where_the_call_was_waiting(mode: Any, clock: Any) -> None:
    async def the_slow_place() -> None:
        await waits.asleep(9)

    async def main() -> str:
        with pytest.raises(CallTimeoutError) as caught:
            await Timeout(1).acall(the_slow_place)
        cause = caught.value.__cause__
        assert cause is not None
        return "".join(traceback.format_exception(cause))

    assert "the_slow_place" in mode.run(main)


@BOTH_LOOPS
def test_a_block_is_cancelled(mode: Any, clock: Any, events: list[Any]) -> None:
    async def main() -> float:
        policy = Timeout(2, name="block")
        guard = policy.guard()
        told = []

        async def block() -> None:
            async with guard:
                told.append(remaining())
                await waits.asleep(9)

        with pytest.raises(CallTimeoutError, match="block"):
            await block()
        assert told == [pytest.approx(2)]
        with pytest.raises(RuntimeError, match="one block"):
            await guard.__aenter__()
        async with policy.guard():
            pass
        return clock.now()

    start = clock.now()
    assert mode.run(main) - start == pytest.approx(2)
    assert [type(event) for event in events] == [CallTimedOut]


def test_the_callers_cancellation_wins_when_both_come_together() -> None:
    """The timer and the caller strike in the same turn of the loop, in either order."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay in (1.0, 1.0 - 1e-12):
            started = asyncio.Event()

            async def hang(started: asyncio.Event = started) -> None:
                started.set()
                await asyncio.sleep(9)

            task = loop.create_task(Timeout(1).acall(hang))
            await started.wait()
            loop.call_later(delay, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelling() == 1

    with pytest.MonkeyPatch.context() as patch:
        timeout_trees.run(patch, main)


def test_on_trio_the_callers_cancellation_wins(clock: Any) -> None:
    async def main() -> bool:
        with trio.move_on_after(1) as scope:
            await Timeout(1).acall(trio.sleep, 9)
        return scope.cancelled_caught

    assert trio.run(main, clock=clock.trio)


def test_a_task_started_inside_does_not_inherit_a_dead_deadline(clock: Any) -> None:
    async def main() -> None:
        go, seen = asyncio.Event(), []

        async def background() -> None:
            seen.append(remaining())
            await go.wait()
            seen.append(remaining())
            seen.append(await Timeout(5).acall(asyncio.sleep, 0, "made"))

        async def body() -> asyncio.Task[None]:
            task = asyncio.create_task(background())
            await asyncio.sleep(0.1)
            return task

        task = await Timeout(1).acall(body)
        await asyncio.sleep(5)
        go.set()
        await task
        assert seen == [pytest.approx(1), None, "made"]

    asyncio.run(main())


def test_an_earlier_cancellation_is_not_counted_again() -> None:
    """A task that was cancelled before, and went on, is timed out like any other."""

    async def body() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(9)
        with pytest.raises(CallTimeoutError):
            await Timeout(1).acall(asyncio.sleep, 9)

    async def main() -> None:
        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        task.cancel()
        await task
        assert task.cancelling() == 1

    with pytest.MonkeyPatch.context() as patch:
        timeout_trees.run(patch, main)


def test_a_record_that_lives_on_keeps_no_other() -> None:
    """A task started inside holds the record; its neighbours in the queue must be free."""

    async def main() -> None:
        policy = Timeout(30)
        records: list[Any] = []

        async def body() -> None:
            records.append(deadline.current.get())
            await asyncio.sleep(0)

        await asyncio.gather(*(policy.acall(body) for _ in range(3)))
        for record in records:
            assert (record.before, record.after, record.task) == (None, None, None)

    asyncio.run(main())


def test_random_trees_have_no_more_defects_than_asyncio() -> None:
    """Nested timeouts, cleanups, swallowed cancellations, and callers that cancel."""

    async def main() -> tuple[list[str], list[str]]:
        ours, theirs = [], []
        for tree, moments in timeout_trees.cases(seed=7, number=500):
            ours += await timeout_trees.defects(True, tree, moments)
            theirs += await timeout_trees.defects(False, tree, moments)
        return ours, theirs

    with pytest.MonkeyPatch.context() as patch:
        ours, theirs = timeout_trees.run(patch, main)
    assert len(ours) <= len(theirs), ours


def test_finished_calls_leave_no_entry_and_one_timer() -> None:
    async def main() -> None:
        policy = Timeout(30)
        loop: Any = asyncio.get_running_loop()
        for _ in range(1000):
            await policy.acall(asyncio.sleep, 0)
        queue = policy._queues.queue
        assert queue.after is queue
        assert queue.before is queue
        assert len(loop._scheduled) == 1

    asyncio.run(main())


def test_calls_that_run_out_leave_nothing() -> None:
    """No timer, no task, no entry, and no error that nobody retrieved."""

    async def main() -> int:
        policy = Timeout(1)
        forever = asyncio.Event()

        async def one() -> int:
            try:
                await policy.acall(forever.wait)
            except CallTimeoutError:
                return 1
            return 0

        found = sum(await asyncio.gather(*(one() for _ in range(10_000))))
        loop: Any = asyncio.get_running_loop()
        assert loop._scheduled == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert policy._queues.queue.after is policy._queues.queue
        return found

    with pytest.MonkeyPatch.context() as patch:
        assert timeout_trees.run(patch, main) == 10_000


def test_keeps_no_loop_alive_that_is_gone() -> None:
    policy = Timeout(30)

    async def main() -> weakref.ref[Any]:
        await policy.acall(asyncio.sleep, 0)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None
    asyncio.run(main())


def test_the_timer_keeps_no_context_alive() -> None:
    class Big:
        pass

    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("big", default=None)
    policy = Timeout(30)

    async def call() -> weakref.ref[Big]:
        thing = Big()
        variable.set(thing)
        await policy.acall(asyncio.sleep, 0)
        return weakref.ref(thing)

    async def main() -> None:
        found = await asyncio.create_task(call())
        await asyncio.sleep(0)
        gc.collect()
        assert found() is None

    asyncio.run(main())


def test_two_loops_in_two_threads_share_one_policy() -> None:
    policy = Timeout(5)
    met = threading.Barrier(2, timeout=10)

    async def body() -> str:
        met.wait()
        await asyncio.sleep(0)
        return threading.current_thread().name

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(asyncio.run(policy.acall(body))), name=name)
        for name in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == ["a", "b"]


def test_a_loop_that_is_early_is_believed() -> None:
    """The loop's clock and ours need not agree to the last digit."""

    async def main() -> bool:
        queue = timers.Queue(asyncio.get_running_loop())
        rung = asyncio.Event()

        class Entry:
            at = core_clock.now() + 1000
            before = after = None

            def due(self) -> None:
                rung.set()

        queue.append(Entry())
        queue._ring()
        return rung.is_set() and not queue.armed

    assert asyncio.run(main())


def test_trio_as_a_guest_of_asyncio_is_trio() -> None:
    """The host's loop is running, but no task of it is."""

    async def guest() -> str:
        with pytest.raises(CallTimeoutError):
            await Timeout(0.001).acall(trio.sleep_forever)
        return "cancelled"

    async def host() -> Any:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        outcomes: list[Any] = []

        def ended(outcome: Any) -> None:
            outcomes.append(outcome)
            done.set()

        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended
        )
        await done.wait()
        return outcomes[0].unwrap()

    assert asyncio.run(host()) == "cancelled"


# In place.


def test_in_place_a_late_result_is_kept_and_reported(clock: Any, events: list[Any]) -> None:
    def slow() -> str:
        assert remaining() == pytest.approx(1)
        waits.sleep(3)
        assert remaining() == 0
        return "late"

    protected = Timeout(1, sync="deadline", name="total")(slow)
    assert protected() == "late"
    assert [(type(e), e.policy, e.seconds) for e in events] == [(CallOverran, "total", 1.0)]
    assert threading.current_thread() is threading.main_thread()
    assert deadline.current.get() is None


def test_in_place_a_block_reads_the_time(clock: Any, events: list[Any]) -> None:
    with Timeout(1, sync="deadline").guard():
        assert remaining() == pytest.approx(1)
        waits.sleep(2)
    assert [type(event) for event in events] == [CallOverran]


def test_in_place_an_error_passes(clock: Any) -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Timeout(1, sync="deadline").call(fail)
    assert deadline.current.get() is None


def test_a_total_in_place_clamps_the_attempt_in_a_worker(clock: Any, events: list[Any]) -> None:
    """The error names the one that ran out, and that one tells of it, once."""

    def hang() -> None:
        waits.sleep(50)

    breaker = CircuitBreaker(on=KeyError, consecutive_failures=1)
    each = Pipeline(breaker, Timeout(9, sync="thread", name="each"))
    start = clock.now()
    with pytest.raises(CallTimeoutError) as caught:
        Timeout(2, sync="deadline", name="total").call(each.call, hang)
    assert breaker.state is CircuitState.OPEN
    assert clock.now() - start == pytest.approx(2)
    assert caught.value.policy == "total"
    told = [(type(e), e.policy) for e in events if type(e) in (CallTimedOut, CallOverran)]
    assert told == [(CallTimedOut, "total")]


# Generators.


def test_the_consumer_of_a_generator_is_not_interrupted(clock: Any, events: list[Any]) -> None:
    """The time runs from the first step, is told in each step, and hidden in between."""
    closed = []

    @Timeout(2, sync="deadline", name="stream")
    def items() -> Any:
        try:
            while True:
                yield remaining()
        finally:
            closed.append(True)

    stream = items()
    waits.sleep(5)  # before the first step no time runs
    assert next(stream) == pytest.approx(2)
    assert remaining() is None
    waits.sleep(1.5)
    assert next(stream) == pytest.approx(0.5)
    waits.sleep(1)
    with pytest.raises(CallTimeoutError, match="stream"):
        next(stream)
    assert closed == [True]
    assert [type(event) for event in events] == [CallTimedOut]


def test_a_late_item_in_place_is_kept_and_reported(clock: Any, events: list[Any]) -> None:
    @Timeout(1, sync="deadline")
    def items() -> Any:
        waits.sleep(3)
        yield "late"
        yield "never"

    stream = items()
    assert next(stream) == "late"
    with pytest.raises(CallTimeoutError):
        next(stream)
    assert [type(event) for event in events] == [CallOverran, CallTimedOut]


@BOTH_LOOPS
def test_a_step_of_an_async_generator_is_cancelled(mode: Any, clock: Any) -> None:
    closed = []

    @Timeout(2)
    async def items() -> Any:
        try:
            for wait in (0.5, 0.5, 9):
                await waits.asleep(wait)
                yield remaining()
        finally:
            closed.append(True)

    async def main() -> list[Any]:
        stream, found = items(), []
        for _ in range(2):
            found.append(await anext(stream))
            assert remaining() is None
        with pytest.raises(CallTimeoutError):
            await anext(stream)
        return found

    assert mode.run(main) == [pytest.approx(1.5), pytest.approx(1)]
    assert closed == [True]


@BOTH_LOOPS
def test_an_async_consumer_is_not_cancelled(mode: Any, clock: Any, events: list[Any]) -> None:
    """Not even when the time runs out under its hands; the next step is refused."""
    closed = []

    @Timeout(2)
    async def items() -> Any:
        try:
            while True:
                yield remaining()
        finally:
            closed.append(True)

    async def main() -> None:
        stream = items()
        await waits.asleep(5)
        async with aclosing(stream):
            assert await anext(stream) == pytest.approx(2)
            await waits.asleep(9)
            with pytest.raises(CallTimeoutError):
                await anext(stream)
        assert closed == [True]

    mode.run(main)
    assert [type(event) for event in events] == [CallTimedOut]


def test_a_generator_that_is_closed_leaves_its_queue() -> None:
    policy = Timeout(30)

    @policy
    async def items() -> Any:
        yield 1
        yield 2

    async def main() -> None:
        stream = items()
        assert await anext(stream) == 1
        queue = policy._queues.queue
        assert queue.after is not queue
        await stream.aclose()
        assert queue.after is queue

    asyncio.run(main())


def test_steps_of_a_generator_may_be_taken_by_several_tasks(clock: Any) -> None:
    """Each is the one that is cancelled in its own step, and not afterwards."""

    @Timeout(2)
    async def items() -> Any:
        yield 1
        yield 2
        await asyncio.sleep(9)
        yield 3

    async def main() -> None:
        stream = items()
        first = asyncio.create_task(anext(stream))
        assert await first == 1
        assert await anext(stream) == 2
        with pytest.raises(CallTimeoutError):
            await asyncio.create_task(anext(stream))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(5)

    asyncio.run(main())


# In a worker.


def test_in_a_worker_the_context_is_there() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("v")
    variable.set("seen")

    def look() -> tuple[str, bool]:
        found = variable.get()
        variable.set("changed")
        return found, threading.current_thread() is threading.main_thread()

    assert Timeout(60, sync="thread").call(look) == ("seen", False)
    assert variable.get() == "seen"


def test_what_is_started_in_a_worker_does_not_inherit_a_dead_deadline() -> None:
    context = Timeout(60, sync="thread").call(contextvars.copy_context)
    assert context.run(remaining) is None


def test_all_workers_taken_is_a_refusal_at_once(events: list[Any]) -> None:
    """A burst up to the limit is served; one more is never queued."""
    policy = Timeout(60, sync="thread", max_workers=4, name="pool")
    inside, go = threading.Barrier(5, timeout=10), threading.Event()

    def work() -> None:
        inside.wait()
        go.wait(10)

    threads = [threading.Thread(target=policy.call, args=(work,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    inside.wait()
    with pytest.raises(WorkersExhaustedError) as caught:
        policy.call(int)
    assert caught.value.policy == "pool"
    assert [(type(e), e.reason) for e in events] == [(CallRejected, "workers_exhausted")]
    go.set()
    for thread in threads:
        thread.join(10)
    assert policy.call(int) == 0


def test_calls_in_a_row_need_one_worker() -> None:
    policy = Timeout(60, sync="thread", max_workers=1)
    idents = {policy.call(threading.get_ident) for _ in range(200)}
    assert len(idents) == 1


def test_in_a_worker_an_error_keeps_its_traceback() -> None:
    def the_place() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        Timeout(60, sync="thread").call(the_place)
    assert "the_place" in "".join(traceback.format_exception(caught.value))


def test_on_a_thread_with_a_loop_it_would_block_the_loop() -> None:
    policy = Timeout(60, sync="thread")

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"async def.*acall"):
            policy.call(int)

    asyncio.run(main())
    trio.run(main)


@pytest.fixture
def time_is_up(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set by the function in the worker: then its caller's time is up."""
    inside = threading.Event()

    def acquire(lock: Any, seconds: float | None) -> bool:
        assert inside.wait(10)
        return False

    monkeypatch.setattr(waits, "acquire", acquire)
    return inside


class Late:
    """A function that ends, by returning or raising, only when it is let go."""

    def __init__(self, inside: threading.Event, outcome: Any) -> None:
        self._inside = inside
        self._outcome = outcome
        self._go = threading.Event()

    def __call__(self) -> Any:
        self._inside.set()
        assert self._go.wait(10)
        return self._outcome()

    def let_go(self) -> Any:
        """Let the function end, wait until it has, and return its run."""
        ended = threading.Event()
        [run] = [run for run in workers.running if run.abandoned]
        run.add_done_callback(ended.set)
        self._go.set()
        assert ended.wait(10)
        return run


def fail() -> None:
    raise KeyError("late")


def test_what_an_abandoned_worker_comes_to_is_dropped(time_is_up: threading.Event) -> None:
    """Result and error alike: nothing of them stays alive, and nobody is warned."""

    class Thing:
        pass

    made: list[weakref.ref[Thing]] = []

    def returns() -> Thing:
        thing = Thing()
        made.append(weakref.ref(thing))
        return thing

    def raises() -> None:
        thing = Thing()
        made.append(weakref.ref(thing))
        raise KeyError(thing)

    policy, runs = Timeout(60, sync="thread", max_workers=1), []
    for outcome in (returns, raises):
        late = Late(time_is_up, outcome)
        with pytest.raises(CallTimeoutError):
            policy.call(late)
        # A bulkhead further out may hold it for longer.
        runs.append(late.let_go())
        time_is_up.clear()
        # By the time that the one worker begins again, it has forgotten what was before.
        late = Late(time_is_up, int)
        with pytest.raises(CallTimeoutError):
            policy.call(late)
        late.let_go()
        time_is_up.clear()
    gc.collect()
    assert [ref() for ref in made] == [None, None]


def test_an_abandoned_call_sees_that_its_time_is_up(clock: Any) -> None:
    seen = []

    def work() -> None:
        waits.sleep(5)
        seen.append(remaining())

    with pytest.raises(CallTimeoutError):
        Timeout(1, sync="thread").call(work)
    waits.sleep(9)
    assert seen == [0.0]


def test_a_breaker_counts_an_abandoned_call_once(time_is_up: threading.Event) -> None:
    """What the worker comes to later is not counted again, nor for it."""
    breaker = CircuitBreaker(consecutive_failures=2)
    late = Late(time_is_up, fail)
    with pytest.raises(CallTimeoutError):
        Pipeline(Timeout(60, sync="thread"), breaker).call(late)
    assert breaker.snapshot().failures == 1
    late.let_go()
    assert breaker.snapshot().failures == 1
    assert breaker.state is CircuitState.CLOSED


def test_the_policies_outside_learn_of_an_abandoned_worker(time_is_up: threading.Event) -> None:
    """Through the call that they hold, for as long as the worker really runs."""
    seen: list[Any] = []

    class Outside(CircuitBreaker):
        def wrap(self, inner: Any) -> Any:
            def outside(args: Any, kwargs: Any, call: Any) -> Any:
                try:
                    return inner(args, kwargs, call)
                finally:
                    seen.append((call.entered, list(call.abandoned or ())))

            return outside

    late = Late(time_is_up, int)
    with pytest.raises(CallTimeoutError):
        Pipeline(Outside(), Timeout(60, sync="thread")).call(late)
    [(entered, [run])] = seen
    assert entered
    assert not run.done
    late.let_go()
    assert run.done


def test_an_interrupt_of_the_waiting_caller_abandons_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The breaker inside takes it as neutral, whatever comes of the worker later."""
    breaker = CircuitBreaker(consecutive_failures=1)
    inside = threading.Event()
    late = Late(inside, fail)

    def interrupted(lock: Any, seconds: float | None) -> bool:
        inside.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(waits, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(Timeout(60, sync="thread"), breaker).call(late)
    late.let_go()
    assert breaker.state is CircuitState.CLOSED


def test_a_failing_call_in_a_worker_leaves_no_cycle() -> None:
    """Otherwise its frames would live until the next collection."""

    class Big:
        pass

    policy = Timeout(60, sync="thread")
    seen: list[weakref.ref[Big]] = []

    def fail_big() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        raise KeyError

    gc.disable()
    try:
        with suppress(KeyError):
            policy.call(fail_big)
        assert seen[0]() is None
    finally:
        gc.enable()
