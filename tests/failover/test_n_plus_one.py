"""N+1: whose keys go where, and what a spare takes over."""

from __future__ import annotations

import subprocess
import sys
from uuid import UUID

import pytest

from resilient import CircuitBreaker
from resilient._core.rendezvous import encode, owner
from resilient.errors import PoolExhaustedError
from resilient.failover import Member, NPlusOne

from tests.failover.support import Backends, kinds, quick, states

KEYS = [f"customer-{number}" for number in range(60)]


@pytest.fixture
def backends():
    return Backends()


def pool_of(spares=("s",), actives="abcd", **options):
    options.setdefault("key", lambda key: key)
    return NPlusOne(
        "shards",
        {name: name for name in actives},
        {name: name for name in spares},
        on=ConnectionError,
        breaker=options.pop("breaker", quick),
        **options,
    )


def test_a_failed_actives_keys_go_to_one_spare_and_no_other_key_moves(
    mode, clock, backends, events
):
    pool = pool_of()
    ask = mode.function(pool, backends)
    before = {key: mode.call(ask, key) for key in KEYS}
    assert set(before.values()) == set("abcd")
    backends.down.add("b")
    after = {key: mode.call(ask, key) for key in KEYS}
    assert after == {key: "s" if name == "b" else name for key, name in before.items()}
    assert pool.snapshot().covers == (("s", "b"),)
    (assigned,) = kinds(events, "SpareAssigned")
    assert (assigned.spare, assigned.active) == ("s", "b")


def test_the_spare_is_released_when_the_active_is_well(mode, clock, backends, events):
    """It comes back by one trial call, and takes all its keys again."""
    pool = pool_of()
    ask = mode.function(pool, backends)
    backends.down.add("b")
    assert mode.call(ask, "b") == "s"
    clock.advance(6)
    assert mode.call(ask, "b") == "s"
    backends.down.clear()
    clock.advance(6)
    assert mode.call(ask, "b") == "b"
    assert pool.snapshot().covers == ()
    assert len(kinds(events, "SpareReleased")) == 1
    assert backends.taken() == ["b", "s", "b", "s", "b"]


def test_kept_the_spare_stays_and_the_recovered_one_becomes_a_spare(mode, clock, backends, events):
    pool = pool_of(release="keep")
    ask = mode.function(pool, backends)
    backends.down.add("b")
    assert mode.call(ask, "b") == "s"
    backends.down.clear()
    clock.advance(100)
    assert mode.call(ask, "b") == "s"
    assert mode.call(ask, "s") == "s"
    backends.down.add("c")
    assert mode.call(ask, "c") == "b"
    pairs = [(one.spare, one.active) for one in kinds(events, "SpareAssigned")]
    assert pairs == [("s", "b"), ("b", "c")]


def test_two_failures_and_one_spare_is_degraded(mode, clock, backends, events):
    """The second one's calls are rejected, the others are served as before."""
    pool = pool_of()
    ask = mode.function(pool, backends)
    backends.down |= {"a", "b"}
    assert mode.call(ask, "a") == "s"
    with pytest.raises(ConnectionError):
        mode.call(ask, "b")
    with pytest.raises(PoolExhaustedError):
        mode.call(ask, "b")
    assert mode.call(ask, "c") == "c"
    (degraded,) = kinds(events, "PoolDegraded")
    assert degraded.uncovered == ("b",)
    assert pool.snapshot().uncovered == ("b",)
    # The first one recovers, and its spare takes the one that was left.
    backends.down.discard("a")
    clock.advance(6)
    backends.taken()
    assert mode.call(ask, "a") == "a"
    assert mode.call(ask, "b") in ("s", "b")
    assert pool.snapshot().covers == (("s", "b"),)
    assert pool.snapshot().uncovered == ()


def test_spread_over_the_healthy_ones(mode, clock, backends, events):
    """Each key to one of them, always the same; the healthy ones' keys stay."""
    pool = pool_of(spares=(), when_exhausted="spread")
    ask = mode.function(pool, backends)
    before = {key: mode.call(ask, key) for key in KEYS}
    backends.down.add("b")
    with pytest.raises(ConnectionError):
        mode.call(ask, "b")
    after = {key: mode.call(ask, key) for key in KEYS}
    moved = {key for key, name in before.items() if name == "b"}
    assert {after[key] for key in moved} <= set("acd")
    assert len({after[key] for key in moved}) > 1
    assert all(after[key] == before[key] for key in KEYS if key not in moved)
    assert after == {key: mode.call(ask, key) for key in KEYS}
    assert kinds(events, "PoolDegraded")[0].uncovered == ("b",)


def test_a_spare_that_fails_while_it_serves_does_not_loop(mode, clock, backends, events):
    """It is let go once, and bound again only when its breaker lets a trial through."""
    pool = pool_of()
    ask = mode.function(pool, backends)
    backends.down |= {"a", "s"}
    with pytest.raises(ConnectionError):
        mode.call(ask, "a")
    for _ in range(20):
        with pytest.raises(PoolExhaustedError):
            mode.call(ask, "a")
    assert len(kinds(events, "SpareAssigned", "SpareReleased")) <= 2
    assert backends.taken() == ["a", "s"]
    backends.down.discard("s")
    clock.advance(6)
    assert mode.call(ask, "a") == "s"


