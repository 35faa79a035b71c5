"""Why successes fill a retry budget: an outage that ends, and one that never does.

A server can do 300 requests a second and gets 280. For ten seconds it does nothing; what came
meanwhile waits in its queue. A client gives up after one second, and tries once more if its
budget lets it. The server does not know that, and works for clients that have gone.
"""

import heapq
import itertools
from collections.abc import Iterator

from resilient import RetryBudget

CAPACITY, LOAD, PATIENCE = 300, 280, 1.0
OUTAGE_FROM, OUTAGE_TO, END = 20.0, 30.0, 240.0
WINDOW = 30


class Server:
    """Does one request after the other, in the order in which they come."""

    def __init__(self) -> None:
        self.free_at = 0.0

    def done_at(self, now: float) -> float:
        """Return when a request that comes now will have been done."""
        start = max(now, self.free_at)
        if OUTAGE_FROM <= start < OUTAGE_TO:
            start = OUTAGE_TO
        self.free_at = start + 1 / CAPACITY
        return self.free_at


def answered(budget: RetryBudget | None, *, filled_by: str) -> Iterator[float]:
    """Yield the time of each answer that came while its client was still waiting."""
    server, serial = Server(), itertools.count()
    events = [(number / LOAD, next(serial), "call") for number in range(int(END * LOAD))]
    heapq.heapify(events)
    while events:
        now, _, what = heapq.heappop(events)
        if what == "answer":
            if budget is not None and filled_by == "successes":
                budget.succeeded()
            yield now
        elif what == "gives up":
            if budget is not None and budget.withdraw():
                heapq.heappush(events, (now, next(serial), "retry"))
        else:
            if budget is not None and filled_by == "starts":
                budget.succeeded()
            done = server.done_at(now)
            if done <= now + PATIENCE:
                heapq.heappush(events, (done, next(serial), "answer"))
            elif what == "call":
                heapq.heappush(events, (now + PATIENCE, next(serial), "gives up"))


def per_window(budget: RetryBudget | None, filled_by: str = "") -> list[float]:
    """Return the share of the load that was answered in each window."""
    counts = [0] * int(END / WINDOW)
    for at in answered(budget, filled_by=filled_by):
        if at < END:
            counts[int(at / WINDOW)] += 1
    return [count / (LOAD * WINDOW) for count in counts]


def main() -> None:
    rows = {
        "no retries": per_window(None),
        "budget filled by starts": per_window(RetryBudget(ratio=0.1), "starts"),
        "budget filled by successes": per_window(RetryBudget(ratio=0.1), "successes"),
    }
    print(f"{'answered, from second':28}" + "".join(f"{i * WINDOW:6}" for i in range(8)))
    for name, shares in rows.items():
        print(f"{name:28}" + "".join(f"{share:6.0%}" for share in shares))
    assert rows["no retries"][-1] > 0.99
    assert rows["budget filled by starts"][-1] == 0
    assert rows["budget filled by successes"][-1] > 0.99


if __name__ == "__main__":
    main()
