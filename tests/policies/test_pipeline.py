"""Pipelines: order, nesting, the standard one, and the warnings about wrong orders."""

from __future__ import annotations

import warnings

import pytest

from resilient import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    CompositionWarning,
    Fallback,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    pipeline_of,
    policies,
    remaining,
)


class Marks(Policy):
    """Writes down when it is entered and left."""

    kind = "marks"

    def __init__(self, mark: str, seen: list[str]) -> None:
        super().__init__()
        self.mark = mark
        self.seen = seen

    def wrap(self, inner):
        def marks(args, kwargs, call):
            self.seen.append(self.mark)
            result = inner(args, kwargs, call)
            self.seen.append(self.mark.upper())
            return result

        return marks


def test_the_first_policy_is_outermost():
    """Policies are entered from left to right; a nested pipeline stands where it is put."""
    seen: list[str] = []
    a, b, c = (Marks(mark, seen) for mark in "abc")

    @Pipeline(a, Pipeline(b), c)
    def fn():
        seen.append("fn")

    fn()
    assert seen == ["a", "b", "c", "fn", "C", "B", "A"]


def test_a_pipeline_is_a_policy(mode):
    """It decorates, calls, and shows the state of what is in it."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(Retry(on=OSError), breaker, name="db")
    assert mode.call(mode.function(pipeline, lambda x: x), 3) == 3
    snapshot = pipeline.snapshot()
    assert (snapshot.name, snapshot.kind) == ("db", "pipeline")
    assert [one.kind for one in snapshot.policies] == ["retry", "circuit_breaker"]
    assert pipeline in policies()
    assert pipeline.call(len, "abc") == 3
    assert repr(pipeline) == "<Pipeline db>"


def test_streams_go_through_every_policy(mode):
    """Generators are protected by pipelines as functions are."""

    def items():
        yield 1
        yield 2

    protected = mode.stream(Pipeline(Retry(on=OSError), CircuitBreaker()), items)
    assert mode.drain(protected) == [1, 2]


def test_the_wrap_methods_compose():
    """Called by hand, the methods of a pipeline nest its policies in order."""
    pipeline = Pipeline(Retry(on=OSError), CircuitBreaker())
    for method in ("wrap", "awrap", "wrap_stream", "awrap_stream"):
        assert callable(getattr(pipeline, method)(lambda args, kwargs, call: None))


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ((), "at least one policy"),
        ((3,), "made of policies, not 3"),
        ((Retry,), "call the class first"),
        (([Bulkhead(1)],), r"write Pipeline\(\*policies\)"),
        ((len,), r"did you mean `@Pipeline\(Timeout\(5\), ...\)`"),
    ],
)
def test_what_is_no_pipeline(what, text):
    """A pipeline is made of one or more policies."""
    with pytest.raises(TypeError, match=text):
        Pipeline(*what)


retry = Retry(on=OSError)
everything = Retry(on=Exception)
breaker = CircuitBreaker()
timeout = Timeout(1)

WRONG = [
    ((retry, Fallback(0)), "fallback inside a retry"),
    ((breaker, Fallback(0)), "fallback inside a circuit_breaker"),
    ((retry, Retry(on=OSError)), "retry inside a retry"),
    ((Timeout(1), Timeout(1)), "no shorter than the outer"),
    ((Timeout(1), Bulkhead(1), Timeout(2)), "no shorter than the outer"),
    ((Retry(on=KeyError), Timeout(1)), "`on` does not match it"),
    ((Retry(on_result=bool), Timeout(1)), "`on` does not match it"),
    ((breaker, retry, breaker), "stands twice"),
    ((retry, retry), "retry inside a retry"),
    ((timeout, timeout), "no shorter than the outer"),
    ((Timeout(9), Pipeline(retry), Retry(on=OSError)), "retry inside a retry"),
]
RIGHT = [
    (Fallback(0), retry, breaker),
    (Timeout(2), retry, Timeout(1)),  # a TimeoutError is an OSError
    (Retry(on=lambda e: True), Timeout(1)),
    (Retry(on=(KeyError, CallTimeoutError)), Timeout(1)),
    (retry, breaker, CircuitBreaker()),
    (Fallback(0), Fallback(1)),
]


@pytest.mark.parametrize(("stack", "text"), WRONG)
def test_a_wrong_order_warns_and_says_why(stack, text):
    """Each known mistake has its warning, at the line that makes the pipeline."""
    with pytest.warns(CompositionWarning, match=text) as caught:
        Pipeline(*stack)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("stack", RIGHT)
def test_a_right_order_is_silent(stack):
    """No warning where there is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline(*stack)


