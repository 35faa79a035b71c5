"""The windows of a circuit breaker, against plain lists of calls."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient._core.window import (
    FAILURE,
    SLOW,
    SLOW_FAILURE,
    SUCCESS,
    Counts,
    CountWindow,
    TimeWindow,
)

OUTCOMES = st.sampled_from([SUCCESS, FAILURE, SLOW, SLOW_FAILURE])


def counted(outcomes):
    return Counts(
        len(outcomes),
        sum(outcome in (FAILURE, SLOW_FAILURE) for outcome in outcomes),
        sum(outcome in (SLOW, SLOW_FAILURE) for outcome in outcomes),
    )


def put(window, outcome, now):
    if outcome == SUCCESS:
        window.success_at(now)
    else:
        window.record(outcome, now)


class CountMachine(RuleBasedStateMachine):
    """A count window holds the last so many calls."""

    @initialize(size=st.integers(1, 12))
    def build(self, size):
        self.size, self.calls = size, []
        self.window = CountWindow(size)

    @rule(outcome=OUTCOMES)
    def call(self, outcome):
        put(self.window, outcome, 0.0)
        self.calls.append(outcome)

    @invariant()
    def holds_the_last(self):
        if hasattr(self, "window"):
            assert self.window.counts(0.0) == counted(self.calls[-self.size :])


class TimeMachine(RuleBasedStateMachine):
    """A time window holds what is younger, but for one percent of its time."""

    @initialize(seconds=st.floats(0.1, 1_000), start=st.floats(0, 1e6))
    def build(self, seconds, start):
        self.seconds, self.now, self.calls = seconds, start, []
        self.window = TimeWindow(seconds)

    @rule(outcome=OUTCOMES, times=st.integers(1, 5))
    def call(self, outcome, times):
        for _ in range(times):
            put(self.window, outcome, self.now)
            self.calls.append((self.now, outcome))

    @rule(share=st.floats(0, 0.3))
    def pass_time(self, share):
        self.now += self.seconds * share

    @rule()
    def pass_a_quiet_night(self):
        self.now += self.seconds
        assert self.window.counts(self.now + 1e-6) == Counts()

    @invariant()
    def holds_the_young(self):
        if not hasattr(self, "window"):
            return
        found = self.window.counts(self.now)
        slack = 1e-6
        ages = [(self.now - at, outcome) for at, outcome in self.calls]
        surely = counted([one for age, one in ages if age < self.seconds * 0.99 - slack])
        at_most = counted([one for age, one in ages if age < self.seconds + slack])
        assert surely.calls <= found.calls <= at_most.calls
        assert surely.failures <= found.failures <= at_most.failures
        assert surely.slow <= found.slow <= at_most.slow


TestCountMachine = CountMachine.TestCase
TestTimeMachine = TimeMachine.TestCase
for machine in (TestCountMachine, TestTimeMachine):
    machine.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def test_a_time_window_forgets_when_it_is_read():
    """Nothing has to be written for the old to go, and it goes on time."""
    window = TimeWindow(10)
    window.record(FAILURE, 3.0)
    assert window.counts(12.99).failures == 1
    assert window.counts(13.0) == Counts()


def test_a_time_window_keeps_as_many_slices_as_it_needs():
    """A call in every slice over a long time neither grows it nor loses a living one."""
    window = TimeWindow(1)
    for number in range(1_000):
        window.record(FAILURE, number / 100)
    assert 99 <= window.counts(9.99).failures <= 100


def test_a_clock_read_earlier_and_used_later_is_no_new_slice():
    """Threads hand in their times out of order."""
    window = TimeWindow(1)
    window.record(FAILURE, 5.0)
    window.record(FAILURE, 4.9)
    assert window.counts(5.0).failures == 2


def test_rates_of_an_empty_window_are_zero():
    """There is nothing to divide by."""
    assert (Counts().failure_rate, Counts().slow_rate) == (0, 0)
    assert (Counts(4, 1, 3).failure_rate, Counts(4, 1, 3).slow_rate) == (0.25, 0.75)


@pytest.mark.parametrize("make", [lambda: CountWindow(100_000), lambda: TimeWindow(1_000)])
def test_no_call_is_lost_between_threads(make):
    """Successes without a lock, failures under the breaker's, counts at any time."""
    window, lock, barrier = make(), threading.Lock(), threading.Barrier(4)

    def work():
        barrier.wait()
        for number in range(2_000):
            now = number / 10  # many slices, begun by all threads at once
            if number % 10:
                window.success_at(now)
            else:
                with lock:
                    window.record(FAILURE, now)
                    window.counts(now)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert window.counts(200.0) == Counts(8_000, 800, 0)
