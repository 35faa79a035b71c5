"""A late call is made once more, and the first answer is taken, in every mode."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import sys
import threading
import weakref
from functools import partial

import pytest
import trio

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CompositionWarning,
    Fallback,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    WorkersExhaustedError,
    attempt_number,
    once,
    remaining,
)
from resilient._core import clock as core_clock
from resilient._runtime import waits, workers
from resilient.events import HedgeLaunched, HedgeWon
from resilient.hedge import Hedge, Quantile

ASYNC = pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
ASYNCIO = pytest.mark.parametrize("mode", ["asyncio"], indirect=True)
SYNC = pytest.mark.parametrize("mode", ["sync"], indirect=True)


def hedge_of(mode, delay=1.0, **options):
    return Hedge(delay, sync=None if mode.is_async else "thread", **options)


def plays(*scripts):
    """Return a function whose attempts, by number, wait and then return or raise in turn."""
    made = []

    def fetch():
        made.append(attempt_number())
        wait, end = scripts[len(made) - 1]
        if wait:
            yield wait
        if isinstance(end, BaseException):
            raise end
        return end

    fetch.made = made
    return fetch


class Resource:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


class TestWhoWins:
    def test_a_fast_primary_is_alone(self, mode, clock, events):
        """Nothing is launched before the delay has passed."""
        fetch = plays((0.9, "first"))
        assert mode.call(mode.function(hedge_of(mode), fetch)) == "first"
        assert fetch.made == [1]
        assert events == []

    def test_a_late_primary_is_overtaken(self, mode, clock, events):
        """After the delay a hedge starts, and its answer is taken if it is the first."""
        fetch = plays((10, "first"), (0.5, "second"))
        began = clock.now()
        assert mode.call(mode.function(hedge_of(mode), fetch)) == "second"
        assert clock.now() - began == pytest.approx(1.5)
        assert fetch.made == [1, 2]
        assert [(type(event), event.number) for event in events] == [
            (HedgeLaunched, 1),
            (HedgeWon, 1),
        ]

    def test_the_primary_may_still_win(self, mode, clock, events):
        """A hedge that was launched does not win by that."""
        fetch = plays((1.2, "first"), (5, "second"))
        began = clock.now()
        assert mode.call(mode.function(hedge_of(mode), fetch)) == "first"
        assert clock.now() - began == pytest.approx(1.2)
        assert [type(event) for event in events] == [HedgeLaunched]

    def test_the_delay_counts_from_the_last_start(self, mode, clock):
        """The second hedge starts a delay after the first."""
        fetch = plays((9, "first"), (9, "second"), (0.1, "third"))
        began = clock.now()
        assert mode.call(mode.function(hedge_of(mode, max_hedges=2), fetch)) == "third"
        assert clock.now() - began == pytest.approx(2.1)

    def test_a_delay_of_zero_starts_both(self, mode, clock):
        """Without a delay the second attempt starts as soon as the first waits."""
        fetch = plays((5, "first"), (1, "second"))
        began = clock.now()
        assert mode.call(mode.function(hedge_of(mode, 0), fetch)) == "second"
        assert clock.now() - began == pytest.approx(1)

    def test_each_attempt_has_its_own_context(self, mode, clock):
        """A hedge starts from the caller's context, not from what the primary made of it."""
        variable = contextvars.ContextVar("variable", default="caller's")
        seen = []

        def fetch():
            seen.append(variable.get())
            variable.set("changed")
            yield 5 if len(seen) == 1 else 0.1
            return "done"

        mode.call(mode.function(hedge_of(mode), fetch))
        assert seen == ["caller's", "caller's"]

    def test_calls_do_not_mix(self, mode, clock):
        """Many calls at once each get their own answer, whichever attempt gives it."""
        attempts = {}

        def fetch(number):
            attempts[number] = attempts.get(number, 0) + 1
            yield 9 if number % 2 and attempts[number] == 1 else 0.5
            return number

        protected = mode.function(hedge_of(mode, budget=None), fetch)
        results = mode.together(*(partial(protected, number) for number in range(20)))
        assert results == list(range(20))
        assert attempts == {number: 1 + number % 2 for number in range(20)}


