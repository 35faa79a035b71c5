"""What telemetry costs when nobody listens, and what the library keeps in memory."""

from __future__ import annotations

import gc
import tracemalloc

from opentelemetry import trace

import resilient as r
from resilient import telemetry

from bench import subjects as s
from bench.harness import Bar, Row, Table, added_sync


def no_sdk() -> Table:
    """Telemetry as shipped, without an SDK, against `spans="off"`."""
    tracer = trace.get_tracer("bench")

    def start_span(x: int) -> object:
        return tracer.start_span("x")

    def bare_span(x: int) -> object:
        return None

    pipeline, breaker = s.four()(s.bare), r.CircuitBreaker()(s.bare)
    shipped = added_sync({"pipeline": pipeline, "breaker": breaker}, s.bare)
    telemetry.configure(spans="off")
    try:
        off = added_sync({"pipeline": pipeline, "breaker": breaker}, s.bare)
    finally:
        telemetry.configure(spans="auto")
    span = added_sync({"start_span": start_span}, bare_span)["start_span"]
    return Table(
        "telemetry, no SDK",
        [
            Row("pipeline, as shipped", shipped["pipeline"]),
            Row('pipeline, spans="off"', off["pipeline"]),
            Row("breaker, as shipped", shipped["breaker"]),
            Row('breaker, spans="off"', off["breaker"]),
            Row("one start_span", span),
        ],
        [
            Bar("pipeline: start_spans added", (shipped["pipeline"] - off["pipeline"]) / span, 1),
            Bar("breaker: start_spans added", (shipped["breaker"] - off["breaker"]) / span, 0.5),
        ],
    )


def memory() -> Table:
    """Ten thousand breakers that have seen a hundred calls each, and many functions."""
    tracemalloc.start()
    try:
        before = _traced()
        breakers = [r.CircuitBreaker() for _ in range(10_000)]
        for breaker in breakers:
            for _ in range(100):
                with breaker.guard():
                    pass
        held = _traced() - before
        functions = [breaker(s.bare) for breaker in breakers]
        decorated = _traced() - before
        del functions, breakers
        retry = r.Retry(on=OSError)
        retry.call(s.bare, 1)
        before = _traced()
        for number in range(20_000):
            retry.call(lambda x, number=number: number, 1)
        grown = _traced() - before
    finally:
        tracemalloc.stop()
    return Table(
        "memory, bytes",
        [
            Row("10,000 breakers of 100 calls", held),
            Row("the same, each with a decorated function", decorated),
            Row("20,000 functions given to call", grown),
        ],
        [
            Bar("MB in 10,000 breakers", held / 1e6, 40),
            Bar("kB kept of 20,000 functions", grown / 1e3, 10),
        ],
    )


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
