"""One call's way through its attempts: what `Retry` does once the first one has failed."""

from __future__ import annotations

import warnings
from contextvars import Token
from typing import TYPE_CHECKING, Any, Final

from resilient import _attempts, _observe
from resilient._call import Call
from resilient._core import clock, deadline
from resilient._core.hints import of as hint_of
from resilient._core.notes import note
from resilient._core.once import is_once
from resilient._core.retrying import Attempts, Stop, asked
from resilient._runtime import modes, waits
from resilient.errors import RejectedError
from resilient.events import RetryExhausted, RetryScheduled

if TYPE_CHECKING:
    from resilient.retry import Retry

# An earlier attempt's outcome stands: the last one was refused before it was made.
EARLIER: Final = -1.0

_warned = False


class Progress:
    """The attempts of one call that did not succeed at once. Made at the first failure."""

    __slots__ = ("_attempts", "_call", "_error", "_has_result", "_result", "_retry", "_root",
                 "_token", "_why")  # fmt: skip

    def __init__(self, retry: Retry, call: Call, started: float) -> None:
        self._retry = retry
        self._root = self._call = call
        self._attempts = Attempts(retry._rules, started)
        self._token: Token[int] | None = None
        self._error: BaseException | None = None
        self._result: Any = None
        self._has_result = False
        self._why = ""

    def failed(self, error: Exception) -> float | None:
        """Judge an attempt's error: seconds to wait, `None` to raise it, or `EARLIER`."""
        self._end("rejected" if isinstance(error, RejectedError) else "failure", error)
        matcher = self._retry._matcher
        answer = False if matcher is None else matcher.answer(error)
        if answer is False or answer is None:
            return self._stopped_by(error)
        hint, at_once = asked(answer)
        wait = self._next(error, hint_of(error) if hint is None else hint, at_once)
        self._error, self._has_result = error, False
        return wait

    def _stopped_by(self, error: Exception) -> float | None:
        """An error that is not retried: a refusal does not hide what happened before it."""
        real = self._error is not None or self._has_result
        if not real or not isinstance(error, RejectedError):
            return None
        self._exhausted(self._error, f"{error.policy} refused attempt {self._attempts.number}")
        return EARLIER

    def refused(self, result: Any) -> float | None:
        """Judge a result that `on_result` refused: seconds to wait, `None` to return it."""
        self._end("failure", None)
        wait = self._next(None, None, at_once=False)
        self._error, self._result, self._has_result = None, result, True
        return wait

    def earlier(self) -> Any:
        """Return, or raise, what the last attempt came to that was really made."""
        if self._error is not None:
            raise self._error
        return self._result

    def _next(self, error: Exception | None, hint: float | None, at_once: bool) -> float | None:
        limit = deadline.nearest()
        stop: float | Stop = Stop("it runs inside once()")
        if not is_once():
            stop = self._attempts.next_wait(
                clock.now(),
                hint=hint,
                at_once=at_once or modes.no_backoff,
                deadline=None if limit is None else limit.at,
            )
        if isinstance(stop, Stop):
            self._exhausted(error, stop.reason)
            return None
        wait = 0.0 if modes.no_backoff else stop
        _observe.emit(
            self._retry,
            RetryScheduled,
            self._root.function,
            attempt=self._attempts.number,
            delay=wait,
            error=error,
        )
        return wait

    def _exhausted(self, error: BaseException | None, why: str) -> None:
        made = self._attempts.number
        elapsed = clock.now() - self._attempts.started
        if error is not None:
            plural = "attempt" if made == 1 else "attempts"
            name = self._retry.name
            note(error, f"{name} gave up after {made} {plural} in {elapsed:.3g} s: {why}")
        _observe.emit(
            self._retry,
            RetryExhausted,
            self._root.function,
            attempts=made,
            elapsed=elapsed,
            error=error,
        )

    def sleep(self, wait: float) -> None:
        """Wait in this thread. A retry that an interrupt prevents is paid back."""
        if wait == 0:
            return
        _warn_in_event_loop()
        try:
            waits.sleep(wait)
        except BaseException:
            self._attempts.refund()
            raise

    async def asleep(self, wait: float) -> None:
        """Wait in this task. A retry that a cancellation prevents is paid back."""
        if wait == 0:
            return
        try:
            await waits.asleep(wait)
        except BaseException:
            self._attempts.refund()
            raise

    def begin(self) -> Call:
        """Start the next attempt, and return its record."""
        self._attempts.number += 1
        self._call = self._root.attempt(self._attempts.number, "retry")
        self._call.root.attempts += 1
        if self._token is None:
            self._token = _attempts.current.set(self._attempts.number)
        else:
            _attempts.current.set(self._attempts.number)
        _observe.observer.begin_attempt(self._retry, self._call)
        return self._call

    def _end(self, outcome: str, error: BaseException | None) -> None:
        _observe.observer.end_attempt(self._retry, self._call, outcome, error)

    def close(self) -> None:
        """The call is over: leave no attempt number, and no error that pins its frames."""
        if self._call is not self._root:
            # Ends the last attempt if it was not ended as a failure.
            self._end("success", None)
        if self._token is not None:
            _attempts.current.reset(self._token)
        self._error = self._result = None


def _warn_in_event_loop() -> None:
    global _warned
    if not _warned and waits.in_event_loop():
        _warned = True
        warnings.warn(
            "a retry on sync code sleeps on a thread that runs an event loop, and stops every "
            "task there: decorate an `async def`, or run the function in a thread",
            RuntimeWarning,
            stacklevel=5,
        )
