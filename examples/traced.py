"""The spans of one call that was retried. Needs the OpenTelemetry SDK."""

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilient import Pipeline, Retry, Timeout, attempt_number

orders = Pipeline(
    Timeout(5, sync="deadline"),
    Retry(on=ConnectionError, attempts=3, backoff=[0.01, 0.02]),
    name="orders",
)


@orders
def order(number: int) -> str:
    with trace.get_tracer("client").start_as_current_span("GET /order"):
        if attempt_number() < 3:
            raise ConnectionError("connection reset")
        return f"order {number}"


def show(span: ReadableSpan, spans: list[ReadableSpan], depth: int = 0) -> None:
    """Print a span, its events, and what is inside it."""
    indent = "   " * depth
    facts = {
        name.removeprefix("resilient."): value for name, value in (span.attributes or {}).items()
    }
    print(f"{indent}{span.name} [{span.status.status_code.name}] {facts}")
    for event in span.events:
        if event.name.startswith("resilient."):
            print(f"{indent}   event {event.name}")
    own = span.get_span_context()
    for child in spans:
        if child.parent is not None and own is not None and child.parent.span_id == own.span_id:
            show(child, spans, depth + 1)


def main() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # after the function was decorated: that is all right

    order(7)
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
    show(spans[0], spans)
    names = [span.name for span in spans]
    assert names.count("resilient.call orders") == 1
    assert names.count("resilient.attempt orders") == 2


if __name__ == "__main__":
    main()
