"""What goes wrong when: the timeline of faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from resilient.drill.backend import Backend
from resilient.drill.checks import names, number, one_of, words
from resilient.drill.errors import ScenarioError

# More changes than this in one fault would be a mistake in its times.
_MOST_FLIPS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Span:
    """One backend is broken from `start` to `end`."""

    start: float
    end: float
    backend: str


class Fault:
    """The base of the faults.

    Args:
        backends: The name of the backend that breaks, or several.
        at: The second at which it begins, 0 or more.
        seconds: How long it lasts, above 0.

    Raises:
        ScenarioError: A value is of the wrong type or out of its range.
    """

    kind: ClassVar[str]

    def __init__(self, backends: str | Sequence[str], *, at: float, seconds: float) -> None:
        self.backends = names(backends, "backends")
        self.at = number(at, "at")
        self.seconds = number(seconds, "seconds", above=True)

    @property
    def end(self) -> float:
        """The second at which it is over."""
        return self.at + self.seconds

    def resolve(self, backends: dict[str, Backend]) -> tuple[str, ...]:
        """The names of the backends that it breaks.

        Raises:
            ScenarioError: The scenario has no such backend.
        """
        for name in self.backends:
            if name not in backends:
                known = ", ".join(backends)
                raise ScenarioError("backends", f"there is no backend {name!r}; there are {known}")
        return self.backends

    def spans(self) -> Iterable[tuple[float, float]]:
        """When it holds, as pairs of seconds."""
        yield self.at, self.end

    def set(self, backend: Backend, on: bool) -> None:
        """Break `backend`, or make it whole again."""
        raise NotImplementedError


class Outage(Fault):
    """A backend is down.

    Args:
        backends: The name of the backend, or several.
        at: The second at which it begins.
        seconds: How long it lasts.
        how: `"refuse"` (the default): connections are refused, those in flight break off;
            `"hang"`: nothing is ever answered; `"stall"`: it goes on queueing requests, and
            serves them afterwards.
    """

    kind = "outage"

    def __init__(
        self, backends: str | Sequence[str], *, at: float, seconds: float, how: str = "refuse"
    ) -> None:
        super().__init__(backends, at=at, seconds=seconds)
        self.how = one_of(how, "how", ("refuse", "hang", "stall"))

    def set(self, backend: Backend, on: bool) -> None:
        """Take `backend` down, or bring it back."""
        {"refuse": backend._refuse, "hang": backend._silence, "stall": backend._stall}[self.how](on)


class Slow(Fault):
    """A backend takes `factor` times as long, above 0. 10 by default."""

    kind = "slow"

    def __init__(
        self, backends: str | Sequence[str], *, at: float, seconds: float, factor: float = 10
    ) -> None:
        super().__init__(backends, at=at, seconds=seconds)
        self.factor = number(factor, "factor", above=True)

    def set(self, backend: Backend, on: bool) -> None:
        """Slow `backend` down, or let it be as fast as before."""
        backend._slow_down(self.factor, on)


class Errors(Fault):
    """A backend answers a `share` of its requests, above 0 and up to 1, with errors."""

    kind = "errors"

    def __init__(
        self, backends: str | Sequence[str], *, at: float, seconds: float, share: float
    ) -> None:
        super().__init__(backends, at=at, seconds=seconds)
        self.share = number(share, "share", most=1, above=True)

    def set(self, backend: Backend, on: bool) -> None:
        """Let `backend` err, or not any more."""
        backend._err(self.share, on)


class Flapping(Fault):
    """A backend is down for `down` seconds, up for `up` seconds, and so on. 1 by default."""

    kind = "flapping"

    def __init__(
        self,
        backends: str | Sequence[str],
        *,
        at: float,
        seconds: float,
        down: float = 1,
        up: float = 1,
    ) -> None:
        super().__init__(backends, at=at, seconds=seconds)
        self.down = number(down, "down", above=True)
        self.up = number(up, "up", above=True)
        if self.seconds / (self.down + self.up) > _MOST_FLIPS:
            raise ScenarioError("down", f"would flap more than {_MOST_FLIPS:,} times")

    def spans(self) -> Iterator[tuple[float, float]]:
        """When it is down."""
        flips, period = 0, self.down + self.up
        while (start := self.at + flips * period) < self.end:
            yield start, min(start + self.down, self.end)
            flips += 1

    def set(self, backend: Backend, on: bool) -> None:
        """Take `backend` down, or bring it back."""
        backend._refuse(on)


class RegionLoss(Fault):
    """All backends of a `region` are unreachable: nothing is ever answered."""

    kind = "region_loss"

    def __init__(self, region: str, *, at: float, seconds: float) -> None:
        self.region = words(region, "region")
        super().__init__(region, at=at, seconds=seconds)

    def resolve(self, backends: dict[str, Backend]) -> tuple[str, ...]:
        """The names of the backends in the region."""
        found = tuple(name for name, one in backends.items() if one.region == self.region)
        if not found:
            raise ScenarioError("region", f"there is no backend in the region {self.region!r}")
        return found

    def set(self, backend: Backend, on: bool) -> None:
        """Cut `backend` off, or let it be reached again."""
        backend._silence(on)


FAULTS: Final[dict[str, Any]] = {
    cls.kind: cls for cls in (Outage, Slow, Errors, Flapping, RegionLoss)
}
