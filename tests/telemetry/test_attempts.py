"""Members of pools, and answers that say of themselves that the call failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from resilient import Pipeline, Policy, _observe
from resilient._core.verdict import FailedAnswer
from resilient.telemetry._names import type_of

from .conftest import Metrics, Spans
from .subjects import failing, retry


class Pool(Policy):
    """Tries its members in order, each as an attempt of its own, until one answers."""

    kind = "pool"
    repeats = True
    reports: int = 1

    def wrap(self, inner: Any) -> Any:
        def pool(args: Any, kwargs: Any, call: Any) -> Any:
            for number, member in enumerate(("primary", "replica"), 1):
                attempt = call.attempt(number, call.kind if number == 1 else "failover")
                attempt.member = member
                _observe.observer.begin_attempt(self, attempt)
                error: Exception | None = None
                try:
                    return inner(args, kwargs, attempt)
                except ConnectionError as caught:
                    error = caught
                finally:
                    outcome = "success" if error is None else "failure"
                    for _ in range(self.reports):
                        _observe.observer.end_attempt(self, attempt, outcome, error)
            raise ConnectionError

        return pool


def test_each_member_tried_has_a_span(spans: Spans) -> None:
    """A span per member tried, within the call's, names the pool and the member."""
    Pipeline(Pool("db"), name="p")(failing(1))()
    first, second = spans.all("resilient.attempt p")
    call = spans.one("resilient.call p")
    for span, member, kind in ((first, "primary", "initial"), (second, "replica", "failover")):
        attributes = span.attributes or {}
        assert span.parent is not None
        assert span.parent.span_id == call.context.span_id
        assert attributes["resilient.pool.name"] == "db"
        assert attributes["resilient.pool.member.name"] == member
        assert attributes["resilient.attempt.kind"] == kind
    assert first.status.is_unset is False
    assert second.status.is_unset


def test_members_within_attempts_count_once(spans: Spans, metrics: Metrics) -> None:
    """Of an attempt that tries members, the members are counted, and the attempt is not."""
    Pipeline(retry(), Pool("db"), name="p")(failing(2))()
    assert spans.names() == [
        "resilient.call p",
        "resilient.attempt p",  # two members
        "resilient.attempt p",
        "resilient.attempt p",  # the second attempt, and in it the first member
        "resilient.attempt p",
    ]
    assert metrics.value("resilient.attempts") == 3
    assert metrics.value("resilient.attempts", attempt_kind="retry", outcome="success") == 1


def test_an_attempt_ends_once(
    spans: Spans, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first report of an attempt's end counts."""
    monkeypatch.setattr(Pool, "reports", 2)
    Pipeline(Pool("db"), name="p")(failing(0))()
    assert len(spans.all("resilient.attempt p")) == 1
    assert metrics.value("resilient.attempts") == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FailedAnswer("no", 503), "503"),
        (FailedAnswer("no", SimpleNamespace(status_code=429)), "429"),
        (FailedAnswer("no", SimpleNamespace(status=500)), "500"),
        (FailedAnswer("no", object()), "_OTHER"),
        (FailedAnswer("no", 200, error=ConnectionError()), "ConnectionError"),
    ],
)
def test_an_answer_goes_by_its_status(answer: FailedAnswer, expected: str) -> None:
    """Where it is an answer that failed, the error's type is its status."""
    assert type_of(answer) == expected
