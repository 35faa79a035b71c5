"""Every error that this library raises on its own account.

::

    ResilienceError
    ├── RejectedError            the call was never made
    │   ├── CircuitOpenError
    │   ├── BulkheadFullError
    │   ├── WorkersExhaustedError
    │   └── PoolExhaustedError
    └── CallTimeoutError         also a TimeoutError

The error of a protected function is never wrapped: what the backend raised is what the
caller gets. Facts are attributes, plain values that survive pickling and copying; no
error holds another exception, so that none pins the frames of a failure.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BulkheadFullError",
    "CallTimeoutError",
    "CircuitOpenError",
    "PoolExhaustedError",
    "RejectedError",
    "ResilienceError",
    "WorkersExhaustedError",
]


def _rebuild(
    cls: type[ResilienceError], args: tuple[Any, ...], state: dict[str, Any]
) -> ResilienceError:
    error = cls.__new__(cls, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


class ResilienceError(Exception):
    """The base of every error raised by this library itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by message and attributes, whatever the constructor takes."""
        state = {k: v for k, v in self.__dict__.items() if k != "_origin"}
        for cls in type(self).__mro__:
            for name in cls.__dict__.get("__slots__", ()):
                state[name] = getattr(self, name)
        return _rebuild, (type(self), self.args, state)

    def __str__(self) -> str:
        """The message it was given, or else one made of its attributes, when it is read."""
        return super().__str__() or self._text()

    def __repr__(self) -> str:
        """The class and the same message: logs and test reports often show no more."""
        text = str(self)
        return f"{type(self).__name__}({text!r})" if text else f"{type(self).__name__}()"

    def _text(self) -> str:
        return ""


class RejectedError(ResilienceError):
    """The call was refused before it was made: the backend has seen nothing of it.

    Attributes:
        policy: The name of the policy that refused.
        retry_after: Seconds after which a call has a chance again, `None` if unknown.
    """

    # A refusal has to be cheap: no dict, and constructors that set attributes and no more. The
    # arguments given by position are kept by `BaseException.__new__`.
    __slots__ = ("policy", "retry_after")

    policy: str
    retry_after: float | None

    def __init__(
        self, message: str = "", /, *, policy: str = "", retry_after: float | None = None
    ) -> None:
        self.policy = policy
        self.retry_after = retry_after

    def _text(self) -> str:
        return f"{self.policy or 'a policy'} refused the call"


class CircuitOpenError(RejectedError):
    """The circuit breaker is open, isolated, or has all its probes under way.

    Attributes:
        state: The breaker's state, as a `CircuitState`.
        last_failure: The type of the failure that opened the circuit and where it was
            raised (`ConnectionError at client.py:42 in fetch`), `None` if isolated by hand.
    """

    __slots__ = ("last_failure", "state")

    state: Any
    last_failure: str | None

    def __init__(
        self,
        message: str = "",
        /,
        *,
        policy: str = "",
        retry_after: float | None = None,
        state: Any = None,
        last_failure: str | None = None,
    ) -> None:
        self.policy = policy
        self.retry_after = retry_after
        self.state = state
        self.last_failure = last_failure

    def _text(self) -> str:
        policy = self.policy or "the circuit breaker"
        if str(self.state) == "isolated":
            return f"{policy} is isolated: calls are refused until reset()"
        if str(self.state) == "half_open":
            text = f"{policy} is half-open and has all its probes under way"
        elif self.retry_after is None:
            text = f"{policy} is open"
        else:
            text = f"{policy} is open for another {self.retry_after:.3g} s"
        return text if self.last_failure is None else f"{text}; last failure: {self.last_failure}"


class BulkheadFullError(RejectedError):
    """Every permit of the bulkhead is taken, and so is its queue, or the wait was too long."""

    __slots__ = ()


class WorkersExhaustedError(RejectedError):
    """Every worker thread of the policy is busy, some perhaps with abandoned calls."""

    __slots__ = ()


class PoolExhaustedError(RejectedError):
    """No member of the pool can take the call.

    Attributes:
        members: The names of the pool's members.
    """

    __slots__ = ("members",)

    members: tuple[str, ...]

    def __init__(
        self,
        message: str = "",
        /,
        *,
        policy: str = "",
        retry_after: float | None = None,
        members: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, policy=policy, retry_after=retry_after)
        self.members = members


class CallTimeoutError(ResilienceError, TimeoutError):
    """The call ran out of the time that a policy gave it. It may have been executed.

    Since Python's `TimeoutError` is an `OSError`, `on=OSError` matches this error too.

    Attributes:
        policy: The name of the policy whose time was up.
        seconds: The time that the policy gave, in seconds.
    """

    policy: str
    seconds: float
    # The call, as a token, in whose pipeline the time ran out; set where it is raised.
    _origin: object = None

    def __init__(self, message: str = "", /, *, policy: str = "", seconds: float = 0.0) -> None:
        super().__init__(message or f"{policy or 'the call'} was not done in {seconds:g} s")
        self.policy = policy
        self.seconds = seconds
