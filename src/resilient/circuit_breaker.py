"""Circuit breaker: stop calling a backend that fails, and try it again carefully.

The states and their rules are in `_core.circuit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Never, TypeVar

from resilient import _observe
from resilient._call import AsyncCall, AsyncStream, Call, Site, SyncCall, SyncStream
from resilient._core import clock, deadline
from resilient._core.backoff import Backoff, check
from resilient._core.circuit import (
    Circuit,
    CircuitState,
    Closed,
    HalfOpen,
    Open,
    Permit,
    Refusal,
    Rules,
)
from resilient._core.durations import Duration, count, seconds, share
from resilient._core.verdict import ExceptionTypes, FailedAnswer, Matcher, On, predicate
from resilient._core.window import CountWindow, TimeWindow
from resilient._policy import Policy, _living
from resilient._runtime import modes
from resilient._runtime.streams import arelay, astart, relay, start
from resilient._runtime.waits import is_cancellation
from resilient.errors import CallTimeoutError, CircuitOpenError
from resilient.events import CallRejected, CircuitStateChanged

R = TypeVar("R")


# Objects of their own, so that a user's 0.5 is told from none given.
_FAILURE_RATE: Final = float("0.5")
_SLOW_RATE: Final = float("1.0")


@dataclass(frozen=True, slots=True)
class CircuitBreakerSnapshot:
    """A circuit breaker's state, and what its current window holds."""

    name: str
    kind: str
    state: CircuitState
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float


