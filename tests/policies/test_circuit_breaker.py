"""Circuit breaker: which calls it lets through, what the caller gets, what it tells."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
import trio

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Fallback,
    Pipeline,
    RejectedError,
    Retry,
    constant,
    exponential,
    policies,
)
from resilient._core.deadline import Deadline
from resilient._core.deadline import current as deadline
from resilient.events import CallRejected, CircuitStateChanged
from resilient.testing import passthrough

CLOSED, OPEN, HALF_OPEN, ISOLATED = CircuitState


def fails():
    raise ConnectionError("down")


def works():
    return "fine"


def breaker(**options):
    return CircuitBreaker("b", **{"consecutive_failures": 1, "open_for": [10], **options})


def trip(mode, policy):
    with pytest.raises(ConnectionError):
        mode.call(mode.function(policy, fails))
    assert policy.state is OPEN


def changes(events):
    found = [event for event in events if isinstance(event, CircuitStateChanged)]
    return [(event.old.value, event.new.value) for event in found]


def test_the_call_that_trips_it_gets_the_backends_error(mode, clock, events):
    """Only later ones are refused, without being made."""
    policy, calls = breaker(), []

    def load():
        calls.append(1)
        raise ConnectionError("down")

    protected = mode.function(policy, load)
    with pytest.raises(ConnectionError, match="down") as caught:
        mode.call(protected)
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(CircuitOpenError) as refused:
        mode.call(protected)
    assert len(calls) == 1
    assert refused.value.__context__ is None
    assert changes(events) == [("closed", "open")]
    (rejected,) = [event for event in events if isinstance(event, CallRejected)]
    assert (rejected.reason, rejected.retry_after) == ("circuit_open", pytest.approx(10))


def test_a_refusal_says_who_refused_why_and_for_how_long(mode, clock):
    """By attributes that are plain values."""
    policy = breaker()
    trip(mode, policy)
    clock.advance(4)
    with pytest.raises(CircuitOpenError) as one:
        mode.call(mode.function(policy, works))
    with pytest.raises(CircuitOpenError) as other:
        mode.call(mode.function(policy, works))
    error = one.value
    assert other.value is not error
    assert (error.policy, error.state, error.retry_after) == ("b", OPEN, pytest.approx(6))
    line = fails.__code__.co_firstlineno + 1
    expected = f"ConnectionError at test_circuit_breaker.py:{line} in fails"
    assert error.last_failure == expected
    assert str(error) == f"b is open for another 6 s; last failure: {expected}"


def test_after_open_for_a_probe_closes_it(mode, clock, events):
    """With one event for each change."""
    policy = breaker()
    trip(mode, policy)
    clock.advance(10)
    assert mode.call(mode.function(policy, works)) == "fine"
    assert policy.state is CLOSED
    assert changes(events) == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


def test_a_probe_that_fails_opens_it_again(mode, clock, events):
    """And `last_failure` is that one."""
    policy = breaker()
    trip(mode, policy)
    clock.advance(10)

    def otherwise():
        raise TimeoutError("slow")

    with pytest.raises(TimeoutError):
        mode.call(mode.function(policy, otherwise))
    with pytest.raises(CircuitOpenError) as refused:
        mode.call(mode.function(policy, works))
    assert refused.value.last_failure.startswith("TimeoutError at ")
    assert changes(events)[1:] == [("open", "half_open"), ("half_open", "open")]


def test_rates_are_judged_from_minimum_calls_on(mode):
    """By default ten, or the size of a smaller window."""
    for options, needed in (({}, 10), ({"window_calls": 4}, 4), ({"minimum_calls": 3}, 3)):
        policy = CircuitBreaker("b", **options)
        protected = mode.function(policy, fails)
        for number in range(needed):
            assert policy.state is CLOSED, number
            with pytest.raises(ConnectionError):
                mode.call(protected)
        assert policy.state is OPEN


def test_what_on_does_not_match_is_neutral(mode):
    """The caller's mistakes say nothing of the backend."""
    policy = breaker(on=(ConnectionError, KeyError), unless=ConnectionResetError)
    for error in (ValueError("x"), ConnectionResetError("x")):

        def load(error=error):
            raise error

        with pytest.raises(type(error)):
            mode.call(mode.function(policy, load))
    assert policy.state is CLOSED
    assert policy.snapshot().calls == 0


