"""`python -m resilient demo failover`, first half: a primary is killed, and comes back."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from resilient import ActivePassive, CircuitBreaker, HealthCheck, RejectedError
from resilient._cli.servers import ServerProcess

# Threads that call, for each of the two ways.
CALLERS: Final = 2
FAILBACK_AFTER: Final = 0.5


@dataclass
class Way:
    """One way of calling: what was answered when and by whom, and how many calls failed."""

    name: str
    answers: list[tuple[float, str]] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    def first(self, by: str, since: float, until: float) -> float | None:
        """When `by` first answered within a span of time."""
        return next((at for at, who in self.answers if who == by and since <= at < until), None)

    def run(self, call: Callable[[], str], pause: float, stop: threading.Event) -> None:
        """Call without end."""
        while not stop.wait(pause):
            try:
                name = call()
            except (httpx.TransportError, RejectedError) as error:
                self.failed.append(error)
            else:
                self.answers.append((time.monotonic(), name))


class Pair:
    """Two servers, each a process, which keep their ports."""

    def __init__(self) -> None:
        self._processes: dict[str, ServerProcess] = {}
        self.ports = {"primary": 0, "standby": 0}

    def start(self, name: str) -> None:
        """Start one, for the first time or again."""
        argument = f"{name}:0:{self.ports[name]}"
        process = self._processes[name] = ServerProcess("resilient._cli.backends", argument)
        process.start()
        (self.ports[name],) = process.ports

    def kill(self, name: str) -> None:
        """End one as a crash would."""
        self._processes[name].kill()

    def __enter__(self) -> dict[str, str]:
        try:
            for name in self.ports:
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return {name: f"http://127.0.0.1:{port}/" for name, port in self.ports.items()}

    def __exit__(self, *exc: object) -> None:
        for process in self._processes.values():
            process.stop()


@dataclass(frozen=True, slots=True)
class Times:
    """When what was done; in seconds of the monotonic clock."""

    killed: float
    restarted: float
    ended: float


def show(console: Console, *, seconds: float, rate: float) -> None:
    """Kill the primary after a third of the time, start it again after two, and tell."""
    console.print(
        "Two servers on loopback, each a process: the primary is killed (SIGKILL) and started "
        f"again later. Two clients call {rate:g} times a second each for {seconds:g} s: one the "
        "primary alone, the other an active-passive pool of both.\n",
        soft_wrap=True,
    )
    ways = Way("primary alone"), Way("active-passive")
    pair = Pair()
    with pair as urls, httpx.Client(timeout=5) as client:

        def get(url: str) -> str:
            return client.get(url).text

        pool = ActivePassive(
            "demo",
            urls,
            on=httpx.TransportError,
            breaker=lambda name: CircuitBreaker(name, consecutive_failures=5, open_for=0.5),
            health_check=HealthCheck(get, interval=0.1, timeout=5),
            failback_after=FAILBACK_AFTER,
        )
        calls = functools.partial(get, urls["primary"]), pool(get)
        with pool:
            times = _drive(console, ways, calls, CALLERS / rate, pair, seconds)
    console.print(_table(ways, times))


def _drive(
    console: Console,
    ways: tuple[Way, Way],
    calls: tuple[Callable[[], str], Callable[[], str]],
    pause: float,
    pair: Pair,
    seconds: float,
) -> Times:
    stop = threading.Event()
    threads = [
        threading.Thread(target=way.run, args=(call, pause, stop), daemon=True)
        for way, call in zip(ways, calls, strict=True)
        for _ in range(CALLERS)
    ]
    column = TextColumn("{task.description}")
    try:
        with Progress(column, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("both are up")
            for thread in threads:
                thread.start()
            time.sleep(seconds / 3)
            killed = time.monotonic()
            pair.kill("primary")
            progress.update(task, description="the primary is killed")
            time.sleep(seconds / 3)
            restarted = time.monotonic()
            pair.start("primary")
            progress.update(task, description="the primary is back")
            time.sleep(seconds / 3)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    return Times(killed, restarted, time.monotonic())


def _table(ways: tuple[Way, Way], times: Times) -> Table:
    table = Table("", *(way.name for way in ways), title="The primary is killed, and comes back")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("calls", *(str(len(way.answers) + len(way.failed)) for way in ways))
    table.add_row("failed calls", *(str(len(way.failed)) for way in ways))
    table.add_row("from the kill to the standby's answer", *(_over(way, times) for way in ways))
    table.add_row("from the restart to the primary's", *(_back(way, times) for way in ways))
    return table


def _over(way: Way, times: Times) -> str:
    at = way.first("standby", times.killed, times.restarted)
    return "never" if at is None else f"{(at - times.killed) * 1000:.0f} ms"


def _back(way: Way, times: Times) -> str:
    at = way.first("primary", times.restarted, times.ended)
    return "not in time" if at is None else f"{at - times.restarted:.2f} s"
