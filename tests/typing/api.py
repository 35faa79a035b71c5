"""Never run: mypy --strict and pyright read it, and must see the exact types."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, assert_type

from resilient import (
    CircuitBreaker,
    CircuitState,
    Fallback,
    PerKey,
    Pipeline,
    Retry,
    asynchronous,
    pipeline_of,
    remaining,
)
from resilient.events import CircuitStateChanged

retry = Retry(on=OSError)
breaker = CircuitBreaker("db")
pipeline = Pipeline(retry, breaker, name="db")


@retry
def load(path: str, *, limit: int = 3) -> bytes:
    return path.encode()[:limit]


@pipeline
async def fetch(url: str) -> bytes:
    return url.encode()


@retry
@breaker
def stacked(path: str) -> int:
    return len(path)


@retry
def items(count: int) -> Iterator[int]:
    yield from range(count)


@breaker
async def aitems(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


class Client:
    @retry
    def get(self, key: str) -> int:
        return len(key)

    @pipeline
    async def aget(self, key: str) -> int:
        return len(key)

    @retry
    @classmethod
    def make(cls, name: str) -> Client:
        return cls()

    @staticmethod
    @retry
    def parse(text: str) -> float:
        return float(text)


assert_type(load("a", limit=1), bytes)
assert_type(stacked("a"), int)
assert_type(Client().get("k"), int)
assert_type(Client.parse("1"), float)
assert_type(retry.call(load, "a", limit=2), bytes)
for item in items(3):
    assert_type(item, int)

fallback = Fallback(0)
wide = Fallback("none")


@fallback
def same(path: str) -> int:
    return len(path)


@wide
def widened(path: str) -> int:
    return len(path)


@wide
async def awidened(path: str) -> int:
    return len(path)


@Pipeline(wide, retry)
def in_pipeline(path: str) -> int:
    return len(path)


assert_type(same("a"), int)
assert_type(widened("a"), int | str)
assert_type(in_pipeline("a"), int | str)
assert_type(wide.call(load, "a"), bytes | str)

per_host = PerKey(lambda host: CircuitBreaker(), key=lambda host: host)


@per_host
def visit(host: str) -> int:
    return 1


assert_type(visit("a"), int)
marked: Callable[[str], Any] = asynchronous(lambda url: fetch(url))


async def main() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await Client().aget("k"), int)
    assert_type(await awidened("a"), int | str)
    assert_type(await pipeline.acall(fetch, "u"), bytes)
    async for number in aitems(3):
        assert_type(number, int)
    async for attempt in retry:
        with attempt as call:
            call.set_result(1)


load("a", wrong=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
load(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Retry(on="OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(pipeline_of(load).name, str)
assert_type(remaining(), float | None)
assert_type(remaining(3), float)


@Fallback(value=None)
def named(path: str) -> int:
    return len(path)


assert_type(named("a"), int | None)


def went(event: CircuitStateChanged) -> bool:
    assert_type(event.new, CircuitState)
    return event.new is CircuitState.OPEN
