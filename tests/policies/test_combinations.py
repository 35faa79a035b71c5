"""Policies around each other: what one leaves behind, the others account for.

Most of it is about sync code in worker threads, where a call that was given up runs on. The
waits are the virtual clock's, in the workers too: no time passes but what they wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    constant,
    remaining,
)
from resilient import timeout as timeout_module
from resilient._core import deadline
from resilient._runtime import waits

pytestmark = pytest.mark.filterwarnings("ignore::resilient.CompositionWarning")

OPEN, CLOSED = CircuitState.OPEN, CircuitState.CLOSED


def thread(seconds: float) -> Timeout:
    return Timeout(seconds, sync="thread")


def hedge(delay: float) -> Hedge:
    return Hedge(delay, sync="thread", budget=None)


def sleeps(*seconds: float) -> Callable[[], int]:
    """A function that takes so long at its first call, its second, and so on."""
    left = iter(enumerate(seconds))

    def function() -> int:
        number, wait = next(left)
        waits.sleep(wait)
        return number

    return function


class ModelError(Exception):
    """A failure of the backend."""


# A bulkhead and the workers that are left behind inside it.


def held(bulkhead: Bulkhead, moments: list[float]) -> list[int]:
    """How many permits are in use after each of so many seconds from now."""
    seen, now = [], 0.0
    for moment in moments:
        waits.sleep(moment - now)
        now = moment
        seen.append(bulkhead.snapshot().active)
    return seen


def test_a_permit_is_held_for_a_worker_left_behind_in_one_left_behind(clock: Any) -> None:
    """The inner worker joins when the outer caller has long gone."""
    bulkhead = Bulkhead(1)
    protected = Pipeline(bulkhead, thread(1), Fallback(using=_busy), thread(5))(sleeps(9))
    with pytest.raises(CallTimeoutError):
        protected()
    # The abandoned worker is in its fallback until 4, and the one inside it runs until 9.
    assert held(bulkhead, [2, 7, 8.5]) == [1, 1, 0]


def _busy(outcome: object) -> None:
    waits.sleep(3)


def test_a_permit_is_held_for_the_losers_of_an_abandoned_hedge(clock: Any) -> None:
    """The hedge decides in its abandoned worker, and leaves its loser behind only then."""
    bulkhead = Bulkhead(1)
    protected = Pipeline(bulkhead, thread(2), hedge(1))(sleeps(9, 3))
    with pytest.raises(CallTimeoutError):
        protected()
    assert held(bulkhead, [1, 3, 6.5, 7.5]) == [1, 1, 1, 0]


def test_an_attempts_permit_is_held_for_its_own_worker_alone(clock: Any) -> None:
    """Inside a retry, each attempt's permit comes back with that attempt's worker."""
    bulkhead = Bulkhead(3)
    retry = Retry(on=CallTimeoutError, attempts=3, backoff=constant(0), budget=None)
    protected = Pipeline(retry, bulkhead, thread(1))(sleeps(9, 5, 7))
    with pytest.raises(CallTimeoutError):
        protected()
    # Begun at 0, 1 and 2, they end at 9, 6 and 9; it is 3 now.
    assert held(bulkhead, [2, 4, 7]) == [3, 2, 0]


def test_a_bulkhead_around_a_retry_waits_for_all_workers(clock: Any) -> None:
    bulkhead = Bulkhead(1)
    retry = Retry(on=CallTimeoutError, attempts=3, backoff=constant(0), budget=None)
    protected = Pipeline(bulkhead, retry, thread(1))(sleeps(4, 9, 3))
    with pytest.raises(CallTimeoutError):
        protected()
    assert held(bulkhead, [2.5, 6.5, 7.5]) == [1, 1, 0]


# A breaker and the workers around it.


@pytest.mark.parametrize(
    "around",
    [
        lambda breaker: [thread(1), breaker],
        lambda breaker: [thread(1), breaker, thread(5)],
        lambda breaker: [thread(5), breaker, thread(1)],
        lambda breaker: [thread(1), thread(5), breaker],
        lambda breaker: [thread(1), hedge(5), breaker],
        lambda breaker: [thread(1), breaker, hedge(5)],
        lambda breaker: [thread(1), hedge(0.5), breaker],
        lambda breaker: [thread(1), hedge(5), thread(5), breaker],
        lambda breaker: [thread(1), breaker, Retry(on=ModelError), hedge(5), thread(5)],
        lambda breaker: [thread(1), PerKey(lambda key: breaker, key=lambda: 0)],
        lambda breaker: [breaker, hedge(5), thread(1)],
        lambda breaker: [breaker, Retry(on=ModelError), Bulkhead(1), thread(1)],
    ],
)
def test_a_hang_is_seen_wherever_the_breaker_stands(clock: Any, around: Any) -> None:
    """When the caller gives up, not when the function comes back after all."""
    breaker = CircuitBreaker(on=ModelError, consecutive_failures=1)
    with pytest.raises(CallTimeoutError):
        Pipeline(*around(breaker))(sleeps(9, 9))()
    waits.sleep(0.1)
    assert breaker.state is OPEN


@pytest.mark.parametrize(
    "around",
    [
        lambda breaker, full: [thread(1), breaker, full],
        lambda breaker, full: [thread(1), breaker, hedge(5), full],
        lambda breaker, full: [thread(1), hedge(0.5), breaker, full],
        lambda breaker, full: [thread(1), breaker, thread(5), full],
    ],
)
def test_time_spent_in_a_queue_says_nothing_of_the_backend(clock: Any, around: Any) -> None:
    """The function was never entered, so that no breaker counts the call."""
    breaker, full = CircuitBreaker(consecutive_failures=1), Bulkhead(1, max_queue=9)
    with full.guard():
        with pytest.raises((CallTimeoutError, BulkheadFullError)):
            Pipeline(*around(breaker, full))(sleeps())()
        waits.sleep(1)
    assert (breaker.state, breaker.snapshot().failures) == (CLOSED, 0)


def test_an_attempt_that_hangs_after_one_that_was_refused_is_seen(clock: Any) -> None:
    """Only the second attempt enters the function: the breaker around them knows at once."""
    breaker, full = CircuitBreaker(consecutive_failures=1), Bulkhead(1)
    retry = Retry(on=BulkheadFullError, backoff=constant(1), budget=None)
    guard = full.guard()
    guard.__enter__()
    # Refused once, it gives way.
    full.subscribe(lambda event: guard.__exit__(None, None, None))
    with pytest.raises(CallTimeoutError):
        Pipeline(thread(3), breaker, retry, full)(sleeps(9))()
    assert breaker.state is OPEN


@pytest.mark.parametrize(
    "around",
    [
        lambda breaker: [hedge(1), breaker],
        lambda breaker: [hedge(1), thread(4), breaker],
        lambda breaker: [hedge(1), breaker, thread(4)],
        lambda breaker: [hedge(1), Retry(on=ModelError), thread(5), breaker, thread(4)],
    ],
)
def test_a_hedges_loser_is_neutral_whatever_stands_between(clock: Any, around: Any) -> None:
    """Also if a timeout further in runs out in the loser's worker, afterwards."""
    breaker = CircuitBreaker(consecutive_failures=1)
    assert Pipeline(*around(breaker))(sleeps(9, 0))() == 1
    waits.sleep(9)
    assert (breaker.state, breaker.snapshot().failures) == (CLOSED, 0)


