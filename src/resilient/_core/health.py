"""A pool member's health: what its health checks and its own circuit breaker say of it.

::

    checks    UNKNOWN ── rise good in a row ──▶ UP ◀── rise good ── DOWN
                 ▲  └─── fall bad in a row ──▶ DOWN ◀── fall bad ─── UP
                 └── no verdict for three intervals ── UP, DOWN

Both sources are put together as the member's standing:

- DOWN: no call goes there. Its checks say so, its breaker is open and stays open for now,
  somebody isolated the breaker, or the member is being drained.
- TRIAL: its breaker is, or is about to be, half-open: a call that goes there is a trial.
- UP: calls go there.

Nothing here reads a clock: the time is handed in.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from resilient._core import chance
from resilient._core.circuit import Circuit, Isolated, Open

# After so many intervals without a verdict nothing is known.
STALE_AFTER: Final = 3


class Check(enum.Enum):
    """What the health checks say of a member."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Standing(enum.IntEnum):
    """Whether calls may go to a member."""

    DOWN = 0
    TRIAL = 1
    UP = 2


@dataclass(frozen=True, slots=True)
class CheckRules:
    """How probes are made and judged; every duration in seconds."""

    interval: float
    timeout: float
    rise: int
    fall: int
    jitter: float


class Checks:
    """What a row of probes of one member comes to."""

    __slots__ = ("_last", "_rules", "_since", "_state", "_streak", "_streak_good")

    def __init__(self, rules: CheckRules) -> None:
        self._rules = rules
        self.forget()

    def forget(self) -> None:
        """Know nothing: the member was started anew."""
        self._state = Check.UNKNOWN
        self._since = -math.inf
        self._last = -math.inf
        self._streak = 0
        self._streak_good = False

    def state(self, now: float) -> Check:
        """The verdict, if it is not too old."""
        if self._state is not Check.UNKNOWN and now > self._stale_at:
            self._enter(Check.UNKNOWN, self._stale_at)
            self._streak = 0
        return self._state

    def usable_since(self, now: float) -> float | None:
        """Since when no probe was bad; `None` while the member is down."""
        return None if self.state(now) is Check.DOWN else self._since

    def record(self, good: bool, now: float) -> Check:
        """Count one probe, and return what its row comes to."""
        self.state(now)
        if good is not self._streak_good:
            self._streak_good, self._streak = good, 0
        self._streak += 1
        self._last = now
        if not good:
            # Not down for that, but a member that is to be trusted again starts anew.
            self._since = now
        if good and self._streak >= self._rules.rise:
            self._enter(Check.UP, now)
        elif not good and self._streak >= self._rules.fall:
            self._enter(Check.DOWN, now)
        return self._state

    @property
    def _stale_at(self) -> float:
        return self._last + STALE_AFTER * self._rules.interval

    def _enter(self, state: Check, now: float) -> None:
        """The one place where the verdict changes."""
        if self._state is Check.DOWN and state is not Check.DOWN:
            self._since = now
        self._state = state


class Health:
    """One member's health, from both sources."""

    __slots__ = ("_free_at", "checks", "circuit", "draining")

    def __init__(self, circuit: Circuit, rules: CheckRules | None) -> None:
        self.circuit = circuit
        self.checks = None if rules is None else Checks(rules)
        self.draining = False
        # When the breaker last let calls through again, or will.
        self._free_at = -math.inf

    def standing(self, now: float) -> Standing:
        """Whether calls may go there now."""
        if self.draining or (self.checks is not None and self.checks.state(now) is Check.DOWN):
            return Standing.DOWN
        # A probe that hung re-opens the circuit when somebody looks.
        self.circuit.state(now)
        period = self.circuit.period
        if period.admits_all:
            return Standing.UP
        if isinstance(period, Open):
            self._free_at = period.until
            return Standing.TRIAL if now >= period.until else Standing.DOWN
        return Standing.DOWN if isinstance(period, Isolated) else Standing.TRIAL

    def usable_since(self, now: float) -> float | None:
        """Since when calls could have gone there without a break; `None` if they cannot."""
        if self.standing(now) is Standing.DOWN:
            return None
        checked = -math.inf if self.checks is None else self.checks.usable_since(now)
        return max(self._free_at, -math.inf if checked is None else checked)

    def has_trial(self, now: float) -> bool:
        """Whether a call made now would be a trial, and would be let through."""
        return self.standing(now) is Standing.TRIAL and self.circuit.would_admit(now)

    def checked(self, good: bool, now: float) -> None:
        """Count a probe. What the checks bring back from being down starts with a clean sheet."""
        if self.checks is None:
            return
        before = self.checks.state(now)
        after = self.checks.record(good, now)
        isolated = isinstance(self.circuit.period, Isolated)
        if before is Check.DOWN and after is Check.UP and not isolated:
            self.standing(now)
            self.circuit.reset()


class _Round:
    """When one member is probed next, and since when it is."""

    __slots__ = ("due", "late", "serial", "started")

    def __init__(self, due: float) -> None:
        self.due = due
        self.started: float | None = None
        self.late = False
        self.serial = 0


class Rounds:
    """Whose probe is due when. Probes of one member never overlap.

    A probe that takes too long is a bad one at once, and one more for each further interval
    for which it hangs: else its member would be unknown, and used, before long.
    """

    def __init__(self, rules: CheckRules) -> None:
        self._rules = rules
        self._rounds: dict[str, _Round] = {}

    def keep(self, names: Iterable[str], now: float) -> None:
        """Probe these and no others; new ones at once."""
        old = self._rounds
        self._rounds = {name: old.get(name) or _Round(now) for name in names}

    def due(self, now: float) -> list[tuple[str, int]]:
        """The members to probe now, taken as started, each with the probe's number."""
        found = []
        for name, one in self._rounds.items():
            if one.started is None and one.due <= now:
                one.started, one.late = now, False
                one.serial += 1
                one.due = self._next(now)
                found.append((name, one.serial))
        return found

    def bad(self, now: float) -> list[str]:
        """The members whose probe has just become late, or still hangs an interval later."""
        found = []
        for name, one in self._rounds.items():
            if one.started is None:
                continue
            if not one.late and one.started + self._rules.timeout <= now:
                one.late = True
                if one.due <= now:
                    one.due = self._next(now)
                found.append(name)
            elif one.late and one.due <= now:
                one.due = self._next(now)
                found.append(name)
        return found

    def ended(self, name: str, serial: int, now: float) -> bool | None:
        """A probe came back: whether it was in time; `None` if it counts as bad already."""
        one = self._rounds.get(name)
        if one is None or one.serial != serial or one.started is None:
            return None
        in_time = one.started + self._rules.timeout >= now
        one.started = None
        return None if one.late else in_time

    def wake_at(self) -> float:
        """When something is to be done next."""
        return min(map(self._wake_at, self._rounds.values()), default=math.inf)

    def _wake_at(self, one: _Round) -> float:
        if one.started is not None and not one.late:
            return one.started + self._rules.timeout
        return one.due

    def _next(self, now: float) -> float:
        spread = self._rules.jitter
        return now + self._rules.interval * chance.source.uniform(1 - spread, 1 + spread)
