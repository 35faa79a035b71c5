"""What an attempt's end says of the backend: success, failure, or nothing (neutral).

Neutral is never retried and never counted: an exception that `on` does not match (the
caller's mistake), whatever is no `Exception` (a cancellation, Ctrl-C), and a rejection made
by this library further in, which says nothing of the backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from resilient.errors import RejectedError

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]
Answer = bool | float | int | timedelta | None
On = ExceptionTypes | Callable[[Any], Answer]


def classes(value: object, name: str) -> tuple[type[BaseException], ...]:
    """Return `value`, an exception class or a tuple of them, as a checked, flat tuple."""
    if isinstance(value, type) and issubclass(value, BaseException):
        found: tuple[type[BaseException], ...] = (value,)
    elif isinstance(value, tuple):
        found = tuple(one for part in value for one in classes(part, name))
    else:
        raise TypeError(
            f"{name} must be an exception class or a tuple of them, not {value!r}{_hint(value)}"
        )
    return found


def _hint(value: object) -> str:
    """What to do instead, for what is often given where exception classes are meant."""
    if isinstance(value, (list, set, frozenset)):
        return ": write a tuple"
    if isinstance(value, BaseException):
        return f": write its class, {type(value).__name__}"
    if callable(value) and not isinstance(value, type):
        return ": a predicate is written on=..., and stands there alone"
    return ""


def _can_match(found: tuple[type[BaseException], ...]) -> None:
    for one in found:
        # `BaseException` and its group can stand for the exceptions below them.
        if not issubclass(one, Exception) and not issubclass(ExceptionGroup, one):
            raise TypeError(
                f"on names {one.__name__}, which is no Exception: cancellations and "
                "interrupts always pass through; name Exception or a class below it"
            )


class FailedAnswer(Exception):
    """An answer that says of itself that the call failed: a failure whatever `on` says.

    An integration raises it at the innermost place of a call, and catches it outside all the
    policies: it never reaches the caller.

    Attributes:
        response: The answer.
        delivered: Whether the caller has it already. Then it counts, for a circuit breaker,
            and nobody can put anything in its place.
        error: The exception that ended an answer half-way, if one did: then a circuit
            breaker judges that one.
    """

    def __init__(
        self,
        text: str,
        response: Any = None,
        *,
        delivered: bool = False,
        error: Exception | None = None,
    ) -> None:
        super().__init__(text)
        self.response = response
        self.delivered = delivered
        self.error = error


class LoopBlockedError(RuntimeError):
    """A call that would stop the event loop of its own thread: the caller's mistake.

    No `on` makes it a failure: a retry or a fallback would only hide what is to be mended.
    """


class Matcher:
    """`on` and `unless`, compiled: which exceptions are failures.

    `rejections` says whether this library's own rejections may match like any exception
    (a fallback's are meant for them); otherwise only a class that names `RejectedError`
    or one below it does. No predicate sees a rejection or a cancellation.
    """

    __slots__ = ("_never", "excluded", "named", "predicate", "rejections", "types")

    def __init__(
        self, on: On, unless: ExceptionTypes | tuple[()] = (), *, rejections: bool = False
    ) -> None:
        self.predicate: Callable[[Any], Answer] | None = None
        if not isinstance(on, (type, tuple)) and callable(on):
            self.predicate = predicate(on, "on")
            self.types: tuple[type[BaseException], ...] = (Exception,)
        else:
            self.types = classes(on, "on")
            _can_match(self.types)
        self.excluded = classes(unless, "unless")
        self._never = (*self.excluded, LoopBlockedError)
        self.rejections = rejections
        # With a predicate the only class here is `Exception`, which names no rejection.
        self.named = tuple(one for one in self.types if issubclass(one, RejectedError))

    def answer(self, error: BaseException) -> Answer:
        """What `on` says of `error`: false for no, true or a wait in seconds for yes."""
        if isinstance(error, FailedAnswer):
            return not error.delivered
        if not isinstance(error, self.types) or not isinstance(error, Exception):
            return False
        if isinstance(error, self._never):
            return False
        if isinstance(error, RejectedError) and not self.rejections:
            return isinstance(error, self.named)
        if self.predicate is None:
            return True
        answer = self.predicate(error)
        if answer is None or isinstance(answer, (bool, int, float, timedelta)):
            return answer
        # Such as a match object, or a response, whose truth is what is meant.
        return bool(answer)

    def matches(self, error: BaseException) -> bool:
        """Whether `error` is a failure."""
        answer = self.answer(error)
        return answer is not None and answer is not False


def matcher_of(
    policy: str,
    by_position: ExceptionTypes | None,
    on: On | None,
    unless: ExceptionTypes | tuple[()],
) -> Matcher | None:
    """Compile what `policy` was given; `None` if it was given neither `on`."""
    if by_position is None:
        if on is None:
            classes(unless, "unless")
            return None
        return Matcher(on, unless)
    if on is not None:
        raise TypeError(f"{policy} was given `on` twice, by position and by keyword")
    if not isinstance(by_position, (type, tuple)) and callable(by_position):
        raise TypeError(
            f"{policy} was given a function: did you mean `@{policy}(on=...)`? "
            "A predicate too is written on=..."
        )
    return Matcher(by_position, unless)


F = TypeVar("F", bound=Callable[..., Any] | None)


def predicate(value: F, name: str) -> F:
    """Return `value` if it is `None` or a plain function, whose answer needs no `await`."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a predicate that returns a bool, not {value!r}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} must be a plain predicate: nothing awaits a coroutine's answer")
    return value
