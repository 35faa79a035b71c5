"""What the attempts of one hedged call share, in whatever they run: threads or tasks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from resilient import _attempts, _observe
from resilient._call import Args, Call, Kwargs
from resilient._core import clock, deadline
from resilient._core.hedging import PRIMARY, Race, outcome
from resilient._core.once import is_once
from resilient.events import HedgeLaunched, HedgeWon

if TYPE_CHECKING:
    from resilient.hedge import Hedge

_log = logging.getLogger("resilient")


class Attempts:
    """The attempts of one call: the rules' `Race`, and what telemetry and listeners are told.

    `context` is a copy of the caller's, from before the primary could change anything. It is
    never entered itself, only copies of it: there may be several at a time.
    """

    def __init__(
        self,
        hedge: Hedge,
        inner: Callable[[Args, Kwargs, Call], Any],
        started: float,
        context: Context,
        args: Args,
        kwargs: Kwargs,
        call: Call,
    ) -> None:
        self.hedge = hedge
        self.inner = inner
        self.race = Race(hedge._rules, started)
        self.context = context
        self.args = args
        self.kwargs = kwargs
        self.call = call
        self.result: Any = None

    def launch(self) -> tuple[int, Call] | None:
        """Decide on the next hedge: its number and its record, `None` if there is to be none."""
        return self.context.copy().run(self._next)

    def _next(self) -> tuple[int, Call] | None:
        limit = deadline.nearest()
        at = None if limit is None else limit.at
        root = self.call.root
        once = is_once() or root.unrepeatable is not None or root.delivered
        number = self.race.launch(clock.now(), at, once=once)
        if number is None:
            return None
        arm = self.record(self.call.number + number, "hedge")
        arm.root.attempts += 1
        _observe.emit(self.hedge, HedgeLaunched, self.call.function, number=number)
        return number, arm

    def record(self, number: int, kind: str) -> Call:
        """Return the record of an attempt."""
        return self.call.attempt(number, kind)

    def begin(self, arm: Call) -> None:
        """A hedge starts to run, in a context of its own."""
        _attempts.current.set(arm.number)
        _observe.observer.begin_attempt(self.hedge, arm)

    def end(self, number: int, arm: Call, error: BaseException | None) -> None:
        """An attempt has ended, in its own context; `race` has been told."""
        self.report(number, arm, error, overtaken=self.race.winner not in (None, number))

    def report(
        self, number: int, arm: Call, error: BaseException | None, *, overtaken: bool
    ) -> None:
        """Tell telemetry how an attempt has ended."""
        if overtaken:
            how = "superseded"
        else:
            how = "success" if error is None else outcome(error)
        # Overtaken or cancelled, it has not failed: there is no error to report.
        blame = error if how in ("failure", "rejected", "timeout") else None
        if number != PRIMARY or how != "success":
            _observe.observer.end_attempt(self.hedge, arm, how, blame)

    def returned(self, number: int, result: Any) -> bool:
        """An attempt came back: whether it is the winner."""
        if not self.race.returned(number, clock.now()):
            return False
        self.result = result
        if number != PRIMARY:
            function = self.call.function
            self.context.copy().run(_observe.emit, self.hedge, HedgeWon, function, number=number)
        return True

    def is_late(self, result: Any) -> bool:
        """Whether nobody will have `result`, so that it is to be closed."""
        return self.race.winner is None or result is not self.result


def close(result: Any) -> None:
    """Close a result that came too late, if it can be closed."""
    method = _method(result, "close")
    if method is not None:
        try:
            method()
        except Exception:
            _log.exception("the result of an overtaken attempt could not be closed")


async def aclose(result: Any) -> None:
    """Close a result that came too late, if it can be closed, in either colour."""
    method = _method(result, "aclose") or _method(result, "close")
    if method is not None:
        try:
            waiting = method()
            if inspect.isawaitable(waiting):
                await waiting
        except Exception:
            _log.exception("the result of an overtaken attempt could not be closed")


def _method(result: Any, name: str) -> Callable[[], Any] | None:
    # Looked up on the type: a class, or a closing price, is no open resource.
    return getattr(result, name) if callable(getattr(type(result), name, None)) else None
