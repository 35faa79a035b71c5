"""asyncio's event loops on a virtual clock.

A loop reads its clock through `time`, and waits in its selector alone, when nothing is
ready. Both are exchanged in each loop that is made while the clock is in place, so that
`asyncio.run`, a `Runner` and a `loop_factory` need nothing of their own. Only loops that
wait in a selector can be asked from outside what has arrived; others are refused.
"""

from __future__ import annotations

import asyncio
import math
import sys
import weakref
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from resilient._runtime.virtual import Wait, World

_UVLOOP = (
    "virtual_time() cannot stop the clock of uvloop, which keeps it in C: run the test on "
    "asyncio's own event loop"
)


class _LoopWait(Wait):
    """An event loop that has nothing to do until its next timer."""

    def __init__(self, at: float, loop: asyncio.AbstractEventLoop, selector: Any) -> None:
        super().__init__(at)
        self._loop = loop
        self._selector = selector

    def pending(self) -> bool:
        return bool(self._selector.select(0))

    def wake(self) -> None:
        if not self.is_own:
            self._loop.call_soon_threadsafe(_look)


def _look() -> None:
    """Does nothing, but the loop looks at the clock before and after."""


class _Selector:
    """A loop's selector that waits on the virtual clock."""

    def __init__(self, real: Any, loop: Any, world: World) -> None:
        self._real = real
        self._loop = weakref.ref(loop)
        self._world = world
        self._resolution = loop._clock_resolution

    def select(self, timeout: float | None = None) -> Any:
        loop: Any = self._loop()
        found = self._select(timeout, loop)
        # asyncio runs the timers that are due by now and this much. After some months of
        # uptime a float holds no difference so small, and none would ever be due.
        loop._clock_resolution = max(self._resolution, math.ulp(self._world.now()))
        return found

    def _select(self, timeout: float | None, loop: asyncio.AbstractEventLoop) -> Any:
        if self._world.is_closed or (timeout is not None and timeout <= 0):
            return self._real.select(timeout)
        wait = _LoopWait(self._world.end_of(timeout), loop, self._real)
        return self._world.rest(wait, self._real.select) or self._real.select(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _call_later(
    loop: Callable[[], Any],
    world: World,
    delay: float,
    callback: Any,
    *args: Any,
    context: Any = None,
) -> asyncio.TimerHandle:
    """Take the place of `loop.call_later`: no wait is so short that no time passes.

    What waits again for the rest, because its time has not quite come, would do so for good.
    """
    handle: asyncio.TimerHandle = loop().call_at(
        world.end_of(delay), callback, *args, context=context
    )
    return handle


class Loops:
    """The event loops that run on one virtual clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._adopted: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def install(self, stack: ExitStack) -> None:
        """Adopt every loop that is made until `stack` is closed.

        Raises:
            RuntimeError: New loops would be made by uvloop.
        """
        if _is_from_uvloop(asyncio.get_event_loop_policy()):
            raise RuntimeError(_UVLOOP)
        self._exchange(stack, BaseSelectorEventLoop, self._adopting)
        uvloop = sys.modules.get("uvloop")
        if uvloop is not None:
            self._exchange(stack, uvloop.Loop, lambda original: _refuse_uvloop)

    def _exchange(self, stack: ExitStack, cls: Any, made_from: Callable[[Any], Any]) -> None:
        own = cls.__dict__.get("__init__")
        if own is None:
            stack.callback(delattr, cls, "__init__")
        else:
            stack.callback(setattr, cls, "__init__", own)
        cls.__init__ = made_from(cls.__init__)

    def _adopting(self, original: Callable[..., None]) -> Callable[..., None]:
        def init(loop: Any, *args: Any, **kwargs: Any) -> None:
            original(loop, *args, **kwargs)
            loop._selector = _Selector(loop._selector, loop, self._world)
            loop.time = self._world.now
            loop.call_later = partial(_call_later, weakref.ref(loop), self._world)
            self._adopted.add(loop)

        return init

    def check(self) -> None:
        """Refuse to tell the time to a loop that waits by another clock.

        Raises:
            RuntimeError: This thread runs such a loop.
        """
        loop = asyncio._get_running_loop()
        if loop is None or loop in self._adopted:
            return
        if _is_from_uvloop(loop):
            raise RuntimeError(_UVLOOP)
        raise RuntimeError(
            f"virtual_time() cannot stop the clock of {loop!r}: it drives the selector event "
            "loops that are made inside it"
        )


def _is_from_uvloop(thing: object) -> bool:
    return any(cls.__module__.partition(".")[0] == "uvloop" for cls in type(thing).__mro__)


def _refuse_uvloop(loop: object, *args: Any, **kwargs: Any) -> None:
    raise RuntimeError(_UVLOOP)
