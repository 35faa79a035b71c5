"""Hedge: when an answer is late, ask a second time and take whichever comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Never

from resilient._call import AsyncCall, AsyncStream, SyncCall, SyncStream
from resilient._core.budget import RetryBudget
from resilient._core.durations import Duration, count, seconds
from resilient._core.hedging import Rules
from resilient._core.quantile import Measured, Quantile
from resilient._core.verdict import ExceptionTypes, Matcher, On
from resilient._policy import Policy
from resilient._runtime import hedge_asyncio, hedge_threads
from resilient._runtime.workers import Workers

__all__ = ["Hedge", "HedgeSnapshot", "Quantile"]

_OWN: Final[Any] = RetryBudget()
# Worker threads of one hedge on sync code. Each waiting caller has one, so this is a bound on
# what hanging attempts may leave behind, not on the load.
_WORKERS: Final = 1000


@dataclass(frozen=True, slots=True)
class HedgeSnapshot:
    """A hedge's state: `delay` in seconds, as it is now; `tokens` of its budget, or `None`."""

    name: str
    kind: str
    delay: float
    tokens: float | None


class Hedge(Policy[Never, Never]):
    """Make a late call once more beside the first, and take the first answer.

    It cuts the tail of the latencies for a few more requests: hedging after the 95th
    percentile adds 5 %. Use it only where a call may be made twice. ("The Tail at Scale",
    Dean and Barroso, CACM 2013.)

    Args:
        delay: Seconds from the last start to the next hedge, 0 or more; or
            `Quantile(0.95, initial=0.1)`, the time within which 95 % of the recent attempts
            answered, 0.1 s as long as fewer than 20 were measured.
        max_hedges: Hedges per call, 1 or more, 1 by default.
        on: The exceptions after which the next hedge starts at once: a class, a tuple of
            classes or a predicate `(exception) -> bool`. Any other error ends the call.
        unless: Classes that `on` would match but that are to end the call.
        budget: Bounds hedges as a share of successes; by default one of its own, 10 %. Share
            one between policies, or give `None` for no bound. When it is empty, the attempts
            in flight go on and no further one is launched.
        sync: `"thread"` is needed on sync code: every attempt, the first too, then runs in a
            worker thread, with a copy of the context.
        name: Names the policy in events, errors and telemetry.

    If all attempts fail, the first attempt's error is raised. On async code the attempts
    that lost are cancelled and awaited, so that slow cleanup delays the answer; on sync code
    they run on in their workers. What they still return is closed, if it has `close` or
    `aclose`.

    Raises:
        TypeError: A value is of the wrong type, or what is decorated cannot be hedged: a
            generator, or sync code without `sync="thread"`.
        ValueError: A value is out of its range.

    A call on sync code raises `RuntimeError` on a thread that runs an event loop, and
    `WorkersExhaustedError` when 1,000 attempts are under way or hang in this policy.
    """

    kind: ClassVar[str] = "hedge"
    repeats = True

    def __init__(
        self,
        delay: Duration | Quantile,
        *,
        max_hedges: int = 1,
        on: On = Exception,
        unless: ExceptionTypes | tuple[()] = (),
        budget: RetryBudget | None = _OWN,
        sync: Literal["thread"] | None = None,
        name: str | None = None,
    ) -> None:
        if callable(delay):
            raise TypeError("Hedge was given a function: did you mean @Hedge(0.1) above it?")
        super().__init__(name)
        measured = Measured(delay) if isinstance(delay, Quantile) else None
        fixed = delay.initial if isinstance(delay, Quantile) else seconds(delay, "delay", zero=True)
        if budget is _OWN:
            budget = RetryBudget(ratio=0.1)
        elif budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None, not {budget!r}")
        if sync not in (None, "thread"):
            raise ValueError(f'sync must be "thread" or left out, not {sync!r}')
        self._budget = budget
        self._rules = Rules(
            fixed=fixed,
            measured=measured,
            max_hedges=count(max_hedges, "max_hedges"),
            matcher=Matcher(on, unless),
            budget=budget,
        )
        self._workers = Workers(_WORKERS) if sync == "thread" else None

    def snapshot(self) -> HedgeSnapshot:
        """Return the hedge's state as plain values."""
        tokens = None if self._budget is None else self._budget.tokens
        return HedgeSnapshot(self.name, self.kind, self._rules.delay, tokens)

    def _compose(self, method: str, inner: Any, outer: tuple[Policy[Any, Any], ...]) -> Any:
        # A call fills a shared budget once, at the outermost policy that holds it.
        budget = self._budget
        if any(getattr(policy, "_budget", None) is budget for policy in outer):
            budget = None
        wrap: Callable[..., Any] = getattr(self, method)
        return wrap(inner, fill=budget)

    def wrap(self, inner: SyncCall[Any], *, fill: RetryBudget | None = _OWN) -> SyncCall[Any]:
        """Return `inner` hedged, each attempt in a worker thread; for plain functions."""
        if self._workers is None:
            raise TypeError(
                "nothing can stop a sync function once a hedge of it has answered, so say that "
                'its attempts may run in worker threads: Hedge(..., sync="thread")'
            )
        return hedge_threads.hedged(self, inner, self._filled(fill), self._workers)

    def awrap(self, inner: AsyncCall[Any], *, fill: RetryBudget | None = _OWN) -> AsyncCall[Any]:
        """Return `inner` hedged; for coroutine functions."""
        measured = self._rules.measured
        if measured is not None:
            return hedge_asyncio.hedged_by_measure(self, inner, self._filled(fill), measured)
        return hedge_asyncio.hedged(self, inner, self._filled(fill))

    def _filled(self, fill: RetryBudget | None) -> RetryBudget | None:
        return self._budget if fill is _OWN else fill

    def wrap_stream(self, inner: SyncStream, *, fill: RetryBudget | None = _OWN) -> SyncStream:
        """Refuse: the items of two generators cannot be told apart from one stream."""
        raise TypeError(_NO_STREAMS)

    def awrap_stream(self, inner: AsyncStream, *, fill: RetryBudget | None = _OWN) -> AsyncStream:
        """Refuse: the items of two generators cannot be told apart from one stream."""
        raise TypeError(_NO_STREAMS)


_NO_STREAMS: Final = (
    "Hedge cannot protect a generator, whose items would come from several attempts: hedge the "
    "call that opens the stream"
)
