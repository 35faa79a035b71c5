"""A retry as blocks: `for attempt in retry: with attempt: ...`, and with `async for`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from resilient import _attempts
from resilient._call import Call, Site
from resilient._core import clock
from resilient._runtime import modes, waits
from resilient._runtime.retry_call import EARLIER, Progress

if TYPE_CHECKING:
    from resilient.retry import Retry

R = TypeVar("R")


class BlockAttempt:
    """One attempt, as a block. Nothing in it waits, so it serves sync and async code.

    Attributes:
        number: The attempt's number, from 1.
    """

    __slots__ = ("_attempts", "_has_result", "_result", "number")

    def __init__(self, attempts: _Attempts, number: int) -> None:
        self._attempts: _Attempts | None = attempts
        self._has_result = False
        self._result: Any = None
        self.number = number

    def set_result(self, result: R) -> R:
        """Say what the block came to, for `on_result=` to judge; returns `result`."""
        self._result, self._has_result = result, True
        return result

    def __enter__(self) -> BlockAttempt:
        if self._attempts is None or not self._attempts.enter(self.number):
            raise RuntimeError("an attempt serves one block: take the next one from the loop")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        attempts, self._attempts = self._attempts, None
        result, self._result = self._result, None
        try:
            return attempts is not None and attempts.leave(error, self._has_result, result)
        finally:
            # This frame may be in the traceback of an error raised here.
            del error, trace


class _Attempts:
    """The attempts of one loop."""

    _progress: Progress | None = None

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._started = clock.now()
        self._number = 0
        self._entered = True
        self._wait: float | None = 0.0
        call = Call()
        call.site = Site(retry.name, "", (retry,))
        self._call = call

    def _due(self) -> float | None:
        """Seconds until the next attempt, `None` when there is none."""
        if not self._entered:
            raise RuntimeError("an attempt was not entered: write `with attempt:` in the loop")
        wait, self._wait = self._wait, None
        return wait

    def _next(self) -> BlockAttempt:
        self._number += 1
        self._entered = False
        return BlockAttempt(self, self._number)

    def enter(self, number: int) -> bool:
        """Start the attempt that was handed out last; false if it is not `number`."""
        if self._entered or number != self._number:
            return False
        self._entered = True
        if number > 1 and self._progress is not None:
            self._progress.begin()
        elif _attempts.current.get() != 1:
            self._made_progress()
        return True

    def leave(self, error: BaseException | None, has_result: bool, result: Any) -> bool:
        """Judge the block that ended; true keeps its error from leaving the loop."""
        try:
            if modes.passthrough:
                return False
            if error is None:
                self._wait = self._returned(has_result, result)
            elif isinstance(error, Exception):
                self._wait = self._made_progress().failed(error)
            handled = self._wait is not None
            if self._wait is EARLIER:
                self._wait = None
                # An earlier error is raised, an earlier result is what the loop has left.
                self._made_progress().earlier()
            return handled and error is not None
        finally:
            del error  # see `BlockAttempt.__exit__`
            if self._progress is not None and self._wait is None:
                self._progress.close()
            elif self._progress is not None:
                self._progress.pause()

    def _returned(self, has_result: bool, result: Any) -> float | None:
        on_result = self._retry._on_result
        if on_result is not None and not has_result:
            raise RuntimeError("with on_result=, the block must call set_result(...)")
        if on_result is not None and on_result(result):
            return self._made_progress().refused(result)
        if self._retry._budget is not None:
            self._retry._budget.succeeded()
        if self._progress is not None:
            self._progress.succeeded()
        return None

    def _made_progress(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(self._retry, self._call, self._started)
        return self._progress

    def __del__(self) -> None:
        # The loop was left, by `break` or by an error, before the attempt that was paid for.
        if self._progress is not None:
            self._progress.refund()


class SyncAttempts(_Attempts):
    """What a plain `for` iterates."""

    def __init__(self, retry: Retry) -> None:
        if waits.in_event_loop():
            raise RuntimeError(
                "a plain `for` over a retry would stop the event loop that this thread runs: "
                "write `async for attempt in retry:`"
            )
        super().__init__(retry)

    def __iter__(self) -> SyncAttempts:
        return self

    def __next__(self) -> BlockAttempt:
        wait = self._due()
        if wait is None:
            raise StopIteration
        if self._progress is not None:
            try:
                self._progress.sleep(wait)
            except BaseException:
                self._progress.close()
                raise
        return self._next()


class AsyncAttempts(_Attempts):
    """What an `async for` iterates."""

    def __aiter__(self) -> AsyncAttempts:
        return self

    async def __anext__(self) -> BlockAttempt:
        wait = self._due()
        if wait is None:
            raise StopAsyncIteration
        if self._progress is not None:
            try:
                await self._progress.asleep(wait)
            except BaseException:
                self._progress.close()
                raise
        return self._next()
