"""The events: frozen values, heard by listeners that can do no harm."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import pickle

import pytest

from resilient import CircuitBreaker, Pipeline, Retry, constant, events, subscribe
from resilient.events import CircuitStateChanged, Event, RetryExhausted, RetryScheduled

FIELDS = {
    "RetryScheduled": {"attempt", "delay", "error"},
    "RetryExhausted": {"attempts", "elapsed", "error"},
    "CircuitStateChanged": {"old", "new"},
    "CallRejected": {"reason", "retry_after"},
    "CallTimedOut": {"seconds"},
    "CallOverran": {"seconds"},
    "FallbackUsed": {"error"},
    "FaultInjected": {"experiment", "fault", "member", "delay"},
    "HedgeLaunched": {"number"},
    "HedgeWon": {"number"},
    "MemberStateChanged": {"member", "old", "new"},
    "FailoverSwitched": {"old", "new", "reason"},
    "SpareAssigned": {"spare", "active"},
    "SpareReleased": {"spare", "active"},
    "PoolDegraded": {"uncovered"},
    "PoolPanicked": {"healthy"},
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_event_is_a_frozen_value_with_its_fields(name):
    """And the three that all have."""
    cls = getattr(events, name)
    fields = {field.name for field in dataclasses.fields(cls)}
    assert fields == FIELDS[name] | {"policy", "kind", "function"}
    event = cls(**dict.fromkeys(fields, "x"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.policy = "y"
    assert pickle.loads(pickle.dumps(event)) == event


def test_all_events_are_listed():
    """`__all__` names every one."""
    classes = {
        name
        for name, value in vars(events).items()
        if inspect.isclass(value) and issubclass(value, Event)
    }
    assert set(events.__all__) == classes == {*FIELDS, "Event"}


def fails():
    raise OSError("x")


def test_an_event_names_its_policy_its_kind_and_the_function():
    """A name given, or taken from the pipeline."""
    heard = []
    retry = Retry(on=OSError, attempts=2, backoff=constant(0))
    unsubscribe = retry.subscribe(heard.append)
    with pytest.raises(OSError, match="x"):
        Pipeline(retry, name="orders")(fails)()
    unsubscribe()
    assert [type(event) for event in heard] == [RetryScheduled, RetryExhausted]
    for event in heard:
        assert (event.policy, event.kind, event.function) == ("orders.retry", "retry", "fails")
    assert (heard[0].attempt, heard[0].delay) == (1, 0)
    assert heard[1].attempts == 2
    assert heard[0].error is not heard[1].error


def test_listeners_hear_until_they_are_unsubscribed():
    """Of one policy, or of all; unsubscribing twice is no error."""
    everything, mine = [], []
    breaker, other = CircuitBreaker("a"), CircuitBreaker("b")
    stop_all, stop_mine = subscribe(everything.append), breaker.subscribe(mine.append)
    breaker.isolate()
    other.isolate()
    stop_all()
    stop_mine()
    stop_mine()
    breaker.reset()
    other.reset()
    assert [event.policy for event in everything] == ["a", "b"]
    assert [event.policy for event in mine] == ["a"]


def test_a_listener_that_raises_is_logged_and_touches_nothing(caplog):
    """The call goes on, and so do the other listeners."""
    heard = []

    def broken(event):
        raise ValueError("listener")

    breaker = CircuitBreaker("a")
    first, second = breaker.subscribe(broken), breaker.subscribe(heard.append)
    with caplog.at_level(logging.ERROR, "resilient"):
        breaker.isolate()
    first()
    second()
    assert len(heard) == 1
    assert "a listener failed on CircuitStateChanged" in caplog.text


def test_a_listener_is_something_that_can_be_called():
    """Anything else is refused when it is subscribed."""
    with pytest.raises(TypeError, match="not callable"):
        subscribe(5)


def test_a_listener_may_change_the_state_it_hears_of():
    """No lock is held, and the events come in the order of the changes."""
    heard = []
    breaker = CircuitBreaker("a")

    def reset(event):
        heard.append((event.old.value, event.new.value))
        if event.new.value == "isolated":
            breaker.reset()
        assert breaker.state is not None

    unsubscribe = breaker.subscribe(reset)
    second = breaker.subscribe(lambda event: heard.append(type(event)))
    breaker.isolate()
    unsubscribe()
    second()
    assert heard == [
        ("closed", "isolated"),
        CircuitStateChanged,
        ("isolated", "closed"),
        CircuitStateChanged,
    ]


def test_a_coroutine_function_is_no_listener():
    """Nothing would await it."""

    async def listener(event):
        raise AssertionError

    with pytest.raises(TypeError, match="give a plain function"):
        subscribe(listener)
