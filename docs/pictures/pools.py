"""Timelines of the failover pools, recorded from the pools themselves on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from docs.pictures.drawing import Bar
from docs.pictures.scenes import Stage
from resilient import CircuitBreaker
from resilient.events import FailoverSwitched, SpareAssigned, SpareReleased
from resilient.failover import ActiveActive, ActivePassive, NPlusOne

# The member that fails, and when.
_FROM, _TO = 2.0, 6.0


def _breaker(name: str) -> CircuitBreaker:
    return CircuitBreaker(name, consecutive_failures=2, open_for=2)


async def _drive(stage: Stage, pool: Any, failing: str, every: float, keys: list[str]) -> None:
    """Make a call every so often; each is a bar in the lane of each member that it reached."""
    stage.lane(f"{failing} is down").bars.append(Bar(_FROM, _TO, "bad"))

    @pool
    async def call(member: str, key: str) -> None:
        start = stage.now()
        bad = member == failing and _FROM <= start < _TO
        await asyncio.sleep(0.15)
        stage.bar(member, start, "bad" if bad else "good", key)
        if bad:
            raise ConnectionError

    async with asyncio.TaskGroup() as tasks:
        for index in range(round(12 / every)):
            tasks.create_task(call(keys[index % len(keys)]))
            await asyncio.sleep(every)


def _spans(stage: Stage, label: str, words: Callable[[Any], str | None], pool: Any) -> Any:
    """Write down, from events, what holds from one moment to the next."""
    held: list[tuple[float, str]] = []

    def end() -> None:
        if held:
            start, said = held.pop()
            stage.lane(label).bars.append(Bar(start, stage.now(), "held", said))

    def listener(event: object) -> None:
        said = words(event)
        if said is not None:
            end()
            if said:
                held.append((stage.now(), said))

    pool.subscribe(listener)
    return end, held


def active_active(stage: Stage) -> None:
    """Three members share the calls; one of them fails for a while."""
    members = {name: name for name in ("a", "b", "c")}
    pool = ActiveActive(
        "search", members, on=ConnectionError, breaker=_breaker, balance="round_robin", ramp=4
    )
    asyncio.run(_drive(stage, pool, "b", 0.2, [""]))


def active_passive(stage: Stage) -> None:
    """The primary fails, the replica is promoted, and later gives back."""
    members = {name: name for name in ("primary", "replica")}
    pool = ActivePassive(
        "orders-db", members, on=ConnectionError, breaker=_breaker, failback_after=2
    )

    def words(event: object) -> str | None:
        return f"active: {event.new}" if isinstance(event, FailoverSwitched) else None

    end, held = _spans(stage, "the pool", words, pool)
    held.append((0.0, "active: primary"))
    asyncio.run(_drive(stage, pool, "primary", 0.4, [""]))
    end()


def n_plus_one(stage: Stage) -> None:
    """The spare takes exactly the calls of the active that failed."""
    actives = {name: name for name in ("shard-a", "shard-b")}
    pool = NPlusOne(
        "shards",
        actives,
        {"spare": "spare"},
        on=ConnectionError,
        key=lambda key: f"shard-{key}",
        breaker=_breaker,
    )

    def words(event: object) -> str | None:
        if isinstance(event, SpareAssigned):
            return f"the spare covers {event.active}"
        return "" if isinstance(event, SpareReleased) else None

    end, _ = _spans(stage, "the pool", words, pool)
    asyncio.run(_drive(stage, pool, "shard-b", 0.2, ["a", "b"]))
    end()
