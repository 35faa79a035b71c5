"""What runs a pool's health checks: a thread, or a task of an event loop.

A pool may be entered any number of times, by threads and in several event loops. Each
entry that could run the checks has a runner; the first one leads and probes, and the others
stand by to take over when its block ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import anyio
from anyio.abc import TaskGroup

from resilient._runtime import loops, waits
from resilient.failover.checks import Prober

Leads = Callable[[Any], bool]


class ThreadRunner:
    """Runs the checks in a daemon thread."""

    def __init__(self, prober: Prober, name: str, leads: Leads) -> None:
        self._prober = prober
        self._leads = leads
        self._ended = False
        # Held while there is nothing new.
        self._news = threading.Lock()
        self._news.acquire()
        self._giving = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name=f"resilient-checks-{name}", daemon=True
        )

    def start(self) -> None:
        """Begin to probe."""
        self._thread.start()

    def wake(self) -> None:
        """Look again: something has changed."""
        with self._giving:
            if self._news.locked():
                self._news.release()

    def stop(self) -> None:
        """End, whether or not probes hang in their own threads."""
        self._ended = True
        self.wake()
        # A listener that runs in this very thread may be what stops it.
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            delay = self._prober.step(self._launch) if self._leads(self) else None
            waits.acquire(self._news, None if delay is None else _wait(delay))

    def _launch(self, name: str, serial: int, target: Any) -> None:
        self._prober.run_in_thread(name, serial, target, self.wake)


class TaskRunner:
    """Runs the checks in a task group around the block of an `async with`."""

    def __init__(self, prober: Prober, leads: Leads) -> None:
        self._prober = prober
        self._leads = leads
        self._loop = loops.here()
        self._group: TaskGroup = anyio.create_task_group()
        self._news = anyio.Event()

    async def start(self) -> None:
        """Begin to probe."""
        await self._group.__aenter__()
        self._group.start_soon(self._run)

    def wake(self) -> None:
        """Look again: something has changed."""
        self._loop.soon(lambda: self._news.set())

    async def stop(self) -> None:
        """End; an async probe under way is cancelled."""
        self._group.cancel_scope.cancel()
        nothing: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
        nothing = (None, None, None)
        # Not with the block's own error, which the group would wrap.
        await self._group.__aexit__(*nothing)

    async def _run(self) -> None:
        while True:
            delay = self._prober.step(self._launch) if self._leads(self) else None
            await self._loop.wait(self._news, None if delay is None else _wait(delay))
            self._news = anyio.Event()

    def _launch(self, name: str, serial: int, target: Any) -> None:
        if self._prober.check.is_async:
            self._group.start_soon(self._probe, name, serial, target)
        else:
            self._prober.run_in_thread(name, serial, target, self.wake)

    async def _probe(self, name: str, serial: int, target: Any) -> None:
        found = [False]

        async def probe() -> None:
            found[0] = await self._prober.aprobe(target)

        await self._loop.within(self._prober.check.rules.timeout, probe)
        self._prober.ended(name, serial, found[0])
        self.wake()


def _wait(delay: float) -> float | None:
    """Seconds to wait; `None` when there is nobody to probe."""
    return None if delay == float("inf") else max(0.0, delay)
