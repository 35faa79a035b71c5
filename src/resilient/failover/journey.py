"""One call's way over the members of a pool, until one of them answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient import _attempts, _observe
from resilient._core import clock, deadline
from resilient._core.notes import note
from resilient._core.once import is_once
from resilient.errors import CallTimeoutError, RejectedError
from resilient.failover.way import Way, raise_again

if TYPE_CHECKING:
    from resilient.failover.member import Seat

_NONE_LEFT: Final = "no member is left to try"


class Journey(Way):
    """The members that one call tries, one after the other.

    `begin` and `failed` hold a member, `seat`; `warm` sees that it is up, and `open` begins
    the attempt there: `call` is its record, and `args` have the target in place. A verdict,
    or `close`, leaves the member.
    """

    __slots__ = ()

    def open(self) -> None:
        """Begin the attempt at the member that is held.

        Raises:
            Exception: The member is down on purpose; to be judged as the call's own error.
        """
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
        if seat.outage is not None and seat.outage.holds():
            raise seat.outage.strike(call)

    def _abandoned(self, seat: Seat) -> None:
        """The worker that this runs in was given up: nobody waits for another member."""
        self._given_up = True
        self._pool._verdict(seat, self.call.function)

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
        if self._pool._by_latency and not self._kept:
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
                raise_again(self._earlier)
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
        now = clock.now()
        if self.seat is not None:
            self.seat.load.observe(now - self._started, now)
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


def _members(count: int) -> str:
    return "1 member" if count == 1 else f"{count} members"


def _outcome(error: BaseException) -> str:
    if isinstance(error, RejectedError):
        return "rejected"
    if isinstance(error, CallTimeoutError):
        return "timeout"
    return "failure" if isinstance(error, Exception) else "cancelled"
