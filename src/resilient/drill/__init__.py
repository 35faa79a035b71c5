"""Drills: run real policies against simulated backends, and see what becomes of the calls.

A scenario says who calls how often, through which policy, what the backends are like and what
breaks when. It runs in virtual time, against the policy objects that the service uses::

    from resilient.drill import Backend, Outage, Scenario, run

    report = run(Scenario(
        load=300, seconds=600,
        backends=[Backend("api", latency=0.02, capacity=40)],
        faults=[Outage("api", at=60, seconds=10)],
        policy=payments,
        objectives=["availability >= 0.98", "amplification <= 1.1"],
    ))
    assert report.passed

From the command line: `python -m resilient drill scenario.py`.
"""

from __future__ import annotations

from resilient.drill.backend import Backend
from resilient.drill.errors import NeverEnds, ScenarioError
from resilient.drill.faults import Errors, Fault, Flapping, Outage, RegionLoss, Slow
from resilient.drill.latency import (
    Latency,
    always,
    drawn,
    exponential,
    lognormal,
    mixture,
    normal,
)
from resilient.drill.load import Load
from resilient.drill.report import Report, RunReport
from resilient.drill.runner import Crash, run
from resilient.drill.scenario import Published, Scenario, Study

__all__ = [
    "Backend",
    "Crash",
    "Errors",
    "Fault",
    "Flapping",
    "Latency",
    "Load",
    "NeverEnds",
    "Outage",
    "Published",
    "RegionLoss",
    "Report",
    "RunReport",
    "Scenario",
    "ScenarioError",
    "Slow",
    "Study",
    "always",
    "drawn",
    "exponential",
    "lognormal",
    "mixture",
    "normal",
    "run",
]
