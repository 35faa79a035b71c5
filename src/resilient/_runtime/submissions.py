"""Which jobs have been given to a thread pool that none of its threads has begun.

A pool's thread that waits for work looks the same when it has been given some and has not
woken up yet: newer Pythons hand a job over past the queue. So the pool's futures are asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

from resilient._core.living import Living

_submitted: WeakKeyDictionary[ThreadPoolExecutor, Living[Future[Any]]] = WeakKeyDictionary()
_nothing: Living[Future[Any]] = Living()


def install(stack: ExitStack) -> None:
    """Remember what is submitted to any thread pool until `stack` is closed."""
    original = ThreadPoolExecutor.submit
    stack.callback(setattr, ThreadPoolExecutor, "submit", original)
    ThreadPoolExecutor.submit = _remembering(original)  # type: ignore[method-assign]
    stack.callback(_submitted.clear)


def _remembering(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(pool: ThreadPoolExecutor, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future = original(pool, fn, *args, **kwargs)
        _submitted.setdefault(pool, Living()).add(future)
        return future

    return submit


def any_waiting(pool: ThreadPoolExecutor) -> bool:
    """Whether a job of `pool` has been submitted and not begun."""
    futures = _submitted.get(pool, _nothing).all()
    return any(not (future.running() or future.done()) for future in futures)
