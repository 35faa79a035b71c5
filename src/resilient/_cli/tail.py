"""`python -m resilient demo failover`, second half: one server of ten stalls."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from resilient import ActiveActive, CallTimeoutError, Hedge, Pipeline, RejectedError, RetryBudget
from resilient._cli.servers import ServerProcess

SERVERS: Final = 10
# Seconds that an answer of the stalling one takes, and those of the others.
STALL: Final = 0.5
SERVICE: Final = 0.005
HEDGE_AFTER: Final = 0.1
CALLERS: Final = 8


def show(console: Console, *, calls: int) -> None:
    """Make the calls in four ways, and show how long they took."""
    console.print(
        f"\nTen servers on loopback, of which one takes {STALL:g} s to answer. {CALLERS} callers "
        f"make {calls} calls in each of four ways; a hedge follows after {HEDGE_AFTER:g} s.\n",
        soft_wrap=True,
    )
    arguments = [f"server-{number}:{SERVICE if number else STALL}:0" for number in range(SERVERS)]
    process = ServerProcess("resilient._cli.backends", *arguments)
    limits = httpx.Limits(max_connections=200)
    with process, httpx.Client(timeout=5, limits=limits) as client:
        sent: list[str] = []

        def get(url: str) -> str:
            sent.append(url)
            return client.get(url).text

        urls = {str(port): f"http://127.0.0.1:{port}/" for port in process.ports}
        columns = TextColumn("{task.description:28}"), BarColumn()
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            rows = []
            for name, call in _ways(urls, get).items():
                task = progress.add_task(name, total=calls)
                sent.clear()
                took = _timed(call, calls, functools.partial(progress.advance, task))
                rows.append((name, took, len(sent) / calls))
    console.print(_table(rows))


def _ways(urls: dict[str, str], get: Callable[[str], str]) -> dict[str, Callable[[], str]]:
    in_turn = ActiveActive("in-turn", urls, on=httpx.TransportError, balance="round_robin")
    by_load = ActiveActive("by-load", urls, on=httpx.TransportError)
    return {
        "in turn": in_turn(get),
        "in turn, hedged": Pipeline(_hedge(), in_turn)(get),
        "by latency and load": by_load(get),
        "by latency and load, hedged": Pipeline(_hedge(), by_load)(get),
    }


def _hedge() -> Hedge:
    return Hedge(HEDGE_AFTER, budget=RetryBudget(ratio=0.2), sync="thread")


def _timed(call: Callable[[], str], calls: int, done: Callable[[], None]) -> list[float]:
    """Make the calls by several threads; milliseconds for each that was answered."""
    took: list[float] = []

    def one() -> None:
        started = time.monotonic()
        try:
            call()
        except (httpx.TransportError, RejectedError, CallTimeoutError):
            return
        took.append((time.monotonic() - started) * 1000)
        done()

    pool = ThreadPoolExecutor(CALLERS)
    try:
        for future in [pool.submit(one) for _ in range(calls)]:
            future.result()
    finally:
        # Also on Ctrl-C: those under way end, and no further one is made.
        pool.shutdown(cancel_futures=True)
    return took


def _table(rows: list[tuple[str, list[float], float]]) -> Table:
    table = Table("", "p50", "p95", "p99", "requests per call", title="One of ten servers stalls")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, took, requests in rows:
        percents = statistics.quantiles(took, n=100, method="inclusive")
        shown = (f"{percents[percent - 1]:.0f} ms" for percent in (50, 95, 99))
        table.add_row(name, *shown, f"{requests:.2f}")
    return table
