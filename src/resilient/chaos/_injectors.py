"""The four injectors: policies that misbehave while an experiment runs."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Never

from resilient import _observe
from resilient._call import AsyncCall, AsyncStream, Call, SyncCall, SyncStream, name_of
from resilient._core import clock, deadline
from resilient._core.durations import Duration, seconds
from resilient._decorate import Misuse, is_coroutine_function
from resilient._policy import Extra_co, Policy
from resilient._runtime.streams import Started, arelay, astart, relay, start
from resilient.chaos import _experiments
from resilient.chaos._draw import encoded
from resilient.chaos._errors import Error, maker
from resilient.chaos._experiments import Experiment, running
from resilient.chaos._where import member_of
from resilient.errors import CallTimeoutError
from resilient.events import FaultInjected

# The call goes on to the protected function.
_ON: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault: the experiment that injects it, and which call of which key it is for."""

    experiment: Experiment
    key: bytes | None
    number: int
    call: Call


class Injector(Policy[Never, Extra_co], ABC):
    """What the four have in common: whom they strike, and where they stand."""

    stateful = True
    # What the event says was injected.
    _fault: ClassVar[str] = "fault"

    def __init__(
        self,
        rate: float,
        *,
        key: Callable[..., Hashable] | None,
        members: str | Iterable[str] | None,
        name: str | None,
    ) -> None:
        super().__init__(name)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise TypeError(f"rate must be a number from 0 to 1, not {type(rate).__name__}")
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be from 0 to 1, not {rate!r}")
        if key is not None and not callable(key):
            raise TypeError("key must be a function of the call's arguments that names the key")
        self.rate = float(rate)
        self._key = key
        self._members = _members(members)

    @abstractmethod
    def _act(self, strike: Strike, seconds: float) -> Any:
        """Do it in this thread: raise, return a result, or `_ON`."""

    async def _aact(self, strike: Strike, seconds: float) -> Any:
        """Do it in this task."""
        return self._act(strike, seconds)

    # Four kinds of callables. While no experiment runs, a call costs one look.

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` with faults; for plain functions."""

        def injector(args: Any, kwargs: Any, call: Call) -> Any:
            if not _experiments.on:
                return inner(args, kwargs, call)
            result = self._injected(args, kwargs, call)
            return inner(args, kwargs, call) if result is _ON else result

        return injector

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` with faults; for coroutine functions."""

        async def through(args: Any, kwargs: Any, call: Call) -> Any:
            result = await self._ainjected(args, kwargs, call)
            return await inner(args, kwargs, call) if result is _ON else result

        # Not a coroutine function, which would be one more frame to resume at every step.
        def injector(args: Any, kwargs: Any, call: Call) -> Any:
            return through(args, kwargs, call) if _experiments.on else inner(args, kwargs, call)

        return injector

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` with faults at its first step; for generator functions."""

        def injector(args: Any, kwargs: Any, call: Call) -> Any:
            if not _experiments.on:
                return inner(args, kwargs, call)
            return relay(partial(self._opened, inner, args, kwargs, call))

        return injector

    def _opened(self, inner: SyncStream, args: Any, kwargs: Any, call: Call) -> Started:
        result = self._injected(args, kwargs, call)
        return start(inner(args, kwargs, call) if result is _ON else _items(result))

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` with faults at its first step; for asynchronous generator functions."""

        def injector(args: Any, kwargs: Any, call: Call) -> Any:
            if not _experiments.on:
                return inner(args, kwargs, call)
            return arelay(partial(self._aopened, inner, args, kwargs, call))

        return injector

    async def _aopened(self, inner: AsyncStream, args: Any, kwargs: Any, call: Call) -> Started:
        result = await self._ainjected(args, kwargs, call)
        items: Any = inner(args, kwargs, call) if result is _ON else _aitems(result)
        return await astart(items)

    def _injected(self, args: Any, kwargs: Any, call: Call) -> Any:
        strike = self._strike(args, kwargs, call)
        return _ON if strike is None else self._act(strike, self._begin(strike))

    async def _ainjected(self, args: Any, kwargs: Any, call: Call) -> Any:
        strike = self._strike(args, kwargs, call)
        return _ON if strike is None else await self._aact(strike, self._begin(strike))

    # Whether a call is struck.

    def _strike(self, args: Any, kwargs: Any, call: Call) -> Strike | None:
        """The fault for this call, if there is one; the first experiment to select it decides."""
        if self._members is not None and member_of(call) not in self._members:
            return None
        key: bytes | None = None
        known = False
        for experiment in running():
            if experiment.is_over():
                continue
            if not known:
                key, known = self._key_of(args, kwargs, call), True
            if experiment.selects(self, key, call):
                number = experiment.number(self, key)
                if experiment.draw(self.name, key, number) >= self.rate:
                    return None
                return Strike(experiment, key, number, call)
        return None

    def _key_of(self, args: Any, kwargs: Any, call: Call) -> bytes | None:
        if self._key is None:
            return None
        return encoded((call.root.key or self._key)(*args, **kwargs))

    def _begin(self, strike: Strike) -> float:
        """Tell of a fault that is about to happen; returns the seconds that it will take."""
        # It stands for the backend: whoever judges the call judges it as one that got there.
        strike.call.entered = True
        took = self._seconds_of(strike)
        experiment = strike.experiment
        experiment.strikes(self.name)
        _observe.emit(
            self,
            FaultInjected,
            strike.call.function,
            experiment=experiment.name,
            fault=self._fault,
            member=member_of(strike.call),
            delay=took,
        )
        return took

    def _seconds_of(self, strike: Strike) -> float:
        return 0.0


def _members(members: str | Iterable[str] | None) -> frozenset[str] | None:
    if members is None:
        return None
    found = frozenset((members,) if isinstance(members, str) else members)
    if not found or not all(isinstance(one, str) for one in found):
        raise TypeError("members must be the name of a pool's member, or a list of names")
    return found


def _items(value: Iterable[Any]) -> Generator[Any, Any, None]:
    yield from value


async def _aitems(value: Iterable[Any]) -> Any:
    for item in value:
        yield item


class InjectFault(Injector[Never]):
    """Raise an error in place of the call.

    Args:
        rate: The share of calls that are struck, from 0 to 1.
        error: What they raise: an exception class, which is called without arguments, an
            exception, of which each call gets a copy, or a function that makes one.
        key: Called with the caller's arguments, returns the key whose calls are counted.
            Strings, numbers, bytes, enums, UUIDs, dates and tuples of those can be keys.
            Without it all calls are counted as one.
        members: The name, or the names, of the pool's members to which it is confined; for
            an injector inside a pool. All calls by default.
        name: Names the policy in events and telemetry, and is part of what its faults hang on.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: `rate` is out of its range.
    """

    kind: ClassVar[str] = "inject_fault"
    _fault = "error"

    def __init__(
        self,
        rate: float,
        error: Error,
        *,
        key: Callable[..., Hashable] | None = None,
        members: str | Iterable[str] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(rate, key=key, members=members, name=name)
        self._make = maker(error)

    def _act(self, strike: Strike, seconds: float) -> Any:
        error = self._make()
        mark(error, f"injected by {self.name} in the experiment {strike.experiment.name}")
        raise error


def mark(error: Exception, text: str) -> None:
    """Say on an error that it is not real. A note of a retry's does not take its place."""
    error.add_note(f"chaos: {text}")


class InjectLatency(Injector[Never]):
    """Wait before the call.

    The wait is one of the call: it is cancelled with it, ends with the experiment, and no
    later than the deadline of an enclosing timeout, whose error then comes out.

    Args:
        rate: The share of calls that are struck, from 0 to 1.
        seconds: How long they wait: seconds, a timedelta, or a pair of them, between which
            each wait is drawn.
        key: See `InjectFault`.
        members: See `InjectFault`.
        name: See `InjectFault`.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range.
    """

    kind: ClassVar[str] = "inject_latency"
    _fault = "latency"

    def __init__(
        self,
        rate: float,
        seconds: Duration | tuple[Duration, Duration],
        *,
        key: Callable[..., Hashable] | None = None,
        members: str | Iterable[str] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(rate, key=key, members=members, name=name)
        self._least, self._most = _span(seconds)

    def _seconds_of(self, strike: Strike) -> float:
        if self._least == self._most:
            return self._least
        share = strike.experiment.draw(self.name, strike.key, strike.number, b"seconds")
        return self._least + (self._most - self._least) * share

    def _act(self, strike: Strike, seconds: float) -> Any:
        strike.experiment.over.wait(_limit(strike, seconds))
        _check_deadline(strike.call)
        return _ON

    async def _aact(self, strike: Strike, seconds: float) -> Any:
        await strike.experiment.over.await_(_limit(strike, seconds))
        _check_deadline(strike.call)
        return _ON


def _span(value: Duration | tuple[Duration, Duration]) -> tuple[float, float]:
    if not isinstance(value, tuple):
        found = seconds(value, "seconds")
        return found, found
    if len(value) != 2:
        raise TypeError("seconds must be a number, a timedelta, or a pair of those")
    least, most = (seconds(one, "seconds", zero=True) for one in value)
    if least > most:
        raise ValueError(f"seconds must go from less to more, not from {least:g} to {most:g}")
    return least, most


def _limit(strike: Strike, seconds: float) -> float:
    """How long a wait may really take: the time of the experiment and of the call are limits."""
    left = strike.experiment.until.at - clock.now()
    return max(0.0, min(seconds, left, deadline.remaining(seconds)))


def _check_deadline(call: Call) -> None:
    """Raise the error of an enclosing timeout whose time is up: the call is not made."""
    record = deadline.passed(clock.now())
    if record is None:
        return
    record.blamed = True
    error = CallTimeoutError(policy=record.policy, seconds=record.seconds)
    error._origin = call.root
    raise error


class InjectResult(Injector[Extra_co]):
    """Return a value in place of the call.

    Args:
        rate: The share of calls that are struck, from 0 to 1.
        value: What they return; for generator functions, what they yield the items of. It
            is the same object each time.
        key: See `InjectFault`.
        members: See `InjectFault`.
        name: See `InjectFault`.

    Raises:
        TypeError: A value is of the wrong type; or, when a generator function is decorated,
            `value` has no items.
        ValueError: `rate` is out of its range.
    """

    kind: ClassVar[str] = "inject_result"
    _fault = "result"

    def __init__(
        self,
        rate: float,
        value: Extra_co,
        *,
        key: Callable[..., Hashable] | None = None,
        members: str | Iterable[str] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(rate, key=key, members=members, name=name)
        self._value = value

    def _act(self, strike: Strike, seconds: float) -> Any:
        return self._value

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` with faults at its first step; for generator functions."""
        self._check_items()
        return super().wrap_stream(inner)

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` with faults at its first step; for asynchronous generator functions."""
        self._check_items()
        return super().awrap_stream(inner)

    def _check_items(self) -> None:
        if not isinstance(self._value, Iterable) or iter(self._value) is self._value:
            raise TypeError(
                "the injected result of a generator function is what it yields, every time: "
                f"give a list, not {type(self._value).__name__}"
            )


