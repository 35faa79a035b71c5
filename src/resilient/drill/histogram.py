"""Percentiles in bounded memory: counts on a logarithmic scale, 1 % wide."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Final

# Below this many seconds all is one.
_LEAST: Final = 1e-6
_WIDTH: Final = math.log(1.01)
_OFFSET: Final = math.log(_LEAST)


class Histogram:
    """How often which duration was seen, right to half a per cent."""

    __slots__ = ("counts", "most", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0
        self.most = 0.0

    def add(self, seconds: float) -> int:
        """Count a duration; return the step it falls on."""
        step = step_of(seconds)
        self.counts[step] = self.counts.get(step, 0) + 1
        self.total += 1
        if seconds > self.most:
            self.most = seconds
        return step

    def percentile(self, percent: float) -> float | None:
        """The duration that `percent` of those seen do not exceed; `None` if none was seen."""
        if not self.total:
            return None
        if percent >= 100:
            return self.most
        found = percentile(self.counts, self.total, percent)
        return min(found, self.most)


def step_of(seconds: float) -> int:
    """The step of the scale that `seconds` fall on."""
    return int((math.log(seconds) - _OFFSET) / _WIDTH) if seconds > _LEAST else 0


def percentile(counts: dict[int, int], total: int, percent: float) -> float:
    """The duration that `percent` of `total` counted ones do not exceed."""
    wanted = max(1, math.ceil(total * percent / 100 - 1e-9))
    steps = sorted(counts)
    sums = accumulate(counts[step] for step in steps)
    step = next(step for step, seen in zip(steps, sums, strict=True) if seen >= wanted)
    return 0.0 if step == 0 else math.exp(_OFFSET + (step + 0.5) * _WIDTH)
