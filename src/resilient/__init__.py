"""Resilience patterns for services that must stay up."""

from __future__ import annotations

from typing import Any

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
from resilient.pipeline import Pipeline, pipeline_of
from resilient.retry import Retry
