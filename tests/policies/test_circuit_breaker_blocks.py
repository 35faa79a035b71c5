"""Circuit breaker around blocks and generators, and its half-open state under load."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio

from resilient import CircuitBreaker, CircuitOpenError, CircuitState
from resilient.events import CircuitStateChanged

CLOSED, OPEN, HALF_OPEN, ISOLATED = CircuitState


def fails():
    raise ConnectionError("down")


def breaker(**options):
    return CircuitBreaker("b", **{"consecutive_failures": 1, "open_for": [10], **options})


def half_open(clock, **options):
    """A breaker whose next calls are probes."""
    policy = breaker(**options)
    with pytest.raises(ConnectionError):
        policy.call(fails)
    clock.advance(10)
    return policy


# Blocks.


def test_a_block_fails_and_succeeds_like_a_call(clock):
    """What it raises comes out as it is."""
    policy, error = breaker(), ConnectionError("down")
    with pytest.raises(ConnectionError) as caught, policy.guard():
        raise error
    assert caught.value is error
    assert policy.state is OPEN
    with pytest.raises(CircuitOpenError) as refused, policy.guard():
        raise AssertionError
    assert "in test_a_block_fails_and_succeeds_like_a_call" in refused.value.last_failure
    clock.advance(10)
    with policy.guard():
        pass
    assert policy.state is CLOSED


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_an_asynchronous_block_is_the_same(mode):
    """Nothing in it waits, so `with` works too."""
    policy = breaker()

    async def main():
        async with policy.guard() as call:
            assert call.set_result(5) == 5
        with pytest.raises(ConnectionError):
            async with policy.guard():
                raise ConnectionError("down")
        with pytest.raises(CircuitOpenError):
            async with policy.guard():
                raise AssertionError

    mode.run(main)


def test_a_result_is_judged_and_given_back(clock):
    """`set_result` returns its value."""
    policy = breaker(on_result=lambda value: value < 0)
    with policy.guard() as call:
        assert call.set_result(1) == 1
    assert policy.state is CLOSED
    with policy.guard() as call:
        call.set_result(-1)
    assert policy.state is OPEN


def test_with_on_result_a_block_must_tell_its_result(clock):
    """Silence is neutral, and an error."""
    policy = half_open(clock, on_result=bool)
    with pytest.raises(RuntimeError, match="set_result"), policy.guard():
        pass
    assert policy.state is HALF_OPEN
    with pytest.raises(ConnectionError), policy.guard():
        raise ConnectionError("down")
    assert policy.state is OPEN


def test_a_guard_serves_one_block():
    """Also when it was refused; a second exit counts nothing."""
    policy = breaker(consecutive_failures=2)
    guard = policy.guard()
    with guard:
        pass
    with pytest.raises(RuntimeError, match=r"call guard\(\) for each"), guard:
        pass
    policy.isolate()
    refused = policy.guard()
    with pytest.raises(CircuitOpenError), refused:
        pass
    policy.reset()
    with pytest.raises(RuntimeError, match="one block"), refused:
        pass
    failed = policy.guard()
    failed.__enter__()
    for _ in range(3):
        failed.__exit__(ConnectionError, ConnectionError("down"), None)
    assert policy.state is CLOSED


def test_a_block_may_be_left_in_another_context_thread_or_task(clock):
    """It does not raise, and its verdict counts."""
    policy = half_open(clock, half_open_calls=3)
    guard = policy.guard()
    contextvars.copy_context().run(guard.__enter__)
    guard.__exit__(None, None, None)

    guard = policy.guard()
    thread = threading.Thread(target=guard.__enter__)
    thread.start()
    thread.join()
    guard.__exit__(None, None, None)

    async def main():
        guard = policy.guard()
        await asyncio.create_task(enter(guard))
        await asyncio.create_task(leave(guard))

    async def enter(guard):
        await guard.__aenter__()

    async def leave(guard):
        await guard.__aexit__(None, None, None)

    asyncio.run(main())
    assert policy.state is CLOSED


def test_a_guard_that_was_never_left_gives_its_place_back(clock):
    """When it is collected."""
    policy = half_open(clock)
    guard = policy.guard()
    guard.__enter__()
    with pytest.raises(CircuitOpenError, match="half-open and has all its probes under way"):
        policy.guard().__enter__()
    del guard
    gc.collect()
    with policy.guard():
        pass
    assert policy.state is CLOSED


def test_a_slow_block_is_slow(clock):
    """As a call is."""
    policy = CircuitBreaker("b", slow_call=5, minimum_calls=1)
    with policy.guard():
        clock.advance(5)
    assert policy.state is OPEN
    with pytest.raises(CircuitOpenError, match="a slow call of 5 s"):
        policy.call(fails)


# Half-open, under load.


@pytest.mark.parametrize("places", [1, 3])
def test_a_thousand_tasks_get_exactly_the_probes_there_are(clock, places):
    """All the others are refused."""
    policy = half_open(clock, half_open_calls=places)
    inside, refused, go_on = [], [], []

    @policy
    async def load():
        inside.append(1)
        await trio.sleep(1)

    async def one():
        try:
            await load()
        except CircuitOpenError as error:
            refused.append(error.state)
            go_on.append(1)

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(1_000):
                nursery.start_soon(one)

    trio.run(main, clock=clock.trio)
    assert (len(inside), len(refused)) == (places, 1_000 - places)
    assert set(refused) == {HALF_OPEN}
    assert policy.state is CLOSED


def test_a_thousand_threads_get_exactly_the_probes_there_are():
    """They come at once, and the probes stay until all have come."""
    policy = breaker(open_for=[1e-9], half_open_calls=5)
    with pytest.raises(ConnectionError):
        policy.call(fails)
    barrier, all_came = threading.Barrier(1_000), threading.Event()
    lock, refused, inside = threading.Lock(), [], []

    @policy
    def load():
        inside.append(1)
        assert all_came.wait(60)

    def one():
        barrier.wait()
        try:
            load()
        except CircuitOpenError:
            with lock:
                refused.append(1)
                if len(refused) == 995:
                    all_came.set()

    threads = [threading.Thread(target=one) for _ in range(1_000)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert (len(inside), len(refused)) == (5, 995)
    assert policy.state is CLOSED


@pytest.mark.parametrize("number", range(5))
def test_simultaneous_failures_are_one_event(number):
    """A hundred calls fail at once."""
    policy, barrier, heard = breaker(), threading.Barrier(100), []
    unsubscribe = policy.subscribe(heard.append)

    @policy
    def load():
        barrier.wait()
        raise ConnectionError("down")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(100) as pool:
            errors = [pool.submit(load) for _ in range(100)]
        assert {type(error.exception()) for error in errors} == {ConnectionError}
    finally:
        sys.setswitchinterval(before)
        unsubscribe()
    assert [type(event) for event in heard] == [CircuitStateChanged]


def test_events_come_in_the_order_of_the_changes():
    """However many threads change the state."""
    policy, heard, barrier = breaker(), [], threading.Barrier(8)
    unsubscribe = policy.subscribe(heard.append)

    def work():
        barrier.wait()
        for _ in range(300):
            policy.isolate()
            policy.reset()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
        unsubscribe()
    assert len(heard) >= 2
    for one, other in itertools.pairwise(heard):
        assert one.new is other.old
    assert heard[-1].new is CLOSED


def test_a_hung_probe_fails_and_the_next_one_may_try(clock):
    """Never stuck half-open."""
    policy = half_open(clock, half_open_timeout=60)
    hung = policy.guard()
    hung.__enter__()
    clock.advance(59.9)
    assert policy.state is HALF_OPEN
    clock.advance(0.2)
    assert policy.state is OPEN
    clock.advance(10)
    assert policy.call(lambda: 1) == 1
    hung.__exit__(ConnectionError, ConnectionError("late"), None)
    assert policy.state is CLOSED


# Generators.


def rows(*items):
    for item in items:
        if isinstance(item, BaseException):
            raise item
        yield item


def test_a_stream_that_fails_trips_it(mode, clock):
    """Before its first item or after it."""
    for items in ((OSError("x"),), (1, 2, OSError("x"))):
        policy = breaker()
        with pytest.raises(OSError, match="x"):
            mode.drain(mode.stream(policy, rows), *items)
        assert policy.state is OPEN
        with pytest.raises(CircuitOpenError):
            mode.drain(mode.stream(policy, rows), 1)


def test_a_stream_is_held_until_it_is_exhausted(clock):
    """Only then it is a success."""
    policy = half_open(clock)
    generator = policy(rows)(1, 2)
    assert policy.state is OPEN
    assert next(generator) == 1
    assert policy.state is HALF_OPEN
    assert next(generator) == 2
    with pytest.raises(CircuitOpenError):
        next(policy(rows)(1))
    assert list(generator) == []
    assert policy.state is CLOSED


@pytest.mark.parametrize("end", ["close", "collect"])
def test_a_stream_that_is_closed_early_is_neutral(clock, end):
    """Its place is free again."""
    policy = half_open(clock)
    generator = policy(rows)(1, 2)
    next(generator)
    if end == "close":
        generator.close()
    del generator
    gc.collect()
    assert policy.state is HALF_OPEN
    assert list(policy(rows)(1)) == [1]
    assert policy.state is CLOSED


def test_an_asynchronous_stream_that_is_closed_early_is_neutral(clock):
    """As a plain one is."""
    policy = half_open(clock)

    @policy
    async def stream():
        yield 1
        yield 2

    async def main():
        generator = stream()
        await anext(generator)
        assert policy.state is HALF_OPEN
        await generator.aclose()
        assert policy.state is HALF_OPEN
        assert [item async for item in stream()] == [1, 2]
        assert policy.state is CLOSED

    asyncio.run(main())


def test_an_unstarted_stream_is_not_admitted(clock):
    """It takes no place, and its `finally` never runs."""
    policy = half_open(clock)
    generator = policy(rows)(1)
    assert policy.state is OPEN
    generator.close()
    assert policy.call(lambda: 1) == 1


def test_a_slow_stream_is_slow_by_its_steps_alone(clock):
    """The consumer's time is not the backend's."""
    policy = CircuitBreaker("b", slow_call=5, minimum_calls=1)

    def stream(seconds):
        for number in range(3):
            clock.advance(seconds)
            yield number

    for _ in policy(stream)(1.6):
        clock.advance(100)
    assert policy.state is CLOSED
    policy.reset()
    for _ in policy(stream)(1.7):
        pass
    assert policy.state is OPEN
