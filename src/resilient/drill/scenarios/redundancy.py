"""Active-active, active-passive and N+1 under the same faults, side by side.

The same keys and the same load, which three servers can carry. Active-active spreads it over
four; active-passive has a pair for each third of the keys; N+1 has an active for each third
and one cold spare. One server is down for a minute, another is ten times slower for a
minute, a third flaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient.drill import (
    Backend,
    Flapping,
    Load,
    Outage,
    Published,
    Scenario,
    Slow,
    Study,
)
from resilient.drill.latency import exponential
from resilient.errors import CallTimeoutError
from resilient.failover import ActiveActive, ActivePassive, HealthCheck, Member, NPlusOne
from resilient.failover.pool import Pool
from resilient.pipeline import Pipeline
from resilient.timeout import Timeout

NAMES = ("one", "two", "three")
FAILURES = (ConnectionError, CallTimeoutError)


def server(name: str, *, cold: bool = False) -> Backend:
    """Return one of the servers, which are all alike."""
    return Backend(name, capacity=1, latency=exponential(0.02), cold=cold, start_time=0.5)


def check() -> HealthCheck[Backend]:
    """Return how all of them are probed."""
    return HealthCheck(Backend.probe, interval=2, timeout=0.3)


def shard_of(key: str) -> str:
    """The server that owns a key, where keys are owned."""
    return NAMES[int(key.removeprefix("key-")) % len(NAMES)]


def active_active() -> Scenario:
    """Four servers share all keys."""
    servers = [server(name) for name in (*NAMES, "four")]
    pool = ActiveActive(
        "pool", {one.name: one for one in servers}, on=FAILURES, health_check=check()
    )
    return _drill(servers, [pool], lambda key: pool)


def active_passive() -> Scenario:
    """Each third of the keys has two servers, of which one is used."""
    servers = [server(name) for name in NAMES] + [server(f"{name}-b") for name in NAMES]
    by_name = {one.name: one for one in servers}
    pools = {
        name: ActivePassive(
            f"pool-{name}",
            {name: by_name[name], f"{name}-b": by_name[f"{name}-b"]},
            on=FAILURES,
            health_check=check(),
            failback_after=10,
        )
        for name in NAMES
    }
    return _drill(servers, [*pools.values()], lambda key: pools[shard_of(key)])


def n_plus_one() -> Scenario:
    """Each third of the keys has a server, and all have one cold spare."""
    servers = [server(name) for name in NAMES]
    spare = server("spare", cold=True)
    pool = NPlusOne(
        "pool",
        {one.name: one for one in servers},
        [Member("spare", spare, start=spare.start, stop=spare.stop)],
        on=FAILURES,
        key=shard_of,
        health_check=check(),
    )
    return _drill([*servers, spare], [pool], lambda key: pool)


def _drill(
    servers: list[Backend], pools: list[Pool[Backend]], pool_of: Callable[[str], Pool[Any]]
) -> Scenario:
    protected = {
        pool.name: Pipeline(Timeout(5), pool, Timeout(0.5), name=f"via-{pool.name}")(_ask)
        for pool in pools
    }

    async def call(key: str) -> None:
        await protected[pool_of(key).name](key)

    return Scenario(
        load=Load(60, keys=300),
        seconds=300,
        backends=servers,
        faults=[
            Outage("one", at=30, seconds=60),
            Slow("two", at=120, seconds=60, factor=20),
            Flapping("three", at=210, seconds=20, down=0.5, up=0.5),
        ],
        call=call,
        around=pools,
        objectives=["availability >= 0.99", "failover_time <= 10 s"],
    )


async def _ask(backend: Backend, key: str) -> None:
    await backend.request(key)


def scenario() -> Study:
    """Return the study."""
    return Study(
        "redundancy",
        {
            "active-active": active_active(),
            "active-passive": active_passive(),
            "N+1": n_plus_one(),
        },
        title="three kinds of redundancy under the same faults",
        source="what each kind costs, in servers that run",
        published=[
            Published("active-active", "members", 4, "N + 1 = 4"),
            Published("active-passive", "members", 6, "2 N = 6"),
            Published("N+1", "members", 3, "N = 3, and the spare while it serves"),
        ],
    )
