"""One call, and each attempt of it, as spans and metrics."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.trace import Span, Tracer

from resilient._call import Call, Site
from resilient._core import clock
from resilient._policy import Policy
from resilient.telemetry import _instruments, _settings
from resilient.telemetry._names import (
    ATTEMPT_KIND,
    ATTEMPT_NUMBER,
    CALL_ATTEMPTS,
    HEDGE_RESULT,
    MEMBER,
    OUTCOME,
    POLICY_KIND,
    POLICY_NAME,
    POOL,
    Attributes,
    error_type,
    outcome_of,
)
from resilient.telemetry._scope import (
    Scope,
    finish,
    recording_span,
    start,
    suppressed,
    with_span,
)


class AttemptRecord:
    """What telemetry keeps with one attempt, in `Call.span`."""

    __slots__ = ("counts", "ended", "scope", "span")

    def __init__(self) -> None:
        self.span: Span | None = None
        self.scope: Scope | None = None
        self.ended = False
        # Not if members of a pool were tried in it: then those are what was attempted.
        self.counts = True

    def open(self, span: Span | None, base: Context | None = None) -> None:
        """Make `span` the attempt's, and the current one."""
        if span is not None:
            self.span = span
            self.scope = Scope(with_span(span, base))

    def close(self, call: Call, outcome: str, error: BaseException | None) -> None:
        """The attempt is over; only the first time counts."""
        first, self.ended = not self.ended, True
        if first and self.counts and _settings.metering:
            attributes = of_site(call.site) | {OUTCOME: outcome, ATTEMPT_KIND: call.kind}
            _instruments.instruments.attempts.add(1, attributes)
        if self.scope is not None:
            # Also if it was ended before, by a worker: this may be where it was entered.
            self.scope.leave()
        if first and self.span is not None:
            finish(self.span, outcome, error, {})


class CallRecord(AttemptRecord):
    """What telemetry keeps with a call as its caller made it, and with its first attempt."""

    __slots__ = ("_call", "_scope", "_span", "_started", "inside")

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._started = clock.now()
        self._span: Span | None = None
        self._scope: Scope | None = None
        # The context that the call's attempts stand in; `None` without a span of its own.
        self.inside: Context | None = None

    def start(self, tracer: Tracer) -> None:
        """Start the call's span."""
        site = self._call.site
        self._span = start(tracer, f"resilient.call {site.name}", of_site(site))
        if self._span is not None:
            self.inside = with_span(self._span)

    def __enter__(self) -> None:
        if self.inside is not None:
            self._scope = Scope(self.inside)
            self.enter_first()

    def enter_first(self) -> None:
        """Start the first attempt's span, if it is to have one."""
        if _settings.all_spans and self._call.site.repeats:
            self.open(_start_attempt(None, self._call, self.inside))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """The call is over."""
        call = self._call
        outcome = outcome_of(error)
        if error is None and call.fell_back:
            outcome = "fallback"
            # Nobody has told how the only attempt ended for which something stood in.
            self.close(call, "failure" if call.entered else "rejected", None)
        else:
            self.close(call, outcome, error)
        if _settings.metering:
            self._measure(outcome, error)
        if self._scope is not None:
            self._scope.leave()
        if self._span is not None:
            finish(self._span, outcome, error, {CALL_ATTEMPTS: call.attempts})

    def _measure(self, outcome: str, error: BaseException | None) -> None:
        attributes = of_site(self._call.site) | {OUTCOME: outcome} | error_type(error)
        _instruments.instruments.duration.record(clock.now() - self._started, attributes)
        _instruments.instruments.call_attempts.record(self._call.attempts, attributes)


def of_site(site: Site) -> Attributes:
    """The attributes that say whose call it is: the pipeline's name."""
    alone = len(site.policies) == 1 and site.pipeline_name is None
    return {POLICY_NAME: site.name, POLICY_KIND: site.policies[0].kind if alone else "pipeline"}


def open_call(call: Call, spans: bool) -> CallRecord | None:
    """Decide, before anything is done, what to tell of `call`: `None` if nothing."""
    tracer = _settings.tracer() if spans else None
    if tracer is not None and suppressed():
        tracer = None
    if tracer is None and not _settings.metering:
        return None
    record = CallRecord(call)
    if tracer is not None:
        record.start(tracer)
    if record.inside is None and not _settings.metering:
        return None
    call.span = record
    return record


def begin_attempt(policy: Policy[Any, Any], call: Call) -> None:
    """An attempt that is not the call's first starts, in its own context."""
    root = call.root.span
    if isinstance(root, CallRecord):
        if call.member is not None and call.parent is not None:
            _record_of(call.parent).counts = False
        record = call.span = AttemptRecord()
        if root.inside is not None:
            record.open(_start_attempt(policy, call, _parent(root)))
    elif _is_block(call) and _settings.call_spans:
        record = call.span = AttemptRecord()
        # First attempts that succeed are not reported by blocks: none is counted.
        record.counts = False
        record.open(_start_attempt(policy, call, None))


def _record_of(call: Call) -> Any:
    """What is kept with an attempt, also if a worker was handed a record of its own for it."""
    each = call
    while each.span is None and each.parent is not None and _is_same(each, each.parent):
        each = each.parent
    return each.span


def _is_same(call: Call, parent: Call) -> bool:
    return call.number == parent.number and call.kind == parent.kind


def _is_block(call: Call) -> bool:
    """Whether the attempts are blocks in the caller's code, with no call around them."""
    return not call.site.function and call.fn is None


def _parent(root: CallRecord) -> Context | None:
    """The context to start an attempt in: the current one, but not the first attempt's.

    A hedge is launched while the first attempt is under way, and is no part of it.
    """
    first = root.scope
    if first is not None and otel.get_current() is first.inside:
        return root.inside
    return None


def _start_attempt(
    policy: Policy[Any, Any] | None, call: Call, parent: Context | None
) -> Span | None:
    tracer = _settings.tracer()
    if tracer is None or suppressed():
        return None
    attributes = of_site(call.site)
    attributes[ATTEMPT_NUMBER] = call.number
    attributes[ATTEMPT_KIND] = call.kind
    if policy is not None and call.member is not None:
        attributes |= {POOL: policy.name, MEMBER: call.member}
    return start(tracer, f"resilient.attempt {call.site.name}", attributes, parent)


def end_attempt(
    policy: Policy[Any, Any], call: Call, outcome: str, error: BaseException | None
) -> None:
    """An attempt ended, in the context in which it began."""
    record = _record_of(call)
    if record is None:
        return
    if record.ended:
        record.close(call, outcome, error)
        return
    if outcome == "failure" and error is not None:
        outcome = outcome_of(error)
    # A member that a hedge goes to is part of the hedge, and no further one.
    if call.kind == "hedge" and call.member is None and _settings.metering:
        attributes = _instruments.named(policy)
        attributes[HEDGE_RESULT] = "won" if outcome == "success" else outcome
        _instruments.instruments.hedges.add(1, attributes)
    if outcome == "superseded" and _settings.events:
        _tell_superseded(policy, record, call)
    record.close(call, outcome, error)


def _tell_superseded(policy: Policy[Any, Any], record: AttemptRecord, call: Call) -> None:
    span = record.span or recording_span()
    if span is not None and not suppressed():
        attributes = _instruments.named(policy) | {ATTEMPT_NUMBER: call.number}
        span.add_event("resilient.hedge.superseded", attributes)
