"""The retry budget, against a plain model, and under real threads."""

from __future__ import annotations

import sys
import threading
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient import RetryBudget


class BudgetMachine(RuleBasedStateMachine):
    """A budget behaves like a bucket of fractions."""

    @initialize(percent=st.integers(1, 100), capacity=st.integers(1, 20))
    def build(self, percent, capacity):
        self.ratio, self.capacity = Fraction(percent, 100), Fraction(capacity)
        self.budget = RetryBudget(ratio=percent / 100, capacity=capacity)
        self.tokens = self.capacity

    @rule(times=st.integers(1, 200))
    def succeed(self, times):
        for _ in range(times):
            self.budget.succeeded()
        self.tokens = min(self.capacity, self.tokens + times * self.ratio)

    @rule()
    def withdraw(self):
        expected = self.tokens >= 1
        assert self.budget.withdraw() is expected
        if expected:
            self.tokens -= 1

    @rule()
    def refund(self):
        self.budget.refund()
        self.tokens = min(self.capacity, self.tokens + 1)

    @invariant()
    def same_tokens(self):
        if hasattr(self, "budget"):
            assert self.budget.tokens == pytest.approx(float(self.tokens), abs=1e-6)
            assert self.budget.snapshot().tokens == pytest.approx(float(self.tokens), abs=1e-6)


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_a_budget_starts_full():
    """By default a hundred retries are saved up."""
    assert RetryBudget().tokens == 100
    assert RetryBudget(capacity=3).tokens == 3


def test_ten_successes_at_a_tenth_are_exactly_one_retry():
    """Also in floating point, for as long as it runs."""
    budget = RetryBudget(ratio=0.1, capacity=2)
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    for _ in range(1_000):
        for _ in range(9):
            budget.succeeded()
            assert budget.tokens < 1  # also settles, which adds one tenth at a time
        assert not budget.withdraw()
        budget.succeeded()
        assert budget.withdraw()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ratio": 0}, ValueError),
        ({"ratio": 1.1}, ValueError),
        ({"ratio": -0.1}, ValueError),
        ({"ratio": float("nan")}, ValueError),
        ({"ratio": "1"}, TypeError),
        ({"ratio": True}, TypeError),
        ({"capacity": 0}, ValueError),
        ({"capacity": 0.5}, ValueError),
        ({"capacity": float("inf")}, ValueError),
        ({"capacity": float("nan")}, ValueError),
        ({"capacity": "9"}, TypeError),
        ({"capacity": True}, TypeError),
    ],
)
def test_bad_values_are_refused(options, error):
    """When it is built, not when it is used."""
    with pytest.raises(error):
        RetryBudget(**options)


def test_options_are_keyword_only():
    """Nobody can tell a ratio from a capacity by its place."""
    with pytest.raises(TypeError):
        RetryBudget(0.1)
    assert repr(RetryBudget(ratio=0.5)) == "RetryBudget(ratio=0.5, capacity=100)"


def together(count, work):
    barrier = threading.Barrier(count)

    def run():
        barrier.wait()
        work()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)


def test_no_success_is_lost_between_threads():
    """Every success of every thread is in the bucket, while others withdraw."""
    budget = RetryBudget(ratio=1, capacity=100_000)
    while budget.withdraw():
        pass
    taken = []

    def work():
        for number in range(2_000):
            budget.succeeded()
            if number % 7 == 0 and budget.withdraw():
                taken.append(1)

    together(8, work)
    assert budget.tokens + len(taken) == 16_000


def test_no_token_is_given_twice():
    """Threads that withdraw together get what is there and no more."""
    budget = RetryBudget(capacity=500)
    taken = []

    def work():
        taken.extend(1 for _ in range(200) if budget.withdraw())

    together(8, work)
    assert len(taken) == 500