class TestFailures:
    def test_a_failure_launches_the_next_hedge_at_once(self, mode, clock):
        """A primary that fails is not waited for until the delay has passed."""
        fetch = plays((0.2, OSError("first")), (0.1, "second"))
        began = clock.now()
        assert mode.call(mode.function(hedge_of(mode), fetch)) == "second"
        assert clock.now() - began == pytest.approx(0.3)

    def test_a_failed_hedge_launches_the_next(self, mode, clock):
        """So does a hedge that fails while the primary is in flight."""
        fetch = plays((9, "first"), (0.2, OSError("second")), (0.1, "third"))
        began = clock.now()
        assert mode.call(mode.function(hedge_of(mode, max_hedges=2), fetch)) == "third"
        assert clock.now() - began == pytest.approx(1.3)

    def test_if_all_fail_the_first_attempts_error_is_raised(self, mode, clock):
        """The primary's error comes out, also if it was not the first to come."""
        error = OSError("primary")
        fetch = plays((3, error), (0.5, OSError("hedge")))
        with pytest.raises(OSError, match="primary") as caught:
            mode.call(mode.function(hedge_of(mode), fetch))
        assert caught.value is error
        assert caught.value.__context__ is None

    def test_an_error_that_does_not_match_ends_the_call(self, mode, clock):
        """Another error than those of `on` ends the call, whoever raises it."""
        fetch = plays((0.5, ValueError("mine")))
        with pytest.raises(ValueError, match="mine"):
            mode.call(mode.function(hedge_of(mode, on=OSError), fetch))
        fetch = plays((9, "first"), (0.5, ValueError("the hedge's")))
        began = clock.now()
        with pytest.raises(ValueError, match="the hedge's"):
            mode.call(mode.function(hedge_of(mode, on=OSError), fetch))
        assert clock.now() - began == pytest.approx(1.5)

    def test_a_predicate_that_raises_ends_the_call_with_its_error(self, mode, clock):
        """A broken predicate is not hidden."""

        def broken(error):
            raise LookupError("broken")

        fetch = plays((9, "first"), (0.5, OSError()))
        with pytest.raises(LookupError, match="broken"):
            mode.call(mode.function(hedge_of(mode, on=broken), fetch))

    def test_a_rejected_hedge_is_dropped(self, mode, clock):
        """A hedge that was refused further in does not end a call that is still in flight."""
        fetch = plays((3, "first"), (0, CircuitOpenError("open", policy="inner")))
        assert mode.call(mode.function(hedge_of(mode), fetch)) == "first"

    def test_a_rejected_primary_is_not_hedged(self, mode, clock):
        """With nothing in flight the refusal comes out, and nothing more is tried."""
        fetch = plays((0, CircuitOpenError("open", policy="inner")))
        with pytest.raises(CircuitOpenError):
            mode.call(mode.function(hedge_of(mode), fetch))
        assert fetch.made == [1]

    def test_a_real_error_goes_before_a_refusal(self, mode, clock):
        """When the primary has failed and its hedge is refused, the failure comes out."""
        fetch = plays((0.1, OSError("real")), (0, CircuitOpenError("open", policy="inner")))
        with pytest.raises(OSError, match="real"):
            mode.call(mode.function(hedge_of(mode), fetch))

    def test_errors_are_not_kept(self, mode, clock):
        """Neither the error that came out nor those that did not are held by a cycle."""
        gone = []

        class Failed(OSError):
            def __init__(self):
                gone.append(weakref.ref(self))

        def fetch():
            yield 0.1
            raise Failed

        protected = mode.function(hedge_of(mode), fetch)

        def call():
            try:
                protected()
            except Failed:
                return

        async def acall():
            # Not around the whole loop: its frames do hold the error that leaves it.
            with contextlib.suppress(Failed):
                await protected()
            assert [one() for one in gone] == [None, None]

        gc.collect()
        gc.disable()
        try:
            if mode.is_async:
                mode.run(acall)
            else:
                call()
                for run in list(workers.running):
                    run.wait()
            assert [one() for one in gone] == [None, None]
        finally:
            gc.enable()


