"""One policy per key: per host, per tenant, per shard."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, WeakSet

from resilient import _observe
from resilient._call import AsyncCall, AsyncStream, Call, Site, SyncCall, SyncStream
from resilient._core.durations import count
from resilient._core.living import forkable
from resilient._policy import Extra_co, Policy, Target_co
from resilient._runtime.streams import arelay, astart, relay, start
from resilient.events import Event

# How many keys are looked at, at most, to find one to drop.
_LOOKS = 32


@dataclass(frozen=True, slots=True)
class PerKeySnapshot:
    """How many keys have a policy now."""

    name: str
    kind: str
    keys: int


class _Wrapped:
    """Stands for one wrapped function in the tables of chains: they go when it goes."""

    __slots__ = ("__weakref__", "inner", "method")

    def __init__(self, inner: Any, method: str) -> None:
        self.inner = inner
        self.method = method


class _Entry:
    """A key's policy, pinned while calls run through it."""

    __slots__ = ("chains", "pins", "policy")

    def __init__(self, policy: Policy[Any, Any]) -> None:
        self.policy = policy
        self.pins = 0
        self.chains: WeakKeyDictionary[_Wrapped, Any] = WeakKeyDictionary()

    def chain(self, wrapped: _Wrapped) -> Any:
        """The call through this key's policy, built at its first use."""
        chain = self.chains.get(wrapped)
        if chain is None:
            chain = getattr(self.policy, wrapped.method)(wrapped.inner)
            self.chains[wrapped] = chain
        return chain


