"""From a callable and policies to a protected callable of the same kind.

There are four kinds: plain functions, coroutine functions, generator functions and
asynchronous generator functions. Each has a shell, written for its kind so that `inspect`
sees what it sees of the original, and one thin proxy around the shell. Putting a further
decorator on a protected function builds a new chain around the original: proxies never
nest.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import CodeType, CoroutineType, MethodType
from typing import TYPE_CHECKING, Any, NoReturn

import wrapt

from resilient import _observe
from resilient._call import Args, AsyncCall, Call, Kwargs, Site, SyncCall, entered, name_of
from resilient._runtime import modes
from resilient._runtime.streams import advance_async, astart

if TYPE_CHECKING:
    from resilient._policy import Policy

_ASYNC_FLAGS = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE


class Misuse(BaseException):
    """A misuse seen inside the chain: neutral for every policy, a `TypeError` outside it."""


if TYPE_CHECKING:
    # Newer stubs make the proxy generic, which older versions are not at run time.
    _Proxy = wrapt.CallableObjectProxy[Any]
else:
    _Proxy = wrapt.CallableObjectProxy


class Protected(_Proxy):
    """A protected function: looks, pickles and copies like the function it protects."""

    def __init__(self, shell: Callable[..., Any], fn: Callable[..., Any], site: Site) -> None:
        super().__init__(shell)
        self._self_fn = fn
        self._self_site = site
        self._self_pipeline: Any = None
        self._self_is_async = kind_of(fn) == "async"
        # Makes the function that takes `self` first, where that was not known from the start.
        self._self_as_method: Callable[[], Protected] | None = None

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        found = self if self._self_as_method is None else self._self_as_method()
        return found if instance is None else MethodType(found, instance)

    @property
    def __code__(self) -> CodeType:
        """What `inspect` reads the kind of a function from."""
        if self._self_is_async:
            return _marked.__code__
        code: CodeType = self.__wrapped__.__code__
        return code

    def __repr__(self) -> str:
        return f"<Protected {name_of(self._self_fn)}>"

    # A function pickles by its qualified name and copies as itself.
    def __reduce__(self) -> str:
        name = getattr(self._self_fn, "__qualname__", None)
        if not isinstance(name, str):
            raise TypeError(f"cannot pickle {self!r}: it has no qualified name to find it by")
        return name

    def __reduce_ex__(self, protocol: Any) -> str:
        return self.__reduce__()

    def __copy__(self) -> Protected:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Protected:
        return self


def compose(policies: tuple[Policy[Any, Any], ...], base: Any, method: str) -> Any:
    """Nest `policies`, outermost first, around `base`, by the `wrap` method of its kind."""
    chain = base
    for index in range(len(policies) - 1, -1, -1):
        chain = policies[index]._compose(method, chain, policies[:index])
    return chain


def protect(policies: tuple[Policy[Any, Any], ...], name: str | None, fn: Any) -> Any:
    """Return `fn`, of whatever kind, protected by `policies`."""
    site = Site(name or name_of(fn), name_of(fn), policies)
    shell = _SHELLS[kind_of(fn)](fn, site)
    if not hasattr(fn, "__qualname__"):
        # A partial or an object: without this, its name would be that of the shell.
        shell.__qualname__ = site.function
        shell.__name__ = site.function.rpartition(".")[2]
    return injected(shell, fn, site) if injecting(policies) else Protected(shell, fn, site)


def injecting(policies: tuple[Policy[Any, Any], ...]) -> list[Policy[Any, Any]]:
    """Those of `policies` that put a target before the caller's arguments."""
    return [policy for policy in policies if policy.injects]


def injected(shell: Callable[..., Any], fn: Any, site: Site) -> Protected:
    """Return the proxy of a function whose first parameters the policies supply."""
    site.target_at = int(_in_class(fn))
    _hide_targets(shell, fn, site)
    protected = Protected(shell, fn, site)
    if not site.target_at:
        protected._self_as_method = _as_method(protected)
    return protected


def bare(policies: tuple[Policy[Any, Any], ...], fn: Any, at: int = 0) -> Any:
    """Return `fn` as it is called with all policies out of the way: targets alone are left."""
    pools = injecting(policies)
    if not pools:
        return fn

    def with_targets(*args: Any, **kwargs: Any) -> Any:
        for pool in pools:
            args = (*args[:at], pool._bare_target(), *args[at:])
        return fn(*args, **kwargs)

    return with_targets


def _in_class(fn: Any) -> bool:
    """Whether `fn`, by its names, is defined in a class and takes `self` or `cls` first."""
    outer, _, _ = name_of(fn).rpartition(".")
    if not outer or outer.endswith("<locals>"):
        return False
    first = next(iter(_parameters(fn)), None)
    return first is not None and first.name in ("self", "cls", "mcs")


