"""Hedging on asyncio. The primary runs inline, in the caller's task.

As long as nothing is late, a call costs an entry in its timer's queue: the delay is the
same for all, so the queue is first in, first out, with one armed handle. (A measured delay
changes, and has a handle for each call.) Only when the delay has passed, or the primary has
failed, is a `Contest` made of the entry.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import current_task
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from resilient._call import Args, AsyncCall, Call, Kwargs
from resilient._core import clock
from resilient._core.budget import GIL, RetryBudget
from resilient._core.quantile import Measured
from resilient._runtime.hedge_contest import Contest, Entry
from resilient._runtime.hedge_trio import hedged as hedged_on_trio

if TYPE_CHECKING:
    from resilient.hedge import Hedge

_running_loop = asyncio._get_running_loop


class Timer:
    """The calls of one hedge on one event loop that are not late yet, oldest first."""

    __slots__ = ("_armed_for", "_context", "_hedge", "_inner", "armed", "contests", "loop",
                 "waiting")  # fmt: skip

    def __init__(self, hedge: Hedge, inner: AsyncCall[Any], loop: Any) -> None:
        self._hedge = hedge
        self._inner = inner
        # What a caller's context holds is not to live as long as an armed handle.
        self._context = Context()
        self._armed_for = 0.0
        self.loop = loop
        self.armed = False
        self.waiting: dict[Call, Entry] = {}
        self.contests: dict[Call, Contest] = {}

    def arm(self, started: float, seconds: float) -> None:
        """Look again in so many seconds, for what was started at `started`."""
        self._armed_for = started
        self.armed = True
        self.loop.call_later(seconds, self._fire, context=self._context)

    def _fire(self) -> None:
        self.armed = False
        delay = self._hedge._rules.fixed
        # What it was armed for is due in any case: the loop may go by a clock of its own.
        latest = max(clock.now() - delay, self._armed_for)
        late = []
        for call, entry in self.waiting.items():
            started = entry[0]
            if started > latest:
                self.arm(started, max(0.0, started + delay - clock.now()))
                break
            late.append(call)
        for call in late:
            self.late(call)

    def arm_one(self, call: Call, seconds: float) -> Any:
        """Look after one call in so many seconds."""
        return self.loop.call_later(seconds, self.late, call, context=self._context)

    def late(self, call: Call) -> None:
        """The delay of a call has passed."""
        entry = self.waiting.pop(call, None)
        if entry is not None:
            contest = self.contests[call] = self._contest(call, entry)
            contest.hedge_is_due()

    def raised(self, call: Call, error: BaseException) -> Contest | None:
        """The primary has raised: what goes on after it, `None` to let the error out."""
        entry = self.waiting.pop(call, None)
        if entry is None:
            contest = self.contests.pop(call)
        elif isinstance(error, Exception):
            contest = self._contest(call, entry)
        else:
            return None
        contest.primary_raised(error)
        if contest.race.hedges == 0 and contest.race.ended_by is error:
            contest.forget()
            return None
        return contest

    def _contest(self, call: Call, entry: Entry) -> Contest:
        return Contest(self._hedge, self._inner, self.loop, call, entry)


class _Local(threading.local):
    """The timer of the event loop that this thread runs."""

    timer: Timer | None = None


class Timers:
    """The timers of one hedged chain: one for each event loop that is running."""

    def __init__(self, hedge: Hedge, inner: AsyncCall[Any]) -> None:
        self._hedge = hedge
        self._inner = inner
        self._local = _Local()
        # Stands for no loop's.
        self.none = Timer(hedge, inner, object())

    def of(self, loop: Any) -> Timer:
        """The timer of `loop`, which this thread is running."""
        timer = self._local.timer
        if timer is None or timer.loop is not loop:
            timer = self._local.timer = Timer(self._hedge, self._inner, loop)
        return timer


def hedged(hedge: Hedge, inner: AsyncCall[Any], fill: RetryBudget | None) -> AsyncCall[Any]:
    """Return `inner` hedged; `fill` is the budget that successes are counted for."""
    delay = hedge._rules.fixed
    timers = Timers(hedge, inner)
    # The one used last, in whatever thread: mostly there is one loop, and it is the one.
    last = timers.none

    async def hedge_(args: Args, kwargs: Kwargs, call: Call) -> Any:
        nonlocal last
        loop = _running_loop()
        timer = last
        if timer.loop is not loop:
            if loop is None:
                return await hedged_on_trio(hedge, inner, fill, args, kwargs, call)
            last = timer = timers.of(loop)
        task: Any = current_task(loop)
        if task is None:  # trio, as a guest of asyncio
            return await hedged_on_trio(hedge, inner, fill, args, kwargs, call)
        waiting = timer.waiting
        started = clock.now()
        waiting[call] = started, task, task.cancelling(), copy_context(), args, kwargs
        if not timer.armed:
            timer.arm(started, delay)
        try:
            result = await inner(args, kwargs, call)
        except BaseException as error:
            contest = timer.raised(call, error)
            if contest is None:
                raise
        else:
            if call in waiting:
                del waiting[call]
                if GIL and fill is not None:
                    fill.wins += 1  # what `succeeded` does, without the call
                elif fill is not None:
                    fill.succeeded()
                return result
            contest = timer.contests.pop(call)
            await contest.primary_returned(result)
        result = await contest.finish()
        if fill is not None:
            fill.succeeded()
        return result

    return hedge_


def hedged_by_measure(
    hedge: Hedge, inner: AsyncCall[Any], fill: RetryBudget | None, measured: Measured
) -> AsyncCall[Any]:
    """Return `inner` hedged after a delay that is measured."""
    timers = Timers(hedge, inner)

    async def hedge_(args: Args, kwargs: Kwargs, call: Call) -> Any:
        loop = _running_loop()
        if loop is None:
            return await hedged_on_trio(hedge, inner, fill, args, kwargs, call)
        timer = timers.of(loop)
        task: Any = current_task(loop)
        if task is None:  # trio, as a guest of asyncio
            return await hedged_on_trio(hedge, inner, fill, args, kwargs, call)
        started = clock.now()
        waiting = timer.waiting
        waiting[call] = started, task, task.cancelling(), copy_context(), args, kwargs
        handle = timer.arm_one(call, measured.value)
        try:
            result = await inner(args, kwargs, call)
        except BaseException as error:
            contest = timer.raised(call, error)
            if contest is None:
                raise
        else:
            if waiting.pop(call, None):
                measured.record(clock.now() - started)
                if fill is not None:
                    fill.succeeded()
                return result
            contest = timer.contests.pop(call)
            await contest.primary_returned(result)
        finally:
            handle.cancel()
        result = await contest.finish()
        if fill is not None:
            fill.succeeded()
        return result

    return hedge_
