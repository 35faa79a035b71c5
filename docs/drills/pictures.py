"""`python -m docs.drills.pictures`: draw the ready scenarios afresh, next to this file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from resilient.drill import Report, run
from resilient.drill.files import opened
from resilient.drill.objectives import spell
from resilient.drill.plots import Bars, Lines, standalone

HERE = Path(__file__).parent


def bars(report: Report, metric: str, title: str, *, log: bool = False) -> str:
    """A bar for each run, and a mark where the source's figure is."""
    found = {name: run.metrics[metric] or 0.0 for name, run in report.runs.items()}
    marks = {
        one.run: one.value
        for one in report.study.published
        if one.metric == metric and one.value is not None
    }
    words = {name: spell(metric, value) for name, value in found.items()}
    return Bars(title, found, words, marks, log=log).svg()


def lines(report: Report, key: str, title: str, unit: str, *, log: bool = False) -> str:
    """A line for each run over time."""
    first = next(iter(report.runs.values()))
    found = {name: run.series[key] for name, run in report.runs.items()}
    bands = [(fault.at, fault.end) for fault in first.faults]
    return Lines(title, first.seconds, found, unit, log, bands).svg()


PICTURES: dict[str, dict[str, Callable[[Report], str]]] = {
    "tail-at-scale": {
        "tail-at-scale": lambda report: bars(
            report, "p999", "p99.9 of a call; mark: published", log=True
        ),
    },
    "aws-jitter": {
        "aws-jitter": lambda report: bars(
            report, "finished", "time until all have written; mark: AWS's simulator", log=True
        ),
        "aws-jitter-calls": lambda report: bars(report, "requests", "calls; mark: AWS's simulator"),
    },
    "metastable": {
        "metastable": lambda report: lines(report, "goodput", "goodput", "/s"),
    },
    "retry-amplification": {
        "retry-amplification": lambda report: bars(
            report, "amplification", "requests per call; mark: expected", log=True
        ),
    },
    "slow-server": {
        "slow-server": lambda report: bars(
            report, "p99", "p99; mark: reference simulation", log=True
        ),
    },
    "redundancy": {
        "redundancy": lambda report: lines(report, "p99", "p99", " s", log=True),
        "redundancy-members": lambda report: bars(report, "members", "servers running, on average"),
    },
}


def main(names: list[str]) -> None:
    """Run the named drills, or all, and write their pictures."""
    for name in names or PICTURES:
        with opened(name) as study:
            report = run(study)
        for picture, draw in PICTURES[name].items():
            (HERE / f"{picture}.svg").write_text(standalone(draw(report)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
