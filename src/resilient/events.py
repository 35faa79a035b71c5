"""What happened, as frozen values: what `subscribe` hands to a listener.

Every event bears the name and the kind of its policy and the qualified name of the
protected function (empty for a block). No event holds an argument or a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient._core.circuit import CircuitState

__all__ = [
    "CallOverran",
    "CallRejected",
    "CallTimedOut",
    "CircuitStateChanged",
    "Event",
    "FailoverSwitched",
    "FallbackUsed",
    "FaultInjected",
    "HedgeLaunched",
    "HedgeWon",
    "MemberStateChanged",
    "PoolDegraded",
    "PoolPanicked",
    "RetryExhausted",
    "RetryScheduled",
    "SpareAssigned",
    "SpareReleased",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says: whose it is."""

    policy: str
    kind: str
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Attempt number `attempt` failed; the next one starts in `delay` seconds.

    `error` is the exception, or `None` when it was the result that was refused.
    """

    attempt: int
    delay: float
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryExhausted(Event):
    """A retry gave up after `attempts` attempts and `elapsed` seconds."""

    attempts: int
    elapsed: float
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitStateChanged(Event):
    """A circuit breaker went from `old` to `new`."""

    old: CircuitState
    new: CircuitState


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected(Event):
    """A call was refused before it was made.

    `reason` is one of `circuit_open`, `bulkhead_full`, `workers_exhausted` and
    `pool_exhausted`; `retry_after` is in seconds, `None` if unknown.
    """

    reason: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimedOut(Event):
    """A call was ended, or abandoned, after the `seconds` that it was given."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOverran(Event):
    """A call that nothing could interrupt came back after its `seconds` were over."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed(Event):
    """A fallback stood in; `error` is what it replaced, `None` for a refused result."""

    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInjected(Event):
    """A fault was injected on purpose, see `resilient.chaos`.

    `fault` is `error`, `latency`, `result`, `behavior`, or `outage` for a call to a pool's
    member that was taken down; `experiment` is the experiment's name, `None` for an outage;
    `member` is the pool's member that the attempt went to, if any; `delay` is the latency in
    seconds, 0 for the others.
    """

    experiment: str | None
    fault: str
    member: str | None
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeLaunched(Event):
    """Hedge `number` (from 1) was started beside the attempts in flight."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeWon(Event):
    """Hedge `number` (from 1) answered first."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStateChanged(Event):
    """A member of a pool went from state `old` to state `new`."""

    member: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverSwitched(Event):
    """The active member changed. `reason` is `promotion`, `failback` or `manual`."""

    old: str | None
    new: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareAssigned(Event):
    """A spare now covers a failed active."""

    spare: str
    active: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareReleased(Event):
    """A spare no longer covers an active."""

    spare: str
    active: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDegraded(Event):
    """The actives named in `uncovered` have failed and no spare is left for them."""

    uncovered: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPanicked(Event):
    """So few members are healthy (`healthy` in number) that all are used again."""

    healthy: int
