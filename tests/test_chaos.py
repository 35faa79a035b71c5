"""The injectors: what they do to calls of each kind while an experiment runs."""

from __future__ import annotations

import asyncio
import functools
import threading
from datetime import timedelta
from typing import Any

import pytest

import resilient
from resilient import (
    CallTimeoutError,
    CircuitBreaker,
    CircuitState,
    Fallback,
    Pipeline,
    Retry,
    Timeout,
    chaos,
    once,
)
from resilient._call import Call, Site
from resilient._runtime import waits
from resilient.chaos import InjectBehavior, InjectFault, InjectLatency, InjectResult
from resilient.testing import passthrough


def well(*args: Any) -> str:
    return "well"


def items(*args: Any) -> Any:
    yield "a"
    yield "b"


INJECTORS = {
    "fault": lambda: InjectFault(1, OSError),
    "latency": lambda: InjectLatency(1, 5),
    "result": lambda: InjectResult(1, ["injected"]),
    "behavior": lambda: InjectBehavior(1, lambda: None),
}


@pytest.mark.parametrize("make", INJECTORS.values(), ids=INJECTORS)
def test_nothing_happens_outside_an_experiment(mode, clock, events, make):
    """A call goes straight through, whatever the rate is."""
    start = clock.now()
    assert mode.call(mode.function(make(), well)) == "well"
    assert mode.drain(mode.stream(make(), items)) == ["a", "b"]
    assert clock.now() == start
    assert not events


@pytest.mark.parametrize("method", ["wrap", "awrap", "wrap_stream", "awrap_stream"])
@pytest.mark.parametrize("make", INJECTORS.values(), ids=INJECTORS)
def test_outside_an_experiment_nothing_is_added(make, method):
    """What the inner call gives is handed on as it is: no frame, no generator, no coroutine."""
    given = object()
    call = Call()
    call.site = Site("x", "x", ())
    assert getattr(make(), method)(lambda args, kwargs, call: given)((), {}, call) is given


def test_a_fault_takes_the_place_of_the_call(mode, events):
    """The error is new each time, and says where it comes from."""
    seen = []
    protected = mode.function(InjectFault(1, ConnectionError("down"), name="f"), seen.append)
    caught = []
    for _ in range(2):
        with chaos.experiment("game day"), pytest.raises(ConnectionError, match="down") as info:
            mode.call(protected, 1)
        caught.append(info.value)
    assert not seen
    assert caught[0] is not caught[1]
    assert caught[0].__notes__ == ["chaos: injected by f in the experiment game day"]
    assert [type(event).__name__ for event in events] == ["FaultInjected"] * 2
    (event, _) = events
    assert (event.policy, event.kind, event.experiment) == ("f", "inject_fault", "game day")
    assert (event.fault, event.member, event.delay) == ("error", None, 0)
    mode.call(protected, 1)
    assert seen == [1]


def test_a_fault_is_an_error_of_the_backend(mode, clock):
    """Retries, breakers and fallbacks take it for one."""
    breaker = CircuitBreaker(on=OSError, consecutive_failures=3)
    policy = Pipeline(
        Fallback("saved"), Retry(on=OSError, attempts=3), breaker, InjectFault(1, OSError)
    )
    protected = mode.function(policy, well)
    with chaos.experiment("x"):
        assert mode.call(protected) == "saved"
    assert breaker.state is CircuitState.OPEN


def test_a_fault_counts_as_made():
    """As an error of the function would: inside `once()` nothing is tried again."""
    injector = InjectFault(1, OSError)
    protected = Pipeline(Retry(on=OSError, attempts=5), injector)(well)
    with chaos.experiment("x") as running, once(), pytest.raises(OSError):
        protected()
    assert running.calls == 1


def test_a_fault_is_a_class_an_error_or_a_function():
    """Each call gets its own."""
    error = LookupError("a")
    for given, wanted in ((KeyError, KeyError), (error, LookupError), (lambda: error, LookupError)):
        protected = InjectFault(1, given)(well)
        with chaos.experiment("x"), pytest.raises(wanted):
            protected()


