"""When a retry tries again, and after how long: the rules for one call.

`Attempts` is asked after each failure and answers with a wait or with the reason to stop.
No sleep ends after the deadline, and there is none after the last attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from resilient._core import chance
from resilient._core.backoff import waits
from resilient._core.budget import RetryBudget
from resilient._core.durations import spell
from resilient._core.hints import parse


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

    __slots__ = ("_paid", "_rules", "_waits", "number", "started")

    def __init__(self, rules: Rules, started: float) -> None:
        self._rules = rules
        self._waits: Iterator[float] = waits(rules.backoff)
        self._paid = False
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
            at_once: The next attempt is to come without any wait.
            deadline: When the nearest deadline ends, on the same clock as `now`.
        """
        rules = self._rules
        if rules.attempts is not None and self.number >= rules.attempts:
            return Stop(_all_used(rules.attempts))
        planned = next(self._waits, None)
        if planned is None:
            return Stop("the backoff has no further wait")
        if hint is not None and hint > rules.max_retry_after:
            return Stop(
                f"the server asked to wait {spell(hint)}, more than max_retry_after allows "
                f"({spell(rules.max_retry_after)})"
            )
        wait = 0.0 if at_once else self._at_least(planned, hint, now, deadline)
        stop = self._too_late(now, wait, deadline)
        if stop is None and not self._pay():
            stop = Stop("the retry budget is empty")
        return wait if stop is None else stop

    def _at_least(
        self, planned: float, hint: float | None, now: float, deadline: float | None
    ) -> float:
        """The backoff, or the server's wait where that is longer, spread upwards by 10 %.

        The spread ends where the time does: a wait that fits is not given up by chance.
        """
        if hint is None or planned >= hint * 1.1:
            return planned
        longest = hint * 1.1
        if deadline is not None:
            longest = min(longest, deadline - now)
        if self._rules.max_elapsed is not None:
            longest = min(longest, self.started + self._rules.max_elapsed - now)
        return max(planned, hint, chance.source.uniform(hint, longest))

    def _too_late(self, now: float, wait: float, deadline: float | None) -> Stop | None:
        if deadline is not None and now + wait >= deadline:
            left = spell(max(0.0, deadline - now))
            return Stop(f"the next attempt was due in {spell(wait)}, the deadline in {left}")
        limit = self._rules.max_elapsed
        if limit is not None and now + wait - self.started >= limit:
            return Stop(f"the next attempt would start after max_elapsed ({spell(limit)})")
        return None

    def _pay(self) -> bool:
        budget = self._rules.budget
        if budget is not None:
            self._paid = budget.withdraw()
            return self._paid
        return True

    def begin(self) -> int:
        """Start the next attempt, and return its number."""
        self._paid = False
        self.number += 1
        return self.number

    def refund(self) -> None:
        """Take back what was paid for a retry that will not be made."""
        if self._paid and self._rules.budget is not None:
            self._paid = False
            self._rules.budget.refund()


def asked(answer: object) -> tuple[float | None, bool]:
    """Read a predicate's answer: the wait it asks for, and whether that is none at all.

    A wait that makes no sense is no wait that a server asked for: the backoff stands.
    """
    if isinstance(answer, bool) or not isinstance(answer, (int, float, timedelta)):
        return None, False
    wait = parse(answer)
    return (None, True) if wait == 0 else (wait, False)


def _all_used(attempts: int) -> str:
    return "no more were allowed" if attempts == 1 else f"all {attempts} attempts were used"