class InjectBehavior(Injector[Never]):
    """Run a function of your own before the call: drop a table, fill a disk, kill a process.

    Args:
        rate: The share of calls that are struck, from 0 to 1.
        behavior: Called without arguments, sync or, on async code, also async; the call
            follows. If it raises, that is the call's error.
        key: See `InjectFault`.
        members: See `InjectFault`.
        name: See `InjectFault`.

    Raises:
        TypeError: A value is of the wrong type; or, when sync code is decorated, `behavior`
            is async.
        ValueError: `rate` is out of its range.
    """

    kind: ClassVar[str] = "inject_behavior"
    _fault = "behavior"

    def __init__(
        self,
        rate: float,
        behavior: Callable[[], Awaitable[object] | object],
        *,
        key: Callable[..., Hashable] | None = None,
        members: str | Iterable[str] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(rate, key=key, members=members, name=name)
        if not callable(behavior):
            raise TypeError(f"behavior must be a function without arguments, not {behavior!r:.80}")
        self._behavior = behavior

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` with faults; for plain functions."""
        self._check_plain()
        return super().wrap(inner)

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` with faults at its first step; for generator functions."""
        self._check_plain()
        return super().wrap_stream(inner)

    def _check_plain(self) -> None:
        if is_coroutine_function(self._behavior):
            raise TypeError(
                f"{name_of(self._behavior)} is a coroutine function, which nothing awaits "
                "before a plain one: give a plain function"
            )

    def _act(self, strike: Strike, seconds: float) -> Any:
        done = self._behavior()
        if hasattr(type(done), "__await__"):
            if inspect.iscoroutine(done):
                done.close()
            raise Misuse(
                f"{name_of(self._behavior)} returned an awaitable, which nothing awaits before "
                "a plain function: give a plain function"
            )
        return _ON

    async def _aact(self, strike: Strike, seconds: float) -> Any:
        done = self._behavior()
        if inspect.isawaitable(done):
            await done
        return _ON
