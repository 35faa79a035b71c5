"""Whether any thread runs code just now: while one does, a virtual clock stands still.

Threads that wait on the virtual clock say so themselves. Of the others, those count that
were started after the clock was put in place, the one that put it there, and whichever has
waited on it since. A thread that waits for something real does not run code: for another
thread to end, an event, a queue, a job, a connection. Where the standard library waits in
Python, the frame it waits in shows it, and what it waits for shows whether it still does.
Elsewhere (a bare lock, a read, `time.sleep`) a thread counts as running until it has not
moved for `PATIENCE`.
"""

from __future__ import annotations

import gc
import selectors
import sys
import threading
import time
from collections.abc import Callable, Container, Mapping
from types import FrameType
from typing import Any

from resilient._runtime import submissions

# Real seconds after which a thread that has not moved is taken to be blocked.
PATIENCE = 1.0
# The library's own threads; `workers.running` says what they do.
_WORKER = "resilient-worker"
# Trio's threads when they have nothing to do: what they get next may come from anywhere.
_IDLE_OF_TRIO = "Trio thread "

Names = Mapping[str, Any]
Idents = Container[int | None]


class Threads:
    """The threads of this process, as seen by one virtual clock. Not locked: its owner is."""

    def __init__(self) -> None:
        self._outside = {
            thread.ident: thread
            for thread in threading.enumerate()
            if thread.ident != threading.get_ident() and not thread.name.startswith(_IDLE_OF_TRIO)
        }
        # Where a thread was seen that could not be judged, and since when.
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}

    def join(self, ident: int) -> None:
        """Count a thread that was there before: it takes part."""
        self._outside.pop(ident, None)

    def any_running(self, waiting: Container[int]) -> bool:
        """Whether a thread that takes part runs code, other than this and the `waiting`."""
        # The frames come first: a thread that starts or ends meanwhile counts as running.
        frames, alive = _other_frames()
        known = {thread.ident: thread for thread in threading.enumerate()}
        judged = {
            ident: (frame, frame.f_lasti)
            for ident, frame in frames.items()
            if ident not in waiting and self._takes_part(ident, known.get(ident))
        }
        return (
            any(self._starts(thread, alive) for thread in known.values())
            or any(self._runs(ident, frame, alive) for ident, (frame, _) in judged.items())
            or (bool(judged) and _has_moved(judged))
        )

    def _starts(self, thread: threading.Thread, alive: Idents) -> bool:
        if isinstance(thread, threading._DummyThread):
            return False
        return thread.ident not in alive and self._takes_part(thread.ident, thread)

    def _takes_part(self, ident: int | None, thread: threading.Thread | None) -> bool:
        if thread is not None and is_worker(thread):
            return False  # the workers are counted by what they run
        before = self._outside.get(ident)
        if before is None or not before.is_alive():
            return True  # identifiers are used again
        return thread is not None and thread is not before

    def _runs(self, ident: int, frame: FrameType, alive: Idents) -> bool:
        if _is_blocked(frame, alive):
            self._seen.pop(ident, None)
            return False
        place, now = (id(frame), frame.f_lasti), time.monotonic()
        seen_at, since = self._seen.get(ident, (None, now))
        if seen_at != place:
            since = now
        self._seen[ident] = place, since
        return now - since < PATIENCE


def is_worker(thread: threading.Thread) -> bool:
    """Whether `thread` is one of the library's own."""
    return thread.name == _WORKER


def _other_frames() -> tuple[dict[int, FrameType], Idents]:
    """Where each thread but this one is, and which are alive."""
    # Up to 3.11.7 a collection inside would deadlock: the interpreter holds a lock there that
    # the start of a thread needs (CPython issue 106883).
    collecting = gc.isenabled()
    gc.disable()
    try:
        frames = sys._current_frames()
    finally:
        (gc.enable if collecting else gc.disable)()
    alive = set(frames)
    # A frame that is found in its own locals is garbage that only a collection frees.
    del frames[threading.get_ident()]
    return frames, alive


def _has_moved(judged: Mapping[int, tuple[FrameType, int]]) -> bool:
    """Whether a thread has gone on while it was judged: the judgement may be about before."""
    frames, _ = _other_frames()
    return any(
        frames.get(ident) is not frame or frame.f_lasti != place
        for ident, (frame, place) in judged.items()
    )


def _is_blocked(frame: FrameType, alive: Idents) -> bool:
    rule = _RULES.get((frame.f_globals.get("__name__"), frame.f_code.co_name))
    try:
        return rule is not None and rule(frame.f_locals, alive)
    except (AttributeError, KeyError, OSError, ValueError):
        # It has gone on, or closed what it waited on, or a later Python calls it otherwise.
        return False


# A lock cannot be asked: it is taken again, without the GIL, before the thread that has waited
# for it can run. So each rule looks at what the one that wakes the thread has left behind.


def _waits_for_notice(names: Names, alive: Idents) -> bool:
    """In `Condition.wait`, which events, queues, futures and barriers use too."""
    return "waiter" in names and names["waiter"] in names["self"]._waiters


def _waits_for_end(names: Names, alive: Idents) -> bool:
    """In `Thread.join`."""
    return names["self"].ident in alive


def _waits_for_work(names: Names, alive: Idents) -> bool:
    """In the loop of a `ThreadPoolExecutor`'s thread, which deletes what it has done."""
    pool = names["executor_reference"]()
    return (
        "work_item" not in names
        and names["work_queue"].empty()
        # A pool that is gone, or shut down, has told its threads to end.
        and pool is not None
        and not pool._shutdown
        and not submissions.any_waiting(pool)
    )


def _waits_for_job(names: Names, alive: Idents) -> bool:
    """In the loop of one of trio's threads."""
    return names["self"]._job is None


def _waits_for_io(names: Names, alive: Idents) -> bool:
    """In a selector, unless it only looks, or has found something."""
    return names.get("timeout") != 0 and not names["self"].select(0)


def _waits_for_connection(names: Names, alive: Idents) -> bool:
    """In `socket.accept`."""
    with selectors.DefaultSelector() as selector:
        selector.register(names["self"], selectors.EVENT_READ)
        return not selector.select(0)


_RULES: dict[tuple[Any, str], Callable[[Names, Idents], bool]] = {
    ("threading", "wait"): _waits_for_notice,
    ("threading", "_wait_for_tstate_lock"): _waits_for_end,  # before 3.13
    ("threading", "join"): _waits_for_end,
    ("concurrent.futures.thread", "_worker"): _waits_for_work,
    ("trio._core._thread_cache", "_work"): _waits_for_job,
    ("selectors", "select"): _waits_for_io,
    ("socket", "accept"): _waits_for_connection,
}
