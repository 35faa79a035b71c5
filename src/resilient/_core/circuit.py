"""The circuit breaker's state machine: when calls are let through, and when not.

::

    CLOSED ──── too many failures or slow calls ───▶ OPEN
      ▲                                             │  ▲
      │ half_open_calls probes succeeded            │  │ a probe failed,
      └───────────────── HALF_OPEN ◀── open_for ────┘  │ or hung
                             └─────────────────────────┘
    any ── isolate() ──▶ ISOLATED ── reset() ──▶ CLOSED

A period is one stay in one state. One reference, `Circuit.period`, gives the state and all
that belongs to it, so that a call reads both at once; what a call is admitted with is its
permit, and a permit's verdict counts only in its own period:

- CLOSED: the period itself is the permit, with a fresh window. A verdict that arrives
  after the trip falls into the old window, which nobody reads.
- OPEN: no permits. Late verdicts of earlier periods change nothing.
- HALF_OPEN: each call admitted is a probe, with a permit of its own that is settled once.
  A probe's late verdict, after the period ended, changes nothing.
- ISOLATED: no permits, until `reset()`.

Nothing here waits, reads a clock, or calls a listener: the time is handed in, and the
changes of state are queued in `changes` for the shell to announce when no lock is held.
"""

from __future__ import annotations

import enum
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from resilient._core import chance
from resilient._core.backoff import Backoff, waits
from resilient._core.living import forkable
from resilient._core.window import (
    FAILURE,
    SLOW,
    SLOW_FAILURE,
    Counts,
    CountWindow,
    TimeWindow,
)

Window = CountWindow | TimeWindow


class CircuitState(enum.Enum):
    """Where a circuit breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Rules:
    """When a circuit opens and closes; every duration in seconds."""

    new_window: Callable[[], Window]
    minimum_calls: int
    failure_rate: float
    consecutive_failures: int | None
    slow_rate: float
    open_for: float | Iterable[float]
    half_open_calls: int
    half_open_timeout: float

    def trip(self, counts: Counts, in_a_row: int) -> bool:
        """Whether a closed circuit that has just seen a bad call opens."""
        if self.consecutive_failures is not None:
            if in_a_row >= self.consecutive_failures:
                return True
        elif counts.calls >= self.minimum_calls and counts.failure_rate >= self.failure_rate:
            return True
        # Without `slow_call` no call is ever slow.
        return (
            counts.slow > 0
            and counts.calls >= self.minimum_calls
            and counts.slow_rate >= self.slow_rate
        )


class Closed:
    """Calls go through; the period is their common permit."""

    __slots__ = ("_circuit", "admits_all", "failures_in_a_row", "window")

    state: Final = CircuitState.CLOSED

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        # In a slot: every call looks at it, and finds it there faster than on the class.
        self.admits_all = True
        self.window = circuit.rules.new_window()
        self.failures_in_a_row = 0

    def success_at(self, now: float) -> None:
        """A call went well. It never trips, and takes no lock."""
        self.failures_in_a_row = 0
        self.window.success_at(now)

    def neutral(self) -> None:
        """A call said nothing of the backend."""

    def bad(self, now: float, failed: bool, slow: bool, why: str) -> None:
        """A call failed, or was slow, or both: the one moment at which a circuit trips."""
        self._circuit.judge(self, now, failed, slow, why)


class Open:
    """Calls are refused until `until`; then the first one to come is a probe."""

    __slots__ = ("until", "why")

    state: Final = CircuitState.OPEN
    admits_all: Final = False

    def __init__(self, until: float, why: str) -> None:
        self.until = until
        self.why = why


class Isolated:
    """Calls are refused until `reset()`."""

    __slots__ = ()

    state: Final = CircuitState.ISOLATED
    admits_all: Final = False


class HalfOpen:
    """A few calls go through as probes. `places` counts those that may still start."""

    __slots__ = ("lost", "places", "started", "succeeded", "why")

    state: Final = CircuitState.HALF_OPEN
    admits_all: Final = False

    def __init__(self, places: int, why: str) -> None:
        self.places = places
        self.succeeded = 0
        self.started: dict[int, float] = {}
        # Serial numbers of probes that were garbage-collected without an exit. A finalizer
        # may run anywhere, also where the lock is held, so it only appends.
        self.lost: deque[int] = deque()
        self.why = why


class Probe:
    """The permit of one call through a half-open circuit, settled at most once."""

    __slots__ = ("_circuit", "_period", "_serial", "_settled")

    def __init__(self, circuit: Circuit, period: HalfOpen, serial: int) -> None:
        self._circuit = circuit
        self._period = period
        self._serial = serial
        self._settled = False

    def success_at(self, now: float) -> None:
        """The backend answered: a step towards closing."""
        self._settle(self._circuit.probe_succeeded)

    def neutral(self) -> None:
        """The call said nothing of the backend: its place is free again."""
        self._settle(self._circuit.probe_returned)

    def bad(self, now: float, failed: bool, slow: bool, why: str) -> None:
        """The call failed or was slow: the circuit opens again."""
        self._settle(self._circuit.probe_failed, now, why)

    def _settle(self, verdict: Callable[..., None], *more: Any) -> None:
        if self._settled:
            return
        self._settled = True
        try:
            verdict(self._period, self._serial, *more)
        except BaseException:
            # Ctrl-C: whatever has not been done by then never will be.
            self._period.lost.append(self._serial)
            raise

    def __del__(self) -> None:
        # An interrupt may have left it half made, and then it holds no place yet.
        if not getattr(self, "_settled", True):
            self._period.lost.append(self._serial)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not let through."""

    state: CircuitState
    retry_after: float | None
    why: str | None


