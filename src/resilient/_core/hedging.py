"""When a hedge is launched, which attempt wins, and which error is raised: rules for one call.

Attempt 0 is the primary, hedges count from 1. The next hedge is due when the delay has
passed since the last start, or at once when an attempt has failed with a matching error.

| an attempt         | while others are in flight | as the last one in flight          |
|--------------------|----------------------------|------------------------------------|
| returns            | wins; the others are late  | wins                               |
| fails, matching    | the next hedge starts      | the next hedge starts, or the call |
|                    |                            | fails with the first failed        |
|                    |                            | attempt's error                    |
| is rejected        | is dropped                 | the same, with no further hedge;   |
|                    |                            | a real error goes before it        |
| raises otherwise   | the call ends with that error                                   |

Out of budget, out of time, or inside `once()` no further hedge is launched, and what is in
flight is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from resilient._core.budget import RetryBudget
from resilient._core.quantile import Measured
from resilient._core.verdict import Matcher
from resilient.errors import CallTimeoutError, RejectedError

PRIMARY: Final = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """A hedge's bounds. The delay is `fixed`, in seconds, unless it is `measured`."""

    fixed: float
    measured: Measured | None
    max_hedges: int
    matcher: Matcher
    budget: RetryBudget | None

    @property
    def delay(self) -> float:
        """Seconds from the last start to the next hedge."""
        return self.fixed if self.measured is None else self.measured.value


class Race:
    """The attempts of one call. It is told what happens, in one thread or under one lock.

    Attributes:
        over: Whether it is decided what the call comes to.
        winner: The number of the attempt that answered first.
        flying: When each attempt in flight was started, by its number.
        hedges: How many hedges were launched.
        ended_by: The error of a call that is over without a winner.
    """

    __slots__ = ("_closed", "_failures", "_last", "_refusal", "_rules", "ended_by", "flying",
                 "hedges", "over", "winner")  # fmt: skip

    def __init__(self, rules: Rules, started: float) -> None:
        self._rules = rules
        self._last = started
        self._closed = False
        self._failures: dict[int, BaseException] = {}
        self._refusal: BaseException | None = None
        self.ended_by: BaseException | None = None
        self.flying: dict[int, float] = {PRIMARY: started}
        self.hedges = 0
        self.over = False
        self.winner: int | None = None

    @property
    def due(self) -> float | None:
        """When the next hedge is to be launched, `None` if there is to be none."""
        if self.over or self._closed or self.hedges >= self._rules.max_hedges:
            return None
        return self._last + self._rules.delay

    def launch(self, now: float, deadline: float | None, *, once: bool) -> int | None:
        """Start the next hedge and return its number, or `None` if there is to be none.

        Args:
            now: The time, in seconds.
            deadline: When the nearest deadline ends, on the same clock.
            once: Whether the call must not be made twice.
        """
        if self.due is None:
            return None
        budget = self._rules.budget
        late = deadline is not None and now >= deadline
        if once or late or not (budget is None or budget.withdraw()):
            self._closed = True
            return None
        self.hedges += 1
        self._last = now
        self.flying[self.hedges] = now
        return self.hedges

    def returned(self, number: int, now: float) -> bool:
        """An attempt came back: whether it is the winner. If not, its result is too late."""
        started = self.flying.pop(number, None)
        if self.over:
            return False
        self.over = True
        self.winner = number
        measured = self._rules.measured
        if measured is not None and started is not None:
            measured.record(now - started)
            for sample in self._overtaken(started, now):
                measured.record(sample)
        return True

    def _overtaken(self, winner: float, now: float) -> Iterator[float]:
        """The time so far of what was started before the winner, and has not answered.

        Without it only fast answers would be seen, and the quantile would sink for ever.
        What was started after the winner has shown nothing yet.
        """
        return (now - started for started in self.flying.values() if started < winner)

    def failed(self, number: int, error: BaseException) -> bool:
        """An attempt raised: whether the next hedge is to be launched at once."""
        self.flying.pop(number, None)
        if self.over:
            return False
        try:
            matches = self._rules.matcher.matches(error)
        except Exception as broken:  # the user's predicate: its error is the call's
            self.end(broken)
            return False
        if matches:
            self._failures[number] = error
            return True
        if not isinstance(error, RejectedError):
            self.end(error)
            return False
        self._refusal = self._refusal or error
        self.settle()
        return False

    def settle(self) -> None:
        """If nothing is in flight any more, and nothing follows, all attempts have failed."""
        if not self.over and not self.flying:
            failures = self._failures
            self.end(failures[min(failures)] if failures else self._refusal)

    def close(self) -> None:
        """Launch no further hedge."""
        self._closed = True

    def end(self, error: BaseException | None = None) -> None:
        """End the call without a winner."""
        if not self.over:
            self.over = True
            self.ended_by = error

    def error(self) -> BaseException | None:
        """Give out what the call without a winner ended with, and keep no error.

        The traceback of an error that is kept here would hold the frames that hold it.
        """
        error = self.ended_by
        self.ended_by = self._refusal = None
        self._failures = {}
        return error


def outcome(error: BaseException) -> str:
    """What telemetry calls an attempt that raised `error`."""
    if isinstance(error, RejectedError):
        return "rejected"
    if isinstance(error, CallTimeoutError):
        return "timeout"
    return "failure" if isinstance(error, Exception) else "cancelled"
