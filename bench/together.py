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
    """Nanoseconds of CPU per call, with all of them in flight at once."""
    gate.clear()
    started = time.process_time_ns()
    tasks = [asyncio.ensure_future(call(1)) for _ in range(FLIGHT)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    return (time.process_time_ns() - started) / FLIGHT


async def _rounds(count: int) -> dict[str, list[float]]:
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
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(count):
        order = list(subjects)
        random.shuffle(order)
        for name in order:
            times[name].append(await _in_flight(subjects[name], gate))
    return times


def in_flight() -> list[Table]:
    """Five thousand calls at once, each waiting for the same moment.

    Once without the cyclic garbage collector, and once with it: it looks at everything that
    is in flight, over and over, whoever made it. Its full collections come when they want to,
    so that with it the mean counts, which shares them out, and not the median.
    """
    gc.disable()
    try:
        without = asyncio.run(_rounds(21))
    finally:
        gc.enable()
    with_it = asyncio.run(_rounds(40))
    return [
        _flight_table("collector off", {n: statistics.median(t) for n, t in without.items()}),
        _flight_table("collector on", {n: statistics.fmean(t) for n, t in with_it.items()}),
    ]


def _flight_table(how: str, found: dict[str, float]) -> Table:
    bare = found.pop("bare")
    added = {name: max(1.0, ns - bare) for name, ns in found.items()}
    timeout = added["resilient, timeout"] / added["asyncio.timeout"]
    five = added["resilient, five policies"] / added["by hand: loop, semaphore, timeout"]
    return Table(
        f"async: {FLIGHT} calls in flight, {how}",
        [Row(name, ns) for name, ns in added.items()],
        [
            Bar("timeout, of asyncio.timeout", timeout, 0.75),
            Bar("five policies, of the code by hand", five, 1.2),
        ],
    )
