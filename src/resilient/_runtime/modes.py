"""Switches that hold for the whole process, read through this module at each call."""

from __future__ import annotations

# Set by `resilient.testing`.
# All policies are out of the way: a decorated function is the function.
passthrough: bool = False
# Retries do not wait.
no_backoff: bool = False
# Nobody measures calls, and no spans are wanted around guards alone; telemetry keeps it.
unwatched: bool = False