class PerKey(Policy[Target_co, Extra_co]):
    """Give each key a policy of its own, made when it is first needed.

    Args:
        factory: Called as `factory(key)`, makes the key's policy.
        key: Called with the caller's arguments, returns the key, which must be hashable.
        max_keys: How many keys are kept, 1 or more, 1,024 by default. Beyond that, the
            least recently used one that is idle is dropped; one with calls in flight, or
            whose circuit is not closed, is never dropped.
        name: Names the policy in events, errors and telemetry. The key stands in none of
            them.

    Raises:
        TypeError: `factory` or `key` is not callable.
    """

    kind: ClassVar[str] = "per_key"
    stateful = True

    def __init__(
        self,
        factory: Callable[[Any], Policy[Target_co, Extra_co]],
        *,
        key: Callable[..., Hashable],
        max_keys: int = 1024,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if not callable(factory) or isinstance(factory, Policy):
            raise TypeError(
                "PerKey needs a function that makes a key's policy: "
                "PerKey(lambda host: CircuitBreaker(), key=...)"
            )
        if not callable(key):
            raise TypeError("key must be a function of the call's arguments that names the key")
        self._factory = factory
        self._key = key
        self._max_keys = count(max_keys, "max_keys")
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._heard: WeakSet[Policy[Any, Any]] = WeakSet()
        self._lock = threading.Lock()
        forkable.add(self)

    def subscribe(self, listener: _observe.Listener) -> _observe.Unsubscribe:
        """Call `listener` with each event of every key's policy; see `resilient.subscribe`."""
        unsubscribe = self._listeners.add(listener)
        with self._lock:
            for entry in self._entries.values():
                self._listen_to(entry.policy)
        return unsubscribe

    def _listen_to(self, policy: Policy[Any, Any]) -> None:
        """Pass the events of a key's policy on; needs the lock."""
        # A factory may give several keys the same one.
        if policy not in self._heard:
            self._heard.add(policy)
            policy.subscribe(self._pass_on)

    def _pass_on(self, event: Event) -> None:
        _observe.tell(self._listeners.all, event)

    def get(self, key: Hashable) -> Policy[Target_co, Extra_co]:
        """Return the policy of `key`, made now if the key is new."""
        entry = self._pin(key, Site(self.name, "", (self,)))
        self._unpin(entry)
        return entry.policy

    def snapshot(self) -> PerKeySnapshot:
        """Return how many keys have a policy."""
        return PerKeySnapshot(self.name, self.kind, len(self._entries))

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` protected; for plain functions."""
        wrapped = _Wrapped(inner, "wrap")

        def per_key(args: Any, kwargs: Any, call: Call) -> Any:
            entry = self._pin(self._key_of(args, kwargs, call), call.site)
            try:
                return entry.chain(wrapped)(args, kwargs, call)
            finally:
                self._unpin(entry)

        return per_key

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` protected; for coroutine functions."""
        wrapped = _Wrapped(inner, "awrap")

        async def per_key(args: Any, kwargs: Any, call: Call) -> Any:
            entry = self._pin(self._key_of(args, kwargs, call), call.site)
            try:
                return await entry.chain(wrapped)(args, kwargs, call)
            finally:
                self._unpin(entry)

        return per_key

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` protected; for generator functions."""
        wrapped = _Wrapped(inner, "wrap_stream")

        def per_key(args: Any, kwargs: Any, call: Call) -> Any:
            pin = _Pin(self, args, kwargs, call)
            return relay(lambda: start(pin.entry.chain(wrapped)(args, kwargs, call)), pin)

        return per_key

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` protected; for asynchronous generator functions."""
        wrapped = _Wrapped(inner, "awrap_stream")

        def per_key(args: Any, kwargs: Any, call: Call) -> Any:
            pin = _Pin(self, args, kwargs, call)
            return arelay(lambda: astart(pin.entry.chain(wrapped)(args, kwargs, call)), pin)

        return per_key

    def _key_of(self, args: Any, kwargs: Any, call: Call) -> Any:
        return (call.root.key or self._key)(*args, **kwargs)

    def _pin(self, key: Any, site: Site) -> _Entry:
        """Return the entry of `key`, kept from being dropped until `_unpin`."""
        try:
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None:
                    self._entries.move_to_end(key)
                    entry.pins += 1
                    return entry
        except TypeError as error:
            raise TypeError(
                f"the key of {self.name} must be hashable, not {type(key).__name__}"
            ) from error
        made = _Entry(self._made(key, site))
        with self._lock:
            # Another thread may have made one meanwhile; the first one in stands.
            entry = self._entries.setdefault(key, made)
            if self._listeners.all:
                self._listen_to(entry.policy)
            entry.pins += 1
            self._drop_idle()
        return entry

    def _unpin(self, entry: _Entry) -> None:
        with self._lock:
            entry.pins -= 1

    def _made(self, key: Any, site: Site) -> Policy[Any, Any]:
        # The user's code runs without the lock.
        policy = self._factory(key)
        if not isinstance(policy, Policy):
            raise TypeError(f"the factory of {self.name} must return a policy, not {policy!r}")
        policy._name_leaves(site, alone=False)
        if policy.repeats:
            self.repeats = True
        return policy

    def _drop_idle(self) -> None:
        """Drop the least recently used idle key if there are too many; needs the lock."""
        for _ in range(_LOOKS):
            if len(self._entries) <= self._max_keys:
                return
            key, entry = next(iter(self._entries.items()))
            if entry.pins == 0 and entry.policy._idle():
                del self._entries[key]
            else:
                # It goes to the back, so that the next look is at another one.
                self._entries.move_to_end(key)

    def _idle(self) -> bool:
        with self._lock:
            entries = list(self._entries.values())
        return all(entry.pins == 0 and entry.policy._idle() for entry in entries)

    def after_fork(self) -> None:
        """Start with a lock that no lost thread holds, and no pins of lost calls."""
        self._lock = threading.Lock()
        for entry in self._entries.values():
            entry.pins = 0


class _Pin:
    """Pins a key for as long as a generator runs."""

    __slots__ = ("_args", "_call", "_kwargs", "_per_key", "entry")

    entry: _Entry

    def __init__(self, per_key: PerKey[Any, Any], args: Any, kwargs: Any, call: Call) -> None:
        self._per_key = per_key
        self._args = args
        self._kwargs = kwargs
        self._call = call

    def __enter__(self) -> None:
        key = self._per_key._key_of(self._args, self._kwargs, self._call)
        self.entry = self._per_key._pin(key, self._call.site)

    def __exit__(self, *exc: object) -> None:
        self._per_key._unpin(self.entry)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()
