"""Bad input: one message, with the file and the key path, and exit status 2."""

import json
from pathlib import Path

import pytest

from resilient._cli import watchdog
from resilient.drill import NeverEnds, turns

from tests.drill.command import invoke

GOOD = """
seconds = 10
load = 5
objectives = ["availability >= 0.9"]

[backends.api]
latency = 0.01

[[policy]]
kind = "timeout"
seconds = 1
"""


def refused(path: Path) -> str:
    """The one message that a scenario is refused with."""
    result = invoke(str(path))
    assert result.exit_code == 2, result
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("drill: ")
    assert "Traceback" not in line
    return line.removeprefix("drill: ")


def write(folder: Path, text: str, name: str = "bad.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


CHANGES = [
    ("seconds = 10", "seconds = inf", "seconds: must be finite"),
    ("seconds = 10", "seconds = -1", "seconds: must be above 0"),
    ("seconds = 10", 'seconds = "10"', "seconds: must be a number, not the string '10'"),
    ("seconds = 10", "seconds = true", "seconds: must be a number, not True"),
    ("seconds = 10", "seconds = 10_000_000", "seconds: must be above 0 and at most"),
    ("seconds = 10", "", "seconds: is missing"),
    ("seconds = 10", "seconds = 10\nsed = 1", "sed: there is no key 'sed'; did you mean 'seed'?"),
    ("seconds = 10", "seconds = 10\nseed = 1.5", "seed: must be a whole number"),
    ("seconds = 10", "seconds = 10\nseed = -1", "seed: must be at least 0"),
    ("seconds = 10", 'seconds = 10\nname = ""', "name: must not be empty"),
    ("seconds = 10", "seconds = 10\nname = 4", "name: must be a string"),
    ("load = 5", "load = 0", "load.rate: must be above 0 at some time"),
    ("load = 5", "load = 1e9", "load: would make 10,000,000,000 calls"),
    ("load = 5", "load = { rate = [[0, 1], [0, 2]] }", "load.rate[1][0]: must be after 0 s"),
    ("load = 5", "load = { rate = [] }", "load.rate: must be a number, or pairs"),
    ("load = 5", "load = { rate = [3] }", "load.rate[0]: must be a pair"),
    ("load = 5", 'load = { rate = 5, arrivals = "x" }', "load.arrivals: must be 'poisson' or"),
    ("load = 5", "load = { rates = 5 }", "load.rates: there is no key 'rates'; did you mean"),
    ("load = 5", "load = { rate = 5, bursts = 3 }", "load.bursts: must be pairs"),
    ("load = 5", "load = { rate = 5, ramp = 1 }", "load.ramp: must be true or false"),
    ("latency = 0.01", "latency = -1", "backends.api.latency: must be at least 0"),
    ("latency = 0.01", "latency = { p50 = 1 }", "backends.api.latency: must be seconds, {"),
    ("latency = 0.01", "latency = { median = 1, p99 = 0.5 }", "backends.api.latency.p99: must not"),
    (
        "latency = 0.01",
        "latency = { mixture = [{ share = 0.5, latency = 1 }] }",
        "backends.api.latency.mixture: the shares add up to 0.5",
    ),
    (
        "latency = 0.01",
        "latency = { mixture = [3] }",
        "backends.api.latency.mixture[0]: must be a table",
    ),
    ("latency = 0.01", "latency = { mixture = [] }", "backends.api.latency.mixture: needs"),
    ("latency = 0.01", "capacity = 0", "backends.api.capacity: must be at least 1"),
    ("latency = 0.01", 'error = "Nope"', "backends.api.error: must name an exception class"),
    ("latency = 0.01", 'error = "json:loads"', "backends.api.error: must name an exception class"),
    ("[backends.api]\nlatency = 0.01", "backends = 3\n", "backends: must be a table, not int"),
    ("[backends.api]\nlatency = 0.01", "[backends]", "backends: must name at least one"),
    ("[backends.api]", "[backends.other]\n[backends.api]", "backends: there are 2, but no pool"),
    ('kind = "timeout"', 'kind = "timout"', "policy[0].kind: there is no policy 'timout'; did you"),
    ('kind = "timeout"', "", "policy[0]: kind is missing"),
    ('kind = "timeout"\nseconds = 1', 'kind = "timeout"', "policy[0]: seconds is missing"),
    ('kind = "timeout"\nseconds = 1', 'kind = "timeout"\nseconds = 0', "policy[0]: seconds must"),
    (
        'kind = "timeout"\nseconds = 1',
        'kind = "retry"\nattemps = 1',
        "policy[0].attemps: there is no key 'attemps'; did you mean 'attempts'?",
    ),
    (
        'kind = "timeout"\nseconds = 1',
        'kind = "retry"\nbackoff = { initial = 2, maximum = 1 }',
        "policy[0].backoff: maximum (1 s) must not be below",
    ),
    (
        'kind = "timeout"\nseconds = 1',
        'kind = "retry"\nbudget = 3',
        "policy[0].budget: must be a table",
    ),
    (
        'kind = "timeout"\nseconds = 1',
        'kind = "active_active"\nmembers = ["ape"]',
        "policy[0].members[0]: there is no backend 'ape'; did you mean 'api'?",
    ),
    ("[[policy]]\n", "[polisy]\n", "polisy: there is no key 'polisy'; did you mean 'policy'?"),
    ('availability >= 0.9', "availabilty >= 0.9", "objectives[0]: there is no metric 'availabil"),
    ('availability >= 0.9', "availability => 0.9", "objectives[0]: must be a metric, one of"),
    ('["availability >= 0.9"]', '"availability >= 1"', "objectives: must be a list of strings"),
    ('["availability >= 0.9"]', "[3]", "objectives[0]: must be a metric"),
    ('availability >= 0.9', "recovery_time <= 1", "objectives[0]: nothing fails: add a fault"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), CHANGES)
def test_a_wrong_value_is_named_by_its_key_path(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    assert refused(path).startswith(f"{path}: {message}")


FAULTS = [
    ('kind = "outage"\nbackend = "api"\nat = 20\nseconds = 1', "at: is after the end of the drill"),
    (
        'kind = "outage"\nbackend = "ape"\nat = 2\nseconds = 1',
        "backends: there is no backend 'ape'",
    ),
    ('kind = "outage"\nbackend = []\nat = 2\nseconds = 1', "backends: must be a name or a list"),
    ('kind = "outage"\nbackend = "api"\nseconds = 1', "at is missing"),
    ('kind = "outage"\nbackend = "api"\nat = 2\nseconds = 0', "seconds: must be above 0"),
    ('kind = "outrage"\nbackend = "api"', "kind: there is no fault 'outrage'; did you mean"),
    ('kind = "slow"\nbackend = "api"\nat = 2\nseconds = 1\nfactor = 0', "factor: must be above 0"),
    ('kind = "errors"\nbackend = "api"\nat = 2\nseconds = 1\nshare = 2', "share: must be above 0"),
    ('kind = "region_loss"\nregion = "eu"\nat = 2\nseconds = 1', "region: there is no backend in"),
    (
        'kind = "flapping"\nbackend = "api"\nat = 2\nseconds = 1\nup = 1e-9\ndown = 1e-9',
        "down: would flap more than",
    ),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_wrong_fault_is_named_by_its_place(fault: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"{GOOD}\n[[faults]]\n{fault}\n")
    found = refused(path).removeprefix(f"{path}: faults[0]").lstrip(".: ")
    assert found.startswith(message)


def test_faults_must_be_tables(tmp_path: Path) -> None:
    path = write(tmp_path, f"faults = 3\n{GOOD}")
    assert refused(path).startswith(f"{path}: faults: must be tables")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("json", 'policy: must be written "module:name"'),
        ("no_such_module:policy", "policy: there is no module 'no_such_module'"),
        ("json.nothing:policy", "policy: there is no module 'json.nothing'"),
        ("json:policy", "policy: there is no policy 'policy'"),
        ("json:tool.nothing", "policy: there is no policy"),
        ("json:decoder", "policy: must name a policy"),
        ("os:getcwd", "policy: must name a policy"),
        (".relative:policy", "policy: there is no module '.relative'"),
        ("no_such_package.module:policy", "policy: there is no module 'no_such_package.module'"),
    ],
)
def test_a_policy_that_does_not_exist(given: str, message: str, tmp_path: Path) -> None:
    text = GOOD.partition("[[policy]]")[0]
    path = write(tmp_path, f'policy = "{given}"\n{text}')
    assert refused(path).startswith(f"{path}: {message}")


def test_a_list_of_no_policies(tmp_path: Path) -> None:
    path = write(tmp_path, f"policy = []\n{GOOD.partition('[[policy]]')[0]}")
    assert refused(path).startswith(f"{path}: policy: must be")


def test_what_is_not_toml_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "seconds = 10\nload = = 3\n")
    found = refused(path)
    assert found.startswith(f"{path}: this is not TOML")
    assert "line 2" in found


