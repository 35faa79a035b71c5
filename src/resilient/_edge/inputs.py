"""A WSGI request's body, kept while it is read, so that a further run can read it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Kept:
    """What has been read of one request's body, up to a limit.

    Args:
        source: The server's `wsgi.input`.
        limit: How many bytes are kept.
        forget: Called when there are more.
    """

    def __init__(self, source: Any, limit: int, forget: Callable[[], object]) -> None:
        self.source = source
        self.data = bytearray()
        self._limit = limit
        self._forget = forget
        self._forgotten = False

    def keep(self, data: bytes) -> None:
        """Remember what has just been read from the source."""
        if self._forgotten:
            return
        if len(self.data) + len(data) > self._limit:
            self._forgotten = True
            self._forget()
        else:
            self.data += data


class Input:
    """The `wsgi.input` of one run: first what earlier runs have read, then the rest."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; all of them if it is negative."""
        size = -1 if size is None else size
        known = self._known(size)
        if 0 <= size <= len(known):
            return known
        return known + self._fresh(self._kept.source.read(size - len(known) if size > 0 else -1))

    def readline(self, size: int = -1) -> bytes:
        """Read up to the next end of line, and at most `size` bytes."""
        size = -1 if size is None else size
        known = self._known(size, line=True)
        if known.endswith(b"\n") or 0 <= size <= len(known):
            return known
        left = size - len(known)
        more = self._kept.source.readline(left) if size > 0 else self._kept.source.readline()
        return known + self._fresh(more)

    def readlines(self, hint: int = -1) -> list[bytes]:
        """Read all lines, or those of about `hint` bytes."""
        lines: list[bytes] = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if 0 < (hint or 0) <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def _known(self, size: int, *, line: bool = False) -> bytes:
        """What comes next of the bytes that have been read before."""
        start, data = self._position, self._kept.data
        end = len(data) if size < 0 else min(len(data), start + size)
        if line:
            found = data.find(b"\n", start, end)
            end = end if found < 0 else found + 1
        self._position = max(start, end)
        return bytes(data[start:end])

    def _fresh(self, data: bytes) -> bytes:
        self._kept.keep(data)
        self._position += len(data)
        return data
