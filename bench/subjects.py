"""Who is measured: this library, the peers at their newest, and code written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import circuitbreaker
import interlock
import pybreaker
import pyresilience
import stamina
import tenacity

import resilient as r


def bare(x: int) -> int:
    """The protected function."""
    return x


async def abare(x: int) -> int:
    """The protected coroutine function."""
    return x


def four(**options: Any) -> r.Pipeline[Any, Any]:
    """Fallback, retry, breaker over 100 calls, bulkhead."""
    return r.Pipeline(
        r.Fallback(0),
        r.Retry(on=OSError),
        r.CircuitBreaker(window_calls=100),
        r.Bulkhead(32),
        name="four",
        **options,
    )


def five(seconds: float = 30) -> r.Pipeline[Any, Any]:
    """The same plus a timeout per attempt."""
    return r.Pipeline(
        r.Fallback(0),
        r.Retry(on=(OSError, r.CallTimeoutError)),
        r.CircuitBreaker(window_calls=100),
        r.Bulkhead(10_000),
        r.Timeout(seconds),
        name="five",
    )


def pyresilience_four(fn: Any) -> Any:
    """The same four policies by pyresilience."""
    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(retry_on=(OSError,)),
        circuit_breaker=pyresilience.CircuitBreakerConfig(
            sliding_window_size=100, failure_rate_threshold=0.5, minimum_calls=10
        ),
        bulkhead=pyresilience.BulkheadConfig(max_concurrent=32),
        fallback=pyresilience.FallbackConfig(handler=0),
    )(fn)


def by_hand(fn: Callable[[int], Any], *, limit: int = 32, seconds: float = 30) -> Any:
    """What an engineer writes without a library: a loop, a semaphore, a timeout."""
    permits = asyncio.Semaphore(limit)

    async def call(x: int) -> Any:
        for attempt in range(3):
            try:
                async with permits, asyncio.timeout(seconds):
                    return await fn(x)
            except (OSError, TimeoutError):
                if attempt == 2:
                    raise
                await asyncio.sleep(0.1 * 2**attempt)
        return None

    return call


def tenacity_retry(**options: Any) -> Any:
    """Tenacity's retry, set like ours."""
    return tenacity.retry(
        retry=tenacity.retry_if_exception_type(OSError),
        stop=tenacity.stop_after_attempt(3),
        reraise=True,
        **options,
    )


def stamina_retry() -> Any:
    """Stamina's retry, set like ours."""
    return stamina.retry(on=OSError, attempts=3)


def pybreaker_breaker() -> Any:
    """Pybreaker's breaker as a decorator."""
    return pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)


def circuitbreaker_breaker() -> Any:
    """The circuitbreaker package's decorator."""
    return circuitbreaker.circuit(failure_threshold=5, recovery_timeout=60)


def interlock_breaker() -> Any:
    """Interlock's breaker as a decorator."""
    return interlock.CircuitBreaker(name="bench")
