"""Orders of policies that are known to be wrong, and why.

Each policy says here what it is to the others: by its kind, and by the few attributes
that the checks read. A wrong order works, but not as meant, so it warns.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from resilient.errors import CallTimeoutError

if TYPE_CHECKING:
    from resilient._policy import Policy

    Stack = tuple[Policy[Any, Any], ...]


class CompositionWarning(UserWarning):
    """A pipeline's policies stand in an order that is known to be wrong."""


def check_order(stack: Stack) -> None:
    """Warn of each known mistake in `stack`, outermost first, at the caller's line."""
    for text in mistakes(stack):
        warnings.warn(text, CompositionWarning, stacklevel=_outside())


def _outside() -> int:
    """Count the frames from the caller of this to the first one outside of this library."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("resilient."):
        frame = frame.f_back
        level += 1
    return level


def mistakes(stack: Stack) -> Iterator[str]:
    """Describe each known mistake in `stack`, outermost first."""
    for index, outer in enumerate(stack):
        for inner in stack[index + 1 :]:
            text = _pair(outer, inner)
            if text:
                yield text


def _pair(outer: Any, inner: Any) -> str | None:
    if outer is inner and outer.stateful:
        return f"the same {outer.kind} stands twice in the pipeline, and counts each call twice"
    match outer.kind, inner.kind:
        case (("retry" | "hedge" | "circuit_breaker"), "fallback"):
            return (
                f"a fallback inside a {outer.kind}: it hides every failure from the "
                f"{outer.kind}; put the fallback outside"
            )
        case "retry", "retry":
            return (
                "a retry inside a retry: their attempts multiply, and so does the load on a "
                "failing backend; keep one of them"
            )
        case "hedge", "retry":
            return (
                "a hedge outside a retry: every hedge repeats all retries; put the hedge "
                "inside the retry"
            )
        case "timeout", "timeout" if inner.seconds >= outer.seconds:
            return (
                f"an inner timeout of {inner.seconds:g} s is no shorter than the outer one of "
                f"{outer.seconds:g} s, and can never be the one that ends the call"
            )
        case "retry", "timeout" if outer.ignores(CallTimeoutError):
            return (
                "a timeout inside a retry whose `on` does not match it: a timed-out attempt "
                "is not retried; add CallTimeoutError to `on`, or put the timeout outside"
            )
    return None
