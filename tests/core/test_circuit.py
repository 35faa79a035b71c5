"""The circuit breaker's state machine, by plain calls with the time handed in."""

from __future__ import annotations

import gc
import itertools
import random
import sys
import threading

import pytest

from resilient import constant, exponential
from resilient._core import chance
from resilient._core.circuit import Circuit, CircuitState, Closed, Probe, Refusal, Rules
from resilient._core.window import CountWindow, TimeWindow

CLOSED, OPEN, HALF_OPEN, ISOLATED = CircuitState


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    monkeypatch.setattr(chance, "source", random.Random(7))


def circuit(**options):
    rules = {
        "new_window": lambda: CountWindow(100),
        "minimum_calls": 4,
        "failure_rate": 0.5,
        "consecutive_failures": None,
        "slow_rate": 1.0,
        "open_for": (10.0,),
        "half_open_calls": 1,
        "half_open_timeout": 60.0,
    }
    return Circuit(Rules(**{**rules, **options}))


def fail(circuit, now=0.0, slow=False, why="it failed"):
    circuit.admit(now).bad(now, failed=True, slow=slow, why=why)


def slow(circuit, now=0.0):
    circuit.admit(now).bad(now, failed=False, slow=True, why="slow")


def succeed(circuit, now=0.0):
    circuit.admit(now).success_at(now)


def tripped(now=0.0, **options):
    found = circuit(consecutive_failures=1, **options)
    fail(found, now)
    assert found.state(now) is OPEN
    return found


def changes(circuit):
    found = list(circuit.changes)
    circuit.changes.clear()
    return found


def test_the_rate_is_judged_with_at_least():
    """Exactly the rate opens, one call below it does not."""
    closed, opened = circuit(minimum_calls=1), circuit(minimum_calls=1)
    for one, successes in ((closed, 5), (opened, 4)):
        for _ in range(successes):
            succeed(one)
        for _ in range(4):
            fail(one)
    assert (closed.state(0), opened.state(0)) == (CLOSED, OPEN)


def test_nothing_is_judged_below_minimum_calls():
    """From it on, it is."""
    one = circuit(minimum_calls=4)
    for _ in range(3):
        fail(one)
        assert one.state(0) is CLOSED
    fail(one)
    assert one.state(0) is OPEN


def test_a_fast_success_never_trips():
    """It may be the call that reaches the minimum, with the rate far exceeded."""
    one = circuit(minimum_calls=4)
    for _ in range(3):
        fail(one)
    succeed(one)
    assert one.counts(0).failure_rate == 0.75
    assert one.state(0) is CLOSED
    fail(one)
    assert one.state(0) is OPEN


def test_a_slow_success_can_trip_by_either_rate():
    """It is recorded as a bad call, so both rates are looked at."""
    by_failures = circuit(minimum_calls=4, slow_rate=1.0)
    for _ in range(3):
        fail(by_failures)
    slow(by_failures)
    by_slowness = circuit(minimum_calls=4, slow_rate=0.5)
    for _ in range(2):
        succeed(by_slowness)
    slow(by_slowness)
    assert by_slowness.state(0) is CLOSED
    slow(by_slowness)
    assert (by_failures.state(0), by_slowness.state(0)) == (OPEN, OPEN)


def test_slow_calls_count_whether_they_fail_or_succeed():
    """Two slow failures and two slow successes are four slow calls of four."""
    one = circuit(failure_rate=1.0, minimum_calls=4)
    for _ in range(2):
        fail(one, slow=True)
    slow(one)
    assert one.counts(0).slow == 3
    slow(one)
    assert one.state(0) is OPEN


def test_without_slow_calls_no_slow_rate_is_reached():
    """A rate of zero out of something is not one of nothing."""
    one = circuit(failure_rate=1.0, slow_rate=1e-9, minimum_calls=1)
    succeed(one)
    fail(one)
    assert one.state(0) is CLOSED


