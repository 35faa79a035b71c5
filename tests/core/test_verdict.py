"""Which exceptions are failures: `on` and `unless`, and what no `on` can name."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import pytest
import trio

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    RejectedError,
    ResilienceError,
)
from resilient._core.verdict import Matcher, matcher_of, predicate

CANCELLATIONS = [
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    SystemExit(),
    GeneratorExit(),
    BaseExceptionGroup("both", [KeyboardInterrupt()]),
]


@pytest.mark.parametrize("error", CANCELLATIONS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("on", [lambda error: True, BaseException, Exception])
def test_nothing_matches_a_cancellation_or_an_interrupt(on, error):
    """Neither a predicate that says yes to all, nor the class above all."""
    assert not Matcher(on).matches(error)


def test_nothing_matches_a_cancellation_of_trio():
    """It is one like asyncio's."""
    seen = []

    async def main():
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                seen.append(Matcher(lambda error: True).matches(error))
                raise

    trio.run(main)
    assert seen == [False]


@pytest.mark.parametrize(
    "on",
    [asyncio.CancelledError, KeyboardInterrupt, (OSError, SystemExit), GeneratorExit],
)
def test_naming_a_cancellation_is_refused(on):
    """It would never match."""
    with pytest.raises(TypeError, match="always pass through"):
        Matcher(on)


def test_unless_takes_classes_away():
    """Also from a predicate, which is then not asked."""
    assert not Matcher(OSError, ConnectionError).matches(ConnectionResetError())
    assert Matcher(OSError, (ConnectionError, ValueError)).matches(FileNotFoundError())
    assert not Matcher(lambda error: 1 / 0, OSError).matches(OSError())
    assert not Matcher(Exception, KeyboardInterrupt).matches(KeyboardInterrupt())


@pytest.mark.parametrize("error", [CircuitOpenError(), BulkheadFullError(), RejectedError()])
@pytest.mark.parametrize("on", [Exception, ResilienceError, lambda error: True, BaseException])
def test_a_rejection_matches_only_where_it_is_named(on, error):
    """A class above it, or a predicate, does not name it."""
    assert not Matcher(on).matches(error)
    assert Matcher(on, rejections=True).matches(error)
    assert Matcher((ValueError, RejectedError)).matches(error)


def test_a_named_rejection_names_no_other():
    """`CircuitOpenError` says nothing of a full bulkhead."""
    matcher = Matcher((Exception, CircuitOpenError))
    assert matcher.matches(CircuitOpenError())
    assert not matcher.matches(BulkheadFullError())
    assert not Matcher(RejectedError, CircuitOpenError).matches(CircuitOpenError())


def test_a_timeout_is_an_os_error():
    """As Python's own `TimeoutError` is."""
    assert Matcher(OSError).matches(CallTimeoutError())
    assert not Matcher(ConnectionError).matches(CallTimeoutError())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (True, True),
        (False, False),
        (None, False),
        (0, True),
        (0.0, True),
        (2.5, True),
        (timedelta(0), True),
        (timedelta(seconds=3), True),
        ([], False),
        ("", False),
        (re.match("a", "a"), True),
    ],
)
def test_what_a_predicate_may_answer(answer, expected):
    """Numbers and timedeltas are waits, also 0; of the rest the truth counts."""
    assert Matcher(lambda error: answer).matches(OSError()) is expected


@pytest.mark.parametrize(
    "bad", [None, "OSError", 5, int, (OSError, "x"), (OSError, int), OSError()]
)
def test_what_is_neither_class_nor_predicate_is_refused(bad):
    """When it is built."""
    with pytest.raises(TypeError):
        Matcher(bad)


@pytest.mark.parametrize("bad", [None, "OSError", lambda error: True, (OSError, int)])
def test_unless_takes_classes_only(bad):
    """A predicate belongs to `on`."""
    with pytest.raises(TypeError):
        Matcher(OSError, bad)


def test_tuples_may_be_nested():
    """As in an `except` clause."""
    assert Matcher((OSError, (ValueError, (KeyError,)))).matches(KeyError())


def test_a_coroutine_function_is_no_predicate():
    """Nothing would await its answer, which would always be true."""

    async def judge(value):
        return False

    with pytest.raises(TypeError, match="plain predicate"):
        Matcher(judge)
    with pytest.raises(TypeError, match="on_result must be a plain predicate"):
        predicate(judge, "on_result")
    with pytest.raises(TypeError, match="on_result"):
        predicate(5, "on_result")
    assert predicate(None, "on_result") is None


def test_by_position_go_classes_only():
    """A function there is a decorator that was not called."""
    assert matcher_of("Retry", OSError, None, ()).matches(OSError())
    assert matcher_of("Retry", None, None, ()) is None
    with pytest.raises(TypeError, match=re.escape("did you mean `@Retry(on=...)`?")):
        matcher_of("Retry", lambda: None, None, ())
    with pytest.raises(TypeError, match="twice"):
        matcher_of("Retry", OSError, OSError, ())


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ([OSError], "write a tuple"),
        (OSError("x"), "write its class, OSError"),
        ((len,), "a predicate is written on=..., and stands there alone"),
        (int, r"not <class 'int'>$"),
    ],
)
def test_a_refusal_says_what_to_write(bad, text):
    """Of what is often given in place of exception classes."""
    with pytest.raises(TypeError, match=text):
        Matcher(bad)
