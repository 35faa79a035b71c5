"""Client spans for the attempts, where OpenTelemetry's instrumentation of requests is at work.

It instruments `Session.send`, which is outside every adapter: one client span would stand
around all attempts, and none could bear `http.request.resend_count`. So each attempt goes
through that method once more, by a session that does nothing else, and gets a span of its own.
"""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import requests
from opentelemetry import context as otel
from opentelemetry import trace
from requests.adapters import BaseAdapter
from requests.cookies import RequestsCookieJar

_SCOPE: Final = "opentelemetry.instrumentation.requests"
# Set inside its spans, against a second one further in; it has no public name.
_SUPPRESSED: Final = getattr(otel, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", None)


def inside_client_span() -> bool:
    """Whether the current span is the instrumentation's, around `Session.send`.

    Where it is not, somebody may have switched the instrumentation off.
    """
    if _SUPPRESSED is None:
        return False
    span: Any = trace.get_current_span()
    scope = getattr(span, "instrumentation_scope", None)
    return getattr(scope, "name", None) == _SCOPE


class Spans:
    """Sends by an adapter, as its caller would, within a client span."""

    def __init__(self, inner: BaseAdapter) -> None:
        self._session = _Session(inner)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send once, in the current context but for the mark that suppresses the span."""
        # The request is the attempt's own. The hooks are for the outer session to call, and
        # the body is left for whoever has asked for it.
        request.hooks = {}
        options["stream"] = True
        token = otel.attach(otel.set_value(str(_SUPPRESSED), None))
        try:
            return self._session.send(request, allow_redirects=False, **options)
        finally:
            otel.detach(token)


class _Session(requests.Session):
    """A session around one adapter, that keeps and adds nothing."""

    def __init__(self, inner: BaseAdapter) -> None:
        super().__init__()
        self.adapters.clear()
        self.trust_env = False
        self.cookies = RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        self._inner = inner

    def get_adapter(self, url: str | bytes) -> Any:
        return self._inner

    def resolve_redirects(self, *args: Any, **options: Any) -> Any:
        return iter(())
