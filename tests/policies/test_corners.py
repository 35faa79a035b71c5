"""What happens seldom: wrong values, lost races, and the second time of everything."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from resilient import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    Quantile,
    Retry,
    RetryBudget,
    Timeout,
    WorkersExhaustedError,
    _observe,
    testing,
)
from resilient._call import Call, Site
from resilient._core import deadline
from resilient._policy import Policy
from resilient._runtime import (
    hedge_asyncio,
    hedge_contest,
    hedge_threads,
    timed_tasks,
    timers,
    waits,
    workers,
)
from resilient._runtime.loops import AsyncioLoop
from resilient.events import CallRejected, CircuitStateChanged
from resilient.timeout import _Steps


def fail() -> None:
    raise OSError("it failed")


def test_an_observer_that_is_none_hands_every_chain_through() -> None:
    """Without telemetry nothing stands around a call."""
    nobody, site = _observe.Observer(), Site("f", "f", ())
    ways: Any = (nobody.around, nobody.aaround, nobody.around_stream, nobody.aaround_stream)
    assert all(way(fail, site) is fail for way in ways)


def test_a_coroutine_function_cannot_listen() -> None:
    """Nothing would await what it returns."""

    async def listen(event: object) -> None: ...

    with pytest.raises(TypeError, match="is a coroutine function, which nothing would await"):
        CircuitBreaker().subscribe(listen)


def test_a_policy_protects_only_what_it_says() -> None:
    """The base protects no kind of callable, injects nothing, and holds nothing."""

    class Nothing(Policy[Any, Any]):
        kind = "nothing"

    with pytest.raises(TypeError, match="a plain function"):
        Nothing()(fail)
    with pytest.raises(NotImplementedError, match="Nothing injects nothing"):
        Nothing()._bare_target()
    assert Nothing()._idle()


def test_passthrough_calls_the_function_itself_in_every_way() -> None:
    """A block of it takes the policies out of one-off calls and generators, too."""
    breaker = CircuitBreaker(consecutive_failures=1)
    breaker.isolate()

    async def answer() -> int:
        return 1

    def items() -> Any:
        yield 2

    with testing.passthrough():
        assert asyncio.run(breaker.acall(answer)) == 1
        assert list(breaker.call(items)) == [2]
    with pytest.raises(CircuitOpenError):
        asyncio.run(breaker.acall(answer))


def test_a_function_that_hides_its_parameters_is_protected() -> None:
    """Some written in C have no signature."""
    assert Retry(on=OSError)(dict.fromkeys)("a") == {"a": None}
    assert Retry(on=OSError)(max)(1, 2) == 2


class Awaitable:
    """What can be awaited, and is no coroutine that would have to be closed."""

    def __await__(self) -> Any:
        yield


def test_an_awaitable_from_a_plain_function_is_refused_even_if_it_is_no_coroutine() -> None:
    """Nobody would wait for it, whoever returned it."""
    with pytest.raises(TypeError, match="returned an awaitable"):
        Retry(on=OSError).call(Awaitable)
    with pytest.raises(TypeError, match="returned an awaitable"):
        Retry(on=OSError)(lambda: Awaitable())()
    with pytest.raises(TypeError, match="cannot stand in"):
        Fallback(on=OSError, using=lambda error: Awaitable()).call(fail)


def test_a_fallbacks_value_is_given_once() -> None:
    """By position or by its name."""
    with pytest.raises(TypeError, match="twice"):
        Fallback(1, value=2)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (Timeout, "call the class first"),
        ([Timeout(1)], r"write Pipeline\(\*policies\)"),
        (fail, "did you mean `@Pipeline"),
    ],
)
def test_what_is_no_policy_is_refused_with_a_hint(wrong: Any, hint: str) -> None:
    """The usual mistakes have an answer."""
    with pytest.raises(TypeError, match=hint):
        Pipeline(wrong, Timeout(1))


def test_a_pipelines_listener_hears_each_of_its_policies_once() -> None:
    """Until it is taken back."""
    breaker = CircuitBreaker(consecutive_failures=1)
    pipeline = Pipeline(Timeout(1, sync="deadline"), breaker)
    heard: list[Any] = []
    unsubscribe = pipeline.subscribe(heard.append)
    with pytest.raises(OSError):
        pipeline.call(fail)
    assert [type(event) for event in heard] == [CircuitStateChanged]
    unsubscribe()
    breaker.reset()
    assert len(heard) == 1


def test_a_listener_of_all_keys_hears_each_of_them_once() -> None:
    """Those that were there before it, those that come later, and one that two keys share."""
    shared = CircuitBreaker("shared", consecutive_failures=1)

    def make(key: str) -> CircuitBreaker:
        return shared if key in "ab" else CircuitBreaker(key, consecutive_failures=1)

    by_key: Any = PerKey(make, key=lambda key: key)
    by_key.get("a")
    heard: list[Any] = []
    unsubscribe = by_key.subscribe(heard.append)
    by_key.get("b")
    for key in "a", "c":
        with pytest.raises(OSError):
            by_key.get(key).call(fail)
    assert [event.policy for event in heard] == ["shared", "c"]
    unsubscribe()
    by_key.get("c").reset()
    assert len(heard) == 2


def test_a_forked_child_has_no_pins_of_the_parents_calls() -> None:
    """Or a key in use at the fork could never be dropped there."""
    by_key: Any = PerKey(CircuitBreaker, key=lambda key: key)
    by_key.get("a")
    by_key._entries["a"].pins = 3
    by_key._lock.acquire()
    by_key.after_fork()
    assert by_key._entries["a"].pins == 0
    assert by_key._lock.acquire(blocking=False)


def test_a_window_of_seconds_without_a_minimum_is_no_contradiction() -> None:
    """The minimum is for rates: with failures in a row alone it is refused."""
    with pytest.raises(TypeError, match="minimum_calls is for rates"):
        CircuitBreaker(minimum_calls=3, consecutive_failures=2)
    with pytest.raises(TypeError, match="not both"):
        CircuitBreaker(window_calls=3, window_seconds=2)


def test_the_attempts_of_a_block_are_their_own_iterator() -> None:
    """A second `for` over them goes on where the first one stopped."""
    retry = Retry(on=OSError)
    attempts, aattempts = iter(retry), aiter(retry)
    assert iter(attempts) is attempts
    assert aiter(aattempts) is aattempts


def test_the_steps_of_a_stream_that_never_began_end_nothing() -> None:
    """There is no deadline yet to be taken out of force."""
    policy, call = Timeout(1, sync="deadline"), Call()
    with _Steps(policy, call) as steps:
        assert steps is None
    _Steps(policy, call).end_step()

    async def main() -> None:
        async with timed_tasks.Steps(policy, call):
            pass

    asyncio.run(main())


def test_an_entry_that_is_not_the_first_arms_no_second_timer() -> None:
    """One timer of the loop is enough for all that wait."""

    async def main() -> None:
        queue = timers.Queue(asyncio.get_running_loop())
        for at in 1e9, 2e9:
            entry: Any = SimpleNamespace(at=at)
            queue.append(entry)
            armed_at = queue._armed_at
            assert armed_at == 1e9

    asyncio.run(main())


def test_a_timeout_of_the_work_itself_is_passed_on() -> None:
    """It is not the limit's."""

    async def work() -> None:
        raise TimeoutError("its own")

    async def main() -> None:
        await AsyncioLoop().within(60, work)

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(main())


