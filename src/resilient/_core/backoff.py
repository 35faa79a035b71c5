"""How long to wait between attempts.

A backoff is anything that can be iterated afresh and yields seconds. The ones made here
yield random waits, because clients that wait alike come back together. See "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015, for full, equal and decorrelated jitter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

from resilient._core import chance, durations
from resilient._core.durations import Duration, seconds

Jitter = Literal["full", "equal", "none"]

# Of an iterable that may have no end, the waits that are checked when a policy is built.
_LOOKED_AT = 100


def _jittered(wait: float, jitter: Jitter) -> float:
    least = 0.0 if jitter == "full" else wait / 2
    return chance.source.uniform(least, wait)


def _check_jitter(jitter: str) -> None:
    if jitter not in ("full", "equal", "none"):
        raise ValueError(f"jitter must be 'full', 'equal' or 'none', not {jitter!r}")


class Backoff:
    """The base of the backoffs made here: an endless, re-iterable series of waits."""

    def plain(self) -> Iterator[float]:
        """The waits in seconds before jitter."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[float]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Exponential(Backoff):
    """See `exponential`."""

    initial: float
    factor: float
    maximum: float
    jitter: Jitter

    def plain(self) -> Iterator[float]:
        wait = min(self.initial, self.maximum)
        while True:
            yield wait
            # Stops growing at the maximum, so it never overflows, however many attempts.
            wait = min(wait * self.factor, self.maximum)

    def __iter__(self) -> Iterator[float]:
        if self.jitter == "none":
            return self.plain()
        return (_jittered(wait, self.jitter) for wait in self.plain())


@dataclass(frozen=True, slots=True)
class Decorrelated(Backoff):
    """See `decorrelated`."""

    initial: float
    maximum: float

    def plain(self) -> Iterator[float]:
        return Exponential(self.initial, 3.0, self.maximum, "none").plain()

    def __iter__(self) -> Iterator[float]:
        wait = self.initial
        while True:
            # Drawing below the maximum, not clipping to it, stays random at the cap. The
            # outer `min` takes off what `uniform` may round up.
            longest = min(self.maximum, wait * 3)
            wait = min(longest, chance.source.uniform(self.initial, longest))
            yield wait


@dataclass(frozen=True, slots=True)
class Constant(Backoff):
    """See `constant`."""

    wait: float
    jitter: Jitter

    def plain(self) -> Iterator[float]:
        while True:
            yield self.wait

    def __iter__(self) -> Iterator[float]:
        if self.jitter == "none":
            return self.plain()
        return (_jittered(wait, self.jitter) for wait in self.plain())


def exponential(
    initial: Duration, *, factor: float = 2, maximum: Duration, jitter: Jitter = "full"
) -> Backoff:
    """Return waits that grow by `factor` from `initial` up to `maximum`, then stay there.

    Args:
        initial: The first wait before jitter, in seconds or a timedelta, above 0.
        factor: By how much each wait is longer than the one before, 1 or more.
        maximum: The longest wait, in seconds or a timedelta, at least `initial`.
        jitter: `"full"` draws each wait between 0 and its length, `"equal"` between half
            of it and its length, `"none"` takes it as it stands.

    Raises:
        ValueError: A value is out of its range.
    """
    first, longest = seconds(initial, "initial"), seconds(maximum, "maximum")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        raise TypeError(f"factor must be a number, not {type(factor).__name__}")
    if not 1 <= factor < float("inf"):
        raise ValueError(f"factor must be finite and at least 1, not {factor!r}")
    if longest < first:
        raise ValueError(f"maximum ({longest:g} s) must not be below initial ({first:g} s)")
    _check_jitter(jitter)
    return Exponential(first, float(factor), longest, jitter)


def decorrelated(initial: Duration, *, maximum: Duration) -> Backoff:
    """Return waits drawn between `initial` and three times the wait before.

    Args:
        initial: The shortest wait, in seconds or a timedelta, above 0; the first wait is
            drawn between it and three times it.
        maximum: The longest wait, in seconds or a timedelta, at least `initial`.

    Raises:
        ValueError: A value is out of its range.
    """
    first, longest = seconds(initial, "initial"), seconds(maximum, "maximum")
    if longest < first:
        raise ValueError(f"maximum ({longest:g} s) must not be below initial ({first:g} s)")
    return Decorrelated(first, longest)


def constant(seconds: Duration, *, jitter: Jitter = "none") -> Backoff:
    """Return the same wait for ever.

    Args:
        seconds: The wait, in seconds or a timedelta; 0 retries at once.
        jitter: As for `exponential`.

    Raises:
        ValueError: A value is out of its range.
    """
    _check_jitter(jitter)
    return Constant(durations.seconds(seconds, "seconds", zero=True), jitter)


def check(backoff: object, name: str = "backoff") -> Iterable[float]:
    """Return `backoff` if it can be iterated afresh and its known waits are in range."""
    if isinstance(backoff, Backoff):
        return backoff
    if isinstance(backoff, (str, bytes)) or not isinstance(backoff, Iterable):
        raise TypeError(
            f"{name} must be an iterable of seconds such as [0.1, 0.5] or "
            f"exponential(0.1, maximum=10), not {type(backoff).__name__}"
        )
    if isinstance(backoff, Iterator) or iter(backoff) is iter(backoff):
        raise TypeError(
            f"{name} is a one-shot iterator, which the first call would use up: "
            "give a list, or an object whose __iter__ starts anew"
        )
    if isinstance(backoff, (list, tuple)):
        return tuple(seconds(wait, f"each wait of {name}", zero=True) for wait in backoff)
    for wait in itertools.islice(backoff, _LOOKED_AT):
        seconds(wait, f"each wait of {name}", zero=True)
    return backoff


def waits(backoff: Iterable[Duration]) -> Iterator[float]:
    """Iterate the waits in seconds; a wait out of range is an error at the time it comes."""
    if isinstance(backoff, (Backoff, tuple)):
        return iter(cast(Iterable[float], backoff))
    return (seconds(wait, "each wait of the backoff", zero=True) for wait in backoff)
