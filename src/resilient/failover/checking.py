"""Running a pool's health checks: `with pool:`, `async with pool:`, `start()` and `stop()`."""

from __future__ import annotations

import threading
from abc import abstractmethod
from types import TracebackType
from typing import Any, Self

import anyio

from resilient._core.health import CheckRules
from resilient.failover.checks import HealthCheck, Prober
from resilient.failover.runners import TaskRunner, ThreadRunner


class Checking:
    """What a pool knows about the runners of its checks. One of them leads."""

    _check: HealthCheck[Any] | None
    name: Any

    def _set_check(self, check: HealthCheck[Any] | None) -> None:
        self._check = check
        self._prober = None if check is None else Prober(check, self._probed, self._checked)
        self._running_lock = threading.Lock()
        self._runners: tuple[ThreadRunner | TaskRunner, ...] = ()
        # Entries that are served by the thread.
        self._entries = 0
        self._thread: ThreadRunner | None = None
        # The runners of each task's blocks, the innermost last.
        self._blocks: dict[int, list[TaskRunner | None]] = {}

    @abstractmethod
    def _probed(self) -> dict[str, Any]:
        """The members to probe, and their targets."""

    @abstractmethod
    def _checked(self, name: str, good: bool, now: float) -> None:
        """A probe of a member has ended."""

    @property
    def _check_rules(self) -> CheckRules | None:
        return None if self._check is None else self._check.rules

    def start(self) -> None:
        """Run the health checks in a thread until `stop()`, once for each `start()`.

        Without a `health_check` it does nothing.

        Raises:
            TypeError: The probe is async: write `async with pool:`.
        """
        if self._prober is None:
            return
        if self._prober.check.is_async:
            raise TypeError(
                f"the health check of {self.name} has an async probe, which a thread cannot "
                "await: write `async with pool:`"
            )
        with self._running_lock:
            self._entries += 1
            if self._thread is not None:
                return
            runner = self._thread = ThreadRunner(self._prober, self.name, self._leads)
            self._runners = (*self._runners, runner)
        runner.start()

    def stop(self) -> None:
        """End what `start()` has begun. A probe that hangs goes on in its own thread.

        Raises:
            RuntimeError: `start()` was not called as often.
        """
        if self._prober is None:
            return
        with self._running_lock:
            if not self._entries:
                raise RuntimeError(f"{self.name} is not running: start() comes before stop()")
            self._entries -= 1
            if self._entries:
                return
            runner, self._thread = self._thread, None
        if runner is not None:
            runner.stop()
            self._gone(runner)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        runner = None
        if self._prober is not None:
            runner = TaskRunner(self._prober, self._leads)
            await runner.start()
            with self._running_lock:
                self._runners = (*self._runners, runner)
            runner.wake()
        self._blocks.setdefault(anyio.get_current_task().id, []).append(runner)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task = anyio.get_current_task().id
        runner = self._blocks[task].pop()
        if not self._blocks[task]:
            del self._blocks[task]
        if runner is None:
            return
        try:
            await runner.stop()
        finally:
            self._gone(runner)

    def _leads(self, runner: Any) -> bool:
        runners = self._runners
        return bool(runners) and runners[0] is runner

    def _gone(self, runner: Any) -> None:
        """A runner has ended; the next one takes over at once."""
        with self._running_lock:
            led = self._leads(runner)
            self._runners = tuple(one for one in self._runners if one is not runner)
            if led and self._prober is not None:
                self._prober.forget()
        self._wake_checks()

    def _wake_checks(self) -> None:
        """Let the leading runner look again."""
        for runner in self._runners[:1]:
            runner.wake()

    def _forget_runners(self) -> None:
        """After a fork: threads and loops are lost."""
        self._running_lock = threading.Lock()
        self._runners = ()
        self._entries = 0
        self._thread = None
        self._blocks = {}
