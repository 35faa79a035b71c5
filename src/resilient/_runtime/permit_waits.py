"""Waiting for a permit, in threads, asyncio tasks and trio tasks, in one queue.

What ends a wait only wakes the waiter; `Permits.leave` then says whether it was granted
something. So a grant that comes together with the end of the time, or with a cancellation,
is neither lost nor served to nobody.
"""

from __future__ import annotations

import asyncio
import enum
import sys
import threading
from typing import Any

from resilient._core.permits import Permit, Permits, Waiter
from resilient._runtime import waits


class Refusal(enum.Enum):
    """Why a call that would have waited gets no permit."""

    FULL = "the queue is full"
    LATE = "the time is up"


class ThreadWaiter(Waiter):
    """A thread, blocked on a lock that whoever wakes it releases."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.lock.acquire()

    def wake(self) -> bool:
        try:
            self.lock.release()
        except RuntimeError:
            # It was woken before, by a thread that delivered the same grant.
            return True
        return True


class TaskWaiter(Waiter):
    """An asyncio task, awaiting a future of its loop."""

    __slots__ = ("_loop", "future")

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        # Also from a task of the same loop: a finalizer may strike where the loop is about
        # to block, and only this way makes it look again.
        try:
            self._loop.call_soon_threadsafe(_finish, self.future)
        except RuntimeError:
            return False
        return True


class TrioWaiter(Waiter):
    """A trio task, waiting for an event of its run."""

    __slots__ = ("_finished", "_token", "event")

    def __init__(self, trio: Any) -> None:
        super().__init__()
        self.event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._finished: type[Exception] = trio.RunFinishedError

    def wake(self) -> bool:
        try:
            self._token.run_sync_soon(self.event.set)
        except self._finished:
            return False
        return True


def acquire(permits: Permits, timeout: float | None) -> Permit | Refusal:
    """Queue this thread for a permit, for at most `timeout` seconds."""
    waiter = ThreadWaiter()
    try:
        if not permits.join(waiter):
            return Refusal.FULL
        waits.acquire(waiter.lock, timeout)
        return permits.leave(waiter) or Refusal.LATE
    except BaseException:
        permits.abandon(waiter)
        raise


async def aacquire(permits: Permits, timeout: float | None) -> Permit | Refusal:
    """Queue this task for a permit, for at most `timeout` seconds."""
    if waits.in_trio():
        return await _acquire_in_trio(permits, timeout, sys.modules["trio"])
    return await _acquire_in_asyncio(permits, timeout)


async def _acquire_in_asyncio(permits: Permits, timeout: float | None) -> Permit | Refusal:
    waiter = TaskWaiter()
    timer = None
    try:
        if not permits.join(waiter):
            return Refusal.FULL
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, _finish, waiter.future)
        await waiter.future
        return permits.leave(waiter) or Refusal.LATE
    except BaseException:
        permits.abandon(waiter)
        raise
    finally:
        if timer is not None:
            timer.cancel()


async def _acquire_in_trio(permits: Permits, timeout: float | None, trio: Any) -> Permit | Refusal:
    waiter = TrioWaiter(trio)
    try:
        if not permits.join(waiter):
            return Refusal.FULL
        # Only this scope's own end is swallowed by it, never the caller's cancellation.
        with trio.CancelScope() as scope:
            if timeout is not None:
                scope.deadline = trio.current_time() + timeout
            await waiter.event.wait()
        return permits.leave(waiter) or Refusal.LATE
    except BaseException:
        permits.abandon(waiter)
        raise


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
