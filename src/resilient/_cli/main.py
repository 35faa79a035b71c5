"""The commands."""

from __future__ import annotations

import click
from rich.console import Console


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resilient-patterns")
def cli() -> None:
    """See resilience patterns at work."""


@cli.group(invoke_without_command=True)
@click.option("--seconds", type=click.FloatRange(1, 120), default=15, show_default=True,
              help="How long to drive the load.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(1, 200), default=25, show_default=True,
              help="Calls per second and client.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=0,
              help="The server's port on loopback; a free one by default.")  # fmt: skip
@click.option("--seed", type=int, default=7, show_default=True,
              help="The same seed gives the same faults.")  # fmt: skip
@click.pass_context
def demo(context: click.Context, seconds: float, rate: float, port: int, seed: int) -> None:
    """A faulty server, called by a bare client and through a pipeline, side by side."""
    if context.invoked_subcommand is not None:
        return
    from resilient._cli.demo import run

    console = Console()
    try:
        run(console, seconds=seconds, rate=rate, port=port, seed=seed)
    except KeyboardInterrupt:
        console.print("stopped")
        context.exit(130)
