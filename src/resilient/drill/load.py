"""The load: how many calls begin when."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import pairwise
from random import Random
from typing import Any, Final

from resilient.drill.checks import flag, number, one_of, whole
from resilient.drill.errors import ScenarioError

# Steps that stand for one slope.
_PIECES: Final = 50
# More calls than this would run for hours.
MOST_CALLS: Final = 20_000_000


class Load:
    """Calls that begin over time, whatever becomes of those before (an open load).

    Args:
        rate: Calls per second, 0 or more; or pairs `(second, rate)`, each rate holding from
            that second on.
        ramp: Whether the rate goes in straight lines between the pairs instead of steps.
        arrivals: `"poisson"` (the default) draws the gaps between calls, as independent
            callers do; `"even"` spaces them evenly.
        bursts: Pairs `(second, calls)`: so many calls at once, besides.
        keys: When given, each call has one argument, `"key-0"` up to this many less one,
            drawn evenly. For pools and policies that go by a key.

    Raises:
        ScenarioError: A value is of the wrong type or out of its range.
    """

    def __init__(
        self,
        rate: float | Sequence[tuple[float, float]] = 0,
        *,
        ramp: bool = False,
        arrivals: str = "poisson",
        bursts: Sequence[tuple[float, int]] = (),
        keys: int | None = None,
    ) -> None:
        points = _points(rate)
        self.steps = _ramped(points) if flag(ramp, "ramp") else points
        self.arrivals = one_of(arrivals, "arrivals", ("poisson", "even"))
        self.bursts = _bursts(bursts)
        self.keys = None if keys is None else whole(keys, "keys", least=1)
        if not self.bursts and not any(rate for _, rate in self.steps):
            raise ScenarioError("rate", "must be above 0 at some time: nobody calls otherwise")

    def expected(self, seconds: float) -> float:
        """How many calls it makes within so many seconds, on average."""
        ends = [at for at, _ in self.steps[1:]] + [math.inf]
        steady = sum(
            rate * max(0.0, min(end, seconds) - at)
            for (at, rate), end in zip(self.steps, ends, strict=True)
        )
        return steady + sum(calls for at, calls in self.bursts if at <= seconds)

    def times(self, seconds: float, source: Random) -> Iterator[float]:
        """The seconds at which calls begin, in order, before `seconds` have passed."""
        if not self.bursts:
            return self._steady(seconds, source)
        burst = (at for at, calls in self.bursts if at < seconds for _ in range(calls))
        return merge(self._steady(seconds, source), burst)

    def _steady(self, seconds: float, source: Random) -> Iterator[float]:
        even = self.arrivals == "even"
        ends = [at for at, _ in self.steps[1:]] + [seconds]
        for (start, rate), end in zip(self.steps, ends, strict=True):
            if rate == 0:
                continue
            # From the step's start each time: a sum of gaps would drift.
            until, number, at = min(end, seconds), 0, start
            while True:
                if even:
                    at = start + number / rate
                    number += 1
                else:
                    at += -math.log(1.0 - source.random()) / rate
                if at >= until:
                    break
                yield at


def _points(rate: Any) -> list[tuple[float, float]]:
    if not isinstance(rate, (list, tuple)):
        return [(0.0, number(rate, "rate"))]
    points: list[tuple[float, float]] = []
    for index, pair in enumerate(rate):
        at, value = _pair(pair, f"rate[{index}]")
        if points and at <= points[-1][0]:
            raise ScenarioError(f"rate[{index}][0]", f"must be after {points[-1][0]:g} s")
        points.append((at, value))
    if not points:
        raise ScenarioError("rate", "must be a number, or pairs of a second and a rate")
    return points


def _pair(pair: Any, key: str) -> tuple[float, float]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ScenarioError(key, f"must be a pair of a second and a number, not {pair!r}")
    return number(pair[0], f"{key}[0]"), number(pair[1], f"{key}[1]")


def _ramped(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    steps: list[tuple[float, float]] = []
    for (at, rate), (end, last) in pairwise(points):
        for piece in range(_PIECES):
            part = piece / _PIECES
            # The rate in the middle of the piece, so that the sum is right.
            middle = (piece + 0.5) / _PIECES
            steps.append((at + (end - at) * part, rate + (last - rate) * middle))
    return [*steps, points[-1]]


def _bursts(given: Any) -> list[tuple[float, int]]:
    if not isinstance(given, (list, tuple)):
        raise ScenarioError("bursts", "must be pairs of a second and a number of calls")
    found = []
    for index, pair in enumerate(given):
        at, _ = _pair(pair, f"bursts[{index}]")
        found.append((at, whole(pair[1], f"bursts[{index}][1]", least=1)))
    return sorted(found)
