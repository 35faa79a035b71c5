"""What holds a call's permits after the call: an answer whose body is still to come."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from resilient._call import Call

T = TypeVar("T")


class _Watch(weakref.ref[Any]):
    """Drops a hold when what was watched is collected."""

    __slots__ = ("hold",)
    hold: Hold


# Holds of answers that are still open. What dies with an answer in a cycle has lost its weak
# references by then, and a permit is one: so it is kept out of the cycle, and dies alone.
_live: dict[int, _Watch] = {}


def _collected(watch: _Watch) -> None:
    _live.pop(id(watch), None)


def taken(take: Callable[[], T]) -> Iterator[T]:
    """What `take`, the pop of a list or a deque, still gives; others may be taking too."""
    while True:
        try:
            found = take()
        except IndexError:
            return
        yield found


class Hold:
    """Ends when an answer's body has been read, or the answer is closed.

    A bulkhead further out takes it for a worker that was left behind, and keeps its permit
    until then. An answer that nobody closes gives the permit back when it is collected.
    """

    __slots__ = ("_callbacks", "_watch", "done")

    def __init__(self) -> None:
        # No lock: it may end in a finalizer, which may strike where this thread holds it.
        self._callbacks: deque[Callable[[], object]] = deque()
        self._watch = 0
        self.done = False

    def watch(self, holder: object) -> None:
        """Do not outlive `holder`, which may be collected without having been closed."""
        watch = _Watch(holder, _collected)
        watch.hold = self
        self._watch = id(watch)
        _live[self._watch] = watch

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` when it ends, or now if it has ended."""
        self._callbacks.append(callback)
        if self.done:
            self.end()

    def end(self) -> None:
        """Nothing is left to read. Only the first time counts."""
        self.done = True
        watch, self._watch = self._watch, 0
        _live.pop(watch, None)
        for callback in taken(self._callbacks.popleft):
            callback()

    def of(self, call: Call) -> None:
        """Tell the policies around this attempt, and around the whole call."""
        link: Call | None = call
        while link is not None:
            if link.abandoned is None:
                link.abandoned = []
            link.abandoned.append(self)
            link = link.parent
