"""What a decorated callable still is, and what cannot be decorated."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import types
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unittest import mock

import pytest

from resilient import (
    CircuitBreaker,
    Fallback,
    Pipeline,
    Policy,
    Retry,
    asynchronous,
    pipeline_of,
)

policy = Retry(on=OSError, backoff=[0, 0])


@policy
def double(number: int, /, *, extra: int = 0) -> int:
    """Twice the number."""
    return 2 * number + extra


@policy
async def adouble(number: int) -> int:
    return 2 * number


@policy
def count(to: int):
    yield from range(to)


@policy
async def acount(to: int):
    for number in range(to):
        yield number


class Service:
    """A class whose methods are protected in every way there is."""

    base = 10

    @policy
    def plain(self, number: int) -> int:
        return self.base + number

    @policy
    async def coroutine(self, number: int) -> int:
        return self.base + number

    @policy
    @classmethod
    def above_class(cls, number: int) -> int:
        return cls.base + number

    @classmethod
    @policy
    def below_class(cls, number: int) -> int:
        return cls.base + number

    @policy
    @staticmethod
    def above_static(number: int) -> int:
        return number

    @staticmethod
    @policy
    def below_static(number: int) -> int:
        return number


class Adder:
    """A callable object."""

    def __call__(self, number: int) -> int:
        return number + 1


class AsyncAdder:
    """A callable object whose call is a coroutine."""

    async def __call__(self, number: int) -> int:
        return number + 1


def test_the_signature_name_docstring_and_annotations_stay():
    """A decorated function looks like the one it protects."""
    assert str(inspect.signature(double)) == "(number: 'int', /, *, extra: 'int' = 0) -> 'int'"
    assert double.__name__ == "double"
    assert double.__qualname__ == "double"
    assert double.__doc__ == "Twice the number."
    assert double.__module__ == __name__
    assert double.__annotations__ == {"number": "int", "extra": "int", "return": "int"}
    assert isinstance(double, types.FunctionType)


def test_the_kind_stays():
    """`inspect` sees the kind of the original."""
    assert inspect.iscoroutinefunction(adouble)
    assert inspect.isgeneratorfunction(count)
    assert inspect.isasyncgenfunction(acount)
    assert not inspect.iscoroutinefunction(double)
    assert not inspect.isgeneratorfunction(double)


def test_all_kinds_work():
    """Each kind of callable gives what it gave before."""

    async def items() -> list[int]:
        return [item async for item in acount(3)]

    assert double(3, extra=1) == 7
    assert asyncio.run(adouble(3)) == 6
    assert list(count(3)) == [0, 1, 2]
    assert asyncio.run(items()) == [0, 1, 2]


def test_methods_bind():
    """Methods get their instance or class, whichever side the other decorator stands."""
    service = Service()
    assert service.plain(1) == 11
    assert Service.plain(service, 1) == 11
    assert asyncio.run(service.coroutine(1)) == 11
    assert service.above_class(1) == Service.above_class(1) == 11
    assert service.below_class(1) == Service.below_class(1) == 11
    assert service.above_static(1) == Service.above_static(1) == 1
    assert service.below_static(1) == Service.below_static(1) == 1
    assert service.plain.__self__ is service


def test_partials_and_callable_objects():
    """Partials and objects with `__call__` are protected by the kind of what they call."""
    assert policy(functools.partial(int, base=2))("11") == 3
    assert policy(Adder())(1) == 2
    awaited = policy(AsyncAdder())
    assert inspect.iscoroutinefunction(awaited)
    assert asyncio.run(awaited(1)) == 2
    part = policy(functools.partial(AsyncAdder(), 1))
    assert asyncio.run(part()) == 2
    assert asyncio.run(policy(mock.AsyncMock(return_value=3))()) == 3
    assert policy(len)("four") == 4


def test_pickle_and_copy_are_the_functions():
    """A decorated function pickles by its qualified name and copies as itself."""
    assert pickle.loads(pickle.dumps(double)) is double
    assert copy.copy(double) is double
    assert copy.deepcopy([double])[0] is double
    bound = pickle.loads(pickle.dumps(Service().plain))
    assert bound(1) == 11
    assert pickle.loads(pickle.dumps(Service.above_class))(1) == 11


def test_what_has_no_name_does_not_pickle():
    """An object without a qualified name says why it cannot be pickled."""
    with pytest.raises(TypeError, match="no qualified name"):
        pickle.dumps(policy(Adder()))


def test_a_process_pool_can_call_it():
    """Another process finds the function by its name."""
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        assert pool.submit(double, 4).result() == 8


def test_stacked_decorators_are_one_pipeline():
    """`@a` over `@b` is `Pipeline(a, b)`, with the same names."""
    outer, inner = Retry(on=OSError), CircuitBreaker()

    @outer
    @inner
    def stacked() -> str:
        return "done"

    assert stacked() == "done"
    assert pipeline_of(stacked).policies == (outer, inner)
    name = f"{stacked.__qualname__}"
    assert (outer.name, inner.name) == (f"{name}.retry", f"{name}.circuit_breaker")
    assert pipeline_of(stacked).name == name


def test_a_stack_does_not_nest_proxies():
    """Five decorators make one wrapper around the original."""

    def fn() -> int:
        return 1

    wrapped = fn
    for _ in range(5):
        wrapped = CircuitBreaker()(wrapped)
    assert wrapped.__wrapped__.__wrapped__ is fn
    assert len(pipeline_of(wrapped).policies) == 5


def test_pipeline_of_gives_the_pipeline_itself():
    """The pipeline that decorated is the one that is found, also through a method."""
    pipeline = Pipeline(Retry(on=OSError), name="one")

    class Thing:
        @pipeline
        def method(self) -> int:
            return 1

    assert pipeline_of(Thing.method) is pipeline
    assert pipeline_of(Thing().method) is pipeline
    with pytest.raises(TypeError, match="not protected"):
        pipeline_of(len)


def test_names_come_from_the_pipeline_and_the_kind():
    """Unnamed policies are numbered by kind from the outside in; the first use stays."""
    first, second, named = CircuitBreaker(), CircuitBreaker(), CircuitBreaker("mine")
    pipeline = Pipeline(first, second, named, name="pay")

    @pipeline
    def fn() -> None: ...

    assert first.name == "pay.circuit_breaker"
    assert second.name == "pay.circuit_breaker-2"
    assert named.name == "mine"

    @first
    def other() -> None: ...

    assert first.name == "pay.circuit_breaker"


def test_a_policy_alone_goes_by_the_function():
    """A lone policy takes the decorated function's qualified name, or its first call's."""
    alone, called = CircuitBreaker(), CircuitBreaker()

    @alone
    def fn() -> None: ...

    assert alone.name == fn.__qualname__
    called.call(len, "x")
    assert called.name == "len"
    assert CircuitBreaker().name == "circuit_breaker"


def test_a_nested_pipeline_names_its_own():
    """A named pipeline inside another names its policies after itself."""
    breaker, retry = CircuitBreaker(), Retry(on=OSError)
    outer = Pipeline(retry, Pipeline(breaker, name="inner"), name="outer")

    @outer
    def fn() -> int:
        return 1

    assert fn() == 1
    assert (retry.name, breaker.name) == ("outer.retry", "inner.circuit_breaker")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (Service, "class Service"),
        (CircuitBreaker(), "is a policy: write Pipeline"),
        (3, "decorates callables, not int"),
        (property(lambda self: 1), "decorates callables, not property"),
    ],
)
def test_what_cannot_be_decorated(what: object, text: str):
    """A class, a policy and what cannot be called are refused at decoration."""
    with pytest.raises(TypeError, match=text):
        policy(what)


@pytest.mark.parametrize("cls", [Retry, CircuitBreaker])
def test_a_forgotten_call_is_explained(cls: type[Policy]):
    """`@Retry` without its call says what was meant."""
    with pytest.raises(TypeError, match=f"did you mean `@{cls.__name__}"):

        @cls
        def fn() -> None: ...


@pytest.mark.parametrize("decorate", [policy, policy.call])
def test_an_unmarked_awaitable_is_refused(decorate):
    """A plain callable that returns a coroutine is never passed through."""
    calls = []

    async def inner() -> None: ...

    def plain():
        calls.append(1)
        return inner()

    with pytest.raises(TypeError, match="awaitable"):
        decorate(plain) if decorate == policy.call else decorate(plain)()
    assert calls == [1]


def test_an_unmarked_awaitable_is_nobodys_failure():
    """The misuse is told to the caller, not counted, retried or replaced."""
    breaker = CircuitBreaker()

    @Pipeline(Fallback(0), Retry(on=TypeError), breaker)
    def plain():
        return asynchronous(lambda: None)

    async def inner() -> None: ...

    @Pipeline(Fallback(0), Retry(on=TypeError), breaker)
    def wrong():
        return inner()

    plain()
    with pytest.raises(TypeError, match=r"asynchronous\("):
        wrong()
    assert breaker.snapshot().failures == 0


def test_asynchronous_marks_a_callable():
    """A marked callable is protected like a coroutine function."""

    async def inner(number: int) -> int:
        return number

    marked = policy(asynchronous(lambda number: inner(number)))
    assert inspect.iscoroutinefunction(marked)
    assert asyncio.run(marked(3)) == 3
    with pytest.raises(TypeError, match="marks a callable"):
        asynchronous(3)  # type: ignore[arg-type]


def test_call_and_acall_refuse_the_other_colour():
    """One-off calls say which of the two to write."""

    async def coroutine() -> int:
        return 1

    async def generator():
        yield 1

    with pytest.raises(TypeError, match="await policy.acall"):
        policy.call(coroutine)
    with pytest.raises(TypeError, match="decorate it"):
        policy.call(generator)
    with pytest.raises(TypeError, match="decorate it"):
        asyncio.run(policy.acall(generator))
    with pytest.raises(TypeError, match=r"policy\.call"):
        asyncio.run(policy.acall(lambda: 3))


def test_call_protects_a_generator_function():
    """`call` with a generator function gives a protected generator."""
    tries = []

    def flaky():
        tries.append(1)
        if len(tries) < 3:
            raise OSError
        yield "item"

    assert list(policy.call(flaky)) == ["item"]
    assert len(tries) == 3


def test_call_keeps_no_function():
    """`call` and `acall` forget the functions they were given."""
    import gc
    import weakref

    def make():
        def fn() -> int:
            return 1

        return fn

    fn = make()
    policy.call(fn)
    reference = weakref.ref(fn)
    del fn
    gc.collect()
    assert reference() is None


def test_a_users_own_policy():
    """A class that derives from `Policy` stands in a pipeline like any other."""
    seen = []

    class Logged(Policy):
        kind = "logged"

        def wrap(self, inner):
            def logged(args, kwargs, call):
                seen.append((call.function, args))
                return inner(args, kwargs, call)

            return logged

    logged = Logged()

    @Pipeline(Retry(on=OSError), logged)
    def fn(number: int) -> int:
        return number

    assert fn(3) == 3
    assert seen == [(fn.__qualname__, (3,))]
    assert logged.snapshot().kind == "logged"
    with pytest.raises(TypeError, match="logged policy cannot protect a coroutine function"):

        @logged
        async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="an asynchronous generator function"):
        logged(acount.__wrapped__.__wrapped__)
    with pytest.raises(TypeError, match="a generator function"):
        logged(count.__wrapped__.__wrapped__)


@pytest.mark.parametrize("name", [3, ""])
def test_a_bad_name_is_refused(name: object):
    """A policy's name is a string with something in it."""
    with pytest.raises((TypeError, ValueError), match="name must"):
        Retry(on=OSError, name=name)  # type: ignore[arg-type]


def test_async_generators_send_throw_and_close():
    """What goes into a protected asynchronous generator reaches the original."""
    seen = []

    @CircuitBreaker()
    async def echo():
        try:
            while True:
                try:
                    seen.append((yield len(seen)))
                except KeyError as error:
                    seen.append(error)
        finally:
            seen.append("closed")

    async def main() -> None:
        generator = echo()
        assert await anext(generator) == 0
        assert await generator.asend("a") == 1
        error = KeyError()
        assert await generator.athrow(error) == 2
        await generator.aclose()
        assert seen == ["a", error, "closed"]

    asyncio.run(main())


def test_the_representation_names_the_function():
    """And shows nothing of what a partial binds."""
    assert repr(Retry(on=OSError)(functools.partial(len, "secret"))) == "<Protected len>"
