"""Active-passive: the primary's process is killed under load, and comes back.

Two real HTTP servers, four clients. The program prints how many calls failed, how long it took
until the standby answered, and how long until the primary did again.
"""

import threading
import time

from loopback.server import FAILURES, Server, Servers, get

from resilient import ActivePassive, CircuitBreaker, HealthCheck, RejectedError

PATIENCE = 30  # seconds for anything to happen before the program gives up


class Load:
    """Four clients that call without end."""

    def __init__(self, pool: ActivePassive[Server]) -> None:
        self.call = pool(get)
        self.answers: list[tuple[float, str]] = []
        self.failed: list[Exception] = []
        self.stop = threading.Event()
        self.clients = [threading.Thread(target=self.run) for _ in range(4)]

    def run(self) -> None:
        while not self.stop.wait(0.01):
            try:
                name = self.call()
            except (*FAILURES, RejectedError) as error:
                self.failed.append(error)
            else:
                self.answers.append((time.monotonic(), name))

    def first_answer(self, name: str, since: float) -> float:
        """Wait for an answer of that server, and return when it came."""
        while time.monotonic() < since + PATIENCE:
            for at, by in list(self.answers):
                if by == name and at >= since:
                    return at
            time.sleep(0.01)
        raise TimeoutError(f"no answer of the {name}")

    def __enter__(self) -> "Load":
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        for client in self.clients:
            client.join()


def main() -> None:
    with Servers(Server("primary"), Server("standby")) as servers:
        pool = ActivePassive(
            "orders",
            servers,
            on=FAILURES,
            breaker=lambda name: CircuitBreaker(name, consecutive_failures=5, open_for=0.5),
            health_check=HealthCheck(get, interval=0.1, timeout=5),
            failback_after=0.5,
        )
        with pool, Load(pool) as load:
            load.first_answer("primary", time.monotonic())
            killed = time.monotonic()
            servers["primary"].kill()
            answered = load.first_answer("standby", killed)
            while pool.active != "standby":
                time.sleep(0.01)
            promoted = time.monotonic()

            restarted = time.monotonic()
            servers["primary"].start()
            servers["primary"].listens()
            back = load.first_answer("primary", restarted)
            load.first_answer("primary", back + 0.5)

    print(f"calls answered:            {len(load.answers)}")
    print(f"failed calls:              {len(load.failed)}")
    print(f"time to fail over:         {(answered - killed) * 1000:.1f} ms, the first answer")
    print(f"time to promotion:         {(promoted - killed) * 1000:.1f} ms")
    print(f"time to fail back:         {back - restarted:.2f} s, of which 0.5 s by choice")
    assert not load.failed, load.failed[0]


if __name__ == "__main__":
    main()
