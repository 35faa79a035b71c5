"""The active member's process is killed under load: how long until the standby answers."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import resilient as r

from bench.harness import Bar, Row, Table
from examples.loopback.server import FAILURES, Server, Servers, get

CLIENTS = 4
PAUSE = 0.01
BEFORE, AFTER = 0.3, 0.7
ROUNDS = 5


class _Load:
    """Clients that call without end, and what they saw."""

    def __init__(self, pool: r.ActivePassive[Server]) -> None:
        self._call = pool(get)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        self.answers: list[tuple[float, str]] = []
        self.lost: list[Exception] = []

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            try:
                name = self._call()
            except (*FAILURES, r.RejectedError) as error:
                self.lost.append(error)
            else:
                self.answers.append((time.monotonic(), name))

    def __enter__(self) -> _Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _kill(servers: dict[str, Server], **options: Any) -> tuple[float, int]:
    """Seconds from the kill to the standby's first answer, and the calls lost."""
    pool = r.ActivePassive("bench", servers, on=FAILURES, **options)
    pool.start()
    try:
        with _Load(pool) as load:
            time.sleep(BEFORE)
            killed = time.monotonic()
            servers["primary"].kill()
            time.sleep(AFTER)
    finally:
        pool.stop()
    servers["primary"].start()
    servers["primary"].listens()
    return min(at for at, name in load.answers if name == "standby") - killed, len(load.lost)


def killed() -> Table:
    """Passive health alone and with checks, where calls go on to the standby or do not."""

    def checks() -> dict[str, Any]:
        check = r.HealthCheck(get, interval=0.05, fall=1, rise=1, jitter=0)
        return {"health_check": check}

    variants: dict[str, dict[str, Any]] = {
        "passive, calls go on to the standby": {},
        "with checks, calls go on to the standby": checks(),
        "passive, attempts=1": {"attempts": 1},
        "with checks, attempts=1": {"attempts": 1, **checks()},
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in variants}
    with Servers(Server("primary"), Server("standby")) as servers:
        for _ in range(ROUNDS):
            for name, options in variants.items():
                found[name].append(_kill(servers, **options))
    rows = [
        Row(
            name,
            statistics.median(took for took, _ in each) * 1e6,
            f"calls lost: {', '.join(str(lost) for _, lost in each)}",
        )
        for name, each in found.items()
    ]
    lost = sum(lost for name in list(variants)[:2] for _, lost in found[name])
    return Table(
        f"SIGKILL of the active member under {CLIENTS / PAUSE:.0f} calls/s at most: "
        "µs until the standby answers",
        rows,
        [Bar("calls lost where they go on", lost, 0)],
        column="µs",
    )
