"""PerKey: a policy of its own for each key, bounded in number."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    PerKey,
    Pipeline,
    Retry,
    policies,
)


def breakers(**options) -> PerKey:
    options = {"key": lambda host: host, **options}
    return PerKey(lambda key: CircuitBreaker(consecutive_failures=1, open_for=30), **options)


def down(host: str) -> str:
    if host == "bad":
        raise OSError
    return host


def test_keys_do_not_share_state(mode):
    """The breaker of one key opens; that of another stays closed."""
    hosts = breakers()
    protected = mode.function(hosts, down)
    with pytest.raises(OSError):
        mode.call(protected, "bad")
    with pytest.raises(CircuitOpenError):
        mode.call(protected, "bad")
    assert mode.call(protected, "good") == "good"
    assert hosts.get("bad").state is CircuitState.OPEN
    assert hosts.get("good").state is CircuitState.CLOSED
    assert hosts.snapshot().keys == 2


def test_generators_too(mode):
    """A generator is protected by its key's policy."""
    hosts = breakers()

    def items(host):
        yield host
        yield down(host)

    protected = mode.stream(hosts, items)
    assert mode.drain(protected, "good") == ["good", "good"]
    with pytest.raises(OSError):
        mode.drain(protected, "bad")
    with pytest.raises(CircuitOpenError):
        mode.drain(protected, "bad")


def test_the_key_sees_the_callers_arguments():
    """`key` gets positional and keyword arguments as the caller wrote them."""
    seen = []

    def key(*args, **kwargs):
        seen.append((args, kwargs))
        return 1

    @PerKey(lambda key: CircuitBreaker(), key=key)
    def fn(a, *, b):
        return a + b

    assert fn(1, b=2) == 3
    assert seen == [((1,), {"b": 2})]


def test_the_least_recently_used_idle_key_goes():
    """Beyond `max_keys` the key that was not used for longest is dropped."""
    made = []
    hosts = PerKey(lambda key: made.append(key) or CircuitBreaker(), key=lambda k: k, max_keys=2)
    fn = hosts(lambda k: k)
    for key in "abacab":
        fn(key)
    assert made == ["a", "b", "c", "b"]
    assert hosts.snapshot().keys == 2


def test_a_key_in_use_is_not_dropped():
    """A key with a call in flight, or with an open circuit, stays."""
    hosts = breakers(max_keys=1)
    inner = hosts(lambda k: k)

    @hosts
    def outer(key):
        for other in "bcd":
            inner(other)
        return hosts.snapshot().keys

    assert outer("a") == 2
    first = hosts.get("a")
    first.isolate()
    for key in "efg":
        inner(key)
    assert hosts.get("a") is first


def test_an_open_circuit_is_remembered_among_many_keys():
    """Keys that come and go do not push an open circuit out."""
    hosts = breakers(max_keys=3)
    fn = hosts(down)
    with pytest.raises(OSError):
        fn("bad")
    for number in range(200):
        fn(str(number))
    assert hosts.get("bad").state is CircuitState.OPEN
    assert hosts.snapshot().keys <= 4


def test_a_pipeline_per_key_is_idle_when_all_of_it_is():
    """A pipeline's bulkhead in use keeps its key."""
    hosts = PerKey(lambda k: Pipeline(CircuitBreaker(), Bulkhead(1)), key=lambda k: k, max_keys=1)
    bulkhead = hosts.get("a").policies[1]
    with bulkhead.guard():
        hosts.get("b")
        assert hosts.get("a").policies[1] is bulkhead
    hosts.get("c")
    hosts.get("d")
    assert hosts.get("a").policies[1] is not bulkhead


def test_per_key_in_per_key():
    """An inner table that is in use, or knows of an open circuit, keeps its outer key."""
    inner = breakers()
    outer = PerKey(lambda k: inner if k == "a" else CircuitBreaker(), key=lambda k: k, max_keys=1)
    inner.get("x").isolate()
    outer.get("a")
    outer.get("b")
    assert outer.get("a") is inner


def test_names_hold_no_key():
    """Per-key policies are named by the pipeline and the kind: a key is no label."""
    hosts = breakers()

    @Pipeline(hosts, name="pay")
    def fn(key):
        return key

    fn("secret")
    assert hosts.get("secret").name == "pay.circuit_breaker"
    assert not any("secret" in policy.name for policy in policies())


def test_one_policy_per_key_under_threads():
    """Threads that meet at a new key share one policy, whoever made it."""
    barrier = threading.Barrier(8)
    hosts = PerKey(lambda key: (barrier.wait(5) and None) or CircuitBreaker(), key=lambda k: k)
    found = []

    def get():
        found.append(hosts.get("a"))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_retry_inside_makes_the_calls_repeat():
    """A table whose policies repeat says so, which telemetry asks."""
    hosts = PerKey(lambda k: Retry(on=OSError), key=lambda k: k)
    assert not hosts.repeats
    hosts.get("a")
    assert hosts.repeats


def test_functions_are_forgotten():
    """A decorated function that is gone leaves nothing in the keys' tables."""
    hosts = breakers()

    def make():
        def fn(key):
            return key

        return fn

    fn = make()
    reference = weakref.ref(fn)
    protected = hosts(fn)
    protected("a")
    del fn, protected
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize(
    ("factory", "options", "error", "text"),
    [
        (CircuitBreaker(), {"key": len}, TypeError, "needs a function that makes"),
        (3, {"key": len}, TypeError, "needs a function that makes"),
        (len, {"key": 3}, TypeError, "key must be a function"),
        (len, {"key": len, "max_keys": 0}, ValueError, "max_keys must be at least 1"),
    ],
)
def test_bad_options(factory, options, error, text):
    """Bad options are refused when the table is built."""
    with pytest.raises(error, match=text):
        PerKey(factory, **options)


def test_a_bad_key_and_a_bad_factory_say_so():
    """An unhashable key and a factory without a policy are the caller's mistakes."""
    hosts = breakers()
    with pytest.raises(TypeError, match="must be hashable, not list"):
        hosts.get([])
    with pytest.raises(TypeError, match="must return a policy"):
        PerKey(lambda key: None, key=len).get("a")


def test_a_listener_hears_the_policies_of_all_keys():
    """Of those that are there and those that come, and each event once."""
    hosts = breakers()
    hosts.get("early").isolate()
    heard = []
    unsubscribe = hosts.subscribe(heard.append)
    hosts.get("early").reset()
    hosts.get("late").isolate()
    assert [str(event.new) for event in heard] == ["closed", "isolated"]
    unsubscribe()
    hosts.get("late").reset()
    assert len(heard) == 2


def test_a_policy_that_two_keys_share_is_heard_once():
    """And a listener that raises does not keep the others from hearing."""
    shared = CircuitBreaker()
    hosts = PerKey(lambda key: shared, key=lambda host: host)
    heard = []
    hosts.subscribe(lambda event: 1 / 0)
    hosts.subscribe(heard.append)
    assert hosts.get("a") is hosts.get("b") is shared
    shared.isolate()
    assert len(heard) == 1
