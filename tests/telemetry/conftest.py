"""An SDK of its own for each test, in place of the process's providers, which are set once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilient import telemetry
from resilient.telemetry import _instruments, _settings


class Spans:
    """The spans that have ended, and a tracer to make more."""

    def __init__(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        self.tracer = provider.get_tracer("test")
        self._exporter = exporter

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    def names(self) -> list[str]:
        """The names, in the order in which the spans started."""
        return [span.name for span in sorted(self, key=lambda span: span.start_time)]

    def one(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self if span.name == name)
        return found

    def all(self, name: str) -> list[ReadableSpan]:
        return sorted((s for s in self if s.name == name), key=lambda span: span.start_time)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The attributes of the events called `name`, over all spans."""
        return [dict(e.attributes or {}) for s in self for e in s.events if e.name == name]


class Metrics:
    """What the instruments show."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def points(self, name: str, **having: object) -> list[Any]:
        """The data points of a metric whose attributes hold `having` (`_` for `.`)."""
        data = self._reader.get_metrics_data()
        found = [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]
        return [p for p in found if having.items() <= _short(p.attributes).items()]

    def value(self, name: str, **having: object) -> Any:
        """The sum of a counter's points, `None` if there are none."""
        found = self.points(name, **having)
        return sum(point.value for point in found) if found else None

    def unit(self, name: str) -> str:
        data = self._reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return next(metric.unit for metric in metrics if metric.name == name) or ""


def _short(attributes: Any) -> dict[str, object]:
    return {key.removeprefix("resilient.").replace(".", "_"): v for key, v in attributes.items()}


@pytest.fixture(autouse=True)
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts with nobody listening, and with what is configured by default."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(_settings, "_listening", False)
    monkeypatch.setattr(_settings, "metering", False)
    yield
    telemetry.configure()


@pytest.fixture(autouse=True)
def nothing_attached() -> Iterator[None]:
    """No test leaves a context attached."""
    before = otel.get_current()
    yield
    assert otel.get_current() is before


@pytest.fixture(autouse=True)
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """OpenTelemetry logs a failed detach, or an event on an ended span: there is to be none."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [r.getMessage() for r in caplog.get_records("call")] == []


@pytest.fixture
def trace_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Spans]:
    """Set a tracer provider, with what is given to it, and return the spans it will hold."""

    def set_up(**options: Any) -> Spans:
        provider, exporter = TracerProvider(**options), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        return Spans(provider, exporter)

    return set_up


@pytest.fixture
def spans(trace_with: Callable[..., Spans]) -> Spans:
    return trace_with()


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    made = _instruments.Instruments(provider.get_meter("resilient"))
    monkeypatch.setattr(_instruments, "instruments", made)
    yield Metrics(reader)
    provider.shutdown()
