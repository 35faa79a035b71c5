"""The programs in `examples/` run to their end, and say nothing that they should not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Those on failover start servers, and have tests of their own.
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*.py") if not path.name.startswith("failover_")
)


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(program: Path) -> None:
    """Each ends by itself without a warning or an error, and what is run by hand prints."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    is_program = "__main__" in program.read_text(encoding="utf-8")
    assert bool(ended.stdout.strip()) == is_program


def test_there_are_examples() -> None:
    """The folder was found."""
    assert len(EXAMPLES) >= 7
