"""`python -m bench [NAME ...]`: measure, and print the tables, in Markdown with `--markdown`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table as Rich

from bench import drills, failover, failures, outage, success, together, watching
from bench.harness import Table


def _sections() -> dict[str, Callable[[], Table | list[Table]]]:
    return {
        "sync": success.sync_pipeline,
        "async": success.async_pipeline,
        "one": success.one_policy,
        "failure": failures.one_failure,
        "refusal": failures.refusal,
        "threads": together.threads,
        "flight": together.in_flight,
        "telemetry": watching.no_sdk,
        "memory": watching.memory,
        "drill": drills.ten_minutes,
        "hedge": failover.hedge,
        "pools": failover.pools,
        "balances": failover.balances,
        "fan-out": failover.fan_out,
        "outage": outage.killed,
        "edges": _edges,
    }


def _edges() -> list[Table]:
    """The middlewares, where the server to measure them with is installed."""
    try:
        from bench import edges
    except ModuleNotFoundError as missing:
        print(f"edges: skipped, {missing.name} is not installed")
        return []
    return edges.tables()


def main(arguments: list[str]) -> int:
    """Run the sections named, or all; return 0 whatever the bars say."""
    markdown = "--markdown" in arguments
    names = [one for one in arguments if not one.startswith("-")]
    sections = _sections()
    unknown = set(names) - set(sections)
    if unknown:
        print(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(sections)}")
        return 2
    console = Console()
    for name in names or sections:
        found = sections[name]()
        for table in found if isinstance(found, list) else [found]:
            if markdown:
                print("\n".join(_markdown(table)))
            else:
                _print(console, table)
    return 0


def _print(console: Console, table: Table) -> None:
    rich = Rich("", table.column, "", title=table.title, title_justify="left")
    for row in table.rows:
        rich.add_row(row.label, f"{row.ns:,.0f}", row.note)
    console.print(rich)
    for bar in table.bars:
        verdict = "met" if bar.met else "MISSED"
        console.print(f"  {bar.text}: {bar.value:.3f}, bar {bar.limit:.3f}: {verdict}")


def _markdown(table: Table) -> Iterable[str]:
    yield f"\n**{table.title}**\n"
    yield f"| | {table.column} | |"
    yield "|---|---:|---:|"
    for row in table.rows:
        yield f"| {row.label} | {row.ns:,.0f} | {row.note} |"
    yield ""
    for bar in table.bars:
        verdict = "met" if bar.met else "missed"
        yield f"- {bar.text}: {bar.value:.3f} (bar {bar.limit:.3f}): {verdict}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
