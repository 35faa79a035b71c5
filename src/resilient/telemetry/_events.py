"""What happened, as an event on the current span and as a count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from resilient import events
from resilient._policy import Policy
from resilient.events import Event
from resilient.telemetry import _instruments, _settings
from resilient.telemetry._instruments import Instruments
from resilient.telemetry._names import (
    ATTEMPT_NUMBER,
    BREAKER_OLD_STATE,
    BREAKER_STATE,
    CALL_ATTEMPTS,
    CHAOS_DELAY,
    CHAOS_EXPERIMENT,
    CHAOS_FAULT,
    DELAY,
    HEDGE_NUMBER,
    MEMBER,
    POOL,
    REASON,
    RETRY_AFTER,
    SWITCH_FROM,
    SWITCH_REASON,
    TIMEOUT,
    Attributes,
    error_type,
)
from resilient.telemetry._scope import recording_span, suppressed

Fields = dict[str, Any]
Count = Callable[[Instruments, Attributes, Fields], None]
Describe = Callable[[Policy[Any, Any], Fields], Attributes]


def tell(policy: Policy[Any, Any], cls: type[Event], fields: Fields) -> None:
    """Tell of an event of `policy`."""
    if _settings.metering and cls in _COUNTS:
        _COUNTS[cls](_instruments.instruments, _instruments.named(policy), fields)
    if _settings.events and cls in _SPAN_EVENTS:
        span = recording_span()
        if span is not None and not suppressed():
            name, describe = _SPAN_EVENTS[cls]
            span.add_event(name, _instruments.named(policy) | describe(policy, fields))


def _scheduled(policy: Policy[Any, Any], fields: Fields) -> Attributes:
    return {
        ATTEMPT_NUMBER: fields["attempt"],
        DELAY: fields["delay"],
        **error_type(fields["error"]),
    }


def _exhausted(policy: Policy[Any, Any], fields: Fields) -> Attributes:
    return {CALL_ATTEMPTS: fields["attempts"], **error_type(fields["error"])}


def _states(fields: Fields) -> Attributes:
    return {BREAKER_OLD_STATE: fields["old"].value, BREAKER_STATE: fields["new"].value}


def _rejected(policy: Policy[Any, Any], fields: Fields) -> Attributes:
    after = fields["retry_after"]
    return {REASON: fields["reason"]} | ({} if after is None else {RETRY_AFTER: after})


def _switched(policy: Policy[Any, Any], fields: Fields) -> Attributes:
    old = {} if fields["old"] is None else {SWITCH_FROM: fields["old"]}
    return {POOL: policy.name, MEMBER: fields["new"], SWITCH_REASON: fields["reason"]} | old


def _injected(policy: Policy[Any, Any], fields: Fields) -> Attributes:
    found: Attributes = {CHAOS_FAULT: fields["fault"]}
    if fields["experiment"] is not None:
        found[CHAOS_EXPERIMENT] = fields["experiment"]
    if fields["member"] is not None:
        found[MEMBER] = fields["member"]
    if fields["delay"]:
        found[CHAOS_DELAY] = fields["delay"]
    return found


_SPAN_EVENTS: Final[dict[type[Event], tuple[str, Describe]]] = {
    events.RetryScheduled: ("resilient.retry.scheduled", _scheduled),
    events.RetryExhausted: ("resilient.retry.exhausted", _exhausted),
    events.CircuitStateChanged: (
        "resilient.circuit_breaker.state_change",
        lambda _, fields: _states(fields),
    ),
    events.CallRejected: ("resilient.rejected", _rejected),
    events.CallTimedOut: ("resilient.timeout", lambda _, fields: {TIMEOUT: fields["seconds"]}),
    events.HedgeLaunched: (
        "resilient.hedge.launched",
        lambda _, fields: {HEDGE_NUMBER: fields["number"]},
    ),
    events.HedgeWon: ("resilient.hedge.won", lambda _, fields: {HEDGE_NUMBER: fields["number"]}),
    events.FailoverSwitched: ("resilient.failover.switched", _switched),
    events.FallbackUsed: (
        "resilient.fallback.used",
        lambda _, fields: error_type(fields["error"]),
    ),
    events.FaultInjected: ("resilient.chaos.injected", _injected),
}


def _count_delay(to: Instruments, base: Attributes, fields: Fields) -> None:
    to.delay.record(fields["delay"], base)


def _count_rejection(to: Instruments, base: Attributes, fields: Fields) -> None:
    to.rejections.add(1, base | {REASON: fields["reason"]})


def _count_timeout(to: Instruments, base: Attributes, fields: Fields) -> None:
    to.timeouts.add(1, base)


def _count_switch(to: Instruments, base: Attributes, fields: Fields) -> None:
    to.switches.add(1, base | {SWITCH_REASON: fields["reason"], MEMBER: fields["new"]})


def _count_fallback(to: Instruments, base: Attributes, fields: Fields) -> None:
    to.fallbacks.add(1, base)


def _count_transition(to: Instruments, base: Attributes, fields: Fields) -> None:
    to.transitions.add(1, base | _states(fields))


_COUNTS: Final[dict[type[Event], Count]] = {
    events.RetryScheduled: _count_delay,
    events.CallRejected: _count_rejection,
    events.CallTimedOut: _count_timeout,
    events.FailoverSwitched: _count_switch,
    events.FallbackUsed: _count_fallback,
    events.CircuitStateChanged: _count_transition,
}
