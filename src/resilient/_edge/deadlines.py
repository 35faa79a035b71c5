"""The time that a caller says it will wait, read from a request header.

Whoever sends a request can write anything there, so that it can only shorten what the
service would allow anyway, and never fails the request.
"""

from __future__ import annotations

import math
import re
from typing import Final

# Longer than this no caller waits; beyond it the header says nothing.
LONGEST: Final = 86_400.0

_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")


def parse(value: str) -> float | None:
    """Return the seconds that a header names, at most a day, or `None` if it names none."""
    text = value.strip(" \t")
    if not _SECONDS.fullmatch(text):
        return None
    seconds = float(text)
    return min(seconds, LONGEST) if seconds > 0 else None


def rounded(seconds: float) -> float:
    """Round up to hundredths, so that the requests of one caller share their timers."""
    return math.ceil(seconds * 100) / 100
