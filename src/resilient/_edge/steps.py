"""The policies of an ASGI request, taken step by step beside the application.

Their coroutine is taken by hand to the innermost place, where it stays while the application
runs in the server's own task, and is resumed with the outcome. So their call can end while
the application goes on, at no cost. `relay` stands in for the event loop where the policies
themselves wait.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final

from resilient._call import Args, Call, Kwargs

AsyncChain = Callable[[Args, Kwargs, Call], Any]
# What is awaited of the policies' coroutine.
Steps = Generator[Any, Any, Any]

# What the innermost place of the policies yields: it is the application's turn.
ENTERED: Final = object()


@types.coroutine
def enter(args: Args, kwargs: Kwargs, call: Call) -> Generator[Any, Any, Any]:
    """The innermost place of the policies: wait there for what the application comes to."""
    call.entered = True
    yield ENTERED
    try:
        return call.status  # type: ignore[attr-defined]
    except AttributeError:
        # The call is an attempt, of those that the exchange is the root of.
        exchange: Any = call.root
        return exchange.status


def first_step(chain: Steps) -> Any:
    """Begin the policies' call: what they wait for, or the exception by which it ended."""
    try:
        return chain.send(None)
    except Exception as error:  # a StopIteration, if a fallback has answered
        return error


@types.coroutine
def relay(chain: Steps, waited: Any) -> Generator[Any, Any, Any]:
    """Wait for what the policies wait for, until it is the application's turn.

    Returns:
        `None`; or what ended the policies' coroutine, the `StopIteration` with its result.
    """
    while waited is not ENTERED:
        try:
            value = yield waited
        except BaseException as error:
            move = partial(chain.throw, error)
        else:
            move = partial(chain.send, value)
        try:
            waited = move()
        except StopIteration as stop:
            return stop
    return None


async def tell(chain: Steps, outcome: BaseException) -> StopIteration | None:
    """Tell the policies how the application ended; see `relay` for what it returns."""
    try:
        waited = chain.throw(outcome)
    except StopIteration as stop:
        return stop
    found: StopIteration | None = await relay(chain, waited)
    return found
