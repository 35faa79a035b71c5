"""`attempt_number()`: which attempt of its call the running code belongs to."""

from __future__ import annotations

from contextvars import ContextVar

current: ContextVar[int] = ContextVar("resilient.attempt", default=1)


def attempt_number() -> int:
    """Return 1 in a call's first attempt and outside any call, 2 in the second, and so on.

    For log lines and headers: it is read from a context variable.
    """
    return current.get()
