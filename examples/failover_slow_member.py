"""Active-active and hedged: ten real HTTP servers, of which one stalls.

The program prints the latency percentiles: calls in turn to all servers; by latency and load; and
each of them hedged, where a call that is late is made once more, on another server.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles

from loopback.server import FAILURES, Server, Servers, get

from resilient import ActiveActive, Hedge, Pipeline, RetryBudget

CALLS, CLIENTS = 300, 4
STALL = 0.5


def latencies(call: Callable[[], str]) -> list[float]:
    """Make the calls by a few clients at once; milliseconds for each."""

    def timed(_: int) -> float:
        started = time.monotonic()
        call()
        return (time.monotonic() - started) * 1000

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(timed, range(CALLS)))


def hedge() -> Hedge:
    return Hedge(0.1, budget=RetryBudget(ratio=0.2), sync="thread")


def main() -> None:
    names = [f"server-{number}" for number in range(10)]
    slow = names[3]
    with Servers(*(Server(name, delay=STALL * (name == slow)) for name in names)) as servers:
        in_turn = ActiveActive("in-turn", servers, on=FAILURES, balance="round_robin")
        by_load = ActiveActive("by-load", servers, on=FAILURES)
        ways = {
            "in turn": in_turn(get),
            "in turn, hedged": Pipeline(hedge(), in_turn)(get),
            "by latency and load": by_load(get),
            "by latency and load, hedged": Pipeline(hedge(), by_load)(get),
        }
        print(f"{CALLS} calls each, in ms {'p50':>12} {'p95':>8} {'p99':>8}")
        for way, call in ways.items():
            percents = quantiles(latencies(call), n=100, method="inclusive")
            print(f"{way:29}" + "".join(f"{percents[p - 1]:9.1f}" for p in (50, 95, 99)))


if __name__ == "__main__":
    main()
