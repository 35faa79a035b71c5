"""Retry: what it tries again, when, and what the caller gets in the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import traceback
import weakref
from datetime import timedelta
from types import SimpleNamespace

import pytest
import trio

from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    Pipeline,
    Retry,
    RetryBudget,
    attempt_number,
    constant,
    exponential,
    once,
)
from resilient._core.deadline import Deadline
from resilient._core.deadline import current as deadline
from resilient.events import RetryExhausted, RetryScheduled

NONE = constant(0)


class Backend:
    """Answers with what it was given, one by one: exceptions are raised."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), 0

    def __call__(self):
        self.calls += 1
        answer = self.answers[min(self.calls, len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def run(mode, policy, backend):
    return mode.call(mode.function(policy, backend))


def scheduled(events):
    return [event.delay for event in events if isinstance(event, RetryScheduled)]


def notes(error):
    return getattr(error, "__notes__", [])


def test_a_failure_is_tried_again_until_it_succeeds(mode, clock, events):
    """The caller sees the result alone."""
    backend = Backend(OSError("1"), OSError("2"), "fine")
    assert run(mode, Retry(OSError, backoff=[1, 2]), backend) == "fine"
    assert scheduled(events) == [1, 2]
    assert clock.now() == pytest.approx(clock_start(events, clock) + 3)


def clock_start(events, clock):
    return clock.now() - sum(scheduled(events))


def test_time_passes_as_the_backoff_says_and_not_after_the_last_attempt(mode, clock):
    """Two waits between three attempts."""
    before = clock.now()
    with pytest.raises(OSError, match="x"):
        run(mode, Retry(on=OSError, backoff=constant(5)), Backend(OSError("x")))
    assert clock.now() - before == pytest.approx(10)


def test_the_last_exception_itself_is_raised_with_a_note(mode, clock, events):
    """With its traceback, and what was done about it."""
    errors = [OSError("1"), OSError("2"), OSError("3")]
    retry = Retry(on=OSError, backoff=constant(1), name="db")
    with pytest.raises(OSError, match="3") as caught:
        run(mode, retry, Backend(*errors))
    assert caught.value is errors[2]
    assert notes(errors[2]) == [
        "resilient: db gave up after 3 attempts in 2 s: all 3 attempts were used"
    ]
    assert notes(errors[0]) == []
    assert any(frame.name == "__call__" for frame in traceback.extract_tb(caught.tb))
    assert caught.value.__context__ is None
    (exhausted,) = [event for event in events if isinstance(event, RetryExhausted)]
    assert (exhausted.attempts, exhausted.error) == (3, errors[2])
    assert exhausted.elapsed == pytest.approx(2)


def test_a_note_replaces_the_one_of_an_earlier_call(mode):
    """An error that a backend raises again and again does not collect them."""
    error = OSError("same")
    for name in ("one", "two"):
        with pytest.raises(OSError, match="same"):
            run(mode, Retry(on=OSError, attempts=1, name=name), Backend(error))
    assert len(notes(error)) == 1
    assert "two gave up after 1 attempt in" in notes(error)[0]


def test_an_exception_that_does_not_match_is_raised_at_once(mode, clock):
    """Without a note, as if nothing stood around it."""
    error = ValueError("mine")
    backend = Backend(OSError("1"), error)
    with pytest.raises(ValueError, match="mine"):
        run(mode, Retry(on=OSError, backoff=NONE), backend)
    assert backend.calls == 2
    assert notes(error) == []


def test_unless_takes_classes_away(mode):
    """Also from a predicate."""
    for on in (OSError, lambda error: True):
        backend = Backend(ConnectionError("no"))
        with pytest.raises(ConnectionError):
            run(mode, Retry(on=on, unless=ConnectionError), backend)
        assert backend.calls == 1


def test_on_result_refuses_results_and_the_last_one_is_returned(mode, clock, events):
    """There is no exception to raise."""
    backend = Backend(None, 0, "")
    assert run(mode, Retry(on_result=lambda value: not value, backoff=constant(1)), backend) == ""
    assert backend.calls == 3
    assert [event.error for event in events] == [None, None, None]


def test_with_on_result_alone_exceptions_pass(mode):
    """`on` was not given."""
    backend = Backend(OSError("x"))
    with pytest.raises(OSError, match="x"):
        run(mode, Retry(on_result=bool), backend)
    assert backend.calls == 1


@pytest.mark.parametrize(
    ("answer", "delay"),
    [(True, 1), (0, 0), (0.0, 0), (timedelta(0), 0), (3, 3), (timedelta(seconds=4), 4), (-1, 1)],
)
def test_a_predicate_says_yes_or_how_long_to_wait(mode, clock, events, answer, delay):
    """0 is now; a wait is the least one, with up to a tenth on top."""
    run(mode, Retry(on=lambda error: answer, backoff=constant(1)), Backend(OSError("x"), "fine"))
    (found,) = scheduled(events)
    assert delay <= found <= (delay * 1.1 if delay > 1 else delay)


@pytest.mark.parametrize("answer", [False, None])
def test_a_predicate_says_no(mode, answer):
    """False or `None`."""
    backend = Backend(OSError("x"))
    with pytest.raises(OSError, match="x"):
        run(mode, Retry(on=lambda error: answer), backend)
    assert backend.calls == 1


def test_now_overrules_a_header(mode, clock, events):
    """The predicate has seen the response, and knows better."""
    error = OSError("x")
    error.response = SimpleNamespace(headers={"Retry-After": "500"})
    run(mode, Retry(on=lambda error: 0, backoff=constant(9)), Backend(error, "fine"))
    assert scheduled(events) == [0]


def test_a_servers_hint_is_waited_for(mode, clock, events):
    """By attribute or by header."""
    error = OSError("x")
    error.response = SimpleNamespace(headers={"Retry-After": "7"})
    run(mode, Retry(on=OSError, backoff=constant(1)), Backend(error, "fine"))
    (found,) = scheduled(events)
    assert 7 <= found <= 7.7


def test_a_hint_that_asks_for_too_much_gives_up_without_a_sleep(mode, clock):
    """The note says why."""
    error = OSError("x")
    error.retry_after = 61
    before = clock.now()
    with pytest.raises(OSError, match="x"):
        run(mode, Retry(on=OSError), Backend(error))
    assert clock.now() == before
    assert "the server asked to wait 61 s" in notes(error)[0]


@pytest.mark.parametrize("seconds", [4.0, 5.0])
def test_no_sleep_ends_after_the_deadline(mode, clock, seconds):
    """Nor at it. It gives up at once with the real error, and the note says why."""
    error = OSError("x")
    token = deadline.set(Deadline(clock.now() + seconds, None, "outer", seconds))
    try:
        before = clock.now()
        with pytest.raises(OSError, match="x"):
            run(mode, Retry(on=OSError, backoff=constant(5)), Backend(error))
    finally:
        deadline.reset(token)
    assert clock.now() == before
    assert "the deadline in" in notes(error)[0]


def test_without_attempts_max_elapsed_ends_it(mode, clock):
    """As many attempts as fit."""
    backend = Backend(OSError("x"))
    with pytest.raises(OSError, match="x"):
        run(mode, Retry(on=OSError, attempts=None, max_elapsed=10, backoff=constant(3)), backend)
    assert backend.calls == 4


def test_a_delay_of_zero_does_not_sleep_at_all(mode, monkeypatch):
    """It would cost more than the call."""
    from resilient._runtime import waits

    def never(seconds):
        raise AssertionError("slept")

    with monkeypatch.context() as patch:
        patch.setattr(waits, "sleep", never)
        patch.setattr(waits, "asleep", never)
        assert run(mode, Retry(on=OSError, backoff=NONE), Backend(OSError("x"), 1)) == 1


def test_inside_once_nothing_is_tried_again(mode):
    """The error is the real one, and the note says why it came out."""
    error, backend = OSError("x"), Backend(OSError("y"))
    backend.answers = [error]
    with pytest.raises(OSError, match="x"), once():
        run(mode, Retry(on=OSError, backoff=NONE), backend)
    assert backend.calls == 1
    assert "once()" in notes(error)[0]


def test_the_attempts_are_numbered(mode):
    """For logs and headers, and 1 again when the call is over."""
    seen = []

    def load():
        seen.append(attempt_number())
        if len(seen) < 3:
            raise OSError("x")

    run(mode, Retry(on=OSError, backoff=NONE), load)
    assert seen == [1, 2, 3]
    assert attempt_number() == 1


def test_a_call_inside_a_second_attempt_has_a_first_attempt_of_its_own():
    """The number is that of the innermost retried call."""
    seen = []

    @Retry(on=KeyError, backoff=NONE)
    def inner():
        seen.append(("inner", attempt_number()))

    @Retry(on=OSError, backoff=NONE)
    def outer():
        inner()
        seen.append(("outer", attempt_number()))
        if len(seen) < 4:
            raise OSError("x")

    outer()
    assert seen == [("inner", 1), ("outer", 1), ("inner", 1), ("outer", 2)]
    assert attempt_number() == 1


def test_state_is_per_call(mode):
    """Calls that run together count for themselves."""
    retry = Retry(on=OSError, attempts=3, backoff=constant(0.001), budget=None)
    seen = []

    def load(name):
        number = attempt_number()
        seen.append((name, number))
        if number < 3:
            yield 0.001
            raise OSError(name)
        return name

    protected = mode.function(retry, load)
    names = [str(number) for number in range(20)]
    found = mode.together(*[lambda name=name: protected(name) for name in names])
    assert found == names
    assert sorted(seen) == sorted((name, number) for name in names for number in (1, 2, 3))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_are_never_tried_again(error):
    """Whatever a predicate says."""
    backend = Backend(OSError("1"), error())
    with pytest.raises(error):
        Retry(on=lambda error: True, backoff=NONE)(backend)()
    assert backend.calls == 2
    assert attempt_number() == 1


def test_a_cancellation_is_never_tried_again_on_asyncio():
    """And a retry whose sleep it prevents is paid back."""
    budget = RetryBudget(capacity=5)
    backend = Backend(OSError("x"))

    @Retry(on=lambda error: True, backoff=constant(3600), budget=budget)
    async def load():
        return backend()

    async def main():
        task = asyncio.create_task(load())
        while not backend.calls:
            await asyncio.sleep(0)
        assert budget.tokens == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert budget.tokens == 5

    asyncio.run(main())
    assert backend.calls == 1


def test_a_cancellation_is_never_tried_again_on_trio():
    """Whether it strikes in the sleep or in the call."""
    budget = RetryBudget(capacity=5)
    calls = []

    @Retry(on=lambda error: True, backoff=constant(3600), budget=budget)
    async def load():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("x")
        await trio.sleep_forever()

    async def main():
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

    trio.run(main)
    assert len(calls) == 2
    assert budget.tokens == 5


def test_an_interrupted_sleep_is_paid_back(monkeypatch):
    """Ctrl-C in a sync sleep."""
    from resilient._runtime import waits

    def interrupted(seconds):
        raise KeyboardInterrupt

    budget = RetryBudget(capacity=5)
    with monkeypatch.context() as patch:
        patch.setattr(waits, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Retry(on=OSError, budget=budget)(Backend(OSError("x")))()
    assert budget.tokens == 5


def test_a_retry_over_an_open_breaker_does_not_sleep(mode, clock):
    """The rejection comes out at once, and without a note."""
    breaker = CircuitBreaker("b")
    breaker.isolate()
    before = clock.now()
    backend = Backend(1)
    with pytest.raises(CircuitOpenError) as caught:
        run(mode, Pipeline(Retry(on=lambda error: True), breaker), backend)
    assert (backend.calls, clock.now()) == (0, before)
    assert notes(caught.value) == []


def test_a_breaker_that_opens_meanwhile_does_not_hide_the_real_error(mode, clock, events):
    """The last real error comes out, at once, and the note counts what was really made."""
    breaker = CircuitBreaker("b")
    errors = [OSError("1"), OSError("2")]
    backend = Backend(*errors)
    retry = Retry(on=OSError, attempts=9, backoff=constant(1), name="r")
    retry.subscribe(lambda event: backend.calls == 2 and breaker.isolate())
    with pytest.raises(OSError, match="2") as caught:
        run(mode, Pipeline(retry, breaker), backend)
    assert caught.value is errors[1]
    assert backend.calls == 2
    assert notes(caught.value) == [
        "resilient: r gave up after 2 attempts in 2 s: b refused attempt 3"
    ]
    assert caught.value.__context__ is None
    assert [event.attempts for event in events if isinstance(event, RetryExhausted)] == [2]


def test_a_breaker_that_opens_meanwhile_leaves_the_last_result(mode):
    """With `on_result` the last real outcome is a value."""
    breaker = CircuitBreaker("b")
    backend = Backend(1, 2, 3)
    retry = Retry(on_result=lambda value: value < 9, attempts=9, backoff=NONE)
    retry.subscribe(lambda event: backend.calls == 2 and breaker.isolate())
    assert run(mode, Pipeline(retry, breaker), backend) == 2


def test_a_rejection_that_is_named_is_retried(mode, clock):
    """As a class; the circuit closes in the meantime."""
    breaker = CircuitBreaker("b", consecutive_failures=1, open_for=[5])
    backend = Backend(OSError("x"), "fine")
    retry = Retry(on=(OSError, CircuitOpenError), attempts=5, backoff=constant(2))
    assert run(mode, Pipeline(retry, breaker), backend) == "fine"
    assert backend.calls == 2


def test_a_real_error_outlives_the_named_rejections_after_it(mode):
    """What comes out after an unnamed one is the last that was really made."""
    from resilient import BulkheadFullError

    real = OSError("real")
    backend = Backend(real, CircuitOpenError(policy="c"), BulkheadFullError(policy="b"))
    retry = Retry(on=(OSError, CircuitOpenError), attempts=9, backoff=NONE)
    with pytest.raises(OSError, match="real"):
        run(mode, retry, backend)


def test_ten_thousand_attempts_and_a_refusal_leave_no_chain(mode):
    """The error has no context, holds no other one, and its traceback is short."""
    references = []

    def load():
        if len(references) == 10_000:
            raise CircuitOpenError(policy="b")
        raise remember(Failure(str(len(references) + 1)), references)

    retry = Retry(on=OSError, attempts=None, max_elapsed=3600, backoff=NONE, budget=None)
    gc.disable()
    try:
        with pytest.raises(OSError, match="10000") as caught:
            run(mode, retry, load)
        assert caught.value.__context__ is None
        assert len(traceback.extract_tb(caught.tb)) < 40
        assert sum(reference() is not None for reference in references) == 1
        assert "after 10000 attempts" in notes(caught.value)[0]
    finally:
        gc.enable()


class Failure(OSError):
    """One that can be referred to weakly."""


def remember(error, references):
    references.append(weakref.ref(error))
    return error


class Argument:
    pass


@pytest.mark.parametrize("last", [Failure, CircuitOpenError, KeyboardInterrupt])
def test_no_reference_cycle_is_left(last):
    """Without the collector, the errors and the frames of a call go with it."""
    references = []

    @Retry(on=OSError, attempts=4 if last is not Failure else 3, backoff=NONE)
    def load(argument):
        if len(references) == 3:
            raise last("x")
        raise remember(Failure("x"), references)

    call_and_forget(load, references)


@pytest.mark.parametrize("last", [Failure, CircuitOpenError])
def test_no_reference_cycle_is_left_by_a_coroutine(last):
    """Neither by its frames."""
    references = []

    @Retry(on=OSError, attempts=4 if last is not Failure else 3, backoff=NONE)
    async def load(argument):
        if len(references) == 3:
            raise last("x")
        raise remember(Failure("x"), references)

    def step(argument):
        # Nothing in it waits, so no loop is needed, and none can keep anything.
        load(argument).send(None)

    call_and_forget(step, references)


def call_and_forget(load, references):
    gc.collect()
    gc.disable()
    try:
        argument = Argument()
        references_to_argument = weakref.ref(argument)
        with contextlib.suppress(OSError, KeyboardInterrupt):
            load(argument)
        del argument
        assert references_to_argument() is None
        assert [one() for one in references] == [None] * 3
    finally:
        gc.enable()


def test_a_predicate_that_fails_leaves_nothing_behind():
    """Its error comes out, in the context of the real one."""
    budget = RetryBudget(capacity=3)
    retry = Retry(on=lambda error: 1 / 0, budget=budget)
    with pytest.raises(ZeroDivisionError) as caught:
        retry(Backend(OSError("x")))()
    assert isinstance(caught.value.__context__, OSError)
    assert (budget.tokens, attempt_number()) == (3, 1)


def test_a_timeout_is_retried_if_on_matches_it():
    """`OSError` does, since a timeout is one."""
    error = CallTimeoutError(policy="t", seconds=1)
    assert Retry(on=OSError, backoff=NONE)(Backend(error, 1))() == 1
    with pytest.raises(CallTimeoutError):
        Retry(on=ConnectionError, backoff=NONE)(Backend(error, 1))()
    assert Retry(on=OSError).ignores(CallTimeoutError) is False
    assert Retry(on=ConnectionError).ignores(CallTimeoutError) is True
    assert Retry(on=lambda error: True).ignores(CallTimeoutError) is False
    assert Retry(on=OSError, unless=TimeoutError).ignores(CallTimeoutError) is True
    assert Retry(on_result=bool).ignores(CallTimeoutError) is True


def test_the_default_backoff_is_jittered(mode, clock, events):
    """Clients that wait alike come back together."""
    with pytest.raises(OSError, match="x"):
        run(mode, Retry(on=OSError, attempts=30), Backend(OSError("x")))
    assert len(set(scheduled(events))) == 29
    assert all(0 <= delay <= 10 for delay in scheduled(events))


def test_a_retry_that_gives_up_leaves_what_is_saved_up_alone(mode):
    """Only retries that are made cost something."""
    budget = RetryBudget(capacity=9)
    with pytest.raises(OSError, match="x"):
        run(mode, Retry(on=OSError, attempts=4, budget=budget, backoff=NONE), Backend(OSError("x")))
    assert budget.tokens == 6
    assert exponential(1, maximum=2) is not None
