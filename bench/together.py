"""Many calls at once: threads on one pipeline, and thousands of coroutines in flight."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import repeat
from typing import Any

import resilient as r
from bench import subjects as s
from bench.harness import Bar, Row, Table

THREADS = 8
FLIGHT = 5000


def _cpu_per_call(protected: Callable[[int], Any], threads: int, calls: int) -> float:
    """Nanoseconds of CPU per call, with the calls spread over `threads`."""

    def run() -> None:
        for _ in repeat(None, calls // threads):
            protected(1)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    gc.collect()
    started = time.process_time_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.process_time_ns() - started) / calls


def threads() -> Table:
    """Eight threads through one pipeline, against one thread."""
    protected = s.four()(s.bare)
    rounds = [
        (_cpu_per_call(protected, 1, 40_000), _cpu_per_call(protected, THREADS, 40_000))
        for _ in range(11)
    ]
    one = statistics.median(first for first, _ in rounds)
    many = statistics.median(second for _, second in rounds)
    return Table(
        "sync: CPU per call, four policies, one pipeline",
        [Row("1 thread", one), Row(f"{THREADS} threads", many, f"{many / one:.2f}x")],
        [Bar("of one thread", many / one, 1.5)],
    )


async def _in_flight(call: Callable[[int], Awaitable[Any]], gate: asyncio.Event) -> float:
    """Nanoseconds of CPU per call, with all of them in flight at once.

    The collector runs when it wants to, and the mean of many rounds shares out its full
    collections: started anew for each round, it would hit those that come to its limit.
    """
    gate.clear()
    started = time.process_time_ns()
    tasks = [asyncio.ensure_future(call(1)) for _ in range(FLIGHT)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    return (time.process_time_ns() - started) / FLIGHT


def in_flight() -> Table:
    """Five thousand calls at once, each waiting for the same moment."""
    times: dict[str, list[float]] = {}

    async def main() -> None:
        gate = asyncio.Event()

        async def waits(x: int) -> int:
            await gate.wait()
            return x

        async def with_timeout(x: int) -> int:
            async with asyncio.timeout(30):
                return await waits(x)

        subjects = {
            "bare": waits,
            "asyncio.timeout": with_timeout,
            "resilient, timeout": r.Timeout(30)(waits),
            "by hand: loop, semaphore, timeout": s.by_hand(waits, limit=10_000),
            "resilient, five policies": s.five()(waits),
        }
        for _ in range(40):
            order = list(subjects)
            random.shuffle(order)
            for name in order:
                times.setdefault(name, []).append(await _in_flight(subjects[name], gate))

    asyncio.run(main())
    found = {name: statistics.fmean(each) for name, each in times.items()}
    bare = found.pop("bare")
    added = {name: max(1.0, ns - bare) for name, ns in found.items()}
    return Table(
        f"async: {FLIGHT} calls in flight",
        [Row(name, ns) for name, ns in added.items()],
        [
            Bar(
                "timeout, of asyncio.timeout",
                added["resilient, timeout"] / added["asyncio.timeout"],
                0.75,
            ),
            Bar(
                "five policies, of the code by hand",
                added["resilient, five policies"] / added["by hand: loop, semaphore, timeout"],
                1.2,
            ),
        ],
    )
