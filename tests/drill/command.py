"""The command line, called in this process."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from resilient._cli.main import cli


@dataclass
class Result:
    exit_code: int
    stdout: str
    stderr: str


def invoke(*arguments: str) -> Result:
    """Run `python -m resilient drill` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli(["drill", *arguments], prog_name="python -m resilient")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
    return Result(status, out.getvalue(), err.getvalue())
