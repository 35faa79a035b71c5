"""`with once():` — calls that must not be made a second time."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType


class _Block:
    """One `with once():`. Marked when it ends, so that tasks started inside do not keep it."""

    __slots__ = ("_entered", "ended", "parent")

    def __init__(self) -> None:
        self.ended = False
        self.parent: _Block | None = None
        self._entered = False

    def __enter__(self) -> None:
        if self._entered:
            # A second use would be marked as ended, and protect nothing.
            raise RuntimeError("once() serves one block: call it for each")
        self._entered = True
        self.parent = _innermost()
        _current.set(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended = True
        if _current.get() is self:
            _current.set(self.parent)


_current: ContextVar[_Block | None] = ContextVar("resilient.once", default=None)


def once() -> _Block:
    """Return a block inside which no protected call is made twice.

    No retry, no hedge, and no failover of a call that was made. Use it around what must
    not be repeated, such as a payment without an idempotency key::

        with once():
            charge(card)
    """
    return _Block()


def is_once() -> bool:
    """Whether the running code is inside a `with once():` that has not ended."""
    return _innermost() is not None


def _innermost() -> _Block | None:
    block = _current.get()
    while block is not None and block.ended:
        block = block.parent
    return block
