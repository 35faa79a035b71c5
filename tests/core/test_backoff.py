"""Backoffs: their bounds, their randomness, and what may stand in for one."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import constant, decorrelated, exponential
from resilient._core import chance
from resilient._core.backoff import check, waits

DURATIONS = st.floats(1e-9, 1e9)


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    monkeypatch.setattr(chance, "source", random.Random(7))


def nth(backoff, number):
    return next(itertools.islice(backoff, number - 1, None))


@given(
    initial=DURATIONS,
    times=st.floats(1, 1e6),
    factor=st.floats(1, 1e300),
    jitter=st.sampled_from(["full", "equal", "none"]),
)
@settings(max_examples=40, deadline=None)
def test_exponential_waits_stay_in_range_for_ten_thousand_attempts(initial, times, factor, jitter):
    """No attempt waits below 0 or above the maximum, and none overflows."""
    maximum = initial * times
    backoff = exponential(initial, factor=factor, maximum=maximum, jitter=jitter)
    found = list(itertools.islice(backoff, 10_000))
    assert all(0 <= wait <= maximum for wait in found)
    assert found[0] <= initial
    if jitter == "equal":
        assert min(found) >= initial / 2


@given(initial=DURATIONS, times=st.floats(1, 1e6))
@settings(max_examples=40, deadline=None)
def test_decorrelated_waits_stay_in_range_for_ten_thousand_attempts(initial, times):
    """Every wait lies between the initial one and the maximum, the first below 3x initial."""
    maximum = initial * times
    found = list(itertools.islice(decorrelated(initial, maximum=maximum), 10_000))
    assert all(initial <= wait <= maximum for wait in found)
    assert found[0] <= initial * 3


@pytest.mark.parametrize(
    "backoff",
    [
        exponential(0.1, maximum=10),
        exponential(0.1, maximum=10, jitter="equal"),
        decorrelated(0.1, maximum=10),
        constant(10, jitter="full"),
        constant(10, jitter="equal"),
    ],
    ids=repr,
)
def test_waits_are_still_random_at_the_cap(backoff):
    """After many attempts the waits differ, and are not all the maximum."""
    late = list(itertools.islice(backoff, 5_000, 5_200))
    assert len(set(late)) == 200
    assert sum(wait == 10 for wait in late) < 5


def test_plain_exponential_grows_by_its_factor_up_to_the_maximum():
    """The first wait is the initial one."""
    backoff = exponential(1, factor=3, maximum=20, jitter="none")
    assert list(itertools.islice(backoff, 5)) == [1, 3, 9, 20, 20]


def test_full_jitter_reaches_down_to_zero_and_equal_to_half():
    """The two kinds of jitter draw from their ranges."""
    full = [nth(exponential(8, maximum=8), 1) for _ in range(300)]
    equal = [nth(exponential(8, maximum=8, jitter="equal"), 1) for _ in range(300)]
    assert min(full) < 1 < 7 < max(full)
    assert 4 <= min(equal) < 4.5 < 7.5 < max(equal) <= 8


def test_jitter_is_on_by_default_for_exponential_and_off_for_constant():
    """`exponential` draws; `constant` is what it says."""
    assert len({nth(exponential(1, maximum=9), 1) for _ in range(20)}) == 20
    assert list(itertools.islice(constant(2), 3)) == [2, 2, 2]


def test_a_backoff_can_be_iterated_afresh():
    """Each call starts from the first wait."""
    backoff = exponential(1, maximum=100, jitter="none")
    assert [list(itertools.islice(backoff, 3)) for _ in range(2)] == [[1, 2, 4]] * 2


def test_durations_may_be_timedeltas():
    """Every duration is seconds or a timedelta."""
    second = timedelta(seconds=1)
    assert nth(exponential(second, maximum=timedelta(minutes=1), jitter="none"), 7) == 60
    assert nth(constant(second), 1) == 1
    assert 1 <= nth(decorrelated(second, maximum=second), 9) <= 1


def test_constant_takes_seconds_by_name_and_may_be_zero():
    """Zero is a legal wait."""
    assert nth(constant(seconds=0), 5) == 0
    assert nth(constant(0, jitter="full"), 5) == 0


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: exponential(0, maximum=1), ValueError),
        (lambda: exponential(-1, maximum=1), ValueError),
        (lambda: exponential(float("nan"), maximum=1), ValueError),
        (lambda: exponential(1, maximum=float("inf")), ValueError),
        (lambda: exponential(2, maximum=1), ValueError),
        (lambda: exponential(1, maximum=2, factor=0.5), ValueError),
        (lambda: exponential(1, maximum=2, factor=float("nan")), ValueError),
        (lambda: exponential(1, maximum=2, factor="2"), TypeError),
        (lambda: exponential(1, maximum=2, factor=True), TypeError),
        (lambda: exponential(1, maximum=2, jitter="some"), ValueError),
        (lambda: exponential("1", maximum=2), TypeError),
        (lambda: exponential(1), TypeError),
        (lambda: exponential(1, 2, maximum=3), TypeError),
        (lambda: decorrelated(0, maximum=1), ValueError),
        (lambda: decorrelated(2, maximum=1), ValueError),
        (lambda: constant(-1), ValueError),
        (lambda: constant(1, jitter="half"), ValueError),
        (lambda: constant(True), TypeError),
    ],
)
def test_bad_values_are_refused_when_built(make, error):
    """The sentence says which value is wrong."""
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    "once",
    [iter([1, 2]), (i for i in range(3)), map(float, [1]), itertools.count()],
    ids=lambda it: type(it).__name__,
)
def test_one_shot_iterators_are_refused(once):
    """The first call would use it up."""
    with pytest.raises(TypeError, match="one-shot iterator"):
        check(once)


def test_an_iterable_that_gives_the_same_iterator_is_one_shot_too():
    """What counts is whether `iter` starts anew."""

    class Shared:
        def __init__(self):
            self.iterator = iter([1, 2, 3])

        def __iter__(self):
            return self.iterator

    with pytest.raises(TypeError, match="one-shot iterator"):
        check(Shared())


class Fibonacci:
    def __init__(self, end):
        self.end = end

    def __iter__(self):
        a, b = 1, 1
        while a <= self.end:
            yield a
            a, b = b, a + b


def test_any_re_iterable_is_taken_as_it_stands():
    """Lists, tuples, ranges and objects whose `__iter__` starts anew."""
    assert list(waits(check([0.1, 0.5, timedelta(seconds=2)]))) == [0.1, 0.5, 2]
    assert list(waits(check(range(3)))) == [0, 1, 2]
    assert list(waits(check(Fibonacci(8)))) == [1, 1, 2, 3, 5, 8]
    assert list(waits(check([]))) == []


def test_a_list_is_copied():
    """What happens to it later does not change the policy."""
    given_ = [1.0]
    backoff = check(given_)
    given_.append(-1.0)
    assert list(waits(backoff)) == [1]


@pytest.mark.parametrize("bad", [[-1], [float("nan")], range(-2, 2), Fibonacci, "123", b"1", 5])
def test_what_holds_no_waits_is_refused_when_built(bad):
    """Also if it is found only by iterating."""
    with pytest.raises((TypeError, ValueError)):
        check(bad)


def test_a_wait_that_comes_late_and_is_out_of_range_is_an_error_then():
    """Only so many waits of an endless iterable can be looked at beforehand."""

    class Late:
        def __iter__(self):
            yield from itertools.repeat(0.0, 1_000)
            yield -1.0

    with pytest.raises(ValueError, match="0 or more"):
        list(waits(check(Late())))
