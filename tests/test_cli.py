"""`python -m resilient`, run as a user would, and what its tables are made of."""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("httpx")
pytest.importorskip("rich")
pytest.importorskip("opentelemetry.sdk")

from click.testing import CliRunner

from resilient._cli import demo, faulty, lanes, outage, servers, tail
from resilient._cli.main import cli

ROOT = Path(__file__).parent.parent
# Real seconds for what must happen, only to end a test that has gone wrong.
GRACE = 100.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "resilient", *arguments]


def run(*arguments: str) -> str:
    """Run a command to its good end, and return what it printed to a pipe."""
    ended = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=GRACE, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert "\x1b" not in ended.stdout
    return ended.stdout


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a process group of its own, as a shell does."""
    with subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def cells(said: str, row: str) -> list[str]:
    """What stands in a row of a table."""
    found = re.search(rf"^│ {row} +│(.*)│$", said, re.MULTILINE)
    assert found is not None, f"no row {row!r} in\n{said}"
    return [cell.strip() for cell in found[1].split("│")]


# The demo.


def test_demo() -> None:
    """The table has four clients, and the protected ones answer more."""
    said = run("demo", "--seconds", "3")
    for name in ("bare-sync", "bare-async", "pipeline-sync", "pipeline-async"):
        assert name in said
    assert cells(said, "calls") == ["75"] * 4
    for row in ("answered in, p50", "answered in, p99", "failed within", "recovered after"):
        assert len(cells(said, row)) == 4
    assert cells(said, "refused by breaker")[:2] == ["0", "0"]
    assert cells(said, "requests per call")[:2] == ["1.00", "1.00"]
    assert "resilient.call pipeline-" in said


def test_demo_on_a_taken_port() -> None:
    """Any other port does as well; with one call each nothing is known of a recovery."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = run("demo", "--seconds", "1", "--rate", "1", "--port", str(taken.getsockname()[1]))
    assert cells(said, "calls") == ["1"] * 4
    assert cells(said, "recovered after") == ["not seen"] * 4
    assert cells(said, "answered in, p50") == ["-"] * 4


def test_demo_failover() -> None:
    """Both tables; no call of the pool fails when its primary is killed."""
    said = run("demo", "failover", "--seconds", "3", "--rate", "40", "--calls", "40")
    bare, pool = cells(said, "failed calls")
    assert int(bare) > 0
    assert pool == "0"
    bare, pool = cells(said, "from the kill to the standby's answer")
    assert bare == "never"
    assert re.fullmatch(r"\d+ ms", pool)
    assert len(cells(said, "from the restart to the primary's")) == 2
    p95 = cells(said, "in turn")[1]
    assert int(p95.removesuffix(" ms")) >= 500
    assert cells(said, "by latency and load, hedged")[3] >= "1.00"


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["demo", "--seconds", "60"], "A server on loopback"),
        (["demo", "failover", "--seconds", "60"], "Two servers on loopback"),
        (["demo", "failover", "--seconds", "3", "--calls", "10000"], "Ten servers on loopback"),
    ],
    ids=["demo", "killed", "stalls"],
)
def test_ctrl_c(arguments: list[str], line: str) -> None:
    """A SIGINT to the whole group, as a terminal sends it, ends all of it without a traceback."""
    with started(*arguments) as process:
        assert process.stdout is not None
        while line not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        said, complaints = process.communicate(timeout=GRACE)
        assert (process.returncode, complaints) == (130, "")
        assert said.endswith("stopped\n")
        assert "\x1b" not in said
        _assert_nobody_left(process.pid)


def _assert_nobody_left(group: int) -> None:
    end = time.monotonic() + GRACE
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < end, "a child process was left behind"
        time.sleep(0.01)


def test_ctrl_c_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way when Ctrl-C comes is left, whatever it is."""

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    ended = CliRunner().invoke(cli, ["demo"])
    assert (ended.exit_code, ended.output) == (130, "stopped\n")


# Without the extra.

BLOCKED = """
import importlib.abc, runpy, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv = ["resilient", "demo"]
runpy.run_module("resilient", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["click", "rich", "colorsys"])
def test_without_the_extra(name: str) -> None:
    """One line says what to install; another missing module is an error like any other."""
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(name=name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=GRACE,
        check=False,
    )
    assert ended.stdout == ""
    if name == "colorsys":
        assert ended.returncode == 1
        assert "ModuleNotFoundError" in ended.stderr
        return
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"python -m resilient needs {name}: pip install 'resilient-patterns[cli]'"
    ]


