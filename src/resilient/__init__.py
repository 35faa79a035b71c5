"""Resilience patterns for services that must stay up.

Circuit breakers, retries, timeouts, bulkheads, fallbacks, hedges and failover pools, as
composable policies: the same object on sync and async code, told in traces and metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient import telemetry as telemetry  # it puts itself in place
from resilient._attempts import attempt_number
from resilient._core.backoff import Backoff, constant, decorrelated, exponential
from resilient._core.budget import RetryBudget
from resilient._core.circuit import CircuitState
from resilient._core.deadline import remaining
from resilient._core.once import once
from resilient._decorate import asynchronous
from resilient._observe import subscribe
from resilient._order import CompositionWarning
from resilient._policy import Policy, policies
from resilient.bulkhead import Bulkhead
from resilient.circuit_breaker import CircuitBreaker
from resilient.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    PoolExhaustedError,
    RejectedError,
    ResilienceError,
    WorkersExhaustedError,
)
from resilient.fallback import Fallback
from resilient.hedge import Hedge, Quantile
from resilient.per_key import PerKey
from resilient.pipeline import Pipeline, pipeline_of
from resilient.retry import Retry
from resilient.timeout import Timeout

if TYPE_CHECKING:
    from resilient.failover import ActiveActive, ActivePassive, HealthCheck, Member, NPlusOne

__all__ = [
    "ActiveActive",
    "ActivePassive",
    "Backoff",
    "Bulkhead",
    "BulkheadFullError",
    "CallTimeoutError",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "CompositionWarning",
    "Fallback",
    "HealthCheck",
    "Hedge",
    "Member",
    "NPlusOne",
    "PerKey",
    "Pipeline",
    "Policy",
    "PoolExhaustedError",
    "Quantile",
    "RejectedError",
    "ResilienceError",
    "Retry",
    "RetryBudget",
    "Timeout",
    "WorkersExhaustedError",
    "asynchronous",
    "attempt_number",
    "constant",
    "decorrelated",
    "exponential",
    "once",
    "pipeline_of",
    "policies",
    "remaining",
    "subscribe",
]


_POOLS = frozenset({"ActiveActive", "ActivePassive", "HealthCheck", "Member", "NPlusOne"})


def __getattr__(name: str) -> Any:
    # On demand: pools are a quarter of the library, and not every service has one; the
    # installed metadata, where the version stands, costs more than all the rest.
    if name in _POOLS:
        from resilient import failover

        return getattr(failover, name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("resilient-patterns")
        except PackageNotFoundError as error:  # a source tree on the path
            # What `hasattr` and `inspect.getmembers` expect of a name that is not there.
            raise AttributeError("resilient is not installed, so its version is unknown") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
