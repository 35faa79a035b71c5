"""Durations and counts as users give them, checked once, when a policy is built."""

from __future__ import annotations

import math
from datetime import timedelta

Duration = float | int | timedelta


def seconds(value: Duration, name: str, *, zero: bool = False) -> float:
    """Return `value` as seconds; `zero` says whether 0 makes sense for `name`."""
    if isinstance(value, timedelta):
        number = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a number of seconds or a timedelta, not {type(value).__name__}"
        )
    else:
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond what a float holds
            number = math.inf
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        unit = "" if name == "seconds" else " seconds"
        raise ValueError(f"{name} must be finite and {least}{unit}, not {value!r}")
    return number


def spell(number: float) -> str:
    """Seconds as a person writes them: three digits, but never an exponent for long ones."""
    return f"{number:.3g} s" if number < 1000 else f"{number:.0f} s"


def count(value: int, name: str, *, least: int = 1) -> int:
    """Return `value` as a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def share(value: float, name: str) -> float:
    """Return `value` as a share above 0 and up to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number above 0 and up to 1, not {type(value).__name__}")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, not {value!r}")
    return float(value)
