"""When a hedge is launched, who wins, and which error is raised: plain calls, no time."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient import BulkheadFullError, CallTimeoutError, RetryBudget
from resilient._core.hedging import PRIMARY, Race, Rules, outcome
from resilient._core.quantile import Measured, Quantile
from resilient._core.verdict import Matcher


def rules(delay=1.0, *, measured=None, max_hedges=1, on=OSError, budget=None):
    return Rules(delay, measured, max_hedges, Matcher(on), budget)


def refusal():
    return BulkheadFullError("full", policy="inner")


def test_the_delay_counts_from_the_last_start():
    """Each start puts the next hedge off by a whole delay; after the last there is none."""
    race = Race(rules(2.0, max_hedges=2), 10.0)
    assert race.due == 12
    assert race.launch(12.5, None, once=False) == 1
    assert race.due == 14.5
    assert race.launch(14.5, None, once=False) == 2
    assert race.due is None
    assert race.launch(20, None, once=False) is None
    assert set(race.flying) == {0, 1, 2}


@pytest.mark.parametrize(
    ("deadline", "once", "tokens"), [(1.0, False, True), (None, True, True), (None, False, False)]
)
def test_what_forbids_a_hedge_closes_the_race(deadline, once, tokens):
    """At the deadline, inside `once()`, or without a token nothing more is launched, ever."""
    budget = RetryBudget(capacity=1)
    if not tokens:
        assert budget.withdraw()
    race = Race(rules(budget=budget), 0)
    assert race.launch(1.0, deadline, once=once) is None
    assert race.due is None
    assert budget.tokens == int(tokens)
    assert not race.over
    assert race.returned(PRIMARY, 5)


def test_the_first_to_return_wins():
    """Whatever comes later is late, and changes nothing."""
    race = Race(rules(), 0)
    race.launch(1, None, once=False)
    assert race.returned(1, 2)
    assert (race.over, race.winner) == (True, 1)
    assert not race.returned(PRIMARY, 3)
    assert not race.failed(PRIMARY, ValueError())
    race.end(ValueError())
    assert (race.winner, race.error()) == (1, None)


def test_the_lowest_numbered_failure_is_the_calls_error():
    """Not the one that came first."""
    race = Race(rules(), 0)
    race.launch(1, None, once=False)
    first, second = OSError("first"), OSError("second")
    assert race.failed(1, second)
    race.settle()
    assert not race.over
    assert race.failed(PRIMARY, first)
    race.settle()
    assert race.over
    assert race.error() is first
    assert race.error() is None


def test_refusals():
    """One is dropped while others are in flight, and gives way to a real error."""
    race = Race(rules(), 0)
    race.launch(1, None, once=False)
    assert not race.failed(1, refusal())
    assert not race.over
    real = OSError()
    race.failed(PRIMARY, real)
    race.settle()
    assert race.error() is real

    alone, refused = Race(rules(), 0), refusal()
    assert not alone.failed(PRIMARY, refused)
    assert alone.over
    assert alone.error() is refused

    named = Race(rules(on=BulkheadFullError), 0)
    assert named.failed(PRIMARY, refusal())
    assert not named.over


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), GeneratorExit()])
def test_another_error_ends_the_call(error):
    """What `on` does not match is the caller's business at once."""
    race = Race(rules(), 0)
    race.launch(1, None, once=False)
    assert not race.failed(1, error)
    assert race.over
    assert race.error() is error


def test_a_broken_predicate_ends_the_call():
    """Its own error comes out."""

    def broken(error):
        raise LookupError("broken")

    race = Race(rules(on=broken), 0)
    assert not race.failed(PRIMARY, OSError())
    assert isinstance(race.error(), LookupError)


def test_what_is_learnt():
    """Winners with their time, those they overtook with theirs, later ones not at all."""
    measured = Measured(Quantile(0.5, initial=1))
    race = Race(rules(measured=measured, max_hedges=2), 0)
    race.launch(1, None, once=False)
    race.launch(2, None, once=False)
    race.returned(1, 3.5)
    assert measured._sorted == [2.5, 3.5]
    failed = Race(rules(measured=measured), 0)
    failed.failed(PRIMARY, OSError())
    failed.settle()
    assert len(measured._sorted) == 2


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OSError(), "failure"),
        (refusal(), "rejected"),
        (CallTimeoutError(policy="inner", seconds=1), "timeout"),
        (KeyboardInterrupt(), "cancelled"),
    ],
)
def test_outcomes(error, name):
    """How telemetry calls the end of an attempt."""
    assert outcome(error) == name


