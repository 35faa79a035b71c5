"""`python -m resilient drill`, as a CI job runs it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from resilient import Timeout
from resilient._cli.tables import print_report
from resilient.drill import Backend, Published, Scenario, Study, files, run

from tests.drill.command import invoke

SERVICE = """
from resilient import CallTimeoutError, CircuitBreaker, Pipeline, Retry, Timeout

payments = Pipeline(
    Timeout(5), Retry(on=(ConnectionError, CallTimeoutError)), CircuitBreaker(), Timeout(0.5),
    name="payments",
)

@payments
async def fetch(): ...

def new_payments():
    return Pipeline(Retry(on=ConnectionError), name="new")
"""

DRILL = """
policy = "my_service:{policy}"
seconds = 60
seed = 3
objectives = ["availability >= {availability}", "p99 <= 2 s"]

[load]
rate = 20

[backends.api]
latency = {{ median = 0.02, p99 = 0.2 }}
capacity = 5

[[faults]]
kind = "errors"
backend = "api"
at = 20
seconds = 20
share = 0.2
"""

DESCRIBED = """
name = "described"
seconds = 30

[load]
rate = [[0, 10], [15, 20]]
ramp = true
keys = 8

[backends]
a = { latency = 0.02, region = "eu", error = "json:JSONDecodeError" }
b = { latency = 0.02, region = "us", error = "OSError" }
c = { latency = 0.02, cold = true, start_time = 0.1 }

[[faults]]
kind = "region_loss"
region = "eu"
at = 5
seconds = 10
"""

PIPELINES = {
    "active-active": """
[[policy]]
kind = "hedge"
delay = { quantile = 0.95, initial = 0.1 }
[[policy]]
kind = "active_active"
members = ["a", { name = "b", weight = 2 }]
health_check = { interval = 1 }
[[policy]]
kind = "timeout"
seconds = 0.5
""",
    "plain": """
[[policy]]
kind = "retry"
budget = false
backoff = [0.1, 0.2]
[[policy]]
kind = "hedge"
delay = 0.2
[[policy]]
kind = "active_passive"
[[policy]]
kind = "timeout"
seconds = 0.5
""",
    "active-passive": """
[[policy]]
kind = "bulkhead"
max_concurrent = 50
[[policy]]
kind = "retry"
attempts = 2
budget = { ratio = 0.2, capacity = 10 }
backoff = { initial = 0.01, maximum = 1, jitter = "decorrelated" }
[[policy]]
kind = "active_passive"
failback_after = 2
[[policy]]
kind = "timeout"
seconds = 0.5
""",
    "N+1": """
