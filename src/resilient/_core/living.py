"""Which objects of a kind are alive, without keeping them so.

Weak references in a dict under a lock: iterating a `WeakSet` fails when another thread
adds to it. The lock is re-entrant because a collection may run a reference's callback in
the thread that holds it.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")

# The registries themselves, of which there are few, made when modules are imported.
_registries: weakref.WeakSet[Living[Any]] = weakref.WeakSet()


class _Reference(weakref.ref[T]):
    """A weak reference that knows its place in the registry."""

    __slots__ = ("key",)

    key: int


class Living(Generic[T]):
    """A registry of live objects, in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._references: dict[int, _Reference[T]] = {}
        _registries.add(self)

    def add(self, thing: T) -> None:
        """Remember `thing` for as long as somebody else does."""
        reference = _Reference(thing, self._forget)
        reference.key = id(thing)
        with self._lock:
            self._references[reference.key] = reference

    def _forget(self, reference: weakref.ref[T]) -> None:
        key = cast(_Reference[T], reference).key
        with self._lock:
            # The id may already belong to a newer object.
            if self._references.get(key) is reference:
                del self._references[key]

    def all(self) -> list[T]:
        """Return the objects that are alive now."""
        with self._lock:
            references = list(self._references.values())
        return [thing for reference in references if (thing := reference()) is not None]

    def after_fork(self) -> None:
        """Put a new lock in place of one that another thread may have held."""
        self._lock = threading.RLock()


class Forkable(Protocol):
    """What must be put right in a forked child: locks, permits, waiters, workers."""

    def after_fork(self) -> None: ...


forkable: Living[Forkable] = Living()


def _after_fork() -> None:
    """Only the forking thread lives on in the child: what the others held is lost there."""
    for registry in list(_registries):
        registry.after_fork()
    for thing in forkable.all():
        thing.after_fork()


with suppress(AttributeError):  # Windows cannot fork
    os.register_at_fork(after_in_child=_after_fork)
