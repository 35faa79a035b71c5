"""Retry: make a failed call again, after a wait, as long as that can help."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Never

from resilient import _attempts
from resilient._call import AsyncCall, AsyncStream, Call, SyncCall, SyncStream
from resilient._core import clock
from resilient._core.backoff import check, exponential
from resilient._core.budget import GIL, RetryBudget
from resilient._core.durations import Duration, count, seconds
from resilient._core.retrying import Rules
from resilient._core.verdict import ExceptionTypes, On, matcher_of, predicate
from resilient._policy import Policy
from resilient._runtime.retry_block import AsyncAttempts, BlockAttempt, SyncAttempts
from resilient._runtime.retry_call import EARLIER, AttemptStep, Progress
from resilient._runtime.streams import Started, arelay, astart, relay, start

# Stands for a new one in each retry; not shared.
_OWN: Final[Any] = RetryBudget()
_BACKOFF: Final = exponential(0.1, maximum=10)


@dataclass(frozen=True, slots=True)
class RetrySnapshot:
    """A retry's state: `tokens` is what its budget holds, `None` without one."""

    name: str
    kind: str
    tokens: float | None


class Retry(Policy[Never, Never]):
    """Call again what failed, with a jittered backoff, within a budget and the deadline.

    Args:
        on: The exceptions that are worth another attempt: a class or a tuple of classes;
            as a keyword also a predicate `(exception) -> bool`, which may also return the
            seconds, or a timedelta, that the server asked to wait (0: none). There is no
            default: name what is transient for this backend.
        unless: Classes that `on` would match but that are not to be retried.
        on_result: A predicate `(result) -> bool`; true refuses the result and retries.
        attempts: The most attempts, the first included, 1 or more; `None` for no bound,
            which needs `max_elapsed`.
        max_elapsed: Seconds after the first attempt's start within which a further one may
            start; `None` for no bound.
        backoff: Seconds between attempts: a backoff, or any re-iterable of seconds, whose
            end, if it has one, ends the attempts. By default `exponential(0.1, maximum=10)`
            with full jitter.
        budget: Bounds retries as a share of successes; by default one of its own, 10 %.
            Share one between policies, or give `None` for no bound.
        max_retry_after: The longest wait, in seconds, that a server may ask for by
            `Retry-After`; if it asks for more, the retry gives up at once. 60 by default.
        name: Names the policy in events, errors and telemetry.

    When it gives up, the last attempt's error is raised, or its result returned, with a note
    that says how often and how long it was tried and what stopped it.

    Raises:
        TypeError: A value is of the wrong type, or neither `on` nor `on_result` is given.
        ValueError: A value is out of its range.
    """

    kind: ClassVar[str] = "retry"
    repeats = True

    def __init__(
        self,
        classes: ExceptionTypes | None = None,
        /,
        *,
        on: On | None = None,
        unless: ExceptionTypes | tuple[()] = (),
        on_result: Callable[[Any], bool] | None = None,
        attempts: int | None = 3,
        max_elapsed: Duration | None = None,
        backoff: Iterable[Duration] = _BACKOFF,
        budget: RetryBudget | None = _OWN,
        max_retry_after: Duration = 60,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self._matcher = matcher_of("Retry", classes, on, unless)
        self._on_result = predicate(on_result, "on_result")
        if self._matcher is None and on_result is None:
            raise TypeError(
                "Retry needs to know what is worth another attempt: give on=ConnectionError, "
                "a tuple of classes or a predicate, or on_result=..."
            )
        if budget is _OWN:
            budget = RetryBudget()
        elif budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None, not {budget!r}")
        self._budget = budget
        self._has_warned = False
        self._rules = Rules(
            attempts=None if attempts is None else count(attempts, "attempts"),
            max_elapsed=None if max_elapsed is None else seconds(max_elapsed, "max_elapsed"),
            backoff=check(backoff),
            budget=budget,
            max_retry_after=seconds(max_retry_after, "max_retry_after", zero=True),
        )
        if attempts is None and max_elapsed is None:
            raise ValueError("attempts=None would retry for ever: give max_elapsed=... too")

    def ignores(self, cls: type[BaseException]) -> bool:
        """Whether a `cls` is certain not to be retried, as far as classes can tell."""
        matcher = self._matcher
        if matcher is None or issubclass(cls, matcher.excluded):
            return True
        return not issubclass(cls, matcher.types)

    def snapshot(self) -> RetrySnapshot:
        """Return the retry's state as plain values."""
        tokens = None if self._budget is None else self._budget.tokens
        return RetrySnapshot(self.name, self.kind, tokens)

    def _compose(self, method: str, inner: Any, outer: tuple[Policy[Any, Any], ...]) -> Any:
        # A call fills a shared budget once, at the outermost policy that holds it.
        budget = self._budget
        if any(getattr(policy, "_budget", None) is budget for policy in outer):
            budget = None
        return getattr(self, method)(inner, fill=budget)

    def wrap(self, inner: SyncCall[Any], *, fill: RetryBudget | None = _OWN) -> SyncCall[Any]:
        """Return `inner` retried; for plain functions."""
        on_result = self._on_result
        budget = self._budget if fill is _OWN else fill
        attempt = _attempts.current.get

        def retry(args: Any, kwargs: Any, call: Call) -> Any:
            started = clock.now()
            progress = None if attempt() == 1 else Progress(self, call, started)
            try:
                while True:
                    try:
                        result = inner(args, kwargs, call)
                    except Exception as error:
                        progress = progress or Progress(self, call, started)
                        wait = progress.failed(error)
                        if wait is None:
                            raise
                    else:
                        if on_result is None or not on_result(result):
                            if budget is not None and not call.fell_back:
                                if GIL:
                                    budget.wins += 1  # what `succeeded` does, without a call
                                else:  # pragma: no cover - free-threaded builds alone
                                    budget.succeeded()
                            if progress is not None:
                                progress.succeeded()
                            return result
                        progress = progress or Progress(self, call, started)
                        wait = progress.refused(result)
                        if wait is None:
                            return result
                    if wait is EARLIER:
                        return progress.earlier()
                    progress.sleep(wait)
                    call = progress.begin()
            finally:
                if progress is not None:
                    progress.close()

        return retry

    def awrap(self, inner: AsyncCall[Any], *, fill: RetryBudget | None = _OWN) -> AsyncCall[Any]:
        """Return `inner` retried; for coroutine functions."""
        on_result = self._on_result
        budget = self._budget if fill is _OWN else fill
        attempt = _attempts.current.get

        async def retry(args: Any, kwargs: Any, call: Call) -> Any:
            started = clock.now()
            progress = None if attempt() == 1 else Progress(self, call, started)
            try:
                while True:
                    try:
                        result = await inner(args, kwargs, call)
                    except Exception as error:
                        progress = progress or Progress(self, call, started)
                        wait = progress.failed(error)
                        if wait is None:
                            raise
                    else:
                        if on_result is None or not on_result(result):
                            if budget is not None and not call.fell_back:
                                if GIL:
                                    budget.wins += 1  # what `succeeded` does, without a call
                                else:  # pragma: no cover - free-threaded builds alone
                                    budget.succeeded()
                            if progress is not None:
                                progress.succeeded()
                            return result
                        progress = progress or Progress(self, call, started)
                        wait = progress.refused(result)
                        if wait is None:
                            return result
                    if wait is EARLIER:
                        return progress.earlier()
                    await progress.asleep(wait)
                    call = progress.begin()
            finally:
                if progress is not None:
                    progress.close()

        return retry

    def wrap_stream(self, inner: SyncStream, *, fill: RetryBudget | None = _OWN) -> SyncStream:
        """Return `inner` retried until its first item; for generator functions."""
        self._refuse_on_result()
        begin = self.wrap(_first_item(inner), fill=fill)

        def retry(args: Any, kwargs: Any, call: Call) -> Any:
            step = AttemptStep()
            return relay(lambda: step.of(begin(args, kwargs, call)), None, step)

        return retry

    def awrap_stream(self, inner: AsyncStream, *, fill: RetryBudget | None = _OWN) -> AsyncStream:
        """Return `inner` retried until its first item; for asynchronous generator functions."""
        self._refuse_on_result()
        begin = self.awrap(_afirst_item(inner), fill=fill)

        def retry(args: Any, kwargs: Any, call: Call) -> Any:
            step = AttemptStep()

            async def open_() -> Started:
                return step.of(await begin(args, kwargs, call))

            return arelay(open_, None, step)

        return retry

    def _refuse_on_result(self) -> None:
        if self._on_result is not None:
            raise TypeError(
                "on_result cannot judge a generator, which returns its items one by one: "
                "leave it out, or raise an error in the generator"
            )

    def __iter__(self) -> Iterator[BlockAttempt]:
        """Iterate attempts as blocks: `for attempt in retry: with attempt: ...`.

        Raises:
            RuntimeError: On a thread that runs an event loop: write `async for`.
        """
        return SyncAttempts(self)

    def __aiter__(self) -> AsyncIterator[BlockAttempt]:
        """Iterate attempts as blocks: `async for attempt in retry: with attempt: ...`."""
        return AsyncAttempts(self)


def _first_item(inner: SyncStream) -> SyncCall[Started]:
    def attempt(args: Any, kwargs: Any, call: Call) -> Started:
        return start(inner(args, kwargs, call), call.number)

    return attempt


def _afirst_item(inner: AsyncStream) -> AsyncCall[Started]:
    async def attempt(args: Any, kwargs: Any, call: Call) -> Started:
        return await astart(inner(args, kwargs, call), call.number)

    return attempt
