"""Two zones and a remote region: calls stay in their zone as long as it can take them.

Zones are priorities of an active-active pool. A zone with one of its two servers left keeps 70 %
of the calls (its healthy half, times 1.4); the rest spills to the next zone. The remote region
takes calls only when both zones are gone.
"""

import time
from collections import Counter
from collections.abc import Callable

from loopback.server import FAILURES, Server, Servers, get

from resilient import ActiveActive, HealthCheck, Member

ZONES = {
    "zone-a": ["a-1", "a-2"],
    "zone-b": ["b-1", "b-2"],
    "remote": ["remote-1", "remote-2"],
}
CALLS = 300
PATIENCE = 30  # seconds for anything to happen before the program gives up


def main() -> None:
    every = [Server(name) for names in ZONES.values() for name in names]
    with Servers(*every) as servers:
        members = [
            Member(name, servers[name], priority=priority)
            for priority, names in enumerate(ZONES.values())
            for name in names
        ]
        pool = ActiveActive(
            "catalogue",
            members,
            on=FAILURES,
            health_check=HealthCheck(get, interval=0.1, timeout=5),
        )
        ask = pool(get)

        def kill(*names: str) -> None:
            for name in names:
                servers[name].kill()
            until(lambda: set(names) <= down(pool))

        print(f"{'share of the calls':28}" + "".join(f"{zone:>8}" for zone in ZONES))
        with pool:
            report("all are up", ask)
            kill("a-1")
            report("a-1 was killed", ask)
            kill("a-2")
            report("a-2 was killed", ask)
            kill("b-1", "b-2")
            report("b-1 and b-2 were killed", ask)


def down(pool: ActiveActive[Server]) -> set[str]:
    return {member.name for member in pool.snapshot().members if member.state == "down"}


def report(title: str, ask: Callable[[], str]) -> None:
    counts = Counter(ask() for _ in range(CALLS))
    shares = [sum(counts[name] for name in names) / CALLS for names in ZONES.values()]
    print(f"{title:28}" + "".join(f"{share:8.0%}" for share in shares))


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


if __name__ == "__main__":
    main()
