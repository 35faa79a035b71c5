"""An ASGI request whose application runs in a task of its own, beside the policies.

It is needed where a policy may hold something around the application that must be left in
the order in which it was entered, such as a cancel scope: around a timeout on trio, and
around policies that are not this library's.
"""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskGroup

from resilient._call import Args, Call, Kwargs
from resilient._edge.exchange import (
    COMPLETE,
    GONE,
    App,
    ClientGone,
    Exchange,
    Message,
    Receive,
    Scope,
    Send,
)


class TaskExchange(Exchange):
    """A request whose policies wait, in the server's task, for the application in another.

    Attributes:
        group: Where the application's tasks run.
        late: What the application raised after the policies' call had ended.
    """

    group: TaskGroup
    late: BaseException | None = None
    _outcome: BaseException | None = None
    _ended: anyio.Event

    def __init__(self) -> None:
        # Set when the policies' call is over.
        self.closed = anyio.Event()
        self._resumed = False
        self._ran = False

    async def receive(self) -> Message:
        """Receive for the application; see `Exchange.receive`."""
        message = await super().receive()
        await self._settled()
        return message

    async def send(self, message: Message) -> None:
        """Send for the application; see `Exchange.send`."""
        await super().send(message)
        await self._settled()

    async def _settled(self) -> None:
        """Let the policies end, when they were told to, before the application goes on."""
        if self._resumed and not self.closed.is_set():
            await self.closed.wait()

    def resume(self, outcome: BaseException | None) -> None:
        """End the policies' call while the application goes on."""
        self.open = False
        self._outcome = outcome
        self._ended.set()
        self._resumed = outcome is None or self.state in (COMPLETE, GONE)

    async def run_app(self, app: App, scope: Scope, receive: Receive, send: Send) -> int:
        """Run the application until its answer is complete, and return the status.

        A policy that asks for another run where there can be none gets the outcome again.
        """
        if self._ran and (self.delivered or self.unrepeatable is not None):
            return self._result()
        if self.state == GONE:
            raise ClientGone
        self._ran = True
        self._ended = anyio.Event()
        self._outcome = None
        self.open = True
        run = _Run(self)
        # It copies the context at this place, with the deadlines of the policies in it.
        self.group.start_soon(run.go, app, scope, receive, send)
        try:
            await self._ended.wait()
        except anyio.get_cancelled_exc_class():
            self.open = False
            await run.stop()
            raise
        return self._result()

    def _result(self) -> int:
        if self._outcome is not None:
            raise self._outcome
        return self.status


class _Run:
    """One run of the application, in its task."""

    def __init__(self, exchange: TaskExchange) -> None:
        self._exchange = exchange
        self._scope = anyio.CancelScope()
        self._over = anyio.Event()

    async def go(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; what it raises is the policies' to judge, or the server's."""
        exchange = self._exchange
        error: BaseException | None = None
        try:
            with self._scope:
                try:
                    await app(scope, receive, send)
                except Exception as raised:
                    error = raised
        finally:
            self._over.set()
        if exchange.open:
            exchange.resume(exchange.ended(error))
        elif not self._scope.cancel_called:
            exchange.late = error

    async def stop(self) -> None:
        """Cancel the application, and wait until it has stopped."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._over.wait()


def entering(app: App, *, again: bool) -> Any:
    """The innermost place of the policies: run the application there."""

    async def enter(args: Args, kwargs: Kwargs, call: Call) -> int:
        call.entered = True
        exchange: Any = call.root
        scope, receive, send = args
        if again:
            receive, send = exchange.begin_run()
        return int(await exchange.run_app(app, scope, receive, send))

    return enter
