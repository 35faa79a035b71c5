"""Hedges and pools: what they add, and what they do for the slow tail and for an outage.

The balances and the fan-out run in virtual time with the real policies: a minute of load
takes seconds, and the same seed gives the same figures.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import asynchedging

import resilient as r
from resilient._core import clock
from resilient.testing import virtual_time

from bench import subjects as s
from bench.harness import Bar, Row, Table, added_async, added_sync

MICRO = 1e6


class Empty(r.Policy[Any, Any]):
    """A policy that does nothing: what any policy adds at least."""

    kind = "empty"

    def wrap(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def empty(args: Any, kwargs: Any, call: Any) -> Any:
            return inner(args, kwargs, call)

        return empty

    def awrap(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def empty(args: Any, kwargs: Any, call: Any) -> Any:
            return await inner(args, kwargs, call)

        return empty


async def _race_by_hand(x: int) -> int:
    """What an engineer writes: a task, a wait with a timeout, and a second task if it is late."""
    first = asyncio.create_task(s.abare(x))
    done, _ = await asyncio.wait({first}, timeout=10)
    if done:
        return first.result()
    both = {first, asyncio.create_task(s.abare(x))}
    done, late = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return done.pop().result()


async def _asynchedging(x: int) -> int:
    result, _ = await asynchedging.hedge(lambda: s.abare(x), delays_s=[10])
    return result


def hedge() -> Table:
    """A hedge whose delay never passes."""
    found = added_async(
        {
            "an empty policy": Empty()(s.abare),
            "resilient, Hedge(10)": r.Hedge(10)(s.abare),
            "by hand: task, wait, task": _race_by_hand,
            "asynchedging": _asynchedging,
        },
        s.abare,
        calls=1000,
    )
    ours = found["resilient, Hedge(10)"]
    # Again, beside nothing slow, for a ratio of small figures.
    close = {"empty": Empty()(s.abare), "hedge": r.Hedge(10)(s.abare)}
    pair = added_async(close, s.abare, rounds=81)
    return Table(
        "async: a hedge whose delay never passes",
        [Row(name, ns, f"{ns / ours:.1f}x") for name, ns in found.items()],
        [
            Bar("of an empty policy", pair["hedge"] / pair["empty"], 3),
            Bar("of the race by hand", ours / found["by hand: task, wait, task"], 1),
            Bar("of asynchedging", ours / found["asynchedging"], 1),
        ],
    )


def pools() -> Table:
    """The first member answers."""
    names = {f"m{number}": number for number in range(3)}
    spare = {"spare": 9}

    def on_member(target: int, x: int) -> int:
        return x

    found = added_sync(
        {
            "an empty policy": Empty()(s.bare),
            "circuit breaker alone": r.CircuitBreaker()(s.bare),
            "active-passive": r.ActivePassive("ap", names, on=OSError)(on_member),
            "active-active, round robin": r.ActiveActive(
                "rr", names, on=OSError, balance="round_robin"
            )(on_member),
            "active-active, ewma": r.ActiveActive("ewma", names, on=OSError)(on_member),
            "N+1, by key": r.NPlusOne("n", names, spare, on=OSError, key=str)(on_member),
        },
        s.bare,
    )
    empty = found["an empty policy"]
    return Table(
        "sync: a pool of three, the first member answers",
        [Row(name, ns, f"{ns / empty:.1f}x") for name, ns in found.items()],
    )


# Ten servers, one ten times slower.

SERVERS = 10
SERVICE = 0.010
RATE = 500
SIMULATED = 40.0


class _Queue:
    """A server that does one call after the other."""

    def __init__(self, mean: float, chance: random.Random) -> None:
        self._mean = mean
        self._chance = chance
        self._free_at = 0.0

    async def serve(self) -> None:
        now = clock.now()
        self._free_at = max(now, self._free_at) + self._chance.expovariate(1 / self._mean)
        await asyncio.sleep(self._free_at - now)


def _latencies(means: Iterable[float], balance: Any) -> list[float]:
    """How long each call took, in seconds, under the load."""
    chance = random.Random(11)
    servers = {f"s{number}": _Queue(mean, chance) for number, mean in enumerate(means)}
    pool = r.ActiveActive(balance, servers, on=OSError, balance=balance)
    took: list[float] = []

    @pool
    async def call(server: _Queue) -> None:
        await server.serve()

    async def timed() -> None:
        started = clock.now()
        await call()
        took.append(clock.now() - started)

    async def load() -> None:
        end = clock.now() + SIMULATED
        async with asyncio.TaskGroup() as calls:
            while clock.now() < end:
                calls.create_task(timed())
                await asyncio.sleep(chance.expovariate(RATE))

    with virtual_time(seed=11):
        asyncio.run(load())
    return took


def _quantile(values: list[float], share: float) -> float:
    """The value that `share` of all are not above."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def balances() -> Table:
    """The 99th percentile by balance, with a server that is ten times slower."""
    means = [SERVICE] * (SERVERS - 1)
    slow = [*means, SERVICE * 10]
    names = ("random", "round_robin", "least_loaded", "ewma")
    found = {name: _quantile(_latencies(slow, name), 0.99) for name in names}
    healthy = _quantile(_latencies(means, "least_loaded"), 0.99)
    rows = [Row(name, p99 * MICRO, f"{p99 / healthy:.1f}x") for name, p99 in found.items()]
    return Table(
        "p99 in µs: ten servers of 10 ms, one of them 100 ms, 500 calls/s for 40 s",
        [*rows, Row("least_loaded, the nine healthy ones alone", healthy * MICRO)],
        [Bar("ewma, of the nine healthy ones", found["ewma"] / healthy, 1.5)],
        column="µs",
    )


