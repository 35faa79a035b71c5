"""When a retry tries again, and after how long: the rules for one call.

`Attempts` is asked after each failure and answers with a wait or with the reason to stop.
Neither sleeps ends after the deadline, nor is there one after the last attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from resilient._core import chance
from resilient._core.backoff import waits
from resilient._core.budget import RetryBudget
from resilient._core.durations import seconds


@dataclass(frozen=True, slots=True)
class Rules:
    """A retry's bounds; durations in seconds, `None` for no bound."""

    attempts: int | None
    max_elapsed: float | None
    backoff: Iterable[float]
    budget: RetryBudget | None
    max_retry_after: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not try again, because of `reason`, a clause for the note on the error."""

    reason: str


class Attempts:
    """The attempts of one call. State is per call: nothing leaks between calls."""

    __slots__ = ("_rules", "_waits", "number", "started")

    def __init__(self, rules: Rules, started: float) -> None:
        self._rules = rules
        self._waits: Iterator[float] = waits(rules.backoff)
        self.started = started
        self.number = 1

    def next_wait(
        self,
        now: float,
        *,
        hint: float | None = None,
        at_once: bool = False,
        deadline: float | None = None,
    ) -> float | Stop:
        """Return the seconds to wait before the next attempt, or why there is none.

        Args:
            now: The time, in seconds.
            hint: Seconds that the server asked to wait.
            at_once: The predicate asked for no wait at all.
            deadline: When the nearest deadline ends, on the same clock as `now`.
        """
        rules = self._rules
        if rules.attempts is not None and self.number >= rules.attempts:
            return Stop(f"all {_times(rules.attempts)} used")
        planned = next(self._waits, None)
        if planned is None:
            return Stop("the backoff has no further wait")
        if hint is not None and hint > rules.max_retry_after:
            return Stop(
                f"the server asked to wait {hint:g} s, more than max_retry_after allows "
                f"({rules.max_retry_after:g} s)"
            )
        wait = 0.0 if at_once else _at_least(planned, hint)
        stop = self._too_late(now, wait, deadline)
        if stop is None and rules.budget is not None and not rules.budget.withdraw():
            stop = Stop("the retry budget is empty")
        return wait if stop is None else stop

    def _too_late(self, now: float, wait: float, deadline: float | None) -> Stop | None:
        if deadline is not None and now + wait >= deadline:
            left = max(0.0, deadline - now)
            return Stop(f"the next attempt was due in {wait:.3g} s, the deadline in {left:.3g} s")
        limit = self._rules.max_elapsed
        if limit is not None and now + wait - self.started >= limit:
            return Stop(f"the next attempt would start after max_elapsed ({limit:g} s)")
        return None

    def refund(self) -> None:
        """The retry that was paid for will not be made."""
        if self._rules.budget is not None:
            self._rules.budget.refund()


def asked(answer: object) -> tuple[float | None, bool]:
    """Read a predicate's answer: the wait it asks for, and whether that is none at all."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float, timedelta)):
        return None, False
    wait = seconds(answer, "the wait that the predicate `on` returned", zero=True)
    return (None, True) if wait == 0 else (wait, False)


def _at_least(planned: float, hint: float | None) -> float:
    """The backoff, or the server's wait where that is longer, spread upwards by 10 %."""
    if hint is None:
        return planned
    return max(planned, hint * chance.source.uniform(1, 1.1))


def _times(attempts: int) -> str:
    return "1 attempt was" if attempts == 1 else f"{attempts} attempts were"
