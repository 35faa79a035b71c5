"""N+1: four shards and one spare, real HTTP servers, of which two are killed at once.

Each customer's calls go to the shard that owns the customer. The spare takes over one of the two
lost shards, whole; the other one's calls are refused until its server is back, or the spare free.
"""

import time
from collections import Counter
from collections.abc import Callable

from loopback.server import FAILURES, Server, Servers, get

from resilient import HealthCheck, NPlusOne, PoolExhaustedError

SHARDS = ["shard-1", "shard-2", "shard-3", "shard-4"]
CUSTOMERS = [f"customer-{number}" for number in range(200)]
PATIENCE = 30  # seconds for anything to happen before the program gives up


def main() -> None:
    with Servers(*(Server(name) for name in [*SHARDS, "spare"])) as servers:
        pool = NPlusOne(
            "customers",
            {name: servers[name] for name in SHARDS},
            {"spare": servers["spare"]},
            on=FAILURES,
            key=lambda customer: customer,
            health_check=HealthCheck(get, interval=0.1, timeout=5),
        )

        @pool
        def ask(server: Server, customer: str) -> str:
            return get(server)

        def served_by() -> dict[str, str]:
            return {customer: _answer(ask, customer) for customer in CUSTOMERS}

        with pool:
            before = served_by()
            report("all four are up", before)
            servers["shard-2"].kill()
            servers["shard-3"].kill()
            until(lambda: len(pool.snapshot().uncovered) == 1)
            during = served_by()
            report("shard-2 and shard-3 were killed", during)
            (uncovered,) = pool.snapshot().uncovered
            ((spare, covered),) = pool.snapshot().covers
            print(f"  the {spare} stands for {covered}; nobody for {uncovered}\n")
            for customer, name in before.items():
                expected = {covered: spare, uncovered: "refused"}.get(name, name)
                assert during[customer] == expected

            servers[covered].start()
            servers[covered].listens()
            until(lambda: pool.snapshot().covers == ((spare, uncovered),))
            report(f"{covered} is back, and the spare free for {uncovered}", served_by())


def _answer(ask: Callable[[str], str], customer: str) -> str:
    try:
        return ask(customer)
    except PoolExhaustedError:
        return "refused"


def report(title: str, served: dict[str, str]) -> None:
    print(title)
    for name, customers in sorted(Counter(served.values()).items()):
        print(f"  {name:10} {customers:4} customers")


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


if __name__ == "__main__":
    main()
