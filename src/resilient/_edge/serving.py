"""The ways of an ASGI request that are not the usual one.

The usual way, in `resilient.asgi`, is: admitted at once, run once, answered. These wait to
be admitted, run the application again, answer in its place, or run it in a task of its own.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import anyio

from resilient._core.verdict import FailedAnswer
from resilient._edge.exchange import COMPLETE, GONE, App, ClientGone, Exchange, Scope, Send
from resilient._edge.in_task import TaskExchange
from resilient._edge.refusals import Refusals
from resilient._edge.steps import AsyncChain, relay, tell
from resilient.errors import CallTimeoutError, RejectedError, ResilienceError

Ended = StopIteration | None


class Serving:
    """What stands behind the middleware's `__call__`."""

    app: App
    _refusals: Refusals
    _again: bool
    _draining: bool

    async def _attempts(
        self, exchange: Exchange, scope: Scope, waited: Any, outcome: BaseException | None = None
    ) -> Ended:
        """Take the policies to their end, and run the application whenever they ask for it.

        They wait for `waited` now, or have ended by that exception; or else they wait for a
        run of the application, which has ended by `outcome`.
        """
        chain: Any = exchange.chain
        ended: Ended = None
        if isinstance(waited, StopIteration):
            return waited
        if isinstance(waited, Exception):
            raise waited
        if outcome is None:
            ended = await relay(chain, waited)
        else:
            ended = await tell(chain, outcome)
        while ended is None:
            outcome = await self._run(exchange, scope)
            if outcome is None:
                return None
            ended = await tell(chain, outcome)
        return ended

    async def _run(self, exchange: Exchange, scope: Scope) -> BaseException | None:
        """Run the application once: what to tell the policies, `None` if they know it all."""
        if exchange.state == GONE:
            # It happened between two runs: there is nobody to run it again for.
            exchange.resume(ClientGone())
            return None
        receive, send = exchange.begin_run() if self._again else (exchange.receive, exchange.send)
        exchange.open = True
        try:
            await self.app(scope, receive, send)
        except BaseException as error:
            if not exchange.open:
                raise
            return exchange.ended(error)
        return exchange.ended(None) if exchange.open else None

    async def _beside(self, begin: AsyncChain, exchange: TaskExchange, scope: Scope) -> Ended:
        """Let the policies wait here for the application, which runs in tasks of its own."""
        failure: BaseException | None = None
        ended: Ended = None
        async with anyio.create_task_group() as group:
            exchange.group = group
            try:
                args = (scope, exchange.receive, exchange.send)
                ended = StopIteration(await begin(args, {}, exchange))
            except ClientGone:
                ended = None
            except Exception as error:
                # Raised in here, it would leave the group as a group of exceptions.
                failure = error
            finally:
                exchange.closed.set()
        failure = failure or exchange.late
        if failure is not None:
            raise failure
        return ended

    async def _conclude(
        self, exchange: Exchange, way: Coroutine[Any, Any, Ended], scope: Scope, send: Send
    ) -> None:
        """Go a way to its end, and answer if the policies refused, or answered themselves."""
        failure: BaseException | None = None
        ended: Ended = None
        try:
            ended = await way
        except FailedAnswer as failed:
            # The application's answer, or what there is of it, stands.
            failure = failed.error
        except (RejectedError, CallTimeoutError) as error:
            if exchange.delivered or any(error is one for one in exchange.raised):
                raise
            await self._refuse(error, scope, send)
        finally:
            # They hold their frames, which hold the exchange.
            exchange.raised = ()
        if failure is not None:
            raise failure
        if ended is not None and exchange.state not in (COMPLETE, GONE):
            await self._stand_in(ended.value, exchange, scope)

    async def _stand_in(self, answer: Any, exchange: Exchange, scope: Scope) -> None:
        """A fallback answered: by an ASGI application, if it has not sent anything itself."""
        if exchange.delivered:
            return
        if not callable(answer):
            raise TypeError(
                "a fallback around an ASGI application must send the answer, or return an "
                f"ASGI application such as a response, not {type(answer).__name__}"
            )
        application: Any = answer
        await application(scope, exchange.receive, exchange.send)

    async def _refuse(self, error: ResilienceError, scope: Scope, send: Send) -> None:
        """Answer a request that is not served, or not in time."""
        # HTTP/2 and later have no such header: there the server closes by its own means.
        close = self._draining and scope.get("http_version", "1.1").startswith("1")
        answer = self._refusals.answer(error, head=scope["method"] == "HEAD", close=close)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
