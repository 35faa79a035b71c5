"""A clock that stands still while code runs, and jumps when everything waits.

Whoever waits on it registers a `Wait`: a thread in `waits.sleep` or `waits.acquire`, an
event loop with nothing to do. The one that begins to wait last finds that nobody runs, and
moves the time to the earliest end of all waits. As long as somebody runs, those who wait
look again every now and then, since a thread may also block, or end, without telling.

A jump is wrong when something real is on its way to one who waits: a released lock, a
callback from another thread, bytes on a socket. So the threads are looked at first, and
then what has arrived: whatever a thread has sent before it blocked is there by then. A trio
loop can only be asked in its own thread; it says that it has looked at its queue since the
process fell quiet, and a jump waits until all have.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from resilient._core.durations import seconds as as_seconds
from resilient._core.living import forkable
from resilient._runtime import workers
from resilient._runtime.standstill import Threads, is_worker

T = TypeVar("T")

# Real seconds until one who waits looks again: at first, and at most.
_FIRST_PAUSE, _LAST_PAUSE = 0.0001, 0.05
# The `VirtualClock` that is in place, if any.
active: Any = None


class Wait:
    """One who waits on the clock, until `at` or for something real."""

    def __init__(self, at: float) -> None:
        self.at = at
        self._thread = threading.current_thread()
        self.in_worker = is_worker(self._thread)

    @property
    def is_own(self) -> bool:
        """Whether this thread is the one that waits."""
        return self._thread is threading.current_thread()

    def pending(self) -> bool:
        """Whether what it waits for has arrived, so that it is about to go on."""
        return False

    def is_confirmed(self, quiet: int) -> bool:
        """Whether `pending` can be believed, in this quiet period."""
        return True

    def wake(self) -> None:
        """Make it look at the clock at once, instead of after a pause."""


class _Sleep(Wait):
    """A thread in `waits.sleep`."""

    def __init__(self, at: float) -> None:
        super().__init__(at)
        self._woken = threading.Event()

    def wake(self) -> None:
        self._woken.set()

    def block(self, pause: float) -> bool:
        return self._woken.wait(pause)


class _Acquire(_Sleep):
    """A thread in `waits.acquire`.

    It does not block on the lock: nobody could see that it was released, once this thread
    has taken it and before it can run. Instead it looks, and is woken by whoever sees it.
    """

    def __init__(self, at: float, lock: threading.Lock) -> None:
        super().__init__(at)
        self._lock = lock

    def pending(self) -> bool:
        if self._lock.locked():
            return False
        self.wake()
        return True

    def block(self, pause: float) -> bool:
        super().block(pause)
        self._woken.clear()
        return self._lock.acquire(blocking=False)


class World:
    """What time it is, and who waits for it to pass."""

    # Where the latest of all has stopped: policies must not see time run backwards.
    _latest = 0.0

    def __init__(self) -> None:
        # Re-entrant because a signal handler may wait, too.
        self._lock = threading.RLock()
        # Whole seconds, so that sums of usual waits are exact.
        self.time = float(max(math.ceil(time.monotonic()), math.ceil(World._latest)))
        self._wall_offset = time.time() - self.time
        self._closed_at: float | None = None
        self._waits: dict[int, Wait] = {}
        # Counts the periods in which nobody ran.
        self._quiet = 0
        self._threads = Threads()
        forkable.add(self)

    # What time it is.

    def now(self) -> float:
        """What loops read: `time`; a loop that outlives the clock goes on in real time."""
        if self._closed_at is None:
            return self.time
        return self.time + time.monotonic() - self._closed_at

    def wall(self) -> float:
        """Seconds since the epoch; this clock's waits have passed there, too."""
        return self.now() + self._wall_offset

    def advance(self, seconds: float | timedelta) -> None:
        """Move the time by hand, and wake those whose waits have ended."""
        by = as_seconds(seconds, "seconds", zero=True)
        with self._lock:
            if self.is_closed:
                raise RuntimeError("this clock has been given back: virtual_time() was left")
            self._quiet += 1
            self._move_to(self.time + by)

    @property
    def is_closed(self) -> bool:
        """Whether the clock has been given back."""
        return self._closed_at is not None

    def close(self) -> None:
        """End every wait: real time comes back."""
        with self._lock:
            World._latest = self.time
            self._closed_at = time.monotonic()
            for wait in list(self._waits.values()):
                wait.wake()

    def after_fork(self) -> None:
        """The other threads, and their waits, are not in a forked child."""
        self._lock = threading.RLock()
        self._waits.clear()
        self._threads = Threads()

    def end_of(self, seconds: float | None) -> float:
        """When a wait of so many seconds from now will be over."""
        if seconds is None:
            return math.inf
        now = self.now()
        at = now + seconds
        # The shortest of waits must still end in the future.
        return math.nextafter(at, math.inf) if at == now and seconds > 0 else at

    # Waiting in a thread.

    def sleep(self, seconds: float) -> None:
        """Take the place of `waits.sleep`."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        wait = _Sleep(self.end_of(seconds))
        self.rest(wait, wait.block)

    def acquire(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Take the place of `waits.acquire`."""
        if lock.acquire(blocking=False):
            return True
        wait = _Acquire(self.end_of(timeout), lock)
        return self.rest(wait, wait.block) or lock.acquire(blocking=False)

    def rest(self, wait: Wait, block: Callable[[float], T]) -> T | None:
        """Wait until it is over, or `block(real seconds)` returns something true."""
        with self._waiting(wait):
            tries = 0
            while not self._is_over(wait):
                if result := block(self.pause(tries)):
                    return result
                tries += 1
        return None

    @contextmanager
    def _waiting(self, wait: Wait) -> Iterator[None]:
        try:
            self._enter(wait, ran=True)
            yield
        finally:
            self.leave()

    def _enter(self, wait: Wait, ran: bool) -> None:
        with self._lock:
            ident = threading.get_ident()
            self._threads.join(ident)
            self._waits[ident] = wait
            self._quiet += ran

    def leave(self) -> None:
        """This thread runs again."""
        with self._lock:
            self._waits.pop(threading.get_ident(), None)

    def _is_over(self, wait: Wait) -> bool:
        with self._lock:
            if wait.at > self.time and not self.is_closed:
                self._try_to_jump()
            return wait.at <= self.time or self.is_closed

    def pause(self, tries: int) -> float:
        """Real seconds after which to look again, having looked so often."""
        # However many wait, together they look about a thousand times a second.
        most = min(0.001 * len(self._waits), _LAST_PAUSE)
        return min(_FIRST_PAUSE * 2.0 ** min(tries, 20), most)

    # Jumping. Each of these needs the lock.

    def stand(self, wait: Wait, confirm: Callable[[int], None], *, ran: bool) -> bool:
        """Register a loop that is to be asked in its own thread alone.

        Args:
            wait: Stays registered until the thread says `leave`.
            confirm: Called with the quiet period, if there is one, to look what has arrived.
            ran: Whether the loop has run anything since it was registered last.

        Returns:
            Whether time has jumped.
        """
        with self._lock:
            self._enter(wait, ran)
            before = self.time
            self._try_to_jump(confirm)
            return self.time > before

    def _try_to_jump(self, confirm: Callable[[int], None] | None = None) -> None:
        waits = list(self._waits.values())
        if self._somebody_runs(waits):
            self._quiet += 1
            return
        if confirm is not None:
            confirm(self._quiet)
        at = min(wait.at for wait in waits)
        if at < math.inf and all(wait.is_confirmed(self._quiet) for wait in waits):
            self._move_to(at)

    def _somebody_runs(self, waits: list[Wait]) -> bool:
        if any(wait.at <= self.time for wait in waits):
            return True  # it has been woken, and has not got far
        if len(workers.running) > sum(wait.in_worker for wait in waits):
            return True
        if self._threads.any_running(self._waits):
            return True
        return any(wait.pending() for wait in waits)

    def _move_to(self, at: float) -> None:
        self.time = at
        for wait in list(self._waits.values()):
            if wait.at <= at:
                wait.wake()
