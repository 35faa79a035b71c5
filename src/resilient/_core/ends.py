"""Waiting for the last of several things to end, without a thread that waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


def after(things: Iterable[Any], fn: Callable[[], object]) -> None:
    """Call `fn`, once, when the last of `things` has ended; some may have, or all.

    A thing calls what it is given by `add_done_callback` once it has ended, in any thread.
    """
    running = list(things)
    if not running:
        fn()
        return
    # Each one that ends takes one out, and the last one finds the function: no count to
    # guard, since a pop is atomic.
    ends: deque[Callable[[], object] | None] = deque([fn, *[None] * (len(running) - 1)])

    def ended(*_: object) -> None:
        found = ends.pop()
        if found is not None:
            found()

    for thing in running:
        thing.add_done_callback(ended)


class LeftBehind:
    """A worker that nobody waits for any more, with those that it leaves behind in its turn.

    `inside` is where those are, or will be: it is read when the worker has ended.
    """

    __slots__ = ("_inside", "_run")

    def __init__(self, run: Any, inside: list[Any]) -> None:
        self._run = run
        self._inside = inside

    @property
    def done(self) -> bool:
        """Whether all of them have really ended."""
        return self._run.done and all(one.done for one in self._inside)

    def add_done_callback(self, fn: Callable[[], object]) -> None:
        """Call `fn` when all of them have really ended."""
        self._run.add_done_callback(lambda: after(self._inside, fn))
