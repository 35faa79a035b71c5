"""What is wanted, and whether anybody listens: what each call looks at first."""

from __future__ import annotations

from typing import Final

from opentelemetry import trace

from resilient import _observe
from resilient._runtime import modes

_NAME: Final = "resilient"

# Whether events go to the current span.
events: bool = True
# Whether a call that may become several attempts has a span.
call_spans: bool = True
# Whether first attempts, and functions protected by guards alone, have one too.
all_spans: bool = False
# Whether metrics are wanted.
metrics: bool = True
# Whether a meter provider has made our instruments real.
_listening: bool = False
# Both of the last two: what a call asks.
metering: bool = False

# The tracer in use, and the provider that it came from.
_tracer: tuple[object, trace.Tracer] = (trace, trace.get_tracer(_NAME))


def choose(spans: str, wanted: bool) -> None:
    """Take over what `configure` was given."""
    global events, call_spans, all_spans, metrics
    events = spans != "off"
    call_spans = spans in ("auto", "attempts")
    all_spans = spans == "attempts"
    metrics = wanted
    _weigh()


def listen() -> None:
    """A meter provider is there: from now on it is worth measuring."""
    global _listening
    _listening = True
    _weigh()


def _weigh() -> None:
    global metering
    metering = metrics and _listening
    modes.unwatched = not metering and not all_spans
    # Asked at each call that may become several attempts, so there is nothing in between.
    _observe.provider = provider if call_spans else nobody


def provider() -> object | None:
    """Return the tracer provider, or `None`: then no span and no event is of any use.

    This is the one place that reads a private name of the OpenTelemetry API. Asking in public,
    by `start_span`, costs more than all that this library does around a call. A provider
    that the environment names has been loaded by `get_tracer` above. Where the name is gone,
    something is returned, and `start_span` says by an invalid context that nobody listens.
    """
    try:
        return trace._TRACER_PROVIDER
    except AttributeError:
        return trace


def nobody() -> None:
    """Stand in for `provider` where no call spans are wanted, whoever listens."""


def hears() -> bool:
    """Whether an event would be counted, or may find a span."""
    return metering or (events and provider() is not None)


def tracer() -> trace.Tracer | None:
    """Return the tracer, or `None` when no tracer provider is set, so that no span is wanted."""
    global _tracer
    found = provider()
    if found is None:
        return None
    known = _tracer
    if known[0] is not found:
        known = _tracer = (found, trace.get_tracer(_NAME))
    return known[1]


_weigh()
