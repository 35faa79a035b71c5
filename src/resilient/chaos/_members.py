"""Taking members of a pool down, and bringing them back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from resilient import _observe
from resilient._call import Call
from resilient._core.durations import Duration
from resilient._core.living import forkable
from resilient.chaos._errors import Error, maker
from resilient.chaos._experiments import Until, log
from resilient.chaos._injectors import mark
from resilient.events import FaultInjected
from resilient.failover.roster import Roster

if TYPE_CHECKING:
    from resilient.failover.member import Seat


class MemberDownError(ConnectionError):
    """The call went to a member of a pool that was taken down on purpose."""


class _Lock:
    """Guards who has which member down."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        forkable.add(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()


_guard = _Lock()


class Outage:
    """A member that is down until the block ends: `with chaos.take_down(pool, "a"): ...`."""

    def __init__(
        self, pool: Roster[Any], seat: Seat, make: Callable[[], Exception], until: Until
    ) -> None:
        self._pool = pool
        self._seat = seat
        self._make = make
        self._until = until
        self._ended = False
        # One that had the member down before, and may have it down for longer.
        self._before: Outage | None = None

    def _begin(self) -> None:
        """Take the member down."""
        self._until.begin()
        with _guard.lock:
            before = self._seat.outage
            self._before = before if isinstance(before, Outage) else None
            self._seat.outage = self
        log.warning(
            "chaos: member %s of %s is taken down until %s",
            self._seat.name, self._pool.name, self._until,
        )  # fmt: skip

    def end(self, why: str = "by hand") -> None:
        """Bring the member back. Ending it twice is no error."""
        with _guard.lock:
            if self._ended:
                return
            self._ended = True
            if self._seat.outage is self:
                before = self._before
                while before is not None and before._ended:
                    before = before._before
                self._seat.outage = before
            down = self._seat.outage is not None
        log.warning(
            "chaos: member %s of %s is %s, %s", self._seat.name, self._pool.name,
            "still taken down elsewhere" if down else "brought back", why,
        )  # fmt: skip

    def holds(self) -> bool:
        """Whether the member is down, which ends here if the time is up."""
        if not self._ended:
            why = self._until.reached()
            if why is None:
                return True
            self.end(why)
        # Another one may have it down still.
        outage = self._seat.outage
        return outage is not None and outage.holds()

    def strike(self, call: Call) -> Exception:
        """Return the error of a call to the member."""
        # As a call that found the backend down: it counts as made.
        call.entered = True
        error = self._make()
        mark(error, f"{self._seat.name} of {self._pool.name} was taken down")
        _observe.emit(
            self._pool,
            FaultInjected,
            call.function,
            experiment=None,
            fault="outage",
            member=self._seat.name,
            delay=0.0,
        )
        return error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


def take_down(
    pool: Roster[Any],
    member: str,
    *,
    error: Error | None = None,
    until: Duration | Callable[[], object] | None = None,
) -> Outage:
    """Take a member of a pool down, for the whole process and from now on.

    Every call that goes there fails without reaching the target, and every health check of
    it is a bad one; calls in flight there are left alone. The pool finds that out as it
    would of a real outage. As a context manager it brings the member back at the block's end.

    Args:
        pool: The pool.
        member: The member's name.
        error: What calls there raise, in any form that `InjectFault` takes. It has to be one
            that the pool's `on` matches. `MemberDownError`, a `ConnectionError`, by default.
        until: When it comes back by itself, as in `experiment`.

    Raises:
        LookupError: The pool has no member of that name.
        TypeError: A value is of the wrong type.
        ValueError: The pool's `on` does not match `error`, so that no call would go on to
            another member.
    """
    seat = _seat(pool, member)
    make = maker(_default(pool, member) if error is None else error)
    made = make()
    if not pool._matcher.matches(made):
        given = "error=... says what to raise" if error is None else "give another error"
        raise ValueError(
            f"the `on` of {pool.name} does not match {type(made).__name__}, so that it would "
            f"be no failure of {member}: {given}"
        )
    outage = Outage(pool, seat, make, Until(until))
    outage._begin()
    return outage


def _default(pool: Roster[Any], member: str) -> Exception:
    return MemberDownError(f"member {member} of {pool.name} was taken down on purpose")


def bring_back(pool: Roster[Any], member: str) -> None:
    """Bring a member back, however often it was taken down. One that is up is no error.

    It is used again when the pool finds that it is well: its breaker lets a trial call
    through, its health checks succeed.

    Raises:
        LookupError: The pool has no member of that name.
    """
    seat = _seat(pool, member)
    while isinstance(seat.outage, Outage):
        seat.outage.end()


def _seat(pool: object, member: str) -> Seat:
    if not isinstance(pool, Roster):
        raise TypeError(f"members are taken down in a pool, which {pool!r:.80} is not")
    with pool._lock:
        return pool._seat(member)
