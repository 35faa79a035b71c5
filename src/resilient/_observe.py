"""Where events go out, and where telemetry is plugged in.

Policies call `emit`; nobody below this module knows who listens. An event object is made
only if somebody does. Telemetry comes on top and puts its `Observer` here.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilient.events import Event

if TYPE_CHECKING:
    from resilient._call import AsyncCall, AsyncStream, Call, Site, SyncCall, SyncStream
    from resilient._policy import Policy

Listener = Callable[[Event], object]
Unsubscribe = Callable[[], None]

_log = logging.getLogger("resilient")


class Listeners:
    """The subscribers of one policy, or of all. Swapped whole, so that reading needs no lock."""

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: tuple[tuple[object, Listener], ...] = ()

    def add(self, listener: Listener) -> Unsubscribe:
        """Call `listener` with each event from now on, until the returned function is called."""
        if not callable(listener):
            raise TypeError(f"a listener is called with each event; {listener!r} is not callable")
        if inspect.iscoroutinefunction(listener):
            raise TypeError(
                f"{listener!r} is a coroutine function, which nothing would await: give a plain "
                "function, which may put the event on a queue"
            )
        entry = (object(), listener)
        self.all = (*self.all, entry)

        def unsubscribe() -> None:
            self.all = tuple(one for one in self.all if one is not entry)

        return unsubscribe


class Observer:
    """What telemetry may do around calls and attempts; this one does nothing.

    The four `around` methods return what stands outermost in a decorated function's chain.
    """

    def around(self, inner: SyncCall[Any], site: Site) -> SyncCall[Any]:
        return inner

    def aaround(self, inner: AsyncCall[Any], site: Site) -> AsyncCall[Any]:
        return inner

    def around_stream(self, inner: SyncStream, site: Site) -> SyncStream:
        return inner

    def aaround_stream(self, inner: AsyncStream, site: Site) -> AsyncStream:
        return inner

    def begin_attempt(self, policy: Policy[Any, Any], call: Call) -> None:
        """A retry, hedge or pool starts the attempt `call`, not the first; see `Call.kind`."""

    def end_attempt(
        self, policy: Policy[Any, Any], call: Call, outcome: str, error: BaseException | None
    ) -> None:
        """The attempt `call` ended, in the context in which it began.

        Only the first time counts. A first attempt that succeeds is not reported: most do.
        """

    def event(
        self, policy: Policy[Any, Any], cls: type[Event], function: str, fields: dict[str, Any]
    ) -> None:
        """Something happened: `cls(policy=..., kind=..., function=..., **fields)`."""


# Whether telling of an event is of any use to telemetry now. Telemetry puts its own here.
hears: Callable[[], bool] = bool
# Who takes the spans of calls that may become several attempts, or `None`. Also telemetry's.
provider: Callable[[], object | None] = type(None)

observer = Observer()
everyone = Listeners()


def subscribe(listener: Listener) -> Unsubscribe:
    """Call `listener` with every event of every policy, in the thread or task it happens in.

    Args:
        listener: Takes one event of `resilient.events`. If it raises, that is logged on
            the logger `resilient`, and the call goes on.

    Returns:
        A function that ends the subscription.
    """
    return everyone.add(listener)


def heard(policy: Policy[Any, Any]) -> bool:
    """Whether anybody would hear an event of `policy`."""
    return bool(everyone.all or policy._listeners.all or hears())


def emit(policy: Policy[Any, Any], cls: type[Event], function: str, **fields: Any) -> None:
    """Tell telemetry and every listener what happened. Never call it with a lock held."""
    observer.event(policy, cls, function, fields)
    listeners = everyone.all + policy._listeners.all
    if not listeners:
        return
    tell(listeners, cls(policy=policy.name, kind=policy.kind, function=function, **fields))


def tell(listeners: tuple[tuple[object, Listener], ...], event: Event) -> None:
    """Call each listener with `event`; one that raises is logged, and the others are called."""
    for _, listener in listeners:
        try:
            listener(event)
        except Exception:
            _log.exception("a listener failed on %s", type(event).__name__)
