"""Finding a member for a call: choosing, being let in, and waiting for cold standbys."""

from __future__ import annotations

from contextvars import Token
from typing import TYPE_CHECKING, Any, Final, NoReturn

from resilient import _observe
from resilient._call import Call
from resilient._core import clock, deadline
from resilient._core.circuit import Closed, Refusal
from resilient._core.verdict import LoopBlockedError
from resilient._runtime import waits
from resilient.errors import PoolExhaustedError
from resilient.events import CallRejected

if TYPE_CHECKING:
    from resilient._core.budget import RetryBudget
    from resilient._core.circuit import Permit
    from resilient.circuit_breaker import SharedPermit
    from resilient.failover.member import Seat
    from resilient.failover.roster import Roster


class _Past:
    """The permit of a call past an open breaker: a period that admits nobody takes no verdict."""

    __slots__ = ()

    def success_at(self, now: float) -> None:
        pass

    def neutral(self) -> None:
        pass

    def bad(self, now: float, failed: bool, slow: bool, why: str) -> None:
        pass


PAST: Final[Any] = _Past()


class Way:
    """What a call knows of the members that it has tried, and holds the one it has found."""

    __slots__ = ("_budget", "_earlier", "_given", "_given_up", "_here", "_kept", "_key",
                 "_origin", "_permit", "_pool", "_start_error", "_started", "_token", "_tries",
                 "args", "call", "seat", "spent")  # fmt: skip

    def __init__(
        self, pool: Roster[Any], args: Any, key: Any, call: Call, budget: RetryBudget | None
    ) -> None:
        self._pool = pool
        self._given = args
        self._key = key
        self._origin = self.call = call
        self._budget = budget
        self._tries = 0
        # Members that this journey has tried, or has found closed.
        self._here: set[str] | tuple[()] = ()
        self._permit: Permit | SharedPermit = PAST
        self._earlier: Exception | None = None
        self._start_error: Exception | None = None
        self._given_up = False
        self._kept = False
        self._token: Token[int] | None = None
        # Seconds inside the steps of a stream; `None` for a call.
        self.spent: float | None = None
        self.seat: Seat | None = None
        self.args = args

    def begin(self) -> None:
        """Go to the first member.

        Raises:
            PoolExhaustedError: There is none that could take the call.
        """
        if not self._advance():
            self._refuse()

    def _advance(self) -> bool:
        """Hold the next member; false if there is none left."""
        pool = self._pool
        while True:
            found = pool._next(self._key, self._skip(), self._tries == 0, self.call.function)
            if found is None:
                if not self._start_over():
                    return False
                continue
            seat, past = found
            seat.enter()
            # It is counted first and looked at then: who drains does it the other way round.
            permit = None if seat.health.draining else self._admit(seat, past)
            if permit is not None:
                self._remember(seat.name)
                self.seat, self._permit = seat, permit
                return True
            seat.leave()
            self._here = {*self._here, seat.name}

    def _admit(self, seat: Seat, past: bool) -> Permit | None:
        period = seat.circuit.period
        if isinstance(period, Closed):
            return period
        found = seat.circuit.admit(clock.now())
        self._pool._verdict(seat, self.call.function)
        if isinstance(found, Refusal):
            return PAST if past else None
        return found

    def _skip(self) -> set[str] | tuple[()]:
        """Members that this journey, or an earlier attempt of the same call, has tried."""
        tried = self._origin.root.tried
        names: set[str] | None = None if tried is None else tried.get(self._pool)
        return {*self._here, *names} if names else self._here

    def _remember(self, name: str) -> None:
        root = self._origin.root
        if root.tried is None:
            root.tried = {}
        root.tried.setdefault(self._pool, set()).add(name)

    def _start_over(self) -> bool:
        """All were tried in this call: forget it once; false if that changes nothing."""
        tried = self._origin.root.tried
        names = None if tried is None else tried.get(self._pool)
        if not names or names <= set(self._here):
            return False
        names.clear()
        return True

    # Cold standbys.

    @property
    def is_cold(self) -> bool:
        """Whether the member that is held has to be started first."""
        return self.seat is not None and self.seat.is_cold

    def warm(self) -> None:
        """Wait in this thread until the member, or the next one, is up.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting would stop.
            TypeError: The member's `start` or `stop` is async.
        """
        while self.is_cold:
            assert self.seat is not None
            if waits.in_event_loop():
                self._let_go()
                raise LoopBlockedError(
                    f"{self._pool.name} has to start a cold standby, and waiting for it would "
                    "stop the event loop that this thread runs: use an `async def`, "
                    "`acall` or `async with`"
                )
            if self.seat.is_async:
                text = async_start(self._pool.name, self.seat.name)
                self._let_go()
                raise TypeError(text)
            flight = self._pool._start(self.seat)
            if flight is not None and not flight.wait(deadline.remaining()):
                self._late()
            elif flight is not None and flight.error is not None:
                self._not_started(flight.error)

    async def awarm(self) -> None:
        """Wait in this task until the member, or the next one, is up."""
        while self.is_cold:
            assert self.seat is not None
            flight = self._pool._start(self.seat)
            if flight is not None and not await flight.await_(deadline.remaining()):
                self._late()
            elif flight is not None and flight.error is not None:
                self._not_started(flight.error)

    def _not_started(self, error: Exception) -> None:
        """A failed start is a failed member, where no call was made: go on to the next."""
        self._start_error = error
        self._let_go()
        if not self._advance():
            self._give_up()

    def _late(self) -> None:
        """The time was up before the member was: nothing is begun any more."""
        self._let_go()
        self._give_up()

    def _give_up(self) -> NoReturn:
        if self._earlier is not None:
            raise_again(self._earlier)
        self._refuse()

    def _let_go(self) -> None:
        """Leave the member without a verdict."""
        seat, self.seat = self.seat, None
        if seat is not None:
            self._permit.neutral()
            seat.leave()
            self._pool._verdict(seat, self.call.function)

    def _refuse(self) -> NoReturn:
        pool = self._pool
        names = tuple(seat.name for seat in pool._seats.values())
        wait = pool._retry_after()
        _observe.emit(
            pool,
            CallRejected,
            self._origin.function,
            reason="pool_exhausted",
            retry_after=wait,
        )
        text = "has no members" if not names else f"has none of {', '.join(names)} to call"
        raise PoolExhaustedError(
            f"{pool.name} {text}", policy=pool.name, retry_after=wait, members=names
        ) from self._start_error


def raise_again(error: Exception) -> NoReturn:
    """Raise an earlier error where a later one is handled, which is not its context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        # This frame is in the traceback now: it would hold the error that holds it.
        del error, context


def async_start(pool: str, member: str) -> str:
    """Why a plain function cannot use this member."""
    return (
        f"member {member} of {pool} has an async start or stop, which plain functions cannot "
        "await: decorate an `async def`, or make start and stop plain functions"
    )
