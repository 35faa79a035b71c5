"""Calls, attempts and events as OpenTelemetry spans and metrics.

It needs no set-up: as soon as the application sets a tracer or a meter provider, spans and
metrics appear, also for functions that were decorated before. Without a provider a call pays
for one look.

Spans, all of kind INTERNAL:
    `resilient.call {name}`: one call of a function whose pipeline holds a retry, a hedge or a
    pool. A function protected by guards alone has none: what happens there is an event on the
    span that is current.

    `resilient.attempt {name}`: an attempt from the second on, a hedge, or a member tried.

Span events:
    `resilient.retry.scheduled`, `resilient.retry.exhausted`,
    `resilient.circuit_breaker.state_change`, `resilient.rejected`, `resilient.timeout`,
    `resilient.hedge.launched`, `resilient.hedge.won`, `resilient.hedge.superseded`,
    `resilient.failover.switched`, `resilient.fallback.used`, `resilient.chaos.injected`.

Metrics, on the meter `resilient`:
    Histograms `resilient.call.duration` (s), `resilient.call.attempts` and
    `resilient.retry.delay` (s); counters `resilient.attempts`, `resilient.rejections`,
    `resilient.timeouts`, `resilient.hedges`, `resilient.failover.switches`,
    `resilient.fallbacks` and `resilient.circuit_breaker.transitions`; observable up-down
    counters `resilient.circuit_breaker.state`, `resilient.pool.member.state` (both 1 or 0 per
    state; policies of one name add up), `resilient.bulkhead.active`,
    `resilient.bulkhead.pending` and `resilient.bulkhead.limit`. Calls and attempts bear the
    pipeline's name, the others the policy's.

No argument, result or exception message is in any of them; `error.type` is the exception's
qualified name. A context in which instrumentation is suppressed gets no spans.
"""

from __future__ import annotations

from typing import Literal

from resilient import _observe
from resilient.telemetry import _settings
from resilient.telemetry._observer import TelemetryObserver

__all__ = ["configure"]

_MODES = ("auto", "off", "events", "attempts")


def configure(
    spans: Literal["auto", "off", "events", "attempts"] = "auto", metrics: bool = True
) -> None:
    """Choose what is told, for the whole process and at once, whatever was decorated before.

    Args:
        spans: `auto`: a span for each call that may become several attempts, and for each
            further attempt; `attempts`: also for first attempts and for functions protected
            by guards alone; `events`: only events on the span that is current; `off`: neither
            spans nor events. By default `auto`.
        metrics: Whether metrics are recorded. They are by default.

    Raises:
        TypeError: `metrics` is not a bool, or `spans` not a string.
        ValueError: `spans` is none of the four.
    """
    if not isinstance(spans, str):
        raise TypeError(f"spans must be one of {_MODES}, not {spans!r}")
    if spans not in _MODES:
        raise ValueError(f"spans must be one of {_MODES}, not {spans!r}")
    if not isinstance(metrics, bool):
        raise TypeError(f"metrics must be True or False, not {metrics!r}")
    _settings.choose(spans, metrics)


_observe.observer = TelemetryObserver()
_observe.hears = _settings.hears