[[policy]]
kind = "n_plus_one"
name = "shards"
keyed = true
actives = ["a", "b"]
spares = "c"
[[policy]]
kind = "timeout"
seconds = 0.5
""",
}


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def service(tmp_path: Path) -> Path:
    write(tmp_path, "my_service.py", SERVICE)
    return tmp_path


def test_the_list_has_a_line_for_each_ready_scenario_its_name_first() -> None:
    result = invoke("--list")
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names == sorted(files.ready())
    assert {"tail-at-scale", "aws-jitter", "metastable", "redundancy"} <= set(names)
    assert all(len(line.split()) > 3 for line in result.stdout.splitlines())


@pytest.mark.parametrize("policy", ["payments", "fetch", "new_payments"])
def test_a_policy_is_named_in_toml_as_it_stands_in_the_service(policy: str, service: Path) -> None:
    path = write(service, "drill.toml", DRILL.format(policy=policy, availability=0.9))
    result = invoke(path)
    assert result.exit_code == 0, result.stderr
    assert "met availability >= 0.9" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr, "no escape codes when piped"
    assert "my_service" not in sys.modules


def test_an_objective_that_is_missed_is_exit_status_1(service: Path) -> None:
    path = write(service, "drill.toml", DRILL.format(policy="new_payments", availability=1.0))
    result = invoke(path, "--seed", "5")
    assert result.exit_code == 1
    assert "MISSED availability >= 1.0" in result.stdout


@pytest.mark.parametrize("policy", PIPELINES.values(), ids=PIPELINES)
def test_policies_described_in_toml(policy: str, tmp_path: Path) -> None:
    path = write(tmp_path, "described.toml", DESCRIBED + policy)
    out = tmp_path / "out.json"
    result = invoke(path, "--json", str(out))
    assert result.exit_code == 0, result.stderr
    found = json.loads(out.read_text(encoding="utf-8"))["runs"]["described"]
    assert found["metrics"]["availability"] > 0.97
    assert {one["name"] for one in found["backends"]} == {"a", "b", "c"}


def test_one_table_describes_the_standard_pipeline(tmp_path: Path) -> None:
    text = (
        'seconds = 20\nload = 5\n[policy]\nkind = "standard"\nattempts = 2\n'
        "[backends.api]\nlatency = 0.1\n"
    )
    assert invoke(write(tmp_path, "standard.toml", text)).exit_code == 0


def test_the_report_is_the_same_byte_for_byte_in_another_process(service: Path) -> None:
    path = write(service, "drill.toml", DRILL.format(policy="payments", availability=0.9))
    texts = set()
    for number in range(2):
        out = service / f"{number}.json"
        page = service / f"{number}.html"
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        subprocess.run(
            [sys.executable, "-m", "resilient", "drill", path, "--json", str(out),
             "--html", str(page)],
            check=True, env=environment, timeout=60, capture_output=True,
        )  # fmt: skip
        texts.add(out.read_bytes() + page.read_bytes())
    here = service / "here.json"
    invoke(path, "--json", str(here))
    assert len(texts) == 1
    assert texts.pop().startswith(here.read_bytes())


def test_two_scenarios_are_compared_side_by_side(service: Path) -> None:
    good = write(service, "good.toml", DRILL.format(policy="payments", availability=0.9))
    bad = write(service, "bad.toml", DRILL.format(policy="new_payments", availability=1.0))
    out = service / "out.json"
    result = invoke("--compare", good, bad, "--json", str(out))
    assert result.exit_code == 1
    assert "met good: p99 <= 2 s" in result.stdout
    assert "MISSED bad: availability >= 1.0" in result.stdout
    assert list(json.loads(out.read_text())["runs"]) == ["good", "bad"]


def test_a_scenario_compared_with_itself_is_the_same_twice(service: Path) -> None:
    path = write(service, "drill.toml", DRILL.format(policy="payments", availability=0.9))
    out = service / "out.json"
    invoke("--compare", path, path, "--json", str(out))
    first, second = json.loads(out.read_text())["runs"].values()
    assert first == second


def test_comparing_a_ready_one_keeps_what_was_published(service: Path) -> None:
    path = write(service, "drill.toml", DRILL.format(policy="payments", availability=0.9))
    result = invoke("--compare", "slow-server", path)
    assert result.exit_code == 0
    assert "slow-server: ewma" in result.stdout
    assert "65 ms" in result.stdout


def test_ctrl_c_still_prints_the_report_so_far(tmp_path: Path) -> None:
    text = (
        "import signal\nfrom resilient.drill import *\ncalls = 0\n"
        "async def call():\n    global calls\n    calls += 1\n"
        "    if calls == 100:\n        signal.raise_signal(signal.SIGINT)\n"
        "scenario = Scenario(load=Load(10, arrivals='even'), seconds=600,\n"
        "    backends=[Backend('api')], call=call)\n"
    )
    path, out = write(tmp_path, "long.py", text), tmp_path / "out.json"
    result = invoke(path, "--json", str(out))
    assert result.exit_code == 130
    assert "stopped after 9.9 s of the drill" in result.stdout
    assert json.loads(out.read_text())["interrupted"] is True


def test_ctrl_c_before_anything_has_begun(tmp_path: Path) -> None:
    path = write(tmp_path, "slow.py", "raise KeyboardInterrupt")
    result = invoke(path)
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


def test_a_scenario_that_is_a_function_and_reads_files(tmp_path: Path) -> None:
    text = (
        "from pathlib import Path\nfrom resilient import Timeout\nfrom resilient.drill import *\n"
        "def scenario():\n    rate = float((Path(__file__).parent / 'rate').read_text())\n"
        "    return Scenario(load=rate, seconds=5, backends=[Backend('a')], policy=Timeout(1))\n"
    )
    path = write(tmp_path, "function.py", text)
    result = invoke(path)
    assert result.exit_code == 2
    assert "FileNotFoundError" in result.stderr
    write(tmp_path, "rate", "5")
    assert invoke(path).exit_code == 0


def test_a_terminal_gets_a_progress_bar_and_colours(
    service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = write(service, "drill.toml", DRILL.format(policy="payments", availability=0.9))
    result = invoke(path)
    assert result.exit_code == 0
    assert "\x1b[" in result.stdout
    assert "\x1b[" in result.stderr


def test_only_a_scenarios_own_modules_are_forgotten(tmp_path: Path) -> None:
    def module(name: str, file: str | None) -> ModuleType:
        found = ModuleType(name)
        found.__file__ = file
        return found

    own = module("mine", str(tmp_path / "mine.py"))
    installed = module("theirs", str(tmp_path / "site-packages" / "theirs.py"))
    ours = module("resilient.drill", str(tmp_path / "resilient.py"))
    given = [own, installed, ours, module("built_in", None), module("far", "/far/away.py")]
    assert [files._is_from(one, (tmp_path,)) for one in given] == [True, *[False] * 4]


def test_a_study_in_a_file_with_figures_of_its_own(tmp_path: Path) -> None:
    text = (
        "from resilient import Timeout\nfrom resilient.drill import *\n"
        "def one():\n    return Scenario(load=5, seconds=5, backends=[Backend('a')],\n"
        "        policy=Timeout(1))\n"
        "def scenario():\n    import stringprep\n"
        "    return Study('mine', {'first': one, 'second': one}, source='a book',\n"
        "        published=[Published('first', 'p99', 0.01)])\n"
    )
    page = tmp_path / "mine.html"
    result = invoke(write(tmp_path, "mine.py", text), "--html", str(page))
    assert result.exit_code == 0
    assert "Published: a book" in result.stdout
    assert "a book" in page.read_text(encoding="utf-8")


def test_what_was_published_of_a_run_that_was_never_begun_is_left_out() -> None:
    def one() -> Scenario:
        return Scenario(load=5, seconds=5, backends=[Backend("a")], policy=Timeout(1))

    study = Study("s", {"a": one, "b": one}, published=[Published("b", "p99", 1.0, "a second")])
    report = run(study)
    del report.runs["b"]
    out = io.StringIO()
    print_report(Console(file=out), report)
    assert "a second" not in out.getvalue()
    assert report.as_dict()["published"] == []
