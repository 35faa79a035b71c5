"""One call's way over the members of a pool, until one of them answers."""

from __future__ import annotations

from contextvars import Token
from typing import TYPE_CHECKING, Any, Final, NoReturn

from resilient import _attempts, _observe
from resilient._call import Call
from resilient._core import clock, deadline
from resilient._core.circuit import Closed, Refusal
from resilient._core.notes import note
from resilient._core.once import is_once
from resilient._runtime import waits
from resilient.errors import CallTimeoutError, PoolExhaustedError, RejectedError
from resilient.events import CallRejected

if TYPE_CHECKING:
    from resilient._core.budget import RetryBudget
    from resilient._core.circuit import Permit
    from resilient.circuit_breaker import SharedPermit
    from resilient.failover.member import Seat
    from resilient.failover.pool import Pool


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


class Journey:
    """The members that one call tries, one after the other.

    `begin` and `failed` hold a member, `seat`; `warm` sees that it is up, and `open` begins
    the attempt there: `call` is its record, and `args` have the target in place. A verdict,
    or `close`, leaves the member.
    """

    __slots__ = ("_budget", "_earlier", "_given", "_given_up", "_here", "_kept", "_key",
                 "_origin", "_permit", "_pool", "_start_error", "_started", "_token", "_tries",
                 "args", "call", "seat", "spent")  # fmt: skip

    def __init__(
        self, pool: Pool[Any], args: Any, key: Any, call: Call, budget: RetryBudget | None
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

    # Going on to a member.

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
            found = pool._next(self._key, self._skip(), self.call.function)
            if found is None:
                if not self._start_over():
                    return False
                continue
            seat, past = found
            seat.enter()
            permit = self._admit(seat, past)
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

    def open(self) -> None:
        """Begin the attempt at the member that is held."""
        seat = self.seat
        assert seat is not None
        origin = self._origin
        # The first one goes by the kind of the attempt it is; the others are failovers.
        kind = "failover" if self._tries else origin.kind
        call = self.call = origin.attempt(origin.number + self._tries, kind)
        call.member = seat.name
        if self._tries:
            origin.root.attempts += 1
            token = _attempts.current.set(call.number)
            if self._token is None:
                self._token = token
        args, at = self._given, origin.site.target_at
        self.args = (*args[:at], seat.target, *args[at:])
        _observe.observer.begin_attempt(self._pool, call)
        self._started = clock.now()
        watchers = call.on_abandon
        if watchers is not None:
            permit: Any = self._permit
            self._permit = seat.breaker._shared(permit, call, self._started, watchers)
            watchers.append(lambda failed: self._abandoned(seat))

    def _abandoned(self, seat: Seat) -> None:
        """The worker that this runs in was given up: nobody waits for another member."""
        self._given_up = True
        self._pool._verdict(seat, self.call.function)

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
                raise RuntimeError(
                    f"{self._pool.name} has to start a cold standby, and waiting for it would "
                    "stop the event loop that this thread runs: use an `async def`, "
                    "`acall` or `async with`"
                )
            if self.seat.is_async:
                self._let_go()
                raise TypeError(_async_start(self._pool.name, self.seat.name))
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
            _raise(self._earlier)
        self._refuse()

    def _let_go(self) -> None:
        """Leave the member without a verdict."""
        seat, self.seat = self.seat, None
        if seat is not None:
            self._permit.neutral()
            seat.leave()
            self._pool._verdict(seat, self.call.function)

    # Verdicts.

    def succeeded(self, result: Any) -> None:
        """The member answered."""
        self._end("success", None)
        self.settle(result)
        if self._budget is not None and not self.call.fell_back:
            self._budget.succeeded()

    def succeeded_stream(self) -> None:
        """The stream came to its end."""
        held = self.seat is not None
        self.settle()
        if held and self._budget is not None and not self.call.fell_back:
            self._budget.succeeded()

    def ended(self, error: BaseException) -> None:
        """A block ended by `error`."""
        self._end(_outcome(error), error)
        self.blame(error)

    def settle(self, result: Any = None) -> None:
        """Record that the member answered, and leave it."""
        seat, self.seat = self.seat, None
        if seat is None:
            return
        now = clock.now()
        seat.load.observe(now - self._started, now)
        self._seen()
        try:
            seat.breaker._returned(self._permit, self.call, self._begun(now), result)
        finally:
            self._leave(seat, now)

    def failed(self, error: BaseException) -> bool:
        """The member did not answer: true if the next one is held now, false to raise."""
        self._end(_outcome(error), error)
        self.blame(error)
        if not isinstance(error, Exception) or self._given_up:
            return False
        if not self._pool._matcher.matches(error):
            if isinstance(error, RejectedError) and self._earlier is not None:
                # A refusal does not hide what happened before it.
                _raise(self._earlier)
            return False
        self._tries += 1
        self._earlier = error
        why = self._stop() or self._go_on()
        if why is None:
            return True
        if self._tries > 1 or why != _NONE_LEFT:
            note(error, f"{self._pool.name} gave up after {_members(self._tries)}: {why}")
        return False

    def blame(self, error: BaseException) -> None:
        """Record what `error` says of the member, and leave it."""
        seat, self.seat = self.seat, None
        if seat is None:
            return
        now = clock.now()
        self._seen()
        breaker = seat.breaker
        try:
            if breaker._is_failure(error, self.call):
                seat.load.observe(now - self._started, now, failed=True)
            breaker._failed(self._permit, self.call, self._begun(now), error)
        finally:
            # The predicate of `on` may fail in its turn.
            self._leave(seat, now)

    def _stop(self) -> str | None:
        """Why no further member may be tried, if so."""
        attempts = self._pool._attempts
        if attempts is not None and self._tries >= attempts:
            return f"attempts={attempts}"
        root = self._origin.root
        if root.delivered:
            return "a part of its result has been delivered"
        if self.call.entered and (is_once() or root.unrepeatable):
            return root.unrepeatable or "it runs inside once()"
        if deadline.passed(clock.now()) is not None:
            return "its time is up"
        return None

    def _go_on(self) -> str | None:
        """Hold the next member, or say why not."""
        budget = self._pool._budget
        self._here = {*self._here, self.call.member or ""}
        if not self._advance():
            return _NONE_LEFT
        if budget is not None and not budget.withdraw():
            self._let_go()
            return "the retry budget is empty"
        return None

    def _begun(self, now: float) -> float:
        return self._started if self.spent is None else now - self.spent

    def _seen(self) -> None:
        # Whoever stands further out asks its own record.
        if self.call.entered:
            self._origin.entered = True

    def _leave(self, seat: Seat, now: float) -> None:
        seat.used_at = now
        seat.leave()
        pool = self._pool
        if not pool._calm or not seat.circuit.period.admits_all:
            pool._verdict(seat, self.call.function)

    def _end(self, outcome: str, error: BaseException | None) -> None:
        _observe.observer.end_attempt(self._pool, self.call, outcome, error)

    def keep(self) -> None:
        """The stream has begun: its member is held until it ends."""
        self._end("success", None)
        self._kept = True

    def close(self) -> None:
        """The call is over, or the stream has begun."""
        if not self._kept:
            # Still held if what came in between is no verdict: a cancellation, say, while a
            # standby starts.
            self._let_go()
        if self._token is not None:
            _attempts.current.reset(self._token)
            self._token = None
        self._earlier = self._start_error = None

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


_NONE_LEFT: Final = "no member is left to try"


def _raise(error: Exception) -> NoReturn:
    """Raise an earlier error where a later one is handled, which is not its context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        # This frame is in the traceback now: it would hold the error that holds it.
        del error, context


def _members(count: int) -> str:
    return "1 member" if count == 1 else f"{count} members"


def _outcome(error: BaseException) -> str:
    if isinstance(error, RejectedError):
        return "rejected"
    if isinstance(error, CallTimeoutError):
        return "timeout"
    return "failure" if isinstance(error, Exception) else "cancelled"


def _async_start(pool: str, member: str) -> str:
    return (
        f"member {member} of {pool} has an async start or stop, which plain functions cannot "
        "await: decorate an `async def`, or make start and stop plain functions"
    )
