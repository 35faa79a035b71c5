"""What a retry budget is for: the load on a backend during an outage, with and without it."""

from contextlib import suppress

from resilient import Retry, RetryBudget

CALLS = 1000


class Backend:
    """Counts the requests that reach it."""

    def __init__(self) -> None:
        self.down = False
        self.requests = 0

    def query(self) -> str:
        self.requests += 1
        if self.down:
            raise ConnectionError("connection refused")
        return "answer"


def load(retry: Retry) -> tuple[float, float]:
    """Return the requests per call while the backend is up, and while it is down."""
    backend = Backend()
    found = []
    for down in (False, True):
        backend.down, backend.requests = down, 0
        for _ in range(CALLS):
            # In an outage calls fail, which is what this program is about.
            with suppress(ConnectionError):
                retry.call(backend.query)
        found.append(backend.requests / CALLS)
    return found[0], found[1]


def main() -> None:
    policies = {
        "no budget": Retry(on=ConnectionError, attempts=4, backoff=[0, 0, 0], budget=None),
        "a budget of 10 %": Retry(
            on=ConnectionError,
            attempts=4,
            backoff=[0, 0, 0],
            budget=RetryBudget(ratio=0.1, capacity=100),
        ),
    }
    print(f"{'requests per call':20}{'up':>8}{'down':>8}")
    for name, policy in policies.items():
        up, down = load(policy)
        print(f"{name:20}{up:8.2f}{down:8.2f}")
    assert load(policies["no budget"]) == (1, 4)


if __name__ == "__main__":
    main()