def test_on_may_be_a_predicate(mode):
    """True is a failure."""
    policy = breaker(on=lambda error: "down" in str(error))
    with pytest.raises(ConnectionError):
        mode.call(mode.function(policy, fails))
    assert policy.state is OPEN


@pytest.mark.parametrize("error", [BulkheadFullError(policy="i"), CircuitOpenError(policy="i")])
def test_a_rejection_from_further_in_is_neutral(mode, error):
    """Unless it is named."""

    def load():
        raise error

    for policy, state in ((breaker(), CLOSED), (breaker(on=(OSError, RejectedError)), OPEN)):
        with pytest.raises(type(error)):
            mode.call(mode.function(policy, load))
        assert policy.state is state


def test_on_result_makes_a_value_a_failure(mode):
    """The caller gets it all the same."""
    policy = breaker(on_result=lambda value: value == "fine")
    assert mode.call(mode.function(policy, works)) == "fine"
    with pytest.raises(CircuitOpenError, match="a result that on_result refused in works"):
        mode.call(mode.function(policy, works))


@pytest.mark.parametrize(
    "options", [{"on_result": lambda value: 1 / 0}, {"on": lambda error: 1 / 0}]
)
def test_a_predicate_that_fails_is_neutral(mode, clock, options):
    """A probe's place is free again; the error comes out."""
    policy = breaker(**options)
    policy._circuit._open(clock.now(), "by hand")
    clock.advance(10)
    with pytest.raises(ZeroDivisionError):
        mode.call(mode.function(policy, fails if "on" in options else works))
    assert policy.state is HALF_OPEN
    assert policy._circuit.would_admit(clock.now())


def test_a_slow_call_counts_whether_it_fails_or_not(mode, clock):
    """From `slow_call` seconds on."""
    policy = CircuitBreaker("b", failure_rate=1.0, slow_call=2, slow_rate=0.75, minimum_calls=4)

    def load(seconds, error=None):
        yield seconds
        if error is not None:
            raise error

    protected = mode.function(policy, load)
    mode.call(protected, 1.9)
    mode.call(protected, 2)
    with pytest.raises(OSError, match="x"):
        mode.call(protected, 3, OSError("x"))
    assert policy.state is CLOSED
    assert policy.snapshot().slow_calls == 2
    assert policy.snapshot().failures == 1
    mode.call(protected, 2)
    assert policy.state is OPEN


def test_a_time_window_forgets(mode, clock):
    """The old failures are no part of the rate when the next one comes."""
    policy = CircuitBreaker("b", window_seconds=10, minimum_calls=3)
    protected = mode.function(policy, fails)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            mode.call(protected)
    assert policy.snapshot().failures == 2
    clock.advance(10)
    assert policy.snapshot().calls == 0
    with pytest.raises(ConnectionError):
        mode.call(protected)
    assert policy.state is CLOSED


def test_isolate_holds_until_reset(mode, clock, events):
    """Whatever time does."""
    policy = breaker()
    policy.isolate()
    clock.advance(1e9)
    with pytest.raises(CircuitOpenError, match=r"isolated: calls are refused until reset\(\)") as e:
        mode.call(mode.function(policy, works))
    assert (e.value.state, e.value.last_failure, e.value.retry_after) == (ISOLATED, None, None)
    policy.reset()
    assert mode.call(mode.function(policy, works)) == "fine"
    assert changes(events) == [("closed", "isolated"), ("isolated", "closed")]


def test_the_snapshot_holds_plain_values(mode):
    """What the window holds; and the breaker is among the live policies."""
    policy = CircuitBreaker("b")
    for _ in range(3):
        mode.call(mode.function(policy, works))
    with pytest.raises(ConnectionError):
        mode.call(mode.function(policy, fails))
    snapshot = policy.snapshot()
    assert (snapshot.name, snapshot.kind, snapshot.state) == ("b", "circuit_breaker", CLOSED)
    assert (snapshot.calls, snapshot.failures, snapshot.slow_calls) == (4, 1, 0)
    assert snapshot.failure_rate == 0.25
    assert policy in policies()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_are_neutral(error):
    """Even for a predicate that says yes to all."""
    policy = breaker(on=lambda error: True)

    def load():
        raise error

    with pytest.raises(error):
        policy.call(load)
    assert policy.state is CLOSED


