"""Random trees of nested timeouts, run under this library's and under asyncio's.

A defect is what the caller of a cancelled task must never see: a count of cancellations that
is not the caller's own, a cancellation that nobody asked for, or one that got lost.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from resilient._core import clock
from resilient.timeout import Timeout

Tree = tuple[Any, ...]


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while it runs, and jumps when it would wait."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_Selector(self.advance))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everything waits, and nothing will happen any more"
        self._advance(max(0.0, timeout))
        return super().select(0)


def run(monkeypatch: Any, main: Callable[[], Any]) -> Any:
    """Run the coroutine function `main` on a loop that jumps, and this library with it."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        monkeypatch.setattr(clock, "now", runner.get_loop().time)
        return runner.run(main())


def make(source: random.Random, depth: int) -> Tree:
    """A tree: what one task does, in nested timeouts, some cleaning up, some swallowing."""
    kinds = ["timeout"] * 4 + ["sequence", "cleanup", "swallow", "forgive"]
    kind = source.choice(kinds) if depth else "sleep"
    match kind:
        case "sleep":
            return kind, source.uniform(0.0, 4.0)
        case "timeout":
            return kind, source.uniform(0.1, 5.0), make(source, depth - 1), source.random() < 0.3
        case "sequence":
            return kind, [make(source, depth - 1) for _ in range(source.randint(2, 3))]
        case "cleanup":
            return kind, make(source, depth - 1), source.uniform(0.0, 1.0)
    return kind, make(source, depth - 1)


def has(tree: Any, kind: str) -> bool:
    if isinstance(tree, list):
        return any(has(part, kind) for part in tree)
    return isinstance(tree, tuple) and (tree[0] == kind or any(has(part, kind) for part in tree))


class Runner:
    """Runs trees under the timeouts of `asyncio`, or of this library."""

    def __init__(self, library: bool) -> None:
        self._library = library

    async def run(self, tree: Tree) -> None:
        match tree:
            case "sleep", seconds:
                await asyncio.sleep(seconds)
            case "timeout", seconds, part, as_block:
                await self._timed(seconds, part, as_block)
            case "sequence", parts:
                for part in parts:
                    await self.run(part)
            case "cleanup", part, seconds:
                try:
                    await self.run(part)
                finally:
                    await asyncio.sleep(seconds)
            case "swallow", part:
                with suppress(asyncio.CancelledError):
                    await self.run(part)
            case "forgive", part:
                with suppress(TimeoutError):
                    await self.run(part)

    async def _timed(self, seconds: float, part: Tree, as_block: bool) -> None:
        if not self._library:
            async with asyncio.timeout(seconds):
                await self.run(part)
        elif as_block:
            async with Timeout(seconds).guard():
                await self.run(part)
        else:
            await Timeout(seconds).acall(self.run, part)


async def defects(library: bool, tree: Tree, cancels: list[float]) -> list[str]:
    """Run `tree` in a task, cancel it at the given moments, and say what went wrong."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(Runner(library).run(tree))
    delivered = 0

    def cancel() -> None:
        nonlocal delivered
        delivered += task.cancel()

    timers = [loop.call_later(moment, cancel) for moment in cancels]
    await asyncio.wait([task])
    for timer in timers:
        timer.cancel()
    return list(_judge(task, delivered, tree))


def _judge(task: asyncio.Task[None], delivered: int, tree: Tree) -> Any:
    if task.cancelling() != delivered:
        yield f"the task counts {task.cancelling()} cancellations of {delivered}"
    if task.cancelled() and not delivered:
        yield "cancelled, although nobody asked"
    if delivered and not task.cancelled() and not has(tree, "swallow"):
        yield "the caller's cancellation was lost"
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, TimeoutError):
        yield f"an error out of nowhere: {error!r}"


def cases(seed: int, number: int) -> list[tuple[Tree, list[float]]]:
    """Trees, each with the moments at which the caller cancels."""
    source = random.Random(seed)
    found = []
    for _ in range(number):
        tree = make(source, source.randint(1, 5))
        moments = [source.uniform(0.0, 6.0) for _ in range(source.choice([0, 0, 1, 1, 2]))]
        if moments and source.random() < 0.3 and tree[0] == "timeout":
            moments[0] = tree[1]  # together with the outermost timer
        found.append((tree, moments))
    return found
