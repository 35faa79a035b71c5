"""What all tests share: one body in three modes, a clock that jumps, and checks for leaks.

`mode` runs a test three times: as plain functions in a thread, on asyncio, on trio::

    def test_retries(mode, clock):
        def load(path):
            raise OSError(path)

        protected = mode.function(Retry(on=OSError, attempts=3), load)
        with pytest.raises(OSError):
            mode.call(protected, "a.txt")

- `mode.function(policy, fn)` decorates a callable of the mode's colour that does what the
  plain function `fn` does. If `fn` is a generator function, each `yield seconds` is a wait of
  so long, in whatever way the mode waits, and what it returns is the result.
- `mode.stream(policy, fn)` makes a generator of the mode's colour from a generator function;
  `mode.drain(protected, ...)` runs it and lists its items.
- `mode.call(protected, *args, **kwargs)` runs it, in a fresh event loop if there is one.
- `mode.together(*calls)` runs several at once, each a callable without arguments or a
  `functools.partial`, in threads or tasks; it returns their results or exceptions in order.
- `mode.name` is `sync`, `asyncio` or `trio`; `mode.is_async` says whether there is a loop.
- `@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)` leaves one out.

`clock` is `virtual_time(seed=0)` around the test: no time passes in it but what the code
waits for. `events` lists the events of all policies.

Every test is checked for what it leaves behind: threads, busy workers, tasks, errors that
nobody retrieved, and anything of `resilient.testing` or a listener that was not taken back.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings

from resilient import _observe, testing
from resilient._core import chance
from resilient._core import clock as core_clock
from resilient._runtime import modes, virtual, waits, workers
from resilient.events import Event

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would each
# program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Real seconds within which what a test has started must have ended.
GRACE = 2.0

# How fast a machine draws and runs examples is not what the tests are about.
settings.register_profile(
    "suite", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Leave what all the modules hold out of the many garbage collections to come."""
    gc.collect()
    gc.freeze()


class Mode:
    """Plain functions, in threads."""

    name = "sync"
    is_async = False

    def function(self, policy: Any, fn: Callable[..., Any]) -> Any:
        return policy(self.colour(fn))

    def stream(self, policy: Any, fn: Callable[..., Any]) -> Any:
        return policy(fn)

    def colour(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of this mode's colour that does what `fn` does."""

        def coloured(*args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            return self._play(result) if inspect.isgenerator(result) else result

        return _named(coloured, fn)

    def _play(self, script: Any) -> Any:
        try:
            while True:
                waits.sleep(next(script))
        except StopIteration as stop:
            return stop.value

    def call(self, protected: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return protected(*args, **kwargs)

    def drain(self, protected: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        return list(protected(*args, **kwargs))

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(calls)) as pool:
            futures = [pool.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]


class AsyncMode(Mode):
    """What both event loops share."""

    is_async = True

    def stream(self, policy: Any, fn: Callable[..., Any]) -> Any:
        async def coloured(*args: Any, **kwargs: Any) -> Any:
            for item in fn(*args, **kwargs):
                yield item

        return policy(_named(coloured, fn))

    def colour(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def coloured(*args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            return await self._aplay(result) if inspect.isgenerator(result) else result

        return _named(coloured, fn)

    async def _aplay(self, script: Any) -> Any:
        step, value = script.send, None
        while True:
            try:
                wait = step(value)
            except StopIteration as stop:
                return stop.value
            step, value = script.send, None
            try:
                await waits.asleep(wait)
            except BaseException as error:
                # A cancellation strikes the script where it waits.
                step, value = script.throw, error

    def call(self, protected: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def main() -> Any:
            return await protected(*args, **kwargs)

        return self.run(main)

    def drain(self, protected: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        async def main() -> list[Any]:
            return [item async for item in protected(*args, **kwargs)]

        return self.run(main)

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        results: list[Any] = [None] * len(calls)

        async def one(index: int) -> None:
            try:
                results[index] = await calls[index]()
            except Exception as error:
                results[index] = error

        self.run(
            functools.partial(self._all, [functools.partial(one, i) for i in range(len(calls))])
        )
        return results

    async def _all(self, calls: list[Callable[[], Any]]) -> None:
        raise NotImplementedError

    def run(self, main: Callable[[], Any]) -> Any:
        """Run the coroutine function `main` in a fresh event loop."""
        raise NotImplementedError


class AsyncioMode(AsyncMode):
    name = "asyncio"

    async def _all(self, calls: list[Callable[[], Any]]) -> None:
        await asyncio.gather(*(call() for call in calls))

    def run(self, main: Callable[[], Any]) -> Any:
        async def checked() -> Any:
            result = await main()
            # A task that was cancelled ends in one of the next turns of the loop.
            for _ in range(3):
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks were left behind: {left}"
            return result

        return asyncio.run(checked())


class TrioMode(AsyncMode):
    name = "trio"

    async def _all(self, calls: list[Callable[[], Any]]) -> None:
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)

    def run(self, main: Callable[[], Any]) -> Any:
        clock = virtual.active
        return trio.run(main, clock=None if clock is None else clock.trio)


def _named(coloured: Any, fn: Any) -> Any:
    coloured.__name__ = getattr(fn, "__name__", "fn")
    coloured.__qualname__ = getattr(fn, "__qualname__", "fn")
    return coloured


MODES = {mode.name: mode for mode in (Mode, AsyncioMode, TrioMode)}


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> Mode:
    return MODES[request.param]()


@pytest.fixture
def clock(nothing_left_behind: None) -> Iterator[Any]:
    with testing.virtual_time(seed=0) as clock:
        yield clock


@pytest.fixture
def events(nothing_left_behind: None) -> Iterator[list[Event]]:
    with testing.record_events() as events:
        yield events


class _Complaints(logging.Handler):
    """Collects what asyncio logs about tasks and futures that nobody looked after."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "never retrieved" in message or "was destroyed but it is pending" in message:
            self.seen.append(message)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    switches, threads = _switches(), set(threading.enumerate())
    complaints = _Complaints()
    logger = logging.getLogger("asyncio")
    logger.addHandler(complaints)
    try:
        yield
        # The young generations hold what one test has made; a whole collection is slow.
        gc.collect(1)
    finally:
        logger.removeHandler(complaints)
    assert not complaints.seen, complaints.seen
    left = [name for name, value in _switches().items() if value != switches[name]]
    assert not left, f"not put back: {left}"
    _assert_no_threads(threads)


def _switches() -> dict[str, Any]:
    return {
        "modes.passthrough": modes.passthrough,
        "modes.no_backoff": modes.no_backoff,
        "clock.now": core_clock.now,
        "clock.wall": core_clock.wall,
        "chance.source": chance.source,
        "waits.sleep": waits.sleep,
        "waits.asleep": waits.asleep,
        "waits.acquire": waits.acquire,
        "virtual.active": virtual.active,
        "listeners": _observe.everyone.all,
        "asyncio policy": asyncio.get_event_loop_policy(),
    }


def _assert_no_threads(before: set[threading.Thread]) -> None:
    for run in list(workers.running):
        ended = threading.Event()
        run.add_done_callback(ended.set)
        assert ended.wait(GRACE), "a worker of the library is still busy"
    for thread in set(threading.enumerate()) - before:
        if isinstance(thread, threading._DummyThread):
            continue  # only remembered
        # Workers that have nothing to do wait a while for more.
        if not thread.name.startswith(("resilient-worker", "Trio thread")):
            thread.join(GRACE)
            assert not thread.is_alive(), f"a thread was left behind: {thread}"
