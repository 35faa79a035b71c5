"""Timers on asyncio that cost little: one for all calls that wait equally long.

What waits for the same number of seconds comes due in the order in which it began. So a
policy's waits form one first-in-first-out queue per event loop, and only the first of them
has a timer on the loop. An entry is unlinked when its call ends: under a timeout of 30 s,
10,000 calls a second would otherwise keep 300,000 entries. (`call_at` and `cancel` for each
call, as `asyncio.timeout` does it, cost five times as much.)

The order holds only while every entry waits for the queue's own time. A call that has less
left, because of a deadline around it, still enters with the full time: the deadline around
it has an entry of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from resilient._core import clock
from resilient._core.deadline import Deadline

_Loop = asyncio.AbstractEventLoop


class Entry(Protocol):
    """Something that comes due at `at`. Its neighbours are `None` when it is in no queue."""

    at: float
    before: Any
    after: Any

    def due(self) -> None:
        """The time has come; the entry is no longer linked."""


class TaskDeadline(Deadline):
    """A deadline that cancels a task when it comes due: record and entry in one object.

    Attributes:
        task: The task to cancel, `None` while it is doing something else.
        cancelling: How many cancellations had been asked of the task before.
    """

    __slots__ = ("after", "before", "cancelling", "task")

    task: asyncio.Task[Any] | None
    cancelling: int
    before: Any
    after: Any

    # Whoever makes one sets every attribute: this saves a Python call for each timed call.
    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__

    def due(self) -> None:
        self.expired = True
        if self.task is not None:
            self.task.cancel()


class Queue:
    """The entries of one policy on one event loop, as a ring in which this object is the gap.

    Everything is called on the loop's own thread. The queue does not keep the loop alive.
    """

    __slots__ = ("_armed_at", "_context", "after", "armed", "at", "before", "loop")

    def __init__(self, loop: _Loop | None) -> None:
        self.loop = (lambda: None) if loop is None else weakref.ref(loop)
        self.at = math.inf
        self.before: Any = self
        self.after: Any = self
        self.armed = False
        self._armed_at = math.inf
        # Otherwise the timer would keep the context of whichever call happened to arm it.
        self._context = contextvars.Context()

    def append(self, entry: Entry) -> None:
        """Put `entry`, which comes due after all others, at the end."""
        last = self.before
        entry.before = last
        entry.after = self
        last.after = self.before = entry
        if not self.armed:
            self.arm(entry)

    def arm(self, entry: Entry) -> None:
        loop = self.loop()
        assert loop is not None  # it is running this code
        self.armed = True
        self._armed_at = entry.at
        delay = max(0.0, entry.at - clock.now())
        loop.call_later(delay, self._ring, context=self._context)

    def _ring(self) -> None:
        # The loop may be early by its clock's resolution, or go by a clock of its own: what
        # the timer was set for is due in any case.
        now = max(clock.now(), self._armed_at)
        entry = self.after
        while entry.at <= now:
            unlink(entry)
            entry.due()
            entry = self.after
        if entry is self:
            self.armed = False
        else:
            self.arm(entry)


def unlink(entry: Entry) -> None:
    """Take `entry` out of its queue, if it is in one."""
    before, after = entry.before, entry.after
    if before is not None:
        before.after = after
        after.before = before
        # Or a record that lives on would keep its neighbours, and they theirs.
        entry.before = entry.after = None


class Queues(threading.local):
    """A policy's queue in this thread. Two loops that take turns in a thread get new ones."""

    queue: Queue = Queue(None)

    def of(self, loop: _Loop) -> Queue:
        """The queue of `loop`, which is running in this thread."""
        queue = self.queue
        if queue.loop() is not loop:
            queue = self.queue = Queue(loop)
        return queue
