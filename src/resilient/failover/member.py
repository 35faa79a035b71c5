"""A pool's members: what users give, and what the pool keeps with each."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol

from resilient._core.balance import Load
from resilient._core.budget import GIL
from resilient._core.circuit import Circuit
from resilient._core.health import CheckRules, Health, Standing
from resilient._core.standby import Life
from resilient._decorate import is_coroutine_function
from resilient._runtime.signals import Signal
from resilient.circuit_breaker import CircuitBreaker
from resilient.failover.standby import Standby

if TYPE_CHECKING:
    from resilient._call import Call

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

T = TypeVar("T")

HEALTHY: Final = "healthy"
TRIAL: Final = "trial"
DOWN: Final = "down"
DRAINING: Final = "draining"
STANDBY: Final = "standby"
# The states of a member, as events, snapshots and metrics have them.
STATES: Final = (HEALTHY, TRIAL, DOWN, DRAINING, STANDBY)

_BY_STANDING: Final = {Standing.UP: HEALTHY, Standing.TRIAL: TRIAL, Standing.DOWN: DOWN}


@dataclass(frozen=True, slots=True, eq=False)
class Member(Generic[T]):
    """One of several interchangeable backends.

    Args:
        name: Names it within its pool, in events and in telemetry.
        target: What a protected function gets as its first argument to work with: a
            connection, a client, an address.
        weight: Its share of the load beside the others', above 0. 1 by default.
        priority: Its group, 0 or more; lower ones come first. A zone or a region, say.
        start: Brings it up when it is needed; it is a cold standby then. Called without
            arguments, sync or async, never twice at a time.
        stop: Takes a cold standby down again, never while calls run there.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range.
    """

    name: str
    target: T
    weight: float = 1
    priority: int = 0
    start: Callable[[], Awaitable[object] | object] | None = None
    stop: Callable[[], Awaitable[object] | object] | None = None
    __match_args__: ClassVar = ("name", "target")

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"a member's name must be a string, not {type(self.name).__name__}")
        if not self.name:
            raise ValueError("a member's name must not be empty")
        _check_weight(self.weight)
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise TypeError(f"priority must be a whole number, not {self.priority!r}")
        if self.priority < 0:
            raise ValueError(f"priority must be 0 or more, not {self.priority}")
        for name in ("start", "stop"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable without arguments, not {value!r}")

    @property
    def is_cold(self) -> bool:
        """Whether it has to be started before it can be used."""
        return self.start is not None or self.stop is not None


def _check_weight(weight: object) -> None:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(f"weight must be a number above 0, not {weight!r}")
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight must be finite and above 0, not {weight!r}")


def members_of(given: object, what: str = "members") -> list[Member[Any]]:
    """Return `given`, members or a mapping of names to targets, as a list of members."""
    if isinstance(given, Mapping):
        # A mapping may hold members too, for their options.
        return [
            target if isinstance(target, Member) else Member(name, target)
            for name, target in given.items()
        ]
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(
            f"{what} must be a mapping of names to targets, or an iterable of Member, "
            f"not {type(given).__name__}"
        )
    return [checked(one) for one in given]


def checked(member: object) -> Member[Any]:
    """Return `member` if it is one."""
    if not isinstance(member, Member):
        raise TypeError(f'a member is written Member("name", target), not {member!r:.80}')
    return member


@dataclass(frozen=True, slots=True)
class MemberSnapshot:
    """One member: its state, and how many calls are in flight there.

    `state` is `healthy`, `trial` (its breaker lets single calls through to find out), `down`,
    `draining`, or `standby` (cold, and not started).
    """

    name: str
    state: str
    in_flight: int
    weight: float
    priority: int


class Outage(Protocol):
    """A member that is down on purpose, to see what follows."""

    def holds(self) -> bool:
        """Whether it is down now."""
        ...

    def strike(self, call: Call) -> Exception:
        """Return the error of a call that goes there."""
        ...


class Seat:
    """What a pool keeps with one member."""

    __slots__ = ("__weakref__", "_entered", "_left", "breaker", "circuit", "health", "is_async",
                 "life", "load", "member", "name", "outage", "priority", "seen", "served", "target",
                 "used_at",
                 "watch", "weight")  # fmt: skip

    def __init__(
        self, member: Member[Any], breaker: CircuitBreaker, rules: CheckRules | None
    ) -> None:
        self.member = member
        self.name = member.name
        self.target = member.target
        self.weight = float(member.weight)
        self.priority = member.priority
        self.breaker = breaker
        self.circuit: Circuit = breaker._circuit
        self.health = Health(self.circuit, rules)
        self.load = Load()
        self.life = Standby(member) if member.is_cold else None
        self.is_async = is_coroutine_function(member.start) or is_coroutine_function(member.stop)
        # The state that was last announced.
        self.seen = HEALTHY if self.life is None else STANDBY
        self.used_at = 0.0
        self.outage: Outage | None = None
        # Whether it has had a part that it may be released from: as the active one, say.
        self.served = False
        # Given when no call runs here any more, if somebody waits for that.
        self.watch: Signal | None = None
        self._entered = 0
        self._left = 0

    @property
    def in_flight(self) -> int:
        """How many calls run here."""
        return self._entered - self._left

    def enter(self) -> None:
        """A call begins. `+= 1` on a slot loses nothing under the GIL; see `budget`."""
        if GIL:
            self._entered += 1
        else:  # pragma: no cover - free-threaded builds alone
            with self.circuit._lock:
                self._entered += 1

    def leave(self) -> None:
        """A call has ended."""
        if GIL:
            self._left += 1
        else:  # pragma: no cover - free-threaded builds alone
            with self.circuit._lock:
                self._left += 1
        watch = self.watch
        if watch is not None and self.is_idle():
            watch.give()

    def is_idle(self) -> bool:
        """Whether no call runs here."""
        return self._entered == self._left

    def is_out(self) -> bool:
        """Whether it is down on purpose."""
        return self.outage is not None and self.outage.holds()

    @property
    def is_cold(self) -> bool:
        """Whether it must be started before a call can go there."""
        return self.life is not None and self.life.state is not Life.WARM

    def after_fork(self) -> None:
        """Only the forking thread lives on: the calls of the others never leave."""
        self._left = self._entered
        if self.life is not None:
            self.life.after_fork()

    def state(self, now: float) -> str:
        """Its state, as it is announced."""
        if self.health.draining:
            return DRAINING
        standing = self.health.standing(now)
        if standing is Standing.UP and self.is_cold:
            return STANDBY
        return _BY_STANDING[standing]

    def snapshot(self, now: float) -> MemberSnapshot:
        """The member as plain values."""
        return MemberSnapshot(
            self.name, self.state(now), self.in_flight, self.weight, self.priority
        )
