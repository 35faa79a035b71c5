"""Switches of `resilient.testing` that hold for the whole process."""

from __future__ import annotations

# All policies are out of the way: a decorated function is the function.
passthrough: bool = False
# Retries do not wait.
no_backoff: bool = False
