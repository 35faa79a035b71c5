"""The event loop that runs here, as something that other threads can hand work to."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import anyio

from resilient._runtime import waits

Work = Callable[[], Coroutine[Any, Any, None]]


class Loop(Protocol):
    """A running event loop, asyncio's or trio's."""

    def soon(self, fn: Callable[[], object]) -> bool:
        """Call `fn` there before long, from any thread; false if the loop has ended."""
        ...

    def spawn(self, work: Work) -> bool:
        """Run `work()` there as a task of its own; it must not raise an `Exception`."""
        ...

    async def wait(self, event: anyio.Event, seconds: float | None) -> None:
        """Wait here until `event` is set, or for so many seconds; it may be set then."""

    async def within(self, seconds: float, work: Work) -> None:
        """Run `work()` here, and cancel it after so many seconds."""


class AsyncioLoop:
    """See `Loop`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # The loop itself only holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def soon(self, fn: Callable[[], object]) -> bool:
        try:
            self._loop.call_soon_threadsafe(fn)
        except RuntimeError:
            return False
        return True

    def spawn(self, work: Work) -> bool:
        def begin() -> None:
            task = self._loop.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return self.soon(begin)

    async def wait(self, event: anyio.Event, seconds: float | None) -> None:
        if seconds is None:
            await event.wait()
            return
        # Nothing is cancelled, so nothing of the caller's can be mistaken for it.
        timer = self._loop.call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()

    async def within(self, seconds: float, work: Work) -> None:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await work()
        except TimeoutError:
            if not limit.expired():
                raise


class TrioLoop:
    """See `Loop`."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()

    def soon(self, fn: Callable[[], object]) -> bool:
        try:
            self._token.run_sync_soon(fn)
        except self._trio.RunFinishedError:
            return False
        return True

    def spawn(self, work: Work) -> bool:
        return self.soon(lambda: self._trio.lowlevel.spawn_system_task(work))

    async def wait(self, event: anyio.Event, seconds: float | None) -> None:
        with self._trio.move_on_after(math.inf if seconds is None else seconds):
            await event.wait()

    async def within(self, seconds: float, work: Work) -> None:
        with self._trio.move_on_after(seconds):
            await work()


def here() -> Loop:
    """The event loop that this task runs in.

    Raises:
        RuntimeError: There is none.
    """
    loop = running()
    if loop is None:
        raise RuntimeError("no event loop runs in this thread")
    return loop


def running() -> Loop | None:
    """The event loop that this thread runs, or `None`."""
    if waits.in_trio():
        return TrioLoop(sys.modules["trio"])
    if asyncio._get_running_loop() is not None:
        return AsyncioLoop()
    return None
