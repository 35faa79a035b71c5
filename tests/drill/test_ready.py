"""The ready scenarios say what their sources say."""

import pytest

from resilient.drill import Report, run
from resilient.drill.files import opened, ready

# Whole studies, minutes of them under a tracer; the lines are those of the small scenarios.
pytestmark = pytest.mark.no_cover

_reports: dict[str, Report] = {}


def report(name: str) -> Report:
    """The report of a ready scenario; each is run once."""
    if name not in _reports:
        with opened(name) as study:
            _reports[name] = run(study)
    return _reports[name]


def figure(name: str, one: str, metric: str) -> float:
    value = report(name).runs[one].metrics[metric]
    assert value is not None
    return value


@pytest.mark.parametrize("name", ready())
def test_every_ready_scenario_meets_its_objectives(name: str) -> None:
    found = report(name)
    assert found.passed, [run.verdicts for run in found.runs.values()]
    assert found.study.name == name
    assert any(run.verdicts for run in found.runs.values()) or found.study.published


def test_hedging_after_10_ms_cuts_the_tail_for_2_per_cent_more_requests() -> None:
    assert figure("tail-at-scale", "no hedge", "p999") == pytest.approx(1.8, rel=0.35)
    assert figure("tail-at-scale", "hedge after 10 ms", "p999") == pytest.approx(0.074, rel=0.3)
    assert figure("tail-at-scale", "hedge after 10 ms", "amplification") == pytest.approx(
        102, abs=1
    )


AWS = {
    "no backoff": (2.022, 2421),
    "exponential": (63.534, 1855),
    "equal jitter": (6.605, 813),
    "full jitter": (4.857, 796),
    "decorrelated": (4.588, 1004),
}


@pytest.mark.parametrize("name", AWS)
def test_a_hundred_clients_finish_as_in_awss_own_simulator(name: str) -> None:
    seconds, calls = AWS[name]
    assert figure("aws-jitter", name, "finished") == pytest.approx(seconds, rel=0.3)
    assert figure("aws-jitter", name, "requests") == pytest.approx(calls, rel=0.1)


def test_an_overload_outlives_its_cause_unless_the_budget_is_filled_by_successes() -> None:
    runs = report("metastable").runs
    assert runs["no budget"].metrics["recovery_time"] is None
    assert runs["filled by starts"].metrics["recovery_time"] is None
    alone = figure("metastable", "no retry", "recovery_time")
    assert figure("metastable", "the library's", "recovery_time") == pytest.approx(alone, rel=0.1)
    goodput = runs["no budget"].series["goodput"]
    assert not any(goodput[100:]), "zero goodput long after the cause has gone"


def test_three_layers_of_retries_amplify_by_their_budget() -> None:
    name = "retry-amplification"
    assert figure(name, "no budget", "amplification") == 64
    assert figure(name, "filled by starts", "amplification") == pytest.approx(1.331, abs=0.01)
    assert figure(name, "the library's", "amplification") == pytest.approx(1.002, abs=0.001)


def test_one_slow_server_is_hardly_used_when_balancing_by_latency() -> None:
    assert figure("slow-server", "random", "p99") == pytest.approx(52, rel=0.2)
    assert figure("slow-server", "round robin", "p99") == pytest.approx(53, rel=0.2)
    assert figure("slow-server", "least loaded", "p99") == pytest.approx(0.196, rel=0.5)
    assert figure("slow-server", "ewma", "p99") == pytest.approx(0.065, rel=0.4)


def test_the_kinds_of_redundancy_differ_in_their_cost() -> None:
    runs = report("redundancy").runs
    assert [round(run.metrics["members"] or 0, 1) for run in runs.values()][:2] == [4, 6]
    assert 3 < figure("redundancy", "N+1", "members") < 4
    for found in runs.values():
        assert (found.metrics["availability"] or 0) > 0.99
        assert found.metrics["failover_time"] is not None
        assert found.metrics["failback_time"] is not None
