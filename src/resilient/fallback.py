"""Fallback: an answer that is better than none, when everything further in has failed."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, Never, overload

from resilient import _observe
from resilient._call import AsyncCall, Call, SyncCall, name_of
from resilient._core.verdict import ExceptionTypes, Matcher, On, predicate
from resilient._decorate import Misuse, is_coroutine_function
from resilient._policy import Extra_co, Policy
from resilient.events import FallbackUsed

_MISSING: Final[Any] = object()


class Fallback(Policy[Never, Extra_co]):
    """Return a value, or what a function makes, in place of an error or a bad result.

    Args:
        value: What to return. Give this or `using`.
        using: Called as `using(outcome, *args, **kwargs)`, where `outcome` is the exception
            or the refused result; sync, or on async code also async.
        on: The exceptions to replace: a class, a tuple of classes or a predicate
            `(exception) -> bool`. Unlike elsewhere, the default of `Exception` includes this
            library's own rejections: they are what a fallback is for.
        unless: Classes that `on` would match but that are to come out.
        on_result: A predicate `(result) -> bool`; true replaces the result.
        name: Names the policy in events, errors and telemetry.

    If `using` fails, its error comes out, with what it was to replace as its cause.

    Raises:
        TypeError: Neither `value` nor `using` is given, or both.
    """

    kind: ClassVar[str] = "fallback"

    @overload
    def __init__(
        self,
        value: Extra_co,
        /,
        *,
        on: On = ...,
        unless: ExceptionTypes | tuple[()] = ...,
        on_result: Callable[[Any], bool] | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        /,
        *,
        value: Extra_co,
        on: On = ...,
        unless: ExceptionTypes | tuple[()] = ...,
        on_result: Callable[[Any], bool] | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        /,
        *,
        using: Callable[..., Awaitable[Extra_co]],
        on: On = ...,
        unless: ExceptionTypes | tuple[()] = ...,
        on_result: Callable[[Any], bool] | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        /,
        *,
        using: Callable[..., Extra_co],
        on: On = ...,
        unless: ExceptionTypes | tuple[()] = ...,
        on_result: Callable[[Any], bool] | None = ...,
        name: str | None = ...,
    ) -> None: ...
    def __init__(
        self,
        by_position: Any = _MISSING,
        /,
        *,
        value: Any = _MISSING,
        using: Callable[..., Any] | None = None,
        on: On = Exception,
        unless: ExceptionTypes | tuple[()] = (),
        on_result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if by_position is not _MISSING:
            value = _by_position(by_position, value)
        if (value is _MISSING) == (using is None):
            raise TypeError("Fallback needs either value=... or using=a_function, and not both")
        if using is not None and not callable(using):
            raise TypeError(f"using must be callable as using(outcome, ...), not {using!r}")
        self._matcher = Matcher(on, unless, rejections=True)
        self._on_result = predicate(on_result, "on_result")
        self._value = value
        self._using = using

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` protected; for plain functions."""
        on_result = self._on_result
        if self._using is not None and is_coroutine_function(self._using):
            raise TypeError(
                f"{name_of(self._using)} is a coroutine function, which cannot stand in for a "
                "plain one: give a plain function as using=..."
            )

        def fallback(args: Any, kwargs: Any, call: Call) -> Any:
            try:
                result = inner(args, kwargs, call)
            except Exception as error:
                if call.root.delivered or not self._matcher.matches(error):
                    raise
                return self._stand_in(error, error, args, kwargs, call)
            if on_result is not None and not call.root.delivered and on_result(result):
                return self._stand_in(None, result, args, kwargs, call)
            return result

        return fallback

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` protected; for coroutine functions."""
        on_result = self._on_result

        async def fallback(args: Any, kwargs: Any, call: Call) -> Any:
            try:
                result = await inner(args, kwargs, call)
            except Exception as error:
                if call.root.delivered or not self._matcher.matches(error):
                    raise
                return await self._astand_in(error, error, args, kwargs, call)
            if on_result is not None and not call.root.delivered and on_result(result):
                return await self._astand_in(None, result, args, kwargs, call)
            return result

        return fallback

    def _cannot(self, what: str) -> str:
        return (
            f"a fallback cannot protect {what}, whose first items may have been used when it "
            "fails: catch the error where the items are consumed"
        )

    def _used(self, error: Exception | None, call: Call) -> None:
        # Whoever counts further out must not take the value for the backend's answer.
        each: Call | None = call
        while each is not None:
            each.fell_back = True
            each = each.parent
        _observe.emit(self, FallbackUsed, call.function, error=error)

    def _stand_in(
        self, error: Exception | None, outcome: Any, args: Any, kwargs: Any, call: Call
    ) -> Any:
        self._used(error, call)
        if self._using is None:
            return self._value
        try:
            result = self._using(outcome, *args, **kwargs)
        except Exception as failure:
            _keep_cause(failure, error)
            raise
        if hasattr(type(result), "__await__"):
            if inspect.iscoroutine(result):
                result.close()
            raise Misuse(
                f"{name_of(self._using)} returned an awaitable, which cannot stand in for the "
                "result of a plain function: give a plain function as using=..."
            )
        return result

    async def _astand_in(
        self, error: Exception | None, outcome: Any, args: Any, kwargs: Any, call: Call
    ) -> Any:
        self._used(error, call)
        if self._using is None:
            return self._value
        try:
            result = self._using(outcome, *args, **kwargs)
            return await result if inspect.isawaitable(result) else result
        except Exception as failure:
            _keep_cause(failure, error)
            raise


def _by_position(given: Any, value: Any) -> Any:
    """The value, given without its name: not a function, which a decorator would pass here."""
    if value is not _MISSING:
        raise TypeError("Fallback was given `value` twice, by position and by keyword")
    if inspect.isroutine(given):
        raise TypeError(
            "Fallback was given a function: did you mean `@Fallback(value=...)`, or "
            "Fallback(using=...), which calls it? To return the function itself, write value=..."
        )
    return given


def _keep_cause(failure: BaseException, error: BaseException | None) -> None:
    """Put `error` at the end of the causes of `failure`, unless it is there already."""
    if error is None:
        return
    last = failure
    seen = {id(last)}
    while last is not error and last.__cause__ is not None and id(last.__cause__) not in seen:
        last = last.__cause__
        seen.add(id(last))
    if last is not error:
        last.__cause__ = error
