"""Starting and stopping cold standbys, in a thread or a task that no caller owns.

A caller whose time is up only stops waiting: the start goes on for the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from resilient._core.standby import Life, Lifecycle
from resilient._decorate import is_coroutine_function
from resilient._runtime import loops, workers
from resilient._runtime.signals import Signal

_log = logging.getLogger("resilient")
# How many starts, stops and probes of one pool may be under way or hang.
WORKERS = 1000


class Flight(Signal):
    """A start or a stop under way. `lost`: its event loop ended before it did."""

    __slots__ = ("error", "lost")

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.lost = False


class Standby(Lifecycle):
    """One cold standby."""

    __slots__ = ("_home", "_start", "_stop", "_workers")

    def __init__(self, member: Any) -> None:
        super().__init__()
        self._start = member.start
        self._stop = member.stop
        self._home: loops.Loop | None = None
        self._workers = workers.Workers(2)

    def warm(self, on_failure: Callable[[Exception], None]) -> Flight | None:
        """Start it if nobody has; what to wait for, `None` if it is warm."""
        flight: Flight | None
        flight, launch = self.need(Flight)
        if flight is not None and launch:
            self._launch(self._start, flight, lambda: self._begun(flight, on_failure))
        return flight

    def _begun(self, flight: Flight, on_failure: Callable[[Exception], None]) -> None:
        good = flight.error is None and not flight.lost
        if flight.error is not None:
            on_failure(flight.error)
        self.started(good)
        flight.give()

    def release(self, idle: Callable[[], bool]) -> bool:
        """Stop it if no call runs there; whether its stop has begun."""
        flight: Flight | None = self.retire(idle, Flight)
        if flight is None:
            return False
        self._launch(self._stop, flight, lambda: self._ended(flight))
        return True

    def _ended(self, flight: Flight) -> None:
        if flight.error is not None:
            _log.error("the stop of a standby failed", exc_info=flight.error)
        self.stopped()
        flight.give()

    def _launch(
        self, work: Callable[[], Any] | None, flight: Flight, done: Callable[[], None]
    ) -> None:
        """Run `work` where it belongs, and `done` after it, whatever happens."""
        if work is None:
            done()
        elif is_coroutine_function(work):
            self._launch_task(work, flight, done)
        else:
            run = self._workers.start(_run, work, flight, done)
            if run is None:
                flight.error = RuntimeError("the standby's earlier start or stop still hangs")
                done()

    def _launch_task(
        self, work: Callable[[], Any], flight: Flight, done: Callable[[], None]
    ) -> None:
        home = loops.running() or self._home

        async def task() -> None:
            try:
                await work()
            except Exception as error:
                flight.error = error
            except BaseException:
                flight.lost = True
                raise
            finally:
                done()

        if home is None or not home.spawn(task):
            flight.error = RuntimeError("the event loop that the standby belongs to has ended")
            done()
        else:
            self._home = home

    @property
    def is_warm(self) -> bool:
        """Whether calls may go there."""
        return self.state is Life.WARM


def _run(work: Callable[[], Any], flight: Flight, done: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:
        flight.error = error
    except BaseException:
        flight.lost = True
        raise
    finally:
        done()
