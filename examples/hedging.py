"""A hedge cuts the slow tail: one search in ten hangs, and nobody waits for it."""

import asyncio
import itertools

from resilient import Hedge, RetryBudget, subscribe
from resilient.events import Event, HedgeWon

requests = itertools.count(1)


@Hedge(0.05, budget=RetryBudget(ratio=0.2))
async def search(words: str) -> str:
    if next(requests) % 10 == 0:
        await asyncio.sleep(3600)  # cancelled when the hedge has answered
    await asyncio.sleep(0.001)
    return f"results for {words}"


async def main() -> None:
    won = 0

    def count(event: Event) -> None:
        nonlocal won
        won += isinstance(event, HedgeWon)

    unsubscribe = subscribe(count)
    for number in range(50):
        await search(f"query {number}")
    unsubscribe()
    made = next(requests) - 1
    print(f"50 searches, {made} requests, {won} answered by the hedge")
    assert won == made - 50 > 0


if __name__ == "__main__":
    asyncio.run(main())