def test_consecutive_failures_stand_instead_of_the_rate():
    """A success between them starts the row anew, a neutral call does not."""
    one = circuit(consecutive_failures=3, minimum_calls=1, failure_rate=0.01)
    fail(one)
    fail(one)
    succeed(one)
    fail(one)
    fail(one)
    one.admit(0).neutral()
    assert one.state(0) is CLOSED
    fail(one)
    assert one.state(0) is OPEN


def test_a_slow_success_ends_a_row_of_failures():
    """It is slow, but it did not fail."""
    one = circuit(consecutive_failures=2, minimum_calls=100)
    fail(one)
    slow(one)
    fail(one)
    assert one.state(0) is CLOSED


def test_a_time_window_forgets_before_it_is_judged():
    """Old failures do not open the circuit on the first one after a quiet night."""
    one = circuit(new_window=lambda: TimeWindow(10), minimum_calls=4)
    for _ in range(3):
        fail(one, 0.0)
    fail(one, 100.0)
    assert one.state(100) is CLOSED
    assert one.counts(100).calls == 1
    assert one.counts(110).calls == 0


def test_an_open_circuit_refuses_and_says_for_how_long():
    """And what opened it."""
    one = tripped()
    refusal = one.admit(4.0)
    assert refusal == Refusal(OPEN, 6.0, "it failed")
    assert not one.would_admit(9.9)
    assert one.would_admit(10.0)


def test_the_first_call_after_open_for_is_a_probe_and_closes():
    """With its success everything seen before is forgotten."""
    one = tripped()
    assert one.state(10.0) is OPEN
    probe = one.admit(10.0)
    assert isinstance(probe, Probe)
    assert one.state(10.0) is HALF_OPEN
    probe.success_at(11.0)
    assert one.state(11.0) is CLOSED
    assert one.counts(11.0).calls == 0
    assert changes(one) == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


def test_half_open_admits_exactly_so_many():
    """And closes when all of them have succeeded."""
    one = tripped(half_open_calls=3)
    probes = [one.admit(10.0) for _ in range(3)]
    assert one.admit(10.0) == Refusal(HALF_OPEN, None, "it failed")
    assert not one.would_admit(10.0)
    probes[0].success_at(11.0)
    probes[1].success_at(11.0)
    assert isinstance(one.admit(11.0), Refusal)
    probes[2].success_at(11.0)
    assert one.state(11.0) is CLOSED


def test_one_failed_probe_opens_again():
    """The others' late verdicts change nothing."""
    one = tripped(half_open_calls=3, open_for=(10.0, 20.0))
    first, second, third = (one.admit(10.0) for _ in range(3))
    first.bad(11.0, failed=True, slow=False, why="again")
    second.success_at(12.0)
    third.bad(12.0, failed=True, slow=False, why="and again")
    assert one.admit(30.9) == Refusal(OPEN, pytest.approx(0.1), "again")
    assert changes(one) == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN)]


def test_a_slow_probe_is_a_failed_one():
    """A backend that answers late is not well."""
    one = tripped()
    one.admit(10.0).bad(19.0, failed=False, slow=True, why="slow")
    assert one.state(19.0) is OPEN


def test_a_neutral_probe_gives_its_place_back():
    """Another may find out."""
    one = tripped()
    one.admit(10.0).neutral()
    assert one.would_admit(10.0)
    one.admit(10.0).success_at(10.0)
    assert one.state(10.0) is CLOSED


def test_a_lost_probe_gives_its_place_back():
    """A finalizer is enough, wherever it runs."""
    one = tripped()
    probe = one.admit(10.0)
    assert isinstance(one.admit(10.0), Refusal)
    del probe
    gc.collect()
    assert isinstance(one.admit(10.0), Probe)


def test_a_lost_probe_that_was_settled_gives_nothing_back():
    """Its place was given back once."""
    one = tripped(half_open_calls=2)
    probe = one.admit(10.0)
    probe.neutral()
    del probe
    gc.collect()
    kept = [one.admit(10.0) for _ in range(3)]
    assert [isinstance(each, Probe) for each in kept] == [True, True, False]


