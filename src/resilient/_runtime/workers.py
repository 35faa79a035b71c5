"""Worker threads for sync code that may have to be left behind.

`Workers` belongs to one policy and has at most `limit` threads. There is no queue: a call
gets an idle worker (the one used last), or a new one, or none. The threads are daemons that
nobody joins, so that interpreter exit never waits for an abandoned call; the standard
library's pools do wait for theirs.

How a policy uses it::

    run = workers.start(function, *args)     # a Run; None: every worker is taken
    if run is None:
        ...                                  # refuse the call
    try:
        finished = run.wait(seconds)         # `None` waits for good
    except BaseException:                    # Ctrl-C
        run.abandon()
        raise
    if finished or not run.abandon():
        return run.outcome()                 # returns or raises what the function did

Several runs are awaited together through `run.add_done_callback(lock.release)`.

Most of it needs no lock because `append`, `pop` and `remove` of a deque, and `add` and
`discard` of a set, are atomic: by the GIL, and by their own locks where there is none.
"""

from __future__ import annotations

import logging
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from resilient._core.living import forkable
from resilient._runtime import waits

THREAD_NAME = "resilient-worker"

_log = logging.getLogger("resilient")

# Seconds after which a worker without work ends.
idle_seconds = 1.0

# The runs that are under way in all pools, abandoned ones among them. A run is here from
# before its worker is woken until after its result has been handed over, so that a clock
# which stands still while there are any cannot overtake a waiting caller.
running: set[Run] = set()
# Called, in the worker's thread, each time a run has left `running`.
on_idle: Callable[[], object] | None = None