def hangs(policy, library):
    if library == "asyncio":

        @policy
        async def load():
            await asyncio.Event().wait()
    else:

        @policy
        async def load():
            await trio.sleep_forever()

    return load


def cancel(load, library, after=None):
    """Run `load` until it hangs, then cancel it."""

    async def on_asyncio():
        task = asyncio.create_task(load())
        await asyncio.sleep(0)
        if after is not None:
            after()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def on_trio():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.testing.wait_all_tasks_blocked()
            if after is not None:
                after()
            nursery.cancel_scope.cancel()

    asyncio.run(on_asyncio()) if library == "asyncio" else trio.run(on_trio)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_cancelled_call_is_neutral(library):
    """The caller has lost interest; that says nothing of the backend."""
    policy = breaker(on=lambda error: True)
    cancel(hangs(policy, library), library)
    assert policy.state is CLOSED


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_call_cancelled_because_a_deadline_of_ours_ran_out_is_a_failure(library):
    """An outer timeout would hide every hang from the breaker inside it."""
    policy = breaker(on=ConnectionError)
    record = Deadline(float("inf"), None, "outer", 1)

    def run_out():
        record.expired = True

    token = deadline.set(record)
    try:
        cancel(hangs(policy, library), library, run_out)
    finally:
        deadline.reset(token)
    assert policy.state is OPEN


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_cancelled_probe_gives_its_place_back(library):
    """The next one may find out."""
    policy = breaker(open_for=[1e-9])
    trip_now(policy)
    cancel(hangs(policy, library), library)
    assert policy.state is HALF_OPEN
    assert policy.call(works) == "fine"
    assert policy.state is CLOSED


def trip_now(policy):
    with pytest.raises(ConnectionError):
        policy.call(fails)


def test_an_inner_timeout_of_the_same_pipeline_is_a_failure_whatever_on_says():
    """A hang is the backend's; another pipeline's timeout is an exception like any."""
    policy = breaker(on=ValueError)
    same = Pipeline(policy, TimesOut())
    with pytest.raises(CallTimeoutError):
        same.call(works)
    assert policy.state is OPEN
    policy.reset()
    inner = TimesOut()(works)
    with pytest.raises(CallTimeoutError):
        policy.call(inner)
    assert policy.state is CLOSED


from resilient import Policy  # noqa: E402 - it belongs to what follows


class TimesOut(Policy):
    """A policy whose time is always up."""

    kind = "times_out"

    def wrap(self, inner):
        def late(args, kwargs, call):
            call.entered = True
            error = CallTimeoutError(policy="t", seconds=1)
            error._origin = call.root
            raise error

        return late


@pytest.mark.filterwarnings("ignore::resilient.CompositionWarning")
def test_a_fallbacks_value_is_no_success(mode, clock):
    """A probe that was answered by one has found out nothing."""
    policy = breaker()
    trip(mode, policy)
    clock.advance(10)
    assert mode.call(mode.function(Pipeline(policy, Fallback(value=1)), fails)) == 1
    assert policy.state is HALF_OPEN


def test_verdicts_of_calls_from_before_the_trip_count_nowhere(clock):
    """A success that comes late neither closes nor re-opens anything."""
    policy = breaker()
    late, probe = policy.guard(), policy.guard()
    late.__enter__()
    trip_now(policy)
    clock.advance(10)
    probe.__enter__()
    late.__exit__(None, None, None)
    assert policy.state is HALF_OPEN
    probe.__exit__(None, None, None)
    assert policy.state is CLOSED


def test_it_holds_no_lock_during_the_call_nor_while_listeners_run(mode):
    """Both may use the breaker."""
    policy = breaker()
    seen = []
    unsubscribe = policy.subscribe(lambda event: seen.append(policy.snapshot().state))

    def load():
        seen.append(policy.snapshot().state)
        raise OSError("x")

    with pytest.raises(OSError, match="x"):
        mode.call(mode.function(policy, load))
    unsubscribe()
    assert seen == [CLOSED, OPEN]


