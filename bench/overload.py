"""Clients that ask at a rate of their own, whatever the service can do, and wait for a time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

SECONDS = 5.0
PATIENCE = 1.0
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Outcome:
    """What came of the requests: seconds until each answer, and how many had none in time."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    given_up: int = 0

    @property
    def per_second(self) -> float:
        """Requests answered per second, by a 200 while the client waited."""
        return len(self.answered) / SECONDS

    @property
    def note(self) -> str:
        """The rest, in words."""
        found = f"p99 {_p99(self.answered)}, {self.given_up:,} given up by the client"
        if self.refused:
            found += f", {len(self.refused):,} refused, p99 {_p99(self.refused)}"
        return found


def _p99(times: list[float]) -> str:
    if not times:
        return "none"
    return f"{sorted(times)[math.ceil(0.99 * len(times)) - 1] * 1000:.0f} ms"


async def offered(port: int, rate: float) -> Outcome:
    """Send `rate` requests per second, evenly, for some seconds."""
    outcome = Outcome()
    idle: list[Connection] = []
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.TaskGroup() as clients:
        for number in range(int(rate * SECONDS)):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            # Late sending is waiting, too: the client's second begins when it was due.
            clients.create_task(_ask(port, due, idle, outcome))
    for _, writer in idle:
        writer.close()
    return outcome


async def _ask(port: int, due: float, idle: list[Connection], outcome: Outcome) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(due + PATIENCE):
            served = await _answer(port, idle)
    except TimeoutError:
        outcome.given_up += 1
        return
    (outcome.answered if served else outcome.refused).append(loop.time() - due)


async def _answer(port: int, idle: list[Connection]) -> bool:
    """Whether the answer is a 200; a connection whose answer is not waited for is closed."""
    reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
    except BaseException:
        writer.close()
        raise
    idle.append((reader, writer))
    return b" 200 " in head.partition(b"\r\n")[0]
