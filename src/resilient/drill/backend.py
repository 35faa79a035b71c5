"""A simulated backend: so many requests at a time, a queue, a latency, and what breaks it.

::

    request ──▶ in service (at most `capacity`) ──▶ answer after a drawn latency
       │              ▲
       └──▶ queue ────┘   first in, first out, at most `queue` long; beyond: refused

Whoever gives up waiting only stops listening: the request stays in the queue and is served,
as on a real server, which does not notice. That is what makes overload last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from resilient.drill.checks import flag, number, whole, words
from resilient.drill.errors import ScenarioError
from resilient.drill.latency import Latency, latency_of

if TYPE_CHECKING:
    from resilient.drill.recorder import Recorder

Future = asyncio.Future[None]


class Backend:
    """One simulated server, or a group of servers behind one address.

    Args:
        name: Names it in faults and in the report; a pool's member of this name is it.
        latency: What serving one request takes: seconds, or a `Latency`. 0.01 by default.
        capacity: How many requests are served at a time, 1 or more; `None`: any number.
        queue: How many requests wait at most when all places are taken; `None`, the
            default: any number; 0: none.
        region: Where it stands, for `RegionLoss`.
        error: The class of the exception that a failed request raises, or a function of a
            text that returns one. `ConnectionError` by default.
        skips_abandoned: Whether a request whose caller has gone is taken from the queue
            unserved. False by default.
        cold: Whether it is a cold standby, which must be started before it answers.
        start_time: Seconds that `start()` of a cold one takes, 0 or more.

    Raises:
        ScenarioError: A value is of the wrong type or out of its range.
    """

    def __init__(
        self,
        name: str,
        *,
        latency: float | Latency = 0.01,
        capacity: int | None = None,
        queue: int | None = None,
        region: str | None = None,
        error: Callable[[str], Exception] = ConnectionError,
        skips_abandoned: bool = False,
        cold: bool = False,
        start_time: float = 0.0,
    ) -> None:
        self.name = words(name, "name")
        self.latency = latency_of(latency, "latency")
        self.capacity = None if capacity is None else whole(capacity, "capacity", least=1)
        self.queue = None if queue is None else whole(queue, "queue")
        self.region = None if region is None else words(region, "region")
        if not callable(error):
            raise ScenarioError("error", f"must be an exception class, not {error!r}")
        if isinstance(error, type) and not issubclass(error, Exception):
            raise ScenarioError("error", f"must be an exception class, not {error!r}")
        self.error = error
        self.skips_abandoned = flag(skips_abandoned, "skips_abandoned")
        self.cold = flag(cold, "cold")
        self.start_time = number(start_time, "start_time")
        self._recorder: Recorder | None = None
        self._reset()

    def _reset(self) -> None:
        self.requests = 0
        self.failures = 0
        # Seconds of service begun so far.
        self.busy = 0.0
        self._in_service = 0
        self._waiting: deque[Future] = deque()
        self._serving: dict[Future, None] = {}
        # What faults do to it. Several may hold at a time.
        self._refusing = 0
        self._silent = 0
        self._stalled = 0
        self._slow: list[float] = []
        self._erring: list[float] = []
        self._factor = 1.0
        self._error_share = 0.0
        self._running_since: float | None = None
        self._ran_for = 0.0

    # A run.

    def _begin(self, recorder: Recorder, seed: int) -> None:
        """Start afresh, for one run."""
        self._reset()
        self._recorder = recorder
        self._expect = recorder.expect
        self._loop = asyncio.get_running_loop()
        self._source = Random(f"{seed}/{self.name}")
        self._row = recorder.row_of(self.name)
        if not self.cold:
            self._running_since = self._loop.time()

    def _end(self) -> None:
        self._recorder = None

    def running_time(self, now: float) -> float:
        """Seconds for which it has run."""
        since = 0.0 if self._running_since is None else now - self._running_since
        return self._ran_for + since

    # What callers do.

    async def request(self, *args: Any, **kwargs: Any) -> str:
        """Make one request; any arguments will do. Returns the backend's name.

        Raises:
            Exception: The backend's `error`: it refused, broke off, or answered with one.
        """
        recorder = self._recorder
        if recorder is None:
            raise RuntimeError(f"backend {self.name} answers only inside a drill")
        self.requests += 1
        self._row[recorder.bucket(self._loop.time())] += 1
        await self._place()
        return self.name

    def _place(self) -> Future:
        future = self._loop.create_future()
        if self._refusing or self._running_since is None:
            self._fail(future, "refused the connection")
        elif self._silent:
            pass  # nobody will ever answer
        elif self._stalled or (self.capacity is not None and self._in_service >= self.capacity):
            if self.queue is not None and len(self._waiting) >= self.queue:
                self._fail(future, "has no room in its queue")
            else:
                self._waiting.append(future)
        else:
            self._serve(future)
        return future

    def _serve(self, future: Future) -> None:
        seconds = self.latency.draw(self._source) * self._factor
        self._in_service += 1
        self.busy += seconds
        fails = self._error_share > 0 and self._source.random() < self._error_share
        self._serving[future] = None
        self._loop.call_later(seconds, self._served, future, fails)

    def _served(self, future: Future, fails: bool) -> None:
        if future not in self._serving:
            return  # it broke off with the backend
        del self._serving[future]
        self._in_service -= 1
        if fails:
            self._fail(future, "answered with an error")
        elif not future.done():
            future.set_result(None)
        if self._waiting and not self._stalled:
            self._serve_next()

    def _serve_next(self) -> None:
        waiting = self._waiting
        while waiting and (self.capacity is None or self._in_service < self.capacity):
            future = waiting.popleft()
            if not (self.skips_abandoned and future.done()):
                self._serve(future)

    def _fail(self, future: Future, why: str) -> None:
        self.failures += 1
        if future.done():
            return
        error = self.error(f"{self.name} {why}")
        self._expect(type(error))
        future.set_exception(error)

    async def probe(self, *_: Any) -> None:
        """Ask whether it is up, past its queue; for a `HealthCheck`.

        Raises:
            Exception: The backend's `error`: it is down.
        """
        await asyncio.sleep(self.latency.mean * self._factor)
        if self._silent or self._stalled:
            await self._loop.create_future()
        if self._refusing or self._running_since is None:
            raise self.error(f"{self.name} refused the probe")

    async def start(self) -> None:
        """Bring a cold standby up; for `Member(start=...)`."""
        await asyncio.sleep(self.start_time)
        if self._running_since is None:
            self._running_since = self._loop.time()

    async def stop(self) -> None:
        """Take a cold standby down; for `Member(stop=...)`."""
        self._ran_for = self.running_time(self._loop.time())
        self._running_since = None

    # What faults do.

    def _refuse(self, on: bool) -> None:
        """Go down, breaking off what is in service and in the queue, or come back."""
        self._refusing += 1 if on else -1
        if on:
            self._drop("broke the connection off")

    def _silence(self, on: bool) -> None:
        """Be unreachable: nothing is ever answered; or be reachable again."""
        self._silent += 1 if on else -1
        if on:
            for futures in (self._serving, self._waiting):
                futures.clear()
            self._in_service = 0

    def _stall(self, on: bool) -> None:
        """Stop serving, but go on queueing; or serve again."""
        self._stalled += 1 if on else -1
        if not self._stalled:
            self._serve_next()

    def _drop(self, why: str) -> None:
        dropped = [*self._serving, *self._waiting]
        self._serving.clear()
        self._waiting.clear()
        self._in_service = 0
        for future in dropped:
            self._fail(future, why)

    def _slow_down(self, factor: float, on: bool) -> None:
        (self._slow.append if on else self._slow.remove)(factor)
        self._factor = 1.0
        for one in self._slow:
            self._factor *= one

    def _err(self, share: float, on: bool) -> None:
        (self._erring.append if on else self._erring.remove)(share)
        works = 1.0
        for one in self._erring:
            works *= 1.0 - one
        self._error_share = 1.0 - works

    def __repr__(self) -> str:
        return f"Backend({self.name!r})"
