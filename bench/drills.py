"""What a drill takes: ten simulated minutes, and the memory that they need."""

from __future__ import annotations

import time
import tracemalloc

from resilient import Bulkhead, CallTimeoutError, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.drill import Backend, Errors, Outage, Scenario, lognormal, run

from bench.harness import Bar, Row, Table

RATE = 300


def ten_minutes() -> Table:
    """Ten simulated minutes at 300 calls/s through five policies, with faults."""
    started = time.perf_counter()
    report = run(_scenario(600))
    took = time.perf_counter() - started
    calls = report.runs["run"].metrics["calls"] or 1
    short, long = _peak(60), _peak(300)
    return Table(
        "a drill: ten minutes of 300 calls/s through five policies",
        [
            Row("per call", took / calls * 1e9, f"{calls:,.0f} calls in {took:.1f} s"),
            Row("memory, bytes, one minute", short),
            Row("memory, bytes, five minutes", long),
        ],
        [
            Bar("seconds for ten minutes", took, 20),
            Bar("memory of five minutes, of one minute's", long / short, 1.1),
        ],
    )


def _scenario(seconds: float) -> Scenario:
    pipeline = Pipeline(
        Timeout(10),
        Retry(on=(ConnectionError, CallTimeoutError)),
        CircuitBreaker(),
        Bulkhead(100),
        Timeout(1),
        name="drilled",
    )
    return Scenario(
        load=RATE,
        seconds=seconds,
        backends=[Backend("api", latency=lognormal(0.02, 0.2), capacity=40, queue=200)],
        faults=[
            Errors("api", at=seconds * 0.2, seconds=seconds * 0.1, share=0.2),
            Outage("api", at=seconds * 0.5, seconds=seconds * 0.05),
        ],
        policy=pipeline,
    )


def _peak(seconds: float) -> int:
    tracemalloc.start()
    try:
        run(_scenario(seconds))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
