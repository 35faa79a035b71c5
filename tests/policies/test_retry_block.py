"""Retry as blocks: `for attempt in retry: with attempt: ...`, and `async for`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref

import pytest
import trio

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    Retry,
    RetryBudget,
    attempt_number,
    constant,
    once,
)
from resilient.testing import passthrough

NONE = constant(0)


class Failure(OSError):
    """One that can be referred to weakly."""


def loop(mode, retry, body):
    """Run `body(call)` in the blocks of a loop in the mode's colour."""
    if not mode.is_async:
        for attempt in retry:
            with attempt as call:
                body(call)
        return

    async def main():
        async for attempt in retry:
            with attempt as call:
                body(call)

    mode.run(main)


def test_a_block_is_tried_again_until_it_succeeds(mode, clock):
    """Attempts are numbered from 1, and waits lie between them."""
    before, seen = clock.now(), []

    def body(call):
        seen.append((call.number, attempt_number()))
        if call.number < 3:
            raise OSError("x")

    loop(mode, Retry(on=OSError, backoff=[1, 2]), body)
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert clock.now() - before == pytest.approx(3)
    assert attempt_number() == 1


def test_the_last_error_comes_out_with_a_note(mode, clock):
    """There is no wait after it."""
    before, errors = clock.now(), []

    def body(call):
        errors.append(OSError(str(call.number)))
        raise errors[-1]

    with pytest.raises(OSError, match="2") as caught:
        loop(mode, Retry(on=OSError, attempts=2, backoff=constant(5)), body)
    assert caught.value is errors[-1]
    assert clock.now() - before == pytest.approx(5)
    assert "after 2 attempts" in caught.value.__notes__[0]


def test_an_error_that_does_not_match_comes_out(mode):
    """At once."""
    seen = []

    def body(call):
        seen.append(call.number)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        loop(mode, Retry(on=OSError, backoff=NONE), body)
    assert seen == [1]


def test_each_loop_starts_afresh(mode):
    """One policy serves any number of loops."""
    retry, seen = Retry(on=OSError, attempts=2, backoff=NONE), []

    def body(call):
        seen.append(call.number)
        if len(seen) < 2:
            raise OSError("x")

    loop(mode, retry, body)
    loop(mode, retry, body)
    assert seen == [1, 2, 1]


def test_a_result_is_judged_if_it_is_told(mode):
    """`set_result` gives it back."""
    seen = []

    def body(call):
        seen.append(call.set_result(call.number * 10))

    loop(mode, Retry(on_result=lambda value: value < 20, backoff=NONE), body)
    assert seen == [10, 20]


def test_a_result_that_stays_refused_ends_the_loop(mode):
    """The block has it already; nothing is raised."""
    seen = []
    loop(
        mode,
        Retry(on_result=lambda value: True, attempts=3, backoff=NONE),
        lambda call: seen.append(call.set_result(call.number)),
    )
    assert seen == [1, 2, 3]


def test_with_on_result_the_block_must_tell_it(mode):
    """Silence would be judged as `None`."""
    with pytest.raises(RuntimeError, match="set_result"):
        loop(mode, Retry(on_result=bool, backoff=NONE), lambda call: None)


def test_blocks_fill_the_budget_and_draw_on_it(mode):
    """As calls do."""
    budget = RetryBudget(ratio=1, capacity=2)
    retry = Retry(on=OSError, budget=budget, backoff=NONE)

    def body(call):
        if call.number < 3:
            raise OSError("x")

    loop(mode, retry, body)
    assert budget.tokens == 1
    loop(mode, retry, lambda call: None)
    assert budget.tokens == 2


def test_a_retry_that_is_not_made_is_paid_back():
    """The loop was left before it."""
    budget = RetryBudget(capacity=5)
    for attempt in Retry(on=OSError, budget=budget, backoff=NONE):
        with attempt:
            raise OSError("x")
        break
    del attempt
    gc.collect()
    assert budget.tokens == 5
    assert attempt_number() == 1


def test_code_between_the_blocks_is_in_no_attempt():
    """Nor is what follows a loop that was left."""
    seen = []
    for attempt in Retry(on=OSError, backoff=NONE):
        seen.append(attempt_number())
        if attempt.number == 3:
            break
        with attempt:
            raise OSError("x")
        seen.append(attempt_number())
    assert seen == [1] * 5
    assert attempt_number() == 1


def test_a_block_inside_another_calls_second_attempt_counts_for_itself():
    """The number is that of the innermost."""
    seen = []
    for outer in Retry(on=OSError, backoff=NONE):
        with outer:
            for inner in Retry(on=KeyError, backoff=NONE):
                with inner:
                    seen.append(attempt_number())
            seen.append(attempt_number())
            if outer.number == 1:
                raise OSError("x")
    assert seen == [1, 1, 1, 2]


def test_an_open_breaker_inside_does_not_hide_the_real_error(mode):
    """It comes out at once, with no context but its own."""
    breaker = CircuitBreaker("b", consecutive_failures=1)

    def body(call):
        with breaker.guard():
            raise Failure("real")

    with pytest.raises(Failure) as caught:
        loop(mode, Retry(on=OSError, attempts=5, backoff=NONE), body)
    assert caught.value.__context__ is None
    assert "after 1 attempt in" in caught.value.__notes__[0]
    assert "b refused attempt 2" in caught.value.__notes__[0]


