"""Retry around generators of both colours: until the first item, and then no more."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from resilient import CircuitBreaker, Pipeline, Retry, RetryBudget, attempt_number, constant
from resilient._runtime.streams import arelay, astart, relay, start

NONE = constant(0)


def test_what_fails_before_the_first_item_is_tried_again(mode, clock):
    """The consumer sees one stream."""
    before, seen = clock.now(), []

    def rows():
        seen.append(attempt_number())
        if len(seen) < 3:
            raise OSError("x")
        yield from (1, 2, 3)

    protected = mode.stream(Retry(on=OSError, backoff=constant(2)), rows)
    assert mode.drain(protected) == [1, 2, 3]
    assert seen == [1, 2, 3]
    assert clock.now() - before == pytest.approx(4)


def test_what_fails_after_it_comes_out_and_nothing_is_yielded_twice(mode):
    """The error is the real one."""
    items, calls = [], []

    def rows():
        calls.append(1)
        yield 1
        yield 2
        raise OSError("late")

    protected = mode.stream(Retry(on=OSError, backoff=NONE), rows)

    def drain():
        if not mode.is_async:
            items.extend(protected())
            return

        async def main():
            async for item in protected():
                items.append(item)  # noqa: PERF401 - those before the error are kept

        mode.run(main)

    with pytest.raises(OSError, match="late") as caught:
        drain()
    assert (items, calls) == ([1, 2], [1])
    assert not hasattr(caught.value, "__notes__")


def test_an_empty_stream_is_a_success(mode):
    """It ended well before its first item."""
    budget = RetryBudget(ratio=1, capacity=2)
    budget.withdraw()

    def rows():
        return
        yield

    assert mode.drain(mode.stream(Retry(on=OSError, budget=budget), rows)) == []
    assert budget.tokens == 2


def test_the_steps_of_a_stream_belong_to_the_attempt_that_gave_the_first_item(mode):
    """The consumer's code between them does not."""
    inside, outside = [], []

    def rows():
        if attempt_number() == 1:
            raise OSError("x")
        for number in range(3):
            inside.append(attempt_number())
            yield number

    protected = mode.stream(Retry(on=OSError, backoff=NONE), rows)
    if mode.is_async:

        async def main():
            outside.extend([attempt_number() async for _ in protected()])

        mode.run(main)
    else:
        outside.extend(attempt_number() for _ in protected())
    assert (inside, outside) == ([2, 2, 2], [1, 1, 1])


def test_an_unstarted_generator_never_runs_anything():
    """Neither its body nor its `finally`."""
    seen = []

    @Retry(on=OSError)
    def rows():
        try:
            seen.append("body")
            yield 1
        finally:
            seen.append("finally")

    generator = rows()
    generator.close()
    del generator
    assert seen == []


def test_send_throw_close_and_return_values_work():
    """As `yield from` would have them."""
    seen = []

    @Pipeline(Retry(on=OSError, backoff=NONE), CircuitBreaker("b"))
    def rows():
        try:
            got = yield "first"
            seen.append(got)
            try:
                yield "second"
            except ValueError as error:
                seen.append(error)
                yield "third"
            return "the end"
        finally:
            seen.append("closed")

    generator = rows()
    assert next(generator) == "first"
    assert generator.send(5) == "second"
    error = ValueError("thrown")
    assert generator.throw(error) == "third"
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == "the end"
    assert seen == [5, error, "closed"]

    seen.clear()
    generator = rows()
    next(generator)
    generator.close()
    assert seen == ["closed"]
    with pytest.raises(StopIteration):
        next(generator)


def test_the_return_value_comes_through_yield_from():
    """Of a generator that yields nothing as well."""

    @Retry(on=OSError)
    def inner(items):
        yield from items
        return len(items)

    def outer(items):
        return (yield from inner(items))

    def result(items):
        generator = outer(items)
        while True:
            try:
                next(generator)
            except StopIteration as stop:
                return stop.value

    assert result([1, 2]) == 2
    assert result([]) == 0


def test_asend_athrow_and_aclose_work():
    """The asynchronous forms of the same."""
    seen = []

    @Pipeline(Retry(on=OSError, backoff=NONE), CircuitBreaker("b"))
    async def rows():
        try:
            got = yield "first"
            seen.append(got)
            try:
                yield "second"
            except ValueError as error:
                seen.append(error)
                yield "third"
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main():
        generator = rows()
        assert await anext(generator) == "first"
        assert await generator.asend(5) == "second"
        error = ValueError("thrown")
        assert await generator.athrow(error) == "third"
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert seen == [5, error, "closed"]
        seen.clear()
        generator = rows()
        await anext(generator)
        await generator.aclose()
        assert seen == ["closed"]

    asyncio.run(main())


def test_an_error_thrown_in_comes_out_as_it_is_and_leaves_no_cycle():
    """The frames that passed it on do not hold it."""

    class Thrown(Exception):
        pass

    @Pipeline(Retry(on=OSError, backoff=NONE), CircuitBreaker("b"))
    def rows():
        yield 1
        yield 2

    def use(references):
        generator = rows()
        next(generator)
        error = Thrown()
        references.append(weakref.ref(error))
        try:
            generator.throw(error)
        except Thrown as caught:
            found.append((caught is error, caught.__context__))
        finally:
            del error

    references, found = [], []
    gc.collect()
    gc.disable()
    try:
        use(references)
        assert found == [(True, None)]
        assert references[0]() is None
    finally:
        gc.enable()


def test_what_is_inside_is_closed_with_the_stream_and_not_when_it_is_collected():
    """Somebody else may still hold it."""
    seen = []

    def rows():
        try:
            yield 1
        finally:
            seen.append("closed")

    held = rows()
    outer = relay(lambda: start(held))
    next(outer)
    outer.close()
    assert seen == ["closed"]

    async def arows():
        try:
            yield 1
        finally:
            seen.append("aclosed")

    async def main():
        held = arows()
        outer = arelay(lambda: astart(held))
        await anext(outer)
        await outer.aclose()
        assert seen == ["closed", "aclosed"]

    asyncio.run(main())


def test_on_result_on_a_generator_is_refused():
    """At decoration, for both colours."""

    def rows():
        yield 1

    async def arows():
        yield 1

    for policy in (Retry(on_result=bool), CircuitBreaker(on_result=bool)):
        for fn in (rows, arows):
            with pytest.raises(TypeError, match="on_result cannot judge a generator"):
                policy(fn)


def test_interrupts_in_a_stream_pass():
    """Before the first item as after it."""

    @Retry(on=lambda error: True, backoff=NONE)
    def rows(first):
        if first:
            raise KeyboardInterrupt
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(rows(True))
    generator = rows(False)
    next(generator)
    with pytest.raises(KeyboardInterrupt):
        next(generator)
    assert attempt_number() == 1
