"""Which calls are struck: a pure function of the seed, the injector, the key and a count.

A random generator would give its numbers to whoever comes first, so that threads and tasks
would have to meet it in the same order each time. A hash asks nobody: the third call of a
key has its verdict before it is made. Python's own `hash` differs between processes.
"""

from __future__ import annotations

import enum
import hashlib
import uuid
from collections.abc import Iterable
from datetime import date
from typing import Final

# What a float between 0 and 1 holds without rounding up to 1.
_BITS: Final = 53


def draw(*parts: bytes) -> float:
    """Return the number from 0 to less than 1 that belongs to `parts`."""
    digest = hashlib.blake2b(_joined(parts), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _BITS)) / (1 << _BITS)


def _joined(parts: Iterable[bytes]) -> bytes:
    """Join parts so that no two lists of parts look the same."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def encoded(key: object) -> bytes:
    """Return the bytes that stand for `key`, the same in every process.

    Raises:
        TypeError: Nothing says how to write such a key down.
    """
    found = _plain(key)
    if found is None:
        raise TypeError(
            f"a key must be a string, a number, bytes, an enum, a UUID, a date, or a tuple or "
            f"frozenset of those, to have the same faults in every process; not "
            f"{type(key).__name__}: let key=... return str(...) of what names it"
        )
    return _tag(key) + found


def _plain(key: object) -> bytes | None:
    match key:
        case enum.Enum():
            return f"{type(key).__qualname__}.{key.name}".encode()
        case bytes():
            return bytes(key)
        case None | bool() | int() | float():
            return repr(key).encode()
        case str():
            return key.encode("utf-8", "surrogatepass")
        case uuid.UUID() | date():
            return str(key).encode()
        case tuple():
            return _joined(map(encoded, key))
        case frozenset():
            return _joined(sorted(map(encoded, key)))
    return None


def _tag(key: object) -> bytes:
    """Tell `1` from `"1"`, but not a named tuple from a tuple."""
    for kind in (enum.Enum, bool, int, float, str, bytes, tuple, frozenset):
        if isinstance(key, kind):
            return kind.__name__.encode() + b":"
    return type(key).__name__.encode() + b":"