def test_the_real_error_does_not_hold_the_refusal_after_it():
    """Nor the frames that it went through."""

    class Refusal(CircuitOpenError):
        pass

    references = []

    def work():
        for attempt in Retry(on=OSError, backoff=NONE):
            with attempt:
                if attempt.number == 1:
                    raise Failure("real")
                refusal = Refusal(policy="b")
                references.append(weakref.ref(refusal))
                try:
                    raise refusal
                finally:
                    del refusal

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Failure) as caught:
            work()
        assert references[0]() is None
        assert caught.value.__context__ is None
    finally:
        gc.enable()


def test_an_open_breaker_inside_leaves_the_last_result(mode):
    """The block has it; the loop just ends."""
    seen = []

    def body(call):
        if call.number == 2:
            raise CircuitOpenError(policy="b")
        seen.append(call.set_result(5))

    loop(mode, Retry(on_result=lambda value: True, attempts=5, backoff=NONE), body)
    assert seen == [5]


def test_inside_once_there_is_one_attempt(mode):
    """The loop may stand in it as well as the call."""
    seen = []

    def body(call):
        seen.append(call.number)
        raise OSError("x")

    with once(), pytest.raises(OSError, match="x"):
        loop(mode, Retry(on=OSError, backoff=NONE), body)
    assert seen == [1]


def test_an_attempt_must_be_entered_and_only_once():
    """A loop without `with` would never end."""
    retry = Retry(on=OSError, backoff=NONE)
    attempts = iter(retry)
    attempt = next(attempts)
    with pytest.raises(RuntimeError, match="with attempt"):
        next(attempts)
    with attempt:
        with pytest.raises(RuntimeError, match="one block"):
            attempt.__enter__()
        raise OSError("x")
    with pytest.raises(RuntimeError, match="one block"), attempt:
        pass
    with next(attempts):
        pass
    with pytest.raises(StopIteration):
        next(attempts)


@pytest.mark.parametrize("library", [asyncio, trio], ids=["asyncio", "trio"])
def test_a_plain_for_in_an_event_loop_is_refused(library):
    """It would stop every task; the text names what to write."""

    async def main():
        for attempt in Retry(on=OSError):
            with attempt:
                raise AssertionError

    with pytest.raises(RuntimeError, match="async for attempt in retry"):
        library.run(main()) if library is asyncio else library.run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_interrupts_leave_the_loop(mode, error):
    """No predicate keeps them in."""

    def body(call):
        raise OSError("x") if call.number == 1 else error()

    with pytest.raises((error, trio.Cancelled)):
        loop(mode, Retry(on=lambda error: True, backoff=NONE), body)
    assert attempt_number() == 1


def test_a_block_may_be_left_in_another_context():
    """The number stays with the context that knows it."""
    retry = Retry(on=OSError, backoff=NONE)
    attempts = iter(retry)
    with next(attempts):
        raise OSError("x")
    second = next(attempts)
    contextvars.copy_context().run(second.__enter__)
    assert second.__exit__(None, None, None) is False
    assert attempt_number() == 1


def test_a_cancelled_sleep_is_paid_back():
    """Between two blocks."""
    budget = RetryBudget(capacity=5)
    seen = []

    async def body():
        async for attempt in Retry(on=OSError, budget=budget, backoff=constant(3600)):
            with attempt:
                seen.append(1)
                raise OSError("x")

    async def main():
        task = asyncio.create_task(body())
        while not seen:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert budget.tokens == 5


def test_an_interrupted_sleep_is_paid_back(monkeypatch):
    """Ctrl-C between two blocks."""
    from resilient._runtime import waits

    def interrupted(seconds):
        raise KeyboardInterrupt

    budget = RetryBudget(capacity=5)
    with monkeypatch.context() as patch:
        patch.setattr(waits, "sleep", interrupted)
        attempts = iter(Retry(on=OSError, budget=budget, backoff=constant(1)))
        with next(attempts):
            raise OSError("x")
        with pytest.raises(KeyboardInterrupt):
            next(attempts)
    assert budget.tokens == 5


def test_passthrough_makes_it_one_plain_block(mode):
    """As if it were not there."""

    def body(call):
        raise OSError("x")

    with passthrough(), pytest.raises(OSError, match="x"):
        loop(mode, Retry(on=OSError, backoff=NONE), body)


@pytest.mark.parametrize("last", [Failure, CircuitOpenError])
def test_no_reference_cycle_is_left(last):
    """Neither by the loop nor by its errors."""
    references = []

    def work():
        for attempt in Retry(on=OSError, backoff=NONE, attempts=4 if last is not Failure else 3):
            references.append(weakref.ref(attempt._attempts))
            with attempt:
                if attempt.number == 4:
                    raise last("x")
                error = Failure("x")
                references.append(weakref.ref(error))
                try:
                    raise error
                finally:
                    del error

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Failure):
            work()
        assert len(references) >= 6
        assert {reference() for reference in references} == {None}
    finally:
        gc.enable()
