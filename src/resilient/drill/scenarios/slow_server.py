"""Ten servers, one of them ten times slower: the latency by the way the load is balanced.

Each server answers one request at a time, in 10 ms on average, the slow one in 100 ms; 500
calls come a second. Whoever gives each server its tenth gives the slow one 50 a second, of
which it can serve ten: its queue grows as long as the load lasts. Taking the less loaded of
two drawn at random avoids that; going by latency as well hardly uses it at all.
"""

from __future__ import annotations

from resilient._core.balance import Balance
from resilient.drill import Backend, Load, Published, Scenario, Study
from resilient.drill.latency import exponential
from resilient.failover import ActiveActive

SERVERS = 10


def balanced(balance: Balance, *objectives: str) -> Scenario:
    """Spread the load over the servers in one way."""
    servers = [
        Backend(f"server-{number}", capacity=1, latency=exponential(0.1 if number == 0 else 0.01))
        for number in range(SERVERS)
    ]
    pool = ActiveActive(
        "servers", {one.name: one for one in servers}, on=ConnectionError, balance=balance
    )
    return Scenario(
        load=Load(500),
        seconds=15,
        drain=300,
        backends=servers,
        policy=pool,
        objectives=objectives,
    )


def scenario() -> Study:
    """Return the study."""
    return Study(
        "slow-server",
        {
            "random": balanced("random"),
            "round robin": balanced("round_robin"),
            "least loaded": balanced("least_loaded", "p99 <= 500 ms"),
            "ewma": balanced("ewma", "p99 <= 120 ms"),
        },
        title="ten servers, one of them ten times slower",
        source="the simulation that the default was chosen by",
        published=[
            Published("random", "p99", 52, "52 s"),
            Published("round robin", "p99", 53, "53 s"),
            Published("least loaded", "p99", 0.196, "196 ms"),
            Published("ewma", "p99", 0.065, "65 ms"),
        ],
    )
