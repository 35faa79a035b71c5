"""Policies around a client's requests: the chain, and one request's way through it.

An answer of 408, 429 or 5xx goes through the policies as a `FailedAnswer`, which is a
failure whatever their `on` says, and comes out as the response that it holds. If the request
may be sent again, the answer's body is read at once, up to a limit: so its connection and
its permits are free before the next attempt, and it can still be read if it is the last.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Final, Generic, TypeVar

import anyio

from resilient import _observe
from resilient._call import Args, Call, Kwargs, Site
from resilient._clients.holding import Hold, taken
from resilient._clients.origins import Breakers, Origins
from resilient._core.once import is_once
from resilient._core.verdict import FailedAnswer
from resilient._decorate import Misuse
from resilient._edge.options import IDEMPOTENT
from resilient._policy import Policy
from resilient._runtime import modes
from resilient._runtime.hedge_race import aclose, close
from resilient.circuit_breaker import CircuitBreaker

# The most bytes of a failed answer's body that are kept while the request is sent again.
KEPT_BYTES: Final = 1 << 16

Res = TypeVar("Res")


def failed(status: int) -> bool:
    """Whether an answer says that the request may do better another time, or elsewhere."""
    return status >= 500 or status in (408, 429)


def why_once(method: str, has_key: bool, replayable: bool) -> str | None:
    """Why a request must not be sent again, or `None`.

    Args:
        method: Its method.
        has_key: Whether it bears an `Idempotency-Key`.
        replayable: Whether its body can be sent again from the start.
    """
    if method.upper() not in IDEMPOTENT and not has_key:
        return f"{method.upper()} is not idempotent"
    return None if replayable else "its body cannot be sent again"


def too_long(method: str, length: str | None) -> bool:
    """Whether a body is known to be too long to be kept."""
    return method.upper() != "HEAD" and bool(length) and _number(length) > KEPT_BYTES


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


class Exchange(Call):
    """The record of one request, and the answers to it that somebody has to close."""

    request: Any
    origin: str
    # Sends the request once, in the attempt whose record it is given.
    send: Callable[[Call], Any]
    # The answer that the caller gets.
    answer: Any = None
    over: bool = False

    def __init__(self) -> None:
        # Both are taken from by `pop`, which is atomic: a hedge's worker may come late.
        self.open: list[Any] = []
        # Those among them that are too long to keep.
        self.long: list[Any] = []
        # Such ones of earlier attempts: open until the next one is really made.
        self.stale: list[Any] = []

    def unwanted(self) -> Any:
        """Take an open answer that nobody will get; `None` if there is none."""
        return next((one for one in taken(self.open.pop) if one is not self.answer), None)


def _site(policy: Policy[Any, Any], function: str) -> Site:
    """What is the same for all requests of one client."""
    if not isinstance(policy, Policy):
        hint = "; call the class first" if isinstance(policy, type) else ""
        raise TypeError(f"a client needs a policy or a Pipeline, not {policy!r}{hint}")
    leaves = policy._leaves()
    for leaf in leaves:
        if leaf.injects:
            raise TypeError(
                f"{leaf.name} is a pool, which gives each call its member's target, and a "
                "request has no place for it: decorate a function that takes the target, and "
                "sends the request there"
            )
    return Site(policy._pipeline_name() or policy._name or function, function, leaves)


class Outbound(Generic[Res]):
    """The policies around one client's requests.

    A `CircuitBreaker` among them is a template: there is one after it for each origin.
    """

    # The `wrap` of the client's colour.
    method: ClassVar[str]

    def __init__(self, policy: Policy[Any, Any], function: str) -> None:
        self._site = _site(policy, function)
        self._origins: list[Origins] = []
        policy._name_leaves(self._site, alone=True)
        self._chain = self._compose()
        self.breakers = Breakers(self._origins[0] if self._origins else None)

    @property
    def bypassed(self) -> bool:
        """Whether all policies are out of the way."""
        return modes.passthrough

    def _compose(self) -> Any:
        leaves = self._site.policies
        chain: Any = self._enter
        for index in range(len(leaves) - 1, -1, -1):
            chain = self._around(leaves[index], chain, leaves[:index])
        return self._observed(chain)

    def _around(self, leaf: Policy[Any, Any], inner: Any, outer: tuple[Any, ...]) -> Any:
        if isinstance(leaf, CircuitBreaker):
            leaf._compose(self.method, inner, outer)  # refuses now what it would refuse later
            origins = Origins(leaf, lambda one: one._compose(self.method, inner, outer))
            # From the outside in.
            self._origins.insert(0, origins)
            return origins.chain
        if leaf.kind == "retry" and not any(one.kind in ("hedge", "per_key") for one in outer):
            # A hedge outside has several of its loops at a time, and their answers may differ.
            inner = self._afresh(inner)
        return leaf._compose(self.method, inner, outer)

    @abstractmethod
    def _observed(self, chain: Any) -> Any:
        """The chain with telemetry around it."""

    @abstractmethod
    def _afresh(self, inner: Any) -> Any:
        """`inner`, with the answers of a retry's earlier attempts put away before."""

    @abstractmethod
    def _enter(self, args: Args, kwargs: Kwargs, call: Call) -> Any:
        """The innermost place: send the request."""

    @abstractmethod
    def status(self, response: Res) -> int:
        """The status of an answer."""

    @abstractmethod
    def held(self, response: Res, hold: Hold) -> None:
        """See that `hold` ends when the answer's body has been read, or it is closed."""

    def _begin(self, exchange: Exchange) -> None:
        exchange.site = self._site

    def _again(self, exchange: Exchange) -> bool:
        """Whether the request may be sent again after this attempt."""
        if exchange.over or exchange.unrepeatable is not None:
            return False
        return self._site.may_repeat and not is_once()

    def _failure(self, call: Call, response: Res) -> FailedAnswer:
        return FailedAnswer(f"an answer of {self.status(response)} in {call.function}", response)

    def _hold(self, call: Call, response: Res) -> None:
        hold = Hold()
        self.held(response, hold)
        if not hold.done:
            hold.of(call)


