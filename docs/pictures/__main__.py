"""`python -m docs.pictures`: draw every picture afresh, next to this file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from docs.pictures import pools, scenes, states
from docs.pictures.scenes import record

HERE = Path(__file__).parent

PICTURES: dict[str, Callable[[], str]] = {
    "circuit-breaker": states.circuit_breaker,
    "retry": partial(
        record, scenes.retry, "Three attempts of one call", 3, 0.5,
        ("the caller waits", "attempt 1", "backoff"),
    ),
    "timeout": partial(record, scenes.timeout, "Calls under a timeout of two seconds", 4, 1),
    "bulkhead": partial(
        record, scenes.bulkhead, "Five calls, two permits, a queue of two", 2.5, 0.5,
        tuple(f"call {name}" for name in "ABCDE"),
    ),
    "hedge": partial(
        record, scenes.hedge, "A hedge that wins", 2, 0.5, ("the caller waits",),
    ),
    "fallback": partial(
        record, scenes.fallback, "A fallback stands in", 1, 0.2, ("the caller waits",),
    ),
    "pipeline": partial(
        record, scenes.pipeline, "One call through a pipeline", 6, 1,
        ("the caller waits", "attempt 1", "backoff"),
    ),
    "active-active": partial(
        record, pools.active_active, "Three members share the load", 12, 1,
        ("b is down", "a", "b", "c"),
    ),
    "active-passive": partial(
        record, pools.active_passive, "A replica is promoted", 12, 1,
        ("primary is down", "primary", "replica", "the pool"),
    ),
    "n-plus-one": partial(
        record, pools.n_plus_one, "A spare covers one active", 12, 1,
        ("shard-b is down", "shard-a", "shard-b", "spare", "the pool"),
    ),
}  # fmt: skip

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / f"{name}.svg").write_text(draw(), encoding="utf-8")
