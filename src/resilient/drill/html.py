"""The report of a drill as one page that needs nothing else: no scripts, no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, Final

from resilient.drill.objectives import METRICS, spell
from resilient.drill.plots import STYLE, THEME, Lines, States

# Rows of states that are drawn, lines of backends, and events that are listed.
_MOST_LANES: Final = 24
_MOST_LINES: Final = 8

_PAGE: Final = """\
* { box-sizing: border-box }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 940px; padding: 24px 20px 60px }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 19px; margin: 36px 0 8px }
p { margin: 6px 0 } .soft { color: var(--soft) }
.verdict { border-radius: 6px; display: inline-block; padding: 2px 10px; font-weight: 600 }
.verdict.good { background: var(--good) } .verdict.bad { background: var(--bad) }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: 10px 0 }
th, td { border-bottom: 1px solid var(--edge); padding: 4px 12px; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
svg { display: block; height: auto; margin: 6px 0; max-width: 100% }
summary { cursor: pointer; margin-top: 8px }"""


def page(report: dict[str, Any]) -> str:
    """Return the page for a report, as `Report.as_dict()` gives it."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>drill: {escape(report['drill'])}</title>",
        f"<style>{THEME}\n{STYLE}\n{_PAGE}</style></head><body>",
        *_head(report),
        *_objectives(report["runs"]),
        *_figures(report["runs"]),
        *_published(report),
        *_together(report["runs"]),
    ]
    for name, run in report["runs"].items():
        parts += _run(name, run)
    return "\n".join([*parts, "</body></html>", ""])


def _head(report: dict[str, Any]) -> Iterator[str]:
    word, tone = ("passed", "good") if report["passed"] else ("failed", "bad")
    if report["interrupted"]:
        word, tone = "stopped before its end", "bad"
    yield f"<h1>{escape(report['drill'])}</h1>"
    if report["title"]:
        yield f"<p>{escape(report['title'])}</p>"
    yield f'<p><span class="verdict {tone}">{word}</span></p>'
    seeds = dict.fromkeys(run["seed"] for run in report["runs"].values())
    yield f'<p class="soft">seed {", ".join(map(str, seeds))}; shaded: something was broken</p>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], words: int = 1) -> Iterator[str]:
    """A table whose first `words` columns are text, and the others numbers."""

    def row(cells: Iterable[str], tag: str) -> str:
        found = (
            f"<{tag}{' class=n' if index >= words else ''}>{escape(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        )
        return f"<tr>{''.join(found)}</tr>"

    body = [row(cells, "td") for cells in rows]
    if body:
        yield '<div class="wide"><table>'
        yield row(head, "th")
        yield from body
        yield "</table></div>"


def _objectives(runs: dict[str, Any]) -> Iterator[str]:
    rows = [
        (name, one["objective"], _spelled(one), "met" if one["met"] else "missed")
        for name, run in runs.items()
        for one in run["objectives"]
    ]
    if rows:
        yield "<h2>Objectives</h2>"
    yield from _table(("run", "objective", "found", ""), rows, 2)


def _spelled(one: dict[str, Any]) -> str:
    metric = one["objective"].replace("<", " ").replace(">", " ").replace("=", " ").split()[0]
    return spell(metric, _value(metric, one["value"]))


def _value(metric: str, value: float | None) -> float | None:
    # JSON has no infinity: nothing failed.
    return float("inf") if metric == "nines" and value is None else value


def _figures(runs: dict[str, Any]) -> Iterator[str]:
    rows = []
    for metric, (text, _) in METRICS.items():
        values = [run["metrics"][metric] for run in runs.values()]
        if metric == "nines" or any(value is not None for value in values):
            rows.append((metric, text, *(spell(metric, _value(metric, one)) for one in values)))
    yield "<h2>Figures</h2>"
    yield from _table(("figure", "", *runs), rows, 2)


def _published(report: dict[str, Any]) -> Iterator[str]:
    rows = []
    for one in report["published"]:
        there = one["text"] or spell(one["metric"], one["published"])
        rows.append((one["run"], one["metric"], there, spell(one["metric"], one["here"])))
    if rows:
        yield f"<h2>Published</h2><p>{escape(report['source'])}</p>"
    yield from _table(("run", "figure", "published", "here"), rows, 2)


def _together(runs: dict[str, Any]) -> Iterator[str]:
    """All runs in one plot, when there are several."""
    if len(runs) < 2:
        return
    seconds = max(run["seconds"] for run in runs.values())
    if any(run["seconds"] != seconds for run in runs.values()):
        return
    yield "<h2>Side by side</h2>"
    for title, key, unit, log in (("goodput", "goodput", "/s", False), ("p99", "p99", " s", True)):
        lines = {name: run["series"][key] for name, run in runs.items()}
        yield Lines(title, seconds, lines, unit, log, _bands(next(iter(runs.values())))).svg()


def _bands(run: dict[str, Any]) -> list[tuple[float, float]]:
    return [(one["at"], min(one["end"], run["seconds"])) for one in run["faults"]]


def _run(name: str, run: dict[str, Any]) -> Iterator[str]:
    seconds, series, bands = run["seconds"], run["series"], _bands(run)
    yield f"<h2>{escape(name)}</h2>"
    calls = {one: series[one] for one in ("load", "goodput", "failures")}
    yield Lines("calls", seconds, calls, bands=bands).svg()
    latency = {one: series[one] for one in ("p50", "p99")}
    yield Lines("latency", seconds, latency, " s", log=True, bands=bands).svg()
    requests = dict(list(run["requests"].items())[:_MOST_LINES])
    yield Lines("requests", seconds, requests, bands=bands).svg()
    lanes = dict(list(run["states"].items())[:_MOST_LANES])
    if lanes:
        yield States("states", seconds, lanes, bands).svg()
    left = len(run["states"]) - len(lanes)
    if left:
        yield f'<p class="soft">and {left} more breakers and members, which are in the JSON</p>'
    yield from _backends(run)
    yield from _faults(run)
    yield from _events(run)


def _backends(run: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            one["name"],
            f"{one['requests']:,}",
            f"{one['share']:.1%}",
            f"{one['failures']:,}",
            spell("utilisation", one["utilisation"]),
            f"{one['running']:.0%}",
        )
        for one in run["backends"]
    ]
    yield from _table(("backend", "requests", "share", "failures", "utilisation", "running"), rows)


def _faults(run: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            f"{one['kind']} of {', '.join(one['backends'])}",
            f"{one['at']:g} to {one['end']:g} s",
            *(_after(one[what]) for what in ("failover", "failback", "recovery")),
        )
        for one in run["faults"]
    ]
    head = ("fault", "when", "failed over after", "failed back after", "recovered after")
    yield from _table(head, rows)


def _after(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g} s"


def _events(run: dict[str, Any]) -> Iterator[str]:
    rows = [(one["policy"], one["event"], f"{one['count']:,}") for one in run["events"]]
    rows += [("calls", f"failed with {name}", f"{n:,}") for name, n in run["failures"].items()]
    if rows:
        yield "<details><summary>what the policies did</summary>"
        yield from _table(("policy", "event", "times"), rows, 2)
        yield "</details>"
