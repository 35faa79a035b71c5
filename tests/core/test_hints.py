"""The wait that a server asks for, in every form it comes in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.message import Message
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._core import clock, hints

NOW = datetime(2024, 2, 28, 23, 59, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def wall(monkeypatch):
    monkeypatch.setattr(clock, "wall", NOW.timestamp)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("120", 120),
        (" 7\t", 7),
        (b"15", 15),
        ("9" * 30, 1e30),
        (2, 2),
        (1.5, 1.5),
        (timedelta(minutes=1), 60),
        ("Thu, 29 Feb 2024 00:00:00 GMT", 30),
        ("Thursday, 29-Feb-24 00:00:00 GMT", 30),
        ("Thu Feb 29 00:00:00 2024", 30),
        ("Fri Mar  1 00:00:00 2024", 86430),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 0),
        ("Wed, 28 Feb 2024 00:00:00 GMT", 0),
    ],
)
def test_well_formed(value, expected):
    """Seconds, and the three dates of HTTP; one in the past asks for no wait."""
    assert hints.parse(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value",
    [
        "-1", "+1", "1.0", "1e3", "0x10", "²", "١", "1 2", "", " ", "soon", "nan", "inf",
        "Thu, 29 Feb 2024 00:00:00", "Thu, 29 Feb 2024 00:00:00 UTC",
        "Thu, 29 Feb 2024 00:00:00 +0000", "thu, 29 feb 2024 00:00:00 gmt",
        "Thu, 30 Feb 2024 00:00:00 GMT", "Thu, 29 Feb 2024 24:00:00 GMT",
        "Thu, 29 Feb 0000 00:00:00 GMT", "2024-02-29T00:00:00Z", "Thu, 2² Feb 2024 00:00:00 GMT",
        -1, -0.5, float("nan"), float("inf"), 10**400, True, None, object(), [5],
        timedelta(seconds=-1),
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_is_ignored(value):
    """A wrong wait is worse than the backoff."""
    assert hints.parse(value) is None


@given(st.one_of(st.text(), st.binary(), st.floats(), st.integers(), st.none()))
def test_no_value_is_an_error(value):
    """Whatever a server sends gives a wait of 0 or more, or none."""
    found = hints.parse(value)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("year", "full"),
    [("24", 2024), ("74", 2074), ("75", 1975), ("99", 1999), ("00", 2000), ("30", 2030)],
)
def test_two_digit_years_are_at_most_fifty_years_ahead(year, full):
    """A year that seems further ahead is the last one that ended so."""
    expected = datetime(full, 6, 1, tzinfo=UTC) - NOW
    found = hints.parse(f"Sunday, 01-Jun-{year} 00:00:00 GMT")
    assert found == pytest.approx(max(0.0, expected.total_seconds()))


def test_two_digit_years_cross_the_century(monkeypatch):
    """In 2099 the year 00 is next year."""
    monkeypatch.setattr(clock, "wall", datetime(2099, 12, 31, tzinfo=UTC).timestamp)
    assert hints.parse("Friday, 01-Jan-00 00:00:00 GMT") == 86400


def error(**attributes):
    found = OSError("x")
    found.__dict__.update(attributes)
    return found


def response(headers):
    return SimpleNamespace(headers=headers)


def test_an_error_tells_by_attribute_or_by_the_headers_of_its_response():
    """The attribute comes first, unless it is malformed."""
    headers = response({"Retry-After": "9"})
    assert hints.of(error(retry_after=3, response=headers)) == 3
    assert hints.of(error(retry_after=-3, response=headers)) == 9
    assert hints.of(error(response=headers)) == 9
    assert hints.of(error()) is None


def test_header_names_are_compared_without_case():
    """A plain dict does not know that, nor that raw headers are bytes."""
    message = Message()
    message["RETRY-AFTER"] = "4"
    assert hints.of(error(response=response(message))) == 4
    assert hints.of(error(response=response({"retry-after": "5"}))) == 5
    assert hints.of(error(response=response({b"Retry-after": b"6"}))) == 6
    assert hints.of(error(response=response({"Retry-After": "no"}))) is None
    assert hints.of(error(response=response({1: "2", "X": "3"}))) is None


@pytest.mark.parametrize("headers", [None, [("Retry-After", "1")], 5, object()])
def test_headers_of_an_unknown_shape_are_ignored(headers):
    """They are no reason to hide the error."""
    assert hints.of(error(response=response(headers))) is None
