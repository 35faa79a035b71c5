"""A signal: given once, from anywhere, and awaited by any number of threads and tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from resilient._runtime import loops, waits


class Signal:
    """Something that happens once."""

    __slots__ = ("_given", "_lock", "_wakers")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = False
        self._wakers: list[Callable[[], object]] = []

    @property
    def given(self) -> bool:
        """Whether it has happened."""
        return self._given

    def give(self) -> None:
        """Say that it has happened; everyone who waits goes on."""
        with self._lock:
            self._given = True
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def wait(self, seconds: float | None) -> bool:
        """Block this thread until it happens; false after so many seconds."""
        lock = threading.Lock()
        lock.acquire()
        wake = lock.release
        if self._join(wake):
            return True
        try:
            waits.acquire(lock, seconds)
        finally:
            self._leave(wake)
        return self._given

    async def await_(self, seconds: float | None) -> bool:
        """Wait in this task until it happens; false after so many seconds."""
        event = anyio.Event()
        loop = loops.here()

        def wake() -> None:
            # A loop that has ended has nobody left who waits.
            loop.soon(event.set)

        if self._join(wake):
            return True
        try:
            await loop.wait(event, seconds)
        finally:
            self._leave(wake)
        return self._given

    def _join(self, wake: Callable[[], object]) -> bool:
        """Be woken; true if there is no need to wait."""
        with self._lock:
            if not self._given:
                self._wakers.append(wake)
            return self._given

    def _leave(self, wake: Callable[[], object]) -> None:
        with self._lock:
            if wake in self._wakers:
                self._wakers.remove(wake)
