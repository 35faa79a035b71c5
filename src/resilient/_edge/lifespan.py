"""Noticing the end of a lifespan without touching its messages."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any


@types.coroutine
def outlives(
    coroutine: Coroutine[Any, Any, Any], receive: Callable[..., Any]
) -> Generator[Any, Any, bool]:
    """Run an application's lifespan, and return whether it was a whole one.

    The application gets the server's own `receive`, so the shutdown message is not seen here.
    But an application that has no lifespan returns without waiting for a message; one that
    was found waiting in `receive` and returned has seen the shutdown.
    """
    code = getattr(receive, "__code__", None)
    waited = False
    move: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            trap = move()
        except StopIteration:
            return waited
        waited = waited or _waits_in(coroutine, code)
        try:
            value = yield trap
        except BaseException as error:
            move = partial(coroutine.throw, error)
        else:
            move = partial(coroutine.send, value)


def _waits_in(awaited: Any, code: types.CodeType | None) -> bool:
    """Whether what `awaited` waits for, in the end, is a coroutine with this code."""
    while awaited is not None and code is not None:
        if getattr(awaited, "cr_code", None) is code:
            return True
        awaited = getattr(awaited, "cr_await", None)
    return False
