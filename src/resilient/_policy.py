"""What every policy is: something that turns an inner call into an outer one.

To write one, derive from `Policy`, set `kind`, and define the `wrap` methods of the
callables it can protect::

    class Logged(Policy):
        kind = "logged"

        def wrap(self, inner):
            def logged(args, kwargs, call):
                print("calling", call.function)
                return inner(args, kwargs, call)
            return logged

        def awrap(self, inner):
            async def logged(args, kwargs, call):
                print("calling", call.function)
                return await inner(args, kwargs, call)
            return logged
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, Generic, Never, ParamSpec, overload

from resilient import _observe
from resilient._call import (
    AsyncCall,
    AsyncStream,
    Call,
    Site,
    SyncCall,
    SyncStream,
    name_of,
)
from resilient._core.living import Living
from resilient._decorate import (
    Misuse,
    Protected,
    agiven,
    bare,
    compose,
    given,
    given_stream,
    protect,
)
from resilient._order import check_order
from resilient._runtime import modes

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
Self_ = TypeVar("Self_")
Fn = TypeVar("Fn", bound=Callable[..., Any])
# What the policy puts before the caller's arguments; Never: nothing.
Target_co = TypeVar("Target_co", covariant=True, default=Never)
# What the policy may return in place of the function's result; Never: nothing.
Extra_co = TypeVar("Extra_co", covariant=True, default=Never)

_CODE_FLAGS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR

_living: Living[Policy[Any, Any]] = Living()


def policies() -> list[Policy[Any, Any]]:
    """Return the live policies of this process, oldest first.

    Each has a `name`, a `kind`, and a `snapshot()` of plain values.
    """
    return _living.all()


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """What a policy without state of its own has to show."""

    name: str
    kind: str


class Policy(Generic[Target_co, Extra_co]):
    """The base of every policy. One object serves sync and async code, threads and tasks."""

    kind: ClassVar[str] = "policy"
    # Whether one call may become several attempts.
    repeats: bool = False
    # Whether the object holds state that must stand only once in a pipeline.
    stateful: ClassVar[bool] = False
    # Whether it puts a target before the caller's arguments, as a pool does.
    injects: bool = False

    def __init__(self, name: str | None = None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, not {type(name).__name__}")
        if name == "":
            raise ValueError("name must not be empty; leave it out to be named by use")
        self._name = name
        self._named_by: Site | None = None
        self._listeners = _observe.Listeners()
        self._chains: dict[str, tuple[Any, Site]] = {}
        _living.add(self)

    # What a policy does. A kind of callable that it cannot protect keeps the default.

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` protected; for plain functions."""
        raise TypeError(self._cannot("a plain function"))

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` protected; for coroutine functions."""
        raise TypeError(self._cannot("a coroutine function"))

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` protected; for generator functions."""
        raise TypeError(self._cannot("a generator function"))

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` protected; for asynchronous generator functions."""
        raise TypeError(self._cannot("an asynchronous generator function"))

    def snapshot(self) -> Any:
        """Return the policy's state as a frozen dataclass of plain values."""
        return PolicySnapshot(self.name, self.kind)

    def _cannot(self, what: str) -> str:
        return f"a {self.kind} policy cannot protect {what}"

    # How it is used.

    @property
    def name(self) -> str:
        """The policy's name: given, or by its first use, or its kind before that."""
        return self._name or self.kind

    def subscribe(self, listener: _observe.Listener) -> _observe.Unsubscribe:
        """Call `listener` with each event of this policy; see `resilient.subscribe`."""
        return self._listeners.add(listener)

    @overload
    def __call__(self: Policy[Never, Never], fn: Fn, /) -> Fn: ...
    @overload
    def __call__(
        self: Policy[Never, S], fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | S]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: Policy[Never, S], fn: Callable[P, R], /
    ) -> Callable[P, R | S]: ...
    @overload
    def __call__(
        self: Policy[T, S], fn: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | S]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: Policy[T, S], fn: Callable[Concatenate[T, P], R], /
    ) -> Callable[P, R | S]: ...
    @overload
    def __call__(
        self: Policy[T, S], fn: Callable[Concatenate[Self_, T, P], Coroutine[Any, Any, R]], /
    ) -> Callable[Concatenate[Self_, P], Coroutine[Any, Any, R | S]]: ...
    @overload
    def __call__(
        self: Policy[T, S], fn: Callable[Concatenate[Self_, T, P], R], /
    ) -> Callable[Concatenate[Self_, P], R | S]: ...
    def __call__(self, fn: Any, /) -> Any:
        """Decorate `fn`: return it protected, with the same signature and kind.

        Args:
            fn: A function, method, coroutine function, generator function, asynchronous
                generator function, partial or callable object.

        Raises:
            TypeError: `fn` cannot be protected by this policy; the text says why.
        """
        return decorate(self, fn)

    @overload
    def call(
        self: Policy[Never, S], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R | S: ...
    @overload
    def call(
        self: Policy[T, S],
        fn: Callable[Concatenate[T, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R | S: ...
    def call(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function `fn` once, protected, and return its result.

        Raises:
            TypeError: `fn` is asynchronous: write `await policy.acall(fn, ...)`.
        """
        code = getattr(fn, "__code__", None)
        if code is not None and code.co_flags & _CODE_FLAGS:
            return self._call_marked(fn, code.co_flags, args, kwargs)
        if modes.passthrough:
            return bare(self._leaves(), fn)(*args, **kwargs)
        chain, site = self._chains.get("wrap") or self._first_use("wrap", given, fn)
        call = Call()
        call.site = site
        call.fn = fn
        try:
            return chain(args, kwargs, call)
        except Misuse as misuse:
            raise TypeError(str(misuse)) from None

    @overload
    async def acall(
        self: Policy[Never, S],
        fn: Callable[P, Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R | S: ...
    @overload
    async def acall(
        self: Policy[T, S],
        fn: Callable[Concatenate[T, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R | S: ...
    async def acall(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call the coroutine function `fn` once, protected, and return its result.

        Raises:
            TypeError: What `fn` returns cannot be awaited: write `policy.call(fn, ...)`.
        """
        code = getattr(fn, "__code__", None)
        if code is not None and code.co_flags & inspect.CO_ASYNC_GENERATOR:
            raise TypeError(f"{name_of(fn)} is an asynchronous generator function: decorate it")
        if modes.passthrough:
            return await bare(self._leaves(), fn)(*args, **kwargs)
        chain, site = self._chains.get("awrap") or self._first_use("awrap", agiven, fn)
        call = Call()
        call.site = site
        call.fn = fn
        try:
            return await chain(args, kwargs, call)
        except Misuse as misuse:
            raise TypeError(str(misuse)) from None

    def _call_marked(self, fn: Any, flags: int, args: Any, kwargs: Any) -> Any:
        """One call of a function whose code says that it is not a plain one."""
        if flags & inspect.CO_COROUTINE:
            raise TypeError(
                f"{name_of(fn)} is a coroutine function: write `await policy.acall(...)`"
            )
        if flags & inspect.CO_ASYNC_GENERATOR:
            raise TypeError(f"{name_of(fn)} is an asynchronous generator function: decorate it")
        if modes.passthrough:
            return bare(self._leaves(), fn)(*args, **kwargs)
        return self._call_stream(fn, args, kwargs)

    def _call_stream(self, fn: Any, args: Any, kwargs: Any) -> Generator[Any, Any, Any]:
        chain, site = self._chains.get("wrap_stream") or self._first_use(
            "wrap_stream", given_stream, fn
        )
        call = Call()
        call.site = site
        call.fn = fn
        return (yield from chain(args, kwargs, call))

    def _first_use(self, method: str, base: Any, fn: Any) -> tuple[Any, Site]:
        """Build the chain that serves every `call` of one colour, whatever the function."""
        leaves = self._leaves()
        site = Site(self._pipeline_name() or self._name or name_of(fn), "", leaves)
        chain = compose(leaves, base, method)
        self._name_leaves(site, alone=True)
        around = {"wrap": "around", "awrap": "aaround", "wrap_stream": "around_stream"}[method]
        found = getattr(_observe.observer, around)(chain, site), site
        return self._chains.setdefault(method, found)

    # How it stands in a pipeline.

    def _bare_target(self) -> Any:
        """What to inject when all policies are out of the way."""
        raise NotImplementedError(f"{type(self).__name__} injects nothing")

    def _idle(self) -> bool:
        """Whether dropping the policy now would lose nothing that it knows or holds."""
        return True

    def _leaves(self) -> tuple[Policy[Any, Any], ...]:
        """The policies that do the work; a pipeline gives those in it."""
        return (self,)

    def _pipeline_name(self) -> str | None:
        """The name that the whole goes by, if it has one."""
        return None

    def _name_leaves(self, site: Site, *, alone: bool) -> None:
        """Name what has no name yet after `site`."""
        self._take_name(site.name if alone else f"{site.name}.{self.kind}", site)

    def _take_name(self, name: str, site: Site) -> None:
        if self._name is None:
            self._name = name
            self._named_by = site

    def _lose_name(self, site: Site) -> None:
        """A decorator was put on top: what `site` alone has named is named by the whole."""
        if self._named_by is site:
            self._name = self._named_by = None

    def _compose(self, method: str, inner: Any, outer: tuple[Policy[Any, Any], ...]) -> Any:
        """Wrap `inner` by `method`, knowing the policies further out."""
        return getattr(self, method)(inner)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def decorate(policy: Policy[Any, Any], fn: Any) -> Any:
    """Return `fn` protected by `policy`, outside whatever protects it already."""
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(decorate(policy, fn.__func__))
    _check_protectable(policy, fn)
    if type(fn) is not Protected:
        return _decorate_first(policy, fn)
    below: Site = fn._self_site
    stack = (*policy._leaves(), *below.policies)
    check_order(stack)
    for leaf in below.policies:
        leaf._lose_name(below)
    name = policy._pipeline_name() or below.pipeline_name
    protected = protect(stack, name, fn._self_fn)
    protected._self_site.pipeline_name = name
    name_in_order(stack, protected._self_site)
    return protected


def _decorate_first(policy: Policy[Any, Any], fn: Any) -> Any:
    name = policy._pipeline_name()
    protected = protect(policy._leaves(), name, fn)
    protected._self_site.pipeline_name = name
    protected._self_pipeline = policy
    policy._name_leaves(protected._self_site, alone=True)
    return protected


def name_in_order(leaves: tuple[Policy[Any, Any], ...], site: Site) -> None:
    """Name the policies of one pipeline by their kinds, numbered from the outside in."""
    seen: dict[str, int] = {}
    for leaf in leaves:
        seen[leaf.kind] = number = seen.get(leaf.kind, 0) + 1
        suffix = "" if number == 1 else f"-{number}"
        leaf._take_name(f"{site.name}.{leaf.kind}{suffix}", site)


def _check_protectable(policy: Policy[Any, Any], fn: Any) -> None:
    if isinstance(fn, Policy):
        raise TypeError(
            f"{policy!r} cannot decorate {fn!r}, which is a policy: write Pipeline(a, b)"
        )
    if isinstance(fn, type):
        raise TypeError(
            f"{policy!r} cannot decorate the class {fn.__name__}: decorate its methods, "
            "or a function that makes the object"
        )
    if not callable(fn):
        raise TypeError(f"{policy!r} decorates callables, not {type(fn).__name__}: {fn!r:.80}")
