"""Retry: what it can be built from, its budget among other policies, and event loops."""

from __future__ import annotations

import asyncio
import re
import warnings

import pytest
import trio

from resilient import Fallback, Pipeline, Retry, RetryBudget, constant, policies
from resilient.testing import no_backoff, passthrough

NONE = constant(0)


def fails():
    raise OSError("x")


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: Retry(), TypeError, "give on="),
        (lambda: Retry(attempts=3), TypeError, "give on="),
        (lambda: Retry(unless=OSError), TypeError, "give on="),
        (lambda: Retry(fails), TypeError, "did you mean `@Retry(on=...)`?"),
        (lambda: Retry(lambda error: True), TypeError, "did you mean"),
        (lambda: Retry(int), TypeError, "exception class"),
        (lambda: Retry(OSError, on=OSError), TypeError, "twice"),
        (lambda: Retry(OSError, KeyError), TypeError, ""),
        (lambda: Retry(on="OSError"), TypeError, "exception class"),
        (lambda: Retry(on=OSError, unless=fails), TypeError, "unless"),
        (lambda: Retry(on_result=5), TypeError, "on_result"),
        (lambda: Retry(OSError, attempts=0), ValueError, "attempts"),
        (lambda: Retry(OSError, attempts=-1), ValueError, "attempts"),
        (lambda: Retry(OSError, attempts=2.0), TypeError, "attempts"),
        (lambda: Retry(OSError, attempts=True), TypeError, "attempts"),
        (lambda: Retry(OSError, attempts=None), ValueError, "give max_elapsed"),
        (lambda: Retry(OSError, attempts=None, backoff=[1]), ValueError, "give max_elapsed"),
        (lambda: Retry(OSError, max_elapsed=0), ValueError, "max_elapsed"),
        (lambda: Retry(OSError, max_elapsed=float("nan")), ValueError, "max_elapsed"),
        (lambda: Retry(OSError, backoff=1), TypeError, "backoff"),
        (lambda: Retry(OSError, backoff=iter([1])), TypeError, "one-shot"),
        (lambda: Retry(OSError, backoff=[-1]), ValueError, "backoff"),
        (lambda: Retry(OSError, backoff="12"), TypeError, "backoff"),
        (lambda: Retry(OSError, budget=0.1), TypeError, "RetryBudget"),
        (lambda: Retry(OSError, max_retry_after=-1), ValueError, "max_retry_after"),
        (lambda: Retry(OSError, max_retry_after=None), TypeError, "max_retry_after"),
        (lambda: Retry(OSError, name=""), ValueError, "name"),
        (lambda: Retry(OSError, name=5), TypeError, "name"),
    ],
)
def test_bad_values_are_refused_when_built(build, error, text):
    """With a sentence that says what to do."""
    with pytest.raises(error, match=re.escape(text) or "argument"):
        build()


@pytest.mark.parametrize(
    "retry",
    [
        Retry(OSError),
        Retry((OSError, KeyError)),
        Retry(on=OSError),
        Retry(on=(OSError, KeyError)),
        Retry(on=lambda error: True),
    ],
)
def test_on_is_given_by_position_or_by_keyword(retry):
    """A predicate by keyword alone."""
    calls = []

    def load():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("x")
        return 5

    with no_backoff():
        assert retry.call(load) == 5


def test_each_retry_has_a_budget_of_its_own_by_default():
    """Full, with a hundred tokens; `None` turns it off."""
    one, other = Retry(OSError, backoff=NONE), Retry(OSError)
    with pytest.raises(OSError, match="x"):
        one.call(fails)
    assert (one.snapshot().tokens, other.snapshot().tokens) == (98, 100)
    assert Retry(OSError, budget=None).snapshot().tokens is None
    assert one in policies()
    assert (one.snapshot().name, one.snapshot().kind) == (one.name, "retry")


def test_an_empty_budget_raises_the_real_error_at_once(mode, clock):
    """With a note, never an error of its own."""
    budget = RetryBudget(capacity=1)
    retry = Retry(OSError, attempts=5, backoff=constant(1), budget=budget)
    before, calls = clock.now(), []

    def load():
        calls.append(1)
        raise OSError(str(len(calls)))

    with pytest.raises(OSError, match="2") as caught:
        mode.call(mode.function(retry, load))
    assert "the retry budget is empty" in caught.value.__notes__[0]
    assert clock.now() - before == pytest.approx(1)


