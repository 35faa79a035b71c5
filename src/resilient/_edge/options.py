"""The options of both middlewares, checked, and the chain of policies they ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from resilient._call import Site, name_of
from resilient._policy import Policy

# RFC 9110, section 9.2.2: doing it twice is doing it once.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})

# RFC 9110, section 5.6.2: what a header's name is made of.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Paths:
    """Which request paths the policies protect, by exact comparison."""

    __slots__ = ("_excluded", "_included")

    def __init__(self, exclude: Iterable[str], include: Iterable[str] | None) -> None:
        self._excluded = _paths(exclude, "exclude")
        self._included = None if include is None else _paths(include, "include")

    @property
    def all(self) -> bool:
        """Whether every path is protected, so that none need be compared."""
        return not self._excluded and self._included is None

    def covers(self, path: str) -> bool:
        """Whether the policies protect `path`."""
        if self._included is not None and path not in self._included:
            return False
        return path not in self._excluded


def _paths(value: Iterable[str], name: str) -> frozenset[str]:
    if isinstance(value, (str, bytes)):
        raise TypeError(f'{name} is a collection of paths: write {name}=["{value!s}"]')
    found = tuple(value)
    for path in found:
        if not isinstance(path, str):
            raise TypeError(f"{name} holds paths such as '/healthz', not {path!r}")
        if not path.startswith("/"):
            raise ValueError(f"{name} holds whole paths, compared exactly: {path!r} has no '/'")
    return frozenset(found)


def is_failure(value: Any) -> Callable[[int], bool] | None:
    """Check the predicate that says which statuses are failures; `None` for 500 and above."""
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    raise TypeError(f"failure must be a predicate (status) -> bool, not {value!r}")


def header_name(value: object) -> str | None:
    """Check the name of a header, and return it in lower case."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"deadline_header must be the name of a header, not {value!r}")
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"deadline_header must be the name of a header, not {value!r}")
    return value.lower()


def body_limit(value: object) -> int:
    """Check the number of bytes of a request body that are kept for a re-run."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_body must be a number of bytes, not {value!r}")
    if value < 0:
        raise ValueError(f"max_body must be 0 bytes or more, not {value}")
    return value


def keyed(policy: Any, key: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """Check that `policy` is one, and that `key` has a `PerKey` to serve."""
    if not isinstance(policy, Policy):
        hint = "; call the class first" if isinstance(policy, type) else ""
        raise TypeError(f"the middleware needs a policy or a Pipeline, not {policy!r}{hint}")
    if key is None:
        return None
    if not callable(key):
        raise TypeError(f"key must be a function of the request that names its key, not {key!r}")
    if not any(leaf.kind == "per_key" for leaf in policy._leaves()):
        raise ValueError(
            "key= names the key of a PerKey, and the policy holds none: "
            "write PerKey(lambda key: Bulkhead(10), key=...)"
        )
    return key


def inbound_site(policy: Policy[Any, Any], app: Any) -> Site:
    """What is the same for all requests; refuses the policies that make no sense inbound."""
    leaves = policy._leaves()
    _refuse_several(leaves)
    function = name_of(app)
    return Site(policy._pipeline_name() or policy._name or function, function, leaves)


def _refuse_several(leaves: Collection[Policy[Any, Any]]) -> None:
    for leaf in leaves:
        if leaf.repeats and leaf.kind not in ("retry", "per_key"):
            raise TypeError(
                f"a {leaf.kind} cannot stand around an application, which answers its request "
                "once: put it around the calls that the application makes"
            )


def may_repeat(leaves: Iterable[Policy[Any, Any]]) -> bool:
    """Whether the application may be run again; what a `PerKey` will make is not known."""
    return any(leaf.repeats or leaf.kind == "per_key" for leaf in leaves)


def why_not_again(method: str) -> str | None:
    """Why a request of this method is never run twice, or `None`."""
    return None if method in IDEMPOTENT else f"{method} is not idempotent"
