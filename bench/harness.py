"""Interleaved measurement: all subjects in one process, round by round, in random order.

These machines are noisy, so that only ratios within one run mean anything. Each round times
every subject once; a subject's figure is the median over the rounds. What a call adds is its
time less that of the bare function, measured in the same rounds. Time is the process's CPU
time, since nothing here waits: what else the machine does counts less.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import repeat

Sync = Callable[[int], object]
Async = Callable[[int], Awaitable[object]]


@dataclass
class Row:
    """One line of a table: nanoseconds per call, and what they are held against."""

    label: str
    ns: float
    note: str = ""


@dataclass
class Bar:
    """A promise: `value` must not be above `limit`."""

    text: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        return self.value <= self.limit


@dataclass
class Table:
    """One section of the report."""

    title: str
    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    column: str = "added"


def time_sync(fn: Sync, calls: int) -> float:
    """Nanoseconds per call of `fn(1)`."""
    gc.collect()
    started = time.process_time_ns()
    for _ in repeat(None, calls):
        fn(1)
    return (time.process_time_ns() - started) / calls


async def time_async(fn: Async, calls: int) -> float:
    """Nanoseconds per call of `await fn(1)`."""
    gc.collect()
    started = time.process_time_ns()
    for _ in repeat(None, calls):
        await fn(1)
    return (time.process_time_ns() - started) / calls


def added_sync(
    subjects: dict[str, Sync], bare: Sync, *, calls: int = 2000, rounds: int = 41
) -> dict[str, float]:
    """What each subject adds to a call of `bare`, in nanoseconds."""
    everyone = {"bare": bare, **subjects}
    times: dict[str, list[float]] = {name: [] for name in everyone}
    for _ in range(rounds):
        for name in _shuffled(everyone):
            fewer = calls // 10 if name in _SLOW else calls
            times[name].append(time_sync(everyone[name], fewer))
    return _added(times)


def added_async(
    subjects: dict[str, Async], bare: Async, *, calls: int = 2000, rounds: int = 41
) -> dict[str, float]:
    """What each subject adds to an awaited call of `bare`, in nanoseconds."""

    async def main() -> dict[str, list[float]]:
        everyone = {"bare": bare, **subjects}
        times: dict[str, list[float]] = {name: [] for name in everyone}
        for _ in range(rounds):
            for name in _shuffled(everyone):
                fewer = calls // 10 if name in _SLOW else calls
                times[name].append(await time_async(everyone[name], fewer))
        return times

    return _added(asyncio.run(main()))


# Subjects so slow that a tenth of the calls measures them as well.
_SLOW = {"tenacity", "stamina"}


def _shuffled(names: dict[str, object]) -> list[str]:
    order = list(names)
    random.shuffle(order)
    return order


def _added(times: dict[str, list[float]]) -> dict[str, float]:
    bare = statistics.median(times.pop("bare"))
    return {name: max(1.0, statistics.median(found) - bare) for name, found in times.items()}
