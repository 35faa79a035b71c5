"""What to say where a client's package is missing."""

from __future__ import annotations


def missing(package: str, error: ImportError) -> ImportError:
    """The error to raise in place of `error`, which importing `package` has raised."""
    if error.name != package:
        # It is there, and fails by itself.
        return error
    return ImportError(
        f"resilient.{package} needs {package}, which is not installed: "
        f"pip install 'resilient-patterns[{package}]'",
        name=package,
    )
