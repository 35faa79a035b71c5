"""One circuit breaker for each origin: one host that is down says nothing of another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from resilient._call import Args, Call, Kwargs
from resilient._core.living import forkable
from resilient.circuit_breaker import CircuitBreaker

# How many origins are kept; beyond that the oldest whose circuit is closed are dropped.
MAX_ORIGINS: Final = 1024
_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def origin(scheme: str, host: str, port: int | None) -> str:
    """The origin as text, as in RFC 6454: `https://api.example.com`, without a usual port."""
    scheme, host = scheme.lower(), host.lower().strip("[]")
    if ":" in host:
        host = f"[{host}]"
    usual = port is None or port == _PORTS.get(scheme)
    return f"{scheme}://{host}" if usual else f"{scheme}://{host}:{port}"


def origin_of(url: str) -> str:
    """The origin of a URL."""
    parts = urlsplit(url)
    return origin(parts.scheme, parts.hostname or "", parts.port)


class Breakers(Mapping[str, CircuitBreaker]):
    """The circuit breakers of one client, by origin; a look-up takes any URL there."""

    def __init__(self, origins: Origins | None) -> None:
        self._origins = origins

    def _all(self) -> dict[str, tuple[CircuitBreaker, Any]]:
        return {} if self._origins is None else self._origins.made

    def __getitem__(self, key: str) -> CircuitBreaker:
        found = self._all().get(key) or self._all()[origin_of(key)]
        return found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._all()))

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


class Origins:
    """The breakers made after one template, each with its chain around the same inner call."""

    def __init__(self, template: CircuitBreaker, compose: Callable[[CircuitBreaker], Any]) -> None:
        self._template = template
        self._compose = compose
        self._lock = threading.Lock()
        self.made: dict[str, tuple[CircuitBreaker, Any]] = {}
        forkable.add(self)

    def chain(self, args: Args, kwargs: Kwargs, call: Call) -> Any:
        """Go on by the breaker of the request's origin; in either colour."""
        root: Any = call.root
        found = self.made.get(root.origin) or self._make(root.origin)
        return found[1](args, kwargs, call)

    def _make(self, key: str) -> tuple[CircuitBreaker, Any]:
        breaker = self._template._fresh()
        found = breaker, self._compose(breaker)
        with self._lock:
            if len(self.made) >= MAX_ORIGINS:
                self._drop_idle()
            return self.made.setdefault(key, found)

    def _drop_idle(self) -> None:
        """Drop the oldest that knows nothing of a failing host; needs the lock."""
        for key, (breaker, _) in self.made.items():
            if breaker._idle():
                # Swapped whole, so that nobody who iterates is disturbed.
                self.made = {other: one for other, one in self.made.items() if other != key}
                return

    def after_fork(self) -> None:
        """Start with a lock that no lost thread holds."""
        self._lock = threading.Lock()