@pytest.mark.parametrize("content", [b"\xff\xfe", b""])
def test_files_that_are_no_scenarios(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}: ")


def test_python_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a = 1\nb = = 2\n", "bad.py")
    assert refused(path).startswith(f"{path}:2: this is not Python")
    null = tmp_path / "null.py"
    null.write_bytes(b"\0")
    assert "this is not Python" in refused(null)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)

    def fails(*_: object, **__: object) -> str:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "read_text", fails)
    assert refused(path) == f"{path}: not yours"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": scenario: is missing"),
        ("scenario = 3", ": scenario: is 3: define"),
        ("def scenario(): return None", ": scenario: is missing"),
        ("from resilient.drill import *\n\nBackend('a', capacity=0)", ":3: capacity: must be"),
        ("from resilient.drill import *\nStudy('a', {})", ":2: runs: must be"),
        ("from resilient.drill import *\nStudy('a', {'b': 3})", ":2: runs.b: must be a Scenario"),
        ("from resilient.drill import *\nLoad(None)", ":2: rate: must be a number"),
        ("from resilient.drill import *\nBackend('a', error=3)", ":2: error: must be an exc"),
        ("from resilient.drill import *\nBackend('a', error=int)", ":2: error: must be an exc"),
        ("from resilient.drill import *\ndrawn(3, 1)", ":2: draw: must be a function"),
    ],
)
def test_python_scenarios_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text, "bad.py")
    assert refused(path).startswith(f"{path}{message}")


