"""Bulkhead: bound how many calls run at once, so that one slow backend cannot take them all.

The permits, the queue and their rules are in `_core.permits`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Never

from resilient import _observe
from resilient._call import AsyncCall, AsyncStream, Call, Site, SyncCall, SyncStream
from resilient._core import clock, deadline
from resilient._core.budget import GIL
from resilient._core.durations import Duration, count, seconds
from resilient._core.living import forkable
from resilient._core.permits import Permit, Permits
from resilient._core.verdict import LoopBlockedError
from resilient._policy import Policy
from resilient._runtime import modes, permit_waits, waits
from resilient._runtime.permit_waits import Refusal
from resilient._runtime.streams import arelay, astart, relay, start
from resilient.errors import BulkheadFullError
from resilient.events import CallRejected


@dataclass(frozen=True, slots=True)
class BulkheadSnapshot:
    """How many calls a bulkhead runs (`active`) of `limit`, and how many wait (`pending`)."""

    name: str
    kind: str
    active: int
    pending: int
    limit: int


class Bulkhead(Policy[Never, Never]):
    """Let at most so many calls run at once, over all threads and event loops together.

    Args:
        max_concurrent: How many calls may run at once, 1 or more.
        max_queue: How many more may wait for their turn, first in, first out. The default
            of 0 refuses at once what cannot run.
        max_wait: Seconds that a call may wait in the queue, 0 or more; `None`, the default,
            bounds the wait only by the nearest deadline.
        name: Names the policy in events, errors and telemetry.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range, or `max_wait` is given without a queue.

    A refused call raises `BulkheadFullError`. A plain function that would have to wait in a
    thread that runs an event loop raises `RuntimeError`: it would stop the loop, and with it
    perhaps the very task it waits for.

    A generator holds its permit from its first step until it is exhausted or closed. A call
    whose timeout gave up on a worker thread holds it until that worker has really ended.
    """

    kind: ClassVar[str] = "bulkhead"
    stateful = True

    def __init__(
        self,
        max_concurrent: int,
        *,
        max_queue: int = 0,
        max_wait: Duration | None = None,
        name: str | None = None,
    ) -> None:
        if callable(max_concurrent):
            raise TypeError("Bulkhead was given a function: did you mean @Bulkhead(10) above it?")
        super().__init__(name)
        limit = count(max_concurrent, "max_concurrent")
        queue = count(max_queue, "max_queue", least=0)
        self._max_wait = None if max_wait is None else seconds(max_wait, "max_wait", zero=True)
        if max_wait is not None and not queue:
            raise ValueError(
                "max_wait needs a queue to wait in: write "
                f"Bulkhead({limit}, max_queue=..., max_wait={self._max_wait:g}), or leave it out"
            )
        # One reference gives the permits and the queue together: a forked child puts fresh
        # ones here, and what is held at the fork goes back to the old ones.
        self._permits = Permits(limit, queue)
        forkable.add(self)

    def snapshot(self) -> BulkheadSnapshot:
        """Return how many calls run and how many wait, as plain values."""
        permits = self._permits
        return BulkheadSnapshot(
            name=self.name,
            kind=self.kind,
            active=permits.active,
            pending=permits.pending,
            limit=permits.limit,
        )

    def guard(self) -> BulkheadGuard:
        """Return a fresh block to run one call in: `with bulkhead.guard(): ...`.

        It serves `async with` too, and may be left in another thread or task.
        """
        call = Call()
        call.site = Site(self.name, "", (self,))
        return BulkheadGuard(self, call)

    def after_fork(self) -> None:
        """Start with full permits and nobody waiting: the other threads are gone."""
        self._permits = Permits(self._permits.limit, self._permits.max_queue)

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` protected; for plain functions."""

        def bulkhead(args: Any, kwargs: Any, call: Call) -> Any:
            permits = self._permits
            try:
                permit = None if permits.waiting else permits.free.pop()
            except IndexError:
                permit = None
            if permit is None:
                permit = self._admit(permits, call)
            try:
                return inner(args, kwargs, call)
            finally:
                if call.abandoned:
                    permits.give_back_after(permit, call.abandoned)
                else:
                    # As `give_back`, without a call on the way. An interrupt may come right
                    # after the append, and must not keep a waiter from its permit.
                    try:
                        permits.free.append(permit)
                    finally:
                        # An error's traceback holds this frame: not the permit too, which could
                        # then not be collected when an interrupt loses it later.
                        permit = None
                        if permits.waiting or not GIL:
                            permits.settle()

        return bulkhead

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` protected; for coroutine functions."""

        async def bulkhead(args: Any, kwargs: Any, call: Call) -> Any:
            permits = self._permits
            try:
                permit = None if permits.waiting else permits.free.pop()
            except IndexError:
                permit = None
            if permit is None:
                permit = await self._aadmit(permits, call)
            try:
                return await inner(args, kwargs, call)
            finally:
                if call.abandoned:
                    # A part of the call goes on, such as an answer that is still to be read.
                    permits.give_back_after(permit, call.abandoned)
                else:
                    try:
                        permits.free.append(permit)
                    finally:
                        permit = None
                        if permits.waiting or not GIL:
                            permits.settle()

        return bulkhead

    def _alongside(self, call: Call, turn: object) -> Generator[Any, Any, None]:
        """Do as `awrap`, for what runs beside this and not in it: yield `turn` meanwhile.

        One generator is a fraction of two coroutines, and middleware pays for it per request.
        """
        permits = self._permits
        try:
            permit = None if permits.waiting else permits.free.pop()
        except IndexError:
            permit = None
        if permit is None:
            permit = yield from self._aadmit(permits, call).__await__()
        try:
            call.entered = True
            yield turn
        finally:
            permits.give_back(permit)

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` protected until it is exhausted or closed; for generator functions."""

        def bulkhead(args: Any, kwargs: Any, call: Call) -> Any:
            return relay(lambda: start(inner(args, kwargs, call)), BulkheadGuard(self, call))

        return bulkhead

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` protected until exhausted or closed; for async generator functions."""

        def bulkhead(args: Any, kwargs: Any, call: Call) -> Any:
            return arelay(lambda: astart(inner(args, kwargs, call)), BulkheadGuard(self, call))

        return bulkhead

    def _idle(self) -> bool:
        return not self._permits.active and not self._permits.pending

    def _admit(self, permits: Permits, call: Call) -> Permit:
        """Return a permit, and wait in this thread for it if need be."""
        return permits.take() or self._queue(permits, call)

    async def _aadmit(self, permits: Permits, call: Call) -> Permit:
        """Return a permit, and wait in this task for it if need be."""
        return permits.take() or await self._aqueue(permits, call)

    def _queue(self, permits: Permits, call: Call) -> Permit:
        if not permits.has_room:
            raise self._refused(permits, call, _full(permits))
        if waits.in_event_loop():
            raise LoopBlockedError(
                f"{self.name} is full, and waiting for it would stop the event loop that this "
                "thread runs: protect an `async def`, write `async with`, or run the call in "
                "a thread"
            )
        wait, cut = self._wait_in_thread()
        found = permit_waits.acquire(permits, wait)
        if isinstance(found, Permit):
            return found
        raise self._refused(permits, call, _full(permits) if found is Refusal.FULL else cut)

    async def _aqueue(self, permits: Permits, call: Call) -> Permit:
        # A deadline of the call needs no bound here: it cancels the task where it waits.
        found = await permit_waits.aacquire(permits, self._max_wait)
        if isinstance(found, Permit):
            return found
        cut = _full(permits) if found is Refusal.FULL else self._max_wait_over()
        raise self._refused(permits, call, cut)

    def _wait_in_thread(self) -> tuple[float | None, str]:
        """How long a thread may wait, and what to say when that was too long."""
        limit = deadline.nearest()
        if limit is not None:
            left = max(0.0, limit.at - clock.now())
            if self._max_wait is None or left < self._max_wait:
                return left, f"the deadline of {limit.policy} came before the call's turn"
        return self._max_wait, self._max_wait_over()

    def _max_wait_over(self) -> str:
        return f"the call has waited in vain for max_wait={self._max_wait} s"

    def _refused(self, permits: Permits, call: Call, why: str) -> BulkheadFullError:
        """Report a refusal; the caller raises the error that this returns."""
        _observe.emit(self, CallRejected, call.function, reason="bulkhead_full", retry_after=None)
        text = (
            f"{self.name} is full: all calls that it allows at a time ({permits.limit}) are "
            f"under way, and {why}"
        )
        return BulkheadFullError(text, policy=self.name)


