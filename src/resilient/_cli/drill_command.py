"""The command `drill`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("scenario", required=False)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a page with plots over time.")  # fmt: skip
@click.option("--json", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the report as JSON.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=None,
              help="Take this seed instead of the scenario's own.")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List the ready scenarios.")
@click.option("--compare", nargs=2, metavar="A B", help="Run two scenarios side by side.")
@click.pass_context
def drill(
    context: click.Context,
    scenario: str | None,
    html: Path | None,
    json: Path | None,
    seed: int | None,
    listing: bool,
    compare: tuple[str, str] | None,
) -> None:
    """Run policies against simulated backends, in virtual time.

    SCENARIO is a file of Python or TOML, or the name of a ready one. The exit status is 0 when
    all objectives are met, 1 when one is not, 2 when the scenario cannot be run, and 130
    after Ctrl-C, which still prints what there is.
    """
    from resilient._cli.drill import print_list, run_all

    if listing:
        print_list()
        return
    if (scenario is None) == (compare is None):
        raise click.UsageError("name one SCENARIO, or two after --compare; see drill --list")
    names = [scenario] if scenario is not None else list(compare or ())
    context.exit(run_all(names, html=html, json=json, seed=seed))
