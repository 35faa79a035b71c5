"""Active-passive: one member takes all calls, and the next in order stands by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from resilient._core import clock
from resilient._core.budget import RetryBudget
from resilient._core.durations import Duration, seconds
from resilient._core.promotion import Promotion
from resilient._core.verdict import ExceptionTypes, On
from resilient.circuit_breaker import CircuitBreaker
from resilient.events import FailoverSwitched
from resilient.failover.checks import HealthCheck
from resilient.failover.member import Member, MemberSnapshot, Seat
from resilient.failover.pool import Pool, put_in
from resilient.failover.roster import Found, Skip

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ActivePassiveSnapshot:
    """The members, each with its state, and the name of the active one."""

    name: str
    kind: str
    members: tuple[MemberSnapshot, ...]
    active: str | None


class ActivePassive(Pool[T]):
    """Send all calls to one member; when it has failed, promote the next one.

    Args:
        name: Names the pool in events, errors and telemetry.
        members: `Member` objects, or a mapping of names to targets, the most preferred
            first; a lower `priority` goes before the order in which they are given.
        on: The exceptions that are a member's failures, after which the call goes on to
            the next member in order: classes or a predicate.
        unless: Classes that `on` would match but that are no failures.
        attempts: How many members are tried per call, 1 or more; all by default. With 1 no
            call is made twice.
        budget: A `RetryBudget` that each further member tried draws on. None by default.
        breaker: Makes a member's circuit breaker from its name. By default it opens after 5
            failures in a row, for 5 s at first and up to 300 s. A member has failed when
            its breaker opens or its health check says so.
        health_check: Probes the members while the pool runs: `with pool:`.
        failback: Whether a more preferred member becomes active again by itself.
        failback_after: Seconds for which it must have been usable, without a break, before
            it does. 30 by default.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range, or two members have one name.
    """

    kind: ClassVar[str] = "active_passive"

    def __init__(
        self,
        name: str,
        members: Mapping[str, T] | Iterable[Member[T]],
        *,
        on: On,
        unless: ExceptionTypes | tuple[()] = (),
        attempts: int | None = None,
        budget: RetryBudget | None = None,
        breaker: Callable[[str], CircuitBreaker] | None = None,
        health_check: HealthCheck[T] | None = None,
        failback: bool = True,
        failback_after: Duration = 30,
    ) -> None:
        super().__init__(
            name,
            on=on,
            unless=unless,
            attempts=attempts,
            budget=budget,
            breaker=breaker,
            health_check=health_check,
        )
        if not isinstance(failback, bool):
            raise TypeError(f"failback must be true or false, not {failback!r}")
        self._machine = Promotion(
            failback=failback,
            failback_after=seconds(failback_after, "failback_after", zero=True),
        )
        # What nearly every call is given.
        self._front: Found = None
        put_in(self, members)

    @property
    def active(self) -> str | None:
        """The name of the member that calls go to; `None` if there are no members."""
        with self._lock:
            self._look(clock.now())
            active = self._machine.active
        self._after("")
        return active

    def switch_to(self, name: str) -> None:
        """Make a member the active one, by hand, until it fails or the next `switch_to`.

        Calls in flight elsewhere are left to finish.

        Raises:
            LookupError: The pool has no member of that name.
            ValueError: The member is being drained.
        """
        with self._lock:
            seat = self._seat(name)
            if seat.health.draining:
                raise ValueError(f"member {name!r} of {self.name} is being drained")
            self._machine.switch_to(name)
            self._look(clock.now())
        self._after("")

    def snapshot(self) -> ActivePassiveSnapshot:  # type: ignore[override]
        """Return the members, their states and which is active, as plain values."""
        found = self._member_snapshots()
        return ActivePassiveSnapshot(self.name, self.kind, found, self._machine.active)

    def _added(self, seat: Seat, now: float, spare: bool) -> None:
        self._reorder(now)

    def _removed(self, seat: Seat, now: float) -> None:
        self._reorder(now)

    def _reorder(self, now: float) -> None:
        order = sorted(self._seats.values(), key=lambda one: one.priority)
        self._machine.set_order(order, now)

    def _refresh(self, now: float) -> None:
        machine = self._machine
        machine.refresh(now)
        if machine.active is not None:
            seat = self._seats[machine.active]
            # When something else is active, it may be stopped at once.
            seat.served = True
            self._front = seat, False
        while machine.switches:
            old, new, reason = machine.switches.popleft()
            fields = {"old": old, "new": new, "reason": reason}
            self._told.append((FailoverSwitched, fields))

    def _settled(self, now: float) -> bool:
        machine = self._machine
        first = machine.order[0].name if machine.order else None
        return machine.held or not machine.failback or machine.active == first

    def _choose(self, key: Any, skip: Skip, first: bool, now: float) -> Found:
        if self._calm and not skip:
            return self._front
        seat = self._machine.choose(skip, now)
        return None if seat is None else (seat, False)

    def _spared(self, seat: Seat, now: float) -> bool:
        machine = self._machine
        if seat.name == machine.active:
            return False
        # Single calls that went on there do not have it started and stopped each time.
        return seat.served or now - seat.used_at >= machine.failback_after