Permit = Closed | Probe
Period = Closed | Open | HalfOpen | Isolated
P = TypeVar("P", bound=Period)


class Circuit:
    """The machine. `period` may be read without the lock; only `_enter` writes it."""

    __slots__ = (
        "__weakref__", "_lock", "_open_waits", "_serials", "changes", "period", "rules", "telling"
    )  # fmt: skip

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._lock = threading.Lock()
        self._serials = itertools.count()
        # Made at the first trip: most circuits never see one.
        self._open_waits: Iterator[float] | None = None
        self.changes: list[tuple[CircuitState, CircuitState]] = []
        # Held by the one thread that announces the changes; nobody ever waits for it.
        self.telling = threading.Lock()
        self.period: Period = Closed(self)
        forkable.add(self)

    def admit(self, now: float) -> Permit | Refusal:
        """Return a permit for one call, or why there is none."""
        with self._lock:
            period = self._settled(now)
            if isinstance(period, Open) and now >= period.until:
                period = self._enter(HalfOpen(self.rules.half_open_calls, period.why))
            if isinstance(period, Closed):
                return period
            if isinstance(period, HalfOpen) and period.places:
                return self._probe(period, now)
            return self._refusal(period, now)

    def would_admit(self, now: float) -> bool:
        """Whether a call made now would be let through."""
        with self._lock:
            period = self._settled(now)
            match period:
                case Open():
                    return now >= period.until
                case HalfOpen():
                    return period.places > 0
            return isinstance(period, Closed)

    def state(self, now: float) -> CircuitState:
        """Where the circuit stands, hung and lost probes accounted for."""
        period = self.period
        if not isinstance(period, HalfOpen):
            return period.state
        with self._lock:
            return self._settled(now).state

    def counts(self, now: float) -> Counts:
        """What the current window holds; nothing unless closed."""
        period = self.period
        return period.window.counts(now) if isinstance(period, Closed) else Counts()

    def isolate(self) -> None:
        """Refuse all calls until `reset()`."""
        with self._lock:
            if not isinstance(self.period, Isolated):
                self._enter(Isolated())

    def reset(self) -> None:
        """Close, and forget what was seen; a closed circuit starts a new window."""
        with self._lock:
            self._close()

    def trip(self, now: float, why: str) -> None:
        """Open, whatever was seen: something else than a call has failed."""
        with self._lock:
            if isinstance(self.period, (Closed, HalfOpen)):
                self._open(now, why)

    def judge(self, period: Closed, now: float, failed: bool, slow: bool, why: str) -> None:
        """Record a bad call of `period`, and open if that was one too many."""
        with self._lock:
            outcome = (SLOW_FAILURE if slow else FAILURE) if failed else SLOW
            period.window.record(outcome, now)
            period.failures_in_a_row = period.failures_in_a_row + 1 if failed else 0
            # A window that is no longer current must not trip the next one.
            if self.period is period and self.rules.trip(
                period.window.counts(now), period.failures_in_a_row
            ):
                self._open(now, why)

    def probe_succeeded(self, period: HalfOpen, serial: int) -> None:
        """A probe of `period` went well."""
        with self._lock:
            if self.period is not period or serial not in period.started:
                return
            # No call in between, so no interrupt either; `_settled` closes if one comes now.
            del period.started[serial]
            period.succeeded += 1
            if period.succeeded >= self.rules.half_open_calls:
                self._close()

    def probe_returned(self, period: HalfOpen, serial: int) -> None:
        """A probe of `period` ended without saying anything: another may take its place."""
        with self._lock:
            self._give_back(period, serial)

    def probe_failed(self, period: HalfOpen, serial: int, now: float, why: str) -> None:
        """A probe of `period` failed."""
        with self._lock:
            if self.period is period and serial in period.started:
                self._open(now, why)

    def after_fork(self) -> None:
        """Start with locks that no lost thread holds; its probes never come back."""
        self._lock = threading.Lock()
        self.telling = threading.Lock()
        period = self.period
        if isinstance(period, HalfOpen):
            period.places += len(period.started)
            period.started.clear()

    # What follows needs the lock.

    def _settled(self, now: float) -> Period:
        """The period after lost probes gave their places back and hung ones failed."""
        period = self.period
        if not isinstance(period, HalfOpen):
            return period
        while period.lost:
            self._give_back(period, period.lost[0])
            period.lost.popleft()
        if period.succeeded >= self.rules.half_open_calls:
            self._close()
            return self.period
        oldest = min(period.started.values(), default=now)
        hung = oldest + self.rules.half_open_timeout
        if period.started and hung <= now:
            limit = self.rules.half_open_timeout
            # Open since the moment at which it hung, not since somebody noticed.
            return self._open(hung, f"a probe that hung for more than {limit:g} s")
        return period

    def _give_back(self, period: HalfOpen, serial: int) -> None:
        # No call in between, so no interrupt either.
        if serial in period.started:
            del period.started[serial]
            period.places += 1

    def _probe(self, period: HalfOpen, now: float) -> Probe:
        serial = next(self._serials)
        probe = Probe(self, period, serial)
        # No call from here on, so no interrupt either.
        period.started[serial] = now
        period.places -= 1
        return probe

    def _refusal(self, period: Open | HalfOpen | Isolated, now: float) -> Refusal:
        if isinstance(period, Open):
            return Refusal(period.state, max(0.0, period.until - now), period.why)
        return Refusal(period.state, None, period.why if isinstance(period, HalfOpen) else None)

    def _open(self, now: float, why: str) -> Open:
        if self._open_waits is None:
            self._open_waits = _open_waits(self.rules.open_for)
        return self._enter(Open(now + next(self._open_waits), why))

    def _close(self) -> None:
        self._open_waits = None
        self._enter(Closed(self))

    def _enter(self, period: P) -> P:
        """The one place where the state changes."""
        old, self.period = self.period.state, period
        if old is not period.state:
            self.changes.append((old, period.state))
        return period


def _open_waits(open_for: float | Iterable[float]) -> Iterator[float]:
    """How long to stay open, trip after trip, until the circuit closes.

    Plain seconds are jittered upwards, so that the probes of a fleet spread. A backoff
    stays above half of its wait before jitter: full jitter could otherwise re-open the
    gates at once. A finite one repeats its last value.
    """
    if isinstance(open_for, float):
        while True:
            yield open_for * chance.source.uniform(1, 1.1)
    if isinstance(open_for, Backoff):
        pairs = zip(open_for, open_for.plain(), strict=True)
        yield from (max(wait, plain / 2) for wait, plain in pairs)
    last = 0.0
    for last in waits(open_for):  # pyright: ignore[reportArgumentType]
        yield last
    while True:
        yield last
