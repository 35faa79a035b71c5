"""The wait that a server asks for: `Retry-After`, RFC 9110 section 10.2.3.

A malformed value is ignored, since a wrong wait is worse than the backoff.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from resilient._core import clock

_DIGITS = re.compile(r"[0-9]+")
# The three dates of RFC 9110 section 5.6.7: IMF-fixdate, RFC 850, asctime.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = "Mon|Tues|Wednes|Thurs|Fri|Satur|Sun"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_DATES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"(?:{_DAYS})day, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)


def parse(value: object) -> float | None:
    """Return the seconds that a `Retry-After` header or attribute asks for, or `None`."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if 0 <= value <= sys.float_info.max else None
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
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return max(0.0, then.timestamp() - clock.wall())


def _full_year(year: int) -> int:
    """RFC 9110: a two-digit year over 50 years ahead is the last one that ends so."""
    this = datetime.fromtimestamp(clock.wall(), UTC).year
    # The one year that ends so among the 50 ahead and the 49 behind.
    return this + 50 - (this + 50 - year) % 100


def of(error: BaseException) -> float | None:
    """Return the seconds that `error` asks to wait, by attribute or by its response."""
    asked = getattr(error, "retry_after", None)
    hint = None if asked is None else parse(asked)
    if hint is not None:
        return hint
    response = getattr(error, "response", None)
    return None if response is None else _in_headers(getattr(response, "headers", None))


def _in_headers(headers: Any) -> float | None:
    if not callable(getattr(headers, "get", None)):
        return None
    hint = parse(headers.get("Retry-After"))
    if hint is not None or not isinstance(headers, Mapping):
        return hint
    # A plain mapping compares the letters' case, which HTTP does not.
    for name, value in headers.items():
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if isinstance(name, str) and name.lower() == "retry-after":
            return parse(value)
    return None
