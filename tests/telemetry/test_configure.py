"""`configure`, and what happens as providers come and go."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap

import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from resilient import CircuitBreaker, Pipeline, telemetry
from resilient.telemetry import _settings

from .conftest import Metrics, Spans
from .subjects import Mode, failing, modes, retry


@modes
def test_it_takes_effect_at_once_on_what_was_decorated_before(spans: Spans, mode: Mode) -> None:
    """Each mode holds from the next call on, for functions decorated under another."""
    protected = mode.protect(Pipeline(retry(), name="p"), failing(5))
    found = {}
    for chosen in ("off", "events", "auto", "attempts"):
        telemetry.configure(spans=chosen)
        before = len(spans.names())
        with spans.tracer.start_as_current_span("caller"):
            protected() if chosen == "attempts" else _fails_once(protected)
        found[chosen] = spans.names()[before:]
        found[chosen + " events"] = spans.all("caller")[-1].events
    assert found["off"] == found["events"] == ["caller"]
    assert found["off events"] == ()


def _fails_once(protected: object) -> None:
    """Three attempts are made of the five that fail; what is raised is not the matter."""
    assert callable(protected)
    with contextlib.suppress(ConnectionError):
        protected()


def test_off_makes_neither_spans_nor_events(spans: Spans) -> None:
    """With `off`, nothing is added to the current span."""
    telemetry.configure(spans="off")
    with spans.tracer.start_as_current_span("caller"):
        retry()(failing(1))()
    assert spans.names() == ["caller"]
    assert spans.one("caller").events == ()


def test_events_go_to_the_current_span(spans: Spans) -> None:
    """With `events`, there is no span of ours, and the current one gets the events."""
    telemetry.configure(spans="events")
    with spans.tracer.start_as_current_span("caller"):
        retry()(failing(1))()
        for attempt in retry():
            with attempt:
                pass
    assert spans.names() == ["caller"]
    assert [e.name for e in spans.one("caller").events] == ["resilient.retry.scheduled"]


def test_metrics_can_be_switched_off(metrics: Metrics) -> None:
    """Without metrics nothing is recorded, and nothing observed, until they are wanted again."""
    protected = Pipeline(CircuitBreaker(), name="switched")(failing(0))
    telemetry.configure(metrics=False)
    protected()
    name = "resilient.circuit_breaker.state"
    assert metrics.points("resilient.call.duration") == []
    assert metrics.points(name, policy_name="switched.circuit_breaker") == []
    telemetry.configure()
    protected()
    assert metrics.points("resilient.call.duration")[0].count == 1
    assert metrics.points(name, policy_name="switched.circuit_breaker")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"spans": "on"}, ValueError),
        ({"spans": True}, TypeError),
        ({"metrics": "yes"}, TypeError),
    ],
)
def test_wrong_values_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    """A mode that does not exist is refused, and nothing is changed."""
    with pytest.raises(error):
        telemetry.configure(**options)  # type: ignore[arg-type]


def run(code: str, **environment: str) -> str:
    """Run `code` in an interpreter of its own, where providers can be set for good."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PRELUDE + textwrap.dedent(code)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


_PRELUDE = textwrap.dedent("""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provided = None

    def set_providers():
        global provided
        provided = TracerProvider()
        provided.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provided)
        metrics.set_meter_provider(MeterProvider([reader]))

    def show():
        print([span.name for span in exporter.get_finished_spans()])
        if trace.get_tracer_provider() is not provided:
            return
        data = reader.get_metrics_data()
        for metric in data.resource_metrics[0].scope_metrics[0].metrics if data else ():
            if metric.name == "resilient.call.duration":
                print([point.count for point in metric.data.data_points])
""")
_DECORATE = """
import resilient.telemetry
from resilient import Pipeline, Retry
fetch = Pipeline(Retry(on=OSError), name="p")(lambda: None)
"""


def test_it_starts_when_providers_are_set_later() -> None:
    """A function decorated, and called, before the providers were set is told of after."""
    out = run(_DECORATE + "fetch(); set_providers(); fetch(); show()")
    assert out == "['resilient.call p']\n[1]\n"


def test_it_starts_when_providers_were_set_before() -> None:
    """Providers that were there before the import are used from the start."""
    out = run("set_providers()\n" + _DECORATE + "fetch(); fetch(); show()")
    assert out == "['resilient.call p', 'resilient.call p']\n[2]\n"


def test_a_provider_named_by_the_environment_is_used() -> None:
    """A tracer provider that the environment names is loaded, and gets the spans."""
    code = _DECORATE + textwrap.dedent("""
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
        fetch(); show()
    """)
    assert run(code, OTEL_PYTHON_TRACER_PROVIDER="sdk_tracer_provider") == "['resilient.call p']\n"


def test_a_provider_set_in_the_middle_of_a_call_waits_for_the_next() -> None:
    """It is decided at the start: a call that began without a span gets no attempt spans."""
    code = """
        import resilient.telemetry
        from resilient import Pipeline, Retry
        @Pipeline(Retry(on=OSError, backoff=[0]), name="p")
        def fetch():
            if not exporter_set:
                exporter_set.append(set_providers())
                raise OSError
        exporter_set = []
        fetch(); show(); fetch(); show()
    """
    assert run(code) == "[]\n['resilient.call p']\n[1]\n"


def test_the_private_name_is_still_there() -> None:
    """The look that makes telemetry nearly free rests on this name: find out when it goes."""
    assert hasattr(trace, "_TRACER_PROVIDER"), "see _settings.provider(): spans cost more now"


def test_without_the_private_name_the_documented_gate_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the name goes, `start_span` is asked instead."""
    monkeypatch.delattr(trace, "_TRACER_PROVIDER")
    given = TracerProvider().get_tracer("t")
    monkeypatch.setattr(_settings, "_tracer", (trace, given))
    assert _settings.tracer() is given
    seen = []
    retry()(lambda: seen.append(trace.get_current_span().is_recording()))()
    assert seen == [True]


def test_nothing_is_touched_when_nobody_listens() -> None:
    """Without providers the protected function runs in the caller's very context."""
    seen = []
    retry()(lambda: seen.append(otel.get_current()))()
    assert seen[0] is otel.get_current()
