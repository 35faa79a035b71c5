"""What travels with a call through the policies: the packed call and its record.

Inside a pipeline every callable takes three positional arguments, `(args, kwargs, call)`,
so that only the outermost wrapper packs and the innermost unpacks. What belongs to one
call, and to one attempt of it, is in the third.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from resilient._core.ends import LeftBehind

if TYPE_CHECKING:
    from resilient._policy import Policy

R = TypeVar("R")
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Site:
    """What is the same for all calls of one decorated function.

    Attributes:
        name: The pipeline's name.
        function: The qualified name of the protected function.
        policies: The policies in force, from the outside in, nested pipelines opened.
        pipeline_name: The name that a pipeline was given; `None` if it goes by the function.
        target_at: Where in the arguments a pool puts its member's target: 1 after the `self`
            or `cls` of a method, else 0.
    """

    __slots__ = ("__weakref__", "function", "name", "pipeline_name", "policies", "target_at")

    def __init__(self, name: str, function: str, policies: tuple[Policy[Any, Any], ...]) -> None:
        self.name = name
        self.function = function
        self.policies = policies
        self.pipeline_name: str | None = None
        self.target_at = 0

    @property
    def repeats(self) -> bool:
        """Whether one call may become several attempts: a retry, a hedge or a pool is here."""
        return any(policy.repeats for policy in self.policies)

    @property
    def may_repeat(self) -> bool:
        """Whether that is so, or can become so: which policies a key will have is open."""
        return any(policy.repeats or policy.kind == "per_key" for policy in self.policies)


class Call:
    """One attempt of one call. A retry, a hedge or a pool makes a new one per attempt.

    The defaults stand on the class, since most calls need none of them changed.

    Attributes:
        site: What is the same for all calls of the decorated function.
        fn: The function, if it came with the call instead of by decoration.
        parent: The attempt, or the call, that this attempt is part of.
        number: The attempt's number, from 1.
        kind: `initial`, `retry`, `hedge` or `failover`.
        entered: Whether the protected function was entered in this attempt.
        attempts: How many attempts the whole call has made so far; kept on the root.
        fell_back: Whether a fallback stood in; kept on the root.
        abandoned: Workers that still run although nobody waits for them, if any.
        on_abandon: Called when the worker that runs this call is given up, with whether that
            is the backend's failure, the innermost first; `None` outside a worker.
        member: The name of the pool's member that this attempt goes to; `None` without a pool.
        tried: What a pool remembers of the members tried in this call; kept on the root.
        unrepeatable: Why the function must not be called again, if so; kept on the root, where
            an integration puts it, also while the function runs.
        delivered: Whether a part of the result is with the caller, so that nothing can take
            its place; kept on the root.
        key: Names the key of a `PerKey` instead of its own, if it is not `None`; kept on the
            root.
        shut: Until when, and by whose circuit, further attempts are refused, if one has opened
            over this attempt.
        span: What telemetry keeps with the call.
    """

    site: Site
    fn: Callable[..., Any] | None = None
    parent: Call | None = None
    number: int = 1
    kind: str = "initial"
    entered: bool = False
    attempts: int = 1
    fell_back: bool = False
    abandoned: list[Any] | None = None
    on_abandon: list[Callable[[bool], None]] | None = None
    member: str | None = None
    tried: dict[Any, Any] | None = None
    unrepeatable: str | None = None
    delivered: bool = False
    key: Callable[..., Any] | None = None
    shut: tuple[float, str] | None = None
    span: Any = None

    @property
    def root(self) -> Call:
        """The call as its caller made it."""
        call = self
        while call.parent is not None:
            call = call.parent
        return call

    @property
    def function(self) -> str:
        """The qualified name of the protected function."""
        return self.site.function if self.fn is None else name_of(self.fn)

    def attempt(self, number: int, kind: str) -> Call:
        """Return the record of a further attempt of this call."""
        child = Call()
        child.site = self.site
        child.fn = self.fn
        child.parent = self
        child.number = number
        child.kind = kind
        if self.on_abandon is not None:
            child.on_abandon = self.on_abandon
        return child

    def handed(self, number: int, kind: str) -> Call:
        """Return the record of an attempt that a worker will run.

        Who gives up a worker around this call gives up that one with it.
        """
        child = self.attempt(number, kind)
        child.abandoned = []
        child.on_abandon = []
        if self.on_abandon is not None:
            self.on_abandon.append(child.give_up)
        return child

    def give_up(self, failed: bool) -> None:
        """Tell the policies inside the worker that its caller does not wait any more."""
        callbacks = self.on_abandon or ()
        # What the worker begins from now on, it also settles itself.
        self.on_abandon = None
        # What is further in says first whether the function was entered.
        for callback in reversed(callbacks):
            callback(failed)
        self.carry()

    def carry(self) -> None:
        """The worker's part is over: take over what the rest of the call has to know."""
        if self.parent is not None and self.entered:
            self.parent.entered = True
        # The callbacks refer to the call.
        self.on_abandon = None

    def leave_behind(self, run: Any) -> None:
        """The worker of this attempt runs on: let the policies around it know."""
        assert self.abandoned is not None
        left = LeftBehind(run, self.abandoned)
        link = self.parent
        while link is not None:
            if link.abandoned is None:
                link.abandoned = []
            link.abandoned.append(left)
            link = link.parent


def entered(call: Call) -> None:
    """The protected function is entered: the attempts that this one is part of say so too.

    At once, since one that hangs is judged by policies further out while it hangs.
    """
    link: Call | None = call
    while link is not None:
        link.entered = True
        link = link.parent


SyncCall = Callable[[Args, Kwargs, Call], R]
AsyncCall = Callable[[Args, Kwargs, Call], Awaitable[R]]
SyncStream = Callable[[Args, Kwargs, Call], Generator[Any, Any, Any]]
AsyncStream = Callable[[Args, Kwargs, Call], AsyncGenerator[Any, Any]]


def name_of(fn: object) -> str:
    """The qualified name of a function, of the function in a partial, or of a class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None)
    return name if isinstance(name, str) else type(fn).__qualname__
