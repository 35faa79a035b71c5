"""The success path: what protection costs when nothing fails."""

from __future__ import annotations

import resilient as r

from bench import subjects as s
from bench.harness import Bar, Row, Table, added_async, added_sync


def sync_pipeline() -> Table:
    """Fallback, retry, breaker and bulkhead on a plain function."""
    found = added_sync(
        {
            "resilient, four policies": s.four()(s.bare),
            "tenacity": s.tenacity_retry()(s.bare),
            "stamina": s.stamina_retry()(s.bare),
            "pyresilience, four policies": s.pyresilience_four(s.bare),
        },
        s.bare,
    )
    ours = found["resilient, four policies"]
    return Table(
        "sync: fallback + retry + breaker(100) + bulkhead (tenacity, stamina: retry alone)",
        [Row(name, ns, f"{ns / ours:.1f}x") for name, ns in found.items()],
        [
            Bar("of tenacity's retry alone", ours / found["tenacity"], 1 / 12),
            Bar("of pyresilience's four", ours / found["pyresilience, four policies"], 1 / 5),
        ],
    )


def async_pipeline() -> Table:
    """The same plus a timeout per attempt, on a coroutine function."""
    found = added_async(
        {
            "resilient, five policies": s.five()(s.abare),
            "tenacity": s.tenacity_retry()(s.abare),
            "stamina": s.stamina_retry()(s.abare),
            "by hand: loop, semaphore, timeout": s.by_hand(s.abare),
        },
        s.abare,
    )
    ours = found["resilient, five policies"]
    hand = found["by hand: loop, semaphore, timeout"]
    return Table(
        "async: the same + timeout per attempt (tenacity, stamina: retry alone)",
        [Row(name, ns, f"{ns / ours:.1f}x") for name, ns in found.items()],
        [
            Bar("of tenacity's retry alone", ours / found["tenacity"], 1 / 8),
            Bar("of the code by hand", ours / hand, 1 / 1.7),
            Bar("of the code by hand, the goal", ours / hand, 1 / 2),
        ],
    )


def one_policy() -> list[Table]:
    """One policy alone on a plain function, beside each peer that has only that policy."""
    return [
        _alone(
            "sync: retry alone",
            r.Retry(on=OSError)(s.bare),
            {"tenacity": s.tenacity_retry()(s.bare), "stamina": s.stamina_retry()(s.bare)},
        ),
        _alone(
            "sync: circuit breaker alone",
            r.CircuitBreaker()(s.bare),
            {
                "pybreaker": s.pybreaker_breaker()(s.bare),
                "circuitbreaker": s.circuitbreaker_breaker()(s.bare),
                "interlock-cb": s.interlock_breaker()(s.bare),
            },
        ),
    ]


def _alone(title: str, ours: object, peers: dict[str, object]) -> Table:
    found = added_sync({"resilient": ours, **peers}, s.bare)  # type: ignore[dict-item]
    mine = found["resilient"]
    return Table(
        title,
        [Row(name, ns, f"{ns / mine:.1f}x") for name, ns in found.items()],
        [Bar(f"of {name}", mine / found[name], 1.0) for name in peers],
    )
