"""ASGI middleware: policies around an application, for shedding load at the door.

::

    from resilient import Bulkhead, Pipeline, Timeout
    from resilient.asgi import ResilienceMiddleware

    app = ResilienceMiddleware(app, Pipeline(Bulkhead(100), Timeout(5)), exclude=["/healthz"])

It is pure ASGI 3: it goes around any application, and works as a class of middleware in
Starlette, FastAPI and Litestar.
"""

from __future__ import annotations

import functools
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Final

import anyio

from resilient import _observe
from resilient._call import Site
from resilient._core.durations import Duration
from resilient._core.durations import seconds as seconds_of
from resilient._decorate import compose
from resilient._edge import deadlines
from resilient._edge.exchange import (
    FRESH,
    App,
    Body,
    Exchange,
    JudgedExchange,
    Receive,
    Scope,
    Send,
)
from resilient._edge.in_task import TaskExchange, entering
from resilient._edge.lifespan import outlives
from resilient._edge.options import (
    Paths,
    body_limit,
    header_name,
    inbound_site,
    is_failure,
    keyed,
    may_repeat,
    why_not_again,
)
from resilient._edge.refusals import Refusal, Refusals, shutting_down
from resilient._edge.serving import Serving
from resilient._edge.steps import ENTERED, AsyncChain, enter, first_step
from resilient._policy import Policy
from resilient._runtime import modes
from resilient.timeout import Timeout

__all__ = ["ResilienceMiddleware"]

# Policies that hold nothing around the application which must be left in order. A timeout
# does, except on asyncio.
_INLINE: Final = frozenset({"bulkhead", "circuit_breaker", "fallback", "retry", "timeout"})

_NOTHING: Final[dict[str, Any]] = {}


