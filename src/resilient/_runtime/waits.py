"""Waiting for time to pass, in each colour.

What waits is read through this module each time: `resilient.testing` exchanges it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import anyio

# Blocks this thread for some seconds.
sleep = time.sleep
# Lets other tasks run for some seconds, on whichever event loop is running.
asleep = anyio.sleep


def acquire(lock: threading.Lock, timeout: float | None) -> bool:
    """Block this thread until another releases `lock`; false after `timeout` seconds."""
    if timeout is None:
        return lock.acquire()
    return lock.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX)))


def in_event_loop() -> bool:
    """Whether this thread is running an event loop, which blocking would stop."""
    return asyncio._get_running_loop() is not None or in_trio()


def in_trio() -> bool:
    """Whether a task of trio is running here, also where trio is asyncio's guest."""
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        # Not `in_trio_task`, which came later than the trio that anyio admits.
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def is_cancellation(error: BaseException) -> bool:
    """Whether `error` is how an event loop tells a task to stop."""
    if isinstance(error, asyncio.CancelledError):
        return True
    trio = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)
