"""Hedging the slowest of 100 servers: p99.9 without and with a second request after 10 ms.

The benchmark of "The Tail at Scale" reads 1,000 keys from 100 servers; here a call asks each
server once, for its ten keys. What one server takes is fitted to what was published without
hedging: about 2 % of the answers take more than 10 ms, one in 100,000 more than 1.8 s. What
hedging makes of it is then the library's.
"""

from __future__ import annotations

import asyncio

from resilient.drill import Backend, Load, Published, Scenario, Study, lognormal, mixture
from resilient.hedge import Hedge

SERVERS = 100
# 97 % of the answers come as they should; the others have waited behind something.
SERVICE = mixture((0.968, lognormal(0.004, 0.0075)), (0.032, lognormal(0.0095, 0.0095 * 35.5)))


def fan_out(hedge: Hedge | None) -> Scenario:
    """Ask all servers at once, and wait for the last answer."""
    servers = Backend("servers", latency=SERVICE)
    ask = servers.request if hedge is None else hedge(servers.request)

    async def call() -> None:
        await asyncio.gather(*(ask() for _ in range(SERVERS)))

    return Scenario(
        load=Load(20, arrivals="even"),
        seconds=100,
        backends=[servers],
        call=call,
        objectives=["p999 <= 150 ms", "amplification <= 103"] if hedge else [],
    )


def scenario() -> Study:
    """Return the study."""
    return Study(
        "tail-at-scale",
        {"no hedge": fan_out(None), "hedge after 10 ms": fan_out(Hedge(0.01))},
        title="hedging the slowest of 100 servers",
        # Of 2,000 calls two are beyond p99.9: it scatters by a third from seed to seed.
        seed=2,
        source='J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013',
        published=[
            Published("no hedge", "p999", 1.8, "1,800 ms"),
            Published("hedge after 10 ms", "p999", 0.074, "74 ms"),
            Published("hedge after 10 ms", "amplification", 102, "2 % more requests"),
        ],
    )