def test_a_probe_is_settled_once():
    """Its second verdict changes nothing."""
    one = tripped(half_open_calls=2)
    probe = one.admit(10.0)
    probe.success_at(10.0)
    probe.success_at(10.0)
    probe.neutral()
    probe.bad(10.0, failed=True, slow=False, why="no")
    assert one.state(10.0) is HALF_OPEN


def test_a_hung_probe_is_a_failed_one():
    """The circuit is open since it hung; then comes the next probe. It never sticks."""
    one = tripped(half_open_timeout=5.0)
    hung = one.admit(10.0)
    assert one.state(14.9) is HALF_OPEN
    assert one.state(15.0) is OPEN
    refusal = one.admit(16.0)
    assert refusal.retry_after == pytest.approx(9.0)
    assert "hung for more than 5 s" in refusal.why
    hung.success_at(17.0)
    assert one.state(17.0) is OPEN
    next_one = one.admit(25.0)
    next_one.success_at(25.0)
    assert one.state(25.0) is CLOSED


def test_a_hung_probe_that_nobody_noticed_for_long_opens_and_probes_at_once():
    """Time counts from when it hung, so that nothing waits twice."""
    one = tripped(half_open_timeout=5.0)
    hung = one.admit(10.0)
    assert isinstance(one.admit(1_000.0), Probe)
    assert changes(one)[-2:] == [(HALF_OPEN, OPEN), (OPEN, HALF_OPEN)]
    hung.neutral()


def test_verdicts_of_an_earlier_period_count_nowhere():
    """A slow success from before the trip neither closes nor re-opens anything."""
    one = circuit(consecutive_failures=1)
    before = [one.admit(0.0) for _ in range(3)]
    fail(one)
    before[0].success_at(1.0)
    assert one.state(1.0) is OPEN
    probe = one.admit(10.0)
    before[1].success_at(10.0)
    assert one.state(10.0) is HALF_OPEN
    probe.success_at(10.0)
    before[2].bad(11.0, failed=True, slow=False, why="late")
    assert one.state(11.0) is CLOSED
    assert one.counts(11.0).calls == 0


def test_a_probe_of_an_earlier_half_open_period_counts_nowhere():
    """Neither its success nor its failure."""
    one = tripped(half_open_calls=2)
    early, failing = one.admit(10.0), one.admit(10.0)
    failing.bad(10.0, failed=True, slow=False, why="no")
    later = one.admit(20.0)
    early.success_at(20.0)
    later.success_at(20.0)
    assert one.state(20.0) is HALF_OPEN


def test_isolate_holds_until_reset():
    """Time and late verdicts do nothing to it."""
    one = circuit(consecutive_failures=1)
    permit = one.admit(0.0)
    one.isolate()
    one.isolate()
    permit.bad(1.0, failed=True, slow=False, why="late")
    assert one.admit(1e9) == Refusal(ISOLATED, None, None)
    assert not one.would_admit(1e9)
    one.reset()
    assert isinstance(one.admit(1e9), Closed)
    assert changes(one) == [(CLOSED, ISOLATED), (ISOLATED, CLOSED)]


def test_isolating_a_half_open_circuit_outlives_its_probes():
    """Their verdicts belong to a period that is over."""
    one = tripped()
    probe = one.admit(10.0)
    one.isolate()
    probe.success_at(10.0)
    assert one.state(10.0) is ISOLATED


def test_reset_of_a_closed_circuit_forgets_without_an_event():
    """Nothing has changed but what it has seen."""
    one = circuit()
    fail(one)
    one.reset()
    assert one.counts(0).calls == 0
    assert changes(one) == []


def open_times(one, now, times):
    """How long the circuit stays open, trip by trip, while every probe fails."""
    found = []
    for _ in range(times):
        wait = one.admit(now).retry_after
        found.append(wait)
        now += wait
        one.admit(now).bad(now, failed=True, slow=False, why="again")
    return found, now


