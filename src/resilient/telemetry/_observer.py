"""What stands outermost in the chain of every protected function."""

from __future__ import annotations

from typing import Any

from resilient._call import Args, AsyncCall, AsyncStream, Call, Kwargs, Site, SyncCall, SyncStream
from resilient._observe import Observer
from resilient._policy import Policy
from resilient.events import Event
from resilient.telemetry import _calls, _events, _settings
from resilient.telemetry._calls import open_call
from resilient.telemetry._streams import aobserve_stream, observe_stream


class TelemetryObserver(Observer):
    """Spans and metrics around calls and attempts.

    What a call does first is to ask whether anybody listens, since mostly nobody does. It
    asks each time, because that may change after a function was decorated.
    """

    def around(self, inner: SyncCall[Any], site: Site) -> SyncCall[Any]:
        """Return `inner` observed; for plain functions."""
        repeats = site.repeats
        varies = site.may_repeat and not repeats

        def observed(args: Args, kwargs: Kwargs, call: Call) -> Any:
            spans = _settings.all_spans
            if repeats or (varies and site.repeats):
                spans = _settings.call_spans
            if not _settings.metering and (not spans or _settings.tracer() is None):
                return inner(args, kwargs, call)
            record = open_call(call, spans)
            if record is None:
                return inner(args, kwargs, call)
            with record:
                return inner(args, kwargs, call)

        return observed

    def aaround(self, inner: AsyncCall[Any], site: Site) -> AsyncCall[Any]:
        """Return `inner` observed; for coroutine functions."""
        repeats = site.repeats
        varies = site.may_repeat and not repeats

        # Not a coroutine function: where nobody listens, there is to be one coroutine less.
        def observed(args: Args, kwargs: Kwargs, call: Call) -> Any:
            spans = _settings.all_spans
            if repeats or (varies and site.repeats):
                spans = _settings.call_spans
            if not _settings.metering and (not spans or _settings.tracer() is None):
                return inner(args, kwargs, call)
            return watched(args, kwargs, call, spans)

        async def watched(args: Args, kwargs: Kwargs, call: Call, spans: bool) -> Any:
            record = open_call(call, spans)
            if record is None:
                return await inner(args, kwargs, call)
            with record:
                return await inner(args, kwargs, call)

        return observed

    def around_stream(self, inner: SyncStream, site: Site) -> SyncStream:
        """Return `inner` observed; for generator functions."""
        observed: SyncStream = _around_stream(inner, site, observe_stream)
        return observed

    def aaround_stream(self, inner: AsyncStream, site: Site) -> AsyncStream:
        """Return `inner` observed; for asynchronous generator functions."""
        observed: AsyncStream = _around_stream(inner, site, aobserve_stream)
        return observed

    def begin_attempt(self, policy: Policy[Any, Any], call: Call) -> None:
        """An attempt that is not the call's first starts, in its own context."""
        _calls.begin_attempt(policy, call)

    def end_attempt(
        self, policy: Policy[Any, Any], call: Call, outcome: str, error: BaseException | None
    ) -> None:
        """An attempt ended, in the context in which it began."""
        _calls.end_attempt(policy, call, outcome, error)

    def event(
        self, policy: Policy[Any, Any], cls: type[Event], function: str, fields: dict[str, Any]
    ) -> None:
        """Something happened."""
        _events.tell(policy, cls, fields)


def _around_stream(inner: Any, site: Site, observe: Any) -> Any:
    """Return `inner` observed; the colours differ in `observe` alone, as nothing waits here."""
    repeats = site.repeats
    varies = site.may_repeat and not repeats

    def observed(args: Args, kwargs: Kwargs, call: Call) -> Any:
        spans = _settings.all_spans
        if repeats or (varies and site.repeats):
            spans = _settings.call_spans
        record = open_call(call, spans)
        if record is None:
            return inner(args, kwargs, call)
        return observe(lambda: inner(args, kwargs, call), record)

    return observed
