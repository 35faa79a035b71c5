"""`python -m resilient`: the demo, and drills. Needs the `cli` extra."""

from __future__ import annotations

import sys

NEEDED = ("click", "httpx", "opentelemetry.sdk", "rich")


def main() -> int:
    """Run the command line; without the `cli` extra, say what to install."""
    try:
        from resilient._cli.main import cli
    except ModuleNotFoundError as error:
        if error.name is None or not any(error.name.startswith(name) for name in NEEDED):
            raise
        sys.stderr.write(
            f"python -m resilient needs {error.name}: pip install 'resilient-patterns[cli]'\n"
        )
        return 2
    return int(cli(prog_name="python -m resilient"))


if __name__ == "__main__":
    sys.exit(main())