class CircuitBreaker(Policy[Never, Never]):
    """Refuse calls for a while once too many have failed or were slow.

    Args:
        name: Names the policy in events, errors and telemetry.
        on: The exceptions that are failures of the backend: a class, a tuple of classes or
            a predicate `(exception) -> bool`. All others, and cancellations, are neutral.
        unless: Classes that `on` would match but that are no failures.
        on_result: A predicate `(result) -> bool`; true makes a result a failure.
        failure_rate: The share of failures, above 0 and up to 1, from which on the circuit
            opens. 0.5 by default.
        window_calls: Judge by the last so many calls, 100 by default.
        window_seconds: Judge by the calls of the last so many seconds instead.
        minimum_calls: Calls the window must hold before it is judged; by default 10, or
            the size of a smaller window.
        consecutive_failures: Open after so many failures in a row, instead of by a rate.
        slow_call: Seconds from which on a call is slow, failed or not; `None`: none is.
        slow_rate: The share of slow calls, above 0 and up to 1, from which on the circuit
            opens. 1.0 by default.
        open_for: Seconds to stay open before a probe is let through, jittered upwards by up
            to 10 %; or a backoff, which grows while probes fail. 30 by default.
        half_open_calls: How many probes must succeed to close, and how many are let through
            to find out. 1 by default.
        half_open_timeout: Seconds after which a probe that has not come back has failed.
            60 by default.

    Raises:
        TypeError: A value is of the wrong type, or two options exclude each other.
        ValueError: A value is out of its range.

    A refused call raises `CircuitOpenError`. The call that trips the circuit raises the
    backend's own error.
    """

    kind: ClassVar[str] = "circuit_breaker"
    stateful = True

    def __init__(
        self,
        name: str | None = None,
        *,
        on: On = Exception,
        unless: ExceptionTypes | tuple[()] = (),
        on_result: Callable[[Any], bool] | None = None,
        failure_rate: float = _FAILURE_RATE,
        window_calls: int | None = None,
        window_seconds: Duration | None = None,
        minimum_calls: int | None = None,
        consecutive_failures: int | None = None,
        slow_call: Duration | None = None,
        slow_rate: float = _SLOW_RATE,
        open_for: Duration | Iterable[Duration] = 30,
        half_open_calls: int = 1,
        half_open_timeout: Duration = 60,
    ) -> None:
        if name is not None and callable(name):
            raise TypeError(
                "CircuitBreaker was given a function: did you mean `@CircuitBreaker()`?"
            )
        super().__init__(name)
        if window_calls is not None and window_seconds is not None:
            raise TypeError("give window_calls or window_seconds, not both")
        if failure_rate is not _FAILURE_RATE and consecutive_failures is not None:
            raise TypeError("give failure_rate or consecutive_failures, not both")
        if minimum_calls is not None and consecutive_failures is not None and slow_call is None:
            raise TypeError(
                "minimum_calls is for rates, and consecutive_failures needs none: leave it out"
            )
        if slow_rate is not _SLOW_RATE and slow_call is None:
            raise TypeError("slow_rate needs slow_call=..., the seconds that make a call slow")
        self._matcher = Matcher(on, unless)
        self._on_result = predicate(on_result, "on_result")
        self._slow_call = None if slow_call is None else seconds(slow_call, "slow_call")
        size, window = _window(window_calls, window_seconds)
        self._timed = window_seconds is not None
        self._circuit = Circuit(
            Rules(
                new_window=window,
                minimum_calls=_minimum(minimum_calls, size),
                failure_rate=share(failure_rate, "failure_rate"),
                consecutive_failures=None
                if consecutive_failures is None
                else count(consecutive_failures, "consecutive_failures"),
                slow_rate=share(slow_rate, "slow_rate"),
                open_for=_open_for(open_for),
                half_open_calls=count(half_open_calls, "half_open_calls"),
                half_open_timeout=seconds(half_open_timeout, "half_open_timeout"),
            )
        )

    @property
    def state(self) -> CircuitState:
        """Where the circuit stands. An open one stays open until a call comes to probe."""
        state = self._circuit.state(clock.now())
        self._announce("")
        return state

    def isolate(self) -> None:
        """Refuse every call until `reset()`, whatever the backend does."""
        self._circuit.isolate()
        self._announce("")

    def reset(self) -> None:
        """Close the circuit and forget what was seen."""
        self._circuit.reset()
        self._announce("")

    def snapshot(self) -> CircuitBreakerSnapshot:
        """Return the state, and what the current window holds, as plain values."""
        state = self.state
        counts = self._circuit.counts(clock.now())
        return CircuitBreakerSnapshot(
            name=self.name,
            kind=self.kind,
            state=state,
            calls=counts.calls,
            failures=counts.failures,
            slow_calls=counts.slow,
            failure_rate=counts.failure_rate,
        )

    def _idle(self) -> bool:
        return self.state is CircuitState.CLOSED

    def _fresh(self) -> CircuitBreaker:
        """Return one more of the same rules, name and listeners, with a circuit of its own."""
        twin = copy(self)
        twin._circuit = Circuit(self._circuit.rules)
        twin._chains = {}
        _living.add(twin)
        return twin

    def guard(self) -> CircuitGuard:
        """Return a fresh block to run one call in: `with breaker.guard() as call: ...`.

        `call.set_result(value)` returns its value; `on_result=` judges it.
        """
        call = Call()
        call.site = Site(self.name, "", (self,))
        return CircuitGuard(self, call)

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` protected; for plain functions."""
        circuit = self._circuit
        quick = self._quick()

        def breaker(args: Any, kwargs: Any, call: Call) -> Any:
            period: Any = circuit.period
            permit = period
            if not period.admits_all:
                permit = self._admit(call)
                if permit is None:
                    raise self._refused(call)
            started = 0.0 if quick else clock.now()
            watchers = call.on_abandon
            if watchers is not None:
                permit = self._shared(permit, call, started, watchers)
            try:
                result = inner(args, kwargs, call)
            except BaseException as error:
                self._failed(permit, call, started, error)
                raise
            if quick and permit is period and not call.fell_back:
                # The period itself is a permit only while it is closed.
                permit.window.success()  # pyright: ignore[reportAttributeAccessIssue]
            else:
                self._returned(permit, call, started, result)
            return result

        return breaker

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` protected; for coroutine functions."""
        circuit = self._circuit
        quick = self._quick()

        async def breaker(args: Any, kwargs: Any, call: Call) -> Any:
            period: Any = circuit.period
            permit = period
            if not period.admits_all:
                permit = self._admit(call)
                if permit is None:
                    raise self._refused(call)
            started = 0.0 if quick else clock.now()
            try:
                result = await inner(args, kwargs, call)
            except BaseException as error:
                self._failed(permit, call, started, error)
                raise
            if quick and permit is period and not call.fell_back:
                # The period itself is a permit only while it is closed.
                permit.window.success()  # pyright: ignore[reportAttributeAccessIssue]
            else:
                self._returned(permit, call, started, result)
            return result

        return breaker

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` protected until it is exhausted or closed; for generator functions."""
        self._refuse_on_result()

        def breaker(args: Any, kwargs: Any, call: Call) -> Any:
            guard = CircuitGuard(self, call, stream=True)
            return relay(lambda: start(inner(args, kwargs, call)), guard, guard.step)

        return breaker

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` protected until exhausted or closed; for async generator functions."""
        self._refuse_on_result()

        def breaker(args: Any, kwargs: Any, call: Call) -> Any:
            guard = CircuitGuard(self, call, stream=True)
            return arelay(lambda: astart(inner(args, kwargs, call)), guard, guard.step)

        return breaker

    def _refuse_on_result(self) -> None:
        if self._on_result is not None:
            raise TypeError(
                "on_result cannot judge a generator, which returns its items one by one: "
                "leave it out, or raise an error in the generator"
            )

    def _quick(self) -> bool:
        """Whether a success needs no more than to be counted: no time, no row, no look."""
        rules = self._circuit.rules
        return not (
            self._timed
            or self._slow_call is not None
            or self._on_result is not None
            or rules.consecutive_failures is not None
        )

    def _admit(self, call: Call) -> Permit | None:
        """Ask a circuit that is not closed for a permit; `None` if it refuses.

        The caller raises what `_refused` makes: each frame that an error leaves costs, and in
        an outage refusals are most of what happens.
        """
        now = clock.now()
        period = self._circuit.period
        # An open circuit refuses without a lock.
        if type(period) is Open and now < period.until:
            return None
        found = self._circuit.admit(now)
        self._announce(call.function)
        return None if isinstance(found, Refusal) else found

    def _refused(self, call: Call) -> CircuitOpenError:
        """Tell that `call` is refused, and return the error that says so."""
        # Without the constructor, whose keywords cost more than all the rest.
        error = CircuitOpenError.__new__(CircuitOpenError)
        error.policy = self._name or self.kind
        period = self._circuit.period
        if type(period) is Open:
            error.retry_after = max(0.0, period.until - clock.now())
            error.state = CircuitState.OPEN
            error.last_failure = period.why
        else:
            # It may have closed since; then the next call has its chance at once.
            error.retry_after = 0.0 if type(period) is Closed else None
            error.state = CircuitState.OPEN if type(period) is Closed else period.state
            error.last_failure = period.why if type(period) is HalfOpen else None
        if _observe.everyone.all or self._listeners.all or _observe.hears():
            _observe.emit(
                self,
                CallRejected,
                call.function,
                reason="circuit_open",
                retry_after=error.retry_after,
            )
        return error

    def _shared(
        self, permit: Permit, call: Call, started: float, watchers: list[Callable[[bool], None]]
    ) -> SharedPermit:
        """A permit for a call in a worker, which may be given up before it comes back."""
        shared = SharedPermit(permit)

        def given_up(failed: bool) -> None:
            if not failed or not call.entered:
                shared.neutral()
                return
            now = clock.now()
            slow = self._slow_call is not None and now - started >= self._slow_call
            shared.bad(now, True, slow, f"CallTimeoutError in {call.function}")
            self._announce(call.function)

        watchers.append(given_up)
        return shared

    def _failed(
        self, permit: Permit | SharedPermit, call: Call, started: float, error: BaseException
    ) -> None:
        """Judge a call that raised."""
        now = clock.now()
        slow = self._slow_call is not None and now - started >= self._slow_call
        try:
            failure = self._is_failure(error, call)
        except BaseException:
            permit.neutral()
            raise
        if failure:
            permit.bad(now, failed=True, slow=slow, why=where(error))
            self._shut(call)
            self._announce(call.function)
        else:
            permit.neutral()

    def _shut(self, call: Call) -> None:
        """Let a retry further out know that its next attempt would be refused, if so."""
        period = self._circuit.period
        if type(period) is Open:
            call.shut = period.until, self._name or self.kind

    def _is_failure(self, error: BaseException, call: Call) -> bool:
        if not isinstance(error, Exception):
            # Cancelled because a deadline of ours ran out: the backend hung. Were it neutral,
            # an outer timeout would hide every hang from the breaker inside it.
            return call.entered and is_cancellation(error) and deadline.ran_out()
        if isinstance(error, CallTimeoutError):
            if error._origin is call.root:
                # A timeout further in this pipeline: a hang is the backend's, whatever `on` says.
                return True
            if not call.entered:
                # The time of one further out was up before the call got there, in a queue, say.
                return False
        if isinstance(error, FailedAnswer):
            return error.error is None or self._matcher.matches(error.error)
        return self._matcher.matches(error)

    def _returned(
        self, permit: Permit | SharedPermit, call: Call, started: float, result: Any
    ) -> None:
        """Judge a call that returned."""
        if call.fell_back:
            # A fallback further in: the value is not the backend's answer.
            permit.neutral()
            return
        now = clock.now()
        took = now - started
        slow = self._slow_call is not None and took >= self._slow_call
        try:
            failed = self._on_result is not None and bool(self._on_result(result))
        except BaseException:
            permit.neutral()
            raise
        if failed or slow:
            why = "a result that on_result refused" if failed else f"a slow call of {took:.3g} s"
            permit.bad(now, failed, slow, f"{why} in {call.function}" if call.function else why)
            self._shut(call)
            self._announce(call.function)
        else:
            permit.success_at(now)
            self._announce(call.function)

    def _announce(self, function: str) -> None:
        """Tell of the changes of state, one event each, in order, with no lock held.

        Who finds another thread at it leaves its change to that one, or the events could
        overtake each other. A listener that changes the state itself finds itself at it.
        """
        changes, telling = self._circuit.changes, self._circuit.telling
        while changes and telling.acquire(blocking=False):
            try:
                while changes:
                    old, new = changes.pop(0)
                    _observe.emit(self, CircuitStateChanged, function, old=old, new=new)
            finally:
                telling.release()


class SharedPermit:
    """A permit that two threads may settle: the worker, and the caller that gave it up.

    Only the first of them counts.
    """

    __slots__ = ("_unsettled",)

    def __init__(self, permit: Permit) -> None:
        # `pop` is atomic: that decides who is first.
        self._unsettled = [permit]

    def success_at(self, now: float) -> None:
        """See `Probe`."""
        for permit in self._take():
            permit.success_at(now)

    def neutral(self) -> None:
        """See `Probe`."""
        for permit in self._take():
            permit.neutral()

    def bad(self, now: float, failed: bool, slow: bool, why: str) -> None:
        """See `Probe`."""
        for permit in self._take():
            permit.bad(now, failed, slow, why)

    def _take(self) -> tuple[Permit, ...]:
        try:
            return (self._unsettled.pop(),)
        except IndexError:
            return ()


class CircuitGuard:
    """One call through the breaker, as a block; nothing in it waits, so `async with` works.

    A block may be left in another task or context than it was entered in.
    """

    __slots__ = ("_breaker", "_call", "_has_result", "_permit", "_result", "_spent", "_started",
                 "_stream", "_used")  # fmt: skip

    def __init__(self, breaker: CircuitBreaker, call: Call, *, stream: bool = False) -> None:
        self._breaker = breaker
        self._call = call
        self._stream = stream
        self._permit: Permit | None = None
        self._used = False
        self._has_result = False
        self._result: Any = None
        self._spent = 0.0
        self._started = 0.0

    def set_result(self, result: R) -> R:
        """Say what the call came to, for `on_result=` to judge; returns `result`."""
        self._result, self._has_result = result, True
        return result

    def __enter__(self) -> CircuitGuard:
        if self._used:
            raise RuntimeError("a guard serves one block: call guard() for each")
        self._used = True
        if modes.passthrough:
            return self
        period = self._breaker._circuit.period
        if isinstance(period, Closed):
            self._permit = period
        else:
            self._permit = self._breaker._admit(self._call)
            if self._permit is None:
                raise self._breaker._refused(self._call)
        self._call.entered = not self._stream
        self._started = clock.now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        permit, self._permit = self._permit, None
        if permit is None:
            return
        # Of a stream only the time inside its steps counts, not the consumer's.
        started = clock.now() - self._spent if self._stream else self._started
        breaker = self._breaker
        if error is not None:
            breaker._failed(permit, self._call, started, error)
        elif breaker._on_result is not None and not self._has_result:
            permit.neutral()
            raise RuntimeError("with on_result=, the block must call set_result(...)")
        else:
            breaker._returned(permit, self._call, started, self._result)

    async def __aenter__(self) -> CircuitGuard:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def step(self) -> _Step:
        """Return the block to run one step of a stream in."""
        return _Step(self)


class _Step:
    """Adds the time of one step to its guard's."""

    __slots__ = ("_guard", "_started")

    def __init__(self, guard: CircuitGuard) -> None:
        self._guard = guard
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = clock.now()

    def __exit__(self, *exc: object) -> None:
        self._guard._spent += clock.now() - self._started

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()


def where(error: BaseException) -> str:
    """The type of `error`, and the place it was raised at, innermost."""
    if isinstance(error, FailedAnswer):
        return str(error) if error.error is None else where(error.error)
    name = type(error).__qualname__
    trace = error.__traceback__
    if trace is None:
        return name
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{name} at {file}:{trace.tb_lineno} in {code.co_name}"


def _window(
    calls: int | None, duration: Duration | None
) -> tuple[int | None, Callable[[], CountWindow | TimeWindow]]:
    if duration is not None:
        return None, partial(TimeWindow, seconds(duration, "window_seconds"))
    size = 100 if calls is None else count(calls, "window_calls")
    return size, partial(CountWindow, size)


def _minimum(minimum: int | None, size: int | None) -> int:
    if minimum is None:
        return 10 if size is None else min(10, size)
    found = count(minimum, "minimum_calls")
    if size is not None and found > size:
        raise ValueError(
            f"minimum_calls ({found}) is more than window_calls ({size}), so the circuit "
            "would never open: lower it or enlarge the window"
        )
    return found


def _open_for(value: Duration | Iterable[Duration]) -> float | Iterable[float]:
    if isinstance(value, Iterable):
        found = check(value, "open_for")
        if next(iter(found), None) is None:
            raise ValueError("open_for must hold at least one wait")
        if next(iter(found.plain() if isinstance(found, Backoff) else found)) == 0:
            raise ValueError("open_for must begin with more than 0 seconds: it would not open")
        return found
    return seconds(value, "open_for")