class TestBounds:
    def test_out_of_budget_nothing_is_launched_and_nothing_is_killed(self, mode, clock):
        """An empty budget leaves the primary to come back when it does."""
        budget = RetryBudget(ratio=0.5, capacity=1)
        policy = hedge_of(mode, budget=budget)
        assert mode.call(mode.function(policy, plays((9, "first"), (0.1, "second")))) == "second"
        assert budget.tokens == pytest.approx(0.5)
        began = clock.now()
        assert mode.call(mode.function(policy, plays((9, "first"), (0.1, "second")))) == "first"
        assert clock.now() - began == pytest.approx(9)
        assert policy.snapshot().tokens == 1

    def test_a_shared_budget_is_filled_once(self, mode, clock):
        """A call that passes two holders of one budget counts as one success."""
        budget = RetryBudget(ratio=0.1, capacity=10)
        for _ in range(5):
            budget.withdraw()
        policy = Pipeline(Retry(on=OSError, budget=budget), hedge_of(mode, budget=budget))
        mode.call(mode.function(policy, plays((0, "first"))))
        assert budget.tokens == pytest.approx(5.1)

    def test_inside_once_there_is_no_hedge(self, mode, clock):
        """`once()` means that nothing is run twice, neither late nor failed."""

        def call(*scripts):
            fetch = plays(*scripts)
            with once():
                return mode.call(mode.function(hedge_of(mode), fetch))

        assert call((5, "first"), (0, "second")) == "first"
        with pytest.raises(OSError, match="first"):
            call((0.5, OSError("first")), (0, "second"))

    @ASYNC
    def test_no_hedge_is_launched_after_the_deadline(self, mode, clock):
        """What cannot end before the deadline is not begun."""
        fetch = plays((9, "first"), (0, "second"))
        began = clock.now()
        with pytest.raises(CallTimeoutError):
            mode.call(mode.function(Pipeline(Timeout(1), hedge_of(mode, 1)), fetch))
        assert clock.now() - began == pytest.approx(1)
        assert fetch.made == [1]

    def test_a_hedge_does_not_inherit_the_primarys_deadline(self, mode, clock):
        """The timeout inside the hedge starts anew for each attempt."""
        left = []

        def fetch():
            left.append(remaining())
            yield 3 if len(left) == 1 else 0.1
            return "done"

        inner = Timeout(2.5, sync=None if mode.is_async else "deadline")
        policy = Pipeline(hedge_of(mode, 2), inner)
        assert mode.call(mode.function(policy, fetch)) == "done"
        assert left == [pytest.approx(2.5), pytest.approx(2.5)]

    def test_a_hedge_inside_a_retry(self, mode, clock):
        """Each attempt of the retry is hedged afresh."""
        policy = Pipeline(Retry(on=OSError, backoff=[0]), hedge_of(mode))
        fetch = plays((0, OSError()), (0, OSError()), (9, "late"), (0.1, "hedged"))
        began = clock.now()
        assert mode.call(mode.function(policy, fetch)) == "hedged"
        assert clock.now() - began == pytest.approx(1.1)
        assert fetch.made == [1, 2, 2, 3]

    def test_a_hedge_inside_a_hedge(self, mode, clock):
        """Nested hedges do not stop each other's callers."""
        fetch = plays((9, 1), (9, 2), (9, 3), (0.1, 4))
        policy = Pipeline(hedge_of(mode, 1.5), hedge_of(mode, 1))
        began = clock.now()
        assert mode.call(mode.function(policy, fetch)) == 4
        assert clock.now() - began == pytest.approx(2.6)

    @ASYNC
    def test_inside_a_timeout_that_runs_out(self, mode, clock):
        """The timeout's cancellation is not taken for the hedge's."""
        fetch = plays((9, 1), (9, 2))
        policy = Pipeline(Timeout(3), hedge_of(mode))
        began = clock.now()
        with pytest.raises(CallTimeoutError):
            mode.call(mode.function(policy, fetch))
        assert clock.now() - began == pytest.approx(3)

    @ASYNC
    def test_around_a_timeout_that_runs_out(self, mode, clock):
        """A timed-out attempt is a failure like others, if `on` says so."""
        fetch = plays((9, 1), (9, 2), (0.1, 3))
        policy = Pipeline(hedge_of(mode, 5, max_hedges=2), Timeout(2))
        began = clock.now()
        assert mode.call(mode.function(policy, fetch)) == 3
        assert clock.now() - began == pytest.approx(4.1)


