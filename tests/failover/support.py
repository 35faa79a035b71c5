"""Backends that fail on demand, and pools over them."""

from __future__ import annotations

from typing import Any

from resilient import CircuitBreaker
from resilient._runtime import waits


class Backends:
    """Targets are names; `down` are those that fail, `seen` those that were called."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.seen: list[str] = []

    def __call__(self, target: str, *args: Any) -> str:
        self.seen.append(target)
        if target in self.down:
            raise ConnectionError(target)
        return target

    def taken(self) -> list[str]:
        """What was called since the last time."""
        seen, self.seen = self.seen, []
        return seen


def quick(name: str) -> CircuitBreaker:
    """A breaker that opens at the first failure, for 5 to 5.5 seconds."""
    return CircuitBreaker(name, consecutive_failures=1, open_for=5)


def pass_time(seconds: float) -> None:
    """Wait so long on the virtual clock, other waits ending on the way."""
    waits.sleep(seconds)


def states(pool: Any) -> dict[str, str]:
    """The state of each member."""
    return {member.name: member.state for member in pool.snapshot().members}


def kinds(events: list[Any], *names: str) -> list[Any]:
    """Those events whose class has one of these names."""
    return [event for event in events if type(event).__name__ in names]
