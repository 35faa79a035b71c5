"""The time that an attempt has left, for the client's own timeouts."""

from __future__ import annotations

from typing import Final

from resilient._core import clock, deadline
from resilient._runtime import waits
from resilient.errors import CallTimeoutError

# Seconds by which a client's timer may be ahead of the deadline's, set to the same moment.
_AHEAD: Final = 0.01
# Seconds that a deadline whose moment has come is given to strike.
_GRACE: Final = 0.1


def left() -> float | None:
    """Seconds until the nearest deadline; `None` without one.

    Raises:
        CallTimeoutError: It has passed: what cannot end in time is not begun.
    """
    limit = deadline.nearest()
    if limit is None:
        return None
    seconds = limit.at - clock.now()
    if seconds <= 0:
        limit.blamed = True
        raise CallTimeoutError(policy=limit.policy, seconds=limit.seconds)
    return seconds


def least(given: float | None, seconds: float | None) -> float | None:
    """The shorter of two times, where `None` is no bound."""
    if given is None or seconds is None:
        return seconds if given is None else given
    return min(given, seconds)


async def give_way() -> None:
    """Let a deadline strike whose moment has come: it is what the caller has asked for.

    The client's timer and the deadline's were set to the same moment, and either may be
    first; the deadline's cancels this.
    """
    limit = deadline.nearest()
    if limit is None:
        return
    ahead = limit.at - clock.now()
    if ahead <= _AHEAD:
        await waits.asleep(max(0.0, ahead) + _GRACE)