def test_an_empty_budget_returns_the_refused_result(mode):
    """Its retry was not allowed."""
    budget = RetryBudget(capacity=1)
    budget.withdraw()
    retry = Retry(on_result=lambda value: value < 3, backoff=NONE, budget=budget)
    assert mode.call(mode.function(retry, lambda: 1)) == 1


def test_successes_fill_a_shared_budget(mode):
    """Those of one policy pay for the retries of the other."""
    budget = RetryBudget(ratio=0.5, capacity=1)
    budget.withdraw()
    good, bad = Retry(OSError, budget=budget), Retry(OSError, budget=budget, backoff=NONE)
    fine = mode.function(good, lambda: 1)
    mode.call(fine)
    mode.call(fine)
    calls = []

    def load():
        calls.append(1)
        raise OSError("x")

    with pytest.raises(OSError, match="x"):
        mode.call(mode.function(bad, load))
    assert len(calls) == 2


@pytest.mark.filterwarnings("ignore::resilient.CompositionWarning")
def test_a_call_fills_a_shared_budget_once(mode):
    """At the outermost policy that holds it, however deep the others stand."""
    budget = RetryBudget(ratio=0.25, capacity=10)
    for _ in range(4):
        budget.withdraw()
    inner = Pipeline(Retry(KeyError, budget=budget), Retry(OSError, budget=budget))
    stack = Pipeline(Retry(OSError, budget=budget), inner)
    protected = mode.function(stack, lambda: 1)
    mode.call(protected)
    assert budget.tokens == 6.25
    if not mode.is_async:
        stack.call(lambda: 1)
        Retry(OSError, budget=budget)(inner(lambda: 1))()
        assert budget.tokens == 6.75
        assert list(stack(lambda: iter([1]))()) == [1]


def test_failures_fill_nothing(mode):
    """Nor do results that stay refused, nor the caller's mistakes."""
    budget = RetryBudget(ratio=1, capacity=9)
    for _ in range(5):
        budget.withdraw()
    retry = Retry(OSError, on_result=lambda value: value == 0, attempts=1, budget=budget)
    assert mode.call(mode.function(retry, lambda: 0)) == 0
    for wrong in (OSError("x"), ValueError("x")):

        def load(wrong=wrong):
            raise wrong

        with pytest.raises(type(wrong)):
            mode.call(mode.function(retry, load))
    assert budget.tokens == 4


@pytest.mark.filterwarnings("ignore::resilient.CompositionWarning")
def test_a_fallbacks_value_fills_nothing(mode):
    """It is not the backend's success."""
    budget = RetryBudget(ratio=1, capacity=9)
    budget.withdraw()
    retry = Retry(OSError, budget=budget)
    assert mode.call(mode.function(Pipeline(retry, Fallback(value=3)), fails)) == 3
    assert budget.tokens == 8


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_sync_retry_in_an_event_loop_warns_once_and_sleeps(library):
    """The warning points at the caller; each policy warns once."""
    for _ in range(2):
        retry = Retry(OSError, attempts=3, backoff=constant(0.001))
        protected = retry(fails)

        async def main(protected=protected):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                for _ in range(2):
                    with pytest.raises(OSError, match="x"):
                        protected()
            return seen

        seen = asyncio.run(main()) if library == "asyncio" else trio.run(main)
        assert [warning.filename for warning in seen] == [__file__]
        assert "event loop" in str(seen[0].message)


def test_a_sync_retry_outside_event_loops_does_not_warn():
    """Also while trio is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError, match="x"):
            Retry(OSError, backoff=constant(0.001))(fails)()


def test_a_warning_that_is_an_error_pays_the_retry_back():
    """It came out in place of the sleep."""
    budget = RetryBudget(capacity=5)
    protected = Retry(OSError, budget=budget)(fails)

    async def main():
        protected()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            asyncio.run(main())
    assert budget.tokens == 5


def test_modes_for_tests(mode):
    """`no_backoff` takes away the waits, `passthrough` the retry."""
    calls = []

    def load():
        calls.append(1)
        raise OSError("x")

    protected = mode.function(Retry(OSError, backoff=constant(3600)), load)
    with no_backoff(), pytest.raises(OSError, match="x"):
        mode.call(protected)
    assert len(calls) == 3
    with passthrough(), pytest.raises(OSError, match="x"):
        mode.call(protected)
    assert len(calls) == 4
