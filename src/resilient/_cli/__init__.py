"""The command line, on click, rich, httpx and the OpenTelemetry SDK; imported on use."""
