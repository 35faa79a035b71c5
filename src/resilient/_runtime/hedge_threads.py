"""Hedging of plain functions: every attempt runs in a worker thread, the primary too.

Nothing can stop a thread, so an overtaken attempt runs on, and its worker is left behind.
The caller's thread decides; a worker only says, under a lock, what its attempt has come to,
and hears whether anybody still wants it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from resilient import _observe
from resilient._call import Args, Call, Kwargs, SyncCall
from resilient._core import clock
from resilient._core.budget import RetryBudget
from resilient._core.hedging import PRIMARY
from resilient._core.verdict import LoopBlockedError
from resilient._runtime import waits
from resilient._runtime.hedge_race import Attempts, close
from resilient._runtime.workers import Run, Workers
from resilient.errors import WorkersExhaustedError
from resilient.events import CallRejected

if TYPE_CHECKING:
    from resilient.hedge import Hedge


def hedged(
    hedge: Hedge, inner: SyncCall[Any], fill: RetryBudget | None, workers: Workers
) -> SyncCall[Any]:
    """Return `inner` hedged; `fill` is the budget that successes are counted for."""

    def hedge_(args: Args, kwargs: Kwargs, call: Call) -> Any:
        if waits.in_event_loop():
            raise LoopBlockedError(
                "a hedge by thread would stop the event loop that this thread runs: decorate an "
                "`async def`, or write `await hedge.acall(...)`"
            )
        contest = ThreadContest(
            hedge, inner, clock.now(), copy_context(), args, kwargs, call, workers
        )
        result = contest.run()
        if fill is not None:
            fill.succeeded()
        return result

    return hedge_


class ThreadContest(Attempts):
    """The attempts of a call. All but `_attempt` and what it calls is the caller's thread's."""

    def __init__(
        self,
        hedge: Hedge,
        inner: Callable[[Args, Kwargs, Call], Any],
        started: float,
        context: Context,
        args: Args,
        kwargs: Kwargs,
        call: Call,
        workers: Workers,
    ) -> None:
        super().__init__(hedge, inner, started, context, args, kwargs, call)
        self._workers = workers
        self._runs: dict[int, Run] = {}
        self._arms: dict[int, Call] = {}
        # What the attempts have come to: number, result, error.
        self._news: deque[tuple[int, Any, BaseException | None]] = deque()
        # Held until there is news.
        self._bell = threading.Lock()
        self._bell.acquire()
        # Guards the two below: the first to answer has won, and then nothing counts any more.
        self._lock = threading.Lock()
        self._answered: int | None = None
        self._closed = False

    def run(self) -> Any:
        """Run the attempts until it is decided, and return or raise what the call comes to."""
        primary = self.record(self.call.number, self.call.kind)
        try:
            self._start(PRIMARY, primary)
            while not self.race.over:
                self._wait()
                self._read_news()
        finally:
            self._leave()
        return self._outcome()

    def _start(self, number: int, arm: Call) -> None:
        self._arms[number] = arm
        run = self.context.copy().run(self._workers.start, self._attempt, number, arm)
        if run is not None:
            self._runs[number] = run
        elif self._hears(self.race.failed(number, self._no_worker())):
            self._launch()

    def record(self, number: int, kind: str) -> Call:
        """Return the record of an attempt, which runs in a worker."""
        return self.call.handed(number, kind)

    def _no_worker(self) -> WorkersExhaustedError:
        name = self.hedge.name
        _observe.emit(
            self.hedge,
            CallRejected,
            self.call.function,
            reason="workers_exhausted",
            retry_after=None,
        )
        return WorkersExhaustedError(f"all workers of {name} are taken", policy=name)

    def _hears(self, again: bool) -> bool:
        """An attempt has failed; returns whether that launches the next hedge."""
        if not again:
            self.race.settle()
        return again

    def _launch(self) -> None:
        launched = self.launch()
        if launched is not None:
            self._start(*launched)
        self.race.settle()

    def _wait(self) -> None:
        """Wait for news, or until the next hedge is due, and launch it."""
        due = self.race.due
        left = None if due is None else due - clock.now()
        # Less than a float can add to the time is none.
        late = left is not None and left <= 1e-9
        if (late or not waits.acquire(self._bell, left)) and not self._news:
            self._launch()

    def _read_news(self) -> None:
        while self._news and not self.race.over:
            number, result, error = self._news.popleft()
            if error is None:
                self.returned(number, result)
            elif self._hears(self.race.failed(number, error)):
                self._launch()

    def _leave(self) -> None:
        """Nobody waits any more: leave what is in flight behind, and close what has come."""
        self.race.end()
        with self._lock:
            self._closed = True
        while self._news:
            _, result, error = self._news.popleft()
            if error is None:
                close(result)
        for number in self.race.flying:
            self._leave_behind(number)
        for arm in self._arms.values():
            arm.carry()

    def _leave_behind(self, number: int) -> None:
        run = self._runs.get(number)
        if run is None or not run.abandon():
            return
        # An attempt that was overtaken, or is not wanted, says nothing of the backend.
        self._arms[number].give_up(False)
        self._arms[number].leave_behind(run)

    def _outcome(self) -> Any:
        if self.race.winner is not None:
            return self.result
        error: Any = self.race.error()
        try:
            raise error
        finally:
            # The traceback holds this frame: it must not hold the error in turn.
            del error

    # In a worker.

    def _attempt(self, number: int, arm: Call) -> None:
        if number != PRIMARY:
            self.begin(arm)
        try:
            result = self.inner(self.args, self.kwargs, arm)
        except BaseException as error:
            self._tell(number, arm, None, error)
        else:
            self._tell(number, arm, result, None)

    def _tell(self, number: int, arm: Call, result: Any, error: BaseException | None) -> None:
        """Say what an attempt has come to; what nobody wants any more is closed."""
        with self._lock:
            late = self._answered is not None
            if not late and not self._closed and error is None:
                self._answered, self.result = number, result
        # Before the caller goes on: its span is to end after those of its attempts.
        record = self.call if number == PRIMARY else arm
        self.report(number, record, error, overtaken=late)
        with self._lock:
            wanted = not late and not self._closed
            if wanted:
                self._news.append((number, result, error))
        if wanted:
            self._ring()
        elif error is None and not (late and result is self.result):
            close(result)

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            return  # another worker has rung, and the caller has not heard yet