class BulkheadGuard:
    """One call through the bulkhead, as a block.

    A block may be left in another thread, task or context than it was entered in.
    """

    __slots__ = ("_bulkhead", "_call", "_entered", "_permit", "_permits")

    def __init__(self, bulkhead: Bulkhead, call: Call) -> None:
        self._bulkhead = bulkhead
        self._call = call
        self._entered = False
        self._permit: Permit | None = None
        self._permits = bulkhead._permits

    def __enter__(self) -> BulkheadGuard:
        self._enter()
        if not modes.passthrough:
            self._permit = self._bulkhead._admit(self._permits, self._call)
        return self

    async def __aenter__(self) -> BulkheadGuard:
        self._enter()
        if not modes.passthrough:
            self._permit = await self._bulkhead._aadmit(self._permits, self._call)
        return self

    def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("a guard serves one block: call guard() for each")
        self._entered = True
        # Not before: a stream's guard may have crossed a fork since it was made.
        self._permits = self._bulkhead._permits

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        permit, self._permit = self._permit, None
        if permit is None:
            return
        if self._call.abandoned:
            # A stream whose first step was left behind in a worker, as around a WSGI answer.
            self._permits.give_back_after(permit, self._call.abandoned)
        else:
            self._permits.give_back(permit)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


def _full(permits: Permits) -> str:
    if not permits.max_queue:
        return "there is no queue to wait in"
    return f"its queue of {permits.max_queue} is full"
