"""What came of a drill, as plain values: for the table, the page and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any, Final

from resilient.drill.objectives import Objective
from resilient.drill.recorder import PIECES, Recorder
from resilient.drill.scenario import Scenario, Study
from resilient.drill.timing import Handling, degraded, handling, rounded

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class BackendReport:
    """What one backend had to do; `utilisation` is `None` for one without a capacity."""

    name: str
    requests: int
    share: float
    failures: int
    utilisation: float | None
    running: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One objective, what was found, and whether it is met."""

    objective: Objective
    value: float | None
    met: bool


@dataclass(frozen=True, slots=True)
class RunReport:
    """What came of one run."""

    seed: int
    seconds: float
    elapsed: float
    interrupted: bool
    metrics: dict[str, float | None]
    backends: tuple[BackendReport, ...]
    faults: tuple[Handling, ...]
    failures: dict[str, int]
    events: tuple[tuple[str, str, str, int], ...]
    verdicts: tuple[Verdict, ...]
    series: dict[str, list[float | None]]
    requests: dict[str, list[float]]
    lanes: dict[str, list[tuple[float, str]]]

    @property
    def passed(self) -> bool:
        """Whether all objectives are met."""
        return all(verdict.met for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """It as plain values, in a fixed order."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "elapsed": rounded(self.elapsed),
            "interrupted": self.interrupted,
            "passed": self.passed,
            "metrics": {name: rounded(value) for name, value in self.metrics.items()},
            "objectives": [
                {"objective": one.objective.text, "value": rounded(one.value), "met": one.met}
                for one in self.verdicts
            ],
            "backends": [
                {
                    "name": one.name,
                    "requests": one.requests,
                    "share": rounded(one.share),
                    "failures": one.failures,
                    "utilisation": rounded(one.utilisation),
                    "running": rounded(one.running),
                }
                for one in self.backends
            ],
            "faults": [one.as_dict() for one in self.faults],
            "failures": self.failures,
            "events": [
                {"policy": policy, "kind": kind, "event": event, "count": count}
                for policy, kind, event, count in self.events
            ],
            "width": rounded(self.seconds / PIECES),
            "series": self.series,
            "requests": self.requests,
            "states": {
                name: [[rounded(at), state] for at, state in changes]
                for name, changes in self.lanes.items()
            },
        }


@dataclass
class Report:
    """What came of a drill, run by run."""

    study: Study
    runs: dict[str, RunReport] = field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end."""
        return any(run.interrupted for run in self.runs.values())

    @property
    def passed(self) -> bool:
        """Whether every run met all its objectives, and came to its end."""
        return not self.interrupted and all(run.passed for run in self.runs.values())

    def as_dict(self) -> dict[str, Any]:
        """It as plain values, in a fixed order."""
        return {
            "format": _FORMAT,
            "drill": self.study.name,
            "title": self.study.title,
            "source": self.study.source,
            "passed": self.passed,
            "interrupted": self.interrupted,
            "published": [
                {
                    "run": one.run,
                    "metric": one.metric,
                    "published": one.value,
                    "text": one.text,
                    "here": rounded(self.runs[one.run].metrics[one.metric]),
                }
                for one in self.study.published
                if one.run in self.runs
            ],
            "runs": {name: run.as_dict() for name, run in self.runs.items()},
        }

    def as_json(self) -> str:
        """It as JSON; the same drill with the same seed gives the same text."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"


def joined(reports: list[Report]) -> Report:
    """Return several reports as one, side by side."""
    twice = len({one.study.name for one in reports}) < len(reports)
    runs: dict[str, RunReport] = {}
    studies: dict[str, Scenario] = {}
    published = []
    for number, report in enumerate(reports, 1):
        prefix = f"{report.study.name}-{number}" if twice else report.study.name
        for name, run in report.runs.items():
            whole = prefix if len(report.study.runs) == 1 else f"{prefix}: {name}"
            runs[whole], studies[whole] = run, report.study.runs[name]
            own = (one for one in report.study.published if one.run == name)
            published += [replace(one, run=whole) for one in own]
    title = " beside ".join(one.study.title or one.study.name for one in reports)
    source = "; ".join(dict.fromkeys(one.study.source for one in reports if one.study.source))
    name = " and ".join(one.study.name for one in reports)
    study = Study(name, studies, title=title, source=source, published=published)
    return Report(study, runs)


def report_of(
    scenario: Scenario,
    recorder: Recorder | None,
    seed: int,
    elapsed: float,
    *,
    interrupted: bool,
) -> RunReport:
    """Put together what was written down in a run."""
    found = recorder or Recorder(0.0, scenario.seconds, ())
    faults = tuple(
        handling(fault, fault.resolve(scenario.backends), found, elapsed)
        for fault in scenario.faults
        if fault.at < elapsed
    )
    backends = _backends(scenario, found, elapsed)
    metrics = _metrics(found, elapsed, faults, backends)
    return RunReport(
        seed=seed,
        seconds=scenario.seconds,
        elapsed=elapsed,
        interrupted=interrupted,
        metrics=metrics,
        backends=backends,
        faults=faults,
        failures=dict(sorted(found.failures.items())),
        events=tuple((*key, count) for key, count in sorted(found.events.items())),
        verdicts=tuple(
            Verdict(one, metrics[one.metric], one.met(metrics[one.metric]))
            for one in scenario.objectives
        ),
        series=_series(found),
        requests={name: _rates(row, found.width) for name, row in found.requests.items()},
        lanes={name: lane.changes for name, lane in sorted(found.lanes.items())},
    )


def _backends(scenario: Scenario, recorder: Recorder, elapsed: float) -> tuple[BackendReport, ...]:
    total = sum(backend.requests for backend in scenario.backends.values())
    return tuple(
        BackendReport(
            name=name,
            requests=one.requests,
            share=one.requests / total if total else 0.0,
            failures=one.failures,
            utilisation=_part(min(one.busy, (one.capacity or 0) * elapsed), one.capacity, elapsed),
            running=recorder.ran.get(name, 0.0) / elapsed if elapsed else 0.0,
        )
        for name, one in scenario.backends.items()
    )


def _part(busy: float, capacity: int | None, elapsed: float) -> float | None:
    return None if capacity is None or not elapsed else busy / (capacity * elapsed)


def _metrics(
    recorder: Recorder,
    elapsed: float,
    faults: tuple[Handling, ...],
    backends: tuple[BackendReport, ...],
) -> dict[str, float | None]:
    calls, good = recorder.calls, recorder.successes
    requests = sum(one.requests for one in backends)
    ended = good + sum(recorder.failures.values()) + recorder.unfinished
    availability = good / ended if ended else None
    used = [one.utilisation for one in backends if one.utilisation is not None]
    latency = recorder.latency.percentile
    return {
        "availability": availability,
        "nines": None if availability is None else _nines(availability),
        "calls": calls,
        "successes": good,
        "failures": ended - good,
        "rejected": recorder.rejected,
        "timed_out": recorder.timed_out,
        "unfinished": recorder.unfinished,
        "goodput": good / elapsed if elapsed else None,
        "p50": latency(50),
        "p95": latency(95),
        "p99": latency(99),
        "p999": latency(99.9),
        "longest": latency(100),
        "finished": recorder.last_end - recorder.start,
        "requests": requests,
        "amplification": requests / calls if calls else None,
        "failover_time": _longest(one.failover for one in faults if one.failover is not None),
        "failback_time": _longest(one.failback for one in faults if one.failover is not None),
        "recovery_time": _longest(one.recovery for one in faults),
        "degraded_time": degraded(recorder, elapsed),
        "utilisation": sum(used) / len(used) if used else None,
        "members": sum(one.running for one in backends),
    }


def _nines(availability: float) -> float:
    return math.inf if availability >= 1 else abs(math.log10(1 - availability))


def _longest(times: Any) -> float | None:
    """The longest of `times`; `None` if there are none, or one of them is never."""
    found = list(times)
    return None if not found or None in found else max(found)


def _rates(row: Any, width: float) -> list[float]:
    return [rounded(count / width, 5) or 0.0 for count in row]


def _series(recorder: Recorder) -> dict[str, list[float | None]]:
    """What the plots show: per second, and seconds of latency, for each piece of time."""
    width = recorder.width
    found: dict[str, list[float | None]] = {
        "load": list(_rates(recorder.started, width)),
        "goodput": list(_rates(recorder.good, width)),
        "failures": list(_rates(recorder.bad, width)),
    }
    recorder.close_piece()
    for name, values in (("p50", recorder.p50), ("p99", recorder.p99)):
        found[name] = [rounded(value, 4) for value in values]
    return found
