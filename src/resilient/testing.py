"""Tests of code that uses policies: without real waits, without chance, without policies.

Four context managers, each of which holds for the whole process::

    def test_gives_up_after_three_attempts():
        with virtual_time(seed=1) as clock:
            start = clock.now()
            with pytest.raises(ConnectionError):
                load_from_a_dead_server()       # retries for a minute, in milliseconds
            assert clock.now() - start < 60

`virtual_time` lets time jump whenever everything waits, `passthrough` takes all policies out
of the way, `no_backoff` only the waits between attempts, and `record_events` lists what
happened.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from resilient import _observe
from resilient._core import chance
from resilient._core import clock as _core_clock
from resilient._runtime import modes, submissions, virtual, waits
from resilient._runtime.virtual_loops import Loops
from resilient._runtime.virtual_trio import TrioClock
from resilient._runtime.virtual_trio import check as _check_trio
from resilient.events import Event

if TYPE_CHECKING:
    from trio.testing import MockClock

__all__ = ["VirtualClock", "no_backoff", "passthrough", "record_events", "virtual_time"]

_lock = threading.Lock()


class VirtualClock:
    """The clock that `virtual_time` gives."""

    def __init__(self, world: virtual.World, loops: Loops) -> None:
        self._world = world
        self._loops = loops
        self._trio: TrioClock | None = None

    def now(self) -> float:
        """Return the seconds on this clock: only differences mean something.

        After the end of `virtual_time` it stays where it was.
        """
        return self._world.time

    def advance(self, seconds: float | timedelta) -> None:
        """Move the time by hand, at once, and wake every wait that has ended by then.

        Args:
            seconds: 0 or more seconds, or a timedelta.

        Raises:
            ValueError: `seconds` is negative or not finite.
            RuntimeError: `virtual_time` was left.
        """
        self._world.advance(seconds)

    @property
    def trio(self) -> MockClock:
        """The same time for trio: `trio.run(main, clock=clock.trio)`."""
        if self._trio is None:
            self._trio = TrioClock(self._world)
        return self._trio.clock

    def _read(self) -> float:
        """What policies read, wherever they run."""
        self._loops.check()
        _check_trio(self._trio)
        return self._world.time


@contextmanager
def virtual_time(seed: int | None = None) -> Iterator[VirtualClock]:
    """Let time stand still while code runs, and jump when everything waits.

    All policies in the process read this clock, also those built before. On it run their
    waits in threads, every asyncio event loop that is made inside, and `trio.run` if it is
    given `clock.trio`. When all of them wait, time jumps to the end of the earliest wait.
    Other clocks go on: `time.sleep` really sleeps, and counts as code that runs.

    The clock does not jump while a thread started inside, or the one that entered, runs code,
    nor while a call in a worker thread of a policy (`sync="thread"`) does anything but wait
    on this clock. A thread blocked in the standard library (`Thread.join`, `Event.wait`,
    `Future.result`, `Queue.get`) does not hold it up; one that has not moved elsewhere for a
    real second, in a lock or a read, no longer does. What other threads send to an event
    loop, as `asyncio.to_thread` does, arrives before a jump; what other processes send may be
    overtaken by one, if timers are pending.

    Args:
        seed: Makes the randomness of all policies repeatable: jitter, balancing, choices.
            Default: it stays random.

    Returns:
        A context manager that gives the `VirtualClock`.

    Raises:
        RuntimeError: It is entered inside a running event loop, or inside another one, or
            the event loop policy is uvloop's. Inside: a uvloop is made, or a policy is used
            on a loop with another clock.
    """
    if waits.in_event_loop():
        raise RuntimeError(
            "enter virtual_time() outside the event loop, around asyncio.run() or trio.run(): "
            "a running loop does not change its clock"
        )
    with ExitStack() as stack:
        stack.enter_context(_alone())
        world = virtual.World()
        loops = Loops(world)
        clock = VirtualClock(world, loops)
        # Last of all, when everybody reads real time again.
        stack.callback(world.close)
        loops.install(stack)
        submissions.install(stack)
        _exchange(stack, virtual, "active", clock)
        _exchange(stack, _core_clock, "now", clock._read)
        _exchange(stack, _core_clock, "wall", world.wall)
        _exchange(stack, waits, "sleep", world.sleep)
        _exchange(stack, waits, "acquire", world.acquire)
        if seed is not None:
            _exchange(stack, chance, "source", random.Random(seed))
        yield clock


@contextmanager
def _alone() -> Iterator[None]:
    if not _lock.acquire(blocking=False):
        raise RuntimeError(
            "virtual_time() is in force already, for the whole process: it cannot be nested"
        )
    try:
        yield
    finally:
        _lock.release()


def _exchange(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


class _Switch:
    """A flag of `_runtime.modes` that is on while anybody wants it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._wanted = 0

    @contextmanager
    def on(self) -> Iterator[None]:
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        with self._lock:
            self._wanted += by
            setattr(modes, self._name, self._wanted > 0)


_passthrough = _Switch("passthrough")
_no_backoff = _Switch("no_backoff")


@contextmanager
def passthrough() -> Iterator[None]:
    """Take all policies out of the way: a decorated function is the function.

    Holds for the whole process, also for functions decorated before; may be nested.
    """
    with _passthrough.on():
        yield


@contextmanager
def no_backoff() -> Iterator[None]:
    """Let retries follow at once; everything else about them stays.

    Holds for the whole process, also for policies built before; may be nested.
    """
    with _no_backoff.on():
        yield


@contextmanager
def record_events() -> Iterator[list[Event]]:
    """Give a list to which every event of every policy is added as it happens.

    The list stays when the context is left; only nothing more is added.
    """
    events: list[Event] = []
    unsubscribe = _observe.subscribe(events.append)
    try:
        yield events
    finally:
        unsubscribe()
