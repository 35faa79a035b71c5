"""A bulkhead's permits and its queue: who may run, and who is next.

::

    call ──▶ free permit, nobody waits ──▶ runs ──▶ gives its permit back
      │                                     ▲                 │
      └──▶ queue, first in, first out ── granted ◀────────────┘
      └──▶ refused: the queue is full

Calls that find a free permit take no lock: `free.pop()` and `free.append(permit)` are each
atomic. What keeps the two paths together is an order. Who gives back appends the permit and
then looks for waiters; who waits enqueues and then looks for permits: one of the two sees
the other. That the second look cannot overtake the first write rests on the GIL; without it
a release takes the lock each time (see `GIL` where permits are given back).

- A newcomer never passes the queue: it pops only if nobody waits.
- A permit is granted under the lock, and claimed under it, at most once, by `leave`. That one
  method serves a waiter that was woken, that is out of time, that was cancelled, and one
  whose event loop is dead: whatever it was granted comes back from it.
- Waiters are woken with the lock released. To wake one twice does no harm.

A signal handler that raises (Ctrl-C) may strike after any call. Whatever is half done then is
finished before its error goes on; a permit that was in nobody's hands gives itself back when
it is collected. That is a net, not the mechanism.

Permits are made when they are first needed, since the limit may be huge. Nothing here waits
or reads a clock; how to wake a waiter is the waiter's affair.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from resilient._core.budget import GIL
from resilient._core.ends import after


class Permit(weakref.ref["Permits"]):
    """The right to run one call.

    It is itself the weak reference to where it belongs: made in one step, so that no
    interrupt finds one half made, and not keeping a bulkhead alive.

    In a cycle of garbage the collector clears the reference before it finalizes anything, so
    that the permit of a task collected there comes back once, from the task's own cleanup.
    """

    __slots__ = ()

    def __del__(self) -> None:
        permits = self()
        if permits is not None:
            permits.lost()


class Waiter(ABC):
    """One call in the queue. `permit` is what it was granted and has not claimed yet."""

    __slots__ = ("permit",)

    def __init__(self) -> None:
        self.permit: Permit | None = None

    @abstractmethod
    def wake(self) -> bool:
        """Let the call go on, from any thread, once or twice; false: its loop is dead."""


class Permits:
    """The machine. `free` and `waiting` may be read without the lock, and `free` changed."""

    __slots__ = ("__weakref__", "_granted", "_lock", "_minted", "free", "limit", "max_queue",
                 "waiting")  # fmt: skip

    def __init__(self, limit: int, max_queue: int) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.free: deque[Permit] = deque()
        # In order of arrival; a dict, since a waiter may leave from anywhere.
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        # Granted, but perhaps not woken yet: an interrupt must not make that forgotten. Two
        # threads may therefore wake one waiter.
        self._granted: dict[Waiter, None] = {}
        self._minted = 0
        self._lock = threading.Lock()

    @property
    def active(self) -> int:
        """How many permits are in use, or granted."""
        return max(0, self._minted - len(self.free))

    @property
    def pending(self) -> int:
        """How many calls wait."""
        return len(self.waiting)

    @property
    def has_room(self) -> bool:
        """Whether the queue takes another waiter."""
        return len(self.waiting) < self.max_queue

    def take(self) -> Permit | None:
        """Return a permit for a newcomer, `None` if there is none or somebody waits."""
        try:
            with self._lock:
                self._match()
                return None if self.waiting else self._pop()
        finally:
            self.settle()

    def join(self, waiter: Waiter) -> bool:
        """Queue `waiter`; false if the queue is full. It may be granted before this returns."""
        try:
            with self._lock:
                self._match()
                if not self.has_room:
                    return False
                self.waiting[waiter] = None
        finally:
            self.settle()
        return True

    def leave(self, waiter: Waiter) -> Permit | None:
        """Take `waiter` out, for whatever reason; return what it was granted, if anything."""
        try:
            with self._lock:
                self.waiting.pop(waiter, None)
                permit, waiter.permit = waiter.permit, None
                return permit
        finally:
            # A permit that was collected while the lock was held found nobody to take it.
            if self.free and self.waiting:
                self.settle()

    def abandon(self, waiter: Waiter) -> None:
        """Take out a waiter that will not run, and pass on what it was granted."""
        permit = self.leave(waiter)
        if permit is not None:
            self.give_back(permit)

    def give_back(self, permit: Permit) -> None:
        """End a call: its permit goes to the first waiter, or is free."""
        try:
            self.free.append(permit)
        finally:
            if self.waiting or not GIL:
                self.settle()

    def give_back_after(self, permit: Permit, workers: Iterable[Any]) -> None:
        """Give `permit` back when the last of `workers` has ended; some may have."""
        after(workers, partial(self.give_back, permit))

    def lost(self) -> None:
        """A permit was collected that nobody gave back: put another in its place.

        This runs in a finalizer, which may strike anywhere, also where this very thread
        holds the lock. Then whoever holds it looks for free permits after releasing it.
        """
        self.free.append(Permit(self))
        if not self._lock.locked():
            self.settle()

    def settle(self) -> None:
        """Grant free permits to those who wait first, and wake them."""
        try:
            self._settle()
        except BaseException:
            # A signal handler raised in between, nothing else does: nobody may be left
            # waiting for a free permit.
            self._settle()
            raise

    def _settle(self) -> None:
        while True:
            with self._lock:
                self._match()
                granted = list(self._granted)
            for waiter in granted:
                self._delivered(waiter, alive=waiter.wake())
            if not (self.free and self.waiting):
                return

    def _delivered(self, waiter: Waiter, *, alive: bool) -> None:
        """Forget a grant that was told; a waiter whose loop is dead has it taken back."""
        with self._lock:
            # No call before the append, so no interrupt either.
            if waiter in self._granted:
                del self._granted[waiter]
            if not alive and waiter.permit is not None:
                permit, waiter.permit = waiter.permit, None
                self.free.append(permit)

    # What follows needs the lock.

    def _match(self) -> None:
        while self.waiting:
            waiter = next(iter(self.waiting))
            permit = self._pop()
            # No call from here on, so no interrupt either.
            if permit is None:
                return
            self._granted[waiter] = None
            waiter.permit = permit
            del self.waiting[waiter]

    def _pop(self) -> Permit | None:
        try:
            return self.free.pop()
        except IndexError:
            if self._minted >= self.limit:
                return None
        self._minted += 1
        return Permit(self)
