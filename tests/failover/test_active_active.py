"""Active-active: who gets how many calls, and who none."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from functools import partial

import pytest

from resilient import CircuitBreaker
from resilient._core.balance import DECAY, Balancer, BalanceRules, Load
from resilient._core.circuit import Circuit, Rules
from resilient._core.health import Health
from resilient._core.window import CountWindow
from resilient.errors import PoolExhaustedError
from resilient.failover import ActiveActive, Member

from tests.failover.support import Backends, kinds, quick, states

BALANCES = ["ewma", "least_loaded", "round_robin", "random"]


@pytest.fixture
def backends():
    return Backends()


def pool_of(*names, **options):
    return ActiveActive(
        "web",
        {name: name for name in names},
        on=ConnectionError,
        breaker=options.pop("breaker", quick),
        **options,
    )


@pytest.mark.parametrize("balance", BALANCES)
def test_all_members_share_the_load(clock, backends, balance):
    pool = pool_of("a", "b", "c", "d", balance=balance)
    for _ in range(4000):
        pool.call(backends)
    assert all(900 < count < 1100 for count in Counter(backends.seen).values())


@pytest.mark.parametrize("balance", BALANCES)
def test_weights(clock, backends, balance):
    members = [Member("a", "a", weight=3), Member("b", "b")]
    pool = ActiveActive("web", members, on=ConnectionError, balance=balance)
    for _ in range(4000):
        pool.call(backends)
    assert 2850 < Counter(backends.seen)["a"] < 3150


def test_a_failing_member_is_left_and_its_call_served(mode, clock, backends):
    """The others take its share at once."""
    pool = pool_of("a", "b", "c")
    ask = mode.function(pool, backends)
    backends.down.add("b")
    found = [mode.call(ask) for _ in range(50)]
    assert set(found) == {"a", "c"}
    assert backends.seen.count("b") == 1
    assert states(pool)["b"] == "down"


def test_a_member_comes_back_by_one_trial(mode, clock, backends):
    """The first call after its breaker's time goes there, however little traffic there is."""
    pool = pool_of("a", "b", "c", ramp=0)
    ask = mode.function(pool, backends)
    backends.down.add("b")
    while states(pool)["b"] != "down":
        mode.call(ask)
    clock.advance(6)
    backends.taken()
    assert mode.call(ask) in ("a", "c")
    assert backends.taken()[0] == "b"
    backends.down.clear()
    clock.advance(12)
    assert mode.call(ask) == "b"
    assert states(pool)["b"] == "healthy"


@pytest.mark.parametrize("balance", ["ewma", "round_robin", "random"])
def test_a_returning_member_ramps_up(clock, backends, balance):
    """From a tenth of its share to all of it."""
    pool = pool_of("a", "b", "c", "d", balance=balance, ramp=10)
    backends.down.add("a")
    while states(pool)["a"] != "down":
        pool.call(backends)
    backends.down.clear()
    clock.advance(6)
    assert pool.call(backends) == "a"
    shares = []
    for _ in range(3):
        backends.taken()
        for _ in range(2000):
            pool.call(backends)
        shares.append(backends.taken().count("a") / 2000)
        clock.advance(5)
    assert 0.01 < shares[0] < 0.06
    assert shares[0] < shares[1] < shares[2]
    assert 0.22 < shares[2] < 0.28


def test_at_most_half_are_ejected(clock, backends, events):
    """Beyond that the rest is called past its open breakers; the pool panics below half."""
    pool = pool_of("a", "b", "c", "d", panic_threshold=0)
    backends.down |= {"a", "b", "c"}
    for _ in range(200):
        pool.call(backends)
    assert set(states(pool).values()) == {"healthy", "down"}
    backends.taken()
    for _ in range(200):
        pool.call(backends)
    assert len(set(backends.taken())) == 2
    assert kinds(events, "PoolPanicked") == []


def test_one_may_always_be_ejected(clock, backends):
    pool = pool_of("a", "b", "c", max_ejected=0)
    backends.down |= {"a"}
    for _ in range(50):
        pool.call(backends)
    backends.taken()
    for _ in range(50):
        pool.call(backends)
    assert "a" not in backends.taken()


def test_in_a_panic_all_are_used_again(mode, clock, backends, events):
    """Better a chance than none: a backend that answers again is found at once."""
    pool = pool_of("a", "b", "c")
    ask = mode.function(pool, backends)
    backends.down |= {"a", "b", "c"}
    for _ in range(5):
        with pytest.raises(ConnectionError):
            mode.call(ask)
    assert set(states(pool).values()) == {"down"}
    assert pool.snapshot().panics
    (panicked,) = kinds(events, "PoolPanicked")
    assert panicked.healthy == 1
    backends.down.clear()
    assert mode.call(ask) in ("a", "b", "c")
    clock.advance(20)
    for _ in range(10):
        mode.call(ask)
    assert set(states(pool).values()) == {"healthy"}
    assert not pool.snapshot().panics