def test_help() -> None:
    """The commands and their ranges."""
    runner = CliRunner()
    assert "demo" in runner.invoke(cli, ["-h"]).output
    said = runner.invoke(cli, ["demo", "--help"]).output
    assert "failover" in said
    refused = runner.invoke(cli, ["demo", "--seconds", "0"])
    assert refused.exit_code == 2
    assert "range" in refused.output


# What the tables are made of.


def ended(at: float, answered: bool, took: float = 0.1) -> lanes.Ended:
    return lanes.Ended(at - took, at, answered, refused=False)


def test_recovery_is_not_a_lucky_answer() -> None:
    """It is the first of ten calls of which eight were answered, by the order of their ends."""
    lucky = [ended(9.0, True), ended(10.1, True), *(ended(10.2 + i / 10, False) for i in range(5))]
    after = [ended(12.0 + i / 10, i != 3) for i in range(10)]
    assert demo._recovered([*after, *lucky], 10.0) == "2.00 s"
    assert demo._recovered(lucky, 10.0) == "not seen"


def test_latency_is_of_answered_calls() -> None:
    """Refusals are quick, and would make the worst client look like the best."""
    lane = lanes.Lane("bare-sync", protected=False)
    lane.ended += [ended(1.0, True, 0.2), ended(1.0, True, 0.2), ended(1.0, False, 3.0)]
    rows = demo._rows({"bare-sync": 6}, 0.0)
    assert rows["answered in, p99"](lane) == "200 ms"
    assert rows["failed within"](lane) == "3000 ms"
    assert rows["requests per call"](lane) == "2.00"
    assert rows["answered"](lane) == "66.7%"


def test_no_call_was_retried() -> None:
    """Then there is no tree to show."""
    assert demo._retried([]) is None


@pytest.mark.parametrize("drive", [lanes.drive_sync, lanes.drive_async])
def test_a_stopped_client_makes_no_call(drive: Any) -> None:
    """Once the demo ends, those that have not been made yet never are."""
    stop = threading.Event()
    stop.set()
    lane = lanes.Lane("bare", protected=False)
    drive(lane, "http://127.0.0.1:9", [time.monotonic()], stop)
    assert lane.ended == []


def test_what_did_not_happen_in_time() -> None:
    """A run too short for the failback says so."""
    way = outage.Way("x", answers=[(1.0, "primary"), (2.5, "standby")])
    times = outage.Times(killed=2.0, restarted=3.0, ended=4.0)
    assert outage._over(way, times) == "500 ms"
    assert outage._back(way, times) == "not in time"


def test_failed_calls_have_no_latency() -> None:
    """Only answered calls are timed."""
    import httpx

    answers = iter([True, False, True])

    def call() -> str:
        if next(answers):
            return "answer"
        raise httpx.ConnectError("refused")

    done: list[None] = []
    assert len(tail._timed(call, 3, lambda: done.append(None))) == len(done) == 2


def test_a_server_process_that_ends_by_itself() -> None:
    """It is an error that says so, and nothing is left behind."""
    with pytest.raises(RuntimeError, match="ended by itself"), servers.ServerProcess("__future__"):
        pass


def test_ctrl_c_while_a_process_starts() -> None:
    """It comes when the process has been started, and can be ended."""
    reached = []

    def start() -> None:
        with servers._no_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("the end of the block")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert reached


def test_a_pair_of_which_one_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is not left behind."""
    start, made = outage.Pair.start, []

    def fails_for_the_second(self: outage.Pair, name: str) -> None:
        if made:
            raise RuntimeError("no second one")
        start(self, name)
        made.extend(self._processes.values())

    monkeypatch.setattr(outage.Pair, "start", fails_for_the_second)
    with pytest.raises(RuntimeError), outage.Pair():
        pass
    (process,) = made
    assert process._process is None
    process.stop()  # as often as one likes


def test_an_outage_answers_nobody() -> None:
    """Connections are closed without an answer, from the clock's start on."""
    import httpx

    faults = faulty.Faults(outage_from=0, outage_to=GRACE)
    with faulty.FaultyServer(faults) as server, httpx.Client() as client:
        server.start_clock()
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{server.url}/somebody")
        assert server.counts() == {"somebody": 1}


def test_the_programs_can_be_imported() -> None:
    """What is run by itself does nothing until it is."""
    for module in ("resilient.__main__", "resilient._cli.backends", "resilient._cli.faulty"):
        assert importlib.import_module(module)


def test_any_port() -> None:
    """A port that somebody has is no problem."""
    tried: list[int] = []

    def make(port: int) -> Any:
        tried.append(port)
        if len(tried) < 3:
            raise OSError("address in use")
        return port

    assert servers.any_port(make) == tried[2]