def test_many_threads_pass_a_closed_breaker_together():
    """All are inside at once, which no lock would let them."""
    policy, barrier = breaker(), threading.Barrier(8)
    protected = policy(barrier.wait)
    threads = [threading.Thread(target=protected) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert policy.state is CLOSED


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": fails}, TypeError),
        ({"name": ""}, ValueError),
        ({"on": None}, TypeError),
        ({"on_result": 5}, TypeError),
        ({"failure_rate": 0}, ValueError),
        ({"failure_rate": 1.1}, ValueError),
        ({"failure_rate": float("nan")}, ValueError),
        ({"window_calls": 0}, ValueError),
        ({"window_calls": 1.5}, TypeError),
        ({"window_seconds": 0}, ValueError),
        ({"window_calls": 10, "window_seconds": 5}, TypeError),
        ({"minimum_calls": 0}, ValueError),
        ({"minimum_calls": 101}, ValueError),
        ({"window_calls": 5, "minimum_calls": 6}, ValueError),
        ({"consecutive_failures": 0}, ValueError),
        ({"consecutive_failures": 3, "failure_rate": 0.5}, TypeError),
        ({"slow_call": 0}, ValueError),
        ({"slow_rate": 0.5}, TypeError),
        ({"consecutive_failures": 3, "minimum_calls": 10}, TypeError),
        ({"open_for": [0, 5]}, ValueError),
        ({"open_for": constant(0)}, ValueError),
        ({"slow_call": 1, "slow_rate": 0}, ValueError),
        ({"open_for": 0}, ValueError),
        ({"open_for": -1}, ValueError),
        ({"open_for": []}, ValueError),
        ({"open_for": range(0)}, ValueError),
        ({"open_for": iter([1])}, TypeError),
        ({"open_for": "30"}, TypeError),
        ({"half_open_calls": 0}, ValueError),
        ({"half_open_timeout": 0}, ValueError),
        ({"half_open_timeout": float("inf")}, ValueError),
    ],
)
def test_bad_values_are_refused_when_built(options, error):
    """Also pairs that contradict each other."""
    with pytest.raises(error):
        CircuitBreaker(**options)


def test_without_its_call_the_class_is_no_decorator():
    """The text says what was meant."""
    with pytest.raises(TypeError, match=r"did you mean `@CircuitBreaker\(\)`"):
        CircuitBreaker(fails)


def test_good_values_are_taken():
    """A window as large as its minimum, a list, a backoff."""
    CircuitBreaker(window_calls=5, minimum_calls=5, open_for=[1, 2], slow_call=1, slow_rate=1)
    CircuitBreaker(window_seconds=5, minimum_calls=500, open_for=exponential(1, maximum=9))
    CircuitBreaker(consecutive_failures=5, open_for=constant(5))


def test_options_but_the_name_are_keyword_only():
    """A number in second place could be anything."""
    with pytest.raises(TypeError):
        CircuitBreaker("b", OSError)


def test_passthrough_takes_it_out_of_the_way(mode):
    """Also a block."""
    policy = breaker(on_result=lambda value: True)
    with passthrough():
        with pytest.raises(ConnectionError):
            mode.call(mode.function(policy, fails))
        with policy.guard():
            pass
    assert policy.state is CLOSED


def test_no_reference_cycle_is_left():
    """Neither by failing calls nor by refused ones; and no failure is kept."""

    class Failure(OSError):
        pass

    policy, references = breaker(), []

    @policy
    def load():
        error = Failure("x")
        references.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    def call():
        for expected in (Failure, CircuitOpenError):
            try:
                load()
            except expected as error:
                if expected is CircuitOpenError:
                    references.append(weakref.ref(error))

    gc.collect()
    gc.disable()
    try:
        call()
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_retries_inside_are_one_call(mode):
    """A breaker outside counts what comes out."""
    policy = CircuitBreaker("b", consecutive_failures=2)
    stack = Pipeline(policy, Retry(ConnectionError, attempts=5, backoff=constant(0)))
    with pytest.raises(ConnectionError):
        mode.call(mode.function(stack, fails))
    assert policy.snapshot().failures == 1
