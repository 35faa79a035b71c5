"""Each kind of pool against a plain model, over random histories of failures and time."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient import testing
from resilient.errors import PoolExhaustedError
from resilient.failover import ActiveActive, ActivePassive, Member, NPlusOne

from tests.failover.support import Backends, kinds, quick, states

NAMES = ["a", "b", "c", "d"]
names = st.sampled_from(NAMES)
SETTINGS = settings(max_examples=40, stateful_step_count=40, deadline=None)


class History(RuleBasedStateMachine):
    """Members fail and recover, time passes, calls are made."""

    pool: Any

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(testing.virtual_time(seed=0))
        self.events = self.stack.enter_context(testing.record_events())
        self.backends = Backends()
        self.calls = 0
        self.build()

    def build(self) -> None:
        raise NotImplementedError

    def teardown(self) -> None:
        self.stack.close()

    @rule(name=names)
    def fails(self, name: str) -> None:
        self.backends.down.add(name)

    @rule(name=names)
    def recovers(self, name: str) -> None:
        self.backends.down.discard(name)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.6, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def call(self, *args: Any) -> tuple[str | None, list[str], dict[str, str]]:
        """What answered, who was tried, and how all stood before."""
        before = states(self.pool)
        self.calls += 1
        self.backends.taken()
        try:
            answer = self.pool.call(self.backends, *args)
        except (ConnectionError, PoolExhaustedError):
            answer = None
        return answer, self.backends.taken(), before

    @invariant()
    def nothing_is_in_flight(self) -> None:
        assert all(member.in_flight == 0 for member in self.pool.snapshot().members)


class ActivePassiveHistory(History):
    def build(self) -> None:
        self.pool = ActivePassive(
            "pool", {name: name for name in NAMES}, on=ConnectionError, breaker=quick
        )
        self.elapsed = 0.0

    @rule(seconds=st.sampled_from([10.0, 40.0]))
    def much_time_passes(self, seconds: float) -> None:
        self.elapsed += seconds
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.6, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.elapsed += seconds
        self.clock.advance(seconds)

    @rule()
    def a_call_goes_to_the_active_member_first_and_then_on(self) -> None:
        active = self.pool.active
        answer, tried, before = self.call()
        # A member that fails is down at once; the next active one is well, or else on trial.
        order = [name for name in NAMES if before[name] == "healthy"]
        order += [name for name in NAMES if before[name] == "trial"]
        if before[active] != "down":
            order.remove(active)
            order.insert(0, active)
        served = next((name for name in order if name not in self.backends.down), None)
        assert answer == served
        assert tried == (order if served is None else order[: order.index(served) + 1])

    @rule(name=names)
    def somebody_switches(self, name: str) -> None:
        was = states(self.pool)[name]
        self.pool.switch_to(name)
        if was != "down":
            assert self.pool.active == name

    @invariant()
    def no_switch_without_a_reason(self) -> None:
        failures = [one for one in kinds(self.events, "MemberStateChanged") if one.new == "down"]
        switches = kinds(self.events, "FailoverSwitched")
        promotions = [one for one in switches if one.reason == "promotion"]
        failbacks = [one for one in switches if one.reason == "failback"]
        by_hand = [one for one in switches if one.reason == "manual"]
        assert len(promotions) <= len(failures) + len(by_hand)
        assert len(failbacks) <= self.elapsed / 30 * len(NAMES)
        for before, after in pairwise(switches):
            assert before.new == after.old

    @invariant()
    def the_active_one_is_not_down_while_another_is_well(self) -> None:
        found = states(self.pool)
        if found[self.pool.active] == "down":
            assert set(found.values()) == {"down"}


class NPlusOneHistory(History):
    keep = False

    def build(self) -> None:
        self.pool = NPlusOne(
            "pool",
            [Member("a", "a"), Member("b", "b"), Member("x", "x")],
            [Member("c", "c"), Member("d", "d")],
            on=ConnectionError,
            key=lambda key: key,
            breaker=quick,
            release="keep" if self.keep else "on_recovery",
        )
        self.owners = {key: self.pool.call(self.backends, key) for key in range(20)}
        self.backends.taken()

    @rule(key=st.integers(0, 19))
    def a_call_goes_to_its_owner_or_a_spare(self, key: int) -> None:
        snapshot = self.pool.snapshot()
        answer, tried, before = self.call(key)
        owner = self.server_of(self.owners[key])
        covers = {active: spare for spare, active in snapshot.covers}
        bound = {spare for spare, _ in snapshot.covers}
        others = set(before) - {owner, covers.get(owner)}
        # No other active, and no spare that is bound to another one.
        assert not set(tried) & (others - self.free_spares(bound))
        if before[owner] == "healthy" and owner not in self.backends.down:
            assert answer == owner
            assert tried == [owner]
        elif owner in covers and covers[owner] not in self.backends.down:
            assert answer in (owner, covers[owner])
        assert all(before[name] != "down" for name in tried)

    def server_of(self, place: str) -> str:
        return place

    def free_spares(self, bound: set[str]) -> set[str]:
        return {"c", "d"} - bound

    @invariant()
    def no_spare_covers_two_and_no_healthy_active_is_covered(self) -> None:
        snapshot = self.pool.snapshot()
        found = {member.name: member.state for member in snapshot.members}
        spares = [spare for spare, _ in snapshot.covers]
        actives = [active for _, active in snapshot.covers]
        assert len(set(spares)) == len(spares)
        assert len(set(actives)) == len(actives)
        assert not set(spares) & set(actives)
        for spare, active in snapshot.covers:
            assert found[active] != "healthy"
            assert found[spare] != "down"

    @invariant()
    def nothing_is_uncovered_while_a_spare_is_free_and_well(self) -> None:
        snapshot = self.pool.snapshot()
        found = {member.name: member.state for member in snapshot.members}
        free = self.free_spares({spare for spare, _ in snapshot.covers})
        if snapshot.uncovered:
            assert not [name for name in free if found[name] == "healthy"]

    @rule()
    @precondition(lambda self: self.calls)
    def assignments_and_releases_alternate(self) -> None:
        if self.keep:
            return
        bound: dict[str, str] = {}
        for event in kinds(self.events, "SpareAssigned", "SpareReleased"):
            if type(event).__name__ == "SpareAssigned":
                assert event.spare not in bound
                bound[event.spare] = event.active
            else:
                assert bound.pop(event.spare) == event.active


class KeepHistory(NPlusOneHistory):
    """With `keep` the places change hands; which place a key belongs to never changes."""

    keep = True

    def build(self) -> None:
        super().build()
        self.servers = {name: name for name in ("a", "b", "x")}
        self.told = 0

    def server_of(self, place: str) -> str:
        self.follow()
        return self.servers[place]

    def free_spares(self, bound: set[str]) -> set[str]:
        self.follow()
        return {"a", "b", "x", "c", "d"} - set(self.servers.values())

    def follow(self) -> None:
        assigned = kinds(self.events, "SpareAssigned")
        for event in assigned[self.told :]:
            place = next(key for key, name in self.servers.items() if name == event.active)
            assert event.spare not in self.servers.values()
            self.servers[place] = event.spare
        self.told = len(assigned)

    @rule(key=st.integers(0, 19))
    def a_call_goes_to_its_owner_or_a_spare(self, key: int) -> None:
        self.pool.snapshot()
        owner = self.server_of(self.owners[key])
        free = self.free_spares(set())
        answer, tried, before = self.call(key)
        assert set(tried) <= {owner} | free
        if before[owner] == "healthy" and owner not in self.backends.down:
            assert (answer, tried) == (owner, [owner])
        assert all(before[name] != "down" for name in tried)


class ActiveActiveHistory(History):
    def build(self) -> None:
        self.pool = ActiveActive(
            "pool", {name: name for name in NAMES}, on=ConnectionError, breaker=quick
        )

    @rule()
    def a_call_is_served_if_anybody_can(self) -> None:
        answer, tried, before = self.call()
        well = {name for name in NAMES if before[name] == "healthy"}
        usable = {name for name in NAMES if before[name] != "down"}
        for name in tried:
            # At most half are ejected: nobody who is down is called, unless the pool panics.
            assert name in usable or 2 * len(well) < len(NAMES)
            if name in self.backends.down:
                well.discard(name)
        if 2 * len(well) < len(NAMES):
            usable = set(NAMES)
        assert tried
        if usable - self.backends.down:
            assert answer is not None
            assert tried[-1] == answer
        assert len(set(tried)) == len(tried)
        on_trial = [name for name in tried if before[name] == "trial"]
        if on_trial:
            # A trial comes first, so that the call itself is served where all is well.
            assert tried[0] == on_trial[0]

    @invariant()
    def the_panic_is_announced_once(self) -> None:
        panics = kinds(self.events, "PoolPanicked")
        assert all(event.healthy < len(NAMES) / 2 for event in panics)
        if self.pool.snapshot().panics:
            assert panics


TestActivePassive = ActivePassiveHistory.TestCase
TestNPlusOne = NPlusOneHistory.TestCase
TestKeep = KeepHistory.TestCase
TestActiveActive = ActiveActiveHistory.TestCase
for case in (TestActivePassive, TestNPlusOne, TestKeep, TestActiveActive):
    case.settings = SETTINGS
