"""`http.request.resend_count` on the client spans of OpenTelemetry's own instrumentation."""

from __future__ import annotations

from typing import Any, Final

from resilient._attempts import attempt_number

RESEND_COUNT: Final = "http.request.resend_count"


def otel_request_hook(span: Any, *request: Any) -> None:
    """Set `http.request.resend_count` on the client span of a request that is sent again.

    Give it as `request_hook=` to an instrumentation of OpenTelemetry, or call it from your own.

    Args:
        span: The client span that has begun.
        request: What the instrumentation tells of the request; not looked at.
    """
    number = attempt_number()
    if number > 1 and span is not None and span.is_recording():
        span.set_attribute(RESEND_COUNT, number - 1)


async def async_otel_request_hook(span: Any, *request: Any) -> None:
    """As `otel_request_hook`, where an instrumentation awaits its hook."""
    otel_request_hook(span, *request)
