"""The paths that a failing backend takes: one retry, and the refusal of an open breaker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import circuitbreaker
import pybreaker

import resilient as r

from bench import subjects as s
from bench.harness import Bar, Row, Table, added_sync


def _flaky(decorate: Callable[[Any], Any]) -> Callable[[int], Any]:
    """A function that fails each odd time it is run, protected."""
    state = [0]

    def fn(x: int) -> int:
        state[0] ^= x
        if state[0]:
            raise OSError
        return x

    return decorate(fn)  # type: ignore[no-any-return]


def one_failure() -> Table:
    """One failure, then success, without a wait."""
    found = added_sync(
        {
            "resilient": _flaky(r.Retry(on=OSError, backoff=r.constant(0), budget=None)),
            "tenacity": _flaky(s.tenacity_retry()),
        },
        s.bare,
        calls=500,
    )
    ours = found["resilient"]
    return Table(
        "sync: one failure, then success, no wait, retry alone",
        [Row(name, ns, f"{ns / ours:.1f}x") for name, ns in found.items()],
        [Bar("of tenacity", ours / found["tenacity"], 1 / 10)],
    )


def _refused(protected: Callable[[int], Any], errors: type[Exception]) -> Callable[[int], Any]:
    def call(x: int) -> None:
        try:
            protected(x)
        except errors:
            return

    return call


def refusal() -> Table:
    """An open breaker refuses."""

    def down(x: int) -> int:
        raise OSError

    ours = r.CircuitBreaker()
    ours_protected = ours(down)
    pybreaker_protected = s.pybreaker_breaker()(down)
    circuitbreaker_protected = s.circuitbreaker_breaker()(down)
    for protected in (ours_protected, pybreaker_protected, circuitbreaker_protected):
        for _ in range(20):
            try:
                protected(1)
            except Exception:
                continue
    found = added_sync(
        {
            "resilient": _refused(ours_protected, r.CircuitOpenError),
            "pybreaker": _refused(pybreaker_protected, pybreaker.CircuitBreakerError),
            "circuitbreaker": _refused(
                circuitbreaker_protected, circuitbreaker.CircuitBreakerError
            ),
        },
        s.bare,
        calls=500,
    )
    mine = found["resilient"]
    return Table(
        "sync: refusal by an open breaker",
        [Row(name, ns, f"{ns / mine:.1f}x") for name, ns in found.items()],
        [
            Bar("of pybreaker", mine / found["pybreaker"], 1.0),
            Bar("of circuitbreaker", mine / found["circuitbreaker"], 1.25),
        ],
    )
