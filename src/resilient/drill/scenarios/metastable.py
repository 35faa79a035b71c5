"""An overload that outlives its cause: a 10 s stall, one retry, and three kinds of budget.

The model of "Metastable Failures in Distributed Systems": 280 calls/s on a server of 300/s,
each with a timeout of one second and one retry. While the server stalls, requests queue up.
With a retry for each of them it gets 560/s afterwards, all of which have timed out when they
are served: it stays at zero although nothing is broken any more.
"""

from __future__ import annotations

from typing import Any

from resilient._core.backoff import constant
from resilient._core.budget import RetryBudget
from resilient.drill import Backend, Load, Outage, Published, Scenario, Study
from resilient.drill.scenarios._budgets import FilledByStarts
from resilient.errors import CallTimeoutError
from resilient.pipeline import Pipeline
from resilient.retry import Retry
from resilient.timeout import Timeout

RATE, CAPACITY, STALL = 280, 300, 10


def overload(budget: RetryBudget | None, attempts: int, *objectives: str) -> Scenario:
    """Stall the server soon after the start, and see whether it comes back."""
    server = Backend("server", capacity=1, latency=1 / CAPACITY)
    retry = Retry(CallTimeoutError, attempts=attempts, backoff=constant(0), budget=budget)
    protected: Any = Pipeline(retry, Timeout(1), name="client")(server.request)

    async def call() -> None:
        if isinstance(budget, FilledByStarts):
            budget.started()
        await protected()

    return Scenario(
        load=Load(RATE, arrivals="even"),
        seconds=165,
        drain=5,
        backends=[server],
        faults=[Outage("server", at=3, seconds=STALL, how="stall")],
        call=call,
        objectives=objectives,
    )


def scenario() -> Study:
    """Return the study."""
    return Study(
        "metastable",
        {
            "no retry": overload(None, 1),
            "no budget": overload(None, 2),
            "filled by starts": overload(FilledByStarts(), 2),
            "the library's": overload(RetryBudget(), 2, "recovery_time <= 160 s"),
        },
        title="an overload that outlives its cause",
        source='N. Bronson et al., "Metastable Failures in Distributed Systems", HotOS 2021',
        published=[
            Published("no budget", "recovery_time", None, "never: zero goodput for good"),
            Published("the library's", "recovery_time", None, "as fast as with no retries"),
        ],
    )
