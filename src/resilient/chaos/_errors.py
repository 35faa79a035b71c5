"""Making the errors that are injected: a new one for each call."""

from __future__ import annotations

import copy
from collections.abc import Callable

from resilient._call import name_of
from resilient._decorate import is_coroutine_function

# A class, an error to copy, or a function without arguments that makes one.
Error = type[Exception] | Exception | Callable[[], Exception]


def maker(error: Error) -> Callable[[], Exception]:
    """Return what makes a new error, of which no two share traceback and notes.

    Raises:
        TypeError: `error` is none of the things that it can be.
    """
    if isinstance(error, (BaseException, type)):
        cls = error if isinstance(error, type) else type(error)
        if not issubclass(cls, Exception):
            raise TypeError(
                f"{cls.__name__} cannot be injected: name an Exception, not what stops a "
                "program or a task"
            )
        if isinstance(error, type):
            return _by_class(cls)
        return _by_copy(error)  # pyright: ignore[reportArgumentType]
    if not callable(error) or is_coroutine_function(error):
        raise TypeError(
            f"error must be an exception, its class, or a plain function that makes one, not "
            f"{error!r:.80}"
        )
    return _by_function(error)


def _by_class(cls: type[Exception]) -> Callable[[], Exception]:
    try:
        cls()
    except Exception as failure:
        raise TypeError(
            f"{cls.__name__} cannot be made without arguments: give error={cls.__name__}(...)"
        ) from failure
    return cls


def _by_copy(error: Exception) -> Callable[[], Exception]:
    def make() -> Exception:
        return copy.copy(error)

    try:
        same = type(make()) is type(error)
    except Exception:
        same = False
    if not same:
        raise TypeError(
            f"{type(error).__name__} cannot be copied, and an error is raised once: give a "
            "function that makes one, error=lambda: ..."
        )
    return make


def _by_function(function: Callable[[], Exception]) -> Callable[[], Exception]:
    def make() -> Exception:
        error = function()
        if not isinstance(error, Exception):
            raise TypeError(
                f"{name_of(function)} must return an exception to inject, not "
                f"{type(error).__name__}"
            )
        return error

    return make