class TestWorkers:
    def test_what_ended_while_it_was_abandoned_is_dropped(self) -> None:
        """Abandoning and ending may fall together: neither result nor error is kept."""
        run = workers.Run(fail, (), None)  # type: ignore[arg-type]
        run._result, run.done = object(), True
        assert run.abandon()
        assert run._result is None

    def test_a_worker_that_becomes_idle_while_one_is_looked_for_is_taken(self) -> None:
        """There may be no more than the limit, so a new one would be one too many."""
        pool = workers.Workers(1)
        first = pool.start(int)
        assert first is not None
        assert first.wait()
        # Found none idle, and waited for the lock.
        run = pool._start_slowly(workers.Run(str, ("second",), copy_context()))
        assert run is not None
        assert run.wait()
        assert run.outcome() == "second"

    def test_callbacks_that_another_thread_has_taken_are_not_called_again(self) -> None:
        """Whoever adds one late and the worker may both be at it."""
        run = workers.Run(fail, (), None)  # type: ignore[arg-type]

        class Taken(list[Any]):
            def __bool__(self) -> bool:
                return True

        run._callbacks = Taken()
        run._call_back()

    def test_a_pool_that_is_dropped_lets_its_idle_workers_go(self) -> None:
        """One that has found work meanwhile ends by itself."""

        class Taken(deque[Any]):
            def __bool__(self) -> bool:
                return True

        pool = workers.Workers(1)
        pool._shop.idle = Taken()  # type: ignore[assignment]
        pool.__del__()
        assert pool._shop.closed


