"""A cold standby's life: started once when it is needed, stopped when it no longer is.

::

    COLD ── needed ──▶ STARTING ── started ──▶ WARM ── let go, idle ──▶ STOPPING
     ▲                    │ failed                ▲                        │
     └────────────────────┴───────────────────────┼────────────────────────┘
                                                  └ a call came in between

STARTING and STOPPING are flights: one is under way at a time, and all who need its end
wait for the same one. A stop is only begun while no call runs there: a call is counted
before it looks at the state, and a stop looks at the count after it has changed the state,
so that one of the two sees the other.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Any


class Life(enum.Enum):
    """Where a cold standby stands."""

    COLD = "cold"
    STARTING = "starting"
    WARM = "warm"
    STOPPING = "stopping"


class Lifecycle:
    """The machine. A flight is whatever `make` makes."""

    __slots__ = ("_flight", "_lock", "state")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flight: Any = None
        self.state = Life.COLD

    def need(self, make: Callable[[], Any]) -> tuple[Any, bool]:
        """What to wait for, and whether to launch it as a start; `(None, False)` when warm."""
        with self._lock:
            if self.state is Life.WARM:
                return None, False
            if self.state is Life.COLD:
                self.state, self._flight = Life.STARTING, make()
                return self._flight, True
            return self._flight, False

    def started(self, good: bool) -> None:
        """The start is over."""
        with self._lock:
            self.state = Life.WARM if good else Life.COLD

    def retire(self, idle: Callable[[], bool], make: Callable[[], Any]) -> Any:
        """The flight to launch as a stop; `None` if it is not warm, or a call runs there."""
        with self._lock:
            if self.state is not Life.WARM:
                return None
            self.state = Life.STOPPING
            if not idle():
                self.state = Life.WARM
                return None
            self._flight = make()
            return self._flight

    def stopped(self) -> None:
        """The stop is over."""
        with self._lock:
            self.state = Life.COLD

    def after_fork(self) -> None:
        """A flight whose thread is lost never lands."""
        self._lock = threading.Lock()
        if self.state in (Life.STARTING, Life.STOPPING):
            self.state = Life.COLD