BUILT = [
    ("policy=3", "policy: must be a policy object"),
    ("", "policy: give a policy, or a call"),
    ("call=3", "call: must be a coroutine function"),
    ("policy=Timeout(1), backends=[3]", "backends[0]: must be a Backend"),
    ("policy=Timeout(1), backends=[api, api]", "backends[1]: 'api' is there twice"),
    ("policy=Timeout(1), faults=[3]", "faults[0]: must be a fault"),
    ("policy=Timeout(1), objectives='p99 < 1'", "objectives: must be a list"),
    ("policy=ActivePassive('db', {'a': 1}, on=OSError)", "backends: there is none for the member"),
    (
        "policy=ActivePassive('db', {'a': Backend('b')}, on=OSError)",
        "backends: 'b' of db is not among them",
    ),
]


@pytest.mark.parametrize(("options", "message"), BUILT)
def test_scenarios_that_cannot_be_built(options: str, message: str, tmp_path: Path) -> None:
    backends = "" if "backends=" in options else "backends=api, "
    text = (
        "from resilient import *\nfrom resilient.failover import *\n"
        "from resilient.drill import *\napi = Backend('api')\n"
        f"scenario = Scenario(load=5, seconds=1, {backends}{options})\n"
    )
    path = write(tmp_path, text, "bad.py")
    assert message in refused(path)


def test_figures_that_nobody_can_have_published(tmp_path: Path) -> None:
    text = (
        "from resilient import *\nfrom resilient.drill import *\n"
        "one = Scenario(load=5, seconds=1, backends=[Backend('a')], policy=Timeout(1))\n"
        "scenario = Study('s', {'a': one}, published=[Published('b', 'p99', 1)])\n"
    )
    path = write(tmp_path, text, "bad.py")
    assert refused(path).startswith(f"{path}:4: published[0]: there is no such figure")


def test_what_is_no_scenario_at_all(tmp_path: Path) -> None:
    assert "did you mean 'metastable'?" in refused(Path("metastabel"))
    assert refused(tmp_path / "none.toml").endswith("none.toml: there is no such file")
    assert refused(tmp_path).endswith("is a directory, not a scenario")
    assert refused(write(tmp_path, "", "a.yaml")).endswith("must end in .py or .toml")