def test_the_end_of_the_time_in_a_queue_says_nothing_of_the_backend(clock: Any) -> None:
    """The call never got there, whichever deadline it was that passed."""
    breaker, bulkhead = CircuitBreaker(consecutive_failures=1), Bulkhead(1, max_queue=1)
    inner = Pipeline(breaker, Timeout(9, sync="thread"), bulkhead)
    whole = Timeout(1, sync="deadline")(lambda: inner.call(fail))
    with bulkhead.guard(), pytest.raises(CallTimeoutError):
        whole()
    assert breaker.state is CircuitState.CLOSED
    assert breaker.snapshot().failures == 0


def test_an_interrupt_that_comes_with_the_answer_leaves_nothing_behind() -> None:
    """The worker has ended: there is nothing to wait for."""

    class Ended:
        def wait(self, seconds: float) -> bool:
            raise KeyboardInterrupt

        def abandon(self) -> bool:
            return False

    call = Call()
    limit: Any = SimpleNamespace(at=0.0)
    with pytest.raises(KeyboardInterrupt):
        Timeout(1, sync="thread")._wait(Ended(), limit, call)  # type: ignore[arg-type]
    assert not call.abandoned


class TestHedges:
    @pytest.mark.parametrize("delay", [60, Quantile(0.9, initial=60)])
    def test_trio_as_a_guest_of_asyncio_is_trio(self, delay: Any) -> None:
        """The host's loop is running, but no task of it is."""

        async def answer() -> str:
            await trio.sleep(0)
            return "from trio"

        async def host() -> Any:
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            outcomes: list[Any] = []
            trio.lowlevel.start_guest_run(
                lambda: Hedge(delay).acall(answer),
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                done_callback=lambda outcome: (outcomes.append(outcome), done.set()),
            )
            await done.wait()
            return outcomes[0].unwrap()

        assert asyncio.run(host()) == "from trio"

    def test_a_call_that_ended_as_its_delay_passed_is_left_alone(self) -> None:
        """The timer and the answer may come in the same turn of the loop."""

        async def main() -> None:
            timer: Any = hedge_asyncio.Timer.__new__(hedge_asyncio.Timer)
            timer.waiting, timer.contests = {}, {}
            timer.late(Call())
            assert not timer.contests

        asyncio.run(main())

    def test_without_a_gil_a_budget_is_filled_by_its_own_method(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which takes a lock."""
        monkeypatch.setattr(hedge_asyncio, "GIL", False)
        budget = RetryBudget(ratio=0.5, capacity=2)
        while budget.withdraw():
            pass

        async def answer() -> int:
            return 1

        assert asyncio.run(Hedge(60, budget=budget).acall(answer)) == 1
        assert budget.tokens == 0.5

    def test_an_interrupt_in_a_hedge_is_the_event_loops_too(self) -> None:
        """It ends the program, as one in any task does."""
        made: list[int] = []

        async def answer() -> None:
            made.append(1)
            if len(made) == 2:
                raise KeyboardInterrupt
            await asyncio.sleep(60)

        with testing.virtual_time(), pytest.raises(KeyboardInterrupt):
            asyncio.run(Hedge(1).acall(answer))
        assert len(made) == 2

    def test_a_hedge_that_finds_no_worker_may_be_followed_by_another(self, clock: Any) -> None:
        """If that is among the failures that launch the next one."""
        policy = Hedge(1, sync="thread", max_hedges=2, on=WorkersExhaustedError, budget=None)
        policy._workers = workers.Workers(1)
        with testing.record_events() as events:
            assert policy.call(lambda: waits.sleep(5) or "first") == "first"
        assert [type(event) for event in events].count(CallRejected) == 2

    def test_two_answers_at_once_ring_once(self) -> None:
        """The caller has not heard of the first one yet."""
        contest: Any = hedge_threads.ThreadContest.__new__(hedge_threads.ThreadContest)
        contest._bell = threading.Lock()
        contest._ring()
        assert not contest._bell.locked()

    @pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
    def test_what_both_attempts_return_is_not_closed(self, mode: Any, clock: Any) -> None:
        """The caller gets it."""
        shared, made = Resource(), []

        def fetch() -> Any:
            made.append(1)
            if len(made) == 1:
                with suppress(BaseException):  # a function that ignores its cancellation
                    yield 9
            else:
                yield 0.5
            return shared

        assert mode.call(mode.function(Hedge(1), fetch)) is shared
        assert not shared.closed

    def test_a_caller_that_is_cancelled_while_a_late_result_is_closed(self, clock: Any) -> None:
        """It gets its cancellation when the rest is done."""
        made = []

        class Slow:
            async def aclose(self) -> None:
                await asyncio.sleep(9)

        async def fetch() -> Slow:
            made.append(1)
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(9 if len(made) == 1 else 0.5)
            return Slow()

        async def main() -> None:
            task = asyncio.create_task(Hedge(1)(fetch)())
            await asyncio.sleep(3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert len(made) == 2

    def test_a_hedge_that_ends_within_its_start_is_not_waited_for(self, clock: Any) -> None:
        """An eager task may be over when it is made."""
        made = []

        async def fetch() -> str:
            made.append(1)
            if len(made) == 1:
                await asyncio.sleep(9)
            return "hedge"

        class Done(asyncio.Future[Any]):
            def set_name(self, name: object) -> None: ...

        def eager(loop: Any, coroutine: Any, **kwargs: Any) -> Any:
            done = Done(loop=loop)
            try:
                coroutine.send(None)
            except StopIteration as stop:
                done.set_result(stop.value)
            return done

        async def main() -> str:
            asyncio.get_running_loop().set_task_factory(eager)
            return await Hedge(1)(fetch)()

        assert asyncio.run(main()) == "hedge"

    def test_a_hedge_that_the_race_has_dropped_ends_quietly(self) -> None:
        """Cancelled before its first step, when everything was over."""
        contest: Any = hedge_contest.Contest.__new__(hedge_contest.Contest)
        contest._arms, contest._gate = {1: None}, None
        contest.race = SimpleNamespace(flying={})
        contest._left(1, SimpleNamespace(cancelled=lambda: True))
        assert not contest._arms

    def test_what_has_come_when_the_caller_leaves_is_closed(self) -> None:
        """Ctrl-C may come between an answer and its reading."""
        contest: Any = hedge_threads.ThreadContest.__new__(hedge_threads.ThreadContest)
        unread = Resource()
        contest._lock, contest._arms = threading.Lock(), {}
        contest._news = deque([(1, unread, None), (2, None, OSError())])
        contest.race = SimpleNamespace(flying={}, end=lambda: None)
        contest._leave()
        assert unread.closed


class Resource:
    """Something to be closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_deadline_that_the_step_has_replaced_is_not_put_back() -> None:
    """What is in force after a step is not this timeout's any more."""

    async def main() -> None:
        steps = timed_tasks.Steps(Timeout(60), Call())
        async with steps:
            steps.begin_step()
            deadline.current.set(None)
            steps.end_step(None)
            assert deadline.current.get() is None

    asyncio.run(main())


def test_a_policy_may_return_any_awaitable() -> None:
    """Only a coroutine has a name to be called by."""

    class Plainly(Policy[Any, Any]):
        kind = "plainly"

        def awrap(self, inner: Any) -> Any:
            async def run(args: Any, kwargs: Any, call: Call) -> Any:
                return await inner(args, kwargs, call)

            return lambda *given: asyncio.ensure_future(run(*given))

    async def answer() -> int:
        return 1

    async def main() -> int:
        with testing.record_events():
            return await Plainly()(answer)()

    assert asyncio.run(main()) == 1