class ResilienceMiddleware(Serving):
    """Put policies around each HTTP request of an ASGI application.

    A refused request is answered by 503 with `Retry-After`, one whose time was up by 504,
    both as `application/problem+json` that tells nothing of the inside. The policies' call
    ends with the last chunk of the answer: a permit is held until then, and background tasks
    run outside. After the first byte nothing is retried or replaced: an error or a timeout
    goes to the server, which aborts the answer.

    An answer of 500 and above counts as a failure for a circuit breaker, and is passed on;
    only an exception before the first byte may be retried, for idempotent methods and a
    request body of at most `max_body` bytes. A client that hangs up is neutral: the
    application sees `http.disconnect`, and what it sends from then on goes nowhere.

    A fallback may answer: `using=` is called with the outcome and the three arguments of an
    ASGI application; a value, or what it returns, is an ASGI application itself, such as a
    response of Starlette.

    Websockets and the lifespan pass through untouched. When the lifespan is over, or
    `drain()` is called, new requests get 503 with `Connection: close`.

    Args:
        app: The application to protect.
        policy: A policy or a `Pipeline`. A hedge or a pool makes no sense here.
        exclude: Paths that are not protected, such as health checks, compared exactly.
        include: The only paths that are protected; `None`, the default, for all.
        key: Called with the scope, names the key of each `PerKey` in the policy, instead of
            its own function, which would see scope, receive and send.
        failure: A predicate `(status) -> bool`: which statuses are failures. By default
            those of 500 and above.
        refusal: Members to add to the problem document, as a mapping; or a function of the
            error that returns such a mapping, or a pair of media type and body.
        expose: Whether the problem document tells the policy's name and the error's text.
            They are not told by default.
        max_body: How many bytes of a request's body are kept to run the application again,
            1 MiB by default.
        deadline_header: The name of a request header that says how many seconds the caller
            will wait, as a decimal number; the request is given no longer than that. Values
            that are not positive numbers are ignored, those over a day mean a day. By
            default no header is read.

    Raises:
        TypeError: A value is of the wrong type, or the policy makes no sense here.
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        app: App,
        policy: Policy[Any, Any],
        *,
        exclude: Iterable[str] = (),
        include: Iterable[str] | None = None,
        key: Callable[[Scope], Hashable] | None = None,
        failure: Callable[[int], bool] | None = None,
        refusal: Refusal = None,
        expose: bool = False,
        max_body: int = 1 << 20,
        deadline_header: str | None = None,
    ) -> None:
        self.app = app
        self.policy = policy
        self._key = _of_scope(keyed(policy, key))
        paths = Paths(exclude, include)
        self._covers = None if paths.all else paths.covers
        self._failure = is_failure(failure)
        self._refusals = Refusals(refusal, expose=expose)
        self._max_body = body_limit(max_body)
        header = header_name(deadline_header)
        self._header = None if header is None else header.encode()
        self._draining = False
        self._idle: anyio.Event | None = None
        # As many as are in flight: appending and popping is atomic, counting is not.
        self._running: list[None] = []
        self._compose(inbound_site(policy, app))

    def _compose(self, site: Site) -> None:
        leaves = site.policies
        self._site = site
        self._again = may_repeat(leaves)
        self._inline = all(
            leaf.kind in _INLINE and type(leaf).__module__.startswith("resilient.")
            for leaf in leaves
        )
        timed = any(leaf.kind == "timeout" for leaf in leaves)
        self._timed = timed or self._header is not None
        observe = _observe.observer.aaround
        # Around guards alone there is nothing to tell unless somebody wants to know.
        self._unobserved: AsyncChain = compose(leaves, enter, "awrap")
        # The commonest policy, where it is the only one, has a quicker way.
        self._alone = getattr(leaves[0], "_alongside", None) if len(leaves) == 1 else None
        self._begin: AsyncChain = observe(self._unobserved, site)
        own_task = entering(self.app, again=self._again)
        self._begin_beside: AsyncChain = observe(compose(leaves, own_task, "awrap"), site)
        self.policy._name_leaves(site, alone=True)
        # Requests with the same time share a timeout, whose timers count on that.
        self._timeouts = functools.lru_cache(maxsize=256)(_deadline)
        usual = (self._key, self._header, self._failure) == (None, None, None)
        self._plain = self._inline and not self._again and usual

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._pass(scope, receive, send)
            return
        if (
            modes.passthrough
            or not self._plain
            or (self._covers is not None and not self._covers(scope["path"]))
            or (self._timed and _get_running_loop() is None)
        ):
            await self._choose(scope, receive, send)
            return
        # What follows is `_serve` once more, for the usual way: not one coroutine or look
        # more than it needs.
        exchange = Exchange()
        exchange.site = self._site
        exchange._receive = receive
        exchange._send = send
        exchange.state, exchange.status = FRESH, 0
        exchange.delivered = exchange.open = exchange.entered = False
        exchange.abandoned = None
        self._running.append(None)
        try:
            outcome: BaseException | None = None
            receive, send_ = exchange.receive, exchange.send
            if self._alone is not None and modes.unwatched:
                chain = self._alone(exchange, ENTERED)
            else:
                begin = self._unobserved if modes.unwatched else self._begin
                chain = begin((scope, receive, send_), _NOTHING, exchange).__await__()
            exchange.chain = chain
            try:
                waited = chain.send(None)
            except Exception as error:  # a StopIteration, if a fallback has answered
                waited = error
            if waited is ENTERED:
                exchange.open = True
                try:
                    await self.app(scope, receive, send_)
                except BaseException as error:
                    if not exchange.open:
                        raise
                    outcome = exchange.ended(error)
                else:
                    if exchange.open:
                        outcome = exchange.ended(None)
                    if outcome is None:
                        return
            way = self._attempts(exchange, scope, waited, outcome)
            await self._conclude(exchange, way, scope, send)
        finally:
            self._running.pop()
            if self._draining:
                self._drained()

    async def _choose(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that may be exempt, or needs more than the usual."""
        covered = self._covers is None or self._covers(scope["path"])
        if modes.passthrough or not covered:
            await self.app(scope, receive, send)
        elif self._draining:
            await self._refuse(shutting_down(), scope, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange(scope, receive, send)
        self._running.append(None)
        try:
            if isinstance(exchange, TaskExchange):
                way = self._beside(self._limited(self._begin_beside, scope), exchange, scope)
            else:
                begin = self._limited(self._begin, scope)
                args = (scope, exchange.receive, exchange.send)
                exchange.chain = chain = begin(args, {}, exchange).__await__()
                way = self._attempts(exchange, scope, first_step(chain))
            await self._conclude(exchange, way, scope, send)
        finally:
            self._running.pop()
            if self._draining:
                self._drained()

    def _exchange(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        inline = self._inline and not (self._timed and _get_running_loop() is None)
        exchange = JudgedExchange() if inline else TaskExchange()
        exchange.site = self._site
        exchange._receive, exchange._send = receive, send
        exchange.state, exchange.status = FRESH, 0
        exchange.open = exchange.delivered = exchange.entered = False
        exchange.abandoned = None
        exchange.is_failure = self._failure
        exchange.key = self._key
        if self._again:
            exchange.unrepeatable = why_not_again(scope["method"])
            exchange.body = Body(self._max_body)
        return exchange

    def _limited(self, begin: AsyncChain, scope: Scope) -> AsyncChain:
        """The policies, within the time that the request's header gives."""
        if self._header is None:
            return begin
        values = [value for name, value in scope["headers"] if name == self._header]
        seconds = deadlines.parse(values[0].decode("latin-1")) if len(values) == 1 else None
        if seconds is None:
            return begin
        within: AsyncChain = self._timeouts(deadlines.rounded(seconds)).awrap(begin)
        return within

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is no HTTP request passes through, with the same objects."""
        served = self.app(scope, receive, send)
        if scope["type"] != "lifespan" or not isinstance(served, Coroutine):
            await served
        elif await outlives(served, receive):
            self._draining, self._plain = True, False

    async def drain(self, timeout: Duration | None = None) -> bool:
        """Refuse new requests from now on, and wait for those in flight, to their last task.

        The end of the lifespan begins it too, without waiting. Call it in the event loop
        that serves the requests.

        Args:
            timeout: The most seconds to wait, 0 or more; `None` for no bound.

        Returns:
            Whether nothing is in flight any more.
        """
        limit = None if timeout is None else seconds_of(timeout, "timeout", zero=True)
        self._draining, self._plain = True, False
        if self._running:
            self._idle = idle = self._idle or anyio.Event()
            with anyio.move_on_after(limit):
                await idle.wait()
        return not self._running

    def _drained(self) -> None:
        if self._idle is not None and not self._running:
            self._idle.set()


def _of_scope(key: Callable[[Scope], Hashable] | None) -> Callable[..., Hashable] | None:
    """The key as a `PerKey` asks for it, with all the arguments of the application."""
    if key is None:
        return None
    return lambda scope, receive, send: key(scope)


def _deadline(seconds: float) -> Timeout:
    return Timeout(seconds, name="deadline")
