"""N+1: each active owns its share of the keys, and a spare takes over exactly that."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeVar, get_args

from resilient._core.budget import RetryBudget
from resilient._core.covering import Covering, Place
from resilient._core.health import Standing
from resilient._core.rendezvous import encode, owner
from resilient._core.verdict import ExceptionTypes, On
from resilient.circuit_breaker import CircuitBreaker
from resilient.events import PoolDegraded, SpareAssigned, SpareReleased
from resilient.failover.checks import HealthCheck
from resilient.failover.hold import Lease
from resilient.failover.member import Member, MemberSnapshot, Seat, checked
from resilient.failover.pool import Pool, put_in
from resilient.failover.roster import Found, Skip

T = TypeVar("T")
WhenExhausted = Literal["reject", "spread"]
Release = Literal["on_recovery", "keep"]

# Seconds for which a cold spare that no active is bound to is kept running.
_LINGER: Final = 30.0


@dataclass(frozen=True, slots=True)
class NPlusOneSnapshot:
    """The members, each with its state, and who covers whom.

    `covers` are pairs, of a spare and the active whose calls it takes; `uncovered` are the
    actives that have failed and that no spare was left for.
    """

    name: str
    kind: str
    members: tuple[MemberSnapshot, ...]
    covers: tuple[tuple[str, str], ...]
    uncovered: tuple[str, ...]


class NPlusOne(Pool[T]):
    """Give each key to its owner among N actives, and a failed one's keys to a spare.

    Args:
        name: Names the pool in events, errors and telemetry.
        actives: The members that own the keys, or a mapping of names to targets.
        spares: The members that stand by, or a mapping. One covers one active at most.
        on: The exceptions that are a member's failures: classes or a predicate. The call
            then goes on to the active's spare, or to a free one, and to no other active.
        unless: Classes that `on` would match but that are no failures.
        key: `key(*args, **kwargs)` sees the caller's arguments and returns the name of the
            active that owns the call, or a str, int, float, bytes, UUID, `None` or a tuple
            of these that is hashed to one, the same in every process. Without it calls
            rotate over the actives.
        when_exhausted: What becomes of the calls of a failed active when no spare is left:
            `"reject"` (the default) raises `PoolExhaustedError`, `"spread"` gives them to
            the healthy actives.
        release: `"on_recovery"` (the default) lets the spare go when the active is well
            again; `"keep"` leaves the spare in its place for good, and the recovered
            active becomes a spare.
        attempts: How many members are tried per call, 1 or more; all by default. With 1 no
            call is made twice.
        budget: A `RetryBudget` that each further member tried draws on. None by default.
        breaker: Makes a member's circuit breaker from its name. By default it opens after 5
            failures in a row, for 5 s at first and up to 300 s.
        health_check: Probes the members while the pool runs: `with pool:`.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range, or two members have one name.
    """

    kind: ClassVar[str] = "n_plus_one"

    def __init__(
        self,
        name: str,
        actives: Mapping[str, T] | Iterable[Member[T]],
        spares: Mapping[str, T] | Iterable[Member[T]],
        *,
        on: On,
        unless: ExceptionTypes | tuple[()] = (),
        key: Callable[..., Any] | None = None,
        when_exhausted: WhenExhausted = "reject",
        release: Release = "on_recovery",
        attempts: int | None = None,
        budget: RetryBudget | None = None,
        breaker: Callable[[str], CircuitBreaker] | None = None,
        health_check: HealthCheck[T] | None = None,
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
        if key is not None and not callable(key):
            raise TypeError(f"key must be a function of the call's arguments, not {key!r}")
        _one_of(when_exhausted, WhenExhausted, "when_exhausted")
        _one_of(release, Release, "release")
        self._key = key
        self._calls = itertools.count()
        self._machine = Covering(spread=when_exhausted == "spread", keep=release == "keep")
        put_in(self, actives, what="actives")
        put_in(self, spares, spare=True, what="spares")

    def add(self, member: Member[Any], spare: bool = False) -> None:
        """Add `member`, as an active, which takes its share of the keys, or as a spare.

        Raises:
            ValueError: The pool has a member of that name.
        """
        self._add(checked(member), spare=spare)

    def lease(self, *args: Any, **kwargs: Any) -> Lease[T]:
        """Return a block that holds one member; `key` is called with these arguments."""
        return self._lease(args, kwargs)

    def snapshot(self) -> NPlusOneSnapshot:  # type: ignore[override]
        """Return the members, their states and who covers whom, as plain values."""
        found = self._member_snapshots()
        with self._lock:
            covers = tuple(
                (place.cover.name, place.server.name)
                for place in self._machine.places.values()
                if place.cover is not None
            )
            uncovered = self._machine.uncovered
        return NPlusOneSnapshot(self.name, self.kind, found, covers, uncovered)

    def _check_member(self, member: Member[Any], spare: bool) -> None:
        if member.is_cold and not spare:
            raise ValueError(
                f"member {member.name} has start= or stop=, but an active is always in use: "
                "give it as a spare"
            )
        if not spare and member.name in self._machine.places:
            raise ValueError(f"{self.name} has a share of the keys named {member.name!r} already")

    def _added(self, seat: Seat, now: float, spare: bool) -> None:
        self._machine.add(seat, spare=spare)

    def _removed(self, seat: Seat, now: float) -> None:
        self._machine.remove(seat)

    def _refresh(self, now: float) -> None:
        machine = self._machine
        machine.refresh(now)
        for place in machine.places.values():
            for seat in (place.server, place.cover):
                if seat is not None:
                    # When it is let go, it may be stopped at once.
                    seat.served = True
        while machine.changes:
            what, spare, active = machine.changes.popleft()
            cls = SpareAssigned if what == "assigned" else SpareReleased
            self._told.append((cls, {"spare": spare, "active": active}))
        while machine.degraded:
            self._told.append((PoolDegraded, {"uncovered": machine.degraded.popleft()}))

    def _key_of(self, args: Any, kwargs: Any) -> Any:
        if self._key is not None:
            return self._key(*args, **kwargs)
        return next(self._calls)

    def _choose(self, key: Any, skip: Skip, first: bool, now: float) -> Found:
        machine = self._machine
        places = tuple(machine.places.values())
        if not places:
            return None
        place = places[key % len(places)] if self._key is None else machine.place_of(key)
        seat = machine.choose(place, skip, now)
        if seat is None and first and machine.spread:
            # A call that has failed is not run again on another active.
            seat = self._spread(place, key, skip, now)
        return None if seat is None else (seat, False)

    def _spread(self, place: Place, key: Any, skip: Skip, now: float) -> Any:
        """A healthy active for a call whose own has failed, the same for each key."""
        free = [one for one in self._machine.healthy(now) if one.server.name not in skip]
        if not free or place.cover is not None or place.health.standing(now) is Standing.UP:
            return None
        names = {one.name: one for one in free}
        weights = [(one.name, one.server.weight) for one in free]
        return names[owner(encode(key), weights)].server

    def _spared(self, seat: Seat, now: float) -> bool:
        if any(seat in (one.server, one.cover) for one in self._machine.places.values()):
            return False
        return seat.served or now - seat.used_at >= _LINGER


def _one_of(value: str, literal: Any, name: str) -> None:
    if value not in get_args(literal):
        choices = " or ".join(repr(one) for one in get_args(literal))
        raise ValueError(f"{name} must be {choices}, not {value!r}")
