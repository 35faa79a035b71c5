"""The programs in `examples/` on failover, on real servers, started as a user would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = sorted((ROOT / "examples").glob("failover_*.py"))


def run(name: str) -> str:
    """Run a program to its end, and return what it printed."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return ended.stdout


def test_active_passive() -> None:
    """No call fails when the primary is killed, and the program says how long what took."""
    said = run("failover_active_passive.py")
    assert re.search(r"^failed calls: +0$", said, re.MULTILINE)
    assert re.search(r"^time to fail over: +\d+\.\d ms", said, re.MULTILINE)
    back = re.search(r"^time to fail back: +(\d+\.\d+) s", said, re.MULTILINE)
    assert back is not None
    assert float(back[1]) >= 0.5


def test_slow_member() -> None:
    """One call in ten waits for the server that stalls, until the calls are hedged."""
    said = run("failover_slow_member.py")
    rows = {
        row[1]: [float(number) for number in row[2].split()]
        for row in re.finditer(r"^(\w[\w ,]*?)((?: +\d+\.\d){3})$", said, re.MULTILINE)
    }
    assert set(rows) == {
        "in turn",
        "in turn, hedged",
        "by latency and load",
        "by latency and load, hedged",
    }
    assert all(p50 <= p95 <= p99 for p50, p95, p99 in rows.values())
    assert rows["in turn"][1] >= 500


def test_shards() -> None:
    """The spare takes the keys of one lost shard, and the others keep theirs."""
    said = run("failover_shards.py")
    stages = said.split("shard-2 and shard-3 were killed")
    assert "refused" not in stages[0]
    during, after = stages[1].split("is back, and the spare free for")
    assert "refused" in during
    assert "refused" not in after
    for name in ("shard-1", "shard-4"):
        assert len(set(re.findall(rf"{name} +(\d+) customers", said))) == 1


def test_zones() -> None:
    """A half-healthy zone keeps 70 % of the calls, and the remote region is the last resort."""
    said = run("failover_zones.py")
    shares = {
        row[1].strip(): [int(share) for share in re.findall(r"(\d+)%", row[2])]
        for row in re.finditer(r"^(\D[^%\n]*?)((?: +\d+%){3})$", said, re.MULTILINE)
    }
    assert shares["all are up"] == [100, 0, 0]
    assert 50 < shares["a-1 was killed"][0] < 90
    assert shares["a-1 was killed"][2] == 0
    assert shares["a-2 was killed"] == [0, 100, 0]
    assert shares["b-1 and b-2 were killed"] == [0, 0, 100]


def test_all_of_them_are_tested() -> None:
    """Each program has a test above."""
    tested = {f"failover_{name.removeprefix('test_')}.py" for name in globals()}
    assert {program.name for program in PROGRAMS} <= tested


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_is_short(program: Path) -> None:
    """An example can be read in one go."""
    assert len(program.read_text(encoding="utf-8").splitlines()) < 120
