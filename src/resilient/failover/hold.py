"""Holding one member for longer than a call: for a stream, and for a lease."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic

from resilient._call import Call
from resilient._core import clock
from resilient._runtime import modes
from resilient.failover.journey import Journey

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

if TYPE_CHECKING:
    from resilient.failover.member import Member
    from resilient.failover.pool import Pool

T_co = TypeVar("T_co", covariant=True)


class Hold:
    """The member that a stream runs on, until the stream is exhausted or closed."""

    __slots__ = ("_entered_at", "_journey")

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self._entered_at = 0.0

    def begin(self, first: Callable[[Any, Call], Any]) -> Any:
        """Go over the members until `first(args, call)` returns the first item."""
        journey = self._journey
        try:
            journey.begin()
            while True:
                if journey.is_cold:
                    journey.warm()
                try:
                    journey.open()
                    started = first(journey.args, journey.call)
                except BaseException as error:
                    if not journey.failed(error):
                        raise
                else:
                    journey.keep()
                    return started
        finally:
            journey.close()

    async def abegin(self, first: Callable[[Any, Call], Any]) -> Any:
        """As `begin`, in a task."""
        journey = self._journey
        try:
            journey.begin()
            while True:
                if journey.is_cold:
                    await journey.awarm()
                try:
                    journey.open()
                    started = await first(journey.args, journey.call)
                except BaseException as error:
                    if not journey.failed(error):
                        raise
                else:
                    journey.keep()
                    return started
        finally:
            journey.close()

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._journey.succeeded_stream()
        else:
            self._journey.blame(error)

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def step(self) -> _Step:
        """Return the block to run one step of the stream in."""
        return _Step(self._journey)


class _Step:
    """Adds the time of one step: the consumer's own is not the member's."""

    __slots__ = ("_journey", "_started")

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = clock.now()

    def __exit__(self, *exc: object) -> None:
        self._journey.spent = (self._journey.spent or 0.0) + clock.now() - self._started

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()


class Lease(Generic[T_co]):
    """One member, held for a block; `with` and `async with` give the `Member`."""

    __slots__ = ("_journey", "_make", "_pool")

    def __init__(self, make: Callable[[], Journey], pool: Pool[T_co]) -> None:
        self._make: Callable[[], Journey] | None = make
        self._pool = pool
        self._journey: Journey | None = None

    def _begin(self) -> Journey:
        make, self._make = self._make, None
        if make is None:
            raise RuntimeError("a lease serves one block: call lease() for each")
        self._journey = make()
        self._journey.begin()
        return self._journey

    def _entered(self, journey: Journey) -> Member[T_co]:
        try:
            journey.open()
        except Exception as error:
            # The member is down on purpose, and fails the call as if it had been made.
            journey.ended(error)
            raise
        journey.call.entered = True
        seat = journey.seat
        assert seat is not None
        return seat.member

    def __enter__(self) -> Member[T_co]:
        if modes.passthrough:
            return self._pool._bare_member()
        journey = self._begin()
        try:
            if journey.is_cold:
                journey.warm()
            return self._entered(journey)
        except BaseException:
            journey.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        journey, self._journey = self._journey, None
        if journey is None:
            return
        if error is None:
            journey.succeeded(None)
        else:
            journey.ended(error)

    async def __aenter__(self) -> Member[T_co]:
        if modes.passthrough:
            return self._pool._bare_member()
        journey = self._begin()
        try:
            if journey.is_cold:
                await journey.awarm()
            return self._entered(journey)
        except BaseException:
            journey.close()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)
