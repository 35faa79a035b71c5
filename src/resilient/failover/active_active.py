"""Active-active: all members share the load, and take over each other's at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args

from resilient._core import chance
from resilient._core.balance import Balance, Balancer, BalanceRules
from resilient._core.budget import RetryBudget
from resilient._core.durations import Duration, seconds
from resilient._core.verdict import ExceptionTypes, On
from resilient.circuit_breaker import CircuitBreaker
from resilient.events import PoolPanicked
from resilient.failover.checks import HealthCheck
from resilient.failover.member import Member, MemberSnapshot, Seat
from resilient.failover.pool import Pool, put_in
from resilient.failover.roster import Found, Skip

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ActiveActiveSnapshot:
    """The members, each with its state, and whether so few are healthy that all are used."""

    name: str
    kind: str
    members: tuple[MemberSnapshot, ...]
    panics: bool


class ActiveActive(Pool[T]):
    """Spread calls over all healthy members, by latency and load.

    Args:
        name: Names the pool in events, errors and telemetry.
        members: `Member` objects, or a mapping of names to targets.
        on: The exceptions that are a member's failures, after which the call goes on to
            another member: classes or a predicate.
        unless: Classes that `on` would match but that are no failures.
        attempts: How many members are tried per call, 1 or more; all by default. With 1 no
            call is made twice.
        budget: A `RetryBudget` that each further member tried draws on. None by default.
        breaker: Makes a member's circuit breaker from its name. By default it opens after 5
            failures in a row, for 5 s at first and up to 300 s.
        health_check: Probes the members while the pool runs: `with pool:`.
        balance: `"ewma"` (the default) takes the cheaper of two members drawn at random, by
            peak-sensitive average latency x (calls in flight + 1); `"least_loaded"` does so
            by calls in flight alone; `"round_robin"` and `"random"` go by weight alone.
        max_ejected: The most members of a priority group, as a share from 0 to 1, that get
            no calls because they fail; one always may. 0.5 by default.
        panic_threshold: When a smaller share of a group, from 0 to 1, is healthy, all its
            members are used again. 0.5 by default; 0 never panics.
        ramp: Seconds over which a member that comes back goes from 10 % to its share. 10 by
            default, 0 for at once.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range, or two members have one name.
    """

    kind: ClassVar[str] = "active_active"

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
        balance: Balance = "ewma",
        max_ejected: float = 0.5,
        panic_threshold: float = 0.5,
        ramp: Duration = 10,
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
        if balance not in get_args(Balance):
            raise ValueError(
                f"balance must be one of {', '.join(get_args(Balance))}, not {balance!r}"
            )
        self._by_latency = balance == "ewma"
        self._balancer = Balancer(
            BalanceRules(
                balance=balance,
                max_ejected=_part(max_ejected, "max_ejected"),
                panic_threshold=_part(panic_threshold, "panic_threshold"),
                ramp=seconds(ramp, "ramp", zero=True),
            )
        )
        put_in(self, members)

    def snapshot(self) -> ActiveActiveSnapshot:  # type: ignore[override]
        """Return the members and their states, as plain values."""
        found = self._member_snapshots()
        return ActiveActiveSnapshot(self.name, self.kind, found, self._balancer.panics)

    def _check_member(self, member: Member[Any], spare: bool) -> None:
        if member.is_cold:
            raise ValueError(
                f"member {member.name} has start= or stop=, but all members of an active-active "
                "pool are in use: take ActivePassive or NPlusOne for cold standbys"
            )

    def _added(self, seat: Seat, now: float, spare: bool) -> None:
        self._calm = False

    def _removed(self, seat: Seat, now: float) -> None:
        self._calm = False

    def _refresh(self, now: float) -> None:
        healthy = self._balancer.refresh(tuple(self._seats.values()), now)
        if healthy is not None:
            self._told.append((PoolPanicked, {"healthy": healthy}))

    def _settled(self, now: float) -> bool:
        return self._balancer.settled(tuple(self._seats.values()), now)

    def _choose(self, key: Any, skip: Skip, first: bool, now: float) -> Found:
        return self._balancer.choose(skip, now, chance.source)


def _part(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number from 0 to 1, not {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
    return float(value)
