"""`python -m resilient demo`: one faulty server, four clients, one table."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.tree import Tree

from resilient._cli.faulty import Faults, FaultyServer
from resilient._cli.lanes import Ended, Lane, drive_async, drive_sync

# A client has recovered when so many of so many calls in a row were answered.
GOOD: Final = 8
ROW: Final = 10


def run(console: Console, *, seconds: float, rate: float, port: int, seed: int) -> None:
    """Drive the load and print what came of it."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    faults = replace(Faults(), outage_from=seconds * 0.4, outage_to=seconds * 0.6)
    console.print(
        f"A server on loopback answers {faults.unavailable:.0%} of its requests with 503, "
        f"stalls {faults.stalled:.0%}, cuts off {faults.cut_off:.0%}, and is down from "
        f"{faults.outage_from:g} s to {faults.outage_to:g} s. Four clients call it "
        f"{rate:g} times a second each for {seconds:g} s.\n",
        soft_wrap=True,
    )
    spans = _collect_spans()
    lanes = [
        Lane("bare-sync", protected=False),
        Lane("bare-async", protected=False),
        Lane("pipeline-sync", protected=True),
        Lane("pipeline-async", protected=True),
    ]
    with FaultyServer(faults, port=port, seed=seed) as server:
        server.start_clock()
        started = time.monotonic()
        _drive(console, lanes, server.url, started, seconds, rate)
        counts = server.counts()
    console.print(_table(lanes, counts, started + faults.outage_to))
    tree = _retried(spans.get_finished_spans())
    if tree is not None:
        console.print("\nThe spans of one retried call:")
        console.print(tree)


def _collect_spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def _drive(
    console: Console, lanes: list[Lane], url: str, started: float, seconds: float, rate: float
) -> None:
    """Run every client in a thread of its own, and show how far they are."""
    stop = threading.Event()
    total = int(seconds * rate)
    times = [started + number / rate for number in range(total)]
    threads = [
        threading.Thread(
            target=drive_async if lane.name.endswith("async") else drive_sync,
            args=(lane, url, times, stop),
            daemon=True,
        )
        for lane in lanes
    ]
    columns = (TextColumn("{task.description:15}"), BarColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            tasks = [progress.add_task(lane.name, total=total) for lane in lanes]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                for task, lane in zip(tasks, lanes, strict=True):
                    progress.update(task, completed=len(lane.ended))
                threads[0].join(0.1) if threads[0].is_alive() else time.sleep(0.1)
    finally:
        # Also on Ctrl-C: the clients make no further calls, and end those under way.
        stop.set()
        for thread in threads:
            thread.join(10)


def _table(lanes: list[Lane], counts: dict[str, int], outage_end: float) -> Table:
    table = Table("", *(lane.name for lane in lanes), title="What came of it")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, value in _rows(counts, outage_end).items():
        table.add_row(label, *(value(lane) for lane in lanes))
    return table


def _rows(counts: dict[str, int], outage_end: float) -> dict[str, Callable[[Lane], str]]:
    """The lines of the table: what they are called, and what they say of a client."""

    def percentile(percent: int) -> Callable[[Lane], str]:
        return lambda lane: _percentile([one.took for one in lane.ended if one.answered], percent)

    return {
        "calls": lambda lane: str(len(lane.ended)),
        "answered": lambda lane: f"{_share([one.answered for one in lane.ended]):.1%}",
        **{f"answered in, p{percent}": percentile(percent) for percent in (50, 95, 99)},
        "failed within": lambda lane: _longest(lane.ended),
        "requests per call": lambda lane: (
            f"{counts.get(lane.name, 0) / max(1, len(lane.ended)):.2f}"
        ),
        "refused by breaker": lambda lane: str(sum(one.refused for one in lane.ended)),
        "recovered after": lambda lane: _recovered(lane.ended, outage_end),
    }


def _share(found: list[bool]) -> float:
    return sum(found) / max(1, len(found))


def _percentile(took: list[float], percent: int) -> str:
    if len(took) < 2:
        return "-"
    value = statistics.quantiles(took, n=100, method="inclusive")[percent - 1]
    return f"{value * 1000:.0f} ms"


def _longest(ended: list[Ended]) -> str:
    took = [one.took for one in ended if not one.answered]
    return f"{max(took) * 1000:.0f} ms" if took else "-"


def _recovered(ended: list[Ended], outage_end: float) -> str:
    """When the outage was over for this client: not at a lucky answer in the midst of failures.

    From then on most of a row of calls were answered; not all, because the faults of other
    times go on.
    """
    after = sorted((one for one in ended if one.at >= outage_end), key=lambda one: one.at)
    for index, one in enumerate(after[: 1 - ROW]):
        if one.answered and sum(each.answered for each in after[index : index + ROW]) >= GOOD:
            return f"{one.at - outage_end:.2f} s"
    return "not seen"


def _retried(spans: Sequence[ReadableSpan]) -> Tree | None:
    """The tree of the first call that took a second attempt and succeeded."""
    for span in spans:
        attributes = span.attributes or {}
        attempts = attributes.get("resilient.call.attempts", 1)
        succeeded = attributes.get("resilient.outcome") == "success"
        if span.name.startswith("resilient.call ") and succeeded and attempts != 1:
            return _tree(span, spans)
    return None


def _tree(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> Tree:
    tree = Tree(_label(span))
    for event in span.events:
        tree.add(f"[dim]event[/dim] {event.name}")
    own = span.get_span_context()
    children = [one for one in spans if one.parent and own and one.parent.span_id == own.span_id]
    for child in sorted(children, key=lambda one: one.start_time or 0):
        tree.children.append(_tree(child, spans))
    return tree


def _label(span: ReadableSpan) -> str:
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    status = "[red]ERROR[/red]" if span.status.status_code is trace.StatusCode.ERROR else "ok"
    return f"{span.name}  {took:.0f} ms  {status}"
