"""Running a scenario: one event loop, one thread, virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Final

from resilient import _observe
from resilient.drill.errors import NeverEnds
from resilient.drill.recorder import PIECES, Recorder
from resilient.drill.report import Report, RunReport, report_of
from resilient.drill.scenario import Scenario, Study
from resilient.drill.turns import new_loop
from resilient.drill.wiring import wire
from resilient.testing import VirtualClock, virtual_time

# Called with the part of a run that is done, from 0 to 1.
Progress = Callable[[str, float], None]

# All runs begin at seconds of the same magnitude, so that sums of floats are rounded alike
# wherever and whenever a drill runs. No machine has been up for so long (eight years).
_EPOCH: Final = float(2**28)


class Crash(Exception):
    """Code that a scenario calls raised what no call is expected to fail with.

    `__cause__` is what it raised.
    """


class Run:
    """One scenario while it runs."""

    def __init__(self, scenario: Scenario, seed: int, progress: Callable[[float], None]) -> None:
        self._scenario = scenario
        self._seed = seed
        self._progress = progress
        self._live: dict[int, asyncio.Task[None]] = {}
        self._all_made = False
        self._crash: Exception | None = None
        self.recorder: Recorder | None = None
        self.elapsed = 0.0

    async def main(self) -> None:
        """Run it to its end, from its first call to the end of the last one."""
        scenario = self._scenario
        self._loop = loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        start = loop.time()
        recorder = self.recorder = Recorder(start, scenario.seconds, scenario.errors)
        self._limit(start)
        for backend in scenario.backends.values():
            backend._begin(recorder, self._seed)
        try:
            with ExitStack() as stack:
                self._call, pools = wire(scenario, stack)
                stack.callback(_observe.subscribe(recorder.listen(loop.time)))
                async with AsyncExitStack() as around:
                    for one in (*pools, *scenario.around):
                        await around.enter_async_context(one)
                    await self._drive(start)
        finally:
            self.elapsed = min(loop.time() - start, scenario.seconds)
            for backend in scenario.backends.values():
                recorder.ran[backend.name] = backend.running_time(start + self.elapsed)
                backend._end()

    def _limit(self, start: float) -> None:
        turns: Any = self._loop._selector  # type: ignore[attr-defined]
        turns.limit = start + self._scenario.seconds + 3 * self._scenario.drain + 60

    async def _drive(self, start: float) -> None:
        scenario = self._scenario
        self._set_faults(start)
        self._tell_progress(start, 1)
        self._make_calls(start)
        # The time of the load, whatever becomes of the calls.
        await self._until(start + scenario.seconds)
        if self._live and self._crash is None:
            await self._until(start + scenario.seconds + scenario.drain)
        if self._crash is not None:
            raise Crash from self._crash
        await self._cancel_rest()

    async def _until(self, at: float) -> None:
        """Wait until that time, or until all calls have ended, or one has crashed."""
        alarm = self._loop.call_at(at, self._wake)
        try:
            await self._over
        finally:
            alarm.cancel()
        self._over = self._loop.create_future()

    def _tell_progress(self, start: float, piece: int) -> None:
        self._progress((piece - 1) / PIECES)
        if piece <= PIECES:
            at = start + self._scenario.seconds * piece / PIECES
            self._loop.call_at(at, self._tell_progress, start, piece + 1)

    def _wake(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _cancel_rest(self) -> None:
        tasks = list(self._live.values())
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=self._scenario.drain + 1)
            if left:
                raise NeverEnds(
                    "", f"{len(left)} calls go on although they were cancelled at the end"
                )

    def _set_faults(self, start: float) -> None:
        backends = self._scenario.backends
        for fault in self._scenario.faults:
            for name in fault.resolve(backends):
                for begin, end in fault.spans():
                    self._loop.call_at(start + begin, fault.set, backends[name], True)
                    self._loop.call_at(start + end, fault.set, backends[name], False)

    def _make_calls(self, start: float) -> None:
        """Begin each call at its time, whatever has become of those before."""
        loop, load, live = self._loop, self._scenario.load, self._live
        source = random.Random(f"{self._seed}/load")
        times = load.times(self._scenario.seconds, source)
        keys = None if load.keys is None else random.Random(f"{self._seed}/keys")
        number = 0

        def begin() -> None:
            nonlocal number
            number += 1
            args = () if keys is None else (f"key-{keys.randrange(load.keys or 1)}",)
            live[number] = loop.create_task(self._one(number, args))
            follow()

        def follow() -> None:
            at = next(times, None)
            if at is None:
                self._all_made = True
            else:
                loop.call_at(start + at, begin)

        follow()

    async def _one(self, number: int, args: tuple[Any, ...]) -> None:
        recorder, time = self.recorder, self._loop.time
        assert recorder is not None
        began = time()
        piece = recorder.began(began)
        try:
            await self._call(*args)
        except asyncio.CancelledError:
            recorder.unfinished += 1
        except Exception as error:
            if not recorder.is_expected(error):
                self._crash = self._crash or error
                self._wake()
            recorder.failed(error, time())
        else:
            recorder.succeeded(piece, began, time())
        finally:
            del self._live[number]
            if self._all_made and not self._live and time() >= self._ends_at:
                self._wake()

    @property
    def _ends_at(self) -> float:
        assert self.recorder is not None
        return self.recorder.start + self._scenario.seconds


def run_scenario(
    scenario: Scenario, *, seed: int | None = None, progress: Callable[[float], None] | None = None
) -> RunReport:
    """Run one scenario in virtual time and return its report.

    Args:
        scenario: The scenario. Its policies are used as they are, and keep what they learn.
        seed: Replaces the scenario's own.
        progress: Called with the part that is done, from 0 to 1.

    Raises:
        Crash: Code of the scenario raised something unexpected; it is the cause.
        ScenarioError: The scenario cannot be run as it is written, or does not end.
    """
    seed = scenario.seed if seed is None else seed
    run = Run(scenario, seed, progress or (lambda part: None))
    interrupted = False
    with virtual_time(seed) as clock, _seeded(seed):
        _to_epoch(clock)
        try:
            _run_to_the_end(run.main())
        except KeyboardInterrupt:
            interrupted = True
    return report_of(scenario, run.recorder, seed, run.elapsed, interrupted=interrupted)


def run(study: Study | Scenario, *, seed: int | None = None,
        progress: Progress | None = None) -> Report:  # fmt: skip
    """Run a study, or one scenario, and return the report.

    Args:
        study: What to run.
        seed: Replaces the seeds of all its scenarios.
        progress: Called with the name of a run and the part of it that is done.

    Raises:
        Crash: Code of the scenario raised something unexpected; it is the cause.
        ScenarioError: The scenario cannot be run as it is written, or does not end.
    """
    whole = study if isinstance(study, Study) else Study(study.name or "drill", {"run": study})
    report = Report(whole)
    for name, scenario in whole.runs.items():
        found = run_scenario(
            scenario,
            seed=whole.seed if seed is None else seed,
            progress=None if progress is None else partial(progress, name),
        )
        report.runs[name] = found
        if found.interrupted:
            break
    return report


def _run_to_the_end(main: Coroutine[Any, Any, None]) -> None:
    # Not as a block: what cannot be ended must not hide why the run has.
    runner = asyncio.Runner(loop_factory=new_loop)
    try:
        runner.run(main)
    except BaseException:
        with suppress(NeverEnds):
            _close(runner)
        raise
    _close(runner)


def _close(runner: asyncio.Runner) -> None:
    loop = runner.get_loop()
    try:
        runner.close()
    except NeverEnds:
        for task in asyncio.all_tasks(loop):
            # It is said once that they do not end.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        raise


def _to_epoch(clock: VirtualClock) -> None:
    now = clock.now()
    epoch = _EPOCH
    while epoch < now and 2 * epoch - now < 1e8:
        epoch *= 2
    if now < epoch:
        clock.advance(epoch - now)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let user code that draws from `random` itself draw the same each time."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