class NeedsTwo(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


async def acoroutine():
    """Is no function that makes an error."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NeedsTwo, "without arguments"),
        (NeedsTwo(1, 2), "cannot be copied"),
        (KeyboardInterrupt, "name an Exception"),
        (asyncio.CancelledError(), "name an Exception"),
        (int, "name an Exception"),
        ("down", "an exception, its class"),
        (acoroutine, "plain function"),
    ],
)
def test_a_fault_that_cannot_be_raised_is_refused(error, text):
    """When the injector is built, not in the middle of an experiment."""
    with pytest.raises(TypeError, match=text):
        InjectFault(1, error)


def test_a_function_that_makes_no_error():
    """It is told so."""
    protected = InjectFault(1, lambda: "down")(well)
    with chaos.experiment("x"), pytest.raises(TypeError, match="must return an exception"):
        protected()


def test_a_latency_delays_the_call(mode, clock, events):
    """The call is made after it."""
    protected = mode.function(InjectLatency(1, timedelta(seconds=5)), well)
    start = clock.now()
    with chaos.experiment("x"):
        assert mode.call(protected) == "well"
    assert clock.now() - start == 5
    assert (events[0].fault, events[0].delay) == ("latency", 5)


def test_a_latency_between_two_bounds(clock):
    """It is drawn from the seed, too."""

    def delays(seed):
        protected = InjectLatency(1, (1, timedelta(seconds=3)), name="l")(well)
        found = []
        with chaos.experiment("x", seed=seed):
            for _ in range(20):
                start = clock.now()
                protected()
                found.append(round(clock.now() - start, 6))
        return found

    assert delays(1) == delays(1) != delays(2)
    assert all(1 <= delay <= 3 for delay in delays(1))
    assert len(set(delays(1))) == 20


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_a_latency_is_cancelled_by_a_timeout(mode, clock, events):
    """It hangs as a backend does, and a breaker inside the timeout counts it."""
    breaker = CircuitBreaker(on=OSError, consecutive_failures=1)
    protected = mode.function(Pipeline(Timeout(2), breaker, InjectLatency(1, 60)), well)
    start = clock.now()
    with chaos.experiment("x"), pytest.raises(CallTimeoutError):
        mode.call(protected)
    assert clock.now() - start == 2
    assert breaker.state is CircuitState.OPEN
    assert [type(event).__name__ for event in events].count("CallTimedOut") == 1


@pytest.mark.parametrize("sync", ["deadline", "thread"])
def test_a_latency_ends_at_the_deadline(clock, events, sync):
    """In a thread, which nothing can cancel, it ends with the timeout's error."""
    seen = []
    breaker = CircuitBreaker(on=OSError, consecutive_failures=1)
    policy = Pipeline(Timeout(2, sync=sync), breaker, InjectLatency(1, 60))
    start = clock.now()
    with chaos.experiment("x"), pytest.raises(CallTimeoutError):
        policy(seen.append)(1)
    assert clock.now() - start == 2
    assert not seen
    assert breaker.state is CircuitState.OPEN
    assert [type(event).__name__ for event in events].count("CallTimedOut") == 1


def test_a_latency_is_cut_off_with_its_caller():
    """A task that is cancelled while it waits ends at once."""

    async def main():
        task = asyncio.create_task(InjectLatency(1, 1e6)(acoroutine)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with chaos.experiment("x"):
        asyncio.run(main())


def test_a_latency_ends_with_the_experiment(mode, clock):
    """Nobody waits for an hour after the experiment is over."""
    protected = mode.function(InjectLatency(1, 3600), well)
    start = clock.now()
    with chaos.experiment("x", until=10):
        assert mode.call(protected) == "well"
    assert clock.now() - start == 10
    with chaos.experiment("x", scope="process") as running:

        def end():
            yield 20
            running.end()

        mode.together(protected, mode.colour(end))
    assert clock.now() - start == 30


def test_a_result_takes_the_place_of_the_calls(mode, events):
    """The function is not called."""
    seen = []
    injector = InjectResult(1, {"stale": True})
    with chaos.experiment("x"):
        assert mode.call(mode.function(injector, seen.append), 1) == {"stale": True}
    assert not seen
    assert events[0].fault == "result"
    assert "stale" not in repr(events[0])


def test_a_behavior_comes_before_the_call(mode, events):
    """Then the call goes on."""
    seen = []
    injector = InjectBehavior(1, lambda: seen.append("behavior"))
    with chaos.experiment("x"):
        mode.call(mode.function(injector, seen.append), "call")
    assert seen == ["behavior", "call"]
    assert events[0].fault == "behavior"


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_a_behavior_may_be_async_on_async_code(mode, clock):
    """It is awaited."""
    start = clock.now()
    with chaos.experiment("x"):
        mode.call(mode.function(InjectBehavior(1, lambda: waits.asleep(3)), well))
    assert clock.now() - start == 3


def test_a_behavior_that_raises_fails_the_call(mode):
    """Its error is the call's."""

    def behavior():
        raise OSError("disk full")

    with chaos.experiment("x"), pytest.raises(OSError, match="disk full"):
        mode.call(mode.function(InjectBehavior(1, behavior), well))


def test_an_async_behavior_on_sync_code():
    """It is refused: at decoration if it is marked, else when it is called."""
    for fn in (well, items):
        with pytest.raises(TypeError, match="nothing awaits"):
            InjectBehavior(1, acoroutine)(fn)
    protected = InjectBehavior(1, lambda: acoroutine())(well)
    with chaos.experiment("x"), pytest.raises(TypeError, match="returned an awaitable"):
        protected()
    loop = asyncio.new_event_loop()
    protected = InjectBehavior(1, loop.create_future)(well)
    with chaos.experiment("x"), pytest.raises(TypeError, match="returned an awaitable"):
        protected()
    loop.close()


def test_generators_are_struck_at_their_first_step(mode, clock):
    """Not before, and only once."""
    with chaos.experiment("x") as running:
        assert mode.drain(mode.stream(InjectResult(1, ["c"]), items)) == ["c"]
        with pytest.raises(OSError):
            mode.drain(mode.stream(InjectFault(1, OSError), items))
        start = clock.now()
        assert mode.drain(mode.stream(InjectLatency(1, 5), items)) == ["a", "b"]
        assert clock.now() - start == 5
        assert mode.drain(mode.stream(InjectBehavior(1, list), items)) == ["a", "b"]
        assert mode.drain(mode.stream(InjectFault(0, OSError), items)) == ["a", "b"]
        assert running.calls == 5
        if not mode.is_async:
            InjectFault(1, OSError)(items)().close()
            assert running.calls == 5


def test_a_retry_begins_a_generator_again(mode, clock):
    """Until its first item, as with any error."""
    policy = Pipeline(Retry(on=OSError, attempts=50), InjectFault(0.9, OSError, name="f"))
    with chaos.experiment("x") as running:
        assert mode.drain(mode.stream(policy, items)) == ["a", "b"]
    assert running.injected == {"f": running.calls - 1}
    assert running.calls > 1


@pytest.mark.parametrize("value", [5, iter([1])])
def test_a_generators_result_has_items_every_time(mode, value):
    """What cannot be iterated, or but once, is refused at decoration."""
    with pytest.raises(TypeError, match="give a list"):
        mode.stream(InjectResult(1, value), items)


def test_the_rate_is_the_share_that_is_struck():
    """0 strikes none, 1 all, and in between about so many."""
    for rate, least, most in ((0, 0, 0), (0.25, 420, 580), (1, 2000, 2000)):
        protected = InjectResult(rate, "struck", name="r")(well)
        with chaos.experiment("x"):
            struck = sum(protected() == "struck" for _ in range(2000))
        assert least <= struck <= most


def test_call_and_acall(mode):
    """A function that comes with the call is struck, too."""
    injector = InjectResult(1, "struck")
    with chaos.experiment("x"):
        if mode.is_async:
            assert mode.run(functools.partial(injector.acall, mode.colour(well))) == "struck"
        else:
            assert injector.call(well) == "struck"


def test_injectors_are_policies():
    """They are listed, take their names from the pipeline, and can be put out of the way."""
    injector = InjectFault(1, OSError)

    @Pipeline(Retry(on=OSError, attempts=1), injector, name="orders")
    def order():
        return "ordered"

    assert injector.name == "orders.inject_fault"
    assert injector in resilient.policies()
    assert injector.snapshot().kind == "inject_fault"
    with chaos.experiment("x"), passthrough():
        assert order() == "ordered"
    with pytest.warns(resilient.CompositionWarning, match="stands twice"):
        Pipeline(injector, injector)


def test_telemetry_hears_of_it():
    """An event of the injector alone can be subscribed to."""
    heard = []
    injector = InjectFault(1, OSError)
    unsubscribe = injector.subscribe(heard.append)
    with chaos.experiment("x"), pytest.raises(OSError):
        injector(well)()
    unsubscribe()
    assert [type(event).__name__ for event in heard] == ["FaultInjected"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: InjectFault("a", OSError), TypeError, "rate must be a number"),
        (lambda: InjectFault(True, OSError), TypeError, "rate must be a number"),
        (lambda: InjectFault(1.1, OSError), ValueError, "from 0 to 1"),
        (lambda: InjectFault(float("nan"), OSError), ValueError, "from 0 to 1"),
        (lambda: InjectFault(1, OSError, key="host"), TypeError, "key must be a function"),
        (lambda: InjectFault(1, OSError, members=[1]), TypeError, "members must be"),
        (lambda: InjectFault(1, OSError, members=[]), TypeError, "members must be"),
        (lambda: InjectFault(1, OSError, name=""), ValueError, "name must not be empty"),
        (lambda: InjectLatency(1, 0), ValueError, "more than 0"),
        (lambda: InjectLatency(1, "a"), TypeError, "seconds must be"),
        (lambda: InjectLatency(1, (1, 2, 3)), TypeError, "a pair"),
        (lambda: InjectLatency(1, (2, 1)), ValueError, "from less to more"),
        (lambda: InjectBehavior(1, "a"), TypeError, "behavior must be a function"),
    ],
)
def test_bad_values_are_refused(make, error, text):
    """When the injector is built, with what would be right."""
    with pytest.raises(error, match=text):
        make()


def test_threads_of_the_library_are_inside(clock):
    """A worker thread has the caller's context, and so its experiment."""
    names = []
    protected = Pipeline(
        Timeout(5, sync="thread"),
        InjectBehavior(1, lambda: names.append(threading.current_thread().name)),
    )(well)
    with chaos.experiment("x"):
        protected()
    assert names[0].startswith("resilient-worker")
