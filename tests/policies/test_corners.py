"""What happens seldom: wrong values, lost races, and the second time of everything."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    Fallback,
    PerKey,
    Pipeline,
    Retry,
    Timeout,
    _observe,
    testing,
)
from resilient._call import Call, Site
from resilient._policy import Policy
from resilient._runtime import timed_tasks, timers, workers
from resilient._runtime.loops import AsyncioLoop
from resilient.events import CircuitStateChanged
from resilient.timeout import _Steps


def fail() -> None:
    raise OSError("it failed")


def test_an_observer_that_is_none_hands_every_chain_through() -> None:
    """Without telemetry nothing stands around a call."""
    nobody, site = _observe.Observer(), Site("f", "f", ())
    ways: Any = (nobody.around, nobody.aaround, nobody.around_stream, nobody.aaround_stream)
    assert all(way(fail, site) is fail for way in ways)


def test_a_coroutine_function_cannot_listen() -> None:
    """Nothing would await what it returns."""

    async def listen(event: object) -> None: ...

    with pytest.raises(TypeError, match="is a coroutine function, which nothing would await"):
        CircuitBreaker().subscribe(listen)


def test_a_policy_protects_only_what_it_says() -> None:
    """The base protects no kind of callable, injects nothing, and holds nothing."""

    class Nothing(Policy[Any, Any]):
        kind = "nothing"

    with pytest.raises(TypeError, match="a plain function"):
        Nothing()(fail)
    with pytest.raises(NotImplementedError, match="Nothing injects nothing"):
        Nothing()._bare_target()
    assert Nothing()._idle()


def test_passthrough_calls_the_function_itself_in_every_way() -> None:
    """A block of it takes the policies out of one-off calls and generators, too."""
    breaker = CircuitBreaker(consecutive_failures=1)
    breaker.isolate()

    async def answer() -> int:
        return 1

    def items() -> Any:
        yield 2

    with testing.passthrough():
        assert asyncio.run(breaker.acall(answer)) == 1
        assert list(breaker.call(items)) == [2]
    with pytest.raises(CircuitOpenError):
        asyncio.run(breaker.acall(answer))


def test_a_function_that_hides_its_parameters_is_protected() -> None:
    """Some written in C have no signature."""
    assert Retry(on=OSError)(dict.fromkeys)("a") == {"a": None}
    assert Retry(on=OSError)(max)(1, 2) == 2


class Awaitable:
    """What can be awaited, and is no coroutine that would have to be closed."""

    def __await__(self) -> Any:
        yield


def test_an_awaitable_from_a_plain_function_is_refused_even_if_it_is_no_coroutine() -> None:
    """Nobody would wait for it, whoever returned it."""
    with pytest.raises(TypeError, match="returned an awaitable"):
        Retry(on=OSError).call(Awaitable)
    with pytest.raises(TypeError, match="returned an awaitable"):
        Retry(on=OSError)(lambda: Awaitable())()
    with pytest.raises(TypeError, match="cannot stand in"):
        Fallback(on=OSError, using=lambda error: Awaitable()).call(fail)


def test_a_fallbacks_value_is_given_once() -> None:
    """By position or by its name."""
    with pytest.raises(TypeError, match="twice"):
        Fallback(1, value=2)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (Timeout, "call the class first"),
        ([Timeout(1)], r"write Pipeline\(\*policies\)"),
        (fail, "did you mean `@Pipeline"),
    ],
)
def test_what_is_no_policy_is_refused_with_a_hint(wrong: Any, hint: str) -> None:
    """The usual mistakes have an answer."""
    with pytest.raises(TypeError, match=hint):
        Pipeline(wrong, Timeout(1))


def test_a_pipelines_listener_hears_each_of_its_policies_once() -> None:
    """Until it is taken back."""
    breaker = CircuitBreaker(consecutive_failures=1)
    pipeline = Pipeline(Timeout(1, sync="deadline"), breaker)
    heard: list[Any] = []
    unsubscribe = pipeline.subscribe(heard.append)
    with pytest.raises(OSError):
        pipeline.call(fail)
    assert [type(event) for event in heard] == [CircuitStateChanged]
    unsubscribe()
    breaker.reset()
    assert len(heard) == 1


def test_a_listener_of_all_keys_hears_each_of_them_once() -> None:
    """Those that were there before it, those that come later, and one that two keys share."""
    shared = CircuitBreaker("shared", consecutive_failures=1)

    def make(key: str) -> CircuitBreaker:
        return shared if key in "ab" else CircuitBreaker(key, consecutive_failures=1)

    by_key: Any = PerKey(make, key=lambda key: key)
    by_key.get("a")
    heard: list[Any] = []
    unsubscribe = by_key.subscribe(heard.append)
    by_key.get("b")
    for key in "a", "c":
        with pytest.raises(OSError):
            by_key.get(key).call(fail)
    assert [event.policy for event in heard] == ["shared", "c"]
    unsubscribe()
    by_key.get("c").reset()
    assert len(heard) == 2


def test_a_forked_child_has_no_pins_of_the_parents_calls() -> None:
    """Or a key in use at the fork could never be dropped there."""
    by_key: Any = PerKey(CircuitBreaker, key=lambda key: key)
    by_key.get("a")
    by_key._entries["a"].pins = 3
    by_key._lock.acquire()
    by_key.after_fork()
    assert by_key._entries["a"].pins == 0
    assert by_key._lock.acquire(blocking=False)


def test_a_window_of_seconds_without_a_minimum_is_no_contradiction() -> None:
    """The minimum is for rates: with failures in a row alone it is refused."""
    with pytest.raises(TypeError, match="minimum_calls is for rates"):
        CircuitBreaker(minimum_calls=3, consecutive_failures=2)
    with pytest.raises(TypeError, match="not both"):
        CircuitBreaker(window_calls=3, window_seconds=2)


def test_the_attempts_of_a_block_are_their_own_iterator() -> None:
    """A second `for` over them goes on where the first one stopped."""
    retry = Retry(on=OSError)
    attempts, aattempts = iter(retry), aiter(retry)
    assert iter(attempts) is attempts
    assert aiter(aattempts) is aattempts


def test_the_steps_of_a_stream_that_never_began_end_nothing() -> None:
    """There is no deadline yet to be taken out of force."""
    policy, call = Timeout(1, sync="deadline"), Call()
    with _Steps(policy, call) as steps:
        assert steps is None
    _Steps(policy, call).end_step()

    async def main() -> None:
        async with timed_tasks.Steps(policy, call):
            pass

    asyncio.run(main())


def test_an_entry_that_is_not_the_first_arms_no_second_timer() -> None:
    """One timer of the loop is enough for all that wait."""

    async def main() -> None:
        queue = timers.Queue(asyncio.get_running_loop())
        for at in 1e9, 2e9:
            entry: Any = SimpleNamespace(at=at)
            queue.append(entry)
            armed_at = queue._armed_at
            assert armed_at == 1e9

    asyncio.run(main())


def test_a_timeout_of_the_work_itself_is_passed_on() -> None:
    """It is not the limit's."""

    async def work() -> None:
        raise TimeoutError("its own")

    async def main() -> None:
        await AsyncioLoop().within(60, work)

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(main())


class TestWorkers:
    def test_what_ended_while_it_was_abandoned_is_dropped(self) -> None:
        """Abandoning and ending may fall together: neither result nor error is kept."""
        run = workers.Run(fail, (), None)  # type: ignore[arg-type]
        run._result, run.done = object(), True
        assert run.abandon()
        assert run._result is None

    def test_callbacks_that_another_thread_has_taken_are_not_called_again(self) -> None:
        """Whoever adds one late and the worker may both be at it."""
        run = workers.Run(fail, (), None)  # type: ignore[arg-type]

        class Taken(list[Any]):
            def __bool__(self) -> bool:
                return True

        run._callbacks = Taken()
        run._call_back()

    def test_a_pool_that_is_dropped_lets_its_idle_workers_go(self) -> None:
        """One that has found work meanwhile ends by itself."""

        class Taken(deque[Any]):
            def __bool__(self) -> bool:
                return True

        pool = workers.Workers(1)
        pool._shop.idle = Taken()  # type: ignore[assignment]
        pool.__del__()
        assert pool._shop.closed
