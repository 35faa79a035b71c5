"""An asynchronous stream: opened again until its first item, and a permit held until its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from resilient import Bulkhead, Pipeline, Retry, attempt_number

bulkhead = Bulkhead(2)
feed = Pipeline(Retry(on=ConnectionError, attempts=3, backoff=[0.01, 0.02]), bulkhead, name="feed")


@feed
async def events(topic: str) -> AsyncIterator[str]:
    if attempt_number() == 1:
        raise ConnectionError("could not connect")
    for number in range(1, 4):
        await asyncio.sleep(0)
        yield f"{topic} {number}"


async def main() -> None:
    async for event in events("news"):
        print(event, "- permits held:", bulkhead.snapshot().active)

    async with aclosing(events("weather")) as stream:  # left early: close it
        async for event in stream:
            print(event, "- and no more")
            break
    print("permits held at the end:", bulkhead.snapshot().active)
    assert bulkhead.snapshot().active == 0


if __name__ == "__main__":
    asyncio.run(main())
