"""`python -m resilient demo failover`: a server that is killed, and one that stalls."""

from __future__ import annotations

import logging

from rich.console import Console

from resilient._cli import outage, tail


def run(console: Console, *, seconds: float, rate: float, calls: int) -> None:
    """Show both, one after the other."""
    # Each request is a line there, and each member's failure is meant.
    for name in ("httpx", "resilient"):
        logging.getLogger(name).setLevel(logging.ERROR)
    outage.show(console, seconds=seconds, rate=rate)
    tail.show(console, calls=calls)