def test_a_second_spare_takes_the_place_of_a_failing_one(mode, clock, backends):
    pool = pool_of(spares=("s", "t"))
    ask = mode.function(pool, backends)
    backends.down |= {"a", "s"}
    assert mode.call(ask, "a") == "t"
    assert mode.call(ask, "a") == "t"
    assert pool.snapshot().covers == (("t", "a"),)


def test_one_failed_call_is_tried_on_a_free_spare_and_binds_nobody(mode, clock, backends):
    pool = pool_of(breaker=lambda name: CircuitBreaker(name, consecutive_failures=9))
    ask = mode.function(pool, backends)
    backends.down.add("a")
    assert mode.call(ask, "a") == "s"
    assert pool.snapshot().covers == ()
    assert backends.taken() == ["a", "s"]


def test_without_a_key_calls_rotate_over_the_actives(mode, clock, backends):
    pool = pool_of(key=None)
    ask = mode.function(pool, lambda target: backends(target))
    assert sorted(mode.call(ask) for _ in range(8)) == list("aabbccdd")


def test_a_lease_belongs_to_a_key(backends):
    pool = pool_of()
    with pool.lease("c") as member:
        assert member.target == "c"


def test_members_come_and_go(mode, clock, backends, events):
    """A new active takes its share from all; a removed one gives up its own alone."""
    pool = pool_of(spares=())
    ask = mode.function(pool, backends)
    before = {key: mode.call(ask, key) for key in KEYS}
    pool.add(Member("e", "e"))
    after = {key: mode.call(ask, key) for key in KEYS}
    moved = {key for key in KEYS if after[key] != before[key]}
    assert {after[key] for key in moved} == {"e"}
    pool.remove("e")
    assert {key: mode.call(ask, key) for key in KEYS} == before
    backends.down.add("a")
    with pytest.raises(ConnectionError):
        mode.call(ask, "a")
    pool.add(Member("s", "s"), spare=True)
    assert mode.call(ask, "a") == "s"
    pool.remove("s")
    assert pool.snapshot().uncovered == ("a",)
    for name in "abcd":
        pool.remove(name)
    with pytest.raises(PoolExhaustedError):
        mode.call(ask, "a")


def test_a_drained_active_is_covered(backends):
    pool = pool_of()
    assert pool.drain("a", 0)
    assert pool.call(backends, "a") == "s"
    assert states(pool)["a"] == "draining"
    pool.remove("a")
    assert pool.snapshot().covers == ()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key": 3}, TypeError),
        ({"when_exhausted": "x"}, ValueError),
        ({"release": "x"}, ValueError),
    ],
)
def test_bad_options_are_refused(options, error):
    with pytest.raises(error):
        pool_of(**options)


def test_names_are_given_once():
    with pytest.raises(ValueError, match="already"):
        pool_of(spares=("a",))
    pool = pool_of(release="keep")
    with pytest.raises(ValueError, match="already"):
        pool.add(Member("a", "a"))


def test_a_share_keeps_its_name_when_its_active_is_gone(clock, backends):
    """With `keep`, the place of a removed active is still there under its name."""
    pool = pool_of(release="keep")
    backends.down.add("a")
    assert pool.call(backends, "a") == "s"
    pool.remove("a")
    assert pool.call(backends, "a") == "s"
    with pytest.raises(ValueError, match="share of the keys"):
        pool.add(Member("a", "a"))


# Rendezvous hashing.

EVERY_KIND = ["a", b"a", 1, 1.5, None, UUID(int=7), ("a", 1), (("a",), 1), ()]


def test_keys_of_every_kind_are_told_apart():
    found = [encode(key) for key in EVERY_KIND]
    assert len(set(found)) == len(found)
    assert encode(("ab", "c")) != encode(("a", "bc"))
    assert encode(1) == encode(1.0) == encode(True)
    assert encode(-0.0) == encode(0)
    for special in (float("nan"), float("inf")):
        assert encode(special)


def test_other_keys_are_refused(backends):
    with pytest.raises(TypeError, match="a key must be"):
        pool_of().call(backends, ["a"])


def test_every_process_finds_the_same_owner():
    """Whatever its hash seed is."""
    code = (
        "from resilient._core.rendezvous import encode, owner\n"
        "print([owner(encode(f'k{n}'), [('a', 1), ('b', 1), ('c', 2)]) for n in range(50)])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_keys_are_shared_by_weight():
    owners = [("a", 1.0), ("b", 1.0), ("c", 2.0)]
    found = [owner(encode(number), owners) for number in range(4000)]
    assert 900 < found.count("a") < 1100
    assert 1850 < found.count("c") < 2150
