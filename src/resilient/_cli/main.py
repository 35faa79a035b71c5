"""The commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from resilient._cli.drill_command import drill


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
    console = Console()
    with _until_interrupted(console):
        from resilient._cli.demo import run

        run(console, seconds=seconds, rate=rate, port=port, seed=seed)


@demo.command()
@click.option("--seconds", type=click.FloatRange(3, 120), default=9, show_default=True,
              help="How long to call the two servers of which one is killed.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(1, 200), default=100, show_default=True,
              help="Calls per second and client there.")  # fmt: skip
@click.option("--calls", type=click.IntRange(20, 10_000), default=400, show_default=True,
              help="Calls to the ten servers of which one stalls, in each way.")  # fmt: skip
def failover(seconds: float, rate: float, calls: int) -> None:
    """A primary that is killed and comes back, and a slow server among ten."""
    console = Console()
    with _until_interrupted(console):
        from resilient._cli.failover import run

        run(console, seconds=seconds, rate=rate, calls=calls)


@contextmanager
def _until_interrupted(console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped")
        click.get_current_context().exit(130)


cli.add_command(drill)