# A fan-out to a hundred servers.

FAN_OUT = 100
REQUESTS = 3000
MEDIAN, SIGMA = 0.003, 0.45
STALLS, STALL_FROM, STALL_TO = 0.002, 0.1, 2.0
DELAY = 0.010


def _survival(t: float) -> float:
    """The share of single attempts that take longer than `t` seconds."""
    if t <= 0:
        return 1.0
    body = 0.5 * math.erfc(math.log(t / MEDIAN) / (SIGMA * math.sqrt(2)))
    stall = min(1.0, max(0.0, (STALL_TO - t) / (STALL_TO - STALL_FROM)))
    return (1 - STALLS) * body + STALLS * stall


def _all_within(survival: Callable[[float], float], share: float) -> float:
    """The time within which all of a fan-out have answered, in `share` of the fan-outs."""
    low, high = 0.0, STALL_TO
    for _ in range(60):
        middle = (low + high) / 2
        if (1 - survival(middle)) ** FAN_OUT < share:
            low = middle
        else:
            high = middle
    return high


class _Backends:
    """Draws how long each attempt takes, and counts them."""

    def __init__(self) -> None:
        self.made = 0
        self._chance = random.Random(5)

    async def ask(self) -> None:
        self.made += 1
        chance = self._chance
        if chance.random() < STALLS:
            await asyncio.sleep(chance.uniform(STALL_FROM, STALL_TO))
        else:
            await asyncio.sleep(chance.lognormvariate(math.log(MEDIAN), SIGMA))


def _fan_outs(protect: Callable[[Any], Any], requests: int) -> tuple[list[float], float]:
    """How long each fan-out took, in seconds, and the attempts made per call."""
    backends = _Backends()
    ask = protect(backends.ask)
    took: list[float] = []

    async def load() -> None:
        for _ in range(requests):
            started = clock.now()
            async with asyncio.TaskGroup() as calls:
                for _ in range(FAN_OUT):
                    calls.create_task(ask())
            took.append(clock.now() - started)

    with virtual_time(seed=5):
        asyncio.run(load())
    return took, backends.made / (requests * FAN_OUT)


def fan_out() -> Table:
    """The 99.9th percentile of a fan-out to a hundred servers, and what hedging costs."""
    hedged, made = _fan_outs(r.Hedge(DELAY), REQUESTS)
    plain, _ = _fan_outs(lambda fn: fn, REQUESTS // 5)
    limit = _all_within(lambda t: _survival(t) * _survival(t - DELAY), 0.999)
    p999, extra, least = _quantile(hedged, 0.999), made - 1, _survival(DELAY)
    return Table(
        "p99.9 in µs: fan-out to 100 servers, 3 ms with stalls of 0.1-2 s, hedged after 10 ms",
        [
            Row("not hedged", _quantile(plain, 0.999) * MICRO),
            Row("hedged", p999 * MICRO, f"{extra:.2%} more requests"),
            Row("S(t)S(t-d), the best there is", limit * MICRO, f"S(d) = {least:.2%}"),
            Row("hedged, median", statistics.median(hedged) * MICRO),
        ],
        [
            Bar("p99.9, of S(t)S(t-d)", p999 / limit, 1.25),
            Bar("more requests, of S(d)", extra / least, 1.2),
        ],
        column="µs",
    )
