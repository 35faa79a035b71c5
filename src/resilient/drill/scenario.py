"""What a drill is told: the scenario of one run, and studies of several."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from resilient._policy import Policy
from resilient.drill.backend import Backend
from resilient.drill.checks import number, whole, words
from resilient.drill.errors import ScenarioError, inside
from resilient.drill.faults import Fault
from resilient.drill.load import MOST_CALLS, Load
from resilient.drill.objectives import METRICS, Objective, objective

CallFunction = Callable[..., Coroutine[Any, Any, Any]]

# Ten days: beyond it somebody has mistaken milliseconds for seconds.
_LONGEST: Final = 864_000.0
# What is only known of a fault.
_OF_FAULTS: Final = ("failover_time", "failback_time", "recovery_time")


class Scenario:
    """One run: who calls how often, through what, and what breaks when.

    Args:
        load: A `Load`, or calls per second.
        backends: The simulated backends.
        seconds: How long calls begin, in virtual seconds, above 0.
        policy: The policy object that calls go through: a pipeline, a pool. What it protects
            is one request to the backend; in a pool, to the member's backend, which is
            the one of the member's name.
        call: Instead of `policy`: a coroutine function that makes one call, in which
            `await backend.request()` is a request. It gets the key if the load has `keys`.
        faults: What breaks when.
        objectives: What the run is held against: `"availability >= 0.999"`.
        errors: Exceptions by which a call may fail, besides this library's and the backends'.
            Any other is taken for a mistake in the code that raised it, and ends the drill.
        around: Asynchronous context managers that are entered for the run: pools whose health
            checks are to run, when there is a `call`. A pool in `policy` is run anyway.
        drain: Seconds that calls still under way at the end are given. 60 by default.
        name: Names it in the report.
        seed: What all that is random is drawn from. 0 by default.

    Raises:
        ScenarioError: A value is of the wrong type or out of its range.
    """

    def __init__(
        self,
        *,
        load: Load | float,
        backends: Iterable[Backend],
        seconds: float,
        policy: Policy[Any, Any] | None = None,
        call: CallFunction | None = None,
        faults: Iterable[Fault] = (),
        objectives: Iterable[str] = (),
        errors: Iterable[type[Exception]] = (),
        around: Iterable[AbstractAsyncContextManager[Any]] = (),
        drain: float = 60,
        name: str = "",
        seed: int = 0,
    ) -> None:
        self.name = words(name, "name") if name else ""
        self.seed = whole(seed, "seed")
        self.seconds = number(seconds, "seconds", above=True, most=_LONGEST)
        self.drain = number(drain, "drain", most=_LONGEST)
        self.load = load if isinstance(load, Load) else Load(number(load, "load"))
        self.backends = _by_name(backends)
        self.faults = tuple(faults)
        self.errors = tuple(errors)
        self.around = tuple(around)
        self.policy = policy
        self.call = call
        self.objectives = _objectives(objectives)
        self._check()

    def _check(self) -> None:
        expected = self.load.expected(self.seconds)
        if expected > MOST_CALLS:
            raise ScenarioError(
                "load", f"would make {expected:,.0f} calls; a drill ends at {MOST_CALLS:,}"
            )
        if (self.policy is None) == (self.call is None):
            raise ScenarioError("policy", "give a policy, or a call, and not both")
        if self.policy is not None and not isinstance(self.policy, Policy):
            raise ScenarioError("policy", f"must be a policy object, not {self.policy!r:.80}")
        if self.call is not None and not callable(self.call):
            raise ScenarioError("call", "must be a coroutine function")
        for index, fault in enumerate(self.faults):
            with inside(f"faults[{index}]"):
                self._check_fault(fault)
        for index, one in enumerate(self.objectives):
            if one.metric in _OF_FAULTS and not self.faults:
                raise ScenarioError(f"objectives[{index}]", "nothing fails: add a fault")

    def _check_fault(self, fault: Fault) -> None:
        if not isinstance(fault, Fault):
            raise ScenarioError("", f"must be a fault such as Outage(...), not {fault!r:.80}")
        fault.resolve(self.backends)
        if fault.at >= self.seconds:
            raise ScenarioError("at", f"is after the end of the drill, {self.seconds:g} s")


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that somebody has published, for the report to hold its own beside.

    Args:
        run: The name of the run that it stands beside.
        metric: Which of its figures.
        value: The published one, in the same unit; or `None` for words alone.
        text: What was published, in words.
    """

    run: str
    metric: str
    value: float | None
    text: str = ""


class Study:
    """Several runs side by side.

    Args:
        name: Names it; what `drill` is called with, if it comes with the library.
        runs: The runs by name: scenarios, or functions without arguments that build one.
        title: One line that says what it shows.
        source: Where the published figures are from.
        published: The published figures.
        seed: Replaces the scenarios' own seeds, if it is given.

    Raises:
        ScenarioError: A value is of the wrong type or out of its range.
    """

    def __init__(
        self,
        name: str,
        runs: Mapping[str, Scenario | Callable[[], Scenario]],
        *,
        title: str = "",
        source: str = "",
        published: Sequence[Published] = (),
        seed: int | None = None,
    ) -> None:
        self.name = words(name, "name")
        self.title = title
        self.source = source
        self.seed = None if seed is None else whole(seed, "seed")
        if not isinstance(runs, Mapping) or not runs:
            raise ScenarioError("runs", "must be a mapping of names to scenarios")
        self.runs = {run: _built(one, run) for run, one in runs.items()}
        self.published = tuple(published)
        for index, one in enumerate(self.published):
            if one.run not in self.runs or one.metric not in METRICS:
                raise ScenarioError(f"published[{index}]", f"there is no such figure: {one!r}")


def _built(given: Any, run: str) -> Scenario:
    scenario = given if isinstance(given, Scenario) else given() if callable(given) else given
    if not isinstance(scenario, Scenario):
        raise ScenarioError(f"runs.{run}", f"must be a Scenario, not {scenario!r:.80}")
    return scenario


def _by_name(backends: Any) -> dict[str, Backend]:
    found: dict[str, Backend] = {}
    given = [backends] if isinstance(backends, Backend) else backends
    for index, backend in enumerate(given):
        if not isinstance(backend, Backend):
            raise ScenarioError(f"backends[{index}]", f"must be a Backend, not {backend!r:.80}")
        if backend.name in found:
            raise ScenarioError(f"backends[{index}]", f"{backend.name!r} is there twice")
        found[backend.name] = backend
    if not found:
        raise ScenarioError("backends", "must name at least one backend")
    return found


def _objectives(given: Any) -> tuple[Objective, ...]:
    if isinstance(given, str):
        raise ScenarioError("objectives", f"must be a list of strings, not the string {given!r}")
    return tuple(objective(one, f"objectives[{index}]") for index, one in enumerate(given))
