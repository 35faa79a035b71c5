"""Three layers that each retry three times, over a dead leaf: requests per call, by budget.

Without a budget each layer multiplies the load by four. A budget filled by started calls lets
each add a tenth, also while everything fails. The library's is filled by successes, of which
there are none: what it has saved up is spent, and then the load is that of the callers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from resilient._core.backoff import constant
from resilient._core.budget import RetryBudget
from resilient._order import CompositionWarning
from resilient.drill import Backend, Load, Outage, Published, Scenario, Study
from resilient.drill.scenarios._budgets import FilledByStarts
from resilient.retry import Retry

LAYERS, ATTEMPTS = 3, 4


def tower(calls: int, new_budget: Callable[[], RetryBudget] | None, *objectives: str) -> Scenario:
    """Stack the layers over a leaf that is down all the time."""
    leaf = Backend("leaf")
    function: Any = leaf.request
    with warnings.catch_warnings():
        # That a retry inside a retry is a mistake is what this shows.
        warnings.simplefilter("ignore", CompositionWarning)
        for number in range(LAYERS, 0, -1):
            budget = None if new_budget is None else new_budget()
            function = _layer(f"layer-{number}", function, budget)
    return Scenario(
        load=Load(calls / 100, arrivals="even"),
        seconds=100,
        backends=[leaf],
        faults=[Outage("leaf", at=0, seconds=100)],
        call=function,
        objectives=objectives,
    )


def _layer(name: str, function: Any, budget: RetryBudget | None) -> Any:
    retry = Retry(ConnectionError, attempts=ATTEMPTS, backoff=constant(0), budget=budget, name=name)
    protected = retry(function)
    if not isinstance(budget, FilledByStarts):
        return protected

    async def started() -> Any:
        budget.started()
        return await protected()

    return started


def scenario() -> Study:
    """Return the study."""
    return Study(
        "retry-amplification",
        {
            "no budget": tower(500, None),
            "filled by starts": tower(15_000, lambda: FilledByStarts(capacity=10)),
            "the library's": tower(
                15_000, lambda: RetryBudget(capacity=10), "amplification <= 1.01"
            ),
        },
        title="three layers of three retries over a dead leaf",
        source="(attempts)^layers, (1 + ratio)^layers, and the budget's saved tokens",
        published=[
            Published("no budget", "amplification", 64, "64x"),
            Published("filled by starts", "amplification", 1.331, "1.33x"),
            Published("the library's", "amplification", 1.002, "1.002x"),
        ],
    )
