"""What holds a call's permits after the call: an answer whose body is still to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from resilient._call import Call


class Hold:
    """Ends when an answer's body has been read, or the answer is closed.

    A bulkhead further out takes it for a worker that was left behind, and keeps its permit
    until then. An answer that nobody closes gives the permit back when it is collected.
    """

    __slots__ = ("_callbacks", "done")

    def __init__(self) -> None:
        # No lock: it may end in a finalizer, which may strike where this thread holds it.
        self._callbacks: deque[Callable[[], object]] = deque()
        self.done = False

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` when it ends, or now if it has ended."""
        self._callbacks.append(callback)
        if self.done:
            self.end()

    def end(self) -> None:
        """Nothing is left to read. Only the first time counts."""
        self.done = True
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:
                return  # another thread is at it
            callback()

    def of(self, call: Call) -> None:
        """Tell the policies around this attempt, and around the whole call."""
        link: Call | None = call
        while link is not None:
            if link.abandoned is None:
                link.abandoned = []
            link.abandoned.append(self)
            link = link.parent
