"""Functions to protect, and ways to run them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilient import Retry


def retry(on: type[Exception] = ConnectionError, **options: Any) -> Retry:
    """A retry that does not wait."""
    return Retry(on=on, backoff=[0] * 10, budget=None, **options)


def failing(times: int, error: type[BaseException] = ConnectionError) -> Callable[..., str]:
    """A function that fails so many times, then returns."""
    left = [times]

    def fetch(*args: Any) -> str:
        if left[0]:
            left[0] -= 1
            raise error("secret-message")
        return "secret-result"

    return fetch


class Mode:
    """Decorates and calls a plain function in one of the four kinds of callable."""

    def __init__(self, name: str) -> None:
        self.name = name

    def protect(self, policy: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return a plain function that runs `fn`, in the mode's kind, under `policy`."""
        protected = policy(getattr(self, "_" + self.name)(fn))

        async def consume(*args: Any) -> Any:
            return [item async for item in protected(*args)]

        return {
            "sync": protected,
            "asynchronous": lambda *args: asyncio.run(protected(*args)),
            "generator": lambda *args: list(protected(*args)),
            "agenerator": lambda *args: asyncio.run(consume(*args)),
        }[self.name]

    def _sync(self, fn: Callable[..., Any]) -> Any:
        return fn

    def _asynchronous(self, fn: Callable[..., Any]) -> Any:
        async def fetch(*args: Any) -> Any:
            await asyncio.sleep(0)
            return fn(*args)

        return fetch

    def _generator(self, fn: Callable[..., Any]) -> Any:
        def fetch(*args: Any) -> Any:
            yield fn(*args)

        return fetch

    def _agenerator(self, fn: Callable[..., Any]) -> Any:
        async def fetch(*args: Any) -> Any:
            await asyncio.sleep(0)
            yield fn(*args)

        return fetch


modes = pytest.mark.parametrize(
    "mode", [Mode(n) for n in ("sync", "asynchronous", "generator", "agenerator")],
    ids=lambda mode: mode.name,
)  # fmt: skip