def test_plain_seconds_are_jittered_upwards_by_at_most_a_tenth():
    """So that the probes of a fleet spread."""
    found, _ = open_times(tripped(open_for=10.0), 0.0, 300)
    assert all(10 <= wait <= 11 for wait in found)
    assert len(set(found)) == 300
    assert max(found) > 10.9


def test_a_backoff_grows_per_failed_probe_and_resets_on_close():
    """It starts over with the next trip, and after a reset by hand."""
    one = tripped(open_for=exponential(1, maximum=100, jitter="none"))
    found, now = open_times(one, 0.0, 4)
    assert found == [1, 2, 4, 8]
    now += 16
    one.admit(now).success_at(now)
    fail(one, now)
    assert one.admit(now).retry_after == 1
    one.reset()
    fail(one, now)
    assert one.admit(now).retry_after == 1


def test_a_backoff_never_waits_less_than_half_of_it():
    """Full jitter would otherwise open the gates at once."""
    plain = [min(2.0**n, 64.0) for n in range(50)]
    found, _ = open_times(tripped(open_for=exponential(1, maximum=64)), 0.0, 50)
    assert all(wait / 2 <= found <= wait for wait, found in zip(plain, found, strict=True))
    assert len(set(found[10:])) > 10


def test_a_constant_backoff_with_jitter_keeps_the_floor():
    """Whatever the kind."""
    found, _ = open_times(tripped(open_for=constant(8, jitter="full")), 0.0, 100)
    assert all(4 <= wait <= 8 for wait in found)


def test_a_finite_backoff_repeats_its_last_wait():
    """As it stands, without jitter."""
    found, _ = open_times(tripped(open_for=(1.0, 5.0)), 0.0, 5)
    assert found == [1, 5, 5, 5, 5]


def test_a_random_series_of_the_users_own_is_taken_as_it_stands():
    """It is read once per trip, not twice."""

    class Mine:
        def __iter__(self):
            return iter([1.0, 50.0, 2.0])

    found, _ = open_times(tripped(open_for=Mine()), 0.0, 4)
    assert found == [1, 50, 2, 2]


def threads(count, work):
    barrier = threading.Barrier(count)

    def run():
        barrier.wait()
        work()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=run) for _ in range(count)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("places", [1, 7])
def test_a_thousand_threads_get_exactly_the_probes_there_are(places):
    """Nobody is admitted beside them."""
    one = tripped(half_open_calls=places)
    found = []
    threads(1_000, lambda: found.append(one.admit(10.0)))
    probes = [each for each in found if isinstance(each, Probe)]
    assert len(probes) == places
    assert changes(one) == [(CLOSED, OPEN), (OPEN, HALF_OPEN)]


def test_probes_that_come_and_go_in_many_threads_never_exceed_their_number():
    """Places are given back neutrally, or lost, and taken again."""
    one = tripped(half_open_calls=2)
    inside, most, lock = itertools.count(), [0], threading.Lock()
    held = [0]

    def work():
        for turn in range(100):
            permit = one.admit(10.0)
            if not isinstance(permit, Probe):
                continue
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
                next(inside)
            with lock:
                held[0] -= 1
            if turn % 3:
                permit.neutral()
            del permit

    threads(16, work)
    assert most[0] <= 2
    assert next(inside) > 0
    gc.collect()
    assert [isinstance(each, Probe) for each in [one.admit(10.0), one.admit(10.0)]] == [True] * 2


def test_simultaneous_failures_trip_once():
    """A hundred threads fail at once: one change of state."""
    one = circuit(minimum_calls=1)
    permits = [one.admit(0.0) for _ in range(100)]
    threads(100, lambda: permits.pop().bad(0.0, failed=True, slow=False, why="x"))
    assert changes(one) == [(CLOSED, OPEN)]


def test_a_forked_child_gets_back_the_probes_that_never_return():
    """And locks that nobody holds."""
    one = tripped()
    probe = one.admit(10.0)
    one._lock.acquire()
    one.telling.acquire()
    one.after_fork()
    assert isinstance(one.admit(10.0), Probe)
    assert one.telling.acquire(blocking=False)
    probe.neutral()