class TestLosers:
    def test_late_results_are_closed(self, mode, clock):
        """A result that nobody will have is closed; the winner's is not."""
        made = []

        async def stubborn(wait):
            # Ends in its own time, whoever cancels it.
            if mode.name == "trio":
                with trio.CancelScope(shield=True):
                    await waits.asleep(wait)
            else:
                try:
                    await asyncio.sleep(wait)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.1)

        async def afetch():
            made.append(Resource())
            mine, number = made[-1], len(made)
            await stubborn(4 if number == 1 else 1)
            return mine

        def fetch():
            made.append(Resource())
            mine, number = made[-1], len(made)
            waits.sleep(4 if number == 1 else 1)
            return mine

        result = mode.call(hedge_of(mode)(afetch if mode.is_async else fetch))
        if not mode.is_async:
            waits.sleep(5)
        assert result is made[1]
        assert [one.closed for one in made] == [1, 0]

    @ASYNC
    def test_asynchronous_closing_is_awaited(self, mode, clock, caplog):
        """`aclose` goes before `close`; an error in it is logged, not raised."""
        closed = []

        class Stream(Resource):
            async def aclose(self):
                await waits.asleep(1)
                closed.append(self)
                raise OSError("broken pipe")

        calls = []

        async def fetch():
            calls.append(None)
            if len(calls) == 1:
                try:
                    await waits.asleep(9)
                except BaseException as error:
                    if not waits.is_cancellation(error):
                        raise
                return Stream()
            return "second"

        assert mode.call(hedge_of(mode)(fetch)) == "second"
        assert len(closed) == 1
        assert "could not be closed" in caplog.text

    def test_a_result_shared_with_the_winner_is_left_open(self, mode, clock):
        """Two attempts that return one object have not left one too many."""
        shared = Resource()

        def fetch():
            yield 2 if attempt_number() == 1 else 1
            return shared

        assert mode.call(mode.function(hedge_of(mode), fetch)) is shared
        assert shared.closed == 0

    @ASYNC
    def test_losers_are_awaited(self, mode, clock):
        """Slow cleanup of a loser delays the answer: nothing runs on behind the caller."""
        cleaned = []

        async def fetch():
            if attempt_number() == 2:
                await waits.asleep(0.5)
                return "second"
            try:
                await waits.asleep(9)
            finally:
                with trio.CancelScope(shield=True) if mode.name == "trio" else once():
                    await waits.asleep(2)
                cleaned.append("primary")
            return None

        began = clock.now()
        assert mode.call(hedge_of(mode)(fetch)) == "second"
        assert clock.now() - began == pytest.approx(3.5)
        assert cleaned == ["primary"]

    @ASYNC
    def test_a_loser_is_neutral_for_a_breaker(self, mode, clock):
        """An attempt that was overtaken says nothing of the backend."""
        breaker = CircuitBreaker(minimum_calls=1, failure_rate=0.1)
        fetch = plays((9, "first"), (0.5, "second"))
        mode.call(mode.function(Pipeline(hedge_of(mode), breaker), fetch))
        assert (breaker.snapshot().calls, breaker.snapshot().failures) == (1, 0)

    @SYNC
    def test_a_sync_loser_is_neutral_for_a_breaker(self, mode, clock):
        """Also if it comes back, or fails, when nobody waits for it any more."""
        for end in "first", OSError("late"):
            breaker = CircuitBreaker(minimum_calls=1, failure_rate=0.1)
            fetch = plays((9, end), (0.5, "second"))
            mode.call(mode.function(Pipeline(hedge_of(mode), breaker), fetch))
            waits.sleep(20)
            assert (breaker.snapshot().calls, breaker.snapshot().failures) == (1, 0)

    @SYNC
    def test_a_sync_losers_worker_is_remembered(self, mode, clock):
        """Policies further out can wait until what was left behind has really ended."""
        calls = []

        class Outer(CircuitBreaker):
            def wrap(self, inner):
                def outer(args, kwargs, call):
                    calls.append(call)
                    return inner(args, kwargs, call)

                return outer

        policy = Pipeline(Outer(), Retry(on=OSError), hedge_of(mode))
        mode.call(mode.function(policy, plays((9, "first"), (0.5, "second"))))
        [run] = calls[0].abandoned
        assert not run.done
        waits.sleep(20)
        assert run.done


