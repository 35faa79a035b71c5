"""`python -m resilient drill`: run scenarios, print what came of them, write it down."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from resilient._cli.tables import print_report
from resilient._cli.watchdog import watched
from resilient.drill.errors import ScenarioError
from resilient.drill.files import UserCodeError, opened, ready
from resilient.drill.html import page
from resilient.drill.report import Report, joined
from resilient.drill.runner import Crash, run
from resilient.drill.scenario import Study

PASSED, FAILED, UNFIT, STOPPED = 0, 1, 2, 130


def print_list() -> None:
    """Print a line for each ready scenario, its name first."""
    found = ready()
    width = max(len(name) for name in found)
    for name, text in found.items():
        click.echo(f"{name:{width}}  {text}")


def run_all(names: list[str], *, html: Path | None, json: Path | None, seed: int | None) -> int:
    """Run the scenarios, print and write their report, and return the exit status."""
    try:
        reports = [_run(name, seed) for name in names]
    except ScenarioError as error:
        click.echo(f"drill: {error}", err=True)
        return UNFIT
    except (UserCodeError, Crash) as error:
        _print_crash(error.__cause__ or error)
        return UNFIT
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        return STOPPED
    report = reports[0] if len(reports) == 1 else joined(reports)
    print_report(_console(len(report.runs)), report)
    return _write(report, html, json) or _status(report)


def _status(report: Report) -> int:
    if report.interrupted:
        return STOPPED
    return PASSED if report.passed else FAILED


def _write(report: Report, html: Path | None, json: Path | None) -> int:
    try:
        if json is not None:
            json.write_text(report.as_json(), encoding="utf-8")
        if html is not None:
            html.write_text(page(report.as_dict()), encoding="utf-8")
    except OSError as error:
        click.echo(f"drill: {error}", err=True)
        return UNFIT
    return PASSED


def _console(runs: int) -> Console:
    console = Console()
    if not console.is_terminal:
        # Nobody sees the edge: nothing is to be cut off there.
        console = Console(width=max(console.width, 60 + 20 * runs))
    return console


def _run(name: str, seed: int | None) -> Report:
    with watched() as look, opened(name) as study:
        try:
            with _bar(study) as progress:
                return run(study, seed=seed, progress=_both(progress, look))
        except ScenarioError as error:
            error.file = error.file or name
            raise


def _both(
    first: Callable[[str, float], None], look: Callable[[], None]
) -> Callable[[str, float], None]:
    def progress(run_name: str, part: float) -> None:
        look()
        first(run_name, part)

    return progress


class _bar:  # noqa: N801 - used as a function
    """A progress bar on a terminal; nothing where output is piped."""

    def __init__(self, study: Study) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(name, total=1.0) for name in study.runs
        }

    def __enter__(self) -> Callable[[str, float], None]:
        if not self._progress.disable:
            self._progress.start()
        return self._show

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def _show(self, run_name: str, part: float) -> None:
        if not self._progress.disable:
            self._progress.update(self._tasks[run_name], completed=part)


def _print_crash(error: BaseException) -> None:
    """Print the traceback of the user's code, from where it begins."""
    trace = _from_user(error) or error.__traceback__
    shown = traceback.TracebackException(type(error), error, trace)
    if error.__context__ is not None and _from_user(error.__context__) is None:
        # What it was handling came from a backend that does not exist.
        shown.__context__ = None
    click.echo("".join(shown.format()), err=True, nl=False)


def _from_user(error: BaseException) -> TracebackType | None:
    """The traceback, from the first frame on that is not this library's."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    return trace


def _is_ours(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in ("resilient", "asyncio", "importlib", "runpy")
