"""What happens in a run, written down in memory that does not grow with its length."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, Final

from resilient.drill.histogram import Histogram, percentile
from resilient.errors import CallTimeoutError, RejectedError, ResilienceError
from resilient.events import (
    CallRejected,
    CircuitStateChanged,
    Event,
    FailoverSwitched,
    HedgeLaunched,
    HedgeWon,
    MemberStateChanged,
    PoolDegraded,
    SpareAssigned,
    SpareReleased,
)

# Pieces that the time of a run is cut into.
PIECES: Final = 600
# Changes of state that are kept of one breaker or member; names of policies that are kept.
_MOST_CHANGES: Final = 400
_MOST_NAMES: Final = 500


class Lane:
    """The states of one breaker, member or pool over time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.changes: list[tuple[float, str]] = []
        self.dropped = 0

    def change(self, at: float, state: str) -> None:
        """It has come into `state`."""
        if len(self.changes) < _MOST_CHANGES:
            self.changes.append((at, state))
        else:
            self.dropped += 1


class Recorder:
    """Everything that the report of one run is made of."""

    def __init__(self, start: float, seconds: float, expected: Iterable[type[Exception]]) -> None:
        self.start = start
        self.width = seconds / PIECES
        self._per_second = PIECES / seconds
        self.started = _zeros()
        # By the time of the call's start, and of its end.
        self.served = _zeros()
        self.good = _zeros()
        self.bad = _zeros()
        self.p50: list[float | None] = [None] * PIECES
        self.p99: list[float | None] = [None] * PIECES
        # The latencies of the calls that have ended in this piece of time; when it is over,
        # its percentiles are all that is kept.
        self._latencies: dict[int, int] = {}
        self._piece = 0
        self.requests: dict[str, array[int]] = {}
        self.latency = Histogram()
        self.successes = 0
        self.calls = 0
        self.last_end = start
        self.failures: dict[str, int] = {}
        self.rejected = 0
        self.timed_out = 0
        self.unfinished = 0
        # Seconds for which each backend was running.
        self.ran: dict[str, float] = {}
        self.events: dict[tuple[str, str, str], int] = {}
        self.lanes: dict[str, Lane] = {}
        # When a pool has turned away from a member, and back to it.
        self.left: dict[str, list[float]] = {}
        self.returned: dict[str, list[float]] = {}
        self._expected: set[type[BaseException]] = set()
        self._classes: tuple[type[BaseException], ...] = (ResilienceError, *expected)

    def row_of(self, backend: str) -> array[int]:
        """Where the requests to `backend` are counted."""
        return self.requests.setdefault(backend, _zeros())

    def bucket(self, now: float) -> int:
        """The piece of time that `now` is in; what comes after the end is in the last."""
        piece = int((now - self.start) * self._per_second)
        return piece if piece < PIECES else PIECES - 1

    # Calls.

    def began(self, now: float) -> int:
        """A call begins; return its piece of time."""
        self.calls += 1
        piece = self.bucket(now)
        self.started[piece] += 1
        return piece

    def succeeded(self, piece: int, began: float, now: float) -> None:
        """The call that began then has its answer."""
        step = self.latency.add(now - began)
        self.successes += 1
        self.served[piece] += 1
        end = self.bucket(now)
        self.good[end] += 1
        if end != self._piece:
            self.close_piece()
            self._piece = end
        self._latencies[step] = self._latencies.get(step, 0) + 1
        self.last_end = now

    def close_piece(self) -> None:
        """No more calls end in this piece of time."""
        counts = self._latencies
        if counts:
            total = sum(counts.values())
            self.p50[self._piece] = percentile(counts, total, 50)
            self.p99[self._piece] = percentile(counts, total, 99)
            counts.clear()

    def failed(self, error: BaseException, now: float) -> None:
        """A call has ended with `error`."""
        name = type(error).__name__
        self.failures[name] = self.failures.get(name, 0) + 1
        self.bad[self.bucket(now)] += 1
        self.rejected += isinstance(error, RejectedError)
        self.timed_out += isinstance(error, CallTimeoutError)
        self.last_end = now

    def expect(self, cls: type[BaseException]) -> None:
        """An error of this class is a failed call, and not a mistake in somebody's code."""
        self._expected.add(cls)

    def is_expected(self, error: BaseException) -> bool:
        """Whether `error` is how a call may fail."""
        return isinstance(error, self._classes) or type(error) in self._expected

    # Events.

    def listen(self, now: Any) -> Any:
        """Return a listener that counts the events; `now()` gives the time."""

        def heard(event: Event) -> None:
            key = event.policy, event.kind, _label(event)
            if key in self.events or len(self.events) < _MOST_NAMES:
                self.events[key] = self.events.get(key, 0) + 1
            note = _NOTES.get(type(event))
            if note is not None:
                note(self, event, now() - self.start)

        return heard

    def lane(self, name: str) -> Lane | None:
        """The lane of this name; `None` when there are too many."""
        if name not in self.lanes and len(self.lanes) >= _MOST_NAMES:
            return None
        return self.lanes.setdefault(name, Lane(name))

    def change(self, name: str, at: float, old: str, new: str) -> None:
        """What is named so has gone from `old` to `new`."""
        lane = self.lane(name)
        if lane is None:
            return
        if not lane.changes:
            lane.change(0.0, old)
        lane.change(at, new)

    def _circuit(self, event: Any, at: float) -> None:
        self.change(event.policy, at, event.old.value, event.new.value)

    def _member(self, event: Any, at: float) -> None:
        self.change(f"{event.policy}: {event.member}", at, event.old, event.new)
        if event.kind == "active_active":
            self._moved(event.member, at, back=event.new == "healthy")

    def _switched(self, event: Any, at: float) -> None:
        self.change(f"{event.policy}: active", at, event.old or "nobody", event.new)
        if event.reason == "promotion" and event.old is not None:
            self._moved(event.old, at, back=False)
        self._moved(event.new, at, back=True)

    def _assigned(self, event: Any, at: float) -> None:
        self.change(f"{event.policy}: {event.spare} covers", at, "nobody", event.active)
        self._moved(event.active, at, back=False)

    def _released(self, event: Any, at: float) -> None:
        self.change(f"{event.policy}: {event.spare} covers", at, event.active, "nobody")
        self._moved(event.active, at, back=True)

    def _moved(self, member: str, at: float, *, back: bool) -> None:
        times = (self.returned if back else self.left).setdefault(member, [])
        if len(times) < _MOST_CHANGES:
            times.append(at)