def test_without_a_panic_all_down_is_exhausted(clock, backends):
    pool = pool_of("a", panic_threshold=0)
    backends.down.add("a")
    with pytest.raises(ConnectionError):
        pool.call(backends)
    with pytest.raises(PoolExhaustedError):
        pool.call(backends)


def zones(near, far, **options):
    members = [Member(name, name) for name in near]
    members += [Member(name, name, priority=1) for name in far]
    return ActiveActive("web", members, on=ConnectionError, breaker=quick, **options)


def test_priority_groups_spill_over(clock, backends):
    """A group with half of it healthy keeps 70 % of the calls; the rest goes to the next."""
    pool = zones("abcd", "xy")
    for _ in range(200):
        pool.call(backends)
    assert set(backends.taken()) <= set("abcd")
    backends.down |= {"a", "b"}
    for _ in range(300):
        pool.call(backends)
    backends.taken()
    for _ in range(2000):
        pool.call(backends)
    far = sum(name in "xy" for name in backends.taken())
    assert 500 < far < 700


def test_a_zone_that_is_down_leaves_all_to_the_next_without_a_panic(clock, backends, events):
    pool = zones("ab", "xy")
    backends.down |= {"a", "b"}
    for _ in range(50):
        assert pool.call(backends) in ("x", "y")
    assert kinds(events, "PoolPanicked") == []
    backends.taken()
    for _ in range(50):
        pool.call(backends)
    assert set(backends.taken()) == {"x", "y"}


def test_a_drained_member_gets_no_calls(clock, backends):
    pool = pool_of("a", "b")
    assert pool.drain("a", 0)
    for _ in range(20):
        assert pool.call(backends) == "b"
    pool.remove("b")
    with pytest.raises(PoolExhaustedError):
        pool.call(backends)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"balance": "best"}, ValueError),
        ({"max_ejected": 1.1}, ValueError),
        ({"max_ejected": "x"}, TypeError),
        ({"panic_threshold": -0.1}, ValueError),
        ({"ramp": -1}, ValueError),
    ],
)
def test_bad_options_are_refused(options, error):
    with pytest.raises(error):
        pool_of("a", **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": 3}, TypeError),
        ({"weight": 0}, ValueError),
        ({"weight": "x"}, TypeError),
        ({"weight": float("inf")}, ValueError),
        ({"priority": -1}, ValueError),
        ({"priority": 1.5}, TypeError),
        ({"start": 3}, TypeError),
    ],
)
def test_bad_members_are_refused(options, error):
    with pytest.raises(error):
        Member(**{"name": "a", "target": 1} | options)


# The latency average, and the measure that the balance is built for.


def test_the_average_rises_at_once_and_falls_slowly():
    load = Load()
    assert load.latency(0) is None
    load.observe(0.1, 0)
    load.observe(1.0, 1)
    assert load.latency(1) == 1.0
    load.observe(0.1, 2)
    assert 0.8 < load.latency(2) < 1.0
    load.observe(0.0, 3, failed=True)
    assert load.latency(2) > 0.8
    assert load.latency(2 + 10 * DECAY) < 0.001


class Server:
    """A queue with exponential service times."""

    def __init__(self, name, mean):
        circuit = Circuit(Rules(partial(CountWindow, 100), 10, 0.5, 5, 1.0, 30.0, 1, 60.0))
        self.name, self.mean, self.weight, self.priority = name, mean, 1.0, 0
        self.in_flight, self.free_at = 0, 0.0
        self.health, self.load = Health(circuit, None), Load()


def p99(balance, means, seed):
    """Seconds, of 500 calls a second over servers with these mean service times."""
    dice = random.Random(seed)
    servers = [Server(str(number), mean) for number, mean in enumerate(means)]
    balancer = Balancer(BalanceRules(balance, 0.5, 0.5, 10.0))
    balancer.refresh(servers, 0.0)
    now, under_way, latencies = 0.0, [], []
    for number in range(30_000):
        now += dice.expovariate(500)
        while under_way and under_way[0][0] <= now:
            ended, _, server, began = heapq.heappop(under_way)
            server.in_flight -= 1
            server.load.observe(ended - began, ended)
            latencies.append(ended - began)
        server, _ = balancer.choose((), now, dice)
        server.free_at = max(now, server.free_at) + dice.expovariate(1 / server.mean)
        server.in_flight += 1
        heapq.heappush(under_way, (server.free_at, number, server, now))
    return sorted(latencies)[int(0.99 * len(latencies))]


def test_one_slow_server_of_ten_costs_little():
    """The p99 stays near what the nine healthy servers alone would give."""
    nine = p99("least_loaded", [0.01] * 9, seed=1)
    ten = p99("ewma", [0.01] * 9 + [0.1], seed=1)
    assert ten < 1.5 * nine


def test_a_breaker_of_ones_own_is_given_the_pools_verdict(clock, backends):
    """The pool's `on` replaces the breaker's."""
    pool = pool_of("a", breaker=lambda name: CircuitBreaker(name, on=KeyError))
    assert pool._seats["a"].breaker._matcher is pool._matcher
