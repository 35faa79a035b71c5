"""Ends code of a scenario that goes round for ever without giving control back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from resilient.drill.errors import NeverEnds

# Real seconds without any progress, a six-hundredth of a run, after which it is ended.
PATIENCE: Final = 60.0


class _Stuck(SystemExit):
    """Goes through everything: an event loop keeps other exceptions in their task."""


@contextmanager
def watched(patience: float = PATIENCE) -> Iterator[Callable[[], None]]:
    """Give a function that says that there is progress; without it, the block is ended.

    Where there are no timers by signal, nothing is watched.

    Raises:
        NeverEnds: Nothing has moved for so long.
    """
    if not _can_watch():
        yield lambda: None
        return
    where: list[str] = []

    def ring(number: int, frame: FrameType | None) -> None:
        where.append(_place(frame))
        raise _Stuck

    def look() -> None:
        signal.setitimer(signal.ITIMER_REAL, patience)

    before = signal.signal(signal.SIGALRM, ring)
    rest, interval = signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        yield look
    except _Stuck:
        raise NeverEnds(
            "", f"nothing has moved for {patience:g} real seconds; it was in {where[-1]}"
        ) from None
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, rest, interval)


def _can_watch() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and hasattr(signal, "setitimer")


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "no frame"
    return f"{frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}"
