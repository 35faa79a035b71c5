"""The small parts: notes, `once`, durations, and the registries of live objects."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import os
import signal
import threading
from datetime import timedelta

import pytest

from resilient import CircuitBreaker, RetryBudget, _policy, once, policies
from resilient._core.durations import count, seconds, share, spell
from resilient._core.living import Living, forkable
from resilient._core.notes import note
from resilient._core.once import is_once


def test_a_note_replaces_our_earlier_one_and_no_other():
    """An error that is raised again says only what was done last."""
    error = OSError("x")
    error.add_note("mine")
    note(error, "first")
    note(error, "second")
    assert error.__notes__ == ["mine", "resilient: second"]


def test_a_note_leaves_a_copy_of_the_error_alone():
    """Copies share their list of notes."""
    error = OSError("x")
    note(error, "first")
    twin = copy.copy(error)
    note(error, "second")
    assert twin.__notes__ == ["resilient: first"]


def test_an_error_that_takes_no_note_goes_out_without():
    """It is not replaced by an error about a note."""

    class Frozen(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(name)

    class Odd(Exception):
        __notes__ = None

    note(Frozen(), "text")
    note(Odd(), "text")


def test_once_holds_inside_its_block_alone():
    """Also when blocks stand in one another."""
    assert not is_once()
    with once():
        with once():
            assert is_once()
        assert is_once()
    assert not is_once()


def test_once_serves_one_block():
    """Used again it would protect nothing, so it refuses."""
    block = once()
    with block:
        with pytest.raises(RuntimeError, match="one block"), block:
            pass
        assert is_once()
    with pytest.raises(RuntimeError, match="one block"), block:
        pass
    assert not is_once()


def test_a_task_started_inside_once_is_free_when_the_block_has_ended():
    """It keeps the variable, not the rule."""

    async def main():
        seen, go_on = [], asyncio.Event()

        async def background():
            seen.append(is_once())
            await go_on.wait()
            seen.append(is_once())

        with once():
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
        go_on.set()
        await task
        return seen

    assert asyncio.run(main()) == [True, False]


def test_once_may_be_left_in_another_context():
    """As happens to a block in an asynchronous generator."""
    block = once()
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert not is_once()


def test_once_ends_with_an_error_too():
    """It changes nothing about it."""
    with pytest.raises(OSError, match="x"), once():
        raise OSError("x")
    assert not is_once()


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (0.5, 0.5), (timedelta(minutes=1), 60)])
def test_durations_are_seconds(value, expected):
    """As a number or a timedelta."""
    assert seconds(value, "open_for") == expected


@pytest.mark.parametrize(
    "bad", [0, -1, float("nan"), float("inf"), 10**400, timedelta(0), timedelta(seconds=-1)]
)
def test_durations_out_of_range(bad):
    """The sentence names the option."""
    with pytest.raises(ValueError, match="open_for must be finite and more than 0"):
        seconds(bad, "open_for")


@pytest.mark.parametrize("bad", [None, "1", True, [1], 1j])
def test_durations_of_a_wrong_type(bad):
    """True is no second."""
    with pytest.raises(TypeError, match="open_for must be a number of seconds"):
        seconds(bad, "open_for")


def test_zero_where_it_makes_sense():
    """And nowhere else."""
    assert seconds(0, "wait", zero=True) == 0
    with pytest.raises(ValueError, match="0 or more"):
        seconds(-1, "wait", zero=True)


def test_counts_and_shares():
    """Whole numbers from 1 on; parts of one."""
    assert (count(3, "attempts"), share(1, "rate"), share(0.5, "rate")) == (3, 1.0, 0.5)
    for bad, error in ((0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="attempts"):
            count(bad, "attempts")
    for bad, error in ((0, ValueError), (1.01, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="rate"):
            share(bad, "rate")


def test_seconds_are_spelled_without_exponents():
    """Three digits, or whole seconds."""
    assert [spell(x) for x in (0.0123456, 12.34, 1234.5)] == ["0.0123 s", "12.3 s", "1234 s"]


class Thing:
    pass


def test_a_registry_keeps_nothing_alive():
    """And lists what lives, oldest first."""
    living = Living()
    first, second = Thing(), Thing()
    living.add(first)
    living.add(second)
    assert living.all() == [first, second]
    del first
    gc.collect()
    assert living.all() == [second]


def test_a_registry_can_be_read_while_others_add():
    """Iterating a `WeakSet` would fail."""
    living, kept = Living(), []

    def work():
        for _ in range(300):
            thing = Thing()
            kept.append(thing)
            living.add(thing)
            living.add(Thing())
            living.all()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert len(living.all()) == 2_400


def in_child(work):
    """Fork, run `work` in the child, and return whether it ended well."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # ends a child that waits for a lock that nobody can release
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_holds_no_lock_of_the_parents_threads():
    """Budgets, breakers and registries work there, whoever held them at the fork."""
    budget = RetryBudget()
    breaker = CircuitBreaker("forked", window_seconds=10, consecutive_failures=1)
    window = breaker._circuit.period.window
    locks = [budget._lock, breaker._circuit._lock, breaker._circuit.telling, window._lock]
    locks += [forkable._lock, _policy._living._lock]

    def fails():
        raise OSError("x")

    def use():
        assert budget.withdraw()
        with pytest.raises(OSError, match="x"):
            breaker.call(fails)
        breaker.reset()
        assert breaker in policies()

    held, release = threading.Event(), threading.Event()

    def hold():
        for lock in locks:
            lock.acquire()
        held.set()
        release.wait()
        for lock in locks:
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_child(use)
    finally:
        release.set()
        holder.join()
