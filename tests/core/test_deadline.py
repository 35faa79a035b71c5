"""Deadlines nest as the calls do, and end with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient._core import clock, deadline
from resilient._core.deadline import Deadline


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time is 100, and no deadline is in force before or after a test."""
    monkeypatch.setattr(clock, "now", lambda: 100.0)
    token = deadline.current.set(None)
    yield
    deadline.current.reset(token)


def enter(*moments: float) -> list[Deadline]:
    """Put records in force, the outermost first."""
    records = []
    for at in moments:
        record = Deadline(at, deadline.innermost(), f"until {at:g}", 1.0)
        deadline.current.set(record)
        records.append(record)
    return records


def test_without_any_there_is_no_limit() -> None:
    assert deadline.innermost() is None
    assert deadline.nearest() is None
    assert deadline.passed(1e9) is None
    assert not deadline.ran_out()
    assert deadline.remaining() is None
    assert deadline.remaining(7.5) == 7.5


def test_the_nearest_counts_wherever_it_stands() -> None:
    first, second, third = enter(110, 105, 120)
    assert deadline.innermost() is third
    assert deadline.nearest() is second
    assert deadline.remaining() == 5
    deadline.leave(third)
    assert deadline.innermost() is second
    deadline.leave(second)
    assert deadline.nearest() is first
    assert deadline.remaining() == 10


def test_an_ended_record_says_nothing_to_who_inherited_it() -> None:
    """Neither at the end of the chain nor in its middle."""
    outer, middle, inner = enter(130, 101, 120)
    middle.ended = True
    assert deadline.nearest() is inner
    inner.ended = True
    assert deadline.innermost() is outer
    outer.ended = True
    assert deadline.innermost() is None
    assert deadline.remaining() is None
    assert not deadline.ran_out()


def test_remaining_is_never_below_zero() -> None:
    enter(90)
    assert deadline.remaining() == 0


def test_passed_from_the_moment_on() -> None:
    [record] = enter(105)
    assert deadline.passed(104.9) is None
    assert deadline.passed(105) is record


def test_ran_out_by_the_clock_or_by_the_timer_of_any_of_them() -> None:
    """A timer may strike a little before the clock says so."""
    outer, inner = enter(110, 120)
    assert not deadline.ran_out()
    outer.expired = True
    assert deadline.ran_out()
    outer.expired = False
    inner.at = 100
    assert deadline.ran_out()
    inner.ended = True
    assert not deadline.ran_out()


def test_leaving_in_another_context_changes_nothing_there() -> None:
    """A block may be closed where its record is not in force."""
    first, second = enter(110, 120)
    deadline.leave(first)
    assert deadline.current.get() is second
    assert first.ended
    assert not second.ended
