"""The instruments, made once: they become real when a meter provider is set."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from resilient._policy import Policy, policies
from resilient.telemetry import _settings
from resilient.telemetry._names import (
    BREAKER_STATE,
    MEMBER,
    MEMBER_STATE,
    POLICY_KIND,
    POLICY_NAME,
    POOL,
    Attributes,
)

_SECONDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 25, 50,
)  # fmt: skip
_COUNTS: Final = (1, 2, 3, 4, 5, 7, 10, 15, 20)

BREAKER_STATES: Final = ("closed", "open", "half_open", "isolated")


class _Signal(Generator[Iterable[Observation], CallbackOptions, None]):
    """A callback that observes nothing, and tells when its instrument becomes real.

    A callback may be a generator, and a real instrument takes it to its first `yield` when
    it is made. So this is how to learn of a meter provider, by public means, without asking
    at each call. It is a class because a generator cannot serve two readers at once.
    """

    def send(self, value: CallbackOptions | None) -> Iterable[Observation]:
        _settings.listen()
        return ()

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Iterable[Observation]:
        raise typ if val is None else val  # type: ignore[misc]


class Instruments:
    """Every instrument of the meter."""

    def __init__(self, meter: Meter) -> None:
        self.duration = meter.create_histogram(
            "resilient.call.duration",
            unit="s",
            description="Duration of calls of protected functions, all attempts included.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.call_attempts = meter.create_histogram(
            "resilient.call.attempts",
            unit="{attempt}",
            description="Attempts that one call of a protected function took.",
            explicit_bucket_boundaries_advisory=_COUNTS,
        )
        self.delay = meter.create_histogram(
            "resilient.retry.delay",
            unit="s",
            description="Waits before a further attempt.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.attempts = meter.create_counter(
            "resilient.attempts", "{attempt}", "Attempts of protected functions."
        )
        self.rejections = meter.create_counter(
            "resilient.rejections", "{call}", "Calls refused before they were made."
        )
        self.timeouts = meter.create_counter(
            "resilient.timeouts", "{call}", "Calls ended because their time was up."
        )
        self.hedges = meter.create_counter(
            "resilient.hedges", "{attempt}", "Hedges that have ended, by how they did."
        )
        self.switches = meter.create_counter(
            "resilient.failover.switches", "{switch}", "Changes of the active member of a pool."
        )
        self.fallbacks = meter.create_counter(
            "resilient.fallbacks", "{call}", "Calls in which a fallback stood in."
        )
        self.transitions = meter.create_counter(
            "resilient.circuit_breaker.transitions", "{transition}", "Changes of breakers' states."
        )
        _observe_states(meter)


def _observe_states(meter: Meter) -> None:
    observed: list[tuple[str, str, str, Callable[[], Totals]]] = [
        ("circuit_breaker.state", "{breaker}", "Breakers in each state.", _breakers),
        ("pool.member.state", "{member}", "Members of pools in each state.", _members),
        ("bulkhead.active", "{call}", "Calls that hold a permit.", _of_bulkheads("active")),
        ("bulkhead.pending", "{call}", "Calls that wait for a permit.", _of_bulkheads("pending")),
        ("bulkhead.limit", "{call}", "Permits that there are.", _of_bulkheads("limit")),
    ]
    for name, unit, description, read in observed:
        callbacks = [_callback(read)]
        if name == "bulkhead.limit":
            # On the last one made: when it is real, all the others are.
            callbacks.append(_Signal())
        meter.create_observable_up_down_counter(f"resilient.{name}", callbacks, unit, description)


class Totals:
    """Sums by attributes: policies of one name, as those made per key, add up."""

    def __init__(self) -> None:
        self._sums: dict[tuple[tuple[str, Any], ...], float] = {}

    def add(self, amount: float, attributes: Attributes) -> None:
        """Add `amount` to what bears the same attributes."""
        key = tuple(attributes.items())
        self._sums[key] = self._sums.get(key, 0) + amount

    def __iter__(self) -> Iterator[Observation]:
        return (Observation(total, dict(key)) for key, total in self._sums.items())


def _callback(read: Callable[[], Totals]) -> Any:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return read() if _settings.metrics else ()

    return observe


def named(policy: Policy[Any, Any]) -> dict[str, Any]:
    """The attributes that every event and every policy's metric bears."""
    return {POLICY_NAME: policy.name, POLICY_KIND: policy.kind}


def _breakers() -> Totals:
    totals = Totals()
    for policy in policies():
        if policy.kind == "circuit_breaker":
            current = policy.snapshot().state.value
            for state in BREAKER_STATES:
                totals.add(state == current, named(policy) | {BREAKER_STATE: state})
    return totals


def _members() -> Totals:
    totals = Totals()
    for policy in policies():
        if hasattr(type(policy), "members"):
            states: tuple[str, ...] = getattr(policy, "member_states", ())
            for member in policy.snapshot().members:
                base = named(policy) | {POOL: policy.name, MEMBER: member.name}
                for state in dict.fromkeys((*states, member.state)):
                    totals.add(state == member.state, base | {MEMBER_STATE: state})
    return totals


def _of_bulkheads(field: str) -> Callable[[], Totals]:
    def read() -> Totals:
        totals = Totals()
        for policy in policies():
            if policy.kind == "bulkhead":
                totals.add(getattr(policy.snapshot(), field), named(policy))
        return totals

    return read


instruments = Instruments(metrics.get_meter("resilient"))
