"""The event loop that runs here, as something that other threads can hand work to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

Work = Callable[[], Coroutine[Any, Any, None]]


class Loop(Protocol):
    """A running event loop, asyncio's or trio's."""

    def soon(self, fn: Callable[[], object]) -> bool:
        """Call `fn` there before long, from any thread; false if the loop has ended."""

    def spawn(self, work: Work) -> bool:
        """Run `work()` there as a task of its own; it must not raise an `Exception`."""


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


def running() -> Loop | None:
    """The event loop that this thread runs, or `None`."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return TrioLoop(trio)
    if asyncio._get_running_loop() is not None:
        return AsyncioLoop()
    return None