def test_stacked_decorators_warn_too():
    """A wrong stack of decorators warns where it is written."""
    with pytest.warns(CompositionWarning, match="fallback inside a retry") as caught:

        @Retry(on=OSError)
        @Fallback(0)
        def fn() -> int:
            return 1

    assert caught[0].filename == __file__
    assert fn() == 1


def test_a_wrong_stack_warns_once():
    """To ask for its pipeline does not warn again; nor does a class or static method."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Client:
            @Retry(on=OSError)
            @Retry(on=OSError)
            @staticmethod
            def get() -> int:
                return 1

        pipeline = pipeline_of(Client.get)
    assert [warning.filename for warning in caught] == [__file__]
    assert [policy.kind for policy in pipeline.policies] == ["retry", "retry"]
    assert pipeline is pipeline_of(Client.get)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"total_timeout": 0}, ValueError, "total_timeout must be"),
        ({"attempt_timeout": "1"}, TypeError, "attempt_timeout must be"),
        # `Retry` takes it, but with `max_elapsed`, which there is not here.
        ({"attempts": None}, TypeError, "attempts must be a whole number"),
    ],
)
def test_the_standard_pipeline_names_the_option_that_is_wrong(options, error, text):
    """Not that of the policy that it becomes."""
    with pytest.raises(error, match=text):
        Pipeline.standard("db", on=OSError, **options)


def test_the_standard_pipeline_warns_at_its_caller():
    """Of an attempt that is given no less time than the whole call."""
    with pytest.warns(CompositionWarning, match="no shorter than the outer") as caught:
        Pipeline.standard("db", on=OSError, total_timeout=5)
    assert caught[0].filename == __file__


def test_a_listener_hears_every_policy_of_a_pipeline_once():
    """Nested ones too, until it unsubscribes."""
    heard = []
    cut = CircuitBreaker(consecutive_failures=1)
    inner = Pipeline(Retry(on=OSError, attempts=2, backoff=[0]), cut)
    unsubscribe = Pipeline(inner, Bulkhead(1)).subscribe(heard.append)
    cut.isolate()
    with pytest.raises(CircuitOpenError):
        inner.call(len, "")
    assert [type(event).__name__ for event in heard] == ["CircuitStateChanged", "CallRejected"]
    unsubscribe()
    cut.reset()
    assert len(heard) == 2


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_the_standard_pipeline(mode, clock):
    """Total timeout, bulkhead, retry, breaker, attempt timeout; a slow attempt is retried."""
    pipeline = Pipeline.standard("db", on=ConnectionError, attempts=2, attempt_timeout=1)
    assert [policy.kind for policy in pipeline.policies] == [
        "timeout",
        "bulkhead",
        "retry",
        "circuit_breaker",
        "timeout",
    ]
    tries = []

    def slow():
        tries.append(1)
        yield 5

    with pytest.raises(CallTimeoutError) as caught:
        mode.call(mode.function(pipeline, slow))
    assert len(tries) == 2
    assert caught.value.policy == "db.timeout-2"
    # A hang is the backend's, whatever `on` says.
    assert pipeline.policies[3].snapshot().failures == 2


@pytest.mark.parametrize(
    "on", [ConnectionError, (ConnectionError, KeyError), lambda e: isinstance(e, ConnectionError)]
)
@pytest.mark.parametrize("error", [ConnectionError, CallTimeoutError])
def test_the_standard_retries_timeouts_whatever_on_says(on, error):
    """`on` is widened by the attempt's timeout, as a class or as a predicate."""
    pipeline = Pipeline.standard("db", on=on, attempts=2, sync="deadline")
    tries = []

    @pipeline
    def fn():
        tries.append(1)
        if len(tries) == 1:
            raise error
        return remaining()

    assert 9 < fn() <= 10
    assert len(tries) == 2


def test_the_standard_does_not_retry_the_callers_mistakes():
    """What `on` does not match is neither retried nor counted."""
    pipeline = Pipeline.standard("db", on=ConnectionError, sync="deadline")
    tries = []

    @pipeline
    def fn():
        tries.append(1)
        raise ValueError("mistake")

    for _ in range(20):
        with pytest.raises(ValueError, match="^mistake$"):
            fn()
    assert len(tries) == 20
    assert pipeline.policies[3].state is CircuitState.CLOSED


def test_the_standard_needs_a_choice_on_sync_code():
    """On sync code the error names `sync=`."""
    with pytest.raises(TypeError, match="sync="):
        Pipeline.standard("db", on=OSError)(len)


def test_the_standard_in_a_thread_runs_only_the_attempt_there():
    """With `sync="thread"` the total is a deadline in place, the attempt has the worker."""
    pipeline = Pipeline.standard("db", on=OSError, sync="thread")
    assert [p.sync for p in pipeline.policies if p.kind == "timeout"] == ["deadline", "thread"]

    @pipeline
    def fn():
        return remaining()

    assert 9 < fn() <= 10
