"""The names of attributes, and the values that several places make of an error."""

from __future__ import annotations

from typing import Any, Final

from resilient._core.verdict import FailedAnswer
from resilient._decorate import Misuse
from resilient.errors import CallTimeoutError, RejectedError

Attributes = dict[str, Any]

POLICY_NAME: Final = "resilient.policy.name"
POLICY_KIND: Final = "resilient.policy.kind"
OUTCOME: Final = "resilient.outcome"
CALL_ATTEMPTS: Final = "resilient.call.attempts"
ATTEMPT_NUMBER: Final = "resilient.attempt.number"
ATTEMPT_KIND: Final = "resilient.attempt.kind"
POOL: Final = "resilient.pool.name"
MEMBER: Final = "resilient.pool.member.name"
ERROR_TYPE: Final = "error.type"

MEMBER_STATE: Final = "resilient.pool.member.state"
BREAKER_STATE: Final = "resilient.circuit_breaker.state"
BREAKER_OLD_STATE: Final = "resilient.circuit_breaker.previous_state"
DELAY: Final = "resilient.retry.delay"
REASON: Final = "resilient.rejection.reason"
RETRY_AFTER: Final = "resilient.rejection.retry_after"
TIMEOUT: Final = "resilient.timeout.seconds"
HEDGE_NUMBER: Final = "resilient.hedge.number"
HEDGE_RESULT: Final = "resilient.hedge.result"
SWITCH_REASON: Final = "resilient.failover.reason"
SWITCH_FROM: Final = "resilient.failover.previous_member"
CHAOS_EXPERIMENT: Final = "resilient.chaos.experiment"
CHAOS_FAULT: Final = "resilient.chaos.fault"
CHAOS_DELAY: Final = "resilient.chaos.delay"

FAILED: Final = frozenset({"failure", "rejected", "timeout"})


def outcome_of(error: BaseException | None) -> str:
    """How a call or an attempt ended that raised `error`, or returned."""
    if error is None:
        return "success"
    if isinstance(error, RejectedError):
        return "rejected"
    if isinstance(error, CallTimeoutError):
        return "timeout"
    # A misuse leaves the call as a TypeError.
    return "failure" if isinstance(error, (Exception, Misuse)) else "cancelled"


def type_of(error: BaseException) -> str:
    """The qualified name of an error's class; builtins go without their module."""
    if isinstance(error, FailedAnswer):
        return _type_of_answer(error)
    cls = TypeError if isinstance(error, Misuse) else type(error)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def _type_of_answer(answer: FailedAnswer) -> str:
    """An answer that is a failure has no exception: its status says what is wrong."""
    if answer.error is not None:
        return type_of(answer.error)
    status = answer.response
    for name in ("status_code", "status"):
        status = getattr(status, name, status)
    return str(status) if isinstance(status, int) else "_OTHER"


def error_type(error: BaseException | None) -> Attributes:
    """The attribute that names the error's class, if there is an error."""
    return {} if error is None else {ERROR_TYPE: type_of(error)}
