"""A budget as it should not be, for contrast."""

from __future__ import annotations

from resilient._core.budget import RetryBudget


class FilledByStarts(RetryBudget):
    """A retry budget that started calls fill instead of successes: `started()` for each.

    In an outage it is filled as ever, and retries go on adding to the load.
    """

    __slots__ = ("_starts",)

    def __init__(self, *, ratio: float = 0.1, capacity: float = 100) -> None:
        self._starts = 0
        super().__init__(ratio=ratio, capacity=capacity)

    def started(self) -> None:
        """Count a call."""
        self._starts += 1

    @property
    def wins(self) -> int:
        """What is turned into tokens."""
        return self._starts

    @wins.setter
    def wins(self, value: int) -> None:
        """A success adds nothing."""