def _parameters(fn: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # written in C, and says nothing of its parameters
        return []


def _hide_targets(shell: Any, fn: Any, site: Site) -> None:
    """Take the parameters that the policies supply out of the signature."""
    parameters = _parameters(fn)
    for _ in injecting(site.policies):
        at = site.target_at
        if len(parameters) > at and parameters[at].kind < inspect.Parameter.VAR_POSITIONAL:
            hidden = parameters.pop(at)
            shell.__annotations__ = {
                name: one for name, one in shell.__annotations__.items() if name != hidden.name
            }
    if parameters or _parameters(fn):
        shell.__signature__ = inspect.signature(fn).replace(parameters=parameters)


def _as_method(protected: Protected) -> Callable[[], Protected]:
    """What makes, once, the variant of `protected` that is bound to an instance.

    A function may be put into a class long after it was decorated, and stay in use alone.
    """
    made: list[Protected] = []

    def method() -> Protected:
        if not made:
            site, fn = protected._self_site, protected._self_fn
            twin = Site(site.name, site.function, site.policies)
            twin.pipeline_name = site.pipeline_name
            twin.target_at = 1
            shell = _SHELLS[kind_of(fn)](fn, twin)
            _hide_targets(shell, fn, twin)
            made.append(Protected(shell, fn, twin))
            made[0]._self_pipeline = protected._self_pipeline
        return made[0]

    return method


def kind_of(fn: Callable[..., Any]) -> str:
    """`sync`, `async`, `generator` or `async generator`, by what marks `fn`."""
    target: Any = fn
    while isinstance(target, functools.partial):
        target = target.func
    for candidate in (target, _call_method(target)):
        if candidate is None:
            continue
        if inspect.isasyncgenfunction(candidate):
            return "async generator"
        if inspect.isgeneratorfunction(candidate):
            return "generator"
        if is_coroutine_function(candidate):
            return "async"
    return "sync"


def _call_method(target: object) -> Any:
    if inspect.isroutine(target):
        return None
    return getattr(type(target), "__call__", None)  # noqa: B004 - it is read, not tested


def is_coroutine_function(fn: Any) -> bool:
    """Whether something marks `fn` as returning a coroutine."""
    if inspect.iscoroutinefunction(fn):
        return True
    # Marks that only asyncio knows, such as an AsyncMock's; it drops them in 3.14.
    return sys.version_info < (3, 14) and asyncio.iscoroutinefunction(fn)


def asynchronous(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Mark a callable that returns an awaitable without being a coroutine function.

    Args:
        fn: For example a lambda that calls a coroutine function.

    Returns:
        A coroutine function that awaits what `fn` returns; policies can protect it.

    Raises:
        TypeError: `fn` is not callable.
    """
    if not callable(fn):
        raise TypeError(f"asynchronous() marks a callable, not {fn!r}")

    @functools.wraps(fn)
    async def marked(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return marked


def _refuse_awaitable(result: Any, function: str) -> NoReturn:
    if inspect.iscoroutine(result):
        result.close()
    raise Misuse(
        f"{function} returned an awaitable, but nothing marks it as asynchronous: decorate "
        f"resilient.asynchronous({function}), or make it an `async def`"
    )


def unpack(fn: Callable[..., Any], function: str) -> SyncCall[Any]:
    """The innermost call of a plain function."""
    checked = False

    def enter(args: Args, kwargs: Kwargs, call: Call) -> Any:
        nonlocal checked
        call.entered = True
        if call.parent is not None:
            entered(call.parent)
        if checked:
            # An empty dict would be copied.
            return fn(*args, **kwargs) if kwargs else fn(*args)
        result = fn(*args, **kwargs)
        if hasattr(type(result), "__await__"):
            _refuse_awaitable(result, function)
        checked = True
        return result

    return enter


def aunpack(fn: Callable[..., Any]) -> AsyncCall[Any]:
    """The innermost call of a coroutine function."""

    def enter(args: Args, kwargs: Kwargs, call: Call) -> Any:
        call.entered = True
        if call.parent is not None:
            entered(call.parent)
        return fn(*args, **kwargs)

    return enter


def unpack_stream(fn: Callable[..., Any]) -> Any:
    """The innermost call of a generator function of either colour."""

    def enter(args: Args, kwargs: Kwargs, call: Call) -> Any:
        call.entered = True
        if call.parent is not None:
            entered(call.parent)
        return fn(*args, **kwargs)

    return enter


def given(args: Args, kwargs: Kwargs, call: Call) -> Any:
    """The innermost call of `policy.call(fn, ...)`: the function came with the call."""
    call.entered = True
    if call.parent is not None:
        entered(call.parent)
    result = call.fn(*args, **kwargs)  # type: ignore[misc]
    if hasattr(type(result), "__await__"):
        if inspect.iscoroutine(result):
            result.close()
        raise Misuse(f"{call.function} returned an awaitable: write `await policy.acall(...)`")
    return result


async def agiven(args: Args, kwargs: Kwargs, call: Call) -> Any:
    """The innermost call of `policy.acall(fn, ...)`."""
    call.entered = True
    if call.parent is not None:
        entered(call.parent)
    result = call.fn(*args, **kwargs)  # type: ignore[misc]
    if not inspect.isawaitable(result):
        raise Misuse(
            f"{call.function} returned {type(result).__name__}, which cannot be awaited: "
            "write `policy.call(...)`"
        )
    return await result


def given_stream(args: Args, kwargs: Kwargs, call: Call) -> Any:
    """The innermost call of `policy.call(fn, ...)` for a generator function."""
    call.entered = True
    if call.parent is not None:
        entered(call.parent)
    return call.fn(*args, **kwargs)  # type: ignore[misc]


def _shell_sync(fn: Any, site: Site) -> Callable[..., Any]:
    chain = compose(site.policies, unpack(fn, site.function), "wrap")
    observed = _observe.observer.around(chain, site)
    guards_alone = not site.may_repeat

    @functools.wraps(fn)
    def shell(*args: Any, **kwargs: Any) -> Any:
        if modes.passthrough:
            return bare(site.policies, fn, site.target_at)(*args, **kwargs)
        call = Call()
        call.site = site
        # What the policies look at on the way: found faster here than on the class.
        call.fell_back = False
        call.parent = call.on_abandon = call.abandoned = None
        try:
            if modes.unwatched and (guards_alone or _observe.provider() is None):
                return chain(args, kwargs, call)
            return observed(args, kwargs, call)
        except Misuse as misuse:
            raise TypeError(str(misuse)) from None

    return shell


def _shell_async(fn: Any, site: Site) -> Callable[..., Any]:
    chain = compose(site.policies, aunpack(fn), "awrap")
    observed = _observe.observer.aaround(chain, site)
    guards_alone = not site.may_repeat
    function = site.function

    # Not a coroutine function, which would be one more frame to resume at every step; the
    # proxy around it says that it is one, which is true of what it returns.
    @functools.wraps(fn)
    def shell(*args: Any, **kwargs: Any) -> Any:
        if modes.passthrough:
            return bare(site.policies, fn, site.target_at)(*args, **kwargs)
        call = Call()
        call.site = site
        call.fell_back = False
        call.parent = call.on_abandon = call.abandoned = None
        if modes.unwatched and (guards_alone or _observe.provider() is None):
            coroutine = chain(args, kwargs, call)
        else:
            coroutine = observed(args, kwargs, call)
        if type(coroutine) is CoroutineType:
            # What a task, or a warning that nobody awaited it, is called by.
            coroutine.__qualname__ = function
        return coroutine

    return shell


async def _marked() -> None:
    """Lends its code, which says that it is a coroutine function's."""


def _shell_generator(fn: Any, site: Site) -> Callable[..., Any]:
    chain = _observe.observer.around_stream(
        compose(site.policies, unpack_stream(fn), "wrap_stream"), site
    )

    @functools.wraps(fn)
    def shell(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        if modes.passthrough:
            return (yield from bare(site.policies, fn, site.target_at)(*args, **kwargs))
        call = Call()
        call.site = site
        return (yield from chain(args, kwargs, call))

    return shell


def _shell_async_generator(fn: Any, site: Site) -> Callable[..., Any]:
    chain = _observe.observer.aaround_stream(
        compose(site.policies, unpack_stream(fn), "awrap_stream"), site
    )

    @functools.wraps(fn)
    async def shell(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = Call()
        call.site = site
        if modes.passthrough:
            generator = bare(site.policies, fn, site.target_at)(*args, **kwargs)
        else:
            generator = chain(args, kwargs, call)
        # What `yield from` would do; see `_runtime.streams`.
        started = await astart(generator)
        try:
            while not started.ended:
                try:
                    sent = yield started.item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    await advance_async(started, generator.athrow, error)
                else:
                    await advance_async(started, generator.asend, sent)
        finally:
            await generator.aclose()

    return shell


_SHELLS: dict[str, Callable[[Any, Site], Callable[..., Any]]] = {
    "sync": _shell_sync,
    "async": _shell_async,
    "generator": _shell_generator,
    "async generator": _shell_async_generator,
}
