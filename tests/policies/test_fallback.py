"""Fallback: what stands in, for what, and what is kept of the error."""

from __future__ import annotations

import pytest

from resilient import (
    BulkheadFullError,
    CircuitBreaker,
    CompositionWarning,
    Fallback,
    Pipeline,
    RejectedError,
    Retry,
    RetryBudget,
)
from resilient.events import FallbackUsed


def failing(*args: object, **kwargs: object) -> str:
    raise OSError("down")


def test_a_value_stands_in_for_an_error(mode, events):
    """The value is returned in place of a matching error, and an event keeps the error."""
    assert mode.call(mode.function(Fallback("cached"), failing)) == "cached"
    (event,) = [e for e in events if isinstance(e, FallbackUsed)]
    assert isinstance(event.error, OSError)


def test_none_is_a_value(mode):
    """`value=None` is a value like any other."""
    assert mode.call(mode.function(Fallback(None), failing)) is None


def test_a_success_passes(mode, events):
    """Without a failure the fallback stands aside."""
    assert mode.call(mode.function(Fallback("cached"), lambda: "fresh")) == "fresh"
    assert events == []


def test_a_function_gets_the_outcome_and_the_arguments(mode):
    """`using` is called with the exception and the caller's arguments."""
    seen = []

    def using(outcome, *args, **kwargs):
        seen.append((type(outcome), args, kwargs))
        return "made"

    protected = mode.function(Fallback(using=using), failing)
    assert mode.call(protected, 1, key="x") == "made"
    assert seen == [(OSError, (1,), {"key": "x"})]


def test_a_refused_result_is_replaced(mode, events):
    """With `on_result` the outcome is the result, and the event has no error."""
    policy = Fallback(using=lambda outcome: f"not {outcome}", on_result=lambda r: r == "bad")
    assert mode.call(mode.function(policy, lambda: "bad")) == "not bad"
    assert mode.call(mode.function(policy, lambda: "good")) == "good"
    assert [e.error for e in events] == [None]


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_an_async_function_stands_in_on_async_code(mode):
    """`using` may be a coroutine function on async code."""

    async def using(outcome):
        return "awaited"

    assert mode.call(mode.function(Fallback(using=using), failing)) == "awaited"


def test_an_async_function_is_refused_on_sync_code():
    """On sync code a coroutine function cannot stand in, marked or not."""

    async def using(outcome): ...

    with pytest.raises(TypeError, match="coroutine function"):
        Fallback(using=using)(failing)
    with pytest.raises(TypeError, match="returned an awaitable"):
        Fallback(using=lambda outcome: using(outcome))(failing)()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on": ValueError}, OSError("x")),
        ({"unless": OSError}, OSError("x")),
        ({"on": lambda e: False}, OSError("x")),
        ({}, KeyboardInterrupt()),
    ],
)
def test_other_errors_come_out(mode, options, error):
    """What `on` does not match, and what is no Exception, is not replaced."""

    def fn():
        raise error

    with pytest.raises(type(error)):
        mode.call(mode.function(Fallback("x", **options), fn))


@pytest.mark.parametrize("on", [Exception, RejectedError, lambda e: True])
def test_rejections_are_what_it_is_for(mode, on):
    """This library's rejections are replaced by default."""

    def refused():
        raise BulkheadFullError(policy="b")

    assert mode.call(mode.function(Fallback("x", on=on), refused)) == "x"


def test_a_failing_fallback_keeps_the_first_error(mode):
    """The first error is the cause of the fallback's own."""

    def using(outcome):
        raise KeyError("no cache")

    with pytest.raises(KeyError) as caught:
        mode.call(mode.function(Fallback(using=using), failing))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_cause_of_its_own_is_kept_too():
    """An explicit cause stays, with the first error behind it."""

    def using(outcome):
        raise KeyError from ValueError()

    with pytest.raises(KeyError) as caught:
        Fallback(using=using)(failing)()
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value.__cause__.__cause__, OSError)


def test_raising_the_outcome_again_is_no_loop():
    """`using` may raise the very error it was given."""

    def using(outcome):
        raise outcome

    with pytest.raises(OSError, match="down") as caught:
        Fallback(using=using)(failing)()
    assert caught.value.__cause__ is None


def test_a_refused_result_leaves_the_errors_cause_alone():
    """A fallback that fails on a result has no error to keep."""

    def using(outcome):
        raise KeyError

    with pytest.raises(KeyError) as caught:
        Fallback(using=using, on_result=lambda r: True)(lambda: 1)()
    assert caught.value.__cause__ is None


def test_its_value_is_nobodys_success(mode):
    """A breaker and a budget further out do not count the stand-in as the backend's answer."""
    budget = RetryBudget(capacity=2)
    breaker = CircuitBreaker(half_open_calls=1)
    budget.withdraw()
    with pytest.warns(CompositionWarning):
        pipeline = Pipeline(Retry(on=OSError, budget=budget), breaker, Fallback("x"))
    protected = mode.function(pipeline, failing)
    for _ in range(20):
        assert mode.call(protected) == "x"
    assert breaker.snapshot().calls == 0
    assert budget.tokens == 1


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "either value"),
        ((1,), {"using": len}, "either value"),
        ((), {"using": 3}, "using must be callable"),
        ((1,), {"on": "x"}, "on must be an exception class"),
        ((1,), {"on_result": 3}, "on_result must be a predicate"),
    ],
)
def test_bad_options(args, kwargs, text):
    """Contradictions are refused when the policy is built."""
    with pytest.raises(TypeError, match=text):
        Fallback(*args, **kwargs)


def test_a_generator_is_refused():
    """A generator's first items may have been used: no value can stand in."""

    def items():
        yield 1

    async def aitems():
        yield 1

    for fn in (items, aitems):
        with pytest.raises(TypeError, match="a fallback cannot protect a"):
            Fallback(0)(fn)


def test_a_bare_decorator_is_no_fallback():
    """By position no function is a value: it is the one to protect, or meant for `using`."""
    with pytest.raises(TypeError, match=r"did you mean `@Fallback\(value=...\)`"):
        Fallback(failing)
    assert Fallback(value=failing).call(failing) is failing
    with pytest.raises(TypeError, match="`value` twice"):
        Fallback(1, value=2)  # type: ignore[call-overload]
