"""The circuit breaker against a plain model of its rules, by random walks."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from resilient._core.circuit import Circuit, CircuitState, Refusal, Rules
from resilient._core.window import CountWindow


class Model:
    """What the rules say, with a list of calls and a number for each period."""

    def __init__(self, size, minimum, rate, slow_rate, row, waits, probes, timeout):
        self.size, self.minimum, self.rate, self.slow_rate = size, minimum, rate, slow_rate
        self.row, self.waits, self.probes, self.timeout = row, waits, probes, timeout
        self.period, self.events = 0, []
        self.state, self.trips = "closed", 0
        self.calls, self.in_a_row = [], 0

    def enter(self, state):
        if state != self.state:
            self.events.append((self.state, state))
        self.state, self.period = state, self.period + 1
        self.calls, self.in_a_row = [], 0
        self.started, self.won = {}, 0

    def open(self, now):
        self.until = now + self.waits[min(self.trips, len(self.waits) - 1)]
        self.trips += 1
        self.enter("open")

    def close(self):
        self.trips = 0
        self.enter("closed")

    def look(self, now):
        if self.state == "half_open" and self.started:
            hung = min(self.started.values()) + self.timeout
            if hung <= now:
                self.open(hung)

    def admit(self, serial, now):
        self.look(now)
        if self.state == "open" and now >= self.until:
            self.enter("half_open")
        if self.state == "half_open" and self.won + len(self.started) < self.probes:
            self.started[serial] = now
            return True
        return self.state == "closed"

    def verdict(self, serial, period, now, failed, slow):
        if period != self.period:
            return
        if self.state == "half_open":
            del self.started[serial]
            if failed or slow:
                self.open(now)
            else:
                self.won += 1
                if self.won == self.probes:
                    self.close()
            return
        self.calls = [*self.calls, (failed, slow)][-self.size :]
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if (failed or slow) and self.trips_now():
            self.open(now)

    def trips_now(self):
        enough = len(self.calls) >= self.minimum
        failures = sum(failed for failed, _ in self.calls) / len(self.calls)
        slow = sum(slow for _, slow in self.calls) / len(self.calls)
        by_slow = enough and 0 < slow >= self.slow_rate
        if self.row is not None:
            return self.in_a_row >= self.row or by_slow
        return (enough and failures >= self.rate) or by_slow

    def neutral(self, serial, period):
        if period == self.period and self.state == "half_open":
            del self.started[serial]


class CircuitMachine(RuleBasedStateMachine):
    permits = Bundle("permits")

    @initialize(
        size=st.integers(1, 8),
        minimum=st.integers(1, 8),
        rate=st.sampled_from([0.25, 0.5, 1.0]),
        slow_rate=st.sampled_from([0.5, 1.0]),
        row=st.sampled_from([None, None, 1, 3]),
        waits=st.lists(st.integers(1, 20).map(float), min_size=1, max_size=3),
        probes=st.integers(1, 3),
        timeout=st.integers(5, 30).map(float),
    )
    def build(self, size, minimum, rate, slow_rate, row, waits, probes, timeout):
        minimum = min(size, minimum)
        self.model = Model(size, minimum, rate, slow_rate, row, waits, probes, timeout)
        self.circuit = Circuit(
            Rules(
                lambda: CountWindow(size), minimum, rate, row, slow_rate, tuple(waits), probes,
                timeout,
            )
        )  # fmt: skip
        self.now, self.serial = 0.0, 0

    @rule(target=permits, calls=st.integers(1, 4))
    def admit(self, calls):
        found = []
        for _ in range(calls):
            self.serial += 1
            expected = self.model.admit(self.serial, self.now)
            permit = self.circuit.admit(self.now)
            assert expected is not isinstance(permit, Refusal)
            if expected:
                found.append((permit, self.serial, self.model.period))
        return multiple(*found)

    @rule(permit=consumes(permits), failed=st.booleans(), slow=st.booleans())
    def verdict(self, permit, failed, slow):
        token, serial, period = permit
        if failed or slow:
            token.bad(self.now, failed, slow, "x")
        else:
            token.success_at(self.now)
        self.model.verdict(serial, period, self.now, failed, slow)

    @rule(permit=consumes(permits))
    def neutral(self, permit):
        token, serial, period = permit
        token.neutral()
        self.model.neutral(serial, period)

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0, 40.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def isolate(self):
        self.circuit.isolate()
        if self.model.state != "isolated":
            self.model.enter("isolated")

    @rule()
    def reset(self):
        self.circuit.reset()
        self.model.close()

    @invariant()
    def same_state(self):
        if not hasattr(self, "model"):
            return
        self.model.look(self.now)
        assert self.circuit.state(self.now) is CircuitState(self.model.state)
        found = [(old.value, new.value) for old, new in self.circuit.changes]
        assert found == self.model.events
        if self.model.state == "closed":
            assert self.circuit.counts(self.now).calls == len(self.model.calls)


TestCircuitMachine = CircuitMachine.TestCase
TestCircuitMachine.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
