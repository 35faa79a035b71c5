"""What the three failover pools share: how a call goes over their members."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from resilient._call import AsyncCall, AsyncStream, Call, Site, SyncCall, SyncStream
from resilient._core import clock
from resilient._core.budget import RetryBudget
from resilient._policy import Policy
from resilient._runtime.streams import arelay, astart, relay, start
from resilient.failover.hold import Hold, Lease
from resilient.failover.journey import Journey
from resilient.failover.member import HEALTHY, Member, MemberSnapshot, members_of
from resilient.failover.roster import Roster
from resilient.failover.way import async_start

T = TypeVar("T", covariant=True)

_OWN: Final[Any] = RetryBudget()


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """A pool's members, each with its state."""

    name: str
    kind: str
    members: tuple[MemberSnapshot, ...]


class Pool(Roster[T]):
    """The base of `ActiveActive`, `ActivePassive` and `NPlusOne`."""

    kind: ClassVar[str] = "pool"
    repeats = True
    stateful = True
    injects = True

    def _compose(self, method: str, inner: Any, outer: tuple[Policy[Any, Any], ...]) -> Any:
        # A call fills a shared budget once, at the outermost policy that holds it.
        budget = self._budget
        if any(getattr(policy, "_budget", None) is budget for policy in outer):
            budget = None
        return getattr(self, method)(inner, fill=budget)

    def _journey(self, args: Any, kwargs: Any, call: Call, fill: RetryBudget | None) -> Journey:
        budget = self._budget if fill is _OWN else fill
        return Journey(self, args, self._key_of(args, kwargs), call, budget)

    def wrap(self, inner: SyncCall[Any], *, fill: RetryBudget | None = _OWN) -> SyncCall[Any]:
        """Return `inner` called with a member's target; for plain functions."""
        self._refuseasync_start()

        def pool(args: Any, kwargs: Any, call: Call) -> Any:
            journey = self._journey(args, kwargs, call, fill)
            try:
                journey.begin()
                while True:
                    if journey.is_cold:
                        journey.warm()
                    try:
                        journey.open()
                        result = inner(journey.args, kwargs, journey.call)
                    except BaseException as error:
                        if not journey.failed(error):
                            raise
                    else:
                        journey.succeeded(result)
                        return result
            finally:
                journey.close()

        return pool

    def awrap(self, inner: AsyncCall[Any], *, fill: RetryBudget | None = _OWN) -> AsyncCall[Any]:
        """Return `inner` called with a member's target; for coroutine functions."""

        async def pool(args: Any, kwargs: Any, call: Call) -> Any:
            journey = self._journey(args, kwargs, call, fill)
            try:
                journey.begin()
                while True:
                    if journey.is_cold:
                        await journey.awarm()
                    try:
                        journey.open()
                        result = await inner(journey.args, kwargs, journey.call)
                    except BaseException as error:
                        if not journey.failed(error):
                            raise
                    else:
                        journey.succeeded(result)
                        return result
            finally:
                journey.close()

        return pool

    def wrap_stream(self, inner: SyncStream, *, fill: RetryBudget | None = _OWN) -> SyncStream:
        """Return `inner` on one member until its end; other members until the first item."""
        self._refuseasync_start()

        def pool(args: Any, kwargs: Any, call: Call) -> Any:
            hold = Hold(self._journey(args, kwargs, call, fill))
            return relay(
                lambda: hold.begin(lambda args, call: start(inner(args, kwargs, call))),
                hold,
                hold.step,
            )

        return pool

    def awrap_stream(self, inner: AsyncStream, *, fill: RetryBudget | None = _OWN) -> AsyncStream:
        """Return `inner` on one member until its end; other members until the first item."""

        def pool(args: Any, kwargs: Any, call: Call) -> Any:
            hold = Hold(self._journey(args, kwargs, call, fill))
            return arelay(
                lambda: hold.abegin(lambda args, call: astart(inner(args, kwargs, call))),
                hold,
                hold.step,
            )

        return pool

    def _refuseasync_start(self) -> None:
        for seat in self._seats.values():
            if seat.is_async:
                raise TypeError(async_start(self.name, seat.name))

    def lease(self) -> Lease[T]:
        """Return a block that holds one member: `with pool.lease() as member: ...`.

        Also for `async with`. The block is one call: its end, by an error or without, is
        what the member is judged by. No other member is tried.

        Raises, at its begin:
            PoolExhaustedError: No member can take the call.
        """
        return self._lease((), {})

    def _lease(self, args: Any, kwargs: Any) -> Lease[T]:
        call = Call()
        call.site = Site(self.name, "", (self,))
        return Lease(lambda: self._journey(args, kwargs, call, _OWN), self)

    def _bare_target(self) -> Any:
        return self._bare_member().target

    def _bare_member(self) -> Member[T]:
        """The member to use when all policies are out of the way."""
        for seat in self._seats.values():
            if not seat.is_cold:
                return seat.member
        for seat in self._seats.values():
            return seat.member
        raise LookupError(f"{self.name} has no members")

    def _idle(self) -> bool:
        return all(seat.is_idle() and seat.seen == HEALTHY for seat in self._seats.values())

    @abstractmethod
    def snapshot(self) -> PoolSnapshot:
        """Return the members and their states, as plain values."""

    def _member_snapshots(self) -> tuple[MemberSnapshot, ...]:
        now = clock.now()
        with self._lock:
            self._look(now)
            found = tuple(seat.snapshot(now) for seat in self._seats.values())
        self._after("")
        return found


def put_in(pool: Pool[Any], members: object, *, spare: bool = False, what: str = "members") -> None:
    """Add the members that a pool is built with."""
    for member in members_of(members, what):
        pool._add(member, spare=spare)
