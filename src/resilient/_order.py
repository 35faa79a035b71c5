"""Orders of policies that are known to be wrong, and why.

Each policy says here what it is to the others: by its kind, and by the few attributes
that the checks read. A wrong order works, but not as meant, so it warns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resilient.errors import CallTimeoutError

if TYPE_CHECKING:
    from resilient._policy import Policy

    Stack = tuple[Policy[Any, Any], ...]


class CompositionWarning(UserWarning):
    """A pipeline's policies stand in an order that is known to be wrong."""


def check_order(stack: Stack, *, stacklevel: int) -> None:
    """Warn of each known mistake in `stack`, outermost first."""
    for text in mistakes(stack):
        warnings.warn(text, CompositionWarning, stacklevel=stacklevel + 1)


def mistakes(stack: Stack) -> Iterator[str]:
    """Describe each known mistake in `stack`, outermost first."""
    for index, outer in enumerate(stack):
        for inner in stack[index + 1 :]:
            text = _pair(outer, inner)
            if text:
                yield text


def _pair(outer: Any, inner: Any) -> str | None:
    if outer is inner:
        if not outer.stateful:
            return None
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
