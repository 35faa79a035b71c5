"""Experiments: while one runs, injectors strike.

An experiment is found through a context variable, as a deadline is: it reaches what the
block calls, the tasks started there and this library's worker threads. One for the whole
process stands in a list. Either is marked when it ends, for a background task may hold its
context for hours longer.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from resilient._core import clock
from resilient._core.durations import Duration, seconds
from resilient._core.living import forkable
from resilient._runtime.signals import Signal
from resilient.chaos._draw import draw, encoded
from resilient.chaos._where import Only, plain, wheres

if TYPE_CHECKING:
    from resilient._call import Call
    from resilient._policy import Policy

log = logging.getLogger("resilient")

Scope = Literal["context", "process"]

# Whether any experiment runs anywhere: all that an injector looks at when none does.
on: bool = False


class Until:
    """When something ends by itself: after a time, or when a condition holds."""

    __slots__ = ("_condition", "_span", "at")

    def __init__(self, until: Duration | Callable[[], object] | None) -> None:
        self.at = math.inf
        self._span = math.inf
        self._condition: Callable[[], object] | None = None
        if isinstance(until, (bool, int, float, timedelta)):
            self._span = seconds(until, "until")
        elif until is not None:
            plain(until, "until")
            self._condition = until

    def begin(self) -> None:
        """Count the time from now."""
        self.at = clock.now() + self._span

    def reached(self) -> str | None:
        """Why it is over, if it is. A condition that fails ends it: better no chaos at all."""
        if clock.now() >= self.at:
            return "its time is up"
        if self._condition is None:
            return None
        try:
            return "its condition holds" if self._condition() else None
        except Exception:
            log.exception("chaos: the condition of until failed")
            return "its condition failed"

    def __str__(self) -> str:
        if self._condition is not None:
            return "a condition holds"
        return "it is ended" if self._span == math.inf else f"{self._span:g} s have passed"


class Experiment:
    """A time in which injectors strike; see `experiment`.

    Attributes:
        name: Its name, in events, notes and the log.
        seed: What the faults hang on.
        scope: `context` or `process`.
        ended: Whether it is over.
    """

    def __init__(
        self,
        name: str,
        seed: int | str,
        only: Only,
        until: Duration | Callable[[], object] | None,
        scope: Scope,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"an experiment needs a name first, a string, not {name!r:.80}")
        if not name:
            raise ValueError("an experiment's name must not be empty")
        if isinstance(seed, bool) or not isinstance(seed, (int, str)):
            raise TypeError(f"seed must be a whole number or a string, not {seed!r:.80}")
        if scope not in get_args(Scope):
            raise ValueError(f'scope must be "context" or "process", not {scope!r:.80}')
        self.name = name
        self.seed = seed
        self.scope: Scope = scope
        self.ended = False
        # Given when it ends: nobody goes on waiting for an injected latency.
        self.over = Signal()
        self.until = Until(until)
        self.parent: Experiment | None = None
        self._seed = encoded(seed)
        self._wheres = wheres(only)
        self._begun = False
        self._lock = threading.Lock()
        self._numbers: Counter[tuple[Policy[Any, Any], bytes | None]] = Counter()
        self._calls = 0
        self._struck: Counter[str] = Counter()
        forkable.add(self)

    @property
    def calls(self) -> int:
        """How many calls of injectors it has decided on so far."""
        return self._calls

    @property
    def injected(self) -> dict[str, int]:
        """How many faults each injector has injected so far, by the injectors' names."""
        with self._lock:
            return dict(self._struck)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end("with its block")
        if _current.get() is self:
            _current.set(self.parent)

    def begin(self) -> None:
        """Let injectors strike from now on."""
        if self._begun or self.ended:
            raise RuntimeError("an experiment runs once: call experiment() for each")
        self._begun = True
        self.until.begin()
        if self.scope == "context":
            self.parent = next(_in_context(), None)
            _current.set(self)
        _running.add(self)
        self._say(
            "chaos: experiment %s began in this %s: seed %r, only %s, until %s",
            self.name, self.scope, self.seed,
            " or ".join(map(str, self._wheres)) or "everything", self.until,
        )  # fmt: skip

    def end(self) -> None:
        """End it now, also in tasks that were started inside. Ending it twice is no error."""
        self._end("by hand")

    def _end(self, why: str) -> None:
        with self._lock:
            if self.ended:
                return
            self.ended = True
            # Background tasks may hold the experiment for long.
            self._numbers.clear()
        _running.remove(self)
        self.over.give()
        self._say(
            "chaos: experiment %s ended, %s: %d faults in %d calls",
            self.name, why, sum(self._struck.values()), self._calls,
        )  # fmt: skip

    def is_over(self) -> bool:
        """Whether it has ended, as it does here if its time is up."""
        why = self.until.reached()
        if why is not None:
            self._end(why)
        return self.ended

    def selects(self, injector: Policy[Any, Any], key: bytes | None, call: Call) -> bool:
        """Whether it decides on this call."""
        return not self._wheres or any(where.selects(injector, key, call) for where in self._wheres)

    def number(self, injector: Policy[Any, Any], key: bytes | None) -> int:
        """Count a call of `injector`: the how manieth it is for its key, from 1."""
        with self._lock:
            self._calls += 1
            self._numbers[injector, key] += 1
            return self._numbers[injector, key]

    def draw(self, injector: str, key: bytes | None, number: int, what: bytes = b"") -> float:
        """The number from 0 to less than 1 that belongs to one call of an injector."""
        told = b"none" if key is None else b"key:" + key
        return draw(self._seed, injector.encode(), told, str(number).encode(), what)

    def strikes(self, injector: str) -> None:
        """Count a fault."""
        with self._lock:
            self._struck[injector] += 1
            first = self._struck[injector] == 1
        if first:
            self._say("chaos: experiment %s strikes in %s", self.name, injector)

    def _say(self, text: str, *values: object) -> None:
        # What everybody in the process may feel has to be seen by everybody.
        log.log(logging.INFO if self.scope == "context" else logging.WARNING, text, *values)

    def after_fork(self) -> None:
        """Start with a lock that no lost thread holds."""
        self._lock = threading.Lock()
        self.over = Signal()


