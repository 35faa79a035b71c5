"""Rendezvous hashing: which of several owners a key belongs to, the same in every process.

Each owner draws a number from the key and its own name; the highest owns the key. So an
owner that goes away gives up its own keys alone, and no other key moves. See Thaler and
Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996; the weights are those of
Schindelhauer and Schomaker, 2005.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any
from uuid import UUID

_SPACE = float(1 << 64)


def encode(key: Any) -> bytes:
    """Return `key` as bytes: equal for equal keys, and never for different ones.

    Raises:
        TypeError: A key of another type, whose hash might differ from process to process.
    """
    match key:
        case None:
            return b"n"
        case str():
            return b"s" + str.encode(key, "utf-8", "surrogatepass")
        case bytes():
            return b"b" + key
        case int():  # True is 1, as it is in Python
            return b"i%d" % key
        case float():
            return b"i%d" % int(key) if key.is_integer() else b"f" + float.hex(key).encode()
        case UUID():
            return b"u" + key.bytes
        case tuple():
            parts = [encode(part) for part in key]
            return b"t" + b"".join(b"%d:%b" % (len(part), part) for part in parts)
    raise TypeError(
        "a key must be a str, int, float, bytes, UUID, None or a tuple of these, "
        f"not {type(key).__name__}"
    )


def owner(key: bytes, owners: Iterable[tuple[str, float]]) -> str:
    """Return the name of the owner of `key` among `owners`, names with their weights."""
    return max(owners, key=lambda one: (_score(key, *one), one[0]))[0]


def _score(key: bytes, name: str, weight: float) -> float:
    digest = blake2b(key, digest_size=8, key=blake2b(name.encode(), digest_size=32).digest())
    draw = (int.from_bytes(digest.digest(), "big") + 0.5) / _SPACE
    return -weight / math.log(draw)