class TestQuantile:
    def test_it_learns_from_successes(self, mode, clock):
        """From twenty samples on, the delay is the quantile of what was measured."""
        policy = hedge_of(mode, Quantile(0.9, initial=5))

        def fetch(wait):
            yield wait
            return wait

        protected = mode.function(policy, fetch)
        for number in range(19):
            mode.call(protected, 0.1 * (number + 1))
        assert policy.snapshot().delay == 5
        mode.call(protected, 2.0)
        assert policy.snapshot().delay == pytest.approx(1.8)

    def test_it_learns_from_overtaken_attempts_but_not_from_failures(self, mode, clock):
        """Overtaken attempts count with their time so far, or the delay would only sink."""
        policy = hedge_of(mode, Quantile(0.5, initial=2), budget=None)
        for _ in range(10):
            mode.call(mode.function(policy, plays((9, "first"), (1, "second"))))
            with pytest.raises(OSError, match="fast"):
                mode.call(mode.function(policy, plays((0, OSError("fast")), (0, OSError()))))
        # Ten of 1 s, and ten of 3 s when they were overtaken.
        assert policy.snapshot().delay == pytest.approx(1)
        mode.call(mode.function(policy, plays((9, "first"), (1.5, "second"))))
        assert policy.snapshot().delay == pytest.approx(1.5)

    def test_the_measured_delay_is_used(self, mode, clock):
        """A call is hedged after what was learnt."""
        policy = hedge_of(mode, Quantile(0.9, initial=5))
        for _ in range(20):
            mode.call(mode.function(policy, plays((0.5, "first"))))
        began = clock.now()
        assert mode.call(mode.function(policy, plays((9, "first"), (0.1, "second")))) == "second"
        assert clock.now() - began == pytest.approx(0.6)


