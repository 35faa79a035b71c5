"""The retry budget: how many retries a service may add to the load of a failing one.

A token bucket that successes fill and retries empty. Filled by started calls instead, as
some are, the bucket never runs dry in an outage, and the retries keep the backend down
after the cause has gone ("Metastable Failures in Distributed Systems", HotOS 2021).

A success only counts `wins` up; a withdrawal, which is rare, takes the lock and turns new
wins into tokens. `+= 1` on a slot loses nothing under the GIL, because CPython switches
threads only at calls and backward jumps; without the GIL a success takes the lock too.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass

from resilient._core.durations import share
from resilient._core.living import forkable

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@dataclass(frozen=True, slots=True)
class BudgetSnapshot:
    """What a budget holds: `tokens` retries may be made at once, out of `capacity`."""

    tokens: float
    capacity: float


class RetryBudget:
    """A bound on retries as a share of successes, which policies may share.

    Args:
        ratio: Retries allowed per success, above 0 and up to 1. The default of 0.1 lets
            retries add at most 10 % to the load.
        capacity: The most retries that may be saved up, 1 or more, 100 by default. The
            budget starts full.

    Raises:
        ValueError: A value is out of its range.
    """

    __slots__ = ("__weakref__", "_capacity", "_lock", "_ratio", "_seen", "_tokens", "wins")

    def __init__(self, *, ratio: float = 0.1, capacity: float = 100) -> None:
        self._ratio = share(ratio, "ratio")
        if isinstance(capacity, bool) or not isinstance(capacity, (int, float)):
            raise TypeError(f"capacity must be a number, not {type(capacity).__name__}")
        if not 1 <= capacity < float("inf"):
            raise ValueError(f"capacity must be finite and at least 1, not {capacity!r}")
        self._capacity = float(capacity)
        self._tokens = self._capacity
        self.wins = 0
        self._seen = 0
        self._lock = threading.Lock()
        forkable.add(self)

    def succeeded(self) -> None:
        """Count a success."""
        if GIL:
            self.wins += 1
        else:  # pragma: no cover - free-threaded builds alone
            with self._lock:
                self.wins += 1

    def withdraw(self) -> bool:
        """Take one token; false when there is none."""
        with self._lock:
            self._settle()
            # Ten successes at a ratio of 0.1 are one retry, also in floating point.
            if self._tokens < 1 - 1e-9:
                return False
            self._tokens = max(0.0, self._tokens - 1)
            return True

    def refund(self) -> None:
        """Give a token back that was taken for a retry that was never made."""
        with self._lock:
            self._settle()
            self._tokens = min(self._capacity, self._tokens + 1)

    @property
    def tokens(self) -> float:
        """How many retries may be made at once."""
        with self._lock:
            self._settle()
            return self._tokens

    def snapshot(self) -> BudgetSnapshot:
        """Return what the budget holds, as plain values."""
        return BudgetSnapshot(self.tokens, self._capacity)

    def _settle(self) -> None:
        """Turn the wins since the last time into tokens; needs the lock."""
        wins = self.wins
        self._tokens = min(self._capacity, self._tokens + (wins - self._seen) * self._ratio)
        self._seen = wins

    def after_fork(self) -> None:
        """Start with a lock that no lost thread holds."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"RetryBudget(ratio={self._ratio:g}, capacity={self._capacity:g})"