_current: ContextVar[Experiment | None] = ContextVar("resilient.chaos", default=None)


class _Running:
    """The experiments that run now; keeps the flag `on`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Experiment] = []
        # The latest first; swapped whole, so that reading needs no lock.
        self.process: tuple[Experiment, ...] = ()
        forkable.add(self)

    def add(self, experiment: Experiment) -> None:
        with self._lock:
            self._all.insert(0, experiment)
            self._changed()

    def remove(self, experiment: Experiment) -> None:
        with self._lock:
            if experiment in self._all:
                self._all.remove(experiment)
            self._changed()

    def _changed(self) -> None:
        """Bring what others read up to date; needs the lock."""
        global on
        self.process = tuple(one for one in self._all if one.scope == "process")
        on = bool(self._all)

    def after_fork(self) -> None:
        self._lock = threading.Lock()


_running = _Running()


def _in_context() -> Iterator[Experiment]:
    record = _current.get()
    while record is not None:
        if not record.ended:
            yield record
        record = record.parent


def running() -> Iterator[Experiment]:
    """The experiments in force here, those of this context first, the innermost first."""
    yield from _in_context()
    yield from _running.process


def experiment(
    name: str,
    *,
    seed: int | str = 0,
    only: Only = None,
    until: Duration | Callable[[], object] | None = None,
    scope: Scope = "context",
) -> Experiment:
    """Return a block in which injectors strike.

    `with chaos.experiment("a slow database"): ...`, for sync and async code. Where several are
    in force, the innermost one that selects a call decides on it.

    Args:
        name: Names it in events, notes on errors and the log.
        seed: The same seed gives the same faults. 0 by default.
        only: Which calls it decides on: an injector or a pipeline, a pattern of injectors'
            names (`"orders.*"`), a `Where(...)`, or a list of which one has to hold. All by
            default.
        until: When it ends by itself, within the block or in tasks that outlive it: after
            so many seconds (or a timedelta), or when a function without arguments, called at
            each call of an injector, returns true. By default with the block.
        scope: `"context"`: the block, the tasks started in it, and this library's worker
            threads. `"process"`: every thread and task.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range.
    """
    return Experiment(name, seed, only, until, scope)
