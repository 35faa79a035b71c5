"""A retry as blocks: `for attempt in retry: with attempt: ...`, and with `async for`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from resilient._call import Call, Site
from resilient._core import clock
from resilient._runtime import modes, waits
from resilient._runtime.retry_call import EARLIER, Progress

if TYPE_CHECKING:
    from resilient.retry import Retry


class BlockAttempt:
    """One attempt, as a block. Nothing in it waits, so it serves sync and async code."""

    __slots__ = ("_attempts", "_result", "entered", "number")

    def __init__(self, attempts: _Attempts, number: int) -> None:
        self._attempts = attempts
        self._result: Any = None
        self.number = number
        self.entered = False

    def set_result(self, result: Any) -> None:
        """Say what the block came to, for `on_result=` to judge."""
        self._result = result

    def __enter__(self) -> BlockAttempt:
        self.entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return self._attempts.ended(error, self._result)


class _Attempts:
    """The attempts of one loop."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._started = clock.now()
        self._progress: Progress | None = None
        self._current: BlockAttempt | None = None
        self._wait: float | None = None
        call = Call()
        call.site = Site(retry.name, "", (retry,))
        self._call = call

    def _due(self) -> float | None:
        """Seconds until the next attempt, `None` when there is none."""
        if self._current is None:
            return 0.0
        if not self._current.entered:
            raise RuntimeError("an attempt was not entered: write `with attempt:` in the loop")
        return self._wait

    def _next(self) -> BlockAttempt:
        number = 1
        if self._progress is not None:
            number = self._progress.begin().number
        self._wait = None
        self._current = BlockAttempt(self, number)
        return self._current

    def ended(self, error: BaseException | None, result: Any) -> bool:
        """Judge the block that ended; true keeps its error from leaving the loop."""
        again = not modes.passthrough and self._judge(error, result)
        if not again and self._progress is not None:
            self._progress.close()
        return again and error is not None

    def _judge(self, error: BaseException | None, result: Any) -> bool:
        on_result = self._retry._on_result
        if error is None:
            if on_result is None or not on_result(result):
                if self._retry._budget is not None:
                    self._retry._budget.succeeded()
                return False
            self._wait = self._made_progress().refused(result)
        elif isinstance(error, Exception):
            self._wait = self._made_progress().failed(error)
            if self._wait is EARLIER:
                self._wait = None
                self._raise_earlier()
        return self._wait is not None

    def _made_progress(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(self._retry, self._call, self._started)
        return self._progress

    def _raise_earlier(self) -> None:
        """The last attempt was refused: the one before it stands. A result has no error."""
        progress = self._made_progress()
        try:
            progress.earlier()
        finally:
            progress.close()


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
            self._progress.sleep(wait)
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
            await self._progress.asleep(wait)
        return self._next()