class SyncOutbound(Outbound[Res]):
    """The policies around the requests of a client in plain functions."""

    method = "wrap"

    def _observed(self, chain: Any) -> Any:
        return _observe.observer.around(chain, self._site)

    @abstractmethod
    def keep(self, exchange: Exchange, response: Res) -> bool:
        """Read the answer's body, so that nothing is held by it; false if it is too long."""

    def run(self, exchange: Exchange) -> Res:
        """Send the request through the policies."""
        self._begin(exchange)
        try:
            exchange.answer = self._chain((exchange.request,), {}, exchange)
        except FailedAnswer as failure:
            exchange.answer = failure.response
        except Misuse as misuse:
            raise TypeError(str(misuse)) from None
        finally:
            exchange.over = True
            self._close_unwanted(exchange)
        answer: Res = exchange.answer
        return answer

    def _enter(self, args: Args, kwargs: Kwargs, call: Call) -> Res:
        exchange: Any = call.root
        while exchange.stale:
            close(exchange.stale.pop())
        response: Res = exchange.send(call)
        exchange.open.append(response)
        if exchange.over:
            # Nobody waits for this attempt any more.
            self._close_unwanted(exchange)
        is_failure = failed(self.status(response))
        if is_failure and self._again(exchange) and self._kept(exchange, response):
            raise self._failure(call, response)
        self._hold(call, response)
        if is_failure:
            raise self._failure(call, response)
        return response

    def _kept(self, exchange: Exchange, response: Res) -> bool:
        if not self.keep(exchange, response):
            exchange.long.append(response)
            return False
        # Unless it was closed meanwhile: the caller has an answer already.
        with suppress(ValueError):
            exchange.open.remove(response)
        return True

    def _afresh(self, inner: Any) -> Any:
        def afresh(args: Args, kwargs: Kwargs, call: Call) -> Any:
            if call.kind == "retry":
                exchange: Any = call.root
                while (response := exchange.unwanted()) is not None:
                    if response in exchange.long or not self.keep(exchange, response):
                        exchange.stale.append(response)
            return inner(args, kwargs, call)

        return afresh

    def _close_unwanted(self, exchange: Exchange) -> None:
        while exchange.stale:
            exchange.open.append(exchange.stale.pop())
        while (response := exchange.unwanted()) is not None:
            close(response)


class AsyncOutbound(Outbound[Res]):
    """The policies around the requests of a client in coroutines."""

    method = "awrap"

    def _observed(self, chain: Any) -> Any:
        return _observe.observer.aaround(chain, self._site)

    @abstractmethod
    async def keep(self, exchange: Exchange, response: Res) -> bool:
        """Read the answer's body, so that nothing is held by it; false if it is too long."""

    async def run(self, exchange: Exchange) -> Res:
        """Send the request through the policies."""
        self._begin(exchange)
        try:
            exchange.answer = await self._chain((exchange.request,), {}, exchange)
        except FailedAnswer as failure:
            exchange.answer = failure.response
        finally:
            exchange.over = True
            await self._close_unwanted(exchange)
        answer: Res = exchange.answer
        return answer

    async def _enter(self, args: Args, kwargs: Kwargs, call: Call) -> Res:
        exchange: Any = call.root
        if exchange.stale:
            with anyio.CancelScope(shield=True):
                while exchange.stale:
                    await aclose(exchange.stale.pop())
        response: Res = await exchange.send(call)
        exchange.open.append(response)
        is_failure = failed(self.status(response))
        if is_failure and self._again(exchange) and await self._kept(exchange, response):
            raise self._failure(call, response)
        self._hold(call, response)
        if is_failure:
            raise self._failure(call, response)
        return response

    async def _kept(self, exchange: Exchange, response: Res) -> bool:
        if not await self.keep(exchange, response):
            exchange.long.append(response)
            return False
        exchange.open.remove(response)
        return True

    def _afresh(self, inner: Any) -> Any:
        async def afresh(args: Args, kwargs: Kwargs, call: Call) -> Any:
            if call.kind == "retry":
                exchange: Any = call.root
                while (response := exchange.unwanted()) is not None:
                    if response in exchange.long or not await self.keep(exchange, response):
                        exchange.stale.append(response)
            return await inner(args, kwargs, call)

        return afresh

    async def _close_unwanted(self, exchange: Exchange) -> None:
        while exchange.stale:
            exchange.open.append(exchange.stale.pop())
        if exchange.open == [exchange.answer]:
            return
        with anyio.CancelScope(shield=True):
            while (response := exchange.unwanted()) is not None:
                await aclose(response)