class Model(RuleBasedStateMachine):
    """A race against a plain account of what has happened."""

    @initialize(hedges=st.integers(1, 4), tokens=st.integers(1, 5))
    def start(self, hedges, tokens):
        self.budget = RetryBudget(ratio=0.1, capacity=tokens)
        self.race = Race(rules(max_hedges=hedges, budget=self.budget), 0)
        self.most = min(hedges, tokens)
        self.flying, self.failures, self.refused = {0}, {}, []
        self.launched, self.now, self.end = 0, 0.0, None

    def _launch(self):
        number = self.race.launch(self.now, None, once=False)
        allowed = self.end is None and self.launched < self.most
        assert (number is not None) == allowed
        if number is not None:
            self.launched += 1
            assert number == self.launched
            self.flying.add(number)

    @rule()
    def time_passes(self):
        self.now += 1
        self._launch()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), how=st.sampled_from(["returns", "fails", "is refused", "breaks"]))
    def attempt(self, data, how):
        number = data.draw(st.sampled_from(sorted(self.flying)))
        self.flying.discard(number)
        if how == "returns":
            assert self.race.returned(number, self.now) == (self.end is None)
            self.end = self.end or ("won", number)
            return
        error = {"fails": OSError(), "is refused": refusal(), "breaks": ValueError()}[how]
        again = self.race.failed(number, error)
        assert again == (how == "fails" and self.end is None)
        if self.end is None:
            self._account(number, how, error)
        if again:
            self._launch()
            self.race.settle()
        if self.end is None and not self.flying:
            chosen = self.failures[min(self.failures)] if self.failures else self.refused[0]
            self.end = ("error", chosen)

    def _account(self, number, how, error):
        if how == "fails":
            self.failures[number] = error
        elif how == "is refused":
            self.refused.append(error)
        else:
            self.end = ("error", error)

    @invariant()
    def agrees(self):
        race = self.race
        assert race.over == (self.end is not None)
        assert set(race.flying) == self.flying
        assert race.hedges == self.launched <= self.most
        if self.end is not None:
            kind, what = self.end
            assert (race.winner if kind == "won" else race.ended_by) == what
            assert race.due is None


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


def test_the_tail_at_scale():
    """Hedging at d makes S(t) into S(t)·S(t-d) for S(d) more requests.

    100 servers, lognormal answers around 3 ms, stalls of 0.1 to 2 s in 2 of 1,000; the slowest
    of a fan-out to all of them counts.
    """
    dice = random.Random(1)
    delay, fans, servers = 0.010, 1000, 100

    def answer():
        if dice.random() < 0.002:
            return dice.uniform(0.1, 2)
        return 0.003 * dice.lognormvariate(0, 0.45)

    alone = sorted(answer() for _ in range(200_000))
    requests, slowest = 0, []
    for _ in range(fans):
        worst = 0.0
        for _ in range(servers):
            took, made = _play(delay, [answer(), answer()])
            requests += made
            worst = max(worst, took)
        slowest.append(worst)
    slowest.sort()

    def survive(t):
        low, high = 0, len(alone)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if alone[middle] <= t else (low, middle)
        return 1 - low / len(alone)

    def fan_out_is_within(t):
        return (1 - survive(t) * survive(t - delay)) ** servers

    ideal = next(t / 10_000 for t in range(1, 30_000) if fan_out_is_within(t / 10_000) >= 0.995)
    extra = requests / (fans * servers) - 1
    assert slowest[int(0.995 * fans)] <= 1.25 * ideal
    assert extra <= 1.2 * survive(delay)


def _play(delay, answers):
    """One hedged call by the rules: how long it took, and how many requests it made."""
    race = Race(rules(delay), 0)
    ends = {0: answers[0]}
    while not race.over:
        number = min(ends, key=ends.__getitem__)
        due = race.due
        if due is not None and due < ends[number]:
            hedge = race.launch(due, None, once=False)
            ends[hedge] = due + answers[hedge]
        else:
            race.returned(number, ends[number])
    return ends[race.winner], len(race.flying) + 1
