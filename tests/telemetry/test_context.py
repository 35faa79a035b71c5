"""The context across generators, tasks and threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from resilient import CircuitBreaker, Pipeline, telemetry
from resilient.timeout import Timeout

from .conftest import Spans
from .subjects import failing, retry


def current() -> Any:
    return trace.get_current_span().get_span_context().span_id


def test_a_generators_span_is_not_its_consumers(spans: Spans) -> None:
    """The span is current in the generator's steps, its cleanup too, never between them."""

    @Pipeline(retry(), name="p")
    def items() -> Iterator[int]:
        try:
            seen.append(current())
            yield 1
            seen.append(current())
            yield 2
        finally:
            seen.append(current())

    seen: list[int] = []
    with spans.tracer.start_as_current_span("consumer") as consumer:
        before = otel.get_current()
        for _ in items():
            assert trace.get_current_span() is consumer
            assert otel.get_current() is before
    assert set(seen) == {spans.one("resilient.call p").context.span_id}
    assert len(seen) == 3


def test_a_consumer_that_closes_a_generator_is_no_error(spans: Spans) -> None:
    """Closed before its end, a generator ends its span without an error."""

    @Pipeline(retry(), name="p")
    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            seen.append(current())

    seen: list[int] = []
    for _ in items():
        break
    generator = items()
    next(generator)
    generator.close()
    for span in spans.all("resilient.call p"):
        assert span.status.status_code is StatusCode.UNSET
        assert (span.attributes or {})["resilient.outcome"] == "success"
        assert span.context.span_id in seen


def test_a_generator_that_never_started_has_no_span(spans: Spans) -> None:
    """Nothing is told of a generator that was made and thrown away."""

    @retry()
    def items() -> Iterator[int]:
        yield 1

    items().close()
    assert spans.names() == []


def test_what_is_sent_and_thrown_arrives(spans: Spans) -> None:
    """An observed generator takes values and errors, and returns its value."""

    @Pipeline(CircuitBreaker(), retry(), name="p")
    def echo() -> Iterator[Any]:
        got = yield "start"
        try:
            yield got
        except KeyError:
            return (yield "caught")

    generator: Any = echo()
    assert next(generator) == "start"
    assert generator.send("sent") == "sent"
    assert generator.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        generator.send("end")
    assert stop.value.value == "end"
    assert (spans.one("resilient.call p").attributes or {})["resilient.outcome"] == "success"


@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_an_async_generators_span_is_not_its_consumers(spans: Spans, run: Any) -> None:
    """The same holds for asynchronous generators, whose closing is a step too."""

    @Pipeline(retry(), name="p")
    async def items() -> AsyncIterator[int]:
        try:
            got: Any = yield current()
            yield got
        except KeyError:
            yield current()
        finally:
            seen.append(current())

    async def main() -> None:
        with spans.tracer.start_as_current_span("consumer") as consumer:
            generator: Any = items()
            seen.append(await anext(generator))
            assert trace.get_current_span() is consumer
            assert await generator.asend("sent") == "sent"
            seen.append(await generator.athrow(KeyError()))
            assert trace.get_current_span() is consumer
            await generator.aclose()

    seen: list[int] = []

    run(main) if run is trio.run else run(main())
    call = spans.one("resilient.call p")
    assert seen == [call.context.span_id] * 3
    assert call.status.status_code is StatusCode.UNSET


def test_steps_in_several_tasks(spans: Spans) -> None:
    """A generator whose steps run in different tasks attaches and detaches in each."""
    telemetry.configure(spans="attempts")

    @Pipeline(retry(), name="p")
    async def items() -> AsyncIterator[int]:
        fail()
        yield current()
        yield current()

    async def main() -> list[int]:
        generator: Any = items()
        found = [await asyncio.create_task(anext(generator)) for _ in range(2)]
        await asyncio.create_task(generator.aclose())
        return found

    fail = failing(1)
    first, second = asyncio.run(main())
    attempt = spans.all("resilient.attempt p")[-1].context.span_id
    call = spans.one("resilient.call p").context.span_id
    assert first in (attempt, call)
    assert second == call


def test_tasks_and_threads_see_their_own_calls(spans: Spans) -> None:
    """Calls that run at once do not see each other's spans."""

    @Pipeline(retry(), name="p")
    async def fetch(number: int) -> tuple[int, int]:
        before = current()
        await asyncio.sleep(0)
        if number not in failed:
            failed.add(number)
            raise ConnectionError
        return before, current()

    async def main() -> list[tuple[int, int]]:
        return await asyncio.gather(*(fetch(number) for number in range(20)))

    failed: set[int] = set()
    found = asyncio.run(main())
    assert all(before == after for before, after in found)
    assert len({before for before, _ in found}) == 20

    threads = [threading.Thread(target=lambda: retry()(failing(1))()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans.names()) == 40 + 16


def test_a_call_that_is_left_in_another_context(spans: Spans) -> None:
    """A coroutine that is destroyed elsewhere ends its spans, and touches no other context."""

    class Forever:
        def __await__(self) -> Iterator[None]:
            yield

    @Pipeline(retry(), name="p")
    async def fetch() -> None:
        fail()
        await Forever()

    fail = failing(1)
    coroutine: Any = fetch()
    contextvars.copy_context().run(coroutine.send, None)
    before = otel.get_current()
    coroutine.close()
    assert otel.get_current() is before
    assert spans.names() == ["resilient.call p", "resilient.attempt p"]
    for span in spans:
        assert (span.attributes or {})["resilient.outcome"] == "cancelled"


def test_an_attempt_that_ends_in_a_copy_of_its_context(spans: Spans) -> None:
    """A first attempt ended by a worker leaves the worker's copy of the context as well."""
    telemetry.configure(spans="attempts")

    def fetch() -> None:
        seen.append(current())
        fail()

    fail, seen = failing(1), []
    Pipeline(Timeout(30, sync="thread"), retry(), name="p")(fetch)()
    first, second = spans.all("resilient.attempt p")
    assert seen == [first.context.span_id, second.context.span_id]
    call = spans.one("resilient.call p").context.span_id
    assert {first.parent and first.parent.span_id, second.parent and second.parent.span_id} == {
        call
    }
