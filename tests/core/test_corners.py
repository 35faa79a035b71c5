"""What happens seldom: lost races, rounding, wrong values, and the second time of everything."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from resilient import CircuitBreaker, Retry, decorrelated
from resilient._core.backoff import Backoff
from resilient._core.balance import Group, View, _in_turn
from resilient._core.circuit import CircuitState, Closed, Probe
from resilient._core.health import Health
from resilient._core.living import Living
from resilient._core.standby import Lifecycle
from resilient._core.window import TimeWindow

from tests.core.test_circuit import circuit, tripped


def test_the_base_of_the_backoffs_has_no_waits() -> None:
    """Nothing waits by it: each backoff says for itself how long."""
    with pytest.raises(NotImplementedError):
        iter(Backoff())
    with pytest.raises(NotImplementedError):
        Backoff().plain()


def test_a_circuit_with_decorrelated_waits_stays_open_for_half_of_each_at_least(clock: Any) -> None:
    """Jitter must not open the gates at once."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=decorrelated(2, maximum=60))
    for least in (1, 3, 9):
        with pytest.raises(ZeroDivisionError):
            breaker.call(lambda: 1 / 0)
        clock.advance(least - 0.001)
        assert breaker.state is CircuitState.OPEN
        clock.advance(60)


def test_what_is_open_is_not_tripped_again() -> None:
    """Nor does it stay open any longer."""
    one = tripped()
    before = one.period
    one.trip(1.0, "again")
    assert one.period is before


def test_a_closed_circuit_is_the_same_in_a_forked_child() -> None:
    """It has no probes to take back, only locks."""
    one = circuit()
    one._lock.acquire()
    one.after_fork()
    assert isinstance(one.admit(0.0), Closed)
    assert one._lock.acquire(blocking=False)


def test_a_probe_that_ended_and_is_lost_gives_one_place_back() -> None:
    """Not two: more probes than allowed would go out."""
    one = tripped()
    probe: Any = one.admit(10.0)
    one.period.lost.append(probe._serial)  # type: ignore[union-attr]
    probe.neutral()
    another = one.admit(10.0)
    assert isinstance(another, Probe)
    assert not isinstance(one.admit(10.0), Probe)


def test_a_member_without_checks_ignores_a_late_probe() -> None:
    """Its pool may have been built anew without them."""
    health = Health(circuit(), None)
    before = health.standing(0.0)
    health.checked(False, 0.0)
    assert health.standing(0.0) is before


def test_a_registry_forgets_nobody_who_has_taken_an_old_address() -> None:
    """An object may get the id of one that has died, before the registry hears of that."""

    class Thing:
        pass

    living: Living[Thing] = Living()
    thing = Thing()
    living.add(thing)
    (old,) = living._references.values()
    living.add(thing)
    living._forget(old)
    assert living.all() == [thing]


def test_what_is_not_warm_cannot_be_retired() -> None:
    """There is nothing to stop."""
    assert Lifecycle().retire(lambda: True, object) is None


def test_a_draw_that_rounding_leaves_over_goes_to_the_first_group() -> None:
    """The shares may add up to a little less than their total."""

    class Highest(random.Random):
        def random(self) -> float:
            return 1.0

    groups = [Group(share=0.5), Group(share=0.5)]
    assert _in_turn(View(groups, total=1.0), Highest()) == groups


@pytest.mark.parametrize(
    ("wrong", "hint"), [([OSError], "write a tuple"), (OSError("x"), "write its class, OSError")]
)
def test_what_is_no_exception_class_is_refused_with_a_hint(wrong: Any, hint: str) -> None:
    """The usual mistakes have an answer."""
    with pytest.raises(TypeError, match=hint):
        Retry(on=wrong)


def test_two_threads_open_one_slice_of_a_window() -> None:
    """The one that comes second finds it: a second one would push a living one out."""
    window = TimeWindow(10)

    class Late:
        """A lock that another thread had before."""

        def __enter__(self) -> None:
            window._lock = threading.Lock()
            window.record(0, 5.0)

        def __exit__(self, *exc: object) -> None: ...

    window._lock = Late()  # type: ignore[assignment]
    window.success_at(5.0)
    assert len(window._buckets) == 1
    assert window.counts(5.0).calls == 2
