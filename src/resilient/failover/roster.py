"""The members of a pool: who they are, how they stand, and what is told when that changes.

A pool swaps its map of members whole under its lock, and reads it without. Its machine,
which decides where calls go, is told of each change under the lock; what changed is
announced when the lock is free.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Never, TypeVar

from resilient import _observe
from resilient._core import clock
from resilient._core.backoff import exponential
from resilient._core.budget import RetryBudget
from resilient._core.circuit import Open
from resilient._core.durations import Duration, count, seconds
from resilient._core.living import forkable
from resilient._core.verdict import ExceptionTypes, Matcher, On
from resilient._policy import Policy
from resilient._runtime import waits
from resilient._runtime.signals import Signal
from resilient.circuit_breaker import CircuitBreaker
from resilient.events import Event, MemberStateChanged
from resilient.failover.checking import Checking
from resilient.failover.checks import HealthCheck
from resilient.failover.member import HEALTHY, STATES, Member, Seat, checked
from resilient.failover.standby import Flight

T = TypeVar("T", covariant=True)
# Members that a call does not go to again.
Skip = set[str] | tuple[()]
# A member, and whether to call it past its breaker.
Found = tuple[Seat, bool] | None
Told = tuple[type[Event], dict[str, Any]]


class Roster(Checking, Policy[T, Never]):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The members of a pool, and what becomes of them."""

    # Whether calls go by the members' latency, so that it is measured.
    _by_latency = False
    # What `MemberSnapshot.state` can be.
    member_states: ClassVar[tuple[str, ...]] = STATES

    def __init__(
        self,
        name: str,
        *,
        on: On,
        unless: ExceptionTypes | tuple[()],
        attempts: int | None,
        budget: RetryBudget | None,
        breaker: Callable[[str], CircuitBreaker] | None,
        health_check: HealthCheck[Any] | None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"a {type(self).__name__} needs a name first, a string, not {name!r:.80}"
            )
        super().__init__(name)
        self._matcher = Matcher(on, unless)
        self._attempts = None if attempts is None else count(attempts, "attempts")
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None, not {budget!r}")
        self._budget = budget
        if breaker is not None and not callable(breaker):
            raise TypeError(f"breaker must make a member's breaker from its name, not {breaker!r}")
        self._new_breaker = breaker
        if health_check is not None and not isinstance(health_check, HealthCheck):
            raise TypeError(f"health_check must be a HealthCheck, not {health_check!r}")
        self._lock = threading.Lock()
        self._seats: Mapping[str, Seat] = MappingProxyType({})
        # Whether all members are well and nothing is about to change by itself, so that a
        # call need not look around.
        self._calm = False
        self._has_cold = False
        # Cold standbys that were removed, and may still run.
        self._leaving: tuple[Seat, ...] = ()
        self._told: deque[Told] = deque()
        self._telling = threading.Lock()
        self._set_check(health_check)
        forkable.add(self)

    # What each kind of pool decides. These need the lock.

    @abstractmethod
    def _added(self, seat: Seat, now: float, spare: bool) -> None:
        """A member was added; `_seats` has it already."""

    @abstractmethod
    def _removed(self, seat: Seat, now: float) -> None:
        """A member was removed; `_seats` has it no more."""

    @abstractmethod
    def _refresh(self, now: float) -> None:
        """Time has passed, or a member's standing has changed."""

    @abstractmethod
    def _choose(self, key: Any, skip: Skip, first: bool, now: float) -> Found:
        """The next member to try, and whether to call it past its breaker.

        `first`: no member has been tried yet, this time.
        """

    # What they may decide.

    def _key_of(self, args: Any, kwargs: Any) -> Any:
        """What ties a call to certain members."""
        return None

    def _settled(self, now: float) -> bool:
        """Whether nothing changes by itself when all members are well."""
        return True

    def _spared(self, seat: Seat, now: float) -> bool:
        """Whether a cold standby that runs is not needed now."""
        return False

    # Members.

    @property
    def members(self) -> tuple[Member[T], ...]:
        """The members, in the order in which they were added."""
        return tuple(seat.member for seat in self._seats.values())

    def add(self, member: Member[Any]) -> None:
        """Add `member`; calls may go there at once.

        Raises:
            ValueError: The pool has a member of that name.
        """
        self._add(checked(member), spare=False)

    def _add(self, member: Member[Any], *, spare: bool) -> None:
        self._check_member(member, spare)
        seat = Seat(member, self._make_breaker(member.name), self._check_rules)
        with self._lock:
            if member.name in self._seats:
                raise ValueError(f"{self.name} has a member named {member.name!r} already")
            self._seats = MappingProxyType({**self._seats, member.name: seat})
            now = clock.now()
            self._added(seat, now, spare)
            self._look(now)
        self._has_cold = self._has_cold or seat.life is not None
        self._after("")
        self._wake_checks()

    def _check_member(self, member: Member[Any], spare: bool) -> None:
        """Refuse a member that this kind of pool has no use for."""

    def remove(self, name: str) -> None:
        """Remove a member; calls in flight there are left to finish.

        Raises:
            LookupError: The pool has no member of that name.
        """
        with self._lock:
            seat = self._seat(name)
            self._seats = MappingProxyType(
                {key: one for key, one in self._seats.items() if key != name}
            )
            now = clock.now()
            seat.health.draining = True
            if seat.life is not None:
                self._leaving = (*self._leaving, seat)
            self._removed(seat, now)
            self._look(now)
        self._after("")

    def drain(self, name: str, timeout: Duration) -> bool:
        """Send no new calls to a member, and wait for those in flight there.

        It stays out of use until it is removed, and may then be added again.

        Args:
            name: The member.
            timeout: How many seconds to wait at most, 0 or more.

        Returns:
            Whether all calls there have ended.

        Raises:
            LookupError: The pool has no member of that name.
            RuntimeError: This thread runs an event loop: `await pool.adrain(...)`.
        """
        limit = seconds(timeout, "timeout", zero=True)
        if waits.in_event_loop():
            raise RuntimeError(
                "drain() would stop the event loop that this thread runs: "
                "write `await pool.adrain(...)`"
            )
        return self._drain(name).wait(limit)

    async def adrain(self, name: str, timeout: Duration) -> bool:
        """As `drain`, in a task."""
        limit = seconds(timeout, "timeout", zero=True)
        return await self._drain(name).await_(limit)

    def _drain(self, name: str) -> Signal:
        """Take a member out of use; the signal says that no call runs there any more."""
        with self._lock:
            seat = self._seat(name)
            seat.health.draining = True
            if seat.watch is None:
                seat.watch = Signal()
            signal = seat.watch
            self._look(clock.now())
        self._after("")
        # A call that had chosen the member a moment ago may still come; `leave` says so again.
        if seat.is_idle():
            signal.give()
        return signal

    def _seat(self, name: str) -> Seat:
        """The seat of a member; needs the lock."""
        seat = self._seats.get(name)
        if seat is None:
            raise LookupError(f"{self.name} has no member named {name!r}")
        return seat

    def _make_breaker(self, name: str) -> CircuitBreaker:
        if self._new_breaker is not None:
            breaker = self._new_breaker(name)
        else:
            breaker = CircuitBreaker(
                f"{self.name}.{name}",
                consecutive_failures=5,
                open_for=exponential(5, maximum=300, jitter="equal"),
            )
        if not isinstance(breaker, CircuitBreaker):
            raise TypeError(f"breaker(name) must return a CircuitBreaker, not {breaker!r}")
        if any(seat.breaker is breaker for seat in self._seats.values()):
            raise ValueError("breaker(name) returned one breaker twice: make one per member")
        breaker._matcher = self._matcher
        return breaker

    # What happens to members.

    def _next(self, key: Any, skip: Skip, first: bool, function: str) -> Found:
        """Choose a member for a call."""
        now = clock.now()
        if self._calm:
            return self._choose(key, skip, first, now)
        with self._lock:
            self._look(now)
            found = self._choose(key, skip, first, now)
        self._after(function)
        return found

    def _verdict(self, seat: Seat, function: str) -> None:
        """A member's standing may have changed: see what follows."""
        seat.breaker._announce(function)
        with self._lock:
            self._look(clock.now())
        self._after(function)

    def _look(self, now: float) -> None:
        """Bring all up to date; needs the lock."""
        calm = True
        for seat in self._seats.values():
            state = seat.state(now)
            if state != seat.seen:
                fields = {"member": seat.name, "old": seat.seen, "new": state}
                seat.seen = state
                self._told.append((MemberStateChanged, fields))
            calm = calm and state == HEALTHY and (seat.life is None)
        self._refresh(now)
        self._calm = calm and self._settled(now)

    def _announce(self, function: str) -> None:
        """Tell what happened, in order, without the lock.

        Who finds another thread at it leaves its events to that one, or they could overtake
        each other. A listener that changes something itself finds itself at it.
        """
        told, telling = self._told, self._telling
        while told and telling.acquire(blocking=False):
            try:
                while told:
                    cls, fields = told.popleft()
                    _observe.emit(self, cls, function, **fields)
            finally:
                telling.release()

    def _after(self, function: str) -> None:
        """Do what follows from a look around, with no lock held."""
        self._announce(function)
        if self._has_cold:
            self._stop_spared()

    def _checked(self, name: str, good: bool, now: float) -> None:
        """A probe of a member has ended."""
        seat = self._seats.get(name)
        # Asked without the lock: what ends an outage may be a user's condition.
        good = good and not (seat is not None and seat.is_out())
        with self._lock:
            seat = self._seats.get(name)
            if seat is None:
                return
            seat.health.checked(good, now)
            self._look(now)
        seat.breaker._announce("")
        self._after("")

    def _probed(self) -> dict[str, Any]:
        """The members to probe, and their targets: not what is cold, nor what is drained."""
        return {
            seat.name: seat.target
            for seat in self._seats.values()
            if not seat.is_cold and not seat.health.draining
        }

    def _retry_after(self) -> float | None:
        """Seconds after which a member may be tried again, `None` if nobody knows."""
        now = clock.now()
        periods = [seat.circuit.period for seat in self._seats.values()]
        return min(
            (max(0.0, one.until - now) for one in periods if isinstance(one, Open)), default=None
        )

    # Cold standbys.

    def _start(self, seat: Seat) -> Flight | None:
        """Start a cold member if nobody has; what to wait for."""
        life = seat.life
        if life is None:
            return None

        def on_failure(error: Exception) -> None:
            seat.circuit.trip(clock.now(), f"{type(error).__qualname__} in start")
            self._verdict(seat, "")

        return life.warm(on_failure)

    def _stop_spared(self) -> None:
        """Stop the cold standbys that run although they are not needed now."""
        now = clock.now()
        for seat in (*self._seats.values(), *self._leaving):
            if seat.life is not None and seat.life.is_warm:
                with self._lock:
                    spared = seat in self._leaving or self._spared(seat, now)
                if spared and seat.life.release(seat.is_idle):
                    seat.served = False

    def after_fork(self) -> None:
        """Start with a lock that no lost thread holds; lost calls never leave."""
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        for seat in self._seats.values():
            seat.after_fork()
        self._forget_runners()