# A retry around a breaker.


def failing_retry(breaker: CircuitBreaker, **options: Any) -> Pipeline:
    return Pipeline(Retry(attempts=5, backoff=constant(2), **options), breaker)


def fails() -> None:
    raise ModelError


def test_a_retry_does_not_wait_for_an_attempt_that_its_breaker_would_refuse(
    mode: Any, clock: Any
) -> None:
    """It opened over the second attempt: that one's error, at once, and no retry is paid."""
    budget = RetryBudget(capacity=9)
    policy = failing_retry(
        CircuitBreaker("gate", consecutive_failures=2), on=ModelError, budget=budget
    )
    began = clock.now()
    with pytest.raises(ModelError) as caught:
        mode.call(mode.function(policy, fails))
    assert clock.now() == began + 2
    assert caught.value.__notes__[0].endswith("gave up after 2 attempts in 2 s: gate has opened")
    assert budget.tokens == 8


def test_a_retry_waits_for_a_circuit_that_will_be_probed_by_then(mode: Any, clock: Any) -> None:
    began = clock.now()
    policy = failing_retry(CircuitBreaker(consecutive_failures=1, open_for=1), on=ModelError)
    with pytest.raises(ModelError):
        mode.call(mode.function(policy, fails))
    assert clock.now() == began + 8


def test_a_retry_that_names_the_refusal_waits_for_it(mode: Any, clock: Any) -> None:
    began = clock.now()
    breaker = CircuitBreaker(consecutive_failures=1)
    policy = failing_retry(breaker, on=(ModelError, CircuitOpenError))
    with pytest.raises(ModelError):
        mode.call(mode.function(policy, fails))
    assert clock.now() >= began + 30


def test_a_refused_result_that_opens_the_circuit_is_returned_at_once(mode: Any, clock: Any) -> None:
    began = clock.now()
    breaker = CircuitBreaker(consecutive_failures=1, on_result=bool)
    policy = failing_retry(breaker, on_result=bool)
    assert mode.call(mode.function(policy, lambda: "bad")) == "bad"
    assert clock.now() == began


