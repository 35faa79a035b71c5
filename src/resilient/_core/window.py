"""The calls that a closed circuit breaker judges by: the last N, or the last N seconds.

A success is recorded without a lock: `deque.append` is atomic, with the GIL and without,
and `+= 1` on a slot is atomic under the GIL (see `budget`). Failures and slow calls come
under the breaker's lock. Without the GIL the time window counts successes under that
lock as well.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from resilient._core.budget import GIL
from resilient._core.living import forkable

SUCCESS, FAILURE, SLOW, SLOW_FAILURE = range(4)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many calls a window holds, and how many of them failed or were slow."""

    calls: int = 0
    failures: int = 0
    slow: int = 0

    @property
    def failure_rate(self) -> float:
        """Failures per call, 0 for an empty window."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Slow calls per call, 0 for an empty window."""
        return self.slow / self.calls if self.calls else 0.0


class CountWindow:
    """The last `size` calls."""

    __slots__ = ("_outcomes", "success")

    def __init__(self, size: int) -> None:
        self._outcomes: deque[int] = deque(maxlen=size)
        # Called for every success: a partial stays in C all the way.
        self.success: Callable[[], None] = partial(self._outcomes.append, SUCCESS)

    def success_at(self, now: float) -> None:
        """Add a quick success."""
        self.success()

    def record(self, outcome: int, now: float) -> None:
        """Add a call that ended as `outcome`."""
        self._outcomes.append(outcome)

    def counts(self, now: float) -> Counts:
        """Count the calls held. `deque.count` runs in C and sees one state of the deque."""
        outcomes = self._outcomes.copy()
        both = outcomes.count(SLOW_FAILURE)
        return Counts(len(outcomes), outcomes.count(FAILURE) + both, outcomes.count(SLOW) + both)


class _Bucket:
    """The calls of one slice of time, which starts with its first call."""

    __slots__ = ("failures", "slow", "start", "successes")

    def __init__(self, start: float) -> None:
        self.start = start
        self.successes = 0
        self.failures = 0
        self.slow = 0


class TimeWindow:
    """The calls of the last `seconds`, in at most `SLICES` slices.

    A slice is forgotten as a whole when its first call is `seconds` old, so that a call may
    be forgotten one percent of the time early, and never late. It forgets by the clock when
    it is read, so that an old burst of failures does not weigh on the first call after a
    quiet night.
    """

    SLICES = 100

    __slots__ = ("__weakref__", "_buckets", "_lock", "_seconds", "_width")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._width = seconds / self.SLICES
        # One more than fits into the time, for what rounding adds.
        self._buckets: deque[_Bucket] = deque(maxlen=self.SLICES + 1)
        self._lock = threading.Lock()
        forkable.add(self)

    def success_at(self, now: float) -> None:
        """Add a quick success."""
        bucket = self._bucket(now)
        if GIL:
            bucket.successes += 1
        else:  # pragma: no cover - free-threaded builds alone
            with self._lock:
                bucket.successes += 1

    def record(self, outcome: int, now: float) -> None:
        """Add a call that ended as `outcome`."""
        bucket = self._bucket(now)
        with self._lock:
            if outcome in (FAILURE, SLOW_FAILURE):
                bucket.failures += 1
            else:
                bucket.successes += 1
            if outcome in (SLOW, SLOW_FAILURE):
                bucket.slow += 1

    def counts(self, now: float) -> Counts:
        """Count the calls that are younger than the window."""
        calls = failures = slow = 0
        for bucket in self._buckets.copy():
            if now - bucket.start < self._seconds:
                calls += bucket.successes + bucket.failures
                failures += bucket.failures
                slow += bucket.slow
        return Counts(calls, failures, slow)

    def _bucket(self, now: float) -> _Bucket:
        buckets = self._buckets
        if buckets and now - buckets[-1].start < self._width:
            return buckets[-1]
        with self._lock:
            # Once per slice: two buckets for one slice would push a living one out.
            if not buckets or now - buckets[-1].start >= self._width:
                buckets.append(_Bucket(now))
            return buckets[-1]

    def after_fork(self) -> None:
        """Start with a lock that no lost thread holds."""
        self._lock = threading.Lock()
