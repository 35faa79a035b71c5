"""The same seed gives the same faults, whatever the interleaving and the process."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import functools
import sys
import threading
import uuid
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import chaos
from resilient.chaos import InjectResult
from resilient.chaos._draw import draw, encoded


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Name(str):
    pass


KEYS = [
    None, True, 1, 1.0, "1", b"1", (1,), ("1",), (1, 1), ((1,), 1), (1, (1,)), frozenset({1}),
    Colour.RED, Level.LOW, uuid.UUID(int=1), dt.date(2020, 1, 1),
    dt.datetime(2020, 1, 1), "", b"", (), frozenset(), "\ud800", 10**40, float("inf"),
]  # fmt: skip


def keyed(rate: float = 0.5) -> Any:
    return InjectResult(rate, True, key=lambda key: key, name="i")(lambda key: False)


def verdicts(order: list[Any], seed: int | str = 0) -> dict[Any, list[bool]]:
    """The verdicts of each key's calls, made in this order."""
    fn, found = keyed(), defaultdict(list)
    with chaos.experiment("x", seed=seed):
        for key in order:
            found[key].append(fn(key))
    return found


@settings(deadline=None)
@given(st.data(), st.integers() | st.text())
def test_the_interleaving_does_not_matter(data, seed):
    """However the calls of the keys are shuffled, each call has its verdict."""
    order = data.draw(st.lists(st.sampled_from("abc"), max_size=60))
    shuffled = data.draw(st.permutations(order))
    assert verdicts(order, seed) == verdicts(shuffled, seed)


@pytest.mark.parametrize("mode", ["asyncio", "trio"], indirect=True)
def test_tasks(mode, clock):
    """As many tasks, each with waits of its own."""
    found = defaultdict(list)

    def play(key, wait):
        for _ in range(20):
            yield wait
            found[key].append(fn(key))

    fn = keyed()
    with chaos.experiment("x", seed=3):
        together = mode.colour(play)
        mode.together(*(functools.partial(together, key, 1 / (key + 1)) for key in range(20)))
    assert found == verdicts(sorted(list(range(20)) * 20), 3)


def test_threads():
    """Threads that share keys: each key's verdicts are the same ones, in whatever order."""
    fn, keys, results = keyed(), range(5), []
    barrier = threading.Barrier(8)

    def work():
        barrier.wait(10)
        mine = Counter()
        for _ in range(50):
            for key in keys:
                mine[key, fn(key)] += 1
        results.append(mine)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with chaos.experiment("x", seed=3, scope="process") as running:
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert running.calls == 8 * 50 * 5
    expected = verdicts(list(keys) * 400, 3)
    total = sum(results, Counter())
    assert total == Counter((key, struck) for key, found in expected.items() for struck in found)


def test_without_a_key_the_sequence_is_fixed():
    """Whoever makes the calls; and it begins anew with each experiment."""
    injector = InjectResult(0.5, True, name="i")
    first, second = injector(lambda: False), injector(lambda: False)

    def sequence(fns):
        with chaos.experiment("x", seed=5):
            return [fn() for fn in fns]

    assert sequence([first] * 60) == sequence([first, second] * 30)
    assert len(set(sequence([first] * 60))) == 2


def test_a_change_of_anything_changes_the_faults():
    """Of the seed, of its type, of the injector's name, and of the key."""

    def sequence(seed, name="i", key="k"):
        fn = InjectResult(0.5, 1, key=lambda: key, name=name)(lambda: 0)
        with chaos.experiment("x", seed=seed):
            return tuple(fn() for _ in range(64))

    found = [sequence(1), sequence(2), sequence("1"), sequence(1, "j"), sequence(1, key="l")]
    assert len(set(found)) == len(found)
    assert sequence(1) == sequence(1)


def test_what_is_drawn_is_written_down():
    """These numbers must not change: with them, every user's faults would."""
    assert draw(b"seed", b"name", b"key", b"1") == 0.5674972891686971
    assert encoded(("a", 1)) == (b"tuple:" + bytes(7) + b"\x05str:a" + bytes(7) + b"\x05int:1")


@given(st.lists(st.binary(max_size=8), max_size=5))
def test_draws_are_below_one(parts):
    """So that a rate of 1 strikes always, and one of 0 never."""
    assert 0 <= draw(*parts) < 1


def test_draws_are_uniform():
    """Each tenth gets its share."""
    found = Counter(int(draw(str(n).encode()) * 10) for n in range(10_000))
    assert all(850 < found[tenth] < 1150 for tenth in range(10))


def test_keys_are_told_apart():
    """No two of these are taken for one another, though some are equal in Python."""
    assert len({encoded(key) for key in KEYS}) == len(KEYS)
    assert encoded(Name("a")) == encoded("a")
    assert encoded(frozenset("abc")) == encoded(frozenset("cba"))


@pytest.mark.parametrize("key", [object(), ["a"], {"a": 1}, (1, [2])])
def test_a_key_that_differs_between_processes(key):
    """It is refused, with what to do."""
    fn = keyed()
    assert not fn(key)
    with chaos.experiment("x"), pytest.raises(TypeError, match="let key="):
        fn(key)


def test_the_same_faults_in_an_event_loop():
    """Sync and async code have the same."""

    async def main():
        injector = InjectResult(0.5, True, key=lambda key: key, name="i")

        @injector
        async def fn(key):
            return False

        with chaos.experiment("x", seed=3):
            return [await fn("a") for _ in range(50)]

    assert asyncio.run(main()) == verdicts(["a"] * 50, 3)["a"]