# What an interrupt may leave half done.


class Interrupts:
    """Stands for a context variable, and is interrupted right after it was set."""

    def __init__(self) -> None:
        self._left = 1

    def get(self) -> Any:
        return deadline.current.get()

    def set(self, value: Any) -> None:
        deadline.current.set(value)
        self._left -= 1
        if self._left >= 0:
            raise KeyboardInterrupt


@pytest.fixture
def in_context() -> Iterator[None]:
    token = deadline.current.set(None)
    yield
    deadline.current.reset(token)


@pytest.mark.usefixtures("in_context")
def test_an_interrupt_leaves_no_deadline_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end every later call of the thread when its time is up."""
    policy = Timeout(60, sync="deadline")
    monkeypatch.setattr(timeout_module, "current", Interrupts())
    with pytest.raises(KeyboardInterrupt):
        policy.call(remaining)
    assert remaining() is None
    monkeypatch.setattr(timeout_module, "current", Interrupts())
    with pytest.raises(KeyboardInterrupt):
        policy.guard().__enter__()
    assert remaining() is None


@pytest.mark.usefixtures("in_context")
@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_on_the_way_out_ends_the_deadline(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def interrupted(record: object) -> None:
        raise KeyboardInterrupt

    def function() -> None:
        if fails:
            raise ModelError

    monkeypatch.setattr(timeout_module, "leave", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Timeout(60, sync="deadline").call(function)
    assert remaining() is None


@pytest.mark.parametrize("mode", ["sync", "asyncio"], indirect=True)
def test_an_errors_traceback_does_not_hold_the_permit(mode: Any) -> None:
    """An interrupt may lose it in a later call: then it must be collected at once."""

    def fails() -> None:
        raise ModelError

    bulkhead = Bulkhead(1)
    with pytest.raises(ModelError) as caught:
        mode.call(mode.function(bulkhead, fails))
    lost = bulkhead._permits.take()
    assert bulkhead.snapshot().active == 1
    del lost
    assert bulkhead.snapshot().active == 0
    assert caught.value.__traceback__ is not None


class InterruptedLock:
    """A lock; the first who leaves it is interrupted."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._left = 1

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
        self._left -= 1
        if self._left >= 0:
            raise KeyboardInterrupt


class LateLock(InterruptedLock):
    """A lock; the first who would take it is interrupted."""

    def __enter__(self) -> None:
        self._left -= 1
        if self._left >= 0:
            raise KeyboardInterrupt
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("lock", [InterruptedLock, LateLock])
@pytest.mark.parametrize("end", [None, ModelError, ValueError])
def test_an_interrupt_never_costs_a_probes_place(clock: Any, lock: Any, end: Any) -> None:
    """Whatever the probe came to: the circuit is not stuck half-open."""
    breaker = CircuitBreaker(on=ModelError, consecutive_failures=1, open_for=1)
    with pytest.raises(ModelError), breaker.guard():
        raise ModelError
    clock.advance(2)
    probe = breaker.guard()
    probe.__enter__()
    breaker._circuit._lock = lock(breaker._circuit._lock)
    with pytest.raises(KeyboardInterrupt):
        probe.__exit__(end, end and end(), None)
    clock.advance(2)
    assert breaker.call(sleeps(0)) == 0
    assert breaker.state is CLOSED


def test_an_interrupt_while_closing_leaves_no_circuit_half_open(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe has been counted already: whoever looks next closes."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=1)
    with pytest.raises(ModelError), breaker.guard():
        raise ModelError
    clock.advance(2)

    def interrupted(circuit: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(breaker._circuit), "_close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(sleeps(0))
    monkeypatch.undo()
    assert breaker.state is CLOSED


# Calls that would stop the event loop.


@pytest.mark.parametrize("inside", [thread(1), hedge(1), Bulkhead(1, max_queue=1)])
def test_a_call_that_would_stop_the_event_loop_is_no_failure(inside: Any) -> None:
    """It is the caller's mistake: not retried, not counted, not hidden by a fallback."""
    breaker, retry = CircuitBreaker(consecutive_failures=1), Retry(on=Exception)
    policy = Pipeline(Fallback(value=0), retry, breaker, inside)
    held = inside.guard() if isinstance(inside, Bulkhead) else nullcontext()

    async def main() -> None:
        with held, pytest.raises(RuntimeError, match="event loop"):
            policy.call(sleeps(0))

    asyncio.run(main())
    assert (breaker.state, breaker.snapshot().calls) == (CLOSED, 0)
