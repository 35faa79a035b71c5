"""Hedging on trio. The primary runs inline, in a cancel scope inside an open nursery.

The hedges, and the clock that launches them, are tasks of that nursery, and none of them
fails: what they come to is kept, so that nothing leaves the nursery but the call's outcome.
trio itself tells whose cancellation it was that ended the primary: ours ends at its scope,
the caller's goes through it.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from resilient._call import Args, AsyncCall, Call, Kwargs
from resilient._core import clock
from resilient._core.budget import RetryBudget
from resilient._core.hedging import PRIMARY
from resilient._runtime import waits
from resilient._runtime.hedge_race import Attempts, aclose

if TYPE_CHECKING:
    from resilient.hedge import Hedge


async def hedged(
    hedge: Hedge,
    inner: AsyncCall[Any],
    fill: RetryBudget | None,
    args: Args,
    kwargs: Kwargs,
    call: Call,
) -> Any:
    """Make one call, hedged."""
    import trio

    contest = TrioContest(hedge, inner, clock.now(), copy_context(), args, kwargs, call)
    async with trio.open_nursery() as nursery:
        await contest.run(trio, nursery)
    result = await contest.outcome()
    if fill is not None:
        fill.succeeded()
    return result


class TrioContest(Attempts):
    """The attempts of a call."""

    _trio: Any
    _nursery: Any
    # Those of the attempts, and of the clock: the nursery's own also holds the caller's wait.
    _scopes: list[Any]
    # Set once it is known what the call comes to.
    _decision: Any
    # The caller's own cancellation.
    _stopped: BaseException | None = None

    async def run(self, trio: Any, nursery: Any) -> None:
        """Run the primary here, and the hedges beside it, until it is decided."""
        self._trio, self._nursery = trio, nursery
        self._scopes, self._decision = [], trio.Event()
        nursery.start_soon(self._tick, name="resilient hedge timer")
        try:
            with self._scope():
                await self._primary()
            if not self.race.over:
                await self._decision.wait()
        except trio.Cancelled as stop:
            # It goes on after the nursery, which would wrap it in a group.
            self._stopped = stop
            self.race.end()
        nursery.cancel_scope.cancel()

    def _scope(self) -> Any:
        scope = self._trio.CancelScope()
        self._scopes.append(scope)
        if self.race.over:
            scope.cancel()
        return scope

    async def _primary(self) -> None:
        try:
            result = await self.inner(self.args, self.kwargs, self.call)
        except self._trio.Cancelled as error:
            self.race.flying.pop(PRIMARY, None)
            self.end(PRIMARY, self.call, error)
            raise
        except BaseException as error:
            again = self.race.failed(PRIMARY, error)
            self.end(PRIMARY, self.call, error)
            self._go_on(again)
        else:
            await self._came(PRIMARY, self.call, result)

    async def _run(self, number: int, arm: Call) -> None:
        """One hedge."""
        with self._scope():
            await self._run_inside(number, arm)

    async def _run_inside(self, number: int, arm: Call) -> None:
        self.begin(arm)
        try:
            result = await self.inner(self.args, self.kwargs, arm)
        except BaseException as error:
            again = self.race.failed(number, error)
            self.end(number, arm, error)
            self._go_on(again)
        else:
            await self._came(number, arm, result)

    async def _came(self, number: int, arm: Call, result: Any) -> None:
        won = self.returned(number, result)
        self.end(number, arm, None)
        if won:
            self._decided()
        elif self.is_late(result):
            await self._close(result)

    async def _close(self, result: Any) -> None:
        with self._trio.CancelScope(shield=True):
            await aclose(result)

    async def _tick(self) -> None:
        """Launch a hedge each time that the delay has passed since the last start."""
        while (due := self.race.due) is not None:
            left = due - clock.now()
            if left <= 1e-9:  # less than a float can add to the time
                self._start()
                continue
            with self._scope():
                try:
                    await waits.asleep(left)
                except self._trio.Cancelled:
                    return

    def _start(self) -> None:
        launched = self.launch()
        if launched is not None:
            # The task makes a copy of the context for itself.
            number, arm = launched
            self.context.copy().run(self._nursery.start_soon, self._run, number, arm)

    def _go_on(self, again: bool) -> None:
        """An attempt has failed; `again` says whether that launches the next hedge."""
        if again:
            self._start()
        self.race.settle()
        if self.race.over:
            self._decided()

    def _decided(self) -> None:
        """It is known what the call comes to: stop whatever is still in flight."""
        for scope in self._scopes:
            scope.cancel()
        self._decision.set()

    async def outcome(self) -> Any:
        """Return or raise what the call comes to, once all attempts have ended."""
        try:
            if self._stopped is not None:
                if self.race.winner is not None:
                    await self._close(self.result)
                raise self._stopped
            if self.race.winner is None:
                error = self.race.error()
                try:
                    raise error  # type: ignore[misc]
                finally:
                    del error
            return self.result
        finally:
            self.race.error()
            self._stopped = self.result = None