def test_usage_errors() -> None:
    assert invoke().exit_code == 2
    assert invoke("metastable", "--compare", "a", "b").exit_code == 2
    assert invoke("metastable", "--seed", "x").exit_code == 2


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "good.toml")
    result = invoke(str(path), "--json", str(tmp_path / "none" / "out.json"))
    assert result.exit_code == 2
    assert "none" in result.stderr.splitlines()[-1]
    assert "availability" in result.stdout, "the report itself was printed"


CRASHES = {
    "when it is read": "def broken():\n    return {}['no such key']\nbroken()",
    "in a call": (
        "from resilient.drill import *\n"
        "async def call():\n    return {}['no such key']\n"
        "scenario = Scenario(load=5, seconds=5, backends=[Backend('a')], call=call)"
    ),
    "in a predicate": (
        "from resilient import *\nfrom resilient.drill import *\n"
        "def on(error):\n    return {}['no such key']\n"
        "scenario = Scenario(load=5, seconds=5, backends=[Backend('a')], policy=Retry(on=on),\n"
        "    faults=[Outage('a', at=0, seconds=5)])"
    ),
    "in a module that it names": "import broken_module_of_mine",
}


@pytest.mark.parametrize("text", CRASHES.values(), ids=CRASHES)
def test_a_crash_in_user_code_shows_that_codes_traceback(text: str, tmp_path: Path) -> None:
    write(tmp_path, "def deep():\n    return {}['no such key']\ndeep()", "broken_module_of_mine.py")
    path = write(tmp_path, text, "crash.py")
    result = invoke(str(path))
    assert result.exit_code == 2
    first, second, *_ = result.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert str(tmp_path) in second, "it begins in the user's code"
    assert "KeyError: 'no such key'" in result.stderr.splitlines()[-1]


def test_a_module_named_in_toml_that_crashes_shows_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "crashing_service").mkdir()
    write(tmp_path, "import nothing_of_the_kind", "crashing_service/__init__.py")
    rest = GOOD.partition("[[policy]]")[0]
    path = write(tmp_path, f'policy = "crashing_service.deeper:policy"\n{rest}')
    result = invoke(str(path))
    assert result.exit_code == 2
    assert "crashing_service" in result.stderr
    assert "nothing_of_the_kind" in result.stderr.splitlines()[-1]


NEVER = {
    "nothing will come": ("await asyncio.Event().wait()", "calls go on although", 0),
    "it swallows its cancellation": (
        "while True:\n        with suppress(asyncio.CancelledError): await asyncio.sleep(1)",
        "go on although they were cancelled",
        2,
    ),
    "it goes round": ("while True:\n        await asyncio.sleep(0)", "no time has passed", 2),
}


@pytest.mark.parametrize(("body", "message", "status"), NEVER.values(), ids=NEVER)
def test_a_scenario_that_never_ends_is_ended(
    body: str, message: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 20_000)
    text = (
        "import asyncio\nfrom contextlib import suppress\nfrom resilient.drill import *\n"
        f"async def call():\n    {body}\n"
        "scenario = Scenario(load=5, seconds=5, drain=5, backends=[Backend('a')], call=call)"
    )
    path = write(tmp_path, text, "endless.py")
    out = tmp_path / "out.json"
    result = invoke(str(path), "--json", str(out))
    assert result.exit_code == status, result
    if status == 0:
        # Calls that hang are what a drill may show; they are cancelled, and counted.
        found = json.loads(out.read_text())["runs"]["endless"]["metrics"]
        assert found["unfinished"] == found["calls"] > 0
    else:
        assert message in result.stderr


def test_code_that_does_not_give_control_back_is_ended() -> None:
    def endless() -> None:
        while True:
            pass

    with pytest.raises(NeverEnds, match="nothing has moved") as caught, watchdog.watched(0.05):
        endless()
    assert "endless" in str(caught.value)


def test_without_timers_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_can_watch", lambda: False)
    with watchdog.watched(0.01) as look:
        look()
    assert watchdog._place(None) == "no frame"
