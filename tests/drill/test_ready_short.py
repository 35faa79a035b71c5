"""The ready scenarios, each for its first seconds alone."""

from __future__ import annotations

import pytest

from resilient.drill import Scenario
from resilient.drill.files import opened, ready
from resilient.drill.runner import run_scenario


@pytest.mark.parametrize("name", ready())
def test_each_run_of_a_ready_scenario_begins(name: str) -> None:
    """What it builds serves calls; what becomes of them takes its whole time to see."""
    with opened(name) as study:
        for made in study.runs.values():
            scenario = made if isinstance(made, Scenario) else made()
            scenario.seconds, scenario.drain = min(scenario.seconds, 2), 1
            assert run_scenario(scenario).metrics["calls"]
