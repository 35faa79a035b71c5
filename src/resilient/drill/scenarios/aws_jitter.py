"""A hundred clients update one row at once: how long, and how many calls, by kind of jitter.

The model is that of the AWS Architecture Blog: each client reads the row's version, writes
with it, and is refused when another has written since; then it backs off, from 5 ms up to
2 s, and begins again. Each message takes about 10 ms. There is no budget here, as there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from resilient._core.backoff import constant, decorrelated, exponential
from resilient.drill import Backend, Load, Published, Scenario, Study, normal
from resilient.retry import Retry

CLIENTS = 100
NETWORK = normal(0.010, 0.002)


class ConflictError(Exception):
    """Another client has written since the row was read."""


def contention(backoff: Iterable[float]) -> Scenario:
    """All clients begin at once; each tries until its write has gone through."""
    row = Backend("row", latency=NETWORK)
    messages = random.Random("aws-jitter/messages")
    version = 0

    @Retry(ConflictError, attempts=None, max_elapsed=900, backoff=backoff, budget=None)
    async def update() -> None:
        nonlocal version
        await asyncio.sleep(NETWORK.draw(messages))  # the read's way there
        seen = version
        await asyncio.sleep(NETWORK.draw(messages))  # and back
        await row.request()  # the write's way there: what the source counts as a call
        accepted = version == seen
        version += accepted
        await asyncio.sleep(NETWORK.draw(messages))
        if not accepted:
            raise ConflictError

    return Scenario(
        load=Load(bursts=[(0, CLIENTS)]),
        seconds=120,
        drain=1000,
        backends=[row],
        call=update,
        errors=[ConflictError],
    )


def scenario() -> Study:
    """Return the study."""
    waits: dict[str, Iterable[float]] = {
        "no backoff": constant(0),
        "exponential": exponential(0.010, maximum=2, jitter="none"),
        "equal jitter": exponential(0.010, maximum=2, jitter="equal"),
        "full jitter": exponential(0.010, maximum=2, jitter="full"),
        "decorrelated": decorrelated(0.005, maximum=2),
    }
    figures = {
        "no backoff": (2.022, 2421),
        "exponential": (63.534, 1855),
        "equal jitter": (6.605, 813),
        "full jitter": (4.857, 796),
        "decorrelated": (4.588, 1004),
    }
    published = []
    for name, (seconds, calls) in figures.items():
        published += [
            Published(name, "finished", seconds, f"{seconds * 1000:,.0f} ms"),
            Published(name, "requests", calls, f"{calls:,} calls"),
        ]
    return Study(
        "aws-jitter",
        {name: contention(backoff) for name, backoff in waits.items()},
        title="a hundred clients contend for one row",
        source='"Exponential Backoff And Jitter", AWS Architecture Blog, 2015, its simulator',
        published=published,
    )
