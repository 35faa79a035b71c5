"""Where an experiment strikes: what `only=` selects."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from resilient._call import Call
from resilient._decorate import is_coroutine_function
from resilient._policy import Policy
from resilient.chaos._draw import encoded

# `None` is a key like any other.
ANY: Final[Any] = type("_Any", (), {"__repr__": lambda self: "ANY"})()


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Selects the calls that an experiment strikes; all that is given must hold.

    Args:
        injector: An injector, or a pipeline that holds it, or a pattern of injectors' names
            in which `*` and `?` stand for anything (`"orders.*"`).
        key: What the injector's `key=` returns. An injector without `key=` has no key and is
            not struck.
        member: The name, or a pattern of names, of the pool's member that the attempt goes
            to. It is known to injectors inside the pool alone.
        pool: The pool of that member, or a pattern of pools' names.
        function: A pattern of the protected function's qualified name.
        when: Called without arguments at each call, in the caller's task or thread; true
            selects. It may read a context variable: a request's, say.

    Raises:
        TypeError: A value is of the wrong type.
    """

    injector: Policy[Any, Any] | str | None = None
    key: Hashable = ANY
    member: str | None = None
    pool: Policy[Any, Any] | str | None = None
    function: str | None = None
    when: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        for name in ("injector", "pool"):
            _check(name, getattr(self, name), (str, Policy), "a policy or a pattern of names")
        for name in ("member", "function"):
            _check(name, getattr(self, name), str, "a pattern of names")
        if self.when is not None:
            plain(self.when, "when")
        if self.key is not ANY:
            encoded(self.key)

    def selects(self, injector: Policy[Any, Any], key: bytes | None, call: Call) -> bool:
        """Whether this call of `injector` is one of those meant."""
        return (
            (self.injector is None or _names(self.injector, injector))
            and (self.key is ANY or key == encoded(self.key))
            and (self.member is None or _fits(self.member, member_of(call)))
            and (self.pool is None or self._in_pool(call))
            and (self.function is None or _fits(self.function, call.function))
            and (self.when is None or bool(self.when()))
        )

    def _in_pool(self, call: Call) -> bool:
        assert self.pool is not None
        pools = (policy for policy in call.site.policies if policy.injects)
        return member_of(call) is not None and any(_names(self.pool, pool) for pool in pools)

    def __str__(self) -> str:
        # A key is often secret.
        shown = {"key": "(given)"} if self.key is not ANY else {}
        for name in ("injector", "member", "pool", "function", "when"):
            value = getattr(self, name)
            if value is not None:
                shown[name] = value.name if isinstance(value, Policy) else str(value)
        return ", ".join(f"{name} {value}" for name, value in shown.items()) or "everything"


def _check(name: str, value: object, types: Any, wanted: str) -> None:
    if value is not None and not isinstance(value, types):
        raise TypeError(f"{name} must be {wanted}, not {value!r:.80}")


def plain(value: Callable[..., object], name: str) -> None:
    """Refuse what is not a plain function: nothing awaits a coroutine's answer."""
    if not callable(value) or isinstance(value, (type, Policy)):
        raise TypeError(f"{name} must be a function without arguments, not {value!r:.80}")
    if is_coroutine_function(value):
        raise TypeError(f"{name} must be a plain function: nothing awaits a coroutine's answer")


def _names(meant: Policy[Any, Any] | str, policy: Policy[Any, Any]) -> bool:
    if isinstance(meant, str):
        return fnmatchcase(policy.name, meant)
    return any(leaf is policy for leaf in meant._leaves())


def _fits(pattern: str, name: str | None) -> bool:
    return name is not None and fnmatchcase(name, pattern)


def member_of(call: Call) -> str | None:
    """The member that an attempt goes to: an attempt inside it does not know."""
    link: Call | None = call
    while link is not None:
        if link.member is not None:
            return link.member
        link = link.parent
    return None


Only = Where | Policy[Any, Any] | str | Iterable["Where | Policy[Any, Any] | str"] | None


def wheres(only: Only) -> tuple[Where, ...]:
    """Return what `only=` was given as selections, of which one has to hold; empty for all.

    Raises:
        TypeError: It is none of the things that it can be.
        ValueError: It is an empty list, which would select nothing.
    """
    if only is None:
        return ()
    if isinstance(only, (Where, Policy, str)):
        return (_where(only),)
    if not isinstance(only, Iterable) or isinstance(only, bytes):
        raise TypeError(
            f"only must be an injector, a pattern of injectors' names, a Where(...), or a list "
            f"of those, not {only!r:.80}"
        )
    found = tuple(_where(one) for one in only)
    if not found:
        raise ValueError("only is an empty list, which selects nothing: leave it out for all")
    return found


def _where(one: object) -> Where:
    if isinstance(one, Where):
        return one
    if isinstance(one, (Policy, str)):
        return Where(injector=one)
    raise TypeError(f"only holds {one!r:.80}, which is no injector, no name and no Where(...)")
