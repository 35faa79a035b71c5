"""One call's way through its attempts: what `Retry` does once the first one has failed."""

from __future__ import annotations

import sys
import warnings
from contextvars import Token
from typing import TYPE_CHECKING, Any, Final

from resilient import _attempts, _observe
from resilient._call import Call
from resilient._core import clock, deadline
from resilient._core.durations import spell
from resilient._core.hints import of as hint_of
from resilient._core.notes import note
from resilient._core.once import is_once
from resilient._core.retrying import Attempts, Stop, asked
from resilient._core.verdict import FailedAnswer
from resilient._runtime import modes, waits
from resilient._runtime.streams import Started
from resilient.errors import CallTimeoutError, CircuitOpenError, RejectedError
from resilient.events import RetryExhausted, RetryScheduled

if TYPE_CHECKING:
    from resilient.retry import Retry

# An earlier attempt's outcome stands: the last one was refused before it was made.
EARLIER: Final = -1.0


class Progress:
    """The attempts of one call that did not succeed at once. Made at the first failure.

    Or before it, if the call is part of another one's further attempt.
    """

    __slots__ = ("_attempts", "_call", "_error", "_has_result", "_heard", "_result", "_retry",
                 "_root", "_running", "_token")  # fmt: skip

    def __init__(self, retry: Retry, call: Call, started: float) -> None:
        self._retry = retry
        self._heard = _observe.heard(retry)
        self._root = self._call = call
        self._attempts = Attempts(retry._rules, started)
        # Inside another call's second attempt, this call is still in its own first one.
        nested = _attempts.current.get() != 1
        self._token: Token[int] | None = _attempts.current.set(1) if nested else None
        self._running = True
        self._error: BaseException | None = None
        self._result: Any = None
        self._has_result = False

    def failed(self, error: Exception) -> float | None:
        """Judge an attempt's error: seconds to wait, `None` to raise it, or `EARLIER`."""
        rejected = isinstance(error, RejectedError)
        self._end(_outcome(error), error)
        matcher = self._retry._matcher
        if matcher is not None:
            answer = matcher.answer(error)
        else:
            # Without `on`, only an answer that says of itself that the call failed.
            answer = isinstance(error, FailedAnswer) and not error.delivered
        if answer is False or answer is None:
            return self._stopped_by(error) if rejected else None
        hint, at_once = asked(answer)
        if hint is None and not at_once:
            hint = hint_of(error)
        wait = self._next(error, hint, at_once)
        if not rejected:
            self._error, self._result, self._has_result = error, None, False
        return wait

    def _stopped_by(self, error: Exception) -> float | None:
        """A refusal further in does not hide what happened before it."""
        if self._error is None and not self._has_result:
            return None
        who = getattr(error, "policy", "") or type(error).__name__
        number = self._attempts.number
        self._exhausted(self._error, f"{who} refused attempt {number}", made=number - 1)
        return EARLIER

    def refused(self, result: Any) -> float | None:
        """Judge a result that `on_result` refused: seconds to wait, `None` to return it."""
        self._end("failure", None)
        wait = self._next(None, None, at_once=False)
        self._error, self._result, self._has_result = None, result, True
        return wait

    def succeeded(self) -> None:
        """The attempt under way went well."""
        if self._call is self._root:
            self._running = False
        else:
            self._end("success", None)

    def earlier(self) -> Any:
        """Return, or raise, what the last attempt came to that was really made."""
        error = self._error
        if error is None:
            return self._result
        # It is raised where the refusal may still be handled, which is not its context.
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context
            # This frame is in the traceback now: it would hold the error that holds it.
            del error, context

    def _next(self, error: Exception | None, hint: float | None, at_once: bool) -> float | None:
        limit = deadline.nearest()
        root = self._root.root
        why = "it runs inside once()" if is_once() else root.unrepeatable
        if root.delivered:
            why = "a part of its result has been delivered"
        stop: float | Stop
        if why is not None:
            stop = Stop(why)
        else:
            stop = self._attempts.next_wait(
                clock.now(),
                hint=hint,
                at_once=at_once or modes.no_backoff,
                deadline=None if limit is None else limit.at,
            )
        if not isinstance(stop, Stop):
            stop = self._refused_by_then(stop) or stop
        if isinstance(stop, Stop):
            self._exhausted(error, stop.reason, made=self._attempts.number)
            return None
        if self._heard:
            _observe.emit(
                self._retry,
                RetryScheduled,
                self._root.function,
                attempt=self._attempts.number,
                delay=stop,
                error=error,
            )
        return stop

    def _refused_by_then(self, wait: float) -> Stop | None:
        """Why not to wait for an attempt that a circuit, opened by this one, would refuse."""
        shut, matcher = self._call.shut, self._retry._matcher
        if shut is None or clock.now() + wait >= shut[0]:
            return None
        if matcher is not None and issubclass(CircuitOpenError, matcher.named):
            return None
        self._attempts.refund()
        return Stop(f"{shut[1]} has opened")

    def _exhausted(self, error: BaseException | None, why: str, *, made: int) -> None:
        elapsed = clock.now() - self._attempts.started
        if error is not None:
            times = "1 attempt" if made == 1 else f"{made} attempts"
            note(error, f"{self._retry.name} gave up after {times} in {spell(elapsed)}: {why}")
        _observe.emit(
            self._retry,
            RetryExhausted,
            self._root.function,
            attempts=made,
            elapsed=elapsed,
            error=error,
        )

    def sleep(self, wait: float) -> None:
        """Wait in this thread."""
        if wait == 0:
            return
        if not self._retry._has_warned and waits.in_event_loop():
            self._retry._has_warned = True
            _warn_in_event_loop()
        waits.sleep(wait)

    async def asleep(self, wait: float) -> None:
        """Wait in this task."""
        if wait == 0:
            return
        await waits.asleep(wait)

    def begin(self) -> Call:
        """Start the next attempt, and return its record."""
        number = self._attempts.begin()
        self._call = self._root.attempt(number, "retry")
        self._call.root.attempts += 1
        self._running = True
        token = _attempts.current.set(number)
        if self._token is None:
            self._token = token
        if self._heard:
            _observe.observer.begin_attempt(self._retry, self._call)
        return self._call

    def _end(self, outcome: str, error: BaseException | None) -> None:
        self._running = False
        if self._call.entered:
            # Whoever stands further out asks its own record.
            self._root.entered = True
        if self._heard:
            _observe.observer.end_attempt(self._retry, self._call, outcome, error)

    def refund(self) -> None:
        """Pay back a retry that will not be made, if one is paid for."""
        self._attempts.refund()

    def pause(self) -> None:
        """Leave the attempt's number: the code that runs between blocks is in no attempt."""
        token, self._token = self._token, None
        if token is None:
            return
        try:
            _attempts.current.reset(token)
        except ValueError:
            # Left in another context than it was entered in, to which the number was never
            # known; the one that knows it ends with its task.
            return

    def close(self) -> None:
        """The call is over: leave no attempt number, and no error that pins its frames."""
        if self._running and self._call is not self._root:
            # What ended the attempt is no `Exception`, or a predicate failed over it.
            error = sys.exc_info()[1]
            self._end("failure" if isinstance(error, Exception) else "cancelled", error)
        self.refund()
        self.pause()
        self._error = self._result = None


class AttemptStep:
    """A step of a generator: it belongs to the attempt that gave the first item."""

    __slots__ = ("_number", "_token")

    def __init__(self) -> None:
        self._number: int | None = None
        self._token: Token[int] | None = None

    def of(self, started: Started) -> Started:
        """The first item is there: what follows belongs to its attempt."""
        self._number = started.number
        return started

    def __call__(self) -> AttemptStep:
        return self

    def __enter__(self) -> None:
        if self._number is not None and self._number != _attempts.current.get():
            self._token = _attempts.current.set(self._number)

    def __exit__(self, *exc: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            _attempts.current.reset(token)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()


def _outcome(error: Exception) -> str:
    if isinstance(error, RejectedError):
        return "rejected"
    return "timeout" if isinstance(error, CallTimeoutError) else "failure"


def _warn_in_event_loop() -> None:
    # Point at the code that called the protected function, whatever stands in between.
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__")):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        "a retry on sync code sleeps on a thread that runs an event loop, and stops every "
        "task there: decorate an `async def`, or run the function in a thread",
        RuntimeWarning,
        stacklevel=level,
    )


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith("resilient.")
