"""One breaker per host: a dead host is left alone, and the others do not notice."""

from collections import Counter

from resilient import CircuitBreaker, CircuitOpenError, PerKey, subscribe
from resilient.events import CircuitStateChanged, Event

per_host = PerKey(
    lambda host: CircuitBreaker(on=ConnectionError, consecutive_failures=3),
    key=lambda host: host,
)

requests: Counter[str] = Counter()


@per_host
def get(host: str) -> str:
    requests[host] += 1
    if host == "down.example":
        raise ConnectionError("connection refused")
    return f"a page of {host}"


def show(event: Event) -> None:
    if isinstance(event, CircuitStateChanged):
        print(f"a breaker of {event.function} went from {event.old} to {event.new}")


def main() -> None:
    unsubscribe = subscribe(show)
    answered = refused = 0
    for _ in range(20):
        for host in ("one.example", "two.example", "down.example"):
            try:
                get(host)
                answered += 1
            except CircuitOpenError:
                refused += 1
            except ConnectionError:
                pass  # one of the three that it takes to notice
    unsubscribe()
    print(f"{answered} answered, {refused} refused, requests: {dict(requests)}")
    assert requests == {"one.example": 20, "two.example": 20, "down.example": 3}


if __name__ == "__main__":
    main()
