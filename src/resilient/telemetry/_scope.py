"""Attaching a span to the context, and leaving it again, wherever that happens."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from resilient.telemetry._names import FAILED, OUTCOME, Attributes, error_type

_SPANS: Final = otel.create_key("resilient-spans")
# What `suppress_instrumentation()` of the instrumentations sets: a plain key, and one that
# has no public name yet.
_SUPPRESSED: Final = (
    "suppress_instrumentation",
    getattr(otel, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"),
)
# Its tokens tell whether the context at hand is the one that a scope was entered in.
_here: ContextVar[None] = ContextVar("resilient.telemetry.scope", default=None)


def suppressed() -> bool:
    """Whether instrumentation is switched off in this context."""
    current = otel.get_current()
    return any(current.get(key) for key in _SUPPRESSED)


def start(
    tracer: Tracer, name: str, attributes: Attributes, parent: Context | None = None
) -> Span | None:
    """Start a span, without attaching it; `None` if nobody wants it."""
    span = tracer.start_span(
        name, parent, attributes=attributes, record_exception=False, set_status_on_exception=False
    )
    return span if span.get_span_context().is_valid else None


def finish(span: Span, outcome: str, error: BaseException | None, attributes: Attributes) -> None:
    """End a span of our own. The error is told by its class alone: its text may hold data."""
    if span.is_recording():
        span.set_attributes(attributes | {OUTCOME: outcome})
        if outcome in FAILED:
            span.set_attributes(error_type(error))
            span.set_status(Status(StatusCode.ERROR))
    span.end()


def with_span(span: Span, base: Context | None = None) -> Context:
    """Return a context in which `span`, one of ours, is the current one."""
    further_out: Any = otel.get_value(_SPANS, base) or ()
    spans = (span, trace.get_current_span(base), *further_out)
    return otel.set_value(_SPANS, spans, trace.set_span_in_context(span, base))


def recording_span() -> Span | None:
    """Return the span that events belong to: the current one, if it has not ended.

    One of ours may have, in a worker that nobody waits for any more. Then it is the one
    around it.
    """
    span = trace.get_current_span()
    if span.is_recording():
        return span
    spans: Any = otel.get_value(_SPANS) or ()
    return next((outer for outer in spans if outer.is_recording()), None)


class Scope:
    """A context that is attached, from now until `leave()`; leaving it again does nothing.

    A coroutine may be destroyed, and an attempt end, in another context than it began in.
    OpenTelemetry's `detach` logs an error there; this leaves the other context alone.
    """

    __slots__ = ("_left", "_mark", "_outside", "_token", "inside")

    def __init__(self, inside: Context) -> None:
        self.inside = inside
        self._left = False
        self._outside = otel.get_current()
        self._mark = _here.set(None)
        self._token = otel.attach(inside)

    def leave(self) -> None:
        """Restore what was current before, if this is where it was."""
        if self._left:
            return
        try:
            _here.reset(self._mark)
        except ValueError:
            # A copy of the context, as in a worker, still has ours: not any longer.
            if otel.get_current() is self.inside:
                otel.attach(self._outside)
        else:
            self._left = True
            otel.detach(self._token)
