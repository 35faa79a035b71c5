"""The measured quantile is that of the last samples, exactly."""

from __future__ import annotations

import math
import random
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._core.quantile import ENOUGH, WINDOW, Measured, Quantile

times = st.floats(0, 100, allow_nan=False)


def expected(samples, q):
    ranked = sorted(samples[-WINDOW:])
    return ranked[math.ceil(q * len(ranked) - 1e-9) - 1]


def test_the_initial_value_holds_until_enough_were_measured():
    """Nineteen samples say too little."""
    measured = Measured(Quantile(0.5, initial=7))
    for _ in range(ENOUGH - 1):
        measured.record(1.0)
        assert measured.value == 7
    measured.record(1.0)
    assert measured.value == 1


@given(st.lists(times, min_size=ENOUGH, max_size=100), st.sampled_from([0.01, 0.5, 0.95, 0.999]))
def test_it_is_a_sample_with_that_share_at_or_below_it(samples, q):
    """The value is the smallest sample that at least a share q of the samples do not exceed."""
    measured = Measured(Quantile(q, initial=1))
    for sample in samples:
        measured.record(sample)
    assert measured.value == expected(samples, q)
    assert sum(one <= measured.value for one in samples) >= q * len(samples) - 1e-9
    assert sum(one < measured.value for one in samples) < q * len(samples)


def test_it_forgets():
    """Only the last samples count, so a backend that has become slower is seen."""
    dice = random.Random(0)
    measured = Measured(Quantile(0.95, initial=1))
    samples = [dice.expovariate(1) for _ in range(5 * WINDOW)]
    for count, sample in enumerate(samples, 1):
        measured.record(sample)
        if count >= ENOUGH and count % 97 == 0:
            assert measured.value == expected(samples[:count], 0.95)
    for _ in range(WINDOW):
        measured.record(50.0)
    assert measured.value == 50
    assert len(measured._sorted) == len(measured._recent) == WINDOW


def test_twenty_samples_have_a_95th_percentile():
    """0.95 of 20 is 19, also in floating point."""
    measured = Measured(Quantile(0.95, initial=1))
    for sample in range(1, 21):
        measured.record(float(sample))
    assert measured.value == 19


def test_threads_lose_nothing():
    """Samples recorded by many threads at once are all there."""
    measured = Measured(Quantile(0.5, initial=1))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(
                target=lambda start=start: [measured.record(float(start + i)) for i in range(2000)]
            )
            for start in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert sorted(measured._recent) == measured._sorted
    assert len(measured._sorted) == WINDOW


def test_after_a_fork_it_starts_afresh():
    """The child does not trust a change that another thread was in the middle of."""
    measured = Measured(Quantile(0.5, initial=1))
    for _ in range(ENOUGH):
        measured.record(3.0)
    measured._lock.acquire()
    measured.after_fork()
    measured.record(4.0)
    assert measured.value == 3
    assert measured._sorted == [4.0]


def test_a_quantile_is_a_plain_value():
    """It can be shared, compared and shown: what is learnt belongs to the policy."""
    assert Quantile(0.95, initial=1) == Quantile(0.95, initial=1.0)
    assert repr(Quantile(0.95, initial=1)) == "Quantile(q=0.95, initial=1.0)"
    with pytest.raises(AttributeError):
        Quantile(0.95, initial=1).q = 0.5
