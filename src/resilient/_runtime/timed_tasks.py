"""A timeout's asynchronous half: calls, blocks and the steps of generators, cancelled in time.

On asyncio it goes by the shared timers, on any other backend by a cancel scope. What holds
for `asyncio.timeout` holds here too: the number of cancellations asked of the task at entry
tells the timeout's own from the caller's; the own one is taken back on every exit, also when
the body swallowed it; and a `CallTimeoutError` is raised only if nobody else has cancelled.

The `CancelledError` stays as the cause of the `CallTimeoutError`: its traceback is the only
thing that says which line was waiting when the time ran out.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, _get_running_loop, current_task
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio

from resilient._call import AsyncCall, Call
from resilient._core import clock
from resilient._core.deadline import Deadline, current, leave
from resilient._runtime.timers import Queues, TaskDeadline, unlink

if TYPE_CHECKING:
    from resilient.timeout import Timeout


class ScopeDeadline(Deadline):
    """A deadline that a cancel scope enforces."""

    __slots__ = ("scope",)

    def __init__(self, at: float, parent: Deadline | None, policy: str, seconds: float) -> None:
        self.scope: anyio.CancelScope | None = None
        super().__init__(at, parent, policy, seconds)

    @property
    def expired(self) -> bool:
        """Whether the scope has told its body to stop."""
        return self.scope is not None and self.scope.cancel_called

    @expired.setter
    def expired(self, value: bool) -> None:
        """The base's constructor says that nothing has happened yet."""


def task_here() -> asyncio.Task[Any] | None:
    """The running asyncio task; `None` on another backend, also where asyncio is its host."""
    loop = _get_running_loop()
    return None if loop is None else current_task(loop)


def bounded(policy: Timeout, queues: Queues, inner: AsyncCall[Any]) -> AsyncCall[Any]:
    """Return `inner` under the time of `policy`."""
    seconds = policy.seconds

    # `begin` and the good half of `end`, written out: each call of them would cost 100 ns.
    async def timeout(args: Any, kwargs: Any, call: Call) -> Any:
        loop = _get_running_loop()
        task = None if loop is None else current_task(loop)
        if task is None:
            return await _scoped(policy, inner, args, kwargs, call)
        now = clock.now()
        outer = current.get()
        if outer is not None:
            # Most often it is the one that the last call in this task has left there.
            outer = None if outer.ended and outer.parent is None else policy._enclosing(now)
        queue = queues.queue
        if queue.loop() is not loop:
            queue = queues.of(task.get_loop())
        record = TaskDeadline()
        record.at = now + seconds
        record.parent = outer
        record.policy = policy._name or "timeout"
        record.seconds = seconds
        record.ended = record.expired = record.blamed = False
        record.task = task
        record.cancelling = task.cancelling()
        record.before = last = queue.before
        record.after = queue
        last.after = queue.before = record
        if not queue.armed:
            queue.arm(record)
        current.set(record)
        try:
            result = await inner(args, kwargs, call)
        except BaseException as error:
            end(policy, record, call, error)
            raise
        # An ended record says nothing. Taking it out of the context as well would cost two
        # allocations, so that is done only to put another one back.
        record.ended = True
        if outer is not None:
            current.set(outer)
        record.task = None
        if record.expired:
            task.uncancel()
            return result
        last = record.before
        last.after = after = record.after
        after.before = last
        record.before = record.after = None
        return result

    return timeout


def begin(policy: Timeout, queues: Queues, task: asyncio.Task[Any]) -> TaskDeadline:
    """Put a deadline for `task` in force.

    Raises:
        CallTimeoutError: The time of an enclosing timeout is up.
    """
    record: TaskDeadline = policy._record(clock.now(), _unlinked)
    record.task = task
    record.cancelling = task.cancelling()
    queues.of(task.get_loop()).append(record)
    current.set(record)
    return record


def _unlinked(at: float, parent: Deadline | None, policy: str, seconds: float) -> TaskDeadline:
    record: TaskDeadline = TaskDeadline()
    Deadline.__init__(record, at, parent, policy, seconds)
    return record


def end(policy: Timeout, record: TaskDeadline, call: Call, error: BaseException | None) -> None:
    """Take the deadline out of force.

    Raises:
        CallTimeoutError: It is what has cancelled the body.
    """
    leave(record)
    unlink(record)
    task, record.task = record.task, None
    if record.expired and task is not None:
        _uncancel(policy, task, record.cancelling, call, error)
    policy._noticed(record, call, error)


def _uncancel(
    policy: Timeout,
    task: asyncio.Task[Any],
    cancelling: int,
    call: Call,
    error: BaseException | None,
) -> None:
    """Take the timer's cancellation back; raise the error if it was the only one."""
    alone = task.uncancel() <= cancelling
    if alone and isinstance(error, CancelledError):
        raise policy._timed_out(call) from error


