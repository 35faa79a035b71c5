"""The wait that a server asks for: `Retry-After`, RFC 9110 section 10.2.3.

A malformed value is ignored, since a wrong wait is worse than the backoff.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from resilient._core import clock

_DIGITS = re.compile(r"[0-9]{1,15}")
# The three dates of RFC 9110 section 5.6.7: IMF-fixdate, RFC 850, asctime.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_DATES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, "
        rf"(?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)


def parse(value: object) -> float | None:
    """Return the seconds that a `Retry-After` header or attribute asks for, or `None`."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) and value >= 0 else None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    text = value.strip(" \t")
    if _DIGITS.fullmatch(text):
        return float(text)
    return _until(text)


def _until(text: str) -> float | None:
    found = next((match for date in _DATES if (match := date.fullmatch(text))), None)
    if found is None:
        return None
    part = found.groupdict()
    year = int(part["year"])
    if len(part["year"]) == 2:
        year = _full_year(year)
    try:
        # 60 is a leap second, which datetime does not know; the next second is near enough.
        then = datetime(
            year,
            _MONTHS.index(part["month"]) + 1,
            int(part["day"]),
            int(part["hour"]),
            int(part["minute"]),
            min(int(part["second"]), 59),
            tzinfo=timezone.utc,
        )
    except ValueError:
        return None
    return max(0.0, then.timestamp() - clock.wall())


def _full_year(year: int) -> int:
    """RFC 9110: a two-digit year over 50 years ahead is the last one that ends so."""
    this = datetime.fromtimestamp(clock.wall(), timezone.utc).year
    full = this - this % 100 + year
    return full - 100 if full > this + 50 else full


def of(error: BaseException) -> float | None:
    """Return the seconds that `error` asks to wait, by attribute or by its response."""
    hint = parse(getattr(error, "retry_after", None))
    if hint is not None:
        return hint
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping) and not hasattr(headers, "get"):
        return None
    for name in ("Retry-After", "retry-after"):
        hint = parse(headers.get(name))
        if hint is not None:
            return hint
    return None