def _zeros() -> array[int]:
    return array("q", bytes(8 * PIECES))


_NOTES: Final[dict[type[Event], Any]] = {
    CircuitStateChanged: Recorder._circuit,
    MemberStateChanged: Recorder._member,
    FailoverSwitched: Recorder._switched,
    SpareAssigned: Recorder._assigned,
    SpareReleased: Recorder._released,
}

# What each event says beyond its name.
_DETAILS: Final[dict[type[Event], Any]] = {
    CallRejected: lambda event: event.reason,
    CircuitStateChanged: lambda event: f"{event.old.value} to {event.new.value}",
    MemberStateChanged: lambda event: f"{event.member}: {event.old} to {event.new}",
    FailoverSwitched: lambda event: f"{event.reason}, {event.old} to {event.new}",
    SpareAssigned: lambda event: f"{event.spare} for {event.active}",
    SpareReleased: lambda event: f"{event.spare} from {event.active}",
    PoolDegraded: lambda event: f"uncovered: {', '.join(event.uncovered)}",
    HedgeLaunched: lambda event: f"number {event.number}",
    HedgeWon: lambda event: f"number {event.number}",
}


def _label(event: Event) -> str:
    detail = _DETAILS.get(type(event))
    name = type(event).__name__
    return name if detail is None else f"{name} ({detail(event)})"
