"""A trio loop on a virtual clock.

Trio jumps for nobody but a `MockClock`, so this is one, whose time and jumps are those of
the virtual clock. Its autojump is trio's word that the loop has nothing to do; where the
time must not jump it is switched to looking again after a while.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import TYPE_CHECKING, Any

from resilient._runtime.virtual import Wait, World

if TYPE_CHECKING:
    from trio.testing import MockClock


class _TrioWait(Wait):
    """A trio loop that has nothing to do; to be asked in its own thread alone."""

    # The quiet period in which nothing was on its way; see `World.stand`.
    seen = -1

    def confirm(self, quiet: int) -> None:
        import trio

        on_its_way = trio.lowlevel.current_statistics().run_sync_soon_queue_size
        self.seen = -1 if on_its_way else quiet

    def is_confirmed(self, quiet: int) -> bool:
        return self.seen == quiet


class _Loop(threading.local):
    """What is known of the trio loop of one thread.

    Attributes:
        asked: How often it has asked for the time since it last had nothing to do.
        judging: Whether its statistics are being read, which asks for the time as well.
        tries: How often in a row the time could not jump.
    """

    asked = 0
    judging = False
    tries = 0


class TrioClock:
    """Makes the clock that `trio.run` is to be given, and knows it again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._loop = _Loop()
        self.clock = self._make()

    def _make(self) -> MockClock:
        from trio.testing import MockClock

        clock: Any = MockClock(autojump_threshold=0)
        # Trio forbids subclasses of it.
        clock.current_time = self._current_time
        clock.deadline_to_sleep_time = self._real_seconds_until
        clock.jump = self._world.advance
        clock._autojump = self._autojump
        made: MockClock = clock
        return made

    def _current_time(self) -> float:
        # Trio asks each time it has looked for events: it goes on.
        if not self._loop.judging:
            self._loop.asked += 1
            self._world.leave()
        return self._world.now()

    def _real_seconds_until(self, deadline: float) -> float:
        return 0.0 if deadline <= self._world.now() else math.inf

    def _autojump(self) -> None:
        # It has asked once, after it looked: no task has run since the last time.
        ran, self._loop.asked = self._loop.asked != 1, 0
        self._loop.judging = True
        try:
            pause = self._try_to_jump(ran)
        finally:
            self._loop.judging = False
        self.clock.autojump_threshold = pause

    def _try_to_jump(self, ran: bool) -> float:
        import trio

        in_seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
        wait = _TrioWait(self._world.end_of(in_seconds))
        if self._world.stand(wait, wait.confirm, ran=ran):
            self._loop.tries = 0
            return 0.0
        self._loop.tries += 1
        return self._world.pause(self._loop.tries)


def check(clock: TrioClock | None) -> None:
    """Refuse to tell the time to a trio loop that waits by another clock.

    Raises:
        RuntimeError: This thread runs such a loop.
    """
    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return
    if clock is None or trio.lowlevel.current_clock() is not clock.clock:
        raise RuntimeError(
            "inside virtual_time() trio needs its clock: trio.run(..., clock=clock.trio)"
        )
