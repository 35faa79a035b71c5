"""The attempts of a call on asyncio whose primary is late or has failed.

Stopping the primary means to cancel the caller's task, which is right only while it is
inside its attempt. An attempt ends in a step of its own task, so the caller's is then
suspended, and `inside` tells where. Its `cancelling()` count tells our cancellation from
the others': what is above the count at entry, once ours is taken back, is the caller's.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Awaitable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient._call import Args, AsyncCall, Call, Kwargs
from resilient._core import clock
from resilient._core.hedging import PRIMARY
from resilient._runtime.hedge_race import Attempts, aclose

if TYPE_CHECKING:
    from resilient.hedge import Hedge

# The start, the caller's task, its count of cancellations, its context, and the arguments.
Entry = tuple[float, Any, int, Context, Args, Kwargs]


class Contest(Attempts):
    """The attempts of a call whose primary is late or has failed."""

    def __init__(
        self, hedge: Hedge, inner: AsyncCall[Any], loop: Any, call: Call, entry: Entry
    ) -> None:
        started, self._task, self._entry_count, context, args, kwargs = entry
        super().__init__(hedge, inner, started, context, args, kwargs, call)
        self._loop = loop
        self._handle: Any = None
        self._arms: dict[int, Any] = {}
        # Where the caller's task waits, once it has left the attempt.
        self._gate: Any = None
        # Whether the caller's task is inside its attempt.
        self._inside = True
        self._interrupted = False
        self._arms_stopped = False
        # The caller's own cancellation.
        self._stopped: CancelledError | None = None

    # While the primary runs, or the caller waits for the hedges.

    def hedge_is_due(self) -> None:
        """The delay has passed since the last start."""
        self._handle = None
        if self._task.cancelling() > self._entry_count:
            # The caller is being cancelled, or a timeout ends the attempt: either ends soon.
            self._rearm(self._a_while())
        else:
            self._start()

    def _a_while(self) -> float:
        """Seconds until another look, never so few that the event loop would spin."""
        return max(0.01, self.hedge._rules.delay)

    def _rearm(self, seconds: float) -> None:
        self._disarm()
        self._handle = self._loop.call_later(seconds, self.hedge_is_due)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _start(self) -> None:
        """Launch the next hedge, if there is to be one."""
        self._disarm()
        launched = None if self._stopped else self.launch()
        if launched is None:
            return
        number, arm = launched
        # The task makes a copy of the context for itself.
        task = self.context.copy().run(self._loop.create_task, self._run(number, arm))
        if not task.done():  # an eager task may be
            self._arms[number] = task
            task.add_done_callback(partial(self._left, number))
        due = self.race.due
        if due is not None:
            self._rearm(max(0.0, due - clock.now()))

    async def _run(self, number: int, arm: Call) -> None:
        """One hedge, in a task of its own, which never fails: the caller gets the errors."""
        self.begin(arm)
        try:
            result = await self.inner(self.args, self.kwargs, arm)
        except BaseException as error:
            again = self.race.failed(number, error)
            self.end(number, arm, error)
            self._go_on(again)
            if not isinstance(error, (Exception, CancelledError)):
                raise  # an interrupt is the event loop's, too
            return
        won = self.returned(number, result)
        self.end(number, arm, None)
        if won:
            self._decided()
        elif self.is_late(result):
            await aclose(result)

    def _go_on(self, again: bool) -> None:
        """An attempt has failed; `again` says whether that launches the next hedge."""
        if again:
            self._start()
        self.race.settle()
        if self.race.over:
            self._decided()

    def _decided(self) -> None:
        """It is known what the call comes to: stop whatever is still in flight."""
        self._stop_arms()
        if self._inside:
            self._interrupt()
        else:
            self._open_gate()

    def _stop_arms(self) -> None:
        """Cancel the hedges in flight, once: twice would interrupt their cleanup."""
        self._disarm()
        if not self._arms_stopped:
            self._arms_stopped = True
            for number in self.race.flying:
                if number in self._arms:
                    self._arms[number].cancel()

    def _interrupt(self) -> None:
        """Stop the primary, which is inside its attempt."""
        self._handle = None
        if self._task.cancelling() > self._entry_count:
            # It is being cancelled already; a second time would interrupt its cleanup. But
            # a timeout of its own may let it go on: look again.
            self._handle = self._loop.call_later(self._a_while(), self._interrupt)
        else:
            self._interrupted = True
            self._task.cancel()

    def _left(self, number: int, task: asyncio.Task[None]) -> None:
        """The task of a hedge has ended."""
        del self._arms[number]
        if not task.cancelled():
            task.exception()  # an interrupt, which the event loop has seen
        elif self.race.flying.pop(number, None) is not None:
            # Cancelled before its first step, it has told nobody.
            self._go_on(again=False)
        if not self._arms:
            self._open_gate()

    def _open_gate(self) -> None:
        if self._gate is not None and not self._gate.done():
            self._gate.set_result(None)

    # In the caller's task, once it has left the attempt.

    def primary_raised(self, error: BaseException) -> None:
        """The primary has raised. Nothing waits here."""
        self._leave(error)
        again = self.race.failed(PRIMARY, error)
        self.end(PRIMARY, self.call, error)
        self._go_on(again)

    async def primary_returned(self, result: Any) -> None:
        """The primary has returned, after a hedge was launched."""
        self._leave(None)
        won = self.returned(PRIMARY, result)
        self.end(PRIMARY, self.call, None)
        if won:
            self._decided()
        elif self.is_late(result):
            await self._through(aclose(result))

    def _leave(self, error: BaseException | None) -> None:
        """The caller's task is out of its attempt; tell our cancellation from the others'."""
        self._inside = False
        if self.race.over:
            self._disarm()
        count = self._task.uncancel() if self._interrupted else self._task.cancelling()
        if count <= self._entry_count:
            return
        if isinstance(error, CancelledError):
            self._stopped = error
        elif self._interrupted:
            # One delivery stood for two cancellations, and the primary has swallowed it.
            self._stopped = CancelledError()
        else:
            # Cancelled, the primary came out with something else: that is to be all.
            self.race.close()

    async def finish(self) -> Any:
        """Wait for the rest, and return or raise what the call comes to."""
        try:
            while not self.race.over and self._stopped is None:
                await self._wait()
            self.race.end()
            self._stop_arms()
            while self._arms:
                await self._wait()
            if self._stopped is not None:
                if self.race.winner is not None:
                    await self._through(aclose(self.result))
                raise self._stopped
            if self.race.winner is None:
                raise self.race.error() or CancelledError()
            return self.result
        finally:
            self.forget()

    async def _wait(self) -> None:
        """Wait for news. The caller's cancellation is kept for the end."""
        self._gate = self._loop.create_future()
        try:
            await self._gate
        except CancelledError as stop:
            self._stopped = stop
        finally:
            self._gate = None

    async def _through(self, closing: Awaitable[None]) -> None:
        try:
            await closing
        except CancelledError as stop:
            self._stopped = stop

    def forget(self) -> None:
        """Keep no error: its traceback holds the frames that hold this object."""
        self.race.error()
        self._stopped = self.result = None
