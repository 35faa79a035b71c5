"""Timelines, recorded from the policies themselves on virtual time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from docs.pictures.drawing import Bar, Lane, timeline
from resilient import Bulkhead, Fallback, Pipeline, RejectedError, Retry, Timeout, attempt_number
from resilient._runtime import waits
from resilient.events import CallOverran, RetryScheduled
from resilient.hedge import Hedge
from resilient.testing import VirtualClock, virtual_time


class Stage:
    """Writes down what happens, and when."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._begun = clock.now()
        self.lanes: dict[str, Lane] = {}

    def lane(self, label: str) -> Lane:
        """Return the lane of that label; a new one comes last."""
        return self.lanes.setdefault(label, Lane(label))

    def now(self) -> float:
        """Return the seconds since the beginning, without the noise of the sums."""
        # The clock starts at the machine's uptime: with it the last digits would change.
        return round(self._clock.now() - self._begun, 3)

    def bar(self, label: str, start: float, kind: str, words: str = "") -> None:
        """Write down that something has lasted from `start` until now."""
        self.lane(label).bars.append(Bar(start, self.now(), kind, words))

    def mark(self, label: str, words: str) -> None:
        """Write down that something happens now."""
        self.lane(label).marks.append((self.now(), words))

    async def work(
        self, label: str, seconds: float, words: str, error: Exception | None = None
    ) -> str:
        """Do something that takes so long, and then fails, if there is an error to raise."""
        start = self.now()
        self.lane(label)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.bar(label, start, "cut", "cancelled")
            raise
        self.bar(label, start, "bad" if error else "good", words)
        if error is not None:
            raise error
        return words

    async def whole(self, label: str, call: Awaitable[object], words: str) -> None:
        """Write down how long the caller waits for `call`."""
        start = self.now()
        self.lane(label)
        try:
            await call
        except RejectedError:
            self.mark(label, "refused at once")
        except Exception as error:
            self.bar(label, start, "held", f"{words}: {type(error).__name__}")
        else:
            self.bar(label, start, "held", words)


Scene = Callable[[Stage], Any]


def record(
    scene: Scene, title: str, seconds: float, tick: float, labels: tuple[str, ...] = ()
) -> str:
    """Play `scene` on virtual time, and return the picture of what happened."""
    with virtual_time(seed=1) as clock:
        stage = Stage(clock)
        for label in labels:
            stage.lane(label)
        scene(stage)
    return timeline(title, list(stage.lanes.values()), seconds, tick)


def _waits(stage: Stage, label: str, policy: Retry) -> None:
    def scheduled(event: object) -> None:
        if isinstance(event, RetryScheduled):
            now = stage.now()
            bar = Bar(now, now + event.delay, "wait", f"{event.delay:g} s")
            stage.lane(label).bars.append(bar)

    policy.subscribe(scheduled)


def retry(stage: Stage) -> None:
    """Two attempts fail, the third succeeds."""
    policy = Retry(on=ConnectionError, attempts=3, backoff=[0.5, 1])
    _waits(stage, "backoff", policy)

    @policy
    async def load() -> str:
        number = attempt_number()
        error = ConnectionError() if number < 3 else None
        return await stage.work(f"attempt {number}", 0.4, "fails" if error else "answers", error)

    asyncio.run(stage.whole("the caller waits", load(), "one call"))


def timeout(stage: Stage) -> None:
    """Four calls under the same two seconds."""

    @Timeout(2)
    async def in_time() -> str:
        return await stage.work("async, in time", 1.2, "answers")

    @Timeout(2)
    async def late() -> str:
        return await stage.work("async, late", 4, "")

    ended = threading.Event()

    @Timeout(2, sync="thread")
    def left_behind() -> None:
        start = stage.now()
        waits.sleep(3.3)
        stage.bar("    its worker", start, "cut", "runs on, result dropped")
        ended.set()

    def overran(event: object) -> None:
        if isinstance(event, CallOverran):
            stage.mark('sync="deadline"', "late: kept")

    in_place = Timeout(2, sync="deadline")
    in_place.subscribe(overran)

    @in_place
    def too_long() -> None:
        start = stage.now()
        waits.sleep(2.7)
        stage.bar('sync="deadline"', start, "good", "runs in place")

    _from_zero(stage, lambda: asyncio.run(_quietly(in_time)))
    _from_zero(stage, lambda: asyncio.run(_quietly(late)))
    start = stage.now()
    try:
        left_behind()
    except TimeoutError:
        stage.bar('sync="thread"', start, "held", "CallTimeoutError")
    waits.sleep(2)
    ended.wait(5)
    _shift(stage, start, ('sync="thread"', "    its worker"))
    _from_zero(stage, too_long)


def _shift(stage: Stage, by: float, labels: tuple[str, ...]) -> None:
    for label in labels:
        lane = stage.lane(label)
        lane.bars = [Bar(one.start - by, one.end - by, one.kind, one.words) for one in lane.bars]
        lane.marks = [(at - by, words) for at, words in lane.marks]


def _from_zero(stage: Stage, play: Callable[[], object]) -> None:
    """Play something whose lanes are to begin at 0, whatever was played before."""
    known, start = set(stage.lanes), stage.now()
    play()
    _shift(stage, start, tuple(set(stage.lanes) - known))


async def _quietly(call: Callable[[], Awaitable[object]]) -> None:
    try:
        await call()
    except TimeoutError:
        return


def bulkhead(stage: Stage) -> None:
    """Five calls, two permits, two places in the queue."""
    policy = Bulkhead(2, max_queue=2)

    async def one(name: str, arrives: float) -> None:
        await asyncio.sleep(arrives)
        arrived, label = stage.now(), f"call {name}"

        @policy
        async def work() -> str:
            if stage.now() > arrived:
                stage.bar(label, arrived, "wait", "waits")
            return await stage.work(label, 1, "runs")

        try:
            await work()
        except RejectedError:
            stage.mark(label, "BulkheadFullError, at once")

    async def main() -> None:
        calls = [one(name, index * 0.15) for index, name in enumerate("ABCDE")]
        await asyncio.gather(*calls)

    asyncio.run(main())


def hedge(stage: Stage) -> None:
    """The first attempt is slow, the hedge is not."""

    @Hedge(0.5)
    async def fetch() -> str:
        if "attempt 1" not in stage.lanes:
            return await stage.work("attempt 1", 3, "answers")
        return await stage.work("the hedge", 0.6, "answers first")

    asyncio.run(stage.whole("the caller waits", fetch(), "one call"))


def fallback(stage: Stage) -> None:
    """The call fails, and something else stands in."""

    async def cached(error: Exception) -> str:
        return await stage.work("using=", 0.2, "stands in")

    @Fallback(using=cached, on=ConnectionError)
    async def load() -> str:
        return await stage.work("the function", 0.6, "fails", ConnectionError())

    asyncio.run(stage.whole("the caller waits", load(), "one call"))


def pipeline(stage: Stage) -> None:
    """One call through a total timeout, a retry, and a timeout per attempt."""
    retrying = Retry(on=(ConnectionError, TimeoutError), attempts=4, backoff=[0.4, 0.8, 1.6])
    _waits(stage, "backoff", retrying)
    whole = Pipeline(Timeout(10, name="total"), retrying, Timeout(2, name="attempt"))

    @whole
    async def call() -> str:
        number = attempt_number()
        label = f"attempt {number}"
        if number == 1:
            return await stage.work(label, 9, "")
        error = ConnectionError() if number == 2 else None
        return await stage.work(label, 0.7, "fails" if error else "answers", error)

    asyncio.run(stage.whole("the caller waits", call(), "one call"))
