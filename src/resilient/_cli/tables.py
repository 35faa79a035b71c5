"""The report of a drill, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resilient.drill.objectives import METRICS, spell
from resilient.drill.report import Report, RunReport

# Events that there are many of in a pool, one for each member.
_LONG = {"MemberStateChanged", "PoolDegraded", "SpareAssigned", "SpareReleased"}
# Rows that are left out when nothing of the kind has happened.
_IF_ANY = {"rejected", "timed_out", "unfinished", "degraded_time", "failures"}


def print_report(console: Console, report: Report) -> None:
    """Print what came of a drill."""
    study = report.study
    title = f"{study.name}: {study.title}" if study.title else study.name
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True, highlight=False)
    console.print(_figures(report))
    for table in (_backends(report), _faults(report), _events(report), _published(report)):
        if table.row_count:
            console.print(f"\n[bold]{table.title}[/bold]", soft_wrap=True, highlight=False)
            table.title = None
            console.print(table)
    for line in _verdicts(report):
        console.print(line, soft_wrap=True, highlight=False)


def _table(report: Report, title: str, *first: str) -> Table:
    table = Table(title=escape(title) or None)
    for name in first:
        table.add_column(name)
    for name in report.runs:
        table.add_column(escape(name), justify="right")
    return table


def _figures(report: Report) -> Table:
    table = _table(report, "", "figure", "")
    runs = list(report.runs.values())
    for name, (text, _) in METRICS.items():
        values = [run.metrics[name] for run in runs]
        if all(value is None for value in values) or (name in _IF_ANY and not any(values)):
            continue
        table.add_row(name, text, *(spell(name, value) for value in values))
    seeds = (str(run.seed) for run in runs)
    table.add_row("seed", "", *seeds)
    return table


def _backends(report: Report) -> Table:
    """The share of each backend in the requests, and how busy it was."""
    table = _table(report, "Backends: share of the requests, utilisation", "backend")
    names = dict.fromkeys(one.name for run in report.runs.values() for one in run.backends)
    if len(names) < 2:
        return table
    for name in names:
        table.add_row(escape(name), *(_load(run, name) for run in report.runs.values()))
    return table


def _load(run: RunReport, name: str) -> str:
    for one in run.backends:
        if one.name == name:
            used = "" if one.utilisation is None else f", {one.utilisation:.1%}"
            return f"{one.share:.1%}{used}"
    return ""


def _faults(report: Report) -> Table:
    """What became of each fault."""
    table = _table(report, "Faults: failed over, failed back, recovered after", "fault")
    rows: dict[str, dict[str, str]] = {}
    for name, run in report.runs.items():
        for fault in run.faults:
            where = ", ".join(fault.backends)
            key = f"{fault.at:g} to {fault.end:g} s: {fault.kind} of {where}"
            times = (fault.failover, fault.failback, fault.recovery)
            rows.setdefault(key, {})[name] = ", ".join(_time(time) for time in times)
    for key, found in rows.items():
        table.add_row(escape(key), *(found.get(name, "") for name in report.runs))
    return table


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g} s"


def _events(report: Report) -> Table:
    """How often each policy did what."""
    table = _table(report, "What the policies did", "policy", "event")
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for name, run in report.runs.items():
        for policy, _, event, count in run.events:
            found = rows.setdefault((policy, _short(event)), {})
            found[name] = found.get(name, 0) + count
    for (policy, event), found in sorted(rows.items()):
        counts = (f"{found[name]:,}" if name in found else "" for name in report.runs)
        table.add_row(escape(policy), escape(event), *counts)
    return table


def _short(event: str) -> str:
    """An event without which member it was; the page and the JSON have it."""
    name, _, detail = event.partition(" (")
    if name == "FailoverSwitched":
        return f"{name} ({detail.partition(',')[0]})"
    return name if name in _LONG else event


def _published(report: Report) -> Table:
    table = Table(title=escape(f"Published: {report.study.source}"))
    for name in ("run", "figure", "published", "here"):
        table.add_column(name, justify="left" if name in ("run", "figure") else "right")
    for one in report.study.published:
        if one.run not in report.runs:
            continue
        here = spell(one.metric, report.runs[one.run].metrics[one.metric])
        table.add_row(
            escape(one.run), one.metric, escape(one.text) or spell(one.metric, one.value), here
        )
    return table


def _verdicts(report: Report) -> Iterable[str]:
    many = len(report.runs) > 1
    for name, run in report.runs.items():
        prefix = f"{escape(name)}: " if many else ""
        for verdict in run.verdicts:
            word = "[green]met[/green]" if verdict.met else "[red]MISSED[/red]"
            found = spell(verdict.objective.metric, verdict.value)
            yield f"{word} {prefix}{escape(verdict.objective.text)} ({found})"
    if report.interrupted:
        elapsed = [run.elapsed for run in report.runs.values() if run.interrupted]
        yield f"[red]stopped[/red] after {elapsed[-1]:,.1f} s of the drill: figures up to there"
