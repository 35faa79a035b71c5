"""The errors: their tree, their attributes, and that they survive pickling and copying."""

from __future__ import annotations

import copy
import pickle

import pytest

from resilient import CircuitState, errors
from resilient.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    PoolExhaustedError,
    RejectedError,
    ResilienceError,
    WorkersExhaustedError,
)


class Own(RejectedError):
    """One that a user derives, with an attribute and a constructor of its own."""

    def __init__(self, key: int) -> None:
        super().__init__(f"key {key}", policy="own")
        self.key = key


MADE = [
    ResilienceError("text"),
    RejectedError("text", policy="p", retry_after=1.5),
    CircuitOpenError(
        "text",
        policy="p",
        retry_after=2.0,
        state=CircuitState.OPEN,
        last_failure="OSError at a.py:1 in f",
    ),
    BulkheadFullError(policy="p"),
    WorkersExhaustedError(policy="p"),
    PoolExhaustedError(policy="p", members=("a", "b")),
    CallTimeoutError(policy="p", seconds=3.0),
    Own(7),
]


def test_the_tree():
    """What is refused was never made; what timed out is also Python's `TimeoutError`."""
    for rejection in (
        CircuitOpenError,
        BulkheadFullError,
        WorkersExhaustedError,
        PoolExhaustedError,
    ):
        assert issubclass(rejection, RejectedError)
    assert issubclass(RejectedError, ResilienceError)
    assert issubclass(CallTimeoutError, ResilienceError)
    assert issubclass(CallTimeoutError, TimeoutError)
    assert not issubclass(CallTimeoutError, RejectedError)
    assert not issubclass(ResilienceError, OSError)


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "reproduce",
    [copy.copy, copy.deepcopy]
    + [
        lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ],
)
def test_every_attribute_survives_pickling_and_copying(error, reproduce):
    """With the text, the arguments and the notes."""
    error.__notes__ = ["a note"]
    twin = reproduce(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)
    assert twin is not error


def test_a_copied_timeout_belongs_to_no_call():
    """What marks the call it ended is for the pipeline around it alone."""
    error = CallTimeoutError(policy="p", seconds=1)
    error._origin = object()
    assert pickle.loads(pickle.dumps(error))._origin is None
    assert copy.copy(error)._origin is None


def test_the_texts_say_who_refused():
    """Also when no text is given."""
    assert str(RejectedError(policy="db")) == "db refused the call"
    assert str(RejectedError()) == "a policy refused the call"
    assert str(CallTimeoutError(policy="db", seconds=2)) == "db was not done in 2 s"
    assert str(CallTimeoutError(seconds=2)) == "the call was not done in 2 s"
    assert CallTimeoutError("text").errno is None


def test_the_representation_says_what_the_text_says():
    """Also of an error whose text is made when it is read."""
    error = CircuitOpenError(policy="db", state=CircuitState.OPEN)
    assert repr(error) == "CircuitOpenError('db is open')"
    assert repr(RejectedError("no")) == "RejectedError('no')"
    assert repr(ResilienceError()) == "ResilienceError()"


def test_attributes_have_values_from_the_start():
    """Unknown is `None`, no name is empty."""
    error = CircuitOpenError()
    assert (error.policy, error.retry_after) == ("", None)
    assert (error.state, error.last_failure) == (None, None)
    assert PoolExhaustedError().members == ()


def test_all_errors_are_listed():
    """`__all__` names every class of the tree."""
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ResilienceError)
    }
    assert set(errors.__all__) == classes
