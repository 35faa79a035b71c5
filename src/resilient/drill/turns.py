"""The drill's event loop: it jumps from one moment to the next without looking around.

`virtual_time` must find out, before each jump, whether any thread still does something. A
drill has one thread, so it need not; as soon as there is another, it does again.
"""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any, Final

from resilient._runtime import workers
from resilient.drill.errors import NeverEnds

# Turns of the loop without any time passing, after which it is taken to go round for ever.
PATIENCE: Final = 2_000_000
# Turns between two looks at what is really there: a signal, a callback from a thread.
_LOOKS: Final = 64


class Turns:
    """Takes the place of a loop's selector."""

    def __init__(self, careful: Any, patience: int) -> None:
        self._careful = careful
        self._world = careful._world
        self._real = careful._real
        self._threads = threading.active_count()
        # What can wake it: its own pipe alone, unless user code opens a connection.
        self._files = careful._real.get_map()
        self._own_files = len(self._files)
        self._patience = patience
        self._idle = 0
        self._turns = 0
        # How often time has moved: who looks from outside sees whether it goes on.
        self.jumps = 0
        # The time that nothing in the run may last beyond.
        self.limit = math.inf

    def select(self, timeout: float | None = None) -> Any:
        """Return what has arrived, or move the time to the next timer."""
        self._turns += 1
        if timeout is not None and timeout <= 0:
            return self._stand()
        if not self._alone():
            self._idle = 0
            return self._careful.select(timeout)
        if (timeout is None or self._turns % _LOOKS == 0) and (found := self._real.select(0)):
            return found
        if timeout is None:
            raise NeverEnds("", "everything waits for something that nothing will bring about")
        self._idle = 0
        self.jumps += 1
        world = self._world
        at = world.end_of(timeout)
        if at > self.limit:
            raise NeverEnds("", "something goes on after the drill's end, also when cancelled")
        world._move_to(at)
        return ()

    def _alone(self) -> bool:
        """Whether nothing can happen but what the loop itself does."""
        return (
            not workers.running
            and threading.active_count() == self._threads
            and len(self._files) == self._own_files
        )

    def _stand(self) -> Any:
        self._idle += 1
        if self._idle > self._patience:
            self._idle = 0
            raise NeverEnds(
                "",
                f"after {self._patience:,} turns of the event loop no time has passed: "
                "something tries again and again without waiting",
            )
        return self._real.select(0) if self._turns % _LOOKS == 0 else ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._careful, name)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop for one run; made inside `virtual_time`."""
    loop: Any = asyncio.SelectorEventLoop()
    # What the exchanged selector does at each turn is needed once: the clock moves little.
    loop._selector.select(0)
    loop._selector = Turns(loop._selector, PATIENCE)
    return loop  # type: ignore[no-any-return]