async def _scoped(
    policy: Timeout, inner: AsyncCall[Any], args: Any, kwargs: Any, call: Call
) -> Any:
    """One call on a backend other than asyncio."""
    block = ScopedBlock(policy, call)
    try:
        result = await inner(args, kwargs, call)
    except BaseException as error:
        block.exit(error)
        raise
    block.exit(None)
    return result


def open_block(policy: Timeout, call: Call) -> TaskBlock | ScopedBlock:
    """Enter a block under the time of `policy`; it is left by `exit(error)`."""
    task = task_here()
    return ScopedBlock(policy, call) if task is None else TaskBlock(policy, call, task)


class TaskBlock:
    """A block of an asyncio task, under a timeout."""

    def __init__(self, policy: Timeout, call: Call, task: asyncio.Task[Any]) -> None:
        self._policy = policy
        self._call = call
        self._record = begin(policy, policy._queues, task)

    def exit(self, error: BaseException | None) -> None:
        """Leave the block; see `end`."""
        end(self._policy, self._record, self._call, error)


class ScopedBlock:
    """A block under a timeout, on a backend other than asyncio."""

    def __init__(self, policy: Timeout, call: Call) -> None:
        self._policy = policy
        self._call = call
        self._record = policy._record(clock.now(), ScopeDeadline)
        self._record.scope = anyio.move_on_after(policy.seconds)
        self._record.scope.__enter__()
        current.set(self._record)

    def exit(self, error: BaseException | None) -> None:
        """Leave the block; see `end`. A cancellation that is not the scope's own passes."""
        leave(self._record)
        if _left(self._record.scope, error):
            raise self._policy._timed_out(self._call) from error
        self._policy._noticed(self._record, self._call, error)


def _left(scope: Any, error: BaseException | None) -> bool:
    """Leave `scope`; return whether `error` was its own doing."""
    if error is None:
        # Trio's answer is true here as well.
        scope.__exit__(None, None, None)
        return False
    return bool(scope.__exit__(type(error), error, error.__traceback__))


class Steps:
    """A timeout around the steps of one asynchronous generator, and not around its consumer.

    The time runs from the first step on, also while the consumer works, but it cancels only
    what happens inside a step. On asyncio one entry stays in the queue of the first step's
    loop; between the steps there is no task in it to cancel.
    """

    def __init__(self, policy: Timeout, call: Call) -> None:
        self._policy = policy
        self._call = call
        self._record: Deadline | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scope: anyio.CancelScope | None = None

    async def __aenter__(self) -> None:
        """Nothing begins before the first step."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        record = self._record
        if record is not None:
            record.ended = True
            if isinstance(record, TaskDeadline):
                unlink(record)
            self._policy._noticed(record, self._call, error)

    def step(self) -> _Step:
        """Return the block to run one step in."""
        return _Step(self)

    def begin_step(self) -> None:
        """Put the deadline in force.

        Raises:
            CallTimeoutError: It has passed while the consumer was at work.
        """
        task = task_here()
        if self._record is not None:
            self._resume(self._record, task)
        elif task is not None:
            self._record = begin(self._policy, self._policy._queues, task)
            self._loop = task.get_loop()
        else:
            self._record = self._policy._record(clock.now(), Deadline)
            self._enter_scope(self._record)

    def _resume(self, record: Deadline, task: asyncio.Task[Any] | None) -> None:
        now = clock.now()
        if record.expired or record.at <= now:
            raise self._policy._timed_out(self._call)
        record.parent = self._policy._enclosing(now)
        if task is not None and isinstance(record, TaskDeadline) and task.get_loop() is self._loop:
            record.task = task
            record.cancelling = task.cancelling()
            current.set(record)
        else:
            self._enter_scope(record)

    def _enter_scope(self, record: Deadline) -> None:
        left = max(0.0, record.at - clock.now())
        self._scope = anyio.move_on_after(left)
        self._scope.__enter__()
        current.set(record)

    def end_step(self, error: BaseException | None) -> None:
        """Take the deadline out of force until the next step.

        Raises:
            CallTimeoutError: It is what has cancelled the step.
        """
        record: Any = self._record
        if current.get() is record:
            current.set(record.parent)  # type: ignore[union-attr]
        scope, self._scope = self._scope, None
        if scope is not None:
            if _left(scope, error):
                raise self._policy._timed_out(self._call) from error
            return
        task, record.task = record.task, None
        if record.expired:
            _uncancel(self._policy, task, record.cancelling, self._call, error)


class _Step:
    """One step of `Steps`."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def __aenter__(self) -> None:
        self._steps.begin_step()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._steps.end_step(error)
