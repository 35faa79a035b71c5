"""Timeout: bound the time of a call.

A coroutine is cancelled. Nothing can interrupt a plain function safely, so for those the
user chooses: run it in a worker thread, and leave that behind when the time is up; or run
it in place, with the time that is left there for it to read.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Literal, Never, TypeVar

from resilient import _observe
from resilient._call import AsyncCall, AsyncStream, Call, Site, SyncCall, SyncStream
from resilient._core import clock
from resilient._core.deadline import Deadline, current, innermost, leave, nearest, passed
from resilient._core.durations import Duration, count
from resilient._core.durations import seconds as seconds_of
from resilient._core.verdict import LoopBlockedError
from resilient._policy import Policy
from resilient._runtime import modes, waits
from resilient._runtime.streams import arelay, astart, relay, start
from resilient._runtime.timed_tasks import ScopedBlock, Steps, TaskBlock, bounded, open_block
from resilient._runtime.timers import Queues
from resilient._runtime.workers import Run, Workers
from resilient.errors import CallTimeoutError, WorkersExhaustedError
from resilient.events import CallOverran, CallRejected, CallTimedOut

D = TypeVar("D", bound=Deadline)

_MAX_WORKERS = 64

_CHOICE = (
    'nothing can interrupt a plain function safely, so say what to do: sync="thread" runs it '
    "in a worker thread, and leaves it running there when the time is up; "
    'sync="deadline" runs it in place, uninterrupted, and remaining() tells it the time left'
)


class Timeout(Policy[Never, Never]):
    """Bound the time of each call.

    Args:
        seconds: The time for one call, more than 0: seconds or a timedelta.
        sync: What to do with plain functions, which nothing can interrupt safely.
            `"thread"`: run them in worker threads, with the context copied, and leave a
            call behind that is not done in time. It runs on, and its result is dropped.
            `"deadline"`: run them in place; `resilient.remaining()` tells them the time
            left, and a result that comes late is kept and reported by `CallOverran`.
            `None`, the default: they are refused at decoration. Coroutine functions are
            cancelled, whatever stands here.
        max_workers: The most worker threads at once with `sync="thread"`, 64 by default;
            calls left behind hold theirs until they end.
        name: Names the policy in events, errors and telemetry.

    Raises:
        TypeError: A value is of the wrong type, or `max_workers` is given without
            `sync="thread"`.
        ValueError: A value is out of its range.

    A call whose time is up raises `CallTimeoutError`; it may have been executed. A call that
    finds every worker taken raises `WorkersExhaustedError` at once. A call that begins when
    the time of an enclosing timeout is up is not made: it raises that one's error.
    """

    kind: ClassVar[str] = "timeout"

    def __init__(
        self,
        seconds: Duration,
        *,
        sync: Literal["thread", "deadline"] | None = None,
        max_workers: int = _MAX_WORKERS,
        name: str | None = None,
    ) -> None:
        if callable(seconds):
            raise TypeError("Timeout was given a function: did you mean @Timeout(10) above it?")
        super().__init__(name)
        self.seconds = seconds_of(seconds, "seconds")
        self.sync = _sync(sync)
        self._max_workers = count(max_workers, "max_workers")
        if sync != "thread" and max_workers != _MAX_WORKERS:
            raise TypeError('max_workers is for worker threads: it needs sync="thread"')
        self._workers = Workers(self._max_workers) if sync == "thread" else None
        self._queues = Queues()

    def guard(self) -> TimeoutGuard:
        """Return a fresh block under the time: `async with timeout.guard(): ...`.

        The block is cancelled when the time is up. With `sync="deadline"` it works under a
        plain `with` too, and is not interrupted there.
        """
        call = Call()
        call.site = Site(self.name, "", (self,))
        return TimeoutGuard(self, call)

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` protected; for plain functions, and only with `sync=`."""
        if self._workers is not None:
            return self._in_worker(inner, self._workers)
        if self.sync is None:
            raise TypeError(f"Timeout({self.seconds:g}) on a plain function: {_CHOICE}")
        return self._in_place(inner)

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` protected; for coroutine functions."""
        return bounded(self, self._queues, inner)

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` with a deadline; for generator functions, with `sync="deadline"`."""
        if self.sync is None:
            raise TypeError(f"Timeout({self.seconds:g}) on a generator function: {_CHOICE}")
        if self.sync == "thread":
            raise TypeError(
                'sync="thread" cannot run a generator, whose steps belong to its consumer\'s '
                'thread: write sync="deadline", and read remaining() in it'
            )

        def timeout(args: Any, kwargs: Any, call: Call) -> Any:
            steps = _Steps(self, call)
            return relay(lambda: start(inner(args, kwargs, call)), steps, lambda: _Step(steps))

        return timeout

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` protected step by step; for asynchronous generator functions."""

        def timeout(args: Any, kwargs: Any, call: Call) -> Any:
            steps = Steps(self, call)
            return arelay(lambda: astart(inner(args, kwargs, call)), steps, steps.step)

        return timeout

    # In place.

    def _in_place(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        def timeout(args: Any, kwargs: Any, call: Call) -> Any:
            record = self._record(clock.now(), Deadline)
            # An interrupt may come right after the set, or on the way to `_left`: a record that
            # stays in force would end every later call of this thread when its time is up.
            try:
                current.set(record)
                result = inner(args, kwargs, call)
            except BaseException as error:
                record.ended = True
                self._left(record, call, error)
                raise
            record.ended = True
            self._left(record, call, None)
            return result

        return timeout

    def _left(self, record: Deadline, call: Call, error: BaseException | None) -> None:
        """Take a deadline that interrupts nobody out of force, and report what it saw."""
        leave(record)
        if record.blamed and isinstance(error, CallTimeoutError):
            self._noticed(record, call, error)
        elif clock.now() > record.at:
            _observe.emit(self, CallOverran, call.function, seconds=self.seconds)

    # In a worker.

    def _in_worker(self, inner: SyncCall[Any], workers: Workers) -> SyncCall[Any]:
        def enter(args: Any, kwargs: Any, call: Call, record: Deadline) -> Any:
            # In the worker's own copy of the context, so there is nothing to reset.
            current.set(record)
            try:
                return inner(args, kwargs, call)
            finally:
                # An abandoned call goes on seeing that its time is up.
                record.ended = True

        def timeout(args: Any, kwargs: Any, call: Call) -> Any:
            if waits.in_event_loop():
                raise LoopBlockedError(_IN_LOOP)
            record = self._record(clock.now(), Deadline)
            handed = call.handed(call.number, call.kind)
            run = workers.start(enter, args, kwargs, handed, record)
            if run is None:
                raise self._exhausted(call)
            limit = _first(record)
            if self._wait(run, limit, handed):
                handed.carry()
                return self._outcome(run, record, call)
            handed.give_up(True)
            raise self._ran_out(limit, record, call, hung=handed.entered)

        return timeout

    def _wait(self, run: Run, limit: Deadline, handed: Call) -> bool:
        """Wait for `run` until `limit`; false if it was left behind."""
        try:
            if run.wait(max(0.0, limit.at - clock.now())) or not run.abandon():
                return True
        except BaseException:
            # Ctrl-C, for example, which says nothing of the backend.
            if run.abandon():
                handed.leave_behind(run)
            handed.give_up(False)
            raise
        handed.leave_behind(run)
        return False

    def _outcome(self, run: Run, record: Deadline, call: Call) -> Any:
        try:
            return run.outcome()
        except CallTimeoutError as error:
            self._noticed(record, call, error)
            raise

    def _exhausted(self, call: Call) -> WorkersExhaustedError:
        _observe.emit(
            self, CallRejected, call.function, reason="workers_exhausted", retry_after=None
        )
        return WorkersExhaustedError(
            f"all {self._max_workers} workers of {self.name} are taken", policy=self.name
        )

    def _ran_out(
        self, limit: Deadline, record: Deadline, call: Call, *, hung: bool
    ) -> CallTimeoutError:
        """The error of a call that was left behind when `limit` had passed."""
        if limit is record:
            return self._timed_out(call)
        error = _in_the_name_of(limit)
        if hung:
            error._origin = call.root
        return error

    # What all of them share.

    def _enclosing(self, now: float) -> Deadline | None:
        """The deadline around a call that begins now.

        Raises:
            CallTimeoutError: It has passed: work that cannot end in time is not begun.
        """
        late = passed(now)
        if late is not None:
            raise _in_the_name_of(late)
        return innermost()

    def _record(self, now: float, make: Callable[[float, Deadline | None, str, float], D]) -> D:
        """The deadline of a call that begins now; see `_enclosing`."""
        outer = None if current.get() is None else self._enclosing(now)
        return make(now + self.seconds, outer, self.name, self.seconds)

    def _timed_out(self, call: Call) -> CallTimeoutError:
        """Tell that a call's time was up, and return the error that says so."""
        _observe.emit(self, CallTimedOut, call.function, seconds=self.seconds)
        error = CallTimeoutError(policy=self.name, seconds=self.seconds)
        error._origin = call.root
        return error

    def _noticed(self, record: Deadline, call: Call, error: BaseException | None) -> None:
        """Tell of a time-out that was raised further in, in the name of this policy."""
        if record.blamed and isinstance(error, CallTimeoutError):
            _observe.emit(self, CallTimedOut, call.function, seconds=self.seconds)


_IN_LOOP = (
    'sync="thread" would block this thread, which runs an event loop, and stop every task '
    "there: decorate an `async def`, or write `await policy.acall(...)`"
)


def _sync(value: Any) -> Literal["thread", "deadline"] | None:
    if value not in (None, "thread", "deadline"):
        raise ValueError(f'sync must be "thread", "deadline" or None, not {value!r}')
    found: Literal["thread", "deadline"] | None = value
    return found


def _first(record: Deadline) -> Deadline:
    """Of `record` and those around it, the one that runs out first."""
    limit = nearest()
    return limit if limit is not None and limit.at < record.at else record


def _in_the_name_of(record: Deadline) -> CallTimeoutError:
    """The error of an enclosing timeout, which will tell of it when it sees it pass."""
    record.blamed = True
    return CallTimeoutError(policy=record.policy, seconds=record.seconds)


class TimeoutGuard:
    """One block under a timeout."""

    __slots__ = ("_block", "_call", "_policy", "_record", "_used")

    def __init__(self, policy: Timeout, call: Call) -> None:
        self._policy = policy
        self._call = call
        self._used = False
        self._record: Deadline | None = None
        self._block: TaskBlock | ScopedBlock | None = None

    def _use(self) -> None:
        if self._used:
            raise RuntimeError("a guard serves one block: call guard() for each")
        self._used = True

    def __enter__(self) -> TimeoutGuard:
        if self._policy.sync != "deadline":
            raise TypeError(
                "a plain `with` cannot be interrupted: write `async with timeout.guard()`, or "
                'Timeout(..., sync="deadline"), whose time the block reads from remaining()'
            )
        self._use()
        if not modes.passthrough:
            record = self._record = self._policy._record(clock.now(), Deadline)
            self._call.entered = True
            try:
                current.set(record)
            except BaseException:  # an interrupt, after the set
                record.ended = True
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._record is not None:
            self._policy._left(self._record, self._call, error)

    async def __aenter__(self) -> TimeoutGuard:
        self._use()
        if not modes.passthrough:
            self._block = open_block(self._policy, self._call)
            self._call.entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._block is not None:
            self._block.exit(error)


class _Steps:
    """A deadline in force during the steps of one generator, and not for its consumer.

    The time runs from the first step on. A step that has begun is not interrupted; what it
    gives is kept, and the next one is refused.
    """

    __slots__ = ("_call", "_policy", "_record")

    def __init__(self, policy: Timeout, call: Call) -> None:
        self._policy = policy
        self._call = call
        self._record: Deadline | None = None

    def __enter__(self) -> None:
        """Nothing begins before the first step."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._record is not None:
            self._record.ended = True
            self._policy._noticed(self._record, self._call, error)

    def begin_step(self) -> None:
        now = clock.now()
        record = self._record
        if record is None:
            record = self._record = self._policy._record(now, Deadline)
        elif record.at <= now:
            raise self._policy._timed_out(self._call)
        else:
            record.parent = self._policy._enclosing(now)
        current.set(record)

    def end_step(self) -> None:
        record = self._record
        if record is not None and current.get() is record:
            current.set(record.parent)
            if clock.now() > record.at and not record.blamed:
                policy = self._policy
                _observe.emit(policy, CallOverran, self._call.function, seconds=policy.seconds)


class _Step:
    """One step of `_Steps`."""

    __slots__ = ("_steps",)

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __enter__(self) -> None:
        self._steps.begin_step()

    def __exit__(self, *exc: object) -> None:
        self._steps.end_step()
