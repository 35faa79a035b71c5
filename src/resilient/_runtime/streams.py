"""Relays around generators: hold a guard, and enter a context for each step.

A guard is held from the first step until the generator is exhausted or closed. The step
context is entered whenever the inner generator runs, and left whenever the consumer does:
neither a deadline nor a span may reach into the consumer's code.

The rest of both relays is PEP 380, written out because the steps have to be wrapped, and
because Python has no `yield from` for asynchronous generators.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any

Step = Callable[[], AbstractContextManager[Any]]
AsyncStep = Callable[[], AbstractAsyncContextManager[Any]]


class Started:
    """A generator that has been taken to its first item, or to its end, in attempt `number`."""

    __slots__ = ("ended", "generator", "item", "number")

    def __init__(self, generator: Any, item: Any, ended: bool, number: int = 1) -> None:
        self.generator = generator
        self.item = item
        self.ended = ended
        self.number = number


def start(generator: Generator[Any, Any, Any], number: int = 1) -> Started:
    """Take `generator` to its first item; at its end the item is what it returned."""
    try:
        return Started(generator, next(generator), False, number)
    except StopIteration as stop:
        return Started(generator, stop.value, True, number)


async def astart(generator: AsyncGenerator[Any, Any], number: int = 1) -> Started:
    """Take `generator` to its first item."""
    try:
        return Started(generator, await anext(generator), False, number)
    except StopAsyncIteration:
        return Started(generator, None, True, number)


def relay(
    open_: Callable[[], Started],
    guard: AbstractContextManager[Any] | None = None,
    step: Step = nullcontext,
) -> Generator[Any, Any, Any]:
    """Yield what the generator started by `open_` yields, inside `guard`."""
    with guard or nullcontext():
        with step():
            started = open_()
        try:
            while not started.ended:
                try:
                    sent = yield started.item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    advance(started, started.generator.throw, error, step)
                else:
                    advance(started, started.generator.send, sent, step)
        finally:
            # Its own `finally` runs now, also when a step was refused because time was up.
            started.generator.close()
        return started.item


def advance(started: Started, move: Callable[[Any], Any], value: Any, step: Step) -> None:
    """Take `started` one item further by `move(value)`, inside `step`."""
    with step():
        try:
            started.item = move(value)
        except StopIteration as stop:
            started.item, started.ended = stop.value, True
        finally:
            # An error thrown in may come out again, with this frame in its traceback: the
            # two would hold each other.
            del move, value


async def arelay(
    open_: Callable[[], Any],
    guard: AbstractAsyncContextManager[Any] | None = None,
    step: AsyncStep = nullcontext,
) -> AsyncGenerator[Any, Any]:
    """Yield what the generator started by `await open_()` yields, inside `guard`."""
    async with guard or nullcontext():
        async with step():
            started = await open_()
        try:
            while not started.ended:
                try:
                    sent = yield started.item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    await advance_async(started, started.generator.athrow, error, step)
                else:
                    await advance_async(started, started.generator.asend, sent, step)
        finally:
            await started.generator.aclose()


async def advance_async(
    started: Started, move: Callable[[Any], Any], value: Any, step: AsyncStep = nullcontext
) -> None:
    """Take `started` one item further by `move(value)`, inside `step`."""
    async with step():
        try:
            started.item = await move(value)
        except StopAsyncIteration:
            started.ended = True
        finally:
            del move, value  # as in `advance`