class Run:
    """One function under way in a worker.

    Attributes:
        done: Whether the function has really ended, abandoned or not.
        abandoned: Whether nobody waits for it any more; what it comes to is dropped.
    """

    __slots__ = ("__weakref__", "_args", "_callbacks", "_context", "_error", "_finished", "_fn",
                 "_result", "abandoned", "done")  # fmt: skip

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], context: Context) -> None:
        self._fn: Callable[..., Any] | None = fn
        self._args = args
        self._context: Context | None = context
        self._callbacks: list[Callable[[], object]] = []
        # Held until the function has ended.
        self._finished: LockType = allocate_lock()
        self._finished.acquire()
        self._result: Any = None
        self._error: BaseException | None = None
        self.done = False
        self.abandoned = False

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the function has ended, at most so many seconds; return whether it has.

        Only one thread may wait, and only until this has returned true.
        """
        return waits.acquire(self._finished, seconds)

    def outcome(self) -> Any:
        """Return or raise, once, what the function returned or raised."""
        if self._error is None:
            result, self._result = self._result, None
            return result
        error, self._error = self._error, None
        try:
            raise error
        finally:
            # The traceback holds this frame: it must not hold the error in turn.
            del error

    def abandon(self) -> bool:
        """Stop waiting, and drop what the function comes to; false if it has ended just now.

        When it has, ask for its outcome.
        """
        if self._finished.acquire(False):
            return False
        # Here `abandoned` is set and `done` is read, in the worker it is the other way round:
        # one of the two sees the other, and drops the result.
        self.abandoned = True
        if self.done:
            self._drop()
        return True

    def _drop(self) -> None:
        self._result = self._error = None

    def add_done_callback(self, fn: Callable[[], object]) -> None:
        """Call `fn` when the function has really ended: in its worker, or now if it has.

        It must be short: the worker's next caller may be waiting already.
        """
        self._callbacks.append(fn)
        if self.done:
            self._call_back()

    def _call_back(self) -> None:
        callbacks = self._callbacks
        while callbacks:
            try:
                fn = callbacks.pop()
            except IndexError:  # another thread was faster
                return
            try:
                fn()
            except Exception:
                # The worker lives on: others depend on it.
                _log.exception("a callback of an ended run failed")

    def _execute(self) -> None:
        """Run the function; what holds its arguments is let go of before the caller wakes."""
        context, fn, args = self._context, self._fn, self._args
        self._context, self._fn, self._args = None, None, ()
        if self.abandoned:  # before it began
            return
        try:
            self._result = context.run(fn, *args)  # type: ignore[union-attr, arg-type]
        except BaseException as error:
            # Without this frame, which says nothing to the reader. (A local variable for the
            # traceback would make a cycle, since the traceback holds the frame.)
            self._error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)

    def _hand_over(self) -> None:
        self.done = True
        if self._callbacks:
            self._call_back()
        self._finished.release()
        if self.abandoned:
            self._drop()


class _Shop:
    """What a pool and its workers share. They do not know the pool, so that it can die."""

    __slots__ = ("closed", "idle", "lock", "tokens")

    def __init__(self, limit: int) -> None:
        self.closed = False
        # Taken to start or to end a thread, not to hand a run to an idle worker.
        self.lock = threading.Lock()
        self.idle: deque[_Worker] = deque()
        # One for each thread that may still be started.
        self.tokens: deque[None] = deque([None] * limit)


class _Worker:
    """One thread, as its pool sees it."""

    __slots__ = ("_counted", "_shop", "run", "wake")

    def __init__(self, shop: _Shop, run: Run) -> None:
        self._shop = shop
        self._counted = True
        self.run: Run | None = run
        # Held while there is nothing to do.
        self.wake: LockType = allocate_lock()
        self.wake.acquire()

    def __del__(self) -> None:
        # The thread has died, or Ctrl-C came before it was started.
        self._give_back()

    def _give_back(self) -> None:
        if self._counted:
            self._counted = False
            self._shop.tokens.append(None)

    def serve(self) -> None:
        """Run what comes, until nothing has come for a while."""
        while self.run is not None:
            self._work(self.run)
            if self._shop.closed:
                return
            if not self.wake.acquire(timeout=idle_seconds):
                if self._retire():
                    return
                # A caller has taken this worker just now.
                self.wake.acquire()

    def _work(self, run: Run) -> None:
        self.run = None
        run._execute()
        # Idle before the caller knows: its next call must find this worker.
        self._shop.idle.append(self)
        run._hand_over()
        running.discard(run)
        if on_idle is not None:
            on_idle()

    def _retire(self) -> bool:
        """Leave the idle ones for good; false if a caller has taken this one from them."""
        shop = self._shop
        with shop.lock:
            try:
                shop.idle.remove(self)
            except ValueError:
                return False
            self._give_back()
        return True


class Workers:
    """A pool of at most `limit` daemon threads. Its idle workers end with it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shop = _Shop(limit)
        forkable.add(self)

    def start(self, fn: Callable[..., Any], *args: Any) -> Run | None:
        """Run `fn(*args)` in a worker, in a copy of this context; `None` if all are taken."""
        run = Run(fn, args, copy_context())
        try:
            worker = self._shop.idle.pop()
        except IndexError:
            return self._start_slowly(run)
        _wake(worker, run)
        return run

    def _start_slowly(self, run: Run) -> Run | None:
        shop = self._shop
        with shop.lock:
            # A worker that ends leaves `idle` and gives its token back under this lock.
            if shop.idle:
                worker, hired = shop.idle.pop(), False
            elif shop.tokens:
                shop.tokens.pop()
                worker, hired = _Worker(shop, run), True
            else:
                return None
        if hired:
            _hire(worker, run)
        else:
            _wake(worker, run)
        return run

    def after_fork(self) -> None:
        """No worker lives on in a forked child."""
        self._shop = _Shop(self._limit)
        running.clear()

    def __del__(self) -> None:
        # May run inside any other code of this thread: it takes no lock.
        shop = self._shop
        shop.closed = True
        while shop.idle:
            try:
                shop.idle.pop().wake.release()
            except IndexError:  # a worker was faster, and ends by itself
                return


def _wake(worker: _Worker, run: Run) -> None:
    running.add(run)
    worker.run = run
    worker.wake.release()


def _hire(worker: _Worker, run: Run) -> None:
    running.add(run)
    try:
        threading.Thread(target=worker.serve, name=THREAD_NAME, daemon=True).start()
    except BaseException:
        running.discard(run)
        run.abandon()
        raise
