"""When a retry tries again, and after how long, by plain calls."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import RetryBudget, constant
from resilient._core import chance
from resilient._core.retrying import Attempts, Rules, Stop, asked


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    monkeypatch.setattr(chance, "source", random.Random(7))


def attempts(started=0.0, **options):
    rules = {
        "attempts": 3,
        "max_elapsed": None,
        "backoff": constant(1),
        "budget": None,
        "max_retry_after": 60.0,
    }
    return Attempts(Rules(**{**rules, **options}), started)


def test_attempts_count_the_first():
    """Three attempts have two waits between them, and none after the last."""
    one = attempts()
    assert one.next_wait(0) == 1
    assert one.begin() == 2
    assert one.next_wait(0) == 1
    assert one.begin() == 3
    assert one.next_wait(0) == Stop("all 3 attempts were used")
    assert attempts(attempts=1).next_wait(0) == Stop("no more were allowed")


def test_the_smaller_bound_wins():
    """A finite backoff bounds the attempts too."""
    one = attempts(attempts=10, backoff=(5.0,))
    assert one.next_wait(0) == 5
    one.begin()
    assert one.next_wait(0) == Stop("the backoff has no further wait")
    other = attempts(attempts=2, backoff=(5.0,) * 9)
    other.begin()
    assert isinstance(other.next_wait(0), Stop)


def test_no_attempt_starts_after_max_elapsed():
    """Time counts from the start of the first attempt."""
    one = attempts(started=100.0, attempts=None, max_elapsed=3.0)
    assert one.next_wait(101.9) == 1
    assert isinstance(one.next_wait(102.0), Stop)


def test_no_sleep_ends_after_the_deadline():
    """Nor at it, when no time would be left for the attempt."""
    assert attempts().next_wait(0, deadline=1.1) == 1
    for deadline in (1.0, 0.5, -3.0):
        stop = attempts().next_wait(0, deadline=deadline)
        assert isinstance(stop, Stop)
        assert "deadline" in stop.reason


def test_a_hint_is_the_least_wait_and_jittered_upwards_only():
    """By up to a tenth, so that those who were told the same do not come together."""
    found = [attempts().next_wait(0, hint=10.0) for _ in range(200)]
    assert all(10 <= wait <= 11 for wait in found)
    assert len(set(found)) == 200
    assert attempts(backoff=constant(30)).next_wait(0, hint=10.0) == 30
    assert attempts(backoff=constant(10.99)).next_wait(0, hint=10.0) >= 10.99
    assert attempts().next_wait(0, hint=0.0) == 1


def test_a_hint_beyond_the_limit_gives_up_now():
    """Exactly the limit is still waited for."""
    stop = attempts().next_wait(0, hint=60.1)
    assert isinstance(stop, Stop)
    assert "max_retry_after" in stop.reason
    assert 60 <= attempts().next_wait(0, hint=60.0) <= 66
    assert isinstance(attempts(max_retry_after=0.0).next_wait(0, hint=0.1), Stop)
    assert isinstance(attempts().next_wait(0, hint=float("inf")), Stop)


def test_a_hint_beyond_the_deadline_gives_up_now():
    """Or beyond `max_elapsed`."""
    assert isinstance(attempts().next_wait(0, hint=10.0, deadline=9.0), Stop)
    assert isinstance(attempts(max_elapsed=9.0).next_wait(0, hint=10.0), Stop)


@given(st.floats(10.001, 10.9))
def test_a_hint_that_fits_is_not_given_up_by_chance(end):
    """The jitter ends where the time does."""
    assert 10 <= attempts().next_wait(0, hint=10.0, deadline=end) < end
    assert 10 <= attempts(max_elapsed=end).next_wait(0, hint=10.0) < end


def test_a_retry_is_paid_for_before_the_wait():
    """And not by what is not made for another reason."""
    budget = RetryBudget(capacity=1)
    assert isinstance(attempts(attempts=1, budget=budget).next_wait(0), Stop)
    assert isinstance(attempts(budget=budget).next_wait(0, deadline=0.5), Stop)
    assert isinstance(attempts(budget=budget, backoff=()).next_wait(0), Stop)
    assert budget.tokens == 1
    assert attempts(budget=budget).next_wait(0) == 1
    assert budget.tokens == 0
    assert attempts(budget=budget).next_wait(0) == Stop("the retry budget is empty")


def test_a_retry_is_refunded_once_and_only_if_it_was_not_made():
    """Not twice, and not when its attempt has begun."""
    budget = RetryBudget(capacity=9)
    one = attempts(budget=budget)
    one.refund()
    one.next_wait(0)
    one.refund()
    one.refund()
    assert budget.tokens == 9
    one.next_wait(0)
    one.begin()
    one.refund()
    assert budget.tokens == 8


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (True, (None, False)),
        (0, (None, True)),
        (0.0, (None, True)),
        (timedelta(0), (None, True)),
        (2, (2.0, False)),
        (timedelta(seconds=3), (3.0, False)),
        (-1, (None, False)),
        (float("nan"), (None, False)),
        (float("inf"), (None, False)),
        (timedelta(seconds=-1), (None, False)),
    ],
)
def test_what_a_predicate_asks_for(answer, expected):
    """Seconds; 0 is at once; what makes no sense leaves the backoff."""
    assert asked(answer) == expected


def test_at_once_is_without_any_wait():
    """Whatever the backoff."""
    assert attempts(backoff=constant(9)).next_wait(0, at_once=True) == 0
