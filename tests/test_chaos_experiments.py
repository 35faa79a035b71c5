"""Experiments: where they reach, what they select, and that they end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest

from resilient import PerKey, Pipeline, Retry, chaos
from resilient._core.living import forkable
from resilient.chaos import InjectResult, Where, _experiments
from resilient.chaos._environment import read
from resilient.failover import ActiveActive


def struck(name: str = "i", rate: float = 1, **options: Any) -> Any:
    """A function that says whether an injector struck its call."""
    injector = InjectResult(rate, True, name=name, **options)

    @injector
    def fn(*args: Any) -> bool:
        return False

    fn._self_injector = injector
    return fn


def in_thread(fn: Any, *args: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(fn(*args)))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(autouse=True)
def all_off():
    """Every test leaves chaos off, as it has found it."""
    assert not _experiments.on
    yield
    assert not _experiments.on


# Where it reaches.


def test_an_experiment_is_its_block():
    """Before it and after it nothing is struck."""
    fn = struck()
    assert not fn()
    with chaos.experiment("x") as running:
        assert fn()
        assert not running.ended
    assert not fn()
    assert running.ended
    assert (running.calls, running.injected) == (1, {"i": 1})


def test_an_error_in_the_block_comes_out():
    """And ends the experiment."""
    with pytest.raises(KeyError), chaos.experiment("x"):
        raise KeyError
    assert not struck()()


def test_an_experiment_is_of_its_task():
    """Tasks that were started outside are not touched; those started inside are."""

    async def main():
        fn = struck()
        inside, over = asyncio.Event(), asyncio.Event()

        async def bystander():
            await inside.wait()
            found = fn()
            over.set()
            return found

        async def subject():
            with chaos.experiment("x"):
                inside.set()
                await over.wait()
                return fn(), await asyncio.create_task(asyncio.to_thread(fn))

        return await asyncio.gather(bystander(), subject())

    assert asyncio.run(main()) == [False, (True, True)]


def test_an_experiment_does_not_linger_in_background_tasks():
    """A task started inside goes on without faults when the block is left."""

    async def main():
        fn, found = struck(), []
        go = asyncio.Event()

        async def background():
            found.append(fn())
            await go.wait()
            found.append(fn())

        with chaos.experiment("x"):
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
        go.set()
        await task
        return found

    assert asyncio.run(main()) == [True, False]


def test_a_thread_is_outside_unless_the_scope_is_the_process():
    """A plain thread has no context; an experiment for the process reaches it."""
    fn = struck()
    with chaos.experiment("x"):
        assert not in_thread(fn)
        assert in_thread(contextvars.copy_context().run, fn)
    with chaos.experiment("x", scope="process"):
        assert in_thread(fn)
        assert fn()
    assert not in_thread(fn)


def test_a_process_experiment_by_hand():
    """It can be begun in one place and ended in another, and ended twice."""
    fn = struck()
    running = chaos.experiment("x", scope="process")
    running.begin()
    assert in_thread(fn)
    in_thread(running.end)
    running.end()
    assert not fn()
    with pytest.raises(RuntimeError, match="runs once"):
        running.begin()


def test_an_experiment_ended_before_it_began():
    """It never begins."""
    running = chaos.experiment("x")
    running.end()
    with pytest.raises(RuntimeError, match="runs once"), running:
        pass


def test_the_innermost_experiment_decides():
    """An outer one decides on what the inner one leaves to it."""
    a, b = struck("a"), struck("b")
    with chaos.experiment("outer") as outer, chaos.experiment("inner", only="a") as inner:
        a()
        b()
        assert (outer.injected, inner.injected) == ({"b": 1}, {"a": 1})
        inner.end()
        a()
    assert outer.injected == {"a": 1, "b": 1}


def test_a_context_comes_before_the_process():
    """And later experiments of the process before earlier ones."""
    fn = struck()
    with (
        chaos.experiment("first", scope="process") as first,
        chaos.experiment("second", scope="process") as second,
        chaos.experiment("mine") as mine,
    ):
        fn()
        in_thread(fn)
        second.end()
        in_thread(fn)
    assert (first.calls, second.calls, mine.calls) == (1, 1, 1)


def test_left_in_another_context():
    """As a generator fixture may; nothing is left behind there either."""
    running = chaos.experiment("x")
    contextvars.copy_context().run(running.__enter__)
    running.__exit__(None, None, None)
    with chaos.experiment("y") as later:
        assert struck()()
    assert later.calls == 1


# When it ends.


@pytest.mark.parametrize("until", [10, timedelta(seconds=10)])
def test_it_ends_when_its_time_is_up(clock, until):
    """By itself, in the middle of the block."""
    fn = struck()
    with chaos.experiment("x", until=until) as running:
        clock.advance(9)
        assert fn()
        clock.advance(1)
        assert not fn()
        assert running.ended
        assert not _experiments.on


def test_it_ends_when_a_condition_holds():
    """The condition is asked at each call."""
    fn, calls = struck(), []
    with chaos.experiment("x", until=lambda: len(calls) >= 2):
        while fn():
            calls.append(1)
    assert len(calls) == 2


def test_a_condition_that_fails_ends_it(caplog):
    """Better no chaos than chaos that nobody can stop; the error is in the log."""
    fn = struck()
    with caplog.at_level(logging.ERROR, "resilient"), chaos.experiment("x", until=lambda: 1 / 0):
        assert not fn()
    assert "ZeroDivisionError" in caplog.text


# What it selects.


def test_only_an_injector():
    """By itself, by a pipeline that holds it, by its name or a pattern, or one of several."""
    a, b, c = struck("orders.a"), struck("orders.b"), struck("stock.c")
    injector = a._self_injector
    pipeline = Pipeline(Retry(on=OSError), injector)
    for only, wanted in [
        (injector, (True, False, False)),
        (pipeline, (True, False, False)),
        ("orders.b", (False, True, False)),
        ("orders.*", (True, True, False)),
        (["stock.?", injector], (True, False, True)),
        (Where(injector=injector), (True, False, False)),
    ]:
        with chaos.experiment("x", only=only):
            assert (a(), b(), c()) == wanted


def test_only_a_key():
    """An injector without `key=` is not struck, nor is the same key of another type."""
    keyed, plain = struck(key=lambda key: key), struck()
    with chaos.experiment("x", only=Where(key=1)):
        assert [keyed(1), keyed(2), keyed("1"), plain(1)] == [True, False, False, False]
    with chaos.experiment("x", only=Where(key=None)):
        assert keyed(None)


def test_only_a_function_and_a_condition():
    """All that is given must hold."""
    user = contextvars.ContextVar("user", default="")
    fn = struck()
    with chaos.experiment("x", only=Where(function="*.fn", when=lambda: user.get() == "tester")):
        assert not fn()
        user.set("tester")
        assert fn()
    with chaos.experiment("x", only=Where(function="other", when=lambda: True)):
        assert not fn()


def test_only_a_member_of_a_pool(mode):
    """Known to injectors inside the pool; also through a retry there."""
    injector = InjectResult(1, "struck")
    pool = ActiveActive("db", {"a": 1, "b": 2}, on=OSError, balance="round_robin")
    protected = mode.function(Pipeline(pool, Retry(on=OSError), injector), lambda target: target)
    outside = struck()
    for only in (
        Where(member="a"),
        Where(member="[ac]", pool=pool),
        Where(member="a", pool="d?"),
        [Where(member="a")],
    ):
        with chaos.experiment("x", only=only):
            assert {mode.call(protected) for _ in range(4)} == {"struck", 2}
            assert not outside()
    for only in (Where(member="c"), Where(pool="other")):
        with chaos.experiment("x", only=only):
            assert {mode.call(protected) for _ in range(4)} == {1, 2}
    with chaos.experiment("x", only=Where(pool=pool)):
        assert mode.call(protected) == "struck"


@pytest.mark.parametrize("members", ["a", ["a", "c"]])
def test_an_injector_of_certain_members(members, events):
    """It can be confined where it is built, too; the event says which member."""
    injector = InjectResult(1, "struck", members=members)
    pool = ActiveActive("db", {"a": 1, "b": 2}, on=OSError, balance="round_robin")
    protected = Pipeline(pool, injector)(lambda target: target)
    with chaos.experiment("x") as running:
        assert {protected() for _ in range(4)} == {"struck", 2}
    assert running.calls == 2
    assert {event.member for event in events} == {"a"}


def test_per_key_policies_may_hold_injectors():
    """Each key has its own injector, which counts for itself."""

    @PerKey(lambda host: InjectResult(0.5, True, name="i"), key=lambda host: host)
    def fn(host):
        return False

    with chaos.experiment("x"):
        assert [fn("a") for _ in range(50)] == [fn("b") for _ in range(50)]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"name": 5}, TypeError, "needs a name first"),
        ({"name": ""}, ValueError, "must not be empty"),
        ({"seed": 1.5}, TypeError, "seed must be"),
        ({"seed": True}, TypeError, "seed must be"),
        ({"until": 0}, ValueError, "until must be"),
        ({"until": True}, TypeError, "until must be"),
        ({"until": "10"}, TypeError, "until must be a function"),
        ({"until": asyncio.sleep}, TypeError, "nothing awaits"),
        ({"scope": "task"}, ValueError, "scope must be"),
        ({"only": 5}, TypeError, "only must be"),
        ({"only": b"a"}, TypeError, "only must be"),
        ({"only": [5]}, TypeError, "only holds 5"),
        ({"only": []}, ValueError, "selects nothing"),
    ],
)
def test_bad_values_are_refused(options, error, text):
    """When the experiment is built, with what would be right."""
    with pytest.raises(error, match=text):
        chaos.experiment(**{"name": "x", **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"injector": 5}, "injector must be"),
        ({"pool": 5}, "pool must be"),
        ({"member": 5}, "member must be"),
        ({"function": len}, "function must be"),
        ({"when": 5}, "when must be"),
        ({"key": object()}, "a key must be"),
    ],
)
def test_bad_selections_are_refused(options, text):
    """As early as that."""
    with pytest.raises(TypeError, match=text):
        Where(**options)


# What is told.


def test_the_log_tells_of_it(caplog):
    """As information for a block, as a warning for the process; no key stands in it."""
    fn = struck(key=lambda key: key)
    only = [Where(key="secret", member="m"), Where(injector=fn._self_injector)]
    with caplog.at_level(logging.INFO, "resilient"):
        with chaos.experiment("x", seed=7, only=only, until=9):
            fn("secret")
            fn("secret")
        with chaos.experiment("y", scope="process", until=lambda: False):
            pass
        with chaos.experiment("z", only=Where()):
            pass
    assert [record.message for record in caplog.records] == [
        (
            "chaos: experiment x began in this context: seed 7, only key (given), member m or "
            "injector i, until 9 s have passed"
        ),
        "chaos: experiment x strikes in i",
        "chaos: experiment x ended, with its block: 2 faults in 2 calls",
        (
            "chaos: experiment y began in this process: seed 0, only everything, until a condition "
            "holds"
        ),
        "chaos: experiment y ended, with its block: 0 faults in 0 calls",
        "chaos: experiment z began in this context: seed 0, only everything, until it is ended",
        "chaos: experiment z ended, with its block: 0 faults in 0 calls",
    ]
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.INFO] * 3 + [logging.WARNING] * 2 + [logging.INFO] * 2


def test_a_forked_child_goes_on():
    """Locks that another thread held, and wakers of lost threads, are not in the child."""
    fn, outage = struck(), chaos.take_down(ActiveActive("db", {"a": 1}, on=OSError), "a")
    with chaos.experiment("x", scope="process") as running:
        for thing in forkable.all():
            if type(thing).__module__.startswith("resilient.chaos"):
                thing.after_fork()
        assert fn()
        assert running.calls == 1
    assert not fn()
    outage.end()


# By the environment.


@pytest.mark.parametrize("value", [None, "", " ", "0", "off", "False", "no"])
def test_the_environment_leaves_it_off(value):
    """Unset, empty, or a word that says no."""
    assert read({} if value is None else {"RESILIENT_CHAOS": value}) is None


@pytest.mark.parametrize("value", ["1", "on", "TRUE", "yes"])
def test_the_environment_switches_it_on(value, caplog):
    """For the whole process, and loudly."""
    with caplog.at_level(logging.WARNING, "resilient"):
        running = read({"RESILIENT_CHAOS": value})
    assert in_thread(struck())
    running.end()
    assert "experiment RESILIENT_CHAOS began in this process" in caplog.text


def test_the_environment_says_what(clock):
    """The options of an experiment as pairs."""
    value = "name=day, seed=-7, until=10, injector=orders.*, key=k, member=a, pool=p, function=f"
    running = read({"RESILIENT_CHAOS": value})
    assert (running.name, running.seed, running.scope) == ("day", -7, "process")
    assert running.until.at == clock.now() + 10
    assert running._wheres == (
        Where(injector="orders.*", key="k", member="a", pool="p", function="f"),
    )
    clock.advance(10)
    assert not struck()()
    assert running.ended
    words = read({"RESILIENT_CHAOS": "seed=blue"})
    assert (words.seed, words._wheres) == ("blue", ())
    words.end()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("maybe", "'maybe' is not understood"),
        ("seed=1,colour=blue", "'colour=blue' is not understood"),
        ("seed=", "'seed=' is not understood"),
        ("seed=1,seed=2", "seed twice"),
        ("until=soon", "until must be seconds"),
        ("until=-1", "until must be"),
    ],
)
def test_an_environment_that_cannot_be_understood(value, text):
    """It stops the program at its start instead of leaving open what it does."""
    with pytest.raises(ValueError, match=text):
        read({"RESILIENT_CHAOS": value})


def test_a_process_reads_its_environment():
    """When the module is imported; its faults are those of any other process."""
    program = (
        "from resilient.chaos import InjectResult\n"
        "fn = InjectResult(0.5, '1', name='i', key=lambda key: key)(lambda key: '0')\n"
        "print(''.join(fn('a') + fn(7) for _ in range(40)))\n"
    )
    outputs = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "RESILIENT_CHAOS": "seed=7", "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert "chaos: experiment RESILIENT_CHAOS began" in done.stderr
        outputs.append(done.stdout.strip())
    fn = InjectResult(0.5, "1", name="i", key=lambda key: key)(lambda key: "0")
    with chaos.experiment("x", seed=7):
        here = "".join(fn("a") + fn(7) for _ in range(40))
    assert outputs == [here, here]
