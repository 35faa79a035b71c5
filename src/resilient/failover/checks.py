"""Active health checks: what users ask for, and what probes the members of a pool."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from resilient._core import clock
from resilient._core.durations import Duration, count, seconds
from resilient._core.health import CheckRules, Rounds
from resilient._decorate import is_coroutine_function, kind_of
from resilient._runtime import workers
from resilient.failover.standby import WORKERS

T_contra = TypeVar("T_contra", contravariant=True)

_log = logging.getLogger("resilient")


class HealthCheck(Generic[T_contra]):
    """How a pool asks its members whether they are well.

    Args:
        probe: Called as `probe(target)`, sync or async. Raising, or returning `False`, is
            bad; anything else is good.
        interval: Seconds between two probes of one member, the first at once. 5 by default.
        timeout: Seconds after which a probe that has not come back is a bad one. 1 by
            default. A sync probe then goes on in its thread, and the member is not probed
            again before it ends, but counts as bad once per interval.
        rise: How many good probes in a row bring a member up, 1 or more. 2 by default.
        fall: How many bad probes in a row take it down, 1 or more. 3 by default.
        jitter: By what part an interval is longer or shorter, at random, from 0 to less
            than 1. 0.2 by default, so that a fleet's probes spread.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        probe: Callable[[T_contra], Awaitable[object] | object],
        *,
        interval: Duration = 5,
        timeout: Duration = 1,
        rise: int = 2,
        fall: int = 3,
        jitter: float = 0.2,
    ) -> None:
        if not callable(probe):
            raise TypeError(f"probe must be a function of a target, not {probe!r}")
        if "generator" in kind_of(probe):
            raise TypeError("probe must be a plain function or a coroutine function")
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)):
            raise TypeError(f"jitter must be a number, not {type(jitter).__name__}")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, not {jitter!r}")
        self.probe = probe
        self.is_async = kind_of(probe) == "async" or is_coroutine_function(probe)
        self.rules = CheckRules(
            interval=seconds(interval, "interval"),
            timeout=seconds(timeout, "timeout"),
            rise=count(rise, "rise"),
            fall=count(fall, "fall"),
            jitter=float(jitter),
        )

    def __repr__(self) -> str:
        rules = self.rules
        return f"<HealthCheck every {rules.interval:g} s, rise {rules.rise}, fall {rules.fall}>"


class Prober:
    """Keeps the rounds of one pool's probes; whoever runs it only has to wait.

    Probes end in threads of their own, so the rounds stand under a lock.
    """

    def __init__(
        self,
        check: HealthCheck[Any],
        targets: Callable[[], dict[str, Any]],
        verdict: Callable[[str, bool, float], None],
    ) -> None:
        self.check = check
        self._targets = targets
        self._verdict = verdict
        self._rounds = Rounds(check.rules)
        self._lock = threading.Lock()
        self._workers = workers.Workers(WORKERS)

    def step(self, launch: Callable[[str, int, Any], None]) -> float:
        """Do what is due, starting probes by `launch`; seconds until there is more to do."""
        now = clock.now()
        targets = self._targets()
        with self._lock:
            self._rounds.keep(targets, now)
            bad = self._rounds.bad(now)
            due = self._rounds.due(now)
        for name in bad:
            self._verdict(name, False, now)
        for name, serial in due:
            launch(name, serial, targets[name])
        with self._lock:
            return self._rounds.wake_at() - clock.now()

    def ended(self, name: str, serial: int, good: bool) -> None:
        """A probe has come back."""
        now = clock.now()
        with self._lock:
            in_time = self._rounds.ended(name, serial, now)
        if in_time is not None:
            self._verdict(name, good and in_time, now)

    def forget(self) -> None:
        """The runner has gone, and probes that still hang with it: the next starts afresh."""
        with self._lock:
            self._rounds = Rounds(self.check.rules)

    def run_in_thread(
        self, name: str, serial: int, target: Any, wake: Callable[[], object]
    ) -> None:
        """Probe in a worker, and call `wake` when it is over."""

        def work() -> None:
            self.ended(name, serial, self._probe(target))
            wake()

        if self._workers.start(work) is None:
            self.ended(name, serial, False)

    def _probe(self, target: Any) -> bool:
        try:
            answer = self.check.probe(target)
        except Exception:
            # How a probe says that the member is not well.
            return False
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            _log.error(
                "a probe returned an awaitable, but nothing marks it as asynchronous: use "
                "resilient.asynchronous(probe), or make it an `async def`"
            )
            return False
        return answer is not False

    async def aprobe(self, target: Any) -> bool:
        """Probe in this task."""
        try:
            answer: Any = await self.check.probe(target)  # type: ignore[misc]
        except Exception:
            return False
        return answer is not False
