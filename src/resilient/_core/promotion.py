"""Which member of an active-passive pool is the active one.

============================  =========================================================
the active one is DOWN        the most preferred member that is UP, else on TRIAL, is
                              promoted; nobody, if there is none
a preferred one could have    it is made active again (failback), unless somebody
taken calls for               switched by hand, or `failback` is off
`failback_after` seconds
`switch_to(name)`             `name`, until it is DOWN
============================  =========================================================

A member that comes and goes never dwells long enough, so it causes one switch away from it
and none back. Nor is there a failback within `failback_after` of a switch, so that several
members that fail in turn cannot toss the calls about. A call that fails promotes nobody:
only a member's standing does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any, Final, Protocol

from resilient._core.health import Health, Standing

PROMOTION: Final = "promotion"
FAILBACK: Final = "failback"
MANUAL: Final = "manual"


class Ranked(Protocol):
    """What is read of a member here."""

    name: str
    health: Health


class Promotion:
    """The machine. `order` holds the members, the most preferred first."""

    def __init__(self, *, failback: bool, failback_after: float) -> None:
        self.failback = failback
        self.failback_after = failback_after
        self.order: Sequence[Ranked] = ()
        self.active: str | None = None
        # Whether somebody switched by hand, which holds until that member fails.
        self.held = False
        self._switched_at = -math.inf
        # Switches to announce: old, new, reason.
        self.switches: deque[tuple[str | None, str, str]] = deque()

    def set_order(self, order: Sequence[Ranked], now: float) -> None:
        """Take these members; the first one is active if there was none."""
        self.order = order
        if self.active is None and order:
            self.active = order[0].name
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """Promote or fail back if it is time to."""
        active = next((one for one in self.order if one.name == self.active), None)
        if active is None or active.health.standing(now) is Standing.DOWN:
            self._promote(now)
        elif self.failback and not self.held:
            self._fail_back(now)

    def switch_to(self, name: str) -> None:
        """Make `name` active by hand."""
        self._switch(name, MANUAL, -math.inf)
        self.held = True

    def choose(self, skip: Collection[str], now: float) -> Any:
        """The next member to try: the active one, then the others in order."""
        for one in self.order:
            if one.name == self.active and self._can_take(one, skip, now):
                return one
        return next((one for one in self.order if self._can_take(one, skip, now)), None)

    def _can_take(self, one: Ranked, skip: Collection[str], now: float) -> bool:
        return one.name not in skip and one.health.standing(now) is not Standing.DOWN

    def _promote(self, now: float) -> None:
        found = [(one.health.standing(now), one) for one in self.order]
        best = max((standing for standing, _ in found), default=Standing.DOWN)
        if best is Standing.DOWN:
            if not self.order:
                self.active = None
            return
        self._switch(next(one.name for standing, one in found if standing is best), PROMOTION, now)

    def _fail_back(self, now: float) -> None:
        if now - self._switched_at < self.failback_after:
            return
        for one in takewhile(lambda one: one.name != self.active, self.order):
            since = one.health.usable_since(now)
            if since is not None and now - since >= self.failback_after:
                self._switch(one.name, FAILBACK, now)
                return

    def _switch(self, name: str, reason: str, now: float) -> None:
        """The one place where the active member changes."""
        self.held = False
        if name != self.active:
            old, self.active, self._switched_at = self.active, name, now
            self.switches.append((old, name, reason))