class TestMisuse:
    def test_sync_code_needs_the_choice(self):
        """Nothing is run in threads unasked."""
        with pytest.raises(TypeError, match='sync="thread"'):
            Hedge(1)(lambda: None)
        with pytest.raises(TypeError, match='sync="thread"'):
            Hedge(1).call(lambda: None)

    def test_generators_are_refused_at_decoration(self):
        """The items of two attempts cannot be one stream."""

        def stream():
            yield 1

        async def astream():
            yield 1

        for fn in stream, astream:
            with pytest.raises(TypeError, match="generator"):
                Hedge(1, sync="thread")(fn)

    @ASYNC
    def test_threads_are_refused_on_an_event_loop(self, mode):
        """Waiting for a worker would stop the loop."""
        protected = Hedge(1, sync="thread")(lambda: None)

        async def main():
            with pytest.raises(RuntimeError, match="acall"):
                protected()

        mode.run(main)

    @pytest.mark.parametrize(
        ("error", "make"),
        [
            (TypeError, lambda: Hedge(lambda: None)),
            (TypeError, lambda: Hedge("1")),
            (ValueError, lambda: Hedge(-1)),
            (ValueError, lambda: Hedge(float("nan"))),
            (ValueError, lambda: Hedge(1, max_hedges=0)),
            (TypeError, lambda: Hedge(1, max_hedges=1.5)),
            (TypeError, lambda: Hedge(1, budget=1)),
            (ValueError, lambda: Hedge(1, sync="deadline")),
            (ValueError, lambda: Quantile(1, initial=1)),
            (ValueError, lambda: Quantile(0, initial=1)),
            (ValueError, lambda: Quantile(0.5, initial=0)),
            (TypeError, lambda: Quantile("0.5", initial=1)),
        ],
    )
    def test_bad_values(self, error, make):
        """What makes no sense is refused when the policy is built."""
        with pytest.raises(error):
            make()

    def test_a_wrong_order_warns(self):
        """A hedge around a retry or a fallback does not do what it seems to."""
        for inner in Retry(on=OSError), Fallback(value=1):
            with pytest.warns(CompositionWarning):
                Pipeline(Hedge(1), inner)

    @SYNC
    def test_without_a_worker_the_call_is_refused(self, mode, clock, monkeypatch):
        """A primary that gets no worker is refused; a hedge that gets none is dropped."""
        monkeypatch.setattr("resilient.hedge._WORKERS", 1)
        policy = hedge_of(mode)
        refused = []

        def fetch():
            try:
                policy.call(lambda: "never")
            except WorkersExhaustedError as error:
                refused.append(error.policy)
            waits.sleep(3)
            return "first"

        assert policy(fetch)() == "first"
        assert refused == [policy.name]

    @SYNC
    def test_an_interrupt_leaves_the_attempts_behind(self, mode, monkeypatch):
        """Ctrl-C comes out at once; what an attempt still returns is closed."""
        go, closed = threading.Event(), threading.Event()

        class Answer:
            def close(self):
                closed.set()

        def fetch():
            assert go.wait(5)
            return Answer()

        def interrupted(lock, timeout):
            raise KeyboardInterrupt

        monkeypatch.setattr(waits, "acquire", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hedge_of(mode)(fetch)()
        go.set()
        assert closed.wait(5)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


class TestAsyncio:
    """What can only go wrong where a cancellation is a count and an exception."""

    def run(self, main):
        asyncio.run(main())

    def test_no_task_until_the_delay_has_passed(self):
        """The primary runs inline, in the caller's task."""

        async def fetch():
            await asyncio.sleep(0)
            return asyncio.all_tasks() == {asyncio.current_task()}

        async def main():
            assert await Hedge(10)(fetch)()

        self.run(main)

    def test_the_primary_that_ends_with_the_hedge(self):
        """Both answers come in one turn of the loop: the caller is not cancelled afterwards."""

        async def main():
            loop = asyncio.get_running_loop()
            for primary_first in True, False:
                arms = [loop.create_future(), loop.create_future()]
                order = []

                async def fetch(arms=arms, order=order):
                    order.append(len(order))
                    return await arms[order[-1]]

                task = asyncio.create_task(Hedge(0)(fetch)())
                await until(lambda order=order: len(order) == 2)
                for index in (0, 1) if primary_first else (1, 0):
                    arms[index].set_result(index)
                assert await task in (0, 1)
                assert task.cancelling() == 0
                assert asyncio.all_tasks() == {asyncio.current_task()}

        self.run(main)

    def test_the_caller_is_not_cancelled_once_it_has_returned(self):
        """What the caller does after its answer is not interrupted by a late hedge."""

        async def main():
            for _ in range(100):
                turns = random.randrange(6)

                async def fetch(turns=turns):
                    for _ in range(turns if attempt_number() == 1 else 2):
                        await asyncio.sleep(0)
                    return attempt_number()

                await Hedge(0, budget=None)(fetch)()
                for _ in range(10):
                    await asyncio.sleep(0)
                assert asyncio.current_task().cancelling() == 0

        self.run(main)

    def test_the_callers_cancellation_together_with_the_answer(self):
        """A caller that is cancelled in the turn in which the hedge wins is cancelled."""

        async def main():
            loop = asyncio.get_running_loop()
            for cancel_first in True, False:
                answer, calls, resource = loop.create_future(), [], Resource()

                async def fetch(answer=answer, calls=calls):
                    calls.append(None)
                    if len(calls) == 1:
                        await asyncio.Event().wait()
                    return await answer

                task = asyncio.create_task(Hedge(0)(fetch)())
                await until(lambda calls=calls: len(calls) == 2)
                await asyncio.sleep(0)
                if cancel_first:
                    task.cancel()
                    answer.set_result(resource)
                else:
                    answer.set_result(resource)
                    await asyncio.sleep(0)
                    task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert task.cancelling() == 1
                # Cancelled first, the hedge did not get as far as to have a result.
                assert resource.closed == (0 if cancel_first else 1)
                assert asyncio.all_tasks() == {asyncio.current_task()}

        self.run(main)

    def test_a_primary_that_swallows_our_cancellation(self):
        """Its result comes too late and is closed; the cancellation is taken back."""
        late = Resource()

        async def fetch():
            if attempt_number() == 2:
                return "second"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return late

        async def main():
            assert await Hedge(0)(fetch)() == "second"
            assert asyncio.current_task().cancelling() == 0
            async with asyncio.timeout(10):
                await asyncio.sleep(0)

        self.run(main)
        assert late.closed == 1

    def test_a_primary_that_swallows_two_cancellations_at_once(self):
        """One delivery stands for the hedge's and the caller's: the caller's is not lost."""
        answer = Resource()

        async def main():
            may = asyncio.Event()

            async def fetch():
                if attempt_number() == 2:
                    await may.wait()
                    return answer
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                return "swallowed"

            task = asyncio.create_task(Hedge(0)(fetch)())
            for _ in range(5):
                await asyncio.sleep(0)
            may.set()
            # The hedge has its answer, and has cancelled the primary, before it runs again.
            asyncio.get_running_loop().call_soon(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelling() == 1

        self.run(main)
        assert answer.closed == 1

    def test_the_cleanup_of_a_hedge_is_not_interrupted(self):
        """A loser is cancelled once, however long the other losers take to end."""
        cleaned = []

        async def main():
            started = []

            async def fetch():
                number = attempt_number()
                started.append(number)
                if number == 3:
                    return "third"
                try:
                    await asyncio.Event().wait()
                finally:
                    for _ in range(5 if number == 1 else 20):
                        await asyncio.sleep(0)
                    cleaned.append(number)

            assert await Hedge(0, max_hedges=2)(fetch)() == "third"

        self.run(main)
        assert cleaned == [1, 2]

    def test_a_hedge_that_swallows_our_cancellation(self):
        """What it returns when the primary has won is closed, before the caller goes on."""
        late = Resource()

        async def main():
            hedged = asyncio.Event()

            async def fetch():
                if attempt_number() == 1:
                    await hedged.wait()
                    return "first"
                hedged.set()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                return late

            assert await Hedge(0)(fetch)() == "first"
            assert late.closed == 1

        self.run(main)

    def test_the_cleanup_of_a_cancelled_caller_is_not_interrupted(self):
        """A hedge that wins while the primary cleans up does not cancel it a second time."""
        cleaned, hedge_may = [], []

        async def fetch():
            if attempt_number() == 2:
                await until(lambda: hedge_may)
                return "second"
            try:
                await asyncio.Event().wait()
            finally:
                hedge_may.append(None)
                for _ in range(10):
                    await asyncio.sleep(0)
                cleaned.append(None)

        async def main():
            task = asyncio.create_task(Hedge(0)(fetch)())
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert cleaned

        self.run(main)

    def test_a_hedge_cancels_a_primary_that_survived_its_own_timeout(self, clock):
        """A primary whose own timeout was about to cancel it is stopped a little later."""

        async def fetch():
            if attempt_number() == 2:
                await asyncio.sleep(1)
                return "second"
            try:
                async with asyncio.timeout(2):
                    try:
                        await asyncio.sleep(9)
                    finally:
                        await asyncio.sleep(0.1)
            except TimeoutError:
                await asyncio.sleep(100)

        async def main():
            return await Hedge(1)(fetch)()

        began = clock.now()
        assert asyncio.run(main()) == "second"
        assert clock.now() - began < 5

    def test_cancel_at_every_await_point(self):
        """Whenever the caller is cancelled, it is, and nothing is left behind."""

        async def fetch():
            try:
                for _ in range(4 if attempt_number() == 1 else 2):
                    await asyncio.sleep(0)
                if attempt_number() == 2:
                    raise OSError
                return "late"
            finally:
                await asyncio.sleep(0)

        async def main():
            protected = Hedge(0, max_hedges=3, budget=None)(fetch)
            for turns in range(20):
                task = asyncio.create_task(protected())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if task.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    assert await task == "late"
                assert asyncio.all_tasks() == {asyncio.current_task()}

        self.run(main)

    def test_several_loops_in_threads_and_in_turn(self):
        """One decorated function serves every loop."""
        seen = []

        async def fetch(number):
            await asyncio.sleep(0)
            if attempt_number() == 1:
                await asyncio.Event().wait()
            return number

        protected = Hedge(0.001, budget=None)(fetch)

        async def main(number):
            for _ in range(20):
                assert await protected(number) == number
            seen.append(number)

        threads = [
            threading.Thread(target=lambda number=number: asyncio.run(main(number)))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(main(4))
        assert sorted(seen) == [0, 1, 2, 3, 4]

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks before")
    def test_eager_tasks(self):
        """A hedge may have ended before its task is known."""
        calls = []

        async def fetch():
            calls.append(attempt_number())
            if attempt_number() == 1:
                await asyncio.Event().wait()
            if attempt_number() == 2:
                raise OSError
            return "third"

        async def main():
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            assert await Hedge(0, max_hedges=2)(fetch)() == "third"
            assert calls == [1, 2, 3]

        self.run(main)

    @pytest.mark.parametrize("seed", range(8))
    def test_random_schedules(self, seed, clock):
        """Random waits, failures, timeouts and cancellations leave nothing, and lie to nobody."""
        dice = random.Random(seed)

        async def act():
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(dice.choice([0, 0, 0.5, 1, 1, 2]))
            if dice.random() < 0.3:
                raise OSError("attempt")
            return Resource()

        async def fetch():
            try:
                return await act()
            except asyncio.CancelledError:
                if dice.random() < 0.2:
                    await asyncio.sleep(dice.choice([0, 1]))
                if dice.random() < 0.1:
                    return "swallowed"
                raise
            finally:
                if dice.random() < 0.2:
                    await asyncio.sleep(dice.choice([0, 1]))

        def policy():
            inner = Hedge(
                dice.choice([0, 1, 1, 2, Quantile(0.5, initial=1)]),
                max_hedges=dice.randrange(1, 4),
                on=OSError,
                budget=None,
            )
            shapes = [
                inner,
                Pipeline(Timeout(dice.choice([1, 2, 3])), inner),
                Pipeline(inner, Timeout(dice.choice([0.5, 1, 2]))),
                Pipeline(Retry(on=OSError, backoff=[0]), inner),
                Pipeline(Hedge(1, on=OSError, budget=None), inner),
            ]
            return dice.choice(shapes)

        async def one():
            protected = policy()(fetch)
            before = asyncio.current_task().cancelling()
            try:
                await protected()
            except (OSError, CallTimeoutError):
                pass
            except asyncio.CancelledError:
                assert asyncio.current_task().cancelling() > before
                raise
            assert asyncio.current_task().cancelling() - before in (0, 1)
            await asyncio.sleep(0)

        async def main():
            for _ in range(250):
                task = asyncio.create_task(one())
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.choice([0, 0.5, 1, 1, 1.5, 2]))
                    task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    assert task.cancelling()
                assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())


class TestTrio:
    def test_the_callers_cancellation_is_no_group(self, clock):
        """What leaves the nursery is the bare `Cancelled`."""
        seen = []

        async def fetch():
            await trio.sleep(10)

        async def main():
            with trio.move_on_after(3):
                try:
                    await Hedge(1)(fetch)()
                except BaseException as error:
                    seen.append(type(error))
                    raise

        trio.run(main, clock=clock.trio)
        assert seen == [trio.Cancelled]

    @pytest.mark.parametrize("seed", range(4))
    def test_random_schedules(self, seed, clock):
        """Random waits, failures and cancellations, always with a bare outcome."""
        dice = random.Random(seed)

        async def fetch():
            for _ in range(dice.randrange(3)):
                await trio.sleep(dice.choice([0, 0, 0.5, 1, 1, 2]))
            if dice.random() < 0.3:
                raise OSError("attempt")
            return Resource()

        async def main():
            for _ in range(150):
                inner = Hedge(
                    dice.choice([0, 1, 1, 2, Quantile(0.5, initial=1)]),
                    max_hedges=dice.randrange(1, 4),
                    budget=None,
                )
                policy = dice.choice(
                    [inner, Pipeline(inner, Timeout(1)), Pipeline(Hedge(1, budget=None), inner)]
                )
                with trio.move_on_after(dice.choice([0, 0.5, 1, 1.5, 2, 9])):
                    # No group, or it would come through.
                    with contextlib.suppress(OSError, CallTimeoutError):
                        await policy(fetch)()

        trio.run(main, clock=clock.trio)


def test_nothing_reads_the_wall_clock(mode, clock, monkeypatch):
    """The clock is read through its module at each use."""
    assert core_clock.now() == clock.now()
    fetch = plays((9, "first"), (0.5, "second"))
    assert mode.call(mode.function(hedge_of(mode), fetch)) == "second"
