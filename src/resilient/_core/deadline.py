"""Deadlines: the moments by which a call must be over, nested as the calls are.

Each timeout puts a record of its own in front of those around it, in a context variable,
so that it crosses user code. A record is marked when its call ends: a background task
started inside still holds the record, and must not inherit a dead deadline. The nearest
deadline is looked for when somebody asks, not when a record is made: asking is rare.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import overload

from resilient._core import clock


class Deadline:
    """One timeout's moment.

    Attributes:
        at: The moment, on this library's clock.
        parent: The record that was in force outside.
        policy: The name of the timeout.
        seconds: The time that it gives.
        ended: Whether the call is over, however it went.
        expired: Whether the timeout has told its call to stop.
        blamed: Whether an error was raised further in, in the name of this timeout.
    """

    __slots__ = ("at", "blamed", "ended", "expired", "parent", "policy", "seconds")

    def __init__(self, at: float, parent: Deadline | None, policy: str, seconds: float) -> None:
        self.at = at
        self.parent = parent
        self.policy = policy
        self.seconds = seconds
        self.ended = False
        self.expired = False
        self.blamed = False


current: ContextVar[Deadline | None] = ContextVar("resilient.deadline", default=None)


def innermost() -> Deadline | None:
    """The closest record whose call has not ended, or `None`."""
    record = current.get()
    while record is not None and record.ended:
        record = record.parent
    return record


def nearest() -> Deadline | None:
    """The record that runs out first among all enclosing calls, or `None`."""
    found = record = innermost()
    while record is not None:
        if not record.ended and record.at < found.at:  # type: ignore[union-attr]
            found = record
        record = record.parent
    return found


def passed(now: float) -> Deadline | None:
    """The record that ran out first, if one has: nothing may be begun here any more."""
    found = nearest()
    return found if found is not None and found.at <= now else None


def leave(record: Deadline) -> None:
    """Mark that the call of `record` is over, and take it out of this context."""
    record.ended = True
    if current.get() is record:
        current.set(record.parent)


def ran_out() -> bool:
    """Whether an enclosing timeout's time is up, so that it has cancelled what runs here."""
    record = innermost()
    now = clock.now()
    while record is not None:
        if not record.ended and (record.expired or record.at <= now):
            return True
        record = record.parent
    return False


@overload
def remaining(default: None = None) -> float | None: ...
@overload
def remaining(default: float) -> float: ...
def remaining(default: float | None = None) -> float | None:
    """Return the seconds left until the nearest enclosing deadline, never below 0.

    Use it to pass the time that is left on to a client, a query or another service.

    Args:
        default: Returned when there is no deadline.
    """
    record = nearest()
    return default if record is None else max(0.0, record.at - clock.now())
